//! Small values by key, in tables.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use libdeflater::Crc;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Content, Store, StoreError, failed};
use crate::digest::Digest;
use crate::memory::Bytes;

/// A kind of record; each has its own folder and format number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Step key → output.
    Outputs,
    /// Tree digest and packing recipe → packed layer.
    Layers,
    /// Tree digest and how it is split → its parts.
    Splits,
    /// Manifest digest → what the image is made of.
    Images,
    /// What the name of an image under apps stands for → what it is made of.
    Bases,
    /// Manifest digest → repositories that the image was pushed to.
    Places,
    /// Weak key of a traced step → what its runs have read.
    Recordings,
    /// An app's folder and a step → its last run, for people.
    Runs,
    /// An app's folder → what its files were when they were last read.
    Sources,
}

impl Table {
    pub(super) const ALL: [Table; 9] = [
        Table::Outputs,
        Table::Layers,
        Table::Splits,
        Table::Images,
        Table::Bases,
        Table::Places,
        Table::Recordings,
        Table::Runs,
        Table::Sources,
    ];

    pub(super) fn folder(self) -> &'static str {
        match self {
            Table::Outputs => "outputs-1",
            Table::Layers => "layers-1",
            Table::Splits => "splits-1",
            Table::Images => "images-1",
            Table::Bases => "bases-1",
            Table::Places => "places-1",
            Table::Recordings => "recordings-1",
            Table::Runs => "runs-2",
            Table::Sources => "sources-2",
        }
    }

    /// Whether its values are bytes of their writer's own making.
    pub(super) fn holds_bytes(self) -> bool {
        matches!(self, Table::Sources | Table::Runs)
    }
}

/// Bytes of a checksum. It is for what a disk does to a file, not for what people do: these only
/// save work, and a digest of what is read in each build would cost more than the reading.
const SUM: usize = 4;

/// Writes, and sums up what was written (CRC-32).
struct Summed<'w> {
    to: &'w mut dyn Write,
    sum: Crc,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Store {
    pub(super) fn record_path(&self, table: Table, key: &Digest) -> PathBuf {
        self.root.join("records").join(table.folder()).join(key.hex())
    }

    /// The value recorded for `key`, of what only saves work or is for people: what does not
    /// parse, perhaps as another version of this program wrote it, is absent.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn hint<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &Digest,
    ) -> Result<Option<T>, StoreError> {
        match self.get(table, key) {
            Err(StoreError::Record { .. }) => Ok(None),
            other => other,
        }
    }

    /// Bytes that only save work, as [`Store::put_bytes`] wrote them; damaged ones are absent.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn bytes(&self, table: Table, key: &Digest) -> Result<Option<Bytes>, StoreError> {
        let path = self.record_path(table, key);
        let bytes = match File::open(&path).and_then(Bytes::of) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let Some(length) = bytes.len().checked_sub(SUM) else { return Ok(None) };
        let wanted = bytes.part(length..bytes.len()).to_vec();
        let bytes = bytes.first(length);
        let mut sum = Crc::new();
        bytes.parts().for_each(|part| sum.update(part));
        Ok((sum.sum().to_le_bytes() == wanted.as_slice()).then_some(bytes))
    }

    /// Records for `key` the bytes that `content` writes, the same each time that it is asked,
    /// with their checksum behind them; the last writer wins.
    ///
    /// # Errors
    /// The disk refused.
    pub fn put_bytes(
        &self,
        table: Table,
        key: &Digest,
        content: &Content<'_>,
    ) -> Result<(), StoreError> {
        self.write_atomically(&self.record_path(table, key), &|to| {
            let mut summed = Summed { to, sum: Crc::new() };
            content(&mut summed)?;
            let Summed { to, sum } = summed;
            to.write_all(&sum.sum().to_le_bytes())
        })
    }

    /// All keys for which a table has records, in no order.
    ///
    /// # Errors
    /// The disk refused.
    pub fn keys(&self, table: Table) -> Result<Vec<Digest>, StoreError> {
        let named = self.named(&self.root.join("records").join(table.folder()), "")?;
        Ok(named.into_iter().map(|(_, key)| key).collect())
    }

    /// Forgets what is recorded for `key`.
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove(&self, table: Table, key: &Digest) -> Result<(), StoreError> {
        let path = self.record_path(table, key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The value recorded for `key`, or `None`.
    ///
    /// # Errors
    /// The record cannot be read. One that does not parse counts as absent only
    /// to [`Store::verify`]; here it is an error, as its writer was this program.
    pub fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &Digest,
    ) -> Result<Option<T>, StoreError> {
        let path = self.record_path(table, key);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| StoreError::Record { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Records `value` for `key`; the last writer wins.
    ///
    /// # Errors
    /// The disk refused.
    pub fn put<T: Serialize>(
        &self,
        table: Table,
        key: &Digest,
        value: &T,
    ) -> Result<(), StoreError> {
        let path = self.record_path(table, key);
        let bytes = serde_json::to_vec(value)
            .map_err(|source| StoreError::Record { path: path.clone(), source })?;
        self.write_atomically(&path, &|to| to.write_all(&bytes))
    }
}
