"""The name servers of a resolv.conf."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.system.rooted import read_text


def name_servers(path: str, root: str = "/") -> tuple[IPv4Address | IPv6Address, ...]:
    """The servers that a resolv.conf(5) names, in its order, each once; none where there is no such file.

    ``path`` is looked for below ``root``.
    """
    return parse_resolv_conf(read_text(root, path) or "")


def parse_resolv_conf(text: str) -> tuple[IPv4Address | IPv6Address, ...]:
    """The servers that the text of a resolv.conf names. A zone (``%eth0``) is left out, as a rule cannot hold it."""
    servers: list[IPv4Address | IPv6Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                server = ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            if server not in servers:
                servers.append(server)
    return tuple(servers)
