"""README.md and ARCHITECTURE.md say what the code says.

Tables are made from the code here and must stand in the documents word for word; when one of
these tests fails, its message has the text to paste.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import click
import msgspec
import pytest
from allowedwords import allowed
from msgspec import inspect

from fsmv2.examples.demo import demo
from fsmv2.supervisor.commandline.cli import EXIT_CODES, cli
from fsmv2.supervisor.config.settings import Settings, default_procs
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.procfsm import diagram
from fsmv2.supervisor.telemetry.metrictable import table_markdown
from fsmv2.supervisor.web.app import make_app
from fsmv2.supervisor.web.state import PublishedState

ROOT = Path(__file__).resolve().parents[2]
HELLO_LINES_MAX = 25

# What the table says of a default that a function makes.
MADE_DEFAULTS = {default_procs: "one per CPU, at least 2"}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_REFERENCE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_FILE = re.compile(
    r"`((?:supervisor|ipc|workerproc|communicator|examples|ops|benchmarks)/[\w./-]+)`"
)


@cache
def document(name: str) -> str:
    """The text of a document."""
    return (ROOT / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    return [text for kind, text in _BLOCK.findall(document(name)) if kind == language]


def rows_below(name: str, head: str) -> list[list[str]]:
    """The rows of the table whose heading line is ``head``, as cells."""
    lines = document(name).splitlines()
    assert head in lines, f"{name} has no table {head}"
    rows = []
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def commands() -> dict[str, click.Command]:
    """All commands: built in, and those our own distribution adds as entry points."""
    added = tomllib.loads(document("pyproject.toml"))["project"]["entry-points"]["fsmv2.commands"]
    assert added == {"demo": "fsmv2.examples.demo:demo"}
    return {**cli.commands, "demo": demo}


def options_of(command: click.Command) -> list[str]:
    """The long names of a command's options."""
    return [name for p in command.params if isinstance(p, click.Option) for name in p.opts]


def shell_lines(name: str) -> Iterator[list[str]]:
    """The words of each command in the documents' shell blocks."""
    for block in blocks(name, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


# --- commands -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_commands_in_the_documents_exist(name: str) -> None:
    """Each script is there, and each `fsmv2` command has the options it is shown with."""
    known = commands()
    for words in shell_lines(name):
        if words[0].startswith("./"):
            file = ROOT / words[0]
            assert file.is_file(), words
            assert file.stat().st_mode & 0o111, words
        if words[0] == "fsmv2":
            assert words[1] in known, words
            shown = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
            assert shown <= {*options_of(known[words[1]]), "--help"}, words


def test_the_two_commands_are_there() -> None:
    """A newcomer needs two commands: see it work, and run all checks."""
    shown = [words[0] for words in shell_lines("README.md")]

    assert {"./ops/demo", "./ops/test"} <= set(shown)


def test_continuous_integration_runs_the_test_command() -> None:
    """What is checked on a server is what the README tells a newcomer to run."""
    lines = document(".ci/run").splitlines()

    assert "./ops/test" in lines
    assert "set -euo pipefail" in lines


def test_command_table_is_the_command_lines() -> None:
    """The table lists every command with its options and its own help text."""
    wanted = []
    for name, command in commands().items():
        arguments = [p.human_readable_name for p in command.params if isinstance(p, click.Argument)]
        options = ", ".join(f"`{option}`" for option in options_of(command)) or "–"
        shown = " ".join(["fsmv2", name, *arguments])
        wanted.append([f"`{shown}`", options, str(command.help)])

    assert_rows("README.md", "| command | options | what it does |", wanted)


def test_exit_codes_are_the_command_lines() -> None:
    """The table says of each exit code what `fsmv2 --help` says."""
    wanted = [[str(code), text] for code, text in EXIT_CODES.items()]

    assert_rows("README.md", "| exit code | meaning |", wanted)


def assert_rows(name: str, head: str, wanted: Sequence[Sequence[str]]) -> None:
    """Compare a table; the message has the lines to paste."""
    paste = "\n".join(f"| {' | '.join(row)} |" for row in wanted)
    assert rows_below(name, head) == [list(row) for row in wanted], f"want\n{paste}"


# --- config ---------------------------------------------------------------------------------


def keys_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Each key of the config: its path, what is allowed, its default."""
    for field in inspect.type_info(kind).fields:
        path = f"{prefix}{field.encode_name}"
        inner = field.type
        if isinstance(inner, inspect.VarTupleType) and isinstance(
            inner.item_type, inspect.StructType
        ):
            yield path, "a list", "`[]`"
            yield from keys_of(inner.item_type.cls, f"{path}[].")
        elif isinstance(inner, inspect.StructType) and inner.cls is not Location:
            yield from keys_of(inner.cls, f"{path}.")
        else:
            yield path, allowed(inner), default_of(field)


def default_of(field: inspect.Field) -> str:
    """A field's default as JSON, or in words."""
    if field.default_factory in MADE_DEFAULTS:
        return MADE_DEFAULTS[cast(Any, field.default_factory)]
    if field.required:
        return "required"
    value = field.default
    if value is inspect.NODEFAULT:
        value = cast(Any, field.default_factory)()
    return f"`{json.dumps(msgspec.to_builtins(value))}`"


def test_config_keys_are_the_settings() -> None:
    """The table lists every key with what is allowed and its default, in the settings' order."""
    head = "| key | allowed | default | meaning |"
    wanted = [[f"`{path}`", what, default] for path, what, default in keys_of(Settings)]
    found = rows_below("README.md", head)
    paste = "\n".join(f"| {' | '.join(row)} | … |" for row in wanted)

    assert [row[:3] for row in found] == wanted, f"want\n{paste}"
    assert all(len(row) == 4 and row[3] for row in found)


def test_the_example_site_shows_every_key_and_its_default() -> None:
    """The README and the file's head say so; these have a value of their own, or a remark."""
    own = {"name", "plugins", "location", "global", "actions", "pool.procs", "workers"}
    shown = msgspec.yaml.decode(document("examples/site.yaml"))
    for path, _, default in keys_of(Settings):
        value: Any = shown
        for part in path.split("."):
            value = value[part.removesuffix("[]")]
            value = value[0] if part.endswith("[]") else value
        if path not in own and not path.startswith("workers[]."):
            assert value == json.loads(default.strip("`")), path


# --- what it shows --------------------------------------------------------------------------


def test_routes_are_the_applications() -> None:
    """The table lists every path that is served, and no other."""
    app = make_app(PublishedState(), cast(Any, None), "127.0.0.1", lambda: 0.0)
    served = [re.sub(r"{(\w+):\w+}", r"{\1}", route.path) for route in cast(Any, app)._app.routes]
    shown = [row[0].strip("`") for row in rows_below("README.md", "| path | answer |")]

    assert shown == served


def test_metrics_are_the_tables() -> None:
    """The metrics' table is the one the metrics are made from."""
    assert table_markdown() in document("README.md"), f"want\n{table_markdown()}"


def test_diagram_is_the_tables() -> None:
    """The life of a proc is drawn from the table the pool runs on."""
    assert blocks("ARCHITECTURE.md", "mermaid") == [f"{diagram()}\n"], f"want\n{diagram()}"


# --- code in the documents ------------------------------------------------------------------


def test_hello_world_is_the_example() -> None:
    """What the README shows is the file that is installed and tested, and it is short."""
    code = (ROOT / "examples/hello.py").read_text("utf-8")
    config = (ROOT / "examples/hello.yaml").read_text("utf-8")

    assert code in blocks("README.md", "python")
    assert config in blocks("README.md", "yaml")
    assert sum(bool(line.strip()) for line in code.splitlines()) < HELLO_LINES_MAX


def library_examples() -> list[tuple[str, str]]:
    """The README's whole scripts with what stands below each."""
    section = document("README.md").partition("## As a library")[2].partition("\n## ")[0]
    found = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", section, re.DOTALL)
    return [(script, shown) for script, shown in found]


def test_library_examples_are_all_run() -> None:
    """No script of the section stands there without what it prints."""
    scripts = [block for block in blocks("README.md", "python") if "__main__" in block]

    assert [script for script, _shown in library_examples()] == scripts
    assert len(scripts) == 4


@pytest.mark.proc
@pytest.mark.parametrize(
    ("script", "shown"), library_examples(), ids=["actions", "limits", "functions", "executor"]
)
def test_library_example_runs_as_shown(tmp_path: Path, script: str, shown: str) -> None:
    """Each of the README's scripts is whole, and prints what stands below it."""
    file = tmp_path / "script.py"
    file.write_text(script)

    done = subprocess.run(
        [sys.executable, "-P", str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=tmp_path,
    )

    assert done.stderr == ""
    assert done.stdout == shown


# --- references -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"])
def test_files_that_are_named_exist(name: str) -> None:
    """A document that names a file, or a test by its function, names one that is there."""
    text = document(name)
    for path in _FILE.findall(text):
        assert (ROOT / path).exists(), path
    for path, function in _REFERENCE.findall(text):
        assert (ROOT / path).exists(), path
        if function:
            assert f"def {function}(" in (ROOT / path).read_text("utf-8"), f"{path}::{function}"


def test_reading_order_has_every_module() -> None:
    """ARCHITECTURE.md says of each module of ours in one line what it is for."""
    listed = {row[0].strip("`") for row in rows_below("ARCHITECTURE.md", "| file | what it is |")}
    modules = {
        file.relative_to(ROOT).as_posix()
        for package in ("supervisor", "ipc", "workerproc")
        for file in (ROOT / package).rglob("*.py")
        if file.name != "__init__.py"
    }

    assert modules - listed == set()
    assert {path for path in listed if not (ROOT / path).exists()} == set()


def test_every_invariant_has_its_row() -> None:
    """I1 to I12 are each told with where they are held."""
    rows = rows_below("ARCHITECTURE.md", "| invariant | held in | shown by |")

    assert [row[0].partition(" ")[0] for row in rows] == [f"I{n}" for n in range(1, 13)]
