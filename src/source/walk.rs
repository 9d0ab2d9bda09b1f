//! Looking at the app's folder: which files there are, and which of them count by the rules.
//!
//! What an earlier walk decided by the same rules is not decided again. Each folder is listed
//! all the same: not every file system gives a folder a new time when something is added.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::rules::{AppRules, By, Decision, IgnoredConfig, LOCKS, Nested, example_of};
use super::seen::{Folder, Kind, Known, Seen, Stamp};
use super::{Entry, SourceError, failed};
use crate::digest::{Digest, Fields};

/// What a walk has found.
#[derive(Default)]
pub(super) struct Walked<'a> {
    /// The files and links that count.
    pub(super) found: Vec<Found<'a>>,
    /// What was decided, by path; with `/` behind it that of a folder, of all in it.
    pub(super) decisions: Vec<(String, Decision)>,
    /// The folders with what is in them, but for the content of files.
    pub(super) folders: Vec<(String, Folder)>,
}

/// A file or link that counts.
pub(super) struct Found<'a> {
    pub(super) path: String,
    /// Which of the folders, and which of its entries.
    pub(super) place: (usize, usize),
    /// What it was when it was last read.
    before: Option<&'a (Stamp, Digest)>,
}

/// Walks through all folders below `root` that may hold something that counts.
///
/// # Errors
/// A folder that cannot be read, a name that is no text, a special file that counts.
pub(super) fn walk<'a>(
    root: &Path,
    rules: &AppRules<'_>,
    before: &'a Seen,
) -> Result<Walked<'a>, SourceError> {
    let mut walk = Walk { root, rules, before, walked: Walked::default() };
    walk.folder(String::new(), &mut Vec::new(), rules.name)?;
    Ok(walk.walked)
}

impl Found<'_> {
    /// What is there, and of a file what it looks like. One that has not been touched since
    /// it was last read is not read again.
    pub(super) fn read(&self, root: &Path) -> Result<(Entry, Option<Stamp>), SourceError> {
        let full = root.join(&self.path);
        let metadata = fs::symlink_metadata(&full).map_err(failed("read", &full))?;
        if metadata.is_symlink() {
            let target = fs::read_link(&full).map_err(failed("read", &full))?;
            let target = target.into_os_string().into_string();
            let target = target.map_err(|_| SourceError::Name { path: full })?;
            return Ok((Entry::Link(target), None));
        }
        let stamp = Stamp::of(&metadata);
        let (digest, size) = match self.before {
            Some((before, digest)) if *before == stamp => (*digest, metadata.len()),
            _ => {
                fs::File::open(&full).and_then(Digest::of_reader).map_err(failed("read", &full))?
            }
        };
        let executable = metadata.mode() & 0o111 != 0;
        Ok((Entry::File { executable, size, digest }, Some(stamp)))
    }
}

struct Walk<'w, 'a> {
    root: &'w Path,
    rules: &'w AppRules<'w>,
    before: &'a Seen,
    walked: Walked<'a>,
}

/// An entry of a folder, while it is decided whether it counts.
struct Here<'a> {
    name: String,
    kind: Kind,
    decision: Decision,
    before: Option<&'a (Stamp, Digest)>,
}

impl Here<'_> {
    /// The name as it stands in the paths of all that is in it.
    fn in_paths(&self) -> impl Iterator<Item = u8> {
        let end = (self.kind == Kind::Folder).then_some(b'/');
        self.name.bytes().chain(end)
    }
}

impl Walk<'_, '_> {
    /// `ignores` holds the `.gitignore` files of the folders above; `rules` is a name of them
    /// and all other rules.
    fn folder(
        &mut self,
        below: String,
        ignores: &mut Vec<Nested>,
        mut rules: Digest,
    ) -> Result<(), SourceError> {
        let entries = self.list(&below)?;
        let depth = ignores.len();
        if entries.iter().any(|(name, _)| name == ".gitignore")
            && let Some(nested) = self.rules.nested(self.root, &below)?
        {
            let mut name = Fields::new("forge-source-rules-below");
            rules = name.digest(&rules).text(&below).digest(&nested.name).finish();
            ignores.push(nested);
        }
        let before = self.before.folder(&below);
        let is_decided = before.is_some_and(|before| before.rules == rules);
        let mut before = before.map_or(&[][..], |before| &before.entries).iter().peekable();
        let (mut known, mut here) = (Vec::new(), Vec::with_capacity(entries.len()));
        for (name, kind) in entries {
            while before.next_if(|before| before.name < name).is_some() {}
            let before = before.next_if(|before| before.name == name && before.kind == kind);
            let decision = match before {
                Some(before) if is_decided => before.decision.clone(),
                _ => self.rules.decide(&joined(&below, &name), kind == Kind::Folder, ignores),
            };
            let (own_name, own_decision) = (name.clone(), decision.clone());
            known.push(Known { name: own_name, kind, decision: own_decision, content: None });
            let before = before.and_then(|before| before.content.as_ref());
            here.push(Here { name, kind, decision, before });
        }
        needed(&below, self.rules.rules.ignored_config, &mut here);
        let number = self.walked.folders.len();
        self.walked.folders.push((below.clone(), Folder { rules, entries: known }));
        let mut here: Vec<_> = here.into_iter().enumerate().collect();
        // So that whole paths come in their order: a folder's stand behind its `/`.
        here.sort_by(|(_, one), (_, other)| one.in_paths().cmp(other.in_paths()));
        for (entry, Here { name, kind, decision, before }) in here {
            let path = joined(&below, &name);
            match kind {
                Kind::Folder => {
                    if decision.included || self.rules.may_include_below(&path, &decision) {
                        self.folder(path, ignores, rules)?;
                    } else {
                        self.walked.decisions.push((path + "/", decision));
                    }
                    continue;
                }
                Kind::Other if decision.included => {
                    return Err(SourceError::Special { path: self.root.join(path) });
                }
                Kind::File | Kind::Link if decision.included => {
                    let place = (number, entry);
                    self.walked.found.push(Found { path: path.clone(), place, before });
                }
                Kind::File | Kind::Link | Kind::Other => {}
            }
            self.walked.decisions.push((path, decision));
        }
        ignores.truncate(depth);
        Ok(())
    }

    /// The names in a folder, sorted, and of what kind each is.
    fn list(&self, below: &str) -> Result<Vec<(String, Kind)>, SourceError> {
        let full = self.root.join(below);
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.map_err(failed("read", &full))?;
            let kind = entry.file_type().map_err(failed("read", &entry.path()))?;
            let name = entry.file_name().into_string();
            Ok((name.map_err(|_| SourceError::Name { path: entry.path() })?, Kind::of(kind)))
        };
        let entries = fs::read_dir(&full).map_err(failed("read", &full))?;
        let mut entries: Vec<_> = entries.map(entry).collect::<Result<_, SourceError>>()?;
        entries.sort_unstable();
        Ok(entries)
    }
}

/// Takes in what git or docker ignores and the build needs, as the other files of the folder
/// `below` show. What they show of it may change without it, so it is decided each time.
fn needed(below: &str, ignored_config: IgnoredConfig, here: &mut [Here<'_>]) {
    let find = |here: &[Here<'_>], name: &str| {
        let at = here.binary_search_by(|other| other.name.as_str().cmp(name)).ok()?;
        matches!(here[at].kind, Kind::File | Kind::Link).then_some(at)
    };
    let mut needed = Vec::new();
    for (lock, manifest, others) in LOCKS {
        let counts = |name: &str| find(here, name).is_some_and(|at| here[at].decision.included);
        if let Some(at) = find(here, lock)
            && counts(manifest)
            && !others.iter().any(|other| counts(other))
        {
            needed.push((at, (*manifest).to_owned(), By::Dependencies));
        }
    }
    if ignored_config == IgnoredConfig::Counts {
        let is_file = |here: &Here<'_>| matches!(here.kind, Kind::File | Kind::Link);
        for (at, file) in here.iter().enumerate().filter(|(_, here)| is_file(here)) {
            let is_there = |name: &str| find(here, name).is_some();
            if let Some(example) = example_of(&joined(below, &file.name), is_there) {
                needed.push((at, example, By::Framework));
            }
        }
    }
    for (at, beside, by) in needed {
        let decision = &mut here[at].decision;
        if !decision.included && matches!(decision.by, By::Git | By::Docker) {
            decision.needed(&format!("beside {beside}"), by);
        }
    }
}

fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { [folder, name].join("/") }
}
