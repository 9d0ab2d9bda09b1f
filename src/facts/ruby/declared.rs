//! The gems that a Gemfile names, where it is plain enough to be sure.
//!
//! Plain is a Gemfile of `source`, `ruby`, `gem`, `group` and the like, in
//! which nothing is decided when it runs: no condition, no loop, no variable,
//! no other file. Of any other the answer is `None`, since a wrong list would
//! refuse an application that can be built.

use super::tokens::Token;

/// A gem that a Gemfile names.
#[derive(Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// The line.
    pub line: usize,
    /// Its groups; empty for the default one.
    pub groups: Vec<String>,
    /// Whether it is for every platform and never left out.
    pub always: bool,
}

/// Statements of a plain Gemfile besides `gem` and `end`.
const PLAIN: [&str; 7] = ["git", "git_source", "github", "group", "path", "ruby", "source"];

/// Words that make of a statement more than it begins as. A `gem` in the middle
/// of one stands in a block on one line.
const DECIDING: [&str; 9] =
    ["and", "each", "gem", "if", "or", "rescue", "unless", "until", "while"];

/// Options that may leave a gem out.
const NARROWING: [&str; 4] = ["env:", "install_if:", "platform:", "platforms:"];

/// Every gem, in order; `None` when only Ruby can tell.
pub fn declared(statements: &[(usize, Vec<Token>)]) -> Option<Vec<Declared>> {
    let mut found = Vec::new();
    let mut blocks: Vec<Vec<String>> = Vec::new();
    for (line, tokens) in statements {
        let [Token::Word(first), rest @ ..] = tokens.as_slice() else { return None };
        let decides = |token: &Token| match token {
            Token::Word(word) => DECIDING.contains(&word.as_str()),
            token => *token == Token::Mark(';'),
        };
        if rest.iter().any(decides) {
            return None;
        }
        let block = rest.contains(&Token::Word("do".to_owned()));
        match first.as_str() {
            "gem" if !block => {
                let mut groups: Vec<String> = blocks.iter().flatten().cloned().collect();
                groups.extend(["group:", "groups:"].iter().flat_map(|key| names(rest, Some(key))));
                let narrowing = |token: &Token| matches!(token, Token::Word(word) if NARROWING.contains(&word.as_str()));
                let always = !rest.iter().any(narrowing);
                found.push(Declared { name: name(rest)?, line: *line, groups, always });
            }
            "end" if rest.is_empty() => drop(blocks.pop()?),
            "group" if block => blocks.push(names(rest, None)),
            word if PLAIN.contains(&word) => {
                if block {
                    blocks.push(Vec::new());
                }
            }
            _ => return None,
        }
    }
    blocks.is_empty().then_some(found)
}

/// The name of a gem: a string of its own, the first argument.
fn name(arguments: &[Token]) -> Option<String> {
    let arguments = match arguments {
        [Token::Mark('('), rest @ ..] => rest,
        all => all,
    };
    match arguments {
        [Token::Text(name)] | [Token::Text(name), Token::Mark(',' | ')'), ..] => Some(name.clone()),
        _ => None,
    }
}

/// The symbols and strings behind a keyword, or behind none, up to the next.
fn names(arguments: &[Token], keyword: Option<&str>) -> Vec<String> {
    let is = |token: &Token| matches!(token, Token::Word(word) if Some(word.as_str()) == keyword);
    let start = match keyword {
        None => 0,
        Some(_) => match arguments.iter().position(is) {
            Some(at) => at + 1,
            None => return Vec::new(),
        },
    };
    let mut found = Vec::new();
    for (at, token) in arguments.iter().enumerate().skip(start) {
        match token {
            Token::Word(word) if word.ends_with(':') || word == "do" => break,
            // `%i[development test]`
            Token::Word(_) if at > 0 && arguments[at - 1] == Token::Mark('%') => {}
            Token::Word(name) | Token::Text(name) => found.push(name.clone()),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::ruby::tokens::statements;

    /// Each gem as `line: name`, with its groups, and `?` when it may be left out.
    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let found = declared(&statements(text, &mut Vec::new())).map(|gems| {
            let shown = |gem: &Declared| {
                let groups: String = gem.groups.iter().map(|group| format!(" {group}")).collect();
                let left_out = if gem.always { "" } else { "?" };
                format!("{}: {}{left_out}{groups}", gem.line, gem.name)
            };
            gems.iter().map(shown).collect::<Vec<_>>().join("; ")
        });
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn plain() {
        check("", Some(""));
        check("source 'x'\nruby '3.3'\ngem 'a' # if\ngem(\"b\", '~> 1')\n", Some("3: a; 4: b"));
        check("git_source(:github) { |r| \"https://git.example/#{r}\" }\ngem 'a'", Some("2: a"));
        check("gem 'a',\n  '~> 1',\n  require: false\ngem 'b'", Some("1: a; 4: b"));
        check("source 'x' do\n  gem 'a'\nend\npath 'b' do\n gem 'b'\nend", Some("2: a; 5: b"));
        check("gem 'a', platforms: %i[ windows jruby ]", Some("1: a?"));
        check("gem 'a', :install_if => -> { true }", Some("1: a?"));
    }

    #[test]
    fn groups() {
        check("group :development, :test do\n gem 'a'\nend\ngem 'b'", {
            Some("2: a development test; 4: b")
        });
        check("group(:test, optional: true) do\n gem 'a'\nend", Some("2: a test"));
        check("group :test do\n group 'x' do\n  gem 'a'\n end\nend", Some("3: a test x"));
        check("gem 'a', group: :test, require: false", Some("1: a test"));
        check("gem 'a', :groups => [:test, 'b']", Some("1: a test b"));
        check("gem 'a', group: %i[development test]", Some("1: a development test"));
    }

    #[test]
    fn only_ruby_can_tell() {
        for text in [
            "gem 'a' if x",
            "if x\n gem 'a'\nend",
            "gem 'a' unless ENV['B']",
            "x and gem 'a'",
            "gem name",
            "gem 'a' + x",
            "gem \"a#{x}\"",
            "gem %q(a)",
            "gem 'a'; gem 'b'",
            "%w[a b].each { |name| gem name }",
            "%w[a b].each do |name|\n gem name\nend",
            "group(:test) { gem 'a' }",
            "group(:test) {\n gem 'a'\n}",
            "eval_gemfile 'b'",
            "gemspec",
            "platforms :jruby do\n gem 'a'\nend",
            "install_if -> { true } do\n gem 'a'\nend",
            "env 'A' do\n gem 'a'\nend",
            "require 'x'",
            "x = '1'\ngem 'a', x",
            "instance_eval(File.read('x'))",
            "plugin 'x'",
            "gem 'a' \\\n  if x",
            "group :test do\n gem 'a'",
            "end",
        ] {
            check(text, None);
        }
    }
}
