//! package.json: its keys with their lines.
//!
//! npm takes what it understands of the file and passes over the rest, and so
//! does this: a key of another shape than expected counts as absent. Only a file
//! that is no JSON object is refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::facts::{FactError, Files, Refusal, parsed};

/// The kinds of dependency that are installed, in the order in which they are searched.
const DEPENDENCIES: [&str; 3] = ["dependencies", "optionalDependencies", "devDependencies"];

/// Scripts that run when the package's own dependencies are installed.
const INSTALL_SCRIPTS: [&str; 5] =
    ["preinstall", "install", "postinstall", "prepare", "prepublish"];

/// A package.json.
#[derive(Debug)]
pub struct Manifest {
    /// Where it is.
    pub path: String,
    keys: Map<String, Value>,
    lines: BTreeMap<Vec<String>, usize>,
}

impl Manifest {
    /// Reads the file; `None` when absent.
    ///
    /// # Errors
    /// Not JSON, or no object.
    pub fn read(files: &dyn Files, path: &str) -> Result<Option<Manifest>, FactError> {
        parsed(files, path, |text| parse(path, text))
    }

    /// Its folder; empty for the root.
    pub fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The value under a path of keys.
    pub fn at(&self, keys: &[&str]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        rest.iter().try_fold(self.keys.get(*first)?, |value, key| value.get(key))
    }

    /// The text under a path of keys; `None` when it is empty or no text.
    pub fn text(&self, keys: &[&str]) -> Option<&str> {
        self.at(keys)?.as_str().map(str::trim).filter(|text| !text.is_empty())
    }

    /// The texts in the object under a path of keys, by name.
    pub fn texts(&self, keys: &[&str]) -> Vec<(&str, &str)> {
        let Some(object) = self.at(keys).and_then(Value::as_object) else { return Vec::new() };
        object.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect()
    }

    /// The line of a path of keys: where the first two of them stand.
    pub fn line(&self, keys: &[&str]) -> Option<usize> {
        let keys: Vec<String> = keys.iter().take(2).map(|key| (*key).to_owned()).collect();
        self.lines.get(&keys).copied()
    }

    /// `package.json:12`, likewise.
    pub fn origin(&self, keys: &[&str]) -> String {
        match self.line(keys) {
            Some(line) => format!("{}:{line}", self.path),
            None => self.path.clone(),
        }
    }

    /// What is installed: kind, name and range.
    pub fn dependencies(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        DEPENDENCIES.into_iter().flat_map(|kind| {
            self.texts(&[kind]).into_iter().map(move |(name, range)| (kind, name, range))
        })
    }

    /// The names of the scripts that run while installing.
    pub fn install_scripts(&self) -> Vec<&'static str> {
        INSTALL_SCRIPTS.into_iter().filter(|name| self.at(&["scripts", name]).is_some()).collect()
    }

    /// The patterns of `workspaces`, in either of its shapes.
    pub fn workspaces(&self) -> Vec<&str> {
        let key = ["workspaces", "packages"];
        let list = self.at(&key).or(self.at(&key[..1])).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

/// Reads a package.json; a byte order mark is passed over, as npm does.
///
/// # Errors
/// Not JSON, or no object.
pub fn parse(path: &str, text: &str) -> Result<Manifest, Refusal> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value: Value = serde_json::from_str(text)
        .map_err(|err| Refusal::at(err.line().max(1), format!("not readable: {err}")))?;
    let Value::Object(keys) = value else {
        return Err(Refusal::whole("not a JSON object: it has to begin with `{`"));
    };
    Ok(Manifest { path: path.to_owned(), keys, lines: lines(text) })
}

/// Where the keys of the first two levels stand, in a text that is JSON.
fn lines(text: &str) -> BTreeMap<Vec<String>, usize> {
    let mut found = BTreeMap::new();
    // The key that was last seen of each open object; none of an open list.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '"' => rest.split_at(string_end(rest)),
            _ => rest.split_at(first.len_utf8()),
        };
        match first {
            '\n' => line += 1,
            '{' | '[' => open.push(None),
            '}' | ']' => drop(open.pop()),
            '"' if after.trim_start().starts_with(':') => {
                if let Some(last) = open.last_mut() {
                    *last = serde_json::from_str(token).ok();
                }
                let keys: Option<Vec<String>> = open.iter().cloned().collect();
                if let Some(keys) = keys.filter(|keys| keys.len() <= 2) {
                    found.insert(keys, line);
                }
            }
            _ => {}
        }
        rest = after;
    }
    found
}

/// Where the string that a text begins with ends, after its closing quote.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\u{feff}{\n  \"name\": \"a: {\\\"\",\n  \"scripts\": {\n    \"build\": \"x\", \"a\\u0062\": \"y\",\n    \
                        \"prepare\": \"z\"\n  },\n  \"list\": [{\"deep\": 1}],\n  \"volta\": {\n    \"node\": \" \"}}\n";

    #[track_caller]
    fn origin(keys: &[&str], expected: &str) {
        let manifest = parse("package.json", TEXT).expect("a manifest");
        assert_eq!(manifest.origin(keys), expected);
    }

    #[test]
    fn keys_have_lines() {
        origin(&["name"], "package.json:2");
        origin(&["scripts"], "package.json:3");
        origin(&["scripts", "build"], "package.json:4");
        origin(&["scripts", "ab"], "package.json:4");
        origin(&["scripts", "prepare"], "package.json:5");
        origin(&["volta", "node"], "package.json:9");
        origin(&["volta", "node", "deeper"], "package.json:9");
        origin(&["list", "deep"], "package.json");
        origin(&["other"], "package.json");
    }

    #[test]
    fn values() {
        let manifest = parse("a/package.json", TEXT).expect("a manifest");
        assert_eq!(manifest.text(&["scripts", "build"]), Some("x"));
        assert_eq!(manifest.text(&["volta", "node"]), None);
        assert_eq!(manifest.text(&["scripts"]), None);
        assert_eq!(manifest.install_scripts(), ["prepare"]);
        assert_eq!(manifest.folder(), "a");
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let found = parse("package.json", text).map(drop).map_err(|err| err.to_string());
        assert_eq!(found, Err(expected.to_owned()));
    }

    #[test]
    fn not_a_manifest() {
        refused("[]", "not a JSON object: it has to begin with `{`");
        refused("{\n  \"a\": 1,\n}", "line 3: not readable: trailing comma at line 3 column 1");
        refused("", "line 1: not readable: EOF while parsing a value at line 1 column 0");
    }
}
