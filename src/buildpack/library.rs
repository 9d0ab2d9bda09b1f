//! All buildpacks there are: the built-in ones, and those of the app's own tree.

use std::collections::BTreeMap;

use regex::Regex;

use super::{Buildpack, BuildpackError};

/// The files of `buildpacks/`, compiled in.
const BUILT_IN: &[(&str, &str)] = &[
    ("django.toml", include_str!("../../buildpacks/django.toml")),
    ("django/collectstatic.py", include_str!("../../buildpacks/django/collectstatic.py")),
    ("django/messages.sh", include_str!("../../buildpacks/django/messages.sh")),
    ("fastapi.toml", include_str!("../../buildpacks/fastapi.toml")),
    ("flask.toml", include_str!("../../buildpacks/flask.toml")),
    ("javascript.toml", include_str!("../../buildpacks/javascript.toml")),
    ("javascript/build.sh", include_str!("../../buildpacks/javascript/build.sh")),
    ("javascript/modules.sh", include_str!("../../buildpacks/javascript/modules.sh")),
    ("javascript/npm.sh", include_str!("../../buildpacks/javascript/npm.sh")),
    ("javascript/stable.mjs", include_str!("../../buildpacks/javascript/stable.mjs")),
    ("javascript/tools.mjs", include_str!("../../buildpacks/javascript/tools.mjs")),
    ("node.toml", include_str!("../../buildpacks/node.toml")),
    ("python.toml", include_str!("../../buildpacks/python.toml")),
    ("python/build.py", include_str!("../../buildpacks/python/build.py")),
    ("python/environment.sh", include_str!("../../buildpacks/python/environment.sh")),
    ("python/fetch.py", include_str!("../../buildpacks/python/fetch.py")),
    ("python/index.py", include_str!("../../buildpacks/python/index.py")),
    ("python/install.sh", include_str!("../../buildpacks/python/install.sh")),
    ("python/lock.py", include_str!("../../buildpacks/python/lock.py")),
    ("python/uv.sh", include_str!("../../buildpacks/python/uv.sh")),
    ("rails.toml", include_str!("../../buildpacks/rails.toml")),
    ("rails/assets.sh", include_str!("../../buildpacks/rails/assets.sh")),
    ("rails/stable.rb", include_str!("../../buildpacks/rails/stable.rb")),
    ("ruby.toml", include_str!("../../buildpacks/ruby.toml")),
    ("ruby/checksums.rb", include_str!("../../buildpacks/ruby/checksums.rb")),
    ("ruby/clean.sh", include_str!("../../buildpacks/ruby/clean.sh")),
    ("ruby/fetch.sh", include_str!("../../buildpacks/ruby/fetch.sh")),
    ("ruby/gem.sh", include_str!("../../buildpacks/ruby/gem.sh")),
    ("ruby/install.sh", include_str!("../../buildpacks/ruby/install.sh")),
];

/// Buildpacks by name, with their scripts.
#[derive(Clone, Debug)]
pub struct Library {
    buildpacks: BTreeMap<String, Buildpack>,
    files: BTreeMap<String, String>,
}

impl Library {
    /// The built-in buildpacks and those among `files`: path relative to the
    /// folder of buildpacks → text. One of the same name replaces the built-in.
    ///
    /// # Errors
    /// A file that does not parse.
    pub fn new(files: &BTreeMap<String, String>) -> Result<Library, BuildpackError> {
        let mut library = Library { buildpacks: BTreeMap::new(), files: BTreeMap::new() };
        // The built-in ones are checked by a test.
        for (path, text) in BUILT_IN {
            library.add(path, text, |_| Ok(()))?;
        }
        for (path, text) in files {
            library.add(path, text, check)?;
        }
        Ok(library)
    }

    fn add(
        &mut self,
        path: &str,
        text: &str,
        check: impl FnOnce(&Buildpack) -> Result<(), String>,
    ) -> Result<(), BuildpackError> {
        self.files.insert(path.to_owned(), text.to_owned());
        let Some(name) = path.strip_suffix(".toml").filter(|name| !name.contains('/')) else {
            return Ok(());
        };
        let parse = |problem: String| BuildpackError::Parse { file: path.to_owned(), problem };
        let buildpack: Buildpack =
            toml::from_str(text).map_err(|error| parse(error.to_string()))?;
        if buildpack.name != name {
            return Err(parse(format!("it calls itself `{}`", buildpack.name)));
        }
        check(&buildpack).map_err(parse)?;
        self.buildpacks.insert(name.to_owned(), buildpack);
        Ok(())
    }

    /// Every buildpack, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Buildpack> {
        self.buildpacks.values()
    }

    /// The buildpack of that name.
    ///
    /// # Errors
    /// [`BuildpackError::Unknown`] with the names that there are.
    pub fn get(&self, name: &str) -> Result<&Buildpack, BuildpackError> {
        self.buildpacks.get(name).ok_or_else(|| BuildpackError::Unknown {
            name: name.to_owned(),
            known: self.buildpacks.keys().cloned().collect(),
        })
    }

    /// The text of a buildpack's file, as it was written.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }
}

/// What the schema's types do not say: names that become paths on this machine.
fn check(buildpack: &Buildpack) -> Result<(), String> {
    if buildpack.base.iter().any(|base| base.release.is_some() == base.image.is_some()) {
        return Err("a `base` has a `release` or an `image`".to_owned());
    }
    for fact in &buildpack.facts {
        if let Some(list) = fact.each.as_ref().filter(|list| !buildpack.lists.contains_key(*list)) {
            return Err(format!("fact `{}`: there is no list `{list}`", fact.name));
        }
    }
    for step in &buildpack.steps {
        let does = [&step.command, &step.take, &step.libraries_of];
        if does.iter().filter(|does| !does.is_empty()).count() != 1 {
            return Err(format!(
                "step `{}`: it has one of `command`, `take` and `libraries_of`",
                step.name
            ));
        }
        if step.command.is_empty() != step.outputs.is_empty() {
            return Err(format!(
                "step `{}`: a step with a `command`, and no other, names its `outputs`",
                step.name
            ));
        }
        if let Some(list) = step.each.as_ref().filter(|list| !buildpack.lists.contains_key(*list)) {
            return Err(format!("step `{}`: there is no list `{list}`", step.name));
        }
        for output in &step.outputs {
            let path = output.strip_suffix('?').unwrap_or(output);
            if !is_plain(path) {
                return Err(format!(
                    "step `{}`: the output `{output}` is no path below the root",
                    step.name
                ));
            }
        }
        for file in &step.files {
            if !is_plain(file) || file.matches('/').count() > 1 {
                return Err(format!("step `{}`: `{file}` is no file name", step.name));
            }
        }
        for rule in &step.units {
            let problem = |problem: String| {
                format!("step `{}`: the rule `{}` of `units` {problem}", step.name, rule.path)
            };
            let expression = Regex::new(&rule.path)
                .map_err(|error| problem(format!("is no regular expression: {error}")))?;
            let names_unit = expression.capture_names().flatten().any(|name| name == "unit");
            if names_unit == rule.beside.is_some() || rule.lists && rule.beside.is_some() {
                return Err(problem(
                    "has either a group `unit`, `(?<unit>…)`, or `beside`".to_owned(),
                ));
            }
        }
        let is_word = |name: &String| {
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !step.cache.iter().all(is_word) {
            return Err(format!(
                "step `{}`: the name of `cache` is lower-case letters, digits and `-`",
                step.name
            ));
        }
    }
    Ok(())
}

/// Whether each part of a path is an ordinary name.
pub(super) fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && path.split('/').all(|part| !["", ".", ".."].contains(&part))
        && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_buildpacks_parse() {
        let library = Library::new(&BTreeMap::new()).expect("parses");
        assert!(library.get("django").is_ok());
        for buildpack in library.iter() {
            assert_eq!(check(buildpack), Ok(()), "{}", buildpack.name);
            for used in &buildpack.uses {
                assert!(library.get(used.trim_end_matches('?')).is_ok(), "{used}");
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_built_in() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("buildpacks");
        let mut found = Vec::new();
        let mut pending = vec![folder.clone()];
        while let Some(next) = pending.pop() {
            for entry in std::fs::read_dir(next).expect("read") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    found.push(
                        path.strip_prefix(&folder).expect("below").to_string_lossy().into_owned(),
                    );
                }
            }
        }
        found.sort();
        assert_eq!(found, BUILT_IN.iter().map(|(path, _)| (*path).to_owned()).collect::<Vec<_>>());
    }

    #[test]
    fn names_that_would_leave_the_sandbox() {
        let with = |line: &str| {
            let text = format!(
                "name = \"x\"\nabout = \"\"\npriority = 1\nmatch = []\nlooks_for = \"\"\n[[step]]\nname = \"s\"\n\
                 about = \"\"\nroot = []\ncommand = [\"x\"]\n{line}\n"
            );
            Library::new(&BTreeMap::from([("x.toml".to_owned(), text)])).map(drop)
        };
        assert!(with("outputs = [\"a/b\", \"c?\"]\ncache = \"pip-1\"").is_ok());
        for line in [
            "outputs = [\"/etc\"]",
            "outputs = [\"a/../../etc\"]",
            "outputs = [\"\"]",
            "outputs = [\"x\"]\ncache = \"/home\"",
            "outputs = [\"x\"]\ncache = \"../x\"",
            "outputs = [\"x\"]\nfiles = [\"../x\"]",
            "outputs = []",
            "outputs = [\"x\"]\neach = \"none\"",
            "outputs = [\"x\"]\n[[fact]]\nname = \"f\"\nvalue = \"x\"\neach = \"none\"",
            "outputs = [\"x\"]\ntake = [\"x\"]",
            "outputs = [\"x\"]\nunits = [{ path = '(?<unit>' }]",
            "outputs = [\"x\"]\nunits = [{ path = '(?<name>x)' }]",
            "outputs = [\"x\"]\nunits = [{ path = '(?<unit>x)', beside = 'y' }]",
            "outputs = [\"x\"]\nunits = [{ path = '(?<a>x)', lists = true, beside = 'y' }]",
        ] {
            assert!(matches!(with(line), Err(BuildpackError::Parse { .. })), "{line}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let with = |text: &str| {
            let files = BTreeMap::from([("x.toml".to_owned(), text.to_owned())]);
            Library::new(&files).expect_err("refused").to_string()
        };
        assert!(
            with("name = \"x\"\nunknown = 1\n").contains("unknown field `unknown`"),
            "{}",
            with("unknown = 1")
        );
        assert!(
            with("name = \"y\"\nabout = \"\"\npriority = 1\nmatch = []\nlooks_for = \"\"\n")
                .contains("`y`")
        );
    }
}
