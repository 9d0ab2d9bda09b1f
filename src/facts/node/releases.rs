//! The Node releases that forge knows, and which of them an ask means.
//!
//! The table is pinned, so that `lts/*` is the same on every machine until
//! forge itself is updated. An exact version is taken as written, in the table
//! or not: whether it can be fetched is the step's to find out.

use std::collections::BTreeMap;
use std::str::FromStr;

use nodejs_semver::{Range, Version};

/// A version a line, then the name of its line of long-term support.
const TABLE: &str = include_str!("releases.txt");

/// What a file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `20.11.1`, `v20.11.1`.
    Exact(Version),
    /// `20`, `^20`, `>=18 <21`, `18 || 20`, `*`.
    Range(Range),
    /// `node`, `latest`, `current`.
    Newest,
    /// `lts/*`, `lts`, `stable`.
    Lts,
    /// `lts/iron`.
    Line(String),
    /// `lts/-1`: so many lines before the newest.
    Before(usize),
}

/// Neither a version, nor a range, nor an alias.
#[derive(Debug, PartialEq, Eq)]
pub struct NotUnderstood;

impl FromStr for Asked {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Asked, NotUnderstood> {
        let text = text.trim().to_ascii_lowercase();
        match text.as_str() {
            "node" | "latest" | "current" => return Ok(Asked::Newest),
            "lts" | "lts/*" | "stable" => return Ok(Asked::Lts),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("lts/").or(text.strip_prefix("lts-")) {
            return match name.strip_prefix('-') {
                Some(back) => back.parse().map(Asked::Before).map_err(|_| NotUnderstood),
                None => Ok(Asked::Line(name.to_owned())),
            };
        }
        if let Some(version) = exact(text.strip_prefix(['v', '=']).unwrap_or(&text)) {
            return Ok(Asked::Exact(version));
        }
        range(&text).map(Asked::Range).ok_or(NotUnderstood)
    }
}

/// Three numbers and nothing else.
fn exact(text: &str) -> Option<Version> {
    let numbers = || text.split('.');
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if numbers().count() != 3 || !numbers().all(digits) {
        return None;
    }
    text.parse().ok()
}

/// A range as npm reads it; `None` for a text with other words in it, which
/// npm's own parser passes over.
pub fn range(text: &str) -> Option<Range> {
    let word = |word: &str| {
        let mut letters = word.chars().skip_while(|c| "<>=~^|".contains(*c));
        match letters.next() {
            Some('v' | 'V') => letters.next().is_some_and(|c| c.is_ascii_digit()),
            Some('x' | 'X' | '*') => letters.next().is_none_or(|c| ".|".contains(c)),
            Some('-') => letters.next().is_none(),
            Some(c) => c.is_ascii_digit(),
            None => true,
        }
    };
    if !text.split_whitespace().all(word) {
        return None;
    }
    text.parse().ok()
}

/// The releases, and the names of the lines of long-term support by major.
pub struct Table {
    versions: Vec<Version>,
    lines: BTreeMap<u64, &'static str>,
}

impl Table {
    /// The pinned table.
    pub fn pinned() -> Table {
        let mut table = Table { versions: Vec::new(), lines: BTreeMap::new() };
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let Some(version) = words.next().and_then(exact) else { continue };
            if let Some(name) = words.next() {
                table.lines.insert(version.major(), name);
            }
            table.versions.push(version);
        }
        table
    }

    /// The release that is used: of those that will do, the newest of the
    /// newest line of long-term support, or else the newest.
    pub fn release(&self, asked: &Asked) -> Option<Version> {
        if let Asked::Exact(version) = asked {
            return Some(version.clone());
        }
        let supported = |version: &Version| self.lines.contains_key(&version.major());
        let fits = || self.versions.iter().filter(|version| self.allows(asked, version));
        if *asked == Asked::Newest {
            return fits().max().cloned();
        }
        fits().filter(|version| supported(version)).max().or_else(|| fits().max()).cloned()
    }

    /// Whether a release is what was asked for. `node` and `lts/*` move on, so
    /// every release, or every one of long-term support, was it at some time.
    pub fn allows(&self, asked: &Asked, version: &Version) -> bool {
        let line = self.lines.get(&version.major()).copied();
        match asked {
            Asked::Exact(exact) => exact == version,
            Asked::Range(range) => range.satisfies(version),
            Asked::Newest => true,
            Asked::Lts => line.is_some(),
            Asked::Line(name) => line == Some(name),
            Asked::Before(back) => {
                line.is_some() && line == self.lines.values().rev().nth(*back).copied()
            }
        }
    }

    /// `14, 16 and 18`.
    pub fn majors(&self) -> String {
        let mut majors: Vec<u64> = self.versions.iter().map(Version::major).collect();
        majors.sort_unstable();
        majors.dedup();
        let mut names: Vec<String> = majors.iter().map(u64::to_string).collect();
        let last = names.pop().unwrap_or_default();
        if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The release as `20.20.2`; `-` when none will do, `?` when not understood.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = match text.parse::<Asked>() {
            Ok(asked) => {
                Table::pinned().release(&asked).map_or("-".to_owned(), |found| found.to_string())
            }
            Err(NotUnderstood) => "?".to_owned(),
        };
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn exact_versions_are_taken_as_written() {
        check("20.11.1", "20.11.1");
        check(" v20.11.1\n", "20.11.1");
        check("=20.11.1", "20.11.1");
        check("20.15.0", "20.15.0");
        check("0.12.7", "0.12.7");
        check("99.1.2", "99.1.2");
        check("20.11.1-rc.1", "-");
        check("20.11.1.2", "?");
    }

    #[test]
    fn ranges() {
        check("20", "20.20.2");
        check("v20", "20.20.2");
        check("20.11", "20.11.1");
        check("20.x", "20.20.2");
        check("20.*", "20.20.2");
        check("=20", "20.20.2");
        check("^20", "20.20.2");
        check("^20.11.0", "20.20.2");
        check("~20.11.0", "20.11.1");
        check(">=18 <21", "20.20.2");
        check(">= 18", "24.21.0");
        check("18 || 20", "20.20.2");
        check("18||20", "20.20.2");
        check("18 - 20", "20.20.2");
        check("*", "24.21.0");
        check("x", "24.21.0");
        check("", "24.21.0");
        check("<16.1", "16.0.0");
    }

    #[test]
    fn long_term_support_comes_first() {
        check(">=18 <24", "22.23.3");
        check(">=22 <24 || >=26", "22.23.3");
        check("19", "19.8.1");
        check(">=23 <24", "23.11.1");
        check("26", "26.10.0");
        check(">=25", "26.10.0");
    }

    #[test]
    fn aliases() {
        check("lts/*", "24.21.0");
        check("lts", "24.21.0");
        check("stable", "24.21.0");
        check("lts/iron", "20.20.2");
        check("lts/Iron", "20.20.2");
        check("lts-hydrogen", "18.20.8");
        check("lts/-1", "22.23.3");
        check("lts/-2", "20.20.2");
        check("lts/-99", "-");
        check("lts/plutonium", "-");
        check("lts/-x", "?");
        check("node", "26.10.0");
        check("latest", "26.10.0");
        check("current", "26.10.0");
    }

    #[test]
    fn nothing_fits() {
        check("15.99", "-");
        check(">=99", "-");
        check("<12", "-");
    }

    #[test]
    fn rubbish() {
        for text in ["banana", "20 banana", "node 20", "\"20\"", "20,22", ">=20,<22", "vanilla"] {
            check(text, "?");
        }
        check(">=99999999999999999999", "?");
    }

    #[test]
    fn the_table_is_whole() {
        let table = Table::pinned();
        let lines: Vec<&str> = TABLE.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(table.versions.len(), lines.len());
        assert!(table.versions.is_sorted_by(|one, next| one < next));
        assert_eq!(table.majors(), "12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25 and 26");
        for line in lines {
            let major = line.split('.').next().and_then(|major| major.parse().ok());
            let name = major.and_then(|major: u64| table.lines.get(&major).copied());
            assert_eq!(line.split_once(' ').map(|(_, name)| name), name, "{line}");
        }
    }
}
