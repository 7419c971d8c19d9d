"""Names of interfaces as numbers: 16 bytes, padded with zeros (linux/if.h, IFNAMSIZ). Order is that of the names."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.intervals import Intervals

SIZE = 16
NO_INTERFACE = 0


def number_of(name: str) -> int:
    """The number of a name; longer names than the kernel's are cut, which matches nothing that exists."""
    return int.from_bytes(_packed(name).ljust(SIZE, b"\0"))


def _packed(name: str) -> bytes:
    try:
        packed = name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        packed = name.encode(errors="surrogatepass")  # As JSON can spell them, and no name of the kernel's has them.
    return packed[:SIZE]


def name_of(number: int) -> str:
    """The name of a number; bytes that are no text become surrogates."""
    return number.to_bytes(SIZE).rstrip(b"\0").decode(errors="surrogateescape")


def with_prefix(prefix: str) -> Intervals:
    """All names that begin with a prefix: those of ``eth+``. An empty prefix is every name, no interface included."""
    first = number_of(prefix)
    room = 8 * (SIZE - len(_packed(prefix)))
    return ((first, first | ((1 << room) - 1)),)


def exactly(name: str) -> Intervals:
    """One name."""
    return ((number_of(name), number_of(name)),)
