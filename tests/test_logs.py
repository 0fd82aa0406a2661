"""What the log promises: one line per event, bounded, escaped, never waited for."""

from __future__ import annotations

import json
import logging
import os
import pty
import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import structlog

from fsmv2.supervisor import Secret
from fsmv2.supervisor.core import events as ev
from fsmv2.supervisor.core.action import DeathCertificate
from fsmv2.supervisor.core.workevents import OutsideActionEnded
from fsmv2.supervisor.telemetry import logs
from fsmv2.supervisor.telemetry.loglines import (
    LINE_BYTES_MAX,
    escape,
    json_line,
    timestamp,
)
from fsmv2.supervisor.telemetry.logsentences import seconds, sentence_of
from fsmv2.supervisor.telemetry.telemetry import EVENT_BODY_BYTES_MAX, Telemetry

NOON = 1_700_000_000.123
STACK = (
    "Thread 0x1 (most recent call first):\n"
    '  File "idle.py", line 1 in wait\n'
    "Current thread 0x2 (most recent call first):\n"
    '  File "guilty.py", line 7 in hang\n'
    '  File "main.py", line 9 in run\n'
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    yield read_fd, write_fd
    logs.release_stdlib()
    structlog.reset_defaults()
    os.close(read_fd)
    os.close(write_fd)


def _changed(**fields: Any) -> ev.StateChanged:
    base: dict[str, Any] = {
        "path": "site/bridge",
        "from_state": "starting",
        "to_state": "running",
        "phase": "running",
        "reason": "both flows run",
        "generation": 1,
    }
    return ev.StateChanged(**{**base, **fields})


def _ended(**fields: Any) -> ev.ActionEnded:
    base: dict[str, Any] = {
        "path": "site/bridge",
        "action_type": "Hang",
        "attempt_id": 7,
        "status": "timed_out",
        "verdict": "timed_out",
        "queued_s": 0.0,
        "ran_s": 1.5,
    }
    return ev.ActionEnded(**{**base, **fields})


def _logged(record: str = "hello", **fields: Any) -> ev.ActionLogged:
    return ev.ActionLogged(
        path="a", action_type="X", attempt_id=1, record_level="info", record=record, fields=fields
    )


def _lines(pipe: tuple[int, int]) -> list[bytes]:
    data = b""
    try:
        while part := os.read(pipe[0], 1 << 16):
            data += part
    except BlockingIOError:
        pass
    return data.splitlines(keepends=True)


def _records(pipe: tuple[int, int]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(pipe)]


def _json_sink(pipe: tuple[int, int], level: ev.Level = "debug") -> logs.LogSink:
    logs.configure("json", level, pipe[1], clock=lambda: NOON)
    return logs.LogSink()


def _console_sink(pipe: tuple[int, int]) -> logs.LogSink:
    logs.configure("console", "debug", pipe[1], clock=lambda: NOON)
    return logs.LogSink()


def every_event() -> list[ev.Event]:
    """One of each event, its fields made up from their types."""
    made: dict[Any, Any] = {str: "text", int: 3, float: 0.5, bool: True, tuple[str, ...]: ("x",)}

    def value(kind: Any) -> Any:
        if kind in made:
            return made[kind]
        return {"k": 1} if "dict" in str(kind) else None

    found = []
    for kind in ev.Event.__subclasses__():
        hints = {f.name: f.type for f in msgspec.structs.fields(kind)}
        found.append(kind(**{name: value(hint) for name, hint in hints.items()}))
    return found


def test_an_event_is_one_json_line_with_time_level_name_and_fields(
    pipe: tuple[int, int],
) -> None:
    """The record begins with the three fields every reader needs; the time is UTC in ms."""
    _json_sink(pipe).emit(_changed(), tick=4)
    line = _lines(pipe)[0]
    assert line.startswith(
        b'{"timestamp":"2023-11-14T22:13:20.123Z","level":"info","event":"state_changed"'
    )
    assert json.loads(line)["tick"] == 4
    assert json.loads(line)["reason"] == "both flows run"


@pytest.mark.parametrize("format_", ["json", "console"])
def test_every_event_gives_exactly_one_line(pipe: tuple[int, int], format_: logs.Format) -> None:
    """No event is lost, none needs two records (those with a stack or a traceback aside)."""
    logs.configure(format_, "debug", pipe[1])
    for event in every_event():
        if hasattr(event, "traceback"):
            event = msgspec.structs.replace(event, traceback="")  # type: ignore[call-arg]
        logs.LogSink().emit(event)
        assert len(_lines(pipe)) == 1, event
    assert logs.dropped_lines() == 0


@pytest.mark.parametrize("event", every_event(), ids=lambda event: type(event).__name__)
def test_every_event_has_a_sentence_of_its_own(event: ev.Event) -> None:
    """People do not read key=value: no event falls through to the last resort."""
    words = sentence_of(event)
    assert words.subject
    assert not words.text.startswith(event.name())


def test_events_below_the_level_cost_no_line(pipe: tuple[int, int]) -> None:
    sink = _json_sink(pipe, "warning")
    sink.emit(_changed())
    sink.emit(_changed(phase="degraded"))
    assert [r["level"] for r in _records(pipe)] == ["warning"]


def test_lines_of_procs_show_at_debug_only(pipe: tuple[int, int]) -> None:
    output = ev.ProcOutput(slot="w1", line="printed")
    _json_sink(pipe, "info").emit(output)
    assert _lines(pipe) == []
    _json_sink(pipe, "debug").emit(output)
    assert _records(pipe)[0]["line"] == "printed"


def test_empty_fields_are_left_out(pipe: tuple[int, int]) -> None:
    _json_sink(pipe).emit(_ended(error=None, traceback=""))
    assert {"error", "traceback", "certificate"} & _records(pipe)[0].keys() == set()


def test_a_death_is_logged_with_its_certificate_and_then_its_stack(
    pipe: tuple[int, int],
) -> None:
    """The facts are in the first record; the stack cannot push them out of it."""
    certificate = DeathCertificate(
        verdict="timed_out",
        signal="SIGKILL",
        sent_by="the pool, at the deadline",
        exit_code=None,
        cpu_s=0.25,
        peak_memory_bytes=1 << 20,
        stack=STACK,
    )
    _json_sink(pipe).emit(_ended(certificate=certificate))
    ended, stack, other = _records(pipe)
    assert ended["level"] == "warning"
    assert ended["signal"] == "SIGKILL"
    assert ended["sent_by"] == "the pool, at the deadline"
    assert ended["cpu_s"] == 0.25
    assert ended["peak_memory_bytes"] == 1 << 20
    assert "exit_code" not in ended
    assert "stack" not in ended
    assert stack["event"] == other["event"] == "death_stack"
    assert stack["attempt_id"] == 7
    assert stack["frames"][1] == 'File "guilty.py", line 7 in hang'
    assert (stack["thread"], other["thread"], other["threads"]) == (1, 2, 2)
    assert other["frames"][1] == 'File "idle.py", line 1 in wait'


@pytest.mark.parametrize(
    "event",
    [
        ev.ObservationFailed(
            path="a/b", action_type="Look", status="timed_out", verdict="timed_out", error=None,
            retry_in_s=1.0, attempt_id=7,
        ),
        OutsideActionEnded(
            path="a/b", action_type="Poke", ticket=1, attempt_id=7, status="timed_out",
            verdict="timed_out", waited_s=0.0, ran_s=1.0,
        ),
    ],
)  # fmt: skip
def test_other_deaths_than_those_of_actions_leave_their_evidence_too(
    pipe: tuple[int, int], event: ev.Event
) -> None:
    certificate = DeathCertificate(
        verdict="timed_out", signal="SIGKILL", stack=STACK, log_tail=("asking",)
    )
    died = msgspec.structs.replace(event, certificate=certificate)
    _json_sink(pipe).emit(died)
    _console_sink(pipe).emit(died)
    facts, stack, tail, _, *shown = _lines(pipe)
    assert b'"signal":"SIGKILL"' in facts
    assert b'"attempt_id":7' in facts
    assert b"guilty.py" in stack
    assert b"asking" in tail
    text = b"".join(shown).decode()
    assert f"{event.action_type} #7" in text  # type: ignore[attr-defined]
    assert "SIGKILL" in text
    assert "guilty.py" in text
    assert "asking" in text


def test_of_many_deaths_the_facts_come_first_and_other_threads_last(pipe: tuple[int, int]) -> None:
    """A reader that is a little slow misses what is written last."""
    idle = "".join(f'  File "idle.py", line {n} in wait\n' for n in range(40))
    stack = f"Thread 0x1 (most recent call first):\n{idle}" * 20 + STACK
    certificate = DeathCertificate(verdict="timed_out", stack=stack, log_tail=("asking",))
    batch = [(_ended(attempt_id=n, certificate=certificate), {"n": n}) for n in range(10)]
    _json_sink(pipe).emit_all(batch)
    records = _records(pipe)
    assert [each["event"] for each in records[:10]] == ["action_ended"] * 10
    assert [each["n"] for each in records[:10]] == list(range(10))
    firsts = records[10:30]
    assert [each["event"] for each in firsts] == ["death_stack", "death_log_tail"] * 10
    assert all("guilty.py" in each["frames"][1] for each in firsts[::2])
    assert firsts[0]["threads"] == 22
    others = records[30:]
    assert 0 < sum(len(json.dumps(each)) for each in others) <= 1.1 * logs.OTHERS_BYTES_MAX
    assert {each["thread"] for each in others} <= set(range(2, 9))


def test_the_console_shows_the_guilty_thread_only(pipe: tuple[int, int]) -> None:
    deep = "".join(f'  File "deep.py", line {n} in f\n' for n in range(50))
    for stack, frames in ((STACK + deep, 12), (STACK + "Thread 0x3 (most recent):\n" + deep, 3)):
        _console_sink(pipe).emit(_ended(certificate=DeathCertificate(verdict="x", stack=stack)))
        _, head, *lines = [line.decode() for line in _lines(pipe)]
        assert "#7 x, it was at (1 of " in head
        assert len(lines) == frames
        assert not any("idle.py" in line for line in lines)
        assert ("deep.py" in lines[-1]) == (frames == 12)
        assert all(line.startswith(" " * 15) for line in lines)


def test_the_console_shows_the_last_words_under_the_stack(pipe: tuple[int, int]) -> None:
    words = tuple(f"step {n}" for n in range(20))
    _console_sink(pipe).emit(_ended(certificate=DeathCertificate(verdict="x", log_tail=words)))
    _, head, *lines = [line.decode().strip() for line in _lines(pipe)]
    assert head.endswith("#7 x, it printed last")
    assert lines == list(words[-12:])


@pytest.mark.parametrize("base", ["/runbooks/", "https://wiki.example/"])
def test_trouble_is_told_with_where_to_read_on(pipe: tuple[int, int], base: str) -> None:
    """In the log and to who listens: with warnings and errors that have a runbook, no others."""
    told: list[dict[str, Any]] = []
    metrics: Any = SimpleNamespace(observe=lambda event: None)
    telemetry = Telemetry(metrics, (), base)
    telemetry.publish = lambda _topic, body: told.append(json.loads(body)) is None
    logs.configure("json", "debug", pipe[1], clock=lambda: NOON)
    telemetry(ev.ChildrenRefused(path="site", error="twice"))
    telemetry(ev.TickSlow(duration_s=1.0, interval_s=0.1))
    telemetry(_changed())
    telemetry.flush()

    links = [f"{base}children-refused.md", f"{base}reconcile-slow.md", None]
    assert [record.get("runbook") for record in _records(pipe)] == links
    assert [event.get("runbook") for event in told] == links


def test_a_proc_that_never_came_has_no_pid_and_no_channel_to_lose() -> None:
    event = ev.ProcEnded(slot="p4", pid=0, verdict="lost_channel", expected=False)
    assert sentence_of(event).text == "was ordered and never came: its template ended first"


def test_the_cause_of_a_kill_is_told_once() -> None:
    cause = "its 1.5 s were over"
    told = DeathCertificate(
        verdict="timed_out", signal="SIGKILL", sent_by=f"the root: {cause}", detail=cause
    )
    assert sentence_of(_ended(certificate=told)).text.count(cause) == 1


def test_an_event_that_is_too_long_for_who_listens_is_cut_and_says_so() -> None:
    """It is not missing: its head, short fields and the beginning of long ones are there."""
    told: list[bytes] = []
    metrics: Any = SimpleNamespace(observe=lambda event: None)
    telemetry = Telemetry(metrics, ())
    telemetry.publish = lambda _topic, body: told.append(body) is None
    long = DeathCertificate(verdict="x", stack="frame\n" * 20_000, log_tail=("tail " * 2_000,) * 50)
    telemetry(_ended(certificate=long))
    telemetry.flush()

    (body,) = told
    event = json.loads(body)
    assert len(body) <= EVENT_BODY_BYTES_MAX
    assert (event["seq"], event["event"], event["cut"]) == (1, "action_ended", True)
    assert event["stack"].startswith("frame\nframe")
    assert event["path"]


def test_of_a_stack_that_is_too_long_who_listens_gets_the_guilty_thread() -> None:
    """It is the last of a dump, and what is cut is the end."""
    told: list[bytes] = []
    metrics: Any = SimpleNamespace(observe=lambda event: None)
    telemetry = Telemetry(metrics, ())
    telemetry.publish = lambda _topic, body: told.append(body) is None
    idle = "Thread 0x1 (most recent call first):\n" + '  File "idle.py", line 1 in wait\n' * 90
    telemetry(_ended(certificate=DeathCertificate(verdict="x", stack=idle * 40 + STACK)))
    telemetry.flush()

    stack = json.loads(told[0])["stack"]
    assert stack.startswith("Current thread 0x2")
    assert "guilty.py" in stack
    assert "idle.py" in stack


def test_the_console_says_which_runbook_helps_with_an_error(pipe: tuple[int, int]) -> None:
    sink = _console_sink(pipe)
    sink.emit(ev.ChildrenRefused(path="site", error="twice"), runbook="/runbooks/x-y.md")
    sink.emit(ev.TickSlow(duration_s=1.0, interval_s=0.1), runbook="/runbooks/slow.md")
    text = "\n".join(line.decode() for line in _lines(pipe))

    assert "what to do: fsmv2 runbook x-y" in text
    assert "slow.md" not in text


def test_the_console_line_reads_aloud(pipe: tuple[int, int]) -> None:
    """Time, name, what happened; no colours when it is no terminal."""
    _console_sink(pipe).emit(_changed())
    line = _lines(pipe)[0].decode()
    assert line.endswith(".123   site/bridge   starting -> running  both flows run\n")
    assert "\x1b" not in line


def test_names_are_aligned_once_a_long_one_was_seen(pipe: tuple[int, int]) -> None:
    sink = _console_sink(pipe)
    sink.emit(_changed(path="site/a-rather-long-name"))
    sink.emit(_changed(path="site/short"))
    first, second = (line.decode().index("starting") for line in _lines(pipe))
    assert first == second


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("evil", ["\n", "\r", "\x1b[2J", "\x9b31m", "\u2028", "\u202e", "\ud800"])
def test_no_value_reaches_the_terminal_as_a_control(
    pipe: tuple[int, int], format_: logs.Format, evil: str
) -> None:
    """What a device or an attacker put into a text can neither break a line nor paint."""
    logs.configure(format_, "debug", pipe[1])
    logs.LogSink().emit(_changed(reason=f"a{evil}b", path=f"p{evil}"))
    logs.LogSink().emit(_logged(f"r{evil}", **{f"k{evil}": f"v{evil}"}))
    lines = _lines(pipe)
    assert len(lines) == 2
    for line in lines:
        assert evil not in line.decode()[:-1]
        if format_ == "json":
            assert json.loads(line)["event"]


def test_a_secret_shows_as_a_secret(pipe: tuple[int, int]) -> None:
    for sink in (_json_sink(pipe), _console_sink(pipe)):
        sink.emit(_logged(token=Secret("hunter22"), nested=[Secret("hunter22")]))
        line = _lines(pipe)[0].decode()
        assert "hunter22" not in line
        assert line.count("Secret(…)") == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x" * 50_000},
        {"text": "é\n" * 5_000, "other": "y" * 5_000},
        {f"key{n}": n for n in range(2_000)},
        {"k" * 6_000: 1},
        {"items": ["z" * 40] * 1_000},
        {"deep": [[["w" * 900] * 3] * 3] * 3},
    ],
    ids=["string", "unicode", "many", "key", "list", "deep"],
)
@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_line_is_never_longer_than_a_pipe_takes_at_once(
    pipe: tuple[int, int], format_: logs.Format, fields: dict[str, Any]
) -> None:
    """4096 bytes with the line's end; a cut JSON record says so and is still JSON."""
    logs.configure(format_, "debug", pipe[1])
    logs.LogSink().emit(_logged("said", **fields))
    (line,) = _lines(pipe)
    assert len(line) <= LINE_BYTES_MAX
    if format_ == "json":
        record = json.loads(line)
        assert record["cut"] is True
        assert record["event"] == "action_logged"


def test_the_longest_string_is_cut_and_the_short_ones_stay() -> None:
    record = json.loads(json_line({"event": "e", "short": "s" * 400, "long": "l" * 9_000}))
    assert record["short"] == "s" * 400
    assert record["long"].endswith("…")
    assert len(record["long"]) == 2_000


@pytest.mark.parametrize(
    "value", [2**100, float("nan"), b"\xff", object(), {1: {2: 3}}, {(1, 2): 3}, "\ud800"]
)
def test_no_value_makes_the_log_raise(pipe: tuple[int, int], value: Any) -> None:
    _json_sink(pipe).emit(_logged(value=value))
    assert _records(pipe)[0]["event"] == "action_logged"
    assert logs.dropped_lines() == 0


def test_a_value_with_a_broken_repr_does_not_make_the_log_raise(pipe: tuple[int, int]) -> None:
    broken = type("Broken", (), {"__repr__": lambda _: 1 // 0})
    _json_sink(pipe).emit(_logged(value=broken()))
    assert "Broken" in _records(pipe)[0]["fields"]["value"]


def test_a_full_pipe_drops_lines_and_counts_them(pipe: tuple[int, int]) -> None:
    """A log reader that stands still costs lines, never time."""
    sink = _json_sink(pipe)
    for _ in range(2_000):
        sink.emit(_changed(reason="r" * 200))
    dropped = logs.dropped_lines()
    lines = _lines(pipe)
    assert dropped > 0
    assert len(lines) + dropped == 2_000
    assert all(json.loads(line) for line in lines)
    sink.emit(_changed())
    assert len(_lines(pipe)) == 1


def test_a_stalled_terminal_drops_lines_instead_of_waiting() -> None:
    """A terminal polls as writable with room for half a line: only a descriptor of our own
    makes that harmless, and the shell's stays as it was."""
    main_fd, terminal_fd = pty.openpty()
    try:
        logs.configure("console", "debug", terminal_fd)
        done = threading.Event()

        def flood() -> None:
            for _ in range(5_000):
                logs.LogSink().emit(_changed(reason="r" * 150))
            done.set()

        threading.Thread(target=flood, daemon=True).start()
        assert done.wait(20), "the log waited for a terminal that nobody reads"
        assert logs.dropped_lines() > 0
        assert os.get_blocking(terminal_fd)
        assert b"\x1b[32mstarting" in os.read(main_fd, 4096)
    finally:
        logs.configure("json", "error", 2)
        structlog.reset_defaults()
        os.close(terminal_fd)
        os.close(main_fd)


def test_a_reader_that_has_gone_is_a_dropped_line() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    try:
        logs.configure("json", "debug", write_fd)
        logs.LogSink().emit(_changed())
        assert logs.dropped_lines() == 1
    finally:
        structlog.reset_defaults()
        os.close(write_fd)


def test_library_logs_and_warnings_go_the_same_way(pipe: tuple[int, int]) -> None:
    _json_sink(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.capture_stdlib()
        try:
            logging.getLogger("urllib3").error("retry %s", 2)
            logging.getLogger("odd").info("%d", "not a number")
            try:
                raise ValueError("inner")
            except ValueError:
                logging.getLogger("odd").exception("went wrong")
            warnings.warn("old call", DeprecationWarning, stacklevel=1)
        finally:
            logs.release_stdlib()
    retry, odd, wrong, warned = _records(pipe)
    assert (retry["level"], retry["logger"], retry["message"]) == ("error", "urllib3", "retry 2")
    assert odd["message"] == "%d"
    assert "ValueError: inner" in wrong["traceback"]
    assert "old call" in warned["message"]


def test_release_gives_the_standard_library_back(pipe: tuple[int, int]) -> None:
    _json_sink(pipe)
    logs.capture_stdlib()
    logs.release_stdlib()
    logging.getLogger("after").error("not ours")
    assert _lines(pipe) == []


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0.00042, "0.42 ms"), (0.084, "84 ms"), (1.25, "1.2 s"), (200.0, "3 min 20 s")],
)
def test_durations_read_like_people_say_them(duration_s: float, text: str) -> None:
    assert seconds(duration_s) == text


def test_escape_leaves_plain_text_alone() -> None:
    assert escape("plain ü €") == "plain ü €"
    assert escape("a\tb\x00\u2029") == "a\\tb\\x00\\u2029"
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"


def test_nothing_is_said_before_configure() -> None:
    """Importing or constructing configures nothing."""
    former = logs._writer, logs._rank_min
    logs._writer, logs._rank_min = None, 100
    try:
        logs.LogSink().emit(_changed())
        assert logs.dropped_lines() == 0
    finally:
        logs._writer, logs._rank_min = former
