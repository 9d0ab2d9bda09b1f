//! What to start, from the name the launcher was called by, its arguments and
//! the process table. Pure.
//!
//! | called as | arguments | what runs |
//! | --- | --- | --- |
//! | a process type | any | that process, with the arguments added |
//! | `launcher`, or any other name | none | the default process |
//! | | `--list` | nothing; the table is printed |
//! | | `--all [TYPE…]` | those processes, or all but `release` |
//! | | `--env [TYPE] [--values]`, `--explain [TYPE]` | nothing; it is printed |
//! | | one, a process type | that process |
//! | | `-- command …` | the command |
//! | | anything else | the command, without a shell, arguments untouched |
//! | `forge` | `launcher …` | as `launcher …` |
//! | | none, `--help` | nothing; the launcher says what it is |
//!
//! The names `launcher` and `forge` keep their meaning even if a process type
//! is called so, because the image's entrypoint must go on working.
//!
//! The words of the user are never looked at by a shell. The launcher of CNB
//! runs them through `echo`, which swallows `-e` and joins spaces.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::all::FOR_ONCE;
use crate::failure::Failure;
use crate::settings::Preparation;
use crate::table::{Extra, Process, Table};

/// First words that only the shell itself knows, or that it takes as its own
/// even with `exec` in front: `exec exit 3` finds no program called `exit`.
const SHELL_WORDS: [&str; 49] = [
    "!", ".", ":", "[[", "alias", "bg", "builtin", "caller", "case", "cd", "command", "coproc",
    "declare", "do", "done", "elif", "else", "esac", "eval", "exec", "exit", "export", "fg", "fi",
    "for", "function", "getopts", "if", "jobs", "let", "local", "read", "readonly", "return",
    "select", "set", "shift", "shopt", "source", "then", "time", "trap", "type", "ulimit", "umask",
    "unset", "until", "wait", "while",
];

/// What the name and the arguments ask for, before the table is known.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Say what this program is.
    About,
    /// Start something.
    Launch(Call),
}

/// A call of the launcher.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// The last part of `argv[0]`.
    pub name: OsString,
    /// What follows it.
    pub arguments: Vec<OsString>,
}

/// What the call means, given the table.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// Print the table.
    List,
    /// Start several processes; none named means all but those that are for once.
    All(Vec<Launch>),
    /// Print the variables of a process, or of a command.
    Env {
        /// What would be started.
        launch: Box<Launch>,
        /// Whether values are shown.
        values: bool,
    },
    /// Print all that happens at the start of a process.
    Explain(Box<Launch>),
    /// Start this.
    Launch(Box<Launch>),
}

/// One program to start.
#[derive(Debug, PartialEq, Eq)]
pub struct Launch {
    /// How messages name it: ``process `web` ``.
    pub title: String,
    /// The process type; `None` for an operator's command.
    pub kind: Option<String>,
    /// What is run.
    pub form: Form,
    /// Who asked, which decides where it runs.
    pub origin: Origin,
    /// What happens before it starts; nothing for an operator's command.
    pub preparation: Preparation,
}

/// What is run.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    /// A program and its arguments, as they are.
    Direct {
        /// A name to look up on PATH, or a path.
        program: OsString,
        /// What it gets.
        arguments: Vec<OsString>,
    },
    /// A script for `<shell> -c`.
    Shell(OsString),
}

/// Who asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table, perhaps with a folder to run in.
    Process(Option<PathBuf>),
    /// Somebody who gave a command.
    Operator,
}

/// Reads the command line as far as it goes without the table.
///
/// # Errors
/// Words after `forge` that mean nothing inside an image.
pub fn request(words: impl IntoIterator<Item = OsString>) -> Result<Request, Failure> {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_owned();
    let mut arguments: Vec<OsString> = words.collect();
    if name != "forge" {
        return Ok(Request::Launch(Call { name, arguments }));
    }
    match arguments.first().map(|word| word.as_bytes()) {
        None | Some(b"--help" | b"-h" | b"help") => Ok(Request::About),
        Some(b"launcher") => Ok(Request::Launch(Call { name: arguments.remove(0), arguments })),
        Some(word) => Err(Failure::usage(
            &format!("run `forge {}`", String::from_utf8_lossy(word)),
            "inside an image forge is only the launcher",
            "run `forge launcher COMMAND ARG…`; `forge --help` tells more",
        )),
    }
}

/// Finds what the call means.
///
/// # Errors
/// No default process, no word after `--`, a process without command.
pub fn choose(table: &Table, call: &Call) -> Result<Choice, Failure> {
    let named = |name: &OsStr| name.to_str().and_then(|name| table.process(name));
    let called = if call.name == "launcher" { None } else { named(&call.name) };
    if let Some(process) = called {
        return launch(process, &call.arguments);
    }
    match call.arguments.as_slice() {
        [] => match table.default_process() {
            Some(process) => launch(process, &[]),
            None => Err(no_default(table)),
        },
        [only] if only == "--list" => Ok(Choice::List),
        [first, kinds @ ..] if first == "--all" => all(table, kinds),
        [first, rest @ ..] if first == "--env" => {
            let values = rest.iter().any(|word| word == "--values");
            let kinds: Vec<&OsString> = rest.iter().filter(|word| *word != "--values").collect();
            let launch = match kinds.as_slice() {
                [] => table.default_process().map_or_else(
                    || Ok(Box::new(command(&["env".into()]))),
                    |process| of_process(process, &[]).map(Box::new),
                )?,
                kinds => Box::new(one(table, "show the environment of", kinds)?),
            };
            Ok(Choice::Env { launch, values })
        }
        [first, kinds @ ..] if first == "--explain" => {
            let kinds: Vec<&OsString> = kinds.iter().collect();
            let launch = match (kinds.as_slice(), table.default_process()) {
                ([], Some(process)) => of_process(process, &[])?,
                (kinds, _) => one(table, "explain", kinds)?,
            };
            Ok(Choice::Explain(Box::new(launch)))
        }
        [only] if only == "--" => Err(Failure::own(
            "run a command",
            "no word follows `--`",
            "write the command after it: `launcher -- COMMAND ARG…`",
        )),
        [first, command @ ..] if first == "--" => Ok(operator(command)),
        words => {
            let process = match words {
                [only] => named(only),
                _ => None,
            };
            match process {
                Some(process) => launch(process, &[]),
                None => Ok(operator(words)),
            }
        }
    }
}

/// The process that exactly one word names.
fn one(table: &Table, doing: &str, kinds: &[&OsString]) -> Result<Launch, Failure> {
    match kinds {
        [kind] => match kind.to_str().and_then(|kind| table.process(kind)) {
            Some(process) => of_process(process, &[]),
            None => Err(unknown(table, doing, kind)),
        },
        _ => Err(Failure::own(doing, "one process type is wanted", &those(table))),
    }
}

/// Those that are named, or all but the ones that are for once.
fn all(table: &Table, kinds: &[OsString]) -> Result<Choice, Failure> {
    const DOING: &str = "start several processes";
    let mut chosen: Vec<&Process> = Vec::new();
    if kinds.is_empty() {
        let mut default: Vec<&Process> = table.default_process().into_iter().collect();
        for process in &table.processes {
            let is_new = chosen.iter().chain(&default).all(|other| other.kind != process.kind);
            if is_new && process.kind != FOR_ONCE {
                chosen.push(process);
            }
        }
        // The default one comes first: PORT is its.
        default.append(&mut chosen);
        chosen = default;
    }
    for kind in kinds {
        match kind.to_str().and_then(|kind| table.process(kind)) {
            Some(process) if chosen.iter().any(|other| other.kind == process.kind) => {
                let reason = format!("`{}` is named twice", process.kind);
                return Err(Failure::own(DOING, reason, "name each type once"));
            }
            Some(process) => chosen.push(process),
            None => return Err(unknown(table, DOING, kind)),
        }
    }
    if chosen.is_empty() {
        return Err(Failure::own(DOING, "there is none", &those(table)));
    }
    let launches = chosen.iter().map(|process| of_process(process, &[]));
    Ok(Choice::All(launches.collect::<Result<_, _>>()?))
}

fn unknown(table: &Table, doing: &str, kind: &OsStr) -> Failure {
    let reason = format!("`{}` is no process type", kind.to_string_lossy());
    Failure::own(doing, reason, &those(table))
}

fn those(table: &Table) -> String {
    let kinds: Vec<&str> = table.processes.iter().map(|process| process.kind.as_str()).collect();
    match kinds.as_slice() {
        [] => "this image has no process types: add a Procfile and build again".to_owned(),
        kinds => format!("the types are {}", kinds.join(", ")),
    }
}

/// The table for people: a line per process, the default one marked.
pub fn list(table: &Table) -> String {
    let default = table.default_process().map(|process| process.kind.as_str());
    let title = |process: &Process| {
        let mark = if default == Some(&process.kind) { " (default)" } else { "" };
        format!("{}{mark}", process.kind)
    };
    let width = table.processes.iter().map(|process| title(process).chars().count()).max();
    let width = width.unwrap_or_default();
    let line = |process: &Process| {
        let command = match form(process, &[]) {
            Form::Shell(_) => shell_line(process, &[]),
            Form::Direct { program, arguments } => {
                let words = std::iter::once(program).chain(arguments);
                words.map(|word| shown(&word)).collect::<Vec<_>>().join(&b' ')
            }
        };
        let indent = format!("\n{:width$}  ", "");
        let command = String::from_utf8_lossy(&command).replace('\n', &indent);
        format!("{:width$}  {command}\n", title(process))
    };
    table.processes.iter().map(line).collect()
}

fn no_default(table: &Table) -> Failure {
    let kinds: Vec<&str> = table.processes.iter().map(|process| process.kind.as_str()).collect();
    let next = match kinds.as_slice() {
        [] => {
            "give a command: `launcher COMMAND ARG…`, or add a Procfile and build again".to_owned()
        }
        kinds => format!("name one of {}, or give a command", kinds.join(", ")),
    };
    Failure::own("choose a process", "none is the default and none is called `web`", &next)
}

/// The command of somebody who gave one; `words` is not empty.
fn operator(words: &[OsString]) -> Choice {
    Choice::Launch(Box::new(command(words)))
}

fn command(words: &[OsString]) -> Launch {
    let program = words.first().cloned().unwrap_or_default();
    let title = format!("`{}`", program.to_string_lossy());
    let arguments = words.iter().skip(1).cloned().collect();
    Launch {
        title,
        kind: None,
        form: Form::Direct { program, arguments },
        origin: Origin::Operator,
        preparation: Preparation::default(),
    }
}

fn launch(process: &Process, extra: &[OsString]) -> Result<Choice, Failure> {
    of_process(process, extra).map(|launch| Choice::Launch(Box::new(launch)))
}

fn of_process(process: &Process, extra: &[OsString]) -> Result<Launch, Failure> {
    let title = format!("process `{}`", process.kind);
    if process.command.iter().all(String::is_empty) {
        let doing = format!("start {title}");
        return Err(Failure::own(
            &doing,
            "it has no command",
            "give it one in the Procfile and build again",
        ));
    }
    let origin = Origin::Process(process.working_dir.clone());
    let preparation = process.preparation.clone();
    let form = form(process, extra);
    let kind = Some(process.kind.clone());
    Ok(Launch { title, kind, form, origin, preparation })
}

fn form(process: &Process, extra: &[OsString]) -> Form {
    if !process.direct {
        let mut script = Vec::new();
        if takes_exec(&process.command.join(" ")) {
            script.extend(b"exec ");
        }
        script.extend(shell_line(process, extra));
        return Form::Shell(OsString::from_vec(script));
    }
    let mut words = process.command.iter().map(OsString::from);
    let program = words.next().unwrap_or_default();
    let mut arguments: Vec<OsString> = words.collect();
    // The table of CNB: a command of several words always lets the user's words
    // replace `args`, one of a single word does since buildpack API 0.9.
    let append = process.command.len() == 1 && process.extra == Extra::Append;
    if extra.is_empty() || append {
        arguments.extend(process.args.iter().map(OsString::from));
    }
    arguments.extend(extra.iter().cloned());
    Form::Direct { program, arguments }
}

/// The command as written, then every argument as a quoted word.
fn shell_line(process: &Process, extra: &[OsString]) -> Vec<u8> {
    // A line end after the command would make the first word behind it a
    // command of its own.
    let mut line = process.command.join(" ").trim_end_matches(['\n', '\r']).as_bytes().to_vec();
    let args = process.args.iter().map(OsStr::new);
    for word in args.chain(extra.iter().map(OsString::as_os_str)) {
        line.push(b' ');
        line.extend(quoted(word));
    }
    line
}

/// Whether `exec ` may stand in front, so that the shell is replaced and does
/// not sit between the platform's signals and the program. Only for a simple
/// command: none of `;&|<>()` and no line end anywhere, quoted or not, no
/// `NAME=value` in front, and a first word that a shell does not take itself.
/// Where this says no, bash and dash still replace themselves by the last
/// command of the script when they can.
fn takes_exec(command: &str) -> bool {
    let command = command.trim();
    let first = command.split_ascii_whitespace().next().unwrap_or_default();
    let plain = !command.contains([';', '&', '|', '<', '>', '(', ')', '\n']);
    let own = SHELL_WORDS.contains(&first) || first.starts_with(['{', '-', '#']);
    plain && !first.is_empty() && !own && !is_assignment(first)
}

/// `NAME=…`, `NAME+=…`, `NAME[0]=…`.
fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    let name = name.strip_suffix('+').unwrap_or(name);
    let name = name.split_once('[').map_or(name, |(name, _)| name);
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// The word as the shell must read it to get it back unchanged.
pub fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// The word as a person reads it: quoted only where that matters.
fn shown(word: &OsStr) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(byte);
    let bytes = word.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(plain) { bytes.to_vec() } else { quoted(word) }
}

#[cfg(test)]
mod tests;
