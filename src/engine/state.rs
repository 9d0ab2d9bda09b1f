//! What is known while a build goes on, and what the loop that walks the graph is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};

use super::arrivals::Arrivals;
use super::schedule::Task;
use super::unpacking::Unpacking;
use super::{Done, Engine, EngineError, Recorded};
use crate::digest::Digest;
use crate::event;
use crate::layer::Packing;
use crate::plan::Step;

/// What is done beside the tasks, ahead of time.
pub(super) enum Background {
    /// Bring packages; once asked for, until the end.
    Bring,
    /// Unpack those of steps that cannot begin yet.
    Unpack(Vec<Arc<Unpacking>>),
}

/// What the loop that walks the graph is told.
pub(super) enum Message {
    Done(Task, Result<Done, EngineError>),
    Background(Background),
}

/// What is known while a build goes on.
pub(super) struct State {
    pub(super) trees: Vec<OnceLock<Digest>>,
    /// Package steps whose packages were chosen while the plan was carried out.
    pub(super) chosen: Vec<OnceLock<Step>>,
    /// The keys of steps that have one.
    pub(super) keys: Vec<OnceLock<Digest>>,
    /// What the results of traced steps were found with.
    pub(super) recorded: Vec<OnceLock<Recorded>>,
    /// What the cache has packed of steps' trees. Its word, until checked.
    pub(super) offered: Vec<OnceLock<Vec<Packing>>>,
    /// Whose word the results of steps are that were not made on this machine.
    pub(super) said_by: Vec<OnceLock<String>>,
    /// Layers that were looked at, and were not what they should be.
    pub(super) useless: Mutex<BTreeSet<Digest>>,
    /// How many steps have run, those included whose files the store had lost.
    pub(super) ran: Arc<AtomicUsize>,
    /// Packages that come.
    pub(super) arrivals: Arrivals,
    /// Package steps whose packages were begun to be unpacked ahead, each at most once; those
    /// that the step has not taken over yet.
    pub(super) unpacking: Mutex<BTreeMap<usize, Option<Arc<Unpacking>>>>,
    /// To the loop that walks the graph.
    pub(super) out: mpsc::Sender<Message>,
}

impl State {
    /// Asks for something to be done beside the tasks.
    pub(super) fn tell_background(&self, background: Background) {
        // The receiver outlives all tasks.
        let _received = self.out.send(Message::Background(background));
    }

    pub(super) fn unpacking(&self) -> MutexGuard<'_, BTreeMap<usize, Option<Arc<Unpacking>>>> {
        self.unpacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn may_unpack_ahead(&self, step: usize) -> bool {
        self.trees[step].get().is_none() && !self.unpacking().contains_key(&step)
    }

    pub(super) fn put_unpacking(&self, step: usize, unpacking: &Arc<Unpacking>) {
        self.unpacking().insert(step, Some(Arc::clone(unpacking)));
    }

    /// What was begun of a step, for the step itself; no one begins with it from now on.
    pub(super) fn take_unpacking(&self, step: usize) -> Option<Arc<Unpacking>> {
        self.unpacking().insert(step, None).flatten()
    }

    /// The trees of a step's inputs, bottom to top; they are all known when the
    /// step is scheduled.
    pub(super) fn inputs(&self, engine: &Engine<'_>, step: &Step) -> Vec<Digest> {
        step.root.iter().filter_map(|name| self.trees[engine.index(name)].get().copied()).collect()
    }

    pub(super) fn useless(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.useless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the app's files a step reads, where that is known.
    pub(super) fn reads(&self, index: usize) -> Option<event::Reads> {
        let recorded = self.recorded[index].get()?;
        Some(event::Reads { read: recorded.read.0.len(), given: recorded.given })
    }
}
