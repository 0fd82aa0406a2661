"""What procs print: whole lines, no secrets or pieces of them, a budget, the tail."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.pool.output import (
    FATAL,
    FATAL_LINES_MAX,
    LINE_CHARS_MAX,
    LINES_AT_ONCE,
    LINES_PER_S,
    PARTIAL_BYTES_MAX,
    TAIL_LINES,
    Allowance,
    OutputLines,
)

SECRET = "0123-SECRET-9876"
AT_ONCE = int(LINES_AT_ONCE)


# --- the budget -----------------------------------------------------------------------------


@given(
    st.floats(0.5, 100),
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 20)), max_size=40),
)
def test_an_allowance_grants_at_most_its_burst_and_its_rate_and_counts_the_rest(
    per_s: float, at_once: int, wishes: list[tuple[float, int]]
) -> None:
    """In any span; nothing is granted that was not wanted, and nobody is forgotten."""
    allowance = Allowance(per_s, at_once)
    now, spent, refused = 1_000.0, [], 0
    for later_s, wanted in wishes:
        now += later_s
        granted = allowance.spend(now, wanted)
        assert 0 <= granted <= wanted
        spent.append((now, granted))
        refused += wanted - granted
    assert allowance.take_refused() == refused
    assert allowance.take_refused() == 0
    for first in range(len(spent)):
        for last in range(first, len(spent)):
            span_s = spent[last][0] - spent[first][0]
            total = sum(granted for _at, granted in spent[first : last + 1])
            assert total <= at_once + per_s * span_s + 1e-6


def test_an_allowance_gives_everything_it_has() -> None:
    """Part of a wish is granted, and it refills."""
    allowance = Allowance(10.0, 5)
    assert allowance.spend(100.0, 7) == 5
    assert allowance.spend(100.0, 1) == 0
    assert allowance.spend(100.31, 9) == 3
    assert allowance.spend(1e6, 9) == 5


# --- lines ----------------------------------------------------------------------------------

LINES = st.lists(st.text("ab é€", min_size=1, max_size=30), max_size=30)


def fed(output: OutputLines, stream: bytes, cuts: list[int], *secrets: str) -> list[str]:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    told: list[str] = []
    for a, b in itertools.pairwise(edges):
        told += output.feed(stream[a:b], secrets, 1.0)
    return told + output.feed(b"", secrets, 1.0, flush=True)


@given(LINES, st.booleans(), st.lists(st.integers(0, 1_000), max_size=10))
def test_lines_come_out_whole_and_in_order_however_they_are_written(
    lines: list[str], ends: bool, cuts: list[int]
) -> None:
    """Also when a character is cut in two; what has no newline comes with the flush."""
    output = OutputLines()
    stream = "\n".join(lines).encode() + b"\n" * ends
    assert fed(output, stream, cuts) == lines
    assert list(output.tail) == lines[-TAIL_LINES:]
    assert output.is_between_lines


def test_a_line_without_its_end_waits() -> None:
    """Until its newline comes."""
    output = OutputLines()
    assert output.feed(b"half", (), 1.0) == []
    assert not output.is_between_lines
    assert output.feed(b" a line\nnext", (), 1.0) == ["half a line"]
    assert output.feed(b"", (), 1.0, flush=True) == ["next"]
    assert output.is_between_lines


def test_any_bytes_are_text_and_empty_lines_say_nothing() -> None:
    """A proc may write what it likes."""
    output = OutputLines()
    assert output.feed(b"\n\n\xff\xfe\n\n", (), 1.0) == ["\ufffd\ufffd"]


@given(st.integers(0, 3 * LINE_CHARS_MAX), st.lists(st.integers(0, 4 * LINE_CHARS_MAX), max_size=6))
def test_no_piece_of_a_secret_is_told_wherever_it_stands_and_however_it_is_cut(
    before: int, cuts: list[int]
) -> None:
    """Also where the line is cut to its length."""
    output = OutputLines()
    stream = f"{'x' * before}{SECRET}{'y' * 50}\n".encode()
    told = fed(output, stream, cuts, SECRET)
    for line in (*told, *output.tail):
        assert "SECRET" not in line
        assert "0123" not in line
        assert "9876" not in line
        assert len(line) <= LINE_CHARS_MAX


@pytest.mark.parametrize("into", range(len(SECRET) + 1))
def test_no_piece_of_a_secret_is_told_where_an_endless_line_is_cut(into: int) -> None:
    """A line that does not end is not kept: the place where it is given up may lie in a secret."""
    output = OutputLines()
    start = PARTIAL_BYTES_MAX + 1 - into
    stream = b"x" * start + SECRET.encode() + b"tail\nafter\n"
    told = output.feed(stream[: PARTIAL_BYTES_MAX + 1], (SECRET,), 1.0)
    told += output.feed(stream[PARTIAL_BYTES_MAX + 1 :], (SECRET,), 1.0)
    assert told[0] == "x" * LINE_CHARS_MAX
    assert told[-1] == "after"
    text = "".join((*told, *output.tail)).replace("x", "")
    for size in range(4, len(SECRET) + 1):
        assert SECRET[-size:] not in text


def test_an_endless_line_is_told_once_and_not_kept() -> None:
    """However much of it comes."""
    output = OutputLines()
    told = []
    for _ in range(20):
        told += output.feed(b"x" * PARTIAL_BYTES_MAX, (), 1.0)
    told += output.feed(b"x\nafter\n", (), 1.0)
    assert told == ["x" * LINE_CHARS_MAX, "after"]
    assert output.is_between_lines


def test_a_flush_ends_an_endless_line() -> None:
    """The next attempt's first line is its own."""
    output = OutputLines()
    output.feed(b"x" * (PARTIAL_BYTES_MAX + 1), (), 1.0)
    assert not output.is_between_lines, "or nobody would flush"
    assert output.feed(b"rest", (), 1.0, flush=True) == []
    assert output.is_between_lines
    assert output.feed(b"another\n", (), 1.0) == ["another"]


# --- the budget of lines --------------------------------------------------------------------


def numbered(start: int, count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(start, start + count))


def test_the_dump_of_an_interpreter_that_gives_up_is_kept_apart() -> None:
    """It is longer than the tail, and its first line says why. An attempt that ends well leaves
    nothing of it to the next one."""
    output = OutputLines()
    lines = ["asking", f"{FATAL}reads: nothing is right", *(f"frame {n}" for n in range(900))]
    output.feed("\n".join([*lines[:2], ""]).encode(), (), 0.0)
    for number, line in enumerate(lines[2:]):
        output.feed(f"{line}\n".encode(), (), float(number))
    assert output.fatal == ("\n".join(lines[1 : 1 + FATAL_LINES_MAX]), ("asking",))
    assert list(output.tail) == lines[-TAIL_LINES:]
    output.forget()
    assert output.fatal is None
    output.feed(b"of the next one\n", (), 900.0)
    assert list(output.tail) == ["of the next one"]
    assert output.fatal is None


def test_a_flood_is_told_up_to_the_budget_and_its_last_lines_are_kept() -> None:
    """The last lines explain a death, so they are in the tail, told or not."""
    output = OutputLines()
    told = output.feed(numbered(0, 10_000), (), 1.0)
    assert told == [str(number) for number in range(AT_ONCE)]
    assert list(output.tail) == [str(number) for number in range(10_000 - TAIL_LINES, 10_000)]


def test_how_many_lines_were_left_out_is_told_before_the_next_that_is_told() -> None:
    """Once, and all of them."""
    output = OutputLines()
    output.feed(numbered(0, AT_ONCE), (), 1.0)
    assert output.feed(numbered(0, 7), (), 1.0) == []
    assert output.feed(numbered(7, 4), (), 1.0) == []
    told = output.feed(b"next\n", (), 1.0 + 2 / LINES_PER_S)
    assert told == [f"(11 lines left out: over {LINES_PER_S:g} lines/s)", "next"]
    assert output.feed(b"more\n", (), 2.0) == ["more"]


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 3)), max_size=20))
def test_every_line_is_told_or_counted(portions: list[tuple[int, float]]) -> None:
    """Nothing is lost without a word, and the tail is what was written last."""
    output, now, written, told = OutputLines(), 1.0, 0, []
    for count, later_s in portions:
        now += later_s
        told += output.feed(numbered(written, count), (), now)
        written += count
    told += output.feed(b"end\n", (), now + 1e6)
    left_out = sum(int(line[1:].split()[0]) for line in told if line.startswith("("))
    assert sum(not line.startswith("(") for line in told) + left_out == written + 1
    last = [*map(str, range(written)), "end"][-TAIL_LINES:]
    assert list(output.tail) == last
