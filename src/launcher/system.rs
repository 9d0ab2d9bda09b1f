//! Signals and children, for which std has no words. Linux only; the layouts are those of its
//! C libraries on 64-bit machines.
//!
//! While a [`Watch`] lives, signals wait until they are asked for, and programs that are
//! started get the mask of before. Nothing here decides what a signal means.

#![allow(unsafe_code, reason = "std has neither signals nor waitpid")]

use std::ffi::{c_int, c_ulong, c_void};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::ptr;
use std::time::Duration;

/// The terminal hangs up.
pub const SIGHUP: i32 = 1;
/// Ctrl-C.
pub const SIGINT: i32 = 2;
/// Ctrl-\.
pub const SIGQUIT: i32 = 3;
/// The end that nobody can refuse.
pub const SIGKILL: i32 = 9;
/// The usual way to ask for the end.
pub const SIGTERM: i32 = 15;
/// A child has changed.
pub const SIGCHLD: i32 = 17;

/// Not held back: faults of our own (ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS), what cannot be, and
/// those of the C library itself.
const LEFT_ALONE: [i32; 11] = [4, 5, 6, 7, 8, SIGKILL, 11, 19, 31, 32, 33];

/// For who uses the terminal behind the back of another: nobody's but our own.
pub const OF_THE_TERMINAL: [i32; 2] = [21, 22];

const SIG_SETMASK: c_int = 2;
const WNOHANG: c_int = 1;
const PR_SET_CHILD_SUBREAPER: c_int = 36;

/// glibc and musl both reserve 1024 bits; the kernel looks at the first 64.
#[derive(Clone, Copy)]
#[repr(C)]
struct SignalSet([u64; 16]);

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigtimedwait(set: *const SignalSet, info: *mut c_void, limit: *const Timespec) -> c_int;
    fn waitpid(pid: i32, status: *mut c_int, options: c_int) -> i32;
    fn kill(pid: i32, signal: c_int) -> c_int;
    fn tcsetpgrp(terminal: c_int, group: i32) -> c_int;
    fn getpid() -> i32;
    fn prctl(option: c_int, ...) -> c_int;
}

/// Signals are held back as long as this lives, and a little longer: see [`Watch::release`].
pub struct Watch {
    before: SignalSet,
    held: SignalSet,
}

impl Watch {
    /// Begins to hold signals back; orphans of what is started become our children. To be
    /// called before there are other threads.
    pub fn start() -> Watch {
        let mut held = SignalSet([0; 16]);
        for signal in (1..=64).filter(|signal| !LEFT_ALONE.contains(signal)) {
            held.0[0] |= 1 << (signal - 1);
        }
        let mut before = SignalSet([0; 16]);
        // SAFETY: both point to whole sets of the C library's size, and prctl takes one number.
        unsafe {
            sigprocmask(SIG_SETMASK, &raw const held, &raw mut before);
            prctl(PR_SET_CHILD_SUBREAPER, 1 as c_ulong);
        }
        Watch { before, held }
    }

    /// The next signal; `None` when the time is up.
    pub fn next(&self, limit: Option<Duration>) -> Option<i32> {
        let limit = limit.map(|limit| Timespec {
            seconds: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(limit.subsec_nanos()),
        });
        let time = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        loop {
            // SAFETY: a whole set, no place for details, and a time that lives until the call
            // ends, or none.
            let signal = unsafe { sigtimedwait(&raw const self.held, ptr::null_mut(), time) };
            match signal {
                1.. => return Some(signal),
                _ if limit.is_some() => return None,
                // Stopped and continued: it waits on.
                _ => {}
            }
        }
    }

    /// Ends the holding back, for a program that takes this process over.
    pub fn release(&self) {
        // SAFETY: a whole set, and nothing to be written.
        unsafe { sigprocmask(SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }

    /// Starts a program in a process group of its own, with the signal mask of before. With
    /// `terminal`, the group has the terminal, if standard input is one.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, command: &mut Command, terminal: bool) -> io::Result<Child> {
        let before = self.before;
        let ready = move || {
            // SAFETY: between fork and exec: three calls that are async-signal-safe, on whole
            // values of our own. Where standard input is no terminal tcsetpgrp fails, and
            // nothing is to be done. SIGTTOU, which it causes, is held back until after it.
            unsafe {
                if terminal {
                    tcsetpgrp(0, getpid());
                }
                sigprocmask(SIG_SETMASK, &raw const before, ptr::null_mut());
            }
            Ok(())
        };
        // SAFETY: see above; it allocates nothing.
        unsafe { command.process_group(0).pre_exec(ready) };
        command.spawn()
    }
}

/// A child that has ended, ours or an orphan's; `None` when there is none now.
pub fn reap() -> Option<(u32, ExitStatus)> {
    let mut status = 0;
    // SAFETY: `status` is a place for a number.
    let pid = unsafe { waitpid(-1, &raw mut status, WNOHANG) };
    u32::try_from(pid).ok().filter(|pid| *pid > 0).map(|pid| (pid, ExitStatus::from_raw(status)))
}

/// Sends a signal to a process. One that has ended meanwhile needs none.
pub fn send(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: two numbers; `pid` is that of a child that was not reaped yet.
        unsafe { kill(pid, signal) };
    }
}

/// Sends a signal to a process and all of its group.
pub fn send_to_group(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // SAFETY: as above; a negative number means the group.
        unsafe { kill(-pid, signal) };
    }
}
