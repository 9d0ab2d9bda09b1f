//! What `deb` promises, as cases.

use std::io::{Cursor, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tar::EntryType::{
    Block, Char, Directory, Fifo, GNULongName, GNUSparse, Link, Regular, Symlink, XHeader,
};

use super::*;

/// Name, kind, mode, and the content or the target of a link.
type Entry<'a> = (&'a str, tar::EntryType, u32, &'a str);

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, mode, content) in entries {
        let mut header = tar::Header::new_gnu();
        // Written past the checks of the library, which would refuse `..`.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        let is_link = matches!(kind, Link | Symlink);
        if is_link {
            header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_000_000_000);
        header.set_size(if is_link { 0 } else { content.len() as u64 });
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        if !is_link {
            bytes.extend_from_slice(content.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn ar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let header =
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        if content.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

const STANZA: &str = "Package: x\nVersion: 1\nArchitecture: amd64\n";

fn deb(data: &[Entry<'_>], conffiles: &str) -> Deb<Cursor<Vec<u8>>> {
    let control = tar_of(&[
        ("./", Directory, 0o755, ""),
        ("./control", Regular, 0o644, STANZA),
        ("./conffiles", Regular, 0o644, conffiles),
        ("./postinst", Regular, 0o755, "#!/bin/sh\n"),
    ]);
    let members: [(&str, &[u8]); 3] =
        [("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar", &tar_of(data))];
    Deb::read("x.deb".to_owned(), Cursor::new(ar_of(&members))).unwrap()
}

const FOLDER: Entry<'static> = ("./", Directory, 0o755, "");

/// Unpacks into a fresh root inside of a guarded folder; nothing may appear next to it.
#[track_caller]
fn unpack(
    data: &[Entry<'_>],
    prepare: impl Fn(&Path),
) -> (tempfile::TempDir, Result<Vec<String>, String>) {
    let guard = tempfile::tempdir().unwrap();
    let root = guard.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(guard.path().join("outside"), "untouched").unwrap();
    prepare(&root);
    let found = deb(data, "/etc/c\n").unpack(&root).map_err(|err| err.to_string());
    let mut left: Vec<_> =
        guard.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["outside", "root"]);
    assert_eq!(std::fs::read_to_string(guard.path().join("outside")).unwrap(), "untouched");
    (guard, found)
}

#[test]
fn files_links_and_modes() {
    let (guard, list) = unpack(
        &[
            FOLDER,
            ("./usr/", Directory, 0o555, ""),
            ("./usr/bin/", Directory, 0o3777, ""),
            ("./usr/bin/su", Regular, 0o4755, "su"),
            ("./usr/bin/sg", Link, 0o4755, "./usr/bin/su"),
            ("./usr/bin/sh", Symlink, 0o777, "su"),
            ("./etc/", Directory, 0o755, ""),
            ("./etc/c", Regular, 0o640, "c"),
        ],
        |_| {},
    );
    let expected =
        ["/.", "/usr", "/usr/bin", "/usr/bin/su", "/usr/bin/sg", "/usr/bin/sh", "/etc", "/etc/c"];
    assert_eq!(list.unwrap(), expected);
    let root = guard.path().join("root");
    let mode = |path: &str| root.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("usr"), mode("usr/bin"), mode("usr/bin/su")), (0o755, 0o1777, 0o755));
    assert_eq!(mode("etc/c.dpkg-new"), 0o640);
    assert!(!root.join("etc/c").exists());
    assert_eq!(std::fs::read_link(root.join("usr/bin/sh")).unwrap(), Path::new("su"));
    let (su, sg) =
        (root.join("usr/bin/su").metadata().unwrap(), root.join("usr/bin/sg").metadata().unwrap());
    assert_eq!((su.ino(), su.mtime()), (sg.ino(), 1_000_000_000));
}

/// Pins what comes of the same archive.
#[test]
fn what_is_unpacked_is_pinned() {
    let (guard, list) = unpack(
        &[
            FOLDER,
            ("./usr/", Directory, 0o555, ""),
            ("./usr/bin/", Directory, 0o3777, ""),
            ("./usr/bin/su", Regular, 0o4755, "su"),
            ("./usr/bin/sg", Link, 0o4755, "./usr/bin/su"),
            ("./usr/bin/sh", Symlink, 0o777, "su"),
            ("./lib/there", Regular, 0o640, "through the link"),
            ("./etc/", Directory, 0o755, ""),
            ("./etc/c", Regular, 0o640, "c"),
        ],
        |root| {
            std::fs::create_dir_all(root.join("usr/lib")).unwrap();
            for folder in ["usr", "usr/lib"] {
                let mode = PermissionsExt::from_mode(0o755);
                std::fs::set_permissions(root.join(folder), mode).unwrap();
            }
            std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        },
    );
    let tree = crate::tree::Tree::scan(&guard.path().join("root")).unwrap();
    assert_eq!(
        (crate::plan::key::PACKAGES, list.unwrap().len(), tree.digest().to_string().as_str()),
        (1, 9, "sha256:fbce251e17de2ce319b2914bfa3b09d8273176f32bb0994e830e49d1492edb29"),
        "the same archive gives something else: bump `PACKAGES` in src/plan/key.rs, and pin both"
    );
}

#[test]
fn merged_usr_links_are_followed_and_stay() {
    let merged = |root: &Path| {
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        std::os::unix::fs::symlink("/usr/bin", root.join("sbin")).unwrap();
        std::fs::create_dir(root.join("lib")).unwrap();
        std::fs::write(root.join("usr/bin/a"), "old").unwrap();
    };
    let (guard, found) = unpack(
        &[
            ("./bin/", Directory, 0o755, ""),
            ("./bin/a", Regular, 0o755, "a"),
            ("./sbin/b", Regular, 0o755, "b"),
            ("./lib", Symlink, 0o777, "usr/lib"),
        ],
        merged,
    );
    assert_eq!(found.unwrap(), ["/bin", "/bin/a", "/sbin/b", "/lib"]);
    let root = guard.path().join("root");
    assert_eq!(std::fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!(std::fs::read_to_string(root.join("usr/bin/a")).unwrap(), "a");
    assert_eq!(std::fs::read_to_string(root.join("usr/bin/b")).unwrap(), "b");
    assert!(root.join("lib").symlink_metadata().unwrap().is_dir());
}

#[track_caller]
fn refused(data: &[Entry<'_>], expected: &str) {
    let (_guard, found) = unpack(data, |root| {
        std::fs::create_dir(root.join("folder")).unwrap();
        std::fs::write(root.join("file"), "old").unwrap();
    });
    assert_eq!(found, Err(expected.to_owned()));
}

#[test]
fn hostile_entries() {
    for (name, kind, content, expected) in [
        ("../outside", Regular, "evil", "`../outside`, which leads outside of the root"),
        (
            "./a/../../outside",
            Regular,
            "evil",
            "`./a/../../outside`, which leads outside of the root",
        ),
        ("/outside", Regular, "evil", "`/outside`, which is an absolute name"),
        ("./a\nb", Regular, "evil", "`./a\nb`, which has a control character in its name"),
        ("", Regular, "evil", "``, which is an empty name"),
        ("./", Symlink, "/tmp", "`/.`, which is not a folder"),
        ("./dev", Char, "", "`/dev`, which is a device"),
        ("./dev", Block, "", "`/dev`, which is a device"),
        ("./dev", Fifo, "", "`/dev`, which is a FIFO"),
        ("./big", GNUSparse, "", "`/big`, which is of a kind that no package may contain"),
        ("./l", Link, "../outside", "`/l`, which leads outside of the root"),
        (
            "./l",
            Link,
            "./file",
            "`/l`, which is a hard link to something that is no file of this package",
        ),
        ("./folder", Regular, "x", "`/folder`, which is a file where there is a folder"),
        ("./file", Directory, "", "`/file`, which is a folder where there is a file"),
        ("./file/x", Regular, "x", "`/file/x`, which lies in something that is not a folder"),
    ] {
        refused(&[(name, kind, 0o644, content)], &format!("`x.deb` contains {expected}"));
    }
    let long = "y".repeat(9000);
    refused(
        &[("././@LongLink", GNULongName, 0o644, &long)],
        "`x.deb` contains `././@LongLink`, which has a name or a header that is too long",
    );
    refused(
        &[("x", XHeader, 0o644, "10 size=9\n"), ("./f", Regular, 0o644, "x")],
        "`x.deb` contains `x`, which has a second size",
    );
}

/// A link to the outside is resolved inside; a link in the place of a file is replaced.
#[test]
fn links_do_not_lead_outside() {
    for target in ["..", "../..", "/", "/proc/self/root", "../../../.."] {
        let (guard, found) = unpack(
            &[("./l", Symlink, 0o777, target), ("./l/outside", Regular, 0o644, "evil")],
            |_| {},
        );
        let inside = guard.path().join("root/outside");
        assert_eq!(found.is_ok(), inside.is_file(), "{target}");
    }
    let (guard, found) =
        unpack(&[("./l", Symlink, 0o777, "../outside"), ("./l", Regular, 0o644, "new")], |_| {});
    assert!(found.is_ok());
    assert!(guard.path().join("root/l").symlink_metadata().unwrap().is_file());
}

/// The parent is a real folder at first, kept open, and then behind a new link.
#[test]
fn replaced_link_is_not_remembered() {
    let (guard, found) = unpack(
        &[
            ("./a/", Directory, 0o755, ""),
            ("./b/", Directory, 0o755, ""),
            ("./l", Symlink, 0o777, "a"),
            ("./l/1", Regular, 0o644, "1"),
            ("./l", Symlink, 0o777, "b"),
            ("./l/2", Regular, 0o644, "2"),
        ],
        |_| {},
    );
    assert!(found.is_ok());
    assert!(guard.path().join("root/a/1").is_file() && guard.path().join("root/b/2").is_file());
}

#[test]
fn control_files() {
    let control =
        deb(&[FOLDER], "/etc/a b\n/etc/c \nremove-on-upgrade /etc/d\n").control().unwrap();
    assert_eq!(control.stanza, STANZA);
    assert_eq!(control.files.keys().collect::<Vec<_>>(), ["conffiles", "postinst"]);
    assert_eq!(control.conffiles(), ["/etc/c"]);
}

#[test]
fn compressions() {
    let data = tar_of(&[FOLDER, ("./f", Regular, 0o644, "content")]);
    let control = tar_of(&[("./control", Regular, 0o644, STANZA)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&data).unwrap();
    let xz = liblzma::encode_all(&data[..], 1).unwrap();
    let zstd = zstd::encode_all(&data[..], 1).unwrap();
    for (name, packed) in [
        ("data.tar.gz", gzip.finish().unwrap()),
        ("data.tar.xz", xz),
        ("data.tar.zst/", zstd),
        ("data.tar", data),
    ] {
        let ar = ar_of(&[("debian-binary", b"2.0\n"), ("control.tar", &control), (name, &packed)]);
        let root = tempfile::tempdir().unwrap();
        let mut deb = Deb::read("x.deb".to_owned(), Cursor::new(ar)).unwrap();
        assert_eq!(deb.unpack(root.path()).unwrap(), ["/.", "/f"], "{name}");
    }
}

#[test]
fn containers() {
    let control = tar_of(&[("./control", Regular, 0o644, STANZA)]);
    let format: (&str, &[u8]) = ("debian-binary", b"2.0\n");
    let good = ar_of(&[format, ("control.tar", &control), ("data.tar", &control)]);
    let huge =
        String::from_utf8_lossy(&good).replacen("4         `", "4000000000`", 1).into_bytes();
    for (bytes, expected) in [
        (Vec::new(), "it is too short"),
        (b"PK\x03\x04 not ar".to_vec(), "it is not an ar archive"),
        (good[..good.len() - 600].to_vec(), "a member is cut off"),
        (good[..40].to_vec(), "a member header is cut off"),
        (huge, "a member is cut off"),
        (ar_of(&[format, ("control.tar", &control)]), "`control.tar` or `data.tar` is missing"),
        (ar_of(&[("control.tar", &control), format]), "it does not begin with `debian-binary` 2"),
        (ar_of(&[format, ("data.tar.lz4", b"")]), "a member is compressed in an unknown way"),
        (ar_of(&[format, ("data.tar", b""), ("data.tar.xz", b"")]), "a member is there twice"),
    ] {
        match Deb::read("x.deb".to_owned(), Cursor::new(bytes)) {
            Err(DebError::Format { problem, .. }) => assert_eq!(problem, expected),
            other => panic!("{expected}: {:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn limits() {
    let mut limited = Limited { inner: io::repeat(0), left: 100 };
    let copied = io::copy(&mut limited, &mut io::sink());
    assert!(copied.is_err_and(|err| err.to_string().contains("more bytes than are allowed")));
    let zeros = "0".repeat(65 << 20);
    let tar =
        tar_of(&[("./control", Regular, 0o644, STANZA), ("./postinst", Regular, 0o755, &zeros)]);
    let bomb = liblzma::encode_all(&tar[..], 0).unwrap();
    assert!(bomb.len() < 1 << 20);
    let ar = ar_of(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &bomb), ("data.tar", b"")]);
    match Deb::read("x.deb".to_owned(), Cursor::new(ar)).unwrap().control() {
        Err(DebError::Read { source, .. }) => {
            assert!(source.to_string().contains("more bytes"))
        }
        other => panic!("{:?}", other.map(|control| control.stanza)),
    }
}
