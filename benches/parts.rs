//! Times the parts of forge by themselves, with criterion.
//!
//! ```text
//! cargo bench --bench parts [-- FILTER]
//! ```
//!
//! What is measured is made here and the same each time. The numbers tell a change of a part
//! from none, on one machine; what a user waits for, `benches/compare` measures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use forge::buildpack::{Library, Wishes, plan};
use forge::debian::index::Index;
use forge::debian::solve::{Request, Root, solve};
use forge::digest::{Digest, Fields};
use forge::facts::{self, FactError, Files as AppFiles};
use forge::layer::{Compression, Files, Packed, Recipe, pack, unpack};
use forge::plan::Selection;
use forge::source::{Rules, Seen, Snapshot};
use forge::tree::Tree;
use tempfile::TempDir;

/// Folders of the app, each with [`FILES`].
const FOLDERS: usize = 400;
/// Files of a folder.
const FILES: usize = 25;
/// Bytes of a file, roughly.
const SIZE: usize = 4_000;
/// Packages of a distribution, of Debian's order of magnitude.
const PACKAGES: usize = 20_000;

/// Bytes that look like nothing, the same each time.
fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + Digest::LENGTH);
    let mut digest = Fields::new("forge-bench").text(seed).finish();
    while bytes.len() < length {
        bytes.extend_from_slice(digest.bytes());
        digest = Digest::of(digest.bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Text that compresses about as source code does.
fn text(seed: &str, length: usize) -> String {
    let words =
        ["def ", "return ", "self.", "import ", "    ", "value = ", "\n", "# ", "name", "(", ")"];
    let mut text = String::with_capacity(length + 16);
    for byte in noise(seed, length) {
        if text.len() >= length {
            break;
        }
        match words.get(usize::from(byte) % 16) {
            Some(word) => text.push_str(word),
            None => text.push(char::from(b'a' + byte % 26)),
        }
    }
    text
}

/// The Django example with 10,000 files more.
fn app() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/django-logbook");
    copy(&example, folder.path());
    for number in 0..FOLDERS {
        let below = folder.path().join(format!("lib/package{:02}/module{number:03}", number % 20));
        fs::create_dir_all(&below).expect("mkdir");
        for file in 0..FILES {
            let text = text(&format!("{number} {file}"), SIZE);
            fs::write(below.join(format!("file{file:02}.py")), text).expect("write");
        }
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            fs::create_dir_all(&target).expect("mkdir");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("copy");
        }
    }
}

/// What facts are read from.
struct Texts<'a>(&'a Snapshot, Vec<&'a str>);

impl AppFiles for Texts<'_> {
    fn paths(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.1.iter().copied())
    }

    fn has(&self, path: &str) -> bool {
        self.0.content(path).is_some()
    }

    fn read(&self, path: &str) -> Result<Option<String>, FactError> {
        Ok(self.0.text(path).expect("text"))
    }
}

fn source(criterion: &mut Criterion) {
    let folder = app();
    let (root, rules) = (folder.path(), Rules::default());
    // Files that have just been written are read again: their next change might not show.
    std::thread::sleep(Duration::from_secs(4));
    let (snapshot, seen) =
        Snapshot::take_again(root, &rules, &Seen::default()).expect("a snapshot");
    let mut kept = Vec::new();
    seen.write_to(&mut kept).expect("written");
    let mut group = criterion.benchmark_group("source, 10,000 files");
    group.sample_size(30).throughput(Throughput::Elements((FOLDERS * FILES) as u64));
    group.bench_function("first look", |bench| {
        bench.iter(|| Snapshot::take(root, &rules).expect("a snapshot"));
    });
    group.bench_function("look again", |bench| {
        bench.iter(|| {
            let seen = Seen::parse(kept.clone().into()).expect("what was seen");
            Snapshot::take_again(root, &rules, &seen).expect("a snapshot")
        });
    });
    let selection = Selection { rules: ["*", "!/static/**", "!*.md"].map(str::to_owned).to_vec() };
    group.bench_function("selection", |bench| {
        bench.iter_batched(
            // One that was asked before remembers.
            || Snapshot::take_again(root, &rules, &seen).expect("a snapshot").0,
            |snapshot| snapshot.select(&selection).expect("a tree"),
            BatchSize::PerIteration,
        );
    });
    let tree = snapshot.select(&Selection { rules: vec!["*".to_owned()] }).expect("a tree");
    group.bench_function("a tree's digest", |bench| bench.iter(|| tree.digest()));
    let mut written = Vec::new();
    tree.write_to(&mut written).expect("written");
    group.bench_function("a tree's list, read", |bench| {
        bench.iter(|| Tree::read_from(written.as_slice(), Path::new("list")).expect("a tree"));
    });
    group.bench_function("facts", |bench| {
        bench
            .iter(|| facts::collect(&Texts(&snapshot, snapshot.files().collect())).expect("facts"));
    });
    group.finish();
    let facts = facts::collect(&Texts(&snapshot, snapshot.files().collect())).expect("facts");
    let mut group = criterion.benchmark_group("plan, the Django example");
    group.bench_function("buildpacks, read", |bench| {
        bench.iter(|| Library::new(&BTreeMap::new()).expect("buildpacks"));
    });
    let library = Library::new(&BTreeMap::new()).expect("buildpacks");
    group.bench_function("plan", |bench| {
        bench.iter(|| plan(&library, &facts, &Wishes::default()).expect("a plan"));
    });
    group.finish();
}

fn layers(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..400 {
        let below = folder.path().join(format!("site-packages/package{number:03}"));
        fs::create_dir_all(&below).expect("mkdir");
        for file in 0..10 {
            let seed = format!("{number} {file}");
            fs::write(below.join(format!("{file}.py")), text(&seed, 8_000)).expect("write");
        }
        fs::write(below.join("native.so"), noise(&number.to_string(), 60_000)).expect("write");
    }
    let tree = Tree::scan(folder.path()).expect("a tree");
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let packed = |compression| {
        let recipe = Recipe { owners: Vec::new(), compression };
        let mut blob = Vec::new();
        let files = Files::kept(folder.path());
        let layer = pack(&tree, files, &recipe, workers, &mut blob, &|_| {}).expect("a layer");
        (layer, blob)
    };
    let (layer, blob) = packed(Compression::DEFAULT);
    let mut group = criterion.benchmark_group("layer, 56 MB");
    group.sample_size(10).throughput(Throughput::Bytes(layer.unpacked));
    for (name, compression) in [
        ("packed, gzip 4", Compression::DEFAULT),
        ("packed, zstd 3", Compression::Zstd { level: 3 }),
        ("packed, plain", Compression::None),
    ] {
        group.bench_function(name, |bench| bench.iter(|| packed(compression)));
    }
    group.bench_function("unpacked, gzip", |bench| {
        let layers = [Packed { digest: layer.digest, diff_id: layer.diff_id }];
        let open = |_: &Digest| Ok(Cursor::new(&blob));
        bench.iter_batched(
            || tempfile::tempdir().expect("a folder"),
            |to| {
                unpack(&layers, to.path(), open, &|_| {}).expect("unpacks");
                to
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("a folder's tree, hashed", |bench| {
        bench.iter(|| Tree::scan(folder.path()).expect("a tree"));
    });
    group.finish();
    let bytes = noise("hash", 64 << 20);
    let mut group = criterion.benchmark_group("SHA-256, 64 MiB");
    group.sample_size(10).throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("hashed", |bench| bench.iter(|| Digest::of(black_box(&bytes))));
    group.finish();
}

fn debian(criterion: &mut Criterion) {
    let mut list = String::new();
    for number in 0..PACKAGES {
        let (needs, too) = (number / 2, number / 3);
        writeln!(
            list,
            "Package: package-{number}\nVersion: {}.{}-1\nArchitecture: amd64\nDepends: package-{needs} (>= 1.0), \
             package-{too} | package-0\nFilename: pool/main/p/package-{number}/package-{number}.deb\nSize: 1000\nSHA256: {}\n",
            number % 7 + 1,
            number % 13,
            Digest::of(number.to_string().as_bytes()).hex(),
        )
        .expect("a string");
    }
    let mut group = criterion.benchmark_group("Debian, 20,000 packages");
    group.sample_size(20).throughput(Throughput::Elements(PACKAGES as u64));
    group.bench_function("a list, read", |bench| {
        bench.iter(|| {
            let mut index = Index::new();
            index.add(&list, 0).expect("a list");
            index
        });
    });
    let mut index = Index::new();
    index.add(&list, 0).expect("a list");
    let last = PACKAGES - 1;
    let roots = (0..100)
        .map(|number| Root { name: format!("package-{}", last - number), constraint: None });
    let roots: Vec<_> = roots.collect();
    let request = Request {
        architecture: "amd64",
        roots: &roots,
        essential: false,
        installed: &BTreeMap::new(),
        exclude: &BTreeSet::new(),
    };
    group.bench_function("a hundred chosen, with what they need", |bench| {
        bench.iter(|| solve(&index, &request).expect("packages"));
    });
    group.finish();
}

criterion_group!(parts, source, layers, debian);
criterion_main!(parts);
