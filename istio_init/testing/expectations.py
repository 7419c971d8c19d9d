"""Sentences about where connections end up, such as ``pod.app.connecting_to("10.0.0.5", 80).must_reach_proxy(15001)``.

Each sends what it speaks of, really, and looks where it comes out. One that does not hold fails with what happened
instead and with the trace of the packet through the live rules, down to the rule that decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn

from istio_init.testing import judging
from istio_init.testing.checks import checked_address, checked_port, checked_seconds
from istio_init.testing.entering import User
from istio_init.testing.hiding import tells_of_the_test
from istio_init.testing.namespaces import Namespace
from istio_init.testing.traffic import Endpoint
from istio_init.testing.watching import Arrival, Fate, Sending, Sent, Spot, send

__tracebackhide__ = tells_of_the_test

PROXY_PORTS = {"tcp": (15001, 15006, 15053), "udp": (15053,)}
"""Ports at which a proxy may take what it should not: outbound, inbound, DNS."""

WITHIN = 2.0
"""Seconds after which what did not arrive is lost; a connection's second attempt comes after one."""


@dataclass(frozen=True)
class Sender:
    """Somebody in a namespace: a user who connects and sends, and who marks packets, as ztunnel does, or does not."""

    namespace: Namespace
    user: User
    whose: Callable[[IPv4Address | IPv6Address], Namespace]
    """Who has an address, in the rest of the world or in the mesh."""

    mark: int = 0

    def connecting_to(self, host: str, port: int, *, within: float = WITHIN) -> Attempt:
        """A TCP connection to an address and port, to be said something of; ``within`` are seconds.

        Raises:
            ValueError: that is no address, no port, or no number of seconds.
        """
        return self._attempt("tcp", host, port, within)

    def sending_to(self, host: str, port: int, *, within: float = WITHIN) -> Attempt:
        """A UDP datagram to an address and port, to be said something of; ``within`` are seconds.

        Raises:
            ValueError: that is no address, no port, or no number of seconds.
        """
        return self._attempt("udp", host, port, within)

    def _attempt(self, protocol: str, host: str, port: int, within: float) -> Attempt:
        address = checked_address(host)
        goal = Endpoint(str(address), checked_port(port))
        receiver = self.namespace if address.is_loopback else self.whose(address)
        sending = Sending(self.namespace, self.user, protocol, goal, checked_seconds(within), self.mark)
        attempt = Attempt(sending, receiver)
        judging.made(attempt, _who_sends_what(sending))
        return attempt


@dataclass(frozen=True)
class Attempt:
    """Something to be sent. Nothing is, until a sentence is completed; each completion sends anew."""

    sending: Sending
    receiver: Namespace

    def must_reach_proxy(self, port: int) -> Arrival:
        """It comes out at a proxy's port, in the sender's pod or the receiver's, which knows its destination.

        The original destination of a datagram is not compared, as the kernel does not tell it. What was meant for that
        very port of the receiver is direct.

        Raises:
            AssertionError: it does not.
            ValueError: that is no port.
        """
        sent = self._send(checked_port(port))
        arrival = sent.arrival
        if arrival is None or arrival.spot.port != port or arrival.spot == self._goal:
            self._fail(f"must reach the proxy at port {port}", sent)
        if arrival.original not in (None, self.sending.destination):
            self._fail(f"must reach the proxy at port {port} with the original destination", sent)
        return arrival

    def must_be_direct(self) -> Arrival:
        """It comes out at its own destination, and no proxy takes it.

        Raises:
            AssertionError: it does not.
        """
        sent = self._send()
        if sent.arrival is None or sent.arrival.spot != self._goal:
            self._fail("must be direct", sent)
        return sent.arrival

    def must_be_refused(self) -> None:
        """The sender is told that it cannot be, although somebody listens at the destination.

        Raises:
            AssertionError: it is not.
        """
        sent = self._send()
        if sent.fate is not Fate.REFUSED:
            self._fail("must be refused", sent)

    def must_be_dropped(self) -> None:
        """It comes out nowhere, and the sender is told nothing, although somebody listens at the destination.

        Raises:
            AssertionError: it is not.
        """
        sent = self._send()
        if sent.fate is not Fate.LOST:
            self._fail("must be dropped", sent)

    @property
    def _goal(self) -> Spot:
        return Spot(self.receiver, self.sending.destination.port)

    def _send(self, *ports: int) -> Sent:
        judging.judged(self)
        proxies = (*PROXY_PORTS[self.sending.protocol], *ports)
        spots = [Spot(namespace, port) for namespace in (self.sending.namespace, self.receiver) for port in proxies]
        return send(self.sending, [*spots, self._goal])

    def _fail(self, expected: str, sent: Sent) -> NoReturn:
        from istio_init.testing.explaining import traces

        lines = [
            f"{_who_sends_what(self.sending)}, {expected}",
            f"but {self._what_happened(sent)}",
            *traces(self.sending, sent, self.receiver),
        ]
        raise AssertionError("\n".join(lines))

    def _what_happened(self, sent: Sent) -> str:
        match sent.fate, sent.arrival:
            case Fate.ARRIVED, Arrival(spot, peer, original):
                where = f"port {spot.port} of {spot.namespace.label}"
                if spot == self._goal:
                    return f"it was direct: it reached its destination, {where}, from {peer}"
                told = f", whose original destination is {original}" if original else ""
                return f"it reached {where}{told}, from {peer}"
            case Fate.REFUSED, _:
                return f"it was refused: {sent.reason}"
            case Fate.UNSENT, _:
                return f"it could not be sent: {sent.reason}"
            case Fate.UNSEEN, _:
                return f"it was accepted out of sight: the test has listeners of its own at {sent.reason}"
            case _:
                return f"it came out nowhere within {self.sending.within:g} s"


def _who_sends_what(sending: Sending) -> str:
    what = "connecting" if sending.protocol == "tcp" else "sending a datagram"
    marking = f", marking it {sending.mark:#x}" if sending.mark else ""
    who = f"user {sending.user.uid}, group {sending.user.gid} of {sending.namespace.label}"
    return f"{who}, {what} to {sending.destination}{marking}"
