//! Something between forge and docker's registry: proxies that variables name, and one that hides
//! how long an answer is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forge::digest::Digest;
use forge::registry::{Access, Credentials, Descriptor, Name, Reference, Repository, Settings};
use forge::store::Store;

use crate::support::{Forge, Server, app, folder, get, give, have, port, text, wait};

/// Docker's registry, where anybody may do anything.
fn registry(folder: &Path) -> (Server, u16) {
    let (root, port) = (folder.display(), port());
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: 127.0.0.1:{port}\n"
    );
    fs::write(folder.join("config.yml"), config).unwrap();
    let server = Server::start(
        Command::new("docker-registry")
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    wait("the registry's start", || get(port, "/v2/").is_some());
    (server, port)
}

/// Passes requests on to a port of this machine, whatever host they are for, each in a connection
/// of its own. `CONNECT` is answered with 407.
struct Proxy {
    port: u16,
    /// What was asked: lines of the requests' heads.
    seen: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Proxy {
    /// `keeps` says of the first line of an answer and another line of its head whether that is
    /// passed on.
    fn start(to: u16, keeps: fn(&str, &str) -> bool) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        // Ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let all = Arc::clone(&all);
                // Who has gone does not mind.
                std::thread::spawn(move || pass_on(stream.unwrap(), to, &all, keeps).ok());
            }
        });
        Proxy { port, seen }
    }

    fn variable(&self) -> String {
        format!("http://user:s%65cret@127.0.0.1:{}", self.port)
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|head| head[0].clone()).collect()
    }
}

fn head(reader: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

fn pass_on(
    mut client: TcpStream,
    to: u16,
    seen: &Mutex<Vec<Vec<String>>>,
    keeps: fn(&str, &str) -> bool,
) -> std::io::Result<()> {
    let lines = head(&mut BufReader::new(client.try_clone()?))?;
    let Some(first) = lines.first().cloned() else { return Ok(()) };
    seen.lock().unwrap().push(lines.clone());
    if first.starts_with("CONNECT ") {
        return client.write_all(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"here\"\r\nContent-Length: 0\r\n\r\n",
        );
    }
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    // `GET http://host/path HTTP/1.1`
    let path = first.split_once("://").map_or(first.as_str(), |(_, rest)| rest);
    let path = &path[path.find('/').unwrap_or_default()..];
    let path = path.split(' ').next().unwrap_or_default();
    let method = first.split(' ').next().unwrap_or_default();
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for line in lines[1..].iter().filter(|line| !line.to_lowercase().contains("connection:")) {
        request += &format!("{line}\r\n");
    }
    server.write_all(format!("{request}\r\n").as_bytes())?;
    let mut server = BufReader::new(server);
    let answer = head(&mut server)?;
    let answer: Vec<&str> =
        answer.iter().map(String::as_str).filter(|line| keeps(&answer[0], line)).collect();
    client.write_all(format!("{}\r\n\r\n", answer.join("\r\n")).as_bytes())?;
    let mut body = Vec::new();
    server.read_to_end(&mut body)?;
    client.write_all(&body)
}

fn repository(port: u16) -> Arc<Repository> {
    let access = Access::new(Settings {
        credentials: Credentials::default(),
        insecure: Vec::new(),
        mirrors: BTreeMap::new(),
        certificates: Vec::new(),
    });
    let reference: Reference = format!("127.0.0.1:{port}/team/app").parse().unwrap();
    access.repository(&reference).unwrap()
}

#[test]
fn a_range_after_the_end_of_a_blob() {
    if !have(&["docker-registry"]) {
        return;
    }
    let folder = folder("range");
    let (_registry, port) = registry(&folder);
    let bytes: Vec<u8> = (0..120_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    repository(port).write_blob(&bytes).unwrap();
    let digest = Digest::of(&bytes);

    // What it says of a range after the end: the length of the blob, of which nothing comes.
    let mut direct = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let asked = format!(
        "GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\nRange: bytes=120000-\r\n\r\n"
    );
    direct.write_all(asked.as_bytes()).unwrap();
    let said = head(&mut BufReader::new(direct)).unwrap();
    assert!(said[0].contains(" 416 "), "{said:?}");
    assert!(said.iter().any(|line| line == "Content-Length: 120000"), "{said:?}");

    // forge asks for that when less comes than there should be, and nobody says so.
    let proxy = Proxy::start(port, |status, line| {
        status.contains(" 416 ") || !line.starts_with("Content-Length")
    });
    let store = Store::open(&folder.join("store")).unwrap();
    let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
    let blob = Descriptor { media_type, digest, size: 200_000 };
    let started = Instant::now();
    let error = repository(proxy.port).fetch_blob(&blob, &store, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("refused to fetch blob"), "{error}");
    assert!(error.to_string().contains("416"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(proxy.requests().len(), 2);
    assert_eq!(store.blob_size(&digest).unwrap(), None);
}

#[test]
fn proxies_that_variables_name() {
    if !have(&["docker-registry", "setpriv"]) {
        return;
    }
    let folder = folder("proxies");
    let (_registry, port) = registry(&folder);
    // Something that is there, and is no image.
    let artifact = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
    let direct = repository(port);
    direct.write_blob(b"{}").unwrap();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    direct.put_manifest(Name::Tag("v1"), kind, artifact).unwrap();

    fs::write(folder.join("settings.toml"), "[registry]\ninsecure = [\"plain.example\"]\n")
        .unwrap();
    give(&folder.join("settings.toml"));
    let app = app("proxied", &[("requirements.txt", "")]).display().to_string();
    let ask = |host: &str, variables: &[(&str, &str)]| {
        let mut forge = Forge::new(&folder.join("store"))
            .with("FORGE_SETTINGS", &folder.join("settings.toml").display().to_string());
        for name in
            ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
        {
            forge = forge.with(name, "");
        }
        for (name, value) in variables {
            forge = forge.with(name, value);
        }
        let base = format!("{host}/team/app:v1");
        let output = forge.run(&["build", &app, "--base", &base]);
        let words = text(&output.stderr);
        assert!(!words.contains("secret") && !words.contains("s%65cret"), "{words}");
        words
    };
    let proxy = || Proxy::start(port, |_, _| true);
    let asked = |proxy: &Proxy, what: &str, basic: bool| {
        let seen = proxy.seen.lock().unwrap();
        let found = seen.iter().find(|head| head[0].starts_with(what));
        let head = found.unwrap_or_else(|| panic!("{what} is not in {seen:?}"));
        // user:secret
        let shown = |line: &String| {
            line.to_lowercase().starts_with("proxy-authorization: basic ")
                && line.ends_with("dXNlcjpzZWNyZXQ=")
        };
        assert_eq!(head.iter().any(shown), basic, "{head:?}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let proxy = proxy();
            let words = ask("plain.example", &[("HTTP_PROXY", &proxy.variable())]);
            asked(&proxy, "GET http://plain.example/v2/team/app/manifests/v1 ", true);
            assert!(
                words.contains("`plain.example/team/app:v1` of `plain.example` cannot be used"),
                "{words}"
            );
        });
        scope.spawn(|| {
            // In the clear nothing is said but where to; that the proxy does not want us is not
            // asked again.
            let proxy = proxy();
            let words = ask("secure.example", &[("https_proxy", &proxy.variable())]);
            asked(&proxy, "CONNECT secure.example:443 ", true);
            assert_eq!(proxy.requests().len(), 1);
            assert!(words.contains("proxy authorization required"), "{words}");
            assert!(words.contains("the proxy wants a password"), "{words}");
        });
        scope.spawn(|| {
            // A name that nobody has: only a proxy could know it.
            let proxy = proxy();
            let variables =
                [("HTTP_PROXY", &*proxy.variable()), ("NO_PROXY", "other.example,.example")];
            let words = ask("plain.example", &variables);
            assert_eq!(proxy.requests(), [""; 0], "{words}");
            assert!(words.contains("plain.example"), "{words}");
        });
        scope.spawn(|| {
            // This machine is meant, not the proxy's.
            let proxy = proxy();
            let variables = [("HTTP_PROXY", &*proxy.variable()), ("ALL_PROXY", &*proxy.variable())];
            let words = ask(&format!("127.0.0.1:{port}"), &variables);
            assert_eq!(proxy.requests(), [""; 0], "{words}");
            assert!(words.contains("cannot be used"), "{words}");
            let words = ask(&format!("localhost:{port}"), &variables);
            assert_eq!(proxy.requests(), [""; 0], "{words}");
            assert!(words.contains("cannot be used"), "{words}");
        });
        scope.spawn(|| {
            let nobody = format!("http://user:secret@127.0.0.1:{}", self::port());
            let words = ask("secure.example", &[("HTTPS_PROXY", &nobody)]);
            assert!(words.contains("could not") && words.contains("secure.example"), "{words}");
        });
        scope.spawn(|| {
            let words = ask("secure.example", &[("HTTPS_PROXY", "http://user:secret@ho st:1")]);
            assert!(words.contains("`HTTPS_PROXY` is not the address of a proxy"), "{words}");
        });
    });
}
