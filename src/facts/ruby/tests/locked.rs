//! The facts of a lock, over whole trees.

use super::{one, some};

#[test]
fn platforms() {
    let missing = |platforms: &str, expected: &str| {
        let lock = format!("PLATFORMS\n{platforms}");
        some(&[("Gemfile", ""), ("Gemfile.lock", &lock)], &["ruby.platform.missing"], expected);
    };
    missing("  ruby\n  java\n", "-");
    missing("  x86_64-linux-gnu\n", "-");
    missing("  ruby\n", "-");
    missing("  aarch64-linux\n  x86_64-linux\n", "-");
    missing("", "-");
    for other in [
        "aarch64-linux",
        "arm64-darwin-23",
        "java",
        "universal-java-17",
        "x64-mingw-ucrt",
        "x64-mingw32",
        "x86-linux",
        "x86_64-darwin-22",
        "x86_64-linux-musl",
    ] {
        missing(&format!("  {other}\n"), &format!("Gemfile.lock is for {other} only"));
    }
    missing(
        "  arm64-darwin-23\n  x86_64-linux-musl\n",
        "Gemfile.lock is for arm64-darwin-23, x86_64-linux-musl only",
    );
}

#[test]
fn variants_of_a_gem() {
    let lock = "GEM\n  specs:\n    a (2.0-x86_64-darwin)\n    a (1.0-x86_64-linux)\n    a (3.0)\n    b (1.0-java)\n    b (2.0)\n";
    some(&[("Gemfile", ""), ("Gemfile.lock", lock)], &["ruby.gem.a", "ruby.gem.b"], "1.0; 2.0");
    let names = ["ruby.precompiled.a", "ruby.precompiled.b"];
    some(&[("Gemfile", ""), ("Gemfile.lock", lock)], &names, "x86_64-linux; -");
    let musl = "GEM\n  specs:\n    a (1.0-x86_64-linux-musl)\n    b (1.0-x86_64-linux-gnu)\n";
    some(&[("Gemfile", ""), ("Gemfile.lock", musl)], &names, "-; x86_64-linux-gnu");
}

#[test]
fn what_a_gem_needs() {
    let lock = "GEM\n  specs:\n    a (1.0)\n      b (>= 1)\n      bundler (>= 2)\n    b (2.0)\n      c\n      gone\n    \
                c (3.0)\n      a\n    c (3.0-x86_64-linux)\n      d\n      a\n    d (4.0.pre)\n    e (5)\n      e\n    bundler (2.6.7)\n";
    let files = [("Gemfile", ""), ("Gemfile.lock", lock)];
    let needs = |name: &str, expected| some(&files, &[&format!("ruby.needs.{name}")], expected);
    needs("a", "b-2.0 c-3.0 d-4.0.pre");
    needs("b", "a-1.0 c-3.0 d-4.0.pre");
    needs("c", "a-1.0 b-2.0 d-4.0.pre");
    needs("d", "-");
    needs("e", "-");
    one(&files, "ruby.needs.a", "b-2.0 c-3.0 d-4.0.pre (Gemfile.lock:3)");
}

#[test]
fn checksums() {
    let front = "PATH\n  remote: own\n  specs:\n    own (1.0)\n\nGEM\n  specs:\n    a (1.0)\n    a (1.0-x86_64-linux)\n";
    let with = |sums: &str, expected| {
        let lock = format!("{front}{sums}");
        one(&[("Gemfile", ""), ("Gemfile.lock", &lock)], "ruby.checksums", expected);
    };
    with("", "-");
    with("\nCHECKSUMS\n  a (1.0)\n", "-");
    with(
        "\nCHECKSUMS\n  a (1.0) sha256=0\n  a (1.0-x86_64-linux) sha256=0\n",
        "all (Gemfile.lock:11)",
    );
    with("\nCHECKSUMS\n  a (1.0) sha256=0\n  a (1.0-x86_64-linux)\n", "some (Gemfile.lock:9)");
    with("\nCHECKSUMS\n  a (1.0-x86_64-linux) sha256=0\n", "some (Gemfile.lock:8)");
}

#[test]
fn folders_outside() {
    let lock = "PATH\n  remote: engines/in\n  specs:\n    in (1.0)\n\n\
                PATH\n  remote: ../out\n  specs:\n    out (1.0)\n";
    let with = |gemfile, lock: &str, expected| {
        one(&[("Gemfile", gemfile), ("Gemfile.lock", lock)], "ruby.path.outside", expected);
    };
    with("", lock, "../out (Gemfile.lock:7)");
    with("", &lock.replace("../out", "a/../../b"), "a/../../b (Gemfile.lock:7)");
    with("", &lock.replace("../out", "/srv/b"), "/srv/b (Gemfile.lock:7)");
    with("", &lock.replace("../out", "a/../b"), "-");
    // No gem of this platform: Bundler does not look.
    with("", "PATH\n  remote: ../out\n  specs:\n", "-");
    with("gem 'out', path: '../out', group: :test", lock, "-");
    with("group :development, :test do\n gem 'out', path: '../out'\nend", lock, "-");
    with("group :test, :ci do\n gem 'out', path: '../out'\nend", lock, "../out (Gemfile.lock:7)");
    let both = "gem 'out', path: '../out'\ngem 'out', path: '../out', group: :test";
    with(both, lock, "../out (Gemfile.lock:7)");
    with("gem 'out', path: '../out', group: :test if x", lock, "../out (Gemfile.lock:7)");
}

#[test]
fn stale() {
    let lock = "DEPENDENCIES\n  a (~> 1.0)\n  b!\n\nCHECKSUMS\n";
    let with = |gemfile, lock, expected| {
        one(&[("Gemfile", gemfile), ("Gemfile.lock", lock)], "ruby.stale", expected);
    };
    with("gem 'a', '~> 1.0'\ngem 'b', path: 'b'", lock, "-");
    with("gem 'a'\ngem 'b'\n\ngem 'c'", lock, "Gemfile has `c`, Gemfile.lock does not (Gemfile:4)");
    with("gem 'a'", lock, "Gemfile.lock has `b`, Gemfile does not (Gemfile.lock:3)");
    with("gem 'a'\ngem 'b'\ngem 'bundler'", lock, "-");
    with("gem 'a'\ngem 'b'\ngem 'c', platforms: :jruby", lock, "-");
    with("gem 'a'\ngem 'b', platforms: :jruby", lock, "-");
    with("gem 'c' if x", lock, "-");
    with("eval_gemfile 'x'", lock, "-");
    with("gem 'c'", "GEM\n  specs:\n", "-");
    with("gem 'c'", "DEPENDENCIES\n", "Gemfile has `c`, Gemfile.lock does not (Gemfile:1)");
}
