//! The layers of Cloud Native Buildpacks: where they are, and what they do to
//! the environment.
//!
//! ```text
//! <layers>/<buildpack id, / as _>/<layer>/
//!   bin/                 in front of PATH
//!   lib/                 in front of LD_LIBRARY_PATH
//!   env/NAME[.rule]      for everything
//!   env.launch/          the same, at launch only
//!   env.launch/<type>/   the same, for processes of that type
//!   exec.d/              programs that print variables; see `execd`
//!   profile.d/           scripts for shell processes; see `profile`
//! ```
//!
//! - Buildpacks count in the order of the table, layers in that of their names.
//! - The folders `bin` and `lib` of all layers of a buildpack come before any
//!   of its files, so a file `PATH` without rule replaces them.
//! - Only real folders are layers. Links to folders are not.
//! - A folder that is not there means nothing and is not mentioned.
//!
//! A program that runs `forge launcher` again must not get every appended value
//! twice. So forge's own mode leaves [`APPLIED`] in the environment once layers
//! did something; the launcher below it adds only what belongs to another type.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, FileType};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::environment::Environment;

/// `<layers>:<type>` of the layers that are already in the environment.
pub const APPLIED: &str = "FORGE_LAYERS_APPLIED";

/// A folder of each layer and the variable that it stands in front of.
const ROOTS: [(&str, &str); 2] = [("bin", "PATH"), ("lib", "LD_LIBRARY_PATH")];

/// The delimiter of a file `NAME.` with an empty rule, which no document
/// mentions and the launcher of CNB has.
const UNNAMED_DELIMITER: &[u8] = b":";

/// Why a layer could not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// The layers of one buildpack, sorted by name.
pub type Layers = Vec<PathBuf>;

/// What of the layers is still to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// The folders of the type: the rest is already in the environment.
    Typed,
    /// Nothing: a program of the same type has started this launcher.
    Nothing,
}

/// Finds the layers of the buildpacks with these ids that have any.
///
/// # Errors
/// A folder that cannot be listed.
pub fn find<'a>(
    root: &Path,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Layers>, Unreadable> {
    let mut found = Vec::new();
    for id in ids {
        let there = entries(&root.join(id.replace('/', "_")))?;
        // The entry itself, not what a link leads to.
        let folders = there.into_iter().filter(|entry| entry.kind.is_dir());
        let layers: Layers = folders.map(|entry| entry.path).collect();
        if !layers.is_empty() {
            found.push(layers);
        }
    }
    Ok(found)
}

/// What stands in a folder.
#[derive(Debug)]
pub struct Entry {
    /// Where.
    pub path: PathBuf,
    /// Of the entry itself, not of what a link leads to. Known without asking
    /// the system again: there may be a hundred files before every start.
    kind: FileType,
}

impl Entry {
    /// Whether it is a folder, or a link to one.
    pub fn leads_to_folder(&self) -> bool {
        self.kind.is_dir() || self.kind.is_symlink() && self.path.is_dir()
    }
}

/// What a folder holds, sorted by name; nothing if it is not there.
///
/// # Errors
/// The folder is there and cannot be listed.
pub fn entries(folder: &Path) -> Result<Vec<Entry>, Unreadable> {
    let unreadable = |source| Unreadable { path: folder.to_owned(), source };
    let listing = match fs::read_dir(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(unreadable)?,
    };
    let entry = |entry: DirEntry| Ok(Entry { kind: entry.file_type()?, path: entry.path() });
    let entries: Result<Vec<Entry>, io::Error> =
        listing.map(|found| found.and_then(entry)).collect();
    let mut entries = entries.map_err(unreadable)?;
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

/// Changes the environment as the layers say, for a process of type `kind` or
/// for a command, and says whether they said anything.
///
/// # Errors
/// A file that cannot be read or holds a NUL byte.
pub fn apply(
    buildpacks: &[Layers],
    kind: Option<&str>,
    part: Part,
    environment: &mut Environment,
) -> Result<(), Unreadable> {
    for layers in buildpacks {
        if part == Part::Whole {
            for layer in layers {
                roots(layer, environment)?;
            }
        }
        for layer in layers {
            if part == Part::Whole {
                apply_files(&read_files(&layer.join("env"))?, environment);
                apply_files(&read_files(&layer.join("env.launch"))?, environment);
            }
            if let Some(kind) = kind
                && part != Part::Nothing
            {
                apply_files(&read_files(&layer.join("env.launch").join(kind))?, environment);
            }
        }
    }
    Ok(())
}

/// What is left to do below a launcher that has left `applied`.
pub fn part(applied: Option<&OsStr>, root: &Path, kind: Option<&str>) -> Part {
    let rest = applied
        .and_then(|applied| applied.as_bytes().strip_prefix(root.as_os_str().as_bytes()))
        .and_then(|rest| rest.strip_prefix(b":"));
    match rest {
        None => Part::Whole,
        Some(outer) if outer == kind.unwrap_or_default().as_bytes() => Part::Nothing,
        Some(_) => Part::Typed,
    }
}

/// The value of [`APPLIED`].
pub fn applied(root: &Path, kind: Option<&str>) -> OsString {
    let mut value = root.as_os_str().to_owned();
    value.push(":");
    value.push(kind.unwrap_or_default());
    value
}

fn roots(layer: &Path, environment: &mut Environment) -> Result<(), Unreadable> {
    for (folder, variable) in ROOTS {
        let path = layer.join(folder);
        match fs::metadata(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Unreadable { path, source }),
            Ok(_) => {
                let origin = path.display().to_string();
                let value = path.into_os_string();
                put(
                    environment,
                    OsStr::new(variable),
                    Place::Before,
                    value.as_bytes(),
                    b":",
                    &origin,
                );
            }
        }
    }
    Ok(())
}

/// Files of an `env` folder: name to the path and the bytes.
type Files = BTreeMap<OsString, (PathBuf, Vec<u8>)>;

fn read_files(folder: &Path) -> Result<Files, Unreadable> {
    let mut files = Files::new();
    for Entry { path, kind } in entries(folder)? {
        let unreadable = |source| Unreadable { path: path.clone(), source };
        let file = kind.is_file()
            || kind.is_symlink() && fs::metadata(&path).map_err(unreadable)?.is_file();
        if !file {
            continue;
        }
        let bytes = fs::read(&path).map_err(unreadable)?;
        if bytes.contains(&0) {
            let reason = "it holds a NUL byte, which no variable can";
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, reason)));
        }
        let name = path.file_name().unwrap_or_default().to_owned();
        files.insert(name, (path, bytes));
    }
    Ok(files)
}

fn apply_files(files: &Files, environment: &mut Environment) {
    for (file, (path, bytes)) in files {
        let origin = path.display().to_string();
        let (name, rule) = match file.as_bytes().iter().position(|byte| *byte == b'.') {
            None => (file.as_bytes(), None),
            Some(dot) => (&file.as_bytes()[..dot], Some(&file.as_bytes()[dot + 1..])),
        };
        let name = OsStr::from_bytes(name);
        if name.is_empty() {
            continue;
        }
        let mut delimiter_file = name.to_owned();
        delimiter_file.push(".delim");
        let delimiter = files.get(&delimiter_file).map(|(_, bytes)| bytes.as_slice());
        let given = delimiter.unwrap_or_default();
        match rule {
            None | Some(b"override") => {
                environment.set(name, OsStr::from_bytes(bytes), origin);
            }
            Some(b"default") => environment.set_default(name, OsStr::from_bytes(bytes), origin),
            Some(b"append") => put(environment, name, Place::After, bytes, given, &origin),
            Some(b"prepend") => put(environment, name, Place::Before, bytes, given, &origin),
            Some(b"") => {
                let delimiter = delimiter.unwrap_or(UNNAMED_DELIMITER);
                put(environment, name, Place::Before, bytes, delimiter, &origin);
            }
            Some(_) => {}
        }
    }
}

/// Where a value goes when there is one already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    After,
}

/// Puts `value` beside the one that is there; alone if that is empty.
fn put(
    environment: &mut Environment,
    name: &OsStr,
    place: Place,
    value: &[u8],
    delimiter: &[u8],
    origin: &str,
) {
    let earlier = environment.variable(name).filter(|earlier| !earlier.value.is_empty());
    let Some(earlier) = earlier else {
        environment.set(name, OsStr::from_bytes(value), origin);
        return;
    };
    let (old, origin) = (earlier.value.as_bytes(), format!("{origin}, {}", earlier.origin));
    let parts = match place {
        Place::Before => [value, delimiter, old],
        Place::After => [old, delimiter, value],
    };
    let joined = OsString::from_vec(parts.concat());
    environment.set(name, joined, origin);
}
