//! Sending one blob.
//!
//! ```text
//! HEAD ─► there: nothing to do, unless it was seen broken: then it is read
//! POST ?mount=&from=  ─► 201 mounted · 202 a session after all
//! POST ─► session ─► PUT all             small ones
//!                 ─► PATCH all ─► PUT    the usual form
//!                 ─► PATCH, PATCH … ─► PUT   where all at once is too much
//! ```
//!
//! - A broken PATCH goes on where the registry says that it is (GET of the session). Where it
//!   says nothing, and after a broken PUT, the blob is looked for, then sent anew in a session of
//!   its own: a session that has failed is not trusted.
//! - What counts in the end is that the registry has the digest.
//! - Sessions stay on the registry's own origin; another one is refused, as is one that leads
//!   out of TLS.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::Response;

use super::content::{Content, Told};
use super::error::Right;
use super::repository::Look;
use super::session::{Session, end, with_digest};
use super::token::Scope;
use super::wire::{Make, TRIES, Task, header, may_pass};
use super::{RegistryError, Repository};
use crate::digest::Digest;

/// Blobs up to this length go in two requests instead of three.
const SMALL: u64 = 64 << 10;
/// The first length of chunks. One registry takes no longer ones (GHCR: 4 MiB).
const CHUNK: u64 = 4 << 20;
/// Shorter chunks are not tried.
const LEAST_CHUNK: u64 = 64 << 10;
/// Bytes a second: an upload that is slower than this on the whole is given up. One that stops
/// is given up by TCP much earlier.
const SLOWEST_LINE: u64 = 16 << 10;
/// Bytes a second, with which a registry hashes or moves what it was sent.
const SLOWEST_DISK: u64 = 4 << 20;

/// A blob that a repository should have.
#[derive(Clone, Copy, Debug)]
pub struct Blob<'a> {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Repositories of the same registry that may have it, the likeliest first.
    pub from: &'a [String],
    /// Whether a registry like this one was seen to have it broken: then its word that it has
    /// it is not enough.
    pub is_doubted: bool,
}

/// How a blob got there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was there.
    WasThere,
    /// The registry took it from another repository.
    Mounted,
    /// So many bytes were sent.
    Uploaded(u64),
}

/// What the registry has refused and is not asked for again.
#[derive(Default)]
pub(super) struct RefusedForms {
    put: AtomicBool,
    whole: AtomicBool,
    sources: Mutex<BTreeSet<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Put,
    Whole,
    Chunks(u64),
}

enum Trouble {
    /// Nothing that another try would change.
    Final(RegistryError),
    /// Perhaps in another session.
    Again(RegistryError),
    /// Perhaps in another form.
    Other(Box<RegistryError>, Form),
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Trouble {
        Trouble::Final(error)
    }
}

impl Repository {
    pub(super) fn send_blob(
        &self,
        blob: &Blob<'_>,
        content: &Content<'_>,
        told: &Told,
    ) -> Result<Sent, RegistryError> {
        let task = self.task(Right::Push, format!("upload blob {}", blob.digest));
        let look = self.look(&task, &blob.digest, Some(blob.size))?;
        let doubted = blob.is_doubted || look == Look::OtherLength;
        if look == Look::There && (!doubted || self.seems_whole(&task, &blob.digest)?) {
            return Ok(Sent::WasThere);
        }
        let mut session = None;
        // A mount would bring the same broken one.
        let origins = blob.from.iter().filter(|from| !doubted && **from != self.name);
        for from in origins {
            match self.mount(blob, from)? {
                Mounted::Yes => return Ok(Sent::Mounted),
                Mounted::Session(opened) => session = Some(opened),
                Mounted::No => {}
            }
        }
        content.bring()?;
        let mut form = self.first_form(blob.size);
        let mut attempt = 1;
        loop {
            let opened = match session.take() {
                Some(opened) => opened,
                None => self.open_session(&task)?,
            };
            let upload = Upload { repository: self, task: &task, blob, content, told };
            let error = match upload.run(opened, form) {
                // Some registries keep what they have under a digest, also when it is broken.
                Ok(()) if doubted && !self.is_whole(&task, &blob.digest)? => {
                    let (repository, digest) = (self.to_string(), blob.digest);
                    return Err(RegistryError::Damaged { repository, digest });
                }
                Ok(()) => return Ok(Sent::Uploaded(blob.size)),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again(error)) => error,
                Err(Trouble::Other(error, other)) => {
                    form = other;
                    *error
                }
            };
            if attempt == TRIES {
                return Err(error);
            }
            content.check()?;
            self.rest(attempt);
            attempt += 1;
            // The answer may be all that was lost.
            if !doubted && self.has(&task, &blob.digest, Some(blob.size))? {
                return Ok(Sent::Uploaded(blob.size));
            }
            // A proxy that takes less may end the connection instead of saying so.
            if attempt > 2 && form == Form::Whole {
                form = Form::Chunks(smaller(blob.size));
            }
        }
    }

    fn first_form(&self, size: u64) -> Form {
        let refused = |form: &AtomicBool| form.load(Ordering::Relaxed);
        if size <= SMALL && !refused(&self.refused_forms.put) {
            Form::Put
        } else if !refused(&self.refused_forms.whole) {
            Form::Whole
        } else {
            Form::Chunks(CHUNK)
        }
    }

    /// Asks the registry to take the blob from another of its repositories. Whatever it says
    /// against that, the blob can be sent.
    fn mount(&self, blob: &Blob<'_>, from: &str) -> Result<Mounted, RegistryError> {
        let refused = &self.refused_forms.sources;
        if refused.lock().unwrap_or_else(PoisonError::into_inner).contains(from) {
            return Ok(Mounted::No);
        }
        let mut task = self.task(Right::Push, format!("mount blob {} from `{from}`", blob.digest));
        task.scopes.push(Scope::new(from, Right::Pull));
        let mut url = self.address("blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", &blob.digest.to_string())
            .append_pair("from", from);
        let make = || Ok(self.client.post(url.clone()).header("Content-Length", "0"));
        match self.send_tries(&task, 1, &make) {
            // A registry that only says so is found out here.
            Ok(response) if response.status() == StatusCode::CREATED => {
                if self.has(&task, &blob.digest, Some(blob.size))? {
                    return Ok(Mounted::Yes);
                }
            }
            Ok(response) if response.status() == StatusCode::ACCEPTED => {
                return Ok(Mounted::Session(self.session(&task, &response)?));
            }
            Ok(_) | Err(RegistryError::Refused { .. } | RegistryError::Protocol { .. }) => {}
            Err(error) => return Err(error),
        }
        refused.lock().unwrap_or_else(PoisonError::into_inner).insert(from.to_owned());
        Ok(Mounted::No)
    }
}

enum Mounted {
    Yes,
    Session(Session),
    No,
}

/// One try to send a blob.
struct Upload<'u> {
    repository: &'u Repository,
    task: &'u Task,
    blob: &'u Blob<'u>,
    content: &'u Content<'u>,
    told: &'u Told,
}

impl Upload<'_> {
    fn run(&self, mut session: Session, form: Form) -> Result<(), Trouble> {
        if form == Form::Put {
            return self.put(&session, self.blob.size);
        }
        let mut sent = 0;
        let mut breaks = 0;
        while sent < self.blob.size {
            let left = self.blob.size - sent;
            let length = match form {
                Form::Chunks(length) => length.max(session.least_chunk).min(left),
                _ => left,
            };
            match self.patch(&mut session, form, sent, length)? {
                Patched::All => sent += length,
                Patched::Broken(error) => {
                    breaks += 1;
                    sent = match self.progress(&mut session) {
                        Some(there) if breaks < TRIES => there,
                        _ => return Err(Trouble::Again(error)),
                    };
                }
            }
            (self.told)(sent);
        }
        self.put(&session, 0)
    }

    fn patch(
        &self,
        session: &mut Session,
        form: Form,
        sent: u64,
        length: u64,
    ) -> Result<Patched, Trouble> {
        let (repository, task) = (self.repository, self.task);
        let address = session.address.clone();
        let make = || {
            let request = repository
                .client
                .patch(address.clone())
                .timeout(self.patience(length, SLOWEST_LINE))
                .header("Content-Type", "application/octet-stream")
                .header("Content-Length", length);
            // Without a range it is a stream, which registries take that take no chunks.
            let request = if sent > 0 || length < self.blob.size {
                request.header("Content-Range", format!("{sent}-{}", sent + length - 1))
            } else {
                request
            };
            Ok(request.body(self.content.body(sent, length, self.told)?))
        };
        let response = match repository.send_body(task, &make) {
            Ok(response) => response,
            Err(error @ RegistryError::Unreachable { .. }) => return Ok(Patched::Broken(error)),
            Err(error) => return Err(error.into()),
        };
        let status = response.status();
        if status.is_success() {
            if header(&response, "location").is_some() {
                let next = repository.session(task, &response)?;
                session.address = next.address;
            }
            let wrong =
                header(&response, "range").and_then(end).filter(|end| *end != sent + length);
            return match wrong {
                None => Ok(Patched::All),
                // What it did with the rest is anybody's guess.
                Some(end) => {
                    let problem = format!("of {} bytes it acknowledges {end}", sent + length);
                    Err(Trouble::Other(Box::new(repository.odd(task, problem)), Form::Whole))
                }
            };
        }
        let error = repository.refused(task, response);
        match status.as_u16() {
            401 => Ok(Patched::Broken(error)),
            404 => Err(Trouble::Again(error)),
            413 | 416 => {
                repository.refused_forms.whole.store(true, Ordering::Relaxed);
                match form {
                    Form::Chunks(length) if length / 4 < LEAST_CHUNK => Err(error.into()),
                    Form::Chunks(length) => {
                        Err(Trouble::Other(Box::new(error), Form::Chunks(length / 4)))
                    }
                    _ => {
                        Err(Trouble::Other(Box::new(error), Form::Chunks(smaller(self.blob.size))))
                    }
                }
            }
            _ if may_pass(status) => Ok(Patched::Broken(error)),
            _ => Err(error.into()),
        }
    }

    /// How far the session has come; `None` when the registry does not say so clearly.
    fn progress(&self, session: &mut Session) -> Option<u64> {
        let (repository, task) = (self.repository, self.task);
        let address = session.address.clone();
        let make = || Ok(repository.client.get(address.clone()));
        let response = repository.send(task, &make).ok()?;
        if !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::ACCEPTED) {
            return None;
        }
        // `0-0` is one byte, and with some registries none.
        let there = end(header(&response, "range")?).filter(|end| *end > 1)?;
        if header(&response, "location").is_some() {
            session.address = repository.session(task, &response).ok()?.address;
        }
        (there <= self.blob.size).then_some(there)
    }

    /// Ends the session, with all the bytes or none.
    fn put(&self, session: &Session, length: u64) -> Result<(), Trouble> {
        let (repository, task) = (self.repository, self.task);
        let address = with_digest(session.address.clone(), &self.blob.digest);
        let make = || {
            let patience =
                self.patience(length, SLOWEST_LINE) + self.patience(self.blob.size, SLOWEST_DISK);
            let request = repository
                .client
                .put(address.clone())
                .timeout(patience)
                .header("Content-Type", "application/octet-stream")
                .header("Content-Length", length);
            Ok(request.body(self.content.body(0, length, self.told)?))
        };
        let response = match repository.send_body(task, &make) {
            Ok(response) => response,
            Err(error @ RegistryError::Unreachable { .. }) => return Err(Trouble::Again(error)),
            Err(error) => return Err(error.into()),
        };
        let status = response.status();
        if status.is_success() {
            let said = header(&response, "docker-content-digest").map(str::parse::<Digest>);
            if let Some(Ok(said)) = said
                && said != self.blob.digest
            {
                return Err(repository.odd(task, format!("it calls it {said}")).into());
            }
            if status == StatusCode::CREATED
                || repository.has(task, &self.blob.digest, Some(self.blob.size))?
            {
                return Ok(());
            }
            let problem = format!("it says {status}, and has not got it");
            return Err(Trouble::Again(repository.odd(task, problem)));
        }
        let error = repository.refused(task, response);
        let all_at_once = self.blob.size > 0 && length == self.blob.size;
        match status.as_u16() {
            _ if may_pass(status) => Err(Trouble::Again(error)),
            401 | 403 => Err(error.into()),
            413 if all_at_once => {
                Err(Trouble::Other(Box::new(error), Form::Chunks(smaller(self.blob.size))))
            }
            // Some registries know only the other form.
            400..=499 if all_at_once => {
                repository.refused_forms.put.store(true, Ordering::Relaxed);
                Err(Trouble::Other(Box::new(error), Form::Whole))
            }
            // The session is lost, or something went wrong on the way.
            400 | 404 | 416 => Err(Trouble::Again(error)),
            _ => Err(error.into()),
        }
    }

    fn patience(&self, bytes: u64, slowest: u64) -> Duration {
        self.repository.pace.silence + Duration::from_secs(bytes / slowest)
    }
}

enum Patched {
    All,
    Broken(RegistryError),
}

impl Repository {
    /// A request with a body, tried once; and once more after a 401, when a token that has ended
    /// is replaced. Registries look at that before they read the body.
    fn send_body(&self, task: &Task, make: &Make<'_>) -> Result<Response, RegistryError> {
        self.send_tries(task, 1, make)
    }
}

/// Chunks of what is too much at once.
fn smaller(size: u64) -> u64 {
    size.div_ceil(2).clamp(LEAST_CHUNK, CHUNK)
}

#[cfg(test)]
mod tests;
