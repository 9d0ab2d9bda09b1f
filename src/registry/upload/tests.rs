//! Blobs to registries that fail, lie, or want it otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::access::{Access, Pace, Settings};
use super::super::credentials::Credentials;
use super::super::error::told;
use super::super::fake::{Answer, Content as Kept, Fake, Request};
use super::super::{Reference, untold};
use super::*;
use crate::store::{Store, StoreError};

type Shared = Arc<Mutex<Kept>>;

/// More than is sent at once in the small form.
fn bytes() -> Vec<u8> {
    (0..200_000_u32).map(|n| (n.wrapping_mul(77) >> 5) as u8).collect()
}

fn quick() -> Pace {
    Pace { silence: Duration::from_secs(20), pause: Duration::from_millis(2) }
}

fn open(host: &str, pace: Pace) -> Arc<Repository> {
    let access = Access::new(Settings {
        credentials: Credentials::default(),
        insecure: Vec::new(),
        mirrors: BTreeMap::new(),
        certificates: Vec::new(),
    });
    let reference: Reference = format!("{host}/team/app:v1").parse().expect("a reference");
    access.at_pace(pace).repository(&reference).expect("opens")
}

/// Sends `bytes()` from a store; gives what was said, and the registry.
struct Try {
    fake: Fake,
    kept: Shared,
    result: Result<Sent, String>,
}

fn send(
    from: &[&str],
    before: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    after: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
) -> Try {
    let kept = Shared::default();
    kept.lock()
        .expect("new")
        .blobs
        .insert(("other/app".to_owned(), Digest::of(&bytes()).to_string()), bytes());
    let fake = Fake::registry(&kept, before, after);
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("store")).expect("a store");
    let digest = store.write_blob(&bytes()).expect("stored");
    let from: Vec<String> = from.iter().map(|&name| name.to_owned()).collect();
    let repository = open(&fake.host, quick());
    let blob = Blob { digest, size: 200_000, from: &from, is_doubted: false };
    let result = repository.push_blob(&blob, &store, &untold());
    Try { fake, kept, result: result.map_err(|error| told(&[error])) }
}

impl Try {
    /// It arrived whole, with so many of these requests.
    #[track_caller]
    fn arrives(self, counts: &[(&str, usize)]) -> Try {
        let all = self.fake.kinds();
        assert_eq!(self.result, Ok(Sent::Uploaded(200_000)), "{all:?}");
        self.has(counts)
    }

    #[track_caller]
    fn has(self, counts: &[(&str, usize)]) -> Try {
        let name = ("team/app".to_owned(), Digest::of(&bytes()).to_string());
        assert_eq!(self.kept.lock().expect("kept").blobs.get(&name), Some(&bytes()));
        for (kind, count) in counts {
            assert_eq!(self.fake.kind(kind), *count, "{kind} of {:?}", self.fake.kinds());
        }
        self
    }

    #[track_caller]
    fn fails(self, expected: &str, counts: &[(&str, usize)]) {
        let found = self.result.expect_err("fails");
        assert!(found.contains(expected) && found.contains("/team/app"), "{found}");
        for (kind, count) in counts {
            assert_eq!(self.fake.kind(kind), *count, "{kind} of {:?}", self.fake.kinds());
        }
    }
}

fn nothing(_: &Request) -> Option<Answer> {
    None
}

fn same(_: &Request, answer: Answer) -> Answer {
    answer
}

/// Answers so the first time that this kind of thing is asked for.
fn once(kind: &'static str, answer: Answer) -> impl Fn(&Request, Answer) -> Answer {
    move |request, usual| {
        if request.kind() == kind && request.nth == 0 { answer.clone() } else { usual }
    }
}

/// As `once`, before the registry sees it.
fn before(kind: &'static str, answer: Answer) -> impl Fn(&Request) -> Option<Answer> {
    move |request| (request.kind() == kind && request.nth == 0).then(|| answer.clone())
}

/// As `before`, each time.
fn always(kind: &'static str, answer: Answer) -> impl Fn(&Request) -> Option<Answer> {
    move |request| (request.kind() == kind).then(|| answer.clone())
}

#[test]
fn the_usual_way() {
    let done = send(&[], nothing, same).arrives(&[]);
    let expected = ["HEAD blobs", "POST uploads", "PATCH uploads", "PUT uploads"];
    assert_eq!(done.fake.kinds(), expected);
    let seen = done.fake.seen();
    assert_eq!(seen[1].header("content-length"), Some("0"));
    assert_eq!(seen[2].header("content-length"), Some("200000"));
    // A stream, which every registry takes, and not a chunk.
    assert_eq!(seen[2].header("content-range"), None);
    assert!(seen[3].path.contains("?_state=200000&digest=sha256%3A"), "{}", seen[3].path);
}

#[test]
fn small_ones_and_twice() {
    let kept = Shared::default();
    let fake = Fake::registry(&kept, nothing, same);
    let repository = open(&fake.host, quick());
    assert_eq!(repository.write_blob(b"small").expect("sent"), Sent::Uploaded(5));
    assert_eq!(fake.kinds(), ["HEAD blobs", "POST uploads", "PUT uploads"]);
    // A handle knows what it has sent; another one asks.
    assert_eq!(repository.write_blob(b"small").expect("sent"), Sent::WasThere);
    assert_eq!(fake.seen().len(), 3);
    assert_eq!(open(&fake.host, quick()).write_blob(b"small").expect("sent"), Sent::WasThere);
    assert_eq!(fake.kinds().last().map(String::as_str), Some("HEAD blobs"));
    assert_eq!(repository.write_blob(b"").expect("sent"), Sent::Uploaded(0));
    // Threads that send the same send it once.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| repository.write_blob(b"together").expect("sent"));
        }
    });
    assert_eq!(fake.kind("PUT uploads"), 3);
}

#[test]
fn small_ones_where_only_the_other_form_is_known() {
    let kept = Shared::default();
    let fake = Fake::registry(
        &kept,
        |request| {
            (request.method == "PUT" && request.header("content-length") != Some("0"))
                .then(|| Answer::error(404, "BLOB_UPLOAD_UNKNOWN"))
        },
        same,
    );
    let repository = open(&fake.host, quick());
    for text in ["one", "two"] {
        repository.write_blob(text.as_bytes()).expect("sent");
    }
    // Learnt once.
    assert_eq!(fake.kind("PATCH uploads"), 2);
    assert_eq!(fake.kind("PUT uploads"), 3);
}

#[test]
fn not_now() {
    let wait = || Answer::status(429).with("Retry-After", "1");
    for kind in ["POST uploads", "PATCH uploads", "PUT uploads"] {
        for answer in [Answer::status(503), Answer::status(500), Answer::status(408)] {
            send(&[], before(kind, answer), same).arrives(&[]);
        }
    }
    let started = Instant::now();
    send(&[], before("POST uploads", wait()), same).arrives(&[("POST uploads", 2)]);
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn not_now_and_never() {
    let tries = TRIES as usize;
    send(&[], always("POST uploads", Answer::status(503)), same)
        .fails("refused to upload blob sha256:", &[("POST uploads", tries)]);
    // Who wants more rest than anybody would wait is not asked again.
    let hours = Answer::error(429, "TOOMANYREQUESTS").with("Retry-After", "7200");
    send(&[], always("POST uploads", hours), same).fails(
        "429 TOOMANYREQUESTS said so (it wants 7200 seconds of rest)",
        &[("POST uploads", 1)],
    );
}

#[test]
fn refused_for_good() {
    for (status, code) in
        [(403, "DENIED"), (400, "NAME_INVALID"), (404, "NAME_UNKNOWN"), (405, "UNSUPPORTED")]
    {
        send(&[], always("POST uploads", Answer::error(status, code)), same)
            .fails(&format!("{status} {code} said so"), &[("POST uploads", 1)]);
    }
    send(&[], always("PATCH uploads", Answer::error(403, "DENIED")), same)
        .fails("403 DENIED", &[("PATCH uploads", 1)]);
    // A 401 that names no way to say who we are.
    send(&[], always("POST uploads", Answer::error(401, "UNAUTHORIZED")), same)
        .fails("401 UNAUTHORIZED", &[("POST uploads", 1)]);
}

#[test]
fn a_head_that_says_nothing_useful() {
    for status in [401, 403, 405] {
        send(&[], always("HEAD blobs", Answer::status(status)), same)
            .arrives(&[("HEAD blobs", 1), ("POST uploads", 1)]);
    }
    let lie = Answer::status(200).with("Content-Length", "7");
    send(&[], always("HEAD blobs", lie), same).arrives(&[("POST uploads", 1)]);
}

#[test]
fn a_damaged_blob_that_stays() {
    // Whatever is sent, seven bytes are there.
    let damaged = |request: &Request, usual: Answer| match request.kind().as_str() {
        "HEAD blobs" => Answer::status(200).with("Content-Length", "7"),
        "GET blobs" => Answer::ok(b"damaged"),
        _ => usual,
    };
    send(&[], nothing, damaged).fails("keeps it whatever it is sent", &[("POST uploads", 1)]);
}

#[test]
fn broken_off_and_continued() {
    // The registry keeps what came: half of it.
    let half = |request: &Request, usual: Answer| {
        if request.kind() == "PATCH uploads" && request.nth == 0 {
            Answer::hang_up(0)
        } else {
            usual
        }
    };
    // All came, and only the answer was lost.
    let done = send(&[], nothing, half).arrives(&[("PATCH uploads", 1), ("POST uploads", 1)]);
    assert_eq!(done.fake.kind("GET uploads"), 1);
    // Some came: the session says how much, and the rest follows.
    let kept = Shared::default();
    let cut = Fake::registry(&kept, nothing, |request, usual| {
        match (request.kind().as_str(), request.nth) {
            ("PATCH uploads", 0) => Answer::status(503),
            _ => usual,
        }
    });
    let repository = open(&cut.host, quick());
    let task = repository.task(Right::Push, "test");
    let (content, told) = (bytes(), untold());
    let content = Content::Memory(&content);
    let blob = Blob { digest: Digest::of(&bytes()), size: 200_000, from: &[], is_doubted: false };
    let upload = Upload {
        repository: &repository,
        task: &task,
        blob: &blob,
        content: &content,
        told: &told,
    };
    let session = repository.open_session(&task).expect("opens");
    assert!(upload.run(session, Form::Chunks(70_000)).is_ok());
    let ranges: Vec<String> = cut
        .seen()
        .iter()
        .filter(|request| request.method == "PATCH")
        .filter_map(|request| request.header("content-range").map(str::to_owned))
        .collect();
    // The first one came, though it was answered with 503.
    assert_eq!(ranges, ["0-69999", "70000-139999", "140000-199999"]);
}

#[test]
fn broken_off_and_sent_anew() {
    // Nothing is known of a session whose connection broke in the middle of the body.
    let done = send(&[], before("PATCH uploads", Answer::hang_up(90_000)), same)
        .arrives(&[("POST uploads", 2), ("PATCH uploads", 2)]);
    let sessions: Vec<String> =
        done.fake.seen().iter().filter(|r| r.method == "PATCH").map(|r| r.path.clone()).collect();
    assert_ne!(sessions[0], sessions[1]);
    // A stale session.
    send(&[], before("PATCH uploads", Answer::error(404, "BLOB_UPLOAD_INVALID")), same)
        .arrives(&[("POST uploads", 2)]);
    send(&[], before("PUT uploads", Answer::error(404, "BLOB_UPLOAD_INVALID")), same)
        .arrives(&[("POST uploads", 2)]);
}

#[test]
fn a_lost_answer_after_the_end() {
    send(&[], nothing, once("PUT uploads", Answer::hang_up(0))).arrives(&[
        ("PATCH uploads", 1),
        ("PUT uploads", 1),
        ("HEAD blobs", 2),
    ]);
}

#[test]
fn a_proxy_that_takes_less() {
    // It says so.
    let large = |request: &Request| {
        let length = request.header("content-length").and_then(|text| text.parse::<u64>().ok());
        (request.method == "PATCH" && length > Some(150_000)).then(|| Answer::status(413))
    };
    send(&[], large, same).arrives(&[]);
    send(&[], always("PATCH uploads", Answer::status(413)), same).fails("413", &[]);
    // It ends the connection, having said so early or not at all.
    let kept = Shared::default();
    let fake = Fake::registry(
        &kept,
        |request| {
            let length = request.header("content-length").and_then(|text| text.parse::<u64>().ok());
            (request.method == "PATCH" && length > Some(CHUNK)).then(|| Answer::hang_up(9000))
        },
        same,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("store")).expect("a store");
    let long: Vec<u8> = (0..10_000_000_u32).map(|n| (n >> 3) as u8).collect();
    let digest = store.write_blob(&long).expect("stored");
    let blob = Blob { digest, size: 10_000_000, from: &[], is_doubted: false };
    let repository = open(&fake.host, quick());
    assert_eq!(
        repository.push_blob(&blob, &store, &untold()).map_err(|error| told(&[error])),
        Ok(Sent::Uploaded(10_000_000))
    );
    let name = ("team/app".to_owned(), digest.to_string());
    assert_eq!(kept.lock().expect("kept").blobs.get(&name), Some(&long));
}

#[test]
fn the_least_length_of_chunks() {
    let kept = Shared::default();
    let fake = Fake::registry(
        &kept,
        |request| {
            let whole = request.header("content-range").is_none();
            (request.method == "PATCH" && whole).then(|| Answer::status(413))
        },
        |request, usual| match request.method.as_str() {
            "POST" => usual.with("OCI-Chunk-Min-Length", "6000000"),
            _ => usual,
        },
    );
    let long = vec![7; 8_000_000];
    let repository = open(&fake.host, quick());
    assert_eq!(repository.write_blob(&long).expect("sent"), Sent::Uploaded(8_000_000));
    let ranges: Vec<String> = fake
        .seen()
        .iter()
        .filter_map(|request| request.header("content-range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, ["0-5999999", "6000000-7999999"]);
}

#[test]
fn an_acknowledgement_of_less() {
    let short = once("PATCH uploads", Answer::status(202).with("Range", "0-99"));
    send(&[], nothing, short).arrives(&[("POST uploads", 2), ("PUT uploads", 1)]);
}

#[test]
fn a_patch_that_is_answered_otherwise() {
    for status in [200, 201, 204] {
        send(
            &[],
            nothing,
            move |request, usual| {
                if request.method == "PATCH" { usual.code(status) } else { usual }
            },
        )
        .arrives(&[("POST uploads", 1), ("PATCH uploads", 1)]);
    }
}

#[test]
fn a_registry_that_mangles() {
    send(&[], before("PUT uploads", Answer::error(400, "DIGEST_INVALID")), same)
        .arrives(&[("POST uploads", 2)]);
    let tries = TRIES as usize;
    send(&[], always("PUT uploads", Answer::error(400, "DIGEST_INVALID")), same)
        .fails("400 DIGEST_INVALID", &[("PUT uploads", tries)]);
    let other = Answer::status(201).with("Docker-Content-Digest", &Digest::of(b"x").to_string());
    send(&[], nothing, once("PUT uploads", other)).fails("it calls it sha256:", &[]);
    // Something that says yes to everything.
    send(&[], always("PUT uploads", Answer::status(200)), same).fails("and has not got it", &[]);
}

#[test]
fn a_damaged_blob_is_not_sent_again_and_again() {
    let kept = Shared::default();
    let fake = Fake::registry(&kept, nothing, same);
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("store")).expect("a store");
    let digest = store.write_blob(&bytes()).expect("stored");
    std::fs::remove_file(store.blob_path(&digest)).expect("removed");
    std::fs::write(store.blob_path(&digest), vec![0; 200_000]).expect("damaged");
    let blob = Blob { digest, size: 200_000, from: &[], is_doubted: false };
    let error = open(&fake.host, quick()).push_blob(&blob, &store, &untold()).expect_err("damaged");
    assert!(matches!(error, RegistryError::Store(StoreError::Mismatch { .. })), "{error}");
    assert_eq!(fake.kind("PUT uploads"), 1);
    assert!(kept.lock().expect("kept").blobs.is_empty());
}

#[test]
fn mounted() {
    let done = send(&["other/app"], nothing, same).has(&[("POST mount", 1), ("POST uploads", 0)]);
    assert_eq!(done.result, Ok(Sent::Mounted));
    // Not mounted, but a session all the same, which is used.
    send(&["no/such"], nothing, same).arrives(&[
        ("POST mount", 1),
        ("POST uploads", 0),
        ("PATCH uploads", 1),
    ]);
    send(&["no/such", "other/app"], nothing, same).has(&[("POST mount", 2), ("PATCH uploads", 0)]);
    // Said to be mounted, and not there.
    send(&["other/app"], always("POST mount", Answer::status(201)), same)
        .arrives(&[("POST uploads", 1)]);
    for status in [400, 401, 403, 404, 405, 500, 503] {
        send(&["other/app"], always("POST mount", Answer::status(status)), same)
            .arrives(&[("POST mount", 1), ("POST uploads", 1)]);
    }
    // From itself makes no sense.
    send(&["team/app"], nothing, same).arrives(&[("POST mount", 0)]);
}

#[test]
fn where_sessions_go_on() {
    let at = |location: &'static str| {
        move |request: &Request, usual: Answer| {
            let host = request.header("host").unwrap_or_default();
            match request.kind().as_str() {
                "POST uploads" => {
                    usual.without("Location").with("Location", &location.replace("HOST", host))
                }
                _ => usual,
            }
        }
    };
    let here = "/v2/team/app/blobs/uploads/s1";
    for location in [
        "http://HOST/v2/team/app/blobs/uploads/s1",
        here,
        "s1",
        "s1?",
        "s1?_state=a%20b&",
        "s1?x=y&&",
    ] {
        send(&[], nothing, at(location)).arrives(&[("POST uploads", 1)]);
    }
    send(
        &[],
        nothing,
        |request, usual| {
            if request.method == "POST" { usual.without("Location") } else { usual }
        },
    )
    .fails("it gives no Location", &[("PATCH uploads", 0)]);
    let elsewhere = Fake::start(|_| Answer::status(202));
    let address = format!("http://{}/upload", elsewhere.host);
    send(&[], nothing, move |request, usual| match request.method.as_str() {
        "POST" => usual.without("Location").with("Location", &address),
        _ => usual,
    })
    .fails("it sends the upload to another host", &[]);
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn a_registry_that_stops_reading() {
    // It takes the request, and never answers.
    let fake = Fake::start(|request| {
        if request.method == "POST" {
            std::thread::sleep(Duration::from_secs(3));
        }
        Answer::status(404)
    });
    let pace = Pace { silence: Duration::from_millis(200), pause: Duration::from_millis(2) };
    let started = Instant::now();
    let error = open(&fake.host, pace).write_blob(b"x").expect_err("no answer");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

/// What is read of an upload is not seen on this side: so much time there is for all of it.
#[test]
fn a_registry_that_drips() {
    let pace = Pace { silence: Duration::from_millis(300), pause: Duration::from_millis(2) };
    let sent = |length: usize, bytes: usize, pause: Duration| {
        let kept = Shared::default();
        let sips = move |request: &Request| {
            let first = request.kind() == "PUT uploads" && request.nth == 0;
            first.then(|| Answer::sipping(bytes, pause))
        };
        let fake = Fake::registry(&kept, sips, same);
        let started = Instant::now();
        let sent = open(&fake.host, pace).write_blob(&vec![b'x'; length]).map_err(|e| told(&[e]));
        assert_eq!(sent, Ok(Sent::Uploaded(length as u64)));
        (fake.kind("PUT uploads"), started.elapsed())
    };
    // 64 KiB have four seconds more; it takes one.
    let (puts, time) = sent(64 << 10, 1 << 10, Duration::from_millis(16));
    assert!(puts == 1 && time > 3 * pace.silence, "{puts} {time:?}");
    // It reads all the time, and would go on to do so for twenty seconds.
    let (puts, time) = sent(1000, 1, Duration::from_millis(20));
    assert!(puts == 2 && time < Duration::from_secs(5), "{puts} {time:?}");
}
