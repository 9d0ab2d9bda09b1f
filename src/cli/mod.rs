//! The command line: arguments, settings and their defaults, what is printed,
//! exit codes. One file a command; each parses, calls the rooms, and shows.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | the app could not be built |
//! | 2 | wrong usage or settings |
//! | 3 | nothing that forge can build was found |
//! | 4 | a registry or the network failed |
//! | 5 | no sandbox is possible on this machine |
//! | 70 | a bug in forge |
//! | 130 | interrupted |

mod app;
mod base;
pub mod build;
mod cache;
mod doctor;
mod failure;
mod files;
mod index;
mod interrupt;
mod kept;
mod machine;
mod notices;
mod output;
mod packages;
mod plan;
mod publish;
mod push;
mod registries;
mod run;
mod sending;
mod settings;
mod store;
mod view;
mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use failure::Failure;

/// Turns a Rails or Django application into an OCI image: no Dockerfile, no
/// daemon, no root.
#[derive(Debug, Parser)]
#[command(name = "forge", version, about, max_term_width = 100, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// Folder of the store [default: $XDG_CACHE_HOME/forge or ~/.cache/forge]
    #[arg(long, global = true, env = "FORGE_STORE", value_name = "FOLDER")]
    store: Option<PathBuf>,
    /// Print what happens as JSON, one event a line, on standard output
    #[arg(long, global = true)]
    json: bool,
    /// How to show progress on standard error
    #[arg(long, global = true, value_enum, default_value_t = Progress::Auto)]
    progress: Progress,
    /// How steps are isolated [default: the first that works here]
    #[arg(long, global = true, value_enum, env = "FORGE_SANDBOX", value_name = "WAY")]
    sandbox: Option<Isolation>,
    /// Show every line that steps print
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Progress {
    /// Live lines on a terminal, plain ones elsewhere
    Auto,
    /// Plain lines
    Plain,
    /// Nothing but errors
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Isolation {
    /// Kernel namespaces, as any user
    Namespaces,
    /// chroot and seccomp, as root
    Chroot,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an app's image; prints its digest
    Build(build::BuildArguments),
    /// Show what was detected and what a build would do
    Plan(plan::PlanArguments),
    /// Show why a step ran last, and whether a build would run it now
    Why(why::WhyArguments),
    /// Push the image that was built last; prints its digest
    Push(push::PushArguments),
    /// Give images of several platforms, pushed before, one name; prints its digest
    Index(index::IndexArguments),
    /// Run a process of the built image on this machine
    Run(run::RunArguments),
    /// Show what this machine can do
    Doctor,
    /// Show buildpacks
    #[command(subcommand)]
    Buildpack(BuildpackCommand),
    /// Look after the store
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Choose newer packages: forget what forge.lock names, and solve again
    Update(plan::UpdateArguments),
}

#[derive(Debug, Subcommand)]
enum BuildpackCommand {
    /// List the buildpacks
    List,
    /// Print a buildpack's file
    Show {
        /// Its name
        name: String,
    },
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    // `forge __sandbox …` is this program as the first process of a sandbox; it
    // must have one thread, so nothing comes before.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == crate::sandbox::CHILD_ARGUMENT) {
        let rest: Vec<String> =
            arguments.map(|argument: OsString| argument.to_string_lossy().into_owned()).collect();
        crate::sandbox::child_main(&rest);
    }
    crate::memory::share_arenas();
    // The modes of what forge makes must not depend on who runs it; what is
    // private is made so explicitly.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let arguments = Arguments::parse();
    let has_json = matches!(
        arguments.command,
        Command::Build(_)
            | Command::Plan(_)
            | Command::Why(_)
            | Command::Push(_)
            | Command::Index(_)
            | Command::Update(_)
    );
    if arguments.common.json && !has_json {
        return Failure::usage("`--json` is for build, plan, why, push, index and update")
            .show(false);
    }
    let result = match arguments.command {
        Command::Build(build) => build::build(&arguments.common, &build),
        Command::Plan(plan) => plan::plan(&arguments.common, &plan),
        Command::Why(why) => why::why(&arguments.common, &why),
        Command::Push(push) => push::push(&arguments.common, &push),
        Command::Index(index) => index::index(&arguments.common, &index),
        Command::Run(run) => run::run(&arguments.common, &run),
        Command::Doctor => doctor::doctor(&arguments.common),
        Command::Buildpack(BuildpackCommand::List) => plan::list_buildpacks(),
        Command::Buildpack(BuildpackCommand::Show { name }) => plan::show_buildpack(&name),
        Command::Store(command) => store::store(&arguments.common, &command),
        Command::Update(update) => plan::update(&arguments.common, &update),
    };
    match result {
        Ok(code) => code,
        Err(failure) => failure.show(arguments.common.json),
    }
}

/// Tells something on standard error. When nobody can be told, the exit code has
/// to do.
fn tell(text: &str) {
    use std::io::Write;
    let _nobody_reads = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Prints a result on standard output. A reader that has gone away (`| head`) is
/// no failure of ours.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::usage(format!("could not write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
