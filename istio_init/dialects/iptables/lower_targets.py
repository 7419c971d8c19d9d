"""Every target that is known, by name: the one place in which a target is added."""

from __future__ import annotations

from istio_init.dialects.iptables.lower_extension import Extension, masked, number
from istio_init.dialects.iptables.lower_nat import dnat, masquerade, netmap, redirect, snat, tproxy
from istio_init.netfilter.family import MAX_MARK
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import Assign, End, Forget, Note, Openness, Test, Untrack, Verdict, Zone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.lower_extension import Asked, Lowered
    from istio_init.netfilter.rules import Statement

    Parts = tuple[tuple[Field, int], ...]


def _assign(field: Field, *parts: tuple[Field, int], constant: int = 0) -> Assign:
    return Assign(field, tuple([part for part in parts if part[1]]), constant)


def _set_bits(field: Field, what: str, text: str, whole: int) -> Assign:
    """The field as ``--set-xmark``, ``--set-mark`` and their like leave it: ``(field & ~mask) ^ value``.

    The kernel knows the first alone; the others are its shorthands (libxt_MARK.c).
    """
    value, mask = masked(text, whole)
    match what:
        case "set-x":
            pass
        case "set-":
            mask |= value
        case "and-":
            value, mask = 0, ~value & whole
        case "or-":
            mask = value
        case "xor-":
            mask = 0
        case _:
            raise ValueError(what)
    return _assign(field, (field, ~mask & whole), constant=value)


def mark(asked: Asked) -> Lowered:
    """MARK: give the packet a mark (xt_mark.c)."""
    [(flag, _, [value])] = asked.options()
    return (_set_bits(Field.MARK, flag.removeprefix("--").removesuffix("mark"), value, MAX_MARK),)


_CONNECTION_EXISTS = Test(Field.CT_MARK, ((0, MAX_MARK),), None, False, False)


def connmark(asked: Asked) -> Lowered:
    """CONNMARK: set the connection's mark, or copy it to or from the packet's (connmark_tg_shift in xt_connmark.c).

    Without a connection nothing happens: before the packet's own mark is written, a test asks for one.
    """
    options = {flag.removeprefix("--"): values for flag, _, values in asked.options()}
    shifted = bool(options.keys() & {"left-shift-mark", "right-shift-mark"})
    both = number(options["mask"][0]) if "mask" in options else MAX_MARK
    packet = number(options["nfmask"][0]) if "nfmask" in options else both
    connection = number(options["ctmask"][0]) if "ctmask" in options else both
    if "restore-mark" in options:
        change: Statement = _assign(Field.MARK, (Field.MARK, ~packet & MAX_MARK), (Field.CT_MARK, connection))
        if shifted:
            change = Forget(Field.MARK, asked.cause(Openness.NOT_MODELLED))
        return _CONNECTION_EXISTS, change
    if shifted:
        return (Forget(Field.CT_MARK, asked.cause(Openness.NOT_MODELLED)),)
    if "save-mark" in options:
        return (_assign(Field.CT_MARK, (Field.CT_MARK, ~connection & MAX_MARK), (Field.MARK, packet)),)
    [(flag, [value])] = options.items()
    return (_set_bits(Field.CT_MARK, flag.removesuffix("mark"), value, MAX_MARK),)


def ct(asked: Asked) -> Lowered:
    """CT: no tracking, or tracking in a zone (xt_CT.c); helpers, events and timeouts leave the packet's way alone."""
    found: list[Statement] = []
    noted = False
    for flag, _, values in asked.options():
        if flag == "--notrack":
            return (Untrack(),)
        if flag in ("--zone", "--zone-orig") and values != ("mark",):
            found.append(Zone(number(values[0], 65535)))
        elif flag.startswith("--zone"):  # From a mark that may still change, or of answers alone.
            found.append(Zone(asked.cause(Openness.NOT_MODELLED)))
        elif flag in ("--helper", "--ctevents", "--expevents", "--timeout"):
            noted = True
        else:
            raise ValueError(flag)
    return (*(found or [Zone(0)]), *([Note(asked.text)] if noted else []))


def tos(asked: Asked) -> Lowered:
    """TOS: set the TOS byte under a mask (xt_DSCP.c)."""
    [(flag, _, [value])] = asked.options()
    kind = flag.removeprefix("--").removesuffix("tos")
    return (_set_bits(Field.TOS, "set-x" if kind == "set-" else kind, value, 0xFF),)


def dscp(asked: Asked) -> Lowered:
    """DSCP: set the upper six bits of the TOS byte (xt_DSCP.c)."""
    [(flag, _, [value])] = asked.options()
    if flag != "--set-dscp":
        raise ValueError(flag)
    return (_assign(Field.TOS, (Field.TOS, 3), constant=number(value, 63) << 2),)


def hop_limit(asked: Asked) -> Lowered:
    """TTL, HL: set, raise or lower it (xt_HL.c)."""
    [(flag, _, [value])] = asked.options()
    if flag.endswith("-set"):
        return (_assign(Field.TTL, constant=number(value, 255)),)
    return (Forget(Field.TTL, asked.cause(Openness.NOT_MODELLED)),)


def ecn(asked: Asked) -> Lowered:
    """ECN: clear TCP's ECN bits, or set those of the IP header (ipt_ECN.c)."""
    [(flag, _, values)] = asked.options()
    if flag == "--ecn-tcp-remove":
        return (_assign(Field.TCP_FLAGS, (Field.TCP_FLAGS, 0x3F)),)
    if flag == "--ecn-ip-ect":
        return (_assign(Field.TOS, (Field.TOS, 0xFC), constant=number(values[0], 3)),)
    return (Forget(Field.TCP_FLAGS, asked.cause(Openness.NOT_MODELLED)),)


def classify(asked: Asked) -> Lowered:
    """CLASSIFY: set the priority, two hexadecimal halves (xt_CLASSIFY.c)."""
    [(_, _, [value])] = asked.options()
    major, _, minor = value.partition(":")
    return (_assign(Field.PRIORITY, constant=number(f"0x{major}", 0xFFFF) << 16 | number(f"0x{minor}", 0xFFFF)),)


def synproxy(_: Asked) -> Lowered:
    """SYNPROXY: take a SYN, and the ACK after it; let what else there is pass on (ipt_SYNPROXY.c)."""
    fin, syn, rst, ack = 1, 2, 4, 16
    taken = Test(Field.TCP_FLAGS, ((syn, syn | fin), (syn | rst, syn | rst | fin), (ack, ack)), fin | syn | rst | ack)
    return taken, End(Verdict.STOLEN)


def set_target(asked: Asked) -> Lowered:
    """SET: add to or delete from a set, or take mark and priority from one (set_target_v3 in xt_set.c)."""
    found: list[Statement] = []
    options = {flag: values for flag, _, values in asked.options()}
    if options.keys() & {"--add-set", "--del-set"}:
        found.append(Note(asked.text))
    if "--map-set" in options:
        name, directions = options["--map-set"]
        if "--map-mark" in options:
            found += asked.sets.marks(name, directions, asked.text)
        if "--map-prio" in options:
            found.append(Forget(Field.PRIORITY, asked.cause(Openness.NOT_MODELLED)))
    if not options:
        raise ValueError(asked.text)
    return tuple(found)


_ACCEPTED = Extension(lambda _: (End(Verdict.ACCEPT),))
_DROPPED = Extension(lambda _: (End(Verdict.DROP),))
_QUEUED = Extension(lambda _: (End(Verdict.QUEUE),))
_NOTED = Extension(lambda asked: (Note(asked.text),))
_NOTED_OF_CONNECTION = _NOTED.replace(tracks=True)

TARGETS: dict[str, Extension] = {
    "ACCEPT": _ACCEPTED,
    "AUDIT": _NOTED,
    "CHECKSUM": _NOTED,
    "CLASSIFY": Extension(classify),
    "CONNMARK": Extension(connmark, tracks=True),
    "CONNSECMARK": _NOTED_OF_CONNECTION,
    "CT": Extension(ct, tracks=True),
    "DNAT": Extension(dnat, tracks=True),
    "DROP": _DROPPED,
    "DSCP": Extension(dscp),
    "ECN": Extension(ecn),
    "HL": Extension(hop_limit),
    "HMARK": Extension(lambda asked: (Forget(Field.MARK, asked.cause(Openness.OPEN)),)),
    "IDLETIMER": _NOTED,
    "LED": _NOTED,
    "LOG": _NOTED,
    "MARK": Extension(mark),
    "MASQUERADE": Extension(masquerade, tracks=True),
    "NETMAP": Extension(netmap, tracks=True, by_hook=True),
    "NFLOG": _NOTED,
    "NFQUEUE": _QUEUED,
    "NOTRACK": Extension(lambda _: (Untrack(),)),
    "QUEUE": _QUEUED,
    "RATEEST": _NOTED,
    "REDIRECT": Extension(redirect, tracks=True),
    "REJECT": Extension(lambda _: (End(Verdict.REJECT),)),
    "RETURN": Extension(lambda _: (End(Verdict.RETURN),)),
    "SECMARK": _NOTED,
    "SET": Extension(set_target),
    "SNAT": Extension(snat, tracks=True),
    "SYNPROXY": Extension(synproxy, tracks=True),
    "TCPMSS": Extension(lambda asked: (Forget(Field.LENGTH, asked.cause(Openness.NOT_GIVEN)),)),
    "TCPOPTSTRIP": _NOTED,
    "TEE": _NOTED,
    "TOS": Extension(tos),
    "TPROXY": Extension(tproxy),
    "TRACE": _NOTED,
    "TTL": Extension(hop_limit),
    "ULOG": _NOTED,
}
"""Any other target is unknowable, and its name the cause (iptables-extensions(8) describes them)."""
