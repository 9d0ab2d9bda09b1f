//! `forge build`: the whole way from an app's folder to its image.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};

use super::failure::{Failure, Kind};
use super::settings::{self, AppSettings, UserSettings};
use super::{Common, Isolation, interrupt, view};
use crate::buildpack::{self, Library, Planned, Wishes};
use crate::debian::archive;
use crate::download::Downloads;
use crate::engine::{self, Built, Engine, EngineError, Identity};
use crate::event::{Event, Events, FactShown, LayerShown, StepShown, Summary};
use crate::facts::{self, FactError, Facts, Files};
use crate::image::{self, Image, Settings, archive as image_archive, layout};
use crate::layer::Compression;
use crate::lock::{self, Lock, PackageSet};
use crate::plan::{APP_FOLDER, APP_USER, Action, Plan};
use crate::registry::{self, Reference, Registry};
use crate::sandbox::{self, Mode, Running};
use crate::source::{Rules, Snapshot};
use crate::store::{Store, Table};
use crate::tree::STAMP;

/// The launcher that images start with, compiled by the build script.
const LAUNCHER: &[u8] = include_bytes!(env!("FORGE_LAUNCHER"));

#[derive(Clone, Debug, Args)]
pub(super) struct BuildArguments {
    #[command(flatten)]
    pub(super) app: AppArguments,
    /// Name of the image: REGISTRY/NAME:TAG; may be given several times
    #[arg(long, short, value_name = "REFERENCE")]
    tag: Vec<String>,
    /// Push to the registries that --tag names
    #[arg(long, requires = "tag")]
    push: bool,
    /// Write the image: oci:FOLDER, oci-archive:FILE or docker-archive:FILE;
    /// may be given several times
    #[arg(long, short, value_name = "KIND:PATH")]
    output: Vec<String>,
    /// Compression of the layers
    #[arg(long, value_enum, default_value_t = CompressionArgument::Gzip)]
    compression: CompressionArgument,
    /// The image's time of creation: `fixed`, `now` or seconds since 1970
    /// [default: $SOURCE_DATE_EPOCH, else fixed]
    #[arg(long, value_name = "TIME")]
    created: Option<String>,
    /// Run each step twice, and fail when the results differ
    #[arg(long)]
    check: bool,
    /// Steps that run at once [default: the number of processors]
    #[arg(long, short, value_name = "NUMBER")]
    jobs: Option<usize>,
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
    /// Fail instead of choosing anything that forge.lock does not name
    #[arg(long)]
    pub(super) locked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompressionArgument {
    Gzip,
    Zstd,
    None,
}

impl CompressionArgument {
    fn value(self) -> Compression {
        match self {
            CompressionArgument::Gzip => Compression::DEFAULT,
            CompressionArgument::Zstd => Compression::Zstd { level: 3 },
            CompressionArgument::None => Compression::None,
        }
    }
}

/// Builds the image of an app and prints its digest.
pub(super) fn build(common: &Common, arguments: &BuildArguments) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let outputs =
        arguments.output.iter().map(|text| Target::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let tags =
        arguments.tag.iter().map(|text| text.parse()).collect::<Result<Vec<Reference>, _>>()?;
    let created = created(arguments.created.as_deref())?;
    let running = Arc::new(Running::default());
    let _watch = interrupt::watch(&running)?;
    view::watch(common, |events| {
        let app = App::open(common, &arguments.app)?;
        let written: Vec<PathBuf> = outputs.iter().map(|output| output.path.clone()).collect();
        let snapshot = app.snapshot_without(&written)?;
        let facts = app.facts(&snapshot)?;
        let mut planned = app.plan(&snapshot, &facts, &events)?;
        let mut lock = app.lock()?;
        app.choose_packages(&mut planned.plan, &mut lock, &events)?;
        let built = app.run(&planned.plan, &snapshot, &mut lock, &events, &running, arguments)?;
        app.save_lock(&lock, &events)?;
        let image = image::assemble(&image_settings(&planned, &created), built.layers.clone())?;
        app.keep(&image)?;
        for output in &outputs {
            output.write(&image, &app.store, &tags)?;
            events.send(Event::Written { to: output.text.clone() });
        }
        if arguments.push {
            app.push(&image, &tags, &events)?;
        }
        events.send(Event::Finished(summary(&app.folder, &planned, &built, &image, started)));
        Ok(image)
    })
    .and_then(|image| {
        if !common.json {
            super::print(&format!("{}\n", image.digest))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// An app, its settings, and the store: what commands share.
pub(super) struct App {
    pub(super) folder: PathBuf,
    pub(super) settings: AppSettings,
    pub(super) user: UserSettings,
    pub(super) store: Store,
    arguments: AppArguments,
    sandbox: Option<Isolation>,
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
        })
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
        let rules = Rules::new(&self.settings.source.include, &self.settings.source.exclude)?
            .without(&own)?;
        Ok(Snapshot::take(&self.folder, &rules)?)
    }

    pub(super) fn facts(&self, snapshot: &Snapshot) -> Result<Facts, Failure> {
        let mut facts = facts::collect(&SnapshotFiles(snapshot))?;
        if !self.settings.python.extras.is_empty() {
            facts.insert("python.extras", self.settings.python.extras.join(" "), "forge.toml");
        }
        Ok(facts)
    }

    pub(super) fn plan(
        &self,
        snapshot: &Snapshot,
        facts: &Facts,
        events: &Events,
    ) -> Result<Planned, Failure> {
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
            runtime: settings.packages.runtime.clone(),
            build: settings.packages.build.clone(),
            environment: settings.environment.clone(),
            build_environment: settings.build.environment.clone(),
            processes: settings.processes.clone(),
            labels: settings.labels.clone(),
            launcher: LAUNCHER.to_vec(),
        };
        let library = Library::new(&own_buildpacks(snapshot)?)?;
        let planned = buildpack::plan(&library, facts, &wishes)
            .map_err(|error| self.explain(error.into(), snapshot))?;
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
        for (path, decision) in &snapshot.decisions {
            if decision.included && decision.rule.contains("frameworks need it") {
                events.notice(
                    format!("`{path}` is ignored by git and goes into the image, as the framework reads it"),
                    Some("if it holds secrets, exclude it: `[source] exclude` in forge.toml".to_owned()),
                );
            }
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
        let nothing_there = snapshot.files.is_empty();
        let misses = facts::near_misses(&snapshot.files);
        let mut advice: Vec<String> = misses
            .into_iter()
            .map(|miss| {
                // Advice names folders as seen from the app's; the user may be elsewhere.
                let here = self.folder.as_os_str() == ".";
                let command = format!(
                    "forge build {}/",
                    self.folder.display().to_string().trim_end_matches('/')
                );
                let advice =
                    if here { miss.advice } else { miss.advice.replace("forge build ", &command) };
                if miss.path.ends_with(&miss.meant) {
                    format!("there is `{}`: {advice}", miss.path)
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

    /// Fills in the exact packages of each package step, from the lock or by
    /// solving.
    pub(super) fn choose_packages(
        &self,
        plan: &mut Plan,
        lock: &mut Lock,
        events: &Events,
    ) -> Result<(), Failure> {
        let architecture = architecture();
        let mut archives: BTreeMap<String, archive::Archive> = BTreeMap::new();
        let mut chosen: BTreeMap<String, Vec<crate::plan::Package>> = BTreeMap::new();
        for step in &mut plan.steps {
            let Action::Packages { release, names, packages, bottom, setup } = &mut step.action
            else {
                continue;
            };
            *setup = engine::setup(*bottom);
            let below: Vec<_> = step
                .root
                .iter()
                .flat_map(|input| chosen.get(input).cloned().unwrap_or_default())
                .collect();
            let request = lock::request(release, architecture, names, &below);
            let known = lock.packages(&step.name, &request);
            let locked = known.is_some();
            *packages = match known {
                Some(packages) => packages,
                None if self.arguments.locked => {
                    return Err(Failure::usage(format!(
                        "forge.lock does not name the packages of step `{}`",
                        step.name
                    ))
                    .advise("build once without --locked, and commit forge.lock"));
                }
                None => {
                    if !archives.contains_key(release) {
                        events.send(Event::Solving { release: release.clone() });
                        let (mirrors, _) = settings::mirrors(&self.user.debian);
                        let now = SystemTime::now()
                            .duration_since(UNIX_EPOCH)
                            .map_or(0, |time| time.as_secs());
                        let now = i64::try_from(now).unwrap_or(i64::MAX);
                        let read = archive::read(
                            release,
                            architecture,
                            &mirrors,
                            &Downloads::new()?,
                            &self.store,
                            now,
                        )?;
                        archives.insert(release.clone(), read);
                    }
                    let archive = &archives[release.as_str()];
                    let packages = archive.choose(
                        &step.name,
                        release,
                        architecture,
                        names,
                        &below,
                        *bottom,
                    )?;
                    lock.set_packages(PackageSet {
                        step: step.name.clone(),
                        request,
                        release: archive.label.clone(),
                        packages: packages.clone(),
                    });
                    packages
                }
            };
            events.send(Event::Solved {
                step: step.name.clone(),
                packages: packages.len(),
                bytes: packages.iter().map(|package| package.size).sum(),
                locked,
            });
            chosen.insert(step.name.clone(), packages.clone());
        }
        Ok(())
    }

    fn run(
        &self,
        plan: &Plan,
        snapshot: &Snapshot,
        lock: &mut Lock,
        events: &Events,
        running: &Running,
        arguments: &BuildArguments,
    ) -> Result<Built, Failure> {
        let (mirrors, _) = settings::mirrors(&self.user.debian);
        let mode = OnceLock::new();
        let platform = format!("linux/{}", architecture());
        let variables: BTreeMap<String, String> = env::vars().collect();
        let shared = Mutex::new(std::mem::take(lock));
        let engine = Engine {
            plan,
            snapshot,
            store: &self.store,
            lock: &shared,
            events: events.clone(),
            running,
            mode: &|| {
                mode.get_or_init(|| self.mode())
                    .clone()
                    .map_err(|tried| EngineError::NoSandbox { tried })
            },
            downloads: &|| Ok(Downloads::new()?),
            addresses: &|package| mirrors.addresses(package),
            identity: Identity::of_machine(
                &variables,
                settings::home().as_deref(),
                Path::new("/tmp/home"),
            ),
            jobs: arguments.jobs.unwrap_or_else(processors),
            platform: &platform,
            compression: arguments.compression.value(),
            check: arguments.check,
        };
        let built = engine.build();
        let interrupted = interrupt::happened();
        drop(engine);
        *lock = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        match built {
            Ok(built) => Ok(built),
            Err(error) => {
                // What was chosen before a failure need not be chosen again. Nothing
                // may hide the failure itself, so a lock that cannot be written
                // is only told.
                if !interrupted && !self.arguments.locked {
                    self.write_lock(&lock.whole_text(), events);
                }
                if interrupted {
                    Err(Failure::new(Kind::Interrupted, "interrupted"))
                } else {
                    Err(error.into())
                }
            }
        }
    }

    /// The first way of isolation that works here, or what failed.
    pub(super) fn mode(&self) -> Result<Mode, Vec<sandbox::Probed>> {
        probe_mode(&self.store, self.sandbox)
    }

    pub(super) fn save_lock(&self, lock: &Lock, events: &Events) -> Result<(), Failure> {
        let text = lock.text();
        let there = fs::read_to_string(self.lock_path()).unwrap_or_default();
        if self.arguments.locked && there != text {
            return Err(Failure::usage(
                "forge.lock does not name all that the build chose, or names more",
            )
            .advise("build once without --locked, and commit forge.lock"));
        }
        self.write_lock(&text, events);
        Ok(())
    }

    /// Writes the lock, whole or not at all. One that cannot be written does not
    /// undo the build: the next one chooses anew.
    fn write_lock(&self, text: &str, events: &Events) {
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

    fn keep(&self, image: &Image) -> Result<(), Failure> {
        self.store.write_blob(&image.config)?;
        self.store.write_blob(&image.manifest)?;
        self.store.put(Table::Images, &image.digest, &image.layers)?;
        self.store.set_root(&self.root_name()?, &image.digest)?;
        Ok(())
    }

    fn push(&self, image: &Image, tags: &[Reference], events: &Events) -> Result<(), Failure> {
        let client = crate::download::client(None)?;
        let docker_config =
            registry::Credentials::read(&env::vars().collect(), settings::home().as_deref())?;
        for tag in tags {
            let registry =
                Registry::open(&client, tag, &docker_config, &self.user.registry.insecure)?;
            registry.push(image, &self.store, tag, events)?;
            events.send(Event::Written { to: tag.to_string() });
        }
        Ok(())
    }
}

/// The first way of isolation that works on this machine, or the one asked for;
/// else what failed.
pub(super) fn probe_mode(
    store: &Store,
    asked: Option<Isolation>,
) -> Result<Mode, Vec<sandbox::Probed>> {
    let scratch = match store.scratch("probe") {
        Ok(scratch) => scratch,
        Err(error) => {
            return Err(vec![sandbox::Probed {
                mode: Mode::Namespaces,
                result: Err(error.to_string()),
            }]);
        }
    };
    let asked = asked.map(|asked| match asked {
        Isolation::Namespaces => Mode::Namespaces,
        Isolation::Chroot => Mode::Chroot,
    });
    let mut tried = Vec::new();
    for mode in sandbox::MODES.into_iter().filter(|mode| asked.is_none_or(|asked| asked == *mode)) {
        let probed = sandbox::probe(mode, scratch.path());
        if probed.result.is_ok() {
            return Ok(mode);
        }
        tried.push(probed);
    }
    Err(tried)
}

pub(super) fn open_store(common: &Common) -> Result<Store, Failure> {
    let folder = match &common.store {
        Some(folder) => folder.clone(),
        None => settings::default_store()?,
    };
    Ok(Store::open(&folder)?)
}

pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// GOARCH's name of this machine's architecture, which is Debian's as well.
pub(super) fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Buildpacks that the app brings along, in `.forge/buildpacks/`.
fn own_buildpacks(snapshot: &Snapshot) -> Result<BTreeMap<String, String>, Failure> {
    const FOLDER: &str = ".forge/buildpacks/";
    let mut found = BTreeMap::new();
    for path in snapshot.files.iter().filter(|path| path.starts_with(FOLDER)) {
        if let Some(text) = snapshot.text(path)? {
            found.insert(path[FOLDER.len()..].to_owned(), text);
        }
    }
    Ok(found)
}

/// Facts read the app's files through this.
struct SnapshotFiles<'a>(&'a Snapshot);

impl Files for SnapshotFiles<'_> {
    fn paths(&self) -> &[String] {
        &self.0.files
    }

    fn read(&self, path: &str) -> Result<Option<String>, FactError> {
        self.0.text(path).map_err(|error| {
            use std::error::Error;
            let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            FactError { path: path.to_owned(), line: None, message }
        })
    }
}

/// Where an image is written to.
struct Target {
    text: String,
    kind: TargetKind,
    path: PathBuf,
}

enum TargetKind {
    Layout,
    Archive(image_archive::Kind),
}

impl Target {
    fn parse(text: &str) -> Result<Target, Failure> {
        let (kind, path) = text.split_once(':').unwrap_or((text, ""));
        let kind = match kind {
            "oci" => TargetKind::Layout,
            "oci-archive" => TargetKind::Archive(image_archive::Kind::Oci),
            "docker-archive" => TargetKind::Archive(image_archive::Kind::Docker),
            _ => {
                return Err(Failure::usage(format!("`{text}` is no output"))
                    .advise("write oci:FOLDER, oci-archive:FILE or docker-archive:FILE"));
            }
        };
        if path.is_empty() {
            return Err(Failure::usage(format!("output `{text}` names no path")));
        }
        Ok(Target { text: text.to_owned(), kind, path: PathBuf::from(path) })
    }

    fn write(&self, image: &Image, store: &Store, tags: &[Reference]) -> Result<(), Failure> {
        match self.kind {
            TargetKind::Layout => layout::write(image, store, &self.path, &tag_names(tags))?,
            TargetKind::Archive(kind) => {
                let names = match kind {
                    image_archive::Kind::Docker => tags.iter().map(ToString::to_string).collect(),
                    image_archive::Kind::Oci => tag_names(tags),
                };
                image_archive::write(image, store, &self.path, kind, &names)?;
            }
        }
        Ok(())
    }
}

/// The tags by which a layout names the image; a layout knows no repositories.
fn tag_names(tags: &[Reference]) -> Vec<String> {
    let names: BTreeSet<String> = tags.iter().map(|tag| tag.tag.clone()).collect();
    if names.is_empty() { vec!["latest".to_owned()] } else { names.into_iter().collect() }
}

/// The time of creation as RFC 3339.
fn created(argument: Option<&str>) -> Result<String, Failure> {
    const YEAR_10000: i64 = 253_402_300_800;
    let variable = env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty());
    let (text, origin) = match (argument, variable.as_deref()) {
        (Some(text), _) => (text, "--created"),
        (None, Some(text)) => (text, "SOURCE_DATE_EPOCH"),
        (None, None) => ("fixed", ""),
    };
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|time| i64::try_from(time.as_secs()).ok())
    };
    let seconds = match text {
        "fixed" => Some(STAMP),
        "now" if origin == "--created" => now(),
        text => text.parse().ok().filter(|seconds| (0..YEAR_10000).contains(seconds)),
    };
    let seconds = seconds.ok_or_else(|| {
        Failure::usage(format!("{origin}: `{text}` is no time"))
            .advise("write `fixed`, `now` or seconds since 1970")
    })?;
    Ok(rfc3339(seconds))
}

/// Civil date from days since 1970 (Howard Hinnant's algorithm for the
/// proleptic Gregorian calendar).
fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

fn image_settings(planned: &Planned, created: &str) -> Settings {
    let recipe = &planned.plan.image;
    let mut labels = recipe.labels.clone();
    labels.insert("dev.forge.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    labels.insert("dev.forge.buildpack".to_owned(), planned.buildpack.clone());
    let types: Vec<&str> = recipe.processes.keys().map(String::as_str).collect();
    labels.insert("dev.forge.processes".to_owned(), types.join(" "));
    Settings {
        architecture: architecture().to_owned(),
        created: created.to_owned(),
        environment: recipe.environment.clone(),
        entrypoint: vec!["/cnb/lifecycle/launcher".to_owned()],
        command: if recipe.processes.contains_key("web") {
            vec!["web".to_owned()]
        } else {
            Vec::new()
        },
        user: format!("{0}:{0}", APP_USER),
        directory: format!("/{APP_FOLDER}"),
        labels,
        ports: if recipe.processes.contains_key("web") {
            vec!["8080/tcp".to_owned()]
        } else {
            Vec::new()
        },
        stop_signal: None,
    }
}

fn summary(
    app: &Path,
    planned: &Planned,
    built: &Built,
    image: &Image,
    started: Instant,
) -> Summary {
    Summary {
        digest: image.digest,
        app: app.display().to_string(),
        ran: built.ran,
        reused: built.reused,
        layers: image
            .layers
            .iter()
            .map(|layer| LayerShown {
                step: layer.name.clone(),
                size: layer.layer.size,
                unpacked: layer.layer.unpacked,
            })
            .collect(),
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        processes: planned.plan.image.processes.keys().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (STAMP, "1980-01-01T00:00:01Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }

    #[test]
    fn outputs() {
        assert!(Target::parse("oci:x").is_ok());
        assert!(
            Target::parse("docker-archive:/a:b")
                .is_ok_and(|target| target.path == Path::new("/a:b"))
        );
        for wrong in ["oci", "oci:", "tar:x", ""] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
