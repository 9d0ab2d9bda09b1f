//! The environment of the program that is started: that of the container, plus
//! what the application may count on. Pure: variables in, variables out.
//!
//! Nothing is removed, and PATH stays as it is, so that `forge` can be called
//! from what was started.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Variables by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// Where a web process listens when the platform does not say.
const DEFAULT_PORT: &str = "8080";

/// The environment to start a program with, given the container's.
pub fn environment(container: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
    let mut environment: Environment = container.into_iter().collect();
    let port = environment.entry("PORT".into()).or_default();
    if port.is_empty() {
        *port = DEFAULT_PORT.into();
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(container: &[(&str, &str)], expected: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        let found = environment(container.iter().map(owned));
        assert_eq!(found, expected.iter().map(owned).collect());
    }

    #[test]
    fn port() {
        check(&[], &[("PORT", "8080")]);
        check(&[("PORT", "")], &[("PORT", "8080")]);
        check(&[("PORT", "3000")], &[("PORT", "3000")]);
    }

    #[test]
    fn the_rest_stays() {
        let all =
            [("CNB_APP_DIR", "/a"), ("PATH", "/cnb/process:/bin"), ("PORT", "1"), ("X", "a=b")];
        check(&all, &all);
    }
}
