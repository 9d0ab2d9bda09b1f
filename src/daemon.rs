//! Docker Engine on this machine: an image goes in through its Unix socket, without the docker
//! program and without a file in between.
//!
//! - What is sent is the archive that `docker load` reads, as it is made
//!   (Docker Engine API, "Import images", `POST /images/load`).
//! - The engine reports failures in an answer that begins well: its stream is read to the end.
//! - Whether anybody speaks at all is asked first ("Ping", `GET /_ping`), with a limit. The load
//!   itself has none: the engine's answer begins when the whole image is on its disk, which takes
//!   as long as the image is large and the disk slow; no number tells that from standing still.

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use reqwest::blocking::{Body, Client};
use serde::Deserialize;
use thiserror::Error;

use crate::download::{DownloadError, client_for_socket};
use crate::image::archive::{self, Kind};
use crate::image::{Image, ImageError};
use crate::store::Store;

/// Where the engine listens when nothing else is said.
pub const SOCKET: &str = "/var/run/docker.sock";
/// How long an engine may take for a ping, which it answers at once: enough for a machine that
/// is short of everything.
const PATIENCE: Duration = Duration::from_secs(30);
/// What of an answer that is no JSON is shown.
const SHOWN: usize = 300;

/// Why an image is not in the engine.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// Nobody listens, or we may not speak.
    #[error("could not reach Docker at `{}`", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens, and does not answer a ping.
    #[error("Docker at `{}` does not answer", socket.display())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The conversation broke before an answer came.
    #[error("could not load the image into Docker at `{}`: the connection broke without an answer", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The answer began and did not come to its end.
    #[error("could not read to its end what Docker at `{}` says of the image", socket.display())]
    CutOff {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The engine said no.
    #[error("Docker at `{}` did not load the image: {message}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// Its own words.
        message: String,
    },
    /// No client can be made.
    #[error(transparent)]
    Client(#[from] DownloadError),
    /// The image could not be read.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// One line of the engine's answer.
#[derive(Deserialize)]
struct Line {
    stream: Option<String>,
    error: Option<String>,
    message: Option<String>,
}

/// Loads an image under `names` (`registry/app:tag`; without any it has only its id), and gives
/// what the engine said.
///
/// # Errors
/// See [`DaemonError`].
pub fn load(
    socket: &Path,
    image: &Image,
    store: &Store,
    names: &[String],
) -> Result<String, DaemonError> {
    // What is wrong with a socket is told better by the system than by a client of HTTP.
    let unreachable = |source| DaemonError::Unreachable { socket: socket.to_owned(), source };
    UnixStream::connect(socket).map_err(unreachable)?;
    let broken = |source| DaemonError::Broken { socket: socket.to_owned(), source };
    let refused = |message: String| DaemonError::Refused { socket: socket.to_owned(), message };
    let cut_off = |source| DaemonError::CutOff { socket: socket.to_owned(), source };
    let client = client_for_socket(socket)?;
    ping(&client, socket, PATIENCE)?;
    let (reader, mut writer) = io::pipe().map_err(|source| {
        let (action, path) = ("make a pipe to", socket.to_owned());
        DaemonError::Image(ImageError::Io { action, path, source })
    })?;
    let (written, answer) = thread::scope(|scope| {
        let written = scope.spawn(move || {
            archive::write_into(image, store, &mut writer, Kind::Docker, names, socket)
        });
        let answer = client
            .post("http://docker/images/load?quiet=1")
            .header("Content-Type", "application/x-tar")
            .body(Body::new(reader))
            .send();
        // An answer in the middle of the archive ends the writer: nobody reads any more.
        (written.join(), answer)
    });
    // Why the archive ended counts more than what the engine thinks of its end.
    match written {
        Ok(Err(ImageError::Io { source, .. })) if source.kind() == io::ErrorKind::BrokenPipe => {}
        Ok(result) => result?,
        Err(_) => return Err(refused("the writer of the archive panicked".to_owned())),
    }
    let answer = answer.map_err(broken)?;
    let status = answer.status();
    let mut said = String::new();
    for line in BufReader::new(answer).lines() {
        let line = line.map_err(cut_off)?;
        match serde_json::from_str(&line) {
            Ok(Line { error: Some(error), .. }) => return Err(refused(error)),
            Ok(Line { message: Some(message), .. }) => return Err(refused(message)),
            Ok(Line { stream, .. }) => said.push_str(&stream.unwrap_or_default()),
            Err(_) => said.extend(line.chars().filter(|letter| !letter.is_control()).take(SHOWN)),
        }
    }
    if !status.is_success() || !said.contains("Loaded image") {
        return Err(refused(format!("{status} {said}").trim_end().to_owned()));
    }
    Ok(said.trim_end().to_owned())
}

/// Whether the engine answers anything: not all that load images know this question.
fn ping(client: &Client, socket: &Path, patience: Duration) -> Result<(), DaemonError> {
    client
        .get("http://docker/_ping")
        // The load has a connection of its own, which nobody has had time to close.
        .header("Connection", "close")
        .timeout(patience)
        .send()
        .map(drop)
        .map_err(|source| DaemonError::Silent { socket: socket.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::image::assemble;
    use crate::image::tests::{layer, settings};

    /// Loads an image of one layer into a server that reads `read` bytes and answers so.
    fn load_into(answer: &'static str, read: usize) -> Result<String, DaemonError> {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n >> 3) as u8).collect();
        store.write_blob(&bytes).expect("written");
        let image = assemble(&settings(), vec![layer(&bytes)]).expect("an image");
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        thread::spawn(move || {
            // The first connection only asks whether anybody listens, the second whether he speaks.
            let mut connections = listener.incoming();
            drop(connections.next());
            let mut ping = connections.next().expect("a ping").expect("a connection");
            let _request = ping.read(&mut [0; 1024]).expect("reads");
            ping.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK").expect("writes");
            drop(ping);
            let mut stream = connections.next().expect("one more").expect("a connection");
            let mut rest = read;
            let mut buffer = [0; 65536];
            while rest > 0 {
                match stream.read(&mut buffer).expect("reads") {
                    0 => break,
                    got => rest = rest.saturating_sub(got),
                }
                if buffer.windows(5).any(|window| window == b"0\r\n\r\n") {
                    break;
                }
            }
            stream.write_all(answer.as_bytes()).expect("writes");
        });
        load(&socket, &image, &store, &["r.example/app:v1".to_owned()])
    }

    fn answer(result: Result<String, DaemonError>) -> String {
        result.unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn what_the_engine_says() {
        let all = usize::MAX;
        let good = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"stream\":\"Loaded image: r.example/app:v1\\n\"}\n";
        assert_eq!(answer(load_into(good, all)), "Loaded image: r.example/app:v1");
        for (said, expected) in [
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"stream\":\"x\"}\n{\"error\":\"no space left\"}\n",
                "no space left",
            ),
            (
                "HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n{\"message\":\"invalid tar header\"}\n",
                "invalid tar header",
            ),
            (
                "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n<html>proxy</html>",
                "404 Not Found <html>proxy",
            ),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "did not load the image: 200 OK"),
        ] {
            let found = answer(load_into(said, all));
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn an_engine_that_does_not_read_to_the_end() {
        let early =
            "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n{\"message\":\"not today\"}\n";
        let error = load_into(early, 1).expect_err("refused");
        // The answer may be lost when the connection is closed with bytes unread.
        assert!(
            matches!(error, DaemonError::Refused { .. } | DaemonError::Broken { .. }),
            "{error:?}"
        );
    }

    #[test]
    fn an_answer_that_is_cut_off() {
        let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let error = load_into(begun, usize::MAX).expect_err("cut off");
        assert!(matches!(error, DaemonError::CutOff { .. }), "{error:?}");
        let error = load_into("", usize::MAX).expect_err("no answer");
        assert!(matches!(error, DaemonError::Broken { .. }), "{error:?}");
    }

    #[test]
    fn somebody_listens_and_says_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        // Connections are accepted by the system, and wait.
        let listener = UnixListener::bind(&socket).expect("a socket");
        let client = client_for_socket(&socket).expect("a client");
        let error = ping(&client, &socket, Duration::from_millis(50)).expect_err("silence");
        assert!(matches!(&error, DaemonError::Silent { source, .. } if source.is_timeout()));
        thread::spawn(move || listener.incoming().for_each(drop));
        let error = ping(&client, &socket, PATIENCE).expect_err("hangs up");
        assert!(matches!(&error, DaemonError::Silent { source, .. } if !source.is_timeout()));
    }

    #[test]
    fn nobody_listens() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        let image = assemble(&settings(), vec![]).expect("an image");
        std::fs::write(folder.path().join("file"), "").expect("written");
        for (name, kind) in
            [("nothing", io::ErrorKind::NotFound), ("file", io::ErrorKind::ConnectionRefused)]
        {
            let error = load(&folder.path().join(name), &image, &store, &[]).expect_err("nobody");
            assert!(
                matches!(&error, DaemonError::Unreachable { source, .. } if source.kind() == kind),
                "{error:?}"
            );
        }
    }
}
