//! One step: its result from where it is known, else made; and its files, where they are needed.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::made::made_tree;
use super::{Done, Engine, EngineError, Output, Run, State};
use crate::digest::{Digest, Fields};
use crate::event::{Event, Reason, ReusedFrom};
use crate::lock::Pin;
use crate::plan::key::{key, pin_key};
use crate::plan::{Action, Step};
use crate::sandbox::Reads;
use crate::store::{KeyLock, Table};
use crate::tree::{Node, Tree};

/// What an action gave.
pub(super) struct Acted {
    pub(super) tree: Digest,
    pub(super) list: Tree,
    /// What it read of the app's files, of a traced step.
    pub(super) reads: Option<Reads>,
}

impl From<(Digest, Tree)> for Acted {
    fn from((tree, list): (Digest, Tree)) -> Acted {
        Acted { tree, list, reads: None }
    }
}

/// How a step's result came to be known.
#[derive(Clone, Copy)]
pub(super) enum Known {
    Store,
    Cache,
    Lock,
    Ran,
}

impl Known {
    fn reused(self) -> Option<ReusedFrom> {
        match self {
            Known::Store => Some(ReusedFrom::Store),
            Known::Cache => Some(ReusedFrom::Cache),
            Known::Lock => Some(ReusedFrom::Lock),
            Known::Ran => None,
        }
    }
}

impl Engine<'_> {
    /// Finds out the tree of a step, running it if nobody knows.
    pub(super) fn step(&self, state: &State, index: usize) -> Result<Done, EngineError> {
        self.complete(state, index)?;
        let step = self.definition(state, index);
        let (tree, ran) = match &step.action {
            Action::Source { selection } => (self.snapshot.selected_digest(selection)?, None),
            Action::Files { files } => (made_tree(files).digest(), None),
            Action::Command { .. }
            | Action::Packages { .. }
            | Action::Image { .. }
            | Action::Libraries { .. }
            | Action::Take { .. } => {
                let inputs = state.inputs(self, step);
                let (tree, from) = self.known_or_run(state, step, &inputs)?;
                if !matches!(from, Known::Ran) {
                    self.note_found(state, step, &inputs)?;
                }
                (tree, Some(from))
            }
        };
        // Set once: each step is one task.
        let _first = state.trees[index].set(tree);
        if let Some(from @ Some(_)) = ran.map(Known::reused)
            && is_told(step)
        {
            let from = from.unwrap_or(ReusedFrom::Store);
            let reads = state.reads(index);
            self.events.send(Event::StepReused { step: step.name.clone(), from, tree, reads });
        }
        Ok(Done::Step { ran: matches!(ran, Some(Known::Ran)) || !is_told(step) })
    }

    pub(super) fn known_or_run(
        &self,
        state: &State,
        step: &Step,
        inputs: &[Digest],
    ) -> Result<(Digest, Known), EngineError> {
        let key = key(step, self.platform, inputs);
        if step.pinned {
            self.note_key(state, step, key);
            if let Some(tree) = self.pinned(state, step)? {
                self.store.put(Table::Outputs, &key, &Output::made(step, tree))?;
                return Ok((tree, Known::Lock));
            }
            // Not pinned means to be chosen now, whatever an earlier build chose.
            let held = self.lock_key(step, &key)?;
            let tree = self.run(state, step, &key, inputs)?;
            drop(held);
            let key = pin_key(step, self.platform, &self.source_inputs(state, step));
            self.lock().set_pin(Pin {
                step: step.name.clone(),
                key,
                files: self.texts(step, &tree)?,
            });
            return Ok((tree, Known::Ran));
        }
        let found = self.recorded_or_run(state, step, &key, inputs)?;
        self.note_key(state, step, key);
        Ok(found)
    }

    pub(super) fn recorded_or_run(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
    ) -> Result<(Digest, Known), EngineError> {
        if let Some(output) = self.store.get::<Output>(Table::Outputs, key)? {
            return self.reuse_whole(state, step, key, inputs, &output);
        }
        if let Some(known) = self.recalled(state, step, key, inputs)? {
            return Ok(known);
        }
        let _held = self.lock_key(step, key)?;
        if let Some(output) = self.store.get::<Output>(Table::Outputs, key)? {
            return self.reuse_whole(state, step, key, inputs, &output);
        }
        if !self.check
            && let Some(traced) = self.traced(step, inputs)?
            && let Some(recalled) = self.recall(state, step, &traced, key)?
        {
            return self.reuse(state, step, &traced, key, inputs, recalled);
        }
        self.cached_or_run(state, step, key, inputs)
    }

    /// Takes a result that is known for just these inputs.
    pub(super) fn reuse_whole(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
        output: &Output,
    ) -> Result<(Digest, Known), EngineError> {
        if self.check && !step.network {
            return self.compare(state, step, key, inputs, &output.tree);
        }
        if self.wants_recordings()
            && let Some(traced) = self.traced(step, inputs)?
            && let Some(recalled) = self.recall_tree(&traced, &output.tree)?
        {
            return self.reuse(state, step, &traced, key, inputs, recalled);
        }
        self.note_said(state, step, output);
        Ok((output.tree, Known::Store))
    }

    /// Holds a step's key. Locks are taken from a step to its inputs, never back,
    /// so that none waits for itself.
    pub(super) fn lock_key(&self, step: &Step, key: &Digest) -> Result<KeyLock, EngineError> {
        Ok(self
            .store
            .lock_key(key, || self.events.send(Event::StepWaits { step: step.name.clone() }))?)
    }

    /// Runs a step whose result is known, and compares.
    pub(super) fn compare(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
        known: &Digest,
    ) -> Result<(Digest, Known), EngineError> {
        self.ensure_inputs(state, step, inputs)?;
        let started = Instant::now();
        self.started(step, vec![Reason::Checked]);
        let Acted { tree, list, .. } = self.act(state, step, key, inputs)?;
        if tree != *known {
            self.events.send(Event::StepFailed { step: step.name.clone() });
            let old = if self.store.has_tree(known) {
                self.store.read_tree(known)?
            } else {
                Tree::default()
            };
            return Err(EngineError::NotReproducible {
                step: step.name.clone(),
                differ: differences(&old, &list),
            });
        }
        self.finished(state, step, started, tree, &list);
        Ok((tree, Known::Ran))
    }

    pub(super) fn started(&self, step: &Step, because: Vec<Reason>) {
        if is_told(step) {
            self.events.send(Event::StepStarted { step: step.name.clone(), because });
        }
    }

    pub(super) fn finished(
        &self,
        state: &State,
        step: &Step,
        started: Instant,
        tree: Digest,
        list: &Tree,
    ) {
        if !is_told(step) {
            return;
        }
        state.ran.fetch_add(1, Ordering::Relaxed);
        self.events.send(Event::StepFinished {
            step: step.name.clone(),
            milliseconds: milliseconds(started),
            tree,
            bytes: list.size(),
            reads: state.reads(self.index(&step.name)),
        });
    }

    /// Runs a step, whatever is known, and records its result.
    pub(super) fn run(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
    ) -> Result<Digest, EngineError> {
        self.ensure_inputs(state, step, inputs)?;
        let reasons = self.reasons_to_run(state, step)?;
        let started = Instant::now();
        self.started(step, reasons.clone());
        let made = self.act(state, step, key, inputs).and_then(|acted| {
            if self.check && !step.network {
                let again = self.act(state, step, key, inputs)?;
                if again.tree != acted.tree {
                    let differ = differences(&acted.list, &again.list);
                    return Err(EngineError::NotReproducible { step: step.name.clone(), differ });
                }
            }
            Ok(acted)
        });
        let Acted { tree, list, reads } = made.inspect_err(|error| {
            // One that was ended because another failed has not failed itself.
            if !matches!(error, EngineError::Interrupted) {
                self.events.send(Event::StepFailed { step: step.name.clone() });
            }
        })?;
        if let Some(traced) = self.traced(step, inputs)? {
            self.keep_reads(state, step, &traced, reads.as_ref(), tree)?;
        }
        self.store.put(Table::Outputs, key, &Output::made(step, tree))?;
        self.note_run(state, step, key, Run::because(reasons))?;
        self.finished(state, step, started, tree, &list);
        Ok(tree)
    }

    /// Makes sure that what a step sees is in the store. The app's files of a traced step
    /// are not: it gets a copy of its own.
    pub(super) fn ensure_inputs(
        &self,
        state: &State,
        step: &Step,
        inputs: &[Digest],
    ) -> Result<(), EngineError> {
        let copied = usize::from(self.app_files(step).is_some());
        let seen = inputs.len().saturating_sub(copied);
        for (name, tree) in step.root.iter().zip(inputs).take(seen) {
            self.ensure_tree(state, self.index(name), tree)?;
        }
        Ok(())
    }

    pub(super) fn act(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
    ) -> Result<Acted, EngineError> {
        match &step.action {
            Action::Command { command, files } => self.command(step, key, inputs, command, files),
            Action::Packages { .. } => self.packages(state, step, key, inputs).map(Acted::from),
            Action::Image { .. } => self.image(step).map(Acted::from),
            Action::Libraries { inspected } => {
                self.libraries(step, inputs, *inspected).map(Acted::from)
            }
            Action::Take { patterns } => self.take(step, inputs, patterns).map(Acted::from),
            Action::Source { .. } | Action::Files { .. } => {
                // Never run: their trees are known without it.
                Err(EngineError::NotReproducible { step: step.name.clone(), differ: Vec::new() })
            }
        }
    }

    /// Makes sure that the files of a step's tree are in the store.
    pub(super) fn ensure_tree(
        &self,
        state: &State,
        index: usize,
        tree: &Digest,
    ) -> Result<(), EngineError> {
        if self.store.has_tree(tree) {
            return Ok(());
        }
        let step = self.definition(state, index);
        // Two steps may want the same files at once. What runs is locked by its
        // key, as everywhere; what is only written, by a name of its own.
        let inputs = state.inputs(self, step);
        let name = match &step.action {
            Action::Command { .. }
            | Action::Packages { .. }
            | Action::Image { .. }
            | Action::Libraries { .. }
            | Action::Take { .. } => key(step, self.platform, &inputs),
            Action::Source { .. } | Action::Files { .. } => {
                Fields::new("forge-files").digest(tree).finish()
            }
        };
        let _held = self.lock_key(step, &name)?;
        if self.store.has_tree(tree) {
            return Ok(());
        }
        let made = match &step.action {
            Action::Source { selection } => {
                let selected = self.snapshot.select(selection)?;
                let scratch = self.store.scratch("source")?;
                let folder = scratch.path().join("out");
                self.snapshot.materialise(&selected, &folder)?;
                self.store.keep_tree(&folder)?.0
            }
            Action::Files { files } => self.write_made(files)?,
            Action::Command { .. }
            | Action::Packages { .. }
            | Action::Image { .. }
            | Action::Libraries { .. }
            | Action::Take { .. } => match self.pinned(state, step)? {
                Some(tree) => tree,
                None if self.unpack_known(state, step, tree)? => *tree,
                // Who wanted the same files at the same time may have found out already.
                None => match self.store.get::<Output>(Table::Outputs, &name)? {
                    Some(now) if now.tree != *tree && self.store.has_tree(&now.tree) => now.tree,
                    _ => self.run(state, step, &name, &inputs)?,
                },
            },
        };
        if made == *tree {
            Ok(())
        } else {
            Err(EngineError::Lost { step: step.name.clone(), expected: *tree, found: made })
        }
    }
}

/// Whether people are told of the step. Those that only take what others made are
/// done in no time.
pub(super) fn is_told(step: &Step) -> bool {
    !matches!(step.action, Action::Take { .. })
}

pub(super) fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The paths at which two trees differ.
pub(super) fn differences(one: &Tree, other: &Tree) -> Vec<String> {
    let shown = |(path, _): (&[u8], Node<'_>)| String::from_utf8_lossy(path).into_owned();
    let mut found: Vec<String> = one
        .iter()
        .filter(|(path, node)| other.get(path) != Some(*node))
        .chain(other.iter().filter(|(path, _)| one.get(path).is_none()))
        .map(shown)
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::MadeFile;

    #[test]
    fn differences_name_paths() {
        let tree = |content: &[u8], name: &str| {
            made_tree(&BTreeMap::from([
                ("same".to_owned(), MadeFile::Folder { mode: 0o755 }),
                (name.to_owned(), MadeFile::File { content: content.to_vec().into(), mode: 0o644 }),
            ]))
        };
        assert_eq!(differences(&tree(b"1", "a"), &tree(b"2", "a")), ["a"]);
        assert_eq!(differences(&tree(b"1", "a"), &tree(b"1", "b")), ["a", "b"]);
    }
}
