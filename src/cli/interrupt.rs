//! Ctrl-C and its kin: the sandboxes end, the store stays valid, forge says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::failure::Failure;
use crate::sandbox::Running;

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Watches until dropped.
pub(super) struct Watch(Handle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// How long a build may take to tidy up. What takes longer is cut off: the store
/// stays valid when forge is killed at any moment.
const GRACE: Duration = Duration::from_secs(2);

/// Ends `running` on the first signal, and forge with it soon; a second one ends
/// forge at once.
pub(super) fn watch(running: &Arc<Running>) -> Result<Watch, Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Failure::usage(format!("could not watch for signals: {error}")))?;
    let handle = signals.handle();
    let running = Arc::clone(running);
    thread::spawn(move || {
        for _ in &mut signals {
            if HAPPENED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            running.stop();
            thread::spawn(|| {
                thread::sleep(GRACE);
                super::tell("forge: interrupted\n");
                std::process::exit(130);
            });
        }
    });
    Ok(Watch(handle))
}

/// Whether a signal has come.
pub(super) fn happened() -> bool {
    HAPPENED.load(Ordering::SeqCst)
}

/// For `forge run`: the terminal sends Ctrl-C to the process itself, which ends
/// as it likes; a request to terminate is passed on.
pub(super) fn forward(running: &Arc<Running>) -> Result<Watch, Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Failure::usage(format!("could not watch for signals: {error}")))?;
    let handle = signals.handle();
    let running = Arc::clone(running);
    thread::spawn(move || {
        for signal in &mut signals {
            if signal != SIGINT {
                running.terminate();
            }
        }
    });
    Ok(Watch(handle))
}
