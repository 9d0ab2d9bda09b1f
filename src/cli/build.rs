//! `forge build`: the whole way from an app's folder to its image.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use clap::{Args, ValueEnum};

use super::app::{App, AppArguments};
use super::cache::{Named, SharedCache};
use super::failure::{Failure, Kind};
use super::machine::{architecture, processors};
use super::output::{Target, created};
use super::packages::Chooser;
use super::sending::Sending;
use super::settings;
use super::{Common, interrupt, view};
use crate::buildpack::Planned;
use crate::digest::{Digest, Fields};
use crate::download::Downloads;
use crate::engine::{Built, Cache, Engine, EngineError, Identity, Packed};
use crate::event::{Event, LayerShown, Summary};
use crate::image::{self, Image, MediaTypes, Settings};
use crate::layer::{Compression, Recipe};
use crate::lock::Lock;
use crate::plan::key::deep_key;
use crate::plan::{APP_FOLDER, APP_USER, Action, Plan};
use crate::registry::Reference;
use crate::sandbox::Running;
use crate::source::Snapshot;
use crate::tree::Tree;

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
    /// Write the image: oci:FOLDER, oci-archive:FILE, docker-archive:FILE, or
    /// docker-daemon (Docker on this machine, by its socket); may be given several times
    #[arg(long, short, value_name = "KIND:PATH")]
    output: Vec<String>,
    /// A repository in which results are kept for other machines, and looked up; `none`
    /// for none [default with --push: the image's own repository]
    #[arg(long, value_name = "REPOSITORY")]
    cache: Option<String>,
    /// A repository in which results are looked up only; may be given several times
    #[arg(long, value_name = "REPOSITORY")]
    cache_from: Vec<String>,
    /// Compression of the layers
    #[arg(long, value_enum, default_value_t = CompressionArgument::Gzip)]
    compression: CompressionArgument,
    /// What the image's parts are called: as OCI or as Docker does
    #[arg(long, value_enum, default_value_t = MediaTypesArgument::Oci)]
    media_types: MediaTypesArgument,
    /// The image's time of creation: `fixed`, `now` or seconds since 1970
    /// [default: $SOURCE_DATE_EPOCH, else fixed]
    #[arg(long, value_name = "TIME")]
    created: Option<String>,
    /// Run each step twice, and fail when the results differ
    #[arg(long)]
    check: bool,
    /// Make so many of a hundred results that were reused, as nothing that their step read
    /// has changed, again from all files, and fail when one differs [all without a number]
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true,
        default_missing_value = "100", value_parser = clap::value_parser!(u8).range(0..=100))]
    verify_trace: Option<u8>,
    /// Run steps again after any change of the files that they are given, read or not
    #[arg(long, conflicts_with = "verify_trace")]
    no_trace: bool,
    /// Steps that run at once [default: the number of processors]
    #[arg(long, short, value_name = "NUMBER")]
    jobs: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompressionArgument {
    Gzip,
    Zstd,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MediaTypesArgument {
    Oci,
    Docker,
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
    let tags = arguments
        .tag
        .iter()
        .map(|text| Reference::for_push(text))
        .collect::<Result<Vec<_>, _>>()?;
    let caches = Named::parse(arguments.cache.as_deref(), &arguments.cache_from)?;
    if arguments.media_types == MediaTypesArgument::Docker
        && arguments.compression == CompressionArgument::Zstd
    {
        return Err(Failure::usage("Docker's media types have no name for zstd")
            .advise("leave out `--media-types docker` or `--compression zstd`"));
    }
    let created = created(arguments.created.as_deref())?;
    let running = Arc::new(Running::default());
    let _watch = interrupt::watch(&running)?;
    view::watch(common, |events| {
        let app = App::open(common, &arguments.app)?;
        let written: Vec<PathBuf> = outputs.iter().map(|output| output.path.clone()).collect();
        let snapshot = app.snapshot_without(&written)?;
        let mut planned = app.plan(&snapshot, &events)?;
        let without_trace = arguments.no_trace || app.settings.build.trace == Some(false);
        if without_trace {
            for step in &mut planned.plan.steps {
                step.traced = false;
            }
        }
        let mut lock = app.lock()?;
        let base = app.find_base(&mut planned, &mut lock)?;
        let chooser = Chooser::new(&app, &events, base.as_ref());
        chooser.choose_all(&mut planned.plan, &mut lock)?;
        let settings = image_settings(&planned, &created, arguments);
        let pushed = if arguments.push { &tags[..] } else { &[] };
        let cache = SharedCache::open(&app, &events, &caches, pushed)?;
        let sending = Sending::new(&app, cache.as_ref(), pushed, &events);
        let work = Work {
            app: &app,
            folder: app.root_name()?,
            plan: &planned.plan,
            snapshot: &snapshot,
            chooser: &chooser,
            cache: cache.as_ref(),
            sending: &sending,
            running: &running,
            arguments,
        };
        let push = |image: &Image| {
            app.push(image, base.as_ref(), cache.as_ref(), &sending, pushed, &events)
        };
        // A blob that the cache has lost is noted there, so the next try goes on without it.
        let lost = || cache.as_ref().map_or(0, SharedCache::lost);

        let needs_bytes = !arguments.push || !outputs.is_empty();
        // Whoever doubts results does not take the image that was made of them.
        let doubts = arguments.check || arguments.verify_trace.is_some() || without_trace;
        let known =
            if needs_bytes || doubts { None } else { work.known(&settings, &lock.whole_text())? };
        if let Some((image, repository)) = known {
            events.send(Event::ImageKnown { repository });
            // It may refuse, and then no tag may have moved.
            app.save_lock(&lock.whole_text(), &events)?;
            match push(&image) {
                Ok(()) => {
                    app.keep(&image)?;
                    app.remember(&snapshot)?;
                    events.send(Event::Finished(summary(
                        &app.folder,
                        &planned,
                        None,
                        &image,
                        started,
                    )));
                    return Ok(image);
                }
                Err(_) if lost() > 0 => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            let before = lost();
            let built = work.run(&mut lock, needs_bytes)?;
            app.save_lock(&lock.text(), &events)?;
            let image = image::assemble(&settings, built.layers.clone())?;
            app.keep(&image)?;
            app.remember(&snapshot)?;
            for output in &outputs {
                output.write(&image, &app.store, &tags)?;
                events.send(Event::Written { to: output.text.clone() });
            }
            match push(&image) {
                Ok(()) => {}
                Err(_) if lost() > before => continue,
                Err(error) => return Err(error),
            }
            work.publish(&built, &settings, &image, &mut lock, pushed)?;
            let summary = summary(&app.folder, &planned, Some(&built), &image, started);
            events.send(Event::Finished(summary));
            return Ok(image);
        }
    })
    .and_then(|image| {
        if !common.json {
            super::print(&format!("{}\n", image.digest))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What a plan is carried out with.
struct Work<'a> {
    app: &'a App,
    folder: String,
    plan: &'a Plan,
    snapshot: &'a Snapshot,
    chooser: &'a Chooser<'a>,
    cache: Option<&'a SharedCache<'a>>,
    sending: &'a Sending<'a>,
    running: &'a Running,
    arguments: &'a BuildArguments,
}

impl Work<'_> {
    /// Carries the plan out.
    fn run(&self, lock: &mut Lock, needs_bytes: bool) -> Result<Built, Failure> {
        let built = self
            .sending
            .during(|packed| self.with_engine(lock, needs_bytes, packed, |engine| engine.build()));
        let interrupted = interrupt::happened();
        match built {
            Ok(built) => Ok(built),
            Err(error) => {
                // What was chosen before a failure need not be chosen again. Nothing
                // may hide the failure itself, so a lock that cannot be written
                // is only told.
                if !interrupted && !self.app.arguments.locked {
                    self.app.write_lock(&lock.whole_text(), &self.chooser.events);
                }
                if interrupted {
                    Err(Failure::new(Kind::Interrupted, "interrupted"))
                } else {
                    Err(error.into())
                }
            }
        }
    }

    fn with_engine<R>(
        &self,
        lock: &mut Lock,
        needs_bytes: bool,
        packed: Option<&Packed<'_>>,
        act: impl FnOnce(&Engine<'_>) -> R,
    ) -> R {
        let (app, chooser) = (self.app, self.chooser);
        let (mirrors, _) = settings::mirrors(&app.user.debian);
        let mode = OnceLock::new();
        let platform = platform();
        let variables: BTreeMap<String, String> = env::vars().collect();
        let shared = Mutex::new(std::mem::take(lock));
        let fetch = |progress: &(dyn Fn(u64, u64) + Sync)| match chooser.base {
            Some(base) => base.fetch(app, progress),
            None => Ok(()),
        };
        let engine = Engine {
            plan: self.plan,
            folder: &self.folder,
            snapshot: self.snapshot,
            store: &app.store,
            lock: &shared,
            events: chooser.events.clone(),
            running: self.running,
            mode: &|| {
                mode.get_or_init(|| app.mode())
                    .clone()
                    .map_err(|tried| EngineError::NoSandbox { tried })
            },
            downloads: &|| Ok(Downloads::new()?),
            base: chooser.base.map(|base| base.image(&fetch)),
            cache: self.cache.map(|cache| cache as &dyn Cache),
            choose: &|step, ground| {
                let mut lock = shared.lock().unwrap_or_else(PoisonError::into_inner);
                chooser.choose(step, ground, &mut lock)
            },
            all_chosen: &|| chooser.forget(),
            packed,
            addresses: &|package| mirrors.addresses(package),
            identity: Identity::of_machine(
                &variables,
                settings::home().as_deref(),
                Path::new("/tmp/home"),
            ),
            jobs: self.arguments.jobs.unwrap_or_else(processors),
            platform: &platform,
            compression: self.arguments.compression.value(),
            check: self.arguments.check,
            verify: self.arguments.verify_trace.unwrap_or(0),
            needs_bytes,
        };
        let result = act(&engine);
        drop(engine);
        *lock = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        result
    }

    /// The image of the plan, if the cache knows it.
    fn known(&self, settings: &Settings, lock: &str) -> Result<Option<(Image, String)>, Failure> {
        let Some(cache) = self.cache else { return Ok(None) };
        Ok(cache.image(&self.key(settings, lock)?, settings)?)
    }

    /// The name of the whole image, given the lock that goes with it.
    fn key(&self, settings: &Settings, lock: &str) -> Result<Digest, Failure> {
        let mut sources = BTreeMap::new();
        for step in &self.plan.steps {
            if let Action::Source { selection } = &step.action {
                sources.insert(step.name.clone(), self.snapshot.selected_digest(selection)?);
            }
        }
        let recipe = Recipe { owners: Vec::new(), compression: self.arguments.compression.value() };
        Ok(Fields::new("forge-whole-image")
            .digest(&deep_key(self.plan, &platform(), &sources, lock))
            .digest(&settings.digest())
            .digest(&recipe.key(&Tree::default().digest()))
            .finish())
    }

    /// Gives the cache what it does not have yet.
    fn publish(
        &self,
        built: &Built,
        settings: &Settings,
        image: &Image,
        lock: &mut Lock,
        pushed: &[Reference],
    ) -> Result<(), Failure> {
        let Some(cache) = self.cache else { return Ok(()) };
        let key = self.key(settings, &lock.text())?;
        self.with_engine(lock, false, None, |engine| {
            cache.publish(&built.made, (&key, image), pushed, &|made| engine.packed(made));
        });
        Ok(())
    }
}

fn platform() -> String {
    format!("linux/{}", architecture())
}

fn image_settings(planned: &Planned, created: &str, arguments: &BuildArguments) -> Settings {
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
        media_types: match arguments.media_types {
            MediaTypesArgument::Oci => MediaTypes::Oci,
            MediaTypesArgument::Docker => MediaTypes::Docker,
        },
    }
}

fn summary(
    app: &Path,
    planned: &Planned,
    built: Option<&Built>,
    image: &Image,
    started: Instant,
) -> Summary {
    // Of an image that is known as a whole, nothing was done.
    let all = planned.plan.steps.len();
    Summary {
        digest: image.digest,
        app: app.display().to_string(),
        ran: built.map_or(0, |built| built.ran),
        reused: built.map_or(all, |built| built.reused),
        layers: image
            .layers
            .iter()
            .map(|layer| LayerShown {
                step: layer.name.clone(),
                part: layer.part.clone(),
                size: layer.layer.size,
                unpacked: layer.layer.unpacked,
            })
            .collect(),
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        processes: planned.plan.image.processes.keys().cloned().collect(),
    }
}
