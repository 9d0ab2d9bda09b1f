"""What is done to the machine: its packages, the run's folder, the processes that were started.

- Everything started is in a process group of its own and ends in `Machine.close`, last started first.
- The folder is made anew for each run, and goes with it; what tools left mounted in it is unmounted first.
- Nothing outside of the folder changes but installed packages, and the empty folder that buildah's cache is mounted on.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

# Seconds that a server has to start, and to end after SIGTERM.
PATIENCE = 60


class Failed(Exception):
    """Something that the run cannot go on after; the text is for people."""


def say(text):
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(words, log=None, **more):
    """Runs a command that must succeed, and gives what it prints."""
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT if log else subprocess.PIPE, text=True, check=False, **more)
    if log:
        pathlib.Path(log).write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        said = (done.stdout if log else done.stderr or done.stdout)[-3000:]
        raise Failed(f"`{' '.join(map(str, words))}` failed ({done.returncode}):\n{said}")
    return done.stdout


def debian_first():
    """Debian's own programs before those that somebody put beside them: these are what is compared."""
    os.environ["PATH"] = "/usr/bin:/usr/sbin:/bin:/sbin:" + os.environ.get("PATH", "")


def install(programs):
    """Installs the Debian packages of the programs that are missing: {program: package}."""
    missing = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failed(f"missing: {' '.join(missing)}; run as root on Debian, or install them")
    say(f"installs {' '.join(missing)}")
    more = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    run(["apt-get", "update", "-qq"], **more)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], **more)


def free_port():
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait(what, holds, seconds=PATIENCE):
    """Waits until the condition holds, and says what it was when it never does."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} seconds")
        time.sleep(0.05)


def answers(port):
    """Whether something listens on the port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Machine:
    """The run's folder and servers. A context manager: leaving it ends and removes all."""

    def __init__(self, keep=False):
        self.keep = keep
        self.servers = []
        self.last = []

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="forge-compare."))
        # forge and buildah run as root here, but servers may be others.
        self.folder.chmod(0o755)
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave servers behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self.servers:
                self.end(self.servers[-1])
            for act in reversed(self.last):
                act()
            if self.keep:
                say(f"kept: {self.folder}")
            else:
                remove(self.folder)
        finally:
            signal.signal(signal.SIGINT, before)

    def path(self, *names):
        """A folder of the run, made when it is not there."""
        path = self.folder.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def python(self):
        """A Python with pip, in an environment of the run's own."""
        folder = self.folder / "python"
        if not folder.exists():
            try:
                import ensurepip  # noqa: F401: only whether it is there
            except ImportError:
                install({"no program, but a part of Python": "python3-venv"})
            run([sys.executable, "-m", "venv", folder])
        return folder / "bin" / "python"

    def finally_do(self, act):
        """Does this when the run ends, after all servers."""
        self.last.append(act)

    def serve(self, words, log, before=None, **more):
        """Starts a server; `before` runs in the child."""
        with open(log, "ab") as file:
            server = subprocess.Popen([str(word) for word in words], stdin=more.pop("stdin", subprocess.DEVNULL),
                                      stdout=more.pop("stdout", file), stderr=file, start_new_session=True,
                                      preexec_fn=before, **more)
        self.servers.append(server)
        return server

    def end(self, server):
        """Ends a server and what it started in its group."""
        self.servers.remove(server)
        if server.poll() is None:
            server.terminate()
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                say(f"process {server.pid} did not end, and is killed")
        try:
            os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        server.wait()


def remove(folder):
    """Removes a folder of this run, with what is mounted in it."""
    folder = pathlib.Path(folder)
    if not folder.exists():
        return
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounted = [line.split()[4].encode().decode("unicode_escape") for line in file]
    for point in sorted((point for point in mounted if point.startswith(f"{folder}/")), reverse=True):
        run(["umount", "--lazy", point])

    # Stores hold files that nobody may write; root does not mind, others are helped.
    if os.geteuid() != 0:
        run(["chmod", "-R", "u+rwX", folder])
    run(["rm", "-rf", "--one-file-system", folder])
