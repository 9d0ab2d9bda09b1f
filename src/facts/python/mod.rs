//! Python: who manages the dependencies, what they are, which Python is asked
//! for.
//!
//! One lock file decides; two are an error, since they are never kept equal by
//! hand. A lock file beside requirements.txt wins, because that file is then
//! usually an export of it. What several files say about the Python version
//! must agree before anything is installed.

mod locks;
mod package;
mod pyproject;
mod requirements;
mod uv_lock;
mod version;

use std::collections::{BTreeMap, BTreeSet};

use super::{FactError, Facts, Files, Refusal, in_app, parsed};
use package::{Package, Source};
use pyproject::Pyproject;
use version::{Asked, Release};

#[cfg(test)]
pub use fuzzed::parsers;

/// Lock files and their managers, in the order in which they decide.
const LOCKS: [(&str, &str); 5] = [
    ("uv.lock", "uv"),
    ("poetry.lock", "poetry"),
    ("pdm.lock", "pdm"),
    ("pylock.toml", "pylock"),
    ("Pipfile.lock", "pipenv"),
];

/// Requirements files, in the order in which they decide.
const REQUIREMENTS: [&str; 4] = [
    "requirements.txt",
    "requirements/production.txt",
    "requirements/prod.txt",
    "requirements/base.txt",
];

/// The series of Python that forge can be asked for.
const SERIES: [(u64, u64); 6] = [(3, 9), (3, 10), (3, 11), (3, 12), (3, 13), (3, 14)];

/// What any lock file gives.
#[derive(Debug, Default)]
pub struct Lock {
    /// The packages of the default group.
    pub packages: Vec<Package>,
    /// The Python it was made for, with the line where that is known.
    pub python: Option<(Asked, Option<usize>)>,
    /// Folders of the tree that are installed as packages.
    pub members: BTreeSet<String>,
}

/// What the manifests say about the Python version, for [`versions`].
#[derive(Debug, Default)]
pub struct Manifest {
    lock: Vec<Statement>,
    pyproject: Vec<Statement>,
    last: Vec<Statement>,
}

/// One file's word on the Python version.
#[derive(Debug)]
struct Statement {
    asked: Asked,
    path: &'static str,
    line: Option<usize>,
}

impl Statement {
    fn origin(&self) -> String {
        self.line.map_or(self.path.to_owned(), |line| format!("{}:{line}", self.path))
    }
}

/// Finds the manager and the dependencies; `None` without a Python manifest.
///
/// # Errors
/// Two lock files; a manifest that cannot be read.
pub fn dependencies(files: &dyn Files, facts: &mut Facts) -> Result<Option<Manifest>, FactError> {
    let pyproject = parsed(files, "pyproject.toml", pyproject::parse)?;
    let Some((path, manager)) = decide(files, pyproject.as_ref())? else { return Ok(None) };
    facts.insert("python.manager", manager, path);
    facts.insert("python.lock", path, path);
    let mut inputs = BTreeSet::from([path.to_owned()]);
    let mut beside = |names: &[&str]| {
        inputs.extend(names.iter().filter(|name| files.has(name)).map(|name| (*name).to_owned()));
    };
    let project = pyproject.as_ref();
    if ["uv", "poetry", "pdm"].contains(&manager) && project.is_none() {
        let message = format!("there is no pyproject.toml beside it: commit it, or remove {path}");
        return Err(Refusal::whole(message).within(path));
    }
    let lock = match manager {
        "uv" => {
            beside(&["pyproject.toml", "uv.toml"]);
            let name = project.and_then(|project| project.name.as_deref());
            parsed(files, path, |text| uv_lock::parse(text, name))?
        }
        "poetry" => {
            beside(&["pyproject.toml", "poetry.toml"]);
            let wanted = project.map(|project| project.poetry.as_slice()).unwrap_or_default();
            parsed(files, path, |text| locks::poetry(text, wanted))?
        }
        "pdm" => {
            beside(&["pyproject.toml", "pdm.toml"]);
            parsed(files, path, locks::pdm)?
        }
        "pylock" => parsed(files, path, locks::pylock)?,
        "pipenv" => {
            beside(&["Pipfile"]);
            parsed(files, path, locks::pipfile)?
        }
        _ => None,
    };
    let Lock { packages, python, members } = lock.unwrap_or_default();
    let mut located: Vec<(String, Package)> =
        packages.into_iter().map(|package| (path.to_owned(), package)).collect();
    for member in members {
        let manifest = format!("{member}/pyproject.toml");
        inputs.extend(Some(manifest).filter(|manifest| files.has(manifest)));
    }
    if manager == "pip" {
        let tree = requirements::follow(files, path)?;
        inputs.extend(tree.files);
        located = tree.packages;
    }
    let mut manifest = Manifest::default();
    if let Some((asked, line)) = python {
        let order = if manager == "uv" { &mut manifest.last } else { &mut manifest.lock };
        order.push(Statement { asked, path, line });
    }
    if let Some(project) = pyproject {
        if manager == "pyproject" {
            let dependencies = project.dependencies.into_iter();
            located = dependencies.map(|package| (path.to_owned(), package)).collect();
        }
        if project.package {
            facts.insert("python.project", "package", "pyproject.toml");
        }
        manifest.pyproject = project
            .python
            .into_iter()
            .map(|(asked, line)| Statement { asked, path: "pyproject.toml", line: Some(line) })
            .collect();
    }
    let inputs: Vec<String> = inputs.into_iter().collect();
    facts.insert("python.inputs", inputs.join("\n"), path);
    record(path, &located, facts);
    let src = files.paths().find(|found| {
        let inner = found.strip_prefix("src/").and_then(|rest| rest.strip_suffix("/__init__.py"));
        inner.is_some_and(|package| !package.contains('/')) && in_app(found)
    });
    if let Some(src) = src {
        facts.insert("python.src", "src", src);
    }
    Ok(Some(manifest))
}

/// The deciding file and its manager.
fn decide(
    files: &dyn Files,
    pyproject: Option<&Pyproject>,
) -> Result<Option<(&'static str, &'static str)>, FactError> {
    let mut locks = LOCKS.iter().copied().filter(|(path, _)| files.has(path));
    if let Some((path, manager)) = locks.next() {
        if let Some((other, _)) = locks.next() {
            let message =
                format!("{path} and {other} both lock the dependencies: remove one of them");
            return Err(Refusal::whole(message).within(path));
        }
        return Ok(Some((path, manager)));
    }
    if let Some(path) = REQUIREMENTS.into_iter().find(|path| files.has(path)) {
        return Ok(Some((path, "pip")));
    }
    let project = pyproject.is_some_and(|pyproject| pyproject.has_project);
    Ok(project.then_some(("pyproject.toml", "pyproject")))
}

/// States the packages, where odd ones come from, and whether all have hashes.
fn record(path: &str, packages: &[(String, Package)], facts: &mut Facts) {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, package) in packages {
        let origin = || format!("{file}:{}", package.line);
        let odd = match package.source {
            Source::Index => None,
            Source::Vcs => Some("python.requirement.vcs"),
            Source::Path => Some("python.requirement.path"),
            Source::Url => Some("python.requirement.url"),
        };
        if let Some(odd) = odd.filter(|odd| !facts.contains(odd)) {
            facts.insert(odd, package.text.clone(), origin());
        }
        let Some(name) = &package.name else { continue };
        let found = versions.entry(name).or_default();
        found.extend(package.version.as_deref());
        // Two pins mean two platforms or Pythons: neither is the version.
        let version = match found.len() {
            1 => found.first().copied().unwrap_or_default(),
            _ => "",
        };
        let fact = format!("python.package.{name}");
        let first = facts.fact(&fact).map_or_else(origin, |fact| fact.origin.clone());
        facts.insert(fact, version, first);
    }
    if !packages.is_empty() && packages.iter().all(|(_, package)| package.hashed) {
        facts.insert("python.hashes", "all", path);
    }
}

/// States the Python version asked for and the series that all files allow.
///
/// # Errors
/// A version file that cannot be read; two files that contradict each other.
pub fn versions(
    files: &dyn Files,
    manifest: Option<Manifest>,
    facts: &mut Facts,
) -> Result<(), FactError> {
    let mut stated = Vec::new();
    let mut release = |path: &'static str, found: Option<(Release, usize)>| {
        let statement =
            |(release, line)| Statement { asked: Asked::Release(release), path, line: Some(line) };
        stated.extend(found.map(statement));
    };
    release(".python-version", parsed(files, ".python-version", version::python_version_file)?);
    release("runtime.txt", parsed(files, "runtime.txt", version::runtime_txt)?);
    let manifest = manifest.unwrap_or_default();
    stated.extend(manifest.lock.into_iter().chain(manifest.pyproject).chain(manifest.last));
    // The files of tool switchers also name what only developers use, so they
    // count when nothing else speaks, and contradict nothing.
    for path in [".tool-versions", "mise.toml", ".mise.toml"] {
        if stated.is_empty() {
            let parse =
                if path == ".tool-versions" { version::tool_versions } else { version::mise };
            let found = parsed(files, path, parse)?.flatten();
            stated.extend(found.map(|(release, line)| Statement {
                asked: Asked::Release(release),
                path,
                line: Some(line),
            }));
        }
    }
    if let Some(first) = stated.first() {
        let text = first.asked.text();
        if let Asked::Release(_) = first.asked
            && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            facts.insert("python.exact", text.as_str(), first.origin());
        }
        facts.insert("python.version", text, first.origin());
    }
    contradiction(&stated)?;
    for (major, minor) in SERIES {
        if stated.iter().all(|statement| statement.asked.allows_series((major, minor))) {
            let origins: Vec<String> = stated.iter().map(Statement::origin).collect();
            let origin = if origins.is_empty() { "default".to_owned() } else { origins.join(", ") };
            facts.insert(format!("python.allows.{major}.{minor}"), "yes", origin);
        }
    }
    Ok(())
}

/// Whether the version asked for is one that every other file allows.
fn contradiction(stated: &[Statement]) -> Result<(), FactError> {
    let exact = stated.iter().find_map(|statement| match statement.asked {
        Asked::Release(release) => Some((statement, release)),
        Asked::Range { .. } => None,
    });
    let Some((exact, release)) = exact else { return Ok(()) };
    match stated.iter().find(|other| !other.asked.allows(release)) {
        None => Ok(()),
        Some(other) => {
            let message = format!(
                "asks for Python {}, but {} asks for {}: make them agree",
                exact.asked.text(),
                other.origin(),
                other.asked.text()
            );
            Err(FactError { path: exact.path.to_owned(), line: exact.line, message })
        }
    }
}

#[cfg(test)]
mod fuzzed {
    //! The parsers as one list, for the test that feeds them rubbish.

    use super::{locks, pyproject, requirements, uv_lock, version};

    /// Every parser, its result dropped.
    pub fn parsers() -> Vec<fn(&str)> {
        vec![
            |text| drop(requirements::parse(text)),
            |text| drop(pyproject::parse(text)),
            |text| drop(uv_lock::parse(text, None)),
            |text| drop(locks::poetry(text, &[])),
            |text| drop(locks::pdm(text)),
            |text| drop(locks::pylock(text)),
            |text| drop(locks::pipfile(text)),
            |text| drop(version::python_version_file(text)),
            |text| drop(version::runtime_txt(text)),
            |text| drop(version::tool_versions(text)),
            |text| drop(version::mise(text)),
            |text| {
                for asked in
                    [version::range(text), version::poetry_range(text)].into_iter().flatten()
                {
                    let _ = asked.allows_series((3, 12));
                }
            },
        ]
    }
}
