"""What a command costs: wall time, processor time, memory; of all processes that work for it.

The processes of a tool, its daemon among them, are in a control group of their own: its processor time before and after,
and the highest sum of memory that is not file cache, looked at every 20 ms. Both versions of control groups are known.
"""

import os
import pathlib
import signal
import subprocess
import threading
import time

from . import machine

ROOT = pathlib.Path("/sys/fs/cgroup")
INTERVAL = 0.02
# Seconds that one command may take. The slowest build takes minutes; a tool that hangs must not hang the others.
LIMIT = 1800


def write(path, text):
    try:
        path.write_text(text, encoding="ascii")
    except OSError as error:
        raise machine.Failed(f"could not write {path}: {error}; the runner needs control groups that root may write") \
            from None


class Group:
    """A control group. Its name has this process' id, so that two runs do not meet."""

    def __init__(self, name):
        self.name = f"forge-compare-{os.getpid()}-{name}"
        self.unified = (ROOT / "cgroup.controllers").exists()
        if self.unified:
            write(ROOT / "cgroup.subtree_control", "+cpu +memory")
            # Processes may be in leaves only: the tool's own in one, containers of a daemon in others.
            self.folders = [ROOT / self.name]
            self.folders[0].mkdir()
            write(self.folders[0] / "cgroup.subtree_control", "+cpu +memory")
            self.leaves = [self.folders[0] / "tool"]
            self.leaves[0].mkdir()
        else:
            self.folders = [ROOT / "cpuacct" / self.name, ROOT / "memory" / self.name]
            for folder in self.folders:
                if not folder.exists():
                    folder.mkdir()
            self.leaves = self.folders

    def parent_of_containers(self):
        """What a daemon is told to put containers below."""
        return f"/{self.name}/containers"

    def join(self):
        """Moves the calling process in: for a child between fork and exec."""
        for leaf in self.leaves:
            with open(leaf / "cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(os.getpid()))

    def seconds(self):
        """Processor seconds of all that is or was in the group."""
        if self.unified:
            usage = dict(line.split() for line in (self.folders[0] / "cpu.stat").read_text().splitlines())
            return int(usage["usage_usec"]) / 1e6
        return int((self.folders[0] / "cpuacct.usage").read_text()) / 1e9

    def bytes(self):
        """Memory in use now that is not file cache."""
        field = "anon" if self.unified else "total_rss"
        for line in (self.folders[-1] / "memory.stat").read_text().splitlines():
            name, value = line.split()
            if name == field:
                return int(value)
        raise machine.Failed(f"{self.folders[-1]}/memory.stat has no {field}")

    def processes(self):
        """The processes in the group and below."""
        found = set()
        for below, _, _ in os.walk(self.folders[0]):
            found.update(int(line) for line in (pathlib.Path(below) / "cgroup.procs").read_text().split())
        return found

    def close(self):
        """Ends what still runs in the group, and removes it and those below."""
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        # dockerd makes groups of this name in the other hierarchies of version 1 as well.
        for folder in self.folders if self.unified else sorted(ROOT.glob(f"*/{self.name}")):
            for below, _, _ in os.walk(folder, topdown=False):
                # A process that has just ended is in its group a moment longer.
                machine.wait(f"the end of all processes in {below}", lambda path=below: removed(path), 10)


def removed(path):
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


class Cost:
    """What was measured."""

    def __init__(self, wall, processor, memory):
        self.wall, self.processor, self.memory = wall, processor, memory


def measure(group, act):
    """Runs `act`, and gives its cost in the group."""
    peak, done = [group.bytes()], threading.Event()

    def watch():
        while not done.wait(INTERVAL):
            peak[0] = max(peak[0], group.bytes())

    watcher = threading.Thread(target=watch)
    before = group.seconds()
    watcher.start()
    begin = time.monotonic()
    try:
        act()
        wall = time.monotonic() - begin
    finally:
        done.set()
        watcher.join()
    return Cost(wall, group.seconds() - before, peak[0])


def command(group, words, log, environment=None, directory=None):
    """Runs a command in the group; it must succeed. What it said is in the log."""
    with open(log, "ab") as file:
        file.write(f"\n$ {' '.join(map(str, words))}\n".encode())
        file.flush()
        process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                   env=environment, cwd=directory, preexec_fn=group.join, start_new_session=True)
        try:
            status = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            status = f"not done after {LIMIT} seconds"
        finally:
            # Whatever interrupts the runner, and what takes too long, takes the command along.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status != 0:
        said = pathlib.Path(log).read_bytes()[-3000:].decode(errors="replace")
        raise machine.Failed(f"`{' '.join(map(str, words))}` failed ({status}):\n{said}")
