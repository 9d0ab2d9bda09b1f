//! Every file that installing the packages may read.
//!
//! A file too many costs a build that could have been spared; a file too few
//! makes a build that fails or, worse, one that is reused when it should not
//! be. So where scripts run, all that they can see counts.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobMatcher};
use serde_json::Value;

use crate::facts::{FactError, Files, Refusal, below, joined, parsed};

use super::manifest::Manifest;
use super::yaml;

/// Files beside package.json that package managers read.
const SETTINGS: [&str; 10] = [
    ".npmrc",
    ".pnp.cjs",
    ".pnp.js",
    ".pnp.loader.mjs",
    ".pnpmfile.cjs",
    ".pnpmfile.mjs",
    ".yarnrc",
    ".yarnrc.yml",
    "bunfig.toml",
    WORKSPACE,
];

/// Where pnpm keeps its settings and the members of the workspace.
const WORKSPACE: &str = "pnpm-workspace.yaml";

/// Folders beside package.json of which they read all.
const FOLDERS: [&str; 7] = [
    ".yarn/cache",
    ".yarn/patches",
    ".yarn/plugins",
    ".yarn/releases",
    ".yarn/sdks",
    ".yarn/versions",
    "patches",
];

/// Keys under which package.json may name folders and patches.
const NAMING: [&str; 7] = [
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "overrides",
    "patchedDependencies",
    "pnpm",
    "resolutions",
];

/// The files, sorted. `more` are those that are known already: the lock file, the
/// Yarn that the app brings along.
///
/// # Errors
/// A package.json or a pnpm-workspace.yaml that cannot be read.
pub fn inputs(
    files: &dyn Files,
    manifest: &Manifest,
    more: impl IntoIterator<Item = String>,
) -> Result<BTreeSet<String>, FactError> {
    let root = manifest.folder();
    let mut found: BTreeSet<String> = more.into_iter().collect();
    found.insert(manifest.path.clone());
    let settings = SETTINGS.iter().filter_map(|name| joined(root, name));
    found.extend(settings.filter(|path| files.has(path)));
    found.extend(FOLDERS.iter().flat_map(|name| below(files, root, name)));
    if !manifest.install_scripts().is_empty() {
        found.extend(below(files, root, "."));
    }
    let mut waiting: Vec<String> = named_by(files, manifest, &mut found);
    waiting.extend(members(files, manifest)?);
    let mut seen = BTreeSet::from([manifest.path.clone()]);
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let Some(member) = Manifest::read(files, &path)? else { continue };
        if !member.install_scripts().is_empty() {
            found.extend(below(files, member.folder(), "."));
        }
        waiting.extend(named_by(files, &member, &mut found));
        found.insert(path);
    }
    Ok(found)
}

/// Adds the folders, archives and patches that a package.json names; gives the
/// package.json of each folder.
fn named_by(files: &dyn Files, manifest: &Manifest, found: &mut BTreeSet<String>) -> Vec<String> {
    let mut texts = Vec::new();
    for key in NAMING {
        manifest.at(&[key]).into_iter().for_each(|value| gather(value, &mut texts));
    }
    let mut manifests = Vec::new();
    for text in texts {
        let Some(place) = place(text) else { continue };
        let Some(path) = joined(manifest.folder(), place) else { continue };
        found.extend(below(files, "", &path));
        if files.has(&path) {
            found.insert(path);
        } else if let Some(path) = joined(&path, "package.json") {
            manifests.push(path);
        }
    }
    manifests
}

/// Every text in a value.
fn gather<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(list) => list.iter().for_each(|value| gather(value, texts)),
        Value::Object(object) => object.values().for_each(|value| gather(value, texts)),
        _ => {}
    }
}

/// The path in a dependency's range: `file:../lib`, `./lib`, the patch after `#`
/// of `patch:`, or the text itself, which `patchedDependencies` has.
fn place(text: &str) -> Option<&str> {
    if let Some(patched) = text.strip_prefix("patch:") {
        let patch = patched.split_once('#')?.1.split("::").next()?;
        return Some(patch.strip_prefix("~/").unwrap_or(patch));
    }
    for protocol in ["file:", "link:", "portal:"] {
        if let Some(path) = text.strip_prefix(protocol) {
            return Some(path.strip_prefix("//").unwrap_or(path));
        }
    }
    let path = text.starts_with("./") || text.starts_with("../") || text.ends_with(".patch");
    path.then_some(text)
}

/// The package.json of every member of the workspace.
fn members(files: &dyn Files, manifest: &Manifest) -> Result<Vec<String>, FactError> {
    let root = manifest.folder();
    let line = manifest.line(&["workspaces"]).unwrap_or(1);
    let patterns = manifest.workspaces().into_iter().map(|text| (text, line));
    let listed = Members::named(root, patterns).map_err(|err| err.within(&manifest.path))?;
    let mut found = listed.find(files);
    if let Some(path) = joined(root, WORKSPACE) {
        let listed = parsed(files, &path, |text| {
            let patterns = yaml::list(text, "packages")?;
            Members::named(root, patterns.iter().map(|(text, line)| (text.as_str(), *line)))
        })?;
        found.extend(listed.into_iter().flat_map(|listed| listed.find(files)));
    }
    Ok(found)
}

/// Patterns for the folders of members.
struct Members {
    wanted: Vec<GlobMatcher>,
    /// Those with `!` before them.
    unwanted: Vec<GlobMatcher>,
}

impl Members {
    fn named<'a>(
        root: &str,
        patterns: impl Iterator<Item = (&'a str, usize)>,
    ) -> Result<Members, Refusal> {
        let mut members = Members { wanted: Vec::new(), unwanted: Vec::new() };
        for (text, line) in patterns {
            let (list, pattern) = match text.strip_prefix('!') {
                Some(pattern) => (&mut members.unwanted, pattern),
                None => (&mut members.wanted, text),
            };
            // A pattern that leads out of the app names nothing in it.
            let Some(pattern) = joined(root, pattern) else { continue };
            let glob = GlobBuilder::new(&pattern).literal_separator(true).build();
            let glob = glob.map_err(|err| {
                Refusal::at(line, format!("`{text}` is not a pattern: {}", err.kind()))
            })?;
            list.push(glob.compile_matcher());
        }
        Ok(members)
    }

    fn find(&self, files: &dyn Files) -> Vec<String> {
        let member = |path: &&str| {
            path.strip_suffix("/package.json").is_some_and(|folder| {
                let any = |list: &[GlobMatcher]| list.iter().any(|glob| glob.is_match(folder));
                any(&self.wanted) && !any(&self.unwanted)
            })
        };
        files.paths().filter(member).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (text, expected) in [
            ("file:../lib", Some("../lib")),
            ("link:./lib", Some("./lib")),
            ("portal:lib", Some("lib")),
            ("file:///lib", Some("/lib")),
            ("./lib", Some("./lib")),
            ("../lib", Some("../lib")),
            ("patches/a@1.patch", Some("patches/a@1.patch")),
            ("patch:a@npm%3A1#~/fix/a.patch::version=1&hash=2", Some("fix/a.patch")),
            ("patch:a@npm%3A1#./fix/a.patch", Some("./fix/a.patch")),
            ("^1.2.3", None),
            ("workspace:*", None),
            ("npm:other@1", None),
        ] {
            assert_eq!(place(text), expected, "{text}");
        }
    }
}
