"""Real processes: every test here is marked."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/proc/" in item.nodeid or item.nodeid.startswith("tests/proc"):
            item.add_marker(pytest.mark.proc)
