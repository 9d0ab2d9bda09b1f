//! Runs one command isolated from the machine.
//!
//! A [`Spec`] says everything; nothing is decided here but how to isolate:
//!
//! | mode | needs | isolation |
//! | --- | --- | --- |
//! | [`Mode::Namespaces`] | user namespaces | user, mount, pid, ipc, uts and, offline, net namespaces; overlay of the inputs; seccomp |
//! | [`Mode::Chroot`] | root | a copy of the inputs, chroot, seccomp that denies network sockets |
//!
//! The command runs in a child of this very program (`forge __sandbox`), because
//! a user namespace can be entered only by a process with one thread. In the
//! sandbox there is one user id; a seccomp filter answers ownership calls with
//! success, so that dpkg and its scripts work without being root.
//!
//! This room never caches, never chooses what to run, and holds all `unsafe` but a setting of
//! the allocator's, in the room `memory`.

mod child;
mod chroot;
mod mounts;
mod noted;
mod recording;
mod seccomp;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use child::main as child_main;
use recording::Recording;
pub use recording::{MOST_READ, Reads};

/// The hidden argument with which this program becomes a sandbox's first process.
pub const CHILD_ARGUMENT: &str = "__sandbox";

/// How steps are isolated on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Kernel namespaces, as any user.
    Namespaces,
    /// chroot and seccomp, as root where namespaces are not allowed.
    Chroot,
}

/// What the command may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nothing but its own loopback.
    Offline,
    /// What this machine reaches.
    Host,
}

/// A file or folder of this machine that is visible in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On this machine.
    pub from: PathBuf,
    /// In the sandbox, absolute.
    pub to: PathBuf,
    /// Whether the command may write to it.
    pub writable: bool,
}

/// What stands in `upper/` of the scratch folder before a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Given {
    /// Part of the result.
    Results,
    /// Inputs: they are no part of it unless the command changes them.
    Inputs,
    /// The same, and it is told which of them were read ([`Ended::reads`]).
    Traced,
}

/// One command and all that it may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// How to isolate.
    pub mode: Mode,
    /// The folders that make up `/`, bottom to top; read only.
    pub layers: Vec<PathBuf>,
    /// A scratch folder of the caller's, on the store's file system. What the
    /// command writes is found in `upper/` of it afterwards.
    pub scratch: PathBuf,
    /// The paths, without leading slash, whose changes will be asked for; an empty
    /// one stands for all. Elsewhere a removed file need not be noted.
    pub outputs: Vec<String>,
    /// What is in `upper/` of the scratch folder before.
    pub given: Given,
    /// Additional files.
    pub binds: Vec<Bind>,
    /// Network policy.
    pub network: Network,
    /// Program and arguments; the program is looked up in the PATH of `environment`.
    pub command: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// Working directory in the sandbox.
    pub directory: PathBuf,
    /// User and group id that the command sees itself as.
    pub user: u32,
    /// The process that asks for it, with which the sandbox ends.
    pub parent: i32,
    /// Whether the terminal stays attached (`forge run`) or the command gets no
    /// input and its output goes to the caller.
    pub interactive: bool,
}

/// This process, for [`Spec::parent`].
#[must_use]
pub fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether the command reported success.
    #[must_use]
    pub fn success(self) -> bool {
        self == Exit::Status(0)
    }
}

/// What is known of a command that ran to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// What it read, of [`Given::Traced`].
    pub reads: Option<Reads>,
}

/// Why a command could not be run isolated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The isolation could not be set up; the text names the call that failed.
    #[error("could not set up the sandbox: {0}")]
    Setup(String),
    /// The helper process could not be started or followed.
    #[error("could not run the sandbox process")]
    Io(#[from] io::Error),
    /// A copy of the inputs could not be made or compared (chroot mode).
    #[error("could not {action} `{}`", path.display())]
    Copy {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The command is not there or cannot be executed.
    #[error("the command cannot be run: {0}")]
    Command(String),
    /// The build was interrupted.
    #[error("interrupted")]
    Interrupted,
}

/// The sandboxes that are running, so that an interrupt ends them all.
#[derive(Debug, Default)]
pub struct Running {
    children: Mutex<Vec<(u32, Mode)>>,
    stopped: AtomicBool,
}

impl Running {
    /// Ends every running sandbox and keeps new ones from starting. The kernel
    /// ends all processes of a pid namespace with its first; where there is none,
    /// the sandbox is asked to do so.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.signal(|mode| match mode {
            Mode::Namespaces => Signal::KILL,
            Mode::Chroot => Signal::TERM,
        });
    }

    /// Asks every running sandbox's command to end; interactive ones only.
    pub fn terminate(&self) {
        self.signal(|_| Signal::TERM);
    }

    fn signal(&self, which: impl Fn(Mode) -> Signal) {
        let children = self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (child, mode) in children.iter() {
            if let Some(pid) = i32::try_from(*child).ok().and_then(rustix::process::Pid::from_raw) {
                // It may have ended by itself just now.
                let _ended_already = rustix::process::kill_process(pid, which(*mode));
            }
        }
    }

    /// Whether [`Running::stop`] was called.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Starts one sandbox at a time: what is inheritable while one starts must not
    /// be inherited by another.
    fn start(
        &self,
        spec: &Spec,
        start: impl FnOnce() -> io::Result<Started>,
    ) -> Result<Started, SandboxError> {
        let mut children = self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.stopped() {
            return Err(SandboxError::Interrupted);
        }
        let started = start()?;
        children.push((started.child.id(), spec.mode));
        Ok(started)
    }

    /// Forgets the child before it is waited for, so that no other process that
    /// gets its number is ever killed.
    fn forget(&self, pid: u32) {
        self.children
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|(child, _)| *child != pid);
    }
}

/// Runs the command of `spec` to its end. Each line it prints, standard output
/// and standard error together, goes to `on_line` without its line end.
///
/// # Errors
/// The sandbox cannot be set up, or the build was interrupted. A command that
/// ran and failed is not an error here: see [`Exit`].
pub fn run(
    spec: &Spec,
    running: &Running,
    mut on_line: impl FnMut(&str),
) -> Result<Ended, SandboxError> {
    for folder in ["upper", "work", "tmp", "root"] {
        std::fs::create_dir_all(spec.scratch.join(folder))?;
    }
    let before = match spec.mode {
        Mode::Namespaces if spec.given != Given::Results => {
            let upper = spec.scratch.join("upper");
            recording::ready(&upper, &noted::note(&upper)?)?;
            let entries = noted::note(&upper)?;
            Some(Before { entries, given: None, recording: recording::begin(spec, &upper)? })
        }
        Mode::Namespaces => None,
        Mode::Chroot => Some(chroot::copy_inputs(spec)?),
    };
    let message = serde_json::to_vec(spec).map_err(io::Error::from)?;
    let started = running.start(spec, || start(spec, &message))?;
    let Started { mut child, output, failure: failure_read } = started;
    read_lines(output, &mut on_line)?;
    let mut failure = String::new();
    BufReader::new(failure_read).read_to_string(&mut failure)?;
    running.forget(child.id());
    let status = child.wait()?;
    if running.stopped() {
        return Err(SandboxError::Interrupted);
    }
    if let Some(problem) = failure.strip_prefix(child::COMMAND) {
        return Err(SandboxError::Command(problem.to_owned()));
    }
    if !failure.is_empty() {
        return Err(SandboxError::Setup(failure));
    }
    let mut reads = None;
    if let Some(Before { entries, given, recording }) = before {
        let given = given.as_ref().unwrap_or(&entries);
        reads = recording.map(|recording| recording.end(given)).transpose()?;
        match spec.mode {
            Mode::Chroot => chroot::collect_changes(spec, &entries)?,
            Mode::Namespaces => noted::drop_unchanged(spec, &entries)?,
        }
    }
    if spec.mode == Mode::Namespaces && !spec.interactive {
        noted::spell_out_opaque(spec)?;
        noted::drop_touched(spec)?;
    }
    let exit = match (status.code(), status.signal()) {
        // As shells report it; see `child::report`.
        (Some(code), _) if (129..=192).contains(&code) => Exit::Signal(code - 128),
        (Some(code), _) => Exit::Status(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    };
    Ok(Ended { exit, reads })
}

/// What was so before a command ran.
struct Before {
    /// What its changes are found by.
    entries: noted::Notes,
    /// What it was given, where that is not all of these.
    given: Option<noted::Notes>,
    recording: Option<Recording>,
}

/// A sandbox that has been started, and what comes out of it.
struct Started {
    child: Child,
    output: io::PipeReader,
    failure: io::PipeReader,
}

fn start(spec: &Spec, message: &[u8]) -> io::Result<Started> {
    let (failure, failure_write) = io::pipe()?;
    let (output, output_write) = io::pipe()?;
    let spec_file = inherited_file(message)?;
    let failure_write: OwnedFd = failure_write.into();
    rustix::io::fcntl_setfd(&failure_write, rustix::io::FdFlags::empty())?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(CHILD_ARGUMENT).arg(spec_file.as_raw_fd().to_string());
    command.arg(failure_write.as_raw_fd().to_string()).env_clear();
    if !spec.interactive {
        command.stdin(Stdio::null()).stdout(output_write.try_clone()?).stderr(output_write);
    }
    // The writing ends close here, with the command, or reading would never end.
    Ok(Started { child: command.spawn()?, output, failure })
}

/// A file without a name that the child inherits.
fn inherited_file(bytes: &[u8]) -> io::Result<File> {
    let file = rustix::fs::memfd_create("forge-sandbox", rustix::fs::MemfdFlags::empty())?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// Lines as they come; a carriage return ends a line too (progress bars), bytes
/// that are not UTF-8 are replaced, and a line is cut where it grows past 64 KiB.
fn read_lines(reader: impl Read, on_line: &mut impl FnMut(&str)) -> io::Result<()> {
    const LONGEST: usize = 64 * 1024;
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') || line.len() >= LONGEST {
                if !line.is_empty() {
                    on_line(&String::from_utf8_lossy(&line));
                }
                line.clear();
                if matches!(byte, b'\n' | b'\r') {
                    continue;
                }
            }
            line.push(*byte);
        }
        reader.consume(length);
    }
    if !line.is_empty() {
        on_line(&String::from_utf8_lossy(&line));
    }
    Ok(())
}

/// What [`probe`] found out about one mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The mode that was tried.
    pub mode: Mode,
    /// `Ok` when a command ran, else what failed; and whether reads can be recorded.
    pub result: Result<bool, String>,
}

/// All modes, in order of preference.
pub const MODES: [Mode; 2] = [Mode::Namespaces, Mode::Chroot];

/// Tries a mode on this machine with a real, empty command. `scratch` is a folder
/// on the store's file system.
#[must_use]
pub fn probe(mode: Mode, scratch: &std::path::Path) -> Probed {
    let result = probe_mode(mode, scratch).map_err(|error| error.to_string());
    Probed { mode, result }
}

fn probe_mode(mode: Mode, scratch: &std::path::Path) -> Result<bool, SandboxError> {
    if mode == Mode::Chroot && !rustix::process::geteuid().is_root() {
        return Err(SandboxError::Setup("chroot needs root".to_owned()));
    }
    let folder = scratch.join(match mode {
        Mode::Namespaces => "namespaces",
        Mode::Chroot => "chroot",
    });
    let lower = folder.join("lower");
    std::fs::create_dir_all(&lower)?;
    let spec = Spec {
        mode,
        layers: vec![lower],
        scratch: folder,
        outputs: Vec::new(),
        given: Given::Traced,
        binds: Vec::new(),
        network: Network::Offline,
        command: vec![child::PROBE_COMMAND.to_owned()],
        environment: BTreeMap::new(),
        directory: PathBuf::from("/"),
        user: 0,
        parent: own_pid(),
        interactive: false,
    };
    let ended = run(&spec, &Running::default(), |_| {})?;
    match ended.exit {
        Exit::Status(0) => Ok(ended.reads != Some(Reads::Unknown)),
        other => Err(SandboxError::Setup(format!("the probe ended with {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        read_lines(bytes, &mut |line: &str| found.push(line.to_owned())).expect("reads");
        found
    }

    #[test]
    fn line_ends() {
        assert_eq!(lines(b"a\nb\r\n\nc"), ["a", "b", "c"]);
        assert_eq!(lines(b"10%\r20%\r"), ["10%", "20%"]);
        assert_eq!(lines(b"\xff\n"), ["\u{fffd}"]);
        assert_eq!(
            lines(&[b'x'; 70_000]).iter().map(String::len).collect::<Vec<_>>(),
            [65_536, 4_464]
        );
    }
}
