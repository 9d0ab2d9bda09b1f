//! A registry for tests: answers from a closure, and remembers what it was asked. Or one that
//! keeps what it is sent, between closures that make it fail.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::digest::Digest;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// How often the path was asked for before.
    pub(crate) earlier: usize,
    /// How often this kind of thing was asked for before.
    pub(crate) nth: usize,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// `PATCH uploads`, `HEAD blobs`, `PUT manifests`, `GET token`, `POST mount`.
    pub(crate) fn kind(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let kinds = ["uploads", "blobs", "manifests", "token"];
        let kind = kinds.iter().find(|kind| path.contains(&format!("/{kind}")));
        let kind = if self.query("mount").is_some() { Some(&"mount") } else { kind };
        format!("{} {}", self.method, kind.unwrap_or(&""))
    }

    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let url = reqwest::Url::parse("http://h").expect("parses").join(&self.path).ok()?;
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    /// So many bytes of the request's body are read, and nothing is answered.
    hang_up: Option<usize>,
    slow: Slow,
}

/// How somebody takes their time.
#[derive(Clone, Copy, Debug, Default)]
struct Slow {
    /// Bytes of the answer's body that are sent one by one, each after a pause.
    drips: (usize, Duration),
    /// Bytes of the request's body that are read at once, each time after a pause; then all is
    /// as usual.
    sips: (usize, Duration),
    /// So long the connection stays open after the answer.
    held: Duration,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Answer {
        let (headers, body) = (Vec::new(), Vec::new());
        Answer { status, headers, body, cut: None, hang_up: None, slow: Slow::default() }
    }

    pub(crate) fn ok(body: &[u8]) -> Answer {
        Answer { body: body.to_vec(), ..Answer::status(200) }
    }

    pub(crate) fn code(mut self, status: u16) -> Answer {
        self.status = status;
        self
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Ends the connection after so many bytes of the body.
    pub(crate) fn cut(mut self, after: usize) -> Answer {
        self.cut = Some(after);
        self
    }

    /// Ends the connection without an answer, when so many bytes of the body have come.
    pub(crate) fn hang_up(after: usize) -> Answer {
        Answer { hang_up: Some(after), ..Answer::status(500) }
    }

    /// Sends the first bytes of the body one by one, each after a pause.
    pub(crate) fn dripping(mut self, bytes: usize, pause: Duration) -> Answer {
        self.slow.drips = (bytes, pause);
        self
    }

    /// Leaves the connection open when all is sent.
    pub(crate) fn held(mut self, time: Duration) -> Answer {
        self.slow.held = time;
        self
    }

    /// Reads the request's body in pieces of so many bytes, each after a pause; only for answers
    /// before the body is read, and then the usual answer is given.
    pub(crate) fn sipping(bytes: usize, pause: Duration) -> Answer {
        let slow = Slow { sips: (bytes, pause), ..Slow::default() };
        Answer { slow, ..Answer::status(500) }
    }

    /// A body of unknown length, which ends where it is said to end, or just with the connection.
    pub(crate) fn chunked(self, ended: bool) -> Answer {
        let mut body = format!("{:x}\r\n", self.body.len()).into_bytes();
        body.extend(&self.body);
        body.extend(if ended { &b"\r\n0\r\n\r\n"[..] } else { b"\r\n" });
        Answer { body, ..self }.with("Transfer-Encoding", "chunked")
    }

    /// An error document.
    pub(crate) fn error(status: u16, code: &str) -> Answer {
        let text = format!(r#"{{"errors":[{{"code":"{code}","message":"said so"}}]}}"#);
        Answer::ok(text.as_bytes()).code(status)
    }

    pub(crate) fn without(mut self, name: &str) -> Answer {
        self.headers.retain(|(other, _)| other != name);
        self
    }

    fn send(&self, stream: &mut TcpStream, is_head: bool) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} -\r\nConnection: close\r\n", self.status);
        let lengths = ["Content-Length", "Transfer-Encoding"];
        if !self.headers.iter().any(|(name, _)| lengths.contains(&name.as_str())) {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if is_head {
            return Ok(());
        }
        let body = &self.body[..self.cut.unwrap_or(self.body.len())];
        let (drips, pause) = self.slow.drips;
        let (drips, rest) = body.split_at(drips.min(body.len()));
        for byte in drips {
            std::thread::sleep(pause);
            stream.write_all(&[*byte])?;
        }
        stream.write_all(rest)?;
        std::thread::sleep(self.slow.held);
        Ok(())
    }
}

type Answers = dyn Fn(&Request) -> Answer + Send + Sync;
type Early = dyn Fn(&Request) -> Option<Answer> + Send + Sync;

/// A server on loopback that ends with its value.
pub(crate) struct Fake {
    /// `127.0.0.1:port`.
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(answers: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Fake {
        Fake::start_with(|_| None, answers)
    }

    /// A registry that keeps what it is sent. `before` may answer before the body is read, and
    /// `after` change what is answered.
    pub(crate) fn registry(
        content: &Arc<Mutex<Content>>,
        before: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
        after: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
    ) -> Fake {
        let content = Arc::clone(content);
        Fake::start_with(before, move |request| {
            let answer = content.lock().expect("no test has failed").answer(request);
            after(request, answer)
        })
    }

    fn start_with(
        early: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
        answers: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let answers: Arc<Answers> = Arc::new(answers);
        let early: Arc<Early> = Arc::new(early);
        let thread = std::thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
                    let early = Arc::clone(&early);
                    std::thread::spawn(move || {
                        serve(stream.expect("a connection"), &seen, &*early, &*answers)
                    });
                }
            }
        });
        Fake { host, seen, stop, thread: Some(thread) }
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no test has failed").clone()
    }

    /// The kinds of the requests so far, one after the other.
    pub(crate) fn kinds(&self) -> Vec<String> {
        self.seen().iter().map(Request::kind).collect()
    }

    /// How often that kind of thing was asked for.
    pub(crate) fn kind(&self, kind: &str) -> usize {
        self.kinds().iter().filter(|other| *other == kind).count()
    }

    /// How often a path that ends so was asked for.
    pub(crate) fn count(&self, ending: &str) -> usize {
        self.seen().iter().filter(|request| request.path.ends_with(ending)).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _wakes_it_up = TcpStream::connect(&self.host);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ended well");
        }
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Request>>, early: &Early, answers: &Answers) {
    let mut reader = BufReader::new(stream.try_clone().expect("a connection"));
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or_default() == 0 {
        return;
    }
    let mut words = line.split(' ').map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or_default() == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let mut request = {
        let mut seen = seen.lock().expect("no test has failed");
        let earlier = seen.iter().filter(|other| other.path == path).count();
        let mut request = Request { method, path, headers, earlier, nth: 0, body: Vec::new() };
        let kind = request.kind();
        request.nth = seen.iter().filter(|other| other.kind() == kind).count();
        seen.push(request.clone());
        request
    };
    let is_head = request.method == "HEAD";
    let length = request.header("content-length").and_then(|text| text.parse().ok());
    // A client that has gone does not mind.
    let mut sips = (usize::MAX, Duration::ZERO);
    if let Some(answer) = early(&request) {
        if answer.slow.sips.0 > 0 {
            sips = answer.slow.sips;
        } else if let Some(after) = answer.hang_up {
            let _read = reader.read_exact(&mut vec![0; after]);
        } else {
            let _sent = answer.send(&mut stream, is_head);
        }
        if sips.1.is_zero() {
            return;
        }
    }
    request.body = vec![0; length.unwrap_or_default()];
    for piece in request.body.chunks_mut(sips.0) {
        std::thread::sleep(sips.1);
        if reader.read_exact(piece).is_err() {
            return;
        }
    }
    let answer = answers(&request);
    if answer.hang_up.is_none() {
        let _sent = answer.send(&mut stream, is_head);
    }
}

/// What a registry has, and its sessions.
#[derive(Default)]
pub(crate) struct Content {
    /// Repository and digest → bytes.
    pub(crate) blobs: BTreeMap<(String, String), Vec<u8>>,
    /// Repository and tag or digest → type and bytes.
    pub(crate) manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    sessions: BTreeMap<String, Vec<u8>>,
    opened: usize,
}

impl Content {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path.split('?').next().unwrap_or_default();
        let path = path.trim_start_matches("/v2/");
        let (repository, rest) = ["/blobs/uploads/", "/blobs/", "/manifests/"]
            .iter()
            .find_map(|kind| path.split_once(kind))
            .unwrap_or((path, ""));
        let name = (repository.to_owned(), rest.to_owned());
        match request.kind().as_str() {
            "HEAD blobs" | "GET blobs" => match self.blobs.get(&name) {
                Some(bytes) => Answer::ok(bytes),
                None => Answer::error(404, "BLOB_UNKNOWN"),
            },
            "POST mount" => {
                let asked = |name| request.query(name).unwrap_or_default();
                match self.blobs.get(&(asked("from"), asked("mount"))).cloned() {
                    Some(bytes) => {
                        self.blobs.insert((repository.to_owned(), asked("mount")), bytes);
                        Answer::status(201)
                    }
                    None => self.open(repository),
                }
            }
            "POST uploads" => self.open(repository),
            "PATCH uploads" | "PUT uploads" | "GET uploads" => self.session(request, &name),
            "HEAD manifests" | "GET manifests" => match self.manifests.get(&name) {
                Some((kind, bytes)) => Answer::ok(bytes)
                    .with("Content-Type", kind)
                    .with("Docker-Content-Digest", &Digest::of(bytes).to_string()),
                None => Answer::error(404, "MANIFEST_UNKNOWN"),
            },
            "PUT manifests" => self.manifest(request, name),
            _ => Answer::status(404),
        }
    }

    fn open(&mut self, repository: &str) -> Answer {
        self.opened += 1;
        let id = format!("s{}", self.opened);
        self.sessions.insert(id.clone(), Vec::new());
        Answer::status(202)
            .with("Location", &format!("/v2/{repository}/blobs/uploads/{id}?_state=0"))
    }

    fn session(&mut self, request: &Request, (repository, id): &(String, String)) -> Answer {
        let Some(bytes) = self.sessions.get_mut(id) else {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        if let Some(range) = request.header("content-range")
            && !range.starts_with(&format!("{}-", bytes.len()))
        {
            return Answer::status(416);
        }
        bytes.extend(&request.body);
        let here = format!("/v2/{repository}/blobs/uploads/{id}?_state={}", bytes.len());
        let range = format!("0-{}", bytes.len().saturating_sub(1));
        match request.method.as_str() {
            "PUT" => {
                let bytes = self.sessions.remove(id).unwrap_or_default();
                let digest = Digest::of(&bytes).to_string();
                if request.query("digest").as_ref() != Some(&digest) {
                    return Answer::error(400, "DIGEST_INVALID");
                }
                self.blobs.insert((repository.clone(), digest.clone()), bytes);
                Answer::status(201).with("Docker-Content-Digest", &digest)
            }
            method => Answer::status(if method == "GET" { 204 } else { 202 })
                .with("Location", &here)
                .with("Range", &range),
        }
    }

    fn manifest(&mut self, request: &Request, name: (String, String)) -> Answer {
        let document: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let parts = document["layers"].as_array().cloned().unwrap_or_default();
        for part in
            parts.iter().chain([&document["config"]]).filter_map(|part| part["digest"].as_str())
        {
            if !self.blobs.contains_key(&(name.0.clone(), part.to_owned())) {
                return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
            }
        }
        let kind = request.header("content-type").unwrap_or_default().to_owned();
        let digest = Digest::of(&request.body).to_string();
        let found = (kind, request.body.clone());
        self.manifests.insert((name.0.clone(), digest.clone()), found.clone());
        self.manifests.insert(name, found);
        Answer::status(201).with("Docker-Content-Digest", &digest)
    }
}
