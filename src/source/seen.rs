//! What the app's folder was when it was last looked at, so that what has not changed since
//! need not be decided or read again.
//!
//! A file counts as untouched when device, inode, size, modification time and change time
//! are what they were; the last no program can set back. One that was changed about when it
//! was read is read again: it may change again within the clock's grain and look the same
//! (git's "racily clean" entries, Documentation/technical/racy-git.txt).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

use super::rules::Decision;
use crate::digest::Digest;
use crate::memory::{Bytes, Long};

/// How old a change must be for the next one to be told from it, in seconds: the coarsest
/// clock of a file system in use (FAT's) ticks every two.
const GRAIN: i64 = 2;

/// Bumped with the shape of what is kept.
const VERSION: u8 = 3;

/// The folders of an app by path, with what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    folders: BTreeMap<String, Folder>,
}

/// A folder that was looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    /// A name of the rules that decided.
    pub(super) rules: Digest,
    /// What is in it, as bytes: read where the folder is looked into, on all processors, and once
    /// more where folders are put in order.
    entries: Shared,
}

/// A part of bytes that many share.
#[derive(Clone, Debug)]
struct Shared {
    whole: Arc<Whole>,
    range: Range<usize>,
}

#[derive(Debug)]
enum Whole {
    /// As they were kept.
    Kept(Bytes),
    /// As they were noted now.
    Noted(Long<u8>),
}

impl Shared {
    fn bytes(&self) -> &[u8] {
        match &*self.whole {
            Whole::Kept(bytes) => bytes.part(self.range.clone()),
            Whole::Noted(bytes) => bytes.slice(self.range.start, self.range.end),
        }
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Shared) -> bool {
        (Arc::ptr_eq(&self.whole, &other.whole) && self.range == other.range)
            || self.bytes() == other.bytes()
    }
}

impl Eq for Shared {}

impl Folder {
    /// What is in it, sorted by name, as far as it can be read: what cannot is not known.
    pub(super) fn entries(&self) -> Entries<'_> {
        Entries { rest: self.entries.bytes() }
    }
}

/// Folders of which is noted what is in them, from several processors.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Long<u8>>);

/// What is noted of a folder.
#[derive(Debug)]
pub(super) enum Noted {
    /// As it was before: of that there need not be two.
    Before(Folder),
    /// By these rules, and where.
    Now(Digest, Range<usize>),
}

impl Notes {
    /// Notes what is in a folder, sorted by name.
    pub(super) fn note<'n>(
        &self,
        before: Option<&Folder>,
        rules: Digest,
        entries: impl Iterator<Item = Known<'n>>,
    ) -> Noted {
        let mut bytes = Vec::new();
        for known in entries {
            // Only a type that cannot be written at all fails.
            bytes = postcard::to_extend(&known, bytes).unwrap_or_default();
        }
        let is_same = |before: &&Folder| before.rules == rules && before.entries.bytes() == bytes;
        if let Some(before) = before.filter(is_same) {
            return Noted::Before(before.clone());
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = all.len();
        all.extend_from_slice(&bytes);
        Noted::Now(rules, start..all.len())
    }

    /// The folders, when all is noted.
    pub(super) fn folders(self, noted: impl IntoIterator<Item = Noted>) -> Vec<Folder> {
        let mut all = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        all.shrink();
        let whole = Arc::new(Whole::Noted(all));
        let folder = |noted| match noted {
            Noted::Before(folder) => folder,
            Noted::Now(rules, range) => {
                Folder { rules, entries: Shared { whole: Arc::clone(&whole), range } }
            }
        };
        noted.into_iter().map(folder).collect()
    }
}

/// What is in a folder, one after another.
pub(super) struct Entries<'f> {
    rest: &'f [u8],
}

impl<'f> Iterator for Entries<'f> {
    type Item = Known<'f>;

    fn next(&mut self) -> Option<Known<'f>> {
        let (known, rest) = postcard::take_from_bytes(self.rest).ok()?;
        self.rest = rest;
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

impl Seen {
    pub(super) fn new(folders: Vec<(String, Folder)>) -> Seen {
        Seen { folders: folders.into_iter().collect() }
    }

    pub(super) fn folder(&self, path: &str) -> Option<&Folder> {
        self.folders.get(path)
    }

    /// Writes bytes that [`Seen::parse`] reads.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&bytes(&(VERSION, self.folders.len())))?;
        for (path, Folder { rules, entries }) in &self.folders {
            let entries = entries.bytes();
            to.write_all(&bytes(&(path, rules, entries.len())))?;
            to.write_all(entries)?;
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
        let mut found = Vec::new();
        for _ in 0..count {
            let some = bytes.some_from(at);
            let ((path, rules, length), more) =
                postcard::take_from_bytes::<(String, Digest, usize)>(some).ok()?;
            let start = at + some.len() - more.len();
            at = start.checked_add(length).filter(|end| *end <= bytes.len())?;
            found.push((path, rules, start..at));
        }
        if at < bytes.len() {
            return None;
        }
        let whole = Arc::new(Whole::Kept(bytes));
        let folder = |(path, rules, range)| {
            (path, Folder { rules, entries: Shared { whole: Arc::clone(&whole), range } })
        };
        Some(Seen { folders: found.into_iter().map(folder).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

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

    fn changed(mut seen: Seen, change: impl Fn(&str, &mut Known<'_>)) -> Seen {
        for (below, folder) in &mut seen.folders {
            let mut entries: Vec<_> = folder.entries().collect();
            entries.iter_mut().for_each(|known| change(below, known));
            let notes = Notes::default();
            let noted = notes.note(None, folder.rules, entries.into_iter());
            *folder = notes.folders([noted]).remove(0);
        }
        seen
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
        assert!(seen.folders[""].entries().all(|known| known.content().is_none()));
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
    fn memory_follows_what_is_there() {
        let folder = app(&[("a", "one"), ("sub/b", "two")]);
        let root = folder.path();
        symlink("a", root.join("link")).expect("linked");
        let rules = Rules::default();
        let rules = rules.of_app(root).expect("rules");
        // Long after, so that all of it can be kept.
        let after =
            |seen: &Seen| Seen::new(walk(root, &rules, seen, i64::MAX).expect("walked").folders);
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
