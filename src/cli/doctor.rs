//! `forge doctor`: what this machine can do, and what to change.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use super::failure::{Failure, Kind};
use super::settings;
use super::{Common, machine, view};
use crate::sandbox::{self, Mode};

pub(super) fn doctor(common: &Common) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    let store = machine::open_store(common)?;
    // Writing to a String cannot fail.
    let _written = writeln!(text, "forge       {}", env!("CARGO_PKG_VERSION"));
    let _written = writeln!(
        text,
        "platform    linux/{}, {} processors",
        machine::architecture(),
        machine::processors()
    );
    let free =
        rustix::fs::statvfs(store.root()).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let free = free.map_or_else(|error| error.to_string(), view::bytes);
    let _written = writeln!(text, "store       {} ({free} free)", store.root().display());
    let user = settings::of_user()?;
    let (mirrors, origin) = settings::mirrors(&user.debian);
    for address in mirrors.main.iter().chain(&mirrors.security) {
        let _written = writeln!(text, "mirror      {address}  (from {origin})");
    }
    let scratch = store.scratch("doctor")?;
    let mut chosen = None;
    for mode in sandbox::MODES {
        let probed = sandbox::probe(mode, scratch.path());
        let name = match mode {
            Mode::Namespaces => "namespaces",
            Mode::Chroot => "chroot",
        };
        match &probed.result {
            Ok(traces) => {
                let used = if chosen.is_none() { ", and is used" } else { "" };
                let blind = if *traces {
                    ""
                } else {
                    ", without telling what a step reads: the disk keeps no access times"
                };
                chosen.get_or_insert(mode);
                let _written = writeln!(text, "sandbox     {name}: works{used}{blind}");
            }
            Err(problem) => {
                let _written = writeln!(text, "sandbox     {name}: {problem}");
            }
        }
    }
    if chosen != Some(Mode::Namespaces) {
        for advice in namespace_advice() {
            let _written = writeln!(text, "  → {advice}");
        }
    }
    super::print(&text)?;
    Ok(if chosen.is_some() { ExitCode::SUCCESS } else { ExitCode::from(Kind::Sandbox.code()) })
}

/// The settings that keep user namespaces from ordinary users.
fn namespace_advice() -> Vec<String> {
    let is =
        |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let mut advice = Vec::new();
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        advice.push(
            "user namespaces are off: `sysctl kernel.unprivileged_userns_clone=1`".to_owned(),
        );
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        advice.push(
            "AppArmor restricts user namespaces: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or a profile for forge"
                .to_owned(),
        );
    }
    if is("/proc/sys/user/max_user_namespaces", "0") {
        advice.push(
            "no user namespaces may be made: `sysctl user.max_user_namespaces=10000`".to_owned(),
        );
    }
    if advice.is_empty() {
        advice.push(
            "in a container, allow it: `--security-opt seccomp=unconfined --security-opt systempaths=unconfined` (docker), or run as root for the chroot way"
                .to_owned(),
        );
    }
    advice
}
