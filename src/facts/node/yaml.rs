//! The few settings that facts need from `.yarnrc.yml`, `pnpm-workspace.yaml`
//! and lock files: a text or a list of texts under a key of the first level.
//!
//! No YAML parser: serde-saphyr was tried and left, since for three keys it adds
//! eight crates, a megabyte and eleven seconds to compile. What cannot be read
//! line by line (anchors, aliases, tags, blocks of text) is refused where one of
//! these keys has it, and passed over elsewhere.

use crate::facts::Refusal;

/// A text with its line, from 1.
pub type Line = (String, usize);

/// The text under a key.
///
/// # Errors
/// A value that is more than a text.
pub fn text(document: &str, key: &str) -> Result<Option<Line>, Refusal> {
    let Some((value, line, _)) = find(document, key) else { return Ok(None) };
    if value.is_empty() {
        return Ok(None);
    }
    scalar(value, line).map(|text| Some((text, line)))
}

/// The list under a key, as `- a` lines or as `[a, b]`; empty when absent.
///
/// # Errors
/// A value that is no list of texts.
pub fn list(document: &str, key: &str) -> Result<Vec<Line>, Refusal> {
    let Some((value, line, rest)) = find(document, key) else { return Ok(Vec::new()) };
    if let Some(start) = value.strip_prefix('[') {
        return flow(start, line, rest);
    }
    if !value.is_empty() {
        return Err(Refusal::at(line, format!("`{key}` is not a list: write each on a `- ` line")));
    }
    let mut found = Vec::new();
    for (line, content) in (line + 1..).zip(rest) {
        let bare = without_comment(content).trim();
        match bare.strip_prefix('-') {
            Some(item) if item.starts_with([' ', '\t']) => {
                found.push((scalar(item.trim(), line)?, line));
            }
            _ if bare.is_empty() => {}
            _ if content.starts_with([' ', '\t']) => {
                return Err(Refusal::at(line, format!("expected `- ` and an entry of `{key}`")));
            }
            _ => break,
        }
    }
    Ok(found)
}

/// What follows a key on its line, the line, and the lines after it.
fn find<'a>(
    document: &'a str,
    key: &str,
) -> Option<(&'a str, usize, impl Iterator<Item = &'a str>)> {
    let document = document.strip_prefix('\u{feff}').unwrap_or(document);
    let mut lines = document.lines();
    let mut number = 0;
    while let Some(content) = lines.next() {
        number += 1;
        let bare = content.trim_start_matches(['"', '\'']);
        let after = bare.strip_prefix(key).map(|rest| rest.trim_start_matches(['"', '\'']));
        if let Some(value) = after.and_then(|rest| rest.trim_start().strip_prefix(':'))
            && (value.is_empty() || value.starts_with([' ', '\t']))
        {
            return Some((without_comment(value).trim(), number, lines));
        }
    }
    None
}

/// The items of `[a, b]` after its bracket, which may go on over lines.
fn flow<'a>(
    start: &'a str,
    line: usize,
    rest: impl Iterator<Item = &'a str>,
) -> Result<Vec<Line>, Refusal> {
    let mut found = Vec::new();
    let first = std::iter::once(start);
    for (number, content) in (line..).zip(first.chain(rest.map(without_comment))) {
        let mut item = String::new();
        let mut quote = None;
        let mut closed = false;
        for letter in content.chars() {
            match (quote, letter) {
                (None, ',' | ']') => {
                    found.push((std::mem::take(&mut item), number));
                    closed = letter == ']';
                }
                (None, '"' | '\'') if item.trim().is_empty() => {
                    quote = Some(letter);
                    item.push(letter);
                }
                (Some(open), _) if letter == open => {
                    quote = None;
                    item.push(letter);
                }
                _ => item.push(letter),
            }
            if closed {
                break;
            }
        }
        found.push((item, number));
        if closed {
            let texts = found.iter().filter(|(item, _)| !item.trim().is_empty());
            return texts.map(|(item, line)| Ok((scalar(item.trim(), *line)?, *line))).collect();
        }
    }
    Err(Refusal::at(line, "the list is not closed: a `]` is missing"))
}

/// A text in double quotes, in single quotes or in none.
fn scalar(value: &str, line: usize) -> Result<String, Refusal> {
    let quoted = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(text) = quoted('\'') {
        return Ok(text.replace("''", "'"));
    }
    if let Some(text) = quoted('"').filter(|text| !text.contains('\\')) {
        return Ok(text.to_owned());
    }
    if value.is_empty() || value.starts_with(['"', '\'', '&', '*', '|', '>', '{', '[', '@', '`']) {
        return Err(Refusal::at(line, format!("not readable: write `{value}` in single quotes")));
    }
    Ok(value.to_owned())
}

/// The line up to a `#` that begins a comment.
fn without_comment(content: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, letter) in content.char_indices() {
        match (quote, letter) {
            (None, '#') if before.is_whitespace() => return &content[..at],
            (None, '"' | '\'') if !before.is_alphanumeric() => quote = Some(letter),
            (Some(open), _) if letter == open => quote = None,
            _ => {}
        }
        before = letter;
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn texts(document: &str, expected: Result<Option<(&str, usize)>, &str>) {
        let found = text(document, "yarnPath").map_err(|err| err.to_string());
        let expected = expected.map(|found| found.map(|(text, line)| (text.to_owned(), line)));
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn one_text() {
        texts("yarnPath: .yarn/releases/y.cjs\n", Ok(Some((".yarn/releases/y.cjs", 1))));
        texts("a: b\n\n\"yarnPath\" : \"x y\" # z\n", Ok(Some(("x y", 3))));
        texts("yarnPath: 'it''s#1'", Ok(Some(("it's#1", 1))));
        texts("\u{feff}yarnPath: x#y\r\n", Ok(Some(("x#y", 1))));
        texts("# yarnPath: x\nother:\n  yarnPath: x\nyarnPathOf: x\nyarnPath:x", Ok(None));
        texts("yarnPath:\n", Ok(None));
        texts("\nyarnPath: *a", Err("line 2: not readable: write `*a` in single quotes"));
    }

    #[track_caller]
    fn lists(document: &str, expected: Result<&[(&str, usize)], &str>) {
        let found = list(document, "packages").map_err(|err| err.to_string());
        let expected = expected.map(|found| {
            found.iter().map(|(text, line)| ((*text).to_owned(), *line)).collect::<Vec<_>>()
        });
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn several() {
        lists(
            "packages:\n  - a\n  # no\n\n  - \"b/*\" # c\n  - '!d'\nx: 1\n",
            Ok(&[("a", 2), ("b/*", 5), ("!d", 6)]),
        );
        lists("x: 1\npackages:\n- a\n- b\ny:\n- c\n", Ok(&[("a", 3), ("b", 4)]));
        lists("packages: [a, 'b,]', \"c\"]\n", Ok(&[("a", 1), ("b,]", 1), ("c", 1)]));
        lists("packages: [\n  a, # x\n  b,\n]\n", Ok(&[("a", 2), ("b", 3)]));
        lists("packages: []\n", Ok(&[]));
        lists("packages:\nx: 1\n", Ok(&[]));
        lists("x:\n  packages:\n  - a\n", Ok(&[]));
        lists("packages: [a", Err("line 1: the list is not closed: a `]` is missing"));
        lists("packages: a", Err("line 1: `packages` is not a list: write each on a `- ` line"));
        lists("packages:\n  a: b", Err("line 2: expected `- ` and an entry of `packages`"));
        lists("packages:\n  - *a", Err("line 2: not readable: write `*a` in single quotes"));
    }
}
