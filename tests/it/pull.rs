//! Pulling from a real registry what was pushed there: the same files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use forge::digest::Digest;
use forge::event::Events;
use forge::image::{Image, ImageLayer, Settings, assemble};
use forge::layer::{Compression, Files, Packed, Recipe, pack, unpack};
use forge::registry::{Access, Credentials, Push, Reference, Resolved, Source};
use forge::store::{Store, StoreError};
use forge::tree::{Node, Tree};

use crate::support::{folder, have, ok, registry};

/// Two trees, the second of which takes something away; and what they are together.
fn trees(store: &Store) -> ([(Digest, Tree); 2], Tree) {
    let (below, above) = (store.scratch("below").unwrap(), store.scratch("above").unwrap());
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let write = |root: &Path, name: &[u8], content: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let big: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect();
    let root = below.path().join("root");
    write(&root, b"usr/lib/big", &big);
    write(&root, b"usr/lib/gone", b"old");
    write(&root, b"usr/share/gone/x", b"old");
    write(&root, b"usr/bin/tool", b"#!/bin/sh\n");
    write(&root, b"caf\xe9", b"latin");
    write(&root, long.as_bytes(), b"long");
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/same")).unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    for (path, mode) in [("tmp", 0o1777), ("locked", 0o555)] {
        fs::create_dir(root.join(path)).unwrap();
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let below = store.keep_tree(&root).unwrap();
    let root = above.path().join("root");
    write(&root, b"usr/lib/new", b"new");
    write(&root, b"locked/file", b"new");
    fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o755)).unwrap();
    let above = store.keep_tree(&root).unwrap();
    let gone = ["usr/lib/gone", "usr/share/gone", "usr/share/gone/x"].map(str::as_bytes);
    assert!(gone.iter().all(|path| below.1.get(path).is_some()));
    let expected = below.1.iter().chain(above.1.iter());
    let expected = expected.filter(|(path, _)| !gone.contains(path)).collect();
    let whiteouts = gone[..2].iter().map(|path| (*path, Node::Whiteout));
    let with_whiteouts: Tree = above.1.iter().chain(whiteouts).collect();
    ([below, (above.0, with_whiteouts.with_parents())], expected)
}

fn image(store: &Store, trees: &[(Digest, Tree)], compression: Compression) -> Image {
    let layers = trees.iter().map(|(digest, tree)| {
        let mut blob = store.new_blob().unwrap();
        let recipe = Recipe { owners: Vec::new(), compression };
        let layer =
            pack(tree, Files::kept(&store.tree_path(digest)), &recipe, 2, &mut blob, &|_| {})
                .unwrap();
        blob.keep(Some((&layer.digest, "the layer"))).unwrap();
        ImageLayer { name: "layer".to_owned(), part: None, layer, tree: *digest }
    });
    let settings = Settings {
        architecture: "amd64".to_owned(),
        created: "1980-01-01T00:00:01Z".to_owned(),
        environment: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        entrypoint: vec!["/usr/bin/tool".to_owned()],
        command: Vec::new(),
        user: "1000:1000".to_owned(),
        directory: "/".to_owned(),
        labels: BTreeMap::new(),
        ports: Vec::new(),
        stop_signal: None,
        media_types: forge::image::MediaTypes::Oci,
    };
    assemble(&settings, layers.collect()).unwrap()
}

fn access(credentials: &Credentials) -> Access {
    Access::new(forge::registry::Settings {
        credentials: credentials.clone(),
        insecure: Vec::new(),
        mirrors: BTreeMap::new(),
        certificates: Vec::new(),
    })
}

/// Pulls into a store of its own and unpacks.
fn pull(name: &str, credentials: &Credentials) -> (Resolved, Tree) {
    let store = Store::open(&folder("pulled").join("store")).unwrap();
    let access = access(credentials);
    let source = Source::open(&name.parse().unwrap(), &access).unwrap();
    let resolved = source.resolve(&"linux/amd64".parse().unwrap(), &store).unwrap();
    let last = Mutex::new((0, 1));
    source
        .fetch(&resolved.layers, &store, &|done, total| {
            let mut last = last.lock().unwrap();
            *last = (last.0.max(done), total);
        })
        .unwrap();
    let (done, total) = last.into_inner().unwrap();
    assert_eq!(done, total);
    let scratch = store.scratch("base").unwrap();
    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    let layers: Vec<Packed> = resolved
        .layers
        .iter()
        .zip(&resolved.diff_ids)
        .map(|(layer, diff_id)| Packed { digest: layer.digest, diff_id: *diff_id })
        .collect();
    let open = |digest: &Digest| {
        store.open_blob(digest).map_err(|error: StoreError| std::io::Error::other(error))
    };
    let unpacked = unpack(&layers, &root, open, &|_| {}).unwrap();
    assert!(unpacked.lost.is_empty() && unpacked.owned == 0, "{unpacked:?}");
    let (_, tree) = store.keep_tree(&root).unwrap();
    (resolved, tree)
}

#[test]
fn what_was_pushed_comes_back() {
    if !have(&["docker-registry", "htpasswd", "skopeo"]) {
        return;
    }
    let folder = folder("pull");
    let (_registry, port) = registry(&folder);
    let store = Store::open(&folder.join("store")).unwrap();
    // user:secret
    let auths = format!("{{\"auths\":{{\"127.0.0.1:{port}\":{{\"auth\":\"dXNlcjpzZWNyZXQ=\"}}}}}}");
    fs::write(folder.join("config.json"), auths).unwrap();
    let variables = BTreeMap::from([("DOCKER_CONFIG".to_owned(), folder.display().to_string())]);
    let credentials = Credentials::read(&variables, None).unwrap();

    let (trees, expected) = trees(&store);
    let access = access(&credentials);
    let zstd = Compression::Zstd { level: 3 };
    for (tag, compression) in
        [("gzip", Compression::DEFAULT), ("zstd", zstd), ("none", Compression::None)]
    {
        let image = image(&store, &trees, compression);
        let name = format!("127.0.0.1:{port}/team/base:{tag}");
        let reference = Reference::for_push(&name).unwrap();
        let (sender, _events) = std::sync::mpsc::channel();
        let push = Push {
            image: &image,
            store: &store,
            tags: &[tag.to_owned()],
            origins: &BTreeMap::new(),
            doubted: &std::collections::BTreeSet::new(),
            sent: &std::collections::BTreeSet::new(),
            bring: &|_| Ok(()),
            events: &Events::new(sender),
        };
        access.repository(&reference).unwrap().push(&push).unwrap();

        let (resolved, tree) = pull(&name, &credentials);
        assert_eq!(tree, expected, "{tag}");
        assert_eq!((resolved.named, resolved.manifest), (image.digest, image.digest));
        assert_eq!(resolved.image["config"]["Env"][0], "LANG=C.UTF-8");
        let by_digest = format!("127.0.0.1:{port}/team/base@{}", image.digest);
        assert_eq!(pull(&by_digest, &credentials), (resolved, tree));
    }

    // As another program writes it, in Docker's format.
    let copy = format!("127.0.0.1:{port}/team/copy:v1");
    ok(Command::new("skopeo")
        .args(["copy", "--format=v2s2", "--src-tls-verify=false", "--dest-tls-verify=false"])
        .args(["--src-creds=user:secret", "--dest-creds=user:secret", "--dest-compress"])
        .arg(format!("docker://127.0.0.1:{port}/team/base:gzip"))
        .arg(format!("docker://{copy}")));
    let (resolved, tree) = pull(&copy, &credentials);
    assert_eq!(tree, expected);
    assert!(resolved.config.media_type.contains("docker"), "{resolved:?}");
}
