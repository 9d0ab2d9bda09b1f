//! The other lock files: poetry.lock, pdm.lock, pylock.toml, Pipfile.lock.
//!
//! Each gives the packages of the default group, and the Python that it was
//! made for. Where a lock does not say which group a package belongs to (Poetry
//! before 2.0), its edges are followed from the names in pyproject.toml.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::Lock;
use super::package::{Package, Source, normalise, pin};
use super::version::{Asked, poetry_range, range};
use crate::facts::Refusal;
use crate::facts::error::{Lines, toml};

/// One package of a TOML lock; each format fills other fields.
#[derive(Deserialize)]
struct Entry {
    name: Spanned<String>,
    version: Option<String>,
    // poetry, pdm
    groups: Option<Vec<String>>,
    category: Option<String>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    files: Vec<Value>,
    source: Option<BTreeMap<String, Value>>,
    git: Option<String>,
    path: Option<String>,
    url: Option<String>,
    dependencies: Option<Value>,
    extras: Option<Value>,
    // pylock
    marker: Option<String>,
    vcs: Option<Value>,
    directory: Option<Value>,
    archive: Option<Value>,
}

impl Entry {
    fn package(&self, lines: &Lines, place: Option<(Source, String)>, hashed: bool) -> Package {
        let name = self.name.get_ref();
        let line = lines.number(self.name.span().start);
        let (source, text) = match place {
            Some((source, place)) => (source, format!("{name} @ {place}")),
            None => (Source::Index, name.clone()),
        };
        let version = self.version.clone();
        let hashed = hashed || source == Source::Vcs;
        Package { name: Some(normalise(name)), version, source, hashed, line, text }
    }

    fn files_hashed(&self) -> bool {
        !self.files.is_empty() && self.files.iter().all(|file| file.get("hash").is_some())
    }
}

fn stated(
    lines: &Lines,
    text: Option<&Spanned<String>>,
    read: fn(&str) -> Result<Asked, String>,
) -> Result<Option<(Asked, Option<usize>)>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let line = lines.number(text.span().start);
    let asked = read(text.get_ref()).map_err(|message| Refusal::at(line, message))?;
    Ok(Some((asked, Some(line))))
}

/// Reads a poetry.lock; `wanted` are the normalised names that pyproject.toml
/// asks for.
///
/// # Errors
/// Not TOML, or not of the shape of a poetry.lock.
pub fn poetry(text: &str, wanted: &[String]) -> Result<Lock, Refusal> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        package: Vec<Entry>,
        metadata: Option<Metadata>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Metadata {
        python_versions: Option<Spanned<String>>,
    }
    let document: Document = toml(text)?;
    let lines = Lines::new(text);
    let python = document.metadata.and_then(|metadata| metadata.python_versions);
    let entries = document.package;
    let grouped = entries.iter().any(|entry| entry.groups.is_some() || entry.category.is_some());
    let needed = if grouped { BTreeSet::new() } else { needed_by(&entries, wanted) };
    let main = |entry: &&Entry| match (&entry.groups, &entry.category) {
        (Some(groups), _) => !entry.optional && groups.iter().any(|group| group == "main"),
        (None, Some(category)) => !entry.optional && category == "main",
        (None, None) => grouped || needed.contains(&normalise(entry.name.get_ref())),
    };
    let package = |entry: &Entry| {
        let field = |name: &str| entry.source.as_ref()?.get(name)?.as_str().map(str::to_owned);
        let place = field("url").unwrap_or_default();
        let place = match field("type").as_deref() {
            Some("git") => Some((Source::Vcs, format!("git+{place}"))),
            Some("directory" | "file") => Some((Source::Path, place)),
            Some("url") => Some((Source::Url, place)),
            _ => None,
        };
        entry.package(&lines, place, entry.files_hashed())
    };
    Ok(Lock {
        packages: entries.iter().filter(main).map(package).collect(),
        python: stated(&lines, python.as_ref(), poetry_range)?,
        ..Lock::default()
    })
}

/// The names that are reached from `wanted`. Optional edges count only when they
/// lead to an extra that an edge asks for.
fn needed_by(entries: &[Entry], wanted: &[String]) -> BTreeSet<String> {
    let by_name: BTreeMap<String, &Entry> =
        entries.iter().map(|entry| (normalise(entry.name.get_ref()), entry)).collect();
    let mut needed = BTreeSet::new();
    let mut waiting: Vec<String> = wanted.to_vec();
    while let Some(name) = waiting.pop() {
        let Some(entry) = by_name.get(&name).filter(|_| needed.insert(name)) else { continue };
        for (name, edge) in entry.dependencies.iter().filter_map(Value::as_table).flatten() {
            let optional = edge.get("optional").and_then(Value::as_bool) == Some(true);
            if !optional {
                waiting.push(normalise(name));
            }
            let asked = edge.get("extras").and_then(Value::as_array).into_iter().flatten();
            let extras = by_name.get(&normalise(name)).and_then(|entry| entry.extras.as_ref());
            for extra in asked.filter_map(Value::as_str) {
                let members = extras.and_then(|extras| extras.get(extra)?.as_array());
                for member in members.into_iter().flatten().filter_map(Value::as_str) {
                    let ends = |c: char| !(c.is_alphanumeric() || "-_.".contains(c));
                    waiting.push(normalise(member.split(ends).next().unwrap_or_default()));
                }
            }
        }
    }
    needed
}

/// Reads a pdm.lock.
///
/// # Errors
/// Not TOML, or not of the shape of a pdm.lock.
pub fn pdm(text: &str) -> Result<Lock, Refusal> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        package: Vec<Entry>,
        metadata: Option<Metadata>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        targets: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        requires_python: Option<Spanned<String>>,
    }
    let document: Document = toml(text)?;
    let lines = Lines::new(text);
    let targets = document.metadata.map(|metadata| metadata.targets).unwrap_or_default();
    // With several targets the lock holds for any of them: nothing to insist on.
    let python = match targets.as_slice() {
        [target] => target.requires_python.as_ref(),
        _ => None,
    };
    let default = |entry: &&Entry| {
        entry.groups.as_ref().is_none_or(|groups| groups.iter().any(|group| group == "default"))
    };
    let package = |entry: &Entry| {
        let place = match (&entry.git, &entry.path, &entry.url) {
            (Some(git), _, _) => Some((Source::Vcs, format!("git+{git}"))),
            (None, Some(path), _) => Some((Source::Path, path.clone())),
            (None, None, Some(url)) => Some((Source::Url, url.clone())),
            (None, None, None) => None,
        };
        entry.package(&lines, place, entry.files_hashed())
    };
    Ok(Lock {
        packages: document.package.iter().filter(default).map(package).collect(),
        python: stated(&lines, python, range)?,
        ..Lock::default()
    })
}

/// Reads a pylock.toml (PEP 751).
///
/// # Errors
/// Not TOML, or not of the shape of a pylock.toml.
pub fn pylock(text: &str) -> Result<Lock, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Document {
        #[serde(default)]
        packages: Vec<Entry>,
        requires_python: Option<Spanned<String>>,
        #[serde(default)]
        default_groups: Vec<String>,
    }
    let document: Document = toml(text)?;
    let lines = Lines::new(text);
    // A marker may make a package depend on a group or an extra that was not asked for.
    let default = |entry: &&Entry| {
        let marker = entry.marker.as_deref().unwrap_or_default();
        let named = |group: &String| {
            marker.contains(&format!("'{group}'")) || marker.contains(&format!("\"{group}\""))
        };
        let conditional = marker.contains("dependency_groups") || marker.contains(" in extras");
        !conditional || document.default_groups.iter().any(named)
    };
    let package = |entry: &Entry| {
        let place = |value: &Value| {
            let place = value.get("url").or_else(|| value.get("path")).and_then(Value::as_str);
            place.unwrap_or_default().to_owned()
        };
        let place = match (&entry.vcs, &entry.directory, &entry.archive) {
            (Some(vcs), _, _) => Some((Source::Vcs, format!("git+{}", place(vcs)))),
            (None, Some(folder), _) => Some((Source::Path, place(folder))),
            (None, None, Some(archive)) => Some((Source::Url, place(archive))),
            (None, None, None) => None,
        };
        // The format demands a hash for each file.
        entry.package(&lines, place, entry.directory.is_none())
    };
    Ok(Lock {
        packages: document.packages.iter().filter(default).map(package).collect(),
        python: stated(&lines, document.requires_python.as_ref(), range)?,
        ..Lock::default()
    })
}

/// Reads a Pipfile.lock.
///
/// # Errors
/// Not JSON, or not of the shape of a Pipfile.lock.
pub fn pipfile(text: &str) -> Result<Lock, Refusal> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "_meta", default)]
        meta: Meta,
        #[serde(default)]
        default: BTreeMap<String, Locked>,
    }
    #[derive(Deserialize, Default)]
    struct Meta {
        #[serde(default)]
        requires: BTreeMap<String, String>,
    }
    #[derive(Deserialize)]
    struct Locked {
        version: Option<String>,
        #[serde(default)]
        hashes: Vec<String>,
        git: Option<String>,
        path: Option<String>,
        file: Option<String>,
    }
    let document: Document = serde_json::from_str(text)
        .map_err(|err| Refusal::at(err.line().max(1), format!("not readable: {err}")))?;
    let key =
        |line: &str| line.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned);
    let numbered: Vec<(usize, String)> =
        (1..).zip(text.lines()).filter_map(|(line, text)| Some((line, key(text)?))).collect();
    let start = numbered.iter().position(|(_, key)| key == "default").unwrap_or_default();
    let mut line_of: BTreeMap<&str, usize> = BTreeMap::new();
    for (line, key) in numbered.get(start..).unwrap_or_default() {
        line_of.entry(key).or_insert(*line);
    }
    let requires = &document.meta.requires;
    let mut python = None;
    if let Some(text) = requires.get("python_full_version").or(requires.get("python_version")) {
        let line = numbered.iter().find(|(_, key)| {
            key == "python_full_version"
                || key == "python_version" && !requires.contains_key("python_full_version")
        });
        let line = line.map(|(line, _)| *line);
        let asked = text.trim().parse().map(Asked::Release).or_else(|_| range(text));
        python = Some((asked.map_err(|message| Refusal { line, message })?, line));
    }
    let package = |(name, locked): (String, Locked)| {
        let (source, text) = match (locked.git, locked.path, locked.file) {
            (Some(git), _, _) => (Source::Vcs, format!("{name} @ git+{git}")),
            (None, Some(path), _) => (Source::Path, format!("{name} @ {path}")),
            (None, None, Some(file)) => (Source::Url, format!("{name} @ {file}")),
            (None, None, None) => (Source::Index, name.clone()),
        };
        Package {
            version: locked.version.as_deref().and_then(pin),
            source,
            hashed: !locked.hashes.is_empty() || source == Source::Vcs,
            line: line_of.get(name.as_str()).copied().unwrap_or(1),
            text,
            name: Some(normalise(&name)),
        }
    };
    let packages = document.default.into_iter().map(package).collect();
    Ok(Lock { packages, python, ..Lock::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lock: Result<Lock, Refusal>, python: Option<&str>, expected: &[&str]) {
        let lock = lock.expect("a lock");
        let row = |p: &Package| {
            let name = p.name.as_deref().unwrap_or("");
            let version = p.version.as_deref().unwrap_or("");
            format!(
                "{}:{name} {version} {:?} {}",
                p.line,
                p.source,
                if p.hashed { "hash" } else { "-" }
            )
        };
        assert_eq!(lock.packages.iter().map(row).collect::<Vec<_>>(), expected);
        assert_eq!(lock.python.map(|(asked, _)| asked.text()).as_deref(), python);
    }

    #[test]
    fn poetry_two() {
        let text = "[[package]]\nname = \"Django\"\nversion = \"5\"\noptional = false\ngroups = [\"main\"]\n\
                    files = [{file = \"x\", hash = \"sha256:0\"}]\n\
                    [[package]]\nname = \"pytest\"\nversion = \"8\"\ngroups = [\"dev\"]\n\
                    [[package]]\nname = \"own\"\nversion = \"1\"\ngroups = [\"main\", \"dev\"]\n\
                    [package.source]\ntype = \"git\"\nurl = \"https://git.example/own\"\n\
                    [metadata]\npython-versions = \"^3.11\"\n";
        check(poetry(text, &[]), Some("^3.11"), &["2:django 5 Index hash", "12:own 1 Vcs hash"]);
    }

    #[test]
    fn poetry_without_groups() {
        let text = "[[package]]\nname = \"a\"\nversion = \"1\"\n\
                    [package.dependencies]\nb = {version = \"*\", extras = [\"x\"]}\n\
                    opt = {version = \"*\", optional = true}\n\
                    [[package]]\nname = \"b\"\nversion = \"2\"\n[package.extras]\nx = [\"c (>=1)\"]\n\
                    [[package]]\nname = \"c\"\nversion = \"3\"\n\
                    [[package]]\nname = \"opt\"\nversion = \"4\"\n";
        let expected = ["2:a 1 Index -", "8:b 2 Index -", "13:c 3 Index -"];
        check(poetry(text, &["a".to_owned()]), None, &expected);
    }

    #[test]
    fn pdm_groups() {
        let text = "[metadata]\n[[metadata.targets]]\nrequires_python = \">=3.10\"\n\
                    [[package]]\nname = \"a\"\nversion = \"1\"\ngroups = [\"default\"]\nextras = [\"x\"]\n\
                    dependencies = [\"b\"]\nfiles = [{file = \"f\", hash = \"sha256:0\"}]\n\
                    [[package]]\nname = \"t\"\nversion = \"1\"\ngroups = [\"test\"]\n";
        check(pdm(text), Some(">=3.10"), &["5:a 1 Index hash"]);
    }

    #[test]
    fn pylock_groups() {
        let text = "lock-version = \"1.0\"\nrequires-python = \">=3.12\"\ndefault-groups = [\"main\"]\n\
                    [[packages]]\nname = \"a\"\nversion = \"1\"\n\
                    [[packages]]\nname = \"b\"\nmarker = \"'dev' in dependency_groups\"\n\
                    [[packages]]\nname = \"c\"\nmarker = \"'main' in dependency_groups\"\n\
                    directory = {path = \"c\"}\ndependencies = [{name = \"a\"}]\n";
        check(pylock(text), Some(">=3.12"), &["5:a 1 Index hash", "11:c  Path -"]);
    }

    #[test]
    fn pipenv() {
        let text = "{\n \"_meta\": {\n  \"requires\": {\n   \"python_version\": \"3.8\"\n  }\n },\n \"default\": {\n\
                    \"flask\": {\n\"hashes\": [\"sha256:0\"],\n\"version\": \"==1.1.2\"\n},\n\
                    \"own\": {\n\"git\": \"https://git.example/own\"\n}\n },\n\
                    \"develop\": {\"pytest\": {}}\n}";
        check(pipfile(text), Some("3.8"), &["8:flask 1.1.2 Index hash", "12:own  Vcs hash"]);
    }

    #[test]
    fn broken() {
        let line = |found: Result<Lock, Refusal>| found.map(|_| ()).map_err(|err| err.line);
        assert_eq!(line(pipfile("{\n\"default\": [\n")), Err(Some(2)));
        assert_eq!(line(poetry("[[package]]\nname = 1\n", &[])), Err(Some(2)));
        assert_eq!(line(pdm("\n\nx = \n")), Err(Some(3)));
        assert_eq!(line(pylock("a = 1\na = 2\n")), Err(Some(2)));
    }
}
