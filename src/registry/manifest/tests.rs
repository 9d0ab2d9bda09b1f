//! Documents of all kinds, and which image of an index is meant.

use serde_json::json;

use super::*;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(b"x"), "size": 1})
}

fn manifest(media_type: &str, layer: &str) -> Value {
    json!({"schemaVersion": 2, "mediaType": media_type,
        "config": descriptor(CONFIG_TYPES[0]), "layers": [descriptor(layer)]})
}

#[track_caller]
fn check(document: &Value, content_type: Option<&str>, expected: Result<(), &str>) {
    let found = parse(document.to_string().as_bytes(), content_type);
    assert_eq!(
        found.map(|_| ()).map_err(|error| error.to_string()),
        expected.map_err(str::to_owned)
    );
}

#[test]
fn layer_types() {
    for good in [
        "application/vnd.oci.image.layer.v1.tar",
        GZIP,
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ] {
        check(&manifest(MANIFEST_TYPES[0], good), None, Ok(()));
    }
    let digest = Digest::of(b"x");
    for foreign in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let refused =
            format!("layer {digest} is of type `{foreign}`: such layers may not be redistributed");
        check(&manifest(MANIFEST_TYPES[0], foreign), None, Err(&refused));
    }
    let unknown = "application/vnd.oci.image.layer.v1.tar+br";
    let refused = format!("layer {digest} is of type `{unknown}`, which forge cannot unpack");
    check(&manifest(MANIFEST_TYPES[0], unknown), None, Err(&refused));
}

#[test]
fn documents() {
    let good = manifest(MANIFEST_TYPES[1], GZIP);
    check(&good, Some("application/vnd.docker.distribution.manifest.v2+json; x=y"), Ok(()));
    check(&good, Some("application/json"), Ok(()));
    let misnamed = |name: &str| format!("its manifest is called `{name}`, which it is not");
    check(&good, Some(INDEX_TYPES[0]), Err(&misnamed(INDEX_TYPES[0])));
    check(&good, Some(MANIFEST_TYPES[0]), Err(&misnamed(MANIFEST_TYPES[0])));
    check(&manifest(INDEX_TYPES[0], GZIP), None, Err(&misnamed(INDEX_TYPES[0])));
    let mut both = good.clone();
    both["manifests"] = json!([]);
    let ambiguous = "its manifest could be a manifest and an index at once";
    check(&both, None, Err(ambiguous));
    check(&json!({"schemaVersion": 2, "manifests": []}), None, Ok(()));
    check(
        &json!({"schemaVersion": 2}),
        None,
        Err("it has neither a configuration with layers nor a list of manifests"),
    );
    let first = "its manifest is of Docker's first schema, which is out of use: push the image again with a tool of today";
    check(&json!({"schemaVersion": 1, "fsLayers": [], "history": []}), None, Err(first));
    let mut chart = good;
    chart["config"] = descriptor("application/vnd.cncf.helm.config.v1+json");
    let refused = "its configuration is of type `application/vnd.cncf.helm.config.v1+json`, so it is not an image";
    check(&chart, None, Err(refused));
}

#[test]
fn malformed() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let good = manifest(MANIFEST_TYPES[0], GZIP).to_string();
    for text in [
        "",
        "[]",
        &deep,
        &good.replace("\"size\":1", "\"size\":-1"),
        &good.replace("sha256:", "sha256:../"),
        &good.replace("\"schemaVersion\":2", "\"schemaVersion\":2,\"schemaVersion\":2"),
    ] {
        let found = parse(text.as_bytes(), None);
        assert!(matches!(found, Err(ManifestError::Malformed { .. })), "{text:.80}");
    }
}

#[track_caller]
fn chosen(platforms: &[&str], wanted: &str, expected: Result<usize, &str>) {
    let entries: Vec<Value> = platforms
        .iter()
        .enumerate()
        .map(|(size, platform)| {
            let mut entry = descriptor(MANIFEST_TYPES[0]);
            entry["size"] = json!(size);
            if let Ok(platform) = platform.parse::<Platform>() {
                entry["platform"] =
                    json!({"os": platform.os, "architecture": platform.architecture});
                if let Some(variant) = platform.variant {
                    entry["platform"]["variant"] = json!(variant);
                }
            }
            entry
        })
        .collect();
    let document = json!({"schemaVersion": 2, "manifests": entries});
    let Ok(Manifest::Index(choices)) = parse(document.to_string().as_bytes(), None) else {
        panic!("no index");
    };
    let found = choose(&choices, &wanted.parse().expect("a platform"));
    assert_eq!(
        found.map(|found| found.size as usize).map_err(|error| error.to_string()),
        expected.map_err(str::to_owned),
        "{platforms:?} {wanted}"
    );
}

#[test]
fn platforms() {
    let all = ["linux/arm/v5", "linux/arm/v7", "linux/amd64", "linux/arm64/v8", "linux/386"];
    chosen(&all, "linux/amd64", Ok(2));
    chosen(&all, "linux/arm64", Ok(3));
    chosen(&all, "linux/arm64/v8", Ok(3));
    chosen(&all, "linux/arm", Ok(1));
    chosen(&all, "linux/arm/v5", Ok(0));
    chosen(
        &["linux/arm64", "unknown/unknown", "windows/amd64"],
        "linux/amd64",
        Err("it is not for linux/amd64, but for linux/arm64, windows/amd64"),
    );
    chosen(&[], "linux/amd64", Err("it is not for linux/amd64, but for no platform at all"));
    // A newer processor's image comes after the one for all.
    chosen(&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Ok(1));
    chosen(&["linux/arm64", "linux/arm64/v8"], "linux/arm64/v8", Ok(1));
    // One that says nothing is looked at, several are not.
    chosen(&[""], "linux/amd64", Ok(0));
    chosen(&["", "linux/amd64"], "linux/amd64", Ok(1));
}

#[test]
fn configurations() {
    let wanted: Platform = "linux/amd64".parse().expect("a platform");
    let good = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]}});
    let check = |change: &dyn Fn(&mut Value), expected: Option<&str>| {
        let mut config = good.clone();
        change(&mut config);
        let found = check_config(&config, 1, &wanted).err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), expected);
    };
    check(&|_| {}, None);
    check(
        &|config| config["architecture"] = json!("arm64"),
        Some("it is not for linux/amd64, but for linux/arm64"),
    );
    check(&|config| config["os"] = json!(""), Some("its configuration has no usable `os`"));
    check(
        &|config| config["rootfs"]["diff_ids"] = json!([]),
        Some("it has 1 layers, and its configuration names 0"),
    );
    for wrong in [json!(["sha256:../x"]), json!([1]), json!("x"), Value::Null] {
        check(
            &|config| config["rootfs"]["diff_ids"] = wrong.clone(),
            Some("its configuration has no usable `rootfs.diff_ids`"),
        );
    }
}

#[test]
fn platform_names() {
    for wrong in ["linux", "linux/", "", "a/b/c/d", "linux/amd 64"] {
        assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
    }
    let text = "linux/arm/v7";
    assert_eq!(text.parse::<Platform>().expect("a platform").to_string(), text);
}
