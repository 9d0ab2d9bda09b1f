//! Caches against registries in the same process that have, lose, or refuse things.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::engine::Made;
use crate::event::Event;
use crate::image::{ImageLayer, MediaTypes};
use crate::layer::{Compression, PackedPart, Packing};
use crate::registry::fake::{Answer, Content, Fake};
use crate::registry::{Access, Credentials, Pace, Settings as Registries};

type Kept = Arc<Mutex<Content>>;

fn plain(kept: &Kept) -> Fake {
    Fake::registry(kept, |_| None, |_, answer| answer)
}

/// A store, and what was told.
struct Bench {
    _folder: tempfile::TempDir,
    store: Store,
    events: Events,
    told: Receiver<Event>,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        let (sender, told) = channel();
        Bench { _folder: folder, store, events: Events::new(sender), told }
    }

    /// A cache of these repositories, the first of which is written.
    fn cache(&self, repositories: &[String]) -> SharedCache<'_> {
        let access = Access::new(Registries {
            credentials: Credentials::default(),
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            certificates: Vec::new(),
        });
        let pace = Pace { silence: Duration::from_secs(2), pause: Duration::from_millis(2) };
        let access = access.at_pace(pace);
        let open = |name: &String| {
            let reference = format!("{name}:none").parse().expect("a reference");
            access.repository(&reference).expect("opens")
        };
        let read: Vec<_> = repositories.iter().map(open).collect();
        SharedCache {
            store: &self.store,
            events: self.events.clone(),
            write: read.first().cloned(),
            read,
            all: true,
            state: Mutex::default(),
        }
    }

    fn layer(&self, text: &str) -> Layer {
        let digest = self.store.write_blob(text.as_bytes()).expect("stored");
        layer(digest, text)
    }

    fn notices(&self) -> Vec<String> {
        let notices = self.told.try_iter().filter_map(|event| match event {
            Event::Notice { text, .. } => Some(text),
            _ => None,
        });
        notices.collect()
    }
}

fn layer(digest: Digest, text: &str) -> Layer {
    let (size, compression) = (text.len() as u64, Compression::None);
    Layer { diff_id: digest, digest, size, unpacked: size, compression }
}

fn name(fake: &Fake, repository: &str) -> String {
    format!("{}/{repository}", fake.host)
}

fn settings() -> Settings {
    Settings {
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
        media_types: MediaTypes::Oci,
    }
}

fn image(layers: &[(&str, &Layer)]) -> Image {
    let layers = layers.iter().map(|(name, layer)| ImageLayer {
        name: (*name).to_owned(),
        part: None,
        layer: (*layer).clone(),
        tree: layer.digest,
    });
    image::assemble(&settings(), layers.collect()).expect("an image")
}

fn key(text: &str) -> Digest {
    Digest::of(format!("key of {text}").as_bytes())
}

fn made(step: &str, layer: &Layer) -> Made {
    Made {
        step: step.to_owned(),
        key: key(step),
        recorded: None,
        tree: layer.digest,
        packing: recipe(layer),
        said_by: None,
        of_image: true,
        bytes: true,
    }
}

fn recipe(layer: &Layer) -> Digest {
    Digest::of(layer.digest.to_string().as_bytes())
}

impl SharedCache<'_> {
    /// Writes results with these layers, and the image of them all.
    fn write_all(&self, made: &[(Made, &Layer)]) -> Image {
        let image = image(&made.iter().map(|(m, layer)| (&*m.step, *layer)).collect::<Vec<_>>());
        let results: Vec<Made> = made.iter().map(|(made, _)| made.clone()).collect();
        let pack = |wanted: &Made| {
            let (_, layer) = made.iter().find(|(made, _)| made == wanted).expect("of these");
            let (step, tree) = (wanted.step.clone(), wanted.tree);
            let output = Output { step, tree, said_by: None };
            let part = PackedPart { name: None, tree, layer: (*layer).clone() };
            let packings = vec![Packing { key: recipe(layer), parts: vec![part] }];
            Ok(Found { output, packings })
        };
        self.publish(&results, (&key("image"), &image), &[], &pack);
        image
    }
}

/// Tags that a repository has.
fn tags(kept: &Kept, repository: &str) -> usize {
    let kept = kept.lock().expect("kept");
    let tags = kept.manifests.keys();
    tags.filter(|(name, tag)| name == repository && !tag.starts_with("sha256:")).count()
}

#[test]
fn an_image_is_what_this_machine_would_write() {
    let (kept, bench) = (Kept::default(), Bench::new());
    let fake = plain(&kept);
    let gems = bench.layer("gems");
    let open = || bench.cache(&[name(&fake, "cache")]);
    let written = open().write_all(&[(made("gems", &gems), &gems)]);
    let found = open().image(&key("image"), &settings()).expect("an answer");
    assert_eq!(found.map(|(image, _)| image.digest), Some(written.digest));
    assert_eq!(bench.notices(), Vec::<String>::new());
    // The same key, and a configuration that says something else.
    let other = Settings { user: "0:0".to_owned(), ..settings() };
    assert_eq!(open().image(&key("image"), &other).expect("an answer"), None);
    let notices = bench.notices();
    assert!(notices[0].contains("it is not used"), "{notices:?}");
}

#[test]
fn the_word_of_another_cache_is_not_passed_on() {
    let (kept, bench) = (Kept::default(), Bench::new());
    let fake = plain(&kept);
    let (gems, app) = (bench.layer("gems"), bench.layer("app"));
    let (own, other) = (name(&fake, "own"), name(&fake, "other"));
    let said_by = |who: &String| Made { said_by: Some(who.clone()), ..made("gems", &gems) };
    let cache = bench.cache(&[own.clone(), other.clone()]);
    cache.write_all(&[(said_by(&other), &gems), (made("app", &app), &app)]);
    // What was made here, on top of it: its key says on what.
    assert_eq!(tags(&kept, "own"), 1);
    assert_eq!(cache.find(&key("gems")), None);
    cache.write_all(&[(said_by(&own), &gems), (made("app", &app), &app)]);
    assert_eq!(tags(&kept, "own"), 3);
}

#[test]
fn a_layer_comes_from_whoever_has_it() {
    let (kept, bench) = (Kept::default(), Bench::new());
    let fake = plain(&kept);
    let gems = layer(Digest::of(b"gems"), "gems");
    let put = |repository: &str, bytes: &[u8]| {
        let name = (repository.to_owned(), gems.digest.to_string());
        kept.lock().expect("kept").blobs.insert(name, bytes.to_vec());
    };
    put("broken", b"gens");
    let names = ["gone", "broken", "whole"].map(|repository| name(&fake, repository));

    // Nobody has it, or not whole.
    let cache = bench.cache(&names[..2]);
    cache.expect(&image(&[("gems", &gems)]));
    assert!(cache.holds(&gems) && cache.lost() == 0);
    assert!(!cache.fetch(&gems, &mut |_| {}).expect("a store"));
    assert!(!cache.holds(&gems) && cache.lost() == 1);
    assert!(cache.doubted(&fake.host) == BTreeSet::from([gems.digest]));
    assert!(cache.doubted("other.example").is_empty());
    let notices = bench.notices();
    assert!(notices.len() == 2 && notices[0].contains("/broken` has too"), "{notices:?}");
    assert!(notices[1].contains("which is made anew"), "{notices:?}");

    // The last that is asked has it: an image that was pushed to all, or one that a step's
    // entry names in the first.
    put("whole", b"gems");
    for expected in [true, false] {
        let bench = Bench::new();
        let cache = bench.cache(&names);
        if expected {
            cache.expect(&image(&[("gems", &gems)]));
        } else {
            cache.state().held.insert(gems.digest, BTreeSet::from([0]));
        }
        assert!(cache.fetch(&gems, &mut |_| {}).expect("a store"));
        assert_eq!(cache.lost(), 0);
        assert_eq!(bench.store.read_blob(&gems.digest).expect("there"), b"gems");
    }
}

#[test]
fn entries_have_the_layers_of_all_compressions() {
    let (kept, bench) = (Kept::default(), Bench::new());
    let fake = plain(&kept);
    let names = [name(&fake, "cache")];
    let (one, two) = (bench.layer("gems, one way"), bench.layer("gems, another way"));
    let gems = made("gems", &one);
    bench.cache(&names).write_all(&[(gems.clone(), &one)]);
    let other = Made { packing: recipe(&two), ..gems.clone() };
    bench.cache(&names).write_all(&[(other, &two)]);
    let cache = bench.cache(&names);
    let found = cache.find(&gems.key).expect("known");
    let layers: Vec<Digest> =
        found.packings.iter().flat_map(Packing::layers).map(|layer| layer.digest).collect();
    assert_eq!(layers, [two.digest, one.digest]);
    // Who has lost one of them does not put it there again.
    cache.state().lost.insert((one.digest, 0));
    cache.state().lost.insert((two.digest, 0));
    cache.write_all(&[(Made { packing: recipe(&two), ..gems.clone() }, &two)]);
    let found = bench.cache(&names).find(&gems.key).expect("known");
    assert_eq!(found.packings.len(), 1);
}

#[test]
fn a_registry_that_falls_silent() {
    let (kept, bench) = (Kept::default(), Bench::new());
    let fake = plain(&kept);
    let (gems, app) = (bench.layer("gems"), bench.layer("app"));
    let both = [(made("gems", &gems), &gems), (made("app", &app), &app)];
    bench.cache(&[name(&fake, "cache")]).write_all(&both);

    let bench = Bench::new();
    let silent = |request: &str| {
        let request = request.to_owned();
        Fake::registry(
            &kept,
            move |asked| (asked.kind() == request).then(|| Answer::hang_up(0)),
            |_, answer| answer,
        )
    };
    let fake = silent("GET blobs");
    let cache = bench.cache(&[name(&fake, "cache")]);
    assert!(cache.find(&key("gems")).is_some() && cache.find(&key("app")).is_some());
    assert!(!cache.fetch(&gems, &mut |_| {}).expect("a store"));
    // It was waited for once: not for the next layer, nor for what was made anew.
    let before = fake.seen().len();
    assert!(!cache.fetch(&app, &mut |_| {}).expect("a store"));
    assert_eq!(cache.find(&key("other")), None);
    cache.write_all(&both);
    assert_eq!(fake.seen().len(), before);
    let notices = bench.notices();
    assert!(notices.len() == 1 && notices[0].contains("is not used"), "{notices:?}");
}

#[test]
fn who_may_not_read_may_write() {
    let (kept, bench) = (Kept::default(), Bench::new());
    let fake = Fake::registry(
        &kept,
        |asked| (asked.kind() == "GET manifests" && asked.nth == 0).then(|| Answer::status(403)),
        |_, answer| answer,
    );
    let gems = bench.layer("gems");
    let cache = bench.cache(&[name(&fake, "cache")]);
    assert_eq!(cache.find(&key("gems")), None);
    cache.write_all(&[(made("gems", &gems), &gems)]);
    assert_eq!(tags(&kept, "cache"), 2);
}

#[test]
fn a_full_disk_is_no_loss() {
    let (kept, bench) = (Kept::default(), Bench::new());
    let fake = plain(&kept);
    let gems = layer(Digest::of(b"gems"), "gems");
    let blob = ("cache".to_owned(), gems.digest.to_string());
    kept.lock().expect("kept").blobs.insert(blob, b"gems".to_vec());
    let cache = bench.cache(&[name(&fake, "cache")]);
    std::fs::remove_dir_all(bench.store.root().join("tmp")).expect("removed");
    assert!(cache.fetch(&gems, &mut |_| {}).is_err());
    assert!(cache.lost() == 0 && cache.holds(&gems) && bench.notices().is_empty());
}

#[test]
fn nothing_is_asked_twice() {
    let (kept, bench) = (Kept::default(), Bench::new());
    let fake = plain(&kept);
    let names = [name(&fake, "cache")];
    let gems = bench.layer("gems");
    let all = [(made("gems", &gems), &gems)];
    let cache = bench.cache(&names);
    assert_eq!(cache.find(&key("gems")), None);
    assert_eq!(cache.image(&key("image"), &settings()).expect("an answer"), None);
    cache.write_all(&all);
    assert_eq!((fake.kind("GET manifests"), fake.kind("PUT manifests")), (2, 2));
    // All is there: the image says so.
    let before = fake.seen().len();
    bench.cache(&names).write_all(&all);
    assert_eq!(fake.kinds()[before..], ["GET manifests"]);
    // But not when something is known to be missing.
    let tag = ("cache".to_owned(), format!("forge-2-{}", key("gems").hex()));
    kept.lock().expect("kept").manifests.remove(&tag);
    let cache = bench.cache(&names);
    assert_eq!(cache.find(&key("gems")), None);
    cache.write_all(&all);
    assert!(bench.cache(&names).find(&key("gems")).is_some());
}
