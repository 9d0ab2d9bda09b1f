//! Why a registry did not do what it was asked: with what was being done, where, and the
//! registry's own words.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use reqwest::blocking::Response;
use thiserror::Error;

use super::manifest::{ManifestError, Platform};
use crate::digest::Digest;
use crate::event::with_causes;
use crate::store::StoreError;

/// No error message of a registry is longer than this many bytes.
pub(super) const MESSAGE_LIMIT: u64 = 64 << 10;
/// Of a text that is no error document, so many characters are shown.
const SHOWN: usize = 300;

/// Why a push or a pull failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A name that is no image reference.
    #[error("`{text}` is not an image reference: {problem}")]
    Reference {
        /// What was written.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A name that is no platform.
    #[error("`{text}` is not a platform like `linux/amd64`")]
    Platform {
        /// What was written.
        text: String,
    },
    /// The docker configuration cannot be used.
    #[error("could not use the registry credentials in `{path}`: {problem}")]
    Credentials {
        /// The file, or the helper.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Certificates that cannot be used.
    #[error("could not use `{path}` for `{registry}`: {problem}")]
    Certificates {
        /// The file.
        path: String,
        /// The registry.
        registry: String,
        /// What is wrong.
        problem: String,
    },
    /// No client can be made.
    #[error("could not prepare to speak to registries")]
    Client(#[source] crate::download::DownloadError),
    /// No answer.
    #[error("could not {action} at `{repository}`")]
    Unreachable {
        /// What was being done, to what.
        action: String,
        /// The registry with the repository.
        repository: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The registry said no.
    #[error("`{repository}` refused to {action}: {refusal}")]
    Refused {
        /// What was being done, to what.
        action: String,
        /// The registry with the repository.
        repository: String,
        /// What this was for.
        right: Right,
        /// The registry's answer.
        refusal: Box<Refusal>,
    },
    /// An answer that is not what the protocol says.
    #[error("`{repository}` answered oddly to {action}: {problem}")]
    Protocol {
        /// What was being done, to what.
        action: String,
        /// The registry with the repository.
        repository: String,
        /// What is odd.
        problem: String,
    },
    /// An answer that ended too early, each time.
    #[error("`{repository}` broke off when asked to {action}")]
    Broken {
        /// What was being done, to what.
        action: String,
        /// The registry with the repository.
        repository: String,
        /// What went wrong.
        source: io::Error,
    },
    /// A tag that names another image and must go on to do so.
    #[error("`{repository}:{tag}` names {found} and may not be moved to {wanted}: {refusal}")]
    Immutable {
        /// The registry with the repository.
        repository: String,
        /// The tag.
        tag: String,
        /// What it names.
        found: Digest,
        /// What it should have named.
        wanted: Digest,
        /// The registry's answer.
        refusal: Box<Refusal>,
    },
    /// A tag that names something else than it must for this push.
    #[error("`{reference}` names {}, not {}", image(*found), image(*expected))]
    Unexpected {
        /// The registry with the repository and the tag.
        reference: String,
        /// What it names, if it is there.
        found: Option<Digest>,
        /// What it should have named; `None` when it should not be there.
        expected: Option<Digest>,
    },
    /// An image that forge cannot take.
    #[error("the image `{image}` of `{registry}` cannot be used")]
    Manifest {
        /// The image.
        image: String,
        /// Who has it so.
        registry: String,
        /// What is wrong with it.
        source: Box<ManifestError>,
    },
    /// A mirror that was out of order earlier is not asked again.
    #[error("`{registry}` did not work before")]
    OutOfOrder {
        /// The mirror.
        registry: String,
    },
    /// No mirror had it, nor the registry.
    #[error("could not {action} anywhere: {}", told(.tried))]
    Nowhere {
        /// What was being done, to what.
        action: String,
        /// What each said, in the order asked, the registry last.
        tried: Vec<RegistryError>,
    },
    /// Two images of an index are for the same platform.
    #[error("{one} and {other} are both for {platform}, and an index has one for each")]
    SamePlatform {
        /// The platform.
        platform: Box<Platform>,
        /// One manifest.
        one: Digest,
        /// The other.
        other: Digest,
    },
    /// A document that cannot be written down: a bug in forge.
    #[error("could not write a document for the registry down")]
    Record(#[source] serde_json::Error),
    /// A registry's storage has lost part of a blob.
    #[error("`{repository}` has a damaged {digest}, and keeps it whatever it is sent")]
    Damaged {
        /// The registry with the repository.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// A blob that the store lacks could not be brought there to be pushed.
    #[error("could not fetch {digest} in order to push it")]
    NotBrought {
        /// The blob.
        digest: Digest,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer's bytes are not in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RegistryError {
    /// Whether there was no answer, or none to its end, however often it was asked for: the
    /// next question would take as long.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, RegistryError::Unreachable { .. } | RegistryError::Broken { .. })
    }
}

/// What a request is for, and so what a token must allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Reading.
    Pull,
    /// Writing, which reads too.
    Push,
}

/// A registry's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The codes of its error document, like `NAME_UNKNOWN`.
    pub codes: Vec<String>,
    /// Its own words, codes included.
    pub message: String,
    /// How long it wants not to be asked again, where that is too long to wait for.
    pub wait: Option<Duration>,
}

/// Of which kind a refusal is; what to do about it depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody said who we are, or it was wrong.
    Unknown,
    /// Known, but may not.
    Denied,
    /// No such repository; some registries want it made before.
    NoRepository,
    /// A tag that names something for good.
    Immutable,
    /// No space left for us.
    Quota,
    /// One request is larger than the registry, or a proxy before it, takes.
    TooLarge,
    /// Too many requests for now.
    Busy,
    /// The registry is out of order.
    Down,
    /// Something else.
    Other,
}

impl Refusal {
    /// Of which kind it is.
    #[must_use]
    pub fn reason(&self) -> Reason {
        let has = |code: &str| self.codes.iter().any(|other| other == code);
        let says = |word: &str| self.message.to_ascii_lowercase().contains(word);
        match self.status {
            _ if has("TAG_INVALID") || says("immutable") || says("cannot be overwritten") => {
                Reason::Immutable
            }
            507 => Reason::Quota,
            400..=499 if says("quota") || says("storage limit") => Reason::Quota,
            429 => Reason::Busy,
            413 => Reason::TooLarge,
            401 => Reason::Unknown,
            404 if has("NAME_UNKNOWN") || says("repository") => Reason::NoRepository,
            403 => Reason::Denied,
            500.. => Reason::Down,
            _ => Reason::Other,
        }
    }

    /// Reads a refusal for at most `patience`, and a last time as long: an answer that breaks
    /// off, or never ends, still has a status.
    pub(super) fn read(
        mut response: Response,
        wait: Option<Duration>,
        patience: Duration,
    ) -> Refusal {
        let status = response.status().as_u16();
        let started = Instant::now();
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        while bytes.len() < MESSAGE_LIMIT as usize && started.elapsed() < patience {
            match response.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(length) => bytes.extend(&piece[..length]),
            }
        }
        let (codes, message) = message(&String::from_utf8_lossy(&bytes));
        Refusal { status, codes, message, wait }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.message.is_empty() {
            write!(f, " {}", self.message)?;
        }
        match self.wait {
            Some(wait) => write!(f, " (it wants {} seconds of rest)", wait.as_secs()),
            None => Ok(()),
        }
    }
}

/// What a tag names, in a sentence.
fn image(named: Option<Digest>) -> String {
    named.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string())
}

/// Each error with its causes, on one line.
pub(super) fn told(tried: &[RegistryError]) -> String {
    let one = |error: &RegistryError| with_causes(error);
    tried.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The codes and messages of a registry's error document, or the beginning of the text. What
/// comes from outside is shown without control characters.
fn message(text: &str) -> (Vec<String>, String) {
    let clean = |text: &str| -> String {
        text.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect()
    };
    let document: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let (mut codes, mut messages) = (Vec::new(), Vec::new());
    let errors = document.as_ref().and_then(|document| document["errors"].as_array());
    for error in errors.into_iter().flatten() {
        let part = |name: &str| clean(error[name].as_str().unwrap_or_default());
        // Where the detail is words, they say more than the message.
        let parts = [part("code"), part("message"), part("detail")];
        codes.push(parts[0].clone());
        let said: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        messages.push(said.join(" "));
    }
    if !messages.is_empty() {
        return (codes, messages.join("; "));
    }
    // Token servers and proxies have other documents.
    let other = document.as_ref().and_then(|document| {
        ["message", "details", "error_description", "error"]
            .iter()
            .find_map(|name| document[*name].as_str())
    });
    let text = other.unwrap_or(text);
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    (codes, clean(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, text: &str) -> Refusal {
        let (codes, message) = message(text);
        Refusal { status, codes, message, wait: None }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(refusal(400, text).to_string(), format!("400 {expected}").trim_end());
    }

    #[test]
    fn the_registrys_own_words() {
        check(r#"{"errors":[{"code":"DENIED","message":"no quota"}]}"#, "DENIED no quota");
        check(
            r#"{"errors":[{"code":"A","message":"b","detail":"c"},{"message":"d","detail":{}}]}"#,
            "A b c; d",
        );
        check(r#"{"details":"incorrect username or password"}"#, "incorrect username or password");
        check("<html>\nno", "<html>");
        check("\n\n  Too Many\u{1b}[31m Requests  \n", "Too Many[31m Requests");
        check("", "");
        check(&"x".repeat(5000), &"x".repeat(SHOWN));
        let mut asked = refusal(429, "");
        asked.wait = Some(Duration::from_secs(7200));
        assert_eq!(asked.to_string(), "429 (it wants 7200 seconds of rest)");
    }

    #[test]
    fn reasons() {
        let code = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":""}}]}}"#);
        for (status, text, expected) in [
            (401, code("UNAUTHORIZED"), Reason::Unknown),
            (403, code("DENIED"), Reason::Denied),
            (404, code("NAME_UNKNOWN"), Reason::NoRepository),
            (404, code("MANIFEST_UNKNOWN"), Reason::Other),
            (400, code("TAG_INVALID"), Reason::Immutable),
            (409, "tag v1 is immutable".to_owned(), Reason::Immutable),
            (412, "configured as immutable".to_owned(), Reason::Immutable),
            (403, "Quota exceeded".to_owned(), Reason::Quota),
            (
                412,
                "will exceed the configured upper limit of storage quota".to_owned(),
                Reason::Quota,
            ),
            (507, String::new(), Reason::Quota),
            (413, "<html>".to_owned(), Reason::TooLarge),
            (429, String::new(), Reason::Busy),
            (503, String::new(), Reason::Down),
            (400, code("MANIFEST_INVALID"), Reason::Other),
        ] {
            assert_eq!(refusal(status, &text).reason(), expected, "{status} {text}");
        }
    }
}
