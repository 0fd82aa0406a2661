"""What the metric files promise: the stock reader's format, bounded files, no SIGBUS."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import prometheus_client as prom
import prometheus_client.values
import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from fsmv2.ipc import metricfile


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A prepared folder; prometheus-client is given back as it was."""
    path = str(tmp_path / "metrics")
    metricfile.prepare_folder(path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", path)
    monkeypatch.setattr(prometheus_client.values, "ValueClass", metricfile.SlotValue)
    yield path
    metricfile._files.clear()
    metricfile._values.clear()


@pytest.fixture
def registry() -> prom.CollectorRegistry:
    return prom.CollectorRegistry()


def _read(folder: str) -> dict[str, float]:
    """What the stock reader sees, as ``name{labels}`` to value."""
    registry = prom.CollectorRegistry()
    MultiProcessCollector(registry, path=folder)
    found = {}
    for metric in registry.collect():
        for sample in metric.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_stock_reader_reads_what_we_write(
    folder: str, registry: prom.CollectorRegistry
) -> None:
    """Counters, histograms, summaries and gauges come back with the same numbers."""
    metricfile.install("w1", folder)
    counter = prom.Counter("jobs_total", "Jobs.", ["kind"], registry=registry)
    counter.labels("ä").inc(2)
    counter.labels("b").inc()
    histogram = prom.Histogram("took_seconds", "Took.", registry=registry, buckets=(0.1, 1))
    for value in (0.05, 0.5, 5):
        histogram.observe(value)
    prom.Summary("size_bytes", "Size.", registry=registry).observe(3)
    gauge = prom.Gauge("depth", "Depth.", registry=registry, multiprocess_mode="livemostrecent")
    gauge.set(4)
    assert _read(folder) == {
        "jobs_total{kind=ä}": 2,
        "jobs_total{kind=b}": 1,
        "took_seconds_bucket{le=0.1}": 1,
        "took_seconds_bucket{le=1.0}": 2,
        "took_seconds_bucket{le=+Inf}": 3,
        "took_seconds_count{}": 3,
        "took_seconds_sum{}": 5.55,
        "size_bytes_count{}": 1,
        "size_bytes_sum{}": 3,
        "depth{}": 4,
    }


def test_the_stock_writer_reads_our_files_and_we_read_its(folder: str) -> None:
    """The format is the same in both directions, byte for byte."""
    stock = prometheus_client.mmap_dict.MmapedDict(os.path.join(folder, "counter_w1.db"))
    key = prometheus_client.mmap_dict.mmap_key("a", "a_total", [], [], "A.")
    stock.write_value(key, 41.0, 0.0)
    stock.close()
    metricfile.install("w1", folder)
    value = metricfile.SlotValue("counter", "a", "a_total", (), (), "A.")
    value.inc(1)
    again = prometheus_client.mmap_dict.MmapedDict(os.path.join(folder, "counter_w1.db"))
    assert again.read_value(key) == (42.0, 0.0)
    again.close()


def test_a_slot_goes_on_from_the_numbers_of_the_process_before(
    folder: str, registry: prom.CollectorRegistry
) -> None:
    """Counters never go back, though the process that counted is gone."""
    metricfile.install("w1", folder)
    counter = prom.Counter("jobs_total", "Jobs.", registry=registry)
    counter.inc(5)
    metricfile.set_identity("w2")
    counter.inc(1)
    metricfile.set_identity("w1")
    counter.inc(1)
    assert _read(folder) == {"jobs_total{}": 7}
    assert sorted(os.listdir(folder)) == ["counter_w1.db", "counter_w2.db"]


@pytest.mark.proc
def test_a_preloaded_metric_writes_to_the_forked_process_own_files(folder: str) -> None:
    """After a fork the same metric object counts under the new identity, even when the child
    closed every descriptor it inherited, and closes none of its new ones."""
    done = _run(
        """
        import os, sys
        import prometheus_client as prom
        from fsmv2.ipc import metricfile
        metricfile.install("template", sys.argv[1])
        counter = prom.Counter("jobs_total", "Jobs.")
        counter.inc()
        for slot in ("w1", "w2"):
            pid = os.fork()
            if pid == 0:
                os.closerange(3, 256)
                mine = [os.dup(1) for _ in range(20)]
                metricfile.set_identity(slot)
                import gc; gc.collect()
                counter.inc(10)
                for fd in mine:
                    os.fstat(fd)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        print(counter._value.get())
        """,
        folder,
    )
    assert done.stderr == ""
    assert done.stdout == "1.0\n"
    assert _read(folder) == {"jobs_total{}": 21}


def test_a_file_grows_and_keeps_every_series(folder: str, registry: prom.CollectorRegistry) -> None:
    """Values created before a growth count on after it."""
    metricfile.install("w1", folder)
    counter = prom.Counter("jobs_total", "Jobs.", ["n"], registry=registry)
    children = [counter.labels(str(n)) for n in range(1_000)]
    for child in children:
        child.inc()
    found = _read(folder)
    assert len(found) == 1_000
    assert set(found.values()) == {1.0}
    file = os.stat(os.path.join(folder, "counter_w1.db"))
    assert file.st_size > metricfile.FILE_BYTES_MIN
    assert file.st_blocks * 512 >= file.st_size, "the file is sparse: a full disk is a SIGBUS"


def test_live_gauges_of_a_dead_identity_drop_and_counters_stay(
    folder: str, registry: prom.CollectorRegistry
) -> None:
    metricfile.install("w1", folder)
    prom.Gauge("busy", "Busy.", registry=registry, multiprocess_mode="livesum").set(1)
    prom.Gauge("top", "Top.", registry=registry, multiprocess_mode="max").set(9)
    prom.Counter("jobs_total", "Jobs.", registry=registry).inc()
    metricfile.release("w10", folder)
    assert "busy{}" in _read(folder)
    metricfile.release("w1", folder)
    metricfile.release("w1", folder)
    assert _read(folder) == {"top{}": 9, "jobs_total{}": 1}


@pytest.mark.proc
def test_a_full_disk_costs_numbers_and_not_the_process(folder: str) -> None:
    """The values that fit stay exported, the others count on inside the process, and each
    loss is counted. Held with a file size limit, which refuses like a full disk does."""
    done = _run(
        """
        import resource, sys
        import prometheus_client as prom
        from fsmv2.ipc import metricfile
        size = metricfile.FILE_BYTES_MIN
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        metricfile.install("w1", sys.argv[1])
        counter = prom.Counter("jobs_total", "Jobs.", ["n"])
        children = [counter.labels(str(n)) for n in range(500)]
        for child in children:
            child.inc(); child.inc()
        assert all(child._value.get() == 2.0 for child in children)
        print(metricfile.dropped_values())
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, size))
        gauge = prom.Gauge("depth", "Depth.", multiprocess_mode="livesum")
        gauge.set(3); gauge.inc()
        assert gauge._value.get() == 4.0
        """,
        folder,
    )
    assert done.stderr == ""
    dropped = int(done.stdout)
    found = _read(folder)
    assert 0 < dropped < 500
    assert len(found) == 500 - dropped
    assert set(found.values()) == {2.0}
    assert os.listdir(folder) == ["counter_w1.db"], "nothing half made is left"


def test_a_folder_that_went_away_costs_numbers_only(
    tmp_path: Path, folder: str, registry: prom.CollectorRegistry
) -> None:
    before = metricfile.dropped_values()
    metricfile.install("w1", str(tmp_path / "gone"))
    counter = prom.Counter("jobs_total", "Jobs.", registry=registry)
    counter.inc()
    assert metricfile.dropped_values() == before + 1
    metricfile.install("w1", folder)
    counter.inc()
    assert _read(folder) == {"jobs_total{}": 1}


@pytest.mark.proc
def test_a_metric_created_before_install_is_named() -> None:
    """Its numbers would never reach a file, and nobody would notice."""
    done = _run(
        """
        import prometheus_client as prom
        from fsmv2.ipc import metricfile
        prom.Counter("parent_only_total", "Fine.", ["label"], registry=None)
        early = prom.Histogram("early_seconds", "Early.", registry=None)
        metricfile.install("w1", "nowhere")
        """
    )
    assert "RuntimeError: cannot install metric files in nowhere: got metric 'early_seconds' " in (
        done.stderr
    )


@pytest.mark.parametrize("identity", ["", "slot_3", "a/b", "a.db", "a*", "ä", "a\n"])
def test_an_identity_the_reader_would_misread_is_refused(folder: str, identity: str) -> None:
    for call in (
        lambda: metricfile.install(identity, folder),
        lambda: metricfile.set_identity(identity),
        lambda: metricfile.release(identity, folder),
    ):
        with pytest.raises(ValueError, match="cannot use metric identity"):
            call()


def _file(used: int, body: bytes, size: int = 4096) -> bytes:
    return (struct.pack("i4x", used) + body).ljust(size, b"\0")


_KEY = b'["a", "a_total", {}, "A."]'
_ENTRY = struct.pack("i", len(_KEY)) + _KEY.ljust(28) + struct.pack("dd", 1, 0)
BAD_FILES = {
    "empty": b"",
    "short": b"\x01\x02",
    "negative": _file(-1, b""),
    "used beyond the end": _file(1 << 20, b""),
    "used inside the header": _file(3, b""),
    "entry beyond used": _file(8 + len(_ENTRY) - 8, _ENTRY),
    "negative length": _file(64, struct.pack("i", -40)),
    "zero length": _file(64, struct.pack("i", 0)),
    "huge length": _file(64, struct.pack("i", 2**31 - 1)),
    "not utf-8": _file(8 + len(_ENTRY), _ENTRY.replace(b"A.", b"\xff.")),
    "not json": _file(8 + len(_ENTRY), _ENTRY.replace(b"[", b"x")),
    "not a key": _file(8 + len(_ENTRY), _ENTRY.replace(b'{}, "A."', b"1234567890"[:8])),
}


@pytest.mark.parametrize("data", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_put_aside_and_the_slot_starts_anew(folder: str, data: bytes) -> None:
    """One bad file would break every scrape; its bytes stay for a look."""
    path = Path(folder, "counter_w1.db")
    path.write_bytes(data)
    assert not metricfile.check_file(str(path))
    assert not path.exists()
    assert path.with_name("counter_w1.db.bad").read_bytes() == data
    metricfile.install("w1", folder)
    metricfile.SlotValue("counter", "a", "a_total", (), (), "A.").inc(1)
    assert _read(folder) == {"a_total{}": 1}


def test_a_worker_puts_its_own_bad_file_aside(folder: str) -> None:
    """Also without a check before: the process starts, and no exception reaches it."""
    Path(folder, "counter_w1.db").write_bytes(_file(1 << 20, b"", 1 << 14))
    metricfile.install("w1", folder)
    metricfile.SlotValue("counter", "a", "a_total", (), (), "A.").inc(1)
    assert _read(folder) == {"a_total{}": 1}
    assert Path(folder, "counter_w1.db.bad").exists()


def test_a_good_file_passes_the_check(folder: str) -> None:
    path = Path(folder, "counter_w1.db")
    path.write_bytes(_file(8 + len(_ENTRY), _ENTRY))
    assert metricfile.check_file(str(path))
    assert path.exists()
    assert not metricfile.check_file(str(path.with_name("missing.db")))


def test_only_rightly_named_files_are_given_to_a_reader(folder: str) -> None:
    """The stock reader takes the part before '_' for a metric's type and raises on others."""
    for name in ("foo.db", "gauge_w1.db", "counter_a_b.db", "counter_w1.db.bad"):
        Path(folder, name).write_bytes(_file(8, b""))
    Path(folder, "counter_w2.db").write_bytes(b"")
    fine = Path(folder, "gauge_livesum_w1.db")
    fine.write_bytes(_file(8, b""))
    assert metricfile.readable_files(folder) == [str(fine)]


def test_prepare_wipes_former_metric_files_and_nothing_else(tmp_path: Path) -> None:
    for name in ("counter_w1.db", "notes.txt", "counter_w1.db.bad"):
        (tmp_path / name).write_bytes(b"x")
    metricfile.prepare_folder(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["counter_w1.db.bad", "notes.txt"]


def test_an_unusable_folder_is_refused_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OSError, match=r"cannot use metrics folder .*: got .*, want a folder"):
        metricfile.prepare_folder(str(file / "metrics"))


@pytest.mark.proc
def test_a_folder_without_room_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = _run(
        """
        import resource, sys
        from fsmv2.ipc import metricfile
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        metricfile.prepare_folder(sys.argv[1])
        """,
        str(tmp_path),
    )
    assert "cannot use metrics folder" in done.stderr
    assert os.listdir(tmp_path) == []


def test_an_increment_is_cheap(folder: str, registry: prom.CollectorRegistry) -> None:
    """Less CPU than the stock value in the same process, whatever the machine is busy with."""
    import time

    metricfile.install("w1", folder)
    ours = metricfile.SlotValue("counter", "a", "a_total", (), (), "A.")
    stock = prometheus_client.values.MultiProcessValue(lambda: "w2")(
        "counter", "a", "a_total", (), (), "A."
    )

    def cost(value: metricfile.SlotValue) -> float:
        best = 1.0
        for _ in range(7):
            start = time.process_time()
            for _ in range(10_000):
                value.inc(1)
            best = min(best, time.process_time() - start)
        return best

    assert cost(ours) < cost(stock)
    stock.close_all_files()
