//! Bringing one blob into the store: what breaks off is continued, what lies is refused.

use std::io::{self, Read, Write};

use reqwest::StatusCode;

use super::error::Right;
use super::manifest::Descriptor;
use super::wire::{TRIES, Task, header};
use super::{RegistryError, Repository};
use crate::store::{Store, StoreError};

/// After this many new bytes a broken download has its tries again.
const GAIN: u64 = 1 << 20;

impl Repository {
    /// Brings a blob into the store, whether or not it is there. `progress` hears how many bytes
    /// have come.
    ///
    /// # Errors
    /// See [`RegistryError`]; one that the registry has not is [`RegistryError::Refused`] with
    /// status 404. The store then has none of it.
    pub fn fetch_blob(
        &self,
        blob: &Descriptor,
        store: &Store,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), RegistryError> {
        let task = self.task(Right::Pull, format!("fetch blob {}", blob.digest));
        let task = &task;
        let mut new = store.new_blob()?;
        let mut done = 0;
        let mut attempt = 1;
        loop {
            let before = done;
            let mut write = |bytes: &[u8]| {
                done += bytes.len() as u64;
                progress(done);
                new.write_all(bytes)
            };
            match self.piece(task, blob, before, &mut write)? {
                // However it ended: after the last byte there is nothing to go on with.
                _ if done == blob.size => break,
                broken => {
                    attempt = if done - before >= GAIN { 1 } else { attempt + 1 };
                    if attempt > TRIES {
                        let early = || io::Error::from(io::ErrorKind::UnexpectedEof);
                        return Err(self.broke(task, broken.unwrap_or_else(early)));
                    }
                    self.rest(attempt - 1);
                }
            }
        }
        match new.keep(Some((&blob.digest, &task.action))) {
            Ok(_) => Ok(()),
            Err(StoreError::Mismatch { found, .. }) => {
                Err(self.odd(task, format!("what it sends has digest {found}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a blob from byte `from` on as far as it comes, and says what broke it off.
    fn piece(
        &self,
        task: &Task,
        blob: &Descriptor,
        from: u64,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Option<io::Error>, RegistryError> {
        if blob.size == 0 {
            return Ok(None);
        }
        let mut response = self.get(task, &format!("blobs/{}", blob.digest), from)?;
        let header = |name: &str| header(&response, name).map(str::to_owned);
        // A server that does not know ranges sends all again.
        let mut skip = match response.status() {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                let range = header("content-range").unwrap_or_default();
                if !range.starts_with(&format!("bytes {from}-")) {
                    let problem = format!("byte {from} was asked for, and it sends `{range}`");
                    return Err(self.odd(task, problem));
                }
                0
            }
            _ => return Err(self.refused(task, response)),
        };
        if let Some(encoding) = header("content-encoding").filter(|name| name != "identity") {
            return Err(self.odd(task, format!("it sends it encoded as {encoding}")));
        }
        let mut left = blob.size - (from - skip);
        if let Some(length) = response.content_length().filter(|length| *length != left) {
            return Err(self.odd(task, format!("it has {length} bytes and should have {left}")));
        }
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = match response.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(error)),
            };
            left = left
                .checked_sub(length as u64)
                .ok_or_else(|| self.odd(task, format!("it sends more than {} bytes", blob.size)))?;
            let passed = skip.min(length as u64);
            skip -= passed;
            write(&buffer[passed as usize..length]).map_err(|source| {
                RegistryError::Store(StoreError::Io {
                    action: "write",
                    path: format!("blob {}", blob.digest).into(),
                    source,
                })
            })?;
        }
    }
}
