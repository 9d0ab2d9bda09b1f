//! The cache that machines share, in docker's registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{
    Forge, checkout, folder, get, have, need_root, ok, port, ran, registry_at, text, warm,
};

/// What the registry was asked, from its log.
struct Request {
    method: String,
    path: String,
    status: u16,
    /// Bytes of the answer.
    bytes: u64,
}

impl Request {
    /// `… - - [time] "GET /v2/… HTTP/1.1" 200 123 …`
    fn parse(line: &str) -> Option<Request> {
        let (_, rest) = line.split_once("] \"")?;
        let (request, rest) = rest.split_once("\" ")?;
        let (mut request, mut rest) = (request.split(' '), rest.split(' '));
        Some(Request {
            method: request.next()?.to_owned(),
            path: request.next()?.to_owned(),
            status: rest.next()?.parse().ok()?,
            bytes: rest.next()?.parse().ok()?,
        })
    }

    fn is_blob(&self) -> bool {
        self.path.contains("/blobs/sha256:")
    }
}

fn log(folder: &Path) -> Vec<Request> {
    fs::read_to_string(folder.join("log")).unwrap().lines().filter_map(Request::parse).collect()
}

/// A file that no step reads.
const VIEW: &str = "journal/views.py";
/// A file that `collectstatic` reads.
const STYLE: &str = "static/css/logbook.css";

fn edit(app: &Path, path: &str) {
    let path = app.join(path);
    let old = fs::read_to_string(&path).unwrap();
    fs::write(path, old + "\n").unwrap();
}

/// Names of what was sent, sorted.
fn sent(events: &[Value]) -> Vec<String> {
    let mut sent: Vec<String> = events
        .iter()
        .filter(|event| event["event"] == "pushed" && event["sent"] != 0)
        .map(|event| event["what"].as_str().unwrap().to_owned())
        .collect();
    sent.sort();
    sent
}

fn digest(events: &[Value]) -> &str {
    let last = events.last().unwrap();
    assert_eq!(last["event"], "finished", "{last}");
    last["digest"].as_str().unwrap()
}

/// Path of a blob in the registry's storage.
fn stored(folder: &Path, port: u16, repository: &str, tag: &str, layer: usize) -> PathBuf {
    let digest = layer_digest(port, repository, tag, layer);
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blobs = folder.join("data/docker/registry/v2/blobs/sha256");
    blobs.join(&hex[..2]).join(hex).join("data")
}

fn layer_digest(port: u16, repository: &str, tag: &str, layer: usize) -> String {
    let manifest = ok(Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://127.0.0.1:{port}/{repository}:{tag}")));
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["layers"][layer]["digest"].as_str().unwrap().to_owned()
}

/// The tag of this name in the repository `app`, if it is there.
fn tagged(port: u16, tag: &str) -> Option<Value> {
    let (_, body) = get(port, "/v2/app/tags/list").unwrap();
    let list: Value = serde_json::from_slice(&body).unwrap();
    list["tags"].as_array().unwrap().iter().find(|found| *found == tag).cloned()
}

#[test]
fn a_fresh_runner_downloads_no_layer() {
    if !have(&["docker-registry", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, expected) = warm();
    let root = folder("cache");
    let port = port();
    let _registry = registry_at(&root, port, "");
    let mut table = vec![format!(
        "{:<24} {:>8} {:>12} {:>12} {:>8}",
        "", "requests", "bytes down", "bytes up", "blobs"
    )];
    let mut row = |what: String, from: usize, events: &[Value]| {
        let all = log(&root);
        let asked = &all[from..];
        let down: u64 = asked.iter().filter(|ask| ask.method == "GET").map(|ask| ask.bytes).sum();
        let up: u64 = events
            .iter()
            .filter(|event| event["event"] == "pushed")
            .map(|event| event["sent"].as_u64().unwrap())
            .sum();
        let blobs = asked.iter().filter(|ask| ask.method == "GET" && ask.is_blob()).count();
        table.push(format!("{what:<24} {:>8} {down:>12} {up:>12} {blobs:>8}", asked.len()));
    };

    for own in [true, false] {
        let name = if own { "own" } else { "named" };
        let tag = |tag: &str| format!("127.0.0.1:{port}/{name}/app:{tag}");
        let cache = format!("127.0.0.1:{port}/{name}/cache");
        let words = |tag: &str| {
            let mut words = vec!["--push".to_owned(), "--tag".to_owned(), tag.to_owned()];
            if !own {
                words.extend(["--cache".to_owned(), cache.clone()]);
            }
            words
        };
        let build = |store: &Path, app: &Path, to: &str| {
            let words = words(&tag(to));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            Forge::new(store).events(app, &words)
        };
        let from = log(&root).len();
        let first = build(store, app, "1");
        assert_eq!(digest(&first), expected);
        row(format!("{name}: first push"), from, &first);

        // A fresh runner, nothing changed.
        let from = log(&root).len();
        let unchanged = build(&folder("fresh"), &checkout("runner"), "2");
        assert_eq!(digest(&unchanged), expected);
        assert!(ran(&unchanged).is_empty() && sent(&unchanged).is_empty(), "{unchanged:?}");
        row(format!("{name}: unchanged"), from, &unchanged);
        let asked = log(&root).split_off(from);
        assert!(asked.len() <= 6, "{} requests", asked.len());
        assert!(!asked.iter().any(Request::is_blob));
        let manifests = asked.iter().filter(|ask| ask.method == "PUT" && ask.status == 201);
        assert_eq!(manifests.count(), 1);

        // A fresh runner, a view changed: no step reads it, and only the app's layer goes up.
        let changed = checkout("runner");
        edit(&changed, VIEW);
        let from = log(&root).len();
        let events = build(&folder("fresh"), &changed, "3");
        assert_eq!(ran(&events), Vec::<String>::new());
        assert_eq!(sent(&events), ["app", "configuration"]);
        row(format!("{name}: a view changed"), from, &events);

        // A style sheet changed: of what comes down nothing is a layer that no step needs.
        edit(&changed, STYLE);
        let from = log(&root).len();
        let events = build(&folder("fresh"), &changed, "4");
        assert_eq!(ran(&events), ["collectstatic"]);
        assert_eq!(sent(&events), ["app", "collectstatic", "configuration"]);
        row(format!("{name}: a style sheet changed"), from, &events);
        let launcher = layer_digest(port, &format!("{name}/app"), "4", 7);
        let asked = log(&root).split_off(from);
        assert!(!asked.iter().any(|ask| ask.method == "GET" && ask.path.contains(&launcher)));
        // As it is without any cache.
        let here = Forge::new(store).build(&changed, &[]);
        assert_eq!(digest(&events), here);

        // Nobody needs the bytes of a push; who writes a file does.
        if !own {
            let archive = folder("archive").join("image.tar");
            let output = format!("oci-archive:{}", archive.display());
            let words = ["--cache-from", &cache, "--output", &output];
            let events = Forge::new(&folder("fresh")).events(&changed, &words);
            assert_eq!(digest(&events), here);
            assert!(ran(&events).is_empty(), "{:?}", ran(&events));
            let found = ok(Command::new("skopeo")
                .args(["inspect", "--format", "{{.Digest}}"])
                .arg(format!("oci-archive:{}", archive.display())));
            assert_eq!(found.trim_end(), here);
        }
    }
    println!("{}", table.join("\n"));
}

#[test]
fn what_the_cache_has_lost_is_made_again() {
    if !have(&["docker-registry", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, expected) = warm();
    let root = folder("lost");
    let port = port();
    let _registry = registry_at(&root, port, "");
    let tag = |tag: &str| format!("127.0.0.1:{port}/app:{tag}");
    let cache = format!("127.0.0.1:{port}/cache");
    let build = |store: &Path, app: &Path, to: &str| {
        Forge::new(store).events(app, &["--push", "--tag", &tag(to), "--cache", &cache])
    };
    assert_eq!(digest(&build(store, app, "1")), expected);

    // A layer is gone, although all entries are there.
    let runtime = stored(&root, port, "app", "1", 1);
    fs::remove_dir_all(runtime.parent().unwrap()).unwrap();
    let events = build(&folder("fresh"), &checkout("runner"), "2");
    assert_eq!(digest(&events), expected);
    assert_eq!(ran(&events), ["runtime"]);
    let told = |events: &[Value], what: &str| {
        let mut notices = events.iter().filter(|event| event["event"] == "notice");
        assert!(notices.any(|event| event["text"].as_str().unwrap().contains(what)), "{events:?}");
    };
    told(&events, "which is made anew");
    assert!(runtime.exists(), "it was sent again");
    // And now all is well.
    let again = build(&folder("fresh"), &checkout("runner"), "3");
    assert!(digest(&again) == expected && ran(&again).is_empty(), "{again:?}");

    // A layer is damaged where it lies: no build takes it, and no image of it is called good.
    let bytes = fs::read(&runtime).unwrap();
    fs::write(&runtime, &bytes[..bytes.len() / 2]).unwrap();
    let changed = checkout("runner");
    edit(&changed, STYLE);
    let events = build(&folder("fresh"), &changed, "4");
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["code"]), (&"failed".into(), &4.into()), "{last}");
    assert!(last["message"].as_str().unwrap().contains("keeps it whatever it is sent"), "{last}");
    // Also when it has the right length: what is pushed is not only said to be there.
    let mut flipped = bytes.clone();
    flipped[1000] ^= 1;
    fs::write(&runtime, flipped).unwrap();
    let events = build(&folder("fresh"), &changed, "4");
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["code"]), (&"failed".into(), &4.into()), "{last}");
    assert!(last["message"].as_str().unwrap().contains("keeps it whatever it is sent"), "{last}");
    assert!(last["advice"].to_string().contains("has to remove it"), "{last}");
    assert_eq!(tagged(port, "4"), None);
    // What the advice says helps.
    fs::remove_dir_all(runtime.parent().unwrap()).unwrap();
    assert_eq!(ran(&build(&folder("fresh"), &changed, "4")), ["runtime", "collectstatic"]);
    assert!(fs::read(&runtime).unwrap() == bytes);

    // Tags that mean something else are no entries, and a cache that does not answer is none.
    let entries = ok(Command::new("skopeo")
        .args(["list-tags", "--tls-verify=false"])
        .arg(format!("docker://{cache}")));
    let entries: Value = serde_json::from_str(&entries).unwrap();
    let entries = entries["Tags"].as_array().unwrap();
    assert!(entries.len() > 5, "{entries:?}");
    for entry in entries {
        ok(Command::new("skopeo")
            .args(["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"])
            .arg(format!("docker://{}", tag("1")))
            .arg(format!("docker://{cache}:{}", entry.as_str().unwrap())));
    }
    let nobody = format!("127.0.0.1:{}/cache", self::port());
    let words =
        ["--cache-from", &cache, "--cache-from", &nobody, "--push", "--cache", "none", "--tag"];
    let five = tag("5");
    let words = [&words[..], &[&five]].concat();
    let events = Forge::new(&folder("fresh")).events(&changed, &words);
    assert_eq!(digest(&events), Forge::new(store).build(&changed, &[]));
    assert!(
        !get(port, "/v2/app/tags/list").is_some_and(|(_, body)| text(&body).contains("forge-1"))
    );
}

#[test]
fn a_lock_that_may_not_change() {
    if !have(&["docker-registry", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, _) = warm();
    let root = folder("locked");
    let port = port();
    let _registry = registry_at(&root, port, "");
    let build = |store: &Path, app: &Path, to: &str| {
        let tag = format!("127.0.0.1:{port}/app:{to}");
        Forge::new(store).events(app, &["--locked", "--push", "--tag", &tag])
    };
    assert_eq!(build(store, app, "1").last().unwrap()["event"], "finished");
    // It says the same, and not as forge writes it. The image is known, and no tag names it.
    let other = checkout("runner");
    edit(&other, "forge.lock");
    let events = build(&folder("fresh"), &other, "2");
    assert!(events.iter().any(|event| event["event"] == "image_known"), "{events:?}");
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["code"]), (&"failed".into(), &2.into()), "{last}");
    assert_eq!(tagged(port, "2"), None);
}

#[test]
fn two_runners_at_once() {
    if !have(&["docker-registry", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, _) = warm();
    let root = folder("runners");
    let port = port();
    let _registry = registry_at(&root, port, "");
    let tag = |tag: &str| format!("127.0.0.1:{port}/app:{tag}");
    let cache = format!("127.0.0.1:{port}/cache");
    let build = |store: &Path, app: &Path, to: &str| {
        Forge::new(store).events(app, &["--push", "--tag", &tag(to), "--cache", &cache])
    };
    // Both push all that there is, and write the same entries.
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| build(store, app, "one"));
        let two = scope.spawn(|| build(store, app, "one"));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(digest(&one), digest(&two));
    let changed = checkout("runner");
    edit(&changed, STYLE);
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| build(&folder("fresh"), &changed, "two"));
        let two = scope.spawn(|| build(&folder("fresh"), &changed, "three"));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(digest(&one), digest(&two));
    for events in [one, two] {
        assert!(!events.iter().any(|event| event["event"] == "notice"), "{events:?}");
    }
}

#[test]
fn caches_that_cannot_be() {
    let app = folder("app");
    for (words, expected) in [
        (["--cache", "127.0.0.1:9/team/cache:latest"], "has a tag"),
        (["--cache-from", "Upper/case"], "is not an image reference"),
    ] {
        let app = app.display().to_string();
        let run = Forge::new(&folder("store")).run(&[&["build", &app], &words[..]].concat());
        assert_eq!(run.status.code(), Some(2), "{}", text(&run.stderr));
        assert!(text(&run.stderr).contains(expected), "{}", text(&run.stderr));
    }
}
