//! Ruby: the gems, which Ruby is asked for, what of Rails there is.
//!
//! Gemfile.lock says what is installed; the Gemfile is a program, read only for
//! what Gemfile.lock does not hold: the demanded Ruby, and the files that it
//! reads itself. Without a Gemfile nothing here is stated; without a lock the
//! gems are not known, and the buildpack refuses.
//!
//! A file that cannot be understood is a fact too, `ruby.broken`: it does not
//! concern an application of Django that has a Gemfile for its style sheets.

mod choice;
mod declared;
mod gemfile;
mod lock;
mod locked;
mod rails;
mod tokens;
mod version;

use std::collections::BTreeSet;

use super::{FactError, Facts, Files, below, joined, parsed};
use declared::Declared;
use gemfile::Asked;
use lock::Kind;

#[cfg(test)]
pub use fuzzed::parsers;

/// The files that Bundler goes by.
struct Manifest {
    gemfile: &'static str,
    lock: &'static str,
}

/// Their names; with both, Bundler ignores the Gemfile and says so
/// (`Bundler::SharedHelpers`).
const MANIFESTS: [Manifest; 2] = [
    Manifest { gemfile: "gems.rb", lock: "gems.locked" },
    Manifest { gemfile: "Gemfile", lock: "Gemfile.lock" },
];

/// Where `bundle cache` puts gems that are committed.
const VENDOR: &str = "vendor/cache";

/// `ruby` lines, each with its file and line.
type Lines = Vec<(Asked, String, usize)>;

/// What all Gemfiles of the application say together.
#[derive(Default)]
struct Gemfiles {
    /// The `ruby` lines.
    ruby: Lines,
    /// The gems that the first names; `None` when only Ruby can tell.
    declared: Option<Vec<Declared>>,
    /// The files that are read, and the Gemfiles themselves.
    inputs: BTreeSet<String>,
}

/// States the `ruby.*`, `rack.*`, `puma.*` and `rails.*` facts.
pub fn collect(files: &dyn Files, facts: &mut Facts) {
    let Some(manifest) = MANIFESTS.iter().find(|manifest| files.has(manifest.gemfile)) else {
        return;
    };
    facts.insert("ruby.gemfile", manifest.gemfile, manifest.gemfile);
    let gems = gems(files, manifest, facts);
    let rails = rails::state(files, manifest, facts);
    if let Err(error) = gems.and(rails) {
        let line = error.line.map(|line| format!(":{line}")).unwrap_or_default();
        facts.insert("ruby.broken", error.message, format!("{}{line}", error.path));
    }
}

/// States all but the `rails.*` facts.
fn gems(files: &dyn Files, manifest: &Manifest, facts: &mut Facts) -> Result<(), FactError> {
    for (name, path) in [("rack.config", "config.ru"), ("puma.config", "config/puma.rb")] {
        if files.has(path) {
            facts.insert(name, path, path);
        }
    }
    let mut gemfiles = gemfiles(files, manifest.gemfile)?;
    let lock = parsed(files, manifest.lock, lock::parse)?;
    if let Some(lock) = &lock {
        gemfiles.inputs.insert(manifest.lock.to_owned());
        let folders = lock.sources.iter().filter(|source| source.kind == Kind::Path);
        for (folder, _) in folders.flat_map(|source| &source.remotes) {
            gemfiles.inputs.extend(below(files, "", folder));
        }
        locked::state(lock, gemfiles.declared.as_deref(), manifest, facts);
    }
    let is_vendored = |path: &&str| {
        let inside = path.strip_prefix(VENDOR).is_some_and(|rest| rest.starts_with('/'));
        inside && path.ends_with(".gem")
    };
    if let Some(gem) = files.paths().find(is_vendored) {
        facts.insert("ruby.vendor", VENDOR, gem);
        gemfiles.inputs.extend(below(files, "", VENDOR));
    }
    let inputs: Vec<String> = gemfiles.inputs.iter().cloned().collect();
    facts.insert("ruby.inputs", inputs.join("\n"), manifest.gemfile);
    let locked = lock.and_then(|lock| lock.ruby);
    let locked = locked.map(|(release, line)| (release, format!("{}:{line}", manifest.lock)));
    choice::state(files, &gemfiles.ruby, locked, facts)
}

/// Reads the Gemfile and what it evaluates.
fn gemfiles(files: &dyn Files, first: &str) -> Result<Gemfiles, FactError> {
    let mut found = Gemfiles::default();
    let mut waiting = vec![first.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let Some(gemfile) = parsed(files, &path, gemfile::parse)? else { continue };
        found.inputs.insert(path.clone());
        if path == first {
            found.declared = gemfile.declared;
        }
        for text in &gemfile.strings {
            let places = [folder.as_str(), ""].map(|folder| joined(folder, text));
            let there = places.into_iter().flatten().filter(|place| files.has(place));
            found.inputs.extend(there);
        }
        for text in &gemfile.paths {
            found.inputs.extend(below(files, &folder, text));
        }
        for text in &gemfile.gemspecs {
            let place = joined(&folder, text);
            let gemspec = |path: &&str| {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                path.ends_with(".gemspec") && Some(parent) == place.as_deref()
            };
            found.inputs.extend(files.paths().filter(gemspec).map(str::to_owned));
        }
        found
            .ruby
            .extend(gemfile.ruby.into_iter().map(|(asked, line)| (asked, path.clone(), line)));
        waiting.extend(gemfile.evaluated.iter().filter_map(|text| joined(&folder, text)));
    }
    Ok(found)
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
