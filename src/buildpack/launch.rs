//! How the image starts: the process types, from buildpacks, Procfile and wishes, and the
//! launcher with its table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::planner::{Wishes, required};
use super::template::holds;
use super::{Buildpack, BuildpackError};
use crate::facts::Facts;
use crate::plan::{APP_FOLDER, Action, MadeContent, MadeFile, Preparation, Process, Start, Step};

const LAUNCHER: &str = "cnb/lifecycle/launcher";
const TABLE: &str = "layers/config/metadata.toml";
/// Shells that can run a line which is more than words.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What the user says of a process type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessWish {
    /// The command line; an empty one removes the type, none leaves what is known.
    pub command: Option<String>,
    /// What happens before it starts.
    pub preparation: Preparation,
}

/// The process types of the image. What the user says wins over the Procfile, which wins over
/// buildpacks; what happens before a start stays when only the command is another.
pub(super) fn processes(
    chain: &[&Buildpack],
    facts: &Facts,
    wishes: &Wishes,
) -> Result<BTreeMap<String, Process>, BuildpackError> {
    let mut processes: BTreeMap<String, Process> = BTreeMap::new();
    for buildpack in chain.iter().rev() {
        for template in &buildpack.processes {
            if holds(&template.when, facts) && !processes.contains_key(&template.kind) {
                let command = required(&buildpack.name, &template.command, facts)?;
                let origin = format!("buildpack {}", buildpack.name);
                let preparation = template.start.clone();
                preparation.check().map_err(|problem| BuildpackError::Process {
                    origin: origin.clone(),
                    kind: template.kind.clone(),
                    problem,
                })?;
                let process = Process { command, origin, preparation };
                processes.insert(template.kind.clone(), process);
            }
        }
    }
    for (name, fact) in facts.iter() {
        if let Some(kind) = name.strip_prefix("procfile.") {
            let earlier = processes.remove(kind).map(|process| process.preparation);
            processes.insert(
                kind.to_owned(),
                Process {
                    command: fact.value.clone(),
                    origin: fact.origin.clone(),
                    preparation: earlier.unwrap_or_default(),
                },
            );
        }
    }
    for (kind, wish) in &wishes.processes {
        let origin = "forge.toml".to_owned();
        let wrong = |problem: String| BuildpackError::Process {
            origin: origin.clone(),
            kind: kind.clone(),
            problem,
        };
        wish.preparation.check().map_err(wrong)?;
        let earlier = processes.remove(kind);
        let command = match (&wish.command, &earlier) {
            (Some(command), _) if command.is_empty() => continue,
            (Some(command), _) => command.clone(),
            (None, Some(earlier)) => earlier.command.clone(),
            (None, None) => {
                return Err(wrong(
                    "it has no `command`, and nothing else says how it starts".into(),
                ));
            }
        };
        let said = match (&wish.command, &earlier) {
            (None, Some(earlier)) => earlier.origin.clone(),
            _ => origin.clone(),
        };
        let before = earlier.map(|process| process.preparation).unwrap_or_default();
        let preparation = wish.preparation.clone().over(before);
        processes.insert(kind.clone(), Process { command, origin: said, preparation });
    }
    for (kind, process) in &processes {
        let problem = if ["launcher", "forge"].contains(&kind.as_str()) {
            "the launcher answers to it"
        } else if kind.is_empty()
            || !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        {
            "only letters, digits, `.`, `_` and `-` may be in it"
        } else {
            continue;
        };
        return Err(BuildpackError::ProcessName {
            origin: process.origin.clone(),
            kind: kind.clone(),
            problem,
        });
    }
    Ok(processes)
}

/// What holds for all that the image starts.
pub(super) fn start(chain: &[&Buildpack], wishes: &Wishes) -> Result<Start, BuildpackError> {
    let mut start = Start::default();
    for buildpack in chain {
        let wrong = |problem| BuildpackError::Start {
            origin: format!("buildpack {}", buildpack.name),
            problem,
        };
        buildpack.start.check().map_err(wrong)?;
        start = buildpack.start.clone().over(start);
    }
    let wrong = |problem| BuildpackError::Start { origin: "forge.toml".to_owned(), problem };
    wishes.start.check().map_err(wrong)?;
    Ok(wishes.start.clone().over(start))
}

/// The launcher, a link for each process type, and the process table.
pub(super) fn launcher_step(
    processes: &BTreeMap<String, Process>,
    start: &Start,
    launcher: MadeContent,
) -> Step {
    let link = |target: &str| MadeFile::Link { target: target.to_owned() };
    let table = table(processes, start).into_bytes();
    let mut files = BTreeMap::from([
        (LAUNCHER.to_owned(), MadeFile::File { content: launcher, mode: 0o755 }),
        ("cnb/lifecycle/forge".to_owned(), link("launcher")),
        (TABLE.to_owned(), MadeFile::File { content: table.into(), mode: 0o644 }),
    ]);
    for kind in processes.keys() {
        files.insert(format!("cnb/process/{kind}"), link("/cnb/lifecycle/launcher"));
    }
    Step::new("launcher", "launcher and process types", Action::Files { files })
}

/// The process table in the form of the buildpacks specification (`platform.md`,
/// "metadata.toml"), with what only forge's launcher reads in tables called `forge`.
fn table(processes: &BTreeMap<String, Process>, start: &Start) -> String {
    let mut table = String::from("# Made by forge; read by the launcher.\n");
    // Writing to a String cannot fail.
    for (kind, process) in processes {
        let _written = write!(
            table,
            "\n[[processes]]\ntype = {}\ncommand = [{}]\ndirect = false\ndefault = {}\nworking-dir = \"/{APP_FOLDER}\"\n",
            quoted(kind),
            quoted(&process.command),
            kind == "web",
        );
        preparation(&mut table, &process.preparation);
    }
    if *start != Start::default() {
        let secrets = list(&start.secrets);
        let _written =
            write!(table, "\n[forge]\nsecrets = {secrets}\npreload = {}\n", list(&start.preload));
    }
    if !start.defaults.is_empty() {
        table.push_str("\n[forge.defaults]\n");
        for (name, value) in &start.defaults {
            let _written = writeln!(table, "{} = {}", quoted(name), quoted(value));
        }
    }
    for (name, count) in &start.counts {
        let _written = write!(
            table,
            "\n[[forge.counts]]\nname = {}\nper_processor = {}\nmore = {}\n",
            quoted(name),
            count.per_processor,
            count.more
        );
        for (key, value) in [("megabytes", count.megabytes), ("most", count.most)] {
            if let Some(value) = value {
                let _written = writeln!(table, "{key} = {value}");
            }
        }
    }
    table
}

fn preparation(table: &mut String, said: &Preparation) {
    if *said == Preparation::default() {
        return;
    }
    table.push_str("[processes.forge]\n");
    for (key, values) in [("required", &said.required), ("wait_for", &said.wait_for)] {
        if !values.is_empty() {
            let _written = writeln!(table, "{key} = {}", list(values));
        }
    }
    if let Some(limit) = said.wait_limit {
        let _written = writeln!(table, "wait_limit = {limit}");
    }
    if let Some(wrap) = &said.wrap {
        let _written = writeln!(table, "wrap = {}", list(&words(wrap)));
    }
    if said.init == Some(true) {
        table.push_str("init = true\n");
    }
    for line in &said.before {
        let _written =
            write!(table, "[[processes.forge.before]]\ncommand = {}\n", list(&words(line)));
    }
    for publish in &said.publish {
        let (from, to) = (quoted(&publish.from), quoted(&publish.to));
        let _written = write!(table, "[[processes.forge.publish]]\nfrom = {from}\nto = {to}\n");
    }
}

/// A line of plain words as such, so that no shell is needed; any other is for a shell.
fn words(line: &str) -> Vec<String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || " _./:@%+,=-".contains(letter);
    // The first word may be an assignment, which only a shell knows.
    let first = line.split_whitespace().next().unwrap_or_default();
    if line.chars().all(is_plain) && !first.contains('=') {
        line.split_whitespace().map(str::to_owned).collect()
    } else {
        SHELL.iter().map(|&word| word.to_owned()).chain([line.to_owned()]).collect()
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_words_or_scripts() {
        let check = |line: &str, expected: &[&str]| assert_eq!(words(line), expected, "{line}");
        check("rails  db:prepare", &["rails", "db:prepare"]);
        check(
            "python manage.py migrate --noinput",
            &["python", "manage.py", "migrate", "--noinput"],
        );
        check("A=1 rails x", &["/bin/sh", "-c", "A=1 rails x"]);
        check("test -e x || touch x", &["/bin/sh", "-c", "test -e x || touch x"]);
        check("echo 'a b'", &["/bin/sh", "-c", "echo 'a b'"]);
    }

    #[test]
    fn the_table() {
        let web: Preparation = toml::from_str(
            "required = ['A']\nwait_for = ['$DB']\nwait_limit = 5\nbefore = ['rails db:prepare']\n\
             publish = [{ from = 'public', to = '/srv' }]\nwrap = 'newrelic-admin run-program'\ninit = true",
        )
        .expect("parses");
        let start: Start = toml::from_str(
            "secrets = ['A']\ndefaults = { X = '1' }\ncounts.N = { per_processor = 2, megabytes = 9 }",
        )
        .expect("parses");
        let process = |preparation| Process {
            command: "puma".to_owned(),
            origin: String::new(),
            preparation,
        };
        let processes = BTreeMap::from([
            ("web".to_owned(), process(web)),
            ("worker".to_owned(), process(Preparation::default())),
        ]);
        let text = table(&processes, &start);
        let parsed: toml::Table = text.parse().expect("TOML");
        let forge = &parsed["processes"][0]["forge"];
        assert_eq!(forge["before"][0]["command"][1].as_str(), Some("db:prepare"), "{text}");
        assert_eq!(forge["publish"][0]["to"].as_str(), Some("/srv"));
        assert_eq!(forge["wrap"][0].as_str(), Some("newrelic-admin"));
        assert!(parsed["processes"][1].get("forge").is_none());
        assert_eq!(parsed["forge"]["counts"][0]["megabytes"].as_integer(), Some(9));
        // What says nothing of it has the table of before.
        let plain = BTreeMap::from([("web".to_owned(), process(Preparation::default()))]);
        assert!(!table(&plain, &Start::default()).contains("forge]"));
    }
}
