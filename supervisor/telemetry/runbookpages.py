"""The runbooks' pages, as they are installed with this version.

Knows: where they are, among the package's data; in a checkout that is ops/runbooks.
Does not know: who shows them, what is in them.
Invariants: only a page of `core.runbooks.PAGES`, or the index, is ever read.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fsmv2.supervisor.core.runbooks import PAGES

INDEX = "README"
_PACKAGE = "fsmv2.runbooks"


def read_page(name: str) -> str | None:
    """The text of a page (with or without ``.md``); None: there is no such page."""
    page = name.removesuffix(".md")
    if page != INDEX and page not in PAGES:
        return None
    # Not by `importlib.resources`: it knows no package without code that lies in a checkout.
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        file = Path(folder, f"{page}.md")
        if file.is_file():
            return file.read_text("utf-8")
    raise FileNotFoundError(f"cannot read the runbook {page}: it is not installed")
