//! The table of cases in `cases.txt`, each run against the launcher twice: in
//! the ways of CNB's launcher (`FORGE_LAUNCHER_COMPAT=cnb`) and in forge's own.
//!
//! ```text
//! case ORIGIN NUMBER       a row; the number is that of the table it is from
//! fixture A|B|C|none       what is in the image; see `fixture_a` and so on
//! call NAME ‹word› …       argv
//! env NAME=value           beside the usual ones; `env -NAME` takes one away
//! file PATH MODE TEXT      one more file; \n and \t are meant
//! link PATH TARGET | dir PATH | gone PATH
//! bare                     in an image without any shell
//! show exec.d              the two lines of the exec.d program count
//! > LINE                   all lines of standard output, in order
//! ~ PART                   instead: standard output holds this
//! - PART                   and does not hold this
//! ! PART                   standard error holds this; it is empty otherwise
//! status NUMBER
//! forge WHY                what follows is for forge's own mode, which differs
//! forge only WHY           there is no such case in the reference
//! ```
//!
//! `{ROOT}`, `{APP}` and `{LAYERS}` are the folders, `{PID}` is the process id of
//! the launcher, `> +P` stands for the lines of both profiles of fixture A.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const LAUNCHER: &str = env!("CARGO_BIN_EXE_forge-launcher");
const CASES: &str = include_str!("cases.txt");

/// The cases of the reference that must have a row.
const REFERENCE: std::ops::RangeInclusive<u32> = 1..=122;

/// One row takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// PATH of an image that the reference has made.
const PATH: &str = "/cnb/process:/cnb/lifecycle:/usr/bin:/bin";

/// One row of the table.
#[derive(Debug, Clone, Default)]
struct Case {
    title: String,
    fixture: String,
    call: Vec<String>,
    environment: Vec<(String, Option<String>)>,
    changes: Vec<String>,
    bare: bool,
    show: bool,
    reference: Option<Expected>,
    forge: Option<Expected>,
    /// Why forge does otherwise.
    why: String,
}

#[derive(Debug, Clone, Default)]
struct Expected {
    lines: Vec<String>,
    parts: Vec<String>,
    absent: Vec<String>,
    errors: Vec<String>,
    status: i32,
}

fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut own = false;
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "case" {
            own = false;
            cases.push(Case { title: rest.to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().expect("the table begins with a case");
        match word {
            "fixture" => case.fixture = rest.to_owned(),
            "call" => {
                let (name, words) = rest.split_once(" ‹").unwrap_or((rest, ""));
                case.call = vec![name.to_owned()];
                if let Some(words) = words.strip_suffix('›') {
                    case.call.extend(words.split("› ‹").map(unescaped));
                }
            }
            "env" => case.environment.push(match rest.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (rest.trim_start_matches('-').to_owned(), None),
            }),
            "file" | "link" | "dir" | "gone" => case.changes.push(line.to_owned()),
            "bare" => case.bare = true,
            "show" => case.show = true,
            "forge" => {
                own = true;
                case.forge = Some(Expected::default());
                case.why = rest.to_owned();
            }
            ">" | "~" | "-" | "!" | "status" => {
                let expected = if own { &mut case.forge } else { &mut case.reference };
                let expected = expected.get_or_insert_default();
                match word {
                    ">" if rest == "+P" => expected
                        .lines
                        .extend(["sourced bp profile".into(), "sourced app profile".into()]),
                    ">" => expected.lines.push(unescaped(rest)),
                    "~" => expected.parts.push(unescaped(rest)),
                    "-" => expected.absent.push(unescaped(rest)),
                    "!" => expected.errors.push(unescaped(rest)),
                    _ => expected.status = rest.parse().expect("a number"),
                }
            }
            _ => panic!("line {}: `{word}` means nothing", number + 1),
        }
    }
    cases
}

fn unescaped(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

/// An image in a folder that goes away at the end.
struct Image(PathBuf);

impl Image {
    fn new(fixture: &str) -> Image {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("forge-cases-{}-{number}", std::process::id());
        let root = fs::canonicalize(std::env::temp_dir()).expect("there is a folder").join(name);
        let image = Image(root);
        for folder in ["layers/config", "app", "cnb/process", "cnb/lifecycle", "somewhere"] {
            fs::create_dir_all(image.0.join(folder)).expect("the folder can be made");
        }
        match fixture {
            "A" => fixture_a(&image),
            "B" => fixture_b(&image),
            "C" => fixture_c(&image),
            "none" => image.file("layers/config/metadata.toml", 0o644, ""),
            other => panic!("there is no fixture `{other}`"),
        }
        for link in ["cnb/lifecycle/launcher", "somewhere/unknown", "cnb/process/web"] {
            symlink(LAUNCHER, image.0.join(link)).expect("the link can be made");
        }
        image
    }

    fn file(&self, path: &str, mode: u32, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("the folder can be made");
        common::write_program(&path, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
    }

    fn change(&self, line: &str) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["file", path, mode, rest @ ..] => {
                let mode = u32::from_str_radix(mode, 8).expect("a mode");
                self.file(path, mode, &unescaped(rest.first().unwrap_or(&"")));
            }
            ["link", path, target] => {
                symlink(target, self.0.join(path)).expect("the link can be made");
            }
            ["dir", path] => fs::create_dir_all(self.0.join(path)).expect("it can be made"),
            ["gone", path] => fs::remove_file(self.0.join(path)).expect("it can be removed"),
            _ => panic!("`{line}` means nothing"),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // A folder left in the temporary one is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process of the table: type, command as TOML, args as TOML, more lines.
fn process(kind: &str, command: &str, args: &str, more: &str) -> String {
    format!("[[processes]]\ntype = \"{kind}\"\ncommand = {command}\nargs = {args}\n{more}\n")
}

fn buildpacks(list: &[(&str, &str)]) -> String {
    let one = |(id, api): &(&str, &str)| format!("[[buildpacks]]\nid = '{id}'\napi = '{api}'\n");
    list.iter().map(one).collect()
}

/// That of the reference's own acceptance tests.
fn fixture_a(image: &Image) {
    let mut table =
        buildpacks(&[("0.9/buildpack", "0.9"), ("0.8/buildpack", "0.8"), ("0.7/buildpack", "0.7")]);
    let of = |api: &str| format!("direct = false\nbuildpack-id = \"{api}/buildpack\"");
    let script = r#"["printf \"'%s' '%s'\" \"$VAR1\" \"$VAR2\""]"#;
    for (kind, command, args, more) in [
        ("web", "['echo']", "['Executing web process-type']", of("0.8")),
        (
            "direct-process",
            "['echo']",
            "['Executing direct-process process-type']",
            of("0.8").replace("false", "true"),
        ),
        (
            "indirect-process-with-args",
            "['printf']",
            r#"["'%s' '%s'", "$VAR1", "$VAR2"]"#,
            of("0.8"),
        ),
        ("indirect-process-with-script", script, "[]", of("0.8")),
        (
            "legacy-indirect-process-with-args",
            r#"["printf \"'%s' '%s'\" \"$0\" \"$1\""]"#,
            "['arg', 'arg with spaces']",
            of("0.7"),
        ),
        (
            "legacy-indirect-process-with-incorrect-args",
            "['printf']",
            r#"["'%s' '%s'", "arg", "arg with spaces"]"#,
            of("0.7"),
        ),
        ("profile-checker", "['echo']", "['$VAR_FROM_PROFILE']", of("0.8")),
        ("exec.d-checker", "['printf']", r#"["%s", "$VAR_FROM_EXEC_D"]"#, of("0.9")),
        ("worker", "['echo']", "['$WORKER_VAR']", of("0.8")),
        (
            "process.with.period",
            "['echo']",
            "['Executing process.with.period process-type']",
            of("0.8"),
        ),
    ] {
        table += &process(kind, command, args, &more);
    }
    image.file("layers/config/metadata.toml", 0o644, &table);
    let helper = "#!/bin/sh\n\
        echo \"$0 was executed\"\n\
        echo \"Exec.d Working Dir: $(pwd)\"\n\
        case $0 in\n\
        */exec.d-checker/*) more=val-from-exec.d-for-process-type-exec.d-checker;;\n\
        *) more=val-from-exec.d;;\n\
        esac\n\
        printf 'VAR_FROM_EXEC_D = \"%s\"\\n' \"$VAR_FROM_EXEC_D:$more\" >&3\n";
    let first = "layers/0.9_buildpack/some_layer/exec.d";
    image.file(&format!("{first}/helper"), 0o755, helper);
    image.file(&format!("{first}/exec.d-checker/helper"), 0o755, helper);
    let second = "layers/0.8_buildpack/some_layer";
    for (path, mode, text) in [
        ("env/SOME_VAR", 0o644, "some-bp-val"),
        ("env/WORKER_VAR", 0o644, "worker-no-process-val\n"),
        ("env.launch/OTHER_VAR.append", 0o644, "other-bp-val"),
        ("env.launch/OTHER_VAR.delim", 0o644, "**"),
        ("env.launch/worker/WORKER_VAR", 0o644, "worker-process-val\n"),
        ("bin/bp-executable", 0o755, "#!/bin/sh\necho bp executable\n"),
        ("profile.d/0_bp_profile.sh", 0o644, "echo sourced bp profile\n"),
        (
            "profile.d/profile-checker/0_bp_profile.sh",
            0o644,
            "echo sourced bp profile-checker profile\n",
        ),
    ] {
        image.file(&format!("{second}/{path}"), mode, text);
    }
    let profile = "export VAR_FROM_PROFILE=val-from-profile\necho sourced app profile\n";
    image.file("app/.profile", 0o644, profile);
    image.file("other-app/.profile", 0o644, "echo sourced other app profile\n");
    let other = buildpacks(&[("some-buildpack", "0.9")])
        + &process(
            "web",
            "['echo Executing other-layers web process-type']",
            "[]",
            "buildpack-id = 'some-buildpack'",
        );
    image.file("other-layers/config/metadata.toml", 0o644, &other);
}

fn fixture_b(image: &Image) {
    let mut table = buildpacks(&[("org/a", "0.8"), ("b", "0.10"), ("missing/dir", "0.10")]);
    let of_b = "buildpack-id = 'b'";
    let direct = "direct = true\nbuildpack-id = 'b'";
    let inside = |folder: &str, how: &str| format!("working-dir = '{folder}'\n{how}");
    let sub = image.0.join("app/sub").display().to_string();
    let only = |exec_env: &str| format!("exec-env = {exec_env}\n{direct}");
    let show = image.0.join("app/show.sh").display().to_string();
    let show = |more: &str| format!("['{show}'{more}]");
    for (kind, command, args, more) in [
        ("web", "['bash', '-c']".into(), "['echo default-args; pwd']", direct.into()),
        ("always", show(", 'always1'"), "['def1', 'def2']", direct.into()),
        ("overr", show(""), "['def1', 'def2']", direct.into()),
        ("old", show(""), "['def1']", "direct = true\nbuildpack-id = 'org/a'".into()),
        ("wd", "['pwd']".into(), "[]", inside(&sub, direct)),
        ("wdshell", "['pwd']".into(), "[]", inside(&sub, of_b)),
        ("wdbad", "['pwd']".into(), "[]", inside("/nope", direct)),
        ("wdbadshell", "['pwd']".into(), "[]", inside("/nope", of_b)),
        ("empty", "[]".into(), "[]", direct.into()),
        ("prodonly", "['echo']".into(), "['prod']", only("['production']")),
        ("dup", "['echo']".into(), "['prod-version']", only("['production']")),
        ("dup", "['echo']".into(), "['test-version']", only("['test']")),
        ("any", "['echo']".into(), "['any-version']", only("['*']")),
        ("relcmd", "['./show.sh']".into(), "['x']", inside(&sub, direct)),
        ("orphan", "['echo']".into(), "['arg']", "buildpack-id = 'nope'".into()),
        ("pieces", "['echo', 'a; echo b']".into(), "[]", of_b.into()),
        ("string", "'echo'".into(), "['as a string']", direct.into()),
        ("list", "['echo']".into(), "['as a string']", direct.into()),
        ("nodir", "['pwd']".into(), "[]", direct.into()),
    ] {
        table += &process(kind, &command, args, &more);
    }
    image.file("layers/config/metadata.toml", 0o644, &table);
    image.file(
        "app/show.sh",
        0o755,
        "#!/bin/sh\necho $#\nfor word; do printf '<%s>\\n' \"$word\"; done\n",
    );
    fs::create_dir(image.0.join("app/sub")).expect("the folder can be made");
    for (folder, text) in [
        ("org_a/l1/env", "1e"),
        ("org_a/l1/env.launch", "1L"),
        ("org_a/l1/env.launch/web", "1w"),
        ("org_a/l2/env", "2e"),
        ("org_a/l2/env.launch", "2L"),
        ("b/z/env", "Ze"),
        ("b/z/env.launch/web", "Zw"),
    ] {
        for name in ["APP.append", "PRE.prepend", "DEF.default", "OVR.override", "PLAIN"] {
            image.file(&format!("layers/{folder}/{name}"), 0o644, text);
        }
        for name in ["APP.delim", "PRE.delim"] {
            image.file(&format!("layers/{folder}/{name}"), 0o644, ",");
        }
    }
    for layer in ["org_a/l1", "org_a/l2", "b/z"] {
        fs::create_dir(image.0.join("layers").join(layer).join("bin")).expect("it can be made");
    }
    fs::create_dir(image.0.join("layers/org_a/l1/lib")).expect("it can be made");
    image.file("layers/org_a/l1/env/NODELIM.append", 0o644, "x1");
    image.file("layers/org_a/l2/env/NODELIM.append", 0o644, "x2");
    image.file("layers/org_a/plain", 0o644, "no layer");
    image.file("linked/env/FROM_LINK", 0o644, "seen");
    symlink("../../linked", image.0.join("layers/org_a/link")).expect("the link can be made");
}

fn fixture_c(image: &Image) {
    let table = buildpacks(&[("b", "0.10")])
        + &process(
            "web",
            r#"["sh", "-c", "printf '%s|%s\n' \"$A\" \"$B\""]"#,
            "[]",
            "direct = true\nbuildpack-id = 'b'",
        );
    image.file("layers/config/metadata.toml", 0o644, &table);
    image.file(
        "layers/b/z/exec.d/a",
        0o755,
        "#!/bin/sh\necho \"a in $(pwd), $(wc -c) bytes of input, A=$A\"\necho a >&2\n\
         echo 'A = \"from-a\"' >&3\n",
    );
    image.file(
        "layers/b/z/exec.d/b",
        0o755,
        "#!/bin/sh\necho \"b sees $A\"\nprintf 'A = \"over-b\"\\nB = \"one\\\\ntwo\"\\n' >&3\n",
    );
}

/// What a run led to.
#[derive(Debug)]
struct Found {
    stdout: String,
    stderr: String,
    status: i32,
}

/// Runs the case; the launcher gets `more` as variables too.
fn run(case: &Case, more: &[(&str, &str)]) -> Found {
    let image = Image::new(&case.fixture);
    for change in &case.changes {
        image.change(&placed(change, &image.0));
    }
    let inside = if case.bare { PathBuf::from("/") } else { image.0.clone() };
    let name = placed(&case.call[0], &inside);
    let mut command = if case.bare {
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", BARE, "sh"]).arg(&image.0).arg(&name);
        fs::remove_file(image.0.join("cnb/lifecycle/launcher")).expect("it was there");
        fs::copy(LAUNCHER, image.0.join("cnb/lifecycle/launcher")).expect("it can be copied");
        fs::copy("/usr/bin/echo", image.0.join("app/speak")).expect("there is an `echo`");
        command
    } else if name.contains('/') {
        Command::new(&name)
    } else {
        let mut command = Command::new(LAUNCHER);
        command.arg0(&name);
        command
    };
    command.args(case.call[1..].iter().map(|word| placed(word, &inside)));
    command.env_clear().current_dir(image.0.join("app"));
    let variables: BTreeMap<String, String> = [
        ("PATH", PATH),
        ("CNB_LAYERS_DIR", "{LAYERS}"),
        ("CNB_APP_DIR", "{APP}"),
        ("CNB_DEPRECATION_MODE", "quiet"),
        ("CNB_PLATFORM_API", "0.15"),
        ("CNB_NO_COLOR", "true"),
    ]
    .iter()
    .chain(more)
    .map(|(name, value)| (name.to_string(), placed(value, &inside)))
    .collect();
    command.envs(variables);
    for (name, value) in &case.environment {
        match value {
            Some(value) => command.env(name, placed(value, &inside)),
            None => command.env_remove(name),
        };
    }
    // Not empty, so that a program in exec.d could read it by mistake.
    image.file("typed", 0o644, "typed\n");
    let typed = fs::File::open(image.0.join("typed")).expect("it was written");
    command.stdin(typed).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the launcher can be run");
    let id = child.id();
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let text = text.replace(&image.0.join("app").display().to_string(), "{APP}");
        let text = text.replace(&image.0.join("layers").display().to_string(), "{LAYERS}");
        let text = text.replace(&image.0.display().to_string(), "{ROOT}");
        // The number alone on its line, so that no other number is taken for it.
        let id = id.to_string();
        let named = |line| if line == id { "{PID}" } else { line };
        text.split('\n').map(named).collect::<Vec<_>>().join("\n")
    };
    let mut stdout = text(output.stdout);
    if !case.show {
        let noise = |line: &&str| {
            line.ends_with("/helper was executed") || line.starts_with("Exec.d Working Dir: ")
        };
        stdout = stdout.split('\n').filter(|line| !noise(line)).collect::<Vec<_>>().join("\n");
    }
    let status = output.status.code().or_else(|| output.status.signal().map(|number| 128 + number));
    Found { stdout, stderr: text(output.stderr), status: status.expect("it ended") }
}

/// Starts something in a folder with libraries and nothing else.
const BARE: &str = r#"
root=$1; shift
for folder in lib lib64 usr/lib usr/lib64; do
  [ -d "/$folder" ] || continue
  mkdir -p "$root/$folder" && mount --rbind "/$folder" "$root/$folder" || exit 99
done
for chroot in /usr/sbin/chroot /usr/bin/chroot; do
  [ -x "$chroot" ] && exec "$chroot" "$root" "$@"
done
exit 98
"#;

/// The text with the folders in place of their names.
fn placed(text: &str, root: &Path) -> String {
    let root = root.display().to_string();
    let root = root.trim_end_matches('/');
    text.replace("{ROOT}", root)
        .replace("{APP}", &format!("{root}/app"))
        .replace("{LAYERS}", &format!("{root}/layers"))
}

/// What is not as it should be.
fn differences(found: &Found, expected: &Expected) -> Vec<String> {
    let mut wrong = Vec::new();
    if found.status != expected.status {
        wrong.push(format!("status {}, not {}", found.status, expected.status));
    }
    let lines = expected.lines.join("\n");
    let free = !expected.parts.is_empty() || !expected.absent.is_empty();
    if !free && found.stdout.trim_end_matches('\n') != lines.trim_end_matches('\n') {
        wrong.push(format!("stdout is not {lines:?}"));
    }
    for part in expected.parts.iter().filter(|part| !found.stdout.contains(*part)) {
        wrong.push(format!("stdout lacks {part:?}"));
    }
    for part in expected.absent.iter().filter(|part| found.stdout.contains(*part)) {
        wrong.push(format!("stdout has {part:?}"));
    }
    for part in expected.errors.iter().filter(|part| !found.stderr.contains(*part)) {
        wrong.push(format!("stderr lacks {part:?}"));
    }
    if expected.errors.is_empty() && !found.stderr.is_empty() {
        wrong.push("stderr is not empty".to_owned());
    }
    wrong
}

/// Why a case cannot be run on this machine.
fn unable(case: &Case) -> Option<&'static str> {
    if !case.bare {
        return None;
    }
    let mut probe = Command::new("unshare");
    probe.args([
        "-Urm",
        "sh",
        "-c",
        "mount --rbind /usr/lib /usr/lib && PATH=$PATH:/usr/sbin && chroot / true",
    ]);
    let permitted = probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if permitted { None } else { Some("`unshare -Urm` and mounts are not permitted here") }
}

/// What all rows led to.
#[derive(Default)]
struct Sum {
    ran: usize,
    differing: usize,
    skipped: Vec<String>,
    wrong: Vec<String>,
}

/// Runs one row in both modes.
fn both(case: &Case, result: &mut Sum) {
    let title = &case.title;
    if let Some(reason) = unable(case) {
        result.skipped.push(format!("{title}: {reason}"));
        return;
    }
    result.ran += 1;
    result.differing += usize::from(case.forge.is_some() && case.reference.is_some());
    let own = case.forge.as_ref().or(case.reference.as_ref());
    let compat = [("FORGE_LAUNCHER_COMPAT", "cnb")];
    for (mode, more, expected) in
        [("CNB", &compat[..], case.reference.as_ref()), ("forge", &[], own)]
    {
        let Some(expected) = expected else { continue };
        let found = run(case, more);
        let differences = differences(&found, expected);
        if !differences.is_empty() {
            result.wrong.push(format!("{title} as {mode}: {differences:?}\n{found:#?}"));
        }
    }
}

#[test]
fn the_table() {
    let count = parse(CASES).len();
    // Elsewhere, so that a launcher that does not end has a name.
    let (progress, titles) = mpsc::channel();
    let all = thread::spawn(move || {
        let mut result = Sum::default();
        for case in &parse(CASES) {
            progress.send(case.title.clone()).expect("somebody listens");
            both(case, &mut result);
        }
        result
    });
    let mut last = String::new();
    loop {
        match titles.recv_timeout(PATIENCE) {
            Ok(title) => last = title,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{last} does not end"),
        }
    }
    let Sum { ran, differing, skipped, wrong } = all.join().expect("all rows are run");
    println!("{count} cases: {ran} ran, {differing} differ on purpose");
    for skipped in &skipped {
        println!("not run: {skipped}");
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(ran + skipped.len(), count);
}

#[test]
fn no_case_is_forgotten() {
    let cases = parse(CASES);
    let mut titles = BTreeSet::new();
    for case in &cases {
        assert!(titles.insert(&case.title), "{} stands twice", case.title);
        assert!(!case.call.is_empty() && !case.fixture.is_empty(), "{}", case.title);
        assert!(case.reference.is_some() || case.forge.is_some(), "{}", case.title);
        assert!(case.forge.is_none() || !case.why.is_empty(), "{} says no reason", case.title);
        assert!(
            case.reference.is_some() || case.why.starts_with("only "),
            "{} has no expectation of the reference",
            case.title
        );
    }
    let numbers: BTreeSet<u32> = cases
        .iter()
        .filter_map(|case| case.title.strip_prefix("cnb L"))
        .filter_map(|number| number.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok())
        .collect();
    let missing: Vec<u32> = REFERENCE.filter(|number| !numbers.contains(number)).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
}
