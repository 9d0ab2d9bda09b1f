//! Looking at the app's folder: which files there are, and which of them count by the rules.
//!
//! What an earlier walk decided by the same rules is not decided again. Each folder is listed
//! all the same: not every file system gives a folder a new time when something is added.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir};

use super::rules::{AppRules, By, Decision, IgnoredConfig, LOCKS, Nested, example_of};
use super::seen::{Folder, Kind, Known, Seen, Stamp};
use super::{Content, SourceError, failed};
use crate::digest::{Digest, Fields};

/// Entries of a folder that one processor looks at: handing fewer over costs more than that.
const AT_ONCE: usize = 256;

/// Room for what the system lists of a folder at once, in bytes: some hundreds of names.
const LISTED: usize = 32 << 10;

/// What a walk has found, in the order of paths.
pub(super) struct Walked {
    /// The paths of the files that count.
    pub(super) files: Vec<String>,
    /// What each of them is.
    pub(super) contents: Vec<Content>,
    /// The links that count, and where they point.
    pub(super) links: Vec<(String, String)>,
    /// What a rule said, by path; with `/` behind it of a folder, and of all in it.
    pub(super) decisions: Vec<(String, Decision)>,
    /// What the next walk need not find out again.
    pub(super) folders: Vec<(String, Folder)>,
    /// A name of the files and links: where it is the same, they are.
    pub(super) name: Digest,
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
    let opened = open(CWD, root).map_err(failed("read", root))?;
    let walk = Walk { root, opened, rules, before, began };
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
    walk.read(&mut looked)?;
    looked.par_iter_mut().for_each(|looked| walk.keep(looked));
    Ok(in_order(looked))
}

struct Walk<'w> {
    root: &'w Path,
    opened: OwnedFd,
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
    /// A name of the rules that decided.
    rules: Digest,
    /// What is in it, by name.
    here: Vec<Here>,
    /// What the next walk need not find out again; at first only where that is as it was.
    folder: Option<Folder>,
    /// A name of those in it that count, if there are any.
    name: Option<Digest>,
    /// The number of the first folder below it; the others follow.
    below: usize,
}

/// An entry of a folder.
struct Here {
    /// That of a folder has `/` behind it, so that names have the order of whole paths.
    name: String,
    kind: Kind,
    /// What a rule says of it, whatever else is in the folder.
    said: Option<Box<Decision>>,
    /// What is said because of the others.
    needed: Option<Box<Decision>>,
    found: Found,
}

/// What there is of an entry.
enum Found {
    /// It is left out.
    Nothing,
    /// A folder that is looked into.
    Folder,
    /// A link that counts, and where it points.
    Link(String),
    /// A file that counts.
    File {
        executable: bool,
        stamp: Stamp,
        /// Of what is in it, and its length in bytes; at first only where that is known.
        content: Option<(Digest, u64)>,
    },
}

impl Here {
    fn decision(&self) -> Option<&Decision> {
        self.needed.as_deref().or(self.said.as_deref())
    }

    fn counts(&self) -> bool {
        self.decision().is_none_or(|decision| decision.included)
    }
}

/// Folders as they were looked into, level by level, in the order of paths.
fn in_order(mut looked: Vec<Looked>) -> Walked {
    let (mut files, mut contents, mut links) = (Vec::new(), Vec::new(), Vec::new());
    let (mut decisions, mut folders) = (Vec::new(), Vec::new());
    let mut whole = Fields::new("forge-source-files");
    let mut open = Vec::new();
    let mut enter = |number: usize, looked: &mut Vec<Looked>| {
        let Looked { path, here, folder, name, below, .. } = &mut looked[number];
        let path = std::mem::take(path);
        if let Some(name) = name {
            whole.text(&path).digest(name);
        }
        folders.extend(folder.take().map(|folder| (path.clone(), folder)));
        (path, std::mem::take(here).into_iter(), *below)
    };
    open.push(enter(0, &mut looked));
    while let Some((folder, here, below)) = open.last_mut() {
        let Some(Here { name, said, needed, found, .. }) = here.next() else {
            open.pop();
            continue;
        };
        let path = joined(folder, &name);
        if let Some(decision) = needed.or(said)
            && !matches!(found, Found::Folder)
        {
            decisions.push((path.clone(), *decision));
        }
        match found {
            Found::Folder => {
                let number = *below;
                *below += 1;
                open.push(enter(number, &mut looked));
            }
            Found::Link(target) => links.push((path, target)),
            Found::File { executable, content: Some((digest, size)), .. } => {
                files.push(path);
                contents.push(Content { executable, size, digest });
            }
            Found::Nothing | Found::File { content: None, .. } => {}
        }
    }
    Walked { files, contents, links, decisions, folders, name: whole.finish() }
}

impl Walk<'_> {
    /// Looks into a folder; which of those in it are to be looked into comes along.
    fn folder(&self, next: Next) -> Result<(Looked, Vec<Next>), SourceError> {
        let Next { path: below, mut ignores, mut rules } = next;
        let full = self.root.join(&below);
        let opened = if below.is_empty() { "." } else { &below };
        let opened = open(&self.opened, opened).map_err(failed("read", &full))?;
        let entries = list(&opened, &full)?;
        if entries.iter().any(|(name, _)| name == ".gitignore")
            && let Some(nested) = self.rules.nested(self.root, &below)?
        {
            let mut name = Fields::new("forge-source-rules-below");
            rules = name.digest(&rules).text(&below).digest(&nested.name).finish();
            Arc::make_mut(&mut ignores).push(Arc::new(nested));
        }
        let folder = self.before.folder(&below);
        let before = folder.map(Folder::entries).unwrap_or_default();
        let is_decided = folder.is_some_and(|folder| folder.rules == rules);
        let mut is_same = is_decided && before.len() == entries.len();
        let mut before = before.into_iter().peekable();
        let mut here = Vec::with_capacity(entries.len());
        let mut contents = Vec::with_capacity(entries.len());
        for (name, kind) in entries {
            while before.next_if(|before| *before.name < *name).is_some() {}
            let before = before.next_if(|before| before.name == name && before.kind == kind);
            is_same &= before.is_some();
            let (said, content) = match before {
                Some(before) if is_decided => (before.decision, before.content),
                before => {
                    let path = joined(&below, name.trim_end_matches('/'));
                    let decision = self.rules.decide(&path, kind == Kind::Folder, &ignores);
                    let said = (decision.by != By::Nobody).then(|| Box::new(decision));
                    (said, before.and_then(|before| before.content))
                }
            };
            contents.push(content);
            here.push(Here { name, kind, said, needed: None, found: Found::Nothing });
        }
        needed(&below, self.rules.rules.ignored_config, &mut here);
        here.par_iter_mut().zip(contents).with_min_len(AT_ONCE).try_for_each(
            |(here, content)| {
                here.found = self.look(&below, &opened, here, content)?;
                Ok(())
            },
        )?;
        let is_read = |here: &Here| !matches!(here.found, Found::File { content: None, .. });
        let folder = folder.filter(|_| is_same && here.iter().all(is_read)).cloned();
        let folders = here.iter().filter(|here| matches!(here.found, Found::Folder));
        let folders = folders
            .map(|here| {
                let path = joined(&below, here.name.trim_end_matches('/'));
                Next { path, ignores: Arc::clone(&ignores), rules }
            })
            .collect();
        Ok((Looked { path: below, rules, here, folder, name: None, below: 0 }, folders))
    }

    /// Looks at an entry of the folder `below`, if it counts. One that has not been touched
    /// since `before` has the same in it.
    fn look(
        &self,
        below: &str,
        opened: &OwnedFd,
        here: &Here,
        before: Option<(Stamp, Digest)>,
    ) -> Result<Found, SourceError> {
        let full = || self.root.join(below).join(&here.name);
        let refused = |error: rustix::io::Errno| failed("read", &full())(error.into());
        match here.kind {
            Kind::Folder => {
                let path = joined(below, here.name.trim_end_matches('/'));
                let goes_on = here.decision().is_none_or(|decision| {
                    decision.included || self.rules.may_include_below(&path, decision)
                });
                Ok(if goes_on { Found::Folder } else { Found::Nothing })
            }
            _ if !here.counts() => Ok(Found::Nothing),
            Kind::Link => {
                let target =
                    rustix::fs::readlinkat(opened, &here.name, Vec::new()).map_err(refused)?;
                let target = target.into_string();
                let target = target.map_err(|_| SourceError::Name { path: full() })?;
                Ok(Found::Link(target))
            }
            Kind::File => {
                let stat = rustix::fs::statat(opened, &here.name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(refused)?;
                let stamp = Stamp::of(&stat);
                let content = before.filter(|(before, _)| *before == stamp);
                let content = content.map(|(stamp, digest)| (digest, stamp.size()));
                Ok(Found::File { executable: stat.st_mode & 0o111 != 0, stamp, content })
            }
            Kind::Other => Err(SourceError::Special { path: full() }),
        }
    }

    /// Reads the files of which it is not known what is in them.
    fn read(&self, looked: &mut [Looked]) -> Result<(), SourceError> {
        let looked = looked.par_iter_mut().filter(|looked| looked.folder.is_none());
        looked.try_for_each(|Looked { path, here, .. }| {
            here.par_iter_mut().try_for_each(|Here { name, found, .. }| {
                if let Found::File { content: content @ None, .. } = found {
                    let path = self.root.join(joined(path, name));
                    let read = File::open(&path).and_then(Digest::of_reader);
                    *content = Some(read.map_err(failed("read", &path))?);
                }
                Ok(())
            })
        })
    }

    /// Notes what the next walk need not find out again, and names what counts.
    fn keep(&self, looked: &mut Looked) {
        looked.name = name(&looked.here);
        if looked.folder.is_some() {
            return;
        }
        let entries = looked.here.iter().map(|here| {
            let content = match &here.found {
                Found::File { stamp, content, .. } if stamp.is_settled(self.began) => {
                    content.map(|(digest, _)| (*stamp, digest))
                }
                _ => None,
            };
            Known { name: &here.name, kind: here.kind, decision: here.said.clone(), content }
        });
        looked.folder = Some(Folder::new(looked.rules, &entries.collect::<Vec<_>>()));
    }
}

/// A name of those that count, folders excepted.
fn name(here: &[Here]) -> Option<Digest> {
    let mut fields = Fields::new("forge-source-folder");
    let mut counted = 0_u64;
    for Here { name, found, .. } in here {
        match found {
            Found::Link(target) => fields.text(name).text("link").text(target),
            Found::File { executable, content: Some((digest, size)), .. } => {
                let kind = if *executable { "program" } else { "file" };
                fields.text(name).text(kind).number(*size).digest(digest)
            }
            Found::Nothing | Found::Folder | Found::File { content: None, .. } => continue,
        };
        counted += 1;
    }
    (counted > 0).then(|| fields.finish())
}

fn open(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

/// The names in a folder, sorted, and of what kind each is; those of folders with `/`
/// behind them. `full` is for messages.
fn list(opened: &OwnedFd, full: &Path) -> Result<Vec<(String, Kind)>, SourceError> {
    let refused =
        |path: PathBuf| move |error: rustix::io::Errno| failed("read", &path)(error.into());
    let mut room = Vec::<u8>::with_capacity(LISTED);
    let mut listed = RawDir::new(opened, room.spare_capacity_mut());
    let mut entries = Vec::new();
    while let Some(entry) = listed.next() {
        let entry = entry.map_err(refused(full.to_owned()))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let there = || full.join(OsStr::from_bytes(name.to_bytes()));
        let kind = match entry.file_type() {
            // Not every file system says it in its lists.
            FileType::Unknown => {
                let stat = rustix::fs::statat(opened, name, AtFlags::SYMLINK_NOFOLLOW);
                FileType::from_raw_mode(stat.map_err(refused(there()))?.st_mode)
            }
            kind => kind,
        };
        let kind = Kind::of(kind);
        let name = name.to_str().map_err(|_| SourceError::Name { path: there() })?;
        let end = if kind == Kind::Folder { "/" } else { "" };
        entries.push(([name, end].concat(), kind));
    }
    entries.sort_unstable();
    Ok(entries)
}

/// Takes in what git or docker ignores and the build needs, as the other files of the folder
/// `below` show. What they show of it may change without it, so it is decided each time.
fn needed(below: &str, ignored_config: IgnoredConfig, here: &mut [Here]) {
    let find = |here: &[Here], name: &str| {
        let at = here.binary_search_by(|other| other.name.as_str().cmp(name)).ok()?;
        matches!(here[at].kind, Kind::File | Kind::Link).then_some(at)
    };
    let mut needed = Vec::new();
    for (lock, manifest, others) in LOCKS {
        let counts = |name: &str| find(here, name).is_some_and(|at| here[at].counts());
        if let Some(at) = find(here, lock)
            && counts(manifest)
            && !others.iter().any(|other| counts(other))
        {
            needed.push((at, (*manifest).to_owned(), By::Dependencies));
        }
    }
    if ignored_config == IgnoredConfig::Counts {
        let is_file = |here: &Here| matches!(here.kind, Kind::File | Kind::Link);
        for (at, file) in here.iter().enumerate().filter(|(_, here)| is_file(here)) {
            let is_there = |name: &str| find(here, name).is_some();
            if let Some(example) = example_of(&joined(below, &file.name), is_there) {
                needed.push((at, example, By::Framework));
            }
        }
    }
    for (at, beside, by) in needed {
        let here = &mut here[at];
        let left_out = |decision: &&Decision| {
            !decision.included && matches!(decision.by, By::Git | By::Docker)
        };
        if let Some(mut decision) = here.decision().filter(left_out).cloned() {
            decision.needed(&format!("beside {beside}"), by);
            here.needed = Some(Box::new(decision));
        }
    }
}

fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { [folder, name].join("/") }
}
