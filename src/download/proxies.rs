//! Which requests go through a proxy: what the usual variables say, and never those that are for
//! this machine.
//!
//! - `HTTPS_PROXY` and `HTTP_PROXY`, then `ALL_PROXY` for both; `NO_PROXY` for hosts, domains and
//!   networks that need none. All of them also in lower case; empty ones count as not there.
//! - reqwest would read the same variables, and send what is for loopback to the proxy, for which
//!   that is another machine. Programs in Go, docker and skopeo among them, do it as it is here.
//! - The values hold passwords: no error shows them.

use reqwest::{NoProxy, Proxy};

use super::DownloadError;

/// This machine, in the language of `NO_PROXY`.
const HERE: &str = "localhost,127.0.0.0/8,::1";

/// The proxies, in the order in which they are looked at.
pub(super) fn proxies(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Proxy>, DownloadError> {
    let find = |name: &str| {
        let found = variable(name).filter(|value| !value.is_empty());
        found.or_else(|| variable(&name.to_ascii_lowercase()).filter(|value| !value.is_empty()))
    };
    let without = format!("{},{HERE}", find("NO_PROXY").unwrap_or_default());
    let one = |variable: &'static str, make: fn(String) -> reqwest::Result<Proxy>| {
        // What is wrong is not said: the sentence may contain the address.
        let proxy = find(variable).map(make).transpose();
        let proxy = proxy.map_err(|_| DownloadError::Proxy { variable })?;
        Ok(proxy.map(|proxy| proxy.no_proxy(NoProxy::from_string(&without))))
    };
    let found = [
        one("HTTPS_PROXY", Proxy::https)?,
        one("HTTP_PROXY", Proxy::http)?,
        one("ALL_PROXY", Proxy::all)?,
    ];
    Ok(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], expected: Result<usize, &str>) {
        let found = proxies(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let found = found.map(|proxies| proxies.len()).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{variables:?}");
    }

    #[test]
    fn from_variables() {
        check(&[], Ok(0));
        check(&[("HTTP_PROXY", ""), ("NO_PROXY", "*")], Ok(0));
        check(&[("HTTP_PROXY", ""), ("http_proxy", "http://proxy.example:3128")], Ok(1));
        check(&[("all_proxy", "proxy.example:3128"), ("HTTPS_PROXY", "http://u:p@h/")], Ok(2));
    }

    #[test]
    fn passwords_are_not_shown() {
        let wrong = "`HTTPS_PROXY` is not the address of a proxy; it is not shown, as it may hold a password";
        for value in ["http://user:secret@", "http://user:secret@ho st:1", "http://user:secret@h:x"]
        {
            check(&[("https_proxy", value)], Err(wrong));
        }
    }
}
