//! Takes files of inputs as they are: one of many downloads, or several outputs
//! joined to one. Nothing runs, and no byte is copied: files are linked.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Engine, EngineError};
use crate::digest::Digest;
use crate::memory::Long;
use crate::plan::Step;
use crate::source::matcher;
use crate::tree::{Builder, Node, Tree};

/// Files that one processor links: neighbours, as two in one folder wait for each other.
const AT_ONCE: usize = 512;

/// What is in a union of inputs: which of them has it, and the number of the entry there; in
/// the order of paths.
type Union = Long<[usize; 2]>;

impl Engine<'_> {
    pub(super) fn take(
        &self,
        step: &Step,
        inputs: &[Digest],
        patterns: &[String],
    ) -> Result<(Digest, Tree), EngineError> {
        let lists: Result<Vec<Tree>, _> =
            inputs.iter().map(|tree| self.store.read_tree(tree)).collect();
        let lists = lists?;
        let matcher = matcher("a step's `take`", patterns.iter().map(String::as_str))?;
        let taken = |path: &[u8], folder: bool| {
            let path = Path::new(OsStr::from_bytes(path));
            matcher.matched_path_or_any_parents(path, folder).is_ignore()
        };
        let mut union = stacked(&lists);
        keep_taken(&lists, &mut union, taken);
        let tree = joined(lists, &union);
        let scratch = self.scratch(step)?;
        let out = scratch.path().join("out");
        let roots: Vec<_> = inputs.iter().map(|tree| self.store.tree_path(tree)).collect();
        write(&tree, &union, &roots, &out).map_err(|source| EngineError::Io {
            action: "write",
            path: out.clone(),
            source,
        })?;
        Ok((self.store.keep_joined_tree(&out, &tree)?, tree))
    }
}

/// The inputs on top of each other, as an overlay would have them.
fn stacked(lists: &[Tree]) -> Union {
    let mut union = Union::default();
    for input in 0..lists.len() {
        union = stack(lists, union, input);
    }
    union
}

/// Puts an input over those before it.
fn stack(lists: &[Tree], below: Union, input: usize) -> Union {
    let list = &lists[input];
    let entry = |[input, number]: [usize; 2]| lists[input].at(number);
    let mut union = Union::default();
    // Folders of those below that are replaced.
    let mut replaced: BTreeSet<&[u8]> = BTreeSet::new();
    let mut below = below.slice(0, below.len());
    for (number, (path, node)) in list.iter().enumerate() {
        let (before, rest) = below.split_at(first_run(below, |other| entry(*other).0 < path));
        union.extend(before.iter().filter(|other| !is_below(entry(**other).0, &replaced)).copied());
        let same = rest.first().filter(|other| entry(**other).0 == path);
        below = &rest[usize::from(same.is_some())..];
        let is_folder = matches!(node, Node::Directory { opaque: false, .. });
        if !is_folder && same.is_some_and(|same| matches!(entry(*same).1, Node::Directory { .. })) {
            replaced.insert(path);
        }
        match node {
            Node::Whiteout => {}
            Node::HardLink { to } if !matches!(list.get(to), Some(Node::File { .. })) => {}
            _ => union.push([input, number]),
        }
    }
    union.extend(below.iter().filter(|other| !is_below(entry(**other).0, &replaced)).copied());
    union
}

/// How many come first for which something is so that is not so for the others. Short runs are
/// found at once, and long ones without asking for each.
fn first_run<T>(sorted: &[T], is_so: impl Fn(&T) -> bool) -> usize {
    let mut bound = 1;
    while bound < sorted.len() && is_so(&sorted[bound - 1]) {
        bound *= 2;
    }
    let from = bound / 2;
    from + sorted[from..bound.min(sorted.len())].partition_point(is_so)
}

/// The folders that lead to a path, the nearest first.
fn folders(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(slash, _)| &path[..slash])
}

fn is_below(path: &[u8], replaced: &BTreeSet<&[u8]>) -> bool {
    !replaced.is_empty() && folders(path).any(|folder| replaced.contains(folder))
}

/// Leaves what is `taken`, and the folders that lead to it, as they are.
fn keep_taken(lists: &[Tree], union: &mut Union, taken: impl Fn(&[u8], bool) -> bool) {
    let mut leading = BTreeSet::new();
    let mut is_taken = Vec::with_capacity(union.len());
    for [input, number] in union.iter() {
        let (path, node) = lists[input].at(number);
        let taken = taken(path, matches!(node, Node::Directory { .. }));
        is_taken.push(taken);
        if taken {
            // Where it is known, those above are.
            leading.extend(
                folders(path).take_while(|folder| !leading.contains(folder)).collect::<Vec<_>>(),
            );
        }
    }
    let mut is_taken = is_taken.into_iter();
    let is_kept = |[input, number]: &[usize; 2]| {
        is_taken.next() == Some(true) || leading.contains(lists[*input].path(*number))
    };
    *union = union.iter().filter(is_kept).collect();
}

/// The tree of a union. Names of one file stay that, whichever of them comes first now: the
/// first name that it had may not be taken, or be another file above.
fn joined(mut lists: Vec<Tree>, union: &Union) -> Tree {
    let changed = changed(&lists, union);
    let (others, mut next) = (lists.len(), 0);
    lists.push(changed.clone());
    let entries = union.iter().map(|[input, number]| {
        if next < changed.len() && changed.path(next) == lists[input].path(number) {
            next += 1;
            return [others, next - 1];
        }
        [input, number]
    });
    Tree::joined(&lists, entries)
}

/// Those entries of a union that are others in its tree.
fn changed(lists: &[Tree], union: &Union) -> Tree {
    let is_link =
        |[input, number]: &[usize; 2]| matches!(lists[*input].at(*number).1, Node::HardLink { .. });
    let first_name = |[input, number]: [usize; 2]| match lists[input].at(number).1 {
        Node::HardLink { to } => [input, lists[input].find(to).map_or(number, |first| first)],
        _ => [input, number],
    };
    // File → the first of its names here, where it may have several.
    let linked = union.iter().filter(is_link).map(|link| (first_name(link), None));
    let mut names: HashMap<[usize; 2], Option<&[u8]>> = linked.collect();
    let mut changed = Builder::default();
    for [input, number] in union.iter() {
        let (path, node) = lists[input].at(number);
        let file = first_name([input, number]);
        match (node, names.get_mut(&file)) {
            (Node::Directory { mode, opaque: true }, _) => {
                changed.add(path, Node::Directory { mode, opaque: false });
            }
            (_, Some(Some(first))) => {
                changed.add(path, Node::HardLink { to: first });
            }
            (_, Some(first @ None)) => {
                *first = Some(path);
                changed.add(path, lists[file[0]].at(file[1]).1);
            }
            (_, None) => {}
        }
    }
    changed.tree()
}

/// Makes what is in the tree of a union below `out`: files are linked to those of the inputs,
/// which are at `roots`.
fn write(tree: &Tree, union: &Union, roots: &[PathBuf], out: &Path) -> std::io::Result<()> {
    fs::create_dir(out)?;
    fs::set_permissions(out, fs::Permissions::from_mode(0o755))?;
    for (path, node) in tree.iter() {
        let path = Path::new(OsStr::from_bytes(path));
        match node {
            // A folder comes before what is in it, and none is left out.
            Node::Directory { .. } => fs::create_dir_all(out.join(path))?,
            Node::Symlink { target } => symlink(OsStr::from_bytes(target), out.join(path))?,
            // The last is in no union.
            Node::File { .. } | Node::HardLink { .. } | Node::Whiteout => {}
        }
    }
    (0..union.len()).into_par_iter().with_min_len(AT_ONCE).try_for_each(|number| {
        let [input, _] = *union.at(number);
        let (path, node) = tree.at(number);
        let path = Path::new(OsStr::from_bytes(path));
        match node {
            Node::File { .. } | Node::HardLink { .. } => {
                fs::hard_link(roots[input].join(path), out.join(path))
            }
            _ => Ok(()),
        }
    })?;
    // Last, as a folder may be one that nobody may write into.
    for (path, node) in tree.iter().rev() {
        if let Node::Directory { mode, .. } = node {
            let to = out.join(OsStr::from_bytes(path));
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, Node)]) -> Tree {
        entries.iter().cloned().collect::<Tree>().with_parents()
    }

    fn file(content: &str) -> Node<'static> {
        Node::File {
            mode: 0o644,
            size: content.len() as u64,
            digest: Digest::of(content.as_bytes()),
        }
    }

    fn select(lists: &[Tree], taken: impl Fn(&[u8], bool) -> bool) -> Union {
        let mut union = stacked(lists);
        keep_taken(lists, &mut union, taken);
        union
    }

    #[track_caller]
    fn check(lists: &[Tree], taken: &str, expected: &[&str]) {
        let union = select(lists, |path, _| path.starts_with(taken.as_bytes()));
        let tree = joined(lists.to_vec(), &union);
        let found: Vec<String> = tree
            .iter()
            .zip(union.iter())
            .map(|((path, _), [input, _])| format!("{} {input}", String::from_utf8_lossy(path)))
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
            ("opt/gems/b.gem", Node::HardLink { to: b"opt/gems/a.gem" }),
        ]);
        check(&[list], "opt/gems/b.gem", &["opt 0", "opt/gems 0", "opt/gems/b.gem 0"]);
    }

    #[test]
    fn runs_have_their_length() {
        for length in 0..20 {
            let sorted: Vec<usize> = (0..length).collect();
            for run in 0..=length {
                assert_eq!(first_run(&sorted, |number| *number < run), run);
            }
        }
    }

    /// Files are linked, so what was taken of one input is one file with what it was taken of.
    #[test]
    fn an_input_and_what_was_taken_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = crate::store::Store::open(&folder.path().join("store")).expect("a store");
        let scratch = store.scratch("t").expect("scratch");
        let from = scratch.path().join("from");
        fs::create_dir(&from).expect("mkdir");
        fs::write(from.join("a"), "x").expect("written");
        fs::hard_link(from.join("a"), from.join("b")).expect("linked");
        let kept = store.keep_tree(&from).expect("kept");
        let take = |inputs: &[(Digest, Tree)], taken: &str, out: &str| {
            let lists: Vec<Tree> = inputs.iter().map(|(_, list)| list.clone()).collect();
            let union = select(&lists, |path, _| path.starts_with(taken.as_bytes()));
            let tree = joined(lists, &union);
            let roots: Vec<_> = inputs.iter().map(|(tree, _)| store.tree_path(tree)).collect();
            let out = scratch.path().join(out);
            write(&tree, &union, &roots, &out).expect("written");
            (store.keep_joined_tree(&out, &tree).expect("kept"), tree)
        };
        let taken = take(std::slice::from_ref(&kept), "a", "taken");
        let (_, both) = take(&[kept, taken], "", "both");
        assert_eq!(both, tree(&[("a", file("x")), ("b", file("x"))]));
        assert_eq!(store.verify().expect("verifies").len(), 0);
    }

    #[test]
    fn what_is_replaced_is_gone_whatever_lies_between() {
        // In the order of paths `a.x` is between `a` and what is in it.
        let below = tree(&[("a/x/y", file("1")), ("a.x", file("1")), ("a/z", file("1"))]);
        check(&[below.clone(), tree(&[("a", Node::Whiteout)])], "", &["a.x 0"]);
        let again = [below, tree(&[("a", file("2"))]), tree(&[("a/n", file("3"))])];
        check(&again, "", &["a 2", "a.x 0", "a/n 2"]);
    }

    #[test]
    fn names_of_a_file_stay_together() {
        let link = |to: &'static str| Node::HardLink { to: to.as_bytes() };
        let below = tree(&[("a", file("1")), ("b", link("a")), ("c", link("a"))]);
        let both = |lists: &[Tree], taken: &str| {
            let union = select(lists, |path, _| path.starts_with(taken.as_bytes()));
            joined(lists.to_vec(), &union)
        };
        assert_eq!(both(std::slice::from_ref(&below), ""), below);
        // Its first name is another file above.
        let above = tree(&[("a", file("2"))]);
        let expected = tree(&[("a", file("2")), ("b", file("1")), ("c", link("b"))]);
        assert_eq!(both(&[below.clone(), above], ""), expected);
        assert_eq!(both(&[below], "c"), tree(&[("c", file("1"))]));
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
        lists[1] = lists[1].with("opt/gone", Some(Node::Whiteout));
        let opaque = Node::Directory { mode: 0o755, opaque: true };
        lists[1] = lists[1].with("opt/hidden", Some(opaque));
        let out = folder.path().join("out");
        let union = select(&lists, |path, _| path.starts_with(b"opt"));
        let tree = joined(lists.to_vec(), &union);
        write(&tree, &union, &roots, &out).expect("written");
        assert_eq!(Tree::scan(&out).expect("scan"), tree);
        assert_eq!(
            (crate::plan::key::TAKE, tree.digest().to_string()),
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
        let union = select(std::slice::from_ref(&list), |_, _| true);
        write(&list, &union, std::slice::from_ref(&from), &out).expect("written");
        assert_eq!(Tree::scan(&out).expect("scan"), list);
        fs::set_permissions(from.join("shut"), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::set_permissions(out.join("shut"), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
}
