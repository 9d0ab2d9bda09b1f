//! `project.toml`, the project descriptor of Cloud Native Buildpacks: its
//! `[io.buildpacks] include` or `exclude`, or those of the older `[build]`.
//!
//! The name is not theirs alone. A file without these tables is somebody else's,
//! and is left alone, whatever is in it.

use ignore::gitignore::Gitignore;
use serde::Deserialize;

use super::SourceError;
use super::rules::matcher;

/// The file's name, and the origin of its rules.
pub(super) const NAME: &str = "project.toml";

/// What may stand in the older `[build]`; with other keys it is not meant.
const BUILD_KEYS: &[&str] = &["builder", "buildpacks", "env", "exclude", "include"];

/// Which of the app's files the descriptor wants. Both empty when it does not say.
#[derive(Clone, Debug)]
pub(super) struct Project {
    /// When not empty, only what matches.
    pub(super) include: Gitignore,
    /// Not what matches.
    pub(super) exclude: Gitignore,
}

#[derive(Debug, Deserialize)]
struct Newer {
    io: Io,
}

#[derive(Debug, Deserialize)]
struct Io {
    buildpacks: Lists,
}

#[derive(Debug, Deserialize)]
struct Older {
    build: Lists,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Lists {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Project {
    pub(super) fn parse(text: &str) -> Result<Project, SourceError> {
        let (table, lists) = lists(text)?.unwrap_or_default();
        if !lists.include.is_empty() && !lists.exclude.is_empty() {
            return Err(SourceError::Descriptor {
                problem: format!("{table} has `include` and `exclude`: only one of them can hold"),
            });
        }
        let rules = |key: &str, list: &[String]| {
            matcher(&format!("{NAME} {table} {key}"), list.iter().map(String::as_str))
        };
        Ok(Project {
            include: rules("include", &lists.include)?,
            exclude: rules("exclude", &lists.exclude)?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }
}

/// The lists and the table that they stand in; `None` when the file is not about
/// building images.
fn lists(text: &str) -> Result<Option<(&'static str, Lists)>, SourceError> {
    let refused = |error: &toml::de::Error| SourceError::Descriptor {
        problem: error.to_string().trim_end().to_owned(),
    };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let meant = text.lines().any(|line| {
                line.trim_start().trim_start_matches('[').trim().starts_with("io.buildpacks")
            });
            return if meant { Err(refused(&error)) } else { Ok(None) };
        }
    };
    let part = |name: &str| table.get(name).and_then(toml::Value::as_table);
    if part("io").is_some_and(|io| io.contains_key("buildpacks")) {
        let newer: Newer = toml::from_str(text).map_err(|error| refused(&error))?;
        return Ok(Some(("[io.buildpacks]", newer.io.buildpacks)));
    }
    let older = part("build").is_some_and(|build| {
        build.keys().all(|key| BUILD_KEYS.contains(&key.as_str())) && !table.contains_key("_")
    });
    // Lists of other things are somebody else's again.
    let older = toml::from_str::<Older>(text).ok().filter(|_| older);
    Ok(older.map(|older| ("[build]", older.build)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Include and exclude, by their number; or the start of the refusal.
    #[track_caller]
    fn check(text: &str, expected: Result<(u64, u64), &str>) {
        let found = Project::parse(text)
            .map(|project| (project.include.num_ignores(), project.exclude.num_ignores()));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(error), Err(start)) => {
                assert!(error.to_string().starts_with(start), "{error}");
            }
            (found, expected) => panic!("{text}: {found:?} {expected:?}"),
        }
    }

    #[test]
    fn descriptors() {
        check("[io.buildpacks]\nexclude = [\"/README.md\", \"a\"]\ninclude = []", Ok((0, 2)));
        check("[_]\nid = \"x\"\n[io.buildpacks]\ninclude = [\"a\"]\nbuilder = \"b\"", Ok((1, 0)));
        check(
            "[project]\nid = \"x\"\n[build]\nexclude = [\"a\"]\n[[build.env]]\nname=\"a\"\nvalue=\"\"",
            Ok((0, 1)),
        );
        check("[[io.buildpacks.group]]\nuri = \"x\"", Ok((0, 0)));
    }

    #[test]
    fn what_belongs_to_something_else() {
        for text in [
            "",
            "name = \"Graphs\"\nuuid = \"1\"\n[deps]\nA = \"2\"\n[compat]\njulia = \"1\"",
            "[build]\ninclude = [\"src\"]\ntarget = \"wasm\"",
            "[build]\ninclude = \"src\"",
            "[_]\nid = \"x\"\n[build]\ninclude = [\"src\"]",
            "io = 1\nbuild = 2",
            "this is [not TOML",
        ] {
            check(text, Ok((0, 0)));
        }
    }

    #[test]
    fn what_cannot_be_meant() {
        check(
            "[_]\n[io.buildpacks]\nexclude = [\"a\"",
            Err("project.toml: TOML parse error at line 3, column 15"),
        );
        check(
            "[io.buildpacks]\nexclude = \"a\"",
            Err("project.toml: TOML parse error at line 2, column 11"),
        );
        check(
            "[io.buildpacks]\nexclude = [\"a\"]\ninclude = [\"b\"]",
            Err("project.toml: [io.buildpacks] has `include` and `exclude`"),
        );
        check(
            "[io.buildpacks]\nexclude = [\"a{\"]",
            Err("project.toml [io.buildpacks] exclude: `a{` is not a pattern"),
        );
    }
}
