"""The README's tables of the communicator say what the code says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from allowedwords import allowed
from msgspec import inspect

from fsmv2.communicator import Communicator, CommunicatorConfig
from fsmv2.communicator.actions.authenticate import TOKEN_FILE_BYTES_MAX
from fsmv2.communicator.actions.told import RETURNED_AT
from fsmv2.communicator.backoff import SPREAD, WAIT_S_MAX
from fsmv2.communicator.failurerate import LOGIN, SYNC
from fsmv2.communicator.states.flow import DEGRADED_AT_ERRORS, DEGRADED_AT_PENDING
from fsmv2.communicator.states.reading import LOOK_S, NIGHT_HOUR, WORK_HOURS
from fsmv2.communicator.transport.codec import CONTENT_BYTES_MAX
from fsmv2.communicator.transport.errors import FACTS, RULES, Kind
from fsmv2.communicator.transport.jsonsize import DEPTH_MAX, VALUES_MAX
from fsmv2.communicator.transport.protocol import CONNECT_S, TIMEOUT_S_MAX
from fsmv2.communicator.transport.token import REFRESH_MARGIN_S_MAX

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SECTION = README.partition("\n## The communicator\n")[2].partition("\n## ")[0]
TEXT = " ".join(SECTION.split())


def rows(head: str) -> list[list[str]]:
    lines = SECTION.partition(f"{head}\n")[2].splitlines()[1:]
    table = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_table_of_keys_is_the_config() -> None:
    """Every key with what is allowed and its default, in the order of the class."""
    wanted = [
        [f"`{field.name}`", allowed(field.type), f"`{json.dumps(field.default)}`"]
        for field in inspect.type_info(CommunicatorConfig).fields
    ]
    table = rows("| key | allowed | default | meaning |")
    paste = "\n".join(f"| {' | '.join(row)} | … |" for row in wanted)
    assert [row[:3] for row in table] == wanted, f"want\n{paste}"
    assert all(len(row) == 4 and row[3] for row in table)
    meaning = {row[0].strip("`"): row[3] for row in table}
    assert f"{CONNECT_S:.0f} s for connecting" in meaning["timeout_s"]
    assert f"at most {TIMEOUT_S_MAX:.0f}" in meaning["timeout_s"]


def test_table_of_kinds_is_the_table_of_errors() -> None:
    """Every kind with its statuses, its waits and its resets."""
    table = rows("| kind | told by | waits, in seconds | connections reset |")
    assert [row[0] for row in table] == [f"`{kind}`" for kind in Kind]
    for kind, (_, told_by, waits, reset) in zip(Kind, table, strict=True):
        facts = FACTS[kind]
        delays = ", ".join(f"{delay:g}" for delay in facts.delays_s)
        assert waits.partition(";")[0] == delays
        assert reset == (f"at every {facts.reset_every} errors" if facts.reset_every else "–")
        for rule in RULES:
            if rule.kind is kind and isinstance(rule.statuses, tuple):
                assert set(map(int, re.findall(r"\b\d{3}\b", told_by))) == set(rule.statuses)


def test_readme_promises_no_change_of_a_variable_at_run_time() -> None:
    """Nobody can change the environment of a process that runs: only a restart of the root does."""
    assert "at once (in a file, within 10 s)" in TEXT
    assert "a change needs a restart of the root" in TEXT


def test_numbers_in_the_text_are_the_constants() -> None:
    """Thresholds that the text names."""
    assert f"failed {DEGRADED_AT_ERRORS} times in a row or {DEGRADED_AT_PENDING} messages" in TEXT
    assert f"{CONTENT_BYTES_MAX >> 20} MiB of JSON, unpacked, with at most {VALUES_MAX:,} v" in TEXT
    assert f"and {DEPTH_MAX} levels" in TEXT
    assert (SPREAD, WAIT_S_MAX) == (0.2, 3600)
    assert f"within {LOOK_S:.0f} s" in TEXT
    assert f"renewed {REFRESH_MARGIN_S_MAX / 60:.0f} minutes before it expires" in TEXT
    assert f"between {NIGHT_HOUR} and {NIGHT_HOUR + 1} at night" in TEXT
    assert f"at work ({WORK_HOURS.start} to {WORK_HOURS.stop})" in TEXT
    assert f"one line of UTF-8 of at most {TOKEN_FILE_BYTES_MAX:,} bytes" in TEXT
    assert SYNC.share == LOGIN.share == 0.9
    assert f"the last {SYNC.outcomes_max} tries (at least {SYNC.outcomes_min})" in TEXT
    assert RETURNED_AT == 3
    assert "counts from the third time in a row" in TEXT
    assert f"90 % of {LOGIN.outcomes_max} logins (at least {LOGIN.outcomes_min})" in TEXT


def test_the_section_leads_to_the_runbooks() -> None:
    """Also `fsmv2 explain` does, by the worker's class."""
    linked = re.findall(r"\]\((ops/runbooks/[\w-]+\.md)\)", SECTION)
    assert len(linked) == 2
    assert all((ROOT / page).is_file() for page in linked)
    assert Communicator.runbook_url in [page.removeprefix("ops") for page in linked]


@pytest.mark.proc
def test_the_example_of_an_embedding_program_prints_what_is_shown() -> None:
    """The README's command, from the console at the relay to a pool's proc and back."""
    command, _, rest = SECTION.partition("```sh\n")[2].partition("```")
    shown = rest.partition("```text\n")[2].partition("```")[0]
    words = command.split()
    assert words[:2] == ["python", "-m"]
    done = subprocess.run(
        [sys.executable, "-P", *words[1:]], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == shown
