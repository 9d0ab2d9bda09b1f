//! `forge run`: a process of the built image, on this machine, without Docker.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::app::{App, AppArguments};
use super::failure::{Failure, Kind};
use super::{Common, interrupt};
use crate::digest::Digest;
use crate::engine::EngineError;
use crate::image::ImageLayer;
use crate::plan::APP_USER;
use crate::sandbox::{self, Bind, Exit, Network, Running, Spec};
use crate::store::{Store, Table};

#[derive(Clone, Debug, Args)]
pub(super) struct RunArguments {
    /// The app's folder
    app: PathBuf,
    /// Set a variable; NAME alone takes its value from here
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file, NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// A process type, or a command [default: web]
    #[arg(last = true, value_name = "PROCESS")]
    process: Vec<String>,
}

pub(super) fn run(common: &Common, arguments: &RunArguments) -> Result<ExitCode, Failure> {
    let app = App::open(common, &AppArguments::of(&arguments.app))?;
    let not_built = || {
        Failure::usage(format!("`{}` has not been built into this store", arguments.app.display()))
            .advise(format!("build it first: `forge build {}`", arguments.app.display()))
    };
    let digest = app.store.root_digest(&app.root_name()?)?.ok_or_else(not_built)?;
    let layers: Vec<ImageLayer> = app.store.get(Table::Images, &digest)?.ok_or_else(not_built)?;
    let (mut environment, command) = configuration(&app.store, &digest)?;
    variables(arguments, &mut environment)?;
    let scratch = app.store.scratch("run")?;
    let mode = app.mode().map_err(|tried| Failure::from(EngineError::NoSandbox { tried }))?;
    let mut roots = Vec::new();
    for layer in &layers {
        let root = layer_root(&app.store, layer)?;
        // The layers of a base image are one tree, and an overlay takes no folder twice.
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    let mut process = arguments.process.clone();
    if process.is_empty() {
        process = command;
    }
    let mut argv = vec!["/cnb/lifecycle/launcher".to_owned()];
    argv.extend(process);
    let binds = ["/etc/resolv.conf", "/etc/hosts"]
        .into_iter()
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .map(|path| Bind { from: path.clone(), to: path, writable: false })
        .collect();
    let spec = Spec {
        mode,
        layers: roots,
        scratch: scratch.path().to_owned(),
        outputs: Vec::new(),
        binds,
        network: Network::Host,
        command: argv,
        environment,
        directory: PathBuf::from("/workspace"),
        user: APP_USER,
        parent: sandbox::own_pid(),
        interactive: true,
    };
    let running = Arc::new(Running::default());
    let _watch = interrupt::forward(&running)?;
    match sandbox::run(&spec, &running, |_| {})? {
        Exit::Status(status) => Ok(ExitCode::from(u8::try_from(status).unwrap_or(1))),
        Exit::Signal(signal) => Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))),
    }
}

fn configuration(
    store: &Store,
    digest: &Digest,
) -> Result<(BTreeMap<String, String>, Vec<String>), Failure> {
    let broken = |error: serde_json::Error| {
        Failure::new(Kind::App, format!("the image's documents in the store are damaged: {error}"))
            .advise("build it again")
    };
    let manifest: oci_spec::image::ImageManifest =
        serde_json::from_slice(&store.read_blob(digest)?).map_err(broken)?;
    let config: Digest = manifest.config().digest().to_string().parse().map_err(|error| {
        Failure::new(Kind::App, format!("the image's manifest is damaged: {error}"))
    })?;
    let config: oci_spec::image::ImageConfiguration =
        serde_json::from_slice(&store.read_blob(&config)?).map_err(broken)?;
    let config = config.config().clone().unwrap_or_default();
    let environment = config
        .env()
        .iter()
        .flatten()
        .filter_map(|entry| {
            entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect();
    Ok((environment, config.cmd().clone().unwrap_or_default()))
}

fn variables(
    arguments: &RunArguments,
    environment: &mut BTreeMap<String, String>,
) -> Result<(), Failure> {
    for name in ["TERM", "COLORTERM"] {
        if let Ok(value) = env::var(name) {
            environment.insert(name.to_owned(), value);
        }
    }
    let mut set = |entry: &str, origin: &str| -> Result<(), Failure> {
        match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                environment.insert(name.to_owned(), value.to_owned());
            }
            None if !entry.is_empty() => {
                if let Ok(value) = env::var(entry) {
                    environment.insert(entry.to_owned(), value);
                }
            }
            _ => return Err(Failure::usage(format!("{origin}: `{entry}` is no variable"))),
        }
        Ok(())
    };
    for path in &arguments.env_file {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("could not read `{}`: {error}", path.display()))
        })?;
        for line in text
            .lines()
            .map(str::trim_start)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            set(line, &path.display().to_string())?;
        }
    }
    for entry in &arguments.env {
        set(entry, "--env")?;
    }
    Ok(())
}

/// The layer's files: its tree, unpacked in the store under its diffID's record.
fn layer_root(store: &Store, layer: &ImageLayer) -> Result<PathBuf, Failure> {
    let tree = layer.tree;
    if store.has_tree(&tree) {
        Ok(store.tree_path(&tree))
    } else {
        Err(Failure::new(
            Kind::App,
            format!("the files of layer `{}` are not in the store any more", layer.name),
        )
        .advise("build the app again"))
    }
}
