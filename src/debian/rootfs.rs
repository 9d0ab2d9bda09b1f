//! dpkg's database in a root, and the script that finishes an installation.
//!
//! ```text
//! var/lib/dpkg/status              one stanza per package; `unpacked` until configured
//! var/lib/dpkg/info/format         1
//! var/lib/dpkg/info/<name>.list    the paths of a package; <name> is `libc6:amd64` for Multi-Arch: same
//! var/lib/dpkg/info/<name>.*       its maintainer files, scripts with mode 0755
//! var/lib/dpkg/triggers/File       paths that packages want to hear of
//! var/lib/dpkg/triggers/<trigger>  packages that want to hear of a named trigger
//! var/lib/dpkg/triggers/Unincorp   what they have not heard of yet
//! ```
//!
//! This is what `dpkg --unpack` would have written; `dpkg --configure` does the rest, in the
//! sandbox. Not done, because images do not need it: no scripts of an old version on upgrade
//! (`prerm`, `postrm`), no removal of files that only the old version had, no diversion of
//! files unpacked before the script that asks for it.

mod triggers;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, symlinkat, unlinkat};
use rustix::io::Errno;
use thiserror::Error;

use self::triggers::Interests;
use super::control::{Stanza, Stanzas};
use super::deb::Control;
use super::index::MultiArch;
use super::inside::{make_folder, open_folder, open_root, read_text, write_file};
use super::relation::{self, RelationError, is_package_name};
use super::solve::Installed;
use super::version::VersionError;

/// A package whose files are in the root already.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked<'a> {
    /// Its fields and maintainer files.
    pub control: &'a Control,
    /// Its paths, as [`Deb::unpack`](super::deb::Deb::unpack) returned them.
    pub list: &'a [String],
}

/// Why the database cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// The disk refused; the path is relative to the root.
    #[error("could not {action} `{path}` in the root")]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file concerned.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A name or an architecture that cannot be part of a file name.
    #[error("`{0}` is not a package name")]
    Name(String),
    /// A stanza of the database with a version that is none.
    #[error("the version of installed package `{package}` is malformed")]
    Version {
        /// The package.
        package: String,
        /// What is wrong.
        source: VersionError,
    },
    /// A stanza of the database with a malformed relation.
    #[error("a relation of installed package `{package}` is malformed")]
    Relation {
        /// The package.
        package: String,
        /// What is wrong.
        source: RelationError,
    },
}

pub(super) const DATABASE: &str = "var/lib/dpkg";
/// The files of the info folder that dpkg executes.
const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];

pub(super) fn io_error(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> RootfsError {
    move |source| RootfsError::Io { action, path: path.to_owned(), source }
}

/// Makes the links of a merged `/usr` (`/bin -> usr/bin` …) in an empty root,
/// so that it does not matter which package is unpacked first.
///
/// # Errors
/// [`RootfsError::Io`]; a link or a folder that is there is left alone.
pub fn prepare(root: &Path, architecture: &str) -> Result<(), RootfsError> {
    let root = open_root(root).map_err(|err| io_error("open", ".")(err.into()))?;
    let lib64 = matches!(architecture, "amd64" | "ppc64el" | "loong64").then_some("lib64");
    for name in ["bin", "sbin", "lib"].into_iter().chain(lib64) {
        let target = format!("usr/{name}");
        make_folder(&root, &target).map_err(|err| io_error("make", &target)(err.into()))?;
        match symlinkat(target.as_str(), &root, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(err) => return Err(io_error("make", name)(err.into())),
        }
    }
    Ok(())
}

/// The packages that the database of a root calls installed or unpacked; none
/// when there is no database.
///
/// # Errors
/// [`RootfsError`] when it cannot be read or is malformed.
pub fn read_database(root: &Path) -> Result<BTreeMap<String, Installed>, RootfsError> {
    let root = open_root(root).map_err(|err| io_error("open", ".")(err.into()))?;
    let text = match open_folder(&root, DATABASE) {
        Ok(folder) => {
            read_text(&folder, "status").map_err(io_error("read", "var/lib/dpkg/status"))?
        }
        Err(Errno::NOENT) => return Ok(BTreeMap::new()),
        Err(err) => return Err(io_error("open", DATABASE)(err.into())),
    };
    parse_status(&text)
}

fn parse_status(text: &str) -> Result<BTreeMap<String, Installed>, RootfsError> {
    let mut installed = BTreeMap::new();
    for stanza in Stanzas::new(text).filter(is_present) {
        if let Some((name, state)) = read_installed(&stanza)? {
            installed.insert(name.to_owned(), state);
        }
    }
    Ok(installed)
}

/// What the solver wants to know of an installed package; `None` for a stanza of none.
pub(super) fn read_installed<'s>(
    stanza: &Stanza<'s>,
) -> Result<Option<(&'s str, Installed)>, RootfsError> {
    let (Some(name), Some(version)) = (stanza.field("Package"), stanza.field("Version")) else {
        return Ok(None);
    };
    let package = || name.to_owned();
    let version =
        version.parse().map_err(|source| RootfsError::Version { package: package(), source })?;
    let provides = relation::parse(stanza.field("Provides").unwrap_or(""))
        .map_err(|source| RootfsError::Relation { package: package(), source })?;
    let provides = provides
        .into_iter()
        .flatten()
        .map(|found| (found.name.to_owned(), found.constraint.map(|found| found.version)));
    let state = Installed {
        version,
        provides: provides.collect(),
        multi_arch: MultiArch::from_field(stanza.field("Multi-Arch")),
        depends: joined(stanza, ["Pre-Depends", "Depends"]),
        conflicts: joined(stanza, ["Conflicts", "Breaks"]),
    };
    Ok(Some((name, state)))
}

/// Two relation fields as one.
pub(super) fn joined(stanza: &Stanza<'_>, names: [&str; 2]) -> String {
    let fields = names.iter().filter_map(|name| stanza.field(name));
    fields.collect::<Vec<_>>().join(", ")
}

pub(super) fn is_present(stanza: &Stanza<'_>) -> bool {
    let state = stanza.field("Status").and_then(|status| status.split_whitespace().nth(2));
    matches!(
        state,
        Some(
            "installed" | "unpacked" | "half-configured" | "triggers-awaited" | "triggers-pending"
        )
    )
}

/// Records packages as unpacked, over what the database says of the same names.
///
/// # Errors
/// [`RootfsError`]; the `status` file is written last, so that a database that
/// was interrupted does not know the new packages.
pub fn write_database(root: &Path, packages: &[Unpacked<'_>]) -> Result<(), RootfsError> {
    let root = open_root(root).map_err(|err| io_error("open", ".")(err.into()))?;
    let folder =
        |path: &str| make_folder(&root, path).map_err(|err| io_error("make", path)(err.into()));
    let database = folder(DATABASE)?;
    let info = folder("var/lib/dpkg/info")?;
    let triggers = folder("var/lib/dpkg/triggers")?;
    for path in ["var/lib/dpkg/updates", "var/lib/dpkg/alternatives"] {
        folder(path)?;
    }
    let write = |folder: &OwnedFd, name: &str, bytes: &[u8], mode| {
        write_file(folder, name, bytes, mode).map_err(io_error("write", name))
    };
    write(&info, "format", b"1\n", 0o644)?;
    let old_status = read_text(&database, "status").map_err(io_error("read", "status"))?;
    let mut stanzas: BTreeMap<String, String> = Stanzas::new(&old_status)
        .filter_map(|stanza| Some((stanza.field("Package")?.to_owned(), stanza.text().to_owned())))
        .collect();
    let old_files = info_files(&info).map_err(io_error("read", "var/lib/dpkg/info"))?;
    let mut interests =
        Interests::read(&triggers).map_err(io_error("read", "var/lib/dpkg/triggers"))?;
    let mut news = BTreeSet::new();
    for package in packages {
        let stanza = Stanza::of(&package.control.stanza);
        let name = stanza.field("Package").unwrap_or("");
        let base = info_name(&stanza)?;
        for old in old_files.iter().filter(|file| belongs_to(file, name)) {
            unlinkat(&info, old.as_str(), AtFlags::empty())
                .map_err(|err| io_error("remove", old)(err.into()))?;
        }
        let mut list = package.list.join("\n");
        list.push('\n');
        write(&info, &format!("{base}.list"), list.as_bytes(), 0o644)?;
        for (file, bytes) in &package.control.files {
            let mode = if SCRIPTS.contains(&file.as_str()) { 0o755 } else { 0o644 };
            write(&info, &format!("{base}.{file}"), bytes, mode)?;
        }
        news.extend(interests.told_by(package.list));
        let declared =
            package.control.files.get("triggers").map(|bytes| String::from_utf8_lossy(bytes));
        interests.replace(&base, declared.as_deref().unwrap_or(""));
        let entry = status_entry(package.control, stanzas.get(name).map(|old| Stanza::of(old)));
        stanzas.insert(name.to_owned(), entry);
    }
    let waiting = read_text(&triggers, "Unincorp").map_err(io_error("read", "Unincorp"))?;
    news.extend(waiting.lines().map(str::to_owned));
    interests.write(&triggers).map_err(io_error("write", "var/lib/dpkg/triggers"))?;
    let news: String = news.iter().map(|line| format!("{line}\n")).collect();
    write(&triggers, "Unincorp", news.as_bytes(), 0o644)?;
    let mut status = String::new();
    for stanza in stanzas.values() {
        status.push_str(stanza.trim_end());
        status.push_str("\n\n");
    }
    write(&database, "status", status.as_bytes(), 0o644)
}

/// The name that the files of a package have in the info folder.
fn info_name(stanza: &Stanza<'_>) -> Result<String, RootfsError> {
    let (name, architecture) =
        (stanza.field("Package").unwrap_or(""), stanza.field("Architecture").unwrap_or(""));
    for part in [name, architecture] {
        if !is_package_name(part) {
            return Err(RootfsError::Name(part.to_owned()));
        }
    }
    Ok(match MultiArch::from_field(stanza.field("Multi-Arch")) {
        MultiArch::Same => format!("{name}:{architecture}"),
        _ => name.to_owned(),
    })
}

/// Whether `file` is `<name>.<word>` or `<name>:<architecture>.<word>`;
/// `python3.13.list` does not belong to `python3`.
fn belongs_to(file: &str, name: &str) -> bool {
    let Some(rest) = file.strip_prefix(name) else {
        return false;
    };
    match rest.split_once('.') {
        Some((between, word)) => {
            !word.contains('.') && (between.is_empty() || between.starts_with(':'))
        }
        None => false,
    }
}

pub(super) fn info_files(info: &OwnedFd) -> io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::new(openat(info, ".", flags, Mode::empty())?)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The stanza of the status file. dpkg fills the digests of conffiles in when it
/// renames them; those of a version that was there before it compares with.
fn status_entry(control: &Control, old: Option<Stanza<'_>>) -> String {
    let mut text = String::new();
    for (name, value) in Stanza::of(&control.stanza).fields() {
        let ours =
            ["Status", "Conffiles", "Config-Version", "Triggers-Pending", "Triggers-Awaited"];
        if ours.iter().any(|known| name.eq_ignore_ascii_case(known)) || value.is_empty() {
            continue;
        }
        text.push_str(&format!("{name}: {value}\n"));
        if name.eq_ignore_ascii_case("Package") {
            text.push_str("Status: install ok unpacked\n");
        }
    }
    let known: BTreeMap<&str, &str> = old
        .iter()
        .flat_map(|old| old.lines("Conffiles"))
        .filter_map(|line| line.split_once(' '))
        .collect();
    let conffiles = control.conffiles();
    if !conffiles.is_empty() {
        text.push_str("Conffiles:\n");
    }
    for path in &conffiles {
        let digest = known.get(path.as_str()).copied().unwrap_or("newconffile");
        text.push_str(&format!(" {path} {digest}\n"));
    }
    let configured = old.filter(is_present);
    let version = configured.and_then(|old| old.field("Config-Version").or(old.field("Version")));
    if let Some(version) = version {
        text.push_str(&format!("Config-Version: {version}\n"));
    }
    text
}

/// The script that finishes the installation of `order`, the names in the
/// order of [`solve`](super::solve::solve). It is to be run by `/bin/sh` as
/// root, or as somebody whose `chown` seems to work, with the root as `/`,
/// with `/proc` and `/dev`, without network.
///
/// What differs from day to day is gone when it ends, so that the same packages
/// give the same tree.
#[must_use]
pub fn configure_script(order: &[&str]) -> String {
    let names: Vec<&str> = order.iter().copied().filter(|name| is_package_name(name)).collect();
    include_str!("configure.sh").replace("@PACKAGES@", &names.join(" "))
}

#[cfg(test)]
mod tests;
