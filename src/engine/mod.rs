//! Walks the graph: asks the lock, asks the store, else runs.
//!
//! ```text
//! for each step whose inputs are known:
//!   key ─► pinned in forge.lock? ─► recorded in the store? ─► else run it in the sandbox
//! for each step that is a layer: packed before? else pack it, while other steps run
//! ```
//!
//! - A step's result is *known* by its record; its files are needed only when a
//!   step that runs has it as an input, or a layer must be packed. They are then
//!   made again if the store does not have them.
//! - Two builds that need the same key take turns: the second finds the result.
//! - Reports by events and errors; prints nothing.

mod arrivals;
mod base;
mod cached;
mod command;
mod error;
mod hints;
mod libraries;
mod made;
mod network;
mod pack;
mod packages;
mod runs;
mod schedule;
mod take;
mod traced;
mod unpacking;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Fields};
use crate::download::Downloads;
use crate::event::{self, Event, Events, Reason, ReusedFrom};
use crate::image::ImageLayer;
use crate::layer::{Compression, Layer, Packing};
use crate::lock::{Lock, Pin};
use crate::plan::key::{key, pin_key};
use crate::plan::{Action, Package, Plan, Step};
use crate::sandbox::{Mode, Reads, Running};
use crate::source::Snapshot;
use crate::store::{KeyLock, Store, Table};
use crate::tree::Tree;

use arrivals::{Arrivals, DOWNLOADS};
pub use base::{BaseImage, Fetch, Ground};
pub use cached::{Cache, Found, Made};
pub use error::EngineError;
use made::made_tree;
pub use network::Identity;
pub use packages::setup;
pub use runs::{Run, given, run_key};
use schedule::{Schedule, Task};
pub use traced::Recorded;
use unpacking::{Unpacking, stand_back};

/// Chooses the exact packages of a step on top of what is below it.
pub type Choose<'a> = dyn Fn(&Step, &Ground) -> Result<Vec<Package>, EngineError> + Sync + 'a;

/// Is told of a step's layer that was packed.
pub type Packed<'a> = dyn Fn(&str, &Layer) + Sync + 'a;

/// All that a build needs, made by the command line.
pub struct Engine<'a> {
    /// What is to be done.
    pub plan: &'a Plan,
    /// The app's folder, by which its runs are noted.
    pub folder: &'a str,
    /// The app's files.
    pub snapshot: &'a Snapshot,
    /// Where results are.
    pub store: &'a Store,
    /// What is pinned; new pins are added.
    pub lock: &'a Mutex<Lock>,
    /// Where events go.
    pub events: Events,
    /// The sandboxes that run.
    pub running: &'a Running,
    /// How steps are isolated; asked for once, when the first step must run.
    pub mode: &'a (dyn Fn() -> Result<Mode, EngineError> + Sync),
    /// A client for downloads; made when the first one is needed.
    pub downloads: &'a (dyn Fn() -> Result<Downloads, EngineError> + Sync),
    /// The image under the app, when there is one.
    pub base: Option<BaseImage<'a>>,
    /// For package steps whose packages are known only when others have run.
    pub choose: &'a Choose<'a>,
    /// What machines share.
    pub cache: Option<&'a dyn Cache>,
    /// Is told of each layer that was packed now, with its step, as soon as it is in the store.
    pub packed: Option<&'a Packed<'a>>,
    /// Where a package may be had, best first.
    pub addresses: &'a (dyn Fn(&Package) -> Vec<String> + Sync),
    /// What fetch steps know of this machine's network.
    pub identity: Identity,
    /// Steps that may run at once, besides those that only fetch.
    pub jobs: usize,
    /// `linux/amd64`.
    pub platform: &'a str,
    /// How layers are compressed.
    pub compression: Compression,
    /// Whether each step is run twice and its results compared.
    pub check: bool,
    /// Of a hundred results of traced steps that are reused as nothing has changed that the
    /// step read, how many are made again from all files and compared.
    pub verify: u8,
    /// Whether the bytes of all layers are wanted in the store. Where they are not, it
    /// is enough that the cache, or the registry of the base image, has them.
    pub needs_bytes: bool,
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image's layers, bottom to top.
    pub layers: Vec<ImageLayer>,
    /// The trees of all steps.
    pub trees: BTreeMap<String, Digest>,
    /// The results that a cache may have.
    pub made: Vec<Made>,
    /// Steps that ran.
    pub ran: usize,
    /// Steps whose result was known.
    pub reused: usize,
}

/// The record of a step's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The step's name when it ran, for people.
    pub step: String,
    /// The content.
    pub tree: Digest,
    /// The cache whose word this is, of a result that was not made on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_by: Option<String>,
}

impl Output {
    /// A result that was made here.
    #[must_use]
    pub fn made(step: &Step, tree: Digest) -> Output {
        Output { step: step.name.clone(), tree, said_by: None }
    }
}

/// What an action gave.
struct Acted {
    tree: Digest,
    list: Tree,
    /// What it read of the app's files, of a traced step.
    reads: Option<Reads>,
}

impl From<(Digest, Tree)> for Acted {
    fn from((tree, list): (Digest, Tree)) -> Acted {
        Acted { tree, list, reads: None }
    }
}

/// What one task gave.
enum Done {
    Step {
        ran: bool,
    },
    /// What people call them, if there are several, and the layers themselves.
    Layers(Vec<(Option<String>, Layer)>),
    /// The step made nothing, so there is nothing to pack.
    NoLayer,
}

impl Engine<'_> {
    /// Builds everything that the image needs. Where a result was known, and its step gives
    /// another one when its files are made again, what is known of the steps above is of no
    /// use: then all begins anew, with what is recorded now.
    ///
    /// # Errors
    /// The first failure; what was made before it stays in the store.
    pub fn build(&self) -> Result<Built, EngineError> {
        let ran = Arc::new(AtomicUsize::new(0));
        let mut lost = BTreeSet::new();
        loop {
            match self.walk(&ran) {
                Err(EngineError::Lost { step, .. }) if !lost.contains(&step) => {
                    self.events.notice(
                        format!("`{step}` is not reproducible: made again, it gave something else; the build goes on with that"),
                        Some("`forge build --check` shows what differs".to_owned()),
                    );
                    lost.insert(step);
                }
                other => return other,
            }
        }
    }

    fn walk(&self, ran: &Arc<AtomicUsize>) -> Result<Built, EngineError> {
        let (out, results) = mpsc::channel();
        let state = State {
            trees: self.plan.steps.iter().map(|_| OnceLock::new()).collect(),
            chosen: self.plan.steps.iter().map(|_| OnceLock::new()).collect(),
            keys: self.plan.steps.iter().map(|_| OnceLock::new()).collect(),
            recorded: self.plan.steps.iter().map(|_| OnceLock::new()).collect(),
            offered: self.plan.steps.iter().map(|_| OnceLock::new()).collect(),
            said_by: self.plan.steps.iter().map(|_| OnceLock::new()).collect(),
            useless: Mutex::default(),
            ran: Arc::clone(ran),
            arrivals: Arrivals::default(),
            unpacking: Mutex::default(),
            out: out.clone(),
        };
        let mut schedule = Schedule::new(self.plan, self.jobs);
        let mut layers: BTreeMap<usize, Vec<(Option<String>, Layer)>> = BTreeMap::new();
        let mut reused = 0;
        let mut brings = false;
        let mut failure: Option<EngineError> = None;
        thread::scope(|scope| {
            loop {
                if failure.is_none() {
                    for task in schedule.start() {
                        let (out, state) = (out.clone(), &state);
                        scope.spawn(move || {
                            let work = || match task {
                                Task::Step(index) => self.step(state, index),
                                Task::Layer(index) => {
                                    stand_back();
                                    self.layer(state, index)
                                }
                            };
                            // A task that ends without an answer would be waited for for ever.
                            let result = catch_unwind(AssertUnwindSafe(work))
                                .unwrap_or(Err(EngineError::Panicked));
                            // The receiver outlives all tasks.
                            let _received = out.send(Message::Done(task, result));
                        });
                    }
                }
                if schedule.idle() {
                    break;
                }
                let Ok(message) = results.recv() else { break };
                let (task, result) = match message {
                    Message::Done(task, result) => (task, result),
                    Message::Background(background) => {
                        let state = &state;
                        match background {
                            Background::Bring if brings => {}
                            Background::Bring => {
                                brings = true;
                                for _ in 0..DOWNLOADS {
                                    scope.spawn(|| self.bring_packages(state));
                                }
                            }
                            Background::Unpack(begun) => {
                                // One processor is for the scripts that run meanwhile.
                                for _ in 1..self.jobs.max(2) {
                                    let begun = begun.clone();
                                    scope.spawn(move || self.unpack_on_the_side(state, &begun));
                                }
                            }
                        }
                        continue;
                    }
                };
                schedule.finish(task);
                match result {
                    Ok(Done::Step { ran }) => {
                        if !ran {
                            reused += 1;
                        }
                    }
                    Ok(Done::NoLayer) => {}
                    Ok(Done::Layers(made)) => {
                        if let Task::Layer(index) = task {
                            layers.insert(index, made);
                        }
                    }
                    Err(error) => {
                        if failure.is_none() {
                            // What runs beside it cannot save the build; its
                            // results so far stay. After another result than the
                            // known one it is needed as before.
                            if !matches!(error, EngineError::Lost { .. }) {
                                self.running.stop();
                            }
                            failure = Some(error);
                        }
                    }
                }
            }
            state.arrivals.close();
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        let trees = self
            .plan
            .steps
            .iter()
            .zip(&state.trees)
            .filter_map(|(step, tree)| tree.get().map(|tree| (step.name.clone(), *tree)))
            .collect();
        let layers = self
            .plan
            .image
            .layers
            .iter()
            .enumerate()
            .filter_map(|(index, recipe)| {
                let tree = *state.trees[self.index(&recipe.step)].get()?;
                let made = layers.remove(&index)?;
                let name = recipe.step.clone();
                Some(made.into_iter().map(move |(part, layer)| ImageLayer {
                    name: name.clone(),
                    part,
                    layer,
                    tree,
                }))
            })
            .flatten()
            .collect();
        let made = self.made(&state);
        Ok(Built { layers, trees, made, ran: ran.load(Ordering::Relaxed), reused })
    }

    fn lock(&self) -> MutexGuard<'_, Lock> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, name: &str) -> usize {
        // `Plan::new` has checked that every input is a step.
        self.plan.steps.iter().position(|step| step.name == name).unwrap_or_default()
    }

    /// Finds out the tree of a step, running it if nobody knows.
    fn step(&self, state: &State, index: usize) -> Result<Done, EngineError> {
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

    fn known_or_run(
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

    fn recorded_or_run(
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
    fn reuse_whole(
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
    fn lock_key(&self, step: &Step, key: &Digest) -> Result<KeyLock, EngineError> {
        Ok(self
            .store
            .lock_key(key, || self.events.send(Event::StepWaits { step: step.name.clone() }))?)
    }

    /// Runs a step whose result is known, and compares.
    fn compare(
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

    fn started(&self, step: &Step, because: Vec<Reason>) {
        if is_told(step) {
            self.events.send(Event::StepStarted { step: step.name.clone(), because });
        }
    }

    fn finished(&self, state: &State, step: &Step, started: Instant, tree: Digest, list: &Tree) {
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
    fn run(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
    ) -> Result<Digest, EngineError> {
        self.ensure_inputs(state, step, inputs)?;
        let run = self.begin_run(state, step)?;
        let started = Instant::now();
        self.started(step, run.reasons.clone());
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
        self.note_run(state, step, key, run)?;
        self.finished(state, step, started, tree, &list);
        Ok(tree)
    }

    /// Makes sure that what a step sees is in the store. The app's files of a traced step
    /// are not: it gets a copy of its own.
    fn ensure_inputs(
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

    fn act(
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
    fn ensure_tree(&self, state: &State, index: usize, tree: &Digest) -> Result<(), EngineError> {
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

    fn log_path(&self, key: &Digest) -> PathBuf {
        self.store.root().join("logs").join(format!("{}.log", key.short()))
    }
}

/// What is done beside the tasks, ahead of time.
enum Background {
    /// Bring packages; once asked for, until the end.
    Bring,
    /// Unpack those of steps that cannot begin yet.
    Unpack(Vec<Arc<Unpacking>>),
}

/// What the loop that walks the graph is told.
enum Message {
    Done(Task, Result<Done, EngineError>),
    Background(Background),
}

/// What is known while a build goes on.
struct State {
    trees: Vec<OnceLock<Digest>>,
    /// Package steps whose packages were chosen while the plan was carried out.
    chosen: Vec<OnceLock<Step>>,
    /// The keys of steps that have one.
    keys: Vec<OnceLock<Digest>>,
    /// What the results of traced steps were found with.
    recorded: Vec<OnceLock<Recorded>>,
    /// What the cache has packed of steps' trees. Its word, until checked.
    offered: Vec<OnceLock<Vec<Packing>>>,
    /// Whose word the results of steps are that were not made on this machine.
    said_by: Vec<OnceLock<String>>,
    /// Layers that were looked at, and were not what they should be.
    useless: Mutex<BTreeSet<Digest>>,
    /// How many steps have run, those included whose files the store had lost.
    ran: Arc<AtomicUsize>,
    /// Packages that come.
    arrivals: Arrivals,
    /// Package steps whose packages were begun to be unpacked ahead, each at most once; those
    /// that the step has not taken over yet.
    unpacking: Mutex<BTreeMap<usize, Option<Arc<Unpacking>>>>,
    /// To the loop that walks the graph.
    out: mpsc::Sender<Message>,
}

impl State {
    /// Asks for something to be done beside the tasks.
    fn tell_background(&self, background: Background) {
        // The receiver outlives all tasks.
        let _received = self.out.send(Message::Background(background));
    }

    fn unpacking(&self) -> MutexGuard<'_, BTreeMap<usize, Option<Arc<Unpacking>>>> {
        self.unpacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_unpack_ahead(&self, step: usize) -> bool {
        self.trees[step].get().is_none() && !self.unpacking().contains_key(&step)
    }

    fn put_unpacking(&self, step: usize, unpacking: &Arc<Unpacking>) {
        self.unpacking().insert(step, Some(Arc::clone(unpacking)));
    }

    /// What was begun of a step, for the step itself; no one begins with it from now on.
    fn take_unpacking(&self, step: usize) -> Option<Arc<Unpacking>> {
        self.unpacking().insert(step, None).flatten()
    }

    /// The trees of a step's inputs, bottom to top; they are all known when the
    /// step is scheduled.
    fn inputs(&self, engine: &Engine<'_>, step: &Step) -> Vec<Digest> {
        step.root.iter().filter_map(|name| self.trees[engine.index(name)].get().copied()).collect()
    }
}

impl State {
    fn useless(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.useless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the app's files a step reads, where that is known.
    fn reads(&self, index: usize) -> Option<event::Reads> {
        let recorded = self.recorded[index].get()?;
        Some(event::Reads { read: recorded.read.0.len(), given: recorded.given })
    }
}

/// How a step's result came to be known.
#[derive(Clone, Copy)]
enum Known {
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

/// Whether people are told of the step. Those that only take what others made are
/// done in no time.
fn is_told(step: &Step) -> bool {
    !matches!(step.action, Action::Take { .. })
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The paths at which two trees differ.
fn differences(one: &Tree, other: &Tree) -> Vec<String> {
    let shown = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let mut found: Vec<String> = one
        .entries
        .iter()
        .filter(|(path, node)| other.entries.get(*path) != Some(node))
        .map(|(path, _)| shown(path))
        .chain(other.entries.keys().filter(|path| !one.entries.contains_key(*path)).map(shown))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
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
