//! `forge push`: the image that was built last, to registries.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::app::{App, AppArguments};
use super::failure::Failure;
use super::registries::Tags;
use super::{Common, interrupt, view};
use crate::registry::{Expected, Reference};
use crate::sandbox::Running;

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
        let image = app.kept()?.ok_or_else(not_built)?;
        let elsewhere = app.elsewhere(&image, &events)?;
        let expected = arguments.if_match.unwrap_or(Expected::Anything);
        let to = Tags { tags: &tags, expected, sending: None };
        app.push_to(&to, &image, None, elsewhere.as_ref(), &events)?;
        Ok(image.digest)
    })?;
    if !common.json {
        super::print(&format!("{digest}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
