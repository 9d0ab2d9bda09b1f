//! How registries are reached, and one handle for each repository.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::blocking::Client;

use super::reference::{api_host, is_loopback};
use super::{Credentials, Reference, RegistryError, Repository, trust};

/// What the user's settings and environment say about registries.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who we are.
    pub credentials: Credentials,
    /// Hosts that are spoken to without TLS; loopback always is.
    pub insecure: Vec<String>,
    /// Registry, as references name it → who is asked first, in this order. A mirror is
    /// `host[:port][/prefix]`; `mirror.example/hub` has `library/ruby` as `hub/library/ruby`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Folders in the layout of `/etc/docker/certs.d`: `HOST[:PORT]/*.crt`, `*.cert` with `*.key`.
    pub certificates: Vec<PathBuf>,
}

/// The way to registries: for any number of threads, and once in a program, as each repository
/// keeps its token and its connections.
pub struct Access {
    settings: Settings,
    clients: Mutex<BTreeMap<String, Client>>,
    repositories: Mutex<BTreeMap<(String, String), Arc<Repository>>>,
    pace: Pace,
}

/// How patient we are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long the other side may say nothing.
    pub(crate) silence: Duration,
    /// Before the second try; doubled for each further one.
    pub(crate) pause: Duration,
}

impl Pace {
    /// A minute of silence ends a request, half a second of rest precedes the next.
    const USUAL: Pace =
        Pace { silence: Duration::from_secs(60), pause: Duration::from_millis(500) };
}

impl Access {
    /// Nothing is opened or read before it is needed.
    #[must_use]
    pub fn new(settings: Settings) -> Access {
        Access {
            settings,
            clients: Mutex::default(),
            repositories: Mutex::default(),
            pace: Pace::USUAL,
        }
    }

    /// For tests, which have no minutes.
    #[cfg(test)]
    pub(crate) fn at_pace(mut self, pace: Pace) -> Access {
        self.pace = pace;
        self
    }

    /// The handle of a repository; the same one each time.
    ///
    /// # Errors
    /// Credentials or certificates that cannot be used.
    pub fn repository(&self, reference: &Reference) -> Result<Arc<Repository>, RegistryError> {
        let key = (reference.host.clone(), reference.repository.clone());
        let known =
            self.repositories.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        // Not under the lock: a credential helper may take its time.
        let made = Arc::new(self.open(&key.0, &key.1)?);
        let mut all = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(all.entry(key).or_insert(made)))
    }

    /// The mirrors of a registry, as the settings name them.
    pub(super) fn mirrors(&self, host: &str) -> &[String] {
        self.settings.mirrors.get(host).map_or(&[], Vec::as_slice)
    }

    pub(super) fn open(&self, host: &str, name: &str) -> Result<Repository, RegistryError> {
        let plain = is_loopback(host) && !self.has_certificates(host)
            || self.settings.insecure.iter().any(|other| other == host);
        let scheme = if plain { "http" } else { "https" };
        let address = format!("{scheme}://{}/v2/", api_host(host));
        let base = Url::parse(&address).map_err(|_| RegistryError::Reference {
            text: format!("{host}/{name}"),
            problem: "the host is no host",
        })?;
        let login = self.settings.credentials.of(host, name)?;
        Ok(Repository::new(self.client(host)?, base, (host, name), login, self.pace))
    }

    /// Who has certificates for a registry on this machine speaks TLS with it.
    fn has_certificates(&self, host: &str) -> bool {
        trust::folders(&self.settings.certificates, host).next().is_some()
    }

    fn client(&self, host: &str) -> Result<Client, RegistryError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        // Hosts without certificates of their own share the connections of one client.
        let key = if self.has_certificates(host) { host } else { "" };
        if let Some(client) = clients.get(key) {
            return Ok(client.clone());
        }
        let trust = trust::read(&self.settings.certificates, host)?;
        let client = crate::download::client_for_registries(trust, self.pace.silence)
            .map_err(RegistryError::Client)?;
        clients.insert(key.to_owned(), client.clone());
        Ok(client)
    }
}
