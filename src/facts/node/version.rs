//! Which Node is asked for: every file that says so, in the order in which
//! they are believed, and whether they agree.
//!
//! A text that cannot be understood is not refused here: it matters only to
//! those who need Node, so it becomes `node.release.missing`.

use crate::facts::error::shown;
use crate::facts::{FactError, Facts, Files, Refusal, joined, parsed, tools};

use super::manifest::Manifest;
use super::releases::{Asked, Table};

/// What one file says.
#[derive(Debug)]
struct Statement {
    text: String,
    origin: String,
}

/// States `node.version`, `node.release`, `node.major`, `node.release.missing` and
/// `node.version.conflict`.
///
/// # Errors
/// A version file that cannot be read.
pub fn state(files: &dyn Files, manifest: &Manifest, facts: &mut Facts) -> Result<(), FactError> {
    let statements = statements(files, manifest)?;
    let table = Table::pinned();
    let Some((first, others)) = statements.split_first() else {
        if let Some(release) = table.release(&Asked::Lts) {
            facts.insert("node.release", release.to_string(), "default");
            facts.insert("node.major", release.major().to_string(), "default");
        }
        return Ok(());
    };
    facts.insert("node.version", first.text.as_str(), first.origin.as_str());
    let asked = match first.text.parse::<Asked>() {
        Ok(asked) => asked,
        Err(_) => {
            let message = format!(
                "`{}` is not a Node version: write a version such as `24.1.0`, a range such as \
                 `^24`, or `lts/*`",
                shown(&first.text)
            );
            facts.insert("node.release.missing", message, first.origin.as_str());
            return Ok(());
        }
    };
    let Some(release) = table.release(&asked) else {
        let message = format!(
            "`{}` is asked for, and no release that forge knows is one: there are Node {}",
            shown(&first.text),
            table.majors()
        );
        facts.insert("node.release.missing", message, first.origin.as_str());
        return Ok(());
    };
    facts.insert("node.release", release.to_string(), first.origin.as_str());
    facts.insert("node.major", release.major().to_string(), first.origin.as_str());
    let agrees = |other: &Statement| match other.text.parse::<Asked>() {
        Ok(Asked::Exact(version)) => version == release || table.allows(&asked, &version),
        Ok(other) => table.allows(&other, &release),
        // What nobody can understand is nothing to agree with.
        Err(_) => true,
    };
    if let Some(other) = others.iter().find(|other| !agrees(other)) {
        let message = format!(
            "{} asks for Node {}, but {} asks for {}: {release} is used",
            other.origin,
            shown(&other.text),
            first.origin,
            shown(&first.text)
        );
        facts.insert("node.version.conflict", message, other.origin.as_str());
    }
    Ok(())
}

/// Every statement, the believed one first.
fn statements(files: &dyn Files, manifest: &Manifest) -> Result<Vec<Statement>, FactError> {
    let mut found = Vec::new();
    let in_manifest = |keys: &[&str]| {
        let text = manifest.text(keys)?.to_owned();
        Some(Statement { text, origin: manifest.origin(keys) })
    };
    found.extend(in_manifest(&["volta", "node"]));
    let mut folders = vec![manifest.folder(), ""];
    folders.dedup();
    for name in [".nvmrc", ".node-version", ".tool-versions", "mise.toml", ".mise.toml"] {
        for path in folders.iter().filter_map(|folder| joined(folder, name)) {
            let stated = match name {
                ".tool-versions" => parsed(files, &path, |text| Ok(tool_versions(text))),
                ".nvmrc" | ".node-version" => parsed(files, &path, |text| Ok(version_file(text))),
                _ => parsed(files, &path, mise),
            };
            match stated {
                Ok(stated) => found.extend(stated.flatten().map(|(text, line)| {
                    let origin = format!("{path}:{line}");
                    Statement { text, origin }
                })),
                // Only to be compared with what is already known.
                Err(_) if !found.is_empty() => {}
                Err(err) => return Err(err),
            }
        }
    }
    found.extend(in_manifest(&["engines", "node"]));
    found.extend(runtime(manifest));
    Ok(found)
}

/// `devEngines.runtime`, which is an object or a list of them.
fn runtime(manifest: &Manifest) -> Option<Statement> {
    let keys = ["devEngines", "runtime"];
    let value = manifest.at(&keys)?;
    let one = std::slice::from_ref(value);
    let runtimes = value.as_array().map_or(one, Vec::as_slice);
    let node = runtimes.iter().find(|runtime| runtime.get("name").is_some_and(|n| n == "node"))?;
    let text = node.get("version")?.as_str()?.trim();
    (!text.is_empty()).then(|| Statement { text: text.to_owned(), origin: manifest.origin(&keys) })
}

/// `.nvmrc` and `.node-version`: the first line that is not a comment. `None`
/// when the choice is left to the machine.
pub fn version_file(text: &str) -> Option<(String, usize)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = |(line, content): (usize, &str)| {
        let word = content.split('#').next().unwrap_or_default().trim();
        (!word.is_empty()).then(|| (word.to_owned(), line))
    };
    (1..)
        .zip(text.lines())
        .find_map(line)
        .filter(|(word, _)| !["system", "default"].contains(&word.as_str()))
}

/// The names that asdf and mise have for Node.
const TOOLS: [&str; 2] = ["nodejs", "node"];

/// `.tool-versions`: the version of Node, with its line.
pub fn tool_versions(text: &str) -> Option<(String, usize)> {
    TOOLS.into_iter().find_map(|tool| tools::tool_versions(text, tool))
}

/// `mise.toml`: likewise.
///
/// # Errors
/// Not TOML.
pub fn mise(text: &str) -> Result<Option<(String, usize)>, Refusal> {
    for tool in TOOLS {
        if let Some(found) = tools::mise(text, tool)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn file(text: &str, expected: Option<(&str, usize)>) {
        assert_eq!(version_file(text), expected.map(|(word, line)| (word.to_owned(), line)));
    }

    #[test]
    fn version_files() {
        file("v20.11.1\n", Some(("v20.11.1", 1)));
        file("\u{feff}20", Some(("20", 1)));
        file("# why\r\n\r\n  lts/* # that\r\n", Some(("lts/*", 3)));
        file("system", None);
        file("\n# x", None);
    }

    #[test]
    fn switchers() {
        let found = |word: &str, line| Some((word.to_owned(), line));
        assert_eq!(tool_versions("ruby 3.3\nnodejs 20.1.0 18.0.0\n"), found("20.1.0", 2));
        assert_eq!(tool_versions("node 22"), found("22", 1));
        assert_eq!(tool_versions("nodejs system"), None);
        assert_eq!(mise("[tools]\nnode = \"lts\"\n"), Ok(found("lts", 2)));
        assert_eq!(mise("[tools]\nnodejs = [\"20\", \"18\"]\n"), Ok(found("20", 2)));
        assert_eq!(mise("[tools]\nruby = \"3\"\n"), Ok(None));
        assert!(mise("[").is_err());
    }
}
