"""What the thread that waits for lifelines does with deaths at awkward moments."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fsmv2.ipc.lifeline import OWNER_DIED
from fsmv2.ipc.page import Page, create_page
from fsmv2.supervisor.pool import deathwatch
from fsmv2.supervisor.pool.deathwatch import DeathWatch

PATIENCE_S = 60.0
_LIFELINE = 48


class Scene:
    """A pool of procs that are nothing but pages, and whether it was told of a death."""

    def __init__(self) -> None:
        self.told = threading.Event()
        nursery = SimpleNamespace(procs=[], on_change=None)
        self.pool = cast(Any, SimpleNamespace(nursery=nursery, dies=lambda _proc: self.told.set()))
        self.pages: list[Page] = []
        self.watch: DeathWatch | None = None

    def begin(self) -> DeathWatch:
        """Start to watch."""
        self.watch = DeathWatch(self.pool, lambda function: function(self.pool))
        self.watch.change()
        return self.watch

    def proc(self) -> Page:
        """A proc comes that has a lifeline."""
        fd = create_page("fsmv2-test")
        page = Page(fd)
        os.close(fd)
        page._words[_LIFELINE] = 1
        self.pages.append(page)
        self.pool.nursery.procs.append(SimpleNamespace(page=page, ready_at=1.0))
        return page


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    if made.watch is not None:
        made.watch.close()
    for page in made.pages:
        page.close()


def let_go(page: Page) -> None:
    """What the kernel does, but that it wakes nobody."""
    page._words[_LIFELINE] = OWNER_DIED


def test_a_death_before_the_wait_is_not_slept_on(scene: Scene) -> None:
    let_go(scene.proc())
    scene.begin()
    assert scene.told.wait(PATIENCE_S)


def test_a_death_is_told_though_a_proc_comes_in_the_same_moment(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = scene.proc()
    wait = deathwatch.wait_for_end
    rounds = iter(range(1_000_000))

    def first_of_all_both(words: Sequence[tuple[int, int]]) -> bool:
        if len(words) > 1 and next(rounds) == 0:
            let_go(page)
            assert scene.watch is not None
            scene.watch.change()
            return True
        return wait(words)

    monkeypatch.setattr(deathwatch, "wait_for_end", first_of_all_both)
    scene.begin()
    assert scene.told.wait(PATIENCE_S)
