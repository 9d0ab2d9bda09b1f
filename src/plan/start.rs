//! What happens in the image before a process starts, and what its environment has by
//! default: values that forge.toml and buildpacks say, and that the launcher acts upon
//! (`docs/starting.md`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Before one process starts; nothing of it happens unless it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preparation {
    /// Variables without which it cannot work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Services that must answer: `tcp://host:port`, `unix:/path`, `$NAME` of a variable
    /// that holds an address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wait_for: Vec<String>,
    /// Seconds that all of them have together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_limit: Option<u32>,
    /// Command lines that must succeed, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// Folders that are copied into volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// Words in front of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrap: Option<String>,
    /// Whether the launcher stays as process 1; it does not when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

/// A folder of the image whose files go into a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Relative to the app's folder, or absolute.
    pub from: String,
    /// Where the volume is mounted; absolute.
    pub to: String,
}

/// For all that an image starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Start {
    /// Variables that may come from the file that `NAME_FILE` names.
    pub secrets: Vec<String>,
    /// Values of variables that are unset or empty.
    pub defaults: BTreeMap<String, String>,
    /// Variables that hold a number which depends on what the container may use.
    pub counts: BTreeMap<String, Count>,
    /// Libraries for LD_PRELOAD, of those that are there.
    pub preload: Vec<String>,
}

/// `per_processor` for each processor and `more`, but no more than the memory has room for,
/// and between 1 and `most`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Count {
    /// For each processor.
    pub per_processor: u32,
    /// Added to that.
    pub more: u32,
    /// Memory of one, in MiB.
    pub megabytes: Option<u32>,
    /// The most.
    pub most: Option<u32>,
}

impl Preparation {
    /// What of it cannot be meant.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.required.iter().try_for_each(|name| variable("required", name))?;
        for service in &self.wait_for {
            if service.trim().is_empty() || service.contains(char::is_whitespace) {
                return Err(format!("`wait_for`: `{service}` is no address"));
            }
            if let Some(name) = service.strip_prefix('$') {
                variable("wait_for", name.trim_start_matches('{').trim_end_matches('}'))?;
            }
        }
        if self.wait_limit == Some(0) {
            return Err("`wait_limit` is 0 seconds, in which nothing can answer".to_owned());
        }
        if self.before.iter().chain(&self.wrap).any(|line| line.trim().is_empty()) {
            return Err("an empty command can neither run `before` nor `wrap`".to_owned());
        }
        for Publish { from, to } in &self.publish {
            if from.is_empty() {
                return Err("`publish` names no folder in `from`".to_owned());
            }
            if !to.starts_with('/') || to.trim_matches('/').is_empty() {
                return Err(format!("`publish`: `{to}` is no absolute folder of a volume"));
            }
        }
        Ok(())
    }

    /// What is said of it over what was said before: lists and values each replace theirs.
    #[must_use]
    pub fn over(self, earlier: Preparation) -> Preparation {
        let list = |own: Vec<String>, other| if own.is_empty() { other } else { own };
        Preparation {
            required: list(self.required, earlier.required),
            wait_for: list(self.wait_for, earlier.wait_for),
            wait_limit: self.wait_limit.or(earlier.wait_limit),
            before: list(self.before, earlier.before),
            publish: if self.publish.is_empty() { earlier.publish } else { self.publish },
            wrap: self.wrap.or(earlier.wrap),
            init: self.init.or(earlier.init),
        }
    }

    /// Line for people, each with what it is.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        let mut add = |what, text: String| {
            if !text.is_empty() {
                lines.push((what, text));
            }
        };
        add("requires", self.required.join(" "));
        add("waits for", self.wait_for.join(" "));
        self.before.iter().for_each(|line| add("before", line.clone()));
        for Publish { from, to } in &self.publish {
            add("publishes", format!("{from} to {to}"));
        }
        add("wrapped in", self.wrap.clone().unwrap_or_default());
        if self.init == Some(true) {
            add("under", "an init".to_owned());
        }
        lines
    }
}

impl Start {
    /// What of it cannot be meant.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.secrets.iter().try_for_each(|name| variable("secrets", name))?;
        self.defaults.keys().try_for_each(|name| variable("defaults", name))?;
        for (name, count) in &self.counts {
            variable("counts", name)?;
            if count.per_processor == 0 && count.more == 0 {
                return Err(format!("`counts.{name}` has neither `per_processor` nor `more`"));
            }
            if count.most == Some(0) || count.megabytes == Some(0) {
                return Err(format!("`counts.{name}`: 0 leaves no room for one"));
            }
        }
        match self.preload.iter().find(|path| !path.starts_with('/')) {
            Some(path) => Err(format!("`preload`: `{path}` is no absolute path")),
            None => Ok(()),
        }
    }

    /// What is said here over what was said before.
    #[must_use]
    pub fn over(self, mut earlier: Start) -> Start {
        for name in self.secrets {
            if !earlier.secrets.contains(&name) {
                earlier.secrets.push(name);
            }
        }
        earlier.secrets.sort();
        // A value wins over a number of the same name, and the other way round.
        for (name, value) in self.defaults {
            earlier.counts.remove(&name);
            earlier.defaults.insert(name, value);
        }
        for (name, count) in self.counts {
            earlier.defaults.remove(&name);
            earlier.counts.insert(name, count);
        }
        if !self.preload.is_empty() {
            earlier.preload = self.preload;
        }
        earlier
    }
}

/// A name that a shell could give a variable.
fn variable(key: &str, name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(good) || name.as_bytes()[0].is_ascii_digit() {
        return Err(format!("`{key}`: `{name}` cannot be the name of a variable"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preparation(text: &str) -> Preparation {
        toml::from_str(text).expect("parses")
    }

    #[test]
    fn what_cannot_be_meant() {
        for (text, expected) in [
            ("required = ['A B']", "`required`: `A B` cannot be the name of a variable"),
            ("wait_for = ['$1']", "`wait_for`: `1` cannot be the name of a variable"),
            ("wait_for = ['']", "`wait_for`: `` is no address"),
            ("wait_limit = 0", "`wait_limit` is 0 seconds, in which nothing can answer"),
            ("before = [' ']", "an empty command can neither run `before` nor `wrap`"),
            (
                "publish = [{ from = 'a', to = 'b' }]",
                "`publish`: `b` is no absolute folder of a volume",
            ),
            (
                "publish = [{ from = 'a', to = '/' }]",
                "`publish`: `/` is no absolute folder of a volume",
            ),
        ] {
            assert_eq!(preparation(text).check(), Err(expected.to_owned()), "{text}");
        }
        let good = "wait_for = ['${DATABASE_URL}', 'tcp://a:1']\nbefore = ['rails db:prepare']";
        assert_eq!(preparation(good).check(), Ok(()));
        let start: Start =
            toml::from_str("counts.WEB_CONCURRENCY = { megabytes = 5 }").expect("parses");
        assert!(start.check().is_err_and(|text| text.contains("per_processor")));
    }

    #[test]
    fn one_over_the_other() {
        let earlier = preparation("required = ['A']\nwait_for = ['b:1']\ninit = true");
        let off = preparation("init = false").over(preparation("init = true"));
        assert_eq!(off.init, Some(false));
        let own = preparation("required = ['C']\nwait_limit = 3");
        let both = preparation("required = ['C']\nwait_for = ['b:1']\nwait_limit = 3\ninit = true");
        assert_eq!(own.over(earlier), both);
        let start = |text: &str| -> Start { toml::from_str(text).expect("parses") };
        let earlier =
            start("secrets = ['B']\ndefaults = { X = '1', Y = '2' }\ncounts.N = { more = 1 }");
        let own = start("secrets = ['A']\ndefaults = { N = '4' }\ncounts.X = { more = 2 }");
        let both =
            start("secrets = ['A', 'B']\ndefaults = { N = '4', Y = '2' }\ncounts.X = { more = 2 }");
        assert_eq!(own.over(earlier), both);
    }
}
