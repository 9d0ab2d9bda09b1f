//! Pushing an image: its blobs, some at once, then its manifest, and the tags last, so that a
//! tag never names half an image.
//!
//! - A tag that names the image already means that nothing is to be done: a registry keeps what
//!   a manifest is made of.
//! - A registry that has lost a blob since it was asked for it (garbage collection, storage that
//!   lags behind) says so of the manifest; then all are looked for again.
//! - A tag that is moved is told of. Who says what it must name for that is refused when it
//!   names something else; as registries cannot compare and put in one step, another push
//!   between the last look and the put is not noticed.
//! - Whether a tag may move is the registry's to say; when it may not, and names this image, all
//!   is well.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use rayon::prelude::*;
use reqwest::StatusCode;

use super::content::{Content, Told};
use super::error::{Reason, Right};
use super::repository::{MANIFEST_LIMIT, Name};
use super::upload::{Blob, Sent};
use super::wire::header;
use super::{RegistryError, Repository};
use crate::digest::{Digest, DigestError};
use crate::event::{Event, Events};
use crate::image::Image;
use crate::store::Store;

/// Uploads at once: as for downloads, but registries and home lines mind more.
const UPLOADS: usize = 4;
/// How often a manifest is put there anew because the registry has lost blobs.
const REPAIRS: u32 = 2;

/// Brings a blob into the store that is known and not there, so that it can be sent.
pub type Bring<'a> = dyn Fn(&Digest) -> Result<(), Box<dyn Error + Send + Sync>> + Sync + 'a;

/// What is pushed.
pub struct Push<'a> {
    /// The image.
    pub image: &'a Image,
    /// Where its layers are.
    pub store: &'a Store,
    /// What to call it in the repository; all of them.
    pub tags: &'a [String],
    /// Repositories of the same registry that have a layer, the likeliest first.
    pub origins: &'a BTreeMap<Digest, Vec<String>>,
    /// Layers that a registry was to have and had not, or not whole. It is not believed then:
    /// they are read, and sent again if need be, also where the manifest is there.
    pub doubted: &'a BTreeSet<Digest>,
    /// Layers that were sent there a moment ago, and told of: that they are there now is not
    /// told once more.
    pub sent: &'a BTreeSet<Digest>,
    /// Called for a layer that neither the registry nor the store has.
    pub bring: &'a Bring<'a>,
    /// Who is told.
    pub events: &'a Events,
}

/// What tags must name for them to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever they name.
    Anything,
    /// They must not be there yet.
    Nothing,
    /// This image.
    Image(Digest),
}

impl FromStr for Expected {
    type Err = DigestError;

    /// Accepts `none` and digests.
    fn from_str(text: &str) -> Result<Expected, DigestError> {
        match text {
            "none" => Ok(Expected::Nothing),
            digest => digest.parse().map(Expected::Image),
        }
    }
}

/// One blob of an image.
struct Part<'p> {
    what: String,
    blob: Blob<'p>,
    content: Content<'p>,
}

impl Repository {
    /// Sends what the registry does not have, then the manifest, then the tags.
    ///
    /// # Errors
    /// See [`RegistryError`]; no tag is touched before all else went well.
    pub fn push(&self, push: &Push<'_>) -> Result<(), RegistryError> {
        self.push_over(Expected::Anything, push)
    }

    /// As [`Repository::push`], if all tags name what is expected, or this image: that is looked
    /// up before anything is sent, and for each tag again right before it is put.
    ///
    /// # Errors
    /// See [`RegistryError`]; [`RegistryError::Unexpected`] when a tag names something else.
    pub fn push_over(&self, expected: Expected, push: &Push<'_>) -> Result<(), RegistryError> {
        let image = push.image;
        let mut tags = Vec::new();
        for tag in push.tags {
            let found = self.found(tag, expected, &image.digest)?;
            if found != Some(image.digest) {
                tags.push((tag, found));
            }
        }
        let parts = parts(push);
        let told = |part: &Part<'_>, sent| {
            if sent > 0 || !push.sent.contains(&part.blob.digest) {
                push.events.send(Event::Pushed { what: part.what.to_owned(), sent });
            }
        };
        // Where the manifest is, the blobs are, unless one is known not to be.
        let doubted = parts.iter().any(|part| part.blob.is_doubted);
        let is_there = !doubted
            && (tags.len() < push.tags.len()
                || !tags.is_empty() && self.names(&image.digest.to_string(), &image.digest)?);
        if is_there {
            parts.iter().for_each(|part| told(part, 0));
        } else {
            self.send_parts(&parts, push.events, &told)?;
        }
        let by_digest = (Name::Digest(&image.digest), None);
        let names = tags.iter().map(|(tag, found)| (Name::Tag(tag), *found));
        // With several tags, the first one shall not be the only one because of a manifest that
        // the registry does not take.
        let names: Vec<(Name<'_>, Option<Digest>)> = match tags.len() {
            0 | 1 => names.collect(),
            _ => [by_digest].into_iter().chain(names).collect(),
        };
        let mut repairs = 0;
        for (name, mut found) in names {
            if let (Name::Tag(tag), true) = (name, expected != Expected::Anything) {
                found = self.found(tag, expected, &image.digest)?;
            }
            loop {
                match self.put_manifest(name, image.media_types.manifest(), &image.manifest) {
                    Ok(_) => break,
                    Err(error) if repairs < REPAIRS && misses_blobs(&error) => {
                        repairs += 1;
                        self.rest(repairs);
                        self.forget_blobs();
                        let of_sent = |part: &Part<'_>, sent| {
                            if sent > 0 {
                                told(part, sent);
                            }
                        };
                        self.send_parts(&parts, push.events, &of_sent)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(from) = found.filter(|found| *found != image.digest) {
                let reference = format!("{self}:{name}");
                push.events.send(Event::Moved { reference, from, to: image.digest });
            }
        }
        Ok(())
    }

    /// Whether the tag, or digest, names the manifest.
    fn names(&self, tag: &str, digest: &Digest) -> Result<bool, RegistryError> {
        Ok(self.found(tag, Expected::Anything, digest)? == Some(*digest))
    }

    /// What the tag, or digest, names; an error when that is neither expected nor wanted. Who may
    /// not look may still be allowed to push, as long as nothing special is expected.
    fn found(
        &self,
        tag: &str,
        expected: Expected,
        wanted: &Digest,
    ) -> Result<Option<Digest>, RegistryError> {
        let found = match self.tagged_with(Right::Push, tag) {
            Err(RegistryError::Refused { .. } | RegistryError::Protocol { .. })
                if expected == Expected::Anything =>
            {
                None
            }
            other => other?,
        };
        let expected = match expected {
            Expected::Anything => return Ok(found),
            Expected::Nothing => None,
            Expected::Image(digest) => Some(digest),
        };
        if found == expected || found == Some(*wanted) {
            return Ok(found);
        }
        Err(RegistryError::Unexpected { reference: format!("{self}:{tag}"), found, expected })
    }

    fn send_parts(
        &self,
        parts: &[Part<'_>],
        events: &Events,
        told: &(dyn Fn(&Part<'_>, u64) + Sync),
    ) -> Result<(), RegistryError> {
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(UPLOADS).build().map_err(|error| {
                let task = self.task(Right::Push, "start uploads");
                self.broke(&task, io::Error::other(error))
            })?;
        let send = |part: &Part<'_>| {
            let (what, total) = (part.what.clone(), part.blob.size);
            let events = events.clone();
            let progress: Told = Arc::new(move |done| {
                events.send(Event::Pushing { what: what.clone(), done, total });
            });
            let sent = self.put_blob(&part.blob, &part.content, &progress)?;
            told(part, if let Sent::Uploaded(bytes) = sent { bytes } else { 0 });
            Ok(())
        };
        // In order, the largest not last: layers at the bottom are.
        pool.install(|| parts.par_iter().with_max_len(1).try_for_each(send))
    }

    /// Puts a manifest there, under a tag or under its digest, and makes sure that it arrived.
    ///
    /// # Errors
    /// See [`RegistryError`]; [`RegistryError::Immutable`] when the tag names another one for
    /// good.
    pub fn put_manifest(
        &self,
        name: Name<'_>,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let digest = Digest::of(bytes);
        let task = self.task(Right::Push, format!("put the manifest `{name}`"));
        if bytes.len() as u64 > MANIFEST_LIMIT {
            let problem = format!(
                "the manifest has {} bytes, and no registry has to take more than {MANIFEST_LIMIT}",
                bytes.len()
            );
            return Err(self.odd(&task, problem));
        }
        let url = self.address(&format!("manifests/{name}"));
        let make = || {
            let request = self.client.put(url.clone()).header("Content-Type", media_type);
            Ok(request.body(bytes.to_vec()))
        };
        let response = self.send(&task, &make)?;
        if response.status().is_success() {
            return match header(&response, "docker-content-digest") {
                Some(said) if said.parse() != Ok(digest) => {
                    Err(self.odd(&task, format!("it names the manifest {said}, not {digest}")))
                }
                _ if response.status() == StatusCode::CREATED => Ok(digest),
                // Something that says yes to everything is no registry.
                _ => match self.manifest(Name::Digest(&digest))? {
                    Some(found) if found.bytes == bytes => Ok(digest),
                    _ => {
                        let status = response.status();
                        Err(self.odd(&task, format!("it says {status}, and has not got it")))
                    }
                },
            };
        }
        let error = self.refused(&task, response);
        if let (Name::Tag(tag), RegistryError::Refused { refusal, .. }) = (name, &error)
            && (refusal.reason() == Reason::Immutable
                || [403, 405, 409, 412].contains(&refusal.status))
            && let Ok(Some(found)) = self.tagged_with(Right::Push, tag)
        {
            if found == digest {
                return Ok(digest);
            }
            if refusal.reason() == Reason::Immutable {
                return Err(RegistryError::Immutable {
                    repository: self.to_string(),
                    tag: tag.to_owned(),
                    found,
                    wanted: digest,
                    refusal: refusal.clone(),
                });
            }
        }
        Err(error)
    }
}

fn misses_blobs(error: &RegistryError) -> bool {
    let RegistryError::Refused { refusal, .. } = error else { return false };
    let codes = ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"];
    refusal.codes.iter().any(|code| codes.contains(&code.as_str()))
}

/// The blobs of the image, each once.
fn parts<'p>(push: &'p Push<'p>) -> Vec<Part<'p>> {
    let mut seen = BTreeSet::new();
    let mut parts = Vec::new();
    for layer in push.image.layers.iter().filter(|layer| seen.insert(layer.layer.digest)) {
        let (digest, size) = (layer.layer.digest, layer.layer.size);
        let from = push.origins.get(&digest).map_or(&[][..], Vec::as_slice);
        let content = Content::Stored { store: push.store, digest, bring: Some(push.bring) };
        let is_doubted = push.doubted.contains(&digest);
        let blob = Blob { digest, size, from, is_doubted };
        parts.push(Part { what: layer.title(), blob, content });
    }
    let config = &push.image.config;
    let (digest, size) = (push.image.config_digest, config.len() as u64);
    let blob = Blob { digest, size, from: &[], is_doubted: false };
    parts.push(Part { what: "configuration".to_owned(), blob, content: Content::Memory(config) });
    parts
}

#[cfg(test)]
mod tests;
