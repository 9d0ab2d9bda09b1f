//! Tests with generated input, the same at every run: the environment of layers
//! against a second, simple model, and damaged tables against all readers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::compat;
use crate::environment::Environment;
use crate::execd;
use crate::layers::{self, Part};
use crate::table::Table;

/// Trees of layers; each is written to disk.
const TREES: u64 = 400;

/// Damaged texts; each is read by all readers.
const TEXTS: u64 = 20_000;

/// All texts together take a second or two; a reader that does not end is found by this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Numbers that look random: xorshift with a seed.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        // Zero would stay zero for ever.
        Numbers((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// From 0 up to, not including, `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("it is below a usize")
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What the layers of a table are, as data: buildpacks, their layers by name,
/// the files of a layer by path.
type Tree = Vec<(String, BTreeMap<String, Layer>)>;

#[derive(Default)]
struct Layer {
    folders: Vec<&'static str>,
    files: BTreeMap<(&'static str, Vec<u8>), Vec<u8>>,
}

/// All variables that are generated.
const NAMES: [&[u8]; 5] = [b"A", b"AB", b"PATH", b"LD_LIBRARY_PATH", b"N\xff"];
const RULES: [&[u8]; 10] = [
    b"",
    b".override",
    b".default",
    b".append",
    b".prepend",
    b".delim",
    b".",
    b".foo",
    b".a.append",
    b".append.a",
];
const VALUES: [&[u8]; 7] = [b"", b"x", b"y z", b":", b"line\n", b"a=b", b"\xfe"];
const FOLDERS: [&str; 4] = ["env", "env.launch", "env.launch/web", "env.launch/other"];

fn tree(numbers: &mut Numbers) -> Tree {
    let mut tree = Tree::new();
    for id in ["z/first", "a", "missing", "m"].iter().take(1 + numbers.below(4)) {
        let mut found = BTreeMap::new();
        for _ in 0..numbers.below(4) {
            let mut layer = Layer::default();
            for folder in ["bin", "lib", "include"] {
                if numbers.below(2) == 0 {
                    layer.folders.push(folder);
                }
            }
            for _ in 0..numbers.below(9) {
                let name = [*numbers.one(&NAMES), *numbers.one(&RULES)].concat();
                let folder = *numbers.one(&FOLDERS);
                layer.files.insert((folder, name), numbers.one(&VALUES).to_vec());
            }
            found.insert((*numbers.one(&["b", "a", "Z", "a.b", "0"])).to_owned(), layer);
        }
        tree.push((id.to_string(), found));
    }
    tree
}

fn write(tree: &Tree, root: &Path) {
    for (id, layers) in tree {
        for (name, layer) in layers {
            let folder = root.join(id.replace('/', "_")).join(name);
            for there in &layer.folders {
                fs::create_dir_all(folder.join(there)).expect("the folder can be made");
            }
            fs::create_dir_all(&folder).expect("the folder can be made");
            for ((place, file), text) in &layer.files {
                let place = folder.join(place);
                fs::create_dir_all(&place).expect("the folder can be made");
                fs::write(place.join(OsStr::from_bytes(file)), text).expect("it can be written");
            }
        }
    }
}

/// The value of one variable, by the sentences of the contract.
fn model(
    name: &[u8],
    start: Option<&[u8]>,
    tree: &Tree,
    root: &Path,
    kind: Option<&str>,
) -> Option<Vec<u8>> {
    let mut value: Option<Vec<u8>> = start.map(<[u8]>::to_vec);
    let filled = |value: &Option<Vec<u8>>| value.clone().filter(|value| !value.is_empty());
    let root_folder = match name {
        b"PATH" => "bin",
        b"LD_LIBRARY_PATH" => "lib",
        _ => "none",
    };
    for (id, layers) in tree {
        for (layer_name, layer) in layers {
            if layer.folders.contains(&root_folder) {
                let folder = root.join(id.replace('/', "_")).join(layer_name).join(root_folder);
                let mut text = folder.into_os_string().into_vec();
                if let Some(old) = filled(&value) {
                    text.push(b':');
                    text.extend(old);
                }
                value = Some(text);
            }
        }
        for layer in layers.values() {
            for folder in FOLDERS {
                let typed = folder.strip_prefix("env.launch/");
                if typed.is_some() && typed != kind {
                    continue;
                }
                let file = |rule: &[u8]| layer.files.get(&(folder, [name, rule].concat()));
                // In the order in which the names of files sort: `A`, `A.`, `A.append`…
                for rule in ["", ".", ".append", ".default", ".override", ".prepend"] {
                    let Some(text) = file(rule.as_bytes()) else { continue };
                    let absent = if rule == "." { b":".to_vec() } else { Vec::new() };
                    let delimiter = file(b".delim").cloned().unwrap_or(absent);
                    value = match (rule, filled(&value)) {
                        (".append", Some(old)) => Some([old, delimiter, text.clone()].concat()),
                        ("." | ".prepend", Some(old)) => {
                            Some([text.clone(), delimiter, old].concat())
                        }
                        (".default", Some(old)) => Some(old),
                        _ => Some(text.clone()),
                    };
                }
            }
        }
    }
    value
}

#[test]
fn layers_are_as_the_model_says() {
    let base = std::env::temp_dir().join(format!("forge-generated-{}", std::process::id()));
    let mut changed = 0;
    for seed in 0..TREES {
        let mut numbers = Numbers::new(seed);
        let tree = tree(&mut numbers);
        let root = base.join(seed.to_string());
        write(&tree, &root);
        let kind = *numbers.one(&[None, Some("web"), Some("other"), Some("none")]);
        let mut environment = Environment::default();
        let mut start: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
        for name in NAMES {
            if numbers.below(2) == 0 {
                let value = numbers.one(&VALUES).to_vec();
                environment.set(OsStr::from_bytes(name), OsString::from_vec(value.clone()), "");
                start.insert(name, value);
            }
        }
        let before = environment.clone();
        let ids = tree.iter().map(|(id, _)| id.as_str());
        let found = layers::find(&root, ids).expect("the layers can be listed");
        layers::apply(&found, kind, Part::Whole, &mut environment).expect("they can be read");
        changed += u64::from(environment != before);
        for name in NAMES {
            let expected = model(name, start.get(name).map(Vec::as_slice), &tree, &root, kind);
            let found = environment.get(OsStr::from_bytes(name)).map(OsStrExt::as_bytes);
            assert_eq!(
                found.map(String::from_utf8_lossy),
                expected.as_deref().map(String::from_utf8_lossy),
                "seed {seed}, {}",
                String::from_utf8_lossy(name)
            );
        }
        fs::remove_dir_all(&root).ok();
    }
    fs::remove_dir_all(&base).ok();
    assert!(changed > TREES / 2, "only {changed} trees change anything");
}

const TABLES: [&str; 3] = [
    r#"
# a comment
[[buildpacks]]
id = "forge/rails"
api = "0.10"
homepage = "https://example.org/\u00e9\n"

[[processes]]
type = "web"
command = ["bundle", "exec"]
args = [ "puma", # one
  'literal', """
long \
  text""", '''x''' ]
direct = true
default = true
buildpack-id = "forge/rails"
working-dir = "/workspace/sub"
exec-env = ["production", "*"]
[processes.metadata]
answer = -42
deep = [[1, 2], [true, [false]]]
"#,
    r#"
[forge]
secrets = ["DATABASE_URL"]
preload = ["/usr/lib/libjemalloc.so"]
[forge.defaults]
RAILS_ENV = "production"
"a b" = ''
[[forge.counts]]
name = "WEB_CONCURRENCY"
per_processor = 1_000
most = 4
[[processes]]
type = "web"
command = "puma -p $PORT"
[processes.forge]
required = ["SECRET_KEY_BASE"]
wait_for = ["$DATABASE_URL", "tcp://cache:6379"]
wait_limit = 60
wrap = ["newrelic-admin", "run-program"]
init = true
[[processes.forge.before]]
command = ["rails", "db:prepare"]
[[processes.forge.publish]]
from = "public"
to = "/srv/static"
"#,
    "A = \"one\\ntwo\"\nB = 'x'\n\"C D\" = \"\"\"\n\\U0001f600\"\"\"\n",
];

/// Pieces that make other mistakes than single bytes.
const PIECES: [&str; 20] = [
    "[[",
    "]]",
    "[",
    "]",
    "\"\"\"",
    "'''",
    "\\u",
    "\\UFFFFFFFF",
    "\n",
    "\r",
    "\r\n",
    "=",
    ".",
    "9223372036854775808",
    "\u{feff}",
    "é",
    "\0",
    "[a.a.a.a]\n",
    "type = 'x'\n",
    "{}",
];

/// A valid text with a few mistakes in it.
fn damaged(numbers: &mut Numbers) -> Vec<u8> {
    let mut text = numbers.one(&TABLES).as_bytes().to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(text.len() + 1);
        match numbers.below(6) {
            0 if at < text.len() => text[at] = u8::try_from(numbers.below(256)).unwrap_or(b'x'),
            1 if at < text.len() => drop(text.remove(at)),
            2 => drop(text.splice(at..at, numbers.one(&PIECES).bytes())),
            3 => text.truncate(at),
            4 => {
                let end = (at + numbers.below(80)).min(text.len());
                let piece = text[at..end].to_vec();
                let to = numbers.below(text.len() + 1);
                drop(text.splice(to..to, piece));
            }
            _ => {
                let end = (at + numbers.below(20)).min(text.len());
                drop(text.drain(at..end));
            }
        }
    }
    text
}

/// Reads the text with all that read such texts, and says whether they could.
fn read(text: &[u8]) -> [bool; 3] {
    let table = std::str::from_utf8(text).is_ok_and(|text| Table::parse(text).is_ok());
    [table, compat::metadata(text).is_ok(), execd::variables(text).is_ok()]
}

/// Runs `work` elsewhere and fails if it panics or does not end.
fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    result.recv_timeout(PATIENCE).expect("the readers end and do not panic")
}

#[test]
fn damaged_tables_are_refused_or_read() {
    let (good, bad) = ends(|| {
        let mut counts = (0, 0);
        for seed in 0..TEXTS {
            match read(&damaged(&mut Numbers::new(seed))) {
                [false, false, false] => counts.1 += 1,
                _ => counts.0 += 1,
            }
        }
        counts
    });
    // Mistakes in comments are none; a test that damages nothing tests nothing.
    assert!(good > TEXTS / 50 && bad > TEXTS / 2, "{good} read, {bad} refused");
}

#[test]
fn valid_tables_are_read() {
    let found = TABLES.map(|text| read(text.as_bytes()));
    assert_eq!(found, [[true, true, false], [true, true, false], [true, true, true]]);
}

#[test]
fn large_and_deep_texts_end() {
    for text in [
        format!("[{}a]", "a.".repeat(200_000)),
        format!("[[{}a]]", "a.".repeat(200_000)),
        format!("a = {}", "[".repeat(200_000)),
        format!("a = [{}]", "1,".repeat(200_000)),
        format!("a = \"{}\"", "\\n".repeat(200_000)),
        format!("a = \"\"\"{}", "\"\" \\\n".repeat(100_000)),
        "[[a]]\n".repeat(100_000),
        "# x\r\n".repeat(200_000),
        format!("a = '{}", "x".repeat(1_000_000)),
    ] {
        ends(move || read(text.as_bytes()));
    }
}
