"""From raw figures to tables and verdicts, without measuring anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from documents import markdown_table, plain_table, put
from peers.figures import nevers, paired_ratios, per_round, percentile, short
from peers.tables import rows_of
from peers.targets import verdict_rows, verdicts


def measured(peer: str, group: str, number: int = 1, **figures: Any) -> dict[str, Any]:
    return {"peer": peer, "group": group, "round": number, "figures": figures, "error": None}


def words_of(rounds: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Target to what was measured and the verdict; "against …" has the one above before it."""
    found, above = {}, ""
    for what, figure, _, word in verdict_rows(verdicts(rounds, kills=200))[1:]:
        name = f"{above}: {what.strip()}" if what.startswith("  ") else what
        above = above if what.startswith("  ") else what
        found[name] = (figure, word)
    return found


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([4, 3, 2, 1], 0.5) == 2
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([1, 2], 0.99) == 2
    with pytest.raises(ValueError, match="want at least one"):
        percentile([], 0.5)


def test_ratios_compare_within_a_round_only() -> None:
    ours, base = {1: 10.0, 2: 40.0, 3: 1.0}, {1: 40.0, 2: 160.0, 4: 1000.0}

    assert paired_ratios(ours, base, "lower") == [4, 4]
    assert paired_ratios(ours, base, "higher") == [0.25, 0.25]


def test_never_is_a_figure_of_its_own() -> None:
    assert per_round([1.5, None, 2]) == [1.5, 2.0]
    assert nevers([1.5, None, None]) == 2
    assert per_round(True) == per_round(None) == []


def test_figures_have_three_digits_or_so() -> None:
    assert [short(value) for value in (0.614, 8.35, 12.0, 147.4, 27_200)] == [
        "0.61",
        "8.35",
        "12",
        "147",
        "27,200",
    ]


def test_a_cell_has_median_spread_and_the_ratio_of_its_round() -> None:
    rounds = [
        measured("fsmv2", "hangs", slot_loop_ms=[1.0, 2.0, 3.0]),
        measured("ProcessPoolExecutor", "hangs", slot_loop_ms=[20.0]),
        measured("pebble", "hangs", slot_loop_ms=[None, None]),
    ]

    rows = rows_of(rounds, ["fsmv2", "ProcessPoolExecutor", "pebble"], "hangs")

    assert rows == [
        ["pool", "Python loop ms"],
        ["fsmv2", "2.00 [1.00-3.00] ×10"],
        ["ProcessPoolExecutor", "20"],
        ["pebble", "never"],
    ]
    assert rows_of(rounds, ["fsmv2"], "speed") == []


def test_targets_are_met_not_met_or_not_measured() -> None:
    good = words_of(
        [
            measured("fsmv2", "speed", round_trip_p50_us=45.0, throughput_per_s=120_000.0),
            measured(
                "ProcessPoolExecutor", "speed", round_trip_p50_us=226.0, throughput_per_s=8_000.0
            ),
        ]
    )
    bad = words_of([measured("fsmv2", "speed", round_trip_p50_us=51.0)])

    assert good["no-op round trip p50"] == ("45 µs", "met")
    assert good["no-op round trip p50: against ProcessPoolExecutor"] == ("5.02 times", "met")
    assert good["throughput, pipelined: against ProcessPoolExecutor"] == ("15 times", "met")
    assert bad["no-op round trip p50"] == ("51 µs", "not met")
    assert bad["no-op round trip p50: against ProcessPoolExecutor"] == ("not measured", "-")


def test_a_slot_that_never_came_back_is_a_target_not_met() -> None:
    words = words_of([measured("fsmv2", "hangs", slot_noterm_ms=[1.0, None])])

    assert words["same, SIGTERM ignored"] == ("1 times never", "not met")


def test_each_kill_may_cost_one_task_and_no_more() -> None:
    fine = words_of([measured("fsmv2", "kills", kills_survived=200, kills_lost=200)])
    poor = words_of([measured("fsmv2", "kills", kills_survived=199, kills_lost=200)])

    lost = "random SIGKILLs survived, of 200: tasks lost to them"
    assert fine["random SIGKILLs survived, of 200"] == ("200", "met")
    assert fine[lost] == ("200", "met")
    assert poor["random SIGKILLs survived, of 200"] == ("199", "not met")
    assert poor[lost] == ("200", "not met")


def test_a_table_is_the_same_for_a_terminal_and_a_document() -> None:
    rows = [["pool", "µs"], ["one|two", "1.5"]]

    assert plain_table(rows) == ["pool     µs", "-------  ---", "one|two  1.5"]
    assert markdown_table(rows) == ["| pool | µs |", "| --- | --- |", "| one\\|two | 1.5 |"]


def test_figures_go_between_their_two_lines_and_nowhere_else(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("above\n<!-- pools: figures -->\nold\n<!-- pools: end -->\nbelow\n")

    put(document, "pools", ["new"])
    put(document, "pools", ["newer"])

    assert document.read_text() == (
        "above\n<!-- pools: figures -->\n\nnewer\n\n<!-- pools: end -->\nbelow\n"
    )
    with pytest.raises(ValueError, match="<!-- kill: figures -->"):
        put(document, "kill", ["new"])
