//! A folder tree as a value: what a step produced, what a layer is packed from.
//!
//! A tree lists every entry below a root with what can end up in a layer: kind,
//! permission bits, content digest, link target. It leaves out what must not
//! matter: times, owners, inode numbers, extended attributes.
//!
//! Two trees are equal exactly when their [`Tree::digest`] is. The paths are
//! relative to the root of the *image* (`layers/venv/bin/python3`), so trees can
//! be stacked as overlays and packed as layers without a prefix.
//!
//! Nothing here knows where trees are kept or what they are for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use thiserror::Error;

use crate::digest::{Digest, Fields};

/// The modification time of every file that a step sees and that a layer
/// carries, in seconds: 1980-01-01T00:00:01Z, the first second that zip files
/// can hold and the stamp that buildpack exporters use. Bootsnap and make
/// compare times, so files must carry in the sandbox what they carry in the image.
pub const STAMP: i64 = 315_532_801;

/// What is in a line of [`Tree::to_text`] besides the path of a file, in bytes.
const LINE: usize = 64 + 24;

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory. `opaque` hides what layers below have in it.
    Directory {
        /// Permission bits, the sticky bit included.
        mode: u32,
        /// Whether lower layers' entries of this directory are hidden.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Permission bits without set-user-id and set-group-id.
        mode: u32,
        /// Length in bytes.
        size: u64,
        /// Digest of the content.
        digest: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, byte for byte.
        target: Vec<u8>,
    },
    /// Another name of a regular file of the same tree.
    HardLink {
        /// The first name of that file in path order.
        to: Vec<u8>,
    },
    /// Removes what layers below have at this path.
    Whiteout,
}

/// A sorted list of entries; the root itself is not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Path without leading slash → entry.
    pub entries: BTreeMap<Vec<u8>, Node>,
}

/// Why a folder cannot be read as a tree, or a text as a tree.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The system refused.
    #[error("could not read `{}`", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A device, pipe or socket: none may be in an output.
    #[error("`{}` is a {kind}; an output may hold only files, directories and links", path.display())]
    Special {
        /// The entry.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A line of a stored tree list that is not one.
    #[error("line {line} of a tree list is malformed")]
    Text {
        /// Counted from one.
        line: usize,
    },
}

impl Tree {
    /// Reads the tree below `root`, hashing files on all processors.
    ///
    /// # Errors
    /// An entry that cannot be read, or that is neither file, directory nor link.
    pub fn scan(root: &Path) -> Result<Tree, TreeError> {
        Tree::scan_linked(root, &|_| None)
    }

    /// Reads the tree below `root`, of which some files are links to files that were hashed
    /// before: `known` gives what was found then, by path.
    ///
    /// # Errors
    /// As [`Tree::scan`].
    pub fn scan_linked(
        root: &Path,
        known: &(dyn Fn(&[u8]) -> Option<Digest> + Sync),
    ) -> Result<Tree, TreeError> {
        let mut walk = Walk::default();
        walk.directory(root, &mut Vec::new())?;
        let Walk { mut entries, files, first_names } = walk;
        drop(first_names);
        let hashed: Result<Vec<(Vec<u8>, Node)>, TreeError> = files
            .into_par_iter()
            .map(|(path, mode, size)| {
                let (digest, size) = match known(&path) {
                    Some(digest) => (digest, size),
                    None => {
                        let full = root.join(OsStr::from_bytes(&path));
                        File::open(&full)
                            .and_then(Digest::of_reader)
                            .map_err(|source| TreeError::Io { path: full, source })?
                    }
                };
                Ok((path, Node::File { mode, size, digest }))
            })
            .collect();
        entries.extend(hashed?);
        Ok(Tree { entries })
    }

    /// The name of this content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut fields = Fields::new("forge-tree-1");
        fields.number(self.entries.len() as u64);
        for (path, node) in &self.entries {
            fields.bytes(path);
            match node {
                Node::Directory { mode, opaque } => {
                    fields.text(if *opaque { "opaque" } else { "dir" }).number(u64::from(*mode))
                }
                Node::File { mode, size, digest } => {
                    fields.text("file").number(u64::from(*mode)).number(*size).digest(digest)
                }
                Node::Symlink { target } => fields.text("link").bytes(target),
                Node::HardLink { to } => fields.text("hard").bytes(to),
                Node::Whiteout => fields.text("gone"),
            };
        }
        fields.finish()
    }

    /// Bytes of all files, each counted once.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries
            .values()
            .map(|node| if let Node::File { size, .. } = node { *size } else { 0 })
            .sum()
    }

    /// Whether the tree has entries in this directory.
    #[must_use]
    pub fn has_below(&self, directory: &[u8]) -> bool {
        let inside = [directory, b"/"].concat();
        let next = self.entries.range(inside.clone()..).next();
        next.is_some_and(|(path, _)| path.starts_with(&inside))
    }

    /// Adds the directories that lead to each entry where they are missing, with
    /// mode 0755, so that the tree can be packed or stacked alone.
    pub fn add_parents(&mut self) {
        let mut missing = BTreeSet::new();
        for path in self.entries.keys() {
            let mut rest = path.as_slice();
            while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
                rest = &rest[..slash];
                if self.entries.contains_key(rest) || !missing.insert(rest.to_vec()) {
                    break;
                }
            }
        }
        for path in missing {
            self.entries.insert(path, Node::Directory { mode: 0o755, opaque: false });
        }
    }

    /// The tree as lines of text, one an entry, sorted by path.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Room enough where no name has to be escaped: growing would take twice of it.
        let room = self.entries.keys().map(|path| path.len() + LINE).sum();
        let mut text = String::with_capacity(room);
        for (path, node) in &self.entries {
            let line = match node {
                Node::Directory { mode, opaque } => {
                    format!("{} {mode:o}", if *opaque { "opaque" } else { "dir" })
                }
                Node::File { mode, size, digest } => {
                    format!("file {mode:o} {size} {}", digest.hex())
                }
                Node::Symlink { target } => format!("link {}", escape(target)),
                Node::HardLink { to } => format!("hard {}", escape(to)),
                Node::Whiteout => "gone".to_owned(),
            };
            text.push_str(&line);
            text.push(' ');
            text.push_str(&escape(path));
            text.push('\n');
        }
        text
    }

    /// The opposite of [`Tree::to_text`].
    ///
    /// # Errors
    /// A line that `to_text` would not have written.
    pub fn from_text(text: &str) -> Result<Tree, TreeError> {
        let mut tree = Tree::default();
        for (index, line) in text.lines().enumerate() {
            let (path, node) = parse_line(line).ok_or(TreeError::Text { line: index + 1 })?;
            tree.entries.insert(path, node);
        }
        Ok(tree)
    }
}

/// What a walk has found so far; files are hashed afterwards.
#[derive(Default)]
struct Walk {
    entries: BTreeMap<Vec<u8>, Node>,
    /// Path, mode and length.
    files: Vec<(Vec<u8>, u32, u64)>,
    /// Device and inode of a file that may have several names → its place among `files`.
    first_names: HashMap<(u64, u64), usize>,
}

impl Walk {
    fn directory(&mut self, full: &Path, path: &mut Vec<u8>) -> Result<(), TreeError> {
        let failed = |source| TreeError::Io { path: full.to_owned(), source };
        let mut names = fs::read_dir(full)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name().into_vec()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(failed)?;
        // By the full path's bytes, so that the first name of a hard-linked
        // file is the first in the sorted tree: `a.x` sorts before `a/b`.
        names.sort();
        let length = path.len();
        let mut directories = Vec::new();
        for name in names {
            let child = full.join(OsStr::from_bytes(&name));
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let metadata = fs::symlink_metadata(&child)
                .map_err(|source| TreeError::Io { path: child.clone(), source })?;
            if metadata.is_dir() {
                let opaque = is_opaque(&child)?;
                let mode = metadata.mode() & 0o1777;
                self.entries.insert(path.clone(), Node::Directory { mode, opaque });
                directories.push((child, path.clone()));
            } else {
                self.entry(&child, path, &metadata)?;
            }
            path.truncate(length);
        }
        for (child, mut child_path) in directories {
            self.directory(&child, &mut child_path)?;
        }
        Ok(())
    }

    fn entry(&mut self, full: &Path, path: &[u8], metadata: &Metadata) -> Result<(), TreeError> {
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(full)
                .map_err(|source| TreeError::Io { path: full.to_owned(), source })?;
            self.entries.insert(
                path.to_vec(),
                Node::Symlink { target: target.into_os_string().into_vec() },
            );
        } else if kind.is_file() {
            if metadata.nlink() > 1 {
                match self.first_names.entry((metadata.dev(), metadata.ino())) {
                    std::collections::hash_map::Entry::Occupied(first) => {
                        let first = &mut self.files[*first.get()].0;
                        let mut path = path.to_vec();
                        // Directories are entered after files, so a later name may sort first.
                        if path < *first {
                            std::mem::swap(&mut path, first);
                            for node in self.entries.values_mut() {
                                if *node == (Node::HardLink { to: path.clone() }) {
                                    *node = Node::HardLink { to: first.clone() };
                                }
                            }
                        }
                        self.entries.insert(path, Node::HardLink { to: first.clone() });
                        return Ok(());
                    }
                    std::collections::hash_map::Entry::Vacant(first) => {
                        first.insert(self.files.len());
                    }
                }
            }
            self.files.push((path.to_vec(), metadata.mode() & 0o777, metadata.len()));
        } else if kind.is_char_device() && metadata.rdev() == 0 {
            self.entries.insert(path.to_vec(), Node::Whiteout);
        } else {
            let kind = if kind.is_fifo() {
                "pipe"
            } else if kind.is_socket() {
                "socket"
            } else {
                "device"
            };
            return Err(TreeError::Special { path: full.to_owned(), kind });
        }
        Ok(())
    }
}

/// Overlayfs marks a directory that replaces one below it with this attribute
/// when mounted with `userxattr` (Linux documentation, filesystems/overlayfs).
pub const OPAQUE_ATTRIBUTE: &str = "user.overlay.opaque";

fn is_opaque(path: &Path) -> Result<bool, TreeError> {
    let mut value = [0_u8; 8];
    match rustix::fs::lgetxattr(path, OPAQUE_ATTRIBUTE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(TreeError::Io { path: path.to_owned(), source: error.into() }),
    }
}

/// Percent-escapes what would break a line of fields: blanks, line ends, `%`
/// and everything that is not printable ASCII.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

fn parse_line(line: &str) -> Option<(Vec<u8>, Node)> {
    let mut words = line.split(' ');
    let mode = |word: Option<&str>| u32::from_str_radix(word?, 8).ok();
    let node = match words.next()? {
        "dir" => Node::Directory { mode: mode(words.next())?, opaque: false },
        "opaque" => Node::Directory { mode: mode(words.next())?, opaque: true },
        "file" => Node::File {
            mode: mode(words.next())?,
            size: words.next()?.parse().ok()?,
            digest: Digest::from_hex(words.next()?).ok()?,
        },
        "link" => Node::Symlink { target: unescape(words.next()?)? },
        "hard" => Node::HardLink { to: unescape(words.next()?)? },
        "gone" => Node::Whiteout,
        _ => return None,
    };
    let path = unescape(words.next()?)?;
    if words.next().is_some() { None } else { Some((path, node)) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn sample() -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir_all(root.join("b/c")).expect("mkdir");
        fs::write(root.join("b/c/file with blank"), "hello").expect("write");
        fs::hard_link(root.join("b/c/file with blank"), root.join("b.first")).expect("link");
        symlink("../x %", root.join("b/link")).expect("symlink");
        let tree = Tree::scan(root).expect("a tree");
        (folder, tree)
    }

    #[test]
    fn text_and_back() {
        let (_folder, tree) = sample();
        assert_eq!(Tree::from_text(&tree.to_text()).expect("parses"), tree);
        assert!(Tree::from_text("file 644 x y z\n").is_err());
    }

    #[test]
    fn first_name_in_path_order_holds_the_content() {
        let (_folder, tree) = sample();
        assert!(matches!(tree.entries[b"b.first".as_slice()], Node::File { size: 5, .. }));
        assert_eq!(
            tree.entries[b"b/c/file with blank".as_slice()],
            Node::HardLink { to: b"b.first".to_vec() }
        );
    }

    #[test]
    fn digest_sees_content_and_mode_but_not_time() {
        let (folder, tree) = sample();
        let file = folder.path().join("b.first");
        let at = |tree: &Tree| tree.digest();
        let handle = File::options().write(true).open(&file).expect("open");
        handle.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touch");
        assert_eq!(at(&Tree::scan(folder.path()).expect("scan")), at(&tree));
        fs::write(&file, "hellO").expect("write");
        assert_ne!(at(&Tree::scan(folder.path()).expect("scan")), at(&tree));
    }

    #[test]
    fn sockets_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let _listener =
            std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("bind");
        assert!(matches!(
            Tree::scan(folder.path()),
            Err(TreeError::Special { kind: "socket", .. })
        ));
    }

    #[test]
    fn parents_are_added() {
        let mut tree = Tree::default();
        tree.entries.insert(b"a/b/c".to_vec(), Node::Whiteout);
        tree.add_parents();
        assert_eq!(tree.entries.len(), 3);
    }
}
