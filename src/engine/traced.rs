//! Traced steps: results that are known because nothing has changed that the step read.
//!
//! The keys are [`crate::plan::recorded`]'s, the recording itself is the sandbox's. Here a
//! result is looked for under what earlier runs have read, on this machine and in the cache,
//! and what a run has read is noted.

use std::time::Instant;

use super::{Engine, EngineError, Known, Output, State, differences};
use crate::digest::Digest;
use crate::event::{Event, Reason};
use crate::plan::recorded::{PathSet, PathSets, strong_key, weak_key};
use crate::plan::{Action, Step};
use crate::sandbox::Reads;
use crate::store::Table;
use crate::tree::Tree;

/// A traced step of this build.
pub(super) struct Traced {
    /// The app's files that it is given.
    pub(super) app: Tree,
    /// What names all but what is in them.
    pub(super) weak: Digest,
}

/// What a traced step's result was found, or made, with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The step's weak key.
    pub weak: Digest,
    /// The app's files that were read.
    pub read: PathSet,
    /// How many it was given.
    pub given: usize,
}

/// A result whose inputs have not changed, and its strong key.
pub(super) struct Recalled {
    pub(super) output: Output,
    pub(super) from: Known,
    strong: Digest,
    read: PathSet,
    /// Whether it is found so for the first time: the app's files are others.
    is_new: bool,
}

impl Traced {
    fn recorded(&self, read: PathSet) -> Recorded {
        let files = self.app.entries.values();
        let given = files.filter(|node| matches!(node, crate::tree::Node::File { .. })).count();
        Recorded { weak: self.weak, read, given }
    }
}

impl Engine<'_> {
    /// What is traced of a step with these inputs, if it is a traced one.
    pub(super) fn traced(
        &self,
        step: &Step,
        inputs: &[Digest],
    ) -> Result<Option<Traced>, EngineError> {
        let (Some(selection), Some((_, others))) = (self.app_files(step), inputs.split_last())
        else {
            return Ok(None);
        };
        let app = self.snapshot.select(selection)?;
        let weak = weak_key(step, self.platform, others, &app);
        Ok(Some(Traced { app, weak }))
    }

    /// Which of the app's files a traced step is given: its last input.
    pub(super) fn app_files(&self, step: &Step) -> Option<&crate::plan::Selection> {
        let last = step.root.last().filter(|_| step.traced)?;
        match &self.plan.steps[self.index(last)].action {
            Action::Source { selection } => Some(selection),
            _ => None,
        }
    }

    /// A result of the same step, of whose inputs none that it read has changed. What is
    /// found is noted under `key` as well.
    pub(super) fn recall(
        &self,
        state: &State,
        step: &Step,
        traced: &Traced,
        key: &Digest,
    ) -> Result<Option<Recalled>, EngineError> {
        let Traced { app, weak } = traced;
        let local: PathSets = self.store.get(Table::Recordings, weak)?.unwrap_or_default();
        let keyed = |set: &PathSet| Some((strong_key(weak, set, app)?, set.clone()));
        for (strong, read) in local.sets.iter().filter_map(keyed) {
            if let Some(output) = self.store.get::<Output>(Table::Outputs, &strong)? {
                let from = Known::Store;
                let found = Recalled { output, from, strong, read, is_new: true };
                return self.note_recalled(traced, key, found).map(Some);
            }
        }
        let Some(cache) = self.cache.filter(|_| !self.check) else { return Ok(None) };
        let shared = cache.recorded(weak);
        let unknown = shared.sets.iter().filter(|set| !local.sets.contains(set));
        for (strong, read) in local.sets.iter().chain(unknown).filter_map(keyed) {
            if let Some(output) = self.ask_cache(state, step, &strong)? {
                let from = Known::Cache;
                let found = Recalled { output, from, strong, read, is_new: true };
                return self.note_recalled(traced, key, found).map(Some);
            }
        }
        Ok(None)
    }

    fn note_recalled(
        &self,
        traced: &Traced,
        key: &Digest,
        found: Recalled,
    ) -> Result<Recalled, EngineError> {
        self.add_path_set(traced, &found.read)?;
        self.store.put(Table::Outputs, key, &found.output)?;
        Ok(found)
    }

    /// The path set under which a result that is known by its whole input is known too.
    pub(super) fn recall_tree(
        &self,
        traced: &Traced,
        tree: &Digest,
    ) -> Result<Option<Recalled>, EngineError> {
        let Traced { app, weak } = traced;
        let sets: PathSets = self.store.get(Table::Recordings, weak)?.unwrap_or_default();
        for read in sets.sets {
            let Some(strong) = strong_key(weak, &read, app) else { continue };
            let output: Option<Output> = self.store.get(Table::Outputs, &strong)?;
            if let Some(output) = output.filter(|output| output.tree == *tree) {
                let from = Known::Store;
                return Ok(Some(Recalled { output, from, strong, read, is_new: false }));
            }
        }
        Ok(None)
    }

    /// Takes a result that was found by what its run has read, having checked it if it is one
    /// of those that are to be.
    pub(super) fn reuse(
        &self,
        state: &State,
        step: &Step,
        traced: &Traced,
        key: &Digest,
        inputs: &[Digest],
        recalled: Recalled,
    ) -> Result<(Digest, Known), EngineError> {
        let Recalled { output, from, strong, read, is_new } = recalled;
        let tree = output.tree;
        self.note_reads(state, step, traced, strong, read);
        self.note_found(state, step, is_new)?;
        // The same results on each machine, and no chance in it.
        if strong.bucket(100) < u64::from(self.verify) {
            self.verify_reused(state, step, [key, &strong], inputs, &tree)?;
            return Ok((tree, Known::Ran));
        }
        self.note_said(state, step, &output);
        Ok((tree, from))
    }

    /// Runs a step on all files that it is given, and compares.
    fn verify_reused(
        &self,
        state: &State,
        step: &Step,
        keys: [&Digest; 2],
        inputs: &[Digest],
        tree: &Digest,
    ) -> Result<(), EngineError> {
        let whole = Step { traced: false, ..step.clone() };
        self.ensure_inputs(state, &whole, inputs)?;
        let started = Instant::now();
        self.started(step, vec![Reason::Checked]);
        let [key, _] = keys;
        let found = self.act(&whole, key, inputs)?;
        if found.tree == *tree {
            self.finished(state, step, started, *tree, &found.list);
            return Ok(());
        }
        self.events.send(Event::StepFailed { step: step.name.clone() });
        // Whatever the reason is, this is what the step makes of these files.
        for key in keys {
            self.store.put(Table::Outputs, key, &Output::made(step, found.tree))?;
        }
        let known =
            if self.store.has_tree(tree) { self.store.read_tree(tree)? } else { Tree::default() };
        let differ = differences(&known, &found.list);
        Err(EngineError::TraceMissed { step: step.name.clone(), differ })
    }

    /// Notes for this build what a result was found with.
    pub(super) fn note_reads(
        &self,
        state: &State,
        step: &Step,
        traced: &Traced,
        strong: Digest,
        read: PathSet,
    ) {
        self.note_key(state, step, strong);
        // Set once: each step is one task.
        let _first = state.recorded[self.index(&step.name)].set(traced.recorded(read));
    }

    /// Keeps what a run has read, and its result under that.
    pub(super) fn keep_reads(
        &self,
        state: &State,
        step: &Step,
        traced: &Traced,
        reads: Option<&Reads>,
        tree: Digest,
    ) -> Result<(), EngineError> {
        let Some(read) = reads.and_then(path_set) else {
            self.events.notice(
                format!(
                    "`{}` runs again after any change of the app's files: the disk of the store keeps no access times, by which forge sees what a step reads",
                    step.name
                ),
                Some("mount it without `noatime`, or let forge make user namespaces (`forge doctor` says why it cannot)".to_owned()),
            );
            return Ok(());
        };
        let Some(strong) = strong_key(&traced.weak, &read, &traced.app) else { return Ok(()) };
        self.store.put(Table::Outputs, &strong, &Output::made(step, tree))?;
        self.add_path_set(traced, &read)?;
        self.note_reads(state, step, traced, strong, read);
        Ok(())
    }

    fn add_path_set(&self, traced: &Traced, read: &PathSet) -> Result<(), EngineError> {
        // Two builds may add to one list.
        let _held = self.store.lock_key(&traced.weak, || {})?;
        let mut sets: PathSets =
            self.store.get(Table::Recordings, &traced.weak)?.unwrap_or_default();
        if sets.add(read) {
            self.store.put(Table::Recordings, &traced.weak, &sets)?;
        }
        Ok(())
    }
}

/// The paths as text; `None` when what was read is not known.
fn path_set(reads: &Reads) -> Option<PathSet> {
    let Reads::Files(files) = reads else { return None };
    // The app's files have names that are UTF-8.
    files.iter().map(|path| path.to_str().map(str::to_owned)).collect::<Option<_>>().map(PathSet)
}
