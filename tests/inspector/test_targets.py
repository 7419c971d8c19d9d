"""One word names what a command works on: a pod, a process, a container, an address, a namespace, or a file."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest
from support.command import PROGRAM, Result, execute, istio_init
from support.processes import wait_until

from istio_init.cli.target import resolve
from istio_init.errors import NamespaceError
from istio_init.system import pod_names
from istio_init.system.lookup import look_up
from istio_init.system.pod_names import NAME, Claim, claims_of
from istio_init.system.pods import PodNamespace, pod_namespaces
from istio_init.testing.namespaces import Namespace

T = TypeVar("T")
CLONE_NEWUTS = 0x04000000

UNIQUE = secrets.token_hex(4)
"""No other namespace of the machine has names with this in them."""

SHOP = f"shop-{UNIQUE}"
PAYMENT = f"payment-{UNIQUE}"


def pod(stack: ExitStack, name: str, space: str | None = SHOP, label: str = "pod") -> tuple[Namespace, int]:
    """A namespace with a process that says which pod it is of."""
    namespace = stack.enter_context(Namespace.create(label))
    env = {"POD_NAME": name, **({"POD_NAMESPACE": space} if space is not None else {})}
    return namespace, namespace.spawn("sleep", "300", env=env).pid


def explained(word: str) -> str:
    """What explain says that it looked at."""
    target: str = json.loads(istio_init("explain", word, "--format", "json").ok().stdout)["target"]
    return target


def failed(word: str, status: int = 4) -> str:
    done = istio_init("explain", word)
    assert (done.status, done.stdout) == (status, "")
    return done.stderr


@pytest.fixture(scope="module")
def node(real_kernel: None) -> Iterator[dict[str, tuple[Namespace, int]]]:
    """Pods with names, one of them the beginning of another's."""
    with ExitStack() as stack:
        yield {
            "payment": pod(stack, f"{PAYMENT}-7f9c"),
            "other": pod(stack, f"{PAYMENT}-8c2d"),
            "web": pod(stack, f"web-{UNIQUE}"),
            "web-2": pod(stack, f"web-{UNIQUE}-2", f"other-{UNIQUE}"),
        }


class TestPods:
    """By the names that their processes know them by."""

    @pytest.mark.parametrize(
        ("word", "wanted"),
        [
            ("SHOP/PAYMENT-7f9c", "payment"),
            ("PAYMENT-7f9c", "payment"),
            ("PAYMENT-7", "payment"),
            ("SHOP/PAYMENT-8", "other"),
            ("PAYMENT-8c…", "other"),
            ("web-UNIQUE-", "web-2"),
            ("other-UNIQUE/web", "web-2"),
        ],
    )
    def test_a_name_or_as_much_of_it_as_is_its_alone(
        self, node: dict[str, tuple[Namespace, int]], word: str, wanted: str
    ) -> None:
        word = word.replace("SHOP", SHOP).replace("PAYMENT", PAYMENT).replace("UNIQUE", UNIQUE)
        found = look_up(word, files=True).matches

        assert [each.value for each in found] == [str(node[wanted][1])], found

    def test_what_was_found_is_called_by_its_whole_name(self, node: dict[str, tuple[Namespace, int]]) -> None:
        assert explained(f"{PAYMENT}-7") == f"{SHOP}/{PAYMENT}-7f9c (pid {node['payment'][1]})"

    def test_a_beginning_of_several_is_an_error_that_lists_them(self, node: dict[str, tuple[Namespace, int]]) -> None:
        said = failed(PAYMENT)

        for each in ("payment", "other"):
            pid = node[each][1]
            assert f"  --pid {pid}: pod {SHOP}/{PAYMENT}-" in said

    def test_a_name_does_not_hide_the_pods_of_a_workload_that_is_called_so(
        self, node: dict[str, tuple[Namespace, int]]
    ) -> None:
        """Anybody can name a pod as a workload of others is called."""
        said = failed(f"web-{UNIQUE}")

        assert f"  --pid {node['web'][1]}: pod {SHOP}/web-{UNIQUE}" in said
        assert f"  --pid {node['web-2'][1]}: pod other-{UNIQUE}/web-{UNIQUE}-2" in said

    def test_a_namespace_that_does_not_say_in_time_what_it_is_called_may_be_the_one_that_is_meant(
        self, node: dict[str, tuple[Namespace, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        silent = os.stat(f"/proc/{node['other'][1]}/ns/net").st_ino
        asked = pod_names.claims_of
        monkeypatch.setattr(pod_names, "PATIENCE", 1)
        monkeypatch.setattr(pod_names, "claims_of", lambda of: time.sleep(60) if of.inode == silent else asked(of))

        found = {match.value: match.what for match in look_up(f"{SHOP}/{PAYMENT}-7f9c", files=True).matches}

        assert found == {
            str(node["payment"][1]): f"pod {SHOP}/{PAYMENT}-7f9c",
            str(node["other"][1]): "a namespace that did not say in time what its pod is called",
        }
        assert look_up(f"{SHOP}/no-such-pod-{UNIQUE}", files=True).silent == 1

    def test_a_process_id_that_is_used_again_before_it_is_entered_leads_nowhere(
        self, node: dict[str, tuple[Namespace, int]]
    ) -> None:
        chosen = resolve(f"{PAYMENT}-7f9c", files=False)
        again = chosen.replace(pid=node["other"][1])

        chosen.open().close()
        with pytest.raises(NamespaceError, match="it has ended meanwhile"):
            again.open()

    def test_a_slip_is_answered_with_the_name(self, node: dict[str, tuple[Namespace, int]]) -> None:
        said = failed(f"{SHOP}/{PAYMENT}-7f9d")

        assert "no pod, container, process, address, file or network namespace here has that name" in said
        assert f"did you mean {SHOP}/{PAYMENT}-7f9c" in said

    def test_a_name_that_two_claim_is_neither_ones(self, real_kernel: None) -> None:
        with ExitStack() as stack:
            pids = [pod(stack, f"claimed-{UNIQUE}", space)[1] for space in (SHOP, SHOP, None)]

            said = failed(f"{SHOP}/claimed-{UNIQUE}")

        assert [f"--pid {pid}:" in said for pid in pids] == [True, True, True]

    @pytest.mark.parametrize("name", ["Upper", "a/b", "x" * 254, "esc\x1b[31m", "-a", "", "a\nb"])
    def test_what_is_no_name_of_a_pod_is_none(self, real_kernel: None, name: str) -> None:
        assert not NAME.fullmatch(name)
        with ExitStack() as stack:
            namespace, _ = pod(stack, name)

            assert claims_of(listed(namespace)) == ()

    def test_a_host_name_of_its_own_names_a_pod_and_that_of_the_node_does_not(self, real_kernel: None) -> None:
        name = f"host-{UNIQUE}"
        with Namespace.create("uts") as namespace:
            namespace.spawn("sleep", "300", env={"HOSTNAME": f"node-{UNIQUE}"})
            without = claims_of(listed(namespace))
        with Namespace.create("uts") as namespace:
            child = namespace.spawn("unshare", "--uts", "sleep", "300", env={"HOSTNAME": name})
            executed(child.pid, "sleep")
            found = claims_of(listed(namespace))

        assert without == ()
        assert [(str(each), each.pid) for each in found] == [(name, child.pid)]

    def test_files_of_a_root_of_its_own_name_it_and_a_link_out_of_there_does_not(
        self, real_kernel: None, tmp_path: Path
    ) -> None:
        account = tmp_path / "var/run/secrets/kubernetes.io/serviceaccount/namespace"
        account.parent.mkdir(parents=True)
        account.write_text(SHOP)
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/hostname").write_text(f"files-{UNIQUE}\n")
        (outside := tmp_path.parent / f"outside-{UNIQUE}").write_text(f"outside-{UNIQUE}\n")
        with Namespace.create("root") as namespace:
            child = namespace.start(lambda: live_in(tmp_path))
            inode = namespace.path.stat().st_ino
            found = wait_until(
                lambda: [str(each) for pod in pod_namespaces() if pod.inode == inode for each in claims_of(pod)]
            )
            (tmp_path / "etc/hostname").unlink()
            (tmp_path / "etc/hostname").symlink_to(outside)
            linked = claims_of(listed(namespace))
            (tmp_path / "etc/hostname").unlink()
            os.mkfifo(tmp_path / "etc/hostname")
            piped = claims_of(listed(namespace))
            child.kill()

        assert found == [f"{SHOP}/files-{UNIQUE}"]
        assert (linked, piped) == ((), ())

    def test_of_an_endless_environment_the_beginning_is_read(self, real_kernel: None) -> None:
        rest = {f"Z{number}": "x" * 100_000 for number in range(4)}
        with Namespace.create("long") as namespace:
            namespace.spawn("sleep", "300", env={**rest, "POD_NAME": f"long-{UNIQUE}"})

            assert claims_of(listed(namespace)) == ()

    def test_a_pod_that_starts_to_claim_the_name_of_another_makes_it_ambiguous(self, real_kernel: None) -> None:
        with ExitStack() as stack:
            first = pod(stack, f"own-{UNIQUE}")[1]
            before = explained(f"own-{UNIQUE}")
            second = pod(stack, f"own-{UNIQUE}")[1]

            said = failed(f"own-{UNIQUE}")

        assert before == f"{SHOP}/own-{UNIQUE} (pid {first})"
        assert f"--pid {first}:" in said and f"--pid {second}:" in said


class TestOthers:
    """Processes, namespaces, files and addresses, and what could be two of them."""

    def test_a_process_and_the_namespace_that_it_is_in_are_one_thing(
        self, node: dict[str, tuple[Namespace, int]], tmp_path: Path
    ) -> None:
        namespace, pid = node["payment"]
        link = tmp_path / "ns"
        link.symlink_to(namespace.path)

        assert explained(str(pid)) == f"pid {pid}"
        assert explained(namespace.name) == f"netns {namespace.name}"
        assert explained(str(namespace.path)) == f"netns {namespace.path}"
        assert explained(str(link)) == f"netns {link}"
        assert explained(".") == "this namespace"

    def test_a_file_is_one_where_the_command_takes_files(self, tmp_path: Path) -> None:
        save = tmp_path / "rules.save"
        save.write_text("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")

        assert explained(str(save)) == str(save)
        assert istio_init("map", str(save)).ok().stdout.startswith(str(save))
        assert istio_init("trace", str(save), "outbound", "tcp", "10.0.0.5:80").ok().stdout.startswith(str(save))
        for command in ("verify", "clean", "apply"):
            done = istio_init(command, str(save))
            assert done.status == 4
            assert "it is a file, and this command works on a namespace" in done.stderr

    def test_a_name_of_three_kinds_is_an_error_that_says_how_to_say_each(
        self, real_kernel: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ExitStack() as stack:
            namespace = stack.enter_context(Namespace.create("named"))
            _, pid = pod(stack, namespace.name)
            monkeypatch.chdir(tmp_path)
            Path(namespace.name).write_text("")

            said = failed(namespace.name)

        assert f"  --netns {namespace.name}: a named network namespace" in said
        assert f"  --file {namespace.name}: a file" in said
        assert f"  --pid {pid}: pod {SHOP}/{namespace.name}" in said

    def test_a_pod_is_found_by_its_address(self, real_kernel: None) -> None:
        ipv4, ipv6 = _own_addresses()
        with Namespace.create("address") as namespace:
            namespace.run("ip", "addr", "add", f"{ipv4}/32", "dev", "lo")
            namespace.run("ip", "addr", "add", f"{ipv6}/128", "dev", "lo", "nodad")
            pid = namespace.spawn("sleep", "300").pid

            for address in (ipv4, ipv6):
                assert explained(address) == f"pid {pid}"

    def test_an_address_of_several_pods_or_of_none_is_refused(self, real_kernel: None) -> None:
        ipv4, _ = _own_addresses()
        with ExitStack() as stack:
            absent = failed(ipv4)
            pids = []
            for label in ("one", "two"):
                namespace = stack.enter_context(Namespace.create(label))
                namespace.run("ip", "addr", "add", f"{ipv4}/32", "dev", "lo")
                pids.append(namespace.spawn("sleep", "300").pid)
            several = failed(ipv4)

        assert f"'{ipv4}': no pod, container, process, address" in absent
        assert [f"  --pid {pid}: a namespace with this address" in several for pid in pids] == [True, True]

    @pytest.mark.parametrize("word", ["nothing-like-this", "999999999", "a\x1b[31m", "./nothing", "/", "0", "shop/"])
    def test_what_is_nothing_is_told_and_makes_nothing(self, real_kernel: None, word: str) -> None:
        said = failed(word)

        assert "no pod, container, process, address, file or network namespace here" in said
        assert "\x1b" not in said


class TestPrivileges:
    """What may not be seen is not taken for absent."""

    @pytest.mark.parametrize("words", [(), (".",), ("--netns", "/proc/self/ns/net"), ("/proc/self/ns/net",)])
    def test_the_own_namespace_is_entered_without_any(self, real_kernel: None, words: tuple[str, ...]) -> None:
        done = unprivileged("explain", *words)

        assert done.status == 0
        assert "cannot be entered" not in done.stdout + done.stderr

    @pytest.mark.parametrize("word", ["nothing-like-this", "203.0.113.77"])
    def test_a_name_that_may_be_out_of_sight_is_a_missing_privilege(self, real_kernel: None, word: str) -> None:
        with Namespace.create("unseen") as namespace:
            namespace.spawn("sleep", "300")
            done = unprivileged("explain", word)

        assert done.status == 5
        assert "SYS_PTRACE" in done.stderr or "SYS_ADMIN" in done.stderr
        assert "is denied" in done.stderr


class TestCommands:
    """Every command takes the same word."""

    def test_a_pod_is_programmed_proved_compared_kept_and_cleaned_by_its_name(
        self, real_kernel: None, tmp_path: Path
    ) -> None:
        kept = tmp_path / "pod.tar"
        with ExitStack() as stack:
            namespace, pid = pod(stack, f"all-{UNIQUE}")
            namespace.run("ip", "link", "set", "lo", "up")
            namespace.run("ip", "addr", "add", "10.88.0.2/32", "dev", "lo")
            word, label = f"{SHOP}/all-{UNIQUE}", f"{SHOP}/all-{UNIQUE} (pid {pid})"

            applied = istio_init("apply", word).ok()
            traced = istio_init("trace", word, "outbound", "tcp", "198.51.100.7:443").ok()
            mapped = istio_init("map", word).ok()
            equal = istio_init("diff", word, str(pid))
            verified = istio_init("verify", word)
            istio_init("snapshot", word, "--output-file", str(kept)).ok()
            cleaned = istio_init("clean", f"all-{UNIQUE}").ok()

        assert applied.stdout.startswith(f"{label}: applied")
        assert traced.stdout.startswith(f"{label}: outbound tcp 10.88.0.2:")
        assert mapped.stdout.startswith(label)
        assert (equal.status, equal.stdout[:5]) == (0, "equal")
        assert label in verified.stdout
        assert label in explained(str(kept))
        assert cleaned.stdout.startswith(f"{label}: cleaned")

    @pytest.mark.parametrize(
        "words",
        [
            ("-b", "80", "443"),
            ("-b80", "443"),
            ("--istio-inbound-ports=80", "443"),
            ("-x", "10.0.0.0/8", "shop/payment-7f9c"),
        ],
    )
    def test_a_word_behind_a_list_is_no_target(self, words: tuple[str, ...]) -> None:
        done = istio_init("apply", "--dry-run", *words)

        assert done.status == 2
        assert f"{words[-1]!r} stands behind a value" in done.stderr

    def test_targets_do_not_mix_with_options_that_name_namespaces(self) -> None:
        for command in ("apply", "clean"):
            done = istio_init(command, "--dry-run", "shop/payment-7f9c", "--pid", "1")
            assert done.status == 2
            assert "give targets, or --pid and --netns, not both" in done.stderr


class TestCompletion:
    """The shell offers what there is."""

    def test_pods_namespaces_and_processes(self, node: dict[str, tuple[Namespace, int]]) -> None:
        namespace, pid = node["payment"]
        whole = f"{SHOP}/{PAYMENT}-7f9c"

        assert whole in offered("explain", f"{SHOP}/pay")
        assert whole in offered("apply", PAYMENT)
        assert whole in offered("diff", PAYMENT)
        assert namespace.name in offered("map", namespace.name[:-1])
        assert namespace.name in offered("clean", "--netns", namespace.name[:-1])
        assert str(pid) in offered("verify", str(pid))
        assert str(pid) in offered("trace", "--pid", str(pid))
        assert offered("trace", whole, "o") == ["outbound"]
        assert offered("trace", "outbound", "t") == []


def offered(*words: str) -> list[str]:
    """What completion offers for the last of the words."""
    line = " ".join(["istio-init", *words])
    env = {"_ISTIO_INIT_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    done = istio_init(env=env)
    return [each.partition(",")[2] for each in done.stdout.splitlines() if each.startswith("plain,")]


def unprivileged(*words: str) -> Result:
    """Run the program without any capability."""
    return execute("setpriv", "--bounding-set=-all", "--inh-caps=-all", *PROGRAM, *words)


def claims_in(inode: int) -> list[Claim]:
    """What is claimed in a namespace, as far as it is there already."""
    return [claim for pod in pod_namespaces() if pod.inode == inode for claim in claims_of(pod)]


def listed(namespace: Namespace) -> PodNamespace:
    inode = namespace.path.stat().st_ino
    return next(each for each in pod_namespaces() if each.inode == inode)


def live_in(root: Path) -> None:
    """Be a container: with a host name and a root of its own."""
    ctypes.CDLL(None).unshare(CLONE_NEWUTS)
    os.chroot(root)
    while True:
        signal.pause()


def executed(pid: int, name: str) -> None:
    """Wait until a process has become this program."""
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == name)


def _own_addresses() -> tuple[str, str]:
    """Addresses that no other namespace of the machine has."""
    one, two, three = secrets.token_bytes(3)
    return f"100.{one}.{two}.{three}", f"fd00:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"
