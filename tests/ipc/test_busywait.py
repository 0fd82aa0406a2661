"""When a waiter looks again and again, and when it sleeps at once."""

from __future__ import annotations

import pytest

from fsmv2.ipc import busywait
from fsmv2.ipc.busywait import BUSY_WAIT_S, BusyWait


class Scene:
    """A clock that each look and each sleep moves; something comes at ``comes_at``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.comes_at = 0.0
        self.slept = 0
        self.looks = 0
        monkeypatch.setattr(busywait, "_monotonic", lambda: self.now)
        monkeypatch.setattr(busywait, "_offer_cpu", lambda: None)
        self._waiting = BusyWait()

    def look(self) -> str:
        self.looks += 1
        self.now += BUSY_WAIT_S / 10
        return "it" if self.now >= self.comes_at else ""

    def sleep(self) -> str:
        self.slept += 1
        self.now = max(self.now, self.comes_at)
        return "it"

    def wait(self, for_s: float, may_look: bool = True) -> tuple[int, int]:
        """Wait for what comes in ``for_s``; how often it looked, and slept."""
        self.slept = self.looks = 0
        self.comes_at = self.now + for_s
        assert self._waiting.wait(self.look, self.sleep, may_look) == "it"
        return self.looks, self.slept


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_the_first_wait_sleeps(scene: Scene) -> None:
    assert scene.wait(BUSY_WAIT_S / 2) == (0, 1)


def test_after_a_short_wait_the_next_looks_and_does_not_sleep(scene: Scene) -> None:
    scene.wait(BUSY_WAIT_S / 2)
    for _ in range(3):
        looks, slept = scene.wait(BUSY_WAIT_S / 2)
        assert looks >= 1
        assert slept == 0


def test_looking_in_vain_costs_one_window_and_then_it_sleeps_at_once(scene: Scene) -> None:
    scene.wait(BUSY_WAIT_S / 2)
    looks, slept = scene.wait(1.0)
    assert 1 <= looks <= 11
    assert slept == 1
    for _ in range(3):
        assert scene.wait(1.0) == (0, 1)


def test_a_wait_that_is_over_soon_while_it_sleeps_makes_it_look_again(scene: Scene) -> None:
    scene.wait(1.0)
    scene.wait(BUSY_WAIT_S / 2)
    assert scene.wait(BUSY_WAIT_S / 2)[1] == 0


def test_it_never_looks_where_the_cpu_is_needed_elsewhere(scene: Scene) -> None:
    scene.wait(BUSY_WAIT_S / 2)
    assert scene.wait(BUSY_WAIT_S / 2, may_look=False) == (0, 1)
