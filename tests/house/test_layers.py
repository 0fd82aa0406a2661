"""The layers of ARCHITECTURE.md, read off the imports.

Every import of every package counts: at the top of a module, inside a function, for types
only, relative, and by name through `import_module`. A module named in a string counts too,
because a name is how one would get around this test.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

import fsmv2.supervisor

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("supervisor", "ipc", "workerproc", "communicator", "examples")

CORE, SHELL, IPC, WORKERPROC, PLUGIN = "core", "shell", "ipc", "workerproc", "plug-in"

# What the core may use of the standard library: nothing in it reads a clock, a file, a socket
# or a random number. A new entry must be as pure as these.
PURE = frozenset(
    {"__future__", "abc", "bisect", "collections", "contextlib", "copy", "dataclasses", "enum"}
    | {"functools", "hashlib", "heapq", "hmac", "itertools", "json", "math", "operator", "re"}
    | {"string", "types", "typing"}
)
# `Path` is the type of `ActionContext.scratch`; the core makes no path and opens none. A
# template's budget begins and ends with one rendering; jinja2 hands nothing through to filters.
PURE_IN = {
    "supervisor/core/action.py": frozenset({"pathlib"}),
    "supervisor/core/templatebudget.py": frozenset({"contextvars"}),
    # A date is a value that YAML has; no clock is read.
    "supervisor/core/variables.py": frozenset({"datetime"}),
}

# Each third-party library in one place, so that its next major version is one place's work.
# msgspec is everywhere: its Structs are our data.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    # zstd: the standard library's from Python 3.14 on, its backport before.
    "backports": ("communicator/transport/compression.py",),
    "compression": ("communicator/transport/compression.py",),
    "click": ("supervisor/commandline/cli*.py", "examples/demo.py"),
    # Only a pool that was told to takes calls as dill: `ActionPool(callables=True)`.
    "dill": ("supervisor/library/callables.py",),
    "jinja2": ("supervisor/core/template.py",),
    "multiprocess": ("supervisor/system/processes.py",),
    # The value class must be there before any metric, in the root and in the template, and
    # the two may share nothing but ipc.
    "prometheus_client": (
        *("supervisor/telemetry/metrics.py", "supervisor/web/*", "ipc/metricfile.py"),
        "communicator/metrics.py",
    ),
    "psutil": ("supervisor/probe/host.py", "supervisor/web/*"),
    "starlette": ("supervisor/web/*",),
    "structlog": ("supervisor/telemetry/logs.py",),
    "urllib3": ("communicator/transport/http.py", "communicator/transport/connections.py"),
    "uvicorn": ("supervisor/web/*",),
    "yaml": ("supervisor/config/config*.py",),
}
# HTTP clients of the standard library. The command line asks its own supervisor.
HTTP_CLIENTS = ("http.client", "urllib.request")
HTTP_CLIENTS_IN = ("communicator/transport/*", "supervisor/commandline/client.py")

# What each layer may import of ours, as prefixes of dotted names.
OURS: dict[str, tuple[str, ...]] = {
    CORE: ("fsmv2.supervisor.core",),
    SHELL: ("fsmv2.supervisor", "fsmv2.ipc"),
    IPC: ("fsmv2.ipc",),
    WORKERPROC: ("fsmv2.workerproc", "fsmv2.ipc"),
}
# The demo is a command, not a plug-in: it starts a supervisor the way the command line does. The
# pumps are a program that embeds the communicator's inner half.
BEYOND_PUBLIC = {
    "examples/demo.py": ("fsmv2.supervisor.commandline.cli", "fsmv2.communicator.spool"),
    "examples/pumps.py": ("fsmv2.communicator.switchboard", "fsmv2.communicator.testing"),
}
# The shell names these in strings and imports them in another process only.
NAMED = {
    "supervisor/pool/templateprocess.py": "fsmv2.workerproc.template:template_main",
    "supervisor/pool/spawnedproc.py": "fsmv2.workerproc.spawned:spawned_main",
}

_MODULE_NAME = re.compile(rf"fsmv2\.({'|'.join(PACKAGES)})(\.\w+)*(:\w+)?")


class Import(NamedTuple):
    """``module`` is what is imported from, ``name`` what is imported (empty: the module)."""

    line: int
    module: str
    name: str

    @property
    def target(self) -> str:
        """The dotted name of what arrives."""
        return f"{self.module}.{self.name}" if self.name else self.module


def imports_of(path: str, source: str) -> Iterator[Import]:
    """All imports in ``source``, relative ones resolved."""
    package = ["fsmv2", *PurePosixPath(path).parent.parts]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from (Import(node.lineno, alias.name, "") for alias in node.names)
            case ast.ImportFrom():
                module = node.module or ""
                if node.level:
                    above = package[: len(package) - node.level + 1]
                    module = ".".join([*above, module] if module else above)
                yield from (Import(node.lineno, module, alias.name) for alias in node.names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Import(node.lineno, name, "")


def names_of(source: str) -> Iterator[tuple[int, str]]:
    """String constants that are the name of one of our modules and nothing else."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if _MODULE_NAME.fullmatch(text):
                yield node.lineno, text


def layer_of(path: str) -> str:
    """The layer a file belongs to."""
    if path.startswith("supervisor/core/"):
        return CORE
    top = path.partition("/")[0]
    return {"supervisor": SHELL, "ipc": IPC, "workerproc": WORKERPROC}.get(top, PLUGIN)


def violations(files: Mapping[str, str], public: frozenset[str]) -> list[str]:
    """What in ``files`` (path to source) breaks the layers, one text each."""
    found: list[str] = []
    for path, source in sorted(files.items()):
        for each in imports_of(path, source):
            why = _fault(path, each, public)
            if why:
                found.append(f"{path}:{each.line}: imports {each.target}: {why}")
        if layer_of(path) is SHELL:
            found += [
                f"{path}:{line}: names {name}: the shell knows no module of another layer but ipc"
                for line, name in names_of(source)
                if not _within(name, ("fsmv2.supervisor", "fsmv2.ipc")) and NAMED.get(path) != name
            ]
    return found


def _fault(path: str, each: Import, public: frozenset[str]) -> str:
    top = each.module.partition(".")[0]
    if top == "fsmv2":
        return _fault_of_ours(path, each, public)
    if top in PACKAGES:
        return f"our packages have no bare names, want fsmv2.{each.module}"
    if top in sys.stdlib_module_names:
        return _fault_of_stdlib(path, each, top)
    if top == "msgspec":
        return ""
    allowed = THIRD_PARTY.get(top)
    if allowed is None:
        return "unknown library: say in this test where it may be used, and in pyproject.toml"
    return "" if _matches(path, allowed) else f"{top} is for {', '.join(allowed)} only"


def _fault_of_stdlib(path: str, each: Import, top: str) -> str:
    if layer_of(path) is CORE and top not in PURE | PURE_IN.get(path, frozenset()):
        return "the core is pure: give it as an argument, or do it in the shell"
    if _within(each.target, HTTP_CLIENTS) and not _matches(path, HTTP_CLIENTS_IN):
        return f"an HTTP client is for {', '.join(HTTP_CLIENTS_IN)} only"
    return ""


def _fault_of_ours(path: str, each: Import, public: frozenset[str]) -> str:
    layer = layer_of(path)
    if layer is PLUGIN:
        own = f"fsmv2.{path.partition('/')[0]}"
        beyond = BEYOND_PUBLIC.get(path, ())
        if _within(each.target, (own, *beyond)) or _within(each.module, beyond):
            return ""
        if each.module == "fsmv2.supervisor" and each.name in public:
            return ""
        return "a plug-in uses its own package and the public names of fsmv2.supervisor"
    allowed = OURS[layer]
    if _within(each.target, allowed):
        return ""
    return f"{layer} may import {', '.join(allowed)} of ours"


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(PurePosixPath(path).match(pattern) for pattern in patterns)


PUBLIC = frozenset(fsmv2.supervisor.__all__)


def sources() -> dict[str, str]:
    """All Python files of our packages."""
    return {
        file.relative_to(ROOT).as_posix(): file.read_text("utf-8")
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
    }


def test_imports_keep_the_layers() -> None:
    """No file of the packages imports what its layer must not know."""
    assert violations(sources(), PUBLIC) == []


def folder_of(path: str) -> str:
    """The folder of the shell that holds a file; "the root" for those beside them."""
    parts = PurePosixPath(path).parts
    return parts[1] if len(parts) > 2 else "the root"


def test_folders_of_the_shell_use_what_architecture_says() -> None:
    """Exactly: who needs one folder more adds it to the table, and sees what it comes to."""
    files = {path: text for path, text in sources().items() if layer_of(path) is SHELL}
    folders = {folder_of(path) for path in files}
    used: dict[str, set[str]] = {folder: set() for folder in folders - {"the root"}}
    for path, source in files.items():
        for each in imports_of(path, source):
            _, _, inner = each.target.partition("fsmv2.supervisor.")
            if folder_of(path) in used and inner and not inner.startswith("core"):
                top = inner.partition(".")[0]
                used[folder_of(path)].add(top if top in folders else "the root")

    rows = re.findall(
        r"^\| `supervisor/(\w+)/` \| [^|]+ \| ([^|]+) \|$",
        (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("The shell's folders")[2],
        re.MULTILINE,
    )
    told = {folder: set(uses.split(", ")) - {"none"} for folder, uses in rows}
    assert told == {folder: uses - {folder} for folder, uses in used.items()}


def test_every_package_was_read() -> None:
    """The test above looked at something: each package, and both halves of supervisor."""
    seen = {(path.partition("/")[0], layer_of(path)) for path in sources()}

    assert seen >= {
        ("supervisor", CORE),
        ("supervisor", SHELL),
        ("ipc", IPC),
        ("workerproc", WORKERPROC),
        ("communicator", PLUGIN),
        ("examples", PLUGIN),
    }


def test_exceptions_are_still_needed() -> None:
    """An exception nobody uses any more must go: it would let the next one in unseen."""
    files = sources()
    used = {
        (each.module.partition(".")[0], path)
        for path, source in files.items()
        for each in imports_of(path, source)
    }
    idle = [
        f"{library}: {pattern}"
        for library, patterns in THIRD_PARTY.items()
        for pattern in patterns
        if not any(top == library and _matches(path, (pattern,)) for top, path in used)
    ]
    idle += [path for path, name in NAMED.items() if name not in files[path]]
    idle += [
        path
        for path, modules in BEYOND_PUBLIC.items()
        if not any(_within(each.module, modules) for each in imports_of(path, files[path]))
    ]

    assert idle == []


PLANTED = {
    "a clock in the core": ("supervisor/core/x.py", "import time"),
    "a clock in a core function": ("supervisor/core/x.py", "def f():\n    from time import time"),
    "a generator in the core": ("supervisor/core/x.py", "import random"),
    "a path in the core": ("supervisor/core/x.py", "from pathlib import Path"),
    "a submodule in the core": ("supervisor/core/x.py", "import os.path"),
    "the shell in the core": (
        "supervisor/core/x.py",
        "from fsmv2.supervisor.pool.pool import Pool",
    ),
    "the shell in the core, relative": ("supervisor/core/x.py", "from ..pool import Pool"),
    "the shell in the core, whole": ("supervisor/core/x.py", "from .. import pool"),
    "the public names in the core": ("supervisor/core/x.py", "from fsmv2.supervisor import Act"),
    "ipc in the core": ("supervisor/core/x.py", "from fsmv2 import ipc"),
    "a library in the core": ("supervisor/core/x.py", "import psutil"),
    "a second file with templates": ("supervisor/core/x.py", "import jinja2"),
    "workerproc in the shell": ("supervisor/x.py", "from fsmv2.workerproc.proc import resolve"),
    "workerproc for its types": (
        "supervisor/x.py",
        "if TYPE_CHECKING:\n    import fsmv2.workerproc",
    ),
    "workerproc by name": ("supervisor/x.py", "import_module('fsmv2.workerproc.proc')"),
    "workerproc in a string": ("supervisor/x.py", "MAIN = 'fsmv2.workerproc.proc:main'"),
    "a plug-in in the shell": ("supervisor/web/x.py", "import fsmv2.communicator"),
    "an example in the shell": ("supervisor/x.py", "from fsmv2 import examples"),
    "psutil outside the ops process": ("supervisor/x.py", "import psutil"),
    "a second file with click": ("supervisor/x.py", "import click"),
    "dill on a channel": ("ipc/x.py", "import dill"),
    "dill in the pool": ("supervisor/pool/pool.py", "from dill import dumps"),
    "a second file with structlog": ("supervisor/web/x.py", "import structlog"),
    "a second file with multiprocess": ("supervisor/x.py", "from multiprocess import Queue"),
    "starlette in the root": ("supervisor/x.py", "import starlette.routing"),
    "YAML outside the config": ("supervisor/x.py", "import yaml"),
    "a library nobody decided on": ("supervisor/x.py", "import requests"),
    "metrics in another file of ipc": ("ipc/x.py", "import prometheus_client"),
    "the shell in ipc": ("ipc/x.py", "from fsmv2.supervisor import Secret"),
    "workerproc in ipc": ("ipc/x.py", "from ..workerproc import proc"),
    "the shell in workerproc": ("workerproc/x.py", "from fsmv2.supervisor import Action"),
    "a plug-in's internals": ("communicator/x.py", "from fsmv2.supervisor.pool.pool import Pool"),
    "the core from a plug-in": ("examples/x.py", "from fsmv2.supervisor.core.fsm import Go"),
    "no public name": ("communicator/x.py", "from fsmv2.supervisor import engine"),
    "the whole package": ("communicator/x.py", "import fsmv2.supervisor"),
    "ipc from a plug-in": ("communicator/x.py", "from fsmv2.ipc import Channel"),
    "one plug-in in another": ("examples/x.py", "from fsmv2.communicator import WORKERS"),
    "an HTTP client in a state": ("communicator/states/x.py", "import urllib3"),
    "an HTTP client in an action": ("communicator/actions/x.py", "import urllib.request"),
    "an HTTP client of another form": ("examples/x.py", "from http import client"),
    "more than the command line": (
        "examples/demo.py",
        "from fsmv2.supervisor.pool.pool import Pool",
    ),
    "a bare name": ("examples/x.py", "from supervisor import Worker"),
    "a bare name, whole": ("workerproc/x.py", "import ipc"),
}


@pytest.mark.parametrize(("path", "source"), PLANTED.values(), ids=PLANTED)
def test_planted_violation_is_caught(path: str, source: str) -> None:
    """The checker sees each way to break a layer."""
    assert violations({path: source}, PUBLIC)


HARMLESS = {
    "core on core": ("supervisor/core/x.py", "from fsmv2.supervisor.core.fsm import Go"),
    "core, relative": ("supervisor/core/x.py", "from .fsm import Go"),
    "core on pure things": ("supervisor/core/x.py", "import math\nimport msgspec"),
    "shell on core": ("supervisor/x.py", "from fsmv2.supervisor.core import events"),
    "shell on ipc": ("supervisor/web/x.py", "from ...ipc import Channel"),
    "the library's own place": ("supervisor/web/x.py", "import uvicorn"),
    "proc on ipc": ("workerproc/x.py", "from fsmv2.ipc.page import Page"),
    "plug-in on public names": ("communicator/x.py", "from fsmv2.supervisor import Act, Worker"),
    "plug-in on itself": ("examples/x.py", "from . import flows"),
    "the transport": ("communicator/transport/http.py", "import urllib3, urllib.request"),
    "part of a library's name": ("supervisor/x.py", "import msgspec.json"),
    "a text about a module": ("supervisor/x.py", "TEXT = 'see fsmv2.workerproc for more'"),
}


@pytest.mark.parametrize(("path", "source"), HARMLESS.values(), ids=HARMLESS)
def test_allowed_import_passes(path: str, source: str) -> None:
    """The checker has no false alarms on what the table allows."""
    assert violations({path: source}, PUBLIC) == []
