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
mod state;
mod step;
mod take;
mod traced;
mod unpacking;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::download::Downloads;
use crate::event::Events;
use crate::image::ImageLayer;
use crate::layer::{Compression, Layer};
use crate::lock::Lock;
use crate::plan::{Package, Plan, Step};
use crate::sandbox::{Mode, Running};
use crate::source::Snapshot;
use crate::store::Store;

use arrivals::{Arrivals, DOWNLOADS};
pub use base::{BaseImage, Fetch, Ground};
pub use cached::{Cache, Found, Made};
pub use error::EngineError;
pub use libraries::is_chosen_late;
pub use network::Identity;
pub use packages::setup;
pub use runs::{Run, given, run_key};
use schedule::{Schedule, Task};
use state::{Background, Message, State};
use step::{Acted, Known, differences, is_told, milliseconds};
pub use traced::Recorded;
use unpacking::stand_back;

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
    /// Told when no step is left whose packages are to be chosen.
    pub all_chosen: &'a (dyn Fn() + Sync),
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

    fn log_path(&self, key: &Digest) -> PathBuf {
        self.store.root().join("logs").join(format!("{}.log", key.short()))
    }
}
