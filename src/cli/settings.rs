//! Settings: where they come from and what holds when there are none.
//!
//! - `forge.toml` in the app's folder: what the app needs.
//! - `~/.config/forge/settings.toml` (or `FORGE_SETTINGS`): what the machine's user
//!   wants: mirrors.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::failure::Failure;
use crate::buildpack::ProcessWish;
use crate::debian::archive::{DEFAULT_MIRROR, DEFAULT_SECURITY_MIRROR, Mirrors};
use crate::debian::sources;
use crate::plan::Start;

/// `forge.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AppSettings {
    /// The buildpack, whatever is detected.
    pub(super) buildpack: Option<String>,
    /// Steps to leave out.
    pub(super) skip: Vec<String>,
    pub(super) source: SourceSettings,
    pub(super) base: BaseSettings,
    pub(super) packages: PackageSettings,
    /// Environment of the image.
    pub(super) environment: BTreeMap<String, String>,
    pub(super) build: BuildSettings,
    pub(super) python: PythonSettings,
    /// Process types.
    pub(super) processes: BTreeMap<String, ProcessSettings>,
    /// What holds for all that the image starts.
    pub(super) start: Start,
    /// Labels of the image.
    pub(super) labels: BTreeMap<String, String>,
}

/// A process type: its command, or a table that adds to what is known of it.
#[derive(Clone, Debug, Default)]
pub(super) struct ProcessSettings(pub(super) ProcessWish);

impl<'de> Deserialize<'de> for ProcessSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not an untagged enum: its errors name neither key nor type.
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ProcessSettings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command, or a table with `command`, `before`, `wait_for` …")
            }

            fn visit_str<E>(self, command: &str) -> Result<ProcessSettings, E> {
                let command = Some(command.to_owned());
                Ok(ProcessSettings(ProcessWish { command, ..ProcessWish::default() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ProcessSettings, A::Error> {
                let mut table = toml::Table::deserialize(MapAccessDeserializer::new(map))?;
                let command = match table.remove("command") {
                    None => None,
                    Some(toml::Value::String(command)) => Some(command),
                    Some(_) => return Err(A::Error::custom("`command` is no string")),
                };
                let preparation = table.try_into().map_err(A::Error::custom)?;
                Ok(ProcessSettings(ProcessWish { command, preparation }))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SourceSettings {
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    /// Whether configuration that git ignores counts; it does when nothing is said.
    pub(super) ignored_config: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BaseSettings {
    /// The Debian release: `trixie`.
    pub(super) release: Option<String>,
    /// The image under the app.
    pub(super) image: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PackageSettings {
    pub(super) build: Vec<String>,
    pub(super) runtime: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BuildSettings {
    /// Environment of the steps that run the app's code.
    pub(super) environment: BTreeMap<String, String>,
    /// Whether traced steps run only when something that they read has changed.
    pub(super) trace: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PythonSettings {
    /// Extras of the app's own project that are installed.
    pub(super) extras: Vec<String>,
}

/// The user's settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UserSettings {
    pub(super) debian: DebianSettings,
    pub(super) registry: RegistrySettings,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DebianSettings {
    pub(super) mirror: Option<String>,
    pub(super) security_mirror: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegistrySettings {
    /// Registries that are spoken to without TLS, `host:port`.
    pub(super) insecure: Vec<String>,
    /// Registry → hosts that are asked before it, `host[:port][/prefix]`.
    pub(super) mirrors: BTreeMap<String, Vec<String>>,
    /// A folder in the layout of `/etc/docker/certs.d`, before those of docker and podman.
    pub(super) certificates: Option<PathBuf>,
}

fn read<T: Default + for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("{}: {}", path.display(), error.to_string().trim_end()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(Failure::usage(format!("could not read `{}`: {error}", path.display()))),
    }
}

/// `forge.toml` of the app in `folder`.
pub(super) fn of_app(folder: &Path) -> Result<AppSettings, Failure> {
    read(&folder.join("forge.toml"))
}

/// The user's settings.
pub(super) fn of_user() -> Result<UserSettings, Failure> {
    if let Some(path) = env::var_os("FORGE_SETTINGS") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            return Err(Failure::usage(format!(
                "FORGE_SETTINGS names `{}`, which is no file",
                path.display()
            )));
        }
        return read(&path);
    }
    match config_home() {
        Some(folder) => read(&folder.join("forge/settings.toml")),
        None => Ok(UserSettings::default()),
    }
}

/// The user's home folder.
pub(super) fn home() -> Option<PathBuf> {
    env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

fn config_home() -> Option<PathBuf> {
    env::var_os("XDG_CONFIG_HOME")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .or_else(|| home().map(|home| home.join(".config")))
}

/// The store's folder when none is named.
pub(super) fn default_store() -> Result<PathBuf, Failure> {
    env::var_os("XDG_CACHE_HOME")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .or_else(|| home().map(|home| home.join(".cache")))
        .map(|folder| folder.join("forge"))
        .ok_or_else(|| {
            Failure::usage("there is no home folder to keep the store in")
                .advise("name one: --store FOLDER")
        })
}

/// Debian's mirrors: the user's settings, else the machine's apt sources, else
/// Debian's own. The text says which.
pub(super) fn mirrors(settings: &DebianSettings) -> (Mirrors, &'static str) {
    let clean = |address: &String| address.trim_end_matches('/').to_owned();
    if let Some(mirror) = &settings.mirror {
        let security = settings
            .security_mirror
            .as_ref()
            .map_or_else(|| DEFAULT_SECURITY_MIRROR.to_owned(), clean);
        return (Mirrors { main: vec![clean(mirror)], security: vec![security] }, "settings");
    }
    let found = apt_sources();
    let with_default = |mut mirrors: Vec<String>, default: &str| {
        if mirrors.is_empty() {
            mirrors.push(default.to_owned());
        }
        mirrors
    };
    let origin = if found.main.is_empty() { "Debian's own" } else { "apt sources" };
    let mirrors = Mirrors {
        main: with_default(found.main, DEFAULT_MIRROR),
        security: with_default(found.security, DEFAULT_SECURITY_MIRROR),
    };
    (mirrors, origin)
}

fn apt_sources() -> sources::Found {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let mut others: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    others.sort();
    files.extend(others);
    let mut found = sources::Found::default();
    for file in files {
        // A machine without apt has none of these; a file that is not text names
        // no mirror.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let deb822 = file.extension().is_some_and(|ending| ending == "sources");
        found.add(&text, deb822);
    }
    found
}
