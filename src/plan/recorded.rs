//! Keys of traced steps: a result counts as known when nothing has changed that the step
//! read.
//!
//! ```text
//! weak key    the step, all its inputs but the app's files, and of these the names
//!    │  under which is recorded, newest first
//!    ▼
//! path sets   the files that runs under this key have read
//!    │  with what is in these files now
//!    ▼
//! strong key  under which the result is known
//! ```
//!
//! - *Names* are paths, kinds, modes and link targets of all files that the step is given, and
//!   which of them are empty.
//!   They stand for all that a program learns without reading: which files there are, which
//!   are not, what a folder holds. A file that comes or goes makes the step run again.
//! - One weak key has several path sets, as what is in one file decides which others are
//!   read. Each that holds now is right: the same step that reads the same content reads the
//!   same files.
//! - The one thing that a step could learn besides is the size of a file that it does not
//!   read. It is taken for no input (docs/architecture.md says more).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Step;
use super::key::definition;
use crate::digest::{Digest, Fields};
use crate::tree::{Node, Tree};

/// Bumped whenever recordings miss less than they did: old ones are then of no use.
const TRACING: u64 = 1;

/// Path sets that are kept under one weak key.
pub const MOST: usize = 8;

/// Paths that are kept under one weak key, of all sets together, and in one set.
pub const MOST_PATHS: usize = 100_000;

/// The files that a run has read, by path in the image without leading slash. Sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathSet(pub BTreeSet<String>);

/// Under one weak key: what runs have read, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathSets {
    /// No two are the same, and there are at most [`MOST`], of [`MOST_PATHS`] paths.
    pub sets: Vec<PathSet>,
    /// Whether a recording was found to miss something: then the one set has all files that
    /// the step is given, if they can be listed, and no other counts.
    #[serde(default)]
    pub distrusted: bool,
}

impl PathSets {
    /// Puts a set first. Says whether that changed anything.
    pub fn add(&mut self, set: &PathSet) -> bool {
        if self.distrusted || self.sets.first() == Some(set) {
            return false;
        }
        self.sets.retain(|known| known != set);
        self.sets.insert(0, set.clone());
        let mut left = MOST_PATHS;
        let fits = |set: &&PathSet| {
            let fits = set.0.len() <= left;
            left = left.saturating_sub(set.0.len());
            fits
        };
        let fitting = self.sets.iter().take(MOST).take_while(fits).count();
        self.sets.truncate(fitting.max(1));
        true
    }
}

impl PathSet {
    /// All files of a tree; `None` where they are too many to be listed.
    #[must_use]
    pub fn all(app: &Tree) -> Option<PathSet> {
        let is_file = |node| matches!(node, Node::File { .. } | Node::HardLink { .. });
        let mut files = app.iter().filter(|(_, node)| is_file(*node)).map(|(path, _)| path);
        // The app's files have names that are UTF-8.
        let text = |path: &[u8]| String::from_utf8(path.to_vec()).ok();
        let all = files.by_ref().take(MOST_PATHS).filter_map(text).collect();
        files.next().is_none().then_some(PathSet(all))
    }
}

/// The weak key of a step whose inputs but for the app's files, the last, have these trees.
#[must_use]
pub fn weak_key(step: &Step, platform: &str, inputs: &[Digest], app: &Tree) -> Digest {
    let mut fields = definition(step, platform);
    fields.text("traced").number(TRACING).number(inputs.len() as u64);
    for input in inputs {
        fields.digest(input);
    }
    fields.number(app.len() as u64);
    for (path, node) in app.iter() {
        fields.bytes(path);
        match node {
            Node::Directory { mode, .. } => fields.text("dir").number(u64::from(mode)),
            // Programs ask whether a file is empty far more often than how long it is.
            Node::File { mode, size, .. } => {
                let is = if size == 0 { "empty file" } else { "file" };
                fields.text(is).number(u64::from(mode))
            }
            Node::Symlink { target } => fields.text("link").bytes(target),
            Node::HardLink { to } => fields.text("hard").bytes(to),
            Node::Whiteout => fields.text("gone"),
        };
    }
    fields.finish()
}

/// The strong key of a path set, with the content that the files have in `app`. `None` when
/// it names something that is no file there, which is then no set of this weak key.
#[must_use]
pub fn strong_key(weak: &Digest, set: &PathSet, app: &Tree) -> Option<Digest> {
    let mut fields = Fields::new("forge-step-read");
    fields.digest(weak).number(set.0.len() as u64);
    for path in &set.0 {
        let mut node = app.get(path.as_bytes())?;
        if let Node::HardLink { to } = node {
            node = app.get(to)?;
        }
        let Node::File { digest, .. } = node else { return None };
        fields.text(path).digest(&digest);
    }
    Some(fields.finish())
}

#[cfg(test)]
mod tests {
    use super::super::tests::step;
    use super::*;

    fn file(content: &str) -> Node<'static> {
        Node::File {
            mode: 0o644,
            size: content.len() as u64,
            digest: Digest::of(content.as_bytes()),
        }
    }

    fn app() -> Tree {
        let files = [
            ("workspace/a", file("a")),
            ("workspace/b", file("b")),
            ("workspace/link", Node::Symlink { target: b"a" }),
        ];
        files.into_iter().collect::<Tree>().with_parents()
    }

    fn set(paths: &[&str]) -> PathSet {
        PathSet(paths.iter().map(|&path| path.to_owned()).collect())
    }

    fn weak(app: &Tree) -> Digest {
        weak_key(&step("a", &["base"]), "linux/amd64", &[Digest::of(b"base")], app)
    }

    #[track_caller]
    fn changed(path: &str, node: Option<Node>) -> Tree {
        let tree = app().with(path, node);
        assert_ne!(tree, app());
        tree
    }

    #[test]
    fn names_are_in_the_weak_key_and_content_is_not() {
        assert_eq!(weak(&changed("workspace/a", Some(file("longer")))), weak(&app()));
        let mode = Node::File { mode: 0o755, size: 1, digest: Digest::of(b"a") };
        for (path, node) in [
            ("workspace/new", Some(file("a"))),
            ("workspace/b", None),
            ("workspace/b", Some(file(""))),
            ("workspace/a", Some(mode)),
            ("workspace/a", Some(Node::Symlink { target: b"b" })),
            ("workspace/link", Some(Node::Symlink { target: b"b" })),
            ("workspace", Some(Node::Directory { mode: 0o700, opaque: false })),
        ] {
            assert_ne!(weak(&changed(path, node)), weak(&app()), "{path}");
        }
    }

    #[test]
    fn all_else_is_in_the_weak_key() {
        let inputs = [Digest::of(b"base")];
        let known = weak(&app());
        let mut other = step("a", &["base"]);
        other.environment.insert("A".to_owned(), "b".to_owned());
        assert_ne!(weak_key(&other, "linux/amd64", &inputs, &app()), known);
        let step = step("a", &["base"]);
        assert_ne!(weak_key(&step, "linux/arm64", &inputs, &app()), known);
        assert_ne!(weak_key(&step, "linux/amd64", &[Digest::of(b"other")], &app()), known);
        assert_ne!(weak_key(&step, "linux/amd64", &[], &app()), known);
    }

    #[test]
    fn content_of_what_was_read_is_in_the_strong_key() {
        let strong = |paths: &[&str], app: &Tree| strong_key(&weak(app), &set(paths), app);
        let known = strong(&["workspace/a"], &app());
        assert!(known.is_some());
        assert_eq!(strong(&["workspace/a"], &changed("workspace/b", Some(file("2")))), known);
        assert_ne!(strong(&["workspace/a"], &changed("workspace/a", Some(file("2")))), known);
        assert_ne!(strong(&[], &app()), known);
        assert_ne!(strong(&["workspace/a", "workspace/b"], &app()), known);
    }

    #[test]
    fn a_set_of_other_files() {
        for path in ["workspace/c", "workspace", "workspace/link"] {
            assert_eq!(strong_key(&weak(&app()), &set(&[path]), &app()), None, "{path}");
        }
    }

    #[test]
    fn sets_are_bounded_and_the_newest_comes_first() {
        let mut sets = PathSets::default();
        let named = |number: usize| set(&[&format!("workspace/{number}")]);
        for number in 0..MOST + 2 {
            assert!(sets.add(&named(number)));
        }
        assert_eq!(sets.sets.len(), MOST);
        assert_eq!(sets.sets[0], named(MOST + 1));
        assert!(sets.add(&named(5)));
        assert_eq!((sets.sets.len(), &sets.sets[0]), (MOST, &named(5)));
        assert!(!sets.add(&named(5)));
        let long = |from: usize, count: usize| {
            PathSet((from..from + count).map(|number| format!("{number:07}")).collect())
        };
        let half = MOST_PATHS / 2;
        // Those behind that do not fit any more are dropped.
        for (from, count, kept) in [(0, half, 8), (1, half, 2), (2, half, 2), (3, half + 1, 1)] {
            assert!(sets.add(&long(from, count)));
            assert_eq!(sets.sets.len(), kept, "{from}");
        }
        sets.distrusted = true;
        assert!(!sets.add(&named(6)));
        assert_eq!(PathSet::all(&app()), Some(set(&["workspace/a", "workspace/b"])));
    }

    /// Pins the encoding: another one makes every recording useless.
    #[test]
    fn keys_are_pinned() {
        let weak = weak(&app());
        let strong = strong_key(&weak, &set(&["workspace/a"]), &app()).expect("a key");
        assert_eq!(
            [weak.to_string(), strong.to_string()],
            [
                "sha256:7800e2011a2d959cf0ecb6e785f96a269bf2a0286714d8278167a8e9478abf94",
                "sha256:7cde30402ca22c0115a29e1b1e86b714b812fd61f1201083c968e1b22feefb7e"
            ]
        );
    }
}
