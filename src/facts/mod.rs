//! What the snapshot says about the application: parsed, never guessed.
//!
//! Each parser takes text and gives a type or a [`Refusal`] with the line; the
//! collectors read through [`Files`] and write [`Facts`]. Nothing here touches
//! a disk, the network, the environment or a clock, and nothing here judges
//! whether a fact is good: buildpacks do.
//!
//! The names are a closed list. Lists are joined by newlines.
//!
//! | fact | value |
//! | --- | --- |
//! | `procfile.<type>` | the command |
//! | `dockerfile`, `ruby.gemfile` | the path: `Dockerfile`, `Gemfile` or `gems.rb` |
//! | `python.manager` | `uv`, `poetry`, `pdm`, `pylock`, `pipenv`, `pip` or `pyproject` |
//! | `python.lock` | the file that decided the manager |
//! | `python.inputs` | every file that defines the dependencies, sorted |
//! | `python.version` | the version or range asked for, as written |
//! | `python.exact` | the one release, or series, that it names: `3.12.1`, `3.12` |
//! | `python.allows.<X.Y>` | `yes` for each series 3.9 to 3.14 that all that is stated allows |
//! | `python.package.<name>` | the pinned version; empty when not pinned, or pinned to several |
//! | `python.hashes` | `all` when each download is named by hash |
//! | `python.requirement.vcs`, `.path`, `.url` | the first requirement from there |
//! | `python.project` | `package` when the project itself is to be installed |
//! | `python.src` | `src` when packages lie in `src/` |
//! | `django.manage`, `django.dir` | the path of manage.py, and its folder (`.` for the root) |
//! | `django.ambiguous` | several manage.py at one depth; then there is no `django.manage` |
//! | `django.settings.production` | settings for production beside those for development that were found |
//! | `django.settings`, `django.wsgi`, `django.asgi` | dotted modules, relative to `django.dir` |
//! | `django.celery` | the package that holds celery.py |
//! | `django.messages` | `yes` when a `.po` lacks its `.mo` |
//! | `django.compress` | `yes` when the settings switch on offline compression |
//! | `flask.app`, `fastapi.app` | `module:object` |
//! | `ruby.lock` | `Gemfile.lock` or `gems.locked`; absent when it is not committed |
//! | `ruby.broken` | why a file cannot be understood; most of the other facts are absent then |
//! | `ruby.stale` | which gem only one of Gemfile and lock has; of a plain Gemfile only |
//! | `ruby.inputs` | every file that evaluating the Gemfile may read, and the gems in `vendor/cache`, sorted |
//! | `ruby.version` | the version asked for: by the lock, the Gemfile, `.ruby-version`, `.tool-versions`, mise |
//! | `ruby.exact` | the one release, or series, that it names: `3.4.8`, `3.4` |
//! | `ruby.version.conflict` | which two of these contradict each other |
//! | `ruby.requirement` | what the `ruby` line of the Gemfile demands, or the version of the file that it reads |
//! | `ruby.allows.<X.Y.Z>` | `yes` for each Ruby of Debian (3.3.8, 3.1.2) that may be taken |
//! | `ruby.unsupported` | why none may, when Rails is too old for both |
//! | `ruby.bundler` | the version under `BUNDLED WITH` |
//! | `ruby.gem.<name>` | the locked version |
//! | `ruby.gems` | all of them as `name-version`, sorted by name |
//! | `ruby.needs.<name>` | the gems that it needs, and that these need, as `name-version`, sorted |
//! | `ruby.precompiled.<name>` | `x86_64-linux` or `x86_64-linux-gnu`, when a variant for it is locked |
//! | `ruby.checksums` | `all` or `some`: how many of the gems of servers have one in the lock |
//! | `ruby.vendor` | `vendor/cache`, when gems are in it |
//! | `ruby.platforms` | the platforms of the lock |
//! | `ruby.platform.missing` | what it is for, when the lock is for neither `ruby` nor `x86_64-linux` |
//! | `ruby.git`, `ruby.path` | the first such source of gems |
//! | `ruby.path.outside` | the first folder of gems that are installed and not among the app's files |
//! | `rack.config`, `puma.config` | the path: `config.ru`, `config/puma.rb` |
//! | `rails.application` | `config/application.rb`, when Rails is locked or the file says that it is Rails |
//! | `rails.version` | the locked version of railties |
//! | `rails.assets` | `propshaft`, `sprockets`, `shakapacker`, `webpacker`, `vite`, `jsbundling`, `cssbundling`, `tailwindcss` or `dartsass`, the first that is locked |
//! | `rails.assets.ready` | the manifest of compiled assets in `public/assets` |
//! | `rails.javascript` | `shakapacker`, `webpacker`, `vite`, `jsbundling` or `cssbundling`, the first that is locked: it needs Node |
//! | `rails.database` | `postgres`, `mysql2`, `trilogy` or `sqlite3`, likewise |
//! | `rails.jobs` | `sidekiq`, `solid_queue`, `good_job`, `delayed_job` or `resque`, likewise |
//! | `rails.bootsnap` | `yes` when bootsnap is locked |
//! | `rails.public_files` | `off` when the configuration for production says so, whatever the environment says |
//! | `node.manifest`, `node.dir` | the path of package.json, and its folder (`.` for the root) |
//! | `node.ambiguous` | folders one level down with a package.json, none at the root; then nothing else of `node.*` |
//! | `node.manager` | `npm`, `yarn` (1), `berry` (Yarn 2 and later), `pnpm` or `bun` |
//! | `node.manager.version` | its exact version, when one is stated |
//! | `node.manager.series` | the first number of `node.manager.release` |
//! | `node.manager.release` | the exact version that is used: the stated one, or one that forge pins; absent when none will do |
//! | `node.lock` | the path of its lock file; absent when it is not committed |
//! | `node.lock.others` | lock files of other managers, joined by `, ` |
//! | `node.yarn.path` | the Yarn that the app brings along: `yarnPath` of `.yarnrc.yml` |
//! | `node.inputs` | every file that installing may read, sorted |
//! | `node.version` | the version, range or alias asked for, as written |
//! | `node.release`, `node.major` | the exact version that is used, and its first number; without a `node.version` that of forge |
//! | `node.release.missing` | why there is no `node.release` |
//! | `node.version.conflict` | two places that ask for different versions, named |
//! | `node.script.<name>` | the command |
//! | `node.scripts.install` | the scripts that run while installing: `preinstall`, `install`, `postinstall`, `prepare`, `prepublish` |
//! | `node.package.<name>` | the range of each dependency, for development or not |
//! | `node.package.production` | `yes` when there are `dependencies` |
//! | `node.git` | the first dependency from git: `name @ place` |
//! | `node.pnp` | `.pnp.cjs`, when Yarn 2 or later makes no node_modules |
//! | `node.main`, `node.type` | `main` and `type` of package.json |
//!
//! All `python.*`, `flask.*` and `fastapi.*` facts are absent when there is
//! neither a Python manifest nor a Django `manage.py`: a stray
//! `.python-version` in a Rails app says nothing about the image. Likewise all
//! of `ruby.*`, `rack.*`, `puma.*` and `rails.*` without a Gemfile, those of
//! `rails.*` without `rails.application`, and all of `node.*` without a package.json.

mod django;
mod error;
mod near_miss;
mod node;
mod procfile;
mod python;
mod ruby;
#[cfg(test)]
mod tests;
mod tools;
mod web;

use std::collections::BTreeMap;

pub use error::{FactError, Refusal};
pub use near_miss::{NearMiss, near_misses};
pub use procfile::{Process, Procfile};

/// One thing known about the application, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What is known.
    pub value: String,
    /// Where it is written: `requirements.txt:12`, `manage.py`.
    pub origin: String,
}

/// All facts, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<String, Fact>);

impl Facts {
    /// No facts.
    #[must_use]
    pub fn new() -> Facts {
        Facts::default()
    }

    /// The value of a fact.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|fact| fact.value.as_str())
    }

    /// The value of a fact with its origin.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&Fact> {
        self.0.get(name)
    }

    /// Whether the fact is known.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// States a fact; one of the same name is replaced.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
        origin: impl Into<String>,
    ) {
        self.0.insert(name.into(), Fact { value: value.into(), origin: origin.into() });
    }

    /// Every fact, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Fact)> {
        self.0.iter().map(|(name, fact)| (name.as_str(), fact))
    }
}

/// The files that facts are read from.
pub trait Files {
    /// Every regular file, relative with `/`, sorted by bytes.
    fn paths(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Whether there is a regular file at a path.
    fn has(&self, path: &str) -> bool;

    /// The text of a file; `None` when absent.
    ///
    /// # Errors
    /// Not UTF-8, too large, unreadable.
    fn read(&self, path: &str) -> Result<Option<String>, FactError>;
}

/// All facts about a snapshot.
///
/// # Errors
/// A file that forge must understand and cannot: the path, the line, the reason.
pub fn collect(files: &dyn Files) -> Result<Facts, FactError> {
    let mut facts = Facts::new();
    if files.has("Dockerfile") {
        facts.insert("dockerfile", "Dockerfile", "Dockerfile");
    }
    if let Some(procfile) = parsed(files, "Procfile", str::parse::<Procfile>)? {
        for (kind, process) in procfile.0 {
            let origin = format!("Procfile:{}", process.line);
            facts.insert(format!("procfile.{kind}"), process.command, origin);
        }
    }
    let manifest = python::dependencies(files, &mut facts)?;
    django::collect(files, &mut facts)?;
    ruby::collect(files, &mut facts);
    node::collect(files, &mut facts)?;
    if manifest.is_some() || facts.contains("django.manage") {
        python::versions(files, manifest, &mut facts)?;
        web::collect(files, &mut facts)?;
    }
    Ok(facts)
}

/// Folders whose Python files are not the application.
const NOT_THE_APP: [&str; 14] = [
    "__pycache__",
    "doc",
    "docs",
    "example",
    "examples",
    "fixtures",
    "node_modules",
    "samples",
    "site-packages",
    "test",
    "testing",
    "tests",
    "vendor",
    "venv",
];

/// Whether no folder on the way to `path` is hidden or in [`NOT_THE_APP`].
fn in_app(path: &str) -> bool {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    folder.split('/').all(|part| !part.starts_with('.') && !NOT_THE_APP.contains(&part))
}

/// How many folders lie above the file.
fn depth(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

/// The name of a Python file as `import` takes it; `None` when it has none.
fn module_name(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".py")?;
    let stem = stem.strip_suffix("/__init__").unwrap_or(stem);
    let dotted = stem.replace('/', ".");
    is_dotted(&dotted).then_some(dotted)
}

/// Whether the text is identifiers joined by dots.
fn is_dotted(text: &str) -> bool {
    text.split('.').all(|part| {
        part.starts_with(|first: char| first == '_' || first.is_alphabetic())
            && part.chars().all(|c| c == '_' || c.is_alphanumeric())
    })
}

/// `text` as seen from a folder; `None` when it leads out of the tree.
fn joined(folder: &str, text: &str) -> Option<String> {
    if text.starts_with(['/', '~']) {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(text.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What stands for every file in a folder and below: the folder, with `/` behind it, or of the root
/// what is in it, as there may be very many files. Nothing where there is none, and when it lies
/// outside the tree.
fn below(files: &dyn Files, folder: &str, text: &str) -> Vec<String> {
    let Some(place) = joined(folder, text) else { return Vec::new() };
    if !place.is_empty() {
        let place = [place.as_str(), "/"].concat();
        let is_there = files.paths().any(|path| path.starts_with(&place));
        return is_there.then_some(place).into_iter().collect();
    }
    let mut found: Vec<&str> = Vec::new();
    for path in files.paths() {
        let end = path.find('/').map_or(path.len(), |slash| slash + 1);
        if found.last() != Some(&&path[..end]) {
            found.push(&path[..end]);
        }
    }
    found.into_iter().map(str::to_owned).collect()
}

/// Reads and parses one file; `None` when absent.
fn parsed<T>(
    files: &dyn Files,
    path: &str,
    parse: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Result<Option<T>, FactError> {
    let Some(text) = files.read(path)? else { return Ok(None) };
    parse(&text).map(Some).map_err(|refusal| refusal.within(path))
}
