//! An image in one file: an OCI archive (a layout as a tar) or what `docker
//! load` reads.

use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use serde_json::json;
use tar::{Builder, Header};

use super::{Image, ImageError, layout};
use crate::store::Store;
use crate::tree::STAMP;

/// Which kind of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A layout as a tar: `skopeo copy oci-archive:`, `podman load`.
    Oci,
    /// What `docker load` reads: `manifest.json`, configuration and layers.
    Docker,
}

/// Writes the archive to `path`, whole or not at all. `names` are references
/// such as `registry/app:tag`; for an OCI archive, tags.
///
/// # Errors
/// A layer that is missing from the store; a disk that refuses.
pub fn write(
    image: &Image,
    store: &Store,
    path: &Path,
    kind: Kind,
    names: &[String],
) -> Result<(), ImageError> {
    let failed = |source| ImageError::Io { action: "write", path: path.to_owned(), source };
    // A link is followed; a pipe or device is written to, never replaced.
    let followed = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = followed.as_path();
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
        return write_into(image, store, &mut BufWriter::new(file), kind, names, path);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    write_to(image, store, &mut BufWriter::new(file.as_file_mut()), kind, names).map_err(
        |error| match error {
            Failure::Io(source) => failed(source),
            Failure::Image(error) => error,
        },
    )?;
    use std::os::unix::fs::PermissionsExt;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Writes the archive into something that is open already; `path` is what errors call it.
///
/// # Errors
/// A layer that is missing from the store; a receiver that refuses.
pub fn write_into(
    image: &Image,
    store: &Store,
    out: &mut impl Write,
    kind: Kind,
    names: &[String],
    path: &Path,
) -> Result<(), ImageError> {
    write_to(image, store, out, kind, names).map_err(|error| match error {
        Failure::Io(source) => ImageError::Io { action: "write", path: path.to_owned(), source },
        Failure::Image(error) => error,
    })
}

enum Failure {
    Io(io::Error),
    Image(ImageError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Failure {
        Failure::Image(error.into())
    }
}

fn write_to(
    image: &Image,
    store: &Store,
    out: &mut impl Write,
    kind: Kind,
    names: &[String],
) -> Result<(), Failure> {
    let mut tar = Builder::new(out);
    let layer_name = |layer: &super::ImageLayer| match kind {
        Kind::Oci => format!("blobs/sha256/{}", layer.layer.digest.hex()),
        // `docker load` finds the compression by looking at the bytes.
        Kind::Docker => format!("{}.tar.{}", layer.layer.digest.hex(), layer.layer.compression),
    };
    let small = match kind {
        Kind::Oci => layout::small_files(image, names),
        Kind::Docker => {
            let config = format!("{}.json", image.config_digest.hex());
            // The same layer twice is one file.
            let layers: Vec<String> = image.layers.iter().map(layer_name).collect();
            let manifest = json!([{ "Config": config, "RepoTags": names, "Layers": layers }]);
            vec![
                (config, image.config.clone()),
                ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
            ]
        }
    };
    for (name, bytes) in &small {
        append(&mut tar, name, bytes.len() as u64, bytes.as_slice())?;
    }
    let mut written = std::collections::BTreeSet::new();
    for layer in &image.layers {
        if written.insert(layer.layer.digest) {
            let file = store.open_blob(&layer.layer.digest)?;
            append(&mut tar, &layer_name(layer), layer.layer.size, file)?;
        }
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

fn append(
    tar: &mut Builder<impl Write>,
    name: &str,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(STAMP.unsigned_abs());
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, content)
}
