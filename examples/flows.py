"""The two flows of a converter: device to spool, spool to output.

A flow is one action, a bounded batch, executed again and again. It may be killed at any
instruction and run again, and neither loses nor doubles a record (see `recordfile`).

Knows: how a batch is moved, the phases of a flow.
Does not know: the parent, procs, how an attempt ended unless a result says so.
Invariants: how far a flow has come is written in its file and nowhere else; a batch is bounded
in records and in seconds; nothing is stored of an answer that did not come in whole.
"""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec

from fsmv2.examples import recordfile
from fsmv2.examples.recordfile import Record
from fsmv2.supervisor import (
    Act,
    Action,
    ActionContext,
    DesiredState,
    Go,
    Phase,
    Snapshot,
    State,
    Stay,
    Worker,
)

BATCH_RECORDS = 100
PAUSE_S = 0.5
CONNECT_S = 2.0
FAILURES_MAX = 3
COMPACT_RECORDS = 10_000
SPOOL_BYTES_MAX = 16 * 1024 * 1024
RETRY = msgspec.structs.replace(Action.retry, base_s=0.5, max_s=5.0)


def split_address(address: str) -> tuple[str, int]:
    """``HOST:PORT`` as a pair; raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 1 <= int(port[:6]) <= 65535:
        raise ValueError(f"got address {address!r}, want HOST:PORT with port 1 to 65535")
    return host.strip("[]"), int(port)


class Moved(msgspec.Struct, frozen=True):
    """What one batch did: how many records, and the number of the last there is now."""

    records: int
    last_seq: int


class FlowStatus(msgspec.Struct, frozen=True):
    """How far both ends have come, by record number, and what the spool takes."""

    stored: int = 0
    delivered: int = 0
    spool_bytes: int = 0


class FetchRecords(Action, frozen=True):
    """Moves one batch from the device to the spool."""

    timeout_s = 5.0
    retry = RETRY
    address: str
    topic: str
    folder: str
    most: int = BATCH_RECORDS

    def execute(self, ctx: ActionContext) -> Moved:
        """Ask for what follows the last stored record; store it."""
        folder, spool = _files(self.folder)[:2]
        size = recordfile.size_bytes(spool)
        if size > SPOOL_BYTES_MAX:
            raise OSError(f"cannot store: spool has {size} bytes, want at most {SPOOL_BYTES_MAX}")
        fetched = _ask(self.address, recordfile.last_seq(spool), self.most)
        records = [Record(one.seq, one.value, self.topic) for one in fetched]
        with recordfile.locked(folder):
            count = recordfile.append(spool, records)
            return Moved(count, recordfile.last_seq(spool))


class DeliverRecords(Action, frozen=True):
    """Moves one batch from the spool to the output."""

    timeout_s = 5.0
    retry = RETRY
    folder: str
    most: int = BATCH_RECORDS

    def execute(self, ctx: ActionContext) -> Moved:
        """Append what follows the last delivered record."""
        folder, spool, output = _files(self.folder)
        with recordfile.locked(folder):
            records = recordfile.read_after(spool, recordfile.last_seq(output), self.most)
            count = recordfile.append(output, records)
            last = recordfile.last_seq(output)
            oldest = recordfile.read_after(spool, 0, 1)
            if oldest and last - oldest[0].seq >= COMPACT_RECORDS:
                # Never past the spool's last record: it tells the source where to go on.
                recordfile.drop_before(spool, min(last, recordfile.last_seq(spool)))
            return Moved(count, last)


class CountRecords(Action, frozen=True):
    """Reads how far the flows have come."""

    timeout_s = 2.0
    folder: str

    def execute(self, ctx: ActionContext) -> FlowStatus:
        """Look at the last lines; takes no lock and changes nothing."""
        _, spool, output = _files(self.folder)
        return FlowStatus(
            recordfile.last_seq(spool), recordfile.last_seq(output), recordfile.size_bytes(spool)
        )


def _files(folder: str) -> tuple[Path, Path, Path]:
    return Path(folder), Path(folder) / "spool.jsonl", Path(folder) / "records.jsonl"


def _ask(address: str, after: int, most: int) -> list[Record]:
    """Read from the device; raises OSError or ValueError, never returns half an answer."""
    with (
        socket.create_connection(split_address(address), timeout=CONNECT_S) as connection,
        connection.makefile("rb") as answer,
    ):
        connection.sendall(f"READ {after} {most}\n".encode())
        records: list[Record] = []
        while (line := answer.readline(4_096)) != b"END\n":
            if not line.endswith(b"\n"):
                raise ConnectionError(f"device {address} hung up after {len(records)} records")
            if len(records) == most:
                raise ValueError(f"device {address} sent over {most} records, want at most that")
            records.append(recordfile.decode(line, f"device {address}"))
        return records


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where records come from, the topic they get, the folder of the spool."""

    address: str
    topic: str
    folder: str

    def __post_init__(self) -> None:
        split_address(self.address)

    def batch(self) -> Action:
        """The action that moves one batch."""
        return FetchRecords(self.address, self.topic, self.folder)


class SinkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The folder of spool and output."""

    folder: str

    def batch(self) -> Action:
        """The action that moves one batch."""
        return DeliverRecords(self.folder)


class FlowStopped(State):
    """No batch is moved."""

    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        """Begin."""
        return Go(FlowStarting, reason=f"asked to be {snap.desired.state}")


class FlowStarting(State):
    """The first batch since the start has not come through."""

    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Act | Go:
        """Running after one batch, empty or not."""
        batch = snap.config.batch()
        last = snap.result(type(batch))
        fresh = snap.since_result_s(type(batch)) <= snap.time_in_state_s
        if last is not None and last.succeeded and fresh:
            return Go(FlowRunning, reason=f"first batch moved {last.value.records} records")
        return Act(batch, reason=_progress(snap))


class FlowRunning(State):
    """Batches come through."""

    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act | Go | Stay:
        """Move the next batch; pause when there was nothing to move."""
        batch = snap.config.batch()
        failures = snap.failures(type(batch))
        if failures >= FAILURES_MAX:
            return Go(FlowDegraded, reason=_trouble(snap, batch))
        last = snap.result(type(batch))
        if last is not None and last.succeeded and last.value.records == 0:
            left_s = PAUSE_S - snap.since_result_s(type(batch))
            if left_s > 0:
                return Stay(reason=f"caught up, {_progress(snap)}")
        return Act(batch, reason=_progress(snap))


class FlowDegraded(State):
    """Several batches in a row have failed."""

    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Act | Go:
        """Go on trying; running again after one batch that comes through."""
        batch = snap.config.batch()
        if snap.failures(type(batch)) == 0:
            return Go(FlowRunning, reason=f"batches come through again, {_progress(snap)}")
        return Act(batch, reason=_trouble(snap, batch))


def _progress(snap: Snapshot) -> str:
    status: FlowStatus = snap.status
    return f"{status.stored} records stored, {status.delivered} delivered"


def _trouble(snap: Snapshot, batch: Action) -> str:
    last = snap.result(type(batch))
    why = "" if last is None else f", the last {last.verdict}: {last.error or 'no error told'}"
    return f"{snap.failures(type(batch))} batches failed in a row{why}"


class Flow(Worker):
    """What both flows share; ``config_type`` says which batch they move."""

    status_type = FlowStatus
    initial = stopping = FlowStopped

    def observe(self, desired: DesiredState) -> Action:
        """Count."""
        return CountRecords(desired.config.folder)


class SourceFlow(Flow):
    """From the device to the spool."""

    type_name = "source_flow"
    config_type = SourceConfig


class SinkFlow(Flow):
    """From the spool to the output."""

    type_name = "sink_flow"
    config_type = SinkConfig
