//! Gemfile.lock: every section that Bundler writes.
//!
//! What no fact needs (requirements of gems, checksums, dependencies) is
//! checked for its shape and dropped. A section of a later Bundler is passed
//! over, as Bundler itself does.

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

/// One gem: `nokogiri (1.18.2-x86_64-linux-gnu)`.
#[derive(Debug, PartialEq, Eq)]
pub struct Gem {
    /// Its name, as written.
    pub name: String,
    /// `1.18.2`.
    pub version: String,
    /// `x86_64-linux-gnu`; `None` for the variant that is built from source.
    pub platform: Option<String>,
    /// The line.
    pub line: usize,
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
            section = lock.open(content);
            continue;
        }
        let fine = match section {
            Section::Source => lock.source_line(content, line),
            Section::Platforms => {
                lock.platforms.push((content.trim().to_owned(), line));
                Some(())
            }
            Section::Dependencies => dependency(content),
            Section::Checksums => checksum(content),
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
    fn open(&mut self, heading: &str) -> Section {
        let kind = match heading {
            "GIT" => Kind::Git,
            "PATH" => Kind::Path,
            "GEM" => Kind::Gem,
            "PLUGIN SOURCE" => Kind::Plugin,
            "PLATFORMS" => return Section::Platforms,
            "DEPENDENCIES" => return Section::Dependencies,
            "CHECKSUMS" => return Section::Checksums,
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
                    line,
                });
                Some(())
            }
            6 => named(content).map(drop),
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
}

/// `  rails (~> 8.0)!`; the `!` says that its source is not the gem server.
fn dependency(content: &str) -> Option<()> {
    let content = content.strip_suffix('!').unwrap_or(content);
    (indent(content) == 2).then(|| named(content))?.map(drop)
}

/// `  rack (3.1.0) sha256=…`; nothing after the version when it is not known.
fn checksum(content: &str) -> Option<()> {
    let (front, sums) = content.split_at(content.find(')')? + 1);
    let sums_fine = sums.trim().is_empty() || sums.contains('=');
    let (_, version) = named(front)?;
    (sums_fine && version.is_some()).then_some(())
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
mod tests {
    use super::*;

    const LOCK: &str = "\
GIT
  remote: https://git.example/own.git
  revision: 0a1b
  branch: main
  specs:
    own (0.1.0)
      rack (>= 2, != 2.1)

PATH
  remote: engines/shop
  specs:
    shop (1.0.0.beta2)

PLUGIN SOURCE
  remote: https://plugin.example
  type: s3
  specs:

GEM
  remote: https://gems.example/
  remote: https://more.gems.example/
  specs:
    nokogiri (1.18.2)
      racc (~> 1.4)
    nokogiri (1.18.2-x86_64-linux-gnu)
      racc
    rack (3.1.0)

PLATFORMS
  arm64-darwin-23
  ruby
  x86_64-linux

DEPENDENCIES
  nokogiri
  own!
  shop (>= 1)!

NEW THING
    whatever: [

CHECKSUMS
  nokogiri (1.18.2-x86_64-linux-gnu) sha256=00
  rack (3.1.0)

RUBY VERSION
   ruby 3.3.8p144

BUNDLED WITH
   2.6.7
";

    #[track_caller]
    fn check(text: &str, expected: Result<&[&str], &str>) {
        let found = parse(text).map(|lock| {
            let gem = |gem: &Gem| {
                let platform = gem.platform.as_deref().unwrap_or("ruby");
                format!("{}: {} {} {platform}", gem.line, gem.name, gem.version)
            };
            let remotes = |source: &Source| {
                let texts: Vec<&str> =
                    source.remotes.iter().map(|(text, _)| text.as_str()).collect();
                format!("{:?} {}", source.kind, texts.join(" "))
            };
            let mut found: Vec<String> = lock.sources.iter().map(remotes).collect();
            found.extend(lock.gems.iter().map(gem));
            found.extend(lock.platforms.iter().map(|(text, line)| format!("{line}: {text}")));
            found.extend(lock.ruby.iter().map(|(ruby, line)| format!("{line}: {}", ruby.text)));
            found.extend(lock.bundler.iter().map(|(text, line)| format!("{line}: {text}")));
            found
        });
        let expected = expected.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect());
        assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn whole() {
        let expected = [
            "Git https://git.example/own.git",
            "Path engines/shop",
            "Plugin https://plugin.example",
            "Gem https://gems.example/ https://more.gems.example/",
            "6: own 0.1.0 ruby",
            "12: shop 1.0.0.beta2 ruby",
            "23: nokogiri 1.18.2 ruby",
            "25: nokogiri 1.18.2 x86_64-linux-gnu",
            "27: rack 3.1.0 ruby",
            "30: arm64-darwin-23",
            "31: ruby",
            "32: x86_64-linux",
            "47: 3.3.8",
            "50: 2.6.7",
        ];
        check(LOCK, Ok(&expected));
        check(&LOCK.replace('\n', "\r\n"), Ok(&expected));
        check("", Ok(&[]));
    }

    #[test]
    fn rubies() {
        check("RUBY VERSION\n   ruby 3.5.0.preview1\n", Ok(&["2: 3.5.0.preview1"]));
        check("RUBY VERSION\n  ruby 3.1.4p0 (jruby 9.4.5.0)\n", Ok(&["2: jruby-9.4.5.0"]));
        check("BUNDLED WITH\n  4.0.0.beta2\n", Ok(&["2: 4.0.0.beta2"]));
    }

    #[test]
    fn broken() {
        let conflict = "a merge conflict: settle it, then run `bundle lock` and commit the result";
        check("GEM\n  specs:\n<<<<<<< HEAD\n    rack (1)\n", Err(&format!("line 3: {conflict}")));
        check("GEM\n=======\n", Err(&format!("line 2: {conflict}")));
        let not = "is not understood: run `bundle lock` again";
        check("GEM\n  specs:\n    rack\n", Err(&format!("line 3: `rack` {not}")));
        check("GEM\n  specs:\n    rack (x)\n", Err(&format!("line 3: `rack (x)` {not}")));
        check("GEM\n  specs:\n   rack (1)\n", Err(&format!("line 3: `rack (1)` {not}")));
        check("GEM\n  specs:\n    ra/ck (1)\n", Err(&format!("line 3: `ra/ck (1)` {not}")));
        check("DEPENDENCIES\n  rack (1\n", Err(&format!("line 2: `rack (1` {not}")));
        check("CHECKSUMS\n  rack sha\n", Err(&format!("line 2: `rack sha` {not}")));
        check("BUNDLED WITH\n   x\n", Err(&format!("line 2: `x` {not}")));
        check("RUBY VERSION\n   3.3.8\n", Err(&format!("line 2: `3.3.8` {not}")));
        check(
            "RUBY VERSION\n   ruby x\n",
            Err("line 2: `x` is not a Ruby: write three numbers, such as `3.3.8`"),
        );
    }
}
