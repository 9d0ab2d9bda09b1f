//! Version numbers and their order, as in Debian policy 5.6.12.
//!
//! - A [`Version`] keeps the text as written: `1.0` and `1.00` are equal but not the same text.
//! - Only what cannot be a version is refused; an upstream part that starts with a letter is
//!   legal here as it is for dpkg, which warns only.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A version: epoch, upstream version, Debian revision.
#[derive(Clone)]
pub struct Version {
    text: Box<str>,
    epoch: u32,
    /// Where the upstream part starts.
    upstream: usize,
    /// Where the upstream part ends; the revision, if any, starts one later.
    end: usize,
}

/// Why a text is not a version.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum VersionError {
    /// Nothing there, or nothing between the colon and the hyphen.
    #[error("version `{0}` has no upstream part")]
    Empty(String),
    /// What stands before the first colon is not a number that fits.
    #[error("version `{0}` has an epoch that is not a number below 2147483648")]
    Epoch(String),
    /// A character that no version may contain.
    #[error("version `{0}` contains `{1}`")]
    Character(String, char),
}

impl Version {
    /// The text as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part between the epoch and the Debian revision.
    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.text[self.upstream..self.end]
    }

    /// The part after the last hyphen; empty when there is none.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.text.get(self.end + 1..).unwrap_or("")
    }

    /// The number before the colon, 0 when there is none.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Version, VersionError> {
        let (epoch, upstream) = match text.split_once(':') {
            None => (0, 0),
            Some((epoch, _)) => {
                let digits = !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit());
                match epoch.parse::<u32>() {
                    Ok(number) if digits && number <= i32::MAX as u32 => (number, epoch.len() + 1),
                    _ => return Err(VersionError::Epoch(text.to_owned())),
                }
            }
        };
        let end = text[upstream..].rfind('-').map_or(text.len(), |at| upstream + at);
        let empty_revision = end + 1 == text.len();
        if end == upstream || empty_revision {
            return Err(VersionError::Empty(text.to_owned()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".+~".contains(c);
        let wrong = text[upstream..end]
            .chars()
            .find(|&c| !allowed(c) && c != '-' && c != ':')
            .or_else(|| text[end..].chars().skip(1).find(|&c| !allowed(c)));
        match wrong {
            Some(c) => Err(VersionError::Character(text.to_owned(), c)),
            None => Ok(Version { text: text.into(), epoch, upstream, end }),
        }
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_part(self.upstream(), other.upstream()))
            .then_with(|| compare_part(self.revision(), other.revision()))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Equal in order, not in text: `1.0` equals `1.00`.
impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Alternates between a run without digits, compared by [`weight`], and a run
/// of digits, compared as a number of any length.
fn compare_part(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    while !left.is_empty() || !right.is_empty() {
        loop {
            let letter = |part: &[u8]| part.first().copied().filter(|byte| !byte.is_ascii_digit());
            let (a, b) = (letter(left), letter(right));
            if a.is_none() && b.is_none() {
                break;
            }
            match weight(a).cmp(&weight(b)) {
                Ordering::Equal => (left, right) = (&left[1..], &right[1..]),
                unequal => return unequal,
            }
        }
        let (a, b) = (take_number(&mut left), take_number(&mut right));
        match a.len().cmp(&b.len()).then_with(|| a.cmp(b)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
    Ordering::Equal
}

/// A tilde sorts before the end, the end before letters, letters before the rest.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    }
}

/// Cuts the leading digits off and returns them without leading zeros.
fn take_number<'a>(part: &mut &'a [u8]) -> &'a [u8] {
    let length = part.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = part.split_at(length);
    *part = rest;
    let zeros = digits.iter().take_while(|&&byte| byte == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap_or_else(|err| panic!("{err}"))
    }

    #[test]
    fn order() {
        use Ordering::{Equal, Greater, Less};
        for (left, expected, right) in [
            ("1.0", Equal, "1.00"),
            ("0:1.0-1", Equal, "1.0-1"),
            ("1.0", Equal, "1.0-0"),
            ("1.0-1", Greater, "1.0"),
            ("1.0~rc1", Less, "1.0"),
            ("1.0~~", Less, "1.0~"),
            ("1.0~~a", Less, "1.0~"),
            ("1.0a", Greater, "1.0"),
            ("1.0+", Greater, "1.0a"),
            ("1.9", Less, "1.10"),
            ("1:0.1", Greater, "99"),
            ("1.0-1-2", Greater, "1.0-1"),
            ("2.41-12+deb13u1", Greater, "2.41-12"),
            ("3.13.5-2~deb13u1", Less, "3.13.5-2"),
            ("99999999999999999999", Less, "100000000000000000000"),
        ] {
            assert_eq!(version(left).cmp(&version(right)), expected, "{left} {right}");
            assert_eq!(version(right).cmp(&version(left)), expected.reverse(), "{right} {left}");
        }
    }

    #[test]
    fn parts() {
        let version = version("2:1.0-rc-3");
        assert_eq!((version.epoch(), version.upstream(), version.revision()), (2, "1.0-rc", "3"));
    }

    #[test]
    fn refused() {
        for (text, expected) in [
            ("", "version `` has no upstream part"),
            ("1:", "version `1:` has no upstream part"),
            ("1.0-", "version `1.0-` has no upstream part"),
            ("x:1", "version `x:1` has an epoch that is not a number below 2147483648"),
            ("+1:1", "version `+1:1` has an epoch that is not a number below 2147483648"),
            (
                "9999999999:1",
                "version `9999999999:1` has an epoch that is not a number below 2147483648",
            ),
            ("1 0", "version `1 0` contains ` `"),
            ("1.0-a:b", "version `1.0-a:b` has an epoch that is not a number below 2147483648"),
            ("1.0/..", "version `1.0/..` contains `/`"),
            ("1.0-ä", "version `1.0-ä` contains `ä`"),
        ] {
            let found = text.parse::<Version>().map_err(|err| err.to_string());
            assert_eq!(found.err().as_deref(), Some(expected));
        }
    }

    /// A few hundred pairs from a fixed generator, judged by dpkg itself.
    #[test]
    fn agrees_with_dpkg() {
        let silent = |args: &[&str]| {
            Command::new("dpkg").args(args).stdout(Stdio::null()).stderr(Stdio::null()).status()
        };
        if silent(&["--version"]).is_err() {
            println!("skipped: dpkg not found");
            return;
        }
        const PIECES: [&str; 14] =
            ["0", "1", "10", "09", ".", "+", "~", "a", "b", "rc", "Z", "deb13u", "-", "~~"];
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut next = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit as u64) as usize
        };
        let mut generate = || {
            let mut text = String::from(["", "", "0:", "1:"][next(4)]);
            text.push_str(["1", "0", "2"][next(3)]);
            for _ in 0..next(5) {
                text.push_str(PIECES[next(PIECES.len())]);
            }
            text.trim_end_matches('-').to_owned()
        };
        for _ in 0..300 {
            let (left, right) = (generate(), generate());
            let relation = match version(&left).cmp(&version(&right)) {
                Ordering::Less => "lt",
                Ordering::Equal => "eq",
                Ordering::Greater => "gt",
            };
            let agrees = silent(&["--compare-versions", &left, relation, &right]);
            assert!(agrees.is_ok_and(|status| status.success()), "{left} {relation} {right}");
        }
    }
}
