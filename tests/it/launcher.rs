//! The launcher in containers as platforms run them: strict, under any user, as process 1.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{
    Docker, Forge, Postgres, checkout, get, give, have, need_root, port, text, wait, warm,
};

/// Processes for the tests, beside those of the example.
const SETTINGS: &str = r#"
[processes.reaper]
command = "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.1 &); done; sleep 1; cat /proc/[0-9]*/status | grep -c '^State:.Z'; exit 5"
init = true

[processes.deaf]
command = "sleep 100"
init = true

[processes.alone]
command = "exec sleep 100"

[processes.tokens]
command = "python -c 'import os, sys; print(repr(os.environ[\"SECRET_KEY\"]), sys.argv[1:])'"
required = ["SECRET_KEY"]

[start]
defaults = { COLOUR = "red" }
"#;

#[test]
fn containers_of_strict_platforms() {
    if !have(&["dockerd", "docker", "runc", "setpriv"]) || !need_root() {
        return;
    }
    let app = checkout("strict");
    fs::write(app.join("forge.toml"), SETTINGS).unwrap();
    give(&app);
    let (docker, postgres) = (Docker::start(), Postgres::start());
    docker.open_to_all();
    let output = format!("docker-daemon:{}", docker.socket.strip_prefix("unix://").unwrap());
    Forge::new(&warm().0).build(&app, &["--tag", "strict:v1", "--output", &output]);
    let run = |words: &[&str]| {
        let output = docker.command(&[&["run"], words].concat()).output().unwrap();
        (text(&output.stdout) + &text(&output.stderr), output.status.code())
    };
    let strict = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"];
    let anybody = ["--user=123456:0", "--network=none"];
    let say = ["strict:v1", "python", "-c", "import os; print(os.getuid(), os.environ['COLOUR'])"];
    let (said, code) = run(&[&["--rm"], &strict[..], &anybody, &say].concat());
    assert_eq!((said.trim(), code), ("123456 red", Some(0)));

    // Every way in.
    for words in [
        &["--entrypoint", "launcher", "strict:v1", "echo", "-e", "a  b"][..],
        &["--entrypoint", "/cnb/lifecycle/launcher", "strict:v1", "echo", "-e", "a  b"],
        &["--entrypoint", "forge", "strict:v1", "launcher", "echo", "-e", "a  b"],
        &["strict:v1", "echo", "-e", "a  b"],
    ] {
        let (said, code) = run(&[&["--rm"], words].concat());
        assert_eq!((said.as_str(), code), ("a  b\n", Some(0)), "{words:?}");
    }
    let key = ["--rm", "-e", "SECRET_KEY=two\nlines"];
    for words in [&["strict:v1", "tokens"][..], &["--entrypoint", "tokens", "strict:v1", "it's"]] {
        let (said, code) = run(&[&key, words].concat());
        let arguments = if words.len() == 2 { "[]" } else { "[\"it's\"]" };
        assert_eq!((said, code), (format!("'two\\nlines' {arguments}\n"), Some(0)));
    }
    let (said, code) = run(&["--rm", "strict:v1", "tokens"]);
    assert!(code == Some(82) && said.contains("SECRET_KEY"), "{said}");

    // As process 1: orphans are reaped, and what ignores no signal ends by it.
    let (said, code) = run(&["--rm", "strict:v1", "reaper"]);
    assert_eq!((said.trim(), code), ("0", Some(5)));
    let ends = |process: &str, status: &str, within: Duration| {
        let container = docker.ok(&["run", "-d", "strict:v1", process]);
        wait("the process' start", || docker.ok(&["top", &container]).contains("sleep"));
        let started = Instant::now();
        docker.ok(&["stop", "--time", "4", &container]);
        let found = docker.ok(&["inspect", "--format", "{{.State.ExitCode}}", &container]);
        assert_eq!(found, status, "{process}");
        assert!(started.elapsed() < within, "{process}: {:?}", started.elapsed());
    };
    ends("deaf", "143", Duration::from_secs(3));
    // What `init` is for: as process 1 itself it hears nothing, and is killed.
    ends("alone", "137", Duration::from_secs(20));

    // The app itself.
    let (web_port, url) = (port(), format!("DATABASE_URL={}", postgres.url));
    let listen = format!("PORT={web_port}");
    let tmp = ["--user=123456:0", "--network=host", "--tmpfs=/tmp", "-e", &url, "-e", &listen];
    let web = docker
        .ok(&[&["run", "-d", "-e", "SECRET_KEY=x"], &strict[..], &tmp, &["strict:v1"]].concat());
    wait("the web process' answer", || {
        get(web_port, "/up").is_some_and(|(head, _)| head.contains(" 200 "))
    });
    let told = docker.ok(&["exec", &web, "forge", "launcher", "--explain", "tokens"]);
    assert!(told.contains("requires   SECRET_KEY"), "{told}");
    let listed = docker.ok(&["exec", &web, "launcher", "--list"]);
    assert!(listed.contains("web (default)") && listed.contains("deaf"), "{listed}");
    let started = Instant::now();
    docker.ok(&["stop", "--time", "30", &web]);
    assert!(started.elapsed() < Duration::from_secs(15), "it took {:?}", started.elapsed());
}
