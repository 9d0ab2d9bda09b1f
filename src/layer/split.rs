//! A tree as several layers: parts that change apart from each other.
//!
//! - The parts' entries together are the tree's. A folder is in each part that has something in
//!   it, the same in all. So parts can be stacked in any order, and give the tree.
//! - Names of one file (hard links) are in one part.
//! - A tree that hides something of the layers below (whiteouts, opaque folders) stays whole: what
//!   is hidden must not depend on which part has it.
//! - Which units there are is `units`', which of them share a part `assign`'s to say.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::assign::{ALONE, Place, assign};
use super::units::{Rule, Says, Units};
use crate::digest::{Digest, Fields};
use crate::tree::{Node, Tree};

/// Bumped whenever the same tree and rules would give other parts.
const SPLIT_VERSION: u64 = 1;

/// One of the layers that a tree becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What people call it; `None` for a tree that stays whole.
    pub name: Option<String>,
    /// Its entries.
    pub tree: Arc<Tree>,
}

/// How a tree is split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// What belongs together.
    pub rules: Vec<Rule>,
    /// The most parts.
    pub most: usize,
}

/// Why a tree cannot be split.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SplitError {
    /// A rule with an expression that is none.
    #[error("a rule for units is no regular expression")]
    Rule(#[from] regex::Error),
    /// A list of files that cannot be read.
    #[error("could not read `{path}`")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Split {
    /// A name for how trees are split.
    #[must_use]
    pub fn key(&self) -> Digest {
        let mut fields = Fields::new("forge-split");
        fields.number(SPLIT_VERSION).number(self.most as u64).number(self.rules.len() as u64);
        for Rule { path, says } in &self.rules {
            fields.text(path);
            match says {
                Says::Unit => fields.text("unit"),
                Says::List => fields.text("list"),
                Says::Beside(file) => fields.text("beside").text(file),
            };
        }
        fields.finish()
    }

    /// The parts of a tree, in the order in which the image has them: what belongs to no unit,
    /// units with a layer of their own by name, buckets. `read` gives the content of a file.
    ///
    /// # Errors
    /// See [`SplitError`].
    pub fn parts(
        &self,
        tree: Tree,
        read: impl Fn(&[u8]) -> io::Result<Vec<u8>>,
    ) -> Result<Vec<Part>, SplitError> {
        let hides =
            |node: &Node| matches!(node, Node::Whiteout | Node::Directory { opaque: true, .. });
        if tree.size() < ALONE || tree.entries.values().any(hides) {
            return Ok(vec![Part { name: None, tree: Arc::new(tree) }]);
        }
        let read = |path: &[u8]| {
            let shown = || String::from_utf8_lossy(path).into_owned();
            read(path).map_err(|source| SplitError::Read { path: shown(), source })
        };
        let units = Units::new(&self.rules)?.of(&tree, read)?;
        let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
        for (path, unit) in &units {
            let size = match tree.entries.get(*path) {
                Some(Node::File { size, .. }) => *size,
                _ => 0,
            };
            match sizes.get_mut(&**unit) {
                Some(sum) => *sum += size,
                None => drop(sizes.insert((**unit).to_owned(), size)),
            }
        }
        let places = assign(&sizes, self.most);
        let place = |(path, node): (&Vec<u8>, &Node)| {
            // A folder that is not empty comes along with what is in it.
            (!matches!(node, Node::Directory { .. }) || !tree.has_below(path)).then(|| {
                let place = units.get(path.as_slice()).and_then(|unit| places.get(&**unit));
                place.unwrap_or(&Place::Rest)
            })
        };
        let placed: Vec<Option<&Place>> = tree.entries.iter().map(place).collect();
        drop(units);
        let is_folder = |(_, node): &(&Vec<u8>, &Node)| matches!(node, Node::Directory { .. });
        let folders = tree.entries.iter().filter(is_folder);
        let folders = folders.map(|(path, node)| (path.clone(), node.clone())).collect();
        let mut parts: BTreeMap<&Place, Tree> = BTreeMap::new();
        for ((path, node), place) in tree.entries.into_iter().zip(placed) {
            if let Some(place) = place {
                add(parts.entry(place).or_default(), &folders, path, node);
            }
        }
        let part =
            |(place, tree): (&Place, Tree)| Part { name: Some(place.name()), tree: Arc::new(tree) };
        let mut parts: Vec<Part> = parts.into_iter().map(part).collect();
        if let [whole] = parts.as_mut_slice() {
            whole.name = None;
        }
        Ok(parts)
    }
}

/// Adds an entry and the folders that lead to it, as they are in the whole tree.
fn add(part: &mut Tree, folders: &BTreeMap<Vec<u8>, Node>, path: Vec<u8>, node: Node) {
    let mut rest = path.as_slice();
    while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
        rest = &rest[..slash];
        match folders.get(rest) {
            Some(folder) if !part.entries.contains_key(rest) => {
                part.entries.insert(rest.to_vec(), folder.clone());
            }
            _ => break,
        }
    }
    part.entries.insert(path, node);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split() -> Split {
        let path = "^lib/(?<unit>[^/]+?)-[0-9]+(?:/|$)".to_owned();
        Split { rules: vec![Rule { path, says: Says::Unit }], most: 24 }
    }

    /// Files with these sizes; the content is said by path and version.
    fn tree(files: &[(&str, u64)]) -> Tree {
        let file = |path: &str, size| {
            let digest = Digest::of(path.as_bytes());
            (path.as_bytes().to_vec(), Node::File { mode: 0o644, size, digest })
        };
        let mut tree =
            Tree { entries: files.iter().map(|(path, size)| file(path, *size)).collect() };
        tree.add_parents();
        tree.entries.insert(b"lib".to_vec(), Node::Directory { mode: 0o750, opaque: false });
        tree
    }

    const MB: u64 = 1 << 20;

    fn environment() -> Vec<(&'static str, u64)> {
        vec![
            ("bin/run", 1),
            ("lib/a-1/x", 20 * MB),
            ("lib/b-1/x", 3 * MB),
            ("lib/b-1/y", 3 * MB),
            ("lib/c-1/x", 5),
            ("lib/d-1/x", 5),
        ]
    }

    fn parts(tree: &Tree) -> Vec<Part> {
        split().parts(tree.clone(), |_| Err(io::ErrorKind::NotFound.into())).expect("splits")
    }

    fn names(parts: &[Part]) -> Vec<&str> {
        parts.iter().filter_map(|part| part.name.as_deref()).collect()
    }

    #[test]
    fn parts_together_are_the_tree() {
        let mut tree = tree(&environment());
        tree.entries.insert(b"lib/c-1/z".to_vec(), Node::HardLink { to: b"lib/a-1/x".to_vec() });
        tree.entries.insert(b"empty".to_vec(), Node::Directory { mode: 0o700, opaque: false });
        tree.entries.insert(b"lib/e".to_vec(), Node::Symlink { target: b"c-1".to_vec() });
        let parts = parts(&tree);
        assert_eq!(names(&parts), ["rest", "a", "b", "others"]);
        let mut together = Tree::default();
        for part in &parts {
            for (path, node) in &part.tree.entries {
                let before = together.entries.insert(path.clone(), node.clone());
                let is_folder = matches!(node, Node::Directory { .. });
                assert!(before.is_none() || is_folder && before.as_ref() == Some(node));
                if let Node::HardLink { to } = node {
                    assert!(part.tree.entries.contains_key(to), "a link out of its part");
                }
                if let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
                    assert!(part.tree.entries.contains_key(&path[..slash]), "no parent");
                }
            }
        }
        assert_eq!(together, tree);
    }

    #[test]
    fn a_bump_is_one_part() {
        let before = parts(&tree(&environment()));
        for (from, to, expected) in [
            ("lib/a-1/x", "lib/a-2/x", "a"),
            ("lib/c-1/x", "lib/c-2/x", "others"),
            ("bin/run", "bin/walk", "rest"),
        ] {
            let bumped = environment().into_iter().map(|(path, size)| match path == from {
                true => (to, size + 1),
                false => (path, size),
            });
            let after = parts(&tree(&bumped.collect::<Vec<_>>()));
            let new: Vec<&str> = after
                .iter()
                .filter(|part| !before.contains(part))
                .filter_map(|part| part.name.as_deref())
                .collect();
            assert_eq!(new, [expected]);
        }
    }

    #[test]
    fn what_stays_whole() {
        let whole = |tree: &Tree| {
            let parts = parts(tree);
            assert_eq!(parts, [Part { name: None, tree: Arc::new(tree.clone()) }]);
        };
        whole(&tree(&[("lib/a-1/x", 5), ("bin/run", 5)]));
        whole(&tree(&[("usr/x", 50 * MB), ("bin/run", 5)]));
        for node in [Node::Whiteout, Node::Directory { mode: 0o755, opaque: true }] {
            let mut tree = tree(&environment());
            tree.entries.insert(b"lib/f".to_vec(), node);
            whole(&tree);
        }
    }

    /// Pins the parts: a change here gives every user other layers. Then bump `SPLIT_VERSION`.
    #[test]
    fn parts_are_pinned() {
        let mut text = split().key().to_string();
        for part in parts(&tree(&environment())) {
            text.push_str(&format!("{:?} {}\n", part.name, part.tree.digest()));
        }
        assert_eq!(
            Digest::of(text.as_bytes()).to_string(),
            "sha256:2b5a4ac11771c0474514588314774e16b013dbaedf3187459417aca7cf8b8b74"
        );
    }
}
