"""What is left for whoever drives gets its result, also when the pool is closed meanwhile."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from fsmv2.supervisor import Action, ActionContext
from fsmv2.supervisor.core.errors import FsmError
from fsmv2.supervisor.library import letterbox
from fsmv2.supervisor.library.driver import Driver
from fsmv2.supervisor.library.handles import Handle
from fsmv2.supervisor.library.letterbox import Letterbox
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.system.poller import READABLE

ROUNDS = 200
PATIENCE_S = 60.0


class Nothing(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Never run: the pool has no procs."""


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns after 10 µs instead of 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def driver_without_procs(folder: str) -> Driver:
    """All its procs are missing, so all that is submitted is left."""
    driver = Driver()
    options = PoolOptions(queue=100_000)
    pool = Pool({"actions": 1}, options, run_folder=folder, on_result=driver.on_result)
    _ = pool.kinds[Nothing]
    driver.start(pool)
    return driver


def submit(driver: Driver) -> Handle:
    handle = Handle(driver)
    if not driver.leave(handle, Nothing(), "", None):
        driver.submit(handle, Nothing(), "", None)
    return handle


def submit_until_refused(driver: Driver, handles: list[Handle]) -> None:
    while True:
        handles.append(handle := submit(driver))
        if handle.done() and handle.result(0).status == "refused":
            return


@pytest.mark.usefixtures("often")
def test_each_handle_gets_its_result_though_another_thread_closes_the_pool() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(ROUNDS):
            driver = driver_without_procs(folder)
            handles: list[Handle] = []
            thread = threading.Thread(target=submit_until_refused, args=(driver, handles))
            thread.start()
            while len(handles) < round_number % 20:
                pass
            driver.close()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
            open_still = [handle for handle in handles if not handle.done()]
            assert not open_still, f"round {round_number}: {len(open_still)} of {len(handles)}"
            assert {handle.result(0).status for handle in handles} <= {"cancelled", "refused"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_action_left_as_the_pool_has_been_closed_is_refused(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool was open when the thread looked, and closed by the time it left its action."""
    leave = Letterbox.leave

    def close_first(letterbox: Letterbox, *arguments: object) -> bool:
        if moment == "before":
            driver.close()
        left = leave(letterbox, *arguments)  # type: ignore[arg-type]
        if moment == "after":
            driver.close()
        return left

    monkeypatch.setattr(Letterbox, "leave", close_first)
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_without_procs(folder)
        handle = submit(driver)
        assert handle.done()
        assert handle.result(0).status in ("cancelled", "refused")
        assert not driver.open_handles()


def test_what_was_taken_out_by_the_one_who_closes_is_not_taken_back() -> None:
    """It has begun, perhaps; its result says so."""
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_without_procs(folder)
        handle = Handle(driver)
        steps: list[Callable[[], object]] = [
            lambda: driver.leave(handle, Nothing(), "", None),
            lambda: driver.look(lambda pool: None),
        ]
        assert [bool(step()) for step in steps] == [True, False]
        assert not driver._letterbox.take_back(handle)
        assert driver.open_handles() == [handle]
        driver.close()
        assert handle.result(0).status == "cancelled"


def interrupted(*_: object) -> float:
    raise KeyboardInterrupt


def test_an_action_that_ctrl_c_kept_from_being_left_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the shutdown of an executor waits for all that are open."""
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_without_procs(folder)
        with monkeypatch.context() as patch:
            patch.setattr(letterbox, "_monotonic", interrupted)
            with pytest.raises(KeyboardInterrupt):
                submit(driver)
        assert not driver.open_handles()
        driver.close()


class Awkward:
    """Its own code for the wire raises what no encoder would."""

    def __wire_encode__(self) -> str:
        raise KeyError("no such part")

    @classmethod
    def __wire_decode__(cls, _raw: object) -> Awkward:
        return cls()


class Carries(Action, frozen=True):
    what: Awkward

    def execute(self, ctx: ActionContext) -> None:
        """Never run."""


def test_an_action_whose_own_code_fails_when_it_is_sent_is_refused() -> None:
    """Whatever it raises, and nothing is left open that never gets a result."""
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_without_procs(folder)
        for _known in (False, True):
            handle = Handle(driver)
            assert not driver.leave(handle, Carries(Awkward()), "", None)
            driver.submit(handle, Carries(Awkward()), "", None)
            result = handle.result(PATIENCE_S)
            assert result.status == "refused"
            assert result.error is not None
            assert (result.error.type, result.error.message) == ("KeyError", "'no such part'")
        assert not driver.open_handles()
        driver.close()


def test_a_handler_that_raises_leaves_no_handle_without_an_action_and_no_lost_kick() -> None:
    # A handle without an action is open for ever: a shutdown that waits for it hangs. A kick that
    # is noted and was not made keeps all later ones from being made.
    before = signal.signal(signal.SIGALRM, break_off)
    try:
        with tempfile.TemporaryDirectory() as folder:
            driver = driver_without_procs(folder)
            try:
                for round_number in range(ROUNDS):
                    with contextlib.suppress(BrokenOff):
                        signal.setitimer(signal.ITIMER_REAL, 20e-6 + round_number * 1e-6)
                        for _ in range(10_000):
                            driver.leave(Handle(driver), Nothing(), "", None)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    waiting = driver.look(lambda pool: {attempt.id for attempt in pool.ledger})
                    assert {handle.attempt_id for handle in driver.open_handles()} == waiting
                    wait_until(lambda: not driver._kick.is_given)
                    driver.change(cancel_all)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                driver.close()
    finally:
        signal.signal(signal.SIGALRM, before)


class BrokenOff(Exception):
    """Raised by a signal's handler."""


def break_off(_number: int, _frame: object) -> None:
    raise BrokenOff


def cancel_all(pool: Pool) -> None:
    for attempt in pool.ledger:
        pool.cancel(attempt.id)


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


class Unwritable:
    def __wire_encode__(self) -> bytes:
        raise KeyError("the field's own code raises")


class Exits:
    def __wire_encode__(self) -> bytes:
        raise SystemExit("the field's own code ends the interpreter")


class Holds(Nothing, frozen=True):
    field: Any = None


@pytest.mark.parametrize(
    ("action", "key", "timeout_s", "says"),
    [
        (Nothing(), ["a"], None, r"got key \['a'\], want a str"),
        (Nothing(), None, None, "got key None, want a str"),
        (Nothing(), "", "5", "got timeout_s '5', want a number of seconds"),
        (Nothing(), "", True, "got timeout_s True"),  # no proc could decode it
        (Nothing(), "", Decimal(5), r"got timeout_s Decimal\('5'\)"),
        (Nothing(), "", math.nan, "got timeout_s nan"),
        (Nothing(), "", 10**400, "got timeout_s 1000"),
        (Holds(Unwritable()), "", None, "the field's own code raises"),
        (Holds(Exits()), "", None, "the field's own code ends the interpreter"),
    ],
)
def test_what_no_proc_could_take_is_refused_and_nobody_else_has_a_loss_of_it(
    action: Action, key: Any, timeout_s: Any, says: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_without_procs(folder)
        try:
            waiting = submit(driver)
            refused = Handle(driver)
            if not driver.leave(refused, action, key, timeout_s):
                driver.submit(refused, action, key, timeout_s)
            result = refused.result(PATIENCE_S)
            assert result.status == "refused"
            assert re.search(says, str(result.error))
            assert driver.look(lambda _pool: driver.open_handles()) == [waiting]
            assert not waiting.done()
        finally:
            driver.close()


def test_a_kick_that_a_handler_has_read_already_breaks_nothing() -> None:
    """It led while another batch was in hand."""
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_without_procs(folder)
        try:
            batch = [(driver._kick.fd, READABLE)]
            driver._react(batch)
            driver._react(batch)
            assert not submit(driver).done()
        finally:
            driver.close()


def test_a_handler_that_breaks_into_a_look_may_look_but_not_submit_or_close() -> None:
    """A thread that the close ends may wait for the lock that the look holds."""
    with tempfile.TemporaryDirectory() as folder:
        driver = driver_without_procs(folder)
        try:
            handle = submit(driver)
            assert driver.look(lambda _pool: driver.look(lambda _again: driver.open_handles())) == [
                handle
            ]
            for use in (driver.close, lambda: driver.submit(handle, Nothing(), "", None)):
                with pytest.raises(FsmError, match="in the middle of using it"):
                    driver.look(lambda _pool, use=use: use())
            assert not handle.done()
            assert not submit(driver).done()
        finally:
            driver.close()
