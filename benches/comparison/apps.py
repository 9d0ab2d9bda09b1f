"""The apps: how each is prepared, edited and asked whether it lives.

Every tool has a copy of its own, and all get the same edits. An edit has the number of its round in it, so that nothing
that was built before fits; a bump takes a version that no earlier round had.
"""

import hashlib
import json
import pathlib
import re
import shutil
import sys

from . import machine

ROOT = pathlib.Path(__file__).parents[2]
PEERS = ROOT / "benches" / "peers"
# How many rounds there are versions for.
MOST_ROUNDS = 9
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any"]


class App:
    """An app in a folder of the run; `template` and `code` are (file, comment with %s)."""

    environment = ()

    def __init__(self, name, template, code, folder):
        self.name, self.template, self.code = name, template, code
        self.rounds, self.cache = MOST_ROUNDS, None
        self.source = folder / name
        self.dockerfile = PEERS / name / "Dockerfile"
        self.gem_server = None

    def copy(self, target):
        """A copy for one tool."""
        shutil.copytree(self.source, target, ignore=shutil.ignore_patterns("forge.lock", "node_modules", "__pycache__"))
        return target

    def edit(self, what, folder, number):
        """Changes a copy: `template`, `code` or `dependency`."""
        if what == "dependency":
            self.bump(folder, number)
        else:
            file, comment = getattr(self, what)
            with open(folder / file, "a", encoding="utf-8") as target:
                target.write(comment % number + "\n")

    def base(self):
        """Debian packages of forge's base for this app."""
        return ["ca-certificates", "libstdc++6", "python3", "tzdata"]


class PythonApp(App):
    """An app with requirements.txt; `bumped` names one small package in it."""

    bumped = ""

    def prepare(self, host):
        """Finds what the bumps are."""
        folder = host.path("bumps", self.name)
        text = (self.source / "requirements.txt").read_text(encoding="utf-8")
        found = re.search(rf"^{self.bumped}==(\S+)( \\\n +--hash=\S+)*", text, re.MULTILINE)
        if not found:
            raise machine.Failed(f"{self.source}/requirements.txt does not pin {self.bumped}")
        self.pin, self.older = found[0], []
        version = found[1]
        for _ in range(self.rounds):
            wheel = folder / version
            # A version at a time: each is the newest one before the one before.
            machine.run([host.python(), "-m", "pip", "download", "--quiet", "--no-deps",
                         "--only-binary", ":all:", "--dest", wheel, f"{self.bumped}<{version}"])
            [file] = wheel.glob("*.whl")
            version = file.name.split("-")[1]
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            self.older.append(f"{self.bumped}=={version} \\\n    --hash=sha256:{digest}")

    def version(self):
        """A command in the image that prints the version of what was bumped."""
        return ["python", "-c", f"import importlib.metadata; print(importlib.metadata.version('{self.bumped}'))"]

    def bumped_to(self, number):
        """What it prints after a bump."""
        return re.search(r"==(\S+)", self.older[number - 1])[1]

    def bump(self, folder, number):
        path = folder / "requirements.txt"
        text = path.read_text(encoding="utf-8")
        for pin in [self.pin, *self.older]:
            text = text.replace(pin, self.older[number - 1])
        path.write_text(text, encoding="utf-8")


class Django(PythonApp):
    """examples/django-logbook."""

    bumped = "sqlparse"
    environment = ("SECRET_KEY=check", "DATABASE_URL=postgres://check@127.0.0.1/check")

    def __init__(self, folder):
        super().__init__("django", ("templates/base.html", "<!-- %s -->"), ("journal/views.py", "# %s"), folder)

    def prepare(self, host):
        shutil.copytree(ROOT / "examples" / "django-logbook", self.source,
                        ignore=shutil.ignore_patterns("forge.lock", "__pycache__"))
        super().prepare(host)


class Environment(PythonApp):
    """A Flask app with 400 MB of packages, locked anew for each run from the index in use."""

    bumped = "certifi"

    def __init__(self, folder):
        super().__init__("environment", ("templates/index.html", "<!-- %s -->"), ("app.py", "# %s"), folder)

    def prepare(self, host):
        shutil.copytree(PEERS / "environment" / "app", self.source)
        report = host.path("bumps") / "environment.json"
        machine.say("locks the 400 MB environment")
        machine.run([host.python(), "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
                     "--report", report, "--only-binary", ":all:", "--python-version", "3.13", "--implementation", "cp",
                     "--abi", "cp313", "--abi", "abi3", "--abi", "none",
                     *[word for platform in PLATFORMS for word in ("--platform", platform)],
                     "--target", host.path("bumps", "nothing"), "-r", self.source / "requirements.in"])
        pins = {}
        for entry in json.loads(report.read_text(encoding="utf-8"))["install"]:
            name, version = entry["metadata"]["name"].lower(), entry["metadata"]["version"]
            digest = entry["download_info"]["archive_info"]["hashes"]["sha256"]
            pins[re.sub(r"[-_.]+", "-", name)] = f"=={version} \\\n    --hash=sha256:{digest}\n"
        text = "".join(name + pins[name] for name in sorted(pins))
        (self.source / "requirements.txt").write_text(text, encoding="utf-8")
        super().prepare(host)


class Rails(App):
    """examples/rails-seedswap, with a small gem of many versions; the gems come from a server on the loopback."""

    environment = ("SECRET_KEY_BASE=check", "DATABASE_URL=postgres://check@127.0.0.1/check",
                   "REDIS_URL=redis://127.0.0.1:6379/0")

    def __init__(self, folder):
        super().__init__("rails", ("app/views/packets/index.html.erb", "<%%# %s %%>"), ("app/models/packet.rb", "# %s"),
                         folder)

    def prepare(self, host):
        shutil.copytree(ROOT / "examples" / "rails-seedswap", self.source, ignore=shutil.ignore_patterns("forge.lock"))
        with open(self.source / "Gemfile", "a", encoding="utf-8") as file:
            file.write('\ngem "seed-note"\n')
        words = []
        for number in range(MOST_ROUNDS + 1):
            gem = host.path("gems", f"seed-note-{number}")
            (gem / "seed-note.gemspec").write_text(
                f'Gem::Specification.new do |gem|\n  gem.name = "seed-note"\n  gem.version = "1.0.{number}"\n'
                '  gem.summary = "A gem that is bumped"\n  gem.authors = ["forge"]\n'
                '  gem.files = ["lib/seed-note.rb"]\nend\n', encoding="utf-8")
            (gem / "lib").mkdir()
            (gem / "lib" / "seed-note.rb").write_text(f'module SeedNote\n  VERSION = "1.0.{number}"\nend\n', encoding="utf-8")
            words += ["-g", gem]
        machine.say("makes a gem server of Debian's packages")
        served = host.path("gems") / "served"
        machine.run([ROOT / "tests" / "gem-server" / "make-gem-server", "-c", self.cache or host.path("gems-cache"), *words,
                     "-a", self.source, served], log=host.path("logs") / "gem-server")
        port = machine.free_port()
        host.serve([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", served, port],
                   host.path("logs") / "gems-served")
        machine.wait("the gem server's start", lambda: machine.answers(port))
        self.gem_server = f"http://127.0.0.1:{port}"
        self.bump(self.source, 0)

    def version(self):
        return ["bundle", "exec", "ruby", "-e", "require 'seed-note'; puts SeedNote::VERSION"]

    def bumped_to(self, number):
        return f"1.0.{number}"

    def bump(self, folder, number):
        path = folder / "Gemfile.lock"
        text, count = re.subn(r"seed-note \(1\.0\.\d+\)", f"seed-note (1.0.{number})", path.read_text(encoding="utf-8"))
        if count != 1:
            raise machine.Failed(f"{path} does not pin seed-note")
        path.write_text(text, encoding="utf-8")

    def base(self):
        return ["ca-certificates", "libstdc++6", "ruby", "ruby-bundler", "tzdata"]


APPS = {"django": Django, "rails": Rails, "environment": Environment}
