//! What `planner` promises.

use super::*;
use crate::plan::Action;

fn django() -> Facts {
    let mut facts = Facts::new();
    for (name, value) in [
        ("django.manage", "manage.py"),
        ("django.dir", "."),
        ("django.wsgi", "site.wsgi"),
        ("python.manager", "pip"),
        ("python.lock", "requirements.txt"),
        ("python.inputs", "requirements.txt\nrequirements/[odd].txt"),
        ("python.allows.3.13", "yes"),
        ("python.allows.3.11", "yes"),
        ("python.package.gunicorn", "23.0"),
    ] {
        facts.insert(name, value, format!("{value}:1"));
    }
    facts
}

fn planned(facts: &Facts, wishes: &Wishes) -> Result<Planned, BuildpackError> {
    plan(&Library::new(&BTreeMap::new()).expect("parses"), facts, wishes)
}

#[test]
fn a_django_app() {
    let planned = planned(&django(), &Wishes::default()).expect("a plan");
    assert_eq!(planned.buildpack, "django");
    let names: Vec<_> = planned.plan.image.layers.iter().map(|layer| layer.step.as_str()).collect();
    assert_eq!(names, ["base", "runtime", "python-packages", "collectstatic", "app", "launcher"]);
    let lock = planned.plan.step("python-lock files").expect("planned");
    let Action::Source { selection } = &lock.action else { panic!("{lock:?}") };
    assert_eq!(selection.rules, ["/requirements.txt", "/requirements/\\[odd\\].txt"]);
    assert_eq!(
        planned.plan.image.processes["web"].command,
        "gunicorn --bind 0.0.0.0:${PORT} --access-logfile - site.wsgi"
    );
    assert!(!planned.plan.image.environment.contains_key("DJANGO_SETTINGS_MODULE"));
}

#[test]
fn a_rails_app() {
    let mut facts = Facts::new();
    for (name, value) in [
        ("ruby.gemfile", "Gemfile"),
        ("ruby.lock", "Gemfile.lock"),
        ("ruby.inputs", "Gemfile\nGemfile.lock"),
        ("ruby.allows.3.3.8", "yes"),
        ("ruby.gem.pg", "1.5.6"),
        ("ruby.gem.puma", "6.6.0"),
        ("puma.config", "config/puma.rb"),
        ("rails.application", "config/application.rb"),
        ("rails.assets", "propshaft"),
        ("rails.database", "postgres"),
        ("rails.jobs", "delayed_job"),
    ] {
        facts.insert(name, value, "t");
    }
    let planned = planned(&facts, &Wishes::default()).expect("a plan");
    assert_eq!(planned.buildpack, "rails");
    let layers: Vec<_> =
        planned.plan.image.layers.iter().map(|layer| layer.step.as_str()).collect();
    assert_eq!(layers, ["base", "runtime", "gems", "assets", "app", "launcher"]);
    let assets = planned.plan.step("assets").expect("planned");
    assert_eq!(assets.environment["DATABASE_URL"], "postgres://forge:forge@127.0.0.1:5432/forge");
    assert!(!assets.network && !assets.root.contains(&"build".to_owned()));
    let commands: Vec<_> =
        planned.plan.image.processes.values().map(|process| process.command.as_str()).collect();
    assert_eq!(
        commands,
        [
            "bundle exec rails db:migrate",
            "bundle exec puma -C config/puma.rb",
            "bundle exec rake jobs:work"
        ]
    );
    assert_eq!(planned.notices, []);
    for (name, value) in [
        ("ruby.version.conflict", "a asks for 3.3, b for 3.1"),
        ("rails.assets.ready", "public/assets/.manifest.json"),
        ("rails.public_files", "off"),
    ] {
        facts.insert(name, value, "t");
    }
    let planned =
        super::plan(&Library::new(&BTreeMap::new()).expect("parses"), &facts, &Wishes::default());
    let notices = planned.expect("a plan").notices;
    let starts = ["a asks for 3.3", "public/assets/.manifest.json: ", "config/environments/"];
    assert_eq!(notices.len(), starts.len());
    for ((message, _), start) in notices.iter().zip(starts) {
        assert!(message.starts_with(start), "{message}");
    }
    facts.insert("ruby.platform.missing", "only arm64-darwin", "Gemfile.lock:9");
    let error =
        super::plan(&Library::new(&BTreeMap::new()).expect("parses"), &facts, &Wishes::default())
            .expect_err("refused")
            .to_string();
    assert!(error.starts_with("Gemfile.lock:9: there is no platform"), "{error}");
}

#[test]
fn what_a_step_replaces_is_given_to_nobody() {
    let mut facts = Facts::new();
    for (name, value) in [
        ("ruby.gemfile", "Gemfile"),
        ("ruby.lock", "Gemfile.lock"),
        ("ruby.inputs", "Gemfile\nGemfile.lock"),
        ("ruby.allows.3.3.8", "yes"),
        ("rails.application", "config/application.rb"),
        ("rails.assets", "sprockets"),
    ] {
        facts.insert(name, value, "t");
    }
    let selected = |facts: &Facts, skip: &[&str], step: &str| {
        let skip = skip.iter().map(|&step| step.to_owned()).collect();
        let plan = planned(facts, &Wishes { skip, ..Wishes::default() }).expect("a plan").plan;
        let Some(Action::Source { selection }) = plan.step(step).map(|step| step.action.clone())
        else {
            panic!("{step} takes no files")
        };
        selection.rules
    };
    // Without a manifest of theirs, files in public/assets are the app's own.
    assert_eq!(selected(&facts, &[], "app"), ["*"]);
    facts.insert("rails.assets.ready", "public/assets/.manifest.json", "t");
    assert_eq!(selected(&facts, &[], "app"), ["*", "!/public/assets/**"]);
    let assets = selected(&facts, &[], "assets files");
    assert_eq!(assets.last().map(String::as_str), Some("!/public/assets/**"));
    assert_eq!(selected(&facts, &["assets"], "app"), ["*"]);
    for (javascript, expected) in
        [("webpacker", "!/public/packs/**"), ("vite", "!/public/vite/**"), ("jsbundling", "")]
    {
        let mut facts = facts.clone();
        facts.insert("rails.javascript", javascript, "t");
        facts.insert("node.lock", "yarn.lock", "t");
        for (name, value) in [
            ("node.dir", "."),
            ("node.manager", "yarn"),
            ("node.manager.release", "1.22.22"),
            ("node.release", "22.1.0"),
            ("node.inputs", "package.json"),
            ("node.manifest", "package.json"),
        ] {
            facts.insert(name, value, "t");
        }
        let found = selected(&facts, &[], "app");
        let more: Vec<&str> = found[2..].iter().map(String::as_str).collect();
        assert_eq!(more.concat(), expected, "{javascript}");
    }
}

#[test]
fn notices_about_steps_that_are_left_out() {
    let mut facts = Facts::new();
    for (name, value) in [
        ("ruby.gemfile", "Gemfile"),
        ("ruby.lock", "Gemfile.lock"),
        ("ruby.inputs", "Gemfile\nGemfile.lock"),
        ("ruby.allows.3.3.8", "yes"),
        ("rails.application", "config/application.rb"),
        ("rails.assets", "sprockets"),
        ("rails.assets.ready", "public/assets/.manifest.json"),
    ] {
        facts.insert(name, value, "t");
    }
    let told = |skip: &[&str]| {
        let skip = skip.iter().map(|&step| step.to_owned()).collect();
        let wishes = Wishes { skip, ..Wishes::default() };
        planned(&facts, &wishes).expect("a plan").notices.len()
    };
    assert_eq!((told(&[]), told(&["assets"])), (1, 0));
}

fn with_node(mut facts: Facts, more: &[(&str, &str)]) -> Facts {
    let every = [
        ("node.manifest", "package.json"),
        ("node.dir", "."),
        ("node.manager", "npm"),
        ("node.manager.release", "11.21.2"),
        ("node.release", "24.21.0"),
        ("node.inputs", "package.json\npackage-lock.json"),
    ];
    for (name, value) in every.iter().chain(more) {
        facts.insert(*name, *value, "package.json:2");
    }
    facts
}

#[track_caller]
fn layers(facts: &Facts, expected: &[&str]) -> Plan {
    let plan = planned(facts, &Wishes::default()).expect("a plan").plan;
    let names: Vec<_> = plan.image.layers.iter().map(|layer| layer.step.as_str()).collect();
    assert_eq!(names, expected);
    plan
}

#[test]
fn a_front_end_of_a_django_app() {
    let plain = ["base", "runtime", "python-packages", "collectstatic", "app", "launcher"];
    // Only for those who work on it.
    let lint = [("node.package.eslint", "9"), ("node.script.lint", "eslint .")];
    let plan = layers(&with_node(django(), &lint), &plain);
    assert!(plan.step("node").is_none() && plan.step("npm").is_none());

    let build = [("node.lock", "package-lock.json"), ("node.script.build", "vite build")];
    let built = [
        "base",
        "runtime",
        "python-packages",
        "javascript-build",
        "collectstatic",
        "app",
        "launcher",
    ];
    let plan = layers(&with_node(django(), &build), &built);
    let collectstatic = plan.step("collectstatic").expect("planned");
    for step in ["modules", "javascript-build"] {
        assert!(collectstatic.root.contains(&step.to_owned()), "{:?}", collectstatic.root);
    }
    assert!(!plan.image.environment["PATH"].contains("node"));

    // The settings may name files of packages.
    let production = [("node.lock", "package-lock.json"), ("node.package.production", "yes")];
    let plan = layers(&with_node(django(), &production), &plain);
    let collectstatic = plan.step("collectstatic").expect("planned");
    assert!(collectstatic.root.contains(&"modules".to_owned()), "{:?}", collectstatic.root);

    let error = planned(&with_node(django(), &build[1..]), &Wishes::default());
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("there is a package.json and no lock file"), "{error}");
}

#[test]
fn a_node_app() {
    let more = [
        ("node.lock", "package-lock.json"),
        ("node.script.build", "tsc"),
        ("node.script.start", "node dist/server.js"),
    ];
    let expected = [
        "base",
        "runtime",
        "node-runtime",
        "javascript-build",
        "modules-production",
        "app",
        "launcher",
    ];
    let facts = with_node(Facts::new(), &more);
    let plan = layers(&facts, &expected);
    assert_eq!(plan.image.processes["web"].command, "node dist/server.js");
    assert!(!plan.image.environment.contains_key("NODE_OPTIONS"));
    let without_network = ["modules", "modules-production", "javascript-build"];
    assert!(without_network.iter().all(|name| !plan.step(name).expect("planned").network));

    let pnp = [("node.manager", "berry"), ("node.pnp", ".pnp.cjs"), ("node.type", "module")];
    let plan = layers(&with_node(facts, &[&more[..], &pnp[..]].concat()), &expected);
    assert_eq!(
        plan.image.environment["NODE_OPTIONS"],
        "--require /workspace/.pnp.cjs --experimental-loader /workspace/.pnp.loader.mjs"
    );
}

#[test]
fn a_rails_app_whose_assets_only_the_build_script_makes() {
    let mut facts = Facts::new();
    for (name, value) in [
        ("ruby.gemfile", "Gemfile"),
        ("ruby.lock", "Gemfile.lock"),
        ("ruby.inputs", "Gemfile\nGemfile.lock"),
        ("ruby.allows.3.3.8", "yes"),
        ("rails.application", "config/application.rb"),
    ] {
        facts.insert(name, value, "t");
    }
    let more = [("node.lock", "yarn.lock"), ("node.script.build", "webpack")];
    let plan = layers(
        &with_node(facts, &more),
        &["base", "runtime", "gems", "javascript-build", "app", "launcher"],
    );
    // It may load the app.
    let build = plan.step("javascript-build").expect("planned");
    assert!(build.root.contains(&"gems".to_owned()) && !build.network);
    assert_eq!(build.environment["BUNDLE_GEMFILE"], "/workspace/Gemfile");
    assert!(plan.step("assets").is_none());
}

#[test]
fn ruby_as_it_cannot_be_built() {
    let refused = |name: &str, value: &str, expected: &str| {
        let mut facts = Facts::new();
        facts.insert("ruby.gemfile", "Gemfile", "Gemfile");
        if name != "ruby.broken" && value != "gems.rb" {
            facts.insert("ruby.lock", "Gemfile.lock", "Gemfile.lock");
        }
        facts.insert(name, value, "there:1");
        let error = planned(&facts, &Wishes::default()).expect_err("refused").to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    refused("ruby.broken", "a merge conflict", "there:1: a merge conflict");
    refused("ruby.gemfile", "gems.rb", "there:1: there is a gems.rb");
    refused("ruby.stale", "Gemfile has `a`", "there:1: Gemfile has `a`");
    refused("ruby.path.outside", "../a", "there:1: gems come from `../a`");
    refused("ruby.unsupported", "Rails 5.2 runs", "there:1: Rails 5.2 runs");
    refused("ruby.requirement", "3.4.8", "there:1: no Debian release has a Ruby");
    let mut django = django();
    django.insert("ruby.gemfile", "Gemfile", "Gemfile");
    django.insert("ruby.broken", "a merge conflict", "Gemfile.lock:2");
    let planned = planned(&django, &Wishes::default()).expect("a plan");
    assert_eq!(planned.buildpack, "django");
}

#[test]
fn packages_follow_facts() {
    let mut facts = django();
    facts.insert("python.package.psycopg2", "2.9", "requirements.txt:3");
    let planned = planned(&facts, &Wishes::default()).expect("a plan");
    let names = |step: &str| match &planned.plan.step(step).expect("planned").action {
        Action::Packages { names, linked, .. } => (names.clone(), linked.clone()),
        _ => panic!("{step} installs no packages"),
    };
    assert_eq!(names("build-psycopg2").0, ["libpq-dev"]);
    assert_eq!(names("runtime"), (Vec::new(), Some("libraries".to_owned())));
    assert!(
        planned.plan.step("collectstatic").expect("planned").root.contains(&"runtime".to_owned())
    );
}

#[test]
fn a_fact_has_a_line_for_each_word() {
    let step = |facts: &Facts, step: &str| {
        let planned = planned(facts, &Wishes::default()).expect("a plan").plan;
        planned.step(step).expect("planned").clone()
    };
    let mut facts = django();
    let told = step(&facts, "python-fetch").environment;
    assert!(!told.contains_key("COMPILED") && !told.contains_key("LARGE"), "{told:?}");
    for name in ["django", "psycopg2", "mysqlclient"] {
        facts.insert(format!("python.package.{name}"), "", "requirements.txt:3");
    }
    // In the order of the list.
    let told = step(&facts, "python-fetch").environment;
    assert_eq!(
        (told["COMPILED"].as_str(), told["LARGE"].as_str()),
        ("mysqlclient\npsycopg2", "django")
    );
    let root = step(&facts, "python-packages").root;
    for step in ["python-compile mysqlclient", "python-compile psycopg2", "python-install django"] {
        assert!(root.contains(&step.to_owned()), "{root:?}");
    }
}

#[test]
fn the_version_chooses_the_release() {
    let mut facts = Facts::new();
    for (name, fact) in django().iter() {
        if name != "python.allows.3.13" {
            facts.insert(name, fact.value.clone(), fact.origin.clone());
        }
    }
    let release = |facts: &Facts| planned(facts, &Wishes::default()).map(|planned| planned.facts);
    assert_eq!(release(&facts).expect("a plan").get("base.release"), Some("bookworm"));
    let mut none = Facts::new();
    for (name, fact) in facts.iter().filter(|(name, _)| !name.starts_with("python.allows")) {
        none.insert(name, fact.value.clone(), fact.origin.clone());
    }
    none.insert("python.version", "3.12", ".python-version");
    let error = release(&none).expect_err("refused").to_string();
    assert!(error.starts_with(".python-version: no Debian release"), "{error}");
}

#[test]
fn the_procfile_wins_over_defaults_and_forge_toml_over_both() {
    let mut facts = django();
    facts.insert("procfile.web", "from procfile", "Procfile:1");
    facts.insert("procfile.clock", "tick", "Procfile:2");
    let mut wishes = Wishes::default();
    let command =
        |text: &str| ProcessWish { command: Some(text.to_owned()), ..ProcessWish::default() };
    wishes.processes.insert("clock".to_owned(), command("tock"));
    wishes.processes.insert("release".to_owned(), command(""));
    let processes = planned(&facts, &wishes).expect("a plan").plan.image.processes;
    let found: Vec<_> =
        processes.iter().map(|(kind, process)| (kind.as_str(), process.command.as_str())).collect();
    assert_eq!(found, [("clock", "tock"), ("web", "from procfile")]);
    facts.insert("procfile.forge", "x", "Procfile:3");
    assert!(matches!(planned(&facts, &wishes), Err(BuildpackError::ProcessName { .. })));
}

#[test]
fn skipped_steps_leave_no_layer() {
    let wishes = Wishes { skip: vec!["collectstatic".to_owned()], ..Wishes::default() };
    let plan = planned(&django(), &wishes).expect("a plan").plan;
    assert!(plan.step("collectstatic").is_none());
    assert!(plan.image.layers.iter().all(|layer| layer.step != "collectstatic"));
}

#[test]
fn nothing_and_the_unknown() {
    assert!(matches!(
        planned(&Facts::new(), &Wishes::default()),
        Err(BuildpackError::NothingDetected { looked_for }) if looked_for[0].0 == "Rails"
    ));
    let wishes = Wishes { buildpack: Some("cobol".to_owned()), ..Wishes::default() };
    assert!(matches!(planned(&django(), &wishes), Err(BuildpackError::Unknown { .. })));
}
