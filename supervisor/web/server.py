"""The ops process: frames from the root in, HTTP out.

Knows: its descriptors, signals, uvicorn.
Does not know: the tree's meaning, the routes (`app`), what is remembered (`state`).
Invariants: it ends with its root, by the channel's end or by the kernel; it never writes to
the root but one `OpsReady`; SIGINT is the root's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn

from fsmv2.ipc import FrameBuffer, FrameError, decode, encode, pack_frame
from fsmv2.ipc.linux import die_with_parent
from fsmv2.ipc.messages import OpsReady, Published
from fsmv2.supervisor.loglines import json_line, timestamp
from fsmv2.supervisor.web.app import make_app
from fsmv2.supervisor.web.exposition import Exposition
from fsmv2.supervisor.web.state import PublishedState

READ_BYTES = 1 << 16
READS_MAX = 32
CONNECTIONS_MAX = 256
STOP_S_MAX = 1


def serve(
    channel_fd: int, ready_fd: int, listen_fd: int, metrics_folder: str, root_pid: int, name: str
) -> None:
    """Serve HTTP on the listening socket ``listen_fd`` until ``channel_fd`` ends or SIGTERM.

    Takes all three descriptors over. ``ready_fd`` gets one `OpsReady` frame when connections
    are answered, and is closed. Bytes that are no frames of ours end it with exit code 1: the
    root starts a new ops process then.
    """
    die_with_parent(root_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _log_to_stderr(name)
    try:
        asyncio.run(_serve(channel_fd, ready_fd, listen_fd, metrics_folder, root_pid))
    except FrameError as error:
        logging.getLogger("fsmv2.ops").error("cannot read the root's channel: %s", error)
        raise SystemExit(1) from None


async def _serve(
    channel_fd: int, ready_fd: int, listen_fd: int, metrics_folder: str, root_pid: int
) -> None:
    loop = asyncio.get_running_loop()
    state = PublishedState()
    listening = socket.socket(fileno=listen_fd)
    host = listening.getsockname()[0]
    exposition = Exposition(
        metrics_folder, lambda: _version(state), lambda: _pids(state, root_pid), time.monotonic
    )
    server = _Server(
        uvicorn.Config(
            make_app(state, exposition, host, time.monotonic),
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=STOP_S_MAX,
        ),
        lambda: _say_ready(ready_fd),
    )

    def stop() -> None:
        loop.remove_reader(channel_fd)
        state.close()
        server.should_exit = True

    reader = _ChannelReader(channel_fd, state, stop)
    loop.add_reader(channel_fd, reader.read)
    loop.add_signal_handler(signal.SIGTERM, stop)
    await server.serve(sockets=[listening])
    if reader.fault is not None:
        raise reader.fault


class _ChannelReader:
    """Takes frames off the channel into the state, a bounded portion at a time."""

    def __init__(self, fd: int, state: PublishedState, stop: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._state = state
        self._stop = stop
        self._buffer = FrameBuffer()
        self.fault: FrameError | None = None

    def read(self) -> None:
        """Read what is there; the end of the stream or a bad frame stops the process."""
        try:
            for _ in range(READS_MAX):
                data = os.read(self._fd, READ_BYTES)
                if not data:
                    self._stop()
                    return
                self._take(data)
                if len(data) < READ_BYTES:
                    return
        except BlockingIOError:
            return
        except FrameError as error:
            self.fault = error
            self._stop()

    def _take(self, data: bytes) -> None:
        now = time.monotonic()
        for body in self._buffer.feed(data):
            message: Published = decode(body, Published)
            self._state.take(message.topic, message.body, now)
        if self._buffer.fault is not None:
            raise self._buffer.fault


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with word of its start."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: uvicorn would end at the terminal's Ctrl-C."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()


def _say_ready(ready_fd: int) -> None:
    # The root may have gone on without us; the channel's end will tell.
    with contextlib.suppress(OSError):
        os.write(ready_fd, pack_frame(encode(OpsReady(os.getpid()))))
    os.close(ready_fd)


def _version(state: PublishedState) -> str:
    status = state.status_document() or {}
    return str(status.get("version", "unknown"))


def _pids(state: PublishedState, root_pid: int) -> dict[str, int]:
    """Process names to pids: the root, this process, the template, the procs by slot."""
    pool = (state.status_document() or {}).get("pool") or {}
    found = {"root": root_pid, "ops": os.getpid(), "template": pool.get("template_pid")}
    found |= {str(proc.get("slot")): proc.get("pid") for proc in pool.get("procs") or ()}
    return {name: pid for name, pid in found.items() if isinstance(pid, int) and pid > 0}


class _StderrLines(logging.Handler):
    """uvicorn's and asyncio's warnings as lines like the root's, without loading its logs."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self._supervisor = name

    def emit(self, record: logging.LogRecord) -> None:
        line = json_line(
            {
                "timestamp": timestamp(record.created),
                "level": "error" if record.levelno >= logging.ERROR else "warning",
                "event": "library_logged",
                "supervisor": self._supervisor,
                "process": "ops",
                "logger": record.name,
                "message": self.format(record),
            }
        )
        with contextlib.suppress(OSError):
            os.write(2, line)


def _log_to_stderr(name: str) -> None:
    logging.basicConfig(handlers=[_StderrLines(name)], level=logging.WARNING, force=True)
