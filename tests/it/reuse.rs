//! What is known is not done again; what is interrupted does no harm.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::gems::edit;
use crate::support::{
    Forge, Server, app, checkout, example, folder, give, ran, text, wait, warm, warm_lock,
};

#[test]
fn an_edit_runs_what_reads_it() {
    let (store, _, digest) = warm();
    let forge = Forge::new(store);
    let app = example("django-logbook");
    warm_lock(&app);
    let edit = |path: &str, text: &str| {
        let path = app.join(path);
        let old = fs::read_to_string(&path).unwrap();
        fs::write(path, old + text).unwrap();
    };
    let packed = |events: &[serde_json::Value]| -> Vec<String> {
        events
            .iter()
            .filter(|event| event["event"] == "layer_packed" && event["reused"] == false)
            .map(|event| event["step"].as_str().unwrap().to_owned())
            .collect()
    };
    // Another folder, same content: nothing runs, nothing is packed.
    let events = forge.events(&app, &[]);
    assert_eq!((ran(&events), packed(&events)), (vec![], vec![]));
    let last = events.last().unwrap();
    assert_eq!(
        (last["event"].as_str(), last["digest"].as_str()),
        (Some("finished"), Some(digest.as_str()))
    );

    let template = fs::read_dir(app.join("templates")).unwrap().next().unwrap().unwrap().path();
    edit(template.strip_prefix(&app).unwrap().to_str().unwrap(), "<!-- edited -->\n");
    let events = forge.events(&app, &[]);
    assert_eq!((ran(&events), packed(&events)), (vec![], vec!["app".to_owned()]));

    edit("static/css/logbook.css", "/* edited */\n");
    let events = forge.events(&app, &[]);
    assert_eq!(ran(&events), ["collectstatic"]);

    edit("requirements.txt", "# a comment changes the file, not the packages\n");
    let events = forge.events(&app, &[]);
    // The same versions are found, so the packages are not installed again.
    assert_eq!(ran(&events), ["python-lock"]);
}

const OLD: &str = "sqlparse==0.6.1 \\
    --hash=sha256:3be5a72d04c873d690d7c6dedd33d6fae2ef82759881ceec02fc2efd0cba564f \\
    --hash=sha256:ca722573f848ff2d30e40ea30f53a104b7dea7635ea9285891263eb2c58fb6e7";
const NEW: &str = "sqlparse==0.6.0 \\
    --hash=sha256:b861c0288ce2fa56209a9a6412d2e066ac664b3873b89c26c9d8415e8e32996f";

#[test]
fn a_bumped_package_is_installed_and_no_other_part() {
    let forge = Forge::new(&warm().0);
    let app = checkout("sqlparse");
    edit(&app, "requirements.txt", OLD, NEW);
    let events = forge.events(&app, &[]);
    let ran = ran(&events);
    // Neither is psycopg2 compiled, nor is Django installed, nor are the other parts.
    let (installed, others): (Vec<&String>, Vec<&String>) =
        ran.iter().partition(|step| step.starts_with("python-install "));
    assert_eq!(installed.len(), 1, "{ran:?}");
    assert_eq!(others, ["python-lock", "python-fetch", "libraries", "collectstatic"]);
    let said = |line: &str| {
        let says = |event: &&serde_json::Value| {
            event["event"] == "step_line"
                && event["line"].as_str().is_some_and(|said| said.contains(line))
        };
        events.iter().any(|event| says(&event))
    };
    // Of the others, which file is best was found out before; and where this one is, by then.
    assert!(said("to build these; the index was asked for 1"), "{events:?}");
    assert!(said("downloaded; the index was asked for 0"), "{events:?}");
    let versions = "import sqlparse, django, psycopg2; print(sqlparse.__version__)";
    let app = app.display().to_string();
    let run = forge.run(&["run", &app, "--", "python", "-c", versions]);
    assert_eq!(text(&run.stdout).trim_end(), "0.6.0", "{}", text(&run.stderr));
}

/// Which steps install, the app's files decide; which packages there are, is known later.
#[test]
fn packages_that_only_others_ask_for() {
    let requirements = "flask==3.1.3\nflask-sqlalchemy==3.1.1\n";
    let files = [("requirements.txt", requirements), ("Procfile", "web: true\n")];
    let app = app("others", &files);
    warm_lock(&app);
    let forge = Forge::new(&warm().0);
    let ran = ran(&forge.events(&app, &[]));
    // SQLAlchemy has a step where the app names it, and here is installed with others.
    assert!(!ran.contains(&"python-install sqlalchemy".to_owned()), "{ran:?}");
    let app = app.display().to_string();
    let import = "import flask_sqlalchemy, sqlalchemy; print(sqlalchemy.__name__)";
    let run = forge.run(&["run", &app, "--", "python", "-c", import]);
    assert_eq!(text(&run.stdout).trim_end(), "sqlalchemy", "{}", text(&run.stderr));
}

/// An app that needs no packages but the warm base, with one step of its own.
fn with_step(name: &str, step: &str) -> std::path::PathBuf {
    let buildpack = format!(
        "name = \"own\"\nabout = \"own\"\npriority = 99\nmatch = [\"procfile.web\"]\nlooks_for = \"\"\n\
         [[base]]\nrelease = \"trixie\"\n[[packages]]\nbase = [\"ca-certificates\", \"libstdc++6\", \"python3\", \"tzdata\"]\n{step}"
    );
    let app = app(name, &[("Procfile", "web: true\n"), (".forge/buildpacks/own.toml", &buildpack)]);
    // `build` is asked for with other names than the example's.
    warm_lock(&app);
    app
}

const SLOW: &str = "[[step]]\nname = \"slow\"\nabout = \"\"\nroot = [\"base\"]\noutputs = [\"out\"]\nin_image = true\n\
     command = [\"sh\", \"-c\", \"mkdir /out; echo begun; sleep 3; date +%s%N > /out/x\"]\n";

#[test]
fn two_builds_at_once_do_the_work_once() {
    let (store, ..) = warm();
    let forge = Forge::new(store);
    let apps = [with_step("one", SLOW), with_step("two", SLOW)];
    let digests: Vec<String> = std::thread::scope(|scope| {
        let builds: Vec<_> = apps.iter().map(|app| scope.spawn(|| forge.build(app, &[]))).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    // The step's output holds the time in nanoseconds: only one can have run.
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_killed_build_leaves_a_good_store() {
    let (store, ..) = warm();
    let forge = Forge::new(store);
    // With a name of its own: other tests use the store meanwhile.
    let step = SLOW.replace("sleep 3", "sleep 3; echo killed");
    let step = step.replace("name = \"slow\"", "name = \"killed\"");
    let app = with_step("killed", &step);
    for signal in [Signal::KILL, Signal::INT] {
        let name = app.display().to_string();
        let log = folder("log").join("log");
        let mut build = Server::start(
            forge
                .command(&["build", &name, "--verbose", "--progress", "plain"])
                .stderr(fs::File::create(&log).unwrap()),
        );
        wait("the step's start", || {
            fs::read_to_string(&log).is_ok_and(|log| log.contains("killed | begun"))
        });
        build.signal(signal);
        let status = build.wait();
        if signal == Signal::INT {
            assert_eq!(status.code(), Some(130), "{}", fs::read_to_string(&log).unwrap());
        }
        // The step dies with forge: nothing of it is left to write the output.
        wait("the end of the step", || {
            let list =
                crate::support::ok(std::process::Command::new("ps").args(["-e", "-o", "args"]));
            !list.contains("echo killed")
        });
    }
    let verify = forge.run(&["store", "verify"]);
    assert!(verify.status.success(), "{}", text(&verify.stdout));
    let started = std::time::Instant::now();
    forge.build(&app, &[]);
    assert!(
        started.elapsed() > Duration::from_secs(3),
        "the step must run: nothing had recorded its output"
    );
    // Scratch of the killed build is gone.
    let left = fs::read_dir(store.join("tmp")).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("killed-")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn early_cutoff() {
    let (store, ..) = warm();
    let forge = Forge::new(store);
    let steps = |comment: &str| {
        format!(
            "[[step]]\nname = \"first\"\nabout = \"\"\nroot = [\"base\"]\noutputs = [\"first\"]\n\
             command = [\"sh\", \"-c\", \"mkdir /first; echo same > /first/x # {comment}\"]\n\
             [[step]]\nname = \"second\"\nabout = \"\"\nroot = [\"base\", \"first\"]\noutputs = [\"second\"]\nin_image = true\n\
             command = [\"sh\", \"-c\", \"cp -r /first /second\"]\n"
        )
    };
    let app = with_step("cutoff", &steps("one"));
    assert_eq!(ran(&forge.events(&app, &[])).iter().filter(|step| *step != "build").count(), 2);
    let changed = with_step("cutoff", &steps("two"));
    let path = ".forge/buildpacks/own.toml";
    fs::copy(changed.join(path), app.join(path)).unwrap();
    give(&app);
    // The first step runs again and gives the same tree, so the second does not.
    assert_eq!(ran(&forge.events(&app, &[])), ["first"]);
}

#[test]
fn a_lost_result_that_comes_out_otherwise() {
    let own_store = folder("store");
    let forge = Forge::new(&own_store);
    let steps = |comment: &str| {
        format!(
            "[[step]]\nname = \"first\"\nabout = \"\"\nroot = [\"base\"]\noutputs = [\"first\"]\n\
             command = [\"sh\", \"-c\", \"mkdir /first; date +%s%N > /first/x\"]\n\
             [[step]]\nname = \"second\"\nabout = \"\"\nroot = [\"base\", \"first\"]\noutputs = [\"second\"]\nin_image = true\n\
             command = [\"sh\", \"-c\", \"cp -r /first /second # {comment}\"]\n"
        )
    };
    let app = with_step("lost", &steps("one"));
    let digest = forge.build(&app, &[]);
    // What the first step gave is known then, and its files are gone.
    assert!(forge.run(&["store", "gc"]).status.success());
    let changed = with_step("lost", &steps("two"));
    let path = ".forge/buildpacks/own.toml";
    fs::copy(changed.join(path), app.join(path)).unwrap();
    give(&app);
    let events = forge.events(&app, &[]);
    let last = events.last().unwrap();
    assert_eq!(last["event"], "finished", "{last}");
    assert_ne!(last["digest"], digest.as_str());
    assert_eq!(ran(&events), ["first", "second"]);
    let notices: Vec<&serde_json::Value> =
        events.iter().filter(|event| event["event"] == "notice").collect();
    let told = |notice: &&serde_json::Value| {
        notice["text"].as_str().unwrap().contains("`first` is not reproducible")
    };
    assert_eq!(notices.iter().copied().filter(told).count(), 1, "{notices:?}");
    // And so it stays.
    assert_eq!(ran(&forge.events(&app, &[])), Vec::<String>::new());
}

#[test]
fn gc_and_damage() {
    let traced = "[[step]]\nname = \"traced\"\nabout = \"\"\nroot = [\"base\"]\nsource = [\"a\", \"b\"]\n\
         inputs = \"traced\"\noutputs = [\"made\"]\nin_image = true\n\
         command = [\"sh\", \"-c\", \"mkdir /made; cat /workspace/a > /made/a\"]\n";
    let steps = SLOW.replace("sleep 3", "true") + traced;
    let (own_store, app) = (folder("store"), with_step("gc", &steps));
    for name in ["a", "b"] {
        fs::write(app.join(name), name).unwrap();
    }
    give(&app);
    let forge = Forge::new(&own_store);
    let digest = forge.build(&app, &[]);
    let size = || -> u64 {
        fs::read_dir(own_store.join("blobs"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    };
    let before = size();
    let gc = forge.run(&["store", "gc"]);
    assert!(gc.status.success(), "{}", text(&gc.stderr));
    assert!(size() + 30_000_000 < before, "the packages' files are not needed any more");
    assert_eq!(forge.build(&app, &[]), digest);
    assert!(ran(&forge.events(&app, &[])).is_empty());
    // What steps have read is still known.
    fs::write(app.join("b"), "other").unwrap();
    assert!(ran(&forge.events(&app, &[])).is_empty());
    fs::write(app.join("b"), "b").unwrap();

    // A flipped byte in a layer is found, and repaired by building.
    let blob = fs::read_dir(own_store.join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, bytes).unwrap();
    assert_eq!(forge.run(&["store", "verify"]).status.code(), Some(1));
    assert!(forge.run(&["store", "verify", "--repair"]).status.success());
    assert_eq!(forge.build(&app, &[]), digest);
    assert!(forge.run(&["store", "verify"]).status.success());
}

#[test]
fn settings_of_the_machine_do_not_choose_what_is_fetched() {
    let step = "[[step]]\nname = \"fetch\"\nabout = \"fetch\"\nnetwork = true\nroot = [\"base\"]\n\
                command = [\"sh\", \"-eu\", \"-c\", \"if env | grep -q PIP_PRE; then exit 1; fi; \
                test $UV_INDEX_TEAM_PASSWORD = secret; mkdir /opt/fetched; \
                cp /tmp/home/.npmrc /opt/fetched\"]\noutputs = [\"opt/fetched\"]\nin_image = true\n";
    let (store, _, _) = warm();
    let (home, app) = (folder("home"), with_step("chosen", step));
    fs::write(home.join(".npmrc"), "omit=dev\nregistry=https://npm.example/\n").unwrap();
    give(&home);
    let forge = Forge::new(store).with("PIP_PRE", "1").with("UV_INDEX_TEAM_PASSWORD", "secret");
    let words = ["build", &app.display().to_string(), "--output", "oci:image"];
    let run = forge.command(&words).current_dir(&app).env("HOME", &home).output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let expected = "registry=https://npm.example/\n";
    let found = fs::read_dir(store.join("trees"))
        .unwrap()
        .filter_map(|entry| {
            fs::read_to_string(entry.unwrap().path().join("opt/fetched/.npmrc")).ok()
        })
        .next();
    assert_eq!(found.as_deref(), Some(expected));
}
