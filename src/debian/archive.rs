//! Where packages come from: mirrors, signed indexes, and the choice of exact
//! packages for a step.
//!
//! A release is three archives: `main`, its `updates`, and `security`. What is
//! read is verified before it is parsed: the index by its signature, the lists
//! by the index, packages by the lists.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use thiserror::Error;

use super::index::{self, Index, IndexError};
use super::keyring::KeyringError;
use super::release::{self, Keyring, Release, ReleaseError};
use super::rootfs::joined;
use super::solve::{Installed, Request, Root, SolveError, solve};
use super::version::Version;
use crate::digest::Digest;
use crate::download::{DownloadError, Downloads};
use crate::plan;
use crate::store::{Store, StoreError};

/// Debian's own mirrors, for machines that name none.
pub const DEFAULT_MIRROR: &str = "https://ftp.debian.org/debian";
/// The same for security updates.
pub const DEFAULT_SECURITY_MIRROR: &str = "https://security.debian.org/debian-security";

/// No index is as large as this many bytes; a mirror that sends more is wrong.
const INDEX_LIMIT: u64 = 64 << 20;
/// Nor is an unpacked list of packages.
const LIST_LIMIT: u64 = 1 << 30;

/// Addresses without slash at the end, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    /// Of the main archive.
    pub main: Vec<String>,
    /// Of the security archive.
    pub security: Vec<String>,
}

impl Mirrors {
    fn of(&self, archive: &str) -> &[String] {
        if archive == "security" { &self.security } else { &self.main }
    }

    /// Where a package may be had.
    #[must_use]
    pub fn addresses(&self, package: &plan::Package) -> Vec<String> {
        self.of(&package.archive)
            .iter()
            .map(|mirror| format!("{mirror}/{}", package.path))
            .collect()
    }
}

/// The archives of a release, in the order in which the index numbers them.
const ARCHIVES: [(&str, &str); 3] =
    [("main", ""), ("updates", "-updates"), ("security", "-security")];

/// What packages are wanted, and on top of what.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The step that wants them, for errors.
    pub step: &'a str,
    /// The release.
    pub release: &'a str,
    /// `amd64`.
    pub architecture: &'a str,
    /// Their names; `a | b` where releases have different names for one.
    pub names: &'a [String],
    /// Packages that are there, chosen before.
    pub below: &'a [plan::Package],
    /// What an image of others has, by name.
    pub ground: &'a BTreeMap<String, Installed>,
    /// Whether the packages marked essential come along.
    pub essential: bool,
}

/// Why no packages could be chosen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// No mirror gave an index or list.
    #[error("could not read the package lists of Debian {suite}")]
    Unreachable {
        /// The suite: `trixie-updates`.
        suite: String,
        /// What the last mirror said.
        source: DownloadError,
    },
    /// No mirror is set.
    #[error("no mirror is set for Debian {suite}")]
    NoMirror {
        /// The suite.
        suite: String,
    },
    /// The index is not trusted.
    #[error("the index of Debian {suite} is not trusted")]
    Untrusted {
        /// The suite.
        suite: String,
        /// Why not.
        source: ReleaseError,
    },
    /// The index is of another suite: a mirror in disarray, or an attack.
    #[error("`{suite}` was asked for, and the index is of `{found}`")]
    WrongSuite {
        /// What was asked for.
        suite: String,
        /// What came.
        found: String,
    },
    /// The index lists no packages for this architecture.
    #[error("Debian {suite} has no packages for {architecture}")]
    NoList {
        /// The suite.
        suite: String,
        /// The architecture.
        architecture: String,
    },
    /// A list cannot be decompressed.
    #[error("a package list of Debian {suite} is damaged")]
    Damaged {
        /// The suite.
        suite: String,
        /// Why.
        source: std::io::Error,
    },
    /// A list does not parse.
    #[error("a package list of Debian {suite} is malformed")]
    Index {
        /// The suite.
        suite: String,
        /// Why.
        source: IndexError,
    },
    /// The shipped keys do not parse.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// No packages fit.
    #[error("the packages for step `{step}` cannot be chosen from Debian {release}")]
    Solve {
        /// The step.
        step: String,
        /// The release.
        release: String,
        /// Why.
        source: Box<SolveError>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The packages of a release, ready to choose from.
pub struct Archive {
    index: Index,
    /// The release and when its indexes were made, for people.
    pub label: String,
}

/// Reads and verifies the indexes of `release` for `architecture`. Lists that the
/// store has are not downloaded again. `now_unix` is the time in seconds.
///
/// # Errors
/// See [`ArchiveError`]; a bad signature or digest is never passed over.
pub fn read(
    release: &str,
    architecture: &str,
    mirrors: &Mirrors,
    downloads: &Downloads,
    store: &Store,
    now_unix: i64,
) -> Result<Archive, ArchiveError> {
    let keyring = Keyring::debian()?;
    let mut index = Index::new();
    let mut dates = Vec::new();
    for (source, (archive, ending)) in ARCHIVES.iter().enumerate() {
        let suite = format!("{release}{ending}");
        let mirrors = mirrors.of(archive);
        let (mirror, signed) = first(mirrors, &suite, |mirror| {
            downloads.bytes(&format!("{mirror}/dists/{suite}/InRelease"), INDEX_LIMIT)
        })?;
        let verified = release::verify(&signed, &keyring, now_unix)
            .map_err(|source| ArchiveError::Untrusted { suite: suite.clone(), source })?;
        if verified.codename != suite && verified.codename != release {
            return Err(ArchiveError::WrongSuite { suite, found: verified.codename });
        }
        dates.push(verified.date.clone());
        let text = list(&verified, &suite, architecture, mirror, downloads, store)?;
        index.add(&text, source).map_err(|source| ArchiveError::Index { suite, source })?;
    }
    let label = format!("{release}, {}", dates.join(", "));
    Ok(Archive { index, label })
}

fn first<'m, T>(
    mirrors: &'m [String],
    suite: &str,
    get: impl Fn(&str) -> Result<T, DownloadError>,
) -> Result<(&'m str, T), ArchiveError> {
    let mut last = ArchiveError::NoMirror { suite: suite.to_owned() };
    for mirror in mirrors {
        match get(mirror) {
            Ok(got) => return Ok((mirror, got)),
            Err(source) => last = ArchiveError::Unreachable { suite: suite.to_owned(), source },
        }
    }
    Err(last)
}

/// The text of the release's `Packages`, from the store or the mirror.
fn list(
    release: &Release,
    suite: &str,
    architecture: &str,
    mirror: &str,
    downloads: &Downloads,
    store: &Store,
) -> Result<String, ArchiveError> {
    // Security lists its components below `updates/` in some releases; the path
    // in the index is what counts.
    let path = format!("main/binary-{architecture}/Packages.xz");
    let file = release.files.get(&path).ok_or_else(|| ArchiveError::NoList {
        suite: suite.to_owned(),
        architecture: architecture.to_owned(),
    })?;
    if store.blob_size(&file.digest)? != Some(file.size) {
        // By its digest, so that a mirror that is being updated cannot mix an
        // old index with a new list.
        let hex = file.digest.hex();
        let by_hash =
            format!("{mirror}/dists/{suite}/main/binary-{architecture}/by-hash/SHA256/{hex}");
        let plain = format!("{mirror}/dists/{suite}/{path}");
        let bytes = downloads
            .bytes(&by_hash, file.size)
            .or_else(|error| {
                if error.is_absent() { downloads.bytes(&plain, file.size) } else { Err(error) }
            })
            .map_err(|source| ArchiveError::Unreachable { suite: suite.to_owned(), source })?;
        let mut blob = store.new_blob()?;
        blob.write_all(&bytes)
            .map_err(|source| ArchiveError::Damaged { suite: suite.to_owned(), source })?;
        blob.keep(Some((&file.digest, &plain)))?;
    }
    let packed = store.read_blob(&file.digest)?;
    let reader = std::io::Read::take(liblzma::read::XzDecoder::new(packed.as_slice()), LIST_LIMIT);
    index::needed(std::io::BufReader::with_capacity(1 << 16, reader))
        .map_err(|source| ArchiveError::Damaged { suite: suite.to_owned(), source })
}

impl Archive {
    /// Chooses the packages that are wanted, and what they depend on.
    ///
    /// # Errors
    /// [`ArchiveError::Solve`].
    pub fn choose(&self, wanted: &Wanted<'_>) -> Result<Vec<plan::Package>, ArchiveError> {
        let failed = |source| ArchiveError::Solve {
            step: wanted.step.to_owned(),
            release: wanted.release.to_owned(),
            source: Box::new(source),
        };
        let installed = self.installed(wanted);
        let roots: Vec<Root> = wanted
            .names
            .iter()
            .map(|name| Root { name: self.present(name).to_owned(), constraint: None })
            .collect();
        let request = Request {
            architecture: wanted.architecture,
            roots: &roots,
            essential: wanted.essential,
            installed: &installed,
            exclude: &BTreeSet::new(),
        };
        let chosen = solve(&self.index, &request).map_err(failed)?;
        Ok(chosen
            .into_iter()
            .map(|package| plan::Package {
                name: package.name().to_owned(),
                version: package.version.to_string(),
                architecture: package.architecture().to_owned(),
                digest: Digest::clone(&package.sha256),
                size: package.size,
                archive: ARCHIVES
                    .get(package.source)
                    .map_or("main", |(archive, _)| archive)
                    .to_owned(),
                path: package.filename().to_owned(),
            })
            .collect())
    }

    /// Of `a | b`, names that a package has in different releases, the one that it
    /// has in this one; the first when there is none.
    fn present<'n>(&self, names: &'n str) -> &'n str {
        let mut all = names.split('|').map(str::trim);
        let first = all.next().unwrap_or(names);
        if self.index.lookup(first).is_some() {
            return first;
        }
        all.find(|name| self.index.lookup(name).is_some()).unwrap_or(first)
    }

    /// What the packages below count as. Packages that a lock names may have
    /// left the index; then the index's own version says what they provide and need.
    fn installed(&self, wanted: &Wanted<'_>) -> BTreeMap<String, Installed> {
        let mut installed = wanted.ground.clone();
        for package in wanted.below {
            let Ok(version) = package.version.parse::<Version>() else { continue };
            let known = self
                .index
                .versions(&package.name)
                .find(|known| known.version == version)
                .or_else(|| self.index.lookup(&package.name));
            let provides =
                known.and_then(|known| known.provided_versions().ok()).unwrap_or_default();
            let multi_arch = known.map_or(super::index::MultiArch::No, |known| known.multi_arch);
            let text =
                |names| known.map(|known| joined(&known.stanza(), names)).unwrap_or_default();
            let state = Installed {
                version,
                provides,
                multi_arch,
                depends: text(["Pre-Depends", "Depends"]),
                conflicts: text(["Conflicts", "Breaks"]),
            };
            installed.insert(package.name.clone(), state);
        }
        installed
    }
}
