"""What forge's steps need of pip: how it finds a file of a package.

pip's own finder is used, so that every setting that works for pip works here:
index addresses, proxies, certificates, credentials in its configuration,
environment or netrc.
"""

import hashlib
import os
import re

from pip._internal.commands import create_command
from pip._internal.models.target_python import TargetPython
from pip._internal.utils.hashes import Hashes
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.specifiers import SpecifierSet

LOCK = "/opt/forge/lock"
OPTION = re.compile(r"^(-i|--index-url|--extra-index-url|-f|--find-links|--trusted-host|--pre)\b")


def read(path):
    """The requirements of a file as (name, version, sha256s), and its option lines."""
    text = open(path, encoding="utf-8").read().replace("\\\n", " ")
    found, options = [], []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("-"):
            if OPTION.match(line):
                options.append(line)
            continue
        hashes = re.findall(r"--hash[= ]sha256:([0-9a-f]{64})", line)
        requirement = Requirement(re.split(r"\s--hash|\s+#", line)[0])
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        versions = [clause.version for clause in requirement.specifier if clause.operator in ("==", "===")]
        if len(versions) != 1:
            raise SystemExit(f"{path}: `{line}` is not pinned to one version")
        found.append((requirement.name, versions[0], hashes))
    return found, options


class Index:
    """Finds and downloads files as pip would."""

    def __init__(self, options=()):
        command = create_command("download")
        arguments = [word for line in options for word in line.replace("=", " ", 1).split(None, 1)]
        self.options, _ = command.parse_args([*arguments, "--no-deps", "none"])
        self.session = command._build_session(self.options, retries=5, timeout=60)
        self.finder = command._build_package_finder(
            options=self.options, session=self.session, target_python=TargetPython()
        )

    def best(self, name, version, hashes):
        """The link of the best file for this Python: a wheel that fits, else the source."""
        allowed = Hashes({"sha256": list(hashes)}) if hashes else None
        result = self.finder.find_best_candidate(name, SpecifierSet(f"==={version}"), allowed)
        candidate = result.best_candidate
        if candidate is None:
            result = self.finder.find_best_candidate(name, SpecifierSet(f"=={version}"), allowed)
            candidate = result.best_candidate
        if candidate is None:
            raise SystemExit(f"the index has no file of {name} {version} that fits this Python")
        known = candidate.link.hash if candidate.link.hash_name == "sha256" else None
        if hashes and known is not None and known not in hashes:
            raise SystemExit(
                f"{candidate.link.filename} has sha256 {known}, which is not among the hashes that the lock file allows"
            )
        return candidate.link

    def download(self, link, expected, target):
        """Writes the file to `target`; its sha256 must be among `expected`, if any. Returns its sha256."""
        digest = hashlib.sha256()
        partial = f"{target}.part-{os.getpid()}"
        if link.is_file:
            chunks = iter(lambda file=open(link.file_path, "rb"): file.read(1 << 16), b"")
        else:
            response = self.session.get(link.url.split("#")[0], headers={"Accept-Encoding": "identity"}, stream=True)
            response.raise_for_status()
            chunks = response.iter_content(1 << 16)
        with open(partial, "wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        if expected and digest.hexdigest() not in expected:
            os.unlink(partial)
            raise SystemExit(
                f"{link.filename} has sha256 {digest.hexdigest()}; expected {' or '.join(sorted(expected))}"
            )
        os.rename(partial, target)
        return digest.hexdigest()
