"""The registry of a run: docker-registry on the loopback behind the counting proxy, and what is asked of it directly.

`address` is the proxy's, for the tools. The runner itself asks and fills the registry past the proxy.
"""

import gzip
import hashlib
import json
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

from . import machine

MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
# No proxy of the environment stands before the loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Registry:
    """A running registry."""

    def __init__(self, host):
        folder = host.path("registry")
        self.port = machine.free_port()
        config = folder / "config.yml"
        config.write_text(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
            f"storage:\n  filesystem:\n    rootdirectory: {folder}/data\nhttp:\n  addr: 127.0.0.1:{self.port}\n",
            encoding="utf-8")
        host.serve(["docker-registry", "serve", config], folder / "log")
        machine.wait("the registry's start", lambda: machine.answers(self.port))
        self.proxy = host.serve([sys.executable, pathlib.Path(__file__).with_name("proxy.py"), self.port],
                                folder / "proxy.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = f"127.0.0.1:{int(self.proxy.stdout.readline())}"

    def counters(self):
        """Bytes sent to the registry, bytes received from it, connections; since it started."""
        self.proxy.stdin.write("?\n")
        self.proxy.stdin.flush()
        return [int(word) for word in self.proxy.stdout.readline().split()]

    def ask(self, method, path, body=None, **headers):
        """One request, past the proxy; the answer's headers and body."""
        address = path if path.startswith("http") else f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(address, data=body, method=method, headers=headers)
        try:
            with OPENER.open(request, timeout=machine.PATIENCE) as answer:
                return answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            raise machine.Failed(f"the registry refused {method} {path}: {error.code} {error.read()[:500]!r}") from None

    def manifest(self, name):
        """An image's digest and manifest; `name` is `repository:tag`."""
        repository, tag = name.rsplit(":", 1)
        headers, body = self.ask("GET", f"/v2/{repository}/manifests/{tag}", Accept=", ".join(MANIFESTS))
        return headers["Docker-Content-Digest"], json.loads(body)

    def size(self, name):
        """An image's digest, and its compressed bytes: layers and configuration."""
        digest, manifest = self.manifest(name)
        return digest, sum(part["size"] for part in [manifest["config"], *manifest["layers"]])

    def put_blob(self, repository, data):
        """Sends a blob, and gives its descriptor's digest and size."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        headers, _ = self.ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        location = headers["Location"]
        separator = "&" if "?" in location else "?"
        self.ask("PUT", f"{location}{separator}digest={digest}", data, **{"Content-Type": "application/octet-stream"})
        return {"digest": digest, "size": len(data)}

    def put_image(self, name, layers, environment=()):
        """Makes an image of tar archives (paths) under `repository:tag`, in Docker's types, which every tool reads."""
        repository, tag = name.rsplit(":", 1)
        kind = "application/vnd.docker"
        diffs, descriptors = [], []
        for layer in layers:
            data = pathlib.Path(layer).read_bytes()
            diffs.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
            packed = gzip.compress(data, 6, mtime=0)
            descriptors.append({"mediaType": f"{kind}.image.rootfs.diff.tar.gzip", **self.put_blob(repository, packed)})
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        config = {
            "architecture": "amd64", "os": "linux", "created": "1980-01-01T00:00:01Z",
            "config": {"Env": [path, *environment], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diffs},
            "history": [{"created": "1980-01-01T00:00:01Z", "created_by": "benches/compare"} for _ in diffs],
        }
        manifest = {
            "schemaVersion": 2, "mediaType": f"{kind}.distribution.manifest.v2+json",
            "config": {"mediaType": f"{kind}.container.image.v1+json",
                       **self.put_blob(repository, json.dumps(config).encode())},
            "layers": descriptors,
        }
        self.ask("PUT", f"/v2/{repository}/manifests/{tag}", json.dumps(manifest).encode(),
                 **{"Content-Type": manifest["mediaType"]})
