"""Public addresses replaced so that no rule, route or set tells two packets apart otherwise than before.

Addresses that agree in their first bits still do, and no others: each bit is turned or not, by a secret and the bits
before it. So a network stays a network, within and beside the same others. Private, local and other special addresses
stay as they are, and below the ends of a range nothing is turned, so that it stays a range.
"""

from __future__ import annotations

import hashlib
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Address = IPv4Address | IPv6Address
    Network = IPv4Network | IPv6Network

SPECIAL = [
    IPv4Network(each)
    for each in "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3".split()
]
SPECIAL6 = [IPv6Network(each) for each in "::/3 4000::/2 8000::/1 2001::/23 2001:db8::/32 2002::/16 3fff::/20".split()]
"""What is no public address (iana-ipv4-special-registry, iana-ipv6-special-registry)."""

TOKEN = re.compile(
    r"((?<![\w:.])[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?!\w)|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d))"
    r"(/\d+(?:\.\d+){3}|/\d+)?"
)
RANGE = re.compile(rf"{TOKEN.pattern}-{TOKEN.pattern}")


class NoPrefixError(ValueError):
    """A network whose mask is no prefix, which no pseudonym could stand for."""


class Pseudonyms:
    """A replacement of addresses, by a secret that nobody keeps; ``ranges`` are those that have to stay ranges."""

    def __init__(self, secret: bytes, ranges: Iterable[tuple[Address, Address]] = ()) -> None:
        self.secret = secret
        self.kept: dict[int, list[tuple[int, int]]] = {
            4: [_bits(each) for each in SPECIAL],
            6: [_bits(each) for each in SPECIAL6],
        }
        self.whole: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for first, last in ranges:
            size = first.max_prefixlen - (int(first) ^ int(last)).bit_length()
            self.whole[first.version].append((size, int(first) >> (first.max_prefixlen - size)))
        self.known: dict[tuple[int, int, int], bool] = {}

    def address(self, address: Address) -> Address:
        """What stands for an address."""
        return type(address)(self._turned(address.version, int(address), address.max_prefixlen))

    def network(self, network: Network) -> Network:
        """What stands for a network."""
        number = self._turned(network.version, int(network.network_address), network.prefixlen)
        return type(network)((number, network.prefixlen))

    def text(self, text: str) -> str:
        """A text with its addresses and networks replaced.

        Raises:
            NoPrefixError: a mask in it is no prefix.
        """
        return TOKEN.sub(self._token, text)

    def _token(self, found: re.Match[str]) -> str:
        try:
            address = ip_address(found[1])
        except ValueError:
            return found[0]
        if found[2] is None:
            return str(self.address(address))
        try:
            network = ip_network(found[0], strict=False)
        except ValueError:
            raise NoPrefixError(found[0]) from None
        size = f"/{network.prefixlen}" if "." not in found[2] else found[2]
        if network.network_address != address:  # An address with the size of its network.
            return f"{self.address(address)}{size}"
        return f"{self.network(network).network_address}{size}"

    def _turned(self, version: int, number: int, size: int) -> int:
        bits, made = 32 if version == 4 else 128, number
        for at in range(size):
            if self._turns(version, at, number >> (bits - at)):
                made ^= 1 << (bits - at - 1)
        return made

    def _turns(self, version: int, size: int, prefix: int) -> bool:
        """Whether the bit behind the first bits of an address is turned."""
        key = version, size, prefix
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = not self._stays(version, size, prefix) and self._secret_bit(key)
        return found

    def _stays(self, version: int, size: int, prefix: int) -> bool:
        for other, bits in self.kept[version]:
            least = min(size, other)
            if prefix >> (size - least) == bits >> (other - least):
                return True
        return any(size >= other and prefix >> (size - other) == bits for other, bits in self.whole[version])

    def _secret_bit(self, key: tuple[int, int, int]) -> bool:
        return bool(hashlib.blake2b(repr(key).encode(), key=self.secret, digest_size=1).digest()[0] & 1)


def _bits(network: Network) -> tuple[int, int]:
    return network.prefixlen, int(network.network_address) >> (network.max_prefixlen - network.prefixlen)


def ranges_in(text: str) -> list[tuple[Address, Address]]:
    """The ranges of addresses in a text of iptables or ipset."""
    found = []
    for each in RANGE.finditer(text):
        try:
            found.append((ip_address(each[1]), ip_address(each[3])))
        except ValueError:
            continue
    return [(first, last) for first, last in found if first.version == last.version]
