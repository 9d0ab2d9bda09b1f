//! Names of images: `registry.example:5000/team/app:v1`, with or without `@sha256:…`.

use std::fmt;
use std::str::FromStr;

use super::RegistryError;
use crate::digest::Digest;

/// Docker Hub under the name that people write, and where its API answers.
const HUB: &str = "docker.io";
const HUB_API: &str = "registry-1.docker.io";
/// Its other names.
const HUB_NAMES: [&str; 2] = [HUB_API, "index.docker.io"];
/// The tag that is meant when none is written.
const LATEST: &str = "latest";

/// A registry, a repository in it, and a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host, with port if one was written.
    pub host: String,
    /// Repository.
    pub repository: String,
    /// Tag; `latest` when none was written.
    pub tag: String,
    /// Digest of the manifest or index, if one was written: then that is meant,
    /// whatever the tag names now.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses a name to push to: one with a tag, as one pushes to tags.
    ///
    /// # Errors
    /// [`RegistryError::Reference`], also for a digest.
    pub fn for_push(text: &str) -> Result<Reference, RegistryError> {
        let reference: Reference = text.parse()?;
        match reference.digest {
            None => Ok(reference),
            Some(_) => Err(RegistryError::Reference {
                text: text.to_owned(),
                problem: "a digest cannot be pushed to",
            }),
        }
    }

    /// Whether the host is this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// The host that answers the API.
    #[must_use]
    pub fn api_host(&self) -> &str {
        api_host(&self.host)
    }
}

/// Whether `host`, with or without port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost"
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host that answers the API for the registry called `host`.
pub(super) fn api_host(host: &str) -> &str {
    if host == HUB { HUB_API } else { host }
}

/// Whether `text` can stand as host, with or without port, in an address.
pub(super) fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
}

/// Whether `text` is a repository, or the first parts of one.
pub(super) fn is_repository(text: &str) -> bool {
    let edge =
        |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.split('/').all(|part| {
        edge(part.bytes().next())
            && edge(part.bytes().last())
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
            })
    })
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        match &self.digest {
            None => write!(f, ":{}", self.tag),
            Some(digest) if self.tag == LATEST => write!(f, "@{digest}"),
            Some(digest) => write!(f, ":{}@{digest}", self.tag),
        }
    }
}

impl FromStr for Reference {
    type Err = RegistryError;

    /// Accepts what `docker pull` does.
    fn from_str(text: &str) -> Result<Reference, RegistryError> {
        let wrong = |problem| RegistryError::Reference { text: text.to_owned(), problem };
        let (name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) => {
                let digest = digest.parse();
                (name, Some(digest.map_err(|_| wrong("a digest is `sha256:` and 64 digits"))?))
            }
        };
        // The first part is a host if it could not be part of a name.
        let (host, rest) = match name.split_once('/') {
            Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => {
                (first, rest)
            }
            _ => (HUB, name),
        };
        let host = if HUB_NAMES.contains(&host) { HUB } else { host };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, tag),
            None => (rest, LATEST),
        };
        let repository = if host == HUB && !repository.contains('/') && !repository.is_empty() {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if !is_repository(&repository) {
            return Err(wrong(
                "a repository is lower-case letters, digits, `.`, `_`, `-`, in parts between slashes",
            ));
        }
        if name.len() > 255 {
            return Err(wrong("it is longer than 255 characters"));
        }
        let tag_is_good = !tag.is_empty()
            && tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !tag_is_good {
            return Err(wrong("a tag is letters, digits, `.`, `_`, `-`"));
        }
        if !is_host(host) {
            return Err(wrong("the host is no host"));
        }
        Ok(Reference { host: host.to_owned(), repository, tag: tag.to_owned(), digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let found = text.parse::<Reference>().ok().map(|reference| reference.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    }

    #[test]
    fn names() {
        check("app", Some("docker.io/library/app:latest"));
        check("team/app:v1", Some("docker.io/team/app:v1"));
        check("localhost:5000/app", Some("localhost:5000/app:latest"));
        check("registry.example/a/b/c:1.0_x", Some("registry.example/a/b/c:1.0_x"));
        check("127.0.0.1:5000/App", None);
        check("registry.example/app:", None);
        check("registry.example/app:-x", None);
        check("registry.example/", None);
        check("registry.example/a//b", None);
        check("registry.example/app@sha256:00", None);
        check("", None);
        check("index.docker.io/library/app:v1", Some("docker.io/library/app:v1"));
        check("registry-1.docker.io/app", Some("docker.io/library/app:latest"));
    }

    #[test]
    fn digests() {
        let digest = Digest::of(b"");
        for (text, expected) in [
            (format!("app@{digest}"), format!("docker.io/library/app@{digest}")),
            (format!("r.example/app:v1@{digest}"), format!("r.example/app:v1@{digest}")),
        ] {
            check(&text, Some(&expected));
            let reference: Reference = text.parse().expect("parses");
            assert_eq!(expected.parse::<Reference>().expect("parses"), reference);
            assert_eq!(reference.digest, Some(digest));
            let refused = Reference::for_push(&text).expect_err("no tag alone").to_string();
            assert!(refused.contains("a digest cannot be pushed to"), "{refused}");
        }
        for wrong in ["app@", "app@sha512:00", "@sha256:00", "app@sha256:../../x"] {
            check(wrong, None);
        }
        check(&format!("app@{digest}@{digest}"), None);
        check(&format!("@{digest}"), None);
    }

    #[test]
    fn loopback() {
        for (text, expected) in [
            ("localhost/a", true),
            ("127.0.0.1:5000/a", true),
            ("[::1]:5000/a", true),
            ("[::1]/a", true),
            ("127.0.0.1.example/a", false),
            ("registry.example/a", false),
        ] {
            assert_eq!(
                text.parse::<Reference>().expect("parses").is_loopback(),
                expected,
                "{text}"
            );
        }
    }
}
