//! What `publish` promises, wherever it is killed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::testing::Folder;

/// An image's folder and a volume.
struct Bench(Folder);

impl Bench {
    fn new(image: &[(&str, &str)], volume: &[(&str, &str)]) -> Bench {
        let bench = Bench(Folder::with(&[]));
        fs::create_dir(bench.from()).expect("it can be made");
        fs::create_dir(bench.to()).expect("it can be made");
        bench.release(image);
        for (name, text) in volume {
            put(&bench.to().join(name), text);
        }
        bench
    }

    fn from(&self) -> PathBuf {
        self.0.path().join("from")
    }

    fn to(&self) -> PathBuf {
        self.0.path().join("to")
    }

    /// The image has these files and no others.
    fn release(&self, files: &[(&str, &str)]) {
        fs::remove_dir_all(self.from()).expect("it can be removed");
        fs::create_dir(self.from()).expect("it can be made");
        for (name, text) in files {
            put(&self.from().join(name), text);
        }
    }

    fn publish(&self) -> Result<Done, Trouble> {
        self.publish_until(usize::MAX)
    }

    /// Ends with a panic before that change, which leaves everything as a kill does: no
    /// code of the module runs after it.
    fn publish_until(&self, last: usize) -> Result<Done, Trouble> {
        let steps = Cell::new(0);
        publish(&Publication {
            from: &self.from(),
            to: &self.to(),
            tell: &|_| {},
            step: &|| {
                steps.set(steps.get() + 1);
                if steps.get() > last {
                    // Not `panic!`, which would print for each of thousands.
                    std::panic::resume_unwind(Box::new(()));
                }
            },
            stop: &|| false,
        })
    }

    /// Whether it came to its end.
    fn killed_at(&self, step: usize) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.publish_until(step).expect("it works"))).is_err()
    }

    /// Names and contents in the volume, without the launcher's own files.
    fn volume(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        walk(&self.to(), "", &mut found);
        found.retain(|name, _| !name.contains(".forge-"));
        found
    }
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("in a folder")).expect("it can be made");
    fs::write(path, text).expect("it can be written");
}

fn walk(folder: &Path, above: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let name = format!("{above}{}", entry.file_name().display());
        let kind = entry.file_type().expect("it can be read");
        if kind.is_dir() {
            walk(&entry.path(), &format!("{name}/"), found);
        } else if kind.is_symlink() {
            let leads = fs::read_link(entry.path()).expect("it can be read");
            found.insert(name, format!("-> {}", leads.display()));
        } else {
            let text = fs::read_to_string(entry.path()).expect("it can be read");
            found.insert(name, text);
        }
    }
}

fn map(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
}

fn time(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).and_then(|found| found.modified()).expect("it is there")
}

#[test]
fn releases() {
    let bench = Bench::new(
        &[("index.html", "one"), ("assets/a-1.js", "a1"), ("assets/deep/b.js", "b")],
        &[("media/photo.jpg", "photo"), ("note.txt", "mine")],
    );
    let done = bench.publish().expect("it works");
    assert_eq!(done, Done { written: 3, equal: 0, left: BTreeSet::new() });
    let uploads = [("media/photo.jpg", "photo"), ("note.txt", "mine")];
    let first = [("index.html", "one"), ("assets/a-1.js", "a1"), ("assets/deep/b.js", "b")];
    assert_eq!(bench.volume(), map(&[&uploads[..], &first].concat()));

    // Again: nothing is touched, not even the list.
    let before = [PUBLISHED, "index.html", "assets/deep/b.js"].map(|name| bench.to().join(name));
    let times = before.each_ref().map(|path| time(path));
    thread::sleep(Duration::from_millis(20));
    let done = bench.publish().expect("it works");
    assert_eq!(done, Done { written: 0, equal: 3, left: BTreeSet::new() });
    assert_eq!(before.each_ref().map(|path| time(path)), times);

    // The next release: same size, other bytes; a new name; an old one stays.
    bench.release(&[("index.html", "two"), ("assets/a-2.js", "a2"), ("assets/deep/b.js", "b")]);
    let done = bench.publish().expect("it works");
    assert_eq!(done, Done { written: 2, equal: 1, left: BTreeSet::new() });
    let second = [("index.html", "two"), ("assets/a-1.js", "a1"), ("assets/a-2.js", "a2")];
    let all = [&uploads[..], &second, &[("assets/deep/b.js", "b")]].concat();
    assert_eq!(bench.volume(), map(&all));
    assert_ne!(time(&before[1]), times[1]);
    assert_eq!(time(&before[2]), times[2]);

    // And back.
    bench.release(&first);
    assert_eq!(bench.publish().expect("it works").written, 1);
    assert_eq!(bench.volume()["index.html"], "one");
    assert_eq!(bench.volume()["assets/a-2.js"], "a2");
}

#[test]
fn what_is_not_forges() {
    let bench = Bench::new(
        &[
            ("mine.txt", "forge"),
            ("same.txt", "same"),
            ("folder", "x"),
            ("file/inside", "x"),
            ("out/inside", "x"),
            ("edited", "forge"),
            ("name with % and \n", "x"),
        ],
        &[("mine.txt", "mine!"), ("same.txt", "same"), ("folder/y", "y"), ("file", "z")],
    );
    let outside = bench.0.path().join("outside");
    fs::create_dir(&outside).expect("it can be made");
    symlink(&outside, bench.to().join("out")).expect("it can be made");
    let left = [
        "file: there is a file that forge has not published",
        "folder: there is a folder",
        "mine.txt: there is a file that forge has not published",
        "out: there is a file that forge has not published",
    ];
    let done = bench.publish().expect("it works");
    assert_eq!(done, Done { written: 2, equal: 1, left: left.map(str::to_owned).into() });
    assert_eq!(fs::read_dir(&outside).expect("it can be read").count(), 0);

    // What was the same by chance did not become the launcher's.
    bench.release(&[("same.txt", "next"), ("edited", "next!"), ("name with % and \n", "y")]);
    put(&bench.to().join("edited"), "mine!");
    let done = bench.publish().expect("it works");
    let left = [
        "edited: the published file was changed by somebody",
        "same.txt: there is a file that forge has not published",
    ];
    assert_eq!(done, Done { written: 1, equal: 0, left: left.map(str::to_owned).into() });
    let volume = bench.volume();
    assert_eq!((volume["edited"].as_str(), volume["same.txt"].as_str()), ("mine!", "same"));
    assert_eq!(volume["name with % and \n"], "y");
}

#[test]
fn links_and_modes() {
    let bench = Bench::new(&[("a/real.js", "x"), ("run.sh", "x")], &[]);
    let from = bench.from();
    for (leads, name) in [
        ("real.js", "a/link.js"),
        ("../run.sh", "a/up.sh"),
        ("a", "folder"),
        ("/etc/passwd", "absolute"),
        ("../to", "out"),
        ("../../from/run.sh", "a/around"),
    ] {
        symlink(leads, from.join(name)).expect("it can be made");
    }
    fs::set_permissions(from.join("run.sh"), Permissions::from_mode(0o700)).expect("a mode");
    fs::set_permissions(from.join("a/real.js"), Permissions::from_mode(0o600)).expect("a mode");
    fs::set_permissions(from.join("a"), Permissions::from_mode(0o700)).expect("a mode");
    put(&from.join(PUBLISHED), "not ours");
    put(&from.join("a").join(format!("{NEW}x")), "not ours");
    let done = bench.publish().expect("it works");
    let left: Vec<&str> = done.left.iter().map(|left| left.split(':').next().unwrap()).collect();
    assert_eq!(left, [PUBLISHED, "a/.forge-new-x", "a/around", "absolute", "out"]);
    let expected = [
        ("a/real.js", "x"),
        ("run.sh", "x"),
        ("a/link.js", "-> real.js"),
        ("a/up.sh", "-> ../run.sh"),
        ("folder", "-> a"),
    ];
    assert_eq!(bench.volume(), map(&expected));
    let modes = || {
        ["run.sh", "a/real.js", "a", PUBLISHED]
            .map(|name| fs::metadata(bench.to().join(name)).expect("it is there").mode() & 0o7777)
    };
    assert_eq!(modes(), [0o755, 0o644, 0o755, 0o644]);
    // As if killed before the mode of a folder was set; and what is not a mode of ours.
    fs::set_permissions(bench.to().join("a"), Permissions::from_mode(0o700)).expect("a mode");
    fs::set_permissions(bench.to().join("run.sh"), Permissions::from_mode(0o600)).expect("one");
    assert_eq!(bench.publish().expect("it works").written, 0);
    assert_eq!(modes(), [0o755, 0o644, 0o755, 0o644]);

    // Link to file, file to link, file to folder.
    bench.release(&[("a/link.js", "file"), ("run.sh/x", "x"), ("folder/real.js", "x")]);
    symlink("link.js", from.join("a/real.js")).expect("it can be made");
    let done = bench.publish().expect("it works");
    assert_eq!((done.written, done.left), (4, BTreeSet::new()));
    assert!(!bench.to().join("folder").is_symlink());
    assert_eq!(bench.volume()["folder/real.js"], "x");
    assert_eq!(bench.volume()["a/real.js"], "-> link.js");
    assert_eq!(bench.volume()["a/link.js"], "file");
    assert_eq!(bench.volume()["run.sh/x"], "x");
}

#[test]
fn killed_at_every_step() {
    let old = [("index.html", "old"), ("a/1.js", "1"), ("was", "file")];
    let new = [("index.html", "new!"), ("a/2.js", "2"), ("b/c/d", "d"), ("was/x", "x")];
    let newest = [("index.html", "newest"), ("a/2.js", "two"), ("b/c/e", "e"), ("was/x", "y")];
    let uploads = [("a/upload", "mine"), ("upload", "mine")];
    let mut kills = 0;
    // Killed in the second release, then that one again, or at once the third.
    for then in [&new[..], &newest] {
        for step in 0.. {
            let bench = Bench::new(&old, &uploads);
            bench.publish().expect("it works");
            bench.release(&new);
            symlink("a/2.js", bench.from().join("link")).expect("it can be made");
            let killed = bench.killed_at(step);
            for (name, text) in bench.volume() {
                let whole = [&old[..], &new, &uploads, &[("link", "-> a/2.js")]].concat();
                assert!(
                    whole.contains(&(name.as_str(), text.as_str())),
                    "step {step}: {name} is {text:?}"
                );
            }
            // Uploads go on meanwhile.
            put(&bench.to().join("a/later"), "mine");
            bench.release(then);
            symlink("a/2.js", bench.from().join("link")).expect("it can be made");
            let done = bench.publish().expect("it works");
            assert_eq!(done.left, BTreeSet::new(), "step {step}");
            let volume = bench.volume();
            let expected = [then, &uploads, &[("a/later", "mine"), ("a/1.js", "1")]].concat();
            for (name, text) in expected {
                assert_eq!(volume.get(name).map(String::as_str), Some(text), "{step} {name}");
            }
            let mut all = BTreeMap::new();
            walk(&bench.to(), "", &mut all);
            assert!(!all.keys().any(|name| name.contains(NEW)), "step {step}: {all:?}");
            assert_eq!(all[PUBLISHING], "", "step {step}");
            // All of it is known to be the launcher's: the release before comes back.
            bench.release(&old[..2]);
            assert_eq!(bench.publish().expect("it works").left, BTreeSet::new());
            assert_eq!(bench.volume()["index.html"], "old");
            if !killed {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 40, "{kills}");
}

/// Numbers that are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        // Knuth's MMIX.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Releases, kills and uploads in any order: no upload is ever changed, and after a run
/// that ends all of the release is there but what uploads stand in the way of.
#[test]
fn any_history() {
    const NAMES: [&str; 8] = ["a", "b", "d/a", "d/b", "d/e/f", "e", "e/x", "f/y"];
    for seed in 0..60 {
        let mut numbers = Numbers(seed);
        let bench = Bench::new(&[], &[]);
        let mut uploads: BTreeMap<&str, String> = BTreeMap::new();
        for turn in 0..12 {
            // Of `e` and `e/x` only one can be.
            let other = if numbers.below(2) == 0 { "e" } else { "e/x" };
            let mut release: Vec<(&str, String)> = Vec::new();
            for name in NAMES {
                if name != other && numbers.below(3) > 0 {
                    release.push((name, format!("release {}", numbers.below(3))));
                }
            }
            let files: Vec<(&str, &str)> =
                release.iter().map(|(name, text)| (*name, text.as_str())).collect();
            bench.release(&files);
            let killed = numbers.below(2) == 0 && bench.killed_at(numbers.below(30));
            if numbers.below(3) == 0 {
                let name = NAMES[numbers.below(NAMES.len())];
                let path = bench.to().join(name);
                let free = path.parent().is_some_and(|above| !above.is_file()) && !path.is_dir();
                if free {
                    let text = format!("upload {seed} {turn}");
                    put(&path, &text);
                    uploads.insert(name, text);
                }
            }
            let done = bench.publish().expect("it works");
            let volume = bench.volume();
            for (name, text) in &uploads {
                assert_eq!(volume.get(*name), Some(text), "{seed} {turn} {name}: {killed}");
            }
            for (name, text) in &release {
                let in_the_way = done.left.iter().any(|left| {
                    let left = left.split(':').next().unwrap_or_default();
                    Path::new(name).starts_with(left)
                });
                let there = volume.get(*name) == Some(text);
                assert!(there != in_the_way, "{seed} {turn} {name}: {:?} {volume:?}", done.left);
            }
        }
    }
}

#[test]
fn two_at_once() {
    let files: Vec<(String, String)> =
        (0..40).map(|i| (format!("d{}/f{i}", i % 3), format!("{i}").repeat(5000))).collect();
    let files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let bench = Bench::new(&files, &[]);
    let (from, to) = (bench.from(), bench.to());
    let written: usize = thread::scope(|scope| {
        let run = || {
            let publication =
                Publication { from: &from, to: &to, tell: &|_| {}, step: &|| {}, stop: &|| false };
            publish(&publication).expect("it works").written
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(written, 40, "the lock keeps them apart");
    assert_eq!(bench.volume(), map(&files));
}

#[test]
fn trouble_is_told() {
    let told = |bench: &Bench| {
        let Trouble { action, path, source } = bench.publish().expect_err("it cannot");
        let path = path.strip_prefix(bench.0.path()).expect("below").display().to_string();
        format!("{action} {path}: {source}")
    };
    let bench = Bench::new(&[("a", "a")], &[(PUBLISHED, "forge published 2\n")]);
    assert!(told(&bench).ends_with("it is no list of this version of forge"));
    fs::remove_dir_all(bench.to()).expect("it can be removed");
    assert!(told(&bench).starts_with("read the folder to: No such file"));
    put(&bench.to(), "a file");
    assert!(told(&bench).starts_with("read the folder to: not a directory"));
    let bench = Bench::new(&[("a", "a")], &[]);
    fs::remove_dir_all(bench.to()).expect("it can be removed");
    symlink("from/inside", bench.to()).expect("it can be made");
    fs::create_dir(bench.from().join("inside")).expect("it can be made");
    assert!(told(&bench).contains("lie in each other"));
    let bench = Bench::new(&[("a", "a")], &[]);
    symlink("/dev/null", bench.to().join(PUBLISHING)).expect("it can be made");
    assert!(told(&bench).ends_with("it is no plain file"));
}
