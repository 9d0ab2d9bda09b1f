//! Pushing to a real registry that asks for a password.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::{
    Docker, Forge, checkout, folder, give, have, need_root, ok, port, registry, registry_at, text,
    warm,
};

#[test]
fn push_with_a_password() {
    if !have(&["docker-registry", "htpasswd", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, digest) = warm();
    let folder = folder("registry");
    let (_registry, port) = registry(&folder);

    let tag = format!("127.0.0.1:{port}/team/logbook:v1");
    let app = app.display().to_string();
    let refused = Forge::new(store).run(&["build", &app, "--tag", &tag, "--push"]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(
        text(&refused.stderr).contains("401") && text(&refused.stdout).is_empty(),
        "{}",
        text(&refused.stderr)
    );

    // user:secret
    fs::create_dir(folder.join("docker")).unwrap();
    let auths = format!("{{\"auths\":{{\"127.0.0.1:{port}\":{{\"auth\":\"dXNlcjpzZWNyZXQ=\"}}}}}}");
    fs::write(folder.join("docker/config.json"), auths).unwrap();
    give(&folder.join("docker"));
    let forge =
        Forge::new(store).with("DOCKER_CONFIG", &folder.join("docker").display().to_string());
    let pushed = forge.run(&["build", &app, "--tag", &tag, "--push"]);
    assert!(pushed.status.success(), "{}", text(&pushed.stderr));
    assert_eq!(text(&pushed.stdout).trim_end(), digest);
    let source = format!("docker://{tag}");
    let found = ok(Command::new("skopeo").args([
        "inspect",
        "--tls-verify=false",
        "--creds",
        "user:secret",
        "--format",
        "{{.Digest}}",
        &source,
    ]));
    assert_eq!(found.trim_end(), digest);

    // What is there is not sent again.
    let again = text(&forge.run(&["build", &app, "--tag", &tag, "--push"]).stderr);
    assert!(again.contains("was there") && !again.contains("pushed,"), "{again}");
}

#[test]
fn a_push_that_is_killed_and_done_again() {
    if !have(&["docker-registry", "htpasswd", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, digest) = warm();
    let folder = folder("killed");
    let (_registry, port) = registry(&folder);
    let tag = |name: &str| format!("127.0.0.1:{port}/team/logbook:{name}");
    let auth = format!("{{\"127.0.0.1:{port}\":\"Basic dXNlcjpzZWNyZXQ=\"}}");
    let forge = Forge::new(store).with("CNB_REGISTRY_AUTH", &auth);
    let app = app.display().to_string();
    let (v1, v2) = (tag("v1"), tag("v2"));
    let words = ["push", app.as_str(), "--tag", &v1, "--tag", &v2, "--json"];

    // Killed as soon as the first blob is there.
    let mut child = forge.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let sent = |line: &str| -> Option<u64> {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        (event["event"] == "pushed").then(|| event["sent"].as_u64().unwrap())
    };
    let first = lines.map_while(Result::ok).find_map(|line| sent(&line));
    assert!(first > Some(0), "{first:?}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(!child.wait().unwrap().success());
    let inspect = |name: &str| {
        Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--creds", "user:secret", "--format"])
            .args(["{{.Digest}}".to_owned(), format!("docker://{}", tag(name))])
            .output()
            .unwrap()
    };
    assert!(!inspect("v1").status.success() && !inspect("v2").status.success());

    // Again: what is there is not sent again, and both tags name the image.
    let again = forge.run(&words);
    assert!(again.status.success(), "{}", text(&again.stderr));
    let sent: Vec<u64> = text(&again.stdout).lines().filter_map(sent).collect();
    let there = sent.iter().filter(|bytes| **bytes == 0).count();
    assert!(there > 0 && there < sent.len(), "{sent:?}");
    for name in ["v1", "v2"] {
        assert_eq!(text(&inspect(name).stdout).trim_end(), digest);
    }

    // Two at once, into another repository: both succeed.
    let other = format!("127.0.0.1:{port}/team/twice:v1");
    let both = std::thread::scope(|scope| {
        [(); 2]
            .map(|()| scope.spawn(|| forge.run(&["push", &app, "--tag", &other])))
            .map(|one| one.join().unwrap())
    });
    for one in both {
        assert!(one.status.success(), "{}", text(&one.stderr));
        assert_eq!(text(&one.stdout).trim_end(), digest);
    }
    let never = forge.run(&["push", &folder.display().to_string(), "--tag", &other]);
    assert_eq!(never.status.code(), Some(2));
    assert!(text(&never.stderr).contains("has not been built into this store"));
}

/// What tools of others make of what forge pushes, and of what it gives to a daemon.
#[test]
fn docker_and_skopeo_take_it() {
    if !have(&["dockerd", "docker", "docker-registry", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let (store, _, digest) = warm();
    // Its own folder: other tests build the example meanwhile.
    let app = &checkout("taken-app");
    let root = folder("taken");
    let port = port();
    let _registry = registry_at(&root, port, "");
    let tag = |name: &str| format!("127.0.0.1:{port}/team/logbook:{name}");
    let docker = Docker::start();
    let forge = Forge::new(store);
    let raw = |name: &str, more: &[&str]| -> serde_json::Value {
        let text = ok(Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false"])
            .args(more)
            .arg(format!("docker://{}", tag(name))));
        serde_json::from_str(&text).unwrap()
    };
    let says = |image: &str| {
        let words = ["run", "--rm", "--network=host", "--pull=never", image, "id", "-u"];
        assert_eq!(docker.ok(&words), "1000");
    };

    assert_eq!(forge.build(app, &["--tag", &tag("oci"), "--push"]), *digest);
    let as_docker = ["--tag", &tag("docker"), "--push", "--media-types", "docker"];
    let other = forge.build(app, &as_docker);
    assert_ne!(other, *digest);
    let manifest = raw("docker", &[]);
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert!(!manifest.to_string().contains("vnd.oci"), "{manifest}");
    let id = manifest["config"]["digest"].as_str().unwrap();
    assert_eq!(raw("oci", &[])["config"]["digest"], id);
    for name in ["oci", "docker"] {
        docker.ok(&["pull", "--quiet", &tag(name)]);
        assert_eq!(docker.ok(&["image", "inspect", "--format", "{{.Id}}", &tag(name)]), id);
        says(&tag(name));
        let layout = format!("oci:{}:{name}", root.join("layout").display());
        ok(Command::new("skopeo")
            .args(["copy", "--quiet", "--src-tls-verify=false"])
            .args([format!("docker://{}", tag(name)), layout]));
    }
    // Pushed again by its own command, an image keeps its names.
    let pushed = forge.run(&["push", &app.display().to_string(), "--tag", &tag("again")]);
    assert_eq!(text(&pushed.stdout).trim_end(), other, "{}", text(&pushed.stderr));

    // Into the daemon, without registry, client or file.
    docker.ok(&["image", "rm", "--force", id]);
    let socket = docker.socket.strip_prefix("unix://").unwrap().to_owned();
    let output = format!("docker-daemon:{socket}");
    let refused = |forge: &Forge, words: &[&str], code: i32, expected: &str| {
        let app = app.display().to_string();
        let run = forge.run(&[&["build", &app], words].concat());
        assert_eq!(run.status.code(), Some(code), "{}", text(&run.stderr));
        assert!(text(&run.stderr).contains(expected), "{}", text(&run.stderr));
    };
    refused(&forge, &["--output", &output], 4, "the socket is not for this user");
    docker.open_to_all();
    let names =
        ["--tag", "logbook:v1", "--tag", "127.0.0.1:9/team/logbook:v2", "--output", &output];
    assert_eq!(forge.build(app, &names), *digest);
    for name in ["logbook:v1", "127.0.0.1:9/team/logbook:v2"] {
        assert_eq!(docker.ok(&["image", "inspect", "--format", "{{.Id}}", name]), id);
    }
    says("logbook:v1");
    let by_variable = Forge::new(store).with("DOCKER_HOST", &docker.socket);
    assert_eq!(by_variable.build(app, &["--output", "docker-daemon"]), *digest);

    // What cannot be.
    let nobody = format!("docker-daemon:{}", root.join("nothing").display());
    refused(&forge, &["--output", &nobody], 4, "is Docker running?");
    let remote = Forge::new(store).with("DOCKER_HOST", "tcp://127.0.0.1:9");
    refused(&remote, &["--output", "docker-daemon"], 2, "through a Unix socket only");
    let zstd = ["--media-types", "docker", "--compression", "zstd"];
    refused(&forge, &zstd, 2, "have no name for zstd");
}

#[test]
fn a_push_over_something_else() {
    if !have(&["docker-registry", "htpasswd", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, digest) = warm();
    let folder = folder("over");
    let (_registry, port) = registry(&folder);
    let tag = |name: &str| format!("127.0.0.1:{port}/team/logbook:{name}");
    let auth = format!("{{\"127.0.0.1:{port}\":\"Basic dXNlcjpzZWNyZXQ=\"}}");
    let forge = Forge::new(store).with("CNB_REGISTRY_AUTH", &auth);
    let app = app.display().to_string();
    let push = |name: &str, more: &[&str]| {
        let tag = tag(name);
        let words = ["push", &app, "--tag", &tag];
        let output = forge.run(&[&words, more].concat());
        (output.status.code(), text(&output.stderr))
    };
    let at = |name: &str| {
        let source = format!("docker://{}", tag(name));
        let words = ["inspect", "--tls-verify=false", "--creds", "user:secret", "--format"];
        let mut command = Command::new("skopeo");
        let output = command.args(words).args(["{{.Digest}}", &source]).output().unwrap();
        output.status.success().then(|| text(&output.stdout).trim_end().to_owned())
    };

    // One that is not there.
    let nobody = format!("sha256:{}", "0".repeat(64));
    let (code, words) = push("v1", &["--if-match", &nobody]);
    assert!(code == Some(4) && words.contains(&format!("names nothing, not {nobody}")), "{words}");
    assert_eq!(at("v1"), None);
    let (code, words) = push("v1", &["--if-match", "none"]);
    assert!(code == Some(0) && !words.contains("moved"), "{words}");
    assert_eq!(at("v1").as_ref(), Some(digest));

    // Another image, made of the same layers.
    ok(Command::new("skopeo")
        .args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s2"])
        .args(["--src-creds", "user:secret", "--dest-creds", "user:secret"])
        .args(["v1", "v2"].map(|name| format!("docker://{}", tag(name)))));
    let other = at("v2").unwrap();
    assert_ne!(other, *digest);
    let (code, words) = push("v2", &["--if-match", "none"]);
    assert!(code == Some(4) && words.contains(&format!("names {other}, not nothing")), "{words}");
    assert_eq!(at("v2").as_ref(), Some(&other));
    let (code, words) = push("v2", &["--if-match", &other]);
    let moved = format!("moved {}, which named {other}", tag("v2"));
    assert!(code == Some(0) && words.contains(&moved), "{words}");
    assert_eq!(at("v2").as_ref(), Some(digest));
    assert_eq!(push("v2", &["--if-match", "latest"]).0, Some(2));
}
