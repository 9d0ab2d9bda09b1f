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

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::digest::{Digest, Hasher};

/// The list of what the launcher has written.
const PUBLISHED: &str = ".forge-published";
/// The lock, and the list of what is about to be written.
const PUBLISHING: &str = ".forge-publishing";
/// How files begin that are not whole yet.
const NEW: &str = ".forge-new-";
/// The first line of a list. A list of another form is refused.
const FORM: &str = "forge published 1";

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

/// What a name in the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Folder,
    File,
    Link,
}

/// A name that is the launcher's, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    kind: Kind,
    size: u64,
    digest: Digest,
}

type Marks = BTreeMap<PathBuf, BTreeSet<Mark>>;

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

fn file_mark(path: &Path) -> io::Result<Mark> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok(Mark { kind: Kind::File, size, digest: Digest::of(file)? })
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

fn line(name: &Path, mark: &Mark) -> String {
    let kind = match mark.kind {
        Kind::Folder => 'd',
        Kind::File => 'f',
        Kind::Link => 'l',
    };
    let mut line = format!("{kind} {} {} ", mark.size, mark.digest);
    for &byte in name.as_os_str().as_bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => line.push(char::from(byte)),
            // A String takes all that is written to it.
            byte => drop(write!(line, "%{byte:02x}")),
        }
    }
    line.push('\n');
    line
}

fn parse(line: &str) -> Option<(PathBuf, Mark)> {
    let mut words = line.splitn(4, ' ');
    let kind = match words.next()? {
        "d" => Kind::Folder,
        "f" => Kind::File,
        "l" => Kind::Link,
        _ => return None,
    };
    let size = words.next()?.parse().ok()?;
    let digest = Digest::parse(words.next()?)?;
    let (mut name, mut rest) = (Vec::new(), words.next()?.as_bytes());
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'%' {
            let code = std::str::from_utf8(after.get(..2)?).ok()?;
            name.push(u8::from_str_radix(code, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            name.push(*byte);
        }
    }
    let name = Path::new(OsStr::from_bytes(&name)).to_owned();
    Some((name, Mark { kind, size, digest }))
}

fn read_list(path: &Path) -> Result<Marks, Trouble> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Marks::new()),
        Err(err) => return Err(trouble("read", path)(err)),
    };
    let refused = || {
        let reason = "it is no list of this version of forge";
        trouble("read", path)(io::Error::new(ErrorKind::InvalidData, reason))
    };
    let mut lines = text.lines();
    if lines.next() != Some(FORM) {
        return Err(refused());
    }
    let mut marks = Marks::new();
    for line in lines {
        let (name, mark) = parse(line).ok_or_else(refused)?;
        marks.entry(name).or_default().insert(mark);
    }
    Ok(marks)
}

/// What runs that did not end were about to write. Lines that are not whole mean nothing:
/// nothing is written before its line is on the disk.
fn read_journal(file: &mut File, path: &Path) -> Result<Marks, Trouble> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(trouble("read", path))?;
    let text = OsString::from_vec(bytes).to_string_lossy().into_owned();
    let mut marks = Marks::new();
    for (name, mark) in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| parse(line.trim_end_matches('\n')))
    {
        marks.entry(name).or_default().insert(mark);
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::testing::Folder;

    /// An image's folder and a volume.
    struct Bench(Folder);

    impl Bench {
        fn new(image: &[(&str, &str)], volume: &[(&str, &str)]) -> Bench {
            let bench = Bench(Folder::with(&[]));
            fs::create_dir(bench.from()).expect("it can be made");
            fs::create_dir(bench.to()).expect("it can be made");
            bench.release(image);
            for (name, text) in volume {
                put(&bench.to().join(name), text);
            }
            bench
        }

        fn from(&self) -> PathBuf {
            self.0.path().join("from")
        }

        fn to(&self) -> PathBuf {
            self.0.path().join("to")
        }

        /// The image has these files and no others.
        fn release(&self, files: &[(&str, &str)]) {
            fs::remove_dir_all(self.from()).expect("it can be removed");
            fs::create_dir(self.from()).expect("it can be made");
            for (name, text) in files {
                put(&self.from().join(name), text);
            }
        }

        fn publish(&self) -> Result<Done, Trouble> {
            self.publish_until(usize::MAX)
        }

        /// Ends with a panic before that change, which leaves everything as a kill does: no
        /// code of the module runs after it.
        fn publish_until(&self, last: usize) -> Result<Done, Trouble> {
            let steps = Cell::new(0);
            publish(&Publication {
                from: &self.from(),
                to: &self.to(),
                tell: &|_| {},
                step: &|| {
                    steps.set(steps.get() + 1);
                    if steps.get() > last {
                        // Not `panic!`, which would print for each of thousands.
                        std::panic::resume_unwind(Box::new(()));
                    }
                },
                stop: &|| false,
            })
        }

        /// Whether it came to its end.
        fn killed_at(&self, step: usize) -> bool {
            catch_unwind(AssertUnwindSafe(|| self.publish_until(step).expect("it works"))).is_err()
        }

        /// Names and contents in the volume, without the launcher's own files.
        fn volume(&self) -> BTreeMap<String, String> {
            let mut found = BTreeMap::new();
            walk(&self.to(), "", &mut found);
            found.retain(|name, _| !name.contains(".forge-"));
            found
        }
    }

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("in a folder")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }

    fn walk(folder: &Path, above: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).expect("it can be read") {
            let entry = entry.expect("it can be read");
            let name = format!("{above}{}", entry.file_name().display());
            let kind = entry.file_type().expect("it can be read");
            if kind.is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else if kind.is_symlink() {
                let leads = fs::read_link(entry.path()).expect("it can be read");
                found.insert(name, format!("-> {}", leads.display()));
            } else {
                let text = fs::read_to_string(entry.path()).expect("it can be read");
                found.insert(name, text);
            }
        }
    }

    fn map(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
    }

    fn time(path: &Path) -> std::time::SystemTime {
        fs::metadata(path).and_then(|found| found.modified()).expect("it is there")
    }

    #[test]
    fn releases() {
        let bench = Bench::new(
            &[("index.html", "one"), ("assets/a-1.js", "a1"), ("assets/deep/b.js", "b")],
            &[("media/photo.jpg", "photo"), ("note.txt", "mine")],
        );
        let done = bench.publish().expect("it works");
        assert_eq!(done, Done { written: 3, equal: 0, left: BTreeSet::new() });
        let uploads = [("media/photo.jpg", "photo"), ("note.txt", "mine")];
        let first = [("index.html", "one"), ("assets/a-1.js", "a1"), ("assets/deep/b.js", "b")];
        assert_eq!(bench.volume(), map(&[&uploads[..], &first].concat()));

        // Again: nothing is touched, not even the list.
        let before =
            [PUBLISHED, "index.html", "assets/deep/b.js"].map(|name| bench.to().join(name));
        let times = before.each_ref().map(|path| time(path));
        thread::sleep(Duration::from_millis(20));
        let done = bench.publish().expect("it works");
        assert_eq!(done, Done { written: 0, equal: 3, left: BTreeSet::new() });
        assert_eq!(before.each_ref().map(|path| time(path)), times);

        // The next release: same size, other bytes; a new name; an old one stays.
        bench.release(&[("index.html", "two"), ("assets/a-2.js", "a2"), ("assets/deep/b.js", "b")]);
        let done = bench.publish().expect("it works");
        assert_eq!(done, Done { written: 2, equal: 1, left: BTreeSet::new() });
        let second = [("index.html", "two"), ("assets/a-1.js", "a1"), ("assets/a-2.js", "a2")];
        let all = [&uploads[..], &second, &[("assets/deep/b.js", "b")]].concat();
        assert_eq!(bench.volume(), map(&all));
        assert_ne!(time(&before[1]), times[1]);
        assert_eq!(time(&before[2]), times[2]);

        // And back.
        bench.release(&first);
        assert_eq!(bench.publish().expect("it works").written, 1);
        assert_eq!(bench.volume()["index.html"], "one");
        assert_eq!(bench.volume()["assets/a-2.js"], "a2");
    }

    #[test]
    fn what_is_not_forges() {
        let bench = Bench::new(
            &[
                ("mine.txt", "forge"),
                ("same.txt", "same"),
                ("folder", "x"),
                ("file/inside", "x"),
                ("out/inside", "x"),
                ("edited", "forge"),
                ("name with % and \n", "x"),
            ],
            &[("mine.txt", "mine!"), ("same.txt", "same"), ("folder/y", "y"), ("file", "z")],
        );
        let outside = bench.0.path().join("outside");
        fs::create_dir(&outside).expect("it can be made");
        symlink(&outside, bench.to().join("out")).expect("it can be made");
        let left = [
            "file: there is a file that forge has not published",
            "folder: there is a folder",
            "mine.txt: there is a file that forge has not published",
            "out: there is a file that forge has not published",
        ];
        let done = bench.publish().expect("it works");
        assert_eq!(done, Done { written: 2, equal: 1, left: left.map(str::to_owned).into() });
        assert_eq!(fs::read_dir(&outside).expect("it can be read").count(), 0);

        // What was the same by chance did not become the launcher's.
        bench.release(&[("same.txt", "next"), ("edited", "next!"), ("name with % and \n", "y")]);
        put(&bench.to().join("edited"), "mine!");
        let done = bench.publish().expect("it works");
        let left = [
            "edited: the published file was changed by somebody",
            "same.txt: there is a file that forge has not published",
        ];
        assert_eq!(done, Done { written: 1, equal: 0, left: left.map(str::to_owned).into() });
        let volume = bench.volume();
        assert_eq!((volume["edited"].as_str(), volume["same.txt"].as_str()), ("mine!", "same"));
        assert_eq!(volume["name with % and \n"], "y");
    }

    #[test]
    fn links_and_modes() {
        let bench = Bench::new(&[("a/real.js", "x"), ("run.sh", "x")], &[]);
        let from = bench.from();
        for (leads, name) in [
            ("real.js", "a/link.js"),
            ("../run.sh", "a/up.sh"),
            ("a", "folder"),
            ("/etc/passwd", "absolute"),
            ("../to", "out"),
            ("../../from/run.sh", "a/around"),
        ] {
            symlink(leads, from.join(name)).expect("it can be made");
        }
        fs::set_permissions(from.join("run.sh"), Permissions::from_mode(0o700)).expect("a mode");
        fs::set_permissions(from.join("a/real.js"), Permissions::from_mode(0o600)).expect("a mode");
        fs::set_permissions(from.join("a"), Permissions::from_mode(0o700)).expect("a mode");
        put(&from.join(PUBLISHED), "not ours");
        put(&from.join("a").join(format!("{NEW}x")), "not ours");
        let done = bench.publish().expect("it works");
        let left: Vec<&str> =
            done.left.iter().map(|left| left.split(':').next().unwrap()).collect();
        assert_eq!(left, [PUBLISHED, "a/.forge-new-x", "a/around", "absolute", "out"]);
        let expected = [
            ("a/real.js", "x"),
            ("run.sh", "x"),
            ("a/link.js", "-> real.js"),
            ("a/up.sh", "-> ../run.sh"),
            ("folder", "-> a"),
        ];
        assert_eq!(bench.volume(), map(&expected));
        let modes = || {
            ["run.sh", "a/real.js", "a", PUBLISHED].map(|name| {
                fs::metadata(bench.to().join(name)).expect("it is there").mode() & 0o7777
            })
        };
        assert_eq!(modes(), [0o755, 0o644, 0o755, 0o644]);
        // As if killed before the mode of a folder was set; and what is not a mode of ours.
        fs::set_permissions(bench.to().join("a"), Permissions::from_mode(0o700)).expect("a mode");
        fs::set_permissions(bench.to().join("run.sh"), Permissions::from_mode(0o600)).expect("one");
        assert_eq!(bench.publish().expect("it works").written, 0);
        assert_eq!(modes(), [0o755, 0o644, 0o755, 0o644]);

        // Link to file, file to link, file to folder.
        bench.release(&[("a/link.js", "file"), ("run.sh/x", "x"), ("folder/real.js", "x")]);
        symlink("link.js", from.join("a/real.js")).expect("it can be made");
        let done = bench.publish().expect("it works");
        assert_eq!((done.written, done.left), (4, BTreeSet::new()));
        assert!(!bench.to().join("folder").is_symlink());
        assert_eq!(bench.volume()["folder/real.js"], "x");
        assert_eq!(bench.volume()["a/real.js"], "-> link.js");
        assert_eq!(bench.volume()["a/link.js"], "file");
        assert_eq!(bench.volume()["run.sh/x"], "x");
    }

    #[test]
    fn killed_at_every_step() {
        let old = [("index.html", "old"), ("a/1.js", "1"), ("was", "file")];
        let new = [("index.html", "new!"), ("a/2.js", "2"), ("b/c/d", "d"), ("was/x", "x")];
        let newest = [("index.html", "newest"), ("a/2.js", "two"), ("b/c/e", "e"), ("was/x", "y")];
        let uploads = [("a/upload", "mine"), ("upload", "mine")];
        let mut kills = 0;
        // Killed in the second release, then that one again, or at once the third.
        for then in [&new[..], &newest] {
            for step in 0.. {
                let bench = Bench::new(&old, &uploads);
                bench.publish().expect("it works");
                bench.release(&new);
                symlink("a/2.js", bench.from().join("link")).expect("it can be made");
                let killed = bench.killed_at(step);
                for (name, text) in bench.volume() {
                    let whole = [&old[..], &new, &uploads, &[("link", "-> a/2.js")]].concat();
                    assert!(
                        whole.contains(&(name.as_str(), text.as_str())),
                        "step {step}: {name} is {text:?}"
                    );
                }
                // Uploads go on meanwhile.
                put(&bench.to().join("a/later"), "mine");
                bench.release(then);
                symlink("a/2.js", bench.from().join("link")).expect("it can be made");
                let done = bench.publish().expect("it works");
                assert_eq!(done.left, BTreeSet::new(), "step {step}");
                let volume = bench.volume();
                let expected = [then, &uploads, &[("a/later", "mine"), ("a/1.js", "1")]].concat();
                for (name, text) in expected {
                    assert_eq!(volume.get(name).map(String::as_str), Some(text), "{step} {name}");
                }
                let mut all = BTreeMap::new();
                walk(&bench.to(), "", &mut all);
                assert!(!all.keys().any(|name| name.contains(NEW)), "step {step}: {all:?}");
                assert_eq!(all[PUBLISHING], "", "step {step}");
                // All of it is known to be the launcher's: the release before comes back.
                bench.release(&old[..2]);
                assert_eq!(bench.publish().expect("it works").left, BTreeSet::new());
                assert_eq!(bench.volume()["index.html"], "old");
                if !killed {
                    break;
                }
                kills += 1;
            }
        }
        assert!(kills > 40, "{kills}");
    }

    /// Numbers that are the same each time.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: usize) -> usize {
            // Knuth's MMIX.
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % end
        }
    }

    /// Releases, kills and uploads in any order: no upload is ever changed, and after a run
    /// that ends all of the release is there but what uploads stand in the way of.
    #[test]
    fn any_history() {
        const NAMES: [&str; 8] = ["a", "b", "d/a", "d/b", "d/e/f", "e", "e/x", "f/y"];
        for seed in 0..60 {
            let mut numbers = Numbers(seed);
            let bench = Bench::new(&[], &[]);
            let mut uploads: BTreeMap<&str, String> = BTreeMap::new();
            for turn in 0..12 {
                // Of `e` and `e/x` only one can be.
                let other = if numbers.below(2) == 0 { "e" } else { "e/x" };
                let mut release: Vec<(&str, String)> = Vec::new();
                for name in NAMES {
                    if name != other && numbers.below(3) > 0 {
                        release.push((name, format!("release {}", numbers.below(3))));
                    }
                }
                let files: Vec<(&str, &str)> =
                    release.iter().map(|(name, text)| (*name, text.as_str())).collect();
                bench.release(&files);
                let killed = numbers.below(2) == 0 && bench.killed_at(numbers.below(30));
                if numbers.below(3) == 0 {
                    let name = NAMES[numbers.below(NAMES.len())];
                    let path = bench.to().join(name);
                    let free =
                        path.parent().is_some_and(|above| !above.is_file()) && !path.is_dir();
                    if free {
                        let text = format!("upload {seed} {turn}");
                        put(&path, &text);
                        uploads.insert(name, text);
                    }
                }
                let done = bench.publish().expect("it works");
                let volume = bench.volume();
                for (name, text) in &uploads {
                    assert_eq!(volume.get(*name), Some(text), "{seed} {turn} {name}: {killed}");
                }
                for (name, text) in &release {
                    let in_the_way = done.left.iter().any(|left| {
                        let left = left.split(':').next().unwrap_or_default();
                        Path::new(name).starts_with(left)
                    });
                    let there = volume.get(*name) == Some(text);
                    assert!(
                        there != in_the_way,
                        "{seed} {turn} {name}: {:?} {volume:?}",
                        done.left
                    );
                }
            }
        }
    }

    #[test]
    fn two_at_once() {
        let files: Vec<(String, String)> =
            (0..40).map(|i| (format!("d{}/f{i}", i % 3), format!("{i}").repeat(5000))).collect();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let bench = Bench::new(&files, &[]);
        let (from, to) = (bench.from(), bench.to());
        let written: usize = thread::scope(|scope| {
            let run = || {
                let publication = Publication {
                    from: &from,
                    to: &to,
                    tell: &|_| {},
                    step: &|| {},
                    stop: &|| false,
                };
                publish(&publication).expect("it works").written
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(written, 40, "the lock keeps them apart");
        assert_eq!(bench.volume(), map(&files));
    }

    #[test]
    fn trouble_is_told() {
        let told = |bench: &Bench| {
            let Trouble { action, path, source } = bench.publish().expect_err("it cannot");
            let path = path.strip_prefix(bench.0.path()).expect("below").display().to_string();
            format!("{action} {path}: {source}")
        };
        let bench = Bench::new(&[("a", "a")], &[(PUBLISHED, "forge published 2\n")]);
        assert!(told(&bench).ends_with("it is no list of this version of forge"));
        fs::remove_dir_all(bench.to()).expect("it can be removed");
        assert!(told(&bench).starts_with("read the folder to: No such file"));
        put(&bench.to(), "a file");
        assert!(told(&bench).starts_with("read the folder to: not a directory"));
        let bench = Bench::new(&[("a", "a")], &[]);
        fs::remove_dir_all(bench.to()).expect("it can be removed");
        symlink("from/inside", bench.to()).expect("it can be made");
        fs::create_dir(bench.from().join("inside")).expect("it can be made");
        assert!(told(&bench).contains("lie in each other"));
        let bench = Bench::new(&[("a", "a")], &[]);
        symlink("/dev/null", bench.to().join(PUBLISHING)).expect("it can be made");
        assert!(told(&bench).ends_with("it is no plain file"));
    }
}
