//! Node: which package.json is the application's, what installs its packages,
//! on which Node.
//!
//! Files are read, never run, and nothing is asked of a registry: what is asked
//! for becomes an exact release through tables that are pinned here. Which of
//! it is needed, at build time or in the image, is for buildpacks to say.

mod inputs;
mod locks;
mod manager;
mod manifest;
mod releases;
mod version;
mod yaml;

use super::{FactError, Facts, Files, depth, in_app, joined, parsed};
use locks::Manager;
use manifest::Manifest;

#[cfg(test)]
pub use fuzzed::parsers;

/// States the `node.*` facts.
///
/// # Errors
/// A package.json, a lock file or a settings file that cannot be read.
pub fn collect(files: &dyn Files, facts: &mut Facts) -> Result<(), FactError> {
    let folders = folders(files)?;
    let [folder] = folders.as_slice() else {
        if let Some(first) = folders.first() {
            let origin = format!("{first}/package.json");
            facts.insert("node.ambiguous", folders.join(", "), origin);
        }
        return Ok(());
    };
    let path = joined(folder, "package.json").unwrap_or_default();
    let Some(manifest) = Manifest::read(files, &path)? else { return Ok(()) };
    facts.insert("node.manifest", path.as_str(), path.as_str());
    facts.insert("node.dir", if folder.is_empty() { "." } else { folder }, path.as_str());
    state_manifest(&manifest, facts);
    version::state(files, &manifest, facts)?;
    state_manager(files, &manifest, facts)
}

/// The folders of the package.json that may be the application's: the root's,
/// or else those one level down that look like more than a stray file.
fn folders(files: &dyn Files) -> Result<Vec<String>, FactError> {
    if files.has("package.json") {
        return Ok(vec![String::new()]);
    }
    let mut found = Vec::new();
    for path in files.paths() {
        let Some(folder) = path.strip_suffix("/package.json") else { continue };
        if depth(path) != 1 || !in_app(path) {
            continue;
        }
        // A template of a package.json is not JSON, and not the application's.
        let builds = || match Manifest::read(files, path) {
            Ok(manifest) => manifest.is_some_and(|found| found.at(&["scripts", "build"]).is_some()),
            Err(_) => false,
        };
        if locks::any(files, folder) || builds() {
            found.push(folder.to_owned());
        }
    }
    Ok(found)
}

/// States what package.json itself says.
fn state_manifest(manifest: &Manifest, facts: &mut Facts) {
    for (name, command) in manifest.texts(&["scripts"]) {
        let origin = manifest.origin(&["scripts", name]);
        facts.insert(format!("node.script.{name}"), command, origin);
    }
    let scripts = manifest.install_scripts();
    if let Some(first) = scripts.first() {
        let origin = manifest.origin(&["scripts", first]);
        facts.insert("node.scripts.install", scripts.join("\n"), origin);
    }
    for (kind, name, range) in manifest.dependencies() {
        let fact = format!("node.package.{name}");
        let origin = manifest.origin(&[kind, name]);
        if is_git(range) && !facts.contains("node.git") {
            facts.insert("node.git", format!("{name} @ {range}"), origin.as_str());
        }
        if !facts.contains(&fact) {
            facts.insert(fact, range, origin);
        }
    }
    if !manifest.texts(&["dependencies"]).is_empty() {
        let origin = manifest.origin(&["dependencies"]);
        facts.insert("node.package.production", "yes", origin);
    }
    for key in ["main", "type"] {
        if let Some(text) = manifest.text(&[key]) {
            facts.insert(format!("node.{key}"), text, manifest.origin(&[key]));
        }
    }
}

/// Whether a range means a git repository: by its protocol, by its host, or as
/// `user/repository`.
fn is_git(range: &str) -> bool {
    const PROTOCOLS: [&str; 8] =
        ["git+", "git:", "git@", "github:", "gitlab:", "bitbucket:", "gist:", "ssh:"];
    let (place, _) = range.split_once('#').unwrap_or((range, ""));
    if PROTOCOLS.iter().any(|protocol| place.starts_with(protocol)) || place.ends_with(".git") {
        return true;
    }
    let parts: Vec<&str> = place.split('/').collect();
    let named = |part: &&str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(letter)
    };
    parts.len() == 2 && parts.iter().all(named)
}

/// States who installs, from which lock file, and what that reads.
fn state_manager(
    files: &dyn Files,
    manifest: &Manifest,
    facts: &mut Facts,
) -> Result<(), FactError> {
    let locks = locks::locks(files, manifest.folder())?;
    let chosen = manager::choose(files, manifest, &locks)?;
    facts.insert("node.manager", chosen.manager.name(), chosen.origin.as_str());
    let own = |lock: &&locks::Lock| lock.manager.command() == chosen.manager.command();
    let lock = locks.iter().find(own);
    if let Some(lock) = lock {
        facts.insert("node.lock", lock.path.as_str(), lock.path.as_str());
    }
    let others: Vec<&str> =
        locks.iter().filter(|lock| !own(lock)).map(|lock| lock.path.as_str()).collect();
    if let Some(first) = others.first() {
        facts.insert("node.lock.others", others.join(", "), *first);
    }
    if let Some((version, origin)) = &chosen.stated {
        facts.insert("node.manager.version", version.as_str(), origin.as_str());
    }
    if let Some((path, origin)) = &chosen.yarn_path {
        facts.insert("node.yarn.path", path.as_str(), origin.as_str());
    }
    if chosen.manager == Manager::Berry
        && let Some((path, origin)) = plug_and_play(files, manifest.folder())?
    {
        facts.insert("node.pnp", path, origin);
    }
    let used = manager::release(&chosen, lock, facts.get("node.release"));
    if let Some((series, release, origin)) = used {
        facts.insert("node.manager.series", series, origin.as_str());
        facts.insert("node.manager.release", release, origin);
    }
    let known = lock.map(|lock| lock.path.clone()).into_iter();
    let known = known.chain(chosen.yarn_path.map(|(path, _)| path));
    let inputs: Vec<String> = inputs::inputs(files, manifest, known)?.into_iter().collect();
    facts.insert("node.inputs", inputs.join("\n"), manifest.path.as_str());
    Ok(())
}

/// The file by which Node finds packages where Yarn 2 and later makes no
/// node_modules, which is so unless its settings say otherwise.
fn plug_and_play(files: &dyn Files, folder: &str) -> Result<Option<(String, String)>, FactError> {
    let settings = joined(folder, ".yarnrc.yml").unwrap_or_default();
    let linker = parsed(files, &settings, |text| yaml::text(text, "nodeLinker"))?.flatten();
    let origin = match linker {
        Some((name, _)) if name != "pnp" => return Ok(None),
        Some((_, line)) => format!("{settings}:{line}"),
        None => "default".to_owned(),
    };
    Ok(joined(folder, ".pnp.cjs").map(|path| (path, origin)))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod fuzzed {
    //! The parsers as one list, for the test that feeds them rubbish.

    use super::releases::{Asked, Table};
    use super::{is_git, locks, manifest, version, yaml};

    /// Every parser, its result dropped.
    pub fn parsers() -> Vec<fn(&str)> {
        vec![
            |text| drop(manifest::parse("package.json", text)),
            |text| drop(manifest::parse("package.json", &format!("{{\"a\":{{{text}}}}}"))),
            |text| drop(locks::yarn(text, || true)),
            |text| drop(locks::pnpm(&format!("lockfileVersion: {text}"))),
            |text| drop(yaml::text(text, "name")),
            |text| drop(yaml::list(&format!("packages:{text}"), "packages")),
            |text| drop(version::version_file(text)),
            |text| drop(version::tool_versions(text)),
            |text| drop(version::mise(text)),
            |text| {
                let _ = is_git(text);
            },
            |text| {
                if let Ok(asked) = text.parse::<Asked>() {
                    drop(Table::pinned().release(&asked));
                }
            },
        ]
    }
}
