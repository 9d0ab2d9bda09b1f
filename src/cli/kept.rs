//! The image that an app's last build made, as the store keeps it: its documents, what its
//! layers are, and which repositories have the bytes that are not here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;

use super::app::App;
use super::cache::{Named, SharedCache};
use super::failure::{Failure, Kind};
use crate::digest::Digest;
use crate::engine::Cache;
use crate::event::Events;
use crate::image::{Image, ImageLayer, MediaTypes};
use crate::layer::{Packed, unpack, unpack_tree};
use crate::registry::Reference;
use crate::store::Table;

impl App {
    /// Keeps the documents of an image as the app's last one.
    pub(super) fn keep(&self, image: &Image) -> Result<(), Failure> {
        self.store.write_blob(&image.config)?;
        self.store.write_blob(&image.manifest)?;
        self.store.put(Table::Images, &image.digest, &image.layers)?;
        self.store.set_root(&self.root_name()?, &image.digest)?;
        Ok(())
    }

    /// The app's last image; `None` when there is none, or parts of it are not there.
    pub(super) fn kept(&self) -> Result<Option<Image>, Failure> {
        let Some(digest) = self.store.root_digest(&self.root_name()?)? else { return Ok(None) };
        let Some(layers) = self.store.get::<Vec<ImageLayer>>(Table::Images, &digest)? else {
            return Ok(None);
        };
        let manifest = self.store.read_blob(&digest)?;
        let document: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
        let config = document.pointer("/config/digest").and_then(|digest| digest.as_str());
        let Some(config_digest) = config.and_then(|digest| digest.parse::<Digest>().ok()) else {
            return Ok(None);
        };
        let Some(media_types) = MediaTypes::of(&manifest) else { return Ok(None) };
        let config = self.store.read_blob(&config_digest)?;
        Ok(Some(Image { config, config_digest, manifest, digest, media_types, layers }))
    }

    /// Notes that a repository has the image, should its bytes be needed here.
    pub(super) fn note_place(&self, image: &Image, place: &Reference) -> Result<(), Failure> {
        let mut places = self.places(image)?;
        if places.insert(format!("{}/{}", place.host, place.repository)) {
            self.store.put(Table::Places, &image.digest, &places)?;
        }
        Ok(())
    }

    fn places(&self, image: &Image) -> Result<BTreeSet<String>, Failure> {
        Ok(self.store.get(Table::Places, &image.digest)?.unwrap_or_default())
    }

    /// The repositories that have the image, as a cache; `None` when none is known.
    pub(super) fn elsewhere(
        &self,
        image: &Image,
        events: &Events,
    ) -> Result<Option<SharedCache<'_>>, Failure> {
        let places: Vec<String> = self.places(image)?.into_iter().collect();
        let named = Named::parse(Some("none"), &places)?;
        let cache = SharedCache::open(self, events, &named, &[])?;
        if let Some(cache) = &cache {
            cache.expect(image);
        }
        Ok(cache)
    }

    /// The folders of the image's layers, bottom to top; layers of one tree have one. What is
    /// not here is brought from where the image was pushed to.
    pub(super) fn layer_folders(
        &self,
        image: &Image,
        events: &Events,
    ) -> Result<Vec<PathBuf>, Failure> {
        let mut trees: Vec<Digest> = Vec::new();
        let mut layers: BTreeMap<Digest, Vec<&ImageLayer>> = BTreeMap::new();
        for layer in &image.layers {
            if !trees.contains(&layer.tree) {
                trees.push(layer.tree);
            }
            layers.entry(layer.tree).or_default().push(layer);
        }
        for (tree, layers) in layers.iter().filter(|(tree, _)| !self.store.has_tree(tree)) {
            self.bring_tree(image, tree, layers, events)?;
        }
        Ok(trees.iter().map(|tree| self.store.tree_path(tree)).collect())
    }

    fn bring_tree(
        &self,
        image: &Image,
        tree: &Digest,
        layers: &[&ImageLayer],
        events: &Events,
    ) -> Result<(), Failure> {
        let gone = |name: &str| {
            let what = format!("the files of layer `{name}` are not in the store any more");
            Failure::new(Kind::App, what).advise("build the app again")
        };
        let elsewhere = self.elsewhere(image, events)?;
        for layer in layers {
            let is_here = self.store.blob_size(&layer.layer.digest)? == Some(layer.layer.size);
            let came = match &elsewhere {
                Some(cache) if !is_here => cache.fetch(&layer.layer, &mut |_| {})?,
                _ => is_here,
            };
            if !came {
                return Err(gone(&layer.name));
            }
        }
        let scratch = self.store.scratch("layer")?;
        let out = scratch.path().join("out");
        let failed = |error: &(dyn std::error::Error + 'static)| Failure::of(Kind::App, error);
        fs::create_dir_all(&out).map_err(|error| failed(&error))?;
        let packed: Vec<Packed> = layers
            .iter()
            .map(|layer| Packed { digest: layer.layer.digest, diff_id: layer.layer.diff_id })
            .collect();
        let open = |digest: &Digest| File::open(self.store.blob_path(digest));
        // Those of an image under the app may take away what others of them have; in the parts of
        // what a step made, whiteouts are part of that.
        let is_of_image = layers.len() > 1 && layers.iter().all(|layer| layer.part.is_none());
        let unpacked = match is_of_image {
            false => unpack_tree(&packed, &out, open),
            true => unpack(&packed, &out, open, &|_| {}).map(drop),
        };
        unpacked.map_err(|error| failed(&error))?;
        let (found, _) = self.store.keep_tree(&out)?;
        match layers.first() {
            Some(layer) if found != *tree => Err(gone(&layer.name)),
            _ => Ok(()),
        }
    }
}
