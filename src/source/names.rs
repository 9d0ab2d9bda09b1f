//! The names in one folder: of very many entries, maybe.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, RawDir};

use super::seen::Kind;
use super::{SourceError, failed};
use crate::memory::Long;

/// Room for what the system lists of a folder at once, in bytes: some hundreds of names.
const LISTED: usize = 32 << 10;

/// The names in a folder, sorted, and of what kind each is; those of folders with `/` behind them,
/// so that they have the order of whole paths.
#[derive(Default)]
pub(super) struct Names {
    /// One behind another, in the order in which they were listed.
    text: Long<u8>,
    /// Where each begins and ends, and a number of its kind.
    entries: Long<[usize; 3]>,
}

const KINDS: [Kind; 4] = [Kind::File, Kind::Link, Kind::Folder, Kind::Other];

impl Names {
    /// `full` is for messages.
    pub(super) fn list(opened: &OwnedFd, full: &Path) -> Result<Names, SourceError> {
        let refused =
            |path: PathBuf| move |error: rustix::io::Errno| failed("read", &path)(error.into());
        let mut room = Vec::<u8>::with_capacity(LISTED);
        let mut listed = RawDir::new(opened, room.spare_capacity_mut());
        let mut names = Names::default();
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
            let text = name.to_str().map_err(|_| SourceError::Name { path: there() })?;
            names.push(text, Kind::of(kind));
        }
        let Names { text, entries } = &mut names;
        let name = |[from, to, _]: &[usize; 3]| text.slice(*from, *to);
        entries.sort_by(|one, other| name(one).cmp(name(other)));
        text.let_go();
        Ok(names)
    }

    fn push(&mut self, name: &str, kind: Kind) {
        let from = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        if kind == Kind::Folder {
            self.text.push(b'/');
        }
        let number = KINDS.iter().position(|other| *other == kind).unwrap_or(KINDS.len() - 1);
        self.entries.push([from, self.text.len(), number]);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The name with a number below [`Names::len`].
    pub(super) fn name(&self, number: usize) -> &str {
        // They were text.
        std::str::from_utf8(self.bytes(number)).unwrap_or_default()
    }

    fn bytes(&self, number: usize) -> &[u8] {
        let [from, to, _] = *self.entries.at(number);
        self.text.slice(from, to)
    }

    pub(super) fn kind(&self, number: usize) -> Kind {
        KINDS[self.entries.at(number)[2]]
    }

    /// The number of a file or link.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.bytes(middle) < name.as_bytes() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let is_it = low < self.len() && self.bytes(low) == name.as_bytes();
        (is_it && matches!(self.kind(low), Kind::File | Kind::Link)).then_some(low)
    }
}
