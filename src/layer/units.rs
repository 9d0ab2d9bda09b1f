//! Which files of a tree belong together: units, found by rules that are data.
//!
//! A rule is a regular expression on paths without leading slash, and what files say that match
//! it. Of several rules the first that has an answer for a file counts:
//! - The path says it: the file belongs to the unit that the group `unit` captures.
//! - The content says it: the file is a list, CSV with a path in the first field, relative to what
//!   the group `from` captures. What it lists belongs to the unit that the group `unit` captures.
//! - Another file says it, which is named with the expression's groups.
//!
//! Names of units are compared in lower case and with `-` for each run of `-`, `_` and `.`: so a
//! package whose authors change their mind about them stays where it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::bytes::{Captures, Regex};

use crate::tree::{Node, Tree};

/// How some files of a tree are known to belong to a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The expression.
    pub path: String,
    /// What the files are that match it.
    pub says: Says,
}

/// What a file says about units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// Its path says to which it belongs.
    Unit,
    /// It lists files that belong to one.
    List,
    /// It belongs where this file belongs; `${group}` is what a group captures.
    Beside(String),
}

/// The number of a rule → path → unit.
type Listed = BTreeMap<usize, BTreeMap<Vec<u8>, Arc<str>>>;

/// Rules, ready for use.
pub(super) struct Units<'r> {
    rules: Vec<(Regex, &'r Says)>,
}

impl Units<'_> {
    /// # Errors
    /// An expression that is none.
    pub(super) fn new(rules: &[Rule]) -> Result<Units<'_>, regex::Error> {
        let compiled = rules.iter().map(|rule| Ok((Regex::new(&rule.path)?, &rule.says)));
        Ok(Units { rules: compiled.collect::<Result<_, regex::Error>>()? })
    }

    /// The unit of each entry of the tree that has one, folders excepted that are not empty:
    /// they are in every part that has something in them. Names of one file stay together, with
    /// the first. `read` gives the content of a file.
    ///
    /// # Errors
    /// That of `read`.
    pub(super) fn of<'t, E>(
        &self,
        tree: &'t Tree,
        read: impl Fn(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<BTreeMap<&'t [u8], Arc<str>>, E> {
        let listed = self.listed(tree, read)?;
        let mut units = BTreeMap::new();
        for (path, node) in &tree.entries {
            let named = match node {
                Node::HardLink { to } => to,
                Node::Directory { .. } if tree.has_below(path) => continue,
                _ => path,
            };
            if let Some(unit) = self.unit(named, &listed, true) {
                units.insert(path.as_slice(), unit);
            }
        }
        Ok(units)
    }

    /// What lists say. Of two lists that name one file the first counts.
    fn listed<E>(
        &self,
        tree: &Tree,
        read: impl Fn(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Listed, E> {
        let mut listed = Listed::new();
        let lists = |(_, (_, says)): &(usize, &(Regex, &Says))| **says == Says::List;
        for (number, (expression, _)) in self.rules.iter().enumerate().filter(lists) {
            let listed = listed.entry(number).or_default();
            for (path, node) in &tree.entries {
                let (Node::File { .. } | Node::HardLink { .. }) = node else { continue };
                let Some(captures) = expression.captures(path) else { continue };
                let Some(unit) = unit_name(&captures) else { continue };
                let from = captures.name("from").map_or(&b""[..], |from| from.as_bytes());
                for line in read(path)?.split(|byte| *byte == b'\n') {
                    if let Some(file) = joined(from, &first_field(line)) {
                        listed.entry(file).or_insert_with(|| Arc::clone(&unit));
                    }
                }
            }
        }
        Ok(listed)
    }

    fn unit(&self, path: &[u8], listed: &Listed, may_follow: bool) -> Option<Arc<str>> {
        self.rules.iter().enumerate().find_map(|(number, (expression, says))| match says {
            Says::Unit => unit_name(&expression.captures(path)?),
            Says::List => listed.get(&number)?.get(path).cloned(),
            Says::Beside(file) if may_follow => {
                let mut other = Vec::new();
                expression.captures(path)?.expand(file.as_bytes(), &mut other);
                self.unit(&other, listed, false)
            }
            Says::Beside(_) => None,
        })
    }
}

fn unit_name(captures: &Captures<'_>) -> Option<Arc<str>> {
    let unit = std::str::from_utf8(captures.name("unit")?.as_bytes()).ok()?;
    let mut name = String::with_capacity(unit.len());
    for character in unit.to_lowercase().chars() {
        match character {
            '-' | '_' | '.' if name.ends_with('-') => {}
            '-' | '_' | '.' => name.push('-'),
            other => name.push(other),
        }
    }
    (!name.is_empty()).then(|| name.into())
}

/// The first field of a line of CSV (RFC 4180): in quotes, of which one within is written twice,
/// when it holds a comma or a quote.
fn first_field(line: &[u8]) -> Vec<u8> {
    let Some(quoted) = line.strip_prefix(b"\"") else {
        let field = line.split(|byte| *byte == b',').next().unwrap_or(line);
        return field.strip_suffix(b"\r").unwrap_or(field).to_vec();
    };
    let mut field = Vec::new();
    let mut rest = quoted.iter().peekable();
    while let Some(byte) = rest.next() {
        if *byte == b'"' && rest.next_if(|next| **next == b'"').is_none() {
            break;
        }
        field.push(*byte);
    }
    field
}

/// The path of `file` as seen from the folder `from`; `None` for what leads outside of the tree.
fn joined(from: &[u8], file: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let start = if file.starts_with(b"/") { &b""[..] } else { from };
    for part in start.split(|byte| *byte == b'/').chain(file.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::digest::Digest;

    fn file(size: u64) -> Node {
        Node::File { mode: 0o644, size, digest: Digest::of(b"") }
    }

    fn rule(path: &str, says: Says) -> Rule {
        Rule { path: path.to_owned(), says }
    }

    /// The units of a tree of empty files, folders (`x/`) and hard links (`x=y`).
    #[track_caller]
    fn check(rules: &[Rule], paths: &[(&str, Option<&str>)], lists: &[(&str, &str)]) {
        let mut tree = Tree::default();
        for (path, _) in paths {
            let (path, node) = match (path.split_once('='), path.strip_suffix('/')) {
                (Some((path, to)), _) => (path, Node::HardLink { to: to.into() }),
                (_, Some(path)) => (path, Node::Directory { mode: 0o755, opaque: false }),
                _ => (*path, file(0)),
            };
            tree.entries.insert(path.into(), node);
        }
        let lists: BTreeMap<&[u8], &str> =
            lists.iter().map(|(path, text)| (path.as_bytes(), *text)).collect();
        let read = |path: &[u8]| {
            let text = lists.get(path).ok_or(io::ErrorKind::NotFound)?;
            Ok::<_, io::Error>(text.as_bytes().to_vec())
        };
        let units = Units::new(rules).expect("expressions").of(&tree, read).expect("read");
        for (path, expected) in paths {
            let path = path.split('=').next().unwrap_or(path).trim_end_matches('/');
            assert_eq!(units.get(path.as_bytes()).map(AsRef::as_ref), *expected, "{path}");
        }
    }

    #[test]
    fn by_path() {
        check(
            &[rule("^gems/(?<unit>[^/]+?)-[0-9.]+(?:/|$)", Says::Unit)],
            &[
                ("gems/http_parser.rb-0.8.0/a", Some("http-parser-rb")),
                ("gems/Two--Ways-1/a", Some("two-ways")),
                ("gems/empty-1.0/", Some("empty")),
                ("gems/", None),
                ("bin/rake", None),
                ("z=gems/Two--Ways-1/a", Some("two-ways")),
            ],
            &[],
        );
    }

    #[test]
    fn by_list() {
        let rules = [
            rule("^(?<from>site/)(?<unit>[^/]+?)-[^/-]+\\.dist-info/RECORD$", Says::List),
            rule(
                "^(?<folder>.*/)__pycache__/(?<module>[^/.]+)\\.[^/]+\\.pyc$",
                Says::Beside("${folder}${module}.py".to_owned()),
            ),
        ];
        check(
            &rules,
            &[
                ("bin/run", Some("pyyaml")),
                ("site/PyYAML-6.0.dist-info/RECORD", Some("pyyaml")),
                ("site/other-1.dist-info/RECORD", Some("other")),
                ("site/__pycache__/six.cpython-313.pyc", Some("other")),
                ("site/__pycache__/odd.cpython-313.pyc", None),
                ("site/six.py", Some("other")),
                ("site/yaml/__init__.py", Some("pyyaml")),
                ("site/yaml/a, \"b\".py", Some("pyyaml")),
            ],
            &[
                (
                    "site/PyYAML-6.0.dist-info/RECORD",
                    "../bin/run,sha256=x,1\r\nPyYAML-6.0.dist-info/RECORD,,\n\"yaml/a, \"\"b\"\".py\",,\n\
                     yaml/__init__.py,,\n../../../outside,,\n",
                ),
                (
                    "site/other-1.dist-info/RECORD",
                    // What two list belongs to the first.
                    "six.py,,\nother-1.dist-info/RECORD,,\nyaml/__init__.py,,\n",
                ),
            ],
        );
    }
}
