//! The cache that machines share: a repository of a registry, by default the image's own.
//!
//! - The engine asks it for results and bytes; what is written, and when, is `publish`'s.
//!   What goes wrong with it is told once, and the build goes on without.
//! - What it says is a hint: blobs that are gone are noted, made again, and sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::app::App;
use super::failure::Failure;
use crate::digest::Digest;
use crate::engine::{Cache, Found, Output};
use crate::event::{Events, with_causes};
use crate::image::{self, Image, ImageError, Settings};
use crate::layer::{Layer, Packing};
use crate::plan::recorded::{self, PathSet, PathSets};
use crate::registry::{
    Descriptor, Entry, ImageEntry, Record, Recording, Reference, RegistryError, Repository,
};
use crate::store::{Store, StoreError};

/// What stands for no cache at all.
const NONE: &str = "none";

/// The repositories that the arguments name.
pub(super) struct Named {
    to: To,
    /// Those that are only read.
    from: Vec<Reference>,
}

/// Which repository is read and written.
enum To {
    /// That of the image, when it is pushed.
    Own,
    Repository(Reference),
    None,
}

impl Named {
    /// # Errors
    /// A name that is no repository.
    pub(super) fn parse(to: Option<&str>, from: &[String]) -> Result<Named, Failure> {
        let to = match to {
            None => To::Own,
            Some(NONE) => To::None,
            Some(text) => To::Repository(repository(text)?),
        };
        let from = from.iter().map(|text| repository(text)).collect::<Result<_, _>>()?;
        Ok(Named { to, from })
    }
}

/// Repositories that are asked, and the one that is written.
pub(super) struct SharedCache<'a> {
    pub(super) store: &'a Store,
    pub(super) events: Events,
    read: Vec<Arc<Repository>>,
    /// The first of those that are read.
    pub(super) write: Option<Arc<Repository>>,
    /// Whether results that are no layers of the image are written with their bytes.
    pub(super) all: bool,
    state: Mutex<State>,
}

/// Repository and key → its answer, also that it has nothing.
pub(super) type Answers<R> = BTreeMap<(usize, Digest), Option<R>>;

#[derive(Default)]
pub(super) struct State {
    /// Repositories that are not asked again.
    failed: BTreeSet<usize>,
    /// Those of them that did not even refuse.
    silent: BTreeSet<usize>,
    /// Layer → the repositories that have it.
    held: BTreeMap<Digest, BTreeSet<usize>>,
    /// Held by who fetches a layer.
    fetching: BTreeMap<Digest, Arc<Mutex<()>>>,
    /// Layers that a repository was to have, and has not, or not whole.
    pub(super) lost: BTreeSet<(Digest, usize)>,
    /// Layers that nobody could give although somebody was to have them.
    gone: BTreeSet<Digest>,
    /// What repositories have answered.
    pub(super) results: Answers<Entry>,
    pub(super) recordings: Answers<Recording>,
    pub(super) images: Answers<ImageEntry>,
}

impl<'a> SharedCache<'a> {
    /// The cache of a build that pushes to `pushed`.
    pub(super) fn open(
        app: &'a App,
        events: &Events,
        named: &Named,
        pushed: &[Reference],
    ) -> Result<Option<SharedCache<'a>>, Failure> {
        let write = match &named.to {
            To::Own => pushed.first(),
            To::None => None,
            To::Repository(to) => Some(to),
        };
        let read: Vec<&Reference> = write.into_iter().chain(&named.from).collect();
        if read.is_empty() {
            return Ok(None);
        }
        let access = app.access()?;
        let read = read.iter().map(|one| access.repository(one)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(SharedCache {
            store: &app.store,
            events: events.clone(),
            write: write.and(read.first().cloned()),
            read,
            all: matches!(named.to, To::Repository(_)),
            state: Mutex::default(),
        }))
    }

    /// How many layers nobody could give although somebody was to have them.
    pub(super) fn lost(&self) -> usize {
        self.state().gone.len()
    }

    /// Blobs that a repository of this registry should have had, or had not whole: those of one
    /// registry may lie in one place.
    pub(super) fn doubted(&self, host: &str) -> BTreeSet<Digest> {
        let state = self.state();
        let here = state.lost.iter().filter(|(_, at)| self.read[*at].host() == host);
        here.map(|(digest, _)| *digest).collect()
    }

    /// Repositories on the registry of `to`, other than `to` itself, that have a layer.
    pub(super) fn origins(&self, to: &Reference) -> BTreeMap<Digest, Vec<String>> {
        let mut origins: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let state = self.state();
        for (digest, holders) in &state.held {
            for at in holders.iter().filter(|at| !state.lost.contains(&(*digest, **at))) {
                let repository = &self.read[*at];
                if repository.host() == to.host && repository.name() != to.repository {
                    origins.entry(*digest).or_default().push(repository.name().to_owned());
                }
            }
        }
        origins
    }

    /// Takes for granted that each repository has all of an image, until it has not.
    pub(super) fn expect(&self, image: &Image) {
        let mut state = self.state();
        for layer in &image.layers {
            state.held.insert(layer.layer.digest, (0..self.read.len()).collect());
        }
    }

    /// The image that a plan of this key makes, and who knows it. Its documents must be just
    /// those that this machine would write of its layers.
    pub(super) fn image(
        &self,
        key: &Digest,
        settings: &Settings,
    ) -> Result<Option<(Image, String)>, ImageError> {
        let Some((at, entry)) = self.first(key, |state| &mut state.images) else {
            return Ok(None);
        };
        let (repository, kept) = (self.read[at].to_string(), entry.kept.clone());
        let Some(image) = entry.image() else { return Ok(None) };
        let made = image::assemble(settings, image.layers.clone())?;
        if made != image {
            let (known, made) = (image.digest, made.digest);
            self.events.notice(
                format!("the cache `{repository}` has {known} for this image, which should be {made}: it is not used"),
                Some("somebody, or another forge, has written what is not so: who may push there?".to_owned()),
            );
            return Ok(None);
        }
        let mut state = self.state();
        for digest in kept {
            state.held.entry(digest).or_default().insert(at);
        }
        drop(state);
        Ok(Some((image, repository)))
    }

    /// Brings a layer into the store, for a push; says whether it did.
    ///
    /// # Errors
    /// The store cannot take it.
    pub(super) fn bring(&self, image: &Image, digest: &Digest) -> Result<bool, StoreError> {
        let layer = image.layers.iter().find(|layer| layer.layer.digest == *digest);
        let has = match layer {
            Some(layer) => self.fetch(&layer.layer, &mut |_| {})?,
            None => false,
        };
        if !has {
            self.state().gone.insert(*digest);
        }
        Ok(has)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The repositories that still answer.
    fn asked(&self) -> Vec<(usize, &Repository)> {
        let failed = self.state().failed.clone();
        let all = self.read.iter().enumerate().filter(|(at, _)| !failed.contains(at));
        all.map(|(at, repository)| (at, &**repository)).collect()
    }

    /// Whether the written repository has stopped answering. One that refuses to be read may
    /// be written all the same.
    pub(super) fn is_silent(&self) -> bool {
        self.state().silent.contains(&0)
    }

    fn failed(&self, at: usize, error: &RegistryError) {
        if error.is_silence() {
            self.state().silent.insert(at);
        }
        if self.state().failed.insert(at) {
            let repository = &self.read[at];
            let advice = Failure::from(error).advice.into_iter().next();
            let error = with_causes(error);
            self.events.notice(format!("the cache `{repository}` is not used: {error}"), advice);
        }
    }

    /// What a repository has under a key. It is asked once.
    pub(super) fn look<R: Record + Clone>(
        &self,
        at: usize,
        key: &Digest,
        answers: fn(&mut State) -> &mut Answers<R>,
    ) -> Result<Option<R>, RegistryError> {
        if let Some(known) = answers(&mut self.state()).get(&(at, *key)) {
            return Ok(known.clone());
        }
        let found: Option<R> = self.read[at].entry(key)?;
        answers(&mut self.state()).insert((at, *key), found.clone());
        Ok(found)
    }

    /// The first entry of that key. What is no entry is a miss.
    fn first<R: Record + Clone>(
        &self,
        key: &Digest,
        answers: fn(&mut State) -> &mut Answers<R>,
    ) -> Option<(usize, R)> {
        for (at, _) in self.asked() {
            match self.look(at, key, answers) {
                Ok(Some(entry)) => return Some((at, entry)),
                Ok(None) => {}
                Err(error) => self.failed(at, &error),
            }
        }
        None
    }

    /// A repository that has the layer, as far as is known.
    fn holder(&self, layer: &Layer) -> Option<usize> {
        let digest = layer.digest;
        {
            let state = self.state();
            if state.gone.contains(&digest) {
                return None;
            }
            let may_have =
                |at: &&usize| !state.failed.contains(*at) && !state.lost.contains(&(digest, **at));
            if let Some(at) = state.held.get(&digest).into_iter().flatten().find(may_have) {
                return Some(*at);
            }
        }
        for (at, repository) in self.asked() {
            if self.state().lost.contains(&(digest, at)) {
                continue;
            }
            match repository.has_blob(&digest, Some(layer.size)) {
                Ok(true) => {
                    self.state().held.entry(digest).or_default().insert(at);
                    return Some(at);
                }
                Ok(false) => {}
                Err(error) => self.failed(at, &error),
            }
        }
        None
    }

    /// Notes that a repository has not what it should have; gives another one that has.
    fn missed(&self, layer: &Layer, at: usize, problem: &str) -> Option<usize> {
        let digest = layer.digest;
        let is_new = self.state().lost.insert((digest, at));
        let next = self.holder(layer);
        if is_new {
            let else_where = match next {
                Some(next) => format!("`{}` has too", self.read[next]),
                None => "is made anew".to_owned(),
            };
            self.events.notice(
                format!(
                    "the cache `{}` should have {digest}, which {else_where}: {problem}",
                    self.read[at]
                ),
                None,
            );
        }
        if next.is_none() {
            self.state().gone.insert(digest);
        }
        next
    }
}

impl Cache for SharedCache<'_> {
    fn find(&self, key: &Digest) -> Option<Found> {
        let (at, entry) = self.first(key, |state| &mut state.results)?;
        let mut state = self.state();
        for layer in entry.packings.iter().flat_map(Packing::layers) {
            state.held.entry(layer.digest).or_default().insert(at);
        }
        let said_by = Some(self.read[at].to_string());
        let output = Output { step: entry.step, tree: entry.tree, said_by };
        Some(Found { output, packings: entry.packings })
    }

    fn recorded(&self, weak: &Digest) -> PathSets {
        let mut sets = PathSets::default();
        for (at, _) in self.asked() {
            match self.look(at, weak, |state| &mut state.recordings) {
                Ok(Some(Recording { sets, distrusted: true, .. })) => {
                    let sets = sets.into_iter().take(1).map(PathSet).collect();
                    return PathSets { sets, distrusted: true };
                }
                Ok(Some(recording)) => {
                    let new = recording.sets.into_iter().map(PathSet);
                    sets.sets.extend(new.take(recorded::MOST));
                }
                Ok(None) => {}
                Err(error) => self.failed(at, &error),
            }
        }
        sets
    }

    fn holds(&self, layer: &Layer) -> bool {
        self.holder(layer).is_some()
    }

    fn fetch(&self, layer: &Layer, progress: &mut dyn FnMut(u64)) -> Result<bool, StoreError> {
        // Two steps may want the same files at once.
        let turn = Arc::clone(self.state().fetching.entry(layer.digest).or_default());
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.blob_size(&layer.digest)? == Some(layer.size) {
            return Ok(true);
        }
        let blob = Descriptor {
            media_type: layer.compression.media_type().to_owned(),
            digest: layer.digest,
            size: layer.size,
        };
        let mut next = self.holder(layer);
        while let Some(at) = next {
            next = match self.read[at].fetch_blob(&blob, self.store, progress) {
                Ok(()) => return Ok(true),
                // That is this machine's disk, and the next registry would not find it better.
                Err(RegistryError::Store(error)) => return Err(error),
                Err(error) if error.is_silence() => {
                    self.failed(at, &error);
                    self.holder(layer)
                }
                // One blob that is lost does not make the others so.
                Err(error) => self.missed(layer, at, &with_causes(&error)),
            };
        }
        Ok(false)
    }
}

/// The repository that a cache is. Its tags are forge's own.
fn repository(text: &str) -> Result<Reference, Failure> {
    let reference = Reference::for_push(text)?;
    if text.ends_with(&format!(":{}", reference.tag)) {
        return Err(Failure::usage(format!("the cache `{text}` has a tag"))
            .advise("name the repository alone: a cache has a tag for each result"));
    }
    Ok(reference)
}

#[cfg(test)]
mod tests;
