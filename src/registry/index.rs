//! An index: one name for images of several platforms, each built on its own machine.
//!
//! - The images are in the repository already; nothing is copied.
//! - The same images give the same index: they are sorted by platform.

use serde::Serialize;
use serde_json::Value;

use super::manifest::{self, Manifest, ManifestError, Platform};
use super::repository::Name;
use super::{RegistryError, Repository};
use crate::digest::Digest;

const OCI: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// An image of one platform, as an index names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its platform, from its configuration.
    pub platform: Platform,
    /// Its manifest.
    pub digest: Digest,
    size: u64,
    is_docker: bool,
}

/// Image specification 1.1, `image-index.md`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexDocument {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<MemberDocument>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberDocument {
    media_type: &'static str,
    digest: Digest,
    size: u64,
    platform: PlatformDocument,
}

#[derive(Serialize)]
struct PlatformDocument {
    architecture: String,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl Repository {
    /// What an index says of an image of this repository.
    ///
    /// # Errors
    /// See [`RegistryError`]; an index, or what is no image, is [`RegistryError::Manifest`].
    pub fn member(&self, name: Name<'_>) -> Result<Member, RegistryError> {
        let unusable = |source| RegistryError::Manifest {
            image: format!("{}:{name}", self.name()),
            registry: self.host().to_owned(),
            source: Box::new(source),
        };
        let found = self.needed_manifest(name)?;
        let parsed =
            manifest::parse(&found.bytes, found.media_type.as_deref()).map_err(unusable)?;
        let Manifest::Image { config, .. } = parsed else {
            return Err(unusable(ManifestError::IsIndex));
        };
        let document: Value =
            serde_json::from_slice(&self.needed_blob(&config)?).map_err(|source| {
                unusable(ManifestError::Malformed { document: "configuration", source })
            })?;
        Ok(Member {
            platform: manifest::platform(&document).map_err(unusable)?,
            digest: found.digest,
            size: found.bytes.len() as u64,
            is_docker: config.media_type.starts_with("application/vnd.docker."),
        })
    }

    /// Puts an index of these images there under each tag.
    ///
    /// # Errors
    /// See [`RegistryError`]; two images of one platform are [`RegistryError::SamePlatform`].
    pub fn put_index(&self, members: &[Member], tags: &[String]) -> Result<Digest, RegistryError> {
        let (media_type, bytes) = index(members)?;
        let digest = Digest::of(&bytes);
        // By digest first: so no tag is moved to what the registry does not take.
        self.put_manifest(Name::Digest(&digest), media_type, &bytes)?;
        for tag in tags {
            self.put_manifest(Name::Tag(tag), media_type, &bytes)?;
        }
        Ok(digest)
    }
}

fn index(members: &[Member]) -> Result<(&'static str, Vec<u8>), RegistryError> {
    let mut members: Vec<&Member> = members.iter().collect();
    members.sort_by_key(|member| member.platform.to_string());
    if let Some([one, other]) = members.windows(2).find(|pair| pair[0].platform == pair[1].platform)
    {
        let (platform, one, other) = (Box::new(one.platform.clone()), one.digest, other.digest);
        return Err(RegistryError::SamePlatform { platform, one, other });
    }
    // Who reads only Docker's types reads only an index of Docker's type.
    let media_type = if members.iter().all(|member| member.is_docker) { DOCKER } else { OCI };
    let manifests = members
        .into_iter()
        .map(|member| MemberDocument {
            media_type: if member.is_docker { DOCKER_MANIFEST } else { OCI_MANIFEST },
            digest: member.digest,
            size: member.size,
            platform: PlatformDocument {
                architecture: member.platform.architecture.clone(),
                os: member.platform.os.clone(),
                variant: member.platform.variant.clone(),
            },
        })
        .collect();
    let document = IndexDocument { schema_version: 2, media_type, manifests };
    Ok((media_type, serde_json::to_vec(&document).map_err(RegistryError::Record)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(platform: &str, is_docker: bool) -> Member {
        let platform: Platform = platform.parse().expect("a platform");
        let digest = Digest::of(platform.to_string().as_bytes());
        Member { platform, digest, size: 7, is_docker }
    }

    #[test]
    fn the_same_images_give_the_same_index() {
        let (arm, amd) = (member("linux/arm64/v8", false), member("linux/amd64", false));
        let (media_type, bytes) = index(&[arm.clone(), amd.clone()]).expect("an index");
        assert_eq!(media_type, OCI);
        assert_eq!(index(&[amd.clone(), arm.clone()]).expect("an index").1, bytes);
        oci_spec::image::ImageIndex::from_reader(bytes.as_slice()).expect("an index");
        let parsed = manifest::parse(&bytes, Some(OCI)).expect("parses");
        let Manifest::Index(choices) = parsed else { panic!("{parsed:?}") };
        for member in [&arm, &amd] {
            let chosen = manifest::choose(&choices, &member.platform).expect("is there");
            assert_eq!((chosen.digest, chosen.size), (member.digest, 7));
        }
    }

    #[test]
    fn types_and_platforms() {
        let docker = member("linux/amd64", true);
        assert_eq!(index(std::slice::from_ref(&docker)).expect("an index").0, DOCKER);
        assert_eq!(index(&[docker.clone(), member("linux/s390x", false)]).expect("one").0, OCI);
        let twice = index(&[docker.clone(), member("linux/amd64", false)]);
        assert!(matches!(twice, Err(RegistryError::SamePlatform { .. })), "{twice:?}");
    }
}
