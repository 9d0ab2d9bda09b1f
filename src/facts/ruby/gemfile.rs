//! The Gemfile: what can be read from it without running it.
//!
//! It is Ruby, so this is a scanner of tokens and not a parser. It finds the
//! `ruby` line, the folders of gems, and every string that may name a file;
//! what is put together at run time is [`Asked::Unreadable`] and nothing is
//! concluded from it.

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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// An identifier, with its colon when it is a keyword: `gem`, `path:`.
    Word(String),
    /// A string in which nothing is replaced.
    Text(String),
    /// A string with `#{…}` in it.
    Replaced,
    Mark(char),
}

/// How deep strings within `#{…}` within strings are followed.
const DEEPEST: usize = 4;

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
    for (line, tokens) in statements(text, &mut gemfile.strings) {
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

/// The statements with their first lines; a statement goes on after a comma and
/// within brackets. All strings go to `strings`.
fn statements(text: &str, strings: &mut Vec<String>) -> Vec<(usize, Vec<Token>)> {
    let mut found: Vec<(usize, Vec<Token>)> = Vec::new();
    let mut open = 0_usize;
    let mut continued = false;
    let mut comment = false;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in (1..).zip(text.lines()) {
        if content.starts_with("__END__") {
            break;
        }
        let was_comment = comment;
        comment = (comment || content.starts_with("=begin")) && !content.starts_with("=end");
        if was_comment || comment {
            continue;
        }
        let tokens = tokens(content, 0, strings);
        if tokens.is_empty() {
            continue;
        }
        if begins_statement(&tokens) {
            (open, continued) = (0, false);
        }
        for token in &tokens {
            match token {
                Token::Mark('(' | '[' | '{') => open += 1,
                Token::Mark(')' | ']' | '}') => open = open.saturating_sub(1),
                _ => {}
            }
        }
        let goes_on = open > 0 || tokens.last() == Some(&Token::Mark(','));
        match found.last_mut() {
            Some((_, statement)) if continued => statement.extend(tokens),
            _ => found.push((line, tokens)),
        }
        continued = goes_on;
    }
    found
}

/// Whether a line cannot go on from the one before, whatever is still open
/// there: a block in braces, or a quote in a regular expression taken for a
/// string.
fn begins_statement(tokens: &[Token]) -> bool {
    const STATEMENTS: [&str; 6] = ["ruby", "gem", "source", "group", "path", "eval_gemfile"];
    match tokens {
        [Token::Word(word), Token::Text(_) | Token::Mark('('), ..] => {
            STATEMENTS.contains(&word.as_str())
        }
        _ => false,
    }
}

/// The tokens of one line, up to a comment.
fn tokens(content: &str, depth: usize, strings: &mut Vec<String>) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = content;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = match first {
            '#' => break,
            '"' | '\'' => {
                let (token, after) = string(after, first, depth, strings);
                found.push(token);
                after
            }
            _ if first == '_' || first.is_alphanumeric() => {
                let word = |c: char| !(c == '_' || c.is_alphanumeric());
                let end = rest.find(word).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                let (name, after) = keyword(word, after, found.last());
                if name.ends_with(':') && found.last() == Some(&Token::Mark(':')) {
                    found.pop();
                }
                found.push(Token::Word(name));
                after
            }
            _ => {
                if !first.is_whitespace() {
                    found.push(Token::Mark(first));
                }
                after
            }
        };
    }
    found
}

/// `path:` and `:path =>` are one keyword.
fn keyword<'a>(word: &str, after: &'a str, before: Option<&Token>) -> (String, &'a str) {
    if let Some(rest) = after.strip_prefix(':').filter(|rest| !rest.starts_with(':')) {
        return (format!("{word}:"), rest);
    }
    match after.trim_start().strip_prefix("=>") {
        Some(rest) if before == Some(&Token::Mark(':')) => (format!("{word}:"), rest),
        _ => (word.to_owned(), after),
    }
}

/// A string after its opening quote, and what follows it. One that does not end
/// on its line is taken to the end of the line.
fn string<'a>(
    content: &'a str,
    quote: char,
    depth: usize,
    strings: &mut Vec<String>,
) -> (Token, &'a str) {
    let mut text = String::new();
    let mut replaced = false;
    let mut rest = content;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            _ if first == quote => break,
            '\\' => {
                let escaped = rest.chars().next();
                text.extend(escaped);
                rest = &rest[escaped.map_or(0, char::len_utf8)..];
            }
            '#' if quote == '"' && rest.starts_with('{') => {
                replaced = true;
                let end = closing_brace(rest);
                if depth < DEEPEST {
                    tokens(&rest[1..end], depth + 1, strings);
                }
                // The rest of a path that begins with a folder is still a path.
                text.clear();
                rest = rest.get(end + 1..).unwrap_or_default();
            }
            _ => text.push(first),
        }
    }
    if replaced {
        strings.push(text.trim_start_matches('/').to_owned());
        return (Token::Replaced, rest);
    }
    strings.push(text.clone());
    (Token::Text(text), rest)
}

/// Where the brace that a text begins with is closed.
fn closing_brace(text: &str) -> usize {
    let mut open = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 1 => return at,
            '}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    text.len()
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
