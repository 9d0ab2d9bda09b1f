//! What the app's files make worth saying, whatever the app is: rules that give way
//! to others, secrets on their way into the image, files that are not what they
//! seem. Nothing here changes a file or a plan.

use std::cell::LazyCell;
use std::fs::{self, File};
use std::io::Read;

use regex::bytes::Regex;

use super::failure::Failure;
use crate::source::{By, Content, Decision, Snapshot, matching};

/// What is so, and what to do about it.
pub(super) type Notice = (String, String);

/// Names of files that hold secrets more often than not.
const SECRETS: &[&str] = &[
    "*.key",
    "*.keystore",
    "*.jks",
    "*.kdbx",
    "*.p12",
    "*.pfx",
    "*credentials*.json",
    "service-account*.json",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    ".netrc",
    ".pgpass",
    // Translations of the word, not the thing.
    "!**/locale/**",
    "!**/locales/**",
    "!**/i18n/**",
];

/// How many files a notice names.
const NAMED: usize = 3;

/// How many rules the advice of a failure names.
const RULES_NAMED: usize = 3;

/// The first line of a file that stands for one in git-LFS.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";

/// A pointer has fewer bytes: `docs/spec.md` of git-LFS.
const POINTER_SIZE: u64 = 1024;

/// How much of a script is read to see how it starts.
const HEAD: u64 = 256;

pub(super) fn of_files(snapshot: &Snapshot) -> Vec<Notice> {
    let notices = [
        needed(snapshot, By::Framework),
        needed(snapshot, By::Dependencies),
        dockerignore(snapshot),
        secrets(snapshot),
        scripts(snapshot),
        pointers(snapshot),
        submodules(snapshot),
    ];
    notices.into_iter().flatten().collect()
}

/// The failure, with the rules that leave out files of which its texts speak.
pub(super) fn with_left_out(failure: Failure, snapshot: &Snapshot) -> Failure {
    let mut advice: Vec<String> = Vec::new();
    for text in [&failure.message].into_iter().chain(&failure.advice) {
        for word in text.split(|c: char| c.is_whitespace() || "`'\"(),;".contains(c)) {
            let path = word.trim_end_matches(['.', ':', '/']).trim_start_matches("./");
            // A word of the sentence may be the name of a folder, but hardly of a file.
            let meant = path.contains(['.', '/']) || snapshot.decisions.get(path).is_some();
            let Some(decision) = snapshot.excluded_by(path).filter(|_| meant) else { continue };
            let line = format!("`{path}` is there, and a rule leaves it out: {}", decision.rule);
            if decision.by != By::BuiltIn && !advice.contains(&line) && advice.len() < RULES_NAMED {
                advice.push(line);
            }
        }
    }
    advice.extend(failure.advice);
    Failure { advice, ..failure }
}

fn needed(snapshot: &Snapshot, by: By) -> Option<Notice> {
    let decided = |decision: &Decision| decision.by == by && decision.overruled.is_some();
    let paths: Vec<&str> = snapshot
        .decisions
        .iter()
        .filter(|(_, decision)| decided(decision))
        .map(|(path, _)| path)
        .collect();
    let named = named(&paths)?;
    let goes = if paths.len() == 1 { "is ignored and goes" } else { "are ignored and go" };
    Some(if by == By::Framework {
        (
            format!("{named} {goes} into the image all the same, as the framework reads such files"),
            "if they hold secrets that do not belong there: `[source] exclude` in forge.toml, or --no-ignored-config"
                .to_owned(),
        )
    } else {
        (
            format!(
                "{named} {goes} into the build all the same, as it installs what such files say"
            ),
            "commit them, so that others build the same".to_owned(),
        )
    })
}

fn dockerignore(snapshot: &Snapshot) -> Option<Notice> {
    let own = "write a .forgeignore, and .dockerignore is not read";
    if let Some(heart) = &snapshot.unfit_dockerignore {
        return Some((
            format!(
                ".dockerignore leaves out `{heart}`: it is for an image without the app, and not used"
            ),
            format!("to leave out other files, {own}"),
        ));
    }
    let hidden = |decision: &Decision| decision.by == By::Docker && !decision.included;
    let (mut folders, mut files) = (0, 0);
    for (path, _) in snapshot.decisions.iter().filter(|(_, decision)| hidden(decision)) {
        *(if path.ends_with('/') { &mut folders } else { &mut files }) += 1;
    }
    let counted = |number: usize, one: &str| match number {
        0 => None,
        1 => Some(format!("one {one}")),
        number => Some(format!("{number} {one}s")),
    };
    let parts: Vec<String> =
        [counted(files, "file"), counted(folders, "folder")].into_iter().flatten().collect();
    if parts.is_empty() {
        return None;
    }
    Some((
        format!(".dockerignore leaves {} out of the image", parts.join(" and ")),
        format!("`forge plan --files` shows which; to have other rules, {own}"),
    ))
}

fn secrets(snapshot: &Snapshot) -> Option<Notice> {
    // Built in, and a test builds it.
    let mut secrets = matching("built in", SECRETS.iter().copied()).ok()?;
    let asked = |path: &str| {
        snapshot.decisions.get(path).is_some_and(|decision| decision.by == By::Include)
    };
    let paths: Vec<&str> =
        snapshot.files().filter(|path| secrets.matches(path) && !asked(path)).collect();
    let named = named(&paths)?;
    let go =
        if paths.len() == 1 { "looks like a secret and goes" } else { "look like secrets and go" };
    Some((
        format!("{named} {go} into the image"),
        "exclude what is secret in .forgeignore; `[source] include` in forge.toml says that it is meant"
            .to_owned(),
    ))
}

/// Scripts in `bin/` that a Linux system does not start.
fn scripts(snapshot: &Snapshot) -> Option<Notice> {
    let versioned = LazyCell::new(|| {
        // Built in, and a test uses it.
        Regex::new(r"^#!.*?\b(ruby\d[\w.]*|ruby\.ruby[\d.]+|python\d\.\d+)").ok()
    });
    let mut problems = Vec::new();
    let mut remedies: Vec<&str> = Vec::new();
    for path in snapshot.files().filter(|path| path.starts_with("bin/")) {
        let Some(Content { executable, .. }) = snapshot.content(path) else { continue };
        let head = head(snapshot, path, HEAD);
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if !line.starts_with(b"#!") {
            continue;
        }
        let (problem, remedy) = if line.ends_with(b"\r") {
            ("has the line ends of Windows".to_owned(), "`dos2unix` mends line ends")
        } else if let Some(found) = versioned.as_ref().and_then(|said| said.captures(line)) {
            let program = String::from_utf8_lossy(&found[1]).into_owned();
            (
                format!("asks for `{program}`"),
                "`#!/usr/bin/env ruby` or `python3` is there in any version",
            )
        } else if !executable {
            (
                "is not executable".to_owned(),
                "`git update-index --chmod=+x FILE` and `chmod +x FILE` make a file executable",
            )
        } else {
            continue;
        };
        problems.push(format!("`{path}` {problem}"));
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    if problems.is_empty() {
        return None;
    }
    let more = problems.len().saturating_sub(NAMED);
    problems.truncate(NAMED);
    let rest = if more == 0 { String::new() } else { format!(", and so on with {more} more") };
    Some((
        format!("scripts that do not start in the image: {}{rest}", problems.join(", ")),
        remedies.join("; "),
    ))
}

fn pointers(snapshot: &Snapshot) -> Option<Notice> {
    // Only where git was told to use LFS does any file have to be read.
    let attributes = |path: &&str| path.ends_with(".gitattributes");
    let uses = |path: &str| {
        let text = fs::read(snapshot.root.join(path)).unwrap_or_default();
        String::from_utf8_lossy(&text).contains("filter=lfs")
    };
    let nested = || snapshot.files().filter(attributes).any(uses);
    if !(uses(".gitattributes") || nested()) {
        return None;
    }
    let small = |path: &&str| {
        let content = snapshot.content(path);
        content.is_some_and(|it| (POINTER.len() as u64..POINTER_SIZE).contains(&it.size))
    };
    let paths: Vec<&str> = snapshot
        .files()
        .filter(small)
        .filter(|path| head(snapshot, path, POINTER.len() as u64) == POINTER)
        .collect();
    let named = named(&paths)?;
    let are = if paths.len() == 1 { "is a pointer" } else { "are pointers" };
    Some((
        format!("{named} {are} of git-LFS, and not what the app means by it"),
        "run `git lfs pull` before the build".to_owned(),
    ))
}

fn submodules(snapshot: &Snapshot) -> Option<Notice> {
    let text = fs::read(snapshot.root.join(".gitmodules")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let empty = |path: &&str| {
        fs::read_dir(snapshot.root.join(path)).is_ok_and(|mut entries| entries.next().is_none())
    };
    let paths: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("path")?.trim_start().strip_prefix('='))
        .map(str::trim)
        .filter(|path| snapshot.excluded_by(path).is_none())
        .filter(empty)
        .collect();
    let named = named(&paths)?;
    let are = if paths.len() == 1 { "a submodule of git, is" } else { "submodules of git, are" };
    Some((
        format!("{named}, {are} empty"),
        "run `git submodule update --init --recursive` before the build".to_owned(),
    ))
}

/// The first of these paths, and how many more there are; `None` when there is none.
fn named(paths: &[&str]) -> Option<String> {
    let quoted: Vec<String> = paths.iter().take(NAMED).map(|path| format!("`{path}`")).collect();
    match (paths.len().saturating_sub(NAMED), quoted.split_last()?) {
        (0, (last, [])) => Some(last.clone()),
        (0, (last, front)) => Some(format!("{} and {last}", front.join(", "))),
        (more, _) => Some(format!("{} and {more} more", quoted.join(", "))),
    }
}

/// The first bytes of a file of the snapshot.
fn head(snapshot: &Snapshot, path: &str, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(snapshot.root.join(path)) {
        // A file that was hashed and cannot be read any more fails where it is used.
        let _read = file.take(length).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Kind;
    use crate::source::{IgnoredConfig, Rules};
    use std::os::unix::fs::PermissionsExt;

    fn snapshot(files: &[(&str, &str)]) -> (tempfile::TempDir, Snapshot) {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(&path, text).expect("write");
            let executable = text.ends_with("# x\n");
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        let include = ["meant.key".to_owned()];
        let named = files.iter().any(|(path, _)| *path == "meant.key");
        let include = if named { &include[..] } else { &[] };
        let rules = Rules::new(include, &[], IgnoredConfig::Counts).expect("rules");
        let snapshot = Snapshot::take(folder.path(), &rules).expect("a snapshot");
        (folder, snapshot)
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let (_folder, snapshot) = snapshot(files);
        let found: Vec<String> =
            of_files(&snapshot).into_iter().map(|(message, _)| message).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_ignored_and_needed() {
        let config = [(".gitignore", "/config/*.yml\n*.lock"), ("config/database.yml", "")];
        check(
            &config,
            &[
                "`config/database.yml` is ignored and goes into the image all the same, as the framework reads such files",
            ],
        );
        check(
            &[&config[..], &[("config/cable.yml", ""), ("Gemfile", ""), ("Gemfile.lock", "")]]
                .concat(),
            &[
                "`config/cable.yml` and `config/database.yml` are ignored and go into the image all the same, as the framework reads such files",
                "`Gemfile.lock` is ignored and goes into the build all the same, as it installs what such files say",
            ],
        );
        check(&[(".dockerignore", "Gemfile.lock"), ("Gemfile", ""), ("Gemfile.lock", "")], &[]);
    }

    #[test]
    fn what_docker_ignores() {
        let files = [("a.md", ""), ("b/c", ""), ("tests/x", "")];
        let with = |rules: &'static str| [&files[..], &[(".dockerignore", rules)]].concat();
        check(&with("b"), &[".dockerignore leaves one folder out of the image"]);
        check(
            &[&with("*.md\nb")[..], &[("d.md", "")]].concat(),
            &[".dockerignore leaves 2 files and one folder out of the image"],
        );
        check(&with("tests\nnode_modules\nDockerfile"), &[]);
        check(
            &[&with("*")[..], &[("config.ru", "")]].concat(),
            &[
                ".dockerignore leaves out `config.ru`: it is for an image without the app, and not used",
            ],
        );
    }

    #[test]
    fn what_looks_like_a_secret() {
        check(
            &[("a/server.key", "")],
            &["`a/server.key` looks like a secret and goes into the image"],
        );
        check(
            &[
                (".netrc", ""),
                ("gcp-credentials.prod.json", ""),
                ("service-account-1.json", ""),
                ("x.kdbx", ""),
                ("x.p12", ""),
            ],
            &[
                "`.netrc`, `gcp-credentials.prod.json`, `service-account-1.json` and 2 more look like secrets and go into the image",
            ],
        );
        check(
            &[
                (".gitignore", "*.p12"),
                ("a.p12", ""),
                ("config/credentials.yml.enc", ""),
                ("config/locales/credentials.json", ""),
                ("config/master.key", ""),
                ("id_rsa", ""),
                ("keyboard.rb", ""),
                ("meant.key", ""),
            ],
            &[],
        );
    }

    #[test]
    fn scripts_that_do_not_start() {
        check(
            &[
                ("bin/data", "x"),
                ("bin/good", "#!/usr/bin/env ruby\n# x\n"),
                ("bin/python", "#!/usr/bin/env python3\n# x\n"),
                ("lib/other", "#!/usr/bin/env ruby\n"),
            ],
            &[],
        );
        let (_folder, snapshot) = snapshot(&[
            ("bin/a", "#!/usr/bin/env ruby\r\n# x\n"),
            ("bin/b", "#!/usr/bin/env ruby2.7\n# x\n"),
            ("bin/c", "#!/usr/bin/ruby.ruby3.3\n# x\n"),
            ("bin/d", "#!/usr/bin/python3.8 -u\n# x\n"),
            ("bin/e", "#!/bin/sh\n"),
        ]);
        let (message, advice) = scripts(&snapshot).expect("a notice");
        assert_eq!(
            message,
            "scripts that do not start in the image: `bin/a` has the line ends of Windows, `bin/b` asks for `ruby2.7`, \
             `bin/c` asks for `ruby.ruby3.3`, and so on with 2 more"
        );
        assert!(advice.contains("dos2unix") && advice.contains("chmod"), "{advice}");
        check(
            &[("bin/e", "#!/bin/sh\n")],
            &["scripts that do not start in the image: `bin/e` is not executable"],
        );
        check(
            &[("bin/d", "#!/usr/bin/python3.8 -u\n# x\n")],
            &["scripts that do not start in the image: `bin/d` asks for `python3.8`"],
        );
    }

    #[test]
    fn what_git_keeps_elsewhere() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        let files =
            [("a.png", pointer), ("b.txt", "version 1, and many more words than a pointer has")];
        check(&files, &[]);
        let attributes = (".gitattributes", "*.png filter=lfs diff=lfs merge=lfs -text");
        check(
            &[&files[..], &[attributes]].concat(),
            &["`a.png` is a pointer of git-LFS, and not what the app means by it"],
        );
        let (folder, _) = snapshot(&[
            (
                ".gitmodules",
                "[submodule \"x\"]\n\tpath = lib/x\n\turl = y\n[submodule \"z\"]\n\tpath=lib/z\n",
            ),
            ("lib/z/file", ""),
        ]);
        fs::create_dir(folder.path().join("lib/x")).expect("mkdir");
        let again = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
        let found = submodules(&again).map(|(message, _)| message);
        assert_eq!(found.as_deref(), Some("`lib/x`, a submodule of git, is empty"));
    }

    #[test]
    fn failures_name_the_rules_that_hide_files() {
        let (_folder, snapshot) = snapshot(&[
            (".slugignore", "*.lock\ndocs\nProcfile\nvendored"),
            ("Gemfile.lock", ""),
            ("Procfile", ""),
            ("docs/a", ""),
            ("vendored/a/b.gemspec", ""),
            ("node_modules/a.js", ""),
        ]);
        let told = |message: &str, advice: &str| {
            let failure = Failure::new(Kind::App, message).advise(advice);
            let mut advice = with_left_out(failure, &snapshot).advice;
            assert!(advice.pop().is_some());
            advice
        };
        let lock = "`Gemfile.lock` is there, and a rule leaves it out: *.lock (.slugignore)";
        assert_eq!(told("no Gemfile.lock", "commit Gemfile.lock"), [lock]);
        assert_eq!(
            told("there is no Procfile", "x"),
            ["`Procfile` is there, and a rule leaves it out: Procfile (.slugignore)"]
        );
        assert_eq!(
            told("gems come from `vendored/a`, which", "x"),
            ["`vendored/a` is there, and a rule leaves it out: vendored (.slugignore)"]
        );
        assert_eq!(told("see the docs", "uv.lock, node_modules/a.js"), [""; 0]);
    }
}
