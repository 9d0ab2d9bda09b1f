//! The parser of Gemfile.lock over texts.

use super::*;

const LOCK: &str = "\
GIT
  remote: https://git.example/own.git
  revision: 0a1b
  branch: main
  specs:
    own (0.1.0)
      rack (>= 2, != 2.1)

PATH
  remote: engines/shop
  specs:
    shop (1.0.0.beta2)

PLUGIN SOURCE
  remote: https://plugin.example
  type: s3
  specs:

GEM
  remote: https://gems.example/
  remote: https://more.gems.example/
  specs:
    nokogiri (1.18.2)
      racc (~> 1.4)
    nokogiri (1.18.2-x86_64-linux-gnu)
      racc
    rack (3.1.0)

PLATFORMS
  arm64-darwin-23
  ruby
  x86_64-linux

DEPENDENCIES
  nokogiri
  own!
  shop (>= 1)!

NEW THING
    whatever: [

CHECKSUMS
  nokogiri (1.18.2-x86_64-linux-gnu) sha256=00
  rack (3.1.0)

RUBY VERSION
   ruby 3.3.8p144

BUNDLED WITH
   2.6.7
";

#[track_caller]
fn check(text: &str, expected: Result<&[&str], &str>) {
    let found = parse(text).map(|lock| {
        let gem = |gem: &Gem| {
            let platform = gem.platform.as_deref().unwrap_or("ruby");
            let needs: String = gem.needs.iter().map(|name| format!(" {name}")).collect();
            let source = gem.source;
            format!("{}: {} {} {platform} {source}{needs}", gem.line, gem.name, gem.version)
        };
        let remotes = |source: &Source| {
            let texts: Vec<&str> = source.remotes.iter().map(|(text, _)| text.as_str()).collect();
            format!("{:?} {}", source.kind, texts.join(" "))
        };
        let mut found: Vec<String> = lock.sources.iter().map(remotes).collect();
        found.extend(lock.gems.iter().map(gem));
        found.extend(lock.platforms.iter().map(|(text, line)| format!("{line}: {text}")));
        let dependencies = lock.dependencies.iter().flatten();
        found.extend(dependencies.map(|(name, line)| format!("{line}: needs {name}")));
        if let Some(sums) = &lock.checksums {
            found.push(format!("{}: sums", sums.line));
            found.extend(sums.gems.iter().map(|(name, variant)| format!("{name} {variant}")));
        }
        found.extend(lock.ruby.iter().map(|(ruby, line)| format!("{line}: {}", ruby.text)));
        found.extend(lock.bundler.iter().map(|(text, line)| format!("{line}: {text}")));
        found
    });
    let expected = expected.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect());
    assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
}

#[test]
fn whole() {
    let expected = [
        "Git https://git.example/own.git",
        "Path engines/shop",
        "Plugin https://plugin.example",
        "Gem https://gems.example/ https://more.gems.example/",
        "6: own 0.1.0 ruby 0 rack",
        "12: shop 1.0.0.beta2 ruby 1",
        "23: nokogiri 1.18.2 ruby 3 racc",
        "25: nokogiri 1.18.2 x86_64-linux-gnu 3 racc",
        "27: rack 3.1.0 ruby 3",
        "30: arm64-darwin-23",
        "31: ruby",
        "32: x86_64-linux",
        "35: needs nokogiri",
        "36: needs own",
        "37: needs shop",
        "42: sums",
        "nokogiri 1.18.2-x86_64-linux-gnu",
        "47: 3.3.8",
        "50: 2.6.7",
    ];
    check(LOCK, Ok(&expected));
    check(&LOCK.replace('\n', "\r\n"), Ok(&expected));
    check("", Ok(&[]));
}

#[test]
fn rubies() {
    check("RUBY VERSION\n   ruby 3.5.0.preview1\n", Ok(&["2: 3.5.0.preview1"]));
    check("RUBY VERSION\n  ruby 3.1.4p0 (jruby 9.4.5.0)\n", Ok(&["2: jruby-9.4.5.0"]));
    check("BUNDLED WITH\n  4.0.0.beta2\n", Ok(&["2: 4.0.0.beta2"]));
}

#[test]
fn broken() {
    let conflict = "a merge conflict: settle it, then run `bundle lock` and commit the result";
    check("GEM\n  specs:\n<<<<<<< HEAD\n    rack (1)\n", Err(&format!("line 3: {conflict}")));
    check("GEM\n=======\n", Err(&format!("line 2: {conflict}")));
    let not = "is not understood: run `bundle lock` again";
    check("GEM\n  specs:\n    rack\n", Err(&format!("line 3: `rack` {not}")));
    check("GEM\n  specs:\n    rack (x)\n", Err(&format!("line 3: `rack (x)` {not}")));
    check("GEM\n  specs:\n   rack (1)\n", Err(&format!("line 3: `rack (1)` {not}")));
    check("GEM\n  specs:\n    ra/ck (1)\n", Err(&format!("line 3: `ra/ck (1)` {not}")));
    check("DEPENDENCIES\n  rack (1\n", Err(&format!("line 2: `rack (1` {not}")));
    check("CHECKSUMS\n  rack sha\n", Err(&format!("line 2: `rack sha` {not}")));
    check("BUNDLED WITH\n   x\n", Err(&format!("line 2: `x` {not}")));
    check("RUBY VERSION\n   3.3.8\n", Err(&format!("line 2: `3.3.8` {not}")));
    check(
        "RUBY VERSION\n   ruby x\n",
        Err("line 2: `x` is not a Ruby: write three numbers, such as `3.3.8`"),
    );
}
