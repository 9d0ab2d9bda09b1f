//! The Ruby facts over whole trees.

use crate::facts::collect;
use crate::facts::tests::Tree;

mod choice;
mod locked;

/// Every fact but the gems and the path of the Gemfile, as `name = value (origin)`.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &[&str]) {
    let facts = collect(&Tree::new(files)).expect("facts");
    let wanted = |name: &str| !name.starts_with("ruby.gem");
    let facts = facts.iter().filter(|(name, _)| wanted(name));
    let facts = facts.map(|(name, fact)| {
        format!("{name} = {} ({})", fact.value.replace('\n', " "), fact.origin)
    });
    assert_eq!(facts.collect::<Vec<_>>(), expected);
}

/// One fact, as `value (origin)`; `-` when it is absent.
#[track_caller]
fn one(files: &[(&str, &str)], name: &str, expected: &str) {
    let facts = collect(&Tree::new(files)).expect("facts");
    let found =
        facts.fact(name).map(|fact| format!("{} ({})", fact.value.replace('\n', " "), fact.origin));
    assert_eq!(found.as_deref().unwrap_or("-"), expected);
}

/// The facts of these names, as `value; value`.
#[track_caller]
fn some(files: &[(&str, &str)], names: &[&str], expected: &str) {
    let facts = collect(&Tree::new(files)).expect("facts");
    let values: Vec<String> =
        names.iter().map(|name| facts.get(name).unwrap_or("-").replace('\n', " ")).collect();
    assert_eq!(values.join("; "), expected);
}

fn gems(names: &[&str]) -> String {
    let specs: String = names.iter().map(|name| format!("    {name} (1.0)\n")).collect();
    format!("GEM\n  remote: https://gems.example/\n  specs:\n{specs}")
}

#[test]
fn rails() {
    let lock = "GEM\n  remote: https://gems.example/\n  specs:\n    bootsnap (1.18.4-x86_64-linux)\n    \
                delayed_job (4.1.13)\n    pg (1.5.6)\n    pg (1.5.6-x86_64-linux)\n    propshaft (1.1.0)\n    \
                railties (7.2.2.2)\n    sqlite3 (2.9.6)\n\nPLATFORMS\n  ruby\n  x86_64-linux\n\n\
                RUBY VERSION\n   ruby 3.3.8p144\n\nBUNDLED WITH\n   2.6.7\n";
    check(
        &[
            ("Gemfile", "source 'https://gems.example'\nruby '~> 3.3.0'\n"),
            ("Gemfile.lock", lock),
            (".ruby-version", "3.3.1\n"),
            ("config.ru", ""),
            ("config/application.rb", ""),
            ("config/puma.rb", ""),
        ],
        &[
            "puma.config = config/puma.rb (config/puma.rb)",
            "rack.config = config.ru (config.ru)",
            "rails.application = config/application.rb (config/application.rb)",
            "rails.assets = propshaft (Gemfile.lock:8)",
            "rails.bootsnap = yes (Gemfile.lock:4)",
            "rails.database = postgres (Gemfile.lock:7)",
            "rails.jobs = delayed_job (Gemfile.lock:5)",
            "rails.version = 7.2.2.2 (Gemfile.lock:9)",
            "ruby.allows.3.3.8 = yes (Gemfile:2)",
            "ruby.bundler = 2.6.7 (Gemfile.lock:20)",
            "ruby.exact = 3.3.8 (Gemfile.lock:17)",
            "ruby.inputs = Gemfile Gemfile.lock (Gemfile)",
            "ruby.lock = Gemfile.lock (Gemfile.lock)",
            "ruby.platforms = ruby x86_64-linux (Gemfile.lock:13)",
            "ruby.precompiled.bootsnap = x86_64-linux (Gemfile.lock:4)",
            "ruby.precompiled.pg = x86_64-linux (Gemfile.lock:7)",
            "ruby.requirement = ~> 3.3.0 (Gemfile:2)",
            "ruby.version = 3.3.8 (Gemfile.lock:17)",
            "ruby.version.conflict = .ruby-version:1 asks for Ruby 3.3.1, Gemfile.lock:17 for 3.3.8 (.ruby-version:1)",
        ],
    );
}

#[test]
fn without_a_gemfile_or_a_lock() {
    check(&[(".ruby-version", "rubbish"), ("config.ru", ""), ("Gemfile.lock", "<<<<<<<")], &[]);
    check(
        &[("Gemfile", ""), ("config/application.rb", "class A < Rails::Application")],
        &[
            "ruby.allows.3.1.2 = yes (default)",
            "ruby.allows.3.3.8 = yes (default)",
            "ruby.inputs = Gemfile (Gemfile)",
        ],
    );
    let lock = gems(&["rack"]);
    let application = "config/application.rb";
    let says = [("Gemfile", ""), ("Gemfile.lock", &lock), (application, "Rails::Application")];
    some(&says, &["rails.application", "rails.version"], "config/application.rb; -");
    let other = [("Gemfile", ""), ("Gemfile.lock", &lock), (application, "")];
    some(&other, &["rails.application"], "-");
}

#[test]
fn inputs() {
    let lock = "PATH\n  remote: engines/shop\n  specs:\n    shop (1.0)\n\n\
                PATH\n  remote: ../outside\n  specs:\n    out (1.0)\n\n\
                GIT\n  remote: https://git.example/own\n  specs:\n    own (1.0)\n";
    let files = [
        (
            "Gemfile",
            "ruby File.read(\".ruby-version\")\neval_gemfile \"gems/more.rb\"\ngem 'a', path: 'local/a'\ngemspec\n",
        ),
        ("Gemfile.lock", lock),
        (".ruby-version", "3.3.8"),
        (".tool-versions", "ruby 3.3.8"),
        ("blog.gemspec", ""),
        ("config.ru", ""),
        ("engines/shop/lib/shop.rb", ""),
        ("engines/shop/shop.gemspec", ""),
        ("engines/shopping/x.rb", ""),
        ("gems/more.rb", "eval_gemfile 'again.rb'\neval_gemfile '../Gemfile'"),
        ("gems/again.rb", "eval(File.read(\"#{__dir__}/last.rb\"))"),
        ("gems/last.rb", ""),
        ("local/a/a.rb", ""),
    ];
    some(
        &files,
        &["ruby.inputs"],
        ".ruby-version Gemfile Gemfile.lock blog.gemspec engines/shop/ \
         gems/again.rb gems/last.rb gems/more.rb local/a/",
    );
    some(&files, &["ruby.path", "ruby.git"], "engines/shop; https://git.example/own");
    let whole =
        [("Gemfile", "gemspec"), ("Gemfile.lock", "PATH\n  remote: .\n  specs:\n"), ("a/b", "")];
    some(&whole, &["ruby.inputs"], "Gemfile Gemfile.lock a/");
}

#[test]
fn gems_of_rails() {
    let names = ["rails.assets", "rails.database", "rails.jobs", "rails.bootsnap"];
    let of = |locked: &[&str], expected| some(&application(&gems(locked)), &names, expected);
    of(&["rack"], "-; -; -; -");
    of(&["sprockets", "pgbouncer"], "-; -; -; -");
    of(&["sprockets-rails", "mysql2", "sidekiq"], "sprockets; mysql2; sidekiq; -");
    of(
        &["jsbundling-rails", "propshaft", "trilogy", "solid_queue"],
        "propshaft; trilogy; solid_queue; -",
    );
    of(&["vite_ruby", "sqlite3", "good_job", "bootsnap"], "vite; sqlite3; good_job; yes");
    of(&["tailwindcss-rails", "pg", "sqlite3", "resque"], "tailwindcss; postgres; resque; -");
    of(&["dartsass-rails", "shakapacker"], "shakapacker; -; -; -");
}

/// An application of Rails with this lock.
fn application(lock: &str) -> [(&str, &str); 3] {
    let says = "class Application < Rails::Application";
    [("Gemfile", ""), ("Gemfile.lock", lock), ("config/application.rb", says)]
}

#[test]
fn what_needs_node() {
    let of = |locked: &[&str], expected| {
        some(&application(&gems(locked)), &["rails.javascript"], expected);
    };
    of(&["propshaft", "tailwindcss-rails"], "-");
    of(&["cssbundling-rails", "propshaft"], "cssbundling");
    of(&["cssbundling-rails", "jsbundling-rails"], "jsbundling");
    of(&["jsbundling-rails", "vite_rails"], "vite");
    of(&["vite_ruby", "webpacker"], "webpacker");
    of(&["shakapacker", "webpacker"], "shakapacker");
}

#[test]
fn nothing_of_rails_without_an_application() {
    let lock = gems(&["pg", "propshaft", "railties", "shakapacker", "sidekiq"]);
    let production = "config.public_file_server.enabled = false";
    let files = [
        ("Gemfile", ""),
        ("Gemfile.lock", lock.as_str()),
        ("config/environments/production.rb", production),
        ("public/assets/.manifest.json", ""),
    ];
    let facts = collect(&Tree::new(&files)).expect("facts");
    let rails: Vec<_> = facts.iter().filter(|(name, _)| name.starts_with("rails.")).collect();
    assert_eq!(rails, []);
}

#[test]
fn settled_in_production() {
    let lock = gems(&["railties"]);
    let production =
        ("config/environments/production.rb", "\n  config.public_file_server.enabled = false\n");
    let manifest = ("public/assets/manifest-0a.json", "");
    let files: Vec<_> = application(&lock).into_iter().chain([production, manifest]).collect();
    one(&files, "rails.public_files", "off (config/environments/production.rb:2)");
    let path = "public/assets/manifest-0a.json";
    one(&files, "rails.assets.ready", &format!("{path} ({path})"));
}

#[test]
fn gems_rb() {
    let lock = "GEM\n  specs:\n    rack (3.1.0)\n";
    let files = [
        ("Gemfile", "gem 'x'"),
        ("Gemfile.lock", "<<<<<<<"),
        ("gems.rb", "ruby '3.3.8'"),
        ("gems.locked", lock),
    ];
    one(&files, "ruby.gemfile", "gems.rb (gems.rb)");
    check(
        &files,
        &[
            "ruby.allows.3.3.8 = yes (gems.rb:1)",
            "ruby.exact = 3.3.8 (gems.rb:1)",
            "ruby.inputs = gems.locked gems.rb (gems.rb)",
            "ruby.lock = gems.locked (gems.locked)",
            "ruby.requirement = 3.3.8 (gems.rb:1)",
            "ruby.version = 3.3.8 (gems.rb:1)",
        ],
    );
    let unlocked = [("gems.rb", ""), ("Gemfile", ""), ("Gemfile.lock", lock)];
    one(&unlocked, "ruby.lock", "-");
}

#[test]
fn vendored_gems() {
    let vendored = ["vendor/cache/own-0a1b/own.gemspec", "vendor/cache/rack-3.1.0.gem"];
    let files = [("Gemfile", ""), (vendored[0], ""), (vendored[1], ""), ("vendor/x.gem", "")];
    one(&files, "ruby.vendor", "vendor/cache (vendor/cache/rack-3.1.0.gem)");
    some(&files, &["ruby.inputs"], "Gemfile vendor/cache/");
    let none = [("Gemfile", ""), ("vendor/cache/README", "")];
    some(&none, &["ruby.vendor", "ruby.inputs"], "-; Gemfile");
}

#[test]
fn broken() {
    let conflict = "a merge conflict: settle it, then run `bundle lock` and commit the result (Gemfile.lock:2)";
    let lock = "GEM\n<<<<<<< HEAD\n";
    check(&[("Gemfile", ""), ("Gemfile.lock", lock)], &[&format!("ruby.broken = {conflict}")]);
    check(
        &application(lock),
        &[
            "rails.application = config/application.rb (config/application.rb)",
            &format!("ruby.broken = {conflict}"),
        ],
    );
    // The style sheets of a Django application need no Ruby in its image.
    let django = [
        ("Gemfile", ""),
        ("Gemfile.lock", lock),
        ("manage.py", "os.environ['DJANGO_SETTINGS_MODULE']"),
        ("requirements.txt", "django==5.2"),
    ];
    some(&django, &["django.manage", "python.package.django"], "manage.py; 5.2");
    one(&django, "ruby.broken", conflict);
}
