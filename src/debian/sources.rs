//! The mirrors that a machine's apt uses (sources.list(5), both forms).
//!
//! Only Debian's own suites count: other vendors' archives are no mirrors of it.

/// Addresses without slash at the end, in the order found, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Mirrors of the main archive.
    pub main: Vec<String>,
    /// Mirrors of the security archive.
    pub security: Vec<String>,
}

/// Suites that say that an archive is Debian's.
const SUITES: [&str; 10] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

impl Found {
    /// Adds what one file says; `deb822` for the form of `.sources` files.
    pub fn add(&mut self, text: &str, deb822: bool) {
        if deb822 {
            for stanza in text.replace("\r\n", "\n").split("\n\n") {
                let field = |name: &str| deb822_field(stanza, name);
                if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"))
                    || !field("Types")
                        .is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"))
                {
                    continue;
                }
                if !field("Components")
                    .is_some_and(|names| names.split_whitespace().any(|name| name == "main"))
                {
                    continue;
                }
                for address in field("URIs").unwrap_or_default().split_whitespace() {
                    for suite in field("Suites").unwrap_or_default().split_whitespace() {
                        self.add_entry(address, suite);
                    }
                }
            }
        } else {
            for line in text.lines() {
                let line = line.split('#').next().unwrap_or("").trim();
                let Some(rest) = line.strip_prefix("deb ") else { continue };
                let rest = rest.trim_start();
                let rest = match rest.strip_prefix('[') {
                    Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
                    None => rest,
                };
                let mut words = rest.split_whitespace();
                if let (Some(address), Some(suite)) = (words.next(), words.next())
                    && words.any(|component| component == "main")
                {
                    self.add_entry(address, suite);
                }
            }
        }
    }

    fn add_entry(&mut self, address: &str, suite: &str) {
        let (name, security) = match suite.split_once(['-', '/']) {
            Some((name, "security" | "updates"))
                if suite.contains("security") || suite.contains('/') =>
            {
                (name, true)
            }
            Some((name, "updates" | "backports" | "proposed-updates")) => (name, false),
            None => (suite, false),
            Some(_) => return,
        };
        let usable = address.starts_with("http://") || address.starts_with("https://");
        if !SUITES.contains(&name) || !usable {
            return;
        }
        let list = if security { &mut self.security } else { &mut self.main };
        let address = address.trim_end_matches('/').to_owned();
        if !list.contains(&address) {
            list.push(address);
        }
    }
}

/// A field of a stanza with its continuation lines, comments left out.
fn deb822_field(stanza: &str, name: &str) -> Option<String> {
    let mut value: Option<String> = None;
    for line in stanza.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = &mut value {
                value.push(' ');
                value.push_str(line.trim());
            }
            continue;
        }
        if value.is_some() {
            break;
        }
        if let Some((field, rest)) = line.split_once(':')
            && field.eq_ignore_ascii_case(name)
        {
            value = Some(rest.trim().to_owned());
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, deb822: bool, main: &[&str], security: &[&str]) {
        let mut found = Found::default();
        found.add(text, deb822);
        assert_eq!(
            (found.main, found.security),
            (
                main.iter().map(|&address| address.to_owned()).collect(),
                security.iter().map(|&address| address.to_owned()).collect()
            )
        );
    }

    #[test]
    fn one_line_form() {
        check(
            "deb http://mirror.example/debian/ bookworm main # comment\n\
             deb [arch=amd64 signed-by=/x.gpg] https://mirror.example/debian trixie-updates main\n\
             deb-src http://source.example/debian bookworm main\n\
             # deb http://off.example/debian bookworm main\n\
             deb https://packages.vendor.example/apt stable-tools main\n\
             deb http://security.example/debian-security bookworm-security main\n\
             deb http://old.example/ bullseye/updates main\n\
             deb https://vendor.example/linux/debian bookworm stable\n\
             deb cdrom:[Debian]/ bookworm main\n",
            false,
            &["http://mirror.example/debian", "https://mirror.example/debian"],
            &["http://security.example/debian-security", "http://old.example"],
        );
    }

    #[test]
    fn deb822_form() {
        check(
            "Types: deb deb-src\n# a comment\nURIs: http://one.example/debian\n http://two.example/debian/\n\
             Suites: trixie trixie-updates\nComponents: main\n\n\
             Types: deb\nURIs: http://security.example/s\nSuites: trixie-security\nComponents: main\n\n\
             Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\n\n\
             Types: deb\nURIs: http://vendor.example/\nSuites: nodistro\n",
            true,
            &["http://one.example/debian", "http://two.example/debian"],
            &["http://security.example/s"],
        );
    }
}
