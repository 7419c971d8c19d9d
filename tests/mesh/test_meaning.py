"""What a configuration means in a namespace."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from istio_init.config.model import Config, Surroundings
from istio_init.mesh.meaning import Meaning, Note, resolve, settle

SERVERS = (ip_address("10.96.0.10"), ip_address("fd00::a"))
CAPTURING = Config(redirect_dns=True)
ANY_SERVER = Config(redirect_dns=True, capture_all_dns=True)


@pytest.mark.parametrize(
    ("addresses", "dual_stack", "ipv6", "notes"),
    [
        (["127.0.0.1", "10.1.2.3"], False, False, ()),
        (["10.1.2.3", "fd00:1::3"], False, False, ()),
        (["10.1.2.3", "fd00:1::3"], True, True, ()),
        (["fd00:1::3", "fe80::1"], False, True, ()),
        (["127.0.0.1", "::1", "fe80::1"], True, False, (Note.NO_ADDRESS,)),
        ([], False, False, (Note.NO_ADDRESS,)),
    ],
)
def test_addresses_decide_about_ipv6(
    addresses: list[str], dual_stack: bool, ipv6: bool, notes: tuple[Note, ...]
) -> None:
    config = Config(dual_stack=dual_stack)

    assert resolve(config, map(ip_address, addresses), ()) == Meaning(config, Surroundings(ipv6), notes)


def test_dns_capture_is_off_without_a_server() -> None:
    meaning = resolve(CAPTURING, [ip_address("10.1.2.3")], ())

    assert meaning == Meaning(Config(), Surroundings(), (Note.DNS_CAPTURE_OFF,))


@pytest.mark.parametrize(
    ("config", "servers"),
    [(CAPTURING, SERVERS), (ANY_SERVER, ()), (ANY_SERVER, SERVERS)],
    ids=["servers", "all", "both"],
)
def test_dns_capture_stays_with_servers_or_of_all(config: Config, servers: tuple[()]) -> None:
    assert settle(config, servers, ipv6=True) == Meaning(config, Surroundings(True, servers))


def test_servers_count_for_nothing_without_dns_capture() -> None:
    assert settle(Config(), SERVERS, ipv6=False) == Meaning(Config(), Surroundings())


def test_all_that_is_off_is_said() -> None:
    assert resolve(CAPTURING, [], ()).notes == (Note.NO_ADDRESS, Note.DNS_CAPTURE_OFF)
