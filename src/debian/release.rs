//! A signed `InRelease` file: who signed it, how old it is, what it lists.
//!
//! - What is parsed is the text that the signature covers, taken from the same value; a
//!   byte outside of the signed frame is refused, not skipped.
//! - The time is a parameter. An old index that was pinned on purpose is checked with the
//!   time at which it was pinned.
//! - Fetching, and checking a downloaded file against [`File`], are the caller's.

use std::collections::BTreeMap;

use pgp::composed::CleartextSignedMessage;
use thiserror::Error;

use super::control::{ControlError, Stanza};
use super::keyring::{CLOCK_SKEW, Refusal};
use crate::digest::{Digest, DigestError};

pub use super::keyring::{Keyring, KeyringError};

/// What a signed index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// `trixie`, `trixie-security`.
    pub codename: String,
    /// `stable`, `stable-security`.
    pub suite: String,
    /// When the index was made, as written.
    pub date: String,
    /// The same in seconds since 1970.
    pub date_unix: i64,
    /// When it stops being good, in seconds since 1970. Debian's main archive gives none.
    pub valid_until: Option<i64>,
    /// `main`, `contrib` …
    pub components: Vec<String>,
    /// `amd64`, `arm64` …
    pub architectures: Vec<String>,
    /// The listed files by path below the suite's folder: `main/binary-amd64/Packages.xz`.
    pub files: BTreeMap<String, File>,
    /// The fingerprints of the primary keys that signed, sorted.
    pub signed_by: Vec<String>,
}

/// What a listed file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub digest: Digest,
}

/// Why an index is not trusted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Larger than any archive's, so not read at all.
    #[error("the index has {0} bytes, more than {MAX_BYTES}")]
    TooLarge(usize),
    /// Not one clear-signed text and nothing else.
    #[error("not a clear-signed text: {0}")]
    Frame(&'static str),
    /// The signature part is damaged.
    #[error("the signatures cannot be read")]
    Armor(#[source] Box<pgp::errors::Error>),
    /// No signature counts; each with its reason, in the order of the file.
    #[error("no good signature: {}", list(.0))]
    Untrusted(Vec<(String, Refusal)>),
    /// `Valid-Until` has passed: the mirror is stale, or somebody holds back updates.
    #[error("the index was valid until {valid_until}")]
    Expired {
        /// The field as written.
        valid_until: String,
        /// The time it was compared with.
        now: i64,
    },
    /// `Date` is more than a day ahead of the clock.
    #[error("the index is dated {date}, which is in the future")]
    Future {
        /// The field as written.
        date: String,
        /// The time it was compared with.
        now: i64,
    },
    /// A field is missing or malformed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A date in another form than RFC 2822 in UTC.
    #[error("`{0}` is not a date")]
    Date(String),
    /// A line of the table of files.
    #[error("`{0}` is not a line of the SHA256 table")]
    File(String),
    /// A digest in that table.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// Debian's largest InRelease has 200 kB; Ubuntu's 300 kB.
const MAX_BYTES: usize = 8 << 20;

fn list(refusals: &[(String, Refusal)]) -> String {
    if refusals.is_empty() {
        return "there is none".to_owned();
    }
    let texts: Vec<String> =
        refusals.iter().map(|(issuer, refusal)| format!("the one by {issuer} {refusal}")).collect();
    texts.join("; ")
}

/// Checks the signatures and the dates and reads the index.
///
/// # Errors
/// [`ReleaseError`]; nothing of an index that fails is returned.
pub fn verify(inrelease: &[u8], keys: &Keyring, now_unix: i64) -> Result<Release, ReleaseError> {
    if inrelease.len() > MAX_BYTES {
        return Err(ReleaseError::TooLarge(inrelease.len()));
    }
    let text = std::str::from_utf8(inrelease).map_err(|_| ReleaseError::Frame("not UTF-8"))?;
    check_frame(text)?;
    let (message, _) = CleartextSignedMessage::from_string(text)
        .map_err(|err| ReleaseError::Armor(Box::new(err)))?;
    let signed = message.signed_text();
    let mut signed_by = Vec::new();
    let mut refusals = Vec::new();
    for signature in message.signatures() {
        match keys.check(signature, signed.as_bytes(), now_unix) {
            Ok(fingerprint) => signed_by.push(fingerprint),
            Err(refusal) => {
                let named = signature.issuer_key_id().first().map(ToString::to_string);
                refusals.push((named.unwrap_or_else(|| "nobody".to_owned()), refusal));
            }
        }
    }
    if signed_by.is_empty() {
        return Err(ReleaseError::Untrusted(refusals));
    }
    signed_by.sort();
    signed_by.dedup();
    parse(&signed, signed_by, now_unix)
}

/// The frame has one reading only: header lines, a blank line, text in which a
/// leading hyphen is escaped, one signature block, the end. Bytes that some
/// parsers treat as line ends or as text ends are refused.
fn check_frame(text: &str) -> Result<(), ReleaseError> {
    let wrong = |what| Err(ReleaseError::Frame(what));
    if text.bytes().any(|byte| byte < b' ' && byte != b'\n' && byte != b'\t') {
        return wrong("it contains control characters");
    }
    let mut lines = text.lines();
    if lines.next() != Some("-----BEGIN PGP SIGNED MESSAGE-----") {
        return wrong("it does not begin with a signed message");
    }
    if !lines.by_ref().take_while(|line| !line.is_empty()).all(|line| line.starts_with("Hash: ")) {
        return wrong("a header is not `Hash`");
    }
    let Some(end) = lines.by_ref().find(|line| line.starts_with('-') && !line.starts_with("- "))
    else {
        return wrong("it has no signature");
    };
    if end != "-----BEGIN PGP SIGNATURE-----" {
        return wrong("a line of the text begins with a hyphen");
    }
    match lines.by_ref().find(|line| line.starts_with('-')) {
        Some("-----END PGP SIGNATURE-----") => {}
        _ => return wrong("the signature does not end"),
    }
    if lines.next().is_some() {
        return wrong("something follows the signature");
    }
    Ok(())
}

fn parse(signed: &str, signed_by: Vec<String>, now: i64) -> Result<Release, ReleaseError> {
    let text = signed.replace("\r\n", "\n");
    let stanza = Stanza::only(&text)?;
    let date = stanza.required("Date")?;
    let date_unix = unix_seconds(date)?;
    if date_unix > now + CLOCK_SKEW {
        return Err(ReleaseError::Future { date: date.to_owned(), now });
    }
    let valid_until = stanza.field("Valid-Until").map(unix_seconds).transpose()?;
    if valid_until.is_some_and(|until| until < now) {
        let valid_until = stanza.required("Valid-Until")?.to_owned();
        return Err(ReleaseError::Expired { valid_until, now });
    }
    let words = |name| {
        stanza.field(name).unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut files = BTreeMap::new();
    for line in stanza.required("SHA256")?.lines().filter(|line| !line.trim().is_empty()) {
        let (path, file) = table_line(line)?;
        files.insert(path.to_owned(), file);
    }
    Ok(Release {
        codename: stanza.required("Codename")?.to_owned(),
        suite: stanza.field("Suite").unwrap_or("").to_owned(),
        date: date.to_owned(),
        date_unix,
        valid_until,
        components: words("Components"),
        architectures: words("Architectures"),
        files,
        signed_by,
    })
}

fn table_line(line: &str) -> Result<(&str, File), ReleaseError> {
    let mut words = line.split_whitespace();
    let (Some(hex), Some(size), Some(path), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(ReleaseError::File(line.to_owned()));
    };
    let size = size.parse().map_err(|_| ReleaseError::File(line.to_owned()))?;
    if !is_plain_path(path) {
        return Err(ReleaseError::File(line.to_owned()));
    }
    Ok((path, File { size, digest: Digest::from_hex(hex)? }))
}

/// Whether `path` is relative, without empty, `.` or `..` parts, and fit for a URL and a file name.
pub(super) fn is_plain_path(path: &str) -> bool {
    path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'?' && byte != b'#')
}

/// Seconds since 1970 of `Sat, 12 Sep 2026 07:55:41 UTC`.
fn unix_seconds(date: &str) -> Result<i64, ReleaseError> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let wrong = || ReleaseError::Date(date.chars().take(80).collect());
    let number = |text: &str, from: i64, to: i64| match text.parse::<i64>() {
        Ok(number) if (from..=to).contains(&number) && text.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(number)
        }
        _ => Err(wrong()),
    };
    let words: Vec<&str> = date.split_whitespace().collect();
    let [weekday, day, month, year, clock, zone] = words[..] else {
        return Err(wrong());
    };
    if !weekday.ends_with(',') || !["UTC", "GMT", "Z", "+0000"].contains(&zone) {
        return Err(wrong());
    }
    let month = MONTHS.iter().position(|&name| name == month).ok_or_else(wrong)? as i64 + 1;
    let (day, year) = (number(day, 1, 31)?, number(year, 1970, 9999)?);
    let clock: Vec<&str> = clock.split(':').collect();
    let [hour, minute, second] = clock[..] else {
        return Err(wrong());
    };
    let seconds =
        number(hour, 0, 23)? * 3600 + number(minute, 0, 59)? * 60 + number(second, 0, 60)?;
    // Days from civil: years start in March, so that the leap day comes last.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = shifted_year * 365 + leap_days + day_of_year - 719_468;
    Ok(days * 86_400 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wed, 01 Jul 2026 12:00:00 UTC, half a day after the fixtures were signed.
    const NOW: i64 = 1_782_907_200;
    const GOOD: &str = include_str!("fixtures/good.inrelease");

    fn verified(inrelease: &str, now: i64) -> Result<Release, String> {
        let keys = Keyring::parse(include_str!("fixtures/keys.asc")).unwrap();
        verify(inrelease.as_bytes(), &keys, now).map_err(|err| err.to_string())
    }

    #[track_caller]
    fn refused(inrelease: &str, now: i64, expected: &str) {
        let found = verified(inrelease, now).map(|release| release.signed_by);
        assert!(
            found.as_ref().is_err_and(|err| err.contains(expected)),
            "expected `{expected}`, found {found:?}"
        );
    }

    #[test]
    fn by_primary_key_and_by_subkey() {
        let release = verified(GOOD, NOW).unwrap();
        assert_eq!(release.codename, "example");
        assert_eq!(release.date_unix, 1_782_864_000);
        assert_eq!(release.valid_until, Some(1_782_864_000 + 7 * 86_400));
        assert_eq!(release.files["main/binary-amd64/Packages"].size, 0);
        assert_eq!(release.files["main/binary-amd64/Packages"].digest, Digest::of(b""));
        assert!(verified(include_str!("fixtures/primary.inrelease"), NOW).is_ok());
    }

    #[test]
    fn one_good_signature_of_two_is_enough() {
        let release = verified(include_str!("fixtures/two.inrelease"), NOW).unwrap();
        assert_eq!(release.signed_by, verified(GOOD, NOW).unwrap().signed_by);
    }

    #[test]
    fn signatures_that_do_not_count() {
        for (inrelease, expected) in [
            (include_str!("fixtures/stranger.inrelease"), "a key that is not in the keyring"),
            (include_str!("fixtures/expired.inrelease"), "after its key had expired"),
            (include_str!("fixtures/revoked.inrelease"), "a revoked key"),
            (include_str!("fixtures/subrevoked.inrelease"), "a revoked key"),
            (include_str!("fixtures/weak.inrelease"), "weaker than SHA-256"),
        ] {
            refused(inrelease, NOW, expected);
        }
        refused(&GOOD.replace("amd64", "amd65"), NOW, "does not fit the text");
        refused(&GOOD.replace(" main/", " - main/"), NOW, "does not fit the text");
    }

    #[test]
    fn dates() {
        refused(GOOD, NOW + 8 * 86_400, "valid until Wed, 08 Jul 2026 00:00:00 UTC");
        refused(GOOD, NOW - 3 * 86_400, "made in the future");
        assert!(verified(GOOD, NOW - 86_400).is_ok());
    }

    /// What a lenient reader might take for part of the index.
    #[test]
    fn nothing_outside_of_the_signed_text() {
        let text = GOOD.replace("Origin", "- Origin");
        assert_eq!(verified(&text, NOW).map(|release| release.codename), Ok("example".to_owned()));
        for (inrelease, expected) in [
            (format!("Codename: evil\n\n{GOOD}"), "does not begin"),
            (format!("\n{GOOD}"), "does not begin"),
            (format!("{GOOD}\nCodename: evil\n"), "something follows"),
            (format!("{GOOD}{GOOD}"), "something follows"),
            (GOOD.replace("Hash: SHA256\n", "Hash: SHA256\nCodename: evil\n"), "header is not"),
            (GOOD.replace("Origin", "-----BEGIN X-----\nOrigin"), "begins with a hyphen"),
            (GOOD.replace("Origin", "-Origin"), "begins with a hyphen"),
            (GOOD.replace("\nSuite", "\rSuite"), "control characters"),
            (GOOD.replace("-----END PGP SIGNATURE-----", ""), "does not end"),
            ("Codename: evil\n".to_owned(), "does not begin"),
            (String::new(), "does not begin"),
        ] {
            refused(&inrelease, NOW, expected);
        }
    }

    #[test]
    fn date_forms() {
        for (date, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", Some(0)),
            ("Thu,  1 Jan 1970 00:00:01 +0000", Some(1)),
            ("Sat, 12 Sep 2026 07:55:41 UTC", Some(1_789_199_741)),
            ("Thu, 29 Feb 2024 23:59:59 UTC", Some(1_709_251_199)),
            ("Sat, 12 Sep 2026 07:55:41 CEST", None),
            ("Sat, 12 Sep 2026 07:55 UTC", None),
            ("2026-09-12", None),
            ("Sat, -1 Sep 2026 07:55:41 UTC", None),
        ] {
            assert_eq!(unix_seconds(date).ok(), expected, "{date}");
        }
    }

    #[test]
    fn table_lines() {
        let hex = Digest::of(b"").hex();
        for (line, good) in [
            (format!(" {hex} 12 main/binary-amd64/Packages.xz"), true),
            (format!(" {hex} 12 ../../etc/passwd"), false),
            (format!(" {hex} 12 /etc/passwd"), false),
            (format!(" {hex} -1 main/Packages"), false),
            (format!(" {hex} main/Packages"), false),
            (" abc 1 main/Packages".to_owned(), false),
        ] {
            assert_eq!(table_line(&line).is_ok(), good, "{line}");
        }
    }
}
