//! Which of the app's files a command reads, told by the kernel.
//!
//! Before the command starts, each file gets an access time that no clock shows. The kernel
//! replaces it when content is read, whichever way: `read`, `mmap`, `execve`, `sendfile`.
//! It costs nothing while the command runs, and sees programs of every kind.
//!
//! - The files lie in the overlay's upper folder: overlayfs keeps access times of files
//!   there, whatever the mount options of the disk below, and none of those in lower layers.
//! - What the command changed, moved or removed counts as read: the access time is then
//!   gone, or may have been set by the command.
//! - Canaries, which the sandbox reads before the command starts, one by `read` and one by
//!   `mmap`, show that access times work on this file system and kernel. Where one does not,
//!   nothing is known ([`Reads::Unknown`]).
//! - Ways of reading that leave no trace are closed by [`super::seccomp`].
//! - What is never seen: names that were looked up, listed or tested. Callers count all of
//!   them. Nor is the size of a file that is not read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::noted::{Folders, Noted, Notes, failed};
use super::{Given, SandboxError, Spec};
use crate::tree::STAMP;

/// Files that are listed, at most: a list is asked for each time that the step may be known.
pub const MOST_READ: usize = 100_000;

/// The access time of a file that nobody has read, in seconds.
const UNREAD: i64 = 1;

/// The files that the sandbox reads and removes before the command starts.
const CANARIES: [&str; 2] = [READ, MAPPED];
const READ: &str = ".forge-canary-read";
const MAPPED: &str = ".forge-canary-mapped";

/// What is known about what a command read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// These files, of those that were in `upper/`, by path below it.
    Files(BTreeSet<PathBuf>),
    /// More files than can be listed: [`MOST_READ`].
    Many,
    /// Nothing: this file system keeps no access times.
    Unknown,
}

/// A recording that goes on while the command runs.
pub(super) struct Recording {
    root: PathBuf,
    canaries: Vec<File>,
}

/// Readies what is given below `root`: gives all of it the constant stamp.
pub(super) fn ready(root: &Path, given: &Notes) -> Result<(), SandboxError> {
    given.iter().try_for_each(|(path, _)| stamp(&root.join(path)))
}

/// Begins to record reads where they are wanted, once all is ready and noted.
pub(super) fn begin(spec: &Spec, root: &Path) -> Result<Option<Recording>, SandboxError> {
    if spec.given != Given::Traced {
        return Ok(None);
    }
    let canary = |name: &str| {
        let path = root.join(name);
        fs::write(&path, "sings").map_err(failed("write", &path))?;
        stamp(&path)?;
        File::open(&path).map_err(failed("open", &path))
    };
    let canaries = CANARIES.into_iter().map(canary).collect::<Result<_, _>>()?;
    Ok(Some(Recording { root: root.to_owned(), canaries }))
}

impl Recording {
    /// Which of the `given` files, as they were noted after they were readied, were read, once
    /// nothing of the command is alive.
    pub(super) fn end(self, given: &Notes) -> Result<Reads, SandboxError> {
        for canary in &self.canaries {
            let metadata = canary.metadata().map_err(failed("read a canary of", &self.root))?;
            if metadata.atime() == UNREAD {
                return Ok(Reads::Unknown);
            }
        }
        let mut folders = Folders::below(&self.root);
        let mut read = BTreeSet::new();
        for (path, noted) in given.iter().filter(|(_, noted)| noted.is_file()) {
            let there = folders.look(path)?;
            let untouched =
                there.is_some_and(|there| Noted::of(&there) == noted && there.atime() == UNREAD);
            if !untouched && read.len() == MOST_READ {
                return Ok(Reads::Many);
            }
            if !untouched {
                read.insert(path.to_owned());
            }
        }
        Ok(Reads::Files(read))
    }
}

/// The time that files have in images, and that nobody has read it.
fn stamp(path: &Path) -> Result<(), SandboxError> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: UNREAD, tv_nsec: 0 },
        last_modification: Timespec { tv_sec: STAMP, tv_nsec: 0 },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("stamp", path)(error.into()))
}

/// In the sandbox, before the command: reads the canaries in the root folder and removes them.
pub(super) fn read_canaries() -> Result<(), String> {
    let failed = |name: &str| {
        let name = name.to_owned();
        move |error: io::Error| format!("reading `/{name}`: {error}")
    };
    let root = Path::new("/");
    fs::read(root.join(READ)).map_err(failed(READ))?;
    let mapped = File::open(root.join(MAPPED)).map_err(failed(MAPPED))?;
    // Then nothing of the recording is believed.
    // SAFETY: a mapping of its own, at an address that the kernel chooses, that nothing
    // refers to and that is taken away at once.
    #[allow(unsafe_code)]
    let _unread_where_nothing_can_be_mapped = unsafe {
        let (protection, flags) = (ProtFlags::READ, MapFlags::PRIVATE);
        mmap(std::ptr::null_mut(), 1, protection, flags, &mapped, 0)
            .and_then(|address| munmap(address, 1))
    };
    CANARIES.iter().try_for_each(|name| fs::remove_file(root.join(name)).map_err(failed(name)))
}
