//! `Packages` files, merged: what exists, in which version, and what provides what.
//!
//! - One pass per file; a package keeps positions in the shared text, and its relations are
//!   parsed when somebody asks.
//! - Several sources (main, updates, security) merge into one index. The caller numbers them;
//!   the number comes back with the package, so that the caller knows which mirror has the file.
//! - The higher version is the default, whatever its source; of equal versions the one added first.
//! - Signatures and downloads belong to others: the text given is believed.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead};
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use super::control::{Stanza, Stanzas};
use super::relation::{self, Group, Relation, RelationError, is_package_name};
use super::release::is_plain_path;
use super::version::{Version, VersionError};
use crate::digest::{Digest, DigestError};

/// Packages of any number of sources.
#[derive(Clone, Debug, Default)]
pub struct Index {
    packages: Vec<Package>,
    /// Positions in `packages`, best version first.
    by_name: HashMap<Box<str>, Vec<u32>>,
    /// Positions of the packages that provide a name, in the order added.
    provided: HashMap<Box<str>, Vec<u32>>,
}

/// One version of one package.
#[derive(Clone, Debug)]
pub struct Package {
    text: Arc<str>,
    stanza: Span,
    name: Span,
    architecture: Span,
    filename: Span,
    depends: Span,
    pre_depends: Span,
    provides: Span,
    conflicts: Span,
    breaks: Span,
    /// Its version.
    pub version: Version,
    /// The number that the caller gave to the `Packages` file.
    pub source: usize,
    /// Whether every Debian system has it.
    pub essential: bool,
    /// How much a system wants it.
    pub priority: Priority,
    /// How it gets on with other architectures.
    pub multi_arch: MultiArch,
    /// Length of the `.deb` in bytes.
    pub size: u64,
    /// Content of the `.deb`.
    pub sha256: Digest,
}

/// The `Priority` field, the most wanted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// `required`
    Required,
    /// `important`
    Important,
    /// `standard`
    Standard,
    /// `optional`
    Optional,
    /// `extra`, anything else, or none.
    Extra,
}

/// The `Multi-Arch` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultiArch {
    /// Not given, or `no`.
    No,
    /// `same`: several architectures can be installed together.
    Same,
    /// `foreign`: serves packages of any architecture.
    Foreign,
    /// `allowed`: serves those that ask with `:any`.
    Allowed,
}

impl MultiArch {
    pub(super) fn from_field(value: Option<&str>) -> MultiArch {
        match value {
            Some("same") => MultiArch::Same,
            Some("foreign") => MultiArch::Foreign,
            Some("allowed") => MultiArch::Allowed,
            _ => MultiArch::No,
        }
    }
}

/// Why a text is not a `Packages` file.
#[derive(Debug, Error)]
#[error("package `{package}` of source {source_id} is malformed")]
pub struct IndexError {
    /// The number of the source.
    pub source_id: usize,
    /// The name in the stanza, empty when that is what is missing.
    pub package: String,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What can be wrong with a stanza.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// A field that must be there and is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A name that cannot be part of a file name.
    #[error("the name or the architecture is malformed")]
    Name,
    /// A path that would leave the mirror or the download folder.
    #[error("file name `{0}` is not a plain relative path")]
    Filename(String),
    /// A size that is not a number.
    #[error("size `{0}` is not a number")]
    Size(String),
    /// The text is larger than positions can be.
    #[error("the text is larger than 4 GiB")]
    TooLarge,
    /// The version is none.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A relation field.
    #[error(transparent)]
    Relation(#[from] RelationError),
}

/// The fields that are read. The others, descriptions above all, are most of the text.
const FIELDS: [&str; 14] = [
    "Package",
    "Version",
    "Architecture",
    "Filename",
    "Size",
    "SHA256",
    "Depends",
    "Pre-Depends",
    "Provides",
    "Conflicts",
    "Breaks",
    "Essential",
    "Priority",
    "Multi-Arch",
];

/// The lines of a `Packages` file that [`Index::add`] reads, so that the rest need never be in
/// memory.
///
/// # Errors
/// What `file` fails with; bytes that are not UTF-8.
pub fn needed(mut file: impl BufRead) -> io::Result<String> {
    let (mut text, mut line) = (String::new(), String::new());
    let mut keeps = false;
    while file.read_line(&mut line)? > 0 {
        // A line that begins with a blank goes on with the field before it.
        if !line.starts_with([' ', '\t']) {
            let name = line.split(':').next().unwrap_or("");
            keeps = line.trim_end().is_empty()
                || FIELDS.iter().any(|known| name.eq_ignore_ascii_case(known));
        }
        if keeps {
            text.push_str(&line);
        }
        line.clear();
    }
    Ok(text)
}

/// A part of the shared text; empty for an absent field.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    from: u32,
    to: u32,
}

impl Span {
    fn range(self) -> Range<usize> {
        self.from as usize..self.to as usize
    }
}

impl Index {
    /// An index without packages.
    #[must_use]
    pub fn new() -> Index {
        Index::default()
    }

    /// Adds the packages of one `Packages` file under the number `source`.
    ///
    /// # Errors
    /// [`IndexError`] for the first stanza that is malformed; nothing is added then.
    pub fn add(&mut self, text: &str, source: usize) -> Result<(), IndexError> {
        let fail = |package: &str, problem| IndexError {
            source_id: source,
            package: package.to_owned(),
            problem,
        };
        if u32::try_from(text.len()).is_err() {
            return Err(fail("", Problem::TooLarge));
        }
        let text: Arc<str> = text.into();
        let mut added = Vec::with_capacity(text.len() / 800);
        for stanza in Stanzas::new(&text) {
            let package = read_package(&text, stanza, source)
                .map_err(|problem| fail(stanza.field("Package").unwrap_or(""), problem))?;
            let provided = names_of_provides(package.part(package.provides));
            let problem = |err: RelationError| fail(package.name(), err.into());
            let names =
                provided.map(|name| name.map(Box::from)).collect::<Result<Vec<Box<str>>, _>>();
            added.push((names.map_err(problem)?, package));
        }
        for (provided, package) in added {
            let position = self.packages.len() as u32;
            for name in provided {
                self.provided.entry(name).or_default().push(position);
            }
            let versions = self.by_name.entry(package.name().into()).or_default();
            let at = versions
                .iter()
                .position(|&other| self.packages[other as usize].version < package.version);
            versions.insert(at.unwrap_or(versions.len()), position);
            self.packages.push(package);
        }
        Ok(())
    }

    /// The package of that name in its highest version.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<&Package> {
        self.versions(name).next()
    }

    /// All versions of a package, the highest first.
    pub fn versions(&self, name: &str) -> impl Iterator<Item = &Package> {
        self.by_name.get(name).into_iter().flatten().map(|&at| &self.packages[at as usize])
    }

    /// The packages that provide `name` without being called so, each with the
    /// version it provides if it says one: wanted ones first, then by name, the
    /// highest version first.
    #[must_use]
    pub fn providers(&self, name: &str) -> Vec<(&Package, Option<Version>)> {
        let positions = self.provided.get(name).into_iter().flatten();
        let mut found: Vec<(&Package, Option<Version>)> = positions
            .map(|&at| &self.packages[at as usize])
            .flat_map(|package| {
                let provides = package.provides().unwrap_or_default().into_iter();
                provides
                    .filter(|provided| provided.name == name)
                    .map(move |provided| (package, provided.constraint.map(|found| found.version)))
            })
            .filter(|(package, _)| package.name() != name)
            .collect();
        found.sort_by(|(a, _), (b, _)| {
            (a.priority, a.name())
                .cmp(&(b.priority, b.name()))
                .then_with(|| b.version.cmp(&a.version))
        });
        found
    }

    /// Every package in every version, in the order added.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// The names of all packages, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.by_name.keys().map(AsRef::as_ref).collect();
        names.sort_unstable();
        names
    }
}

fn read_package(text: &Arc<str>, stanza: Stanza<'_>, source: usize) -> Result<Package, Problem> {
    let base = text.as_ptr() as usize;
    let span = |part: &str| {
        let from = part.as_ptr() as usize - base;
        Span { from: from as u32, to: (from + part.len()) as u32 }
    };
    // One pass over the fields: looking each up by name would be ten.
    let mut values: [Option<&str>; FIELDS.len()] = [None; FIELDS.len()];
    for (name, value) in stanza.fields() {
        if let Some(at) = FIELDS.iter().position(|known| name.eq_ignore_ascii_case(known)) {
            values[at].get_or_insert(value);
        }
    }
    let required = |at: usize| {
        values[at].filter(|value| !value.is_empty()).ok_or(Problem::Missing(FIELDS[at]))
    };
    let optional = |at: usize| values[at].map(span).unwrap_or_default();
    let (name, architecture, filename) = (required(0)?, required(2)?, required(3)?);
    if !is_package_name(name) || !is_package_name(architecture) {
        return Err(Problem::Name);
    }
    if !is_plain_path(filename) {
        return Err(Problem::Filename(filename.to_owned()));
    }
    let size = required(4)?;
    Ok(Package {
        text: Arc::clone(text),
        stanza: span(stanza.text()),
        name: span(name),
        architecture: span(architecture),
        filename: span(filename),
        depends: optional(6),
        pre_depends: optional(7),
        provides: optional(8),
        conflicts: optional(9),
        breaks: optional(10),
        version: required(1)?.parse()?,
        source,
        essential: values[11] == Some("yes"),
        priority: match values[12] {
            Some("required") => Priority::Required,
            Some("important") => Priority::Important,
            Some("standard") => Priority::Standard,
            Some("optional") => Priority::Optional,
            _ => Priority::Extra,
        },
        multi_arch: MultiArch::from_field(values[13]),
        size: size.parse().map_err(|_| Problem::Size(size.to_owned()))?,
        sha256: Digest::from_hex(required(5)?)?,
    })
}

/// The names in a `Provides` field, without the cost of its versions.
fn names_of_provides(field: &str) -> impl Iterator<Item = Result<&str, RelationError>> {
    field.split(',').map(str::trim).filter(|text| !text.is_empty()).map(|text| {
        let end = text.find([' ', '(', ':', '\n', '\t']).unwrap_or(text.len());
        match is_package_name(&text[..end]) {
            true => Ok(&text[..end]),
            false => Err(RelationError::Name(text.to_owned())),
        }
    })
}

impl Package {
    fn part(&self, span: Span) -> &str {
        &self.text[span.range()]
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.part(self.name)
    }

    /// `amd64`, `all` …
    #[must_use]
    pub fn architecture(&self) -> &str {
        self.part(self.architecture)
    }

    /// Where the `.deb` lies, relative to the mirror's root: plain parts only.
    #[must_use]
    pub fn filename(&self) -> &str {
        self.part(self.filename)
    }

    /// Any other field.
    #[must_use]
    pub fn stanza(&self) -> Stanza<'_> {
        // The span was cut by the scanner, so it is one stanza.
        Stanza::of(self.part(self.stanza))
    }

    /// `Pre-Depends`.
    ///
    /// # Errors
    /// [`RelationError`] when the field is malformed; likewise below.
    pub fn pre_depends(&self) -> Result<Vec<Group<'_>>, RelationError> {
        relation::parse(self.part(self.pre_depends))
    }

    /// `Depends`, without `Pre-Depends`.
    pub fn depends(&self) -> Result<Vec<Group<'_>>, RelationError> {
        relation::parse(self.part(self.depends))
    }

    /// `Provides`.
    pub fn provides(&self) -> Result<Vec<Relation<'_>>, RelationError> {
        Ok(relation::parse(self.part(self.provides))?.into_iter().flatten().collect())
    }

    /// `Conflicts` and `Breaks` together: neither may be installed with the package.
    pub fn conflicts(&self) -> Result<Vec<Relation<'_>>, RelationError> {
        let mut all = relation::parse(self.part(self.conflicts))?;
        all.extend(relation::parse(self.part(self.breaks))?);
        Ok(all.into_iter().flatten().collect())
    }

    /// What is provided, by name, with the version if there is one.
    ///
    /// # Errors
    /// [`RelationError`] when the field is malformed.
    pub fn provided_versions(&self) -> Result<BTreeMap<String, Option<Version>>, RelationError> {
        let pairs = self.provides()?.into_iter();
        Ok(pairs
            .map(|found| (found.name.to_owned(), found.constraint.map(|found| found.version)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\n{more}Filename: pool/{name}.deb\n\
             Size: 7\nSHA256: {}\n\n",
            Digest::of(name.as_bytes()).hex()
        )
    }

    fn index(texts: &[String]) -> Index {
        let mut index = Index::new();
        for (source, text) in texts.iter().enumerate() {
            index.add(text, source).unwrap();
        }
        index
    }

    #[test]
    fn only_what_is_needed_is_kept() {
        let whole = "Package: a\nVersion: 1\nDescription: x\n more\n .\n Depends: no\nArchitecture: all\n\
            Depends: b,\n c\nTag: y\nfilename: pool/a.deb\nSize: 1\n\nPackage: d\nMaintainer: z\n";
        let kept = "Package: a\nVersion: 1\nArchitecture: all\nDepends: b,\n c\nfilename: pool/a.deb\nSize: 1\n\n\
            Package: d\n";
        assert_eq!(needed(whole.as_bytes()).expect("read"), kept);
        assert!(needed(&b"Package: \xff\n"[..]).is_err());
    }

    #[test]
    fn fields() {
        let more = "Essential: yes\nPriority: required\nMulti-Arch: same\nDepends: b (>= 1) | c\nPre-Depends: d\nConflicts: e\nBreaks: f (<< 2)\nDescription: x\n";
        let index = index(&[stanza("a", "1:2-3", more)]);
        let package = index.lookup("a").unwrap();
        assert_eq!(
            (package.name(), package.architecture(), package.filename()),
            ("a", "amd64", "pool/a.deb")
        );
        assert_eq!((package.version.as_str(), package.size, package.essential), ("1:2-3", 7, true));
        assert_eq!((package.priority, package.multi_arch), (Priority::Required, MultiArch::Same));
        assert_eq!(package.sha256, Digest::of(b"a"));
        assert_eq!(package.depends().unwrap()[0].len(), 2);
        assert_eq!(package.pre_depends().unwrap()[0][0].name, "d");
        let conflicts: Vec<String> =
            package.conflicts().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(conflicts, ["e", "f (<< 2)"]);
        assert_eq!(package.stanza().field("Description"), Some("x"));
    }

    #[test]
    fn highest_version_wins_and_keeps_its_source() {
        let index = index(&[
            stanza("a", "1.0-1", "") + &stanza("b", "2", ""),
            stanza("a", "1.0-1+deb13u1", "") + &stanza("b", "1", ""),
            stanza("a", "1.0-1", ""),
        ]);
        for (name, version, source) in [("a", "1.0-1+deb13u1", 1), ("b", "2", 0)] {
            let found = index.lookup(name).unwrap();
            assert_eq!((found.version.as_str(), found.source), (version, source));
        }
        let sources: Vec<usize> = index.versions("a").map(|package| package.source).collect();
        assert_eq!(sources, [1, 0, 2]);
        assert!(index.lookup("c").is_none());
    }

    #[test]
    fn providers() {
        let index = index(&[stanza("z", "1", "Priority: required\nProvides: awk\n")
            + &stanza("m", "1", "Priority: optional\nProvides: awk (= 3), x:any\n")
            + &stanza("b", "1", "Priority: optional\nProvides: awk\n")]);
        let found: Vec<(&str, Option<String>)> = index
            .providers("awk")
            .into_iter()
            .map(|(package, version)| (package.name(), version.map(|version| version.to_string())))
            .collect();
        assert_eq!(found, [("z", None), ("b", None), ("m", Some("3".to_owned()))]);
        assert!(index.providers("none").is_empty());
    }

    #[test]
    fn refused() {
        let good = stanza("a", "1", "");
        for (text, expected) in [
            (good.replace("pool/", "../"), "file name `../a.deb` is not a plain relative path"),
            (good.replace("pool/", "/"), "file name `/a.deb` is not a plain relative path"),
            (
                good.replace("Package: a", "Package: ../a"),
                "the name or the architecture is malformed",
            ),
            (good.replace("Size: 7", "Size: -7"), "size `-7` is not a number"),
            (good.replace("Size: 7\n", ""), "field `Size` is missing"),
            (good.replace("Version: 1", "Version: /"), "version `/` contains `/`"),
            (stanza("a", "1", "Provides: /x\n"), "`/x` has no package name"),
        ] {
            let err = Index::new().add(&text, 3).unwrap_err();
            assert_eq!(err.problem.to_string(), expected);
            assert_eq!(err.source_id, 3);
        }
    }
}
