//! Layers of the image: packed here, known from an earlier build, or in a cache.

use std::time::Instant;

use super::{Done, Engine, EngineError, State, milliseconds};
use crate::digest::Digest;
use crate::event::Event;
use crate::layer::{self, Compression, Layer, Owner, Recipe};
use crate::plan::{APP_FOLDER, APP_USER, Action, Step};
use crate::store::Table;
use crate::tree::Tree;

impl Engine<'_> {
    /// Packs the layer, unless an earlier build did or the cache has it.
    pub(super) fn layer(&self, state: &State, number: usize) -> Result<Done, EngineError> {
        let wanted = &self.plan.image.layers[number];
        let index = self.index(&wanted.step);
        let Some(tree) = state.trees[index].get() else { return Err(EngineError::Interrupted) };
        if *tree == Tree::default().digest() {
            return Ok(Done::NoLayer);
        }
        let step = &self.plan.steps[index];
        if let Action::Image { .. } = step.action {
            return self.image_layers(step);
        }
        let started = Instant::now();
        let key = self.recipe(step).key(tree);
        let known = match self.store.get::<Layer>(Table::Layers, &key)? {
            Some(layer)
                if !state.useless().contains(&layer.digest)
                    && self.has_layer(&step.name, &layer)? =>
            {
                Some(layer)
            }
            _ => self.offered_layer(state, step, tree)?,
        };
        let (layer, reused) = match known {
            Some(layer) => (layer, true),
            None => {
                self.ensure_tree(state, index, tree)?;
                (self.pack(step, tree)?, false)
            }
        };
        if let (Some(packed), false) = (self.packed, reused) {
            packed(&wanted.step, &layer);
        }
        self.events.send(Event::LayerPacked {
            step: wanted.step.clone(),
            digest: layer.digest,
            size: layer.size,
            reused,
            milliseconds: milliseconds(started),
        });
        Ok(Done::Layers(vec![layer]))
    }

    /// Whether the layer is here, or as good as here.
    fn has_layer(&self, step: &str, layer: &Layer) -> Result<bool, EngineError> {
        if self.needs_bytes {
            return self.bring(step, layer);
        }
        Ok(self.store.blob_size(&layer.digest)? == Some(layer.size)
            || self.cache.is_some_and(|cache| cache.holds(layer)))
    }

    /// The layer that the cache has of a step's tree. Where its bytes come here they must be
    /// what this machine would have packed, and where the files are here, the layer must say
    /// so at least: registries and runtimes compare its bytes with that. Of what is never
    /// here it is the word of who may write the cache.
    fn offered_layer(
        &self,
        state: &State,
        step: &Step,
        tree: &Digest,
    ) -> Result<Option<Layer>, EngineError> {
        let recipe = self.recipe(step);
        let wanted = |(is_wanted, layer): (bool, Layer)| is_wanted.then_some(layer);
        for layer in self.offered(state, step, tree).into_iter().filter_map(wanted) {
            if state.useless().contains(&layer.digest) {
                continue;
            }
            let is_here = self.needs_bytes && self.unpack_layer(state, step, tree, &layer)?;
            if is_here != self.needs_bytes || !is_here && !self.has_layer(&step.name, &layer)? {
                continue;
            }
            if !self.store.has_tree(tree) {
                return Ok(Some(layer));
            }
            if self.packs_to(&recipe, tree, &layer)? {
                if is_here {
                    self.store.put(Table::Layers, &recipe.key(tree), &layer)?;
                }
                return Ok(Some(layer));
            }
            let problem = format!("its layer {} is packed otherwise", layer.digest);
            self.useless(state, step, &layer, &problem);
        }
        Ok(None)
    }

    /// Whether packing a tree, which is in the store, gives the layer's tar. Nothing is
    /// compressed or written for that.
    fn packs_to(&self, recipe: &Recipe, tree: &Digest, layer: &Layer) -> Result<bool, EngineError> {
        let list = self.store.read_tree(tree)?;
        let root = self.store.tree_path(tree);
        let plain = Recipe { compression: Compression::None, owners: recipe.owners.clone() };
        let mut nowhere = std::io::sink();
        let found = layer::pack(&list, &root, &plain, self.jobs, &mut nowhere, &|_| {})?;
        Ok((found.diff_id, found.unpacked, recipe.compression)
            == (layer.diff_id, layer.unpacked, layer.compression))
    }

    /// How a step's tree is packed: as the image wants it, when it is one of its layers.
    pub(super) fn recipe(&self, step: &Step) -> Recipe {
        let user = APP_USER;
        let owned = |folder: &str| Owner { folder: folder.to_owned(), user, group: user };
        let layer = self.plan.image.layers.iter().find(|layer| layer.step == step.name);
        let mut owners = vec![owned("home/app")];
        if layer.is_some_and(|layer| layer.of_app) {
            owners.push(owned(APP_FOLDER));
        }
        Recipe { owners, compression: self.compression }
    }

    /// Packs a tree that is in the store.
    pub(super) fn pack(&self, step: &Step, tree: &Digest) -> Result<Layer, EngineError> {
        let recipe = self.recipe(step);
        let list = self.store.read_tree(tree)?;
        let mut blob = self.store.new_blob()?;
        let root = self.store.tree_path(tree);
        let layer = layer::pack(&list, &root, &recipe, self.jobs, &mut blob, &|_| {})?;
        blob.keep(Some((&layer.digest, "the layer")))?;
        self.store.put(Table::Layers, &recipe.key(tree), &layer)?;
        Ok(layer)
    }

    /// A result as a cache keeps it: its tree packed, when it has bytes that others may
    /// need and that are here.
    ///
    /// # Errors
    /// The tree cannot be packed.
    pub fn packed(&self, made: &super::Made) -> Result<super::Found, EngineError> {
        let (step, tree) = (made.step.clone(), made.tree);
        let output = super::Output { step, tree, said_by: None };
        let mut layers = Vec::new();
        let step = &self.plan.steps[self.index(&made.step)];
        if made.bytes && made.tree != Tree::default().digest() {
            let key = self.recipe(step).key(&made.tree);
            let known = self.store.get::<Layer>(Table::Layers, &key)?;
            let layer = match known {
                Some(layer)
                    if self.store.blob_size(&layer.digest)? == Some(layer.size)
                        || self.cache.is_some_and(|cache| cache.holds(&layer)) =>
                {
                    Some(layer)
                }
                _ if self.store.has_tree(&made.tree) => Some(self.pack(step, &made.tree)?),
                _ => None,
            };
            layers.extend(layer.map(|layer| (key, layer)));
        }
        Ok(super::Found { output, layers })
    }
}
