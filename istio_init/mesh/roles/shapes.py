"""The shape of every known rule: what it tests and does, without the values.

A shape reads like the rule: ``-o !uid RETURN`` is a rule that tests the outgoing interface, tests that the sender is
not some user, and returns. Ports are ``dport``/``sport``, a bare ``tcp``/``udp`` is a port match without a port.
"""

from __future__ import annotations

from istio_init.dialects.iptables.matches import (
    Comment,
    Connmark,
    Ctstate,
    Mark,
    Multiport,
    OpaqueMatch,
    Owner,
    PortMatch,
)
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import (
    CtZone,
    Goto,
    Jump,
    OpaqueTarget,
    Redirect,
    RestoreMark,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
    Verdict,
)
from istio_init.dialects.role import Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.matches import Match
    from istio_init.dialects.iptables.rules import Rule


def shape(rule: Rule) -> str:
    """The rule's shape. Comments do not count; a test that is repeated counts once."""
    words: list[str] = []
    for flag, header in (
        ("-s", rule.source),
        ("-d", rule.destination),
        ("-i", rule.in_interface),
        ("-o", rule.out_interface),
    ):
        if header is not None:
            words.append(f"!{flag}" if header.negated else flag)
    if rule.protocol is not None:
        words.append(f"!-p {rule.protocol.name}" if rule.protocol.negated else f"-p {rule.protocol.name}")
    for match in rule.matches:
        words += [word for word in _match_shape(match) if word not in words]
    return " ".join([*words, *_target_shape(rule)])


def _match_shape(match: Match) -> list[str]:
    match match:
        case PortMatch(protocol, source, destination):
            tests = [("sport", source), ("dport", destination)]
            found = [f"!{name}" if test.negated else name for name, test in tests if test is not None]
            return found or [protocol]
        case Multiport(side, _, negated):
            return [("!" if negated else "") + f"multiport-{side}"]
        case Owner(uid, uid_negated, gid, gid_negated):
            ids = [("uid", uid, uid_negated), ("gid", gid, gid_negated)]
            return [f"!{name}" if negated else name for name, given, negated in ids if given is not None]
        case Mark(_, _, negated):
            return ["!mark" if negated else "mark"]
        case Connmark(_, _, negated):
            return ["!connmark" if negated else "connmark"]
        case Ctstate(states, negated):
            return [("!" if negated else "") + "ctstate=" + ",".join(states)]
        case Comment():
            return []
        case OpaqueMatch(name, _):
            return [f"?{name or 'flag'}"]


def _target_shape(rule: Rule) -> list[str]:
    match rule.target:
        case None:
            return []
        case Verdict(name):
            return [name]
        case Jump(chain):
            return [f">{chain}"]
        case Goto(chain):
            return [f">>{chain}"]
        case Redirect():
            return ["REDIRECT"]
        case Tproxy():
            return ["TPROXY"]
        case SetMark():
            return ["MARK"]
        case SetConnmark():
            return ["CONNMARK"]
        case SaveMark():
            return ["SAVE"]
        case RestoreMark():
            return ["RESTORE"]
        case CtZone():
            return ["ZONE"]
        case OpaqueTarget(name, _):
            return [f"?{name}"]


_PROXY_OWNER = {
    "!-d -o uid >ISTIO_IN_REDIRECT": Role.PROXY_TO_SELF,
    "!-d -o gid >ISTIO_IN_REDIRECT": Role.PROXY_TO_SELF,
    "!-d -o -p tcp !dport uid >ISTIO_IN_REDIRECT": Role.PROXY_TO_SELF,
    "!-d -o -p tcp !multiport-destination uid >ISTIO_IN_REDIRECT": Role.PROXY_TO_SELF,
    "!-d -o -p tcp !dport gid >ISTIO_IN_REDIRECT": Role.PROXY_TO_SELF,
    "-o !uid RETURN": Role.APP_LOOPBACK,
    "-o -p tcp !dport !uid RETURN": Role.APP_LOOPBACK,
    "-o !gid RETURN": Role.APP_LOOPBACK,
    "-o -p tcp !dport !gid RETURN": Role.APP_LOOPBACK,
    "uid RETURN": Role.PROXY_BYPASS,
}

_OLDER_ZONES = {
    "-p udp dport uid ZONE": Role.OLDER_DNS_ZONE,
    "-p udp sport uid ZONE": Role.OLDER_DNS_ZONE,
    "-p udp dport gid ZONE": Role.OLDER_DNS_ZONE,
    "-p udp sport gid ZONE": Role.OLDER_DNS_ZONE,
    "-p udp dport ZONE": Role.OLDER_DNS_ZONE,
    "-d -p udp dport ZONE": Role.OLDER_DNS_ZONE,
}

_OLDER_UDP_DNS = {
    "-p udp dport uid RETURN": Role.OLDER_DNS_PROXY_BYPASS,
    "-p udp dport gid RETURN": Role.OLDER_DNS_PROXY_BYPASS,
    "-p udp dport REDIRECT": Role.OLDER_DNS_REDIRECT,
    "-d -p udp dport REDIRECT": Role.OLDER_DNS_REDIRECT,
}

SHAPES: dict[tuple[Table, str], dict[str, Role]] = {
    (Table.NAT, "PREROUTING"): {
        "-i RETURN": Role.EXCLUDED_INTERFACE_IN,
        "-i >ISTIO_REDIRECT": Role.VIRTUAL_INTERFACE_CAPTURE,
        "-d -i >ISTIO_REDIRECT": Role.VIRTUAL_INTERFACE_CAPTURE,
        "-p tcp >ISTIO_INBOUND": Role.INBOUND_JUMP,
    },
    (Table.NAT, "OUTPUT"): {
        "-o RETURN": Role.EXCLUDED_INTERFACE_OUT,
        ">ISTIO_OUTPUT": Role.OUTBOUND_JUMP,
        "-p tcp >ISTIO_OUTPUT": Role.OUTBOUND_JUMP,
        "-p udp >ISTIO_OUTPUT": Role.OUTBOUND_JUMP,
        **_OLDER_UDP_DNS,
    },
    (Table.NAT, "ISTIO_INBOUND"): {
        "-p tcp dport RETURN": Role.INBOUND_EXCLUDED_PORT,
        "-p tcp tcp RETURN": Role.INBOUND_EXCLUDED_PORT,
        "-p tcp >ISTIO_IN_REDIRECT": Role.INBOUND_CAPTURE,
        "-p tcp dport >ISTIO_IN_REDIRECT": Role.INBOUND_CAPTURE,
        "-p tcp tcp >ISTIO_IN_REDIRECT": Role.INBOUND_CAPTURE,
    },
    (Table.NAT, "ISTIO_IN_REDIRECT"): {"-p tcp REDIRECT": Role.INBOUND_REDIRECT},
    (Table.NAT, "ISTIO_REDIRECT"): {"-p tcp REDIRECT": Role.OUTBOUND_REDIRECT},
    (Table.NAT, "ISTIO_OUTPUT"): {
        "-p tcp dport RETURN": Role.OUTBOUND_EXCLUDED_PORT,
        "-p udp dport RETURN": Role.OUTBOUND_EXCLUDED_PORT,
        "-p tcp tcp RETURN": Role.OUTBOUND_EXCLUDED_PORT,
        "-p udp udp RETURN": Role.OUTBOUND_EXCLUDED_PORT,
        "-s -o RETURN": Role.OUTBOUND_PASSTHROUGH,
        **_PROXY_OWNER,
        "gid RETURN": Role.OWNER_GROUP_EXCLUDED,
        "!gid RETURN": Role.OWNER_GROUPS_INCLUDED,
        ">ISTIO_OUTPUT_DNS": Role.DNS_JUMP,
        "-p tcp dport REDIRECT": Role.DNS_REDIRECT,
        "-d -p tcp dport REDIRECT": Role.DNS_REDIRECT,
        **_OLDER_UDP_DNS,
        "-d RETURN": Role.OUTBOUND_EXCLUDED_RANGE,
        "RETURN": Role.OUTBOUND_EXCLUDED_RANGE,
        "-p tcp dport >ISTIO_REDIRECT": Role.OUTBOUND_INCLUDED_PORT,
        "-p tcp tcp >ISTIO_REDIRECT": Role.OUTBOUND_INCLUDED_PORT,
        ">ISTIO_REDIRECT": Role.OUTBOUND_CAPTURE_ALL,
        "-d >ISTIO_REDIRECT": Role.OUTBOUND_INCLUDED_RANGE,
    },
    (Table.NAT, "ISTIO_OUTPUT_DNS"): {
        "-p tcp dport REDIRECT": Role.DNS_REDIRECT,
        "-p udp dport REDIRECT": Role.DNS_REDIRECT,
        "-d -p tcp dport REDIRECT": Role.DNS_REDIRECT,
        "-d -p udp dport REDIRECT": Role.DNS_REDIRECT,
    },
    (Table.MANGLE, "PREROUTING"): {
        "-i RETURN": Role.EXCLUDED_INTERFACE_IN,
        "ctstate=INVALID >ISTIO_DROP": Role.DROP_INVALID_JUMP,
        "-p tcp ctstate=INVALID >ISTIO_DROP": Role.DROP_INVALID_JUMP,  # Native nftables looks at TCP alone.
        "ctstate=INVALID DROP": Role.OLDER_DROP_INVALID,
        "-p tcp >ISTIO_INBOUND": Role.INBOUND_JUMP,
        "-p tcp mark SAVE": Role.TPROXY_SAVE_MARK,
        "-i -p tcp mark SAVE": Role.TPROXY_SAVE_MARK,  # While two stores hold rules: see `istio_init.plan.overlap`.
    },
    (Table.MANGLE, "OUTPUT"): {
        "-o RETURN": Role.EXCLUDED_INTERFACE_OUT,
        "-o -p tcp mark RETURN": Role.TPROXY_LOOPBACK_MARKED,
        "!-d -o -p tcp uid MARK": Role.TPROXY_PROXY_LOOPBACK,
        "!-d -o -p tcp gid MARK": Role.TPROXY_PROXY_LOOPBACK,
        "-p tcp connmark RESTORE": Role.TPROXY_RESTORE_MARK,
    },
    (Table.MANGLE, "ISTIO_INBOUND"): {
        "-p tcp mark RETURN": Role.TPROXY_MARKED,
        "-s -i -p tcp RETURN": Role.TPROXY_PASSTHROUGH,
        "-i -p tcp !mark RETURN": Role.TPROXY_APP_LOOPBACK,
        "-p tcp dport RETURN": Role.INBOUND_EXCLUDED_PORT,
        "-p tcp tcp RETURN": Role.INBOUND_EXCLUDED_PORT,
        "-p tcp ctstate=RELATED,ESTABLISHED >ISTIO_DIVERT": Role.TPROXY_DIVERT,
        "-p tcp dport ctstate=RELATED,ESTABLISHED >ISTIO_DIVERT": Role.TPROXY_DIVERT,
        "-p tcp tcp ctstate=RELATED,ESTABLISHED >ISTIO_DIVERT": Role.TPROXY_DIVERT,
        "-p tcp >ISTIO_TPROXY": Role.INBOUND_CAPTURE,
        "-p tcp dport >ISTIO_TPROXY": Role.INBOUND_CAPTURE,
        "-p tcp tcp >ISTIO_TPROXY": Role.INBOUND_CAPTURE,
    },
    (Table.MANGLE, "ISTIO_DIVERT"): {"MARK": Role.TPROXY_DIVERT_MARK, "ACCEPT": Role.TPROXY_DIVERT_ACCEPT},
    (Table.MANGLE, "ISTIO_TPROXY"): {"!-d -p tcp TPROXY": Role.TPROXY_CAPTURE},
    (Table.MANGLE, "ISTIO_DROP"): {"DROP": Role.DROP_INVALID},
    (Table.RAW, "PREROUTING"): {
        ">ISTIO_INBOUND": Role.DNS_ZONES_IN_JUMP,
        "-p udp sport ZONE": Role.OLDER_DNS_ZONE,
        "-s -p udp sport ZONE": Role.OLDER_DNS_ZONE,
        "-d -p udp sport ZONE": Role.OLDER_DNS_ZONE,
    },
    (Table.RAW, "OUTPUT"): {
        ">ISTIO_OUTPUT_DNS": Role.DNS_ZONES_OUT_JUMP,
        "-p udp >ISTIO_OUTPUT": Role.DNS_ZONES_OUT_JUMP,
        **_OLDER_ZONES,
    },
    (Table.RAW, "ISTIO_OUTPUT"): _OLDER_ZONES,
    (Table.RAW, "ISTIO_OUTPUT_DNS"): {
        "-p udp dport uid ZONE": Role.DNS_ZONE_PROXY_QUERY,
        "-p udp dport gid ZONE": Role.DNS_ZONE_PROXY_QUERY,
        "-p udp sport uid ZONE": Role.DNS_ZONE_PROXY_ANSWER,
        "-p udp sport gid ZONE": Role.DNS_ZONE_PROXY_ANSWER,
        "-p udp dport ZONE": Role.DNS_ZONE_APP_QUERY,
        "-d -p udp dport ZONE": Role.DNS_ZONE_APP_QUERY,
    },
    (Table.RAW, "ISTIO_INBOUND"): {
        "-p udp sport ZONE": Role.DNS_ZONE_SERVER_ANSWER,
        "-s -p udp sport ZONE": Role.DNS_ZONE_SERVER_ANSWER,
    },
}
"""By table and chain, the role of each shape. Where one shape has two roles, `recognise` decides by what is around."""

AMBIENT_SHAPES: dict[tuple[Table, str], dict[str, Role]] = {
    **{(table, "PREROUTING"): {">ISTIO_PRERT": Role.AMBIENT_JUMP} for table in (Table.RAW, Table.MANGLE, Table.NAT)},
    **{(table, "OUTPUT"): {">ISTIO_OUTPUT": Role.AMBIENT_JUMP} for table in (Table.RAW, Table.MANGLE, Table.NAT)},
    (Table.MANGLE, "ISTIO_PRERT"): {
        "mark CONNMARK": Role.AMBIENT_MARK_SAVE,
        # Up to Istio 1.24 inbound connections were handed over here, by TPROXY.
        "-s -p tcp tcp ACCEPT": Role.AMBIENT_PROBE,
        "!-d -i -p tcp ACCEPT": Role.AMBIENT_SELF,
        "-p tcp dport !mark TPROXY": Role.AMBIENT_INBOUND,
        "-p tcp ctstate=RELATED,ESTABLISHED ACCEPT": Role.AMBIENT_ANSWER,
        "!-d -p tcp !mark TPROXY": Role.AMBIENT_INBOUND,
    },
    (Table.MANGLE, "ISTIO_OUTPUT"): {"connmark RESTORE": Role.AMBIENT_MARK_RESTORE},
    (Table.NAT, "ISTIO_PRERT"): {
        "-i -p tcp REDIRECT": Role.AMBIENT_VIRTUAL_INTERFACE,
        "-i -p tcp RETURN": Role.AMBIENT_VIRTUAL_INTERFACE_RETURN,
        "-s -p tcp ACCEPT": Role.AMBIENT_PROBE,
        "-s -p tcp tcp ACCEPT": Role.AMBIENT_PROBE,
        "!-d -p tcp !dport !mark REDIRECT": Role.AMBIENT_INBOUND,
    },
    (Table.NAT, "ISTIO_OUTPUT"): {
        "-d -p tcp ACCEPT": Role.AMBIENT_PROBE_ANSWER,
        "-d -p tcp tcp ACCEPT": Role.AMBIENT_PROBE_ANSWER,
        "!-o -p udp !mark dport REDIRECT": Role.AMBIENT_DNS,
        "!-o -p udp dport !mark REDIRECT": Role.AMBIENT_DNS,
        "!-d -p tcp dport !mark REDIRECT": Role.AMBIENT_DNS,
        "!-d -p tcp !mark dport REDIRECT": Role.AMBIENT_DNS,
        "-p tcp mark ACCEPT": Role.AMBIENT_ANSWER,
        "!-d -o ACCEPT": Role.AMBIENT_SELF,
        "!-d -p tcp !mark REDIRECT": Role.AMBIENT_OUTBOUND,
    },
    (Table.RAW, "ISTIO_PRERT"): {
        "-p udp sport !mark ZONE": Role.AMBIENT_DNS_ZONE,
        "-p udp !mark sport ZONE": Role.AMBIENT_DNS_ZONE,
    },
    (Table.RAW, "ISTIO_OUTPUT"): {
        "-p udp dport mark ZONE": Role.AMBIENT_DNS_ZONE,
        "-p udp mark dport ZONE": Role.AMBIENT_DNS_ZONE,
    },
}
"""The same for the tables of a pod of an ambient mesh, which the chain ISTIO_PRERT gives away."""

AMBIENT_CHAIN = "ISTIO_PRERT"
