//! What `rootfs` promises, as cases.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn control(stanza: &str, files: &[(&str, &str)]) -> Control {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
    Control { stanza: stanza.to_owned(), files: files.collect() }
}

fn write(root: &Path, controls: &[Control], paths: &[&str]) -> Result<(), String> {
    let list: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
    let packages: Vec<Unpacked<'_>> =
        controls.iter().map(|control| Unpacked { control, list: &list }).collect();
    write_database(root, &packages).map_err(|err| err.to_string())
}

fn read(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(DATABASE).join(path))
        .unwrap_or_else(|err| panic!("{path}: {err}"))
}

const LIB: &str =
    "Package: lib\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nDescription: l\n more\n";

#[test]
fn new_database() {
    let root = tempfile::tempdir().unwrap();
    let lib =
        control(LIB, &[("postinst", "#!/bin/sh\n"), ("conffiles", "/etc/l\n"), ("md5sums", "")]);
    write(root.path(), &[lib], &["/.", "/usr"]).unwrap();
    assert_eq!(
        read(root.path(), "status"),
        "Package: lib\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\n\
         Description: l\n more\nConffiles:\n /etc/l newconffile\n\n"
    );
    assert_eq!(read(root.path(), "info/lib:amd64.list"), "/.\n/usr\n");
    assert_eq!(read(root.path(), "info/format"), "1\n");
    let mode = |name: &str| {
        let file = root.path().join(DATABASE).join("info").join(name);
        file.metadata().unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("lib:amd64.postinst"), mode("lib:amd64.md5sums")), (0o755, 0o644));
    assert_eq!(read_database(root.path()).unwrap()["lib"].multi_arch, MultiArch::Same);
}

#[test]
fn upgrade_replaces_its_own_files_only() {
    let root = tempfile::tempdir().unwrap();
    let one = |name: &str, version: &str, files: &[(&str, &str)]| {
        control(
            &format!(
                "Package: {name}\nVersion: {version}\nArchitecture: all\nProvides: v (= 3), w\n"
            ),
            files,
        )
    };
    let old = [
        one("py", "1", &[("prerm", ""), ("conffiles", "/etc/p\n")]),
        one("py.x", "1", &[("prerm", "")]),
    ];
    write(root.path(), &old, &[]).unwrap();
    let configured = read(root.path(), "status")
        .replace("ok unpacked", "ok installed")
        .replace("newconffile", "d41d8cd98f00b204e9800998ecf8427e");
    std::fs::write(root.path().join(DATABASE).join("status"), configured).unwrap();
    let new = one("py", "2", &[("conffiles", "/etc/p\n/etc/q\n")]);
    write(root.path(), &[new], &[]).unwrap();
    let status = read(root.path(), "status");
    let stanzas: Vec<Stanza<'_>> = Stanzas::new(&status).collect();
    assert_eq!(stanzas.len(), 2);
    assert_eq!(stanzas[0].field("Status"), Some("install ok unpacked"));
    assert_eq!(stanzas[0].field("Config-Version"), Some("1"));
    assert_eq!(
        stanzas[0].field("Conffiles"),
        Some("/etc/p d41d8cd98f00b204e9800998ecf8427e\n /etc/q newconffile")
    );
    assert_eq!(stanzas[1].field("Status"), Some("install ok installed"));
    let info = root.path().join(DATABASE).join("info");
    assert!(!info.join("py.prerm").exists() && info.join("py.x.prerm").exists());
    let installed = read_database(root.path()).unwrap();
    assert_eq!(installed["py"].version.as_str(), "2");
    assert_eq!(installed["py"].provides["v"].as_ref().map(|version| version.as_str()), Some("3"));
    assert_eq!(installed["py"].provides["w"], None);
}

#[test]
fn triggers() {
    let root = tempfile::tempdir().unwrap();
    let base = control(
        "Package: base\nVersion: 1\nArchitecture: all\n",
        &[(
            "triggers",
            "# x\ninterest-noawait /usr/share/man\ninterest ldconfig\nactivate other\n",
        )],
    );
    write(root.path(), std::slice::from_ref(&base), &["/usr/share/man/a"]).unwrap();
    assert_eq!(read(root.path(), "triggers/File"), "/usr/share/man base/noawait\n");
    assert_eq!(read(root.path(), "triggers/ldconfig"), "base\n");
    assert_eq!(read(root.path(), "triggers/Unincorp"), "");
    let on_top = control("Package: top\nVersion: 1\nArchitecture: all\n", &[]);
    write(root.path(), std::slice::from_ref(&on_top), &["/usr/share/manual"]).unwrap();
    assert_eq!(read(root.path(), "triggers/Unincorp"), "");
    write(root.path(), &[on_top], &["/usr/share/man/man1/top.1"]).unwrap();
    assert_eq!(read(root.path(), "triggers/Unincorp"), "/usr/share/man -\n");
    write(root.path(), &[Control { files: BTreeMap::new(), ..base }], &[]).unwrap();
    assert_eq!(read(root.path(), "triggers/File"), "");
}

#[test]
fn hostile_roots_and_names() {
    let guard = tempfile::tempdir().unwrap();
    let root = guard.path().join("root");
    std::fs::create_dir_all(root.join("var")).unwrap();
    std::os::unix::fs::symlink("../../../..", root.join("var/lib")).unwrap();
    write(&root, &[control(LIB, &[])], &[]).unwrap();
    assert!(root.join("dpkg/status").is_file());
    assert_eq!(guard.path().read_dir().unwrap().count(), 1);
    for stanza in [
        "Package: ../x\nVersion: 1\nArchitecture: all\n",
        "Package: x\nVersion: 1\nMulti-Arch: same\nArchitecture: a/b\n",
    ] {
        assert!(write(&root, &[control(stanza, &[])], &[]).is_err(), "{stanza}");
    }
}

#[test]
fn merged_usr() {
    let root = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        prepare(root.path(), "amd64").unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        let target = std::fs::read_link(root.path().join(name)).unwrap();
        assert_eq!(target, Path::new("usr").join(name));
        assert!(root.path().join(target).is_dir());
    }
}

#[test]
fn no_database() {
    let root = tempfile::tempdir().unwrap();
    assert!(read_database(root.path()).unwrap().is_empty());
}

#[test]
fn script() {
    let script = configure_script(&["base-files", "$(evil)", "libstdc++6"]);
    assert!(script.contains("\npackages='base-files libstdc++6'\n"));
    assert!(!script.contains("@PACKAGES@") && !script.contains("evil"));
    let checked = std::process::Command::new("/bin/sh").args(["-n", "-c", &script]).status();
    assert!(checked.unwrap().success());
}
