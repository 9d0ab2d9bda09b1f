//! Who we are, how often, and what registries make of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::super::access::{Access, Pace, Settings};
use super::super::credentials::Credentials;
use super::super::error::told;
use super::super::fake::{Answer, Content, Fake, Request};
use super::super::{Blob, Name, Reference, Sent};
use super::*;

#[test]
fn retry_after() {
    let date = Some("Sun, 28 Feb 2027 23:59:30 GMT");
    for (asked, date, expected) in [
        ("7", None, Some(7)),
        ("Mon, 01 Mar 2027 00:00:15 GMT", date, Some(45)),
        ("Wed, 01 Mar 2028 00:00:00 GMT", Some("Mon, 28 Feb 2028 00:00:00 GMT"), Some(172_800)),
        ("Sun, 28 Feb 2027 23:59:29 GMT", date, None),
        ("Mon, 01 Mar 2027 00:00:15 GMT", None, None),
        ("soon", date, None),
        ("-1", date, None),
        ("Mon, 99 Xyz 2027 00:00:15 GMT", date, None),
    ] {
        assert_eq!(wait(asked, date), expected.map(Duration::from_secs), "{asked}");
    }
}

/// A repository `team/app`, opened with this JSON in `CNB_REGISTRY_AUTH`, HOST being its host.
fn open(host: &str, headers: &str) -> Arc<Repository> {
    let headers = headers.replace("HOST", host);
    let variables = BTreeMap::from([("CNB_REGISTRY_AUTH".to_owned(), headers)]);
    let access = Access::new(Settings {
        credentials: Credentials::read(&variables, None).expect("credentials"),
        insecure: Vec::new(),
        mirrors: BTreeMap::new(),
        certificates: Vec::new(),
    });
    let reference: Reference = format!("{host}/team/app:v1").parse().expect("a reference");
    let pace = Pace { silence: Duration::from_secs(20), pause: Duration::from_millis(2) };
    access.at_pace(pace).repository(&reference).expect("opens")
}

/// user:pass
const USER: &str = r#"{"HOST":"Basic dXNlcjpwYXNz"}"#;
const USER_HEADER: Option<&str> = Some("Basic dXNlcjpwYXNz");

/// A registry where every token is good for so many requests. `give` answers for tokens with
/// what it is asked and the next token.
fn guarded(
    kept: &Arc<Mutex<Content>>,
    uses: usize,
    give: impl Fn(&Request, &str) -> Answer + Send + Sync + 'static,
) -> Fake {
    let tokens = AtomicUsize::new(0);
    let left = Mutex::new(BTreeMap::<String, usize>::new());
    Fake::registry(
        kept,
        move |request| {
            if request.path.starts_with("/token") {
                return None;
            }
            let mut left = left.lock().expect("left");
            let shown = request.header("authorization").unwrap_or_default().to_owned();
            let used = left.entry(shown.clone()).or_default();
            *used += 1;
            if shown.starts_with("Bearer t") && *used <= uses {
                return None;
            }
            let host = request.header("host").unwrap_or_default();
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            Some(Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &challenge))
        },
        move |request, usual| {
            if !request.path.starts_with("/token") {
                return usual;
            }
            let next = format!("t{}", tokens.fetch_add(1, Ordering::SeqCst));
            give(request, &next)
        },
    )
}

fn give(_: &Request, token: &str) -> Answer {
    Answer::ok(format!(r#"{{"token":"{token}","expires_in":300}}"#).as_bytes())
}

fn words(error: RegistryError) -> String {
    told(&[error])
}

#[test]
fn a_token_serves_until_its_end() {
    let kept = Arc::default();
    let fake = guarded(&kept, usize::MAX, |request, token| {
        assert_eq!(request.header("authorization"), USER_HEADER);
        give(request, token)
    });
    let repository = open(&fake.host, USER);
    for text in ["one", "two"] {
        repository.write_blob(text.as_bytes()).expect("sent");
    }
    // Who may only pull gets a token for that: some servers give no other.
    assert_eq!(repository.manifest(Name::Tag("v1")).expect("asked"), None);
    assert_eq!(fake.kind("GET token"), 1);
    let pulls = open(&fake.host, USER);
    assert_eq!(pulls.manifest(Name::Tag("v1")).expect("asked"), None);
    pulls.write_blob(b"three").expect("sent");
    let asked: Vec<String> = fake
        .seen()
        .iter()
        .filter(|request| request.path.starts_with("/token"))
        .filter_map(|request| request.query("scope"))
        .collect();
    let (pull, push) = ("repository:team/app:pull", "repository:team/app:pull,push");
    assert_eq!(asked, [push, pull, push]);
}

#[test]
fn a_token_that_ends_at_any_step() {
    let long = vec![7; 200_000];
    // Each token is good for one request, and then for two: every step meets its end.
    for uses in [1, 2, 3] {
        let kept = Arc::default();
        let fake = guarded(&kept, uses, give);
        let repository = open(&fake.host, USER);
        assert_eq!(repository.write_blob(&long).map_err(words), Ok(Sent::Uploaded(200_000)));
        let manifest = b"{\"schemaVersion\":2}";
        repository.put_manifest(Name::Tag("v1"), "application/json", manifest).expect("put");
        // No step was refused twice, and no session was left for a new one.
        let kinds = fake.kinds();
        let tries = if uses == 3 { 1 } else { 2 };
        assert_eq!(fake.kind("PATCH uploads"), tries, "{kinds:?}");
        assert!(fake.kind("POST uploads") <= 2 && fake.kind("PUT manifests") <= 2, "{kinds:?}");
        assert_eq!(fake.kind("GET token"), 5_usize.div_ceil(uses), "{kinds:?}");
    }
}

#[test]
fn one_token_for_many_threads() {
    let kept = Arc::default();
    let fake = guarded(&kept, usize::MAX, give);
    let repository = open(&fake.host, USER);
    std::thread::scope(|scope| {
        for n in 0..6_u8 {
            let repository = &repository;
            scope.spawn(move || repository.write_blob(&[n]).expect("sent"));
        }
    });
    assert_eq!(fake.kind("GET token"), 1, "{:?}", fake.kinds());
}

#[test]
fn a_401_for_ever() {
    let kept = Arc::default();
    let fake = guarded(&kept, 0, give);
    let error = words(open(&fake.host, USER).write_blob(b"x").expect_err("refused"));
    assert!(error.contains("401 UNAUTHORIZED said so"), "{error}");
    // Asked once more with a new token, and no more.
    assert_eq!((fake.kind("HEAD blobs"), fake.kind("POST uploads")), (2, 2), "{:?}", fake.kinds());
}

#[test]
fn tokens_for_both_repositories_of_a_mount() {
    let kept: Arc<Mutex<Content>> = Arc::default();
    let digest = crate::digest::Digest::of(b"blob");
    let name = ("other/app".to_owned(), digest.to_string());
    kept.lock().expect("kept").blobs.insert(name, b"blob".to_vec());
    let fake = guarded(&kept, usize::MAX, give);
    let folder = tempfile::tempdir().expect("a folder");
    let store = crate::store::Store::open(&folder.path().join("store")).expect("a store");
    store.write_blob(b"blob").expect("stored");
    let from = ["other/app".to_owned()];
    let blob = Blob { digest, size: 4, from: &from, is_doubted: false };
    let repository = open(&fake.host, USER);
    let sent = repository.push_blob(&blob, &store, &super::super::untold());
    assert_eq!(sent.map_err(words), Ok(Sent::Mounted));
    let last = fake.seen().into_iter().rfind(|request| request.path.starts_with("/token"));
    let asked = last.expect("asked").path;
    assert!(
        asked.ends_with(
            "scope=repository%3Ateam%2Fapp%3Apull%2Cpush&scope=repository%3Aother%2Fapp%3Apull"
        ),
        "{asked}"
    );
    // Where the other one is not ours to read, the blob is sent.
    let kept = Arc::default();
    let fake = guarded(&kept, usize::MAX, |request, token| {
        if request.path.contains("other") { Answer::status(403) } else { give(request, token) }
    });
    let sent = open(&fake.host, USER).push_blob(&blob, &store, &super::super::untold());
    assert_eq!(sent.map_err(words), Ok(Sent::Uploaded(4)));
}

#[test]
fn identity_tokens() {
    let kept = Arc::default();
    let fake = guarded(&kept, usize::MAX, |request, token| {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let good = request.method == "POST"
            && request.header("authorization").is_none()
            && form.contains("grant_type=refresh_token")
            && form.contains("refresh_token=se%2Bcret")
            && form.contains("scope=repository%3Ateam%2Fapp%3Apull%2Cpush");
        if !good {
            return Answer::ok(br#"{"details":"no such grant"}"#).code(400);
        }
        Answer::ok(format!(r#"{{"access_token":"{token}"}}"#).as_bytes())
    });
    let repository = open(&fake.host, r#"{"HOST":"X-Identity se+cret"}"#);
    assert_eq!(repository.write_blob(b"x").map_err(words), Ok(Sent::Uploaded(1)));
    let error =
        words(open(&fake.host, r#"{"HOST":"X-Identity wrong"}"#).write_blob(b"x").expect_err("no"));
    assert!(error.contains("refused to get a token: 400 no such grant"), "{error}");
}

#[test]
fn given_tokens_and_passwords_as_they_are() {
    let fake = Fake::start(|request| match request.header("authorization") {
        Some("Bearer given" | "Basic dXNlcjpwYXNz") => Answer::ok(b"{}"),
        _ => Answer::status(401).with("WWW-Authenticate", "Basic realm=\"x\""),
    });
    for headers in [USER, r#"{"HOST":"Bearer given"}"#] {
        assert!(open(&fake.host, headers).manifest(Name::Tag("v1")).expect("given").is_some());
    }
    for headers in ["{}", r#"{"HOST":"Bearer wrong"}"#] {
        let error =
            words(open(&fake.host, headers).manifest(Name::Tag("v1")).expect_err("refused"));
        assert!(error.contains("401") && !error.contains("wrong"), "{error}");
    }
    assert_eq!(fake.seen().len(), 4);
}

#[test]
fn token_servers_that_fail() {
    let check = |give: fn(&Request, &str) -> Answer, expected: Option<&str>| {
        let kept = Arc::default();
        let fake = guarded(&kept, usize::MAX, give);
        let result = open(&fake.host, USER).write_blob(b"x").map_err(words);
        match expected {
            None => assert_eq!(result, Ok(Sent::Uploaded(1))),
            Some(words) => {
                let error = result.expect_err("refused");
                assert!(error.contains(words) && !error.contains("pass"), "{error}");
            }
        }
        fake.kind("GET token")
    };
    let busy = |request: &Request, token: &str| {
        if request.nth == 0 { Answer::status(503) } else { give(request, token) }
    };
    assert_eq!(check(busy, None), 2);
    check(
        |_, token| Answer::ok(format!(r#"{{"access_token":"{token}","token":""}}"#).as_bytes()),
        None,
    );
    check(
        |_, token| {
            Answer::ok(
                format!(
                    r#"{{"token":"{token}","expires_in":0,"issued_at":"2099-01-01T00:00:00Z"}}"#
                )
                .as_bytes(),
            )
        },
        None,
    );
    check(|_, _| Answer::ok(b"<html>"), Some("the answer holds none"));
    check(|_, _| Answer::ok(&vec![b' '; 10 << 20]), Some("it sends more than 65536 bytes"));
    let denied =
        |_: &Request, _: &str| Answer::ok(br#"{"details":"incorrect username"}"#).code(401);
    check(denied, Some("refused to get a token: 401 incorrect username"));
}

#[test]
fn token_servers_at_bad_addresses() {
    for (realm, expected) in [
        ("file:///etc/passwd", "is not https"),
        ("http://169.254.169.254/token", "is not a public one"),
        ("nonsense", "is none"),
    ] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        let fake = Fake::start(move |_| Answer::status(401).with("WWW-Authenticate", &challenge));
        let result = open(&fake.host, USER).manifest(Name::Tag("v1")).map_err(words);
        let error = result.expect_err("refused");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn words_of_all_sorts() {
    for (answer, expected) in [
        (Answer::ok(b"<html><body>Proxy says no").code(403), "403 <html><body>Proxy says no"),
        (Answer::ok(b"\n\nplain text\n").code(400), "400 plain text"),
        (Answer::status(418), "418"),
        (Answer::error(400, "MANIFEST_INVALID"), "400 MANIFEST_INVALID said so"),
    ] {
        let fake = Fake::start(move |_| answer.clone());
        let error = words(open(&fake.host, "{}").manifest(Name::Tag("v1")).expect_err("no"));
        let expected =
            format!("`{}/team/app` refused to read the manifest `v1`: {expected}", fake.host);
        assert_eq!(error, expected);
    }
}
