//! Where the bytes of an upload come from: memory, or the store.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use reqwest::blocking::Body;

use super::RegistryError;
use super::push::Bring;
use crate::digest::Digest;
use crate::store::{Store, StoreError};

/// Parts of blobs up to this length are read into memory: then a refusal that comes before all
/// was sent is heard, where a stream only breaks.
const IN_MEMORY: u64 = 4 << 20;
/// Files are read in pieces of this length; reqwest asks for 8 KiB at a time.
const PIECE: usize = 256 << 10;
/// Hears how many bytes of a blob have been sent.
pub type Told = Arc<dyn Fn(u64) + Send + Sync>;

/// For who does not want to hear.
#[must_use]
pub fn untold() -> Told {
    Arc::new(|_| {})
}

/// Where the bytes are.
pub(super) enum Content<'c> {
    Memory(&'c [u8]),
    Stored {
        store: &'c Store,
        digest: Digest,
        /// Brings it there if it is not.
        bring: Option<&'c Bring<'c>>,
    },
}

impl Content<'_> {
    pub(super) fn body(&self, from: u64, length: u64, told: &Told) -> Result<Body, RegistryError> {
        match self {
            _ if length == 0 => Ok(Body::from(Vec::new())),
            // Lengths of what is in memory fit.
            Content::Memory(bytes) => {
                Ok(Body::from(bytes[from as usize..(from + length) as usize].to_vec()))
            }
            Content::Stored { store, digest, .. } => {
                let path = store.blob_path(digest);
                let failed = |source| StoreError::Io { action: "read", path: path.clone(), source };
                let mut file = File::open(&path).map_err(failed)?;
                file.seek(SeekFrom::Start(from)).map_err(failed)?;
                let mut part = file.take(length);
                if length > IN_MEMORY {
                    let inner = BufReader::with_capacity(PIECE, part);
                    let told = Arc::clone(told);
                    return Ok(Body::sized(Watched { inner, done: from, told }, length));
                }
                let mut bytes = Vec::new();
                part.read_to_end(&mut bytes).map_err(failed)?;
                Ok(Body::from(bytes))
            }
        }
    }

    /// Makes sure that the bytes are here, when they will be needed for certain.
    pub(super) fn bring(&self) -> Result<(), RegistryError> {
        match self {
            Content::Stored { store, digest, bring: Some(bring) }
                if store.blob_size(digest)?.is_none() =>
            {
                bring(digest)
                    .map_err(|source| RegistryError::NotBrought { digest: *digest, source })
            }
            _ => Ok(()),
        }
    }

    /// After an upload that failed: whether it was our own bytes that are not right.
    pub(super) fn check(&self) -> Result<(), RegistryError> {
        if let Content::Stored { store, digest, .. } = self {
            let path = store.blob_path(digest);
            let failed = |source| StoreError::Io { action: "read", path: path.clone(), source };
            let file = File::open(&path).map_err(failed)?;
            let (found, _) = Digest::of_reader(file).map_err(failed)?;
            if found != *digest {
                let (what, expected) = (path.display().to_string(), *digest);
                return Err(StoreError::Mismatch { what, expected, found }.into());
            }
        }
        Ok(())
    }
}

/// A body that tells how much of it was read: with each piece of the file, as who is told has
/// better things to do than to hear of each 8 KiB.
struct Watched {
    inner: BufReader<io::Take<File>>,
    done: u64,
    told: Told,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.done += length as u64;
        if self.inner.buffer().is_empty() {
            (self.told)(self.done);
        }
        Ok(length)
    }
}
