//! Trees as text, one line an entry, sorted by path: how the store keeps their lists. Read and
//! written line by line, so that there is no second copy of a long one.

use std::io::{self, BufRead, Write};

use super::entries::Entries;
use super::{Node, Tree, TreeError};
use crate::digest::Digest;

impl Tree {
    /// Writes the tree as lines of text.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        for (path, node) in self.iter() {
            match node {
                Node::Directory { mode, opaque } => {
                    write!(to, "{} {mode:o} ", if opaque { "opaque" } else { "dir" })?;
                }
                Node::File { mode, size, digest } => {
                    write!(to, "file {mode:o} {size} {} ", digest.hex())?;
                }
                Node::Symlink { target } => write!(to, "link {} ", escape(target))?,
                Node::HardLink { to: first } => write!(to, "hard {} ", escape(first))?,
                Node::Whiteout => to.write_all(b"gone ")?,
            }
            to.write_all(escape(path).as_bytes())?;
            to.write_all(b"\n")?;
        }
        Ok(())
    }

    /// The opposite of [`Tree::write_to`].
    ///
    /// # Errors
    /// A line that `write_to` would not have written there; those of `from`, of what is `named` so.
    pub fn read_from(mut from: impl BufRead, named: &std::path::Path) -> Result<Tree, TreeError> {
        let mut entries = Entries::default();
        let (mut line, mut leads) = (String::new(), Vec::new());
        for number in 1.. {
            line.clear();
            let read = from.read_line(&mut line);
            if read.map_err(|source| TreeError::Io { path: named.to_owned(), source })? == 0 {
                break;
            }
            let malformed = || TreeError::Text { line: number };
            let parsed = parse_line(line.trim_end_matches('\n'), &mut leads);
            let (path, node) = parsed.ok_or_else(malformed)?;
            if !entries.push(&path, node) {
                return Err(malformed());
            }
        }
        entries.shrink();
        Ok(Tree::of(entries))
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

/// An entry of a line; `leads` becomes where a link leads.
fn parse_line<'l>(line: &str, leads: &'l mut Vec<u8>) -> Option<(Vec<u8>, Node<'l>)> {
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
        kind @ ("link" | "hard") => {
            *leads = unescape(words.next()?)?;
            if kind == "link" {
                Node::Symlink { target: leads }
            } else {
                Node::HardLink { to: leads }
            }
        }
        "gone" => Node::Whiteout,
        _ => return None,
    };
    let path = unescape(words.next()?)?;
    if words.next().is_some() { None } else { Some((path, node)) }
}
