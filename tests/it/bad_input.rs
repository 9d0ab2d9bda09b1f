//! Bad input: one clear error, its exit code, and nothing on standard output.

use std::fs;
use std::path::Path;

use crate::support::{Forge, app, example, folder, have, need_root, text, warm, warm_lock};

/// A build that fails with this code, one error, and these parts in what it says.
#[track_caller]
pub fn refused(forge: &Forge, app: &Path, code: i32, parts: &[&str]) -> String {
    let output = forge.run(&["build", &app.display().to_string()]);
    let story = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{story}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let errors = story.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{story}");
    for part in parts {
        assert!(story.contains(part), "`{part}` is missing in:\n{story}");
    }
    story
}

fn django(requirements: &str, settings: &str, more: &[(&str, &str)]) -> std::path::PathBuf {
    let manage = "import os, sys\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site_.settings')\n\
         from django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n";
    let mut files = vec![
        ("manage.py", manage),
        ("requirements.txt", requirements),
        ("site_/__init__.py", ""),
        ("site_/settings.py", settings),
    ];
    files.extend(more);
    let app = app("bad", &files);
    warm_lock(&app);
    app
}

const SETTINGS: &str = "SECRET_KEY = 'x'\nINSTALLED_APPS = ['django.contrib.staticfiles', 'site_']\nSTATIC_URL = '/static/'\n";

#[test]
fn nothing_to_build() {
    let forge = Forge::new(&warm().0);
    refused(
        &forge,
        &app("empty", &[]),
        3,
        &["nothing that forge can build was found", "the folder is empty"],
    );
    refused(
        &forge,
        &app("miss", &[("requirments.txt", "django\n"), ("manage.py", "")]),
        3,
        &["`requirments.txt`: did you mean `requirements.txt`?"],
    );
    refused(
        &forge,
        &app("bare", &[("manage.py", "import django"), ("site/settings.py", "")]),
        3,
        &["there is `manage.py` and no requirements.txt"],
    );
    refused(
        &forge,
        &app("deep", &[("a/b/manage.py", "import django"), ("a/b/requirements.txt", "django\n")]),
        3,
        &["a/b", "forge build"],
    );
    let output = forge.run(&["build", "/there/is/no/such/folder"]);
    assert_eq!(output.status.code(), Some(2));
    let output = forge.run(&["build", "--nonsense"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn files_that_do_not_parse() {
    let forge = Forge::new(&warm().0);
    let uv = app(
        "uv",
        &[
            ("uv.lock", "version = 1\n\n[[package]\n"),
            ("pyproject.toml", "[project]\nname = \"x\"\n"),
        ],
    );
    refused(&forge, &uv, 1, &["uv.lock:3"]);
    refused(&forge, &app("proc", &[("Procfile", "web: x\n???\n")]), 1, &["Procfile:2"]);
    let settings =
        app("toml", &[("requirements.txt", "flask\n"), ("forge.toml", "skip = []\nskipp = []\n")]);
    refused(&forge, &settings, 2, &["forge.toml", "skipp"]);
    let lock = app("lock", &[("requirements.txt", "flask\n"), ("forge.lock", "<<<<<<< ours\n")]);
    refused(&forge, &lock, 2, &["forge.lock does not parse"]);
    let project = "[project]\nname = \"x\"\nrequires-python = \"<3.9\"\n";
    let version = app("version", &[("requirements.txt", "flask\n"), ("pyproject.toml", project)]);
    refused(&forge, &version, 1, &["pyproject.toml:3", "`<3.9`", "3.13", "[base] image"]);
}

#[test]
fn packages_that_cannot_be_had() {
    let forge = Forge::new(&warm().0);
    refused(
        &forge,
        &django("django==5.2.8\nthis-package-does-not-exist-at-all==1.0\n", SETTINGS, &[]),
        1,
        &["step `python-lock` failed", "this-package-does-not-exist-at-all", "all that it printed"],
    );
    refused(
        &forge,
        &django("django==5.2.8\nother @ git+https://git.example/other.git\n", SETTINGS, &[]),
        1,
        &["requirements.txt:2", "version control"],
    );
    let wrong_hash = format!("asgiref==3.8.1 --hash=sha256:{}\n", "0".repeat(64));
    refused(
        &forge,
        &django(&wrong_hash, SETTINGS, &[]),
        1,
        &["step `python-lock` failed", "asgiref"],
    );
    let packages = django(
        "django==5.2.8\n",
        SETTINGS,
        &[("forge.toml", "[packages]\nruntime = [\"libpq6\"]\n")],
    );
    refused(&forge, &packages, 1, &["there is no package `libpq6`", "libpq5"]);
}

#[test]
fn a_compile_that_fails() {
    let forge = Forge::new(&warm().0);
    // Needs the headers of OpenLDAP, which nothing provides when the table's
    // packages are not asked for.
    let app = django("pysqlcipher3==1.2.0\n", SETTINGS, &[]);
    let story = refused(
        &forge,
        &app,
        1,
        &["step `python-sources` failed", "  | ", "all that it printed: "],
    );
    let path = story.split("all that it printed: ").nth(1).unwrap().trim();
    assert!(fs::metadata(path).unwrap().len() > 100);
}

#[test]
fn collectstatic_without_static_root() {
    let forge = Forge::new(&warm().0);
    refused(
        &forge,
        &django("django==5.2.8\n", SETTINGS, &[("site_/static/a.css", "a{}")]),
        1,
        &[
            "step `collectstatic` failed",
            "set STATIC_ROOT in site_.settings",
            "skip = [\"collectstatic\"]",
        ],
    );
    let settings = format!("{SETTINGS}STATIC_ROOT = '/opt/elsewhere'\n");
    refused(
        &forge,
        &django("django==5.2.8\n", &settings, &[]),
        1,
        &["STATIC_ROOT is `/opt/elsewhere`"],
    );
    let settings = format!("{SETTINGS}import os\nX = os.environ['STRIPE_KEY']\n");
    refused(
        &forge,
        &django("django==5.2.8\n", &settings, &[]),
        1,
        &["give it a placeholder for the build: `[build.environment] STRIPE_KEY"],
    );
    // What the advice says works.
    let app = django(
        "django==5.2.8\n",
        &format!("{settings}STATIC_ROOT = '/var/www/static'\n"),
        &[
            (
                "forge.toml",
                "[build.environment]\nSTRIPE_KEY = \"placeholder-nowhere-in-the-image\"\n",
            ),
            ("static/a.css", "a{}"),
        ],
    );
    forge.build(&app, &[]);
}

#[test]
fn what_settings_write_when_they_are_loaded_is_not_kept() {
    let forge = Forge::new(&warm().0);
    let settings = format!(
        "{SETTINGS}STATIC_ROOT = '/workspace/collected'\nimport os, pathlib\n\
         pathlib.Path('/workspace/site_/.secret').write_text(os.urandom(8).hex())\n"
    );
    let app = django("django==5.2.8\n", &settings, &[("site_/static/a.css", "a{}")]);
    let output = forge.run(&["build", &app.display().to_string()]);
    assert!(
        text(&output.stderr).contains("`/workspace/site_/.secret`; that is not kept"),
        "{}",
        text(&output.stderr)
    );
    let list =
        forge.run(&["run", &app.display().to_string(), "--", "find", "/workspace", "-type", "f"]);
    let list = text(&list.stdout);
    assert!(list.contains("/workspace/collected/a.css") && !list.contains(".secret"), "{list}");
    // Run twice, with the random key each time: the same bytes.
    let check = forge.run(&["build", &app.display().to_string(), "--check"]);
    assert!(check.status.success(), "{}", text(&check.stderr));
}

#[test]
fn no_network() {
    if !have(&["unshare", "setpriv"]) || !need_root() {
        return;
    }
    let offline = ["unshare", "--user", "--map-root-user", "--net"];
    let without_lock = app("offline", &[("requirements.txt", "flask\n")]);
    refused(
        &Forge::new(&folder("store")).under(&offline),
        &without_lock,
        4,
        &["could not read the package lists of Debian trixie", "check the network"],
    );
    // The base is there, and the fetch step is the first to miss the network.
    let app = example("django-logbook");
    let requirements = fs::read_to_string(app.join("requirements.txt")).unwrap();
    fs::write(app.join("requirements.txt"), format!("{requirements}# edited\n")).unwrap();
    warm_lock(&app);
    let forge = Forge::new(&warm().0).under(&offline);
    refused(&forge, &app, 4, &["step `python-lock` failed", "the network did not answer"]);
}

#[test]
fn a_full_disk() {
    if !have(&["unshare"]) || !need_root() {
        return;
    }
    let store = folder("small");
    let mount = format!("mount -t tmpfs -o size=40m none {} && exec \"$@\"", store.display());
    let forge =
        Forge::new(&store).by_caller().under(&["unshare", "--mount", "sh", "-c", &mount, "sh"]);
    refused(&forge, &warm().1, 1, &["the disk that holds forge's store is full"]);
}

#[test]
fn locked_means_locked() {
    let (store, _, _) = warm();
    let app = app("locked", &[("requirements.txt", "flask==3.0.3\n")]);
    let output = Forge::new(store).run(&["build", &app.display().to_string(), "--locked"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(!app.join("forge.lock").exists());
}
