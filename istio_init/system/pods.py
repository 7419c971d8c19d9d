"""The network namespaces of this node, found through its processes."""

from __future__ import annotations

import os
import re

from istio_init.errors import IstioInitError, NamespaceError, PrivilegeError
from istio_init.system import living, namespaces, netlink, places
from istio_init.system.processes import Process
from istio_init.system.running import running
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
KUBELETS = "kubepods"
"""In the name of the group that the kubelet makes, and those of all pods in it."""


class PodNamespace(Value):
    """A network namespace and the processes in it, the oldest first, with the container of that one.

    Younger ones may be of others: what looks after containers lives in the host's namespace and in their cgroups.
    """

    inode: int
    processes: tuple[Process, ...]
    container: str | None

    @property
    def pid(self) -> int:
        """The oldest process, by which the namespace is entered."""
        return self.processes[0].pid


def pod_namespaces() -> list[PodNamespace]:
    """Every network namespace that a process lives in, by the age of its oldest process.

    Processes whose namespace is hidden from us are left out; as root that is none.
    """
    found: dict[int, list[tuple[int, Process]]] = {}
    for each in running():
        try:
            inode = living.network(each.pid)
        except OSError:
            continue
        found.setdefault(inode, []).append((each.started, each.process))
    pods = []
    for inode, aged in found.items():
        aged.sort(key=lambda item: (item[0], item[1].pid))
        processes = tuple(process for _, process in aged)
        pods.append((aged[0][0], PodNamespace(inode, processes, container_of(processes[0].pid))))
    return [pod for _, pod in sorted(pods, key=lambda item: (item[0], item[1].pid))]


def container_of(pid: int) -> str | None:
    """The id of the container that a process is in, from its cgroup of version 1 or 2 (cgroups(7))."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            return parse_cgroup(file.read())
    except OSError:
        return None


def parse_cgroup(text: str) -> str | None:
    """The container id in the paths of /proc/PID/cgroup: the first below the kubelet's groups, else the last.

    What stands below its own group a container may have made itself, and called as it liked.
    """
    found = None
    for line in text.split("\n"):
        _, kubelets, below = line.partition(KUBELETS)
        ids = CONTAINER_ID.findall(below if kubelets else line)
        if ids and kubelets:
            return str(ids[0])
        found = ids[-1] if ids else found
    return found


def hidden() -> int:
    """How many processes are seen whose namespace is hidden; as root that is none."""
    count = 0
    for each in filter(str.isdecimal, os.listdir("/proc")):
        try:
            os.stat(f"/proc/{each}/ns/net")
        except PermissionError:
            count += 1
        except OSError:
            continue
    return count


def hides_processes() -> bool:
    """Whether /proc is mounted so that processes of others are not even listed (proc(5), hidepid)."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    options = [each[-1] for each in mounts if each[4] == "/proc"]
    found = re.search(r"\bhidepid=(\w+)", options[-1]) if options else None
    return found is not None and found[1] not in ("0", "off")


def containers_of(pod: PodNamespace) -> dict[str, int]:
    """The oldest process of each container in a namespace."""
    found: dict[str, int] = {}
    for process in pod.processes:
        container = container_of(process.pid)
        if container is not None:
            found.setdefault(container, process.pid)
    return found


def addresses_of(pod: PodNamespace) -> set[IPv4Address | IPv6Address]:
    """The addresses of a namespace; none where it ended meanwhile.

    Raises:
        PrivilegeError: entering it is denied.
    """
    try:
        if os.stat("/proc/thread-self/ns/net").st_ino == pod.inode:
            return {each.address for each in netlink.addresses()}
        place = places.of_pid(pod.pid)
    except NamespaceError:
        return set()
    try:
        return {each.address for each in namespaces.call_in(place.replace(userns=None), netlink.addresses)}
    except PrivilegeError:
        raise
    except IstioInitError:
        return set()
    finally:
        place.close()
