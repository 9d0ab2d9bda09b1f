"""How forge's own time grows: with files, dependencies, layers, and independent steps.

Each curve has apps of growing size, made here. Of each size: the first build (what all sizes share is known before), a build
with nothing changed, and one after an edit of one file; of dependencies also a bump of one. No registry, and no peer:
the image is built, not sent.
"""

import base64
import hashlib
import io
import os
import statistics
import sys
import zipfile

from . import machine, meter, plot
from .tools import environment

SIZES = {"files": (1_000, 3_000, 10_000, 30_000, 100_000), "dependencies": (10, 30, 100, 300, 1_000),
         "layers": (1, 3, 10, 30, 100), "width": (1, 3, 10, 30, 100)}
ABOUT = {"files": "files in the source", "dependencies": "Python packages", "layers": "steps, each a layer of the image",
         "width": "steps side by side, one layer of all"}
PIECE = "x = 1\n" * 300

BUILDPACK = """name = "own"
about = "own"
priority = 99
match = ["procfile.web"]
looks_for = "a Procfile"
[[base]]
release = "trixie"
[[packages]]
base = ["ca-certificates", "libstdc++6", "python3", "tzdata"]
"""


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def files(folder, count):
    """An app of `count` files of 1.8 kB, a hundred in a folder."""
    write(folder, "Procfile", "web: true\n")
    write(folder, ".forge/buildpacks/own.toml", BUILDPACK)
    for number in range(count):
        write(folder, f"code/{number // 100}/{number}.py", f"# {number}\n{PIECE}")
    return "code/0/0.py"


def step(name, more):
    return (f'[[step]]\nname = "{name}"\nabout = ""\nroot = ["base"]\noutputs = ["opt/{name}"]\n'
            f'command = ["sh", "-euc", "mkdir -p /opt/{name}; echo {name} > /opt/{name}/file"]\n{more}')


def layers(folder, count):
    """Steps that each make a layer."""
    steps = "".join(step(f"s{number}", "in_image = true\n") for number in range(count))
    write(folder, "Procfile", "web: true\n")
    write(folder, "code.py", "x = 1\n")
    write(folder, ".forge/buildpacks/own.toml", BUILDPACK + steps)
    return "code.py"


def width(folder, count):
    """Steps that need nothing of each other, and one that takes what they made."""
    steps = "".join(step(f"s{number}", "") for number in range(count))
    roots = ", ".join(f'"s{number}"' for number in range(count))
    steps += f'[[step]]\nname = "all"\nabout = ""\nroot = [{roots}]\ntake = ["opt"]\nin_image = true\n'
    write(folder, "Procfile", "web: true\n")
    write(folder, "code.py", "x = 1\n")
    write(folder, ".forge/buildpacks/own.toml", BUILDPACK + steps)
    return "code.py"


def wheel(folder, name, version):
    """A wheel of one module; gives its sha256."""
    module = name.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    contents = {f"{module}/__init__.py": f'VERSION = "{version}"\n',
                f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
                f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: forge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    record = ""
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(text)}\n"
    contents[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, text in contents.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    file = folder / name / f"{module}-{version}-py3-none-any.whl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.getvalue())
    return hashlib.sha256(data.getvalue()).hexdigest()


class Growth:
    """The store that all sizes share, and the index of synthetic packages."""

    def __init__(self, host, program, record):
        self.host, self.program, self.record = host, program, record
        self.group = meter.Group("growth")
        host.finally_do(self.group.close)
        self.store, self.variables, self.pins = host.path("store"), {}, {}

    def forge(self, folder):
        # An empty value: the caller's variable is not passed on.
        variables = {name: value for name, value in environment(self.store, **self.variables).items() if value}
        meter.command(self.group, [self.program, "--store", self.store, "--progress", "none", "build", folder],
                      self.host.path("logs") / "forge", variables)

    def timed(self, curve, size, what, number, folder):
        os.sync()
        cost = meter.measure(self.group, lambda: self.forge(folder))
        machine.say(f"{curve}, {size}, {what}: {cost.wall:.3f} s, {cost.memory / 1e6:.0f} MB")
        self.record({"curve": curve, "size": size, "build": what, "round": number, "wall_s": cost.wall,
                     "cpu_s": cost.processor, "memory_bytes": cost.memory})

    def index(self, most, rounds):
        """Packages `bench-0` … on the loopback; the first has a version for each round. First, from the real
        index, what forge itself needs of one."""
        folder = self.host.path("index")
        first = self.requirements(self.host.path("apps", "first"), ["asgiref"])
        self.forge(first)
        names = [f"bench-{number}" for number in range(most)]
        for name in names:
            for version in range(rounds + 1 if name == names[0] else 1):
                self.pins[name, version] = f"{name}==1.{version} --hash=sha256:{wheel(folder, name, f'1.{version}')}"
        port = machine.free_port()
        self.host.serve([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder, port],
                        self.host.path("logs") / "index")
        machine.wait("the index' start", lambda: machine.answers(port))
        drop = [name for name in os.environ if name.lower().startswith(("pip_", "uv_"))]
        self.variables = {**{name: "" for name in drop}, "PIP_INDEX_URL": f"http://127.0.0.1:{port}",
                          "UV_DEFAULT_INDEX": f"http://127.0.0.1:{port}"}

    def requirements(self, folder, lines):
        write(folder, "requirements.txt", "\n".join(lines) + "\n")
        write(folder, "Procfile", "web: python app.py\n")
        write(folder, "app.py", "x = 1\n")
        return folder

    def dependencies(self, folder, count, version=0):
        lines = [self.pins[f"bench-{number}", version if number == 0 else 0] for number in range(count)]
        self.requirements(folder, lines)
        return "app.py"

    def curve(self, curve, sizes, rounds):
        """All sizes of a curve."""
        if curve == "dependencies":
            self.index(max(sizes), rounds)
        else:
            # The base and its lock are the same for all sizes.
            folder = self.host.path("apps", f"{curve}-first")
            files(folder, 1)
            self.forge(folder)
        for size in sizes:
            folder = self.host.path("apps", f"{curve}-{size}")
            make = self.dependencies if curve == "dependencies" else {"files": files, "layers": layers, "width": width}[curve]
            edited = folder / make(folder, size)
            self.timed(curve, size, "first", 1, folder)
            for number in range(1, rounds + 1):
                self.timed(curve, size, "nothing", number, folder)
                with open(edited, "a", encoding="utf-8") as file:
                    file.write(f"# {number}\n")
                self.timed(curve, size, "code", number, folder)
                if curve == "dependencies":
                    self.dependencies(folder, size, number)
                    with open(edited, "a", encoding="utf-8") as file:
                        file.write(f"# {number}\n")
                    self.timed(curve, size, "dependency", number, folder)
            # What a second look at the same tree costs is known now; the next size needs the disk.
            machine.remove(folder)


def run(chosen, host, program):
    """All curves that are asked for."""
    curves = chosen.curves.split(",") if chosen.curves else list(SIZES)
    for curve in curves:
        if curve not in SIZES:
            raise machine.Failed(f"there is no curve {curve}; there are {', '.join(SIZES)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    columns, rows = ("curve", "size", "build", "round", "wall_s", "cpu_s", "memory_bytes"), []
    table = chosen.out / "growth.tsv"
    table.write_text("\t".join(columns) + "\n", encoding="utf-8")

    def record(row):
        rows.append(row)
        with open(table, "a", encoding="utf-8") as file:
            file.write("\t".join(f"{row[name]:.4f}" if name.endswith("_s") else str(row[name]) for name in columns) + "\n")

    growth = Growth(host, program, record)
    for curve in curves:
        sizes = SIZES[curve][:3] if chosen.quick else SIZES[curve]
        growth.curve(curve, sizes, chosen.rounds)
        growth.variables = {}
        series = {}
        for what in ("first", "nothing", "code", "dependency"):
            for size in sizes:
                values = [row["wall_s"] for row in rows if (row["curve"], row["size"], row["build"]) == (curve, size, what)]
                if values:
                    series.setdefault(what, []).append((size, statistics.median(values), min(values), max(values)))
        plot.lines(chosen.out / f"growth-{curve}.svg", f"forge: {ABOUT[curve]}", ABOUT[curve], "seconds", series)
    machine.say(f"results are in {chosen.out}")
    return 0
