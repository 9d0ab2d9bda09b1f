//! Triggers: which package wants to hear when files appear below a path, or when
//! another package says a name. dpkg keeps this in text files; so do we.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use super::info_files;
use crate::debian::inside::{read_text, write_file};
use crate::debian::relation::is_package_name;

/// Who wants to hear of what: trigger name → lines as dpkg writes them,
/// `<package>` or `<package>/noawait`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interests {
    paths: BTreeMap<String, BTreeSet<String>>,
    named: BTreeMap<String, BTreeSet<String>>,
}

impl Interests {
    pub(super) fn read(triggers: &OwnedFd) -> io::Result<Interests> {
        let mut interests = Interests::default();
        for line in read_text(triggers, "File")?.lines() {
            if let Some((path, package)) = line.split_once(' ') {
                interests.paths.entry(path.to_owned()).or_default().insert(package.to_owned());
            }
        }
        for name in info_files(triggers)?.into_iter().filter(|name| is_trigger_name(name)) {
            let packages = read_text(triggers, &name)?.lines().map(str::to_owned).collect();
            interests.named.insert(name, packages);
        }
        Ok(interests)
    }

    /// Forgets what `package` was interested in and takes what its `triggers` file says.
    pub(super) fn replace(&mut self, package: &str, declared: &str) {
        let silent = format!("{package}/noawait");
        for packages in self.paths.values_mut().chain(self.named.values_mut()) {
            packages.remove(package);
            packages.remove(&silent);
        }
        for line in declared.lines() {
            let mut words = line.split_whitespace();
            let entry = match words.next() {
                Some("interest" | "interest-await") => package,
                Some("interest-noawait") => &silent,
                _ => continue,
            };
            let Some(trigger) = words.next() else {
                continue;
            };
            if trigger.starts_with('/') {
                self.paths.entry(trigger.to_owned()).or_default().insert(entry.to_owned());
            } else if is_trigger_name(trigger) {
                self.named.entry(trigger.to_owned()).or_default().insert(entry.to_owned());
            }
        }
    }

    /// The lines of `Unincorp` for the path triggers that `list` sets off.
    pub(super) fn told_by(&self, list: &[String]) -> BTreeSet<String> {
        let wanted =
            self.paths.iter().filter(|(_, packages)| !packages.is_empty()).map(|(path, _)| path);
        wanted
            .filter(|wanted| {
                let below = |path: &String| {
                    path.strip_prefix(wanted.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                list.iter().any(below)
            })
            .map(|wanted| format!("{wanted} -"))
            .collect()
    }

    pub(super) fn write(&self, triggers: &OwnedFd) -> io::Result<()> {
        let mut file = String::new();
        for (path, packages) in &self.paths {
            for package in packages {
                file.push_str(&format!("{path} {package}\n"));
            }
        }
        write_file(triggers, "File", file.as_bytes(), 0o644)?;
        for (name, packages) in &self.named {
            let text: String = packages.iter().map(|package| format!("{package}\n")).collect();
            write_file(triggers, name, text.as_bytes(), 0o644)?;
        }
        Ok(())
    }
}

/// A named trigger has a file of its own, next to dpkg's.
fn is_trigger_name(name: &str) -> bool {
    is_package_name(name) && !["File", "Lock", "Unincorp"].contains(&name)
}
