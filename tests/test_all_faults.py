"""All that is wrong with a config is told in one go, by `check`, `plan` and `run`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fsmv2.supervisor.commandline.cli import cli
from fsmv2.supervisor.config.checkprocess import judge
from fsmv2.supervisor.config.config import load_text
from fsmv2.supervisor.config.configfault import ConfigError, hint
from fsmv2.supervisor.store.sqlite import SqliteStore

TWICE = """\
name: site
plugins: [fsmv2.examples.faulty, fsmv2.examples.faulty{more}]
http: {{listen: nowhere}}
store: {{kind: sqlite, path: "{store}"}}
workers:
  - {{name: a, type: hangs, config: {{every_s: soon}}}}
  - {{name: a, type: hangs, config: {{nmae: x}}}}
  - {{name: c, type: unheard, config: {{x: "{{{{ NONE }}}}"}}}}
"""
OF_ALL = (
    "plugins[1]: 'fsmv2.examples.faulty' is listed twice, first at plugins[0]",
    "http.listen: got 'nowhere', want HOST:PORT",
    "workers[1].name: name 'a' is used twice",
    "workers[0].config.every_s: got 'soon'",
    "workers[1].config.nmae: unknown key 'nmae'",
    "workers[2].config.x: template needs 'NONE'",
)


def check(path: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, [*(more or ("check",)), str(path)])


def write(folder: Path, store: str = "s.db", more: str = "") -> Path:
    path = folder / "site.yaml"
    path.write_text(TWICE.format(store=store, more=more))
    return path


def test_plug_in_listed_twice_hides_nothing(tmp_path: Path) -> None:
    """One line was told, and seven others after it was mended."""
    path = write(tmp_path, str(tmp_path))
    result = check(path)
    assert result.exit_code == 2
    faults = result.stderr.splitlines()
    for told in (*OF_ALL, "workers[2].type: unknown", "store.path: got a folder, want a file"):
        assert len([line for line in faults if told in line]) == 1, told
    assert len(faults) == 8
    places = [tuple(map(int, line.split(f"{path}:")[1].split(":")[:2])) for line in faults]
    assert places == sorted(places)
    assert len(judge(str(path), None).faults) == 7  # it looks at no store
    assert check(path, "run").exit_code == 2


def test_plug_in_that_is_missing_hides_only_what_it_may_bring(tmp_path: Path) -> None:
    result = check(write(tmp_path, more=", not_there_at_all, ../x"))
    assert result.exit_code == 2
    told = (
        "plugins[2]: cannot import 'not_there_at_all': No module",
        "plugins[3]: cannot import '../x', want a module's name such as 'x', not a file's",
    )
    for one in (*OF_ALL, *told):
        assert one in result.stderr
    assert "unknown worker type" not in result.stderr
    assert len(result.stderr.splitlines()) == 8


@pytest.mark.parametrize("name", ["..", "../x.py", ".x", ""])
def test_name_of_no_module_is_refused_as_such(name: str, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f'name: site\nplugins: ["{name}"]\n')
    told = check(path).stderr
    assert "plugins[0]: cannot import " in told
    assert "want a module's name such as '" in told
    assert "package" not in told


def test_plan_tells_of_both_configs(tmp_path: Path) -> None:
    other, path = tmp_path / "other.yaml", tmp_path / "site.yaml"
    result = CliRunner().invoke(cli, ["plan", str(path), "--against", str(other)])
    assert result.exit_code == 2
    for each in (other, path):
        assert f"{each}: cannot read config: No such file" in result.stderr


# --- the store's place ----------------------------------------------------------------------


def check_store(folder: Path, store: Path | str) -> Result:
    path = folder / "site.yaml"
    path.write_text(f"name: site\nstore: {{kind: sqlite, path: {store}}}\n")
    return check(path)


def test_check_refuses_a_store_where_none_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("mine\n")
    cases = {
        str(tmp_path): "got a folder, want a file",
        str(tmp_path / "notes"): "it is no store of fsmv2, got a file of 5 bytes that is no SQLite",
        "./site.yaml": "got the config's own file, want a store's file",
    }
    for store, told in cases.items():
        result = check_store(tmp_path, store)
        assert result.exit_code == 2
        assert f":2:23: store.path: {told}" in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["notes", "site.yaml"]


def test_check_takes_a_store_there_is_and_a_path_where_none_is(tmp_path: Path) -> None:
    assert check_store(tmp_path, tmp_path / "s.db").exit_code == 0
    SqliteStore(str(tmp_path / "s.db")).close()
    assert check_store(tmp_path, tmp_path / "s.db").exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["s.db", "site.yaml"]


# --- words ----------------------------------------------------------------------------------


def test_two_letters_are_near_to_nothing() -> None:
    assert hint("no", ["debug", "info"]) == ", want one of debug, info"
    assert hint("inf", ["debug", "info"]) == ", did you mean 'info'?"
    with pytest.raises(ConfigError, match=r"log\.level: got 'no', want one of 'debug'"):
        load_text("name: site\nlog: {level: no}\n", "yaml")


@pytest.mark.parametrize("depth", [65, 5_000, 100_000])
def test_nesting_too_deep_is_told_with_the_limit(depth: int) -> None:
    with pytest.raises(ConfigError, match="nested too deep, want at most 64 levels"):
        load_text(f"name: site\nglobal: {'[' * depth}{']' * depth}\n", "yaml")
