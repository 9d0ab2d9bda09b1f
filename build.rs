//! Compiles the launcher, so that forge carries it and can put it into images; and says its digest,
//! so that no build works it out.

#[path = "build/launcher.rs"]
mod launcher;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::exit;

use launcher::{Launcher, compile, sources};
use sha2::{Digest, Sha256};

fn main() {
    let variable = |name| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let launcher = Launcher {
        rustc: variable("RUSTC"),
        linker: env::var_os("RUSTC_LINKER"),
        target: variable("TARGET").into_string().expect("a target is plain text"),
        root: PathBuf::from(variable("CARGO_MANIFEST_DIR")),
        output: Path::new(&variable("OUT_DIR")).join("forge-launcher"),
    };
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/launcher.rs");
    for source in sources(&launcher.root) {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    let compiled = compile(&launcher).and_then(|()| {
        fs::read(&launcher.output)
            .map_err(|error| format!("cannot read `{}`: {error}", launcher.output.display()))
    });
    let bytes = compiled.unwrap_or_else(|reason| {
        eprintln!("{reason}");
        exit(1);
    });
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=FORGE_LAUNCHER={}", launcher.output.display());
    println!("cargo::rustc-env=FORGE_LAUNCHER_SHA256={digest}");
}
