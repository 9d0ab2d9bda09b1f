//! The lists in the volume: which names are the launcher's, and what each was when it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Trouble, trouble};
use crate::digest::Digest;

/// What a name in the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Folder,
    File,
    Link,
}

/// A name that is the launcher's, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

pub(super) type Marks = BTreeMap<PathBuf, BTreeSet<Mark>>;

/// The first line of a list. A list of another form is refused.
pub(super) const FORM: &str = "forge published 1";

pub(super) fn file_mark(path: &Path) -> io::Result<Mark> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok(Mark { kind: Kind::File, size, digest: Digest::of(file)? })
}

pub(super) fn line(name: &Path, mark: &Mark) -> String {
    let kind = match mark.kind {
        Kind::Folder => 'd',
        Kind::File => 'f',
        Kind::Link => 'l',
    };
    let mut line = format!("{kind} {} {} ", mark.size, mark.digest);
    for &byte in name.as_os_str().as_bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => line.push(char::from(byte)),
            // A String takes all that is written to it.
            byte => drop(write!(line, "%{byte:02x}")),
        }
    }
    line.push('\n');
    line
}

fn parse(line: &str) -> Option<(PathBuf, Mark)> {
    let mut words = line.splitn(4, ' ');
    let kind = match words.next()? {
        "d" => Kind::Folder,
        "f" => Kind::File,
        "l" => Kind::Link,
        _ => return None,
    };
    let size = words.next()?.parse().ok()?;
    let digest = Digest::parse(words.next()?)?;
    let (mut name, mut rest) = (Vec::new(), words.next()?.as_bytes());
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'%' {
            let code = std::str::from_utf8(after.get(..2)?).ok()?;
            name.push(u8::from_str_radix(code, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            name.push(*byte);
        }
    }
    let name = Path::new(OsStr::from_bytes(&name)).to_owned();
    Some((name, Mark { kind, size, digest }))
}

pub(super) fn read_list(path: &Path) -> Result<Marks, Trouble> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Marks::new()),
        Err(err) => return Err(trouble("read", path)(err)),
    };
    let refused = || {
        let reason = "it is no list of this version of forge";
        trouble("read", path)(io::Error::new(ErrorKind::InvalidData, reason))
    };
    let mut lines = text.lines();
    if lines.next() != Some(FORM) {
        return Err(refused());
    }
    let mut marks = Marks::new();
    for line in lines {
        let (name, mark) = parse(line).ok_or_else(refused)?;
        marks.entry(name).or_default().insert(mark);
    }
    Ok(marks)
}

/// What runs that did not end were about to write. Lines that are not whole mean nothing:
/// nothing is written before its line is on the disk.
pub(super) fn read_journal(file: &mut File, path: &Path) -> Result<Marks, Trouble> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(trouble("read", path))?;
    let text = OsString::from_vec(bytes).to_string_lossy().into_owned();
    let mut marks = Marks::new();
    for (name, mark) in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| parse(line.trim_end_matches('\n')))
    {
        marks.entry(name).or_default().insert(mark);
    }
    Ok(marks)
}
