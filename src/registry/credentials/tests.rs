//! Whose entry counts, and what helpers can do wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::*;

/// A home folder with these files, and these variables; `HOME` in both stands for it.
struct Home {
    folder: tempfile::TempDir,
    variables: BTreeMap<String, String>,
}

impl Home {
    fn new(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Home {
        let folder = tempfile::tempdir().expect("a folder");
        let here = |text: &str| text.replace("HOME", &folder.path().display().to_string());
        let path = format!("{}/bin:/usr/bin:/bin", folder.path().display());
        let variables = [("PATH", path.as_str())]
            .iter()
            .chain(variables)
            .map(|(name, value)| ((*name).to_owned(), here(value)))
            .collect();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("make");
            // By another process: a thread that forks meanwhile would keep a file busy that this
            // one has open, and a helper could not be started.
            let aside = path.with_extension("aside");
            fs::write(&aside, here(text)).expect("write");
            let copied = std::process::Command::new("/bin/cp").args([&aside, &path]).status();
            assert!(copied.expect("cp runs").success());
            fs::remove_file(&aside).expect("remove");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        }
        Home { folder, variables }
    }

    fn credentials(&self) -> Result<Credentials, RegistryError> {
        let read = Credentials::read(&self.variables, Some(self.folder.path()))?;
        Ok(Credentials { patience: Duration::from_secs(2), ..read })
    }

    fn of(&self, name: &str) -> Result<String, String> {
        let (host, repository) = name.split_once('/').expect("a repository");
        let login = self.credentials().and_then(|credentials| credentials.of(host, repository));
        login.map(|login| words(&login)).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(&self, name: &str, expected: &str) {
        assert_eq!(self.of(name).as_deref(), Ok(expected), "{name}");
    }

    /// It fails, says this, and shows no secret.
    #[track_caller]
    fn fails(&self, name: &str, expected: &str) {
        let found = self.of(name).expect_err("fails");
        assert!(found.contains(expected) && !found.contains("SECRET"), "{found}");
    }
}

fn words(login: &Login) -> String {
    match login {
        Login::Nobody => "nobody".to_owned(),
        Login::Password { user, password } => format!("{user}:{password}"),
        Login::Identity(token) => format!("identity {token}"),
        Login::Token(token) => format!("token {token}"),
    }
}

const CONFIG: &str = ".docker/config.json";

#[test]
fn the_longest_path_counts() {
    // user:pass, team:word, hub:secret, <token>:refresh, padded
    let home = Home::new(
        &[(
            CONFIG,
            r#"{"auths":{
            "registry.example:5000":{"auth":"dXNlcjpwYXNz"},
            "registry.example:5000/team":{"auth":"dGVhbTp3b3Jk"},
            "registry.example:5000/team/deep/er":{"username":"plain","password":"pw"},
            "https://index.docker.io/v1/":{"auth":"aHViOnNlY3JldA=="},
            "https://old.example/v1/":{"auth":"dXNlcjpwYXNz"},
            "identity.example":{"auth":"dXNlcjo=","identitytoken":"refresh"},
            "token.example":{"auth":"PHRva2VuPjpyZWZyZXNo"},
            "direct.example":{"registrytoken":"direct"},
            "padded.example":{"auth":"dXNlcjpwYXNzAA=="},
            "broken.example":{"auth":"*SECRET*"},
            "empty.example":{}
        },"HttpHeaders":{"X":"y"}}"#,
        )],
        &[],
    );
    home.check("registry.example:5000/app", "user:pass");
    home.check("registry.example:5000/team/app", "team:word");
    home.check("registry.example:5000/team", "team:word");
    home.check("registry.example:5000/teams/app", "user:pass");
    home.check("registry.example:5000/team/deep/er/app", "plain:pw");
    home.check("registry.example/app", "nobody");
    home.check("docker.io/library/app", "hub:secret");
    home.check("old.example/app", "user:pass");
    home.check("identity.example/app", "identity refresh");
    home.check("token.example/app", "identity refresh");
    home.check("direct.example/app", "token direct");
    home.check("padded.example/app", "user:pass");
    home.check("other.example/app", "nobody");
    home.check("empty.example/app", "nobody");
    home.fails("broken.example/a", "config.json`: the entry `broken.example` is not user");
}

#[test]
fn files_in_their_order() {
    let entry = |user: &str| format!(r#"{{"auths":{{"r.example":{{"username":"{user}"}}}}}}"#);
    let (named, docker, run, config) =
        (entry("named"), entry("docker"), entry("run"), entry("config"));
    let files = [
        (
            "config/containers/auth.json",
            config.as_str(),
            ("XDG_CONFIG_HOME", "HOME/config"),
            "config:",
        ),
        ("run/containers/auth.json", &run, ("XDG_RUNTIME_DIR", "HOME/run"), "run:"),
        ("docker/config.json", &docker, ("DOCKER_CONFIG", "HOME/docker"), "docker:"),
        ("named.json", &named, ("REGISTRY_AUTH_FILE", "HOME/named.json"), "named:"),
        ("unused", "", ("CNB_REGISTRY_AUTH", r#"{"r.example":"Basic Y25iOnB3"}"#), "cnb:pw"),
    ];
    for count in 1..=files.len() {
        let some = &files[..count];
        let contents: Vec<(&str, &str)> = some.iter().map(|file| (file.0, file.1)).collect();
        let variables: Vec<(&str, &str)> = some.iter().map(|file| file.2).collect();
        Home::new(&contents, &variables).check("r.example/a", some[count - 1].3);
    }
    // Where nothing is said, in the home folder.
    Home::new(&[(CONFIG, &docker)], &[]).check("r.example/a", "docker:");
    Home::new(&[(".config/containers/auth.json", &run)], &[]).check("r.example/a", "run:");
    // A file without the registry does not hide the next one.
    Home::new(&[(CONFIG, "{}"), (".config/containers/auth.json", &run)], &[])
        .check("r.example/a", "run:");
    let gone = Home::new(&[], &[("REGISTRY_AUTH_FILE", "HOME/gone.json")]);
    gone.fails("r.example/a", "REGISTRY_AUTH_FILE names it");
    Home::new(&[(CONFIG, "{\"auths\": SECRET")], &[]).fails("r.example/a", "line 1, column");
}

#[test]
fn headers_of_buildpacks() {
    let home = |json: &str| Home::new(&[], &[("CNB_REGISTRY_AUTH", json)]);
    let all = home(
        r#"{"a.example":"Bearer t0k","b.example":"X-Identity refresh","b.example/x":"Basic dXNlcjpwYXNz"}"#,
    );
    all.check("a.example/x", "token t0k");
    all.check("b.example/y", "identity refresh");
    all.check("b.example/x/y", "user:pass");
    all.check("c.example/y", "nobody");
    home(r#"{"a.example":"SECRET"}"#).fails("a.example/x", "entry `a.example` is neither `Basic");
    home(r#"{"a.example":"Basic SECRET"}"#).fails("a.example/x", "is not user and password");
    home("SECRET").fails("a.example/x", "not a JSON object");
}

#[test]
fn helpers() {
    let helper = "#!/bin/sh\nread server\necho x >> HOME/asked\ncase $1:$server in\n\
        get:r.example) echo '{\"ServerURL\":\"r.example\",\"Username\":\"u\",\"Secret\":\"s\"}';;\n\
        get:https://index.docker.io/v1/) echo '{\"Username\":\"<token>\",\"Secret\":\"refresh\"}';;\n\
        *) echo credentials not found in native keychain; exit 1;;\nesac\n";
    let config = r#"{"credHelpers":{"r.example":"good","docker.io":"good","gone.example":"gone"},
        "credsStore":"good","auths":{"inline.example":{"username":"inline"},
        "r.example/path":{"username":"path"},"r.example":{"username":"shadowed"}}}"#;
    let home = Home::new(&[(CONFIG, config), ("bin/docker-credential-good", helper)], &[]);
    home.check("r.example/a", "u:s");
    home.check("r.example/path/a", "path:");
    home.check("docker.io/library/a", "identity refresh");
    home.check("unknown.example/a", "nobody");
    home.check("inline.example/a", "inline:");
    home.fails("gone.example/a", "`docker-credential-gone`: there is no such program on PATH");

    // It is asked once.
    let asked = || fs::read_to_string(home.folder.path().join("asked")).expect("was asked").len();
    let (before, credentials) = (asked(), home.credentials().expect("reads"));
    for repository in ["a", "b"] {
        assert_eq!(words(&credentials.of("r.example", repository).expect("answers")), "u:s");
    }
    assert_eq!(asked(), before + 2);
    assert!(!format!("{credentials:?}").contains("shadowed"));
}

#[test]
fn helpers_that_fail() {
    let with = |script: &str| {
        let script = format!("#!/bin/sh\n{script}\n");
        let config = r#"{"credsStore":"bad"}"#;
        Home::new(&[(CONFIG, config), ("bin/docker-credential-bad", script.as_str())], &[])
    };
    with("echo the keychain is locked; exit 1")
        .fails("r.example/a", "`docker-credential-bad`: the keychain is locked");
    with("exit 3").fails("r.example/a", "it fails without a word");
    with("echo '{\"Username\":\"SECRET\"'").fails("r.example/a", "it does not answer with user");
    with("echo SECRET").fails("r.example/a", "it does not answer with user and secret");
    let started = Instant::now();
    // Its child holds the pipe, and is ended with it.
    let hanging = with("sleep 60 & echo $! > HOME/child; wait");
    hanging.fails("r.example/a", "it says nothing for 2 seconds");
    assert!(started.elapsed() < Duration::from_secs(20));
    let child = fs::read_to_string(hanging.folder.path().join("child")).expect("a child");
    // A signal takes effect when the kernel gets to it.
    let ended = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    };
    while !ended() {
        assert!(started.elapsed() < Duration::from_secs(30), "it still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
    let sly = Home::new(&[(CONFIG, r#"{"credsStore":"../../bin/sh"}"#)], &[]);
    sly.fails("r.example/a", "it is not the name of a helper");
}
