//! Manifests and indexes as registries hold them: which image of an index is meant, and
//! whether forge can take it.
//!
//! Read are OCI manifests and indexes (image specification 1.1) and those of Docker's second
//! schema, which differ in names only. A document that could be both is refused, whatever it is
//! called (CVE-2021-41190), so it does not matter who believes which media type.
//!
//! Pure: bytes in, values out.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::RegistryError;
use crate::digest::Digest;

/// What a request for a manifest accepts.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// How a layer is compressed is seen in its first bytes; the ending is not needed.
const LAYER_TYPES: [&str; 2] =
    ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];
const LAYER_ENDINGS: [&str; 5] = ["", "+gzip", ".gzip", "+zstd", ".zstd"];
/// Layers that registries do not have themselves.
const FOREIGN_TYPES: [&str; 2] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// For whom an image is: `linux/amd64`, `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// GOOS.
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// The processor's generation, where there are several.
    pub variant: Option<String>,
}

/// Content in a registry, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its type.
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Why an image of a registry cannot be taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not the document that it should be.
    #[error("its {document} is malformed")]
    Malformed {
        /// `manifest` or `configuration`.
        document: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Docker's first format: its layers have no digest of their content.
    #[error(
        "its manifest is of Docker's first schema, which is out of use: push the image again with a tool of today"
    )]
    FirstSchema,
    /// A document with the parts of both.
    #[error("its manifest could be a manifest and an index at once")]
    Ambiguous,
    /// Neither manifest nor index.
    #[error("it has neither a configuration with layers nor a list of manifests")]
    Neither,
    /// A document that is called another thing than it is.
    #[error("its manifest is called `{called}`, which it is not")]
    Misnamed {
        /// The media type.
        called: String,
    },
    /// No image, but something else that registries keep.
    #[error("its configuration is of type `{0}`, so it is not an image")]
    NotAnImage(String),
    /// A layer that has to be had from elsewhere, by licence.
    #[error("layer {digest} is of type `{media_type}`: such layers may not be redistributed")]
    Foreign {
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// A layer of a type that nobody knows.
    #[error("layer {digest} is of type `{media_type}`, which forge cannot unpack")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// None of the images fits.
    #[error("it is not for {wanted}, but for {}", join(.found))]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        found: Vec<Platform>,
    },
    /// A configuration without what must be in it.
    #[error("its configuration has no usable `{0}`")]
    Config(&'static str),
    /// Layers and their names do not match.
    #[error("it has {layers} layers, and its configuration names {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// A manifest whose index says another length.
    #[error("manifest {digest} has {found} bytes, and its index says {size}")]
    Size {
        /// The manifest.
        digest: Digest,
        /// What the index says.
        size: u64,
        /// What there is.
        found: u64,
    },
    /// An index where an image is wanted.
    #[error("it is an index: name its images")]
    IsIndex,
    /// Indexes in indexes, without end.
    #[error("its index leads to an index, and so on")]
    Nested,
}

fn join(found: &[Platform]) -> String {
    let names: Vec<String> = found.iter().map(ToString::to_string).collect();
    if names.is_empty() { "no platform at all".to_owned() } else { names.join(", ") }
}

/// A document that a reference may name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    /// Images for several platforms.
    Index(Vec<Choice>),
    /// One image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Bottom to top.
        layers: Vec<Descriptor>,
    },
}

/// One entry of an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    platform: Option<Platform>,
    descriptor: Descriptor,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<DescriptorDocument>,
    layers: Option<Vec<DescriptorDocument>>,
    manifests: Option<Vec<DescriptorDocument>>,
    fs_layers: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorDocument {
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<PlatformDocument>,
}

#[derive(Deserialize)]
struct PlatformDocument {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl From<DescriptorDocument> for Descriptor {
    fn from(document: DescriptorDocument) -> Descriptor {
        let DescriptorDocument { media_type, digest, size, .. } = document;
        Descriptor { media_type, digest, size }
    }
}

/// Reads a manifest or an index; `content_type` is what the registry calls it.
pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Manifest, ManifestError> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|source| ManifestError::Malformed { document: "manifest", source })?;
    if document.schema_version == 1 || document.fs_layers.is_some() {
        return Err(ManifestError::FirstSchema);
    }
    let (found, types) = match (document.manifests, document.config, document.layers) {
        (Some(manifests), None, None) => {
            let choices = manifests.into_iter().map(|mut entry| Choice {
                platform: entry.platform.take().map(|platform| Platform {
                    os: platform.os,
                    architecture: platform.architecture,
                    variant: platform.variant.filter(|variant| !variant.is_empty()),
                }),
                descriptor: entry.into(),
            });
            (Manifest::Index(choices.collect()), INDEX_TYPES)
        }
        (None, Some(config), Some(layers)) => {
            let layers: Vec<Descriptor> = layers.into_iter().map(Descriptor::from).collect();
            let config = Descriptor::from(config);
            if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
                return Err(ManifestError::NotAnImage(config.media_type));
            }
            layers.iter().try_for_each(can_unpack)?;
            (Manifest::Image { config, layers }, MANIFEST_TYPES)
        }
        (Some(_), ..) => return Err(ManifestError::Ambiguous),
        _ => return Err(ManifestError::Neither),
    };
    // Some registries call everything JSON; what they call by a name must have it.
    let header = content_type.map(|text| text.split(';').next().unwrap_or(text).trim());
    let known = |name: &&str| INDEX_TYPES.contains(name) || MANIFEST_TYPES.contains(name);
    let header = header.filter(known);
    let called = document.media_type.as_deref();
    if let Some(wrong) = [called, header].into_iter().flatten().find(|name| !types.contains(name)) {
        return Err(ManifestError::Misnamed { called: wrong.to_owned() });
    }
    match (called, header) {
        (Some(called), Some(header)) if called != header => {
            Err(ManifestError::Misnamed { called: header.to_owned() })
        }
        _ => Ok(found),
    }
}

fn can_unpack(layer: &Descriptor) -> Result<(), ManifestError> {
    let is = |types: [&str; 2]| {
        types.iter().any(|name| {
            layer
                .media_type
                .strip_prefix(name)
                .is_some_and(|ending| LAYER_ENDINGS.contains(&ending))
        })
    };
    let (digest, media_type) = (layer.digest, layer.media_type.clone());
    if is(FOREIGN_TYPES) {
        Err(ManifestError::Foreign { digest, media_type })
    } else if is(LAYER_TYPES) {
        Ok(())
    } else {
        Err(ManifestError::LayerType { digest, media_type })
    }
}

/// The entry of an index for `wanted`. Of several that fit equally the first one is meant
/// (image specification, `image-index.md`).
pub(super) fn choose<'c>(
    choices: &'c [Choice],
    wanted: &Platform,
) -> Result<&'c Descriptor, ManifestError> {
    // An index with one image that says nothing: its configuration will tell.
    if let [Choice { platform: None, descriptor }] = choices {
        return Ok(descriptor);
    }
    let ranked = choices.iter().filter_map(|choice| {
        let rank = fit(choice.platform.as_ref()?, wanted)?;
        Some((rank, &choice.descriptor))
    });
    match ranked.min_by_key(|(rank, _)| *rank) {
        Some((_, descriptor)) => Ok(descriptor),
        None => Err(ManifestError::Platform {
            wanted: wanted.clone(),
            found: choices
                .iter()
                .filter_map(|choice| choice.platform.clone())
                // Attestations.
                .filter(|platform| platform.os != "unknown")
                .collect(),
        }),
    }
}

/// How well an image for `found` serves `wanted`: less is better, `None` not at all. Where no
/// variant is asked for, it is the one that all processors of that name have.
fn fit(found: &Platform, wanted: &Platform) -> Option<u8> {
    let usual = |platform: &Platform| match platform.architecture.as_str() {
        "arm64" => Some("v8"),
        "arm" => Some("v7"),
        "amd64" => Some("v1"),
        _ => None,
    };
    if found.os != wanted.os || found.architecture != wanted.architecture {
        return None;
    }
    let of = |platform: &Platform| {
        platform.variant.clone().or_else(|| usual(platform).map(str::to_owned))
    };
    (of(found) == of(wanted)).then(|| u8::from(found.variant != wanted.variant))
}

/// For whom a configuration says that its image is.
pub(super) fn platform(config: &Value) -> Result<Platform, ManifestError> {
    let text = |name: &'static str| {
        config[name].as_str().filter(|text| !text.is_empty()).ok_or(ManifestError::Config(name))
    };
    Ok(Platform {
        os: text("os")?.to_owned(),
        architecture: text("architecture")?.to_owned(),
        variant: config["variant"].as_str().filter(|text| !text.is_empty()).map(str::to_owned),
    })
}

/// What a configuration says that pulling needs: the diffIDs, bottom to top.
pub(super) fn check_config(
    config: &Value,
    layers: usize,
    wanted: &Platform,
) -> Result<Vec<Digest>, ManifestError> {
    let found = platform(config)?;
    // The variant is left to the index: many configurations say nothing or another thing.
    if (&found.os, &found.architecture) != (&wanted.os, &wanted.architecture) {
        return Err(ManifestError::Platform { wanted: wanted.clone(), found: vec![found] });
    }
    let diff_ids = config["rootfs"]["diff_ids"].as_array().map(Vec::as_slice);
    let diff_ids: Vec<Digest> = match diff_ids {
        None if layers == 0 => Vec::new(),
        None => return Err(ManifestError::Config("rootfs.diff_ids")),
        Some(values) => values
            .iter()
            .map(|value| value.as_str().and_then(|text| text.parse().ok()))
            .collect::<Option<_>>()
            .ok_or(ManifestError::Config("rootfs.diff_ids"))?,
    };
    if diff_ids.len() != layers {
        return Err(ManifestError::Layers { layers, diff_ids: diff_ids.len() });
    }
    Ok(diff_ids)
}

impl FromStr for Platform {
    type Err = RegistryError;

    /// Accepts `os/architecture` and `os/architecture/variant`.
    fn from_str(text: &str) -> Result<Platform, RegistryError> {
        let parts: Vec<&str> = text.split('/').collect();
        let good = parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        match parts.as_slice() {
            [os, architecture] if good => Ok(Platform {
                os: (*os).to_owned(),
                architecture: (*architecture).to_owned(),
                variant: None,
            }),
            [os, architecture, variant] if good => Ok(Platform {
                os: (*os).to_owned(),
                architecture: (*architecture).to_owned(),
                variant: Some((*variant).to_owned()),
            }),
            _ => Err(RegistryError::Platform { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
