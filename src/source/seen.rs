//! What the app's files were when they were last read, so that those which have not been
//! touched since need not be read again.
//!
//! A file counts as untouched when device, inode, size, modification time and change time
//! are what they were; the last no program can set back. One that was changed about when it
//! was read is not kept: it may change again within the clock's grain and look the same
//! (git's "racily clean" entries, Documentation/technical/racy-git.txt).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::Digest;

/// How old a change must be for the next one to be told from it, in seconds: the coarsest
/// clock of a file system in use (FAT's) ticks every two.
const GRAIN: i64 = 2;

/// Digests of files by path, with what the files looked like then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    files: Vec<(String, Stamp, Digest)>,
}

/// What tells whether a file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Now, in seconds since 1970.
pub(super) fn now() -> i64 {
    // A clock before 1970 makes every file one that was changed just now.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(i64::MIN)
}

impl Seen {
    /// Those of `files` that were last changed long enough before `began`, and whose names
    /// are no two lines.
    pub(super) fn new(files: BTreeMap<String, (Stamp, Digest)>, began: i64) -> Seen {
        let settled = |stamp: &Stamp| stamp.changed.0 < began.saturating_sub(GRAIN);
        let files = files
            .into_iter()
            .filter(|(path, (stamp, _))| settled(stamp) && !path.contains(['\n', '\r']));
        Seen { files: files.map(|(path, (stamp, digest))| (path, stamp, digest)).collect() }
    }

    /// The content of a file that looks so.
    pub(super) fn digest(&self, path: &str, stamp: &Stamp) -> Option<Digest> {
        let at = self.files.binary_search_by(|(known, ..)| known.as_str().cmp(path)).ok()?;
        let (_, known, digest) = &self.files[at];
        (known == stamp).then_some(*digest)
    }

    /// As text, a file a line; [`Seen::parse`] reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (path, stamp, digest) in &self.files {
            let Stamp { device, inode, size, modified, changed } = stamp;
            // Writing to a String cannot fail.
            let _written = writeln!(
                text,
                "{} {device} {inode} {size} {} {} {} {} {path}",
                digest.hex(),
                modified.0,
                modified.1,
                changed.0,
                changed.1,
            );
        }
        text
    }

    /// `None` for what is not such a text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Seen> {
        let mut files: Vec<(String, Stamp, Digest)> = Vec::new();
        for line in text.lines() {
            let mut words = line.splitn(9, ' ');
            let digest = format!("sha256:{}", words.next()?).parse().ok()?;
            let mut number = || words.next()?.parse::<u64>().ok();
            let (device, inode, size) = (number()?, number()?, number()?);
            let mut time = || words.next()?.parse::<i64>().ok();
            let (modified, changed) = ((time()?, time()?), (time()?, time()?));
            let path = words.next()?.to_owned();
            // Sorted, or nothing would be found.
            if files.last().is_some_and(|(last, ..)| *last >= path) {
                return None;
            }
            files.push((path, Stamp { device, inode, size, modified, changed }, digest));
        }
        Some(Seen { files })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn stamp(changed: i64) -> Stamp {
        Stamp { device: 1, inode: 2, size: 3, modified: (-4, 5), changed: (changed, 6) }
    }

    fn seen(paths: &[(&str, i64)], began: i64) -> Seen {
        let file = |(path, changed): &(&str, i64)| {
            ((*path).to_owned(), (stamp(*changed), Digest::of(path.as_bytes())))
        };
        Seen::new(paths.iter().map(file).collect(), began)
    }

    #[test]
    fn there_and_back() {
        let all = seen(&[("b", 10), ("a b/c d", 10), ("ä", 10)], 100);
        assert_eq!(Seen::parse(&all.text()), Some(all.clone()));
        assert_eq!(all.digest("a b/c d", &stamp(10)), Some(Digest::of(b"a b/c d")));
        assert_eq!(all.digest("a b", &stamp(10)), None);
        assert_eq!(all.digest("b", &stamp(11)), None);
        assert_eq!(Seen::parse(""), Some(Seen::default()));
        let text = all.text();
        let backwards: String = text.lines().rev().map(|line| format!("{line}\n")).collect();
        for damaged in [&text[1..], &text[..text.len() - 4].replace("100", ""), &backwards, "x"] {
            assert_eq!(Seen::parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn what_has_just_changed_is_not_kept() {
        let kept = seen(&[("old", 97), ("new", 98), ("newer", 100), ("future", 200)], 100);
        assert_eq!(kept, seen(&[("old", 97)], 100));
        assert_eq!(seen(&[("two\nlines", 10)], 100), Seen::default());
    }

    #[test]
    fn each_change_shows() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, "one").expect("write");
        let look = || Stamp::of(&fs::symlink_metadata(&path).expect("there"));
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
        let times = fs::FileTimes::new().set_modified(UNIX_EPOCH);
        fs::File::options().write(true).open(&path).expect("open").set_times(times).expect("set");
        differs("another time");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        differs("another mode");
    }
}
