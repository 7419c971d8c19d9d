"""The drop-in's --run-validation: after programming, and alone as Istio's istio-validation container does."""

from __future__ import annotations

import pytest
from support.command import DROP_IN, PROGRAM, Result, drop_in, execute

from istio_init.netfilter.family import Family
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod

from .proof import apply

CAPTURE = ("-b", "*", "-i", "*", "-d", "15090,15021,15020")
UNPRIVILEGED = ("setpriv", "--reuid", "1337", "--regid", "1337", "--clear-groups", "--inh-caps=-all",
                "--bounding-set=-all", "--no-new-privs")  # fmt: skip


def validate(pod: Pod, *argv: str) -> Result:
    """Validate as the proxy's user, who has no capability, and write nothing."""
    words = ("--run-validation", "--skip-rule-apply", "--probe-timeout", "1s", *CAPTURE, *argv)
    return execute("ip", "netns", "exec", pod.name, *UNPRIVILEGED, *DROP_IN, *words)


@pytest.mark.parametrize("flags", [(), ("--dual-stack",), ("-m", "TPROXY", "--dual-stack")], ids=" ".join)
def test_without_privilege_the_proxy_comes_back_by_the_passthrough_address(pod: Pod, flags: tuple[str, ...]) -> None:
    apply(pod, *flags)

    done = validate(pod, *flags).ok()

    assert "validated: ipv4: the proxy to 127.0.0.6:15002: proxied to port 15006" in done.stderr
    assert ("validated: ipv6: the proxy to [::6]:15002: proxied to port 15006" in done.stderr) == (
        "--dual-stack" in flags
    )
    assert "not probed: inbound connections" in done.stderr


def test_an_ipv6_pod_is_validated_alone() -> None:
    with Pod.create(families=(Family.IPV6,)) as pod:
        apply(pod)

        assert "the proxy to [::6]:15002" in validate(pod).ok().stderr


def test_without_privilege_and_without_rules_it_exits_126(pod: Pod) -> None:
    done = validate(pod)

    assert done.status == 126
    assert "validation failed: ipv4: the proxy to 127.0.0.6:15002: proxied to port 15006" in done.stderr
    assert "direct: it reached its destination" in done.stderr


def test_the_port_is_the_one_that_is_asked_for(pod: Pod) -> None:
    apply(pod)

    assert "the proxy to 127.0.0.6:16002" in validate(pod, "--iptables-probe-port", "16002").ok().stderr


def test_another_user_without_privilege_proves_what_an_application_sees(pod: Pod) -> None:
    apply(pod)
    words = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "--bounding-set=-all", *DROP_IN)

    done = execute("ip", "netns", "exec", pod.name, *words, "--run-validation", "--skip-rule-apply", *CAPTURE).ok()

    assert "validated: ipv4: an application to 192.0.2.1:80: proxied to port 15001" in done.stderr


def test_verify_without_privilege_needs_to_be_told_what_to_prove(pod: Pod) -> None:
    apply(pod)
    words = ("ip", "netns", "exec", pod.name, *UNPRIVILEGED, *PROGRAM, "verify")

    untold = execute(*words)
    half = execute(*words, "--expect", "-b '*' -i '*'")
    told = execute(*words, "--expect", "-b '*' -i '*'", "--allow-unprobed").ok()

    assert untold.status == 5
    assert "say what to prove with --expect" in untold.stderr
    assert half.status == 5
    assert "no inbound and no outbound connection that has to be proxied could be sent" in half.stdout
    assert "ipv4  the proxy to 127.0.0.6:15002: proxied to port 15006" in told.stdout
    assert "CAP_SETUID" in told.stdout


def test_what_was_programmed_is_validated_at_once(pod: Pod) -> None:
    done = drop_in(pod.inside, *CAPTURE, "--run-validation").ok()

    assert "applied" in done.stderr
    assert "validated: ipv4: a client to 10.77.0.2:28080: proxied to port 15006" in done.stderr
    assert "proved: 14 probes passed" in done.stderr


def test_an_init_container_validates_with_the_two_capabilities_that_it_has(pod: Pod) -> None:
    capabilities = "-all,+net_admin,+net_raw"
    words = ("setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}", *DROP_IN)

    done = execute("ip", "netns", "exec", pod.name, *words, *CAPTURE, "--run-validation").ok()

    assert "validated: ipv4: an application to 192.0.2.1:80: proxied to port 15001" in done.stderr
    assert "a second namespace takes CAP_SYS_ADMIN" in done.stderr


def test_what_somebody_else_breaks_is_an_error_with_its_rule(pod: Pod) -> None:
    pod.inside.run("iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "ACCEPT")

    done = drop_in(pod.inside, *CAPTURE, "--run-validation", "--probe-timeout", "1s")

    assert done.status == 126
    assert "\terror\tvalidation failed: ipv4: a client to 10.77.0.2:28080" in done.stderr
    assert "rule 1 of nat PREROUTING (-p tcp -j ACCEPT)" in done.stderr


@pytest.mark.parametrize("flag", ["--dry-run", "--cleanup-only"])
def test_where_nothing_is_programmed_nothing_is_validated(pod: Pod, flag: str) -> None:
    done = drop_in(pod.inside, *CAPTURE, "--run-validation", flag).ok()

    assert f"nothing is validated, as {flag} leaves nothing to validate" in done.stderr


def test_what_holds_of_an_empty_kernel_proves_nothing() -> None:
    anybody = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", *PROGRAM)
    with Namespace.create() as namespace:
        namespace.run("ip", "address", "add", "10.5.5.5/32", "dev", "lo")
        inside = ("ip", "netns", "exec", namespace.name, *anybody)
        asked = execute(*inside, "verify", "--expect", "-b '*' -i '*'", "--timeout", "1s")
        validated = execute(*inside, "istio-iptables", "--run-validation", "--skip-rule-apply", "-b", "*", "-i", "*")

    assert asked.status == 5
    assert validated.status == 126
