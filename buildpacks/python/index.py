"""What forge's steps need of pip: how it finds a file of a package.

pip's own finder is used, so that every setting that works for pip works here:
index addresses, proxies, certificates, credentials in its configuration,
environment or netrc.
"""

import hashlib
import os
import re
import threading
import urllib.parse

from pip._internal.commands import create_command
from pip._internal.models.index import PyPI
from pip._internal.models.target_python import TargetPython
from pip._internal.utils.hashes import Hashes
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.specifiers import SpecifierSet
from pip._vendor.packaging.utils import canonicalize_name

LOCK = "/opt/forge/lock"
# Survives builds, and other builds write into it too: what is in it counts only if it is what its name says.
CACHE = "/forge/cache"
# Paths of indexes that say nothing of who asks.
OPEN_PATHS = ("", "simple", "pypi/simple")
OPTION = re.compile(
    r"^(-i|--index-url|--extra-index-url|-f|--find-links|--trusted-host|--pre|--no-binary|--only-binary)\b"
)
INCLUDE = re.compile(r"^(-r|--requirement|-c|--constraint)[ =]*(\S+)")


def lines(path, seen=None):
    """The logical lines of a requirements file and of those it includes, each as (line, is a constraint)."""
    seen = set() if seen is None else seen
    path = os.path.normpath(path)
    if path in seen:
        return
    seen.add(path)
    with open(path, encoding="utf-8") as file:
        text = file.read().replace("\\\n", " ")
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        include = INCLUDE.match(line)
        if include:
            constraint = include[1] in ("-c", "--constraint")
            for inner, inner_constraint in lines(os.path.join(os.path.dirname(path), include[2]), seen):
                yield inner, constraint or inner_constraint
        elif line:
            yield line, False


def read(path):
    """The pinned requirements of a file as (name, version, sha256s), and its option lines."""
    found, options = [], []
    for line, constraint in lines(path):
        if line.startswith("-"):
            if OPTION.match(line):
                options.append(line)
            continue
        if constraint:
            continue
        hashes = re.findall(r"--hash[= ]sha256:([0-9a-f]{64})", line)
        requirement = Requirement(re.split(r"\s--", line)[0])
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        versions = [clause.version for clause in requirement.specifier if clause.operator in ("==", "===")]
        if len(versions) != 1:
            raise SystemExit(f"{path}: `{line}` is not pinned to one version")
        found.append((requirement.name, versions[0], hashes))
    return found, options


def intact(path, expected):
    """Whether there is a file with this sha256."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 16):
                digest.update(chunk)
    except FileNotFoundError:
        return False
    return digest.hexdigest() == expected


def note(path, text):
    """Writes a note, whoever else writes the same one."""
    partial = f"{path}.part-{os.getpid()}-{threading.get_ident()}"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(partial, path)


class Index:
    """Finds and downloads files as pip would."""

    def __init__(self, options=()):
        command = create_command("download")
        arguments = [word for line in options for word in re.match(r"(--?[\w-]+)[ =]*(.*)", line).groups() if word]
        # Whoever has told only uv where the index is means it for pip as well.
        uv_index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
        if uv_index and command.parse_args(["none"])[0].index_url == PyPI.simple_url:
            arguments = ["--index-url", uv_index, *arguments]
        self.options, _ = command.parse_args([*arguments, "--no-deps", "none"])
        self.command = command
        self.session = command._build_session(self.options, retries=5, timeout=60)
        self.target = TargetPython()
        self.finder = self.finder_among(())
        # Debian 12's pip has the older name.
        self.tags = self.target.get_sorted_tags() if hasattr(self.target, "get_sorted_tags") else self.target.get_tags()

    def finder_among(self, hashes):
        """A finder that looks at files with these sha256s alone, and at those of which the index does not say it;
        at all of them when there are none. An index lists thousands of files, and a look at each is most of the time.
        One for each question: pip's finders remember what they have found of a package."""
        finder = self.command._build_package_finder(
            options=self.options, session=self.session, target_python=self.target
        )
        if hashes:
            look, hashes = finder.evaluate_links, set(hashes)
            finder.evaluate_links = lambda link_evaluator, links: look(
                link_evaluator, [link for link in links if link.hash_name != "sha256" or link.hash in hashes]
            )
        return finder

    def tell_uv(self):
        """And the other way round: uv does not read pip's settings."""
        if self.options.index_url and self.options.index_url != PyPI.simple_url:
            os.environ.setdefault("UV_DEFAULT_INDEX", self.options.index_url)
        if self.options.extra_index_urls:
            os.environ.setdefault("UV_INDEX", " ".join(self.options.extra_index_urls))

    def best(self, name, version, hashes):
        """The link of the best file for this Python: a wheel that fits, else the source."""
        allowed = Hashes({"sha256": list(hashes)}) if hashes else None
        # Where none of them is found, what there is instead is what the message is about.
        for finder in [self.finder_among(hashes), self.finder_among(())] if hashes else [self.finder_among(())]:
            for operator in ("===", "=="):
                specifier = SpecifierSet(f"{operator}{version}")
                candidate = finder.find_best_candidate(name, specifier, allowed).best_candidate
                if candidate is not None:
                    break
            if candidate is not None:
                break
        if candidate is None:
            self.reach(name)
            raise SystemExit(f"the index has no file of {name} {version} that fits this Python")
        known = candidate.link.hash if candidate.link.hash_name == "sha256" else None
        if hashes and known is not None and known not in hashes:
            raise SystemExit(
                f"{candidate.link.filename} has sha256 {known}, which is not among the hashes that the lock file allows"
            )
        return candidate.link

    def known(self, name, version, hashes):
        """The path of the note of which file was best, of a package of which the app names files by hash: that does not
        change, as long as the same places are asked for the same Python. `None` when it names none."""
        if not hashes:
            return None
        allowed = self.finder.format_control
        asked = (
            canonicalize_name(name), version, sorted(hashes), self.finder.index_urls, self.finder.find_links,
            sorted(allowed.no_binary), sorted(allowed.only_binary), self.options.prefer_binary,
            [str(tag) for tag in self.tags],
        )
        return os.path.join(CACHE, f"best-{hashlib.sha256(repr(asked).encode()).hexdigest()}")

    def place(self, digest):
        """The path of the note of where a file with this sha256 is, for those who ask in the same places."""
        asked = (digest, self.finder.index_urls, self.finder.find_links)
        return os.path.join(CACHE, f"place-{hashlib.sha256(repr(asked).encode()).hexdigest()}")

    def note_place(self, digest, link):
        """Notes where a file is, so that the step that fetches it need not ask again; but nothing that may hold what
        is nobody's business, as an address may in its query, its user, or its path."""
        url = urllib.parse.urlsplit(link.url)
        if url.scheme not in ("http", "https") or url.query or "@" in url.netloc:
            return
        for place in [*self.finder.index_urls, *self.finder.find_links]:
            index = urllib.parse.urlsplit(place)
            if index.hostname == url.hostname and ("@" in index.netloc or index.path.strip("/") not in OPEN_PATHS):
                return
        note(self.place(digest), f"{link.filename} {link.url_without_fragment}")

    def reach(self, name):
        """Ends with the reason when the index does not answer, which pip's finder keeps to itself."""
        for url in self.finder.index_urls:
            try:
                self.session.get(f"{url.rstrip('/')}/{canonicalize_name(name)}/")
            except Exception as error:
                raise SystemExit(f"could not reach the package index: {error}") from None

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
