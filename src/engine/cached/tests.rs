//! What a cache says, and what this machine makes of it. Steps are such that run without a
//! sandbox.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, channel};

use super::super::{Built, Identity};
use super::*;
use crate::download::Downloads;
use crate::event::Events;
use crate::layer::{self, Compression, Owner, PackedPart, Recipe};
use crate::lock::Lock;
use crate::plan::tests::step;
use crate::plan::{ImageRecipe, LayerRecipe, MadeFile, Plan, UnitRule};
use crate::sandbox::Running;
use crate::source::{IgnoredConfig, Rules, Snapshot};
use crate::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A cache in memory, which answers what it was told to.
#[derive(Default)]
struct Shelf {
    entries: BTreeMap<Digest, Found>,
    blobs: BTreeMap<Digest, Vec<u8>>,
    asked: Mutex<Vec<Digest>>,
    fetched: Mutex<Vec<Digest>>,
}

/// The shelf, next to the store that it brings blobs into.
struct Beside<'s>(&'s Shelf, &'s Store);

impl Cache for Beside<'_> {
    fn find(&self, key: &Digest) -> Option<Found> {
        self.0.asked.lock().expect("asked").push(*key);
        self.0.entries.get(key).cloned()
    }

    fn recorded(&self, _: &Digest) -> PathSets {
        PathSets::default()
    }

    fn holds(&self, layer: &Layer) -> bool {
        self.0.blobs.contains_key(&layer.digest)
    }

    fn fetch(&self, layer: &Layer, _: &mut dyn FnMut(u64)) -> Result<bool, StoreError> {
        let Some(bytes) = self.0.blobs.get(&layer.digest) else { return Ok(false) };
        self.0.fetched.lock().expect("fetched").push(layer.digest);
        Ok(self.1.write_blob(bytes)? == layer.digest)
    }
}

/// A machine that builds `files ─► gems ─► app`, of which the last two are layers.
struct Machine {
    _folder: tempfile::TempDir,
    store: Store,
    snapshot: Snapshot,
    plan: Plan,
}

fn take(name: &str, root: &str, pattern: &str) -> Step {
    let patterns = vec![pattern.to_owned()];
    Step { action: Action::Take { patterns }, ..step(name, &[root]) }
}

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        let app = folder.path().join("app");
        fs::create_dir(&app).expect("made");
        let rules = Rules::new(&[], &[], IgnoredConfig::Counts).expect("rules");
        let snapshot = Snapshot::take(&app, &rules).expect("a snapshot");
        let file =
            |text: &str| MadeFile::File { content: text.as_bytes().to_vec().into(), mode: 0o644 };
        let files = [("gems/a", "a"), ("gems/b", "b"), ("other", "c")];
        let files = files.map(|(path, text)| (path.to_owned(), file(text))).into();
        let steps = vec![
            Step { action: Action::Files { files }, ..step("files", &[]) },
            take("gems", "files", "gems"),
            take("app", "gems", "gems/a"),
        ];
        let layer = |step: &str| LayerRecipe::whole(step);
        let image = ImageRecipe {
            layers: vec![layer("gems"), layer("app")],
            environment: BTreeMap::new(),
            processes: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        let plan = Plan::new(steps, image).expect("a plan");
        Machine { _folder: folder, store, snapshot, plan }
    }

    fn with<R>(
        &self,
        shelf: &Shelf,
        change: impl FnOnce(&mut Engine<'_>),
        act: impl FnOnce(&Engine<'_>) -> R,
    ) -> (R, Receiver<Event>) {
        let (sender, events) = channel();
        let beside = Beside(shelf, &self.store);
        let mut engine = Engine {
            plan: &self.plan,
            folder: "app",
            snapshot: &self.snapshot,
            store: &self.store,
            lock: &Mutex::new(Lock::default()),
            events: Events::new(sender),
            running: &Running::default(),
            mode: &|| Err(EngineError::NoSandbox { tried: Vec::new() }),
            downloads: &|| Ok(Downloads::new()?),
            base: None,
            choose: &|_, _| Err(EngineError::Panicked),
            all_chosen: &|| {},
            cache: Some(&beside),
            addresses: &|_| Vec::new(),
            identity: Identity::default(),
            jobs: 2,
            platform: "linux/amd64",
            compression: Compression::DEFAULT,
            check: false,
            verify: 0,
            packed: None,
            needs_bytes: false,
        };
        change(&mut engine);
        (act(&engine), events)
    }

    /// Builds, and gives what was told.
    fn build(&self, shelf: &Shelf, change: impl FnOnce(&mut Engine<'_>)) -> (Built, Vec<String>) {
        let (built, events) = self.with(shelf, change, |engine| engine.build());
        let notices = events.try_iter().filter_map(|event| match event {
            Event::Notice { text, .. } => Some(text),
            _ => None,
        });
        (built.expect("builds"), notices.collect())
    }

    /// Builds for a cache.
    fn publish(&self, change: impl Fn(&mut Engine<'_>)) -> (Built, Shelf) {
        let mut shelf = Shelf::default();
        let (built, _) = self.build(&shelf, &change);
        let packed = |engine: &Engine<'_>| -> Vec<Found> {
            built.made.iter().map(|made| engine.packed(made).expect("packs")).collect()
        };
        let (found, _) = self.with(&Shelf::default(), &change, packed);
        for (made, mut found) in built.made.iter().zip(found) {
            for layer in found.packings.iter().flat_map(Packing::layers) {
                let blob = self.store.read_blob(&layer.digest).expect("packed");
                shelf.blobs.insert(layer.digest, blob);
            }
            found.output.said_by = Some("r.example/cache".to_owned());
            shelf.entries.insert(made.key, found);
        }
        (built, shelf)
    }
}

fn digests(built: &Built) -> Vec<Digest> {
    built.layers.iter().map(|layer| layer.layer.digest).collect()
}

/// A layer that holds these files with an owner that no image gives them.
fn evil(shelf: &mut Shelf, files: &[(&str, &str)]) -> Layer {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes())).expect("made");
    }
    let tree = crate::tree::Tree::scan(folder.path()).expect("a tree");
    let owner = Owner { folder: "gems".to_owned(), user: 0, group: 4242 };
    let recipe = Recipe { owners: vec![owner], compression: Compression::DEFAULT };
    let mut blob = Vec::new();
    let layer =
        layer::pack(&tree, layer::Files::kept(folder.path()), &recipe, 1, &mut blob, &|_| {})
            .expect("packs");
    shelf.blobs.insert(layer.digest, blob);
    layer
}

fn bytes(engine: &mut Engine<'_>) {
    engine.needs_bytes = true;
}

#[test]
fn a_hit_brings_no_bytes() {
    let (honest, shelf) = Machine::new().publish(|_| {});
    let (built, notices) = Machine::new().build(&shelf, |_| {});
    assert_eq!((digests(&built), built.ran), (digests(&honest), 0));
    assert!(shelf.fetched.lock().expect("fetched").is_empty());
    assert_eq!(notices, Vec::<String>::new());
    assert!(built.made.iter().all(|made| made.said_by.as_deref() == Some("r.example/cache")));
    assert!(honest.made.iter().all(|made| made.said_by.is_none()));
}

#[test]
fn an_entry_has_no_say_in_other_trees() {
    let (honest, mut shelf) = Machine::new().publish(|_| {});
    let bad = evil(&mut shelf, &[("gems/a", "bad")]);
    // The entry of the gems names a layer for the tree of the app.
    let app = &honest.layers[1];
    let machine = Machine::new();
    let (recipe, _) = machine.with(
        &Shelf::default(),
        |_| {},
        |engine| engine.packing_key(&machine.plan.steps[2], &app.tree),
    );
    let part = PackedPart { name: None, tree: app.tree, layer: bad };
    let packing = Packing { key: recipe, parts: vec![part] };
    shelf.entries.get_mut(&honest.made[0].key).expect("gems").packings.push(packing);
    let (built, _) = machine.build(&shelf, |_| {});
    assert_eq!(digests(&built), digests(&honest));
    assert_eq!(machine.store.get::<Layer>(Table::Layers, &recipe).expect("read"), None);
    // Later, without the cache's word for the app.
    shelf.entries.remove(&honest.made[1].key);
    let (built, _) = machine.build(&shelf, |_| {});
    assert_eq!(digests(&built), digests(&honest));
}

#[test]
fn bytes_that_come_are_what_would_have_been_packed() {
    for files in [&[("gems/a", "bad")][..], &[("gems/a", "a"), ("gems/b", "b")]] {
        let (honest, mut shelf) = Machine::new().publish(|_| {});
        let bad = evil(&mut shelf, files);
        shelf.entries.get_mut(&honest.made[0].key).expect("gems").packings[0].parts[0].layer =
            bad.clone();
        let machine = Machine::new();
        let (built, notices) = machine.build(&shelf, bytes);
        assert_eq!(digests(&built), digests(&honest), "{files:?}");
        assert!(notices.iter().any(|notice| notice.contains("`gems` is made anew")), "{notices:?}");
        // Each once; neither waits for the other.
        let mut fetched = shelf.fetched.lock().expect("fetched").clone();
        let mut expected = [bad.digest, digests(&honest)[1]];
        fetched.sort();
        expected.sort();
        assert_eq!(fetched, expected);
        // And so it stays, with the cache and without.
        for shelf in [&shelf, &Shelf::default()] {
            let (built, _) = machine.build(shelf, bytes);
            assert_eq!(digests(&built), digests(&honest));
        }
    }
}

#[test]
fn what_is_here_is_compared_with_what_a_layer_says_of_itself() {
    let (honest, mut shelf) = Machine::new().publish(|_| {});
    let bad = evil(&mut shelf, &[("gems/a", "a"), ("gems/b", "b")]);
    shelf.entries.get_mut(&honest.made[0].key).expect("gems").packings[0].parts[0].layer = bad;
    // The app must be made, and so the gems' files be here; no bytes are wanted.
    shelf.entries.remove(&honest.made[1].key);
    let machine = Machine::new();
    let (_, _) = machine.build(&shelf, |_| {});
    let (built, _) = machine.build(&shelf, |_| {});
    assert_eq!(digests(&built), digests(&honest));
}

#[test]
fn files_come_from_a_layer_of_any_compression() {
    let (honest, shelf) = Machine::new().publish(|_| {});
    let zstd = |engine: &mut Engine<'_>| {
        engine.needs_bytes = true;
        engine.compression = Compression::Zstd { level: 3 };
    };
    let (expected, _) = Machine::new().build(&Shelf::default(), zstd);
    let (built, notices) = Machine::new().build(&shelf, zstd);
    assert_eq!((digests(&built), notices), (digests(&expected), Vec::new()));
    let mut fetched = shelf.fetched.lock().expect("fetched").clone();
    fetched.sort();
    let mut all = digests(&honest);
    all.sort();
    assert_eq!(fetched, all);
}

#[test]
fn a_record_that_has_outlived_its_files() {
    let (honest, shelf) = Machine::new().publish(|_| {});
    let machine = Machine::new();
    let (_, _) = machine.build(&shelf, |_| {});
    shelf.asked.lock().expect("asked").clear();
    let (built, notices) = machine.build(&shelf, bytes);
    assert_eq!((digests(&built), notices), (digests(&honest), Vec::new()));
    assert_eq!(shelf.fetched.lock().expect("fetched").len(), 2);
    assert_eq!(shelf.asked.lock().expect("asked").len(), 2);
    // An entry of another tree is none, and what is checked asks nobody.
    for (says, check) in [(Digest::of(b"other"), false), (honest.made[0].tree, true)] {
        let (_, mut shelf) = Machine::new().publish(|_| {});
        let machine = Machine::new();
        let (_, _) = machine.build(&shelf, |_| {});
        shelf.entries.get_mut(&honest.made[0].key).expect("gems").output.tree = says;
        let (built, _) = machine.build(&shelf, |engine| {
            engine.needs_bytes = true;
            engine.check = check;
        });
        assert_eq!(digests(&built), digests(&honest));
        let fetched = shelf.fetched.lock().expect("fetched").clone();
        assert!(!fetched.contains(&honest.layers[0].layer.digest), "{check}");
    }
}

#[test]
fn a_result_that_comes_out_otherwise() {
    let (honest, mut shelf) = Machine::new().publish(|_| {});
    let gems = &honest.made[0];
    // What is known of the gems is another tree, which nobody has.
    let entry = shelf.entries.get_mut(&gems.key).expect("gems");
    entry.output.tree = Digest::of(b"another tree");
    entry.packings.clear();
    let machine = Machine::new();
    let (built, notices) = machine.build(&shelf, |_| {});
    assert_eq!(digests(&built), digests(&honest));
    assert!(notices.len() == 1 && notices[0].contains("`gems` is not reproducible"), "{notices:?}");
    // It is of this machine's making now, and so the cache gets it.
    let found = built.made.iter().find(|made| made.step == "gems").expect("made");
    assert_eq!((found.key, found.tree, &found.said_by), (gems.key, gems.tree, &None));
    let (_, notices) = machine.build(&shelf, |_| {});
    assert!(notices.is_empty(), "{notices:?}");
}

#[test]
fn what_is_pinned_is_in_the_lock() {
    let mut machine = Machine::new();
    machine.plan.steps[1].pinned = true;
    let (built, _) = machine.build(&Shelf::default(), |_| {});
    let made: Vec<&str> = built.made.iter().map(|made| made.step.as_str()).collect();
    assert_eq!(made, ["app"]);
}

/// A machine of which the gems are split: `b` in a layer of its own, of more than the least size.
fn split_machine(version: &str) -> Machine {
    let mut machine = Machine::new();
    let text = |size: usize| MadeFile::File { content: vec![b'x'; size].into(), mode: 0o644 };
    let files = [
        ("gems/a-1/x".to_owned(), text(10)),
        (format!("gems/b-{version}/x"), text(5 << 20)),
        ("gems/c-1/x".to_owned(), text(3 << 20)),
        ("gems/run".to_owned(), text(1)),
        ("gems/walk".to_owned(), text(1)),
    ];
    machine.plan.steps[0].action = Action::Files { files: files.into() };
    if let Action::Take { patterns } = &mut machine.plan.steps[2].action {
        *patterns = vec!["gems/run".to_owned()];
    }
    let path = "^gems/(?<unit>[^/]+)-[0-9]+(?:/|$)".to_owned();
    machine.plan.image.layers[0].units = vec![UnitRule { path, lists: false, beside: None }];
    machine
}

/// The parts of the gems that were packed, not found.
fn packed_parts(events: &Receiver<Event>) -> Vec<String> {
    let parts = events.try_iter().filter_map(|event| match event {
        Event::LayerPacked { part: Some(part), reused: false, .. } => Some(part),
        _ => None,
    });
    let mut parts: Vec<String> = parts.collect();
    parts.sort();
    parts
}

#[test]
fn a_bump_packs_one_part() {
    let machine = split_machine("1");
    let (built, events) = machine.with(&Shelf::default(), bytes, |engine| engine.build());
    let before = digests(&built.expect("builds"));
    assert_eq!(packed_parts(&events), ["b", "c", "others", "rest"]);
    // Without the files, and with them.
    let (_, events) = machine.with(&Shelf::default(), bytes, |engine| engine.build());
    assert_eq!(packed_parts(&events), [""; 0]);
    let bumped = Machine { plan: split_machine("2").plan, ..machine };
    let (built, events) = bumped.with(&Shelf::default(), bytes, |engine| engine.build());
    assert_eq!(packed_parts(&events), ["b"]);
    let after = digests(&built.expect("builds"));
    let new: Vec<usize> = (0..after.len()).filter(|at| after[*at] != before[*at]).collect();
    assert_eq!(new, [1]);
}

#[test]
fn parts_come_from_a_cache_and_make_the_tree() {
    let (honest, shelf) = split_machine("1").publish(bytes);
    // As records alone.
    let (built, notices) = split_machine("1").build(&shelf, |_| {});
    assert_eq!((digests(&built), built.ran, notices), (digests(&honest), 0, Vec::new()));
    assert!(shelf.fetched.lock().expect("fetched").is_empty());
    // With their bytes, which are then those of the tree.
    let machine = split_machine("1");
    let (built, notices) = machine.build(&shelf, bytes);
    assert_eq!((digests(&built), built.ran, notices), (digests(&honest), 0, Vec::new()));
    assert_eq!(shelf.fetched.lock().expect("fetched").len(), 5);
    assert!(machine.store.has_tree(&honest.made[0].tree));
    // What the entry says of a part is what packing it gives.
    let (_, mut shelf) = split_machine("1").publish(bytes);
    let bad = evil(&mut shelf, &[("gems/run", "bad")]);
    let entry = shelf.entries.get_mut(&honest.made[0].key).expect("gems");
    let rest = entry.packings[0].parts.iter_mut().find(|part| part.name.as_deref() == Some("rest"));
    rest.expect("the rest").layer = bad;
    let (built, notices) = split_machine("1").build(&shelf, bytes);
    assert_eq!(digests(&built), digests(&honest));
    assert!(notices.iter().any(|notice| notice.contains("`gems` is made anew")), "{notices:?}");
}
