//! One piece of tar to one piece of blob.

use std::fmt;

use libdeflater::{CompressionLvl, Compressor as Deflate};
use serde::{Deserialize, Serialize};

use super::LayerError;
use super::pieces::{Piece, Pool};

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar.
    None,
    /// What every registry and runtime takes. Level 1 to 12 of libdeflate; 4
    /// gives the size of zlib's 6 at nearly twice the speed.
    Gzip {
        /// libdeflate's level.
        level: u8,
    },
    /// Smaller and faster, but older Docker engines cannot pull it.
    Zstd {
        /// zstd's level, 1 to 19.
        level: u8,
    },
}

impl Compression {
    /// What is used unless something else is asked for.
    pub const DEFAULT: Compression = Compression::Gzip { level: 4 };

    /// Encoder and level: part of a layer's key, as another encoder gives
    /// other bytes.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Compression::None => "none".to_owned(),
            Compression::Gzip { level } => format!("gzip libdeflate-1 {level}"),
            Compression::Zstd { level } => format!("zstd-0.14 {level}"),
        }
    }

    /// The media type of a layer blob so compressed (OCI image specification,
    /// `media-types.md`).
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip { .. } => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "none",
            Compression::Gzip { .. } => "gzip",
            Compression::Zstd { .. } => "zstd",
        })
    }
}

/// Stateless between pieces: the same piece gives the same bytes wherever it
/// stands.
pub(super) struct Compressor {
    encoder: Encoder,
    /// Of room for the longest that a piece may become.
    pool: Pool,
}

enum Encoder {
    None,
    Gzip(Box<Deflate>),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Compressor {
    /// For pieces of at most `longest` bytes.
    pub(super) fn new(compression: Compression, longest: usize) -> Result<Compressor, LayerError> {
        let (encoder, room) = match compression {
            Compression::None => (Encoder::None, 0),
            Compression::Gzip { level } => {
                let level = CompressionLvl::new(i32::from(level)).unwrap_or_default();
                let mut deflate = Deflate::new(level);
                let room = deflate.gzip_compress_bound(longest);
                (Encoder::Gzip(Box::new(deflate)), room)
            }
            Compression::Zstd { level } => {
                let zstd = zstd::bulk::Compressor::new(i32::from(level)).map_err(failed)?;
                (Encoder::Zstd(Box::new(zstd)), zstd::zstd_safe::compress_bound(longest))
            }
        };
        Ok(Compressor { encoder, pool: Pool::new(room) })
    }

    pub(super) fn piece(&mut self, tar: Piece) -> Result<Piece, LayerError> {
        let mut packed = self.pool.piece();
        let length = match &mut self.encoder {
            Encoder::None => return Ok(tar),
            Encoder::Gzip(deflate) => deflate.gzip_compress(&tar, packed.rest()).map_err(failed)?,
            Encoder::Zstd(zstd) => {
                zstd.compress_to_buffer(&tar[..], packed.rest()).map_err(failed)?
            }
        };
        packed.filled(length);
        Ok(packed)
    }
}

fn failed(error: impl fmt::Display) -> LayerError {
    LayerError::Compress(error.to_string())
}
