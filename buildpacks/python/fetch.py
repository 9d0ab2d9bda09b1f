"""Downloads the files that the lock names to /opt/forge/wheels, checked by hash.

Files are kept by hash in /forge/cache between builds, so that a changed lock
fetches what is new in it.
"""

import concurrent.futures
import hashlib
import os
import shutil
import sys
import threading

sys.dont_write_bytecode = True
from index import LOCK, Index, read

WHEELS = "/opt/forge/wheels"
CACHE = "/forge/cache"
local = threading.local()


def intact(path, expected):
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 16):
                digest.update(chunk)
    except FileNotFoundError:
        return False
    return digest.hexdigest() == expected


def fetch(options, name, version, hashes):
    if not hasattr(local, "index"):
        local.index = Index(options)
    link = local.index.best(name, version, hashes)
    kept = os.path.join(CACHE, hashes[0])
    fetched = 0
    # The folder is shared: what is in it counts only if it is what its name says.
    if not intact(kept, hashes[0]):
        local.index.download(link, set(hashes), kept)
        fetched = os.path.getsize(kept)
    shutil.copyfile(kept, os.path.join(WHEELS, link.filename))
    return link.filename, fetched


def main():
    os.makedirs(WHEELS)
    os.makedirs(CACHE, exist_ok=True)
    locked, options = read(os.path.join(LOCK, "locked.txt"))
    build, _ = read(os.path.join(LOCK, "build.txt"))
    wanted = sorted({(name, version, tuple(hashes)) for name, version, hashes in locked + build})
    total = 0
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(fetch, options, *entry) for entry in wanted]
        for count, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            name, fetched = job.result()
            total += fetched
            print(f"{count}/{len(wanted)} {name}{'' if fetched else ' (had it)'}", flush=True)
    print(f"{len(wanted)} files, {total / 1e6:.1f} MB downloaded")


main()
