//! Which Ruby, over whole trees.

use super::{gems, one, some};

const RUBY: [&str; 4] =
    ["ruby.version", "ruby.requirement", "ruby.allows.3.3.8", "ruby.allows.3.1.2"];

const LOCKED: &str = "RUBY VERSION\n   ruby 3.3.8p144\n";

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
    one(
        &[("Gemfile", "\nruby file: '.ruby-version'")],
        "ruby.broken",
        "takes the Ruby version from `.ruby-version`, which is not there or names none: commit \
         the file, or write the version here (Gemfile:2)",
    );
    one(
        &[("Gemfile", ""), (".ruby-version", "\nx")],
        "ruby.broken",
        "`x` is not a Ruby: write three numbers, such as `3.3.8` (.ruby-version:2)",
    );
}

/// A lock of Rails of this version, and of the Ruby.
fn rails(version: &str, ruby: &str) -> String {
    let ruby = match ruby {
        "" => String::new(),
        ruby => format!("\nRUBY VERSION\n   ruby {ruby}\n"),
    };
    gems(&["railties"]).replace("1.0", version) + &ruby
}

#[test]
fn what_the_application_is_used_to() {
    let with = |gemfile, ruby, expected| {
        let lock = rails("7.2.2", ruby);
        some(&[("Gemfile", gemfile), ("Gemfile.lock", &lock)], &RUBY[2..], expected);
    };
    with("", "3.1.4p223", "-; yes");
    with("ruby '>= 3.0'", "3.1.4p223", "-; yes");
    with("ruby '~> 3.3.0'", "3.1.4p223", "yes; -");
    with("", "3.2.1", "yes; yes");
    with("", "", "yes; yes");
    let wish = |text, expected| {
        some(&[("Gemfile", ""), (".ruby-version", text)], &RUBY[2..], expected);
    };
    wish("2.7.8", "-; yes");
    wish("3.1", "-; yes");
    wish("3.3.1", "yes; yes");
}

#[test]
fn what_its_rails_was_made_for() {
    let with = |version, gemfile, expected| {
        let lock = rails(version, "");
        some(&[("Gemfile", gemfile), ("Gemfile.lock", &lock)], &RUBY[2..], expected);
    };
    with("8.0.0.beta1", "", "yes; -");
    with("8.0.1", "ruby '3.1.2'", "-; -");
    with("7.2.2", "", "yes; yes");
    with("7.1.0.rc1", "", "yes; yes");
    with("7.0.8", "", "-; yes");
    with("7.0.8", "ruby '>= 2.7'", "-; yes");
    with("7.0.8", "ruby '>= 3.2'", "yes; -");
    with("6.1.7.10", "", "-; yes");
    let files = |lock| [("Gemfile", ""), ("Gemfile.lock", lock)];
    one(&files(&rails("7.0.8", "")), "ruby.allows.3.1.2", "yes (Gemfile.lock:4)");
}

#[test]
fn a_rails_that_is_too_old() {
    let with = |version, gemfile, ruby, expected: &str| {
        let lock = rails(version, ruby);
        one(&[("Gemfile", gemfile), ("Gemfile.lock", &lock)], "ruby.unsupported", expected);
    };
    let old = |version: &str, last| {
        format!(
            "Rails {version} runs on Ruby {last} or older, and forge has 3.3.8 and 3.1.2 (Gemfile.lock:4)"
        )
    };
    with("6.1.0", "", "", "-");
    with("6.0.6", "", "", &old("6.0.6", "3.0"));
    with("6.0.6", "ruby '>= 2.5'", "", &old("6.0.6", "3.0"));
    with("6.0.6", "ruby '< 3.2'", "", &old("6.0.6", "3.0"));
    with("5.2.8", "", "2.7.8", &old("5.2.8", "2.7"));
    // Whoever says 3.1 runs it there, with the gems that this takes.
    with("6.0.6", "ruby '~> 3.1.0'", "", "-");
    with("6.0.6", "", "3.1.2", "-");
}

#[test]
fn contradictions() {
    let with = |gemfile, ruby: &str, others: &[(&str, &str)], expected: &str| {
        let lock = rails("7.2.2", ruby);
        let mut files = vec![("Gemfile", gemfile), ("Gemfile.lock", lock.as_str())];
        files.extend(others);
        one(&files, "ruby.version.conflict", expected);
    };
    with("", "", &[], "-");
    with(
        "ruby '3.1.2'",
        "3.3.8p144",
        &[],
        "Gemfile:1 asks for Ruby 3.1.2, Gemfile.lock:7 for 3.3.8 (Gemfile:1)",
    );
    with("ruby '~> 3.3.0'", "3.3.8", &[(".ruby-version", "ruby-3.3.8")], "-");
    with("ruby '~> 3.3.0'", "", &[(".ruby-version", "3.3.1")], "-");
    with(
        "ruby '~> 3.3.0'",
        "",
        &[(".tool-versions", "ruby 3.2.1")],
        ".tool-versions:1 asks for Ruby 3.2.1, Gemfile:1 for ~> 3.3.0 (.tool-versions:1)",
    );
    with("ruby '~> 3.3.1'", "", &[(".ruby-version", "3.3")], "-");
    with("", "3.3.8", &[("mise.toml", "[tools]\nruby = '3.3'")], "-");
    with(
        "",
        "",
        &[(".ruby-version", "3.3.8"), ("mise.toml", "[tools]\nruby = '3.4'")],
        "mise.toml:2 asks for Ruby 3.4, .ruby-version:1 for 3.3.8 (mise.toml:2)",
    );
    with(
        "ruby file: '.ruby-version'",
        "3.3.8",
        &[(".ruby-version", "3.3.1")],
        ".ruby-version:1 asks for Ruby 3.3.1, Gemfile.lock:7 for 3.3.8 (.ruby-version:1)",
    );
    // What decides nothing need not be readable.
    let rubbish = [("Gemfile", "ruby '3.3.8'"), (".ruby-version", "rubbish")];
    some(&rubbish, &["ruby.broken", "ruby.version", "ruby.version.conflict"], "-; 3.3.8; -");
}
