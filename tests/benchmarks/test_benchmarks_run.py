"""Each benchmark in its quick form: it runs, tells what it promises, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killing.shapes import SHAPES
from running import until

from fsmv2.ipc.linux import descendants_of, is_alive

pytestmark = [pytest.mark.proc, pytest.mark.timeout(400)]

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DOCUMENT = "<!-- {0}: figures -->\n<!-- {0}: end -->\n"


def run(name: str, *options: str, code: int = 0) -> str:
    """Standard output of a benchmark that has to end with ``code``."""
    command = [sys.executable, "-P", str(BENCHMARKS / name), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=390, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + (ended.stderr if code else "")


def test_pools_tells_figures_ratios_and_targets(tmp_path: Path) -> None:
    raw, document = tmp_path / "pools.json", tmp_path / "README.md"
    document.write_text(DOCUMENT.format("pools"))
    names = "fsmv2,ProcessPoolExecutor,raw socketpair"
    told = run(
        *("pools.py", "--quick", "--only", names, "--figures", "speed,start"),
        *("--json", str(raw), "--markdown", str(document)),
    )

    assert "Speed: no-op tasks from one thread" in told
    assert "raw socketpair" in told
    assert "no-op round trip p50" in told
    rounds = json.loads(raw.read_text())["rounds"]
    assert [(each["peer"], each["group"]) for each in rounds] == [
        ("fsmv2", "speed"),
        ("ProcessPoolExecutor", "speed"),
        ("raw socketpair", "speed"),
        ("fsmv2", "start"),
        ("ProcessPoolExecutor", "start"),
    ]
    ours, executor = rounds[0]["figures"], rounds[1]["figures"]
    assert set(executor) < set(ours)
    assert all(value > 0 for value in ours.values())
    assert all(each["error"] is None for each in rounds)
    assert "| fsmv2 |" in document.read_text()
    assert run("pools.py", "--from", str(raw)) == told


def test_pools_hangs_deaths_and_kills_cost_ours_no_bystander(tmp_path: Path) -> None:
    raw = tmp_path / "pools.json"
    run(
        *("pools.py", "--quick", "--only", "fsmv2", "--figures", "hangs,deaths,kills"),
        *("--json", str(raw)),
    )

    hangs, deaths, kills = (each["figures"] for each in json.loads(raw.read_text())["rounds"])
    for shape in ("loop", "noterm", "gil"):
        assert None not in hangs[f"slot_{shape}_ms"]
        assert hangs[f"stack_{shape}_named"]
    assert deaths["lost_bystanders"] == deaths["lost_queued"] == 0
    assert deaths["midwrite_lost_bystanders"] == 0
    assert deaths["midwrite_new_tasks_run"] == 4
    assert None not in deaths["midwrite_told_ms"]
    assert kills["kills_survived"] == 5
    assert kills["kills_lost"] <= 5
    assert kills["kills_zombies"] == 0


def test_pools_can_measure_every_pool_that_is_installed(tmp_path: Path) -> None:
    """Who cannot be started would be told as one that fails."""
    raw = tmp_path / "pools.json"
    run("pools.py", "--quick", "--figures", "start", "--json", str(raw))

    document = json.loads(raw.read_text())
    assert {"fsmv2", "multiprocessing.Pool", "multiprocess.Pool"} <= set(document["peers"])
    assert [(each["peer"], each["error"]) for each in document["rounds"]] == [
        (peer, None) for peer in document["peers"] if not peer.startswith("raw ")
    ]


def test_wrong_options_are_refused_with_what_is_known() -> None:
    told = run("pools.py", "--only", "fsmv3", code=2)
    assert "got fsmv3" in told
    assert "ProcessPoolExecutor" in told
    assert "got nap" in run("kill.py", "--only", "nap", code=2)


def test_kill_ends_every_shape_and_names_the_guilty(tmp_path: Path) -> None:
    raw, document = tmp_path / "kill.json", tmp_path / "README.md"
    document.write_text(DOCUMENT.format("kill"))
    told = run(
        *("kill.py", "--kills", "2", "--memory-mib", "64"),
        *("--json", str(raw), "--markdown", str(document)),
    )

    kills = json.loads(raw.read_text())["kills"]
    assert list(kills) == list(SHAPES)
    for name, shape in SHAPES.items():
        assert name in told
        assert f"| {name} |" in document.read_text()
        assert all(kill["faults"] == [] for kill in kills[name])
        assert all("next_runs_ms" in kill for kill in kills[name])
        if shape.can_answer:
            # Both only if the machine had no time for either stack: evidence has a budget.
            assert any(kill["named"] for kill in kills[name]), name
    # Its other processes were there, and were killed with it.
    assert all(kill["descendants_killed"] > 0 for kill in kills["fork bomb"])


WEDGED = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
with open(PATH, "a") as file:
    print(os.getpid(), file=file, flush=True)
time.sleep(3600)
"""
FENCE = """
import sys, json
sys.path.insert(0, BENCHMARKS)
from peers.fence import run_fenced
print(json.dumps(run_fenced([sys.executable, "-c", sys.argv[1]], float(sys.argv[2]))))
"""


def test_a_wedged_peer_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    source = FENCE.replace("BENCHMARKS", repr(str(BENCHMARKS)))
    wedged = WEDGED.replace("PATH", repr(str(pids)))
    ended = subprocess.run(
        [sys.executable, "-P", "-c", source, wedged, "2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    code, _, left, _ = json.loads(ended.stdout)
    assert code is None
    assert left == 1
    started = pids.read_text().split()
    assert len(started) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


def test_ticks_runs_actions_and_tells_its_three_rows(tmp_path: Path) -> None:
    raw = tmp_path / "tick.json"
    run("tick.py", "--seconds", "2", "--json", str(raw))

    figures = json.loads(raw.read_text())
    assert figures["nodes"] == 101
    assert figures["succeeded"] > 0
    assert all(figures[row]["count"] > 0 for row in ("bring_up_ms", "tick_ms", "enqueue_ms"))


def test_churn_has_children_come_and_go_and_finds_nothing_grown(tmp_path: Path) -> None:
    raw = tmp_path / "churn.json"
    told = run("churn.py", "--reloads", "200", "--children", "500", "--json", str(raw))

    assert "nothing grew" in told
    counted = json.loads(raw.read_text())
    assert counted["faults"] == []
    assert counted["added"] > 500
    assert counted["added"] - counted["removed"] == 12  # those that are there in the end


def test_tree_tells_each_figure_beside_its_target_and_draws_how_it_grows(tmp_path: Path) -> None:
    raw, document = tmp_path / "tree.json", tmp_path / "README.md"
    document.write_text(DOCUMENT.format("tree"))
    told = run("tree.py", "--quick", "--json", str(raw), "--markdown", str(document))

    figures = json.loads(raw.read_text())["figures"]
    assert [figures[f"tick_{n}.nodes"] for n in (10, 100, 1_000, 10_000)] == [
        10,
        100,
        1_000,
        10_000,
    ]
    assert all(value > 0 for value in figures.values())
    # Ten thousand live workers are too much for a quick look; all else is measured.
    assert told.count("not measured") == 6
    assert "| one changed leaf in 10,000 |" in document.read_text()
    assert (tmp_path / "tree.svg").read_text().count("<polyline") == 4
    assert run("tree.py", "--from", str(raw)) == told


def test_pools_that_is_told_to_end_ends_the_pool_it_measures(tmp_path: Path) -> None:
    raw = tmp_path / "pools.json"
    command = [sys.executable, "-P", str(BENCHMARKS / "pools.py"), "--only", "multiprocessing.Pool"]
    measuring = subprocess.Popen(
        [*command, "--figures", "hangs", "--json", str(raw)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        started = until(
            lambda: len(below := descendants_of(measuring.pid)) >= 3 and below, "a pool to measure"
        )
    finally:
        measuring.terminate()
        assert measuring.wait(120) == 128 + signal.SIGTERM

    # The measured process, and the two of its pool.
    assert not any(is_alive(pid) for pid in started)


def test_communicator_kills_lose_nothing() -> None:
    """Scenario 41, this side: writers and readers of a spool get SIGKILL at random moments."""
    told = run("communicator_kills.py", "--seeds", "50")

    assert told.startswith("50 seeds, ")
    assert "none lost, all in order" in told
    assert int(told.split(" kills")[0].split()[-1]) >= 150


def test_communicator_orders_have_one_end_under_kills() -> None:
    """Scenarios 41 and 56, the inside: a switchboard gets SIGKILL while orders come and replies
    are pushed."""
    told = run("communicator_orderkills.py", "--kills", "30")

    assert told.startswith("30 kills, ")
    assert "none lost, each with one end: " in told
    assert "success" in told


def test_communicator_tells_what_it_costs_and_how_long_messages_take(tmp_path: Path) -> None:
    raw, document = tmp_path / "communicator.json", tmp_path / "README.md"
    document.write_text(DOCUMENT.format("communicator"))
    told = run(
        *("communicator.py", "--seconds", "1", "--idle", "1"),
        *("--json", str(raw), "--markdown", str(document)),
    )

    moved = json.loads(raw.read_text())["flow"]
    assert moved["arrived_out"] == moved["sent_out"] > 0
    assert moved["arrived_in"] == moved["sent_in"] > 0
    assert 0 < moved["out_p50_s"] <= moved["out_p99_s"] <= moved["out_max_s"]
    assert "relay to consumer, p50 / p99 / longest" in told
    assert "the disk's own sync meanwhile, p50 / p99 / longest" in told
    assert "| relay to consumer, p50 / p99 / longest | " in document.read_text()


def test_communicator_spool_tells_rates_and_waits(tmp_path: Path) -> None:
    raw = tmp_path / "figures.json"
    told = run(
        *("communicator_spool.py", "--messages", "300", "--orders", "20", "--posts", "20"),
        *("--idle", "0.2", "--json", str(raw)),
    )

    assert told.startswith("300 messages of 300 bytes each way")
    figures = json.loads(raw.read_text())
    assert all(name in told for name in figures)
    assert all(value > 0 for name, value in figures.items() if name.split()[0] != "memory")


def test_communicator_orders_tells_where_the_time_goes(tmp_path: Path) -> None:
    raw, document = tmp_path / "orders.json", tmp_path / "README.md"
    document.write_text(DOCUMENT.format("orders"))
    told = run(
        *("communicator_orders.py", "--orders", "2", "--rest", "0"),
        *("--json", str(raw), "--markdown", str(document)),
    )

    assert "whole way" in told
    assert "| in a conversation | whole way | " in document.read_text()
    for order in json.loads(raw.read_text())["in a conversation"]:
        whole, *parts = order.values()
        assert whole == pytest.approx(sum(parts))
