//! Which package manager installs, and which release of it.
//!
//! What package.json says goes before the lock file, since a lock file of
//! another manager is easily left behind. Where no exact version is said, the
//! release is the newest that is pinned here and that reads the lock file, runs on
//! the Node, and is in the range that `engines` or `packageManager` gives.

use nodejs_semver::{Range, Version};

use crate::facts::{FactError, Files, joined, parsed};

use super::locks::{Lock, Manager};
use super::manifest::Manifest;
use super::{releases, yaml};

/// The manager, and what is said about its version.
#[derive(Debug)]
pub struct Chosen {
    /// Which.
    pub manager: Manager,
    /// Where that is said.
    pub origin: String,
    /// An exact version, and where it is said.
    pub stated: Option<(String, String)>,
    /// A range that the release should be in.
    pub wanted: Option<Range>,
    /// The Yarn that the app brings along, and where that is said.
    pub yarn_path: Option<(String, String)>,
}

/// A release that forge uses when none is said.
struct Pinned {
    manager: Manager,
    series: &'static str,
    release: &'static str,
    /// On which Node it runs.
    node: &'static str,
    /// The formats of lock files that it reads and leaves as they are; none for
    /// any.
    locks: &'static [&'static str],
}

const fn pinned(
    manager: Manager,
    [series, release, node]: [&'static str; 3],
    locks: &'static [&'static str],
) -> Pinned {
    Pinned { manager, series, release, node, locks }
}

/// The newest releases as of 2026-11-21, the preferred one of a manager first.
/// `node` is what `npm view MANAGER@RELEASE engines` says, but for npm 9, which
/// would run on Node 14 and is not what people had there. A Yarn refuses a
/// yarn.lock that it would write in another format (`--immutable`), so there is
/// one for each.
const PINNED: [Pinned; 15] = [
    pinned(Manager::Npm, ["11", "11.21.2", "^20.17.0 || >=22.9.0"], &[]),
    pinned(Manager::Npm, ["10", "10.9.9", "^18.17.0 || >=20.5.0"], &[]),
    pinned(Manager::Npm, ["9", "9.9.4", "^16.13.0 || >=18.0.0"], &[]),
    pinned(Manager::Npm, ["8", "8.19.4", "^12.13.0 || ^14.15.0 || >=16.0.0"], &[]),
    pinned(Manager::Yarn, ["1", "1.22.22", ">=4.0.0"], &[]),
    pinned(Manager::Berry, ["4", "4.18.1", ">=18.12.0"], &["10"]),
    pinned(Manager::Berry, ["4", "4.14.1", ">=18.12.0"], &["9"]),
    pinned(Manager::Berry, ["4", "4.13.0", ">=18.12.0"], &["8"]),
    pinned(Manager::Berry, ["3", "3.8.7", ">=12 <14 || 14.2 - 14.9 || >14.10.0"], &["6"]),
    pinned(Manager::Berry, ["3", "3.1.1", ">=12 <14 || 14.2 - 14.9 || >14.10.0"], &["5"]),
    pinned(Manager::Berry, ["3", "3.0.2", ">=12 <14 || 14.2 - 14.9 || >14.10.0"], &["4"]),
    pinned(Manager::Pnpm, ["10", "10.34.9", ">=18.12"], &["9"]),
    pinned(Manager::Pnpm, ["9", "9.15.9", ">=18.12"], &["9"]),
    pinned(Manager::Pnpm, ["8", "8.15.9", ">=16.14"], &["6"]),
    pinned(Manager::Pnpm, ["7", "7.33.7", ">=14.6"], &["5"]),
];

/// What package.json or `.yarnrc.yml` say of a manager.
struct Said {
    name: &'static str,
    text: String,
    origin: String,
}

/// Chooses the manager of a folder.
///
/// # Errors
/// A `.yarnrc.yml` that cannot be read.
pub fn choose(files: &dyn Files, manifest: &Manifest, locks: &[Lock]) -> Result<Chosen, FactError> {
    let yarn_path = yarn_path(files, manifest.folder())?;
    let said = match &yarn_path {
        Some((path, origin)) => {
            let text = version_in_name(path).unwrap_or_default().to_owned();
            Some(Said { name: "yarn", text, origin: origin.clone() })
        }
        None => package_manager(manifest)
            .or_else(|| only(among(manifest, "volta"), locks))
            .or_else(|| only(among(manifest, "engines"), locks)),
    };
    let lock = locks.first();
    let (manager, origin) = match (&said, lock) {
        (Some(said), _) => (manager(said, locks, yarn_path.is_some()), said.origin.clone()),
        (None, Some(lock)) => (lock.manager, lock.path.clone()),
        (None, None) => (Manager::Npm, "default".to_owned()),
    };
    // Whoever decided, another place may still know the version.
    let places = [package_manager(manifest)].into_iter().flatten();
    let places = places.chain(among(manifest, "volta")).chain(among(manifest, "engines"));
    let all: Vec<Said> =
        said.into_iter().chain(places.filter(|said| said.name == manager.command())).collect();
    let stated = all.iter().find(|said| is_exact(&said.text));
    let wanted = all.iter().find(|said| !said.text.is_empty() && !is_exact(&said.text));
    Ok(Chosen {
        manager,
        origin,
        stated: stated.map(|said| (said.text.clone(), said.origin.clone())),
        wanted: wanted.and_then(|said| releases::range(&said.text)),
        yarn_path,
    })
}

/// The file that `yarnPath` names, when it is there, and where it is named.
fn yarn_path(files: &dyn Files, folder: &str) -> Result<Option<(String, String)>, FactError> {
    let Some(settings) = joined(folder, ".yarnrc.yml") else { return Ok(None) };
    let named = parsed(files, &settings, |text| yaml::text(text, "yarnPath"))?.flatten();
    let Some((text, line)) = named else { return Ok(None) };
    let path = joined(folder, &text).filter(|path| files.has(path));
    Ok(path.map(|path| (path, format!("{settings}:{line}"))))
}

/// `3.2.1` of `.yarn/releases/yarn-3.2.1.cjs`.
fn version_in_name(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?.strip_prefix("yarn-")?;
    let version = name.rsplit_once('.').map(|(version, _)| version)?;
    is_exact(version).then_some(version)
}

/// The names that package.json has for managers.
const COMMANDS: [&str; 4] = ["pnpm", "yarn", "npm", "bun"];

/// `packageManager`, without the hash behind its version.
fn package_manager(manifest: &Manifest) -> Option<Said> {
    let keys = ["packageManager"];
    let (name, version) = manifest.text(&keys)?.split_once('@')?;
    let name = COMMANDS.into_iter().find(|command| *command == name)?;
    let text = version.split('+').next().unwrap_or_default().trim().to_owned();
    Some(Said { name, text, origin: manifest.origin(&keys) })
}

/// The managers that `volta` or `engines` give a version or a range. What is
/// neither is not meant for machines: `"npm": "please use yarn"`.
fn among(manifest: &Manifest, key: &str) -> Vec<Said> {
    let said = |name: &'static str| {
        let text = manifest.text(&[key, name])?.to_owned();
        let origin = manifest.origin(&[key, name]);
        releases::range(&text).map(|_| Said { name, text, origin })
    };
    COMMANDS.into_iter().filter_map(said).collect()
}

/// The one manager that is named. npm comes with Node, so who names npm alone
/// may still install with the manager that has the lock file.
fn only(said: Vec<Said>, locks: &[Lock]) -> Option<Said> {
    let npm_locks = locks.is_empty() || locks.iter().any(|lock| lock.manager == Manager::Npm);
    let several = said.len() > 1;
    let mut left = said.into_iter().filter(|said| said.name != "npm" || (!several && npm_locks));
    let first = left.next()?;
    left.next().is_none().then_some(first)
}

/// Which manager is meant; for `yarn`, which of the two is told by its version,
/// or else by the lock file.
fn manager(said: &Said, locks: &[Lock], brought: bool) -> Manager {
    match said.name {
        "pnpm" => Manager::Pnpm,
        "bun" => Manager::Bun,
        "npm" => Manager::Npm,
        _ => {
            if is_exact(&said.text) {
                let classic = ["0.", "1."].iter().any(|front| said.text.starts_with(front));
                return if classic { Manager::Yarn } else { Manager::Berry };
            }
            let lock = locks.iter().find(|lock| lock.manager.command() == "yarn");
            match (lock, releases::range(&said.text)) {
                // Only Yarn 2 and later read `yarnPath`.
                _ if brought => Manager::Berry,
                (_, Some(range)) if !classic_in(&range) => Manager::Berry,
                (Some(lock), _) => lock.manager,
                _ => Manager::Yarn,
            }
        }
    }
}

fn classic_in(range: &Range) -> bool {
    let mut yarns = PINNED.iter().filter(|pinned| pinned.manager == Manager::Yarn);
    yarns.any(|pinned| is_in(range, pinned.release))
}

fn is_in(range: &Range, version: &str) -> bool {
    version.parse::<Version>().is_ok_and(|version| range.satisfies(&version))
}

/// Whether the text is three numbers, with or without a pre-release.
fn is_exact(text: &str) -> bool {
    let (numbers, label) = text.split_once('-').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    numbers.split('.').count() == 3
        && numbers.split('.').all(digits)
        && !label.is_empty()
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

/// The series and the exact version that are used, and where the latter is said.
/// `None` when nothing that forge pins will do.
pub fn release(
    chosen: &Chosen,
    lock: Option<&Lock>,
    node: Option<&str>,
) -> Option<(String, String, String)> {
    if let Some((version, origin)) = &chosen.stated {
        let series = version.split('.').next().unwrap_or_default();
        return Some((series.to_owned(), version.clone(), origin.clone()));
    }
    let format = lock.and_then(|lock| Some((lock.format.as_deref()?, lock)));
    let fits = |pinned: &&Pinned| {
        let reads = |(format, _)| pinned.locks.is_empty() || pinned.locks.contains(&format);
        let runs = |node| pinned.node.parse().is_ok_and(|range| is_in(&range, node));
        pinned.manager == chosen.manager && format.is_none_or(reads) && node.is_none_or(runs)
    };
    let wanted =
        |pinned: &&Pinned| chosen.wanted.as_ref().is_none_or(|range| is_in(range, pinned.release));
    let mut pins = PINNED.iter().filter(fits);
    let found = PINNED.iter().filter(fits).find(wanted).or_else(|| pins.next())?;
    let origin = match format {
        Some((_, lock)) if !found.locks.is_empty() => lock.path.clone(),
        _ => "default".to_owned(),
    };
    Some((found.series.to_owned(), found.release.to_owned(), origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_readable() {
        for pinned in &PINNED {
            assert!(is_exact(pinned.release), "{}", pinned.release);
            assert!(pinned.release.starts_with(&format!("{}.", pinned.series)));
            assert!(pinned.node.parse::<Range>().is_ok(), "{}", pinned.node);
        }
    }

    #[test]
    fn exact_versions() {
        for text in ["1.22.22", "4.0.0-rc.50", "10.0.0"] {
            assert!(is_exact(text), "{text}");
        }
        for text in
            ["", "1", "1.22", "^1.22.22", "1.22.x", "1.2.3.4", "1.2.3-", "1.2.3-é", "..", "v1.2.3"]
        {
            assert!(!is_exact(text), "{text}");
        }
        assert_eq!(version_in_name(".yarn/releases/yarn-3.2.1.cjs"), Some("3.2.1"));
        assert_eq!(version_in_name(".yarn/releases/yarn-berry.cjs"), None);
    }
}
