//! Pushing an image to a registry, and pulling one (OCI distribution specification 1.1).
//!
//! ```text
//! push: for each blob: HEAD; absent ─► POST an upload ─► PUT the whole body with its digest
//!       manifest: PUT under the tag, last, so that the tag never names half an image
//! pull: see `pull`
//! ```
//!
//! - Credentials come from the docker configuration: basic, or a token that the
//!   registry's challenge names.
//! - Plain HTTP only for loopback and for hosts that the settings name.
//! - No mounts, no chunks, no shared cache yet.

mod credentials;
mod entry;
#[cfg(test)]
mod fake;
mod manifest;
mod pull;
mod reference;
mod token;

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use reqwest::{StatusCode, Url};
use thiserror::Error;

use crate::digest::Digest;
use crate::event::{Event, Events};
use crate::image::{Image, MANIFEST_TYPE};
use crate::store::{Store, StoreError};

pub use credentials::Credentials;
pub use entry::{EMPTY, Entry, image_tag, tag};
pub use manifest::{Descriptor, ManifestError, Platform};
pub use pull::{Access, Resolved, Source};
pub use reference::Reference;

/// Tries for each request, the first included.
const TRIES: u32 = 4;
/// No error message of a registry is longer than this many bytes.
const MESSAGE_LIMIT: u64 = 64 << 10;

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
    /// No answer.
    #[error("could not {action} at `{registry}`")]
    Unreachable {
        /// What was being done, to what.
        action: String,
        /// The registry.
        registry: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The registry said no.
    #[error("`{registry}` refused to {action}: {status} {message}")]
    Refused {
        /// What was being done, to what.
        action: String,
        /// The registry.
        registry: String,
        /// The status.
        status: u16,
        /// The registry's own words.
        message: String,
    },
    /// An answer that is not what the protocol says.
    #[error("`{registry}` answered oddly to {action}: {problem}")]
    Protocol {
        /// What was being done, to what.
        action: String,
        /// The registry.
        registry: String,
        /// What is odd.
        problem: String,
    },
    /// An answer that ended too early, each time.
    #[error("`{registry}` broke off when asked to {action}")]
    Broken {
        /// What was being done, to what.
        action: String,
        /// The registry.
        registry: String,
        /// What went wrong.
        source: std::io::Error,
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
    /// A layer's bytes are not in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Each error with its causes, on one line.
fn told(tried: &[RegistryError]) -> String {
    let one = |error: &RegistryError| {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            text.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        text
    };
    tried.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// One repository of a registry, with what opens it.
pub struct Registry {
    client: Client,
    base: Url,
    host: String,
    repository: String,
    login: Option<(String, String)>,
    token: Mutex<Option<String>>,
    right: Right,
    /// There is somebody else to ask: one that cannot be connected to is not tried again.
    is_mirror: bool,
}

/// What a token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Push,
    Pull,
}

impl Registry {
    /// Prepares to speak to the registry of `reference`. `insecure` names hosts
    /// that are spoken to without TLS; loopback always is.
    ///
    /// # Errors
    /// Credentials that cannot be read.
    pub fn open(
        client: &Client,
        reference: &Reference,
        credentials: &Credentials,
        insecure: &[String],
    ) -> Result<Registry, RegistryError> {
        let Reference { host, repository, .. } = reference;
        Registry::at(client, (host, repository), credentials, insecure, Right::Push)
    }

    fn at(
        client: &Client,
        (host, repository): (&str, &str),
        credentials: &Credentials,
        insecure: &[String],
        right: Right,
    ) -> Result<Registry, RegistryError> {
        let plain = reference::is_loopback(host) || insecure.iter().any(|other| other == host);
        let scheme = if plain { "http" } else { "https" };
        let address = format!("{scheme}://{}/v2/", reference::api_host(host));
        let base = Url::parse(&address).map_err(|_| RegistryError::Reference {
            text: format!("{host}/{repository}"),
            problem: "the host is no host",
        })?;
        Ok(Registry {
            client: client.clone(),
            base,
            host: host.to_owned(),
            repository: repository.to_owned(),
            login: credentials.of(host, repository)?,
            token: Mutex::new(None),
            right,
            is_mirror: false,
        })
    }

    /// Sends what the registry does not have, then the manifest under the tag.
    ///
    /// # Errors
    /// See [`RegistryError`]; the tag is untouched unless all went well.
    pub fn push(
        &self,
        image: &Image,
        store: &Store,
        reference: &Reference,
        events: &Events,
    ) -> Result<(), RegistryError> {
        let mut sent = std::collections::BTreeSet::new();
        for layer in &image.layers {
            let blob = &layer.layer;
            if !sent.insert(blob.digest) {
                continue;
            }
            if self.has(&blob.digest, blob.size)? {
                events.send(Event::Pushed { what: layer.name.clone(), sent: 0 });
                continue;
            }
            self.upload(&blob.digest, &|| {
                let file = store.open_blob(&blob.digest)?;
                let reader = Watched {
                    inner: file,
                    what: layer.name.clone(),
                    done: 0,
                    total: blob.size,
                    events: events.clone(),
                };
                Ok(Body::sized(reader, blob.size))
            })?;
            events.send(Event::Pushed { what: layer.name.clone(), sent: blob.size });
        }
        let size = image.config.len() as u64;
        let mut config_sent = 0;
        if !self.has(&image.config_digest, size)? {
            self.upload(&image.config_digest, &|| Ok(Body::from(image.config.clone())))?;
            config_sent = size;
        }
        events.send(Event::Pushed { what: "configuration".to_owned(), sent: config_sent });
        self.put_manifest(image, &reference.tag)
    }

    fn address(&self, rest: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{rest}", self.repository));
        url
    }

    /// Whether the registry has the blob. An answer that is neither yes nor no
    /// counts as no: uploading again does no harm.
    fn has(&self, digest: &Digest, size: u64) -> Result<bool, RegistryError> {
        let action = format!("look for blob {digest}");
        let url = self.address(&format!("blobs/{digest}"));
        let response = self.send(&action, &|| Ok(self.client.head(url.clone())))?;
        let length = response
            .headers()
            .get("content-length")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(response.status() == StatusCode::OK && length.is_none_or(|length: u64| length == size))
    }

    fn upload(
        &self,
        digest: &Digest,
        body: &dyn Fn() -> Result<Body, RegistryError>,
    ) -> Result<(), RegistryError> {
        let action = format!("upload blob {digest}");
        let mut last = None;
        // A session whose body was half sent is not used again.
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(500 << attempt));
            }
            let start = self.address("blobs/uploads/");
            let response = self.send(&action, &|| {
                Ok(self.client.post(start.clone()).header("Content-Length", "0"))
            })?;
            if response.status() != StatusCode::ACCEPTED {
                return Err(self.refused(&action, response));
            }
            let target = self.location(&action, &response)?;
            let target = with_digest(target, digest);
            let put = || -> Result<RequestBuilder, RegistryError> {
                Ok(self
                    .client
                    .put(target.clone())
                    .header("Content-Type", "application/octet-stream")
                    .body(body()?))
            };
            match self.once(&action, &put) {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(()),
                Ok(response)
                    if may_pass(response.status())
                        || response.status() == StatusCode::UNAUTHORIZED =>
                {
                    self.learn(&action, &response)?;
                    last = Some(self.refused(&action, response));
                }
                Ok(response) => return Err(self.refused(&action, response)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.odd(&action, "no answer".to_owned())))
    }

    fn put_manifest(&self, image: &Image, tag: &str) -> Result<(), RegistryError> {
        let action = format!("put the manifest under `{tag}`");
        let url = self.address(&format!("manifests/{tag}"));
        let response = self.send(&action, &|| {
            Ok(self
                .client
                .put(url.clone())
                .header("Content-Type", MANIFEST_TYPE)
                .body(image.manifest.clone()))
        })?;
        if response.status() != StatusCode::CREATED {
            return Err(self.refused(&action, response));
        }
        match response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok())
        {
            Some(digest) if digest != image.digest.to_string() => {
                Err(self
                    .odd(&action, format!("it names the manifest {digest}, not {}", image.digest)))
            }
            _ => Ok(()),
        }
    }

    /// Where the upload goes on. Another origin is refused: credentials belong to
    /// this one.
    fn location(&self, action: &str, response: &Response) -> Result<Url, RegistryError> {
        let text =
            response.headers().get("location").and_then(|value| value.to_str().ok()).ok_or_else(
                || self.odd(action, "it gives no Location for the upload".to_owned()),
            )?;
        let url = response
            .url()
            .join(text)
            .map_err(|_| self.odd(action, format!("its Location is no address: {text}")))?;
        if url.origin() != self.base.origin() {
            return Err(self.odd(action, "it sends the upload to another host".to_owned()));
        }
        Ok(url)
    }

    /// A request that may be repeated, until it is answered for good.
    fn send(
        &self,
        action: &str,
        request: &dyn Fn() -> Result<RequestBuilder, RegistryError>,
    ) -> Result<Response, RegistryError> {
        let mut asked = false;
        let mut attempt = 1;
        loop {
            match self.once(action, request) {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !asked => {
                    asked = true;
                    self.learn(action, &response)?;
                }
                Ok(response) if may_pass(response.status()) && attempt < TRIES => {
                    std::thread::sleep(pause(&response, attempt));
                    attempt += 1;
                }
                Err(RegistryError::Unreachable { source, .. })
                    if attempt < TRIES && !(self.is_mirror && source.is_connect()) =>
                {
                    std::thread::sleep(growing(attempt));
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn once(
        &self,
        action: &str,
        request: &dyn Fn() -> Result<RequestBuilder, RegistryError>,
    ) -> Result<Response, RegistryError> {
        let mut request = request()?;
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = token {
            request = request.bearer_auth(token);
        } else if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password));
        }
        request.send().map_err(|source| RegistryError::Unreachable {
            action: action.to_owned(),
            registry: self.host.clone(),
            source: source.without_url(),
        })
    }

    /// Gets a token if the registry's challenge names where.
    fn learn(&self, action: &str, response: &Response) -> Result<(), RegistryError> {
        // What another host asks for, to which we were redirected, is not ours to give.
        if response.status() != StatusCode::UNAUTHORIZED
            || response.url().origin() != self.base.origin()
        {
            return Ok(());
        }
        let challenge = response
            .headers()
            .get_all("www-authenticate")
            .iter()
            .find_map(|value| token::challenge(value.to_str().ok()?));
        let Some(challenge) = challenge else { return Ok(()) };
        let right = match self.right {
            Right::Push => "push,pull",
            Right::Pull => "pull",
        };
        let scope = format!("repository:{}:{right}", self.repository);
        let url = challenge
            .address(&scope, self.base.scheme() == "http")
            .map_err(|problem| self.odd(action, problem))?;
        let mut request = self.client.get(url);
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password));
        }
        let unreachable = |source: reqwest::Error| RegistryError::Unreachable {
            action: "get a token".to_owned(),
            registry: self.host.clone(),
            source: source.without_url(),
        };
        let response = request.send().map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(self.refused("get a token", response));
        }
        let mut text = String::new();
        response
            .take(MESSAGE_LIMIT)
            .read_to_string(&mut text)
            .map_err(|error| self.odd("get a token", error.to_string()))?;
        let token = token::token(&text)
            .ok_or_else(|| self.odd("get a token", "the answer holds none".to_owned()))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }

    fn refused(&self, action: &str, response: Response) -> RegistryError {
        let status = response.status().as_u16();
        let mut text = String::new();
        // An answer that breaks off still has a status.
        let _as_much_as_came = response.take(MESSAGE_LIMIT).read_to_string(&mut text);
        RegistryError::Refused {
            action: action.to_owned(),
            registry: self.host.clone(),
            status,
            message: message(&text),
        }
    }

    fn odd(&self, action: &str, problem: String) -> RegistryError {
        RegistryError::Protocol { action: action.to_owned(), registry: self.host.clone(), problem }
    }
}

fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// The longest that a registry may make us wait between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

fn growing(attempt: u32) -> Duration {
    Duration::from_millis(250 << attempt)
}

/// What the registry asks for, up to a minute, or a growing pause.
fn pause(response: &Response, attempt: u32) -> Duration {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let asked = header("retry-after").and_then(|text| wait(text, header("date")));
    asked.map_or_else(|| growing(attempt), |asked| asked.min(LONGEST_PAUSE))
}

/// `Retry-After` as a duration: seconds, or a time, seen from the answer's own. One that is
/// over says nothing.
fn wait(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = retry_after.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds = http_date(retry_after)?.checked_sub(http_date(date?)?)?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Seconds since a fixed moment for `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7), the form
/// that servers must send. Enough to tell two such times apart.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    if !(1900..10_000).contains(&year) || day > 31 {
        return None;
    }
    let mut parts = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The upload's address as the registry gave it, with the digest added.
fn with_digest(mut url: Url, digest: &Digest) -> Url {
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}

/// The messages of a registry's error document, or the text's first line.
fn message(text: &str) -> String {
    let document: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let messages: Vec<String> = document
        .as_ref()
        .and_then(|document| document["errors"].as_array())
        .into_iter()
        .flatten()
        .map(|error| {
            let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}", part("code"), part("message")).trim().to_owned()
        })
        .collect();
    if messages.is_empty() {
        text.lines()
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|letter| !letter.is_control())
            .take(200)
            .collect()
    } else {
        messages.join("; ")
    }
}

/// A body that reports how much of it was read.
struct Watched {
    inner: crate::store::Checked,
    what: String,
    done: u64,
    total: u64,
    events: Events,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.done += length as u64;
        self.events.send(Event::Pushing {
            what: self.what.clone(),
            done: self.done,
            total: self.total,
        });
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_words() {
        assert_eq!(
            message(r#"{"errors":[{"code":"DENIED","message":"no quota"}]}"#),
            "DENIED no quota"
        );
        assert_eq!(message("<html>\nno"), "<html>");
        assert_eq!(message(""), "");
    }

    #[test]
    fn retry_after() {
        let date = Some("Sun, 28 Feb 2027 23:59:30 GMT");
        for (asked, date, expected) in [
            ("7", None, Some(7)),
            ("Mon, 01 Mar 2027 00:00:15 GMT", date, Some(45)),
            ("Wed, 01 Mar 2028 00:00:00 GMT", Some("Mon, 28 Feb 2028 00:00:00 GMT"), Some(172_800)),
            ("Sun, 28 Feb 2027 23:59:29 GMT", date, None),
            ("Mon, 01 Mar 2027 00:00:15 GMT", None, None),
            ("soon", date, None),
            ("-1", date, None),
            ("Mon, 99 Xyz 2027 00:00:15 GMT", date, None),
        ] {
            assert_eq!(wait(asked, date), expected.map(Duration::from_secs), "{asked}");
        }
    }

    #[test]
    fn digests_are_added_to_any_query() {
        let digest = Digest::of(b"");
        for (given, separator) in [("http://h/u", "?"), ("http://h/u?_state=x", "&")] {
            let url = with_digest(Url::parse(given).expect("an address"), &digest);
            assert_eq!(url.as_str(), format!("{given}{separator}digest=sha256%3A{}", digest.hex()));
        }
    }
}
