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
//!   of [`client_for_pulls`](crate::download) also refuses to leave TLS).
//! - What layers contain is not this room's business.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use serde_json::Value;

use super::manifest::{self, ACCEPT, Descriptor, Manifest, ManifestError, Platform};
use super::reference::{is_host, is_repository};
use super::{Credentials, Reference, Registry, RegistryError, Right, TRIES, growing};
use crate::digest::Digest;
use crate::store::{Store, StoreError};

/// Larger manifests are not to be expected (distribution specification, "pushing manifests").
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Configurations of real images have some kilobytes; a long history has more.
const CONFIG_LIMIT: u64 = 8 << 20;
/// Downloads at once: enough to fill a line, few enough to be polite.
const DOWNLOADS: usize = 6;
/// After this many new bytes a broken download has its tries again.
const GAIN: u64 = 1 << 20;
/// Indexes that lead to each other; more than one is unheard of.
const DEPTH: usize = 3;

/// How registries are reached.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// That of [`download::client_for_pulls`](crate::download).
    pub client: &'a Client,
    /// Who we are.
    pub credentials: &'a Credentials,
    /// Hosts that are spoken to without TLS; loopback always is.
    pub insecure: &'a [String],
    /// Registry, as references name it → who is asked first, in this order. A mirror is
    /// `host[:port][/prefix]`; `mirror.example/hub` has `library/ruby` as `hub/library/ruby`.
    pub mirrors: &'a BTreeMap<String, Vec<String>>,
}

/// Where an image can be had: mirrors, and last the registry.
pub struct Source {
    image: Reference,
    hosts: Vec<Host>,
}

struct Host {
    registry: Registry,
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
    pub fn open(reference: &Reference, access: &Access<'_>) -> Result<Source, RegistryError> {
        let host = |host: &str, repository: &str| {
            let place = (host, repository);
            let Access { client, credentials, insecure, .. } = access;
            Registry::at(client, place, credentials, insecure, Right::Pull)
                .map(|registry| Host { registry, down: AtomicBool::new(false) })
        };
        let mut hosts = Vec::new();
        for mirror in access.mirrors.get(&reference.host).into_iter().flatten() {
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
            let mut mirror = host(name, &repository)?;
            mirror.registry.is_mirror = true;
            hosts.push(mirror);
        }
        hosts.push(host(&reference.host, &reference.repository)?);
        Ok(Source { image: reference.clone(), hosts })
    }

    /// Finds out what the image is made of on `platform`.
    ///
    /// # Errors
    /// See [`RegistryError`]; an index without the platform lists what it has.
    pub fn resolve(&self, platform: &Platform, store: &Store) -> Result<Resolved, RegistryError> {
        let action = format!("read the manifest of `{}`", self.image);
        self.first(&action, |registry| self.resolve_at(registry, platform, store))
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
            self.first(&format!("fetch layer {}", layer.digest), |registry| {
                registry.fetch(layer, store, &mut |bytes| {
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
        mut get: impl FnMut(&Registry) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut tried = Vec::new();
        for (at, Host { registry, down }) in self.hosts.iter().enumerate() {
            let is_mirror = at + 1 < self.hosts.len();
            if is_mirror && down.load(Ordering::Relaxed) {
                tried.push(RegistryError::OutOfOrder { registry: registry.host.clone() });
                continue;
            }
            match get(registry) {
                Ok(got) => return Ok(got),
                // Our own disk is no better with another host.
                Err(error @ RegistryError::Store(_)) => return Err(error),
                Err(error) if !is_mirror && tried.is_empty() => return Err(error),
                Err(error) => {
                    let is_down = match &error {
                        RegistryError::Unreachable { source, .. } => source.is_connect(),
                        RegistryError::Refused { status, .. } => *status == 429 || *status >= 500,
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
        registry: &Registry,
        platform: &Platform,
        store: &Store,
    ) -> Result<Resolved, RegistryError> {
        let unusable = |source| RegistryError::Manifest {
            image: self.image.to_string(),
            registry: registry.host.clone(),
            source: Box::new(source),
        };
        let (bytes, called) = match &self.image.digest {
            Some(digest) => registry.manifest_by_digest(digest, None, store)?,
            None => registry.manifest_by_tag(&self.image.tag)?,
        };
        let named = store.write_blob(&bytes)?;
        let mut found = manifest::parse(&bytes, called.as_deref()).map_err(unusable)?;
        let mut digest = named;
        for _ in 0..DEPTH {
            let Manifest::Index(choices) = &found else { break };
            let chosen = manifest::choose(choices, platform).map_err(unusable)?;
            let size = Some(chosen.size);
            let (bytes, called) = registry.manifest_by_digest(&chosen.digest, size, store)?;
            digest = store.write_blob(&bytes)?;
            found = manifest::parse(&bytes, called.as_deref()).map_err(unusable)?;
        }
        let Manifest::Image { config, layers } = found else {
            return Err(unusable(ManifestError::Nested));
        };
        let bytes = registry.config(&config, store)?;
        store.write_blob(&bytes)?;
        let image: Value = serde_json::from_slice(&bytes)
            .map_err(|source| ManifestError::Malformed { document: "configuration", source })
            .map_err(unusable)?;
        let diff_ids = manifest::check_config(&image, layers.len(), platform).map_err(unusable)?;
        Ok(Resolved { named, manifest: digest, config, layers, diff_ids, image })
    }

    fn broken(&self, action: &str, source: io::Error) -> RegistryError {
        let (action, registry) = (action.to_owned(), self.image.host.clone());
        RegistryError::Broken { action, registry, source }
    }
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

impl Registry {
    fn manifest_by_tag(&self, tag: &str) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let action = format!("read the manifest of `{}:{tag}`", self.repository);
        let (bytes, response) =
            self.document(&action, &format!("manifests/{tag}"), MANIFEST_LIMIT)?;
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        if let Some(said) = header("docker-content-digest")
            && said.parse() != Ok(Digest::of(&bytes))
        {
            let problem = format!("it calls the manifest {said}, which has another digest");
            return Err(self.odd(&action, problem));
        }
        Ok((bytes, header("content-type")))
    }

    fn manifest_by_digest(
        &self,
        digest: &Digest,
        size: Option<u64>,
        store: &Store,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        if let Some(bytes) = known(store, digest, MANIFEST_LIMIT)? {
            return Ok((bytes, None));
        }
        let action = format!("read the manifest of `{}@{digest}`", self.repository);
        let (bytes, response) =
            self.document(&action, &format!("manifests/{digest}"), MANIFEST_LIMIT)?;
        self.check(&action, digest, size, &bytes)?;
        let called = response.headers().get("content-type");
        Ok((bytes, called.and_then(|value| value.to_str().ok()).map(str::to_owned)))
    }

    fn config(&self, config: &Descriptor, store: &Store) -> Result<Vec<u8>, RegistryError> {
        if let Some(bytes) = known(store, &config.digest, CONFIG_LIMIT)? {
            return Ok(bytes);
        }
        let action = format!("read configuration {} of `{}`", config.digest, self.repository);
        let address = format!("blobs/{}", config.digest);
        let (bytes, _) = self.document(&action, &address, CONFIG_LIMIT)?;
        self.check(&action, &config.digest, Some(config.size), &bytes)?;
        Ok(bytes)
    }

    fn check(
        &self,
        action: &str,
        digest: &Digest,
        size: Option<u64>,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let (found, length) = (Digest::of(bytes), bytes.len() as u64);
        match size {
            Some(size) if size != length => {
                let problem = format!("it sends {length} bytes and should send {size}");
                Err(self.odd(action, problem))
            }
            _ if found != *digest => {
                Err(self.odd(action, format!("what it sends has digest {found}")))
            }
            _ => Ok(()),
        }
    }

    /// A small document, whole, and the answer that it came with.
    fn document(
        &self,
        action: &str,
        rest: &str,
        limit: u64,
    ) -> Result<(Vec<u8>, Response), RegistryError> {
        let mut attempt = 1;
        loop {
            let mut response = self.get(action, rest, 0)?;
            if response.status() != StatusCode::OK {
                return Err(self.refused(action, response));
            }
            let mut bytes = Vec::new();
            match response.by_ref().take(limit + 1).read_to_end(&mut bytes) {
                Ok(_) if bytes.len() as u64 > limit => {
                    return Err(self.odd(action, format!("it sends more than {limit} bytes")));
                }
                Ok(_) => return Ok((bytes, response)),
                Err(_) if attempt < TRIES => std::thread::sleep(growing(attempt)),
                Err(source) => return Err(self.broke(action, source)),
            }
            attempt += 1;
        }
    }

    /// Asks for what stands below the repository, without its first `skip` bytes.
    fn get(&self, action: &str, rest: &str, skip: u64) -> Result<Response, RegistryError> {
        let url = self.address(rest);
        self.send(action, &|| {
            let request = self.client.get(url.clone()).header("Accept-Encoding", "identity");
            let request = if rest.starts_with("manifests/") {
                request.header("Accept", ACCEPT)
            } else {
                request
            };
            Ok(if skip > 0 { request.header("Range", format!("bytes={skip}-")) } else { request })
        })
    }

    /// Brings one layer into the store. `progress` is told how many bytes are there.
    fn fetch(
        &self,
        layer: &Descriptor,
        store: &Store,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), RegistryError> {
        let action = format!("fetch layer {}", layer.digest);
        let mut blob = store.new_blob()?;
        let mut done = 0;
        let mut attempt = 1;
        loop {
            let before = done;
            let mut write = |bytes: &[u8]| {
                done += bytes.len() as u64;
                progress(done);
                blob.write_all(bytes)
            };
            match self.piece(&action, layer, before, &mut write)? {
                None if done == layer.size => break,
                broken => {
                    attempt = if done - before >= GAIN { 1 } else { attempt + 1 };
                    if attempt > TRIES {
                        let early = || io::Error::from(io::ErrorKind::UnexpectedEof);
                        return Err(self.broke(&action, broken.unwrap_or_else(early)));
                    }
                    std::thread::sleep(growing(attempt - 1));
                }
            }
        }
        match blob.keep(Some((&layer.digest, &action))) {
            Ok(_) => Ok(()),
            Err(StoreError::Mismatch { found, .. }) => {
                Err(self.odd(&action, format!("what it sends has digest {found}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a layer from byte `from` on as far as it comes, and says what broke it off.
    fn piece(
        &self,
        action: &str,
        layer: &Descriptor,
        from: u64,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Option<io::Error>, RegistryError> {
        if layer.size == 0 {
            return Ok(None);
        }
        let mut response = self.get(action, &format!("blobs/{}", layer.digest), from)?;
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        // A server that does not know ranges sends all again.
        let mut skip = match response.status() {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                let range = header("content-range").unwrap_or_default();
                if !range.starts_with(&format!("bytes {from}-")) {
                    let problem = format!("byte {from} was asked for, and it sends `{range}`");
                    return Err(self.odd(action, problem));
                }
                0
            }
            _ => return Err(self.refused(action, response)),
        };
        if let Some(encoding) = header("content-encoding").filter(|name| name != "identity") {
            return Err(self.odd(action, format!("it sends it encoded as {encoding}")));
        }
        let mut left = layer.size - (from - skip);
        if let Some(length) = response.content_length().filter(|length| *length != left) {
            return Err(self.odd(action, format!("it has {length} bytes and should have {left}")));
        }
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = match response.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(error)),
            };
            left = left.checked_sub(length as u64).ok_or_else(|| {
                self.odd(action, format!("it sends more than {} bytes", layer.size))
            })?;
            let passed = skip.min(length as u64);
            skip -= passed;
            write(&buffer[passed as usize..length]).map_err(|source| {
                RegistryError::Store(StoreError::Io {
                    action: "write",
                    path: format!("blob {}", layer.digest).into(),
                    source,
                })
            })?;
        }
    }

    fn broke(&self, action: &str, source: io::Error) -> RegistryError {
        let (action, registry) = (action.to_owned(), self.host.clone());
        RegistryError::Broken { action, registry, source }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::super::fake::{Answer, Fake, Request};
    use super::*;

    const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

    /// What a registry has: path below `/v2/` → type and bytes.
    type Content = BTreeMap<String, (String, Vec<u8>)>;

    /// Layers of more than one read, so that they can break off in the middle.
    fn layer(seed: u32) -> Vec<u8> {
        (0..200_000_u32).map(|n| (n.wrapping_mul(seed) >> 5) as u8).collect()
    }

    fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
    }

    /// An index `team/app:v1` with one image for linux/amd64, made of two layers.
    fn content() -> Content {
        let layers = [layer(3), layer(7)];
        let config = json!({"os": "linux", "architecture": "amd64", "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|l| Digest::of(l))}});
        let config = config.to_string().into_bytes();
        let layer_type = "application/vnd.oci.image.layer.v1.tar";
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.each_ref().map(|layer| descriptor(layer_type, layer))});
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor(MANIFEST_TYPE, &manifest);
        entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]});
        let index = index.to_string().into_bytes();
        let mut content = Content::new();
        let mut add = |kind: &str, name: &str, media_type: &str, bytes: &[u8]| {
            let path = format!("team/app/{kind}/{name}");
            content.insert(path, (media_type.to_owned(), bytes.to_vec()));
        };
        let name = |bytes: &[u8]| Digest::of(bytes).to_string();
        add("manifests", "v1", INDEX_TYPE, &index);
        add("manifests", &name(&index), INDEX_TYPE, &index);
        add("manifests", &name(&manifest), MANIFEST_TYPE, &manifest);
        add("blobs", &name(&config), "application/octet-stream", &config);
        for layer in &layers {
            add("blobs", &name(layer), "application/octet-stream", layer);
        }
        content
    }

    fn answer(content: &Content, request: &Request) -> Answer {
        match content.get(request.path.trim_start_matches("/v2/")) {
            Some((media_type, bytes)) => Answer::ok(bytes).with("Content-Type", media_type),
            None => Answer::status(404),
        }
    }

    fn range(request: &Request) -> Option<usize> {
        request.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    struct Bench {
        folder: tempfile::TempDir,
        store: Store,
        mirrors: Vec<String>,
        docker_config: &'static str,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().expect("a folder");
            let store = Store::open(&folder.path().join("store")).expect("a store");
            Bench { folder, store, mirrors: Vec::new(), docker_config: "{}" }
        }

        fn source(&self, host: &str, rest: &str) -> Result<Source, RegistryError> {
            let reference: Reference = format!("{host}/{rest}").parse()?;
            let config = self.docker_config.replace("HOST", host);
            std::fs::write(self.folder.path().join("config.json"), config).expect("write");
            let folder = self.folder.path().display().to_string();
            let variables = BTreeMap::from([("DOCKER_CONFIG".to_owned(), folder)]);
            Source::open(
                &reference,
                &Access {
                    client: &crate::download::client_for_pulls().expect("a client"),
                    credentials: &Credentials::read(&variables, None)?,
                    insecure: &[],
                    mirrors: &BTreeMap::from([(host.to_owned(), self.mirrors.clone())]),
                },
            )
        }

        fn resolve(
            &self,
            host: &str,
            rest: &str,
            platform: &str,
        ) -> Result<Resolved, RegistryError> {
            self.source(host, rest)?.resolve(&platform.parse()?, &self.store)
        }

        /// Resolves `team/app:v1` and fetches its layers; gives the bytes that progress told.
        fn pull(&self, host: &str) -> Result<u64, RegistryError> {
            let source = self.source(host, "team/app:v1")?;
            let resolved = source.resolve(&"linux/amd64".parse()?, &self.store)?;
            let told = AtomicU64::new(0);
            source.fetch(&resolved.layers, &self.store, &|done, total| {
                assert!(done <= total && total <= 400_000, "{done} of {total}");
                told.fetch_max(done, Ordering::Relaxed);
            })?;
            Ok(told.into_inner())
        }

        #[track_caller]
        fn has_all(&self) {
            for seed in [3, 7] {
                let bytes = layer(seed);
                assert_eq!(self.store.read_blob(&Digest::of(&bytes)).expect("a blob"), bytes);
            }
        }

        #[track_caller]
        fn pulls(&self, host: &str) {
            assert_eq!(self.pull(host).map_err(|error| words(&error)), Ok(400_000));
            self.has_all();
        }

        /// The pull fails so, and the store has neither layer under its name.
        #[track_caller]
        fn fails(&self, host: &str, expected: &str) {
            let found = words(&self.pull(host).expect_err("fails"));
            assert!(found.contains(expected), "{found}");
            let first = self.store.blob_size(&Digest::of(&layer(3))).expect("a store");
            assert_eq!(first, None);
        }
    }

    fn words(error: &RegistryError) -> String {
        super::super::told(std::slice::from_ref(error))
    }

    fn first_blob() -> String {
        format!("blobs/{}", Digest::of(&layer(3)))
    }

    /// A registry where the first layer is answered in another way.
    fn odd(answers: impl Fn(&Request, &[u8]) -> Answer + Send + Sync + 'static) -> Fake {
        let (content, bytes) = (content(), layer(3));
        Fake::start(move |request| {
            if request.path.ends_with(&first_blob()) {
                answers(request, &bytes)
            } else {
                answer(&content, request)
            }
        })
    }

    #[test]
    fn by_tag_and_by_digest() {
        let content = content();
        let fake = Fake::start(move |request| answer(&content, request));
        let bench = Bench::new();
        let found = bench.resolve(&fake.host, "team/app:v1", "linux/amd64").expect("resolves");
        assert_eq!(found.diff_ids, [Digest::of(&layer(3)), Digest::of(&layer(7))]);
        assert_eq!(found.image["config"]["Env"][0], "A=b");
        assert!(
            fake.seen()[0].header("accept").is_some_and(|types| types.contains("manifest.list"))
        );
        for (named, rest) in [
            (found.named, format!("team/app@{}", found.named)),
            (found.manifest, format!("team/app:other@{}", found.manifest)),
        ] {
            // What the store has is not asked for again.
            for (bench, asks) in [(&Bench::new(), true), (&bench, false)] {
                let before = fake.seen().len();
                let again = bench.resolve(&fake.host, &rest, "linux/amd64").expect("resolves");
                assert_eq!(again, Resolved { named, ..found.clone() });
                assert_eq!(fake.seen().len() > before, asks, "{rest}");
            }
        }
    }

    #[test]
    fn layers_come_once() {
        let content = content();
        let fake = Fake::start(move |request| answer(&content, request));
        let bench = Bench::new();
        bench.pulls(&fake.host);
        assert_eq!(bench.pull(&fake.host).expect("pulls"), 0);
        assert_eq!(fake.count(&first_blob()), 1);
        // A damaged one of another length is replaced.
        let path = bench.store.blob_path(&Digest::of(&layer(3)));
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, "short").expect("write");
        assert_eq!(bench.pull(&fake.host).expect("pulls"), 200_000);
        bench.has_all();
    }

    #[test]
    fn no_image_for_the_platform() {
        let content = content();
        let fake = Fake::start(move |request| answer(&content, request));
        let error =
            Bench::new().resolve(&fake.host, "team/app:v1", "linux/s390x").expect_err("none");
        let expected = "cannot be used: it is not for linux/s390x, but for linux/amd64";
        assert!(words(&error).contains(expected), "{}", words(&error));
    }

    #[test]
    fn tokens() {
        let content = content();
        let fake = Fake::start(move |request| {
            let host = request.header("host").unwrap_or_default();
            if request.path.starts_with("/token") {
                let good = request.header("authorization") == Some("Basic dXNlcjpwYXNz")
                    && request.path.ends_with("scope=repository%3Ateam%2Fapp%3Apull");
                return if good { Answer::ok(br#"{"token":"t1"}"#) } else { Answer::status(403) };
            }
            if request.header("authorization") == Some("Bearer t1") {
                return answer(&content, request);
            }
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            Answer::status(401).with("WWW-Authenticate", &challenge)
        });
        let mut bench = Bench::new();
        bench.fails(&fake.host, "refused to get a token: 403");
        bench.docker_config = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNz"}}}"#;
        bench.pulls(&fake.host);
    }

    #[test]
    fn credentials_stay_behind() {
        let bytes = layer(3);
        let elsewhere = Fake::start(move |request| match request.header("authorization") {
            None => Answer::ok(&bytes),
            Some(_) => Answer::status(400),
        });
        let address = format!("http://{}/bucket/x?signature=y", elsewhere.host);
        let fake = odd(move |_, _| Answer::status(307).with("Location", &address));
        let mut bench = Bench::new();
        bench.docker_config = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNz"}}}"#;
        bench.pulls(&fake.host);
        assert!(fake.seen().iter().all(|request| request.header("authorization").is_some()));
        assert_eq!(elsewhere.count("signature=y"), 1);
    }

    #[test]
    fn another_host_gets_no_token_for_asking() {
        let elsewhere = Fake::start(|request| {
            let host = request.header("host").unwrap_or_default();
            let challenge = format!("Bearer realm=\"http://{host}/token\"");
            Answer::status(401).with("WWW-Authenticate", &challenge)
        });
        let address = format!("http://{}/x", elsewhere.host);
        let fake = odd(move |_, _| Answer::status(302).with("Location", &address));
        let mut bench = Bench::new();
        bench.docker_config = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNz"}}}"#;
        bench.fails(&fake.host, "401");
        assert_eq!(elsewhere.seen().len(), elsewhere.count("/x"));
    }

    #[test]
    fn asked_to_wait() {
        let fake = odd(|request, bytes| match request.earlier {
            0 => Answer::status(429).with("Retry-After", "2"),
            1 => Answer::status(503),
            _ => Answer::ok(bytes),
        });
        let started = Instant::now();
        Bench::new().pulls(&fake.host);
        assert!(started.elapsed() >= Duration::from_secs(2));
    }

    #[test]
    fn refusals_are_not_repeated() {
        for status in [400, 403, 404, 416] {
            let fake = odd(move |_, _| Answer::status(status));
            Bench::new().fails(&fake.host, &status.to_string());
            assert_eq!(fake.count(&first_blob()), 1, "{status}");
        }
    }

    #[test]
    fn broken_off_and_resumed() {
        let fake = odd(|request, bytes| match range(request) {
            None => Answer::ok(bytes).cut(120_000),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                let answer = Answer::ok(&bytes[from..]).code(206).with("Content-Range", &range);
                if request.earlier == 1 { answer.cut(5) } else { answer }
            }
        });
        Bench::new().pulls(&fake.host);
        let ranges: Vec<Option<usize>> = fake
            .seen()
            .iter()
            .filter(|request| request.path.ends_with(&first_blob()))
            .map(range)
            .collect();
        assert_eq!(ranges.len(), 3, "{ranges:?}");
        assert!(ranges[0].is_none() && ranges[1] < ranges[2] && ranges[1] > Some(0), "{ranges:?}");
    }

    #[test]
    fn broken_off_where_ranges_are_unknown() {
        let fake = odd(|request, bytes| match request.earlier {
            0 => Answer::ok(bytes).cut(120_000),
            _ => Answer::ok(bytes),
        });
        Bench::new().pulls(&fake.host);
    }

    #[test]
    fn broken_off_for_ever() {
        let fake = odd(|_, bytes| Answer::ok(bytes).cut(100));
        Bench::new().fails(&fake.host, "broke off when asked to fetch layer");
        assert_eq!(fake.count(&first_blob()), TRIES as usize);
    }

    #[test]
    fn lies_about_layers() {
        let wrong = |bytes: &[u8]| [&bytes[..bytes.len() - 1], b"?"].concat();
        let fake = odd(move |_, bytes| Answer::ok(&wrong(bytes)));
        Bench::new().fails(&fake.host, "what it sends has digest");
        let fake = odd(|_, bytes| Answer::ok(&[bytes, b"more"].concat()));
        Bench::new().fails(&fake.host, "it has 200004 bytes and should have 200000");
        let fake = odd(|request, bytes| match range(request) {
            None => Answer::ok(bytes).cut(120_000),
            Some(_) => {
                Answer::ok(&bytes[9..]).code(206).with("Content-Range", "bytes 9-199999/200000")
            }
        });
        Bench::new().fails(&fake.host, "and it sends `bytes 9-199999/200000`");
        let fake = odd(|_, bytes| Answer::ok(bytes).with("Content-Encoding", "gzip"));
        Bench::new().fails(&fake.host, "it sends it encoded as gzip");
    }

    #[test]
    fn lies_about_manifests() {
        let check = |change: fn(&Request, Answer) -> Answer, rest: &str, expected: &str| {
            let content = content();
            let fake = Fake::start(move |request| change(request, answer(&content, request)));
            let error = Bench::new().resolve(&fake.host, rest, "linux/amd64").expect_err("refused");
            assert!(words(&error).contains(expected), "{}", words(&error));
        };
        check(
            |_, answer| answer.with("Docker-Content-Digest", &Digest::of(b"x").to_string()),
            "team/app:v1",
            "which has another digest",
        );
        let index = Digest::of(&content()["team/app/manifests/v1"].1);
        check(
            |_, _| Answer::ok(b"{\"schemaVersion\":2,\"manifests\":[]}"),
            &format!("team/app@{index}"),
            "what it sends has digest",
        );
        check(
            |request, answer| if request.path.ends_with("v1") { answer } else { Answer::ok(b"{}") },
            "team/app:v1",
            "it sends 2 bytes and should send",
        );
        check(
            |request, answer| {
                if request.path.contains("/blobs/") { Answer::ok(b"{}") } else { answer }
            },
            "team/app:v1",
            "it sends 2 bytes and should send",
        );
        check(
            |_, _| Answer::ok(&vec![b' '; 5 << 20]),
            "team/app:v1",
            "it sends more than 4194304 bytes",
        );
        check(
            |_, _| Answer::ok(br#"{"schemaVersion":1,"fsLayers":[]}"#),
            "team/app:v1",
            "Docker's first schema",
        );
    }

    #[test]
    fn mirrors_come_first() {
        let has = content();
        let below: Content =
            has.iter().map(|(path, found)| (format!("hub/{path}"), found.clone())).collect();
        let registry = Fake::start(move |request| answer(&has, request));
        let mirror = Fake::start(move |request| answer(&below, request));
        let empty = Fake::start(|_| Answer::status(404));
        let mut bench = Bench::new();
        bench.mirrors = vec![empty.host.clone(), format!("{}/hub", mirror.host)];
        bench.docker_config = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNz"}}}"#;
        bench.pulls(&registry.host);
        assert!(registry.seen().is_empty());
        assert_eq!(empty.count("manifests/v1"), 1);
        assert!(mirror.seen().iter().all(|request| request.header("authorization").is_none()));
    }

    #[test]
    fn the_registry_comes_last() {
        let fake = odd(|_, bytes| Answer::ok(bytes));
        let liar = odd(|_, _| Answer::ok(&layer(7)));
        let gone = Fake::start(|_| Answer::status(500)).host.clone();
        let mut bench = Bench::new();
        bench.mirrors = vec![gone.clone(), liar.host.clone()];
        let started = Instant::now();
        bench.pulls(&fake.host);
        assert_eq!(fake.count(&first_blob()), 1);
        assert_eq!(liar.count("manifests/v1"), 1);
        // Where nobody listens is not asked again and again.
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[test]
    fn nobody_has_it() {
        let (denied, absent) = (
            Fake::start(|_| Answer::status(403)),
            Fake::start(|_| {
                Answer::ok(br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such"}]}"#)
                    .code(404)
            }),
        );
        let mut bench = Bench::new();
        bench.mirrors = vec![denied.host.clone()];
        let error = words(&bench.pull(&absent.host).expect_err("nobody"));
        for part in [&denied.host, &absent.host, "403", "404 MANIFEST_UNKNOWN no such"] {
            assert!(error.contains(part), "{error}");
        }
        bench.mirrors = vec!["https://mirror.example".to_owned()];
        let error = words(&bench.pull(&absent.host).expect_err("refused"));
        assert!(error.contains("a mirror is `host`"), "{error}");
    }
}
