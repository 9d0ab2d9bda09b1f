//! What `source` promises.

use super::*;
use crate::plan::Selection;

/// A folder with these files.
pub(super) fn app(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, text).expect("write");
    }
    folder
}

#[track_caller]
fn check(files: &[(&str, &str)], rules: &Rules, expected: &[&str]) {
    let folder = app(files);
    let snapshot = Snapshot::take(folder.path(), rules).expect("a snapshot");
    assert!(
        snapshot.files().eq(expected.iter().copied()),
        "{:?}",
        snapshot.files().collect::<Vec<_>>()
    );
}

#[test]
fn defaults_and_ignore_files() {
    check(
        &[
            ("manage.py", ""),
            (".git/config", ""),
            ("venv/bin/python", ""),
            ("a/__pycache__/x.pyc", ""),
            (".env", "SECRET=1"),
            (".env.example", ""),
            ("a/tests/test_x.py", ""),
            ("tests/test_y.py", ""),
            (".gitignore", "*.local\n/media/\n"),
            ("x.local", ""),
            ("media/upload", ""),
            ("a/.gitignore", "secret\n!kept.local\n"),
            ("a/secret", ""),
            ("a/kept.local", ""),
            ("secret", ""),
        ],
        &Rules::default(),
        &[
            ".env.example",
            ".gitignore",
            "a/.gitignore",
            "a/kept.local",
            "a/tests/test_x.py",
            "manage.py",
            "secret",
        ],
    );
}

/// Deeper than a stack of calls would be.
#[test]
fn deep_folders() {
    let folder = app(&[]);
    let mut path = String::new();
    while path.len() + folder.path().as_os_str().len() < 1_500 {
        path.push_str("a/");
    }
    path.push('x');
    fs::create_dir_all(folder.path().join(&path).parent().expect("a parent")).expect("mkdir");
    fs::write(folder.path().join(&path), "").expect("write");
    let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
    assert!(snapshot.files().eq([path.as_str()]));
}

/// They are read after all folders have been looked into.
#[test]
fn long_files_and_those_beside_them() {
    let folder = app(&[("a/short", "1"), ("short", "2"), ("a/b/short", "3")]);
    let long = vec![7; 17 << 20];
    fs::write(folder.path().join("a/long"), &long).expect("write");
    let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
    assert!(snapshot.files().eq(["a/b/short", "a/long", "a/short", "short"]));
    let content = |path: &str| snapshot.content(path).expect("there");
    assert_eq!((content("a/long").size, content("a/long").digest), (17 << 20, Digest::of(&long)));
    assert_eq!(content("a/short").digest, Digest::of(b"1"));
}

#[test]
fn include_wins_over_all_but_the_hard_rules() {
    let rules = Rules::new(
        &["/media/**".to_owned(), ".env".to_owned(), ".git".to_owned()],
        &["*.txt".to_owned()],
        IgnoredConfig::Counts,
    )
    .expect("rules");
    check(
        &[
            ("media/a", ""),
            (".gitignore", "media/"),
            (".env", ""),
            (".git/config", ""),
            ("b.txt", ""),
        ],
        &rules,
        &[".env", ".gitignore", "media/a"],
    );
}

/// What is out or in for a reason, as `path: rule`.
#[track_caller]
fn told(files: &[(&str, &str)], rules: &Rules, expected: &[&str]) {
    let folder = app(files);
    let snapshot = Snapshot::take(folder.path(), rules).expect("a snapshot");
    let told: Vec<String> = snapshot
        .decisions
        .iter()
        .filter(|(_, decision)| !decision.rule.is_empty())
        .filter(|(path, _)| !path.ends_with("ignore") && !path.ends_with(".toml"))
        .map(|(path, decision)| {
            format!("{}{path}: {}", if decision.included { '+' } else { '-' }, decision.rule)
        })
        .collect();
    assert_eq!(told, expected);
    for (path, decision) in snapshot.decisions.iter() {
        assert_eq!(snapshot.decisions.get(path), Some(decision));
        assert_eq!(snapshot.has(path), decision.included, "{path}");
    }
}

#[test]
fn slugignore_knows_no_marks() {
    told(
        &[
            (".slugignore", "# for Heroku\n*.psd\n/docs\n!docs/kept\n/config/database.yml\n"),
            (".gitignore", "/config/*.yml"),
            ("a/x.psd", ""),
            ("docs/kept", ""),
            ("config/database.yml", ""),
            ("!docs/kept", ""),
        ],
        &Rules::default(),
        &[
            "-a/x.psd: *.psd (.slugignore)",
            "-config/database.yml: /config/database.yml (.slugignore)",
            "-docs/: /docs (.slugignore)",
        ],
    );
}

#[test]
fn project_descriptors_leave_out() {
    let files = [
        (".gitignore", "/local"),
        (".env", ""),
        ("a/x.md", ""),
        ("a/y.rb", ""),
        ("b", ""),
        ("local", ""),
    ];
    let with = |descriptor: &'static str| [&files[..], &[("project.toml", descriptor)]].concat();
    told(
        &with("[io.buildpacks]\nexclude = [\"/*\", \"!a/\", \"*.md\", \"!.env\", \"!local\"]"),
        &Rules::default(),
        &[
            "-.env: .env (built in)",
            "-a/x.md: *.md (project.toml)",
            "-b: /* (project.toml)",
            "-local: /local (.gitignore)",
        ],
    );
    told(
        &with("[io.buildpacks]\ninclude = [\"/a\", \"!*.md\", \".env\", \"local\"]"),
        &Rules::default(),
        &[
            "-.env: .env (built in)",
            "-a/x.md: not in `include` (project.toml)",
            "-b: not in `include` (project.toml)",
            "-local: /local (.gitignore)",
        ],
    );
    let forge = Rules::new(&["b".to_owned()], &[], IgnoredConfig::Counts).expect("rules");
    told(
        &with("[build]\nexclude = [\"a/y.rb\", \"b\"]"),
        &forge,
        &[
            "-.env: .env (built in)",
            "-a/y.rb: a/y.rb (project.toml)",
            "+b: b (forge.toml [source] include)",
            "-local: /local (.gitignore)",
        ],
    );
}

#[test]
fn dockerignore_holds_where_nobody_else_speaks() {
    let files = [
        (
            ".dockerignore",
            "docs\n*.txt\n**/*.json\n/config\nfront\n.forge\n!docs/kept\n!front/kept\n!.env\n.ruby-version\n",
        ),
        (".env", ""),
        (".forge/buildpacks/own/x.sh", ""),
        (".forge/cache/x", ""),
        (".forge/notes", ""),
        (".ruby-version", "3.3.8"),
        ("config/database.yml", ""),
        ("config/puma.rb", ""),
        ("docs/a", ""),
        ("docs/kept", ""),
        ("front/package.json", ""),
        ("notes.txt", ""),
        ("requirements.txt", ""),
        ("web/package.json", ""),
        ("web/tsconfig.json", ""),
    ];
    let spared = "(.dockerignore, which does not hide what the build reads)";
    told(
        &files,
        &Rules::default(),
        &[
            "-.env: .env (built in)",
            &format!("+.forge/buildpacks/own/x.sh: .forge {spared}"),
            "-.forge/cache/: /.forge/cache (always)",
            "-.forge/notes: .forge (.dockerignore)",
            &format!("+.ruby-version: .ruby-version {spared}"),
            "+config/database.yml: /config/database.yml (frameworks need it)",
            "-config/puma.rb: /config (.dockerignore)",
            "-docs/a: docs (.dockerignore)",
            "-front/package.json: front (.dockerignore)",
            "-notes.txt: *.txt (.dockerignore)",
            &format!("+requirements.txt: *.txt {spared}"),
            &format!("+web/package.json: **/*.json {spared}"),
            "-web/tsconfig.json: **/*.json (.dockerignore)",
        ],
    );
    let quiet = ["-.env: .env (built in)", "-.forge/cache/: /.forge/cache (always)"];
    let exclude = Rules::new(&[], &["b".to_owned()], IgnoredConfig::Counts).expect("rules");
    let include = Rules::new(&["b".to_owned()], &[], IgnoredConfig::Counts).expect("rules");
    for rules in [exclude, include] {
        told(&files, &rules, &quiet);
    }
    for other in [
        (".forgeignore", ""),
        (".slugignore", "b"),
        ("project.toml", "[io.buildpacks]\ninclude = [\"*\"]"),
    ] {
        let files = [&files[..], &[other]].concat();
        told(&files, &Rules::default(), &quiet);
    }
    let files = [&files[..], &[("project.toml", "[deps]\nA = 1")]].concat();
    let folder = app(&files);
    let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
    assert!(!snapshot.has("notes.txt"));
}

#[test]
fn a_dockerignore_that_hides_the_app_is_for_another_image() {
    let rules = Rules::default();
    let unfit = |files: &[(&str, &str)]| {
        let folder = app(files);
        let snapshot = Snapshot::take(folder.path(), &rules).expect("a snapshot");
        (snapshot.unfit_dockerignore.clone(), snapshot.has("a.md"))
    };
    let (heart, notes) = (("manage.py", ""), ("a.md", ""));
    let found = unfit(&[(".dockerignore", "*\n!Gemfile"), heart, notes]);
    assert_eq!(found, (Some("manage.py".to_owned()), true));
    let found = unfit(&[(".dockerignore", "*\n!*.py"), heart, notes]);
    assert_eq!(found, (None, false));
    assert_eq!(unfit(&[(".dockerignore", "manage.py"), notes]), (None, true));
}

#[test]
fn what_a_python_project_names_in_its_metadata() {
    let files = [(".dockerignore", "*.md\nLICENSE"), ("README.md", ""), ("LICENSE", "")];
    let hidden = ["-LICENSE: LICENSE (.dockerignore)", "-README.md: *.md (.dockerignore)"];
    told(&files, &Rules::default(), &hidden);
    let files = [&files[..], &[("pyproject.toml", "")]].concat();
    let folder = app(&files);
    let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
    assert!(snapshot.files().eq(["LICENSE", "README.md", "pyproject.toml"]));
}

#[test]
fn configuration_that_git_ignores() {
    let files = [
        (".gitignore", "/config/*.yml\n/lib/*.yml\nlocal_settings.py\n"),
        ("config/configuration.yml", ""),
        ("config/configuration.yml.example", ""),
        ("config/database.yml", ""),
        ("config/newrelic.sample.yml", ""),
        ("config/newrelic.yml", ""),
        ("config/own.yml", ""),
        ("lib/a.yml", ""),
        ("lib/a.yml.example", ""),
        ("site/local_settings.py", ""),
    ];
    told(
        &files,
        &Rules::default(),
        &[
            "+config/configuration.yml: beside configuration.yml.example (frameworks need it)",
            "+config/database.yml: /config/database.yml (frameworks need it)",
            "-config/newrelic.sample.yml: /config/*.yml (.gitignore)",
            "+config/newrelic.yml: beside newrelic.sample.yml (frameworks need it)",
            "-config/own.yml: /config/*.yml (.gitignore)",
            "-lib/a.yml: /lib/*.yml (.gitignore)",
            "+site/local_settings.py: local_settings.py (frameworks need it)",
        ],
    );
    let without = Rules::new(&[], &[], IgnoredConfig::StaysOut).expect("rules");
    told(
        &files,
        &without,
        &[
            "-config/configuration.yml: /config/*.yml (.gitignore)",
            "-config/database.yml: /config/*.yml (.gitignore)",
            "-config/newrelic.sample.yml: /config/*.yml (.gitignore)",
            "-config/newrelic.yml: /config/*.yml (.gitignore)",
            "-config/own.yml: /config/*.yml (.gitignore)",
            "-lib/a.yml: /lib/*.yml (.gitignore)",
            "-site/local_settings.py: local_settings.py (.gitignore)",
        ],
    );
    let mut files = files.to_vec();
    files.push((".forgeignore", "/config/database.yml\n/config/configuration.yml"));
    let folder = app(&files);
    let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
    for path in ["config/database.yml", "config/configuration.yml"] {
        let decision = snapshot.decisions.get(path).expect("decided");
        assert_eq!((decision.by, decision.included), (By::User, false));
    }
}

#[test]
fn locks_that_git_ignores() {
    let locks = "*.lock\npackage-lock.json\nGemfile.local\n";
    let ruby =
        [(".gitignore", locks), ("Gemfile", ""), ("Gemfile.local", ""), ("Gemfile.lock", "")];
    for config in [IgnoredConfig::Counts, IgnoredConfig::StaysOut] {
        told(
            &ruby,
            &Rules::new(&[], &[], config).expect("rules"),
            &[
                "+Gemfile.local: /Gemfile.local (the build needs it)",
                "+Gemfile.lock: beside Gemfile (the build needs it)",
            ],
        );
    }
    let ignored = "-Gemfile.lock: *.lock (.gitignore)";
    told(&[(".gitignore", locks), ("Gemfile.lock", "")], &Rules::default(), &[ignored]);
    let excluded = [&ruby[..], &[(".slugignore", "Gemfile.lo*")]].concat();
    told(
        &excluded,
        &Rules::default(),
        &["-Gemfile.local: Gemfile.lo* (.slugignore)", "-Gemfile.lock: Gemfile.lo* (.slugignore)"],
    );
    told(
        &[
            (".gitignore", locks),
            ("a/package.json", ""),
            ("a/package-lock.json", ""),
            ("b/package.json", ""),
            ("b/package-lock.json", ""),
            ("b/pnpm-lock.yaml", ""),
            ("c/pyproject.toml", ""),
            ("c/uv.lock", ""),
            ("d/pyproject.toml", ""),
            ("d/requirements.txt", ""),
            ("d/uv.lock", ""),
        ],
        &Rules::default(),
        &[
            "+a/package-lock.json: beside package.json (the build needs it)",
            "-b/package-lock.json: package-lock.json (.gitignore)",
            "+c/uv.lock: beside pyproject.toml (the build needs it)",
            "-d/uv.lock: *.lock (.gitignore)",
        ],
    );
}

#[test]
fn what_is_there_and_left_out() {
    let files = [(".gitignore", "a\nb.txt\n"), ("a/x/y", ""), ("b.txt", ""), ("c", "")];
    let folder = app(&files);
    let snapshot = Snapshot::take(folder.path(), &Rules::default()).expect("a snapshot");
    for (path, expected) in [
        ("a/x/y", Some("a (.gitignore)")),
        ("a/x", Some("a (.gitignore)")),
        ("a", Some("a (.gitignore)")),
        ("b.txt", Some("b.txt (.gitignore)")),
        ("a/z", None),
        ("c", None),
        ("", None),
        ("/a", None),
        ("a/../b.txt", None),
    ] {
        let found = snapshot.excluded_by(path).map(|decision| decision.rule.as_str());
        assert_eq!(found, expected, "{path}");
    }
}

/// More than are looked at together: entries of one folder, with a lock far from its manifest, and
/// folders in one.
#[test]
fn very_many_in_one_folder() {
    let folder = app(&[(".gitignore", "package-lock.json\n")]);
    let mut expected = vec![".gitignore".to_owned()];
    let mut add = |path: String| {
        let full = folder.path().join(&path);
        fs::create_dir_all(full.parent().expect("a parent")).expect("mkdir");
        fs::write(full, &path).expect("write");
        expected.push(path);
    };
    // In the order of bytes these are between the two.
    (0..9000).for_each(|number| add(format!("package-m{number}")));
    ["package-lock.json", "package.json"].iter().for_each(|name| add((*name).to_owned()));
    (0..2100).for_each(|number| add(format!("x{number}/file")));
    expected.sort();
    let first = Snapshot::take_again(folder.path(), &Rules::default(), &Seen::default());
    let (snapshot, seen) = first.expect("a snapshot");
    assert!(snapshot.files().eq(expected.iter().map(String::as_str)));
    assert!(snapshot.decisions.get("package-lock.json").is_some_and(|it| it.included));
    let tree = |snapshot: &Snapshot| {
        let everything = Selection { rules: vec!["*".to_owned()] };
        snapshot.select(&everything).expect("a tree")
    };
    let (again, _) =
        Snapshot::take_again(folder.path(), &Rules::default(), &seen).expect("a snapshot");
    assert_eq!(tree(&again), tree(&snapshot));
    let content = Digest::of(b"x2099/file");
    assert_eq!(again.content("x2099/file").map(|content| content.digest), Some(content));
}
