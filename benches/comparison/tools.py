"""The tools: how each builds and pushes an image, and what a machine without its state is.

Each tool has for each app a `home`, the folder of all it keeps. `build` is what is timed. `fresh` gives a home that is empty.
"""

import os
import pathlib
import shutil

from . import machine, meter

# Names of variables by which this machine's indexes and certificates are found; nothing else of the caller reaches a tool.
NETWORK = ("pip_", "uv_", "npm_config_", "ssl_cert", "http_proxy", "https_proxy", "no_proxy", "all_proxy")


def environment(home, **more):
    """What a tool sees of the caller's environment."""
    kept = {name: value for name, value in os.environ.items() if name.lower().startswith(NETWORK)}
    return {**kept, "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8", **more}


# Where buildah keeps what it knows of blobs, when root runs it.
CACHE = pathlib.Path("/var/lib/containers/cache")


class Tool:
    """One tool. `registry` is the address that it sees; `arguments` and `secrets` are the peers'."""

    def __init__(self, host, registry, arguments, secrets):
        self.host, self.registry, self.arguments, self.secrets = host, registry, arguments, secrets
        self.group = meter.Group(self.name)
        host.finally_do(self.group.close)
        self.log = host.path("logs") / self.name
        self.count = 0

    def new_home(self, app):
        """An empty home."""
        self.count += 1
        return self.host.path("homes", self.name, f"{app.name}-{self.count}")

    def open(self, home):
        """What must run before a build with this home; not timed."""

    def close(self, home):
        """The end of what `open` started; the home stays."""

    def drop(self, home):
        """Removes a home for good."""
        self.close(home)
        machine.remove(home)

    def before_fresh(self, app, home, folder, image):
        """What an earlier run left in the registry for runners that start empty; not timed."""

    def build_arguments(self):
        """The words that the peers' builds share."""
        words = []
        for name, value in sorted(self.arguments.items()):
            words += ["--build-arg", f"{name}={value}"]
        for name, path in sorted(self.secrets.items()):
            words += ["--secret", f"id={name},src={path}"]
        return words

    def command(self, words, home, **more):
        meter.command(self.group, words, self.log, environment(home, **more))


class Forge(Tool):
    """forge, with the image's own repository as cache, which is what `--push` does by itself."""

    name = "forge"
    program = None

    def build(self, app, home, folder, image, fresh=False):
        more = {"BUNDLE_MIRROR__ALL": app.gem_server} if app.gem_server else {}
        self.command([self.program, "--store", home / "store", "--progress", "none", "build", folder,
                      "--tag", f"{self.registry}/{image}", "--push"], home, **more)

    def know_base(self, app, home):
        """Makes the store know the app's base and nothing more: another app with the same one was built here."""
        folder = self.host.path("base-apps", f"{app.name}-{self.count}")
        (folder / ".forge" / "buildpacks").mkdir(parents=True)
        (folder / "Procfile").write_text("web: true\n", encoding="utf-8")
        packages = ", ".join(f'"{name}"' for name in app.base())
        (folder / ".forge" / "buildpacks" / "own.toml").write_text(
            'name = "own"\nabout = "own"\npriority = 99\nmatch = ["procfile.web"]\nlooks_for = ""\n'
            f'[[base]]\nrelease = "trixie"\n[[packages]]\nbase = [{packages}]\n', encoding="utf-8")
        self.command([self.program, "--store", home / "store", "--progress", "none", "build", folder], home)


class Docker(Tool):
    """`docker build` with BuildKit and the frontend that is built in, by a daemon of the run's own."""

    name = "docker"

    def open(self, home):
        if (home / "daemon").exists():
            return
        (home / "daemon").mkdir()
        self.host.path("sockets")
        # A socket's path may have 107 bytes only.
        socket = self.socket(home)
        self.daemons = getattr(self, "daemons", {})
        self.daemons[home] = self.host.serve(
            ["dockerd", "--host", f"unix://{socket}", "--data-root", home / "data", "--exec-root", home / "exec",
             "--pidfile", home / "daemon" / "pid", "--iptables=false", "--ip6tables=false", "--bridge=none",
             "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", self.group.parent_of_containers()],
            self.host.path("logs") / "dockerd", before=self.group.join,
            env=environment(home, TMPDIR=str(home / "daemon")))
        machine.wait("dockerd's start", lambda: self.up(socket))

    def socket(self, home):
        return self.host.path("sockets") / f"{home.name}"

    @staticmethod
    def up(socket):
        try:
            machine.run(["docker", "--host", f"unix://{socket}", "version"])
        except machine.Failed:
            return False
        return True

    def close(self, home):
        if (home / "daemon").exists():
            self.host.end(self.daemons.pop(home))
            shutil.rmtree(home / "daemon")

    def docker(self, home, words):
        client = self.host.path("docker-client")
        self.command(["docker", "--config", client, "--host", f"unix://{self.socket(home)}", *words], home,
                     DOCKER_BUILDKIT="1")

    def build(self, app, home, folder, image, fresh=False):
        name = f"{self.registry}/{image}"
        words = ["build", "--network=host", "--progress=plain", "--file", app.dockerfile, "--tag", name,
                 "--build-arg", "BUILDKIT_INLINE_CACHE=1", *self.build_arguments()]
        if fresh:
            words += ["--cache-from", name]
        self.docker(home, [*words, folder])
        self.docker(home, ["push", "--quiet", name])


class Buildah(Tool):
    """buildah, in the first of these ways of isolation that work on this machine."""

    name = "buildah"
    WAYS = (("overlay", "oci"), ("overlay", "chroot"), ("vfs", "chroot"))
    way = None

    def buildah(self, home, words, way=None):
        for name in ("tmp", "cache"):
            (home / name).mkdir(exist_ok=True)
        driver, _ = way or self.way
        # What it knows of blobs in registries lies in one place for all of root's storages: here each home has its own.
        CACHE.mkdir(parents=True, exist_ok=True)
        alone = ["unshare", "--mount", "sh", "-euc", 'mount --bind "$0" "$1"; shift; exec "$@"', home / "cache", CACHE]
        self.command([*alone, "buildah", "--root", home / "root", "--runroot", home / "run", "--storage-driver", driver, *words],
                     home, TMPDIR=str(home / "tmp"))

    def choose(self, base):
        """Tries the ways with the smallest of builds."""
        failed = []
        for way in self.WAYS:
            home = self.host.path("homes", "buildah", f"probe-{way[0]}-{way[1]}")
            (home / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN cat /proc/self/cgroup\n", encoding="utf-8")
            try:
                self.buildah(home, ["build", "--isolation", way[1], "--runtime", "runc", "--network", "host", "--layers",
                                    "--tls-verify=false", "--build-arg", f"BASE={base}", "--tag", "probe", home], way)
            except machine.Failed as error:
                failed.append(f"{way[0]} with {way[1]}: {str(error).strip().splitlines()[-1]}")
            else:
                self.way = way
            machine.remove(home)
            if self.way:
                break
        for reason in failed:
            machine.say(f"buildah does not run here as {reason}")
        if not self.way:
            raise machine.Failed("buildah runs in no way on this machine")
        machine.say(f"buildah: storage {self.way[0]}, isolation {self.way[1]}")

    def words(self, app, folder, name, more):
        return ["build", "--isolation", self.way[1], "--runtime", "runc", "--network", "host", "--layers", "--tls-verify=false",
                "--ignorefile", pathlib.Path(f"{app.dockerfile}.dockerignore"), "--file", self.dockerfile(app), "--tag", name,
                *self.build_arguments(), *more, folder]

    def dockerfile(self, app):
        """The app's, without locks on cache mounts: with two in one RUN, buildah before 1.29 waits for itself for ever.

        They are not needed, as it makes one stage after another."""
        path = self.host.path("buildah") / f"{app.name}.Dockerfile"
        path.write_text(app.dockerfile.read_text(encoding="utf-8").replace(",sharing=locked", ""), encoding="utf-8")
        return path

    def build(self, app, home, folder, image, fresh=False):
        name = f"{self.registry}/{image}"
        cache = ["--cache-from", name.rsplit(":", 1)[0] + "/cache"] if fresh else []
        self.buildah(home, self.words(app, folder, name, cache))
        self.buildah(home, ["push", "--quiet", "--tls-verify=false", name])

    def before_fresh(self, app, home, folder, image):
        name = f"{self.registry}/{image}"
        self.buildah(home, self.words(app, folder, name, ["--cache-to", name.rsplit(":", 1)[0] + "/cache"]))


TOOLS = {"forge": Forge, "docker": Docker, "buildah": Buildah}
