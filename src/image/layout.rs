//! An image as an OCI image layout: a folder that tools read (`skopeo copy
//! oci:DIR:TAG`, `umoci`), as in the OCI image specification, `image-layout.md`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{Image, ImageError};
use crate::digest::Digest;
use crate::store::Store;

/// The annotation that names an image in an index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { action, path, source }
}

/// Adds the image to the layout at `folder`, making it if it is not there.
/// Another image of one of the `names` loses that name; writers take turns.
///
/// # Errors
/// A folder that is something else; a disk that refuses.
pub fn write(
    image: &Image,
    store: &Store,
    folder: &Path,
    names: &[String],
) -> Result<(), ImageError> {
    let blobs = folder.join("blobs/sha256");
    if let Some(stranger) = strangers(folder)? {
        return Err(ImageError::NotALayout {
            path: folder.to_owned(),
            problem: format!("it holds `{stranger}`"),
        });
    }
    fs::create_dir_all(&blobs).map_err(failed("make", &blobs))?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(".forge-lock"))
        .map_err(failed("lock", folder))?;
    lock.lock().map_err(failed("lock", folder))?;
    for layer in &image.layers {
        let target = blobs.join(layer.layer.digest.hex());
        if fs::metadata(&target).is_ok_and(|there| there.len() == layer.layer.size) {
            continue;
        }
        let mut from = store.open_blob(&layer.layer.digest)?;
        write_file(&blobs, &target, |file| io::copy(&mut from, file).map(drop))?;
    }
    for (digest, bytes) in [(&image.config_digest, &image.config), (&image.digest, &image.manifest)]
    {
        write_file(&blobs, &blobs.join(digest.hex()), |file| file.write_all(bytes))?;
    }
    let marker = folder.join("oci-layout");
    write_file(folder, &marker, |file| file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#))?;
    let index_path = folder.join("index.json");
    let index = updated_index(&index_path, image, names)?;
    write_file(folder, &index_path, |file| file.write_all(&index))
}

/// Something that has no place in a layout, in a folder that is none.
fn strangers(folder: &Path) -> Result<Option<String>, ImageError> {
    if folder.join("oci-layout").exists() {
        return Ok(None);
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", folder)(error)),
    };
    Ok(entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| !["blobs", ".forge-lock", "index.json"].contains(&name.as_str())))
}

fn updated_index(path: &Path, image: &Image, names: &[String]) -> Result<Vec<u8>, ImageError> {
    let problem = |text: String| ImageError::NotALayout { path: path.to_owned(), problem: text };
    let mut manifests = match fs::read(path) {
        Ok(bytes) => {
            let index: Value =
                serde_json::from_slice(&bytes).map_err(|error| problem(error.to_string()))?;
            index
                .get("manifests")
                .and_then(Value::as_array)
                .cloned()
                .ok_or_else(|| problem("index.json has no `manifests`".to_owned()))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed("read", path)(error)),
    };
    manifests.retain(|entry| {
        let name = entry.pointer(&format!("/annotations/{REF_NAME}")).and_then(Value::as_str);
        !names.iter().any(|new| Some(new.as_str()) == name)
    });
    manifests.extend(descriptors(image, names));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    serde_json::to_vec(&index).map_err(|error| problem(error.to_string()))
}

fn write_file(
    folder: &Path,
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), ImageError> {
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed("write", path))?;
    fill(file.as_file_mut())
        .and_then(|()| {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o644))
        })
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed("write", path))?;
    file.persist(path).map_err(|error| failed("write", path)(error.error))?;
    Ok(())
}

/// The image under each of its names.
fn descriptors(image: &Image, names: &[String]) -> Vec<Value> {
    names
        .iter()
        .map(|name| {
            json!({
                "mediaType": image.media_types.manifest(),
                "digest": image.digest.to_string(),
                "size": image.manifest.len(),
                "annotations": BTreeMap::from([(REF_NAME, name)]),
            })
        })
        .collect()
}

/// The files of a layout that holds this image alone, in the order in which an
/// archive carries them: what is small first, so that readers of a stream know
/// the image before its layers come.
#[must_use]
pub fn small_files(image: &Image, names: &[String]) -> Vec<(String, Vec<u8>)> {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": descriptors(image, names),
    });
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        (blob(&image.digest), image.manifest.clone()),
        (blob(&image.config_digest), image.config.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{layer, settings};
    use super::*;

    #[test]
    fn names_move_and_other_images_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("opens");
        let out = folder.path().join("out");
        store.write_blob(b"one").expect("written");
        store.write_blob(b"two").expect("written");
        let image = |blob: &[u8]| {
            super::super::assemble(&settings(), vec![layer(blob)]).expect("assembles")
        };
        let (one, two) = (image(b"one"), image(b"two"));
        for (image, name) in [(&one, "a"), (&two, "b"), (&two, "a")] {
            write(image, &store, &out, &[name.to_owned()]).expect("writes");
        }
        let index: Value =
            serde_json::from_slice(&fs::read(out.join("index.json")).expect("read")).expect("json");
        let found: Vec<_> = index["manifests"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| {
                (
                    entry["annotations"][REF_NAME].as_str(),
                    entry["digest"].as_str().map(str::to_owned),
                )
            })
            .collect();
        assert_eq!(
            found,
            [(Some("b"), Some(two.digest.to_string())), (Some("a"), Some(two.digest.to_string()))]
        );
    }

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("opens");
        let home = folder.path().join("home");
        fs::create_dir(&home).expect("mkdir");
        fs::write(home.join("letter"), "").expect("write");
        let image = super::super::assemble(&settings(), Vec::new()).expect("assembles");
        assert!(matches!(
            write(&image, &store, &home, &["x".to_owned()]),
            Err(ImageError::NotALayout { .. })
        ));
    }
}
