"""What is told of a death beside its facts, whatever its dump and its last lines are like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.action import DeathCertificate
from fsmv2.supervisor.telemetry.evidence import (
    DUMP_LINES_MAX,
    EVIDENCE_BYTES_MAX,
    THREADS_MAX,
    evidence_of,
    read_dump,
    words_of,
)
from fsmv2.supervisor.telemetry.loglines import LINE_BYTES_MAX, json_line

WHOSE = {"path": "site/bridge", "action_type": "Hang", "attempt_id": 7, "verdict": "timed_out"}
CURRENT = "Current thread 0x2 (most recent call first):"
OTHER = "Thread 0x1 (most recent call first):"


def died(*lines: str, **fields: Any) -> DeathCertificate:
    return DeathCertificate(verdict="timed_out", stack="\n".join(lines), **fields)


def frames(count: int, folder: str = "") -> list[str]:
    return [f'File "{folder}/deep.py", line {number} in sink' for number in range(count)]


@pytest.mark.parametrize(
    ("lines", "threads", "known"),
    [
        ([], [], True),
        (["no such header"], [["no such header"]], True),
        ([OTHER, "a", CURRENT, "g"], [[CURRENT, "g"], [OTHER, "a"]], True),
        (
            ["Fatal Python error: Segmentation fault", "", CURRENT, "  g", "", OTHER, "  a"],
            [["Fatal Python error: Segmentation fault", CURRENT, "g"], [OTHER, "a"]],
            True,
        ),
        # It has the main thread first, and has not asked who runs.
        (
            ["(read from outside: it is stopped)", OTHER, "main", OTHER, "a"],
            [["(read from outside: it is stopped)", OTHER, "main"], [OTHER, "a"]],
            True,
        ),
        # The crash was in a thread that Python knows nothing of; or there are over 100.
        (
            ["Fatal Python error: Segmentation fault", OTHER, "a"],
            [["Fatal Python error: Segmentation fault", OTHER, "a"]],
            False,
        ),
        ([OTHER, "a", OTHER, "b", "..."], [[OTHER, "a"], [OTHER, "b", "..."]], False),
    ],
)
def test_the_guilty_thread_comes_first_where_it_is_known(
    lines: list[str], threads: list[list[str]], known: bool
) -> None:
    dump = read_dump("\n".join(lines))
    assert (dump.threads, dump.guilty_known) == (threads, known)
    assert dump.text == "\n\n".join("\n".join(thread) for thread in threads)


def test_a_deep_stack_pushes_out_no_other_thread_and_no_last_words() -> None:
    """Each has a record of its own, with its innermost frames whole, however long their paths."""
    deep = frames(100, "/a-long-name" * 8)
    words = tuple(f"{number} " + "word " * 40 for number in range(20))
    evidence = evidence_of(died(OTHER, *deep, OTHER, *deep, CURRENT, *deep, log_tail=words), WHOSE)
    for record in (*evidence.first, *evidence.others):
        shown = record["frames"][1:]
        assert shown == deep[: len(shown)]
        assert len(shown) + record["frames_left_out"] == 100
        assert len(shown) >= 20
        assert len(json_line({"timestamp": "", "event": "", **record})) < LINE_BYTES_MAX
    assert evidence.first[0]["frames"][0] == CURRENT
    assert [record["thread"] for record in evidence.others] == [2, 3]
    assert evidence.tail is not None
    kept = evidence.tail["log_tail"]
    assert kept == words[-len(kept) :]
    assert len(kept) + evidence.tail["lines_left_out"] == 20
    assert len(kept) >= 10


def test_a_frame_that_is_too_long_loses_its_middle() -> None:
    """Its end says where, and a path of non-ASCII letters is seven bytes a letter in JSON."""
    [record] = evidence_of(died(CURRENT, *frames(3, "/\\u4e2d" * 480)), WHOSE).first
    assert record["frames"][1].endswith('deep.py", line 0 in sink')
    assert record["frames"][1].startswith('File "/\\u4e2d')
    assert "…" in record["frames"][1]
    assert len(record["frames"]) == 4


def test_of_hundreds_of_threads_the_first_are_told_and_how_many_there_were() -> None:
    evidence = evidence_of(died(*[OTHER, "a"] * 99, CURRENT, "g"), WHOSE)
    assert evidence.first[0]["frames"] == [CURRENT, "g"]
    assert evidence.first[0]["threads"] == 100
    assert len(evidence.others) == THREADS_MAX - 1


def test_what_a_proc_wrote_in_place_of_a_dump_is_read_to_its_limit_only() -> None:
    assert len(read_dump("x\n" * 1_000_000).threads[0]) == DUMP_LINES_MAX


def test_people_are_told_where_it_was_and_no_more_than_is_known() -> None:
    assert words_of(died(OTHER, "a", CURRENT, "g")) == (
        "it was at (1 of 2 threads)",
        [CURRENT, "g"],
    )
    assert words_of(died(CURRENT, "g")) == ("it was at", [CURRENT, "g"])
    what, lines = words_of(died("Fatal Python error: Aborted", OTHER, "a", OTHER, "b"))
    assert "not known" in what
    assert lines == ["Fatal Python error: Aborted", OTHER, "a", OTHER, "b"]
    assert words_of(DeathCertificate(verdict="x")) == ("", [])


def test_where_c_code_hangs_the_other_threads_are_suspects_too() -> None:
    """The main thread may only wait for the interpreter's lock that another one holds."""
    stack = "\n".join([OTHER, "culprit", CURRENT, "waits"])
    _, lines = words_of(DeathCertificate(verdict="hung_in_c", stack=stack))
    assert lines == [CURRENT, "waits", OTHER, "culprit"]


@given(
    stack=st.lists(
        st.one_of(st.sampled_from([CURRENT, OTHER, ""]), st.text(max_size=600)), max_size=60
    ),
    tail=st.lists(st.text(max_size=1_000), max_size=20),
    path=st.text(max_size=1_200),
)
def test_whatever_it_is_like_it_is_told_in_lines_of_bounded_length(
    stack: list[str], tail: list[str], path: str
) -> None:
    certificate = died(*stack, log_tail=tuple(tail))
    evidence = evidence_of(certificate, {**WHOSE, "path": path})
    records = [*evidence.first, *evidence.others, *([evidence.tail] if evidence.tail else [])]
    for record in records:
        line = json_line(record)
        assert len(line) <= LINE_BYTES_MAX
        json.loads(line)
        assert record.get("frames") or record.get("log_tail")
    assert (evidence.tail is not None) == bool(tail)
    if evidence.tail:
        assert evidence.tail["log_tail"][-1] == tail[-1]
    assert bool(evidence.first) == bool(read_dump(certificate.stack or "").threads)
    assert EVIDENCE_BYTES_MAX < LINE_BYTES_MAX
    words_of(certificate)
