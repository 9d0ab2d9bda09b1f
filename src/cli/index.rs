//! `forge index`: one name for images of several platforms.

use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::{Common, registries, settings};
use crate::registry::{Name, Reference};

#[derive(Clone, Debug, Args)]
pub(super) struct IndexArguments {
    /// Images of one repository, one for each platform: REGISTRY/NAME:TAG or @DIGEST
    #[arg(value_name = "IMAGE", required = true, num_args = 1..)]
    images: Vec<String>,
    /// What to call all of them: REGISTRY/NAME:TAG; may be given several times
    #[arg(long, short, value_name = "REFERENCE", required = true)]
    tag: Vec<String>,
}

/// Puts an index of images that are in a registry there, and prints its digest.
pub(super) fn index(common: &Common, arguments: &IndexArguments) -> Result<ExitCode, Failure> {
    let images =
        arguments.images.iter().map(|text| text.parse()).collect::<Result<Vec<Reference>, _>>()?;
    let tags = arguments
        .tag
        .iter()
        .map(|text| Reference::for_push(text))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(first) = tags.first() else { return Err(Failure::usage("no tag is given")) };
    for other in tags.iter().chain(&images) {
        if (&other.host, &other.repository) != (&first.host, &first.repository) {
            return Err(Failure::usage(format!(
                "`{other}` is in another repository than `{first}`, and an index has only what is in its own"
            ))
            .advise(format!(
                "push the image there first: `forge push APP --tag {}/{}:…`",
                first.host, first.repository
            )));
        }
    }
    let repository = registries::access(&settings::of_user()?)?.repository(first)?;
    let mut members = Vec::new();
    for image in &images {
        let name = image.digest.as_ref().map_or(Name::Tag(&image.tag), Name::Digest);
        members.push(repository.member(name)?);
    }
    let names: Vec<String> = tags.iter().map(|tag| tag.tag.clone()).collect();
    let digest = repository.put_index(&members, &names)?;
    if common.json {
        let platforms: Vec<String> =
            members.iter().map(|member| member.platform.to_string()).collect();
        let event = serde_json::json!({
            "event": "indexed", "digest": digest.to_string(), "platforms": platforms,
        });
        super::print(&format!("{event}\n"))?;
    } else {
        for (member, image) in members.iter().zip(&images) {
            super::tell(&format!("  {:<18} {image}\n", member.platform.to_string()));
        }
        super::print(&format!("{digest}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
