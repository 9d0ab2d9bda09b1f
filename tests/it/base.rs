//! An image of a registry under the app: pulled through a mirror, packages added on top
//! of what its dpkg database says, its layers kept as they are, pinned.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Forge, app, folder, give, have, need_root, ok, ran, registry, text, warm};

/// What stands for `python:slim`: Debian with Python and pip, and nothing to compile with.
const PLAIN: &str = r#"
name = "plain"
about = "a Python image"
priority = 99
match = []
looks_for = "nothing"

[[base]]
release = "trixie"

[[packages]]
base = ["ca-certificates", "libstdc++6", "python3", "python3-dev", "python3-pip", "tzdata"]

[environment]
MADE_BY = "plain"
"#;

#[test]
fn an_app_on_an_image_of_a_registry() {
    if !have(&["docker-registry", "htpasswd", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let store = &warm().0;
    let here = folder("base");
    let (served, port) = registry(&here);
    let auths = format!("{{\"auths\":{{\"127.0.0.1:{port}\":{{\"auth\":\"dXNlcjpzZWNyZXQ=\"}}}}}}");
    fs::create_dir(here.join("docker")).unwrap();
    fs::write(here.join("docker/config.json"), auths).unwrap();
    let settings = format!("[registry.mirrors]\n\"docker.io\" = [\"127.0.0.1:{port}\"]\n");
    fs::write(here.join("settings.toml"), settings).unwrap();
    give(&here.join("docker"));
    give(&here.join("settings.toml"));
    let forge = Forge::new(store)
        .with("DOCKER_CONFIG", &here.join("docker").display().to_string())
        .with("FORGE_SETTINGS", &here.join("settings.toml").display().to_string());

    let plain = app("plain", &[("x", "x\n"), (".forge/buildpacks/plain.toml", PLAIN)]);
    let tag = format!("127.0.0.1:{port}/library/python:own");
    forge.build(&plain, &["--tag", &tag, "--push"]);

    // psycopg2 compiles against libpq, which the image does not have.
    let files = [
        ("requirements.txt", "--no-binary psycopg2\npsycopg2==2.9.13\n"),
        ("forge.toml", "[base]\nimage = \"docker.io/library/python:own\"\n"),
    ];
    let app = app("based", &files);
    let layout = here.join("out");
    fs::create_dir(&layout).unwrap();
    give(&layout);
    let output = format!("oci:{}/image", layout.display());
    let ran = ran(&forge.events(&app, &["--output", &output]));
    for step in ["base", "user", "build", "build-psycopg2", "python-compile psycopg2", "runtime"] {
        assert!(ran.contains(&step.to_owned()), "{step} is not in {ran:?}");
    }
    let layers = |image: &str| -> Vec<Value> {
        let manifest = ok(Command::new("skopeo").args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            "--creds",
            "user:secret",
            image,
        ]));
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].clone()).collect()
    };
    let (below, all) = (layers(&format!("docker://{tag}")), layers(&output));
    assert!(below.len() > 2 && all.starts_with(&below), "{below:?}\n{all:?}");

    let app_ = app.display().to_string();
    let import =
        "import os, psycopg2; print(os.environ['MADE_BY'], psycopg2.__libpq_version__ > 0)";
    let run = forge.run(&["run", &app_, "--", "python3", "-c", import]);
    assert_eq!(text(&run.stdout).trim_end(), "plain True", "{}", text(&run.stderr));

    // Pinned, and in the store: nobody is asked any more.
    drop(served);
    assert!(fs::read_to_string(app.join("forge.lock")).unwrap().contains("[[image]]"));
    assert!(self::ran(&forge.events(&app, &["--locked"])).is_empty());

    // Another image, which nobody has.
    let other = ["build", &app_, "--base", "docker.io/library/python:none"];
    let refused = forge.run(&other);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("python:none"), "{}", text(&refused.stderr));
}
