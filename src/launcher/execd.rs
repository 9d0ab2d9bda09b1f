//! exec.d: programs of layers that print variables on descriptor 3 before the
//! process starts. The format is TOML with strings only, as in CNB.
//!
//! ```text
//! <layer>/exec.d/*          each file, in the order of the names
//! <layer>/exec.d/<type>/*   then those for the type
//! ```
//!
//! - They run in the application's folder, without arguments, with what the
//!   layers and earlier programs have set, and with an empty standard input.
//! - Standard output and error are those of the container.
//! - What they print is read while they run, so a full pipe stops nobody.
//! - One that fails stops the launch.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::environment::Environment;
use crate::handles;
use crate::layers::{self, Layers, Part, Unreadable};
use crate::toml::{self, Value};

/// More variables than any program can be given (the kernel takes 6 MiB of
/// arguments at most): a program that prints without end must not fill memory.
const LARGEST: u64 = 16 << 20;

/// Why variables could not be had.
#[derive(Debug)]
pub enum ExecError {
    /// A folder could not be listed.
    Folder(Unreadable),
    /// The system did not start the program.
    Start(PathBuf, io::Error),
    /// It ended with a failure.
    Failed(PathBuf, ExitStatus),
    /// What it printed could not be read.
    Pipe(PathBuf, io::Error),
    /// What it printed is not what it should be.
    Output(PathBuf, Malformed),
}

/// What is wrong with the output.
#[derive(Debug)]
pub enum Malformed {
    /// More than [`LARGEST`] bytes.
    Endless,
    /// No UTF-8, or not the TOML of [`toml`].
    NotToml(String),
    /// A value that is no string; the second is how TOML calls it.
    Type(String, &'static str),
    /// A name that is empty or holds `=`, or a NUL byte anywhere.
    Impossible(String),
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Endless => write!(out, "it is larger than {LARGEST} bytes"),
            Malformed::NotToml(reason) => write!(out, "{reason}"),
            Malformed::Type(name, kind) => write!(out, "`{name}` is of type {kind}, not a string"),
            Malformed::Impossible(name) => write!(out, "no variable can be `{name}`"),
        }
    }
}

/// Runs all programs for a process of type `kind`, or for a command, in `app`.
///
/// # Errors
/// The first one that fails.
pub fn run(
    buildpacks: &[Layers],
    kind: Option<&str>,
    part: Part,
    app: &Path,
    environment: &mut Environment,
) -> Result<(), ExecError> {
    for layer in buildpacks.iter().flatten() {
        let folder = layer.join("exec.d");
        let mut files = Vec::new();
        if part == Part::Whole {
            files.extend(programs(&folder)?);
        }
        if let Some(kind) = kind
            && part != Part::Nothing
        {
            files.extend(programs(&folder.join(kind))?);
        }
        for file in files {
            let text = output(&file, app, environment)?;
            let pairs =
                variables(&text).map_err(|reason| ExecError::Output(file.clone(), reason))?;
            for (name, value) in pairs {
                environment.set(name, value, file.display().to_string());
            }
        }
    }
    Ok(())
}

fn programs(folder: &Path) -> Result<Vec<PathBuf>, ExecError> {
    let entries = layers::entries(folder).map_err(ExecError::Folder)?;
    let files = entries.into_iter().filter(|entry| !entry.leads_to_folder());
    Ok(files.map(|entry| entry.path).collect())
}

/// What the program prints on descriptor 3.
fn output(file: &Path, app: &Path, environment: &Environment) -> Result<Vec<u8>, ExecError> {
    let broken = |err| ExecError::Pipe(file.to_owned(), err);
    let failed = |err| ExecError::Start(file.to_owned(), err);
    let (reader, writer) = handles::pipe().map_err(broken)?;
    let mut command = Command::new(file);
    command.current_dir(app).stdin(Stdio::null());
    handles::third(&mut command, &writer);
    handles::exactly(&mut command, file, &[file.as_os_str()], environment).map_err(failed)?;
    let mut child = command.spawn().map_err(failed)?;
    // Ours, so that the end of the program is the end of what is read.
    drop(writer);
    let mut text = Vec::new();
    let read = reader.take(LARGEST + 1).read_to_end(&mut text);
    let endless = text.len() as u64 > LARGEST;
    if endless {
        // It may have ended by itself meanwhile, which is just as good.
        let _ = child.kill();
    }
    let status = child.wait().map_err(broken)?;
    if endless {
        return Err(ExecError::Output(file.to_owned(), Malformed::Endless));
    }
    if !status.success() {
        return Err(ExecError::Failed(file.to_owned(), status));
    }
    read.map_err(broken)?;
    Ok(text)
}

/// Reads the output: strings by name.
///
/// # Errors
/// Anything else.
pub fn variables(text: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
    let text =
        std::str::from_utf8(text).map_err(|_| Malformed::NotToml("it is not UTF-8".to_owned()))?;
    let root = toml::parse(text).map_err(|err| Malformed::NotToml(err.to_string()))?;
    let mut pairs = Vec::new();
    for (name, entry) in root.entries {
        let value = match entry.value {
            Value::Text(value) => value,
            Value::Integer(_) => return Err(Malformed::Type(name, "int64")),
            Value::Boolean(_) => return Err(Malformed::Type(name, "bool")),
            Value::List(_) | Value::Tables(_) => return Err(Malformed::Type(name, "slice")),
            Value::Table(_) => return Err(Malformed::Type(name, "table")),
        };
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Malformed::Impossible(name.escape_debug().to_string()));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// `exit status 5`, `signal: 9`: how the program ended.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed() {
        type Expected<'a> = Result<&'a [(&'a str, &'a str)], &'a str>;
        let cases: [(&[u8], Expected<'_>); 11] = [
            (b"", Ok(&[])),
            (b"# nothing\n", Ok(&[])),
            (b"B = 'x'\nA = \"a\\nb\"\n", Ok(&[("A", "a\nb"), ("B", "x")])),
            (b"'A B' = ''", Ok(&[("A B", "")])),
            (b"N = 5", Err("`N` is of type int64, not a string")),
            (b"N = true", Err("`N` is of type bool, not a string")),
            (b"[N]\nA = 'x'", Err("`N` is of type table, not a string")),
            (b"not toml", Err("line 1: expected `=`")),
            (b"\xff = 'x'", Err("it is not UTF-8")),
            (b"'A=B' = 'x'", Err("no variable can be `A=B`")),
            (b"A = \"\\u0000\"", Err("no variable can be `A`")),
        ];
        for (text, expected) in cases {
            let found = variables(text).map_err(|err| err.to_string());
            let expected = expected.map_err(str::to_owned).map(|pairs| {
                pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
            });
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(text));
        }
    }
}
