//! Installs operating system packages: download, unpack, configure.
//!
//! Unpacking happens here, in parallel; the packages' own scripts run in the
//! sandbox, with what they were unpacked into as the file system.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::{Engine, EngineError};
use crate::debian::deb::{Control, Deb};
use crate::debian::rootfs::{self, Unpacked};
use crate::digest::Digest;
use crate::event::Event;
use crate::plan::{APP_USER, Package, Step};
use crate::store::StoreError;
use crate::tree::{Node, Tree};

/// Downloads at once: enough to fill a line, few enough to be polite.
const DOWNLOADS: usize = 6;
/// dpkg's database.
const DATABASE: &str = "var/lib/dpkg";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::Io { action, path, source }
}

impl Engine<'_> {
    pub(super) fn packages(
        &self,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
        packages: &[Package],
        bottom: bool,
    ) -> Result<(Digest, Tree), EngineError> {
        if packages.is_empty() && !bottom {
            let scratch = self.scratch(step)?;
            let nothing = scratch.path().join("keep");
            fs::create_dir_all(&nothing).map_err(failed("make", &nothing))?;
            return Ok(self.store.keep_tree(&nothing)?);
        }
        self.download(step, packages)?;
        let scratch = self.scratch(step)?;
        let upper = scratch.path().join("upper");
        fs::create_dir_all(&upper).map_err(failed("make", &upper))?;
        if bottom {
            rootfs::prepare(&upper, self.architecture())?;
        }
        for input in inputs {
            copy_ground(&self.store.read_tree(input)?, &self.store.tree_path(input), &upper)?;
        }
        let unpack = |package: &Package| -> Result<(Control, Vec<String>), EngineError> {
            let failed = |source| EngineError::Unpack { package: package.name.clone(), source };
            let mut deb = Deb::open(&self.store.blob_path(&package.digest)).map_err(failed)?;
            Ok((deb.control().map_err(failed)?, deb.unpack(&upper).map_err(failed)?))
        };
        let unpacked = packages.par_iter().map(unpack).collect::<Result<Vec<_>, _>>()?;
        let entries: Vec<Unpacked<'_>> =
            unpacked.iter().map(|(control, list)| Unpacked { control, list }).collect();
        rootfs::write_database(&upper, &entries)?;
        let order: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        let script = script(&order, bottom);
        let files = BTreeMap::from([("configure.sh".to_owned(), script)]);
        let command = ["/bin/sh", "/forge/configure.sh"].map(str::to_owned);
        self.execute(step, key, inputs, &command, &files, &scratch)?;
        for input in inputs {
            drop_unchanged(&self.store.read_tree(input)?, &upper)?;
        }
        if bottom {
            for folder in ["proc", "sys", "dev", "tmp", "run"] {
                let path = upper.join(folder);
                fs::create_dir_all(&path).map_err(failed("make", &path))?;
                let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                    .map_err(failed("chmod", &path))?;
            }
        }
        self.take_outputs(step, inputs, &scratch)
    }

    /// Brings every .deb that the store does not have.
    fn download(&self, step: &Step, packages: &[Package]) -> Result<(), EngineError> {
        let mut missing = Vec::new();
        for package in packages {
            if self.store.blob_size(&package.digest)? != Some(package.size) {
                missing.push(package);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let downloads = (self.downloads)()?;
        let total = missing.iter().map(|package| package.size).sum();
        let done = AtomicU64::new(0);
        let progress = |bytes: u64| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.events.send(Event::Download { step: step.name.clone(), done, total });
        };
        let fetch = |package: &Package| -> Result<(), EngineError> {
            let shown = || format!("{} {}", package.name, package.version);
            let mut last = EngineError::NoMirror { package: shown() };
            for address in (self.addresses)(package) {
                if self.running.stopped() {
                    return Err(EngineError::Interrupted);
                }
                let new = || {
                    self.store.new_blob().map_err(|error| match error {
                        StoreError::Io { source, .. } => source,
                        other => std::io::Error::other(other.to_string()),
                    })
                };
                match downloads.fetch(&address, package.size, new, &progress) {
                    Ok(mut blob) => {
                        blob.flush().map_err(failed("write", self.store.root()))?;
                        blob.keep(Some((&package.digest, &address)))?;
                        return Ok(());
                    }
                    Err(source) => last = EngineError::Package { package: shown(), source },
                }
            }
            Err(last)
        };
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(DOWNLOADS).build().map_err(|error| {
                failed("start downloads of", self.store.root())(std::io::Error::other(error))
            })?;
        pool.install(|| missing.par_iter().try_for_each(|package| fetch(package)))
    }
}

/// What unpacking on top of a base must find in the same folder: the links to
/// folders through which packages may name their files, and dpkg's database.
/// [`drop_unchanged`] takes away again what stays as it was.
fn copy_ground(base: &Tree, root: &Path, upper: &Path) -> Result<(), EngineError> {
    for (path, node) in &base.entries {
        let path = Path::new(OsStr::from_bytes(path));
        let to = upper.join(path);
        match node {
            Node::Symlink { target } => {
                // By the list alone: a base of others may have links that lead anywhere.
                let target = Path::new(OsStr::from_bytes(target));
                let Some(inside) = within(path.parent().unwrap_or(Path::new("")), target) else {
                    continue;
                };
                let folder = base.entries.get(inside.as_os_str().as_bytes());
                if !matches!(folder, Some(Node::Directory { .. }))
                    || fs::symlink_metadata(&to).is_ok()
                {
                    continue;
                }
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
                fs::set_permissions(&to, fs::Permissions::from_mode(*mode))
                    .map_err(failed("chmod", &to))?;
            }
            _ => {}
        }
    }
    Ok(())
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
    for (path, node) in base.entries.iter().rev() {
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
                    && metadata.len() == *size
                    && metadata.mode() & 0o7777 == *mode =>
            {
                let (found, _) = fs::File::open(&there)
                    .and_then(Digest::of_reader)
                    .map_err(failed("read", &there))?;
                if found == *digest {
                    fs::remove_file(&there).map_err(failed("remove", &there))?;
                }
            }
            Node::Directory { mode, .. } if metadata.is_dir() => {
                if fs::read_dir(&there).map_err(failed("read", &there))?.next().is_none() {
                    fs::remove_dir(&there).map_err(failed("remove", &there))?;
                } else {
                    fs::set_permissions(&there, fs::Permissions::from_mode(*mode))
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
