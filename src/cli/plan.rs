//! `forge plan`, `forge update`, `forge buildpack`: what would be done, and by
//! which rules.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::app::{App, AppArguments};
use super::failure::Failure;
use super::packages::Chooser;
use super::{Common, files, view};
use crate::buildpack::{Library, Planned};
use crate::engine::{Run, run_key};
use crate::event::FactShown;
use crate::lock::Lock;
use crate::plan::{Action, Step};

#[derive(Clone, Debug, Args)]
pub(super) struct PlanArguments {
    #[command(flatten)]
    app: AppArguments,
    /// Show the files that a step is given (`app`: those of the image), the rule that
    /// decided for each, and, with `r`, what its last run has read of them
    #[arg(long, value_name = "STEP", num_args = 0..=1, require_equals = true, default_missing_value = "app")]
    files: Option<String>,
    /// Show every fact
    #[arg(long)]
    facts: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct UpdateArguments {
    #[command(flatten)]
    app: AppArguments,
}

pub(super) fn plan(common: &Common, arguments: &PlanArguments) -> Result<ExitCode, Failure> {
    let quiet = Common { json: false, progress: super::Progress::None, ..common.clone() };
    let text = view::watch(&quiet, |events| {
        let app = App::open(common, &arguments.app).map_err(|failure| {
            let named = arguments.app.app.display();
            match &arguments.files {
                // `forge plan --files assets`: the word after it is the app's folder.
                Some(_) if !arguments.app.app.exists() => failure.advise(format!(
                    "or did you mean step `{named}`: `forge plan --files={named}`"
                )),
                _ => failure,
            }
        })?;
        let snapshot = app.snapshot()?;
        let planned = app.plan(&snapshot, &events)?;
        if let Some(step) = &arguments.files {
            let key = run_key(&app.root_name()?, step);
            let run = Run::noted(&app.store, &key)?;
            let read = run.and_then(|run| run.read);
            return files::text(&snapshot, &planned.plan, step, read.as_ref());
        }
        if common.json {
            let steps = serde_json::json!({
                "buildpack": planned.buildpack,
                "facts": planned.facts.iter().map(|(name, fact)| FactShown { name: name.to_owned(), value: fact.value.clone(), origin: fact.origin.clone() }).collect::<Vec<_>>(),
                "steps": planned.plan.steps,
                "layers": planned.plan.image.layers,
                "environment": planned.plan.image.environment,
                "processes": planned.plan.image.processes,
            });
            return Ok(format!("{steps:#}\n"));
        }
        Ok(describe(&planned, arguments.facts))
    })?;
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(planned: &Planned, all_facts: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _written = writeln!(text, "{} (buildpack {})", planned.about, planned.buildpack);
    let evidence: Vec<_> = if all_facts {
        planned
            .facts
            .iter()
            .map(|(name, fact)| (name.to_owned(), fact.value.clone(), fact.origin.clone()))
            .collect()
    } else {
        planned.evidence.clone()
    };
    for (name, value, origin) in evidence {
        let _written = writeln!(text, "  {name:<24} {}  ({origin})", value.replace('\n', " "));
    }
    text.push_str("\nsteps\n");
    for step in &planned.plan.steps {
        let _written = writeln!(text, "  {:<22} {}", step.name, step.about);
        if !step.root.is_empty() {
            let _written = writeln!(text, "  {:<22}   needs {}", "", step.root.join(", "));
        }
        if let Some(detail) = detail(step) {
            let _written = writeln!(text, "  {:<22}   {detail}", "");
        }
    }
    text.push_str("\nlayers, bottom to top\n");
    for layer in &planned.plan.image.layers {
        let split = if layer.units.is_empty() {
            String::new()
        } else {
            format!(" (by package, {} at most)", planned.plan.image.parts_each())
        };
        let _written = writeln!(text, "  {}{split}", layer.step);
    }
    text.push_str("\nprocesses\n");
    for (kind, process) in &planned.plan.image.processes {
        let _written = writeln!(text, "  {kind:<10} {}  ({})", process.command, process.origin);
        for (what, said) in process.preparation.lines() {
            let _written = writeln!(text, "  {:<10}   {what} {said}", "");
        }
    }
    text
}

fn detail(step: &Step) -> Option<String> {
    match &step.action {
        Action::Command { command, .. } => {
            let network = if step.network { ", network" } else { "" };
            let traced = if step.traced { ", again when what it reads changes" } else { "" };
            let pinned = if step.pinned { ", pinned in forge.lock" } else { "" };
            Some(format!("runs {}{network}{pinned}{traced}", command.join(" ")))
        }
        Action::Packages { release, names, linked, .. } => {
            let mut names = names.clone();
            if let Some(step) = linked {
                names.push(format!("(and what step `{step}` names)"));
            }
            let of = if release.is_empty() {
                "of the base".to_owned()
            } else {
                format!("Debian {release}")
            };
            Some(format!("{of}: {}", names.join(" ")))
        }
        Action::Image { reference, .. } => Some(format!("image {reference}")),
        Action::Libraries { .. } => Some("reads what programs link against".to_owned()),
        Action::Take { patterns } => Some(format!("takes {}", patterns.join(" "))),
        Action::Source { selection } => Some(format!("files {}", selection.rules.join(" "))),
        Action::Files { .. } => None,
    }
}

/// Solves anew and writes `forge.lock`; the next build uses it.
pub(super) fn update(common: &Common, arguments: &UpdateArguments) -> Result<ExitCode, Failure> {
    view::watch(common, |events| {
        let app = App::open(common, &arguments.app)?;
        let snapshot = app.snapshot()?;
        let mut planned = app.plan(&snapshot, &events)?;
        let mut lock = Lock::default();
        let base = app.find_base(&mut planned, &mut lock)?;
        Chooser::new(&app, &events, base.as_ref()).choose_all(&mut planned.plan, &mut lock)?;
        // Pins are chosen by steps that run.
        app.save_lock(&lock.text(), &events)?;
        events.notice(
            "wrote forge.lock with newer operating system packages",
            Some(format!("`forge build {}` chooses the rest and adds it", app.folder.display())),
        );
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list_buildpacks() -> Result<ExitCode, Failure> {
    let library = Library::new(&BTreeMap::new())?;
    let mut text = String::new();
    for buildpack in library.iter() {
        let _written = writeln!(
            text,
            "{:<10} {:<10} {}",
            buildpack.name, buildpack.about, buildpack.looks_for
        );
    }
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show_buildpack(name: &str) -> Result<ExitCode, Failure> {
    let library = Library::new(&BTreeMap::new())?;
    library.get(name)?;
    let text = library.text(&format!("{name}.toml")).unwrap_or_default();
    super::print(text)?;
    Ok(ExitCode::SUCCESS)
}
