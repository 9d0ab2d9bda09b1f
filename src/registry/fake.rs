//! A registry for tests: answers from a closure, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What was asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// With its query.
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    /// How often the path was asked for before.
    pub(super) earlier: usize,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Answer {
    pub(super) fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new(), cut: None }
    }

    pub(super) fn ok(body: &[u8]) -> Answer {
        Answer { body: body.to_vec(), ..Answer::status(200) }
    }

    pub(super) fn code(mut self, status: u16) -> Answer {
        self.status = status;
        self
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Ends the connection after so many bytes of the body.
    pub(super) fn cut(mut self, after: usize) -> Answer {
        self.cut = Some(after);
        self
    }

    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {} -\r\nContent-Length: {}\r\nConnection: close\r\n",
            self.status,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body[..self.cut.unwrap_or(self.body.len())])
    }
}

type Answers = dyn Fn(&Request) -> Answer + Send + Sync;

/// A server on loopback that ends with its value.
pub(super) struct Fake {
    /// `127.0.0.1:port`.
    pub(super) host: String,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(super) fn start(answers: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let answers: Arc<Answers> = Arc::new(answers);
        let thread = std::thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
                    std::thread::spawn(move || {
                        serve(stream.expect("a connection"), &seen, &*answers)
                    });
                }
            }
        });
        Fake { host, seen, stop, thread: Some(thread) }
    }

    /// All requests so far.
    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no test has failed").clone()
    }

    /// How often a path that ends so was asked for.
    pub(super) fn count(&self, ending: &str) -> usize {
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

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Request>>, answers: &Answers) {
    let mut lines = BufReader::new(stream.try_clone().expect("a connection")).lines();
    let Some(Ok(first)) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let request = {
        let mut seen = seen.lock().expect("no test has failed");
        let earlier = seen.iter().filter(|other| other.path == path).count();
        let request = Request { path, headers, earlier };
        seen.push(request.clone());
        request
    };
    // A client that has gone does not mind.
    let _sent = answers(&request).send(&mut stream);
}
