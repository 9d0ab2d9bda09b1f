//! Credential helpers: programs called `docker-credential-NAME` that know passwords.
//!
//! The protocol is docker's: the registry's name on standard input of `… get`, a JSON document
//! on its standard output; when it fails, words there. What a helper prints when all went well is
//! never shown.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::credentials::Login;

/// Helpers may ask a server, or a person; but forge does not wait for ever.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A document with a long token has some kilobytes.
const LIMIT: u64 = 256 << 10;
/// What helpers say that know nobody. They have no code for it.
const NOT_FOUND: [&str; 2] = ["credentials not found", "no credentials"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: String,
}

/// Asks the helper `name` who we are at `server`.
pub(super) fn get(
    name: &str,
    server: &str,
    environment: &BTreeMap<String, String>,
    patience: Duration,
) -> Result<Login, String> {
    // A name from a file; a path would run anything.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err("it is not the name of a helper".to_owned());
    }
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => "there is no such program on PATH".to_owned(),
            _ => format!("it does not start: {error}"),
        })?;
    let answer = answer(&mut child, server, patience);
    if answer.is_err() {
        end(&mut child);
    }
    let (succeeded, bytes) = answer?;
    if !succeeded {
        let text = String::from_utf8_lossy(&bytes);
        if NOT_FOUND.iter().any(|words| text.to_ascii_lowercase().contains(words)) {
            return Ok(Login::Nobody);
        }
        let words: String = text.trim().chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(if words.is_empty() { "it fails without a word".to_owned() } else { words });
    }
    // The parser's message would show a piece of the text.
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|_| "it does not answer with user and secret".to_owned())?;
    Ok(match (answer.username.as_str(), answer.secret) {
        ("", secret) if secret.is_empty() => Login::Nobody,
        ("<token>", secret) => Login::Identity(secret),
        (user, password) => Login::Password { user: user.to_owned(), password },
    })
}

/// What it printed, and whether it succeeded.
fn answer(child: &mut Child, server: &str, patience: Duration) -> Result<(bool, Vec<u8>), String> {
    let started = Instant::now();
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no input and output".to_owned());
    };
    // A name is shorter than a pipe, so this does not wait; who does not read it may still know.
    let _not_read = input.write_all(format!("{server}\n").as_bytes());
    drop(input);
    let (sender, receiver) = mpsc::channel();
    // Ends when the helper and all its children have closed their end.
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.take(LIMIT).read_to_end(&mut bytes).map(|_| bytes);
        let _nobody_waits = sender.send(read);
    });
    let late = || format!("it says nothing for {} seconds", patience.as_secs());
    let bytes = receiver
        .recv_timeout(patience)
        .map_err(|_| late())?
        .map_err(|error| format!("its answer cannot be read: {error}"))?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok((status.success(), bytes)),
            Ok(None) if started.elapsed() > patience => return Err(late()),
            Ok(None) => thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Ends it and what it started.
fn end(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Gone already is as good.
        let _gone = kill_process_group(group, Signal::KILL);
    }
    let _gone = child.wait();
}
