"""``istio-iptables``: the drop-in for Istio's own program, with its flags, environment, defaults and exit codes."""

from __future__ import annotations

import os
import sys

from istio_init.cli.dropin_behaviour import Behaviour, behaviour_of
from istio_init.cli.log import LEVELS, Log, LogTargetError, parse_level
from istio_init.cli.pflag import UsageError, parse_flags
from istio_init.config import values
from istio_init.config.parse import gather, parse, shown, unread_booleans
from istio_init.errors import ConfigError, IstioInitError, ValidationError
from istio_init.options import DROPIN_OPTIONS, OPTIONS
from istio_init.stores.programmer import program
from istio_init.stores.surroundings import NOTHING, wanted
from istio_init.system import namespaces, places
from istio_init.system.names import FileNames
from istio_init.visible import visible_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.config.model import Config
    from istio_init.config.parse import Given
    from istio_init.stores.programmer import Done
    from istio_init.system.places import Place

ALL_OPTIONS = OPTIONS + DROPIN_OPTIONS
FAILED = 1


def run(argv: list[str]) -> int:
    """Run with the given arguments; the exit status is 0, 1, or 126 where validation failed."""
    if any(word in ("-h", "--help") for word in argv):
        from istio_init.report.option_help import dropin_help

        print(dropin_help(), end="")
        return 0
    try:
        return _logged(argv)
    except LogTargetError as error:
        sys.stderr.write(visible_lines(f"{error}\n"))
        return FAILED


def _logged(argv: list[str]) -> int:
    log = Log()
    try:
        flags, stray = parse_flags(argv, ALL_OPTIONS)
        given = gather(flags, os.environ, apply=False, options=ALL_OPTIONS)
        log = _log(given)
        for word in stray:
            log.warn(f"{word!r} belongs to no flag and is ignored: write a list with commas, a switch as --flag=false")
        behaviour = behaviour_of(given)
        for doubt in unread_booleans(given, DROPIN_OPTIONS):
            log.warn(doubt)
        _run(given, behaviour, log)
    except UsageError as error:
        log.error(f"{error}\n  istio-iptables --help lists the flags")
        return FAILED
    except IstioInitError as error:
        log.error(str(error))
        return error.exit_code if isinstance(error, ValidationError) else FAILED
    except (OSError, MemoryError) as error:
        log.error(str(error) or "no memory is left")
        return FAILED
    except KeyboardInterrupt:
        log.error("interrupted")
        return FAILED
    return 0


def _run(given: Mapping[str, Given], behaviour: Behaviour, log: Log) -> None:
    place = places.of_netns(behaviour.network_namespace) if behaviour.network_namespace else places.HERE
    try:
        config = None
        if not behaviour.cleanup_only:
            config, warnings = parse(given, FileNames(place.root), lenient_mode=True)
            for warning in warnings:
                log.warn(warning)
        if behaviour.skip_rule_apply:
            log.info("the configuration is valid; no rules are written (--skip-rule-apply)")
        else:
            done = namespaces.call_in(place, lambda: _program(config, place, behaviour, log))
            _report(done, place.label, behaviour, log)
        if behaviour.run_validation:
            _validate(config, place, behaviour, log)
    finally:
        place.close()


def _validate(config: Config | None, place: Place, behaviour: Behaviour, log: Log) -> None:
    if config is None or behaviour.dry_run:
        flag = "--dry-run" if behaviour.dry_run else "--cleanup-only"
        log.warn(f"--run-validation: nothing is validated, as {flag} leaves nothing to validate")
        return
    from istio_init.cli.dropin_validation import run_validation

    run_validation(config, place, behaviour, log)


def _program(config: Config | None, place: Place, behaviour: Behaviour, log: Log) -> Done:
    aim = NOTHING if config is None else wanted(config, place, log.warn)
    return program(aim, behaviour.manner, warn=log.warn)


def _report(done: Done, label: str, behaviour: Behaviour, log: Log) -> None:
    if behaviour.dry_run:
        from istio_init.report.handover import handover

        sys.stdout.write(visible_lines(handover(done.plan)) or "# nothing to do\n")
        return
    from istio_init.report.program_text import result_line

    log.debug(f"through {done.means}")
    log.info(result_line("clean" if behaviour.cleanup_only else "apply", label, done))


def _log(given: Mapping[str, Given]) -> Log:
    level = parse_level(given["--log_output_level"].text)
    problems = []
    if level is None:
        value = given["--log_output_level"].text
        problems.append(f"--log_output_level {shown(value)}: not a log level; write one of {', '.join(LEVELS)}")
    as_json = _boolean(given, "--log_as_json", problems)
    if problems:
        raise ConfigError(tuple(problems))
    return Log(level or "info", as_json=as_json, target=given["--log_target"].text or "stderr")


def _boolean(given: Mapping[str, Given], flag: str, problems: list[str]) -> bool:
    try:
        return values.boolean(given[flag].text)
    except values.BadValue as bad:
        problems.append(f"{flag} {shown(given[flag].text)}: {bad.why}; {bad.fix}")
        return False
