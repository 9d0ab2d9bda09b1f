//! Images to registries that lose blobs, forbid tags, or are none.

use std::sync::Mutex;
use std::time::Duration;

use super::super::access::{Access, Pace, Settings};
use super::super::credentials::Credentials;
use super::super::error::told;
use super::super::fake::{Answer, Content as Kept, Fake, Request};
use super::*;
use crate::image::{ImageLayer, Settings as ImageSettings, assemble};
use crate::layer::{Compression, Layer};

type Shared = Arc<Mutex<Kept>>;

struct Bench {
    _folder: tempfile::TempDir,
    store: Store,
    image: Image,
    doubted: BTreeSet<Digest>,
    sent: BTreeSet<Digest>,
}

impl Bench {
    fn new(seed: &str) -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        let layer = |text: String| {
            let digest = store.write_blob(text.as_bytes()).expect("stored");
            let (size, compression) = (text.len() as u64, Compression::None);
            let layer = Layer { diff_id: digest, digest, size, unpacked: size, compression };
            ImageLayer { name: text, part: None, layer, tree: digest }
        };
        let layers = ["base", "gems", "app"].map(|name| layer(format!("{name} {seed}")));
        let settings = ImageSettings {
            architecture: "amd64".to_owned(),
            created: "1980-01-01T00:00:01Z".to_owned(),
            environment: BTreeMap::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: "1000:1000".to_owned(),
            directory: "/".to_owned(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            stop_signal: None,
            media_types: crate::image::MediaTypes::Oci,
        };
        let image = assemble(&settings, layers.to_vec()).expect("an image");
        Bench { _folder: folder, store, image, doubted: BTreeSet::new(), sent: BTreeSet::new() }
    }

    /// With a handle that knows nothing yet.
    fn push(&self, fake: &Fake, tags: &[&str]) -> Result<(), RegistryError> {
        self.push_with(fake, tags, &|_| Ok(()))
    }

    fn push_with(
        &self,
        fake: &Fake,
        tags: &[&str],
        bring: &Bring<'_>,
    ) -> Result<(), RegistryError> {
        self.push_over(fake, tags, bring, Expected::Anything).0
    }

    /// And the tags that were moved, with what they named before.
    fn push_over(
        &self,
        fake: &Fake,
        tags: &[&str],
        bring: &Bring<'_>,
        expected: Expected,
    ) -> (Result<(), RegistryError>, Vec<(String, Digest)>) {
        let (pushed, events) = self.push_and_tell(fake, tags, bring, expected);
        let moved = events.into_iter().filter_map(|event| match event {
            Event::Moved { reference, from, to } if to == self.image.digest => {
                Some((reference.rsplit('/').next()?.to_owned(), from))
            }
            _ => None,
        });
        (pushed, moved.collect())
    }

    fn push_and_tell(
        &self,
        fake: &Fake,
        tags: &[&str],
        bring: &Bring<'_>,
        expected: Expected,
    ) -> (Result<(), RegistryError>, Vec<Event>) {
        let access = Access::new(Settings {
            credentials: Credentials::default(),
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            certificates: Vec::new(),
        });
        let pace = Pace { silence: Duration::from_secs(20), pause: Duration::from_millis(2) };
        let reference = format!("{}/team/app:v1", fake.host).parse().expect("a reference");
        let (sender, events) = std::sync::mpsc::channel();
        let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
        let pushed = access.at_pace(pace).repository(&reference).expect("opens").push_over(
            expected,
            &Push {
                image: &self.image,
                store: &self.store,
                tags: &tags,
                origins: &BTreeMap::new(),
                doubted: &self.doubted,
                sent: &self.sent,
                bring,
                events: &Events::new(sender),
            },
        );
        (pushed, events.iter().collect())
    }

    fn fails(&self, fake: &Fake, tags: &[&str]) -> String {
        told(&[self.push(fake, tags).expect_err("fails")])
    }
}

fn tag(kept: &Shared, tag: &str) -> Option<Digest> {
    let name = ("team/app".to_owned(), tag.to_owned());
    kept.lock().expect("kept").manifests.get(&name).map(|(_, bytes)| Digest::of(bytes))
}

fn plain(kept: &Shared) -> Fake {
    Fake::registry(kept, |_| None, |_, answer| answer)
}

#[test]
fn what_was_sent_a_moment_ago_is_told_of_when_it_is_gone() {
    let (kept, mut bench) = (Shared::default(), Bench::new("1"));
    let fake = plain(&kept);
    let layer = bench.image.layers[0].layer.clone();
    bench.sent.insert(layer.digest);
    let told = |tag: &str| {
        let (pushed, events) = bench.push_and_tell(&fake, &[tag], &|_| Ok(()), Expected::Anything);
        pushed.expect("pushes");
        let what = bench.image.layers[0].title();
        let sent = events.into_iter().filter_map(|event| match event {
            Event::Pushed { what: found, sent } if found == what => Some(sent),
            _ => None,
        });
        sent.collect::<Vec<u64>>()
    };
    assert_eq!(told("v1"), [layer.size]);
    assert!(told("v2").is_empty());
}

#[test]
fn the_tag_comes_last_and_nothing_twice() {
    let (kept, bench) = (Shared::default(), Bench::new("1"));
    let fake = plain(&kept);
    bench.push(&fake, &["v1"]).expect("pushes");
    assert_eq!(tag(&kept, "v1"), Some(bench.image.digest));
    assert_eq!(fake.kind("PUT uploads"), 4);
    assert_eq!(fake.kinds().last().map(String::as_str), Some("PUT manifests"));
    // Again: one request.
    let before = fake.seen().len();
    bench.push(&fake, &["v1"]).expect("pushes");
    assert_eq!(fake.kinds()[before..], ["HEAD manifests"]);
    // Another tag of what is there: no blob is even asked for.
    let before = fake.seen().len();
    bench.push(&fake, &["v1", "v2"]).expect("pushes");
    assert_eq!(fake.kinds()[before..], ["HEAD manifests", "HEAD manifests", "PUT manifests"]);
    // Several new ones: by digest first, then each.
    let before = fake.seen().len();
    let other = Bench::new("2");
    other.push(&fake, &["v1", "v2"]).expect("pushes");
    let puts: Vec<String> = fake.seen()[before..]
        .iter()
        .filter(|request| request.kind() == "PUT manifests")
        .filter_map(|request| request.path.rsplit('/').next().map(str::to_owned))
        .collect();
    assert_eq!(puts, [other.image.digest.to_string(), "v1".to_owned(), "v2".to_owned()]);
}

#[test]
fn broken_off_at_each_step() {
    // The registry is gone after so many requests, and comes back for the next push.
    let whole = {
        let fake = plain(&Shared::default());
        Bench::new("1").push(&fake, &["v1"]).expect("pushes");
        fake.seen().len()
    };
    for steps in 0..whole {
        let (kept, bench) = (Shared::default(), Bench::new("1"));
        let count = Mutex::new(0);
        let gone = Fake::registry(
            &kept,
            move |_| {
                let mut count = count.lock().expect("a count");
                *count += 1;
                (*count > steps).then(|| Answer::error(403, "DENIED"))
            },
            |_, answer| answer,
        );
        let _fails = bench.push(&gone, &["v1"]).expect_err("gone");
        assert_eq!(tag(&kept, "v1"), None, "after {steps}");
        let there = kept.lock().expect("kept").blobs.len();
        let fake = plain(&kept);
        bench.push(&fake, &["v1"]).expect("pushes");
        assert_eq!(fake.kind("PUT uploads"), 4 - there, "after {steps}");
        assert_eq!(tag(&kept, "v1"), Some(bench.image.digest));
    }
}

#[test]
fn two_at_once() {
    let (kept, bench) = (Shared::default(), Bench::new("1"));
    let fake = plain(&kept);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| bench.push(&fake, &["v1"]).expect("pushes"));
        }
    });
    assert_eq!(tag(&kept, "v1"), Some(bench.image.digest));
}

#[test]
fn manifests_not_now() {
    for status in [429, 500, 503] {
        let (kept, bench) = (Shared::default(), Bench::new("1"));
        let fake = Fake::registry(
            &kept,
            move |request| {
                let first = request.kind() == "PUT manifests" && request.nth == 0;
                first.then(|| Answer::status(status))
            },
            |_, answer| answer,
        );
        bench.push(&fake, &["v1"]).expect("pushes");
        assert_eq!(fake.kind("PUT manifests"), 2);
    }
}

#[test]
fn blobs_that_the_registry_loses() {
    let (kept, bench) = (Shared::default(), Bench::new("1"));
    let lost = Arc::clone(&kept);
    let fake = Fake::registry(
        &kept,
        move |request| {
            // Its garbage collection runs just before the manifest comes.
            if request.kind() == "PUT manifests" && request.nth == 0 {
                lost.lock().expect("kept").blobs.pop_first();
            }
            None
        },
        |_, answer| answer,
    );
    bench.push(&fake, &["v1"]).expect("pushes");
    assert_eq!(tag(&kept, "v1"), Some(bench.image.digest));
    assert_eq!((fake.kind("PUT uploads"), fake.kind("PUT manifests")), (5, 2));
    // One that says so for ever is believed.
    let fake = Fake::registry(
        &Shared::default(),
        |request| {
            let put = request.kind() == "PUT manifests";
            put.then(|| Answer::error(400, "MANIFEST_BLOB_UNKNOWN"))
        },
        |_, answer| answer,
    );
    assert!(bench.fails(&fake, &["v1"]).contains("400 MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(fake.kind("PUT manifests"), 3);
}

#[test]
fn tags_that_may_not_move() {
    let frozen = |kept: &Shared, status: u16, code: &'static str| {
        Fake::registry(
            kept,
            move |request: &Request| {
                let put = request.kind() == "PUT manifests" && request.path.ends_with("/v1");
                put.then(|| Answer::error(status, code))
            },
            |_, answer| answer,
        )
    };
    let kept = Shared::default();
    let (old, new) = (Bench::new("1"), Bench::new("2"));
    old.push(&plain(&kept), &["v1"]).expect("pushes");
    for (status, code) in [(400, "TAG_INVALID"), (409, "immutable tag"), (412, "IMMUTABLE")] {
        let fake = frozen(&kept, status, code);
        old.push(&fake, &["v1"]).expect("it is there already");
        assert_eq!(fake.kind("PUT manifests"), 0);
        let error = new.fails(&fake, &["v1"]);
        let (names, wanted) = (old.image.digest, new.image.digest);
        let expected =
            format!("team/app:v1` names {names} and may not be moved to {wanted}: {status} {code}");
        assert!(error.contains(&expected), "{error}");
        assert_eq!(fake.kind("PUT manifests"), 1);
    }
    // Another one was quicker, with the same image.
    let late = Arc::clone(&kept);
    let fake = Fake::registry(
        &kept,
        move |request| {
            let put = request.kind() == "PUT manifests";
            if put {
                let mut kept = late.lock().expect("kept");
                let name = ("team/app".to_owned(), "v1".to_owned());
                kept.manifests.insert(name, (String::new(), request_of(&Bench::new("2"))));
            }
            put.then(|| Answer::error(409, "CONFLICT"))
        },
        |_, answer| answer,
    );
    new.push(&fake, &["v1"]).expect("it is there now");
}

fn request_of(bench: &Bench) -> Vec<u8> {
    bench.image.manifest.clone()
}

#[test]
fn no_registry_at_all() {
    let bench = Bench::new("1");
    let yes = |status: u16| {
        Fake::registry(
            &Shared::default(),
            move |request| {
                let put = request.kind() == "PUT manifests";
                put.then(|| Answer::ok(b"<html>welcome").code(status))
            },
            |_, answer| answer,
        )
    };
    for status in [200, 202, 204] {
        let error = bench.fails(&yes(status), &["v1"]);
        assert!(error.contains("and has not got it"), "{error}");
    }
    let other = Digest::of(b"x");
    let fake = Fake::registry(
        &Shared::default(),
        |_| None,
        move |request, answer| match request.kind().as_str() {
            "PUT manifests" => {
                Answer::status(201).with("Docker-Content-Digest", &other.to_string())
            }
            _ => answer,
        },
    );
    assert!(bench.fails(&fake, &["v1"]).contains("it names the manifest sha256:"));
    // ECR's 201 says nothing more.
    let kept = Shared::default();
    let silent = Fake::registry(
        &kept,
        |_| None,
        |_, answer| answer.without("Docker-Content-Digest").without("Location"),
    );
    // Sessions need their Location; only manifests go without.
    assert!(bench.fails(&silent, &["v1"]).contains("it gives no Location"));
    let silent = Fake::registry(
        &kept,
        |_| None,
        |request, answer| {
            if request.path.contains("/manifests/") {
                answer.without("Docker-Content-Digest")
            } else {
                answer
            }
        },
    );
    bench.push(&silent, &["v1"]).expect("pushes");
    // HEAD without digest: the manifest itself is read.
    bench.push(&silent, &["v1"]).expect("pushes");
    assert_eq!((fake_gets(&silent), silent.kind("PUT manifests")), (1, 1));
}

fn fake_gets(fake: &Fake) -> usize {
    fake.kind("GET manifests")
}

#[test]
fn layers_that_are_elsewhere() {
    let (kept, bench) = (Shared::default(), Bench::new("1"));
    let (digest, path) = {
        let layer = &bench.image.layers[0];
        (layer.layer.digest, bench.store.blob_path(&layer.layer.digest))
    };
    std::fs::remove_file(&path).expect("removed");
    let brought = Mutex::new(Vec::new());
    let bring = |asked: &Digest| {
        brought.lock().expect("brought").push(*asked);
        bench.store.write_blob(b"base 1").map(drop).map_err(Into::into)
    };
    bench.push_with(&plain(&kept), &["v1"], &bring).expect("pushes");
    assert_eq!(*brought.lock().expect("brought"), [digest]);
    // What the registry has need not be here.
    std::fs::remove_file(&path).expect("removed");
    kept.lock().expect("kept").manifests.clear();
    bench.push_with(&plain(&kept), &["v1"], &bring).expect("pushes");
    assert_eq!(brought.lock().expect("brought").len(), 1);
    let nowhere = Shared::default();
    let error = bench.push_with(&plain(&nowhere), &["v1"], &|_| Err("no such".into()));
    let error = told(&[error.expect_err("nowhere")]);
    assert!(
        error.contains(&format!("could not fetch {digest} in order to push it: no such")),
        "{error}"
    );
}

#[test]
fn tags_that_are_moved() {
    let (kept, one, two) = (Shared::default(), Bench::new("1"), Bench::new("2"));
    let fake = plain(&kept);
    let push = |bench: &Bench, expected| {
        let (pushed, moved) = bench.push_over(&fake, &["v1"], &|_| Ok(()), expected);
        (pushed.map_err(|error| told(&[error])), moved)
    };
    // A new one, the same again, and another.
    assert_eq!(push(&one, Expected::Anything), (Ok(()), vec![]));
    assert_eq!(push(&one, Expected::Anything), (Ok(()), vec![]));
    let from_one = vec![("app:v1".to_owned(), one.image.digest)];
    assert_eq!(push(&two, Expected::Anything), (Ok(()), from_one.clone()));

    // Over what it does not name: nothing is sent.
    let three = Bench::new("3");
    for (expected, shown) in [
        (Expected::Nothing, "nothing".to_owned()),
        (Expected::Image(one.image.digest), one.image.digest.to_string()),
    ] {
        let before = fake.seen().len();
        let words = format!("/team/app:v1` names {}, not {shown}", two.image.digest);
        let (pushed, moved) = push(&three, expected);
        let error = pushed.expect_err("refused");
        assert!(error.ends_with(&words) && moved.is_empty(), "{error}");
        assert_eq!(fake.kinds()[before..], ["HEAD manifests"]);
        // What is there already is well, whatever was expected.
        assert_eq!(push(&two, expected), (Ok(()), vec![]));
    }
    let from_two = vec![("app:v1".to_owned(), two.image.digest)];
    assert_eq!(push(&three, Expected::Image(two.image.digest)), (Ok(()), from_two));
    let (pushed, _) = three.push_over(&fake, &["v2"], &|_| Ok(()), Expected::Nothing);
    assert_eq!(pushed.map_err(|error| told(&[error])), Ok(()));
    assert_eq!(tag(&kept, "v2"), Some(three.image.digest));
}

/// Another one is quicker: it moves the tag while the blobs of this one are on their way.
#[test]
fn tags_that_another_one_moves_meanwhile() {
    let (kept, one, two) = (Shared::default(), Bench::new("1"), Bench::new("2"));
    let (quicker, at) = (two.image.manifest.clone(), Arc::clone(&kept));
    let fake = Fake::registry(
        &kept,
        |_| None,
        move |request, answer| {
            if request.kind() == "PUT uploads" {
                let named = (crate::image::MANIFEST_TYPE.to_owned(), quicker.clone());
                let name = ("team/app".to_owned(), "v1".to_owned());
                at.lock().expect("kept").manifests.insert(name, named);
            }
            answer
        },
    );
    let error = one.push_over(&fake, &["v1"], &|_| Ok(()), Expected::Nothing).0;
    let error = told(&[error.expect_err("refused")]);
    assert!(error.ends_with(&format!("names {}, not nothing", two.image.digest)), "{error}");
    assert_eq!(tag(&kept, "v1"), Some(two.image.digest));
    assert_eq!(fake.kind("PUT manifests"), 0);
    // Who has no expectations wins.
    one.push(&fake, &["v1"]).expect("pushes");
    assert_eq!(tag(&kept, "v1"), Some(one.image.digest));

    // Who may not look at tags cannot expect anything of them.
    let blind = Fake::registry(
        &kept,
        |request| (request.kind() == "HEAD manifests").then(|| Answer::status(403)),
        |request, answer| {
            if request.kind() == "GET manifests" { Answer::status(403) } else { answer }
        },
    );
    assert!(two.push_over(&blind, &["v1"], &|_| Ok(()), Expected::Nothing).0.is_err());
    assert_eq!(blind.kind("POST uploads"), 0);
}

#[test]
fn blobs_that_are_known_to_be_broken() {
    let (kept, mut bench) = (Shared::default(), Bench::new("1"));
    bench.push(&plain(&kept), &["v1"]).expect("pushes");
    let layer = bench.image.layers[1].layer.clone();
    let name = ("team/app".to_owned(), layer.digest.to_string());
    let stored = || kept.lock().expect("kept").blobs[&name].clone();
    let whole = stored();
    let flip = || kept.lock().expect("kept").blobs.get_mut(&name).expect("there")[0] ^= 1;

    // Nobody knows, and nobody asks.
    flip();
    bench.push(&plain(&kept), &["v1"]).expect("pushes");
    assert_ne!(stored(), whole);
    // Somebody has read it: it is sent again, although tag, manifest and blob are there.
    bench.doubted.insert(layer.digest);
    let fake = plain(&kept);
    bench.push(&fake, &["v1"]).expect("pushes");
    assert!(stored() == whole && fake.kind("PUT uploads") == 1, "{:?}", fake.kinds());
    // One that is whole is read, and that is all.
    let fake = plain(&kept);
    bench.push(&fake, &["v1"]).expect("pushes");
    assert_eq!((fake.kind("GET blobs"), fake.kind("POST uploads")), (1, 0));
    // A registry that keeps what it has cannot be helped, and no tag of it is called good.
    flip();
    let broken = stored();
    let fake = Fake::registry(
        &kept,
        |_| None,
        move |request, usual| match request.kind().as_str() {
            "GET blobs" => Answer::ok(&broken),
            _ => usual,
        },
    );
    let error = bench.fails(&fake, &["v1", "v2"]);
    let expected = format!("has a damaged {}, and keeps it", layer.digest);
    assert!(error.contains(&expected) && fake.kind("PUT manifests") == 0, "{error}");
}
