//! Steps that run again only when something that they read has changed: what counts as
//! reading, which edits make real apps' steps run, and that what is reused is what a run
//! would make.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::gems;
use crate::support::{
    Forge, app, checkout, copy, folder, give, have, is_root, need_root, ok, port, ran, registry_at,
    text, warm, warm_lock,
};

/// What an edit does to the traced step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Its result is reused.
    Hit,
    /// It runs.
    Rerun,
}

use Then::{Hit, Rerun};

/// Something done to an app.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// Text is put at the end of a file.
    Append(&'static str, &'static str),
    /// Text in a file is replaced.
    Replace(&'static str, &'static str, &'static str),
    /// A file is written, with its folders.
    Write(&'static str, &'static str),
    Remove(&'static str),
    Mode(&'static str, u32),
    Link(&'static str, &'static str),
    Rename(&'static str, &'static str),
}

impl Edit {
    #[track_caller]
    fn apply(self, app: &Path) {
        match self {
            Edit::Append(path, more) => {
                let old = fs::read_to_string(app.join(path)).unwrap();
                fs::write(app.join(path), old + more).unwrap();
            }
            Edit::Replace(path, old, new) => gems::edit(app, path, old, new),
            Edit::Write(path, content) => {
                fs::create_dir_all(app.join(path).parent().unwrap()).unwrap();
                fs::write(app.join(path), content).unwrap();
            }
            Edit::Remove(path) => fs::remove_file(app.join(path)).unwrap(),
            Edit::Mode(path, mode) => {
                fs::set_permissions(app.join(path), fs::Permissions::from_mode(mode)).unwrap();
            }
            Edit::Link(path, target) => {
                let path = app.join(path);
                if path.is_symlink() {
                    fs::remove_file(&path).unwrap();
                }
                symlink(target, path).unwrap();
            }
            Edit::Rename(from, to) => fs::rename(app.join(from), app.join(to)).unwrap(),
        }
        give(app);
    }
}

/// A store, an app that was built into it, and the step that is watched.
struct Bench<'b> {
    forge: Forge,
    app: &'b Path,
    step: &'b str,
}

impl Bench<'_> {
    /// A copy of the app, as the first build left it.
    fn copy(&self) -> PathBuf {
        let target = folder("edited");
        copy(self.app, &target);
        fs::copy(self.app.join("forge.lock"), target.join("forge.lock")).unwrap();
        give(&target);
        target
    }

    /// Builds after edits, one after another, and sees what each did. What was reused, and
    /// what a traced run made, is what a run on all files makes.
    #[track_caller]
    fn check(&self, edits: &[(Edit, Then)]) {
        let app = self.copy();
        for (edit, then) in edits {
            edit.apply(&app);
            let events = self.forge.events(&app, &[]);
            let last = events.last().unwrap();
            assert_eq!(last["event"], "finished", "{edit:?}: {last}");
            assert_eq!(self.saw(&events), *then, "{edit:?}, of {edits:?}");
            let verified = self.forge.events(&app, &["--verify-trace"]);
            assert_eq!(digest(&verified), digest(&events), "{edit:?}: {verified:?}");
            let checked = serde_json::json!([{ "what": "checked" }]);
            assert!(
                verified.iter().any(|event| event["event"] == "step_started"
                    && event["step"] == self.step
                    && event["because"] == checked),
                "{edit:?}: {verified:?}"
            );
            if std::env::var_os("FORGE_TEST_SCRATCH").is_some() {
                let store = folder("scratch-store");
                let scratch =
                    if self.step == "assets" { gems::forge(&store) } else { Forge::new(&store) };
                assert_eq!(scratch.build(&app, &[]), digest(&events), "{edit:?}");
                ok(std::process::Command::new("rm").arg("-rf").arg(store));
            }
        }
    }

    fn saw(&self, events: &[Value]) -> Then {
        if ran(events).contains(&self.step.to_owned()) {
            return Rerun;
        }
        let reused = events
            .iter()
            .find(|event| event["event"] == "step_reused" && event["step"] == self.step)
            .unwrap_or_else(|| panic!("{} is not told of: {events:?}", self.step));
        // Nothing is said of reads when just these files were there before.
        let reads = &reused["reads"];
        assert!(reads.is_null() || reads["read"].as_u64() < reads["given"].as_u64(), "{reused}");
        Hit
    }
}

fn digest(events: &[Value]) -> String {
    let last = events.last().unwrap();
    assert_eq!(last["event"], "finished", "{last}");
    last["digest"].as_str().unwrap().to_owned()
}

#[test]
fn edits_of_a_django_app() {
    let (store, app, _) = warm();
    let bench = Bench { forge: Forge::new(store), app, step: "collectstatic" };
    for edit in [
        Edit::Append("journal/views.py", "\n# edited\n"),
        Edit::Append("journal/urls.py", "\n# edited\n"),
        Edit::Append("journal/forms.py", "\n# edited\n"),
        Edit::Append("journal/tests/test_views.py", "\n# edited\n"),
        Edit::Append("journal/management/commands/work.py", "\n# edited\n"),
        Edit::Append("journal/migrations/0001_initial.py", "\n# edited\n"),
        Edit::Append("journal/templates/journal/entry_list.html", "<!-- edited -->\n"),
        Edit::Append("templates/base.html", "<!-- edited -->\n"),
        Edit::Append("logbook/wsgi.py", "\n# edited\n"),
        Edit::Append("README.md", "Edited.\n"),
        Edit::Append("Procfile", "clock: true\n"),
    ] {
        bench.check(&[(edit, Hit)]);
    }
    for edit in [
        Edit::Append("logbook/settings.py", "\nEDITED = True\n"),
        Edit::Append("logbook/env.py", "\n# edited\n"),
        Edit::Append("journal/models.py", "\n# edited\n"),
        Edit::Append("journal/admin.py", "\n# edited\n"),
        Edit::Append("journal/apps.py", "\n# edited\n"),
        Edit::Append("manage.py", "\n# edited\n"),
        Edit::Append("static/css/logbook.css", "\np { color: red }\n"),
        Edit::Write("static/css/new.css", "p { color: red }\n"),
        Edit::Remove("static/js/logbook.js"),
        Edit::Rename("static/favicon.ico", "static/icon.ico"),
        Edit::Mode("static/js/logbook.js", 0o755),
        Edit::Write("journal/helpers.py", "HELP = 1\n"),
        Edit::Remove("journal/templates/journal/entry_facts.html"),
        Edit::Write("forge.toml", "[build.environment]\nEDITED = \"yes\"\n"),
    ] {
        bench.check(&[(edit, Rerun)]);
    }
    // What is read for the first time decides from then on, and going back is known.
    bench.check(&[
        (Edit::Write("VERSION", "1\n"), Rerun),
        (Edit::Write("VERSION", "2\n"), Hit),
        (
            Edit::Append("logbook/settings.py", "\nVERSION = (BASE_DIR / 'VERSION').read_text()\n"),
            Rerun,
        ),
        (Edit::Append("journal/views.py", "\n# edited\n"), Hit),
        (Edit::Write("VERSION", "3\n"), Rerun),
        (Edit::Write("VERSION", "2\n"), Hit),
    ]);
    // Where a link leads.
    bench.check(&[
        (Edit::Link("static/css/linked.css", "logbook.css"), Rerun),
        (Edit::Append("journal/views.py", "\n# edited\n"), Hit),
        (Edit::Link("static/css/linked.css", "../js/logbook.js"), Rerun),
    ]);
}

#[test]
fn edits_of_a_rails_app() {
    if !gems::can() {
        return;
    }
    let warm = gems::warm();
    let bench = Bench { forge: gems::forge(&warm.store), app: &warm.app, step: "assets" };
    for edit in [
        Edit::Append("app/controllers/packets_controller.rb", "\n# edited\n"),
        Edit::Append("app/models/packet.rb", "\n# edited\n"),
        Edit::Append("app/helpers/application_helper.rb", "\n# edited\n"),
        Edit::Append("app/jobs/appraise_packet_job.rb", "\n# edited\n"),
        Edit::Append("app/views/packets/index.html.erb", "<p>edited</p>\n"),
        Edit::Append("public/500.html", "<!-- edited -->\n"),
        Edit::Append("config/environments/development.rb", "\n# edited\n"),
        Edit::Append("config/puma.rb", "\n# edited\n"),
        Edit::Append("db/schema.rb", "\n# edited\n"),
        Edit::Append("db/seeds.rb", "\n# edited\n"),
        Edit::Append("public/404.html", "<!-- edited -->\n"),
    ] {
        bench.check(&[(edit, Hit)]);
    }
    for edit in [
        Edit::Append("config/application.rb", "\n# edited\n"),
        Edit::Append("config/environments/production.rb", "\n# edited\n"),
        Edit::Append("config/initializers/filter_parameter_logging.rb", "\n# edited\n"),
        Edit::Append("app/styles/forms.css", "\ndl { color: red }\n"),
        Edit::Append("app/javascript/filter.js", "\nconsole.log(1);\n"),
        Edit::Append("app/assets/images/seed.svg", "<!-- edited -->\n"),
        Edit::Write("config/initializers/new.rb", "# new\n"),
        Edit::Write("app/assets/images/new.svg", "<svg/>\n"),
        Edit::Remove("app/views/packets/show.html.erb"),
        Edit::Mode("app/assets/images/seed.svg", 0o755),
        Edit::Replace("package.json", "--minify", "--minify --legal-comments=none"),
    ] {
        bench.check(&[(edit, Rerun)]);
    }
    // A stylesheet that is made with a partial.
    let task = "task banner: :environment do\n  \
        text = ERB.new(Rails.root.join(\"app/views/packets/_banner.css.erb\").read).result\n  \
        Rails.root.join(\"app/assets/builds/banner.css\").write(text)\nend\n\
        Rake::Task[\"css:build\"].enhance([:banner])\n";
    bench.check(&[
        (Edit::Write("app/views/packets/_banner.css.erb", "p { width: <%= 1 + 1 %>px }\n"), Rerun),
        (Edit::Append("app/views/packets/_banner.css.erb", "/* not used */\n"), Hit),
        (Edit::Write("lib/tasks/banner.rake", task), Rerun),
        (Edit::Append("app/views/packets/index.html.erb", "<p>edited</p>\n"), Hit),
        (Edit::Append("app/views/packets/_banner.css.erb", "/* used */\n"), Rerun),
    ]);
}

/// An app of `tests/apps`, built into the store of the Django example.
fn javascript(name: &str) -> PathBuf {
    let app = folder(name);
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps").join(name), &app);
    give(&app);
    Forge::new(&warm().0).build(&app, &[]);
    app
}

#[test]
fn edits_of_an_app_with_tailwind() {
    let app = javascript("tailwind");
    let bench = Bench { forge: Forge::new(&warm().0), app: &app, step: "javascript-build" };
    bench.check(&[(Edit::Append("server.js", "// edited\n"), Hit)]);
    for edit in [
        // It scans templates for the names of classes.
        Edit::Replace("views/notice.html", "mt-2", "mt-4"),
        Edit::Write("views/new.html", "<p class=\"pl-8\"></p>\n"),
        Edit::Remove("views/notice.html"),
        Edit::Replace("theme.js", "#eef2e6", "#ffffff"),
        Edit::Append("tailwind.config.js", "// edited\n"),
        Edit::Append("styles/app.css", "p { color: red }\n"),
    ] {
        bench.check(&[(edit, Rerun)]);
    }
}

#[test]
fn edits_of_an_app_with_webpack() {
    let app = javascript("webpack");
    let bench = Bench { forge: Forge::new(&warm().0), app: &app, step: "javascript-build" };
    for edit in
        [Edit::Append("server.js", "// edited\n"), Edit::Append("src/unused.js", "// edited\n")]
    {
        bench.check(&[(edit, Hit)]);
    }
    for edit in [
        Edit::Append("src/board.js", "console.log(1);\n"),
        Edit::Append("src/card.css", "p { color: red }\n"),
        Edit::Append("src/pin.svg", "<!-- edited -->\n"),
        Edit::Append("notices/hall.txt", "Edited.\n"),
        Edit::Write("notices/new.txt", "New.\n"),
        Edit::Remove("notices/glove.txt"),
        Edit::Append("webpack.config.js", "// edited\n"),
    ] {
        bench.check(&[(edit, Rerun)]);
    }
}

/// An app with one traced step that runs a script of Python's.
fn scripted(name: &str, script: &str, files: &[(&str, &str)]) -> PathBuf {
    let buildpack = "name = \"own\"\nabout = \"own\"\npriority = 99\nmatch = [\"procfile.web\"]\nlooks_for = \"\"\n\
         [[base]]\nrelease = \"trixie\"\n[[packages]]\nbase = [\"ca-certificates\", \"libstdc++6\", \"python3\", \"tzdata\"]\n\
         [[step]]\nname = \"probe\"\nabout = \"\"\nroot = [\"base\"]\nsource = [\"*\", \"!.forge\"]\ninputs = \"traced\"\n\
         outputs = [\"out\", \"workspace?\"]\nin_image = true\n\
         command = [\"python3\", \"/forge/probe.py\"]\nfiles = [\"probe.py\"]\n";
    let mut all = vec![
        ("Procfile", "web: true\n"),
        (".forge/buildpacks/own.toml", buildpack),
        (".forge/buildpacks/own/probe.py", script),
    ];
    all.extend(files);
    let app = app(name, &all);
    warm_lock(&app);
    app
}

/// The files that the last run has read.
fn read(forge: &Forge, app: &Path) -> Vec<String> {
    let output = forge.run(&["plan", &app.display().to_string(), "--files=probe"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("r ").map(str::to_owned))
        .collect()
}

/// Each way in which a program may get at a file's content, and some by which it does not.
const WAYS: &str = r#"
import ctypes, errno, fcntl, mmap, os, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
os.chdir("/workspace")
os.mkdir("/out")
out = os.open("/out/copy", os.O_RDWR | os.O_CREAT)

def opened(name, flags=os.O_RDONLY):
    return os.open("seen/" + name, flags)

open("seen/read").read()
open("seen/empty").read()
os.pread(opened("pread"), 4, 0)
mmap.mmap(opened("mmap"), 0, prot=mmap.PROT_READ)
os.sendfile(out, opened("sendfile"), 0, 4)
pipe = os.pipe()
os.splice(opened("splice"), pipe[1], 4)
subprocess.run(["seen/exec"], check=True)
subprocess.run(["cat", "seen/child"], check=True, stdout=subprocess.DEVNULL)
open("linked").read()
os.rename("seen/moved", "elsewhere")
open("elsewhere").read()
open("seen/removed").read()
os.remove("seen/removed")
open("seen/written", "w").write("other")
open("seen/appended", "a").write("more")
os.chmod("seen/chmod", 0o600)
# Reset by the program itself.
open("seen/reset").read()
os.utime("seen/reset", (1, 315532801))
# Reads on in the background while the step ends.
subprocess.Popen(["sh", "-c", "cat seen/background > /dev/null; echo > /tmp/done; sleep 600"])
while not os.path.exists("/tmp/done"):
    time.sleep(0.01)

# Ways that would leave no trace are not there; those who try them go on without. When the
# step runs to be verified, nothing is traced, and they are there.
def refused(expected, call):
    try:
        call()
    except OSError as error:
        return error.errno == expected
    return False

descriptor = opened("unseen")
found = [
    refused(errno.EPERM, lambda: opened("unseen", os.O_RDONLY | os.O_NOATIME)),
    refused(errno.EPERM, lambda: fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NOATIME)),
    refused(errno.EINVAL, lambda: opened("unseen", os.O_RDONLY | os.O_DIRECT)),
    refused(errno.ENOSYS, lambda: os.copy_file_range(descriptor, out, 4)),
]
assert found in ([True] * 4, [False] * 4), found
if all(found):
    for request in (0x40049409, 0x4020940D, 0xC0189436):
        assert libc.ioctl(out, ctypes.c_ulong(request), descriptor) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP, (request, ctypes.get_errno())
    assert libc.syscall(437, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.ENOSYS
    print("forge:notice: all ways were refused")
else:
    os.truncate(out, 4)
for number in (425, 304):
    assert libc.syscall(number, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM, number

# What is not reading.
os.stat("seen/unseen")
os.access("seen/unseen", os.R_OK)
os.listdir("seen")
os.path.exists("not there")
os.close(descriptor)
"#;

const SEEN: [&str; 17] = [
    "appended",
    "background",
    "child",
    "chmod",
    "empty",
    "exec",
    "mmap",
    "moved",
    "pread",
    "read",
    "removed",
    "reset",
    "sendfile",
    "splice",
    "target",
    "written",
    "unseen",
];

fn ways() -> PathBuf {
    let paths = SEEN.map(|name| format!("seen/{name}"));
    let mut files: Vec<(&str, &str)> = paths
        .iter()
        .map(|path| {
            let content = match path.as_str() {
                "seen/empty" => "",
                "seen/exec" => "#!/bin/true\n",
                _ => "content",
            };
            (path.as_str(), content)
        })
        .collect();
    files.push(("other.txt", "nobody reads this"));
    let app = scripted("ways", WAYS, &files);
    fs::set_permissions(app.join("seen/exec"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("seen/target", app.join("linked")).unwrap();
    give(&app);
    app
}

#[track_caller]
fn sees_all(forge: &Forge) {
    let app = ways();
    let output = forge.run(&["build", &app.display().to_string()]);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("all ways were refused"), "{said}");
    let expected: Vec<String> =
        SEEN.iter().filter(|name| **name != "unseen").map(|name| format!("seen/{name}")).collect();
    assert_eq!(read(forge, &app), expected);
    // What was changed is part of the result, and what was not is not.
    let output = forge.run(&["build", &app.display().to_string(), "--verify-trace"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn every_way_of_reading_is_seen() {
    sees_all(&Forge::new(&warm().0));
    if is_root() {
        let store = folder("chroot-store");
        sees_all(&Forge::new(&store).by_caller().with("FORGE_SANDBOX", "chroot"));
    }
}

/// What a step may do to files of the app besides writing new ones.
const CHANGES: &str = r#"
import os, shutil

os.chdir("/workspace")
os.mkdir("/out")
# Nothing remains of these.
open("touched/new", "w").close()
os.remove("touched/new")
open("opened", "r+").close()
os.chown("owned", 0, 0)
# These are other than they were, or written anew.
open("appended", "a").write("more")
open("same", "w").write("content")
os.chmod("chmod", 0o755)
os.rename("renamed", "moved")
os.remove("removed")
os.remove("folder/removed")
shutil.rmtree("emptied")
shutil.rmtree("replaced")
os.mkdir("replaced")
open("replaced/new", "w").write("new")
shutil.rmtree("made-empty")
os.mkdir("made-empty")
os.symlink("same", "link")
os.link("linked", "other-name")
shutil.move("tree", "moved-tree")
os.remove("becomes")
os.mkdir("becomes")
open("becomes/a", "w").write("a folder now")
shutil.rmtree("turns")
open("turns", "w").write("a file now")
os.utime("dated")
# What it sees of times.
times = {path: int(os.lstat(path).st_mtime) for path in ("folder-a", "folder-a/b", "folder-a/link")}
assert set(times.values()) == {315532801}, times
# A folder goes in one piece.
os.rename("folder-a", "folder-b")
"#;

#[test]
fn the_same_result_however_a_step_is_isolated() {
    let files: Vec<(&str, &str)> = [
        "appended",
        "becomes",
        "chmod",
        "dated",
        "emptied/a",
        "folder/removed",
        "folder/stays",
        "folder-a/b/c",
        "linked",
        "made-empty/a",
        "opened",
        "owned",
        "removed",
        "renamed",
        "replaced/a",
        "replaced/b/c",
        "same",
        "touched/a",
        "tree/a",
        "tree/b/c",
        "turns/a",
    ]
    .map(|path| (path, "content"))
    .into();
    let app = scripted("changes", CHANGES, &files);
    Edit::Link("folder-a/link", "b").apply(&app);
    let forge = Forge::new(&warm().0);
    let digest = forge.build(&app, &[]);
    assert_eq!(forge.build(&app, &["--verify-trace"]), digest);
    if is_root() {
        let forge = Forge::new(&folder("chroot-store")).by_caller().with("FORGE_SANDBOX", "chroot");
        assert_eq!(forge.build(&app, &[]), digest);
        assert_eq!(forge.build(&app, &["--verify-trace"]), digest);
    }
}

/// Where access times are not kept, and no namespace can be made: all files count, and forge
/// says so. What other machines have recorded is of use all the same.
#[test]
fn a_disk_without_access_times() {
    if !need_root() || !have(&["unshare", "mount"]) {
        return;
    }
    let store = folder("noatime-store");
    let mounted = format!(
        "mount --bind {0} {0} && mount -o remount,bind,noatime {0} && exec \"$@\"",
        store.display()
    );
    let forge = Forge::new(&store)
        .by_caller()
        .with("FORGE_SANDBOX", "chroot")
        .under(&["unshare", "--mount", "sh", "-c", &mounted, "sh"]);
    let script =
        "import os\nos.mkdir('/out')\nopen('/out/x', 'w').write(open('/workspace/a').read())\n";
    let app = scripted("blind", script, &[("a", "1"), ("b", "1")]);
    let output = forge.run(&["build", &app.display().to_string()]);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("keeps no access times"), "{said}");
    assert!(ran(&forge.events(&app, &[])).is_empty());
    Edit::Write("b", "2").apply(&app);
    assert_eq!(ran(&forge.events(&app, &[])), ["probe"]);
    assert_eq!(read(&forge, &app), [] as [&str; 0]);
    let doctor = text(&forge.run(&["doctor"]).stdout);
    assert!(doctor.contains("chroot: works, without telling what a step reads"), "{doctor}");
}

/// The one thing that a step can learn of a file without reading it.
#[test]
fn a_step_that_goes_by_a_size_is_found_out() {
    let forge = Forge::new(&warm().0);
    let script = "import os\nos.mkdir('/out')\nopen('/out/x', 'w').write(str(os.path.getsize('/workspace/a')))\n";
    let app = scripted("size", script, &[("a", "1"), ("b", "1")]);
    let write = |content| Edit::Write("a", content).apply(&app);
    let first = forge.build(&app, &[]);
    // Whether there is anything in it is an input.
    write("");
    assert_ne!(forge.build(&app, &[]), first);
    write("22");
    let wrong = forge.build(&app, &[]);
    // Who does not trust recordings does not get what was found by one.
    let right = forge.build(&app, &["--no-trace"]);
    assert_ne!(right, wrong);
    write("333");
    forge.build(&app, &[]);
    assert!(forge.run(&["build", &app.display().to_string(), "--check"]).status.success());

    write("4444");
    forge.build(&app, &[]);
    let output = forge.run(&["build", &app.display().to_string(), "--verify-trace"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("makes something else now: 1 paths differ"), "{said}");
    assert!(said.contains("out/x") && said.contains("--no-trace"), "{said}");
    // From then on all files count.
    let known = forge.build(&app, &[]);
    assert!(forge.run(&["build", &app.display().to_string(), "--check"]).status.success());
    write("55555");
    assert_eq!(ran(&forge.events(&app, &[])), ["probe"]);
    Edit::Write("b", "2").apply(&app);
    assert_eq!(ran(&forge.events(&app, &[])), ["probe"]);
    write("4444");
    Edit::Write("b", "1").apply(&app);
    let events = forge.events(&app, &[]);
    assert!(ran(&events).is_empty() && digest(&events) == known, "{events:?}");
}

/// A machine with nothing profits from what another has recorded.
#[test]
fn recordings_are_shared() {
    if !have(&["docker-registry"]) {
        return;
    }
    let data = folder("traced-registry");
    let port = port();
    let _server = registry_at(&data, port, "");
    let tag = format!("127.0.0.1:{port}/team/logbook:1");
    let push = ["--push", "--tag", &tag];
    let first = checkout("first");
    Forge::new(&warm().0).build(&first, &push);

    let app = checkout("second");
    Edit::Append("journal/views.py", "\n# edited\n").apply(&app);
    let other = Forge::new(&folder("other-store"));
    let events = other.events(&app, &push);
    assert!(ran(&events).is_empty(), "{events:?}");
    let collected = events
        .iter()
        .find(|event| event["event"] == "step_reused" && event["step"] == "collectstatic")
        .unwrap();
    assert_eq!(collected["from"], "cache", "{collected}");
    assert!(collected["reads"]["read"].as_u64() > Some(5), "{collected}");
    // What the second has found it does not write again, and the third finds what it edits.
    Edit::Append("logbook/settings.py", "\n# edited\n").apply(&app);
    let events = other.events(&app, &push);
    assert_eq!(ran(&events), ["collectstatic"]);
    Edit::Append("journal/urls.py", "\n# edited\n").apply(&app);
    let third = Forge::new(&folder("third-store"));
    assert!(ran(&third.events(&app, &push)).is_empty());
    assert_eq!(third.build(&app, &["--verify-trace"]), digest(&third.events(&app, &[])));
}

#[test]
fn why_a_step_ran() {
    let (store, ..) = warm();
    let forge = Forge::new(store);
    let app = checkout("why");
    let why = |step: &str| {
        let output = forge.run(&["why", step, &app.display().to_string()]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = why("collectstatic");
    assert!(code == Some(2) && said.contains("was not built"), "{said}");
    forge.build(&app, &[]);
    let (code, said) = why("collectstatic");
    assert!(code == Some(0) && said.contains("has not run for this folder"), "{said}");
    Edit::Append("static/css/logbook.css", "\n/* edited for why */\n").apply(&app);
    forge.build(&app, &[]);
    let (code, said) = why("collectstatic");
    assert!(
        code == Some(0) && said.contains("because\n  static/css/logbook.css has changed"),
        "{said}"
    );
    assert!(said.contains("nothing that counts has changed since"), "{said}");

    Edit::Append("static/js/logbook.js", "\n/* edited for why */\n").apply(&app);
    Edit::Append("journal/views.py", "\n# edited\n").apply(&app);
    let (_, said) = why("collectstatic");
    assert!(said.contains("known, because\n  static/js/logbook.js has changed\n"), "{said}");
    assert!(!said.contains("views.py"), "{said}");
    let output = forge.run(&["build", &app.display().to_string(), "--progress", "plain"]);
    let said = text(&output.stderr);
    assert!(said.contains("collectstatic      runs: static/js/logbook.js has changed"), "{said}");
    let (_, said) = why("collectstatic");
    assert!(said.contains("ran last because\n  static/js/logbook.js has changed\n"), "{said}");

    Edit::Append("requirements.txt", "# edited for why\n").apply(&app);
    let (_, said) = why("collectstatic");
    assert!(said.contains("if what these give is not what it was"), "{said}");
    let (code, said) = why("collect");
    assert!(code == Some(2) && said.contains("these run: base, "), "{said}");
}

/// A step that does what files tell it to do, and writes down all that it learns.
const INTERPRETER: &str = r#"
import os

learnt, seen = [], set()

def act(path, depth):
    if depth > 6 or path in seen:
        return
    seen.add(path)
    try:
        text = open(path).read()
    except (OSError, ValueError) as error:
        learnt.append(f"{path}: {type(error).__name__}")
        return
    learnt.append(f"{path} = {text}")
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        try:
            obey(word, os.path.normpath(os.path.join("/workspace", rest)), depth)
        except OSError as error:
            learnt.append(f"{line}: {error}")

def obey(word, target, depth):
    if word == "include":
        act(target, depth + 1)
    elif word == "list":
        learnt.append(f"{target}: {sorted(os.listdir(target)) if os.path.isdir(target) else None}")
    elif word == "all" and os.path.isdir(target):
        for name in sorted(os.listdir(target)):
            if os.path.isfile(f"{target}/{name}"):
                act(f"{target}/{name}", depth + 1)
    elif word == "there":
        learnt.append(f"{target}: {os.path.exists(target)}")
    elif word == "mode":
        learnt.append(f"{target}: {oct(os.lstat(target).st_mode) if os.path.lexists(target) else None}")
    elif word == "link":
        learnt.append(f"{target}: {os.readlink(target) if os.path.islink(target) else None}")
    elif word == "remove" and os.path.isfile(target) and target != "/workspace/main":
        os.remove(target)
    elif word == "write" and not os.path.isdir(target) and os.path.isdir(os.path.dirname(target)):
        open(target, "a").write("written\n")

act("/workspace/main", 0)
os.mkdir("/out")
open("/out/learnt", "w").write("\n".join(learnt))
"#;

/// Numbers that look random and are the same each time (Vigna's splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }

    fn path(&mut self) -> String {
        let folder = ["", "a/", "b/"][self.below(3)];
        format!("{folder}{}", self.below(5))
    }

    fn program(&mut self) -> String {
        let words = ["include", "include", "include", "there", "mode", "link", "remove", "write"];
        let mut text = String::new();
        for _ in 0..self.below(4) {
            let line = match self.below(5) {
                0 => format!("{} {}\n", ["list", "all"][self.below(2)], ["a", "b"][self.below(2)]),
                _ => format!("{} {}\n", words[self.below(words.len())], self.path()),
            };
            text.push_str(&line);
        }
        format!("{text}{}\n", self.below(1000))
    }

    /// Changes one thing.
    fn edit(&mut self, app: &Path) {
        let path = app.join(self.path());
        let there = path.is_file() && !path.is_symlink();
        match self.below(10) {
            0 if path.symlink_metadata().is_ok() => fs::remove_file(&path).unwrap(),
            1 if there => {
                let mode = [0o644, 0o755][self.below(2)];
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            2 => {
                if path.symlink_metadata().is_ok() {
                    fs::remove_file(&path).unwrap();
                }
                symlink(["0", "1", "../a/0", "../b/1"][self.below(4)], &path).unwrap();
            }
            3 => {
                let to = app.join(self.path());
                if path.symlink_metadata().is_ok() && !to.is_dir() {
                    fs::rename(&path, to).unwrap();
                }
            }
            4 => {
                let main = format!("{}include 0\nall a\n", self.program());
                fs::write(app.join("main"), main).unwrap();
            }
            _ => {
                if path.is_symlink() {
                    fs::remove_file(&path).unwrap();
                }
                fs::write(&path, self.program()).unwrap();
            }
        }
        give(app);
    }
}

/// Random edits of files that tell a step what to read: what is reused is always what a run
/// on all files makes. `FORGE_TEST_ROUNDS` says how many.
#[test]
fn random_edits() {
    let rounds = std::env::var("FORGE_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: usize = rounds.unwrap_or(120);
    let forge = Forge::new(&warm().0);
    let app = scripted("random", INTERPRETER, &[("main", "include 0\nall a\n")]);
    for name in ["a", "b"] {
        fs::create_dir(app.join(name)).unwrap();
    }
    let mut dice = Dice(20);
    for _ in 0..15 {
        dice.edit(&app);
    }
    forge.build(&app, &[]);
    let (mut hits, mut reruns) = (0, 0);
    for round in 0..rounds {
        dice.edit(&app);
        let events = forge.events(&app, &[]);
        if ran(&events).is_empty() {
            hits += 1
        } else {
            reruns += 1
        }
        let verified = forge.events(&app, &["--verify-trace"]);
        assert_eq!(digest(&verified), digest(&events), "round {round}: {verified:?}");
        assert_eq!(ran(&verified), ["probe"], "round {round}");
    }
    println!("{hits} reused, {reruns} ran");
    assert!(hits > rounds / 10 && reruns > rounds / 4, "{hits} reused, {reruns} ran");
}
