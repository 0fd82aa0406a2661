"""The ops process: frames from the root in, HTTP out.

Knows: its descriptors, signals, uvicorn.
Does not know: the tree's meaning, the routes (`app`), what is remembered (`state`).
Invariants: it ends with its root, by the channel's end or by the kernel; it writes to the root
one `OpsReady` and the commands of those who have the token; SIGINT is the root's business.
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
from fsmv2.ipc.messages import FromOps, OpsReady, Published, ToOps
from fsmv2.supervisor.telemetry.loglines import json_line, timestamp
from fsmv2.supervisor.web.app import make_app
from fsmv2.supervisor.web.commands import Desk
from fsmv2.supervisor.web.exposition import Exposition
from fsmv2.supervisor.web.state import PublishedState

READ_BYTES = 1 << 16
READS_MAX = 32
CONNECTIONS_MAX = 256
STOP_S_MAX = 1


def serve(
    channel_fd: int,
    say_fd: int,
    listen_fd: int,
    metrics_folder: str,
    root_pid: int,
    name: str,
    token_digest: bytes = b"",
    store_file: str = "",
) -> None:
    """Serve HTTP on the listening socket ``listen_fd`` until ``channel_fd`` ends or SIGTERM.

    Takes all three descriptors over. ``say_fd`` gets one `OpsReady` frame when connections
    are answered, then commands, of those who show the token of ``token_digest`` (empty: of
    nobody). Bytes that are no frames of ours end it with exit code 1: the root starts a new ops
    process then. ``store_file`` is the store's (empty: it is in none).
    """
    die_with_parent(root_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _log_to_stderr(name)
    try:
        root = _Root(say_fd)
        desk = Desk(root.send, token_digest)
        asyncio.run(
            _serve(channel_fd, root, listen_fd, (metrics_folder, root_pid), desk, store_file)
        )
    except FrameError as error:
        logging.getLogger("fsmv2.ops").error("cannot read the root's channel: %s", error)
        raise SystemExit(1) from None


async def _serve(
    channel_fd: int,
    root: _Root,
    listen_fd: int,
    measured: tuple[str, int],
    desk: Desk,
    store_file: str,
) -> None:
    metrics_folder, root_pid = measured
    loop = asyncio.get_running_loop()
    state = PublishedState()
    listening = socket.socket(fileno=listen_fd)
    host = listening.getsockname()[0]
    exposition = Exposition(
        metrics_folder, lambda: _version(state), lambda: _pids(state, root_pid), time.monotonic
    )
    server = _Server(
        uvicorn.Config(
            make_app(state, exposition, host, time.monotonic, desk=desk, store_file=store_file),
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
        lambda: root.send(OpsReady(os.getpid())),
    )

    def stop() -> None:
        loop.remove_reader(channel_fd)
        state.close()
        server.should_exit = True

    reader = _ChannelReader(channel_fd, state, desk, stop)
    loop.add_reader(channel_fd, reader.read)
    loop.add_signal_handler(signal.SIGTERM, stop)
    await server.serve(sockets=[listening])
    if reader.fault is not None:
        raise reader.fault


class _ChannelReader:
    """Takes frames off the channel to where they belong, a bounded portion at a time."""

    def __init__(
        self, fd: int, state: PublishedState, desk: Desk, stop: Callable[[], None]
    ) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._state = state
        self._desk = desk
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
            message: ToOps = decode(body, ToOps)
            if isinstance(message, Published):
                self._state.take(message.topic, message.body, now)
            else:
                self._desk.take(message)
        if self._buffer.fault is not None:
            raise self._buffer.fault


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with word of its start."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], object]) -> None:
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


class _Root:
    """The way to the root: never waited for."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    def send(self, message: FromOps) -> bool:
        """Send ``message``; False when the root is gone or does not read."""
        try:
            # A frame of less than PIPE_BUF bytes is written whole or not at all, pipe(7).
            os.write(self._fd, pack_frame(encode(message)))
        except OSError:
            return False  # when it is gone, the other pipe's end tells
        return True


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
