//! `forge store`: what is kept, and keeping it healthy.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use super::failure::Failure;
use super::{Common, machine, view};
use crate::digest::Digest;
use crate::engine::Run;
use crate::image::ImageLayer;
use crate::layer::Layer;
use crate::store::{Keep, Store, StoreError, Table};

#[derive(Clone, Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// List the images that are kept
    List,
    /// Remove all that no kept image is made of
    Gc,
    /// Read everything, and list what is damaged
    Verify {
        /// Remove what is damaged; the next build makes it again
        #[arg(long)]
        repair: bool,
    },
}

pub(super) fn store(common: &Common, command: &StoreCommand) -> Result<ExitCode, Failure> {
    let store = machine::open_store(common)?;
    match command {
        StoreCommand::List => {
            let mut text = String::new();
            for (name, digest) in store.roots()? {
                // Writing to a String cannot fail.
                let _written = writeln!(text, "{digest}  {name}");
            }
            super::print(&text)?;
        }
        StoreCommand::Gc => gc(&store)?,
        StoreCommand::Verify { repair } => return verify(&store, *repair),
    }
    Ok(ExitCode::SUCCESS)
}

fn gc(store: &Store) -> Result<(), Failure> {
    let swept = store.gc(|| keep(store))?;
    super::print(&format!("removed {} things, {}\n", swept.files, view::bytes(swept.bytes)))
}

/// What the images in the roots are made of: their documents and layers, the
/// trees of their layers, and the records that lead to these.
fn keep(store: &Store) -> Result<Keep<'_>, StoreError> {
    let (mut blobs, mut trees, mut images) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (_, digest) in store.roots()? {
        images.insert(digest);
        blobs.insert(digest);
        if let Ok(manifest) = store.read_blob(&digest)
            && let Ok(manifest) =
                serde_json::from_slice::<oci_spec::image::ImageManifest>(&manifest)
            && let Ok(config) = manifest.config().digest().to_string().parse::<Digest>()
        {
            blobs.insert(config);
        }
        for layer in store.get::<Vec<ImageLayer>>(Table::Images, &digest)?.unwrap_or_default() {
            blobs.insert(layer.layer.digest);
            trees.insert(layer.tree);
        }
    }
    // What a step reads is of use where the step was built last; path sets may be large.
    let mut recordings = BTreeSet::new();
    for key in store.keys(Table::Runs)? {
        recordings.extend(Run::noted(store, &key)?.and_then(|run| run.weak));
    }
    let layers = blobs.clone();
    let records = move |table, key: &Digest| {
        Ok(match table {
            // A record is small and true for ever; one whose tree is gone saves
            // running the step as long as nothing needs its files.
            Table::Outputs | Table::Splits | Table::Bases | Table::Runs | Table::Sources => true,
            Table::Recordings => recordings.contains(key),
            Table::Layers => {
                store.get::<Layer>(table, key)?.is_some_and(|layer| layers.contains(&layer.digest))
            }
            Table::Images | Table::Places => images.contains(key),
        })
    };
    Ok(Keep { blobs, trees, records: Box::new(records) })
}

fn verify(store: &Store, repair: bool) -> Result<ExitCode, Failure> {
    let damage = store.verify()?;
    let mut text = String::new();
    for found in &damage {
        let _written = writeln!(text, "{}: {}", found.path.display(), found.problem);
        if repair {
            store.remove_damaged(found)?;
        }
    }
    let end = match (damage.len(), repair) {
        (0, _) => "all is well\n".to_owned(),
        (count, true) => format!("{count} damaged, removed\n"),
        (count, false) => format!("{count} damaged; `forge store verify --repair` removes them\n"),
    };
    super::print(&format!("{text}{end}"))?;
    Ok(if damage.is_empty() || repair { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
