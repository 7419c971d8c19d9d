"""``--run-validation``: the drop-in proves what it programmed, or with ``--skip-rule-apply`` what is live."""

from __future__ import annotations

from istio_init.cli.leaving import leaving_in_order
from istio_init.errors import ValidationError
from istio_init.observe.namespace import observe
from istio_init.prove.intent import expected
from istio_init.prove.validation import validate
from istio_init.report.verify_text import failure_words, probe_words, result_line, skipped_words
from istio_init.system import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.cli.dropin_behaviour import Behaviour
    from istio_init.cli.log import Log
    from istio_init.config.model import Config
    from istio_init.prove.model import Report
    from istio_init.system.places import Place


def run_validation(config: Config, place: Place, behaviour: Behaviour, log: Log) -> None:
    """Probe what a configuration has to bring about in a namespace, and log what came of it.

    Raises:
        ValidationError: a probe failed, or privileges allow none.
        IstioInitError: the namespace cannot be looked at, or has no address that could be captured.
    """
    snapshot = namespaces.call_in(place.replace(userns=None), lambda: observe(place, versions=False))
    intent = expected(config, snapshot)
    for note in intent.notes:
        log.warn(note)

    def work() -> Report:
        return validate(
            intent.subject,
            intent.around,
            snapshot,
            timeout=behaviour.probe_timeout,
            probe_port=behaviour.iptables_probe_port,
            announce=log.info,
        )

    with leaving_in_order():
        # A pod that never starts is worse than a direction that its privileges cannot show.
        report = namespaces.call_in(place, work).replace(accepts_unprobed=True)
    _log(report, log)


def _log(report: Report, log: Log) -> None:
    for text in skipped_words(report):
        log.info(f"not probed: {text}")
    for verdict in report.verdicts:
        words = f"{verdict.probe.family.value}: {probe_words(verdict)}"
        if verdict.passed:
            latency = f", {verdict.latency * 1000:.2f} ms" if verdict.latency is not None else ""
            log.info(f"validated: {words}{latency}")
        else:
            log.error("; ".join([f"validation failed: {words}", *failure_words(verdict)]))
    for note in report.notes:
        log.warn(note)
    for problem in report.problems:
        log.error(f"validation failed: {problem}")
    if report.failed or report.problems:
        fix = "look at the rules with istio-init explain; in a pod without them, see why nothing programmed it"
        raise ValidationError(result_line(report), fix=fix)
    if not report.is_proved:
        fix = "run as the proxy's user, or with the capabilities SETUID and SETGID"
        where = "with these privileges" if report.lacks_privileges else "here"
        raise ValidationError(f"nothing could be validated {where}", fix=fix)
    for direction in report.unprobed:
        log.warn(f"{direction} capture is not proved: nothing could be sent that has to come to the proxy")
    log.info(result_line(report))
