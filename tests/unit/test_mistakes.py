"""Mistakes that people make, and what is said: what failed, the value, what to do. Nothing is done then."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import DROP_IN, PROGRAM, execute, istio_init
from support.privileges import need_sight_of_all

from istio_init.cli import dropin
from istio_init.cli.app import COMMANDS, run
from istio_init.options import OPTIONS
from istio_init.system import namespaces
from istio_init.testing.pods import Pod

Output = pytest.CaptureFixture[str]

FILES: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 8,
    "prose": b"The pod does not reach the database.\n",
    "latin1": "Zugriff für alle\n".encode("latin-1"),
    "object.json": b'{"a": 1}',
    "list.json": b"[1, 2]",
    "deployment.yaml": b"kind: Deployment\nmetadata: {name: payment}\n",
    "broken.yaml": b"kind: [Pod\n",
    "cut.save": b"*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j RETURN\n",
    "pod.save": b"*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n"
    b"-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\nCOMMIT\n",
    "no-dst": b'{"direction": "outbound", "proto": "tcp"}\n',
    "twice": b'{"direction": "outbound", "proto": "tcp", "dst": "10.0.0.1", "dst": "10.0.0.2"}\n',
    "unknown": b'{"direction": "outbound", "proto": "tcp", "dst": "10.0.0.1", "port": 80}\n',
}

TABLE = r"""
# Commands, and words too many or too few.
nonsense                                        | 2 | No such command 'nonsense'; istio-init --help
explian                                         | 2 | Did you mean 'explain'?
exlpain --file F/pod.save                       | 2 | Did you mean 'explain'?
--verison                                       | 2 | Did you mean '--version'?
ps now                                          | 2 | unexpected extra argument (now)
version now                                     | 2 | unexpected extra argument (now)
map F/pod.save F/pod.save                       | 2 | unexpected extra argument
help aply                                       | 2 | Did you mean 'apply'?
completion                                      | 2 | SHELL; bash
completion tcsh                                 | 2 | 'tcsh'; 'bash'
man nothing                                     | 2 | 'nothing'; 'istio-iptables'
findings foriegn-ahead                          | 2 | did you mean foreign-ahead?
findings nothing                                | 2 | 'nothing'; istio-init findings lists all
# Options.
apply --nonsense                                | 2 | No such option '--nonsense'
apply --dryrun                                  | 2 | Did you mean '--dry-run'?
apply --istio-inbound-port 80                   | 2 | '--istio-inbound-ports'
apply --cleanup-only                            | 2 | istio-init clean
apply --log_output_level=default:info           | 2 | '--log_output_level'; istio-iptables alone
apply -b                                        | 2 | '-b' requires an argument
clean -b 80                                     | 2 | No such option '-b'
render --istio-inbound-port 80                  | 2 | --istio-inbound-port; did you mean --istio-inbound-ports?
map --expect --istio-inbound_ports=80           | 2 | did you mean --istio-inbound-ports?
explain --check=sometimes                       | 2 | --check; 'sometimes'; error or warning
# Values: ports, ranges, owners, interfaces, marks, tables, modes, booleans, durations, formats.
apply -b 0                                      | 2 | '0': not a port; 1 to 65535
apply -b 65536                                  | 2 | '65536'; 1 to 65535
apply -b 80:70                                  | 2 | '80:70'; write 70:80
apply -b 80-90                                  | 2 | '80-90'; write a range as 80:90
apply -b '80;443'                               | 2 | '80;443'; commas
apply -b '80 443'                               | 2 | '80 443'; commas
apply -b 80 443                                 | 2 | '443'
apply -b *,80                                   | 2 | * goes alone
apply -b no-such-service                        | 2 | 'no-such-service': not a port
apply -d -b 80                                  | 2 | looks like a flag; the value before it is missing
apply -z x                                      | 2 | --inbound-capture-port 'x'
apply -o *                                      | 2 | * is not possible here
apply -i 10.0.0.0/33                            | 2 | '10.0.0.0/33'; 10.0.0.0/8
apply -i 10.0.0.5                               | 2 | write 10.0.0.5/32
apply -i 2001:db8::5                            | 2 | write 2001:db8::5/128
apply -i 10.0.0.256                             | 2 | '10.0.0.256': not a range; 10.0.0.0/8
apply -x example.com                            | 2 | 'example.com': not a range
apply -x '10.0.0.0/8 10.1.0.0/16'               | 2 | commas
apply -m redirect                               | 2 | 'redirect'; REDIRECT or TPROXY
apply -u no-such-user                           | 2 | 'no-such-user'; give the number
apply -u 4294967296                             | 2 | '4294967296'; 4294967294
apply -g root:root                              | 2 | 'root:root'; give the number
apply -t 0                                      | 2 | '0': not a packet mark; 0x539
apply -t 0x100000000                            | 2 | 0x539
apply -r 254                                    | 2 | 'main'; use 133
apply -r main                                   | 2 | 'main'; such as 133
apply -c eth0/1                                 | 2 | 'eth0/1'; letters, digits
apply -c averyveryverylongname                  | 2 | at most 15
apply --redirect-dns=maybe                      | 2 | 'maybe': not a boolean; true or false
apply --wait soon                               | 2 | 'soon': not a duration; 1m30s
apply --wait=-1s                                | 2 | '-1s': not a duration
clean --wait 5parsecs                           | 2 | '5parsecs'
verify --timeout 0                              | 2 | no time at all
explain --watch 0                               | 2 | such as 5s
ps --watch soon                                 | 2 | 'soon': not a duration
apply --format yaml                             | 2 | 'yaml'; 'json'
explain F/pod.save --format pdf                 | 2 | 'pdf'; 'html'
apply --force-iptables-binary ipset             | 2 | 'ipset'; 'legacy'
apply --replace-other envoy                     | 2 | 'envoy'; 'linkerd'
apply --ambient --host-probe-address 10.0.0     | 2 | '10.0.0': not an IPv4 address
map --only proxied --expect ''                  | 2 | 'proxied'; 'redirect'
ps --state brokn                                | 2 | 'brokn'; 'broken'
ps --code nothing                               | 2 | 'nothing'; lists all
ps --watch --metrics :99999                     | 2 | ':99999'; write :9469
ps --watch --metrics host:9469                  | 2 | 'host:9469'; write :9469
render -b 80 --family ipv5                      | 2 | 'ipv5'; 'ipv6'
render -b 80 --address host                     | 2 | 'host'; 10.0.0.5
render -b 80 --address 127.0.0.1                | 2 | loopback; others reach
render -b eighty -x 10.0.0.0/40                 | 2 | 2 problems; 'eighty'; '10.0.0.0/40'
apply -x @F/nowhere                             | 2 | nowhere; No such file
apply -x @F                                     | 2 | Is a directory
apply -x @F/binary                              | 2 | it is not text
# Packets.
trace                                           | 2 | such as: outbound tcp 10.0.0.5:443
trace outbound tcp                              | 2 | such as: outbound tcp 10.0.0.5:443
trace outbuond tcp 10.0.0.1                     | 2 | 'outbuond'; outbound or inbound
trace outbound tpc 10.0.0.1 --expect ''         | 2 | 'tpc': no protocol; tcp, udp
trace outbound tcp example.com:80 --expect ''   | 2 | 'example.com:80': not an address; 10.0.0.5:443
trace outbound tcp 10.0.0.1:0 --expect ''       | 2 | '0': not a port
trace outbound tcp 2001:db8::1:80 --expect ''   | 2 | is 80 a port?; [2001:db8::1]:80
trace outbound tcp [2001:db8::1 --expect ''     | 2 | '[2001:db8::1': not an address
trace outbound icmp 10.0.0.1:80 --expect ''     | 2 | no ports
trace outbound tcp 10.0.0.1 --expect '' --src 2001:db8::1 | 2 | different families
trace outbound tcp 10.0.0.1 --expect '' --uid no-such-user | 2 | 'no-such-user'; give the number
trace outbound tcp 10.0.0.1 --expect '' --uid 10-12 | 2 | a range; give one
trace outbound tcp 10.0.0.1 --expect '' --mark z | 2 | 'z'; 0x539
trace outbound tcp 10.0.0.1 --expect '' --ctstate fresh | 2 | 'fresh'; --ctstate
trace outbound tcp 10.0.0.1 --expect '' --tcp-flags SIN | 2 | 'SIN'; SYN
trace outbound udp 10.0.0.1 --expect '' --tcp-flags SYN | 2 | --tcp-flags; udp has none
trace outbound tcp 10.0.0.1 --expect '' --icmp-type 8 | 2 | --icmp-type; tcp has none
trace outbound icmp 10.0.0.1 --expect '' --icmp-type echo | 2 | 'echo'; 8 or 3/1
trace outbound tcp 10.0.0.1 --expect '' --ttl 256 | 2 | 256; 255
trace outbound tcp 10.0.0.1 --expect '' --interface averyveryverylong | 2 | 'averyveryverylong'; 15
trace inbound tcp 10.0.0.1 --expect '' --uid 1000 | 2 | --uid; sending socket
trace --batch F/no-dst --expect ''              | 2 | line 1; dst is missing
trace --batch F/prose --expect ''               | 2 | line 1; not a packet
trace --batch F/twice --expect ''               | 2 | 'dst' is given twice
trace --batch F/unknown --expect ''             | 2 | 'port' is not known
trace --batch F/binary --expect ''              | 2 | F/binary: it is not text
trace --batch F --expect ''                     | 2 | Is a directory
trace --batch F/nowhere --expect ''             | 2 | F/nowhere; No such file
trace F/pod.save outbound tcp 2001:db8::1       | 2 | ipv6; --file6
# Files.
explain --file                                  | 2 | '--file' requires an argument
explain --file ''                               | 2 | empty; variable
explain --file F/nowhere                        | 2 | F/nowhere; No such file
explain --file F                                | 2 | Is a directory
explain --file F/empty                          | 2 | holds no table; iptables-save
explain --file F/binary                         | 2 | it is not text; istio-init snapshot
explain --file F/prose                          | 2 | line 1; iptables-save
explain --file F/cut.save                       | 2 | COMMIT
explain --file F/object.json                    | 2 | nft -j list ruleset
explain --file /proc/self/mem                   | 2 | it cannot be read
explain --file6 F/pod.save                      | 2 | taken for rules of ipv6; --file6
map --file F/binary                             | 2 | it is not text
explain F/pod.save --expect-file F              | 2 | is a directory
explain F/pod.save --expect-file F/nowhere      | 2 | F/nowhere; No such file
explain F/pod.save --expect-file F/latin1       | 2 | it is not text
explain F/pod.save --expect "-b '80"            | 2 | close the quotes
explain F/pod.save --expect '-b 80 443'         | 2 | '443' belongs to no flag
explain F/pod.save --pod F/empty                | 2 | no pod in it; kubectl get pod
explain F/pod.save --pod F/deployment.yaml      | 2 | no pod in it; kubectl get pod
explain F/pod.save --pod F/broken.yaml          | 2 | not YAML
explain F/pod.save --pod F/list.json            | 2 | no pod in it
explain F/pod.save --pod F/binary               | 2 | not YAML
render --pod F                                  | 2 | Is a directory
snapshot -o F/nowhere/pod.tar                   | 2 | nowhere/pod.tar; cannot be written
snapshot -o F                                   | 2 | cannot be written: Is a directory
apply --output-file F/nowhere/out               | 2 | nowhere/out; cannot be written
# What is not there, or could be several things.
explain ''                                      | 4 | empty; variable
explain no-such-pod                             | 4 | 'no-such-pod': no pod
explain F                                       | 4 | it is a directory
explain F/nowhere                               | 4 | look at the path
apply F/pod.save                                | 4 | it is a file; works on a namespace
apply shop/payment-7f9c                         | 4 | 'shop/payment-7f9c': no pod
apply --pid x                                   | 2 | 'x'; integer
apply --pid 0                                   | 4 | pid 0; above 0
clean --pid 4194304                             | 4 | no such process
apply --netns ''                                | 4 | empty; variable
verify --netns no-such-name                     | 4 | no-such-name does not exist; ip netns list
clean --netns /dev/null                         | 4 | not a network namespace
snapshot no-such-pod                            | 4 | 'no-such-pod'
diff F/pod.save F/nowhere                       | 4 | 'F/nowhere'
# What does not go together.
apply 4711 --pid 1                              | 2 | not both
explain F/pod.save --pid 1                      | 2 | give one of
map --expect '' --pid 1                         | 2 | give one of
apply --ambient -b 80                           | 2 | --istio-inbound-ports; does nothing for an ambient pod
apply --ipv6=false                              | 2 | add --ambient
apply --native-nftables --force-iptables-binary legacy | 2 | two stores
clean --sidecar --ambient                       | 2 | give one of
explain F/pod.save --watch 1s                   | 2 | --watch
explain F/pod.save --expect '-b 80' --expect-file F/empty | 2 | give one of
explain --file - --file6 -                      | 2 | only one; standard input
explain --all --pid 1                           | 2 | --all
trace outbound tcp 10.0.0.1 --batch F/twice     | 2 | --batch, and nothing else
trace --batch F/twice --expect '' --uid 1       | 2 | --batch
trace outbound tcp 10.0.0.1 --expect '' --live  | 2 | --live
render --pod F/pod.yaml -b 80                   | 2 | arguments, or --pod
snapshot --keep-addresses                       | 2 | give both
ps --metrics :9469                              | 2 | add --watch
diff F/pod.save                                 | 2 | give two of these; "-b '*' -i '*'"
diff '' F/pod.save                              | 2 | empty argument
diff '-b 80' '-b eighty'                        | 2 | 'eighty'
# The drop-in says it in its log, and ends with 1.
istio-iptables --nothing                        | 1 | unknown flag: --nothing; --help
istio-iptables --istio-inbound-port 80          | 1 | did you mean --istio-inbound-ports?
istio-iptables -b                               | 1 | needs an argument: -b
istio-iptables -b eighty -x 10.0.0.0/40         | 1 | 2 problems; 'eighty'; '10.0.0.0/40'
istio-iptables -x -b *                          | 1 | looks like a flag
istio-iptables --drop-invalid=maybe             | 1 | 'maybe': not a boolean
istio-iptables --probe-timeout soon             | 1 | 'soon': not a duration
istio-iptables --log_output_level loud          | 1 | 'loud': not a log level; debug
istio-iptables --force-iptables-binary other    | 1 | 'other'; nft or legacy
istio-iptables --network-namespace /nowhere     | 1 | /nowhere does not exist
istio-iptables --log_target /nowhere/log --skip-rule-apply | 1 | /nowhere/log; No such file
# Variables.
ISTIO_INBOUND_PORTS=eighty apply                | 2 | 'eighty'; variable ISTIO_INBOUND_PORTS
ISTIO_OUTBOUND_OWNER_GROUPS=no-such-group apply | 2 | 'no-such-group'; ISTIO_OUTBOUND_OWNER_GROUPS
ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=10.0.0.0/8 render -b 80 | 2 | '10.0.0.0/8'; 127.0.0.0/8
ISTIO_INIT_WAIT=soon istio-iptables             | 1 | 'soon'; ISTIO_INIT_WAIT
HOST_PROBE_SNAT_IP=nowhere apply --ambient      | 2 | 'nowhere'; HOST_PROBE_SNAT_IP
"""
"""A command line, its exit status, and what has to be in the message. F is the directory of the files above."""


Row = tuple[str, int, list[str]]
ROWS: list[Row] = [
    (argv.strip(), int(status), words.split("; "))
    for argv, status, words in [row.split(" | ") for row in TABLE.splitlines() if row and not row.startswith("#")]
]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide terminal, and nothing in the environment that could be meant for a command."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("ISTIO_INIT_ALLOW_HOST_NETWORK", raising=False)
    for name in {name for option in OPTIONS for name in option.env}:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the files."""
    found = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (found / name).write_bytes(content)
    return found


def taken_apart(row: str, files: Path) -> tuple[dict[str, str], list[str]]:
    """The variables of a row, and its arguments."""
    words = [re.sub(r"(?<![\w/-])F(?=/|$)", str(files), word) for word in shlex.split(row)]
    variables = {}
    while words and re.match(r"[A-Z0-9_]+=", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    return variables, words


def answer(argv: list[str]) -> int:
    """Run a command, or the drop-in, in this process."""
    return dropin.run(argv[1:]) if argv[0] == "istio-iptables" else run(argv)


@pytest.mark.parametrize(("row", "status", "words"), ROWS, ids=[row for row, _, _ in ROWS])
def test_a_mistake_is_answered_with_what_is_wrong_and_what_to_do(
    row: str, status: int, words: list[str], files: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    variables, argv = taken_apart(row, files)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    if status == 4 or argv[0] == "snapshot":
        need_sight_of_all()
    assert answer(argv) == status

    out, err = capsys.readouterr()
    assert out == ""
    for each in words:
        assert re.sub(r"(?<![\w/-])F(?=/|$)", str(files), each) in err
    assert max(map(len, err.splitlines())) < 400, "nobody reads that"
    assert {each.name: each.read_bytes() for each in files.iterdir()} == FILES


def test_the_table_has_every_command() -> None:
    named = {word for row, _, _ in ROWS for word in row.split()}

    assert set(COMMANDS) <= named
    assert len(ROWS) > 150


@pytest.fixture(scope="module")
def one_pod(real_kernel: None) -> Iterator[Pod]:
    """A pod that is redirected, and stays as it is."""
    with Pod.create() as made:
        istio_init("apply", "--netns", made.name, "-b", "80", "-m", "TPROXY").ok()
        yield made


def test_what_was_refused_has_changed_nothing(
    files: Path, one_pod: Pod, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    before = state(one_pod)
    assert "ISTIO_INBOUND" in before and "fwmark" in before

    for row, status, _ in ROWS:
        variables, argv = taken_apart(row, files)
        if argv[0] not in ("apply", "clean", "istio-iptables"):
            continue
        place = "--network-namespace" if argv[0] == "istio-iptables" else "--netns"
        has_word = argv[1:] and not argv[1].startswith("-")
        is_named = has_word or {"--netns", "--pid", "--network-namespace"} & set(argv)
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            named = [] if is_named else [place, f"/run/netns/{one_pod.name}"]
            assert answer([argv[0], *named, *argv[1:]]) == status, row

    assert capsys.readouterr().out == ""
    assert state(one_pod) == before


def state(pod: Pod) -> str:
    """All rules and all routing of a pod."""
    commands = ("nft -s list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all")
    return "".join(pod.inside.run(*command.split()) for command in commands)


UNREADABLE = {
    "ISTIO_DUAL_STACK": "--dual-stack",
    "INVALID_DROP": "--drop-invalid",
    "ISTIO_META_DNS_CAPTURE": "--redirect-dns",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_variable_that_is_no_boolean_is_false_and_that_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv(name, "maybe")

    assert run(["render", "-b", "80"]) == 0
    err = capsys.readouterr().err
    assert f"environment variable {name} 'maybe': not a boolean" in err
    assert "write true or false" in err


@pytest.mark.parametrize("command", ["apply", "clean", "verify"])
@pytest.mark.parametrize("value", ["", "yes"])
def test_the_hosts_own_namespace_is_refused(
    command: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(namespaces, "HOST_SIGN", "/proc/self")
    monkeypatch.setenv("ISTIO_INIT_ALLOW_HOST_NETWORK", value)

    assert run([command]) == 4

    err = capsys.readouterr().err
    for words in ("the host", "cuts the machine off", "--allow-host-network", "name a pod"):
        assert words in err
    assert ("'yes': not a boolean" in err) == (value == "yes")


UNPRIVILEGED = {
    "apply": "--netns NAME",
    "explain": "NAME",
    "trace": "NAME outbound tcp 10.0.0.1",
    "verify": "NAME",
    "snapshot": "NAME -o /dev/null",
    "diff": "NAME NAME",
}
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


@pytest.mark.parametrize("command", UNPRIVILEGED)
def test_a_privilege_that_is_missing_is_named(command: str, one_pod: Pod) -> None:
    words = UNPRIVILEGED[command].replace("NAME", one_pod.name).split()
    done = execute(*NOBODY, *PROGRAM, command, *words)

    assert done.status == 5
    assert "run as root" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_drop_in_names_the_privilege_that_is_missing(one_pod: Pod) -> None:
    done = execute("ip", "netns", "exec", one_pod.name, *NOBODY, *DROP_IN, "-b", "80")

    assert done.status == 1
    assert "NET_ADMIN" in done.stderr
