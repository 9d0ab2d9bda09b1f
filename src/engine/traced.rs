//! Traced steps: results that are known because nothing has changed that the step read.
//!
//! The keys are [`crate::plan::recorded`]'s, the recording itself is the sandbox's. Here a
//! result is looked for under what earlier runs have read, on this machine and in the cache,
//! and what a run has read is noted.

use std::time::Instant;

use super::{Engine, EngineError, Known, Output, State, differences};
use crate::digest::{Digest, Fields};
use crate::event::{Event, Reason};
use crate::plan::recorded::{MOST_PATHS, PathSet, PathSets, strong_key, weak_key};
use crate::plan::{Action, Step};
use crate::sandbox::{MOST_READ, Reads};
use crate::store::Table;
use crate::tree::{Node, Tree};

// What one run reads can be kept.
const _: () = assert!(MOST_READ <= MOST_PATHS);

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
    /// Whether no other path set counts.
    pub distrusted: bool,
}

/// A result whose inputs have not changed, and its strong key.
pub(super) struct Recalled {
    pub(super) output: Output,
    pub(super) from: Known,
    strong: Digest,
    read: PathSet,
}

/// The key under which a recalled result is noted for a step's whole input.
fn recalled_key(key: &Digest) -> Digest {
    Fields::new("forge-step-recalled").digest(key).finish()
}

impl Traced {
    /// How many files the step is given.
    fn given(&self) -> usize {
        self.app.iter().filter(|(_, node)| matches!(node, Node::File { .. })).count()
    }
}

impl Engine<'_> {
    /// What is traced of a step with these inputs, if it is a traced one.
    pub(super) fn traced(
        &self,
        step: &Step,
        inputs: &[Digest],
    ) -> Result<Option<Traced>, EngineError> {
        let (true, Some(selection), Some((_, others))) =
            (step.traced, self.app_files(step), inputs.split_last())
        else {
            return Ok(None);
        };
        let app = self.snapshot.select(selection)?;
        let weak = weak_key(step, self.platform, others, &app);
        Ok(Some(Traced { app, weak }))
    }

    /// Which of the app's files a command is given: its last input.
    pub(super) fn app_files(&self, step: &Step) -> Option<&crate::plan::Selection> {
        let last = step.root.last()?;
        match &self.plan.steps[self.index(last)].action {
            Action::Source { selection } => Some(selection),
            _ => None,
        }
    }

    /// A result of the same step, of whose inputs none that it read has changed.
    pub(super) fn recall(
        &self,
        state: &State,
        step: &Step,
        traced: &Traced,
        key: &Digest,
    ) -> Result<Option<Recalled>, EngineError> {
        let Traced { app, weak } = traced;
        let mut sets = self.path_sets(weak)?;
        let keyed = |set: PathSet| Some((strong_key(weak, &set, app)?, set));
        for (strong, read) in sets.sets.clone().into_iter().filter_map(keyed) {
            if let Some(output) = self.store.get::<Output>(Table::Outputs, &strong)? {
                let found = Recalled { output, from: Known::Store, strong, read };
                return self.note_recalled(traced, key, found).map(Some);
            }
        }
        let Some(cache) = self.cache else { return Ok(None) };
        let shared = cache.recorded(weak);
        if shared.distrusted && !sets.distrusted {
            self.store.put(Table::Recordings, weak, &shared)?;
            sets = shared;
        } else if !sets.distrusted {
            let unknown = shared.sets.into_iter().filter(|set| !sets.sets.contains(set));
            let unknown: Vec<PathSet> = unknown.collect();
            sets.sets.extend(unknown);
        }
        for (strong, read) in sets.sets.into_iter().filter_map(keyed) {
            if let Some(output) = self.ask_cache(state, step, &strong)? {
                let found = Recalled { output, from: Known::Cache, strong, read };
                return self.note_recalled(traced, key, found).map(Some);
            }
        }
        Ok(None)
    }

    /// Notes a result as that of the whole input, too: so it is found at once next time. It
    /// was not made of that, so who does not trust recordings must not take it.
    fn note_recalled(
        &self,
        traced: &Traced,
        key: &Digest,
        found: Recalled,
    ) -> Result<Recalled, EngineError> {
        self.add_path_set(traced, &found.read)?;
        self.store.put(Table::Outputs, &recalled_key(key), &found.output)?;
        Ok(found)
    }

    /// A result that was recalled for just these inputs, as long as its recording counts.
    pub(super) fn recalled(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
    ) -> Result<Option<(Digest, Known)>, EngineError> {
        if !step.traced || self.check {
            return Ok(None);
        }
        let Some(output) = self.store.get::<Output>(Table::Outputs, &recalled_key(key))? else {
            return Ok(None);
        };
        if !self.wants_recordings() {
            self.note_said(state, step, &output);
            return Ok(Some((output.tree, Known::Store)));
        }
        let Some(traced) = self.traced(step, inputs)? else { return Ok(None) };
        match self.recall_tree(&traced, &output.tree)? {
            Some(recalled) => self.reuse(state, step, &traced, key, inputs, recalled).map(Some),
            None => Ok(None),
        }
    }

    /// Whether it is of interest by which recording a result is known: to a cache, and to who
    /// checks.
    pub(super) fn wants_recordings(&self) -> bool {
        self.cache.is_some() || self.verify > 0
    }

    /// The path set under which a result that is known by its whole input is known too.
    pub(super) fn recall_tree(
        &self,
        traced: &Traced,
        tree: &Digest,
    ) -> Result<Option<Recalled>, EngineError> {
        let Traced { app, weak } = traced;
        for read in self.path_sets(weak)?.sets {
            let Some(strong) = strong_key(weak, &read, app) else { continue };
            let output: Option<Output> = self.store.get(Table::Outputs, &strong)?;
            if let Some(output) = output.filter(|output| output.tree == *tree) {
                return Ok(Some(Recalled { output, from: Known::Store, strong, read }));
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
        let Recalled { output, from, strong, read } = recalled;
        let tree = output.tree;
        // Drawn by all that the step is given, so that each edit has its own chance; and the
        // same on each machine.
        if key.bucket(100) < u64::from(self.verify) {
            self.verify_reused(state, step, traced, [key, &strong], inputs, &tree)?;
            self.note_reads(state, step, traced, strong, read)?;
            return Ok((tree, Known::Ran));
        }
        self.note_reads(state, step, traced, strong, read)?;
        self.note_said(state, step, &output);
        Ok((tree, from))
    }

    /// Runs a step on all files that it is given, and compares.
    fn verify_reused(
        &self,
        state: &State,
        step: &Step,
        traced: &Traced,
        [key, strong]: [&Digest; 2],
        inputs: &[Digest],
        tree: &Digest,
    ) -> Result<(), EngineError> {
        let whole = Step { traced: false, ..step.clone() };
        self.ensure_inputs(state, &whole, inputs)?;
        let started = Instant::now();
        self.started(step, vec![Reason::Checked]);
        let found = self.act(state, &whole, key, inputs)?;
        if found.tree == *tree {
            self.finished(state, step, started, *tree, &found.list);
            return Ok(());
        }
        self.events.send(Event::StepFailed { step: step.name.clone() });
        // Whatever the reason is: this is what the step makes of these files, and what was
        // recorded is not all that it goes by.
        let Traced { app, weak } = traced;
        let all = PathSet::all(app);
        let output = Output::made(step, found.tree);
        self.store.remove(Table::Outputs, strong)?;
        self.store.remove(Table::Outputs, &recalled_key(key))?;
        self.store.put(Table::Outputs, key, &output)?;
        if let Some(strong) = all.as_ref().and_then(|all| strong_key(weak, all, app)) {
            self.store.put(Table::Outputs, &strong, &output)?;
        }
        // Without a set the step is known by all that it is given alone.
        let sets = PathSets { sets: all.into_iter().collect(), distrusted: true };
        self.store.put(Table::Recordings, weak, &sets)?;
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
    ) -> Result<(), EngineError> {
        self.note_key(state, step, strong);
        // Set once: each step is one task.
        let recorded =
            Recorded { weak: traced.weak, given: traced.given(), distrusted: false, read };
        let _first = state.recorded[self.index(&step.name)].set(recorded);
        Ok(())
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
        if reads == Some(&Reads::Many) {
            self.events.notice(
                format!(
                    "`{}` runs again after any change of the app's files: it reads more than {MOST_READ} of them",
                    step.name
                ),
                Some("leave out what it need not read, in .forgeignore".to_owned()),
            );
            return Ok(());
        }
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
        let distrusted = self.path_sets(&traced.weak)?.distrusted;
        let read = if distrusted { PathSet::all(&traced.app) } else { Some(read) };
        let Some(read) = read else { return Ok(()) };
        let Some(strong) = strong_key(&traced.weak, &read, &traced.app) else { return Ok(()) };
        self.store.put(Table::Outputs, &strong, &Output::made(step, tree))?;
        self.add_path_set(traced, &read)?;
        self.note_reads(state, step, traced, strong, read)
    }

    fn add_path_set(&self, traced: &Traced, read: &PathSet) -> Result<(), EngineError> {
        // Two builds may add to one list.
        let _held = self.store.lock_key(&traced.weak, || {})?;
        let mut sets = self.path_sets(&traced.weak)?;
        if sets.add(read) {
            self.store.put(Table::Recordings, &traced.weak, &sets)?;
        }
        Ok(())
    }
}

impl Engine<'_> {
    fn path_sets(&self, weak: &Digest) -> Result<PathSets, EngineError> {
        Ok(self.store.hint(Table::Recordings, weak)?.unwrap_or_default())
    }
}

/// The paths as text; `None` when what was read is not known.
fn path_set(reads: &Reads) -> Option<PathSet> {
    let Reads::Files(files) = reads else { return None };
    // The app's files have names that are UTF-8.
    files.iter().map(|path| path.to_str().map(str::to_owned)).collect::<Option<_>>().map(PathSet)
}
