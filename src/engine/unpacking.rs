//! Unpacks the packages of one step, each as it comes, and begins before the step does.
//!
//! ```text
//! base:   bring ─► unpack ─► set up (scripts, one at a time) ─► keep
//! build:  bring ────────────► unpack, in the meantime ─────────────────► ground ─► set up ─► keep
//! ```
//!
//! What stands on a package step is unpacked while that one is set up, on processors that have
//! nothing else to do. What is below it, its *ground*, is not there then: the links to folders
//! through which packages may name their files. They are laid afterwards, and when one of
//! them would have led a file elsewhere, all is unpacked once more, on the ground ([`fits`]).
//! So nobody can tell from the result which way it was made; `--check` compares both.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::arrivals::Want;
use super::packages::{DATABASE, copy_ground, failed, folder_of};
use super::{Background, Engine, EngineError, State};
use crate::debian::deb::{Control, Deb};
use crate::debian::rootfs;
use crate::plan::{Action, Package, Step};
use crate::store::Scratch;
use crate::tree::{Node, Tree};

/// How much other work goes before what is done ahead of time and on the side, as `nice` has it.
/// No more: on a machine that others use too, what is on the side has to get on as well.
const PATIENCE: i32 = 5;

/// What is known of a package that was unpacked: its fields, and its paths.
pub(super) type Unpacked = (Control, Vec<String>);

/// The packages of one step on their way into a folder.
pub(super) struct Unpacking {
    step: String,
    packages: Vec<Package>,
    /// The folder is `upper` of it.
    pub(super) scratch: Scratch,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    /// Positions of the packages that nobody has taken yet, the next one last.
    left: Vec<usize>,
    busy: usize,
    done: Vec<Option<Unpacked>>,
    failed: Option<EngineError>,
}

impl Unpacking {
    fn new(step: &Step, packages: &[Package], scratch: Scratch) -> Unpacking {
        let mut left: Vec<usize> = (0..packages.len()).collect();
        // As they are asked for.
        left.sort_by_key(|number| packages[*number].size);
        let done = packages.iter().map(|_| None).collect();
        Unpacking {
            step: step.name.clone(),
            packages: packages.to_vec(),
            scratch,
            inner: Mutex::new(Inner { left, done, ..Inner::default() }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn upper(&self) -> PathBuf {
        self.scratch.path().join("upper")
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<usize> {
        let mut inner = self.inner();
        if inner.failed.is_some() {
            return None;
        }
        let number = inner.left.pop()?;
        inner.busy += 1;
        Some(number)
    }

    fn give(&self, number: usize, result: Result<Unpacked, EngineError>) {
        let mut inner = self.inner();
        inner.busy -= 1;
        match result {
            Ok(unpacked) => inner.done[number] = Some(unpacked),
            Err(error) => drop(inner.failed.get_or_insert(error)),
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Waits for those that others unpack; all of them, in the order of the packages.
    fn finish(&self) -> Result<Vec<Unpacked>, EngineError> {
        let mut inner = self.inner();
        while inner.busy > 0 {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        let done: Option<Vec<Unpacked>> = std::mem::take(&mut inner.done).into_iter().collect();
        done.ok_or(EngineError::Interrupted)
    }
}

/// Lets the rest of the build go before this thread, and those that it starts.
pub(super) fn stand_back() {
    // Where that is not allowed, things only take their turns.
    let _as_it_is = rustix::process::nice(PATIENCE);
}

impl Engine<'_> {
    /// The packages of a step in a folder of their own, on the ground of its inputs.
    pub(super) fn unpacked(
        &self,
        state: &State,
        step: &Step,
        packages: &[Package],
        ground: &[(Tree, PathBuf)],
        bottom: bool,
    ) -> Result<(Arc<Unpacking>, Vec<Unpacked>), EngineError> {
        self.ask_for(state, &step.name, packages, Want::Now)?;
        self.bring_ahead(state, step)?;
        if let Some(begun) = state.take_unpacking(self.index(&step.name))
            && begun.packages == packages
        {
            match self.unpack_all(state, &begun) {
                Ok(unpacked) if fits(ground, &begun.upper())? => {
                    lay(ground, &begun.upper())?;
                    return Ok((begun, unpacked));
                }
                // A folder may be missing that is in the ground.
                Ok(_) | Err(EngineError::Unpack { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let unpacking = self.begin(step, packages)?;
        if bottom {
            rootfs::prepare(&unpacking.upper(), self.architecture())?;
        }
        lay(ground, &unpacking.upper())?;
        let unpacked = self.unpack_all(state, &unpacking)?;
        Ok((unpacking, unpacked))
    }

    fn begin(&self, step: &Step, packages: &[Package]) -> Result<Arc<Unpacking>, EngineError> {
        let unpacking = Unpacking::new(step, packages, self.scratch(step)?);
        let upper = unpacking.upper();
        fs::create_dir_all(&upper).map_err(failed("make", &upper))?;
        Ok(Arc::new(unpacking))
    }

    fn unpack_all(
        &self,
        state: &State,
        unpacking: &Unpacking,
    ) -> Result<Vec<Unpacked>, EngineError> {
        thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, unpacking.packages.len().max(1)) {
                scope.spawn(|| self.unpack_some(state, unpacking));
            }
        });
        unpacking.finish()
    }

    fn unpack_some(&self, state: &State, unpacking: &Unpacking) {
        while let Some(number) = unpacking.take() {
            let package = &unpacking.packages[number];
            let unpack = || -> Result<Unpacked, EngineError> {
                state.arrivals.wait(&unpacking.step, package)?;
                let failed = |source| EngineError::Unpack { package: package.name.clone(), source };
                let path = self.store.blob_path(&package.digest);
                let mut deb = Deb::open(&path).map_err(failed)?;
                let control = deb.control().map_err(failed)?;
                Ok((control, deb.unpack(&unpacking.upper()).map_err(failed)?))
            };
            // Whoever waits for a package must get an answer.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(unpack));
            unpacking.give(number, result.unwrap_or(Err(EngineError::Panicked)));
        }
    }

    /// The package steps that stand on this one, when it must run: so must they. None where its
    /// result is known and its files are only made again.
    fn package_steps_above<'e>(
        &'e self,
        state: &'e State,
        step: &Step,
    ) -> Vec<(usize, &'e Step, &'e [Package])> {
        let index = self.index(&step.name);
        let mut found = Vec::new();
        if state.trees[index].get().is_some() {
            return found;
        }
        // Inputs come first in a plan.
        let mut above = BTreeSet::from([step.name.as_str()]);
        for (number, other) in self.plan.steps.iter().enumerate().skip(index + 1) {
            if !other.root.iter().any(|input| above.contains(input.as_str())) {
                continue;
            }
            above.insert(&other.name);
            if let Action::Packages { packages, .. } = &self.definition(state, number).action
                && !packages.is_empty()
            {
                found.push((number, other, packages.as_slice()));
            }
        }
        found
    }

    /// Begins to bring the files of the package steps above this one.
    fn bring_ahead(&self, state: &State, step: &Step) -> Result<(), EngineError> {
        for (_, other, packages) in self.package_steps_above(state, step) {
            self.ask_for(state, &other.name, packages, Want::Ahead)?;
        }
        Ok(())
    }

    /// Begins to unpack them, one after another.
    pub(super) fn unpack_ahead(&self, state: &State, step: &Step) -> Result<(), EngineError> {
        let mut begun = Vec::new();
        for (number, other, packages) in self.package_steps_above(state, step) {
            if state.may_unpack_ahead(number) {
                let unpacking = self.begin(other, packages)?;
                rootfs::prepare(&unpacking.upper(), self.architecture())?;
                state.put_unpacking(number, &unpacking);
                begun.push(unpacking);
            }
        }
        if !begun.is_empty() {
            state.tell_background(Background::Unpack(begun));
        }
        Ok(())
    }

    /// Unpacks ahead of time, as long as nothing else wants the processors.
    pub(super) fn unpack_on_the_side(&self, state: &State, begun: &[Arc<Unpacking>]) {
        stand_back();
        begun.iter().for_each(|unpacking| self.unpack_some(state, unpacking));
    }
}

/// Lays the ground for packages: see [`copy_ground`].
fn lay(ground: &[(Tree, PathBuf)], upper: &Path) -> Result<(), EngineError> {
    ground.iter().try_for_each(|(tree, root)| copy_ground(tree, root, upper))
}

/// Whether packages that were unpacked without the ground are as if they had been unpacked on
/// it: nothing of them is where the ground has a link to a folder, or on the way there, nor
/// in dpkg's database; and the links of [`rootfs::prepare`] are the ground's as well.
fn fits(ground: &[(Tree, PathBuf)], upper: &Path) -> Result<bool, EngineError> {
    if exists(&upper.join(DATABASE)) {
        return Ok(false);
    }
    for entry in fs::read_dir(upper).map_err(failed("read", upper))? {
        let entry = entry.map_err(failed("read", upper))?;
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let is_of_ground = |(tree, _): &(Tree, PathBuf)| {
            matches!(
                tree.get(entry.file_name().as_bytes()),
                Some(Node::Symlink { target: found }) if found == target.as_os_str().as_bytes()
            )
        };
        if !ground.iter().any(is_of_ground) {
            return Ok(false);
        }
    }
    for (tree, _) in ground {
        for (path, node) in tree.iter() {
            let Node::Symlink { target } = node else { continue };
            let path = Path::new(OsStr::from_bytes(path));
            let Some(folder) = folder_of(tree, path, target) else { continue };
            let there = upper.join(path);
            let is_same = !exists(&there)
                || fs::read_link(&there).is_ok_and(|found| found.as_os_str().as_bytes() == target);
            let parent = path.parent().unwrap_or(Path::new(""));
            if !is_same || !are_folders(upper, parent) || !are_folders(upper, &folder) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether what there is of a path, and on the way to it, are folders and no links.
fn are_folders(upper: &Path, path: &Path) -> bool {
    path.ancestors()
        .filter(|part| !part.as_os_str().is_empty())
        .all(|part| fs::symlink_metadata(upper.join(part)).map_or(true, |there| there.is_dir()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Whether packages with these files fit on a ground in which `lib` and `usr/doc` are
    /// links to folders.
    #[track_caller]
    fn check(files: &[&str], links: &[(&str, &str)], expected: bool) {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, upper) = (folder.path().join("root"), folder.path().join("upper"));
        fs::create_dir_all(root.join("usr/lib")).expect("mkdir");
        fs::create_dir_all(root.join("usr/share/doc")).expect("mkdir");
        symlink("usr/lib", root.join("lib")).expect("link");
        symlink("share/doc", root.join("usr/doc")).expect("link");
        let ground = [(Tree::scan(&root).expect("scan"), root)];
        fs::create_dir_all(upper.join("usr/lib")).expect("mkdir");
        symlink("usr/lib", upper.join("lib")).expect("link");
        for path in files {
            let path = upper.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, "").expect("written");
        }
        for (path, target) in links {
            symlink(target, upper.join(path)).expect("link");
        }
        assert_eq!(fits(&ground, &upper).expect("read"), expected, "{files:?} {links:?}");
        if expected {
            lay(&ground, &upper).expect("laid");
            assert!(exists(&upper.join("usr/doc")));
        }
    }

    #[test]
    fn what_the_ground_would_have_led_elsewhere_does_not_fit() {
        check(&["usr/lib/a", "usr/share/doc/a", "etc/a"], &[], true);
        check(&["lib/a"], &[], true);
        check(&["usr/doc/a"], &[], false);
        check(&["usr/share/doc"], &[], false);
        check(&["usr/share"], &[], false);
        check(&["var/lib/dpkg/a"], &[], false);
        check(&[], &[("usr/doc", "share/doc")], true);
        check(&[], &[("usr/doc", "lib")], false);
        check(&[], &[("usr/share", "lib")], false);
        check(&[], &[("bin", "usr/bin")], false);
    }
}
