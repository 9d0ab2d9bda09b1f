//! What happens before a process starts, in this order: variables that it requires, services
//! that it waits for, commands that run before it, folders that are published. Then words in
//! front of its command. Only what is declared happens, and only for processes of the table.
//!
//! The first that fails ends the start: with its own exit status if it is a command (128 and
//! the number of the signal that ended it), else with that of the launcher.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use crate::address::{self, Entry};
use crate::choose::{Form, Launch, Origin};
use crate::environment::Environment;
use crate::execute;
use crate::failure::Failure;
use crate::init;
use crate::publish::{self, Publication, Trouble};
use crate::resolve::Resolver;
use crate::settings::{Preparation, Publish, Settings};
use crate::system::SIGTERM;
use crate::wait::{self, Ended, Waiting};

/// Added to the number of a signal, as in shells.
const SIGNAL: i32 = 128;
/// Files that were left out are shown up to this number.
const SHOWN: usize = 5;

/// Does all that must be done before, and says what is to be started. `app` is absolute.
///
/// # Errors
/// See above.
pub fn prepare(
    launch: Launch,
    environment: &Environment,
    settings: &Settings,
    app: &Path,
) -> Result<Launch, Failure> {
    let Launch { title, preparation, .. } = &launch;
    let doing = format!("start {title}");
    require(&doing, preparation, environment, settings)?;
    wait_for(&doing, preparation, environment)?;
    for command in &preparation.before {
        before(title, command, environment, app)?;
    }
    for publish in &preparation.publish {
        self::publish(&doing, publish, app)?;
    }
    wrap(launch, app)
}

/// A line of the story. One that nobody can read is no reason to stop.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "forge launcher: {line}");
}

fn require(
    doing: &str,
    preparation: &Preparation,
    environment: &Environment,
    settings: &Settings,
) -> Result<(), Failure> {
    let missing: Vec<&String> =
        preparation.required.iter().filter(|name| !environment.has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut reason = match missing.len() {
        1 => "a variable is unset or empty:".to_owned(),
        number => format!("{number} variables are unset or empty:"),
    };
    for name in &missing {
        reason.push_str(&format!("\n  {name}"));
        if settings.secrets.contains(name) {
            reason.push_str(&format!("  (or {name}_FILE, the path of a file that holds it)"));
        }
    }
    Err(Failure::own(doing, reason, "set what is listed, where the container is configured"))
}

fn wait_for(
    doing: &str,
    preparation: &Preparation,
    environment: &Environment,
) -> Result<(), Failure> {
    let mut targets = Vec::new();
    for entry in &preparation.wait_for {
        // A password may stand in it.
        let shown = if entry.contains(['@', '=']) { "an address in the table" } else { entry };
        match address::entry(entry, environment) {
            Ok(Entry::Target(target)) => targets.push(target),
            Ok(Entry::Nothing(reason)) => tell(&format!("not waiting for `{shown}`: {reason}")),
            Err(reason) => {
                return Err(Failure::own(
                    doing,
                    format!("it cannot wait for `{shown}`: {reason}"),
                    "correct the variable, or `wait_for` in forge.toml, and build again",
                ));
            }
        }
    }
    if targets.is_empty() {
        return Ok(());
    }
    let limit = preparation.wait_limit;
    let waiting = Waiting {
        limit: Duration::from_secs(limit),
        resolver: Resolver::default(),
        tell: &tell,
        stop: &|| init::asked_to_stop().is_some(),
    };
    match wait::wait(&targets, &waiting) {
        Ok(()) => Ok(()),
        Err(Ended::Stopped) => Err(stopped(doing)),
        Err(Ended::NotReady(open)) => {
            let mut reason = format!("not ready after {} s:", limit.max(1));
            for (target, last) in open {
                reason.push_str(&format!("\n  {target}: {last}"));
            }
            let next = "see whether it runs, can be reached from this container, and has that \
                        name and port; `wait_limit` is the time for all services together";
            Err(Failure::own(doing, reason, next))
        }
    }
}

/// Somebody wants the launcher to end before the process has started.
pub fn stopped(doing: &str) -> Failure {
    let signal = init::asked_to_stop().unwrap_or(SIGTERM);
    let code = u8::try_from(SIGNAL + signal).unwrap_or(u8::MAX);
    let next = "nothing is left behind; start the container again";
    Failure::ended(code, doing, "the platform wants the container to end", next)
}

fn before(
    title: &str,
    command: &[String],
    environment: &Environment,
    app: &Path,
) -> Result<(), Failure> {
    let shown = command.join(" ");
    tell(&format!("before {}: {shown}", title.trim_start_matches("process ").trim_matches('`')));
    let mut words = command.iter().map(OsString::from);
    let launch = Launch {
        title: format!("`{shown}` before {title}"),
        form: Form::Direct {
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
        },
        // Runs in the app's folder, wherever the launcher was called.
        origin: Origin::Process(None),
        kind: None,
        preparation: Preparation::default(),
    };
    let status = execute::start(&launch, environment, app, init::supervise)?;
    // It may have taken the signal and ended well.
    if init::asked_to_stop().is_some() {
        return Err(stopped(&format!("start {title}")));
    }
    if status.success() {
        return Ok(());
    }
    let (code, how) = match (status.code(), status.signal()) {
        (Some(code), _) => (code, format!("ended with status {code}")),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            (SIGNAL + signal, format!("was ended by signal {signal}"))
        }
    };
    let code = u8::try_from(code).unwrap_or(u8::MAX);
    let next = "see what it says above; the process starts only when all before it succeeds";
    Err(Failure::ended(code, &format!("start {title}"), format!("`{shown}` {how}"), next))
}

fn publish(doing: &str, publish: &Publish, app: &Path) -> Result<(), Failure> {
    let (from, to) = (app.join(&publish.from), app.join(&publish.to));
    let publication = Publication {
        from: &from,
        to: &to,
        tell: &tell,
        step: &|| {},
        stop: &|| init::asked_to_stop().is_some(),
    };
    let shown = format!("{} to {}", publish.from.display(), to.display());
    match publish::publish(&publication) {
        Ok(done) => {
            if done.written > 0 {
                let (written, equal) = (done.written, done.equal);
                tell(&format!("published {shown}: {written} new, {equal} already there"));
            }
            for left in done.left.iter().take(SHOWN) {
                tell(&format!("not published to {}: {left}", to.display()));
            }
            if done.left.len() > SHOWN {
                let more = done.left.len() - SHOWN;
                tell(&format!("not published to {}: {more} more", to.display()));
            }
            Ok(())
        }
        Err(Trouble { source, .. }) if source.kind() == ErrorKind::Interrupted => {
            Err(stopped(doing))
        }
        Err(trouble) => {
            let next = advice(&trouble, &from, &to);
            let Trouble { action, path, source } = trouble;
            let reason =
                format!("publishing {shown}: could not {action} `{}`: {source}", path.display());
            Err(Failure::own(doing, reason, &next))
        }
    }
}

fn advice(trouble: &Trouble, from: &Path, to: &Path) -> String {
    let Trouble { path, source, .. } = trouble;
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory if path == from => {
            "it must be a folder of the app in the image: see `from` of `publish` in forge.toml"
                .to_owned()
        }
        ErrorKind::NotFound | ErrorKind::NotADirectory if path == to => {
            "mount a volume there; without one nobody else would see the files".to_owned()
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "make room in the volume and start again; all files in it are whole".to_owned()
        }
        ErrorKind::ReadOnlyFilesystem => {
            "mount the volume so that this container may write to it".to_owned()
        }
        ErrorKind::PermissionDenied => {
            // The launcher's own user; nothing else tells it without the C library.
            let user =
                std::fs::metadata("/proc/self").map(|own| format!("{}:{}", own.uid(), own.gid()));
            let user = user.as_deref().unwrap_or("UID:GID");
            format!("let the user of the container write there: `chown -R {user} VOLUME`, as root")
        }
        _ => "see what the system says above".to_owned(),
    }
}

/// Puts the words in front.
fn wrap(launch: Launch, app: &Path) -> Result<Launch, Failure> {
    let mut words = launch.preparation.wrap.iter().map(OsString::from);
    let Some(program) = words.next() else { return Ok(launch) };
    let mut arguments: Vec<OsString> = words.collect();
    match &launch.form {
        Form::Direct { program, arguments: rest } => {
            arguments.push(from_app(program, app));
            arguments.extend(rest.iter().cloned());
        }
        Form::Shell(script) => {
            let shell = execute::shell(&format!("start {}", launch.title))?;
            arguments.extend([shell.into(), "-c".into(), script.clone()]);
        }
    }
    Ok(Launch { form: Form::Direct { program, arguments }, ..launch })
}

/// A relative path counts from the app's folder, wherever the process runs; the program in
/// front would take it from there.
fn from_app(program: &OsStr, app: &Path) -> OsString {
    if program.as_bytes().contains(&b'/') { app.join(program).into() } else { program.to_owned() }
}
