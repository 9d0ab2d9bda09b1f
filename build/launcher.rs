//! Compiles the launcher.
//!
//! It is one call of rustc, without cargo: the launcher has no dependencies,
//! and a nested cargo would wait for the lock that this build holds. The same
//! sources and the same rustc, linker and libc give the same bytes, in any
//! folder, profile and mode, because nothing of the outer build's flags gets in.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the launcher lies in the repository.
const SOURCES: &str = "src/launcher";

/// Variables by which flags or wrappers of the outer build would get in.
const FOREIGN: [&str; 6] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTC_FORCE_RUSTC_VERSION",
    "RUSTC_BOOTSTRAP",
];

/// One call of rustc.
pub struct Launcher {
    /// The compiler.
    pub rustc: OsString,
    /// The linker, where cargo is told to use a certain one.
    pub linker: Option<OsString>,
    /// The machine that images are for.
    pub target: String,
    /// The root of the repository.
    pub root: PathBuf,
    /// The file to write.
    pub output: PathBuf,
}

/// Writes the launcher.
///
/// # Errors
/// What rustc says, after a sentence on what to do about it.
pub fn compile(launcher: &Launcher) -> Result<(), String> {
    let mut remap = OsString::from("--remap-path-prefix=");
    remap.push(&launcher.root);
    remap.push("=/forge");
    let mut command = Command::new(&launcher.rustc);
    command
        .current_dir(&launcher.root)
        .args(["--crate-name=forge_launcher", "--crate-type=bin", "--edition=2024"])
        .arg(format!("--target={}", launcher.target))
        .args(["-Ctarget-feature=+crt-static", "-Copt-level=z", "-Clto=fat"])
        .args(["-Ccodegen-units=1", "-Cpanic=abort", "-Cstrip=symbols", "-Cembed-bitcode=yes"])
        // Small: no table of relocations, no index for unwinding, which it never does.
        .args(["-Crelocation-model=static", "-Clink-arg=-Wl,--no-eh-frame-hdr"])
        .arg(remap)
        .arg("-o")
        .arg(&launcher.output)
        .arg(format!("{SOURCES}/main.rs"));
    if let Some(linker) = &launcher.linker {
        let mut flag = OsString::from("-Clinker=");
        flag.push(linker);
        command.arg(flag);
    }
    for name in FOREIGN {
        command.env_remove(name);
    }
    let shown = launcher.rustc.to_string_lossy();
    let result = command.output().map_err(|err| format!("cannot run `{shown}`: {err}"))?;
    if result.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&result.stderr);
    Err(format!("cannot compile the launcher: {}\n\n{said}", advice(&said, &launcher.target)))
}

/// What to do about a failed compilation, from what rustc said.
fn advice(said: &str, target: &str) -> String {
    let no_libc = ["cannot find -lc", "unable to find library -lc", "rcrt1.o", "libc.a"];
    if no_libc.iter().any(|sign| said.contains(sign)) {
        "it is linked statically, and the static C library (libc.a) is missing; install libc6-dev \
         (Debian, Ubuntu) or glibc-static (Fedora, RHEL)"
            .to_owned()
    } else if said.contains("can't find crate for `std`") {
        format!("the standard library for {target} is missing; run `rustup target add {target}`")
    } else {
        "rustc refused it".to_owned()
    }
}

/// The launcher's source files, sorted; its tests in a folder of their own are not among them.
pub fn sources(root: &Path) -> Vec<PathBuf> {
    let (mut sources, mut folders) = (Vec::new(), vec![root.join(SOURCES)]);
    while let Some(folder) = folders.pop() {
        let listed = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in listed.unwrap_or_else(|err| panic!("{}: {err}", folder.display())) {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }
    sources.sort();
    sources
}
