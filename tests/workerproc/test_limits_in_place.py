"""Limits while an action runs, on an operating system that is made up: what cannot be set is said,
what cannot be put back wears the proc out."""

from __future__ import annotations

import errno
import os
import resource
from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.ipc.page import Page, create_page
from fsmv2.workerproc import limits
from fsmv2.workerproc.limits import LimitError, applied, are_none

FREE = resource.RLIM_INFINITY


class System:
    """The kernel's limits, all at ``soft`` and ``hard``; ``fails`` raises at the next setting."""

    def __init__(self) -> None:
        self.soft: dict[int, int] = {}
        self.hard: dict[int, int] = {}
        self.niceness = 0
        self.user = 1000
        self.fails: Exception | None = None
        self.set: list[tuple[int, int]] = []

    def getrlimit(self, which: int) -> tuple[int, int]:
        """As `resource.getrlimit`."""
        return self.soft.get(which, FREE), self.hard.get(which, FREE)

    def setrlimit(self, which: int, pair: tuple[int, int]) -> None:
        """As `resource.setrlimit`."""
        if self.fails is not None:
            raise self.fails
        self.soft[which], self.hard[which] = pair
        self.set.append((which, pair[0]))

    def setpriority(self, _which: int, _who: int, niceness: int) -> None:
        """As `os.setpriority`."""
        if self.fails is not None:
            raise self.fails
        self.niceness = niceness


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    """Our limits are not touched."""
    made = System()
    monkeypatch.setattr(resource, "getrlimit", made.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", made.setrlimit)
    monkeypatch.setattr(os, "getpriority", lambda _which, _who: made.niceness)
    monkeypatch.setattr(os, "setpriority", made.setpriority)
    monkeypatch.setattr(os, "getuid", lambda: made.user)
    return made


@pytest.fixture
def page() -> Page:
    """A proc's page."""
    return Page(create_page("p1"))


def held(page: Page, **wanted: Any) -> limits.Applied:
    """What an action with these limits runs under."""
    return applied(SimpleNamespace(**wanted), page)


def test_a_limit_holds_inside_and_is_put_back_to_what_it_was(system: System, page: Page) -> None:
    system.soft[resource.RLIMIT_CPU] = 100_000
    with held(page, niceness=5, cpu_s=7) as now:
        assert system.niceness == 5
        assert 7 < system.soft[resource.RLIMIT_CPU] < 100_000, "the proc's own seconds come on top"
    assert (system.niceness, system.soft[resource.RLIMIT_CPU]) == (0, 100_000)
    assert now.restored
    assert not page.is_worn_out()


def test_a_limit_that_is_stricter_already_stays(system: System, page: Page) -> None:
    system.niceness = 10
    system.soft[resource.RLIMIT_CPU] = 1
    system.soft[resource.RLIMIT_NOFILE] = system.hard[resource.RLIMIT_NOFILE] = 3
    with held(page, niceness=5, cpu_s=1_000_000, open_files=64):
        assert system.set == []
        assert system.niceness == 10
    assert system.set == []


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"niceness": 5}, "cannot limit niceness: got Operation not permitted, want 5 (now 0)"),
        ({"cpu_s": 7}, "cannot limit cpu_s: got [Errno 1] Operation not permitted, want a soft li"),
    ],
)
def test_a_limit_that_cannot_be_set_is_the_attempts_failure(
    wanted: dict[str, int], told: str, system: System, page: Page
) -> None:
    system.fails = PermissionError(errno.EPERM, "Operation not permitted")
    with pytest.raises(LimitError) as raised, held(page, **wanted):
        pytest.fail("the action ran")
    assert told in str(raised.value)


def test_when_a_later_limit_fails_the_earlier_are_lifted(system: System, page: Page) -> None:
    with (
        pytest.raises(LimitError, match="cannot limit address_space_bytes: got 4096 bytes, want"),
        held(page, niceness=5, address_space_bytes=4096),
    ):
        pytest.fail("the action ran")
    assert system.niceness == 0
    assert system.set == []


@pytest.mark.parametrize("error", [OSError(errno.EPERM, "no"), ValueError("no"), MemoryError()])
def test_what_cannot_be_put_back_wears_the_proc_out_and_keeps_nothing_else(
    error: Exception, system: System, page: Page
) -> None:
    """The next action would run under it. What comes after it in the list is put back all the
    same, and where there is no page it is only said."""
    set_limit = resource.setrlimit

    def refuse(*_arguments: object) -> None:
        raise error

    for place in (page, None):
        with applied(SimpleNamespace(niceness=5, cpu_s=7), place) as now:
            resource.setrlimit = refuse  # type: ignore[assignment]
        resource.setrlimit = set_limit
        assert not now.restored
        assert system.niceness == 0
        system.soft.clear()
    assert page.is_worn_out()


def test_processes_are_counted_from_those_the_user_has(
    system: System, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where all of them can be seen; and root is not bound by it."""
    monkeypatch.setattr(limits, "_sees_all_processes", lambda: True)
    system.user = os.stat("/proc/self").st_uid
    if system.user == 0:
        with held(page, processes=3):
            assert system.set == [], "not bound by it"
    # The tests' user by another name: `getuid` says 1000, and nobody here has that.
    system.user = 1000
    with held(page, processes=3):
        [(which, soft)] = system.set
        assert which == resource.RLIMIT_NPROC
        assert soft >= 3
    assert system.set[-1] == (resource.RLIMIT_NPROC, FREE)
    monkeypatch.setattr(limits, "_sees_all_processes", lambda: False)
    system.set.clear()
    with held(page, processes=3):
        assert system.set == []


def test_the_users_threads_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.stat("/proc/self").st_uid
    monkeypatch.setattr(os, "getuid", lambda: own)
    assert limits._tasks_of_user() >= len(os.listdir("/proc/self/task"))
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert limits._tasks_of_user() == 0


def test_whether_all_processes_are_in_sight_is_read_from_the_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {"inode": 0xEFFFFFFC}

    def stat(path: str) -> Any:
        if path != "/proc/self/ns/pid" or not found["inode"]:
            raise OSError(errno.ENOENT, path)
        return SimpleNamespace(st_ino=found["inode"])

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", stat)
        assert limits._sees_all_processes()
        found["inode"] = 0xF0000001
        assert not limits._sees_all_processes(), "a namespace below the first"
        found["inode"] = 0
        assert not limits._sees_all_processes(), "nobody knows"


def test_limits_of_the_root_alone_need_nothing_in_the_proc() -> None:
    assert are_none(None)
    assert are_none(SimpleNamespace(memory_bytes=1, niceness=None))
    assert not are_none(SimpleNamespace(niceness=1))
