"""What is measured of a pool that is hurt: hung tasks, killed processes.

Knows: the face of a pool, pids of processes that said in a mark that they belong to it.
Does not know: which pool it is.
Invariants: every wait has an end, and "never" (None) is a figure. Only processes of the pool
under test are killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aim import Aim

from fsmv2.ipc.linux import children_of
from peers import tasks
from peers.face import Lost, Peer
from peers.measure import Record, Size
from peers.ours import Ours

LIMIT_S = 0.05
START_S = 20.0  # until a fresh pool runs its first task; nothing is measured meanwhile
STACKS_MAX = 5
LARGE_BYTES = 900_000
SHAPES: dict[str, Callable[[str], None]] = {
    "loop": tasks.guilty_loop,
    "noterm": tasks.guilty_noterm,
    "gil": tasks.guilty_gil,
}


class Scene:
    """One slot held until `release`, and files for marks. ``with Scene(peer) as scene:``"""

    def __init__(self, peer: Peer, patience_s: float) -> None:
        self._peer = peer
        self._patience_s = patience_s
        # A task that hung may begin, and say so, at any time.
        self._folder = tempfile.TemporaryDirectory(
            prefix="fsmv2-bench-", ignore_cleanup_errors=True
        )
        self._fifo = self.path("fifo")
        os.mkfifo(self._fifo)
        # Read and write: opening for writing alone would wait for the reader. Source: fifo(7).
        self._fd = os.open(self._fifo, os.O_RDWR | os.O_CLOEXEC)
        self.holder: Any = None

    def __enter__(self) -> Scene:
        self.holder = self._peer.submit(tasks.hold, self.path("holder"), self._fifo)
        self.began("holder", START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        os.close(self._fd)
        self._folder.cleanup()

    def path(self, name: str) -> str:
        """A file of this scene."""
        return str(Path(self._folder.name) / name)

    def began(self, name: str, patience_s: float | None = None) -> tasks.Mark:
        """The mark ``name``, once it is there. Raises TimeoutError."""
        give_up = time.monotonic() + (patience_s or self._patience_s)
        while (mark := tasks.read_mark(self.path(name))) is None:
            if time.monotonic() > give_up:
                raise TimeoutError(f"no task has begun as {name!r}")
            time.sleep(0.001)
        return mark

    def release(self) -> None:
        """Let the holder end."""
        with contextlib.suppress(OSError):
            os.write(self._fd, b".")


def hangs(peer: Peer, size: Size, record: Record) -> None:
    """For each shape of hang: milliseconds from the deadline until the slot runs the next task.
    Pools without limits get theirs from us: SIGKILL by pid at the very moment."""
    peer.open()
    for shape, task in SHAPES.items():
        record(f"slot_{shape}_ms", _repeat(peer, size, lambda task=task: _slot(peer, task, size)))
        if isinstance(peer, Ours):
            record(f"stack_{shape}_named", _stack_names(peer, task, size))
    record("replaced_ms", _repeat(peer, size, lambda: _slot(peer, tasks.sleeping, size)))
    if isinstance(peer, Ours):
        peer.close()
        bare = Ours(spares=0)
        bare.open()
        record("proc_start_ms", _repeat(bare, size, lambda: _slot(bare, tasks.sleeping, size)))
        bare.close()
        peer.open()


def _stack_names(peer: Ours, task: Callable[..., Any], size: Size) -> bool:
    """One of a few, as what has no CPU in the 20 ms for evidence cannot tell where it is."""
    for _ in range(STACKS_MAX):
        with Scene(peer, size.watch_s) as scene:
            handle = peer.submit(task, scene.path("hung"), limit_s=LIMIT_S)
            certificate = handle.result(START_S).certificate
            if certificate is not None and task.__name__ in (certificate.stack or ""):
                return True
    return False


def _repeat(peer: Peer, size: Size, once: Callable[[], float | None]) -> list[float | None]:
    found: list[float | None] = []
    give_up = time.monotonic() + size.shape_s
    while len(found) < size.repeats and (not found or time.monotonic() < give_up):
        found.append(once())
        if found[-1] is None:  # stuck: what comes next has to have a chance
            peer.reopen()
        time.sleep(0.03)
    return found


def _slot(peer: Peer, task: Callable[..., Any], size: Size) -> float | None:
    by_hand = task is tasks.sleeping or not peer.own_limits
    with Scene(peer, size.watch_s) as scene:
        limit_s = None if by_hand else LIMIT_S
        hung = peer.submit(task, scene.path("hung"), limit_s=limit_s)
        peer.submit(tasks.mark, scene.path("next"))
        began, pid = scene.began("hung")
        deadline = began + LIMIT_S
        if by_hand:
            time.sleep(max(0.0, deadline - time.monotonic()))
            deadline = time.monotonic()  # a sleep too long is not the pool's fault
            os.kill(pid, signal.SIGKILL)
        if by_hand and peer.ends_as_a_whole:
            with contextlib.suppress(Lost, TimeoutError):
                peer.value(hung, size.watch_s)
            peer.reopen()
            peer.submit(tasks.mark, scene.path("next"))
        try:
            after = scene.began("next").at
        except TimeoutError:
            return None
        scene.release()
        with contextlib.suppress(Lost, TimeoutError):
            peer.value(scene.holder, size.watch_s)
        return (after - deadline) * 1000


def deaths(peer: Peer, size: Size, record: Record) -> None:
    """One SIGKILL: under a task, then in the middle of writing a large result."""
    peer.open()
    with Scene(peer, size.watch_s) as scene:
        victim = peer.submit(tasks.sleeping, scene.path("victim"))
        queued = [peer.submit(tasks.echo, number) for number in range(4)]
        _, pid = scene.began("victim")
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        record("told_ms", [_told_ms(peer, victim, at, size)])
        scene.release()
        lost_bystander = not _is_fine(peer, scene.holder, "held", size.watch_s)
        fine = _fine(peer, queued, size.watch_s)
    record("lost_bystanders", int(lost_bystander))
    record("lost_queued", len(queued) - fine)
    peer.reopen()
    with Aim() as aim, Scene(peer, size.watch_s) as scene:
        victim = peer.submit(tasks.large, scene.path("victim"), LARGE_BYTES)
        _, pid = scene.began("victim")
        strike = aim.order(pid, signal.SIGKILL, aim_s=1.0, hold=True)
        record("midwrite_seen", strike.kind == "hit")
        record("midwrite_told_ms", [_told_ms(peer, victim, strike.at, size)])
        scene.release()
        bystander = _is_fine(peer, scene.holder, "held", size.watch_s)
        record("midwrite_lost_bystanders", int(not bystander))
        later = [peer.submit(tasks.echo, number) for number in range(4)]
        record("midwrite_new_tasks_run", _fine(peer, later, size.watch_s))


def _told_ms(peer: Peer, victim: Any, since: float, size: Size) -> float | None:
    try:
        peer.value(victim, size.watch_s)
    except TimeoutError:
        return None
    except Lost:
        return (time.monotonic() - since) * 1000
    return None  # it was too late for the kill


def _fine(peer: Peer, handles: list[Any], patience_s: float) -> int:
    """How many of `echo`'s handles have their number as value by then."""
    give_up = time.monotonic() + patience_s
    left_s = (max(0.01, give_up - time.monotonic()) for _ in handles)
    return sum(_is_fine(peer, each, n, next(left_s)) for n, each in enumerate(handles))


def _is_fine(peer: Peer, handle: Any, value: Any, patience_s: float) -> bool:
    try:
        return bool(peer.value(handle, patience_s) == value)
    except (Lost, TimeoutError):
        return False


def kills(peer: Peer, size: Size, record: Record) -> None:
    """Kill a random process of the pool at a random moment under traffic, again and again, and
    each time wait until something submitted after it succeeds."""
    peer.open()
    choice = random.Random(3)
    with _traffic(peer) as counts:
        if not _until(lambda: counts["fine"] > 20, START_S):
            # Killing nobody would look like a pool that no kill was survived by.
            raise TimeoutError(f"cannot kill under traffic: no 20 tasks were run in {START_S} s")
        fds, survived = len(os.listdir("/proc/self/fd")), 0
        while survived < size.kills and (pids := peer.pids()):
            time.sleep(choice.uniform(0.0, 0.03))
            with contextlib.suppress(ProcessLookupError):
                os.kill(choice.choice(pids), signal.SIGKILL)
            mark = counts["submitted"]
            if not _until(lambda mark=mark: counts["newest_fine"] > mark, size.still_s):
                break
            survived += 1
            record("kills_lost", counts["lost"])
            record("kills_untold", counts["untold"])
        record("kills_survived", survived)
    time.sleep(0.5)
    record("kills_fds_more", len(os.listdir("/proc/self/fd")) - fds)
    record("kills_zombies", sum(_is_zombie(pid) for pid in children_of(os.getpid())))


@contextlib.contextmanager
def _traffic(peer: Peer, clients: int = 4) -> Iterator[dict[str, int]]:
    """Threads that submit and wait, one task each at a time. Nobody waits longer than a second:
    some pools never tell that a task is lost, and that must not look like a pool that stands."""
    counts = {"submitted": 0, "fine": 0, "newest_fine": 0, "lost": 0, "untold": 0}
    lock, ended = threading.Lock(), threading.Event()

    def client(number: int) -> None:
        choice = random.Random(number)
        while not ended.is_set():
            with lock:
                counts["submitted"] += 1
                ticket = counts["submitted"]
            try:
                bytes_count = choice.choice((1, 1, 1, 200_000))
                peer.value(peer.submit(tasks.brief, choice.uniform(0, 0.004), bytes_count), 1.0)
                with lock:
                    counts["fine"] += 1
                    counts["newest_fine"] = max(counts["newest_fine"], ticket)
            except TimeoutError:
                with lock:
                    counts["untold"] += 1
            except Exception:
                with lock:
                    counts["lost"] += 1
                time.sleep(0.01)

    threads = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        ended.set()
        for thread in threads:
            thread.join(3.0)


def _until(claim: Callable[[], bool], patience_s: float) -> bool:
    give_up = time.monotonic() + patience_s
    while not claim():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.002)
    return True


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return False
