"""The soak's own checks: each has to see the fault it is there for."""

from __future__ import annotations

import signal
from typing import Any

from soaking import leaks
from soaking.accounts import FAULTS_MAX, UNBEGUN_MAX, Accounts, order_faults

from fsmv2.supervisor import ActionResult
from fsmv2.supervisor.core.action import ActionError, DeathCertificate

ATTEMPTS = iter(range(1, 10_000))
CERTIFICATE = DeathCertificate(verdict="killed_from_outside", started_at=1.0)


def result(status: str = "succeeded", **fields: Any) -> ActionResult:
    fields.setdefault("attempt_id", next(ATTEMPTS))
    return ActionResult(status=status, action_type="Stamp", **fields)  # type: ignore[arg-type]


def settled(accounts: Accounts, status: str = "succeeded", value: Any = 7) -> int:
    token = accounts.open()
    accounts.told(token)
    accounts.settle(token, result(status, value=value, certificate=CERTIFICATE), 7)
    return token


def test_actions_with_one_right_result_each_are_fine() -> None:
    accounts = Accounts()
    for _ in range(3):
        settled(accounts)
    settled(accounts, "crashed")

    assert accounts.submitted == 4
    assert accounts.statuses == {"succeeded": 3, "crashed": 1}
    assert accounts.check({signal.SIGKILL: 1}) == []


def test_a_cause_of_death_that_was_not_the_strike_is_a_fault() -> None:
    accounts = Accounts()
    settled(accounts, "crashed")

    assert accounts.check({signal.SIGSEGV: 1}) == [
        "1 actions killed_from_outside, of 0 strikes that cause it"
    ]


def test_an_action_blamed_for_a_death_before_it_had_begun_is_a_fault() -> None:
    accounts = Accounts()
    token = accounts.open()
    accounts.told(token)
    never = DeathCertificate(verdict="killed_from_outside")
    accounts.settle(token, result("crashed", certificate=never), 7)

    assert accounts.check({signal.SIGKILL: 1}) == ["action 1: crashed, but it had not begun"]


def test_an_action_that_never_began_needs_as_many_strikes_as_the_pool_gives_it_procs() -> None:
    accounts = Accounts()
    token = accounts.open()
    accounts.told(token)
    error = ActionError("NeverBegan", f"{UNBEGUN_MAX} procs died before they began it")
    accounts.settle(token, result("refused", error=error), 7)

    assert accounts.check({signal.SIGKILL: UNBEGUN_MAX}) == []
    strikes = UNBEGUN_MAX - 1
    assert accounts.check({signal.SIGKILL: strikes}) == ["1 actions never began, of 19 strikes"]


def test_an_action_without_a_result_is_a_fault() -> None:
    accounts = Accounts()
    settled(accounts)
    accounts.told(accounts.open())

    assert accounts.check({}) == ["1 of 2 actions have no result"]


def test_a_second_result_and_a_second_call_back_are_faults() -> None:
    accounts = Accounts()
    token = settled(accounts)
    accounts.told(token)
    accounts.settle(token, result(value=7), 7)

    faults = accounts.check({})

    assert [fault.partition(":")[2].strip() for fault in faults] == [
        "told 2 times that it is done",
        "a second result, succeeded",
    ]


def test_a_result_nobody_is_called_back_for_is_a_fault() -> None:
    accounts = Accounts()
    accounts.settle(accounts.open(), result(value=7), 7)

    assert accounts.check({}) == ["1 actions called nobody back, 0 have no result"]


def test_the_value_or_the_attempt_of_another_action_is_a_fault() -> None:
    accounts = Accounts()
    settled(accounts, value=8)
    for _ in range(2):
        token = accounts.open()
        accounts.told(token)
        accounts.settle(token, result(value=7, attempt_id=9_999), 7)

    faults = accounts.check({})

    assert "action 1: a value that is not its own" in faults
    assert "action 3: its attempt 9999 is another action's too" in faults


def test_more_deaths_than_strikes_are_a_fault() -> None:
    accounts = Accounts()
    for _ in range(2):
        settled(accounts, "crashed")

    assert "2 actions crashed, but 1 SIGKILLs and SIGSEGVs" in accounts.check({signal.SIGKILL: 1})


def test_an_end_that_no_strike_explains_is_a_fault() -> None:
    accounts = Accounts()
    settled(accounts, "failed")

    assert any("failed" in fault for fault in accounts.check({signal.SIGKILL: 9}))


def test_many_faults_are_told_in_few_lines() -> None:
    accounts = Accounts()
    for _ in range(FAULTS_MAX + 5):
        settled(accounts, value=8)

    assert accounts.check({})[-1] == "and 5 more faults"
    assert len(accounts.check({})) == FAULTS_MAX + 1


def test_actions_of_a_key_in_order_and_killed_ones_are_fine() -> None:
    lines = ["+0", "-0", "+1", "+2", "-2", "+4", "-4"]

    assert order_faults("key", lines, bytes([1, 0, 1, 0, 1])) == []


def test_actions_of_a_key_out_of_order_or_side_by_side_are_faults() -> None:
    assert order_faults("key", ["+1", "-1", "+0", "-0"], bytes([1, 1])) == [
        "key key, line 3: 0 begins after 1 has begun"
    ]
    assert order_faults("key", ["+0", "+1", "-0", "-1"], bytes([0, 1])) == [
        "key key, line 3: 0 ends while 1 is the newest"
    ]


def test_an_action_of_a_key_that_ran_never_or_twice_is_a_fault() -> None:
    assert order_faults("key", [], bytes([1])) == ["key key: 0 succeeded, but ran 0 times"]
    assert "key key: 0 succeeded, but ran 2 times" in order_faults(
        "key", ["+0", "+0", "-0"], bytes([1])
    )


READING = leaks.Reading(
    fds=40,
    threads=3,
    zombies=0,
    root_rss_kib=40_000,
    template_rss_kib=None,
    descendants=6,
    run_folders=2,
    run_entries=3,
    cgroups=None,
)


def test_what_is_constant_and_what_cannot_be_read_is_no_leak() -> None:
    assert leaks.grown(READING, READING) == []
    assert leaks.grown(READING, READING._replace(template_rss_kib=99_999_999, fds=39)) == []
    assert leaks.grown(READING, READING._replace(root_rss_kib=40_000 + leaks.KIB_MORE)) == []


def test_everything_that_grows_is_named() -> None:
    for name in leaks.Reading._fields:
        if getattr(READING, name) is None:
            continue
        more = READING._replace(**{name: getattr(READING, name) + 100_000})
        assert len(found := leaks.grown(READING, more)) == 1
        assert found[0].startswith(f"{name} grew")


def test_a_zombie_is_a_leak_also_if_it_was_there_before() -> None:
    one = READING._replace(zombies=1)

    assert leaks.grown(one, one) == ["zombies grew: 1 after the warm-up, 1 at the end"]


def test_the_leak_table_has_a_line_for_each_thing() -> None:
    lines = leaks.table(["before", "after"], [READING, READING])

    assert [line.split()[0] for line in lines[1:]] == list(leaks.Reading._fields)
    assert lines[leaks.Reading._fields.index("cgroups") + 1].split()[1:] == ["-", "-"]


def test_an_action_lost_in_a_process_that_nobody_struck_is_a_fault() -> None:
    """Or a second one in a process that was struck once: one attempt for each kill."""
    accounts = Accounts()
    tokens = [settled(accounts, "crashed") for _ in range(4)]
    strikes = {(11, signal.SIGKILL): 1, (12, signal.SIGSEGV): 2, (13, signal.SIGSTOP): 1}
    for pids, fault in (
        ([0, 11, 12, 12, 0], None),
        ([0, 11, 11, 12, 12], "2 actions crashed in process 11, struck 1×"),
        ([0, 11, 12, 12, 13], "1 actions crashed in process 13, struck 0×"),
    ):
        accounts.faults.clear()
        accounts.check_pids(pids, strikes)

        assert accounts.faults == ([fault] if fault else []), tokens
