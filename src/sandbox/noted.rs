//! What a folder held before a command ran, and what the command changed in it.
//!
//! Entries are compared by inode, size, mode and change time, which no program can set
//! back. Changes are left in `upper/` of the scratch folder in the form that overlayfs uses,
//! so callers see no difference between the ways in which they were found.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use rustix::fs::{CWD, FileType};

use super::{SandboxError, Spec};
use crate::memory::Paths;
use crate::tree::OPAQUE_ATTRIBUTE;

/// What is noted of each entry, folders before what is in them and names of a folder in the
/// order of their bytes. An app may have very many.
#[derive(Debug, Default)]
pub(super) struct Notes(Paths<Noted>);

impl Notes {
    fn push(&mut self, path: &Path, noted: Noted) {
        self.0.push(path.as_os_str().as_bytes(), noted, b"");
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Path, Noted)> {
        self.0.iter().map(|(path, noted)| (Path::new(OsStr::from_bytes(path)), *noted))
    }

    pub(super) fn get(&self, path: &Path) -> Option<Noted> {
        let order = |found: &[u8]| in_walk(Path::new(OsStr::from_bytes(found)), path);
        Some(*self.0.about(self.0.find(order).ok()?))
    }

    /// Those whose path is wanted.
    pub(super) fn only(&self, is_wanted: impl Fn(&Path) -> bool) -> Notes {
        let mut notes = Notes::default();
        for (path, noted) in self.iter().filter(|(path, _)| is_wanted(path)) {
            notes.push(path, noted);
        }
        notes
    }
}

/// Which of two paths a walk comes to first.
fn in_walk(one: &Path, other: &Path) -> Ordering {
    // No name has a byte that is less than what stands for the end of a name here.
    let ends = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let [one, other] = [one, other].map(|path| path.as_os_str().as_bytes().iter().map(ends));
    one.cmp(other)
}

/// What tells whether an entry is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Noted {
    inode: u64,
    size: u64,
    changed: i64,
    changed_nanoseconds: u32,
    mode: u32,
}

impl Noted {
    pub(super) fn of(metadata: &Metadata) -> Noted {
        // A directory's size and times change with its entries, which are
        // compared themselves.
        let directory = metadata.is_dir();
        // Always less than a second.
        let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or(u32::MAX);
        Noted {
            inode: metadata.ino(),
            size: if directory { 0 } else { metadata.len() },
            changed: if directory { 0 } else { metadata.ctime() },
            changed_nanoseconds: if directory { 0 } else { nanoseconds },
            mode: metadata.mode(),
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
    let mut notes = Notes::default();
    note_below(root, Path::new(""), &mut notes)?;
    Ok(notes)
}

fn note_below(root: &Path, below: &Path, notes: &mut Notes) -> Result<(), SandboxError> {
    let folder = root.join(below);
    let mut found = Paths::default();
    for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
        let entry = entry.map_err(failed("read", &folder))?;
        let name = entry.file_name();
        if below.as_os_str().is_empty() && OUTSIDE.iter().any(|outside| name == *outside) {
            continue;
        }
        let metadata = entry.metadata().map_err(failed("read", &entry.path()))?;
        found.push(name.as_bytes(), Noted::of(&metadata), b"");
    }
    for number in found.in_order().iter() {
        let noted = *found.about(number);
        let path = below.join(OsStr::from_bytes(found.path(number)));
        notes.push(&path, noted);
        if noted.is_directory() {
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

/// Whether anybody will ask what became of an entry that is gone: of those that went with
/// their folder nobody does, nor of those elsewhere than below the outputs.
pub(super) fn is_missed(
    spec: &Spec,
    path: &Path,
    mut is_folder: impl FnMut(&Path) -> Result<bool, SandboxError>,
) -> Result<bool, SandboxError> {
    Ok(asked_for(spec, path)
        && match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => is_folder(parent)?,
            _ => true,
        })
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
/// and marks what is gone. Files that are given have one name each: taking one of several away
/// would look like a change of the others.
pub(super) fn drop_unchanged(spec: &Spec, before: &Notes) -> Result<(), SandboxError> {
    let upper = spec.scratch.join("upper");
    let mut folders = Folders::below(&upper);
    // What is in a folder comes after it, so backwards before it.
    for (path, noted) in before.iter().rev() {
        let full = upper.join(path);
        let there = folders.look(path)?;
        if there.is_none() && is_missed(spec, path, |parent| folders.is_folder(parent))? {
            mark_removed(&full)?;
        }
        if there.is_none_or(|there| Noted::of(&there) != noted) {
            continue;
        }
        if !noted.is_directory() {
            fs::remove_file(&full).map_err(failed("remove", &full))?;
        } else if fs::read_dir(&full).map_err(failed("read", &full))?.next().is_none() {
            fs::remove_dir(&full).map_err(failed("remove", &full))?;
        }
    }
    Ok(())
}

/// Finds out which folders are there, not through links, remembering the last one.
pub(super) struct Folders<'r> {
    root: &'r Path,
    last: Option<(PathBuf, bool)>,
}

impl Folders<'_> {
    pub(super) fn below(root: &Path) -> Folders<'_> {
        Folders { root, last: None }
    }

    fn is_folder(&mut self, path: &Path) -> Result<bool, SandboxError> {
        if let Some((last, is_folder)) = &self.last
            && last == path
        {
            return Ok(*is_folder);
        }
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.pop();
        let mut is_folder = true;
        for folder in above.into_iter().rev() {
            is_folder = look(&self.root.join(folder))?.is_some_and(|there| there.is_dir());
            if !is_folder {
                break;
            }
        }
        self.last = Some((path.to_owned(), is_folder));
        Ok(is_folder)
    }

    /// What is at a path that is not the root; `None` also where its folder is gone.
    pub(super) fn look(&mut self, path: &Path) -> Result<Option<Metadata>, SandboxError> {
        let is_there = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.is_folder(parent)?,
            _ => true,
        };
        if is_there { look(&self.root.join(path)) } else { Ok(None) }
    }
}

/// What is at a path; `None` for nothing.
fn look(path: &Path) -> Result<Option<Metadata>, SandboxError> {
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(Some(there)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn notes_are_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        // By bytes alone `a-b` and `a.x` would come between `a` and what is in it.
        let paths = ["a", "a/b", "a/b/c", "a/b.c", "a-b", "a.x", "b", "b/a"];
        let root = folder.path();
        for path in ["a/b/c", "a/b.c", "a-b", "a.x", "b/a", "tmp/x", "b/tmp"] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("mkdir");
            fs::write(path, "").expect("write");
        }
        let notes = note(root).expect("noted");
        for (path, noted) in notes.iter() {
            let there = fs::symlink_metadata(root.join(path)).expect("there");
            assert_eq!(noted, Noted::of(&there));
            assert_eq!(notes.get(path), Some(noted), "{path:?}");
        }
        let all = |notes: &Notes| {
            notes.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(all(&notes), [&paths[..], &["b/tmp"]].concat());
        for path in ["", "a/a", "a/b/", "c", "tmp", "tmp/x", "a/b/c/d"] {
            assert_eq!(notes.get(Path::new(path)), None, "{path}");
        }
        let few = notes.only(|path| path.starts_with("b"));
        assert_eq!(all(&few), ["b", "b/a", "b/tmp"]);
        assert_eq!(few.get(Path::new("b/a")), notes.get(Path::new("b/a")));
    }

    #[test]
    fn links_lead_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir_all(root.join("real/below")).expect("mkdir");
        fs::write(root.join("real/below/x"), "").expect("write");
        symlink("real", root.join("link")).expect("linked");
        let mut folders = Folders::below(root);
        let mut is_there = |path: &str| folders.look(Path::new(path)).expect("looks").is_some();
        let paths = [
            "real",
            "link",
            "real/below/x",
            "link/below/x",
            "link/below",
            "real/below/x/y",
            "gone/x",
        ];
        let found = paths.map(&mut is_there);
        assert_eq!(found, [true, true, true, false, false, false, false]);
    }

    #[test]
    fn what_was_moved_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let upper = folder.path().join("upper");
        for path in ["moved/x", "gone/x", "kept/x", "changed/x"] {
            let path = upper.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("mkdir");
            fs::write(path, "given").expect("write");
        }
        let before = note(&upper).expect("noted");
        fs::rename(upper.join("moved"), upper.join("new")).expect("moved");
        symlink("new", upper.join("moved")).expect("linked");
        fs::remove_dir_all(upper.join("gone")).expect("removed");
        fs::write(upper.join("changed/x"), "longer than before").expect("write");
        fs::write(upper.join("kept/y"), "made").expect("write");
        let spec = Spec {
            mode: super::super::Mode::Namespaces,
            layers: Vec::new(),
            scratch: folder.path().to_owned(),
            outputs: vec!["moved".to_owned(), "kept".to_owned()],
            given: super::super::Given::Inputs,
            binds: Vec::new(),
            network: super::super::Network::Offline,
            command: Vec::new(),
            environment: BTreeMap::new(),
            directory: PathBuf::from("/"),
            user: 0,
            parent: 0,
            interactive: false,
        };
        drop_unchanged(&spec, &before).expect("dropped");
        let left = note(&upper).expect("noted");
        let left: Vec<String> = left.iter().map(|(path, _)| path.display().to_string()).collect();
        assert_eq!(left, ["changed", "changed/x", "kept", "kept/y", "moved", "new", "new/x"]);
    }
}
