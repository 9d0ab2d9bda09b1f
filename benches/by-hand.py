#!/usr/bin/env python3
"""What a cold build takes, beside the same work by hand: one command after another.

    benches/by-hand.py [--rounds N] [--pigz] [--forge PROGRAM] [--keep] APP...

APP is the folder of an example (`examples/django-logbook`, `examples/rails-seedswap`); it is copied,
and `forge.lock` is made first, if the app has none. Then, in turns: the commands by hand, and
`forge build --push` without a store. Prints tab-separated values: a line for each command of each
round, then the sums, what forge took, and their ratio; wall and processor seconds.

Wants root (mounts, chroot), Debian's mmdebstrap, docker-registry, curl, for Rails npm and
BUNDLE_MIRROR__ALL (see examples/rails-seedswap/README.md), for --pigz pigz. Mirrors and indexes are
the machine's own, for both the same.

Where the two are not the same:
- apt cannot do without package indexes: `index` is their download, which forge with its lock leaves
  out. `sum_without_index` is what remains. Choosing is apt's, of the same names as in the lock, with the
  same versions.
- By hand the build packages are installed at once into one copy of the base; forge makes small sets, so
  that more can be kept, and installs uv, and for Rails a second npm, which is more work. By hand pip
  installs, which is slower than uv.
- By hand no result is hashed or kept, nothing is isolated, and nothing is made reproducible; forge also
  looks for the libraries that are linked against, which by hand are known from the lock.
- By hand the image has no launcher.
- The downloads of both are cold; the pages of the mirrors and of the disk may be warm for both.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOTHING_OF = ["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian",
              "usr/share/bug", "var/cache", "var/log", "var/lib/apt/lists", "run", "proc", "sys", "dev"]


def print_row(*fields):
    print("\t".join(f"{field:.2f}" if isinstance(field, float) else str(field) for field in fields), flush=True)


def timed(command, log, **more):
    """Wall seconds and processor seconds of a command and all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode != 0:
        sys.exit(f"by-hand: `{shlex.join(command)[:200]}` failed with {done.returncode}; see {log.name}")
    return wall, cpu


def mirrors():
    """Debian's main and security archive, as this machine's apt has them."""
    text = ""
    for folder, _, names in os.walk("/etc/apt"):
        for name in sorted(names):
            if name.endswith((".list", ".sources")):
                with open(os.path.join(folder, name)) as file:
                    text += "".join(line for line in file if not line.lstrip().startswith("#"))
    found = re.findall(r"https?://\S+", text)
    main = next((one for one in found if one.rstrip("/").endswith("/debian")), "http://ftp.debian.org/debian")
    security = next((one for one in found if "debian-security" in one), "http://security.debian.org/debian-security")
    return main.rstrip("/"), security.rstrip("/")


class Lock:
    """What forge has chosen."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.lock = tomllib.load(file)
        self.release = self.lock["packages"][0]["release"].split()[0].rstrip(",").split("/")[0]

    def packages(self, wanted):
        """`name=version` of each package of the steps that are wanted, each once."""
        names = {}
        for one in self.lock["packages"]:
            if wanted(one["step"]):
                for package in one["packages"]:
                    name, version = package.split()[:2]
                    names[name] = f"{name}={version}"
        return list(names.values())

    def pin(self, step, path):
        return next(pin["files"][path] for pin in self.lock["pin"] if pin["step"] == step)


class Hand:
    """One round by hand."""

    def __init__(self, app, work, registry, round_number, gzip):
        self.app, self.work, self.registry, self.round, self.gzip = app, work, registry, round_number, gzip
        self.lock = Lock(os.path.join(app, "forge.lock"))
        self.rows = []
        self.log = open(os.path.join(os.path.dirname(work), f"hand-{round_number}.log"), "ab")
        self.layers = []

    def do(self, name, command):
        wall, cpu = timed(["bash", "-euo", "pipefail", "-c", command], self.log, cwd=self.work)
        self.rows.append((name, wall, cpu))
        print(f"by-hand: {self.round}: {name}: {wall:.1f} s", file=sys.stderr, flush=True)

    def at(self, *parts):
        return os.path.join(self.work, *parts)

    def inside(self, root, command, environment="", binds=()):
        """The command, in a root folder with this machine's network."""
        steps = [f"mount -t proc proc {root}/proc", f"mount --bind /dev {root}/dev"]
        for source, target in binds:
            steps.append(f"mkdir -p {root}/{target} && mount --bind {source} {root}/{target}")
        kept = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(os.environ.items())
                        if re.match(r"(https?_proxy|no_proxy|SSL_CERT_FILE|NODE_EXTRA_CA_CERTS|PIP_(CERT|INDEX_URL|DEFAULT_TIMEOUT)|BUNDLE_MIRROR__ALL|npm_config_\w+)$",
                                    name, re.I))
        steps.append(f"exec chroot {root} env -i PATH=/layers/venv/bin:/layers/gems/bin:/layers/node/bin:/usr/sbin:/usr/bin:/sbin:/bin "
                     f"HOME=/root LANG=C.UTF-8 {kept} {environment} sh -euc {shlex.quote(command)}")
        return f"unshare -m sh -euc {shlex.quote('; '.join(steps))}"

    def machine_settings(self, root):
        """What this machine's network wants; by hand it is there, and is not timed."""
        for path in ["etc/resolv.conf", "etc/pip.conf", "etc/npmrc", "etc/ssl/certs/ca-certificates.crt"]:
            if os.path.exists("/" + path):
                os.makedirs(os.path.dirname(self.at(root, path)), exist_ok=True)
                shutil.copyfile("/" + path, self.at(root, path))
        for name in [".npmrc", ".pip/pip.conf", ".config/pip/pip.conf"]:
            path = os.path.join(os.path.expanduser("~"), name)
            if os.path.exists(path):
                os.makedirs(os.path.dirname(self.at(root, "root", name)), exist_ok=True)
                shutil.copyfile(path, self.at(root, "root", name))

    def apt(self, root, packages):
        """apt of this machine, installing into a root folder."""
        options = ["APT::Architecture=amd64", "APT::Install-Recommends=false", f"Dir={self.at(root)}",
                   f"DPkg::Chroot-Directory={self.at(root)}", "DPkg::Options::=--force-unsafe-io",
                   f"Dir::State::status={self.at(root)}/var/lib/dpkg/status", "DPkg::Use-Pty=0"]
        given = " ".join(f"-o {shlex.quote(option)}" for option in options)
        return (f"DEBIAN_FRONTEND=noninteractive apt-get {given} -y -q --allow-downgrades install "
                + " ".join(map(shlex.quote, packages)))

    def base(self):
        main, security = mirrors()
        release = self.lock.release
        sources = [f"deb {main} {release} main", f"deb {main} {release}-updates main",
                   f"deb {security} {release}-security main"]
        index = self.at("index")
        hook = (f'date +%s.%N > {index}; APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q update; date +%s.%N >> {index}')
        names = ",".join(self.lock.packages(lambda step: step == "base"))
        self.do("base", f"mmdebstrap --mode=root --variant=essential --skip=update,cleanup/apt,check/empty "
                        f"--setup-hook={shlex.quote(hook)} --include={shlex.quote(names)} "
                        f"--dpkgopt=force-unsafe-io {release} root " + " ".join(map(shlex.quote, sources)))
        begin, end = (float(line) for line in open(index))
        name, wall, cpu = self.rows.pop()
        self.rows.append(("index", end - begin, 0.0))
        self.rows.append((name, wall - (end - begin), cpu))

    def build_root(self):
        self.do("copy of the base", "cp -a --reflink=auto root build")
        self.machine_settings("build")
        self.do("build packages", self.apt("build", self.lock.packages(lambda step: step.startswith("build"))))

    def run_root(self, given=()):
        packages = self.lock.packages(lambda step: step == "runtime")
        self.do("copy of the base for the app", "cp -a --reflink=auto root run; touch stamp; sleep 0.01")
        if packages:
            self.do("runtime packages", self.apt("run", packages))
        self.do("list of what the runtime packages added",
                "cd run; find . -xdev -cnewer ../stamp ! -type d ! -path './var/cache/*' ! -path './var/log/*' > ../added")

    def layer(self, name, folder, what="."):
        excluded = " ".join(f"--exclude=./{path}/*" for path in NOTHING_OF)
        tar = (f"tar --sort=name --mtime=@315532801 --owner=0 --group=0 --numeric-owner {excluded} "
               f"-C {folder} -c {what}")
        self.do(f"layer {name}", f"{tar} | tee >(sha256sum > {name}.diff) | {self.gzip} > {name}.gz; "
                                 f"sha256sum {name}.gz > {name}.digest; while ! grep -q . {name}.diff; do :; done")
        self.layers.append(name)

    def push(self):
        repository = f"http://{self.registry}/v2/by-hand-{self.round}"

        def upload(path, digest):
            self.do(f"push {os.path.basename(path)}",
                    f"where=$(curl -sSf -o /dev/null -D - -X POST {repository}/blobs/uploads/ | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p'); "
                    f'curl -sSf -o /dev/null -X PUT -T {path} -H "Content-Type: application/octet-stream" "$where&digest=sha256:{digest}"')

        def word(path):
            return open(self.at(path)).read().split()[0]

        descriptors = []
        for name in self.layers:
            upload(f"{name}.gz", word(f"{name}.digest"))
            descriptors.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + word(f"{name}.digest"),
                                "size": os.path.getsize(self.at(f"{name}.gz"))})
        config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
                  "rootfs": {"type": "layers", "diff_ids": ["sha256:" + word(f"{name}.diff") for name in self.layers]}}
        text = json.dumps(config).encode()
        digest = hashlib.sha256(text).hexdigest()
        open(self.at("config"), "wb").write(text)
        upload("config", digest)
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + digest, "size": len(text)},
                    "layers": descriptors}
        open(self.at("manifest"), "w").write(json.dumps(manifest))
        self.do("push manifest", f"curl -sSf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' "
                                 f"--data-binary @manifest {repository}/manifests/v1")

    def common_layers(self):
        self.layer("base", "root")
        if os.path.getsize(self.at("added")):
            self.layer("runtime", "run", f"-T {self.at('added')}")

    def django(self):
        self.base()
        self.build_root()
        shutil.copyfile(os.path.join(self.app, "requirements.txt"), self.at("build/requirements.txt"))
        pip = "/usr/bin/python3 -m pip --disable-pip-version-check --no-cache-dir --quiet"
        self.do("pip download", self.inside("build", f"{pip} download -d /wheels -r /requirements.txt && {pip} download -d /wheels setuptools wheel"))
        self.do("pip install", self.inside("build", "python3 -m venv --without-pip /layers/venv && "
                f"{pip} --python /layers/venv/bin/python install --no-index --find-links /wheels --no-deps -r /requirements.txt"))
        self.run_root()
        self.do("copy of the app", f"mkdir -p run/workspace app/workspace; cp -a {self.app}/. run/workspace; cp -a {self.app}/. app/workspace; rm app/workspace/forge.lock")
        self.do("collectstatic", self.inside(
            "run", "cd /workspace && python manage.py collectstatic --noinput",
            "SECRET_KEY=placeholder DATABASE_URL=postgres://forge:forge@127.0.0.1:5432/forge PYTHONDONTWRITEBYTECODE=1",
            [(self.at("build/layers"), "layers")]))
        self.common_layers()
        self.layer("packages", "build", "./layers")
        self.layer("static", "run", "./workspace/staticfiles")
        self.layer("app", "app")
        self.push()

    def rails(self):
        self.base()
        self.build_root()
        self.do("copy of the app", f"for root in build app; do mkdir -p $root/workspace; cp -a {self.app}/. $root/workspace; done; rm app/workspace/forge.lock")
        bundle = "BUNDLE_PATH=/layers/gems BUNDLE_DEPLOYMENT=true BUNDLE_WITHOUT=development:test BUNDLE_APP_CONFIG=/tmp/bundle NOKOGIRI_USE_SYSTEM_LIBRARIES=true"
        self.do("bundle install", self.inside("build", f"cd /workspace && {bundle} bundle install"))
        for line in self.lock.pin("node-lock", "opt/forge/node/packages").splitlines():
            name = line.split()[0]
            if "arm64" in name:
                continue
            kind = "node" if name.startswith("node-linux") else "npm"
            to = "build/layers/node" if kind == "node" else "build/layers/node/lib/node_modules/npm"
            self.do(f"download of {kind}", f"npm pack --silent --cache {self.at('npm-cache')} {name} > {kind}.name; mkdir -p {to}; tar -xzf $(cat {kind}.name) -C {to} --strip-components=1")
        self.do("link to npm", "cd build/layers/node; mkdir -p bin; [ -e bin/npm ] || ln -s ../lib/node_modules/npm/bin/npm-cli.js bin/npm; chmod +x lib/node_modules/npm/bin/npm-cli.js")
        self.do("npm ci", self.inside("build", "cd /workspace && npm ci --no-audit --no-fund --cache /tmp/npm"))
        self.run_root()
        self.do("assets:precompile", self.inside(
            "run", f"cd /workspace && {bundle} RAILS_ENV=production NODE_ENV=production SECRET_KEY_BASE_DUMMY=1 DATABASE_URL=postgres://forge:forge@127.0.0.1:5432/forge "
            "REDIS_URL=redis://127.0.0.1:6379/0 bin/rails assets:precompile", "",
            [(self.at("build/layers"), "layers"), (self.at("build/workspace"), "workspace")]))
        self.common_layers()
        self.layer("gems", "build", "./layers/gems")
        self.layer("assets", "build", "./workspace/public")
        self.layer("app", "app")
        self.push()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start_registry(folder):
    port = free_port()
    config = os.path.join(folder, "registry.yml")
    with open(config, "w") as file:
        file.write(f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {folder}/registry\nhttp:\n  addr: 127.0.0.1:{port}\n")
    log = open(os.path.join(folder, "registry.log"), "wb")
    process = subprocess.Popen(["docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/").close()
            return process, f"127.0.0.1:{port}"
        except OSError:
            time.sleep(0.1)
    process.terminate()
    sys.exit("by-hand: the registry does not start")


def remove(path):
    if os.path.lexists(path):
        subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


def median(values):
    values = sorted(values)
    return values[len(values) // 2]


def measure(arguments, source, folder, registry):
    name = os.path.basename(os.path.normpath(source))
    place = os.path.join(folder, name)
    os.makedirs(place)
    app = os.path.join(place, "app")
    shutil.copytree(source, app)
    log = open(os.path.join(place, "forge.log"), "ab")
    if not os.path.exists(os.path.join(app, "forge.lock")):
        timed([arguments.forge, "--store", os.path.join(place, "store"), "--progress", "none", "build", app], log)
    results = []
    for number in range(arguments.rounds):
        # In folders of their own, which go at the very end: ext4 is slow to make files for a
        # while after many were removed.
        work, store = os.path.join(place, f"hand-{number}"), os.path.join(place, f"store-{number}")
        os.makedirs(work)
        hand = Hand(app, work, registry, f"{name}-{number}", arguments.gzip)
        hand.rails() if os.path.exists(os.path.join(app, "Gemfile")) else hand.django()
        for what, wall, cpu in hand.rows:
            print_row(name, number, what, wall, cpu)
        wall, cpu = timed([arguments.forge, "--store", store, "--progress", "none", "build", app, "--locked", "--push", "--tag", f"{registry}/forge-{name}-{number}:v1"], log)
        total = sum(row[1] for row in hand.rows)
        bare = total - sum(row[1] for row in hand.rows if row[0] == "index")
        for what, one, other in [("sum", total, sum(row[2] for row in hand.rows)), ("sum_without_index", bare, sum(row[2] for row in hand.rows)),
                                 ("forge", wall, cpu)]:
            print_row(name, number, what, one, other)
        print_row(name, number, "ratio", wall / total, wall / bare)
        results.append((total, bare, wall))
    for what, column in [("sum", 0), ("sum_without_index", 1), ("forge", 2)]:
        print_row(name, "median", what, median([row[column] for row in results]), "")
    print_row(name, "median", "ratio", median([row[2] / row[0] for row in results]), median([row[2] / row[1] for row in results]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pigz", action="store_true", help="compress on all processors")
    parser.add_argument("--forge", help="the program, instead of the release build of this folder")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    parser.add_argument("apps", nargs="+", metavar="APP")
    arguments = parser.parse_args()
    arguments.gzip = "pigz -n" if arguments.pigz else "gzip -n"
    if os.geteuid() != 0:
        sys.exit("by-hand: run as root: a root folder is made and entered")
    if not arguments.forge:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=HERE, check=True)
        arguments.forge = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "target")), "release", "forge")
    folder = tempfile.mkdtemp(prefix="by-hand-")
    os.chmod(folder, 0o755)
    process, registry = start_registry(folder)
    print_row("app", "round", "command", "wall_s", "cpu_s")
    try:
        for source in arguments.apps:
            measure(arguments, os.path.abspath(source), folder, registry)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        if arguments.keep:
            print(f"by-hand: kept {folder}", file=sys.stderr)
        else:
            remove(folder)


if __name__ == "__main__":
    main()
