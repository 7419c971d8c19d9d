"""What a look at the node found, as metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from istio_init.inspector.findings.catalogue import KINDS
from istio_init.report.ps_row import PsRow

STATES = ("captured", "broken", "not captured", "unknown")

MOST_NAMED = 250
"""Pods with a series of their own, those in trouble first; a node runs 110 unless told otherwise."""


class NodeMetrics(Collector):
    """The metrics of the last look; none before the first.

    Every state and every code of a finding is there from the beginning, with 0, so that an alert can tell none from
    not measured.
    """

    def __init__(self) -> None:
        self._rows: list[PsRow] = []
        self._seconds = self._at = 0.0
        self._not_answering = 0
        self._looked = False

    def update(self, rows: list[PsRow], seconds: float, at: float, *, not_answering: int = 0) -> None:
        """Take over a look that took so many seconds and ended at a time, in seconds since 1970.

        Of so many namespaces the own file systems do not answer.
        """
        self._not_answering = not_answering
        self._rows, self._seconds, self._at, self._looked = rows, seconds, at, True

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus_client asks for them."""
        if not self._looked:
            return
        states = Counter(row.state for row in self._rows)
        found = GaugeMetricFamily("istio_init_namespaces", "Network namespaces of the node.", labels=["state"])
        for state in STATES:
            found.add_metric([state.replace(" ", "_")], states[state])
        yield found
        codes = Counter(code for row in self._rows for code in row.codes)
        found = GaugeMetricFamily("istio_init_findings", "Diagnosed problems.", labels=["code", "severity"])
        for kind in KINDS:
            found.add_metric([kind.code, kind.severity.value], codes[kind.code])
        yield found
        yield self._pods()
        text = "Network namespaces whose own file systems do not answer, so that only their rules are looked at."
        yield GaugeMetricFamily("istio_init_not_answering", text, self._not_answering)
        yield GaugeMetricFamily("istio_init_scan_duration_seconds", "How long the last look took.", self._seconds)
        yield GaugeMetricFamily("istio_init_scan_timestamp_seconds", "When the last look ended.", self._at)

    def _pods(self) -> Metric:
        """Pods by the names that they claim; the network namespace keeps those of one name apart."""
        labels = ["namespace", "pod", "netns", "state", "code"]
        found = GaugeMetricFamily("istio_init_pod", "A pod, its state and its worst finding; always 1.", labels=labels)
        for row in [each for each in self._rows if each.pod is not None][:MOST_NAMED]:
            state = row.state.replace(" ", "_")
            found.add_metric([row.namespace or "", row.pod or "", str(row.inode), state, row.worst or ""], 1)
        return found
