"""What an operator is sent to at night exists: pages, links, alerts, commands.

The index of the pages is made from the tables here; when it differs, the message has the text.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from fsmv2.communicator import WORKERS
from fsmv2.communicator.metrics import TABLE as COMMUNICATORS
from fsmv2.communicator.transport.errors import Kind
from fsmv2.examples.demo import demo
from fsmv2.supervisor.capabilities import capabilities
from fsmv2.supervisor.commandline.cli import cli
from fsmv2.supervisor.core import events, reloadevents, restartevents, storeevents, workevents
from fsmv2.supervisor.core.absences import RULES as ABSENCES
from fsmv2.supervisor.core.eventbase import Event
from fsmv2.supervisor.core.explaining import RULES
from fsmv2.supervisor.core.runbooks import BASE_URL, BY_EVENT, BY_RULE, PAGES, url
from fsmv2.supervisor.core.runbooks import page_of as page_named
from fsmv2.supervisor.telemetry.logs import DEATH_LOG_TAIL, DEATH_STACK
from fsmv2.supervisor.telemetry.logsentences import sentence_of
from fsmv2.supervisor.telemetry.metrictable import TABLE
from fsmv2.supervisor.telemetry.runbookpages import INDEX, read_page

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "ops/runbooks"
# Every metric with its labels: a supervisor serves those of its communicators too.
LABELS = {row.name: row.labels for row in TABLE} | {
    f"fsmv2_communicator_{row.name}": row.labels for row in COMMUNICATORS
}
HEADINGS = ["Symptom", "Meaning", "Check", "Fix", "Prevent"]

_LINK = re.compile(r"\]\(([^)#\s]+)\)")
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(fsmv2 [^`]+)`")
_METRIC = re.compile(r"fsmv2_\w+")
_MODULES = (events, reloadevents, restartevents, storeevents, workevents)


def text_of(page: str) -> str:
    """A page as it lies in the repository."""
    return (FOLDER / f"{page}.md").read_text("utf-8")


@cache
def alerts() -> list[dict[str, Any]]:
    """All alerting rules."""
    document = yaml.safe_load((ROOT / "ops/alerts.yaml").read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def metrics_in(expression: str) -> set[str]:
    """The metrics an expression reads."""
    known = set(LABELS)
    return {
        name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)
        for name in _METRIC.findall(expression)
    }


def page_of(alert: dict[str, Any]) -> str:
    """The page an alert links to."""
    address = alert["annotations"]["runbook_url"]
    found = re.fullmatch(rf"http://{{{{ \$labels\.instance }}}}{BASE_URL}([\w-]+)\.md", address)
    assert found, address
    return found[1]


def all_events() -> set[type[Event]]:
    """Every event there is; who puts them into words has imported them all."""
    assert sentence_of
    found, todo = set[type[Event]](), [Event]
    while todo:
        below = todo.pop().__subclasses__()
        found |= {kind for kind in below if kind.__module__.startswith("fsmv2.")}
        todo += below
    return found


# --- pages ----------------------------------------------------------------------------------


def test_the_table_of_pages_is_the_folder() -> None:
    """No page without a symptom, no symptom without a page."""
    assert {file.stem for file in FOLDER.iterdir()} == {INDEX, *PAGES}
    assert all(file.suffix == ".md" for file in FOLDER.iterdir())


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_five_headings_and_says_something_below_each(page: str) -> None:
    parts = re.split(r"^## (.+)$", text_of(page), flags=re.MULTILINE)
    assert parts[1::2] == HEADINGS
    assert parts[0].startswith("# ")
    assert all(len(part.split()) >= 5 for part in parts[2::2])
    assert "fsmv2 " in parts[6], "Check shows no command of ours"


@pytest.mark.parametrize("page", [INDEX, *PAGES])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """Also relative ones, which resolve in the repository and over HTTP alike."""
    for link in _LINK.findall(text_of(page)):
        assert (FOLDER / link).is_file(), link


@pytest.mark.parametrize("page", [INDEX, *PAGES])
def test_a_page_comes_out_of_the_installed_package(page: str) -> None:
    assert read_page(page) == read_page(f"{page}.md") == text_of(page)


@pytest.mark.parametrize("name", ["", "..", "../alerts", "/etc/passwd", "circuit-open.md.md", "é"])
def test_what_is_no_page_is_not_read(name: str) -> None:
    assert read_page(name) is None


def test_names_of_events_and_metrics_in_pages_exist() -> None:
    """In code marks; what reads like one of ours is one."""
    names = {kind.name() for kind in all_events()} | {DEATH_STACK, DEATH_LOG_TAIL}
    metrics = set(LABELS)
    fields = {field for kind in all_events() for field in kind.__struct_fields__}
    for page in PAGES:
        text = text_of(page)
        assert metrics_in(text) <= metrics | {"fsmv2_process_resident_memory_bytes"}, page
        for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text):
            known = names | fields | set(BY_RULE) | WORDS
            assert word in known, f"{page}: {word}"


# Other words with an underscore that pages may use: verdicts, config keys, methods, variables.
WORDS = {
    "derive_desired_state", "next_action", "out_of_memory", "timed_out", "hung_in_c",
    "stopped_process", "depends_on", "restart_budget", "timeout_s", "shutdown_timeout_s",
    "slow_worker_s", "location_path", "peak_memory_bytes", "rule_files",
    "supervisor_id", "auth_token_file", "relay_url", *Kind,
}  # fmt: skip


# --- commands -------------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    """All commands."""
    return {**cli.commands, "demo": demo}


def shell_lines(text: str) -> Iterator[list[str]]:
    """The words of our commands in shell blocks."""
    for block in _BLOCK.findall(text):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["fsmv2"]:
                yield words[1:]


@pytest.mark.parametrize("page", [INDEX, *PAGES])
def test_command_lines_in_pages_are_understood(page: str) -> None:
    """A block's line is parsed whole, as typed; a command in running text has a known name and
    known options."""
    for name, *arguments in shell_lines(text_of(page)):
        assert name in commands(), name
        commands()[name].make_context(name, list(arguments))
    for shown in _INLINE.findall(text_of(page)):
        name, *arguments = shlex.split(shown)[1:]
        assert name in commands(), shown
        options = {o for p in commands()[name].params for o in p.opts if o.startswith("--")}
        assert {word for word in arguments if word.startswith("--")} <= options, shown


# --- who links to them ----------------------------------------------------------------------


def test_every_event_of_level_error_has_a_page() -> None:
    """And no event that does not exist has one."""
    loud = {kind.name() for kind in all_events() if kind.level == "error"}

    assert loud - set(BY_EVENT) == set()
    assert set(BY_EVENT) - {kind.name() for kind in all_events()} == set()
    assert len(loud) >= 10
    assert all(module.__name__ in {kind.__module__ for kind in all_events()} for module in _MODULES)


def test_links_of_events_and_rules_lead_to_pages() -> None:
    assert set(BY_EVENT.values()) | set(BY_RULE.values()) <= set(PAGES)
    assert url("circuit-open") == "/runbooks/circuit-open.md"
    assert url("circuit-open", "https://wiki.example/") == "https://wiki.example/circuit-open.md"
    assert url("") == ""
    for kind in WORKERS:
        assert page_named(kind.runbook_url) in PAGES, kind


def test_rules_with_a_page_are_rules_that_exist() -> None:
    """Read off the source: each rule's name stands there once."""
    sources = [
        (ROOT / "supervisor/core" / name).read_text("utf-8")
        for name in ("explaining.py", "breakerrules.py", "absences.py")
    ]
    named = set(re.findall(r'(?:rule=|_of_observing\(\s*facts, )"(\w+)"', "".join(sources)))

    assert set(BY_RULE) <= named
    assert len(named) >= len(RULES) + len(ABSENCES) - 2


def test_every_page_is_linked_to_by_somebody() -> None:
    """By an event, a rule, an alert, or another page."""
    linked = {*BY_EVENT.values(), *BY_RULE.values(), *(page_of(alert) for alert in alerts())}
    linked |= {link.removesuffix(".md") for page in PAGES for link in _LINK.findall(text_of(page))}

    assert set(PAGES) - linked == set()


def test_alerts_read_metrics_that_exist_and_link_to_pages() -> None:
    known = set(LABELS)
    for alert in alerts():
        assert metrics_in(alert["expr"]) <= known, alert["alert"]
        assert metrics_in(alert["expr"]), alert["alert"]
        assert page_of(alert) in PAGES
        assert set(alert["labels"]) == {"severity"}
        assert alert["annotations"]["summary"].count("$labels.instance") == 1
        assert alert["expr"].count("(") == alert["expr"].count(")")
        # Without it the link would lead nowhere.
        assert re.search(r"by \([^)]*\binstance\b", alert["expr"]), alert["alert"]
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)


def unknown_labels(expression: str) -> set[str]:
    """What an expression selects or groups by that its metrics do not have. Prometheus adds
    ``instance``, a histogram ``le``."""
    labels = {"instance", "le"}
    labels |= {label for name in metrics_in(expression) for label in LABELS[name]}
    asked = set(re.findall(r"(\w+)(?:=~|!=|=)\"", expression))
    asked |= {
        name for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(", ")
    }
    return asked - labels


def test_labels_that_alerts_ask_for_are_the_metrics() -> None:
    """A selector on a label that a metric does not have matches nothing, silently."""
    for alert in alerts():
        assert unknown_labels(alert["expr"]) == set(), alert["alert"]


def test_the_dashboard_has_the_four_panels_and_reads_metrics_that_exist() -> None:
    """Circuits, recovery, actions, durations; each for the supervisors that were chosen."""
    board = json.loads((ROOT / "ops/dashboard.json").read_text("utf-8"))
    known = set(LABELS)
    assert [panel["title"].partition(" ")[0] for panel in board["panels"]] == [
        "Circuits",
        "Recovery:",
        "Actions",
        "How",
    ]
    for panel in board["panels"]:
        for target in panel["targets"]:
            assert metrics_in(target["expr"]) <= known, target["expr"]
            assert metrics_in(target["expr"]), target["expr"]
            assert unknown_labels(target["expr"]) == set(), target["expr"]
            assert 'instance=~"$instance"' in target["expr"]
    assert metrics_in(board["templating"]["list"][1]["query"]["query"]) <= known


def test_the_alerts_that_the_plan_asks_for_are_there() -> None:
    """A circuit open for over 5 minutes, failing children, an escalation within the minute."""
    shown = {alert["alert"]: (alert["expr"], alert.get("for", "0s")) for alert in alerts()}

    assert shown["Fsmv2CircuitOpen"][1] == "5m"
    assert "> 0.1" in shown["Fsmv2ChildrenFail"][0]
    assert shown["Fsmv2ChildrenFail"][1] == "2m"
    assert "[1m]" in shown["Fsmv2Escalation"][0]
    assert shown["Fsmv2Escalation"][1] == "0s"


def index() -> str:
    """The index page, made from the tables."""
    symptoms = [f"| {symptom} | [{page}]({page}.md) |" for page, symptom in PAGES.items()]
    told = [f"| `{name}` | [{page}]({page}.md) |" for name, page in sorted(BY_EVENT.items())]
    rules = [f"| `{name}` | [{page}]({page}.md) |" for name, page in sorted(BY_RULE.items())]
    raised = []
    for alert in alerts():
        read = ", ".join(f"`{name}`" for name in sorted(metrics_in(alert["expr"])))
        raised.append(f"| {alert['alert']} | {read} | [{page_of(alert)}]({page_of(alert)}.md) |")
    return "\n".join(
        [
            "# Runbooks",
            "",
            "What to do in trouble. Each page has the symptom, what it means, what to check with",
            "which command, how to mend it, and how to keep it from coming back. Begin with the",
            "worker that troubles you:",
            "",
            "```sh",
            "fsmv2 tree            # which worker it is",
            "fsmv2 explain PATH    # why it is as it is, what comes next, and the page to read",
            "fsmv2 runbook circuit-open",
            "```",
            "",
            "A running supervisor serves these pages at `/runbooks/`, those of its own version.",
            "",
            "| symptom | page |",
            "| --- | --- |",
            *symptoms,
            "",
            "| event in the log | page |",
            "| --- | --- |",
            *told,
            "",
            "| rule that `fsmv2 explain` names | page |",
            "| --- | --- |",
            *rules,
            "",
            "| alert of `ops/alerts.yaml` | metric | page |",
            "| --- | --- | --- |",
            *raised,
            "",
        ]
    )


def test_the_index_is_made_from_the_tables() -> None:
    assert text_of(INDEX) == index(), f"want\n{index()}"


def test_what_pages_say_that_doctor_prints_is_what_it_prints() -> None:
    """In quotes behind the command: names of its lines."""
    names = {one.name for one in capabilities()}
    shown = [
        name
        for page in PAGES
        for line in text_of(page).splitlines()
        if line.startswith("fsmv2 doctor")
        for name in re.findall(r'"([^"]+)"', line)
    ]
    assert set(shown) - names == set()
    assert len(set(shown)) >= 3
