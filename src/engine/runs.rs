//! What a step ran with, noted for people: why it ran, and what it read.
//!
//! No result depends on these notes; keys alone decide what runs. There is one note for each
//! step of an app's folder: of what its result was last made or found with on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Engine, EngineError, State, is_told};
use crate::digest::{Digest, Fields};
use crate::event::Reason;
use crate::memory::Bytes;
use crate::plan::key::key;
use crate::plan::recorded::PathSet;
use crate::plan::{Action, Plan, Selection, Step};
use crate::store::{Store, StoreError, Table};
use crate::tree::{Node, Tree};

/// Files that are named as reasons; of more, only the number is told.
const MOST_NAMED: usize = 1000;

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
    /// The app's files that it was given.
    #[serde(skip)]
    files: Files,
    /// Those of them that it read; `None` when all count.
    pub read: Option<PathSet>,
    /// The weak key under which that is recorded.
    #[serde(default)]
    pub weak: Option<Digest>,
    /// Why it last ran; none when it has not run for this folder.
    pub reasons: Vec<Reason>,
}

/// The app's files that a step was given, sorted by path.
#[derive(Clone, Debug)]
enum Files {
    /// As they are now.
    Now(Tree),
    /// As they were noted: as bytes, behind a line, as there may be very many.
    Noted(Arc<Bytes>, usize),
}

impl Default for Files {
    fn default() -> Files {
        Files::Now(Tree::default())
    }
}

impl PartialEq for Files {
    fn eq(&self, other: &Files) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Files {}

/// One of them: its path, what it is, and its content.
type GivenFile<'f> = (&'f str, Is<'f>, Option<Digest>);

/// What a file is, besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Is<'f> {
    /// With its mode.
    Folder(u32),
    File(u32),
    Link(&'f [u8]),
    HardLink(&'f [u8]),
    Gone,
}

/// All of the app's names are text.
fn given_file<'f>((path, node): (&'f [u8], Node<'f>)) -> Option<GivenFile<'f>> {
    let (is, content) = match node {
        Node::Directory { mode, .. } => (Is::Folder(mode), None),
        Node::File { mode, digest, .. } => (Is::File(mode), Some(digest)),
        Node::Symlink { target } => (Is::Link(target), None),
        Node::HardLink { to } => (Is::HardLink(to), None),
        Node::Whiteout => (Is::Gone, None),
    };
    Some((std::str::from_utf8(path).ok()?, is, content))
}

impl Files {
    /// As far as they can be read.
    fn iter(&self) -> Box<dyn Iterator<Item = GivenFile<'_>> + '_> {
        match self {
            Files::Now(app) => Box::new(app.iter().filter_map(given_file)),
            Files::Noted(bytes, from) => {
                let mut at = *from;
                Box::new(std::iter::from_fn(move || {
                    let some = bytes.some_from(at);
                    let (file, more) = postcard::take_from_bytes(some).ok()?;
                    let length = some.len() - more.len();
                    bytes.pass(at, at + length);
                    at += length;
                    Some(file)
                }))
            }
        }
    }

    /// Those that are not what they were: then, and now.
    fn differing<'f>(
        &'f self,
        then: &'f Files,
    ) -> impl Iterator<Item = (Option<GivenFile<'f>>, Option<GivenFile<'f>>)> {
        let (mut then, mut now) = (then.iter().peekable(), self.iter().peekable());
        std::iter::from_fn(move || {
            loop {
                let (before, after) = (then.peek().copied(), now.peek().copied());
                let pair = match (before, after) {
                    (None, None) => return None,
                    (Some(before), Some(after)) if before.0 < after.0 => (Some(before), None),
                    (Some(before), Some(after)) if before.0 > after.0 => (None, Some(after)),
                    pair => pair,
                };
                pair.0.and_then(|_| then.next());
                pair.1.and_then(|_| now.next());
                if pair.0 != pair.1 {
                    return Some(pair);
                }
            }
        })
    }
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
        run.files = app.map(|app| Files::Now(app.clone())).unwrap_or_default();
        run
    }

    /// What is noted under [`run_key`]; `None` where nothing is that can be read.
    ///
    /// # Errors
    /// The note cannot be read.
    pub fn noted(store: &Store, key: &Digest) -> Result<Option<Run>, StoreError> {
        Ok(store.bytes(Table::Runs, key)?.and_then(Run::parse))
    }

    /// Writes bytes that [`Run::parse`] reads: a line that is all but the files, and these.
    fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *to, self)?;
        to.write_all(b"\n")?;
        let mut bytes = Vec::new();
        for file in self.files.iter() {
            bytes.clear();
            // Only a type that cannot be written at all fails.
            bytes = postcard::to_extend(&file, bytes).unwrap_or_default();
            to.write_all(&bytes)?;
        }
        Ok(())
    }

    fn parse(bytes: Bytes) -> Option<Run> {
        let whole = bytes.part(0..bytes.len());
        let end = whole.iter().position(|byte| *byte == b'\n')?;
        let run: Run = serde_json::from_slice(&whole[..end]).ok()?;
        Some(Run { files: Files::Noted(Arc::new(bytes), end + 1), ..run })
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
        let counts = |path: &str| before.read.as_ref().is_none_or(|read| read.0.contains(path));
        let of_files = self.files.differing(&before.files).filter_map(|pair| match pair {
            (None, None) => None,
            (None, Some((path, ..))) => Some(Reason::FileAdded { path: path.to_owned() }),
            (Some((path, ..)), None) => Some(Reason::FileRemoved { path: path.to_owned() }),
            (Some((path, then, _)), Some((_, now, _))) if then != now => {
                Some(Reason::FileIs { path: path.to_owned() })
            }
            (Some((path, ..)), Some(_)) => {
                counts(path).then(|| Reason::FileChanged { path: path.to_owned() })
            }
        });
        let mut of_files = of_files.fuse();
        found.extend(of_files.by_ref().take(MOST_NAMED));
        let count = of_files.count();
        found.extend((count > 0).then_some(Reason::MoreFiles { count }));
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
    /// Why a step is about to run. What it runs with is noted when it has ended well.
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
        let note = run_key(self.folder, &step.name);
        self.store.put_bytes(Table::Runs, &note, &|to| run.write_to(to))?;
        let found = self.found_key(step);
        Ok(self.store.put_bytes(Table::Runs, &found, &|to| to.write_all(key.bytes()))?)
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
        if !is_told(step) {
            return Ok(());
        }
        let noted = self.store.bytes(Table::Runs, &self.found_key(step))?;
        if noted.is_some_and(|noted| noted.part(0..noted.len()) == key.bytes()) {
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
        Ok(Run::noted(self.store, &run_key(self.folder, &step.name))?)
    }

    fn run_now(&self, state: &State, step: &Step) -> Result<Run, EngineError> {
        let app = match given(self.plan, step) {
            Some(selection) => Some(self.snapshot.select(selection)?),
            None => None,
        };
        let tree = |name: &str| state.trees[self.index(name)].get().copied();
        // What is planned; of packages that were chosen since, their versions are told apart.
        let planned = &self.plan.steps[self.index(&step.name)];
        let run = Run::of(self.plan, planned, app.as_ref(), tree);
        Ok(Run { packages: exact(step), ..run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ImageRecipe;
    use crate::plan::tests::step;

    fn app(files: &[(&'static str, u32, &str)]) -> Tree {
        let file = |(path, mode, content): (&'static str, u32, &str)| {
            let (size, digest) = (content.len() as u64, Digest::of(content.as_bytes()));
            (path, Node::File { mode, size, digest })
        };
        files.iter().copied().map(file).collect()
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
    fn of_very_many_files_the_number_is_told() {
        let none = run(|_| {}, &app(&[]), Some("1"));
        let names: Vec<String> = (0..MOST_NAMED + 3).map(|number| format!("{number:05}")).collect();
        let file = Node::File { mode: 0o644, size: 0, digest: Digest::of(b"") };
        let many: Tree = names.iter().map(|name| (name, file)).collect();
        let found = run(|_| {}, &many, Some("1")).reasons(&none);
        assert_eq!(found.len(), MOST_NAMED + 1);
        assert_eq!(found.last(), Some(&Reason::MoreFiles { count: 3 }));
    }

    #[test]
    fn there_and_back() {
        let files = app(&[("a", 0o644, "1"), ("b\n", 0o755, "1")])
            .with("c", Some(Node::Symlink { target: b"\xff" }));
        let run = run(|_| {}, &files, Some("1"));
        let mut bytes = Vec::new();
        run.write_to(&mut bytes).expect("written");
        assert_eq!(run.files.iter().count(), 3);
        for damaged in [&bytes[1..], &bytes[..9], b""] {
            assert_eq!(Run::parse(damaged.to_vec().into()), None);
        }
        assert_eq!(Run::parse(bytes.into()), Some(run));
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
