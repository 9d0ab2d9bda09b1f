//! Trees become layers: a deterministic tar, compressed, with both digests; one, or several of
//! parts that change apart (`split`). And layers of others become a folder again: see `unpack`.
//!
//! ```text
//! tree ─► tar stream, SHA-256 of it (diffID) ─► 1 MiB pieces
//!      ─► compress, one piece a worker ─► in order ─► SHA-256 of the blob, write
//! ```
//!
//! - The bytes depend on the tree and the [`Recipe`] alone: not on the number of
//!   processors, the time, or who owns the files here.
//! - Each piece is a gzip member or zstd frame of its own (RFC 1952 §2.2, RFC 8878
//!   §3.1), compressed without knowledge of its neighbours: a parallel compressor
//!   that carries state from piece to piece gives other bytes on other machines.
//! - Registries are not this room's business.

mod ahead;
mod assign;
mod compress;
mod pieces;
mod split;
mod tar;
mod units;
mod unpack;

use std::io::Write;
use std::sync::mpsc;
use std::thread;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::{Digest, Fields, Hasher};
use crate::tree::Tree;

pub use assign::{Place, assign};
pub use compress::Compression;
use pieces::Piece;
pub use split::{Part, Split, SplitError};
pub use tar::{Files, Owner};
pub use units::{Rule, Says};
pub use unpack::{Lost, Packed, UnpackError, Unpacked, unpack, unpack_tree};

/// Tar bytes per compressed piece. Part of what the blob's digest depends on:
/// another size gives other blobs, never another diffID.
pub const PIECE: usize = 1 << 20;

/// Pieces that wait for a worker, and that wait to be collected from it.
const AHEAD: usize = 2;

/// Bumped whenever the same tree would be packed to other bytes.
const PACKING_VERSION: u64 = 1;

/// How a tree is packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Who owns which paths; the first rule whose folder holds a path counts.
    pub owners: Vec<Owner>,
    /// The compression of the blob.
    pub compression: Compression,
}

impl Recipe {
    /// The name under which the layer made from `tree` with this recipe is
    /// recorded.
    #[must_use]
    pub fn key(&self, tree: &Digest) -> Digest {
        let mut fields = Fields::new("forge-layer");
        fields
            .number(PACKING_VERSION)
            .number(PIECE as u64)
            .text(&self.compression.name())
            .digest(tree);
        fields.number(self.owners.len() as u64);
        for owner in &self.owners {
            fields.text(&owner.folder).number(u64::from(owner.user)).number(u64::from(owner.group));
        }
        fields.finish()
    }

    /// The name of all layers of `tree`, when it is packed with this recipe and split like that.
    #[must_use]
    pub fn packing(&self, split: Option<&Split>, tree: &Digest) -> Digest {
        let mut fields = Fields::new("forge-packing");
        fields.digest(&self.key(tree));
        if let Some(split) = split {
            fields.digest(&split.key());
        }
        fields.finish()
    }
}

/// A packed layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the uncompressed tar: the image config's `diff_ids` entry.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Length of the tar in bytes.
    pub unpacked: u64,
    /// The blob's compression.
    pub compression: Compression,
}

/// A part of a tree, packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedPart {
    /// What people call it; `None` for a tree that stays whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The part's own digest.
    pub tree: Digest,
    /// Its layer.
    pub layer: Layer,
}

/// All that a tree is packed to, one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packing {
    /// Which tree, and which way: [`Recipe::packing`].
    pub key: Digest,
    /// Its parts, in the image's order.
    pub parts: Vec<PackedPart>,
}

impl Packing {
    /// The layers.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.parts.iter().map(|part| &part.layer)
    }
}

/// Why a tree could not be packed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A file of the tree cannot be read, or the blob not written.
    #[error("could not pack `{path}`")]
    Io {
        /// The entry or file concerned.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not as long as the tree says.
    #[error("`{path}` has changed while it was packed")]
    Changed {
        /// The entry.
        path: String,
    },
    /// The encoder failed.
    #[error("could not compress: {0}")]
    Compress(String),
}

/// Packs the tree whose files lie there and writes the blob to `blob`,
/// with as many compressors as `workers`. `progress` is told the number of tar
/// bytes of each piece.
///
/// # Errors
/// A file that cannot be read or has changed; a blob that cannot be written.
pub fn pack<W: Write>(
    tree: &Tree,
    files: Files<'_>,
    recipe: &Recipe,
    workers: usize,
    blob: &mut W,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Layer, LayerError> {
    let workers = workers.max(1);
    thread::scope(|scope| {
        let mut to_workers = Vec::new();
        let mut from_workers = Vec::new();
        for _ in 0..workers {
            // Bounded, so that memory does not grow with the layer.
            let (tar_out, tar_in) = mpsc::sync_channel::<Piece>(AHEAD);
            let (packed_out, packed_in) = mpsc::sync_channel(AHEAD);
            to_workers.push(tar_out);
            from_workers.push(packed_in);
            let compression = recipe.compression;
            scope.spawn(move || {
                let mut compressor = compress::Compressor::new(compression, PIECE);
                while let Ok(piece) = tar_in.recv() {
                    let packed = match &mut compressor {
                        Ok(compressor) => compressor.piece(piece),
                        Err(error) => Err(LayerError::Compress(error.to_string())),
                    };
                    if packed_out.send(packed).is_err() {
                        break;
                    }
                }
            });
        }
        let reader =
            scope.spawn(move || tar::write(tree, files, &recipe.owners, to_workers, progress));
        let mut out = Hasher::new(blob);
        // Pieces go round the workers in turn, so taking turns when collecting
        // puts them in order again.
        let mut turn = 0;
        while let Ok(packed) = from_workers[turn % workers].recv() {
            out.write_all(&packed?)
                .map_err(|source| LayerError::Io { path: "the layer's blob".to_owned(), source })?;
            turn += 1;
        }
        let (digest, size, _) = out.finish();
        let (diff_id, unpacked) = reader
            .join()
            .map_err(|_| LayerError::Compress("the reading thread ended early".to_owned()))??;
        Ok(Layer { diff_id, digest, size, unpacked, compression: recipe.compression })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;

    fn sample() -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir_all(root.join("workspace/sub")).expect("mkdir");
        // Longer than a piece, and not a multiple of anything.
        let long: Vec<u8> = (0..3_333_333_u32).map(|n| ((n.wrapping_mul(n)) >> 7) as u8).collect();
        fs::write(root.join("workspace/long"), long).expect("write");
        fs::write(root.join("workspace/sub/empty"), "").expect("write");
        std::os::unix::fs::symlink("long", root.join("workspace/link")).expect("link");
        fs::hard_link(root.join("workspace/long"), root.join("workspace/sub/again")).expect("link");
        let tree = Tree::scan(root).expect("scan");
        (folder, tree)
    }

    fn packed(compression: Compression, workers: usize) -> (Layer, Vec<u8>) {
        let (folder, tree) = sample();
        let recipe = Recipe {
            owners: vec![Owner { folder: "workspace".to_owned(), user: 1000, group: 1000 }],
            compression,
        };
        let mut blob = Vec::new();
        let layer = pack(&tree, Files::kept(folder.path()), &recipe, workers, &mut blob, &|_| {})
            .expect("packs");
        (layer, blob)
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_workers() {
        for compression in
            [Compression::Gzip { level: 4 }, Compression::Zstd { level: 3 }, Compression::None]
        {
            let one = packed(compression, 1);
            for workers in [2, 3, 7] {
                assert!(
                    packed(compression, workers) == one,
                    "{compression:?} with {workers} workers"
                );
            }
        }
    }

    #[test]
    fn digests_are_of_the_bytes() {
        let (layer, blob) = packed(Compression::Gzip { level: 4 }, 2);
        assert_eq!((Digest::of(&blob), blob.len() as u64), (layer.digest, layer.size));
        let mut unpacked = Vec::new();
        flate2::read::MultiGzDecoder::new(blob.as_slice())
            .read_to_end(&mut unpacked)
            .expect("gzip");
        assert_eq!((Digest::of(&unpacked), unpacked.len() as u64), (layer.diff_id, layer.unpacked));
        assert_eq!(packed(Compression::Zstd { level: 3 }, 2).0.diff_id, layer.diff_id);
    }

    /// Pins the format: a change here changes every image that users have.
    #[test]
    fn diff_id_is_pinned() {
        let (layer, _) = packed(Compression::None, 1);
        assert_eq!(layer.diff_id, layer.digest);
        assert_eq!(
            layer.diff_id.to_string(),
            "sha256:3c98e62e26ff6397ad54842c6d2982d55ed304792b92955caf2f056c939acef5"
        );
    }

    /// Of the user's own files, content counts, not only length.
    #[test]
    fn another_content_is_noticed() {
        let (folder, tree) = sample();
        let recipe = Recipe { owners: Vec::new(), compression: Compression::None };
        let root = folder.path().join("workspace");
        let packed = |files| pack(&tree, files, &recipe, 2, &mut Vec::new(), &|_| {});
        let files = Files::of_user(&root, "workspace/");
        let same = packed(Files::kept(folder.path())).expect("packs");
        assert_eq!(packed(files).expect("packs"), same);
        let mut content = fs::read(root.join("long")).expect("read");
        content[3_000_000] ^= 1;
        fs::write(root.join("long"), content).expect("write");
        let result = packed(files);
        assert!(matches!(result, Err(LayerError::Changed { .. })), "{result:?}");
    }

    #[test]
    fn a_shorter_file_is_noticed() {
        let (folder, tree) = sample();
        fs::write(folder.path().join("workspace/long"), "short").expect("write");
        let recipe = Recipe { owners: Vec::new(), compression: Compression::None };
        let result = pack(&tree, Files::kept(folder.path()), &recipe, 2, &mut Vec::new(), &|_| {});
        assert!(matches!(result, Err(LayerError::Changed { .. })), "{result:?}");
    }
}
