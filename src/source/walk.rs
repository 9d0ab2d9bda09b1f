//! Looking at the app's folder: which files there are, and which of them count by the rules.
//!
//! What an earlier walk decided by the same rules is not decided again. Each folder is listed
//! all the same: not every file system gives a folder a new time when something is added.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::iter::{Enumerate, Peekable};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{slice, vec};

use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir};

use super::decided::{Deciding, Decisions};
use super::rules::{AppRules, By, Decision, IgnoredConfig, LOCKS, Nested, example_of};
use super::seen::{Entries, Folder, Found, Kind, Known, Noted, Notes, Seen, Stamp};
use super::{SourceError, failed};
use crate::digest::{Digest, Fields};
use crate::plan::APP_FOLDER;
use crate::tree::{Builder, Node, Tree};

/// Entries of a folder that one processor looks at: handing fewer over costs more than that.
const AT_ONCE: usize = 256;

/// A file from this length on, in bytes, is read when all folders are known, beside others: one
/// that takes seconds shall hold up none.
const LONG: u64 = 16 << 20;

/// Room for what the system lists of a folder at once, in bytes: some hundreds of names.
const LISTED: usize = 32 << 10;

/// What a walk has found, in the order of paths.
pub(super) struct Walked {
    /// The files and links that count, and the folders that lead there.
    pub(super) tree: Tree,
    /// What a rule said, by path; with `/` behind it of a folder, and of all in it.
    pub(super) decisions: Decisions,
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
    let walk = Walk { root, opened, rules, before, began, notes: Notes::default() };
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
    let waiting = looked.par_iter_mut().filter(|looked| looked.noted.is_none());
    waiting.try_for_each(|looked| walk.end(looked))?;
    let noted = looked.iter_mut().filter_map(|looked| looked.noted.take());
    let folders = walk.notes.folders(noted);
    Ok(in_order(looked, folders))
}

struct Walk<'w> {
    root: &'w Path,
    opened: OwnedFd,
    rules: &'w AppRules<'w>,
    before: &'w Seen,
    began: i64,
    notes: Notes,
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
    /// What is in it, as long as long files are to be read.
    here: Vec<Here>,
    /// A name of the rules that decide.
    rules: Digest,
    /// What is in it, when all is read.
    noted: Option<Noted>,
    /// A name of those in it that count, if there are any.
    name: Option<Digest>,
    /// What is said of some because of the others: the number of the entry, and what.
    needed: Vec<(usize, Box<Decision>)>,
    /// The names of the folders in it that are looked into, in the order of whole paths.
    folders: Vec<String>,
    /// The number of the first of them; the others follow.
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
    look: Look,
}

/// What there is of an entry.
enum Look {
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
        /// Of what is in it; at first only where that is known.
        digest: Option<Digest>,
        /// Whether that was known from an earlier walk.
        is_known: bool,
    },
}

impl Here {
    fn decision(&self) -> Option<&Decision> {
        self.needed.as_deref().or(self.said.as_deref())
    }

    fn counts(&self) -> bool {
        self.decision().is_none_or(|decision| decision.included)
    }

    /// The length of a file that counts and was not read yet.
    fn unread(&self) -> Option<u64> {
        match &self.look {
            Look::File { stamp, digest: None, .. } => Some(stamp.size()),
            _ => None,
        }
    }

    /// For the next walk, of one that looked from `began` on.
    fn known(&self, began: i64) -> Known<'_> {
        let found = match &self.look {
            Look::Folder => Found::Folder,
            Look::Link(target) => Found::Link(target),
            Look::File { executable, stamp, digest: Some(digest), is_known } => Found::File {
                executable: *executable,
                stamp: *stamp,
                digest: *digest,
                is_settled: *is_known || stamp.is_settled(began),
            },
            Look::Nothing | Look::File { digest: None, .. } => Found::Nothing,
        };
        Known { name: &self.name, kind: self.kind, decision: self.said.clone(), found }
    }
}

/// A folder that is being put in order.
struct Open<'l> {
    /// Of its path in the tree.
    length: usize,
    entries: Enumerate<Entries<'l>>,
    needed: Peekable<slice::Iter<'l, (usize, Box<Decision>)>>,
    /// The folders in it that lead to something that counts, by name.
    leading: Peekable<vec::IntoIter<&'l str>>,
    /// The number of the next folder below it.
    below: usize,
}

impl<'l> Open<'l> {
    /// `counts` tells of all folders whether something in them or below counts.
    fn new(
        looked: &'l Looked,
        folder: &'l Folder,
        counts: &[bool],
        length: usize,
    ) -> Open<'l> {
        let Looked { needed, folders, below, .. } = looked;
        let leading = folders.iter().zip(&counts[*below..]).filter(|(_, counts)| **counts);
        let mut leading: Vec<&str> = leading.map(|(name, _)| name.trim_end_matches('/')).collect();
        leading.sort_unstable();
        Open {
            length,
            entries: folder.entries().enumerate(),
            needed: needed.iter().peekable(),
            leading: leading.into_iter().peekable(),
            below: *below,
        }
    }
}

/// Folders as they were looked into, level by level, in the order of paths.
fn in_order(looked: Vec<Looked>, kept: Vec<Folder>) -> Walked {
    // What is below a folder comes after it.
    let mut counts = vec![false; looked.len()];
    for (number, Looked { name, folders, below, .. }) in looked.iter().enumerate().rev() {
        counts[number] = name.is_some() || counts[*below..*below + folders.len()].contains(&true);
    }
    let leading = || Node::Directory { mode: 0o755, opaque: false };
    let mut path = APP_FOLDER.to_owned();
    let mut tree = Builder::default();
    tree.add(path.as_bytes(), leading());
    let mut decisions = Deciding::default();
    let mut whole = Fields::new("forge-source-files");
    let mut enter = |looked: &Looked| {
        if let Some(name) = &looked.name {
            whole.text(&looked.path).digest(name);
        }
    };
    enter(&looked[0]);
    let mut open = vec![Open::new(&looked[0], &kept[0], &counts, path.len())];
    while let Some(folder) = open.last_mut() {
        path.truncate(folder.length);
        let Some((number, known)) = folder.entries.next() else {
            open.pop();
            continue;
        };
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
                let (below, kept) = (&looked[folder.below], &kept[folder.below]);
                folder.below += 1;
                enter(below);
                open.push(Open::new(below, kept, &counts, path.len() - 1));
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
    let folders = looked.into_iter().map(|looked| looked.path).zip(kept).collect();
    Walked { tree: tree.tree(), decisions: decisions.end(), folders, name: whole.finish() }
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
        let before = self.before.folder(&below);
        let is_decided = before.is_some_and(|before| before.rules == rules);
        let mut earlier = before.into_iter().flat_map(Folder::entries).peekable();
        let mut here = Vec::with_capacity(entries.len());
        let mut contents = Vec::with_capacity(entries.len());
        for (name, kind) in entries {
            while earlier.next_if(|known| *known.name < *name).is_some() {}
            let known = earlier.next_if(|known| known.name == name && known.kind == kind);
            contents.push(known.as_ref().and_then(Known::content));
            let said = match known {
                Some(known) if is_decided => known.decision,
                _ => {
                    let path = joined(&below, name.trim_end_matches('/'));
                    let decision = self.rules.decide(&path, kind == Kind::Folder, &ignores);
                    (decision.by != By::Nobody).then(|| Box::new(decision))
                }
            };
            here.push(Here { name, kind, said, needed: None, look: Look::Nothing });
        }
        needed(&below, self.rules.rules.ignored_config, &mut here);
        here.par_iter_mut().zip(contents).with_min_len(AT_ONCE).try_for_each(
            |(here, content)| {
                here.look = self.look(&below, &opened, here, content)?;
                Ok(())
            },
        )?;
        drop(opened);
        let folders = here.iter().filter(|here| matches!(here.look, Look::Folder));
        // Not of `into_iter`, which would keep the room of all entries.
        let folders: Vec<String> = folders.map(|here| here.name.clone()).collect();
        let next = |name: &String| {
            let path = joined(&below, name.trim_end_matches('/'));
            Next { path, ignores: Arc::clone(&ignores), rules }
        };
        let next = folders.iter().map(next).collect();
        let mut looked = Looked {
            path: below,
            here,
            rules,
            noted: None,
            name: None,
            needed: Vec::new(),
            folders,
            below: 0,
        };
        if !looked.here.iter().any(|here| here.unread().is_some_and(|size| size >= LONG)) {
            self.end(&mut looked)?;
        }
        Ok((looked, next))
    }

    /// Reads the files of a folder of which it is not known what is in them, and notes what is in
    /// it in less room.
    fn end(&self, looked: &mut Looked) -> Result<(), SourceError> {
        let mut here = std::mem::take(&mut looked.here);
        if here.iter().any(|here| here.unread().is_some()) {
            self.read(&looked.path, &mut here)?;
        }
        let before = self.before.folder(&looked.path);
        let known = here.iter().map(|here| here.known(self.began));
        looked.noted = Some(self.notes.note(before, looked.rules, known));
        looked.name = name(&here);
        let needed = here.iter_mut().enumerate();
        looked.needed = needed.filter_map(|(at, here)| Some((at, here.needed.take()?))).collect();
        Ok(())
    }

    /// Looks at an entry of the folder `below`, if it counts. One that has not been touched
    /// since `before` has the same in it.
    fn look(
        &self,
        below: &str,
        opened: &OwnedFd,
        here: &Here,
        before: Option<(Stamp, Digest)>,
    ) -> Result<Look, SourceError> {
        let full = || self.root.join(below).join(&here.name);
        let refused = |error: rustix::io::Errno| failed("read", &full())(error.into());
        match here.kind {
            Kind::Folder => {
                let path = joined(below, here.name.trim_end_matches('/'));
                let goes_on = here.decision().is_none_or(|decision| {
                    decision.included || self.rules.may_include_below(&path, decision)
                });
                Ok(if goes_on { Look::Folder } else { Look::Nothing })
            }
            _ if !here.counts() => Ok(Look::Nothing),
            Kind::Link => {
                let target =
                    rustix::fs::readlinkat(opened, &here.name, Vec::new()).map_err(refused)?;
                let target = target.into_string();
                let target = target.map_err(|_| SourceError::Name { path: full() })?;
                Ok(Look::Link(target))
            }
            Kind::File => {
                let stat = rustix::fs::statat(opened, &here.name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(refused)?;
                let stamp = Stamp::of(&stat);
                let before = before.filter(|(before, _)| *before == stamp);
                let digest = before.map(|(_, digest)| digest);
                let (executable, is_known) = (stat.st_mode & 0o111 != 0, digest.is_some());
                Ok(Look::File { executable, stamp, digest, is_known })
            }
            Kind::Other => Err(SourceError::Special { path: full() }),
        }
    }

    /// Reads the files of the folder `below` of which it is not known what is in them.
    fn read(&self, below: &str, here: &mut [Here]) -> Result<(), SourceError> {
        here.par_iter_mut().try_for_each(|Here { name, look, .. }| {
            if let Look::File { stamp, digest: digest @ None, .. } = look {
                let path = self.root.join(joined(below, name));
                let read = File::open(&path).and_then(Digest::of_reader);
                let (content, size) = read.map_err(failed("read", &path))?;
                (*digest, *stamp) = (Some(content), stamp.of_size(size));
            }
            Ok(())
        })
    }
}

/// A name of those that count, folders excepted.
fn name(here: &[Here]) -> Option<Digest> {
    let mut fields = Fields::new("forge-source-folder");
    let mut counted = 0_u64;
    for Here { name, look, .. } in here {
        match look {
            Look::Link(target) => fields.text(name).text("link").text(target),
            Look::File { executable, stamp, digest: Some(digest), .. } => {
                let kind = if *executable { "program" } else { "file" };
                fields.text(name).text(kind).number(stamp.size()).digest(digest)
            }
            Look::Nothing | Look::Folder | Look::File { digest: None, .. } => continue,
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
