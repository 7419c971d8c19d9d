"""Comments that look like options."""

from __future__ import annotations

import pytest

from istio_init.dialects.iptables.matches import Comment
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import Verdict

from .conftest import Subject


@pytest.mark.parametrize("comment", ["--begin", "-j", "-m", "-g", "--comment", "-", "--"])
def test_a_comment_may_look_like_an_option(comment: str, subject: Subject) -> None:
    text = f"-p tcp -m comment --comment {comment} -m tcp --dport 80 -j ACCEPT"
    subject.seed(Table.NAT, f"-A OUTPUT {text}")

    chain = subject.backend.read(subject.family).chain(Table.NAT, "OUTPUT")

    assert chain is not None
    [entry] = chain.entries
    assert entry.text == text
    assert entry.rule.matches[0] == Comment(comment)
    assert len(entry.rule.matches) == 2
    assert entry.rule.target == Verdict("ACCEPT")
