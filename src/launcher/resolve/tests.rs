//! What `resolve` promises.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;
use crate::testing::Folder;

/// A name as it is written in messages.
fn label(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// An answer with these records: owner, type, data.
fn answer(question: &[u8], flags: u16, records: &[(&str, u16, Vec<u8>)]) -> Vec<u8> {
    let mut message = question[..2].to_vec();
    for field in [ANSWER | RECURSION | flags, 1, records.len() as u16, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    message.extend(&question[12..]);
    for (owner, kind, data) in records {
        // The name of the question as a pointer to it.
        match *owner {
            "@" => message.extend([0xc0, 12]),
            owner => message.extend(label(owner)),
        }
        message.extend(kind.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 9]);
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    }
    message
}

/// What the fake server does with one name.
fn reply(question: &[u8], tcp: bool) -> Vec<Vec<u8>> {
    let (name, end) = text(question, 12).expect("a question");
    let kind = short(question, end).expect("a question");
    let (v4, v6) = (vec![10, 0, 0, 7], Ipv6Addr::LOCALHOST.octets().to_vec());
    let own = |data: &[u8]| answer(question, 0, &[("@", kind, data.to_vec())]);
    let none = || answer(question, 0, &[]);
    match (name.as_str(), kind) {
        ("both.test", A) => vec![own(&v4)],
        ("both.test", _) => vec![own(&v6)],
        ("four.test" | "db.ns.svc.test", A) => vec![own(&v4)],
        ("four.test", _) => vec![none()],
        ("six.test", AAAA) => vec![own(&v6)],
        ("six.test", _) => vec![none()],
        ("silent6.test", A) => vec![own(&v4)],
        ("silent6.test" | "silent.test", _) => vec![],
        ("alias.test", A) => vec![answer(
            question,
            0,
            &[
                ("other.test", A, vec![6, 6, 6, 6]),
                ("real.test", A, v4),
                ("@", CNAME, label("Middle.test")),
                ("middle.test", CNAME, label("real.test")),
            ],
        )],
        ("loop.test", A) => vec![answer(question, 0, &[("@", CNAME, label("loop.test"))])],
        ("big.test", A) if tcp => {
            let records: Vec<_> = (0..200).map(|i| ("@", A, vec![10, 0, 1, i])).collect();
            vec![answer(question, 0, &records)]
        }
        ("big.test", A) => vec![answer(question, CUT, &[])],
        ("broken.test", _) => vec![answer(question, 2, &[])],
        // Wrong number, wrong question, garbage, not an answer; then the right one.
        ("forged.test", A) => {
            let bad = |message: &[u8]| answer(message, 0, &[("@", A, vec![6, 6, 6, 6])]);
            let mut other_number = question.to_vec();
            other_number[0] ^= 0x55;
            let other_name =
                super::question(u16::from_be_bytes([question[0], question[1]]), "target.test", A);
            let mut no_answer = bad(question);
            no_answer[2] &= 0x7f;
            vec![
                bad(&other_number),
                bad(&other_name.expect("a name")),
                b"garbage".to_vec(),
                no_answer,
                own(&v4),
            ]
        }
        (_, AAAA) => vec![none()],
        _ => vec![answer(question, 3, &[])],
    }
}

/// A server on loopback, over UDP and TCP, with the names that it was asked for.
fn server(host: &str, port: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let udp = UdpSocket::bind((host, port)).expect("a port is free");
    let port = udp.local_addr().expect("it is bound").port();
    let tcp = TcpListener::bind((host, port)).expect("the port is free for TCP too");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut bytes) {
            let (name, end) = text(&bytes, 12).expect("a question");
            if short(&bytes, end) == Some(A) {
                log.lock().expect("no panic").push(name);
            }
            for message in reply(&bytes[..length], false) {
                udp.send_to(&message, from).expect("it can be sent");
            }
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.expect("a connection");
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).expect("a question");
            for message in reply(&question, true) {
                let length = (message.len() as u16).to_be_bytes();
                stream.write_all(&[&length, &message[..]].concat()).expect("it can be sent");
            }
        }
    });
    (port, asked)
}

fn resolver(folder: &Folder, port: u16) -> Resolver {
    Resolver {
        hosts: folder.path().join("hosts"),
        configuration: folder.path().join("resolv.conf"),
        port,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(4)
}

#[test]
fn names() {
    let (port, asked) = server("127.0.0.1", 0);
    let folder = Folder::with(&[
        ("hosts", "# comment\n10.9.8.7 Listed listed.lan # four.test\n::1 listed\nx listed\n"),
        (
            "resolv.conf",
            "nameserver 127.0.0.1\nsearch ns.svc.test svc.test\noptions ndots:2 timeout:1 attempts:1\n",
        ),
    ]);
    let resolver = resolver(&folder, port);
    let unknown = "the name is not known";
    for (host, expected) in [
        ("10.1.2.3", "10.1.2.3"),
        ("::1", "::1"),
        ("localhost", "127.0.0.1 ::1"),
        ("LISTED", "10.9.8.7 ::1"),
        ("listed.lan", "10.9.8.7"),
        ("both.test.", "10.0.0.7 ::1"),
        ("four.test", "10.0.0.7"),
        ("six.test", "::1"),
        ("silent6.test.", "10.0.0.7"),
        ("alias.test", "10.0.0.7"),
        ("loop.test", unknown),
        ("forged.test.", "10.0.0.7"),
        ("nosuch.test", unknown),
        ("silent.test.", "the name server 127.0.0.1: no answer"),
        ("broken.test.", "the name server 127.0.0.1: it cannot tell (code 2)"),
        ("a..b", unknown),
        (&"x".repeat(64), unknown),
        (&"abc.".repeat(80), unknown),
    ] {
        let found = match resolver.resolve(host, soon()) {
            Ok(list) => list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
            Err(reason) => reason,
        };
        assert_eq!(found, expected, "{host}");
    }
    let big = resolver.resolve("big.test.", soon()).expect("over TCP");
    assert_eq!((big.len(), big[199]), (200, Ipv4Addr::new(10, 0, 1, 199).into()));

    // The search list, in its order.
    asked.lock().expect("no panic").clear();
    assert!(resolver.resolve("db", soon()).is_ok());
    assert_eq!(*asked.lock().expect("no panic"), ["db.ns.svc.test"]);
    asked.lock().expect("no panic").clear();
    assert!(resolver.resolve("no.such.one", soon()).is_err());
    let expected = ["no.such.one", "no.such.one.ns.svc.test", "no.such.one.svc.test"];
    assert_eq!(*asked.lock().expect("no panic"), expected);
}

#[test]
fn the_next_server() {
    // One that is silent, one where nobody is, one that answers.
    let silent = UdpSocket::bind(("127.0.0.3", 0)).expect("a port is free");
    let port = silent.local_addr().expect("it is bound").port();
    let (_, asked) = server("127.0.0.2", port);
    let folder = Folder::with(&[(
        "resolv.conf",
        "nameserver 127.0.0.3\nnameserver 127.0.0.4\nnameserver 127.0.0.2\noptions timeout:1\n",
    )]);
    let resolver = resolver(&folder, port);
    let start = Instant::now();
    let found = resolver.resolve("four.test", soon()).expect("the third one tells");
    assert_eq!(found, [IpAddr::from([10, 0, 0, 7])]);
    assert_eq!(asked.lock().expect("no panic").len(), 1);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // Of a name with one kind of address the other is not waited for.
    let start = Instant::now();
    let only = Resolver { configuration: folder.path().join("only"), ..resolver.clone() };
    fs::write(&only.configuration, "nameserver 127.0.0.2\n").expect("it can be written");
    assert_eq!(only.resolve("silent6.test", soon()), Ok(vec![[10, 0, 0, 7].into()]));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // The caller's limit is kept.
    let start = Instant::now();
    let limit = start + Duration::from_millis(300);
    assert!(resolver.resolve("silent.test", limit).is_err());
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
}

#[test]
fn configurations() {
    let parse = Configuration::parse;
    let found = parse("");
    assert_eq!(found.servers, [IpAddr::from([127, 0, 0, 1])]);
    assert_eq!((found.dots, found.attempts, found.timeout.as_secs()), (1, 2, 5));
    let found = parse(
        "; c\n# c\nnameserver ::1\nnameserver bad\ndomain a.\nsearch b c.\noptions ndots:5 \
         attempts:99 timeout:0 edns0\n",
    );
    assert_eq!((found.servers.len(), found.attempts, found.timeout.as_secs()), (1, 5, 1));
    assert_eq!(found.names("db"), ["db.b", "db.c", "db"]);
    assert_eq!(found.names("a.b.c.d.e.f"), ["a.b.c.d.e.f", "a.b.c.d.e.f.b", "a.b.c.d.e.f.c"]);
    assert_eq!(found.names("db."), ["db"]);
}

/// No message makes the reader panic or go on for ever.
#[test]
fn any_bytes() {
    let asked = question(7, "alias.test", A).expect("a name");
    let whole = reply(&asked, false).remove(0);
    for cut in 0..whole.len() {
        read(&whole[..cut], &asked, "alias.test", A);
        for value in [0, 1, 12, 63, 64, 192, 255] {
            let mut bent = whole.clone();
            bent[cut] = value;
            read(&bent, &asked, "alias.test", A);
        }
    }
    // A name that points to itself.
    assert_eq!(text(&[0xc0, 0], 0), None);
}
