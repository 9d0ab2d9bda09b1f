//! The entrypoint of every image that forge makes: it finds out which program
//! is meant, prepares its environment, and becomes that program.
//!
//! ```text
//! argv ─► request ─► process table ─► choice ─► environment ─► preparation ─► exec
//! ```
//!
//! - Nothing stays behind: the process id, the signals and the exit status are
//!   those of the program that was started.
//! - It is linked statically and runs in an image that holds nothing else.
//! - It resolves host names itself: a static glibc would look for NSS modules
//!   of exactly its own version.
//! - Layers of Cloud Native Buildpacks count wherever there are any: `buildpacks`.
//!   `FORGE_LAUNCHER_COMPAT=cnb` makes it the launcher of CNB in all: `compat`.
//! - What it refuses is written as `forge launcher: cannot …: …` with a line on
//!   what to do next. Exit status: 127 no such program, 126 a program that
//!   cannot be run, 82 anything else that stops the launcher, 2 wrong usage.

#![deny(unsafe_code)]

mod address;
mod all;
mod buildpacks;
mod choose;
mod compat;
mod digest;
mod eligible;
mod environment;
mod execd;
mod execute;
mod explain;
mod failure;
#[cfg(test)]
mod generated;
mod handles;
mod init;
mod layers;
mod prepare;
mod production;
mod profile;
mod protocol;
mod publish;
mod resolve;
mod settings;
mod system;
mod table;
#[cfg(test)]
mod testing;
mod toml;
mod too_large;
mod wait;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

use choose::{Choice, Launch, Request};
use environment::Environment;
use failure::Failure;
use settings::Preparation;
use table::Table;

/// What `forge` says about itself inside an image.
const ABOUT: &str = "\
forge launcher: starts the programs of this image, which was made by forge.

  forge launcher                 start the default process
  forge launcher TYPE            start the process of that type
  forge launcher COMMAND ARG…    run a command as the application would
  forge launcher -- COMMAND ARG… the same, also if it is named like a type
  forge launcher --list          show the process types and their commands
  forge launcher --all TYPE…     start several in this container; all, if none is named
  forge launcher --env TYPE      show the names of its variables; values with --values
  forge launcher --explain TYPE  show what happens at its start, and where variables are from

Images are built with the full `forge` program, which is not in the image.
";

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().collect();
    let layers = directory("CNB_LAYERS_DIR", "/layers");
    let app = directory("CNB_APP_DIR", "/workspace");
    let compat = env::var_os(compat::SWITCH).unwrap_or_default();
    if compat == "cnb" {
        let refusal = compat::launch(words, &layers, &app);
        eprint!("{refusal}");
        return ExitCode::from(refusal.code);
    }
    let known = match compat.to_str() {
        Some("") => Ok(()),
        _ => Err(Failure::usage(
            &format!("be compatible with `{}`", compat.to_string_lossy()),
            format!("{} knows `cnb` alone", compat::SWITCH),
            "set it to `cnb`, or unset it",
        )),
    };
    let result = known.and_then(|()| launch(words, &layers, &app)).and_then(|said| match said {
        Said::Status(status) => Ok(status),
        Said::Text(text) => io::stdout().write_all(text.as_bytes()).map(|()| 0).map_err(|err| {
            Failure::own("print to standard output", err, "see where the output goes")
        }),
    });
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprint!("{failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// What the launcher ends with, if it has not become the program.
enum Said {
    /// To be printed.
    Text(String),
    /// The status of what ran under it.
    Status(u8),
}

/// Becomes the program that was asked for, or runs it; or gives the text to print, or why
/// nothing could be started.
fn launch(words: Vec<OsString>, layers: &Path, app: &Path) -> Result<Said, Failure> {
    let request = choose::request(words)?;
    let Request::Launch(call) = request else {
        return Ok(Said::Text(ABOUT.to_owned()));
    };
    let mut table = read_table(layers)?;
    let wanted = eligible::wanted(env::var_os("CNB_EXEC_ENV").as_deref());
    eligible::select(&mut table, &call, &wanted)?;
    // Absolute, because what happens before changes the folder.
    let app = absolute(app).unwrap_or_else(|_| app.to_owned());
    let place = Place { table: &table, layers, app: &app };
    match choose::choose(&table, &call)? {
        Choice::List => Ok(Said::Text(choose::list(&table))),
        Choice::Env { mut launch, values } => {
            Ok(Said::Text(explain::variables(&place.environment(&mut launch)?, values)))
        }
        Choice::Explain(mut launch) => {
            let environment = place.environment(&mut launch)?;
            Ok(Said::Text(explain::explain(&launch, &environment, &app)))
        }
        Choice::All(launches) => place.start_all(launches).map(Said::Status),
        Choice::Launch(launch) => place.start(*launch).map(Said::Status),
    }
}

/// What is started is started from here.
struct Place<'a> {
    table: &'a Table,
    layers: &'a Path,
    app: &'a Path,
}

impl Place<'_> {
    /// The environment of what is to be started.
    fn environment(&self, launch: &mut Launch) -> Result<Environment, Failure> {
        let place = (self.layers, self.app);
        let mut environment = buildpacks::environment(self.table, launch, env::vars_os(), place)?;
        production::apply(&self.table.settings, &mut environment)?;
        Ok(environment)
    }

    fn prepare(&self, launch: Launch, environment: &Environment) -> Result<Launch, Failure> {
        let Preparation { wait_for, before, publish, init, .. } = &launch.preparation;
        // Process 1 hears no signal that it does not ask for.
        if *init || !wait_for.is_empty() || !before.is_empty() || !publish.is_empty() {
            init::watch();
        }
        prepare::prepare(launch, environment, &self.table.settings, self.app)
    }

    /// Becomes the program, or its parent; then the status is that of the program.
    fn start(&self, mut launch: Launch) -> Result<u8, Failure> {
        let environment = self.environment(&mut launch)?;
        let launch = self.prepare(launch, &environment)?;
        if launch.preparation.init {
            return init::run(&launch, &environment, self.app);
        }
        if init::asked_to_stop().is_some() {
            return Err(prepare::stopped(&format!("start {}", launch.title)));
        }
        init::release();
        Err(execute::execute(&launch, &environment, self.app))
    }

    fn start_all(&self, launches: Vec<Launch>) -> Result<u8, Failure> {
        init::watch();
        let mut ready = Vec::new();
        for (number, mut launch) in (0..).zip(launches) {
            let mut environment = self.environment(&mut launch)?;
            all::port(&mut environment, number);
            ready.push((self.prepare(launch, &environment)?, environment));
        }
        all::run(&ready, self.app)
    }
}

/// The folder that the variable names, or `default` when it is unset or empty.
fn directory(variable: &str, default: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(value) if !value.is_empty() => PathBuf::from(value),
        _ => PathBuf::from(default),
    }
}

/// Reads `<layers>/config/metadata.toml`.
fn read_table(layers: &Path) -> Result<Table, Failure> {
    let path = layers.join("config/metadata.toml");
    let doing = format!("read the process table `{}`", path.display());
    let rebuild = "forge writes this file: build the image again, or report a bug";
    let text = fs::read_to_string(&path).map_err(|err| {
        let next = match err.kind() {
            io::ErrorKind::NotFound => {
                "set CNB_LAYERS_DIR to the folder that holds config/metadata.toml"
            }
            io::ErrorKind::PermissionDenied => "make it readable for the user of the container",
            _ => rebuild,
        };
        Failure::own(&doing, err, next)
    })?;
    Table::parse(&text).map_err(|err| Failure::own(&doing, err, rebuild))
}
