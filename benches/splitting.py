"""What a registry is sent again when one package is bumped, for several ways to layer an environment.

    benches/splitting.py             simulates the bumps in benches/splitting.tsv; TSV to standard output,
                                     the plot to docs/splitting.svg
    benches/splitting.py gather      makes benches/splitting.tsv anew: installs the environment as the index
                                     would have given it on each of DATES, with uv, and measures it

An environment is what an application with PACKAGES has. From one date to the next each package that has another
version is bumped, one after the other: real versions with their real sizes, unpacked and compressed (zlib, level 4).
forge's own layers are those that forge assigns (`benches/splitting.rs`), not a second opinion about them.
"""

import csv
import hashlib
import math
import os
import re
import subprocess
import sys
import tempfile
import zlib

FOLDER = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(FOLDER, "splitting.tsv")
PLOT = os.path.join(FOLDER, "..", "docs", "splitting.svg")
DATES = ["2023-07-01", "2024-01-01", "2024-07-01", "2025-01-01", "2025-07-01", "2026-01-01", "2026-07-01"]
PACKAGES = """aiohttp babel beautifulsoup4 boto3 celery cryptography django django-filter django-redis
djangorestframework gunicorn httpx jinja2 lxml matplotlib networkx numpy openpyxl orjson pandas pillow psycopg2-binary
pydantic pyjwt redis reportlab requests scikit-learn scipy sentry-sdk sqlalchemy uvicorn weasyprint whitenoise""".split()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def measure(site, info):
    """Bytes of a package's files, as they are and compressed."""
    unpacked = compressed = 0
    with open(os.path.join(site, info, "RECORD"), newline="") as record:
        files = sorted(row[0] for row in csv.reader(record) if row)
    for file in files:
        path = os.path.join(site, file)
        if os.path.isfile(path):
            with open(path, "rb") as content:
                data = content.read()
            unpacked += len(data)
            compressed += len(zlib.compress(data, 4))
    return unpacked, compressed


def gather():
    known = {}
    with tempfile.TemporaryDirectory() as work, open(DATA + ".new", "w") as out:
        out.write("date\tpackage\tversion\tunpacked\tcompressed\n")
        for date in DATES:
            place = os.path.join(work, date)
            uv = ["uv", "--quiet", "--cache-dir", os.path.join(work, "cache")]
            subprocess.run([*uv, "venv", "--python", "3.11", place], check=True)
            subprocess.run([*uv, "pip", "install", "--python", os.path.join(place, "bin", "python"),
                            "--only-binary", ":all:", "--exclude-newer", f"{date}T00:00:00Z", *PACKAGES], check=True)
            site = os.path.join(place, "lib", "python3.11", "site-packages")
            for info in sorted(os.listdir(site)):
                found = re.fullmatch(r"(.+)-([^-]+)\.dist-info", info)
                if found:
                    package = (normal(found[1]), found[2])
                    if package not in known:
                        known[package] = measure(site, info)
                    out.write("\t".join(map(str, (date, *package, *known[package]))) + "\n")
    os.replace(DATA + ".new", DATA)


def history():
    """The environment at first, and after each bump: name and what there is then."""
    dates = {}
    with open(DATA, newline="") as data:
        for row in csv.DictReader(data, delimiter="\t"):
            entry = (row["version"], int(row["unpacked"]), int(row["compressed"]))
            dates.setdefault(row["date"], {})[row["package"]] = entry
    dates = [dates[date] for date in sorted(dates)]
    state = dict(dates[0])
    states = [("", state)]
    for before, after in zip(dates, dates[1:]):
        # Within half a year nobody knows the order; any that does not follow the names will do.
        names = sorted(before.keys() | after.keys(), key=lambda name: hashlib.sha256(name.encode()).digest())
        for name in names:
            # What comes or goes is no bump, but a bump may well bring it.
            if before.get(name) != after.get(name):
                state = {**state, name: after.get(name)}
                if after.get(name) is None:
                    del state[name]
                states.append((name, state))
    return states


def forge(states):
    """The layer of each package in each environment, by forge."""
    text = "".join("".join(f"{name} {entry[1]}\n" for name, entry in sorted(state.items())) + "\n"
                   for _, state in states)
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "splitting"]
    run = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True,
                         cwd=os.path.join(FOLDER, ".."))
    return [dict(line.split("\t") for line in block.split("\n") if line)
            for block in run.stdout.split("\n\n")[:len(states)]]


def layers(state, places):
    found = {}
    for name, entry in state.items():
        found.setdefault(places(name), set()).add((name, *entry))
    return found


def simulate(states, places):
    """Bytes that are sent again with each bump, the most layers, and how many bumps changed several."""
    sent, most, several, known = [], 0, 0, None
    for (_, state), place in zip(states, places):
        now = layers(state, place)
        most = max(most, len(now))
        if known is not None:
            new = [layer for layer in now.values() if layer not in known]
            sent.append(sum(entry[3] for layer in new for entry in layer))
            several += len(new) > 1
        known = list(now.values())
    return sent, most, several


def plot(series):
    """Cumulated bytes over bumps, on a logarithmic scale."""
    width, height, left, bottom = 720, 360, 70, 40
    count = len(next(iter(series.values())))
    top, low = 100e9, 1e6
    def point(number, value):
        x = left + number * (width - left - 150) / count
        share = (math.log10(max(value, low)) - math.log10(low)) / (math.log10(top) - math.log10(low))
        return x, height - bottom - share * (height - bottom - 20)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for power, label in [(6, "1 MB"), (7, "10 MB"), (8, "100 MB"), (9, "1 GB"), (10, "10 GB"), (11, "100 GB")]:
        _, y = point(0, 10 ** power)
        out.append(f'<line x1="{left}" x2="{width - 150}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for number in range(0, count + 1, 100):
        x, _ = point(number, low)
        out.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{number}</text>')
    out.append(f'<text x="{left}" y="{height - 6}">bumps of one package, from {DATES[0]} to {DATES[-1]}; bytes sent until then</text>')
    for (name, sent), colour in zip(series.items(), ["#c33", "#26a", "#999"]):
        total, points = 0, []
        for number, value in enumerate(sent, 1):
            total += value
            points.append("{:.1f},{:.1f}".format(*point(number, total)))
        x, y = point(count, total)
        out.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" fill="{colour}">{name}: {total / 1e9:.1f} GB</text>')
    out.append("</svg>\n")
    with open(PLOT, "w") as file:
        file.write("\n".join(out))


def main():
    if sys.argv[1:] == ["gather"]:
        return gather()
    states = history()
    assigned = forge(states)
    ways = {
        "one layer": [lambda _: "all"] * len(states),
        "forge": [place.__getitem__ for place in assigned],
        "one each": [lambda name: name] * len(states),
    }
    series = {name: simulate(states, places) for name, places in ways.items()}
    print("bump\tpackage\t" + "\t".join(series))
    for number, (name, _) in enumerate(states[1:]):
        print("\t".join([str(number + 1), name, *(str(sent[number]) for sent, *_ in series.values())]))
    for name, (sent, most, several) in series.items():
        order = sorted(sent)
        print(f"{name}: {len(sent)} bumps, {most} layers at most, mean {sum(sent) / len(sent) / 1e6:.2f} MB, "
              f"median {order[len(order) // 2] / 1e6:.2f} MB, 90 % below {order[len(order) * 9 // 10] / 1e6:.2f} MB, "
              f"highest {order[-1] / 1e6:.1f} MB, {several} changed several layers", file=sys.stderr)
    plot({name: sent for name, (sent, *_) in series.items()})


main()
