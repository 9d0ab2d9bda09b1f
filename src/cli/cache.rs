//! The cache that machines share: a repository of a registry, by default the image's own.
//!
//! - The engine asks it for results and bytes, and it is given what was built when the image
//!   has been pushed. What goes wrong with it is told once, and the build goes on without.
//! - In the image's own repository it keeps what costs nothing: records, and the image's
//!   layers, which are there anyway, and what is small. A cache that is named (`--cache`) also gets the bytes
//!   of all other results.
//! - What it says is a hint: blobs that are gone are noted, made again, and sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::app::App;
use super::failure::Failure;
use crate::digest::Digest;
use crate::engine::{Cache, EngineError, Found, Made, Output, Recorded};
use crate::event::{Event, Events, with_causes};
use crate::image::Image;
use crate::layer::Layer;
use crate::plan::recorded::{self, PathSet, PathSets};
use crate::registry::{
    Blob, Descriptor, Entry, ImageEntry, Record, Recording, Reference, RegistryError, Repository,
    Sent, Told,
};
use crate::store::Store;
use crate::tree::Tree;

/// Entries that are looked up or written at once. They wait for the registry, not for us.
const WRITERS: usize = 8;
/// Results up to so many bytes are always kept whole.
const SMALL: u64 = 64 << 10;
/// What stands for no cache at all.
const NONE: &str = "none";

/// Packs a result.
pub(super) type Pack<'p> = dyn Fn(&Made) -> Result<Found, EngineError> + Sync + 'p;

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
    store: &'a Store,
    events: Events,
    read: Vec<Arc<Repository>>,
    write: Option<Arc<Repository>>,
    /// Whether results that are no layers of the image are written with their bytes.
    all: bool,
    state: Mutex<State>,
}

/// Where results are written.
struct Target<'t> {
    repository: &'t Repository,
    /// Repositories of the same registry that have the image's layers.
    from: &'t [String],
    /// Bytes of blobs so far.
    sent: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Repositories that are not asked again.
    failed: BTreeSet<usize>,
    /// Layer → the repository that has it.
    held: BTreeMap<Digest, usize>,
    /// Held by who fetches a layer.
    fetching: BTreeMap<Digest, Arc<Mutex<()>>>,
    /// Layers that a repository was to have and has not.
    lost: BTreeSet<Digest>,
    /// What the written repository has answered, by key.
    known: BTreeMap<Digest, Entry>,
    /// The same of recordings, by weak key.
    recordings: BTreeMap<Digest, Recording>,
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

    /// How many blobs were missed or damaged that a repository should have had.
    pub(super) fn lost(&self) -> usize {
        self.state().lost.len()
    }

    /// Repositories on the registry of `to`, other than `to` itself, that have a layer.
    pub(super) fn origins(&self, to: &Reference) -> BTreeMap<Digest, Vec<String>> {
        let mut origins = BTreeMap::new();
        for (digest, at) in &self.state().held {
            if let Some(repository) = self.read.get(*at)
                && repository.host() == to.host
                && repository.name() != to.repository
            {
                origins.insert(*digest, vec![repository.name().to_owned()]);
            }
        }
        origins
    }

    /// Takes for granted that the first repository has all of an image, until it has not.
    pub(super) fn expect(&self, image: &Image) {
        let layers = image.layers.iter().map(|layer| (layer.layer.digest, 0));
        self.state().held.extend(layers);
    }

    /// The image that a plan of this key makes, and who knows it.
    pub(super) fn image(&self, key: &Digest) -> Option<(Image, String)> {
        let (at, entry) = self.entry::<ImageEntry>(key)?;
        let mut state = self.state();
        for digest in &entry.kept {
            state.held.insert(*digest, at);
        }
        Some((entry.image()?, self.read[at].to_string()))
    }

    /// Brings a layer into the store, for a push; says whether it did.
    pub(super) fn bring(&self, image: &Image, digest: &Digest) -> bool {
        let layer = image.layers.iter().find(|layer| layer.layer.digest == *digest);
        let has = layer.is_some_and(|layer| self.fetch(&layer.layer, &mut |_| {}));
        if !has {
            self.state().lost.insert(*digest);
        }
        has
    }

    /// Writes what this build knows and the cache does not: the results, and the image under
    /// `key`. `pushed` names repositories that have the image's layers.
    pub(super) fn publish(
        &self,
        made: &[Made],
        image: (&Digest, &Image),
        pushed: &[Reference],
        pack: &Pack<'_>,
    ) {
        let Some(repository) = &self.write else { return };
        let mut from = Vec::new();
        for other in pushed.iter().filter(|other| other.host == repository.host()) {
            if other.repository != repository.name() && !from.contains(&other.repository) {
                from.push(other.repository.clone());
            }
        }
        let pool = match rayon::ThreadPoolBuilder::new().num_threads(WRITERS).build() {
            Ok(pool) => pool,
            Err(error) => return self.events.notice(format!("nothing is cached: {error}"), None),
        };
        let target = Target { repository, from: &from, sent: AtomicU64::new(0) };
        let done = pool.install(|| {
            let write = |made: &Made| self.write_result(&target, made, pack);
            let results = made.par_iter().with_max_len(1).map(write);
            let results = results.try_reduce(|| 0, |one, other| Ok(one + other))?;
            self.write_image(&target, image)?;
            Ok::<_, RegistryError>(results)
        });
        match done {
            Ok(0) => {}
            Ok(results) => self.events.send(Event::Cached {
                repository: repository.to_string(),
                results,
                sent: target.sent.into_inner(),
            }),
            Err(error) => {
                let advice = Failure::from(&error).advice.into_iter().next();
                let error = with_causes(&error);
                self.events.notice(
                    format!(
                        "not all results could be written to the cache `{repository}`: {error}"
                    ),
                    advice,
                );
            }
        }
    }

    /// Writes one result, and what it was made with; says how many results were written.
    fn write_result(
        &self,
        target: &Target<'_>,
        made: &Made,
        pack: &Pack<'_>,
    ) -> Result<usize, RegistryError> {
        let written = self.write_output(target, made, pack)?;
        if let Some(recorded) = &made.recorded {
            self.write_recording(target, &made.step, recorded)?;
        }
        Ok(written)
    }

    /// Adds a path set to those that the repository has. Of two machines that do so at once
    /// one may be lost: a step then runs once more.
    fn write_recording(
        &self,
        target: &Target<'_>,
        step: &str,
        recorded: &Recorded,
    ) -> Result<(), RegistryError> {
        let known = self.state().recordings.get(&recorded.weak).cloned();
        let known: Option<Recording> = match known {
            Some(known) => Some(known),
            None => target.repository.entry(&recorded.weak)?,
        };
        let sets = known.into_iter().flat_map(|known| known.sets).map(PathSet).collect();
        let mut sets = PathSets { sets };
        // One that is known need not come first: that would be a request of each build.
        if sets.sets.contains(&recorded.read) {
            return Ok(());
        }
        sets.add(&recorded.read);
        let sets = sets.sets.into_iter().map(|set| set.0).collect();
        let recording = Recording { key: recorded.weak, step: step.to_owned(), sets };
        match recording.fitting() {
            Ok(recording) if recording.sets.is_empty() => {
                self.events.notice(
                    format!("`{step}` reads so many files that the cache cannot say which"),
                    None,
                );
                Ok(())
            }
            Ok(recording) => target.repository.put_entry(&recording),
            Err(error) => {
                self.events.notice(format!("what `{step}` reads is not cached: {error}"), None);
                Ok(())
            }
        }
    }

    fn write_output(
        &self,
        target: &Target<'_>,
        made: &Made,
        pack: &Pack<'_>,
    ) -> Result<usize, RegistryError> {
        let known = self.state().known.get(&made.key).cloned();
        let known = match known {
            Some(known) => Some(known),
            None => target.repository.entry(&made.key)?,
        };
        if known.as_ref().is_some_and(|known| self.is_whole(made, known)) {
            return Ok(0);
        }
        let mut layers = Vec::new();
        if made.of_image || self.all || self.is_small(made) {
            let found = match pack(made) {
                Ok(found) => found,
                Err(error) => {
                    let (step, error) = (&made.step, with_causes(&error));
                    self.events.notice(format!("`{step}` is not cached: {error}"), None);
                    return Ok(0);
                }
            };
            for (recipe, layer) in found.layers {
                if self.put_layer(target, &made.step, &layer)? {
                    layers.push((recipe, layer));
                }
            }
        }
        let entry = Entry { key: made.key, step: made.step.clone(), tree: made.tree, layers };
        if known == Some(entry.clone()) {
            return Ok(0);
        }
        target.repository.put_entry(&entry)?;
        Ok(1)
    }

    /// Whether the files of a result are so few that they cost nothing.
    fn is_small(&self, made: &Made) -> bool {
        made.bytes
            && self.store.has_tree(&made.tree)
            && self.store.read_tree(&made.tree).is_ok_and(|tree| tree.size() <= SMALL)
    }

    /// Whether an entry has all that it should have.
    fn is_whole(&self, made: &Made, entry: &Entry) -> bool {
        let wants_bytes =
            (made.of_image || self.all && made.bytes) && made.tree != Tree::default().digest();
        let state = self.state();
        entry.tree == made.tree
            && (!entry.layers.is_empty() || !wants_bytes)
            && !entry.layers.iter().any(|(_, layer)| state.lost.contains(&layer.digest))
    }

    fn write_image(
        &self,
        target: &Target<'_>,
        (key, image): (&Digest, &Image),
    ) -> Result<(), RegistryError> {
        let known: Option<ImageEntry> = target.repository.entry(key)?;
        let lost = self.state().lost.clone();
        if known.is_some_and(|known| {
            known.manifest.as_bytes() == image.manifest
                && !known.kept.iter().any(|digest| lost.contains(digest))
        }) {
            return Ok(());
        }
        let mut kept = Vec::new();
        for layer in &image.layers {
            if self.put_layer(target, &layer.name, &layer.layer)? {
                kept.push(layer.layer.digest);
            }
        }
        match ImageEntry::new(*key, image, kept) {
            Some(entry) => target.repository.put_entry(&entry),
            None => Ok(()),
        }
    }

    /// Whether the layer's blob is in the repository now.
    fn put_layer(
        &self,
        target: &Target<'_>,
        step: &str,
        layer: &Layer,
    ) -> Result<bool, RegistryError> {
        let Target { repository, from, sent } = target;
        if self.store.blob_size(&layer.digest)? != Some(layer.size) {
            // It is where it came from; this repository may be another one.
            return repository.has_blob(&layer.digest, Some(layer.size));
        }
        let (events, what, total) = (self.events.clone(), step.to_owned(), layer.size);
        let told: Told = Arc::new(move |done| {
            events.send(Event::Caching { what: what.clone(), done, total });
        });
        let blob = Blob { digest: layer.digest, size: layer.size, from };
        match repository.push_blob(&blob, self.store, &told) {
            Ok(Sent::Uploaded(bytes)) => sent.fetch_add(bytes, Ordering::Relaxed),
            Ok(Sent::WasThere | Sent::Mounted) => 0,
            // An entry without the bytes is better than one that is of no use.
            Err(error @ RegistryError::Damaged { .. }) => {
                let Failure { message, advice, .. } = Failure::from(&error);
                self.events.notice(message, advice.into_iter().next());
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        Ok(true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The repositories that still answer.
    fn asked(&self) -> Vec<(usize, &Repository)> {
        let failed = self.state().failed.clone();
        let all = self.read.iter().enumerate().filter(|(at, _)| !failed.contains(at));
        all.map(|(at, repository)| (at, &**repository)).collect()
    }

    fn failed(&self, at: usize, error: &RegistryError) {
        if self.state().failed.insert(at) {
            let repository = &self.read[at];
            let advice = Failure::from(error).advice.into_iter().next();
            let error = with_causes(error);
            self.events.notice(format!("the cache `{repository}` is not used: {error}"), advice);
        }
    }

    /// The first entry of that key. What is no entry is a miss.
    fn entry<R: Record>(&self, key: &Digest) -> Option<(usize, R)> {
        for (at, repository) in self.asked() {
            match repository.entry(key) {
                Ok(Some(entry)) => return Some((at, entry)),
                Ok(None) => {}
                Err(error) => self.failed(at, &error),
            }
        }
        None
    }

    fn missed(&self, layer: &Layer, at: usize, problem: &str) {
        let mut state = self.state();
        state.held.remove(&layer.digest);
        if state.lost.insert(layer.digest) {
            let (repository, digest) = (&self.read[at], layer.digest);
            self.events.notice(
                format!(
                    "the cache `{repository}` should have {digest}, which is made anew: {problem}"
                ),
                None,
            );
        }
    }
}

impl Cache for SharedCache<'_> {
    fn find(&self, key: &Digest) -> Option<Found> {
        let (at, entry) = self.entry::<Entry>(key)?;
        let mut state = self.state();
        for (_, layer) in &entry.layers {
            state.held.entry(layer.digest).or_insert(at);
        }
        // The written one is the first of those that are read.
        if at == 0 && self.write.is_some() {
            state.known.insert(*key, entry.clone());
        }
        Some(Found { output: Output { step: entry.step, tree: entry.tree }, layers: entry.layers })
    }

    fn recorded(&self, weak: &Digest) -> PathSets {
        let mut sets = PathSets::default();
        for (at, repository) in self.asked() {
            match repository.entry::<Recording>(weak) {
                Ok(Some(recording)) => {
                    if at == 0 && self.write.is_some() {
                        self.state().recordings.insert(*weak, recording.clone());
                    }
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
        {
            let state = self.state();
            if state.lost.contains(&layer.digest) {
                return false;
            }
            if state.held.contains_key(&layer.digest) {
                return true;
            }
        }
        for (at, repository) in self.asked() {
            match repository.has_blob(&layer.digest, Some(layer.size)) {
                Ok(true) => {
                    self.state().held.insert(layer.digest, at);
                    return true;
                }
                Ok(false) => {}
                Err(error) => self.failed(at, &error),
            }
        }
        false
    }

    fn fetch(&self, layer: &Layer, progress: &mut dyn FnMut(u64)) -> bool {
        if !self.holds(layer) {
            return false;
        }
        // Two steps may want the same files at once.
        let turn = Arc::clone(self.state().fetching.entry(layer.digest).or_default());
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(self.store.blob_size(&layer.digest), Ok(Some(size)) if size == layer.size) {
            return true;
        }
        let Some(at) = self.state().held.get(&layer.digest).copied() else { return false };
        let blob = Descriptor {
            media_type: layer.compression.media_type().to_owned(),
            digest: layer.digest,
            size: layer.size,
        };
        match self.read[at].fetch_blob(&blob, self.store, progress) {
            Ok(()) => true,
            // One blob that is lost does not make the others so.
            Err(error) => {
                self.missed(layer, at, &with_causes(&error));
                false
            }
        }
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
