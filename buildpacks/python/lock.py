"""Writes which files exactly will be installed, each with its one hash:

    /opt/forge/lock/locked.txt   the app's packages
    /opt/forge/lock/build.txt    what building the sources among them needs

Arguments: the manager (`uv`, `pip`, `pyproject`) and its file.
"""

import concurrent.futures
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile

sys.dont_write_bytecode = True
from index import LOCK, Index, read
from pip._vendor.packaging.utils import canonicalize_name

PYTHON = "/usr/bin/python3"


def uv(*arguments):
    status = subprocess.run(["uv", "--no-progress", *arguments]).returncode
    if status != 0:
        raise SystemExit(status)


def compile_requirements(source, target):
    uv("pip", "compile", "--quiet", "--python", PYTHON, "--no-header", "--no-annotate", "--generate-hashes",
       "--output-file", target, source)


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
    return sorted({*(requires or ["setuptools>=40.8.0"]), *(["wheel"] if requires is None else [])})


def demanded(source):
    """The hashes that a requirements file and those it includes insist on, by package and version."""
    found, todo, seen = {}, [os.path.normpath(source)], set()
    while todo:
        path = todo.pop()
        if path in seen or not os.path.exists(path):
            continue
        seen.add(path)
        with open(path, encoding="utf-8") as file:
            text = file.read().replace("\\\n", " ")
        for line in text.splitlines():
            include = re.match(r"\s*(?:-r|-c|--requirement|--constraint)[ =]*(\S+)", line)
            if include:
                todo.append(os.path.normpath(os.path.join(os.path.dirname(path), include[1])))
            pin = re.match(r"\s*([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*===?\s*([^\s;]+)", line)
            hashes = re.findall(r"--hash[= ]sha256:([0-9a-f]{64})", line)
            if pin and hashes:
                found[canonicalize_name(pin[1]), pin[2]] = hashes
    return found


def pinned(index, name, version, hashes, folder):
    """One line of a lock, and the path of the source archive if there is no wheel."""
    link = index.best(name, version, hashes)
    digest = link.hash if link.hash_name == "sha256" else None
    archive = None
    if digest is None or not link.is_wheel:
        archive = os.path.join(folder, link.filename)
        digest = index.download(link, {digest} if digest else set(hashes), archive)
    return f"{name}=={version} --hash=sha256:{digest}", None if link.is_wheel else archive


def pin(index, requirements, folder):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        lines = list(pool.map(lambda entry: pinned(index, *entry, folder), requirements))
    return sorted({line for line, _ in lines}), [archive for _, archive in lines if archive]


def main():
    manager, source = sys.argv[1:]
    os.makedirs(LOCK)
    os.chdir("/workspace")
    options, insisted = [], {}
    with tempfile.TemporaryDirectory() as folder:
        everything = os.path.join(folder, "all.txt")
        if manager == "uv":
            uv("export", "--quiet", "--locked", "--no-default-groups", "--no-emit-workspace", "--no-header",
               "--no-annotate", "--python", PYTHON, "--format", "requirements-txt", "--output-file", everything)
        else:
            compile_requirements(source, everything)
            insisted = demanded(source) if manager == "pip" else {}
            for path, _, names in os.walk("/workspace"):
                for name in sorted(names):
                    if name.endswith((".txt", ".in")):
                        with open(os.path.join(path, name), encoding="utf-8") as file:
                            options += [line.strip() for line in file if line.startswith(("-i ", "--index-url", "--extra-index-url", "-f ", "--find-links"))]
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
            compile_requirements(ask, answer)
            lines, more = pin(index, read(answer)[0], folder)
            todo += [archive for archive in more if not build.issuperset(lines)]
            build.update(lines)
    for name, lines in (("locked.txt", locked), ("build.txt", sorted(build))):
        with open(os.path.join(LOCK, name), "w", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in [*options, *lines]))
    print(f"{len(locked)} packages, {len(sources)} of them from source; {len(build)} to build these")


main()
