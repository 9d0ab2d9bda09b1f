//! Upload sessions: their addresses, and how far they have come.

use reqwest::blocking::Response;
use reqwest::{StatusCode, Url};

use super::wire::{Task, header};
use super::{RegistryError, Repository};
use crate::digest::Digest;

/// An upload that has begun.
pub(super) struct Session {
    pub(super) address: Url,
    /// The registry's word; zero when it says nothing.
    pub(super) least_chunk: u64,
}

impl Repository {
    pub(super) fn open_session(&self, task: &Task) -> Result<Session, RegistryError> {
        let url = self.address("blobs/uploads/");
        let make = || Ok(self.client.post(url.clone()).header("Content-Length", "0"));
        let response = self.send(task, &make)?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(task, response));
        }
        self.session(task, &response)
    }

    pub(super) fn session(
        &self,
        task: &Task,
        response: &Response,
    ) -> Result<Session, RegistryError> {
        let location = header(response, "location")
            .ok_or_else(|| self.odd(task, "it gives no Location for the upload".to_owned()))?;
        let address = own_address(response.url(), location, &self.base)
            .map_err(|problem| self.odd(task, problem))?;
        let least_chunk =
            header(response, "oci-chunk-min-length").and_then(|text| text.trim().parse().ok());
        Ok(Session { address, least_chunk: least_chunk.unwrap_or_default() })
    }
}

/// How many bytes there are, from `0-99` or `bytes=0-99`.
pub(super) fn end(range: &str) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes").trim_start_matches(['=', ' ']);
    range.strip_prefix("0-")?.parse::<u64>().ok()?.checked_add(1)
}

/// Where a session goes on, seen from the request that was answered. It has to be the registry:
/// credentials belong to that one. A registry behind a proxy that speaks TLS for it may not
/// know that, and means itself.
pub(super) fn own_address(asked: &Url, location: &str, registry: &Url) -> Result<Url, String> {
    let mut url =
        asked.join(location).map_err(|_| format!("its Location is no address: {location}"))?;
    if url.scheme() == "http" && registry.scheme() == "https" && url.host() == registry.host() {
        let known = [None, Some(80), registry.port()].contains(&url.port());
        // Cannot fail for addresses of these schemes.
        if known && url.set_scheme("https").is_ok() && url.set_port(registry.port()).is_ok() {
            return Ok(url);
        }
    }
    if url.origin() == registry.origin() {
        Ok(url)
    } else {
        Err(format!(
            "it sends the upload to another host, `{}`",
            url.host_str().unwrap_or_default()
        ))
    }
}

/// The session's address as the registry gave it, with the digest added.
pub(super) fn with_digest(mut url: Url, digest: &Digest) -> Url {
    let query = url.query().unwrap_or_default().trim_matches('&').to_owned();
    url.set_query((!query.is_empty()).then_some(&query));
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses() {
        for (location, registry, expected) in [
            ("https://r.example:443/u", "https://r.example/v2/", Some("https://r.example/u")),
            ("http://r.example/u", "https://r.example/v2/", Some("https://r.example/u")),
            (
                "http://r.example:5000/u",
                "https://r.example:5000/v2/",
                Some("https://r.example:5000/u"),
            ),
            ("http://r.example/u", "https://r.example:5000/v2/", Some("https://r.example:5000/u")),
            ("http://r.example:81/u", "https://r.example/v2/", None),
            ("https://s.example/u", "https://r.example/v2/", None),
            ("https://r.example:5001/u", "https://r.example:5000/v2/", None),
            ("http://s.example/u", "https://r.example/v2/", None),
            ("file:///u", "https://r.example/v2/", None),
        ] {
            let registry = Url::parse(registry).expect("an address");
            let found = own_address(&registry, location, &registry).map(|url| url.to_string());
            assert_eq!(found.ok().as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn digests_are_added_to_any_query() {
        let digest = Digest::of(b"");
        for (given, expected) in
            [("", "?"), ("?_state=x", "?_state=x&"), ("?&", "?"), ("?x&", "?x&")]
        {
            let url = Url::parse(&format!("http://h/u{given}")).expect("an address");
            let found = with_digest(url, &digest);
            assert_eq!(
                found.as_str(),
                format!("http://h/u{expected}digest=sha256%3A{}", digest.hex())
            );
        }
    }

    #[test]
    fn how_far_a_session_is() {
        for (range, expected) in [
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("bytes 0-0", Some(1)),
            ("1-99", None),
            ("0-", None),
            ("0-18446744073709551615", None),
            ("", None),
        ] {
            assert_eq!(end(range), expected, "{range}");
        }
    }
}
