"""`ActionPool`: the pool as a library, usable from any thread and from asyncio.

Knows: the options, the folder, the life of a pool that stands alone.
Does not know: the tree; who drives the pool, see `driver`.
Invariants: deadlines are kept whether or not anybody waits for a result; leaving the ``with``
block ends every process, and so does the interpreter's exit. The supervisor's root does not use
this class: it owns a `Pool` and has neither threads nor locks.
"""

from __future__ import annotations

import atexit
import math
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from fsmv2.supervisor.config.settings import default_procs
from fsmv2.supervisor.core.action import Action, ActionResult
from fsmv2.supervisor.core.errors import FsmError, SpecError
from fsmv2.supervisor.library.driver import Driver
from fsmv2.supervisor.library.handles import Handle
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions, check_lane_names
from fsmv2.supervisor.pool.poolstatistics import pool_statistics
from fsmv2.supervisor.pool.runfolders import Leftovers, RunFolder
from fsmv2.supervisor.system.processes import is_importing_main
from fsmv2.supervisor.system.shelter import Shelter

# A caller that fires and forgets for a while is no reason to refuse.
QUEUE = 10_000
AnyHandle = TypeVar("AnyHandle", bound=Handle)


class ActionPool:
    """Runs actions in killable processes. ``with ActionPool(procs=2) as pool: …``

    ``procs`` is how many actions run at a time (None: one per CPU, at least 2). One that is being
    ended counts no more: a spare runs the next beside it until it is dead, some milliseconds as a
    rule. ``Limits.concurrency`` and a key count it until then. ``lanes`` are further procs,
    reserved for the action types with that ``lane``: name to number of procs.
    ``callables`` opts in to `call`. The other ``options`` are the fields of `PoolOptions`:
    ``spares``, ``queue`` (actions that may wait per lane, 10,000 here), ``preload``,
    ``pipeline``, ``recycling``, ``quarantine``, ``start_method``, ``result_bytes_max`` (bytes),
    ``starts_per_s`` (procs a second).

    Action classes must be importable: define them in a module, or in a script whose start is
    guarded by ``if __name__ == "__main__":``. Raises `SpecError` for options that cannot be;
    `start` raises OSError when the machine cannot start processes. All methods may be called
    from any thread. A process forked from the pool's gets `FsmError` from all of them but
    `close`, which does nothing there. A pool that is not closed lives until the interpreter
    exits, which closes it.
    """

    def __init__(
        self,
        procs: int | None = None,
        *,
        lanes: Mapping[str, int] | None = None,
        callables: bool = False,
        **options: Any,
    ) -> None:
        self._callables = callables
        if callables:
            options["preload"] = (*options.get("preload", ()), _MODULE_OF_CALLS)
        sizes = {"actions": default_procs() if procs is None else procs, **(lanes or {})}
        for name, size in sizes.items():
            _check("procs" if name == "actions" else f"lanes[{name!r}]", size, 1)
        check_lane_names(sizes)
        chosen = _options(options)
        self._driver = Driver()
        self._folder = RunFolder("fsmv2-pool-")
        self._leftovers = Leftovers()
        self._pool = Pool(
            sizes, chosen, run_folder=self._folder.path, on_result=self._driver.on_result
        )
        self._last_lock = threading.RLock()
        self._last_steps: list[Callable[[], object]] = [
            self._folder.remove,
            self._leftovers.close,
            self._pool.poller.close,  # also when it was never started
            lambda: atexit.unregister(self.close),
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ActionPool {self._pool!r}>"

    def start(self) -> None:
        """Start the processes. Called by ``with``. Raises OSError."""
        self._driver.check_ours()
        if self._driver.is_started or self._driver.is_closed:
            raise FsmError("cannot start the pool: it was started before")
        if is_importing_main():
            raise FsmError(
                "cannot start the pool: its own processes import this script, and would each "
                'start a pool again; want what starts it below `if __name__ == "__main__":`'
            )
        with Shelter():  # a template that nobody knows of would keep the interpreter from its exit
            self._folder.make()
            try:
                self._pool.start()
            except BaseException:
                self._folder.remove()
                raise
            self._leftovers.begin(self._pool)
            try:
                self._driver.start(self._pool)
            except BaseException:
                self._pool.close(0.0)
                self.close()
                raise
            atexit.register(self.close)

    def submit(self, action: Action, *, key: str = "", timeout_s: float | None = None) -> Handle:
        """Take ``action`` and return its handle at once.

        Actions of one ``key`` run in order, one at a time. ``timeout_s`` replaces the type's
        own. Raises `SpecError` for an action type that cannot work; a full queue is no
        exception but a result with status "refused".
        """
        handle = Handle(self._driver)
        if not self._driver.leave(handle, action, key, timeout_s):
            with Shelter():
                self._driver.submit(handle, action, key, timeout_s)
        return handle

    def run(self, action: Action, *, key: str = "", timeout_s: float | None = None) -> ActionResult:
        """`submit` and wait for the result. Ctrl-C ends the wait and has the action cancelled."""
        handle = Handle(self._driver)
        with Shelter() as shelter:
            self._driver.give(handle, action, key, timeout_s)
            try:
                self._driver.wait_for(handle, None, shelter)
            except BaseException:
                handle.cancel()  # nobody else has it
                raise
        return handle.outcome()

    def call(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str = "",
        timeout_s: float | None = None,
        **kwargs: Any,
    ) -> Handle:
        """Run ``function(*args, **kwargs)`` in a proc: any callable, from ``__main__``, a
        notebook or a closure too. Its handle's result is like an action's.

        Only in a pool made with ``callables=True``, and for trusted input only: function,
        arguments and value cross as dill, which runs whatever it is told to, in the proc and
        here. ``timeout_s`` None: `Action.timeout_s`. Raises `SpecError` without the option;
        what dill cannot send is a `SpecError` too.
        """
        from fsmv2.supervisor.library.callables import call_of
        from fsmv2.supervisor.library.callhandles import CallHandle

        if not self._callables:
            raise SpecError(
                f"cannot call {function!r}: this pool runs actions only, since plain callables "
                "cross as dill, which executes what it is given; want an Action, or "
                "ActionPool(callables=True) if all of its input is trusted"
            )
        action = call_of(function, args, kwargs)
        return self.submit_as(
            lambda driver: CallHandle(driver, function), action, key=key, timeout_s=timeout_s
        )

    def submit_as(
        self,
        kind: Callable[[Driver], AnyHandle],
        action: Action,
        *,
        key: str = "",
        timeout_s: float | None = None,
    ) -> AnyHandle:
        """`submit` with a handle made by ``kind``, for the forms built on this one."""
        handle = kind(self._driver)
        if not self._driver.leave(handle, action, key, timeout_s):
            with Shelter():
                self._driver.submit(handle, action, key, timeout_s)
        return handle

    def cancel(self, handle: Handle) -> bool:
        """See `Handle.cancel`."""
        return handle.cancel()

    def open_handles(self) -> list[Handle]:
        """The handles that have no result yet, in the order of their submission."""
        handles: list[Handle] = self._driver.look(lambda _pool: self._driver.open_handles())
        return handles

    def release(self, action_type: str) -> bool:
        """Let a quarantined action type run like any other again. False: none of that name is
        in quarantine (see the option ``quarantine``). Raises `SpecError` when several are; then
        it takes ``module:name``, as `statistics` shows them."""
        released: bool = self._driver.change(lambda pool: pool.release(action_type))
        return released

    def statistics(self) -> dict[str, Any]:
        """Counts and procs as plain data."""
        statistics: dict[str, Any] = self._driver.look(pool_statistics)
        return statistics

    def close(self) -> None:
        """End everything: what runs is killed and gets the result "cancelled", and so does what
        waits. Whoever waits for one of them has it then. Takes up to some seconds; a second call
        waits until all is done. Nothing is taken any more: `submit` gives "refused"."""
        self._driver.close()
        if self._driver.is_closed:
            # Each is taken once, also by a signal's handler that breaks in; nobody is back before
            # all are done.
            with Shelter(), self._last_lock:
                while self._last_steps:
                    self._last_steps.pop()()


_MODULE_OF_CALLS = "fsmv2.supervisor.library.callables"


def _options(given: dict[str, Any]) -> PoolOptions:
    try:
        options = PoolOptions(**{"queue": QUEUE, **given})
    except TypeError as error:
        known = ", ".join(PoolOptions.__struct_fields__)
        raise SpecError(f"cannot make the pool: {error}; want of {known}") from None
    try:
        # Made by a call, its fields were not looked at.
        msgspec.convert(msgspec.to_builtins(options), PoolOptions)
    except (msgspec.ValidationError, TypeError) as error:
        raise SpecError(f"cannot make the pool: {error}") from None
    _check("spares", options.spares, 0)
    for name in ("queue", "pipeline", "result_bytes_max"):
        _check(name, getattr(options, name), 1)
    if not 0 < options.starts_per_s < math.inf:
        raise SpecError(
            f"cannot make the pool: starts_per_s is {options.starts_per_s!r}, want more than 0"
        )
    return options


def _check(name: str, got: Any, low: int) -> None:
    if not isinstance(got, int) or isinstance(got, bool) or got < low:
        raise SpecError(
            f"cannot make the pool: {name} is {got!r}, want a whole number from {low} up"
        )
