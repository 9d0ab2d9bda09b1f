//! Entrypoint scripts that became configuration (`examples/entrypoints`), in real containers
//! with a real database, nginx and Redis.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::gems;
use crate::support::{
    Docker, Forge, Postgres, Redis, Server, checkout, copy, folder, get, give, have, need_root,
    port, text, wait, warm,
};

/// Files of `examples/entrypoints/<name>` over an app.
fn overlay(name: &str, app: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/entrypoints").join(name);
    copy(&from, app);
    give(app);
}

/// nginx on the loopback that serves `root` at `/static/`.
fn nginx(root: &Path) -> (Server, u16) {
    let (home, port) = (folder("nginx"), port());
    let at = |name: &str| home.join(name).display().to_string();
    let config = format!(
        "daemon off; pid {}; error_log {} warn; events {{}}\nhttp {{ access_log off; types {{ text/css css; }}\n\
         client_body_temp_path {}; proxy_temp_path {}; fastcgi_temp_path {}; uwsgi_temp_path {}; scgi_temp_path {};\n\
         server {{ listen 127.0.0.1:{port}; location /static/ {{ alias {}/; }} }} }}\n",
        at("pid"),
        at("error.log"),
        at("a"),
        at("b"),
        at("c"),
        at("d"),
        at("e"),
        root.display(),
    );
    fs::write(home.join("nginx.conf"), config).unwrap();
    let server = Server::start(
        Command::new("/usr/sbin/nginx").args(["-c", &at("nginx.conf")]).stderr(Stdio::null()),
    );
    wait("nginx' start", || get(port, "/").is_some());
    (server, port)
}

/// Everything that a container has printed.
fn logs(docker: &Docker, container: &str) -> String {
    let output = docker.command(&["logs", container]).output().unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

/// Waits until the app answers; when it never does, its words tell why.
#[track_caller]
fn answers(docker: &Docker, container: &str, port: u16) {
    let started = Instant::now();
    while !get(port, "/up").is_some_and(|(head, _)| head.contains(" 200 ")) {
        assert!(started.elapsed() < Duration::from_secs(60), "{}", logs(docker, container));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_django_entrypoint() {
    if !have(&["dockerd", "docker", "runc", "setpriv", "nginx"]) || !need_root() {
        return;
    }
    let app = checkout("entrypoint");
    overlay("django", &app);
    let more = fs::read_to_string(app.join("requirements.newrelic.txt")).unwrap();
    let requirements = app.join("requirements.txt");
    fs::write(&requirements, fs::read_to_string(&requirements).unwrap() + &more).unwrap();
    give(&app);
    let (docker, postgres) = (Docker::start(), Postgres::start());
    let output = format!("docker-daemon:{}", docker.socket.strip_prefix("unix://").unwrap());
    docker.open_to_all();
    Forge::new(&warm().0).build(&app, &["--tag", "site:v1", "--output", &output]);

    let volume = folder("volume");
    fs::write(volume.join("uploaded.txt"), "by a user").unwrap();
    // The user of the image.
    std::os::unix::fs::chown(&volume, Some(1000), Some(1000)).unwrap();
    let web_port = port();
    let mount = format!("{}:/srv/static", volume.display());
    let variables = [
        format!("DATABASE_URL={}", postgres.url),
        "SECRET_KEY=test".to_owned(),
        format!("PORT={web_port}"),
        "DJANGO_SUPERUSER_USERNAME=ada".to_owned(),
        "DJANGO_SUPERUSER_PASSWORD=lovelace".to_owned(),
    ];
    let run = |before: &[&str], after: &[&str]| -> String {
        let mut words = vec!["run", "--network=host", "-v", &mount];
        words.extend(before);
        for variable in &variables {
            words.extend(["-e", variable]);
        }
        words.push("site:v1");
        words.extend(after);
        docker.ok(&words)
    };

    // Listening is not ready: the port is open, and PostgreSQL says nothing.
    postgres.server.signal(Signal::STOP);
    let web = run(&["-d"], &[]);
    wait("a word on what is waited for", || logs(&docker, &web).contains("DATABASE_URL"));
    assert!(!logs(&docker, &web).contains("Applying"), "{}", logs(&docker, &web));
    postgres.server.signal(Signal::CONT);
    answers(&docker, &web, web_port);
    let said = logs(&docker, &web);
    for expected in ["Applying journal.0001_initial... OK", "made the account ada"] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!said.contains("lovelace"), "{said}");

    // The launcher is process 1; under it, wrapped, gunicorn.
    let tree = docker.ok(&["top", &web, "-eo", "pid,args"]);
    let first = docker.ok(&["exec", &web, "cat", "/proc/1/cmdline"]);
    assert!(first.contains("launcher") && tree.contains("gunicorn"), "{first}\n{tree}");

    // nginx has the files that the page names, next to what was there.
    let (_, page) = get(web_port, "/").unwrap();
    let page = text(&page);
    let start = page.find("/static/css/").unwrap();
    let name = &page[start..start + page[start..].find('"').unwrap()];
    let (_nginx, nginx_port) = nginx(&volume);
    let (head, style) = get(nginx_port, name).unwrap();
    assert!(head.contains(" 200 ") && text(&style).contains("url("), "{head}");
    assert_eq!(fs::read_to_string(volume.join("uploaded.txt")).unwrap(), "by a user");

    // A second start finds everything done.
    let started = Instant::now();
    docker.ok(&["stop", "--time", "30", &web]);
    assert!(started.elapsed() < Duration::from_secs(15), "it took {:?}", started.elapsed());
    let status = docker.ok(&["inspect", "--format", "{{.State.ExitCode}}", &web]);
    assert!(["0", "143"].contains(&status.as_str()), "{status}");
    let again = run(&["-d"], &[]);
    answers(&docker, &again, web_port);
    let said = logs(&docker, &again);
    assert!(said.contains("No migrations to apply") && said.contains("ada is there"), "{said}");
    docker.ok(&["stop", "--time", "30", &again]);

    // What is missing, all of it, before anything else; a command that fails stops the start.
    let fails = |more: &[&str], after: &[&str], code: i32, expected: &[&str]| {
        let words = [&["run", "--rm", "--network=host"], more, &["site:v1"], after].concat();
        let run = docker.command(&words).output().unwrap();
        let said = text(&run.stderr) + &text(&run.stdout);
        assert_eq!(run.status.code(), Some(code), "{said}");
        for expected in expected {
            assert!(said.contains(expected), "{said}");
        }
    };
    fails(&[], &[], 82, &["DATABASE_URL", "SECRET_KEY"]);
    let nobody = format!("DATABASE_URL=postgres://forge:hidden@127.0.0.1:{}/x", port());
    let short = ["-e", &nobody, "-e", "SECRET_KEY=x"];
    // Of a process that waits for nothing, nothing is waited for.
    fails(&short, &["release"], 1, &["onnection"]);
}

#[test]
fn a_rails_entrypoint() {
    if !have(&["dockerd", "docker", "runc", "redis-server"]) || !need_root() || !gems::can() {
        return;
    }
    let app = gems::seedswap("entrypoint-rails");
    overlay("rails", &app);
    let (docker, postgres, redis) = (Docker::start(), Postgres::start(), Redis::start());
    let archive = folder("rails-image").join("image.tar");
    let output = format!("docker-archive:{}", archive.display());
    gems::forge(&gems::warm().store).build(&app, &["--tag", "seeds:v1", "--output", &output]);
    docker.ok(&["load", "-q", "-i", &archive.display().to_string()]);
    let web_port = port();
    let variables: Vec<String> = vec![
        format!("DATABASE_URL={}", postgres.url),
        format!("REDIS_URL={}", redis.url),
        format!("SECRET_KEY_BASE={}", "0123456789abcdef".repeat(8)),
        format!("PORT={web_port}"),
    ];
    let run = |after: &[&str]| -> String {
        let mut words = vec!["run", "-d", "--network=host"];
        for variable in &variables {
            words.extend(["-e", variable]);
        }
        words.push("seeds:v1");
        words.extend(after);
        docker.ok(&words)
    };
    // Both in one container, the database made ready first.
    let both = run(&["--all", "web", "worker"]);
    answers(&docker, &both, web_port);
    wait("Sidekiq", || logs(&docker, &both).contains("worker"));
    let started = Instant::now();
    docker.ok(&["stop", "--time", "30", &both]);
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());

    // Puma under the launcher's init ends each time that it is asked to.
    for _ in 0..5 {
        let web = run(&[]);
        answers(&docker, &web, web_port);
        let started = Instant::now();
        docker.ok(&["stop", "--time", "30", &web]);
        assert!(started.elapsed() < Duration::from_secs(15), "it took {:?}", started.elapsed());
        let status = docker.ok(&["inspect", "--format", "{{.State.ExitCode}}", &web]);
        assert!(["0", "143"].contains(&status.as_str()), "{status}\n{}", logs(&docker, &web));
    }
}
