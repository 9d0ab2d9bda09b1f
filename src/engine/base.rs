//! The image under the app: its layers become the tree that steps stand on, and
//! are layers of the new image just as they are.

use std::error::Error;
use std::fs::{self, File};

use super::{Done, Engine, EngineError, State};
use crate::debian::base::{self, Base};
use crate::digest::Digest;
use crate::event::Event;
use crate::layer::{Layer, Packed, unpack};
use crate::plan::{Action, Package, Step};
use crate::tree::Tree;

/// Brings layers into the store; told of how many bytes of how many have come.
pub type Fetch<'a> =
    dyn Fn(&(dyn Fn(u64, u64) + Sync)) -> Result<(), Box<dyn Error + Send + Sync>> + Sync + 'a;

/// The image of an [`Action::Image`] step.
pub struct BaseImage<'a> {
    /// Its layers, bottom to top.
    pub layers: Vec<Layer>,
    /// Brings those that the store does not have.
    pub fetch: &'a Fetch<'a>,
}

/// What packages are chosen on top of.
pub struct Ground {
    /// Packages that were chosen before.
    pub packages: Vec<Package>,
    /// The image below, by digest, and what is in it.
    pub image: Option<(Digest, Base)>,
}

impl Engine<'_> {
    /// Unpacks the image under the app.
    pub(super) fn image(&self, step: &Step) -> Result<(Digest, Tree), EngineError> {
        let image = self.fetch_image(step)?;
        let scratch = self.scratch(step)?;
        let out = scratch.path().join("out");
        fs::create_dir_all(&out).map_err(|source| EngineError::Io {
            action: "make",
            path: out.clone(),
            source,
        })?;
        let layers: Vec<Packed> = image
            .layers
            .iter()
            .map(|layer| Packed { digest: layer.digest, diff_id: layer.diff_id })
            .collect();
        unpack(&layers, &out, |digest| File::open(self.store.blob_path(digest)), &|_| {}).map_err(
            |source| EngineError::BaseLayers { step: step.name.clone(), source: Box::new(source) },
        )?;
        Ok(self.store.keep_tree(&out)?)
    }

    fn fetch_image(&self, step: &Step) -> Result<&super::BaseImage<'_>, EngineError> {
        let Some(image) = &self.base else {
            return Err(EngineError::Interrupted);
        };
        let progress = |done, total| {
            self.events.send(Event::Download { step: step.name.clone(), done, total });
        };
        (image.fetch)(&progress)
            .map_err(|source| EngineError::Base { step: step.name.clone(), source })?;
        Ok(image)
    }

    /// The layers of the image under the app.
    pub(super) fn image_layers(&self, step: &Step) -> Result<Done, EngineError> {
        let layers = match &self.base {
            Some(image) if !self.needs_bytes => &image.layers,
            _ => &self.fetch_image(step)?.layers,
        };
        Ok(Done::Layers(layers.iter().map(|layer| (None, layer.clone())).collect()))
    }

    /// What a package step stands on.
    pub(super) fn ground(&self, state: &State, step: &Step) -> Result<Ground, EngineError> {
        let mut ground = Ground { packages: Vec::new(), image: None };
        for name in &step.root {
            let index = self.index(name);
            match &self.definition(state, index).action {
                Action::Packages { packages, .. } => ground.packages.extend(packages.clone()),
                Action::Image { digest: Some(digest), reference } => {
                    let Some(tree) = state.trees[index].get() else {
                        return Err(EngineError::Interrupted);
                    };
                    self.ensure_tree(state, index, tree)?;
                    let found = base::read(&self.store.tree_path(tree))?;
                    if found.debian_release().is_none() || !found.has_dpkg {
                        let system = found.system.map_or_else(String::new, |system| system.name);
                        return Err(EngineError::NotDebian {
                            reference: reference.clone(),
                            system,
                        });
                    }
                    ground.image = Some((*digest, found));
                }
                _ => {}
            }
        }
        Ok(ground)
    }
}

#[cfg(test)]
mod tests {
    use tar::{Builder, EntryType, Header};

    use super::*;

    /// A layer without compression, of kind, path, mode and content or target.
    fn packed(entries: &[(EntryType, &str, u32, &str)]) -> (Packed, Vec<u8>) {
        let mut builder = Builder::new(Vec::new());
        for (kind, path, mode, text) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_uid(33);
            header.set_gid(33);
            header.set_mtime(1_700_000_000);
            if *kind == EntryType::Regular {
                header.set_size(text.len() as u64);
                builder.append_data(&mut header, path, text.as_bytes()).expect("written");
            } else if *kind == EntryType::Directory {
                header.set_size(0);
                builder.append_data(&mut header, path, &[][..]).expect("written");
            } else {
                header.set_size(0);
                builder.append_link(&mut header, path, text).expect("written");
            }
        }
        let bytes = builder.into_inner().expect("written");
        let digest = Digest::of(&bytes);
        (Packed { digest, diff_id: digest }, bytes)
    }

    /// Pins what comes of the same layers.
    #[test]
    fn what_is_unpacked_is_pinned() {
        use EntryType::{Directory, Link, Regular, Symlink};
        let (below, below_bytes) = packed(&[
            (Directory, "etc/", 0o755, ""),
            (Regular, "etc/gone", 0o644, "gone"),
            (Regular, "etc/program", 0o4755, "program"),
            (Link, "etc/same", 0o755, "etc/program"),
            (Directory, "var/", 0o2770, ""),
            (Regular, "var/old", 0o600, "old"),
            (Directory, "usr/lib/", 0o755, ""),
            (Symlink, "lib", 0o777, "usr/lib"),
        ]);
        let (above, above_bytes) = packed(&[
            (Regular, "etc/.wh.gone", 0o644, ""),
            (Regular, "var/.wh..wh..opq", 0o644, ""),
            (Regular, "var/new", 0o640, "new"),
            (Regular, "lib/through", 0o444, "through the link"),
        ]);
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        fs::create_dir(&out).expect("mkdir");
        let open = |digest: &Digest| {
            Ok(if *digest == below.digest { &below_bytes[..] } else { &above_bytes[..] })
        };
        unpack(&[below, above], &out, open, &|_| {}).expect("unpacked");
        let store = crate::store::Store::open(&folder.path().join("store")).expect("a store");
        let scratch = store.scratch("image").expect("scratch");
        fs::rename(&out, scratch.path().join("out")).expect("moved");
        let (digest, _) = store.keep_tree(&scratch.path().join("out")).expect("kept");
        assert_eq!(
            (crate::plan::key::IMAGE, digest.to_string().as_str()),
            (1, "sha256:4f18eb6d12ed702db5aeaa54569a55dfdee59b2400548c3deb59ca61bd653ef3"),
            "the same layers give something else: bump `IMAGE` in src/plan/key.rs, and pin both"
        );
    }
}
