//! Gemfile.lock: every section that Bundler writes.
//!
//! What no fact needs (requirements, the sums themselves) is checked for its
//! shape and dropped. A section of a later Bundler is passed over, as Bundler
//! itself does.

use std::collections::BTreeSet;

use super::version::{Release, Version};
use crate::facts::Refusal;
use crate::facts::error::shown;

/// What a Gemfile.lock says.
#[derive(Debug, Default)]
pub struct Lock {
    /// Where gems come from, in order.
    pub sources: Vec<Source>,
    /// Each gem, once per platform variant.
    pub gems: Vec<Gem>,
    /// The platforms it was resolved for, each with its line.
    pub platforms: Vec<(String, usize)>,
    /// `DEPENDENCIES`: the gems that the Gemfile names, each with its line;
    /// `None` without the section.
    pub dependencies: Option<Vec<(String, usize)>>,
    /// `CHECKSUMS`; `None` without the section.
    pub checksums: Option<Checksums>,
    /// `RUBY VERSION`, with its line.
    pub ruby: Option<(Release, usize)>,
    /// `BUNDLED WITH`, with its line.
    pub bundler: Option<(String, usize)>,
}

/// A `GIT`, `PATH`, `GEM` or `PLUGIN SOURCE` section.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Which of them.
    pub kind: Kind,
    /// Its `remote:` lines, each with its line.
    pub remotes: Vec<(String, usize)>,
}

/// The kinds of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A repository.
    Git,
    /// A folder.
    Path,
    /// A gem server.
    Gem,
    /// A place that only a plugin of Bundler knows.
    Plugin,
}

/// The `CHECKSUMS` section.
#[derive(Debug)]
pub struct Checksums {
    /// The line of its heading.
    pub line: usize,
    /// Each gem that has a sum: its name and [`Gem::variant`].
    pub gems: BTreeSet<(String, String)>,
}

/// One gem: `nokogiri (1.18.2-x86_64-linux-gnu)`.
#[derive(Debug, PartialEq, Eq)]
pub struct Gem {
    /// Its name, as written.
    pub name: String,
    /// `1.18.2`.
    pub version: String,
    /// `x86_64-linux-gnu`; `None` for the variant that is built from source.
    pub platform: Option<String>,
    /// The names of the gems that it needs when it runs.
    pub needs: Vec<String>,
    /// Which of the sources it comes from.
    pub source: usize,
    /// The line.
    pub line: usize,
}

impl Gem {
    /// `1.18.2-x86_64-linux-gnu`; the version alone without a platform.
    #[must_use]
    pub fn variant(&self) -> String {
        match &self.platform {
            Some(platform) => format!("{}-{platform}", self.version),
            None => self.version.clone(),
        }
    }
}

/// Which part of the file a line belongs to.
enum Section {
    Source,
    Platforms,
    Dependencies,
    Checksums,
    Ruby,
    Bundled,
    Other,
}

/// What git writes into a file that it could not merge.
const CONFLICT: [&str; 4] = ["<<<<<<<", "=======", ">>>>>>>", "|||||||"];

/// Reads a Gemfile.lock.
///
/// # Errors
/// A merge conflict; a line that is not of its section's shape.
pub fn parse(text: &str) -> Result<Lock, Refusal> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lock = Lock::default();
    let mut section = Section::Other;
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim_end();
        if CONFLICT.iter().any(|marker| content.starts_with(marker)) {
            return Err(Refusal::at(
                line,
                "a merge conflict: settle it, then run `bundle lock` and commit the result",
            ));
        }
        if content.is_empty() {
            continue;
        }
        if !content.starts_with([' ', '\t']) {
            section = lock.open(content, line);
            continue;
        }
        let fine = match section {
            Section::Source => lock.source_line(content, line),
            Section::Platforms => {
                lock.platforms.push((content.trim().to_owned(), line));
                Some(())
            }
            Section::Dependencies => lock.dependency(content, line),
            Section::Checksums => lock.checksum(content),
            Section::Ruby => lock.ruby_line(content, line)?,
            Section::Bundled => {
                let version = content.trim();
                lock.bundler = Some((version.to_owned(), line));
                version.parse::<Version>().ok().map(drop)
            }
            Section::Other => Some(()),
        };
        if fine.is_none() {
            let content = shown(content.trim());
            let message = format!("`{content}` is not understood: run `bundle lock` again");
            return Err(Refusal::at(line, message));
        }
    }
    Ok(lock)
}

impl Lock {
    fn open(&mut self, heading: &str, line: usize) -> Section {
        let kind = match heading {
            "GIT" => Kind::Git,
            "PATH" => Kind::Path,
            "GEM" => Kind::Gem,
            "PLUGIN SOURCE" => Kind::Plugin,
            "PLATFORMS" => return Section::Platforms,
            "DEPENDENCIES" => {
                self.dependencies.get_or_insert_default();
                return Section::Dependencies;
            }
            "CHECKSUMS" => {
                self.checksums.get_or_insert(Checksums { line, gems: BTreeSet::new() });
                return Section::Checksums;
            }
            "RUBY VERSION" => return Section::Ruby,
            "BUNDLED WITH" => return Section::Bundled,
            _ => return Section::Other,
        };
        self.sources.push(Source { kind, remotes: Vec::new() });
        Section::Source
    }

    /// `  key: value`, `    gem (version)` or `      what it needs`.
    fn source_line(&mut self, content: &str, line: usize) -> Option<()> {
        match indent(content) {
            2 => {
                let (key, value) = content.trim().split_once(':')?;
                let source = self.sources.last_mut()?;
                if key == "remote" {
                    source.remotes.push((value.trim().to_owned(), line));
                }
                Some(())
            }
            4 => {
                let (name, version) = named(content)?;
                let version = version?;
                let (version, platform) = match version.split_once('-') {
                    Some((version, platform)) => (version, Some(platform.to_owned())),
                    None => (version, None),
                };
                version.parse::<Version>().ok()?;
                self.gems.push(Gem {
                    name: name.to_owned(),
                    version: version.to_owned(),
                    platform,
                    needs: Vec::new(),
                    source: self.sources.len().checked_sub(1)?,
                    line,
                });
                Some(())
            }
            6 => {
                let (name, _) = named(content)?;
                self.gems.last_mut()?.needs.push(name.to_owned());
                Some(())
            }
            _ => None,
        }
    }

    /// `ruby 3.3.8p144`, `ruby 3.1.4p0 (jruby 9.4.5.0)`.
    fn ruby_line(&mut self, content: &str, line: usize) -> Result<Option<()>, Refusal> {
        let Some(rest) = content.trim().strip_prefix("ruby ") else { return Ok(None) };
        let release = match rest.split_once('(') {
            Some((_, engine)) => {
                let engine = engine.trim_end_matches(')').trim();
                let Some((engine, version)) = engine.split_once(' ') else { return Ok(None) };
                Release::of_engine(engine, version)
            }
            None => rest.trim().parse().map_err(|message: String| Refusal::at(line, message))?,
        };
        self.ruby = Some((release, line));
        Ok(Some(()))
    }

    /// `  rails (~> 8.0)!`; the `!` says that its source is not the gem server.
    fn dependency(&mut self, content: &str, line: usize) -> Option<()> {
        let content = content.strip_suffix('!').unwrap_or(content);
        let (name, _) = (indent(content) == 2).then(|| named(content))??;
        self.dependencies.get_or_insert_default().push((name.to_owned(), line));
        Some(())
    }

    /// `  rack (3.1.0) sha256=…`; nothing after the version when it is not known.
    fn checksum(&mut self, content: &str) -> Option<()> {
        let (front, sums) = content.split_at(content.find(')')? + 1);
        let (name, variant) = named(front)?;
        let gem = (name.to_owned(), variant?.to_owned());
        match sums.trim() {
            "" => {}
            sums if sums.contains('=') => {
                self.checksums.as_mut()?.gems.insert(gem);
            }
            _ => return None,
        }
        Some(())
    }
}

fn indent(content: &str) -> usize {
    content.len() - content.trim_start_matches(' ').len()
}

/// The name and what stands in parentheses.
fn named(content: &str) -> Option<(&str, Option<&str>)> {
    let content = content.trim();
    let (name, version) = match content.split_once(' ') {
        None => (content, None),
        Some((name, rest)) => {
            (name, Some(rest.trim().strip_prefix('(')?.strip_suffix(')')?.trim()))
        }
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (!name.is_empty() && name.chars().all(allowed)).then_some((name, version))
}

#[cfg(test)]
mod tests;
