//! requirements.txt as pip reads it: one file is parsed, a tree is followed.
//!
//! - A backslash joins lines, ` #` starts a comment, a joined line counts from
//!   its first.
//! - `-r` pulls in another file, relative to the file that names it; `-c` only
//!   supplies versions.
//! - Options that only say where and how to download are skipped, also those
//!   that pip will learn later: they change no name.
//! - Nothing outside the tree is read: an address or `..` past the root is
//!   refused with its line, because no snapshot could hold it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::package::{Package, Source, requirement};
use crate::facts::{FactError, Files, Refusal, parsed};

/// What one line of the file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `-r file`, with its line.
    Include(String, usize),
    /// `-c file`, with its line.
    Constraints(String, usize),
    /// A package.
    Package(Package),
}

/// A requirements file with all that it includes.
#[derive(Debug, Default)]
pub struct Tree {
    /// Every file read.
    pub files: BTreeSet<String>,
    /// Each package with the file that names it; versions from `-c` filled in.
    pub packages: Vec<(String, Package)>,
}

/// Reads one file.
///
/// # Errors
/// A line that is neither an option nor a requirement.
pub fn parse(text: &str) -> Result<Vec<Entry>, Refusal> {
    let mut entries = Vec::new();
    for (line, content) in joined_lines(text) {
        let entry = if content.starts_with('-') {
            option(&content, line)?
        } else {
            let (text, options) = split_options(&content);
            let mut package =
                requirement(text, line).map_err(|message| Refusal::at(line, message))?;
            package.hashed = options.contains("--hash");
            Some(Entry::Package(package))
        };
        entries.extend(entry);
    }
    Ok(entries)
}

/// Reads a file and all that it includes, each once.
///
/// # Errors
/// What [`parse`] refuses; an included file that is absent or outside the tree.
pub fn follow(files: &dyn Files, start: &str) -> Result<Tree, FactError> {
    let mut tree = Tree::default();
    let mut versions: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut waiting = VecDeque::from([(start.to_owned(), false)]);
    while let Some((path, only_versions)) = waiting.pop_front() {
        if !seen.insert((path.clone(), only_versions)) {
            continue;
        }
        for entry in parsed(files, &path, parse)?.unwrap_or_default() {
            match entry {
                Entry::Include(target, line) => {
                    waiting.push_back((included(files, &path, &target, line)?, only_versions));
                }
                Entry::Constraints(target, line) => {
                    waiting.push_back((included(files, &path, &target, line)?, true));
                }
                Entry::Package(package) if only_versions => {
                    if let (Some(name), Some(version)) = (package.name, package.version) {
                        versions.entry(name).or_insert(version);
                    }
                }
                Entry::Package(package) => tree.packages.push((path.clone(), package)),
            }
        }
        tree.files.insert(path);
    }
    for (_, package) in &mut tree.packages {
        if package.version.is_none() && package.source == Source::Index {
            package.version = package.name.as_ref().and_then(|name| versions.get(name).cloned());
        }
    }
    Ok(tree)
}

/// The path of an included file, once it is known to be in the tree.
fn included(files: &dyn Files, from: &str, target: &str, line: usize) -> Result<String, FactError> {
    let refuse = |message: String| Refusal::at(line, message).within(from);
    if target.contains("://") {
        return Err(refuse(format!("`{target}` is an address: copy the file into the repository")));
    }
    let Some(path) = resolve(from, target) else {
        return Err(refuse(format!("`{target}` lies outside the source: move the file into it")));
    };
    if !files.has(&path) {
        return Err(refuse(format!("`{path}` does not exist, or an ignore rule excludes it")));
    }
    Ok(path)
}

/// `target` seen from the folder of `from`; `None` when that leaves the tree.
fn resolve(from: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Lines that say something, joined and without comments, with their numbers.
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, content) in (1..).zip(text.lines()) {
        let comment = content.trim_start().starts_with('#');
        let (start, mut joined) = open.take().unwrap_or((number, String::new()));
        match content.strip_suffix('\\') {
            Some(front) if !comment => {
                joined.push_str(front);
                open = Some((start, joined));
            }
            _ => {
                if comment {
                    joined.push(' ');
                }
                joined.push_str(content);
                found.push((start, joined));
            }
        }
    }
    found.extend(open);
    let bare = |(number, joined): (usize, String)| {
        let content = without_comment(&joined).trim();
        (!content.is_empty()).then(|| (number, content.to_owned()))
    };
    found.into_iter().filter_map(bare).collect()
}

/// A `#` begins a comment at the start and after white space; elsewhere it is
/// part of an address.
fn without_comment(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| {
        *at == 0 || line[..*at].ends_with(|before: char| before.is_whitespace())
    };
    line.match_indices('#').find(begins).map_or(line, |(at, _)| &line[..at])
}

/// The requirement, and the options behind it.
fn split_options(line: &str) -> (&str, &str) {
    let begins =
        |(at, _): &(usize, &str)| line[..*at].ends_with(|before: char| before.is_whitespace());
    line.match_indices('-').find(begins).map_or((line, ""), |(at, _)| line.split_at(at))
}

fn option(line_text: &str, line: usize) -> Result<Option<Entry>, Refusal> {
    let value = |short: &str, long: &str| {
        let value = match line_text.strip_prefix(long) {
            Some(rest) if rest.starts_with(['=', ' ', '\t']) => {
                rest.trim_start_matches(['=', ' ', '\t'])
            }
            _ if line_text.starts_with("--") => return None,
            _ => line_text.strip_prefix(short)?.trim_start_matches(['=', ' ', '\t']),
        };
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    };
    if let Some(file) = value("-r", "--requirement") {
        return Ok(Some(Entry::Include(file, line)));
    }
    if let Some(file) = value("-c", "--constraint") {
        return Ok(Some(Entry::Constraints(file, line)));
    }
    let Some(target) = value("-e", "--editable") else { return Ok(None) };
    let (target, _) = split_options(&target);
    let refused = |message| Refusal::at(line, message);
    let mut package = requirement(target, line).map_err(refused)?;
    // `-e name` without an address is a folder of that name.
    if package.source == Source::Index {
        package.source = Source::Path;
        package.name = None;
    }
    package.text = line_text.to_owned();
    Ok(Some(Entry::Package(package)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree as Sources;

    #[track_caller]
    fn check(text: &str, expected: Result<&[(&str, &str, usize, bool)], &str>) {
        let found = parse(text).map(|entries| {
            let row = |entry| match entry {
                Entry::Include(file, line) => ("-r".to_owned(), file, line, false),
                Entry::Constraints(file, line) => ("-c".to_owned(), file, line, false),
                Entry::Package(p) => (
                    p.name.unwrap_or(format!("{:?} {}", p.source, p.text)),
                    p.version.unwrap_or_default(),
                    p.line,
                    p.hashed,
                ),
            };
            entries.into_iter().map(row).collect::<Vec<_>>()
        });
        let expected = expected.map(|rows| {
            let owned = |(a, b, line, hashed): &(&str, &str, usize, bool)| {
                ((*a).to_owned(), (*b).to_owned(), *line, *hashed)
            };
            rows.iter().map(owned).collect()
        });
        assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn lines() {
        check("", Ok(&[]));
        check("# only\n\n", Ok(&[]));
        check(
            "a==1 # c\nb#c==2",
            Err(
                "line 2: `b#c==2` is not a requirement: after the name a version such as `==1.2` is expected",
            ),
        );
        check(
            "a==1 \\\n  --hash=sha256:00 \\\n  --hash=sha256:11\nb",
            Ok(&[("a", "1", 1, true), ("b", "", 4, false)]),
        );
        check("a==1 \\\n# c\nb", Ok(&[("a", "1", 1, false), ("b", "", 3, false)]));
        check("a==1\\", Ok(&[("a", "1", 1, false)]));
        check("\u{feff}a==1\r\n", Ok(&[("a", "1", 1, false)]));
        check("a[x]==1; sys_platform == 'linux' --hash=sha256:0", Ok(&[("a", "1", 1, true)]));
    }

    #[test]
    fn options() {
        check(
            "-i https://index.example/simple\n--extra-index-url=https://index.example\n--find-links x\n\
             --no-binary :all:\n--require-hashes\n--pre\n-f y\n--some-new-option z",
            Ok(&[]),
        );
        check(
            "-r base.txt\n-rbase.txt\n--requirement=b/c.txt\n--requirement d.txt\n-c e.txt\n--constraint 'f.txt'",
            Ok(&[
                ("-r", "base.txt", 1, false),
                ("-r", "base.txt", 2, false),
                ("-r", "b/c.txt", 3, false),
                ("-r", "d.txt", 4, false),
                ("-c", "e.txt", 5, false),
                ("-c", "f.txt", 6, false),
            ]),
        );
        check(
            "-e .\n-e lib\n--editable git+https://git.example/y#egg=y",
            Ok(&[("Path -e .", "", 1, false), ("Path -e lib", "", 2, false), ("y", "", 3, false)]),
        );
    }

    /// Files read, then origin, name and version of each package.
    type Followed<'a> = (&'a str, &'a [(&'a str, &'a str, &'a str)]);

    #[track_caller]
    fn follows(texts: &[(&str, &str)], expected: Result<Followed, &str>) {
        let found = follow(&Sources::new(texts), texts[0].0).map(|tree| {
            let row = |(file, p): (String, Package)| {
                (
                    format!("{file}:{}", p.line),
                    p.name.unwrap_or_default(),
                    p.version.unwrap_or_default(),
                )
            };
            let files = tree.files.into_iter().collect::<Vec<_>>().join(" ");
            (files, tree.packages.into_iter().map(row).collect::<Vec<_>>())
        });
        let expected = expected.map(|(files, rows)| {
            let rows = rows.iter().map(|(a, b, c)| ((*a).into(), (*b).into(), (*c).into()));
            (files.to_owned(), rows.collect())
        });
        assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn trees() {
        follows(
            &[
                ("requirements/prod.txt", "-r base.txt\n-c ../c.txt\ngunicorn"),
                ("requirements/base.txt", "Django>=4\n-r ./prod.txt"),
                ("c.txt", "django==4.2\nunused==1"),
            ],
            Ok((
                "c.txt requirements/base.txt requirements/prod.txt",
                &[
                    ("requirements/prod.txt:3", "gunicorn", ""),
                    ("requirements/base.txt:1", "django", "4.2"),
                ],
            )),
        );
    }

    #[test]
    fn leaving_the_tree() {
        let outside = "r.txt:2: `../x` lies outside the source: move the file into it";
        follows(&[("r.txt", "a\n-r ../x")], Err(outside));
        follows(
            &[("d/r.txt", "-r ../../x")],
            Err("d/r.txt:1: `../../x` lies outside the source: move the file into it"),
        );
        follows(
            &[("r.txt", "-r /etc/x")],
            Err("r.txt:1: `/etc/x` lies outside the source: move the file into it"),
        );
        follows(
            &[("r.txt", "-c https://index.example/c.txt")],
            Err(
                "r.txt:1: `https://index.example/c.txt` is an address: copy the file into the repository",
            ),
        );
        follows(
            &[("r.txt", "-r x.txt")],
            Err("r.txt:1: `x.txt` does not exist, or an ignore rule excludes it"),
        );
    }
}
