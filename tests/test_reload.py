"""Reloads before they reach the engine: what a new config is judged by, what its plan shows, who
gets which answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsmv2.supervisor.config import reload as reloads
from fsmv2.supervisor.config.checkprocess import Verdict, judge
from fsmv2.supervisor.config.config import load_settings
from fsmv2.supervisor.config.filewatch import LOOK_S, FileWatch, mark_of
from fsmv2.supervisor.config.plans import (
    CHANGES_MAX,
    PlanDocument,
    PlannedChange,
    plan_text,
    shortened,
    summary,
)
from fsmv2.supervisor.config.reload import ConfigFile, Reloader
from fsmv2.supervisor.config.settings import Settings
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.plan import KINDS
from fsmv2.supervisor.core.reloadevents import ReloadApplied, ReloadRefused
from fsmv2.supervisor.system.poller import Poller

PLUGIN = """
import msgspec
from fsmv2.supervisor import (
    ChildSpec, DesiredState, Go, Phase, Secret, State, Stay, UserSpec, Worker,
)

class LampConfig(msgspec.Struct, frozen=True):
    port: int = 1
    credential: Secret | None = None

class Off(State):
    phase = Phase.STOPPED
    def next(self, snap):
        return Go(On, reason="asked to run")

class On(State):
    phase = Phase.RUNNING
    def next(self, snap):
        return Stay(reason="on")

class Lamp(Worker):
    type_name, config_type = "lamp", LampConfig
    initial = stopping = Off

class Room(Lamp):
    type_name, config_type = "room", dict
    def derive_desired_state(self, spec):
        config = spec.decode(dict)
        lamps = [
            ChildSpec(f"lamp-{number}", "lamp", UserSpec({"port": number}))
            for number in range(config["lamps"])
        ]
        return DesiredState("running", config, lamps)

WORKERS = [Lamp, Room]
"""


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reload_lamps.py").write_text(PLUGIN)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "reload_lamps", raising=False)


def write(path: Path, workers: str, more: str = "") -> str:
    path.write_text(f"name: site\nplugins: [reload_lamps]\n{more}workers:\n{workers}")
    return str(path)


def judged(tmp_path: Path, before: str, after: str, more: tuple[str, str] = ("", "")) -> Verdict:
    old = load_settings(write(tmp_path / "old.yaml", before, more[0]))
    return judge(write(tmp_path / "new.yaml", after, more[1]), old)


def planned(verdict: Verdict) -> PlanDocument:
    assert verdict.faults == ()
    assert verdict.plan is not None
    return verdict.plan


LAMP = "  - {name: a, type: lamp, config: {port: 1883}}\n"

# --- the verdict ----------------------------------------------------------------------------


def test_a_plan_names_each_path_and_the_values_that_change(tmp_path: Path) -> None:
    """Children that workers declare too; what is below a replaced worker is replaced."""
    room = "  - {name: r, type: room, config: {lamps: 2}}\n"
    gone = "  - {name: z, type: lamp}\n"
    far = "  - {name: q, type: room, config: {lamps: 1}}\n"
    before = LAMP + room + gone + far
    after = (
        LAMP.replace("1883", "1884")
        + room.replace("lamps: 2", "lamps: 3")
        + "  - {name: n, type: lamp}\n"
        + far.replace("type: room,", "type: room, depends_on: [a],")
    )

    document = planned(judged(tmp_path, before, after))

    assert [(one.change, one.path) for one in document.changes] == [
        ("updated", "site/a"),
        ("updated", "site/r"),
        ("untouched", "site/r/lamp-0"),
        ("untouched", "site/r/lamp-1"),
        ("added", "site/r/lamp-2"),
        ("added", "site/n"),
        ("replaced", "site/q"),
        ("replaced", "site/q/lamp-0"),
        ("removed", "site/z"),
    ]
    assert document.changes[0].why == ("config.port: 1883 -> 1884",)
    assert document.changes[1].why == ("config.lamps: 2 -> 3",)
    assert summary(document) == "2 added, 2 updated, 2 replaced, 1 removed, 2 untouched"
    text = plan_text(document)
    assert "~ site/a (lamp) updated\n    config.port: 1883 -> 1884\n" in text
    assert text.endswith(summary(document))


def test_what_all_inherit_is_told_with_each_that_inherits_it(tmp_path: Path) -> None:
    more = ("global: {broker: one}\n", "global: {broker: two}\nlocation: {site: s}\n")

    document = planned(judged(tmp_path, LAMP, LAMP, more))

    assert document.settings == ("location.site: nothing -> 's'", "global.broker: 'one' -> 'two'")
    assert document.changes[0].why == (
        "global.broker: 'one' -> 'two'",
        "location.site: nothing -> 's'",
        "location_path: '' -> 's'",
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("config: {credential: OLD}", "config: {credential: NEW}"),
        ("variables: {P: OLD}, config: {credential: '{{ P }}'}",
         "variables: {P: NEW}, config: {credential: '{{ P }}'}"),
        ("variables: {api_token: OLD}", "variables: {api_token: NEW}"),
        ("variables: {}", "variables: {api_token: NEW}"),
        ("config: {port: 1}, variables: {url: 'x/OLD', password: OLD}",
         "config: {port: 2}, variables: {url: 'x/NEW', password: NEW}"),
        ("variables: {url: 'https://u:OLD@host/'}", "variables: {url: 'https://u:NEW@host/'}"),
    ],
    ids=["by the type", "through a template", "by its name", "new", "in another text", "in a URL"],
)  # fmt: skip
def test_no_secret_is_in_a_plan(tmp_path: Path, before: str, after: str) -> None:
    """Whether its key looks like one or the worker's config type says so."""
    old, new = "old-s3cret-1", "new-s3cret-2"
    lines = [
        f"  - {{name: a, type: lamp, {text.replace('OLD', old).replace('NEW', new)}}}\n"
        for text in (before, after)
    ]

    document = planned(judged(tmp_path, *lines))

    assert [one.change for one in document.changes] == ["updated"]
    assert document.changes[0].why
    for shown in (plan_text(document), msgspec.json.encode(document).decode()):
        assert old not in shown
        assert new not in shown


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("OLD", "NEW", "'…long long long long OLD' -> '…long long long long NEW'"),
        ("OLD", "OLDER", "'…g long long long OLD' -> '…g long long long OLDER'"),
        ("OLD/s3cret-1", "OLD/s3cret-2", "changed"),
    ],
    ids=["at its end", "longer", "in a secret"],
)
def test_two_long_texts_are_shown_where_they_part(
    tmp_path: Path, before: str, after: str, told: str
) -> None:
    def lamp(text: str) -> str:
        password = text.partition("/")[2] or "none"
        path = f"{'long ' * 40}{text}"
        return f"  - {{name: a, type: lamp, variables: {{path: {path}, password: {password}}}}}\n"

    document = planned(judged(tmp_path, lamp(before), lamp(after)))

    assert f"variables.path: {told}" in document.changes[0].why


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("pool: {procs: 2}\n", "pool: {procs: 4}\n", "pool.procs: cannot be reloaded (2 -> 4)"),
        ("", "http: {listen: off}\n", "http.listen: cannot be reloaded"),
        ("", "log: {format: json}\n", "log.format: cannot be reloaded ('auto' -> 'json')"),
        ("", "metrics: {folder: m}\n", "metrics.folder: cannot be reloaded"),
    ],
)
def test_a_key_that_shapes_the_start_needs_a_restart(
    tmp_path: Path, before: str, after: str, says: str
) -> None:
    """Named with its place; nothing else of the config is taken over either."""
    verdict = judged(tmp_path, LAMP, LAMP.replace("1883", "7"), (before, after))

    (fault,) = verdict.faults
    assert says in fault
    assert fault.endswith("needs a restart")
    assert fault.startswith(str(tmp_path / "new.yaml") + ":3:")
    assert (verdict.settings, verdict.plan) == (None, None)


def test_another_token_needs_a_restart_and_is_not_shown(tmp_path: Path) -> None:
    tokens = ("http: {token: old-0123456789abcdef}\n", "http: {token: new-0123456789abcdef}\n")

    (fault,) = judged(tmp_path, LAMP, LAMP, tokens).faults

    assert "http.token: cannot be reloaded" in fault
    assert "0123456789abcdef" not in fault


def test_a_name_and_a_plugin_less_need_a_restart(tmp_path: Path) -> None:
    old = load_settings(write(tmp_path / "old.yaml", LAMP))
    path = tmp_path / "new.yaml"
    path.write_text("name: other\n")

    faults = judge(str(path), old).faults

    assert any("name: cannot be reloaded ('site' -> 'other')" in fault for fault in faults)
    assert any("plugins: cannot be reloaded (reload_lamps left out)" in fault for fault in faults)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("tick_interval_s: 0.5\n", "tick_interval_s"),
        ("log: {level: debug}\n", "log.level"),
        ("reload: {watch: true}\n", "reload.watch"),
        ("location_gaps: unknown_all\n", "location_gaps"),
    ],
)
def test_a_key_that_is_taken_over_is_in_the_plan(tmp_path: Path, more: str, key: str) -> None:
    document = planned(judged(tmp_path, LAMP, LAMP, ("", more)))

    assert [text.partition(":")[0] for text in document.settings] == [key]


def test_all_faults_of_a_bad_config_are_told_at_once(tmp_path: Path) -> None:
    """Worker code that refuses, an unknown type, a key that needs a restart."""
    bad = "  - {name: a, type: lamp, config: {port: x}}\n  - {name: b, type: lampe}\n"

    verdict = judged(tmp_path, LAMP, bad, ("", "pool: {spares: 9}\n"))

    told = "\n".join(verdict.faults)
    for part in ("workers[0].config.port", "did you mean 'lamp'?", "pool.spares"):
        assert part in told
    assert verdict.settings is None


def test_a_present_config_that_its_plugins_refuse_by_now_cannot_be_compared(
    tmp_path: Path,
) -> None:
    """No plan, so no reload: what runs is then not what the files say."""
    gone = "  - {name: a, type: gone}\n"

    (fault,) = judged(tmp_path, gone, LAMP).faults

    assert fault.startswith("cannot compare: what runs now is no longer fine")
    assert "unknown worker type 'gone'" in fault


def test_no_config_before_means_that_all_is_added(tmp_path: Path) -> None:
    room = "  - {name: r, type: room, config: {lamps: 2}}\n"

    document = planned(judge(write(tmp_path / "new.yaml", room), None))

    assert {one.change for one in document.changes} == {"added"}
    assert len(document.changes) == 3


def test_what_an_answer_carries_of_a_plan_is_bounded() -> None:
    counts = dict.fromkeys(KINDS, 0) | {"added": CHANGES_MAX + 5, "untouched": 7}
    changes = [PlannedChange(f"site/{n}", "added", "lamp") for n in range(CHANGES_MAX + 5)]
    changes += [PlannedChange(f"site/u{n}", "untouched", "lamp") for n in range(7)]

    short = shortened(PlanDocument(counts, (), tuple(changes)))

    assert (len(short.changes), short.left_out, short.counts) == (CHANGES_MAX, 5, counts)
    assert "and 5 more" in plan_text(short)


# --- the file -------------------------------------------------------------------------------


def test_a_change_is_told_once_and_only_when_it_holds_still(tmp_path: Path) -> None:
    """Half-written files, files that are away for a moment and files put in place by a rename."""
    path = tmp_path / "site.yaml"
    path.write_text("a")
    watch = FileWatch(str(path), mark_of(str(path)))
    assert [watch.look() for _ in range(3)] == [False] * 3

    path.write_text("half")
    assert not watch.look()
    path.write_text("half and half")
    assert not watch.look()
    assert watch.look()
    watch.take()
    assert not watch.look()

    path.unlink()
    assert [watch.look() for _ in range(3)] == [False] * 3
    (tmp_path / "new").write_text("half and half")
    os.replace(tmp_path / "new", path)
    assert [watch.look(), watch.look()] == [False, True]


# --- who asks -------------------------------------------------------------------------------


class FakeCheck:
    """A check that the test answers for."""

    made: list[FakeCheck] = []  # emptied by the fixture

    def __init__(
        self,
        path: str,
        before: Settings,
        poller: object,
        done: Callable[[Verdict], None],
        bury: object,
    ) -> None:
        self.before, self.done = before, done
        self.deadline, self.pid = 10.0, 5
        self.closed = False
        self.made.append(self)

    def tend(self, now: float) -> None:
        """Its deadline is the real one's."""

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[FakeCheck]:
    FakeCheck.made.clear()
    monkeypatch.setattr(reloads, "Check", FakeCheck)
    return FakeCheck.made


class Asking:
    """A reloader of one file, what it has applied and told."""

    def __init__(self, path: Path | None = None, watch: bool = False) -> None:
        self.applied: list[Settings] = []
        self.told: list[Event] = []
        self.refuse = ""
        settings = msgspec.convert({"name": "site", "reload": {"watch": watch}}, Settings)
        source = ConfigFile(str(path), settings) if path is not None else None
        self.reloader = Reloader(source, Poller(), self.told.append, self._apply, lambda _pid: None)

    def _apply(self, settings: Settings) -> None:
        if self.refuse:
            raise SpecError(self.refuse)
        self.applied.append(settings)


def good(name: str = "site", watch: bool = False) -> Verdict:
    settings = msgspec.convert({"name": name, "reload": {"watch": watch}}, Settings)
    counts = dict.fromkeys(KINDS, 0) | {"added": 1, "untouched": 2}
    changes = (PlannedChange("site/a", "added", "lamp"),)
    return Verdict(settings=settings, plan=PlanDocument(counts, ("log.level: x -> y",), changes))


def test_one_check_runs_at_a_time_and_all_who_ask_meanwhile_share_the_next(
    tmp_path: Path, checks: list[FakeCheck]
) -> None:
    asking, answers = Asking(tmp_path / "site.yaml"), list[Verdict]()
    for _ in range(50):
        asking.reloader.ask("SIGHUP", answers.append)
    assert len(checks) == 1
    checks[0].done(good("one"))
    assert (len(answers), len(checks)) == (1, 2)
    assert checks[1].before.name == "one"
    checks[1].done(good("two"))
    assert (len(answers), len(checks)) == (50, 2)
    assert [settings.name for settings in asking.applied] == ["one", "two"]
    assert [event.name() for event in asking.told] == ["reload_applied"] * 2


def test_what_was_applied_is_told_with_its_counts(tmp_path: Path, checks: list[FakeCheck]) -> None:
    asking = Asking(tmp_path / "site.yaml")
    asking.reloader.ask("SIGHUP")
    checks[0].done(good())
    assert asking.told == [
        ReloadApplied(
            cause="SIGHUP", added=1, updated=0, replaced=0, removed=0, untouched=2,
            changes="added site/a", settings="log.level",
        )
    ]  # fmt: skip


def test_a_refused_config_is_told_and_the_next_is_compared_with_what_runs(
    tmp_path: Path, checks: list[FakeCheck]
) -> None:
    asking, answers = Asking(tmp_path / "site.yaml"), list[Verdict]()
    asking.reloader.ask("SIGHUP", answers.append)
    checks[0].done(Verdict(faults=("one", "two")))
    assert asking.applied == []
    assert asking.told == [ReloadRefused(cause="SIGHUP", faults="one\ntwo")]
    asking.refuse = "cannot reload: the supervisor stops"
    asking.reloader.ask("SIGHUP", answers.append)
    checks[1].done(good("other"))
    assert [verdict.faults for verdict in answers] == [("one", "two"), (asking.refuse,)]
    asking.reloader.ask("SIGHUP")
    assert checks[2].before.name == "site"


def test_a_plugin_that_was_changed_since_it_was_loaded_needs_a_restart(
    tmp_path: Path, checks: list[FakeCheck]
) -> None:
    """The check has run other code than the root would."""
    __import__("reload_lamps")
    settings = msgspec.convert({"name": "site", "plugins": ["reload_lamps"]}, Settings)
    told, applied, answers = list[Event](), list[Settings](), list[Verdict]()
    reloader = Reloader(
        ConfigFile("site.yaml", settings), Poller(), told.append, applied.append, lambda _pid: None
    )
    reloader.ask("SIGHUP", answers.append)
    checks[0].done(good())
    (tmp_path / "reload_lamps.py").write_text(PLUGIN + "\n")
    for dry in (False, True):
        reloader.ask("SIGHUP", answers.append, dry=dry)
        checks[-1].done(good())
    assert [verdict.faults for verdict in answers] == [(), *[
        ("plugins: reload_lamps was changed since it was loaded, want a restart to load it anew",)
    ] * 2]  # fmt: skip
    assert len(applied) == 1
    assert [event.name() for event in told] == ["reload_applied", "reload_refused"]


def test_a_plan_is_only_answered(tmp_path: Path, checks: list[FakeCheck]) -> None:
    asking, answers = Asking(tmp_path / "site.yaml"), list[Verdict]()
    asking.reloader.ask("an operator", answers.append, dry=True)
    checks[0].done(good())
    assert (asking.applied, asking.told) == ([], [])
    assert answers[0].plan is not None


def test_without_a_file_there_is_nothing_to_reload(checks: list[FakeCheck]) -> None:
    """A terminal that goes away tells nothing; who waits for an answer gets one."""
    asking, answers = Asking(), list[Verdict]()
    asking.reloader.ask("SIGHUP")
    asking.reloader.ask("an operator", answers.append)
    assert (checks, asking.told, asking.reloader.next_moment()) == ([], [], None)
    assert answers[0].faults == ("cannot reload: started without a config file",)


def test_who_still_waits_when_the_supervisor_ends_gets_an_answer(
    tmp_path: Path, checks: list[FakeCheck]
) -> None:
    asking, answers = Asking(tmp_path / "site.yaml"), list[Verdict]()
    for _ in range(2):
        asking.reloader.ask("an operator", answers.append)
    asking.reloader.close()
    assert checks[0].closed
    assert [verdict.faults for verdict in answers] == [("cannot reload: the supervisor stops",)] * 2


def test_a_watched_file_is_read_when_it_has_changed_and_no_other_is(
    tmp_path: Path, checks: list[FakeCheck]
) -> None:
    """Bad content is told once, not each second; the watch itself can be turned on and off."""
    path = tmp_path / "site.yaml"
    path.write_text("one")
    asking = Asking(path)
    now = 100.0

    def look(times: int) -> int:
        nonlocal now
        for _ in range(times):
            asking.reloader.tend(now)
            now += LOOK_S
        return len(checks)

    path.write_text("changed, but nobody watches")
    assert look(3) == 0
    assert asking.reloader.next_moment() is None
    asking.reloader.ask("SIGHUP")
    checks[0].done(good(watch=True))
    assert look(3) == 1
    assert asking.reloader.next_moment() == now
    path.write_text("changed")
    assert look(3) == 2
    checks[1].done(Verdict(faults=("bad",)))
    assert look(5) == 2
    path.write_text("good again")
    assert look(3) == 3
    checks[2].done(good(watch=False))
    path.write_text("changed, and nobody watches any more")
    assert look(3) == 3
    causes: list[Any] = [getattr(event, "cause", "") for event in asking.told]
    assert causes == ["SIGHUP", "a change of the file", "a change of the file"]
