//! The file system of a step where nothing can be mounted: a copy.
//!
//! Root in a plain container (a CI pod) may chroot but not mount. The inputs are
//! then copied into one folder, and what the step changed is found afterwards by
//! comparing each entry with what was noted before, and goes to `upper/`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Timespec, Timestamps, UTIME_OMIT};

use super::noted::{Notes, OUTSIDE, failed, is_missed, mark_removed, note};
use super::{Before, Given, SandboxError, Spec, recording};
use crate::tree::{OPAQUE_ATTRIBUTE, STAMP};

/// Makes `root/` of the scratch folder: the layers one over another, then what
/// is in `upper/` already, then devices and binds.
pub(super) fn copy_inputs(spec: &Spec) -> Result<Before, SandboxError> {
    let root = spec.scratch.join("root");
    let upper = spec.scratch.join("upper");
    for layer in spec.layers.iter().chain([&upper]) {
        copy_layer(layer, &root)?;
    }
    for folder in OUTSIDE {
        fs::create_dir_all(root.join(folder)).map_err(failed("make", &root.join(folder)))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))
        .map_err(failed("chmod", &root))?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)]
    {
        let path = root.join("dev").join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(
            CWD,
            &path,
            FileType::CharacterDevice,
            mode,
            rustix::fs::makedev(major, minor),
        )
        .map_err(|error| failed("make the device", &path)(error.into()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .map_err(failed("chmod", &path))?;
    }
    let given = note(&upper)?;
    fs::remove_dir_all(&upper).map_err(failed("remove", &upper))?;
    fs::create_dir(&upper).map_err(failed("make", &upper))?;
    // Making what is in a folder has changed its time.
    for (path, _) in note(&root)?.iter().filter(|(_, noted)| noted.is_directory()) {
        stamp(&root.join(path))?;
    }
    if spec.given != Given::Results {
        recording::ready(&root, &given)?;
    }
    let unbound = note(&root)?;
    let mut bound = Vec::new();
    for bind in &spec.binds {
        let inside = bind.to.strip_prefix("/").unwrap_or(&bind.to);
        let to =
            super::mounts::place(&root, inside, bind.from.is_dir()).map_err(SandboxError::Setup)?;
        if bind.from.is_dir() {
            copy_layer(&bind.from, &to)?;
        } else {
            fs::copy(&bind.from, &to).map_err(failed("copy", &bind.from))?;
        }
        bound.push(inside);
    }
    let is_bound = |path: &Path| bound.iter().any(|bound| path.starts_with(bound));
    let is_given = |path: &Path| given.get(path).is_some() && !is_bound(path);
    // Folders on the way to what is bound are made in the result, too, as mounting makes them.
    let all = note(&root)?.only(|path| is_bound(path) || unbound.get(path).is_some());
    let entries = match spec.given {
        Given::Results => all.only(|path| !is_given(path)),
        Given::Inputs | Given::Traced => all,
    };
    let recording = recording::begin(spec, &root)?;
    Ok(Before { given: Some(entries.only(is_given)), entries, recording })
}

fn copy_layer(from: &Path, to: &Path) -> Result<(), SandboxError> {
    fs::create_dir_all(to).map_err(failed("make", to))?;
    let mut links = BTreeMap::new();
    copy_folder(from, to, &mut links)
}

fn copy_folder(
    from: &Path,
    to: &Path,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
) -> Result<(), SandboxError> {
    for entry in fs::read_dir(from).map_err(failed("read", from))? {
        let entry = entry.map_err(failed("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata().map_err(failed("read", &source))?;
        let there = fs::symlink_metadata(&target).ok();
        let kind = metadata.file_type();
        if kind.is_dir() {
            let mut value = [0_u8; 4];
            let opaque = rustix::fs::lgetxattr(&source, OPAQUE_ATTRIBUTE, &mut value).is_ok();
            if there.is_some_and(|there| opaque || !there.is_dir()) {
                remove(&target)?;
            }
            fs::create_dir_all(&target).map_err(failed("make", &target))?;
            copy_folder(&source, &target, links)?;
            fs::set_permissions(&target, metadata.permissions())
                .map_err(failed("chmod", &target))?;
            continue;
        }
        if there.is_some() {
            remove(&target)?;
        }
        if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(failed("read", &source))?;
            symlink(link, &target).map_err(failed("link", &target))?;
        } else if kind.is_file() {
            let first = (metadata.nlink() > 1)
                .then(|| links.get(&(metadata.dev(), metadata.ino())))
                .flatten();
            if let Some(first) = first {
                fs::hard_link(first, &target).map_err(failed("link", &target))?;
            } else {
                fs::copy(&source, &target).map_err(failed("copy", &source))?;
                if metadata.nlink() > 1 {
                    links.insert((metadata.dev(), metadata.ino()), target.clone());
                }
            }
        } else if !(kind.is_char_device() && metadata.rdev() == 0) {
            return Err(failed("copy the special file", &source)(
                io::ErrorKind::Unsupported.into(),
            ));
        }
        if !kind.is_char_device() {
            stamp(&target)?;
        }
    }
    Ok(())
}

fn stamp(path: &Path) -> Result<(), SandboxError> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: STAMP, tv_nsec: 0 },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("stamp", path)(error.into()))
}

fn remove(path: &Path) -> Result<(), SandboxError> {
    let directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    if directory { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        .map_err(failed("remove", path))
}

/// Moves what the step made or changed to `upper/`, and marks what it removed.
pub(super) fn collect_changes(spec: &Spec, before: &Notes) -> Result<(), SandboxError> {
    let root = spec.scratch.join("root");
    let upper = spec.scratch.join("upper");
    let after = note(&root)?;
    for (path, noted) in after.iter() {
        if before.get(path) == Some(noted) {
            continue;
        }
        let (from, to) = (root.join(path), upper.join(path));
        parents(&root, &upper, path)?;
        let metadata = fs::symlink_metadata(&from).map_err(failed("read", &from))?;
        if metadata.is_dir() {
            if !to.exists() {
                fs::create_dir(&to).map_err(failed("make", &to))?;
            }
            fs::set_permissions(&to, metadata.permissions()).map_err(failed("chmod", &to))?;
        } else {
            // A link keeps hard links among the outputs together.
            fs::hard_link(&from, &to).map_err(failed("link", &to))?;
        }
    }
    let is_folder = |path: &Path| Ok(after.get(path).is_some_and(|noted| noted.is_directory()));
    for (path, _) in before.iter().filter(|(path, _)| after.get(path).is_none()) {
        if is_missed(spec, path, is_folder)? {
            parents(&root, &upper, path)?;
            mark_removed(&upper.join(path))?;
        }
    }
    Ok(())
}

fn parents(root: &Path, upper: &Path, path: &Path) -> Result<(), SandboxError> {
    let mut missing = Vec::new();
    let mut parent = path.parent();
    while let Some(folder) =
        parent.filter(|folder| !folder.as_os_str().is_empty() && !upper.join(folder).exists())
    {
        missing.push(folder);
        parent = folder.parent();
    }
    for folder in missing.into_iter().rev() {
        let to = upper.join(folder);
        fs::create_dir(&to).map_err(failed("make", &to))?;
        let metadata = fs::symlink_metadata(root.join(folder)).map_err(failed("read", &to))?;
        fs::set_permissions(&to, metadata.permissions()).map_err(failed("chmod", &to))?;
    }
    Ok(())
}
