"""Files of a pod are read beneath its root, and only such as can be read at once and in full."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.command import istio_init
from support.processes import sleeping

from istio_init.system import places, rooted
from istio_init.system.names import FileNames
from istio_init.system.resolv import MOST, name_servers, parse_resolv_conf
from istio_init.system.rooted import read_text
from istio_init.testing.entering import Entrance
from istio_init.testing.pods import Pod
from istio_init.testing.processes import run

from .served import living_in, served

SERVER = "192.0.2.53"
SECRET = "192.0.2.99"
LINE = f"nameserver {SERVER}\n"
"""A line of a resolv.conf."""


def process_with_root(root: Path, namespace: str | None = None) -> contextlib.AbstractContextManager[int]:
    """A process of an ordinary user, whose root is a directory of that user's."""

    def prepare() -> None:
        if namespace is not None:
            Entrance(Path(f"/run/netns/{namespace}"), None, Path("/nonexistent")).enter()
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setresgid(4242, 4242, 4242)
        os.setresuid(4242, 4242, 4242)

    return sleeping(prepare)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with an /etc, next to a file that is not in it."""
    (tmp_path / "outside.conf").write_text(f"nameserver {SECRET}\n")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


def fifo(file: Path) -> None:
    os.mkfifo(file)


def device(file: Path) -> None:
    os.mknod(file, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero


def sparse(file: Path) -> None:
    with file.open("wb") as made:
        made.truncate(20 << 30)


def directory(file: Path) -> None:
    file.mkdir()


def link_to(target: str) -> Callable[[Path], None]:
    return lambda file: file.symlink_to(target)


def loop(file: Path) -> None:
    file.symlink_to("resolv.conf")


def proc_inside(name: str) -> Callable[[Path], None]:
    """A link to a file of a /proc that is mounted in the pod."""

    def make(file: Path) -> None:
        proc = file.parent.parent / "proc"
        proc.mkdir()
        run("mount", "-t", "proc", "proc", str(proc))
        file.symlink_to(f"/proc/{name}")

    return make


def kernels_own(kind: str, name: str) -> Callable[[Path], None]:
    """A link to a file of a file system whose files are the kernel's answers."""

    def make(file: Path) -> None:
        place = file.parent.parent / "proc"
        place.mkdir()
        run("mount", "-t", kind, kind, str(place))
        assert (place / name).is_file()
        file.symlink_to(f"/proc/{name}")

    return make


HOSTILE = {
    "a file of sysfs": kernels_own("sysfs", "kernel/uevent_seqnum"),
    "a FIFO": fifo,
    "a device without end": device,
    "a sparse file of 20 GB": sparse,
    "a directory": directory,
    "a link out by its absolute path": link_to("/../../outside.conf"),
    "a link out by its relative path": link_to("../../outside.conf"),
    "a link to itself": loop,
    "a link to nothing": link_to("/nowhere"),
    "the log of the kernel": proc_inside("kmsg"),
    "the names of the kernel": proc_inside("kallsyms"),
    "a link by magic": proc_inside("1/root/etc/passwd"),
    "a link by magic to the working directory": proc_inside("self/cwd/etc/resolv.conf"),
}


@pytest.fixture
def unmounted(root: Path) -> Iterator[None]:
    yield
    if os.path.ismount(root / "proc"):
        run("umount", str(root / "proc"))


@pytest.mark.parametrize("opened", ["openat2", "walk"])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_file_of_the_pods_is_not_read(
    make: Callable[[Path], None], opened: str, root: Path, unmounted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if opened == "walk":
        monkeypatch.setattr(rooted, "open_beneath", rooted.walk_beneath)
    make(root / "etc" / "resolv.conf")
    with process_with_root(root) as pid:
        place = places.of_pid(pid)
        began = time.monotonic()
        found = name_servers("/etc/resolv.conf", place.root)
        took = time.monotonic() - began
        place.close()

    assert found == ()
    assert took < 20


def test_what_the_kernel_makes_when_it_is_read_is_not_read_by_way_of_a_layer_above_it(
    root: Path, unmounted: None, real_kernel: None
) -> None:
    place, under = root / "proc", root / "under"
    for each in (place, under):
        each.mkdir()
    made = next(Path("/sys/fs/cgroup").rglob("cgroup.procs"))
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={made.parent}:{under}", str(place))

    assert (place / "cgroup.procs").read_text()
    assert not read_text(str(root), "/proc/cgroup.procs")


@pytest.mark.parametrize("opened", ["openat2", "walk"])
@pytest.mark.parametrize(
    "target", ["real", "/etc/real", "../etc/./real", "../../../../etc/real", "/a/b/../../etc/real"]
)
def test_a_link_within_the_pod_is_followed(
    target: str, opened: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if opened == "walk":
        monkeypatch.setattr(rooted, "open_beneath", rooted.walk_beneath)
    (root / "a" / "b").mkdir(parents=True)
    (root / "etc" / "real").write_text(f"nameserver {SERVER}\n")
    (root / "etc" / "resolv.conf").symlink_to(target)
    with process_with_root(root) as pid:
        place = places.of_pid(pid)
        assert name_servers("/etc/resolv.conf", place.root) == (ip_address(SERVER),)
        place.close()


def test_a_file_that_is_swapped_all_the_time_leads_nowhere(root: Path) -> None:
    over = threading.Event()
    file = root / "etc" / "resolv.conf"

    def swap() -> None:
        made = root / "etc" / "next"
        while not over.is_set():
            for make in (fifo, link_to("../../outside.conf"), Path.touch):
                make(made)
                os.rename(made, file)

    with process_with_root(root) as pid:
        place = places.of_pid(pid)
        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for _ in range(200):
                assert name_servers("/etc/resolv.conf", place.root) == ()
        finally:
            over.set()
            thread.join()
            place.close()


def test_the_files_of_a_process_that_ended_are_nobody_elses(root: Path) -> None:
    (root / "etc" / "resolv.conf").write_text(f"nameserver {SERVER}\n")
    with process_with_root(root) as pid:
        place = places.of_pid(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert name_servers("/etc/resolv.conf", place.root) == (ip_address(SERVER),)
        place.close()


def test_of_many_servers_the_first_are_taken_at_once(root: Path) -> None:
    lines = [f"nameserver 10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(30_000)]
    (root / "etc" / "resolv.conf").write_text("\n".join(lines))
    with Pod.create() as pod, process_with_root(root, pod.name) as pid:
        began = time.monotonic()
        done = istio_init("apply", "--pid", str(pid), "--redirect-dns").ok()
        assert time.monotonic() - began < 60

    assert f"{MOST} servers or more" in done.stderr


def test_a_line_that_is_cut_off_is_no_server(root: Path) -> None:
    text = "#" * (rooted.LONGEST - 21) + "\nnameserver 10.96.0.10\n"
    (root / "etc" / "resolv.conf").write_text(text)
    assert text[: rooted.LONGEST].endswith("nameserver 10.96.0.1")
    with process_with_root(root) as pid:
        place = places.of_pid(pid)
        assert name_servers("/etc/resolv.conf", place.root) == ()
        place.close()


@pytest.mark.parametrize(
    "number",
    [
        "\N{SUPERSCRIPT TWO}",
        "\N{ARABIC-INDIC DIGIT THREE}",
        "\N{FULLWIDTH DIGIT ONE}",
        "-1",
        "4294967295",
        "4294967296",
        "9" * 5000,
        "1_0",
        " 1",
        "+1",
        "0x1",
    ],
)
def test_what_is_no_number_is_no_user(number: str, root: Path) -> None:
    (root / "etc" / "passwd").write_text(f"envoy:x:{number}:{number}::/:\n")
    (root / "etc" / "group").write_text(f"envoy:x:{number}:\n")

    assert FileNames(str(root)).user("envoy") is None
    assert FileNames(str(root)).group("envoy") is None


@pytest.mark.parametrize(
    "line",
    [
        "nameserver\u00a01.1.1.1",
        "nameserver 1.1.1.\N{ARABIC-INDIC DIGIT ONE}",
        "x\u2028nameserver 1.1.1.1",
        "x\x85nameserver 1.1.1.1",
    ],
)
def test_only_ascii_separates_and_numbers(line: str) -> None:
    assert parse_resolv_conf(line) == ()


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="the kernel has no fuse")
@pytest.mark.parametrize("silent", [None, "lookup", "open", "read"])
def test_a_file_system_that_the_pod_serves_itself_holds_nobody_up(
    silent: str | None, root: Path, real_kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a file without end, or does not answer, and then not even SIGKILL ends who waits."""
    monkeypatch.setattr(rooted, "PATIENCE", 0.5 if silent else 20.0)
    with served(root / "etc", LINE.encode(), silent):
        text = read_text(str(root), "/etc/resolv.conf")

    assert text == (None if silent else LINE * (rooted.LONGEST // len(LINE)))


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="the kernel has no fuse")
@pytest.mark.parametrize(
    ("command", "where", "silent", "status", "said"),
    [
        (("explain", "no-such-pod"), "etc", "read", 4, "did not say in time how it is called"),
        (("explain", "no-such-pod"), ".", "getattr", 4, "did not say in time how it is called"),
        (("explain", "--pid", "PID"), "etc", "read", 0, "no redirection"),
    ],
)
def test_a_pod_that_serves_its_own_files_holds_no_command_up(
    command: tuple[str, ...], where: str, silent: str, status: int, said: str, root: Path, pod: Pod
) -> None:
    """What was left waiting for it has no part in the pipes that others wait for."""

    with served(root / where, LINE.encode(), silent), living_in(root, pod.name) as pid:
        done = istio_init(*[word.replace("PID", str(pid)) for word in command])

    assert done.status == status and said in done.stdout + done.stderr


def test_a_file_system_that_does_not_answer_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would wait for ever is a child's affair."""
    monkeypatch.setattr(rooted, "PATIENCE", 0.3)
    monkeypatch.setattr(rooted, "_is_stored", lambda _: time.sleep(60))
    (root / "etc" / "resolv.conf").write_text(f"nameserver {SERVER}\n")
    began = time.monotonic()

    assert name_servers("/etc/resolv.conf", str(root)) == ()
    assert time.monotonic() - began < 30
