//! What a step ran with, noted for people: why it ran, and what it read.
//!
//! No result depends on these notes; keys alone decide what runs. There is one note for each
//! step of an app's folder: of what its result was last made or found with on this machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Engine, EngineError, State, is_told};
use crate::digest::{Digest, Fields};
use crate::event::Reason;
use crate::plan::key::key;
use crate::plan::recorded::PathSet;
use crate::plan::{Action, Plan, Selection, Step};
use crate::store::Table;
use crate::tree::{Node, Tree};

/// What a step's result was made or found with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What it did, but for what follows.
    action: Option<Digest>,
    /// Its scripts.
    scripts: BTreeMap<String, Digest>,
    /// Its environment.
    variables: BTreeMap<String, Digest>,
    /// The exact packages, where they were known.
    packages: Option<Digest>,
    /// Its inputs but for the app's files: step → tree. None where they are not known.
    inputs: BTreeMap<String, Option<Digest>>,
    /// The app's files that it was given: path → what it is, besides its content, and that.
    files: BTreeMap<String, (String, Option<Digest>)>,
    /// Those of them that it read; `None` when all count.
    pub read: Option<PathSet>,
    /// The weak key under which that is recorded.
    #[serde(default)]
    pub weak: Option<Digest>,
    /// Why it last ran; none when it has not run for this folder.
    pub reasons: Vec<Reason>,
}

/// Where the note of a step is kept, of the app in a folder.
#[must_use]
pub fn run_key(folder: &str, step: &str) -> Digest {
    Fields::new("forge-run").text(folder).text(step).finish()
}

/// Which of the app's files a step is given, traced or not.
#[must_use]
pub fn given<'p>(plan: &'p Plan, step: &Step) -> Option<&'p Selection> {
    step.root.iter().rev().find_map(|name| match &plan.step(name)?.action {
        Action::Source { selection } => Some(selection),
        _ => None,
    })
}

impl Run {
    /// Nothing but the reasons.
    pub(super) fn because(reasons: Vec<Reason>) -> Run {
        Run { reasons, ..Run::default() }
    }

    /// What a step would run with now. `app` are the files that it is given, `tree` tells
    /// of other inputs what is known.
    #[must_use]
    pub fn of(
        plan: &Plan,
        step: &Step,
        app: Option<&Tree>,
        tree: impl Fn(&str) -> Option<Digest>,
    ) -> Run {
        let text = |text: &str| Digest::of(text.as_bytes());
        let mut action = Fields::new("forge-action");
        let mut run = Run::default();
        match &step.action {
            Action::Command { command, files } => {
                action.texts(command.iter().map(String::as_str));
                run.scripts = files.iter().map(|(name, file)| (name.clone(), text(file))).collect();
            }
            Action::Packages { release, names, .. } => {
                action.text(release).texts(names.iter().map(String::as_str));
                run.packages = exact(step);
            }
            Action::Image { reference, .. } => drop(action.text(reference)),
            Action::Libraries { inspected } => drop(action.number(*inspected as u64)),
            Action::Take { patterns } => {
                action.texts(patterns.iter().map(String::as_str));
            }
            Action::Source { .. } | Action::Files { .. } => {}
        }
        action.text(&step.directory).texts(step.drop.iter().map(String::as_str));
        action.texts(step.outputs.iter().map(|output| output.path.as_str()));
        run.action = Some(action.finish());
        run.variables =
            step.environment.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let is_made = |name: &&String| {
            plan.step(name).is_some_and(|step| {
                !matches!(step.action, Action::Source { .. } | Action::Files { .. })
            })
        };
        run.inputs =
            step.root.iter().filter(is_made).map(|name| (name.clone(), tree(name))).collect();
        for (path, node) in app.iter().flat_map(|app| &app.entries) {
            let (is, content) = match node {
                Node::Directory { mode, .. } => (format!("folder {mode:o}"), None),
                Node::File { mode, digest, .. } => (format!("file {mode:o}"), Some(*digest)),
                Node::Symlink { target } => {
                    (format!("link to {}", String::from_utf8_lossy(target)), None)
                }
                Node::HardLink { to } => (format!("is {}", String::from_utf8_lossy(to)), None),
                Node::Whiteout => ("gone".to_owned(), None),
            };
            run.files.insert(String::from_utf8_lossy(path).into_owned(), (is, content));
        }
        run
    }

    /// What of this run differs from an earlier one, and may decide.
    #[must_use]
    pub fn reasons(&self, before: &Run) -> Vec<Reason> {
        let mut found = Vec::new();
        if self.action != before.action {
            found.push(Reason::Definition);
        }
        for name in differing(&self.scripts, &before.scripts) {
            found.push(Reason::Script { name });
        }
        for name in differing(&self.variables, &before.variables) {
            found.push(Reason::Variable { name });
        }
        if let (Some(now), Some(then)) = (self.packages, before.packages)
            && now != then
        {
            found.push(Reason::Packages);
        }
        for step in differing(&self.inputs, &before.inputs) {
            // What is not known now may yet turn out to be the same.
            if self.inputs.get(&step) != Some(&None) {
                found.push(Reason::Input { step });
            }
        }
        for path in differing(&self.files, &before.files) {
            let (then, now) = (before.files.get(&path), self.files.get(&path));
            let reason = match (then, now) {
                (None, _) => Reason::FileAdded { path },
                (_, None) => Reason::FileRemoved { path },
                (Some((then, _)), Some((now, _))) if then != now => Reason::FileIs { path },
                _ if before.read.as_ref().is_none_or(|read| read.0.contains(&path)) => {
                    Reason::FileChanged { path }
                }
                _ => continue,
            };
            found.push(reason);
        }
        found
    }
}

/// The exact packages of a step, where they are chosen.
fn exact(step: &Step) -> Option<Digest> {
    let Action::Packages { packages, .. } = &step.action else { return None };
    let mut fields = Fields::new("forge-packages");
    for package in packages {
        fields.digest(&package.digest);
    }
    (!packages.is_empty()).then(|| fields.finish())
}

/// The names whose values differ, those with a value in one of them alone included.
fn differing<T: PartialEq>(now: &BTreeMap<String, T>, then: &BTreeMap<String, T>) -> Vec<String> {
    let names: BTreeSet<&String> = now.keys().chain(then.keys()).collect();
    names.into_iter().filter(|name| now.get(*name) != then.get(*name)).cloned().collect()
}

impl Engine<'_> {
    /// Why a step is about to run. What it runs with is noted when it has ended: the names of
    /// all files take room, and meanwhile other steps run too.
    pub(super) fn reasons_to_run(
        &self,
        state: &State,
        step: &Step,
    ) -> Result<Vec<Reason>, EngineError> {
        let Some(before) = self.last_run(step)? else { return Ok(vec![Reason::First]) };
        let reasons = self.run_now(state, step)?.reasons(&before);
        Ok(if reasons.is_empty() { vec![Reason::Lost] } else { reasons })
    }

    /// Notes a run that has ended well, or a result that was found, with what is known of `last`
    /// time: the reasons, and what was read.
    pub(super) fn note_run(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        last: Run,
    ) -> Result<(), EngineError> {
        let (read, weak) = match state.recorded[self.index(&step.name)].get() {
            Some(recorded) => (Some(recorded.read.clone()), Some(recorded.weak)),
            None if step.traced => (last.read, last.weak),
            None => (None, None),
        };
        let run = Run { reasons: last.reasons, read, weak, ..self.run_now(state, step)? };
        self.store.put(Table::Runs, &run_key(self.folder, &step.name), &run)?;
        Ok(self.store.put(Table::Runs, &self.found_key(step), key)?)
    }

    /// Notes what a result was found with, unless it is as it was: what nothing was done for
    /// shall cost nothing.
    pub(super) fn note_found(
        &self,
        state: &State,
        step: &Step,
        inputs: &[Digest],
    ) -> Result<(), EngineError> {
        let key = key(step, self.platform, inputs);
        if !is_told(step) || self.store.hint(Table::Runs, &self.found_key(step))? == Some(key) {
            return Ok(());
        }
        // What it reads is known from before, where nobody looked it up this time.
        let last = self.last_run(step)?.unwrap_or_default();
        self.note_run(state, step, &key, last)
    }

    /// Where the key of what is noted of a step stands.
    fn found_key(&self, step: &Step) -> Digest {
        Fields::new("forge-run-key").text(self.folder).text(&step.name).finish()
    }

    fn last_run(&self, step: &Step) -> Result<Option<Run>, EngineError> {
        Ok(self.store.hint(Table::Runs, &run_key(self.folder, &step.name))?)
    }

    fn run_now(&self, state: &State, step: &Step) -> Result<Run, EngineError> {
        let app = match given(self.plan, step) {
            Some(selection) => Some(self.snapshot.select(selection)?),
            None => None,
        };
        let tree = |name: &str| state.trees[self.index(name)].get().copied();
        // What is planned; of packages that were chosen since, their versions are told apart.
        let planned = &self.plan.steps[self.index(&step.name)];
        let run = Run::of(self.plan, planned, app.as_deref(), tree);
        Ok(Run { packages: exact(step), ..run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ImageRecipe;
    use crate::plan::tests::step;

    fn app(files: &[(&str, u32, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, mode, content) in files {
            let node = Node::File {
                mode: *mode,
                size: content.len() as u64,
                digest: Digest::of(content.as_bytes()),
            };
            tree.entries.insert(path.as_bytes().to_vec(), node);
        }
        tree
    }

    fn run(change: impl Fn(&mut Step), app: &Tree, gems: Option<&str>) -> Run {
        let mut changed = step("assets", &["gems"]);
        change(&mut changed);
        let image = ImageRecipe {
            layers: Vec::new(),
            environment: BTreeMap::new(),
            processes: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        let plan = Plan::new(vec![step("gems", &[]), changed.clone()], image).expect("a plan");
        Run::of(&plan, &changed, Some(app), |_| gems.map(|gems| Digest::of(gems.as_bytes())))
    }

    #[test]
    fn reasons_name_what_differs() {
        let files = app(&[("a", 0o644, "1"), ("b", 0o644, "1")]);
        let before = run(|_| {}, &files, Some("1"));
        let named = |now: &Run| now.reasons(&before);
        assert_eq!(named(&before), []);
        assert_eq!(
            named(&run(|_| {}, &files, Some("2"))),
            [Reason::Input { step: "gems".to_owned() }]
        );
        assert_eq!(named(&run(|_| {}, &files, None)), []);
        assert_eq!(
            named(&run(|step| step.directory.push('x'), &files, Some("1"))),
            [Reason::Definition]
        );
        let variable = |step: &mut Step| {
            step.environment.insert("A".to_owned(), "1".to_owned());
        };
        assert_eq!(
            named(&run(variable, &files, Some("1"))),
            [Reason::Variable { name: "A".to_owned() }]
        );
        let other = app(&[("a", 0o755, "1"), ("b", 0o644, "2"), ("c", 0o644, "1")]);
        let path = |path: &str| path.to_owned();
        assert_eq!(
            named(&run(|_| {}, &other, Some("1"))),
            [
                Reason::FileIs { path: path("a") },
                Reason::FileChanged { path: path("b") },
                Reason::FileAdded { path: path("c") }
            ]
        );
        let fewer = app(&[("b", 0o644, "1")]);
        assert_eq!(
            named(&run(|_| {}, &fewer, Some("1"))),
            [Reason::FileRemoved { path: path("a") }]
        );
    }

    #[test]
    fn content_counts_only_of_files_that_were_read() {
        let before = Run {
            read: Some(PathSet(BTreeSet::from(["a".to_owned()]))),
            ..run(|_| {}, &app(&[("a", 0o644, "1"), ("b", 0o644, "1")]), None)
        };
        let now = run(|_| {}, &app(&[("a", 0o644, "2"), ("b", 0o644, "2")]), None);
        assert_eq!(now.reasons(&before), [Reason::FileChanged { path: "a".to_owned() }]);
    }
}
