//! The launcher as parent: it passes signals on and reaps, until its child has ended.
//!
//! Linux keeps signals from process 1 that it has no handler for. A program that ends itself by
//! the signal that it was asked to end with, as Puma does, then goes on for ever; under a parent
//! it ends. The parent also reaps orphans, which are process 1's.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use crate::choose::Launch;
use crate::environment::Environment;
use crate::execute;
use crate::failure::Failure;
use crate::system::{self, OF_THE_TERMINAL, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, Watch};

/// Added to the number of a signal, as in shells.
const SIGNAL: i32 = 128;

static WATCH: OnceLock<Watch> = OnceLock::new();
/// The signal that asked for the end before anything was started; 0 for none.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// Holds signals back from here on; before there are other threads.
pub fn watch() -> &'static Watch {
    WATCH.get_or_init(Watch::start)
}

/// Lets signals through again, for a program that takes this process over.
pub fn release() {
    if let Some(watch) = WATCH.get() {
        watch.release();
    }
}

/// The signal with which somebody has asked for the end, if anybody has.
pub fn asked_to_stop() -> Option<i32> {
    if let Some(watch) = WATCH.get() {
        while let Some(signal) = watch.next(Some(Duration::ZERO)) {
            note(signal);
        }
    }
    Some(ASKED.load(Ordering::Relaxed)).filter(|signal| *signal > 0)
}

fn note(signal: i32) {
    if [SIGHUP, SIGINT, SIGQUIT, SIGTERM].contains(&signal) {
        ASKED.store(signal, Ordering::Relaxed);
    }
}

/// Runs a command to its end. A signal that asks the launcher to end is passed on, and noted.
///
/// # Errors
/// It cannot be started.
pub fn supervise(command: &mut Command) -> io::Result<ExitStatus> {
    let Some(watch) = WATCH.get() else { return command.status() };
    let child = watch.spawn(command, true)?.id();
    Ok(until_end(watch, child))
}

/// Starts the program and stays until it ends; gives the status to end with.
///
/// # Errors
/// It cannot be started.
pub fn run(launch: &Launch, environment: &Environment, app: &Path) -> Result<u8, Failure> {
    let watch = watch();
    let spawn = |command: &mut Command| Ok(watch.spawn(command, true)?.id());
    let child = execute::start(launch, environment, app, spawn)?;
    Ok(code(until_end(watch, child)))
}

fn until_end(watch: &Watch, child: u32) -> ExitStatus {
    loop {
        match watch.next(None) {
            Some(SIGCHLD) => {
                let mut ended = None;
                while let Some((pid, status)) = system::reap() {
                    if pid == child {
                        ended = Some(status);
                    }
                }
                if let Some(status) = ended {
                    return status;
                }
            }
            Some(signal) if !OF_THE_TERMINAL.contains(&signal) => {
                note(signal);
                system::send(child, signal);
            }
            _ => {}
        }
    }
}

/// The exit status that tells how a program ended.
pub fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| SIGNAL + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
