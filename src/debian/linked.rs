//! Which packages have the shared libraries that programs link against, as
//! `dpkg-shlibdeps` finds them: the `NEEDED` entries of ELF files (System V ABI,
//! chapter 5, "Dynamic Section"), looked up in the file lists of dpkg's database.
//!
//! What a program loads by name while it runs (`dlopen`) is not seen here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, EM_AARCH64, EM_X86_64};
use elf::endian::AnyEndian;

use crate::tree::{Node, Tree};

/// Where dpkg lists the files of each package.
const LISTS: &str = "var/lib/dpkg/info/";

/// A tree and the folder in which its files are.
pub type Placed<'a> = (&'a Tree, &'a Path);

/// What programs need beyond what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Packages that have the libraries.
    pub packages: BTreeSet<String>,
    /// Libraries that no package here has: their name, and a program that needs it.
    pub unknown: BTreeMap<String, String>,
}

/// What the programs in `inspected` need of `packages`; what `there` has, they
/// have anyway. `architecture` is Debian's name of it; programs for another one,
/// or another C library, are passed over.
///
/// # Errors
/// A file that cannot be read.
pub fn needed(
    inspected: &[Placed<'_>],
    there: &[Placed<'_>],
    packages: &[Placed<'_>],
    architecture: &str,
) -> io::Result<Needed> {
    let machine = if architecture == "arm64" { EM_AARCH64 } else { EM_X86_64 };
    let mut own = BTreeSet::new();
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    for (tree, root) in inspected {
        for (path, node) in tree.iter() {
            let path = Path::new(OsStr::from_bytes(path));
            if let Some(name) = path.file_name() {
                own.insert(name.to_string_lossy().into_owned());
            }
            let Node::File { mode, size, .. } = node else { continue };
            if size < 64 || !may_be_program(path, mode) {
                continue;
            }
            for library in libraries(&root.join(path), machine)? {
                wanted.entry(library).or_insert_with(|| path.display().to_string());
            }
        }
    }
    let mut needed = Needed::default();
    if wanted.is_empty() {
        return Ok(needed);
    }
    let there = owners(there)?;
    let others = owners(packages)?;
    for (library, program) in wanted {
        if own.contains(&library) || there.contains_key(&library) {
            continue;
        }
        match others.get(&library) {
            Some(package) => drop(needed.packages.insert(package.clone())),
            None => drop(needed.unknown.insert(library, program)),
        }
    }
    Ok(needed)
}

/// Shared objects by their name, programs by their mode.
fn may_be_program(path: &Path, mode: u32) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".so") || name.contains(".so.") || name.ends_with(".node") || mode & 0o111 != 0
}

/// The libraries that an ELF file for this machine names; none for other files.
fn libraries(path: &Path, machine: u16) -> io::Result<Vec<String>> {
    let bytes = fs::read(path)?;
    let found = (|| {
        let file = ElfBytes::<AnyEndian>::minimal_parse(&bytes).ok()?;
        if file.ehdr.e_machine != machine {
            return None;
        }
        let dynamic = file.find_common_data().ok()?;
        let names = dynamic.dynsyms_strs?;
        let found: Vec<String> = dynamic
            .dynamic?
            .iter()
            .filter(|entry| entry.d_tag == DT_NEEDED)
            .filter_map(|entry| names.get(usize::try_from(entry.d_val()).ok()?).ok())
            .map(str::to_owned)
            .collect();
        // Gems and wheels bring copies for musl along, which nothing loads here.
        (!found.iter().any(|name| name.contains("musl"))).then_some(found)
    })();
    Ok(found.unwrap_or_default())
}

/// Library → the package that has it in a folder where the loader looks.
fn owners(trees: &[Placed<'_>]) -> io::Result<BTreeMap<String, String>> {
    let mut owners = BTreeMap::new();
    for (tree, root) in trees {
        for (path, _) in tree.iter() {
            let Some(list) = std::str::from_utf8(path)
                .ok()
                .and_then(|path| path.strip_prefix(LISTS))
                .and_then(|name| name.strip_suffix(".list"))
            else {
                continue;
            };
            let package = list.split(':').next().unwrap_or(list);
            let file: PathBuf = root.join(OsStr::from_bytes(path));
            for line in fs::read_to_string(&file)?.lines() {
                if let Some(library) = library(line) {
                    owners.entry(library.to_owned()).or_insert_with(|| package.to_owned());
                }
            }
        }
    }
    Ok(owners)
}

/// The name of a library, when the path is one where the loader finds it by name.
fn library(path: &str) -> Option<&str> {
    let (folder, name) = path.rsplit_once('/')?;
    let folder = folder.strip_prefix("/usr").unwrap_or(folder);
    let below = folder.strip_prefix("/lib64").or_else(|| folder.strip_prefix("/lib"))?;
    let in_place =
        below.is_empty() || (below.ends_with("-linux-gnu") && below.matches('/').count() == 1);
    (in_place && name.contains(".so")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_where_the_loader_looks() {
        for (path, expected) in [
            ("/usr/lib/x86_64-linux-gnu/libpq.so.5", Some("libpq.so.5")),
            ("/lib/x86_64-linux-gnu/libz.so.1", Some("libz.so.1")),
            ("/lib64/ld-linux-x86-64.so.2", Some("ld-linux-x86-64.so.2")),
            ("/usr/lib/libfoo.so.1", Some("libfoo.so.1")),
            ("/usr/lib/x86_64-linux-gnu/ruby/3.3.0/stringio.so", None),
            ("/usr/lib/postgresql/17/lib/x.so", None),
            ("/usr/share/doc/libpq5", None),
        ] {
            assert_eq!(library(path), expected, "{path}");
        }
    }

    #[test]
    fn a_program_names_its_libraries() {
        // The test itself is a program, linked against the C library.
        let found = libraries(&std::env::current_exe().expect("a path"), machine()).expect("read");
        assert!(found.iter().any(|name| name == "libc.so.6"), "{found:?}");
        let other = if machine() == EM_X86_64 { EM_AARCH64 } else { EM_X86_64 };
        let none = libraries(&std::env::current_exe().expect("a path"), other).expect("read");
        assert!(none.is_empty());
    }

    fn machine() -> u16 {
        if std::env::consts::ARCH == "aarch64" { EM_AARCH64 } else { EM_X86_64 }
    }

    #[test]
    fn packages_are_named_once_and_only_those_that_are_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str, files: &[(&str, &[u8])]| {
            let root = folder.path().join(name);
            for (path, content) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
                fs::write(path, content).expect("write");
            }
            (Tree::scan(&root).expect("scan"), root)
        };
        let program = fs::read(std::env::current_exe().expect("a path")).expect("read");
        let (gems, gems_root) =
            place("gems", &[("layers/gems/a.so", &program), ("layers/gems/b.so", b"text")]);
        let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let run = |there: &str, other: &str| {
            let (there, there_root) = place(
                &format!("there{there}"),
                &[(
                    "var/lib/dpkg/info/libgcc-s1:amd64.list",
                    format!("/usr/lib/x86_64-linux-gnu/{there}\n").as_bytes(),
                )],
            );
            let (other, other_root) = place(
                &format!("other{other}"),
                &[(
                    "var/lib/dpkg/info/libc6:amd64.list",
                    format!("/usr/lib/x86_64-linux-gnu/{other}\n").as_bytes(),
                )],
            );
            needed(
                &[(&gems, &gems_root)],
                &[(&there, &there_root)],
                &[(&other, &other_root)],
                architecture,
            )
            .expect("read")
        };
        let found = run("libm.so.6", "libc.so.6");
        assert!(found.packages.contains("libc6") && found.packages.len() == 1, "{found:?}");
        let found = run("libc.so.6", "libq.so");
        assert!(found.packages.is_empty() && !found.unknown.contains_key("libc.so.6"), "{found:?}");
        let found = run("libq.so", "libq.so");
        assert_eq!(found.unknown.get("libc.so.6").map(String::as_str), Some("layers/gems/a.so"));
    }

    /// An ELF file of 64 bits for this machine, with nothing in it but the names of what it
    /// links against (System V ABI: file header, dynamic section, its strings and symbols).
    fn program(machine: u16, needed: &[&str]) -> Vec<u8> {
        let (mut strings, mut dynamic) = (vec![0_u8], Vec::new());
        for name in needed {
            dynamic.extend([1_u64, strings.len() as u64].map(u64::to_le_bytes).concat());
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        dynamic.extend([0; 16]);
        let at_strings = 64 + dynamic.len();
        let at_symbols = (at_strings + strings.len()).next_multiple_of(8);
        let at_sections = at_symbols + 24;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([3, machine].map(u16::to_le_bytes).concat());
        file.extend(1_u32.to_le_bytes());
        file.extend([0, 0, at_sections as u64].map(u64::to_le_bytes).concat());
        file.extend(0_u32.to_le_bytes());
        file.extend([64_u16, 56, 0, 64, 4, 0].map(u16::to_le_bytes).concat());
        file.extend(&dynamic);
        file.extend(&strings);
        file.resize(at_sections, 0);
        // Type, offset, size, which section has the strings, size of an entry.
        for (kind, at, size, strings, entry) in [
            (0, 0, 0, 0, 0),
            (6, 64, dynamic.len(), 2, 16),
            (3, at_strings, strings.len(), 0, 0),
            (11, at_symbols, 24, 2, 24),
        ] {
            file.extend([0_u32, kind].map(u32::to_le_bytes).concat());
            file.extend([0, 0, at as u64, size as u64].map(u64::to_le_bytes).concat());
            file.extend([strings, 0_u32].map(u32::to_le_bytes).concat());
            file.extend([8, entry].map(u64::to_le_bytes).concat());
        }
        file
    }

    /// Pins what is found in the same files.
    #[test]
    fn what_is_needed_is_pinned() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str, files: &[(&str, Vec<u8>)]| {
            let root = folder.path().join(name);
            for (path, content) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
                fs::write(path, content).expect("write");
            }
            (Tree::scan(&root).expect("scan"), root)
        };
        let list = |name: &str, paths: &[&str]| {
            (format!("var/lib/dpkg/info/{name}.list"), paths.join("\n").into_bytes())
        };
        let (app, app_root) = place(
            "app",
            &[
                ("a.so", program(EM_X86_64, &["liba.so.1", "libown.so", "libthere.so.2"])),
                ("b.node", program(EM_X86_64, &["libb.so.3", "libnobody.so"])),
                ("c.so.1", program(EM_X86_64, &["libc.musl-x86_64.so.1", "libmusl.so"])),
                ("d.so", program(EM_AARCH64, &["libarm.so"])),
                ("lib/libown.so", program(EM_X86_64, &["libplugin.so"])),
                ("text", program(EM_X86_64, &["libnot.so"])),
            ],
        );
        let there = [list("libthere2", &["/usr/lib/x86_64-linux-gnu/libthere.so.2"])];
        let others = [
            list("liba1:amd64", &["/.", "/usr/lib/x86_64-linux-gnu/liba.so.1"]),
            list("libb3", &["/lib/libb.so.3", "/usr/share/doc/libb3"]),
            list("plugin", &["/usr/lib/x86_64-linux-gnu/plugin/libplugin.so"]),
            list("zb3", &["/usr/lib/libb.so.3", "/usr/lib/libarm.so", "/usr/lib/libmusl.so"]),
        ];
        let files = |lists: &[(String, Vec<u8>)], name: &str| {
            let lists: Vec<_> =
                lists.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
            place(name, &lists)
        };
        let ((there, there_root), (others, others_root)) =
            (files(&there, "there"), files(&others, "others"));
        let found = needed(
            &[(&app, &app_root)],
            &[(&there, &there_root)],
            &[(&others, &others_root)],
            "amd64",
        )
        .expect("read");
        let packages: Vec<&str> = found.packages.iter().map(String::as_str).collect();
        assert_eq!(
            (crate::plan::key::LIBRARIES, packages.join(" ")),
            (1, "liba1 libb3".to_owned()),
            "the same inputs give something else: bump `LIBRARIES` in src/plan/key.rs, and pin both"
        );
        let unknown: Vec<&str> = found.unknown.keys().map(String::as_str).collect();
        assert_eq!(unknown, ["libnobody.so", "libplugin.so"]);
    }
}
