//! What `unpack` promises, with tars made by hand.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::tree::{Node, Tree};

/// A tar made by hand, for what no tar program writes.
#[derive(Clone, Default)]
struct Made(Vec<u8>);

impl Made {
    fn add(mut self, kind: u8, name: &[u8], link: &[u8], mode: u32, data: &[u8]) -> Made {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name);
        header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link);
        header[257..265].copy_from_slice(b"ustar\x0000");
        self.0.extend(with_sum(header));
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Made {
        self.add(b'0', name.as_bytes(), b"", 0o644, content.as_bytes())
    }

    fn folder(self, name: &str) -> Made {
        self.add(b'5', name.as_bytes(), b"", 0o755, b"")
    }

    fn link(self, name: &str, to: &str) -> Made {
        self.add(b'2', name.as_bytes(), to.as_bytes(), 0o777, b"")
    }

    fn hard(self, name: &str, to: &str) -> Made {
        self.add(b'1', name.as_bytes(), to.as_bytes(), 0o644, b"")
    }

    fn pax(self, kind: u8, records: &[(&str, &str)]) -> Made {
        let record = |(key, value): &(&str, &str)| {
            let rest = format!(" {key}={value}\n").len();
            let length = (1..).find(|n| n - format!("{n}").len() == rest).expect("a length");
            format!("{length} {key}={value}\n")
        };
        let data: String = records.iter().map(record).collect();
        self.add(kind, b"pax", b"", 0o644, data.as_bytes())
    }

    /// The header of the last entry without content, changed.
    fn change(mut self, change: impl Fn(&mut [u8; 512])) -> Made {
        let at = self.0.len() - 512;
        let mut header: [u8; 512] = self.0[at..].try_into().expect("a header");
        change(&mut header);
        self.0.truncate(at);
        self.0.extend(with_sum(header));
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn with_sum(mut header: [u8; 512]) -> [u8; 512] {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn new() -> Made {
    Made::default()
}

struct Done {
    _folder: tempfile::TempDir,
    root: std::path::PathBuf,
    result: Result<Unpacked, UnpackError>,
}

/// Unpacks blobs whose tars have these diffIDs. What stands next to the root must stay.
fn unpacked(limits: Limits, blobs: &[(Vec<u8>, Digest)]) -> Done {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir(&root).expect("mkdir");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("file"), "safe").expect("write");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o750)).expect("chmod");
    let before = Tree::scan(&outside).expect("scan");
    let packed: Vec<Packed> = blobs
        .iter()
        .map(|(blob, diff_id)| Packed { digest: Digest::of(blob), diff_id: *diff_id })
        .collect();
    let open = |digest: &Digest| {
        let found = blobs.iter().find(|(blob, _)| Digest::of(blob) == *digest);
        found.map(|(blob, _)| blob.as_slice()).ok_or(io::ErrorKind::NotFound.into())
    };
    let told = AtomicU64::new(0);
    let progress = |bytes| {
        told.fetch_add(bytes, Ordering::Relaxed);
    };
    let result = unpack_all(limits, &packed, &root, open, &progress, Whiteouts::Obeyed);
    if result.is_ok() {
        let total: usize = blobs.iter().map(|(blob, _)| blob.len()).sum();
        assert_eq!(told.into_inner(), total as u64);
    }
    assert_eq!(Tree::scan(&outside).expect("scan"), before);
    let mode = fs::metadata(&outside).expect("stat").permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
    let names = fs::read_dir(folder.path()).expect("read").count();
    assert_eq!(names, 2, "something was written next to the root");
    Done { _folder: folder, root, result }
}

fn tars(layers: &[Made]) -> Vec<(Vec<u8>, Digest)> {
    let tars = layers.iter().map(|layer| layer.clone().end());
    tars.map(|tar| (tar.clone(), Digest::of(&tar))).collect()
}

/// What there is: `a/`, `a/b=content`, `c -> a/b`, `d => a/b`.
fn listed(root: &Path) -> Vec<String> {
    let tree = Tree::scan(root).expect("scan");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let line = |(path, node): (&[u8], Node<'_>)| match node {
        Node::Directory { .. } => format!("{}/", text(path)),
        Node::File { .. } => {
            let name = std::os::unix::ffi::OsStrExt::from_bytes(path);
            let content = fs::read(root.join::<&std::ffi::OsStr>(name)).expect("read");
            format!("{}={}", text(path), text(&content))
        }
        Node::Symlink { target } => format!("{} -> {}", text(path), text(target)),
        Node::HardLink { to } => format!("{} => {}", text(path), text(to)),
        Node::Whiteout => format!("{} gone", text(path)),
    };
    tree.iter().map(line).collect()
}

#[track_caller]
fn gives(layers: &[Made], expected: &[&str]) -> Unpacked {
    let done = unpacked(LIMITS, &tars(layers));
    let result = done.result.unwrap_or_else(|error| panic!("{}", words(&error)));
    assert_eq!(listed(&done.root), expected);
    result
}

#[track_caller]
fn refused(layers: &[Made], expected: &str) {
    let error = unpacked(LIMITS, &tars(layers)).result.expect_err("refused");
    assert!(words(&error).contains(expected), "{}", words(&error));
}

fn words(error: &UnpackError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

#[test]
fn layers_stack() {
    let below = new().folder("a/").file("a/b", "1").file("a/c", "2").link("l", "a").folder("d/");
    gives(std::slice::from_ref(&below), &["a/", "a/b=1", "a/c=2", "d/", "l -> a"]);
    // Replaced, whatever it was.
    let above = new().file("a/b", "3").file("d", "4").folder("l/").link("a/c", "b");
    gives(&[below.clone(), above], &["a/", "a/b=3", "a/c -> b", "d=4", "l/"]);
    let above = new().folder("a/b/").file("a/b/x", "5").file("l", "6").link("d", "/a");
    gives(&[below.clone(), above], &["a/", "a/b/", "a/b/x=5", "a/c=2", "d -> /a", "l=6"]);
    // A folder joins a folder.
    gives(&[below, new().folder("./a")], &["a/", "a/b=1", "a/c=2", "d/", "l -> a"]);
    // What led to a folder does not any more.
    let moved = new().folder("a/").link("l", "a").file("l/x", "1").folder("l/").file("l/y", "2");
    gives(&[moved], &["a/", "a/x=1", "l/", "l/y=2"]);
    let moved = new().folder("b/").file("a/x", "1").link("a", "b").file("a/y", "2");
    gives(&[moved], &["a -> b", "b/", "b/y=2"]);
    // Parents that are not listed.
    gives(&[new().file("x/y/z", "7")], &["x/", "x/y/", "x/y/z=7"]);
    // Twice: the last one.
    gives(&[new().file("x", "1").file("x", "2").folder("x/").file("x", "3")], &["x=3"]);
}

#[test]
fn whiteouts() {
    let below = new().file("a/b", "1").file("a/c/d", "2").file("e", "3").link("l", "a");
    let check = |above: Made, expected: &[&str]| {
        gives(&[below.clone(), above], expected);
    };
    check(new().file("a/.wh.b", ""), &["a/", "a/c/", "a/c/d=2", "e=3", "l -> a"]);
    check(new().file(".wh.a", "").file(".wh.l", ""), &["e=3"]);
    check(new().file(".wh.none", "").file("none/.wh.x", "").file(".wh.a", ""), &["e=3", "l -> a"]);
    check(new().file("a/.wh..wh..opq", ""), &["a/", "e=3", "l -> a"]);
    check(new().file(".wh..wh..opq", "").file("x", "4"), &["x=4"]);
    // Lower layers are meant, wherever in its layer the whiteout stands.
    let expected = ["a/", "a/c/", "a/c/x=5", "e=3", "l -> a"];
    check(new().file("a/c/x", "5").file("a/.wh..wh..opq", ""), &expected);
    check(new().file("a/.wh..wh..opq", "").file("a/c/x", "5"), &expected);
    check(new().file("a/c/x", "5").file(".wh.a", ""), &expected);
    check(new().file(".wh.a", "").file("a/c/x", "5"), &expected);
    check(
        new().file("e", "6").file(".wh.e", ""),
        &["a/", "a/b=1", "a/c/", "a/c/d=2", "e=6", "l -> a"],
    );
    // Through a link of a lower layer, also when the layer itself writes there.
    check(new().file("l/.wh.b", ""), &["a/", "a/c/", "a/c/d=2", "e=3", "l -> a"]);
    check(
        new().file("l/c/x", "5").file("a/.wh..wh..opq", ""),
        &["a/", "a/c/", "a/c/x=5", "e=3", "l -> a"],
    );
    // A link is removed, not what it points to.
    check(new().file(".wh.l", ""), &["a/", "a/b=1", "a/c/", "a/c/d=2", "e=3"]);
    // The next layer's are another's.
    gives(
        &[below.clone(), new().file("a/x", "5"), new().file("a/.wh..wh..opq", "")],
        &["a/", "e=3", "l -> a"],
    );
    gives(&[new().file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "").file("a", "1")], &["a=1"]);
    gives(&[new().file("a", "1"), new().file("a/.wh.b", "")], &["a=1"]);
    for nothing in [".wh.", "a/.wh..", ".wh..."] {
        refused(&[new().file(nothing, "")], "which is a whiteout of nothing");
    }
    refused(&[new().file(".wh.a/b", "")], "`.wh.a/b`, which lies in a whiteout");
    refused(&[new().file("../.wh.outside", "")], "which leads outside of the root");
}

#[test]
fn names_stay_inside() {
    for name in ["../outside/file", "a/../../outside/file", "a/../b", "..", "/../x"] {
        refused(&[new().file(name, "evil")], "which leads outside of the root");
        refused(&[new().file("x", "").hard("y", name)], "which leads outside of the root");
        refused(&[new().pax(b'x', &[("path", name)]).file("x", "")], "leads outside of the root");
    }
    gives(&[new().file("/etc/x", "1").hard("/y", "/etc/x")], &["etc/", "etc/x=1", "y => etc/x"]);
    gives(&[new().folder("./").folder("/").file(".//a/./b", "1")], &["a/", "a/b=1"]);
    refused(&[new().file("", "")], "which is an empty name");
    refused(&[new().link(".", "/tmp")], "which is the root and not a folder");
    refused(&[new().file("./", "").file("/.", "")], "which is the root and not a folder");
}

#[test]
fn links_stay_inside() {
    let absolute = std::env::temp_dir().display().to_string();
    for to in ["../outside", "/../outside", "../../../../../../../../outside", &absolute, "/"] {
        let far = new().link("l", to);
        // In the same layer, and by a lower one.
        for layers in [
            vec![far.clone().file("l/file", "evil")],
            vec![far.clone(), new().file("l/file", "evil")],
            vec![far.clone(), new().file("l/.wh.file", "").file("l/.wh..wh..opq", "")],
            vec![far.clone(), new().add(b'5', b"l", b"", 0o700, b"")],
            vec![far.clone(), new().file("l", "evil")],
            vec![
                far.clone().link("m", "l"),
                new().folder("m/outside").file("m/outside/file", "evil"),
            ],
            vec![far.clone(), new().link("l/file", "x")],
            vec![far.clone(), new().file("x", "evil").hard("l/file", "x")],
        ] {
            // Contained or refused, `unpacked` looks at what is outside.
            let _either = unpacked(LIMITS, &tars(&layers)).result;
        }
    }
    let base =
        new().folder("usr/lib").link("lib", "usr/lib").link("abs", "/usr").link("up", "../../usr");
    let above = new().file("lib/a", "1").file("abs/b", "2").file("up/c", "3");
    gives(
        &[base, above],
        &[
            "abs -> /usr",
            "lib -> usr/lib",
            "up -> ../../usr",
            "usr/",
            "usr/b=2",
            "usr/c=3",
            "usr/lib/",
            "usr/lib/a=1",
        ],
    );
    refused(
        &[new().link("l", "none").file("l/x", "")],
        "which lies behind a link that leads nowhere",
    );
    refused(
        &[new().link("l", "m").link("m", "l").file("l/x", "")],
        "lies behind links in a circle",
    );
    refused(&[new().file("f", "").file("f/x", "")], "lies in something that is not a folder");
    refused(
        &[new().file("f", "").link("l", "f").file("l/x", "")],
        "lies in something that is not a folder",
    );
    refused(&[new().link("l", "")], "which is a link to nothing");
}

#[test]
fn hard_links() {
    let base = new().file("a/b", "1").link("l", "/a").link("s", "a/b");
    gives(
        &[base.clone(), new().hard("c", "a/b").hard("d", "l/b").hard("e", "s").hard("a/b", "a/b")],
        &["a/", "a/b=1", "c => a/b", "d => a/b", "e -> a/b", "l -> /a", "s -> a/b"],
    );
    // Written anew, the other names keep what they had.
    gives(&[new().file("a", "1").hard("b", "a"), new().file("b", "2")], &["a=1", "b=2"]);
    refused(&[new().hard("c", "none")], "which is a hard link to something that is not there");
    refused(&[new().hard("c", "later").file("later", "")], "something that is not there");
    refused(
        &[new().folder("a/").hard("c", "a")],
        "which is a hard link to something that is no file",
    );
    refused(&[new().hard("c", "/")], "which is a hard link to the root");
    refused(&[base.clone(), new().link("o", "../outside").hard("c", "o/file")], "not there");
    refused(&[base, new().hard("c", "a/b/x")], "lies in something that is not a folder");
}

#[test]
fn modes() {
    let done = unpacked(
        LIMITS,
        &tars(&[
            new()
                .add(b'5', b"locked", b"", 0o500, b"")
                .add(b'5', b"tmp", b"", 0o1777, b"")
                .add(b'0', b"run", b"", 0o755, b"")
                .add(b'0', b"su", b"", 0o4755, b""),
            new().file("locked/x", "1").add(b'5', b"locked", b"", 0o050, b""),
        ]),
    );
    let lost = done.result.expect("unpacks").lost;
    assert_eq!(lost, BTreeMap::from([(b"su".to_vec(), Lost::SetId)]));
    for (path, expected) in
        [("locked", 0o750), ("tmp", 0o1777), ("run", 0o755), ("su", 0o755), ("locked/x", 0o644)]
    {
        let mode = fs::metadata(done.root.join(path)).expect("stat").permissions().mode();
        assert_eq!(mode & 0o7777, expected, "{path}");
    }
}

#[test]
fn what_is_lost_is_told() {
    let capability = [("SCHILY.xattr.security.capability", "x"), ("SCHILY.xattr.user.x", "y")];
    let base = new()
        .folder("dev/")
        .add(b'3', b"dev/null", b"", 0o666, b"")
        .add(b'4', b"dev/sda", b"", 0o666, b"")
        .add(b'6', b"pipe", b"", 0o644, b"")
        .pax(b'x', &capability)
        .file("ping", "1");
    let found = gives(std::slice::from_ref(&base), &["dev/", "ping=1"]);
    let lost = [
        (b"dev/null".to_vec(), Lost::Device),
        (b"dev/sda".to_vec(), Lost::Device),
        (b"ping".to_vec(), Lost::Capabilities),
        (b"pipe".to_vec(), Lost::Pipe),
    ];
    assert_eq!(found.lost, BTreeMap::from(lost));
    // What is replaced or removed has lost nothing.
    let above = new().file(".wh.dev", "").file("ping", "2").add(b'3', b"x", b"", 0, b"");
    let found =
        gives(&[base, new().file("x", "3"), above.file("pipe", "4")], &["ping=2", "pipe=4"]);
    assert_eq!(found.lost, BTreeMap::from([(b"x".to_vec(), Lost::Device)]));
    let owned = new().folder("a/").change(|header| header[108..116].copy_from_slice(b"0001750\0"));
    assert_eq!(gives(&[owned.file("b", "")], &["a/", "b="]).owned, 1);
}

#[test]
fn long_and_strange_names() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let folder = format!("{}/", "d".repeat(200));
    let listed = [folder.as_str(), &format!("{long}=1"), &format!("l -> {long}")];
    gives(
        &[new()
            .pax(b'x', &[("path", &long), ("size", "1"), ("mtime", "1.5")])
            .file("short", "1")
            .pax(b'x', &[("linkpath", &long)])
            .link("l", "short")],
        &listed,
    );
    let gnu = format!("{long}\0");
    gives(
        &[new()
            .add(b'L', b"././@LongLink", b"", 0, gnu.as_bytes())
            .file("short", "1")
            .add(b'K', b"././@LongLink", b"", 0, gnu.as_bytes())
            .link("l", "short")],
        &listed,
    );
    gives(&[new().pax(b'g', &[("comment", "x")]).file("a", "1")], &["a=1"]);
    gives(&[new().file("new\nline", "1").file(" ", "2")], &[" =2", "new\nline=1"]);
    let done = unpacked(LIMITS, &tars(&[new().add(b'0', b"\xff\xfe", b"", 0o644, b"")]));
    done.result.expect("unpacks");
    assert!(Tree::scan(&done.root).expect("scan").get(b"\xff\xfe").is_some());
    // A folder as archives of old have it.
    gives(&[new().file("old/", "")], &["old/"]);
    refused(&[new().pax(b'x', &[("path", &"x".repeat(300))]).file("a", "")], "could not unpack");
    let deep = "d/".repeat(3000);
    refused(&[new().pax(b'x', &[("path", &deep)]).file("a", "")], "lies in too many folders");
    // Not even by and by, behind links.
    let deep = "d/".repeat(200);
    let links = [
        new()
            .pax(b'x', &[("path", &deep)])
            .folder("a")
            .pax(b'x', &[("linkpath", &deep)])
            .link("l", "x"),
        new().pax(b'x', &[("path", &format!("l/{deep}"))]).folder("a"),
    ];
    refused(&links, "lies in too many folders");
    refused(&[new().pax(b'x', &[("path", "a\0b")]).file("a", "")], "has a NUL in its name");
    refused(&[new().add(b'L', b"L", b"", 0, &vec![b'x'; 2 << 20])], "a header that is too long");
}

#[test]
fn readers_agree() {
    let sizes = [("size", "600")];
    refused(&[new().pax(b'x', &sizes).file("a", "1").file("b", "2")], "has two names or two sizes");
    refused(&[new().pax(b'x', &[("size", "-1")]).file("a", "")], "has a size that is none");
    refused(&[new().pax(b'x', &[("path", "b"), ("path", "c")]).file("a", "")], "has two names");
    let both = new().add(b'L', b"L", b"", 0, b"x\0").pax(b'x', &[("path", "y")]).file("a", "");
    refused(&[both], "has two names or two sizes");
    for key in ["path", "linkpath", "size"] {
        refused(&[new().pax(b'g', &[(key, "1")]).file("a", "")], "to all that follow");
    }
    let sparse = [("GNU.sparse.major", "1")];
    refused(&[new().pax(b'x', &sparse).file("a", "")], "is a sparse file");
    refused(&[new().add(b'S', b"a", b"", 0o644, b"")], "is a sparse file");
    refused(&[new().add(b'Z', b"a", b"", 0o644, b"")], "is of a kind that no layer may contain");
    let wrong = new().file("a", "").change(|header| header[124..136].fill(0xff));
    refused(&[wrong], "could not");
    let cut =
        new().file("a", "").change(|header| header[124..136].copy_from_slice(b"00000001000\0"));
    let mut tar = cut.0;
    tar.extend([0; 512]);
    let digest = Digest::of(&tar);
    let error = unpacked(LIMITS, &[(tar[..600].to_vec(), digest)]).result.expect_err("cut off");
    assert!(words(&error).contains("is cut off"), "{}", words(&error));
}

#[test]
fn limits() {
    let small = |bytes, entries| Limits { bytes, entries };
    let layers = tars(&[new().file("a", "1"), new().file("b", "2").file("c", "3")]);
    unpacked(small(2048 + 3072, 3), &layers).result.expect("unpacks");
    let error = unpacked(small(2048 + 3071, 3), &layers).result.expect_err("too long");
    assert!(words(&error).contains("more bytes than are allowed"), "{}", words(&error));
    let error = unpacked(small(1 << 20, 2), &layers).result.expect_err("too many");
    assert!(words(&error).contains("is one entry too many"), "{}", words(&error));
    // A bomb of a megabyte of zeros for a kilobyte, in the content and behind the end.
    let tar = new().file("a", &"\0".repeat(1 << 20)).end();
    let tail = [new().file("a", "1").end(), vec![0; 1 << 20]].concat();
    for bomb in [tar, tail] {
        let blob = zstd::bulk::compress(&bomb, 3).expect("zstd");
        let result = unpacked(small(1 << 20, 9), &[(blob, Digest::of(&bomb))]).result;
        let error = result.expect_err("a bomb");
        assert!(words(&error).contains("more bytes than are allowed"), "{}", words(&error));
    }
}

#[test]
fn compressions() {
    let tar = new().file("a", &"x".repeat(100_000)).file("b", "2").end();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("gzip");
        encoder.finish().expect("gzip")
    };
    let members = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    let frames = [
        zstd::bulk::compress(&tar[..700], 3).expect("zstd"),
        zstd::bulk::compress(&tar[700..], 3).expect("zstd"),
    ]
    .concat();
    for blob in [tar.clone(), gzip(&tar), members.clone(), frames] {
        let done = unpacked(LIMITS, &[(blob, Digest::of(&tar))]);
        done.result.unwrap_or_else(|error| panic!("{}", words(&error)));
        assert_eq!(listed(&done.root)[1], "b=2");
    }
    for wrong in [
        members[..members.len() - 9].to_vec(),
        members[..40].to_vec(),
        [members, b"garbage".to_vec()].concat(),
        b"\xfd7zXZ\0rest".to_vec(),
        b"BZh91AY".to_vec(),
        tar[..tar.len() - 512].to_vec(),
        b"neither this nor that".repeat(30),
        Vec::new(),
    ] {
        assert!(unpacked(LIMITS, &[(wrong, Digest::of(&tar))]).result.is_err());
    }
}

#[test]
fn diff_ids_are_checked() {
    let tar = new().file("a", "1").end();
    let hidden = [tar.clone(), b"hidden".to_vec()].concat();
    for (blob, diff_id) in [(&tar, &hidden), (&hidden, &tar)] {
        let result = unpacked(LIMITS, &[(blob.clone(), Digest::of(diff_id))]).result;
        assert!(matches!(result, Err(UnpackError::DiffId { .. })), "{result:?}");
    }
    unpacked(LIMITS, &[(hidden.clone(), Digest::of(&hidden))]).result.expect("unpacks");
}
