//! What fetch steps know of this machine's network: DNS, certificates, proxies,
//! and the settings in which package managers name their indexes.
//!
//! None of it enters a key, a log or an output. All of it is read once, by the
//! command line, and handed in as an [`Identity`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// Variables that are passed on, whole or by their beginning.
const PASSED: [&str; 8] =
    ["http_proxy", "https_proxy", "no_proxy", "all_proxy", "pip_", "uv_", "npm_config_", "bundle_"];

/// Beginnings of variables that would send results to other places, or that
/// say where things lie on this machine.
const WITHHELD: [&str; 13] = [
    "pip_target",
    "pip_prefix",
    "pip_user",
    "pip_root",
    "pip_cache",
    "pip_src",
    "pip_require_virtualenv",
    "pip_config_file",
    "uv_cache",
    "uv_project",
    "uv_system",
    "bundle_path",
    "bundle_app_config",
];

/// Files in the home folder by which package managers know their indexes.
const HOME_FILES: [&str; 7] = [
    ".config/pip/pip.conf",
    ".pip/pip.conf",
    ".config/uv/uv.toml",
    ".netrc",
    ".npmrc",
    ".yarnrc.yml",
    ".bundle/config",
];

/// Files of the machine, seen at the same place.
const MACHINE_FILES: [&str; 5] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/uv/uv.toml", "/etc/npmrc"];

/// What fetch steps are given of this machine's network.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Files.
    pub binds: Vec<Bind>,
    /// Variables.
    pub environment: BTreeMap<String, String>,
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
        let mut bind = |from: PathBuf, to: PathBuf| {
            if from.is_file() {
                identity.binds.push(Bind { from, to, writable: false });
            }
        };
        for file in MACHINE_FILES {
            bind(PathBuf::from(file), PathBuf::from(file));
        }
        if let Some(home) = home {
            for file in HOME_FILES {
                bind(home.join(file), sandbox_home.join(file));
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
            bind(from, PathBuf::from(CERTIFICATES));
            for name in CERTIFICATE_VARIABLES {
                identity.environment.insert(name.to_owned(), CERTIFICATES.to_owned());
            }
        }
        for (name, value) in variables {
            let lower = name.to_ascii_lowercase();
            let passed = PASSED.iter().any(|start| lower.starts_with(start));
            let withheld = WITHHELD.iter().any(|start| lower.starts_with(start));
            // A path of this machine means nothing in the sandbox.
            if passed
                && !withheld
                && !value.starts_with('/')
                && !identity.environment.contains_key(name)
            {
                identity.environment.insert(name.clone(), value.clone());
            }
        }
        identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_the_network_is_passed() {
        let variables = [
            ("HTTPS_PROXY", "http://proxy.example:3128"),
            ("PIP_INDEX_URL", "https://index.example/simple"),
            ("PIP_TARGET", "x"),
            ("PIP_FIND_LINKS", "/opt/wheels"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("UV_CACHE_DIR", "x"),
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
    }
}
