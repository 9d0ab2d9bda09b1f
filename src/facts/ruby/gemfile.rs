//! The Gemfile: what can be read from it without running it.
//!
//! It is Ruby, so what is read here are tokens and not a syntax tree: the
//! `ruby` line, the folders of gems, and every string that may name a file.
//! What is put together at run time is [`Asked::Unreadable`] and nothing is
//! concluded from it.

use super::declared::{Declared, declared};
use super::tokens::{Token, statements};
use super::version::{Release, Requirement};
use crate::facts::Refusal;

/// What a Gemfile says.
#[derive(Debug, Default)]
pub struct Gemfile {
    /// Its `ruby` lines, each with its line.
    pub ruby: Vec<(Asked, usize)>,
    /// Arguments of `eval_gemfile`.
    pub evaluated: Vec<String>,
    /// Folders of gems: `path: "…"`, `path "…" do`.
    pub paths: Vec<String>,
    /// Folders whose gemspec it takes: `gemspec`, `gemspec path: "…"`.
    pub gemspecs: Vec<String>,
    /// Every gem that it names; `None` when only Ruby can tell.
    pub declared: Option<Vec<Declared>>,
    /// Every string, since any may name a file that it reads.
    pub strings: Vec<String>,
}

/// What a `ruby` line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Constraints.
    Requirement(Requirement),
    /// The version that a file names.
    File(String),
    /// Another engine than CRuby.
    Engine(Release),
    /// Something that only Ruby can tell.
    Unreadable,
}

/// What may surround the name of a file that a `ruby` line reads, without
/// changing which version it names.
const READING: [&str; 17] = [
    "Bundler",
    "File",
    "IO",
    "Pathname",
    "__FILE__",
    "__dir__",
    "chomp",
    "delete_prefix",
    "dirname",
    "expand_path",
    "file:",
    "join",
    "new",
    "read",
    "root",
    "strip",
    "sub",
];

/// Scans a Gemfile.
///
/// # Errors
/// A `ruby` line whose version is not one.
pub fn parse(text: &str) -> Result<Gemfile, Refusal> {
    let mut gemfile = Gemfile::default();
    let statements = statements(text, &mut gemfile.strings);
    gemfile.declared = declared(&statements);
    for (line, tokens) in statements {
        gemfile.places(&tokens);
        if matches!(tokens.first(), Some(Token::Word(word)) if word == "ruby") {
            let asked = asked(&tokens[1..]).map_err(|message| Refusal::at(line, message))?;
            gemfile.ruby.extend(asked.map(|asked| (asked, line)));
        }
    }
    Ok(gemfile)
}

impl Gemfile {
    fn places(&mut self, tokens: &[Token]) {
        let keyed = text_of(tokens, "path:");
        let Some(Token::Word(first)) = tokens.first() else { return };
        match first.as_str() {
            "gemspec" => self.gemspecs.push(keyed.unwrap_or(".").to_owned()),
            "eval_gemfile" => self.evaluated.extend(first_text(tokens).map(str::to_owned)),
            "path" => self.paths.extend(first_text(tokens).map(str::to_owned)),
            _ => self.paths.extend(keyed.map(str::to_owned)),
        }
    }
}

fn first_text(tokens: &[Token]) -> Option<&str> {
    tokens.iter().find_map(|token| match token {
        Token::Text(text) => Some(text.as_str()),
        _ => None,
    })
}

/// The first string after a keyword and before the next.
fn text_of<'a>(tokens: &'a [Token], keyword: &str) -> Option<&'a str> {
    let is = |token: &Token| matches!(token, Token::Word(word) if word == keyword);
    let rest = &tokens[tokens.iter().position(is)? + 1..];
    let end =
        rest.iter().position(|token| matches!(token, Token::Word(word) if word.ends_with(':')));
    first_text(&rest[..end.unwrap_or(rest.len())])
}

/// What the arguments of `ruby` ask for; `None` when it is no call.
fn asked(arguments: &[Token]) -> Result<Option<Asked>, String> {
    // `ruby = "3.3"` and `ruby.x` are not about the version.
    if matches!(arguments.first(), None | Some(Token::Mark('=' | '.'))) {
        return Ok(None);
    }
    if let Some(engine) = text_of(arguments, "engine:").filter(|engine| *engine != "ruby") {
        let version = text_of(arguments, "engine_version:").unwrap_or("any");
        return Ok(Some(Asked::Engine(Release::of_engine(engine, version))));
    }
    let mut constraints = Vec::new();
    let mut reading = false;
    let mut keyword = false;
    for token in arguments {
        match token {
            // The engine is CRuby, and patch levels are not compared.
            Token::Word(word) if word == "engine:" || word == "patchlevel:" => keyword = true,
            Token::Word(word) if word == "engine_version:" => keyword = true,
            Token::Word(word) if READING.contains(&word.as_str()) => reading = true,
            Token::Text(_) if keyword => {}
            Token::Text(text) => constraints.push(text.clone()),
            Token::Mark(',' | '(' | ')' | '.' | ':') => {}
            Token::Mark('[' | ']') if !reading => {}
            _ => return Ok(Some(Asked::Unreadable)),
        }
    }
    Ok(Some(match constraints.first() {
        None => Asked::Unreadable,
        Some(path) if reading => {
            // `File.expand_path("../x", __FILE__)` is x beside the Gemfile.
            let file = Token::Word("__FILE__".to_owned());
            let beside = path.strip_prefix("../").filter(|_| arguments.contains(&file));
            Asked::File(beside.unwrap_or(path).to_owned())
        }
        Some(_) => Asked::Requirement(Requirement::new(&constraints)?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ruby(text: &str, expected: Result<&str, &str>) {
        let found = parse(text).map(|gemfile| {
            let shown = |(asked, line): &(Asked, usize)| match asked {
                Asked::Requirement(requirement) => format!("{line}: {}", requirement.text),
                Asked::File(path) => format!("{line}: file {path}"),
                Asked::Engine(release) => format!("{line}: engine {}", release.text),
                Asked::Unreadable => format!("{line}: ?"),
            };
            gemfile.ruby.iter().map(shown).collect::<Vec<_>>().join("; ")
        });
        assert_eq!(
            found.map_err(|err| err.to_string()),
            expected.map(str::to_owned).map_err(str::to_owned)
        );
    }

    #[test]
    fn stated() {
        ruby("ruby \"3.3.8\"\n", Ok("1: 3.3.8"));
        ruby("source 'x'\n\nruby '~> 3.3.0' # why\n", Ok("3: ~> 3.3.0"));
        ruby("ruby \">= 3.1\", \"< 3.4\"", Ok("1: >= 3.1, < 3.4"));
        ruby("ruby '>= 3.1',\n  '< 3.4'\n", Ok("1: >= 3.1, < 3.4"));
        ruby("ruby([\n'>= 3.1',\n\n# x\n '< 3.4'])\n", Ok("1: >= 3.1, < 3.4"));
        ruby("ruby '3.3.0', patchlevel: '1'", Ok("1: 3.3.0"));
        ruby("ruby '3.3.0', :engine => 'ruby', :engine_version => '3.3.0'", Ok("1: 3.3.0"));
        ruby("ruby '3.1', engine: 'jruby', engine_version: '9.4'", Ok("1: engine jruby-9.4"));
        ruby("if x\n ruby '3.2'\nelse\n ruby '3.3'\nend", Ok("2: 3.2; 4: 3.3"));
    }

    #[test]
    fn read_from_a_file() {
        ruby("ruby file: \".ruby-version\"", Ok("1: file .ruby-version"));
        ruby("ruby(:file => '.tool-versions')", Ok("1: file .tool-versions"));
        ruby("ruby File.read('.ruby-version').strip", Ok("1: file .ruby-version"));
        ruby(
            "ruby File.read(\".ruby-version\").chomp.sub('ruby-', '')",
            Ok("1: file .ruby-version"),
        );
        ruby("ruby File.read(File.join(__dir__, '.ruby-version'))", Ok("1: file .ruby-version"));
        ruby(
            "ruby File.read(File.expand_path('../.ruby-version', __FILE__))",
            Ok("1: file .ruby-version"),
        );
    }

    #[test]
    fn not_readable() {
        ruby("ruby ENV['R'] || '3.3.8'", Ok("1: ?"));
        ruby("ruby \"~> #{File.read('.ruby-version')}\"", Ok("1: ?"));
        ruby("ruby '3.3.8' if ENV['CI']", Ok("1: ?"));
        ruby("ruby File.read('.ruby-version')[/x/]", Ok("1: ?"));
        ruby("ruby = 3", Ok(""));
        ruby("gem 'a', platforms: %w[\n ruby mswin\n]\nruby '3.3'", Ok("4: 3.3"));
        ruby("x(/'/)\nruby '3.3'", Ok("2: 3.3"));
        ruby("group(:a) {\n gem 'b'\n}\nruby '3.3'", Ok("4: 3.3"));
        ruby("# ruby '3'\n=begin\nruby '3'\n=end\n__END__\nruby '3'", Ok(""));
        ruby("gem 'ruby', 'x'", Ok(""));
        ruby(
            "\nruby 'banana'",
            Err("line 2: `banana` is not a requirement: write a version, such as `~> 3.3.0`"),
        );
    }

    #[track_caller]
    fn places(text: &str, expected: (&[&str], &[&str], &[&str])) {
        let found = parse(text).expect("a Gemfile");
        let (evaluated, paths, gemspecs) = expected;
        assert_eq!(found.evaluated, evaluated);
        assert_eq!(found.paths, paths);
        assert_eq!(found.gemspecs, gemspecs);
    }

    #[test]
    fn files() {
        places("eval_gemfile 'Gemfile.local'", (&["Gemfile.local"], &[], &[]));
        places("gem 'a', path: 'engines/a', require: 'b'", (&[], &["engines/a"], &[]));
        places("gem 'a',\n  :path => 'engines/a'", (&[], &["engines/a"], &[]));
        places("path 'engines' do\n  gem 'a'\nend", (&[], &["engines"], &[]));
        places("gemspec\ngemspec path: 'core'", (&[], &[], &[".", "core"]));
        places("gem 'a', git: 'x', glob: 'path'", (&[], &[], &[]));
        let strings = parse("x(\"#{__dir__}/a.rb\", \"#{f('b')}\")").map(|g| g.strings);
        assert_eq!(strings, Ok(["a.rb", "b", ""].map(str::to_owned).into()));
    }
}
