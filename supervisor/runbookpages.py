"""The runbooks' pages, as they are installed with this version.

Knows: where they are, among the package's data; in a checkout that is ops/runbooks.
Does not know: who shows them, what is in them.
Invariants: only a page of `core.runbooks.PAGES`, or the index, is ever read.
"""

from __future__ import annotations

from importlib import resources

from fsmv2.supervisor.core.runbooks import PAGES

INDEX = "README"
_PACKAGE = "fsmv2.runbooks"


def read_page(name: str) -> str | None:
    """The text of a page (with or without ``.md``); None: there is no such page."""
    page = name.removesuffix(".md")
    if page != INDEX and page not in PAGES:
        return None
    return resources.files(_PACKAGE).joinpath(f"{page}.md").read_text("utf-8")
