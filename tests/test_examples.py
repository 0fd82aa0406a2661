"""What the examples promise: their states decide as told, and no record is lost or doubled."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fsmv2.supervisor
from fsmv2.examples import converter, device, faulty, flows, hello, recordfile
from fsmv2.supervisor import (
    Act,
    Action,
    ActionResult,
    DesiredState,
    Go,
    Phase,
    Snapshot,
    State,
    Stay,
    UserSpec,
    VariableBundle,
    Worker,
)
from fsmv2.supervisor.config.config import read_config
from fsmv2.supervisor.config.configcheck import check_settings
from fsmv2.supervisor.config.plugins import load_plugins
from fsmv2.supervisor.core.action import ActionError
from fsmv2.supervisor.core.fsm import ChildInfo, ChildrenView, Desired, Identity, decide

EXAMPLES = Path(hello.__file__).parent
WAIT_S = 20.0


RUN_FAULTY = """
import sys
from fsmv2.examples import faulty
class Context:
    def progress(self, text):
        print(text, flush=True)
getattr(faulty, sys.argv[1])().execute(Context())
"""


class FakeContext:
    """Remembers what an action says."""

    attempt_id = 1
    deadline_s = 5.0
    cancelled = False
    scratch = Path("unused")

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def progress(self, text: str) -> None:
        """Remember."""
        self.said.append((text, {}))

    def log(self, event: str, level: str = "info", **fields: Any) -> None:
        """Remember."""
        self.said.append((event, fields))


def result(kind: type[Action], status: Any = "succeeded", **fields: Any) -> ActionResult:
    """A result of that action type."""
    return ActionResult(status=status, action_type=kind.__name__, attempt_id=1, **fields)


KINDS: dict[str, type[Action]] = {
    name: kind
    for module in (converter, faulty, flows, hello)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Action)
}


def snapshot(state: type[State], config: Any, desired: str = "running", **given: Any) -> Snapshot:
    """A snapshot 100 s after the state was entered; ``results`` ended ``ago_s`` ago."""
    worker_type = given.pop("worker_type", "w")
    results = {KINDS[one.action_type]: one for one in given.pop("results", ())}
    given["failures"] = {KINDS[name]: n for name, n in given.pop("failures", {}).items()}
    ago_s = given.pop("ago_s", 0.0)
    return Snapshot(
        identity=Identity("w", "site/w", worker_type, 1),
        state=state(),
        desired=Desired(desired, config, **given.pop("stop", {})),
        results=results,
        result_ends=dict.fromkeys(results, 100.0 - ago_s),
        monotonic=100.0,
        **given,
    )


def told(worker: type[Worker], snap: Snapshot) -> tuple[str, str]:
    """The decision as (form and target, reason)."""
    decision = decide(worker(), snap)
    match decision:
        case Go(state, reason):
            return f"go {state.state_name()}", reason
        case Act(action, reason):
            return f"act {type(action).__name__}", reason
        case Stay(reason):
            return "stay", reason
    raise AssertionError(decision)


# --- plug-ins -------------------------------------------------------------------------------


def test_examples_import_only_public_names() -> None:
    """A plug-in can be written without any name that is not promised."""
    for path in EXAMPLES.glob("*.py"):
        if path.name in ("demo.py", "pumps.py"):
            continue  # part of the command line, a program: no plug-ins
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module is None or not module.startswith("fsmv2."):
                continue
            if module.startswith("fsmv2.examples"):
                continue
            assert module == "fsmv2.supervisor", path
            assert isinstance(node, ast.ImportFrom)
            assert {alias.name for alias in node.names} <= set(fsmv2.supervisor.__all__)


def test_hello_is_short() -> None:
    """The README's first example fits a screen."""
    lines = [line for line in (EXAMPLES / "hello.py").read_text().splitlines() if line.strip()]
    assert len(lines) < 25


@pytest.mark.parametrize("name", ["hello.yaml", "site.yaml"])
def test_example_configs_pass_the_check(name: str) -> None:
    """What `fsmv2 check` would say of the examples: nothing."""
    settings, places = read_config(EXAMPLES / name)
    check_settings(settings, load_plugins(settings.plugins).factory, places)


# --- hello ----------------------------------------------------------------------------------


def test_hello_greets_once() -> None:
    """It acts until a greeting succeeded, then stays."""
    config = {"name": "you"}
    assert told(hello.Hello, snapshot(hello.Stopped, config))[0] == "go running"
    assert told(hello.Hello, snapshot(hello.Running, config))[0] == "act Greet"
    done = result(hello.Greet, value="hello, you")
    snap = snapshot(hello.Running, config, results=[done])
    assert told(hello.Hello, snap) == ("stay", "said 'hello, you'")
    failed = snapshot(hello.Running, config, results=[result(hello.Greet, "timed_out")])
    assert told(hello.Hello, failed)[0] == "act Greet"


def test_hello_action_logs_and_returns() -> None:
    """The action runs without a supervisor."""
    context = FakeContext()
    assert hello.Greet("you").execute(context) == "hello, you"
    assert context.said == [("hello", {"name": "you"})]


# --- faulty ---------------------------------------------------------------------------------


@pytest.mark.parametrize("worker", faulty.WORKERS, ids=lambda worker: worker.type_name)
def test_faulty_workers_act_again_and_again(worker: type[Worker]) -> None:
    """Each tries at once, tells how the attempt ended with numbers, and tries again later."""
    kind = type(faulty.ATTEMPTS[worker.type_name])
    config = faulty.FaultyConfig(every_s=3.0)
    bad = result(kind, "timed_out", ran_s=2.0)

    def at(state: type[State], **given: Any) -> tuple[str, str]:
        return told(worker, snapshot(state, config, worker_type=worker.type_name, **given))

    assert at(faulty.Stopped) == ("go running", "trying every 3 s")
    assert at(faulty.Running) == (f"act {kind.__name__}", "first attempt")
    assert at(faulty.Running, results=[bad])[0] == "go degraded"
    waiting = at(faulty.Degraded, results=[bad], ago_s=0.4)
    assert waiting == ("stay", "last attempt timed_out after 2.0 s, next in 3 s")
    assert at(faulty.Degraded, results=[bad], ago_s=3.1)[0] == f"act {kind.__name__}"
    assert at(faulty.Degraded, results=[result(kind)])[0] == "go running"


def test_faulty_reason_tells_the_error() -> None:
    """What an action raised is in the reason."""
    bad = result(faulty.Fail, "failed", error=ActionError("ValueError", "no"), ran_s=0.004)
    snap = snapshot(
        faulty.Degraded, faulty.FaultyConfig(), worker_type="fails", results=[bad], ago_s=1.0
    )
    reason = "last attempt failed after 4 ms (ValueError: no), next in 2 s"
    assert told(faulty.Fails, snap) == ("stay", reason)
    with pytest.raises(ValueError, match=r"cannot read sensor"):
        faulty.Fail().execute(FakeContext())


@pytest.mark.proc
@pytest.mark.parametrize(("kind", "code"), [("Segfault", -signal.SIGSEGV), ("Exit", 3)])
def test_faulty_actions_die_as_told(kind: str, code: int) -> None:
    """Segfault dies of SIGSEGV, Exit leaves with 3."""
    with _python(RUN_FAULTY, kind) as process:
        assert process.wait(WAIT_S) == code


@pytest.mark.proc
@pytest.mark.parametrize("kind", ["Hang", "HangInC"])
def test_faulty_actions_hang_until_killed(kind: str) -> None:
    """A hanging action says so, is still there, and goes with SIGKILL."""
    with _python(RUN_FAULTY, kind) as process:
        assert "for ever" in _line_of(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()
        assert process.wait(WAIT_S) == -signal.SIGKILL


# --- converter: decisions -------------------------------------------------------------------


def _derive(variables: dict[str, Any] | None = None, **config: Any) -> DesiredState:
    internal = {"id": "site/bridge", "location_path": "ACME.Factory-1.Line-A.Cell-5"}
    bundle = VariableBundle(user=variables or {}).with_internal(internal)
    given = {"name": "Factory-PLC", "folder": "f", **config}
    return converter.ProtocolConverter().derive_desired_state(UserSpec(given, bundle))


def test_converter_declares_three_children_with_inherited_variables() -> None:
    """Each child renders address and topic from what it inherits and from its own name."""
    desired = _derive()
    assert [child.name for child in desired.children] == ["connection", "source_flow", "sink_flow"]
    assert [child.depends_on for child in desired.children] == [(), *[("connection",)] * 2]
    assert [child.state_mapping["active"] for child in desired.children] == [
        "up", "running", "running",
    ]  # fmt: skip
    assert {child.state_mapping["idle"] for child in desired.children} == {"stopped"}
    above = VariableBundle(user={"IP": "192.168.1.100", "PORT": 502})
    spec = desired.children[1].user_spec
    bundle = above.for_child(spec.variables, {"location_path": "ACME.Factory-1.Line-A.Cell-5"})
    assert UserSpec(spec.config, bundle).decode(flows.SourceConfig) == flows.SourceConfig(
        address="192.168.1.100:502",
        topic="umh.v1.ACME.Factory-1.Line-A.Cell-5.Factory-PLC_read",
        folder="f",
    )


def test_converter_without_delivery_has_no_sink() -> None:
    """A child is declared only when the config asks for it."""
    assert [c.name for c in _derive(deliver=False).children] == ["connection", "source_flow"]
    assert _derive(state="idle").state == "idle"


def _children(**phases: Phase) -> ChildrenView:
    return ChildrenView(
        tuple(
            ChildInfo(name, f"site/w/{name}", name, str(phase), phase, "")
            for name, phase in phases.items()
        )
    )


def test_converter_phases_follow_its_children() -> None:
    """Starting until all run, degraded while one does not, stopped when idle and all are."""
    run, stop, poor = Phase.RUNNING, Phase.STOPPED, Phase.DEGRADED
    all_run = _children(connection=run, source_flow=run, sink_flow=run)
    one_poor = _children(connection=run, source_flow=poor, sink_flow=run)
    none_run = _children(connection=stop, source_flow=stop, sink_flow=stop)

    def at(state: type[State], desired: str, children: ChildrenView, **stop: bool) -> str:
        snap = snapshot(state, None, desired, children=children, stop=stop)
        return told(converter.ProtocolConverter, snap)[0]

    c = converter
    assert at(c.ConverterStopped, "active", _children()) == "go converter_starting"
    assert at(c.ConverterStopped, "idle", none_run) == "stay"
    assert at(c.ConverterStarting, "active", _children()) == "stay"
    assert at(c.ConverterStarting, "active", none_run) == "stay"
    assert at(c.ConverterStarting, "active", all_run) == "go converter_running"
    assert at(c.ConverterRunning, "active", all_run) == "stay"
    assert at(c.ConverterRunning, "active", one_poor) == "go converter_degraded"
    assert at(c.ConverterDegraded, "active", one_poor) == "stay"
    assert at(c.ConverterDegraded, "active", all_run) == "go converter_running"
    for state in (c.ConverterStarting, c.ConverterRunning, c.ConverterDegraded):
        assert at(state, "idle", all_run) == "go converter_stopping"
        assert at(state, "active", all_run, shutdown=True) == "go converter_stopping"
    assert at(c.ConverterStopping, "idle", one_poor) == "stay"
    assert at(c.ConverterStopping, "idle", none_run) == "go converter_stopped"
    assert at(c.ConverterStopping, "active", one_poor, disabled=True) == "go converter_stopped"
    assert at(c.ConverterStopping, "active", none_run) == "go converter_stopped"
    reason = told(c.ProtocolConverter, snapshot(c.ConverterDegraded, None, children=one_poor))[1]
    assert reason == "2 of 3 run: source_flow is degraded"


def test_connection_follows_its_probe() -> None:
    """Starting until reached once, up while it is, degraded when lost."""
    config = converter.ConnectionConfig("h:1")

    def at(state: type[State], reachable: bool) -> str:
        status = converter.Reachability(reachable, 1.5, "" if reachable else "refused")
        return told(converter.Connection, snapshot(state, config, "up", status=status))[0]

    assert at(converter.ConnectionStopped, False) == "go connection_connecting"
    assert at(converter.ConnectionConnecting, False) == "stay"
    assert at(converter.ConnectionConnecting, True) == "go connection_up"
    assert at(converter.ConnectionUp, True) == "stay"
    assert at(converter.ConnectionUp, False) == "go connection_lost"
    assert at(converter.ConnectionLost, False) == "stay"
    assert at(converter.ConnectionLost, True) == "go connection_up"


@pytest.mark.parametrize(
    ("worker", "config"),
    [
        (flows.SourceFlow, flows.SourceConfig("h:1", "t", "f")),
        (flows.SinkFlow, flows.SinkConfig("f")),
    ],
)
def test_flow_moves_batches_again_and_again(worker: type[Worker], config: Any) -> None:
    """Running after the first batch, pausing only when there was nothing to move, degraded
    after three failures in a row, running again after one success."""
    kind = type(config.batch())
    act = f"act {kind.__name__}"
    full, empty = (result(kind, value=flows.Moved(n, 7)) for n in (7, 0))
    failed = result(kind, "failed", error=ActionError("OSError", "refused"))

    def at(state: type[State], **given: Any) -> str:
        status = flows.FlowStatus(stored=9, delivered=7)
        return told(worker, snapshot(state, config, status=status, **given))[0]

    assert at(flows.FlowStopped) == "go flow_starting"
    assert at(flows.FlowStarting) == act
    assert at(flows.FlowStarting, results=[empty], ago_s=50.0) == "go flow_running"
    before = "a result of an earlier start does not count"
    assert at(flows.FlowStarting, results=[full], ago_s=101.0) == act, before
    assert at(flows.FlowRunning, results=[full]) == act
    assert at(flows.FlowRunning, results=[empty], ago_s=0.1) == "stay"
    assert at(flows.FlowRunning, results=[empty], ago_s=0.6) == act
    for count, form in ((2, act), (3, "go flow_degraded")):
        failures = {kind.__name__: count}
        assert at(flows.FlowRunning, results=[failed], failures=failures) == form
    failures = {kind.__name__: 4}
    assert at(flows.FlowDegraded, results=[failed], failures=failures) == act
    assert at(flows.FlowDegraded, results=[full]) == "go flow_running"
    snap = snapshot(flows.FlowDegraded, config, results=[failed], failures=failures)
    assert told(worker, snap)[1] == "4 batches failed in a row, the last failed: OSError: refused"


@pytest.mark.parametrize("address", ["", "h", ":1", "h:", "h:0", "h:65536", "h:x", "h:١"])
def test_unusable_address_is_refused(address: str) -> None:
    """An address that cannot be connected to is a config error, not an action's failure."""
    with pytest.raises(ValueError, match="want HOST:PORT with port 1 to 65535"):
        flows.split_address(address)
    assert flows.split_address("[::1]:5020") == ("::1", 5020)


# --- record files ---------------------------------------------------------------------------


def _records(first: int, last: int) -> list[recordfile.Record]:
    return [recordfile.Record(seq, device.value_of(seq)) for seq in range(first, last + 1)]


def test_torn_line_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    """A file cut at any byte goes on after its last whole record."""
    path = tmp_path / "r"
    recordfile.append(path, _records(1, 3))
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert recordfile.last_seq(path) == whole[:cut].count(b"\n")
        recordfile.append(path, _records(1, 3))
        assert path.read_bytes() == whole


def test_torn_line_longer_than_the_tail_is_cut_off(tmp_path: Path) -> None:
    """However much was torn, the last whole record is found."""
    path = tmp_path / "r"
    recordfile.append(path, _records(1, 2))
    with path.open("ab") as file:
        file.write(b"x" * (recordfile.TAIL_BYTES * 2 + 7))
    assert recordfile.append(path, _records(1, 3)) == 1
    assert [record.seq for record in recordfile.read_after(path, 0, 9)] == [1, 2, 3]


def test_gap_and_garbage_are_refused(tmp_path: Path) -> None:
    """A number that is missing is an error that names it, never a silent hole."""
    path = tmp_path / "r"
    with pytest.raises(ValueError, match="cannot append to r: got record 2, want 1"):
        recordfile.append(path, _records(2, 3))
    path.write_bytes(b"what\n")
    with pytest.raises(ValueError, match="cannot read record from"):
        recordfile.last_seq(path)


def test_drop_keeps_the_record_the_source_goes_on_from(tmp_path: Path) -> None:
    """After a drop the file still says how far it has come."""
    path = tmp_path / "r"
    recordfile.append(path, _records(1, 9))
    recordfile.drop_before(path, 9)
    assert [record.seq for record in recordfile.read_after(path, 0, 9)] == [9]
    assert recordfile.append(path, _records(8, 11)) == 2


def test_delivered_records_leave_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool does not grow for ever, and the output does not notice."""
    monkeypatch.setattr(flows, "COMPACT_RECORDS", 20)
    spool, output = tmp_path / "spool.jsonl", tmp_path / "records.jsonl"
    for begin in range(1, 200, 10):
        recordfile.append(spool, _records(begin, begin + 9))
        flows.DeliverRecords(str(tmp_path)).execute(FakeContext())
        assert len(recordfile.read_after(spool, 0, 999)) <= 40
    assert recordfile.read_after(output, 0, 999) == _records(1, 200)


def test_full_spool_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source whose sink stands still stops before the disk is full."""
    monkeypatch.setattr(flows, "SPOOL_BYTES_MAX", 10)
    recordfile.append(tmp_path / "spool.jsonl", _records(1, 3))
    with pytest.raises(OSError, match="cannot store: spool has"):
        flows.FetchRecords("127.0.0.1:1", "t", str(tmp_path)).execute(FakeContext())


# --- with a real device ---------------------------------------------------------------------


@contextlib.contextmanager
def _python(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``code``; killed at the end if it is still there."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _line_of(process: subprocess.Popen[str], wait_s: float = WAIT_S) -> str:
    """The process's next line; fails when it does not come in time."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], wait_s)[0], "no line in time"
    return process.stdout.readline().strip()


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device with a backlog of 2,000 records (or the parameter's arguments)."""
    arguments = getattr(request, "param", ["--rate", "0", "--backlog", "2000"])
    parent = ["--parent-pid", str(os.getpid())]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fsmv2.examples.device", *parent, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield _line_of(process).removeprefix("device listening on ")
        process.terminate()
        assert process.wait(WAIT_S) == 0


def _exchange(address: str, text: bytes) -> list[bytes]:
    with socket.create_connection(flows.split_address(address), timeout=WAIT_S) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").readlines()


@pytest.mark.proc
def test_device_answers_its_protocol(address: str) -> None:
    """Records come in order after the number asked for; nonsense gets an error and the next
    line its answer."""
    lines = _exchange(address, b"READ 3 2\nREAD 1999 5\nREAD 2000 5\n")
    assert lines == [
        device.record_line(4), device.record_line(5), b"END\n", device.record_line(2000),
        b"END\n", b"END\n",
    ]  # fmt: skip
    for wrong in (b"WHAT\n", b"READ x 1\n", b"READ -1 1\n", b"READ 1 0\n", b"\xff\n"):
        lines = _exchange(address, wrong + b"READ 0 1\n")
        assert lines[0].startswith(b"ERROR want READ")
        assert lines[1:] == [device.record_line(1), b"END\n"]
    assert _exchange(address, b"x" * 100_000 + b"\n") == []
    assert json.loads(device.record_line(7)) == {"seq": 7, "value": device.value_of(7)}


@pytest.mark.proc
@pytest.mark.parametrize("address", [["--rate", "50"]], indirect=True)
def test_device_records_at_its_rate(address: str) -> None:
    """A device without backlog has new records as time passes."""
    until = time.monotonic() + WAIT_S
    while len(lines := _exchange(address, b"READ 0 1000\n")) < 4:
        assert time.monotonic() < until, "no records in time"
    assert lines[:3] == [device.record_line(seq) for seq in (1, 2, 3)]


@pytest.mark.proc
def test_device_dies_with_its_parent() -> None:
    """A device told its parent's pid outlives it by nothing."""
    code = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-P", "-m", "fsmv2.examples.device",
                          "--parent-pid", str(os.getpid())], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
os.read(0, 1)
"""
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    with parent:
        watched = os.pidfd_open(int(_line_of(parent)))
        try:
            parent.kill()
            assert select.select([watched], [], [], WAIT_S)[0], "the device lives on"
        finally:
            os.close(watched)


@pytest.mark.proc
@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "256.1.1.1:1"])
def test_device_refuses_a_wrong_address(listen: str) -> None:
    """A device that cannot listen says why and leaves."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fsmv2.examples.device", "--listen", listen],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("cannot listen on")
    assert "Traceback" not in done.stderr


@pytest.mark.proc
def test_probe_tells_reachable_from_not(address: str) -> None:
    """A probe of a closed port or a name that is none is an observation with a reason."""
    got = converter.ProbeAddress(address).execute(FakeContext())
    assert got.reachable
    assert got.connect_ms > 0
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        lost = converter.ProbeAddress(f"127.0.0.1:{port}").execute(FakeContext())
    assert lost == converter.Reachability(False, why="Connection refused")
    assert not converter.ProbeAddress(f"{'x' * 70}..:1").execute(FakeContext()).reachable


@pytest.mark.proc
def test_flows_move_every_record_once(address: str, tmp_path: Path) -> None:
    """Batch by batch, all 2,000 records arrive with their topic, and counts agree."""
    fetch = flows.FetchRecords(address, "umh.v1.x", str(tmp_path))
    deliver = flows.DeliverRecords(str(tmp_path))
    assert fetch.execute(FakeContext()) == flows.Moved(100, 100)
    assert deliver.execute(FakeContext()) == flows.Moved(100, 100)
    assert deliver.execute(FakeContext()) == flows.Moved(0, 100)
    while fetch.execute(FakeContext()).records:
        deliver.execute(FakeContext())
    counts = flows.CountRecords(str(tmp_path)).execute(FakeContext())
    assert (counts.stored, counts.delivered) == (2000, 2000)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"seq": seq, "value": device.value_of(seq), "topic": "umh.v1.x"} for seq in range(1, 2001)
    ]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b'{"seq": 1, "value": 1.0}\n', "hung up after 1 records"),
        (b'{"seq": 1, "val', "hung up after 0 records"),
        (b"ERROR no\nEND\n", "cannot read record from device"),
        (b'{"seq": 2, "value": 1.0}\nEND\n', "got record 2, want 1"),
        (b'{"seq": 1, "value": 1.0}\n' * 4 + b"END\n", "sent over 3 records"),
    ],
)
def test_half_and_wrong_answers_store_nothing(reply: bytes, error: str, tmp_path: Path) -> None:
    """What a broken device sends never reaches the spool."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        # Connecting needs no accept, and the answer waits in the socket's buffer.
        client = socket.create_connection
        opened: list[socket.socket] = []

        def connect(*given: Any, **options: Any) -> socket.socket:
            connection = client(*given, **options)
            accepted, _ = server.accept()
            accepted.sendall(reply)
            accepted.shutdown(socket.SHUT_WR)
            opened.append(accepted)
            return connection

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "create_connection", connect)
            fetch = flows.FetchRecords(address, "t", str(tmp_path), most=3)
            with pytest.raises((OSError, ValueError), match=error):
                fetch.execute(FakeContext())
        for one in opened:
            one.close()
    assert recordfile.last_seq(tmp_path / "spool.jsonl") == 0


# Runs both flows for ever in one process; flows.COMPACT_RECORDS is small so that drops happen.
KILLED = """
import sys
from fsmv2.examples import flows
flows.COMPACT_RECORDS = 30
address, folder = sys.argv[1:]
print("ready", flush=True)
while True:
    flows.FetchRecords(address, "t", folder, most=7).execute(None)
    flows.DeliverRecords(folder, most=5).execute(None)
"""


@pytest.mark.proc
@pytest.mark.timeout(240)
def test_no_record_is_lost_or_doubled_by_kills(address: str, tmp_path: Path) -> None:
    """After 30 SIGKILLs at random moments the output is the device's records from 1 on, each
    once, in order, unaltered; and the flows then finish what is left."""
    seed = random.randrange(1 << 32)
    moment = random.Random(seed)
    for _ in range(30):
        with _python(KILLED, address, str(tmp_path)) as process:
            assert _line_of(process) == "ready"
            with pytest.raises(subprocess.TimeoutExpired):
                # Not to wait for something: the kill has to come at a random moment.
                process.wait(moment.uniform(0.0, 0.06))
            process.kill()
        seqs = [one.seq for one in recordfile.read_after(tmp_path / "records.jsonl", 0, 10_000)]
        assert seqs == list(range(1, len(seqs) + 1)), f"seed {seed}"
    fetch = flows.FetchRecords(address, "t", str(tmp_path))
    while fetch.execute(FakeContext()).records:
        pass
    while flows.DeliverRecords(str(tmp_path)).execute(FakeContext()).records:
        pass
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line) for line in lines] == [
        {"seq": seq, "value": device.value_of(seq), "topic": "t"} for seq in range(1, 2001)
    ], f"seed {seed}"


# Forks an attempt per line of code that the two actions execute, and has it kill itself just
# before that line; then runs one to its end, so that the spool stays short and so does the
# number of lines. Writes are short too, so that many of those lines lie between two halves.
KILLED_AT_EACH_LINE = """
import os, signal, sys
from fsmv2.examples import flows, recordfile
flows.COMPACT_RECORDS = 3
address, folder = sys.argv[1:]
files = {flows.__file__, recordfile.__file__}
write = os.write

def attempt(lines_left):
    def trace(frame, event, argument):
        nonlocal lines_left
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines_left -= 1
            if lines_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    os.write = lambda descriptor, data: write(descriptor, data[: len(data) // 2 or 1])
    sys.settrace(trace if lines_left else None)
    flows.FetchRecords(address, "t", folder, most=2).execute(None)
    flows.DeliverRecords(folder, most=9).execute(None)
    os._exit(0)

def end_of_attempt(lines_left):
    child = os.fork()
    if child == 0:
        try:
            attempt(lines_left)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]

line = 1
while end_of_attempt(line) == signal.SIGKILL:
    assert end_of_attempt(0) == 0
    line += 1
print(line, flush=True)
"""


@pytest.mark.proc
@pytest.mark.timeout(240)
def test_a_kill_before_any_line_loses_and_doubles_nothing(address: str, tmp_path: Path) -> None:
    """One attempt after the other is killed a line later than the one before, on the same
    files; what is delivered is the device's records from 1 on, each once."""
    with _python(KILLED_AT_EACH_LINE, address, str(tmp_path)) as process:
        lines = int(_line_of(process, wait_s=200.0))
    assert lines > 100, "the trace saw the actions"
    seqs = [one.seq for one in recordfile.read_after(tmp_path / "records.jsonl", 0, 10_000)]
    assert len(seqs) > 20
    assert seqs == list(range(1, len(seqs) + 1))
    stored = recordfile.read_after(tmp_path / "spool.jsonl", 0, 10_000)
    assert [one.value for one in stored] == [device.value_of(one.seq) for one in stored]
