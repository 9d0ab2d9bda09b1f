//! The test bench: folders, users, servers, and forge itself with a clean
//! environment. Servers end with their guard, by pid.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// An id that nothing on the machine belongs to: an ordinary user.
pub const ORDINARY: u32 = 54_321;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the programs are there. Prints what is skipped; fails under run.sh.
pub fn have(programs: &[&str]) -> bool {
    for program in programs {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let found = path.split(':').any(|folder| Path::new(folder).join(program).is_file());
        if !found {
            assert!(std::env::var_os("FORGE_TEST_ALL").is_none(), "`{program}` is missing");
            println!("skipped: `{program}` is not on this machine");
            return false;
        }
    }
    true
}

pub fn need_root() -> bool {
    if !is_root() {
        assert!(std::env::var_os("FORGE_TEST_ALL").is_none(), "tests/run.sh must run as root");
        println!("skipped: needs root");
    }
    is_root()
}

/// The folder of this run; others may read it.
pub fn bench() -> &'static Path {
    static BENCH: OnceLock<PathBuf> = OnceLock::new();
    BENCH.get_or_init(|| {
        let folder = match std::env::var_os("FORGE_TEST_FOLDER") {
            Some(folder) => PathBuf::from(folder),
            None => {
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("it-{}", std::process::id()))
            }
        };
        fs::create_dir_all(&folder).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_forge"), folder.join("forge")).unwrap();
        fs::set_permissions(folder.join("forge"), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    })
}

/// The folders of a test, removed with its thread: all stores of a run together are 20 GB.
struct Folders(RefCell<Option<Vec<PathBuf>>>);

impl Drop for Folders {
    fn drop(&mut self) {
        for folder in self.0.take().unwrap_or_default() {
            if !is_root() {
                let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(&folder).output();
            }
            // What a daemon left mounted stays.
            let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&folder).output();
        }
    }
}

thread_local! {
    static FOLDERS: Folders = const { Folders(RefCell::new(Some(Vec::new()))) };
}

/// Makes what all tests share: its folders stay until the run ends.
pub fn shared<T>(make: impl FnOnce() -> T) -> T {
    let of_test = FOLDERS.with(|folders| folders.0.take());
    let made = make();
    FOLDERS.with(|folders| folders.0.replace(of_test));
    made
}

/// A new folder that belongs to the ordinary user. It is there until the test's thread ends.
pub fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = bench().join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&path).unwrap();
    give(&path);
    FOLDERS.with(|folders| folders.0.borrow_mut().as_mut().map(|all| all.push(path.clone())));
    path
}

/// Makes the ordinary user the owner of everything below.
pub fn give(path: &Path) {
    if !is_root() {
        return;
    }
    // A link itself: it may lead nowhere.
    lchown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// An app made of these files.
pub fn app(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = folder(name);
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    give(&root);
    root
}

/// A copy of the example, without what a build leaves in it.
pub fn example(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let target = folder(name);
    copy(&source, &target);
    give(&target);
    target
}

/// Copies a folder's content, without what a build leaves in it.
pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else if entry.file_name() != "forge.lock" {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// forge with the machine's network settings and nothing else of the caller's.
pub struct Forge {
    pub store: PathBuf,
    user: Option<u32>,
    before: Vec<String>,
    variables: BTreeMap<String, String>,
}

impl Forge {
    /// As the ordinary user, if this run can change users.
    pub fn new(store: &Path) -> Forge {
        let variables = std::env::vars()
            .filter(|(name, _)| {
                let lower = name.to_lowercase();
                ["ssl_cert", "pip_", "uv_", "npm_config_", "http_proxy", "https_proxy", "no_proxy"]
                    .iter()
                    .any(|start| lower.starts_with(start))
            })
            .chain([("PATH".to_owned(), "/usr/bin:/bin:/usr/sbin:/sbin".to_owned())])
            .collect();
        Forge {
            store: store.to_owned(),
            user: is_root().then_some(ORDINARY),
            before: Vec::new(),
            variables,
        }
    }

    /// As whoever runs the tests.
    pub fn by_caller(mut self) -> Forge {
        self.user = None;
        self
    }

    /// Under another program: `faketime +1day`.
    pub fn under(mut self, words: &[&str]) -> Forge {
        self.before = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Forge {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(user) = self.user {
            words.extend(["setpriv", "--clear-groups"].map(str::to_owned));
            words.extend([format!("--reuid={user}"), format!("--regid={user}")]);
        }
        words.extend(self.before.clone());
        words.push(bench().join("forge").display().to_string());
        words.extend(["--store".to_owned(), self.store.display().to_string()]);
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .envs(&self.variables)
            .env("HOME", bench().join("home"));
        command.current_dir(bench()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Builds and gives the digest that is printed.
    #[track_caller]
    pub fn build(&self, app: &Path, more: &[&str]) -> String {
        let app = app.display().to_string();
        let arguments: Vec<&str> =
            ["build", &app].into_iter().chain(more.iter().copied()).collect();
        let output = self.run(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let digest = text(&output.stdout).trim_end().to_owned();
        assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
        digest
    }

    /// Builds and gives the events, whether it succeeded or not.
    pub fn events(&self, app: &Path, more: &[&str]) -> Vec<Value> {
        let app = app.display().to_string();
        let arguments: Vec<&str> =
            ["build", &app, "--json"].into_iter().chain(more.iter().copied()).collect();
        let output = self.run(&arguments);
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The names of the steps that ran.
pub fn ran(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .filter(|event| event["event"] == "step_finished")
        .map(|event| event["step"].as_str().unwrap().to_owned())
        .collect()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed.
#[track_caller]
pub fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// The store of the ordinary user into which the Django example was built, with
/// the example's folder. Built once a run.
pub fn warm() -> &'static (PathBuf, PathBuf, String) {
    static WARM: OnceLock<(PathBuf, PathBuf, String)> = OnceLock::new();
    let make = || {
        let (store, app) = (folder("store"), example("django-logbook"));
        let digest = Forge::new(&store).build(&app, &[]);
        (store, app, digest)
    };
    WARM.get_or_init(|| shared(make))
}

/// A copy of the warm example with its lock, as a runner checks it out.
pub fn checkout(name: &str) -> PathBuf {
    let target = folder(name);
    copy(&warm().1, &target);
    fs::copy(warm().1.join("forge.lock"), target.join("forge.lock")).unwrap();
    give(&target);
    target
}

/// Packages of the warm example's lock, for apps that use the same base.
pub fn warm_lock(app: &Path) {
    fs::copy(warm().1.join("forge.lock"), app.join("forge.lock")).unwrap();
    give(app);
}

/// A port that nobody listens on now.
pub fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until the condition holds; what it waits for is named when it never does.
#[track_caller]
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that ends with its guard.
pub struct Server {
    child: Child,
}

impl Server {
    pub fn start(command: &mut Command) -> Server {
        Server { child: command.stdin(Stdio::null()).spawn().unwrap() }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(rustix::process::Signal::TERM);
            let started = Instant::now();
            while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if started.elapsed() > Duration::from_secs(20) {
                    self.signal(rustix::process::Signal::KILL);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// A registry of our own in `folder`, for `user` with the password `secret`, and its port.
pub fn registry(folder: &Path) -> (Server, u16) {
    let passwords = ok(Command::new("htpasswd").args(["-Bbn", "user", "secret"]));
    fs::write(folder.join("htpasswd"), passwords).unwrap();
    let port = port();
    let passwords = folder.join("htpasswd");
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display());
    (registry_at(folder, port, &auth), port)
}

/// A registry in `folder` with `more` configuration; what it is asked stands in `folder/log`.
pub fn registry_at(folder: &Path, port: u16, more: &str) -> Server {
    let root = folder.display();
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: 127.0.0.1:{port}\n{more}"
    );
    fs::write(folder.join("config.yml"), config).unwrap();
    let server = Server::start(
        Command::new("docker-registry")
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdout(fs::File::create(folder.join("log")).unwrap())
            .stderr(Stdio::null()),
    );
    wait("the registry's start", || get(port, "/v2/").is_some());
    server
}

/// A PostgreSQL cluster of our own.
pub struct Postgres {
    pub url: String,
    pub server: Server,
}

impl Postgres {
    pub fn start() -> Postgres {
        let folder = folder("postgres");
        let bin = fs::read_dir("/usr/lib/postgresql")
            .unwrap()
            .map(|entry| entry.unwrap().path().join("bin"))
            .max()
            .unwrap();
        // PostgreSQL refuses to run as root and wants a named user.
        let as_user = |program: &Path| {
            let mut command = Command::new("setpriv");
            if is_root() {
                give_to_postgres(&folder);
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            }
            command.arg(program).current_dir("/");
            command
        };
        let data = folder.join("data");
        ok(as_user(&bin.join("initdb")).arg("-D").arg(&data).args(["-U", "forge", "-A", "trust"]));
        let port = port().to_string();
        let server = Server::start(
            as_user(&bin.join("postgres"))
                .arg("-D")
                .arg(&data)
                .args(["-p", &port, "-c", "listen_addresses=127.0.0.1", "-k"])
                .arg(&folder)
                .stderr(Stdio::null()),
        );
        let ready = bin.join("pg_isready");
        wait("PostgreSQL's start", || {
            Command::new(&ready)
                .args(["-q", "-h", "127.0.0.1", "-p", &port])
                .status()
                .is_ok_and(|status| status.success())
        });
        ok(Command::new(bin.join("createdb")).args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "forge",
            "logbook",
        ]));
        Postgres { url: format!("postgres://forge@127.0.0.1:{port}/logbook"), server }
    }
}

fn give_to_postgres(folder: &Path) {
    ok(Command::new("chown").args(["postgres:postgres"]).arg(folder));
}

/// A docker engine of our own.
pub struct Docker {
    pub socket: String,
    folder: PathBuf,
    server: Option<Server>,
}

impl Drop for Docker {
    fn drop(&mut self) {
        drop(self.server.take());
        // dockerd leaves its network namespace mounted.
        let _was_not_there = Command::new("umount")
            .arg(self.folder.join("exec/netns/default"))
            .stderr(Stdio::null())
            .status();
    }
}

impl Docker {
    pub fn start() -> Docker {
        let folder = folder("docker");
        let socket = format!("unix://{}/socket", folder.display());
        let log = fs::File::create(folder.join("log")).unwrap();
        let server = Server::start(
            Command::new("dockerd")
                .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
                .args(["--iptables=false", "--bridge=none", "-H", &socket, "--data-root"])
                .arg(folder.join("data"))
                .arg("--exec-root")
                .arg(folder.join("exec"))
                .arg("--pidfile")
                .arg(folder.join("pid"))
                .stdout(Stdio::null())
                .stderr(log),
        );
        let docker = Docker { socket, folder, server: Some(server) };
        wait("dockerd's start", || {
            docker.command(&["version"]).output().is_ok_and(|output| output.status.success())
        });
        docker
    }

    /// Lets every user speak to the daemon.
    pub fn open_to_all(&self) {
        let path = self.socket.strip_prefix("unix://").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.socket]).args(arguments);
        command
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        ok(&mut self.command(arguments)).trim_end().to_owned()
    }
}

/// A Redis that keeps nothing.
pub struct Redis {
    pub url: String,
    _server: Server,
}

impl Redis {
    pub fn start() -> Redis {
        let port = port();
        let server = Server::start(
            Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
                .current_dir(folder("redis"))
                .stdout(Stdio::null()),
        );
        wait("Redis' start", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Redis { url: format!("redis://127.0.0.1:{port}/0"), _server: server }
    }
}

/// The answer to a GET: status line and headers, and body.
pub fn get(port: u16, path: &str) -> Option<(String, Vec<u8>)> {
    ask(port, &format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"))
}

/// The answer to a POST of JSON.
pub fn post(port: u16, path: &str, body: &Value) -> Option<(String, Vec<u8>)> {
    let body = body.to_string();
    let length = body.len();
    ask(
        port,
        &format!(
            "POST {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ),
    )
}

fn ask(port: u16, request: &str) -> Option<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((text(&answer[..split]), answer[split + 4..].to_vec()))
}
