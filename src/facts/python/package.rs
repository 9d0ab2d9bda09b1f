//! One Python dependency, whatever file names it, and the grammar of a single
//! requirement (PEP 508, with the paths and addresses that pip also takes).
//!
//! Environment markers are not judged: a package that only some platforms need
//! is still a package of the application.

/// A dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The normalised name; `None` when a path or an address does not tell it.
    pub name: Option<String>,
    /// The exact version, when there is one.
    pub version: Option<String>,
    /// Where it comes from.
    pub source: Source,
    /// Whether what is downloaded is named by its hash.
    pub hashed: bool,
    /// The line it stands on, from 1.
    pub line: usize,
    /// The requirement as a person would write it.
    pub text: String,
}

/// Where a dependency comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A package index.
    Index,
    /// A version control system.
    Vcs,
    /// A file or folder of this machine.
    Path,
    /// One address.
    Url,
}

/// The name as PEP 503 compares it: lower case, runs of `-_.` as one hyphen.
#[must_use]
pub fn normalise(name: &str) -> String {
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_lowercase()
}

/// Reads one requirement, without options and comments.
///
/// # Errors
/// A sentence, when neither a name nor an address nor a path begins it.
pub fn requirement(text: &str, line: usize) -> Result<Package, String> {
    let text = text.trim();
    let package = |name, version, source| Package {
        name,
        version,
        source,
        hashed: false,
        line,
        text: text.to_owned(),
    };
    if let Some(source) = address(text) {
        return Ok(package(name_in_address(text), None, source));
    }
    let ends = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let (name, rest) = text.split_at(text.find(ends).unwrap_or(text.len()));
    let bounded = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if !bounded(name) {
        return Err(format!("`{}` is not a requirement", shortened(text)));
    }
    let mut rest = rest.trim_start();
    if let Some(extras) = rest.strip_prefix('[') {
        let Some((_, after)) = extras.split_once(']') else {
            return Err(format!("`{}` lacks a closing `]`", shortened(text)));
        };
        rest = after.trim_start();
    }
    let name = Some(normalise(name));
    if let Some(target) = rest.strip_prefix('@') {
        let source = address(target.trim_start()).unwrap_or(Source::Path);
        return Ok(package(name, None, source));
    }
    if !(rest.is_empty() || rest.starts_with([';', '<', '>', '=', '!', '~', '('])) {
        return Err(format!(
            "`{}` is not a requirement: after the name a version such as `==1.2` is expected",
            shortened(text)
        ));
    }
    Ok(package(name, pin(rest), Source::Index))
}

/// The exact version in a list of specifiers.
pub fn pin(specifiers: &str) -> Option<String> {
    let specifiers = specifiers.split(';').next().unwrap_or_default();
    let specifiers = specifiers.trim().trim_start_matches('(').trim_end_matches(')');
    specifiers.split(',').find_map(|specifier| {
        let specifier = specifier.trim();
        let version = specifier.strip_prefix("===").or_else(|| specifier.strip_prefix("=="))?;
        let version = version.trim();
        (!version.is_empty() && !version.ends_with(".*")).then(|| version.to_owned())
    })
}

/// What a text that begins with an address or a path points at.
fn address(text: &str) -> Option<Source> {
    let first = text.split([' ', '\t', ';']).next().unwrap_or_default();
    if ["git+", "hg+", "svn+", "bzr+"].iter().any(|vcs| first.starts_with(vcs)) {
        return Some(Source::Vcs);
    }
    // In `name@https://…` the address comes after the name.
    let alone = first.split('@').next().unwrap_or_default();
    if first.starts_with("file:") {
        return Some(Source::Path);
    }
    if let Some((scheme, _)) = first.split_once("://")
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
    {
        let vcs = ["git", "ssh", "hg", "svn"].contains(&scheme);
        return Some(if vcs { Source::Vcs } else { Source::Url });
    }
    let bare = alone.split('[').next().unwrap_or_default();
    let archive = [".whl", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz"];
    let path = bare.starts_with(['.', '/', '~'])
        || bare.contains('/')
        || (!bare.contains('=') && archive.iter().any(|suffix| bare.ends_with(suffix)));
    path.then_some(Source::Path)
}

/// The name that an address states: `#egg=name`, or the front of a wheel's file name.
fn name_in_address(text: &str) -> Option<String> {
    let first = text.split([' ', '\t']).next().unwrap_or_default();
    let (address, fragment) = first.split_once('#').unwrap_or((first, ""));
    let egg = fragment.split('&').find_map(|part| part.strip_prefix("egg="));
    let egg = egg.map(|egg| egg.split(['[', '=']).next().unwrap_or_default());
    let file = address.rsplit('/').next().unwrap_or_default();
    let wheel = file.ends_with(".whl").then(|| file.split('-').next().unwrap_or_default());
    egg.or(wheel).map(normalise).filter(|name| !name.is_empty())
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(Option<&str>, Option<&str>, Source), &str>) {
        let found = requirement(text, 1).map(|p| (p.name, p.version, p.source));
        let expected = expected.map(|(name, version, source)| {
            (name.map(str::to_owned), version.map(str::to_owned), source)
        });
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(normalise("Django"), "django");
        assert_eq!(normalise("zope.interface"), "zope-interface");
        assert_eq!(normalise("A__b-._C"), "a-b-c");
    }

    #[test]
    fn from_an_index() {
        check("Django==4.2.1", Ok((Some("django"), Some("4.2.1"), Source::Index)));
        check("django === 4.2.1", Ok((Some("django"), Some("4.2.1"), Source::Index)));
        check("django==4.2.*", Ok((Some("django"), None, Source::Index)));
        check("django >=4,!=4.1 ; python_version<'3'", Ok((Some("django"), None, Source::Index)));
        check("a[b, c] (==1.0)", Ok((Some("a"), Some("1.0"), Source::Index)));
        check("a;extra=='x'", Ok((Some("a"), None, Source::Index)));
        check("backports.zoneinfo~=0.2", Ok((Some("backports-zoneinfo"), None, Source::Index)));
        check("pytz>dev", Ok((Some("pytz"), None, Source::Index)));
    }

    #[test]
    fn from_elsewhere() {
        check("git+https://git.example/x/y.git@v1#egg=Y_z", Ok((Some("y-z"), None, Source::Vcs)));
        check("y @ git+ssh://git@git.example/y", Ok((Some("y"), None, Source::Vcs)));
        check("y@https://index.example/y.zip", Ok((Some("y"), None, Source::Url)));
        check(
            "https://index.example/My_pkg-1-py3-none-any.whl",
            Ok((Some("my-pkg"), None, Source::Url)),
        );
        check("./lib", Ok((None, None, Source::Path)));
        check(".", Ok((None, None, Source::Path)));
        check("lib/foo[bar]", Ok((None, None, Source::Path)));
        check("foo-1.0-py3-none-any.whl", Ok((Some("foo"), None, Source::Path)));
        check("foo @ file:///srv/foo", Ok((Some("foo"), None, Source::Path)));
    }

    #[test]
    fn refused() {
        check(
            "Django 4.2",
            Err(
                "`Django 4.2` is not a requirement: after the name a version such as `==1.2` is expected",
            ),
        );
        check("==1", Err("`==1` is not a requirement"));
        check("a[b", Err("`a[b` lacks a closing `]`"));
        check("", Err("`` is not a requirement"));
    }
}
