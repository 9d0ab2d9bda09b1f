"""Arguments, and the order of the whole run."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

from . import bases, machine
from .apps import APPS, MOST_ROUNDS
from .checks import Checker
from .registry import Registry
from .results import Results
from .scenarios import SCENARIOS, Runner
from .tools import TOOLS, Docker, Forge

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = {"docker-registry": "docker-registry", "mmdebstrap": "mmdebstrap", "dockerd": "docker.io", "runc": "runc",
            "buildah": "buildah", "git": "git", "cc": "gcc"}


def names(all_of_them):
    def parse(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in all_of_them:
                raise argparse.ArgumentTypeError(f"there is no {name}; there are {', '.join(all_of_them)}")
        return [name for name in all_of_them if name in chosen]
    return parse


def arguments(words):
    parser = argparse.ArgumentParser(prog="benches/compare", description="Times whole builds with push: forge and its peers.")
    parser.add_argument("what", nargs="?", choices=["compare", "growth"], default="compare",
                        help="the comparison, or how forge's own time grows")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help=f"3 if not said, {MOST_ROUNDS} at most")
    parser.add_argument("--cold-rounds", type=int, metavar="N", default=1,
                        help="rounds that start cold, which cost the most; 1 if not said")
    parser.add_argument("--apps", type=names(APPS), default=list(APPS), metavar="A,B", help=", ".join(APPS))
    parser.add_argument("--tools", type=names(TOOLS), default=list(TOOLS), metavar="T,U", help=", ".join(TOOLS))
    parser.add_argument("--scenarios", type=names(SCENARIOS), default=list(SCENARIOS), metavar="S,T", help=", ".join(SCENARIOS))
    parser.add_argument("--curves", metavar="C,D", help="growth: files, dependencies, layers, width")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "performance", metavar="FOLDER",
                        help="where tables and plots go; docs/performance if not said")
    parser.add_argument("--quick", action="store_true", help="one round, and the Django example alone unless --apps is said")
    parser.add_argument("--note", default="", help="a remark on the circumstances, kept with the results")
    parser.add_argument("--forge", type=pathlib.Path, metavar="PROGRAM", help="this forge instead of one built here")
    parser.add_argument("--kept", type=pathlib.Path, metavar="FOLDER",
                        help="keeps the peers' bases and the gem server's downloads for the next run")
    parser.add_argument("--no-check", action="store_true", help="does not start the images")
    parser.add_argument("--keep", action="store_true", help="leaves the run's folder, for its logs")
    chosen = parser.parse_args(words)
    if chosen.quick:
        chosen.rounds = 1
        if "--apps" not in " ".join(words):
            chosen.apps = ["django"]
    if not 1 <= chosen.rounds <= MOST_ROUNDS:
        parser.error(f"--rounds is 1 to {MOST_ROUNDS}")
    chosen.cold_rounds = min(chosen.cold_rounds, chosen.rounds)
    return chosen


def forge_program(chosen):
    """forge as it is installed: a release build of this tree."""
    if chosen.forge:
        return chosen.forge.resolve()
    machine.install({"cc": "gcc", "git": "git"})
    machine.say("builds forge")
    if subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=False).returncode != 0:
        raise machine.Failed("forge could not be built")
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release" / "forge"


def compare(chosen, host, program):
    """The comparison."""
    machine.debian_first()
    wanted = {name: package for name, package in PROGRAMS.items() if name != "buildah" or "buildah" in chosen.tools}
    machine.install(wanted)
    # From Debian 13 on, Docker's client is a package of its own.
    machine.install({"docker": "docker-cli"})
    if not machine.run(["docker", "--version"]).startswith("Docker version 20."):
        # That client builds with BuildKit by a plugin only, which Debian has under this name.
        machine.install({"/usr/libexec/docker/cli-plugins/docker-buildx": "docker-buildx"})
    kept = chosen.kept.resolve() if chosen.kept else host.path("bases")
    kept.mkdir(parents=True, exist_ok=True)
    registry = Registry(host)
    apps = [APPS[name](host.path("apps")) for name in chosen.apps]
    for app in apps:
        app.rounds = chosen.rounds
        app.cache = chosen.kept and kept / "gems-cache"
        app.prepare(host)
    gem_server = next((app.gem_server for app in apps if app.gem_server), None)
    build_arguments = bases.fill(host, registry, kept, with_node="rails" in chosen.apps)
    secrets = bases.secrets(host, gem_server)
    Forge.program = program
    tools = [TOOLS[name](host, registry.address, build_arguments, secrets) for name in chosen.tools]
    for tool in tools:
        if tool.name == "buildah":
            tool.choose(build_arguments["BASE"])
    results = Results(chosen, host, program)
    docker = next((tool for tool in tools if tool.name == "docker"), None) or Docker(host, registry.address, {}, {})
    check = (lambda *_: None) if chosen.no_check else Checker(host, docker, registry, results.found)
    runner = Runner(registry, results.add)
    for app in apps:
        runner.app(app, tools, chosen.scenarios, chosen.rounds, chosen.cold_rounds, check)
    results.finish()
    return 1 if results.failures else 0


def main(words):
    chosen = arguments(words)
    # Whoever ends the runner ends what it started.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    try:
        if os.geteuid() != 0:
            raise machine.Failed("run as root: daemons are started, and packages installed")
        with machine.Machine(keep=chosen.keep) as host:
            program = forge_program(chosen)
            if chosen.what == "growth":
                from . import growth
                status = growth.run(chosen, host, program)
            else:
                status = compare(chosen, host, program)
    except machine.Failed as error:
        print(f"benches/compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benches/compare: interrupted; all that was started has ended", file=sys.stderr)
        return 130
    machine.say(f"done after {(time.monotonic() - started) / 60:.1f} minutes")
    return status
