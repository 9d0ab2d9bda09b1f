//! Files in which developers tell version switchers what to use, whatever the
//! language: asdf's `.tool-versions` and `mise.toml`.
//!
//! What a version may look like is the language's to judge.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Refusal;
use super::error::{Lines, toml};

/// What `.tool-versions` says for `tool`: the first version, with its line. `None`
/// when it says nothing, or leaves the choice to the machine.
pub(super) fn tool_versions(text: &str, tool: &str) -> Option<(String, usize)> {
    (1..)
        .zip(text.lines())
        .find_map(|(line, content)| {
            let mut words = content.split('#').next().unwrap_or_default().split_whitespace();
            if words.next() != Some(tool) {
                return None;
            }
            words.next().map(|word| (word, line))
        })
        .and_then(|(word, line)| of_a_project(word).map(|word| (word, line)))
}

/// What `mise.toml` says for `tool`, as a text, a list or a table.
///
/// # Errors
/// Not TOML.
pub(super) fn mise(text: &str, tool: &str) -> Result<Option<(String, usize)>, Refusal> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        tools: BTreeMap<String, toml::Spanned<toml::Value>>,
    }
    let document: Document = toml(text)?;
    let Some(asked) = document.tools.get(tool) else { return Ok(None) };
    let line = Lines::new(text).number(asked.span().start);
    let value = match asked.get_ref() {
        toml::Value::Array(list) => list.first(),
        value => Some(value),
    };
    let value = value.and_then(|value| value.get("version").or(Some(value)));
    Ok(value.and_then(toml::Value::as_str).and_then(of_a_project).map(|word| (word, line)))
}

/// A version that means the same on every machine.
fn of_a_project(word: &str) -> Option<String> {
    let machine = ["ref:", "path:"].iter().any(|front| word.starts_with(front));
    if machine || ["system", "latest"].contains(&word) {
        return None;
    }
    Some(word.strip_prefix("latest:").or(word.strip_prefix("prefix:")).unwrap_or(word).to_owned())
}
