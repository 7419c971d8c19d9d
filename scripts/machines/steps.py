"""What is done in a machine: pods programmed and proved in each mode and store, tests, the tracer against a kernel."""

from __future__ import annotations

from machines.image import Step

INJECTED = "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -b * -d 15090,15021,15020".split()
POD = ("--netns", "pod")
INSIDE = ("ip", "netns", "exec", "pod")
PROGRAM = ("PYTHON", "-m", "istio_init")
FLAGS = {"nft": ("--force-iptables-binary", "nft"), "legacy": ("--force-iptables-binary", "legacy"),
         "native": ("--native-nftables",)}  # fmt: skip
LISTS = ("-x", "10.96.0.0/12,10.96.1.0/24,192.0.2.7/32,fd00:96::/64", "-o", "9000,9100:9110", "-c", "docker+,cni0",
         "-d", "15090,15021,8000:8010", "-q", "7000,7001")  # fmt: skip
WARNING = "native nftables is: this kernel has no x_tables"
CARRIED = "native: a real Envoy, requests through it"
TESTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "traffic of every kind, where it arrives": (12, ("tests/kernel/test_traffic.py",)),
    "ambient pods": (6, ("tests/kernel/test_ambient.py",)),
    "verify, of every configuration": (8, ("tests/verify/test_healthy.py", "tests/verify/test_ambient.py")),
    "reading only": (3, ("tests/inspector/test_reading_only.py",)),
    "stores and switches between them": (12, ("tests/contract/test_backends.py", "tests/kernel/test_stores_switch.py")),
}
"""Tests that are run in a machine as they are, and in how many parts, each with a limit of its own."""

RULE_SETS = 4
"""Of each part in which the tracer is held against a kernel."""


def modes(store: str, flags: tuple[str, ...], said: str = "") -> tuple[Step, ...]:
    """A pod programmed and proved in each mode."""

    def apply(what: str, words: str, *more: str) -> Step:
        argv = (*PROGRAM, "apply", *POD, *more, *flags)
        return Step(what=f"{store}: {what}", argv=argv, words=(words, said), fresh=True)

    def verify(what: str) -> Step:
        return Step(what=f"{store}: {what}, real connections", argv=(*PROGRAM, "verify", *POD), words=("proved: ",))

    drop_in = (*INSIDE, *PROGRAM, "istio-iptables", *INJECTED, *flags)
    dns = ("--redirect-dns", "--capture-all-dns", "--drop-invalid")
    return (
        Step(what=f"{store}: injected arguments", argv=drop_in, words=(f"applied ({store}, ipv4)", said), fresh=True),
        Step(what=f"{store}: once more", argv=drop_in, words=(f"as wanted already ({store}, ipv4)", said)),
        verify("REDIRECT"),
        apply("TPROXY", f"applied ({store}, ipv4, ipv6)", "-m", "TPROXY", "--dual-stack"),
        verify("TPROXY"),
        apply("DNS", f"applied ({store}, ipv4, ipv6)", "--dual-stack", *dns),
        verify("DNS"),
        Step(what=f"{store}: clean", argv=(*PROGRAM, "clean", *POD), words=("cleaned (",)),
        apply("ambient", f"applied ({store}, ipv4, ipv6)", "--ambient"),
        verify("ambient"),
    )


def judged(parts: int, packets: int) -> tuple[Step, ...]:
    """The tracer against the machine's kernel, each part with rule sets of its own."""
    argv = ("PYTHON", "scripts/kernel-diff", "--rulesets", str(RULE_SETS), "--packets", str(packets), "--workers", "1")
    return tuple(
        Step(
            what=f"{RULE_SETS} wild rule sets, the tracer and the kernel, {part} of {parts}",
            argv=(*argv, "--seed", str(part)),
            words=(" 0 wrong",),
            seconds=2400,
        )
        for part in range(1, parts + 1)
    )


def tests(seconds: int) -> tuple[Step, ...]:
    """Tests of this checkout."""
    return tuple(
        Step(
            what=f"{what}, {part} of {parts}",
            argv=("PYTHON", "scripts/machines/part.py", str(part), str(parts), *files),
            words=(" passed",),
            seconds=seconds,
        )
        for what, (parts, files) in TESTS.items()
        for part in range(1, parts + 1)
    )


def checks(*, xtables: bool) -> tuple[Step, ...]:
    """What is checked in every machine: each store, or where only native nftables is left, that it carries traffic."""
    if xtables:
        return tuple(step for store, flags in FLAGS.items() for step in modes(store, flags))
    carried = Step(what=CARRIED, argv=("PYTHON", "scripts/machines/carried.py"), words=(WARNING,), seconds=1800)
    return (*modes("native", (), WARNING), carried)


def whole(*, xtables: bool, sample: int | None = None) -> tuple[Step, ...]:
    """What takes long: tests, and the tracer against the machine's kernel; of a sample one part of each."""
    stores = FLAGS if xtables else {"native": ()}
    listed = (step for store, flags in stores.items() for step in lists(store, flags))
    parts = (*(tests(2400) if xtables else ()), *judged(5, 10))
    if sample is not None:
        alike: dict[str, list[Step]] = {}
        for step in parts:
            alike.setdefault(step.what.rpartition(", ")[0], []).append(step)
        parts = tuple(each[sample % len(each)] for each in alike.values())
    return (*listed, *parts)


def lists(store: str, flags: tuple[str, ...]) -> tuple[Step, ...]:
    """A pod programmed and proved with lists of every kind: ranges that overlap, ports, prefixes of interfaces."""
    words = (f"applied ({store}, ipv4, ipv6)",)
    argv = (*PROGRAM, "apply", *POD, "--dual-stack", *LISTS, *flags)
    proved = (*PROGRAM, "verify", *POD)
    return (
        Step(what=f"{store}: lists", argv=argv, words=words, fresh=True),
        Step(what=f"{store}: lists, real connections", argv=proved, words=("proved: ",)),
    )


def recorded(*, xtables: bool) -> tuple[Step, ...]:
    """Recorded states of another implementation, and packets that were sent through them, where a folder has them."""
    found = []
    argv: tuple[str, ...]
    drop_in = ("--jobs", "1", "--", "istio-init", "istio-iptables")
    for store in ("nft", "legacy") if xtables else ():
        argv = ("PYTHON", "/recorded/conformance/check", "--backend", store, *drop_in)
        found.append(Step(what=f"{store}: recorded states of sidecars", argv=argv, seconds=7200))
    for store in FLAGS if xtables else ("native",):
        argv = ("PYTHON", "/recorded/conformance/check-ambient", "--backend", store, "--", "istio-init")
        found.append(Step(what=f"{store}: recorded states of ambient pods", argv=argv, seconds=7200))
    for store, flags in (("nft", ()), ("native", FLAGS["native"])) if xtables else (("native", ()),):
        argv = ("PYTHON", "/recorded/kernel-paths/arrivals", *drop_in, *flags)
        found.append(Step(what=f"{store}: recorded packets, where they arrive", argv=argv, seconds=7200))
    return tuple(found)
