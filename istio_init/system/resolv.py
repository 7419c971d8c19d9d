"""The name servers of a resolv.conf."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.system.rooted import read_text

MOST = 64
"""Servers that are taken of a file, which may be a pod's own; the resolver itself asks three (resolv.conf(5))."""


def name_servers(path: str, root: str = "/") -> tuple[IPv4Address | IPv6Address, ...]:
    """The first servers that a resolv.conf(5) names, in its order, each once; none where there is no such file.

    ``path`` is looked for below ``root``. There are never more than ``MOST``.
    """
    return parse_resolv_conf(read_text(root, path) or "")


def parse_resolv_conf(text: str) -> tuple[IPv4Address | IPv6Address, ...]:
    """The servers that the text of a resolv.conf names. A zone (``%eth0``) is left out, as a rule cannot hold it."""
    servers: dict[IPv4Address | IPv6Address, None] = {}
    for line in text.split("\n"):
        words = line.replace("\t", " ").split(" ")
        words = [word for word in words if word]
        if len(words) > 1 and words[0] == "nameserver":
            try:
                servers[ip_address(words[1].strip().partition("%")[0])] = None
            except ValueError:
                continue
            if len(servers) == MOST:
                break
    return tuple(servers)
