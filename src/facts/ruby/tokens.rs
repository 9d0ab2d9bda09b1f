//! The tokens of a Gemfile, statement by statement.
//!
//! Ruby cannot be split into tokens without being parsed. What goes wrong here
//! (regular expressions, heredocs) ends with the next line that begins a
//! statement of its own.

/// One piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// An identifier, with its colon when it is a keyword: `gem`, `path:`.
    Word(String),
    /// A string in which nothing is replaced.
    Text(String),
    /// A string with `#{…}` in it.
    Replaced,
    /// Any other character that is not a space.
    Mark(char),
}

/// How deep strings within `#{…}` within strings are followed.
const DEEPEST: usize = 4;

/// The statements with their first lines; a statement goes on after a comma and
/// within brackets. All strings go to `strings`.
pub fn statements(text: &str, strings: &mut Vec<String>) -> Vec<(usize, Vec<Token>)> {
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
