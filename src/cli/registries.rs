//! The way to registries, as this machine's user has set it up, and sending an image there:
//! what `build --push` and `push` share. And what to do when a registry does not.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::app::App;
use super::base::FoundBase;
use super::cache::SharedCache;
use super::failure::{Failure, Kind};
use super::sending::Sending;
use super::settings::{self, UserSettings};
use crate::digest::Digest;
use crate::event::{Event, Events};
use crate::image::Image;
use crate::registry::{
    Access, Credentials, Expected, Push, Reason, Reference, RegistryError, Right, Settings,
};

/// Where docker and podman keep certificates of registries on the machine.
const CERTIFICATES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// From settings, environment and home folder. Nothing is asked yet.
pub(super) fn access(user: &UserSettings) -> Result<Arc<Access>, RegistryError> {
    let home = settings::home();
    let mut certificates: Vec<PathBuf> = user.registry.certificates.iter().cloned().collect();
    certificates.extend(home.iter().map(|home| home.join(".config/containers/certs.d")));
    certificates.extend(CERTIFICATES.map(PathBuf::from));
    Ok(Arc::new(Access::new(Settings {
        credentials: Credentials::read(&env::vars().collect(), home.as_deref().map(Path::new))?,
        insecure: user.registry.insecure.clone(),
        mirrors: user.registry.mirrors.clone(),
        certificates,
    })))
}

/// Where an image is pushed to.
pub(super) struct Tags<'t> {
    pub(super) tags: &'t [Reference],
    /// What they must name now.
    pub(super) expected: Expected,
    /// What was sent there already.
    pub(super) sending: Option<&'t Sending<'t>>,
}

impl App {
    /// Sends the image to all the registries that the tags name. Layers of the image under it,
    /// and those that the cache has, are taken from where they are, if that is the same
    /// registry.
    pub(super) fn push(
        &self,
        image: &Image,
        base: Option<&FoundBase>,
        cache: Option<&SharedCache<'_>>,
        sending: &Sending<'_>,
        tags: &[Reference],
        events: &Events,
    ) -> Result<(), Failure> {
        let to = Tags { tags, expected: Expected::Anything, sending: Some(sending) };
        self.push_to(&to, image, base, cache, events)
    }

    /// As [`App::push`], if the tags name what is expected.
    pub(super) fn push_to(
        &self,
        to: &Tags<'_>,
        image: &Image,
        base: Option<&FoundBase>,
        cache: Option<&SharedCache<'_>>,
        events: &Events,
    ) -> Result<(), Failure> {
        let access = self.access()?;
        for (repository, tags) in by_repository(to.tags) {
            let doubted = cache.map(|cache| cache.doubted(&repository.host)).unwrap_or_default();
            let mut origins = cache.map(|cache| cache.origins(&repository)).unwrap_or_default();
            for base in base.into_iter().filter(|base| base.reference().host == repository.host) {
                for digest in base.layers() {
                    let of_base = base.reference().repository.clone();
                    origins.entry(digest).or_default().push(of_base);
                }
            }
            let bring = |digest: &Digest| match base {
                Some(base) if base.layers().any(|layer| layer == *digest) => {
                    base.bring(self, digest)
                }
                _ => match cache.map(|cache| cache.bring(image, digest)).transpose()? {
                    Some(true) => Ok(()),
                    _ => Err(Box::from("nobody has it")),
                },
            };
            let sent = to.sending.map(|sending| sending.sent_to(&repository)).unwrap_or_default();
            let push = Push {
                image,
                store: &self.store,
                tags: &tags,
                origins: &origins,
                doubted: &doubted,
                sent: &sent,
                bring: &bring,
                events,
            };
            access.repository(&repository)?.push_over(to.expected, &push)?;
            self.note_place(image, &repository)?;
            for tag in tags {
                let to = Reference { tag, ..repository.clone() }.to_string();
                events.send(Event::Written { to });
            }
        }
        Ok(())
    }
}

/// Each repository once, with all its tags, in the order in which they were named.
pub(super) fn by_repository(tags: &[Reference]) -> Vec<(Reference, Vec<String>)> {
    let mut found: Vec<(Reference, Vec<String>)> = Vec::new();
    let mut seen = BTreeSet::new();
    for tag in tags.iter().filter(|tag| seen.insert(tag.to_string())) {
        let same =
            |other: &Reference| (&other.host, &other.repository) == (&tag.host, &tag.repository);
        match found.iter_mut().find(|(other, _)| same(other)) {
            Some((_, tags)) => tags.push(tag.tag.clone()),
            None => found.push((tag.clone(), vec![tag.tag.clone()])),
        }
    }
    found
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        Failure::from(&error)
    }
}

impl From<&RegistryError> for Failure {
    fn from(error: &RegistryError) -> Failure {
        let failure = Failure::of(Kind::Network, error);
        match error {
            RegistryError::Reference { .. }
            | RegistryError::Credentials { .. }
            | RegistryError::SamePlatform { .. }
            | RegistryError::Certificates { .. } => Failure { kind: Kind::Usage, ..failure },
            RegistryError::Refused { refusal, right, repository, .. } => {
                match refused(refusal.reason(), *right, repository) {
                    Some(advice) => failure.advise(advice),
                    None => failure,
                }
            }
            RegistryError::Immutable { .. } => failure.advise(
                "the registry does not let go of this tag: push under another one, or build what the tag names",
            ),
            RegistryError::Damaged { digest, .. } => failure.advise(format!(
                "the registry's administrator has to remove it (docker's registry: the folder `blobs/sha256/{}/{}`); then push again",
                &digest.hex()[..2],
                digest.hex()
            )),
            RegistryError::Unexpected { .. } => failure.advise(
                "somebody else has pushed under this tag: look at what it names now, then push over that, or without `--if-match` over anything",
            ),
            RegistryError::Unreachable { .. } => unreachable_registry(failure),
            RegistryError::Store(_) => Failure { kind: Kind::App, ..failure },
            _ => failure,
        }
    }
}

/// What to do about a registry's no.
fn refused(reason: Reason, right: Right, repository: &str) -> Option<String> {
    let host = repository.split('/').next().unwrap_or(repository);
    let login = if host == "docker.io" {
        "docker login".to_owned()
    } else {
        format!("docker login {host}")
    };
    Some(match (reason, right) {
        (Reason::Unknown, Right::Push) => {
            format!("log in with `{login}`; where forge looks for passwords is in docs/registries.md")
        }
        (Reason::Unknown, Right::Pull) => format!(
            "if it is there and not public, log in with `{login}`; some registries say this of images that do not exist"
        ),
        (Reason::Denied, Right::Push) => {
            format!("the account may not push to `{repository}`: is the name right, and the login (`{login}`)?")
        }
        (Reason::Denied, Right::Pull) => {
            format!("the account may not read `{repository}`: is the name right, and the login (`{login}`)?")
        }
        (Reason::NoRepository, Right::Push) => {
            format!("make the repository `{repository}` at the registry first: this one does not make it by itself")
        }
        (Reason::NoRepository, Right::Pull) => return None,
        (Reason::Immutable, _) => {
            "the registry does not let go of this tag: push under another one".to_owned()
        }
        (Reason::Quota, _) => {
            "the registry has no space left for this account: remove old images there, or ask for more".to_owned()
        }
        (Reason::TooLarge, _) => {
            "the registry, or a proxy before it, takes only smaller requests: raise its limit (nginx: `client_max_body_size`)".to_owned()
        }
        (Reason::Busy, Right::Pull) => format!(
            "too many requests for now: log in with `{login}` for a higher limit, name a mirror (`[registry.mirrors]` in the settings), or wait"
        ),
        (Reason::Busy, Right::Push) => "too many requests for now: try again later".to_owned(),
        (Reason::Down, _) => "the registry is out of order: try again later; what was sent is not sent again".to_owned(),
        (Reason::Other, _) => return None,
    })
}

/// A registry that did not answer: what the cause tells.
fn unreachable_registry(failure: Failure) -> Failure {
    let has = |words: &[&str]| words.iter().any(|word| failure.message.contains(word));
    let advice = if has(&["UnknownIssuer", "unknown issuer"]) {
        "its certificate is signed by an authority that this machine does not know: put that authority's certificate at `/etc/docker/certs.d/HOST:PORT/ca.crt`, or name it with SSL_CERT_FILE"
    } else if has(&["certificate", "CertificateRequired"]) {
        "see what the certificate of the registry says, and what this machine's clock says; certificates of our own go to `/etc/docker/certs.d/HOST:PORT/`"
    } else if has(&["InvalidContentType", "corrupt message"]) {
        "it does not speak TLS: if that is meant to be so, add it to `[registry] insecure` in the settings"
    } else if has(&["proxy authorization"]) {
        "the proxy wants a password, or another one: `HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT`"
    } else if has(&["redirect"]) {
        "the registry sends us where forge does not follow: this is for its administrator to see"
    } else {
        "check the name of the registry, the network, and HTTPS_PROXY"
    };
    failure.advise(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repository_once() {
        let tags: Vec<Reference> =
            ["r.example/b:1", "r.example/a:1", "r.example/b:2", "r.example/b:1"]
                .iter()
                .map(|text| text.parse().expect("a reference"))
                .collect();
        let found: Vec<(String, Vec<String>)> = by_repository(&tags)
            .into_iter()
            .map(|(repository, tags)| (repository.repository, tags))
            .collect();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(found, [("b".to_owned(), words(&["1", "2"])), ("a".to_owned(), words(&["1"]))]);
    }
}
