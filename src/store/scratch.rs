//! Scratch folders: where builds work before a thing has its name.
//!
//! A scratch folder is locked by its owner for as long as it lives, so a store
//! that opens can tell the leftovers of a killed build from work in progress.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT};

use super::{Store, StoreError, failed};
use crate::memory::Paths;
use crate::tree::{Node, STAMP, Tree};

/// A folder under the store's `tmp/`; removed on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    // Locked for as long as the folder is in use.
    _lock: File,
}

impl Scratch {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next store that opens.
        let _swept_later = remove_tree(&self.path);
    }
}

impl Store {
    /// A new private folder on the store's file system. `label` shows in its name.
    ///
    /// # Errors
    /// The disk refused.
    pub fn scratch(&self, label: &str) -> Result<Scratch, StoreError> {
        let tmp = self.root().join("tmp");
        // Made under a shared hold of the sweep lock, so that no store that opens
        // in this moment takes the folder, not yet locked, for a leftover.
        let guard = File::open(&tmp).map_err(failed("open", &tmp))?;
        guard.lock_shared().map_err(failed("lock", &tmp))?;
        let path = tempfile::Builder::new()
            .prefix(&format!("{label}-"))
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&tmp)
            .map_err(failed("make", &tmp))?
            .keep();
        let lock = File::open(&path).map_err(failed("open", &path))?;
        lock.lock().map_err(failed("lock", &path))?;
        Ok(Scratch { path, _lock: lock })
    }

    /// Removes scratch whose owner is gone.
    pub(super) fn sweep_scratch(&self) -> Result<(), StoreError> {
        let tmp = self.root().join("tmp");
        let guard = File::open(&tmp).map_err(failed("open", &tmp))?;
        // Somebody is making a folder or sweeping already: then not now.
        if guard.try_lock().is_err() {
            return Ok(());
        }
        for entry in fs::read_dir(&tmp).map_err(failed("read", &tmp))? {
            let path = entry.map_err(failed("read", &tmp))?.path();
            if path.is_dir() {
                let abandoned = File::open(&path).is_ok_and(|folder| folder.try_lock().is_ok());
                if abandoned {
                    remove_tree(&path).map_err(failed("remove", &path))?;
                }
            } else if is_old(&path) {
                let _gone_already = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

/// Half-written single files carry no lock; nobody writes one for two days.
fn is_old(path: &Path) -> bool {
    const LIMIT: std::time::Duration = std::time::Duration::from_secs(2 * 24 * 60 * 60);
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > LIMIT))
}

/// Removes a folder although steps may have left directories without write
/// permission in it.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open_up(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Gives every entry below `folder` (and the folder itself) the constant stamp,
/// and takes set-user-id and set-group-id bits away: with one owner for all
/// files they would mean something else than their package meant.
pub(super) fn normalise(folder: &Path) -> Result<(), StoreError> {
    let mut pending = vec![folder.to_owned()];
    let mut directories = Paths::default();
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(&path).map_err(failed("read", &path))? {
            let entry = entry.map_err(failed("read", &path))?;
            let child = entry.path();
            let metadata = entry.metadata().map_err(failed("read", &child))?;
            if metadata.is_dir() {
                // Root can read a folder that its owner cannot; the content must
                // not depend on who builds.
                if metadata.mode() & 0o700 != 0o700 {
                    let mode = metadata.mode() & 0o1777 | 0o700;
                    fs::set_permissions(&child, fs::Permissions::from_mode(mode))
                        .map_err(failed("chmod", &child))?;
                }
                strip_attributes(&child)?;
                pending.push(child);
            } else {
                let unreadable = metadata.is_file() && metadata.mode() & 0o400 == 0;
                if metadata.is_file() && (metadata.mode() & 0o7000 != 0 || unreadable) {
                    let mode = metadata.mode() & 0o777 | if unreadable { 0o400 } else { 0 };
                    fs::set_permissions(&child, fs::Permissions::from_mode(mode))
                        .map_err(failed("chmod", &child))?;
                }
                if metadata.is_file() {
                    strip_attributes(&child)?;
                }
                stamp(&child)?;
            }
        }
        directories.push(path.as_os_str().as_bytes(), 0_u8, b"");
    }
    // Children first: touching a child changes nothing in its parent's time, but
    // chmod above may have come later than the parent's stamp.
    for (path, _) in directories.iter().rev() {
        stamp(Path::new(OsStr::from_bytes(path)))?;
    }
    Ok(())
}

/// Gives the constant stamp to what is new in a folder of links to files that have it: the
/// folders and links of `tree`.
pub(super) fn stamp_new(folder: &Path, tree: &Tree) -> Result<(), StoreError> {
    let is_new = |node: &Node| matches!(node, Node::Directory { .. } | Node::Symlink { .. });
    for (path, _) in tree.iter().filter(|(_, node)| is_new(node)) {
        stamp(&folder.join(OsStr::from_bytes(path)))?;
    }
    stamp(folder)
}

/// Extended attributes are not part of a tree, so no step may see any; those of
/// overlayfs itself stay.
fn strip_attributes(path: &Path) -> Result<(), StoreError> {
    let mut names = [0_u8; 4096];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(failed("read the attributes of", path)(error.into())),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Only `user` attributes are for anybody to set; the others are the
        // kernel's and differ by machine, not by step.
        if name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") {
            rustix::fs::lremovexattr(path, name)
                .map_err(|error| failed("clean", path)(error.into()))?;
        }
    }
    Ok(())
}

fn stamp(path: &Path) -> Result<(), StoreError> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: STAMP, tv_nsec: 0 },
    };
    let path_ref: &OsStr = path.as_os_str();
    rustix::fs::utimensat(rustix::fs::CWD, path_ref, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("stamp", path)(error.into()))
}
