//! What a step may not do, tried from inside one, in each way of isolation.

use std::path::Path;

use crate::support::{Forge, app, folder, have, is_root, need_root, shared, text, warm, warm_lock};

/// Builds an app whose one step runs `script`; the whole output comes back.
fn step(forge: &Forge, script: &str, files: &[(&str, &str)]) -> (bool, String) {
    let buildpack = "name = \"own\"\nabout = \"own\"\npriority = 99\nmatch = [\"procfile.web\"]\nlooks_for = \"\"\n\
         [[base]]\nrelease = \"trixie\"\n[[packages]]\nbase = [\"ca-certificates\", \"libstdc++6\", \"python3\", \"tzdata\"]\n\
         [[step]]\nname = \"probe\"\nabout = \"\"\nroot = [\"base\"]\nsource = [\"given.txt\"]\noutputs = [\"out\"]\nin_image = true\n\
         command = [\"python3\", \"/forge/probe.py\"]\nfiles = [\"probe.py\"]\n";
    let mut all = vec![
        ("Procfile", "web: true\n"),
        (".forge/buildpacks/own.toml", buildpack),
        (".forge/buildpacks/own/probe.py", script),
        ("given.txt", "given"),
        ("hidden.txt", "hidden"),
    ];
    all.extend(files);
    let app = app("probe", &all);
    warm_lock(&app);
    let output =
        forge.run(&["build", &app.display().to_string(), "--verbose", "--progress", "plain"]);
    (output.status.success(), text(&output.stderr))
}

/// Runs the script in every way that this machine has; it must end well.
#[track_caller]
fn holds(script: &str) {
    let script =
        format!("import os, sys, socket, ctypes, subprocess\nos.mkdir('/out')\n{script}\n");
    let (good, output) = step(&Forge::new(&warm().0), &script, &[]);
    assert!(good, "in namespaces:\n{output}");
    if is_root() {
        let forge = Forge::new(&chroot_store()).by_caller().with("FORGE_SANDBOX", "chroot");
        let (good, output) = step(&forge, &script, &[]);
        assert!(good, "in a chroot:\n{output}");
    }
}

fn chroot_store() -> std::path::PathBuf {
    static STORE: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    STORE.get_or_init(|| shared(|| folder("chroot-store"))).clone()
}

#[test]
fn no_network() {
    holds(
        "for family, address in ((socket.AF_INET, ('192.0.2.1', 80)), (socket.AF_INET6, ('2001:db8::1', 80))):\n\
         \x20   try:\n\
         \x20       socket.socket(family).connect(address)\n\
         \x20       sys.exit('connected')\n\
         \x20   except OSError as error:\n\
         \x20       assert error.errno in (101, 99, 97, 93), error",
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    holds(&format!(
        "try:\n    socket.create_connection(('127.0.0.1', {port}), timeout=5)\n    sys.exit('reached the host')\nexcept OSError:\n    pass"
    ));
}

#[test]
fn only_declared_files() {
    holds(
        "assert open('/workspace/given.txt').read() == 'given'\n\
         assert os.listdir('/workspace') == ['given.txt'], os.listdir('/workspace')\n\
         for path in ('/home/user', '/root/.ssh', '/var/run/docker.sock', '/var/run/postgresql'):\n\
         \x20   assert not os.path.exists(path), path\n\
         assert set(os.environ) <= {'HOME','LANG','LC_ALL','PATH','SOURCE_DATE_EPOCH','TERM','TMPDIR','TZ','USER','LC_CTYPE'}, os.environ\n\
         assert set(os.listdir('/proc/self/fd') if os.path.isdir('/proc/self') else []) <= {'0','1','2','3'}",
    );
}

#[test]
fn an_undeclared_file_is_named() {
    let (good, output) = step(&Forge::new(&warm().0), "open('/workspace/hidden.txt')", &[]);
    assert!(!good);
    assert!(
        output.contains("the app has `hidden.txt`, but step `probe` is not given it"),
        "{output}"
    );
    let (good, output) = step(
        &Forge::new(&warm().0),
        "import socket\nsocket.getaddrinfo('registry.example', 443)",
        &[],
    );
    assert!(!good);
    assert!(output.contains("step `probe` runs without network"), "{output}");
}

#[test]
fn nothing_changes_outside() {
    holds(
        "assert os.getuid() == 0 and os.getpid() < 100000\n\
         for path in ('/workspace/given.txt', '/usr/bin/python3'):\n\
         \x20   os.chown(path, 12, 34)\n\
         open('/workspace/given.txt', 'a').write('changed')",
    );
    // The store's copies are what they were.
    let output = Forge::new(&warm().0).run(&["store", "verify"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn no_terminal_tricks_and_no_new_privileges() {
    holds(
        "import fcntl\n\
         for request in (0x5412, 0x541C, 0x100005412):\n\
         \x20   libc = ctypes.CDLL(None, use_errno=True)\n\
         \x20   result = libc.ioctl(0, ctypes.c_ulong(request), b'x')\n\
         \x20   assert result == -1 and ctypes.get_errno() == 1, (request, result, ctypes.get_errno())\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         assert libc.unshare(0x10000000) == -1 and ctypes.get_errno() == 1\n\
         assert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == -1 and ctypes.get_errno() == 1\n\
         assert libc.syscall(250, 0, -3, 0) == -1 and ctypes.get_errno() == 1",
    );
}

#[test]
fn the_machine_is_out_of_reach() {
    holds(
        "libc = ctypes.CDLL(None, use_errno=True)\n\
         assert libc.chroot(b'/tmp') == -1 and ctypes.get_errno() == 1\n\
         assert libc.ptrace(16, 1, 0, 0) == -1 and ctypes.get_errno() == 1\n\
         assert libc.syscall(435, 0, 0) == -1 and ctypes.get_errno() == 38\n\
         assert libc.syscall(425, 1, 0) == -1 and ctypes.get_errno() == 1\n\
         for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches', '/proc/sysrq-trigger'):\n\
         \x20   try:\n\
         \x20       open(path, 'r+')\n\
         \x20       sys.exit('opened ' + path)\n\
         \x20   except OSError:\n\
         \x20       pass\n\
         for path in ('/proc/1/exe', '/proc/1/fd', '/proc/1/environ'):\n\
         \x20   try:\n\
         \x20       os.stat(path + '/.') if path.endswith('fd') else open(path)\n\
         \x20       sys.exit('reached ' + path) if not path.endswith('fd') or os.listdir(path) else None\n\
         \x20   except OSError:\n\
         \x20       pass\n\
         if os.path.exists('/proc/self/status'):\n\
         \x20   for line in open('/proc/self/status'):\n\
         \x20       if line.startswith('CapEff'):\n\
         \x20           assert int(line.split()[1], 16) & ~0xdf == 0, line",
    );
}

#[test]
fn an_output_behind_a_link_is_not_followed() {
    let secret = folder("outside");
    std::fs::write(secret.join("secret"), "of the host").unwrap();
    let buildpack = format!(
        "name = \"own\"\nabout = \"own\"\npriority = 99\nmatch = [\"procfile.web\"]\nlooks_for = \"\"\n\
         [[base]]\nrelease = \"trixie\"\n[[packages]]\nbase = [\"ca-certificates\", \"libstdc++6\", \"python3\", \"tzdata\"]\n\
         [[step]]\nname = \"probe\"\nabout = \"\"\nroot = [\"base\"]\noutputs = [\"x/secret\"]\nin_image = true\n\
         command = [\"ln\", \"-s\", \"{}\", \"/x\"]\n",
        secret.display()
    );
    let app =
        app("probe", &[("Procfile", "web: true\n"), (".forge/buildpacks/own.toml", &buildpack)]);
    warm_lock(&app);
    let output = Forge::new(&warm().0).run(&["build", &app.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("did not make its output `/x/secret`"),
        "{}",
        text(&output.stderr)
    );
    assert!(secret.join("secret").exists());
}

#[test]
fn what_a_step_leaves_running_ends() {
    let marker = folder("marker");
    let script = "if os.fork() == 0:\n    os.setsid()\n    for fd in range(3):\n        os.close(fd)\n    os.execvp('sleep', ['sleep', '987654'])";
    holds(script);
    let list = crate::support::ok(std::process::Command::new("ps").args(["-e", "-o", "args"]));
    assert!(!list.contains("sleep 987654"), "{list}");
    assert!(Path::new(&marker).exists());
}

#[test]
fn devices_and_pipes_are_no_output() {
    let (good, output) =
        step(&Forge::new(&warm().0), "import os\nos.mkdir('/out')\nos.mkfifo('/out/pipe')", &[]);
    assert!(!good && output.contains("is a pipe"), "{output}");
    let (good, output) = step(&Forge::new(&warm().0), "pass", &[]);
    assert!(!good && output.contains("did not make its output `/out`"), "{output}");
}

#[test]
fn a_machine_without_namespaces() {
    if !have(&["unshare"]) || !need_root() {
        return;
    }
    // No namespaces may be made below this one, and as nobody is root there is
    // no chroot either.
    let forge = Forge::new(&folder("store")).under(&[
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"",
        "sh",
    ]);
    let doctor = forge.run(&["doctor"]);
    let output = text(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(5), "{output}{}", text(&doctor.stderr));
    assert!(
        output.contains("unshare (user namespaces)") && output.contains("max_user_namespaces"),
        "{output}"
    );
    let (_, app, _) = warm();
    let build = forge.run(&["build", &app.display().to_string()]);
    assert_eq!(build.status.code(), Some(5), "{}", text(&build.stderr));
    assert!(text(&build.stderr).contains("forge doctor"));
}
