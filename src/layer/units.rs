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

use regex::bytes::{Captures, Regex};

use crate::memory::Long;
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

/// Which entries of a tree belong to which unit.
pub(super) struct Assigned {
    /// The units' names.
    pub(super) names: Vec<String>,
    /// For each entry of the tree one more than the number of its unit's name; 0 where it has none.
    pub(super) units: Long<usize>,
}

/// Units by number.
#[derive(Default)]
struct Names(BTreeMap<String, usize>);

impl Names {
    fn number(&mut self, name: String) -> usize {
        let next = self.0.len();
        *self.0.entry(name).or_insert(next)
    }
}

/// What lists say of one rule.
#[derive(Default)]
struct Listed {
    /// For each entry of the tree one more than the number of its unit; 0 where none is said.
    there: Long<usize>,
    /// Path → unit, of what the tree does not have.
    others: BTreeMap<Vec<u8>, usize>,
}

/// The number of a rule → what lists say.
type Lists = BTreeMap<usize, Listed>;

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
    pub(super) fn of<E>(
        &self,
        tree: &Tree,
        read: impl Fn(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Assigned, E> {
        let mut names = Names::default();
        let lists = self.lists(tree, read, &mut names)?;
        let mut unit = |(path, node): (&[u8], Node<'_>)| match node {
            Node::HardLink { to } => self.unit(tree, to, &lists, &mut names, true),
            Node::Directory { .. } if tree.has_below(path) => None,
            _ => self.unit(tree, path, &lists, &mut names, true),
        };
        let units = tree.iter().map(|entry| unit(entry).map_or(0, |unit| unit + 1)).collect();
        let mut by_number = vec![String::new(); names.0.len()];
        for (name, number) in names.0 {
            by_number[number] = name;
        }
        Ok(Assigned { names: by_number, units })
    }

    /// What lists say. Of two lists that name one file the first counts.
    fn lists<E>(
        &self,
        tree: &Tree,
        read: impl Fn(&[u8]) -> Result<Vec<u8>, E>,
        names: &mut Names,
    ) -> Result<Lists, E> {
        let mut lists = Lists::new();
        let are_lists = |(_, (_, says)): &(usize, &(Regex, &Says))| **says == Says::List;
        for (number, (expression, _)) in self.rules.iter().enumerate().filter(are_lists) {
            let listed = lists.entry(number).or_default();
            listed.there = (0..tree.len()).map(|_| 0).collect();
            for (path, node) in tree.iter() {
                let (Node::File { .. } | Node::HardLink { .. }) = node else { continue };
                let Some(captures) = expression.captures(path) else { continue };
                let Some(unit) = unit_name(&captures) else { continue };
                let unit = names.number(unit);
                let from = captures.name("from").map_or(&b""[..], |from| from.as_bytes());
                for line in read(path)?.split(|byte| *byte == b'\n') {
                    let Some(file) = joined(from, &first_field(line)) else { continue };
                    match tree.find(&file) {
                        Ok(there) if *listed.there.at(there) == 0 => {
                            listed.there.set(there, unit + 1);
                        }
                        Ok(_) => {}
                        Err(_) => {
                            listed.others.entry(file).or_insert(unit);
                        }
                    }
                }
            }
        }
        Ok(lists)
    }

    fn unit(
        &self,
        tree: &Tree,
        path: &[u8],
        lists: &Lists,
        names: &mut Names,
        may_follow: bool,
    ) -> Option<usize> {
        self.rules.iter().enumerate().find_map(|(number, (expression, says))| match says {
            Says::Unit => Some(names.number(unit_name(&expression.captures(path)?)?)),
            Says::List => {
                let listed = lists.get(&number)?;
                match tree.find(path) {
                    Ok(there) => listed.there.at(there).checked_sub(1),
                    Err(_) => listed.others.get(path).copied(),
                }
            }
            Says::Beside(file) if may_follow => {
                let mut other = Vec::new();
                expression.captures(path)?.expand(file.as_bytes(), &mut other);
                self.unit(tree, &other, lists, names, false)
            }
            Says::Beside(_) => None,
        })
    }
}

fn unit_name(captures: &Captures<'_>) -> Option<String> {
    let unit = std::str::from_utf8(captures.name("unit")?.as_bytes()).ok()?;
    let mut name = String::with_capacity(unit.len());
    for character in unit.to_lowercase().chars() {
        match character {
            '-' | '_' | '.' if name.ends_with('-') => {}
            '-' | '_' | '.' => name.push('-'),
            other => name.push(other),
        }
    }
    (!name.is_empty()).then_some(name)
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

    fn file(size: u64) -> Node<'static> {
        Node::File { mode: 0o644, size, digest: Digest::of(b"") }
    }

    fn rule(path: &str, says: Says) -> Rule {
        Rule { path: path.to_owned(), says }
    }

    /// The units of a tree of empty files, folders (`x/`) and hard links (`x=y`).
    #[track_caller]
    fn check(rules: &[Rule], paths: &[(&'static str, Option<&str>)], lists: &[(&str, &str)]) {
        let paths_alone = paths.iter().map(|(path, _)| *path);
        let entry = |path: &'static str| match (path.split_once('='), path.strip_suffix('/')) {
            (Some((path, to)), _) => (path, Node::HardLink { to: to.as_bytes() }),
            (_, Some(path)) => (path, Node::Directory { mode: 0o755, opaque: false }),
            _ => (path, file(0)),
        };
        let tree: Tree = paths_alone.map(entry).collect();
        let lists: BTreeMap<&[u8], &str> =
            lists.iter().map(|(path, text)| (path.as_bytes(), *text)).collect();
        let read = |path: &[u8]| {
            let text = lists.get(path).ok_or(io::ErrorKind::NotFound)?;
            Ok::<_, io::Error>(text.as_bytes().to_vec())
        };
        let assigned = Units::new(rules).expect("expressions").of(&tree, read).expect("read");
        for (path, expected) in paths {
            let path = path.split('=').next().unwrap_or(path).trim_end_matches('/');
            let unit = assigned.units.at(tree.find(path.as_bytes()).expect("there")).checked_sub(1);
            let unit = unit.map(|unit| assigned.names[unit].as_str());
            assert_eq!(unit, *expected, "{path}");
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
