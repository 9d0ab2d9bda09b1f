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

mod names;
mod target;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use thiserror::Error;

use super::ahead;
use crate::digest::{Digest, Hasher};
use target::Target;

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

#[cfg(test)]
mod tests;
