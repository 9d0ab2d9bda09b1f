//! Takes files of inputs as they are: one of many downloads, or several outputs
//! joined to one. Nothing runs, and no byte is copied: files are linked.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Engine, EngineError};
use crate::digest::Digest;
use crate::plan::Step;
use crate::source::matcher;
use crate::tree::{Node, Tree};

/// Files that one processor links: neighbours, as two in one folder wait for each other.
const AT_ONCE: usize = 512;

/// Path → the input that has it, and what it has there.
type Union = BTreeMap<Vec<u8>, (usize, Node)>;

impl Engine<'_> {
    pub(super) fn take(
        &self,
        step: &Step,
        inputs: &[Digest],
        patterns: &[String],
    ) -> Result<(Digest, Tree), EngineError> {
        let mut union = Union::new();
        for (input, tree) in inputs.iter().enumerate() {
            stack(&mut union, input, self.store.read_tree(tree)?);
        }
        let matcher = matcher("a step's `take`", patterns.iter().map(String::as_str))?;
        let taken = |path: &[u8], folder: bool| {
            let path = Path::new(OsStr::from_bytes(path));
            matcher.matched_path_or_any_parents(path, folder).is_ignore()
        };
        keep_taken(&mut union, taken);
        let scratch = self.scratch(step)?;
        let out = scratch.path().join("out");
        let roots: Vec<_> = inputs.iter().map(|tree| self.store.tree_path(tree)).collect();
        write(&union, |input| &roots[input], &out).map_err(|source| EngineError::Io {
            action: "write",
            path: out.clone(),
            source,
        })?;
        // Of a file that has several names, whichever comes first.
        let known = |path: &[u8]| match union.get(path) {
            Some((_, Node::File { digest, .. })) => Some(*digest),
            _ => None,
        };
        Ok(self.store.keep_linked_tree(&out, &known)?)
    }
}

/// Puts an input over those before it, as an overlay would.
fn stack(union: &mut Union, input: usize, list: Tree) {
    for (path, node) in list.entries {
        let folder = matches!(node, Node::Directory { .. });
        let hides = !folder || matches!(node, Node::Directory { opaque: true, .. });
        if hides {
            remove_below(union, &path);
        }
        let node = match node {
            Node::Whiteout => {
                union.remove(&path);
                continue;
            }
            Node::Directory { mode, .. } => Node::Directory { mode, opaque: false },
            // The first name, which came before, may not be taken, or be another file above.
            Node::HardLink { to } => match union.get(&to) {
                Some((from, file)) if *from == input => file.clone(),
                _ => continue,
            },
            other => other,
        };
        union.insert(path, (input, node));
    }
}

/// Leaves what is `taken`, and the folders that lead to it, as they are.
fn keep_taken(union: &mut Union, taken: impl Fn(&[u8], bool) -> bool) {
    let mut folders = BTreeSet::new();
    let mut is_taken = Vec::with_capacity(union.len());
    for (path, (_, node)) in &*union {
        let taken = taken(path, matches!(node, Node::Directory { .. }));
        is_taken.push(taken);
        let mut rest = path.as_slice();
        while taken && let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
            rest = &rest[..slash];
            // Where it is known, those above are.
            if folders.contains(rest) {
                break;
            }
            folders.insert(rest.to_vec());
        }
    }
    let mut is_taken = is_taken.into_iter();
    union.retain(|path, _| is_taken.next() == Some(true) || folders.contains(path));
}

fn remove_below(union: &mut Union, path: &[u8]) {
    let mut first = path.to_vec();
    first.push(b'/');
    let below: Vec<Vec<u8>> = union
        .range(first.clone()..)
        .take_while(|(path, _)| path.starts_with(&first))
        .map(|(path, _)| path.clone())
        .collect();
    for path in below {
        union.remove(&path);
    }
}

fn write<'a>(
    union: &Union,
    root: impl Fn(usize) -> &'a PathBuf + Sync,
    out: &Path,
) -> std::io::Result<()> {
    fs::create_dir(out)?;
    fs::set_permissions(out, fs::Permissions::from_mode(0o755))?;
    let mut files = Vec::with_capacity(union.len());
    for (path, (input, node)) in union {
        let path = Path::new(OsStr::from_bytes(path));
        match node {
            // A folder comes before what is in it, and none is left out.
            Node::Directory { .. } => fs::create_dir_all(out.join(path))?,
            Node::Symlink { target } => symlink(OsStr::from_bytes(target), out.join(path))?,
            Node::File { .. } => files.push((*input, path)),
            // `stack` leaves neither of them.
            Node::HardLink { .. } | Node::Whiteout => {}
        }
    }
    files
        .into_par_iter()
        .with_min_len(AT_ONCE)
        .try_for_each(|(input, path)| fs::hard_link(root(input).join(path), out.join(path)))?;
    // Last, as a folder may be one that nobody may write into.
    for (path, (_, node)) in union.iter().rev() {
        if let Node::Directory { mode, .. } = node {
            let to = out.join(OsStr::from_bytes(path));
            fs::set_permissions(&to, fs::Permissions::from_mode(*mode))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, Node)]) -> Tree {
        let mut tree = Tree::default();
        for (path, node) in entries {
            tree.entries.insert(path.as_bytes().to_vec(), node.clone());
        }
        tree.add_parents();
        tree
    }

    fn file(content: &str) -> Node {
        Node::File {
            mode: 0o644,
            size: content.len() as u64,
            digest: Digest::of(content.as_bytes()),
        }
    }

    fn select(lists: &[Tree], taken: impl Fn(&[u8], bool) -> bool) -> Union {
        let mut union = Union::new();
        for (input, list) in lists.iter().enumerate() {
            stack(&mut union, input, list.clone());
        }
        keep_taken(&mut union, taken);
        union
    }

    #[track_caller]
    fn check(lists: &[Tree], taken: &str, expected: &[&str]) {
        let union = select(lists, |path, _| path.starts_with(taken.as_bytes()));
        let found: Vec<String> = union
            .iter()
            .map(|(path, (input, _))| format!("{} {input}", String::from_utf8_lossy(path)))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_last_input_counts_and_hides() {
        let below = tree(&[("a/x", file("1")), ("a/y", file("1")), ("b/z", file("1"))]);
        check(
            &[below.clone(), tree(&[("a/x", file("2"))])],
            "",
            &["a 1", "a/x 1", "a/y 0", "b 0", "b/z 0"],
        );
        check(
            &[below.clone(), tree(&[("a/x", Node::Whiteout)])],
            "",
            &["a 1", "a/y 0", "b 0", "b/z 0"],
        );
        check(&[below.clone(), tree(&[("a", file("f"))])], "", &["a 1", "b 0", "b/z 0"]);
        let opaque =
            tree(&[("a", Node::Directory { mode: 0o755, opaque: true }), ("a/n", file("n"))]);
        check(&[below, opaque], "", &["a 1", "a/n 1", "b 0", "b/z 0"]);
    }

    #[test]
    fn what_is_taken_keeps_its_folders() {
        let list = tree(&[
            ("opt/gems/a.gem", file("a")),
            ("opt/gems/b.gem", Node::HardLink { to: b"opt/gems/a.gem".to_vec() }),
        ]);
        check(&[list], "opt/gems/b.gem", &["opt 0", "opt/gems 0", "opt/gems/b.gem 0"]);
    }

    /// Pins what a step takes of the same inputs.
    #[test]
    fn what_is_taken_is_pinned() {
        let folder = tempfile::tempdir().expect("a folder");
        let roots = ["below", "above"].map(|name| folder.path().join(name));
        let put = |input: usize, path: &str, mode: u32| {
            let path = roots[input].join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(&path, format!("{input} {}", path.file_name().unwrap().display()))
                .expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        for (path, mode) in [
            ("opt/both", 0o644),
            ("opt/gone", 0o644),
            ("opt/hidden/old", 0o644),
            ("opt/program", 0o755),
            ("opt/first", 0o644),
            ("other/file", 0o644),
        ] {
            put(0, path, mode);
        }
        fs::hard_link(roots[0].join("opt/first"), roots[0].join("opt/second")).expect("linked");
        put(1, "opt/both", 0o600);
        put(1, "opt/hidden/new", 0o644);
        symlink("both", roots[1].join("opt/link")).expect("linked");
        for path in ["below", "below/opt", "below/opt/hidden", "above", "above/opt/hidden"] {
            let path = folder.path().join(path);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        fs::set_permissions(roots[1].join("opt"), fs::Permissions::from_mode(0o750))
            .expect("chmod");
        let mut lists = roots.each_ref().map(|root| Tree::scan(root).expect("scan"));
        lists[1].entries.insert(b"opt/gone".to_vec(), Node::Whiteout);
        let opaque = Node::Directory { mode: 0o755, opaque: true };
        lists[1].entries.insert(b"opt/hidden".to_vec(), opaque);
        let out = folder.path().join("out");
        let union = select(&lists, |path, _| path.starts_with(b"opt"));
        write(&union, |input| &roots[input], &out).expect("written");
        let known = |path: &[u8]| match &union[path] {
            (_, Node::File { digest, .. }) => Some(*digest),
            _ => None,
        };
        let scanned = Tree::scan(&out).expect("scan");
        assert_eq!(Tree::scan_linked(&out, &known).expect("scan"), scanned);
        assert_eq!(
            (crate::plan::key::TAKE, Tree::scan(&out).expect("scan").digest().to_string()),
            (
                1,
                "sha256:72469555e328d75b7158ffa16b69fdcff3e8dd906d064138e8e547630c3637b2"
                    .to_owned()
            ),
            "the same inputs give something else: bump `TAKE` in src/plan/key.rs, and pin both"
        );
    }

    #[test]
    fn files_are_linked_and_folders_keep_their_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("shut")).expect("mkdir");
        fs::write(from.join("shut/file"), "x").expect("write");
        fs::set_permissions(from.join("shut"), fs::Permissions::from_mode(0o555)).expect("chmod");
        let list = Tree::scan(&from).expect("scan");
        let out = folder.path().join("out");
        write(&select(std::slice::from_ref(&list), |_, _| true), |_| &from, &out).expect("written");
        assert_eq!(Tree::scan(&out).expect("scan"), list);
        fs::set_permissions(from.join("shut"), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::set_permissions(out.join("shut"), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
}
