//! Installs operating system packages: bring, unpack, set up.
//!
//! Their files are brought by `arrivals` and unpacked by `unpacking`; the packages' own
//! scripts run in the sandbox, with what they were unpacked into as the file system.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::{Engine, EngineError, State};
use crate::debian::rootfs::{self, Unpacked};
use crate::digest::Digest;
use crate::plan::{APP_USER, Action, Step};
use crate::tree::{Node, Tree};

/// dpkg's database.
pub(super) const DATABASE: &str = "var/lib/dpkg";

pub(super) fn failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::Io { action, path, source }
}

impl Engine<'_> {
    pub(super) fn packages(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
    ) -> Result<(Digest, Tree), EngineError> {
        let Action::Packages { packages, bottom, .. } = &step.action else {
            return Err(EngineError::Interrupted);
        };
        if packages.is_empty() && !bottom {
            let scratch = self.scratch(step)?;
            let nothing = scratch.path().join("keep");
            fs::create_dir_all(&nothing).map_err(failed("make", &nothing))?;
            return Ok(self.store.keep_tree(&nothing)?);
        }
        let mut ground = Vec::new();
        for input in inputs {
            ground.push((self.store.read_tree(input)?, self.store.tree_path(input)));
        }
        let (unpacking, unpacked) = self.unpacked(state, step, packages, &ground, *bottom)?;
        let (scratch, upper) = (&unpacking.scratch, unpacking.upper());
        let entries: Vec<Unpacked<'_>> =
            unpacked.iter().map(|(control, list)| Unpacked { control, list }).collect();
        rootfs::write_database(&upper, &entries)?;
        let order: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        let script = script(&order, *bottom);
        let files = BTreeMap::from([("configure.sh".to_owned(), script)]);
        let command = ["/bin/sh", "/forge/configure.sh"].map(str::to_owned);
        self.unpack_ahead(state, step)?;
        self.execute(step, key, inputs, &command, &files, scratch)?;
        for (tree, _) in &ground {
            drop_unchanged(tree, &upper)?;
        }
        if *bottom {
            for folder in ["proc", "sys", "dev", "tmp", "run"] {
                let path = upper.join(folder);
                fs::create_dir_all(&path).map_err(failed("make", &path))?;
                let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                    .map_err(failed("chmod", &path))?;
            }
        }
        self.take_outputs(step, inputs, scratch)
    }
}

/// What unpacking on top of a base must find in the same folder: the links to
/// folders through which packages may name their files, and dpkg's database.
/// [`drop_unchanged`] takes away again what stays as it was.
pub(super) fn copy_ground(base: &Tree, root: &Path, upper: &Path) -> Result<(), EngineError> {
    for (path, node) in base.iter() {
        let path = Path::new(OsStr::from_bytes(path));
        let to = upper.join(path);
        match node {
            Node::Symlink { target } => {
                let Some(inside) = folder_of(base, path, target) else { continue };
                if fs::symlink_metadata(&to).is_ok() {
                    continue;
                }
                let target = Path::new(OsStr::from_bytes(target));
                for folder in [to.parent().map(Path::to_owned), Some(upper.join(inside))]
                    .into_iter()
                    .flatten()
                {
                    fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
                }
                symlink(target, &to).map_err(failed("link", &to))?;
            }
            Node::File { mode, .. } if path.starts_with(DATABASE) => {
                if let Some(folder) = to.parent() {
                    fs::create_dir_all(folder).map_err(failed("make", folder))?;
                }
                fs::copy(root.join(path), &to).map_err(failed("copy", &to))?;
                fs::set_permissions(&to, fs::Permissions::from_mode(mode))
                    .map_err(failed("chmod", &to))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The folder that a link of a tree leads to, by the list alone: a base of others may have
/// links that lead anywhere.
pub(super) fn folder_of(base: &Tree, path: &Path, target: &[u8]) -> Option<PathBuf> {
    let target = Path::new(OsStr::from_bytes(target));
    let inside = within(path.parent().unwrap_or(Path::new("")), target)?;
    let folder = base.get(inside.as_os_str().as_bytes());
    matches!(folder, Some(Node::Directory { .. })).then_some(inside)
}

/// Where a link in `folder` leads, from the root; nowhere when that is outside.
fn within(folder: &Path, target: &Path) -> Option<PathBuf> {
    let start = if target.is_absolute() { Path::new("") } else { folder };
    let mut place = start.to_owned();
    for part in target.components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::ParentDir if place.pop() => {}
            Component::ParentDir => return None,
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    (!place.as_os_str().is_empty()).then_some(place)
}

/// Removes from `upper` what the base has just so, and gives folders that the
/// base has the base's mode.
fn drop_unchanged(base: &Tree, upper: &Path) -> Result<(), EngineError> {
    for (path, node) in base.iter().rev() {
        let there = upper.join(OsStr::from_bytes(path));
        let Ok(metadata) = fs::symlink_metadata(&there) else { continue };
        match node {
            Node::Symlink { target }
                if fs::read_link(&there)
                    .is_ok_and(|found| found.as_os_str().as_bytes() == target) =>
            {
                fs::remove_file(&there).map_err(failed("remove", &there))?;
            }
            Node::File { mode, size, digest }
                if metadata.is_file()
                    && metadata.len() == size
                    && metadata.mode() & 0o7777 == mode =>
            {
                let (found, _) = fs::File::open(&there)
                    .and_then(Digest::of_reader)
                    .map_err(failed("read", &there))?;
                if found == digest {
                    fs::remove_file(&there).map_err(failed("remove", &there))?;
                }
            }
            Node::Directory { mode, .. } if metadata.is_dir() => {
                if fs::read_dir(&there).map_err(failed("read", &there))?.next().is_none() {
                    fs::remove_dir(&there).map_err(failed("remove", &there))?;
                } else {
                    fs::set_permissions(&there, fs::Permissions::from_mode(mode))
                        .map_err(failed("chmod", &there))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The script that sets packages up.
fn script(order: &[&str], bottom: bool) -> String {
    let mut script = rootfs::configure_script(order);
    if bottom {
        script.push_str(&app_user());
    }
    script
}

/// The digest of how packages are set up, whichever they are: part of a package
/// step's key.
#[must_use]
pub fn setup(bottom: bool) -> Digest {
    Digest::of(script(&[], bottom).as_bytes())
}

/// Programs ask who they are: the numeric user of the image has a name.
fn app_user() -> String {
    format!(
        "echo 'app:x:{APP_USER}:{APP_USER}:app:/home/app:/bin/sh' >> /etc/passwd\n\
         echo 'app:x:{APP_USER}:' >> /etc/group\n\
         mkdir -p /home/app\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::deb::Control;

    #[test]
    fn links_of_a_base_lead_nowhere_outside() {
        for (folder, target, expected) in [
            ("", "usr/lib", Some("usr/lib")),
            ("", "/usr/lib", Some("usr/lib")),
            ("usr/bin", "../lib/x", Some("usr/lib/x")),
            ("usr", "../../etc", None),
            ("usr", "..", None),
            ("", "/", None),
        ] {
            let found = within(Path::new(folder), Path::new(target));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{folder} {target}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (root, upper) = (folder.path().join("root"), folder.path().join("upper"));
        fs::create_dir_all(root.join("usr/lib")).expect("mkdir");
        fs::create_dir_all(folder.path().join("outside")).expect("mkdir");
        symlink("usr/lib", root.join("lib")).expect("link");
        symlink("../../outside/new", root.join("usr/away")).expect("link");
        symlink("../outside", root.join("near")).expect("link");
        let tree = Tree::scan(&root).expect("scan");
        fs::create_dir(&upper).expect("mkdir");
        copy_ground(&tree, &root, &upper).expect("copied");
        assert!(upper.join("lib").is_dir() && fs::symlink_metadata(upper.join("near")).is_err());
        assert!(!folder.path().join("outside/new").exists());
    }

    /// Pins what comes of the same packages on the same ground, but for what their own
    /// scripts do (see [`setup`]) and how an archive is unpacked (see `debian::deb`).
    #[test]
    fn what_is_installed_is_pinned() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, upper) = (folder.path().join("root"), folder.path().join("upper"));
        let control = |stanza: &str, files: &[(&str, &str)]| Control {
            stanza: stanza.to_owned(),
            files: files
                .iter()
                .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
                .collect(),
        };
        let record = |root: &Path, controls: &[Control], list: &[&str]| {
            let list: Vec<String> = list.iter().map(|&path| path.to_owned()).collect();
            let entries: Vec<Unpacked<'_>> =
                controls.iter().map(|control| Unpacked { control, list: &list }).collect();
            rootfs::write_database(root, &entries).expect("written");
        };
        fs::create_dir_all(&root).expect("mkdir");
        rootfs::prepare(&root, "amd64").expect("prepared");
        let ground = [
            control(
                "Package: base\nVersion: 1\nArchitecture: all\nDescription: b\n more\n",
                &[("triggers", "interest-noawait /usr/share/man\n"), ("md5sums", "")],
            ),
            control("Package: lib\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\n", &[]),
        ];
        record(&root, &ground, &["/.", "/usr"]);
        let base = Tree::scan(&root).expect("scan");
        fs::create_dir_all(&upper).expect("mkdir");
        copy_ground(&base, &root, &upper).expect("copied");
        let lib = control(
            "Package: lib\nVersion: 2\nArchitecture: amd64\nMulti-Arch: same\nDepends: base\n",
            &[("postinst", "#!/bin/sh\n"), ("conffiles", "/etc/lib\n")],
        );
        record(&upper, &[lib], &["/.", "/usr/share/man/man1/lib.1"]);
        drop_unchanged(&base, &upper).expect("dropped");
        let digests =
            [base, Tree::scan(&upper).expect("scan")].map(|tree| tree.digest().to_string());
        assert_eq!(
            (crate::plan::key::PACKAGES, digests.each_ref().map(String::as_str)),
            (
                1,
                [
                    "sha256:ed3d276abb307358f5929f7ddf8d549d45c89987872343d70b876fb8222b120a",
                    "sha256:620a50f35ea2573fdb7282d3110f51d8e95f44fb9230813848776a45cbd1976f"
                ]
            ),
            "the same inputs give something else: bump `PACKAGES` in src/plan/key.rs, and pin both"
        );
    }
}
