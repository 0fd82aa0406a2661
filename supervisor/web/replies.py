"""The forms of an answer: JSON, or an error in JSON.

Knows: how a body becomes an answer.
Does not know: what is asked, the headers every answer has.
Invariants: an error is always ``{"error": TEXT}``, with more beside it where that helps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response


def json_reply(
    value: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """``value`` as JSON."""
    body = msgspec.json.encode(value)
    return Response(body, status_code, headers, media_type="application/json")


def error_reply(status_code: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error: cannot what, got what, want what."""
    return json_reply({"error": text}, status_code, headers)
