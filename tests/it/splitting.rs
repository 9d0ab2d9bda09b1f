//! Packages in layers of their own: what a bump packs and sends, and what an image made of parts is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use forge::buildpack::Library;
use forge::digest::Digest;
use forge::layer::{Rule, Says, Split};
use forge::tree::{Node, Tree};
use serde_json::Value;

use crate::gems::edit;
use crate::support::{
    Forge, checkout, folder, have, need_root, ok, port, ran, registry_at, text, warm,
};

const OLD: &str = "gunicorn==23.0.0 \\
    --hash=sha256:ec400d38950de4dfd418cff8328b2c8faed0edb0d517d3394e457c317908ca4d \\
    --hash=sha256:f014447a0101dc57e294f6c18ca6b40227a4c90e9bdb586042628030cba004ec";
const NEW: &str = "gunicorn==22.0.0 \\
    --hash=sha256:350679f91b24062c86e386e198a15438d53a7a8207235a78ba1b53df4c4378d9 \\
    --hash=sha256:4a0b436239ff76fb33f11c07a16482c521a7e09c1ce3cc293c2330afe01bec63";

/// The layers of the Python packages: part → (digest, whether it was known before).
fn parts(events: &[Value]) -> BTreeMap<String, (String, bool)> {
    events
        .iter()
        .filter(|event| event["event"] == "layer_packed" && event["step"] == "python-packages")
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            (text("part"), (text("digest"), event["reused"] == true))
        })
        .collect()
}

/// Names of what was sent, sorted.
fn sent(events: &[Value]) -> Vec<&str> {
    let pushed = events.iter().filter(|event| event["event"] == "pushed" && event["sent"] != 0);
    let mut sent: Vec<&str> = pushed.map(|event| event["what"].as_str().unwrap()).collect();
    sent.sort_unstable();
    sent
}

fn digest(events: &[Value]) -> &str {
    let last = events.last().unwrap();
    assert_eq!(last["event"], "finished", "{last}");
    last["digest"].as_str().unwrap()
}

/// What lies below a folder: path → kind, mode and content.
fn listing(root: &Path) -> BTreeMap<PathBuf, (String, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let (kind, content) = if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap().into_os_string().into_string().unwrap();
                ("link", target.into_bytes())
            } else if metadata.is_dir() {
                pending.push(path.clone());
                ("folder", Vec::new())
            } else {
                ("file", fs::read(&path).unwrap())
            };
            let mode = metadata.permissions().mode() & 0o7777;
            let path = path.strip_prefix(root).unwrap().to_owned();
            found.insert(path, (kind.to_owned(), mode, content));
        }
    }
    found
}

#[test]
fn a_bumped_package_sends_its_layer() {
    if !have(&["docker-registry", "umoci", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app) = (&warm().0, checkout("bumped"));
    let root = folder("registry");
    let port = port();
    let _registry = registry_at(&root, port, "");
    let tag = |tag: &str| format!("127.0.0.1:{port}/app:{tag}");
    let push = |store: &Path, app: &Path, to: &str| {
        Forge::new(store).events(app, &["--push", "--tag", &tag(to)])
    };
    let first = push(store, &app, "1");
    let before = parts(&first);
    assert_eq!(before.keys().collect::<Vec<_>>(), ["django", "others", "rest"]);

    edit(&app, "requirements.txt", OLD, NEW);
    let events = push(store, &app, "2");
    let after = parts(&events);
    let new: Vec<&String> =
        after.iter().filter(|(_, (_, reused))| !reused).map(|(part, _)| part).collect();
    assert_eq!(new, ["others"]);
    for part in ["django", "rest"] {
        assert_eq!(after[part].0, before[part].0);
    }
    assert_eq!(sent(&events), ["app", "configuration", "python-packages: others"]);

    // A fresh runner knows it all, and one that needs the packages puts them together again.
    let other = folder("fresh");
    let known = push(&other, &app, "3");
    assert_eq!((digest(&known), ran(&known), sent(&known)), (digest(&events), vec![], vec![]));
    let style = app.join("static/css/logbook.css");
    fs::write(&style, fs::read_to_string(&style).unwrap() + "\n").unwrap();
    let events = push(&other, &app, "4");
    assert_eq!(ran(&events), ["collectstatic"]);

    // The image is the tree that the step made, as if it were one layer.
    let layout = folder("layout").join("image");
    let output = format!("oci:{}", layout.display());
    let words = ["--cache-from", &format!("127.0.0.1:{port}/app"), "--output", &output];
    let written = Forge::new(&other).events(&app, &words);
    assert_eq!(digest(&written), digest(&events));
    let bundle = folder("bundle").join("image");
    let image = format!("{}:latest", layout.display());
    ok(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    let trees = fs::read_dir(other.join("trees")).unwrap();
    let made = trees.map(|entry| entry.unwrap().path().join("layers/venv"));
    let made: Vec<PathBuf> = made.filter(|venv| venv.join("pyvenv.cfg").is_file()).collect();
    let [made] = &made[..] else { panic!("{made:?}") };
    assert!(listing(&bundle.join("rootfs/layers/venv")) == listing(made));

    // What the image is made of stays, each part of it.
    let forge = Forge::new(&other);
    let gc = forge.run(&["store", "gc"]);
    assert!(gc.status.success(), "{}", text(&gc.stderr));
    let again = forge.events(&app, &words);
    assert_eq!((digest(&again), ran(&again)), (digest(&events), vec![]));
    assert!(parts(&again).len() == 3 && parts(&again).values().all(|(_, reused)| *reused));
    let fetched =
        |event: &&Value| event["event"] == "fetched" && event["step"] == "python-packages";
    assert_eq!(again.iter().filter(fetched).count(), 0);
}

/// Whether a buildpack's rules find these units, `rest` for none, of files that are heavy enough
/// for layers of their own. `lists` are contents of files.
#[track_caller]
fn check(buildpack: &str, step: &str, files: &[(&str, &str)], lists: &[(&str, &str)]) {
    let library = Library::new(&BTreeMap::new()).unwrap();
    let steps = &library.get(buildpack).unwrap().steps;
    let step = steps.iter().find(|found| found.name == step).unwrap();
    let rule = |rule: &forge::plan::UnitRule| Rule {
        path: rule.path.clone(),
        says: match &rule.beside {
            Some(file) => Says::Beside(file.clone()),
            None if rule.lists => Says::List,
            None => Says::Unit,
        },
    };
    let split = Split { rules: step.units.iter().map(rule).collect(), most: 24 };
    let file = Node::File { mode: 0o644, size: 3 << 20, digest: Digest::of(b"") };
    let tree: Tree = files.iter().map(|(path, _)| (*path, file)).collect();
    let tree = tree.with_parents();
    let lists: BTreeMap<&[u8], &str> =
        lists.iter().map(|(path, text)| (path.as_bytes(), *text)).collect();
    let read = |path: &[u8]| Ok(lists.get(path).unwrap_or(&"").as_bytes().to_vec());
    let parts = split.parts(tree, read).unwrap();
    for (path, unit) in files {
        let part = parts.iter().find(|part| part.tree.get(path.as_bytes()).is_some());
        let name = part.unwrap().name.as_deref();
        assert_eq!(name, Some(*unit), "{path}");
    }
}

#[test]
fn units_of_gems() {
    let at = |path: &str| format!("layers/gems/ruby/3.3.0/{path}");
    let files = [
        ("gems/pg-1.5.9/lib/pg.rb", "pg"),
        ("extensions/x86_64-linux/3.3.0/pg-1.5.9/pg_ext.so", "pg"),
        ("specifications/pg-1.5.9.gemspec", "pg"),
        ("gems/nokogiri-1.18.0.rc1-x86_64-linux-gnu/lib/nokogiri.rb", "nokogiri"),
        ("specifications/nokogiri-1.18.0.rc1-x86_64-linux-gnu.gemspec", "nokogiri"),
        ("gems/net-http-persistent-4.0.2/README", "net-http-persistent"),
        ("gems/http_parser.rb-0.8.0/x", "http-parser-rb"),
        ("gems/a-2fa-1.0/x", "a-2fa"),
        ("bundler/gems/rails-0123456789ab/activerecord/x", "rails"),
        ("bundler/gems/extensions/x86_64-linux/3.3.0/odd-name-0123456789ab/x.so", "odd-name"),
        ("bin/rails", "rest"),
    ];
    let files = files.map(|(path, unit)| (at(path), unit));
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, unit)| (path.as_str(), *unit)).collect();
    check("ruby", "gems", &files, &[]);
}

#[test]
fn units_of_python_packages() {
    let at = |path: &str| format!("layers/venv/lib/python3.13/site-packages/{path}");
    let files = [
        ("yaml/__init__.py", "pyyaml"),
        ("yaml/__pycache__/__init__.cpython-313.pyc", "pyyaml"),
        ("_yaml/x.so", "pyyaml"),
        ("PyYAML-6.0.2.dist-info/RECORD", "pyyaml"),
        ("PyYAML-6.0.2.dist-info/REQUESTED", "pyyaml"),
        ("six.py", "six"),
        ("__pycache__/six.cpython-313.pyc", "six"),
        ("six-1.17.0.dist-info/RECORD", "six"),
        ("_virtualenv.py", "rest"),
        ("../../../bin/run", "six"),
        ("../../../bin/python", "rest"),
    ];
    let files = files
        .map(|(path, unit)| (at(path).replace("lib/python3.13/site-packages/../../../", ""), unit));
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, unit)| (path.as_str(), *unit)).collect();
    let lists = [
        ("PyYAML-6.0.2.dist-info/RECORD", "yaml/__init__.py,,\n_yaml/x.so,,\n"),
        ("six-1.17.0.dist-info/RECORD", "six.py,sha256=x,1\n../../../bin/run,,\n"),
    ];
    let lists = lists.map(|(path, text)| (at(path), text));
    let lists: Vec<(&str, &str)> =
        lists.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    check("python", "python-packages", &files, &lists);
}

#[test]
fn units_of_javascript_packages() {
    let files = [
        ("workspace/node_modules/lodash/index.js", "lodash"),
        ("workspace/node_modules/@babel/core/index.js", "@babel/core"),
        ("workspace/node_modules/lodash/node_modules/ms/index.js", "ms"),
        ("workspace/node_modules/.pnpm/ms@2.1.3/node_modules/ms/index.js", "ms"),
        (
            "workspace/node_modules/.pnpm/@babel+core@7.1.0/node_modules/@babel/core/x",
            "@babel/core",
        ),
        ("workspace/packages/web/node_modules/vue/index.js", "vue"),
        ("workspace/.yarn/cache/left-pad-npm-1.3.0-0123456789-0123456789.zip", "left-pad"),
        ("workspace/.yarn/cache/@types-node-npm-22.0.0-0123456789-0123456789.zip", "@types-node"),
        ("workspace/.yarn/unplugged/esbuild-npm-0.19.2-0123456789/x", "esbuild"),
        ("workspace/node_modules/.bin/tsc", "rest"),
        ("workspace/node_modules/.pnpm/lock.yaml", "rest"),
        ("workspace/.pnp.cjs", "rest"),
    ];
    for (buildpack, step) in [("javascript", "modules"), ("node", "modules-production")] {
        check(buildpack, step, &files, &[]);
    }
}
