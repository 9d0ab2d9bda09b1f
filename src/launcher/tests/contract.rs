//! The launcher as a program: called by a name with arguments, judged by what
//! it prints and how it ends. The last tests take the static one that forge
//! embeds, compiled as forge's own `build.rs` does.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "../../../build/launcher.rs"]
mod build;

const LAUNCHER: &str = env!("CARGO_BIN_EXE_forge-launcher");

/// Bytes of the static launcher that an image may be asked to carry.
const LARGEST: u64 = 3 << 19;

const TABLE: &str = r#"
# as forge writes it
[[buildpacks]]
id = "forge/test"
api = "0.10"

[[processes]]
type = "web"
command = "echo port $PORT ${UNSET:-other} in $(pwd)"

[[processes]]
type = "args"
command = ["./show.sh"]
args = [
  "def1",
  "def 2",
]
direct = true
buildpack-id = "forge/test"

[[processes]]
type = "fixed"
command = ["./show.sh", "fixed"]
args = ["def"]
direct = true

[[processes]]
type = "shell"
command = "./show.sh $PORT"

[[processes]]
type = "chain"
command = "cd sub && pwd"

[[processes]]
type = "assigned"
command = "A=b env | grep ^A="

[[processes]]
type = "sub"
command = ["../show.sh"]
direct = true
working-dir = "sub"

[[processes]]
type = "nowhere"
command = ["true"]
direct = true
working-dir = "/nope"

[[processes]]
type = "env"
command = ["env", "true"]
direct = true

[[processes]]
type = "pid"
command = "./pid.sh"

[[processes]]
type = "empty"
direct = true
"#;

/// An application with its table, in a folder that goes away at the end.
struct Fixture(PathBuf);

impl Fixture {
    fn new(table: &str) -> Fixture {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = format!("forge-launcher-{}-{number}", std::process::id());
        let fixture = Fixture(std::env::temp_dir().join(root));
        fixture.file("layers/config/metadata.toml", table, 0o644);
        fixture.file(
            "app/show.sh",
            "#!/bin/sh\nfor word; do printf '<%s>' \"$word\"; done; echo\n",
            0o755,
        );
        fixture.file("app/pid.sh", "#!/bin/sh\necho $$\n", 0o755);
        fixture.file("app/plain", "#!/bin/sh\n", 0o644);
        fixture.file("app/lost", "#!/no/such/ruby -w\n", 0o755);
        fixture.file("app/windows", "#!/bin/sh\r\n", 0o755);
        fs::create_dir(fixture.0.join("app/sub")).expect("the folder can be made");
        fixture
    }

    fn file(&self, path: &str, text: &str, mode: u32) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("the folder can be made");
        common::write_program(&path, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
    }

    fn app(&self) -> String {
        self.0.join("app").display().to_string()
    }

    /// The launcher under that name, in `/`, with a clean environment.
    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(LAUNCHER);
        command
            .arg0(name)
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/cnb/process:/usr/bin:/bin")
            .env("CNB_LAYERS_DIR", self.0.join("layers"))
            .env("CNB_APP_DIR", self.0.join("app"));
        command
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // A folder left in the temporary one is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(mut command: Command) -> (String, String, Option<i32>) {
    let Output { status, stdout, stderr } = command.output().expect("the launcher can be run");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    (text(stdout), text(stderr), status.code())
}

#[test]
fn what_runs() {
    let fixture = Fixture::new(TABLE);
    let app = fixture.app();
    let web = format!("port 8080 other in {app}\n");
    let here = format!("{app}\n");
    let sub = format!("{app}/sub\n");
    let cases: [(&str, &[&str], &str, i32); 27] = [
        ("/cnb/lifecycle/launcher", &[], &web, 0),
        ("launcher", &["web"], &web, 0),
        ("/cnb/process/web", &[], &web, 0),
        ("somebody", &["web"], &web, 0),
        ("forge", &["launcher"], &web, 0),
        ("forge", &["launcher", "web"], &web, 0),
        (
            "web",
            &["a  b", "$HOME", "it's"],
            &format!("port 8080 other in {app} a  b $HOME it's\n"),
            0,
        ),
        ("shell", &["-e", "a  b", ""], "<8080><-e><a  b><>\n", 0),
        ("args", &[], "<def1><def 2>\n", 0),
        ("args", &["x", "--"], "<x><-->\n", 0),
        ("fixed", &[], "<fixed><def>\n", 0),
        ("fixed", &["x"], "<fixed><x>\n", 0),
        ("chain", &[], &sub, 0),
        ("assigned", &[], "A=b\n", 0),
        ("launcher", &["echo", "-e", "a\\nb", "-n"], "a\nb -n\n", 0),
        (
            "launcher",
            &["./show.sh", "a  b", "$HOME", "it's", "", "*"],
            "<a  b><$HOME><it's><><*>\n",
            0,
        ),
        ("launcher", &["--", "./show.sh", "--", "-e"], "<--><-e>\n", 0),
        ("forge", &["launcher", "./show.sh", "db:migrate", "-e", "p"], "<db:migrate><-e><p>\n", 0),
        ("launcher", &["pwd"], &here, 0),
        ("launcher", &["sh", "-c", "echo $PORT"], "8080\n", 0),
        ("launcher", &["sh", "-c", "exit 9"], "", 9),
        ("launcher", &["false"], "", 1),
        ("launcher", &["--", "true"], "", 0),
        ("env", &[], "", 0),
        (
            "launcher",
            &["printf", "%s", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"],
            "12345678910",
            0,
        ),
        ("launcher", &["sh", "-c", "echo $0", "zero"], "zero\n", 0),
        ("launcher", &["sh", "-c", "echo $PATH"], "/usr/bin:/bin\n", 0),
    ];
    for (name, arguments, stdout, code) in cases {
        // coreutils' own `echo -e` is meant above: no shell stands between.
        let found = run(fixture.command(name, arguments));
        assert_eq!(found, (stdout.to_owned(), String::new(), Some(code)), "{name} {arguments:?}");
    }
}

#[test]
fn what_is_refused() {
    let fixture = Fixture::new(TABLE);
    let app = fixture.app();
    let cases: [(&str, &[&str], i32, &str); 14] = [
        (
            "launcher",
            &["nosuch"],
            127,
            "start `nosuch`: `nosuch` is not found on PATH (/usr/bin:/bin)",
        ),
        ("launcher", &["--", "-x"], 127, "start `-x`: `-x` is not found on PATH"),
        ("launcher", &["echo a && b"], 127, "give the words apart"),
        ("launcher", &[""], 127, "start ``: the command is empty"),
        ("launcher", &["./nosuch"], 127, &format!("there is no file `{app}/./nosuch`")),
        ("launcher", &["./sub"], 126, "is a folder"),
        ("launcher", &["./plain"], 126, "Permission denied"),
        (
            "launcher",
            &["./lost"],
            126,
            "is a script for `/no/such/ruby`, which is not in the image",
        ),
        ("launcher", &["./windows"], 126, "ends with a carriage return"),
        ("launcher", &["--"], 82, "cannot run a command: no word follows `--`"),
        ("sub", &[], 127, &format!("there is no file `{app}/../show.sh`")),
        ("nowhere", &[], 82, "cannot start process `nowhere`: its folder `/nope`: No such file"),
        ("empty", &[], 82, "cannot start process `empty`: it has no command"),
        (
            "forge",
            &["build"],
            2,
            "cannot run `forge build`: inside an image forge is only the launcher",
        ),
    ];
    for (name, arguments, code, part) in cases {
        let (stdout, stderr, found) = run(fixture.command(name, arguments));
        assert_eq!((stdout.as_str(), found), ("", Some(code)), "{name} {arguments:?}: {stderr}");
        assert!(stderr.starts_with("forge launcher: cannot "), "{name} {arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{name} {arguments:?}: {stderr}");
    }
}

#[test]
fn tables_that_cannot_be_used() {
    let two =
        "[[processes]]\ntype = 'a'\ncommand = 'x'\n[[processes]]\ntype = 'b'\ncommand = 'y'\n";
    let cases = [
        ("", "none is the default and none is called `web`"),
        (two, "name one of a, b, or give a command"),
        ("[[processes]]\ntype = ", "line 2: expected a value"),
        ("[[processes]]\ncommand = 'x'\n", "line 2: a process has no type"),
    ];
    for (table, part) in cases {
        let (stdout, stderr, code) = run(Fixture::new(table).command("launcher", &[]));
        assert_eq!((stdout.as_str(), code), ("", Some(82)), "{table}");
        assert!(stderr.contains(part), "{table}: {stderr}");
    }
    let fixture = Fixture::new("");
    let mut command = fixture.command("launcher", &["true"]);
    command.env("CNB_LAYERS_DIR", "/nope");
    let (_, stderr, code) = run(command);
    assert_eq!(code, Some(82));
    assert!(stderr.contains("read the process table `/nope/config/metadata.toml`"), "{stderr}");
    let mut command = fixture.command("launcher", &["true"]);
    command.env("CNB_APP_DIR", "/nope");
    let (_, stderr, code) = run(command);
    assert_eq!(code, Some(82), "{stderr}");
}

#[test]
fn what_it_says_itself() {
    let fixture = Fixture::new(TABLE);
    let (list, _, code) = run(fixture.command("forge", &["launcher", "--list"]));
    assert_eq!(code, Some(0));
    assert!(list.starts_with("web (default)  echo port $PORT"), "{list}");
    assert!(list.contains("\nargs           ./show.sh def1 'def 2'\n"), "{list}");
    for arguments in [&[][..], &["--help"]] {
        let mut command = fixture.command("forge", arguments);
        command.env("CNB_LAYERS_DIR", "/nope");
        let (stdout, stderr, code) = run(command);
        assert_eq!((stderr.as_str(), code), ("", Some(0)));
        assert!(stdout.starts_with("forge launcher: "), "{stdout}");
    }
}

#[test]
fn folder_and_port() {
    let fixture = Fixture::new(TABLE);
    let mut command = fixture.command("launcher", &["sh", "-c", "pwd; echo $PORT"]);
    command.current_dir(fixture.0.join("app/sub")).env("PORT", "3000");
    let (stdout, _, _) = run(command);
    assert_eq!(stdout, format!("{}/sub\n3000\n", fixture.app()));
    let mut command = fixture.command("web", &[]);
    command.current_dir(fixture.0.join("layers")).env("PORT", "");
    let (stdout, _, _) = run(command);
    assert_eq!(stdout, format!("port 8080 other in {}\n", fixture.app()));
}

#[test]
fn the_process_keeps_the_id() {
    let fixture = Fixture::new(TABLE);
    for (name, arguments) in [("pid", &[][..]), ("launcher", &["./pid.sh"])] {
        let mut command = fixture.command(name, arguments);
        command.stdout(std::process::Stdio::piped());
        let child = command.spawn().expect("the launcher can be run");
        let id = child.id();
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{id}\n"), "{name}");
    }
}

/// Compiles the launcher as forge's `build.rs` does.
fn compile(root: &Path, output: &Path) {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(&rustc).arg("-vV").output().expect("rustc can be run").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let target = said.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc says it");
    let launcher = build::Launcher {
        rustc,
        linker: None,
        target: target.to_owned(),
        root: root.to_owned(),
        output: output.to_owned(),
    };
    build::compile(&launcher).unwrap_or_else(|reason| panic!("{reason}"));
}

#[test]
fn the_static_launcher() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fixture = Fixture::new("");
    let first = fixture.0.join("first");
    compile(&repository, &first);

    // The same bytes from a copy in another folder; what `build.rs` watches is all there is to it.
    let copy = fixture.0.join("a copy/of the sources");
    for path in build::sources(&repository) {
        let to = copy.join(path.strip_prefix(&repository).expect("it lies there"));
        fs::create_dir_all(to.parent().expect("a folder")).expect("the folder can be made");
        fs::copy(&path, to).expect("the file can be copied");
    }
    let second = fixture.0.join("second");
    compile(&copy, &second);
    let read = |path: &Path| fs::read(path).expect("the launcher was written");
    assert!(read(&first) == read(&second), "the bytes depend on the folder");
    let size = fs::metadata(&first).expect("the launcher was written").len();
    assert!(size <= LARGEST, "{size} bytes");

    // It runs where there is nothing else; what it starts there is itself.
    let root = fixture.0.join("root");
    fs::create_dir_all(root.join("cnb/lifecycle")).expect("the folder can be made");
    fs::create_dir_all(root.join("layers/config")).expect("the folder can be made");
    fs::create_dir_all(root.join("workspace")).expect("the folder can be made");
    fs::copy(&first, root.join("cnb/lifecycle/launcher")).expect("the file can be copied");
    fs::create_dir_all(root.join("cnb/process")).expect("the folder can be made");
    for link in ["forge", "cnb/process/self"] {
        symlink("/cnb/lifecycle/launcher", root.join(link)).expect("the link can be made");
    }
    let table = "[[processes]]\ntype = 'web'\ncommand = ['/forge', '--help']\ndirect = true\n\
                 [[processes]]\ntype = 'shell'\ncommand = 'true'\n\
                 [[processes]]\ntype = 'self'\ncommand = ['self']\ndirect = true\n";
    fs::write(root.join("layers/config/metadata.toml"), table).expect("the file can be written");
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-Ur", "chroot"]).arg(&root).args(arguments);
        command.env_remove("CNB_LAYERS_DIR").env_remove("CNB_APP_DIR");
        command
    };
    let permitted = Command::new("unshare").args(["-Ur", "chroot", "/", "true"]).status();
    if !permitted.is_ok_and(|status| status.success()) {
        println!("skipped: `unshare -Ur chroot` is not permitted here");
        return;
    }
    let (stdout, stderr, code) = run(inside(&["/cnb/lifecycle/launcher", "web"]));
    assert_eq!((stderr.as_str(), code), ("", Some(0)), "{stdout}");
    assert!(stdout.starts_with("forge launcher: "), "{stdout}");
    let (_, stderr, code) = run(inside(&["/cnb/lifecycle/launcher", "shell"]));
    assert_eq!(code, Some(82), "{stderr}");
    assert!(stderr.contains("there is neither /bin/bash nor /bin/sh"), "{stderr}");
    // A process that is called like its program does not find its own link,
    // which would start it again without end.
    let mut command = inside(&["/cnb/process/self"]);
    command.env("PATH", "/cnb/process:/usr/sbin:/usr/bin");
    let (_, stderr, code) = run(command);
    assert_eq!(code, Some(127), "{stderr}");
}
