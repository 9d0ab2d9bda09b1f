//! The one kind of content name: a SHA-256, checked where it is made.
//!
//! A [`Digest`] can be made only by hashing or by parsing sixty-four lower-case
//! hexadecimal digits, so a digest taken from a manifest or a lock file can be
//! used in a path or a URL without another look.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// A SHA-256. Shown as `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DigestError {
    /// Another algorithm than SHA-256, or none where one is required.
    #[error("`{0}` is not a sha256 digest")]
    Algorithm(String),
    /// Not sixty-four lower-case hexadecimal digits.
    #[error("`{0}` is not 64 lower-case hexadecimal digits")]
    Hex(String),
}

impl Digest {
    /// How many bytes a digest has.
    pub const LENGTH: usize = 32;

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest of all that `reader` yields, and how many bytes that was.
    ///
    /// # Errors
    /// What the reader fails with.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Digest, u64)> {
        let mut hasher = Hasher::new(io::sink());
        let length = io::copy(&mut reader, &mut hasher)?;
        Ok((hasher.finish().0, length))
    }

    /// Parses the sixty-four digits without the `sha256:` in front.
    ///
    /// # Errors
    /// [`DigestError::Hex`] for anything else.
    pub fn from_hex(text: &str) -> Result<Digest, DigestError> {
        let wrong = || DigestError::Hex(text.chars().take(80).collect());
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(wrong());
        }
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(wrong()),
            };
        }
        Ok(Digest(bytes))
    }

    /// The sixty-four digits.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        text
    }

    /// The first twelve digits: enough to tell two apart in a message.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// One of so many buckets, into which digests fall evenly.
    #[must_use]
    pub fn bucket(&self, buckets: u64) -> u64 {
        let [a, b, c, d, ..] = self.bytes();
        u64::from(u32::from_be_bytes([*a, *b, *c, *d])) % buckets.max(1)
    }

    /// The thirty-two bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        match text.strip_prefix("sha256:") {
            Some(hex) => Digest::from_hex(hex),
            None => Err(DigestError::Algorithm(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Text where people may read it, the bytes alone where they cannot.
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Digest);
        }
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A writer that hashes and counts what passes through it.
pub struct Hasher<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Hasher<W> {
    /// Wraps `inner`; use [`io::sink`] to hash only.
    pub fn new(inner: W) -> Hasher<W> {
        Hasher { inner, hash: Sha256::new(), length: 0 }
    }

    /// The digest, the number of bytes, and the wrapped writer.
    pub fn finish(self) -> (Digest, u64, W) {
        (Digest(self.hash.finalize().into()), self.length, self.inner)
    }
}

impl<W: Write> Write for Hasher<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes a sequence of fields so that no two different sequences share bytes:
/// each field is preceded by its length, each list by its count.
///
/// Keys and tree digests are made with this and with nothing else; changing the
/// encoding changes every key.
pub struct Fields(Sha256);

impl Fields {
    /// Starts with the kind of thing that is named, such as `forge-step-1`.
    #[must_use]
    pub fn new(kind: &str) -> Fields {
        let mut fields = Fields(Sha256::new());
        fields.text(kind);
        fields
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Fields {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) -> &mut Fields {
        self.bytes(text.as_bytes())
    }

    /// Adds a number, also used as the count in front of a list.
    pub fn number(&mut self, number: u64) -> &mut Fields {
        self.0.update(number.to_le_bytes());
        self
    }

    /// Adds a digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Fields {
        self.0.update(digest.bytes());
        self
    }

    /// Adds a list of texts in the order given.
    pub fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) -> &mut Fields {
        let texts: Vec<&str> = texts.into_iter().collect();
        self.number(texts.len() as u64);
        for text in texts {
            self.text(text);
        }
        self
    }

    /// The name of all that was added.
    #[must_use]
    pub fn finish(&mut self) -> Digest {
        Digest(self.0.finalize_reset().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str) {
        assert!(text.parse::<Digest>().is_err(), "{text}");
    }

    #[test]
    fn parses_only_its_own_form() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
        refused(&digest.hex());
        refused(&digest.to_string().to_uppercase());
        refused("sha256:../../etc/passwd");
        refused(&digest.to_string()[..70]);
        refused("md5:d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn fields_do_not_run_together() {
        let one = Fields::new("t").text("ab").text("c").finish();
        let two = Fields::new("t").text("a").text("bc").finish();
        assert_ne!(one, two);
    }
}
