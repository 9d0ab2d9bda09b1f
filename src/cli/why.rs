//! `forge why`: why a step ran last, and whether a build would run it now.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::app::{App, AppArguments};
use super::failure::Failure;
use super::{Common, view};
use crate::engine::{Run, given, run_key};
use crate::event::Reason;
use crate::plan::{APP_FOLDER, Action, Plan, Step};
use crate::source::Snapshot;

#[derive(Clone, Debug, Args)]
pub(super) struct WhyArguments {
    /// The step, as `forge plan` names it
    #[arg(value_name = "STEP")]
    step: String,
    #[command(flatten)]
    app: AppArguments,
}

/// Reasons that a line of progress names.
const NAMED: usize = 2;

pub(super) fn why(common: &Common, arguments: &WhyArguments) -> Result<ExitCode, Failure> {
    let quiet = Common { json: false, progress: super::Progress::None, ..common.clone() };
    let text = view::watch(&quiet, |events| {
        let app = App::open(common, &arguments.app)?;
        let snapshot = app.snapshot()?;
        let plan = app.plan(&snapshot, &events)?.plan;
        let step = runnable(&plan, &arguments.step)?;
        let folder = app.root_name()?;
        let last = |step: &Step| -> Result<Option<Run>, Failure> {
            Ok(Run::noted(&app.store, &run_key(&folder, &step.name))?)
        };
        let Some(run) = last(step)? else {
            let what = format!("the app was not built with step `{}` on this machine", step.name);
            return Err(Failure::usage(what)
                .advise(format!("build it: `forge build {}`", app.folder.display())));
        };
        let mut now = Vec::new();
        for step in needed(&plan, step) {
            let Some(before) = last(step)? else { continue };
            let found = changes(&plan, step, &snapshot, &before)?;
            if !found.is_empty() {
                now.push((step.name.clone(), found));
            }
        }
        if common.json {
            let now: BTreeMap<&String, &Vec<Reason>> =
                now.iter().map(|(step, reasons)| (step, reasons)).collect();
            let document = serde_json::json!({
                "step": step.name,
                "reasons": run.reasons,
                "read": run.read,
                "now": now,
            });
            return Ok(format!("{document:#}\n"));
        }
        Ok(describe(step, &run, &now))
    })?;
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn runnable<'p>(plan: &'p Plan, name: &str) -> Result<&'p Step, Failure> {
    let runs = |step: &&Step| !matches!(step.action, Action::Source { .. } | Action::Files { .. });
    plan.step(name).filter(runs).ok_or_else(|| {
        let names: Vec<&str> =
            plan.steps.iter().filter(runs).map(|step| step.name.as_str()).collect();
        Failure::usage(format!("there is no step `{name}` that runs"))
            .advise(format!("these run: {}", names.join(", ")))
    })
}

/// A step and all that it needs, inputs first.
fn needed<'p>(plan: &'p Plan, step: &'p Step) -> Vec<&'p Step> {
    let mut names = vec![step.name.as_str()];
    let mut at = 0;
    while at < names.len() {
        let inputs = plan.step(names[at]).map(|step| &step.root);
        for input in inputs.into_iter().flatten() {
            if !names.contains(&input.as_str()) {
                names.push(input);
            }
        }
        at += 1;
    }
    plan.steps.iter().filter(|step| names.contains(&step.name.as_str())).collect()
}

fn changes(
    plan: &Plan,
    step: &Step,
    snapshot: &Snapshot,
    before: &Run,
) -> Result<Vec<Reason>, Failure> {
    let app = given(plan, step).map(|selection| snapshot.select(selection)).transpose()?;
    Ok(Run::of(plan, step, app.as_ref(), |_| None).reasons(before))
}

fn describe(step: &Step, run: &Run, now: &[(String, Vec<Reason>)]) -> String {
    // Writing to a String cannot fail.
    let mut text = String::new();
    let _written = if run.reasons.is_empty() {
        writeln!(text, "{} has not run for this folder here: its result was known", step.name)
    } else {
        writeln!(text, "{} ran last because", step.name)
    };
    for reason in &run.reasons {
        let _written = writeln!(text, "  {}", words(reason));
    }
    if let Some(read) = &run.read {
        let count = read.0.len();
        let _written = writeln!(
            text,
            "it reads {count} of the app's files; `forge plan --files={}` shows them",
            step.name
        );
    }
    let own = now.iter().find(|(name, _)| *name == step.name);
    match own {
        Some(_) => {
            let _written =
                writeln!(text, "a build now runs it, if its result is not known, because");
        }
        None if now.is_empty() => text.push_str("nothing that counts has changed since\n"),
        None => text.push_str("a build now runs it if what these give is not what it was\n"),
    }
    for (name, reasons) in now {
        for reason in reasons {
            let _written = if *name == step.name {
                writeln!(text, "  {}", words(reason))
            } else {
                writeln!(text, "  {name}: {}", words(reason))
            };
        }
    }
    text
}

/// Why a step runs, on one line; nothing for one that has not run before.
pub(super) fn summary(reasons: &[Reason]) -> String {
    if reasons == [Reason::First] {
        return String::new();
    }
    let named: Vec<String> = reasons.iter().take(NAMED).map(words).collect();
    let count = |reason: &Reason| if let Reason::MoreFiles { count } = reason { *count } else { 1 };
    let more = match reasons.iter().skip(NAMED).map(count).sum::<usize>() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!(": {}{more}", named.join(", "))
}

fn words(reason: &Reason) -> String {
    let shown = |path: &str| {
        path.strip_prefix(APP_FOLDER)
            .and_then(|path| path.strip_prefix('/'))
            .unwrap_or(path)
            .to_owned()
    };
    match reason {
        Reason::First => "it had not run before".to_owned(),
        Reason::Definition => "it is planned otherwise".to_owned(),
        Reason::Script { name } => format!("its script {name} is another"),
        Reason::Variable { name } => format!("the variable {name} is another"),
        Reason::Packages => "the versions of packages are others".to_owned(),
        Reason::Input { step } => format!("step {step} gave something else"),
        Reason::FileChanged { path } => format!("{} has changed", shown(path)),
        Reason::FileIs { path } => format!("{} is of another kind or mode", shown(path)),
        Reason::FileAdded { path } => format!("{} is new", shown(path)),
        Reason::FileRemoved { path } => format!("{} is gone", shown(path)),
        Reason::MoreFiles { count } => format!("{count} more files are not what they were"),
        Reason::Lost => "its result was not in the store any more".to_owned(),
        Reason::Checked => "it was to be checked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_few_reasons() {
        let file = |path: &str| Reason::FileChanged { path: format!("workspace/{path}") };
        assert_eq!(summary(&[Reason::First]), "");
        assert_eq!(summary(&[file("a.css")]), ": a.css has changed");
        assert_eq!(
            summary(&[file("a"), file("b"), file("c"), file("d")]),
            ": a has changed, b has changed, and 2 more"
        );
        let many = [file("a"), file("b"), file("c"), Reason::MoreFiles { count: 7 }];
        assert_eq!(summary(&many), ": a has changed, b has changed, and 8 more");
    }
}
