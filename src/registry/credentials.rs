//! Who we are at a registry: what docker, podman and CI have written down.
//!
//! | | asked in this order |
//! | --- | --- |
//! | 1 | `CNB_REGISTRY_AUTH`: a JSON object, registry → `Authorization` header |
//! | 2 | the file that `REGISTRY_AUTH_FILE` names |
//! | 3 | `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json` |
//! | 4 | `$XDG_RUNTIME_DIR/containers/auth.json` |
//! | 5 | `$XDG_CONFIG_HOME/containers/auth.json`, else `~/.config/containers/auth.json` |
//!
//! In a file, the entry of the longest path that holds the repository counts; with equal paths
//! `credHelpers` before `auths`, and `credsStore` last. Nothing of all this is ever printed:
//! errors name the file and the entry.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::{RegistryError, helper};

/// What the Hub is called where credentials are kept.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Who we are at one registry. Has no text form, as it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// Nobody.
    Nobody,
    /// A user with a password, or what stands for one.
    Password { user: String, password: String },
    /// What the token server changes into tokens.
    Identity(String),
    /// A token for the registry itself.
    Token(String),
}

/// All that is known; read once.
#[derive(Clone, Default)]
pub struct Credentials {
    files: Vec<File>,
    environment: BTreeMap<String, String>,
    patience: Duration,
    /// Helper and server → who we are: asking may take seconds.
    asked: Arc<Mutex<BTreeMap<(String, String), Login>>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.files.iter().map(|file| &file.path)).finish()
    }
}

#[derive(Clone)]
struct File {
    path: PathBuf,
    document: Document,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
    /// From `CNB_REGISTRY_AUTH`.
    #[serde(skip)]
    header: String,
}

impl Credentials {
    /// Reads the files that there are. Helpers are asked when a registry is spoken to.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it should be.
    pub fn read(
        variables: &BTreeMap<String, String>,
        home: Option<&Path>,
    ) -> Result<Credentials, RegistryError> {
        let variable = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        let folder = |name: &str, instead: &str| {
            let instead = || home.filter(|_| !instead.is_empty()).map(|home| home.join(instead));
            variable(name).map(PathBuf::from).or_else(instead)
        };
        let mut files = Vec::new();
        if let Some(text) = variable("CNB_REGISTRY_AUTH") {
            files.push(of_buildpacks(text)?);
        }
        let named = variable("REGISTRY_AUTH_FILE").map(PathBuf::from);
        if let Some(path) = named.as_ref().filter(|path| !path.is_file()) {
            return Err(wrong(path, "REGISTRY_AUTH_FILE names it, and it is no file"));
        }
        let usual = [
            folder("DOCKER_CONFIG", ".docker").map(|folder| folder.join("config.json")),
            folder("XDG_RUNTIME_DIR", "").map(|folder| folder.join("containers/auth.json")),
            folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("containers/auth.json")),
        ];
        for path in named.into_iter().chain(usual.into_iter().flatten()) {
            match std::fs::read_to_string(&path) {
                Ok(text) => files.push(File::parse(path, &text)?),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(wrong(&path, &error.to_string())),
            }
        }
        Ok(Credentials {
            files,
            environment: variables.clone(),
            patience: helper::PATIENCE,
            asked: Arc::default(),
        })
    }

    /// Who we are for a repository.
    ///
    /// # Errors
    /// An entry that does not decode, a helper that fails.
    pub(super) fn of(&self, host: &str, repository: &str) -> Result<Login, RegistryError> {
        for file in &self.files {
            let login = match file.choose(host, repository) {
                None => continue,
                Some(Choice::Entry(key, entry)) => {
                    entry.login().map_err(|problem| wrong_entry(&file.path, key, problem))?
                }
                Some(Choice::Helper(name)) => self.ask(&file.path, name, host)?,
            };
            if login != Login::Nobody {
                return Ok(login);
            }
        }
        Ok(Login::Nobody)
    }

    fn ask(&self, file: &Path, name: &str, host: &str) -> Result<Login, RegistryError> {
        let server = if bare(host) == "docker.io" { HUB_KEY } else { host };
        let key = (name.to_owned(), server.to_owned());
        // Held while the helper runs, so that it is asked once.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(login) = asked.get(&key) {
            return Ok(login.clone());
        }
        let login =
            helper::get(name, server, &self.environment, self.patience).map_err(|problem| {
                RegistryError::Credentials {
                    path: format!("docker-credential-{name}"),
                    problem: format!("{problem} (`{}` names it for {server})", file.display()),
                }
            })?;
        asked.insert(key, login.clone());
        Ok(login)
    }
}

enum Choice<'c> {
    Entry(&'c str, &'c Entry),
    Helper(&'c str),
}

impl File {
    fn parse(path: PathBuf, text: &str) -> Result<File, RegistryError> {
        // The message of the parser has line and column; it shows no strings.
        let document = serde_json::from_str(text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            wrong(&path, &format!("it is not the JSON that it should be, at {place}"))
        })?;
        Ok(File { path, document })
    }

    /// The entry or helper of the longest path that holds the repository.
    fn choose(&self, host: &str, repository: &str) -> Option<Choice<'_>> {
        let wanted = format!("{host}/{repository}");
        let holds = |key: &str| {
            let rest = wanted.strip_prefix(bare(key));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let document = &self.document;
        let entry = document
            .auths
            .iter()
            .filter(|(key, entry)| !entry.is_empty() && holds(key))
            .max_by_key(|(key, _)| bare(key).len());
        let helper = document
            .cred_helpers
            .iter()
            .filter(|(key, name)| !name.is_empty() && holds(key))
            .max_by_key(|(key, _)| bare(key).len());
        match (entry, helper) {
            (Some((key, entry)), Some((of, _))) if bare(key).len() > bare(of).len() => {
                Some(Choice::Entry(key, entry))
            }
            (_, Some((_, name))) => Some(Choice::Helper(name)),
            (Some((key, entry)), None) => Some(Choice::Entry(key, entry)),
            (None, None) if !document.creds_store.is_empty() => {
                Some(Choice::Helper(&document.creds_store))
            }
            (None, None) => None,
        }
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        let all = [&self.auth, &self.username, &self.identitytoken, &self.registrytoken];
        all.iter().all(|text| text.is_empty()) && self.header.is_empty()
    }

    fn login(&self) -> Result<Login, &'static str> {
        let (mut user, mut password) = (self.username.clone(), self.password.clone());
        if !self.header.is_empty() {
            let (scheme, value) = self.header.split_once(' ').unwrap_or((&self.header, ""));
            return match scheme.to_ascii_lowercase().as_str() {
                "basic" => {
                    decoded(value).map(|(user, password)| Login::Password { user, password })
                }
                "bearer" => Ok(Login::Token(value.trim().to_owned())),
                "x-identity" => Ok(Login::Identity(value.trim().to_owned())),
                _ => Err("is neither `Basic …`, `Bearer …` nor `X-Identity …`"),
            };
        }
        if !self.registrytoken.is_empty() {
            return Ok(Login::Token(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Login::Identity(self.identitytoken.clone()));
        }
        if !self.auth.is_empty() {
            (user, password) = decoded(&self.auth)?;
        }
        Ok(if user == "<token>" {
            Login::Identity(password)
        } else {
            Login::Password { user, password }
        })
    }
}

/// User and password.
fn decoded(text: &str) -> Result<(String, String), &'static str> {
    const WRONG: &str = "is not user and password in base64";
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| WRONG)?;
    let text = String::from_utf8(bytes).map_err(|_| WRONG)?;
    let (user, password) = text.split_once(':').ok_or(WRONG)?;
    // As docker does: some writers pad.
    Ok((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

fn of_buildpacks(text: &str) -> Result<File, RegistryError> {
    let path = PathBuf::from("CNB_REGISTRY_AUTH");
    let headers: BTreeMap<String, String> = serde_json::from_str(text)
        .map_err(|_| wrong(&path, "it is not a JSON object of registries and headers"))?;
    let auths = headers
        .into_iter()
        .map(|(key, header)| (key, Entry { header, ..Entry::default() }))
        .collect();
    Ok(File { path, document: Document { auths, ..Document::default() } })
}

fn wrong(path: &Path, problem: &str) -> RegistryError {
    RegistryError::Credentials { path: path.display().to_string(), problem: problem.to_owned() }
}

fn wrong_entry(path: &Path, key: &str, problem: &str) -> RegistryError {
    wrong(path, &format!("the entry `{key}` {problem}"))
}

/// Keys may be written as addresses: `https://index.docker.io/v1/` is the Hub's.
fn bare(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    match key.trim_end_matches('/') {
        "index.docker.io/v1" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        key => key.strip_suffix("/v1").or(key.strip_suffix("/v2")).unwrap_or(key),
    }
}

#[cfg(test)]
mod tests;
