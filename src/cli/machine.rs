//! What commands ask of this machine: its store, processors, ways of isolation.

use std::env;

use super::failure::Failure;
use super::settings;
use super::{Common, Isolation};
use crate::sandbox::{self, Mode};
use crate::store::Store;

/// The first way of isolation that works on this machine, or the one asked for;
/// else what failed.
pub(super) fn probe_mode(
    store: &Store,
    asked: Option<Isolation>,
) -> Result<Mode, Vec<sandbox::Probed>> {
    let scratch = match store.scratch("probe") {
        Ok(scratch) => scratch,
        Err(error) => {
            return Err(vec![sandbox::Probed {
                mode: Mode::Namespaces,
                result: Err(error.to_string()),
            }]);
        }
    };
    let asked = asked.map(|asked| match asked {
        Isolation::Namespaces => Mode::Namespaces,
        Isolation::Chroot => Mode::Chroot,
    });
    let mut tried = Vec::new();
    for mode in sandbox::MODES.into_iter().filter(|mode| asked.is_none_or(|asked| asked == *mode)) {
        let probed = sandbox::probe(mode, scratch.path());
        if probed.result.is_ok() {
            return Ok(mode);
        }
        tried.push(probed);
    }
    Err(tried)
}

pub(super) fn open_store(common: &Common) -> Result<Store, Failure> {
    let folder = match &common.store {
        Some(folder) => folder.clone(),
        None => settings::default_store()?,
    };
    Ok(Store::open(&folder)?)
}

pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// GOARCH's name of this machine's architecture, which is Debian's as well.
pub(super) fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
