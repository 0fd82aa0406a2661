"""The lock whose holder's end the kernel tells, with real processes and real kills."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from fsmv2.ipc.lifeline import OWNER_DIED, WAITERS, Word, wait_for_end
from fsmv2.ipc.page import Page, create_page

pytestmark = pytest.mark.proc
PATIENCE_S = 60.0


@pytest.fixture
def page() -> Iterator[Page]:
    fd = create_page("fsmv2-test")
    made = Page(fd)
    yield made
    made.close()
    os.close(fd)


class Holder:
    """A forked process that holds the page's lifeline until it is told to go, or killed."""

    def __init__(self, page: Page) -> None:
        said, say = os.pipe()
        self._go, go = os.pipe()[::-1]
        self.pid = os.fork()
        if self.pid == 0:
            page.take_hold()
            os.write(say, b"x")
            os.close(self._go)
            os.read(go, 1)
            os._exit(0)
        os.read(said, 1)
        for fd in (said, say, go):
            os.close(fd)

    def leave(self) -> None:
        os.close(self._go)
        os.waitpid(self.pid, 0)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._go)


def waiting(words: list[tuple[int, int]]) -> tuple[threading.Thread, list[bool]]:
    """A thread in `wait_for_end`, and what that has given."""
    gave: list[bool] = []
    thread = threading.Thread(target=lambda: gave.append(wait_for_end(words)))
    thread.start()
    return thread, gave


def test_nobody_holds_a_new_page(page: Page) -> None:
    assert page.lifeline() == 0
    assert not page.has_let_go()


def test_a_killed_holder_wakes_who_waits(page: Page) -> None:
    holder = Holder(page)
    held = page.lifeline()
    assert held == holder.pid | WAITERS
    assert not page.has_let_go()
    thread, gave = waiting([(page.lifeline_at(), held)])
    holder.kill()
    thread.join(PATIENCE_S)
    assert gave == [True]
    assert page.has_let_go()
    assert page.lifeline() & OWNER_DIED


def test_a_holder_that_leaves_by_itself_lets_go_as_well(page: Page) -> None:
    Holder(page).leave()
    assert page.has_let_go()


def test_the_end_of_one_of_several_is_told(page: Page) -> None:
    fd = create_page("fsmv2-test-other")
    other = Page(fd)
    mine, theirs = Holder(page), Holder(other)
    pairs = [(each.lifeline_at(), each.lifeline()) for each in (page, other)]
    thread, gave = waiting(pairs)
    theirs.kill()
    thread.join(PATIENCE_S)
    assert gave == [True]
    assert (page.has_let_go(), other.has_let_go()) == (False, True)
    mine.leave()
    other.close()
    os.close(fd)


def test_an_end_before_the_wait_is_not_slept_through(page: Page) -> None:
    holder = Holder(page)
    held = page.lifeline()
    holder.kill()
    assert wait_for_end([(page.lifeline_at(), held)])


def test_whoever_waits_can_be_called_away(page: Page) -> None:
    holder, word = Holder(page), Word(0)
    thread, gave = waiting([(word.address, 0), (page.lifeline_at(), page.lifeline())])
    word.wake()
    thread.join(PATIENCE_S)
    assert gave == [True]
    assert not page.has_let_go()
    holder.leave()


def test_an_address_that_is_not_there_ends_the_wait(page: Page) -> None:
    """A page that was closed between the look and the wait."""
    assert wait_for_end([(4096, 0)])


def test_the_address_keeps_no_page_open(page: Page) -> None:
    page.lifeline_at()
    page.close()
    with pytest.raises(ValueError, match="released"):
        page.lifeline()
