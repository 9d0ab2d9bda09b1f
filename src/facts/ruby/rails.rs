//! What of Rails there is: its kind of assets, database and jobs, and what its
//! configuration settles in plain sight.
//!
//! Nothing is stated of an application that is not one of Rails, whatever gems
//! it has.

use super::Manifest;
use crate::facts::{FactError, Facts, Files};

/// Gems of asset pipelines, in the order in which one is named.
const ASSETS: [(&str, &str); 9] = [
    ("propshaft", "propshaft"),
    ("sprockets-rails", "sprockets"),
    ("shakapacker", "shakapacker"),
    ("webpacker", "webpacker"),
    ("vite_ruby", "vite"),
    ("jsbundling-rails", "jsbundling"),
    ("cssbundling-rails", "cssbundling"),
    ("tailwindcss-rails", "tailwindcss"),
    ("dartsass-rails", "dartsass"),
];

/// Gems of databases; the one that servers use before the one of a laptop.
const DATABASES: [(&str, &str); 4] =
    [("pg", "postgres"), ("mysql2", "mysql2"), ("trilogy", "trilogy"), ("sqlite3", "sqlite3")];

/// Gems that run jobs.
const JOBS: [(&str, &str); 5] = [
    ("sidekiq", "sidekiq"),
    ("solid_queue", "solid_queue"),
    ("good_job", "good_job"),
    ("delayed_job", "delayed_job"),
    ("resque", "resque"),
];

/// Gems that have Node build JavaScript or CSS while assets are compiled.
const JAVASCRIPT: [(&str, &str); 6] = [
    ("shakapacker", "shakapacker"),
    ("webpacker", "webpacker"),
    ("vite_ruby", "vite"),
    ("vite_rails", "vite"),
    ("jsbundling-rails", "jsbundling"),
    ("cssbundling-rails", "cssbundling"),
];

/// Where compiled assets lie.
const COMPILED: &str = "public/assets/";

/// States the `rails.*` facts.
///
/// # Errors
/// A file that cannot be read.
pub fn state(files: &dyn Files, manifest: &Manifest, facts: &mut Facts) -> Result<(), FactError> {
    const APPLICATION: &str = "config/application.rb";
    if !files.has(APPLICATION) || !files.has(manifest.lock) {
        return Ok(());
    }
    let railties = facts.fact("ruby.gem.railties").cloned();
    let says = || files.read(APPLICATION).map(|text| text.unwrap_or_default());
    if railties.is_none() && !says()?.contains("Rails::Application") {
        return Ok(());
    }
    facts.insert("rails.application", APPLICATION, APPLICATION);
    if let Some(railties) = railties {
        facts.insert("rails.version", railties.value, railties.origin);
    }
    let kinds = [
        ("rails.assets", ASSETS.as_slice()),
        ("rails.javascript", JAVASCRIPT.as_slice()),
        ("rails.database", DATABASES.as_slice()),
        ("rails.jobs", JOBS.as_slice()),
        ("rails.bootsnap", &[("bootsnap", "yes")]),
    ];
    for (name, gems) in kinds {
        let locked = gems.iter().find_map(|(gem, value)| {
            let fact = facts.fact(&format!("ruby.gem.{gem}"))?;
            Some((*value, fact.origin.clone()))
        });
        if let Some((value, origin)) = locked {
            facts.insert(name, value, origin);
        }
    }
    if let Some(path) = files.paths().find(|path| is_asset_manifest(path)) {
        facts.insert("rails.assets.ready", path, path);
    }
    const PRODUCTION: &str = "config/environments/production.rb";
    if let Some(line) = files.read(PRODUCTION)?.and_then(|text| keeps_public_files(&text)) {
        facts.insert("rails.public_files", "off", format!("{PRODUCTION}:{line}"));
    }
    Ok(())
}

/// Whether Propshaft (`.manifest.json`) or Sprockets of any age wrote this file.
fn is_asset_manifest(path: &str) -> bool {
    let Some(name) = path.strip_prefix(COMPILED) else { return false };
    let hashed = [".sprockets-manifest-", "manifest-"].iter().any(|front| name.starts_with(front));
    name == ".manifest.json" || (hashed && name.ends_with(".json") && !name.contains('/'))
}

/// The line that switches off the files in `public`, whatever the environment
/// says: the last that sets it, when it sets a plain `false`.
fn keeps_public_files(text: &str) -> Option<usize> {
    let value = |content: &str| {
        let rest = content.trim_start().strip_prefix("config.public_file_server.enabled")?;
        let (front, value) = rest.split_once('=')?;
        let value = value.split('#').next().unwrap_or_default();
        front.trim().is_empty().then(|| value.trim().to_owned())
    };
    let set = (1..).zip(text.lines()).filter_map(|(line, content)| Some((line, value(content)?)));
    set.last().filter(|(_, value)| value == "false").map(|(line, _)| line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_assets() {
        for (path, expected) in [
            ("public/assets/.manifest.json", true),
            ("public/assets/.sprockets-manifest-0a.json", true),
            ("public/assets/manifest-0a.json", true),
            ("public/assets/manifest-0a.js", false),
            ("public/assets/manifest.json", false),
            ("public/assets/x/manifest-0a.json", false),
            ("public/manifest-0a.json", false),
        ] {
            assert_eq!(is_asset_manifest(path), expected, "{path}");
        }
    }

    #[test]
    fn files_in_public() {
        let off = "config.public_file_server.enabled = false";
        for (text, expected) in [
            (format!("x do\n  {off} # a proxy does\nend\n"), Some(2)),
            ("config.public_file_server.enabled=false".to_owned(), Some(1)),
            (format!("# {off}\n"), None),
            (format!("{off} if ENV['A']"), None),
            (format!("{off}\nconfig.public_file_server.enabled = true"), None),
            ("config.public_file_server.enabled = ENV['A'].present?".to_owned(), None),
            ("config.public_file_server.enabled == false".to_owned(), None),
            ("config.public_file_server.headers = false".to_owned(), None),
        ] {
            assert_eq!(keeps_public_files(&text), expected, "{text}");
        }
    }
}
