//! Pushing to a real registry that asks for a password.

use std::fs;
use std::process::Command;

use crate::support::{Forge, folder, give, have, need_root, ok, registry, text, warm};

#[test]
fn push_with_a_password() {
    if !have(&["docker-registry", "htpasswd", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, digest) = warm();
    let folder = folder("registry");
    let (_registry, port) = registry(&folder);

    let tag = format!("127.0.0.1:{port}/team/logbook:v1");
    let app = app.display().to_string();
    let refused = Forge::new(store).run(&["build", &app, "--tag", &tag, "--push"]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(
        text(&refused.stderr).contains("401") && text(&refused.stdout).is_empty(),
        "{}",
        text(&refused.stderr)
    );

    // user:secret
    fs::create_dir(folder.join("docker")).unwrap();
    let auths = format!("{{\"auths\":{{\"127.0.0.1:{port}\":{{\"auth\":\"dXNlcjpzZWNyZXQ=\"}}}}}}");
    fs::write(folder.join("docker/config.json"), auths).unwrap();
    give(&folder.join("docker"));
    let forge =
        Forge::new(store).with("DOCKER_CONFIG", &folder.join("docker").display().to_string());
    let pushed = forge.run(&["build", &app, "--tag", &tag, "--push"]);
    assert!(pushed.status.success(), "{}", text(&pushed.stderr));
    assert_eq!(text(&pushed.stdout).trim_end(), digest);
    let source = format!("docker://{tag}");
    let found = ok(Command::new("skopeo").args([
        "inspect",
        "--tls-verify=false",
        "--creds",
        "user:secret",
        "--format",
        "{{.Digest}}",
        &source,
    ]));
    assert_eq!(found.trim_end(), digest);

    // What is there is not sent again.
    let again = text(&forge.run(&["build", &app, "--tag", &tag, "--push"]).stderr);
    assert!(again.contains("was there") && !again.contains("pushed,"), "{again}");
}
