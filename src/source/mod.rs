//! The app's folder at one moment: which files there are, which of them count,
//! and what is in them.
//!
//! A [`Snapshot`] is taken once a build. Nothing here judges what the app is.

mod decided;
mod dockerignore;
mod names;
mod order;
mod project;
mod rules;
mod seen;
mod select;
mod walk;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use thiserror::Error;

use crate::digest::Digest;
use crate::plan::APP_FOLDER;
use crate::tree::{Node, Tree};

pub use decided::Decisions;
pub use rules::{By, Decision, IgnoredConfig, Matching, Rules, matcher, matching};
pub use seen::Seen;
pub use select::Remembered;
use select::Selected;
use walk::walk;

/// What a regular file of the app is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Whether anybody may execute it: all that is kept of its mode.
    pub executable: bool,
    /// Length in bytes.
    pub size: u64,
    /// Digest of what is in it.
    pub digest: Digest,
}

/// The app's files, after the include and exclude rules; paths are relative to the root.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The app's folder on this machine.
    pub root: PathBuf,
    /// The files and links as they will stand in the image, with the folders that lead there.
    tree: Tree,
    /// Of each path that was looked at, the rule that decided, if one said anything.
    pub decisions: Arc<Decisions>,
    /// The heart of the app that the `.dockerignore` hides, which therefore is for
    /// another image and not used.
    pub unfit_dockerignore: Option<String>,
    /// A name of the files and links, whatever else is so.
    name: Digest,
    /// What was selected by now.
    selected: Arc<Selected>,
}

/// Why the app's folder cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The system refused.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No such folder.
    #[error("`{}` is not a folder", path.display())]
    NotAFolder {
        /// What was named.
        path: PathBuf,
    },
    /// A name that is not UTF-8.
    #[error("the file name `{}` is not UTF-8", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A pipe, socket or device among the app's files.
    #[error("`{}` is neither file, folder nor link", path.display())]
    Special {
        /// The entry.
        path: PathBuf,
    },
    /// A rule that does not parse.
    #[error("{origin}: `{rule}` is not a pattern: {problem}")]
    Rule {
        /// Where it stands.
        origin: String,
        /// The rule.
        rule: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A `project.toml` that is about images and cannot be followed.
    #[error("project.toml: {problem}")]
    Descriptor {
        /// What is wrong with it, with the line.
        problem: String,
    },
    /// A file is not what it was when the build began.
    #[error("`{path}` has changed while it was built")]
    Changed {
        /// The file, relative to the root.
        path: String,
    },
}

/// A path of the image from the app's folder; `None` for what is not below it. The names of the
/// app's files are text.
fn in_app(path: &[u8]) -> Option<&str> {
    std::str::from_utf8(path).ok()?.strip_prefix(APP_FOLDER)?.strip_prefix('/')
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |source| SourceError::Io { action, path, source }
}

impl Snapshot {
    /// Reads the folder, hashing files on all processors.
    ///
    /// # Errors
    /// A folder or file that cannot be read; a rule that does not parse.
    pub fn take(root: &Path, rules: &Rules) -> Result<Snapshot, SourceError> {
        Snapshot::take_again(root, rules, &Seen::default()).map(|(snapshot, _)| snapshot)
    }

    /// Reads the folder, but for the files that have not been touched since they were `seen`.
    /// What is seen now is for the next time.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub fn take_again(
        root: &Path,
        rules: &Rules,
        seen: &Seen,
    ) -> Result<(Snapshot, Seen), SourceError> {
        let began = seen::now();
        if !root.is_dir() {
            return Err(SourceError::NotAFolder { path: root.to_owned() });
        }
        let root = root.canonicalize().map_err(failed("find", root))?;
        let rules = rules.of_app(&root)?;
        let walked = walk(&root, &rules, seen, began)?;
        let snapshot = Snapshot {
            unfit_dockerignore: rules.unfit.clone(),
            root,
            tree: walked.tree,
            decisions: Arc::new(walked.decisions),
            name: walked.name,
            selected: Arc::default(),
        };
        Ok((snapshot, walked.seen))
    }

    /// How many files, links and folders there are.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.tree.len()
    }

    /// The paths of the regular files, sorted.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let files = self.tree.iter().filter(|(_, node)| matches!(node, Node::File { .. }));
        files.filter_map(|(path, _)| in_app(path))
    }

    /// The paths of the symbolic links, sorted.
    pub fn links(&self) -> impl Iterator<Item = &str> {
        let links = self.tree.iter().filter(|(_, node)| matches!(node, Node::Symlink { .. }));
        links.filter_map(|(path, _)| in_app(path))
    }

    fn node(&self, path: &str) -> Option<Node<'_>> {
        self.tree.get([APP_FOLDER, path].join("/").as_bytes())
    }

    /// What the regular file at a path is.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Content> {
        match self.node(path)? {
            Node::File { mode, size, digest } => {
                Some(Content { executable: mode & 0o111 != 0, size, digest })
            }
            _ => None,
        }
    }

    /// Whether a file or link is at a path.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        matches!(self.node(path), Some(Node::File { .. } | Node::Symlink { .. }))
    }

    /// Copies the files of a selected tree below `target`, checking that each is
    /// still what the snapshot saw.
    ///
    /// # Errors
    /// A file that changed, or a disk that refuses.
    pub fn materialise(&self, tree: &Tree, target: &Path) -> Result<(), SourceError> {
        // A folder comes before what is in it.
        for (path, node) in tree.iter() {
            let to = target.join(OsStr::from_bytes(path));
            match node {
                Node::Directory { mode, .. } => {
                    fs::create_dir_all(&to).map_err(failed("make", &to))?;
                    fs::set_permissions(&to, fs::Permissions::from_mode(mode))
                        .map_err(failed("chmod", &to))?;
                }
                Node::Symlink { target } => {
                    let target = OsStr::from_bytes(target);
                    std::os::unix::fs::symlink(target, &to).map_err(failed("link", &to))?;
                }
                Node::File { .. } | Node::HardLink { .. } | Node::Whiteout => {}
            }
        }
        (0..tree.len()).into_par_iter().try_for_each(|number| match tree.at(number) {
            (path, Node::File { mode, digest, .. }) => self.copy_file(path, mode, &digest, target),
            _ => Ok(()),
        })
    }

    fn copy_file(
        &self,
        path: &[u8],
        mode: u32,
        digest: &Digest,
        target: &Path,
    ) -> Result<(), SourceError> {
        let to = target.join(OsStr::from_bytes(path));
        let path = String::from_utf8_lossy(path);
        let path = path.strip_prefix(&format!("{APP_FOLDER}/")).unwrap_or(&path);
        let from = self.root.join(path);
        let mut reader = File::open(&from).map_err(failed("read", &from))?;
        let mut writer =
            crate::digest::Hasher::new(File::create(&to).map_err(failed("write", &to))?);
        io::copy(&mut reader, &mut writer).map_err(failed("copy", &from))?;
        let (found, _, file) = writer.finish();
        if found != *digest {
            return Err(SourceError::Changed { path: path.to_owned() });
        }
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("chmod", &to))
    }

    /// The rule that leaves out what lies on the disk at `path`; `None` when nothing
    /// lies there, or when it counts.
    #[must_use]
    pub fn excluded_by(&self, path: &str) -> Option<&Decision> {
        if path.starts_with('/') || path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
            return None;
        }
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]);
        let decision = folders
            .filter_map(|folder| self.decisions.get(&format!("{folder}/")))
            .chain(self.decisions.get(path))
            .find(|decision| !decision.included)?;
        fs::symlink_metadata(self.root.join(path)).is_ok().then_some(decision)
    }

    /// The text of a file, or `None` when the snapshot does not have it.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8.
    pub fn text(&self, path: &str) -> Result<Option<String>, SourceError> {
        if self.content(path).is_none() {
            return Ok(None);
        }
        let full = self.root.join(path);
        fs::read_to_string(&full).map(Some).map_err(failed("read", &full))
    }
}

#[cfg(test)]
mod tests;
