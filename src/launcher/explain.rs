//! What the launcher would do, for people: the environment, and where each variable is from.
//! Values are secrets unless they are asked for.

use std::path::Path;

use crate::choose::{Form, Launch, Origin};
use crate::environment::Environment;
use crate::settings::Preparation;

/// Names, one a line; with `values`, as `NAME=value`.
pub fn variables(environment: &Environment, values: bool) -> String {
    let line = |(name, value): (&std::ffi::OsStr, &std::ffi::OsStr)| {
        let name = name.to_string_lossy();
        if values { format!("{name}={}\n", value.to_string_lossy()) } else { format!("{name}\n") }
    };
    environment.pairs().map(line).collect()
}

/// The whole start: what runs, where, what before, and where each variable is from.
pub fn explain(launch: &Launch, environment: &Environment, app: &Path) -> String {
    let Preparation { required, wait_for, wait_limit, before, publish, wrap, init } =
        &launch.preparation;
    let mut lines: Vec<(&str, String)> = Vec::new();
    let command = match &launch.form {
        Form::Shell(script) => script.to_string_lossy().into_owned(),
        Form::Direct { program, arguments } => std::iter::once(program)
            .chain(arguments)
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" "),
    };
    let folder = match &launch.origin {
        Origin::Process(Some(elsewhere)) => app.join(elsewhere),
        _ => app.to_owned(),
    };
    if !required.is_empty() {
        lines.push(("requires", required.join(" ")));
    }
    if !wait_for.is_empty() {
        lines.push(("waits for", format!("{}, {wait_limit} s", wait_for.join(" "))));
    }
    for command in before {
        lines.push(("before", command.join(" ")));
    }
    for one in publish {
        lines.push(("publishes", format!("{} to {}", one.from.display(), one.to.display())));
    }
    lines.push(("runs", command));
    if !wrap.is_empty() {
        lines.push(("wrapped in", wrap.join(" ")));
    }
    lines.push(("in", folder.display().to_string()));
    if *init {
        lines.push(("under", "the launcher, which passes signals on and reaps".to_owned()));
    }
    let mut text = format!("{}\n", launch.title);
    for (what, value) in lines {
        text.push_str(&format!("  {what:<10} {value}\n"));
    }
    text.push_str("environment\n");
    let width = environment.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, variable) in environment.iter() {
        text.push_str(&format!("  {:width$}  {}\n", name.to_string_lossy(), variable.origin));
    }
    text
}
