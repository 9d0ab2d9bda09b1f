//! Blobs: bytes by digest, checked when they come and when they go.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Store, StoreError, failed, sync_parent};
use crate::digest::{Digest, Hasher};

impl Store {
    /// Where a blob lies, whether it is there or not.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    /// The length of a blob in bytes, or `None` when it is not there.
    ///
    /// # Errors
    /// The disk refused.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// The bytes of a small blob, checked against its name.
    ///
    /// # Errors
    /// The blob is absent or damaged.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let found = Digest::of(&bytes);
        if found == *digest {
            Ok(bytes)
        } else {
            Err(StoreError::Mismatch { what: path.display().to_string(), expected: *digest, found })
        }
    }

    /// Opens a blob for reading. Its bytes are hashed as they pass, and the last
    /// read fails when they are not those that the name says: damage is never
    /// passed on as if it were whole.
    ///
    /// # Errors
    /// The blob is absent.
    pub fn open_blob(&self, digest: &Digest) -> Result<Checked, StoreError> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(failed("read", &path))?;
        Ok(Checked { hasher: Some(Hasher::new(io::sink())), file, expected: *digest })
    }

    /// Stores bytes from memory and names them.
    ///
    /// # Errors
    /// The disk refused.
    pub fn write_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut blob = self.new_blob()?;
        blob.write_all(bytes).map_err(failed("write", &self.root))?;
        blob.keep(None).map(|(digest, _)| digest)
    }

    /// A blob to be written piece by piece; it has no name until kept.
    ///
    /// # Errors
    /// The disk refused.
    pub fn new_blob(&self) -> Result<NewBlob<'_>, StoreError> {
        let tmp = self.root.join("tmp");
        let file = tempfile::Builder::new()
            .prefix("blob-")
            .tempfile_in(&tmp)
            .map_err(failed("write", &tmp))?;
        Ok(NewBlob { store: self, hasher: Hasher::new(file) })
    }
}

/// A blob that is read from start to end and checked.
pub struct Checked {
    file: File,
    hasher: Option<Hasher<io::Sink>>,
    expected: Digest,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.write_all(&buffer[..length])?;
        }
        if length == 0
            && !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
        {
            let (found, ..) = hasher.finish();
            if found != self.expected {
                let problem = format!(
                    "blob {} in the store is damaged: its bytes hash to {found}",
                    self.expected
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
        }
        Ok(length)
    }
}

/// Bytes on their way to becoming a blob; dropped unkept, they are removed.
pub struct NewBlob<'a> {
    store: &'a Store,
    hasher: Hasher<tempfile::NamedTempFile>,
}

impl NewBlob<'_> {
    /// Gives the bytes their name. With `expected`, bytes of another digest are
    /// refused and nothing is kept.
    ///
    /// # Errors
    /// The disk refused, or the digest is another one.
    pub fn keep(self, expected: Option<(&Digest, &str)>) -> Result<(Digest, u64), StoreError> {
        let (digest, length, file) = self.hasher.finish();
        if let Some((expected, what)) = expected
            && *expected != digest
        {
            return Err(StoreError::Mismatch {
                what: what.to_owned(),
                expected: *expected,
                found: digest,
            });
        }
        let path = self.store.blob_path(&digest);
        // One of another length is damaged; what came now takes its place.
        if !fs::metadata(&path).is_ok_and(|there| there.len() == length) {
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(0o444))
                .and_then(|()| file.as_file().sync_all())
                .map_err(failed("write", &path))?;
            file.persist(&path).map_err(|error| failed("write", &path)(error.error))?;
            sync_parent(&path)?;
        }
        Ok((digest, length))
    }
}

impl Write for NewBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.flush()
    }
}
