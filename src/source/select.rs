//! Which of the app's files a step is given, as a tree.
//!
//! What a selection comes to follows from the files and the rules alone, so its digest is
//! remembered from one build to the next: where no file has changed, nothing is chosen or hashed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Snapshot, SourceError, in_app, matching};
use crate::digest::Digest;
use crate::memory::Long;
use crate::plan::Selection;
use crate::tree::{Node, Tree};

/// Files of which one processor finds out whether a selection has them.
const ASKED_AT_ONCE: usize = 1024;

/// So many times that are asked before what was found is put together.
const SHARES: usize = 64;

/// Bumped when the same rules select other files, or make another tree of them.
const VERSION: u8 = 1;

/// What was selected of a snapshot by now.
#[derive(Debug, Default)]
pub(super) struct Selected {
    trees: Mutex<BTreeMap<Vec<String>, Tree>>,
    digests: Mutex<Digests>,
}

#[derive(Debug, Default)]
struct Digests {
    by_rules: BTreeMap<Vec<String>, Digest>,
    /// Whether there are some that were not remembered.
    are_new: bool,
}

/// What selections of the same files came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    version: u8,
    /// A name of the files.
    files: Option<Digest>,
    /// Rules → the digest of the tree.
    digests: BTreeMap<Vec<String>, Digest>,
}

impl Remembered {
    /// As bytes, which [`Remembered::parse`] reads.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Only a type that cannot be written at all fails, and no value of it can be kept.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// `None` for what are no such bytes, or of another version.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Remembered> {
        let (found, rest) = postcard::take_from_bytes::<Remembered>(bytes).ok()?;
        (rest.is_empty() && found.version == VERSION).then_some(found)
    }
}

impl Snapshot {
    /// Takes in what is remembered, if it was of the same files.
    pub fn recall(&self, remembered: Remembered) {
        if remembered.files == Some(self.name) {
            self.digests().by_rules = remembered.digests;
        }
    }

    /// What selections have come to by now, for the next time; `None` where that is remembered.
    #[must_use]
    pub fn remembered(&self) -> Option<Remembered> {
        let Digests { by_rules, are_new } = &*self.digests();
        let remembered =
            || Remembered { version: VERSION, files: Some(self.name), digests: by_rules.clone() };
        are_new.then(remembered)
    }

    /// The digest of the tree that [`Snapshot::select`] makes.
    ///
    /// # Errors
    /// As [`Snapshot::select`].
    pub fn selected_digest(&self, selection: &Selection) -> Result<Digest, SourceError> {
        if let Some(digest) = self.digests().by_rules.get(&selection.rules) {
            return Ok(*digest);
        }
        let digest = self.select(selection)?.digest();
        let mut digests = self.digests();
        digests.by_rules.insert(selection.rules.clone(), digest);
        digests.are_new = true;
        Ok(digest)
    }

    /// The files of the selection, as they will stand in the image.
    ///
    /// # Errors
    /// A rule that does not parse.
    pub fn select(&self, selection: &Selection) -> Result<Tree, SourceError> {
        // Several steps may ask, each several times.
        let known = || self.selected.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = known().get(&selection.rules) {
            return Ok(tree.clone());
        }
        // Not locked meanwhile: others may want other files.
        let tree = self.selected_now(selection)?;
        known().insert(selection.rules.clone(), tree.clone());
        Ok(tree)
    }

    fn digests(&self) -> MutexGuard<'_, Digests> {
        self.selected.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn selected_now(&self, selection: &Selection) -> Result<Tree, SourceError> {
        let matching = matching("the plan", selection.rules.iter().map(String::as_str))?;
        if selection.rules == ["*"] {
            return Ok(self.tree.clone());
        }
        let some = |from: usize| from..self.tree.len().min(from + ASKED_AT_ONCE);
        let chosen_of = |numbers: Range<usize>| {
            // Each remembers folders of its own.
            let mut matching = matching.clone();
            let mut is_chosen = |number: &usize| {
                let (path, node) = self.tree.at(*number);
                !matches!(node, Node::Directory { .. })
                    && in_app(path).is_some_and(|path| matching.matches(path))
            };
            numbers.filter(|number| is_chosen(number)).collect::<Vec<_>>()
        };
        let mut chosen = Long::default();
        for from in (0..self.tree.len()).step_by(ASKED_AT_ONCE * SHARES) {
            let shares = (0..SHARES).into_par_iter().map(|share| from + share * ASKED_AT_ONCE);
            let shares = shares.filter(|from| *from < self.tree.len());
            let found: Vec<Vec<usize>> = shares.map(|from| chosen_of(some(from))).collect();
            found.iter().for_each(|found| chosen.extend_from_slice(found));
        }
        let mut leading = BTreeSet::from([0]);
        let mut last = None;
        for path in chosen.iter().map(|number| self.tree.path(number)) {
            let mut rest = path;
            while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
                rest = &rest[..slash];
                // Where it is known, those above are; the next is mostly in the same folder.
                if last == Some(rest) || !self.tree.find(rest).is_ok_and(|it| leading.insert(it)) {
                    break;
                }
            }
            last = path.iter().rposition(|byte| *byte == b'/').map(|slash| &path[..slash]);
        }
        chosen.extend(leading);
        chosen.sort();
        Ok(self.tree.pick(chosen.iter()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::super::Rules;
    use super::super::tests::app;
    use super::*;

    type Change<'c> = &'c dyn Fn(&Path);

    fn snapshot(root: &Path) -> Snapshot {
        Snapshot::take(root, &Rules::default()).expect("a snapshot")
    }

    fn rules(rules: &[&str]) -> Selection {
        Selection { rules: rules.iter().map(|rule| (*rule).to_owned()).collect() }
    }

    #[test]
    fn what_it_came_to_is_remembered_for_the_same_files() {
        let folder = app(&[("a/x.py", "x"), ("b.html", "b")]);
        symlink("a", folder.path().join("to")).expect("linked");
        let selection = rules(&["*.py"]);
        let first = snapshot(folder.path());
        assert_eq!(first.remembered(), None);
        let digest = first.selected_digest(&selection).expect("selected");
        assert_eq!(digest, first.select(&selection).expect("selected").digest());
        let mut remembered = first.remembered().expect("new");
        assert_eq!(Remembered::parse(&remembered.to_bytes()), Some(remembered.clone()));

        // What nobody works out again can say anything.
        let said = Digest::of(b"said");
        remembered.digests.insert(selection.rules.clone(), said);
        let asked = |change: &dyn Fn(&Path)| {
            change(folder.path());
            let again = snapshot(folder.path());
            again.recall(remembered.clone());
            let digest = again.selected_digest(&selection).expect("selected");
            assert_eq!(again.remembered().is_none(), digest == said);
            digest
        };
        assert_eq!(asked(&|_| ()), said);
        let write = |root: &Path, path: &str, text: &str| {
            fs::write(root.join(path), text).expect("written");
        };
        let mode = |root: &Path, mode| {
            let path = root.join("a/x.py");
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
        };
        let link = |root: &Path, target: &str| {
            fs::remove_file(root.join("to")).expect("removed");
            symlink(target, root.join("to")).expect("linked");
        };
        let rename = |root: &Path, from: &str, to: &str| {
            fs::rename(root.join(from), root.join(to)).expect("renamed");
        };
        // Each leads away, and back to what is remembered.
        let changes: [[Change<'_>; 2]; 6] = [
            [&|root| write(root, "a/x.py", "y"), &|root| write(root, "a/x.py", "x")],
            [&|root| mode(root, 0o755), &|root| mode(root, 0o600)],
            [&|root| link(root, "b"), &|root| link(root, "a")],
            [&|root| rename(root, "a/x.py", "a/y.py"), &|root| rename(root, "a/y.py", "a/x.py")],
            [&|root| rename(root, "a", "c"), &|root| rename(root, "c", "a")],
            [&|root| write(root, "new", ""), &|root| {
                fs::remove_file(root.join("new")).expect("removed");
            }],
        ];
        for (number, [away, back]) in changes.iter().enumerate() {
            assert_ne!(asked(away), said, "change {number}");
            assert_eq!(asked(back), said, "change {number}");
        }
        // Other rules are asked anew.
        let again = snapshot(folder.path());
        again.recall(remembered.clone());
        assert_ne!(again.selected_digest(&rules(&["*"])).expect("selected"), said);
        assert_eq!(again.remembered().map(|now| now.digests.len()), Some(2));
    }

    #[test]
    fn damaged_memory_is_none() {
        let bytes = Remembered { version: VERSION, ..Remembered::default() }.to_bytes();
        assert!(Remembered::parse(&bytes).is_some());
        let other = Remembered { version: VERSION + 1, ..Remembered::default() }.to_bytes();
        for damaged in [&bytes[1..], &bytes[..bytes.len() - 1], b"", b"\xff\xff", &other] {
            assert_eq!(Remembered::parse(damaged), None);
        }
    }

    #[test]
    fn everything_is_what_a_copy_of_it_is() {
        let names =
            ["a/x", "a/b/c/x", "a.x", "a-/x", "a0", "ab/x", "b/gone/x.log", "b.x", "c/x.log"];
        let folder = app(&names.map(|name| (name, name)));
        symlink("a.x", folder.path().join("a/to")).expect("linked");
        let snapshot = snapshot(folder.path());
        let tree = snapshot.select(&rules(&["*"])).expect("a tree");
        let target = tempfile::tempdir().expect("a folder");
        snapshot.materialise(&tree, target.path()).expect("copied");
        assert_eq!(Tree::scan(target.path()).expect("scan"), tree);
        assert_eq!((tree.get(b"workspace/b"), tree.get(b"workspace/c")), (None, None));
        assert!(tree.get(b"workspace/a/b/c/x").is_some());
    }

    #[test]
    fn a_selection_is_a_tree_that_can_be_copied() {
        let files = [("a/x.py", "x"), ("a/t.html", "t"), ("b.py", "b"), ("logs/x.log", "left out")];
        let folder = app(&files);
        let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
        // No folder of which nothing counts.
        let everything = Selection { rules: vec!["*".to_owned()] };
        assert_eq!(snapshot.select(&everything).expect("a tree").len(), 5);
        let selection = Selection { rules: vec!["*".to_owned(), "!*.html".to_owned()] };
        let tree = snapshot.select(&selection).expect("a tree");
        let names: Vec<_> =
            tree.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
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
