//! `FORGE_LAUNCHER_COMPAT=cnb`: the launcher of Cloud Native Buildpacks, with
//! its rules, messages and exit codes, for images that were tested with it.
//!
//! | exit code | means |
//! | --- | --- |
//! | 1 | the process table cannot be read |
//! | 11 | CNB_PLATFORM_API is missing or unknown |
//! | 12 | the API of a buildpack is missing or unknown |
//! | 82 | anything else before the program starts |
//!
//! - What forge adds to an image (the settings of `[forge]`, PORT, the preparation
//!   of processes) does nothing here.
//! - Messages are never coloured, as with CNB_NO_COLOR=true.
//! - One thing is not copied: `forge launcher …` works, since images have `forge`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf, absolute};
use std::process::Command;

use crate::eligible;
use crate::environment::Environment;
use crate::execd::{self, ExecError};
use crate::handles;
use crate::layers::{self, Layers, Part, Unreadable};
use crate::profile::{self, Mode};
use crate::table::{Alone, boolean, sections, string, strings};
use crate::toml::{self, Entry, Malformed, Section, Value};

/// The variable that turns this on.
pub const SWITCH: &str = "FORGE_LAUNCHER_COMPAT";

/// Removed before anything is started.
const REMOVED: [&str; 5] = [
    "CNB_LAYERS_DIR",
    "CNB_APP_DIR",
    "CNB_PROCESS_TYPE",
    "CNB_PLATFORM_API",
    "CNB_DEPRECATION_MODE",
];

/// Folders of the launcher itself, which leave PATH.
const OWN_FOLDERS: [&[u8]; 2] = [b"/cnb/process", b"/cnb/lifecycle"];

/// Platform APIs that are known, both ends included.
const PLATFORM_APIS: (Api, Api) = (Api(0, 7), Api(0, 15));
/// Buildpack APIs that are known, both ends included.
const BUILDPACK_APIS: (Api, Api) = (Api(0, 7), Api(0, 12));
/// From here on a command may have several words, which are always given.
const COMMAND_LISTS: Api = Api(0, 10);
/// From here on CNB_EXEC_ENV selects processes.
const EXEC_ENVS: Api = Api(0, 15);
/// Buildpacks from here on let the words of the user replace `args`.
const REPLACING: Api = Api(0, 9);

/// A version of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Api(u32, u32);

impl Api {
    /// `0.10`, `v0.10`, `1`.
    fn parse(text: &str) -> Option<Api> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (major, minor) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(major) || !digits(minor) {
            return None;
        }
        let minor = if minor.is_empty() { "0" } else { minor };
        Some(Api(major.parse().ok()?, minor.parse().ok()?))
    }

    fn is_in(self, (first, last): (Api, Api)) -> bool {
        first <= self && self <= last
    }
}

impl fmt::Display for Api {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.0, self.1)
    }
}

/// Why nothing was started.
pub struct Refusal {
    /// The exit status.
    pub code: u8,
    text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "ERROR: failed to {}", self.text)
    }
}

impl Refusal {
    fn metadata(reason: impl fmt::Display) -> Refusal {
        Refusal { code: 1, text: format!("read metadata: {reason}") }
    }

    fn launch(reason: impl fmt::Display) -> Refusal {
        Refusal { code: 82, text: format!("launch: {reason}") }
    }

    fn choice(reason: impl fmt::Display) -> Refusal {
        Refusal::launch(format_args!("determine start command: {reason}"))
    }
}

/// What is started.
#[derive(Debug, Clone, Default)]
struct Process {
    /// Empty for a command of the user.
    kind: String,
    command: Vec<OsString>,
    args: Vec<OsString>,
    direct: bool,
    working_dir: Option<PathBuf>,
    buildpack: String,
    exec_env: Vec<String>,
}

/// The part of the table that counts here.
pub struct Metadata {
    processes: Vec<Process>,
    /// Ids in order, and APIs.
    buildpacks: Vec<(String, Api)>,
}

/// Becomes the program that was asked for; `words` begin with `argv[0]`.
pub fn launch(words: Vec<OsString>, layers: &Path, app: &Path) -> Refusal {
    match prepare(words, layers, app) {
        Err(refusal) => refusal,
        Ok(mut command) => {
            let (what, err) = (command.what, command.program.exec());
            Refusal::launch(format_args!("{what}: {}", said(&err)))
        }
    }
}

/// A program that is ready to be executed, and what to call that.
struct Ready {
    what: &'static str,
    program: Command,
}

fn prepare(words: Vec<OsString>, root: &Path, app: &Path) -> Result<Ready, Refusal> {
    let platform = platform()?;
    let metadata = read(&root.join("config/metadata.toml"))?;
    if let Some(kind) = env::var_os("CNB_PROCESS_TYPE").filter(|kind| !kind.is_empty()) {
        let kind = kind.to_string_lossy();
        eprintln!("Warning: CNB_PROCESS_TYPE is not supported in Platform API {platform}");
        eprintln!("Warning: Run with ENTRYPOINT '{kind}' to invoke the '{kind}' process type");
    }
    let mut words = words.into_iter();
    let caller = words.next().unwrap_or_default();
    let mut words: Vec<OsString> = words.collect();
    let mut name = caller.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if name == b"forge" && words.first().is_some_and(|word| word == "launcher") {
        words.remove(0);
        name = b"launcher";
    }
    let default = std::str::from_utf8(name)
        .ok()
        .filter(|name| metadata.processes.iter().any(|process| process.kind == *name));
    let process = choose(&metadata, platform, default, words).map_err(Refusal::choice)?;

    env::set_current_dir(app).map_err(|err| {
        let app = app.display();
        Refusal::launch(format_args!("change to app directory: chdir {app}: {}", said(&err)))
    })?;
    let mut environment = of_container(env::vars_os());
    let kind = Some(process.kind.as_str()).filter(|kind| !kind.is_empty());
    let root = absolute(root).unwrap_or_else(|_| root.to_owned());
    let ids = metadata.buildpacks.iter().map(|(id, _)| id.as_str());
    let layers = layers::find(&root, ids)
        .and_then(|layers| {
            layers::apply(&layers, kind, Part::Whole, &mut environment).map(|()| layers)
        })
        .map_err(|err| {
            Refusal::launch(format_args!("modify env: add layer env: {}", open(&err)))
        })?;
    let here = env::current_dir().unwrap_or_else(|_| app.to_owned());
    execd::run(&layers, kind, Part::Whole, &here, &mut environment)
        .map_err(|err| Refusal::launch(format_args!("exec.d: {}", exec_error(&err))))?;
    let directory = process.working_dir.clone().unwrap_or_else(|| app.to_owned());
    if process.direct {
        direct(&process, &directory, &environment)
    } else {
        let place = Place { layers: &layers, app: &here, directory: &directory };
        shell(&process, &caller, &metadata, &place, &environment)
    }
}

fn platform() -> Result<Api, Refusal> {
    let refusal = |text| Refusal { code: 11, text };
    let value = env::var_os("CNB_PLATFORM_API").unwrap_or_default();
    let value = value.to_string_lossy();
    if value.trim().is_empty() {
        let text = "get platform API version; please set 'CNB_PLATFORM_API' to specify the \
                    desired platform API version";
        return Err(refusal(text.to_owned()));
    }
    let api = Api::parse(&value).ok_or_else(|| refusal(format!("parse platform API '{value}'")))?;
    if api.is_in(PLATFORM_APIS) {
        return Ok(api);
    }
    Err(refusal(format!(
        "set platform API: platform API version '{value}' is incompatible with the lifecycle"
    )))
}

fn read(path: &Path) -> Result<Metadata, Refusal> {
    let text = fs::read(path).map_err(|err| {
        Refusal::metadata(format_args!("open {}: {}", path.display(), said(&err)))
    })?;
    metadata(&text)
}

/// Reads the text of a process table.
pub fn metadata(text: &[u8]) -> Result<Metadata, Refusal> {
    let text = std::str::from_utf8(text)
        .map_err(|_| Refusal::metadata("toml: files must be encoded in UTF-8"))?;
    let malformed = |err: Malformed| Refusal::metadata(format_args!("toml: {err}"));
    let root = toml::parse(text).map_err(malformed)?;
    let mut processes = Vec::new();
    for (_, section) in sections(&root, "processes").map_err(malformed)? {
        processes.push(process(section).map_err(malformed)?);
    }
    let mut buildpacks = Vec::new();
    for (_, section) in sections(&root, "buildpacks").map_err(malformed)? {
        let id = string(section, "id").map_err(malformed)?.unwrap_or_default();
        let api = string(section, "api").map_err(malformed)?;
        let api = buildpack_api(&id, api.as_deref().unwrap_or("<nil>"))?;
        buildpacks.push((id, api));
    }
    Ok(Metadata { processes, buildpacks })
}

fn buildpack_api(id: &str, text: &str) -> Result<Api, Refusal> {
    let refusal = |text| Refusal { code: 12, text };
    let api = Api::parse(text)
        .ok_or_else(|| refusal(format!("parse buildpack API '{text}' for buildpack '{id}'")))?;
    if api.is_in(BUILDPACK_APIS) {
        return Ok(api);
    }
    Err(refusal(format!(
        "set API for buildpack '{id}': buildpack API version '{text}' is incompatible with the \
         lifecycle"
    )))
}

fn process(section: &Section) -> Result<Process, Malformed> {
    let command = match section.entries.get("command") {
        Some(Entry { value: Value::List(values), .. }) => values.iter().map(shown).collect(),
        _ => strings(section, "command", Alone::Allowed)?,
    };
    let words = |texts: Vec<String>| texts.into_iter().map(OsString::from).collect();
    Ok(Process {
        kind: string(section, "type")?.unwrap_or_default(),
        command: words(command),
        args: words(strings(section, "args", Alone::Refused)?),
        direct: boolean(section, "direct")?,
        working_dir: string(section, "working-dir")?
            .filter(|folder| !folder.is_empty())
            .map(PathBuf::from),
        buildpack: string(section, "buildpack-id")?.unwrap_or_default(),
        exec_env: strings(section, "exec-env", Alone::Refused)?,
    })
}

/// An element of a command as text.
fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::List(values) => {
            format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        Value::Table(_) | Value::Tables(_) => "map[]".to_owned(),
    }
}

/// The process that is meant, with all its arguments.
fn choose(
    metadata: &Metadata,
    platform: Api,
    default: Option<&str>,
    mut words: Vec<OsString>,
) -> Result<Process, String> {
    let Some(kind) = default else {
        if words.is_empty() {
            return Err("when there is no default process a command is required".to_owned());
        }
        let direct = words.len() > 1 && words[0] == "--";
        if direct {
            words.remove(0);
        }
        let args = words.split_off(1);
        return Ok(Process { command: words, args, direct, ..Process::default() });
    };
    let wanted = eligible::wanted(env::var_os("CNB_EXEC_ENV").as_deref());
    let fits = |process: &&Process| {
        process.kind == kind
            && (platform < EXEC_ENVS || eligible::eligible(&process.exec_env, &wanted))
    };
    let found = metadata.processes.iter().find(fits).cloned();
    let mut process = found.ok_or_else(|| format!("process type {kind} was not found"))?;
    let joined = !process.direct && process.args.is_empty() && words.is_empty();
    if joined || process.command.is_empty() {
        // A script of several pieces; or nothing to start, which is said later.
        return Ok(process);
    }
    let fixed = process.command.split_off(1);
    if platform < COMMAND_LISTS {
        process.args = [fixed, process.args, words].concat();
    } else if !fixed.is_empty() {
        let rest = if words.is_empty() { process.args } else { words };
        process.args = [fixed, rest].concat();
    } else if !words.is_empty() {
        let buildpack = metadata.buildpacks.iter().find(|(id, _)| *id == process.buildpack);
        let Some((_, api)) = buildpack else {
            let id = &process.buildpack;
            return Err(format!(
                "failed to find buildpack for process {kind} with buildpack ID {id}"
            ));
        };
        if *api < REPLACING {
            process.args.extend(words);
        } else {
            process.args = words;
        }
    }
    Ok(process)
}

fn of_container(container: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
    let mut environment = Environment::default();
    for (name, value) in container {
        if REMOVED.iter().any(|removed| name == *removed) {
            continue;
        }
        if name != "PATH" {
            environment.set(name, value, "the container");
            continue;
        }
        let folders = value.as_bytes().split(|byte| *byte == b':');
        let kept: Vec<&[u8]> = folders.filter(|folder| !OWN_FOLDERS.contains(folder)).collect();
        environment.set(name, OsString::from_vec(kept.join(&b':')), "the container");
    }
    environment
}

fn direct(
    process: &Process,
    directory: &Path,
    environment: &Environment,
) -> Result<Ready, Refusal> {
    let Some((name, words)) = process.command.split_first() else {
        let kind = &process.kind;
        return Err(Refusal::launch(format_args!(
            "no command provided for process type \"{kind}\""
        )));
    };
    let path = environment.get("PATH").unwrap_or_default();
    let file = look_up(name, path).map_err(|reason| {
        let name = name.to_string_lossy();
        Refusal::launch(format_args!("path lookup: exec: {name:?}: {reason}"))
    })?;
    // Found from the application's folder, executed in another.
    let file = absolute(&file).unwrap_or(file);
    env::set_current_dir(directory).map_err(|err| {
        let directory = directory.display();
        Refusal::launch(format_args!("change directory: chdir {directory}: {}", said(&err)))
    })?;
    let mut program = Command::new(&file);
    let words = [name].into_iter().chain(words).chain(&process.args);
    let words: Vec<&OsStr> = words.map(OsString::as_os_str).collect();
    handles::exactly(&mut program, &file, &words, environment)
        .map_err(|err| Refusal::launch(format_args!("direct exec: {}", said(&err))))?;
    Ok(Ready { what: "direct exec", program })
}

/// The file that a name means, as Go looks it up.
fn look_up(name: &OsStr, path: &OsStr) -> Result<PathBuf, String> {
    if name.as_bytes().contains(&b'/') {
        let file = PathBuf::from(name);
        let there = fs::metadata(&file)
            .map_err(|err| format!("stat {}: {}", file.display(), said(&err)))?;
        return if there.is_dir() {
            Err("is a directory".to_owned())
        } else if there.permissions().mode() & 0o111 == 0 {
            Err("permission denied".to_owned())
        } else {
            Ok(file)
        };
    }
    let folders = path.as_bytes().split(|byte| *byte == b':').map(OsStr::from_bytes);
    for folder in folders.filter(|_| !path.is_empty()) {
        let file = Path::new(folder).join(name);
        let runs = fs::metadata(&file)
            .is_ok_and(|there| !there.is_dir() && there.permissions().mode() & 0o111 != 0);
        if runs && !name.is_empty() {
            if file.is_absolute() {
                return Ok(file);
            }
            return Err("cannot run executable found relative to current directory".to_owned());
        }
    }
    Err("executable file not found in $PATH".to_owned())
}

/// Folders that a shell process needs.
struct Place<'a> {
    layers: &'a [Layers],
    app: &'a Path,
    directory: &'a Path,
}

fn shell(
    process: &Process,
    caller: &OsStr,
    metadata: &Metadata,
    place: &Place<'_>,
    environment: &Environment,
) -> Result<Ready, Refusal> {
    let kind = Some(process.kind.as_str()).filter(|kind| !kind.is_empty());
    let profiles = profile::find(place.layers, kind, place.app)
        .map_err(|err| Refusal::launch(format_args!("find profiles: {}", open(&err))))?;
    let id = &process.buildpack;
    let known = id.is_empty() || metadata.buildpacks.iter().any(|(known, _)| known == id);
    if !process.args.is_empty() && !known {
        let kind = &process.kind;
        return Err(Refusal::launch(format_args!(
            "process type '{kind}' provided by unknown buildpack '{id}'"
        )));
    }
    let mode = match process.args.len() {
        0 => Mode::Script,
        count => Mode::Tokens(count + 1),
    };
    let mut program = Command::new(profile::BASH);
    program
        .arg0("bash")
        .arg("-c")
        .arg(profile::reference(&profiles, place.directory, mode))
        .arg(caller)
        .arg(process.command.join(OsStr::new(" ")))
        .args(&process.args)
        .env_clear()
        .envs(environment.pairs());
    Ok(Ready { what: "bash exec", program })
}

/// What Go prints for an error of the system: `permission denied`.
fn said(err: &io::Error) -> String {
    let text = err.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

fn open(Unreadable { path, source }: &Unreadable) -> String {
    format!("open {}: {}", path.display(), said(source))
}

fn exec_error(err: &ExecError) -> String {
    let execute = |path: &Path, reason: String| {
        format!("failed to execute exec.d file at path '{}': {reason}", path.display())
    };
    match err {
        ExecError::Folder(err) => {
            let path = err.path.display();
            format!("failed to list files in dir '{path}': {}", open(err))
        }
        ExecError::Start(path, source) => {
            execute(path, format!("fork/exec {}: {}", path.display(), said(source)))
        }
        ExecError::Failed(path, status) => execute(path, execd::ending(*status)),
        ExecError::Pipe(path, source) => {
            let path = path.display();
            format!("failed to read output from exec.d file at path '{path}': {}", said(source))
        }
        ExecError::Output(path, reason) => {
            let path = path.display();
            let reason = match reason {
                execd::Malformed::Type(_, kind) => format!(
                    "incompatible types: TOML value has type {kind}; destination has type string"
                ),
                reason => reason.to_string(),
            };
            format!("failed to decode output from exec.d file at path '{path}': toml: {reason}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [
            ("0.10", Some(Api(0, 10))),
            ("v0.7", Some(Api(0, 7))),
            ("1", Some(Api(1, 0))),
            ("1.", Some(Api(1, 0))),
            ("", None),
            (".7", None),
            ("0.7.1", None),
            (" 0.7", None),
            ("0.-7", None),
            ("0.99999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Api::parse(text), expected, "{text}");
        }
        assert!(Api(0, 9) < Api(0, 10) && Api(0, 15).is_in(PLATFORM_APIS));
        assert!(!Api(0, 16).is_in(PLATFORM_APIS) && !Api(0, 6).is_in(PLATFORM_APIS));
    }

    #[test]
    fn looking_up() {
        let none = Err("executable file not found in $PATH".to_owned());
        let relative = Err("cannot run executable found relative to current directory".to_owned());
        let cases = [
            ("sh", "/nope:/bin", Ok("/bin/sh".into())),
            ("sh", "", none.clone()),
            ("", "/bin", none.clone()),
            ("nosuch", "/bin", none),
            // Tests run in the folder of the package.
            ("dev/../bin/sh", "", Err("stat dev/../bin/sh: no such file or directory".to_owned())),
            ("sh", "../../../../../../../../../bin", relative),
            ("/bin", "", Err("is a directory".to_owned())),
            ("/etc/passwd", "", Err("permission denied".to_owned())),
        ];
        for (name, path, expected) in cases {
            assert_eq!(look_up(name.as_ref(), path.as_ref()), expected, "{name} {path}");
        }
    }

    #[test]
    fn elements_that_are_no_strings() {
        let text = b"[[processes]]\ntype = 'web'\ncommand = ['a', 1, true, [2, 'b']]\n";
        let Ok(metadata) = metadata(text) else { panic!("the fixture is well formed") };
        assert_eq!(metadata.processes[0].command, ["a", "1", "true", "[2 b]"]);
    }
}
