//! Reading a folder as a tree.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::entries::Entries;
use super::{Node, OPAQUE_ATTRIBUTE, Tree, TreeError};
use crate::digest::Digest;
use crate::memory::Paths;

impl Tree {
    /// Reads the tree below `root`, hashing files on all processors.
    ///
    /// # Errors
    /// An entry that cannot be read, or that is neither file, directory nor link.
    pub fn scan(root: &Path) -> Result<Tree, TreeError> {
        let mut scan = Scan {
            entries: Entries::default(),
            first_names: HashMap::new(),
            nothing: Digest::of(b""),
        };
        scan.directory(root, &mut Vec::new())?;
        let Scan { mut entries, first_names, .. } = scan;
        drop(first_names);
        entries.shrink();
        entries.read_files(|path| {
            let full = root.join(OsStr::from_bytes(path));
            let read = File::open(&full).and_then(Digest::of_reader);
            read.map_err(|source| TreeError::Io { path: full, source })
        })?;
        Ok(Tree::of(entries))
    }
}

// What there is at a name: an entry, and in a folder what is below.
const HERE: u8 = 0;
const BELOW: u8 = 1;

/// What has been found so far, in the order of paths; files are hashed afterwards.
struct Scan {
    entries: Entries,
    /// Device and inode of a file that may have several names → the number of its first.
    first_names: HashMap<(u64, u64), usize>,
    /// What stands for the digest of a file until it is hashed.
    nothing: Digest,
}

impl Scan {
    fn directory(&mut self, full: &Path, path: &mut Vec<u8>) -> Result<(), TreeError> {
        let failed = |source| TreeError::Io { path: full.to_owned(), source };
        let mut found = Paths::default();
        for entry in fs::read_dir(full).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_vec();
            if entry.file_type().map_err(failed)?.is_dir() {
                // What is in `a` comes after `a.x`, and `a` itself before.
                found.push(&[name.as_slice(), b"/"].concat(), BELOW, b"");
            }
            found.push(&name, HERE, b"");
        }
        let length = path.len();
        for number in found.in_order().iter() {
            if length > 0 {
                path.push(b'/');
            }
            let is_below = *found.about(number) == BELOW;
            let name = found.path(number);
            let name = name.strip_suffix(b"/").unwrap_or(name);
            path.extend_from_slice(name);
            let child = full.join(OsStr::from_bytes(name));
            if is_below {
                self.directory(&child, path)?;
            } else {
                self.entry(&child, path)?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, full: &Path, path: &[u8]) -> Result<(), TreeError> {
        let failed = |source| TreeError::Io { path: full.to_owned(), source };
        let metadata = fs::symlink_metadata(full).map_err(failed)?;
        let kind = metadata.file_type();
        let leads;
        let node = if kind.is_dir() {
            Node::Directory { mode: metadata.mode() & 0o1777, opaque: is_opaque(full)? }
        } else if kind.is_symlink() {
            leads = fs::read_link(full).map_err(failed)?.into_os_string().into_vec();
            Node::Symlink { target: &leads }
        } else if let Some(first) = self.first_name(&metadata) {
            leads = self.entries.path(first).to_vec();
            Node::HardLink { to: &leads }
        } else if kind.is_file() {
            let (mode, size) = (metadata.mode() & 0o777, metadata.len());
            Node::File { mode, size, digest: self.nothing }
        } else if kind.is_char_device() && metadata.rdev() == 0 {
            Node::Whiteout
        } else {
            let kind = if kind.is_fifo() {
                "pipe"
            } else if kind.is_socket() {
                "socket"
            } else {
                "device"
            };
            return Err(TreeError::Special { path: full.to_owned(), kind });
        };
        // The names in a folder are sorted, and no two are the same.
        match self.entries.push(path, node) {
            true => Ok(()),
            false => Err(failed(io::ErrorKind::InvalidData.into())),
        }
    }

    /// The number of the first name of a file that was found under another one before.
    fn first_name(&mut self, metadata: &Metadata) -> Option<usize> {
        if !metadata.is_file() || metadata.nlink() < 2 {
            return None;
        }
        match self.first_names.entry((metadata.dev(), metadata.ino())) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(first) => {
                first.insert(self.entries.len());
                None
            }
        }
    }
}

fn is_opaque(path: &Path) -> Result<bool, TreeError> {
    let mut value = [0_u8; 8];
    match rustix::fs::lgetxattr(path, OPAQUE_ATTRIBUTE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(TreeError::Io { path: path.to_owned(), source: error.into() }),
    }
}
