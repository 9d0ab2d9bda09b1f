//! `forge plan --files`: every file and the rule that decided; of a traced step also
//! whether its last run has read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::failure::Failure;
use crate::plan::recorded::PathSet;
use crate::plan::{APP_FOLDER, Action, Plan};
use crate::source::{Decision, Snapshot};

/// `read` are the files that the step's last run has read, where that was recorded.
pub(super) fn text(
    snapshot: &Snapshot,
    plan: &Plan,
    step: &str,
    read: Option<&PathSet>,
) -> Result<String, Failure> {
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
    // Of most files that count no rule says anything.
    let paths = snapshot.files().chain(snapshot.links());
    let mut paths: BTreeMap<&str, Option<&Decision>> = paths.map(|path| (path, None)).collect();
    paths.extend(snapshot.decisions.iter().map(|(path, decision)| (path, Some(decision))));
    for (path, decision) in paths {
        let seen = format!("{APP_FOLDER}/{path}");
        let selected = given.get(seen.as_bytes()).is_some();
        let is_read = selected && read.is_some_and(|read| read.0.contains(&seen));
        let rule = decision.map(|decision| decision.rule.clone()).unwrap_or_default();
        let (mark, rule) = match (decision.is_none_or(|decision| decision.included), selected) {
            (true, true) if is_read => ("r", rule),
            (true, true) => ("+", rule),
            (true, false) => ("-", format!("not given to step {step}")),
            (false, _) => ("-", rule),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{ImageRecipe, Selection, Step};
    use crate::source::Rules;
    use std::fs;

    #[test]
    fn every_file_has_its_line_and_an_excluded_folder_one() {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in [
            (".gitignore", "/local\n/config/*.yml\n"),
            (".forgeignore", "*.psd\n"),
            ("a/x.rb", ""),
            ("a/y.psd", ""),
            ("config/database.yml", ""),
            ("local/1", ""),
            ("local/2", ""),
            ("public/assets/old.css", ""),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
        let selection = Selection { rules: vec!["*".to_owned(), "!/public/assets/**".to_owned()] };
        let image = ImageRecipe {
            layers: Vec::new(),
            environment: BTreeMap::new(),
            processes: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        let steps = vec![Step::new("app", "", Action::Source { selection })];
        let plan = Plan::new(steps, image).expect("a plan");
        let found = text(&snapshot, &plan, "app", None).expect("a list");
        let expected = [
            "+ .forgeignore",
            "+ .gitignore",
            "+ a/x.rb",
            "- a/y.psd  (*.psd (.forgeignore))",
            "+ config/database.yml  (/config/database.yml (frameworks need it))",
            "- local/  (/local (.gitignore))",
            "- public/assets/old.css  (not given to step app)",
            "",
        ];
        assert_eq!(found, expected.join("\n"));
        let read = PathSet(["workspace/a/x.rb", "workspace/local/1"].map(str::to_owned).into());
        let found = text(&snapshot, &plan, "app", Some(&read)).expect("a list");
        assert_eq!(found, expected.join("\n").replace("+ a/x.rb", "r a/x.rb"));
        assert!(text(&snapshot, &plan, "web", None).is_err());
    }
}
