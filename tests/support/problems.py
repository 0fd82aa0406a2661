"""What a relay that fails makes of a call of the communicator's transport."""

from __future__ import annotations

from typing import Any

import pytest

from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.transport.errors import Problem, TransportError


def problem_of(call: Any, *arguments: Any) -> Problem:
    """The problem that ``call(*arguments)`` ends with; the token is not in it."""
    with pytest.raises(TransportError) as caught:
        call(*arguments)
    assert DEMO_TOKEN not in str(caught.value)
    return caught.value.problem
