//! What the app's folder was when it was last looked at, so that what has not changed since
//! need not be decided or read again.
//!
//! A file counts as untouched when device, inode, size, modification time and change time
//! are what they were; the last no program can set back. One that was changed about when it
//! was read is read again: it may change again within the clock's grain and look the same
//! (git's "racily clean" entries, Documentation/technical/racy-git.txt).

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytemuck::{Pod, Zeroable};
use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

use super::rules::Decision;
use crate::digest::{Digest, Fields};
use crate::memory::{Bytes, Long, Paths};

/// How old a change must be for the next one to be told from it, in seconds: the coarsest
/// clock of a file system in use (FAT's) ticks every two.
const GRAIN: i64 = 2;

/// Bumped with the shape of what is kept.
const VERSION: u8 = 4;

/// Bytes that an entry of a folder hardly ever has: names and where links lead are at most 4096
/// each, but a rule may be any line of a file.
const ENTRY: usize = 64 << 10;

/// Bytes from which on two folders lie apart.
const APART: usize = 1 << 20;

/// Bytes that are compared or written at once.
const AT_ONCE: usize = 64 << 10;

/// The folders of an app, with what is in them.
#[derive(Debug, Default)]
pub struct Seen {
    /// Where what is in folders lies.
    wholes: Vec<Arc<Whole>>,
    /// By their [`key`], sorted.
    folders: Paths<Place>,
    /// About where the folder lies that was asked for last.
    last: AtomicUsize,
}

#[derive(Debug)]
enum Whole {
    /// As they were kept.
    Kept(Bytes),
    /// As they were noted now.
    Noted(Long<u8>),
}

/// Where is what is in a folder: sorted by name, as bytes, which are read where the folder is
/// looked into, on all processors, and once more where folders are put in order.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Place {
    /// A name of the rules that decided.
    pub(super) rules: Digest,
    /// A name of those in it that count, folders excepted, if there are any: the same as long as
    /// its bytes are.
    name: Digest,
    is_named: usize,
    /// The number of the whole, and the bytes there.
    whole: usize,
    from: usize,
    to: usize,
}

impl Place {
    /// Nowhere yet, by rules of this name.
    pub(super) fn new(rules: Digest) -> Place {
        Place { rules, ..Place::zeroed() }
    }

    pub(super) fn name(&self) -> Option<&Digest> {
        (self.is_named > 0).then_some(&self.name)
    }
}

/// A folder that was looked into.
#[derive(Clone, Copy)]
pub(super) struct Folder<'s> {
    pub(super) place: Place,
    whole: &'s Whole,
}

/// What a folder is sorted by: as names of folders have `/` behind them, so has its path. Folders
/// have this order where they are put in order, too.
fn key(path: &str) -> String {
    if path.is_empty() { String::new() } else { [path, "/"].concat() }
}

impl Whole {
    fn let_go(&self) {
        match self {
            Whole::Kept(bytes) => bytes.let_go(),
            Whole::Noted(bytes) => bytes.let_go(),
        }
    }

    fn is_in_file(&self) -> bool {
        matches!(self, Whole::Noted(bytes) if bytes.is_in_file())
    }

    fn len(&self) -> usize {
        match self {
            Whole::Kept(bytes) => bytes.len(),
            Whole::Noted(bytes) => bytes.len(),
        }
    }

    fn part(&self, from: usize, to: usize) -> &[u8] {
        self.pass(from, to);
        self.peek(from, to)
    }

    fn peek(&self, from: usize, to: usize) -> &[u8] {
        match self {
            Whole::Kept(bytes) => bytes.peek(from..to),
            Whole::Noted(bytes) => bytes.peek(from, to),
        }
    }

    fn pass(&self, from: usize, to: usize) {
        match self {
            Whole::Kept(bytes) => bytes.pass(from, to),
            Whole::Noted(bytes) => bytes.pass(from, to),
        }
    }
}

impl<'s> Folder<'s> {
    /// What is in it, sorted by name, as far as it can be read: what cannot is not known.
    pub(super) fn entries(&self) -> Entries<'s> {
        Entries { whole: self.whole, at: self.place.from, to: self.place.to }
    }

    /// Its bytes, in parts.
    fn parts(&self) -> impl Iterator<Item = &'s [u8]> {
        let Folder { place: Place { from, to, .. }, whole } = *self;
        (from..to).step_by(AT_ONCE).map(move |at| whole.part(at, to.min(at + AT_ONCE)))
    }

    /// Whether it holds what `other` does, by the same rules.
    fn is(&self, other: &Folder<'_>) -> bool {
        let (place, others) = (self.place, other.place);
        let is_it = std::ptr::eq(self.whole, other.whole) && place.from == others.from;
        place.rules == others.rules
            && place.to - place.from == others.to - others.from
            && (is_it || self.parts().eq(other.parts()))
    }
}

/// What is being noted of a folder.
#[derive(Default)]
pub(super) struct Noting {
    bytes: Long<u8>,
    buffer: Vec<u8>,
}

impl Noting {
    /// Notes what comes next by name.
    pub(super) fn add(&mut self, known: &Known<'_>) {
        self.buffer.clear();
        // Only a type that cannot be written at all fails.
        self.buffer =
            postcard::to_extend(known, std::mem::take(&mut self.buffer)).unwrap_or_default();
        self.bytes.extend_from_slice(&self.buffer);
    }
}

/// Folders that are being noted, from several processors.
pub(super) struct Notes<'s> {
    before: &'s Seen,
    noted: Mutex<Noted>,
}

/// Those of folders one behind another, and those that have a file of their own.
#[derive(Default)]
struct Noted {
    short: Long<u8>,
    long: Vec<Whole>,
}

impl<'s> Notes<'s> {
    /// Of what is as it was `before` there need not be two.
    pub(super) fn new(before: &'s Seen) -> Notes<'s> {
        Notes { before, noted: Mutex::default() }
    }

    /// Keeps what was noted of a folder.
    pub(super) fn keep(&self, before: Option<Folder<'_>>, rules: Digest, noting: Noting) -> Place {
        let mut bytes = noting.bytes;
        bytes.shrink();
        let whole = Whole::Noted(bytes);
        let place = Place { to: whole.len(), ..Place::new(rules) };
        let now = Folder { place, whole: &whole };
        if let Some(before) = before.filter(|before| now.is(before)) {
            return before.place;
        }
        let name = name(now.entries());
        let is_named = usize::from(name.is_some());
        let place = Place { name: name.unwrap_or(place.name), is_named, ..place };
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.before.wholes.len();
        if whole.is_in_file() {
            noted.long.push(whole);
            return Place { whole: first + noted.long.len(), ..place };
        }
        let from = noted.short.len();
        noted.short.extend_from_slice(whole.part(0, whole.len()));
        Place { whole: first, from, to: noted.short.len(), ..place }
    }

    /// No folders, as long as none is put in it, in all that was noted.
    pub(super) fn end(self) -> Seen {
        let Noted { mut short, long } =
            self.noted.into_inner().unwrap_or_else(PoisonError::into_inner);
        short.shrink();
        let noted = [Whole::Noted(short)].into_iter().chain(long).map(Arc::new);
        let wholes = self.before.wholes.iter().map(Arc::clone).chain(noted).collect();
        Seen { wholes, ..Seen::default() }
    }
}

/// A name of those that count, folders excepted, if there are any.
fn name(entries: Entries<'_>) -> Option<Digest> {
    let mut fields = Fields::new("forge-source-folder");
    let mut counted = 0_u64;
    for Known { name, found, .. } in entries {
        match found {
            Found::Link(target) => fields.text(name).text("link").text(target),
            Found::File { executable, stamp, digest, .. } => {
                let kind = if executable { "program" } else { "file" };
                fields.text(name).text(kind).number(stamp.size()).digest(&digest)
            }
            Found::Nothing | Found::Folder => continue,
        };
        counted += 1;
    }
    (counted > 0).then(|| fields.finish())
}

/// What is in a folder, one after another.
pub(super) struct Entries<'f> {
    whole: &'f Whole,
    at: usize,
    to: usize,
}

impl Entries<'_> {
    /// Whether all was read.
    pub(super) fn are_all(&self) -> bool {
        self.at == self.to
    }
}

impl<'f> Iterator for Entries<'f> {
    type Item = Known<'f>;

    fn next(&mut self) -> Option<Known<'f>> {
        let parsed = |some: &'f [u8]| {
            let (known, rest) = postcard::take_from_bytes(some).ok()?;
            Some((known, some.len() - rest.len()))
        };
        let some = self.whole.peek(self.at, self.to.min(self.at + ENTRY));
        let found = parsed(some).or_else(|| parsed(self.whole.peek(self.at, self.to)));
        let (known, length) = found?;
        self.whole.pass(self.at, self.at + length);
        self.at += length;
        Some(known)
    }
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known<'n> {
    /// That of a folder has `/` behind it.
    pub(super) name: &'n str,
    pub(super) kind: Kind,
    /// What a rule says of it, whatever else is in the folder.
    pub(super) decision: Option<Box<Decision>>,
    pub(super) found: Found<'n>,
}

/// What there is of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Found<'n> {
    /// It is left out.
    Nothing,
    /// A folder that is looked into.
    Folder,
    /// A link that counts, and where it points.
    Link(&'n str),
    /// A file that counts.
    File {
        executable: bool,
        stamp: Stamp,
        digest: Digest,
        /// Whether another look can tell if it is still the same.
        is_settled: bool,
    },
}

impl Known<'_> {
    /// What is in a file, if another look can tell whether it still is.
    pub(super) fn content(&self) -> Option<(Stamp, Digest)> {
        match self.found {
            Found::File { stamp, digest, is_settled: true, .. } => Some((stamp, digest)),
            _ => None,
        }
    }
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    // Only a type that cannot be written at all fails, and no value of it can be kept.
    postcard::to_allocvec(value).unwrap_or_default()
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Kind {
    File,
    Link,
    Folder,
    /// A pipe, socket or device.
    Other,
}

impl Kind {
    pub(super) fn of(kind: FileType) -> Kind {
        match kind {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Link,
            FileType::Directory => Kind::Folder,
            _ => Kind::Other,
        }
    }
}

/// What tells whether a file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Stamp {
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            // Neither is negative.
            size: stat.st_size.unsigned_abs(),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// The file's length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// With the length that it had when it was read; the times are those from before. Where it
    /// has changed in between, the next look finds another file.
    pub(super) fn of_size(self, size: u64) -> Stamp {
        Stamp { size, ..self }
    }

    /// Whether any later change shows, for one who looked from `began` on.
    pub(super) fn is_settled(&self, began: i64) -> bool {
        self.changed.0 < began.saturating_sub(GRAIN)
    }
}

/// Now, in seconds since 1970.
pub(super) fn now() -> i64 {
    // A clock before 1970 makes every file one that was changed just now.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(i64::MIN)
}

impl PartialEq for Seen {
    fn eq(&self, other: &Seen) -> bool {
        self.folders.len() == other.folders.len()
            && self
                .all()
                .zip(other.all())
                .all(|((path, folder), (others, other))| path == others && folder.is(&other))
    }
}

impl Eq for Seen {}

impl Seen {
    fn at(&self, place: &Place) -> Folder<'_> {
        Folder { place: *place, whole: &self.wholes[place.whole] }
    }

    /// By their keys.
    fn all(&self) -> impl Iterator<Item = (&[u8], Folder<'_>)> {
        self.folders.iter().map(|(key, place)| (key, self.at(place)))
    }

    pub(super) fn folder(&self, path: &str) -> Option<Folder<'_>> {
        let key = key(path);
        let number = self.folders.find(|other| other.cmp(key.as_bytes())).ok()?;
        let folder = self.at(self.folders.about(number));
        // Folders of one level are asked for one behind another, and may lie far apart.
        let near = folder.place.from / APART;
        if self.last.swap(near, Ordering::Relaxed) != near {
            self.folders.let_go();
            folder.whole.let_go();
        }
        Some(folder)
    }

    /// Adds a folder behind all others, and says what is in it.
    pub(super) fn push(&mut self, path: &str, place: Place) {
        self.folders.push(key(path).as_bytes(), place, b"");
    }

    /// What is at a place.
    pub(super) fn entries(&self, place: &Place) -> Entries<'_> {
        self.at(place).entries()
    }

    /// Writes bytes that [`Seen::parse`] reads.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&bytes(&(VERSION, self.folders.len())))?;
        for (key, folder) in self.all() {
            let place = folder.place;
            let head = (key, place.rules, place.name(), place.to - place.from);
            to.write_all(&bytes(&head))?;
            folder.parts().try_for_each(|part| to.write_all(part))?;
        }
        Ok(())
    }

    /// `None` for what are no such bytes, or of another version.
    #[must_use]
    pub fn parse(bytes: Bytes) -> Option<Seen> {
        let some = bytes.some_from(0);
        let ((version, count), more) = postcard::take_from_bytes::<(u8, usize)>(some).ok()?;
        if version != VERSION {
            return None;
        }
        let mut at = some.len() - more.len();
        let mut folders = Paths::default();
        for _ in 0..count {
            let some = bytes.some_from(at);
            let ((key, rules, name, length), more) =
                postcard::take_from_bytes::<(&[u8], Digest, Option<Digest>, usize)>(some).ok()?;
            let from = at + some.len() - more.len();
            let end = from.checked_add(length).filter(|end| *end <= bytes.len())?;
            bytes.pass(at, end);
            at = end;
            let is_named = usize::from(name.is_some());
            let place = Place::new(rules);
            let name = name.unwrap_or(place.name);
            folders.push(key, Place { name, is_named, from, to: at, ..place }, b"");
        }
        let whole = Arc::new(Whole::Kept(bytes));
        (at == whole.len()).then(|| Seen { wholes: vec![whole], folders, ..Seen::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::super::order::Looked;
    use super::super::tests::app;
    use super::super::walk::walk;
    use super::super::{By, IgnoredConfig, Rules, Snapshot};
    use super::*;

    fn take(root: &Path, rules: &Rules, seen: &Seen) -> (Snapshot, Seen) {
        Snapshot::take_again(root, rules, seen).expect("a snapshot")
    }

    /// As if each file had been looked at long after it was written, and held something else.
    fn as_of_old(root: &Path, seen: Seen, said: Digest) -> Seen {
        changed(seen, |below, known| {
            if matches!(known.found, Found::File { .. }) {
                let path = root.join(below).join(known.name);
                let stat = rustix::fs::lstat(path).expect("there");
                let executable = stat.st_mode & 0o111 != 0;
                let stamp = Stamp::of(&stat);
                known.found = Found::File { executable, stamp, digest: said, is_settled: true };
            }
        })
    }

    fn changed(seen: Seen, change: impl Fn(&str, &mut Known<'_>)) -> Seen {
        let notes = Notes::new(&seen);
        let mut places = Vec::new();
        for (key, folder) in seen.all() {
            let path = std::str::from_utf8(key).expect("text").trim_end_matches('/');
            let mut noting = Noting::default();
            for mut known in folder.entries() {
                change(path, &mut known);
                noting.add(&known);
            }
            places.push((path.to_owned(), notes.keep(None, folder.place.rules, noting)));
        }
        let mut changed = notes.end();
        places.iter().for_each(|(path, place)| changed.push(path, *place));
        changed
    }

    #[test]
    fn there_and_back() {
        let folder = app(&[("a b", "1"), ("sub/ä", "2"), (".git/x", ""), ("x.log", "")]);
        let (_, seen) = take(folder.path(), &Rules::default(), &Seen::default());
        let seen = as_of_old(folder.path(), seen, Digest::of(b"x"));
        assert_eq!(seen.folders.len(), 2);
        let mut bytes = Vec::new();
        seen.write_to(&mut bytes).expect("written");
        assert_eq!(Seen::parse(bytes.clone().into()), Some(seen));
        for damaged in [&bytes[1..], &bytes[..bytes.len() - 1], b"", b"\x02", b"\xff\xff\xff"] {
            assert_eq!(Seen::parse(damaged.to_vec().into()), None);
        }
    }

    #[test]
    fn what_was_seen_is_not_read_again() {
        let folder = app(&[("a", "one"), ("b", "two"), ("sub/c", "three")]);
        let (root, rules) = (folder.path(), Rules::default());
        let (first, seen) = take(root, &rules, &Seen::default());
        // They have just been written, so another look would not tell.
        assert!(seen.folder("").expect("seen").entries().all(|known| known.content().is_none()));
        let said = Digest::of(b"what is said to be in it");
        let seen = as_of_old(root, seen, said);
        let holds = |snapshot: &Snapshot, path: &str, wanted: Digest| {
            snapshot.content(path).is_some_and(|content| content.digest == wanted)
        };
        let (again, kept) = take(root, &rules, &seen);
        for path in ["a", "b", "sub/c"] {
            assert!(holds(&again, path, said), "{path}");
        }
        assert!(again.files().eq(first.files()));
        assert!(again.decisions.iter().eq(first.decisions.iter()));
        assert_eq!(kept, seen);
        // Same name, length and times, another file.
        fs::write(root.join("new"), "new").expect("write");
        let times = fs::symlink_metadata(root.join("a")).expect("there");
        let times = FileTimes::new().set_modified(times.modified().expect("a time"));
        let file = File::options().write(true).open(root.join("new")).expect("open");
        file.set_times(times).expect("set");
        fs::rename(root.join("new"), root.join("a")).expect("rename");
        let (again, _) = take(root, &rules, &seen);
        assert!(holds(&again, "a", Digest::of(b"new")));
        assert!(holds(&again, "b", said));
    }

    #[test]
    fn no_file_is_missed_where_notes_are_damaged() {
        let before = Seen::default();
        let walked = |cut: usize| {
            let notes = Notes::new(&before);
            let mut noting = Noting::default();
            for name in ["a", "b"] {
                let found = Found::Link("to");
                noting.add(&Known { name, kind: Kind::Link, decision: None, found });
            }
            let place = notes.keep(None, Digest::of(b"rules"), noting);
            let mut looked = Looked::default();
            looked.push("", place.rules, "");
            looked.set(0, Place { to: place.to - cut, ..place }, Vec::new());
            looked.in_order(notes.end()).map(|walked| walked.tree.len())
        };
        assert_eq!(walked(0).ok(), Some(3));
        assert!((1..4).all(|cut| walked(cut).is_err()));
    }

    #[test]
    fn memory_follows_what_is_there() {
        let folder = app(&[("a", "one"), ("sub/b", "two")]);
        let root = folder.path();
        symlink("a", root.join("link")).expect("linked");
        let rules = Rules::default();
        let rules = rules.of_app(root).expect("rules");
        // Long after, so that all of it can be kept.
        let after = |seen: &Seen| walk(root, &rules, seen, i64::MAX).expect("walked").seen;
        let first = after(&Seen::default());
        assert_eq!(after(&first), first);
        fs::rename(root.join("link"), root.join("renamed")).expect("renamed");
        let second = after(&first);
        assert_eq!(second, after(&Seen::default()));
        fs::write(root.join("sub/b"), "three").expect("written");
        let third = after(&second);
        assert_eq!(third, after(&Seen::default()));
        assert!(first != second && second != third);
    }

    #[test]
    fn what_was_decided_is_not_decided_again() {
        let files = [("a", ""), ("sub/a", ""), ("sub/b", ""), (".gitignore", "nothing\n")];
        let folder = app(&files);
        let (root, rules) = (folder.path(), Rules::default());
        let (_, seen) = take(root, &rules, &Seen::default());
        let rule = "as no rule says".to_owned();
        let out = Decision { included: false, rule, by: By::User, overruled: None };
        let seen = changed(seen, |_, known| {
            if known.name == "a" {
                known.decision = Some(Box::new(out.clone()));
            }
        });
        let files = |rules: &Rules, seen: &Seen| {
            let snapshot = take(root, rules, seen).0;
            let files = snapshot.files().filter(|path| !path.ends_with("ignore"));
            files.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(files(&rules, &seen), ["sub/b"]);
        // By other rules it is.
        let others = Rules::new(&[], &["x".to_owned()], IgnoredConfig::Counts).expect("rules");
        assert_eq!(files(&others, &seen), ["a", "sub/a", "sub/b"]);
        let without = rules.clone().without(&["x".to_owned()]).expect("rules");
        assert_eq!(files(&without, &seen), ["a", "sub/a", "sub/b"]);
        fs::write(root.join("sub/.gitignore"), "b\n").expect("write");
        assert_eq!(files(&rules, &seen), ["sub/a"]);
        fs::write(root.join(".forgeignore"), "sub/b\n").expect("write");
        fs::remove_file(root.join("sub/.gitignore")).expect("remove");
        assert_eq!(files(&rules, &seen), ["a", "sub/a"]);
        fs::remove_file(root.join(".forgeignore")).expect("remove");
        // A folder where a file was is not what was decided about.
        fs::remove_file(root.join("sub/a")).expect("remove");
        fs::create_dir(root.join("sub/a")).expect("mkdir");
        fs::write(root.join("sub/a/x"), "").expect("write");
        assert_eq!(files(&rules, &seen), ["sub/a/x", "sub/b"]);
        fs::write(root.join(".gitignore"), "sub/b\n").expect("write");
        assert_eq!(files(&rules, &seen), ["a", "sub/a/x"]);
    }

    #[test]
    fn what_has_just_changed_is_not_kept() {
        let stamp = |changed| Stamp {
            device: 1,
            inode: 2,
            size: 3,
            modified: (-4, 5),
            changed: (changed, 6),
        };
        let settled = [97, 98, 100, 200].map(|changed| stamp(changed).is_settled(100));
        assert_eq!(settled, [true, false, false, false]);
    }

    #[test]
    fn each_change_shows() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, "one").expect("write");
        let look = || Stamp::of(&rustix::fs::lstat(&path).expect("there"));
        let mut last = look();
        let mut differs = |what: &str| {
            assert_ne!(look(), last, "{what}");
            last = look();
        };
        fs::write(&path, "longer").expect("write");
        differs("another length");
        fs::write(folder.path().join("other"), "longer").expect("write");
        fs::rename(folder.path().join("other"), &path).expect("rename");
        differs("another file");
        let times = FileTimes::new().set_modified(UNIX_EPOCH);
        File::options().write(true).open(&path).expect("open").set_times(times).expect("set");
        differs("another time");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        differs("another mode");
    }
}
