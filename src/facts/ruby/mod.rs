//! Ruby: the gems, which Ruby is asked for, what of Rails there is.
//!
//! Gemfile.lock says what is installed; the Gemfile is a program, read only for
//! what Gemfile.lock does not hold: the demanded Ruby, and the files that it
//! reads itself. Without a Gemfile nothing here is stated; without a lock the
//! gems are not known, and the buildpack refuses.

mod gemfile;
mod lock;
mod version;

use std::collections::{BTreeMap, BTreeSet};

use super::{FactError, Facts, Files, Refusal, below, has, joined, parsed};
use gemfile::Asked;
use lock::{Gem, Kind, Lock};
use version::{Release, Requirement, Version};

#[cfg(test)]
pub use fuzzed::parsers;

/// The Rubies of Debian trixie and bookworm.
const DEBIAN: [&str; 2] = ["3.3.8", "3.1.2"];

/// Gems of asset pipelines, in the order in which one is named.
const ASSETS: [(&str, &str); 9] = [
    ("propshaft", "propshaft"),
    ("sprockets-rails", "sprockets"),
    ("shakapacker", "shakapacker"),
    ("webpacker", "webpacker"),
    ("vite_ruby", "vite"),
    ("jsbundling-rails", "jsbundling"),
    ("cssbundling-rails", "cssbundling"),
    ("tailwindcss-rails", "tailwindcss"),
    ("dartsass-rails", "dartsass"),
];

/// Gems of databases; the one that servers use before the one of a laptop.
const DATABASES: [(&str, &str); 4] =
    [("pg", "postgres"), ("mysql2", "mysql2"), ("trilogy", "trilogy"), ("sqlite3", "sqlite3")];

/// Gems that run jobs.
const JOBS: [(&str, &str); 5] = [
    ("sidekiq", "sidekiq"),
    ("solid_queue", "solid_queue"),
    ("good_job", "good_job"),
    ("delayed_job", "delayed_job"),
    ("resque", "resque"),
];

/// What all Gemfiles of the application say together.
#[derive(Default)]
struct Gemfiles {
    /// The `ruby` lines, each with its file and line.
    ruby: Vec<(Asked, String, usize)>,
    /// The files that are read, and the Gemfiles themselves.
    inputs: BTreeSet<String>,
}

/// States the `ruby.*`, `rack.*`, `puma.*` and `rails.*` facts.
///
/// # Errors
/// A Gemfile.lock, a `ruby` line or a version file that cannot be read; a
/// Gemfile that takes its Ruby from a file that is not there.
pub fn collect(files: &dyn Files, facts: &mut Facts) -> Result<(), FactError> {
    if !has(files, "Gemfile") {
        return Ok(());
    }
    let mut gemfiles = gemfiles(files)?;
    let lock = parsed(files, "Gemfile.lock", lock::parse)?;
    if let Some(lock) = &lock {
        gemfiles.inputs.insert("Gemfile.lock".to_owned());
        let folders = lock.sources.iter().filter(|source| source.kind == Kind::Path);
        for (folder, _) in folders.flat_map(|source| &source.remotes) {
            gemfiles.inputs.extend(below(files, "", folder));
        }
        state_lock(lock, facts);
    }
    let inputs: Vec<String> = gemfiles.inputs.iter().cloned().collect();
    facts.insert("ruby.inputs", inputs.join("\n"), "Gemfile");
    let locked = lock.as_ref().and_then(|lock| lock.ruby.as_ref());
    versions(files, &gemfiles.ruby, locked, facts)?;
    for (name, path) in [("rack.config", "config.ru"), ("puma.config", "config/puma.rb")] {
        if has(files, path) {
            facts.insert(name, path, path);
        }
    }
    rails(files, facts)
}

/// Reads the Gemfile and what it evaluates.
fn gemfiles(files: &dyn Files) -> Result<Gemfiles, FactError> {
    let mut found = Gemfiles::default();
    let mut waiting = vec!["Gemfile".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let Some(gemfile) = parsed(files, &path, gemfile::parse)? else { continue };
        found.inputs.insert(path.clone());
        for text in &gemfile.strings {
            let places = [folder.as_str(), ""].map(|folder| joined(folder, text));
            let there = places.into_iter().flatten().filter(|place| has(files, place));
            found.inputs.extend(there);
        }
        for text in &gemfile.paths {
            found.inputs.extend(below(files, &folder, text));
        }
        for text in &gemfile.gemspecs {
            let place = joined(&folder, text);
            let gemspec = |path: &&String| {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                path.ends_with(".gemspec") && Some(parent) == place.as_deref()
            };
            found.inputs.extend(files.paths().iter().filter(gemspec).cloned());
        }
        found
            .ruby
            .extend(gemfile.ruby.into_iter().map(|(asked, line)| (asked, path.clone(), line)));
        waiting.extend(gemfile.evaluated.iter().filter_map(|text| joined(&folder, text)));
    }
    Ok(found)
}

/// States what Gemfile.lock says but the Ruby version.
fn state_lock(lock: &Lock, facts: &mut Facts) {
    let at = |line: usize| format!("Gemfile.lock:{line}");
    facts.insert("ruby.lock", "Gemfile.lock", "Gemfile.lock");
    if let Some((version, line)) = &lock.bundler {
        facts.insert("ruby.bundler", version.as_str(), at(*line));
    }
    let mut gems: BTreeMap<&str, &Gem> = BTreeMap::new();
    for gem in &lock.gems {
        let chosen = gems.entry(&gem.name).or_insert(gem);
        if rank(gem) < rank(chosen) {
            *chosen = gem;
        }
    }
    for (name, gem) in gems {
        facts.insert(format!("ruby.gem.{name}"), gem.version.as_str(), at(gem.line));
    }
    if let Some((_, line)) = lock.platforms.first() {
        let names: Vec<&str> = lock.platforms.iter().map(|(name, _)| name.as_str()).collect();
        facts.insert("ruby.platforms", names.join("\n"), at(*line));
        if !names.iter().any(|name| *name == "ruby" || is_ours(name)) {
            let message = format!(
                "Gemfile.lock is for {} only: run `bundle lock --add-platform x86_64-linux`",
                names.join(", ")
            );
            facts.insert("ruby.platform.missing", message, at(*line));
        }
    }
    for (name, kind) in [("ruby.git", Kind::Git), ("ruby.path", Kind::Path)] {
        let mut sources = lock.sources.iter().filter(|source| source.kind == kind);
        if let Some((remote, line)) = sources.find_map(|source| source.remotes.first()) {
            facts.insert(name, remote.as_str(), at(*line));
        }
    }
}

/// Of the variants of a gem, the one that is installed comes first.
fn rank(gem: &Gem) -> u8 {
    match gem.platform.as_deref() {
        Some(platform) if is_ours(platform) => 0,
        None => 1,
        Some(_) => 2,
    }
}

/// Whether gems of this platform run in the image, whose C library is glibc.
fn is_ours(platform: &str) -> bool {
    platform == "x86_64-linux" || platform == "x86_64-linux-gnu"
}

/// States the Ruby asked for, what the Gemfile demands and what that allows.
fn versions(
    files: &dyn Files,
    lines: &[(Asked, String, usize)],
    locked: Option<&(Release, usize)>,
    facts: &mut Facts,
) -> Result<(), FactError> {
    let mut binding: Vec<(Bound, String)> = Vec::new();
    for (asked, path, line) in lines {
        let bound = match asked {
            Asked::Requirement(requirement) => Bound::Requirement(requirement.clone()),
            Asked::Engine(release) => Bound::Release(release.clone()),
            Asked::Unreadable => continue,
            Asked::File(text) => match named_by(files, path, text)? {
                Some((release, origin)) => {
                    binding.push((Bound::Release(release), origin));
                    continue;
                }
                None => {
                    let message = format!(
                        "takes the Ruby version from `{text}`, which is not there or names none: \
                         commit the file, or write the version here"
                    );
                    return Err(Refusal::at(*line, message).within(path));
                }
            },
        };
        binding.push((bound, format!("{path}:{line}")));
    }
    // Lines that differ stand in the branches of a condition.
    let differ = |pair: &[(Bound, String)]| pair[0].0 != pair[1].0;
    if binding.windows(2).any(differ) || lines.iter().any(|(asked, ..)| *asked == Asked::Unreadable)
    {
        binding.clear();
    }
    binding.truncate(1);
    let mut asked: Option<(String, String)> = None;
    if let Some((bound, origin)) = binding.first() {
        facts.insert("ruby.requirement", bound.text(), origin.as_str());
        asked = Some((bound.text().to_owned(), origin.clone()));
    }
    if let Some((release, line)) = locked {
        let origin = format!("Gemfile.lock:{line}");
        asked = Some((release.text.clone(), origin));
    }
    // Files of version switchers are the wish of developers. Only another
    // engine, which no Ruby of Debian can stand in for, is binding.
    for path in [".ruby-version", ".tool-versions", "mise.toml", ".mise.toml"] {
        if asked.is_none()
            && let Some((release, line)) = version_in(files, path)?
        {
            let origin = format!("{path}:{line}");
            asked = Some((release.text.clone(), origin.clone()));
            if !release.is_cruby() {
                binding.push((Bound::Release(release), origin));
            }
        }
    }
    if let Some((text, origin)) = asked {
        facts.insert("ruby.version", text, origin);
    }
    for text in DEBIAN {
        let Ok(version) = text.parse::<Version>() else { continue };
        if binding.iter().all(|(bound, _)| bound.allows(&version)) {
            let origins: Vec<&str> = binding.iter().map(|(_, origin)| origin.as_str()).collect();
            let origin = if origins.is_empty() { "default".to_owned() } else { origins.join(", ") };
            facts.insert(format!("ruby.allows.{text}"), "yes", origin);
        }
    }
    Ok(())
}

/// What a Ruby has to be.
#[derive(PartialEq, Eq)]
enum Bound {
    Requirement(Requirement),
    Release(Release),
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

/// States the `rails.*` facts from the gems.
fn rails(files: &dyn Files, facts: &mut Facts) -> Result<(), FactError> {
    const APPLICATION: &str = "config/application.rb";
    if let Some(railties) = facts.fact("ruby.gem.railties").cloned() {
        facts.insert("rails.version", railties.value, railties.origin);
    }
    if has(files, APPLICATION) && facts.contains("ruby.lock") {
        let locked = facts.contains("rails.version");
        let says = || files.read(APPLICATION).map(|text| text.unwrap_or_default());
        if locked || says()?.contains("Rails::Application") {
            facts.insert("rails.application", APPLICATION, APPLICATION);
        }
    }
    let kinds = [
        ("rails.assets", ASSETS.as_slice()),
        ("rails.database", DATABASES.as_slice()),
        ("rails.jobs", JOBS.as_slice()),
        ("rails.bootsnap", &[("bootsnap", "yes")]),
    ];
    for (name, gems) in kinds {
        let locked = gems.iter().find_map(|(gem, value)| {
            let fact = facts.fact(&format!("ruby.gem.{gem}"))?;
            Some((*value, fact.origin.clone()))
        });
        if let Some((value, origin)) = locked {
            facts.insert(name, value, origin);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod fuzzed {
    //! The parsers as one list, for the test that feeds them rubbish.

    use super::version::{Requirement, Version};
    use super::{gemfile, lock, version};

    /// Every parser, its result dropped.
    pub fn parsers() -> Vec<fn(&str)> {
        vec![
            |text| drop(gemfile::parse(text)),
            |text| drop(gemfile::parse(&format!("ruby \"{text}"))),
            |text| drop(lock::parse(text)),
            |text| drop(version::ruby_version_file(text)),
            |text| drop(version::tool_versions(text)),
            |text| drop(version::mise(text)),
            |text| {
                let version = text.parse::<Version>().or("3.3.8".parse());
                if let (Ok(version), Ok(asked)) = (version, Requirement::new(&[text.to_owned()])) {
                    let _ = asked.allows(&version);
                }
            },
        ]
    }
}
