//! The contract of Cloud Native Buildpacks in forge's own mode: the layers, the
//! programs in exec.d and the profiles are honoured wherever they exist. An
//! image without them starts as if this module was not there.
//!
//! The rules are in `layers`, `execd` and `profile`; here they are put together
//! and their failures get a sentence. `compat` does the same in the words of
//! CNB's launcher.

use std::ffi::OsString;
use std::path::{Path, absolute};

use crate::choose::{Form, Launch, Origin};
use crate::environment::Environment;
use crate::execd::{self, ExecError};
use crate::failure::Failure;
use crate::layers::{self, Layers, Unreadable};
use crate::profile;
use crate::table::Table;
use crate::too_large;

/// What to do about a file of the image that cannot be read.
const READABLE: &str = "make it readable for the user of the container and build the image again";

/// The environment of what is to be started. A shell process with profiles gets
/// a script that reads them first.
///
/// # Errors
/// Layers that cannot be read, a program in exec.d that fails.
pub fn environment(
    table: &Table,
    launch: &mut Launch,
    container: impl IntoIterator<Item = (OsString, OsString)>,
    (root, app): (&Path, &Path),
) -> Result<Environment, Failure> {
    let mut environment = Environment::of_container(container);
    let root = absolute(root).unwrap_or_else(|_| root.to_owned());
    let app = absolute(app).unwrap_or_else(|_| app.to_owned());
    let ids = table.buildpacks.iter().map(|buildpack| buildpack.id.as_str());
    let buildpacks = layers::find(&root, ids).map_err(unreadable)?;
    let kind = launch.kind.clone();
    if !buildpacks.is_empty() {
        let kind = kind.as_deref();
        let part = layers::part(environment.get(layers::APPLIED), &root, kind);
        layers::apply(&buildpacks, kind, part, &mut environment).map_err(unreadable)?;
        execd::run(&buildpacks, kind, part, &app, &mut environment)
            .map_err(|err| not_run(err, &app, &environment))?;
        environment.set(layers::APPLIED, layers::applied(&root, kind), "forge's note on layers");
    }
    environment.add_defaults();
    read_profiles(&buildpacks, launch, &app)?;
    Ok(environment)
}

/// Puts the profiles before the script of a shell process.
fn read_profiles(buildpacks: &[Layers], launch: &mut Launch, app: &Path) -> Result<(), Failure> {
    let Form::Shell(script) = &launch.form else { return Ok(()) };
    let profiles = profile::find(buildpacks, launch.kind.as_deref(), app).map_err(unreadable)?;
    if profiles.is_empty() {
        return Ok(());
    }
    if !Path::new(profile::BASH).exists() {
        eprintln!(
            "forge launcher: {} is not read for {}: there is no {}",
            profiles.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
            launch.title,
            profile::BASH
        );
        return Ok(());
    }
    let directory = match &launch.origin {
        Origin::Process(Some(elsewhere)) => app.join(elsewhere),
        _ => app.to_owned(),
    };
    launch.form = Form::Shell(profile::before(script, &profiles, app, &directory));
    Ok(())
}

fn unreadable(Unreadable { path, source }: Unreadable) -> Failure {
    Failure::own(&format!("read the layers: `{}`", path.display()), source, READABLE)
}

fn not_run(err: ExecError, app: &Path, environment: &Environment) -> Failure {
    let doing = |file: &Path| format!("get variables from `{}`", file.display());
    match err {
        ExecError::Folder(err) => unreadable(err),
        ExecError::Start(file, _) if !app.is_dir() => Failure::own(
            &doing(&file),
            format!("the application's folder `{}` is not there", app.display()),
            "set CNB_APP_DIR to the folder of the application",
        ),
        ExecError::Start(file, source) if source.raw_os_error() == Some(too_large::E2BIG) => {
            Failure::own(&doing(&file), too_large::reason(environment, &[]), too_large::NEXT)
        }
        ExecError::Start(file, source) => Failure::own(
            &doing(&file),
            source,
            "it must be a program, or a script with a first line such as `#!/bin/sh`, and executable",
        ),
        ExecError::Failed(file, status) => Failure::own(
            &doing(&file),
            format!("it ended with {}", execd::ending(status)),
            "see what it printed above; it belongs to the buildpack of that folder",
        ),
        ExecError::Pipe(file, source) => {
            Failure::own(&doing(&file), source, "see what the system says above")
        }
        ExecError::Output(file, reason) => Failure::own(
            &doing(&file),
            format!("what it printed on descriptor 3 is not `NAME = \"value\"` lines: {reason}"),
            "it belongs to the buildpack of that folder: report it there",
        ),
    }
}
