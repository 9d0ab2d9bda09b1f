//! Several processes in one container, for hosts that have room for one only.
//!
//! - What is declared before each happens first, one process after the other; then all start.
//! - Each line that one prints has its type in front. A line is passed on whole, unless it
//!   is longer than a pipe.
//! - When one ends, the others are asked to end, and killed when they take too long. The status
//!   is that of the one that ended first.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::choose::Launch;
use crate::environment::Environment;
use crate::execute;
use crate::failure::Failure;
use crate::init;
use crate::system::{self, SIGCHLD, SIGKILL, SIGTERM};

/// Types that are for once, not for as long as the container runs.
pub const FOR_ONCE: &str = "release";
/// Between the ports of two processes, as foreman has it.
const PORTS: u16 = 100;
/// Seconds that the others have when one has ended; `FORGE_GRACE` is another number.
const GRACE: u64 = 10;
/// A line longer than this is passed on in pieces.
const LINE: usize = 64 << 10;
/// How long output may still come after the last process has ended.
const REST: Duration = Duration::from_secs(1);
/// Between two looks at that.
const PAUSE: Duration = Duration::from_millis(5);

/// The port of the `number`th process: the first has PORT itself.
pub fn port(environment: &mut Environment, number: u16) {
    let first = environment.get("PORT").and_then(|port| port.to_str()?.parse::<u16>().ok());
    if let Some(port) = first.and_then(|first| first.checked_add(number.checked_mul(PORTS)?)) {
        environment.set("PORT", port.to_string(), "PORT and 100 for each process before it");
    }
}

/// Runs all of them; gives the status to end with.
///
/// # Errors
/// One of them cannot be started; the others are ended then.
pub fn run(all: &[(Launch, Environment)], app: &Path) -> Result<u8, Failure> {
    let watch = init::watch();
    let width = all.iter().filter_map(|(launch, _)| launch.kind.as_ref()).map(String::len).max();
    let width = width.unwrap_or_default();
    // Streams that are read. A counter and not a channel, which is 20 kB of program.
    let streams = Arc::new(AtomicUsize::new(0));
    let mut running: Vec<(u32, String)> = Vec::new();
    let mut failure = None;
    for (launch, environment) in all {
        let kind = launch.kind.clone().unwrap_or_default();
        let spawn = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            watch.spawn(command, false)
        };
        match execute::start(launch, environment, app, spawn) {
            Ok(mut child) => {
                pass_on(&mut child, &format!("{kind:width$} | "), &streams);
                running.push((child.id(), kind));
            }
            Err(problem) => {
                failure = Some(problem);
                break;
            }
        }
    }
    let mut first = None;
    let mut deadline = None;
    if failure.is_some() {
        deadline = Some(end(&running));
    }
    while !running.is_empty() {
        let left = deadline.map(|at: Instant| at.saturating_duration_since(Instant::now()));
        match watch.next(left) {
            Some(SIGCHLD) => {
                while let Some((pid, status)) = system::reap() {
                    let Some(at) = running.iter().position(|(child, _)| *child == pid) else {
                        continue;
                    };
                    let (_, kind) = running.remove(at);
                    // Before its output is lost among that of the others.
                    tell(&format!("`{kind}` ended with status {}", init::code(status)));
                    if first.is_none() {
                        first = Some(init::code(status));
                        if deadline.is_none() && !running.is_empty() {
                            deadline = Some(end(&running));
                        }
                    }
                }
            }
            Some(signal) => {
                running.iter().for_each(|(pid, _)| system::send(*pid, signal));
                if signal == SIGTERM && deadline.is_none() {
                    deadline = Some(Instant::now() + grace());
                }
            }
            None => {
                for (pid, kind) in &running {
                    tell(&format!("`{kind}` did not end in time and is killed"));
                    system::send_to_group(*pid, SIGKILL);
                }
                deadline = None;
            }
        }
    }
    // What a process that has left the group keeps open is not waited for.
    let until = Instant::now() + REST;
    while streams.load(Ordering::Acquire) > 0 && Instant::now() < until {
        thread::sleep(PAUSE);
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(first.unwrap_or_default()),
    }
}

/// Asks all to end; gives the time at which they must have.
fn end(running: &[(u32, String)]) -> Instant {
    running.iter().for_each(|(pid, _)| system::send(*pid, SIGTERM));
    Instant::now() + grace()
}

fn grace() -> Duration {
    let said = std::env::var("FORGE_GRACE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(said.unwrap_or(GRACE))
}

fn tell(line: &str) {
    let _nobody_reads = writeln!(io::stderr(), "forge launcher: {line}");
}

/// Passes both streams on; `open` counts those that have not ended.
fn pass_on(child: &mut Child, prefix: &str, open: &Arc<AtomicUsize>) {
    let mut streams: Vec<(Box<dyn Read + Send>, Box<dyn Write + Send>)> = Vec::new();
    if let Some(stream) = child.stdout.take() {
        streams.push((Box::new(stream), Box::new(io::stdout())));
    }
    if let Some(stream) = child.stderr.take() {
        streams.push((Box::new(stream), Box::new(io::stderr())));
    }
    for (mut from, mut to) in streams {
        let (prefix, open) = (prefix.as_bytes().to_vec(), Arc::clone(open));
        open.fetch_add(1, Ordering::Release);
        thread::spawn(move || {
            copy(&mut *from, &mut *to, &prefix);
            open.fetch_sub(1, Ordering::Release);
        });
    }
}

/// Copies lines with `prefix` in front. One that nobody can read is dropped: the process must
/// not block, or end, because of it.
fn copy(from: &mut dyn Read, to: &mut dyn Write, prefix: &[u8]) {
    let mut buffer = vec![0; LINE];
    let mut filled = 0;
    loop {
        let read = match from.read(&mut buffer[filled..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        filled += read;
        let mut begin = 0;
        while let Some(length) = buffer[begin..filled].iter().position(|byte| *byte == b'\n') {
            line(to, prefix, &buffer[begin..begin + length]);
            begin += length + 1;
        }
        let is_full = begin == 0 && filled == buffer.len();
        if begin < filled && (read == 0 || is_full) {
            line(to, prefix, &buffer[begin..filled]);
            begin = filled;
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
        if read == 0 {
            return;
        }
    }
}

fn line(to: &mut dyn Write, prefix: &[u8], text: &[u8]) {
    // In one piece, so that lines of several processes do not mix.
    let whole = [prefix, text, b"\n"].concat();
    let _nobody_reads = to.write_all(&whole).and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole() {
        let copied = |mut text: &[u8]| {
            let mut out = Vec::new();
            copy(&mut text, &mut out, b"a | ");
            out
        };
        assert_eq!(copied(b"one\ntwo"), b"a | one\na | two\n");
        assert_eq!(copied(b"\n\nx\r\n"), b"a | \na | \na | x\r\n");
        assert_eq!(copied(b""), b"");
        // Longer than the buffer: in pieces, nothing lost.
        let long = copied(&[b'x'; LINE * 2 + 5]);
        assert_eq!(long.iter().filter(|byte| **byte == b'x').count(), LINE * 2 + 5);
        assert_eq!(long.iter().filter(|byte| **byte == b'\n').count(), 3);
    }

    #[test]
    fn ports() {
        let mut environment = Environment::of_container([("PORT".into(), "5000".into())]);
        port(&mut environment, 2);
        assert_eq!(environment.get("PORT"), Some("5200".as_ref()));
        let mut named = Environment::of_container([("PORT".into(), "http".into())]);
        port(&mut named, 2);
        assert_eq!(named.get("PORT"), Some("http".as_ref()));
    }
}
