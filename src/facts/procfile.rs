//! The Procfile: which processes the image offers.
//!
//! One process per line, `type: command`; `#` starts a comment line. It is not
//! YAML: quotes, colons and `%` in a command mean themselves. A type is
//! lower-case letters, digits and inner hyphens, at most 63; upper case and `_`
//! are converted, as the buildpacks of Heroku do. Of two lines with one type the
//! last wins.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::Refusal;

/// The longest process type: it becomes a DNS label on most platforms.
const LONGEST_TYPE: usize = 63;

/// A parsed Procfile: type to process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Procfile(pub BTreeMap<String, Process>);

/// One line of a Procfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// What a shell runs.
    pub command: String,
    /// The line it stands on, from 1.
    pub line: usize,
}

impl FromStr for Procfile {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Procfile, Refusal> {
        let mut processes = BTreeMap::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let Some((kind, command)) = content.split_once(':') else {
                return Err(Refusal::at(
                    line,
                    "expected `type: command`, such as `web: bin/start`",
                ));
            };
            let kind = process_type(kind.trim()).map_err(|message| Refusal::at(line, message))?;
            let command = command.trim();
            if command.is_empty() {
                return Err(Refusal::at(line, format!("`{kind}` has no command after the colon")));
            }
            processes.insert(kind, Process { command: command.to_owned(), line });
        }
        Ok(Procfile(processes))
    }
}

fn process_type(text: &str) -> Result<String, String> {
    let kind = text.to_ascii_lowercase().replace('_', "-");
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let inner = !kind.starts_with('-') && !kind.ends_with('-');
    if kind.is_empty() || kind.len() > LONGEST_TYPE || !inner || !kind.chars().all(allowed) {
        return Err(format!(
            "`{}` is not a process type: letters, digits and inner hyphens, at most {LONGEST_TYPE}",
            text.chars().take(80).collect::<String>()
        ));
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[(&str, &str, usize)], &str>) {
        let found = text.parse::<Procfile>().map(|procfile| {
            let rows = procfile.0.into_iter();
            rows.map(|(kind, process)| (kind, process.command, process.line)).collect::<Vec<_>>()
        });
        let expected = expected.map(|rows| {
            let rows = rows.iter();
            rows.map(|(kind, command, line)| ((*kind).into(), (*command).into(), *line)).collect()
        });
        assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn grammar() {
        check("", Ok(&[]));
        check("web: a", Ok(&[("web", "a", 1)]));
        check("# c\r\n\r\n  web:a b  \r\n", Ok(&[("web", "a b", 3)]));
        check("\u{feff}web: a\n", Ok(&[("web", "a", 1)]));
        check(
            "web: x --a=\"b: c\" # d % && $PORT",
            Ok(&[("web", "x --a=\"b: c\" # d % && $PORT", 1)]),
        );
        check("a: 1\nb: 2\na: 3", Ok(&[("a", "3", 3), ("b", "2", 2)]));
    }

    #[test]
    fn types_are_converted() {
        check("Sidekiq_Low: x", Ok(&[("sidekiq-low", "x", 1)]));
    }

    #[test]
    fn bad_lines() {
        let hint = "expected `type: command`, such as `web: bin/start`";
        check("web: a\nworker", Err(&format!("line 2: {hint}")));
        check("web:  ", Err("line 1: `web` has no command after the colon"));
        let rule = "letters, digits and inner hyphens, at most 63";
        check("-a: x", Err(&format!("line 1: `-a` is not a process type: {rule}")));
        check("a b: x", Err(&format!("line 1: `a b` is not a process type: {rule}")));
        check(": x", Err(&format!("line 1: `` is not a process type: {rule}")));
    }
}
