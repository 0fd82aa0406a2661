"""House rules that a machine can check. Each failure says the file, the line and the rule."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("supervisor", "ipc", "workerproc", "communicator", "examples")

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
NAME_WORDS_MIN = 3
# Joined here, so that this file passes its own test.
LEFT_UNDONE = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")))
# Not "broker/root/child": paths of the tree begin with "root" too.
HOME_PATH = re.compile(r"(?<![\w.}])/(home|Users|root)/\w")

# Modules whose docstring does not have the parts "Knows" and "Invariants", and why.
SHORT_DOCSTRING = {
    "communicator/states/stopped.py": "one state that always says Go",
    "examples/hello.py": "the README shows it whole and promises that it is short",
    "supervisor/__main__.py": "one call; says under Knows what it must not cost",
}


@cache
def modules() -> dict[str, str]:
    """The Python files of the packages: path to source."""
    return {
        file.relative_to(ROOT).as_posix(): file.read_text("utf-8")
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
    }


@cache
def texts() -> dict[str, str]:
    """Everything people read or edit: path to text."""
    tops = (*PACKAGES, "tests", "benchmarks", "ops", ".ci")
    files = [file for top in tops for file in sorted((ROOT / top).rglob("*"))]
    files += [*sorted(ROOT.glob("*.md")), ROOT / "pyproject.toml", ROOT / ".gitignore"]
    found = {}
    for file in files:
        path = file.relative_to(ROOT)
        if file.is_file() and "__pycache__" not in path.parts and "results" not in path.parts:
            found[path.as_posix()] = file.read_text("utf-8", errors="replace")
    return found


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_that(pattern: re.Pattern[str]) -> list[str]:
    """Every line of every text that ``pattern`` is found in."""
    return [
        f"{path}:{number}: {line.strip()[:80]}"
        for path, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_files_are_short() -> None:
    """A module that needs more than 400 lines holds two ideas: give the second its own file."""
    long = [
        f"{path}: {lines} lines, want at most {FILE_LINES_MAX}"
        for path, source in modules().items()
        if (lines := source.count("\n")) > FILE_LINES_MAX
    ]

    assert long == []


def test_functions_are_short() -> None:
    """A function that does not fit a screen (70 lines) has a part with a name of its own."""
    long = [
        f"{path}:{node.lineno}: {node.name} has {lines} lines, want at most {FUNCTION_LINES_MAX}"
        for path, source in modules().items()
        for node in functions(source)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert long == []


def test_modules_say_what_they_know() -> None:
    """A module's docstring tells what it knows and which invariants it holds."""
    poor = [
        f"{path}: no {part!r} in its docstring"
        for path, source in modules().items()
        if not path.endswith("__init__.py") and path not in SHORT_DOCSTRING
        for part in ("Knows:", "Invariants:")
        if part not in (ast.get_docstring(ast.parse(source)) or "")
    ]

    assert poor == []


def test_every_module_has_a_docstring() -> None:
    """Also the exceptions of the test above, and packages that hold anything."""
    bare = [
        path
        for path, source in modules().items()
        if source.strip() and not ast.get_docstring(ast.parse(source))
    ]

    assert bare == []


def test_exceptions_are_still_needed() -> None:
    """A module that has the parts by now, or is gone, is no exception any more."""
    idle = [
        path
        for path in SHORT_DOCSTRING
        if path not in modules()
        or all(
            part in (ast.get_docstring(ast.parse(modules()[path])) or "")
            for part in ("Knows:", "Invariants:")
        )
    ]

    assert idle == []


def test_nothing_is_left_undone_in_a_comment() -> None:
    """What is left to do stands where it is planned, not in the source."""
    assert lines_that(LEFT_UNDONE) == []


def test_no_file_knows_a_home_folder() -> None:
    """A path below somebody's home folder works on one machine only."""
    assert lines_that(HOME_PATH) == []


def test_tests_say_what_they_promise() -> None:
    """A test has a docstring, or a name that reads as a sentence (three words or more)."""
    mute = [
        f"{path}:{node.lineno}: {node.name}"
        for path, source in texts().items()
        if path.startswith("tests/") and path.endswith(".py")
        for node in functions(source)
        if node.name.startswith("test_")
        and not ast.get_docstring(node)
        and len(node.name.split("_")) <= NAME_WORDS_MIN
    ]

    assert mute == []


def test_scripts_can_be_run() -> None:
    """Whatever lies in ops/ and .ci/ begins with its interpreter and is executable."""
    scripts = [
        file
        for folder in ("ops", ".ci")
        for file in sorted((ROOT / folder).iterdir())
        if file.is_file() and not file.suffix
    ]
    assert {file.name for file in scripts} >= {"dev", "demo", "test", "run"}
    for file in scripts:
        assert file.read_text("utf-8").startswith("#!/usr/bin/env "), file
        assert file.stat().st_mode & 0o111 == 0o111, f"{file} is not executable"
