//! One repository of a registry: its manifests by tag or digest, and its blobs. What the cache
//! and the pushing and pulling of images are made of.
//!
//! ```text
//! manifest, put_manifest            documents, whole, up to 4 MiB
//! has_blob, read_blob, write_blob   small blobs, from and to memory
//! fetch_blob, push_blob             blobs of any size, to and from the store
//! ```
//!
//! - Whatever is asked for by digest has that digest, or is not given out.
//! - "Not there" is an answer (`None`, `false`) and no error.
//! - A handle serves any number of threads. A blob that it has seen or sent is not asked for
//!   again, and not sent twice at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::blocking::{Client, Response};
use reqwest::{StatusCode, Url};

use super::RegistryError;
use super::access::Pace;
use super::content::{Content, Told, untold};
use super::credentials::Login;
use super::error::Right;
use super::manifest::{ACCEPT, Descriptor};
use super::upload::{self, Blob, Sent};
use super::wire::{Known, TRIES, Task, header};
use crate::digest::Digest;
use crate::store::Store;

/// Larger manifests are not to be expected (distribution specification, "pushing manifests").
pub(super) const MANIFEST_LIMIT: u64 = 4 << 20;
/// The most that is read into memory of a blob. Configurations of real images have some
/// kilobytes; a long history has more.
pub(super) const BLOB_LIMIT: u64 = 8 << 20;

/// One repository of a registry, with what opens it.
pub struct Repository {
    pub(super) client: Client,
    pub(super) base: Url,
    pub(super) host: String,
    pub(super) name: String,
    pub(super) login: Login,
    pub(super) known: Mutex<Known>,
    /// Held by the thread that gets a token.
    pub(super) asking: Mutex<()>,
    pub(super) pace: Pace,
    /// There is somebody else to ask: one that cannot be connected to is not tried again.
    pub(super) is_mirror: bool,
    /// Blobs that were asked for. Locked while one is sent.
    blobs: Mutex<BTreeMap<Digest, Arc<Mutex<Seen>>>>,
    /// Forms of upload that the registry has refused.
    pub(super) refused_forms: upload::RefusedForms,
}

/// What a registry says of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Absent,
    There,
    /// It is there, and not as long as it should be.
    OtherLength,
}

/// What is known of a blob of the repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    #[default]
    Unknown,
    /// The registry says that it has it.
    There,
    /// It was sent or read by one who doubted that.
    Whole,
}

/// A manifest's name within its repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// A tag.
    Tag(&'a str),
    /// A digest, which the bytes then have.
    Digest(&'a Digest),
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Tag(tag) => f.write_str(tag),
            Name::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest as a registry gave it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Of its bytes; never only what the registry says.
    pub digest: Digest,
    /// What the registry calls it, without parameters.
    pub media_type: Option<String>,
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)
    }
}

impl Repository {
    pub(super) fn new(
        client: Client,
        base: Url,
        (host, name): (&str, &str),
        login: Login,
        pace: Pace,
    ) -> Repository {
        Repository {
            client,
            base,
            host: host.to_owned(),
            name: name.to_owned(),
            login,
            known: Mutex::default(),
            asking: Mutex::default(),
            pace,
            is_mirror: false,
            blobs: Mutex::default(),
            refused_forms: upload::RefusedForms::default(),
        }
    }

    /// The registry, as references name it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name within its registry.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As [`Repository::manifest`], where it is an error that there is none.
    pub(super) fn needed_manifest(&self, name: Name<'_>) -> Result<Document, RegistryError> {
        let task = self.task(Right::Pull, format!("read the manifest `{name}`"));
        let (bytes, response) =
            self.document(&task, &format!("manifests/{name}"), MANIFEST_LIMIT)??;
        self.named(&task, name, bytes, &response)
    }

    /// As [`Repository::read_blob`], where it is an error that it is not there.
    pub(super) fn needed_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let task = self.task(Right::Pull, format!("read blob {}", blob.digest));
        let (bytes, _) = self.document(&task, &format!("blobs/{}", blob.digest), BLOB_LIMIT)??;
        self.check(&task, blob, &bytes)?;
        Ok(bytes)
    }

    /// A manifest, an index or an artifact's manifest; `None` when there is none of that name.
    ///
    /// # Errors
    /// See [`RegistryError`]; bytes of another digest than asked for, or than the registry says
    /// of a tag, are [`RegistryError::Protocol`].
    pub fn manifest(&self, name: Name<'_>) -> Result<Option<Document>, RegistryError> {
        let task = self.task(Right::Pull, format!("read the manifest `{name}`"));
        let path = format!("manifests/{name}");
        let Ok((bytes, response)) = self.document(&task, &path, MANIFEST_LIMIT)? else {
            return Ok(None);
        };
        self.named(&task, name, bytes, &response).map(Some)
    }

    fn named(
        &self,
        task: &Task,
        name: Name<'_>,
        bytes: Vec<u8>,
        response: &Response,
    ) -> Result<Document, RegistryError> {
        let digest = Digest::of(&bytes);
        match (name, header(response, "docker-content-digest")) {
            (Name::Digest(asked), _) if *asked != digest => {
                return Err(self.odd(task, format!("what it sends has digest {digest}")));
            }
            (Name::Tag(_), Some(said)) if said.parse() != Ok(digest) => {
                let problem = format!("it calls the manifest {said}, which has another digest");
                return Err(self.odd(task, problem));
            }
            _ => {}
        }
        let media_type = header(response, "content-type");
        let media_type =
            media_type.map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
        Ok(Document { bytes, digest, media_type })
    }

    /// The digest that a tag names; `None` when there is no such tag. A registry that answers
    /// HEAD not at all, or without the digest, is asked for the manifest itself.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn tagged(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        self.tagged_with(Right::Pull, tag)
    }

    /// As [`Repository::tagged`]; who will push looks with the token for that.
    pub(super) fn tagged_with(
        &self,
        right: Right,
        tag: &str,
    ) -> Result<Option<Digest>, RegistryError> {
        let task = self.task(right, format!("look up the tag `{tag}`"));
        let url = self.address(&format!("manifests/{tag}"));
        let make = || Ok(self.client.head(url.clone()).header("Accept", ACCEPT));
        let response = self.send(&task, &make)?;
        let said = header(&response, "docker-content-digest").and_then(|text| text.parse().ok());
        match (response.status(), said) {
            (StatusCode::OK, Some(digest)) => Ok(Some(digest)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            // What HEAD refuses, GET may explain.
            _ => Ok(self.manifest(Name::Tag(tag))?.map(|found| found.digest)),
        }
    }

    /// Whether the registry has the blob, and as long as it should be. An answer that is neither
    /// yes nor no counts as no: uploading again does no harm.
    ///
    /// # Errors
    /// No answer at all.
    pub fn has_blob(&self, digest: &Digest, size: Option<u64>) -> Result<bool, RegistryError> {
        let task = self.task(Right::Pull, format!("look for blob {digest}"));
        self.has(&task, digest, size)
    }

    pub(super) fn has(
        &self,
        task: &Task,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<bool, RegistryError> {
        Ok(self.look(task, digest, size)? == Look::There)
    }

    pub(super) fn look(
        &self,
        task: &Task,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Look, RegistryError> {
        let url = self.address(&format!("blobs/{digest}"));
        let response = match self.send(task, &|| Ok(self.client.head(url.clone()))) {
            // No token for this: sending will tell whether there is one for that.
            Err(RegistryError::Refused { .. }) => return Ok(Look::Absent),
            other => other?,
        };
        if response.status() != StatusCode::OK {
            return Ok(Look::Absent);
        }
        let length = header(&response, "content-length").and_then(|text| text.parse().ok());
        let is_right = size.is_none_or(|size| length.is_none_or(|length: u64| length == size));
        Ok(if is_right { Look::There } else { Look::OtherLength })
    }

    /// As [`Repository::is_whole`]; one that cannot be read is not whole.
    pub(super) fn seems_whole(&self, task: &Task, digest: &Digest) -> Result<bool, RegistryError> {
        match self.is_whole(task, digest) {
            Err(RegistryError::Refused { .. } | RegistryError::Broken { .. }) => Ok(false),
            other => other,
        }
    }

    /// Reads a blob to its end, to see whether it is what its name says.
    pub(super) fn is_whole(&self, task: &Task, digest: &Digest) -> Result<bool, RegistryError> {
        let response = self.get(task, &format!("blobs/{digest}"), 0)?;
        match response.status() {
            StatusCode::OK => {
                let (found, _) =
                    Digest::of_reader(response).map_err(|source| self.broke(task, source))?;
                Ok(found == *digest)
            }
            _ => Err(self.refused(task, response)),
        }
    }

    /// A small blob; `None` when it is not there.
    ///
    /// # Errors
    /// See [`RegistryError`]; one that is larger than 8 MiB, or is not what its descriptor says,
    /// is [`RegistryError::Protocol`].
    pub fn read_blob(&self, blob: &Descriptor) -> Result<Option<Vec<u8>>, RegistryError> {
        let task = self.task(Right::Pull, format!("read blob {}", blob.digest));
        let path = format!("blobs/{}", blob.digest);
        let Ok((bytes, _)) = self.document(&task, &path, BLOB_LIMIT)? else { return Ok(None) };
        self.check(&task, blob, &bytes)?;
        Ok(Some(bytes))
    }

    /// Puts a small blob there, if it is not yet. Its digest is that of the bytes.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn write_blob(&self, bytes: &[u8]) -> Result<Sent, RegistryError> {
        let content = Content::Memory(bytes);
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        let blob = Blob { digest, size, from: &[], is_doubted: false };
        self.put_blob(&blob, &content, &untold())
    }

    /// Puts a blob of the store there, if it is not yet: by mounting it from another repository
    /// of the registry where that goes, else by sending it. `told` hears how many bytes have
    /// been sent.
    ///
    /// # Errors
    /// See [`RegistryError`]; a blob that is damaged in the store is not sent.
    pub fn push_blob(
        &self,
        blob: &Blob<'_>,
        store: &Store,
        told: &Told,
    ) -> Result<Sent, RegistryError> {
        self.put_blob(blob, &Content::Stored { store, digest: blob.digest, bring: None }, told)
    }

    pub(super) fn put_blob(
        &self,
        blob: &Blob<'_>,
        content: &Content<'_>,
        told: &Told,
    ) -> Result<Sent, RegistryError> {
        let there = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(blobs.entry(blob.digest).or_default())
        };
        let mut seen = there.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = if blob.is_doubted { Seen::Whole } else { Seen::There };
        if *seen >= wanted {
            return Ok(Sent::WasThere);
        }
        let sent = self.send_blob(blob, content, told)?;
        *seen = wanted;
        Ok(sent)
    }

    /// What was known of blobs is not believed any more.
    pub(super) fn forget_blobs(&self) {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn check(&self, task: &Task, named: &Descriptor, bytes: &[u8]) -> Result<(), RegistryError> {
        let (found, length) = (Digest::of(bytes), bytes.len() as u64);
        if length != named.size {
            let problem = format!("it sends {length} bytes and should send {}", named.size);
            Err(self.odd(task, problem))
        } else if found != named.digest {
            Err(self.odd(task, format!("what it sends has digest {found}")))
        } else {
            Ok(())
        }
    }

    /// A small document, whole, and the answer that it came with; or the registry's word that
    /// there is none.
    fn document(
        &self,
        task: &Task,
        rest: &str,
        limit: u64,
    ) -> Result<Result<(Vec<u8>, Response), RegistryError>, RegistryError> {
        let mut attempt = 1;
        loop {
            let mut response = self.get(task, rest, 0)?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(Err(self.refused(task, response))),
                _ => return Err(self.refused(task, response)),
            }
            let mut bytes = Vec::new();
            match response.by_ref().take(limit + 1).read_to_end(&mut bytes) {
                Ok(_) if bytes.len() as u64 > limit => {
                    return Err(self.odd(task, format!("it sends more than {limit} bytes")));
                }
                Ok(_) => return Ok(Ok((bytes, response))),
                Err(_) if attempt < TRIES => self.rest(attempt),
                Err(source) => return Err(self.broke(task, source)),
            }
            attempt += 1;
        }
    }

    /// Asks for what stands below the repository, without its first `skip` bytes.
    pub(super) fn get(
        &self,
        task: &Task,
        rest: &str,
        skip: u64,
    ) -> Result<Response, RegistryError> {
        let url = self.address(rest);
        self.send(task, &|| {
            let request = self.client.get(url.clone()).header("Accept-Encoding", "identity");
            let request = if rest.starts_with("manifests/") {
                request.header("Accept", ACCEPT)
            } else {
                request
            };
            Ok(if skip > 0 { request.header("Range", format!("bytes={skip}-")) } else { request })
        })
    }
}
