//! Where the entries of trees lie: close together, as there may be a million of them.

use bytemuck::{Pod, Zeroable};

use super::{Node, Tree};
use crate::digest::Digest;
use crate::memory::Paths;

/// Entries sorted by path, no path twice.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Where links lead goes with their paths.
    paths: Paths<Kept>,
}

/// An entry, but for where it leads.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Kept {
    digest: Digest,
    size: u64,
    mode: u32,
    kind: u32,
}

// The kinds of entries.
const DIRECTORY: u32 = 0;
const OPAQUE: u32 = 1;
const FILE: u32 = 2;
const SYMLINK: u32 = 3;
const HARD_LINK: u32 = 4;
const WHITEOUT: u32 = 5;

/// Makes a tree of entries that come one by one.
#[derive(Debug, Default)]
pub struct Builder {
    entries: Entries,
    /// Whether one came that should have come before.
    is_unsorted: bool,
}

impl Builder {
    /// Adds an entry. Those that come in the order of their paths are taken as they come; of two
    /// with the same path the last counts.
    pub fn add(&mut self, path: &[u8], node: Node<'_>) {
        self.is_unsorted |= !self.entries.is_next(path);
        self.entries.push_last(path, node);
    }

    /// The tree.
    #[must_use]
    pub fn tree(mut self) -> Tree {
        if self.is_unsorted {
            self.entries = self.entries.sorted();
        }
        self.entries.shrink();
        Tree::of(self.entries)
    }
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    pub(super) fn path(&self, number: usize) -> &[u8] {
        self.paths.path(number)
    }

    pub(super) fn node(&self, number: usize) -> Node<'_> {
        let Kept { digest, size, mode, kind } = *self.paths.about(number);
        match kind {
            DIRECTORY | OPAQUE => Node::Directory { mode, opaque: kind == OPAQUE },
            FILE => Node::File { mode, size, digest },
            SYMLINK => Node::Symlink { target: self.paths.besides(number) },
            HARD_LINK => Node::HardLink { to: self.paths.besides(number) },
            _ => Node::Whiteout,
        }
    }

    /// Has `content` say what is in each file, on all processors: its digest and its length.
    ///
    /// # Errors
    /// Those of `content`.
    pub(super) fn read_files<E: Send>(
        &mut self,
        content: impl Fn(&[u8]) -> Result<(Digest, u64), E> + Sync,
    ) -> Result<(), E> {
        self.paths.try_change(|path, kept| {
            if kept.kind == FILE {
                (kept.digest, kept.size) = content(path)?;
            }
            Ok(())
        })
    }

    /// Whether a path comes after all others.
    fn is_next(&self, path: &[u8]) -> bool {
        self.len().checked_sub(1).is_none_or(|last| self.path(last) < path)
    }

    /// Adds an entry, if its path comes after all others; says whether it does.
    pub(super) fn push(&mut self, path: &[u8], node: Node<'_>) -> bool {
        let is_next = self.is_next(path);
        if is_next {
            self.push_last(path, node);
        }
        is_next
    }

    fn push_last(&mut self, path: &[u8], node: Node<'_>) {
        let nothing = Kept { kind: WHITEOUT, ..Kept::zeroed() };
        let (kept, besides): (Kept, &[u8]) = match node {
            Node::Directory { mode, opaque } => {
                (Kept { mode, kind: if opaque { OPAQUE } else { DIRECTORY }, ..nothing }, b"")
            }
            Node::File { mode, size, digest } => (Kept { digest, size, mode, kind: FILE }, b""),
            Node::Symlink { target } => (Kept { kind: SYMLINK, ..nothing }, target),
            Node::HardLink { to } => (Kept { kind: HARD_LINK, ..nothing }, to),
            Node::Whiteout => (nothing, b""),
        };
        self.paths.push(path, kept, besides);
    }

    /// In the order of their paths; of those with the same path the last counts.
    fn sorted(self) -> Entries {
        let order = self.paths.in_order();
        let mut sorted = Entries::default();
        for (at, number) in order.iter().enumerate() {
            let is_last =
                at + 1 == order.len() || self.path(*order.at(at + 1)) != self.path(number);
            if is_last {
                sorted.push_last(self.path(number), self.node(number));
            }
        }
        sorted
    }

    /// Gives back room that is not used.
    pub(super) fn shrink(&mut self) {
        self.paths.shrink();
    }
}
