//! A tree as a tar stream, byte for byte decided here.
//!
//! POSIX ustar headers; a PAX record only where a name or link target does not
//! fit. Entries in path order, parents before children; time fixed, owner by
//! rule and by number only; whiteouts in the form that OCI layers use
//! (`.wh.<name>`, image specification, `layer.md`).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Sink, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::SyncSender;

use serde::{Deserialize, Serialize};

use super::pieces::{Piece, Pool};
use super::{LayerError, PIECE};
use crate::digest::{Digest, Hasher};
use crate::tree::{Node, STAMP, Tree};

const BLOCK: usize = 512;

/// Bytes that are read and hashed in one go: few enough to stay in a processor's own cache.
const AT_ONCE: usize = 128 << 10;

/// Paths in and below `folder` belong to this user and group in the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Without leading slash; empty for everything.
    pub folder: String,
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

impl Owner {
    fn holds(&self, path: &[u8]) -> bool {
        self.folder.is_empty()
            || path
                .strip_prefix(self.folder.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

/// Where the files of a tree are.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    root: &'a Path,
    prefix: &'a [u8],
    may_change: bool,
}

impl<'a> Files<'a> {
    /// Below a folder of forge's own.
    #[must_use]
    pub fn kept(root: &'a Path) -> Files<'a> {
        Files { root, prefix: b"", may_change: false }
    }

    /// Below a folder of the user's, which they may change meanwhile: the content of each is
    /// compared with what the tree says. All their paths in the tree begin with `prefix`.
    #[must_use]
    pub fn of_user(root: &'a Path, prefix: &'a str) -> Files<'a> {
        Files { root, prefix: prefix.as_bytes(), may_change: true }
    }

    fn open(self, path: &[u8]) -> std::io::Result<File> {
        let path = path.strip_prefix(self.prefix).unwrap_or(path);
        File::open(self.root.join(OsStr::from_bytes(path)))
    }
}

/// Writes the tar in pieces of [`PIECE`] bytes, the last one shorter, which go to the takers in
/// turn. `progress` is told the length of each. Says the digest of the tar, and its length.
pub(super) fn write(
    tree: &Tree,
    files: Files<'_>,
    owners: &[Owner],
    takers: Vec<SyncSender<Piece>>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Digest, u64), LayerError> {
    let mut stream = Stream::new(takers, progress);
    for (path, node) in tree.iter() {
        if stream.closed {
            break;
        }
        let owner = owners
            .iter()
            .find(|owner| owner.holds(path))
            .map_or((0, 0), |owner| (owner.user, owner.group));
        entry(&mut stream, files, path, node, owner)?;
    }
    // The end of a tar: two blocks of zeros.
    stream.zeros(2 * BLOCK);
    stream.flush();
    let (digest, length, _) = stream.hasher.finish();
    Ok((digest, length))
}

fn entry(
    stream: &mut Stream<'_>,
    files: Files<'_>,
    path: &[u8],
    node: Node<'_>,
    owner: (u32, u32),
) -> Result<(), LayerError> {
    match node {
        Node::Directory { mode, opaque } => {
            let mut name = path.to_vec();
            name.push(b'/');
            header(stream, &name, mode, owner, 0, b'5', b"");
            if opaque {
                name.extend_from_slice(b".wh..wh..opq");
                header(stream, &name, 0o644, owner, 0, b'0', b"");
            }
        }
        Node::Symlink { target } => header(stream, path, 0o777, owner, 0, b'2', target),
        Node::HardLink { to } => header(stream, path, 0o644, owner, 0, b'1', to),
        Node::Whiteout => {
            let split = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let name = [&path[..split], b".wh.", &path[split..]].concat();
            header(stream, &name, 0o644, owner, 0, b'0', b"");
        }
        Node::File { mode, size, digest } => {
            header(stream, path, mode, owner, size, b'0', b"");
            let shown = || String::from_utf8_lossy(path).into_owned();
            let failed = |source| LayerError::Io { path: shown(), source };
            let mut file = files.open(path).map_err(failed)?;
            let mut hasher = files.may_change.then(|| Hasher::new(std::io::sink()));
            let copied = stream.copy(&mut file, size, &mut hasher).map_err(failed)?;
            let at_end =
                copied == size && !stream.closed && file.read(&mut [0]).map_err(failed)? == 0;
            let is_same = hasher.is_none_or(|hasher| hasher.finish().0 == digest);
            if !(stream.closed || at_end && is_same) {
                return Err(LayerError::Changed { path: shown() });
            }
            stream.zeros(padding(size));
        }
    }
    Ok(())
}

fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over == 0 { 0 } else { BLOCK - over }
}

fn header(
    stream: &mut Stream<'_>,
    name: &[u8],
    mode: u32,
    owner: (u32, u32),
    size: u64,
    kind: u8,
    link: &[u8],
) {
    let split = split_name(name);
    // Octal fields hold 11 digits for sizes and 7 for ids.
    let mut pax = Vec::new();
    if split.is_none() {
        pax_record(&mut pax, "path", name);
    }
    if link.len() > 100 {
        pax_record(&mut pax, "linkpath", link);
    }
    if size > 0o77_777_777_777 {
        pax_record(&mut pax, "size", size.to_string().as_bytes());
    }
    if owner.0 > 0o7_777_777 {
        pax_record(&mut pax, "uid", owner.0.to_string().as_bytes());
    }
    if owner.1 > 0o7_777_777 {
        pax_record(&mut pax, "gid", owner.1.to_string().as_bytes());
    }
    if !pax.is_empty() {
        let block = block((b"", b"././@PaxHeader"), 0o644, (0, 0), pax.len() as u64, b'x', b"");
        stream.add(&block);
        stream.add(&pax);
        stream.zeros(padding(pax.len() as u64));
    }
    let short = &name[..name.len().min(100)];
    let short_link = &link[..link.len().min(100)];
    let block = block(split.unwrap_or((b"", short)), mode, owner, size, kind, short_link);
    stream.add(&block);
}

/// `(prefix, name)` for a ustar header, or `None` when the path does not fit.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The slash between the two parts is not stored; the last byte cannot be it.
    let latest = name.len().min(156);
    let slash = name[..latest.min(name.len() - 1)].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (prefix.len() <= 155 && rest.len() <= 100 && !prefix.is_empty()).then_some((prefix, rest))
}

/// `length key=value\n`, where the length counts itself.
fn pax_record(pax: &mut Vec<u8>, key: &str, value: &[u8]) {
    let bare = key.len() + value.len() + 3;
    let mut length = bare + 1;
    while bare + length.to_string().len() != length {
        length = bare + length.to_string().len();
    }
    pax.extend_from_slice(format!("{length} {key}=").as_bytes());
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn block(
    name: (&[u8], &[u8]),
    mode: u32,
    owner: (u32, u32),
    size: u64,
    kind: u8,
    link: &[u8],
) -> [u8; BLOCK] {
    let mut block = [0_u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.1);
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, format!("{:07o}\0", owner.0 & 0o7_777_777).as_bytes());
    put(116, format!("{:07o}\0", owner.1 & 0o7_777_777).as_bytes());
    put(124, format!("{:011o}\0", size & 0o77_777_777_777).as_bytes());
    put(136, format!("{STAMP:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link);
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    put(345, name.0);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Cuts what is added into pieces. `closed` once nobody takes them any more: the
/// taker has failed and will say why.
struct Stream<'p> {
    piece: Piece,
    pool: Pool,
    /// Where pieces go, in turn.
    takers: Vec<SyncSender<Piece>>,
    turn: usize,
    /// Of all pieces, and of this one as far as it is `hashed`.
    hasher: Hasher<Sink>,
    hashed: usize,
    progress: &'p (dyn Fn(u64) + Sync),
    closed: bool,
}

impl<'p> Stream<'p> {
    fn new(takers: Vec<SyncSender<Piece>>, progress: &'p (dyn Fn(u64) + Sync)) -> Stream<'p> {
        let pool = Pool::new(PIECE);
        let (piece, hasher) = (pool.piece(), Hasher::new(std::io::sink()));
        Stream { piece, pool, takers, turn: 0, hasher, hashed: 0, progress, closed: false }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.closed {
            bytes = &bytes[self.piece.add(bytes)..];
            self.grown();
        }
    }

    fn zeros(&mut self, count: usize) {
        self.add(&[0; 2 * BLOCK][..count]);
    }

    /// Copies at most `size` bytes, hashed too if that is wanted; says how many came.
    fn copy(
        &mut self,
        file: &mut File,
        size: u64,
        hasher: &mut Option<Hasher<Sink>>,
    ) -> std::io::Result<u64> {
        let mut left = size;
        while left > 0 && !self.closed {
            let room = self.piece.rest();
            let most = usize::try_from(left).unwrap_or(AT_ONCE).min(AT_ONCE).min(room.len());
            let room = &mut room[..most];
            let read = loop {
                match file.read(room) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            if let Some(hasher) = hasher {
                hasher.write_all(&room[..read])?;
            }
            self.piece.filled(read);
            if read == 0 {
                break;
            }
            left -= read as u64;
            self.grown();
        }
        Ok(size - left)
    }

    /// Hashes what was added while the processor still has it near.
    fn grown(&mut self) {
        if self.piece.is_full() {
            self.flush();
        } else if self.piece.len() - self.hashed >= AT_ONCE {
            self.hash();
        }
    }

    fn hash(&mut self) {
        // Writing to a sink cannot fail.
        let _written = self.hasher.write_all(&self.piece[self.hashed..]);
        self.hashed = self.piece.len();
    }

    fn flush(&mut self) {
        if self.piece.is_empty() {
            return;
        }
        self.hash();
        self.hashed = 0;
        (self.progress)(self.piece.len() as u64);
        let piece = std::mem::replace(&mut self.piece, self.pool.piece());
        self.closed = self.takers[self.turn].send(piece).is_err();
        self.turn = (self.turn + 1) % self.takers.len();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc;

    use super::*;

    /// What an independent reader finds in the tar of `tree`.
    fn read_back(tree: &Tree, root: &Path) -> BTreeMap<Vec<u8>, (u8, u64, Vec<u8>)> {
        let (out, pieces) = mpsc::sync_channel(64);
        let owners = [Owner { folder: "app".to_owned(), user: 1000, group: 7 }];
        write(tree, Files::kept(root), &owners, vec![out], &|_| {}).expect("writes");
        let tar: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.to_vec()).collect();
        assert_eq!(tar.len() % BLOCK, 0);
        let mut archive = ::tar::Archive::new(tar.as_slice());
        archive
            .entries()
            .expect("a tar")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let link =
                    entry.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
                let header = entry.header();
                (
                    entry.path_bytes().into_owned(),
                    (header.entry_type().as_byte(), header.uid().expect("uid"), link),
                )
            })
            .collect()
    }

    #[test]
    fn long_names_and_links() {
        let mut links = crate::tree::Builder::default();
        let mut expected = BTreeMap::new();
        for length in [1, 99, 100, 101, 155, 156, 157, 255, 256, 257, 300, 1000] {
            for slash_at in [0, 50, 100, 154, 155, 156, 200] {
                let mut path = vec![b'p'; length];
                if slash_at > 0 && slash_at + 1 < length {
                    path[slash_at] = b'/';
                }
                let target = vec![b't'; length];
                links.add(&path, Node::Symlink { target: &target });
                expected.insert(path, (b'2', 0, target));
            }
        }
        let tree = links.tree();
        assert_eq!(read_back(&tree, Path::new("/nonexistent")), expected);
    }

    #[test]
    fn owners_and_whiteouts() {
        let directory = |opaque| Node::Directory { mode: 0o755, opaque };
        let entries =
            [("app", directory(false)), ("app/gone", Node::Whiteout), ("apple", directory(true))];
        let tree = entries.into_iter().collect();
        let found = read_back(&tree, Path::new("/nonexistent"));
        let names: Vec<_> = found
            .iter()
            .map(|(path, (_, user, _))| (String::from_utf8_lossy(path), *user))
            .collect();
        assert_eq!(
            names,
            [
                ("app/".into(), 1000),
                ("app/.wh.gone".into(), 1000),
                ("apple/".into(), 0),
                ("apple/.wh..wh..opq".into(), 0)
            ]
        );
    }
}
