"""Rules that are kept for namespaces with the same: what programs would print of them, and of no others."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from istio_init.observe.rules import Kept, Rules, read_rules
from istio_init.system import nft_state, process
from istio_init.system.sockets import Socket, sockets, sockets_quickly
from istio_init.testing.namespaces import Namespace

PLAIN = "iptables-nft -A INPUT -p tcp --dport 80 -j DROP; ip6tables-nft -A OUTPUT -o eth9 -j ACCEPT"


@pytest.fixture
def two(real_kernel: None) -> Iterator[tuple[Namespace, Namespace]]:
    """Namespaces with the same rules."""
    with Namespace.create("one") as one, Namespace.create("two") as two:
        for each in (one, two):
            each.run("sh", "-c", f"ip link set lo up; {PLAIN}")
        yield one, two


def kept_of(one: Namespace, two: Namespace) -> bool:
    """Whether both are in the same state, and that not unknown."""
    first, second = (each.call(nft_state.state) for each in (one, two))
    return first is not None and first == second


def drops(found: Rules) -> bool:
    """Whether the policy of a chain drops."""
    chains = [chain for table in found.netfilter.tables for chain in table.chains.values()]
    return any(chain.base is not None and chain.base.drops for chain in chains)


def send(count: int) -> None:
    """So many packets over lo."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"", ("127.0.0.1", 7))


def test_what_is_kept_is_what_is_read(two: tuple[Namespace, Namespace]) -> None:
    one, other = two

    def read_twice() -> tuple[bool, bool]:
        kept = Kept()
        first, again = kept.read(), kept.read()
        return first is again, first.reading.iptables == read_rules().reading.iptables

    assert kept_of(one, other)
    assert other.call(read_twice) == (True, True)
    texts = [each.call(lambda: repr(read_rules().reading.iptables)) for each in two]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "changed",
    [
        "iptables-nft -A INPUT -p tcp --dport 81 -j DROP",
        "iptables-nft -P INPUT DROP",
        "ip6tables-nft -R OUTPUT 1 -o eth8 -j ACCEPT",
        "nft 'add table inet istio-proxy-nat'",
        "nft 'add table ip filter { flags dormant; }'",
        "nft 'add table ip more; add set ip more s { type ipv4_addr; }'",
        "iptables-legacy -A INPUT -j ACCEPT",
        "ip link add eth7 type veth peer name eth8; nft 'add rule ip filter INPUT iif eth7 drop'",
    ],
)
def test_whatever_could_be_printed_otherwise_is_another_state(two: tuple[Namespace, Namespace], changed: str) -> None:
    two[1].run("sh", "-c", changed)

    assert not kept_of(*two)


def test_counted_packets_are_another_state_and_their_number_is_none(real_kernel: None) -> None:
    with Namespace.create("one") as one, Namespace.create("two") as two:
        for each in (one, two):
            each.run("sh", "-c", "ip link set lo up; iptables-nft -A INPUT -i lo -j ACCEPT")
        one.call(lambda: send(1))
        assert not kept_of(one, two)
        two.call(lambda: send(2))
        assert kept_of(one, two)


def test_no_program_is_started_for_rules_that_are_kept(
    two: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_again() -> bool:
        kept = Kept()
        first = kept.read()

        def refused(*argv: object, **more: object) -> object:
            raise AssertionError(argv)

        monkeypatch.setattr(process, "run", refused)
        return kept.read() is first

    assert two[0].call(read_again)


def test_rules_that_are_there_only_while_they_are_read_are_not_kept(
    two: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shows others' rules before and after could have theirs be taken for other ones."""

    def read() -> tuple[bool, bool]:
        kept = Kept()
        real = process.run

        def change_policy(policy: str) -> None:
            chain = ["nft", "chain", "ip", "filter", "INPUT", "{", "policy", policy, ";", "}"]
            assert real(chain, timeout=9.0, writing=True).status == 0

        def meanwhile(argv: Sequence[str], **more: Any) -> process.Completed:
            change_policy("drop")
            found = real(argv, **more)
            change_policy("accept")
            return found

        monkeypatch.setattr(process, "run", meanwhile)
        changed = kept.read()
        monkeypatch.setattr(process, "run", real)
        return drops(changed), drops(kept.read())

    assert two[0].call(read) == (True, False)


def test_sockets_are_the_same_from_either(real_kernel: None) -> None:
    def both() -> tuple[list[Socket], list[Socket]]:
        held = [socket.create_server(("0.0.0.0", 7001)), socket.create_server(("::", 7002), family=socket.AF_INET6)]
        held.append(socket.create_connection(("127.0.0.1", 7001)))
        held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        held[-1].bind(("127.0.0.1", 7003))
        return sorted(sockets(), key=repr), sorted(sockets_quickly(), key=repr)

    with Namespace.create("one") as namespace:
        namespace.run("ip", "link", "set", "lo", "up")
        slow, quick = namespace.call(both)
    assert quick == slow and len(slow) == 5
