//! Pulling from registries that fail, lie, or are slow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::access::{Access, Pace, Settings};
use super::super::credentials::Credentials;
use super::super::error::told;
use super::super::fake::{Answer, Fake, Request};
use super::super::wire::TRIES;
use super::*;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// What a registry has: path below `/v2/` → type and bytes.
type Content = BTreeMap<String, (String, Vec<u8>)>;

/// Layers of more than one read, so that they can break off in the middle.
fn layer(seed: u32) -> Vec<u8> {
    (0..200_000_u32).map(|n| (n.wrapping_mul(seed) >> 5) as u8).collect()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// An index `team/app:v1` with one image for linux/amd64, made of two layers.
fn content() -> Content {
    let layers = [layer(3), layer(7)];
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|l| Digest::of(l))}});
    let config = config.to_string().into_bytes();
    let layer_type = "application/vnd.oci.image.layer.v1.tar";
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.each_ref().map(|layer| descriptor(layer_type, layer))});
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(MANIFEST_TYPE, &manifest);
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]});
    let index = index.to_string().into_bytes();
    let mut content = Content::new();
    let mut add = |kind: &str, name: &str, media_type: &str, bytes: &[u8]| {
        let path = format!("team/app/{kind}/{name}");
        content.insert(path, (media_type.to_owned(), bytes.to_vec()));
    };
    let name = |bytes: &[u8]| Digest::of(bytes).to_string();
    add("manifests", "v1", INDEX_TYPE, &index);
    add("manifests", &name(&index), INDEX_TYPE, &index);
    add("manifests", &name(&manifest), MANIFEST_TYPE, &manifest);
    add("blobs", &name(&config), "application/octet-stream", &config);
    for layer in &layers {
        add("blobs", &name(layer), "application/octet-stream", layer);
    }
    content
}

fn answer(content: &Content, request: &Request) -> Answer {
    match content.get(request.path.trim_start_matches("/v2/")) {
        Some((media_type, bytes)) => Answer::ok(bytes).with("Content-Type", media_type),
        None => Answer::status(404),
    }
}

fn range(request: &Request) -> Option<usize> {
    request.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    mirrors: Vec<String>,
    docker_config: &'static str,
    silence: Duration,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        let silence = Duration::from_secs(20);
        Bench { folder, store, mirrors: Vec::new(), docker_config: "{}", silence }
    }

    fn source(&self, host: &str, rest: &str) -> Result<Source, RegistryError> {
        let reference: Reference = format!("{host}/{rest}").parse()?;
        let config = self.docker_config.replace("HOST", host);
        std::fs::write(self.folder.path().join("config.json"), config).expect("write");
        let folder = self.folder.path().display().to_string();
        let variables = BTreeMap::from([("DOCKER_CONFIG".to_owned(), folder)]);
        let access = Access::new(Settings {
            credentials: Credentials::read(&variables, None)?,
            insecure: Vec::new(),
            mirrors: BTreeMap::from([(host.to_owned(), self.mirrors.clone())]),
            certificates: Vec::new(),
        });
        let pace = Pace { silence: self.silence, pause: Duration::from_millis(5) };
        Source::open(&reference, &access.at_pace(pace))
    }

    fn resolve(&self, host: &str, rest: &str, platform: &str) -> Result<Resolved, RegistryError> {
        self.source(host, rest)?.resolve(&platform.parse()?, &self.store)
    }

    /// Resolves `team/app:v1` and fetches its layers; gives the bytes that progress told.
    fn pull(&self, host: &str) -> Result<u64, RegistryError> {
        let source = self.source(host, "team/app:v1")?;
        let resolved = source.resolve(&"linux/amd64".parse()?, &self.store)?;
        let told = AtomicU64::new(0);
        source.fetch(&resolved.layers, &self.store, &|done, total| {
            assert!(done <= total && total <= 400_000, "{done} of {total}");
            told.fetch_max(done, Ordering::Relaxed);
        })?;
        Ok(told.into_inner())
    }

    #[track_caller]
    fn has_all(&self) {
        for seed in [3, 7] {
            let bytes = layer(seed);
            assert_eq!(self.store.read_blob(&Digest::of(&bytes)).expect("a blob"), bytes);
        }
    }

    #[track_caller]
    fn pulls(&self, host: &str) {
        assert_eq!(self.pull(host).map_err(|error| words(&error)), Ok(400_000));
        self.has_all();
    }

    /// The pull fails so, and the store has neither layer under its name.
    #[track_caller]
    fn fails(&self, host: &str, expected: &str) {
        let found = words(&self.pull(host).expect_err("fails"));
        assert!(found.contains(expected), "{found}");
        let first = self.store.blob_size(&Digest::of(&layer(3))).expect("a store");
        assert_eq!(first, None);
    }
}

fn words(error: &RegistryError) -> String {
    told(std::slice::from_ref(error))
}

fn first_blob() -> String {
    format!("blobs/{}", Digest::of(&layer(3)))
}

/// A registry where the first layer is answered in another way.
fn odd(answers: impl Fn(&Request, &[u8]) -> Answer + Send + Sync + 'static) -> Fake {
    let (content, bytes) = (content(), layer(3));
    Fake::start(move |request| {
        if request.path.ends_with(&first_blob()) {
            answers(request, &bytes)
        } else {
            answer(&content, request)
        }
    })
}

#[test]
fn by_tag_and_by_digest() {
    let content = content();
    let fake = Fake::start(move |request| answer(&content, request));
    let bench = Bench::new();
    let found = bench.resolve(&fake.host, "team/app:v1", "linux/amd64").expect("resolves");
    assert_eq!(found.diff_ids, [Digest::of(&layer(3)), Digest::of(&layer(7))]);
    assert_eq!(found.image["config"]["Env"][0], "A=b");
    assert!(fake.seen()[0].header("accept").is_some_and(|types| types.contains("manifest.list")));
    for (named, rest) in [
        (found.named, format!("team/app@{}", found.named)),
        (found.manifest, format!("team/app:other@{}", found.manifest)),
    ] {
        // What the store has is not asked for again.
        for (bench, asks) in [(&Bench::new(), true), (&bench, false)] {
            let before = fake.seen().len();
            let again = bench.resolve(&fake.host, &rest, "linux/amd64").expect("resolves");
            assert_eq!(again, Resolved { named, ..found.clone() });
            assert_eq!(fake.seen().len() > before, asks, "{rest}");
        }
    }
}

#[test]
fn layers_come_once() {
    let content = content();
    let fake = Fake::start(move |request| answer(&content, request));
    let bench = Bench::new();
    bench.pulls(&fake.host);
    assert_eq!(bench.pull(&fake.host).expect("pulls"), 0);
    assert_eq!(fake.count(&first_blob()), 1);
    // A damaged one of another length is replaced.
    let path = bench.store.blob_path(&Digest::of(&layer(3)));
    std::fs::remove_file(&path).expect("remove");
    std::fs::write(&path, "short").expect("write");
    assert_eq!(bench.pull(&fake.host).expect("pulls"), 200_000);
    bench.has_all();
}

#[test]
fn no_image_for_the_platform() {
    let content = content();
    let fake = Fake::start(move |request| answer(&content, request));
    let error = Bench::new().resolve(&fake.host, "team/app:v1", "linux/s390x").expect_err("none");
    let expected = "cannot be used: it is not for linux/s390x, but for linux/amd64";
    assert!(words(&error).contains(expected), "{}", words(&error));
}

#[test]
fn tokens() {
    let content = content();
    let fake = Fake::start(move |request| {
        let host = request.header("host").unwrap_or_default();
        if request.path.starts_with("/token") {
            let good = request.header("authorization") == Some("Basic dXNlcjpwYXNz")
                && request.path.ends_with("scope=repository%3Ateam%2Fapp%3Apull");
            return if good { Answer::ok(br#"{"token":"t1"}"#) } else { Answer::status(403) };
        }
        if request.header("authorization") == Some("Bearer t1") {
            return answer(&content, request);
        }
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
        Answer::status(401).with("WWW-Authenticate", &challenge)
    });
    let mut bench = Bench::new();
    bench.fails(&fake.host, "refused to get a token: 403");
    bench.docker_config = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNz"}}}"#;
    bench.pulls(&fake.host);
}

#[test]
fn credentials_stay_behind() {
    let bytes = layer(3);
    let elsewhere = Fake::start(move |request| match request.header("authorization") {
        None => Answer::ok(&bytes),
        Some(_) => Answer::status(400),
    });
    let address = format!("http://{}/bucket/x?signature=y", elsewhere.host);
    let fake = odd(move |_, _| Answer::status(307).with("Location", &address));
    let mut bench = Bench::new();
    bench.docker_config = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNz"}}}"#;
    bench.pulls(&fake.host);
    assert!(fake.seen().iter().all(|request| request.header("authorization").is_some()));
    assert_eq!(elsewhere.count("signature=y"), 1);
}

#[test]
fn another_host_gets_no_token_for_asking() {
    let elsewhere = Fake::start(|request| {
        let host = request.header("host").unwrap_or_default();
        let challenge = format!("Bearer realm=\"http://{host}/token\"");
        Answer::status(401).with("WWW-Authenticate", &challenge)
    });
    let address = format!("http://{}/x", elsewhere.host);
    let fake = odd(move |_, _| Answer::status(302).with("Location", &address));
    let mut bench = Bench::new();
    bench.docker_config = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNz"}}}"#;
    bench.fails(&fake.host, "401");
    assert_eq!(elsewhere.seen().len(), elsewhere.count("/x"));
}

#[test]
fn asked_to_wait() {
    let fake = odd(|request, bytes| match request.earlier {
        0 => Answer::status(429).with("Retry-After", "2"),
        1 => Answer::status(503),
        _ => Answer::ok(bytes),
    });
    let started = Instant::now();
    Bench::new().pulls(&fake.host);
    assert!(started.elapsed() >= Duration::from_secs(2));
}

#[test]
fn refusals_are_not_repeated() {
    for status in [400, 403, 404, 416] {
        let fake = odd(move |_, _| Answer::status(status));
        Bench::new().fails(&fake.host, &status.to_string());
        assert_eq!(fake.count(&first_blob()), 1, "{status}");
    }
}

#[test]
fn broken_off_and_resumed() {
    let fake = odd(|request, bytes| match range(request) {
        None => Answer::ok(bytes).cut(120_000),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            let answer = Answer::ok(&bytes[from..]).code(206).with("Content-Range", &range);
            if request.earlier == 1 { answer.cut(5) } else { answer }
        }
    });
    Bench::new().pulls(&fake.host);
    let ranges: Vec<Option<usize>> = fake
        .seen()
        .iter()
        .filter(|request| request.path.ends_with(&first_blob()))
        .map(range)
        .collect();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert!(ranges[0].is_none() && ranges[1] < ranges[2] && ranges[1] > Some(0), "{ranges:?}");
}

#[test]
fn broken_off_where_ranges_are_unknown() {
    let fake = odd(|request, bytes| match request.earlier {
        0 => Answer::ok(bytes).cut(120_000),
        _ => Answer::ok(bytes),
    });
    Bench::new().pulls(&fake.host);
}

#[test]
fn broken_off_for_ever() {
    let fake = odd(|_, bytes| Answer::ok(bytes).cut(100));
    Bench::new().fails(&fake.host, "broke off when asked to fetch blob");
    assert_eq!(fake.count(&first_blob()), TRIES as usize);
}

/// Docker's registry says of a range after the end that the answer is as long as the blob, sends
/// nothing of it, and ends the connection; another one may leave it open.
#[test]
fn past_the_end() {
    let (closed, open) = (Duration::ZERO, Duration::from_secs(10));
    for held in [closed, open] {
        // Less than there should be, and nobody says so.
        let fake = odd(move |request, bytes| match range(request) {
            None => Answer::ok(&bytes[..120_000]).chunked(true),
            Some(from) => Answer::status(416)
                .with("Content-Length", &bytes.len().to_string())
                .with("Content-Range", &format!("bytes */{from}"))
                .held(held),
        });
        let bench = Bench { silence: Duration::from_millis(300), ..Bench::new() };
        let started = Instant::now();
        bench.fails(&fake.host, "refused to fetch blob");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let ranges: Vec<Option<usize>> = fake
            .seen()
            .iter()
            .filter(|request| request.path.ends_with(&first_blob()))
            .map(range)
            .collect();
        assert_eq!(ranges, [None, Some(120_000)]);
    }
    // All of it, and then a break: there is nothing left to ask for.
    let fake = odd(|request, bytes| match range(request) {
        None => Answer::ok(bytes).chunked(false),
        Some(_) => Answer::status(416),
    });
    Bench::new().pulls(&fake.host);
    assert_eq!(fake.count(&first_blob()), 1);
}

/// A refusal that never ends is a refusal.
#[test]
fn drips_of_a_refusal() {
    let pause = Duration::from_millis(100);
    let fake = odd(move |_, _| Answer::ok(&[b'x'; 1000]).code(403).dripping(1000, pause));
    let bench = Bench { silence: Duration::from_millis(500), ..Bench::new() };
    let started = Instant::now();
    bench.fails(&fake.host, "403 xx");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn drips() {
    let silence = Duration::from_millis(500);
    // Slowly, and in all much longer than silence may be: it lives.
    let fake = odd(|_, bytes| Answer::ok(bytes).dripping(30, Duration::from_millis(50)));
    let bench = Bench { silence, ..Bench::new() };
    let started = Instant::now();
    bench.pulls(&fake.host);
    assert!(started.elapsed() > 2 * silence, "{:?}", started.elapsed());
    assert_eq!(fake.count(&first_blob()), 1);
    // Nothing more: it goes on in a new connection.
    let fake = odd(|request, bytes| match range(request) {
        None => Answer::ok(bytes).cut(120_000).held(Duration::from_secs(10)),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::ok(&bytes[from..]).code(206).with("Content-Range", &range)
        }
    });
    let bench = Bench { silence, ..Bench::new() };
    let started = Instant::now();
    bench.pulls(&fake.host);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(fake.count(&first_blob()), 2);
}

#[test]
fn lies_about_layers() {
    let wrong = |bytes: &[u8]| [&bytes[..bytes.len() - 1], b"?"].concat();
    let fake = odd(move |_, bytes| Answer::ok(&wrong(bytes)));
    Bench::new().fails(&fake.host, "what it sends has digest");
    let fake = odd(|_, bytes| Answer::ok(&[bytes, b"more"].concat()));
    Bench::new().fails(&fake.host, "it has 200004 bytes and should have 200000");
    let fake = odd(|request, bytes| match range(request) {
        None => Answer::ok(bytes).cut(120_000),
        Some(_) => Answer::ok(&bytes[9..]).code(206).with("Content-Range", "bytes 9-199999/200000"),
    });
    Bench::new().fails(&fake.host, "and it sends `bytes 9-199999/200000`");
    let fake = odd(|_, bytes| Answer::ok(bytes).with("Content-Encoding", "gzip"));
    Bench::new().fails(&fake.host, "it sends it encoded as gzip");
}

#[test]
fn lies_about_manifests() {
    let check = |change: fn(&Request, Answer) -> Answer, rest: &str, expected: &str| {
        let content = content();
        let fake = Fake::start(move |request| change(request, answer(&content, request)));
        let error = Bench::new().resolve(&fake.host, rest, "linux/amd64").expect_err("refused");
        assert!(words(&error).contains(expected), "{}", words(&error));
    };
    check(
        |_, answer| answer.with("Docker-Content-Digest", &Digest::of(b"x").to_string()),
        "team/app:v1",
        "which has another digest",
    );
    let index = Digest::of(&content()["team/app/manifests/v1"].1);
    check(
        |_, _| Answer::ok(b"{\"schemaVersion\":2,\"manifests\":[]}"),
        &format!("team/app@{index}"),
        "what it sends has digest",
    );
    check(
        |request, answer| if request.path.ends_with("v1") { answer } else { Answer::ok(b"{}") },
        "team/app:v1",
        "what it sends has digest",
    );
    check(
        |request, answer| {
            if request.path.contains("/blobs/") { Answer::ok(b"{}") } else { answer }
        },
        "team/app:v1",
        "it sends 2 bytes and should send",
    );
    check(
        |_, _| Answer::ok(&vec![b' '; 5 << 20]),
        "team/app:v1",
        "it sends more than 4194304 bytes",
    );
    check(
        |_, _| Answer::ok(br#"{"schemaVersion":1,"fsLayers":[]}"#),
        "team/app:v1",
        "Docker's first schema",
    );
}

#[test]
fn mirrors_come_first() {
    let has = content();
    let below: Content =
        has.iter().map(|(path, found)| (format!("hub/{path}"), found.clone())).collect();
    let registry = Fake::start(move |request| answer(&has, request));
    let mirror = Fake::start(move |request| answer(&below, request));
    let empty = Fake::start(|_| Answer::status(404));
    let mut bench = Bench::new();
    bench.mirrors = vec![empty.host.clone(), format!("{}/hub", mirror.host)];
    bench.docker_config = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNz"}}}"#;
    bench.pulls(&registry.host);
    assert!(registry.seen().is_empty());
    assert_eq!(empty.count("manifests/v1"), 1);
    assert!(mirror.seen().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn the_registry_comes_last() {
    let fake = odd(|_, bytes| Answer::ok(bytes));
    let liar = odd(|_, _| Answer::ok(&layer(7)));
    let gone = Fake::start(|_| Answer::status(500)).host.clone();
    let mut bench = Bench::new();
    bench.mirrors = vec![gone.clone(), liar.host.clone()];
    let started = Instant::now();
    bench.pulls(&fake.host);
    assert_eq!(fake.count(&first_blob()), 1);
    assert_eq!(liar.count("manifests/v1"), 1);
    // Where nobody listens is not asked again and again.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn nobody_has_it() {
    let (denied, absent) = (
        Fake::start(|_| Answer::status(403)),
        Fake::start(|_| {
            Answer::ok(br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such"}]}"#).code(404)
        }),
    );
    let mut bench = Bench::new();
    bench.mirrors = vec![denied.host.clone()];
    let error = words(&bench.pull(&absent.host).expect_err("nobody"));
    for part in [&denied.host, &absent.host, "403", "404 MANIFEST_UNKNOWN no such"] {
        assert!(error.contains(part), "{error}");
    }
    bench.mirrors = vec!["https://mirror.example".to_owned()];
    let error = words(&bench.pull(&absent.host).expect_err("refused"));
    assert!(error.contains("a mirror is `host`"), "{error}");
}
