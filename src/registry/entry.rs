//! Entries of the cache: what a step made, as a manifest that any registry keeps.
//!
//! ```text
//! tag forge-1-<key>  ─►  manifest  ─┬─► annotation `io.forge.output`: the record, as JSON
//!                                   └─► layers: the packed tree, so that the registry
//!                                       keeps the blob as long as the entry
//! ```
//!
//! - One request answers whether a result is known, and what it is.
//! - The format's number is in the tag: a forge of another format finds nothing.
//! - What is not just as it is written here is no entry: a miss, not an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::MANIFEST_TYPE;
use crate::layer::Layer;

/// Bumped whenever entries mean something else.
const FORMAT: u32 = 1;
/// What the manifest says it is (image specification 1.1, "artifactType").
const ARTIFACT: &str = "application/vnd.forge.output.v1+json";
/// The configuration of artifacts that have none (the same, "empty descriptor").
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// What stands in its place for registries that know only images.
const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const ANNOTATION: &str = "io.forge.output";
/// The content of the empty descriptor.
pub const EMPTY: &[u8] = b"{}";

/// A step's result, as machines share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key, once more: a tag can be moved by hand.
    pub key: Digest,
    /// The step's name, for people.
    pub step: String,
    /// The tree that it made.
    pub tree: Digest,
    /// How the tree is packed → the layer.
    pub layers: Vec<(Digest, Layer)>,
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

/// The tag of the result of a key.
#[must_use]
pub fn tag(key: &Digest) -> String {
    format!("forge-{FORMAT}-{}", key.hex())
}

/// The tag of the image that a whole plan makes.
#[must_use]
pub fn image_tag(key: &Digest) -> String {
    format!("forge-{FORMAT}-image-{}", key.hex())
}

impl Entry {
    /// The manifest. Some registries take only what looks like an image; then
    /// `plain` leaves out what an image does not have.
    #[must_use]
    pub fn manifest(&self, plain: bool) -> Vec<u8> {
        let empty = |media_type: &str| Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(EMPTY),
            size: EMPTY.len() as u64,
        };
        let mut layers: Vec<Descriptor> = self
            .layers
            .iter()
            .map(|(_, layer)| Descriptor {
                media_type: layer.compression.media_type().to_owned(),
                digest: layer.digest,
                size: layer.size,
            })
            .collect();
        if layers.is_empty() && !plain {
            layers.push(empty(EMPTY_TYPE));
        }
        let record = serde_json::to_string(self).unwrap_or_default();
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: (!plain).then(|| ARTIFACT.to_owned()),
            config: empty(if plain { IMAGE_CONFIG } else { EMPTY_TYPE }),
            layers,
            annotations: BTreeMap::from([(ANNOTATION.to_owned(), record)]),
        };
        serde_json::to_vec(&manifest).unwrap_or_default()
    }

    /// The entry that a manifest is, if it is one for this key.
    #[must_use]
    pub fn read(manifest: &[u8], key: &Digest) -> Option<Entry> {
        let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
        let entry: Entry = serde_json::from_str(manifest.annotations.get(ANNOTATION)?).ok()?;
        // What the registry keeps must be what the record speaks of.
        let kept = |layer: &Layer| {
            manifest
                .layers
                .iter()
                .any(|kept| kept.digest == layer.digest && kept.size == layer.size)
        };
        (entry.key == *key && entry.layers.iter().all(|(_, layer)| kept(layer))).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Compression;

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
            layers: vec![(Digest::of(b"recipe"), layer)],
        }
    }

    #[test]
    fn there_and_back() {
        for plain in [false, true] {
            let bytes = entry().manifest(plain);
            assert_eq!(Entry::read(&bytes, &entry().key), Some(entry()));
            assert_eq!(bytes, entry().manifest(plain));
            oci_spec::image::ImageManifest::from_reader(bytes.as_slice()).expect("a manifest");
            let none = Entry { layers: Vec::new(), ..entry() };
            assert_eq!(Entry::read(&none.manifest(plain), &none.key), Some(none));
        }
    }

    #[test]
    fn what_is_no_entry() {
        let bytes = entry().manifest(false);
        assert_eq!(Entry::read(&bytes, &Digest::of(b"another")), None);
        assert_eq!(Entry::read(b"{}", &entry().key), None);
        assert_eq!(Entry::read(b"", &entry().key), None);
        // A record of a blob that the registry was not told to keep.
        let text = String::from_utf8(bytes).expect("text");
        let moved =
            text.replacen(&Digest::of(b"blob").to_string(), &Digest::of(b"x").to_string(), 1);
        assert_eq!(Entry::read(moved.as_bytes(), &entry().key), None);
    }

    /// Pins the format: a change here makes every shared cache miss.
    #[test]
    fn tags_are_pinned() {
        let key = Digest::of(b"key");
        assert_eq!(tag(&key), format!("forge-1-{}", key.hex()));
        assert!(image_tag(&key).len() <= 128);
    }
}
