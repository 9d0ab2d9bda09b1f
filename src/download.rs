//! Plain downloads: bytes from an address, checked by who asked for them.
//!
//! One client for all; system certificate roots (`SSL_CERT_FILE` and
//! `SSL_CERT_DIR` count), `HTTP(S)_PROXY` and `NO_PROXY` are honoured, except for
//! loopback. A failed try is repeated where repeating can help. Registries have
//! clients of their own in `registry`, one for each that has certificates of its own.

mod proxies;

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity, StatusCode, Url};
use thiserror::Error;

/// Tries in all, the first included.
const TRIES: u32 = 4;
/// Before the second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How long the other side may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// How many hosts may send us on to another one.
const REDIRECTS: usize = 10;

/// A client for downloads.
#[derive(Clone, Debug)]
pub struct Downloads {
    client: Client,
}

/// Why a download failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The client cannot be made: no usable certificate roots, say.
    #[error("could not set up downloads")]
    Client(#[source] reqwest::Error),
    /// A variable that names no proxy.
    #[error(
        "`{variable}` is not the address of a proxy; it is not shown, as it may hold a password"
    )]
    Proxy {
        /// The variable, as it is usually written.
        variable: &'static str,
    },
    /// No answer.
    #[error("could not reach `{address}`")]
    Unreachable {
        /// The address.
        address: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// An answer that says no.
    #[error("`{address}` answered {status}")]
    Status {
        /// The address.
        address: String,
        /// The answer.
        status: StatusCode,
    },
    /// The answer broke off.
    #[error("the download of `{address}` broke off")]
    Broken {
        /// The address.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// More bytes than there may be.
    #[error("`{address}` is longer than {limit} bytes")]
    TooLong {
        /// The address.
        address: String,
        /// How many bytes may come.
        limit: u64,
    },
}

impl DownloadError {
    /// Whether the address says that there is no such thing, so that another
    /// address may be tried.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, DownloadError::Status { status, .. } if status.is_client_error())
    }

    fn may_pass(&self) -> bool {
        match self {
            DownloadError::Unreachable { .. } | DownloadError::Broken { .. } => true,
            DownloadError::Status { status, .. } => {
                status.is_server_error() || [408, 429].contains(&status.as_u16())
            }
            DownloadError::Client(_)
            | DownloadError::Proxy { .. }
            | DownloadError::TooLong { .. } => false,
        }
    }
}

/// Whom a client trusts besides the machine's authorities, and who it says it is.
#[derive(Debug, Default)]
pub struct Trust {
    /// Further authorities.
    pub authorities: Vec<Certificate>,
    /// A certificate of our own, with its key.
    pub identity: Option<Identity>,
}

/// A client for registries, which redirect to stores of blobs: a redirect out of TLS, or to the
/// addresses where clouds keep a machine's secrets, is refused. Credentials are not sent to
/// another host by any client.
///
/// In a blocking client, `silence` counts anew for the answer's beginning and for each read of
/// its body, but for the whole of a body that is sent: an upload names its own limit. That a
/// receiver who has stopped reading ends an upload is TCP's doing.
///
/// # Errors
/// The machine's certificate roots cannot be used, or the certificate of our own.
pub fn client_for_registries(trust: Trust, silence: Duration) -> Result<Client, DownloadError> {
    let policy = Policy::custom(|attempt| match may_follow(attempt.previous(), attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(problem) => attempt.error(problem),
    });
    let mut builder =
        builder(silence, policy)?.tls_certs_merge(trust.authorities).tcp_user_timeout(silence);
    if let Some(identity) = trust.identity {
        builder = builder.identity(identity);
    }
    builder.build().map_err(DownloadError::Client)
}

/// A client for a server on a Unix socket. It waits as long as the server works, and follows
/// nobody elsewhere.
///
/// # Errors
/// The client cannot be made.
pub fn client_for_socket(socket: &Path) -> Result<Client, DownloadError> {
    let client = builder(SILENCE, Policy::none())?.unix_socket(socket).no_proxy().timeout(None);
    client.build().map_err(DownloadError::Client)
}

/// Whether the addresses of `previous` may send us on to `next`.
fn may_follow(previous: &[Url], next: &Url) -> Result<(), &'static str> {
    let was_secure = previous.iter().any(|url| url.scheme() == "https");
    let address = next.host_str().map(|host| host.trim_matches(['[', ']']).parse::<IpAddr>());
    let is_link_local = match address {
        Some(Ok(IpAddr::V4(address))) => address.is_link_local(),
        Some(Ok(IpAddr::V6(address))) => address.is_unicast_link_local(),
        _ => false,
    };
    if previous.len() > REDIRECTS {
        Err("too many redirects")
    } else if was_secure && next.scheme() != "https" {
        Err("a redirect leads from https to http")
    } else if is_link_local {
        Err("a redirect leads to a link-local address")
    } else {
        Ok(())
    }
}

fn builder(silence: Duration, redirects: Policy) -> Result<ClientBuilder, DownloadError> {
    // Fails when it was installed before, which is as good.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .no_proxy()
        .user_agent(concat!("forge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(30))
        .timeout(silence)
        .tcp_keepalive(Duration::from_secs(30))
        .redirect(redirects);
    let proxies = proxies::proxies(|name| std::env::var(name).ok())?;
    Ok(proxies.into_iter().fold(builder, ClientBuilder::proxy))
}

impl Downloads {
    /// Sets up a client.
    ///
    /// # Errors
    /// The machine's certificate roots cannot be used.
    pub fn new() -> Result<Downloads, DownloadError> {
        builder(SILENCE, Policy::limited(REDIRECTS))?
            .build()
            .map(|client| Downloads { client })
            .map_err(DownloadError::Client)
    }

    /// Writes the bytes at `address` to what `target` makes, anew for each try.
    /// `progress` is told how many bytes came with each piece. Returns the last
    /// target.
    ///
    /// # Errors
    /// See [`DownloadError`]; what `target` fails with counts as broken off.
    pub fn fetch<W: Write>(
        &self,
        address: &str,
        limit: u64,
        mut target: impl FnMut() -> io::Result<W>,
        progress: &dyn Fn(u64),
    ) -> Result<W, DownloadError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.try_fetch(address, limit, &mut target, progress) {
                Err(error) if error.may_pass() => thread::sleep(pause),
                other => return other,
            }
            pause *= 2;
        }
        self.try_fetch(address, limit, &mut target, progress)
    }

    /// The bytes at `address`.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub fn bytes(&self, address: &str, limit: u64) -> Result<Vec<u8>, DownloadError> {
        self.fetch(address, limit, || Ok(Vec::new()), &|_| {})
    }

    fn try_fetch<W: Write>(
        &self,
        address: &str,
        limit: u64,
        target: &mut impl FnMut() -> io::Result<W>,
        progress: &dyn Fn(u64),
    ) -> Result<W, DownloadError> {
        let shown = || address.to_owned();
        let broken = |source| DownloadError::Broken { address: shown(), source };
        let mut response: Response =
            self.client.get(address).header("Accept-Encoding", "identity").send().map_err(
                |source| DownloadError::Unreachable {
                    address: shown(),
                    source: source.without_url(),
                },
            )?;
        if response.status() != StatusCode::OK {
            return Err(DownloadError::Status { address: shown(), status: response.status() });
        }
        let mut writer = target().map_err(broken)?;
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        loop {
            let length = match response.read(&mut buffer) {
                Ok(0) => return Ok(writer),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error)),
            };
            total += length as u64;
            if total > limit {
                return Err(DownloadError::TooLong { address: shown(), limit });
            }
            writer.write_all(&buffer[..length]).map_err(broken)?;
            progress(length as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(previous: &[&str], next: &str, expected: Result<(), &str>) {
        let url = |text: &str| Url::parse(text).expect("an address");
        let previous: Vec<Url> = previous.iter().map(|text| url(text)).collect();
        assert_eq!(may_follow(&previous, &url(next)), expected, "{next}");
    }

    #[test]
    fn redirects() {
        check(&["https://a.example/x"], "https://cdn.example/y", Ok(()));
        check(&["http://a.example/x"], "https://cdn.example/y", Ok(()));
        check(&["http://localhost:5000/x"], "http://10.0.0.1/y", Ok(()));
        let left = Err("a redirect leads from https to http");
        check(&["https://a.example/x"], "http://a.example/x", left);
        check(&["http://a.example/x", "https://b.example/x"], "http://a.example/x", left);
        let local = Err("a redirect leads to a link-local address");
        check(&["http://a.example/x"], "http://169.254.169.254/latest", local);
        check(&["https://a.example/x"], "https://[fe80::1]/x", local);
        check(&["http://a.example/"; 11], "http://a.example/", Err("too many redirects"));
    }
}
