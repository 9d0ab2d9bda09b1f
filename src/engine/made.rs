//! Trees that no step has to run for: files that forge makes itself, and outputs
//! that are pinned in `forge.lock`.

use std::collections::BTreeMap;

use super::{Engine, EngineError, State};
use crate::digest::Digest;
use crate::plan::key::pin_key;
use crate::plan::{Action, MadeFile, Step};
use crate::tree::{Node, Tree};

impl Engine<'_> {
    /// The tree of a step that is pinned in the lock, made from it.
    pub(super) fn pinned(&self, state: &State, step: &Step) -> Result<Option<Digest>, EngineError> {
        if !step.pinned {
            return Ok(None);
        }
        let key = pin_key(step, self.platform, &self.source_inputs(state, step));
        let pinned = self.lock().pin(&step.name, &key);
        let Some(files) = pinned else { return Ok(None) };
        let is_output = |path: &str| {
            step.outputs.iter().any(|output| {
                path.strip_prefix(&output.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        if let Some(path) = files.keys().find(|path| !is_output(path)) {
            return Err(EngineError::PinnedElsewhere {
                step: step.name.clone(),
                path: path.clone(),
            });
        }
        let files = files
            .into_iter()
            .map(|(path, text)| {
                (path, MadeFile::File { content: text.into_bytes().into(), mode: 0o644 })
            })
            .collect();
        self.write_made(&files).map(Some)
    }

    pub(super) fn write_made(
        &self,
        files: &BTreeMap<String, MadeFile>,
    ) -> Result<Digest, EngineError> {
        let tree = made_tree(files).digest();
        if self.store.has_tree(&tree) {
            return Ok(tree);
        }
        let scratch = self.store.scratch("files")?;
        let folder = scratch.path().join("out");
        write_files(files, &folder).map_err(|source| EngineError::Io {
            action: "write",
            path: folder.clone(),
            source,
        })?;
        Ok(self.store.keep_tree(&folder)?.0)
    }

    /// The files of a pinned step's output, as text.
    pub(super) fn texts(
        &self,
        step: &Step,
        tree: &Digest,
    ) -> Result<BTreeMap<String, String>, EngineError> {
        let list = self.store.read_tree(tree)?;
        let root = self.store.tree_path(tree);
        let mut texts = BTreeMap::new();
        for (path, node) in list.iter() {
            if matches!(node, Node::File { .. }) {
                let path = String::from_utf8_lossy(path).into_owned();
                let full = root.join(&path);
                let text = std::fs::read_to_string(&full).map_err(|source| EngineError::Io {
                    action: "read the pinned file",
                    path: full,
                    source,
                })?;
                texts.insert(path, text);
            } else if !matches!(node, Node::Directory { .. }) {
                return Err(EngineError::OutputMissing {
                    step: step.name.clone(),
                    path: "only plain files".to_owned(),
                });
            }
        }
        Ok(texts)
    }

    pub(super) fn source_inputs(&self, state: &State, step: &Step) -> Vec<Digest> {
        step.root
            .iter()
            .map(|name| self.index(name))
            .filter(|index| matches!(self.plan.steps[*index].action, Action::Source { .. }))
            .filter_map(|index| state.trees[index].get().copied())
            .collect()
    }
}

/// The tree of files that forge makes itself, without writing them.
pub(super) fn made_tree(files: &BTreeMap<String, MadeFile>) -> Tree {
    let made = files.iter().map(|(path, file)| {
        let node = match file {
            MadeFile::File { content, mode } => {
                let size = content.bytes().len() as u64;
                Node::File { mode: *mode, size, digest: content.digest() }
            }
            MadeFile::Link { target } => Node::Symlink { target: target.as_bytes() },
            MadeFile::Folder { mode } => Node::Directory { mode: *mode, opaque: false },
        };
        (path, node)
    });
    made.collect::<Tree>().with_parents()
}

fn write_files(
    files: &BTreeMap<String, MadeFile>,
    folder: &std::path::Path,
) -> std::io::Result<()> {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    let make = |path: &std::path::Path| -> std::io::Result<()> {
        let mut missing = Vec::new();
        let mut next = Some(path);
        while let Some(path) = next.filter(|path| !path.exists()) {
            missing.push(path);
            next = path.parent();
        }
        for path in missing.into_iter().rev() {
            fs::create_dir(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    };
    make(folder)?;
    for (path, file) in files {
        let full = folder.join(path);
        if let Some(parent) = full.parent() {
            make(parent)?;
        }
        match file {
            MadeFile::File { content, mode } => {
                fs::write(&full, content.bytes())?;
                fs::set_permissions(&full, fs::Permissions::from_mode(*mode))?;
            }
            MadeFile::Link { target } => std::os::unix::fs::symlink(target, &full)?,
            MadeFile::Folder { mode } => {
                make(&full)?;
                fs::set_permissions(&full, fs::Permissions::from_mode(*mode))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_files_are_what_the_tree_says() {
        let files = BTreeMap::from([
            ("a/b/file".to_owned(), MadeFile::File { content: b"x".into(), mode: 0o755 }),
            ("a/link".to_owned(), MadeFile::Link { target: "b/file".to_owned() }),
            ("a/c".to_owned(), MadeFile::Folder { mode: 0o1777 }),
        ]);
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("out");
        write_files(&files, &root).expect("written");
        assert_eq!(Tree::scan(&root).expect("scan"), made_tree(&files));
    }
}
