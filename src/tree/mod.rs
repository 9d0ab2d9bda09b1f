//! A folder tree as a value: what a step produced, what a layer is packed from.
//!
//! A tree lists every entry below a root with what can end up in a layer: kind,
//! permission bits, content digest, link target. It leaves out what must not
//! matter: times, owners, inode numbers, extended attributes.
//!
//! Two trees are equal exactly when their [`Tree::digest`] is. The paths are
//! relative to the root of the *image* (`layers/venv/bin/python3`), so trees can
//! be stacked as overlays and packed as layers without a prefix.
//!
//! A tree may have a million entries, so they lie close together, a clone shares them, and so
//! does what is picked of a tree or joined of several: [`Tree::pick`], [`Tree::joined`].
//!
//! Nothing here knows where trees are kept or what they are for.

mod entries;
mod scan;
mod text;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::digest::{Digest, Fields};
use crate::memory::Long;
pub use entries::Builder;
use entries::Entries;

/// The modification time of every file that a step sees and that a layer
/// carries, in seconds: 1980-01-01T00:00:01Z, the first second that zip files
/// can hold and the stamp that buildpack exporters use. Bootsnap and make
/// compare times, so files must carry in the sandbox what they carry in the image.
pub const STAMP: i64 = 315_532_801;

/// Overlayfs marks a directory that replaces one below it with this attribute
/// when mounted with `userxattr` (Linux documentation, filesystems/overlayfs).
pub const OPAQUE_ATTRIBUTE: &str = "user.overlay.opaque";

/// One entry of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node<'t> {
    /// A directory. `opaque` hides what layers below have in it.
    Directory {
        /// Permission bits, the sticky bit included.
        mode: u32,
        /// Whether lower layers' entries of this directory are hidden.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Permission bits without set-user-id and set-group-id.
        mode: u32,
        /// Length in bytes.
        size: u64,
        /// Digest of the content.
        digest: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, byte for byte.
        target: &'t [u8],
    },
    /// Another name of a regular file of the same tree.
    HardLink {
        /// The first name of that file in path order.
        to: &'t [u8],
    },
    /// Removes what layers below have at this path.
    Whiteout,
}

/// A sorted list of entries; the root itself is not listed.
#[derive(Clone, Debug)]
pub struct Tree {
    /// There is one at least.
    lists: Arc<[Arc<Entries>]>,
    /// Those that are in the tree, in the order of their paths: the number of the list, and that of
    /// the entry there. `None` when all of the first list are.
    picked: Option<Arc<Long<[usize; 2]>>>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::of(Entries::default())
    }
}

/// Why a folder cannot be read as a tree, or a text as a tree.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The system refused.
    #[error("could not read `{}`", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A device, pipe or socket: none may be in an output.
    #[error("`{}` is a {kind}; an output may hold only files, directories and links", path.display())]
    Special {
        /// The entry.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A line of a stored tree list that is not one.
    #[error("line {line} of a tree list is malformed")]
    Text {
        /// Counted from one.
        line: usize,
    },
}

impl PartialEq for Tree {
    fn eq(&self, other: &Tree) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Tree {}

impl<'n, P: AsRef<[u8]>> FromIterator<(P, Node<'n>)> for Tree {
    /// As [`Builder::add`] takes them.
    fn from_iter<I: IntoIterator<Item = (P, Node<'n>)>>(entries: I) -> Tree {
        let mut builder = Builder::default();
        entries.into_iter().for_each(|(path, node)| builder.add(path.as_ref(), node));
        builder.tree()
    }
}

impl Tree {
    fn of(entries: Entries) -> Tree {
        Tree { lists: Arc::new([Arc::new(entries)]), picked: None }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.picked.as_ref().map_or(self.lists[0].len(), |picked| picked.len())
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path, without leading slash, and the entry with a number below [`Tree::len`].
    #[must_use]
    pub fn at(&self, number: usize) -> (&[u8], Node<'_>) {
        let [list, number] = self.place(number);
        (self.lists[list].path(number), self.lists[list].node(number))
    }

    /// The path with a number below [`Tree::len`].
    #[must_use]
    pub fn path(&self, number: usize) -> &[u8] {
        let [list, number] = self.place(number);
        self.lists[list].path(number)
    }

    fn place(&self, number: usize) -> [usize; 2] {
        self.picked.as_ref().map_or([0, number], |picked| *picked.at(number))
    }

    /// All entries, in the order of their paths.
    pub fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = (&[u8], Node<'_>)> + ExactSizeIterator + Clone {
        (0..self.len()).map(|number| self.at(number))
    }

    /// The number of the entry at a path, or else of the first one behind it.
    ///
    /// # Errors
    /// The tree has nothing at that path.
    pub fn find(&self, path: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.path(middle).cmp(path) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// What is at a path.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<Node<'_>> {
        Some(self.at(self.find(path).ok()?).1)
    }

    /// Whether the tree has entries in this directory.
    #[must_use]
    pub fn has_below(&self, directory: &[u8]) -> bool {
        let inside = [directory, b"/"].concat();
        let (Ok(next) | Err(next)) = self.find(&inside);
        next < self.len() && self.path(next).starts_with(&inside)
    }

    /// The tree of the entries with these numbers, which ascend.
    #[must_use]
    pub fn pick(&self, numbers: impl IntoIterator<Item = usize>) -> Tree {
        let picked = numbers.into_iter().map(|number| self.place(number)).collect();
        Tree { lists: Arc::clone(&self.lists), picked: Some(Arc::new(picked)) }
    }

    /// The tree of entries of several, in the order of their paths: the number of each tree, and
    /// that of the entry there.
    #[must_use]
    pub fn joined(trees: &[Tree], entries: impl Iterator<Item = [usize; 2]>) -> Tree {
        let mut firsts = Vec::with_capacity(trees.len());
        let mut lists = Vec::new();
        for tree in trees {
            firsts.push(lists.len());
            lists.extend(tree.lists.iter().map(Arc::clone));
        }
        if lists.is_empty() {
            return Tree::default();
        }
        let picked = entries.map(|[tree, number]| {
            let [list, number] = trees[tree].place(number);
            [firsts[tree] + list, number]
        });
        Tree { lists: lists.into(), picked: Some(Arc::new(picked.collect())) }
    }

    /// The name of this content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut fields = Fields::new("forge-tree-1");
        fields.number(self.len() as u64);
        for (path, node) in self.iter() {
            fields.bytes(path);
            match node {
                Node::Directory { mode, opaque } => {
                    fields.text(if opaque { "opaque" } else { "dir" }).number(u64::from(mode))
                }
                Node::File { mode, size, digest } => {
                    fields.text("file").number(u64::from(mode)).number(size).digest(&digest)
                }
                Node::Symlink { target } => fields.text("link").bytes(target),
                Node::HardLink { to } => fields.text("hard").bytes(to),
                Node::Whiteout => fields.text("gone"),
            };
        }
        fields.finish()
    }

    /// Bytes of all files, each counted once.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.iter().map(|(_, node)| if let Node::File { size, .. } = node { size } else { 0 }).sum()
    }

    /// The tree with the directories that lead to each entry added where they are missing, with
    /// mode 0755, so that it can be packed or stacked alone.
    #[must_use]
    pub fn with_parents(self) -> Tree {
        let mut missing = BTreeSet::new();
        for (mut rest, _) in self.iter() {
            while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
                rest = &rest[..slash];
                if missing.contains(rest) || self.get(rest).is_some() {
                    break;
                }
                missing.insert(rest.to_vec());
            }
        }
        let leading = Node::Directory { mode: 0o755, opaque: false };
        let mut builder = Builder::default();
        let mut missing = missing.iter().peekable();
        for (path, node) in self.iter() {
            while let Some(folder) = missing.next_if(|folder| folder.as_slice() < path) {
                builder.add(folder, leading);
            }
            builder.add(path, node);
        }
        builder.tree()
    }

    /// The tree with each name of a file as a file of its own.
    #[must_use]
    pub fn with_files_apart(&self) -> Tree {
        let apart = |node| match node {
            Node::HardLink { to } => self.get(to).unwrap_or(node),
            node => node,
        };
        self.iter().map(|(path, node)| (path, apart(node))).collect()
    }

    /// The tree with what is at a path changed.
    #[cfg(test)]
    #[must_use]
    pub fn with(&self, path: &str, node: Option<Node<'_>>) -> Tree {
        let others = self.iter().filter(|(other, _)| *other != path.as_bytes());
        others.chain(node.map(|node| (path.as_bytes(), node))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn sample() -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir_all(root.join("b/c")).expect("mkdir");
        fs::write(root.join("b/c/file with blank"), "hello").expect("write");
        fs::hard_link(root.join("b/c/file with blank"), root.join("b.first")).expect("link");
        symlink("../x %", root.join("b/link")).expect("symlink");
        let tree = Tree::scan(root).expect("a tree");
        (folder, tree)
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.iter().map(|(path, _)| std::str::from_utf8(path).expect("text")).collect()
    }

    #[test]
    fn text_and_back() {
        let (_folder, tree) = sample();
        let read = |text: &[u8]| Tree::read_from(text, Path::new("list"));
        let mut text = Vec::new();
        tree.write_to(&mut text).expect("written");
        assert_eq!(read(&text).expect("parses"), tree);
        let malformed = |text: &[u8], expected: usize| {
            assert!(
                matches!(read(text), Err(TreeError::Text { line }) if line == expected),
                "{text:?}"
            );
        };
        malformed(b"file 644 x y z\n", 1);
        malformed(b"gone b\ngone a\n", 2);
        malformed(b"gone a\ngone a\n", 2);
    }

    #[test]
    fn entries_have_the_order_of_their_paths() {
        let (_folder, tree) = sample();
        let expected = ["b", "b.first", "b/c", "b/c/file with blank", "b/link"];
        assert_eq!(paths(&tree), expected);
        let one = |path: &str| (path.to_owned(), Node::Whiteout);
        let unsorted: Tree = ["b", "a", "c", "a"].map(one).into_iter().collect();
        assert_eq!(paths(&unsorted), ["a", "b", "c"]);
        for (number, (path, _)) in tree.iter().enumerate() {
            assert_eq!(tree.find(path), Ok(number));
        }
        assert_eq!((tree.find(b"a"), tree.find(b"b.x"), tree.find(b"c")), (Err(0), Err(2), Err(5)));
    }

    #[test]
    fn of_the_same_paths_the_last_counts() {
        let one = |path: &str, mode| (path.to_owned(), Node::Directory { mode, opaque: false });
        let tree: Tree = [one("b", 1), one("a", 2), one("b", 3)].into_iter().collect();
        assert_eq!(tree, [one("a", 2), one("b", 3)].into_iter().collect());
    }

    #[test]
    fn what_is_picked_is_a_tree() {
        let (_folder, tree) = sample();
        let picked = tree.pick(vec![0, 2, 4]);
        assert_eq!(paths(&picked), ["b", "b/c", "b/link"]);
        let alone: Tree = picked.iter().collect();
        assert_eq!((&picked, picked.digest()), (&alone, alone.digest()));
        assert_ne!(picked.digest(), tree.digest());
        assert_eq!(paths(&picked.pick(vec![1])), ["b/c"]);
        assert_eq!(picked.get(b"b.first"), None);
        assert!(picked.has_below(b"b") && !picked.has_below(b"b/c"));
        assert_eq!((picked.size(), tree.size()), (0, 5));
    }

    #[test]
    fn what_is_joined_is_a_tree() {
        let (_folder, tree) = sample();
        let other: Tree = [("a", Node::Whiteout), ("c", Node::Whiteout)].into_iter().collect();
        let trees = [other, tree.pick(vec![0, 1]), tree];
        let entries = [[0, 0], [1, 0], [1, 1], [2, 4], [0, 1]];
        let joined = Tree::joined(&trees, entries.into_iter());
        assert_eq!(paths(&joined), ["a", "b", "b.first", "b/link", "c"]);
        assert_eq!(joined.get(b"b/link"), trees[2].get(b"b/link"));
        assert_eq!(paths(&Tree::joined(&[joined], [[0, 3]].into_iter())), ["b/link"]);
        assert!(Tree::joined(&[], [].into_iter()).is_empty());
    }

    #[test]
    fn first_name_in_path_order_holds_the_content() {
        let (_folder, tree) = sample();
        assert!(matches!(tree.get(b"b.first"), Some(Node::File { size: 5, .. })));
        let link = Node::HardLink { to: b"b.first" };
        assert_eq!(tree.get(b"b/c/file with blank"), Some(link));
    }

    #[test]
    fn digest_sees_content_and_mode_but_not_time() {
        let (folder, tree) = sample();
        let file = folder.path().join("b.first");
        let at = |tree: &Tree| tree.digest();
        let handle = File::options().write(true).open(&file).expect("open");
        handle.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touch");
        assert_eq!(at(&Tree::scan(folder.path()).expect("scan")), at(&tree));
        fs::write(&file, "hellO").expect("write");
        assert_ne!(at(&Tree::scan(folder.path()).expect("scan")), at(&tree));
    }

    #[test]
    fn sockets_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let _listener =
            std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("bind");
        assert!(matches!(
            Tree::scan(folder.path()),
            Err(TreeError::Special { kind: "socket", .. })
        ));
    }

    #[test]
    fn parents_are_added() {
        let tree: Tree = [("a/b/c", Node::Whiteout)].into_iter().collect();
        assert_eq!(paths(&tree.with_parents()), ["a", "a/b", "a/b/c"]);
    }
}
