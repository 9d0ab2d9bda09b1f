//! uv.lock: what `uv sync --no-default-groups` installs.
//!
//! The lock names all packages of all groups and platforms. Those that count
//! are found by walking the edges from the project: its dependencies, the extras
//! that an edge asks for, and so on; never a dependency group. Markers are not
//! judged.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

use super::Lock;
use super::package::{Package, Source, normalise};
use super::version::range;
use crate::facts::Refusal;
use crate::facts::error::{Lines, toml};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    requires_python: Option<Spanned<String>>,
    #[serde(default)]
    package: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    name: Spanned<String>,
    version: Option<String>,
    #[serde(default)]
    source: BTreeMap<String, String>,
    #[serde(default)]
    dependencies: Vec<Edge>,
    #[serde(default)]
    optional_dependencies: BTreeMap<String, Vec<Edge>>,
    sdist: Option<Artifact>,
    #[serde(default)]
    wheels: Vec<Artifact>,
}

#[derive(Deserialize)]
struct Edge {
    name: String,
    version: Option<String>,
    #[serde(default)]
    extra: Vec<String>,
}

#[derive(Deserialize)]
struct Artifact {
    hash: Option<String>,
}

/// The kinds of source that are folders of the project or of its workspace.
const FOLDERS: [&str; 3] = ["virtual", "editable", "directory"];

/// The keys of `source` that name a place; others say more about it.
const KINDS: [&str; 7] = ["registry", "git", "url", "path", "virtual", "editable", "directory"];

/// Reads a uv.lock; `project` is the normalised name in pyproject.toml.
///
/// # Errors
/// Not TOML, or not of the shape of a uv.lock.
pub fn parse(text: &str, project: Option<&str>) -> Result<Lock, Refusal> {
    let document: Document = toml(text)?;
    let lines = Lines::new(text);
    let mut lock = Lock::default();
    if let Some(asked) = document.requires_python {
        let line = lines.number(asked.span().start);
        let asked = range(asked.get_ref()).map_err(|message| Refusal::at(line, message))?;
        lock.python = Some((asked, Some(line)));
    }
    let entries = document.package;
    let roots = roots(&entries, project);
    for index in reachable(&entries, &roots) {
        let entry = &entries[index];
        if let Some(folder) = folder(entry).filter(|folder| *folder != ".") {
            lock.members.insert(folder.trim_start_matches("./").to_owned());
        }
        if !roots.contains(&index) {
            lock.packages.push(package(entry, lines.number(entry.name.span().start)));
        }
    }
    Ok(lock)
}

fn folder(entry: &Entry) -> Option<&str> {
    FOLDERS.iter().find_map(|kind| entry.source.get(*kind)).map(String::as_str)
}

/// Where the walk begins: the project; in a workspace without one, every
/// member; in a lock without either (a script's), everything.
fn roots(entries: &[Entry], project: Option<&str>) -> BTreeSet<usize> {
    let matching = |test: &dyn Fn(&Entry) -> bool| {
        let all = entries.iter().enumerate().filter(|(_, entry)| test(entry));
        all.map(|(index, _)| index).collect::<BTreeSet<usize>>()
    };
    let named = |entry: &Entry| {
        folder(entry).is_some() && project == Some(&normalise(entry.name.get_ref()))
    };
    let tests: [&dyn Fn(&Entry) -> bool; 3] =
        [&|entry| folder(entry) == Some("."), &named, &|entry| {
            entry.source.contains_key("virtual") || entry.source.contains_key("editable")
        }];
    tests.iter().map(|test| matching(*test)).find(|found| !found.is_empty()).unwrap_or_default()
}

/// The entries that the walk comes to, in the order of the lock.
fn reachable(entries: &[Entry], roots: &BTreeSet<usize>) -> BTreeSet<usize> {
    if roots.is_empty() {
        return (0..entries.len()).collect();
    }
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        by_name.entry(entry.name.get_ref()).or_default().push(index);
    }
    // A package and one of its extras are two stops: each has its own edges.
    let mut seen: BTreeSet<(usize, Option<&str>)> = BTreeSet::new();
    let mut waiting: Vec<(usize, Option<&str>)> = roots.iter().map(|root| (*root, None)).collect();
    while let Some(stop) = waiting.pop() {
        if !seen.insert(stop) {
            continue;
        }
        let entry = &entries[stop.0];
        let edges = match stop.1 {
            None => entry.dependencies.as_slice(),
            Some(extra) => entry.optional_dependencies.get(extra).map_or(&[][..], Vec::as_slice),
        };
        for edge in edges {
            for index in by_name.get(edge.name.as_str()).into_iter().flatten() {
                if edge.version.is_some() && edge.version != entries[*index].version {
                    continue;
                }
                waiting.push((*index, None));
                waiting.extend(edge.extra.iter().map(|extra| (*index, Some(extra.as_str()))));
            }
        }
    }
    seen.into_iter().map(|(index, _)| index).collect()
}

fn package(entry: &Entry, line: usize) -> Package {
    let name = entry.name.get_ref();
    let place = entry.source.iter().find(|(kind, _)| KINDS.contains(&kind.as_str()));
    let source = match place.map(|(kind, _)| kind.as_str()) {
        Some("git") => Source::Vcs,
        Some("url") => Source::Url,
        Some("path" | "virtual" | "editable" | "directory") => Source::Path,
        _ => Source::Index,
    };
    let artifacts = || entry.wheels.iter().chain(&entry.sdist);
    let by_hash = artifacts().next().is_some() && artifacts().all(|a| a.hash.is_some());
    // A commit names its content; a folder is part of the snapshot.
    let hashed = by_hash || source == Source::Vcs || folder(entry).is_some();
    let text = match (source, place) {
        (Source::Vcs, Some((_, place))) => format!("{name} @ git+{place}"),
        (Source::Path | Source::Url, Some((_, place))) => format!("{name} @ {place}"),
        _ => name.clone(),
    };
    Package {
        name: Some(normalise(name)),
        version: entry.version.clone(),
        source,
        hashed,
        line,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
version = 1
requires-python = ">=3.11"

[[package]]
name = "app"
version = "0.1"
source = { virtual = "." }
dependencies = [
    { name = "django" },
    { name = "uvicorn", extra = ["standard"] },
    { name = "own" },
]
[package.dev-dependencies]
dev = [{ name = "pytest" }]

[[package]]
name = "django"
version = "5.2"
source = { registry = "https://index.example/simple" }
dependencies = [{ name = "sqlparse", marker = "x" }]
wheels = [{ url = "u", hash = "sha256:00", size = 1 }]

[[package]]
name = "httptools"
version = "1"
source = { registry = "https://index.example/simple" }
sdist = { url = "u", size = 1 }

[[package]]
name = "own"
source = { git = "https://git.example/own?rev=1#1", deep = "x" }

[[package]]
name = "pytest"
version = "8"
source = { registry = "https://index.example/simple" }

[[package]]
name = "sqlparse"
version = "0.5"
source = { registry = "https://index.example/simple" }
dependencies = [{ name = "django" }]
wheels = [{ url = "u", hash = "sha256:00" }]

[[package]]
name = "unused"
version = "1"
source = { registry = "https://index.example/simple" }

[[package]]
name = "uvicorn"
version = "0.54"
source = { registry = "https://index.example/simple" }
sdist = { url = "u", hash = "sha256:00" }
[package.optional-dependencies]
other = [{ name = "unused" }]
standard = [{ name = "httptools" }]
"#;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str, usize, bool)]) {
        let lock = parse(text, None).expect("a lock");
        let found: Vec<(&str, &str, usize, bool)> = lock
            .packages
            .iter()
            .map(|p| {
                (
                    p.name.as_deref().unwrap_or(""),
                    p.version.as_deref().unwrap_or(""),
                    p.line,
                    p.hashed,
                )
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_what_the_project_needs() {
        check(
            LOCK,
            &[
                ("django", "5.2", 18, true),
                ("httptools", "1", 25, false),
                ("own", "", 31, true),
                ("sqlparse", "0.5", 40, true),
                ("uvicorn", "0.54", 52, true),
            ],
        );
    }

    #[test]
    fn workspaces_and_scripts() {
        let member = |name: &str, needs: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nsource = {{ editable = \"libs/{name}\" }}\ndependencies = [{needs}]\n"
            )
        };
        let text =
            member("a", "{ name = \"b\" }") + &member("b", "") + "[[package]]\nname = \"c\"\n";
        check(&text, &[]);
        let members: Vec<String> =
            parse(&text, None).expect("a lock").members.into_iter().collect();
        assert_eq!(members, ["libs/a", "libs/b"]);
        check("[[package]]\nname = \"c\"\nversion = \"1\"\n", &[("c", "1", 2, false)]);
    }

    #[test]
    fn broken() {
        let line = |text| parse(text, None).map(|_| ()).map_err(|err: Refusal| err.line);
        assert_eq!(line("version = 1\n[[package]\n"), Err(Some(2)));
        assert_eq!(line("\n[[package]]\nname = 3\n"), Err(Some(3)));
        assert_eq!(line(""), Ok(()));
    }
}
