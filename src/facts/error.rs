//! Why a file was refused, and where in it.
//!
//! A parser knows the line but not the path, so it gives a [`Refusal`]; the
//! collector that read the file turns it into a [`FactError`].

use serde::Deserialize;
use thiserror::Error;

/// A file of the application that forge must understand and cannot.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{path}{}: {message}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct FactError {
    /// The file, relative to the source.
    pub path: String,
    /// The line, from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Why a text was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}{message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct Refusal {
    /// The line, from 1; `None` when the text as a whole is meant.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Refusal {
    /// A refusal of one line.
    pub fn at(line: usize, message: impl Into<String>) -> Refusal {
        Refusal { line: Some(line), message: message.into() }
    }

    /// A refusal of the whole text.
    pub fn whole(message: impl Into<String>) -> Refusal {
        Refusal { line: None, message: message.into() }
    }

    /// The same, for a reader who needs the path.
    #[must_use]
    pub fn within(self, path: &str) -> FactError {
        FactError { path: path.to_owned(), line: self.line, message: self.message }
    }
}

/// Where lines begin, to turn the byte offsets of TOML spans into numbers.
pub struct Lines(Vec<usize>);

impl Lines {
    /// Finds the line ends of a text.
    pub fn new(text: &str) -> Lines {
        Lines(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The number, from 1, of the line that holds this byte.
    pub fn number(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

/// Reads a TOML text; the refusal carries the line of the error.
pub fn toml<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Refusal> {
    toml::from_str(text).map_err(|err: toml::de::Error| Refusal {
        line: err.span().map(|span| Lines::new(text).number(span.start)),
        message: format!("not readable: {}", err.message().replace('\n', " ")),
    })
}

/// The start of a text, for a message.
pub fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_with_its_place() {
        let refusal = Refusal::at(3, "no");
        assert_eq!(refusal.clone().within("Procfile").to_string(), "Procfile:3: no");
        assert_eq!(refusal.to_string(), "line 3: no");
        assert_eq!(Refusal::whole("no").within("a/b").to_string(), "a/b: no");
    }

    #[test]
    fn toml_errors_have_lines() {
        let found = toml::<toml::Table>("a = 1\nb = \nc = 3\n");
        assert_eq!(found.map_err(|refusal| refusal.line), Err(Some(2)));
    }

    #[test]
    fn lines_are_counted_from_one() {
        let lines = Lines::new("ab\ncd\n");
        let found: Vec<usize> = [0, 2, 3, 5, 6, 99].map(|at| lines.number(at)).into();
        assert_eq!(found, [1, 1, 2, 2, 3, 3]);
    }
}
