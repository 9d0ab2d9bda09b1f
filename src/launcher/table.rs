//! The process table: `<layers>/config/metadata.toml` in the form of Cloud
//! Native Buildpacks. Text in, type out; the file is read in `main.rs`.
//!
//! ```text
//! [[buildpacks]]  id  api
//! [[processes]]   type  command  args  direct  default  working-dir  buildpack-id  exec-env
//! ```
//!
//! What forge adds is in `settings`.
//!
//! Other tables and other keys are ignored, but must be well formed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::settings::{Preparation, Settings};
use crate::toml::{self, Entry, Malformed, Section, Value};

/// The first buildpack API whose processes let the words of the user replace
/// `args`; before it they are appended.
const REPLACING_API: (u32, u32) = (0, 9);

/// All that an image can start, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Where a type stands twice, the first counts.
    pub processes: Vec<Process>,
    /// In the order in which their layers count.
    pub buildpacks: Vec<Buildpack>,
    /// For everything that the image starts.
    pub settings: Settings,
}

/// One `[[buildpacks]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buildpack {
    /// `heroku/ruby`; its layers are in `heroku_ruby`.
    pub id: String,
    /// The version of the interface that it was written for.
    pub api: String,
}

/// One `[[processes]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its name: `web`, `worker`.
    pub kind: String,
    /// The program and its fixed arguments; for a shell process the script.
    pub command: Vec<String>,
    /// Arguments after `command`.
    pub args: Vec<String>,
    /// Run without a shell.
    pub direct: bool,
    /// Started when nothing is asked for.
    pub default: bool,
    /// Where it runs, if not in the application's folder.
    pub working_dir: Option<PathBuf>,
    /// What words of the user do to `args`.
    pub extra: Extra,
    /// The buildpack that it is from.
    pub buildpack: Option<String>,
    /// The execution environments that it is for; none means all.
    pub exec_env: Vec<String>,
    /// What happens before it starts.
    pub preparation: Preparation,
}

/// What words of the user do to the `args` of a direct process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// They stand in their place.
    Replace,
    /// They follow them.
    Append,
}

impl Table {
    /// Reads the text of a table.
    ///
    /// # Errors
    /// Anything that is not the TOML of [`toml`], a key of another type than
    /// above, a process without type, two defaults.
    pub fn parse(text: &str) -> Result<Table, Malformed> {
        let root = toml::parse(text)?;
        let (mut extras, mut buildpacks) = (BTreeMap::new(), Vec::new());
        for (line, buildpack) in sections(&root, "buildpacks")? {
            if let (Some(id), Some(api)) = (string(buildpack, "id")?, string(buildpack, "api")?) {
                extras.insert(id.clone(), extra(&api, line_of(buildpack, "api", line))?);
                buildpacks.push(Buildpack { id, api });
            }
        }
        let mut processes: Vec<Process> = Vec::new();
        for (line, section) in sections(&root, "processes")? {
            let process = process(section, line, &extras)?;
            let second = |other: &Process| other.default && other.kind != process.kind;
            if process.default && processes.iter().any(second) {
                let line = line_of(section, "default", line);
                return Err(wrong(line, "a second process is the default"));
            }
            processes.push(process);
        }
        Ok(Table { processes, buildpacks, settings: Settings::read(&root)? })
    }

    /// The process of that type.
    pub fn process(&self, kind: &str) -> Option<&Process> {
        self.processes.iter().find(|process| process.kind == kind)
    }

    /// The process that runs when nothing is asked for: the one marked as
    /// default, else `web`, else the only one.
    pub fn default_process(&self) -> Option<&Process> {
        let marked = self.processes.iter().find(|process| process.default);
        let only = || match self.processes.as_slice() {
            [process] => Some(process),
            _ => None,
        };
        marked.or_else(|| self.process("web")).or_else(only)
    }
}

fn process(
    section: &Section,
    line: usize,
    extras: &BTreeMap<String, Extra>,
) -> Result<Process, Malformed> {
    let kind = string(section, "type")?.filter(|kind| !kind.is_empty());
    let buildpack = string(section, "buildpack-id")?;
    let extra = buildpack.as_ref().and_then(|id| extras.get(id).copied());
    Ok(Process {
        kind: kind.ok_or_else(|| wrong(line, "a process has no type"))?,
        command: strings(section, "command", Alone::Allowed)?,
        args: strings(section, "args", Alone::Refused)?,
        direct: boolean(section, "direct")?,
        default: boolean(section, "default")?,
        working_dir: string(section, "working-dir")?
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from),
        extra: extra.unwrap_or(Extra::Replace),
        buildpack,
        exec_env: strings(section, "exec-env", Alone::Refused)?,
        preparation: Preparation::read(section)?,
    })
}

fn extra(api: &str, line: usize) -> Result<Extra, Malformed> {
    let (major, minor) = api.split_once('.').unwrap_or((api, "0"));
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(major), Ok(minor)) if (major, minor) < REPLACING_API => Ok(Extra::Append),
        (Ok(_), Ok(_)) => Ok(Extra::Replace),
        _ => Err(wrong(line, &format!("`{api}` is no buildpack API"))),
    }
}

/// The tables under `[[name]]`, each with a line to name in errors: that of the
/// first key in it, else of the first header.
pub fn sections<'a>(root: &'a Section, name: &str) -> Result<Vec<(usize, &'a Section)>, Malformed> {
    match root.entries.get(name) {
        None => Ok(Vec::new()),
        Some(Entry { value: Value::List(list), .. }) if list.is_empty() => Ok(Vec::new()),
        Some(Entry { line, value: Value::Tables(list) }) => Ok(list
            .iter()
            .map(|section| {
                let first = section.entries.values().map(|entry| entry.line).min();
                (first.unwrap_or(*line), section)
            })
            .collect()),
        Some(entry) => Err(wrong(entry.line, &format!("`{name}` is no array of tables"))),
    }
}

/// The table under `[name]`, and the line of it.
pub fn table_of<'a>(
    section: &'a Section,
    name: &str,
) -> Result<Option<(usize, &'a Section)>, Malformed> {
    match section.entries.get(name) {
        None => Ok(None),
        Some(Entry { line, value: Value::Table(table) }) => Ok(Some((*line, table))),
        Some(entry) => Err(wrong(entry.line, &format!("`{name}` is no table"))),
    }
}

/// A number from 0 on.
pub fn integer(section: &Section, key: &str) -> Result<Option<u64>, Malformed> {
    let Some(entry) = section.entries.get(key) else { return Ok(None) };
    match &entry.value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    }
    .map(Some)
    .ok_or_else(|| wrong(entry.line, &format!("`{key}` is no number")))
}

/// A string, if there is one.
pub fn string(section: &Section, key: &str) -> Result<Option<String>, Malformed> {
    match section.entries.get(key) {
        None => Ok(None),
        Some(Entry { value: Value::Text(text), .. }) => Ok(Some(text.clone())),
        Some(entry) => Err(wrong(entry.line, &format!("`{key}` is no string"))),
    }
}

/// A boolean; false when it is not there.
pub fn boolean(section: &Section, key: &str) -> Result<bool, Malformed> {
    match section.entries.get(key) {
        None => Ok(false),
        Some(Entry { value: Value::Boolean(value), .. }) => Ok(*value),
        Some(entry) => Err(wrong(entry.line, &format!("`{key}` is neither true nor false"))),
    }
}

/// Whether a string may stand for a list of one.
#[derive(PartialEq, Eq)]
pub enum Alone {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

/// A list of strings; empty when it is not there.
pub fn strings(section: &Section, key: &str, alone: Alone) -> Result<Vec<String>, Malformed> {
    let Some(entry) = section.entries.get(key) else { return Ok(Vec::new()) };
    let refused = || wrong(entry.line, &format!("`{key}` is no list of strings"));
    match &entry.value {
        Value::Text(text) if alone == Alone::Allowed => Ok(vec![text.clone()]),
        Value::List(values) => values
            .iter()
            .map(|value| match value {
                Value::Text(text) => Ok(text.clone()),
                _ => Err(refused()),
            })
            .collect(),
        _ => Err(refused()),
    }
}

fn line_of(section: &Section, key: &str, otherwise: usize) -> usize {
    section.entries.get(key).map_or(otherwise, |entry| entry.line)
}

/// An error on that line.
pub fn wrong(line: usize, reason: &str) -> Malformed {
    Malformed { line, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_table() {
        let text = r#"
            [[buildpacks]]
            id = "forge/rails"
            api = "0.10"
            homepage = "ignored"

            [[buildpacks]]
            id = "old"
            api = "0.8"

            [[processes]]
            type = "web"
            command = ["bundle", "exec"]
            args = ["puma"]
            direct = true
            default = true
            buildpack-id = "forge/rails"

            [[processes]]
            type = "worker"
            command = "sidekiq -q $QUEUE"
            direct = false
            buildpack-id = "old"
            working-dir = "/workspace/sub"
            [processes.metadata]
            answer = 42

            [build.tools]
            ignored = [1, 2]
        "#;
        let web = Process {
            kind: "web".into(),
            command: vec!["bundle".into(), "exec".into()],
            args: vec!["puma".into()],
            direct: true,
            default: true,
            working_dir: None,
            extra: Extra::Replace,
            buildpack: Some("forge/rails".into()),
            exec_env: vec![],
            preparation: Preparation::default(),
        };
        let worker = Process {
            kind: "worker".into(),
            command: vec!["sidekiq -q $QUEUE".into()],
            args: vec![],
            direct: false,
            default: false,
            working_dir: Some("/workspace/sub".into()),
            extra: Extra::Append,
            buildpack: Some("old".into()),
            exec_env: vec![],
            preparation: Preparation::default(),
        };
        let buildpack = |id: &str, api: &str| Buildpack { id: id.into(), api: api.into() };
        let buildpacks = vec![buildpack("forge/rails", "0.10"), buildpack("old", "0.8")];
        let settings = Settings::default();
        let expected = Table { processes: vec![web, worker], buildpacks, settings };
        assert_eq!(Table::parse(text), Ok(expected));
    }

    #[test]
    fn what_is_refused() {
        let cases = [
            ("[[processes]]\ncommand = 'x'", "line 2: a process has no type"),
            ("[[processes]]\ntype = ''", "line 2: a process has no type"),
            ("[[processes]]", "line 1: a process has no type"),
            ("[[processes]]\ntype = 1", "line 2: `type` is no string"),
            ("[[processes]]\ntype = 'x'\ncommand = 1", "line 3: `command` is no list of strings"),
            ("[[processes]]\ntype = 'x'\ncommand = [1]", "line 3: `command` is no list of strings"),
            ("[[processes]]\ntype = 'x'\nargs = 'y'", "line 3: `args` is no list of strings"),
            (
                "[[processes]]\ntype = 'x'\ndirect = 'y'",
                "line 3: `direct` is neither true nor false",
            ),
            ("[processes]\ntype = 'x'", "line 1: `processes` is no array of tables"),
            ("[[buildpacks]]\nid = 'x'\napi = 'new'", "line 3: `new` is no buildpack API"),
            (
                "[[processes]]\ntype = 'x'\ndefault = true\n[[processes]]\ntype = 'y'\ndefault = true",
                "line 6: a second process is the default",
            ),
        ];
        for (text, expected) in cases {
            let found = Table::parse(text).map_err(|err| err.to_string());
            assert_eq!(found, Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_default() {
        let table = |lines: &[&str]| {
            let text: String =
                lines.iter().map(|line| format!("[[processes]]\n{line}\n")).collect();
            Table::parse(&text).map(|table| table.default_process().map(|found| found.kind.clone()))
        };
        let cases: [(&[&str], Option<&str>); 5] = [
            (&[], None),
            (&["type = 'worker'"], Some("worker")),
            (&["type = 'worker'", "type = 'clock'"], None),
            (&["type = 'worker'", "type = 'web'"], Some("web")),
            (&["type = 'worker'\ndefault = true", "type = 'web'"], Some("worker")),
        ];
        for (lines, expected) in cases {
            assert_eq!(table(lines), Ok(expected.map(str::to_owned)), "{lines:?}");
        }
    }
}
