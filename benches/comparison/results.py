"""What was measured, on disk: `runs.tsv` as it comes, then `summary.tsv`, `table.md` and the plots.

The table is also put into docs/performance.md, between its marks, when the results go where that file looks for them.
"""

import os
import pathlib
import platform
import statistics
import time

from . import machine, plot
from .scenarios import SCENARIOS

ROOT = pathlib.Path(__file__).parents[2]
COLUMNS = ("app", "scenario", "tool", "round", "wall_s", "cpu_s", "memory_bytes", "sent_bytes", "received_bytes",
           "connections", "image_bytes", "digest", "error")
MEASURES = ("wall_s", "cpu_s", "memory_bytes", "sent_bytes", "received_bytes", "image_bytes")
LABELS = {"cold": "cold", "base": "cold, base known", "nothing": "nothing changed", "template": "a template edited",
          "code": "code edited", "dependency": "a dependency bumped", "fresh": "fresh runner, warm registry"}
BEGIN, END = "<!-- benches/compare writes from here -->", "<!-- to here -->"


def circumstances(chosen):
    """One sentence on the machine."""
    processor = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), platform.machine())
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / 2 ** 20
    note = f" {chosen.note}" if chosen.note else ""
    return (f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} processors ({processor}), {memory:.0f} GiB, "
            f"Linux {platform.release()}; rounds: {chosen.rounds}, of them cold: {chosen.cold_rounds}.{note}")


def version(words):
    """The first line of what a program says of its version."""
    return machine.run(words).splitlines()[0]


def spread(values, form):
    """A median with its lowest and highest."""
    values = sorted(values)
    middle = form(statistics.median(values))
    low, high = form(values[0]), form(values[-1])
    return middle if low == high else f"{middle} ({low}–{high})"


def megabytes(value):
    return f"{value / 1e6:.0f}" if value >= 1e7 else f"{value / 1e6:.1f}" if value >= 1e5 else f"{value / 1e6:.3f}"


def seconds(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


class Results:
    """Collects rows; `failures` are those of builds and images that failed."""

    def __init__(self, chosen, host, program):
        self.chosen, self.rows, self.checked = chosen, [], []
        self.out = chosen.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.load = os.getloadavg()[0]
        self.versions = [version([program, "--version"])]
        if "docker" in chosen.tools:
            self.versions.append(version(["dockerd", "--version"]))
        if "buildah" in chosen.tools:
            self.versions.append(version(["buildah", "--version"]))
        for name, columns in (("runs.tsv", COLUMNS), ("images.tsv", ("app", "tool", "found"))):
            (self.out / name).write_text("\t".join(columns) + "\n", encoding="utf-8")

    @property
    def failures(self):
        return [row for row in self.rows if "error" in row] + [row for row in self.checked if "failed" in row["found"]]

    def add(self, row):
        """One timed build."""
        self.rows.append(row)
        shown = {name: f"{value:.3f}" if isinstance(value, float) else str(value).replace("\t", " ")
                 for name, value in row.items()}
        with open(self.out / "runs.tsv", "a", encoding="utf-8") as file:
            file.write("\t".join(shown.get(name, "") for name in COLUMNS) + "\n")

    def found(self, row):
        """What an image was found to be."""
        self.checked.append(row)
        with open(self.out / "images.tsv", "a", encoding="utf-8") as file:
            file.write("\t".join([row["app"], row["tool"], row["found"].replace("\t", " ")]) + "\n")

    def of(self, app, scenario, tool):
        """The good runs of a cell, and whether one failed."""
        rows = [row for row in self.rows if (row["app"], row["scenario"], row["tool"]) == (app, scenario, tool)]
        return [row for row in rows if "error" not in row], any("error" in row for row in rows)

    def cells(self):
        for app in self.chosen.apps:
            for scenario in SCENARIOS:
                for tool in self.chosen.tools:
                    rows, failed = self.of(app, scenario, tool)
                    if rows or failed:
                        yield app, scenario, tool, rows, failed

    def finish(self):
        """Writes what is made of all rows."""
        self.summary()
        text = self.table()
        (self.out / "table.md").write_text(text, encoding="utf-8")
        for app in self.chosen.apps:
            self.plot(app, "wall_s", "seconds, build and push", 1, "wall")
            self.plot(app, "sent_bytes", "MB sent to the registry", 1e6, "sent")
        page = ROOT / "docs" / "performance.md"
        if self.out.resolve() == (ROOT / "docs" / "performance").resolve():
            before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
            _, end, after = rest.partition(END)
            if not end:
                raise machine.Failed(f"{page} has no marks for the table: {BEGIN} and {END}")
            page.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")
        machine.say(f"results are in {self.out}")

    def summary(self):
        columns = ["app", "scenario", "tool", "rounds", *[f"{name}_{part}" for name in MEASURES
                                                          for part in ("median", "low", "high")]]
        lines = ["\t".join(columns)]
        for app, scenario, tool, rows, _ in self.cells():
            words = [app, scenario, tool, str(len(rows))]
            for name in MEASURES:
                values = [row[name] for row in rows]
                for of_values in (statistics.median, min, max):
                    value = of_values(values) if values else ""
                    words.append(f"{value:.3f}" if isinstance(value, float) else str(value))
            lines.append("\t".join(words))
        (self.out / "summary.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def table(self):
        """A Markdown table for each app. The shortest time of a scenario is bold, whoever has it."""
        lines = [f"Measured on {circumstances(self.chosen)} Load of the machine before: {self.load:.1f}. "
                 f"{'; '.join(self.versions)}.", ""]
        for app in self.chosen.apps:
            lines += [f"### {app}", "", "| | | wall, s | processors, s | memory, MB | sent, MB | received, MB | image, MB |",
                      "| --- | --- | --- | --- | --- | --- | --- | --- |"]
            medians, last = {}, None
            for name, scenario, _, rows, _ in self.cells():
                if name == app and rows:
                    medians.setdefault(scenario, []).append(statistics.median(row["wall_s"] for row in rows))
            for name, scenario, tool, rows, failed in self.cells():
                if name != app:
                    continue
                label, last = ("" if scenario == last else LABELS.get(scenario, scenario)), scenario
                if not rows:
                    lines.append(f"| {label} | {tool} | failed | | | | | |")
                    continue
                wall = spread([row["wall_s"] for row in rows], seconds)
                of_all = medians[scenario]
                if len(of_all) > 1 and statistics.median(row["wall_s"] for row in rows) == min(of_all):
                    wall = f"**{wall}**"
                words = [wall + (" (and failed)" if failed else ""), spread([row["cpu_s"] for row in rows], seconds)]
                words += [spread([row[column] for row in rows], megabytes) for column in MEASURES[2:5]]
                words.append(megabytes(statistics.median(row["image_bytes"] for row in rows)))
                lines.append(f"| {label} | {tool} | {' | '.join(words)} |")
            lines += ["", f"![wall time](performance/{app}-wall.svg)", "", f"![bytes sent](performance/{app}-sent.svg)", ""]
            for row in self.checked:
                if row["app"] == app and "failed" in row["found"]:
                    lines += [f"The image of {row['tool']} {row['found']}.", ""]
        return "\n".join(lines)

    def plot(self, app, measure, unit, divisor, name):
        groups = []
        for scenario in SCENARIOS:
            tools = []
            for tool in self.chosen.tools:
                values = [row[measure] / divisor for row in self.of(app, scenario, tool)[0]]
                if values:
                    tools.append((tool, statistics.median(values), min(values), max(values)))
            if tools:
                groups.append((scenario, tools))
        if groups:
            plot.bars(self.out / f"{app}-{name}.svg", f"{app}: {unit}", unit.split(",", maxsplit=1)[0].split(" ")[0], groups)
