//! Same inputs, same bytes: other folders, users, umasks, clocks, time zones, and
//! ways of isolation give the same image, and other tools accept it.

use std::fs;
use std::process::Command;

use crate::support::{Forge, example, folder, have, need_root, ok, warm, warm_lock};

#[test]
fn another_builder_gives_the_same_digest() {
    if !have(&["faketime", "setpriv"]) || !need_root() {
        return;
    }
    let app = example("django-logbook");
    let moved = folder("elsewhere").join("a b");
    fs::rename(&app, &moved).unwrap();
    warm_lock(&moved);
    let forge = Forge::new(&folder("store"))
        .by_caller()
        .with("TZ", "Pacific/Kiritimati")
        .with("LC_ALL", "C")
        .with("HOME", "/root")
        .under(&["sh", "-c", "umask 077; exec faketime -f +3d \"$@\"", "sh"]);
    assert_eq!(forge.build(&moved, &["--jobs", "1"]), warm().2);
}

#[test]
fn without_namespaces_the_digest_is_the_same() {
    if !have(&["setpriv"]) || !need_root() {
        return;
    }
    let app = example("django-logbook");
    warm_lock(&app);
    let forge = Forge::new(&folder("store")).by_caller().with("FORGE_SANDBOX", "chroot");
    assert_eq!(forge.build(&app, &[]), warm().2);
}

#[test]
fn other_tools_accept_the_image() {
    if !have(&["skopeo", "umoci", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, digest) = warm();
    let out = folder("out");
    let at = |kind: &str, name: &str| format!("{kind}:{}/{name}", out.display());
    let outputs =
        [at("oci", "layout"), at("oci-archive", "image.oci"), at("docker-archive", "image.tar")];
    let mut arguments = vec!["--tag", "localhost:5000/logbook:v2"];
    for output in &outputs {
        arguments.extend(["--output", output]);
    }
    Forge::new(store).build(app, &arguments);
    for source in [at("oci", "layout:v2"), at("oci-archive", "image.oci:v2")] {
        let found =
            ok(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}", &source]));
        assert_eq!(found.trim_end(), digest, "{source}");
    }
    ok(Command::new("skopeo").args(["inspect", &at("docker-archive", "image.tar")]));
    let bundle = out.join("bundle");
    ok(Command::new("umoci").args(["unpack", "--image"]).arg(out.join("layout:v2")).arg(&bundle));
    let root = bundle.join("rootfs");
    assert!(root.join("workspace/staticfiles/staticfiles.json").is_file());
    assert!(root.join("layers/venv/bin/gunicorn").is_file());
    // Compilers exist only while steps run.
    assert!(!root.join("usr/bin/gcc").exists() && !root.join("usr/include/postgresql").exists());
    let owner = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::symlink_metadata(root.join(path)).unwrap().uid()
    };
    assert_eq!(
        (owner("workspace/manage.py"), owner("layers/venv/bin"), owner("usr/bin")),
        (1000, 0, 0)
    );
}
