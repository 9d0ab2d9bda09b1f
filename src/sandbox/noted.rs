//! What a folder held before a command ran, and what the command changed in it.
//!
//! Entries are compared by inode, size, mode and change time, which no program can set
//! back. Changes are left in `upper/` of the scratch folder in the form that overlayfs uses,
//! so callers see no difference between the ways in which they were found.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType};

use super::{SandboxError, Spec};
use crate::tree::OPAQUE_ATTRIBUTE;

/// What is noted of each entry: path below the root → stamp.
pub(super) type Notes = BTreeMap<PathBuf, Noted>;

/// What tells whether an entry is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    inode: u64,
    size: u64,
    mode: u32,
    changed: (i64, i64),
}

impl Noted {
    pub(super) fn of(metadata: &Metadata) -> Noted {
        // A directory's size and times change with its entries, which are
        // compared themselves.
        let directory = metadata.is_dir();
        Noted {
            inode: metadata.ino(),
            size: if directory { 0 } else { metadata.len() },
            mode: metadata.mode(),
            changed: if directory { (0, 0) } else { (metadata.ctime(), metadata.ctime_nsec()) },
        }
    }

    pub(super) fn is_directory(self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }

    pub(super) fn is_file(self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::RegularFile
    }
}

/// Folders at the root that are never part of an output.
pub(super) const OUTSIDE: [&str; 3] = ["dev", "proc", "tmp"];

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SandboxError {
    let path = path.to_owned();
    move |source| SandboxError::Copy { action, path, source }
}

/// Notes all that is below `root`.
pub(super) fn note(root: &Path) -> Result<Notes, SandboxError> {
    let mut notes = Notes::new();
    note_below(root, Path::new(""), &mut notes)?;
    Ok(notes)
}

/// Adds what is below the folder `below` of `root`.
pub(super) fn note_below(root: &Path, below: &Path, notes: &mut Notes) -> Result<(), SandboxError> {
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
        let entry = entry.map_err(failed("read", &folder))?;
        let path = below.join(entry.file_name());
        if OUTSIDE.iter().any(|outside| path == Path::new(outside)) {
            continue;
        }
        let metadata = entry.metadata().map_err(failed("read", &entry.path()))?;
        notes.insert(path.clone(), Noted::of(&metadata));
        if metadata.is_dir() {
            note_below(root, &path, notes)?;
        }
    }
    Ok(())
}

/// Whether anybody will ask what became of a path.
fn asked_for(spec: &Spec, path: &Path) -> bool {
    spec.outputs.iter().any(|output| {
        output.is_empty() || path.starts_with(output) || Path::new(output).starts_with(path)
    })
}

/// The entries that were removed and whose folder is still there; those
/// elsewhere than below the outputs, of which nobody will be told, are left out.
pub(super) fn removed<'n>(
    spec: &'n Spec,
    before: &'n Notes,
    after: &'n Notes,
) -> impl Iterator<Item = &'n PathBuf> {
    let parent_is_there = |path: &Path| {
        path.parent().is_none_or(|parent| {
            parent.as_os_str().is_empty()
                || after.get(parent).is_some_and(|noted| noted.is_directory())
        })
    };
    before
        .keys()
        .filter(move |path| !after.contains_key(*path) && parent_is_there(path))
        .filter(move |path| asked_for(spec, path))
}

/// Puts the mark of a removed file at a path (overlayfs, "whiteouts").
pub(super) fn mark_removed(path: &Path) -> Result<(), SandboxError> {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, rustix::fs::Mode::empty(), 0)
        .map_err(|error| failed("mark as removed", path)(error.into()))
}

/// Replaces overlayfs' mark of folders through which nothing below is seen by the marks of
/// the single files that are gone. Whether it sets that mark depends on which layer had the
/// folder, which is no part of a result.
pub(super) fn spell_out_opaque(spec: &Spec) -> Result<(), SandboxError> {
    let upper = spec.scratch.join("upper");
    for (path, _) in note(&upper)?.iter().filter(|(_, noted)| noted.is_directory()) {
        let full = upper.join(path);
        if is_opaque(&full) {
            rustix::fs::removexattr(&full, OPAQUE_ATTRIBUTE)
                .map_err(|error| failed("clean", &full)(error.into()))?;
            hide(spec, path)?;
        }
    }
    Ok(())
}

/// Marks as removed what the layers have in a folder, and its namesake in `upper/` has not.
fn hide(spec: &Spec, folder: &Path) -> Result<(), SandboxError> {
    for (name, is_directory) in below_in(spec, folder)? {
        let path = folder.join(name);
        let full = spec.scratch.join("upper").join(&path);
        match fs::symlink_metadata(&full) {
            Ok(there) if there.is_dir() && is_directory => hide(spec, &path)?,
            Ok(_) => {}
            Err(_) if asked_for(spec, &path) => mark_removed(&full)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// The entries that a folder has in the layers, taken together; whether each is a folder.
fn below_in(spec: &Spec, folder: &Path) -> Result<BTreeMap<OsString, bool>, SandboxError> {
    let mut entries = BTreeMap::new();
    for layer in &spec.layers {
        let full = layer.join(folder);
        if hides_all(layer, folder) || is_opaque(&full) {
            entries.clear();
        }
        if !fs::symlink_metadata(&full).is_ok_and(|there| there.is_dir()) {
            continue;
        }
        for entry in fs::read_dir(&full).map_err(failed("read", &full))? {
            let entry = entry.map_err(failed("read", &full))?;
            let kind = entry.file_type().map_err(failed("read", &entry.path()))?;
            if kind.is_char_device() {
                entries.remove(&entry.file_name());
            } else {
                entries.insert(entry.file_name(), kind.is_dir());
            }
        }
    }
    Ok(entries)
}

/// Whether something that a layer has on the way to a path, or at it, hides what lower
/// layers have at the path.
fn hides_all(layer: &Path, path: &Path) -> bool {
    let is_other =
        |path: &Path| fs::symlink_metadata(layer.join(path)).is_ok_and(|there| !there.is_dir());
    is_other(path)
        || path.ancestors().skip(1).any(|folder| is_other(folder) || is_opaque(&layer.join(folder)))
}

/// Takes out of `upper/` the folders that overlayfs has copied there because something was
/// made and removed in them: empty ones that are as the layers below have them.
pub(super) fn drop_touched(spec: &Spec) -> Result<(), SandboxError> {
    let upper = spec.scratch.join("upper");
    for (path, noted) in note(&upper)?.iter().rev().filter(|(_, noted)| noted.is_directory()) {
        let full = upper.join(path);
        if fs::read_dir(&full).map_err(failed("read", &full))?.next().is_none()
            && below(spec, path).is_some_and(|there| there.mode == noted.mode)
        {
            fs::remove_dir(&full).map_err(failed("remove", &full))?;
        }
    }
    Ok(())
}

/// What the layers have at a path, the uppermost that has something.
fn below(spec: &Spec, path: &Path) -> Option<Noted> {
    for layer in spec.layers.iter().rev() {
        if let Ok(there) = fs::symlink_metadata(layer.join(path)) {
            return Some(Noted::of(&there));
        }
        if hides_all(layer, path) {
            return None;
        }
    }
    None
}

fn is_opaque(path: &Path) -> bool {
    rustix::fs::lgetxattr(path, OPAQUE_ATTRIBUTE, &mut [0_u8; 4]).is_ok()
}

/// Takes out of `upper/` again what was put there before the command ran and is as it was,
/// and marks what is gone.
pub(super) fn drop_unchanged(spec: &Spec, before: &Notes) -> Result<(), SandboxError> {
    let upper = spec.scratch.join("upper");
    let after = note(&upper)?;
    for path in removed(spec, before, &after) {
        mark_removed(&upper.join(path))?;
    }
    // What is in a folder comes after it, so backwards before it.
    for (path, noted) in before.iter().rev() {
        if after.get(path) != Some(noted) {
            continue;
        }
        let path = upper.join(path);
        if !noted.is_directory() {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        } else if fs::read_dir(&path).map_err(failed("read", &path))?.next().is_none() {
            fs::remove_dir(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}
