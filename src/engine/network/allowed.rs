//! Which settings of package managers fetch steps are given: those that name a place, a
//! credential, or the way to it. Settings that decide *which* files are fetched belong to
//! the app, whose files are in the key; one machine's must not get into a cache that
//! others share.
//!
//! | tool | where its settings are described |
//! | --- | --- |
//! | Bundler | `bundle-config(1)`: "List of available keys", "Mirrors of gem sources", "Credentials for gem sources" |
//! | npm, pnpm, Yarn 1 | docs.npmjs.com `using-npm/config` and `configuring-npm/npmrc`; pnpm.io `npmrc`, "Registry & Authentication", "Request Settings" |
//! | pip | pip.pypa.io `cli/pip`, "General Options", and `cli/pip_install`, "Package Index Options"; `topics/configuration` |
//! | uv | docs.astral.sh `uv/reference/environment` and `uv/reference/settings` |
//! | Yarn 2 and later | yarnpkg.com `configuration/yarnrc` |
//!
//! All are lists of what may pass, so what a tool learns later is left out until it stands
//! here. Not in them, though they are about the way: names of files, which are not there in
//! the sandbox (`SSL_CERT_FILE` brings certificates), and how several indexes are weighed
//! against each other (uv's `index-strategy`), which chooses.

use toml::{Table, Value};

/// A package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// Bundler.
    Bundler,
    /// npm, and pnpm and Yarn 1, which read the same files and variables.
    Npm,
    /// pip.
    Pip,
    /// uv.
    Uv,
    /// Yarn 2 and later.
    Yarn,
}

/// Settings of Bundler; mirrors and the names of hosts are told by their form.
const BUNDLER: [&str; 4] = ["redirect", "retry", "ssl_verify_mode", "timeout"];

/// Settings of npm, pnpm and Yarn 1.
const NPM: [&str; 22] = [
    "_auth",
    "_authtoken",
    "_password",
    "always-auth",
    "ca",
    "cert",
    "fetch-retries",
    "fetch-retry-factor",
    "fetch-retry-maxtimeout",
    "fetch-retry-mintimeout",
    "fetch-timeout",
    "http-proxy",
    "https-proxy",
    "key",
    "local-address",
    "maxsockets",
    "network-concurrency",
    "network-timeout",
    "noproxy",
    "proxy",
    "registry",
    "strict-ssl",
];

/// What npm has for one host: `//registry.example/:_authToken`.
const NPM_OF_HOST: [&str; 8] =
    ["_auth", "_authToken", "_password", "always-auth", "ca", "cert", "key", "username"];

/// Settings of pip. `default-timeout` is another name of `timeout`, `pypi-url` of `index-url`.
const PIP: [&str; 11] = [
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "keyring-provider",
    "no-index",
    "proxy",
    "pypi-url",
    "retries",
    "timeout",
    "trusted-host",
];

/// Settings of uv, as in `uv.toml`; variables have the same words in capitals.
const UV: [&str; 20] = [
    "allow-insecure-host",
    "concurrent-downloads",
    "default-index",
    "extra-index-url",
    "find-links",
    "http-connect-timeout",
    "http-proxy",
    "http-retries",
    "http-timeout",
    "https-proxy",
    "index",
    "index-url",
    "insecure-host",
    "keyring-provider",
    "native-tls",
    "no-index",
    "no-proxy",
    "request-timeout",
    "system-certs",
    // A table that has some of the others.
    "pip",
];

/// What uv.toml says of one index.
const UV_OF_INDEX: [&str; 7] =
    ["authenticate", "default", "explicit", "format", "ignore-error-codes", "name", "url"];

/// Settings of Yarn 2 and later. Those of scopes, registries and hosts hold nothing but
/// addresses and credentials.
const YARN: [&str; 16] = [
    "enableStrictSsl",
    "httpProxy",
    "httpRetry",
    "httpTimeout",
    "httpsProxy",
    "networkConcurrency",
    "networkSettings",
    "npmAlwaysAuth",
    "npmAuditRegistry",
    "npmAuthIdent",
    "npmAuthToken",
    "npmPublishRegistry",
    "npmRegistries",
    "npmRegistryServer",
    "npmScopes",
    "unsafeHttpWhitelist",
];

/// What of a file may pass, and the settings that may not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filtered {
    /// The text of a file with the settings that may pass.
    pub(super) text: String,
    /// The names of the others.
    pub(super) withheld: Vec<String>,
}

/// The package manager that reads a variable, and whether it may pass; `None` for
/// variables of nobody here.
pub(super) fn variable(name: &str) -> Option<(Tool, bool)> {
    let lower = name.to_ascii_lowercase();
    let (tool, setting) = if let Some(setting) = name.strip_prefix("BUNDLE_") {
        (Tool::Bundler, setting)
    } else if lower.starts_with("npm_config_") {
        (Tool::Npm, &name["npm_config_".len()..])
    } else if let Some(setting) = name.strip_prefix("PIP_") {
        (Tool::Pip, setting)
    } else {
        (Tool::Uv, name.strip_prefix("UV_")?)
    };
    let of_index = || {
        setting.starts_with("INDEX_")
            && (setting.ends_with("_USERNAME") || setting.ends_with("_PASSWORD"))
    };
    Some((tool, allows(tool, setting) || tool == Tool::Uv && of_index()))
}

/// What of a settings file of `tool` may pass.
pub(super) fn filter(tool: Tool, text: &str) -> Filtered {
    match tool {
        Tool::Bundler => {
            yaml(text, |key| key.strip_prefix("BUNDLE_").is_some_and(|key| allows(tool, key)))
        }
        Tool::Yarn => yaml(text, |key| allows(tool, key)),
        Tool::Npm => npmrc(text),
        Tool::Pip => ini(text),
        Tool::Uv => uv(text),
    }
}

fn allows(tool: Tool, setting: &str) -> bool {
    let dashed = || setting.to_ascii_lowercase().replace('_', "-");
    match tool {
        Tool::Bundler => bundler(setting),
        Tool::Npm => {
            if let Some((_, last)) =
                setting.strip_prefix("//").and_then(|rest| rest.rsplit_once(':'))
            {
                return NPM_OF_HOST.contains(&last);
            }
            if setting.starts_with('@') {
                return setting.ends_with(":registry");
            }
            // The first letter of a name may be an underscore of its own.
            let lower = setting.to_ascii_lowercase();
            NPM.contains(&lower.as_str()) || NPM.contains(&dashed().as_str())
        }
        Tool::Pip => PIP.contains(&dashed().trim_start_matches('-')),
        Tool::Uv => UV.contains(&dashed().as_str()) && setting != "PIP",
        Tool::Yarn => YARN.contains(&setting),
    }
}

/// In Bundler's names of settings `___` is a dash and `__` a dot. A name with a dot is the
/// host that a credential is for, or one of a few groups.
fn bundler(setting: &str) -> bool {
    let name = setting.to_ascii_lowercase().replace("___", "-").replace("__", ".");
    if name.starts_with("mirror.") || BUNDLER.contains(&name.as_str()) {
        return true;
    }
    // `build.GEM` has options for a compiler, `local.GEM` a folder; a host has more dots.
    let group = |start: &str| name.strip_prefix(start).is_some_and(|rest| !rest.contains('.'));
    let own = name == "github.https" || group("build.") || group("local.");
    !own && name.contains(['.', ':', '-'])
}

/// The name of a setting that does not pass, for people. A line of another form may be
/// anything, a password too.
fn name(key: &str, is_setting: bool) -> String {
    if is_setting { key.to_owned() } else { "a line that is no setting".to_owned() }
}

/// Whether a value is a path, which means nothing in the sandbox.
pub(super) fn is_path(value: &str) -> bool {
    value.trim_start_matches(['"', '\'']).starts_with(['/', '~'])
}

/// Keeps whole settings at the outermost level of a file in YAML's usual form, which is
/// all that Bundler and Yarn write. Other forms hold nothing that counts as a setting here,
/// and do not pass.
fn yaml(text: &str, allows: impl Fn(&str) -> bool) -> Filtered {
    let mut found = Filtered::default();
    let mut keeping = false;
    for line in text.lines() {
        if line.starts_with("---") {
            keeping = false;
        } else if !line.is_empty() && !line.starts_with([' ', '\t', '-', '#']) {
            // Keys may hold colons: `BUNDLE_MIRROR__HTTPS://RUBYGEMS__ORG/: "…"`.
            let end = line
                .match_indices(':')
                .map(|(at, _)| at)
                .find(|at| line[at + 1..].chars().next().is_none_or(char::is_whitespace));
            let (key, value) = end.map_or((line, ""), |at| (&line[..at], line[at + 1..].trim()));
            let key = key.trim_matches(['"', '\'']);
            keeping = end.is_some() && allows(key) && !is_path(value);
            if !keeping {
                found.withheld.push(name(key, end.is_some()));
            }
        }
        if keeping {
            found.text.extend([line, "\n"]);
        }
    }
    found
}

fn npmrc(text: &str) -> Filtered {
    let mut found = Filtered::default();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        // What stands in a section is no setting of npm.
        if line.starts_with('[') {
            break;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let key = key.trim().trim_matches(['"', '\'']);
        let key = key.strip_suffix("[]").unwrap_or(key);
        if allows(Tool::Npm, key) && !is_path(value.trim()) {
            found.text.extend([line, "\n"]);
        } else {
            found.withheld.push(name(key, line.contains('=')));
        }
    }
    found
}

/// pip's files are read by Python's configparser: a line that is indented deeper than the
/// last setting goes on with its value.
fn ini(text: &str) -> Filtered {
    let mut found = Filtered::default();
    let (mut keeping, mut last) = (false, None);
    for line in text.lines() {
        let inner = line.trim();
        if inner.is_empty() || inner.starts_with([';', '#']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if last.is_some_and(|last| indent > last) {
            // Goes on.
        } else if inner.starts_with('[') {
            (keeping, last) = (true, None);
        } else {
            let (key, value) = inner.split_once(['=', ':']).unwrap_or((inner, ""));
            keeping = allows(Tool::Pip, key.trim()) && !is_path(value.trim());
            last = Some(indent);
            if !keeping {
                found.withheld.push(name(key.trim(), inner.contains(['=', ':'])));
            }
        }
        if keeping {
            found.text.extend([line, "\n"]);
        }
    }
    found
}

fn uv(text: &str) -> Filtered {
    let Ok(table) = text.parse::<Table>() else {
        // uv does not read it either, and says why.
        return Filtered { text: text.to_owned(), withheld: Vec::new() };
    };
    let mut withheld = Vec::new();
    let table = uv_table(table, "", &mut withheld);
    Filtered { text: table.to_string(), withheld }
}

fn uv_table(table: Table, above: &str, withheld: &mut Vec<String>) -> Table {
    let mut kept = Table::new();
    for (key, value) in table {
        let value = match value {
            Value::Table(inner) if key == "pip" && above.is_empty() => {
                Value::Table(uv_table(inner, "pip.", withheld))
            }
            Value::Array(indexes) if key == "index" => Value::Array(
                indexes
                    .into_iter()
                    .map(|index| match index {
                        Value::Table(mut index) => {
                            index.retain(|key, _| UV_OF_INDEX.contains(&key));
                            Value::Table(index)
                        }
                        other => other,
                    })
                    .collect(),
            ),
            Value::String(value) if is_path(&value) => {
                withheld.push(format!("{above}{key}"));
                continue;
            }
            other if allows(Tool::Uv, &key) => other,
            _ => {
                withheld.push(format!("{above}{key}"));
                continue;
            }
        };
        kept.insert(key, value);
    }
    kept
}

#[cfg(test)]
mod tests;
