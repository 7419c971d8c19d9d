"""What was proved, as lines of text: one a probe, what failed with its reason, and what was not probed."""

from __future__ import annotations

from textwrap import wrap

from istio_init.inspector.arguments import arguments, command
from istio_init.inspector.findings.model import Shown
from istio_init.netfilter.protocols import TCP
from istio_init.wording.outcomes import outcome_words
from istio_init.wording.traces import endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.prove.intent import Intent
    from istio_init.prove.model import Report, Verdict

WIDTH = 80
GROUPS = {"outbound": "Outbound", "dns": "DNS", "inside": "Inside, via lo", "inbound": "Inbound"}
SOURCES = {"expect": "compared with what is expected:", "live": "compared with the configuration behind its rules:"}
INDENT = " " * 6
DEEP = " " * 8

Line = tuple[str, str | None]
"""Text and its colour."""


def verify_lines(label: str, intent: Intent, report: Report) -> list[Line]:
    """All of it; the last line is the result."""
    lines: list[Line] = [(line, None) for line in _wrapped(f"{label}, {SOURCES[intent.source]}", "", "  ")]
    lines += [
        (line, None)
        for line in _wrapped(" ".join(arguments(intent.config).words(*command(intent.config))), "  ", "    ")
    ]
    limits = dict.fromkeys(each.note for each in report.verdicts if each.note)
    lines += [(line, "yellow") for note in (*report.notes, *limits) for line in _wrapped(f"note: {note}", "  ", "    ")]
    for group, title in GROUPS.items():
        verdicts = [each for each in report.verdicts if each.probe.group == group]
        if verdicts:
            lines += [("", None), (title, None)]
            lines += [line for each in verdicts for line in _verdict(each)]
    if report.problems:
        lines += [("", None), ("Besides the probes, by the rules", None)]
        lines += [(line, "red") for each in report.problems for line in _problem(each)]
    if report.skipped:
        lines += [("", None), ("Not probed", None)]
        for text in skipped_words(report):
            lines += [(line, None) for line in _wrapped(text, "  ", "    ")]
    return [*lines, ("", None), (result_line(report), "green" if report.is_proved else "red")]


def _problem(text: str) -> list[str]:
    """Its words, and in a line of its own the command that shows it."""
    if isinstance(text, Shown):
        return [*_wrapped(f"{text.said}:", "  FAIL  ", DEEP), DEEP + text.command]
    return _wrapped(text, "  FAIL  ", DEEP)


def result_line(report: Report) -> str:
    """How it ended, in a line."""
    count = len(report.verdicts)
    unprobed = f"; not probed: {len(skipped_words(report))}" if report.skipped else ""
    if report.failed:
        return f"NOT PROVED: {report.failed} of {_probes(count)} failed{unprobed}"
    if report.problems:
        return f"NOT PROVED: {_probes(count)} passed, but not all traffic goes where it has to{unprobed}"
    if count and not report.is_proved:
        none = f"no {' and no '.join(report.unprobed)} connection that has to be proxied could be sent"
        return f"NOT PROVED: {_probes(count)} passed, but {none}{unprobed}"
    return f"proved: {_probes(count)} passed{unprobed}" if count else f"nothing could be probed{unprobed}"


def _probes(count: int) -> str:
    return f"{count} probe{'s' * (count != 1)}"


def probe_words(verdict: Verdict) -> str:
    """What a probe is and what has to become of it."""
    probe, packet = verdict.probe, verdict.probe.packet
    goal = endpoint(packet.destination, packet.destination_port)
    protocol = "" if packet.protocol == TCP else f"/{probe.protocol}"
    ports = frozenset([probe.expected.port]) if probe.expected.port is not None else frozenset()
    return f"{probe.who} to {goal}{protocol}: {outcome_words(probe.expected, ports)}"


def skipped_words(report: Report) -> list[str]:
    """What is not probed and why, a line for all families of which the same is to be said."""
    families: dict[tuple[str, str], list[str]] = {}
    for each in report.skipped:
        families.setdefault((each.what, each.why), []).extend([each.family.value] if each.family else [])
    return [_skipped(what, names, why) for (what, why), names in families.items()]


def _skipped(what: str, names: list[str], why: str) -> str:
    return f"{what} ({', '.join(names)}): {why}" if names else f"{what}: {why}"


def failure_words(verdict: Verdict) -> list[str]:
    """What happened instead, and why."""
    return [each for each in (verdict.happened, verdict.reason) if each]


def _verdict(verdict: Verdict) -> list[Line]:
    colour = None if verdict.passed else "red"
    latency = f"{verdict.latency * 1000:.2f} ms" if verdict.latency is not None else ""
    head = f"  {'ok' if verdict.passed else 'FAIL':<4} {latency:>8}  {verdict.probe.family.value}  "
    lines: list[Line] = [(line, colour) for line in _wrapped(probe_words(verdict), head, " " * len(head))]
    for text in failure_words(verdict):
        lines += [(line, colour) for line in _wrapped(text, DEEP, DEEP)]
    return lines


def _wrapped(text: str, first: str, further: str) -> list[str]:
    return wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False, break_long_words=False
    )
