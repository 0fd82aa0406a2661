"""Finds worker types: the config's ``plugins`` and the entry points ``fsmv2.workers``.

Knows: how a module is imported and asked for its ``WORKERS``.
Does not know: configs, what workers do.
Invariants: whatever a plug-in does wrong becomes a fault with its file and line, never a
traceback; all plug-ins are tried before one fault is raised; folders are only ever added at the
end of the import path, so that no file beside a config can shadow an installed module.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fsmv2.ipc import metricfile
from fsmv2.supervisor.config.configfault import ConfigError, Fault, Places, hint
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.worker import Worker, WorkerFactory

GROUP = "fsmv2.workers"


@dataclass(frozen=True)
class Plugins:
    """``factory`` knows the worker types; ``modules`` are the modules they came from, in the
    order of their import; ``search`` are the folders that were added to the import path;
    ``missing`` says that worker types may be missing, for not all of them could be had."""

    factory: WorkerFactory
    modules: tuple[str, ...]
    search: tuple[str, ...] = ()
    missing: bool = False


def load_plugins(
    names: Sequence[str], search: Sequence[str | Path] = (), places: Places | None = None
) -> Plugins:
    """Import the modules ``names`` and those of the entry points, and collect their WORKERS.

    The folders of ``search`` and the current one are added to the end of `sys.path`, for good:
    a plug-in may import its neighbours later. Raises `ConfigError` with a fault per failure,
    at ``plugins[i]``.
    """
    plugins, faults = try_plugins(names, search, places)
    if faults:
        raise ConfigError(faults)
    return plugins


def try_plugins(
    names: Sequence[str], search: Sequence[str | Path] = (), places: Places | None = None
) -> tuple[Plugins, list[Fault]]:
    """`load_plugins` that gives its faults, with what could be had in spite of them."""
    # A plug-in may create metrics when it is imported, long before there is a folder for them.
    metricfile.announce()
    folders = _add_to_path(search)
    loading = _Loading(Places() if places is None else places)
    for index, name in enumerate(names):
        place = f"plugins[{index}]"
        if name in names[:index]:
            first = list(names).index(name)
            text = f"{name!r} is listed twice, first at plugins[{first}]"
            loading.add(place, text, missing=False)
        else:
            loading.load(place, name, "WORKERS")
    for place, name, attribute in _entry_points():
        if name not in loading.modules:
            loading.load(place, name, attribute)
    plugins = Plugins(loading.factory, tuple(loading.modules), folders, loading.missing)
    return plugins, loading.faults


def _add_to_path(search: Sequence[str | Path]) -> tuple[str, ...]:
    folders: list[str] = []
    for folder in (*search, "."):
        try:
            full = str(Path(folder).resolve())
        except OSError:  # the current folder was removed
            continue
        if full not in folders:
            folders.append(full)
        if full not in sys.path:
            sys.path.append(full)
    importlib.invalidate_caches()
    return tuple(folders)


def _entry_points() -> Iterator[tuple[str, str, str]]:
    for point in importlib.metadata.entry_points(group=GROUP):
        yield f"entry point {point.name!r} of group {GROUP}", point.module, point.attr or "WORKERS"


class _Loading:
    def __init__(self, places: Places) -> None:
        self.places = places
        self.factory = WorkerFactory()
        self.modules: list[str] = []
        self.faults: list[Fault] = []
        self.missing = False

    def add(self, place: str, message: str, missing: bool = True) -> None:
        self.missing |= missing
        self.faults.append(self.places.fault(place, message))

    def load(self, place: str, name: str, attribute: str) -> None:
        if not name or name.startswith("."):  # relative to a package, and there is none
            self.add(place, f"cannot import {name!r}{_want_name(name)}")
            return
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            self.add(place, f"cannot import {name!r}: {_told(name, error)}")
            return
        self.modules.append(name)
        workers = getattr(module, attribute, None)
        if not isinstance(workers, list | tuple):
            got = "none" if workers is None else type(workers).__name__
            want = f"want {attribute} = [YourWorker, ...], a list of Worker classes"
            self.add(place, f"module {name!r} has no usable {attribute}: got {got}, {want}")
            return
        for index, worker in enumerate(workers):
            self._register(f"{place}.{attribute}[{index}]", module, worker)

    def _register(self, place: str, module: ModuleType, worker: object) -> None:
        if isinstance(worker, type) and issubclass(worker, Worker):
            type_name = getattr(worker, "type_name", None)
            known = isinstance(type_name, str) and type_name in self.factory
            if known and self.factory.type_of(str(type_name)) is worker:
                return  # two modules may list one class
            try:
                self.factory.register(worker)
            except SpecError as error:
                self.add(place, str(error))
            except Exception as error:  # a metaclass or a descriptor of the plug-in's own
                self.add(place, f"cannot register {worker!r}: {type(error).__name__}: {error}")
        else:
            got = type(worker).__name__ if not isinstance(worker, type) else worker.__qualname__
            self.add(place, f"module {module.__name__!r}: got {got}, want a subclass of Worker")


def _told(name: str, error: BaseException) -> str:
    """The traceback's last line, and where in the plug-in it came from."""
    if isinstance(error, ModuleNotFoundError) and error.name and _is_part(error.name, name):
        return f"{error}{_advice(name)}"
    last = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{last} ({error.filename}:{error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen importlib")
        and frame.filename not in (__file__, importlib.__file__)
    ]
    if not frames:
        return last
    # The plug-in's own line, not the depth of some library where the error surfaced.
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"{last} ({own[-1].filename}:{own[-1].lineno})"


def _is_part(missing: str, name: str) -> bool:
    return name == missing or name.startswith(f"{missing}.")


def _want_name(name: str) -> str:
    stem = Path(name).name.removesuffix(".py").lstrip(".") or "my_plugin"
    return f", want a module's name such as {stem!r}, not a file's"


def _advice(name: str) -> str:
    if name.endswith(".py") or os.sep in name:
        return _want_name(name)
    try:
        beside = [path.stem for folder in sys.path[-2:] for path in Path(folder).glob("*.py")]
    except OSError:
        beside = []
    near = hint(name, beside)
    return near if near.startswith(", did") else ", want a module beside the config or installed"
