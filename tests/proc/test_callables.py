"""Plain callables in procs: by opt-in, from anywhere, whatever they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsmv2.supervisor import ActionPool
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.library.callables import ERROR_BYTES_MAX

pytestmark = pytest.mark.proc


@pytest.fixture(scope="module")
def pool() -> Iterator[ActionPool]:
    with ActionPool(procs=2, callables=True) as started:
        yield started


def test_a_pool_calls_nothing_unless_it_was_told_to() -> None:
    pool = ActionPool(procs=1)
    with pytest.raises(SpecError, match=r"ActionPool\(callables=True\)"):
        pool.call(len, "abc")
    pool.close()


def test_lambdas_closures_and_keyword_arguments_cross(pool: ActionPool) -> None:
    factor = 7

    def nested(value: int, *, add: int) -> int:
        return value * factor + add

    assert pool.call(nested, 6, add=1).result().value == 43
    assert pool.call(lambda: (os.getpid() != os.getppid(), {1, 2})).result().value == (True, {1, 2})


def test_a_value_that_dill_knows_and_msgpack_does_not_comes_back(pool: ActionPool) -> None:
    made = pool.call(lambda: lambda: 5).result().value
    assert made() == 5


def test_a_large_value_comes_back(pool: ActionPool) -> None:
    result = pool.call(lambda: b"x" * (3 << 20)).result()
    assert (result.status, len(result.value)) == ("succeeded", 3 << 20)


def test_what_a_call_raises_is_a_failed_result_with_its_traceback(pool: ActionPool) -> None:
    def guilty() -> None:
        raise KeyError("lost")

    handle = pool.call(guilty)
    result = handle.result()
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.type, result.error.message) == ("KeyError", "'lost'")
    assert "in guilty" in result.error.traceback
    assert "supervisor/library/callables.py" not in result.error.traceback
    assert result.action_type.endswith("guilty")


def test_a_value_that_cannot_be_sent_is_a_clear_failure(pool: ActionPool) -> None:
    result = pool.call(lambda: (number for number in range(3))).result()
    assert result.status == "failed"
    assert "cannot pickle 'generator' object" in str(result.error)


def test_an_argument_that_cannot_be_sent_is_said_at_once(pool: ActionPool) -> None:
    with pytest.raises(SpecError, match="cannot send call of <built-in function len>"):
        pool.call(len, sys._getframe())


def test_an_exception_that_cannot_be_sent_is_described(pool: ActionPool) -> None:
    def raise_large() -> None:
        raise ValueError("x" * (2 * ERROR_BYTES_MAX))

    def raise_odd() -> None:
        class Odd(Exception):
            def __init__(self, one: int, two: int) -> None:
                super().__init__("odd")

        raise Odd(1, 2)

    for function, kind in ((raise_large, "ValueError"), (raise_odd, "Odd")):
        result = pool.call(function).result()
        assert result.status == "failed"
        assert result.error is not None
        assert result.error.type == kind
        assert len(result.error.message) <= 4000


def test_sys_exit_in_a_call_ends_the_call_only(pool: ActionPool) -> None:
    before = pool.statistics()["deaths"]
    result = pool.call(sys.exit, 3).result()
    assert result.error is not None
    assert (result.status, result.error.type) == ("failed", "SystemExit")
    assert pool.statistics()["deaths"] == before


def test_a_call_has_deadline_key_and_certificate_like_an_action(pool: ActionPool) -> None:
    def guilty_loop() -> None:
        while True:
            pass

    started = time.time()
    hung = pool.call(guilty_loop, timeout_s=0.1, key="a")
    after = pool.call(time.time, key="a")
    assert hung.result().status == "timed_out"
    assert hung.certificate is not None
    assert "guilty_loop" in (hung.certificate.stack or "")
    assert after.result().value >= started + 0.1
    crashed = pool.call(signal.raise_signal, signal.SIGSEGV)
    assert crashed.result().verdict == "crashed:SIGSEGV"


def test_functions_of_main_work_with_the_globals_they_use(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(
        "from fsmv2.supervisor import ActionPool\n"
        "FACTOR = 7\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "def times(point): return Point(scale(point.x))\n"
        "def scale(x): return x * FACTOR\n"
        "if __name__ == '__main__':\n"
        "    with ActionPool(procs=1, callables=True) as pool:\n"
        "        value = pool.call(times, Point(6)).result().value_or_raise()\n"
        "        print(value.x, isinstance(value, Point))\n"
    )
    # With -c, as in a notebook, there is no file that a proc could import.
    for arguments in ([str(file)], ["-c", file.read_text()]):
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("42 True\n", ""), arguments
