//! Where the entries of trees lie: close together, as there may be a million of them.

use rayon::prelude::*;

use super::{Node, Tree};

/// Entries sorted by path, no path twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    /// All paths, one behind another.
    paths: Vec<u8>,
    /// Where in `paths` each ends.
    ends: Vec<usize>,
    /// What is at each.
    pub(super) nodes: Vec<Node>,
}

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
    pub fn add(&mut self, path: &[u8], node: Node) {
        let last = self.entries.len().checked_sub(1);
        self.is_unsorted |= last.is_some_and(|last| self.entries.path(last) >= path);
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
        self.nodes.len()
    }

    pub(super) fn path(&self, number: usize) -> &[u8] {
        path(&self.paths, &self.ends, number)
    }

    /// Changes entries, on all processors.
    ///
    /// # Errors
    /// Those of `change`.
    pub(super) fn change<E: Send>(
        &mut self,
        change: impl Fn(&[u8], &mut Node) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let Entries { paths, ends, nodes } = self;
        let nodes = nodes.par_iter_mut().enumerate();
        nodes.try_for_each(|(number, node)| change(path(paths, ends, number), node))
    }

    /// Adds an entry, whose path comes after all others.
    ///
    /// # Errors
    /// It does not; nothing is added then.
    pub(super) fn push(&mut self, path: &[u8], node: Node) -> Result<(), Node> {
        if self.len().checked_sub(1).is_some_and(|last| self.path(last) >= path) {
            return Err(node);
        }
        self.push_last(path, node);
        Ok(())
    }

    fn push_last(&mut self, path: &[u8], node: Node) {
        self.paths.extend_from_slice(path);
        self.ends.push(self.paths.len());
        self.nodes.push(node);
    }

    /// In the order of their paths; of those with the same path the last counts.
    fn sorted(mut self) -> Entries {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by(|one, other| self.path(*one).cmp(self.path(*other)));
        let nodes = std::mem::take(&mut self.nodes).into_iter().map(Some);
        let mut nodes: Vec<Option<Node>> = nodes.collect();
        let path = |number| path(&self.paths, &self.ends, number);
        let mut sorted = Entries::default();
        for (at, &number) in order.iter().enumerate() {
            let is_last = order.get(at + 1).is_none_or(|&next| path(next) != path(number));
            if let (true, Some(node)) = (is_last, nodes[number].take()) {
                sorted.push_last(path(number), node);
            }
        }
        sorted
    }

    /// Gives back room that is not used.
    pub(super) fn shrink(&mut self) {
        self.paths.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.nodes.shrink_to_fit();
    }
}

fn path<'p>(paths: &'p [u8], ends: &[usize], number: usize) -> &'p [u8] {
    let start = if number == 0 { 0 } else { ends[number - 1] };
    &paths[start..ends[number]]
}
