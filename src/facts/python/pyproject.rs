//! pyproject.toml: the project's own statement of its dependencies.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::package::{Package, normalise, requirement};
use super::version::{Asked, poetry_range, range};
use crate::facts::Refusal;
use crate::facts::error::{Lines, toml};

/// What forge takes from a pyproject.toml.
#[derive(Debug, Default)]
pub struct Pyproject {
    /// Whether there is a `[project]` table.
    pub has_project: bool,
    /// The normalised name of the project.
    pub name: Option<String>,
    /// `[project] dependencies`.
    pub dependencies: Vec<Package>,
    /// The names that Poetry installs by default.
    pub poetry: Vec<String>,
    /// The Python ranges stated, with their lines.
    pub python: Vec<(Asked, usize)>,
    /// Whether the project itself is to be installed.
    pub package: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    project: Option<Project>,
    build_system: Option<toml::Table>,
    tool: Option<Tool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Project {
    name: Option<String>,
    requires_python: Option<Spanned<String>>,
    #[serde(default)]
    dependencies: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
struct Tool {
    uv: Option<Uv>,
    poetry: Option<Poetry>,
}

#[derive(Deserialize)]
struct Uv {
    package: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Poetry {
    name: Option<String>,
    package_mode: Option<bool>,
    #[serde(default)]
    dependencies: BTreeMap<String, Spanned<Value>>,
}

/// Reads a pyproject.toml.
///
/// # Errors
/// Not TOML, a table of the wrong shape, a dependency or a range that cannot be read.
pub fn parse(text: &str) -> Result<Pyproject, Refusal> {
    let document: Document = toml(text)?;
    let lines = Lines::new(text);
    let mut found = Pyproject { has_project: document.project.is_some(), ..Pyproject::default() };
    if let Some(project) = document.project {
        found.name = project.name;
        for dependency in project.dependencies {
            let line = lines.number(dependency.span().start);
            let package = requirement(dependency.get_ref(), line);
            found.dependencies.push(package.map_err(|message| Refusal::at(line, message))?);
        }
        if let Some(asked) = project.requires_python {
            let line = lines.number(asked.span().start);
            let asked = range(asked.get_ref()).map_err(|message| Refusal::at(line, message))?;
            found.python.push((asked, line));
        }
    }
    let Tool { uv, poetry } = document.tool.unwrap_or(Tool { uv: None, poetry: None });
    let uv_says = uv.and_then(|uv| uv.package);
    let mut poetry_says = None;
    if let Some(poetry) = poetry {
        poetry_says = poetry.package_mode;
        found.name = found.name.or(poetry.name);
        for (name, value) in poetry.dependencies {
            if normalise(&name) != "python" {
                let optional = value.get_ref().get("optional").and_then(Value::as_bool);
                if optional != Some(true) {
                    found.poetry.push(normalise(&name));
                }
                continue;
            }
            let line = lines.number(value.span().start);
            let text = value.get_ref().as_str();
            if let Some(text) = text.or_else(|| value.get_ref().get("version")?.as_str()) {
                let asked = poetry_range(text).map_err(|message| Refusal::at(line, message))?;
                found.python.push((asked, line));
            }
        }
    }
    found.poetry.extend(found.dependencies.iter().filter_map(|package| package.name.clone()));
    found.name = found.name.map(|name| normalise(&name));
    let built = document.build_system.is_some() && poetry_says != Some(false);
    found.package = uv_says.unwrap_or(built);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dependencies, Python ranges with lines, whether it is a package.
    type Row<'a> = (&'a str, &'a [(&'a str, usize)], bool);

    #[track_caller]
    fn check(text: &str, expected: Result<Row, &str>) {
        let found = parse(text).map(|found| {
            let names: Vec<String> =
                found.dependencies.into_iter().filter_map(|package| package.name).collect();
            let python: Vec<_> = found.python.iter().map(|(a, line)| (a.text(), *line)).collect();
            (names.join(" "), python, found.package)
        });
        let expected = expected.map(|(names, python, package)| {
            let python = python.iter().map(|(text, line)| ((*text).to_owned(), *line)).collect();
            (names.to_owned(), python, package)
        });
        assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn projects() {
        check("", Ok(("", &[], false)));
        check(
            "[project]\nname = \"A.b\"\nrequires-python = \">=3.11\"\ndependencies = [\n \"Django>=4\",\n]\n",
            Ok(("django", &[(">=3.11", 3)], false)),
        );
        check("[build-system]\nrequires = []\n", Ok(("", &[], true)));
        check("[build-system]\nrequires = []\n[tool.uv]\npackage = false\n", Ok(("", &[], false)));
        check(
            "[tool.poetry.dependencies]\npython = \"^3.11\"\ndjango = \"*\"\n",
            Ok(("", &[("^3.11", 2)], false)),
        );
    }

    #[test]
    fn refused() {
        check(
            "[project]\ndependencies = [\n  \"a\",\n  \"b 1\",\n]\n",
            Err(
                "line 4: `b 1` is not a requirement: after the name a version such as `==1.2` is expected",
            ),
        );
        check(
            "[project]\nrequires-python = \"3.12\"\n",
            Err("line 2: `3.12` is not a range: write `==3.12.*`"),
        );
        assert_eq!(parse("[project\n").map(|_| ()).map_err(|err| err.line), Err(Some(1)));
        assert_eq!(
            parse("a=1\n[project]\ndependencies = 3\n").map(|_| ()).map_err(|e| e.line),
            Err(Some(3))
        );
    }
}
