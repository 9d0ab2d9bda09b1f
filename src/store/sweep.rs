//! What keeps a store healthy: removing what nothing needs, finding damage.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Store, StoreError, Table, failed, scratch};
use crate::digest::Digest;
use crate::tree::Tree;

/// Whether a record is to be kept.
pub type KeepRecord<'k> = dyn Fn(Table, &Digest) -> Result<bool, StoreError> + 'k;

/// What a gc must leave.
pub struct Keep<'k> {
    /// Blobs.
    pub blobs: BTreeSet<Digest>,
    /// Trees.
    pub trees: BTreeSet<Digest>,
    /// Records.
    pub records: Box<KeepRecord<'k>>,
}

/// What a gc removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs, trees and records.
    pub files: u64,
    /// Bytes of the blobs and trees among them.
    pub bytes: u64,
}

/// One damaged thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it lies.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl Store {
    /// All roots: name and digest, sorted by name.
    ///
    /// # Errors
    /// The disk refused.
    pub fn roots(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        let folder = self.root().join("roots");
        let mut roots = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let path = entry.map_err(failed("read", &folder))?.path();
            let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
            if let Some((digest, name)) = text.trim_end().split_once(' ')
                && let Ok(digest) = digest.parse()
            {
                roots.push((name.to_owned(), digest));
            }
        }
        roots.sort();
        Ok(roots)
    }

    /// Removes every blob, tree and record that is not to be kept. The caller
    /// knows what is reachable, and is asked when nobody else has the store open;
    /// the store only knows how to remove.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another forge has the store open.
    pub fn gc<'k>(
        &self,
        keep: impl FnOnce() -> Result<Keep<'k>, StoreError>,
    ) -> Result<Swept, StoreError> {
        // Upgrading the shared lock: fails while anybody else holds it.
        if self.lock.try_lock().is_err() {
            return Err(StoreError::Busy { root: self.root().to_owned() });
        }
        let result = keep().and_then(|keep| self.remove_unneeded(&keep));
        self.lock.lock_shared().map_err(failed("lock", self.root()))?;
        result
    }

    fn remove_unneeded(&self, keep: &Keep<'_>) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        // Records first: a record never outlives what it names.
        for table in Table::ALL {
            for (path, key) in self.named(&self.root().join("records").join(table.folder()), "")? {
                if !(keep.records)(table, &key)? {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                    swept.files += 1;
                }
            }
        }
        for (path, digest) in self.named(&self.root().join("trees"), ".tree")? {
            if !keep.trees.contains(&digest) {
                swept.bytes += self.read_tree(&digest).map_or(0, |tree| tree.size());
                swept.files += 1;
                // The list first: without it the tree counts as absent.
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        for (path, digest) in self.named(&self.root().join("trees"), "")? {
            if !self.has_tree(&digest) {
                scratch::remove_tree(&path).map_err(failed("remove", &path))?;
            }
        }
        for (path, digest) in self.named(&self.root().join("blobs"), "")? {
            if !keep.blobs.contains(&digest) {
                swept.bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
                swept.files += 1;
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        for (path, _) in self.named(&self.root().join("locks"), "")? {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(swept)
    }

    /// Reads everything and lists what is not what its name says.
    ///
    /// # Errors
    /// A folder of the store cannot be read.
    pub fn verify(&self) -> Result<Vec<Damage>, StoreError> {
        let mut damage = Vec::new();
        for (path, digest) in self.named(&self.root().join("blobs"), "")? {
            let mut blob = self.open_blob(&digest)?;
            if let Err(error) = std::io::copy(&mut blob, &mut std::io::sink()) {
                damage.push(Damage { path, problem: error.to_string() });
            }
        }
        for (path, digest) in self.named(&self.root().join("trees"), ".tree")? {
            let folder = self.tree_path(&digest);
            let listed = self.read_tree(&digest);
            match Tree::scan(&folder) {
                Ok(found) if found.digest() == digest => {}
                Ok(found) if listed.as_ref().is_ok_and(|listed| is_as_listed(&found, listed)) => {}
                Ok(found) => {
                    let problem = format!("its content is now {}", found.digest());
                    damage.push(Damage { path: folder, problem });
                }
                Err(error) => damage.push(Damage { path: folder, problem: error.to_string() }),
            }
            if let Err(error) = listed {
                damage.push(Damage { path, problem: error.to_string() });
            }
        }
        for table in Table::ALL {
            for (path, key) in self.named(&self.root().join("records").join(table.folder()), "")? {
                let problem = if table.holds_bytes() {
                    match self.bytes(table, &key) {
                        Ok(Some(_)) => None,
                        Ok(None) => Some("its bytes have changed".to_owned()),
                        Err(error) => Some(error.to_string()),
                    }
                } else {
                    self.get::<serde_json::Value>(table, &key).err().map(|error| error.to_string())
                };
                damage.extend(problem.map(|problem| Damage { path, problem }));
            }
        }
        Ok(damage)
    }

    /// Removes a damaged thing. Of a tree, list and folder go together: with only one of them
    /// it would count as whole, or never be found again. What is gone already is as it
    /// should be.
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove_damaged(&self, damage: &Damage) -> Result<(), StoreError> {
        let path = &damage.path;
        if path.parent() != Some(&self.root().join("trees")) {
            return remove(path);
        }
        // The list first: without it the tree counts as absent.
        remove(&path.with_extension("tree"))?;
        remove(&path.with_extension(""))
    }

    /// The entries of a folder that are named by a digest and `ending`, sorted.
    pub(super) fn named(
        &self,
        folder: &Path,
        ending: &str,
    ) -> Result<Vec<(PathBuf, Digest)>, StoreError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
            let entry = entry.map_err(failed("read", folder))?;
            let name = entry.file_name();
            if let Some(hex) = name.to_str().and_then(|name| name.strip_suffix(ending))
                && let Ok(digest) = Digest::from_hex(hex)
            {
                found.push((entry.path(), digest));
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Removes a file or folder, if it is there.
fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => scratch::remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether a folder holds what a list says. Files that are two by the list may be two names of
/// one in a joined tree: where one was taken of what another input was made of, too.
pub(super) fn is_as_listed(found: &Tree, listed: &Tree) -> bool {
    found.with_files_apart() == listed.with_files_apart()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What `verify` finds and `remove_damaged` removes after `harm` to a tree (its list, its
    /// folder) and a blob: the problems that are left, and whether the tree counts as there.
    #[track_caller]
    fn check(harm: impl Fn(&Path, &Path, &Path), expected: usize) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("opens");
        let blob = store.write_blob(b"bytes").expect("written");
        let scratch = store.scratch("t").expect("scratch");
        let out = scratch.path().join("out");
        fs::create_dir_all(out.join("shut")).expect("mkdir");
        fs::write(out.join("shut/file"), "x").expect("write");
        let (digest, _) = store.keep_tree(&out).expect("kept");
        let tree = store.tree_path(&digest);
        let list = tree.with_extension("tree");
        harm(&list, &tree, &store.blob_path(&blob));
        let damage = store.verify().expect("verifies");
        assert_eq!(damage.len(), expected, "{damage:?}");
        for found in &damage {
            store.remove_damaged(found).expect("removed");
        }
        assert_eq!(store.verify().expect("verifies"), []);
        assert!(!store.has_tree(&digest) && !tree.exists());
    }

    #[test]
    fn a_list_without_its_folder() {
        check(|_, tree, _| fs::remove_dir_all(tree).expect("removed"), 1);
    }

    #[test]
    fn list_and_folder_damaged() {
        let harm = |list: &Path, tree: &Path, _: &Path| {
            fs::write(list, "no list").expect("written");
            fs::write(tree.join("shut/file"), "y").expect("written");
            // Steps leave folders that nobody may write into.
            fs::set_permissions(tree.join("shut"), fs::Permissions::from_mode(0o555))
                .expect("chmod");
        };
        check(harm, 2);
    }

    #[test]
    fn a_damaged_list_takes_its_folder_along() {
        check(|list, _, _| fs::write(list, "no list").expect("written"), 1);
    }

    #[test]
    fn a_file_in_place_of_the_folder() {
        let harm = |_: &Path, tree: &Path, blob: &Path| {
            fs::remove_dir_all(tree).expect("removed");
            fs::write(tree, "").expect("written");
            fs::remove_file(blob).expect("removed");
            fs::write(blob, "other").expect("written");
        };
        check(harm, 2);
    }
}
