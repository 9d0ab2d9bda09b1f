//! What other machines have built: a cache that knows results by key, and has their
//! bytes as packed layers.
//!
//! - A hit is a record and descriptors. Bytes come only for a step that must run, or
//!   an output that is written to disk.
//! - The cache may lose anything at any time: what it cannot give is a miss, and the
//!   step runs here.

use std::fs::{self, File};

use super::{Engine, EngineError, Known, Output, Recorded, State};
use crate::digest::Digest;
use crate::event::{Event, with_causes};
use crate::layer::{Layer, Packed, Packing, unpack_tree};
use crate::plan::recorded::PathSets;
use crate::plan::{Action, Step};
use crate::store::{StoreError, Table};

/// A cache that machines share. Failures are misses; it tells of them itself.
pub trait Cache: Sync {
    /// What is known under a key.
    fn find(&self, key: &Digest) -> Option<Found>;

    /// What runs of a traced step with this weak key have read.
    fn recorded(&self, weak: &Digest) -> PathSets;

    /// Whether the cache has the bytes of a layer, so that an image can be made of it
    /// without them being here.
    fn holds(&self, layer: &Layer) -> bool;

    /// Brings the bytes of a layer into the store; says whether it did. `progress` is
    /// told how many have come.
    ///
    /// # Errors
    /// The store cannot take them, which is no loss of the cache's.
    fn fetch(&self, layer: &Layer, progress: &mut dyn FnMut(u64)) -> Result<bool, StoreError>;
}

/// A result that another machine has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The result.
    pub output: Output,
    /// Its tree, packed in one way or several.
    pub packings: Vec<Packing>,
}

/// A result of this build, as a cache wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The step.
    pub step: String,
    /// Its key; of a traced step whose reads are known the strong one.
    pub key: Digest,
    /// What the key was made with, of such a step.
    pub recorded: Option<Recorded>,
    /// Its tree.
    pub tree: Digest,
    /// Whether it is a layer of the image.
    pub of_image: bool,
    /// How this build packs it: [`crate::layer::Recipe::packing`].
    pub packing: Digest,
    /// The cache whose word this is, if it was not made here.
    pub said_by: Option<String>,
    /// Whether other machines may need the tree's files: not those of a step that
    /// takes what others have.
    pub bytes: bool,
}

impl Engine<'_> {
    /// Asks the cache, and notes what it says. Its layers are noted for this build alone, and
    /// as those of this step: whatever else an entry names has no say in what this machine
    /// takes for the layer of a tree.
    pub(super) fn ask_cache(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
    ) -> Result<Option<Output>, EngineError> {
        let Some(found) = self.cache.and_then(|cache| cache.find(key)) else { return Ok(None) };
        // Set once: each step is one task.
        let _first = state.offered[self.index(&step.name)].set(found.packings);
        self.store.put(Table::Outputs, key, &found.output)?;
        Ok(Some(found.output))
    }

    /// What the cache has packed of a step's tree, as this build packs it first. It is asked
    /// now, and once, where the result was known here without it: by a record that has
    /// outlived the files.
    pub(super) fn offered(
        &self,
        state: &State,
        step: &Step,
        tree: &Digest,
    ) -> Vec<(bool, Packing)> {
        let wanted = self.packing_key(step, tree);
        let index = self.index(&step.name);
        let ask = || {
            let cache = self.cache.filter(|_| !self.check && !self.store.has_tree(tree));
            let found = cache.zip(state.keys[index].get()).and_then(|(cache, key)| cache.find(key));
            found.filter(|found| found.output.tree == *tree).map(|found| found.packings)
        };
        let offered = state.offered[index].get_or_init(|| ask().unwrap_or_default());
        let mut offered: Vec<(bool, Packing)> =
            offered.iter().map(|packing| (packing.key == wanted, packing.clone())).collect();
        offered.sort_by_key(|(is_wanted, _)| !is_wanted);
        offered
    }

    /// Makes a step's tree from its packed layers, here or in the cache; says whether it
    /// could. How it is packed does not matter for that.
    pub(super) fn unpack_known(
        &self,
        state: &State,
        step: &Step,
        tree: &Digest,
    ) -> Result<bool, EngineError> {
        let own = self.known_packing(step, tree, &|_| Ok(true))?;
        let offered = self.offered(state, step, tree).into_iter().map(|(_, packing)| packing);
        for packing in own.into_iter().chain(offered) {
            if self.unpack_packing(state, step, tree, &packing)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a step's tree from its layers, here or in the cache. What does not unpack to just
    /// this tree does not count.
    pub(super) fn unpack_packing(
        &self,
        state: &State,
        step: &Step,
        tree: &Digest,
        packing: &Packing,
    ) -> Result<bool, EngineError> {
        for layer in packing.layers() {
            if state.useless().contains(&layer.digest) || !self.bring(&step.name, layer)? {
                return Ok(false);
            }
        }
        let scratch = self.scratch(step)?;
        let out = scratch.path().join("out");
        fs::create_dir_all(&out).map_err(|source| EngineError::Io {
            action: "make",
            path: out.clone(),
            source,
        })?;
        let packed = |layer: &Layer| Packed { digest: layer.digest, diff_id: layer.diff_id };
        let packed: Vec<Packed> = packing.layers().map(packed).collect();
        let open = |digest: &Digest| File::open(self.store.blob_path(digest));
        if let Err(error) = unpack_tree(&packed, &out, open) {
            let to_blame = |layer: &&Layer| error.layer().is_none_or(|it| *it == layer.digest);
            let layers: Vec<Layer> = packing.layers().filter(to_blame).cloned().collect();
            self.useless(state, step, &layers, &with_causes(&error));
            return Ok(false);
        }
        let (found, _) = self.store.keep_tree(&out)?;
        if found != *tree {
            let layers: Vec<Layer> = packing.layers().cloned().collect();
            self.useless(
                state,
                step,
                &layers,
                &format!("what the cache has is {found}, not {tree}"),
            );
        }
        Ok(found == *tree)
    }

    /// Notes that layers are not what they should be.
    pub(super) fn useless(&self, state: &State, step: &Step, layers: &[Layer], problem: &str) {
        let mut is_new = false;
        for layer in layers {
            is_new |= state.useless().insert(layer.digest);
        }
        if is_new {
            self.events.notice(format!("`{}` is made anew: {problem}", step.name), None);
        }
    }

    /// Whether a layer's bytes are in the store, or came there now.
    pub(super) fn bring(&self, step: &str, layer: &Layer) -> Result<bool, EngineError> {
        if self.store.blob_size(&layer.digest)? == Some(layer.size) {
            return Ok(true);
        }
        let Some(cache) = self.cache else { return Ok(false) };
        let (step, total) = (step.to_owned(), layer.size);
        let came = cache.fetch(layer, &mut |done| {
            self.events.send(Event::Download { step: step.clone(), done, total });
        })?;
        if came {
            self.events.send(Event::Fetched { step, bytes: total });
        }
        Ok(came)
    }

    /// Notes whose word a result is.
    pub(super) fn note_said(&self, state: &State, step: &Step, output: &Output) {
        if let Some(said_by) = &output.said_by {
            // Set once: each step is one task.
            let _first = state.said_by[self.index(&step.name)].set(said_by.clone());
        }
    }

    /// Notes the key under which a step's result is known.
    pub(super) fn note_key(&self, state: &State, step: &Step, key: Digest) {
        // The first counts: a traced step's strong key comes before that of its whole input.
        let _first = state.keys[self.index(&step.name)].set(key);
    }

    /// The results of all steps that have keys.
    pub(super) fn made(&self, state: &State) -> Vec<Made> {
        self.plan
            .steps
            .iter()
            .enumerate()
            // The layers of a base image are in its own registry, and forge.lock has what is
            // pinned: nobody asks a cache for these.
            .filter(|(_, step)| !step.pinned && !matches!(step.action, Action::Image { .. }))
            .filter_map(|(index, step)| {
                let of_image = self.plan.image.layers.iter().any(|layer| layer.step == step.name);
                let tree = *state.trees[index].get()?;
                Some(Made {
                    step: step.name.clone(),
                    key: *state.keys[index].get()?,
                    recorded: state.recorded[index].get().cloned(),
                    packing: self.packing_key(step, &tree),
                    tree,
                    said_by: state.said_by[index].get().cloned(),
                    of_image,
                    bytes: of_image || !matches!(step.action, Action::Take { .. }),
                })
            })
            .collect()
    }

    pub(super) fn cached_or_run(
        &self,
        state: &State,
        step: &Step,
        key: &Digest,
        inputs: &[Digest],
    ) -> Result<(Digest, Known), EngineError> {
        if !self.check
            && let Some(output) = self.ask_cache(state, step, key)?
        {
            self.note_said(state, step, &output);
            return Ok((output.tree, Known::Cache));
        }
        self.run(state, step, key, inputs).map(|tree| (tree, Known::Ran))
    }
}

#[cfg(test)]
mod tests;
