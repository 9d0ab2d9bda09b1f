//! What forge adds to the process table: what must be there before a process starts, and
//! what its environment has by default. Section in, types out.
//!
//! ```text
//! [forge]                              for everything that the image starts
//! secrets = ["DATABASE_URL"]           NAME is read from the file that NAME_FILE names
//! preload = ["/usr/lib/…/libx.so"]     LD_PRELOAD, of those that are there
//! [forge.defaults]                     NAME = "value", where NAME is unset or empty
//! [[forge.counts]]                     NAME from what the container may use
//!
//! [processes.forge]                    for the process above it
//! required = ["SECRET_KEY_BASE"]
//! wait_for = ["$DATABASE_URL", "tcp://cache:6379", "unix:/run/app.sock"]
//! wait_limit = 60                      seconds, for all of them together
//! wrap = ["newrelic-admin", "run-program"]
//! init = true
//! [[processes.forge.before]]           command = ["rails", "db:prepare"]
//! [[processes.forge.publish]]          from = "public", to = "/srv/static"
//! ```
//!
//! The launcher of CNB ignores all of it, as it does with every key that it does not know.
//! Here an unknown key is an error: the same forge has written it.

use std::path::PathBuf;

use crate::table::{Alone, boolean, integer, sections, string, strings, table_of, wrong};
use crate::toml::{Malformed, Section};

/// How long services may take to be ready, when nothing is said.
const WAIT_LIMIT: u64 = 60;

/// For everything that the image starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Variables that may come from a file.
    pub secrets: Vec<String>,
    /// Libraries for LD_PRELOAD.
    pub preload: Vec<PathBuf>,
    /// Values of variables that are unset or empty, sorted by name.
    pub defaults: Vec<(String, String)>,
    /// Numbers that depend on the container's limits.
    pub counts: Vec<Count>,
}

/// A variable that holds a number: `per_processor` for each processor and `more`, but no more
/// than the memory has room for, and between 1 and `most`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The variable; left alone when it is set.
    pub name: String,
    /// For each processor that the container may use.
    pub per_processor: u64,
    /// Added to that.
    pub more: u64,
    /// Memory of one, in MiB; 0 when memory does not matter.
    pub megabytes: u64,
    /// The most.
    pub most: u64,
}

/// For one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Variables without which it cannot work.
    pub required: Vec<String>,
    /// Services that must answer: addresses, or `$NAME` of a variable that holds one.
    pub wait_for: Vec<String>,
    /// Seconds that all services have together.
    pub wait_limit: u64,
    /// Commands that must succeed, in this order.
    pub before: Vec<Vec<String>>,
    /// Folders that are copied out of the image.
    pub publish: Vec<Publish>,
    /// Words in front of the command.
    pub wrap: Vec<String>,
    /// Whether the launcher stays as process 1.
    pub init: bool,
}

/// A folder of the image whose files go into a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Relative to the application's folder.
    pub from: PathBuf,
    /// Where the volume is mounted.
    pub to: PathBuf,
}

impl Settings {
    /// Reads `[forge]` of the table's root.
    ///
    /// # Errors
    /// A key that is not listed above, or of another type.
    pub fn read(root: &Section) -> Result<Settings, Malformed> {
        let Some((line, forge)) = table_of(root, "forge")? else {
            return Ok(Settings::default());
        };
        only(forge, &["secrets", "preload", "defaults", "counts"])?;
        let mut settings = Settings {
            secrets: strings(forge, "secrets", Alone::Refused)?,
            preload: strings(forge, "preload", Alone::Refused)?
                .into_iter()
                .map(Into::into)
                .collect(),
            ..Settings::default()
        };
        if let Some((_, defaults)) = table_of(forge, "defaults")? {
            for name in defaults.entries.keys() {
                if let Some(value) = string(defaults, name)? {
                    settings.defaults.push((name.clone(), value));
                }
            }
        }
        for (_, count) in sections(forge, "counts")? {
            only(count, &["name", "per_processor", "more", "megabytes", "most"])?;
            settings.counts.push(Count {
                name: string(count, "name")?.ok_or_else(|| wrong(line, "a count has no name"))?,
                per_processor: integer(count, "per_processor")?.unwrap_or(0),
                more: integer(count, "more")?.unwrap_or(0),
                megabytes: integer(count, "megabytes")?.unwrap_or(0),
                most: integer(count, "most")?.unwrap_or(u64::MAX),
            });
        }
        Ok(settings)
    }
}

impl Preparation {
    /// Reads `[processes.forge]` of a process.
    ///
    /// # Errors
    /// A key that is not listed above, or of another type.
    pub fn read(process: &Section) -> Result<Preparation, Malformed> {
        let Some((line, forge)) = table_of(process, "forge")? else {
            return Ok(Preparation::default());
        };
        let known = ["required", "wait_for", "wait_limit", "before", "publish", "wrap", "init"];
        only(forge, &known)?;
        let mut preparation = Preparation {
            required: strings(forge, "required", Alone::Refused)?,
            wait_for: strings(forge, "wait_for", Alone::Refused)?,
            wait_limit: integer(forge, "wait_limit")?.unwrap_or(WAIT_LIMIT),
            wrap: strings(forge, "wrap", Alone::Refused)?,
            init: boolean(forge, "init")?,
            ..Preparation::default()
        };
        for (line, before) in sections(forge, "before")? {
            only(before, &["command"])?;
            let command = strings(before, "command", Alone::Refused)?;
            if command.is_empty() {
                return Err(wrong(line, "a command to run before has no word"));
            }
            preparation.before.push(command);
        }
        for (_, publish) in sections(forge, "publish")? {
            only(publish, &["from", "to"])?;
            let path = |key| {
                let path = string(publish, key)?.filter(|path| !path.is_empty());
                path.map(PathBuf::from)
                    .ok_or_else(|| wrong(line, &format!("`publish` has no `{key}`")))
            };
            preparation.publish.push(Publish { from: path("from")?, to: path("to")? });
        }
        Ok(preparation)
    }
}

fn only(section: &Section, known: &[&str]) -> Result<(), Malformed> {
    match section.entries.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some((key, entry)) => {
            Err(wrong(entry.line, &format!("`{key}` means nothing to this launcher")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    #[test]
    fn all_of_it() {
        let table = Table::parse(
            r#"
            [[processes]]
            type = "web"
            command = ["puma"]
            [processes.forge]
            required = ["SECRET_KEY_BASE"]
            wait_for = ["$DATABASE_URL"]
            wait_limit = 5
            wrap = ["newrelic-admin", "run-program"]
            init = true
            [[processes.forge.before]]
            command = ["rails", "db:prepare"]
            [[processes.forge.publish]]
            from = "public"
            to = "/srv/static"

            [[processes]]
            type = "worker"
            command = ["sidekiq"]

            [forge]
            secrets = ["DATABASE_URL"]
            preload = ["/usr/lib/libjemalloc.so.2"]
            [forge.defaults]
            PORT = "8080"
            [[forge.counts]]
            name = "WEB_CONCURRENCY"
            per_processor = 2
            more = 1
            megabytes = 300
            "#,
        )
        .expect("parses");
        let web = &table.processes[0].preparation;
        assert_eq!(web.before, [["rails", "db:prepare"]]);
        assert_eq!(web.publish, [Publish { from: "public".into(), to: "/srv/static".into() }]);
        assert_eq!((web.wait_limit, web.init, web.wrap.len()), (5, true, 2));
        assert_eq!(table.processes[1].preparation, Preparation::default());
        assert_eq!(table.settings.defaults, [("PORT".to_owned(), "8080".to_owned())]);
        let count = Count {
            name: "WEB_CONCURRENCY".into(),
            per_processor: 2,
            more: 1,
            megabytes: 300,
            most: u64::MAX,
        };
        assert_eq!(table.settings.counts, [count]);
    }

    #[test]
    fn what_is_refused() {
        for (text, expected) in [
            ("[forge]\nport = 1", "line 2: `port` means nothing to this launcher"),
            ("[forge.defaults]\nPORT = 1", "line 2: `PORT` is no string"),
            (
                "[[forge.counts]]\nname = 'X'\nper_processor = -1",
                "line 3: `per_processor` is no number",
            ),
            (
                "[[processes]]\ntype = 'x'\n[processes.forge]\nwait_for = 'x'",
                "line 4: `wait_for` is no list of strings",
            ),
            (
                "[[processes]]\ntype = 'x'\n[[processes.forge.before]]\ncommand = []",
                "line 4: a command to run before has no word",
            ),
            ("forge = 1", "line 1: `forge` is no table"),
        ] {
            let found = Table::parse(text).map_err(|error| error.to_string());
            assert_eq!(found, Err(expected.to_owned()), "{text}");
        }
    }
}
