"""Debian's releases, and how their packages are got: by this machine's apt, into a folder of its own."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

from istio_init.value import Value

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "istio-init-kernels")
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
ELSEWHERE = "http://deb.debian.org/debian"
SOURCE = re.compile(r"^(?:URIs: *|deb +(?:\[.*\] +)?)(\S+/debian)/?\s", re.M)
NETFILTER = "iptables libip*tc* libxtables* nftables libnft* iproute2 ipset libipset* linux-image-* libmnl0"
"""What is of the release itself where the rest of its user space is of a later one."""

PACKAGES = (
    "linux-image-cloud-amd64 iptables nftables iproute2 ipset python3 python3-jsonschema bash dash coreutils grep sed"
    " findutils util-linux mount procps kmod libcap2-bin netbase uidmap mawk"
).split()


class Release(Value):
    """A release of Debian."""

    name: str
    rest: str = ""
    """The release whose user space surrounds the tools of netfilter, where its own Python is too old."""

    @property
    def suites(self) -> tuple[str, ...]:
        """Where its packages come from."""
        return (self.name, self.rest) if self.rest else (self.name,)


RELEASES = {
    each.name: each
    for each in (Release("bullseye", "bookworm"), Release("bookworm"), Release("trixie"), Release("sid"))
}


def fetch(release: Release) -> tuple[Path, ...]:
    """The packages that a machine of the release is made of; ends with what apt said where they cannot be got."""
    folder = CACHE / release.name
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mirror = _mirror()
    lines = [f"deb [arch=amd64 signed-by={KEYS}] {mirror} {suite} main\n" for suite in release.suites]
    (folder / "sources").write_text("".join(lines))
    pin = f"Package: {NETFILTER}\nPin: release n={release.name}\nPin-Priority: 1001\n" if release.rest else ""
    (folder / "preferences").write_text(pin)
    (folder / "status").write_text("")  # Nothing is installed, so that all that is needed is got.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _apt(folder, "update")
        _apt(folder, "install", "--yes", "--download-only", *PACKAGES)
        listing = ("--yes", "--download-only", "--print-uris")
        wanted = _apt(folder, "install", *listing, *PACKAGES, again=True)
    names = re.findall(r"^'\S+' (\S+\.deb) ", wanted, re.M)
    return tuple(folder / "archives" / name for name in names)


def _mirror() -> str:
    """That of this machine, so that one without a way to the outside uses its own."""
    for file in (*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")):
        if file.is_file() and (found := SOURCE.search(file.read_text())):
            return found[1]
    return ELSEWHERE


def _apt(folder: Path, command: str, *argv: str, again: bool = False) -> str:
    settings = {
        "Dir::Etc::sourcelist": folder / "sources",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": folder / "preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        # Asked once more, it would name nothing that is there already.
        "Dir::Cache::archives": folder / ("none" if again else "archives"),
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Update::Error-Mode": "any",
        "Debug::NoLocking": "1",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    done = subprocess.run(["apt-get", "-q", *options, command, *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"kernels: the packages of Debian's {folder.name} cannot be got: apt-get {command}"
                 f" ended with status {done.returncode}\n{done.stdout[-2000:]}{done.stderr}")  # fmt: skip
    return done.stdout
