//! What the command line takes, refuses, and writes where.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::support::{Forge, app, folder, have, need_root, ok, text, warm, warm_lock};

/// An app that builds in no time: one step on the warm base.
fn small(more: &[(&str, &str)]) -> std::path::PathBuf {
    let buildpack = "name = \"own\"\nabout = \"own\"\npriority = 99\nmatch = [\"procfile.web\"]\nlooks_for = \"\"\n\
         [[base]]\nrelease = \"trixie\"\n[[packages]]\nbase = [\"ca-certificates\", \"libstdc++6\", \"python3\", \"tzdata\"]\n\
         [[step]]\nname = \"one\"\nabout = \"\"\nroot = [\"base\"]\noutputs = [\"out\"]\ncommand = [\"mkdir\", \"/out\"]\n\
         [[step]]\nname = \"two\"\nabout = \"\"\nroot = [\"base\", \"one\"]\noutputs = [\"out2\"]\ncommand = [\"mkdir\", \"/out2\"]\n";
    let mut files = vec![("Procfile", "web: true\n"), (".forge/buildpacks/own.toml", buildpack)];
    files.extend(more);
    let app = app("small", &files);
    warm_lock(&app);
    app
}

#[track_caller]
fn refused(settings: &str, code: i32, part: &str) {
    let app = small(&[("forge.toml", settings)]);
    let output = Forge::new(&warm().0).run(&["build", &app.display().to_string()]);
    let story = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{story}");
    assert!(story.contains(part), "{story}");
}

#[test]
fn settings_that_cannot_be_meant() {
    refused("skip = [\"nothere\"]", 2, "there is no such step; these can: two");
    refused("skip = [\"one\"]", 2, "step `two` needs it");
    refused(
        "[base]\nrelease = \"sid\"",
        2,
        "there is no release `sid` for this app; there are trixie",
    );
    refused("buildpack = \"django\"", 2, "it looks for");
    refused("buildpack = \"cobol\"", 2, "there is no buildpack `cobol`");
    refused("[environment]\n\"A=B\" = \"x\"", 2, "cannot be the name of a variable");
    refused("[packages]\nruntime = [\"currl\"]", 1, "curl");
}

#[test]
fn words_that_cannot_be_meant() {
    let forge = Forge::new(&warm().0);
    let app = small(&[]);
    let app = app.display().to_string();
    for (arguments, part) in [
        (vec!["doctor", "--json"], "`--json` is for build, plan, why, push, index and update"),
        (vec!["build", &app, "--output", "tar:x"], "is no output"),
        (vec!["build", &app, "--created", "253402300800"], "is no time"),
        (vec!["build", &app, "--tag", "x:y:z"], "is not an image reference"),
        (vec!["build", &app, "--push"], "--tag"),
        (vec!["plan", &app, "--files=nosuch"], "is given no files of the app"),
    ] {
        let output = forge.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(part), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn ignored_configuration_may_stay_out() {
    let app = small(&[
        (".gitignore", "/config/*.yml\n"),
        (".dockerignore", "docs\n"),
        ("config/database.yml", "production: {}\n"),
        ("docs/a.md", ""),
    ]);
    let forge = Forge::new(&warm().0);
    let name = app.display().to_string();
    let run = |words: &[&str], more: &[&str]| {
        let output = forge.run(&[words, more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let plan = |more: &[&str]| run(&["plan", &name, "--files"], more).0;
    let story = |more: &[&str]| run(&["build", &name], more).1;
    let (files, told) = (plan(&[]), story(&[]));
    assert!(files.contains("+ config/database.yml  (/config/database.yml (frameworks need it))"));
    assert!(files.contains("- docs/  (docs (.dockerignore))"), "{files}");
    assert!(told.contains("`config/database.yml` is ignored and goes into the image"), "{told}");
    assert!(told.contains(".dockerignore leaves one folder out"), "{told}");
    let (files, told) = (plan(&["--no-ignored-config"]), story(&["--no-ignored-config"]));
    assert!(files.contains("- config/database.yml  (/config/*.yml (.gitignore))"), "{files}");
    assert!(!told.contains("database.yml"), "{told}");
    fs::write(app.join("forge.toml"), "[source]\nignored_config = false\n").unwrap();
    assert_eq!(plan(&[]).replace("+ forge.toml\n", ""), files);
}

#[test]
fn a_lock_that_a_rule_hides_is_named() {
    let app = app(
        "hidden",
        &[("Gemfile", "source 'x'\n"), ("Gemfile.lock", "GEM\n"), (".slugignore", "*.lock\n")],
    );
    let output = Forge::new(&warm().0).run(&["plan", &app.display().to_string()]);
    let story = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{story}");
    assert!(story.contains("there is a Gemfile and no Gemfile.lock"), "{story}");
    assert!(
        story.contains("`Gemfile.lock` is there, and a rule leaves it out: *.lock (.slugignore)"),
        "{story}"
    );
}

#[test]
fn what_forge_writes_does_not_come_into_the_image() {
    let app = small(&[]);
    let forge = Forge::new(&app.join("store"));
    let archive = format!("docker-archive:{}/image.tar", app.display());
    let layout = format!("oci:{}/layout", app.display());
    let first = forge.build(&app, &["--output", &archive, "--output", &layout]);
    assert_eq!(forge.build(&app, &["--output", &archive, "--output", &layout]), first);
}

#[test]
fn a_layout_holds_every_tag() {
    if !have(&["skopeo"]) {
        return;
    }
    let (app, out) = (small(&[]), folder("out"));
    let layout = format!("oci:{}/layout", out.display());
    let digest = Forge::new(&warm().0)
        .build(&app, &["--output", &layout, "--tag", "a.example/x:1", "--tag", "a.example/x:2"]);
    for tag in ["1", "2"] {
        let source = format!("{layout}:{tag}");
        let found = ok(std::process::Command::new("skopeo").args([
            "inspect",
            "--format",
            "{{.Digest}}",
            &source,
        ]));
        assert_eq!(found.trim_end(), digest);
    }
}

#[test]
fn a_device_is_written_to_and_not_replaced() {
    if !need_root() {
        return;
    }
    let app = small(&[]);
    let link = folder("out").join("null");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    let archive = format!("docker-archive:{}", link.display());
    Forge::new(&warm().0).build(&app, &["--output", &archive]);
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(link.is_symlink());
    let full = Forge::new(&warm().0).run(&[
        "build",
        &app.display().to_string(),
        "--output",
        "oci-archive:/dev/full",
    ]);
    assert_eq!(full.status.code(), Some(1), "{}", text(&full.stderr));
    assert!(Path::new("/dev/full").exists());
}

#[test]
fn nobody_reads() {
    let app = small(&[]);
    let command = |redirect: &str| {
        let mut command =
            Forge::new(&warm().0).under(&["sh", "-c", &format!("\"$@\" {redirect}"), "sh"]);
        command = command.with("CI", "1");
        command.run(&["build", &app.display().to_string(), "--json"]).status.code()
    };
    assert_eq!(command("2>/dev/full"), Some(0));
    assert_eq!(command(">/dev/full"), Some(2));
}

#[test]
fn a_folder_that_is_no_store() {
    let home = app("home", &[("letter", "dear")]);
    let output = Forge::new(&home).run(&["store", "list"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("it holds `letter`"));
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
}
