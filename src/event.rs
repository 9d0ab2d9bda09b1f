//! The closed list of what can happen in a build.
//!
//! Rooms report what happens by sending an [`Event`]; the terminal view, the
//! plain view and `--json` are views of this list and nothing else is printed.
//! An event carries data, not sentences, except for words that came from outside.

use std::error::Error;
use std::fmt::Write;
use std::sync::mpsc::Sender;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Why a step did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReusedFrom {
    /// Its result was in the store.
    Store,
    /// Another machine has published it.
    Cache,
    /// Its result is pinned in `forge.lock`.
    Lock,
}

/// Why a step runs: what differs from its last run for the same folder, on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Reason {
    /// It has not run before.
    First,
    /// The step is planned otherwise: its command, its outputs.
    Definition,
    /// Another text of a script.
    Script {
        /// Its name.
        name: String,
    },
    /// Another value of a variable.
    Variable {
        /// Its name.
        name: String,
    },
    /// Other versions of packages.
    Packages,
    /// Another step gave something else.
    Input {
        /// That step.
        step: String,
    },
    /// A file of the app that it reads has another content.
    FileChanged {
        /// The file, as the step sees it, without leading slash.
        path: String,
    },
    /// A file is of another kind or mode, or a link leads elsewhere.
    FileIs {
        /// The file.
        path: String,
    },
    /// A file is new.
    FileAdded {
        /// The file.
        path: String,
    },
    /// A file is gone.
    FileRemoved {
        /// The file.
        path: String,
    },
    /// There are more files of which one of these is so.
    MoreFiles {
        /// How many.
        count: usize,
    },
    /// Nothing differs; its result is not in the store any more.
    Lost,
    /// It was asked for: `--check`, `--verify-trace`.
    Checked,
}

/// How many of the app's files a traced step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reads {
    /// Files that it reads.
    pub read: usize,
    /// Files that it is given.
    pub given: usize,
}

/// Something that happened. Times are in milliseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// The app was recognised.
    Detected {
        /// The buildpack that plans.
        buildpack: String,
        /// What it was recognised by.
        facts: Vec<FactShown>,
    },
    /// The plan is made.
    Planned {
        /// Its steps, inputs first.
        steps: Vec<StepShown>,
    },
    /// Something that the user should know but that stops nothing.
    Notice {
        /// What.
        text: String,
        /// What to do about it, if anything.
        advice: Option<String>,
    },
    /// Package indexes are read, and versions chosen.
    Solving {
        /// The release: `trixie`.
        release: String,
    },
    /// Versions are chosen.
    Solved {
        /// The step that they are for.
        step: String,
        /// How many packages.
        packages: usize,
        /// How many bytes of .debs.
        bytes: u64,
        /// Whether `forge.lock` named them already.
        locked: bool,
    },
    /// A step begins to run.
    StepStarted {
        /// The step.
        step: String,
        /// Why.
        because: Vec<Reason>,
    },
    /// Another build is running the same step; this one waits for its result.
    StepWaits {
        /// The step.
        step: String,
    },
    /// A line that a step printed.
    StepLine {
        /// The step.
        step: String,
        /// The line.
        line: String,
    },
    /// A download of a step went on.
    Download {
        /// The step.
        step: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A step did not have to run.
    StepReused {
        /// The step.
        step: String,
        /// Where its result was.
        from: ReusedFrom,
        /// The tree.
        tree: Digest,
        /// How many of the app's files decide, of a traced step.
        reads: Option<Reads>,
    },
    /// A step ran to its end.
    StepFinished {
        /// The step.
        step: String,
        /// How long it took.
        milliseconds: u64,
        /// The tree it made.
        tree: Digest,
        /// Bytes of the tree's files.
        bytes: u64,
        /// How many of the app's files it read, of a traced step.
        reads: Option<Reads>,
    },
    /// A step failed; the error that ends the build tells the rest.
    StepFailed {
        /// The step.
        step: String,
    },
    /// A layer is there.
    LayerPacked {
        /// The step that it was made from.
        step: String,
        /// Which part of that it is, where it is one of several.
        #[serde(skip_serializing_if = "Option::is_none")]
        part: Option<String>,
        /// Digest of the blob.
        digest: Digest,
        /// Bytes of the blob.
        size: u64,
        /// Whether it was packed by an earlier build.
        reused: bool,
        /// How long packing took.
        milliseconds: u64,
    },
    /// A blob is sent to a registry.
    Pushing {
        /// The layer's step, or `configuration`.
        what: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A blob is in the registry.
    Pushed {
        /// The layer's step, or `configuration`.
        what: String,
        /// Bytes that were sent; nothing when the registry had it.
        sent: u64,
    },
    /// The files of a result came from the shared cache, because a step that runs, or an
    /// output that is written, needs them.
    Fetched {
        /// The step that they are of.
        step: String,
        /// Bytes of the layer.
        bytes: u64,
    },
    /// A result is sent to the shared cache.
    Caching {
        /// The step.
        what: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The shared cache has what this build made.
    Cached {
        /// The repository.
        repository: String,
        /// Entries that were written.
        results: usize,
        /// Bytes of the blobs that were sent for them.
        sent: u64,
    },
    /// The whole image is known: nothing has changed since it was made.
    ImageKnown {
        /// The repository that knows it.
        repository: String,
    },
    /// A tag named another image before.
    Moved {
        /// The registry with the repository and the tag.
        reference: String,
        /// What it named when the push began.
        from: Digest,
        /// What it names now.
        to: Digest,
    },
    /// The image was written somewhere.
    Written {
        /// Where: a file, a folder, a reference.
        to: String,
    },
    /// The build is done.
    Finished(Summary),
}

/// A fact and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FactShown {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// File and line.
    pub origin: String,
}

/// A step of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepShown {
    /// Its name.
    pub name: String,
    /// What it is, in a few words.
    pub about: String,
    /// The steps that it needs.
    pub needs: Vec<String>,
}

/// A layer of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerShown {
    /// The step that made it.
    pub step: String,
    /// Which part of that it is, where it is one of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the tar.
    pub unpacked: u64,
}

/// What a finished build has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Digest of the manifest.
    pub digest: Digest,
    /// The app's folder, as it was named.
    pub app: String,
    /// Steps that ran.
    pub ran: usize,
    /// Steps whose results were reused.
    pub reused: usize,
    /// Layers, bottom to top.
    pub layers: Vec<LayerShown>,
    /// From start to end.
    pub milliseconds: u64,
    /// Process types of the image.
    pub processes: Vec<String>,
}

/// Where events go. Cheap to clone, one for each thread.
#[derive(Clone, Debug)]
pub struct Events(Sender<Event>);

impl Events {
    /// Sends to `sender`.
    #[must_use]
    pub fn new(sender: Sender<Event>) -> Events {
        Events(sender)
    }

    /// Reports that something happened.
    pub fn send(&self, event: Event) {
        // The view ends only when all senders are gone; if it died, the build
        // goes on without being watched.
        let _nobody_watches = self.0.send(event);
    }

    /// Reports a [`Event::Notice`].
    pub fn notice(&self, text: impl Into<String>, advice: Option<String>) {
        self.send(Event::Notice { text: text.into(), advice });
    }
}

/// An error with all its causes in one sentence, for a notice.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Transparent errors repeat their cause.
        if !message.ends_with(&text) {
            let _written = write!(message, ": {text}");
        }
        cause = error.source();
    }
    message
}
