//! Conditions and `${…}` texts of buildpacks.

use crate::facts::Facts;

/// Whether all conditions hold.
pub(super) fn holds(conditions: &[String], facts: &Facts) -> bool {
    conditions.iter().all(|condition| {
        if let Some((fact, value)) = condition.split_once("!=") {
            facts.get(fact) != Some(value)
        } else if let Some((fact, value)) = condition.split_once('=') {
            facts.get(fact) == Some(value)
        } else if let Some(fact) = condition.strip_prefix('!') {
            !facts.contains(fact)
        } else {
            facts.contains(condition)
        }
    })
}

/// What became of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// All facts were there, or optional.
    Text(String),
    /// The text is one optional fact, and there is no such fact.
    Nothing,
    /// A fact that is not optional is missing.
    Missing(String),
}

/// Puts facts in the place of `${fact.name}`. A name without a dot is a shell
/// variable and stays.
pub(super) fn fill(text: &str, facts: &Facts) -> Filled {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    let mut only_missing = false;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let inside = &rest[start + 2..start + length];
        let (name, optional) =
            inside.strip_suffix('?').map_or((inside, false), |name| (name, true));
        let is_fact = name.contains('.')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        filled.push_str(&rest[..start]);
        if !is_fact {
            filled.push_str(&rest[start..=start + length]);
        } else if let Some(value) = facts.get(name) {
            filled.push_str(value);
        } else if optional {
            only_missing = start == 0 && length + 1 == text.len();
        } else {
            return Filled::Missing(name.to_owned());
        }
        rest = &rest[start + length + 1..];
    }
    filled.push_str(rest);
    if only_missing { Filled::Nothing } else { Filled::Text(filled) }
}

/// The text once for each line of the one fact in it; without a fact, the text.
/// An optional fact that there is not gives nothing.
///
/// # Errors
/// The name of a fact that is not optional and not there.
pub(super) fn fill_lines(text: &str, facts: &Facts) -> Result<Vec<String>, String> {
    // A `?` behind the closing brace is the step's own, not the fact's.
    let mut lines = vec![String::new()];
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let end = start + length + 1;
        let values: Vec<String> = match fill(&rest[start..end], facts) {
            Filled::Text(value) => value.lines().map(str::to_owned).collect(),
            Filled::Nothing => Vec::new(),
            Filled::Missing(fact) => return Err(fact),
        };
        lines = lines
            .iter()
            .flat_map(|line| {
                values.iter().map(move |value| format!("{line}{}{value}", &rest[..start]))
            })
            .collect();
        rest = &rest[end..];
    }
    for line in &mut lines {
        line.push_str(rest);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts::new();
        facts.insert("python.series", "3.13", "t");
        facts.insert("a.b", "", "t");
        facts
    }

    #[track_caller]
    fn check_condition(condition: &str, expected: bool) {
        assert_eq!(holds(&[condition.to_owned()], &facts()), expected, "{condition}");
    }

    #[test]
    fn conditions() {
        check_condition("python.series", true);
        check_condition("!python.series", false);
        check_condition("python.series=3.13", true);
        check_condition("python.series=3.1", false);
        check_condition("python.series!=3.1", true);
        check_condition("!nothing.here", true);
        check_condition("a.b=", true);
        assert!(holds(&[], &facts()));
        assert!(!holds(&["python.series".to_owned(), "nothing.here".to_owned()], &facts()));
    }

    #[test]
    fn texts() {
        let text = |text: &str| fill(text, &facts());
        assert_eq!(
            text("a ${python.series} ${PORT:-8080} ${PORT}"),
            Filled::Text("a 3.13 ${PORT:-8080} ${PORT}".to_owned())
        );
        assert_eq!(text("${x.y?}"), Filled::Nothing);
        assert_eq!(text("a${x.y?}"), Filled::Text("a".to_owned()));
        assert_eq!(text("${x.y}"), Filled::Missing("x.y".to_owned()));
        assert_eq!(text("${unclosed"), Filled::Text("${unclosed".to_owned()));
    }

    #[test]
    fn texts_of_several_lines() {
        let mut facts = facts();
        facts.insert("gem.needs", "racc-1\nmini-2", "t");
        let lines = |text: &str| fill_lines(text, &facts);
        assert_eq!(lines("base?"), Ok(vec!["base?".to_owned()]));
        assert_eq!(
            lines("gem ${gem.needs}?"),
            Ok(vec!["gem racc-1?".to_owned(), "gem mini-2?".to_owned()])
        );
        assert_eq!(
            lines("${gem.needs}@${python.series}"),
            Ok(vec!["racc-1@3.13".to_owned(), "mini-2@3.13".to_owned()])
        );
        assert_eq!(lines("gem ${gem.none?}?"), Ok(Vec::new()));
        assert_eq!(lines("gem ${gem.none}"), Err("gem.none".to_owned()));
    }
}
