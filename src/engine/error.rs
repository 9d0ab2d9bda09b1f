//! Why a build ended without an image.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::debian::archive::ArchiveError;
use crate::debian::deb::DebError;
use crate::debian::rootfs::RootfsError;
use crate::digest::Digest;
use crate::download::DownloadError;
use crate::layer::{LayerError, SplitError, UnpackError};
use crate::sandbox::{Exit, Probed, SandboxError};
use crate::source::SourceError;
use crate::store::StoreError;

/// Why a build ended without an image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A step's command ran and failed.
    #[error("step `{step}` failed{}", ending(exit))]
    StepFailed {
        /// The step.
        step: String,
        /// How the command ended.
        exit: Exit,
        /// The last lines that it printed.
        tail: Vec<String>,
        /// Where all that it printed lies.
        log: PathBuf,
        /// What its output may mean.
        advice: Vec<String>,
        /// Whether the network was what failed.
        network: bool,
    },
    /// A step ran well and did not make what it should.
    #[error("step `{step}` did not make its output `{path}`")]
    OutputMissing {
        /// The step.
        step: String,
        /// The path.
        path: String,
    },
    /// A step's tree cannot be split into layers.
    #[error("could not split what step `{step}` made into layers")]
    Split {
        /// The step.
        step: String,
        /// What is wrong.
        source: SplitError,
    },
    /// `forge.lock` pins a file that the step does not make.
    #[error("forge.lock pins `{path}` for step `{step}`, which is not among its outputs")]
    PinnedElsewhere {
        /// The step.
        step: String,
        /// The path.
        path: String,
    },
    /// `forge.lock` may not change, and does not name a step's packages.
    #[error("forge.lock does not name the packages of step `{step}`")]
    NotLocked {
        /// The step.
        step: String,
    },
    /// No exact packages could be chosen.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The image under the app cannot be had.
    #[error("step `{step}` did not get its image")]
    Base {
        /// The step.
        step: String,
        /// What the registry said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The layers of the image under the app cannot be unpacked.
    #[error("step `{step}` could not unpack its image")]
    BaseLayers {
        /// The step.
        step: String,
        /// Why not.
        source: Box<UnpackError>,
    },
    /// Packages are to be added to an image that is not of Debian.
    #[error(
        "packages are to be added to `{reference}`, which is {}",
        if system.is_empty() { "no system with a package manager" } else { system }
    )]
    NotDebian {
        /// The image.
        reference: String,
        /// What it says it is; empty when it says nothing.
        system: String,
    },
    /// A part of forge failed in a way that it should not.
    #[error("forge failed while it built; this is a bug in forge")]
    Panicked,
    /// Two runs of a step gave different results.
    #[error("step `{step}` is not reproducible: {} paths differ between two runs", differ.len())]
    NotReproducible {
        /// The step.
        step: String,
        /// The paths.
        differ: Vec<String>,
    },
    /// A traced step was not to run again, and when it ran gave something else.
    #[error(
        "step `{step}` was reused, as nothing that it had read has changed, but makes something else now: {} paths differ",
        differ.len()
    )]
    TraceMissed {
        /// The step.
        step: String,
        /// The paths.
        differ: Vec<String>,
    },
    /// A result whose files were lost came out differently when made again. The build then
    /// goes on with what it is now; here twice.
    #[error("step `{step}` was to give {expected} again, and gave {found}")]
    Lost {
        /// The step.
        step: String,
        /// The recorded tree.
        expected: Digest,
        /// The tree that it made now.
        found: Digest,
    },
    /// The sandbox could not run the step.
    #[error("step `{step}` could not be started")]
    Sandbox {
        /// The step.
        step: String,
        /// Why not.
        source: SandboxError,
    },
    /// This machine allows no way of isolation.
    #[error("this machine allows no sandbox")]
    NoSandbox {
        /// What was tried.
        tried: Vec<Probed>,
    },
    /// A package could not be had from any mirror.
    #[error("could not download `{package}`")]
    Package {
        /// Its name and version.
        package: String,
        /// What the last mirror said.
        source: DownloadError,
    },
    /// No mirror is known for a package.
    #[error("there is no mirror for `{package}`")]
    NoMirror {
        /// Its name and version.
        package: String,
    },
    /// A package's file is damaged or hostile.
    #[error("package `{package}` could not be unpacked")]
    Unpack {
        /// Its name.
        package: String,
        /// Why not.
        source: DebError,
    },
    /// The package database could not be written.
    #[error("the packages' database could not be written")]
    Database(#[from] RootfsError),
    /// Downloads cannot be set up.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// A pattern of a buildpack's hint that is no regular expression.
    #[error("the hint `{pattern}` is not a regular expression")]
    Hint {
        /// The pattern.
        pattern: String,
        /// Why not.
        source: Box<regex::Error>,
    },
    /// The disk refused.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The app's files failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A layer could not be packed.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The user interrupted the build.
    #[error("interrupted")]
    Interrupted,
}

fn ending(exit: &Exit) -> String {
    match exit {
        Exit::Status(status) => format!(" with exit status {status}"),
        Exit::Signal(9) => " and was killed; memory may have run out".to_owned(),
        Exit::Signal(signal) => format!(", ended by signal {signal}"),
    }
}
