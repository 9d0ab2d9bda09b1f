//! A tree as several layers: parts that change apart from each other.
//!
//! - The parts' entries together are the tree's. A folder is in each part that has something in
//!   it, the same in all. So parts can be stacked in any order, and give the tree.
//! - Names of one file (hard links) are in one part.
//! - A tree that hides something of the layers below (whiteouts, opaque folders) stays whole: what
//!   is hidden must not depend on which part has it.
//! - Which units there are is `units`', which of them share a part `assign`'s to say.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use thiserror::Error;

use super::assign::{ALONE, Place, assign};
use super::units::{Assigned, Rule, Says, Units};
use crate::digest::{Digest, Fields};
use crate::memory::Long;
use crate::tree::{Node, Tree};

/// Bumped whenever the same tree and rules would give other parts.
const SPLIT_VERSION: u64 = 1;

/// One of the layers that a tree becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What people call it; `None` for a tree that stays whole.
    pub name: Option<String>,
    /// Its entries.
    pub tree: Tree,
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
            |node: Node<'_>| matches!(node, Node::Whiteout | Node::Directory { opaque: true, .. });
        if tree.size() < ALONE || tree.iter().any(|(_, node)| hides(node)) {
            return Ok(vec![Part { name: None, tree }]);
        }
        let read = |path: &[u8]| {
            let shown = || String::from_utf8_lossy(path).into_owned();
            read(path).map_err(|source| SplitError::Read { path: shown(), source })
        };
        let Assigned { names, units } = Units::new(&self.rules)?.of(&tree, read)?;
        let mut sizes: Vec<Option<u64>> = vec![None; names.len()];
        for ((_, node), unit) in tree.iter().zip(units.iter()) {
            if let Some(unit) = unit.checked_sub(1) {
                let size = if let Node::File { size, .. } = node { size } else { 0 };
                *sizes[unit].get_or_insert(0) += size;
            }
        }
        let sizes = names.iter().zip(sizes);
        let sizes = sizes.filter_map(|(name, size)| Some((name.clone(), size?))).collect();
        let places = assign(&sizes, self.most);
        let places: Vec<&Place> =
            names.iter().map(|name| places.get(name).unwrap_or(&Place::Rest)).collect();
        let mut parts: BTreeMap<&Place, Picked<'_>> = BTreeMap::new();
        for (number, ((path, node), unit)) in tree.iter().zip(units.iter()).enumerate() {
            // A folder that is not empty comes along with what is in it.
            if !matches!(node, Node::Directory { .. }) || !tree.has_below(path) {
                let place = unit.checked_sub(1).map_or(&Place::Rest, |unit| places[unit]);
                parts.entry(place).or_default().add(&tree, number, path);
            }
        }
        let is_whole = parts.len() == 1;
        let part = |(place, picked): (&Place, Picked<'_>)| {
            let mut numbers = picked.numbers;
            numbers.extend(picked.folders);
            numbers.sort();
            let name = (!is_whole).then(|| place.name());
            Part { name, tree: tree.pick(numbers.iter()) }
        };
        Ok(parts.into_iter().map(part).collect())
    }
}

/// What is picked of a tree for a part, by numbers.
#[derive(Default)]
struct Picked<'t> {
    numbers: Long<usize>,
    /// The folders that lead there.
    folders: BTreeSet<usize>,
    /// The folder that was last led to: the next entry is mostly in it too.
    last: Option<&'t [u8]>,
}

impl<'t> Picked<'t> {
    fn add(&mut self, tree: &'t Tree, number: usize, path: &'t [u8]) {
        self.numbers.push(number);
        let mut rest = path;
        while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
            rest = &rest[..slash];
            if self.last == Some(rest) {
                break;
            }
            match tree.find(rest) {
                Ok(folder) if self.folders.insert(folder) => {}
                _ => break,
            }
        }
        self.last = path.iter().rposition(|byte| *byte == b'/').map(|slash| &path[..slash]);
    }
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
        let tree: Tree = files.iter().map(|(path, size)| file(path, *size)).collect();
        tree.with_parents().with("lib", Some(Node::Directory { mode: 0o750, opaque: false }))
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
        let tree = tree(&environment())
            .with("lib/c-1/z", Some(Node::HardLink { to: b"lib/a-1/x" }))
            .with("empty", Some(Node::Directory { mode: 0o700, opaque: false }))
            .with("lib/e", Some(Node::Symlink { target: b"c-1" }));
        let parts = parts(&tree);
        assert_eq!(names(&parts), ["rest", "a", "b", "others"]);
        let mut together = BTreeMap::new();
        for part in &parts {
            for (path, node) in part.tree.iter() {
                let before = together.insert(path.to_vec(), node);
                let is_folder = matches!(node, Node::Directory { .. });
                assert!(before.is_none() || is_folder && before == Some(node));
                if let Node::HardLink { to } = node {
                    assert!(part.tree.get(to).is_some(), "a link out of its part");
                }
                if let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
                    assert!(part.tree.get(&path[..slash]).is_some(), "no parent");
                }
            }
        }
        assert_eq!(together.into_iter().collect::<Tree>(), tree);
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
            assert_eq!(parts, [Part { name: None, tree: tree.clone() }]);
        };
        whole(&tree(&[("lib/a-1/x", 5), ("bin/run", 5)]));
        whole(&tree(&[("usr/x", 50 * MB), ("bin/run", 5)]));
        for node in [Node::Whiteout, Node::Directory { mode: 0o755, opaque: true }] {
            whole(&tree(&environment()).with("lib/f", Some(node)));
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
