//! Starts programs in two ways that `Command` cannot: with a pipe as file
//! descriptor 3, and with exactly what the kernel says about the file.
//!
//! The C library runs a file that the kernel does not know (no `#!`, or a
//! program for another machine) as a script of `/bin/sh`. The contract of
//! buildpacks wants an error there.
//!
//! Tried and left for the pipe: a shell with `3>&1` (images need not have one),
//! and a pipe that happens to be number 3 (all that std opens is closed on exec).

#![allow(unsafe_code, reason = "std has neither dup2 nor execve")]

use std::ffi::{CString, OsStr, c_char};
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

use crate::environment::Environment;

/// The number that exec.d programs write to.
const THIRD: i32 = 3;

unsafe extern "C" {
    fn dup2(from: i32, to: i32) -> i32;
    fn execve(file: *const c_char, words: *const *const c_char, pairs: *const *const c_char)
    -> i32;
}

/// What execve wants: strings, and an array of pointers to them that ends with
/// a null pointer.
struct Strings {
    /// What the pointers point to; a `CString` keeps its bytes where they are.
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers lead to memory that moves along with them and that
// nobody writes to.
unsafe impl Send for Strings {}
// SAFETY: as above.
unsafe impl Sync for Strings {}

impl Strings {
    fn new(texts: impl IntoIterator<Item = Vec<u8>>) -> io::Result<Strings> {
        let owned = texts.into_iter().map(CString::new).collect::<Result<Vec<CString>, _>>()?;
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Ok(Strings { _owned: owned, pointers })
    }
}

/// Makes the command execute `file` with these words, `argv[0]` among them, and
/// this environment, and fail with what the kernel says.
///
/// # Errors
/// A NUL byte in a word or a variable.
pub fn exactly(
    command: &mut Command,
    file: &Path,
    words: &[&OsStr],
    environment: &Environment,
) -> io::Result<()> {
    let file = Strings::new([file.as_os_str().as_bytes().to_vec()])?;
    let words = Strings::new(words.iter().map(|word| word.as_bytes().to_vec()))?;
    let pair = |(name, value): (&OsStr, &OsStr)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    let pairs = Strings::new(environment.pairs().map(pair))?;
    // std has set up the streams, the folder and the signals before it calls
    // this, and would then execute the file in its own way.
    let execute = move || {
        // The whole values, so that the closure owns what the pointers lead to.
        let (file, words, pairs) = (&file, &words, &pairs);
        // SAFETY: a string and two arrays as execve wants them. It returns only
        // if it fails.
        unsafe { execve(file.pointers[0], words.pointers.as_ptr(), pairs.pointers.as_ptr()) };
        Err(io::Error::last_os_error())
    };
    // SAFETY: the closure runs between fork and exec, or in this process. It
    // calls nothing but execve, which is async-signal-safe, and allocates
    // nothing (`last_os_error` only reads errno).
    unsafe {
        command.pre_exec(execute);
    }
    Ok(())
}

/// Gives the command `pipe` as descriptor 3; it must stay open until the start.
/// Of [`exactly`] and this, this comes first.
pub fn third(command: &mut Command, pipe: &OwnedFd) {
    let from = pipe.as_raw_fd();
    // SAFETY: the closure runs in the child between fork and exec, and calls
    // nothing but dup2, which is async-signal-safe. The caller keeps `pipe` open
    // until the child is started. Descriptor 3 is never the pipe through which
    // std reports a failed exec: both ends of ours, made earlier, took the
    // lowest free numbers.
    unsafe {
        command.pre_exec(move || match dup2(from, THIRD) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// A pipe whose end to write to is not number 3: dup2 to itself would leave it
/// closed on exec.
///
/// # Errors
/// No descriptor is left.
pub fn pipe() -> io::Result<(PipeReader, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let writer = OwnedFd::from(writer);
    // The number is taken while the copy is made, so that of the copy differs.
    let writer = if writer.as_raw_fd() == THIRD { writer.try_clone()? } else { writer };
    Ok((reader, writer))
}
