//! What happens before a process starts, with real services where the machine has them.
//!
//! A test that needs a program which is missing prints what it skips; with FORGE_TEST_ALL set
//! it fails. Services end with their guard, by pid.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_forge-launcher");

/// In every address of the tests, and never in what is printed.
const SECRETS: [&str; 2] = ["us3r", "s3cret"];

/// An application with its table, in a folder that goes away at the end.
struct Fixture(PathBuf);

impl Fixture {
    fn new(table: &str) -> Fixture {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = format!("forge-launcher-before-{}-{number}", std::process::id());
        let fixture = Fixture(std::env::temp_dir().join(root));
        fixture.file("layers/config/metadata.toml", &table.replace("ROOT", &fixture.text("")));
        fs::create_dir_all(fixture.path("app/sub")).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !text.starts_with("#!") {
            fs::write(&path, text).unwrap();
        } else {
            common::write_program(&path, text);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The launcher, in `/`, with a clean environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(LAUNCHER);
        self.as_in_container(command.args(arguments));
        command
    }

    fn as_in_container(&self, command: &mut Command) {
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin");
        command.env("CNB_LAYERS_DIR", self.path("layers")).env("CNB_APP_DIR", self.path("app"));
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // A folder left in the temporary one is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug)]
struct Ran {
    stdout: String,
    stderr: String,
    code: Option<i32>,
    took: Duration,
}

#[track_caller]
fn run(command: &mut Command) -> Ran {
    let start = Instant::now();
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    for secret in SECRETS {
        assert!(!stderr.contains(secret), "{stderr}");
    }
    Ran { stdout, stderr, code: output.status.code(), took: start.elapsed() }
}

/// A table of one process `web`, which prints `started`.
fn web(keys: &str) -> String {
    format!(
        "[[processes]]\ntype = 'web'\ncommand = ['echo', 'started']\ndirect = true\n\
         [processes.forge]\n{keys}\n"
    )
}

/// The program, from PATH and from where Debian keeps servers.
fn program(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from).to_vec();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("`{name}` is not on this machine"));
    }
    found
}

fn skip(reason: &str) {
    assert!(std::env::var_os("FORGE_TEST_ALL").is_none(), "{reason}");
    println!("skipped: {reason}");
}

/// The user that servers run as: PostgreSQL refuses to be root.
fn user(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with(&format!("{name}:")));
    let ids = line.and_then(|line| {
        let mut ids = line.split(':').skip(2).map(str::parse);
        Some((ids.next()?.ok()?, ids.next()?.ok()?))
    });
    if ids.is_none() || fs::metadata("/proc/self").unwrap().uid() != 0 {
        skip(&format!("needs root and the user `{name}`"));
        return None;
    }
    ids
}

/// A process that ends with the test.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Server {
        Server(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs `launcher web` that waits for `url`, with a service that starts meanwhile.
fn wait_for(url: &str, limit: u64, meanwhile: impl FnOnce() -> Server) -> (Ran, Server) {
    let fixture = Fixture::new(&web(&format!("wait_for = ['$URL']\nwait_limit = {limit}")));
    let mut command = fixture.command(&["web"]);
    command.env("URL", url);
    let waiting = thread::spawn(move || run(&mut command));
    let server = meanwhile();
    let ran = waiting.join().unwrap();
    (ran, server)
}

#[test]
fn all_that_is_missing() {
    let table = web("required = ['A', 'B', 'C', 'D']\nbefore = []")
        + "[forge]\nsecrets = ['C']\n[forge.defaults]\nD = 'd'\n";
    let fixture = Fixture::new(&table);
    let ran = run(fixture.command(&["web"]).env("A", "s3cret").env("B", ""));
    let expected = "forge launcher: cannot start process `web`: 2 variables are unset or empty:\n\
                    \x20 B\n  C  (or C_FILE, the path of a file that holds it)\n\
                    \x20 set what is listed, where the container is configured\n";
    assert_eq!((ran.stderr.as_str(), ran.stdout.as_str(), ran.code), (expected, "", Some(82)));
    fixture.file("c", "c");
    let mut command = fixture.command(&["web"]);
    let ran = run(command.env("A", "a").env("B", "b").env("C_FILE", fixture.path("c")));
    assert_eq!((ran.stderr.as_str(), ran.stdout.as_str(), ran.code), ("", "started\n", Some(0)));
    // An operator's command requires nothing.
    let ran = run(&mut fixture.command(&["echo", "x"]));
    assert_eq!((ran.stderr.as_str(), ran.stdout.as_str(), ran.code), ("", "x\n", Some(0)));
}

#[test]
fn environment_for_production() {
    let fixture = Fixture::new(
        "[[processes]]\ntype = 'web'\ncommand = 'x'\n[forge]\nsecrets = ['KEY', 'NOT']\n\
         preload = ['/nope.so', 'ROOTlib.so']\n[forge.defaults]\nPORT = '3000'\nMODE = 'production'\n\
         [[forge.counts]]\nname = 'WORKERS'\nper_processor = 2\nmore = 1\n\
         [[forge.counts]]\nname = 'ONE'\nper_processor = 2\nmegabytes = 999999999\n",
    );
    fixture.file("key", "one\ntwo\n\n");
    let mut command = fixture.command(&["/bin/sh", "-c", "printf '%s.' \"$KEY\" $PORT $MODE $ONE"]);
    let ran = run(command.env("KEY_FILE", fixture.path("key")).env("PORT", ""));
    assert_eq!((ran.stderr.as_str(), ran.stdout.as_str()), ("", "one\ntwo\n.3000.production.1."));
    let ran = run(fixture.command(&["env"]).env("MODE", "test").env("PORT", "1"));
    let found: BTreeMap<&str, &str> =
        ran.stdout.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!((found["MODE"], found["PORT"]), ("test", "1"));
    let workers: u64 = found["WORKERS"].parse().unwrap();
    let processors = thread::available_parallelism().unwrap().get() as u64;
    assert!(workers >= 3 && workers <= processors * 2 + 1, "{workers}");
    assert!(!found.contains_key("LD_PRELOAD") && !found.contains_key("KEY"));
    // `env` itself is then started with a library that is none, and says so.
    fixture.file("lib.so", "");
    let ran = run(&mut fixture.command(&["/bin/sh", "-c", "echo $LD_PRELOAD"]));
    assert_eq!(ran.stdout, format!("{}\n", fixture.text("lib.so")));
    let mut command = fixture.command(&["true"]);
    let ran = run(command.env("KEY", "us3r").env("KEY_FILE", fixture.path("key")));
    assert_eq!(ran.code, Some(82));
    assert!(ran.stderr.contains("KEY is set too, to another value"), "{}", ran.stderr);
}

#[test]
fn commands_before() {
    let table = web("[[processes.forge.before]]\ncommand = ['./first.sh', 'a  b', '$X']\n\
         [[processes.forge.before]]\ncommand = ['sh', '-c', 'echo second $KEY; exit $STATUS']\n")
        + "[forge]\nsecrets = ['KEY']\n";
    let fixture = Fixture::new(&table);
    fixture.file("key", "k");
    fixture.file("app/first.sh", "#!/bin/sh\necho first \"$1\" \"$2\"; pwd; cat\n");
    let web = |status: &str| {
        let mut command = fixture.command(&["web"]);
        command.current_dir("/tmp").env("KEY_FILE", fixture.path("key")).env("STATUS", status);
        run(&mut command)
    };
    let app = fixture.text("app");
    let lines = "forge launcher: before web: ./first.sh a  b $X\n\
                 forge launcher: before web: sh -c echo second $KEY; exit $STATUS\n";
    let ran = web("0");
    assert_eq!(ran.stdout, format!("first a  b $X\n{app}\nsecond k\nstarted\n"));
    assert_eq!((ran.stderr, ran.code), (lines.to_owned(), Some(0)));
    let ran = web("3");
    assert_eq!((ran.stdout, ran.code), (format!("first a  b $X\n{app}\nsecond k\n"), Some(3)));
    assert!(ran.stderr.starts_with(lines), "{}", ran.stderr);
    let told =
        "cannot start process `web`: `sh -c echo second $KEY; exit $STATUS` ended with status 3\n";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    fixture.file("app/first.sh", "#!/bin/sh\nkill -9 $$\n");
    let ran = web("0");
    assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(137)), "{}", ran.stderr);
    assert!(ran.stderr.contains("was ended by signal 9"), "{}", ran.stderr);
    fs::remove_file(fixture.path("app/first.sh")).unwrap();
    let ran = web("0");
    assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(127)), "{}", ran.stderr);
    let told = "cannot start `./first.sh a  b $X` before process `web`: there is no file";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
}

#[test]
fn words_in_front() {
    let fixture = Fixture::new(
        "[[processes]]\ntype = 'direct'\ncommand = ['./show.sh']\nargs = ['a  b']\ndirect = true\n\
         working-dir = 'sub'\n[processes.forge]\nwrap = ['./wrap.sh', 'x y']\n\
         [[processes]]\ntype = 'shell'\ncommand = './show.sh \"$PORT\"'\n\
         [processes.forge]\nwrap = ['./wrap.sh', 'z']\n\
         [[processes]]\ntype = 'lost'\ncommand = 'x'\n[processes.forge]\nwrap = ['nosuch']\n",
    );
    fixture.file("app/wrap.sh", "#!/bin/sh\necho wrapped \"<$1>\" $$; shift; exec \"$@\"\n");
    fixture.file(
        "app/show.sh",
        "#!/bin/sh\nfor word; do printf '<%s>' \"$word\"; done; pwd; echo $$\n",
    );
    for (name, expected) in [
        ("direct", format!("wrapped <x y> ID\n<a  b>{}\nID\n", fixture.text("app/sub"))),
        ("shell", format!("wrapped <z> ID\n<8080>{}\nID\n", fixture.text("app"))),
    ] {
        let child = fixture.command(&[name]).stdout(Stdio::piped()).spawn().unwrap();
        let id = child.id().to_string();
        let output = child.wait_with_output().unwrap();
        let found = String::from_utf8(output.stdout).unwrap().replace(&id, "ID");
        assert_eq!(found, expected, "{name}");
    }
    let ran = run(&mut fixture.command(&["lost"]));
    assert_eq!(ran.code, Some(127));
    assert!(
        ran.stderr.contains("cannot start process `lost`: `nosuch` is not found"),
        "{}",
        ran.stderr
    );
}

#[test]
fn one_after_the_other() {
    let port = free_port();
    let table = web(&format!(
        "required = ['KEY']\nwait_for = ['127.0.0.1:{port}']\nwait_limit = 5\nwrap = ['./wrap.sh']\n\
         [[processes.forge.before]]\ncommand = ['./make.sh']\n\
         [[processes.forge.publish]]\nfrom = 'made'\nto = 'ROOTvolume'\n"
    ));
    let fixture = Fixture::new(&table);
    fixture.file("app/make.sh", "#!/bin/sh\nmkdir -p made; echo made > made/x; ls ../volume\n");
    fixture.file("app/wrap.sh", "#!/bin/sh\ncat ../volume/x; exec \"$@\"\n");
    fs::create_dir(fixture.path("volume")).unwrap();
    // Without the variable nothing else is tried; without the service nothing runs.
    assert_eq!(run(&mut fixture.command(&["web"])).code, Some(82));
    let ran = run(fixture.command(&["web"]).env("KEY", "k"));
    assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(82)));
    assert!(ran.stderr.contains("not ready after 5 s"), "{}", ran.stderr);
    assert!(!fixture.path("app/made").exists());
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let ran = run(fixture.command(&["web"]).env("KEY", "k"));
    assert_eq!((ran.stdout.as_str(), ran.code), ("made\nstarted\n", Some(0)), "{}", ran.stderr);
    let told = format!(
        "forge launcher: before web: ./make.sh\n\
         forge launcher: published made to {}: 1 new, 0 already there\n",
        fixture.text("volume")
    );
    assert_eq!(ran.stderr, told);
}

#[test]
fn addresses_that_mean_nothing() {
    let fixture = Fixture::new(&web("wait_for = ['$A', '$B']"));
    let ran = run(fixture.command(&["web"]).env("B", "sqlite3:db/x"));
    assert_eq!((ran.stdout.as_str(), ran.code), ("started\n", Some(0)));
    let told = "forge launcher: not waiting for `$A`: A is not set\n\
                forge launcher: not waiting for `$B`: it is no service\n";
    assert_eq!(ran.stderr, told);
    let ran = run(fixture.command(&["web"]).env("A", "postgres://us3r:12/s3cret@db/x"));
    assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(82)));
    assert!(ran.stderr.contains("cannot wait for `$A`: there is an `@` behind"), "{}", ran.stderr);
}

#[test]
fn a_host_that_never_comes() {
    let fixture = Fixture::new(&web("wait_for = ['$URL']\nwait_limit = 3"));
    let port = free_port();
    let url = format!("postgres://us3r:s3cret@127.0.0.1:{port}/app");
    let ran = run(fixture.command(&["web"]).env("URL", url));
    let told = format!(
        "forge launcher: waiting for `$URL`: PostgreSQL at 127.0.0.1:{port}: nothing listens there\n\
         forge launcher: cannot start process `web`: not ready after 3 s:\n\
         \x20 `$URL`: PostgreSQL at 127.0.0.1:{port}: nothing listens there\n\
         \x20 see whether it runs, can be reached from this container, and has that name and port; \
         `wait_limit` is the time for all services together\n"
    );
    assert_eq!((ran.stderr, ran.stdout.as_str(), ran.code), (told, "", Some(82)));
    assert!((2900..15_000).contains(&ran.took.as_millis()), "{:?}", ran.took);
    let ran = run(fixture.command(&["web"]).env("URL", "redis://us3r:s3cret@nosuch.invalid"));
    assert_eq!(ran.code, Some(82));
    assert!(
        ran.stderr.contains("`$URL`: Redis at nosuch.invalid:6379: the name"),
        "{}",
        ran.stderr
    );
    assert!((2900..15_000).contains(&ran.took.as_millis()), "{:?}", ran.took);
}

/// The launcher in a mount namespace where these files are others.
fn with_files(fixture: &Fixture, files: &[(&str, &str)], arguments: &[&str]) -> Option<Command> {
    let mut script = String::new();
    for (path, text) in files {
        let name = Path::new(path).file_name().unwrap().display().to_string();
        fixture.file(&name, text);
        script.push_str(&format!("mount --bind '{}' '{path}' && ", fixture.text(&name)));
    }
    inside(fixture, &script, arguments)
}

/// The launcher after a script, in a mount namespace of its own.
fn inside(fixture: &Fixture, script: &str, arguments: &[&str]) -> Option<Command> {
    let probe = "mount -t tmpfs none /mnt";
    let permitted = Command::new("unshare").args(["-m", "sh", "-c", probe]).output();
    if !permitted.is_ok_and(|output| output.status.success()) {
        skip("mounting in `unshare -m` is not permitted here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{script}exec \"$@\""), "sh", LAUNCHER]);
    fixture.as_in_container(command.args(arguments));
    Some(command)
}

/// A name of DNS that is unknown at first, then an alias of loopback.
#[test]
fn a_name_that_is_known_later() {
    let Ok(socket) = UdpSocket::bind("127.0.0.53:53").or_else(|_| UdpSocket::bind("127.0.0.77:53"))
    else {
        skip("port 53 on loopback is not permitted here");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = socket.local_addr().unwrap().ip();
    let start = Instant::now();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let question = &bytes[..length];
            let known = start.elapsed() > Duration::from_secs(1);
            let ours = question[12..].starts_with(b"\x02db\x03svc\x04test\0\0\x01");
            let mut answer = [&question[..2], &[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
            answer.extend(&question[12..]);
            if known && ours {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
            } else if !ours {
                answer[3] |= 3;
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    let keys = format!("wait_for = ['tcp://db:{port}']\nwait_limit = 10");
    let fixture = Fixture::new(&web(&keys));
    let files = [
        ("/etc/hosts", "127.0.0.1 localhost\n"),
        ("/etc/resolv.conf", &format!("search svc.test\nnameserver {server}\n")[..]),
    ];
    let Some(mut command) = with_files(&fixture, &files, &["web"]) else { return };
    let ran = run(&mut command);
    assert_eq!((ran.stdout.as_str(), ran.code), ("started\n", Some(0)), "{}", ran.stderr);
    assert!((900..15_000).contains(&ran.took.as_millis()), "{:?}", ran.took);
}

/// PostgreSQL in a new folder; a function starts it.
fn postgres(fixture: &Fixture, port: u16) -> Option<impl Fn() -> Server> {
    let (initdb, server) = (program("initdb")?, program("postgres")?);
    let (uid, gid) = user("postgres")?;
    let data = fixture.path("data");
    fs::create_dir(&data).unwrap();
    fs::create_dir(fixture.path("socket")).unwrap();
    for folder in [&data, &fixture.path("socket")] {
        chown(folder, Some(uid), Some(gid)).unwrap();
    }
    let mut command = Command::new(initdb);
    command.uid(uid).gid(gid).current_dir("/").args(["-A", "md5", "-U", "postgres", "--no-sync"]);
    fixture.file("password", "s3cret");
    let output =
        command.arg("--pwfile").arg(fixture.path("password")).arg("-D").arg(&data).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = fixture.text("socket");
    Some(move || {
        let mut command = Command::new(&server);
        command.uid(uid).gid(gid).current_dir("/").arg("-D").arg(&data);
        command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k", &folder, "-F"]);
        Server::start(&mut command)
    })
}

#[test]
fn postgres_that_starts_late() {
    let (fixture, port) = (Fixture::new(""), free_port());
    let Some(start) = postgres(&fixture, port) else { return };
    let url = format!("postgres://us3r:s3cret@localhost:{port}/app");
    let (ran, server) = wait_for(&url, 30, || {
        thread::sleep(Duration::from_secs(3));
        start()
    });
    assert_eq!((ran.stdout.as_str(), ran.code), ("started\n", Some(0)), "{}", ran.stderr);
    assert!(ran.took > Duration::from_secs(3), "{:?}", ran.took);
    let story = format!("waiting for `$URL`: PostgreSQL at localhost:{port}: ");
    assert!(
        ran.stderr.contains(&story) && ran.stderr.contains("all is ready after"),
        "{}",
        ran.stderr
    );

    // It runs: by its socket, and with parameters of libpq.
    let socket = fixture.text("socket");
    for url in [
        format!("postgres://us3r:s3cret@{}:{port}/app", socket.replace('/', "%2F")),
        format!("postgresql:///app?host={socket}&port={port}"),
        format!("host={socket} port={port} user=us3r password=s3cret"),
        format!("postgres://us3r:s3cret@nosuch.invalid,127.0.0.1:{port}/app?port={port}"),
    ] {
        let fixture = Fixture::new(&web("wait_for = ['$URL']\nwait_limit = 20"));
        let ran = run(fixture.command(&["web"]).env("URL", &url));
        assert_eq!((ran.stdout.as_str(), ran.code), ("started\n", Some(0)), "{url} {}", ran.stderr);
    }

    // Stopped, it still accepts connections.
    server.signal("-STOP");
    let fixture = Fixture::new(&web("wait_for = ['$URL']\nwait_limit = 3"));
    let ran = run(fixture.command(&["web"]).env("URL", &url));
    assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(82)));
    assert!(ran.stderr.contains("it accepts connections and does not answer"), "{}", ran.stderr);
    let (ran, server) = wait_for(&url, 30, || {
        thread::sleep(Duration::from_secs(2));
        server.signal("-CONT");
        server
    });
    assert_eq!((ran.stdout.as_str(), ran.code), ("started\n", Some(0)), "{}", ran.stderr);
    assert!(ran.took > Duration::from_secs(2), "{:?}", ran.took);
    server.signal("-INT");
}

#[test]
fn redis_that_starts_late() {
    let Some(server) = program("redis-server") else { return };
    let (fixture, port) = (Fixture::new(""), free_port());
    let start = |password: &str| {
        let mut command = Command::new(&server);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        Server::start(command.arg(&fixture.0).args(["--requirepass", password]))
    };
    let (ran, _server) = wait_for(&format!("redis://us3r:s3cret@127.0.0.1:{port}/0"), 20, || {
        thread::sleep(Duration::from_secs(1));
        start("s3cret")
    });
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), ("started\n", "", Some(0)));
    assert!(ran.took > Duration::from_secs(1), "{:?}", ran.took);
}

#[test]
fn mysql_that_starts_late() {
    let (Some(install), Some(server)) = (program("mariadb-install-db"), program("mariadbd")) else {
        return;
    };
    let Some((uid, gid)) = user("mysql") else { return };
    let (fixture, port) = (Fixture::new(""), free_port());
    let data = fixture.path("data");
    fs::create_dir(&data).unwrap();
    chown(&fixture.0, Some(uid), Some(gid)).unwrap();
    chown(&data, Some(uid), Some(gid)).unwrap();
    let folder = format!("--datadir={}", data.display());
    let output = Command::new(install)
        .args(["--no-defaults", "--skip-test-db", "--user=mysql", &folder])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let start = || {
        let mut command = Command::new(&server);
        command.uid(uid).gid(gid).args(["--no-defaults", "--bind-address=127.0.0.1", &folder]);
        command.arg(format!("--port={port}"));
        Server::start(command.arg(format!("--socket={}", fixture.text("my.sock"))))
    };
    let (ran, server) = wait_for(&format!("mysql2://us3r:s3cret@127.0.0.1:{port}/app"), 60, || {
        thread::sleep(Duration::from_secs(1));
        start()
    });
    assert_eq!((ran.stdout.as_str(), ran.code), ("started\n", Some(0)), "{}", ran.stderr);
    assert!(ran.took > Duration::from_secs(1), "{:?}", ran.took);
    let url = format!("mysql://us3r@localhost/app?socket={}", fixture.text("my.sock"));
    let fixture = Fixture::new(&web("wait_for = ['$URL']\nwait_limit = 10"));
    let ran = run(fixture.command(&["web"]).env("URL", url));
    assert_eq!((ran.stdout.as_str(), ran.code), ("started\n", Some(0)), "{}", ran.stderr);
    drop(server);
}

/// A server that answers each connection with the next of these, the last for ever.
fn fake(answers: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            // What is asked is read, or closing would reset the connection.
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(&answers[index.min(answers.len() - 1)]);
        }
    });
    port
}

#[test]
fn a_database_that_starts_up() {
    let error = |code: &str, text: &str| {
        let body = format!("SFATAL\0C{code}\0M{text}\0\0");
        [b"E", &(body.len() as u32 + 4).to_be_bytes()[..], body.as_bytes()].concat()
    };
    let starting = error("57P03", "the database system is starting up");
    let refused = error("28P01", "password authentication failed for user \"us3r\"");
    let port = fake(vec![starting.clone(), starting.clone(), starting.clone(), refused]);
    let fixture = Fixture::new(&web("wait_for = ['$URL']\nwait_limit = 10"));
    let url = |port: u16| format!("postgres://us3r:s3cret@127.0.0.1:{port}/app");
    let ran = run(fixture.command(&["web"]).env("URL", url(port)));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), ("started\n", "", Some(0)));
    assert!((600..15_000).contains(&ran.took.as_millis()), "{:?}", ran.took);
    let port = fake(vec![starting]);
    let fixture = Fixture::new(&web("wait_for = ['$URL']\nwait_limit = 2"));
    let ran = run(fixture.command(&["web"]).env("URL", url(port)));
    assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(82)));
    let told = format!(
        "`$URL`: PostgreSQL at 127.0.0.1:{port}: it says \"the database system is starting up\"\n"
    );
    assert!(ran.stderr.contains(&told), "{}", ran.stderr);
}

/// A process that publishes `public` into the folder `volume`.
fn publishing() -> Fixture {
    let table = web("[[processes.forge.publish]]\nfrom = 'public'\nto = 'ROOTvolume'\n");
    let fixture = Fixture::new(&table);
    fs::create_dir(fixture.path("volume")).unwrap();
    fixture.file("app/public/index.html", "index");
    fixture
}

#[test]
fn published_files() {
    let fixture = publishing();
    fixture.file("app/public/assets/app.js", "app");
    symlink("assets/app.js", fixture.path("app/public/link.js")).unwrap();
    symlink("/etc/passwd", fixture.path("app/public/passwd")).unwrap();
    fixture.file("volume/upload", "mine");
    // Whatever the umask.
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh", LAUNCHER, "web"]);
    fixture.as_in_container(&mut command);
    let ran = run(&mut command);
    assert_eq!((ran.stdout.as_str(), ran.code), ("started\n", Some(0)), "{}", ran.stderr);
    let volume = fixture.text("volume");
    let told = format!(
        "forge launcher: published public to {volume}: 3 new, 0 already there\n\
         forge launcher: not published to {volume}: passwd: the link leads out of the folder\n"
    );
    assert_eq!(ran.stderr, told);
    let mode = |name: &str| fs::metadata(fixture.path(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("volume/assets"), mode("volume/assets/app.js")), (0o755, 0o644));
    assert_eq!(fixture.read("volume/link.js"), "app");
    assert_eq!(fixture.read("volume/upload"), "mine");
    fixture.file("app/public/upload", "forge's");
    fs::remove_file(fixture.path("app/public/passwd")).unwrap();
    let ran = run(&mut fixture.command(&["web"]));
    let told = format!(
        "forge launcher: not published to {volume}: upload: there is a file that forge has not published\n"
    );
    assert_eq!((ran.stderr, ran.code), (told, Some(0)));
    assert_eq!(fixture.read("volume/upload"), "mine");
}

#[test]
fn volumes_that_cannot_be_written() {
    let fixture = publishing();
    fs::remove_dir(fixture.path("volume")).unwrap();
    let ran = run(&mut fixture.command(&["web"]));
    assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(82)));
    assert!(
        ran.stderr.contains("No such file") && ran.stderr.contains("mount a volume there"),
        "{}",
        ran.stderr
    );
    fs::create_dir(fixture.path("volume")).unwrap();

    // As another user.
    if let Some((uid, gid)) = user("nobody") {
        fs::set_permissions(&fixture.0, fs::Permissions::from_mode(0o755)).unwrap();
        // The tests' own build folder may be closed to others.
        fs::copy(LAUNCHER, fixture.path("launcher")).unwrap();
        let mut command = Command::new(fixture.path("launcher"));
        fixture.as_in_container(command.arg("web"));
        let ran = run(command.uid(uid).gid(gid));
        assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(82)));
        let told = format!("`chown -R {uid}:{gid} VOLUME`");
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    }

    let volume = fixture.text("volume");
    let script = format!("mount -t tmpfs -o ro none '{volume}' && ");
    let Some(mut command) = inside(&fixture, &script, &["web"]) else { return };
    let ran = run(&mut command);
    assert_eq!((ran.stdout.as_str(), ran.code), ("", Some(82)));
    assert!(
        ran.stderr.contains("Read-only") && ran.stderr.contains("mount the volume so"),
        "{}",
        ran.stderr
    );

    // Full: what is there is whole, and with more room it goes on.
    fixture.file("app/public/big", &"x".repeat(300_000));
    let script = format!(
        "mount -t tmpfs -o size=200k none '{volume}' && {{ \"$@\"; echo status $?; ls -A '{volume}'; \
         mount -o remount,size=2m '{volume}' && \"$@\"; ls -A '{volume}'; exit; }}; "
    );
    let Some(mut full) = inside(&fixture, &script, &["web"]) else { return };
    let ran = run(&mut full);
    let expected = "status 82\n.forge-publishing\nstarted\n.forge-published\n.forge-publishing\nbig\nindex.html\n";
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("No space left") && ran.stderr.contains("make room"),
        "{}",
        ran.stderr
    );
}

/// Killed at any time, for real, and two at once; each file is whole, the last run completes.
#[test]
fn killed_while_publishing() {
    let fixture = publishing();
    let text = |release: u32, number: u32| format!("{release} {number} ").repeat(3000);
    let volume = fixture.path("volume");
    fixture.file("volume/d1/upload", "mine");
    let mut kills = 0;
    for release in 0..12 {
        for number in 0..30 {
            fixture.file(&format!("app/public/d{}/{number}", number % 3), &text(release, number));
        }
        for attempt in 0..4 {
            let mut children: Vec<Child> = (0..2)
                .map(|_| {
                    let mut command = fixture.command(&["web"]);
                    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
                })
                .collect();
            thread::sleep(Duration::from_micros(700 * u64::from(1 + attempt * 12 + release)));
            for child in &mut children {
                // It may have ended.
                let _ = child.kill();
                kills += u32::from(child.wait().unwrap().signal() == Some(9));
            }
            for number in 0..30 {
                let found = fixture.read(&format!("volume/d{}/{number}", number % 3));
                let whole = found.is_empty() || (0..=release).any(|old| found == text(old, number));
                assert!(whole, "release {release}, file {number}: {} bytes", found.len());
            }
        }
        let children: Vec<Child> = (0..2)
            .map(|_| {
                fixture
                    .command(&["web"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && !said.contains("not published"), "{said}");
        }
        for number in 0..30 {
            let found = fixture.read(&format!("volume/d{}/{number}", number % 3));
            assert!(found == text(release, number), "release {release}, file {number}");
        }
    }
    assert_eq!(fixture.read("volume/d1/upload"), "mine");
    let mut left = fs::read_dir(&volume).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!left.any(|name| name.display().to_string().starts_with(".forge-new-")));
    assert!(kills > 10, "{kills}");
}
