//! Entries of the cache: what a step made, or a whole plan, as a manifest that any registry
//! keeps.
//!
//! ```text
//! tag forge-2-<key>        ─►  manifest  ─┬─► annotation `io.forge.…`: the record, as JSON
//! tag forge-2-image-<key>                 └─► layers: the packed tree, or the image's layers,
//! tag forge-2-reads-<weak key>                so that the registry keeps them with the entry
//! ```
//!
//! - One request answers whether a result is known, and what it is.
//! - The format's number is in the tag: a forge of another format finds nothing.
//! - What is not just as it is written here is no entry: a miss, not an error.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Reason;
use super::repository::Name;
use super::{RegistryError, Repository};
use crate::digest::Digest;
use crate::image::{Image, ImageLayer, MANIFEST_TYPE, MediaTypes};
use crate::layer::{Layer, Packing};

/// Bumped whenever entries mean something else.
const FORMAT: u32 = 2;
/// The configuration of artifacts that have none (image specification 1.1, "empty descriptor").
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// What stands in its place for registries that know only images.
const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The content of the empty descriptor.
const EMPTY: &[u8] = b"{}";

/// What the registry keeps under one tag of the cache.
pub trait Record: Serialize + DeserializeOwned {
    /// What the manifest says it is (image specification 1.1, "artifactType").
    const ARTIFACT: &'static str;
    /// The annotation that holds the record.
    const ANNOTATION: &'static str;

    /// The key, once more: a tag can be moved by hand.
    fn key(&self) -> &Digest;

    /// Its tag.
    fn tag(key: &Digest) -> String;

    /// The blobs that it speaks of and that the registry must keep.
    fn blobs(&self) -> Vec<&Layer>;
}

/// A step's result, as machines share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The step's key.
    pub key: Digest,
    /// The step's name, for people.
    pub step: String,
    /// The tree that it made.
    pub tree: Digest,
    /// The tree, packed in one way or several.
    pub packings: Vec<Packing>,
}

impl Record for Entry {
    const ARTIFACT: &'static str = "application/vnd.forge.output.v1+json";
    const ANNOTATION: &'static str = "io.forge.output";

    fn key(&self) -> &Digest {
        &self.key
    }

    fn tag(key: &Digest) -> String {
        format!("forge-{FORMAT}-{}", key.hex())
    }

    fn blobs(&self) -> Vec<&Layer> {
        self.packings.iter().flat_map(Packing::layers).collect()
    }
}

/// The image that a whole plan makes, as machines share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// The plan's key.
    pub key: Digest,
    /// The image's manifest.
    pub manifest: String,
    /// Its configuration.
    pub config: String,
    /// What its layers are, bottom to top.
    pub layers: Vec<ImageLayer>,
    /// Those of them that this repository has: those of an image under the app may be elsewhere.
    pub kept: Vec<Digest>,
}

impl Record for ImageEntry {
    const ARTIFACT: &'static str = "application/vnd.forge.image.v1+json";
    const ANNOTATION: &'static str = "io.forge.image";

    fn key(&self) -> &Digest {
        &self.key
    }

    fn tag(key: &Digest) -> String {
        format!("forge-{FORMAT}-image-{}", key.hex())
    }

    fn blobs(&self) -> Vec<&Layer> {
        let layers = self.layers.iter().map(|layer| &layer.layer);
        layers.filter(|layer| self.kept.contains(&layer.digest)).collect()
    }
}

impl ImageEntry {
    /// The entry of an image; `None` when its documents are not text.
    #[must_use]
    pub fn new(key: Digest, image: &Image, kept: Vec<Digest>) -> Option<ImageEntry> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let (manifest, config) = (text(&image.manifest)?, text(&image.config)?);
        Some(ImageEntry { key, manifest, config, layers: image.layers.clone(), kept })
    }

    /// The image; `None` when the documents do not belong together.
    #[must_use]
    pub fn image(self) -> Option<Image> {
        let manifest: Manifest = serde_json::from_str(&self.manifest).ok()?;
        let config_digest = Digest::of(self.config.as_bytes());
        let named = manifest.layers.iter().map(|layer| (layer.digest, layer.size));
        let known = self.layers.iter().map(|layer| (layer.layer.digest, layer.layer.size));
        let media_types = MediaTypes::of(self.manifest.as_bytes())?;
        let fits = manifest.config.digest == config_digest && named.eq(known);
        fits.then(|| Image {
            config: self.config.into_bytes(),
            config_digest,
            digest: Digest::of(self.manifest.as_bytes()),
            manifest: self.manifest.into_bytes(),
            media_types,
            layers: self.layers,
        })
    }
}

/// What runs of a traced step have read, as machines share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// The step's weak key.
    pub key: Digest,
    /// The step's name, for people.
    pub step: String,
    /// Files by path, newest run first.
    #[serde(with = "packed")]
    pub sets: Vec<BTreeSet<String>>,
    /// Whether a recording was found to miss something: then the one set has all files, and no
    /// other counts.
    #[serde(default)]
    pub distrusted: bool,
}

impl Recording {
    /// Bytes of the sets' text that a registry surely takes: manifests up to 4 MiB are
    /// (distribution specification 1.1, "Pushing manifests").
    const LONGEST: usize = 2 << 20;

    /// The same with only so many sets as a registry takes, the newest.
    ///
    /// # Errors
    /// Sets that cannot be packed.
    pub fn fitting(mut self) -> io::Result<Recording> {
        while packed::text(&self.sets)?.len() > Recording::LONGEST && self.sets.pop().is_some() {}
        Ok(self)
    }
}

impl Record for Recording {
    const ARTIFACT: &'static str = "application/vnd.forge.reads.v1+json";
    const ANNOTATION: &'static str = "io.forge.reads";

    fn key(&self) -> &Digest {
        &self.key
    }

    fn tag(key: &Digest) -> String {
        format!("forge-{FORMAT}-reads-{}", key.hex())
    }

    fn blobs(&self) -> Vec<&Layer> {
        Vec::new()
    }
}

/// Path sets as a short text: JSON, zstd, base64. Sets of one step have most paths in common.
mod packed {
    use super::{BTreeSet, io};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de, ser};
    use std::io::Read as _;

    type Sets = Vec<BTreeSet<String>>;

    /// What no honest text unpacks to: far more paths than an app has.
    const LARGEST: u64 = 256 << 20;

    pub(super) fn text(sets: &Sets) -> io::Result<String> {
        let json = serde_json::to_vec(sets)?;
        Ok(STANDARD.encode(zstd::encode_all(json.as_slice(), 9)?))
    }

    pub(super) fn serialize<S: Serializer>(sets: &Sets, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(sets).map_err(ser::Error::custom)?)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Sets, D::Error> {
        let packed = STANDARD.decode(String::deserialize(from)?).map_err(de::Error::custom)?;
        let mut json = Vec::new();
        zstd::Decoder::new(packed.as_slice())
            .and_then(|unpacked| unpacked.take(LARGEST).read_to_end(&mut json))
            .map_err(de::Error::custom)?;
        serde_json::from_slice(&json).map_err(de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Repository {
    /// The entry of a key; what is no entry counts as none.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn entry<R: Record>(&self, key: &Digest) -> Result<Option<R>, RegistryError> {
        let found = self.manifest(Name::Tag(&R::tag(key)))?;
        Ok(found.and_then(|found| read(&found.bytes, key)))
    }

    /// Writes an entry, whose blobs must be there.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn put_entry<R: Record>(&self, record: &R) -> Result<(), RegistryError> {
        let tag = R::tag(record.key());
        let put = |plain| {
            let bytes = write(record, plain).map_err(RegistryError::Record)?;
            self.put_manifest(Name::Tag(&tag), MANIFEST_TYPE, &bytes).map(drop)
        };
        self.write_blob(EMPTY)?;
        match put(false) {
            // Some registries take nothing but images.
            Err(RegistryError::Refused { refusal, .. }) if refusal.reason() == Reason::Other => {
                put(true)
            }
            other => other,
        }
    }
}

/// The manifest of a record. Some registries take only what looks like an image; then `plain`
/// leaves out what an image does not have.
///
/// # Errors
/// A record that is no JSON, which none is.
fn write<R: Record>(record: &R, plain: bool) -> Result<Vec<u8>, serde_json::Error> {
    let empty = |media_type: &str| Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(EMPTY),
        size: EMPTY.len() as u64,
    };
    let mut layers: Vec<Descriptor> = Vec::new();
    for layer in record.blobs() {
        let media_type = layer.compression.media_type().to_owned();
        layers.push(Descriptor { media_type, digest: layer.digest, size: layer.size });
    }
    if layers.is_empty() && !plain {
        layers.push(empty(EMPTY_TYPE));
    }
    let text = serde_json::to_string(record)?;
    serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE.to_owned(),
        artifact_type: (!plain).then(|| R::ARTIFACT.to_owned()),
        config: empty(if plain { IMAGE_CONFIG } else { EMPTY_TYPE }),
        layers,
        annotations: BTreeMap::from([(R::ANNOTATION.to_owned(), text)]),
    })
}

/// The record that a manifest holds, if it is one for this key.
fn read<R: Record>(manifest: &[u8], key: &Digest) -> Option<R> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    let record: R = serde_json::from_str(manifest.annotations.get(R::ANNOTATION)?).ok()?;
    // What the registry keeps must be what the record speaks of.
    let kept = |layer: &&Layer| {
        manifest.layers.iter().any(|kept| kept.digest == layer.digest && kept.size == layer.size)
    };
    (record.key() == key && record.blobs().iter().all(kept)).then_some(record)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::Reference;
    use super::super::access::{Access, Settings};
    use super::super::credentials::Credentials;
    use super::super::fake::{Answer, Content, Fake};
    use super::*;
    use crate::image::assemble;
    use crate::image::tests::{layer, settings};
    use crate::layer::{Compression, PackedPart};

    fn entry() -> Entry {
        let layer = Layer {
            diff_id: Digest::of(b"tar"),
            digest: Digest::of(b"blob"),
            size: 4,
            unpacked: 3,
            compression: Compression::DEFAULT,
        };
        Entry {
            key: Digest::of(b"key"),
            step: "gems".to_owned(),
            tree: Digest::of(b"tree"),
            packings: vec![Packing {
                key: Digest::of(b"recipe"),
                parts: vec![PackedPart { name: None, tree: Digest::of(b"tree"), layer }],
            }],
        }
    }

    #[test]
    fn there_and_back() {
        for plain in [false, true] {
            let bytes = write(&entry(), plain).expect("JSON");
            assert_eq!(read(&bytes, &entry().key), Some(entry()));
            oci_spec::image::ImageManifest::from_reader(bytes.as_slice()).expect("a manifest");
            let none = Entry { packings: Vec::new(), ..entry() };
            assert_eq!(read(&write(&none, plain).expect("JSON"), &none.key), Some(none));
        }
    }

    fn recording(sets: usize, files: usize) -> Recording {
        let path = |set: usize, file: usize| {
            format!("workspace/{}", Digest::of(format!("{set} {file}").as_bytes()))
        };
        let set = |set: usize| (0..files).map(|file| path(set, file)).collect();
        let sets = (0..sets).map(set).collect();
        Recording { key: Digest::of(b"key"), step: "assets".to_owned(), sets, distrusted: false }
    }

    #[test]
    fn recordings_there_and_back() {
        for (sets, files) in [(0, 0), (1, 0), (2, 3)] {
            let recording = recording(sets, files);
            let bytes = write(&recording, false).expect("JSON");
            assert_eq!(read(&bytes, &recording.key), Some(recording));
        }
        let text = String::from_utf8(write(&recording(2, 3), false).expect("JSON")).expect("text");
        let packed = packed::text(&recording(2, 3).sets).expect("packed");
        for broken in ["", "?", "AAAA"] {
            let bytes = text.replace(&packed, broken);
            assert_eq!(read::<Recording>(bytes.as_bytes(), &Digest::of(b"key")), None, "{broken}");
        }
    }

    #[test]
    fn a_recording_fits_into_a_manifest() {
        let all = recording(8, 10_000);
        let fitting = all.clone().fitting().expect("packed");
        assert!(!fitting.sets.is_empty() && fitting.sets.len() < 8);
        assert_eq!(fitting.sets, all.sets[..fitting.sets.len()]);
        assert!(write(&fitting, false).expect("JSON").len() < 4 << 20);
        assert_eq!(recording(8, 100).fitting().expect("packed").sets.len(), 8);
    }

    #[test]
    fn a_registry_that_takes_only_images() {
        let kept = Arc::new(Mutex::new(Content::default()));
        // The answer counts: what it has kept of the first is replaced by the second.
        let fake = Fake::registry(
            &kept,
            |_| None,
            |request, usual| {
                let body = String::from_utf8_lossy(&request.body);
                if request.kind() == "PUT manifests" && body.contains("artifactType") {
                    Answer::error(400, "MANIFEST_INVALID")
                } else {
                    usual
                }
            },
        );
        let access = Access::new(Settings {
            credentials: Credentials::default(),
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            certificates: Vec::new(),
        });
        let reference: Reference = format!("{}/team/app", fake.host).parse().expect("a name");
        let repository = access.repository(&reference).expect("opens");
        assert_eq!(repository.entry::<Entry>(&entry().key).expect("an answer"), None);
        repository.write_blob(b"blob").expect("sent");
        repository.put_entry(&entry()).expect("taken in the other form");
        assert_eq!(fake.kind("PUT manifests"), 2);
        assert_eq!(repository.entry(&entry().key).expect("an answer"), Some(entry()));
    }

    #[test]
    fn a_whole_image() {
        let image = assemble(&settings(), vec![layer(b"one"), layer(b"two")]).expect("an image");
        let digests: Vec<Digest> = image.layers.iter().map(|layer| layer.layer.digest).collect();
        for kept in [digests, Vec::new()] {
            let entry = ImageEntry::new(Digest::of(b"plan"), &image, kept).expect("text");
            let bytes = write(&entry, false).expect("JSON");
            oci_spec::image::ImageManifest::from_reader(bytes.as_slice()).expect("a manifest");
            let found: ImageEntry = read(&bytes, &entry.key).expect("an entry");
            assert_eq!(found.clone().image().as_ref(), Some(&image));
            let other = ImageEntry { config: "{}".to_owned(), ..found };
            assert_eq!(other.image(), None);
        }
    }

    #[test]
    fn what_is_no_entry() {
        let bytes = write(&entry(), false).expect("JSON");
        assert_eq!(read::<Entry>(&bytes, &Digest::of(b"another")), None);
        assert_eq!(read::<ImageEntry>(&bytes, &entry().key), None);
        assert_eq!(read::<Entry>(b"{}", &entry().key), None);
        assert_eq!(read::<Entry>(b"", &entry().key), None);
        // A record of a blob that the registry was not told to keep.
        let text = String::from_utf8(bytes).expect("text");
        let moved =
            text.replacen(&Digest::of(b"blob").to_string(), &Digest::of(b"x").to_string(), 1);
        assert_eq!(read::<Entry>(moved.as_bytes(), &entry().key), None);
    }

    /// Pins the format: a change here makes every shared cache miss.
    #[test]
    fn tags_are_pinned() {
        let key = Digest::of(b"key");
        assert_eq!(Entry::tag(&key), format!("forge-2-{}", key.hex()));
        assert_eq!(ImageEntry::tag(&key), format!("forge-2-image-{}", key.hex()));
        assert_eq!(Recording::tag(&key), format!("forge-2-reads-{}", key.hex()));
        assert!(ImageEntry::tag(&key).len() <= 128);
        let digest = Digest::of(&write(&entry(), false).expect("JSON"));
        assert_eq!(
            digest.to_string(),
            "sha256:d46adca93150892548e1e2dc727af548c0dad7d08dbbc399264176b674be05cd"
        );
    }
}
