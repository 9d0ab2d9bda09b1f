//! Which Python is asked for: the files that name one version, and the ranges
//! of PEP 440 and Poetry.
//!
//! A version is `X.Y` or `X.Y.Z` and nothing else; what people also write is
//! refused with the text to write instead. A range is never turned into a
//! version here: it only says which series it allows.

use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};

use crate::facts::{Refusal, tools};

/// A series is allowed when one of its patch releases up to this one is; no
/// series of Python 3 has come near it.
const LAST_PATCH: u64 = 60;

/// What a file asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// One version.
    Release(Release),
    /// Any version that one of the specifier lists allows.
    Range {
        /// The alternatives, as PEP 440.
        any_of: Vec<VersionSpecifiers>,
        /// The range as written.
        text: String,
    },
}

/// `X.Y`, or `X.Y.Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// `X` and `Y`.
    pub series: (u64, u64),
    /// `Z`, when stated.
    pub patch: Option<u64>,
}

impl Asked {
    /// As written.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Asked::Release(Release { series: (major, minor), patch }) => match patch {
                Some(patch) => format!("{major}.{minor}.{patch}"),
                None => format!("{major}.{minor}"),
            },
            Asked::Range { text, .. } => text.clone(),
        }
    }

    /// Whether some release of the series will do.
    #[must_use]
    pub fn allows_series(&self, series: (u64, u64)) -> bool {
        match self {
            Asked::Release(release) => release.series == series,
            Asked::Range { any_of, .. } => {
                (0..=LAST_PATCH).any(|patch| fits(any_of, series, patch))
            }
        }
    }

    /// Whether the release will do. Two releases agree when their series do: the
    /// patch of the one that is asked first wins.
    #[must_use]
    pub fn allows(&self, release: Release) -> bool {
        match (self, release.patch) {
            (Asked::Range { any_of, .. }, Some(patch)) => fits(any_of, release.series, patch),
            _ => self.allows_series(release.series),
        }
    }
}

fn fits(any_of: &[VersionSpecifiers], series: (u64, u64), patch: u64) -> bool {
    let version = Version::new([series.0, series.1, patch]);
    any_of.iter().any(|specifiers| specifiers.contains(&version))
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Release, String> {
        numbers(text).ok_or_else(|| fix(text))
    }
}

fn numbers(text: &str) -> Option<Release> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u64>().ok()).flatten()
    };
    let parts: Option<Vec<u64>> = text.split('.').map(number).collect();
    match *parts?.as_slice() {
        [major, minor] => Some(Release { series: (major, minor), patch: None }),
        [major, minor, patch] => Some(Release { series: (major, minor), patch: Some(patch) }),
        _ => None,
    }
}

/// Why a text is not a version, with what to write instead where that is clear.
fn fix(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    let bare = text.trim_matches(['"', '\'', ' ']);
    let fronts = ["python-", "cpython-", "cpython@", "python", "==", "v"];
    let bare = fronts.iter().find_map(|front| bare.strip_prefix(front)).unwrap_or(bare);
    let bare = bare.strip_suffix(".*").unwrap_or(bare).trim();
    match numbers(bare) {
        Some(_) => format!("`{shown}` is not a version: write `{bare}`"),
        None => format!("`{shown}` is not a version: write two or three numbers, such as `3.13`"),
    }
}

/// `.python-version`: the first line that is not a comment. pyenv allows more
/// lines; the first is the one that `python` means there.
///
/// # Errors
/// No version, or one that is not two or three numbers.
pub fn python_version_file(text: &str) -> Result<(Release, usize), Refusal> {
    if text.starts_with('\u{feff}') {
        return Err(Refusal::at(
            1,
            "starts with a byte order mark: save the file as UTF-8 without one",
        ));
    }
    if text.contains('\0') {
        return Err(Refusal::whole("looks like UTF-16: save the file as UTF-8"));
    }
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.split('#').next().unwrap_or_default().trim();
        if !content.is_empty() {
            let release = content.parse().map_err(|message: String| Refusal::at(line, message))?;
            return Ok((release, line));
        }
    }
    Err(Refusal::whole("names no version: write two or three numbers, such as `3.13`"))
}

/// `runtime.txt`: `python-3.13.1`.
///
/// # Errors
/// Anything else.
pub fn runtime_txt(text: &str) -> Result<(Release, usize), Refusal> {
    let content = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    let version = content.strip_prefix("python-").and_then(|version| version.parse().ok());
    version.map(|release| (release, 1)).ok_or_else(|| {
        let shown: String = content.chars().take(40).collect();
        Refusal::at(
            1,
            format!("`{shown}` is not a runtime: write `python-3.13`, or use .python-version"),
        )
    })
}

/// `.tool-versions`: the version of `python`, with its line. `None` when there is
/// none, or it leaves the choice to the machine.
///
/// # Errors
/// A version that cannot be read.
pub fn tool_versions(text: &str) -> Result<Option<(Release, usize)>, Refusal> {
    tools::tool_versions(text, "python").map_or(Ok(None), of_a_tool)
}

/// `mise.toml`: the version of `python`, likewise.
///
/// # Errors
/// Not TOML; otherwise as [`tool_versions`].
pub fn mise(text: &str) -> Result<Option<(Release, usize)>, Refusal> {
    tools::mise(text, "python")?.map_or(Ok(None), of_a_tool)
}

fn of_a_tool((word, line): (String, usize)) -> Result<Option<(Release, usize)>, Refusal> {
    word.parse()
        .map(|release| Some((release, line)))
        .map_err(|message: String| Refusal::at(line, message))
}

/// A `requires-python`.
///
/// # Errors
/// A sentence, when it is not PEP 440.
pub fn range(text: &str) -> Result<Asked, String> {
    match text.trim().parse::<VersionSpecifiers>() {
        Ok(specifiers) => {
            Ok(Asked::Range { any_of: vec![specifiers], text: text.trim().to_owned() })
        }
        Err(err) => {
            if let Ok(release) = text.trim().parse::<Release>() {
                let exact = if release.patch.is_some() { "" } else { ".*" };
                return Err(format!("`{0}` is not a range: write `=={0}{exact}`", text.trim()));
            }
            let err = err.to_string();
            Err(format!(
                "`{}` is not a range: {}",
                text.trim(),
                err.lines().next().unwrap_or_default()
            ))
        }
    }
}

/// A range as Poetry writes it: also `^3.11`, `~3.11`, `3.11.*`, `*` and `||`.
///
/// # Errors
/// A sentence, when it cannot be read.
pub fn poetry_range(text: &str) -> Result<Asked, String> {
    let any_of = text.split("||").map(poetry_alternative).collect::<Result<_, _>>();
    let any_of = any_of.map_err(|err| format!("`{}` is not a range: {err}", text.trim()))?;
    Ok(Asked::Range { any_of, text: text.trim().to_owned() })
}

fn poetry_alternative(text: &str) -> Result<VersionSpecifiers, String> {
    let mut specifiers = Vec::new();
    for part in parts(text) {
        let caret = part.strip_prefix('^');
        let tilde = part.strip_prefix('~').filter(|rest| !rest.starts_with('='));
        if let Some(version) = caret.or(tilde) {
            specifiers.push(next_after(version.trim(), caret.is_some())?);
        } else if part == "*" {
            // Any version: nothing to say.
        } else if part.starts_with(|c: char| c.is_ascii_digit()) {
            specifiers.push(format!("=={part}"));
        } else {
            specifiers.push(part);
        }
    }
    let joined = specifiers.join(",");
    joined.parse().map_err(|_| format!("`{}` is not understood", text.trim()))
}

/// Splits at commas and before each operator, since both `>=3.9 <4` and
/// `>= 3.9` occur.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut in_operator = false;
    for c in text.chars() {
        let operator = matches!(c, '<' | '>' | '=' | '!' | '~' | '^');
        if c == ',' || (operator && !in_operator) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut()
            && c != ','
            && !c.is_whitespace()
        {
            part.push(c);
        }
        in_operator = operator;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// `^3.11` is `>=3.11,<4`; `~3.11` is `>=3.11,<3.12`; `~3` is `>=3,<4`.
fn next_after(version: &str, caret: bool) -> Result<String, String> {
    let wrong = || format!("`{version}` is not a version");
    let numbers = version.split('.').map(|part| part.parse::<u64>().map_err(|_| wrong()));
    let numbers = numbers.collect::<Result<Vec<u64>, String>>()?;
    let last = match numbers.as_slice() {
        [] => return Err(wrong()),
        [major] => vec![*major],
        [major, ..] if caret && *major > 0 => vec![*major],
        [major, minor, ..] => vec![*major, *minor],
    };
    let mut bound: Vec<String> = last.iter().map(u64::to_string).collect();
    if let (Some(text), Some(number)) = (bound.last_mut(), last.last()) {
        *text = number.checked_add(1).ok_or_else(wrong)?.to_string();
    }
    Ok(format!(">={version},<{}", bound.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parser = fn(&str) -> Result<(Release, usize), Refusal>;

    #[track_caller]
    fn check(parser: Parser, text: &str, expected: Result<(&str, usize), &str>) {
        let found = parser(text).map(|(release, line)| (Asked::Release(release).text(), line));
        let expected = expected.map(|(version, line)| (version.to_owned(), line));
        assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn python_version() {
        let file: Parser = python_version_file;
        check(file, "3.12\n", Ok(("3.12", 1)));
        check(file, "# why\n\n 3.12.1 # x\n3.11\n", Ok(("3.12.1", 3)));
        check(file, "3.12.*", Err("line 1: `3.12.*` is not a version: write `3.12`"));
        check(file, "\"3.12\"", Err("line 1: `\"3.12\"` is not a version: write `3.12`"));
        check(
            file,
            "python-3.12.1",
            Err("line 1: `python-3.12.1` is not a version: write `3.12.1`"),
        );
        let numbers = "is not a version: write two or three numbers, such as `3.13`";
        check(file, "3", Err(&format!("line 1: `3` {numbers}")));
        check(file, "3.14.0rc1", Err(&format!("line 1: `3.14.0rc1` {numbers}")));
        check(file, "pypy3.10-7.3", Err(&format!("line 1: `pypy3.10-7.3` {numbers}")));
        check(
            file,
            "99999999999999999999.1",
            Err(&format!("line 1: `99999999999999999999.1` {numbers}")),
        );
        check(file, "", Err("names no version: write two or three numbers, such as `3.13`"));
        check(
            file,
            "\u{feff}3.12",
            Err("line 1: starts with a byte order mark: save the file as UTF-8 without one"),
        );
        check(file, "3\0.\0", Err("looks like UTF-16: save the file as UTF-8"));
    }

    #[test]
    fn runtime() {
        check(runtime_txt, "python-3.12.1\n", Ok(("3.12.1", 1)));
        check(runtime_txt, " python-3.12", Ok(("3.12", 1)));
        let hint = "is not a runtime: write `python-3.13`, or use .python-version";
        check(runtime_txt, "3.12", Err(&format!("line 1: `3.12` {hint}")));
    }

    #[track_caller]
    fn tool(found: Result<Option<(Release, usize)>, Refusal>, expected: Option<(&str, usize)>) {
        let found = found.map(|found| found.map(|(r, line)| (Asked::Release(r).text(), line)));
        assert_eq!(found, Ok(expected.map(|(version, line)| (version.to_owned(), line))));
    }

    #[test]
    fn tools() {
        tool(tool_versions("ruby 3.3.1\npython 3.12.1 3.11\n"), Some(("3.12.1", 2)));
        tool(tool_versions("python system"), None);
        tool(tool_versions("nodejs 20"), None);
        assert!(tool_versions("python miniconda3-4.7").is_err());
        tool(mise("[tools]\npython = \"3.12\"\n"), Some(("3.12", 2)));
        tool(mise("[tools]\npython = [\"3.12\", \"3.11\"]\n"), Some(("3.12", 2)));
        tool(mise("[tools.python]\nversion = \"3.12.1\"\n"), Some(("3.12.1", 1)));
        tool(mise("[env]\nA = 1\n"), None);
    }

    #[track_caller]
    fn allows(asked: Result<Asked, String>, expected: Result<&[u64], &str>) {
        let found = asked.map(|asked| {
            (0..30).filter(|minor| asked.allows_series((3, *minor))).collect::<Vec<u64>>()
        });
        assert_eq!(found, expected.map(<[u64]>::to_vec).map_err(str::to_owned));
    }

    #[test]
    fn ranges() {
        allows(range(">=3.11,<3.14"), Ok(&[11, 12, 13]));
        allows(range("==3.12.*"), Ok(&[12]));
        allows(range("~=3.12.4"), Ok(&[12]));
        allows(range(">3.11.2, <=3.12, !=3.12.*"), Ok(&[11]));
        allows(range("3.12"), Err("`3.12` is not a range: write `==3.12.*`"));
        assert!(range(">=banana").is_err());
    }

    #[test]
    fn poetry_ranges() {
        allows(poetry_range("~3.11"), Ok(&[11]));
        allows(poetry_range("^3.27"), Ok(&[27, 28, 29]));
        allows(poetry_range(">=3.9,<3.12"), Ok(&[9, 10, 11]));
        allows(poetry_range(">= 3.9 <3.11"), Ok(&[9, 10]));
        allows(poetry_range("3.11.*"), Ok(&[11]));
        allows(poetry_range("~2.7 || ~3.11.2"), Ok(&[11]));
        allows(poetry_range("*"), Ok(&(0..30).collect::<Vec<u64>>()));
        assert!(poetry_range("^banana").is_err());
    }
}
