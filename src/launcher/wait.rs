//! Waits until services are ready, all at once, within one limit.
//!
//! - Each service is tried in a thread of its own, after 100 ms, 200 ms … 2 s; one that hangs
//!   does not take the time of another. The threads end with the launcher.
//! - A host name that nobody knows is one that nobody knows yet.
//! - The story is calm: a line for each service after 2 s, 4 s, 8 s …

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::address::{Place, Service, Target};
use crate::protocol::{self, Answer};
use crate::resolve::Resolver;

/// The pause after the first try, doubled after each, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long one connection or one answer may take: longer than a lost packet or two. It is no
/// more than this part of the limit, so that a short one still ends with something to tell.
const PART: u32 = 4;
const TRY: Duration = Duration::from_secs(5);
/// When the first line of the story is told.
const FIRST_LINE: Duration = Duration::from_secs(2);
/// How often it is looked whether the launcher shall stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long before the limit the last try ends, so that what it has seen can be told.
const MARGIN: Duration = Duration::from_millis(200);
/// The least that a limit means: a try needs some time.
const LEAST: Duration = Duration::from_secs(1);

/// What waiting needs from outside.
pub struct Waiting<'a> {
    /// For all together.
    pub limit: Duration,
    /// For host names.
    pub resolver: Resolver,
    /// Takes the lines of the story.
    pub tell: &'a dyn Fn(&str),
    /// Whether somebody wants the launcher to end.
    pub stop: &'a dyn Fn() -> bool,
}

/// Why waiting ended without success.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Somebody wanted it.
    Stopped,
    /// The limit is over; the services that are not ready, and what was last seen of them.
    NotReady(Vec<(String, String)>),
}

/// Returns when all are ready.
///
/// # Errors
/// See [`Ended`].
pub fn wait(targets: &[Target], waiting: &Waiting) -> Result<(), Ended> {
    let start = Instant::now();
    let limit = waiting.limit.max(LEAST);
    let deadline = start + limit;
    let time = Time { deadline: deadline - MARGIN, each: TRY.min(limit / PART) };
    let first = targets.iter().map(|_| Some("no answer yet".to_owned())).collect();
    let states: States = Arc::new(Mutex::new(first));
    for (index, target) in targets.iter().cloned().enumerate() {
        let (shared, resolver) = (Arc::clone(&states), waiting.resolver.clone());
        let launcher = thread::current();
        let tries = move || {
            let mut pause = FIRST_PAUSE;
            loop {
                let last = attempt(&target, &resolver, time).err();
                let ready = last.is_none();
                if let Some(state) = locked(&shared).get_mut(index) {
                    *state = last;
                }
                if ready {
                    return launcher.unpark();
                }
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        // The container may allow no more of them.
        if let Err(err) = thread::Builder::new().spawn(tries)
            && let Some(state) = locked(&states).get_mut(index)
        {
            *state = Some(format!("no thread to try it: {err}"));
        }
    }
    let mut next_line = FIRST_LINE;
    let mut told = false;
    loop {
        let pending = locked(&states).clone();
        if pending.iter().all(Option::is_none) {
            break;
        }
        if (waiting.stop)() {
            return Err(Ended::Stopped);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let all = targets.iter().zip(pending);
            let open = all.filter_map(|(target, last)| Some((target.to_string(), last?)));
            return Err(Ended::NotReady(open.collect()));
        }
        if start.elapsed() >= next_line {
            next_line *= 2;
            for (target, last) in targets.iter().zip(&pending) {
                if let Some(last) = last {
                    told = true;
                    (waiting.tell)(&format!("waiting for {target}: {last}"));
                }
            }
        }
        thread::park_timeout(left.min(LOOK));
    }
    if told {
        (waiting.tell)(&format!("all is ready after {} s", start.elapsed().as_secs()));
    }
    Ok(())
}

/// For each service what was last seen of it; nothing when it is ready.
type States = Arc<Mutex<Vec<Option<String>>>>;

/// What is behind the lock is whole at any time.
fn locked(states: &States) -> MutexGuard<'_, Vec<Option<String>>> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries a service once.
fn attempt(target: &Target, resolver: &Resolver, time: Time) -> Result<(), String> {
    let mut reasons: Vec<String> = Vec::new();
    let several = target.places.len() > 1;
    for place in &target.places {
        match at_place(place, &target.service, resolver, time) {
            Ok(()) => return Ok(()),
            Err(reason) if several => reasons.push(format!("{place}: {reason}")),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.join("; "))
}

fn at_place(
    place: &Place,
    service: &Service,
    resolver: &Resolver,
    time: Time,
) -> Result<(), String> {
    match place {
        Place::Socket(path) => at(service, || {
            let stream = UnixStream::connect(path)?;
            let left = time.left();
            stream.set_read_timeout(Some(left))?;
            stream.set_write_timeout(Some(left))?;
            Ok(stream)
        }),
        Place::Host(host, port) => {
            let addresses = resolver.resolve(host, time.deadline)?;
            let several = addresses.len() > 1;
            let mut reasons: Vec<String> = Vec::new();
            for address in addresses {
                let address = SocketAddr::new(address, *port);
                let result = at(service, || {
                    let stream = TcpStream::connect_timeout(&address, time.left())?;
                    let left = time.left();
                    stream.set_read_timeout(Some(left))?;
                    stream.set_write_timeout(Some(left))?;
                    Ok(stream)
                });
                match result {
                    Ok(()) => return Ok(()),
                    Err(reason) if several || address.ip().to_string() != *host => {
                        reasons.push(format!("{}: {reason}", address.ip()));
                    }
                    Err(reason) => reasons.push(reason),
                }
            }
            Err(reasons.join("; "))
        }
    }
}

/// The time that a try has.
#[derive(Clone, Copy)]
struct Time {
    deadline: Instant,
    /// For a single connection or answer.
    each: Duration,
}

impl Time {
    /// Never zero, which would mean no limit.
    fn left(self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.clamp(Duration::from_millis(1), self.each)
    }
}

fn at<S: io::Read + io::Write>(
    service: &Service,
    connect: impl Fn() -> io::Result<S>,
) -> Result<(), String> {
    let connect = || {
        connect().map_err(|err| match err.kind() {
            io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                "no answer to the connection".to_owned()
            }
            io::ErrorKind::NotFound => "there is no such socket".to_owned(),
            _ => err.to_string(),
        })
    };
    let answer = match protocol::ask(service, &mut connect()?) {
        Answer::HungUp => protocol::tls(&mut connect()?),
        answer => answer,
    };
    match answer {
        Answer::Ready => Ok(()),
        Answer::NotYet(reason) => Err(reason),
        Answer::HungUp => Err("it closes the connection".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn target(service: Service, port: u16) -> Target {
        let places = vec![Place::Host("127.0.0.1".into(), port)];
        Target { variable: None, service, places }
    }

    /// Waits; the result, the story, and how long it took.
    fn run(targets: &[Target], limit: u64) -> (Result<(), Ended>, Vec<String>, Duration) {
        let (story, start) = (RefCell::new(Vec::new()), Instant::now());
        let waiting = Waiting {
            limit: Duration::from_secs(limit),
            resolver: Resolver::default(),
            tell: &|line| story.borrow_mut().push(line.to_owned()),
            stop: &|| false,
        };
        let result = wait(targets, &waiting);
        (result, story.into_inner(), start.elapsed())
    }

    /// Answers connections in turn, the last answer for ever. An empty one hangs up.
    fn fake(answers: &'static [&'static [u8]]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let mut stream = stream.expect("a connection");
                let answer = answers[index.min(answers.len() - 1)];
                if answer != b"greeting" {
                    // What is asked is read, or closing would reset the connection.
                    let _ = stream.read(&mut [0; 512]);
                }
                let _ = stream.write_all(answer);
            }
        });
        port
    }

    #[test]
    fn ready_at_once() {
        let (result, story, took) = run(&[], 1);
        assert_eq!((result, story.len()), (Ok(()), 0));
        assert!(took < Duration::from_millis(100));
        let port = fake(&[b"+PONG\r\n"]);
        let targets = [target(Service::Redis, port), target(Service::Listening, port)];
        let (result, story, took) = run(&targets, 5);
        assert_eq!((result, story.len()), (Ok(()), 0));
        assert!(took < Duration::from_millis(300), "{took:?}");
    }

    #[test]
    fn ready_later() {
        const LOADING: &[u8] = b"-LOADING Redis is loading the dataset in memory\r\n";
        let port = fake(&[LOADING, LOADING, LOADING, LOADING, LOADING, b"+PONG\r\n"]);
        let (result, story, took) = run(&[target(Service::Redis, port)], 20);
        assert_eq!(result, Ok(()));
        // 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s.
        assert!((3000..15_000).contains(&took.as_millis()), "{took:?}");
        let expected = [
            format!(
                "waiting for Redis at 127.0.0.1:{port}: it says \"LOADING Redis is loading the \
                 dataset in memory\""
            ),
            "all is ready after 3 s".to_owned(),
        ];
        assert_eq!(story, expected);
    }

    #[test]
    fn hanging_up_on_postgres() {
        let service = Service::Postgres { user: "me".into(), database: None };
        let port = fake(&[b"", b"S"]);
        assert_eq!(run(&[target(service.clone(), port)], 1).0, Ok(()));
        let port = fake(&[b"", b"N"]);
        assert!(run(&[target(service, port)], 1).0.is_err());
    }

    #[test]
    fn never() {
        // One that listens and is silent, one where nobody is, one that is ready.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = silent.local_addr().expect("it is bound").port();
        // A port that was free a moment ago may be another test's by now.
        let closed = 1;
        let ready = fake(&[b"+PONG\r\n"]);
        let targets = [
            target(Service::Mysql, port),
            target(Service::Listening, closed),
            target(Service::Redis, ready),
            Target {
                variable: Some("$X".into()),
                service: Service::Redis,
                places: vec![Place::Socket("/nope".into()), Place::Host("::1".into(), closed)],
            },
        ];
        let (result, story, took) = run(&targets, 3);
        let Err(Ended::NotReady(open)) = result else { panic!("{result:?}") };
        let open: Vec<String> =
            open.iter().map(|(name, last)| format!("{name} | {last}")).collect();
        assert!(open[0].ends_with(" | it accepts connections and does not answer"), "{open:?}");
        assert_eq!(open[1], format!("a service at 127.0.0.1:{closed} | nothing listens there"));
        assert!(
            open[2].starts_with(&format!(
                "`$X`: Redis at /nope or [::1]:{closed} | /nope: there is no such socket; "
            )),
            "{open:?}"
        );
        assert_eq!((open.len(), story.len()), (3, 3));
        // The first try of the silent one was over by then.
        assert!(!story.iter().any(|line| line.contains("no answer yet")), "{story:?}");
        assert!((2900..15_000).contains(&took.as_millis()), "{took:?}");
    }

    #[test]
    fn stopped() {
        let start = Instant::now();
        let waiting = Waiting {
            limit: Duration::from_secs(60),
            resolver: Resolver::default(),
            tell: &|_| {},
            stop: &|| start.elapsed() > Duration::from_millis(300),
        };
        let nobody = Target {
            variable: None,
            service: Service::Listening,
            places: vec![Place::Socket("/nope".into())],
        };
        assert_eq!(wait(&[nobody], &waiting), Err(Ended::Stopped));
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}
