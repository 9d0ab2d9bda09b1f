//! An app, its settings and the store: what the commands share on the way from a
//! folder to a plan. Running the plan is `build`'s.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::Args;

use super::failure::{Failure, Kind};
use super::machine::{open_store, probe_mode};
use super::settings::{self, AppSettings, UserSettings};
use super::{Common, Isolation, notices, registries};
use crate::buildpack::{self, Library, Planned, Wishes};
use crate::digest::{Digest, Fields};
use crate::event::{Event, Events, FactShown, StepShown};
use crate::facts::{self, FactError, Facts, Files};
use crate::lock::{self, Lock};
use crate::memory::Bytes;
use crate::plan::MadeContent;
use crate::registry::{Access, RegistryError};
use crate::sandbox::{self, Mode};
use crate::source::{IgnoredConfig, Remembered, Rules, Seen, Snapshot};
use crate::store::{Store, Table};

/// The launcher that images start with, compiled by the build script.
const LAUNCHER: &[u8] = include_bytes!(env!("FORGE_LAUNCHER"));

/// The launcher with its digest, which the build script knows.
fn launcher() -> MadeContent {
    match Digest::from_hex(env!("FORGE_LAUNCHER_SHA256")) {
        Ok(digest) => MadeContent::known(LAUNCHER, digest),
        Err(_) => LAUNCHER.into(),
    }
}

/// What every command that plans takes.
#[derive(Clone, Debug, Args)]
pub(super) struct AppArguments {
    /// The app's folder
    #[arg(default_value = ".")]
    pub(super) app: PathBuf,
    /// Use this buildpack, whatever is detected
    #[arg(long, value_name = "NAME")]
    pub(super) buildpack: Option<String>,
    /// The image under the app, instead of what forge chooses
    #[arg(long, value_name = "REFERENCE")]
    pub(super) base: Option<String>,
    /// Fail instead of choosing anything that forge.lock does not name
    #[arg(long)]
    pub(super) locked: bool,
    /// Leave out configuration that git or .dockerignore ignores, also when the
    /// framework reads it
    #[arg(long)]
    pub(super) no_ignored_config: bool,
}

impl AppArguments {
    /// For commands that take nothing but the folder.
    pub(super) fn of(app: &Path) -> AppArguments {
        AppArguments {
            app: app.to_owned(),
            buildpack: None,
            base: None,
            locked: false,
            no_ignored_config: false,
        }
    }
}

/// An app, its settings, and the store: what commands share.
pub(super) struct App {
    pub(super) folder: PathBuf,
    pub(super) settings: AppSettings,
    pub(super) user: UserSettings,
    pub(super) store: Store,
    pub(super) arguments: AppArguments,
    sandbox: Option<Isolation>,
    access: OnceLock<Arc<Access>>,
}

/// Where it stands what selections of an app's files came to.
fn selected_key(snapshot: &Snapshot) -> Digest {
    Fields::new("forge-source-selected").text(&snapshot.root.to_string_lossy()).finish()
}

impl App {
    pub(super) fn open(common: &Common, arguments: &AppArguments) -> Result<App, Failure> {
        let folder = &arguments.app;
        if !folder.is_dir() {
            return Err(Failure::usage(format!("`{}` is not a folder", folder.display()))
                .advise("name the folder of the app: `forge build FOLDER`"));
        }
        Ok(App {
            folder: folder.clone(),
            settings: settings::of_app(folder)?,
            user: settings::of_user()?,
            store: open_store(common)?,
            arguments: arguments.clone(),
            sandbox: common.sandbox,
            access: OnceLock::new(),
        })
    }

    /// The way to registries, one for all that is done with them.
    pub(super) fn access(&self) -> Result<&Access, RegistryError> {
        if let Some(access) = self.access.get() {
            return Ok(access);
        }
        let made = registries::access(&self.user)?;
        Ok(self.access.get_or_init(|| made))
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, Failure> {
        self.snapshot_without(&[])
    }

    /// The app's files but for what forge itself writes: these paths, and the store.
    pub(super) fn snapshot_without(&self, written: &[PathBuf]) -> Result<Snapshot, Failure> {
        let root = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        let own: Vec<String> = written
            .iter()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
            .chain([self.store.root().to_owned()])
            .filter_map(|path| Some(path.strip_prefix(&root).ok()?.to_string_lossy().into_owned()))
            .filter(|path| !path.is_empty())
            .collect();
        let source = &self.settings.source;
        let stays_out = self.arguments.no_ignored_config || source.ignored_config == Some(false);
        let ignored_config =
            if stays_out { IgnoredConfig::StaysOut } else { IgnoredConfig::Counts };
        let rules = Rules::new(&source.include, &source.exclude, ignored_config)?.without(&own)?;
        let key = Fields::new("forge-source").text(&root.to_string_lossy()).finish();
        let known = self.store.bytes(Table::Sources, &key)?;
        let known = known.and_then(Seen::parse).unwrap_or_default();
        let (snapshot, seen) = Snapshot::take_again(&self.folder, &rules, &known)?;
        if seen != known {
            self.store.put_bytes(Table::Sources, &key, &|to| seen.write_to(to))?;
        }
        let remembered = self.store.bytes(Table::Sources, &selected_key(&snapshot))?;
        let parsed = |bytes: Bytes| Remembered::parse(bytes.part(0..bytes.len()));
        if let Some(remembered) = remembered.and_then(parsed) {
            snapshot.recall(remembered);
        }
        Ok(snapshot)
    }

    /// Keeps what selections of the app's files came to, unless it is as it was.
    pub(super) fn remember(&self, snapshot: &Snapshot) -> Result<(), Failure> {
        if let Some(remembered) = snapshot.remembered() {
            let key = selected_key(snapshot);
            let bytes = remembered.to_bytes();
            self.store.put_bytes(Table::Sources, &key, &|to| to.write_all(&bytes))?;
        }
        Ok(())
    }

    fn facts(&self, snapshot: &Snapshot) -> Result<Facts, Failure> {
        let mut facts = facts::collect(&SnapshotFiles::new(snapshot))
            .map_err(|error| notices::with_left_out(error.into(), snapshot))?;
        if !self.settings.python.extras.is_empty() {
            facts.insert("python.extras", self.settings.python.extras.join(" "), "forge.toml");
        }
        Ok(facts)
    }

    pub(super) fn plan(&self, snapshot: &Snapshot, events: &Events) -> Result<Planned, Failure> {
        let library = || Ok(Library::new(&own_buildpacks(snapshot)?)?);
        let ((facts, library), of_files) = rayon::join(
            || rayon::join(|| self.facts(snapshot), library),
            || notices::of_files(snapshot),
        );
        let facts = facts?;
        let library = library.map_err(|failure| notices::with_left_out(failure, snapshot))?;
        let settings = &self.settings;
        for name in settings.environment.keys().chain(settings.build.environment.keys()) {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(Failure::usage(format!(
                    "forge.toml: `{name}` cannot be the name of a variable"
                )));
            }
        }
        let wishes = Wishes {
            buildpack: self.arguments.buildpack.clone().or_else(|| settings.buildpack.clone()),
            skip: settings.skip.clone(),
            release: settings.base.release.clone(),
            image: self.arguments.base.clone().or_else(|| settings.base.image.clone()),
            runtime: settings.packages.runtime.clone(),
            build: settings.packages.build.clone(),
            environment: settings.environment.clone(),
            build_environment: settings.build.environment.clone(),
            processes: settings
                .processes
                .iter()
                .map(|(kind, said)| (kind.clone(), said.0.clone()))
                .collect(),
            start: settings.start.clone(),
            labels: settings.labels.clone(),
            launcher: launcher(),
        };
        let planned = buildpack::plan(&library, &facts, &wishes)
            .map_err(|error| self.explain(error.into(), snapshot))
            .map_err(|failure| notices::with_left_out(failure, snapshot))?;
        events.send(Event::Detected {
            buildpack: planned.about.clone(),
            facts: planned
                .evidence
                .iter()
                .map(|(name, value, origin)| FactShown {
                    name: name.clone(),
                    value: value.clone(),
                    origin: origin.clone(),
                })
                .collect(),
        });
        for (message, advice) in of_files {
            events.notice(message, Some(advice));
        }
        for (message, advice) in &planned.notices {
            events.notice(message.clone(), Some(advice.clone()));
        }
        if facts.contains("dockerfile") {
            events.notice("the Dockerfile is not used: forge plans from the app itself", None);
        }
        if !planned.plan.image.processes.contains_key("web") {
            events.notice(
                "no `web` process is known: the image starts nothing by itself",
                Some("say how the app starts, in a Procfile (`web: …`) or forge.toml (`[processes]`)".to_owned()),
            );
        }
        events.send(Event::Planned {
            steps: planned
                .plan
                .steps
                .iter()
                .map(|step| StepShown {
                    name: step.name.clone(),
                    about: step.about.clone(),
                    needs: step.root.clone(),
                })
                .collect(),
        });
        Ok(planned)
    }

    /// When nothing was detected, names that are nearly right help most.
    fn explain(&self, failure: Failure, snapshot: &Snapshot) -> Failure {
        if failure.kind != Kind::NothingDetected {
            return failure;
        }
        let mut failure = failure;
        failure.message = format!("{} in `{}`", failure.message, self.folder.display());
        let nothing_there = snapshot.files().next().is_none();
        let misses = facts::near_misses(&snapshot.files().collect::<Vec<_>>());
        let mut advice: Vec<String> = misses
            .into_iter()
            .map(|miss| {
                // Advice names folders as seen from the app's; the user may be elsewhere.
                let here = self.folder.as_os_str() == ".";
                let command = format!(
                    "forge build {}/",
                    self.folder.display().to_string().trim_end_matches('/')
                );
                let advice = if here {
                    miss.advice.clone()
                } else {
                    miss.advice.replace("forge build ", &command)
                };
                if miss.path.ends_with(&miss.meant) {
                    format!("there is `{}`: {advice}", miss.path)
                } else if !miss.advice.starts_with("rename") {
                    format!("there is `{}` and no {}: {advice}", miss.path, miss.meant)
                } else {
                    format!("`{}`: did you mean `{}`? {advice}", miss.path, miss.meant)
                }
            })
            .collect();
        if nothing_there {
            advice.push("the folder is empty, or all that is in it is excluded".to_owned());
        }
        advice.append(&mut failure.advice);
        failure.advice = advice;
        failure
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.folder.join(lock::FILE)
    }

    pub(super) fn lock(&self) -> Result<Lock, Failure> {
        let path = self.lock_path();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Lock::parse(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Lock::default()),
            Err(error) => {
                Err(Failure::usage(format!("could not read `{}`: {error}", path.display())))
            }
        }
    }

    /// The first way of isolation that works here, or what failed.
    pub(super) fn mode(&self) -> Result<Mode, Vec<sandbox::Probed>> {
        probe_mode(&self.store, self.sandbox)
    }

    /// Writes what a build that went well has chosen.
    pub(super) fn save_lock(&self, text: &str, events: &Events) -> Result<(), Failure> {
        let there = fs::read_to_string(self.lock_path()).unwrap_or_default();
        if self.arguments.locked && there != text {
            return Err(Failure::usage(
                "forge.lock does not name all that the build chose, or names more",
            )
            .advise("build once without --locked, and commit forge.lock"));
        }
        self.write_lock(text, events);
        Ok(())
    }

    /// Writes the lock, whole or not at all. One that cannot be written does not
    /// undo the build: the next one chooses anew.
    pub(super) fn write_lock(&self, text: &str, events: &Events) {
        let path = self.lock_path();
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return;
        }
        // The name is one that never counts as a file of the app.
        let written = tempfile::Builder::new()
            .prefix(".forge.lock-")
            .tempfile_in(&self.folder)
            .and_then(|mut file| {
                use std::io::Write;
                use std::os::unix::fs::PermissionsExt;
                file.write_all(text.as_bytes())?;
                file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
                file.as_file().sync_all()?;
                Ok(file)
            })
            .and_then(|file| file.persist(&path).map_err(|error| error.error));
        if let Err(error) = written {
            events.notice(
                format!("could not write `{}`: {error}", path.display()),
                Some("without it, the next build may choose newer packages".to_owned()),
            );
        }
    }

    /// The root under which the app's last image is kept in the store.
    pub(super) fn root_name(&self) -> Result<String, Failure> {
        let folder = self.folder.canonicalize().map_err(|error| {
            Failure::usage(format!("could not find `{}`: {error}", self.folder.display()))
        })?;
        Ok(folder.to_string_lossy().into_owned())
    }
}

/// Buildpacks that the app brings along, in `.forge/buildpacks/`.
fn own_buildpacks(snapshot: &Snapshot) -> Result<BTreeMap<String, String>, Failure> {
    const FOLDER: &str = ".forge/buildpacks/";
    let mut found = BTreeMap::new();
    for path in snapshot.files().filter(|path| path.starts_with(FOLDER)) {
        if let Some(text) = snapshot.text(path)? {
            found.insert(path[FOLDER.len()..].to_owned(), text);
        }
    }
    Ok(found)
}

/// Facts read the app's files through this.
struct SnapshotFiles<'a> {
    snapshot: &'a Snapshot,
    /// Those of all files, where there are not very many: they are asked for again and again.
    paths: Vec<&'a str>,
}

/// Files whose paths are at hand.
const AT_HAND: usize = 100_000;

impl SnapshotFiles<'_> {
    fn new(snapshot: &Snapshot) -> SnapshotFiles<'_> {
        let few = snapshot.entries() <= AT_HAND;
        let paths = if few { snapshot.files().collect() } else { Vec::new() };
        SnapshotFiles { snapshot, paths }
    }
}

impl Files for SnapshotFiles<'_> {
    fn paths(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        if self.snapshot.entries() <= AT_HAND {
            Box::new(self.paths.iter().copied())
        } else {
            Box::new(self.snapshot.files())
        }
    }

    fn has(&self, path: &str) -> bool {
        self.snapshot.content(path).is_some()
    }

    fn read(&self, path: &str) -> Result<Option<String>, FactError> {
        self.snapshot.text(path).map_err(|error| {
            use std::error::Error;
            let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            FactError { path: path.to_owned(), line: None, message }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launchers_digest_is_that_of_its_bytes() {
        assert_eq!(launcher().digest(), Digest::of(LAUNCHER));
    }
}
