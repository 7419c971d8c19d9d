"""What of a namespace could not be read, and why: none is not the same as not known."""

from __future__ import annotations

from enum import Enum

from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import ForeignRulesError, IstioInitError, PrivilegeError
from istio_init.netfilter.family import Family
from istio_init.value import Value


class Part(Enum):
    """A part of what is known of a namespace; the value is what people call it."""

    RULES_NFT = "nft rules"
    """What iptables-nft writes."""
    RULES_LEGACY = "legacy rules"
    NATIVE = "native nftables"
    """All of nf_tables, as nft prints it."""
    ORDER = "order of hooks"
    SETS = "sets"
    """Those of ipset, which rules name."""
    TABLES = "other tables"
    """Those that a text of iptables does not hold, or does not tell whole; it is asked about as it is."""
    LISTING = "listing"
    """Rules of which a listing does not say all: what it leaves out is undecidable."""
    ROUTING = "routing"
    ROUTING_RULES = "routing rules"
    INTERFACES = "interfaces"
    SOCKETS = "sockets"
    PROCESSES = "processes"
    IPSEC = "IPsec"
    """Its policies, which decide what is encrypted, let through or dropped, and which are not followed."""
    CONNTRACK_STATISTICS = "connection tracking statistics"

    __hash__ = object.__hash__


class Why(Enum):
    """What stood in the way."""

    DENIED = "denied"
    """A permission is missing."""
    NOT_EXPRESSIBLE = "not expressible"
    """The program that prints rules cannot print these."""
    NOT_FOLLOWED = "not followed"
    """It was read, and nothing here can tell what it does to packets."""
    FAILED = "failed"
    """Something else: a program is missing, or the kernel refused."""

    __hash__ = object.__hash__


RULES_OF = {RuleStore.NFT: Part.RULES_NFT, RuleStore.LEGACY: Part.RULES_LEGACY}
"""Which part the rules of a store are."""


class Unread(Value):
    """A part that could not be read whole; ``family`` where it is of one, ``file`` where it came from one."""

    part: Part
    reason: str
    family: Family | None = None
    why: Why = Why.FAILED
    file: str | None = None

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self.file}: {self.reason}"
        of = f" of {self.family.value}" if self.family else ""
        return f"{self.part.value}{of}: {self.reason}"


def unread(part: Part, error: Exception, family: Family | None = None) -> Unread:
    """What an error left unread, with what it says in a line."""
    return Unread(part, reason_of(error), family, _why(error))


def _why(error: Exception) -> Why:
    if isinstance(error, PrivilegeError | PermissionError):
        return Why.DENIED
    return Why.NOT_EXPRESSIBLE if isinstance(error, ForeignRulesError) else Why.FAILED


def reason_of(error: Exception) -> str:
    """What an error says, in a line."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    text = error.message if isinstance(error, IstioInitError) else str(error)
    return text.partition("\n")[0]
