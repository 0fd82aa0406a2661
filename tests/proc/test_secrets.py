"""A secret goes from the root to a proc and back, and nowhere else in clear: each way on which it
could get out, with a real proc at the other end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import secret_actions as acts
from driving import Driven, driven

from fsmv2.ipc.codec import to_builtins
from fsmv2.supervisor.core.action import Action, ActionResult
from fsmv2.supervisor.core.events import ActionLogged, ActionProgressed, ProcOutput
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.pool.spill import load
from fsmv2.supervisor.store.protocol import document
from fsmv2.supervisor.telemetry.loglines import plain
from fsmv2.supervisor.tree.resuming import part_of

SHAPES = ("bare", "dict", "key", "struct", "dataclass", "tuple", "large")


@pytest.fixture(scope="module")
def pool() -> Iterator[Driven]:
    with driven() as started:
        yield started


def shown(value: Any) -> str:
    """All that anybody could be shown of a value: in a log line, the API, the store, a text."""
    documents = (document({"value": part_of(value)}).decode(), f"{value}", repr(value))
    return "\n".join((*documents, repr(to_builtins(value)), repr(plain(value))))


def told(result: ActionResult) -> str:
    """All that a result says of a failure."""
    assert result.error is not None
    return f"{result.error.type} {result.error.message} {result.error.traceback}"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_in_a_value_of_no_type_is_still_hidden(pool: Driven, shape: str) -> None:
    """It arrived as plain text where the annotation says Any."""
    result = load(pool.run(acts.ReturnAny(shape, acts.TEXT)))
    assert result.status == "succeeded"
    assert acts.TEXT not in shown(result.value)
    assert "Secret(…)" in shown(result.value)


@pytest.mark.parametrize("kind", [acts.ReturnDict, acts.ReturnNothingSaid])
def test_a_secret_in_a_bare_dict_or_without_an_annotation_is_still_hidden(
    pool: Driven, kind: type[acts.ReturnAny]
) -> None:
    value = pool.run(kind("dict", acts.TEXT)).value
    assert acts.TEXT not in shown(value)
    assert value["user"] == "joe"


def test_a_declared_secret_comes_back_as_one(pool: Driven) -> None:
    assert pool.run(acts.ReturnLogin("struct", acts.TEXT)).value == acts.Login(
        "joe", Secret(acts.TEXT)
    )


def test_a_secret_that_is_declared_as_text_is_refused_and_says_why(pool: Driven) -> None:
    """It would be plain text from then on, to whoever is shown it."""
    result = pool.run(acts.ReturnAsText("bare", acts.TEXT))
    assert (result.status, result.value) == ("failed", None)
    assert "got a Secret, which only its own type or Any takes" in told(result)
    assert acts.TEXT not in told(result)


def test_what_was_hidden_goes_out_again_as_it_came(pool: Driven) -> None:
    """A token travels as a result and out again as a field, whether it was declared or not."""
    token = pool.run(acts.ReturnAny("bare", acts.TEXT)).value
    assert pool.run(acts.Length(token, token)).value == [len(acts.TEXT)] * 2


FAILING: dict[str, Action] = {
    "raised with a secret of no type": acts.RaiseAny(Secret(acts.TEXT)),
    "payload that its own type refuses": acts.Picky(acts.TEXT, refuses=True),  # type: ignore[arg-type]
    "value that its own type refuses": acts.ReturnPicky(acts.TEXT),
    "spilled value that its own type refuses": acts.ReturnPicky(acts.TEXT, 2 << 20),
    "action that cannot be encoded": acts.CarryUnsendable(
        Secret(acts.TEXT), acts.Unsendable(acts.TEXT)
    ),
    "value that cannot be encoded": acts.ReturnUnsendable(acts.TEXT),
}


@pytest.mark.parametrize("action", FAILING.values(), ids=FAILING.keys())
def test_an_error_that_quotes_a_secret_is_told_without_it(pool: Driven, action: Action) -> None:
    """Code of a field's or a value's own type may say what it likes."""
    result = load(pool.run(action))
    assert result.status in ("failed", "refused")
    assert acts.TEXT not in told(result)
    assert "Secret(…)" in told(result)


def test_a_refusal_of_a_full_queue_or_of_an_odd_key_quotes_nothing(pool: Driven) -> None:
    secret: Any = Secret(acts.TEXT)
    refused = pool.run(acts.Length(secret, secret), key=secret)
    assert refused.status == "refused"
    assert acts.TEXT not in told(refused)

    with driven(queue=1) as small:
        numbers = [small.submit(acts.Length(secret, secret), key="k") for _ in range(8)]
        refusals = [small.result(number) for number in numbers]
    full = [each for each in refusals if each.status == "refused"]
    assert full
    for each in full:
        assert each.error is not None
        assert each.error.type == "QueueFull"
        assert acts.TEXT not in told(each)


def test_what_an_action_says_of_its_secret_is_told_without_it(pool: Driven) -> None:
    """Progress, records (names of fields too), a library's log, a traceback, printed lines."""
    pool.events.clear()
    assert pool.run(acts.Talk(Secret(acts.TEXT))).succeeded
    pool.until(lambda: pool.heard(ProcOutput), "the printed line")
    assert len(pool.heard(ActionProgressed)) == 1
    assert len(pool.heard(ActionLogged)) == 3
    for event in pool.events:
        assert acts.TEXT not in repr(event)
