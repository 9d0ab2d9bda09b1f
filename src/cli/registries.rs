//! The way to registries, as this machine's user has set it up, and sending an image there:
//! what `build --push` and `push` share.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::app::App;
use super::base::FoundBase;
use super::failure::Failure;
use super::settings::{self, UserSettings};
use crate::digest::Digest;
use crate::event::{Event, Events};
use crate::image::Image;
use crate::registry::{Access, Credentials, Push, Reference, RegistryError, Settings};

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

impl App {
    /// Sends the image to all the registries that the tags name. Layers of the image under it
    /// are taken from where that is, if that is the same registry.
    pub(super) fn push(
        &self,
        image: &Image,
        base: Option<&FoundBase>,
        tags: &[Reference],
        events: &Events,
    ) -> Result<(), Failure> {
        let access = self.access()?;
        for (repository, tags) in by_repository(tags) {
            let mut origins: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
            for base in base.into_iter().filter(|base| base.reference().host == repository.host) {
                for digest in base.layers() {
                    origins.insert(digest, vec![base.reference().repository.clone()]);
                }
            }
            let bring = |digest: &Digest| match base {
                Some(base) => base.bring(self, digest),
                None => Ok(()),
            };
            access.repository(&repository)?.push(&Push {
                image,
                store: &self.store,
                tags: &tags,
                origins: &origins,
                bring: &bring,
                events,
            })?;
            for tag in tags {
                let to = Reference { tag, ..repository.clone() }.to_string();
                events.send(Event::Written { to });
            }
        }
        Ok(())
    }
}

/// Each repository once, with all its tags, in the order in which they were named.
fn by_repository(tags: &[Reference]) -> Vec<(Reference, Vec<String>)> {
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
