//! The environment of the program that is started: that of the container, plus
//! what the application may count on. Pure: variables in, variables out.
//!
//! `/cnb/process` leaves PATH: a process type named like its own program (`celery:
//! celery -A app worker`) would find the launcher there and start for ever.
//! `/cnb/lifecycle` stays, so that `forge` can be called from what was started.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Variables by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// Where a web process listens when the platform does not say.
const DEFAULT_PORT: &str = "8080";

/// Where images have a link to the launcher for each process type.
const PROCESSES: &[u8] = b"/cnb/process";

/// The environment to start a program with, given the container's.
pub fn environment(container: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
    let mut environment: Environment = container.into_iter().collect();
    let port = environment.entry("PORT".into()).or_default();
    if port.is_empty() {
        *port = DEFAULT_PORT.into();
    }
    if let Some(path) = environment.get_mut(OsStr::new("PATH")) {
        let kept: Vec<&[u8]> = path
            .as_bytes()
            .split(|byte| *byte == b':')
            .filter(|folder| *folder != PROCESSES)
            .collect();
        *path = OsString::from_vec(kept.join(&b':'));
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
    fn process_types_leave_the_path() {
        check(
            &[("PATH", "/cnb/process:/cnb/lifecycle:/bin:/cnb/process"), ("PORT", "1")],
            &[("PATH", "/cnb/lifecycle:/bin"), ("PORT", "1")],
        );
    }

    #[test]
    fn the_rest_stays() {
        let all =
            [("CNB_APP_DIR", "/a"), ("PATH", "/cnb/processes::/bin"), ("PORT", "1"), ("X", "a=b")];
        check(&all, &all);
    }
}
