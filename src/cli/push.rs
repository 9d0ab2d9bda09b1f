//! `forge push`: the image that was built last, to registries.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::app::{App, AppArguments};
use super::failure::Failure;
use super::registries::by_repository;
use super::{Common, interrupt, view};
use crate::digest::Digest;
use crate::event::Event;
use crate::image::{Image, ImageLayer};
use crate::registry::{Expected, Push, Reference};
use crate::sandbox::Running;
use crate::store::{Store, Table};

#[derive(Clone, Debug, Args)]
pub(super) struct PushArguments {
    /// The app's folder
    #[arg(default_value = ".")]
    app: PathBuf,
    /// Where to, and under which name: REGISTRY/NAME:TAG; may be given several times
    #[arg(long, short, value_name = "REFERENCE", required = true)]
    tag: Vec<String>,
    /// Push only over this image: refuse when a tag names another one, or with `none`, when it is
    /// there at all. Looked up before the push and right before each tag is moved
    #[arg(long, value_name = "DIGEST|none")]
    if_match: Option<Expected>,
}

/// Pushes the image that the app's last build made, and prints its digest.
pub(super) fn push(common: &Common, arguments: &PushArguments) -> Result<ExitCode, Failure> {
    let tags = arguments
        .tag
        .iter()
        .map(|text| Reference::for_push(text))
        .collect::<Result<Vec<_>, _>>()?;
    let running = Arc::new(Running::default());
    let _watch = interrupt::watch(&running)?;
    let digest = view::watch(common, |events| {
        let app = App::open(common, &AppArguments::of(&arguments.app))?;
        let not_built = || {
            let app = arguments.app.display();
            Failure::usage(format!("`{app}` has not been built into this store"))
                .advise(format!("build it first: `forge build {app}`"))
        };
        let digest = app.store.root_digest(&app.root_name()?)?.ok_or_else(not_built)?;
        let image = kept(&app.store, &digest)?.ok_or_else(not_built)?;
        let access = app.access()?;
        for (repository, tags) in by_repository(&tags) {
            let push = Push {
                image: &image,
                store: &app.store,
                tags: &tags,
                origins: &BTreeMap::new(),
                bring: &|_| Err(Box::from("nobody has it")),
                events: &events,
            };
            let expected = arguments.if_match.unwrap_or(Expected::Anything);
            access.repository(&repository)?.push_over(expected, &push)?;
            for tag in tags {
                let to = Reference { tag, ..repository.clone() }.to_string();
                events.send(Event::Written { to });
            }
        }
        Ok(digest)
    })?;
    if !common.json {
        super::print(&format!("{digest}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An image that the store keeps; `None` when parts of it are not there.
fn kept(store: &Store, digest: &Digest) -> Result<Option<Image>, Failure> {
    let Some(layers) = store.get::<Vec<ImageLayer>>(Table::Images, digest)? else {
        return Ok(None);
    };
    let manifest = store.read_blob(digest)?;
    let document: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let config = document.pointer("/config/digest").and_then(|digest| digest.as_str());
    let Some(config_digest) = config.and_then(|digest| digest.parse::<Digest>().ok()) else {
        return Ok(None);
    };
    let config = store.read_blob(&config_digest)?;
    Ok(Some(Image { config, config_digest, manifest, digest: *digest, layers }))
}
