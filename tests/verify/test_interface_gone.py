"""Whoever may change interfaces of a pod cannot make verify prove anything, nor fall over."""

from __future__ import annotations

from typing import Any

import pytest

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.observe.namespace import observe
from istio_init.prove.model import Report
from istio_init.prove.subject import subject_of
from istio_init.prove.validation import validate
from istio_init.system import places
from istio_init.system.neighbour import Neighbour
from istio_init.system.probing import Run
from istio_init.testing.pods import Pod
from istio_init.testing.processes import run

from .proof import apply
from .test_leftovers import INTERFACE

CHANGES = {
    "renamed": ("link set {} down", "link set {} name other"),
    "deleted": ("link del {}",),
    "without addresses": ("addr flush dev {}",),
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("moment", [(Run, "probe"), (Neighbour, "_finish")], ids=["probing", "making it"])
def test_an_interface_that_is_taken_away_is_said(
    pod: Pod, changes: tuple[str, ...], moment: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(pod)
    config = Config(inbound_ports=ALL, outbound_ranges=ALL)
    kind, name = moment
    before = getattr(kind, name)
    left = list(changes)

    def meanwhile(self: Any, *args: Any) -> Any:
        while left:
            change = left.pop(0).format(INTERFACE).split()
            pod.inside.run("ip", *change) if kind is Neighbour else run("ip", *change)
        return before(self, *args)

    monkeypatch.setattr(kind, name, meanwhile)

    def work() -> Report:
        seen = observe(places.HERE, (), versions=False)
        around = Surroundings()
        return validate(subject_of(config, around), around, seen, timeout=1, announce=lambda text: None)

    report = pod.inside.call(work)

    assert not report.is_proved
    assert "inbound" in report.unprobed
    reasons = " ".join(each.why for each in report.skipped)
    assert any(word in reasons for word in ("second namespace", "meanwhile", "elsewhere"))
