//! Writes a `data.tar` below a root; the rules are in the header of `deb`.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, linkat, mkdirat,
    openat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::DebError;
use crate::debian::inside::{open_folder, open_root};

/// The most entries that one package may have; Debian's largest has 100 000.
const MAX_ENTRIES: usize = 1_000_000;
/// The longest name in an extension entry: what the kernel takes as a path.
const MAX_NAME_BYTES: u64 = 4096;
/// Folders kept open at once, far below the usual limit of 1024 files.
const MAX_OPEN_FOLDERS: usize = 128;
/// What dpkg appends to the name of a conffile until the package is configured.
const NEW_CONFFILE: &str = ".dpkg-new";

/// Unpacks `stream` below `root`; `conffiles` are absolute paths.
pub(super) fn extract(
    stream: impl Read,
    deb: &str,
    root: &Path,
    conffiles: &[String],
) -> Result<Vec<String>, DebError> {
    let fail = |entry: &str, problem: Problem| match problem {
        Problem::Refused(problem) => {
            DebError::Refused { deb: deb.to_owned(), entry: entry.to_owned(), problem }
        }
        Problem::Io(source) => {
            DebError::Unpack { deb: deb.to_owned(), entry: entry.to_owned(), source }
        }
    };
    let read = |source| DebError::Read { deb: deb.to_owned(), source };
    let root = open_root(root).map_err(|err| fail("/", err.into()))?;
    let mut target =
        Target { root: Rc::new(root), open: HashMap::new(), files: HashSet::new(), conffiles };
    let mut list = Vec::new();
    let mut long = LongNames::default();
    let mut archive = tar::Archive::new(stream);
    // Raw: the extension entries come to us, so that their size is checked before they are read.
    for (number, entry) in archive.entries().map_err(read)?.raw(true).enumerate() {
        let mut entry = entry.map_err(read)?;
        if number >= MAX_ENTRIES {
            return Err(fail("", Problem::Refused("is one entry too many")));
        }
        let mut name = entry.path_bytes().into_owned();
        let shown = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        if long.take_extension(&mut entry).map_err(|err| fail(&shown(&name), err))? {
            continue;
        }
        let mut link = entry.link_name_bytes().map(|link| link.into_owned());
        let LongNames { path: long_path, link: long_link } = std::mem::take(&mut long);
        name = long_path.unwrap_or(name);
        link = long_link.or(link);
        let path = absolute(&name).map_err(|err| fail(&shown(&name), err))?;
        target.write(&mut entry, &path, link).map_err(|err| fail(&path, err))?;
        list.push(path);
    }
    Ok(list)
}

enum Problem {
    Refused(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(err: io::Error) -> Problem {
        Problem::Io(err)
    }
}

impl From<Errno> for Problem {
    fn from(err: Errno) -> Problem {
        Problem::Io(err.into())
    }
}

/// Names too long for a header, given by GNU or PAX entries in front of it.
#[derive(Default)]
struct LongNames {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl LongNames {
    /// Reads `entry` if it is about the next one.
    fn take_extension(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, Problem> {
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader) {
            return Ok(false);
        }
        if entry.header().entry_size()? > 2 * MAX_NAME_BYTES {
            return Err(Problem::Refused("has a name or a header that is too long"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        let name = |bytes: &[u8]| bytes.split(|&byte| byte == 0).next().unwrap_or(bytes).to_vec();
        match kind {
            EntryType::GNULongName => self.path = Some(name(&bytes)),
            EntryType::GNULongLink => self.link = Some(name(&bytes)),
            _ => {
                for record in tar::PaxExtensions::new(&bytes) {
                    let record = record?;
                    match record.key_bytes() {
                        b"path" => self.path = Some(record.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                        // Two sizes for one file is how archives are smuggled into archives.
                        b"size" => return Err(Problem::Refused("has a second size")),
                        key if key.starts_with(b"GNU.sparse") => {
                            return Err(Problem::Refused("is a sparse file"));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(true)
    }
}

/// `./usr/bin/x` as `/usr/bin/x`, the root as `/.`.
fn absolute(name: &[u8]) -> Result<String, Problem> {
    let text = std::str::from_utf8(name).map_err(|_| Problem::Refused("is not UTF-8"))?;
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(Problem::Refused("has a control character in its name"));
    }
    if text.starts_with('/') {
        return Err(Problem::Refused("is an absolute name"));
    }
    let mut path = String::with_capacity(text.len());
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(Problem::Refused("leads outside of the root")),
            part => {
                path.push('/');
                path.push_str(part);
            }
        }
    }
    match path.as_str() {
        "" if text.is_empty() => Err(Problem::Refused("is an empty name")),
        "" => Ok("/.".to_owned()),
        _ => Ok(path),
    }
}

struct Target<'a> {
    root: Rc<OwnedFd>,
    /// Parents by path, for as long as no link on the way to them changes.
    open: HashMap<String, Rc<OwnedFd>>,
    /// Regular files of this archive, which hard links may name.
    files: HashSet<String>,
    conffiles: &'a [String],
}

impl Target<'_> {
    fn write(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &str,
        link: Option<Vec<u8>>,
    ) -> Result<(), Problem> {
        let header = entry.header();
        let mode = header.mode()?;
        // A time before 1970 does not parse; both are clamped.
        let seconds = header.mtime().map_or(0, |time| i64::try_from(time).unwrap_or(0));
        let kind = header.entry_type();
        if path == "/." {
            return if kind == EntryType::Directory {
                Ok(())
            } else {
                Err(Problem::Refused("is not a folder"))
            };
        }
        match kind {
            EntryType::Directory => self.directory(path, mode),
            EntryType::Regular => self.file(entry, path, mode, seconds),
            EntryType::Symlink => {
                let to = link.ok_or(Problem::Refused("is a link to nothing"))?;
                self.symlink(path, to, seconds)
            }
            EntryType::Link => {
                let to = link.ok_or(Problem::Refused("is a link to nothing"))?;
                self.hard_link(path, &to)
            }
            EntryType::Char | EntryType::Block => Err(Problem::Refused("is a device")),
            EntryType::Fifo => Err(Problem::Refused("is a FIFO")),
            _ => Err(Problem::Refused("is of a kind that no package may contain")),
        }
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<(), Problem> {
        let (parent, name) = self.parent(path)?;
        // The owner must be able to write below it, whatever the archive says.
        let mode = Mode::from_raw_mode(mode & 0o1777 | 0o700);
        match mkdirat(&*parent, &*name, mode) {
            Ok(()) => {
                // A chmod, because mkdir is subject to the umask; nobody else writes here.
                let made = openat(
                    &*parent,
                    &*name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                Ok(fchmod(&made, mode)?)
            }
            Err(Errno::EXIST) => match open_folder(&self.root, path) {
                Ok(_) => Ok(()),
                Err(_) => Err(Problem::Refused("is a folder where there is a file")),
            },
            Err(err) => Err(err.into()),
        }
    }

    fn file(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &str,
        mode: u32,
        seconds: i64,
    ) -> Result<(), Problem> {
        let written = self.written_as(path);
        let (parent, name) = self.parent(&written)?;
        let create = || {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&*parent, &*name, flags, Mode::from_raw_mode(0o600))
        };
        let file = match create() {
            Err(Errno::EXIST) => {
                self.remove(&parent, &name)?;
                create()?
            }
            other => other?,
        };
        let mut file = File::from(file);
        let copied = io::copy(entry, &mut file)?;
        if copied != entry.header().entry_size()? {
            return Err(Problem::Refused("is cut off"));
        }
        fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        futimens(&file, &times(seconds))?;
        self.files.insert(path.to_owned());
        Ok(())
    }

    fn symlink(&mut self, path: &str, to: Vec<u8>, seconds: i64) -> Result<(), Problem> {
        let to = CString::new(to).map_err(|_| Problem::Refused("is a link with a NUL in it"))?;
        let (parent, name) = self.parent(path)?;
        if readlinkat(&*parent, &*name, Vec::new()).is_ok_and(|found| found == to) {
            return Ok(());
        }
        match symlinkat(&*to, &*parent, &*name) {
            Err(Errno::EXIST) => {
                if kind_of(&parent, &name)? == FileType::Directory {
                    return Ok(());
                }
                self.remove(&parent, &name)?;
                symlinkat(&*to, &*parent, &*name)?;
            }
            other => other?,
        }
        self.files.remove(path);
        Ok(utimensat(&*parent, &*name, &times(seconds), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn hard_link(&mut self, path: &str, to: &[u8]) -> Result<(), Problem> {
        let to = absolute(to)?;
        if !self.files.contains(&to) {
            return Err(Problem::Refused(
                "is a hard link to something that is no file of this package",
            ));
        }
        let (to_parent, to_name) = self.parent(&self.written_as(&to))?;
        let (parent, name) = self.parent(&self.written_as(path))?;
        if kind_of(&to_parent, &to_name)? != FileType::RegularFile {
            return Err(Problem::Refused("is a hard link to something that is no file"));
        }
        match linkat(&*to_parent, &*to_name, &*parent, &*name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                self.remove(&parent, &name)?;
                linkat(&*to_parent, &*to_name, &*parent, &*name, AtFlags::empty())?;
            }
            other => other?,
        }
        self.files.insert(path.to_owned());
        Ok(())
    }

    fn written_as(&self, path: &str) -> String {
        let new = self.conffiles.iter().any(|conffile| conffile == path);
        if new { format!("{path}{NEW_CONFFILE}") } else { path.to_owned() }
    }

    /// Removes what a file or a link comes in place of.
    fn remove(&mut self, parent: &OwnedFd, name: &CStr) -> Result<(), Problem> {
        match unlinkat(parent, name, AtFlags::empty()) {
            // The way to an open folder may have led through it.
            Ok(()) => self.open.clear(),
            Err(Errno::ISDIR) => return Err(Problem::Refused("is a file where there is a folder")),
            Err(err) => return Err(err.into()),
        }
        Ok(())
    }

    /// The folder that `path` lies in, and its last component.
    fn parent(&mut self, path: &str) -> Result<(Rc<OwnedFd>, CString), Problem> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = CString::new(name).map_err(|_| Problem::Refused("has a NUL in its name"))?;
        if parent.is_empty() {
            return Ok((Rc::clone(&self.root), name));
        }
        if let Some(open) = self.open.get(parent) {
            return Ok((Rc::clone(open), name));
        }
        let folder = Rc::new(open_folder(&self.root, parent).map_err(|err| match err {
            Errno::NOTDIR => Problem::Refused("lies in something that is not a folder"),
            err => err.into(),
        })?);
        if self.open.len() >= MAX_OPEN_FOLDERS {
            self.open.clear();
        }
        self.open.insert(parent.to_owned(), Rc::clone(&folder));
        Ok((folder, name))
    }
}

fn kind_of(parent: &OwnedFd, name: &CStr) -> Result<FileType, Errno> {
    let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode))
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
