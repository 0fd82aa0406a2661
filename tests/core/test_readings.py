"""From what was read to readings: which limit counts, shares, rates; for any claims at all."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.readings import (
    HOST,
    MACHINE_NAMES,
    Claim,
    Facts,
    ProcFacts,
    counting,
    missing,
    proc_readings,
    reading_of,
    readings_of,
)

FIGURES = st.floats(allow_nan=True, allow_infinity=True)
AMOUNTS = st.floats(0, 1e18)


def claims_of(figures: st.SearchStrategy[float]) -> st.SearchStrategy[Claim]:
    return st.builds(
        Claim,
        scope=st.sampled_from(["cgroup v2", "cgroup v1", HOST, "process"]),
        source=st.sampled_from(["/a/own", "/a", "/", "/proc/x"]),
        used=figures,
        limit=st.none() | figures,
        missing=st.sampled_from(["", "", "", "cannot read /a/own"]),
    )


LOOKS = st.builds(
    Facts,
    at=st.floats(0, 1e9),
    claims=st.dictionaries(
        st.sampled_from(MACHINE_NAMES), st.lists(claims_of(FIGURES), max_size=5).map(tuple)
    ),
)


def group(used: float, limit: float | None, source: str = "/g", why: str = "") -> Claim:
    return Claim(scope="cgroup v2", source=source, used=used, limit=limit, missing=why)


def host(used: float, limit: float) -> Claim:
    return Claim(scope=HOST, source="/proc/meminfo", used=used, limit=limit)


def look(at: float, name: str, *claims: Claim) -> Facts:
    return Facts(at=at, claims={name: claims})


@given(LOOKS, st.none() | LOOKS)
def test_a_reading_has_a_finite_value_or_says_why_it_has_none(
    facts: Facts, before: Facts | None
) -> None:
    """Whatever was read, infinities included; a share is 0 to 1."""
    readings = readings_of(MACHINE_NAMES, facts, before)

    assert tuple(readings) == MACHINE_NAMES
    for reading in readings.values():
        assert (reading.value is None) == bool(reading.missing), reading
        if reading.value is not None:
            assert math.isfinite(reading.value)
            assert reading.unit != "share" or 0 <= reading.value <= 1


@given(st.lists(st.tuples(AMOUNTS, st.floats(1, 1e18)), min_size=1, max_size=6), AMOUNTS)
def test_the_tightest_of_several_limits_counts(
    pairs: list[tuple[float, float]], total: float
) -> None:
    """Of the limits that the machine can reach, the one of which most is used."""
    groups = [group(used, limit, f"/{n}") for n, (used, limit) in enumerate(pairs)]
    reading = reading_of("memory", look(1.0, "memory", *groups, host(0.0, total)), None)
    shares = [min(1.0, used / limit) for used, limit in pairs if limit < total]

    assert reading.value == max(shares, default=0.0)
    assert reading.scope == ("cgroup v2" if shares else HOST)


def test_the_machine_counts_where_no_group_limits() -> None:
    claims = (group(9.0, None), group(9.0, 100.0), host(50.0, 100.0))
    reading = reading_of("memory", look(1.0, "memory", *claims), None)

    assert (reading.value, reading.scope, reading.limit) == (0.5, HOST, 100.0)


def test_what_cannot_be_read_on_the_way_is_not_passed_over() -> None:
    """The machine's figure in its place would say that all is well."""
    broken = group(0.0, None, "/g/memory.max", "cannot read /g/memory.max: Permission denied")
    claims = (group(1.0, 10.0), broken, host(1.0, 100.0))
    reading = reading_of("memory", look(1.0, "memory", *claims), None)

    assert reading.value is None
    assert "/g/memory.max" in reading.missing
    assert reading.scope == "cgroup v2"
    assert counting(claims) == [broken]


def test_nothing_at_all_is_missing_with_a_reason() -> None:
    assert reading_of("pids", Facts(at=1.0, claims={}), None).missing != ""
    assert missing("disk:/a", "it hangs", 2.0).value is None


def test_a_limit_of_nothing_is_full_as_soon_as_anything_is_used() -> None:
    none_allowed = look(1.0, "swap", group(0.0, 0.0), host(5.0, 10.0))
    some_used = look(1.0, "swap", group(1.0, 0.0), host(5.0, 10.0))

    assert reading_of("swap", none_allowed, None).value == 0.0
    assert reading_of("swap", some_used, None).value == 1.0


@given(st.floats(0, 1e6), st.floats(0, 64), st.floats(0.01, 3600), st.floats(0.1, 64))
def test_cpu_is_what_was_used_between_two_looks_of_what_may_be_used(
    at_first: float, cpus_used: float, elapsed_s: float, cpus: float
) -> None:
    before = look(10.0, "cpu", group(at_first, cpus), host(0.0, 128.0))
    now = look(10.0 + elapsed_s, "cpu", group(at_first + cpus_used * elapsed_s, cpus))
    reading = reading_of("cpu", now, before)

    assert reading.value is not None
    assert math.isclose(reading.value, min(1.0, cpus_used / cpus), rel_tol=1e-3, abs_tol=1e-3)


def test_a_rate_takes_two_looks_at_the_same_group() -> None:
    first = look(1.0, "cpu", group(5.0, 2.0))
    assert "two looks" in reading_of("cpu", first, None).missing
    elsewhere = look(2.0, "cpu", group(6.0, 2.0, "/other"))
    assert "two looks" in reading_of("cpu", elsewhere, first).missing
    assert reading_of("cpu", look(2.0, "cpu", group(6.0, 2.0)), first).value == 0.5


def test_a_counter_that_goes_back_is_no_rate() -> None:
    reading = reading_of("cpu", look(2.0, "cpu", group(1.0, 2.0)), look(1.0, "cpu", group(5.0, 2)))

    assert reading.value is None
    assert "went back from 5 to 1" in reading.missing


def test_throttling_is_the_share_of_periods_since_the_last_look() -> None:
    def periods(held_back: float, total: float, at: float) -> Facts:
        return look(at, "cpu.throttled", group(held_back, total))

    assert reading_of("cpu.throttled", periods(30, 200, 2), periods(20, 100, 1)).value == 0.1
    assert reading_of("cpu.throttled", periods(20, 100, 2), periods(20, 100, 1)).value == 0.0


def test_load_is_for_each_cpu() -> None:
    reading = reading_of("load", look(1.0, "load", host(6.0, 4.0)), None)

    assert (reading.value, reading.used, reading.limit) == (1.5, 6.0, 4.0)


def test_a_process_is_told_with_memory_and_the_cpus_it_used() -> None:
    def facts(at: float, pid: int, cpu_s: float | None) -> Facts:
        proc = ProcFacts(name="p1", pid=pid, rss_bytes=4096, cpu_s=cpu_s)
        return Facts(at=at, claims={}, procs=(proc,))

    (told,) = proc_readings(facts(3.0, 7, 2.0), facts(1.0, 7, 1.0))
    assert (told.rss_bytes, told.cpu) == (4096, 0.5)
    (anew,) = proc_readings(facts(3.0, 8, 2.0), facts(1.0, 7, 1.0))
    assert anew.cpu is None, "another process under the same name"
    (gone,) = proc_readings(facts(3.0, 7, None), facts(1.0, 7, 1.0))
    assert gone.cpu is None
