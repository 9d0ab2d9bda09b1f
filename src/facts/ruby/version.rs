//! Which Ruby is asked for: versions and requirements as RubyGems orders them,
//! and the files that name one version.
//!
//! A requirement is what Bundler enforces when it installs and when the
//! application starts. `3.3` there means exactly 3.3.0, as it does in Bundler.

use std::cmp::Ordering;
use std::str::FromStr;

use crate::facts::error::shown;
use crate::facts::{Refusal, tools};

/// A version of RubyGems: `3.3.8`, `3.5.0.preview1`.
#[derive(Clone, Debug, Default)]
pub struct Version(Vec<Segment>);

/// The order of the variants is the order of RubyGems: letters mean "before".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Word(String),
    Number(u64),
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        parse_version(text).ok_or_else(|| format!("`{}` is not a version", shown(text)))
    }
}

fn parse_version(text: &str) -> Option<Version> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let mut segments = Vec::new();
    for part in text.replace('-', ".pre.").split('.') {
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let mut rest = part;
        while let Some(first) = rest.chars().next() {
            let digits = first.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
            let (run, after) = rest.split_at(end);
            segments.push(match digits {
                true => Segment::Number(run.parse().ok()?),
                false => Segment::Word(run.to_owned()),
            });
            rest = after;
        }
    }
    Some(Version(segments))
}

impl Version {
    /// The numbers before the first letters.
    #[must_use]
    pub fn release(&self) -> Version {
        let number = |segment: &&Segment| matches!(segment, Segment::Number(_));
        Version(self.0.iter().take_while(number).cloned().collect())
    }

    /// The first release that `~>` excludes: 3.4 for `3.3.8`, 4 for `3.3`.
    fn bump(&self) -> Version {
        let Version(mut segments) = self.release();
        if segments.len() > 1 {
            segments.pop();
        }
        if let Some(Segment::Number(last)) = segments.last_mut() {
            *last = last.saturating_add(1);
        }
        Version(segments)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        let zero = Segment::Number(0);
        let longest = self.0.len().max(other.0.len());
        let at = |version: &Version, index| version.0.get(index).unwrap_or(&zero).clone();
        (0..longest)
            .map(|index| at(self, index).cmp(&at(other, index)))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

/// Constraints that must all hold: `~> 3.3.0`, `!= 3.3.5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// As written, joined by commas.
    pub text: String,
    parts: Vec<(&'static str, Version)>,
}

/// Longer operators first, so that `>=` is not read as `>`.
const OPERATORS: [&str; 7] = ["~>", ">=", "<=", "!=", "=", ">", "<"];

impl Requirement {
    /// Reads constraints, each `<operator> <version>` or a version alone.
    ///
    /// # Errors
    /// A sentence about the first that is neither.
    pub fn new(constraints: &[String]) -> Result<Requirement, String> {
        let split = constraints.iter().flat_map(|constraint| constraint.split(','));
        let parts = split.map(constraint).collect::<Result<Vec<_>, String>>()?;
        Ok(Requirement { text: constraints.join(", "), parts })
    }

    /// Whether this Ruby will do.
    #[must_use]
    pub fn allows(&self, version: &Version) -> bool {
        self.parts.iter().all(|(operator, asked)| match *operator {
            "~>" => version >= asked && version.release() < asked.bump(),
            ">=" => version >= asked,
            "<=" => version <= asked,
            "!=" => version != asked,
            ">" => version > asked,
            "<" => version < asked,
            _ => version == asked,
        })
    }

    /// Whether everything that will do is this version or newer.
    #[must_use]
    pub fn is_from(&self, version: &Version) -> bool {
        let lower = |operator: &str| ["~>", ">=", ">", "="].contains(&operator);
        self.parts.iter().any(|(operator, asked)| lower(operator) && asked >= version)
    }
}

fn constraint(text: &str) -> Result<(&'static str, Version), String> {
    let text = text.trim();
    let operator = OPERATORS.into_iter().find(|operator| text.starts_with(operator));
    let version = text.strip_prefix(operator.unwrap_or_default()).unwrap_or(text).trim();
    match version.parse() {
        Ok(version) => Ok((operator.unwrap_or("="), version)),
        Err(_) => Err(format!(
            "`{}` is not a requirement: write a version, such as `~> 3.3.0`",
            shown(text)
        )),
    }
}

/// One Ruby: `3.3.8`, `ruby-3.3.8`, `jruby-9.4.5.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The version without `ruby-`; with the engine when it is another.
    pub text: String,
    /// `None` when the engine is not CRuby.
    version: Option<Version>,
}

impl Release {
    /// Whether it is that version of CRuby.
    #[must_use]
    pub fn is(&self, version: &Version) -> bool {
        self.version.as_ref() == Some(version)
    }

    /// Whether both can be one Ruby: `3.3` and `3.3.8` can.
    #[must_use]
    pub fn may_be(&self, other: &Release) -> bool {
        match (&self.version, &other.version) {
            (Some(one), Some(other)) => one.0.iter().zip(&other.0).all(|(one, other)| one == other),
            _ => self.text == other.text,
        }
    }

    /// The version of CRuby, when all three numbers are written.
    #[must_use]
    pub fn whole(&self) -> Option<&Version> {
        self.version.as_ref().filter(|version| version.0.len() >= 3)
    }

    /// Whether it is a CRuby older than that.
    #[must_use]
    pub fn is_before(&self, version: &Version) -> bool {
        self.version.as_ref().is_some_and(|own| own < version)
    }

    /// Whether it is a CRuby.
    #[must_use]
    pub fn is_cruby(&self) -> bool {
        self.version.is_some()
    }

    /// `version` as `engine` runs it: `9.4.5.0` of `jruby`.
    #[must_use]
    pub fn of_engine(engine: &str, version: &str) -> Release {
        Release { text: format!("{engine}-{version}"), version: None }
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Release, String> {
        let bare = text.split('@').next().unwrap_or_default().trim();
        let number = bare.strip_prefix("ruby-").unwrap_or(bare);
        if let Some((engine, version)) = number.split_once('-')
            && engine.starts_with(|first: char| first.is_ascii_alphabetic())
            && version.starts_with(|first: char| first.is_ascii_digit())
        {
            return Ok(Release::of_engine(engine, version));
        }
        let number = without_patch_level(number);
        match number.parse() {
            Ok(version) => Ok(Release { text: number.to_owned(), version: Some(version) }),
            Err(_) => Err(format!(
                "`{}` is not a Ruby: write three numbers, such as `3.3.8`",
                shown(bare)
            )),
        }
    }
}

/// `3.3.8p144` and `2.0.0-p353` without the patch level, which no Ruby of the
/// last ten years needs to be told apart.
fn without_patch_level(text: &str) -> &str {
    match text.rsplit_once('p') {
        Some((front, level))
            if !level.is_empty()
                && level.bytes().all(|byte| byte.is_ascii_digit())
                && front.ends_with(|last: char| last.is_ascii_digit() || last == '-') =>
        {
            front.strip_suffix('-').unwrap_or(front)
        }
        _ => text,
    }
}

/// `.ruby-version`: the first line that is not a comment.
///
/// # Errors
/// No version, or one that cannot be read.
pub fn ruby_version_file(text: &str) -> Result<(Release, usize), Refusal> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\0') {
        return Err(Refusal::whole("looks like UTF-16: save the file as UTF-8"));
    }
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.split('#').next().unwrap_or_default().trim();
        if !content.is_empty() {
            let release = content.parse().map_err(|message: String| Refusal::at(line, message))?;
            return Ok((release, line));
        }
    }
    Err(Refusal::whole("names no version: write three numbers, such as `3.3.8`"))
}

/// `.tool-versions`: the version of `ruby`, with its line. `None` when there is
/// none, or it leaves the choice to the machine.
///
/// # Errors
/// A version that cannot be read.
pub fn tool_versions(text: &str) -> Result<Option<(Release, usize)>, Refusal> {
    tools::tool_versions(text, "ruby").map_or(Ok(None), of_a_tool)
}

/// `mise.toml`: the version of `ruby`, likewise.
///
/// # Errors
/// Not TOML; otherwise as [`tool_versions`].
pub fn mise(text: &str) -> Result<Option<(Release, usize)>, Refusal> {
    tools::mise(text, "ruby")?.map_or(Ok(None), of_a_tool)
}

fn of_a_tool((word, line): (String, usize)) -> Result<Option<(Release, usize)>, Refusal> {
    word.parse()
        .map(|release| Some((release, line)))
        .map_err(|message: String| Refusal::at(line, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn order(smaller: &str, larger: &str, expected: Ordering) {
        let found = smaller.parse::<Version>().map(|version| Ok(version.cmp(&larger.parse()?)));
        assert_eq!(found, Ok(Ok::<_, String>(expected)));
    }

    #[test]
    fn versions_are_ordered_as_rubygems_does() {
        order("3.3.8", "3.3.10", Ordering::Less);
        order("3.3", "3.3.0", Ordering::Equal);
        order("3.4.0.rc1", "3.4.0", Ordering::Less);
        order("3.4.0-preview1", "3.4.0", Ordering::Less);
        order("3.4.0.preview2", "3.4.0.rc1", Ordering::Less);
        order("3.4.0.rc2", "3.4.0.rc10", Ordering::Less);
        for text in ["", "x", "3..1", "3.", "3.é", "99999999999999999999", "v3", "3 1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[track_caller]
    fn allows(constraints: &[&str], expected: Result<&str, &str>) {
        let constraints: Vec<String> = constraints.iter().map(|c| (*c).to_owned()).collect();
        let found = Requirement::new(&constraints).map(|requirement| {
            let versions = ["3.1.2", "3.3.0", "3.3.8", "3.4.0.rc1", "3.4.1", "4.0.0"];
            let fits = |text: &&str| text.parse().is_ok_and(|version| requirement.allows(&version));
            versions.into_iter().filter(fits).collect::<Vec<&str>>().join(" ")
        });
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn requirements() {
        allows(&["3.3.8"], Ok("3.3.8"));
        allows(&["3.3"], Ok("3.3.0"));
        allows(&["= 3.3.8"], Ok("3.3.8"));
        allows(&["~> 3.3.0"], Ok("3.3.0 3.3.8"));
        allows(&["~>3.3"], Ok("3.3.0 3.3.8 3.4.0.rc1 3.4.1"));
        allows(&["~> 3"], Ok("3.1.2 3.3.0 3.3.8 3.4.0.rc1 3.4.1"));
        allows(&["~> 3.3.1"], Ok("3.3.8"));
        allows(&[">= 3.1", "< 3.4"], Ok("3.1.2 3.3.0 3.3.8 3.4.0.rc1"));
        allows(&[">= 3.1, < 3.3.8"], Ok("3.1.2 3.3.0"));
        allows(&["> 3.3.0", "<= 3.4.1", "!= 3.3.8"], Ok("3.4.0.rc1 3.4.1"));
        allows(&[], Ok("3.1.2 3.3.0 3.3.8 3.4.0.rc1 3.4.1 4.0.0"));
        let hint = "is not a requirement: write a version, such as `~> 3.3.0`";
        allows(&["^3.3"], Err(&format!("`^3.3` {hint}")));
        allows(&[""], Err(&format!("`` {hint}")));
    }

    #[track_caller]
    fn file(text: &str, expected: Result<(&str, usize, bool), &str>) {
        let found = ruby_version_file(text).map(|(release, line)| {
            let cruby = release.is_cruby();
            (release.text, line, cruby)
        });
        let expected = expected.map(|(text, line, cruby)| (text.to_owned(), line, cruby));
        assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn ruby_version() {
        file("3.3.8\n", Ok(("3.3.8", 1, true)));
        file("# why\nruby-3.3.8@blog # x\n", Ok(("3.3.8", 2, true)));
        file("2.0.0-p353", Ok(("2.0.0", 1, true)));
        file("3.3.8p144", Ok(("3.3.8", 1, true)));
        file("3.5.0-preview1", Ok(("3.5.0-preview1", 1, true)));
        file("3.3", Ok(("3.3", 1, true)));
        file("jruby-9.4.5.0", Ok(("jruby-9.4.5.0", 1, false)));
        file("truffleruby+graalvm-23.1", Ok(("truffleruby+graalvm-23.1", 1, false)));
        let hint = "is not a Ruby: write three numbers, such as `3.3.8`";
        file("banana", Err(&format!("line 1: `banana` {hint}")));
        file("\n\"3.3\"", Err(&format!("line 2: `\"3.3\"` {hint}")));
        file("", Err("names no version: write three numbers, such as `3.3.8`"));
        file("3\0", Err("looks like UTF-16: save the file as UTF-8"));
    }

    #[track_caller]
    fn tool(found: Result<Option<(Release, usize)>, Refusal>, expected: Option<(&str, usize)>) {
        let found = found.map(|found| found.map(|(release, line)| (release.text, line)));
        assert_eq!(found, Ok(expected.map(|(version, line)| (version.to_owned(), line))));
    }

    #[test]
    fn tools() {
        tool(tool_versions("nodejs 20\nruby 3.3.1 # x\n"), Some(("3.3.1", 2)));
        tool(tool_versions("ruby system"), None);
        tool(tool_versions("python 3.12"), None);
        assert!(tool_versions("ruby banana").is_err());
        tool(mise("[tools]\nruby = \"3.3\"\n"), Some(("3.3", 2)));
        tool(mise("[tools]\nruby = [\"3.3\", \"3.2\"]\n"), Some(("3.3", 2)));
        tool(mise("[tools]\nruby = { version = \"latest\" }\n"), None);
        tool(mise("[env]\nA = 1\n"), None);
    }
}
