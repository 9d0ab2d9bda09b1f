//! What fetch steps know of this machine's network: DNS, certificates, proxies,
//! and the settings in which package managers name their indexes.
//!
//! None of it enters a key or an output, and no value a log. So nothing of it may decide
//! *what* is fetched: of the settings, only those that say *where* and *how* pass, from
//! variables and from files alike (see `allowed`). All of it is read once, by the command
//! line, and handed in as an [`Identity`].

mod allowed;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use allowed::Tool;

use crate::sandbox::Bind;

/// Where fetch steps find the machine's certificate authorities.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Variables that name [`CERTIFICATES`] to the tools that do not look there.
const CERTIFICATE_VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "BUNDLE_SSL_CA_CERT",
];

/// Variables of no package manager that are passed on, in small or capital letters.
const PASSED: [&str; 4] = ["http_proxy", "https_proxy", "no_proxy", "all_proxy"];

/// Files in the home folder by which package managers know their indexes, with the
/// package manager whose settings they hold. A netrc file holds only credentials.
const HOME_FILES: [(&str, Option<Tool>); 7] = [
    (".config/pip/pip.conf", Some(Tool::Pip)),
    (".pip/pip.conf", Some(Tool::Pip)),
    (".config/uv/uv.toml", Some(Tool::Uv)),
    (".netrc", None),
    (".npmrc", Some(Tool::Npm)),
    (".yarnrc.yml", Some(Tool::Yarn)),
    (".bundle/config", Some(Tool::Bundler)),
];

/// Files of the machine, seen at the same place.
const MACHINE_FILES: [(&str, Option<Tool>); 5] = [
    ("/etc/resolv.conf", None),
    ("/etc/hosts", None),
    ("/etc/pip.conf", Some(Tool::Pip)),
    ("/etc/uv/uv.toml", Some(Tool::Uv)),
    ("/etc/npmrc", Some(Tool::Npm)),
];

/// What fetch steps are given of this machine's network.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Files that are seen as they are.
    pub binds: Vec<Bind>,
    /// Files with only those settings that may pass: where each is seen, and its text.
    pub files: BTreeMap<PathBuf, String>,
    /// Variables.
    pub environment: BTreeMap<String, String>,
    /// What is not passed on: `PIP_PRE`, `/home/me/.npmrc: omit`. Names, without values.
    pub withheld: Vec<String>,
}

impl Identity {
    /// Collects what a machine has. `variables` is its environment, `home` the
    /// user's folder, `sandbox_home` the folder that steps see as theirs.
    #[must_use]
    pub fn of_machine(
        variables: &BTreeMap<String, String>,
        home: Option<&Path>,
        sandbox_home: &Path,
    ) -> Identity {
        let mut identity = Identity::default();
        for (file, tool) in MACHINE_FILES {
            identity.file(PathBuf::from(file), PathBuf::from(file), tool);
        }
        if let Some(home) = home {
            for (file, tool) in HOME_FILES {
                identity.file(home.join(file), sandbox_home.join(file), tool);
            }
        }
        let certificates = [
            variables.get("SSL_CERT_FILE").map_or("", String::as_str),
            CERTIFICATES,
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file());
        if let Some(from) = certificates {
            identity.file(from, PathBuf::from(CERTIFICATES), None);
            for name in CERTIFICATE_VARIABLES {
                identity.environment.insert(name.to_owned(), CERTIFICATES.to_owned());
            }
        }
        for (name, value) in variables {
            if identity.environment.contains_key(name) {
                continue;
            }
            // A path of this machine means nothing in the sandbox.
            let passes = match allowed::variable(name) {
                Some((_, allowed)) => allowed && !allowed::is_path(value),
                None if PASSED.contains(&name.to_ascii_lowercase().as_str()) => true,
                None => continue,
            };
            if passes {
                identity.environment.insert(name.clone(), value.clone());
            } else {
                identity.withheld.push(name.clone());
            }
        }
        identity
    }

    /// Takes a file, if it is there: whole, or what `tool` may know of it.
    fn file(&mut self, from: PathBuf, to: PathBuf, tool: Option<Tool>) {
        if !from.is_file() {
            return;
        }
        // What this user may not read, no step may read either: its tool says so.
        let (Some(tool), Ok(bytes)) = (tool, fs::read(&from)) else {
            self.binds.push(Bind { from, to, writable: false });
            return;
        };
        // Addresses and credentials are ASCII; what else stands there does not pass.
        let filtered = allowed::filter(tool, &String::from_utf8_lossy(&bytes));
        let name = |setting| format!("{}: {setting}", from.display());
        self.withheld.extend(filtered.withheld.iter().map(name));
        if !filtered.text.is_empty() {
            self.files.insert(to, filtered.text);
        }
    }

    /// Writes the files to a private `folder`, and gives all that a step is to see.
    ///
    /// # Errors
    /// The disk refused; with the path.
    pub(super) fn place(&self, folder: &Path) -> Result<Vec<Bind>, (PathBuf, io::Error)> {
        let mut binds = self.binds.clone();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .map_err(|error| (folder.to_owned(), error))?;
        for (number, (to, text)) in self.files.iter().enumerate() {
            let from = folder.join(number.to_string());
            fs::write(&from, text).map_err(|error| (from.clone(), error))?;
            binds.push(Bind { from, to: to.clone(), writable: false });
        }
        Ok(binds)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_what_names_the_network_is_passed() {
        let variables = [
            ("HTTPS_PROXY", "http://proxy.example:3128"),
            ("PIP_INDEX_URL", "https://index.example/simple"),
            ("PIP_PRE", "1"),
            ("PIP_FIND_LINKS", "/opt/wheels"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("BUNDLE_FORCE_RUBY_PLATFORM", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
        let identity = Identity::of_machine(&variables, None, Path::new("/tmp/home"));
        let names: Vec<_> = identity
            .environment
            .keys()
            .filter(|name| !CERTIFICATE_VARIABLES.contains(&name.as_str()))
            .collect();
        assert_eq!(names, ["HTTPS_PROXY", "PIP_INDEX_URL"]);
        let variables: Vec<_> =
            identity.withheld.iter().filter(|name| !name.starts_with('/')).collect();
        assert_eq!(variables, ["BUNDLE_FORCE_RUBY_PLATFORM", "PIP_FIND_LINKS", "PIP_PRE"]);
    }

    #[test]
    fn files_are_seen_without_what_chooses() {
        let home = tempfile::tempdir().expect("a folder");
        let npmrc = home.path().join(".npmrc");
        fs::write(&npmrc, "registry=https://npm.example/\nomit=dev\n").expect("written");
        fs::create_dir(home.path().join(".bundle")).expect("mkdir");
        fs::write(home.path().join(".bundle/config"), "BUNDLE_FROZEN: \"true\"\n")
            .expect("written");
        fs::write(home.path().join(".netrc"), "machine a login b password c\n").expect("written");
        let sandbox = Path::new("/tmp/home");
        let identity = Identity::of_machine(&BTreeMap::new(), Some(home.path()), sandbox);
        assert!(identity.withheld.contains(&format!("{}: omit", npmrc.display())));
        let binds = identity.place(&home.path().join("place")).expect("placed");
        let seen = |name: &str| {
            let bind = binds.iter().find(|bind| bind.to == sandbox.join(name)).expect("seen");
            fs::read_to_string(&bind.from).expect("readable")
        };
        assert_eq!(seen(".npmrc"), "registry=https://npm.example/\n");
        assert_eq!(seen(".netrc"), "machine a login b password c\n");
        assert!(!binds.iter().any(|bind| bind.to == sandbox.join(".bundle/config")));
        let private = fs::metadata(home.path().join("place")).expect("there").permissions().mode();
        assert_eq!(private & 0o777, 0o700);
    }
}
