//! Names of images: `registry.example:5000/team/app:v1`.

use std::fmt;
use std::str::FromStr;

use super::RegistryError;

/// Docker Hub under the name that people write, and where its API answers.
const HUB: &str = "docker.io";
const HUB_API: &str = "registry-1.docker.io";

/// A registry, a repository in it, and a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host, with port if one was written.
    pub host: String,
    /// Repository.
    pub repository: String,
    /// Tag; `latest` when none was written.
    pub tag: String,
}

impl Reference {
    /// Whether the host is this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        name == "localhost"
            || name
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// The host that answers the API.
    #[must_use]
    pub fn api_host(&self) -> &str {
        if self.host == HUB { HUB_API } else { &self.host }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.host, self.repository, self.tag)
    }
}

impl FromStr for Reference {
    type Err = RegistryError;

    /// Accepts what `docker push` does, digests excepted: one pushes to tags.
    fn from_str(text: &str) -> Result<Reference, RegistryError> {
        let wrong = |problem| RegistryError::Reference { text: text.to_owned(), problem };
        if text.contains('@') {
            return Err(wrong("a digest cannot be pushed to"));
        }
        // The first part is a host if it could not be part of a name.
        let (host, rest) = match text.split_once('/') {
            Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => {
                (first, rest)
            }
            _ => (HUB, text),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, tag),
            None => (rest, "latest"),
        };
        let repository = if host == HUB && !repository.contains('/') && !repository.is_empty() {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        let part_is_good = |part: &str| {
            let edge = |byte: Option<u8>| {
                byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            };
            edge(part.bytes().next())
                && edge(part.bytes().last())
                && part.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
                })
        };
        if !repository.split('/').all(part_is_good) {
            return Err(wrong(
                "a repository is lower-case letters, digits, `.`, `_`, `-`, in parts between slashes",
            ));
        }
        if text.len() > 255 {
            return Err(wrong("it is longer than 255 characters"));
        }
        let tag_is_good = !tag.is_empty()
            && tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !tag_is_good {
            return Err(wrong("a tag is letters, digits, `.`, `_`, `-`"));
        }
        let host_is_good = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
        if !host_is_good {
            return Err(wrong("the host is no host"));
        }
        Ok(Reference { host: host.to_owned(), repository, tag: tag.to_owned() })
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
    }

    #[test]
    fn loopback() {
        for (text, expected) in [
            ("localhost/a", true),
            ("127.0.0.1:5000/a", true),
            ("[::1]:5000/a", true),
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
