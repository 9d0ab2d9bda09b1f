//! `forge plan --files`: every file and the rule that decided.

use std::fmt::Write as _;

use super::failure::Failure;
use crate::plan::{APP_FOLDER, Action, Plan};
use crate::source::Snapshot;

pub(super) fn text(snapshot: &Snapshot, plan: &Plan, step: &str) -> Result<String, Failure> {
    let source = plan
        .step(step)
        .filter(|step| matches!(step.action, Action::Source { .. }))
        .or_else(|| plan.step(&format!("{step} files")));
    let Some(Action::Source { selection }) = source.map(|step| &step.action) else {
        let steps: Vec<&str> = plan
            .steps
            .iter()
            .filter(|step| matches!(step.action, Action::Source { .. }))
            .map(|step| step.name.strip_suffix(" files").unwrap_or(&step.name))
            .collect();
        return Err(Failure::usage(format!("step `{step}` is given no files of the app"))
            .advise(format!("these are: {}", steps.join(", "))));
    };
    let given = snapshot.select(selection)?;
    let mut text = String::new();
    for (path, decision) in &snapshot.decisions {
        let selected = given.entries.contains_key(format!("{APP_FOLDER}/{path}").as_bytes());
        let (mark, rule) = match (decision.included, selected) {
            (true, true) => ("+", decision.rule.clone()),
            (true, false) => ("-", format!("not given to step {step}")),
            (false, _) => ("-", decision.rule.clone()),
        };
        // Writing to a String cannot fail.
        let _written = if rule.is_empty() {
            writeln!(text, "{mark} {path}")
        } else {
            writeln!(text, "{mark} {path}  ({rule})")
        };
    }
    Ok(text)
}
