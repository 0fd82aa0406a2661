"""A JSON decoder that fails, under the communicator's codec."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fsmv2.communicator.transport import codec


def before_decoding(patch: pytest.MonkeyPatch, look: Callable[[Any], None]) -> None:
    """Have each of the codec's decoders call ``look`` with what it is to decode."""
    kinds = {name: one for name, one in vars(codec).items() if type(one) is msgspec.json.Decoder}
    assert kinds
    for name, real in kinds.items():
        patch.setattr(codec, name, SimpleNamespace(decode=_looking(real, look)))


def _looking(real: Any, look: Callable[[Any], None]) -> Callable[[Any], Any]:
    def decode(data: Any) -> Any:
        look(data)
        return real.decode(data)

    return decode
