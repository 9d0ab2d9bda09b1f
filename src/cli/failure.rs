//! Errors as the user sees them: one sentence, its causes, what to do, and the
//! exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use crate::buildpack::BuildpackError;
use crate::debian::archive::ArchiveError;
use crate::debian::solve::SolveError;
use crate::download::DownloadError;
use crate::engine::EngineError;
use crate::event::with_causes;
use crate::facts::FactError;
use crate::image::ImageError;
use crate::lock::LockError;
use crate::sandbox::{Mode, SandboxError};
use crate::source::SourceError;
use crate::store::StoreError;
use crate::tree::TreeError;

/// Whose fault it is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    App,
    Usage,
    NothingDetected,
    Network,
    Sandbox,
    Bug,
    Interrupted,
}

impl Kind {
    pub(super) fn code(self) -> u8 {
        match self {
            Kind::App => 1,
            Kind::Usage => 2,
            Kind::NothingDetected => 3,
            Kind::Network => 4,
            Kind::Sandbox => 5,
            Kind::Bug => 70,
            Kind::Interrupted => 130,
        }
    }
}

/// An error on its way to the user.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// What was being done, to what; then each cause.
    pub(super) message: String,
    /// Lines that a failed step printed last.
    pub(super) output: Vec<String>,
    /// What to do next.
    pub(super) advice: Vec<String>,
}

impl Failure {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), output: Vec::new(), advice: Vec::new() }
    }

    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Failure {
        self.advice.push(advice.into());
        self
    }

    /// An error with all its causes in one sentence.
    pub(super) fn of(kind: Kind, error: &(dyn Error + 'static)) -> Failure {
        let message = with_causes(error);
        let damaged = message.contains("in the store is damaged");
        let failure = Failure::new(kind, message);
        if damaged {
            return failure.advise("`forge store verify --repair` removes what is damaged; the next build makes it again");
        }
        if disk_is_full(error) {
            return failure
                .advise("the disk that holds forge's store is full: free some space, or use another with --store");
        }
        failure
    }

    /// Prints it and gives the exit code.
    pub(super) fn show(&self, json: bool) -> ExitCode {
        if self.kind != Kind::Interrupted {
            super::tell(&self.text());
        } else {
            super::tell("forge: interrupted\n");
        }
        if json {
            let value = serde_json::json!({
                "event": "failed",
                "code": self.kind.code(),
                "message": self.message,
                "output": self.output,
                "advice": self.advice,
            });
            // The exit code tells as well.
            let _nobody_reads = super::print(&format!("{value}\n"));
        }
        ExitCode::from(self.kind.code())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.output.is_empty() {
            text.push('\n');
            for line in &self.output {
                let _written = writeln!(text, "  | {line}");
            }
            text.push('\n');
        }
        let _written = writeln!(text, "error: {}", self.message);
        for advice in &self.advice {
            let _written = writeln!(text, "  → {advice}");
        }
        text
    }
}

fn disk_is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        }) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Failure {
        let failure = Failure::of(Kind::Usage, &error);
        match error {
            SourceError::Special { .. } => {
                failure.advise("remove it, or exclude it: `[source] exclude = […]` in forge.toml")
            }
            SourceError::Changed { .. } => {
                failure.advise("build again when nothing else writes to the app's folder")
            }
            _ => failure,
        }
    }
}

impl From<FactError> for Failure {
    fn from(error: FactError) -> Failure {
        Failure::of(Kind::App, &error)
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Failure {
        let failure = Failure::of(Kind::Usage, &error);
        failure.advise(
            "restore forge.lock from version control, or remove it to choose everything anew",
        )
    }
}

impl From<BuildpackError> for Failure {
    fn from(error: BuildpackError) -> Failure {
        match &error {
            BuildpackError::NothingDetected { looked_for } => {
                let mut failure = Failure::of(Kind::NothingDetected, &error);
                for (about, looks_for) in looked_for {
                    failure = failure.advise(format!("for {about}, forge looks for {looks_for}"));
                }
                failure
            }
            BuildpackError::Refused { advice, .. } => {
                Failure::of(Kind::App, &error).advise(advice.clone())
            }
            BuildpackError::Unfit { .. }
            | BuildpackError::Release { .. }
            | BuildpackError::Skip { .. }
            | BuildpackError::Unknown { .. }
            | BuildpackError::Parse { .. }
            | BuildpackError::Process { .. }
            | BuildpackError::Start { .. }
            | BuildpackError::ProcessName { .. } => Failure::of(Kind::Usage, &error),
            _ => Failure::of(Kind::Bug, &error),
        }
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Failure {
        match &error {
            ArchiveError::Unreachable { .. } => Failure::of(Kind::Network, &error)
                .advise("check the network and the mirrors: settings, then the machine's apt sources, then Debian's own are used (`forge doctor` shows which)"),
            ArchiveError::Untrusted { .. } | ArchiveError::WrongSuite { .. } | ArchiveError::Damaged { .. } => {
                Failure::of(Kind::Network, &error)
                    .advise("the mirror is wrong, out of date, or tampered with: use another (`[debian] mirror` in the settings)")
            }
            ArchiveError::Solve { source, .. } => {
                let failure = Failure::of(Kind::App, &error);
                match source.as_ref() {
                    SolveError::Unknown { similar, .. } if !similar.is_empty() => {
                        failure.advise(format!("did you mean {}?", similar.join(" or ")))
                    }
                    SolveError::Unknown { .. } => failure.advise("check the names in `[packages]` of forge.toml"),
                    _ => failure,
                }
            }
            ArchiveError::Store(_) => Failure::of(Kind::App, &error),
            _ => Failure::of(Kind::App, &error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let failure = Failure::of(Kind::App, &error);
        match error {
            StoreError::Tree(TreeError::Special { .. }) => failure,
            StoreError::NotAStore { .. } => {
                Failure { kind: Kind::Usage, ..failure }.advise("name a new or empty folder with --store")
            }
            StoreError::Version { .. } => Failure { kind: Kind::Usage, ..failure }
                .advise("use another folder with --store, or remove this one if nothing else is in it"),
            StoreError::Mismatch { .. } | StoreError::Record { .. } => {
                failure.advise("`forge store verify` lists what is damaged, and `forge store verify --repair` removes it")
            }
            _ => failure,
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        match error {
            ImageError::Store(error) => error.into(),
            ImageError::Invalid { .. } => Failure::of(Kind::Bug, &error),
            ImageError::NoDockerType { .. } => Failure::of(Kind::Usage, &error)
                .advise("build it with OCI's media types (`--media-types oci`)"),
            ImageError::NotALayout { .. } => {
                Failure::of(Kind::Usage, &error).advise("name a new folder")
            }
            ImageError::Io { .. } => Failure::of(Kind::App, &error),
        }
    }
}

impl From<DownloadError> for Failure {
    fn from(error: DownloadError) -> Failure {
        Failure::of(Kind::Network, &error)
    }
}

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Failure {
        match error {
            SandboxError::Interrupted => Failure::new(Kind::Interrupted, "interrupted"),
            SandboxError::Setup(_) => Failure::of(Kind::Sandbox, &error).advise(SANDBOX_ADVICE),
            _ => Failure::of(Kind::App, &error),
        }
    }
}

const SANDBOX_ADVICE: &str =
    "`forge doctor` shows what this machine allows and which setting to change";

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        match error {
            EngineError::Interrupted => Failure::new(Kind::Interrupted, "interrupted"),
            EngineError::StepFailed { ref tail, ref log, ref advice, network, .. } => {
                let kind = if network { Kind::Network } else { Kind::App };
                let mut failure = Failure::of(kind, &error);
                failure.output = tail.clone();
                failure.advice = advice.clone();
                failure.advise(format!("all that it printed: {}", log.display()))
            }
            EngineError::NotReproducible { ref differ, .. } => {
                let mut failure = Failure::of(Kind::App, &error);
                failure.output = differ.iter().take(25).cloned().collect();
                failure
            }
            EngineError::TraceMissed { ref step, ref differ } => {
                let mut failure = Failure::of(Kind::App, &error).advise(format!(
                    "is `{step}` not reproducible? `forge build --check` tells; if it is, it depends on the size of a file that it does not read: `trace = false` in `[build]` of forge.toml, or `--no-trace`, counts all files"
                ));
                failure.output = differ.iter().take(25).cloned().collect();
                failure
            }
            EngineError::NoSandbox { ref tried } => {
                let mut failure = Failure::of(Kind::Sandbox, &error);
                for probed in tried {
                    let mode = match probed.mode {
                        Mode::Namespaces => "namespaces",
                        Mode::Chroot => "chroot",
                    };
                    if let Err(problem) = &probed.result {
                        failure = failure.advise(format!("{mode}: {problem}"));
                    }
                }
                failure.advise(SANDBOX_ADVICE)
            }
            EngineError::Sandbox { source: SandboxError::Setup(_), .. } => {
                Failure::of(Kind::Sandbox, &error).advise(SANDBOX_ADVICE)
            }
            EngineError::Package { ref source, .. } => {
                let absent = source.is_absent();
                let failure = Failure::of(Kind::Network, &error);
                if absent {
                    failure.advise("the version that forge.lock names has left the mirrors: `forge update` chooses newer ones")
                } else {
                    failure.advise(
                        "check the network and the mirrors (`forge doctor` shows which are used)",
                    )
                }
            }
            EngineError::NoMirror { .. } | EngineError::Download(_) => {
                Failure::of(Kind::Network, &error)
            }
            EngineError::Base { ref source, .. } => super::base::failure(source.as_ref()),
            EngineError::NotDebian { .. } => Failure::of(Kind::Usage, &error)
                .advise("take an image that is made from Debian, or leave the packages out"),
            EngineError::NotLocked { .. } => Failure::of(Kind::Usage, &error)
                .advise("build once without --locked, and commit forge.lock"),
            EngineError::Archive(error) => error.into(),
            EngineError::Store(error) => error.into(),
            EngineError::Source(error) => error.into(),
            EngineError::Hint { .. } | EngineError::Panicked => Failure::of(Kind::Bug, &error),
            EngineError::PinnedElsewhere { .. } => Failure::of(Kind::Usage, &error).advise(
                "restore forge.lock from version control, or remove it to choose everything anew",
            ),
            EngineError::Lost { .. } => Failure::of(Kind::App, &error)
                .advise("the step is not reproducible: `forge build --check` shows what differs"),
            _ => Failure::of(Kind::App, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = StoreError::Io {
            action: "write",
            path: "/x".into(),
            source: std::io::Error::from(std::io::ErrorKind::StorageFull),
        };
        let failure = Failure::from(EngineError::Store(error));
        assert_eq!(failure.kind.code(), 1);
        assert_eq!(failure.message.matches("could not write").count(), 1);
        assert!(failure.text().contains("disk"), "{}", failure.text());
    }

    #[test]
    fn nothing_detected_says_what_was_looked_for() {
        let failure = Failure::from(BuildpackError::NothingDetected {
            looked_for: vec![("Django".to_owned(), "manage.py".to_owned())],
        });
        assert_eq!(failure.kind.code(), 3);
        assert!(failure.text().contains("manage.py"));
    }
}
