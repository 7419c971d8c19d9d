"""What the tracer answers: the way that a packet takes, what becomes of it, and what decided that."""

from __future__ import annotations

from enum import Enum

from istio_init.netfilter.packet import Packet
from istio_init.netfilter.rules import Cause, Hook, Rule, Statement, Store
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_HOPS = 100_000
"""So many hops of a leg are listed; rules that call each other often could make it any number."""


class Kind(Enum):
    """What can become of a packet; the value is how reports and JSON name it."""

    REDIRECT = "redirect"
    """A REDIRECT sends it to another port of this machine."""
    TPROXY = "tproxy"
    """A TPROXY hands it to a transparent socket, with its destination unchanged."""
    DIRECT = "direct"
    """It leaves, or is delivered here, as it was addressed."""
    DROP = "drop"
    REJECT = "reject"
    DNAT = "dnat"
    """It has another destination, here or elsewhere, by DNAT."""
    FORWARD = "forward"
    """It came in and goes on to another machine."""
    UNKNOWN = "unknown"

    __hash__ = object.__hash__


class Outcome(Value):
    """What becomes of a packet; REDIRECT, TPROXY and DNAT with where it goes.

    ``address`` is None where the address stays, or is not known; ``port`` is None for protocols without ports.
    """

    kind: Kind
    port: int | None = None
    address: int | None = None


class Hop(Value):
    """A rule that was evaluated. ``matched`` is None where that cannot be told, and matters.

    ``missed`` is the first test that failed or cannot be told.
    """

    hook: Hook
    rule: Rule
    matched: bool | None
    missed: Statement | None = None


Step = tuple[Rule, bool | None, Statement | None]
Segment = tuple[Hook, list[object]]
"""Steps of one hook in order, or lists of them where a chain was evaluated again in the same state."""


class Leg:
    """The way from one entry on: from OUTPUT to POSTROUTING, or from PREROUTING on."""

    __slots__ = ("_hops", "hook", "interface", "segments")

    def __init__(self, hook: Hook, interface: str) -> None:
        self.hook = hook
        self.interface = interface
        self.segments: list[Segment] = []
        self._hops: list[Hop] | None = None

    @property
    def hops(self) -> list[Hop]:
        """The rules that were evaluated, in order; `MOST_HOPS` of them at most."""
        if self._hops is None:
            self._hops = []
            for hook, steps in self.segments:
                self._hops += (Hop(hook, *step) for step in _flat(steps, MOST_HOPS - len(self._hops)))
        return self._hops

    def __repr__(self) -> str:
        return f"Leg({self.hook.value}, {self.interface!r}, {len(self.hops)} hops)"


def _flat(steps: list[object], most: int) -> Iterable[Step]:
    """The steps, nested ones in their place."""
    stack = [iter(steps)]
    while stack and most > 0:
        for step in stack[-1]:
            if isinstance(step, list):
                stack.append(iter(step))
                break
            assert isinstance(step, tuple)
            most -= 1
            yield step
            if most <= 0:
                break
        else:
            stack.pop()


class PolicyDecider(Value):
    """The policy of a base chain dropped the packet."""

    hook: Hook
    store: Store
    family: str
    table: str
    chain: str


class RoutingDecider(Value):
    """Routing decided: there is no route, it leads nowhere, or what is not for this machine is not forwarded."""

    words: str


class ReversePathDecider(Value):
    """The packet's source address is not believed, coming by that interface (rp_filter, martian sources)."""

    interface: str
    words: str


class SocketDecider(Value):
    """The rule hands packets to a transparent socket, and there is none at that address and port."""

    hop: Hop
    address: int | None
    port: int | None


Decider = Hop | PolicyDecider | RoutingDecider | ReversePathDecider | SocketDecider


class Ended(Value):
    """The packet as it ended: numbers, None for what it does not have or what cannot be told, as ways differ in it.

    ``via`` is each interface by which it may have left, empty where that is not known, None where it was delivered
    here; the main way's first.
    """

    source: int | None
    destination: int | None
    source_port: int | None
    destination_port: int | None
    mark: int | None
    connection_mark: int | None
    via: tuple[str | None, ...]


class Way(Value):
    """One of several ways that the packet may take, and on what it hinges."""

    outcome: Outcome
    decided_by: Decider | None
    delivered: Outcome
    delivered_by: Decider | None
    causes: tuple[Cause, ...]


class Trace:
    """The whole way of a packet.

    ``outcome`` is what the first leg makes of it and ``decided_by`` what decided that, None where no rule did;
    ``delivered`` is what becomes of it in the end, which a second leg may decide otherwise. Where both ways of a test
    that cannot be told end differently they are UNKNOWN, ``causes`` says what would have to be known, and ``ways`` what
    is possible; what decided is then the first of those tests. ``legs`` are those of the way on which no such test
    holds. ``ways`` has several elements only then.
    """

    __slots__ = ("causes", "decided_by", "delivered", "delivered_by", "legs", "outcome", "packet", "state", "ways")

    def __init__(
        self,
        packet: Packet,
        legs: list[Leg],
        answer: Way,
        ways: tuple[Way, ...],
        state: Ended,
    ) -> None:
        self.packet = packet
        self.legs = legs
        self.outcome = answer.outcome
        self.decided_by = answer.decided_by
        self.delivered = answer.delivered
        self.delivered_by = answer.delivered_by
        self.causes = answer.causes
        self.ways = ways
        self.state = state

    def __repr__(self) -> str:
        return f"Trace({self.outcome!r}, {self.delivered!r}, {self.decided_by!r})"
