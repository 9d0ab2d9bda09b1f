//! The syntax of `Depends`, `Pre-Depends`, `Conflicts`, `Breaks` and `Provides`.
//!
//! ```text
//! field = group , group , …        every group must hold
//! group = relation | relation | …  one relation must hold, the first is preferred
//! relation = name[:qualifier] [(operator version)] [[architectures]] [<profiles>]
//! ```
//!
//! - Borrowed names, owned versions; nothing is looked up here.
//! - Build profiles are skipped: binary packages have none.
//! - The archaic `<` and `>` mean `<=` and `>=`, as in dpkg.

use std::fmt;

use thiserror::Error;

use super::version::{Version, VersionError};

/// Alternatives, the preferred one first; never empty.
pub type Group<'a> = Vec<Relation<'a>>;

/// One name with what it asks of the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The package or virtual package.
    pub name: &'a str,
    /// What stands after the colon.
    pub qualifier: Option<Qualifier<'a>>,
    /// The version asked for.
    pub constraint: Option<Constraint>,
    /// The architectures in brackets; empty means all.
    pub architectures: Vec<&'a str>,
}

/// Which architecture of a package may satisfy a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qualifier<'a> {
    /// `:any`: one that says `Multi-Arch: allowed`.
    Any,
    /// `:native`: that of the root.
    Native,
    /// `:amd64` and the like.
    Architecture(&'a str),
}

/// An operator and a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// How the two versions must compare.
    pub operator: Operator,
    /// The version on the right-hand side.
    pub version: Version,
}

/// How a version compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Before,
    /// `<=`
    UpTo,
    /// `=`
    Exactly,
    /// `>=`
    AtLeast,
    /// `>>`
    After,
}

/// Why a text is not a relation field.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelationError {
    /// A name that no package can have, or none.
    #[error("`{0}` has no package name")]
    Name(String),
    /// `<<`, `<=`, `=`, `>=` and `>>` are known.
    #[error("`{0}` has no known version operator")]
    Operator(String),
    /// A bracket that is not closed, or text where none may be.
    #[error("`{0}` is not a relation")]
    Syntax(String),
    /// The version is none.
    #[error(transparent)]
    Version(#[from] VersionError),
}

/// Parses a whole field: groups in order. An empty field has no groups.
///
/// # Errors
/// The first [`RelationError`].
pub fn parse(field: &str) -> Result<Vec<Group<'_>>, RelationError> {
    field
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(|group| group.split('|').map(|text| relation(text.trim())).collect())
        .collect()
}

/// Parses one relation, such as what a user asks for: `libpq5 (>= 17)`.
///
/// # Errors
/// [`RelationError`].
pub fn relation(text: &str) -> Result<Relation<'_>, RelationError> {
    let syntax = || RelationError::Syntax(text.to_owned());
    let name_end = text.find([' ', '\t', '\n', '(', '[', '<', ':']).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_end);
    if !is_package_name(name) {
        return Err(RelationError::Name(text.to_owned()));
    }
    let mut relation =
        Relation { name, qualifier: None, constraint: None, architectures: Vec::new() };
    if let Some(after) = rest.strip_prefix(':') {
        let end = after.find([' ', '\t', '\n', '(', '[', '<']).unwrap_or(after.len());
        relation.qualifier = Some(match &after[..end] {
            "any" => Qualifier::Any,
            "native" => Qualifier::Native,
            "" => return Err(syntax()),
            architecture => Qualifier::Architecture(architecture),
        });
        rest = &after[end..];
    }
    loop {
        rest = rest.trim_start();
        let Some(open) = rest.chars().next() else {
            return Ok(relation);
        };
        let close = match open {
            '(' => ')',
            '[' => ']',
            '<' => '>',
            _ => return Err(syntax()),
        };
        let (inside, after) = rest[1..].split_once(close).ok_or_else(syntax)?;
        rest = after;
        match open {
            '(' if relation.constraint.is_none() => {
                relation.constraint = Some(constraint(inside, text)?)
            }
            '[' => relation.architectures = inside.split_whitespace().collect(),
            '<' => {}
            _ => return Err(syntax()),
        }
    }
}

fn constraint(inside: &str, whole: &str) -> Result<Constraint, RelationError> {
    let inside = inside.trim();
    let end = inside.find(|c| !"<>=".contains(c)).unwrap_or(inside.len());
    let (operator, version) = inside.split_at(end);
    let operator = match operator {
        "<<" => Operator::Before,
        "<=" | "<" => Operator::UpTo,
        "=" => Operator::Exactly,
        ">=" | ">" => Operator::AtLeast,
        ">>" => Operator::After,
        _ => return Err(RelationError::Operator(whole.to_owned())),
    };
    Ok(Constraint { operator, version: version.trim().parse()? })
}

/// Whether `name` is made of the characters of a package name (policy 5.6.1),
/// so that it can be part of a file name.
#[must_use]
pub fn is_package_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

impl Constraint {
    /// Whether `version` is one of those asked for.
    #[must_use]
    pub fn holds(&self, version: &Version) -> bool {
        match self.operator {
            Operator::Before => *version < self.version,
            Operator::UpTo => *version <= self.version,
            Operator::Exactly => *version == self.version,
            Operator::AtLeast => *version >= self.version,
            Operator::After => *version > self.version,
        }
    }
}

impl Relation<'_> {
    /// Whether a package of `version` is one of those asked for.
    #[must_use]
    pub fn accepts(&self, version: &Version) -> bool {
        self.constraint.as_ref().is_none_or(|constraint| constraint.holds(version))
    }

    /// Whether the relation exists at all on `architecture`.
    #[must_use]
    pub fn applies_to(&self, architecture: &str) -> bool {
        let negated = self.architectures.iter().filter_map(|name| name.strip_prefix('!'));
        if self.architectures.is_empty() {
            true
        } else if self.architectures.iter().any(|name| name.starts_with('!')) {
            negated.into_iter().all(|name| !matches_architecture(name, architecture))
        } else {
            self.architectures.iter().any(|name| matches_architecture(name, architecture))
        }
    }
}

/// `any` and `linux-any` stand for every architecture that forge can build for.
fn matches_architecture(pattern: &str, architecture: &str) -> bool {
    pattern == architecture
        || pattern == "any"
        || pattern == "linux-any"
        || pattern.strip_prefix("any-") == Some(architecture)
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operator::Before => "<<",
            Operator::UpTo => "<=",
            Operator::Exactly => "=",
            Operator::AtLeast => ">=",
            Operator::After => ">>",
        })
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.qualifier {
            None => {}
            Some(Qualifier::Any) => f.write_str(":any")?,
            Some(Qualifier::Native) => f.write_str(":native")?,
            Some(Qualifier::Architecture(name)) => write!(f, ":{name}")?,
        }
        if let Some(Constraint { operator, version }) = &self.constraint {
            write!(f, " ({operator} {version})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(field: &str, expected: Result<&[&[&str]], &str>) {
        let found = parse(field).map_err(|err| err.to_string()).map(|groups| {
            let text = |group: Group<'_>| group.iter().map(ToString::to_string).collect::<Vec<_>>();
            groups.into_iter().map(text).collect::<Vec<_>>()
        });
        let expected = expected
            .map(|groups| {
                let text = |group: &&[&str]| group.iter().map(|&name| name.to_owned()).collect();
                groups.iter().map(text).collect::<Vec<Vec<String>>>()
            })
            .map_err(str::to_owned);
        assert_eq!(found, expected, "{field}");
    }

    #[test]
    fn fields() {
        check("", Ok(&[]));
        check("a", Ok(&[&["a"]]));
        check("a, b | c,\n d (>= 1:2-3) ,", Ok(&[&["a"], &["b", "c"], &["d (>= 1:2-3)"]]));
        check("a(>=1)|b ( << 2 )", Ok(&[&["a (>= 1)", "b (<< 2)"]]));
        check("a (> 1), b (< 2), c (= 3)", Ok(&[&["a (>= 1)"], &["b (<= 2)"], &["c (= 3)"]]));
        check(
            "python3:any (>= 3.5~), perl:native, x:i386",
            Ok(&[&["python3:any (>= 3.5~)"], &["perl:native"], &["x:i386"]]),
        );
        check("a [amd64 !i386] <!nocheck> <x>", Ok(&[&["a"]]));
        check("| a", Err("`` has no package name"));
        check("a | ", Err("`` has no package name"));
        check("../a", Err("`../a` has no package name"));
        check("a (~ 1)", Err("`a (~ 1)` has no known version operator"));
        check("a (>= )", Err("version `` has no upstream part"));
        check("a (>= 1", Err("`a (>= 1` is not a relation"));
        check("a b", Err("`a b` is not a relation"));
        check("a (= 1) (= 2)", Err("`a (= 1) (= 2)` is not a relation"));
    }

    #[test]
    fn architectures() {
        for (text, architecture, expected) in [
            ("a", "amd64", true),
            ("a [amd64 arm64]", "amd64", true),
            ("a [i386]", "amd64", false),
            ("a [!amd64]", "amd64", false),
            ("a [!i386 !arm64]", "amd64", true),
            ("a [linux-any]", "amd64", true),
            ("a [any-arm64]", "amd64", false),
        ] {
            let found = relation(text).unwrap().applies_to(architecture);
            assert_eq!(found, expected, "{text} on {architecture}");
        }
    }

    #[test]
    fn operators() {
        for (text, version, expected) in [
            ("a (<< 2)", "2", false),
            ("a (<< 2)", "2~", true),
            ("a (<= 2)", "2.0", false),
            ("a (= 2)", "0:2", true),
            ("a (>= 2)", "2", true),
            ("a (>> 2)", "2", false),
            ("a", "2", true),
        ] {
            let found = relation(text).unwrap().accepts(&version.parse().unwrap());
            assert_eq!(found, expected, "{text} with {version}");
        }
    }
}
