//! Certificates of registries, in docker's layout:
//!
//! ```text
//! <folder>/<host>[:<port>]/
//!   *.crt    authorities that are trusted for this registry, besides the machine's
//!   *.cert   who we are, for registries that ask for a certificate; beside it
//!   *.key    its key, under the same name
//! ```
//!
//! Several folders count together: `/etc/docker/certs.d`, `/etc/containers/certs.d`,
//! `~/.config/containers/certs.d`.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, Identity};

use super::RegistryError;
use crate::download::Trust;

/// The folders of one registry, those that are there.
pub(super) fn folders(all: &[PathBuf], host: &str) -> impl Iterator<Item = PathBuf> {
    all.iter().map(move |folder| folder.join(host)).filter(|folder| folder.is_dir())
}

/// What the folders hold for the registry.
pub(super) fn read(all: &[PathBuf], host: &str) -> Result<Trust, RegistryError> {
    let mut trust = Trust::default();
    for folder in folders(all, host) {
        for path in files(&folder, host)? {
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("crt") => {
                    let found = Certificate::from_pem_bundle(&bytes(&path, host)?)
                        .map_err(|error| wrong(&path, host, &cause(&error)))?;
                    if found.is_empty() {
                        return Err(wrong(&path, host, "it holds no certificate"));
                    }
                    trust.authorities.extend(found);
                }
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.is_file() {
                        return Err(wrong(&path, host, "its `.key` is not beside it"));
                    }
                    let both = [bytes(&path, host)?, b"\n".to_vec(), bytes(&key, host)?].concat();
                    let found = Identity::from_pem(&both)
                        .map_err(|error| wrong(&path, host, &cause(&error)))?;
                    // Of several, the first by name: one is all that can be shown.
                    trust.identity.get_or_insert(found);
                }
                Some("key") if !path.with_extension("cert").is_file() => {
                    let problem = "its `.cert` is not beside it (authorities end in `.crt`)";
                    return Err(wrong(&path, host, problem));
                }
                _ => {}
            }
        }
    }
    Ok(trust)
}

fn files(folder: &Path, host: &str) -> Result<Vec<PathBuf>, RegistryError> {
    let failed = |error: std::io::Error| wrong(folder, host, &error.to_string());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    files.sort();
    Ok(files)
}

fn bytes(path: &Path, host: &str) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|error| wrong(path, host, &error.to_string()))
}

fn cause(error: &reqwest::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn wrong(path: &Path, host: &str, problem: &str) -> RegistryError {
    RegistryError::Certificates {
        path: path.display().to_string(),
        registry: host.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: Option<&str>) {
        let all = tempfile::tempdir().expect("a folder");
        let folder = all.path().join("r.example:5000");
        fs::create_dir(&folder).expect("a folder");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("write");
        }
        let found = read(&[all.path().to_owned()], "r.example:5000").err();
        let found = found.map(|error| error.to_string());
        match expected {
            None => assert_eq!(found, None),
            Some(part) => assert!(found.as_ref().is_some_and(|f| f.contains(part)), "{found:?}"),
        }
        assert!(read(&[all.path().to_owned()], "other.example").is_ok());
    }

    // That right ones are used is tested with a real registry: tests/it/registries.rs.
    #[test]
    fn wrong_files_are_named() {
        check(&[("readme.txt", "x")], None);
        check(&[("ca.crt", "x")], Some("it holds no certificate"));
        check(&[("client.cert", "x")], Some("its `.key` is not beside it"));
        check(&[("client.key", "x")], Some("its `.cert` is not beside it"));
        check(&[("client.cert", "x"), ("client.key", "x")], Some("client.cert"));
    }
}
