//! What the output of a failed step may mean.
//!
//! Buildpacks bring their own hints; here is what holds for every step: a file
//! that the app has and the step was not given, a network that an offline step
//! has not, a disk that is full.

use regex::Regex;

use super::EngineError;
use crate::plan::{APP_FOLDER, Hint, Step};

/// Marks of a network that does not answer, as pip, uv, npm, bundler, curl and
/// the C library word it.
const NO_NETWORK: &str = "Temporary failure in name resolution|Name or service not known|Could not resolve host\
|getaddrinfo|Network is unreachable|nodename nor servname|dns error|failed to lookup address|Connection refused\
|Connection timed out|tcp connect error|EAI_AGAIN|ENETUNREACH|error sending request";

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
    for Hint { pattern, advice } in &step.hints {
        let regex = compile(pattern)?;
        if let Some(groups) = output.iter().find_map(|line| regex.captures(line)) {
            let mut text = advice.clone();
            for number in 1..groups.len() {
                text = text.replace(
                    &format!("${number}"),
                    groups.get(number).map_or("", |group| group.as_str()),
                );
            }
            if !found.contains(&text) {
                found.push(text);
            }
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
    if unreachable {
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

fn compile(pattern: &str) -> Result<Regex, EngineError> {
    Regex::new(pattern).map_err(|source| EngineError::Hint {
        pattern: pattern.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::step;

    #[track_caller]
    fn check(network: bool, line: &str, expected: &[&str]) {
        let mut step = step("s", &[]);
        step.network = network;
        step.hints = vec![Hint {
            pattern: "error: (\\S+)\\.h".to_owned(),
            advice: "install $1-dev".to_owned(),
        }];
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
        check(false, "FileNotFoundError: No such file: '/workspace/a/b.txt'", &["`a/b.txt`"]);
        check(false, "FileNotFoundError: No such file: '/workspace/a/d.txt'", &["out: *.txt (t)"]);
        check(false, "FileNotFoundError: No such file: '/workspace/c.txt'", &[]);
        check(false, "socket.gaierror: Temporary failure in name resolution", &["without network"]);
        check(true, "socket.gaierror: Temporary failure in name resolution", &["did not answer"]);
        check(false, "write: No space left on device", &["disk"]);
    }
}
