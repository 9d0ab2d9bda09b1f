//! What the launcher says when the image or the container is not as it should
//! be: one sentence with what, why and what to do, and the right exit status.

mod common;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_forge-launcher");

const TABLE: &str = "
[[buildpacks]]
id = 'b'
api = '0.10'
[[processes]]
type = 'web'
command = ['env']
direct = true
[[processes]]
type = 'shell'
command = 'env'
";

/// An image in a folder that goes away at the end.
struct Image(PathBuf);

impl Image {
    fn new() -> Image {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("forge-bad-{}-{number}", std::process::id());
        let image = Image(std::env::temp_dir().join(name));
        fs::create_dir_all(image.0.join("app")).expect("the folder can be made");
        image.file("layers/config/metadata.toml", 0o644, TABLE.as_bytes());
        image
    }

    fn file(&self, path: &str, mode: u32, text: &[u8]) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("the folder can be made");
        common::write_program(&path, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(LAUNCHER);
        command.arg0(name);
        self.place(&mut command);
        command
    }

    fn place(&self, command: &mut Command) {
        command
            .env_clear()
            .current_dir(self.0.join("app"))
            .env("PATH", "/usr/bin:/bin")
            .env("CNB_LAYERS_DIR", self.0.join("layers"))
            .env("CNB_APP_DIR", self.0.join("app"));
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // A folder left in the temporary one is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> (Vec<u8>, String, Option<i32>) {
    let output = command.stdin(Stdio::null()).output().expect("the launcher can be run");
    let stderr = String::from_utf8(output.stderr).expect("it prints UTF-8");
    (output.stdout, stderr, output.status.code())
}

/// Runs process `web`, which must fail with two lines that hold these parts;
/// `{}` is the image's folder.
#[track_caller]
fn check(image: &Image, code: i32, reason: &str, next: &str) {
    let (stdout, stderr, found) = run(&mut image.command("web"));
    assert_eq!((found, stdout.as_slice()), (Some(code), b"".as_slice()), "{stderr}");
    said(image, &stderr, reason, next);
}

#[track_caller]
fn said(image: &Image, stderr: &str, reason: &str, next: &str) {
    let lines: Vec<&str> = stderr.lines().collect();
    let reason = reason.replace("{}", &image.0.display().to_string());
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("forge launcher: cannot "), "{stderr}");
    assert!(lines[0].contains(&reason), "{stderr}\nlacks {reason}");
    assert!(lines[1].starts_with("  ") && lines[1].contains(next), "{stderr}\nlacks {next}");
}

#[test]
fn process_tables() {
    let table = "{}/layers/config/metadata.toml";
    let again = "forge writes this file: build the image again";
    let cases: [(&[u8], &str); 4] = [
        (b"\xff", "stream did not contain valid UTF-8"),
        (b"[[processes]]\ntype = 'web'\ncommand = [", "line 3: "),
        (b"processes = 1", "line 1: `processes` is no array of tables"),
        (
            b"[[processes]]\ntype = 'web'\n[processes.forge]\nwiat = 1",
            "line 4: `wiat` means nothing",
        ),
    ];
    for (text, reason) in cases {
        let image = Image::new();
        image.file("layers/config/metadata.toml", 0o644, text);
        check(&image, 82, &format!("read the process table `{table}`: {reason}"), again);
    }
    let image = Image::new();
    fs::remove_file(image.0.join("layers/config/metadata.toml")).expect("it was there");
    fs::create_dir(image.0.join("layers/config/metadata.toml")).expect("it can be made");
    check(&image, 82, &format!("`{table}`: Is a directory"), again);
    fs::remove_dir(image.0.join("layers/config/metadata.toml")).expect("it was there");
    check(&image, 82, &format!("`{table}`: No such file or directory"), "set CNB_LAYERS_DIR");
}

#[test]
fn files_of_layers() {
    let image = Image::new();
    image.file("layers/b/z/env/A", 0o644, b"a\0b");
    let next = "make it readable for the user of the container";
    let file = "read the layers: `{}/layers/b/z/env/A`";
    check(&image, 82, &format!("{file}: it holds a NUL byte"), next);

    let image = Image::new();
    fs::create_dir_all(image.0.join("layers/b/z/env")).expect("the folder can be made");
    symlink("/no/such", image.0.join("layers/b/z/env/A")).expect("the link can be made");
    check(&image, 82, &format!("{file}: No such file or directory"), next);

    let image = Image::new();
    image.file("layers/b/z/env", 0o644, b"");
    check(&image, 82, "read the layers: `{}/layers/b/z/env`: Not a directory", next);

    let image = Image::new();
    image.file("layers/b", 0o644, b"");
    check(&image, 82, "read the layers: `{}/layers/b`: Not a directory", next);
}

#[test]
fn files_that_nobody_may_read() {
    // Root reads everything, but not in a name space that does not know it.
    let may = Command::new("unshare").args(["-U", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("skipped: `unshare -U` is not permitted here");
        return;
    }
    for (path, text) in [
        ("layers/config/metadata.toml", "read the process table `{}/layers/config/metadata.toml`"),
        ("layers/b/z/env/A", "read the layers: `{}/layers/b/z/env/A`"),
    ] {
        let image = Image::new();
        image.file(path, 0o000, b"x");
        let mut command = Command::new("unshare");
        command.arg("-U").arg(LAUNCHER).arg("web");
        image.place(&mut command);
        let (_, stderr, code) = run(&mut command);
        assert_eq!(code, Some(82), "{stderr}");
        let next = "make it readable for the user of the container";
        said(&image, &stderr, &format!("{text}: Permission denied"), next);
    }
}

#[test]
fn programs_in_exec_d() {
    let next = "belongs to the buildpack of that folder";
    let what = "get variables from `{}/layers/b/z/exec.d/x`: ";
    let not = "what it printed on descriptor 3 is not `NAME = \"value\"` lines: ";
    let cases = [
        ("kill -9 $$", "it ended with signal 9".to_owned(), next),
        ("printf '\\377' >&3", format!("{not}it is not UTF-8"), next),
        ("printf 'A = \"\\\\u0000\"' >&3", format!("{not}no variable can be `A`"), next),
        ("exec yes x = y >&3", format!("{not}it is larger than 16777216 bytes"), next),
    ];
    for (script, reason, next) in cases {
        let image = Image::new();
        image.file("layers/b/z/exec.d/x", 0o755, format!("#!/bin/sh\n{script}\n").as_bytes());
        check(&image, 82, &format!("{what}{reason}"), next);
    }
    let image = Image::new();
    image.file("layers/b/z/exec.d/x", 0o755, b"#!/no/such/shell\n");
    check(&image, 82, &format!("{what}No such file or directory"), "it must be a program");
}

#[test]
fn a_program_that_prints_without_end_is_stopped_soon() {
    let image = Image::new();
    image.file(
        "layers/b/z/exec.d/x",
        0o755,
        b"#!/bin/sh\ntrap '' PIPE\nyes >&3 2>/dev/null\nsleep 60 >/dev/null 2>&1\n",
    );
    let begin = Instant::now();
    let (_, stderr, code) = run(&mut image.command("web"));
    assert_eq!(code, Some(82), "{stderr}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
fn descriptors_that_the_container_was_given() {
    let image = Image::new();
    image.file("app/given", 0o644, b"from the platform\n");
    image.file("layers/b/z/exec.d/x", 0o755, b"#!/bin/sh\necho 'A = \"from x\"' >&3\n");
    let script = "[[buildpacks]]\nid = 'b'\napi = '0.10'\n[[processes]]\ntype = 'web'\n\
                  command = ['sh', '-c', 'echo $A; cat <&3']\ndirect = true\n";
    image.file("layers/config/metadata.toml", 0o644, script.as_bytes());
    // Number 3 is taken; then 3 is free and 4 is taken.
    for (open, expected) in [
        ("exec 3<given", "from x\nfrom the platform\n"),
        ("exec 3<given 4<given 5<given 6<given", "from x\nfrom the platform\n"),
        ("exec 4<given 0<&-", "from x\n"),
    ] {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("{open}; exec -a web {LAUNCHER}"));
        image.place(&mut command);
        let (stdout, stderr, _) = run(&mut command);
        assert_eq!(String::from_utf8_lossy(&stdout), expected, "{open}: {stderr}");
    }
}

#[test]
fn environments_that_are_too_large() {
    let big = "v".repeat(200_000);
    let image = Image::new();
    image.file("layers/b/z/env/BIG", 0o644, big.as_bytes());
    let reason = "start process `web`: its arguments and variables are too large: ";
    let largest = "the largest is BIG with 200005, from {}/layers/b/z/env/BIG; one may have 131072";
    for part in [reason, largest] {
        check(&image, 126, part, "put the value into a file");
    }
    image.file("layers/b/z/exec.d/x", 0o755, b"#!/bin/sh\n");
    check(&image, 82, largest, "put the value into a file");
    fs::remove_file(image.0.join("layers/b/z/exec.d/x")).expect("it was there");
    let mut command = image.command("web");
    command.env("FORGE_LAUNCHER_COMPAT", "cnb").env("CNB_PLATFORM_API", "0.15");
    let (_, stderr, code) = run(&mut command);
    let expected = "ERROR: failed to launch: direct exec: argument list too long\n";
    assert_eq!((stderr.as_str(), code), (expected, Some(82)));
}

#[test]
fn variables_that_are_not_utf8() {
    let odd = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    for (compat, kind) in [("", "web"), ("", "shell"), ("cnb", "web"), ("cnb", "shell")] {
        let image = Image::new();
        image.file("layers/b/z/env/ODD.append", 0o644, b"\xfe\n");
        let mut command = image.command(kind);
        command
            .env("FORGE_LAUNCHER_COMPAT", compat)
            .env("CNB_PLATFORM_API", "0.15")
            .env("ODD", odd(b"\xff"))
            .env(odd(b"N\xfd"), "x");
        let (stdout, stderr, code) = run(&mut command);
        assert_eq!((stderr.as_str(), code), ("", Some(0)));
        let has = |part: &[u8]| stdout.windows(part.len()).any(|window| window == part);
        let shown = OsStr::from_bytes(&stdout);
        assert!(has(b"ODD=\xff\xfe\n\n"), "{compat} {kind}: {shown:?}");
        // bash keeps what is no name of a variable; dash would drop it.
        assert!(has(b"N\xfd=x\n"), "{compat} {kind}: {shown:?}");
    }
}

#[test]
fn folders_that_are_missing() {
    let image = Image::new();
    let mut command = image.command("web");
    command.env("CNB_APP_DIR", "/missing");
    let (_, stderr, code) = run(&mut command);
    assert_eq!(code, Some(82));
    let reason = "start process `web`: its folder `/missing`: No such file or directory";
    said(&image, &stderr, reason, "set CNB_APP_DIR");
}
