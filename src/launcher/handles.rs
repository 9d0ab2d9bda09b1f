//! Gives a child a pipe as its file descriptor 3: what `Command` cannot do.
//!
//! Tried and left: a shell with `3>&1` (images need not have one), and a pipe
//! that happens to be number 3 (all that std opens is closed on exec).

#![allow(unsafe_code, reason = "std maps only the descriptors 0 to 2 of a child")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// The number that exec.d programs write to.
const THIRD: i32 = 3;

unsafe extern "C" {
    fn dup2(from: i32, to: i32) -> i32;
}

/// Starts the command with `pipe` as descriptor 3. The pipe is closed here.
///
/// # Errors
/// As `Command::spawn`.
pub fn spawn_with_third(command: &mut Command, pipe: OwnedFd) -> io::Result<Child> {
    // Were it number 3 already, dup2 would leave it closed on exec. `pipe`
    // stays open meanwhile, so that the copy has another number.
    let copy = if pipe.as_raw_fd() == THIRD { Some(pipe.try_clone()?) } else { None };
    let from = copy.as_ref().unwrap_or(&pipe).as_raw_fd();
    // SAFETY: the closure runs in the child between fork and exec. It calls
    // nothing but dup2, which is async-signal-safe, and allocates nothing
    // (`last_os_error` only reads errno). `from` is open until `spawn` returns.
    // Descriptor 3 is never the pipe through which std reports a failed exec:
    // both ends of our pipe, made earlier, took the lowest free numbers.
    unsafe {
        command.pre_exec(move || match dup2(from, THIRD) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command.spawn()
}
