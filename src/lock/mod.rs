//! `forge.lock`: what was chosen from what changes with time.
//!
//! ```toml
//! version = 1
//!
//! [[packages]]             # one an operating system package step
//! step = "base"
//! request = "sha256:…"     # what was asked; another question is answered anew
//! release = "trixie 13.7"  # for people
//! packages = ["libc6 2.41-12 amd64 main 2846360 sha256:… pool/main/g/glibc/…deb", …]
//!
//! [[image]]                # what a reference named when it was asked
//! reference = "docker.io/library/ruby:3.4.8-slim"
//! digest = "sha256:…"
//!
//! [[pin]]                  # one a pinned step and platform
//! step = "python-lock"
//! key = "sha256:…"
//! files = { "opt/forge/lock/locked.txt" = """…""" }
//! ```
//!
//! Pure: text in, value out, text again. The same lock gives the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::{Digest, Fields};
use crate::plan::Package;

/// The name of the lock file in the app's folder.
pub const FILE: &str = "forge.lock";

/// The format number.
const VERSION: u32 = 1;

/// A lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    packages: Vec<PackageSet>,
    images: BTreeMap<String, Digest>,
    pins: Vec<Pin>,
    used: BTreeSet<(String, Digest)>,
}

/// The exact packages of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageSet {
    /// The step.
    pub step: String,
    /// What was asked.
    pub request: Digest,
    /// The release's name and version, for people.
    pub release: String,
    /// The packages, in the order in which they are set up.
    pub packages: Vec<Package>,
}

/// The output of one pinned step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The step.
    pub step: String,
    /// What it was asked: [`crate::plan::key::pin_key`].
    pub key: Digest,
    /// Path without leading slash → text.
    pub files: BTreeMap<String, String>,
}

/// Why a lock file is not one.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockError {
    /// Not the TOML that forge writes.
    #[error("forge.lock does not parse: {0}")]
    Parse(String),
    /// Written by a newer forge.
    #[error("forge.lock has format {found}; this forge reads format {VERSION}")]
    Version {
        /// Its format.
        found: u32,
    },
    /// A pinned file whose path leads elsewhere.
    #[error("forge.lock: `{0}` is no path of a step's output")]
    Path(String),
    /// A package line that is not one.
    #[error("forge.lock: `{0}` is not a package")]
    Package(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default)]
    packages: Vec<SetDocument>,
    #[serde(default)]
    image: Vec<ImageDocument>,
    #[serde(default)]
    pin: Vec<Pin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageDocument {
    reference: String,
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetDocument {
    step: String,
    request: Digest,
    release: String,
    packages: Vec<String>,
}

/// What a package step asks for, as a name: the same names of the same release
/// on the same architecture, on top of the same packages and the same image.
#[must_use]
pub fn request(
    release: &str,
    architecture: &str,
    names: &[String],
    below: &[Package],
    image: Option<&Digest>,
) -> Digest {
    let mut fields = Fields::new("forge-packages-1");
    fields.text(release).text(architecture).texts(names.iter().map(String::as_str));
    fields.number(below.len() as u64);
    for package in below {
        fields.digest(&package.digest);
    }
    if let Some(image) = image {
        fields.text("image").digest(image);
    }
    fields.finish()
}

impl Lock {
    /// Reads the text of a lock file.
    ///
    /// # Errors
    /// A text that is not a lock file of this format.
    pub fn parse(text: &str) -> Result<Lock, LockError> {
        #[derive(Deserialize)]
        struct OnlyVersion {
            version: u32,
        }
        let parse = |error: toml::de::Error| LockError::Parse(error.to_string());
        let OnlyVersion { version } = toml::from_str(text).map_err(parse)?;
        if version != VERSION {
            return Err(LockError::Version { found: version });
        }
        let document: Document = toml::from_str(text).map_err(parse)?;
        debug_assert_eq!(document.version, VERSION);
        for path in document.pin.iter().flat_map(|pin| pin.files.keys()) {
            if path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
                return Err(LockError::Path(path.clone()));
            }
        }
        let packages = document
            .packages
            .into_iter()
            .map(|set| {
                Ok(PackageSet {
                    step: set.step,
                    request: set.request,
                    release: set.release,
                    packages: set
                        .packages
                        .iter()
                        .map(|line| package(line))
                        .collect::<Result<_, LockError>>()?,
                })
            })
            .collect::<Result<_, LockError>>()?;
        let images =
            document.image.into_iter().map(|image| (image.reference, image.digest)).collect();
        Ok(Lock { packages, images, pins: document.pin, used: BTreeSet::new() })
    }

    /// The text, with the entries that were used since it was read or that were
    /// added: what nothing asks for any more is dropped.
    #[must_use]
    pub fn text(&self) -> String {
        self.text_of(&|step, key| self.used.contains(&(step.to_owned(), *key)))
    }

    /// The text with every entry: of a build that failed nobody knows what the
    /// rest of it would have asked for.
    #[must_use]
    pub fn whole_text(&self) -> String {
        self.text_of(&|_, _| true)
    }

    fn text_of(&self, keep: &dyn Fn(&str, &Digest) -> bool) -> String {
        let mut text = String::from(
            "# Made by forge. Commit it: the same lock gives the same image.\nversion = 1\n",
        );
        let mut packages: Vec<&PackageSet> =
            self.packages.iter().filter(|set| keep(&set.step, &set.request)).collect();
        packages.sort_by(|a, b| (&a.step, a.request).cmp(&(&b.step, b.request)));
        for set in packages {
            let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
            // Writing to a String cannot fail.
            let _written = write!(
                text,
                "\n[[packages]]\nstep = {}\nrequest = \"{}\"\nrelease = {}\npackages = [\n",
                quoted(&set.step),
                set.request,
                quoted(&set.release)
            );
            for package in &set.packages {
                let line = format!(
                    "{} {} {} {} {} {} {}",
                    package.name,
                    package.version,
                    package.architecture,
                    package.archive,
                    package.size,
                    package.digest,
                    package.path
                );
                let _written = writeln!(text, "  {},", quoted(&line));
            }
            text.push_str("]\n");
        }
        for (reference, digest) in self.images.iter().filter(|(name, digest)| keep(name, digest)) {
            let quoted = toml::Value::String(reference.clone()).to_string();
            let _written =
                write!(text, "\n[[image]]\nreference = {quoted}\ndigest = \"{digest}\"\n");
        }
        let mut pins: Vec<&Pin> =
            self.pins.iter().filter(|pin| keep(&pin.step, &pin.key)).collect();
        pins.sort_by(|a, b| (&a.step, a.key).cmp(&(&b.step, b.key)));
        for pin in pins {
            let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
            let _written = write!(
                text,
                "\n[[pin]]\nstep = {}\nkey = \"{}\"\n\n[pin.files]\n",
                quoted(&pin.step),
                pin.key
            );
            for (path, content) in &pin.files {
                let _written = writeln!(text, "{} = {}", quoted(path), quoted(content));
            }
        }
        text
    }

    /// The packages that answer the request, if it was answered before.
    pub fn packages(&mut self, step: &str, request: &Digest) -> Option<Vec<Package>> {
        let set = self.packages.iter().find(|set| set.step == step && set.request == *request)?;
        self.used.insert((step.to_owned(), *request));
        Some(set.packages.clone())
    }

    /// Remembers the answer to a request.
    pub fn set_packages(&mut self, set: PackageSet) {
        self.used.insert((set.step.clone(), set.request));
        self.packages.retain(|old| old.step != set.step || old.request != set.request);
        self.packages.push(set);
    }

    /// What an image's reference named when it was asked.
    #[must_use]
    pub fn image(&mut self, reference: &str) -> Option<Digest> {
        let digest = *self.images.get(reference)?;
        self.used.insert((reference.to_owned(), digest));
        Some(digest)
    }

    /// Remembers what an image's reference names.
    pub fn set_image(&mut self, reference: &str, digest: Digest) {
        self.used.insert((reference.to_owned(), digest));
        self.images.insert(reference.to_owned(), digest);
    }

    /// The files that a pinned step made when it was asked the same.
    pub fn pin(&mut self, step: &str, key: &Digest) -> Option<BTreeMap<String, String>> {
        let pin = self.pins.iter().find(|pin| pin.step == step && pin.key == *key)?;
        self.used.insert((step.to_owned(), *key));
        Some(pin.files.clone())
    }

    /// Remembers what a pinned step made.
    pub fn set_pin(&mut self, pin: Pin) {
        self.used.insert((pin.step.clone(), pin.key));
        self.pins.retain(|old| old.step != pin.step || old.key != pin.key);
        self.pins.push(pin);
    }
}

fn package(line: &str) -> Result<Package, LockError> {
    let wrong = || LockError::Package(line.to_owned());
    let words: Vec<&str> = line.split(' ').collect();
    let [name, version, architecture, archive, size, digest, path] = words.as_slice() else {
        return Err(wrong());
    };
    // The path becomes part of an address.
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(wrong());
    }
    Ok(Package {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        architecture: (*architecture).to_owned(),
        archive: (*archive).to_owned(),
        size: size.parse().map_err(|_| wrong())?,
        digest: digest.parse().map_err(|_| wrong())?,
        path: (*path).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let mut lock = Lock::default();
        lock.set_packages(PackageSet {
            step: "base".to_owned(),
            request: Digest::of(b"request"),
            release: "trixie 13.1".to_owned(),
            packages: vec![Package {
                name: "libc6".to_owned(),
                version: "2.41-12".to_owned(),
                architecture: "amd64".to_owned(),
                archive: "main".to_owned(),
                size: 7,
                digest: Digest::of(b"deb"),
                path: "pool/main/g/glibc/libc6.deb".to_owned(),
            }],
        });
        lock.set_pin(Pin {
            step: "python-lock".to_owned(),
            key: Digest::of(b"key"),
            files: BTreeMap::from([("a/b.txt".to_owned(), "one\n\"two\" '''x'''\n".to_owned())]),
        });
        lock
    }

    #[test]
    fn text_and_back() {
        let text = sample().text();
        let mut again = Lock::parse(&text).expect("parses");
        assert_eq!(
            again.packages("base", &Digest::of(b"request")).map(|packages| packages.len()),
            Some(1)
        );
        assert!(again.pin("python-lock", &Digest::of(b"key")).is_some());
        assert_eq!(again.text(), text);
    }

    #[test]
    fn what_nothing_asks_for_is_dropped() {
        let mut again = Lock::parse(&sample().text()).expect("parses");
        assert!(again.packages("base", &Digest::of(b"another request")).is_none());
        assert!(!again.text().contains("libc6") && again.whole_text().contains("libc6"));
    }

    #[test]
    fn what_is_no_lock() {
        assert!(matches!(
            Lock::parse("version = 2\nnew = true"),
            Err(LockError::Version { found: 2 })
        ));
        assert!(matches!(Lock::parse("<<<<<<< HEAD"), Err(LockError::Parse(_))));
        for path in ["/etc/x", "a/../../x", ""] {
            let text = sample().text().replace("a/b.txt", path);
            assert!(matches!(Lock::parse(&text), Err(LockError::Path(_))), "{text}");
        }
        let text = sample().text().replace("pool/main", "pool/../..");
        assert!(matches!(Lock::parse(&text), Err(LockError::Package(_))));
    }
}
