//! The registry's challenge and the token that answers it (distribution specification, "token
//! authentication"): what is asked for, what is kept, and for how long. Pure.

use std::time::{Duration, Instant};

use reqwest::Url;

use super::error::Right;

/// What a token allows, or should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    text: String,
    repository: String,
    right: Right,
}

impl Scope {
    pub(super) fn new(repository: &str, right: Right) -> Scope {
        let actions = match right {
            Right::Push => "pull,push",
            Right::Pull => "pull",
        };
        let text = format!("repository:{repository}:{actions}");
        Scope { text, repository: repository.to_owned(), right }
    }

    /// As a challenge writes it; other than repositories it may name anything.
    fn parse(text: &str) -> Scope {
        let repository = text.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
        let (name, actions) = repository.unwrap_or((text, "pull"));
        let right = if actions.split(',').any(|action| action == "push") {
            Right::Push
        } else {
            Right::Pull
        };
        Scope { text: text.to_owned(), repository: name.to_owned(), right }
    }

    fn covers(&self, other: &Scope) -> bool {
        self.repository == other.repository && self.right >= other.right
    }
}

/// What a `WWW-Authenticate: Bearer` header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

/// Reads a header that may hold several challenges; `None` when none of them asks for a token.
pub(super) fn challenge(header: &str) -> Option<Challenge> {
    let mut found: Option<Challenge> = None;
    let mut is_bearer = false;
    for part in parts(header) {
        let (name, value) = part.split_once('=').unwrap_or((&part, ""));
        // A scheme stands before its first parameter, or alone.
        let (scheme, name) = match name.trim().rsplit_once([' ', '\t']) {
            Some((scheme, name)) => (Some(scheme.trim()), name),
            None if part.contains('=') => (None, name.trim()),
            None => (Some(name.trim()), ""),
        };
        if let Some(scheme) = scheme {
            if found.as_ref().is_some_and(|challenge| !challenge.realm.is_empty()) {
                break;
            }
            is_bearer = scheme.eq_ignore_ascii_case("bearer");
        }
        if !is_bearer {
            continue;
        }
        let challenge = found.get_or_insert_with(|| Challenge {
            realm: String::new(),
            service: None,
            scope: None,
        });
        let value = unquoted(value);
        match name.to_ascii_lowercase().as_str() {
            "realm" => challenge.realm = value,
            "service" => challenge.service = Some(value).filter(|value| !value.is_empty()),
            "scope" => challenge.scope = Some(value).filter(|value| !value.is_empty()),
            _ => {}
        }
    }
    found.filter(|challenge| !challenge.realm.is_empty())
}

/// The header between its commas, but for those in quotes.
fn parts(header: &str) -> Vec<String> {
    let (mut parts, mut part, mut quoted, mut escaped) = (vec![], String::new(), false, false);
    for letter in header.chars() {
        match letter {
            ',' if !quoted => parts.push(std::mem::take(&mut part)),
            _ => {
                quoted ^= letter == '"' && !escaped;
                escaped = quoted && letter == '\\' && !escaped;
                part.push(letter);
            }
        }
    }
    // A quote that nobody closes makes nonsense of what it holds.
    if !quoted {
        parts.push(part);
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

fn unquoted(value: &str) -> String {
    let value = value.trim();
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        None => value.to_owned(),
        Some(inner) => {
            let mut text = String::new();
            let mut letters = inner.chars();
            while let Some(letter) = letters.next() {
                text.push(if letter == '\\' { letters.next().unwrap_or(letter) } else { letter });
            }
            text
        }
    }
}

impl Challenge {
    /// What is asked for: what we need, first of all, then what the registry says besides.
    pub(super) fn scopes(&self, needed: &[Scope]) -> Vec<Scope> {
        let mut scopes = needed.to_vec();
        for scope in self.scope.iter().flat_map(|text| text.split_whitespace()).map(Scope::parse) {
            if !scopes.iter().any(|known| known.covers(&scope)) {
                scopes.push(scope);
            }
        }
        scopes
    }

    /// What holds for every request, not only for the one that was answered so.
    pub(super) fn without_scope(&self) -> Challenge {
        Challenge { scope: None, ..self.clone() }
    }

    /// Where tokens are had. Credentials go there, so it must be https unless the registry
    /// itself is not, and no address where only a machine's own secrets are.
    pub(super) fn realm(&self, registry: &Url) -> Result<Url, String> {
        let url = Url::parse(&self.realm)
            .map_err(|_| format!("its token address is none: {}", self.realm))?;
        let plain_allowed = registry.scheme() == "http";
        let good = url.scheme() == "https" || (plain_allowed && url.scheme() == "http");
        if !good {
            return Err(format!("its token address is not https: {}", self.realm));
        }
        let (to, from) = (place(&url), place(registry));
        let inside = to == Place::Machine || (to == Place::Inside && from == Place::Outside);
        if url.host_str() != registry.host_str() && inside {
            return Err(format!("its token address is not a public one: {}", self.realm));
        }
        Ok(url)
    }

    /// The address of a GET, for everything but identity tokens.
    pub(super) fn address(&self, scopes: &[Scope], registry: &Url) -> Result<Url, String> {
        let mut url = self.realm(registry)?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in scopes {
                query.append_pair("scope", &scope.text);
            }
        }
        Ok(url)
    }

    /// The form of a POST, for identity tokens (OAuth2, grant `refresh_token`).
    pub(super) fn form(&self, scopes: &[Scope], identity: &str) -> String {
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.text.as_str()).collect();
        // An address is made only for its query, which is encoded as forms are.
        let mut url = Url::parse("http://form").expect("a constant that parses");
        url.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", self.service.as_deref().unwrap_or_default())
            .append_pair("scope", &scopes.join(" "))
            .append_pair("client_id", "forge")
            .append_pair("refresh_token", identity);
        url.query().unwrap_or_default().to_owned()
    }
}

/// Where an address leads that is written as a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Link-local: clouds keep a machine's secrets there.
    Machine,
    /// A network of somebody's own.
    Inside,
    /// Anywhere; names too.
    Outside,
}

fn place(url: &Url) -> Place {
    use std::net::IpAddr;
    let address = url.host_str().map(|host| host.trim_matches(['[', ']']).parse::<IpAddr>());
    let (machine, inside) = match address {
        Some(Ok(IpAddr::V4(a))) => (a.is_link_local(), a.is_private() || a.is_loopback()),
        Some(Ok(IpAddr::V6(a))) => {
            (a.is_unicast_link_local(), a.is_unique_local() || a.is_loopback())
        }
        _ => (false, url.host_str() == Some("localhost")),
    };
    match (machine, inside) {
        (true, _) => Place::Machine,
        (false, true) => Place::Inside,
        (false, false) => Place::Outside,
    }
}

/// A token, what it allows, and until when.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: String,
    scopes: Vec<Scope>,
    until: Instant,
}

/// The least that a token is good for, also where `expires_in` says less or nothing (token
/// authentication specification: "no less than 60").
const LEAST: Duration = Duration::from_secs(60);
/// So long before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(10);

impl Token {
    /// The token in the answer, under either of its two names. Its time counts from `now`, when
    /// it came: the clocks of servers are not believed.
    pub(super) fn parse(text: &str, scopes: Vec<Scope>, now: Instant) -> Option<Token> {
        let document: serde_json::Value = serde_json::from_str(text).ok()?;
        let text = ["token", "access_token"]
            .iter()
            .find_map(|name| document[*name].as_str().filter(|token| !token.is_empty()))?;
        let seconds = document["expires_in"].as_u64().unwrap_or_default().min(86_400);
        let until = now + Duration::from_secs(seconds).max(LEAST);
        Some(Token { text: text.to_owned(), scopes, until })
    }

    /// Whether it opens all of that now.
    pub(super) fn serves(&self, needed: &[Scope], now: Instant) -> bool {
        now + MARGIN < self.until
            && needed.iter().all(|scope| self.scopes.iter().any(|own| own.covers(scope)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, expected: Option<(&str, Option<&str>)>) {
        let found = challenge(header).map(|challenge| (challenge.realm, challenge.service));
        assert_eq!(
            found,
            expected.map(|(realm, service)| (realm.to_owned(), service.map(str::to_owned))),
            "{header}"
        );
    }

    #[test]
    fn challenges() {
        let a = "https://a.example/t";
        check(r#"Bearer realm="https://a.example/t",service="s",scope="x""#, Some((a, Some("s"))));
        check(
            r#"bearer  Service=s, REALM="https://a.example/t?x=1,2""#,
            Some(("https://a.example/t?x=1,2", Some("s"))),
        );
        check(r#"Basic realm="x", Bearer realm="https://a.example/t""#, Some((a, None)));
        check(r#"Bearer realm="https://a.example/t", Basic realm="x""#, Some((a, None)));
        check(r#"Negotiate, Bearer realm="https://a.example/t",service="""#, Some((a, None)));
        check(r#"Bearer ,, realm="https://a.example/t", ,service="a\"b""#, Some((a, Some("a\"b"))));
        check(r#"BEARER realm=https://a.example/t"#, Some((a, None)));
        check(r#"Basic realm="x""#, None);
        check(r#"Basic realm="Bearer realm=y""#, None);
        check("Bearer", None);
        check("", None);
        check(r#"Bearer service="s""#, None);
        check(r#"Bearer realm="unclosed"#, None);
    }

    fn at(realm: &str) -> Challenge {
        Challenge { realm: realm.to_owned(), service: None, scope: None }
    }

    #[test]
    fn where_credentials_go() {
        for (realm, registry, expected) in [
            ("http://a.example/t", "https://r.example/v2/", false),
            ("http://a.example/t", "http://r.example/v2/", true),
            ("https://a.example/t", "https://r.example/v2/", true),
            ("file:///etc/passwd", "http://r.example/v2/", false),
            ("http://169.254.169.254/t", "http://r.example/v2/", false),
            ("http://169.254.169.254/t", "http://127.0.0.1:5000/v2/", false),
            ("https://10.0.0.1/t", "https://r.example/v2/", false),
            ("https://[::1]/t", "https://r.example/v2/", false),
            ("https://localhost/t", "https://r.example/v2/", false),
            ("https://10.0.0.1/t", "https://10.0.0.1:5000/v2/", true),
            ("http://127.0.0.1:1/t", "http://127.0.0.1:2/v2/", true),
            ("https://192.168.0.2/t", "https://192.168.0.1/v2/", true),
        ] {
            let registry = Url::parse(registry).expect("an address");
            assert_eq!(at(realm).address(&[], &registry).is_ok(), expected, "{realm} {registry}");
        }
    }

    #[test]
    fn what_is_asked_for() {
        let push = Scope::new("a/b", Right::Push);
        let mount = Scope::new("c", Right::Pull);
        let registry = Url::parse("https://r.example/v2/").expect("an address");
        let mut challenge = at("https://a.example/t?x=y");
        challenge.service = Some("s s".to_owned());
        // What the registry says besides comes last, and what is asked for anyway not again.
        challenge.scope = Some("repository:a/b:pull registry:catalog:*".to_owned());
        let scopes = challenge.scopes(&[push.clone(), mount.clone()]);
        assert_eq!(
            challenge.address(&scopes, &registry).expect("an address").query(),
            Some(
                "x=y&service=s+s&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull\
                 &scope=registry%3Acatalog%3A*"
            )
        );
        assert_eq!(
            challenge.form(&[push, mount], "se&cret"),
            "grant_type=refresh_token&service=s+s\
             &scope=repository%3Aa%2Fb%3Apull%2Cpush+repository%3Ac%3Apull\
             &client_id=forge&refresh_token=se%26cret"
        );
    }

    #[test]
    fn how_long_a_token_is_good() {
        let now = Instant::now();
        let (pull, push) = (Scope::new("a", Right::Pull), Scope::new("a", Right::Push));
        let token = |text: &str| Token::parse(text, vec![push.clone()], now);
        for (answer, after, expected) in [
            (r#"{"token":"t","expires_in":300}"#, 280, true),
            (r#"{"token":"t","expires_in":300}"#, 295, false),
            (r#"{"access_token":"t","token":""}"#, 49, true),
            (r#"{"token":"t","expires_in":0,"issued_at":"2099-01-01T00:00:00Z"}"#, 49, true),
            (r#"{"token":"t","expires_in":-5,"issued_at":"1970-01-01T00:00:00Z"}"#, 51, false),
        ] {
            let then = now + Duration::from_secs(after);
            assert_eq!(
                token(answer).expect("a token").serves(std::slice::from_ref(&pull), then),
                expected
            );
        }
        for wrong in ["", "{}", r#"{"token":""}"#, r#"{"token":1}"#] {
            assert!(token(wrong).is_none(), "{wrong}");
        }
        let other = Scope::new("b", Right::Pull);
        let pulls = Token::parse(r#"{"token":"t"}"#, vec![pull.clone()], now).expect("a token");
        assert!(pulls.serves(std::slice::from_ref(&pull), now) && !pulls.serves(&[push], now));
        assert!(!pulls.serves(&[pull, other], now));
    }
}
