//! Profile scripts of shell processes: bash reads them before the command.
//!
//! ```text
//! <layer>/profile.d/*          per buildpack and layer, in the order of names
//! <layer>/profile.d/<type>/*   then those for the type
//! <app>/.profile               last
//! ```
//!
//! - They run in the application's folder. What they export reaches the
//!   process; a folder they change to, functions and options do not.
//! - They are for bash alone. An image with `sh` only starts its processes
//!   without them and says so.
//! - A direct process and an operator's command do without: no shell stands
//!   before them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::choose::quoted;
use crate::layers::{self, Layers, Unreadable};

/// The shell that reads profiles.
pub const BASH: &str = "/bin/bash";

/// The scripts that are there for a process of type `kind` or for a command.
///
/// # Errors
/// A folder that cannot be listed.
pub fn find(
    buildpacks: &[Layers],
    kind: Option<&str>,
    app: &Path,
) -> Result<Vec<PathBuf>, Unreadable> {
    let mut entries = Vec::new();
    for layer in buildpacks.iter().flatten() {
        let folder = layer.join("profile.d");
        entries.extend(layers::entries(&folder)?);
        if let Some(kind) = kind {
            entries.extend(layers::entries(&folder.join(kind))?);
        }
    }
    let files = entries.into_iter().filter(|entry| !entry.leads_to_folder());
    let own = app.join(".profile");
    let own = if own.exists() && !own.is_dir() { Some(own) } else { None };
    Ok(files.map(|entry| entry.path).chain(own).collect())
}

/// A script for `bash -c` that reads the profiles in `app` and then becomes
/// `script` in `directory`.
pub fn before(script: &OsStr, profiles: &[PathBuf], app: &Path, directory: &Path) -> OsString {
    let mut lines = b"cd ".to_vec();
    lines.extend(quoted(app.as_os_str()));
    lines.push(b'\n');
    lines.extend(read(profiles, directory).as_bytes());
    // Named as without profiles, for scripts that print `$0`.
    lines.extend(b"exec -a bash ");
    lines.extend(BASH.as_bytes());
    lines.extend(b" -c ");
    lines.extend(quoted(script));
    OsString::from_vec(lines)
}

/// How the launcher of CNB starts a command and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The command is a script.
    Script,
    /// Each of so many words goes through `eval echo`.
    Tokens(usize),
}

/// The script of CNB's launcher; the command and its arguments follow it, after
/// a word for `$0`.
pub fn reference(profiles: &[PathBuf], directory: &Path, mode: Mode) -> OsString {
    let mut lines = read(profiles, directory);
    match mode {
        Mode::Script => lines.push("exec bash -c \"$@\""),
        Mode::Tokens(count) => {
            let token = |number| format!("\"$(eval echo \\\"${{{number}}}\\\")\"");
            let tokens: Vec<String> = (0..count).map(token).collect();
            lines.push(format!("exec bash -c '{}' \"${{@:1}}\"", tokens.join(" ")));
        }
    }
    lines
}

/// Lines that read the profiles, then go to `directory`.
fn read(profiles: &[PathBuf], directory: &Path) -> OsString {
    let mut lines = Vec::new();
    for profile in profiles {
        lines.extend(b"source ");
        lines.extend(quoted(profile.as_os_str()));
        lines.push(b'\n');
    }
    lines.extend(b"cd ");
    lines.extend(quoted(directory.as_os_str()));
    lines.push(b'\n');
    OsString::from_vec(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        let profiles = ["/a b".into(), "/it's".into()];
        assert_eq!(
            before("x 'y'".as_ref(), &profiles, Path::new("/app"), Path::new("/app/sub")),
            "cd '/app'\nsource '/a b'\nsource '/it'\\''s'\ncd '/app/sub'\n\
             exec -a bash /bin/bash -c 'x '\\''y'\\'''"
        );
        assert_eq!(
            reference(&[], Path::new("/app"), Mode::Script),
            "cd '/app'\nexec bash -c \"$@\""
        );
        assert_eq!(
            reference(&[], Path::new("/app"), Mode::Tokens(2)),
            "cd '/app'\nexec bash -c '\"$(eval echo \\\"${0}\\\")\" \"$(eval echo \\\"${1}\\\")\"' \"${@:1}\""
        );
    }
}
