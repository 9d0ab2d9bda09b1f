//! A Rails app, with gems that compile and a stylesheet that Node makes: from the
//! source to running containers, the same everywhere, and no more work than an
//! edit asks for.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gems::{can, edit, forge, given, seedswap, warm};
use crate::support::{
    Docker, Postgres, Redis, folder, get, have, need_root, ok, port, post, ran, text, wait,
};

/// What a container of the example is given.
struct Bench {
    docker: Docker,
    variables: Vec<String>,
}

impl Bench {
    /// `docker run` with the example's variables.
    fn run(&self, before: &[&str], after: &[&str]) -> String {
        let mut words = vec!["run", "--network=host"];
        words.extend(before);
        for variable in &self.variables {
            words.extend(["-e", variable]);
        }
        words.push("localhost:5000/seedswap:v1");
        words.extend(after);
        self.docker.ok(&words)
    }

    /// How a container that was asked to end did so, in time.
    fn stop(&self, container: &str, within: Duration) -> String {
        let started = Instant::now();
        self.docker.ok(&["stop", "--time", "30", container]);
        assert!(started.elapsed() < within, "it took {:?}", started.elapsed());
        self.docker.ok(&["inspect", "--format", "{{.State.ExitCode}}", container])
    }
}

#[test]
fn a_rails_app_from_end_to_end() {
    if !have(&["dockerd", "docker", "runc", "redis-server"]) || !need_root() || !can() {
        return;
    }
    let out = folder("out");
    let archive = format!("{}/image.tar", out.display());
    let built = forge(&warm().store).build(
        &warm().app,
        &["--tag", "localhost:5000/seedswap:v1", "--output", &format!("docker-archive:{archive}")],
    );
    assert_eq!(built, warm().digest);

    let (docker, postgres, redis) = (Docker::start(), Postgres::start(), Redis::start());
    docker.ok(&["load", "-q", "-i", &archive]);
    let web_port = port();
    let variables = vec![
        format!("DATABASE_URL={}", postgres.url),
        format!("REDIS_URL={}", redis.url),
        format!("SECRET_KEY_BASE={}", "0123456789abcdef".repeat(8)),
        format!("PORT={web_port}"),
    ];
    let bench = Bench { docker, variables };

    // Commands, in a container of their own and in a running one.
    let migrated = bench.run(&["--rm"], &["rails", "db:migrate"]);
    assert!(migrated.contains("AddAppraisalToPackets: migrated"), "{migrated}");
    let web = bench.run(&["-d"], &[]);
    wait("the web process' answer", || {
        get(web_port, "/up").is_some_and(|(head, _)| head.contains(" 200 "))
    });
    let inside = |words: &[&str]| {
        let before = ["exec", &web, "forge", "launcher"];
        bench.docker.ok(&before.iter().chain(words).copied().collect::<Vec<_>>())
    };
    let status = inside(&["rails", "db:migrate:status"]);
    assert!(status.contains("up") && status.contains("Create packets"), "{status}");
    inside(&["rails", "db:migrate"]);
    assert!(inside(&["rake", "-T"]).contains("rake db:migrate"));
    assert_eq!(inside(&["bundle", "exec", "rails", "runner", "puts Packet.count + 41"]), "41");
    assert!(console(&bench.docker, &web, "puts 6*7").lines().any(|line| line == "42"));
    assert_eq!(bench.docker.ok(&["exec", &web, "id", "-u"]), "1000");

    let (head, page) = get(web_port, "/").unwrap();
    let page = text(&page);
    assert!(head.contains(" 200 ") && page.contains("<h1>On the table</h1>"), "{head}\n{page}");
    a_stylesheet_of_both_languages(web_port, &page);

    // What the web process notes down, the worker works out.
    let packet = json!({"packet": {"plant": "Tomato", "variety": "Berner Rose",
        "harvested_in": 2024, "giver": "Ada", "word": "tomato", "note": ""}});
    let (head, made) = post(web_port, "/packets.json", &packet).unwrap();
    assert!(head.contains(" 201 "), "{head}\n{}", text(&made));
    let made: Value = serde_json::from_slice(&made).unwrap();
    assert!(made["id"].is_number() && made["appraised_at"].is_null(), "{made}");
    let worker = bench.run(&["-d"], &["worker"]);
    wait("the packet's appraisal", || {
        let (_, packet) = get(web_port, &format!("/packets/{}.json", made["id"])).unwrap();
        let packet: Value = serde_json::from_slice(&packet).unwrap();
        packet["sow_by"] == "2029-12-31" && packet["germination"].is_number()
    });

    only_what_runs(&bench.docker, &web, &out.join("files.tar"));
    assert_eq!(bench.stop(&worker, Duration::from_secs(10)), "0");
    assert_eq!(bench.stop(&web, Duration::from_secs(10)), "143");
    let logs = bench.docker.ok(&["logs", "--tail", "3", &web]);
    assert!(logs.contains("Gracefully stopping"), "{logs}");
}

/// What the console prints to a line.
fn console(docker: &Docker, container: &str, line: &str) -> String {
    let mut console = docker
        .command(&["exec", "-i", container, "forge", "launcher", "rails", "console"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(console.stdin.take().unwrap(), "{line}").unwrap();
    let output = console.wait_with_output().unwrap();
    assert!(output.status.success());
    text(&output.stdout)
}

/// Under its hashed name, made of the app's files and of an npm package's, and with
/// the hashed name of a picture in it.
#[track_caller]
fn a_stylesheet_of_both_languages(port: u16, page: &str) {
    let start = page.find("/assets/application-").unwrap();
    let name = &page[start..start + page[start..].find('"').unwrap()];
    assert!(name.ends_with(".css"), "{name}");
    let (head, style) = get(port, name).unwrap();
    let style = text(&style);
    assert!(head.contains(" 200 ") && head.contains("max-age=31536000"), "{head}");
    assert!(style.contains("-webkit-text-size-adjust:100%"), "normalize.css is not in:\n{style}");
    let start = style.find("/assets/seed-").unwrap_or_else(|| panic!("no picture in:\n{style}"));
    let picture = &style[start..start + style[start..].find(".svg").unwrap() + 4];
    assert!(get(port, picture).unwrap().0.contains(" 200 "), "{picture}");
    assert!(get(port, "/assets/application.css").unwrap().0.contains(" 404 "));
}

/// Compilers, headers, Node and its packages exist only while steps run.
#[track_caller]
fn only_what_runs(docker: &Docker, container: &str, tar: &std::path::Path) {
    docker.ok(&["export", "-o", &tar.display().to_string(), container]);
    let list = ok(Command::new("tar").arg("-tf").arg(tar));
    let files: Vec<&str> = list.lines().collect();
    for there in ["usr/bin/ruby", "workspace/config/routes.rb"] {
        assert!(files.contains(&there), "{there} is not in the image");
    }
    for file in files {
        let name = file.rsplit('/').next().unwrap_or_default();
        let built = ["node", "npm", "esbuild", "gcc", "cc", "c++", "cpp", "ld", "make", "git"];
        assert!(!built.contains(&name) && !file.contains("node_modules"), "{file} is in the image");
        assert!(!file.starts_with("usr/include/") || file.ends_with('/'), "{file} is in the image");
    }
}

#[test]
fn same_rails_image_for_other_users_and_folders() {
    if !can() {
        return;
    }
    let moved = folder("elsewhere").join("a b");
    fs::rename(seedswap("app"), &moved).unwrap();
    let forge = forge(&folder("store"))
        .by_caller()
        .with("TZ", "Pacific/Kiritimati")
        .with("LC_ALL", "C")
        .with("HOME", "/root")
        .under(&["sh", "-c", "umask 077; exec \"$@\"", "sh"]);
    assert_eq!(forge.build(&moved, &[]), warm().digest);
}

#[test]
fn editing_a_controller_and_bumping_a_gem() {
    if !can() {
        return;
    }
    let (forge, app) = (forge(&warm().store), seedswap("edited"));
    // Another folder, same content: nothing runs, and nothing is asked of the server.
    let before = given();
    assert!(ran(&forge.events(&app, &[])).is_empty());

    edit(&app, "app/controllers/packets_controller.rb", "newest_first", "newest_first.limit(50)");
    let events = forge.events(&app, &[]);
    assert!(ran(&events).is_empty());
    assert_eq!(packed(&events), BTreeSet::from(["app".to_owned()]));
    edit(&app, "config/routes.rb", "resources", "\n  resources");
    assert_eq!(ran(&forge.events(&app, &[])), ["assets"]);
    assert_eq!(given(), before);

    // A gem that no other needs to be compiled: those that are, stay.
    edit(&app, "Gemfile.lock", "    mini_mime (1.1.5)", "    mini_mime (1.1.6)");
    let events = forge.events(&app, &[]);
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        ran(&events).into_iter().collect::<BTreeSet<_>>(),
        set(&["gems-fetch", "gems-rest", "libraries", "assets"])
    );
    assert_eq!(packed(&events), set(&["app", "gems"]));
    // Of the gems one layer of several: the one that has this gem.
    let layers = || events.iter().filter(|event| event["event"] == "layer_packed");
    let of_gems: Vec<&Value> = layers().filter(|layer| layer["step"] == "gems").collect();
    let new = of_gems.iter().filter(|layer| layer["reused"] == false).count();
    assert!(new == 1 && of_gems.len() >= 3, "{of_gems:?}");
}

#[test]
fn another_app_finds_gems_compiled() {
    if !can() {
        return;
    }
    let app = seedswap("other");
    edit(&app, "config/application.rb", "module SeedSwap", "module Orchard");
    edit(&app, "Gemfile", "gem \"bcrypt\"\n", "");
    edit(&app, "Gemfile.lock", "    bcrypt (3.1.20)\n", "");
    edit(&app, "Gemfile.lock", "  bcrypt\n", "");
    let events = forge(&warm().store).events(&app, &[]);
    assert_eq!(events.last().unwrap()["event"], "finished", "{events:?}");
    let ran = ran(&events);
    assert!(ran.contains(&"gems-rest".to_owned()), "{ran:?}");
    assert!(!ran.iter().any(|step| step.starts_with("gem ")), "{ran:?}");
}

/// The layers that are new, by name.
fn packed(events: &[Value]) -> BTreeSet<String> {
    events
        .iter()
        .filter(|event| event["event"] == "layer_packed" && event["reused"] == false)
        .map(|event| event["step"].as_str().unwrap().to_owned())
        .collect()
}
