//! The launcher as parent: process 1 in a namespace of its own, several processes at once, and
//! what it says of itself. Tests that need root name what they skip, unless FORGE_TEST_ALL is
//! set: then they fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_forge-launcher");

const TABLE: &str = r#"
[[processes]]
type = "web"
command = ["sh", "-c", "trap 'echo web got TERM; exit 7' TERM; echo web on $PORT; while :; do sleep 0.05; done"]
direct = true
default = true
[processes.forge]
init = true

[[processes]]
type = "worker"
command = ["sh", "-c", "echo worker on $PORT; exec sleep 100"]
direct = true

[[processes]]
type = "stubborn"
command = ["sh", "-c", "trap '' TERM; echo stubborn; while :; do sleep 0.05; done"]
direct = true
[processes.forge]
init = true

[[processes]]
type = "default"
command = ["sleep", "100"]
direct = true
[processes.forge]
init = true

[[processes]]
type = "orphans"
command = ["sh", "-c", "for i in $(seq 300); do (sh -c ':' &) ; done; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; exit 5"]
direct = true
[processes.forge]
init = true

[[processes]]
type = "short"
command = ["sh", "-c", "echo one; echo two >&2; sleep 0.3; printf three; exit 3"]
direct = true

[[processes]]
type = "release"
command = ["sh", "-c", "exit 9"]
direct = true

[[processes]]
type = "slow"
command = ["true"]
direct = true
[processes.forge]
init = true
[[processes.forge.before]]
command = ["sh", "-c", "echo begun; exec sleep 100"]

[[processes]]
type = "waits"
command = ["true"]
direct = true
[processes.forge]
wait_for = ["tcp://127.0.0.1:1"]
wait_limit = 100
required = ["TOKEN"]

[forge.defaults]
COLOUR = "red"
"#;

fn fixture() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let root = std::env::temp_dir().join(format!("forge-process-{}-{number}", std::process::id()));
    fs::create_dir_all(root.join("layers/config")).unwrap();
    fs::create_dir_all(root.join("app")).unwrap();
    fs::write(root.join("layers/config/metadata.toml"), TABLE).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    root
}

/// A call of the launcher, as process 1 if `first`.
fn command(root: &Path, first: bool, words: &[&str]) -> Command {
    let mut command = if first {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", LAUNCHER]);
        command
    } else {
        Command::new(LAUNCHER)
    };
    command
        .args(words)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("PORT", "5000")
        .env("TOKEN", "hidden")
        .env("CNB_LAYERS_DIR", root.join("layers"))
        .env("CNB_APP_DIR", root.join("app"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn can_be_first() -> bool {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        assert!(std::env::var_os("FORGE_TEST_ALL").is_none(), "needs root");
        println!("skipped: needs root");
    }
    is_root
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The process of the launcher itself: under unshare, its child.
fn launcher_of(child: &Child, first: bool) -> i32 {
    let pid = child.id();
    if !first {
        return i32::try_from(pid).unwrap();
    }
    let children = format!("/proc/{pid}/task/{pid}/children");
    let started = Instant::now();
    loop {
        let found = fs::read_to_string(&children).unwrap_or_default();
        if let Some(pid) = found.split_whitespace().next() {
            return pid.parse().unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(10), "unshare starts nothing");
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(pid: i32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until standard output has said it; gives what it has said.
fn hear(child: &mut Child, expected: &str) -> String {
    let mut heard = Vec::new();
    let mut byte = [0];
    let out = child.stdout.as_mut().unwrap();
    while !text(&heard).contains(expected) {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "it ended: {}", text(&heard));
        heard.push(byte[0]);
    }
    text(&heard)
}

fn end(child: Child) -> (Output, String) {
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    (output, said)
}

#[test]
fn signals_reach_the_program_and_its_status_comes_back() {
    for first in [false, true] {
        if first && !can_be_first() {
            continue;
        }
        let root = fixture();
        let mut child = command(&root, first, &["web"]).spawn().unwrap();
        hear(&mut child, "web on 5000\n");
        signal(launcher_of(&child, first), "TERM");
        let (output, said) = end(child);
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("web got TERM"), "{said}");
        fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn a_program_that_does_nothing_about_a_signal_ends_by_it_also_as_process_1() {
    if !can_be_first() {
        return;
    }
    let root = fixture();
    let mut child = command(&root, true, &["default"]).spawn().unwrap();
    let launcher = launcher_of(&child, true);
    // As soon as the launcher has started it.
    let children = format!("/proc/{launcher}/task/{launcher}/children");
    let started = Instant::now();
    while fs::read_to_string(&children).unwrap_or_default().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10), "nothing is started");
    }
    thread::sleep(Duration::from_millis(200));
    signal(launcher, "TERM");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(143), "{status:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn orphans_are_reaped() {
    if !can_be_first() {
        return;
    }
    let root = fixture();
    let (output, said) = end(command(&root, true, &["orphans"]).spawn().unwrap());
    assert_eq!((said.trim(), output.status.code()), ("0", Some(5)));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn waiting_costs_nothing() {
    let root = fixture();
    let mut child = command(&root, false, &["stubborn"]).spawn().unwrap();
    hear(&mut child, "stubborn\n");
    thread::sleep(Duration::from_millis(1500));
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    assert!(ticks <= 5, "{ticks} ticks of the processor");
    // It ignores TERM; nothing but KILL ends it.
    signal(launcher_of(&child, false), "TERM");
    thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    signal(children.split_whitespace().next().unwrap().parse().unwrap(), "KILL");
    assert_eq!(child.wait().unwrap().code(), Some(137));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_signal_before_the_start_ends_it() {
    let root = fixture();
    let mut child = command(&root, false, &["slow"]).spawn().unwrap();
    hear(&mut child, "begun\n");
    let started = Instant::now();
    signal(launcher_of(&child, false), "TERM");
    let (output, said) = end(child);
    assert_eq!(output.status.code(), Some(143), "{said}");
    assert!(said.contains("wants the container to end"), "{said}");
    // So does one while a service is waited for.
    let child = command(&root, false, &["waits"]).spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    signal(launcher_of(&child, false), "INT");
    let (output, said) = end(child);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(started.elapsed() < Duration::from_secs(15));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn without_a_parent_the_process_is_the_launchers() {
    let root = fixture();
    let mut child = command(&root, false, &["worker"]).spawn().unwrap();
    hear(&mut child, "worker on 5000\n");
    signal(launcher_of(&child, false), "TERM");
    // The default action: signals are not held back in what is started.
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn one_stops_all_stop() {
    let root = fixture();
    let started = Instant::now();
    let (output, said) =
        end(command(&root, false, &["--all", "short", "web", "worker"]).spawn().unwrap());
    assert_eq!(output.status.code(), Some(3), "{said}");
    for line in [
        "short  | one\n",
        "short  | two\n",
        "short  | three\n",
        "web    | web on 5100\n",
        "web    | web got TERM\n",
        "worker | worker on 5200\n",
        "`short` ended with status 3",
        "`worker` ended with status 143",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    assert!(started.elapsed() < Duration::from_secs(8));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn who_does_not_end_is_killed() {
    let root = fixture();
    let mut command = command(&root, false, &["--all", "short", "stubborn"]);
    let started = Instant::now();
    let (output, said) = end(command.env("FORGE_GRACE", "1").spawn().unwrap());
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("`stubborn` did not end in time and is killed"), "{said}");
    let took = started.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(8), "{took:?}");
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn all_are_asked_to_end() {
    let root = fixture();
    let mut child = command(&root, false, &["--all", "web", "worker"]).spawn().unwrap();
    let mut heard = hear(&mut child, "on 5000\n");
    if !heard.contains("worker") {
        heard += &hear(&mut child, "on 5100\n");
    }
    signal(launcher_of(&child, false), "TERM");
    let (output, said) = end(child);
    assert!([Some(7), Some(143)].contains(&output.status.code()), "{heard}{said}");
    assert!(said.contains("web got TERM") && said.contains("`worker` ended"), "{said}");
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_would_happen() {
    let root = fixture();
    let said = |words: &[&str]| end(command(&root, false, words).spawn().unwrap());
    let (_, names) = said(&["--env", "web"]);
    assert!(names.contains("COLOUR\n") && names.contains("TOKEN\n"), "{names}");
    assert!(!names.contains("hidden") && !names.contains("red"), "{names}");
    let (_, values) = said(&["--env", "web", "--values"]);
    assert!(values.contains("COLOUR=red\n") && values.contains("TOKEN=hidden\n"), "{values}");
    let (_, told) = said(&["--explain", "waits"]);
    for expected in ["process `waits`", "waits for  tcp://127.0.0.1:1, 100 s", "requires   TOKEN"] {
        assert!(told.contains(expected), "{told}");
    }
    let origin = |name: &str| {
        let line = told.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.trim_start().strip_prefix(name).unwrap().trim().to_owned()
    };
    assert_eq!(origin("TOKEN "), "the container");
    assert_ne!(origin("COLOUR"), "the container");
    assert!(!told.contains("hidden"), "{told}");
    for words in [&["--explain", "nothing"][..], &["--env", "nothing"], &["--all", "nothing"]] {
        let (output, told) = said(words);
        assert_eq!(output.status.code(), Some(82), "{told}");
        assert!(told.contains("`nothing` is no process type"), "{told}");
        assert!(told.contains("the types are web, worker"), "{told}");
    }
    let (output, told) = said(&["--all", "web", "web"]);
    assert!(output.status.code() == Some(82) && told.contains("named twice"), "{told}");
    fs::remove_dir_all(root).unwrap();
}
