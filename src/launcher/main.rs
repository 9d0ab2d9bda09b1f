//! The entrypoint of every image that forge makes: it finds out which program
//! is meant, prepares its environment, and becomes that program.
//!
//! ```text
//! argv ─► request ─► process table ─► choice ─► environment ─► exec
//! ```
//!
//! - Nothing stays behind: the process id, the signals and the exit status are
//!   those of the program that was started.
//! - It is linked statically and runs in an image that holds nothing else.
//! - It never resolves a host name: a static glibc would look for NSS modules
//!   of exactly its own version.
//! - Layers of Cloud Native Buildpacks count wherever there are any: `buildpacks`.
//!   `FORGE_LAUNCHER_COMPAT=cnb` makes it the launcher of CNB in all: `compat`.
//! - What it refuses is written as `forge launcher: cannot …: …` with a line on
//!   what to do next. Exit status: 127 no such program, 126 a program that
//!   cannot be run, 82 anything else that stops the launcher, 2 wrong usage.

#![deny(unsafe_code)]

mod buildpacks;
mod choose;
mod compat;
mod eligible;
mod environment;
mod execd;
mod execute;
mod failure;
#[cfg(test)]
mod generated;
mod handles;
mod layers;
mod profile;
mod settings;
mod table;
mod toml;
mod too_large;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use choose::{Choice, Request};
use failure::Failure;
use table::Table;

/// What `forge` says about itself inside an image.
const ABOUT: &str = "\
forge launcher: starts the programs of this image, which was made by forge.

  forge launcher                 start the default process
  forge launcher TYPE            start the process of that type
  forge launcher COMMAND ARG…    run a command as the application would
  forge launcher -- COMMAND ARG… the same, also if it is named like a type
  forge launcher --list          show the process types and their commands

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
    let result = known.and_then(|()| launch(words, &layers, &app)).and_then(|text| {
        io::stdout().write_all(text.as_bytes()).map_err(|err| {
            Failure::own("print to standard output", err, "see where the output goes")
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Becomes the program that was asked for. Returns only to say something
/// instead: the text to print, or why nothing could be started.
fn launch(words: Vec<OsString>, layers: &Path, app: &Path) -> Result<String, Failure> {
    let request = choose::request(words)?;
    let Request::Launch(call) = request else {
        return Ok(ABOUT.to_owned());
    };
    let mut table = read_table(layers)?;
    let wanted = eligible::wanted(env::var_os("CNB_EXEC_ENV").as_deref());
    eligible::select(&mut table, &call, &wanted)?;
    let mut launch = match choose::choose(&table, &call)? {
        Choice::List => return Ok(choose::list(&table)),
        Choice::Launch(launch) => launch,
    };
    let environment = buildpacks::environment(&table, &mut launch, env::vars_os(), (layers, app))?;
    Err(execute::execute(&launch, &environment, app))
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
