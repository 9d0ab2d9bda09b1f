//! The image under the app: what its name stands for, from `forge.lock`, the store,
//! or a registry.

use std::collections::BTreeMap;
use std::error::Error;

use serde::{Deserialize, Serialize};

use super::app::App;
use super::failure::Failure;
use super::machine::architecture;
use crate::buildpack::Planned;
use crate::digest::{Digest, Fields};
use crate::engine::{BaseImage, Fetch};
use crate::layer::{Compression, Layer};
use crate::lock::Lock;
use crate::plan::Action;
use crate::registry::{Descriptor, Platform, Reference, RegistryError, Resolved, Source};
use crate::store::Table;

/// What is known of an image under apps, without the registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    manifest: Digest,
    layers: Vec<Layer>,
    media_types: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// The image under an app.
pub(super) struct FoundBase {
    reference: Reference,
    record: Record,
}

impl App {
    /// Finds out what the plan's base image is, if it has one: fills in its digest, and
    /// puts its environment under that of the steps and of the image.
    pub(super) fn find_base(
        &self,
        planned: &mut Planned,
        lock: &mut Lock,
    ) -> Result<Option<FoundBase>, Failure> {
        let asked = planned.plan.steps.iter().find_map(|step| match &step.action {
            Action::Image { reference, .. } => Some(reference.clone()),
            _ => None,
        });
        let Some(text) = asked else { return Ok(None) };
        let mut reference: Reference = text.parse()?;
        let pinned = reference.digest.or_else(|| lock.image(&text));
        if pinned.is_none() && self.arguments.locked {
            return Err(Failure::usage(format!("forge.lock does not name the image `{text}`"))
                .advise("build once without --locked, and commit forge.lock"));
        }
        reference.digest = pinned;
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: architecture().to_owned(),
            variant: None,
        };
        let key = |named: &Digest| {
            Fields::new("forge-base").digest(named).text(&platform.architecture).finish()
        };
        let known = match pinned {
            Some(named) => self.store.get::<Record>(Table::Bases, &key(&named))?,
            None => None,
        };
        let (named, record) = match (pinned, known) {
            (Some(named), Some(record)) => (named, record),
            _ => {
                let source = Source::open(&reference, self.access()?)?;
                let resolved = source.resolve(&platform, &self.store).map_err(|error| {
                    let failure = Failure::from(error).advise(format!(
                        "is `{text}` right, and can its registry be reached? `[registry.mirrors]` in the user's settings names others"
                    ));
                    match &planned.instead_of_image {
                        Some(advice) => failure.advise(advice.clone()),
                        None => failure,
                    }
                })?;
                let record = record(&resolved);
                self.store.put(Table::Bases, &key(&resolved.named), &record)?;
                (resolved.named, record)
            }
        };
        lock.set_image(&text, named);
        for step in &mut planned.plan.steps {
            match &mut step.action {
                Action::Image { digest, .. } => *digest = Some(record.manifest),
                Action::Command { .. } => {
                    for (name, value) in &record.environment {
                        step.environment.entry(name.clone()).or_insert_with(|| value.clone());
                    }
                }
                _ => {}
            }
        }
        for (name, value) in &record.environment {
            let of_image = &mut planned.plan.image.environment;
            of_image.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Ok(Some(FoundBase { reference, record }))
    }
}

impl FoundBase {
    pub(super) fn reference(&self) -> &Reference {
        &self.reference
    }

    pub(super) fn layers(&self) -> impl Iterator<Item = Digest> {
        self.record.layers.iter().map(|layer| layer.digest)
    }

    /// Brings one layer, whoever has it.
    pub(super) fn bring(
        &self,
        app: &App,
        digest: &Digest,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let layers: Vec<Descriptor> =
            self.descriptors().into_iter().filter(|layer| layer.digest == *digest).collect();
        let source = Source::open(&self.reference, app.access()?)?;
        Ok(source.fetch(&layers, &app.store, &|_, _| {})?)
    }

    /// Brings the layers that the store does not have.
    pub(super) fn fetch(
        &self,
        app: &App,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let layers = self.descriptors();
        for layer in &layers {
            if app.store.blob_size(&layer.digest)? != Some(layer.size) {
                let source = Source::open(&self.reference, app.access()?)?;
                return Ok(source.fetch(&layers, &app.store, progress)?);
            }
        }
        Ok(())
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        self.record
            .layers
            .iter()
            .zip(&self.record.media_types)
            .map(|(layer, media_type)| Descriptor {
                media_type: media_type.clone(),
                digest: layer.digest,
                size: layer.size,
            })
            .collect()
    }

    pub(super) fn image<'a>(&self, fetch: &'a Fetch<'a>) -> BaseImage<'a> {
        BaseImage { layers: self.record.layers.clone(), fetch }
    }
}

/// Errors of the registry keep what they advise.
pub(super) fn failure(error: &(dyn Error + Send + Sync + 'static)) -> Failure {
    match error.downcast_ref::<RegistryError>() {
        Some(error) => Failure::from(error),
        None => Failure::of(super::failure::Kind::Network, error),
    }
}

fn record(resolved: &Resolved) -> Record {
    let layers = resolved
        .layers
        .iter()
        .zip(&resolved.diff_ids)
        .map(|(layer, diff_id)| Layer {
            diff_id: *diff_id,
            digest: layer.digest,
            size: layer.size,
            // Nobody has counted.
            unpacked: 0,
            compression: if layer.media_type.ends_with("zstd") {
                Compression::Zstd { level: 3 }
            } else if layer.media_type.ends_with("gzip") {
                Compression::DEFAULT
            } else {
                Compression::None
            },
        })
        .collect();
    let variables = resolved.image.pointer("/config/Env").and_then(|env| env.as_array());
    let mut environment = BTreeMap::new();
    for variable in variables.into_iter().flatten().filter_map(|text| text.as_str()) {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        environment.insert(name.to_owned(), value.to_owned());
    }
    Record {
        manifest: resolved.manifest,
        layers,
        media_types: resolved.layers.iter().map(|layer| layer.media_type.clone()).collect(),
        environment,
    }
}
