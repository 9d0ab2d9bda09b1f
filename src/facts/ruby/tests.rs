//! The Ruby facts over whole trees.

use crate::facts::collect;
use crate::facts::tests::Tree;

/// Every fact but the gems and the path of the Gemfile, as `name = value (origin)`.
#[track_caller]
fn check(files: &[(&str, &str)], expected: Result<&[&str], &str>) {
    let found = collect(&Tree::new(files)).map(|facts| {
        let wanted = |name: &str| !name.starts_with("ruby.gem");
        let facts = facts.iter().filter(|(name, _)| wanted(name));
        let facts = facts.map(|(name, fact)| {
            format!("{name} = {} ({})", fact.value.replace('\n', " "), fact.origin)
        });
        facts.collect::<Vec<_>>()
    });
    let expected = expected.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect());
    assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
}

/// The facts of these names, as `value; value`.
#[track_caller]
fn some(files: &[(&str, &str)], names: &[&str], expected: &str) {
    let facts = collect(&Tree::new(files)).expect("facts");
    let values: Vec<String> =
        names.iter().map(|name| facts.get(name).unwrap_or("-").replace('\n', " ")).collect();
    assert_eq!(values.join("; "), expected);
}

const RUBY: [&str; 4] =
    ["ruby.version", "ruby.requirement", "ruby.allows.3.3.8", "ruby.allows.3.1.2"];

const LOCKED: &str = "RUBY VERSION\n   ruby 3.3.8p144\n";

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
        Ok(&[
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
            "ruby.inputs = Gemfile Gemfile.lock (Gemfile)",
            "ruby.lock = Gemfile.lock (Gemfile.lock)",
            "ruby.platforms = ruby x86_64-linux (Gemfile.lock:13)",
            "ruby.requirement = ~> 3.3.0 (Gemfile:2)",
            "ruby.version = 3.3.8 (Gemfile.lock:17)",
        ]),
    );
}

#[test]
fn without_a_gemfile_or_a_lock() {
    check(&[(".ruby-version", "rubbish"), ("config.ru", ""), ("Gemfile.lock", "<<<<<<<")], Ok(&[]));
    check(
        &[("Gemfile", ""), ("config/application.rb", "class A < Rails::Application")],
        Ok(&[
            "ruby.allows.3.1.2 = yes (default)",
            "ruby.allows.3.3.8 = yes (default)",
            "ruby.inputs = Gemfile (Gemfile)",
        ]),
    );
    let lock = gems(&["rack"]);
    let application = "config/application.rb";
    let says = [("Gemfile", ""), ("Gemfile.lock", &lock), (application, "Rails::Application")];
    some(&says, &["rails.application", "rails.version"], "config/application.rb; -");
    let other = [("Gemfile", ""), ("Gemfile.lock", &lock), (application, "")];
    some(&other, &["rails.application"], "-");
}

#[test]
fn which_ruby() {
    let gemfile = |text| [("Gemfile", text)];
    some(&gemfile("ruby '3.3.8'"), &RUBY, "3.3.8; 3.3.8; yes; -");
    some(&gemfile("ruby '>= 3.1', '< 3.3'"), &RUBY, ">= 3.1, < 3.3; >= 3.1, < 3.3; -; yes");
    some(&gemfile("ruby '3.4.1'"), &RUBY, "3.4.1; 3.4.1; -; -");
    some(
        &gemfile("ruby '3.1', engine: 'jruby', engine_version: '9.4'"),
        &RUBY,
        "jruby-9.4; jruby-9.4; -; -",
    );
    some(&gemfile("ruby ENV['R']"), &RUBY, "-; -; yes; yes");
    some(&gemfile("if x\nruby '3.2'\nelse\nruby '3.3'\nend"), &RUBY, "-; -; yes; yes");
    let wish = |path, text| [("Gemfile", ""), (path, text)];
    some(&wish(".ruby-version", "3.4.1"), &RUBY, "3.4.1; -; yes; yes");
    some(&wish(".ruby-version", "jruby-9.4.5"), &RUBY, "jruby-9.4.5; -; -; -");
    some(&wish(".tool-versions", "ruby 3.2.1"), &RUBY, "3.2.1; -; yes; yes");
    some(&wish("mise.toml", "[tools]\nruby = '3.2'"), &RUBY, "3.2; -; yes; yes");
}

#[test]
fn the_lock_tells_and_the_gemfile_binds() {
    // As Bundler has it: only the Gemfile's line is compared with the Ruby that runs.
    let with = |gemfile| [("Gemfile", gemfile), ("Gemfile.lock", LOCKED)];
    some(&with(""), &RUBY, "3.3.8; -; yes; yes");
    some(&with("ruby '>= 3.1'"), &RUBY, "3.3.8; >= 3.1; yes; yes");
    some(&with("ruby ENV['R']"), &RUBY, "3.3.8; -; yes; yes");
    some(&with("ruby '3.1.2'"), &RUBY, "3.3.8; 3.1.2; -; yes");
}

#[test]
fn a_version_file_that_the_gemfile_reads_binds() {
    let read = |gemfile, path, text| [("Gemfile", gemfile), (path, text)];
    let file = "ruby file: '.ruby-version'";
    some(&read(file, ".ruby-version", "ruby-3.3.8"), &RUBY, "3.3.8; 3.3.8; yes; -");
    some(&read(file, ".ruby-version", "3.4.1"), &RUBY, "3.4.1; 3.4.1; -; -");
    let tools = "ruby file: '.tool-versions'";
    some(&read(tools, ".tool-versions", "ruby 3.1.2"), &RUBY, "3.1.2; 3.1.2; -; yes");
    let evaluated = "eval_gemfile 'gems/ruby.rb'";
    some(&read(evaluated, "gems/ruby.rb", "ruby '3.1.2'"), &RUBY, "3.1.2; 3.1.2; -; yes");
    check(
        &[("Gemfile", "\nruby file: '.ruby-version'")],
        Err("Gemfile:2: takes the Ruby version from `.ruby-version`, which is not there or names \
             none: commit the file, or write the version here"),
    );
    check(
        &[("Gemfile", ""), (".ruby-version", "\nx")],
        Err(".ruby-version:2: `x` is not a Ruby: write three numbers, such as `3.3.8`"),
    );
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
        ".ruby-version Gemfile Gemfile.lock blog.gemspec engines/shop/lib/shop.rb \
         engines/shop/shop.gemspec gems/again.rb gems/last.rb gems/more.rb local/a/a.rb",
    );
    some(&files, &["ruby.path", "ruby.git"], "engines/shop; https://git.example/own");
    let whole =
        [("Gemfile", "gemspec"), ("Gemfile.lock", "PATH\n  remote: .\n  specs:\n"), ("a/b", "")];
    some(&whole, &["ruby.inputs"], "Gemfile Gemfile.lock a/b");
}

#[test]
fn platforms() {
    let missing = |platforms: &str, expected| {
        let lock = format!("PLATFORMS\n{platforms}");
        some(&[("Gemfile", ""), ("Gemfile.lock", &lock)], &["ruby.platform.missing"], expected);
    };
    missing("  ruby\n  java\n", "-");
    missing("  x86_64-linux-gnu\n", "-");
    missing("", "-");
    let run = "only: run `bundle lock --add-platform x86_64-linux`";
    missing(
        "  arm64-darwin-23\n  x86_64-linux-musl\n",
        &format!("Gemfile.lock is for arm64-darwin-23, x86_64-linux-musl {run}"),
    );
}

#[test]
fn gems_of_rails() {
    let names = ["rails.assets", "rails.database", "rails.jobs", "rails.bootsnap"];
    let of = |locked: &[&str], expected| {
        some(&[("Gemfile", ""), ("Gemfile.lock", &gems(locked))], &names, expected);
    };
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

#[test]
fn variants_of_a_gem() {
    let lock = "GEM\n  specs:\n    a (2.0-x86_64-darwin)\n    a (1.0-x86_64-linux)\n    a (3.0)\n    b (1.0-java)\n    b (2.0)\n";
    some(&[("Gemfile", ""), ("Gemfile.lock", lock)], &["ruby.gem.a", "ruby.gem.b"], "1.0; 2.0");
    check(
        &[("Gemfile", ""), ("Gemfile.lock", "GEM\n<<<<<<< HEAD\n")],
        Err(
            "Gemfile.lock:2: a merge conflict: settle it, then run `bundle lock` and commit the result",
        ),
    );
}
