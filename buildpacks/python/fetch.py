"""Downloads the files that the lock names, checked by hash, and lays them out so that a step
can take what it installs and nothing else:

    /opt/forge/wheels/source-NAME/   a source archive, of a package that has a step to compile it
    /opt/forge/wheels/package-NAME/  a wheel, of a package that has a step to install it
    /opt/forge/wheels/part-N/        other wheels: a package's name decides which part it is in, for ever
    /opt/forge/wheels/sources/       other source archives
    /opt/forge/wheels/build/         what sources are built with

Each but the last has its lines of the lock in `locked.txt`. Three variables are lists of words,
one a line: COMPILED, packages that have a step to compile them, LARGE, those that have one to
install them, and PARTS.

Files are kept by hash in /forge/cache between builds, each with its name beside it, so that
a changed lock fetches what is new in it and asks an index for nothing else. Where the step that
chose has noted where a file is, the index is not asked again.
"""

import concurrent.futures
import hashlib
import os
import shutil
import sys
import threading

sys.dont_write_bytecode = True
from index import CACHE, LOCK, Index, intact, note, read
from pip._internal.models.link import Link
from pip._vendor.packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from pip._vendor.packaging.version import InvalidVersion, Version

WHEELS = "/opt/forge/wheels"
local = threading.local()
# Of which packages the index was asked for files.
asked = []


def noted(path, name, version):
    """The words of a note, if there is one and the first is the plain name of a file of this package and version."""
    try:
        with open(path, encoding="utf-8") as file:
            words = file.read().split(" ")
        parse = parse_wheel_filename if words[0].endswith(".whl") else parse_sdist_filename
        found = parse(words[0])[:2]
        plain = os.path.basename(words[0]) == words[0]
        return words if plain and found == (canonicalize_name(name), Version(version)) else None
    except (FileNotFoundError, UnicodeDecodeError, InvalidSdistFilename, InvalidWheelFilename, InvalidVersion):
        # Then the index is asked, as it is for a file that was never here.
        return None


def placed(index, name, version, digest, target):
    """The name of a file of which it is noted where it is, which is then at `target`."""
    words = noted(index.place(digest), name, version)
    if words is None or len(words) != 2:
        return None
    try:
        index.download(Link(words[1]), {digest}, target)
    except (Exception, SystemExit) as error:
        print(f"{words[0]} is not where it was ({error}): asking the index", flush=True)
        return None
    return words[0]


def fetch(options, name, version, hashes):
    """The path at which a file is kept, its name, and how many bytes were fetched for that."""
    kept = os.path.join(CACHE, hashes[0])
    name_of_it = f"{kept}.name"
    there = intact(kept, hashes[0])
    words = noted(name_of_it, name, version) if there else None
    if words is not None:
        return kept, words[0], 0
    if not hasattr(local, "index"):
        local.index = Index(options)
    filename = None if there else placed(local.index, name, version, hashes[0], kept)
    if filename is None:
        link = local.index.best(name, version, hashes)
        asked.append(name)
        filename = link.filename
        if not there:
            local.index.download(link, set(hashes), kept)
    note(name_of_it, filename)
    return kept, filename, 0 if there else os.path.getsize(kept)


def folder(name, filename, compiled, large, parts):
    """Where a package's file lies."""
    name = canonicalize_name(name)
    if not filename.endswith(".whl"):
        return f"source-{name}" if name in compiled else "sources"
    if name in large:
        return f"package-{name}"
    # Of the name alone, so that a bump moves nothing.
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return f"part-{parts[number % len(parts)]}"


def main():
    # Without such packages the variable is not there.
    compiled, large = (os.environ.get(name, "").split() for name in ("COMPILED", "LARGE"))
    parts = os.environ["PARTS"].split()
    os.makedirs(WHEELS)
    os.makedirs(CACHE, exist_ok=True)
    locked, options = read(os.path.join(LOCK, "locked.txt"))
    build, _ = read(os.path.join(LOCK, "build.txt"))
    entries = lambda found: {(name, version, tuple(hashes)) for name, version, hashes in found}
    wanted = sorted(entries(locked) | entries(build))
    files, total = {}, 0
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = {pool.submit(fetch, options, *entry): entry for entry in wanted}
        for count, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            kept, filename, fetched = job.result()
            files[jobs[job]] = kept, filename
            total += fetched
            print(f"{count}/{len(wanted)} {filename}{'' if fetched else ' (had it)'}", flush=True)
    for entry in sorted(entries(locked)):
        name, version, hashes = entry
        kept, filename = files[entry]
        to = os.path.join(WHEELS, folder(name, filename, compiled, large, parts))
        os.makedirs(to, exist_ok=True)
        shutil.copyfile(kept, os.path.join(to, filename))
        with open(os.path.join(to, "locked.txt"), "a", encoding="utf-8") as file:
            file.write(f"{name}=={version} --hash=sha256:{hashes[0]}\n")
    for entry in sorted(entries(build)):
        kept, filename = files[entry]
        os.makedirs(os.path.join(WHEELS, "build"), exist_ok=True)
        shutil.copyfile(kept, os.path.join(WHEELS, "build", filename))
    print(f"{len(wanted)} files, {total / 1e6:.1f} MB downloaded; the index was asked for {len(asked)}")


main()
