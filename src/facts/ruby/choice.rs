//! Which Ruby: what is stated and where, whether that agrees, and which of
//! Debian's Rubies may be taken.
//!
//! - Bundler compares the `ruby` line of the Gemfile with the Ruby that runs, so
//!   that line binds. All else is what developers happened to use.
//! - Of several that may be taken, an application that says it is used to an
//!   older one gets that; one that says nothing gets what its Rails was made for.

use super::gemfile::Asked;
use super::version::{self, Release, Requirement, Version};
use super::{Lines, joined};
use crate::facts::{FactError, Facts, Files, Refusal, parsed};

/// The Rubies of Debian trixie and bookworm, the newest first.
const DEBIAN: [&str; 2] = ["3.3.8", "3.1.2"];

/// What is between them: an application from before this takes the older.
const NEWER: &str = "3.2";

/// Files of version switchers, in the order in which they are asked.
const SWITCHERS: [&str; 4] = [".ruby-version", ".tool-versions", "mise.toml", ".mise.toml"];

/// Something stated about the Ruby, and where.
#[derive(Clone)]
struct Stated {
    bound: Bound,
    origin: String,
}

/// What a Ruby has to be.
#[derive(Clone, PartialEq, Eq)]
enum Bound {
    Requirement(Requirement),
    Release(Release),
}

/// States the Ruby asked for, what the Gemfile demands, what contradicts, and
/// what all of it allows. The gems are stated already.
///
/// # Errors
/// A version that decides and cannot be read; a Gemfile that takes its Ruby from
/// a file that is not there.
pub fn state(
    files: &dyn Files,
    lines: &Lines,
    locked: Option<(Release, String)>,
    facts: &mut Facts,
) -> Result<(), FactError> {
    let demanded = demanded(files, lines)?;
    if let Some(Stated { bound, origin }) = &demanded {
        facts.insert("ruby.requirement", bound.text(), origin.as_str());
    }
    let release = |(release, origin)| Stated { bound: Bound::Release(release), origin };
    let mut stated: Vec<Stated> = locked.map(release).into_iter().chain(demanded.clone()).collect();
    for path in SWITCHERS {
        let found = version_in(files, path);
        // One that decides nothing need not be readable: Bundler does not read it.
        let found = if stated.is_empty() { found? } else { found.ok().flatten() };
        stated.extend(found.map(|(found, line)| release((found, format!("{path}:{line}")))));
    }
    if let Some(first) = stated.first() {
        facts.insert("ruby.version", first.bound.text(), first.origin.as_str());
        // What binds, where something does.
        let binding = demanded.as_ref().unwrap_or(first);
        let named = exact(binding.bound.text()).map(|exact| (exact, &binding.origin));
        let locked = exact(first.bound.text()).map(|exact| (exact, &first.origin));
        let fits = |named: &Stated| {
            demanded.as_ref().is_none_or(|demanded| demanded.bound.agrees(&named.bound))
        };
        if let Some((exact, origin)) = locked.filter(|_| fits(first)).or(named) {
            facts.insert("ruby.exact", exact, origin.as_str());
        }
        if let Some(other) = stated.iter().find(|other| !other.bound.agrees(&first.bound)) {
            let text = format!(
                "{} asks for Ruby {}, {} for {}",
                other.origin,
                other.bound.text(),
                first.origin,
                first.bound.text()
            );
            facts.insert("ruby.version.conflict", text, other.origin.as_str());
        }
    }
    let asked = stated.first();
    // Another engine, which no Ruby of Debian can stand in for, binds as well.
    let engine = asked.filter(|first| first.bound.is_other_engine());
    allowed(asked, demanded.as_ref().or(engine), facts);
    Ok(())
}

/// The one release, or series, that a text names: `3.4.8` of `3.4.8`, `3.4` of
/// `~> 3.4.0`.
fn exact(text: &str) -> Option<String> {
    let plain = |text: &str| {
        let parts: Vec<&str> = text.split('.').collect();
        let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        (matches!(parts.len(), 2 | 3) && parts.iter().all(digits)).then(|| parts[..].join("."))
    };
    match text.strip_prefix("~>") {
        Some(text) => {
            let text = plain(text.trim())?;
            let (series, _) = text.rsplit_once('.')?;
            series.contains('.').then(|| series.to_owned())
        }
        None => plain(text.trim_start_matches('=').trim()),
    }
}

/// States which of Debian's Rubies may be taken, or why none will do.
fn allowed(asked: Option<&Stated>, binding: Option<&Stated>, facts: &mut Facts) {
    let railties = facts.fact("ruby.gem.railties").cloned();
    let rails = railties.as_ref().and_then(|railties| railties.value.parse::<Version>().ok());
    // A beta of 8.0 demands what 8.0 does.
    let rails = rails.map(|rails| rails.release());
    let before = |limit: &str| rails.as_ref().is_some_and(|rails| *rails < number(limit));
    let from = |limit: &str| rails.as_ref().is_some_and(|rails| *rails >= number(limit));
    if let Some(railties) = &railties
        && before("6.1")
        && !asked.is_some_and(|asked| asked.bound.is_from(&number("3.1")))
    {
        let last = if from("6.0") { "3.0" } else { "2.7" };
        let text = format!(
            "Rails {} runs on Ruby {last} or older, and forge has {}",
            railties.value,
            DEBIAN.join(" and ")
        );
        facts.insert("ruby.unsupported", text, railties.origin.as_str());
    }
    let older = match asked.map(|asked| &asked.bound) {
        Some(Bound::Release(release)) => release.is_before(&number(NEWER)),
        Some(Bound::Requirement(_)) | None => before("7.1"),
    };
    // What the gemspec of Rails 8.0 demands; that of 7.2 is content with 3.1.
    let at_least = number(if from("8.0") { "3.2" } else { "0" });
    let mut fit: Vec<&str> = DEBIAN.into();
    fit.retain(|text| {
        let version = number(text);
        version >= at_least && binding.is_none_or(|binding| binding.bound.allows(&version))
    });
    if older && fit.iter().any(|text| number(text) < number(NEWER)) {
        fit.retain(|text| number(text) < number(NEWER));
    }
    let origin = binding.or(asked).map(|stated| &stated.origin);
    let origin = origin.or(railties.as_ref().map(|railties| &railties.origin));
    for text in fit {
        let origin = origin.map_or("default", String::as_str);
        facts.insert(format!("ruby.allows.{text}"), "yes", origin);
    }
}

/// A version that stands in this file.
fn number(text: &str) -> Version {
    text.parse().unwrap_or_default()
}

/// What the `ruby` lines demand; `None` when only Ruby can tell.
fn demanded(files: &dyn Files, lines: &Lines) -> Result<Option<Stated>, FactError> {
    let mut found: Vec<Stated> = Vec::new();
    let mut readable = true;
    for (asked, path, line) in lines {
        let here = format!("{path}:{line}");
        found.push(match asked {
            Asked::Requirement(requirement) => {
                Stated { bound: Bound::Requirement(requirement.clone()), origin: here }
            }
            Asked::Engine(release) => {
                Stated { bound: Bound::Release(release.clone()), origin: here }
            }
            Asked::Unreadable => {
                readable = false;
                continue;
            }
            Asked::File(text) => match named_by(files, path, text)? {
                Some((release, origin)) => Stated { bound: Bound::Release(release), origin },
                None => {
                    let message = format!(
                        "takes the Ruby version from `{text}`, which is not there or names none: \
                         commit the file, or write the version here"
                    );
                    return Err(Refusal::at(*line, message).within(path));
                }
            },
        });
    }
    // Lines that differ stand in the branches of a condition.
    let differ = found.windows(2).any(|pair| pair[0].bound != pair[1].bound);
    Ok(found.into_iter().next().filter(|_| readable && !differ))
}

impl Bound {
    fn text(&self) -> &str {
        match self {
            Bound::Requirement(requirement) => &requirement.text,
            Bound::Release(release) => &release.text,
        }
    }

    fn allows(&self, version: &Version) -> bool {
        match self {
            Bound::Requirement(requirement) => requirement.allows(version),
            Bound::Release(release) => release.is(version),
        }
    }

    /// Whether one Ruby can be what both say, as far as can be told.
    fn agrees(&self, other: &Bound) -> bool {
        match (self, other) {
            (Bound::Release(one), Bound::Release(other)) => one.may_be(other),
            (Bound::Requirement(_), Bound::Requirement(_)) => true,
            (Bound::Requirement(requirement), Bound::Release(release))
            | (Bound::Release(release), Bound::Requirement(requirement)) => {
                release.whole().is_none_or(|version| requirement.allows(version))
            }
        }
    }

    /// Whether every Ruby that will do is this one or newer.
    fn is_from(&self, version: &Version) -> bool {
        match self {
            Bound::Requirement(requirement) => requirement.is_from(version),
            Bound::Release(release) => release.is_cruby() && !release.is_before(version),
        }
    }

    fn is_other_engine(&self) -> bool {
        matches!(self, Bound::Release(release) if !release.is_cruby())
    }
}

/// The version in a file that a Gemfile reads, and `file:line`.
fn named_by(
    files: &dyn Files,
    gemfile: &str,
    text: &str,
) -> Result<Option<(Release, String)>, FactError> {
    let folder = gemfile.rsplit_once('/').map_or("", |(folder, _)| folder);
    for path in [folder, ""].into_iter().filter_map(|folder| joined(folder, text)) {
        if let Some((release, line)) = version_in(files, &path)? {
            return Ok(Some((release, format!("{path}:{line}"))));
        }
    }
    Ok(None)
}

/// The version that a file of a version switcher names, with its line.
fn version_in(files: &dyn Files, path: &str) -> Result<Option<(Release, usize)>, FactError> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let found = match name {
        ".tool-versions" => parsed(files, path, version::tool_versions)?.flatten(),
        _ if name.ends_with(".toml") => parsed(files, path, version::mise)?.flatten(),
        _ => parsed(files, path, version::ruby_version_file)?,
    };
    Ok(found)
}
