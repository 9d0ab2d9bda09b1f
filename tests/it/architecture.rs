//! Rules of the house that a compiler does not check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may use. A new arrow is a decision: draw it in
/// `docs/architecture.md` first.
const ARROWS: &[(&str, &[&str])] = &[
    ("buildpack", &["digest", "facts", "plan", "tree"]),
    (
        "cli",
        &[
            "buildpack",
            "daemon",
            "debian",
            "digest",
            "download",
            "engine",
            "event",
            "facts",
            "image",
            "layer",
            "lock",
            "memory",
            "plan",
            "registry",
            "sandbox",
            "source",
            "store",
            "tree",
        ],
    ),
    ("daemon", &["download", "image", "store"]),
    ("debian", &["digest", "download", "plan", "store", "tree"]),
    ("digest", &[]),
    ("download", &[]),
    (
        "engine",
        &[
            "debian", "digest", "download", "event", "image", "layer", "lock", "memory", "plan",
            "sandbox", "source", "store", "tree",
        ],
    ),
    ("event", &["digest"]),
    ("facts", &[]),
    ("image", &["digest", "layer", "store", "tree"]),
    ("layer", &["digest", "memory", "tree"]),
    ("lock", &["digest", "plan"]),
    ("memory", &[]),
    ("plan", &["digest", "tree"]),
    ("registry", &["digest", "download", "event", "image", "layer", "store"]),
    ("sandbox", &["memory", "tree"]),
    ("source", &["digest", "memory", "plan", "tree"]),
    ("store", &["digest", "memory", "tree"]),
    ("tree", &["digest", "memory"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", ".git", "node_modules"].contains(&name.as_str()) {
            found.extend(files(&path, ending));
        } else if path.is_file() && name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn rooms() -> BTreeMap<String, Vec<PathBuf>> {
    let mut rooms: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let source = root().join("src");
    for file in files(&source, ".rs") {
        let path = file.strip_prefix(&source).unwrap();
        let room = path
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        if !["lib", "main", "launcher"].contains(&room.as_str()) {
            rooms.entry(room).or_default().push(file);
        }
    }
    rooms
}

#[test]
fn arrows_point_one_way() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(room, uses)| (*room, uses.iter().copied().collect())).collect();
    let rooms = rooms();
    assert_eq!(
        rooms.keys().map(String::as_str).collect::<Vec<_>>(),
        allowed.keys().copied().collect::<Vec<_>>(),
        "a room is missing in ARROWS"
    );
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (room, files) in &rooms {
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            // Tests may use anything, also in a file of their own.
            if file.ends_with("tests.rs") {
                continue;
            }
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                for part in line.split("crate::").skip(1) {
                    let name: String = part
                        .chars()
                        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                        .collect();
                    if rooms.contains_key(&name) && name != *room {
                        assert!(
                            allowed[room.as_str()].contains(name.as_str()),
                            "{} uses `{name}`: a new arrow",
                            file.display()
                        );
                        used.entry(room).or_default().insert(name);
                    }
                }
            }
        }
    }
    for (room, uses) in allowed {
        let unused: Vec<_> = uses
            .iter()
            .filter(|name| !used.get(room).is_some_and(|used| used.contains(**name)))
            .collect();
        assert!(unused.is_empty(), "`{room}` does not use {unused:?} any more: remove the arrow");
    }
}

#[test]
fn unsafe_code_is_in_two_rooms() {
    for (room, files) in rooms() {
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            assert!(
                ["memory", "sandbox"].contains(&room.as_str())
                    || !text.contains("allow(unsafe_code"),
                "{}",
                file.display()
            );
        }
    }
}

#[test]
fn modules_say_what_they_are() {
    for file in rooms().into_values().flatten() {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} has no header", file.display());
    }
}

#[test]
fn every_test_file_is_run() {
    let main = fs::read_to_string(root().join("tests/it/main.rs")).unwrap();
    for file in files(&root().join("tests/it"), ".rs") {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            name == "main" || main.contains(&format!("mod {name};")),
            "{name} is not in main.rs"
        );
    }
}
