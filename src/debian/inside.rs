//! Paths below a root that is not trusted: links are followed as the root's
//! own programs would follow them, and never out of it.
//!
//! Needs `openat2`, Linux 5.6. A kernel or a container without it gets the error
//! of the system; there is no weaker way.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, fchmod, mkdirat, open, openat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;

/// Opens the root itself.
pub(super) fn open_root(root: &Path) -> Result<OwnedFd, Errno> {
    open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a folder below `root`.
pub(super) fn open_folder(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    open_inside(root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)
}

fn open_inside(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        // The kernel gives up on `..` when anybody on the machine renames in that moment.
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Whether there is anything at `path` below `root`.
pub(super) fn exists(root: &OwnedFd, path: &str) -> bool {
    open_inside(root, path, OFlags::PATH | OFlags::CLOEXEC).is_ok()
}

/// The text of a file below a root that anybody may have made, or `None` when there is none.
/// Bytes that are not UTF-8 are replaced.
pub(super) fn read_foreign(root: &OwnedFd, path: &str, limit: u64) -> io::Result<Option<String>> {
    let wrong = |problem| Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    // Opening a pipe would wait for a writer otherwise.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match open_inside(root, path, flags) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    if !file.metadata()?.is_file() {
        return wrong("it is not a file");
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return wrong("it is too large");
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Opens a folder below `root`; what is missing of it is made with mode 0755.
pub(super) fn make_folder(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    match open_folder(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    match path.rsplit_once('/') {
        Some((parent, name)) => make_one(&make_folder(root, parent)?, name)?,
        None => make_one(root, path)?,
    }
    open_folder(root, path)
}

fn make_one(parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fchmod(openat(parent, name, flags, Mode::empty())?, Mode::from_raw_mode(0o755))
}

/// The text of a file in `folder`, empty when there is none. Bytes that are not UTF-8
/// are replaced: a changelog entry must not make a database unreadable.
pub(super) fn read_text(folder: &OwnedFd, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(err) => return Err(err.into()),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file in `folder` aside and renames it, so that a reader sees the old or the new one.
pub(super) fn write_file(folder: &OwnedFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let aside = format!("{name}.forge-new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || openat(folder, aside.as_str(), flags, Mode::from_raw_mode(0o600));
    let file = match create() {
        Err(Errno::EXIST) => {
            unlinkat(folder, aside.as_str(), AtFlags::empty())?;
            create()?
        }
        other => other?,
    };
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(renameat(folder, aside.as_str(), folder, name)?)
}
