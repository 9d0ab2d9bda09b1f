//! Pulling an image: what it is made of, and its layers into the store.
//!
//! ```text
//! resolve: manifest by tag or digest ─► index? ─► the platform's manifest ─► configuration
//! fetch:   layers that the store lacks, some at once; broken off ─► on from there with Range
//! ```
//!
//! - Mirrors are asked first, in order, and the registry itself last. One that has not, cannot
//!   or lies is passed over; when nobody is left, the error says what each said.
//! - All that is read by digest has that digest, or is not read. Of a tag, the registry's word
//!   for the digest must fit the bytes.
//! - Manifests and configurations are kept in the store as blobs: an image that is named by
//!   digest and was pulled before needs no network.
//! - Blobs are often elsewhere: redirects are followed, and credentials stay behind (the client
//!   of [`download`](crate::download) also refuses to leave TLS).
//! - What layers contain is not this room's business.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use serde_json::Value;

use super::manifest::{self, Descriptor, Manifest, ManifestError, Platform};
use super::reference::{is_host, is_repository};
use super::repository::{BLOB_LIMIT, MANIFEST_LIMIT, Name};
use super::{Access, Reference, RegistryError, Repository};
use crate::digest::Digest;
use crate::store::{Store, StoreError};

/// Downloads at once: enough to fill a line, few enough to be polite.
const DOWNLOADS: usize = 6;
/// Indexes that lead to each other; more than one is unheard of.
const DEPTH: usize = 3;

/// Where an image can be had: mirrors, and last the registry.
pub struct Source {
    image: Reference,
    hosts: Vec<Host>,
}

struct Host {
    repository: Arc<Repository>,
    /// A mirror that is out of order is not asked for each layer again.
    down: AtomicBool,
}

/// An image of one platform, all of whose names are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// What the reference names: an index or a manifest. What to pin.
    pub named: Digest,
    /// The platform's manifest.
    pub manifest: Digest,
    /// The configuration; its bytes are a blob of the store.
    pub config: Descriptor,
    /// The layers, bottom to top.
    pub layers: Vec<Descriptor>,
    /// The digest of each layer's tar, as the configuration says.
    pub diff_ids: Vec<Digest>,
    /// The configuration, all of it.
    pub image: Value,
}

impl Source {
    /// Prepares to pull `reference`.
    ///
    /// # Errors
    /// A mirror that is none; credentials that cannot be read.
    pub fn open(reference: &Reference, access: &Access) -> Result<Source, RegistryError> {
        let mut hosts = Vec::new();
        for mirror in access.mirrors(&reference.host) {
            let (name, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let prefix = prefix.trim_end_matches('/');
            if !is_host(name) || !(prefix.is_empty() || is_repository(prefix)) {
                return Err(RegistryError::Reference {
                    text: mirror.clone(),
                    problem: "a mirror is `host`, `host:port` or `host/prefix`",
                });
            }
            let repository = match prefix {
                "" => reference.repository.clone(),
                prefix => format!("{prefix}/{}", reference.repository),
            };
            let mut mirror = access.open(name, &repository)?;
            mirror.is_mirror = true;
            hosts.push(Host { repository: Arc::new(mirror), down: AtomicBool::new(false) });
        }
        let repository = access.repository(reference)?;
        hosts.push(Host { repository, down: AtomicBool::new(false) });
        Ok(Source { image: reference.clone(), hosts })
    }

    /// Finds out what the image is made of on `platform`.
    ///
    /// # Errors
    /// See [`RegistryError`]; an index without the platform lists what it has.
    pub fn resolve(&self, platform: &Platform, store: &Store) -> Result<Resolved, RegistryError> {
        let action = format!("read the manifest of `{}`", self.image);
        self.first(&action, |repository| self.resolve_at(repository, platform, store))
    }

    /// Brings the layers that the store does not have. `progress` is told how many bytes of
    /// how many have come, all layers together.
    ///
    /// # Errors
    /// See [`RegistryError`]. What came whole stays in the store.
    pub fn fetch(
        &self,
        layers: &[Descriptor],
        store: &Store,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), RegistryError> {
        let mut missing = Vec::new();
        let mut seen = BTreeSet::new();
        for layer in layers {
            if seen.insert(layer.digest) && store.blob_size(&layer.digest)? != Some(layer.size) {
                missing.push(layer);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let total = missing.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        let done = AtomicU64::new(0);
        let tell = |bytes: u64| progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        let fetch = |layer: &Descriptor| {
            // What another host sends again is not told again.
            let mut told = 0;
            self.first(&format!("fetch layer {}", layer.digest), |repository| {
                repository.fetch_blob(layer, store, &mut |bytes| {
                    tell(bytes.saturating_sub(told));
                    told = told.max(bytes);
                })
            })
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(DOWNLOADS)
            .build()
            .map_err(|error| self.broken("start downloads", io::Error::other(error)))?;
        pool.install(|| missing.par_iter().try_for_each(|layer| fetch(layer)))
    }

    /// What the first host gives that can.
    fn first<T>(
        &self,
        action: &str,
        mut get: impl FnMut(&Repository) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut tried = Vec::new();
        for (at, Host { repository, down }) in self.hosts.iter().enumerate() {
            let is_mirror = at + 1 < self.hosts.len();
            if is_mirror && down.load(Ordering::Relaxed) {
                tried.push(RegistryError::OutOfOrder { registry: repository.host().to_owned() });
                continue;
            }
            match get(repository) {
                Ok(got) => return Ok(got),
                // Our own disk is no better with another host.
                Err(error @ RegistryError::Store(_)) => return Err(error),
                Err(error) if !is_mirror && tried.is_empty() => return Err(error),
                Err(error) => {
                    let is_down = match &error {
                        RegistryError::Unreachable { source, .. } => source.is_connect(),
                        RegistryError::Refused { refusal, .. } => {
                            refusal.status == 429 || refusal.status >= 500
                        }
                        _ => false,
                    };
                    down.store(is_down, Ordering::Relaxed);
                    tried.push(error);
                }
            }
        }
        Err(RegistryError::Nowhere { action: action.to_owned(), tried })
    }

    fn resolve_at(
        &self,
        repository: &Repository,
        platform: &Platform,
        store: &Store,
    ) -> Result<Resolved, RegistryError> {
        let unusable = |source| RegistryError::Manifest {
            image: self.image.to_string(),
            registry: repository.host().to_owned(),
            source: Box::new(source),
        };
        let (bytes, called) = match &self.image.digest {
            Some(digest) => manifest_by_digest(repository, digest, store)?,
            None => {
                let found = repository.needed_manifest(Name::Tag(&self.image.tag))?;
                (found.bytes, found.media_type)
            }
        };
        let named = store.write_blob(&bytes)?;
        let mut found = manifest::parse(&bytes, called.as_deref()).map_err(unusable)?;
        let mut digest = named;
        for _ in 0..DEPTH {
            let Manifest::Index(choices) = &found else { break };
            let chosen = manifest::choose(choices, platform).map_err(unusable)?;
            let (bytes, called) = manifest_by_digest(repository, &chosen.digest, store)?;
            if bytes.len() as u64 != chosen.size {
                let (size, found) = (chosen.size, bytes.len() as u64);
                return Err(unusable(ManifestError::Size { digest: chosen.digest, size, found }));
            }
            digest = store.write_blob(&bytes)?;
            found = manifest::parse(&bytes, called.as_deref()).map_err(unusable)?;
        }
        let Manifest::Image { config, layers } = found else {
            return Err(unusable(ManifestError::Nested));
        };
        let bytes = match known(store, &config.digest, BLOB_LIMIT)? {
            Some(bytes) => bytes,
            None => repository.needed_blob(&config)?,
        };
        store.write_blob(&bytes)?;
        let image: Value = serde_json::from_slice(&bytes)
            .map_err(|source| ManifestError::Malformed { document: "configuration", source })
            .map_err(unusable)?;
        let diff_ids = manifest::check_config(&image, layers.len(), platform).map_err(unusable)?;
        Ok(Resolved { named, manifest: digest, config, layers, diff_ids, image })
    }

    fn broken(&self, action: &str, source: io::Error) -> RegistryError {
        let (action, repository) = (action.to_owned(), self.image.to_string());
        RegistryError::Broken { action, repository, source }
    }
}

/// A manifest, from the store if that has it, and what the registry calls it.
fn manifest_by_digest(
    repository: &Repository,
    digest: &Digest,
    store: &Store,
) -> Result<(Vec<u8>, Option<String>), RegistryError> {
    if let Some(bytes) = known(store, digest, MANIFEST_LIMIT)? {
        return Ok((bytes, None));
    }
    let found = repository.needed_manifest(Name::Digest(digest))?;
    Ok((found.bytes, found.media_type))
}

/// The bytes of a document that the store has whole.
fn known(store: &Store, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    if store.blob_size(digest)?.is_none_or(|size| size > limit) {
        return Ok(None);
    }
    match store.read_blob(digest) {
        Ok(bytes) => Ok(Some(bytes)),
        // `forge store verify` is there for that; the registry has it too.
        Err(StoreError::Mismatch { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
