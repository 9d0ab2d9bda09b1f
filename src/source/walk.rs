//! Looking at the app's folder: which files there are, and which of them count by the rules.
//!
//! What an earlier walk decided by the same rules is not decided again. Each folder is listed
//! all the same: not every file system gives a folder a new time when something is added.
//!
//! There may be millions of files, of folders, and of entries in one: folders are looked into some
//! at a time, and entries of one some at a time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::names::Names;
use super::order::{Looked, Needed, Unreadable, Walked};
use super::rules::{AppRules, By, Decision, IgnoredConfig, LOCKS, Nested, example_of};
use super::seen::{Folder, Found, Kind, Known, Notes, Noting, Place, Seen, Stamp};
use super::{SourceError, failed};
use crate::digest::{Digest, Fields};

/// Entries of a folder that one processor looks at: handing fewer over costs more than that.
const AT_ONCE: usize = 256;

/// Entries of a folder that are looked at before any is noted.
const ENTRIES: usize = 8192;

/// Folders that are looked into before any is noted.
const FOLDERS: usize = 2048;

/// Entries of folders that wait, at most.
const WAITING: usize = 32_768;

/// A file from this length on, in bytes, is read when all folders are known, beside others: one
/// that takes seconds shall hold up none.
const LONG: u64 = 16 << 20;

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
    let walk = Walk { root, opened, rules, before, began, notes: Notes::new(before) };
    let mut all = All::default();
    let top = Next { path: String::new(), ignores: Arc::default(), rules: rules.name };
    all.look_into(&walk, &mut vec![top])?;
    let mut level = 0..1;
    // Level by level: folders may be nested deeper than a stack is.
    while !level.is_empty() {
        let ignores = std::mem::take(&mut all.ignores);
        let mut next = Vec::new();
        for (number, ignores) in level.clone().zip(ignores) {
            all.looked.set_below(number, all.looked.len() + next.len());
            let (path, rules) = (all.looked.path(number).to_owned(), all.looked.rules(number));
            let mut at = 0;
            while let Some(name) = all.looked.name_from(number, at) {
                at += name.len();
                let path = joined(&path, name.trim_end_matches('/'));
                next.push(Next { path, ignores: Arc::clone(&ignores), rules });
                if next.len() == FOLDERS {
                    all.look_into(&walk, &mut next)?;
                }
            }
        }
        all.look_into(&walk, &mut next)?;
        level = level.end..all.looked.len();
    }
    all.end_waiting(&walk)?;
    let looked = all.looked;
    let walked = looked.in_order(walk.notes.end());
    walked.map_err(|Unreadable(folder)| {
        let path = root.join(folder.trim_start_matches('/'));
        failed("read again what was noted of", &path)(io::ErrorKind::InvalidData.into())
    })
}

/// What was found so far.
#[derive(Default)]
struct All {
    looked: Looked,
    /// The `.gitignore` files that count in the folders of the last level.
    ignores: Vec<Ignores>,
    /// Folders with long files that are not read yet, with their numbers.
    waiting: Vec<(usize, Waiting)>,
}

impl All {
    fn look_into(&mut self, walk: &Walk<'_>, next: &mut Vec<Next>) -> Result<(), SourceError> {
        let found: Vec<_> = next.par_drain(..).map(|next| walk.folder(next)).collect();
        for found in found {
            let LookedInto { path, rules, ignores, folders, is } = found?;
            let number = self.looked.len();
            self.looked.push(&path, rules, &folders);
            self.ignores.push(ignores);
            match is {
                Is::Known(place, needed) => self.looked.set(number, place, needed),
                Is::Waiting(waiting) => self.waiting.push((number, waiting)),
            }
        }
        let waiting = self.waiting.iter().map(|(_, waiting)| waiting.here.len()).sum::<usize>();
        if waiting > WAITING { self.end_waiting(walk) } else { Ok(()) }
    }

    fn end_waiting(&mut self, walk: &Walk<'_>) -> Result<(), SourceError> {
        let waiting = std::mem::take(&mut self.waiting).into_par_iter();
        let read = waiting.map(|(number, waiting)| Ok((number, walk.end(waiting)?)));
        for (number, (place, needed)) in read.collect::<Result<Vec<_>, SourceError>>()? {
            self.looked.set(number, place, needed);
        }
        Ok(())
    }
}

struct Walk<'w> {
    root: &'w Path,
    opened: OwnedFd,
    rules: &'w AppRules<'w>,
    before: &'w Seen,
    began: i64,
    notes: Notes<'w>,
}

/// The `.gitignore` files of a folder and those above.
type Ignores = Arc<Vec<Arc<Nested>>>;

/// A folder to look into.
struct Next {
    path: String,
    /// Those of the folders above.
    ignores: Ignores,
    /// A name of these and all other rules.
    rules: Digest,
}

/// A folder that was looked into.
struct LookedInto {
    path: String,
    rules: Digest,
    ignores: Ignores,
    /// The names of the folders in it that are to be looked into, with `/` behind them.
    folders: String,
    is: Is,
}

/// What is in a folder: where that is noted, and what is said of some because of the others.
enum Is {
    Known(Place, Needed),
    Waiting(Waiting),
}

/// A folder of which some files are to be read yet.
struct Waiting {
    path: String,
    rules: Digest,
    names: Names,
    here: Vec<Here>,
}

/// An entry of a folder.
struct Here {
    /// Of its name.
    number: usize,
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
    fn known<'n>(&'n self, name: &'n str, began: i64) -> Known<'n> {
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
        Known { name, kind: self.kind, decision: self.said.clone(), found }
    }
}

impl Walk<'_> {
    /// Looks into a folder.
    fn folder(&self, next: Next) -> Result<LookedInto, SourceError> {
        let Next { path, mut ignores, mut rules } = next;
        let full = self.root.join(&path);
        let opened = open(&self.opened, if path.is_empty() { "." } else { &path });
        let opened = opened.map_err(failed("read", &full))?;
        let names = Names::list(&opened, &full)?;
        if names.find(".gitignore").is_some()
            && let Some(nested) = self.rules.nested(self.root, &path)?
        {
            let mut name = Fields::new("forge-source-rules-below");
            rules = name.digest(&rules).text(&path).digest(&nested.name).finish();
            Arc::make_mut(&mut ignores).push(Arc::new(nested));
        }
        let before = self.before.folder(&path);
        let is_decided = before.is_some_and(|before| before.place.rules == rules);
        let mut earlier = before.iter().flat_map(Folder::entries).peekable();
        let mut folders = String::new();
        let mut settled = Settled::default();
        let mut opened = Some(opened);
        for from in (0..names.len()).step_by(ENTRIES) {
            let Some(folder) = &opened else { break };
            let numbers = from..names.len().min(from + ENTRIES);
            let is_last = numbers.end == names.len();
            let mut here = Vec::with_capacity(numbers.len());
            let mut contents = Vec::with_capacity(numbers.len());
            for number in numbers {
                let (name, kind) = (names.name(number), names.kind(number));
                while earlier.next_if(|known| known.name < name).is_some() {}
                let known = earlier.next_if(|known| known.name == name && known.kind == kind);
                contents.push(known.as_ref().and_then(Known::content));
                let said = match known {
                    Some(known) if is_decided => known.decision,
                    _ => self.said(&path, name, kind, &ignores),
                };
                here.push(Here { number, kind, said, needed: None, look: Look::Nothing });
            }
            self.need(&path, &names, &ignores, &mut here);
            here.par_iter_mut().zip(contents).with_min_len(AT_ONCE).try_for_each(
                |(here, content)| {
                    here.look = self.look(&path, folder, names.name(here.number), here, content)?;
                    Ok(())
                },
            )?;
            let goes_on = here.iter().filter(|here| matches!(here.look, Look::Folder));
            folders.extend(goes_on.map(|here| names.name(here.number)));
            let is_long = here.iter().any(|here| here.unread().is_some_and(|size| size >= LONG));
            // Of very many entries none are held back.
            if is_long && names.len() <= ENTRIES {
                let waiting = Waiting { path: path.clone(), rules, names, here };
                return Ok(LookedInto { path, rules, ignores, folders, is: Is::Waiting(waiting) });
            }
            if is_last {
                // Others may be looked into while files are read, and few can be open.
                opened = None;
            }
            self.settle(&path, &names, here, &mut settled)?;
        }
        let is = Is::Known(self.notes.keep(before, rules, settled.noting), settled.needed);
        Ok(LookedInto { path, rules, ignores, folders, is })
    }

    /// Reads the files of a folder that has waited.
    fn end(&self, waiting: Waiting) -> Result<(Place, Needed), SourceError> {
        let Waiting { path, rules, names, here } = waiting;
        let mut settled = Settled::default();
        self.settle(&path, &names, here, &mut settled)?;
        let place = self.notes.keep(self.before.folder(&path), rules, settled.noting);
        Ok((place, settled.needed))
    }

    /// What rules say of an entry, if they say anything.
    fn said(
        &self,
        below: &str,
        name: &str,
        kind: Kind,
        ignores: &[Arc<Nested>],
    ) -> Option<Box<Decision>> {
        let path = joined(below, name.trim_end_matches('/'));
        let decision = self.rules.decide(&path, kind == Kind::Folder, ignores);
        (decision.by != By::Nobody).then(|| Box::new(decision))
    }

    /// Reads the files of the folder `below` of which it is not known what is in them, and notes
    /// what is in it.
    fn settle(
        &self,
        below: &str,
        names: &Names,
        mut here: Vec<Here>,
        to: &mut Settled,
    ) -> Result<(), SourceError> {
        if here.iter().any(|here| here.unread().is_some()) {
            self.read(below, names, &mut here)?;
        }
        for mut here in here {
            let name = names.name(here.number);
            to.noting.add(&here.known(name, self.began));
            to.needed.extend(here.needed.take().map(|needed| (here.number, needed)));
        }
        Ok(())
    }

    /// Looks at an entry of the folder `below`, if it counts. One that has not been touched
    /// since `before` has the same in it.
    fn look(
        &self,
        below: &str,
        opened: &OwnedFd,
        name: &str,
        here: &Here,
        before: Option<(Stamp, Digest)>,
    ) -> Result<Look, SourceError> {
        let full = || self.root.join(below).join(name);
        let refused = |error: rustix::io::Errno| failed("read", &full())(error.into());
        match here.kind {
            Kind::Folder => {
                let path = joined(below, name.trim_end_matches('/'));
                let goes_on = here.decision().is_none_or(|decision| {
                    decision.included || self.rules.may_include_below(&path, decision)
                });
                Ok(if goes_on { Look::Folder } else { Look::Nothing })
            }
            _ if !here.counts() => Ok(Look::Nothing),
            Kind::Link => {
                let target = rustix::fs::readlinkat(opened, name, Vec::new()).map_err(refused)?;
                let target = target.into_string();
                let target = target.map_err(|_| SourceError::Name { path: full() })?;
                Ok(Look::Link(target))
            }
            Kind::File => {
                let stat =
                    rustix::fs::statat(opened, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refused)?;
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
    fn read(&self, below: &str, names: &Names, here: &mut [Here]) -> Result<(), SourceError> {
        here.par_iter_mut().try_for_each(|Here { number, look, .. }| {
            if let Look::File { stamp, digest: digest @ None, .. } = look {
                let path = self.root.join(joined(below, names.name(*number)));
                let read = File::open(&path).and_then(Digest::of_reader);
                let (content, size) = read.map_err(failed("read", &path))?;
                (*digest, *stamp) = (Some(content), stamp.of_size(size));
            }
            Ok(())
        })
    }

    /// Takes in what git or docker ignores and the build needs, as the other files of the folder
    /// `below` show. What they show of it may change without it, so it is decided each time.
    fn need(&self, below: &str, names: &Names, ignores: &[Arc<Nested>], here: &mut [Here]) {
        let Some(first) = here.first().map(|here| here.number) else { return };
        let range: Range<usize> = first..first + here.len();
        let counts = |here: &[Here], name: &str| {
            names.find(name).is_some_and(|at| match here.get(at.wrapping_sub(first)) {
                Some(here) => here.counts(),
                None => {
                    let said = self.said(below, name, names.kind(at), ignores);
                    said.is_none_or(|decision| decision.included)
                }
            })
        };
        let mut needed = Vec::new();
        for (lock, manifest, others) in LOCKS {
            if let Some(at) = names.find(lock).filter(|at| range.contains(at))
                && counts(here, manifest)
                && !others.iter().any(|other| counts(here, other))
            {
                needed.push((at, (*manifest).to_owned(), By::Dependencies));
            }
        }
        if self.rules.rules.ignored_config == IgnoredConfig::Counts {
            let is_file = |here: &&Here| matches!(here.kind, Kind::File | Kind::Link);
            for file in here.iter().filter(is_file) {
                let is_there = |name: &str| names.find(name).is_some();
                let path = joined(below, names.name(file.number));
                if let Some(example) = example_of(&path, is_there) {
                    needed.push((file.number, example, By::Framework));
                }
            }
        }
        for (at, beside, by) in needed {
            let here = &mut here[at - first];
            let left_out = |decision: &&Decision| {
                !decision.included && matches!(decision.by, By::Git | By::Docker)
            };
            if let Some(mut decision) = here.decision().filter(left_out).cloned() {
                decision.needed(&format!("beside {beside}"), by);
                here.needed = Some(Box::new(decision));
            }
        }
    }
}

/// What is known of a folder by now.
#[derive(Default)]
struct Settled {
    noting: Noting,
    needed: Needed,
}

fn open(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { [folder, name].join("/") }
}
