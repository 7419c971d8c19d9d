"""The network namespaces of this node, found through its processes."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address

from istio_init.errors import IstioInitError, NamespaceError
from istio_init.system import namespaces, netlink, places
from istio_init.system.processes import Process
from istio_init.system.running import running
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
SHORTEST_ID = 4
"""Characters of a container id that are enough to look for it."""


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

    Processes whose namespace may not be seen are left out; as root that is none.
    """
    found: dict[int, list[tuple[int, Process]]] = {}
    for each in running():
        try:
            inode = os.stat(f"/proc/{each.pid}/ns/net").st_ino
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
    """The last container id in the paths of /proc/PID/cgroup."""
    found = CONTAINER_ID.findall(text)
    return found[-1] if found else None


def find(target: str) -> int:
    """The oldest process of the pod with this address, or of the container with this id or prefix of one.

    Raises:
        NamespaceError: there is none, or several.
    """
    try:
        address = ip_address(target)
    except ValueError:
        return _by_container(target)
    return _by_address(address)


def _by_container(prefix: str) -> int:
    if len(prefix) < SHORTEST_ID or not re.fullmatch(r"[0-9a-f]+", prefix):
        raise NamespaceError(
            f"{prefix!r}: neither an address nor a container id", fix="give --pid, or list with istio-init ps"
        )
    found: dict[str, int] = {}
    for each in running():
        container = container_of(each.pid)
        if container is not None and container.startswith(prefix):
            found.setdefault(container, each.pid)
    if not found:
        raise NamespaceError(f"{prefix}: no process here is in such a container", fix="list them with istio-init ps")
    if len(found) > 1:
        shown = ", ".join(sorted(container[:16] for container in found))
        raise NamespaceError(f"{prefix}: several containers begin so: {shown}", fix="give more of the id")
    return next(iter(found.values()))


def _by_address(address: IPv4Address | IPv6Address) -> int:
    found = [pod.pid for pod in pod_namespaces() if address in _addresses(pod)]
    if not found:
        raise NamespaceError(
            f"{address}: no network namespace here has this address", fix="list them with istio-init ps"
        )
    if len(found) > 1:
        shown = ", ".join(f"pid {pid}" for pid in found)
        raise NamespaceError(f"{address}: several network namespaces have it: {shown}", fix="give one of --pid")
    return found[0]


def _addresses(pod: PodNamespace) -> set[IPv4Address | IPv6Address]:
    """The addresses of a namespace; none where it may not be entered, or ended meanwhile."""
    try:
        place = places.of_pid(pod.pid)
    except IstioInitError:
        return set()
    try:
        return {each.address for each in namespaces.call_in(place.replace(userns=None), netlink.addresses)}
    except IstioInitError:
        return set()
    finally:
        place.close()
