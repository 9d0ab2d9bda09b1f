//! Whether a service is ready, asked in its own protocol: a database listens before it
//! answers, and a proxy or a stopped server listens and never answers.
//!
//! | service | is asked | ready | not ready |
//! | --- | --- | --- | --- |
//! | PostgreSQL | a startup message | any request for authentication; any error but 57P03 | 57P03 |
//! | MySQL | nothing, it speaks first | a greeting; the host is blocked or not admitted | any other error |
//! | Redis | `PING` | an answer; a wish for a password | `-LOADING` and other states |
//!
//! A server that refuses this user or wants TLS is ready: waiting changes nothing, and the
//! app's own message is better than one from here. PostgreSQL looks at its own state before
//! it looks at who asks, and before TLS only with a startup message; so that comes first, and
//! the request for TLS only where the server hangs up on it.
//!
//! What a server says is shown only where it cannot be about the user.

use std::io::{self, ErrorKind, Read, Write};

use crate::address::Service;

/// PostgreSQL: "cannot connect now": starting up, shutting down, recovering.
const CANNOT_CONNECT_NOW: &[u8] = b"57P03";
/// PostgreSQL: version 3.0 of the protocol.
const STARTUP: u32 = 3 << 16;
/// PostgreSQL: in the place of the version, the request for TLS.
const TLS_REQUEST: u32 = 80_877_103;
/// The longest error that is read.
const LONGEST: usize = 30_000;

/// MySQL: the first byte of an error, and of the greeting of protocol 10.
const MYSQL_ERROR: u8 = 0xff;
const MYSQL_GREETING: u8 = 10;
/// MySQL: too many errors of this host; this host may not connect. Both last.
const MYSQL_HOST: [u16; 2] = [1129, 1130];

/// What a service said.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is ready.
    Ready,
    /// It is not yet; why.
    NotYet(String),
    /// It hung up on the question; [`tls`] may be asked on a new connection.
    HungUp,
}

/// Asks a service on a new connection.
pub fn ask(service: &Service, stream: &mut (impl Read + Write)) -> Answer {
    let answer = match service {
        Service::Listening => return Answer::Ready,
        Service::Postgres { user, database } => postgres(user, database.as_deref(), stream),
        Service::Mysql => mysql(stream),
        Service::Redis => redis(stream),
    };
    answer.unwrap_or_else(|err| Answer::NotYet(silence(&err)))
}

/// Asks PostgreSQL whether it speaks TLS, on a new connection.
pub fn tls(stream: &mut (impl Read + Write)) -> Answer {
    let mut answer = || {
        stream.write_all(&message(&TLS_REQUEST.to_be_bytes()))?;
        byte(stream)
    };
    match answer() {
        Ok(Some(b'S')) => Answer::Ready,
        Ok(_) => Answer::NotYet("it closes the connection without an answer".to_owned()),
        Err(err) => Answer::NotYet(silence(&err)),
    }
}

fn silence(err: &io::Error) -> String {
    match err.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            "it accepts connections and does not answer".to_owned()
        }
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            "it closes the connection without an answer".to_owned()
        }
        _ => err.to_string(),
    }
}

/// The body with its length in front, which counts itself.
fn message(body: &[u8]) -> Vec<u8> {
    let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
    message.extend(body);
    message
}

/// The next byte, or `None` at the end.
fn byte(stream: &mut impl Read) -> io::Result<Option<u8>> {
    let mut byte = [0];
    match stream.read_exact(&mut byte) {
        Ok(()) => Ok(Some(byte[0])),
        Err(err) => match err.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Ok(None),
            _ => Err(err),
        },
    }
}

fn postgres(
    user: &str,
    database: Option<&str>,
    stream: &mut (impl Read + Write),
) -> io::Result<Answer> {
    let mut body = STARTUP.to_be_bytes().to_vec();
    for (key, value) in [("user", Some(user)), ("database", database)] {
        if let Some(value) = value {
            for text in [key, value] {
                body.extend(text.bytes().filter(|byte| *byte != 0));
                body.push(0);
            }
        }
    }
    body.push(0);
    stream.write_all(&message(&body))?;
    match byte(stream)? {
        Some(b'R') => Ok(Answer::Ready),
        Some(b'E') => {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = u32::from_be_bytes(length) as usize;
            if !(8..LONGEST).contains(&length) {
                // The form of version 2, of a server that has no process to spare.
                return Ok(Answer::NotYet("it cannot start a process for us".to_owned()));
            }
            let mut fields = vec![0; length - 4];
            stream.read_exact(&mut fields)?;
            let field = |kind: u8| {
                let mut fields = fields.split(|byte| *byte == 0);
                fields.find_map(|field| field.strip_prefix(&[kind]))
            };
            if field(b'C') == Some(CANNOT_CONNECT_NOW) {
                return Ok(Answer::NotYet(said(field(b'M').unwrap_or_default())));
            }
            Ok(Answer::Ready)
        }
        Some(_) => Ok(Answer::NotYet("it does not answer like PostgreSQL".to_owned())),
        None => Ok(Answer::HungUp),
    }
}

fn mysql(stream: &mut impl Read) -> io::Result<Answer> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    match header[4] {
        MYSQL_GREETING => Ok(Answer::Ready),
        MYSQL_ERROR => {
            let mut code = [0; 2];
            stream.read_exact(&mut code)?;
            let code = u16::from_le_bytes(code);
            if MYSQL_HOST.contains(&code) {
                return Ok(Answer::Ready);
            }
            Ok(Answer::NotYet(format!("it answers with error {code}")))
        }
        _ => Ok(Answer::NotYet("it does not answer like MySQL".to_owned())),
    }
}

fn redis(stream: &mut (impl Read + Write)) -> io::Result<Answer> {
    stream.write_all(b"PING\r\n")?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < 200 {
        match byte(stream)? {
            Some(byte) => line.push(byte),
            None if line.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            None => break,
        }
    }
    let settled: [&[u8]; 5] = [b"-NOAUTH", b"-ERR", b"-NOPERM", b"-WRONGPASS", b"-DENIED"];
    if line.starts_with(b"+") || settled.iter().any(|start| line.starts_with(start)) {
        return Ok(Answer::Ready);
    }
    if line.starts_with(b"-") {
        return Ok(Answer::NotYet(said(&line[1..])));
    }
    Ok(Answer::NotYet("it does not answer like Redis".to_owned()))
}

/// What a server said, fit for one line of a terminal.
fn said(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(160).collect();
    format!("it says \"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that says what it is told to, then hangs up or is silent.
    struct Fake {
        heard: Vec<u8>,
        says: Vec<u8>,
        end: Option<ErrorKind>,
    }

    impl Read for Fake {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // One byte at a time, as a network may.
            match (self.says.is_empty(), self.end) {
                (true, Some(kind)) => Err(kind.into()),
                (true, None) => Ok(0),
                (false, _) => {
                    buffer[0] = self.says.remove(0);
                    Ok(1)
                }
            }
        }
    }

    impl Write for Fake {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn fake(says: &[u8], end: Option<ErrorKind>) -> Fake {
        Fake { heard: Vec::new(), says: says.to_vec(), end }
    }

    #[track_caller]
    fn check(service: &Service, says: &[u8], expected: &str) {
        let found = match ask(service, &mut fake(says, None)) {
            Answer::Ready => "ready".to_owned(),
            Answer::HungUp => "hung up".to_owned(),
            Answer::NotYet(reason) => reason,
        };
        assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(says));
    }

    fn me() -> Service {
        Service::Postgres { user: "me".into(), database: Some("app".into()) }
    }

    /// An error as PostgreSQL sends it.
    fn error(code: &str, text: &str) -> Vec<u8> {
        let body = format!("SFATAL\0VFATAL\0C{code}\0M{text}\0Fpostmaster.c\0\0");
        [b"E".to_vec(), message(body.as_bytes())].concat()
    }

    #[test]
    fn postgres_answers() {
        check(&me(), b"R\0\0\0\x08\0\0\0\x0a", "ready");
        check(&me(), &error("28P01", "password authentication failed for user \"me\""), "ready");
        check(&me(), &error("28000", "no pg_hba.conf entry"), "ready");
        check(
            &me(),
            &error("57P03", "the database system is starting up\n\x1b[1m"),
            "it says \"the database system is starting up[1m\"",
        );
        check(&me(), b"Ecould not fork new process\n\0", "it cannot start a process for us");
        check(&me(), b"HTTP/1.1 400", "it does not answer like PostgreSQL");
        check(&me(), b"", "hung up");
        check(&me(), b"E\0\0", "it closes the connection without an answer");
    }

    #[test]
    fn postgres_is_asked() {
        let mut stream = fake(b"R", None);
        ask(&me(), &mut stream);
        assert_eq!(stream.heard, b"\0\0\0\x1e\0\x03\0\0user\0me\0database\0app\0\0");
        let mut stream = fake(b"S", None);
        assert_eq!(tls(&mut stream), Answer::Ready);
        assert_eq!(stream.heard, b"\0\0\0\x08\x04\xd2\x16\x2f");
        assert_ne!(tls(&mut fake(b"N", None)), Answer::Ready);
        assert_ne!(tls(&mut fake(b"", None)), Answer::Ready);
    }

    #[test]
    fn mysql_answers() {
        check(&Service::Mysql, b"\x4a\0\0\0\x0a8.0.36\0", "ready");
        check(&Service::Mysql, b"\x20\0\0\0\xff\x69\x04Host", "ready");
        check(&Service::Mysql, b"\x20\0\0\0\xff\x6a\x04Host", "ready");
        check(&Service::Mysql, b"\x20\0\0\0\xff\x10\x04Too many", "it answers with error 1040");
        check(&Service::Mysql, b"HTTP/", "it does not answer like MySQL");
        check(&Service::Mysql, b"", "it closes the connection without an answer");
    }

    #[test]
    fn redis_answers() {
        check(&Service::Redis, b"+PONG\r\n", "ready");
        check(&Service::Redis, b"-NOAUTH Authentication required.\r\n", "ready");
        check(&Service::Redis, b"-ERR unknown\r\n", "ready");
        check(
            &Service::Redis,
            b"-LOADING Redis is loading the dataset in memory\r\n",
            "it says \"LOADING Redis is loading the dataset in memory\"",
        );
        check(&Service::Redis, b"HTTP/1.1 400\r\n", "it does not answer like Redis");
        check(&Service::Redis, b"", "it closes the connection without an answer");
        check(&Service::Listening, b"", "ready");
    }

    #[test]
    fn silent() {
        for service in [me(), Service::Mysql, Service::Redis] {
            let answer = ask(&service, &mut fake(b"", Some(ErrorKind::WouldBlock)));
            let expected = "it accepts connections and does not answer".to_owned();
            assert_eq!(answer, Answer::NotYet(expected));
        }
    }
}
