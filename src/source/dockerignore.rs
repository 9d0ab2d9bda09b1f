//! `.dockerignore`, as Docker reads it.
//!
//! Unlike in `.gitignore` files every pattern starts at the root, the last pattern
//! that matches a path or a folder above it decides, and `!` keeps files below a
//! folder that is left out. Docker makes a regular expression of each pattern
//! (`moby/patternmatcher`), and so does this: in globs of other libraries `**`,
//! `{` and `[!` mean something else.

use regex::RegexSet;

use super::SourceError;

/// The file's name, and the origin of its rules.
pub(super) const NAME: &str = ".dockerignore";

/// A `.dockerignore` file.
#[derive(Clone, Debug)]
pub(super) struct Dockerignore {
    patterns: Vec<Pattern>,
    set: RegexSet,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// As it is written.
    text: String,
    /// Whether `!` stands in front: what matches is kept.
    keeps: bool,
    /// Without `!`, `/` at the ends, and `.` and `..`.
    cleaned: String,
}

/// The pattern that leaves a path out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit<'a> {
    /// As it is written.
    pub(super) rule: &'a str,
    /// Whether it speaks of names like this one's, and not of all that is in a
    /// folder.
    pub(super) by_name: bool,
}

impl Dockerignore {
    pub(super) fn parse(text: &str) -> Result<Dockerignore, SourceError> {
        let refused = |rule: &str, problem: String| SourceError::Rule {
            origin: NAME.to_owned(),
            rule: rule.to_owned(),
            problem,
        };
        let mut patterns = Vec::new();
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
        for line in lines.filter(|line| !line.starts_with('#')) {
            let text = line.trim();
            let (keeps, pattern) = match text.strip_prefix('!') {
                Some("") => return Err(refused(text, "nothing stands behind `!`".to_owned())),
                Some(rest) => (true, rest.trim()),
                None => (false, text),
            };
            let cleaned = cleaned(pattern);
            if !cleaned.is_empty() {
                let expression = expression(&cleaned);
                regex::Regex::new(&expression).map_err(|error| {
                    refused(text, error.to_string().lines().last().unwrap_or_default().to_owned())
                })?;
                patterns.push(Pattern { text: text.to_owned(), keeps, cleaned });
            }
        }
        let set = RegexSet::new(patterns.iter().map(|pattern| expression(&pattern.cleaned)))
            .map_err(|error| refused("", error.to_string()))?;
        Ok(Dockerignore { patterns, set })
    }

    /// The pattern that leaves the path out; `None` when it stays.
    pub(super) fn excludes(&self, path: &str) -> Option<Hit<'_>> {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        let last = above.chain([path]).flat_map(|path| self.set.matches(path).into_iter()).max()?;
        let pattern = &self.patterns[last];
        let name = pattern.cleaned.rsplit('/').next().unwrap_or_default();
        (!pattern.keeps).then(|| Hit {
            rule: &pattern.text,
            by_name: self.set.matches(path).matched(last) && name.bytes().any(|byte| byte != b'*'),
        })
    }

    /// Whether something in the folder may stay although the folder does not.
    pub(super) fn may_keep_below(&self, folder: &str) -> bool {
        self.patterns.iter().filter(|pattern| pattern.keeps).any(|pattern| {
            let mut parts = pattern.cleaned.split('/');
            folder.split('/').all(|name| match parts.next() {
                // Wildcards are not looked at closer: `**` may stand for anything.
                Some(part) => part == name || part.contains(['*', '?', '[', '\\']),
                None => pattern.cleaned.contains("**"),
            })
        })
    }
}

/// The path in its shortest form, as Go's `filepath.Clean` gives it.
fn cleaned(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn expression(pattern: &str) -> String {
    // Docker takes a shorter way for this form, by which it means more: `**.orig`
    // is every name that ends so.
    if let Some(ending) = pattern.strip_prefix("**")
        && !ending.starts_with('/')
        && !ending.contains(['*', '?', '[', ']', '\\'])
    {
        return format!("^.*{}$", regex::escape(ending));
    }
    let mut expression = String::from("^");
    let mut rest = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(letter) = rest.next() {
        match letter {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                expression.push_str(if rest.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '\\' => {
                let next = rest.next().unwrap_or('\\');
                expression.push_str(&regex::escape(next.encode_utf8(&mut [0; 4])));
            }
            '[' if !in_class => {
                in_class = true;
                expression.push('[');
            }
            ']' if in_class => {
                in_class = false;
                expression.push(']');
            }
            letter if in_class && "^-".contains(letter) => expression.push(letter),
            letter => expression.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    expression
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths that are left out, among those that are named.
    #[track_caller]
    fn check(rules: &str, paths: &[(&str, bool)]) {
        let ignore = Dockerignore::parse(rules).expect("parses");
        for (path, out) in paths {
            assert_eq!(ignore.excludes(path).is_some(), *out, "{rules:?} {path}");
        }
    }

    #[test]
    fn patterns_start_at_the_root() {
        check(
            "*.md\n/log\ntmp/\n./a/../b",
            &[
                ("x.md", true),
                ("docs/x.md", false),
                ("log", true),
                ("log/production.log", true),
                ("app/log", false),
                ("tmp/cache/x", true),
                ("b/x", true),
                ("a/x", false),
            ],
        );
    }

    #[test]
    fn stars() {
        check(
            "**/*.md\n**.orig\nvendor/**\na/**/z\nx**y\nd?g",
            &[
                ("x.md", true),
                ("a/b/x.md", true),
                ("a.orig", true),
                ("a/b.orig", true),
                ("a.original", false),
                ("vendor", false),
                ("vendor/a/b", true),
                ("a/z", true),
                ("a/b/c/z", true),
                ("xy", true),
                ("x/b/y", true),
                ("x1y", false),
                ("dog", true),
                ("d/g", false),
            ],
        );
        check("**", &[("a", true), ("a/b", true)]);
        check("*/x", &[("a/x", true), ("a/b/x", false)]);
    }

    #[test]
    fn characters_that_mean_something_elsewhere() {
        check(
            "{a,b}\n[!c]d\n[^e]f\na+b\n\\*x\n[0-9].log",
            &[
                ("a", false),
                ("{a,b}", true),
                ("!d", true),
                ("cd", true),
                ("xd", false),
                ("xf", true),
                ("ef", false),
                ("a+b", true),
                ("aab", false),
                ("*x", true),
                ("yx", false),
                ("1.log", true),
                ("x.log", false),
            ],
        );
    }

    #[test]
    fn the_last_pattern_decides() {
        check(
            "*\n!app\n!config/x.yml\napp/tmp\n",
            &[
                ("lib/a", true),
                ("app", false),
                ("app/a/b", false),
                ("app/tmp/a", true),
                ("config", true),
                ("config/x.yml", false),
                ("config/y.yml", true),
            ],
        );
        check("!app/x\napp", &[("app/x", true)]);
    }

    #[test]
    fn comments_and_marks() {
        check(
            "\u{feff}a\n# b\n #c\n\n  d  \r\n! d/e",
            &[("a", true), ("b", false), ("#c", true), ("d", true), ("d/e", false)],
        );
    }

    #[test]
    fn what_is_no_pattern() {
        for (rules, expected) in [
            ("a\n!", ".dockerignore: `!` is not a pattern: nothing stands behind `!`"),
            ("[a", ".dockerignore: `[a` is not a pattern: error: unclosed character class"),
        ] {
            let error = Dockerignore::parse(rules).expect_err("refused").to_string();
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn what_is_hidden_by_name() {
        let by_name = |rules: &str, path: &str| {
            let ignore = Dockerignore::parse(rules).expect("parses");
            ignore.excludes(path).map(|hit| hit.by_name)
        };
        assert_eq!(by_name("**/*.txt", "a/requirements.txt"), Some(true));
        assert_eq!(by_name("a", "a/requirements.txt"), Some(false));
        assert_eq!(by_name("a/**", "a/requirements.txt"), Some(false));
        assert_eq!(by_name("*", "a/requirements.txt"), Some(false));
        assert_eq!(by_name("b", "a/requirements.txt"), None);
    }

    #[test]
    fn folders_that_must_be_looked_into() {
        let below = |rules: &str, folder: &str| {
            Dockerignore::parse(rules).expect("parses").may_keep_below(folder)
        };
        assert!(below("*\n!a/b/c", "a"));
        assert!(below("*\n!a/b/c", "a/b"));
        assert!(!below("*\n!a/b/c", "a/x"));
        assert!(!below("*\n!a/b", "b"));
        assert!(below("*\n!**/*.rb", "a/b/c"));
        assert!(below("*\n!*/x", "a"));
        assert!(!below("a/b", "a"));
    }
}
