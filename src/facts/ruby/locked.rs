//! What the lock says of the gems: which, from where, for which platforms.

use std::collections::{BTreeMap, BTreeSet};

use super::declared::Declared;
use super::lock::{Gem, Kind, Lock};
use super::{Manifest, joined};
use crate::facts::Facts;

/// Groups that are not installed (`BUNDLE_WITHOUT` of the buildpack).
const LEFT_OUT: [&str; 2] = ["development", "test"];

/// States what the lock says but the Ruby version; `declared` is what the
/// Gemfile names, as far as that can be told.
pub fn state(lock: &Lock, declared: Option<&[Declared]>, manifest: &Manifest, facts: &mut Facts) {
    let at = |line: usize| format!("{}:{line}", manifest.lock);
    facts.insert("ruby.lock", manifest.lock, manifest.lock);
    if let Some((version, line)) = &lock.bundler {
        facts.insert("ruby.bundler", version.as_str(), at(*line));
    }
    let gems = installed(lock);
    for (name, gem) in &gems {
        facts.insert(format!("ruby.gem.{name}"), gem.version.as_str(), at(gem.line));
        let needs = needs(&gems, gem);
        if !needs.is_empty() {
            let lines: Vec<String> = needs.into_iter().collect();
            facts.insert(format!("ruby.needs.{name}"), lines.join("\n"), at(gem.line));
        }
        if let Some(platform) = gem.platform.as_deref().filter(|platform| is_ours(platform)) {
            facts.insert(format!("ruby.precompiled.{name}"), platform, at(gem.line));
        }
    }
    if let Some(first) = lock.gems.first() {
        let all: Vec<String> =
            gems.values().map(|gem| format!("{}-{}", gem.name, gem.version)).collect();
        facts.insert("ruby.gems", all.join("\n"), at(first.line));
    }
    checksums(lock, &at, facts);
    platforms(lock, manifest, &at, facts);
    for (name, kind) in [("ruby.git", Kind::Git), ("ruby.path", Kind::Path)] {
        let mut sources = lock.sources.iter().filter(|source| source.kind == kind);
        if let Some((remote, line)) = sources.find_map(|source| source.remotes.first()) {
            facts.insert(name, remote.as_str(), at(*line));
        }
    }
    if let Some((remote, line)) = outside(lock, declared) {
        facts.insert("ruby.path.outside", remote, at(line));
    }
    if let Some(declared) = declared {
        stale(lock, declared, manifest, facts);
    }
}

/// Each gem by name, in the variant that is installed.
fn installed(lock: &Lock) -> BTreeMap<&str, &Gem> {
    let mut gems: BTreeMap<&str, &Gem> = BTreeMap::new();
    for gem in &lock.gems {
        let chosen = gems.entry(&gem.name).or_insert(gem);
        if rank(gem) < rank(chosen) {
            *chosen = gem;
        }
    }
    gems
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

/// All that must be installed before a gem, as `name-version`. Bundler itself is
/// no gem of the lock.
fn needs(gems: &BTreeMap<&str, &Gem>, gem: &Gem) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::from([gem.name.as_str(), "bundler"]);
    let mut waiting: Vec<&str> = gem.needs.iter().map(String::as_str).collect();
    while let Some(name) = waiting.pop() {
        if let Some(gem) = gems.get(name).filter(|_| seen.insert(name)) {
            found.insert(format!("{name}-{}", gem.version));
            waiting.extend(gem.needs.iter().map(String::as_str));
        }
    }
    found
}

fn checksums(lock: &Lock, at: &dyn Fn(usize) -> String, facts: &mut Facts) {
    let Some(checksums) = lock.checksums.as_ref().filter(|sums| !sums.gems.is_empty()) else {
        return;
    };
    let of_a_server =
        |gem: &&Gem| lock.sources.get(gem.source).is_some_and(|source| source.kind == Kind::Gem);
    let bare = lock
        .gems
        .iter()
        .filter(of_a_server)
        .find(|gem| !checksums.gems.contains(&(gem.name.clone(), gem.variant())));
    match bare {
        None => facts.insert("ruby.checksums", "all", at(checksums.line)),
        Some(gem) => facts.insert("ruby.checksums", "some", at(gem.line)),
    }
}

fn platforms(lock: &Lock, manifest: &Manifest, at: &dyn Fn(usize) -> String, facts: &mut Facts) {
    let Some((_, line)) = lock.platforms.first() else { return };
    let names: Vec<&str> = lock.platforms.iter().map(|(name, _)| name.as_str()).collect();
    facts.insert("ruby.platforms", names.join("\n"), at(*line));
    if !names.iter().any(|name| *name == "ruby" || is_ours(name)) {
        let message = format!("{} is for {} only", manifest.lock, names.join(", "));
        facts.insert("ruby.platform.missing", message, at(*line));
    }
}

/// The first folder of gems that is not among the app's files. Bundler does not
/// look into one whose gems are all in groups that are left out.
fn outside<'a>(lock: &'a Lock, declared: Option<&[Declared]>) -> Option<(&'a str, usize)> {
    let left_out = |gem: &Gem| {
        let mut named = declared.unwrap_or_default().iter().filter(|known| known.name == gem.name);
        let first = named.next();
        first.into_iter().chain(named).all(is_left_out) && first.is_some()
    };
    let needed = |index: usize| lock.gems.iter().any(|gem| gem.source == index && !left_out(gem));
    lock.sources
        .iter()
        .enumerate()
        .filter(|(index, source)| source.kind == Kind::Path && needed(*index))
        .flat_map(|(_, source)| &source.remotes)
        .find(|(remote, _)| joined("", remote).is_none())
        .map(|(remote, line)| (remote.as_str(), *line))
}

fn is_left_out(gem: &Declared) -> bool {
    let left_out = |group: &String| LEFT_OUT.contains(&group.as_str());
    !gem.groups.is_empty() && gem.groups.iter().all(left_out)
}

/// States the first gem that one of the files names and the other does not.
fn stale(lock: &Lock, declared: &[Declared], manifest: &Manifest, facts: &mut Facts) {
    let Some(dependencies) = &lock.dependencies else { return };
    let named = |name: &str| name == "bundler" || declared.iter().any(|gem| gem.name == name);
    let locked = |name: &str| {
        name == "bundler" || dependencies.iter().any(|(dependency, _)| dependency == name)
    };
    let Manifest { gemfile, lock } = manifest;
    if let Some(gem) = declared.iter().find(|gem| gem.always && !locked(&gem.name)) {
        let text = format!("{gemfile} has `{}`, {lock} does not", gem.name);
        facts.insert("ruby.stale", text, format!("{gemfile}:{}", gem.line));
    } else if let Some((name, line)) = dependencies.iter().find(|(name, _)| !named(name)) {
        let text = format!("{lock} has `{name}`, {gemfile} does not");
        facts.insert("ruby.stale", text, format!("{lock}:{line}"));
    }
}
