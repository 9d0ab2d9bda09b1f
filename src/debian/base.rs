//! What a root is that others made: which system, and which packages are there.
//!
//! ```text
//! etc/os-release              which system; often a link to usr/lib
//! var/lib/dpkg/status         the packages, as dpkg keeps them
//! var/lib/dpkg/status.d/*     the same where there is no dpkg (distroless): a stanza a file
//! ```
//!
//! - The root may be anybody's: links do not lead out of it, pipes are not waited for, sizes
//!   have limits.
//! - Nothing is changed, and nothing looked up: a package counts as its stanza says.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;

use super::control::{Stanza, Stanzas};
use super::inside::{exists, open_folder, open_root, read_foreign};
use super::rootfs::{DATABASE, RootfsError, info_files, io_error, is_present, read_installed};
use super::solve::Installed;

/// What a root says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The system; `None` when it does not say.
    pub system: Option<System>,
    /// The packages that are installed, by name, then architecture.
    pub packages: Vec<Known>,
    /// Whether dpkg and a shell are there, without which no package can be added.
    pub has_dpkg: bool,
}

/// A system by its `os-release`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// `debian`, `ubuntu`; `linux` when it does not say.
    pub id: String,
    /// What it is like: `debian` for Ubuntu.
    pub like: Vec<String>,
    /// `13`.
    pub version: Option<String>,
    /// `trixie`.
    pub codename: Option<String>,
    /// For people: `Debian GNU/Linux 13 (trixie)`.
    pub name: String,
}

/// A package that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// `amd64`, `all`.
    pub architecture: String,
    /// Its version, what it provides, and what it asks of others.
    pub state: Installed,
}

/// The largest `os-release`.
const MAX_RELEASE: u64 = 64 << 10;
/// The largest `status`: that of a full desktop has 6 MB.
const MAX_STATUS: u64 = 64 << 20;

/// Looks at the root.
///
/// # Errors
/// [`RootfsError`] when a file cannot be read or the database is malformed.
pub fn read(root: &Path) -> Result<Base, RootfsError> {
    let root = open_root(root).map_err(|err| io_error("open", ".")(err.into()))?;
    let mut system = None;
    for path in ["etc/os-release", "usr/lib/os-release"] {
        let text = read_foreign(&root, path, MAX_RELEASE).map_err(io_error("read", path))?;
        if let Some(text) = text {
            system = Some(parse_release(&text));
            break;
        }
    }
    let mut packages = BTreeMap::new();
    let mut add = |stanza: &Stanza<'_>| -> Result<(), RootfsError> {
        if let Some((name, state)) = read_installed(stanza)? {
            let architecture = stanza.field("Architecture").unwrap_or("all").to_owned();
            let known = Known { name: name.to_owned(), architecture, state };
            packages.insert((known.name.clone(), known.architecture.clone()), known);
        }
        Ok(())
    };
    for path in single_files(&root)? {
        let text = read_foreign(&root, &path, MAX_STATUS).map_err(io_error("read", &path))?;
        // These have no `Status`: they would not be there otherwise.
        Stanzas::new(&text.unwrap_or_default()).try_for_each(|stanza| add(&stanza))?;
    }
    let path = format!("{DATABASE}/status");
    let text = read_foreign(&root, &path, MAX_STATUS).map_err(io_error("read", &path))?;
    let text = text.unwrap_or_default();
    Stanzas::new(&text).filter(is_present).try_for_each(|stanza| add(&stanza))?;
    let has_dpkg = exists(&root, "usr/bin/dpkg") && exists(&root, "bin/sh");
    Ok(Base { system, packages: packages.into_values().collect(), has_dpkg })
}

/// The files of `status.d`, without the sums beside them.
fn single_files(root: &OwnedFd) -> Result<Vec<String>, RootfsError> {
    let path = format!("{DATABASE}/status.d");
    let names = match open_folder(root, &path) {
        Ok(folder) => info_files(&folder).map_err(io_error("read", &path))?,
        Err(Errno::NOENT | Errno::NOTDIR) => Vec::new(),
        Err(err) => return Err(io_error("open", &path)(err.into())),
    };
    let names =
        names.into_iter().filter(|name| !name.starts_with('.') && !name.ends_with(".md5sums"));
    Ok(names.map(|name| format!("{path}/{name}")).collect())
}

impl Base {
    /// What packages of `architecture` find there, for a
    /// [`Request`](super::solve::Request): packages of other architectures do not count.
    #[must_use]
    pub fn installed(&self, architecture: &str) -> BTreeMap<String, Installed> {
        let fits = |known: &&Known| [architecture, "all"].contains(&known.architecture.as_str());
        let fitting = self.packages.iter().filter(fits);
        fitting.map(|known| (known.name.clone(), known.state.clone())).collect()
    }

    /// The release of Debian itself that this is, by its code name: packages of that release
    /// can be added. `None` for what is only like Debian.
    #[must_use]
    pub fn debian_release(&self) -> Option<&str> {
        self.system.as_ref().filter(|system| system.id == "debian")?.codename.as_deref()
    }
}

impl System {
    /// Whether it is Debian or says that it is like it.
    #[must_use]
    pub fn is_debian_like(&self) -> bool {
        self.id == "debian" || self.like.iter().any(|name| name == "debian")
    }
}

/// Reads the format of os-release(5): shell assignments.
fn parse_release(text: &str) -> System {
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name, unquoted(value));
        }
    }
    let mut take = |name| fields.remove(name).filter(|value| !value.is_empty());
    let codename = take("VERSION_CODENAME").or_else(|| {
        // Distroless has it here alone: `Debian GNU/Linux 12 (bookworm)`.
        let version = take("VERSION")?;
        let (_, rest) = version.split_once('(')?;
        Some(rest.split_once(')')?.0.to_owned())
    });
    let id = take("ID").unwrap_or_else(|| "linux".to_owned());
    System {
        like: take("ID_LIKE").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        version: take("VERSION_ID"),
        codename,
        name: take("PRETTY_NAME").or_else(|| take("NAME")).unwrap_or_else(|| id.clone()),
        id,
    }
}

/// A value without its quotes; in double quotes a backslash takes the meaning from what follows.
fn unquoted(value: &str) -> String {
    if let Some(inner) = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let mut text = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn names(base: &Base) -> Vec<String> {
        let line = |known: &Known| {
            format!("{} {} {}", known.name, known.state.version, known.architecture)
        };
        base.packages.iter().map(line).collect()
    }

    #[test]
    fn debian() {
        let release = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"13\"\n\
                       VERSION=\"13 (trixie)\"\nVERSION_CODENAME=trixie\nID=debian\n# end\n";
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: same\nVersion: 1:2-3\n\
                      Provides: v (= 1), w\nDepends: b (>= 1)\nPre-Depends: c\nBreaks: d\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n\
                      Package: a\nStatus: install ok installed\nArchitecture: i386\nMulti-Arch: same\nVersion: 1:2-3\n\n\
                      Package: half\nStatus: install ok half-installed\nArchitecture: all\nVersion: 1\n\n\
                      Package: z\nStatus: install ok installed\nArchitecture: all\nVersion: 9\n";
        let files = [
            ("usr/lib/os-release", release),
            ("var/lib/dpkg/status", status),
            ("usr/bin/dpkg", ""),
            ("usr/bin/sh", ""),
        ];
        let root = root(&files);
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink("../usr/lib/os-release", root.path().join("etc/os-release")).unwrap();
        symlink("usr/bin", root.path().join("bin")).unwrap();
        let base = read(root.path()).unwrap();
        assert_eq!(names(&base), ["a 1:2-3 amd64", "a 1:2-3 i386", "z 9 all"]);
        assert_eq!(base.debian_release(), Some("trixie"));
        assert!(base.has_dpkg);
        let system = base.system.as_ref().unwrap();
        assert_eq!((system.version.as_deref(), system.is_debian_like()), (Some("13"), true));
        assert_eq!(system.name, "Debian GNU/Linux 13 (trixie)");
        let installed = base.installed("amd64");
        assert_eq!(installed.keys().collect::<Vec<_>>(), ["a", "z"]);
        let a = &installed["a"];
        assert_eq!((a.depends.as_str(), a.conflicts.as_str()), ("c, b (>= 1)", "d"));
        assert_eq!(a.provides["v"].as_ref().unwrap().as_str(), "1");
        assert_eq!(a.provides["w"], None);
        assert_eq!(base.installed("i386").keys().collect::<Vec<_>>(), ["a", "z"]);
        assert_eq!(base.installed("arm64").keys().collect::<Vec<_>>(), ["z"]);
    }

    #[test]
    fn distroless() {
        let base = read(
            root(&[
                ("etc/os-release", "NAME=\"Debian GNU/Linux\"\nID=\"debian\"\nVERSION=\"Debian GNU/Linux 12 (bookworm)\"\n"),
                ("var/lib/dpkg/status.d/libc6", "Package: libc6\nVersion: 2.36-9\nArchitecture: amd64\n"),
                ("var/lib/dpkg/status.d/libc6.md5sums", "0 usr/lib/libc.so.6\n"),
                ("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2025b\nArchitecture: all\n"),
            ])
            .path(),
        )
        .unwrap();
        assert_eq!(names(&base), ["libc6 2.36-9 amd64", "tzdata 2025b all"]);
        assert_eq!((base.debian_release(), base.has_dpkg), (Some("bookworm"), false));
    }

    #[test]
    fn other_systems() {
        for (text, debian_like, name) in [
            (
                "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\nPRETTY_NAME='Ubuntu 24.04'",
                true,
                "Ubuntu 24.04",
            ),
            ("ID=\"alpine\"\nNAME=\"Alpine \\\"Linux\\\"\"\n", false, "Alpine \"Linux\""),
            ("ID=x\nID_LIKE=\"ubuntu debian\"\n", true, "x"),
            ("", false, "linux"),
        ] {
            let base = read(root(&[("etc/os-release", text)]).path()).unwrap();
            let system = base.system.as_ref().unwrap();
            assert_eq!((system.is_debian_like(), system.name.as_str()), (debian_like, name));
            assert_eq!(base.debian_release(), None, "{text}");
        }
        let base = read(root(&[]).path()).unwrap();
        assert_eq!(base, Base { system: None, packages: Vec::new(), has_dpkg: false });
    }

    #[test]
    fn hostile_roots() {
        let outside = root(&[("os-release", "ID=secret\n")]);
        let evil = root(&[]);
        fs::create_dir(evil.path().join("etc")).unwrap();
        let link = evil.path().join("etc/os-release");
        symlink(outside.path().join("os-release"), &link).unwrap();
        assert_eq!(read(evil.path()).unwrap().system, None);
        fs::remove_file(&link).unwrap();
        symlink("os-release", &link).unwrap();
        assert!(read(evil.path()).is_err());
        fs::remove_file(&link).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, &link, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(read(evil.path()).is_err());
        fs::remove_file(&link).unwrap();
        fs::File::create(&link).unwrap().set_len(1 << 30).unwrap();
        assert!(read(evil.path()).is_err());
        for status in ["Version: /\n", "Version: 1\nProvides: (\n"] {
            let text = format!("Package: a\nStatus: install ok installed\n{status}");
            let error = read(root(&[("var/lib/dpkg/status", &text)]).path()).unwrap_err();
            assert!(error.to_string().contains("installed package `a`"), "{error}");
        }
    }
}
