//! Which files of the app's folder count.
//!
//! Layers of rules; a later one that says something about a path wins:
//!
//! 1. *soft*: what has no place in an image (`.env`, keys, logs, tests);
//! 2. `.gitignore` files, each for its folder;
//! 3. `.dockerignore` at the root, when 5 to 8 say nothing. It was written for
//!    another build: it leaves out, never takes in, and hides no manifest;
//! 4. what frameworks and dependencies need although git or docker ignores it;
//! 5. `.slugignore` at the root;
//! 6. `include` or `exclude` of `project.toml`: they leave out, and take nothing in
//!    that 1 to 5 left out;
//! 7. `.forgeignore` at the root;
//! 8. `[source] exclude`, then `include`, of `forge.toml`.
//!
//! 5 to 8 are said of builds like this one, so they win over what is only guessed to
//! be needed, and the more of forge's own, the later.
//!
//! *Hard* rules are outside of this: what forge makes anew (`node_modules`,
//! virtual environments, `.git`) never gets in.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::{Deserialize, Serialize};

use super::dockerignore::{self, Dockerignore};
use super::project::{self, Project};
use super::{SourceError, failed};
use crate::digest::{Digest, Fields};

/// Bumped whenever the same rules would decide otherwise: what was decided before then
/// counts no more.
const RULES_VERSION: u64 = 1;

const GIT: &str = ".gitignore";
const SLUG: &str = ".slugignore";
const FORGE: &str = ".forgeignore";
const EXCLUDE: &str = "forge.toml [source] exclude";
const INCLUDE: &str = "forge.toml [source] include";

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

/// Ignored by git by custom, yet read by the framework when it starts. Files of
/// `config/` that have an example beside them belong to it too: [`example_of`].
const CONFIG: &[&str] = &[
    "/config/database.yml",
    "/config/application.yml",
    "/config/secrets.yml",
    "/config/settings.local.yml",
    "/config/storage.yml",
    "/config/cable.yml",
    "local_settings.py",
];

/// Ignored by git by custom, yet read when the dependencies are installed. Lock
/// files belong to it too: [`LOCKS`].
const DEPENDENCIES: &[&str] = &["/Gemfile.local"];

/// What says which dependencies and which versions there are, how the app starts,
/// and how forge builds it: a `.dockerignore` hides it from the image, not from the
/// build that it was not written for.
const MANIFESTS: &[&str] = &[
    "Gemfile",
    "Gemfile.local",
    "Gemfile.lock",
    "gems.rb",
    "gems.locked",
    "*.gemspec",
    ".ruby-version",
    "package.json",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    ".yarnrc",
    ".yarnrc.yml",
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "bun.lock",
    "bun.lockb",
    ".nvmrc",
    ".node-version",
    "pyproject.toml",
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "pylock*.toml",
    "Pipfile",
    "Pipfile.lock",
    "requirements*.txt",
    "requirements*.in",
    "requirements/*.txt",
    "requirements/*.in",
    "constraints*.txt",
    "setup.py",
    "setup.cfg",
    "MANIFEST.in",
    ".python-version",
    "runtime.txt",
    ".tool-versions",
    "mise.toml",
    ".mise.toml",
    "Procfile",
    "project.toml",
    "/forge.toml",
    "/.forge/buildpacks/**",
];

/// What a Python project names in its metadata: without it, it cannot be installed.
const METADATA: &[&str] = &["/README*", "/LICENSE*", "/LICENCE*", "/COPYING*", "/NOTICE*"];

/// A lock file that git ignores counts when its manifest does, and none of the files
/// that would say otherwise. Lock, manifest, the others.
pub(super) const LOCKS: &[(&str, &str, &[&str])] = &[
    ("Gemfile.lock", "Gemfile", &[]),
    ("package-lock.json", "package.json", JAVASCRIPT_LOCKS),
    ("yarn.lock", "package.json", JAVASCRIPT_LOCKS),
    ("pnpm-lock.yaml", "package.json", JAVASCRIPT_LOCKS),
    ("uv.lock", "pyproject.toml", &["poetry.lock", "pdm.lock", "pylock.toml", "requirements.txt"]),
];

const JAVASCRIPT_LOCKS: &[&str] = &[
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lock",
    "bun.lockb",
];

/// Without these there is no app: a `.dockerignore` that hides one of them is for
/// images that do not hold the app.
const HEARTS: &[&str] = &["manage.py", "config/application.rb", "config.ru"];

/// Who had the last word about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum By {
    /// No rule spoke.
    Nobody,
    /// What is built in, hard or soft.
    BuiltIn,
    /// A `.gitignore` file.
    Git,
    /// The `.dockerignore` file.
    Docker,
    /// Frameworks, which read it when they start: in, though git or docker ignores it.
    Framework,
    /// The dependencies, which cannot be installed without: likewise.
    Dependencies,
    /// `.slugignore`, `project.toml`, `.forgeignore` or `[source] exclude`.
    User,
    /// `[source] include`.
    Include,
}

/// Why a path is in or out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decision {
    /// Whether the path counts.
    pub included: bool,
    /// The rule that decided and where it stands; empty when no rule spoke.
    pub rule: String,
    /// Whose rule it is.
    pub by: By,
    /// The rule that would leave the path out, if frameworks or dependencies did not
    /// need it.
    pub overruled: Option<String>,
}

/// Whether configuration that is ignored and lies on the disk counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IgnoredConfig {
    /// It does, as frameworks read it.
    Counts,
    /// It stays out: on a machine that builds for others, it has no place.
    StaysOut,
}

/// The rules that do not stand in the app's own ignore files.
#[derive(Clone, Debug)]
pub struct Rules {
    hard: Gitignore,
    soft: Gitignore,
    config: Gitignore,
    dependencies: Gitignore,
    manifests: Gitignore,
    exclude: Gitignore,
    include: Gitignore,
    pub(super) ignored_config: IgnoredConfig,
    /// A name of all of them.
    name: Digest,
}

/// The rules with those of the files at the app's root.
#[derive(Clone, Debug)]
pub(super) struct AppRules<'a> {
    pub(super) rules: &'a Rules,
    metadata: Gitignore,
    docker: Option<Dockerignore>,
    /// What the `.dockerignore` that is not used hides.
    pub(super) unfit: Option<String>,
    slug: Gitignore,
    project: Project,
    forge: Gitignore,
    /// A name of all rules together: what was decided by rules of the same name need not be
    /// decided again.
    pub(super) name: Digest,
}

/// The rules of one `.gitignore` file.
#[derive(Clone, Debug)]
pub(super) struct Nested {
    folder: String,
    origin: String,
    rules: Gitignore,
    /// A name of its text.
    pub(super) name: Digest,
}

impl Default for Rules {
    fn default() -> Rules {
        // The built-in patterns parse: a test builds them.
        Rules::new(&[], &[], IgnoredConfig::Counts).unwrap_or_else(|_| Rules {
            hard: Gitignore::empty(),
            soft: Gitignore::empty(),
            config: Gitignore::empty(),
            dependencies: Gitignore::empty(),
            manifests: Gitignore::empty(),
            exclude: Gitignore::empty(),
            include: Gitignore::empty(),
            ignored_config: IgnoredConfig::Counts,
            name: Digest::of(b""),
        })
    }
}

impl Rules {
    /// The built-in rules with the `include` and `exclude` of `forge.toml`.
    ///
    /// # Errors
    /// A pattern that does not parse.
    pub fn new(
        include: &[String],
        exclude: &[String],
        ignored_config: IgnoredConfig,
    ) -> Result<Rules, SourceError> {
        let built_in = |patterns: &[&str]| matcher("built in", patterns.iter().copied());
        let mut name = Fields::new("forge-source-rules");
        name.number(RULES_VERSION);
        for list in [HARD, SOFT, CONFIG, DEPENDENCIES, MANIFESTS, METADATA] {
            name.texts(list.iter().copied());
        }
        for list in [include, exclude] {
            name.texts(list.iter().map(String::as_str));
        }
        name.number(u64::from(ignored_config == IgnoredConfig::Counts));
        Ok(Rules {
            hard: built_in(HARD)?,
            soft: built_in(SOFT)?,
            config: built_in(CONFIG)?,
            dependencies: built_in(DEPENDENCIES)?,
            manifests: built_in(MANIFESTS)?,
            exclude: matcher(EXCLUDE, exclude.iter().map(String::as_str))?,
            include: matcher(INCLUDE, include.iter().map(String::as_str))?,
            ignored_config,
            name: name.finish(),
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
        let mut name = Fields::new("forge-source-rules-without");
        self.name = name.digest(&self.name).texts(paths.iter().map(String::as_str)).finish();
        Ok(self)
    }

    /// With the rules of the files at the app's root.
    pub(super) fn of_app(&self, root: &Path) -> Result<AppRules<'_>, SourceError> {
        let text = |name: &str| read(&root.join(name));
        let (slug, forge) = (text(SLUG)?, text(FORGE)?);
        let mut name = Fields::new("forge-source-rules-of-app");
        name.digest(&self.name);
        for text in [&slug, &forge] {
            name.texts(text.as_deref());
        }
        let own_files = slug.is_some() || forge.is_some();
        // As Heroku has it, `!` means nothing in a `.slugignore`.
        let slug = slug.unwrap_or_default();
        let slug = matcher(SLUG, slug.lines().filter(|line| !line.starts_with('!')))?;
        let forge = matcher(FORGE, forge.unwrap_or_default().lines())?;
        let descriptor = root.join(project::NAME);
        // One that is no text is somebody else's.
        let descriptor = if descriptor.is_file() {
            fs::read(&descriptor).map_err(failed("read", &descriptor))?
        } else {
            Vec::new()
        };
        name.bytes(&descriptor);
        let project = Project::parse(&String::from_utf8_lossy(&descriptor))?;
        let mut unfit = None;
        let mut docker = None;
        // Whoever says what is in forge's image does not mean Docker's as well.
        if !own_files
            && project.is_empty()
            && self.exclude.is_empty()
            && self.include.is_empty()
            && let Some(text) = text(dockerignore::NAME)?
        {
            name.text(&text);
            let found = Dockerignore::parse(&text)?;
            let hides = |path: &&&str| found.excludes(path).is_some() && root.join(path).is_file();
            unfit = HEARTS.iter().find(hides).map(|&path| path.to_owned());
            docker = Some(found).filter(|_| unfit.is_none());
        }
        let python = ["pyproject.toml", "setup.py"].iter().any(|name| root.join(name).is_file());
        let metadata = if python { METADATA } else { &[] };
        let metadata = matcher("built in", metadata.iter().copied())?;
        name.number(u64::from(python)).texts(unfit.as_deref());
        let name = name.finish();
        Ok(AppRules { rules: self, metadata, docker, unfit, slug, project, forge, name })
    }
}

impl AppRules<'_> {
    /// The `.gitignore` file that stands in the folder `below` of `root`.
    pub(super) fn nested(&self, root: &Path, below: &str) -> Result<Option<Nested>, SourceError> {
        let Some(text) = read(&root.join(below).join(GIT))? else { return Ok(None) };
        let origin = if below.is_empty() { GIT.to_owned() } else { format!("{below}/{GIT}") };
        let rules = matcher(&origin, text.lines())?;
        let name = Digest::of(text.as_bytes());
        Ok(Some(Nested { folder: below.to_owned(), origin, rules, name }))
    }

    /// Whether a folder that is excluded must be looked into all the same.
    pub(super) fn may_include_below(&self, path: &str, decision: &Decision) -> bool {
        if self.rules.hard.matched_path_or_any_parents(path, true).is_ignore() {
            return false;
        }
        let kept_from_docker = |docker: &Dockerignore| {
            docker.may_keep_below(path) || path == ".forge" || path.starts_with(".forge/")
        };
        !self.rules.include.is_empty()
            || path == "config"
            || decision.by == By::Docker && self.docker.as_ref().is_some_and(kept_from_docker)
    }

    pub(super) fn decide(&self, path: &str, is_folder: bool, nested: &[Arc<Nested>]) -> Decision {
        let rules = self.rules;
        if let Match::Ignore(glob) = rules.hard.matched_path_or_any_parents(path, is_folder) {
            return said(false, glob.original(), "always", By::BuiltIn);
        }
        let mut decision =
            Decision { included: true, rule: String::new(), by: By::Nobody, overruled: None };
        let apply = |decision: &mut Decision, rules: &Gitignore, path, origin: &str, by| {
            match rules.matched_path_or_any_parents(path, is_folder) {
                Match::None => {}
                Match::Ignore(glob) => *decision = said(false, glob.original(), origin, by),
                // A `!` matters only where an earlier rule has excluded.
                Match::Whitelist(_) if decision.included => {}
                Match::Whitelist(glob) => *decision = said(true, glob.original(), origin, by),
            }
        };
        apply(&mut decision, &rules.soft, path, "built in", By::BuiltIn);
        for file in nested {
            let inside = path.strip_prefix(&file.folder).unwrap_or(path).trim_start_matches('/');
            apply(&mut decision, &file.rules, inside, &file.origin, By::Git);
        }
        if let Some(docker) = &self.docker {
            self.apply_docker(docker, &mut decision, path);
        }
        if !is_folder && !decision.included && matches!(decision.by, By::Git | By::Docker) {
            self.apply_needed(&mut decision, path);
        }
        apply(&mut decision, &self.slug, path, SLUG, By::User);
        // `!` takes back what stands above it in the descriptor, and no more.
        let descriptor = &self.project;
        if let Match::Ignore(glob) = descriptor.exclude.matched_path_or_any_parents(path, is_folder)
        {
            decision = said(false, glob.original(), project::NAME, By::User);
        }
        let wanted = descriptor.include.is_empty()
            || is_folder
            || descriptor.include.matched_path_or_any_parents(path, false).is_ignore();
        if !wanted {
            decision = said(false, "not in `include`", project::NAME, By::User);
        }
        apply(&mut decision, &self.forge, path, FORGE, By::User);
        apply(&mut decision, &rules.exclude, path, EXCLUDE, By::User);
        if let Match::Ignore(glob) = rules.include.matched_path_or_any_parents(path, is_folder) {
            decision = said(true, glob.original(), INCLUDE, By::Include);
        }
        decision
    }

    /// A `.dockerignore` only ever leaves out, and not what says how to build.
    fn apply_docker(&self, docker: &Dockerignore, decision: &mut Decision, path: &str) {
        let Some(hit) = docker.excludes(path).filter(|_| decision.included) else { return };
        let is = |rules: &Gitignore| rules.matched_path_or_any_parents(path, false).is_ignore();
        // One in a folder that is left out whole is left out with it.
        let seen = !path.contains('/') || hit.by_name || path.starts_with(".forge/");
        *decision = if (is(&self.rules.manifests) && seen) || is(&self.metadata) {
            let rule = format!("{}, which does not hide what the build reads", dockerignore::NAME);
            said(true, hit.rule, &rule, By::Dependencies)
        } else {
            said(false, hit.rule, dockerignore::NAME, By::Docker)
        };
    }

    fn apply_needed(&self, decision: &mut Decision, path: &str) {
        let needed = [
            (&self.rules.config, By::Framework, self.rules.ignored_config == IgnoredConfig::Counts),
            (&self.rules.dependencies, By::Dependencies, true),
        ];
        for (rules, by, counts) in needed {
            if let Match::Ignore(glob) = rules.matched(path, false)
                && counts
            {
                decision.needed(glob.original(), by);
                return;
            }
        }
    }
}

impl Decision {
    /// Takes the path in after all, for the sake of `rule`.
    pub(super) fn needed(&mut self, rule: &str, by: By) {
        let reader = if by == By::Framework { "frameworks need it" } else { "the build needs it" };
        let overruled = std::mem::take(&mut self.rule);
        *self = Decision { overruled: Some(overruled), ..said(true, rule, reader, by) };
    }
}

fn said(included: bool, rule: &str, origin: &str, by: By) -> Decision {
    Decision { included, rule: format!("{rule} ({origin})"), by, overruled: None }
}

/// The example that stands beside a file of `config/`, of which `is_there` says whether it
/// does: then the file is one that everybody makes for themselves.
pub(super) fn example_of(path: &str, is_there: impl Fn(&str) -> bool) -> Option<String> {
    let stem = path.strip_prefix("config/")?.strip_suffix(".yml")?;
    ["yml.example", "example.yml", "yml.sample", "sample.yml"]
        .iter()
        .map(|ending| format!("{stem}.{ending}"))
        .find(|name| is_there(name))
}

fn read(path: &Path) -> Result<Option<String>, SourceError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
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

/// Folders of which is remembered what patterns say: files come in the order of folders.
const MOST_FOLDERS: usize = 10_000;

/// Patterns of the `.gitignore` language, of which one that matches takes a path in, and one
/// with `!` leaves it out.
#[derive(Clone, Debug)]
pub struct Matching {
    rules: Gitignore,
    /// What they say of folders; of [`MOST_FOLDERS`] at most.
    folders: HashMap<String, bool>,
    /// What they say of the folder that was asked for last: the next file is often in it too.
    last: Option<(String, bool)>,
}

/// Patterns that take in.
///
/// # Errors
/// As [`matcher`].
pub fn matching<'a>(
    origin: &str,
    patterns: impl Iterator<Item = &'a str>,
) -> Result<Matching, SourceError> {
    Ok(Matching { rules: matcher(origin, patterns)?, folders: HashMap::new(), last: None })
}

impl Matching {
    /// Whether they match a file, or a folder in which it lies.
    pub fn matches(&mut self, path: &str) -> bool {
        self.is_in(path, false)
    }

    fn is_in(&mut self, path: &str, is_folder: bool) -> bool {
        match self.rules.matched(path, is_folder) {
            Match::Ignore(_) => return true,
            Match::Whitelist(_) => return false,
            Match::None => {}
        }
        let Some((folder, _)) = path.rsplit_once('/') else { return false };
        if let Some((last, is_in)) = &self.last
            && last == folder
        {
            return *is_in;
        }
        let is_in = if let Some(known) = self.folders.get(folder) {
            *known
        } else {
            let is_in = self.is_in(folder, true);
            if self.folders.len() >= MOST_FOLDERS {
                self.folders.clear();
            }
            self.folders.insert(folder.to_owned(), is_in);
            is_in
        };
        self.last = Some((folder.to_owned(), is_in));
        is_in
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_rules_parse() {
        assert!(Rules::new(&[], &[], IgnoredConfig::Counts).is_ok());
        assert!(matcher("t", METADATA.iter().copied()).is_ok());
    }

    #[test]
    fn matches_with_the_folders_above() {
        let rules = ["*.py", "!a/b", "/x/y", "c/"];
        let mut matching = matching("t", rules.into_iter()).expect("parses");
        let whole = matcher("t", rules.into_iter()).expect("parses");
        for (path, expected) in [
            ("a/x.py", true),
            ("a/x.rb", false),
            ("a/b/x.py", true),
            ("a/b/x.rb", false),
            ("x/y/z", true),
            ("x/y/b/z", true),
            ("z/x/y", false),
            ("c", false),
            ("c/d", true),
            ("a/c/d/e", true),
        ] {
            assert_eq!(matching.matches(path), expected, "{path}");
            let found = whole.matched_path_or_any_parents(path, false).is_ignore();
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn decisions_name_their_rule() {
        let rules = Rules::default();
        let nowhere = tempfile::tempdir().expect("a folder");
        let rules = rules.of_app(nowhere.path()).expect("no files");
        let decision = rules.decide("config/master.key", false, &[]);
        assert_eq!(decision, said(false, "/config/master.key", "built in", By::BuiltIn));
        assert_eq!(decision.rule, "/config/master.key (built in)");
        let decision = rules.decide("a/b.py", false, &[]);
        assert_eq!((decision.included, decision.rule.as_str()), (true, ""));
        let ignored = Nested {
            folder: String::new(),
            origin: ".gitignore".to_owned(),
            rules: matcher("t", ["/config/*.yml"].into_iter()).expect("parses"),
            name: Digest::of(b""),
        };
        let decision = rules.decide("config/database.yml", false, &[Arc::new(ignored)]);
        assert_eq!(decision.rule, "/config/database.yml (frameworks need it)");
        assert_eq!(decision.overruled.as_deref(), Some("/config/*.yml (.gitignore)"));
        assert!(decision.included);
    }
}
