//! A strict reader for the part of TOML that a process table is written in.
//!
//! Read: comments, `[table]`, `[[array of tables]]`, nested ones, bare and
//! quoted keys, the four kinds of strings, integers, booleans, lists over
//! several lines. Refused, with the line: everything else, be it wrong or only
//! never written by forge (floats, dates, inline tables, dotted keys).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::fmt;

/// Lists in lists and tables in tables beyond this are refused, so that no file
/// can use up the stack; a process table needs two levels.
const DEEPEST: usize = 16;

/// A table: its keys, each with the line where it stands.
#[derive(Debug, Default)]
pub struct Section {
    /// What stands in it.
    pub entries: BTreeMap<String, Entry>,
    /// Whether its own `[header]` was read; a second one is an error.
    opened: bool,
}

/// A value and the line of its key.
#[derive(Debug)]
pub struct Entry {
    /// Counted from 1.
    pub line: usize,
    /// What stands there.
    pub value: Value,
}

/// What can stand behind a key.
#[derive(Debug)]
pub enum Value {
    /// Any of the four kinds of strings.
    Text(String),
    /// An integer.
    Integer(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// `[a, b]`.
    List(Vec<Value>),
    /// `[name]`.
    Table(Section),
    /// `[[name]]`; never empty.
    Tables(Vec<Section>),
}

/// Why the text is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Counted from 1.
    pub line: usize,
    /// A sentence without dot.
    pub reason: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {}", self.line, self.reason)
    }
}

/// Reads a whole file.
pub fn parse(text: &str) -> Result<Section, Malformed> {
    let mut reader = Reader { rest: text, line: 1 };
    let mut root = Section::default();
    let mut header: Vec<String> = Vec::new();
    loop {
        reader.skip_empty()?;
        let line = reader.line;
        if reader.rest.is_empty() {
            return Ok(root);
        } else if reader.eat("[[") {
            header = reader.header("]]")?;
            add(&mut root, &header, line)?;
        } else if reader.eat("[") {
            header = reader.header("]")?;
            open(&mut root, &header, line)?;
        } else {
            let key = reader.key()?;
            reader.skip_blanks();
            if reader.rest.starts_with('.') {
                return Err(reader.wrong("dotted keys are not read here; use a [table]"));
            }
            reader.expect("=")?;
            let value = reader.value(0)?;
            reader.end_of_line()?;
            match inside(&mut root, &header, line)?.entries.entry(key) {
                Place::Occupied(there) => {
                    return Err(again(there.key(), there.get().line, line));
                }
                Place::Vacant(free) => free.insert(Entry { line, value }),
            };
        }
    }
}

/// The table under `path`; the last one where it names an array of tables.
fn inside<'t>(
    mut section: &'t mut Section,
    path: &[String],
    line: usize,
) -> Result<&'t mut Section, Malformed> {
    for name in path {
        let fresh = || Entry { line, value: Value::Table(Section::default()) };
        let entry = section.entries.entry(name.clone()).or_insert_with(fresh);
        section = match &mut entry.value {
            Value::Table(section) => section,
            Value::Tables(list) if !list.is_empty() => {
                let last = list.len() - 1;
                &mut list[last]
            }
            _ => return Err(again(name, entry.line, line)),
        };
    }
    Ok(section)
}

/// `[path]`: a table, once.
fn open(root: &mut Section, path: &[String], line: usize) -> Result<(), Malformed> {
    let Some((name, parents)) = path.split_last() else { return Ok(()) };
    let parent = inside(root, parents, line)?;
    let earlier = parent.entries.get(name).map(|entry| (entry.line, &entry.value));
    if let Some((earlier, Value::Tables(_))) = earlier {
        return Err(again(name, earlier, line));
    }
    let earlier = earlier.map_or(line, |(earlier, _)| earlier);
    let section = inside(parent, std::slice::from_ref(name), line)?;
    if section.opened {
        return Err(again(name, earlier, line));
    }
    section.opened = true;
    Ok(())
}

/// `[[path]]`: one more table.
fn add(root: &mut Section, path: &[String], line: usize) -> Result<(), Malformed> {
    let Some((name, parents)) = path.split_last() else { return Ok(()) };
    let section = Section { opened: true, ..Section::default() };
    match inside(root, parents, line)?.entries.entry(name.clone()) {
        Place::Vacant(free) => {
            free.insert(Entry { line, value: Value::Tables(vec![section]) });
        }
        Place::Occupied(mut there) => match &mut there.get_mut().value {
            Value::Tables(list) => list.push(section),
            _ => return Err(again(name, there.get().line, line)),
        },
    }
    Ok(())
}

fn again(name: &str, earlier: usize, line: usize) -> Malformed {
    Malformed { line, reason: format!("`{name}` was already set on line {earlier}") }
}

/// What is not yet read, and the line it begins on.
struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    fn wrong(&self, reason: impl Into<String>) -> Malformed {
        Malformed { line: self.line, reason: reason.into() }
    }

    fn eat(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word) {
            Some(rest) => self.rest = rest,
            None => return false,
        }
        self.line += word.matches('\n').count();
        true
    }

    fn newline(&mut self) -> bool {
        self.eat("\n") || self.eat("\r\n")
    }

    fn expect(&mut self, word: &str) -> Result<(), Malformed> {
        self.skip_blanks();
        if self.eat(word) { Ok(()) } else { Err(self.wrong(format!("expected `{word}`"))) }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn skip_comment(&mut self) -> Result<(), Malformed> {
        if self.rest.starts_with('#') {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            let (comment, _) = self.rest.split_at(end);
            let comment = comment.strip_suffix('\r').unwrap_or(comment);
            if comment.chars().any(|c| c.is_ascii_control() && c != '\t') {
                return Err(self.wrong("a comment holds a control character"));
            }
            self.rest = &self.rest[comment.len()..];
        }
        Ok(())
    }

    /// Skips blanks, comments and line ends.
    fn skip_empty(&mut self) -> Result<(), Malformed> {
        loop {
            self.skip_blanks();
            self.skip_comment()?;
            if !self.newline() {
                return Ok(());
            }
        }
    }

    fn end_of_line(&mut self) -> Result<(), Malformed> {
        self.skip_blanks();
        self.skip_comment()?;
        if self.rest.is_empty() || self.newline() {
            return Ok(());
        }
        Err(self.wrong("expected the end of the line"))
    }

    fn header(&mut self, close: &str) -> Result<Vec<String>, Malformed> {
        let mut path = Vec::new();
        loop {
            self.skip_blanks();
            path.push(self.key()?);
            if path.len() > DEEPEST {
                return Err(self.wrong(format!("tables nest deeper than {DEEPEST}")));
            }
            self.skip_blanks();
            if !self.eat(".") {
                break;
            }
        }
        self.expect(close)?;
        self.end_of_line()?;
        Ok(path)
    }

    fn key(&mut self) -> Result<String, Malformed> {
        if self.rest.starts_with(['"', '\'']) {
            if self.rest.starts_with("\"\"\"") || self.rest.starts_with("'''") {
                return Err(self.wrong("a key stands on one line"));
            }
            return self.text();
        }
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let end = self.rest.find(|c| !bare(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.wrong("expected a key"));
        }
        let (key, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(key.to_owned())
    }

    fn value(&mut self, depth: usize) -> Result<Value, Malformed> {
        self.skip_blanks();
        if self.rest.starts_with(['"', '\'']) {
            return self.text().map(Value::Text);
        }
        if self.eat("[") {
            return self.list(depth + 1);
        }
        let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ']' | '#');
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        let value = match (word, integer(word)) {
            ("true", _) => Value::Boolean(true),
            ("false", _) => Value::Boolean(false),
            ("", _) => return Err(self.wrong("expected a value")),
            (_, Some(number)) => Value::Integer(number),
            _ => {
                return Err(self.wrong(format!("`{word}` is no string, list, integer or boolean")));
            }
        };
        self.rest = rest;
        Ok(value)
    }

    /// A list, after its `[`.
    fn list(&mut self, depth: usize) -> Result<Value, Malformed> {
        if depth > DEEPEST {
            return Err(self.wrong(format!("lists nest deeper than {DEEPEST}")));
        }
        let mut list = Vec::new();
        loop {
            self.skip_empty()?;
            if self.eat("]") {
                return Ok(Value::List(list));
            }
            list.push(self.value(depth)?);
            self.skip_empty()?;
            if self.eat("]") {
                return Ok(Value::List(list));
            }
            if !self.eat(",") {
                return Err(self.wrong("expected `,` or `]` in a list"));
            }
        }
    }

    /// A string of any kind, from its first quote.
    fn text(&mut self) -> Result<String, Malformed> {
        let begin = self.line;
        let quote = if self.rest.starts_with('"') { '"' } else { '\'' };
        let (one, three) = if quote == '"' { ("\"", "\"\"\"") } else { ("'", "'''") };
        let long = self.eat(three);
        if long {
            self.newline();
        } else {
            self.eat(one);
        }
        let mut text = String::new();
        loop {
            let quotes = self.rest.len() - self.rest.trim_start_matches(quote).len();
            if !long && quotes > 0 {
                self.eat(one);
                return Ok(text);
            }
            if long && quotes >= 3 {
                // Up to two quotes may stand right before the closing three.
                let kept = (quotes - 3).min(2);
                text.push_str(&one.repeat(kept));
                self.rest = &self.rest[kept + 3..];
                return Ok(text);
            }
            if long && self.newline() {
                text.push('\n');
                continue;
            }
            match self.rest.chars().next() {
                None | Some('\n' | '\r') => {
                    let reason = "a string is not closed".to_owned();
                    return Err(Malformed { line: begin, reason });
                }
                Some('\\') if quote == '"' => self.escape(long, &mut text)?,
                Some(c) if c.is_ascii_control() && c != '\t' => {
                    return Err(self.wrong("a string holds a control character"));
                }
                Some(c) => {
                    text.push(c);
                    self.rest = &self.rest[c.len_utf8()..];
                }
            }
        }
    }

    /// What stands behind a backslash, and the backslash.
    fn escape(&mut self, long: bool, text: &mut String) -> Result<(), Malformed> {
        self.eat("\\");
        let letters = [
            ("b", '\u{8}'),
            ("t", '\t'),
            ("n", '\n'),
            ("f", '\u{c}'),
            ("r", '\r'),
            ("\"", '"'),
            ("\\", '\\'),
        ];
        for (letter, meant) in letters {
            if self.eat(letter) {
                text.push(meant);
                return Ok(());
            }
        }
        for (letter, digits) in [("u", 4), ("U", 8)] {
            if self.eat(letter) {
                let code = self
                    .rest
                    .get(..digits)
                    .filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let meant = code.and_then(|code| u32::from_str_radix(code, 16).ok());
                let Some(meant) = meant.and_then(char::from_u32) else {
                    return Err(
                        self.wrong(format!("`\\{letter}` needs {digits} digits of a character"))
                    );
                };
                text.push(meant);
                self.rest = &self.rest[digits..];
                return Ok(());
            }
        }
        let before = self.line;
        if long {
            loop {
                self.skip_blanks();
                if !self.newline() {
                    break;
                }
            }
        }
        if self.line == before { Err(self.wrong("unknown escape in a string")) } else { Ok(()) }
    }
}

/// `0`, `-17`, `1_000`: decimal, 64 bits.
fn integer(word: &str) -> Option<i64> {
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    let placed = digits.split('_').all(|group| !group.is_empty());
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let leading = digits.len() > 1 && digits.starts_with('0');
    if placed && plain && !leading { word.replace('_', "").parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes what was read on one line: strings quoted, tables in braces.
    fn show(section: &Section) -> String {
        let pairs: Vec<String> = section
            .entries
            .iter()
            .map(|(key, entry)| format!("{key}={}", show_value(&entry.value)))
            .collect();
        format!("{{{}}}", pairs.join(" "))
    }

    fn show_value(value: &Value) -> String {
        let list = |items: Vec<String>| format!("[{}]", items.join(" "));
        match value {
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(_) => "int".to_owned(),
            Value::Boolean(value) => value.to_string(),
            Value::List(values) => list(values.iter().map(show_value).collect()),
            Value::Table(section) => show(section),
            Value::Tables(sections) => list(sections.iter().map(show).collect()),
        }
    }

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let found = parse(text).map(|section| show(&section)).map_err(|err| err.to_string());
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
    }

    #[test]
    fn what_is_read() {
        let cases = [
            ("", "{}"),
            ("# only this", "{}"),
            ("\n \t\n# c\r\na = 1 # d\r\n", "{a=int}"),
            ("a = true\nb = false", "{a=true b=false}"),
            ("a = -17\nb = +1_000\nc = 0", "{a=int b=int c=int}"),
            (r#"a = "x\ty\"\\\u00e9\U0001F600""#, r#"{a="x\ty\"\\é😀"}"#),
            (r"a = 'c:\n'", r#"{a="c:\\n"}"#),
            ("a = \"\"\nb = ''", r#"{a="" b=""}"#),
            ("a = \"\"\"\none\ntwo \\\n   \n  three\"\"\"", r#"{a="one\ntwo three"}"#),
            ("a = '''\none\r\ntw'o\\'''", r#"{a="one\ntw'o\\"}"#),
            ("a = \"\"\"\"q\"\"\"\"\"", r#"{a="\"q\"\""}"#),
            ("a = [ 'x', # first\n\n  \"y\",\n]", r#"{a=["x" "y"]}"#),
            ("a = []\nb = [[1], ['x']]", r#"{a=[] b=[[int] ["x"]]}"#),
            ("\"a b\" = 1\n'c' = 2\nd-e_1 = 3", "{a b=int c=int d-e_1=int}"),
            ("[a]\nx = 1\n[b.c]\ny = 2", "{a={x=int} b={c={y=int}}}"),
            ("[a.b]\n[a]\nx = 1", "{a={b={} x=int}}"),
            ("[[p]]\nt = 'x'\n[p.m]\nk = 1\n[[p]]\n[p.m]", r#"{p=[{m={k=int} t="x"} {m={}}]}"#),
            ("[[p]]\n[[p.q]]\n[[p.q]]\n[[p]]", "{p=[{q=[{} {}]} {}]}"),
            ("[ a . 'b c' ]", "{a={b c={}}}"),
        ];
        for (text, expected) in cases {
            check(text, Ok(expected));
        }
    }

    #[test]
    fn what_is_refused() {
        let value = |word: &str| format!("line 1: `{word}` is no string, list, integer or boolean");
        let cases = [
            ("a", "line 1: expected `=`"),
            ("\n= 1", "line 2: expected a key"),
            ("a =", "line 1: expected a value"),
            ("a = 1 2", "line 1: expected the end of the line"),
            ("a = 'x' b = 'y'", "line 1: expected the end of the line"),
            ("a.b = 1", "line 1: dotted keys are not read here; use a [table]"),
            ("a = 1\n\na = 2", "line 3: `a` was already set on line 1"),
            ("[a]\n[a]", "line 2: `a` was already set on line 1"),
            ("a = 1\n[a]", "line 2: `a` was already set on line 1"),
            ("a = []\n[[a]]", "line 2: `a` was already set on line 1"),
            ("[a]\n[[a]]", "line 2: `a` was already set on line 1"),
            ("[[a]]\n[a]", "line 2: `a` was already set on line 1"),
            ("[a\nb = 1", "line 1: expected `]`"),
            ("[[a]\n", "line 1: expected `]]`"),
            ("[]", "line 1: expected a key"),
            ("[a] b = 1", "line 1: expected the end of the line"),
            ("a = \"x", "line 1: a string is not closed"),
            ("a = 'x\ny'", "line 1: a string is not closed"),
            ("\na = '''\n\nx", "line 2: a string is not closed"),
            ("a = \"\\q\"", "line 1: unknown escape in a string"),
            ("a = \"\\\n\"", "line 1: unknown escape in a string"),
            ("a = \"\\ud800\"", "line 1: `\\u` needs 4 digits of a character"),
            ("a = \"\\u12\"", "line 1: `\\u` needs 4 digits of a character"),
            ("a = '\u{1}'", "line 1: a string holds a control character"),
            ("# \u{1}", "line 1: a comment holds a control character"),
            ("a = [1\n2]", "line 2: expected `,` or `]` in a list"),
            ("a = [1,,2]", "line 1: expected a value"),
            ("a = [", "line 1: expected a value"),
            ("'''a''' = 1", "line 1: a key stands on one line"),
        ];
        for (text, expected) in cases {
            check(text, Err(expected));
        }
        for word in
            ["1.5", "01", "1__0", "_1", "0x1f", "{}", "True", "1979-05-27", "9223372036854775808"]
        {
            check(&format!("a = {word}"), Err(&value(word)));
        }
        check(&format!("[{}a]", "a.".repeat(99_999)), Err("line 1: tables nest deeper than 16"));
        check(&format!("a = {}", "[".repeat(99_999)), Err("line 1: lists nest deeper than 16"));
    }
}
