"""The text of /metrics.

Knows: the metric files' stock reader, what multiprocess mode loses, content negotiation.
Does not know: which metrics there are, HTTP.
Invariants: one bad file or one dead process never fails a scrape; computed at most once in
`FRESH_S` seconds, whoever asks how often.
"""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from fsmv2.ipc import metricfile

FRESH_S = 1.0
KINDS_MAX = 8

_merge: Callable[[list[str]], Iterable[Metric]] = MultiProcessCollector.merge


class FilesCollector(Collector):
    """The stock reader over the files that it can read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.put_aside = 0

    def collect(self) -> Iterable[Metric]:
        """All series of all processes, merged."""
        files = metricfile.readable_files(self._folder)
        try:
            return _merge(files)
        except Exception:  # the reader raises many things over one bad file; find it then
            return _merge([path for path in files if self._is_fine(path)])

    def _is_fine(self, path: str) -> bool:
        if not metricfile.check_file(path):
            self.put_aside += 1
            return False
        try:
            _merge([path])
        except Exception:
            return False
        return True


class ProcessesCollector(Collector):
    """Build information, and the CPU time, memory and descriptors of each process."""

    def __init__(
        self, version: Callable[[], str], pids: Callable[[], Mapping[str, int]], files: Any
    ) -> None:
        self._version = version
        self._pids = pids
        self._files = files
        self._known: dict[str, psutil.Process] = {}

    def collect(self) -> Iterable[Metric]:
        """What multiprocess files cannot hold."""
        build = GaugeMetricFamily(
            "fsmv2_build_info", "Always 1; the labels say what runs.", labels=["version", "python"]
        )
        build.add_metric([self._version(), platform.python_version()], 1)
        cpu = CounterMetricFamily(
            "fsmv2_process_cpu_seconds_total", "CPU time of a process.", labels=["process"]
        )
        memory = GaugeMetricFamily(
            "fsmv2_process_resident_memory_bytes", "Memory of a process.", labels=["process"]
        )
        opened = GaugeMetricFamily(
            "fsmv2_process_open_fds", "Open descriptors of a process.", labels=["process"]
        )
        bad = CounterMetricFamily(
            "fsmv2_metric_files_put_aside_total", "Unreadable metric files.", labels=[]
        )
        bad.add_metric([], self._files.put_aside)
        for name, process in self._processes().items():
            # It may end between any two of these lines.
            with contextlib.suppress(psutil.Error, OSError), process.oneshot():
                times = process.cpu_times()
                cpu.add_metric([name], times.user + times.system)
                memory.add_metric([name], process.memory_info().rss)
                opened.add_metric([name], process.num_fds())
        return [build, cpu, memory, opened, bad]

    def _processes(self) -> dict[str, psutil.Process]:
        found = {}
        for name, pid in self._pids().items():
            known = self._known.get(name)
            if known is None or known.pid != pid:
                try:
                    known = psutil.Process(pid)
                except (psutil.Error, ValueError):
                    continue
            found[name] = known
        self._known = found
        return found


class Exposition:
    """Renders /metrics; safe to call from several threads."""

    def __init__(
        self,
        folder: str,
        version: Callable[[], str],
        pids: Callable[[], Mapping[str, int]],
        clock: Callable[[], float],
    ) -> None:
        files = FilesCollector(folder)
        self._registry = CollectorRegistry()
        self._registry.register(files)
        self._registry.register(ProcessesCollector(version, pids, files))
        self._clock = clock
        self._lock = threading.Lock()
        self._rendered: dict[str, bytes] = {}
        self._rendered_at = float("-inf")

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type for the Accept header ``accept``."""
        try:
            encode, content_type = choose_encoder(accept)
        except Exception:  # a version that is no version
            encode, content_type = choose_encoder("")
        with self._lock:
            now = self._clock()
            # A client names the version in its header: without a limit it could fill memory.
            if now - self._rendered_at >= FRESH_S or len(self._rendered) >= KINDS_MAX:
                self._rendered.clear()
                self._rendered_at = now
            if content_type not in self._rendered:
                self._rendered[content_type] = encode(self._registry)
            return self._rendered[content_type], content_type
