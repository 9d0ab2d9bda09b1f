//! The content-addressed store: finished things on this machine, by name.
//!
//! ```text
//! <root>/
//!   version                 the layout number; another one refuses to open
//!   lock                    held shared by every open store, exclusively by gc
//!   blobs/<hex>             immutable bytes: layers, downloads, manifests
//!   trees/<hex>/            an unpacked output, read only by convention
//!   trees/<hex>.tree        its sorted list; there only when the tree is whole
//!   records/<table>/<hex>   small values by key, as JSON, or bytes of their writer's own
//!   roots/<name>            one line naming a record; what gc keeps
//!   logs/<key>.log          what a step printed when it last ran
//!   downloads/<name>/       what fetch steps share, by hash
//!   locks/<hex>             one per key that is being built
//!   tmp/<name>              scratch of running builds, swept when its owner is gone
//! ```
//!
//! - A name is written last, by rename after a sync, so that a reader sees all
//!   of a thing or none of it, also after a power loss.
//! - Everything is under one file system, so renames never copy.
//! - Nothing here knows what a step, a layer or an image is.

mod blobs;
mod records;
mod scratch;
mod sweep;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::digest::{Digest, Fields};
use crate::memory;
use crate::tree::{Tree, TreeError};

pub use blobs::{Checked, NewBlob};
pub use records::Table;
pub use scratch::Scratch;
pub use sweep::{Damage, Keep, Swept};

/// The layout number. Changing it makes older stores unreadable to this
/// program: say so in the changelog.
const VERSION: &str = "forge store 1\n";

/// A store that is open; holds a shared lock until dropped.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lock: File,
}

/// What can go wrong with a store.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk refused.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done, as a verb: `read`, `write`, `lock`.
        action: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder with other things in it.
    #[error("`{}` is not a store of forge: it holds `{stranger}`", root.display())]
    NotAStore {
        /// The folder.
        root: PathBuf,
        /// Something in it.
        stranger: String,
    },
    /// Another layout.
    #[error("`{}` is not a store of this version of forge: its `version` file says {found:?}", root.display())]
    Version {
        /// The store's folder.
        root: PathBuf,
        /// What the version file holds.
        found: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{what} should have digest {expected} but has {found}")]
    Mismatch {
        /// What was read.
        what: String,
        /// The name it was to have.
        expected: Digest,
        /// The name of the bytes that came.
        found: Digest,
    },
    /// An output that cannot be kept.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A record that is not what this program wrote.
    #[error("record `{}` is damaged", path.display())]
    Record {
        /// The record's file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Another forge uses the store, so nothing can be removed now.
    #[error("the store `{}` is in use by another forge", root.display())]
    Busy {
        /// The store's folder.
        root: PathBuf,
    },
}

/// Writes what a file is to hold; asked twice where it holds something else, it writes the same.
type Content<'c> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'c;

/// Bytes of a file that are in memory at once.
const AT_ONCE: usize = 64 << 10;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// The folders of a store.
const FOLDERS: [&str; 7] = ["blobs", "trees", "roots", "locks", "tmp", "records", "logs"];

/// A folder without version file may hold only what a forge that was killed while
/// it made the store has left.
fn refuse_strangers(root: &Path) -> Result<(), StoreError> {
    // `version` itself may have been written by another forge since the caller looked.
    const FILES: [&str; 3] = ["lock", "version", "downloads"];
    for entry in fs::read_dir(root).map_err(failed("read", root))? {
        let name = entry.map_err(failed("read", root))?.file_name();
        if !FILES.iter().chain(&FOLDERS).any(|own| name == *own) {
            let stranger = name.to_string_lossy().into_owned();
            return Err(StoreError::NotAStore { root: root.to_owned(), stranger });
        }
    }
    Ok(())
}

impl Store {
    /// Opens the store at `root`, making it when there is none, and removes what
    /// killed builds have left.
    ///
    /// # Errors
    /// A folder that cannot be used, or that another version of forge laid out.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        // Private to its owner: step outputs may be readable to others otherwise.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(failed("make", root))?;
        let root = root.canonicalize().map_err(failed("find", root))?;
        let version = root.join("version");
        if !version.exists() {
            refuse_strangers(&root)?;
        }
        let lock_path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        let store = Store { root, lock };
        if !version.exists() {
            // One forge makes the store, the others wait for it.
            store.lock.lock().map_err(failed("lock", &lock_path))?;
            store.lay_out(&version)?;
            store.lock.unlock().map_err(failed("unlock", &lock_path))?;
        }
        store.lock.lock_shared().map_err(failed("lock", &lock_path))?;
        memory::keep_in(&store.root.join("tmp"));
        let found = fs::read_to_string(&version).map_err(failed("read", &version))?;
        if found != VERSION {
            return Err(StoreError::Version { root: store.root.clone(), found });
        }
        for table in Table::ALL {
            store.make_folder(&store.root.join("records").join(table.folder()))?;
        }
        store.sweep_scratch()?;
        Ok(store)
    }

    /// Makes the folders of a new store, or those that a killed forge did not get
    /// to, and last the version file.
    fn lay_out(&self, version: &Path) -> Result<(), StoreError> {
        if version.exists() {
            return Ok(());
        }
        for folder in FOLDERS {
            self.make_folder(&self.root.join(folder))?;
        }
        self.write_atomically(version, &|to| to.write_all(VERSION.as_bytes()))
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn make_folder(&self, path: &Path) -> Result<(), StoreError> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed("make", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Where a tree is unpacked, whether it is there or not.
    #[must_use]
    pub fn tree_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("trees").join(digest.hex())
    }

    fn tree_list_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("trees").join(format!("{}.tree", digest.hex()))
    }

    /// Whether the whole tree is here.
    #[must_use]
    pub fn has_tree(&self, digest: &Digest) -> bool {
        self.tree_list_path(digest).exists()
    }

    /// The list of a tree that is here, checked against its name.
    ///
    /// # Errors
    /// The tree is absent or its list damaged.
    pub fn read_tree(&self, digest: &Digest) -> Result<Tree, StoreError> {
        let path = self.tree_list_path(digest);
        let file = File::open(&path).map_err(failed("read", &path))?;
        let tree = Tree::read_from(BufReader::with_capacity(AT_ONCE, file), &path)?;
        let found = tree.digest();
        if found == *digest {
            Ok(tree)
        } else {
            Err(StoreError::Mismatch { what: path.display().to_string(), expected: *digest, found })
        }
    }

    /// Takes over a folder of this store's scratch as a tree: stamps its times,
    /// strips set-user-id bits, hashes it, and moves it to its name.
    ///
    /// # Errors
    /// An entry that may not be in an output; a disk that refuses. The folder is
    /// then left where it was.
    pub fn keep_tree(&self, folder: &Path) -> Result<(Digest, Tree), StoreError> {
        scratch::normalise(folder)?;
        let tree = Tree::scan(folder)?;
        Ok((self.keep_listed(folder, &tree)?, tree))
    }

    /// Takes over a folder of links to files of trees that are kept here: `tree` is what is in
    /// it, so that nothing is looked at or hashed again. Modes are those of `tree` already.
    ///
    /// # Errors
    /// As [`Store::keep_tree`].
    pub fn keep_joined_tree(&self, folder: &Path, tree: &Tree) -> Result<Digest, StoreError> {
        debug_assert!(Tree::scan(folder).is_ok_and(|found| sweep::is_as_listed(&found, tree)));
        scratch::stamp_new(folder, tree)?;
        self.keep_listed(folder, tree)
    }

    fn keep_listed(&self, folder: &Path, tree: &Tree) -> Result<Digest, StoreError> {
        let digest = tree.digest();
        // From the check to the list, so that nobody moves away what another has
        // just put there.
        let _held = self.lock_key(&Fields::new("forge-keep").digest(&digest).finish(), || {})?;
        if !self.has_tree(&digest) {
            // One sync for all files instead of one each: thousands of fsyncs
            // cost minutes on a spinning disk.
            let handle = File::open(folder).map_err(failed("open", folder))?;
            rustix::fs::syncfs(&handle).map_err(|error| failed("sync", folder)(error.into()))?;
            let target = self.tree_path(&digest);
            match fs::rename(folder, &target) {
                Ok(()) => {}
                // Left by a build that was killed between this rename and the
                // list, or put there by another build just now: same content.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                    ) =>
                {
                    if !self.has_tree(&digest) {
                        let trash = self.scratch("trash")?;
                        fs::rename(&target, trash.path().join("old"))
                            .map_err(failed("move", &target))?;
                        fs::rename(folder, &target).map_err(failed("move", folder))?;
                    }
                }
                Err(error) => return Err(failed("move", folder)(error)),
            }
            self.write_atomically(&self.tree_list_path(&digest), &|to| tree.write_to(to))?;
        }
        Ok(digest)
    }

    /// Names a digest so that gc keeps what it stands for. `name` may hold any
    /// characters; it is hashed into a file name.
    ///
    /// # Errors
    /// The disk refused.
    pub fn set_root(&self, name: &str, digest: &Digest) -> Result<(), StoreError> {
        let path = self.root.join("roots").join(Digest::of(name.as_bytes()).hex());
        self.write_atomically(&path, &|to| writeln!(to, "{digest} {name}"))
    }

    /// The digest that a root names, or `None`.
    ///
    /// # Errors
    /// The disk refused.
    pub fn root_digest(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        let path = self.root.join("roots").join(Digest::of(name.as_bytes()).hex());
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.split(' ').next().and_then(|word| word.parse().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Waits until no other thread or process holds `key`, then holds it.
    /// `waiting` is called once if that takes a wait.
    ///
    /// # Errors
    /// The lock file cannot be used.
    pub fn lock_key(&self, key: &Digest, waiting: impl FnOnce()) -> Result<KeyLock, StoreError> {
        let path = self.root.join("locks").join(key.hex());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().map_err(failed("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        Ok(KeyLock { _file: file })
    }

    /// Writes aside, syncs, renames, syncs the folder: after a power loss the
    /// file has its old content or its new one. One that has this content already is left:
    /// syncing it once more is most of what a build without changes would wait for.
    fn write_atomically(&self, path: &Path, content: &Content<'_>) -> Result<(), StoreError> {
        if is_there(path, content) {
            return Ok(());
        }
        let tmp = self.root.join("tmp");
        let file = tempfile::Builder::new()
            .prefix("file-")
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(&tmp)
            .map_err(failed("write", &tmp))?;
        let mut writer = BufWriter::with_capacity(AT_ONCE, file.as_file());
        content(&mut writer)
            .and_then(|()| writer.flush())
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed("write", path))?;
        drop(writer);
        file.persist(path).map_err(|error| failed("write", path)(error.error))?;
        sync_parent(path)
    }
}

/// Whether a file holds just this.
fn is_there(path: &Path, content: &Content<'_>) -> bool {
    // Not all at once: there may be much of it.
    File::open(path).is_ok_and(|file| {
        let mut same = Same { file: BufReader::with_capacity(AT_ONCE, file) };
        content(&mut same).is_ok()
            && same.file.fill_buf().is_ok_and(|left_over| left_over.is_empty())
    })
}

/// Takes what a file holds, and nothing else.
struct Same {
    file: BufReader<File>,
}

impl Write for Same {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let there = self.file.fill_buf()?;
        let length = there.len().min(bytes.len());
        if there[..length] != bytes[..length] || length == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.file.consume(length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

/// Held while a key is being built; freed on drop and at process death.
#[derive(Debug)]
pub struct KeyLock {
    _file: File,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("opens");
        (folder, store)
    }

    #[test]
    fn blob_round_trip_and_refusal() {
        let (_folder, store) = store();
        let digest = store.write_blob(b"bytes").expect("written");
        assert_eq!(store.read_blob(&digest).expect("read"), b"bytes");
        let mut other = store.new_blob().expect("new");
        other.write_all(b"other").expect("write");
        assert!(matches!(other.keep(Some((&digest, "x"))), Err(StoreError::Mismatch { .. })));
        assert_eq!(store.blob_size(&Digest::of(b"other")).expect("size"), None);
    }

    #[test]
    fn what_is_there_already_is_left_and_all_else_replaced() {
        use std::os::unix::fs::MetadataExt;
        let (_folder, store) = store();
        let key = Digest::of(b"key");
        let path = store.record_path(Table::Runs, &key);
        let long = vec![b'x'; 3 * AT_ONCE];
        let mut other = long.clone();
        other[2 * AT_ONCE + 5] = b'y';
        // Of the same length, shorter, longer, and none.
        for bytes in [&long[..], &other, &long[..AT_ONCE], &long, b"one", b"two", b"", b"x"] {
            let put = || {
                store.put_bytes(Table::Runs, &key, &|to| to.write_all(bytes)).expect("put");
                fs::metadata(&path).expect("there").ino()
            };
            let first = put();
            let kept = store.bytes(Table::Runs, &key).expect("read").expect("whole");
            assert_eq!(kept.part(0..kept.len()), bytes);
            assert_eq!(put(), first, "the same is not written again");
        }
        // What another begins with.
        for value in [12, 1] {
            store.put(Table::Outputs, &key, &value).expect("put");
            assert_eq!(store.get(Table::Outputs, &key).expect("read"), Some(value));
        }
    }

    #[test]
    fn what_is_new_in_a_joined_tree_is_stamped() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let (_folder, store) = store();
        let scratch = store.scratch("t").expect("scratch");
        let root = scratch.path().join("out");
        fs::create_dir_all(root.join("a/b")).expect("mkdir");
        symlink("b", root.join("a/link")).expect("linked");
        let tree = Tree::scan(&root).expect("scan");
        let digest = store.keep_joined_tree(&root, &tree).expect("kept");
        assert_eq!(store.read_tree(&digest).expect("list"), tree);
        for path in ["", "a", "a/b", "a/link"] {
            let there = fs::symlink_metadata(store.tree_path(&digest).join(path)).expect("there");
            assert_eq!(there.mtime(), crate::tree::STAMP, "{path}");
        }
    }

    #[test]
    fn a_flipped_byte_is_noticed() {
        let (_folder, store) = store();
        let digest = store.write_blob(b"bytes").expect("written");
        let path = store.blob_path(&digest);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, b"bytez").expect("written");
        assert!(matches!(store.read_blob(&digest), Err(StoreError::Mismatch { .. })));
        assert_eq!(store.verify().expect("verifies").len(), 1);
    }

    #[test]
    fn trees_are_stamped_and_named() {
        let (_folder, store) = store();
        let mut digests = Vec::new();
        for _ in 0..2 {
            let scratch = store.scratch("t").expect("scratch");
            let root = scratch.path().join("out");
            fs::create_dir_all(root.join("a")).expect("mkdir");
            fs::write(root.join("a/f"), "x").expect("write");
            fs::set_permissions(root.join("a/f"), fs::Permissions::from_mode(0o4755))
                .expect("chmod");
            let (digest, _) = store.keep_tree(&root).expect("kept");
            digests.push(digest);
        }
        assert_eq!(digests[0], digests[1]);
        let file = fs::metadata(store.tree_path(&digests[0]).join("a/f")).expect("there");
        assert_eq!(file.permissions().mode() & 0o7777, 0o755);
        assert_eq!(std::os::unix::fs::MetadataExt::mtime(&file), crate::tree::STAMP);
        assert_eq!(store.read_tree(&digests[0]).expect("list").len(), 2);
    }

    #[test]
    fn half_a_tree_is_replaced() {
        let (_folder, store) = store();
        let make = |text: &str| {
            let scratch = store.scratch("t").expect("scratch");
            let root = scratch.path().join("out");
            fs::create_dir_all(&root).expect("mkdir");
            fs::write(root.join("f"), text).expect("write");
            store.keep_tree(&root).expect("kept").0
        };
        let digest = make("x");
        fs::remove_file(store.tree_list_path(&digest)).expect("killed before the list was written");
        fs::write(store.tree_path(&digest).join("f"), "torn").expect("write");
        assert!(!store.has_tree(&digest));
        assert_eq!(make("x"), digest);
        assert_eq!(fs::read(store.tree_path(&digest).join("f")).expect("read"), b"x");
    }

    #[test]
    fn another_layout_is_refused() {
        let (folder, store) = store();
        drop(store);
        fs::write(folder.path().join("store/version"), "forge store 99\n").expect("write");
        assert!(matches!(
            Store::open(&folder.path().join("store")),
            Err(StoreError::Version { .. })
        ));
        fs::create_dir(folder.path().join("home")).expect("mkdir");
        fs::write(folder.path().join("home/letter"), "").expect("write");
        assert!(matches!(
            Store::open(&folder.path().join("home")),
            Err(StoreError::NotAStore { .. })
        ));
        assert!(!folder.path().join("home/lock").exists());
    }

    #[test]
    fn many_may_make_the_store_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("store");
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| Store::open(&root).expect("opens"));
            }
        });
    }

    #[test]
    fn scratch_of_the_dead_is_swept_and_of_the_living_kept() {
        let (folder, store) = store();
        let alive = store.scratch("alive").expect("scratch");
        let dead = store.root().join("tmp/dead-1");
        fs::create_dir(&dead).expect("mkdir");
        fs::write(dead.join("file"), "").expect("write");
        let again = Store::open(&folder.path().join("store")).expect("opens");
        assert!(alive.path().exists());
        assert!(!dead.exists());
        drop(again);
    }

    #[test]
    fn gc_keeps_what_a_root_needs() {
        let (_folder, store) = store();
        let kept = store.write_blob(b"kept").expect("written");
        let gone = store.write_blob(b"gone").expect("written");
        let swept = store
            .gc(|| {
                Ok(Keep {
                    blobs: BTreeSet::from([kept]),
                    trees: BTreeSet::new(),
                    records: Box::new(|_, _| Ok(true)),
                })
            })
            .expect("sweeps");
        assert_eq!(swept.files, 1);
        assert!(store.blob_size(&kept).expect("size").is_some());
        assert!(store.blob_size(&gone).expect("size").is_none());
    }
}
