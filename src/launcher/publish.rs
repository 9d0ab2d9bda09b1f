//! Copies a folder of the image into a volume, for a web server beside the app.
//!
//! ```text
//! <to>/
//!   .forge-published    what is the launcher's: kind, size, digest, name; written last
//!   .forge-publishing   the lock, and while it is held what is about to be written
//!   .forge-new-…        a file that is not whole yet; beside its final place
//!   …                   the files, 0644 or 0755
//! ```
//!
//! - A reader sees all of a file or none: it is written aside, synced and renamed.
//! - Only what the launcher has written is ever replaced, and only as long as it is unchanged;
//!   anything else that stands in the way is left alone, and told. Nothing is removed: pages
//!   that browsers hold still name the files of the release before.
//! - What is about to be written is noted and synced first. So the next run knows what is its
//!   own, wherever this one was killed.
//! - Equal files are left alone with their time. A new file has the time of its copying: in the
//!   image all have the same, from which nginx would make the same ETag for two releases.
//! - One at a time: the lock goes when its holder ends. Where the file system has no locks, two
//!   may write, and each file is whole all the same.
//! - Links are kept when they are relative and stay inside of the folder; others are left out,
//!   as they lead elsewhere for the reader of the volume. Links in the volume are not followed.

mod marks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::digest::Hasher;

use marks::{FORM, Kind, Mark, file_mark, line, read_journal, read_list};

/// The list of what the launcher has written.
const PUBLISHED: &str = ".forge-published";
/// The lock, and the list of what is about to be written.
const PUBLISHING: &str = ".forge-publishing";
/// How files begin that are not whole yet.
const NEW: &str = ".forge-new-";
const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const PROGRAM_MODE: u32 = 0o755;

/// How long another container may publish, and how often it is looked.
const LONGEST_LOCK: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(50);
/// When it is told that another container publishes.
const FIRST_LINE: Duration = Duration::from_secs(2);

/// A folder to publish.
pub struct Publication<'a> {
    /// The folder in the image.
    pub from: &'a Path,
    /// The volume.
    pub to: &'a Path,
    /// Takes the lines of the story.
    pub tell: &'a dyn Fn(&str),
    /// Called before each change of the volume; tests end the launcher there.
    pub step: &'a dyn Fn(),
    /// Whether somebody wants the launcher to end.
    pub stop: &'a dyn Fn() -> bool,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Files and links that were written.
    pub written: usize,
    /// Files and links that were there.
    pub equal: usize,
    /// What was left out, and why; sorted by name.
    pub left: BTreeSet<String>,
}

/// Why it could not be done.
#[derive(Debug)]
pub struct Trouble {
    /// A verb: `write`, `read`.
    pub action: &'static str,
    /// The file concerned.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Something of the image's folder.
#[derive(Debug)]
enum Source {
    Folder,
    /// With its mode in the volume.
    File(u32),
    Link(PathBuf),
}

/// What stands at a name of the volume, compared with what shall.
enum State {
    /// Nothing.
    Free,
    /// The same; and whether it is the launcher's with another mode.
    Equal(Option<u32>),
    /// Something that the launcher has written.
    Own,
    /// Anything else.
    Foreign(&'static str),
}

/// Publishes.
///
/// # Errors
/// Anything that cannot be read or written; what was written before it stays and is whole.
pub fn publish(publication: &Publication) -> Result<Done, Trouble> {
    let Publication { from, to, tell, step, stop } = *publication;
    let is_folder = |path: &Path| match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(trouble("read the folder", path)(ErrorKind::NotADirectory.into())),
        Err(err) => Err(trouble("read the folder", path)(err)),
    };
    is_folder(from)?;
    is_folder(to)?;
    apart(from, to)?;
    let mut lock = lock(to, tell, stop)?;
    let mut sources = BTreeMap::new();
    let mut done = Done::default();
    list(from, Path::new(""), &mut sources, &mut done.left)?;
    let published = read_list(&to.join(PUBLISHED))?;
    let journal = read_journal(&mut lock.file, &to.join(PUBLISHING))?;
    let mut known = published.clone();
    for (name, marks) in &journal {
        known.entry(name.clone()).or_default().extend(marks);
    }

    // What stands there, and what is to be done.
    let mut target = known.clone();
    let (mut changes, mut modes) = (Vec::new(), Vec::new());
    let (mut foreign_folder, mut new_folder): (Option<&Path>, Option<&Path>) = (None, None);
    for (name, source) in &sources {
        if foreign_folder.is_some_and(|folder| name.starts_with(folder)) {
            continue;
        }
        let mark = mark(&from.join(name), source)?;
        let path = to.join(name);
        let none = BTreeSet::new();
        let marks = known.get(name).unwrap_or(&none);
        // A link that a folder replaces must not be looked through.
        let found = match new_folder {
            Some(folder) if name.starts_with(folder) => State::Free,
            _ => state(source, mark, &from.join(name), &path, marks)?,
        };
        match found {
            State::Equal(mode) => {
                done.equal += usize::from(mark.kind != Kind::Folder);
                if marks.contains(&mark) {
                    target.insert(name.clone(), BTreeSet::from([mark]));
                }
                modes.extend(mode.map(|mode| (path, mode)));
            }
            State::Free | State::Own => {
                target.insert(name.clone(), BTreeSet::from([mark]));
                changes.push((name, source, mark));
                if mark.kind == Kind::Folder && !new_folder.is_some_and(|new| name.starts_with(new))
                {
                    new_folder = Some(name);
                }
            }
            State::Foreign(what) => {
                done.left.insert(format!("{}: {what}", name.display()));
                if mark.kind == Kind::Folder {
                    foreign_folder = Some(name);
                }
            }
        }
    }
    if lock.held {
        remove_unfinished(to, &sources, step)?;
    }
    for (path, mode) in modes {
        step();
        fs::set_permissions(&path, Permissions::from_mode(mode))
            .map_err(trouble("set the mode of", &path))?;
    }
    if changes.is_empty() && journal.is_empty() && target == published {
        return Ok(done);
    }

    let mut notes = String::new();
    for (name, _, mark) in &changes {
        notes.push_str(&line(name, mark));
    }
    let noted = to.join(PUBLISHING);
    step();
    // A line that an earlier run has not finished is ended, and means nothing.
    let mut note = |text: &str| {
        lock.file.write_all(text.as_bytes())?;
        lock.file.sync_data()
    };
    note(&format!("\n{notes}")).map_err(trouble("write", &noted))?;
    let mut folders = BTreeSet::from([to.to_owned()]);
    for (name, source, mark) in &changes {
        if stop() {
            return Err(trouble("finish", to)(ErrorKind::Interrupted.into()));
        }
        let path = to.join(name);
        folders.extend(path.parent().map(Path::to_owned));
        let marks = known.get(*name);
        if !still(&path, marks).map_err(trouble("read", &path))? {
            done.left.insert(format!("{}: it has just been written by somebody", name.display()));
            target.remove(*name);
            continue;
        }
        match source {
            Source::Folder => {
                if fs::symlink_metadata(&path).is_ok() {
                    // A file of an earlier release; nothing is removed but that.
                    step();
                    fs::remove_file(&path).map_err(trouble("replace", &path))?;
                }
                step();
                DirBuilder::new()
                    .mode(FOLDER_MODE)
                    .create(&path)
                    .map_err(trouble("make the folder", &path))?;
                step();
                // Whatever the umask.
                fs::set_permissions(&path, Permissions::from_mode(FOLDER_MODE))
                    .map_err(trouble("set the mode of", &path))?;
            }
            Source::File(mode) => {
                let from = from.join(name);
                let copy = |file: &mut File| {
                    let copied = io::copy(&mut File::open(&from)?, file)?;
                    if copied == mark.size { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
                };
                write(&path, *mode, copy, step)?;
                done.written += 1;
            }
            Source::Link(leads) => {
                let aside = aside(&path);
                step();
                symlink(leads, &aside).map_err(trouble("write", &path))?;
                step();
                rename(&aside, &path)?;
                done.written += 1;
            }
        }
    }
    for folder in &folders {
        sync_folder(folder);
    }
    let mut text = format!("{FORM}\n");
    for (name, marks) in &target {
        for mark in marks {
            text.push_str(&line(name, mark));
        }
    }
    write(&to.join(PUBLISHED), FILE_MODE, |file| file.write_all(text.as_bytes()), step)?;
    sync_folder(to);
    step();
    lock.file.set_len(0).map_err(trouble("write", &noted))?;
    Ok(done)
}

fn trouble(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Trouble {
    move |source| Trouble { action, path: path.to_owned(), source }
}

/// Neither may hold the other: it would be copied into itself.
fn apart(from: &Path, to: &Path) -> Result<(), Trouble> {
    let real = |path: &Path| fs::canonicalize(path).map_err(trouble("read the folder", path));
    let (source, target) = (real(from)?, real(to)?);
    if source.starts_with(&target) || target.starts_with(&source) {
        let reason = format!("it and `{}` lie in each other", from.display());
        return Err(trouble("publish to", to)(io::Error::new(ErrorKind::InvalidInput, reason)));
    }
    Ok(())
}

struct Lock {
    file: File,
    /// Whether this is the only one; not known where there are no locks.
    held: bool,
}

fn lock(to: &Path, tell: &dyn Fn(&str), stop: &dyn Fn() -> bool) -> Result<Lock, Trouble> {
    let path = to.join(PUBLISHING);
    let open = || {
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "it is no plain file"));
        }
        OpenOptions::new().read(true).append(true).create(true).mode(FILE_MODE).open(&path)
    };
    let file = open().map_err(trouble("write", &path))?;
    let (start, mut told) = (Instant::now(), false);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { file, held: true }),
            Err(TryLockError::WouldBlock) if stop() => {
                return Err(trouble("finish", to)(ErrorKind::Interrupted.into()));
            }
            Err(TryLockError::WouldBlock) if start.elapsed() < LONGEST_LOCK => {
                if !told && start.elapsed() > FIRST_LINE {
                    told = true;
                    tell(&format!("another container publishes to {}", to.display()));
                }
                thread::sleep(LOOK);
            }
            Err(TryLockError::WouldBlock) => {
                let reason = "another container holds the lock and does not end";
                return Err(trouble("lock", &path)(io::Error::new(ErrorKind::TimedOut, reason)));
            }
            // Some network file systems have none.
            Err(TryLockError::Error(_)) => return Ok(Lock { file, held: false }),
        }
    }
}

/// What is below `folder`, sorted so that a folder comes before what is in it.
fn list(
    root: &Path,
    folder: &Path,
    sources: &mut BTreeMap<PathBuf, Source>,
    left: &mut BTreeSet<String>,
) -> Result<(), Trouble> {
    let path = root.join(folder);
    let entries = fs::read_dir(&path).map_err(trouble("read the folder", &path))?;
    for entry in entries {
        let entry = entry.map_err(trouble("read the folder", &path))?;
        let name = folder.join(entry.file_name());
        let found = entry.metadata().map_err(trouble("read", &entry.path()))?;
        let own = [PUBLISHED, PUBLISHING].iter().any(|own| name == Path::new(own));
        let source = if own || entry.file_name().as_bytes().starts_with(NEW.as_bytes()) {
            left.insert(format!("{}: the name is the launcher's own", name.display()));
            continue;
        } else if found.is_dir() {
            list(root, &name, sources, left)?;
            Source::Folder
        } else if found.is_file() {
            Source::File(if found.mode() & 0o111 == 0 { FILE_MODE } else { PROGRAM_MODE })
        } else if found.is_symlink() {
            let leads = fs::read_link(entry.path()).map_err(trouble("read", &entry.path()))?;
            if !stays_inside(folder, &leads) {
                left.insert(format!("{}: the link leads out of the folder", name.display()));
                continue;
            }
            Source::Link(leads)
        } else {
            left.insert(format!("{}: it is neither file, folder nor link", name.display()));
            continue;
        };
        sources.insert(name, source);
    }
    Ok(())
}

/// Whether a link in that folder of the tree stays in the tree.
fn stays_inside(folder: &Path, leads: &Path) -> bool {
    let mut depth = folder.components().count();
    for component in leads.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

/// How the source is noted.
fn mark(path: &Path, source: &Source) -> Result<Mark, Trouble> {
    let of = |bytes: &[u8]| {
        let mut hasher = Hasher::new();
        hasher.add(bytes);
        hasher.finish()
    };
    match source {
        Source::Folder => Ok(Mark { kind: Kind::Folder, size: 0, digest: of(b"") }),
        Source::Link(leads) => {
            let bytes = leads.as_os_str().as_bytes();
            Ok(Mark { kind: Kind::Link, size: bytes.len() as u64, digest: of(bytes) })
        }
        Source::File(_) => file_mark(path).map_err(trouble("read", path)),
    }
}

fn state(
    source: &Source,
    mark: Mark,
    from: &Path,
    path: &Path,
    marks: &BTreeSet<Mark>,
) -> Result<State, Trouble> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(State::Free),
        Err(err) => return Err(trouble("read", path)(err)),
    };
    let other_mode = |mode: u32| {
        let own = marks.contains(&mark) && found.mode() & 0o7777 != mode;
        own.then_some(mode)
    };
    match source {
        Source::Folder if found.is_dir() => return Ok(State::Equal(other_mode(FOLDER_MODE))),
        Source::File(mode)
            if found.is_file()
                && found.len() == mark.size
                && equal(from, path).map_err(trouble("read", path))? =>
        {
            return Ok(State::Equal(other_mode(*mode)));
        }
        Source::Link(leads)
            if found.is_symlink()
                && fs::read_link(path).map_err(trouble("read", path))? == *leads =>
        {
            return Ok(State::Equal(None));
        }
        _ => {}
    }
    if found.is_dir() {
        return Ok(State::Foreign("there is a folder"));
    }
    if is_own(path, Some(marks)).map_err(trouble("read", path))? {
        return Ok(State::Own);
    }
    Ok(State::Foreign(if marks.is_empty() {
        "there is a file that forge has not published"
    } else {
        "the published file was changed by somebody"
    }))
}

/// Whether what stands there is as the launcher has once written it.
fn is_own(path: &Path, marks: Option<&BTreeSet<Mark>>) -> io::Result<bool> {
    let Some(marks) = marks.filter(|marks| !marks.is_empty()) else { return Ok(false) };
    let found = fs::symlink_metadata(path)?;
    let mark = if found.is_symlink() {
        let leads = fs::read_link(path)?;
        let mut hasher = Hasher::new();
        hasher.add(leads.as_os_str().as_bytes());
        let size = leads.as_os_str().len() as u64;
        Mark { kind: Kind::Link, size, digest: hasher.finish() }
    } else if found.is_file() && marks.iter().any(|mark| mark.size == found.len()) {
        file_mark(path)?
    } else {
        return Ok(false);
    };
    Ok(marks.contains(&mark))
}

/// Whether the name may be written: nothing is there, or what is there is the launcher's.
fn still(path: &Path, marks: Option<&BTreeSet<Mark>>) -> io::Result<bool> {
    match is_own_or_free(path, marks) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(true),
        other => other,
    }
}

fn is_own_or_free(path: &Path, marks: Option<&BTreeSet<Mark>>) -> io::Result<bool> {
    fs::symlink_metadata(path)?;
    is_own(path, marks)
}

fn equal(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(other.read(&mut right)? == 0);
        }
        match other.read_exact(&mut right[..length]) {
            Ok(()) if left[..length] == right[..length] => {}
            Err(err) if err.kind() != ErrorKind::UnexpectedEof => return Err(err),
            _ => return Ok(false),
        }
    }
}

/// A new name beside the file, short enough wherever its own name is.
fn aside(path: &Path) -> PathBuf {
    let mut bytes = [0; 8];
    let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if random.is_err() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        bytes = (now.as_nanos() as u64).to_be_bytes();
    }
    path.with_file_name(format!("{NEW}{:016x}", u64::from_be_bytes(bytes)))
}

/// Writes aside, syncs, renames; nothing is left of what fails.
fn write(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
    step: &dyn Fn(),
) -> Result<(), Trouble> {
    let aside = aside(path);
    step();
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        step();
        fill(&mut file)?;
        step();
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(|err| {
        // The error that is told is the first one.
        let _ = fs::remove_file(&aside);
        trouble("write", path)(err)
    })?;
    step();
    rename(&aside, path)
}

fn rename(aside: &Path, path: &Path) -> Result<(), Trouble> {
    fs::rename(aside, path).map_err(|err| {
        // The error that is told is the first one.
        let _ = fs::remove_file(aside);
        trouble("write", path)(err)
    })
}

/// So that names outlive a loss of power. Not every file system can; the files are synced.
fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Removes what a killed run has left, in the folders that this one writes to.
fn remove_unfinished(
    to: &Path,
    sources: &BTreeMap<PathBuf, Source>,
    step: &dyn Fn(),
) -> Result<(), Trouble> {
    let folders = sources.iter().filter(|(_, source)| matches!(source, Source::Folder));
    for folder in std::iter::once(PathBuf::new()).chain(folders.map(|(name, _)| name.clone())) {
        let folder = to.join(folder);
        if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            continue;
        }
        let entries = fs::read_dir(&folder).map_err(trouble("read the folder", &folder))?;
        for entry in entries.flatten() {
            if entry.file_name().as_bytes().starts_with(NEW.as_bytes()) {
                step();
                fs::remove_file(entry.path()).map_err(trouble("remove", &entry.path()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
