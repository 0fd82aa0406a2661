"""A process that hangs in a known place: ``python hanging_target.py SHAPE``.

Prints its anchor, the address of some object on its heap, and its pid, then hangs in the function
that has the shape's name. The line it hangs in ends with the comment ``HERE``. On SIGUSR1
faulthandler writes its own dump to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

from fsmv2.workerproc.anchor import anchor

FOREVER_S = 3600.0


def loop() -> None:
    number = 0
    while True:
        number += 1  # HERE


def sleep() -> None:
    time.sleep(FOREVER_S)  # HERE


def lock() -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()  # HERE


def regex() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")  # HERE


def big_number() -> None:
    print(
        7  # HERE
        ** 10
        ** 9
    )


def blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(FOREVER_S)  # HERE


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)  # HERE


def replaced() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(FOREVER_S)  # HERE


def deep(levels: int = 300) -> None:
    if levels:
        deep(levels - 1)
    time.sleep(FOREVER_S)  # HERE


def from_c() -> None:
    max((0,), key=lambda _: time.sleep(FOREVER_S))  # HERE


def threads() -> None:
    def first() -> None:
        sleep()

    def second() -> None:
        lock()

    def third() -> None:
        next(generator_of())

    for target in (first, second, third, first):
        threading.Thread(target=target, daemon=True).start()
    while sum("generator_of" in str(f) for f in sys._current_frames().values()) == 0:
        time.sleep(0.001)
    time.sleep(FOREVER_S)  # HERE


def grüße_длина_𐐀() -> None:  # noqa: N802 (no upper case there)
    time.sleep(FOREVER_S)  # HERE


def generator_of() -> Iterator[int]:
    time.sleep(FOREVER_S)
    yield 1


def generator() -> None:
    def inner() -> Iterator[int]:
        yield from outer()

    def outer() -> Iterator[int]:
        yield 1
        time.sleep(FOREVER_S)  # HERE

    for _ in inner():
        pass


def coroutine() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        time.sleep(FOREVER_S)  # HERE

    async def middle() -> None:
        async for _ in items():
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(middle())

    asyncio.run(main())


def comprehension() -> None:
    [
        time.sleep(FOREVER_S)  # HERE
        for _ in range(1)
    ]


def expression() -> None:
    any(
        time.sleep(FOREVER_S)  # HERE
        for _ in range(1)
    )


def class_body() -> None:
    class Body:
        nap = time.sleep(FOREVER_S)  # HERE


def after_handling() -> None:
    for _ in range(3):
        try:
            raise ValueError
        except ValueError:
            continue
        finally:
            number = sum(range(3))
    with contextlib.nullcontext():
        time.sleep(number * FOREVER_S)  # HERE


def forked() -> None:
    if os.fork() == 0:
        print(anchor(), id(forked), os.getpid(), flush=True)
        sleep()
    os.wait()  # HERE


def churn() -> None:
    def up(levels: int) -> int:
        return up(levels - 1) + 1 if levels else across()

    def across() -> int:
        return sum(each for each in range(20))

    while True:
        for levels in range(0, 60, 7):
            up(levels)


def uninterruptible() -> None:
    """Like vfork(2), the parent waits in state D, but the child has memory of its own."""
    clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    flags = 0x4000 | signal.SIGCHLD  # CLONE_VFORK
    if ctypes.CDLL(None).syscall(clone, flags, 0, 0, 0, 0) == 0:
        print(anchor(), id(clone), os.getpid(), flush=True)
        time.sleep(FOREVER_S)


def generated() -> None:
    """A function too long for short forms in its line table, with a name to be escaped."""
    body = "\n" * 9_000 + "".join(f"    if x == {n}: x = [x, {n}]\n\n" for n in range(3_000))
    source = f"def f(x):\n{body}\n    time.sleep({FOREVER_S})\nf(-1)"
    # Line 1, the empty ones, two for each branch, one more, and there is the call.
    assert source.splitlines()[15_002].strip().startswith("time.sleep")
    exec(compile(source, 'a "name"\n of \x1b many\udcff lines' + "é" * 600, "exec"), {"time": time})


def run(shape: Callable[[], None]) -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if shape not in (forked, uninterruptible):
        print(anchor(), id(shape), os.getpid(), flush=True)
    shape()


if __name__ == "__main__":
    run(globals()[sys.argv[1]])
