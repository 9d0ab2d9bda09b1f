//! The inside: from `forge __sandbox` to the command.
//!
//! ```text
//! forge ─► A: unshare, id maps ─► B: first process of the pid namespace: mounts,
//!                                    pivot_root, reaps ─► C: the command
//! ```
//!
//! - A waits for B; each dies with its parent, so killing forge kills all.
//! - A failure before the command runs goes to the failure pipe as one sentence.
//! - Nothing here returns to the caller's code: [`main`] ends the process.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::thread::CapabilitySet;

use super::{Given, Mode, Network, Spec, mounts, recording, seccomp};

/// Stands for a command that only reports that the sandbox works.
pub(super) const PROBE_COMMAND: &str = "/forge-probe";

/// The host name that every step sees.
const HOST_NAME: &str = "forge";

/// Becomes the sandbox's first process. `arguments` are the two file descriptor
/// numbers that [`super::run`] passed: the spec and the failure pipe.
pub fn main(arguments: &[String]) -> ! {
    let status = match descriptors(arguments) {
        Ok((spec, mut failure)) => match enter(spec, &failure) {
            Ok(status) => status,
            Err(message) => {
                // When the pipe is gone so is forge, and nobody is left to tell.
                let _nobody_listens = failure.write_all(message.as_bytes());
                1
            }
        },
        Err(message) => {
            eprintln!("forge: {message}");
            2
        }
    };
    std::process::exit(status)
}

fn descriptors(arguments: &[String]) -> Result<(Spec, File), String> {
    let [spec, failure] = arguments else {
        return Err("`__sandbox` is for forge's own use".to_owned());
    };
    let number = |text: &String| -> Result<u32, String> {
        text.parse()
            .ok()
            .filter(|number| *number > 2)
            .ok_or_else(|| format!("`{text}` is no file descriptor of ours"))
    };
    let (spec, failure) = (number(spec)?, number(failure)?);
    // Whatever else forge's caller left open must not be found in /proc/1/fd.
    let (low, high) = (spec.min(failure), spec.max(failure));
    for (from, to) in [(3, low - 1), (low + 1, high - 1), (high + 1, u32::MAX)] {
        if from <= to {
            // SAFETY: these descriptors are used by nothing in this process.
            #[allow(unsafe_code)]
            unsafe {
                libc::syscall(libc::SYS_close_range, from, to, 0);
            }
        }
    }
    let open = |number: u32| -> Result<File, String> {
        let number = i32::try_from(number).map_err(|error| error.to_string())?;
        // SAFETY: the parent passed the number of a descriptor made for this
        // process alone; nothing else in this process owns it.
        #[allow(unsafe_code)]
        let file = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC)
            .map_err(|error| error.to_string())?;
        Ok(File::from(file))
    };
    let mut text = String::new();
    open(spec)?.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let spec = serde_json::from_str(&text)
        .map_err(|error| format!("the sandbox's spec does not parse: {error}"))?;
    Ok((spec, open(failure)?))
}

/// Says which call failed.
pub(super) fn failed<E: Into<io::Error>>(call: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{call}: {}", error.into())
}

fn enter(spec: Spec, failure: &File) -> Result<i32, String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("prctl"))?;
    if !spec.interactive {
        // A session of its own: no terminal to inject input into, and Ctrl-C
        // reaches forge alone, which then ends the sandboxes.
        rustix::process::setsid().map_err(failed("setsid"))?;
    }
    if spec.mode == Mode::Namespaces {
        unshare(&spec)?;
    }
    let inner = fork()?;
    match inner {
        None => {
            let status = match first_process(&spec) {
                Ok(status) => status,
                Err(message) => {
                    let mut failure = failure;
                    let _nobody_listens = failure.write_all(message.as_bytes());
                    1
                }
            };
            std::process::exit(status)
        }
        Some(pid) => {
            if spec.interactive || spec.mode == Mode::Chroot {
                pass_signals_to(pid);
            }
            wait_for(pid)
        }
    }
}

/// The process that signals are passed on to.
static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(signal: libc::c_int) {
    let child = CHILD.load(Ordering::SeqCst);
    if child > 0 {
        // SAFETY: kill is async-signal-safe and the child is not waited for yet.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(child, signal);
        }
    }
}

/// For a command that has the terminal: requests to end go to it, and Ctrl-C,
/// which the terminal sends to all, is left to it.
fn pass_signals_to(child: Pid) {
    CHILD.store(child.as_raw_nonzero().get(), Ordering::SeqCst);
    // SAFETY: the handler does nothing but kill(2); this process has one thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGTERM, pass_on as *const () as libc::sighandler_t);
        libc::signal(libc::SIGHUP, pass_on as *const () as libc::sighandler_t);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
    }
}

extern "C" fn end_all(_: libc::c_int) {
    let child = CHILD.load(Ordering::SeqCst);
    if child > 0 {
        // SAFETY: kill is async-signal-safe; the child is not waited for yet.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(child, libc::SIGKILL);
        }
    }
}

/// Where there is no pid namespace, a request to end ends the command, and
/// [`reap`] then ends what it has left behind.
fn end_command_on_request(command: Pid) {
    CHILD.store(command.as_raw_nonzero().get(), Ordering::SeqCst);
    // SAFETY: the handler does nothing but kill(2); this process has one thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGTERM, end_all as *const () as libc::sighandler_t);
    }
}

/// The command starts with the signals as any program expects them.
fn default_signals() {
    // SAFETY: setting a default disposition has no other effect.
    #[allow(unsafe_code)]
    unsafe {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

fn unshare(spec: &Spec) -> Result<(), String> {
    use rustix::thread::UnshareFlags as Flags;
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let mut flags = Flags::NEWUSER | Flags::NEWNS | Flags::NEWPID | Flags::NEWIPC | Flags::NEWUTS;
    if spec.network == Network::Offline {
        flags |= Flags::NEWNET;
    }
    // SAFETY: this process has one thread and shares no file table.
    #[allow(unsafe_code)]
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(failed("unshare (user namespaces)"))?;
    let write = |file: &str, text: String| {
        fs::write(file, text).map_err(|error| format!("writing {file}: {error}"))
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    // Making the namespace gave all capabilities in it, whoever the user is.
    write("/proc/self/uid_map", format!("{} {user} 1", spec.user))?;
    write("/proc/self/gid_map", format!("{} {group} 1", spec.user))?;
    rustix::system::sethostname(HOST_NAME.as_bytes()).map_err(failed("sethostname"))?;
    if spec.network == Network::Offline {
        bring_loopback_up()?;
    }
    Ok(())
}

/// Programs that probe their own loopback would otherwise hang or fail oddly.
fn bring_loopback_up() -> Result<(), String> {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
            .map_err(failed("socket"))?;
    // SAFETY: `ifreq` is plain old data for which all-zero is valid; the kernel
    // reads the name and flags and writes nothing past the struct.
    #[allow(unsafe_code)]
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &request)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(format!("bringing loopback up: {}", io::Error::last_os_error()))
    }
}

/// `None` in the child.
fn fork() -> Result<Option<Pid>, String> {
    // SAFETY: this process has one thread, so the child may run any code.
    #[allow(unsafe_code)]
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(format!("fork: {}", io::Error::last_os_error()));
    }
    Ok(Pid::from_raw(pid))
}

fn wait_for(pid: Pid) -> Result<i32, String> {
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(report(status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("waitpid")(error)),
        }
    }
}

/// The status as a shell would give it: 128 and the number of a signal.
fn report(status: WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
}

fn first_process(spec: &Spec) -> Result<i32, String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("prctl"))?;
    let mut proc = None;
    match spec.mode {
        Mode::Namespaces => mounts::set_up(spec)?,
        Mode::Chroot => {
            proc = Some(OwnedFd::from(File::open("/proc").map_err(failed("opening /proc"))?));
            // Orphans of the command come to this process, which ends them.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .map_err(failed("prctl"))?;
            let root = spec.scratch.join("root");
            rustix::process::chroot(&root).map_err(failed("chroot"))?;
            rustix::process::chdir("/").map_err(failed("chdir"))?;
        }
    }
    if spec.given == Given::Traced {
        recording::read_canaries()?;
    }
    // Nobody in the sandbox may look into this process: it runs the host's forge.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(failed("prctl"))?;
    if spec.command.first().is_some_and(|program| program == PROBE_COMMAND) {
        seccomp::install(spec)?;
        return Ok(0);
    }
    match fork()? {
        None => {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(failed("prctl"))?;
            Err(execute(spec).unwrap_or_else(|message| message))
        }
        Some(command) => {
            if spec.interactive {
                pass_signals_to(command);
            } else if spec.mode == Mode::Chroot {
                end_command_on_request(command);
            }
            reap(command, proc.as_ref())
        }
    }
}

/// Waits for the command while taking in orphans; what is still alive when the
/// command ends is ended, so that no output changes after it was read.
///
/// In a pid namespace the kernel ends them when this process exits; `proc` is
/// given where there is none.
fn reap(command: Pid, proc: Option<&OwnedFd>) -> Result<i32, String> {
    let status = loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == command => break report(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("wait")(error)),
        }
    };
    if let Some(proc) = proc {
        // Each round ends the children; theirs become ours, for the next round.
        loop {
            for child in children(proc) {
                let _ended_already = rustix::process::kill_process(child, Signal::KILL);
            }
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }
    Ok(status)
}

/// The processes whose parent is this one, read from a /proc that was opened
/// before the root changed.
fn children(proc: &OwnedFd) -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero().get().to_string();
    let Ok(folder) = rustix::fs::Dir::read_from(proc) else { return Vec::new() };
    folder
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str().ok()?.parse().ok()?;
            let stat = rustix::fs::openat(
                proc,
                format!("{pid}/stat"),
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .ok()?;
            let mut text = String::new();
            File::from(stat).read_to_string(&mut text).ok()?;
            // `pid (name) state parent …`: the name may hold anything.
            let parent = text.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            (parent == own).then(|| Pid::from_raw(pid)).flatten()
        })
        .collect()
}

/// What package scripts and build tools need of root. All else is dropped for
/// good: no mounts, no devices, no tracing, no other root folder.
const KEPT: [CapabilitySet; 7] = [
    CapabilitySet::CHOWN,
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::FOWNER,
    CapabilitySet::FSETID,
    CapabilitySet::SETUID,
    CapabilitySet::SETGID,
];

/// A program that root starts gets what is in its bounding set and no more.
fn drop_capabilities() -> Result<(), String> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !KEPT.contains(&capability) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Past the last one that this kernel knows.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(failed("dropping capabilities")(error)),
            }
        }
    }
    Ok(())
}

/// Marks a failure of the command itself, not of the sandbox.
pub(super) const COMMAND: &str = "command: ";

/// Replaces this process by the command; returns only on failure.
fn execute(spec: &Spec) -> Result<String, String> {
    let directory = &spec.directory;
    rustix::process::chdir(directory).map_err(|error| {
        format!("{COMMAND}changing to `{}`: {}", directory.display(), io::Error::from(error))
    })?;
    let text =
        |text: &str| CString::new(text).map_err(|_| format!("`{text}` contains a zero byte"));
    let program = spec.command.first().ok_or("no command")?;
    let path = find(program, spec.environment.get("PATH").map_or("", String::as_str)).ok_or_else(
        || format!("{COMMAND}`{program}` is not in the sandbox: no step input provides it"),
    )?;
    let path = text(&path.to_string_lossy())?;
    let arguments =
        spec.command.iter().map(|argument| text(argument)).collect::<Result<Vec<_>, _>>()?;
    let environment = spec
        .environment
        .iter()
        .map(|(name, value)| text(&format!("{name}={value}")))
        .collect::<Result<Vec<_>, _>>()?;
    let pointers = |texts: &[CString]| {
        let mut pointers: Vec<*const libc::c_char> =
            texts.iter().map(|text| text.as_ptr()).collect();
        pointers.push(std::ptr::null());
        pointers
    };
    let (arguments, environment) = (pointers(&arguments), pointers(&environment));
    default_signals();
    drop_capabilities()?;
    seccomp::install(spec)?;
    // Nothing of forge's must be open in the command.
    // SAFETY: descriptors above 2 are not used after this; the failure pipe is
    // close-on-exec and kept until exec succeeds.
    #[allow(unsafe_code)]
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    Ok(format!("{COMMAND}running `{program}`: {}", io::Error::last_os_error()))
}

/// Looks `program` up as execvp would.
fn find(program: &str, path: &str) -> Option<PathBuf> {
    let executable = |path: &Path| {
        fs::metadata(path).is_ok_and(|metadata| {
            metadata.is_file()
                && std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0
        })
    };
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    path.split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|candidate| executable(candidate))
}
