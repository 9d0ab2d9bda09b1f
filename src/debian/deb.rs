//! One `.deb`: its fields, its maintainer files, its content.
//!
//! ```text
//! ar archive:  debian-binary  "2.0\n"
//!              control.tar.*  control, preinst, postinst, conffiles, triggers …
//!              data.tar.*     what is installed
//! ```
//!
//! An archive is not trusted to stay inside the root, even when its digest is right:
//! - Parents are opened with `openat2(RESOLVE_IN_ROOT)`: links made by other packages are
//!   followed (`/bin -> usr/bin`), but none leads outside.
//! - The last component is never followed; a file is made anew, never written into.
//! - `..`, absolute names, devices, FIFOs, sockets, links to what this archive has not
//!   unpacked, sizes over the limits: an error that names the package and the entry.
//! - As dpkg does, a directory stays when a link or a directory comes in its place, and a
//!   link to a directory stays when a directory comes. A directory that exists keeps its mode.
//! - As dpkg does, a conffile is unpacked as `<name>.dpkg-new`; `dpkg --configure` renames it.
//!
//! Owners are ignored: everything belongs to the caller. Setuid, setgid and sticky bits go,
//! except sticky on directories. Directories do not get the archive's time, for the next
//! package would change it again. No script is run.

mod extract;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::path::Path;

use thiserror::Error;

use super::control::{ControlError, Stanza};

/// An opened `.deb`.
#[derive(Debug)]
pub struct Deb<R> {
    name: String,
    reader: R,
    control: Member,
    data: Member,
}

/// What `control.tar` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The `control` file: one stanza.
    pub stanza: String,
    /// The other files by name: `preinst`, `postinst`, `conffiles`, `triggers`, `md5sums` …
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Where a member of the ar archive lies.
#[derive(Clone, Copy, Debug)]
struct Member {
    offset: u64,
    size: u64,
    compression: Compression,
}

#[derive(Clone, Copy, Debug)]
enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

/// Why a `.deb` cannot be read or unpacked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DebError {
    /// The file, or its compressed content, cannot be read.
    #[error("could not read `{deb}`")]
    Read {
        /// The package file.
        deb: String,
        /// What the system or the decompressor said.
        source: io::Error,
    },
    /// Not the container that a `.deb` is.
    #[error("`{deb}` is not a Debian package: {problem}")]
    Format {
        /// The package file.
        deb: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The `control` file.
    #[error("the control file of `{deb}` is malformed")]
    Control {
        /// The package file.
        deb: String,
        /// What is wrong.
        source: ControlError,
    },
    /// An entry that no package may have.
    #[error("`{deb}` contains `{entry}`, which {problem}")]
    Refused {
        /// The package file.
        deb: String,
        /// The name in the archive.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The disk refused an entry.
    #[error("could not unpack `{entry}` of `{deb}`")]
    Unpack {
        /// The package file.
        deb: String,
        /// The name in the archive.
        entry: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The largest `control.tar`, unpacked: Debian's largest, a kernel's, has 2 MB.
const MAX_CONTROL_BYTES: u64 = 64 << 20;
/// The largest `data.tar`, unpacked: Debian's largest has 3.5 GB.
const MAX_DATA_BYTES: u64 = 4 << 30;
/// The memory that a decompressor may take; `xz -9` needs 65 MB.
const MAX_XZ_MEMORY: u64 = 256 << 20;
/// The same for zstd, as the binary logarithm of the window: 128 MB.
const MAX_ZSTD_WINDOW: u32 = 27;

impl Deb<File> {
    /// Opens the file at `path`; its file name is used in errors.
    ///
    /// # Errors
    /// [`DebError`] when it cannot be read or is no package.
    pub fn open(path: &Path) -> Result<Deb<File>, DebError> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        match File::open(path) {
            Ok(file) => Deb::read(name, file),
            Err(source) => Err(DebError::Read { deb: name, source }),
        }
    }
}

impl<R: Read + Seek> Deb<R> {
    /// Finds the members; `name` is used in errors.
    ///
    /// # Errors
    /// [`DebError`] when it cannot be read or is no package.
    pub fn read(name: String, mut reader: R) -> Result<Deb<R>, DebError> {
        match members(&mut reader) {
            Ok(Ok((control, data))) => Ok(Deb { name, reader, control, data }),
            Ok(Err(problem)) => Err(DebError::Format { deb: name, problem }),
            Err(source) => Err(DebError::Read { deb: name, source }),
        }
    }

    /// The fields and the maintainer files.
    ///
    /// # Errors
    /// [`DebError`] when they cannot be read or the `control` file is malformed.
    pub fn control(&mut self) -> Result<Control, DebError> {
        let deb = self.name.clone();
        let read = |source| DebError::Read { deb: deb.clone(), source };
        let mut control = Control { stanza: String::new(), files: BTreeMap::new() };
        let mut archive = tar::Archive::new(self.stream(self.control, MAX_CONTROL_BYTES)?);
        for entry in archive.entries().map_err(&read)? {
            let mut entry = entry.map_err(&read)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let refused =
                |problem| DebError::Refused { deb: deb.clone(), entry: path.clone(), problem };
            let file = path.strip_prefix("./").unwrap_or(&path);
            match entry.header().entry_type() {
                tar::EntryType::Directory if matches!(file, "" | ".") => continue,
                tar::EntryType::Regular => {}
                _ => return Err(refused("is not a file")),
            }
            let plain = !file.is_empty() && !file.starts_with('.');
            if !plain
                || !file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            {
                return Err(refused("is not the name of a maintainer file"));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(&read)?;
            if file == "control" {
                control.stanza = String::from_utf8_lossy(&bytes).into_owned();
            } else {
                control.files.insert(file.to_owned(), bytes);
            }
        }
        drop(archive);
        let malformed = |source| DebError::Control { deb: deb.clone(), source };
        let stanza = Stanza::only(&control.stanza).map_err(malformed)?;
        for field in ["Package", "Version", "Architecture"] {
            stanza.required(field).map_err(malformed)?;
        }
        Ok(control)
    }

    /// Writes the content below `root` and returns the names in the form of
    /// dpkg's `.list` files, in the order of the archive.
    ///
    /// Several packages can be unpacked at once if no two have the same file, or the same
    /// folder with different modes: the last file and the first folder win.
    ///
    /// # Errors
    /// [`DebError`]; what was written before stays.
    pub fn unpack(&mut self, root: &Path) -> Result<Vec<String>, DebError> {
        let conffiles = self.control()?.conffiles();
        let deb = self.name.clone();
        let stream = self.stream(self.data, MAX_DATA_BYTES)?;
        extract::extract(stream, &deb, root, &conffiles)
    }

    fn stream(
        &mut self,
        member: Member,
        limit: u64,
    ) -> Result<Limited<Box<dyn Read + '_>>, DebError> {
        let name = &self.name;
        let fail = |source| DebError::Read { deb: name.clone(), source };
        self.reader.seek(SeekFrom::Start(member.offset)).map_err(fail)?;
        let packed: BufReader<Take<&mut R>> =
            BufReader::with_capacity(1 << 16, self.reader.by_ref().take(member.size));
        let inner: Box<dyn Read + '_> = match member.compression {
            Compression::None => Box::new(packed),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    MAX_XZ_MEMORY,
                    liblzma::stream::CONCATENATED,
                );
                let stream = stream.map_err(|err| fail(err.into()))?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed).map_err(fail)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW).map_err(fail)?;
                Box::new(decoder)
            }
        };
        Ok(Limited { inner, left: limit })
    }
}

impl Control {
    /// The paths that `dpkg --configure` puts in place, absolute.
    #[must_use]
    pub fn conffiles(&self) -> Vec<String> {
        let text = self.files.get("conffiles").map(|bytes| String::from_utf8_lossy(bytes));
        // A line of two words is an order to remove the file on upgrade.
        let lines = text.iter().flat_map(|text| text.lines()).map(str::trim_end);
        lines
            .filter(|line| line.starts_with('/') && !line.contains(' '))
            .map(str::to_owned)
            .collect()
    }
}

/// Fails when there is more than the limit: a decompression bomb, or a package
/// that no image wants.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other("it unpacks to more bytes than are allowed")),
        }
        Ok(read)
    }
}

/// Reads the ar archive: an eight byte magic, then members with a header of
/// sixty bytes each, padded to an even length.
fn members<R: Read + Seek>(reader: &mut R) -> io::Result<Result<(Member, Member), &'static str>> {
    let length = reader.seek(SeekFrom::End(0))?;
    reader.seek(SeekFrom::Start(0))?;
    let mut magic = [0; 8];
    if length < 8 {
        return Ok(Err("it is too short"));
    }
    reader.read_exact(&mut magic)?;
    if &magic != b"!<arch>\n" {
        return Ok(Err("it is not an ar archive"));
    }
    let (mut control, mut data) = (None, None);
    let mut offset = 8;
    let mut number = 0;
    while offset < length {
        let mut header = [0; 60];
        if length - offset < 60 {
            return Ok(Err("a member header is cut off"));
        }
        reader.seek(SeekFrom::Start(offset))?;
        reader.read_exact(&mut header)?;
        let text =
            |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).map(str::trim_end);
        let (Ok(name), Ok(size), b"`\n") = (text(0..16), text(48..58), &header[58..60]) else {
            return Ok(Err("a member header is malformed"));
        };
        let size = match size.parse::<u64>() {
            Ok(found) if size.bytes().all(|byte| byte.is_ascii_digit()) => found,
            _ => return Ok(Err("a member size is not a number")),
        };
        offset += 60;
        if size > length - offset {
            return Ok(Err("a member is cut off"));
        }
        let name = name.strip_suffix('/').unwrap_or(name);
        number += 1;
        if number == 1 {
            let mut format = Vec::new();
            reader.by_ref().take(size.min(16)).read_to_end(&mut format)?;
            if name != "debian-binary" || !format.starts_with(b"2.") {
                return Ok(Err("it does not begin with `debian-binary` 2"));
            }
        }
        for (prefix, slot) in [("control.tar", &mut control), ("data.tar", &mut data)] {
            let Some(ending) = name.strip_prefix(prefix) else {
                continue;
            };
            let compression = match ending {
                "" => Compression::None,
                ".gz" => Compression::Gzip,
                ".xz" => Compression::Xz,
                ".zst" => Compression::Zstd,
                _ => return Ok(Err("a member is compressed in an unknown way")),
            };
            if slot.replace(Member { offset, size, compression }).is_some() {
                return Ok(Err("a member is there twice"));
            }
        }
        offset += size + size % 2;
    }
    Ok(match (control, data) {
        (Some(control), Some(data)) => Ok((control, data)),
        _ => Err("`control.tar` or `data.tar` is missing"),
    })
}

#[cfg(test)]
mod tests;
