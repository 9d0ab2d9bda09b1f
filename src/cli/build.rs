//! `forge build`: the whole way from an app's folder to its image.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use clap::{Args, ValueEnum};

use super::app::{App, AppArguments};
use super::failure::{Failure, Kind};
use super::machine::{architecture, processors};
use super::output::{Target, created};
use super::packages::Chooser;
use super::settings;
use super::{Common, interrupt, view};
use crate::buildpack::Planned;
use crate::download::Downloads;
use crate::engine::{Built, Engine, EngineError, Identity};
use crate::event::{Event, LayerShown, Summary};
use crate::image::{self, Image, Settings};
use crate::layer::Compression;
use crate::lock::Lock;
use crate::plan::{APP_FOLDER, APP_USER, Plan};
use crate::registry::Reference;
use crate::sandbox::Running;
use crate::source::Snapshot;
use crate::store::Table;

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
    let tags = arguments
        .tag
        .iter()
        .map(|text| Reference::for_push(text))
        .collect::<Result<Vec<_>, _>>()?;
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
        let base = app.find_base(&mut planned, &mut lock)?;
        let chooser = Chooser::new(&app, &events, base.as_ref());
        chooser.choose_all(&mut planned.plan, &mut lock)?;
        let built = app.run(&planned.plan, &snapshot, &mut lock, &chooser, &running, arguments)?;
        app.save_lock(&lock, &events)?;
        let image = image::assemble(&image_settings(&planned, &created), built.layers.clone())?;
        app.keep(&image)?;
        for output in &outputs {
            output.write(&image, &app.store, &tags)?;
            events.send(Event::Written { to: output.text.clone() });
        }
        if arguments.push {
            app.push(&image, base.as_ref(), &tags, &events)?;
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

impl App {
    fn run(
        &self,
        plan: &Plan,
        snapshot: &Snapshot,
        lock: &mut Lock,
        chooser: &Chooser<'_>,
        running: &Running,
        arguments: &BuildArguments,
    ) -> Result<Built, Failure> {
        let events = &chooser.events;
        let (mirrors, _) = settings::mirrors(&self.user.debian);
        let mode = OnceLock::new();
        let platform = format!("linux/{}", architecture());
        let variables: BTreeMap<String, String> = env::vars().collect();
        let shared = Mutex::new(std::mem::take(lock));
        let fetch = |progress: &(dyn Fn(u64, u64) + Sync)| match chooser.base {
            Some(base) => base.fetch(self, progress),
            None => Ok(()),
        };
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
            base: chooser.base.map(|base| base.image(&fetch)),
            cache: None,
            choose: &|step, ground| {
                let mut lock = shared.lock().unwrap_or_else(PoisonError::into_inner);
                chooser.choose(step, ground, &mut lock)
            },
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

    fn keep(&self, image: &Image) -> Result<(), Failure> {
        self.store.write_blob(&image.config)?;
        self.store.write_blob(&image.manifest)?;
        self.store.put(Table::Images, &image.digest, &image.layers)?;
        self.store.set_root(&self.root_name()?, &image.digest)?;
        Ok(())
    }
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
