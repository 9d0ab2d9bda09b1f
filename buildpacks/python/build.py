"""Builds a wheel of a source archive in /tmp/built.

In a folder that the archive's name decides: some packages keep the path at which they were
built (uwsgi does), and where uv builds by itself is called otherwise each time.
"""

import os
import stat
import sys
import tarfile
import zipfile

BUILT = "/tmp/built"
# What is built with, where building needs anything.
TOOLS = "/opt/forge/wheels/build"


def unpack(archive, folder):
    if archive.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                path = file.extract(member, folder)
                # Scripts that are run while it is built; zipfile itself drops that.
                if member.external_attr >> 16 & stat.S_IXUSR and not member.is_dir():
                    os.chmod(path, 0o755)
    else:
        with tarfile.open(archive) as file:
            safely = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
            file.extractall(folder, **safely)


def main():
    archive = sys.argv[1]
    name = os.path.basename(archive)
    folder = os.path.join("/tmp/sources", name)
    unpack(archive, folder)
    found = os.listdir(folder)
    if len(found) != 1:
        raise SystemExit(f"{name} is no source archive of a package: it has {len(found)} files and folders, not one folder")
    tools = ["--find-links", TOOLS] if os.path.isdir(TOOLS) else []
    os.execvp("uv", ["uv", "--no-progress", "build", "--wheel", "--python", "/usr/bin/python3", "--no-index", *tools,
                     "--out-dir", BUILT, os.path.join(folder, found[0])])


main()
