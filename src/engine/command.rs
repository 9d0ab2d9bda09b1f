//! Runs a step's command in the sandbox, and takes what it made.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::hints::{self, Whereabouts};
use super::{Acted, Engine, EngineError};
use crate::digest::Digest;
use crate::event::Event;
use crate::plan::Step;
use crate::sandbox::{self, Bind, Ended, Given, Network, Reads, SandboxError, Spec};
use crate::source::matcher;
use crate::store::Scratch;
use crate::tree::{Node, STAMP, Tree};

/// Where scripts and the shared download folder are seen in a step.
const FORGE: &str = "/forge";
/// How many of a failed step's lines the error carries.
const TAIL: usize = 25;
/// How many of a failed step's last lines are looked at for hints.
const LOOKED_AT: usize = 2000;
/// A line that begins so is shown to the user even when the step succeeds.
const NOTICE: &str = "forge:notice: ";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::Io { action, path, source }
}

impl Engine<'_> {
    pub(super) fn command(
        &self,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
        command: &[String],
        files: &BTreeMap<String, String>,
    ) -> Result<Acted, EngineError> {
        let scratch = self.scratch(step)?;
        let mut below = inputs;
        if let (Some(selection), Some((_, others))) = (self.app_files(step), inputs.split_last()) {
            let upper = scratch.path().join("upper");
            self.snapshot.materialise(&self.snapshot.select(selection)?, &upper)?;
            below = others;
        }
        let reads = self.execute(step, key, below, command, files, &scratch)?;
        let (tree, list) = self.take_outputs(step, inputs, &scratch)?;
        Ok(Acted { tree, list, reads })
    }

    /// A scratch folder named after the step.
    pub(super) fn scratch(&self, step: &Step) -> Result<Scratch, EngineError> {
        let label: String = step
            .name
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
            .collect();
        Ok(self.store.scratch(&label)?)
    }

    /// Runs the command with the inputs as its file system; those of the app
    /// are in `upper/` of the scratch folder.
    pub(super) fn execute(
        &self,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
        command: &[String],
        files: &BTreeMap<String, String>,
        scratch: &Scratch,
    ) -> Result<Option<Reads>, EngineError> {
        let mode = (self.mode)()?;
        let scripts = scratch.path().join("forge");
        fs::create_dir_all(scripts.join("cache")).map_err(failed("make", &scripts))?;
        for (name, text) in files {
            let path = scripts.join(name);
            fs::write(&path, text).map_err(failed("write", &path))?;
        }
        fs::create_dir_all(scratch.path().join("tmp/home"))
            .map_err(failed("make", scratch.path()))?;
        let mut binds = vec![Bind { from: scripts, to: PathBuf::from(FORGE), writable: false }];
        let mut environment = step.environment.clone();
        if step.network {
            let placed = self.identity.place(&scratch.path().join("identity"));
            binds.extend(placed.map_err(|(path, error)| failed("write", &path)(error))?);
            // What the step says wins over what the machine has.
            environment = self.identity.environment.clone();
            environment.extend(step.environment.clone());
            if let Some(cache) = &step.cache {
                let from = self.store.root().join("downloads").join(cache);
                fs::create_dir_all(&from).map_err(failed("make", &from))?;
                binds.push(Bind { from, to: Path::new(FORGE).join("cache"), writable: true });
            }
        }
        let spec = Spec {
            mode,
            layers: stacked(inputs).into_iter().map(|tree| self.store.tree_path(tree)).collect(),
            scratch: scratch.path().to_owned(),
            outputs: step.outputs.iter().map(|output| output.path.clone()).collect(),
            given: match self.app_files(step) {
                Some(_) if step.traced => Given::Traced,
                Some(_) => Given::Inputs,
                None => Given::Results,
            },
            binds,
            network: if step.network { Network::Host } else { Network::Offline },
            command: command.to_vec(),
            environment,
            directory: PathBuf::from(&step.directory),
            user: 0,
            parent: sandbox::own_pid(),
            interactive: false,
        };
        let path = self.log_path(key);
        let mut log = BufWriter::new(open_log(&path).map_err(failed("write", &path))?);
        if step.network && !self.identity.withheld.is_empty() {
            // For whoever wonders why a setting has no effect; see docs/settings.md.
            let names = self.identity.withheld.join(", ");
            writeln!(log, "forge: settings of this machine that are not passed on: {names}")
                .map_err(failed("write", &path))?;
        }
        let mut lines: Vec<String> = Vec::new();
        let mut log_error = None;
        let result = sandbox::run(&spec, self.running, |line| {
            if let Err(error) = writeln!(log, "{line}") {
                log_error.get_or_insert(error);
            }
            match line.strip_prefix(NOTICE) {
                Some(text) => self.events.notice(text, None),
                None => self
                    .events
                    .send(Event::StepLine { step: step.name.clone(), line: line.to_owned() }),
            }
            if lines.len() >= 2 * LOOKED_AT {
                lines.drain(..LOOKED_AT);
            }
            lines.push(line.to_owned());
        });
        let Ended { exit, reads } = match result {
            Ok(ended) => ended,
            Err(SandboxError::Interrupted) => return Err(EngineError::Interrupted),
            Err(source) => return Err(EngineError::Sandbox { step: step.name.clone(), source }),
        };
        if let Some(error) = log_error {
            return Err(failed("write", &path)(error));
        }
        log.flush().map_err(failed("write", &path))?;
        if exit.success() {
            return Ok(reads);
        }
        let from = lines.len().saturating_sub(LOOKED_AT);
        let whereabouts = |path: &str| {
            if self.snapshot.has(path) {
                return Whereabouts::InApp;
            }
            let excluded = self.snapshot.excluded_by(path);
            excluded.map_or(Whereabouts::Nowhere, |decision| Whereabouts::Excluded(&decision.rule))
        };
        let (advice, network) = hints::advice(step, &lines[from..], &whereabouts)?;
        let tail = lines.split_off(lines.len().saturating_sub(TAIL));
        Err(EngineError::StepFailed {
            step: step.name.clone(),
            exit,
            tail,
            log: path,
            advice,
            network,
        })
    }

    /// Moves what the step was to make out of all that it wrote, and keeps it.
    pub(super) fn take_outputs(
        &self,
        step: &Step,
        inputs: &[Digest],
        scratch: &Scratch,
    ) -> Result<(Digest, Tree), EngineError> {
        let app = match self.app_files(step) {
            Some(selection) => self.snapshot.select(selection)?,
            None => Tree::default(),
        };
        // What an input has is there, though the step has made nothing in it.
        let is_given = |path: &str| {
            app.get(path.as_bytes()).is_some()
                || inputs
                    .iter()
                    .any(|tree| fs::symlink_metadata(self.store.tree_path(tree).join(path)).is_ok())
        };
        let upper = scratch.path().join("upper");
        let keep = scratch.path().join("keep");
        for output in &step.outputs {
            let from = upper.join(&output.path);
            // A link on the way would lead out of what the step wrote.
            let parents_are_folders = ancestors(&output.path).all(|parent| {
                fs::symlink_metadata(upper.join(parent)).is_ok_and(|there| there.is_dir())
            });
            let there = parents_are_folders && fs::symlink_metadata(&from).is_ok();
            if !there && (output.optional || is_given(&output.path)) {
                continue;
            }
            if !there {
                return Err(EngineError::OutputMissing {
                    step: step.name.clone(),
                    path: format!("/{}", output.path),
                });
            }
            let to = keep.join(&output.path);
            if let Some(parent) = to.parent() {
                make_parents(parent).map_err(failed("make", parent))?;
            }
            fs::rename(&from, &to).map_err(failed("move", &from))?;
        }
        make_parents(&keep).map_err(failed("make", &keep))?;
        if !step.drop.is_empty() {
            let dropped = matcher("a step's `drop`", step.drop.iter().map(String::as_str))?;
            drop_entries(&keep, "", &dropped).map_err(failed("clean", &keep))?;
        }
        drop_untouched(&keep, &app).map_err(failed("clean", &keep))?;
        Ok(self.store.keep_tree(&keep)?)
    }
}

/// The trees to stack: without those of nothing, and of those that come twice only
/// the upper one, as an overlay takes no folder twice.
fn stacked(inputs: &[Digest]) -> Vec<&Digest> {
    let nothing = Tree::default().digest();
    inputs
        .iter()
        .enumerate()
        .filter(|(at, tree)| **tree != nothing && !inputs[at + 1..].contains(tree))
        .map(|(_, tree)| tree)
        .collect()
}

/// The folders that lead to a path, the path itself not among them.
fn ancestors(path: &str) -> impl Iterator<Item = &Path> {
    Path::new(path).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty())
}

/// Folders made with the same mode under any umask.
fn make_parents(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if folder.exists() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_parents(parent)?;
    }
    fs::create_dir(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Removes the entries that the patterns match; a folder goes when nothing in it
/// stays.
fn drop_entries(
    root: &Path,
    below: &str,
    dropped: &ignore::gitignore::Gitignore,
) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        // Names that are not UTF-8 match no pattern; the scan judges them.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let folder = entry.file_type()?.is_dir();
        if folder {
            drop_entries(root, &path, dropped)?;
        }
        if dropped.matched_path_or_any_parents(&path, folder).is_ignore() {
            if !folder {
                fs::remove_file(entry.path())?;
            } else if fs::read_dir(entry.path())?.next().is_none() {
                fs::remove_dir(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Removes files of the app that the step has opened for writing and left as they were, and
/// folders in which nothing else is: whether those are in `keep` depends on how the
/// step was isolated. What it has written anew, with the same content even, stays.
fn drop_untouched(keep: &Path, app: &Tree) -> std::io::Result<()> {
    // What is in a folder comes after it, so backwards before it.
    for (path, node) in app.iter().rev() {
        let full = keep.join(OsStr::from_bytes(path));
        let Ok(there) = fs::symlink_metadata(&full) else { continue };
        let mode_is = |mode: u32| there.mode() & 0o7777 == mode;
        match node {
            Node::File { mode, size, digest } if there.is_file() && mode_is(mode) => {
                let may_be_same = there.len() == size && there.mtime() == STAMP;
                if may_be_same && Digest::of_reader(File::open(&full)?)?.0 == digest {
                    fs::remove_file(&full)?;
                }
            }
            Node::Directory { mode, .. } if there.is_dir() && mode_is(mode) => {
                let is_empty = fs::read_dir(&full)?.next().is_none();
                if is_empty {
                    fs::remove_dir(&full)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tree_is_stacked_twice() {
        let [one, two, nothing] = [Digest::of(b"1"), Digest::of(b"2"), Tree::default().digest()];
        assert_eq!(stacked(&[one, two, nothing, one, nothing]), [&two, &one]);
    }

    #[test]
    fn dropping_keeps_what_is_excepted() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [
            "usr/share/doc/a/copyright",
            "usr/share/doc/a/manual",
            "usr/share/doc/b/manual",
            "usr/bin/x",
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, "").expect("write");
        }
        let rules = matcher("t", ["usr/share/doc/**", "!usr/share/doc/*/copyright"].into_iter())
            .expect("parses");
        drop_entries(folder.path(), "", &rules).expect("dropped");
        let tree = Tree::scan(folder.path()).expect("scan");
        let left: Vec<_> =
            tree.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(
            left,
            [
                "usr",
                "usr/bin",
                "usr/bin/x",
                "usr/share",
                "usr/share/doc",
                "usr/share/doc/a",
                "usr/share/doc/a/copyright"
            ]
        );
    }
}
