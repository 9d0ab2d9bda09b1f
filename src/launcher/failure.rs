//! The one way in which the launcher gives up.

use std::fmt;

/// The launcher itself failed: the number that CNB launchers use.
const OWN: u8 = 82;
/// As in shells: there is a program, but it cannot be run.
const CANNOT_RUN: u8 = 126;
/// As in shells: there is no such program.
const NOT_FOUND: u8 = 127;
/// Wrong usage of `forge` inside an image.
const USAGE: u8 = 2;

/// Why nothing was started: shown as one line and a hint.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit status.
    pub code: u8,
    /// What was being done, after "cannot".
    doing: String,
    /// What went wrong.
    reason: String,
    /// What to do next.
    next: String,
}

impl Failure {
    /// The launcher could not do its own work.
    pub fn own(doing: &str, reason: impl fmt::Display, next: &str) -> Failure {
        Failure::new(OWN, doing, &reason, next)
    }

    /// The program is there and the system refuses to run it.
    pub fn cannot_run(doing: &str, reason: impl fmt::Display, next: &str) -> Failure {
        Failure::new(CANNOT_RUN, doing, &reason, next)
    }

    /// There is no such program.
    pub fn not_found(doing: &str, reason: impl fmt::Display, next: &str) -> Failure {
        Failure::new(NOT_FOUND, doing, &reason, next)
    }

    /// The words after `forge` mean nothing here.
    pub fn usage(doing: &str, reason: impl fmt::Display, next: &str) -> Failure {
        Failure::new(USAGE, doing, &reason, next)
    }

    /// Something that had to succeed before the start ended with that status.
    pub fn ended(code: u8, doing: &str, reason: impl fmt::Display, next: &str) -> Failure {
        Failure::new(code, doing, &reason, next)
    }

    fn new(code: u8, doing: &str, reason: &dyn fmt::Display, next: &str) -> Failure {
        let (doing, next) = (doing.to_owned(), next.to_owned());
        Failure { code, doing, reason: reason.to_string(), next }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "forge launcher: cannot {}: {}", self.doing, self.reason)?;
        writeln!(out, "  {}", self.next)
    }
}
