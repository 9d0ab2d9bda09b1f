//! Addresses of host names: the hosts file, then DNS. The launcher is linked statically, and
//! a static glibc would look for NSS modules of exactly its own version.
//!
//! - Both kinds of address are asked for at once, over UDP; a cut answer is asked for again
//!   over TCP. An answer counts when it is from the server that was asked and repeats number
//!   and question.
//! - As in resolv.conf(5): name servers in their order, `search` and `domain`, `ndots`,
//!   `timeout`, `attempts`. Not done: `rotate`, EDNS, multicast names, nsswitch.conf.
//! - Nothing is kept from one question to the next: who waits asks again.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Record types, and the class of the internet.
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;

/// In the header: an answer, cut, recursion wanted.
const ANSWER: u16 = 1 << 15;
const CUT: u16 = 1 << 9;
const RECURSION: u16 = 1 << 8;
/// What a server says of a name that does not exist.
const NO_SUCH_NAME: u16 = 3;

/// How long the second kind of address may take when the first is there.
const OTHER_KIND: Duration = Duration::from_millis(500);
/// Aliases of aliases that are followed, and pointers within a name.
const HOPS: usize = 16;
/// As glibc: the longest time-out and number of attempts that a file may ask for.
const LONGEST_TIMEOUT: u64 = 30;
const MOST_ATTEMPTS: u64 = 5;

/// Where names are looked up.
#[derive(Debug, Clone)]
pub struct Resolver {
    hosts: PathBuf,
    configuration: PathBuf,
    port: u16,
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver { hosts: "/etc/hosts".into(), configuration: "/etc/resolv.conf".into(), port: 53 }
    }
}

/// What `resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
    timeout: Duration,
    attempts: u64,
}

/// What a server says about a name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Addresses(Vec<IpAddr>),
    /// The name has none, or does not exist.
    Nothing,
    /// The server cannot tell.
    Refused(u16),
    Cut,
}

impl Resolver {
    /// The addresses of a host, at least one.
    ///
    /// # Errors
    /// Why there is none: no such name, no answer. Either may change soon.
    pub fn resolve(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let name = host.trim_end_matches('.');
        let listed = in_hosts(&fs::read_to_string(&self.hosts).unwrap_or_default(), name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let lower = name.to_ascii_lowercase();
        if lower == "localhost" || lower.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let text = fs::read_to_string(&self.configuration).unwrap_or_default();
        let configuration = Configuration::parse(&text);
        let mut unsure = None;
        for name in configuration.names(host) {
            match self.ask_all(&name, &configuration, deadline) {
                Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
                Ok(_) => {}
                Err(reason) => unsure = Some(reason),
            }
        }
        Err(unsure.unwrap_or_else(|| "the name is not known".to_owned()))
    }

    /// The addresses of exactly that name; empty when it has none.
    fn ask_all(
        &self,
        name: &str,
        configuration: &Configuration,
        deadline: Instant,
    ) -> Result<Vec<IpAddr>, String> {
        let mut reason = "there was no time to ask a name server".to_owned();
        for _ in 0..configuration.attempts {
            for server in &configuration.servers {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(reason);
                }
                let server = SocketAddr::new(*server, self.port);
                match ask(server, name, configuration.timeout.min(left)) {
                    Ok(addresses) => return Ok(addresses),
                    Err(err) => reason = format!("the name server {}: {err}", server.ip()),
                }
            }
        }
        Err(reason)
    }
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
        })
        .collect()
}

impl Configuration {
    fn parse(text: &str) -> Configuration {
        let mut found = Configuration {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                // A link-local server (`fe80::1%eth0`) would need the number of its interface.
                Some("nameserver") => {
                    found.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search" | "domain") => {
                    found.search = words.map(|word| word.trim_matches('.').to_owned()).collect();
                    found.search.retain(|domain| !domain.is_empty());
                }
                Some("options") => {
                    for option in words {
                        let (key, value) = option.split_once(':').unwrap_or((option, ""));
                        match (key, value.parse::<u64>()) {
                            ("ndots", Ok(dots)) => found.dots = dots.min(15) as usize,
                            ("timeout", Ok(seconds)) => {
                                found.timeout =
                                    Duration::from_secs(seconds.clamp(1, LONGEST_TIMEOUT));
                            }
                            ("attempts", Ok(number)) => {
                                found.attempts = number.clamp(1, MOST_ATTEMPTS);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if found.servers.is_empty() {
            found.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        found
    }

    /// The names to ask for, in order, without a dot at the end.
    fn names(&self, host: &str) -> Vec<String> {
        if let Some(absolute) = host.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut names: Vec<String> =
            self.search.iter().map(|domain| format!("{host}.{domain}")).collect();
        let first = host.matches('.').count() >= self.dots;
        names.insert(if first { 0 } else { names.len() }, host.to_owned());
        names
    }
}

/// Asks one server for both kinds of address.
fn ask(server: SocketAddr, name: &str, timeout: Duration) -> io::Result<Vec<IpAddr>> {
    let number = random();
    let mut open = Vec::new();
    for (kind, number) in [(A, number), (AAAA, number.wrapping_add(1))] {
        match question(number, name, kind) {
            Some(question) => open.push((kind, question)),
            // Longer than any name can be.
            None => return Ok(Vec::new()),
        }
    }
    let here: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((here, 0))?;
    // From here on only what this server sends is received.
    socket.connect(server)?;
    for (_, question) in &open {
        socket.send(question)?;
    }
    let mut until = Instant::now() + timeout;
    let (mut addresses, mut refused, mut bytes) = (Vec::new(), None, [0; 4096]);
    while !open.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let received = if left.is_zero() {
            Err(ErrorKind::TimedOut.into())
        } else {
            socket.set_read_timeout(Some(left))?;
            socket.recv(&mut bytes)
        };
        let length = match received {
            Ok(length) => length,
            Err(err) if err.kind() == ErrorKind::Interrupted => continue,
            Err(_) if !addresses.is_empty() => break,
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer"));
            }
            Err(err) => return Err(err),
        };
        let message = &bytes[..length];
        // Anything else was sent by somebody who does not know the question.
        let Some((index, found)) = open.iter().enumerate().find_map(|(index, (kind, question))| {
            read(message, question, name, *kind).map(|found| (index, found))
        }) else {
            continue;
        };
        let (kind, question) = open.swap_remove(index);
        let found = match found {
            Found::Cut => over_tcp(server, &question, name, kind, until)?,
            found => found,
        };
        match found {
            Found::Addresses(found) => {
                addresses.extend(found);
                until = until.min(Instant::now() + OTHER_KIND);
            }
            Found::Refused(code) => refused = Some(code),
            Found::Nothing | Found::Cut => {}
        }
    }
    match refused {
        Some(code) if addresses.is_empty() => {
            Err(io::Error::other(format!("it cannot tell (code {code})")))
        }
        _ => {
            // The older kind first: more services listen there.
            let (newer, mut older): (Vec<_>, Vec<_>) =
                addresses.into_iter().partition(IpAddr::is_ipv6);
            older.extend(newer);
            Ok(older)
        }
    }
}

fn over_tcp(
    server: SocketAddr,
    question: &[u8],
    name: &str,
    kind: u16,
    until: Instant,
) -> io::Result<Found> {
    // A time of zero would mean no limit.
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&server, left())?;
    stream.set_read_timeout(Some(left()))?;
    stream.set_write_timeout(Some(left()))?;
    let mut message = (question.len() as u16).to_be_bytes().to_vec();
    message.extend(question);
    stream.write_all(&message)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    read(&message, question, name, kind)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "its answer is to another question"))
}

/// A number that nobody else knows, so that nobody else can answer.
fn random() -> u16 {
    let mut bytes = [0; 2];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Ok(()) => u16::from_be_bytes(bytes),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            ((now.subsec_nanos() >> 4) ^ std::process::id()) as u16
        }
    }
}

/// The message that asks, or `None` for what is no name.
fn question(number: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    for field in [number, RECURSION, 1, 0, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    for field in [kind, INTERNET] {
        message.extend(field.to_be_bytes());
    }
    // 255 for the name, as it is written here.
    (message.len() <= 12 + 255 + 4).then_some(message)
}

/// What an answer says, or `None` when it is none to that question.
fn read(message: &[u8], question: &[u8], name: &str, kind: u16) -> Option<Found> {
    let flags = short(message, 2)?;
    let same = message.get(..2)? == question.get(..2)? && flags & ANSWER != 0;
    let asked = message.get(12..question.len()).filter(|_| short(message, 4) == Some(1));
    if !same || !asked?.eq_ignore_ascii_case(question.get(12..)?) {
        return None;
    }
    match flags & 15 {
        0 => {}
        NO_SUCH_NAME => return Some(Found::Nothing),
        code => return Some(Found::Refused(code)),
    }
    if flags & CUT != 0 {
        return Some(Found::Cut);
    }
    let mut records = Vec::new();
    let mut at = question.len();
    for _ in 0..short(message, 6)? {
        // What does not hold together ends the reading; the rest counts.
        let Some((record, next)) = record(message, at) else { break };
        records.push(record);
        at = next;
    }
    let mut wanted = name.to_ascii_lowercase();
    for _ in 0..HOPS {
        let of_name = || records.iter().filter(|record| record.owner == wanted);
        let addresses: Vec<IpAddr> =
            of_name().filter(|record| record.kind == kind).filter_map(Record::address).collect();
        if !addresses.is_empty() {
            return Some(Found::Addresses(addresses));
        }
        match of_name().find(|record| record.kind == CNAME) {
            Some(alias) => wanted = text(message, alias.at)?.0,
            None => break,
        }
    }
    Some(Found::Nothing)
}

struct Record<'a> {
    owner: String,
    kind: u16,
    data: &'a [u8],
    /// Where the data begins: names in it point elsewhere in the message.
    at: usize,
}

impl Record<'_> {
    fn address(&self) -> Option<IpAddr> {
        match self.kind {
            A => <[u8; 4]>::try_from(self.data).ok().map(IpAddr::from),
            AAAA => <[u8; 16]>::try_from(self.data).ok().map(IpAddr::from),
            _ => None,
        }
    }
}

/// The record there, and where the next one begins.
fn record(message: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let (owner, at) = text(message, at)?;
    let kind = short(message, at)?;
    let length = usize::from(short(message, at + 8)?);
    let at = at + 10;
    let data = message.get(at..at + length)?;
    // Of another class it is nothing to us.
    let kind = if short(message, at - 8)? == INTERNET { kind } else { 0 };
    Some((Record { owner, kind, data, at }, at + length))
}

/// The name there, in lower case, and where it ends.
fn text(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end, mut hops) = (String::new(), None, 0);
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some((name, end.unwrap_or(at + 1))),
            length @ 1..64 => {
                let label = message.get(at + 1..=at + length)?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
                at += length + 1;
            }
            length @ 192.. => {
                end.get_or_insert(at + 2);
                at = (length & 63) << 8 | usize::from(*message.get(at + 1)?);
                hops += 1;
            }
            _ => return None,
        }
        if hops > HOPS || name.len() > 255 {
            return None;
        }
    }
}

fn short(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
