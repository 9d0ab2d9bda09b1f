//! The Rails example on a gem server of our own: made once a run, from Debian's
//! packages (see `tests/gem-server`), and served as files on the loopback.
//!
//! `FORGE_TEST_GEMS` names a folder that is made already, with `served` and `app`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Forge, bench, copy, folder, give, have, need_root, ok, shared};

/// How many gems the server has given.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// The example as it was built first, with what that left.
pub struct Warm {
    pub store: PathBuf,
    pub app: PathBuf,
    pub digest: String,
}

/// Whether this machine can build the example; prints what is skipped.
pub fn can() -> bool {
    let made = std::env::var_os("FORGE_TEST_GEMS").is_some();
    have(&["setpriv"]) && need_root() && (made || have(&["mmdebstrap"]))
}

/// The store of the ordinary user into which the example was built. Once a run.
pub fn warm() -> &'static Warm {
    static WARM: OnceLock<Warm> = OnceLock::new();
    let make = || {
        let (store, app) = (folder("rails-store"), folder("rails-app"));
        copy(&made().join("app"), &app);
        give(&app);
        let digest = forge(&store).build(&app, &[]);
        Warm { store, app, digest }
    };
    WARM.get_or_init(|| shared(make))
}

/// A copy of the example, with the packages of the first build.
pub fn seedswap(name: &str) -> PathBuf {
    let app = folder(name);
    copy(&warm().app, &app);
    fs::copy(warm().app.join("forge.lock"), app.join("forge.lock")).unwrap();
    give(&app);
    app
}

/// Replaces text that is there in a file of an app.
#[track_caller]
pub fn edit(app: &Path, path: &str, old: &str, new: &str) {
    let path = app.join(path);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(old), "`{old}` is not in {}", path.display());
    fs::write(&path, text.replace(old, new)).unwrap();
    give(&path);
}

/// forge as the ordinary user, with the gem server.
pub fn forge(store: &Path) -> Forge {
    Forge::new(store).with("BUNDLE_MIRROR__ALL", &address())
}

/// How many gems were downloaded by now.
pub fn given() -> usize {
    GIVEN.load(Ordering::Relaxed)
}

/// The server's address. It serves until the run ends.
pub fn address() -> String {
    static PORT: OnceLock<u16> = OnceLock::new();
    let port = PORT.get_or_init(|| {
        let served = made().join("served");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let served = served.clone();
                // Clients hang up as they like.
                std::thread::spawn(move || answer(&served, stream?));
            }
        });
        port
    });
    format!("http://127.0.0.1:{port}")
}

fn answer(served: &Path, mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (status, body) = match fs::read(served.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    if path.ends_with(".gem") {
        GIVEN.fetch_add(1, Ordering::Relaxed);
    }
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&body)
}

fn made() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        if let Some(folder) = std::env::var_os("FORGE_TEST_GEMS") {
            return folder.into();
        }
        let folder = bench().join("gems");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        // Outside of the run's folder, for the next run to be quick.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gem-cache");
        ok(Command::new(root.join("tests/gem-server/for-tests")).arg(&folder).arg(cache));
        folder
    })
}
