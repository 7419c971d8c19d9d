"""Rules as the kernel evaluates them, in no dialect: tests, then effects and an end, in order.

A statement that is a test answers yes, no, or that it cannot be told. Where it says no, the rule is left and the
next one is evaluated; where it cannot be told, both ways are followed. Effects change the packet or its connection, an
end decides.
"""

from __future__ import annotations

from enum import Enum

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import Intervals
from istio_init.value import Value


class Store(Enum):
    """What holds rules in the kernel."""

    NFT = "nft"
    """nf_tables: what iptables-nft and nft write."""
    LEGACY = "legacy"
    """x_tables: what iptables-legacy writes."""

    __hash__ = object.__hash__


class Hook(Enum):
    """Where rules are evaluated (linux/netfilter.h, NF_INET_…); the value is nft's name."""

    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"

    __hash__ = object.__hash__


class Openness(Enum):
    """Why a statement cannot be decided from a packet and a snapshot."""

    OPEN = "open"
    """By its nature: limit, statistic, recent, time, bpf, u32, string, quota, cgroup, a queue, a hash."""
    NOT_MODELLED = "not modelled"
    """Known to the kernel, not to this package."""
    NOT_GIVEN = "not given"
    """A fact would decide that neither the packet nor the snapshot holds, such as a set's elements."""

    __hash__ = object.__hash__


class Cause(Value):
    """What cannot be told: the words of the rule, and why."""

    openness: Openness
    words: str


class Key(Value):
    """A field, or some of its bits."""

    field: Field
    mask: int | None = None


class Test(Value):
    """The field's bits lie within intervals, or, negated, do not.

    ``if_absent`` is the answer for a packet that has no such field: no socket, no connection, other headers.
    """

    __test__ = False  # Not one of pytest's.

    field: Field
    within: Intervals
    mask: int | None = None
    negated: bool = False
    if_absent: bool = False


Box = tuple[Intervals, ...]
"""One set of intervals a key."""


SOON = 60
"""An element with less than so many seconds to live may be gone when a packet comes."""


class Elements:
    """What a set holds: disjoint or overlapping boxes. Compared by identity of what it was read from, never changed.

    ``is_complete`` is false where packets add elements, where one is about to expire, or where they could not be read.
    """

    __slots__ = ("boxes", "is_complete", "name")

    def __init__(self, name: str, boxes: tuple[Box, ...], *, is_complete: bool = True) -> None:
        self.name = name
        self.boxes = boxes
        self.is_complete = is_complete

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Elements) and (self is other or self._key() == other._key())

    def __hash__(self) -> int:
        return hash((self.name, len(self.boxes), self.is_complete))

    def __repr__(self) -> str:
        return f"Elements({self.name!r}, {len(self.boxes)} boxes)"

    def _key(self) -> tuple[object, ...]:
        return self.name, self.boxes, self.is_complete


class Lookup(Value):
    """The keys together are in a set, or, negated, are not; ``if_absent`` where the packet lacks one of the fields."""

    keys: tuple[Key, ...]
    elements: Elements
    negated: bool = False
    if_absent: bool = False


class AnyOf(Value):
    """Any of several lists of tests holds, each whole; negated: none does."""

    options: tuple[tuple[Condition, ...], ...]
    negated: bool = False


class Undecided(Value):
    """A test of which nobody can say whether it holds."""

    cause: Cause


class Never(Value):
    """A test that no packet passes."""


Condition = Test | Lookup | AnyOf | Undecided | Never


class Assign(Value):
    """Give a field the XOR of parts of fields, as they are before, and a constant.

    ``MARK --set-xmark V/M`` is ``Assign(MARK, ((MARK, ~M),), V)``; ``nft meta mark set meta mark & A | B`` is
    ``Assign(MARK, ((MARK, A & ~B),), B)``. A field that the packet does not have stays absent, and counts as 0.
    """

    field: Field
    parts: tuple[tuple[Field, int], ...]
    constant: int = 0


class AssignFrom(Value):
    """Give a field the value that a map has for the keys; nothing happens, and the rule is left, where it has none.

    ``otherwise_goes_on``: the rule is not left (xt_SET's --map-mark).
    """

    field: Field
    keys: tuple[Key, ...]
    values: tuple[tuple[Box, int], ...]
    is_complete: bool = True
    otherwise_goes_on: bool = False


class Forget(Value):
    """The field gets a value that cannot be told."""

    field: Field
    cause: Cause


class NatKind(Enum):
    """How a nat statement translates."""

    DNAT = "dnat"
    SNAT = "snat"
    REDIRECT = "redirect"
    MASQUERADE = "masquerade"

    __hash__ = object.__hash__

    @property
    def is_of_destination(self) -> bool:
        """Whether it gives packets another destination, and not another source."""
        return self in (NatKind.DNAT, NatKind.REDIRECT)


class Nat(Value):
    """Translate the connection, once, and accept. No addresses: the old one stays (DNAT with a port alone).

    Several addresses or ports: the kernel chooses one of them (a hash), unless the present one lies within.
    ``netmap`` keeps the host's bits: ``addresses`` is then a whole network.
    """

    kind: NatKind
    addresses: tuple[int, int] | None = None
    ports: tuple[int, int] | None = None
    random: bool = False
    netmap: bool = False
    cause: Cause | None = None
    """Set where the new destination cannot be told: from a map that is not modelled."""


class Tproxy(Value):
    """Hand the packet to a transparent socket: the one that listens at address and port; None is the packet's own.

    Without one iptables drops (``drops``), nft leaves the rule. Mark bits are set before: ``(mark & ~mask) ^ value``.
    """

    address: int | None
    port: int | None
    mark: int = 0
    mask: int = 0
    drops: bool = True


class Untrack(Value):
    """No connection is looked up for the packet; without effect where it has one, a zone, or this already (xt_CT.c)."""


class Zone(Value):
    """Connections are looked up in a zone; without effect where the packet has a connection or a zone already.

    ``zone`` is a cause where its number cannot be told.
    ``even_untracked``: nft has a packet tracked again that is not to be (nft_ct_set_zone_eval), xt_CT does not.
    """

    zone: int | Cause
    even_untracked: bool = False


class Note(Value):
    """Something without an influence on the packet's way: a counter, a log, an element that is added to a set."""

    words: str


Effect = Assign | AssignFrom | Forget | Nat | Tproxy | Untrack | Zone | Note


class Verdict(Enum):
    """How a rule can end the evaluation of its chain."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"
    QUEUE = "queue"
    """A program decides; without one that is bypassed or dropped."""
    STOLEN = "stolen"
    """The packet is taken away: nft's fwd, SYNPROXY."""

    __hash__ = object.__hash__


class End(Value):
    """A verdict, with the chain for a jump or goto."""

    verdict: Verdict
    chain: str | None = None


class Dispatch(Value):
    """A verdict map: the first box with the keys ends the rule with its verdict; without one the rule goes on."""

    keys: tuple[Key, ...]
    verdicts: tuple[tuple[Box, End], ...]
    is_complete: bool = True
    name: str = ""


class Unknowable(Value):
    """A statement after which nothing can be said: a target that is not modelled, and could do anything."""

    cause: Cause


Statement = Condition | Effect | End | Dispatch | Unknowable


class Origin(Value):
    """Where a rule stands, for people and for roles: ``family`` as nft names it (ip, ip6, inet), numbers from 1."""

    store: Store
    family: str
    table: str
    chain: str
    number: int
    text: str


class Rule(Value):
    """Statements in order. A rule whose tests hold has matched, with or without an end."""

    body: tuple[Statement, ...]
    origin: Origin
    counters: tuple[int, int] | None = None
    """Packets and bytes."""

    tracks: bool = False
    """Its presence makes the kernel track connections of its families: it translates, or asks about connections."""

    tracks_only: Family | None = None
    """The one of its families whose connections it has tracked: that of ``dnat ip6`` in a table of inet (nft_nat.c)."""
