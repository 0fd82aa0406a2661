"""Values that Python calls equal, and a template does not."""

from __future__ import annotations

from typing import Any

import pytest

from fsmv2.supervisor.core.same import same
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, False),
        (1, 1.0),
        ({"a": [{"b": 1}]}, {"a": [{"b": True}]}),
        ([1, 2], [1, 2.0]),
        ((1,), (True,)),
        (ChildSpec("a", "b", UserSpec({"v": 1})), ChildSpec("a", "b", UserSpec({"v": True}))),
        ({1: "x"}, {2: "x"}),
        ([1], [1, 2]),
        (None, 0),
        (Secret("one-secret"), Secret("another-secret")),
    ],
)
def test_what_reads_differently_is_not_the_same(one: Any, other: Any) -> None:
    assert not same(one, other)
    assert not same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": [1, "x", None, 1.5]}, {"a": [1, "x", None, 1.5]}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (ChildSpec("a", "b", UserSpec({"v": 1})), ChildSpec("a", "b", UserSpec({"v": 1}))),
        (Secret("one-secret"), Secret("one-secret")),
        ((), ()),
    ],
)
def test_what_reads_alike_is_the_same(one: Any, other: Any) -> None:
    assert same(one, other)
