//! Writing to the shared cache: what a build made and the cache does not have.
//!
//! - In the image's own repository it keeps what costs nothing: records, and the image's
//!   layers, which are there anyway, and what is small. A cache that is named (`--cache`) also
//!   gets the bytes of all other results.
//! - Results first, each with its bytes before it; the image last.
//! - What this machine has on another cache's word alone is not written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::cache::SharedCache;
use super::failure::Failure;
use crate::digest::Digest;
use crate::engine::{EngineError, Found, Made, Recorded};
use crate::event::{Event, with_causes};
use crate::image::Image;
use crate::layer::{Layer, Packing};
use crate::plan::recorded::{PathSet, PathSets};
use crate::registry::{
    Blob, Entry, ImageEntry, Recording, Reference, RegistryError, Repository, Sent, Told,
};
use crate::tree::Tree;

/// Entries that are looked up or written at once. They wait for the registry, not for us.
const WRITERS: usize = 8;
/// Results up to so many bytes are always kept whole.
const SMALL: u64 = 64 << 10;

/// Packs a result.
pub(super) type Pack<'p> = dyn Fn(&Made) -> Result<Found, EngineError> + Sync + 'p;

/// Where results are written.
struct Target<'t> {
    repository: &'t Repository,
    /// Repositories of the same registry that have the image's layers.
    from: &'t [String],
    /// Bytes of blobs so far.
    sent: AtomicU64,
}

impl SharedCache<'_> {
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
        if self.is_silent() {
            // That was told, and it would be waited for once more with each result.
            return;
        }
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
        // What another cache says is passed on to nobody: who reads this one has not chosen
        // to trust that one. An image that such results went into says no more than they do.
        let name = repository.to_string();
        let is_own = |made: &&Made| made.said_by.as_ref().is_none_or(|said_by| *said_by == name);
        let own: Vec<&Made> = made.iter().filter(is_own).collect();
        let is_all_own = own.len() == made.len();
        let done = pool.install(|| {
            if is_all_own && self.has_all(&own, image)? {
                return Ok(0);
            }
            let write = |made: &&Made| self.write_result(&target, made, pack);
            let results = own.par_iter().with_max_len(1).map(write);
            let results = results.try_reduce(|| 0, |one, other| Ok(one + other))?;
            if is_all_own {
                self.write_image(&target, image)?;
            }
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

    /// Whether the image is there, which is written last, and nothing is known to be missing.
    fn has_all(&self, made: &[&Made], image: (&Digest, &Image)) -> Result<bool, RegistryError> {
        if !self.has_image(image)? {
            return Ok(false);
        }
        // What was not looked up was not needed, and is there since the image is.
        let is_there = |made: &&Made| {
            let known = self.state().results.get(&(0, made.key)).cloned();
            let result =
                known.is_none_or(|known| known.is_some_and(|known| self.is_whole(made, &known)));
            let recorded = made.recorded.as_ref();
            result
                && recorded.is_none_or(|recorded| {
                    let state = self.state();
                    let known = state.recordings.get(&(0, recorded.weak));
                    known.is_none_or(|known| {
                        known.as_ref().is_some_and(|known| known.sets.contains(&recorded.read.0))
                    })
                })
        };
        Ok(made.iter().all(is_there))
    }

    fn has_image(&self, (key, image): (&Digest, &Image)) -> Result<bool, RegistryError> {
        let known = self.look(0, key, |state| &mut state.images)?;
        let state = self.state();
        Ok(known.is_some_and(|known| {
            known.manifest.as_bytes() == image.manifest
                && !known.kept.iter().any(|digest| state.lost.contains(&(*digest, 0)))
        }))
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
        let known = self.look(0, &recorded.weak, |state| &mut state.recordings)?;
        let known = known.map(|known| PathSets {
            sets: known.sets.into_iter().map(PathSet).collect(),
            distrusted: known.distrusted,
        });
        let mut sets = known.unwrap_or_default();
        let Recorded { weak, read, distrusted, .. } = recorded;
        // One that is known need not come first: that would be a request of each build.
        if sets.distrusted || sets.sets.contains(read) && !distrusted {
            return Ok(());
        }
        if *distrusted {
            sets = PathSets { sets: vec![read.clone()], distrusted: true };
        } else {
            sets.add(read);
        }
        let recording = Recording {
            key: *weak,
            step: step.to_owned(),
            sets: sets.sets.into_iter().map(|set| set.0).collect(),
            distrusted: sets.distrusted,
        };
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
        let known = self.look(0, &made.key, |state| &mut state.results)?;
        if known.as_ref().is_some_and(|known| self.is_whole(made, known)) {
            return Ok(0);
        }
        let mut packings = Vec::new();
        if made.of_image || self.all || self.is_small(made) {
            let found = match pack(made) {
                Ok(found) => found,
                Err(error) => {
                    let (step, error) = (&made.step, with_causes(&error));
                    self.events.notice(format!("`{step}` is not cached: {error}"), None);
                    return Ok(0);
                }
            };
            for packing in found.packings {
                let mut is_there = true;
                for layer in packing.layers() {
                    is_there &= self.put_layer(target, &made.step, layer)?;
                }
                if is_there {
                    packings.push(packing);
                }
            }
        }
        // Packed otherwise, by builds with another compression: as good for who needs files.
        let others = known.iter().filter(|known| known.tree == made.tree);
        for other in others.flat_map(|known| &known.packings) {
            let is_lost =
                other.layers().any(|layer| self.state().lost.contains(&(layer.digest, 0)));
            if !is_lost && !packings.iter().any(|known| known.key == other.key) {
                packings.push(other.clone());
            }
        }
        let entry = Entry { key: made.key, step: made.step.clone(), tree: made.tree, packings };
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
        let mut layers = entry.packings.iter().flat_map(Packing::layers);
        entry.tree == made.tree
            && (!wants_bytes || entry.packings.iter().any(|packing| packing.key == made.packing))
            && !layers.any(|layer| state.lost.contains(&(layer.digest, 0)))
    }

    fn write_image(
        &self,
        target: &Target<'_>,
        (key, image): (&Digest, &Image),
    ) -> Result<(), RegistryError> {
        if self.has_image((key, image))? {
            return Ok(());
        }
        let mut kept = Vec::new();
        for layer in &image.layers {
            if self.put_layer(target, &layer.title(), &layer.layer)? {
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
        let is_doubted = self.doubted(repository.host()).contains(&layer.digest);
        if self.store.blob_size(&layer.digest)? != Some(layer.size) {
            // It is where it came from; this repository may be another one.
            return Ok(!is_doubted && repository.has_blob(&layer.digest, Some(layer.size))?);
        }
        let (events, what, total) = (self.events.clone(), step.to_owned(), layer.size);
        let told: Told = Arc::new(move |done| {
            events.send(Event::Caching { what: what.clone(), done, total });
        });
        let blob = Blob { digest: layer.digest, size: layer.size, from, is_doubted };
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
}
