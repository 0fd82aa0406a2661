"""What is hidden of an attempt."""

from __future__ import annotations

from typing import Any, cast

from fsmv2.ipc.codec import encode
from fsmv2.supervisor import Action, ActionContext, Secret
from fsmv2.supervisor.pool.attempts import Attempt
from fsmv2.supervisor.pool.kinds import ActionKind


class Login(Action, frozen=True):
    token: Secret
    port: int

    def execute(self, ctx: ActionContext) -> None:
        """Never run."""


def attempt_of(action: Action) -> Attempt:
    return Attempt(1, ActionKind(type(action)), encode(action), "", None, 1.0, 0.0)


def test_the_secrets_of_an_action_are_hidden_and_read_once() -> None:
    """Each chunk of what it prints asks for them."""
    attempt = attempt_of(Login(Secret("hunter2"), 1883))
    assert attempt.secrets() == ("hunter2",)
    assert attempt.secrets() is attempt.secrets()


def test_an_action_whose_fields_are_not_what_they_were_declared_hides_all_its_texts() -> None:
    """Nothing checks them where an action is made; its module may print while it is imported."""
    attempt = attempt_of(Login(Secret("hunter2"), cast(Any, "1883")))
    assert {"hunter2", "1883"} <= set(attempt.secrets())
