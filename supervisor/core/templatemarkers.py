"""The markers that make a text a template.

Knows: the markers, and that none may be left in what was rendered.
Does not know: the language between them.
Invariants: a value is rendered once, never twice: one that holds a template itself is refused.
"""

from __future__ import annotations

from fsmv2.supervisor.core.errors import TemplateError

MARKERS = ("{{", "{%", "{#")


def has_template(text: str) -> bool:
    """True when ``text`` holds a marker and so must be rendered."""
    return any(marker in text for marker in MARKERS)


def refuse_marker(text: str) -> None:
    """Raise `TemplateError` if rendered ``text`` still holds a marker."""
    left = next((marker for marker in MARKERS if marker in text), None)
    if left is not None:
        raise TemplateError(
            f"cannot use rendered template: {left!r} is left in the output; a value that holds "
            "a template is not rendered again"
        )
