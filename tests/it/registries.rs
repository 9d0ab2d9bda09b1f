//! Real registries that want tokens or certificates.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use forge::digest::Digest;
use forge::registry::{Access, Blob, Credentials, Name, Reference, RegistryError, Sent, untold};
use forge::store::Store;
use serde_json::json;

use crate::support::{Forge, folder, have, need_root, ok, port, registry_at, text, warm};

fn openssl(folder: &Path, words: &str) {
    ok(Command::new("openssl").args(words.split(' ')).current_dir(folder).stderr(Stdio::null()));
}

fn access(variables: &[(&str, &str)], certificates: &Path) -> Access {
    let variables: BTreeMap<String, String> =
        variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Access::new(forge::registry::Settings {
        credentials: Credentials::read(&variables, None).unwrap(),
        insecure: Vec::new(),
        mirrors: BTreeMap::new(),
        certificates: vec![certificates.to_owned()],
    })
}

fn words(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// A token server: for `user` with the password `secret`, tokens that the registry takes for
/// two more seconds. Remembers the scopes that it was asked for.
struct Tokens {
    port: u16,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Tokens {
    fn start(folder: &Path) -> Tokens {
        openssl(
            folder,
            "req -x509 -newkey rsa:2048 -nodes -keyout token.key -out token.crt -days 2 -subj /CN=tokens",
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, folder) = (Arc::clone(&asked), folder.to_owned());
        // Ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap() == 0 {
                        break;
                    }
                    request.push(byte[0]);
                }
                let request = text(&request);
                let path = request.split(' ').nth(1).unwrap_or_default();
                let query = path.split_once('?').map_or("", |(_, query)| query);
                let scopes: Vec<String> = query
                    .split('&')
                    .filter_map(|pair| pair.strip_prefix("scope="))
                    .map(|scope| scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
                    .collect();
                // user:secret
                let known = request.to_lowercase().contains("authorization: basic")
                    && request.contains("dXNlcjpzZWNyZXQ=");
                let answer = if known {
                    let token = token(&folder, &scopes);
                    seen.lock().unwrap().push(scopes);
                    let body = json!({"token": token, "expires_in": 300}).to_string();
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                } else {
                    let body = "{\"details\":\"incorrect username or password\"}";
                    format!("HTTP/1.1 401 -\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                };
                // Who has gone does not mind.
                let _sent = stream.write_all(answer.as_bytes());
            }
        });
        Tokens { port, asked }
    }
}

/// A token as docker's registry wants it: signed, with the certificate of the key.
fn token(folder: &Path, scopes: &[String]) -> String {
    let certificate: String = fs::read_to_string(folder.join("token.crt"))
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("---"))
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let access: Vec<serde_json::Value> = scopes
        .iter()
        .map(|scope| {
            let parts: Vec<&str> = scope.split(':').collect();
            json!({"type": parts[0], "name": parts[1], "actions": parts[2].split(',').collect::<Vec<_>>()})
        })
        .collect();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    // The registry takes them for a minute after their end.
    let claims = json!({"iss": "tokens", "sub": "user", "aud": "forge-test", "exp": now - 58,
        "nbf": now - 100, "iat": now - 100, "jti": "1", "access": access});
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    fs::write(folder.join("to-sign"), &signed).unwrap();
    openssl(folder, "dgst -sha256 -sign token.key -out signature to-sign");
    let signature = URL_SAFE_NO_PAD.encode(fs::read(folder.join("signature")).unwrap());
    format!("{signed}.{signature}")
}

#[test]
fn tokens_of_a_server_of_its_own() {
    if !have(&["docker-registry", "openssl"]) {
        return;
    }
    let folder = folder("tokens");
    let tokens = Tokens::start(&folder);
    let port = port();
    let more = format!(
        "auth:\n  token:\n    realm: http://127.0.0.1:{}/token\n    service: forge-test\n    issuer: tokens\n    rootcertbundle: {}/token.crt\n",
        tokens.port,
        folder.display()
    );
    let _registry = registry_at(&folder, port, &more);
    let login = |password: &str| {
        let header = STANDARD.encode(format!("user:{password}"));
        let auth = json!({format!("127.0.0.1:{port}"): format!("Basic {header}")}).to_string();
        access(&[("CNB_REGISTRY_AUTH", &auth)], Path::new("/nonexistent"))
    };
    let at = |name: &str| format!("127.0.0.1:{port}/{name}").parse::<Reference>().unwrap();
    let refused = login("wrong").repository(&at("team/app")).unwrap().write_blob(b"x").unwrap_err();
    let refused = words(&refused);
    assert!(
        refused.contains("refused to get a token: 401 incorrect username or password")
            && !refused.contains("wrong"),
        "{refused}"
    );

    let access = login("secret");
    let store = Store::open(&folder.join("store")).unwrap();
    let bytes: Vec<u8> = (0..9_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let digest = store.write_blob(&bytes).unwrap();
    let base = access.repository(&at("team/base")).unwrap();
    // The token ends while the body is on its way.
    let paused = Mutex::new(false);
    let told: forge::registry::Told = Arc::new(move |done| {
        let mut paused = paused.lock().unwrap();
        if done > 3_000_000 && !*paused {
            *paused = true;
            std::thread::sleep(Duration::from_secs(4));
        }
    });
    let blob = Blob { digest, size: 9_000_000, from: &[], is_doubted: false };
    let sent = base.push_blob(&blob, &store, &told).map_err(|error| words(&error));
    assert_eq!(sent, Ok(Sent::Uploaded(9_000_000)));
    let both = ["repository:team/base:pull,push".to_owned()];
    assert_eq!(*tokens.asked.lock().unwrap(), [both.to_vec(), both.to_vec()]);

    // From one repository into the other, with a token for both.
    let app = access.repository(&at("team/app")).unwrap();
    let from = ["team/base".to_owned()];
    let blob = Blob { from: &from, ..blob };
    let sent = app.push_blob(&blob, &store, &untold()).map_err(|error| words(&error));
    assert_eq!(sent, Ok(Sent::Mounted));
    let last = tokens.asked.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, ["repository:team/app:pull,push", "repository:team/base:pull"]);

    // An artifact's manifest, as a cache keeps it.
    std::thread::sleep(Duration::from_secs(4));
    app.write_blob(b"{}").unwrap();
    let descriptor = |bytes: &[u8], digest: Digest| {
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest, "size": bytes.len()})
    };
    let mut config = descriptor(b"{}", Digest::of(b"{}"));
    config["mediaType"] = json!("application/vnd.example.config+json");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config,
        "layers": [descriptor(&bytes, digest)]})
    .to_string();
    let named = app.put_manifest(Name::Tag("key"), kind, manifest.as_bytes()).unwrap();
    let found = login("secret").repository(&at("team/app")).unwrap();
    let document = found.manifest(Name::Tag("key")).unwrap().unwrap();
    assert_eq!((document.bytes, document.digest), (manifest.into_bytes(), named));
    assert_eq!(document.media_type.as_deref(), Some(kind));
    assert_eq!(found.tagged("key").unwrap(), Some(named));
    assert_eq!(found.manifest(Name::Tag("other")).unwrap(), None);
    assert_eq!(found.tagged("other").unwrap(), None);
    assert!(found.has_blob(&digest, Some(9_000_000)).unwrap());
    assert!(!found.has_blob(&Digest::of(b"no"), None).unwrap());
}

#[test]
fn certificates_of_an_authority_of_our_own() {
    if !have(&["docker-registry", "openssl"]) {
        return;
    }
    let folder = folder("tls");
    let authority = |name: &str| {
        openssl(
            &folder,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.crt -days 2 -subj /CN={name}"
            ),
        );
    };
    let signed = |name: &str, by: &str, subject: &str| {
        fs::write(folder.join("extensions"), format!("subjectAltName={subject}\n")).unwrap();
        openssl(
            &folder,
            &format!(
                "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        openssl(
            &folder,
            &format!(
                "x509 -req -in {name}.csr -CA {by}.crt -CAkey {by}.key -CAcreateserial -out {name}.cert -days 2 -extfile extensions"
            ),
        );
    };
    authority("ours");
    authority("another");
    signed("server", "ours", "IP:127.0.0.1");
    signed("client", "ours", "DNS:client");
    let port = port();
    let root = folder.display();
    let more = format!(
        "  tls:\n    certificate: {root}/server.cert\n    key: {root}/server.key\n    clientcas:\n      - {root}/ours.crt\n"
    );
    let _registry = registry_at(&folder, port, &more);
    let host = format!("127.0.0.1:{port}");
    // As files of these names.
    let with = |name: &str, files: &[(&str, &str)]| {
        let certificates = folder.join(name);
        fs::create_dir_all(certificates.join(&host)).unwrap();
        for (from, to) in files {
            fs::copy(folder.join(from), certificates.join(&host).join(to)).unwrap();
        }
        let reference = format!("{host}/team/app").parse::<Reference>().unwrap();
        let repository = access(&[], &certificates).repository(&reference);
        repository.and_then(|repository| repository.write_blob(b"blob"))
    };
    let ca = ("ours.crt", "ca.crt");
    let (cert, key) = (("client.cert", "client.cert"), ("client.key", "client.key"));
    let fails = |result: Result<Sent, RegistryError>, expected: &str| {
        let found = words(&result.unwrap_err());
        assert!(found.contains(expected), "{found}");
    };
    fails(with("unknown", &[("another.crt", "ca.crt"), cert, key]), "UnknownIssuer");
    fails(with("nobody", &[ca]), "could not");
    fails(with("half", &[ca, cert]), "its `.key` is not beside it");
    assert_eq!(
        with("good", &[ca, cert, key]).map_err(|error| words(&error)),
        Ok(Sent::Uploaded(4))
    );
    // Never in the clear where TLS is spoken.
    let reference = format!("{host}/team/app").parse::<Reference>().unwrap();
    let plain = access(&[], Path::new("/nonexistent")).repository(&reference).unwrap();
    fails(
        plain.manifest(Name::Tag("v1")).map(|_| Sent::WasThere),
        "400 Client sent an HTTP request",
    );
}

#[test]
fn images_of_two_platforms_under_one_name() {
    if !have(&["docker-registry", "skopeo", "setpriv"]) || !need_root() {
        return;
    }
    let (store, app, digest) = warm();
    let root = folder("index");
    let port = port();
    let _registry = registry_at(&root, port, "");
    let name = |tag: &str| format!("127.0.0.1:{port}/team/logbook:{tag}");
    let forge = Forge::new(store);
    forge.build(app, &["--tag", &name("amd64"), "--push"]);

    // The same for another processor, as another machine would have made it.
    let reference: Reference = name("arm64").parse().unwrap();
    let repository = access(&[], &root).repository(&reference).unwrap();
    let own = repository.manifest(Name::Tag("amd64")).unwrap().unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&own.bytes).unwrap();
    let raw = ok(Command::new("skopeo")
        .args(["inspect", "--raw", "--config", "--tls-verify=false"])
        .arg(format!("docker://{}", name("amd64"))));
    let config = raw.replace("\"architecture\":\"amd64\"", "\"architecture\":\"arm64\"");
    assert_ne!(raw, config);
    repository.write_blob(config.as_bytes()).unwrap();
    manifest["config"]["digest"] = Digest::of(config.as_bytes()).to_string().into();
    manifest["config"]["size"] = config.len().into();
    let media_type = own.media_type.unwrap();
    let bytes = manifest.to_string();
    let arm = repository.put_manifest(Name::Tag("arm64"), &media_type, bytes.as_bytes()).unwrap();

    let words = |images: &[&str]| {
        let mut words: Vec<String> = vec!["index".to_owned()];
        words.extend(images.iter().map(|tag| name(tag)));
        for tag in ["v1", "latest"] {
            words.extend(["--tag".to_owned(), name(tag)]);
        }
        words
    };
    let run = |words: &[String]| forge.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let made = run(&words(&["arm64", "amd64"]));
    assert!(made.status.success(), "{}", text(&made.stderr));
    let again = run(&words(&["amd64", "arm64"]));
    assert_eq!(text(&made.stdout), text(&again.stdout));
    for tag in ["v1", "latest"] {
        for (architecture, expected) in [("amd64", digest.parse().unwrap()), ("arm64", arm)] {
            let listed = ok(Command::new("skopeo")
                .args(["inspect", "--raw", "--tls-verify=false"])
                .arg(format!("docker://{}", name(tag))));
            assert!(listed.contains(&Digest::to_string(&expected)), "{listed}");
            let found = ok(Command::new("skopeo")
                .args(["inspect", "--override-arch", architecture, "--tls-verify=false"])
                .args(["--format", "{{.Architecture}}"])
                .arg(format!("docker://{}", name(tag))));
            assert_eq!(found.trim_end(), architecture);
        }
    }
    // What cannot be.
    for (images, code, expected) in [
        (&["amd64", "amd64"][..], 2, "are both for linux/amd64"),
        (&["amd64", "v1"], 4, "it is an index: name its images"),
        (&["amd64", "nothing"], 4, "404"),
    ] {
        let failed = run(&words(images));
        assert_eq!(failed.status.code(), Some(code), "{}", text(&failed.stderr));
        assert!(text(&failed.stderr).contains(expected), "{}", text(&failed.stderr));
    }
    let elsewhere = ["index", "127.0.0.1:9/other/app:v1", "--tag", &name("v1")].map(str::to_owned);
    let failed = run(&elsewhere);
    assert_eq!(failed.status.code(), Some(2), "{}", text(&failed.stderr));
}
