//! Which files of the app's folder count.
//!
//! Layers of rules; a later one that says something about a path wins:
//!
//! 1. *soft*: what has no place in an image (`.env`, keys, logs, tests);
//! 2. `.gitignore` files, each for its folder;
//! 3. configuration that frameworks need although git ignores it;
//! 4. `.forgeignore` at the root;
//! 5. `[source] exclude`, then `include`, of `forge.toml`.
//!
//! *Hard* rules are outside of this: what forge makes anew (`node_modules`,
//! virtual environments, `.git`) never gets in.

use std::fs;
use std::io;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::{SourceError, failed};

const HARD: &[&str] = &[
    ".git",
    ".hg",
    ".svn",
    "node_modules",
    ".bundle",
    "/vendor/bundle",
    ".venv",
    "/venv",
    "__pycache__",
    "*.pyc",
    "/.forge/cache",
    "/forge.lock",
    "/.forge.lock-*",
];

const SOFT: &[&str] = &[
    ".env",
    ".env.*",
    "!.env.example",
    "!.env.sample",
    "!.env.template",
    "/config/master.key",
    "/config/credentials/*.key",
    "*.pem",
    "id_rsa*",
    ".kamal",
    ".aws",
    ".ssh",
    "/storage/*",
    "/public/system",
    "/public/uploads",
    "/media",
    "/tmp/*",
    "/log/*",
    "/spec",
    "/test",
    "/tests",
    "/features",
    "/coverage",
    ".github",
    ".devcontainer",
    "*.sqlite3",
    "*.log",
    "*.rdb",
    ".DS_Store",
    ".idea",
    ".vscode",
    ".byebug_history",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".tox",
    "/Dockerfile*",
    "/docker-compose*",
    "/compose.y*ml",
    ".dockerignore",
];

/// Ignored by git by custom, yet read by the framework when it starts.
const NEEDED: &[&str] = &[
    "!/config/database.yml",
    "!/config/application.yml",
    "!/config/secrets.yml",
    "!/config/settings.local.yml",
    "!local_settings.py",
];

/// Why a path is in or out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the path counts.
    pub included: bool,
    /// The rule that decided and where it stands; empty when no rule spoke.
    pub rule: String,
}

/// All rules but those of `.gitignore` files, which are read on the way.
#[derive(Clone, Debug)]
pub struct Rules {
    hard: Gitignore,
    soft: Gitignore,
    needed: Gitignore,
    exclude: Gitignore,
    include: Gitignore,
}

/// The rules of one ignore file.
#[derive(Clone, Debug)]
pub(super) struct Nested {
    folder: String,
    origin: String,
    late: bool,
    rules: Gitignore,
}

impl Default for Rules {
    fn default() -> Rules {
        // The built-in patterns parse: a test builds them.
        Rules::new(&[], &[]).unwrap_or_else(|_| Rules {
            hard: Gitignore::empty(),
            soft: Gitignore::empty(),
            needed: Gitignore::empty(),
            exclude: Gitignore::empty(),
            include: Gitignore::empty(),
        })
    }
}

impl Rules {
    /// The built-in rules with the `include` and `exclude` of `forge.toml`.
    ///
    /// # Errors
    /// A pattern that does not parse.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Rules, SourceError> {
        Ok(Rules {
            hard: matcher("built in", HARD.iter().copied())?,
            soft: matcher("built in", SOFT.iter().copied())?,
            needed: matcher("built in", NEEDED.iter().copied())?,
            exclude: matcher("forge.toml [source] exclude", exclude.iter().map(String::as_str))?,
            include: matcher("forge.toml [source] include", include.iter().map(String::as_str))?,
        })
    }

    /// The same rules, and these paths below the root never.
    ///
    /// # Errors
    /// A path that is no pattern even when its characters are meant literally.
    pub fn without(mut self, paths: &[String]) -> Result<Rules, SourceError> {
        let own: Vec<String> = paths.iter().map(|path| format!("/{}", literal(path))).collect();
        self.hard = matcher(
            "written by forge",
            HARD.iter().copied().chain(own.iter().map(String::as_str)),
        )?;
        Ok(self)
    }

    /// The ignore files that stand in the folder `below` of `root`.
    pub(super) fn nested(&self, root: &Path, below: &str) -> Result<Vec<Nested>, SourceError> {
        let mut found = Vec::new();
        let names: &[&str] =
            if below.is_empty() { &[".gitignore", ".forgeignore"] } else { &[".gitignore"] };
        for name in names {
            let path = root.join(below).join(name);
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", &path)(error)),
            };
            let origin =
                if below.is_empty() { (*name).to_owned() } else { format!("{below}/{name}") };
            let rules = matcher(&origin, text.lines())?;
            found.push(Nested {
                folder: below.to_owned(),
                origin,
                late: *name == ".forgeignore",
                rules,
            });
        }
        Ok(found)
    }

    /// Whether a folder that is excluded must be looked into all the same.
    pub(super) fn may_include_below(&self, path: &str) -> bool {
        (!self.include.is_empty() || path == "config")
            && !self.hard.matched_path_or_any_parents(path, true).is_ignore()
    }

    pub(super) fn decide(&self, path: &str, is_folder: bool, nested: &[Nested]) -> Decision {
        if let Match::Ignore(glob) = self.hard.matched_path_or_any_parents(path, is_folder) {
            return Decision { included: false, rule: format!("{} (always)", glob.original()) };
        }
        let mut decision = Decision { included: true, rule: String::new() };
        let mut apply = |rules: &Gitignore, path: &str, origin: &str| {
            match rules.matched_path_or_any_parents(path, is_folder) {
                Match::None => {}
                Match::Ignore(glob) => {
                    decision = Decision {
                        included: false,
                        rule: format!("{} ({origin})", glob.original()),
                    };
                }
                Match::Whitelist(glob) => {
                    // A `!` matters only where an earlier rule has excluded.
                    if !decision.included {
                        decision = Decision {
                            included: true,
                            rule: format!("{} ({origin})", glob.original()),
                        };
                    }
                }
            }
        };
        apply(&self.soft, path, "built in");
        for file in nested.iter().filter(|file| !file.late) {
            let inside = path.strip_prefix(&file.folder).unwrap_or(path).trim_start_matches('/');
            apply(&file.rules, inside, &file.origin);
        }
        apply(&self.needed, path, "frameworks need it");
        for file in nested.iter().filter(|file| file.late) {
            apply(&file.rules, path, &file.origin);
        }
        apply(&self.exclude, path, "forge.toml [source] exclude");
        if let Match::Ignore(glob) = self.include.matched_path_or_any_parents(path, is_folder) {
            decision = Decision {
                included: true,
                rule: format!("{} (forge.toml [source] include)", glob.original()),
            };
        }
        decision
    }
}

/// A path as a pattern that matches it alone.
fn literal(path: &str) -> String {
    path.chars().fold(String::new(), |mut pattern, letter| {
        if "*?[]!#\\ ".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
        pattern
    })
}

/// Patterns of the `.gitignore` language, relative to the app's folder.
///
/// # Errors
/// A pattern that does not parse; `origin` says where it stands.
pub fn matcher<'a>(
    origin: &str,
    patterns: impl Iterator<Item = &'a str>,
) -> Result<Gitignore, SourceError> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|error| SourceError::Rule {
            origin: origin.to_owned(),
            rule: pattern.to_owned(),
            problem: error.to_string(),
        })?;
    }
    builder.build().map_err(|error| SourceError::Rule {
        origin: origin.to_owned(),
        rule: String::new(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_rules_parse() {
        assert!(Rules::new(&[], &[]).is_ok());
    }

    #[test]
    fn decisions_name_their_rule() {
        let rules = Rules::default();
        let decision = rules.decide("config/master.key", false, &[]);
        assert_eq!(
            decision,
            Decision { included: false, rule: "/config/master.key (built in)".to_owned() }
        );
        assert_eq!(
            rules.decide("a/b.py", false, &[]),
            Decision { included: true, rule: String::new() }
        );
        let ignored = Nested {
            folder: String::new(),
            origin: ".gitignore".to_owned(),
            late: false,
            rules: matcher("t", ["/config/*.yml"].into_iter()).expect("parses"),
        };
        let decision = rules.decide("config/database.yml", false, &[ignored]);
        assert_eq!(decision.rule, "!/config/database.yml (frameworks need it)");
        assert!(decision.included);
    }
}
