//! What several test files need.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes a file that may be executed. Another process does it: a thread that forks while this
/// one has the file open would keep it open for writing in its child, and nobody could execute
/// it until that one has executed something else.
pub fn write_program(path: &Path, text: impl AsRef<[u8]>) {
    let aside = path.with_extension("aside");
    fs::write(&aside, text).expect("the file can be written");
    let copied = Command::new("/bin/cp").args([&aside, path]).status().expect("cp runs");
    assert!(copied.success(), "cp copies");
    fs::remove_file(aside).expect("the file can be removed");
}
