"""What every backend does, whatever it is made of."""

from __future__ import annotations

import fcntl
import os
import threading
from ipaddress import ip_address, ip_network

import pytest

from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.matches import IdRange, PortRange
from istio_init.dialects.iptables.rules import Counters, RuleSet
from istio_init.dialects.iptables.save import with_texts
from istio_init.dialects.iptables.tables import Table
from istio_init.errors import BusyError, PrivilegeError, ToolError
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff
from istio_init.plan.model import Append, Declare, Delete, Insert, Remove, Step, TableEdit
from istio_init.stores.legacy import IptablesLegacy
from istio_init.system import process

from .conftest import KINDS, Subject, existing_tables, marked, texts_of

NAT, MANGLE, RAW, FILTER = Table.NAT, Table.MANGLE, Table.RAW, Table.FILTER

OF_THE_KERNEL = pytest.mark.parametrize("subject", [marked(kind) for kind in KINDS if kind != "fake"], indirect=True)
LEGACY = pytest.mark.parametrize("subject", [marked(kind) for kind in KINDS if "legacy" in kind], indirect=True)

PORTS = (PortRange(80, 80), PortRange(8000, 8090), PortRange(0, 1024), PortRange(0, 65535))
IDS = (IdRange(1337, 1337), IdRange(2000, 2010))
RANGES = tuple(map(ip_network, ("10.0.0.0/8", "1.2.3.4/32", "fd00::/8", "2001:db8::1/128", "0.0.0.0/0", "::/0")))

CONFIGS = {
    "the injection template's": Config(
        inbound_ports=ALL, outbound_ranges=ALL, inbound_exclude_ports=(PortRange(15090, 15090),)
    ),
    "lists of everything": Config(
        proxy_uids=IDS,
        proxy_gids=IDS,
        inbound_ports=PORTS,
        outbound_ranges=RANGES,
        outbound_exclude_ranges=RANGES,
        outbound_ports=PORTS,
        outbound_exclude_ports=PORTS,
        exclude_interfaces=("eth1", "veth+", "a*b#$;@x"),
        virtual_interfaces=("vm0", "tap+"),
        owner_groups=IDS,
        drop_invalid=True,
        redirect_dns=True,
    ),
    "tproxy of all ports, dns of all servers": Config(
        mode=InterceptionMode.TPROXY,
        inbound_ports=ALL,
        inbound_exclude_ports=PORTS,
        outbound_ranges=ALL,
        owner_groups_exclude=IDS,
        exclude_interfaces=("eth1",),
        virtual_interfaces=("vm0",),
        redirect_dns=True,
        capture_all_dns=True,
        drop_invalid=True,
        tproxy_mark=0xFFFFFFFF,
    ),
    "tproxy of some ports": Config(
        mode=InterceptionMode.TPROXY,
        inbound_ports=PORTS,
        loopback_cidr=ip_network("127.0.0.0/8"),  # type: ignore[arg-type]
    ),
}
AROUND = Surroundings(ipv6=True, dns_servers=tuple(map(ip_address, ("10.96.0.10", "1.1.1.1", "fd00::a"))))


def wanted(config: Config, subject: Subject) -> RuleSet:
    """The rules of a configuration in the family under test, with their texts."""
    return with_texts(sidecar.rules(config, AROUND)[subject.family])


def programmed(config: Config, subject: Subject) -> RuleSet:
    """The same, committed to an empty namespace."""
    goal = wanted(config, subject)
    subject.backend.commit(subject.family, diff(RuleSet(subject.family), goal).edits)
    return goal


class TestReading:
    """To look changes nothing."""

    def test_an_empty_namespace_has_no_families_and_no_rules(self, subject: Subject) -> None:
        assert subject.backend.families() == ()
        assert list(subject.backend.read(subject.family).entries()) == []

    def test_reading_an_empty_namespace_creates_no_table(self, subject: Subject) -> None:
        for _ in range(2):
            subject.backend.families()
            subject.backend.read(subject.family)
            subject.backend.read(subject.other)

        assert subject.backend.families() == ()
        if subject.store:
            assert existing_tables() == set()

    def test_reading_creates_no_table_beside_those_that_exist(self, subject: Subject) -> None:
        subject.seed(RAW, "-A OUTPUT -j ACCEPT")

        subject.backend.read(subject.family)
        subject.backend.read(subject.other)

        assert subject.backend.families() == (subject.family,)
        if subject.store:
            assert existing_tables() == {(subject.store, subject.family, "raw")}

    def test_what_is_read_is_what_iptables_save_prints(self, subject: Subject) -> None:
        subject.seed(FILTER, ":INPUT DROP [0:0]", ":FOREIGN - [0:0]", *(f"-A FOREIGN {text}" for text in UNKNOWN))

        rules = subject.backend.read(subject.family)

        assert subject.read() == subject.saved()
        assert subject.chain(FILTER, "FOREIGN") == list(UNKNOWN)
        chain = rules.chain(FILTER, "INPUT")
        assert chain is not None
        assert chain.policy == "DROP"
        foreign = rules.chain(FILTER, "FOREIGN")
        assert foreign is not None
        assert foreign.policy is None

    def test_counters_are_those_of_the_kernel(self, subject: Subject) -> None:
        subject.seed(
            MANGLE, ":OUTPUT ACCEPT [7:420]", "[5:300] -A OUTPUT -p udp -j ACCEPT", "[0:0] -A OUTPUT -j ACCEPT"
        )

        chain = subject.backend.read(subject.family, counters=True).chain(MANGLE, "OUTPUT")
        saved = subject.document().chain(MANGLE, "OUTPUT")

        assert chain is not None
        assert saved is not None
        assert [entry.counters for entry in chain.entries] == [entry.counters for entry in saved.entries]
        assert chain.counters == saved.counters
        if (subject.kind, subject.family) != ("nft", Family.IPV6):  # ip6tables-nft-restore 1.8.9 forgets them.
            assert [entry.counters for entry in chain.entries] == [Counters(5, 300), Counters(0, 0)]

    def test_rules_whose_text_is_known_are_not_made_anew(self, subject: Subject) -> None:
        goal = programmed(CONFIGS["the injection template's"], subject)
        known = {str(entry.text): entry.rule for *_, entry in goal.entries()}

        read = subject.backend.read(subject.family, known)

        if subject.store:
            assert all(entry.rule is known[str(entry.text)] for *_, entry in read.entries())
        assert texts_of(read) == texts_of(goal)


UNKNOWN = (
    "-m addrtype ! --dst-type LOCAL -j RETURN",
    '-m comment --comment "two words, -j DROP and a \\"quote\\"" -j ACCEPT',
    "-m comment --comment one -j ACCEPT",
    "-p tcp -m tcp --tcp-flags SYN,RST,ACK SYN -j RETURN",
    '-m limit --limit 5/min -j LOG --log-prefix "in: "',
    "-m statistic --mode random --probability 0.50000000000 -j RETURN",
    "-m conntrack ! --ctstate NEW --ctdir ORIGINAL -j RETURN",
    "! -p sctp -m length --length 10:20",
    "-m state --state RELATED,ESTABLISHED -j ACCEPT",
    "-p udp -m multiport ! --sports 1,2:5 -j ACCEPT",
)
"""Rules of others: matches and targets that have no type here, in the words in which iptables-save prints them."""


class TestCommitting:
    """What was asked for is there, and nothing else changed."""

    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    def test_every_rule_of_the_policy_is_read_back_and_can_be_deleted_by_its_text(
        self, config: Config, subject: Subject
    ) -> None:
        goal = programmed(config, subject)
        read = subject.backend.read(subject.family)

        assert texts_of(read) == texts_of(goal)
        assert {(table, chain.name, chain.rules) for table, chain in read.chains() if chain.rules} == {
            (table, chain.name, chain.rules) for table, chain in goal.chains() if chain.rules
        }
        assert diff(recognise(read), goal).edits == ()

        edits = [
            TableEdit(table, tuple([Delete(name, text) for name, lines in chains.items() for text in reversed(lines)]))
            for table, chains in texts_of(read).items()
        ]
        subject.backend.commit(subject.family, edits)

        assert list(subject.backend.read(subject.family).entries()) == []

    @OF_THE_KERNEL
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    def test_every_rule_of_the_policy_is_to_the_kernel_what_its_text_says(
        self, config: Config, subject: Subject
    ) -> None:
        """Printing a rule shows less than the kernel compares, so the program has to find each rule by its text."""
        goal = programmed(config, subject)

        text = "".join(
            f"*{table.value}\n"
            + "".join(f"-D {name} {line}\n" for name, lines in chains.items() for line in lines)
            + "COMMIT\n"
            for table, chains in texts_of(goal).items()
        )
        done = process.run([subject.program("restore"), "--noflush"], stdin=text, timeout=30)

        assert (done.status, done.stderr) == (0, "")
        assert list(subject.document().entries()) == []

    def test_only_tables_that_the_rules_need_come_into_being(self, subject: Subject) -> None:
        programmed(CONFIGS["the injection template's"], subject)

        assert set(subject.backend.read(subject.family).tables) == {NAT}
        assert subject.backend.families() == (subject.family,)
        if subject.store:
            assert existing_tables() == {(subject.store, subject.family, "nat")}

    def test_no_edits_create_nothing(self, subject: Subject) -> None:
        subject.backend.commit(subject.family, ())

        assert subject.backend.families() == ()

    def test_the_other_family_stays_as_it_is(self, subject: Subject) -> None:
        other = Subject(subject.kind, subject.other)
        if subject.kind == "fake":
            other.backend = subject.backend
        other.commit(NAT, Append("OUTPUT", "-j RETURN"))

        subject.commit(NAT, Append("OUTPUT", "-j ACCEPT"))

        assert other.read() == {NAT: {"OUTPUT": ["-j RETURN"]}}
        assert subject.read() == {NAT: {"OUTPUT": ["-j ACCEPT"]}}

    def test_foreign_rules_policies_and_counters_stay_through_a_whole_life(self, subject: Subject) -> None:
        subject.seed(NAT, ":FOREIGN - [0:0]", *(f"[3:180] -A FOREIGN {text}" for text in UNKNOWN if "LOG" not in text))
        subject.seed(NAT, "[5:300] -A PREROUTING -j FOREIGN", "-A OUTPUT -o lo -p sctp -j FOREIGN")
        subject.seed(FILTER, ":INPUT DROP [9:540]", "[1:60] -A INPUT -i lo -j ACCEPT")
        before = subject.document()
        first, second = CONFIGS["lists of everything"], CONFIGS["tproxy of all ports, dns of all servers"]

        for goal in (wanted(first, subject), wanted(second, subject), RuleSet(subject.family)):
            live = recognise(subject.backend.read(subject.family))
            subject.backend.commit(subject.family, diff(live, goal).edits)
            assert diff(recognise(subject.backend.read(subject.family)), goal).edits == ()

        after = subject.document()
        assert [chain for _, chain in after.chains() if chain.entries] == [
            chain for _, chain in before.chains() if chain.entries
        ]
        assert after.tables[FILTER] == before.tables[FILTER]
        assert after.tables[FILTER]["INPUT"].policy == "DROP"

    def test_a_rule_is_deleted_by_its_text_the_first_of_equal_ones(self, subject: Subject) -> None:
        subject.seed(NAT, *(f"-A OUTPUT -p {name} -j ACCEPT" for name in ("tcp", "udp", "tcp", "udp")))

        subject.commit(NAT, Delete("OUTPUT", "-p udp -j ACCEPT"))

        assert subject.saved() == {NAT: {"OUTPUT": [f"-p {name} -j ACCEPT" for name in ("tcp", "tcp", "udp")]}}

    @pytest.mark.parametrize(("number", "place"), [(1, 0), (2, 1), (3, 2)])
    def test_a_rule_is_inserted_at_its_number(self, number: int, place: int, subject: Subject) -> None:
        there = ["-p tcp -j ACCEPT", "-p udp -j ACCEPT"]
        subject.seed(NAT, *(f"-A OUTPUT {text}" for text in there))

        subject.commit(NAT, Insert("OUTPUT", number, "-p sctp -j ACCEPT"))

        assert subject.saved() == {NAT: {"OUTPUT": [*there[:place], "-p sctp -j ACCEPT", *there[place:]]}}

    def test_a_rule_may_test_nothing_and_do_nothing(self, subject: Subject) -> None:
        subject.commit(NAT, Append("OUTPUT", ""), Insert("OUTPUT", 1, "-p tcp"))

        assert subject.chain(NAT, "OUTPUT") == ["-p tcp", ""]

        subject.commit(NAT, Delete("OUTPUT", ""))

        assert subject.chain(NAT, "OUTPUT") == ["-p tcp"]

    def test_steps_see_what_the_steps_before_them_did(self, subject: Subject) -> None:
        subject.commit(
            NAT,
            Declare("ISTIO_A"),
            Append("OUTPUT", "-j ISTIO_A"),
            Append("OUTPUT", "-p udp -j ACCEPT"),
            Insert("OUTPUT", 2, "-p tcp -j ACCEPT"),
            Delete("OUTPUT", "-j ISTIO_A"),
            Remove("ISTIO_A"),
            Insert("OUTPUT", 3, "-p sctp -j ACCEPT"),
        )

        assert subject.read() == {NAT: {"OUTPUT": [f"-p {name} -j ACCEPT" for name in ("tcp", "udp", "sctp")]}}


class TestChains:
    """Chains come, are filled anew, and go, and nothing ever leads nowhere."""

    def test_a_chain_that_rules_lead_to_is_emptied_and_filled_in_one_step(self, subject: Subject) -> None:
        subject.seed(NAT, ":ISTIO_A - [0:0]", "-A ISTIO_A -p tcp -j RETURN", "-A OUTPUT -j ISTIO_A")

        subject.commit(NAT, Declare("ISTIO_A"), Append("ISTIO_A", "-p udp -j RETURN"))

        assert subject.saved() == {NAT: {"OUTPUT": ["-j ISTIO_A"], "ISTIO_A": ["-p udp -j RETURN"]}}

    def test_a_chain_goes_with_the_last_rule_that_leads_to_it(self, subject: Subject) -> None:
        subject.seed(
            NAT,
            ":ISTIO_A - [0:0]",
            ":ISTIO_B - [0:0]",
            "-A ISTIO_A -g ISTIO_B",
            "-A OUTPUT -j ISTIO_A",
            "-A OUTPUT -p tcp -j ACCEPT",
        )

        subject.commit(
            NAT,
            Declare("ISTIO_A"),
            Declare("ISTIO_B"),
            Delete("OUTPUT", "-j ISTIO_A"),
            Remove("ISTIO_A"),
            Remove("ISTIO_B"),
        )

        assert subject.saved() == {NAT: {"OUTPUT": ["-p tcp -j ACCEPT"]}}

    def test_chains_may_lead_to_each_other_whichever_is_filled_first(self, subject: Subject) -> None:
        subject.commit(
            NAT,
            Declare("ISTIO_A"),
            Declare("ISTIO_B"),
            Append("ISTIO_A", "-j ISTIO_B"),
            Append("ISTIO_B", "-p tcp -j RETURN"),
            Append("OUTPUT", "-g ISTIO_A"),
        )

        assert subject.chain(NAT, "OUTPUT") == ["-g ISTIO_A"]
        assert subject.chain(NAT, "ISTIO_A") == ["-j ISTIO_B"]

    def test_an_empty_chain_stays_an_empty_chain(self, subject: Subject) -> None:
        subject.commit(RAW, Declare("ISTIO_A"))

        assert subject.read() == {RAW: {"ISTIO_A": []}}


SEEDED = (":ISTIO_A - [0:0]", ":ISTIO_B - [0:0]", "-A ISTIO_A -p tcp -j RETURN", "-A OUTPUT -j ISTIO_B")

IMPOSSIBLE: dict[str, Step] = {
    "a rule for a chain that does not exist": Append("ISTIO_NOWHERE", "-j RETURN"),
    "an insertion into a chain that does not exist": Insert("ISTIO_NOWHERE", 1, "-j RETURN"),
    "an insertion beyond the end": Insert("OUTPUT", 4, "-j RETURN"),
    "an insertion at number 0": Insert("OUTPUT", 0, "-j RETURN"),
    "a jump to a chain that does not exist": Append("OUTPUT", "-j ISTIO_NOWHERE"),
    "a goto to a chain that does not exist": Append("OUTPUT", "-g ISTIO_NOWHERE"),
    "the deletion of a rule that does not exist": Delete("OUTPUT", "-p udp -j RETURN"),
    "a deletion in a chain that does not exist": Delete("ISTIO_NOWHERE", "-j RETURN"),
    "the removal of a chain that does not exist": Remove("ISTIO_NOWHERE"),
    "the removal of a chain that has rules": Remove("ISTIO_A"),
    "the removal of a chain that a rule leads to": Remove("ISTIO_B"),
    "the removal of a chain of the kernel": Remove("INPUT"),
}


class TestRefusals:
    """A table changes as a whole or not at all."""

    @pytest.mark.parametrize("step", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
    def test_a_step_that_is_impossible_leaves_its_table_as_it_was(self, step: Step, subject: Subject) -> None:
        subject.seed(NAT, *SEEDED)
        before = subject.saved()

        with pytest.raises(ToolError) as caught:
            subject.commit(
                NAT,
                Declare("ISTIO_C"),
                Append("OUTPUT", "-p tcp -j ACCEPT"),
                step,
                Append("ISTIO_C", "-p tcp -j ACCEPT"),
            )

        assert subject.saved() == before
        assert not isinstance(caught.value, BusyError | PrivilegeError), "it was refused, and nobody was in the way"

    def test_earlier_tables_stay_and_later_ones_are_not_begun(self, subject: Subject) -> None:
        edits = [
            TableEdit(RAW, (Append("OUTPUT", "-p tcp -j ACCEPT"),)),
            TableEdit(NAT, (Append("OUTPUT", "-p tcp -j ACCEPT"), Append("OUTPUT", "-j ISTIO_NOWHERE"))),
            TableEdit(MANGLE, (Append("OUTPUT", "-p tcp -j ACCEPT"),)),
        ]

        with pytest.raises(ToolError):
            subject.backend.commit(subject.family, edits)

        assert subject.saved() == {RAW: {"OUTPUT": ["-p tcp -j ACCEPT"]}}

    @OF_THE_KERNEL
    def test_a_target_that_the_table_does_not_have_is_refused_with_the_kernels_reason(self, subject: Subject) -> None:
        """The fake cannot tell: only the kernel knows which table may hold which target."""
        text = "-p tcp -j REDIRECT --to-ports 15001"

        with pytest.raises(ToolError) as caught:
            subject.commit(RAW, Append("OUTPUT", text))

        assert not isinstance(caught.value, BusyError)
        assert subject.saved() == {}


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0c"], ids=ascii)
def test_a_comment_of_others_may_hold_any_character_but_a_newline(character: str, subject: Subject) -> None:
    text = f'-m comment --comment "a{character}b" -j ACCEPT'
    subject.seed(NAT, f"-A OUTPUT {text}")

    assert subject.chain(NAT, "OUTPUT") == [text]


ODD_HEADERS = {
    Family.IPV4: ("-s 10.0.0.0/255.0.255.0 -j ACCEPT", "-f -j ACCEPT", "! -f -j ACCEPT"),
    Family.IPV6: ("-s fd00::1/ffff::ff -j ACCEPT", "! -d ::1/::ffff -j ACCEPT"),
}


def test_what_a_header_can_test_beyond_addresses_and_names_is_read_as_it_is(subject: Subject) -> None:
    texts = ODD_HEADERS[subject.family]
    subject.seed(NAT, *(f"-A OUTPUT {text}" for text in texts))

    assert subject.chain(NAT, "OUTPUT") == list(texts)


def test_targets_that_a_library_prints_without_a_word_are_read_as_they_are(subject: Subject) -> None:
    hops = "-j TTL --ttl-dec 1" if subject.family is Family.IPV4 else "-j HL --hl-dec 1"
    subject.seed(MANGLE, f"-A OUTPUT {hops}")
    subject.seed(RAW, "-A OUTPUT -p tcp -j NOTRACK")

    assert subject.chain(MANGLE, "OUTPUT") == [hops]
    assert subject.chain(RAW, "OUTPUT")[0] in ("-p tcp -j NOTRACK", "-p tcp -j CT --notrack")


@pytest.mark.parametrize("comment", ["it\\'s", "! x", ""], ids=["an apostrophe", "an exclamation mark", "empty"])
def test_a_rule_with_a_comment_can_be_written_as_it_was_read(
    comment: str, subject: Subject, request: pytest.FixtureRequest
) -> None:
    if "python-iptables" in subject.kind:
        request.applymarker(pytest.mark.xfail(strict=True, reason="python-iptables has the comment otherwise"))
    text = f'-m comment --comment "{comment}" -j ACCEPT'

    subject.commit(NAT, Append("OUTPUT", text))

    assert subject.saved() == {NAT: {"OUTPUT": [text]}}


@LEGACY
class TestTheLock:
    """Legacy programs take turns; nft has no lock."""

    def test_a_lock_that_is_held_for_too_long_is_said_and_nothing_is_changed(self, subject: Subject) -> None:
        backend = IptablesLegacy(0.2, binding="python-iptables" in subject.kind)
        held = os.open(os.environ["XTABLES_LOCKFILE"], os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            with pytest.raises(BusyError, match="xtables lock"):
                backend.commit(subject.family, [TableEdit(NAT, (Append("OUTPUT", "-j ACCEPT"),))])
        finally:
            os.close(held)

        assert subject.saved() == {}

    def test_a_lock_that_is_held_for_a_moment_is_waited_for(self, subject: Subject) -> None:
        held = os.open(os.environ["XTABLES_LOCKFILE"], os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        release = threading.Timer(0.5, os.close, [held])
        release.start()
        try:
            subject.commit(NAT, Append("OUTPUT", "-j ACCEPT"))
        finally:
            release.join()

        assert subject.saved() == {NAT: {"OUTPUT": ["-j ACCEPT"]}}
