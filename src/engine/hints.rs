//! What the output of a failed step may mean.
//!
//! Buildpacks bring their own hints, the most specific first: a line that one of
//! them explains is not explained by those after it. Here is what holds for every
//! step: a file that the app has and the step was not given, a network that an
//! offline step has not, a disk that is full.

use regex::{Captures, Regex};

use super::EngineError;
use crate::plan::{APP_FOLDER, Hint, Step};

/// Marks of a network that does not answer, as pip, uv, npm, bundler, curl and
/// the C library word it.
const NO_NETWORK: &str = "Temporary failure in name resolution|Name or service not known|Could not resolve host\
|getaddrinfo|Network is unreachable|nodename nor servname|dns error|failed to lookup address|Connection refused\
|Connection timed out|tcp connect error|EAI_AGAIN|ENETUNREACH|error sending request|Could not reach host";

/// Where a file is that a step has not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts<'a> {
    /// Not in the app's folder either.
    Nowhere,
    /// Among the app's files.
    InApp,
    /// In the app's folder; this rule leaves it out.
    Excluded(&'a str),
}

/// Advice for a failed step, most specific first, each once. The flag says
/// whether the network failed a step that may use it.
///
/// # Errors
/// A hint whose pattern does not parse.
pub(super) fn advice<'a>(
    step: &Step,
    output: &[String],
    whereabouts: &dyn Fn(&str) -> Whereabouts<'a>,
) -> Result<(Vec<String>, bool), EngineError> {
    let mut found = Vec::new();
    let mut explained = vec![false; output.len()];
    for hint in &step.hints {
        let regex = compile(&hint.pattern)?;
        let mut said = false;
        for (line, explained) in output.iter().zip(&mut explained).filter(|(_, done)| !**done) {
            let Some(text) = regex.captures(line).and_then(|groups| meaning(hint, &groups)) else {
                continue;
            };
            *explained = true;
            if !said && !found.contains(&text) {
                found.push(text);
            }
            said = true;
        }
    }
    let missing = compile(&format!("/{APP_FOLDER}/([^'\"`\\s:,)]+)"))?;
    let absent = compile("(?i)no such file|not found|cannot find|ENOENT|does not exist")?;
    for line in output.iter().filter(|line| absent.is_match(line)) {
        for groups in missing.captures_iter(line) {
            let path = &groups[1];
            match whereabouts(path) {
                Whereabouts::Nowhere => {}
                Whereabouts::InApp => found.push(format!(
                    "the app has `{path}`, but step `{0}` is not given it: its `source` patterns leave it out (see `forge plan --files={0}`)",
                    step.name
                )),
                Whereabouts::Excluded(rule) => found.push(format!(
                    "the app has `{path}`, and a rule leaves it out: {rule}; `[source] include = [\"/{path}\"]` in forge.toml takes it in"
                )),
            }
        }
    }
    let network = compile(NO_NETWORK)?;
    let unreachable = output.iter().any(|line| network.is_match(line));
    let unexplained =
        output.iter().zip(&explained).any(|(line, explained)| !explained && network.is_match(line));
    if unexplained {
        found.push(if step.network {
            "the network did not answer: check the connection, the proxy variables and the index's address".to_owned()
        } else {
            format!(
                "step `{}` runs without network, so that its result depends on its inputs alone; what it needs must be \
                 fetched before, or not be asked for during the build",
                step.name
            )
        });
    }
    if output.iter().any(|line| line.contains("No space left on device")) {
        found.push("the disk that holds forge's store is full: free some space, or use another with --store".to_owned());
    }
    found.dedup();
    Ok((found, unreachable && step.network))
}

/// The advice with what the pattern found in its place; none when the hint knows
/// other words than those found.
fn meaning(hint: &Hint, groups: &Captures<'_>) -> Option<String> {
    let mut text = hint.advice.clone();
    if !hint.known.is_empty() {
        let mut words = groups.iter().skip(1).flatten();
        text = text.replace("$known", words.find_map(|word| hint.known.get(word.as_str()))?);
    }
    for number in 1..groups.len() {
        let found = groups.get(number).map_or("", |group| group.as_str());
        text = text.replace(&format!("${number}"), found);
    }
    Some(text)
}

fn compile(pattern: &str) -> Result<Regex, EngineError> {
    Regex::new(pattern).map_err(|source| EngineError::Hint {
        pattern: pattern.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::buildpack::Library;
    use crate::plan::tests::step;

    #[track_caller]
    fn check(network: bool, line: &str, expected: &[&str]) {
        let mut step = step("s", &[]);
        step.network = network;
        let hint = |pattern: &str, advice: &str, known: &[(&str, &str)]| Hint {
            pattern: pattern.to_owned(),
            advice: advice.to_owned(),
            known: known.iter().map(|&(word, text)| (word.to_owned(), text.to_owned())).collect(),
        };
        step.hints = vec![
            hint("error: (\\S+)\\.h|no (\\S+)\\.h", "install $known", &[("curl", "libcurl4-dev")]),
            hint("error: (\\S+)\\.h", "install $1-dev", &[]),
            hint("^PG: .*", "there is no database", &[]),
        ];
        let (found, _) = advice(&step, &[line.to_owned()], &|path| match path {
            "a/b.txt" => Whereabouts::InApp,
            "a/d.txt" => Whereabouts::Excluded("*.txt (t)"),
            _ => Whereabouts::Nowhere,
        })
        .expect("the patterns parse");
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn what_lines_mean() {
        check(false, "all is well", &[]);
        check(false, "fatal error: pq.h: nothing", &["install pq-dev"]);
        // Known words before the general case, and not both.
        check(false, "fatal error: curl.h: nothing", &["install libcurl4-dev"]);
        check(false, "no curl.h", &["install libcurl4-dev"]);
        check(false, "no pq.h", &[]);
        check(false, "PG: Connection refused", &["there is no database"]);
        check(false, "FileNotFoundError: No such file: '/workspace/a/b.txt'", &["`a/b.txt`"]);
        check(false, "FileNotFoundError: No such file: '/workspace/a/d.txt'", &["out: *.txt (t)"]);
        check(false, "FileNotFoundError: No such file: '/workspace/c.txt'", &[]);
        check(false, "socket.gaierror: Temporary failure in name resolution", &["without network"]);
        check(true, "socket.gaierror: Temporary failure in name resolution", &["did not answer"]);
        check(false, "write: No space left on device", &["disk"]);
    }

    #[test]
    fn what_ruby_says_for_want_of_a_package() {
        let library = Library::new(&BTreeMap::new()).expect("parses");
        let mut step = step("s", &[]);
        step.hints = library.get("ruby").expect("there").hints.clone();
        let says = |output: &str, expected: &[&str]| {
            let lines: Vec<String> = output.lines().map(str::to_owned).collect();
            let (found, _) =
                advice(&step, &lines, &|_| Whereabouts::Nowhere).expect("the patterns parse");
            assert_eq!(found.len(), expected.len(), "{output}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{output}: {found}");
            }
        };
        // As mkmf, the compiler, pg, mysql2, psych, curb, rmagick and charlock_holmes word it.
        for (output, package) in [
            ("checking for pcap.h... no\npcap.h is missing", "libpcap-dev"),
            ("x.c:3:10: fatal error: unicode/ucnv.h: No such file or directory", "libicu-dev"),
            (
                "checking for pg_config... no\nUnable to find PostgreSQL client library.",
                "libpq-dev",
            ),
            ("Can't find the 'libpq-fe.h header", "libpq-dev"),
            ("mysql client is missing. You may need to install it", "default-libmysqlclient-dev"),
            ("checking for yaml.h... no\nyaml.h not found", "libyaml-dev"),
            (
                "Can't find libcurl or curl/curl.h, try passing --with-curl-dir",
                "libcurl4-openssl-dev",
            ),
            (
                "Can't install RMagick 6.1.1. Can't find MagickWand with pkg-config",
                "libmagickwand-dev",
            ),
            (
                "***** icu required (brew install icu4c or apt-get install libicu-dev) *****",
                "libicu-dev",
            ),
            ("Package 'libxml-2.0', required by 'virtual:world', not found", "libxml2-dev"),
        ] {
            says(output, &[&format!("`[packages] build = [\"{package}\"]`")]);
        }
        // One that is not known, after one that many look for and few need.
        says(
            "checking for sys/none.h... no\nnone.h is missing",
            &["the header `none.h` is missing", "looked for the header `sys/none.h`"],
        );
        says("checking for stdint.h... yes\nUsing config values from /usr/bin/pg_config", &[]);
        says(
            "Could not reach host gems.example. Check your network",
            &["the gem server `gems.example` "],
        );
        says("Could not find a-1.0 in any of the sources", &["no gem server in use has `a-1.0`"]);
        says(
            "Could not find a-1.0 in locally installed gems",
            &["the gem `a-1.0` was not fetched"],
        );
        says("Your bundle is locked to a (1.0) from r", &["the gem server has no `a` 1.0"]);
        says("Authentication is required for gems.example.", &["--global gems.example NAME"]);
    }
}
