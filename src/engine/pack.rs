//! Layers of the image: packed here, known from an earlier build, or in a cache.
//!
//! - A layer is known by the content of its part of the tree: where a package has changed, the
//!   parts that it is not in are neither read nor packed again.
//! - Which parts a tree has is recorded too, so that layers are found without the tree's files.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Done, Engine, EngineError, State, milliseconds};
use crate::digest::{Digest, Fields};
use crate::event::Event;
use crate::image;
use crate::layer::{
    self, Compression, Files, Layer, LayerError, Owner, PackedPart, Packing, Part, Recipe, Rule,
    Says, Split,
};
use crate::plan::{APP_FOLDER, APP_USER, Action, Selection, Step, UnitRule};
use crate::source::SourceError;
use crate::store::Table;
use crate::tree::Tree;

/// A part of a tree by name: what is recorded of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NamedPart {
    name: Option<String>,
    tree: Digest,
}

/// Whether a layer that is known is of use: somebody has its bytes.
type Usable<'u> = dyn Fn(&Layer) -> Result<bool, EngineError> + Sync + 'u;

/// A part that is packed, and how long it took; `None` when an earlier build did.
type Packed = (PackedPart, Option<u64>);

impl Engine<'_> {
    /// Packs the layers of a step, but those that an earlier build has packed or the cache has.
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
        let usable = |layer: &Layer| {
            Ok(!state.useless().contains(&layer.digest) && self.has_layer(&step.name, layer)?)
        };
        let known = match self.known_packing(step, tree, &usable)? {
            None => self.offered_packing(state, step, tree)?,
            known => known,
        };
        let packed: Vec<Packed> = match known {
            Some(packing) => packing.parts.into_iter().map(|part| (part, None)).collect(),
            None => match &step.action {
                // What is the user's already need not be copied first.
                Action::Source { selection } if !self.store.has_tree(tree) => {
                    self.pack_app(step, selection, &usable)?
                }
                _ => {
                    self.ensure_tree(state, index, tree)?;
                    self.pack(step, tree, &usable)?
                }
            },
        };
        for (part, milliseconds) in &packed {
            if let (Some(told), Some(_)) = (self.packed, milliseconds) {
                told(&image::title(&wanted.step, part.name.as_deref()), &part.layer);
            }
            self.events.send(Event::LayerPacked {
                step: wanted.step.clone(),
                part: part.name.clone(),
                digest: part.layer.digest,
                size: part.layer.size,
                reused: milliseconds.is_none(),
                milliseconds: milliseconds.unwrap_or_default(),
            });
        }
        Ok(Done::Layers(packed.into_iter().map(|(part, _)| (part.name, part.layer)).collect()))
    }

    /// Whether the layer is here, or as good as here.
    fn has_layer(&self, step: &str, layer: &Layer) -> Result<bool, EngineError> {
        if self.needs_bytes {
            return self.bring(step, layer);
        }
        self.is_kept(layer)
    }

    /// Whether the layer's bytes are here, or in the cache.
    fn is_kept(&self, layer: &Layer) -> Result<bool, EngineError> {
        Ok(self.store.blob_size(&layer.digest)? == Some(layer.size)
            || self.cache.is_some_and(|cache| cache.holds(layer)))
    }

    /// The layers of a step's tree, if all of them are recorded and of use.
    pub(super) fn known_packing(
        &self,
        step: &Step,
        tree: &Digest,
        usable: &Usable<'_>,
    ) -> Result<Option<Packing>, EngineError> {
        let recipe = self.recipe(step);
        let Some(named) = self.named_parts(step, tree)? else { return Ok(None) };
        let mut parts = Vec::new();
        for NamedPart { name, tree } in named {
            match self.known_layer(&recipe, &tree, usable)? {
                Some(layer) => parts.push(PackedPart { name, tree, layer }),
                None => return Ok(None),
            }
        }
        Ok(Some(Packing { key: self.packing_key(step, tree), parts }))
    }

    fn known_layer(
        &self,
        recipe: &Recipe,
        part: &Digest,
        usable: &Usable<'_>,
    ) -> Result<Option<Layer>, EngineError> {
        match self.store.get::<Layer>(Table::Layers, &recipe.key(part))? {
            Some(layer) if usable(&layer)? => Ok(Some(layer)),
            _ => Ok(None),
        }
    }

    /// The layers that the cache has of a step's tree. Where their bytes come here they must be
    /// what this machine would have packed, and where the files are here, the layers must say
    /// so at least: registries and runtimes compare their bytes with that. Of what is never
    /// here it is the word of who may write the cache.
    fn offered_packing(
        &self,
        state: &State,
        step: &Step,
        tree: &Digest,
    ) -> Result<Option<Packing>, EngineError> {
        let wanted = |(is_wanted, packing): (bool, Packing)| is_wanted.then_some(packing);
        'offers: for packing in self.offered(state, step, tree).into_iter().filter_map(wanted) {
            if packing.layers().any(|layer| state.useless().contains(&layer.digest)) {
                continue;
            }
            let is_here = self.needs_bytes && self.unpack_packing(state, step, tree, &packing)?;
            if is_here != self.needs_bytes {
                continue;
            }
            for layer in packing.layers().filter(|_| !is_here) {
                if !self.has_layer(&step.name, layer)? {
                    continue 'offers;
                }
            }
            if !self.store.has_tree(tree) {
                return Ok(Some(packing));
            }
            match self.unlike(step, tree, &packing)? {
                None => {
                    for part in packing.parts.iter().filter(|_| is_here) {
                        let key = self.recipe(step).key(&part.tree);
                        self.store.put(Table::Layers, &key, &part.layer)?;
                    }
                    return Ok(Some(packing));
                }
                Some(layers) => {
                    self.useless(state, step, &layers, "what the cache has is packed otherwise");
                }
            }
        }
        Ok(None)
    }

    /// The layers among a tree's, which is in the store, that packing it would not give; all,
    /// when it would have other parts. Nothing is compressed or written for that.
    fn unlike(
        &self,
        step: &Step,
        tree: &Digest,
        packing: &Packing,
    ) -> Result<Option<Vec<Layer>>, EngineError> {
        let recipe = self.recipe(step);
        let parts = self.parts(step, tree)?;
        let named = |part: &Part| (part.name.clone(), part.tree.digest());
        let said = packing.parts.iter().map(|part| (part.name.clone(), part.tree));
        if !parts.iter().map(named).eq(said) {
            return Ok(Some(packing.layers().cloned().collect()));
        }
        let root = self.store.tree_path(tree);
        let files = Files::kept(&root);
        let plain = Recipe { compression: Compression::None, owners: recipe.owners };
        for (part, PackedPart { layer, .. }) in parts.iter().zip(&packing.parts) {
            let mut nowhere = std::io::sink();
            let found = layer::pack(&part.tree, files, &plain, self.jobs, &mut nowhere, &|_| {})?;
            let expected = (found.diff_id, found.unpacked, recipe.compression);
            if expected != (layer.diff_id, layer.unpacked, layer.compression) {
                return Ok(Some(vec![layer.clone()]));
            }
        }
        Ok(None)
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

    /// How a step's tree is split: not at all, unless it is a layer of the image and its buildpack
    /// says what belongs together.
    fn split(&self, step: &Step) -> Option<Split> {
        let image = &self.plan.image;
        let layer = image.layers.iter().find(|layer| layer.step == step.name)?;
        let rule = |rule: &UnitRule| Rule {
            path: rule.path.clone(),
            says: match &rule.beside {
                Some(file) => Says::Beside(file.clone()),
                None if rule.lists => Says::List,
                None => Says::Unit,
            },
        };
        let rules: Vec<Rule> = layer.units.iter().map(rule).collect();
        (!rules.is_empty()).then(|| Split { rules, most: image.parts_each() })
    }

    /// The name of all layers of a step's tree, as this build packs it.
    pub(super) fn packing_key(&self, step: &Step, tree: &Digest) -> Digest {
        self.recipe(step).packing(self.split(step).as_ref(), tree)
    }

    /// The parts of a tree that is in the store.
    fn parts(&self, step: &Step, tree: &Digest) -> Result<Vec<Part>, EngineError> {
        let list = self.store.read_tree(tree)?;
        let Some(split) = self.split(step) else {
            return Ok(vec![Part { name: None, tree: list }]);
        };
        let root = self.store.tree_path(tree);
        let read = |path: &[u8]| fs::read(root.join(OsStr::from_bytes(path)));
        let parts = split
            .parts(list, read)
            .map_err(|source| EngineError::Split { step: step.name.clone(), source })?;
        let named = |part: &Part| NamedPart { name: part.name.clone(), tree: part.tree.digest() };
        let named: Vec<NamedPart> = parts.iter().map(named).collect();
        self.store.put(Table::Splits, &split_key(&split, tree), &named)?;
        Ok(parts)
    }

    /// What the parts of a tree are, if that is recorded or can be found out.
    fn named_parts(
        &self,
        step: &Step,
        tree: &Digest,
    ) -> Result<Option<Vec<NamedPart>>, EngineError> {
        let Some(split) = self.split(step) else {
            return Ok(Some(vec![NamedPart { name: None, tree: *tree }]));
        };
        let key = split_key(&split, tree);
        if self.store.has_tree(tree)
            && self.store.hint::<Vec<NamedPart>>(Table::Splits, &key)?.is_none()
        {
            self.parts(step, tree)?;
        }
        Ok(self.store.hint(Table::Splits, &key)?)
    }

    /// Packs the parts of a tree that is in the store, but those whose layers are known and of
    /// use; several at once.
    fn pack(
        &self,
        step: &Step,
        tree: &Digest,
        usable: &Usable<'_>,
    ) -> Result<Vec<Packed>, EngineError> {
        let root = self.store.tree_path(tree);
        self.pack_parts(step, self.parts(step, tree)?, Files::kept(&root), usable)
    }

    /// Packs files of the app from where they are.
    fn pack_app(
        &self,
        step: &Step,
        selection: &Selection,
        usable: &Usable<'_>,
    ) -> Result<Vec<Packed>, EngineError> {
        let tree = self.snapshot.select(selection)?;
        let whole = Part { name: None, tree };
        let prefix = format!("{APP_FOLDER}/");
        let files = Files::of_user(&self.snapshot.root, &prefix);
        self.pack_parts(step, vec![whole], files, usable).map_err(|error| match error {
            EngineError::Layer(LayerError::Changed { path }) => {
                let path = path.strip_prefix(&prefix).unwrap_or(&path).to_owned();
                SourceError::Changed { path }.into()
            }
            other => other,
        })
    }

    fn pack_parts(
        &self,
        step: &Step,
        parts: Vec<Part>,
        files: Files<'_>,
        usable: &Usable<'_>,
    ) -> Result<Vec<Packed>, EngineError> {
        let recipe = self.recipe(step);
        let mut parts: Vec<(usize, Part)> = parts.into_iter().enumerate().collect();
        // Threads take the largest first, so that none is left with it at the end. Together they
        // compress on as many processors as one layer would.
        parts.sort_by_key(|(at, part)| (part.tree.size(), Reverse(*at)));
        let threads = self.jobs.clamp(1, parts.len().max(1));
        let workers = self.jobs.div_ceil(threads);
        let pack = |part: Part| {
            let started = Instant::now();
            let name = part.name;
            let tree = part.tree.digest();
            let key = recipe.key(&tree);
            if let Some(layer) = self.known_layer(&recipe, &tree, usable)? {
                return Ok::<Packed, EngineError>((PackedPart { name, tree, layer }, None));
            }
            let mut blob = self.store.new_blob()?;
            let layer = layer::pack(&part.tree, files, &recipe, workers, &mut blob, &|_| {})?;
            blob.keep(Some((&layer.digest, "the layer")))?;
            self.store.put(Table::Layers, &key, &layer)?;
            Ok((PackedPart { name, tree, layer }, Some(milliseconds(started))))
        };
        let left = Mutex::new(parts);
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            let mut packed: Vec<(usize, Packed)> = Vec::new();
            while let Some((at, part)) = next() {
                packed.push((at, pack(part)?));
            }
            Ok::<_, EngineError>(packed)
        };
        let mut packed = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut packed = Vec::new();
            for thread in threads {
                packed.extend(thread.join().unwrap_or(Err(EngineError::Panicked))?);
            }
            Ok::<_, EngineError>(packed)
        })?;
        packed.sort_by_key(|(at, _)| *at);
        Ok(packed.into_iter().map(|(_, packed)| packed).collect())
    }

    /// A result as a cache keeps it: its tree packed, when it has bytes that others may
    /// need and that are here.
    ///
    /// # Errors
    /// The tree cannot be packed.
    pub fn packed(&self, made: &super::Made) -> Result<super::Found, EngineError> {
        let (step, tree) = (made.step.clone(), made.tree);
        let output = super::Output { step, tree, said_by: None };
        let mut packings = Vec::new();
        let step = &self.plan.steps[self.index(&made.step)];
        if made.bytes && made.tree != Tree::default().digest() {
            let usable = |layer: &Layer| self.is_kept(layer);
            packings.extend(match self.known_packing(step, &tree, &usable)? {
                None if self.store.has_tree(&tree) => {
                    let parts = self.pack(step, &tree, &usable)?;
                    let parts = parts.into_iter().map(|(part, _)| part).collect();
                    Some(Packing { key: made.packing, parts })
                }
                known => known,
            });
        }
        Ok(super::Found { output, packings })
    }
}

/// Under which it is recorded what the parts of a tree are.
fn split_key(split: &Split, tree: &Digest) -> Digest {
    Fields::new("forge-split-tree").digest(&split.key()).digest(tree).finish()
}
