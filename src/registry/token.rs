//! The registry's challenge and the token that answers it (distribution
//! specification, "token authentication").

use reqwest::Url;

/// What a `WWW-Authenticate: Bearer` header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    service: Option<String>,
}

/// Reads a challenge; `None` for other schemes.
pub(super) fn challenge(header: &str) -> Option<Challenge> {
    let (scheme, mut rest) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match name.as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = next;
    }
    Some(Challenge { realm: realm?, service })
}

impl Challenge {
    /// Where a token for `scope` is had. Credentials go there, so it must be
    /// https unless the registry itself is not.
    pub(super) fn address(&self, scope: &str, plain_allowed: bool) -> Result<Url, String> {
        let mut url = Url::parse(&self.realm)
            .map_err(|_| format!("its token address is none: {}", self.realm))?;
        let good = url.scheme() == "https" || (plain_allowed && url.scheme() == "http");
        if !good {
            return Err(format!("its token address is not https: {}", self.realm));
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", scope);
        }
        Ok(url)
    }
}

/// The token in the answer, under either of its two names.
pub(super) fn token(text: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(text).ok()?;
    ["token", "access_token"]
        .iter()
        .find_map(|name| document[*name].as_str())
        .filter(|token| !token.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, expected: Option<(&str, Option<&str>)>) {
        let found = challenge(header).map(|challenge| (challenge.realm, challenge.service));
        assert_eq!(
            found,
            expected.map(|(realm, service)| (realm.to_owned(), service.map(str::to_owned)))
        );
    }

    #[test]
    fn challenges() {
        check(
            r#"Bearer realm="https://a.example/t",service="s",scope="x""#,
            Some(("https://a.example/t", Some("s"))),
        );
        check(
            r#"bearer  Service=s, REALM="https://a.example/t?x=1,2""#,
            Some(("https://a.example/t?x=1,2", Some("s"))),
        );
        check(r#"Basic realm="x""#, None);
        check("Bearer", None);
        check(r#"Bearer service="s""#, None);
        check(r#"Bearer realm="unclosed"#, None);
    }

    #[test]
    fn credentials_go_to_https_only() {
        let at = |realm: &str| Challenge { realm: realm.to_owned(), service: None };
        assert!(at("http://a.example/t").address("s", false).is_err());
        assert!(at("http://a.example/t").address("s", true).is_ok());
        assert!(at("file:///etc/passwd").address("s", true).is_err());
    }
}
