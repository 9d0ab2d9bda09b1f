//! The app's folder at one moment: which files there are, which of them count,
//! and what is in them.
//!
//! A [`Snapshot`] is taken once a build. Nothing here judges what the app is.

mod rules;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use thiserror::Error;

use crate::digest::Digest;
use crate::plan::{APP_FOLDER, Selection};
use crate::tree::{Node, Tree};

pub use rules::{Decision, Rules, matcher};

/// What a file of the app is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file.
    File {
        /// Whether anybody may execute it: all that is kept of its mode.
        executable: bool,
        /// Length in bytes.
        size: u64,
        /// Digest of its content.
        digest: Digest,
    },
    /// A symbolic link and where it points.
    Link(String),
}

/// The app's files by path, after the include and exclude rules.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The app's folder on this machine.
    pub root: PathBuf,
    /// Path relative to the root → entry, sorted.
    pub entries: BTreeMap<String, Entry>,
    /// The regular files among them, sorted.
    pub files: Vec<String>,
    /// Every path that was looked at, with the rule that decided; folders that
    /// are excluded whole stand for all that is in them.
    pub decisions: BTreeMap<String, Decision>,
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
    /// A file is not what it was when the build began.
    #[error("`{path}` has changed while it was built")]
    Changed {
        /// The file, relative to the root.
        path: String,
    },
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
        if !root.is_dir() {
            return Err(SourceError::NotAFolder { path: root.to_owned() });
        }
        let root = root.canonicalize().map_err(failed("find", root))?;
        let mut walk = Walk { root: &root, rules, found: Vec::new(), decisions: BTreeMap::new() };
        walk.folder(String::new(), &mut Vec::new())?;
        let Walk { found, decisions, .. } = walk;
        let entries: Result<BTreeMap<String, Entry>, SourceError> =
            found.into_par_iter().map(|path| read(&root, path)).collect();
        let entries = entries?;
        let files = entries
            .iter()
            .filter(|(_, entry)| matches!(entry, Entry::File { .. }))
            .map(|(path, _)| path.clone())
            .collect();
        Ok(Snapshot { root, entries, files, decisions })
    }

    /// The files of the selection, as they will stand in the image.
    ///
    /// # Errors
    /// A rule that does not parse.
    pub fn select(&self, selection: &Selection) -> Result<Tree, SourceError> {
        let matcher = matcher("the plan", selection.rules.iter().map(String::as_str))?;
        let mut tree = Tree::default();
        for (path, entry) in &self.entries {
            // As in `.gitignore` files the sense is to leave out, a rule that
            // matches selects and one with `!` does not.
            if !matcher.matched_path_or_any_parents(path, false).is_ignore() {
                continue;
            }
            let node = match entry {
                Entry::File { executable, size, digest } => Node::File {
                    mode: if *executable { 0o755 } else { 0o644 },
                    size: *size,
                    digest: *digest,
                },
                Entry::Link(target) => Node::Symlink { target: target.clone().into_bytes() },
            };
            tree.entries.insert(format!("{APP_FOLDER}/{path}").into_bytes(), node);
        }
        tree.entries
            .insert(APP_FOLDER.as_bytes().to_vec(), Node::Directory { mode: 0o755, opaque: false });
        tree.add_parents();
        Ok(tree)
    }

    /// Copies the files of a selected tree below `target`, checking that each is
    /// still what the snapshot saw.
    ///
    /// # Errors
    /// A file that changed, or a disk that refuses.
    pub fn materialise(&self, tree: &Tree, target: &Path) -> Result<(), SourceError> {
        let prefix = format!("{APP_FOLDER}/");
        for (path, node) in &tree.entries {
            let path = String::from_utf8_lossy(path);
            let to = target.join(path.as_ref());
            let path = path.strip_prefix(&prefix).unwrap_or(&path);
            match node {
                Node::Directory { mode, .. } => {
                    fs::create_dir_all(&to).map_err(failed("make", &to))?;
                    fs::set_permissions(&to, fs::Permissions::from_mode(*mode))
                        .map_err(failed("chmod", &to))?;
                }
                Node::Symlink { target } => {
                    let target = std::ffi::OsString::from_vec(target.clone());
                    std::os::unix::fs::symlink(target, &to).map_err(failed("link", &to))?;
                }
                Node::File { mode, digest, .. } => {
                    let from = self.root.join(path);
                    let mut reader = File::open(&from).map_err(failed("read", &from))?;
                    let mut writer = crate::digest::Hasher::new(
                        File::create(&to).map_err(failed("write", &to))?,
                    );
                    io::copy(&mut reader, &mut writer).map_err(failed("copy", &from))?;
                    let (found, _, file) = writer.finish();
                    if found != *digest {
                        return Err(SourceError::Changed { path: path.to_owned() });
                    }
                    file.set_permissions(fs::Permissions::from_mode(*mode))
                        .map_err(failed("chmod", &to))?;
                }
                Node::HardLink { .. } | Node::Whiteout => {}
            }
        }
        Ok(())
    }

    /// The text of a file, or `None` when the snapshot does not have it.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8.
    pub fn text(&self, path: &str) -> Result<Option<String>, SourceError> {
        if !matches!(self.entries.get(path), Some(Entry::File { .. })) {
            return Ok(None);
        }
        let full = self.root.join(path);
        fs::read_to_string(&full).map(Some).map_err(failed("read", &full))
    }
}

fn read(root: &Path, path: String) -> Result<(String, Entry), SourceError> {
    let full = root.join(&path);
    let metadata = fs::symlink_metadata(&full).map_err(failed("read", &full))?;
    let entry = if metadata.is_symlink() {
        let target = fs::read_link(&full).map_err(failed("read", &full))?;
        Entry::Link(
            target.into_os_string().into_string().map_err(|_| SourceError::Name { path: full })?,
        )
    } else {
        let (digest, size) =
            File::open(&full).and_then(Digest::of_reader).map_err(failed("read", &full))?;
        Entry::File { executable: metadata.mode() & 0o111 != 0, size, digest }
    };
    Ok((path, entry))
}

struct Walk<'a> {
    root: &'a Path,
    rules: &'a Rules,
    found: Vec<String>,
    decisions: BTreeMap<String, Decision>,
}

impl Walk<'_> {
    /// `ignores` holds the `.gitignore` files of the folders above.
    fn folder(
        &mut self,
        below: String,
        ignores: &mut Vec<rules::Nested>,
    ) -> Result<(), SourceError> {
        let full = self.root.join(&below);
        let depth = ignores.len();
        ignores.extend(self.rules.nested(self.root, &below)?);
        let mut entries = fs::read_dir(&full)
            .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
            .map_err(failed("read", &full))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry
                .file_name()
                .into_string()
                .map_err(|_| SourceError::Name { path: entry.path() })?;
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let kind = entry.file_type().map_err(failed("read", &entry.path()))?;
            let decision = self.rules.decide(&path, kind.is_dir(), ignores);
            if kind.is_dir() {
                if decision.included || self.rules.may_include_below(&path) {
                    self.folder(path, ignores)?;
                } else {
                    self.decisions.insert(format!("{path}/"), decision);
                }
                continue;
            }
            if decision.included {
                if !(kind.is_file() || kind.is_symlink()) {
                    return Err(SourceError::Special { path: entry.path() });
                }
                self.found.push(path.clone());
            }
            self.decisions.insert(path, decision);
        }
        ignores.truncate(depth);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        folder
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], rules: &Rules, expected: &[&str]) {
        let folder = app(files);
        let snapshot = Snapshot::take(folder.path(), rules).expect("a snapshot");
        assert_eq!(snapshot.files, expected);
    }

    #[test]
    fn defaults_and_ignore_files() {
        check(
            &[
                ("manage.py", ""),
                (".git/config", ""),
                ("venv/bin/python", ""),
                ("a/__pycache__/x.pyc", ""),
                (".env", "SECRET=1"),
                (".env.example", ""),
                ("a/tests/test_x.py", ""),
                ("tests/test_y.py", ""),
                (".gitignore", "*.local\n/media/\n"),
                ("x.local", ""),
                ("media/upload", ""),
                ("a/.gitignore", "secret\n!kept.local\n"),
                ("a/secret", ""),
                ("a/kept.local", ""),
                ("secret", ""),
            ],
            &Rules::default(),
            &[
                ".env.example",
                ".gitignore",
                "a/.gitignore",
                "a/kept.local",
                "a/tests/test_x.py",
                "manage.py",
                "secret",
            ],
        );
    }

    #[test]
    fn include_wins_over_all_but_the_hard_rules() {
        let rules = Rules::new(
            &["/media/**".to_owned(), ".env".to_owned(), ".git".to_owned()],
            &["*.txt".to_owned()],
        )
        .expect("rules");
        check(
            &[
                ("media/a", ""),
                (".gitignore", "media/"),
                (".env", ""),
                (".git/config", ""),
                ("b.txt", ""),
            ],
            &rules,
            &[".env", ".gitignore", "media/a"],
        );
    }

    #[test]
    fn a_selection_is_a_tree_that_can_be_copied() {
        let folder = app(&[("a/x.py", "x"), ("a/t.html", "t"), ("b.py", "b")]);
        let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
        let selection = Selection { rules: vec!["*".to_owned(), "!*.html".to_owned()] };
        let tree = snapshot.select(&selection).expect("a tree");
        let names: Vec<_> =
            tree.entries.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(names, ["workspace", "workspace/a", "workspace/a/x.py", "workspace/b.py"]);
        let target = tempfile::tempdir().expect("a folder");
        snapshot.materialise(&tree, target.path()).expect("copied");
        assert_eq!(Tree::scan(target.path()).expect("scan"), tree);
        fs::write(folder.path().join("b.py"), "changed").expect("write");
        let again = tempfile::tempdir().expect("a folder");
        assert!(matches!(
            snapshot.materialise(&tree, again.path()),
            Err(SourceError::Changed { .. })
        ));
    }
}
