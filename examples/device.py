"""A simulated device: a process that records values and hands them out over TCP.

``python -m fsmv2.examples.device --listen 127.0.0.1:0`` prints where it listens. A client sends
``READ <after> <max>`` and a newline, and gets at most ``max`` lines of JSON with ``seq`` greater
than ``after``, in order, then ``END``; anything else is answered by ``ERROR <why>``.

Knows: its protocol, how fast it records.
Does not know: who reads, what was read before.
Invariants: record ``n`` is the same in every run (`value_of`), so that a reader can prove that
none is missing, doubled or altered; numbers begin at 1 and have no gaps; a client that is slow,
wrong or gone disturbs no other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import time

BATCH_MAX = 1_000
LINE_BYTES_MAX = 256
_PR_SET_PDEATHSIG = 1


def value_of(seq: int) -> float:
    """The value of record ``seq``: a saw-tooth from 0.0 to 99.9."""
    return (seq * 7_919 % 1_000) / 10


def record_line(seq: int) -> bytes:
    """Record ``seq`` as it goes over the wire."""
    return json.dumps({"seq": seq, "value": value_of(seq)}).encode() + b"\n"


class Device:
    """Holds ``backlog`` records at the start and makes ``rate`` more per second."""

    def __init__(self, rate: float, backlog: int) -> None:
        self._rate = rate
        self._backlog = backlog
        self._started = time.monotonic()

    def recorded(self) -> int:
        """The number of the newest record."""
        return self._backlog + int((time.monotonic() - self._started) * self._rate)

    def answer(self, line: bytes) -> bytes:
        """The reply to one line of a client."""
        try:
            word, after_text, most_text = line.decode("ascii").split()
            after, most = int(after_text), int(most_text)
        except ValueError:
            word, after, most = "", 0, 0
        if word != "READ" or after < 0 or not 1 <= most <= BATCH_MAX:
            return f"ERROR want READ <after> <1 to {BATCH_MAX}>\n".encode()
        last = min(self.recorded(), after + most)
        return b"".join(record_line(seq) for seq in range(after + 1, last + 1)) + b"END\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it leaves."""
        # A client that is killed half-way resets the connection; a line that is too long is
        # a ValueError of the reader. Both end this client only.
        with contextlib.suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                writer.write(self.answer(line))
                await writer.drain()
        writer.close()


async def run(host: str, port: int, device: Device) -> None:
    """Listen until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await asyncio.start_server(device.serve, host, port, limit=LINE_BYTES_MAX)
    bound = server.sockets[0].getsockname()
    print(f"device listening on {bound[0]}:{bound[1]}", flush=True)
    await stopped.wait()
    server.close()


def die_with(parent_pid: int) -> None:
    """Have the kernel end this process when its parent ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"cannot ask for a signal at the parent's death: errno {ctypes.get_errno()}")
    # The parent may have died before the call above; then no signal will ever come.
    if os.getppid() != parent_pid:
        sys.exit(f"cannot start: parent {parent_pid} is gone")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fsmv2.examples.device", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, default=20.0, help="records per second")
    parser.add_argument("--backlog", type=int, default=0, help="records held at the start")
    parser.add_argument("--parent-pid", type=int, help="end when this parent ends")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the device."""
    options = parse()
    if options.parent_pid is not None:
        die_with(options.parent_pid)
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdecimal():
        sys.exit(f"cannot listen on {options.listen!r}: want HOST:PORT")
    try:
        asyncio.run(run(host, int(port), Device(options.rate, options.backlog)))
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot listen on {options.listen}: {error}")


if __name__ == "__main__":
    main()
