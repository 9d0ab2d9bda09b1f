//! Who we are at a registry, from the docker configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use super::RegistryError;

/// Who we are at one registry. Never printed.
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

/// The `auths` of docker's `config.json`.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    path: PathBuf,
    auths: BTreeMap<String, Auth>,
}

#[derive(Clone, Debug, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

impl Credentials {
    /// Reads `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, if there.
    ///
    /// # Errors
    /// A file that cannot be read or is no docker configuration.
    pub fn read(
        variables: &BTreeMap<String, String>,
        home: Option<&Path>,
    ) -> Result<Credentials, RegistryError> {
        let folder = match variables.get("DOCKER_CONFIG") {
            Some(folder) => PathBuf::from(folder),
            None => match home {
                Some(home) => home.join(".docker"),
                None => return Ok(Credentials::default()),
            },
        };
        let path = folder.join("config.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => Credentials::parse(path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Credentials::default())
            }
            Err(error) => Err(RegistryError::Credentials {
                path: path.display().to_string(),
                problem: error.to_string(),
            }),
        }
    }

    fn parse(path: PathBuf, text: &str) -> Result<Credentials, RegistryError> {
        let document: Document =
            serde_json::from_str(text).map_err(|error| RegistryError::Credentials {
                path: path.display().to_string(),
                problem: error.to_string(),
            })?;
        Ok(Credentials { path, auths: document.auths })
    }

    /// User and password for a repository: those of the longest path that holds
    /// it, else those of the host.
    ///
    /// # Errors
    /// An entry that does not decode; it is never printed.
    pub(super) fn of(&self, host: &str, repository: &str) -> Result<Login, RegistryError> {
        let wanted = format!("{host}/{repository}");
        let entry = self
            .auths
            .iter()
            .filter(|(key, auth)| {
                let key = bare(key);
                !auth.auth.is_empty()
                    && (wanted == key
                        || wanted.strip_prefix(key).is_some_and(|rest| rest.starts_with('/')))
            })
            .max_by_key(|(key, _)| bare(key).len());
        let Some((key, auth)) = entry else { return Ok(Login::Nobody) };
        let wrong = || RegistryError::Credentials {
            path: self.path.display().to_string(),
            problem: format!("the entry `{key}` is not user and password in base64"),
        };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(auth.auth.trim())
            .map_err(|_| wrong())?;
        let text = String::from_utf8(bytes).map_err(|_| wrong())?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Login::Password { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Keys may be written as addresses: `https://index.docker.io/v1/` is the Hub's.
fn bare(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    match key.trim_end_matches('/') {
        "index.docker.io/v1" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        key => key.trim_end_matches("/v1").trim_end_matches("/v2"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        // user:pass, team:word, hub:secret
        let text = r#"{"auths":{
            "registry.example:5000":{"auth":"dXNlcjpwYXNz"},
            "registry.example:5000/team":{"auth":"dGVhbTp3b3Jk"},
            "https://index.docker.io/v1/":{"auth":"aHViOnNlY3JldA=="},
            "broken.example":{"auth":"***"},
            "empty.example":{}
        },"credsStore":"x"}"#;
        Credentials::parse(PathBuf::from("config.json"), text).expect("parses")
    }

    #[track_caller]
    fn check(host: &str, repository: &str, expected: Option<&str>) {
        let found = credentials().of(host, repository).expect("decodes");
        let found = match found {
            Login::Password { user, .. } => Some(user),
            _ => None,
        };
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn the_longest_path_counts() {
        check("registry.example:5000", "app", Some("user"));
        check("registry.example:5000", "team/app", Some("team"));
        check("registry.example:5000", "teams/app", Some("user"));
        check("docker.io", "library/app", Some("hub"));
        check("other.example", "app", None);
        check("empty.example", "app", None);
    }

    #[test]
    fn a_broken_entry_is_named_and_not_shown() {
        let error = credentials().of("broken.example", "a").err().expect("refused").to_string();
        assert!(error.contains("broken.example") && !error.contains("***"), "{error}");
    }
}
