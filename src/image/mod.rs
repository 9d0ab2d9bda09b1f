//! The image as a value: configuration, manifest, and the bytes of both.
//!
//! Our own types with sorted maps write the documents, so that the same image is
//! the same bytes; `oci-spec`'s types then read them back, so that what is
//! written is what the specification says. Rules are those of the OCI image
//! specification 1.1 (`config.md`, `manifest.md`).
//!
//! No network here; files only in [`layout`] and [`archive`].

pub mod archive;
pub mod layout;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::{Digest, Fields};
use crate::layer::{Compression, Layer};

/// Media type of an OCI manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the parts of an image are called. The documents differ in nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// As in the OCI image specification.
    #[default]
    Oci,
    /// As in Docker's image manifest, version 2, schema 2, for what reads nothing else.
    Docker,
}

impl MediaTypes {
    /// Of the manifest.
    #[must_use]
    pub fn manifest(self) -> &'static str {
        match self {
            MediaTypes::Oci => MANIFEST_TYPE,
            MediaTypes::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// Those of a manifest, which it says itself; `None` for what is no manifest of an image.
    #[must_use]
    pub fn of(manifest: &[u8]) -> Option<MediaTypes> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Called {
            media_type: String,
        }
        let called: Called = serde_json::from_slice(manifest).ok()?;
        [MediaTypes::Oci, MediaTypes::Docker]
            .into_iter()
            .find(|types| types.manifest() == called.media_type)
    }

    fn config(self) -> &'static str {
        match self {
            MediaTypes::Oci => "application/vnd.oci.image.config.v1+json",
            MediaTypes::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// `None` where there is no name for it.
    fn layer(self, compression: Compression) -> Option<&'static str> {
        match (self, compression) {
            (MediaTypes::Oci, compression) => Some(compression.media_type()),
            (MediaTypes::Docker, Compression::None) => {
                Some("application/vnd.docker.image.rootfs.diff.tar")
            }
            (MediaTypes::Docker, Compression::Gzip { .. }) => {
                Some("application/vnd.docker.image.rootfs.diff.tar.gzip")
            }
            (MediaTypes::Docker, Compression::Zstd { .. }) => None,
        }
    }
}

/// What the finished image says about itself and how it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `amd64`, `arm64`: GOARCH names.
    pub architecture: String,
    /// RFC 3339 time of creation.
    pub created: String,
    /// Static environment, sorted.
    pub environment: BTreeMap<String, String>,
    /// The entrypoint.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub command: Vec<String>,
    /// `uid:gid`, numeric.
    pub user: String,
    /// Working directory.
    pub directory: String,
    /// Labels, sorted.
    pub labels: BTreeMap<String, String>,
    /// `8080/tcp` and the like.
    pub ports: Vec<String>,
    /// Signal that asks the app to end.
    pub stop_signal: Option<String>,
    /// What its parts are called.
    pub media_types: MediaTypes,
}

impl Settings {
    /// A name for all of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let Settings {
            architecture,
            created,
            environment,
            entrypoint,
            command,
            user,
            directory,
            labels,
            ports,
            stop_signal,
            media_types,
        } = self;
        let mut fields = Fields::new("forge-image-settings");
        fields.text(architecture).text(created).text(user).text(directory);
        fields.text(media_types.manifest());
        fields.text(stop_signal.as_deref().unwrap_or(""));
        for list in [entrypoint, command, ports] {
            fields.texts(list.iter().map(String::as_str));
        }
        for map in [environment, labels] {
            fields.number(map.len() as u64);
            for (name, value) in map {
                fields.text(name).text(value);
            }
        }
        fields.finish()
    }
}

/// One layer with the step that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// What made it, for the history.
    pub name: String,
    /// Which part of that it is, where it is one of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The packed layer.
    pub layer: Layer,
    /// The tree that it was packed from.
    pub tree: Digest,
}

impl ImageLayer {
    /// What people call it: the step, and which part of what that made.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.name, self.part.as_deref())
    }
}

/// What people call a layer of what a step made.
#[must_use]
pub fn title(step: &str, part: Option<&str>) -> String {
    match part {
        None => step.to_owned(),
        Some(part) => format!("{step}: {part}"),
    }
}

/// A finished image: everything but the layers' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The configuration document.
    pub config: Vec<u8>,
    /// Its digest: Docker's image id.
    pub config_digest: Digest,
    /// The manifest document.
    pub manifest: Vec<u8>,
    /// Its digest: the image's name.
    pub digest: Digest,
    /// What its parts are called.
    pub media_types: MediaTypes,
    /// Bottom to top.
    pub layers: Vec<ImageLayer>,
}

/// Why an image cannot be assembled or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// What was assembled is not what the specification allows: a bug in forge.
    #[error("the {document} that was made is not valid: {problem}")]
    Invalid {
        /// `configuration` or `manifest`.
        document: &'static str,
        /// What the reader said.
        problem: String,
    },
    /// A layer that Docker's names do not cover.
    #[error(
        "the layer `{layer}` is compressed with zstd, for which Docker's media types have no name"
    )]
    NoDockerType {
        /// The layer's step.
        layer: String,
    },
    /// The disk refused.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A layer's bytes are not in the store.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A folder that is there already and is no OCI layout.
    #[error("`{}` exists and is not an OCI layout: {problem}", path.display())]
    NotALayout {
        /// The folder.
        path: std::path::PathBuf,
        /// What was found.
        problem: String,
    },
}

#[derive(Serialize)]
struct ConfigDocument<'a> {
    architecture: &'a str,
    config: RunDocument<'a>,
    created: &'a str,
    history: Vec<HistoryDocument<'a>>,
    os: &'static str,
    rootfs: RootDocument,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RunDocument<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    cmd: &'a [String],
    entrypoint: &'a [String],
    env: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<&'a str, Empty>,
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<&'a str>,
    user: &'a str,
    working_dir: &'a str,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct HistoryDocument<'a> {
    created: &'a str,
    created_by: String,
}

#[derive(Serialize)]
struct RootDocument {
    diff_ids: Vec<Digest>,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestDocument {
    schema_version: u8,
    media_type: &'static str,
    config: DescriptorDocument,
    layers: Vec<DescriptorDocument>,
}

/// A reference to content (image specification, `descriptor.md`).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DescriptorDocument {
    /// Its type.
    pub media_type: &'static str,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Annotations, sorted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl DescriptorDocument {
    fn new(media_type: &'static str, digest: Digest, size: u64) -> DescriptorDocument {
        DescriptorDocument { media_type, digest, size, annotations: BTreeMap::new() }
    }
}

/// Puts an image together.
///
/// # Errors
/// [`ImageError::Invalid`] when `oci-spec` does not read back what was written.
pub fn assemble(settings: &Settings, layers: Vec<ImageLayer>) -> Result<Image, ImageError> {
    let document = ConfigDocument {
        architecture: &settings.architecture,
        config: RunDocument {
            cmd: &settings.command,
            entrypoint: &settings.entrypoint,
            env: settings
                .environment
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            exposed_ports: settings.ports.iter().map(|port| (port.as_str(), Empty {})).collect(),
            labels: &settings.labels,
            stop_signal: settings.stop_signal.as_deref(),
            user: &settings.user,
            working_dir: &settings.directory,
        },
        created: &settings.created,
        history: layers
            .iter()
            .map(|layer| HistoryDocument {
                created: &settings.created,
                created_by: format!("forge: {}", layer.title()),
            })
            .collect(),
        os: "linux",
        rootfs: RootDocument {
            diff_ids: layers.iter().map(|layer| layer.layer.diff_id).collect(),
            r#type: "layers",
        },
    };
    let config = to_bytes("configuration", &document)?;
    check::<oci_spec::image::ImageConfiguration>("configuration", &config)?;
    let config_digest = Digest::of(&config);
    let types = settings.media_types;
    let mut named = Vec::new();
    for ImageLayer { name, layer, .. } in &layers {
        let no_name = || ImageError::NoDockerType { layer: name.clone() };
        let media_type = types.layer(layer.compression).ok_or_else(no_name)?;
        named.push(DescriptorDocument::new(media_type, layer.digest, layer.size));
    }
    let manifest = to_bytes(
        "manifest",
        &ManifestDocument {
            schema_version: 2,
            media_type: types.manifest(),
            config: DescriptorDocument::new(types.config(), config_digest, config.len() as u64),
            layers: named,
        },
    )?;
    check::<oci_spec::image::ImageManifest>("manifest", &manifest)?;
    let digest = Digest::of(&manifest);
    Ok(Image { config, config_digest, manifest, digest, media_types: types, layers })
}

fn to_bytes(document: &'static str, value: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value)
        .map_err(|error| ImageError::Invalid { document, problem: error.to_string() })
}

fn check<T: serde::de::DeserializeOwned>(
    document: &'static str,
    bytes: &[u8],
) -> Result<(), ImageError> {
    serde_json::from_slice::<T>(bytes)
        .map(drop)
        .map_err(|error| ImageError::Invalid { document, problem: error.to_string() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings() -> Settings {
        Settings {
            architecture: "amd64".to_owned(),
            created: "1980-01-01T00:00:01Z".to_owned(),
            environment: BTreeMap::from([
                ("PATH".to_owned(), "/bin".to_owned()),
                ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ]),
            entrypoint: vec!["/cnb/lifecycle/launcher".to_owned()],
            command: vec!["web".to_owned()],
            user: "1000:1000".to_owned(),
            directory: "/workspace".to_owned(),
            labels: BTreeMap::from([
                ("b".to_owned(), "2".to_owned()),
                ("a".to_owned(), "1".to_owned()),
            ]),
            ports: vec!["8080/tcp".to_owned()],
            stop_signal: None,
            media_types: MediaTypes::Oci,
        }
    }

    pub(crate) fn layer(blob: &[u8]) -> ImageLayer {
        ImageLayer {
            name: "app".to_owned(),
            part: None,
            tree: Digest::of(b"tree"),
            layer: Layer {
                diff_id: Digest::of(b"tar"),
                digest: Digest::of(blob),
                size: blob.len() as u64,
                unpacked: 3,
                compression: Compression::DEFAULT,
            },
        }
    }

    /// The media types of the manifest itself, the configuration and the layer, as others
    /// write them (image specification, `media-types.md`; Docker's `image-manifest-v2-2`).
    #[test]
    fn media_types_are_those_of_the_specifications() {
        for (media_types, expected) in [
            (
                MediaTypes::Oci,
                [
                    "application/vnd.oci.image.manifest.v1+json",
                    "application/vnd.oci.image.config.v1+json",
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                ],
            ),
            (
                MediaTypes::Docker,
                [
                    "application/vnd.docker.distribution.manifest.v2+json",
                    "application/vnd.docker.container.image.v1+json",
                    "application/vnd.docker.image.rootfs.diff.tar.gzip",
                ],
            ),
        ] {
            let settings = Settings { media_types, ..settings() };
            let image = assemble(&settings, vec![layer(b"blob")]).expect("assembles");
            let manifest: serde_json::Value =
                serde_json::from_slice(&image.manifest).expect("a document");
            let found = ["/mediaType", "/config/mediaType", "/layers/0/mediaType"]
                .map(|at| manifest.pointer(at).and_then(|name| name.as_str()).unwrap_or("none"));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn names_of_docker() {
        let settings = Settings { media_types: MediaTypes::Docker, ..settings() };
        let image = assemble(&settings, vec![layer(b"blob")]).expect("assembles");
        let text = String::from_utf8_lossy(&image.manifest);
        assert!(!text.contains("vnd.oci"), "{text}");
        for name in ["manifest.v2+json", "container.image.v1+json", "rootfs.diff.tar.gzip"] {
            assert!(text.contains(name), "{text}");
        }
        assert_eq!(MediaTypes::of(&image.manifest), Some(MediaTypes::Docker));
        // The configuration is the same, and so is the id that Docker gives the image.
        let oci = assemble(&self::settings(), vec![layer(b"blob")]).expect("assembles");
        assert_eq!(oci.config_digest, image.config_digest);
        assert_eq!(MediaTypes::of(&oci.manifest), Some(MediaTypes::Oci));
        let mut zstd = layer(b"blob");
        zstd.layer.compression = Compression::Zstd { level: 3 };
        let error = assemble(&settings, vec![zstd]).expect_err("has no name");
        assert!(matches!(error, ImageError::NoDockerType { .. }), "{error}");
    }

    /// Pins the bytes: a change here changes every image that users have.
    #[test]
    fn documents_are_pinned() {
        let image = assemble(&settings(), vec![layer(b"blob")]).expect("assembles");
        assert_eq!(
            String::from_utf8_lossy(&image.config),
            concat!(
                r#"{"architecture":"amd64","config":{"Cmd":["web"],"Entrypoint":["/cnb/lifecycle/launcher"],"#,
                r#""Env":["LANG=C.UTF-8","PATH=/bin"],"ExposedPorts":{"8080/tcp":{}},"Labels":{"a":"1","b":"2"},"#,
                r#""User":"1000:1000","WorkingDir":"/workspace"},"created":"1980-01-01T00:00:01Z","#,
                r#""history":[{"created":"1980-01-01T00:00:01Z","created_by":"forge: app"}],"os":"linux","#,
                r#""rootfs":{"diff_ids":["sha256:7c8ed4b02e55c7c843801a4cde3ecbb4a06c5172f33b9fe9f02ff22eb5e7daa0"],"#,
                r#""type":"layers"}}"#
            )
            .replace("7c8ed4b02e55c7c843801a4cde3ecbb4a06c5172f33b9fe9f02ff22eb5e7daa0", &Digest::of(b"tar").hex())
        );
        assert!(
            image.manifest.starts_with(
                br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest"#
            )
        );
        assert_eq!(image.digest, Digest::of(&image.manifest));
    }

    #[test]
    fn an_invalid_document_is_refused() {
        let wrong = Settings { created: "yesterday".to_owned(), ..settings() };
        let check = check::<oci_spec::image::ImageManifest>("manifest", b"{}");
        assert!(matches!(check, Err(ImageError::Invalid { .. })));
        // oci-spec takes any text as a time; ours comes from `created` alone.
        assert!(assemble(&wrong, Vec::new()).is_ok());
    }
}
