//! The stanza format of `Packages`, `Release`, `control` and `status` files.
//!
//! A scanner over borrowed text: 50 MB of `Packages` cost one pass and no
//! allocation. It judges form only; what a field means is for its user.
//!
//! - Field names match without regard to case; the first of two wins.
//! - Comments and signatures are not known here.

use thiserror::Error;

/// The stanzas of a text, in order.
#[derive(Clone, Debug)]
pub struct Stanzas<'a> {
    rest: &'a str,
}

/// One block of `Name: value` lines; as long as the text it was cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stanza<'a> {
    text: &'a str,
}

/// The fields of a stanza, in order, with folded values as written.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a str,
}

/// Why a text is not exactly one well-formed stanza.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlError {
    /// No stanza, or more than one.
    #[error("expected one stanza, found {0}")]
    Count(usize),
    /// A line that is neither a field nor the continuation of one.
    #[error("`{0}` is not a field")]
    NotAField(String),
    /// A field that must be there and is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
}

impl<'a> Stanzas<'a> {
    /// Starts at the beginning of `text`.
    #[must_use]
    pub fn new(text: &'a str) -> Stanzas<'a> {
        Stanzas { rest: text }
    }
}

impl<'a> Iterator for Stanzas<'a> {
    type Item = Stanza<'a>;

    fn next(&mut self) -> Option<Stanza<'a>> {
        let text = skip_blank_lines(self.rest);
        if text.is_empty() {
            self.rest = text;
            return None;
        }
        // Nearly always the separator is an empty line; one of spaces is legal too.
        let mut at = 0;
        let mut end = text.len();
        while let Some(newline) = find_newline(text, at) {
            at = newline + 1;
            let line_end = match text.as_bytes().get(at) {
                Some(b'\n') => at,
                Some(b' ' | b'\t' | b'\r') => find_newline(text, at).unwrap_or(text.len()),
                _ => continue,
            };
            if text[at..line_end].trim().is_empty() {
                end = at;
                break;
            }
        }
        let (stanza, rest) = text.split_at(end);
        self.rest = rest;
        Some(Stanza { text: stanza })
    }
}

fn skip_blank_lines(mut text: &str) -> &str {
    while let Some(newline) = find_newline(text, 0) {
        if !text[..newline].trim().is_empty() {
            return text;
        }
        text = &text[newline + 1..];
    }
    if text.trim().is_empty() { "" } else { text }
}

fn find_newline(text: &str, from: usize) -> Option<usize> {
    text[from..].find('\n').map(|at| from + at)
}

impl<'a> Stanza<'a> {
    /// The only stanza of a text such as a `control` file, every line of it well-formed.
    ///
    /// # Errors
    /// [`ControlError`] when there is another number of stanzas or a stray line.
    pub fn only(text: &'a str) -> Result<Stanza<'a>, ControlError> {
        let mut stanzas = Stanzas::new(text);
        let Some(stanza) = stanzas.next() else {
            return Err(ControlError::Count(0));
        };
        match stanzas.count() {
            0 => {}
            more => return Err(ControlError::Count(1 + more)),
        }
        let mut in_field = false;
        for line in stanza.text.lines() {
            let folded = line.starts_with([' ', '\t']) && in_field;
            let named = line.split_once(':').is_some_and(|(name, _)| is_name(name));
            if !folded && !named {
                return Err(ControlError::NotAField(line.chars().take(80).collect()));
            }
            in_field = true;
        }
        Ok(stanza)
    }

    /// A text that is known to be one stanza.
    pub(super) fn of(text: &'a str) -> Stanza<'a> {
        Stanza { text }
    }

    /// The stanza as written, with its last newline.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The value of a field without surrounding blanks; a folded value keeps
    /// its newlines and the blank that starts each further line.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.fields().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// As [`Stanza::field`], for a field that must be there.
    ///
    /// # Errors
    /// [`ControlError::Missing`].
    pub fn required(&self, name: &'static str) -> Result<&'a str, ControlError> {
        self.field(name).filter(|value| !value.is_empty()).ok_or(ControlError::Missing(name))
    }

    /// The lines of a folded value, trimmed, empty ones left out.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.field(name).unwrap_or("").lines().map(str::trim).filter(|line| !line.is_empty())
    }

    /// Every field in the order written.
    #[must_use]
    pub fn fields(&self) -> Fields<'a> {
        Fields { rest: self.text }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['-', '#'])
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        while !self.rest.is_empty() {
            let text = self.rest;
            let mut end = text.len();
            let mut from = 0;
            while let Some(newline) = find_newline(text, from) {
                from = newline + 1;
                if !matches!(text.as_bytes().get(from), Some(b' ' | b'\t')) {
                    end = from;
                    break;
                }
            }
            let (field, rest) = text.split_at(end);
            self.rest = rest;
            if let Some((name, value)) = field.split_once(':')
                && is_name(name)
            {
                return Some((name, value.trim()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_and_fields() {
        let text = "\n\nPackage: a\nDepends: b,\n c (>= 1)\ndescription:  d \n more\n .\n end\n \t\nPackage: e\n\n\nPackage: f";
        let stanzas: Vec<Stanza<'_>> = Stanzas::new(text).collect();
        assert_eq!(stanzas.len(), 3);
        for (stanza, field, expected) in [
            (0, "Package", Some("a")),
            (0, "depends", Some("b,\n c (>= 1)")),
            (0, "Description", Some("d \n more\n .\n end")),
            (0, "more", None),
            (1, "Package", Some("e")),
            (1, "Depends", None),
            (2, "Package", Some("f")),
        ] {
            assert_eq!(stanzas[stanza].field(field), expected, "{stanza} {field}");
        }
        assert_eq!(stanzas[0].lines("Depends").collect::<Vec<_>>(), ["b,", "c (>= 1)"]);
    }

    #[test]
    fn nothing() {
        for text in ["", "\n", " \n\n", "\t"] {
            assert_eq!(Stanzas::new(text).count(), 0, "{text:?}");
        }
    }

    #[test]
    fn only_one() {
        for (text, expected) in [
            ("", "expected one stanza, found 0"),
            ("A: b\n\nC: d\n", "expected one stanza, found 2"),
            ("A: b\nnonsense\n", "`nonsense` is not a field"),
            (" folded: x\n", "` folded: x` is not a field"),
        ] {
            let found = Stanza::only(text).map_err(|err| err.to_string());
            assert_eq!(found.err().as_deref(), Some(expected));
        }
        let stanza = Stanza::only("A: b\n c\n").unwrap();
        assert_eq!(stanza.required("B"), Err(ControlError::Missing("B")));
        assert_eq!(stanza.required("A"), Ok("b\n c"));
    }
}
