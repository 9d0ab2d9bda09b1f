//! Becomes the program: look it up, change the folder, exec.
//!
//! A relative path is taken from the application's folder for a process, even
//! if it runs elsewhere, and from where it runs for an operator's command.
//! A name is looked up on the PATH of the new environment; a file that may not
//! be executed does not end the search, as in shells. Empty elements of PATH
//! are skipped: they are nearly always a mistake and would mean "here".

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::choose::{Form, Launch, Origin};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::too_large;

/// Where programs are looked for when PATH is unset.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The folder of links to the launcher, one per process type. A process called
/// `gunicorn` that runs `gunicorn` must not find its own link.
const PROCESS_LINKS: &str = "/cnb/process";

/// The shells that can run a script, best first.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// The system's number for "no such file", also for a missing interpreter.
const ENOENT: i32 = 2;
/// A file that is no program for this machine.
const ENOEXEC: i32 = 8;
/// A part of the path is no folder.
const ENOTDIR: i32 = 20;

/// Replaces the launcher; returns only if that fails.
pub fn execute(launch: &Launch, environment: &Environment, app: &Path) -> Failure {
    let become_it = |command: &mut Command| Err::<Infallible, _>(command.exec());
    let Err(failure) = start(launch, environment, app, become_it);
    failure
}

/// The shell for scripts.
///
/// # Errors
/// There is none.
pub fn shell(doing: &str) -> Result<&'static Path, Failure> {
    SHELLS.iter().map(Path::new).find(|shell| shell.exists()).ok_or_else(|| {
        let next = "add a shell to the image, or make the process direct";
        Failure::own(doing, "there is neither /bin/bash nor /bin/sh", next)
    })
}

/// Starts the program by `action`, in its folder.
///
/// # Errors
/// There is no such program or folder, or `action` could not start it.
pub fn start<T>(
    launch: &Launch,
    environment: &Environment,
    app: &Path,
    action: impl FnMut(&mut Command) -> io::Result<T>,
) -> Result<T, Failure> {
    let current = env::current_dir().ok();
    let place = place(&launch.origin, app, current.as_deref());
    let doing = format!("start {}", launch.title);
    if let Some(directory) = &place.directory
        && let Err(err) = env::set_current_dir(directory)
    {
        let reason = format!("its folder `{}`: {err}", directory.display());
        let next = match launch.origin {
            Origin::Process(Some(_)) => {
                "correct the working directory of the process and build again"
            }
            _ => "set CNB_APP_DIR to the folder of the application",
        };
        return Err(Failure::own(&doing, reason, next));
    }
    match &launch.form {
        Form::Direct { program, arguments } => {
            let path = environment.get("PATH").unwrap_or(DEFAULT_PATH.as_ref());
            let skipped = match launch.origin {
                Origin::Process(_) => Some(Path::new(PROCESS_LINKS)),
                Origin::Operator => None,
            };
            let found = candidates(program, path, &place.base, skipped);
            let program = Program { name: program, arguments, path, found };
            program.run(&doing, environment, action)
        }
        Form::Shell(script) => {
            let shell = shell(&doing)?;
            let name = shell.file_name().unwrap_or_default();
            let arguments = ["-c".into(), script.clone()];
            let found = vec![shell.to_owned()];
            Program { name, arguments: &arguments, path: OsStr::new(""), found }.run(
                &doing,
                environment,
                action,
            )
        }
    }
}

/// Where a program runs and from where its relative path is taken.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The folder to change to, if any.
    directory: Option<PathBuf>,
    /// What relative paths are joined to.
    base: PathBuf,
}

fn place(origin: &Origin, app: &Path, current: Option<&Path>) -> Place {
    // Joined, so that it stays right after the folder is changed.
    let app = current.unwrap_or(Path::new("/")).join(app);
    match origin {
        Origin::Process(None) => Place { directory: Some(app.clone()), base: app },
        Origin::Process(Some(elsewhere)) => {
            Place { directory: Some(app.join(elsewhere)), base: app }
        }
        Origin::Operator if current == Some(Path::new("/")) => {
            Place { directory: Some(app.clone()), base: app }
        }
        Origin::Operator => {
            Place { directory: None, base: current.unwrap_or(Path::new(".")).to_owned() }
        }
    }
}

/// The files that `program` can mean, in the order in which to try them.
fn candidates(program: &OsStr, path: &OsStr, base: &Path, skipped: Option<&Path>) -> Vec<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return vec![base.join(program)];
    }
    env::split_paths(path)
        .filter(|element| !element.as_os_str().is_empty() && Some(element.as_path()) != skipped)
        .map(|element| base.join(element).join(program))
        .collect()
}

/// A program and the files that it can be.
struct Program<'a> {
    name: &'a OsStr,
    arguments: &'a [OsString],
    path: &'a OsStr,
    found: Vec<PathBuf>,
}

impl Program<'_> {
    /// Starts the first file that the system accepts.
    fn run<T>(
        &self,
        doing: &str,
        environment: &Environment,
        mut action: impl FnMut(&mut Command) -> io::Result<T>,
    ) -> Result<T, Failure> {
        let mut refused = None;
        for file in self.found.iter().filter(|file| file.is_file()) {
            let mut command = Command::new(file);
            command.arg0(self.name).args(self.arguments).env_clear().envs(environment.pairs());
            match action(&mut command) {
                Ok(started) => return Ok(started),
                Err(err) if err.raw_os_error() == Some(too_large::E2BIG) => {
                    let reason = too_large::reason(environment, self.arguments);
                    return Err(Failure::cannot_run(doing, reason, too_large::NEXT));
                }
                Err(err) if err.kind() != io::ErrorKind::PermissionDenied => {
                    return Err(cannot_run(doing, file, &err));
                }
                Err(err) => {
                    refused.get_or_insert((file, err));
                }
            }
        }
        match refused {
            Some((file, err)) => Err(cannot_run(doing, file, &err)),
            None => Err(self.not_found(doing)),
        }
    }

    fn not_found(&self, doing: &str) -> Failure {
        let name = self.name.to_string_lossy();
        if self.name.is_empty() {
            return Failure::not_found(doing, "the command is empty", "give a command");
        }
        if self.name.as_bytes().contains(&b'/') {
            let file = self.found.first().map_or(Path::new(self.name), PathBuf::as_path);
            if file.is_dir() {
                let reason = format!("`{}` is a folder", file.display());
                return Failure::cannot_run(doing, reason, "name a program in it");
            }
            let reason = format!("there is no file `{}`", file.display());
            let next = "see whether it is in the repository and not excluded from the image";
            return Failure::not_found(doing, reason, next);
        }
        let reason = format!("`{name}` is not found on PATH ({})", self.path.to_string_lossy());
        let next = if name.contains(char::is_whitespace) {
            "it is one word with spaces; give the words apart, or a script as `bash -c 'SCRIPT'`"
        } else if name.starts_with('-') {
            "the launcher knows `--list` alone and `--`; `forge --help` tells more"
        } else {
            "`forge launcher --list` shows the process types; anything else must be on PATH"
        };
        Failure::not_found(doing, reason, next)
    }
}

/// Why the system refused `file`.
fn cannot_run(doing: &str, file: &Path, err: &io::Error) -> Failure {
    let shown = file.display();
    match err.raw_os_error() {
        Some(ENOENT | ENOTDIR) => match interpreter(file) {
            Some(interpreter) if interpreter.ends_with('\r') => {
                let reason = format!("the first line of `{shown}` ends with a carriage return");
                Failure::cannot_run(
                    doing,
                    reason,
                    "save the file with Unix line ends and build again",
                )
            }
            Some(interpreter) => {
                let reason =
                    format!("`{shown}` is a script for `{interpreter}`, which is not in the image");
                Failure::cannot_run(
                    doing,
                    reason,
                    "correct its first line (`#!`), or add that program to the image",
                )
            }
            None => {
                let reason = format!("`{shown}` needs a loader that is not in the image");
                Failure::cannot_run(
                    doing,
                    reason,
                    "it was built for another system; build it for this image",
                )
            }
        },
        Some(ENOEXEC) => {
            let reason = format!("`{shown}` is no program for this machine");
            Failure::cannot_run(doing, reason, "a script needs a first line such as `#!/bin/sh`")
        }
        _ if err.kind() == io::ErrorKind::PermissionDenied => {
            let reason = format!("`{shown}`: {err}");
            let next = "make it executable (`git update-index --chmod=+x FILE`) and build again";
            Failure::cannot_run(doing, reason, next)
        }
        _ => Failure::cannot_run(
            doing,
            format!("`{shown}`: {err}"),
            "see what the system says above",
        ),
    }
}

/// The program that the first line of a script names; `None` if it has no
/// such line or cannot be read.
fn interpreter(file: &Path) -> Option<String> {
    // The kernel looks at this many bytes.
    let mut start = Vec::new();
    File::open(file).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let line = line.trim_start_matches([' ', '\t']);
    Some(line.split([' ', '\t']).next().unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let at = |directory: Option<&str>, base: &str| Place {
            directory: directory.map(PathBuf::from),
            base: PathBuf::from(base),
        };
        let elsewhere = |dir: &str| Origin::Process(Some(PathBuf::from(dir)));
        let cases = [
            (Origin::Process(None), "/app", Some("/x"), at(Some("/app"), "/app")),
            (elsewhere("/sub"), "/app", Some("/x"), at(Some("/sub"), "/app")),
            (elsewhere("sub"), "/app", Some("/x"), at(Some("/app/sub"), "/app")),
            (Origin::Operator, "/app", Some("/"), at(Some("/app"), "/app")),
            (Origin::Operator, "/app", Some("/x"), at(None, "/x")),
            (Origin::Operator, "/app", None, at(None, ".")),
            (Origin::Process(None), "app", Some("/x"), at(Some("/x/app"), "/x/app")),
        ];
        for (origin, app, current, expected) in cases {
            let found = place(&origin, Path::new(app), current.map(Path::new));
            assert_eq!(found, expected, "{origin:?} {app} {current:?}");
        }
    }

    #[test]
    fn look_up() {
        let links = Some(Path::new(PROCESS_LINKS));
        let cases: [(&str, &str, Option<&Path>, &[&str]); 6] = [
            ("x", "/a:/b", None, &["/a/x", "/b/x"]),
            ("x", ":/a::rel:", None, &["/a/x", "/app/rel/x"]),
            ("x", "", None, &[]),
            ("/bin/x", "/a", None, &["/bin/x"]),
            ("bin/x", "/a", links, &["/app/bin/x"]),
            ("x", "/cnb/process:/a:/cnb/process/", links, &["/a/x"]),
        ];
        for (program, path, skipped, expected) in cases {
            let found = candidates(program.as_ref(), path.as_ref(), Path::new("/app"), skipped);
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(found, expected, "{program} {path}");
        }
    }
}
