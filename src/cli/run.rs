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
use super::{Common, interrupt, view};
use crate::engine::EngineError;
use crate::image::Image;
use crate::plan::APP_USER;
use crate::sandbox::{self, Bind, Exit, Given, Network, Running, Spec};

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
    let image = app.kept()?.ok_or_else(not_built)?;
    let (mut environment, command) = configuration(&image)?;
    variables(arguments, &mut environment)?;
    let scratch = app.store.scratch("run")?;
    let mode = app.mode().map_err(|tried| Failure::from(EngineError::NoSandbox { tried }))?;
    let roots = view::watch(common, |events| app.layer_folders(&image, &events))?;
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
        given: Given::Results,
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
    match sandbox::run(&spec, &running, |_| {})?.exit {
        Exit::Status(status) => Ok(ExitCode::from(u8::try_from(status).unwrap_or(1))),
        Exit::Signal(signal) => Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))),
    }
}

fn configuration(image: &Image) -> Result<(BTreeMap<String, String>, Vec<String>), Failure> {
    let config: oci_spec::image::ImageConfiguration = serde_json::from_slice(&image.config)
        .map_err(|error| {
            let what = format!("the image's configuration in the store is damaged: {error}");
            Failure::new(Kind::App, what).advise("build it again")
        })?;
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
