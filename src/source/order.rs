//! Folders that were looked into, one by one, and the same in the order of paths.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::{slice, vec};

use bytemuck::{Pod, Zeroable};

use super::decided::{Deciding, Decisions};
use super::rules::Decision;
use super::seen::{Entries, Found, Place, Seen};
use crate::digest::{Digest, Fields};
use crate::memory::{Long, Paths};
use crate::plan::APP_FOLDER;
use crate::tree::{Builder, Node, Tree};

/// What a walk has found, in the order of paths.
pub(super) struct Walked {
    /// The files and links that count, and the folders that lead there.
    pub(super) tree: Tree,
    /// What a rule said.
    pub(super) decisions: Decisions,
    /// What the next walk need not find out again.
    pub(super) seen: Seen,
    /// A name of the files and links: where it is the same, they are.
    pub(super) name: Digest,
}

/// A folder of which what was noted cannot be read any more.
#[derive(Debug)]
pub(super) struct Unreadable(pub(super) String);

/// What is said of entries of a folder because of the others: the number of each, and what.
pub(super) type Needed = Vec<(usize, Box<Decision>)>;

/// Folders that were looked into, level by level; those of one folder follow one another.
#[derive(Default)]
pub(super) struct Looked {
    /// With the names of the folders in each that are looked into, in the order of whole paths.
    folders: Paths<About>,
    /// By the number of the folder.
    needed: BTreeMap<usize, Needed>,
}

/// What is known of a folder.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct About {
    place: Place,
    /// The number of the first folder in it.
    below: usize,
}

impl Looked {
    pub(super) fn len(&self) -> usize {
        self.folders.len()
    }

    /// Adds a folder by rules of this name, with the names of those in it that are to be looked
    /// into, which have `/` behind them.
    pub(super) fn push(&mut self, path: &str, rules: Digest, folders: &str) {
        let about = About { place: Place::new(rules), ..About::zeroed() };
        self.folders.push(path.as_bytes(), about, folders.as_bytes());
    }

    pub(super) fn path(&self, number: usize) -> &str {
        // It was text.
        std::str::from_utf8(self.folders.path(number)).unwrap_or_default()
    }

    pub(super) fn rules(&self, number: usize) -> Digest {
        self.folders.about(number).place.rules
    }

    /// The names of the folders in one, with `/` behind them.
    pub(super) fn names(&self, number: usize) -> impl Iterator<Item = &str> {
        let names = std::str::from_utf8(self.folders.besides(number)).unwrap_or_default();
        names.split_inclusive('/')
    }

    /// The name that begins there, in bytes, of those of the folders in one.
    pub(super) fn name_from(&self, number: usize, at: usize) -> Option<String> {
        let name =
            self.folders.besides(number).get(at..)?.split_inclusive(|byte| *byte == b'/').next()?;
        std::str::from_utf8(name).ok().map(str::to_owned)
    }

    /// Says that the folders in one begin with this number.
    pub(super) fn set_below(&mut self, number: usize, below: usize) {
        let about = About { below, ..*self.folders.about(number) };
        self.folders.set_about(number, about);
    }

    /// Says what is in a folder.
    pub(super) fn set(&mut self, number: usize, place: Place, needed: Needed) {
        let about = About { place, ..*self.folders.about(number) };
        self.folders.set_about(number, about);
        if !needed.is_empty() {
            self.needed.insert(number, needed);
        }
    }

    /// Of all folders whether something in them or below counts.
    fn leading(&self) -> Vec<bool> {
        // What is below a folder comes after it.
        let mut counts = vec![false; self.len()];
        for number in (0..self.len()).rev() {
            let below = self.folders.about(number).below;
            let below = below..below + self.names(number).count();
            let is_named = self.folders.about(number).place.name().is_some();
            counts[number] = is_named || counts[below].contains(&true);
        }
        counts
    }

    /// All of it in the order of paths. `seen` has what is in the folders, and no folders.
    ///
    /// # Errors
    /// What was noted cannot be read any more: rather no image than one without some files.
    pub(super) fn in_order(self, mut seen: Seen) -> Result<Walked, Unreadable> {
        let leads = self.leading();
        let leading = || Node::Directory { mode: 0o755, opaque: false };
        let mut path = APP_FOLDER.to_owned();
        let mut tree = Builder::default();
        tree.add(path.as_bytes(), leading());
        let mut decisions = Deciding::default();
        let mut whole = Fields::new("forge-source-files");
        let mut entered = Long::default();
        let mut enter = |number: usize| {
            entered.push(number);
            if let Some(name) = self.folders.about(number).place.name() {
                whole.text(self.path(number)).digest(name);
            }
        };
        enter(0);
        let mut open = vec![Open::new(&self, &seen, 0, &leads, path.len())];
        while let Some(folder) = open.last_mut() {
            path.truncate(folder.length);
            let Some(known) = folder.entries.next() else {
                if !folder.is_whole() {
                    return Err(Unreadable(path[APP_FOLDER.len()..].to_owned()));
                }
                open.pop();
                continue;
            };
            let number = folder.number;
            folder.number += 1;
            // A folder comes before `name.x`, and what is in it after that.
            while let Some(name) = folder.leading.next_if(|name| *name < known.name) {
                path.extend(["/", name]);
                tree.add(path.as_bytes(), leading());
                path.truncate(folder.length);
            }
            path.extend(["/", known.name]);
            let needed = folder.needed.next_if(|(needed, _)| *needed == number);
            let decision = needed.map(|(_, decision)| decision).or(known.decision.as_ref());
            if let Some(decision) = decision
                && known.found != Found::Folder
            {
                decisions.add(&path[APP_FOLDER.len() + 1..], decision);
            }
            match known.found {
                Found::Nothing => {}
                Found::Folder => {
                    let below = folder.below;
                    folder.below += 1;
                    if folder.is_beyond() {
                        return Err(Unreadable(path[APP_FOLDER.len()..].to_owned()));
                    }
                    enter(below);
                    open.push(Open::new(&self, &seen, below, &leads, path.len() - 1));
                }
                Found::Link(target) => {
                    tree.add(path.as_bytes(), Node::Symlink { target: target.as_bytes() });
                }
                Found::File { executable, stamp, digest, .. } => {
                    let mode = if executable { 0o755 } else { 0o644 };
                    tree.add(path.as_bytes(), Node::File { mode, size: stamp.size(), digest });
                }
            }
        }
        drop(open);
        for number in entered.iter() {
            seen.push(self.path(number), self.folders.about(number).place);
        }
        let (tree, decisions) = (tree.tree(), decisions.end());
        Ok(Walked { tree, decisions, seen, name: whole.finish() })
    }
}

/// A folder that is being put in order.
struct Open<'l> {
    /// Of its path in the tree.
    length: usize,
    entries: Entries<'l>,
    /// Of the next of them.
    number: usize,
    needed: Peekable<slice::Iter<'l, (usize, Box<Decision>)>>,
    /// The folders in it that lead to something that counts, by name.
    leading: Peekable<vec::IntoIter<&'l str>>,
    /// The number of the next folder below it, and of that behind all of them.
    below: usize,
    end: usize,
}

impl<'l> Open<'l> {
    /// `leads` tells of all folders whether something in them or below counts.
    fn new(
        looked: &'l Looked,
        seen: &'l Seen,
        number: usize,
        leads: &[bool],
        length: usize,
    ) -> Open<'l> {
        let About { place, below, .. } = looked.folders.about(number);
        let leading = looked.names(number).zip(&leads[*below..]).filter(|(_, leads)| **leads);
        let mut leading: Vec<&str> = leading.map(|(name, _)| name.trim_end_matches('/')).collect();
        leading.sort_unstable();
        let needed = looked.needed.get(&number).map(Vec::as_slice).unwrap_or_default();
        Open {
            length,
            entries: seen.entries(place),
            number: 0,
            needed: needed.iter().peekable(),
            leading: leading.into_iter().peekable(),
            below: *below,
            end: *below + looked.names(number).count(),
        }
    }

    /// Whether all in it was come to.
    fn is_whole(&self) -> bool {
        self.entries.are_all() && self.below == self.end && self.needed.len() == 0
    }

    /// Whether there were more folders in it than it has.
    fn is_beyond(&self) -> bool {
        self.below > self.end
    }
}
