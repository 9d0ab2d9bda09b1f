//! The main job: an ordinary user's build becomes a running container.

use std::process::Command;

use rustix::process::Signal;

use crate::support::{
    Docker, Forge, Postgres, Server, app, folder, get, have, need_root, ok, port, text, wait, warm,
    warm_lock,
};

#[test]
fn a_django_app_from_source_to_a_running_container() {
    if !have(&["dockerd", "docker", "runc", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, digest) = warm();
    let forge = Forge::new(store);
    let out = folder("out");
    let archive = format!("docker-archive:{}/image.tar", out.display());
    let again = forge.build(app, &["--tag", "localhost:5000/logbook:v1", "--output", &archive]);
    assert_eq!(&again, digest);

    let (docker, postgres) = (Docker::start(), Postgres::start());
    let loaded = docker.ok(&["load", "-i", &format!("{}/image.tar", out.display())]);
    assert_eq!(loaded, "Loaded image: localhost:5000/logbook:v1");
    let web_port = port();
    let url = format!("DATABASE_URL={}", postgres.url);
    let port_variable = format!("PORT={web_port}");
    let common = ["--network=host", "-e", &url, "-e", "SECRET_KEY=test", "-e", &port_variable];
    let image = "localhost:5000/logbook:v1";
    let run = |before: &[&str], after: &[&str]| {
        let words: Vec<&str> = ["run"]
            .iter()
            .chain(before)
            .chain(&common)
            .chain(&[image])
            .chain(after)
            .copied()
            .collect();
        docker.ok(&words)
    };

    // A command, before anything is served.
    let migrated = run(&["--rm"], &["python", "manage.py", "migrate"]);
    assert!(migrated.contains("Applying journal.0001_initial... OK"), "{migrated}");

    let web = run(&["-d"], &[]);
    wait("the web process' answer", || {
        get(web_port, "/up").is_some_and(|(head, _)| head.contains(" 200 "))
    });
    let migrated =
        docker.ok(&["exec", &web, "forge", "launcher", "python", "manage.py", "migrate"]);
    assert!(migrated.contains("No migrations to apply."), "{migrated}");
    let seeded = docker.ok(&[
        "exec",
        &web,
        "/cnb/lifecycle/launcher",
        "python",
        "manage.py",
        "seed_journal",
    ]);
    assert!(seeded.starts_with("seeded: 2 journals"), "{seeded}");
    assert_eq!(docker.ok(&["exec", &web, "id", "-u"]), "1000");

    let (head, page) = get(web_port, "/").unwrap();
    let page = text(&page);
    assert!(head.contains(" 200 ") && page.contains("<h1>Journals</h1>"), "{head}\n{page}");
    // A static file under its hashed name, with the far-future header that only
    // such names get.
    let start = page.find("/static/css/").unwrap();
    let name = &page[start..start + page[start..].find('"').unwrap()];
    assert_ne!(name, "/static/css/logbook.css");
    let (head, style) = get(web_port, name).unwrap();
    assert!(head.contains(" 200 ") && head.to_lowercase().contains("immutable"), "{head}");
    assert!(text(&style).contains("url("), "the stylesheet is not the example's");

    // SIGTERM reaches the app itself, which is process 1, and nothing is left.
    docker.ok(&["stop", "--time", "20", &web]);
    let state =
        docker.ok(&["inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", &web]);
    assert_eq!(state, "0 false");
    let worker = run(&["-d"], &["worker"]);
    wait("the worker's start", || {
        let logs = docker.command(&["logs", &worker]).output().unwrap();
        (text(&logs.stdout) + &text(&logs.stderr)).contains("worker 1 started")
    });
    // The worker is process 1 and alone: no shell or launcher stays above it.
    let top = docker.ok(&["top", &worker, "-o", "pid,args"]);
    assert!(top.contains("manage.py work") && top.lines().count() == 2, "{top}");
    docker.ok(&["stop", "--time", "20", &worker]);
    assert_eq!(docker.ok(&["inspect", "--format", "{{.State.ExitCode}}", &worker]), "0");
}

#[test]
fn inside_a_container_without_namespaces() {
    if !have(&["dockerd", "docker", "runc", "setpriv"]) || !need_root() {
        return;
    }
    let (store, example, _) = warm();
    let (docker, out) = (Docker::start(), folder("out"));
    let archive = format!("docker-archive:{}/image.tar", out.display());
    Forge::new(store).build(example, &["--tag", "localhost:5000/host:v1", "--output", &archive]);
    docker.ok(&["load", "-q", "-i", &format!("{}/image.tar", out.display())]);
    let buildpack = "name = \"own\"\nabout = \"own\"\npriority = 99\nmatch = [\"procfile.web\"]\nlooks_for = \"\"\n\
         [[base]]\nrelease = \"trixie\"\n[[packages]]\nbase = [\"ca-certificates\", \"libstdc++6\", \"python3\", \"tzdata\"]\n\
         [[step]]\nname = \"one\"\nabout = \"\"\nroot = [\"base\"]\noutputs = [\"out\"]\nin_image = true\n\
         command = [\"sh\", \"-c\", \"mkdir /out; python3 -c 'print(1)' > /out/x; rm -r /usr/share/zoneinfo\"]\n";
    let app = app("pod", &[("Procfile", "web: true\n"), (".forge/buildpacks/own.toml", buildpack)]);
    warm_lock(&app);
    let expected = Forge::new(store).build(&app, &[]);
    // A CI pod: root, in docker's default confinement. The mirrors and certificates
    // are this machine's.
    let volume = |path: &str| format!("{path}:{path}:ro");
    let (sources, certificates) = (volume("/etc/apt/sources.list.d"), volume("/etc/ssl/certs"));
    let forge = format!("{}/forge:/forge:ro", crate::support::bench().display());
    let app_volume = format!("{}:/app", app.display());
    let run = |arguments: &[&str]| {
        let before = [
            "run",
            "--rm",
            "--network=host",
            "-u",
            "0",
            "-e",
            "HOME=/root",
            "-v",
            &forge,
            "-v",
            &app_volume,
            "-v",
            &sources,
            "-v",
            &certificates,
            "--entrypoint",
            "/forge",
            "localhost:5000/host:v1",
            "--store",
            "/store",
        ];
        docker.ok(&before.iter().chain(arguments).copied().collect::<Vec<_>>())
    };
    let doctor = run(&["doctor"]);
    assert!(
        doctor.contains("namespaces: could not") && doctor.contains("chroot: works, and is used"),
        "{doctor}"
    );
    assert_eq!(run(&["--progress", "none", "build", "/app"]), expected);
}

#[test]
fn forge_run_needs_no_docker() {
    if !have(&["setpriv"]) || !need_root() {
        return;
    }
    let (store, app, _) = warm();
    let postgres = Postgres::start();
    let forge = Forge::new(store);
    let app = app.display().to_string();
    let url = format!("DATABASE_URL={}", postgres.url);
    let output = forge.run(&[
        "run",
        &app,
        "-e",
        &url,
        "-e",
        "SECRET_KEY=x",
        "--",
        "python",
        "manage.py",
        "migrate",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Applying journal.0001_initial... OK"));

    // The exit status is the command's own.
    let output = forge.run(&["run", &app, "--", "sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    let output = forge.run(&["run", &app, "--", "nosuch"]);
    assert_eq!(output.status.code(), Some(127), "{}", text(&output.stderr));

    // A server that is asked to end does so by itself.
    let web_port = port();
    let port_variable = format!("PORT={web_port}");
    let mut server = Server::start(&mut forge.command(&[
        "run",
        &app,
        "-e",
        &url,
        "-e",
        "SECRET_KEY=x",
        "-e",
        &port_variable,
        "--",
        "web",
    ]));
    wait("the web process' answer", || {
        get(web_port, "/up").is_some_and(|(head, _)| head.contains(" 200 "))
    });
    let children = || {
        ok(Command::new("ps").args(["-e", "-o", "args"])).matches("gunicorn logbook.wsgi").count()
    };
    assert!(children() > 0);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(get(web_port, "/up").is_none());
}
