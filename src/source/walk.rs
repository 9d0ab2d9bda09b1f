//! Looking at the app's folder: which files there are, and which of them count by the rules.
//!
//! What an earlier walk decided by the same rules is not decided again. Each folder is listed
//! all the same: not every file system gives a folder a new time when something is added.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::rules::{AppRules, By, Decision, IgnoredConfig, LOCKS, Nested, example_of};
use super::seen::{Folder, Kind, Known, Seen, Stamp};
use super::{Entry, SourceError, failed};
use crate::digest::{Digest, Fields};

/// Entries of a folder that one processor looks at: handing fewer over costs more than that.
const AT_ONCE: usize = 8;

/// What a walk has found, in the order of paths.
#[derive(Default)]
pub(super) struct Walked {
    /// The files and links that count.
    pub(super) entries: Vec<(String, Entry)>,
    /// What was decided, by path; with `/` behind it that of a folder, of all in it.
    pub(super) decisions: Vec<(String, Decision)>,
    /// What the next walk need not find out again.
    pub(super) folders: Vec<(String, Folder)>,
}

/// Walks through all folders below `root` that may hold something that counts, on all
/// processors. Files that were changed after `began`, in seconds since 1970, are read again
/// next time.
///
/// # Errors
/// A folder or file that cannot be read, a name that is no text, a special file that counts.
pub(super) fn walk(
    root: &Path,
    rules: &AppRules<'_>,
    before: &Seen,
    began: i64,
) -> Result<Walked, SourceError> {
    let walk = Walk { root, rules, before, began };
    let top = Next { path: String::new(), ignores: Arc::default(), rules: rules.name };
    let (mut looked, mut level) = (Vec::new(), vec![top]);
    // Level by level: folders may be nested deeper than a stack is.
    while !level.is_empty() {
        let found: Vec<_> = level.into_par_iter().map(|next| walk.folder(next)).collect();
        let below = looked.len() + found.len();
        level = Vec::new();
        for found in found {
            let (mut folder, folders) = found?;
            folder.below = below + level.len();
            level.extend(folders);
            looked.push(folder);
        }
    }
    Ok(in_order(looked))
}

struct Walk<'w> {
    root: &'w Path,
    rules: &'w AppRules<'w>,
    before: &'w Seen,
    began: i64,
}

/// A folder to look into.
struct Next {
    path: String,
    /// The `.gitignore` files of the folders above.
    ignores: Arc<Vec<Arc<Nested>>>,
    /// A name of these and all other rules.
    rules: Digest,
}

/// A folder that was looked into.
struct Looked {
    path: String,
    folder: Folder,
    /// What is in it, in the order of paths.
    found: Vec<(String, Decision, Found)>,
    /// The number of the first folder below it; the others follow.
    below: usize,
}

/// An entry of a folder, while it is decided whether it counts.
struct Here<'a> {
    name: String,
    kind: Kind,
    decision: Decision,
    before: Option<&'a (Stamp, Digest)>,
}

/// What there is of an entry.
enum Found {
    /// A file or link that counts; of a file, what it looks like.
    Entry(Entry, Option<Stamp>),
    /// A folder that is looked into.
    Folder,
    /// One that is left out whole.
    Left,
    /// A file that is left out.
    Nothing,
}

impl Here<'_> {
    /// The name as it stands in the paths of all that is in it.
    fn in_paths(&self) -> impl Iterator<Item = u8> {
        let end = (self.kind == Kind::Folder).then_some(b'/');
        self.name.bytes().chain(end)
    }
}

/// Folders as they were looked into, level by level, in the order of paths.
fn in_order(mut looked: Vec<Looked>) -> Walked {
    let mut walked = Walked::default();
    let mut open = Vec::new();
    let enter = |number: usize, looked: &mut Vec<Looked>, walked: &mut Walked| {
        let Looked { path, folder, found, below } = &mut looked[number];
        let folder = std::mem::replace(folder, Folder { rules: folder.rules, entries: Vec::new() });
        walked.folders.push((std::mem::take(path), folder));
        (std::mem::take(found).into_iter(), *below)
    };
    open.push(enter(0, &mut looked, &mut walked));
    while let Some((found, below)) = open.last_mut() {
        match found.next() {
            None => drop(open.pop()),
            Some((_, _, Found::Folder)) => {
                let number = *below;
                *below += 1;
                open.push(enter(number, &mut looked, &mut walked));
            }
            Some((path, decision, Found::Entry(entry, _))) => {
                walked.decisions.push((path.clone(), decision));
                walked.entries.push((path, entry));
            }
            Some((path, decision, Found::Left)) => walked.decisions.push((path + "/", decision)),
            Some((path, decision, Found::Nothing)) => walked.decisions.push((path, decision)),
        }
    }
    walked
}

impl Walk<'_> {
    /// Looks into a folder; which of those in it are to be looked into comes along.
    fn folder(&self, next: Next) -> Result<(Looked, Vec<Next>), SourceError> {
        let Next { path: below, mut ignores, mut rules } = next;
        let entries = self.list(&below)?;
        if entries.iter().any(|(name, _)| name == ".gitignore")
            && let Some(nested) = self.rules.nested(self.root, &below)?
        {
            let mut name = Fields::new("forge-source-rules-below");
            rules = name.digest(&rules).text(&below).digest(&nested.name).finish();
            Arc::make_mut(&mut ignores).push(Arc::new(nested));
        }
        let before = self.before.folder(&below);
        let is_decided = before.is_some_and(|before| before.rules == rules);
        let mut before = before.map_or(&[][..], |before| &before.entries).iter().peekable();
        let mut known = Vec::with_capacity(entries.len());
        let mut here = Vec::with_capacity(entries.len());
        for (name, kind) in entries {
            while before.next_if(|before| before.name < name).is_some() {}
            let before = before.next_if(|before| before.name == name && before.kind == kind);
            let decision = match before {
                Some(before) if is_decided => before.decision.clone(),
                _ => self.rules.decide(&joined(&below, &name), kind == Kind::Folder, &ignores),
            };
            let (own_name, own_decision) = (name.clone(), decision.clone());
            known.push(Known { name: own_name, kind, decision: own_decision, content: None });
            let before = before.and_then(|before| before.content.as_ref());
            here.push(Here { name, kind, decision, before });
        }
        needed(&below, self.rules.rules.ignored_config, &mut here);
        let mut here: Vec<_> = here.into_iter().enumerate().collect();
        // So that whole paths come in their order: a folder's stand behind its `/`.
        here.sort_by(|(_, one), (_, other)| one.in_paths().cmp(other.in_paths()));
        let looked: Vec<_> = here
            .into_par_iter()
            .with_min_len(AT_ONCE)
            .map(|(number, here)| {
                let path = joined(&below, &here.name);
                let found = self.look(&path, &here);
                (number, path, here.decision, found)
            })
            .collect();
        let (mut found, mut folders) = (Vec::with_capacity(looked.len()), Vec::new());
        for (number, path, decision, one) in looked {
            let one = one?;
            match &one {
                Found::Entry(Entry::File { digest, .. }, Some(stamp))
                    if stamp.is_settled(self.began) =>
                {
                    known[number].content = Some((*stamp, *digest));
                }
                Found::Folder => {
                    let (path, ignores) = (path.clone(), Arc::clone(&ignores));
                    folders.push(Next { path, ignores, rules });
                }
                _ => {}
            }
            found.push((path, decision, one));
        }
        let folder = Folder { rules, entries: known };
        Ok((Looked { path: below, folder, found, below: 0 }, folders))
    }

    /// Looks at an entry, if it counts.
    fn look(&self, path: &str, here: &Here<'_>) -> Result<Found, SourceError> {
        let Here { kind, decision, before, .. } = here;
        match kind {
            Kind::Folder => {
                let goes_on = decision.included || self.rules.may_include_below(path, decision);
                Ok(if goes_on { Found::Folder } else { Found::Left })
            }
            _ if !decision.included => Ok(Found::Nothing),
            Kind::File | Kind::Link => {
                let (entry, stamp) = read(&self.root.join(path), *before)?;
                Ok(Found::Entry(entry, stamp))
            }
            Kind::Other => Err(SourceError::Special { path: self.root.join(path) }),
        }
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

/// What is at a path, and of a file what it looks like. One that has not been touched since
/// it was last read is not read again.
fn read(
    full: &Path,
    before: Option<&(Stamp, Digest)>,
) -> Result<(Entry, Option<Stamp>), SourceError> {
    let metadata = fs::symlink_metadata(full).map_err(failed("read", full))?;
    if metadata.is_symlink() {
        let target = fs::read_link(full).map_err(failed("read", full))?;
        let target = target.into_os_string().into_string();
        let target = target.map_err(|_| SourceError::Name { path: full.to_owned() })?;
        return Ok((Entry::Link(target), None));
    }
    let stamp = Stamp::of(&metadata);
    let (digest, size) = match before {
        Some((before, digest)) if *before == stamp => (*digest, metadata.len()),
        _ => fs::File::open(full).and_then(Digest::of_reader).map_err(failed("read", full))?,
    };
    let executable = metadata.mode() & 0o111 != 0;
    Ok((Entry::File { executable, size, digest }, Some(stamp)))
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
