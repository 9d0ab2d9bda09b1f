//! What an entry is called, and what it says besides its header.

use std::io::Read;

use ::tar::EntryType;

use super::{MAX_DEPTH, MAX_EXTENSION, Problem};

/// What extension entries say about the next one.
#[derive(Default)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) capabilities: bool,
}

impl Extension {
    /// Reads `entry` if it is about the next one, or about all.
    pub(super) fn take(
        &mut self,
        entry: &mut ::tar::Entry<'_, impl Read>,
    ) -> Result<bool, Problem> {
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
pub(super) fn set<T: PartialEq>(slot: &mut Option<T>, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        old if old.is_none() || old == *slot => Ok(()),
        _ => Err(Problem::Refused("has two names or two sizes")),
    }
}

/// A name in an archive as a path from the root without slash in front; empty for the root.
pub(super) fn from_root(name: &[u8]) -> Result<Vec<u8>, Problem> {
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

pub(super) fn depth_is_good(path: &[u8]) -> Result<(), Problem> {
    match path.iter().filter(|&&byte| byte == b'/').count() < MAX_DEPTH {
        true => Ok(()),
        false => Err(Problem::Refused("lies in too many folders")),
    }
}

/// The folder of a path, empty for the root, and its last part.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(super) fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
