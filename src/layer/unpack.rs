//! Layers become a folder again: the file system of an image that others made, bottom to top.
//!
//! ```text
//! blob ─► gzip, zstd or nothing, seen in its first bytes ─┬─► SHA-256, which must be the diffID
//!                                                         └─► entries ─► files below the root
//! ```
//!
//! Whoever runs forge owns all that is written, root or not. So of each entry are kept: its kind,
//! its path byte for byte, permission bits, content, link target. Owners, times, and extended
//! attributes go; set-id bits, capabilities, devices and pipes go and are told, for programs may
//! miss them. Folders can always be written by their owner, as later layers write into them.
//!
//! An image is not trusted to stay inside the root, even when its digest is right:
//! - Parents are opened with `openat2(RESOLVE_IN_ROOT)`: links of lower layers are followed as
//!   they would be in the image (`/lib -> usr/lib`), and none leads outside.
//! - The last part of a path is never followed; a file is made anew, never written into.
//! - An absolute name is one from the root. `..`, whiteouts of nothing, sparse files, entries
//!   with two sizes or two names, and anything over the limits: an error that names the entry.
//! - What comes later replaces what was there, whatever it was; a folder joins a folder. Only a
//!   file in the way of an entry's parents is an error.
//!
//! Whiteouts (image specification, `layer.md`) take away what lower layers have, wherever in
//! their own layer they stand. The bookkeeping of AUFS (`.wh..wh.plnk`) is passed over. Layers of
//! forge's own may also become the tree that they were packed from: [`unpack_tree`]. Layers are
//! decompressed side by side and written one after another: see `ahead`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::thread;

use ::tar::EntryType;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, linkat, mkdirat, mknodat,
    open, openat, openat2, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use thiserror::Error;

use super::ahead;
use crate::digest::{Digest, Hasher};
use crate::tree::OPAQUE_ATTRIBUTE;

/// A layer of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest that its tar must have.
    pub diff_id: Digest,
}

/// What was unpacked, and what could not be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of all layers.
    pub entries: u64,
    /// Bytes of all tars.
    pub bytes: u64,
    /// Entries that did not belong to root.
    pub owned: u64,
    /// Paths from the root → what they have lost.
    pub lost: BTreeMap<Vec<u8>, Lost>,
}

/// What a file of an image can lose on the way into a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its set-user-id or set-group-id bit.
    SetId,
    /// Its capabilities.
    Capabilities,
    /// Itself: it was a device, which only root can make.
    Device,
    /// Itself: it was a named pipe, which no tree holds.
    Pipe,
}

/// Why layers cannot be unpacked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The blob, or what it is compressed from, cannot be read.
    #[error("could not read layer {layer}")]
    Read {
        /// The blob.
        layer: Digest,
        /// What the system or the decoder said.
        source: io::Error,
    },
    /// An entry that no layer may have.
    #[error("layer {layer} contains `{entry}`, which {problem}")]
    Refused {
        /// The blob.
        layer: Digest,
        /// The entry's name.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The disk refused an entry, or its content broke off.
    #[error("could not unpack `{entry}` of layer {layer}")]
    Entry {
        /// The blob.
        layer: Digest,
        /// The entry's name.
        entry: String,
        /// What the system said.
        source: io::Error,
    },
    /// The tar is not the one that the image's configuration means.
    #[error("layer {layer} unpacks to {found}, and the configuration says {expected}")]
    DiffId {
        /// The blob.
        layer: Digest,
        /// The diffID in the configuration.
        expected: Digest,
        /// That of the tar.
        found: Digest,
    },
    /// The folder cannot be used.
    #[error("could not unpack into the folder")]
    Root(#[source] io::Error),
}

impl UnpackError {
    /// The layer concerned; `None` when it is the folder.
    #[must_use]
    pub fn layer(&self) -> Option<&Digest> {
        match self {
            UnpackError::Read { layer, .. }
            | UnpackError::Refused { layer, .. }
            | UnpackError::Entry { layer, .. }
            | UnpackError::DiffId { layer, .. } => Some(layer),
            UnpackError::Root(_) => None,
        }
    }
}

/// What all layers of an image may have together; more is a bomb, or nothing for a base.
#[derive(Clone, Copy)]
struct Limits {
    /// Bytes of tar. The largest images in use, those with CUDA, have 20 GB.
    bytes: u64,
    /// Entries. They have some 300 000.
    entries: u64,
}

const LIMITS: Limits = Limits { bytes: 32 << 30, entries: 2_000_000 };
/// Folders in each other. What reads the folder afterwards recurses; `node_modules` reaches 60.
const MAX_DEPTH: usize = 256;
/// The largest extension entry (PAX, GNU long names), as in Go, which wrote most layers.
const MAX_EXTENSION: u64 = 1 << 20;
/// The memory that zstd may take, as the binary logarithm of the window: 128 MB.
const MAX_ZSTD_WINDOW: u32 = 27;
/// Folders kept open at once, far below the usual limit of 1024 files.
const MAX_OPEN_FOLDERS: usize = 128;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

/// Unpacks `layers`, bottom to top, into the empty folder `root`. `open` gives a layer's blob;
/// `progress` is told the number of its bytes with each read.
///
/// # Errors
/// See [`UnpackError`]; what was written before stays.
pub fn unpack<R: Read>(
    layers: &[Packed],
    root: &Path,
    open: impl Fn(&Digest) -> io::Result<R> + Sync,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Unpacked, UnpackError> {
    unpack_all(LIMITS, layers, root, open, progress, Whiteouts::Obeyed)
}

/// What whiteouts do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whiteouts {
    /// They take away what is below.
    Obeyed,
    /// They are written down.
    Kept,
}

fn unpack_all<R: Read>(
    limits: Limits,
    layers: &[Packed],
    root: &Path,
    open: impl Fn(&Digest) -> io::Result<R> + Sync,
    progress: &(dyn Fn(u64) + Sync),
    whiteouts: Whiteouts,
) -> Result<Unpacked, UnpackError> {
    let mut target = Target::new(root).map_err(|error| UnpackError::Root(error.into()))?;
    target.keeps_whiteouts = whiteouts == Whiteouts::Kept;
    let open = &open;
    thread::scope(|scope| {
        let begin = |layer: &Packed| {
            let digest = layer.digest;
            let (to, tar) = ahead::pipe();
            scope.spawn(move || {
                let blob = open(&digest).map(|inner| Counted { inner, progress });
                let blob = blob.map(|blob| BufReader::with_capacity(1 << 16, blob));
                ahead::hand_over(blob.and_then(decoded), &to);
            });
            tar
        };
        let mut coming: VecDeque<_> = layers.iter().take(ahead::LAYERS).map(begin).collect();
        for (number, Packed { digest, diff_id }) in layers.iter().enumerate() {
            // As many have begun as layers are left, at most: there is one.
            let Some(tar) = coming.pop_front() else { break };
            let left = limits.bytes - target.unpacked.bytes;
            let tar = Tar { inner: tar, hasher: Hasher::new(io::sink()), left };
            let (found, bytes) = target.layer(tar, digest, limits.entries)?;
            if found != *diff_id {
                return Err(UnpackError::DiffId { layer: *digest, expected: *diff_id, found });
            }
            target.unpacked.bytes += bytes;
            coming.extend(layers.get(number + ahead::LAYERS).map(begin));
        }
        Ok(target.unpacked)
    })
}

/// Unpacks the layers of one tree's parts into the empty folder `root` such that scanning it gives
/// the tree that they were packed from: whiteouts stay, in the form that overlayfs has for them.
///
/// # Errors
/// See [`UnpackError`]; what was written before stays. Some file systems hold no whiteouts.
pub fn unpack_tree<R: Read>(
    layers: &[Packed],
    root: &Path,
    open: impl Fn(&Digest) -> io::Result<R> + Sync,
) -> Result<(), UnpackError> {
    unpack_all(LIMITS, layers, root, open, &|_| {}, Whiteouts::Kept).map(drop)
}

/// What `blob` is compressed from. The media type is not asked: tools disagree with their own,
/// and the diffID says whether it was right.
fn decoded<'r>(mut blob: BufReader<impl Read + 'r>) -> io::Result<Box<dyn Read + 'r>> {
    let mut start = Vec::new();
    blob.by_ref().take(6).read_to_end(&mut start)?;
    let magic = start.clone();
    let blob = BufReader::with_capacity(1 << 16, io::Cursor::new(start).chain(blob));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        // A frame, or a frame to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(blob)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] | [b'B', b'Z', b'h', ..] => {
            let problem = "it is neither a tar nor compressed with gzip or zstd";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        _ => Box::new(blob),
    })
}

struct Counted<'p, R> {
    inner: R,
    progress: &'p (dyn Fn(u64) + Sync),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        (self.progress)(length as u64);
        Ok(length)
    }
}

/// A tar that is hashed as it passes and may not be longer than `left`.
struct Tar<R> {
    inner: R,
    hasher: Hasher<io::Sink>,
    left: u64,
}

impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        match self.left.checked_sub(length as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other("it unpacks to more bytes than are allowed")),
        }
        self.hasher.write_all(&buffer[..length])?;
        Ok(length)
    }
}

enum Problem {
    Refused(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Problem {
        Problem::Io(error.into())
    }
}

/// What extension entries say about the next one.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    capabilities: bool,
}

impl Extension {
    /// Reads `entry` if it is about the next one, or about all.
    fn take(&mut self, entry: &mut ::tar::Entry<'_, impl Read>) -> Result<bool, Problem> {
        let kind = entry.header().entry_type();
        let known = [
            EntryType::GNULongName,
            EntryType::GNULongLink,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ];
        if !known.contains(&kind) {
            return Ok(false);
        }
        let size = entry.header().entry_size()?;
        if size > MAX_EXTENSION {
            return Err(Problem::Refused("has a name or a header that is too long"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(Problem::Refused("is cut off"));
        }
        let name = |bytes: &[u8]| bytes.split(|&byte| byte == 0).next().unwrap_or(bytes).to_vec();
        match kind {
            EntryType::GNULongName => set(&mut self.path, name(&bytes))?,
            EntryType::GNULongLink => set(&mut self.link, name(&bytes))?,
            _ => self.records(&bytes, kind == EntryType::XGlobalHeader)?,
        }
        Ok(true)
    }

    fn records(&mut self, bytes: &[u8], global: bool) -> Result<(), Problem> {
        for record in ::tar::PaxExtensions::new(bytes) {
            let record = record?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" | b"linkpath" | b"size" if global => {
                    return Err(Problem::Refused("gives one name or size to all that follow"));
                }
                b"path" => set(&mut self.path, value.to_vec())?,
                b"linkpath" => set(&mut self.link, value.to_vec())?,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    set(&mut self.size, size.ok_or(Problem::Refused("has a size that is none"))?)?;
                }
                b"SCHILY.xattr.security.capability" => self.capabilities = true,
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(Problem::Refused("is a sparse file"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Two values are how one reader is made to see another archive than the next.
fn set<T: PartialEq>(slot: &mut Option<T>, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        old if old.is_none() || old == *slot => Ok(()),
        _ => Err(Problem::Refused("has two names or two sizes")),
    }
}

/// A name in an archive as a path from the root without slash in front; empty for the root.
fn from_root(name: &[u8]) -> Result<Vec<u8>, Problem> {
    if name.is_empty() {
        return Err(Problem::Refused("is an empty name"));
    }
    if name.contains(&0) {
        return Err(Problem::Refused("has a NUL in its name"));
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Problem::Refused("leads outside of the root")),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    depth_is_good(&path)?;
    Ok(path)
}

fn depth_is_good(path: &[u8]) -> Result<(), Problem> {
    match path.iter().filter(|&&byte| byte == b'/').count() < MAX_DEPTH {
        true => Ok(()),
        false => Err(Problem::Refused("lies in too many folders")),
    }
}

/// The folder of a path, empty for the root, and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// A folder of the tree, and its path without links.
type Folder = (Rc<OwnedFd>, Rc<[u8]>);

struct Target {
    root: Rc<OwnedFd>,
    /// Folders by the path that led to them, for as long as no link on the way changes.
    open: HashMap<Vec<u8>, Folder>,
    /// Paths, without links, that the layer at hand has written; its whiteouts spare them.
    own: HashSet<Vec<u8>>,
    /// Whether whiteouts are written down instead of obeyed.
    keeps_whiteouts: bool,
    unpacked: Unpacked,
}

impl Target {
    fn new(root: &Path) -> Result<Target, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Target {
            root: Rc::new(open(root, flags, Mode::empty())?),
            open: HashMap::new(),
            own: HashSet::new(),
            keeps_whiteouts: false,
            unpacked: Unpacked::default(),
        })
    }

    /// Unpacks one layer; gives the digest of its tar and its length.
    fn layer(
        &mut self,
        tar: Tar<impl Read>,
        layer: &Digest,
        max_entries: u64,
    ) -> Result<(Digest, u64), UnpackError> {
        let fail = |entry: &[u8], problem: Problem| {
            let (layer, entry) = (*layer, String::from_utf8_lossy(entry).into_owned());
            match problem {
                Problem::Refused(problem) => UnpackError::Refused { layer, entry, problem },
                Problem::Io(source) => UnpackError::Entry { layer, entry, source },
            }
        };
        let read = |source| UnpackError::Read { layer: *layer, source };
        self.own.clear();
        let mut archive = ::tar::Archive::new(tar);
        let mut extension = Extension::default();
        // Raw: the extension entries come to us, so that their size is checked before they are
        // read, and nobody else has an opinion on them.
        for entry in archive.entries().map_err(read)?.raw(true) {
            let mut entry = entry.map_err(read)?;
            let mut name = entry.path_bytes().into_owned();
            self.unpacked.entries += 1;
            if self.unpacked.entries > max_entries {
                return Err(fail(&name, Problem::Refused("is one entry too many")));
            }
            if extension.take(&mut entry).map_err(|problem| fail(&name, problem))? {
                continue;
            }
            let said = std::mem::take(&mut extension);
            name = said.path.unwrap_or(name);
            let link = said.link.or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
            let size = entry.header().entry_size().map_err(|error| fail(&name, error.into()))?;
            if said.size.is_some_and(|other| other != size) {
                return Err(fail(&name, Problem::Refused("has two names or two sizes")));
            }
            self.entry(&mut entry, &name, link, said.capabilities)
                .map_err(|problem| fail(&name, problem))?;
        }
        // What stands behind the end belongs to the digest.
        let mut tar = archive.into_inner();
        io::copy(&mut tar, &mut io::sink()).map_err(read)?;
        let (found, bytes, _) = tar.hasher.finish();
        Ok((found, bytes))
    }

    fn entry(
        &mut self,
        entry: &mut ::tar::Entry<'_, impl Read>,
        name: &[u8],
        link: Option<Vec<u8>>,
        capabilities: bool,
    ) -> Result<(), Problem> {
        let path = from_root(name)?;
        let header = entry.header();
        let (mode, mut kind) = (header.mode()?, header.entry_type());
        // As archives from before 1988 say it, and Go's readers still hear.
        if kind == EntryType::Regular && name.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        if path.is_empty() {
            return match kind {
                EntryType::Directory => Ok(()),
                _ => Err(Problem::Refused("is the root and not a folder")),
            };
        }
        let (folder, last) = split(&path);
        if path.split(|&byte| byte == b'/').any(|part| part.starts_with(AUFS) && part != OPAQUE) {
            return Ok(());
        }
        if folder.split(|&byte| byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(Problem::Refused("lies in a whiteout"));
        }
        if last == OPAQUE {
            return if self.keeps_whiteouts {
                self.opaque(folder)
            } else {
                self.hide_content(folder)
            };
        }
        if let Some(victim) = last.strip_prefix(WHITEOUT) {
            return match victim {
                b"" | b"." | b".." => Err(Problem::Refused("is a whiteout of nothing")),
                victim if self.keeps_whiteouts => self.whiteout(&joined(folder, victim)),
                victim => self.hide(folder, victim),
            };
        }
        // Numbers that do not parse are not root's.
        let owned = header.uid().ok() != Some(0) || header.gid().ok() != Some(0);
        self.unpacked.owned += u64::from(owned);
        let link =
            || link.filter(|link| !link.is_empty()).ok_or(Problem::Refused("is a link to nothing"));
        match kind {
            EntryType::Directory => self.directory(&path, mode),
            EntryType::Regular | EntryType::Continuous => {
                let path = self.file(entry, &path, mode)?;
                if mode & 0o6000 != 0 {
                    self.unpacked.lost.insert(path, Lost::SetId);
                } else if capabilities {
                    self.unpacked.lost.insert(path, Lost::Capabilities);
                }
                Ok(())
            }
            EntryType::Symlink => self.symlink(&path, link()?),
            EntryType::Link => self.hard_link(&path, &from_root(&link()?)?),
            EntryType::Char | EntryType::Block => self.nothing(&path, Lost::Device),
            EntryType::Fifo => self.nothing(&path, Lost::Pipe),
            EntryType::GNUSparse => Err(Problem::Refused("is a sparse file")),
            _ => Err(Problem::Refused("is of a kind that no layer may contain")),
        }
    }

    fn directory(&mut self, path: &[u8], mode: u32) -> Result<(), Problem> {
        let (parent, name, path) = self.place(path)?;
        if kind_of(&parent, &name)? != Some(FileType::Directory) {
            self.remove(&parent, &name, &path)?;
            mkdirat(&*parent, &*name, Mode::from_raw_mode(0o700))?;
        }
        // A chmod, because mkdir is subject to the umask; nobody else writes here.
        fchmod(open_child(&parent, &name)?, Mode::from_raw_mode(mode & 0o1777 | 0o700))?;
        self.mark(path);
        Ok(())
    }

    fn file(
        &mut self,
        entry: &mut ::tar::Entry<'_, impl Read>,
        path: &[u8],
        mode: u32,
    ) -> Result<Vec<u8>, Problem> {
        let (parent, name, path) = self.place(path)?;
        self.remove(&parent, &name, &path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&*parent, &*name, flags, Mode::from_raw_mode(0o600))?);
        if io::copy(entry, &mut file)? != entry.header().entry_size()? {
            return Err(Problem::Refused("is cut off"));
        }
        fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        self.mark(path.clone());
        Ok(path)
    }

    fn symlink(&mut self, path: &[u8], to: Vec<u8>) -> Result<(), Problem> {
        let to = CString::new(to).map_err(|_| Problem::Refused("is a link with a NUL in it"))?;
        let (parent, name, path) = self.place(path)?;
        self.remove(&parent, &name, &path)?;
        symlinkat(&*to, &*parent, &*name)?;
        self.mark(path);
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], to: &[u8]) -> Result<(), Problem> {
        let absent = Problem::Refused("is a hard link to something that is not there");
        let (to_folder, to_name) = split(to);
        let Some((to_parent, to_place)) = self.folder(to_folder)? else { return Err(absent) };
        let to_path = joined(&to_place, to_name);
        let to_name = c_string(to_name)?;
        let (parent, name, path) = self.place(path)?;
        match kind_of(&to_parent, &to_name)? {
            _ if to.is_empty() => return Err(Problem::Refused("is a hard link to the root")),
            Some(FileType::RegularFile) if path == to_path => {}
            Some(FileType::RegularFile) => {
                self.remove(&parent, &name, &path)?;
                linkat(&*to_parent, &*to_name, &*parent, &*name, AtFlags::empty())?;
            }
            // A tree knows hard links to files only; another link to the same is as good.
            Some(FileType::Symlink) if path != to_path => {
                let target = readlinkat(&*to_parent, &*to_name, Vec::new())?;
                self.remove(&parent, &name, &path)?;
                symlinkat(&*target, &*parent, &*name)?;
            }
            Some(_) => {
                return Err(Problem::Refused("is a hard link to something that is no file"));
            }
            None => return Err(absent),
        }
        self.mark(path);
        Ok(())
    }

    /// What cannot be made still takes the place of what was there.
    fn nothing(&mut self, path: &[u8], lost: Lost) -> Result<(), Problem> {
        let (parent, name, path) = self.place(path)?;
        self.remove(&parent, &name, &path)?;
        self.unpacked.lost.insert(path, lost);
        Ok(())
    }

    /// A whiteout as overlayfs has it.
    fn whiteout(&mut self, path: &[u8]) -> Result<(), Problem> {
        let (parent, name, path) = self.place(path)?;
        self.remove(&parent, &name, &path)?;
        mknodat(&*parent, &*name, FileType::CharacterDevice, Mode::empty(), 0)?;
        self.mark(path);
        Ok(())
    }

    /// A folder that hides what lower layers have in it, as overlayfs has it.
    fn opaque(&mut self, folder: &[u8]) -> Result<(), Problem> {
        let Some((found, _)) = self.folder(folder)? else { return Ok(()) };
        let found = open_child(&found, c".")?;
        rustix::fs::fsetxattr(&found, OPAQUE_ATTRIBUTE, b"y", rustix::fs::XattrFlags::empty())?;
        Ok(())
    }

    /// A whiteout: `name` in `folder` goes, but for what this layer has put there.
    fn hide(&mut self, folder: &[u8], name: &[u8]) -> Result<(), Problem> {
        let Some((parent, place)) = self.folder_if_any(folder)? else { return Ok(()) };
        let path = joined(&place, name);
        let name = c_string(name)?;
        if !self.own.contains(&path) {
            self.remove(&parent, &name, &path)
        } else if kind_of(&parent, &name)? == Some(FileType::Directory) {
            self.clear(&open_child(&parent, &name)?, &path)
        } else {
            Ok(())
        }
    }

    /// An opaque whiteout: what is in `folder` goes, but for what this layer has put there.
    fn hide_content(&mut self, folder: &[u8]) -> Result<(), Problem> {
        let Some((found, place)) = self.folder_if_any(folder)? else { return Ok(()) };
        let found = open_child(&found, c".")?;
        self.clear(&found, &place)
    }

    fn clear(&mut self, folder: &OwnedFd, path: &[u8]) -> Result<(), Problem> {
        for name in names(folder)? {
            let child = joined(path, name.to_bytes());
            if !self.own.contains(&child) {
                self.remove(folder, &name, &child)?;
            } else if kind_of(folder, &name)? == Some(FileType::Directory) {
                self.clear(&open_child(folder, &name)?, &child)?;
            }
        }
        Ok(())
    }

    /// Removes what is called `name` in `parent`, if anything is; `path` is both from the root.
    fn remove(&mut self, parent: &OwnedFd, name: &CStr, path: &[u8]) -> Result<(), Problem> {
        self.forget(path);
        match kind_of(parent, name)? {
            None => return Ok(()),
            Some(FileType::Directory) => {
                self.open.clear();
                remove_folder(parent, name)?;
            }
            // The way to an open folder may have led through it.
            Some(FileType::Symlink) => {
                self.open.clear();
                unlinkat(parent, name, AtFlags::empty())?;
            }
            Some(_) => unlinkat(parent, name, AtFlags::empty())?,
        }
        Ok(())
    }

    /// What was lost at `path` and below is not missed any more.
    fn forget(&mut self, path: &[u8]) {
        let below = joined(path, b"");
        let lost = self.unpacked.lost.range(path.to_vec()..).map(|(path, _)| path);
        let gone: Vec<Vec<u8>> = lost
            .take_while(|other| other.starts_with(path))
            .filter(|other| *other == path || other.starts_with(&below))
            .cloned()
            .collect();
        for path in gone {
            self.unpacked.lost.remove(&path);
        }
    }

    /// Notes that this layer has written `path`, and so the folders that lead there.
    fn mark(&mut self, path: Vec<u8>) {
        let mut path = path;
        while !path.is_empty() && !self.own.contains(&path) {
            let folder = split(&path).0.to_vec();
            self.own.insert(std::mem::replace(&mut path, folder));
        }
    }

    /// Where `path` is to be written: its folder, made if need be, its last part, and its path
    /// without links.
    fn place(&mut self, path: &[u8]) -> Result<(Rc<OwnedFd>, CString, Vec<u8>), Problem> {
        let (folder, name) = split(path);
        let (parent, place) = match self.folder(folder)? {
            Some(found) => found,
            None => {
                // Layers of some tools do not list the folders.
                let (above, missing, path) = self.place(folder)?;
                match mkdirat(&*above, &*missing, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        return Err(Problem::Refused("lies behind a link that leads nowhere"));
                    }
                    Err(error) => return Err(error.into()),
                }
                fchmod(open_child(&above, &missing)?, Mode::from_raw_mode(0o755))?;
                self.mark(path);
                self.folder(folder)?.ok_or(Errno::NOENT)?
            }
        };
        let path = joined(&place, name);
        depth_is_good(&path)?;
        Ok((parent, c_string(name)?, path))
    }

    /// The folder at `path`, or `None` when there is none; a file there is an error.
    fn folder(&mut self, path: &[u8]) -> Result<Option<Folder>, Problem> {
        if path.is_empty() {
            return Ok(Some((Rc::clone(&self.root), Rc::from(&b""[..]))));
        }
        if let Some(found) = self.open.get(path) {
            return Ok(Some(found.clone()));
        }
        let found = match self.resolve(path, ResolveFlags::NO_SYMLINKS) {
            Ok(found) => (Rc::new(found), Rc::from(path)),
            Err(Errno::LOOP) => match self.resolve(path, ResolveFlags::empty()) {
                Ok(found) => {
                    let place = self.path_of(&found)?;
                    (Rc::new(found), Rc::from(place))
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR) => return Err(NOT_A_FOLDER),
                Err(Errno::LOOP) => return Err(Problem::Refused("lies behind links in a circle")),
                Err(error) => return Err(error.into()),
            },
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR) => return Err(NOT_A_FOLDER),
            Err(error) => return Err(error.into()),
        };
        if self.open.len() >= MAX_OPEN_FOLDERS {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), found.clone());
        Ok(Some(found))
    }

    /// As [`Target::folder`], where a file in the way means that there is nothing to hide.
    fn folder_if_any(&mut self, path: &[u8]) -> Result<Option<Folder>, Problem> {
        match self.folder(path) {
            Err(Problem::Refused(_)) => Ok(None),
            other => other,
        }
    }

    fn resolve(&self, path: &[u8], more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        loop {
            // The kernel gives up on `..` when anybody on the machine renames in that moment.
            match openat2(&*self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// The path of an open folder from the root, without links.
    fn path_of(&self, folder: &OwnedFd) -> Result<Vec<u8>, Problem> {
        let path = |fd: &OwnedFd| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            readlinkat(CWD, link.as_str(), Vec::new()).map(CString::into_bytes)
        };
        let (root, path) = (path(&self.root)?, path(folder)?);
        match path.strip_prefix(root.as_slice()) {
            Some([]) => Ok(Vec::new()),
            Some([b'/', rest @ ..]) => Ok(rest.to_vec()),
            _ if root == b"/" => Ok(path[1..].to_vec()),
            _ => Err(Problem::Refused("leads outside of the root")),
        }
    }
}

const NOT_A_FOLDER: Problem = Problem::Refused("lies in something that is not a folder");

fn c_string(name: &[u8]) -> Result<CString, Problem> {
    CString::new(name).map_err(|_| Problem::Refused("has a NUL in its name"))
}

fn kind_of(parent: &OwnedFd, name: &CStr) -> Result<Option<FileType>, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_child(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn names(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Removes a folder with all in it; links are removed, not followed.
fn remove_folder(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let folder = open_child(parent, name)?;
    for child in names(&folder)? {
        match unlinkat(&folder, &*child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_folder(&folder, &child)?,
            other => other?,
        }
    }
    drop(folder);
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests;
