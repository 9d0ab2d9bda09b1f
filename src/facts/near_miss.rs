//! Files that are almost what forge looks for, for the message when nothing
//! matched.
//!
//! Two kinds: a name at the root that is one slip away from a known name, and a
//! known name in a folder below when the root has none. Shown only after a
//! miss; nothing here changes what is built.

use std::collections::BTreeMap;

use super::{depth, in_app};

/// A file that is almost what forge looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The file that is there.
    pub path: String,
    /// The name that forge looks for.
    pub meant: String,
    /// What to do, as a sentence without a dot.
    pub advice: String,
}

/// The files that make an application, in the order in which they say most.
const MANIFESTS: [&str; 11] = [
    "Gemfile",
    "manage.py",
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "pylock.toml",
    "Pipfile.lock",
    "requirements.txt",
    "pyproject.toml",
    "package.json",
    "Gemfile.lock",
];

/// Other names that forge reads at the root.
const OTHERS: [&str; 9] = [
    "Pipfile",
    "Procfile",
    ".python-version",
    ".ruby-version",
    ".node-version",
    "runtime.txt",
    "forge.toml",
    "project.toml",
    "config.ru",
];

/// Names that people use and that no rule below finds.
const ALIASES: [(&str, &str); 4] = [
    ("require.txt", "requirements.txt"),
    ("requirements.pip", "requirements.txt"),
    ("gemfile.rb", "Gemfile"),
    ("package.json5", "package.json"),
];

/// How deep below the root an application is looked for.
const DEEPEST: usize = 2;

/// A name this long may differ by two letters, a shorter one by one.
const LONG_NAME: usize = 10;

/// What was probably meant, by path.
#[must_use]
pub fn near_misses(paths: &[&str]) -> Vec<NearMiss> {
    let at_root = |name: &str| paths.contains(&name);
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| depth(path) == 0) {
        if let Some(meant) = meant_by(path).filter(|meant| !at_root(meant)) {
            let advice = format!("rename `{path}` to `{meant}`");
            found.push(NearMiss { path: (*path).to_owned(), meant: meant.to_owned(), advice });
        }
    }
    found.extend(without_lock(&at_root));
    if !MANIFESTS.iter().any(|name| at_root(name)) {
        found.extend(below(paths));
    }
    found
}

/// The name at most one slip away; `None` for a known name and for a stranger.
fn meant_by(name: &str) -> Option<&'static str> {
    let known = || MANIFESTS.iter().chain(&OTHERS).copied();
    if known().any(|canonical| canonical == name) || name.len() > 40 {
        return None;
    }
    let lower = name.to_lowercase();
    if let Some((_, meant)) = ALIASES.iter().find(|(alias, _)| *alias == lower) {
        return Some(meant);
    }
    let letters = |text: &str| {
        let text = text.to_lowercase();
        text.trim_end_matches(".txt").chars().filter(|c| c.is_alphanumeric()).collect::<String>()
    };
    known().find(|canonical| letters(canonical) == letters(name)).or_else(|| {
        known()
            .map(|canonical| (slips(&canonical.to_lowercase(), &lower), canonical))
            .filter(|(slips, canonical)| *slips <= 1 + usize::from(canonical.len() >= LONG_NAME))
            .min_by_key(|(slips, _)| *slips)
            .map(|(_, canonical)| canonical)
    })
}

/// Letters to add, drop, change or swap with a neighbour to get from one to the other.
fn slips(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let change = usize::from(from[i - 1] != to[j - 1]);
            let mut least =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

fn without_lock(at_root: &dyn Fn(&str) -> bool) -> Vec<NearMiss> {
    let mut found = Vec::new();
    let mut miss = |path: &str, meant: &str, advice: &str| {
        found.push(NearMiss {
            path: path.to_owned(),
            meant: meant.to_owned(),
            advice: advice.to_owned(),
        });
    };
    let locked = ["uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "requirements.txt"];
    if locked.iter().any(|name| at_root(name)) || at_root("Pipfile.lock") {
        return found;
    }
    if at_root("Pipfile") {
        miss("Pipfile", "Pipfile.lock", "run `pipenv lock` and commit Pipfile.lock");
    }
    if at_root("pyproject.toml") {
        let advice = "add a [project] table, or commit the lock file of uv, poetry or pdm";
        miss("pyproject.toml", "a lock file", advice);
    }
    if at_root("setup.py") {
        let advice = "list the dependencies in requirements.txt or pyproject.toml";
        miss("setup.py", "requirements.txt", advice);
    }
    let described = ["Pipfile", "pyproject.toml", "setup.py"].iter().any(|name| at_root(name));
    if at_root("manage.py") && !described {
        let advice = "list Django and the app's other packages in requirements.txt (`pip freeze` names them)";
        miss("manage.py", "requirements.txt", advice);
    }
    found
}

/// Applications in folders below, one line each.
fn below(paths: &[&str]) -> Vec<NearMiss> {
    let mut folders: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for path in paths.iter().filter(|path| (1..=DEEPEST).contains(&depth(path)) && in_app(path)) {
        let Some((folder, name)) = path.rsplit_once('/') else { continue };
        let Some(rank) = MANIFESTS.iter().position(|manifest| *manifest == name) else { continue };
        let best = folders.entry(folder).or_insert((rank, path));
        *best = (*best).min((rank, path));
    }
    let line = |(folder, (rank, path)): (&str, (usize, &str))| NearMiss {
        path: path.to_owned(),
        meant: MANIFESTS[rank].to_owned(),
        advice: format!("run `forge build {folder}`"),
    };
    folders.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(paths: &[&str], expected: &[(&str, &str, &str)]) {
        let found = near_misses(paths);
        let found: Vec<(&str, &str, &str)> =
            found.iter().map(|m| (m.path.as_str(), m.meant.as_str(), m.advice.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[track_caller]
    fn renamed(path: &str, meant: &str) {
        check(&[path], &[(path, meant, &format!("rename `{path}` to `{meant}`"))]);
    }

    #[test]
    fn slips_of_the_hand() {
        renamed("requirments.txt", "requirements.txt");
        renamed("Requirements.txt", "requirements.txt");
        renamed("requirement.txt", "requirements.txt");
        renamed("requirements", "requirements.txt");
        renamed("requirements.txt.txt", "requirements.txt");
        renamed("gemfile", "Gemfile");
        renamed("Gemfile.txt", "Gemfile");
        renamed("Procfile.txt", "Procfile");
        renamed("procfile", "Procfile");
        renamed(".python_version", ".python-version");
        renamed("python-version", ".python-version");
        renamed(".python-version.txt", ".python-version");
        renamed("pacakge.json", "package.json");
        renamed("manager.py", "manage.py");
    }

    #[test]
    fn strangers() {
        for name in [
            ".profile",
            "README.md",
            "Procfile.dev",
            "requirements-dev.txt",
            "requirements.in",
            "uv.toml",
        ] {
            check(&[name], &[]);
        }
        check(&["gemfile", "Gemfile"], &[]);
        check(&["project.toml"], &[]);
    }

    #[test]
    fn no_lock() {
        check(
            &["Pipfile"],
            &[("Pipfile", "Pipfile.lock", "run `pipenv lock` and commit Pipfile.lock")],
        );
    }

    #[test]
    fn folders_below() {
        check(
            &["apps/api/manage.py", "apps/api/requirements.txt", "web/package.json"],
            &[
                ("apps/api/manage.py", "manage.py", "run `forge build apps/api`"),
                ("web/package.json", "package.json", "run `forge build web`"),
            ],
        );
        check(&["a/b/c/Gemfile", "node_modules/x/package.json", "tests/x/Gemfile"], &[]);
        check(&["Gemfile", "web/package.json"], &[]);
    }
}
