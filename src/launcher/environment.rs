//! The environment of the program that is started: that of the container, plus what the
//! application may count on. Each variable knows where its value is from. Pure: variables in,
//! variables out.
//!
//! `/cnb/process` leaves PATH: a process type named like its own program (`celery:
//! celery -A app worker`) would find the launcher there and start for ever.
//! `/cnb/lifecycle` stays, so that `forge` can be called from what was started; so do
//! CNB_APP_DIR and CNB_LAYERS_DIR, which that launcher needs. What speaks only to the launcher
//! of CNB goes away: [`FOR_THE_LAUNCHER`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Where a web process listens when the platform does not say.
const DEFAULT_PORT: &str = "8080";

/// The origin of what the launcher sets itself, which gives way to any other default.
pub const FORGE_DEFAULT: &str = "forge's default";

/// Where images have a link to the launcher for each process type.
const PROCESSES: &[u8] = b"/cnb/process";

/// Variables that tell the launcher of CNB how to start, and nothing to anybody else.
const FOR_THE_LAUNCHER: [&str; 3] =
    ["CNB_DEPRECATION_MODE", "CNB_PLATFORM_API", "CNB_PROCESS_TYPE"];

/// Variables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, Variable>);

/// A value and the places that it is from, the last one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The value.
    pub value: OsString,
    /// For people: `the container`, a file, a rule of the launcher.
    pub origin: String,
}

impl Environment {
    /// That of the container, as programs of the image see it.
    pub fn of_container(container: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let mut environment = Environment::default();
        for (name, value) in container {
            environment.set(name, value, "the container");
        }
        for name in FOR_THE_LAUNCHER {
            environment.remove(name);
        }
        if let Some(path) = environment.0.get_mut(OsStr::new("PATH")) {
            let kept: Vec<&[u8]> = path
                .value
                .as_bytes()
                .split(|byte| *byte == b':')
                .filter(|folder| *folder != PROCESSES)
                .collect();
            path.value = OsString::from_vec(kept.join(&b':'));
        }
        environment
    }

    /// Adds what forge gives to every program, where nobody else has set it.
    pub fn add_defaults(&mut self) {
        self.set_default("PORT", DEFAULT_PORT, FORGE_DEFAULT);
    }

    /// A variable with its origin.
    pub fn variable(&self, name: impl AsRef<OsStr>) -> Option<&Variable> {
        self.0.get(name.as_ref())
    }

    /// Takes a variable away, if it is there.
    pub fn remove(&mut self, name: impl AsRef<OsStr>) {
        self.0.remove(name.as_ref());
    }

    /// The value of a variable.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        self.0.get(name.as_ref()).map(|variable| variable.value.as_os_str())
    }

    /// Whether the variable is there and not empty.
    pub fn has(&self, name: impl AsRef<OsStr>) -> bool {
        self.get(name).is_some_and(|value| !value.is_empty())
    }

    /// Sets a variable, whatever it was.
    pub fn set(
        &mut self,
        name: impl Into<OsString>,
        value: impl Into<OsString>,
        origin: impl Into<String>,
    ) {
        self.0.insert(name.into(), Variable { value: value.into(), origin: origin.into() });
    }

    /// Sets a variable that is unset or empty.
    pub fn set_default(
        &mut self,
        name: impl Into<OsString>,
        value: impl Into<OsString>,
        origin: impl Into<String>,
    ) {
        let name = name.into();
        if !self.has(&name) {
            self.set(name, value, origin);
        }
    }

    /// All variables, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &Variable)> {
        self.0.iter().map(|(name, variable)| (name.as_os_str(), variable))
    }

    /// All names and values, as programs get them.
    pub fn pairs(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, variable)| (name.as_os_str(), variable.value.as_os_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(container: &[(&str, &str)], expected: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        let mut found = Environment::of_container(container.iter().map(owned));
        found.add_defaults();
        let found: Vec<(&OsStr, &OsStr)> = found.pairs().collect();
        let expected: Vec<(&OsStr, &OsStr)> =
            expected.iter().map(|(name, value)| (OsStr::new(*name), OsStr::new(*value))).collect();
        assert_eq!(found, expected);
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
    fn what_is_for_the_launcher_of_cnb_goes() {
        check(
            &[("CNB_PLATFORM_API", "0.15"), ("CNB_PROCESS_TYPE", "web"), ("CNB_EXEC_ENV", "test")],
            &[("CNB_EXEC_ENV", "test"), ("PORT", "8080")],
        );
    }

    #[test]
    fn the_rest_stays() {
        let all =
            [("CNB_APP_DIR", "/a"), ("PATH", "/cnb/processes::/bin"), ("PORT", "1"), ("X", "a=b")];
        check(&all, &all);
    }

    #[test]
    fn where_values_are_from() {
        let mut environment = Environment::of_container([]);
        environment.set("A", "1", "a file");
        environment.set_default("A", "2", "another");
        environment.add_defaults();
        let found: Vec<String> = environment
            .iter()
            .map(|(name, variable)| format!("{} {}", name.to_string_lossy(), variable.origin))
            .collect();
        assert_eq!(found, ["A a file", "PORT forge's default"]);
    }
}
