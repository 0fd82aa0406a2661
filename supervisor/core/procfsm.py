"""The life of a proc, as one table.

Theory of operation. A proc is forked (starting), says hello (idle), is given an action (busy)
and answers (idle again). What else can happen is an event in the same table: its deadline
passes (we take its stack first: witnessing, then kill: killed), its channel ends (it is about
to be dead: leaving, or, should it linger, killed), the kernel says that it is dead (dead).
Each transition names the effects the pool must carry out, in order; the table itself has none.

A spare stands in for an overdue proc at once, so that nobody waits while its stack is taken; for
one that is killed without that, at the kill. The attempt's result is given only when the kernel
has confirmed the death: until then the old attempt may still be running, and the next one of the
same key must not overlap with it. One that answers after all has lost its place, and is a spare.

Knows: states, events, effects, the table.
Does not know: pids, clocks, pipes.
Invariants: I6, no event leads out of killed but dead; an event that a state has no row for is
listed in `IGNORED` on purpose or is a bug.
"""

from __future__ import annotations

import enum

from fsmv2.supervisor.core.errors import BugError


class ProcState(enum.StrEnum):
    """Where a proc is in its life."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    WITNESSING = "witnessing"
    LEAVING = "leaving"
    KILLED = "killed"
    DEAD = "dead"


class ProcEvent(enum.StrEnum):
    """What can happen to it."""

    HELLO_CAME = "hello_came"
    START_OVERDUE = "start_overdue"
    ACTION_GIVEN = "action_given"
    ANSWER_CAME = "answer_came"
    DEADLINE_PASSED = "deadline_passed"
    STACK_CAME = "stack_came"
    ECHO_OVERDUE = "echo_overdue"
    STACK_OVERDUE = "stack_overdue"
    KILL_ORDERED = "kill_ordered"
    LEAVE_ORDERED = "leave_ordered"
    LEAVE_OVERDUE = "leave_overdue"
    CHANNEL_ENDED = "channel_ended"
    EXITED = "exited"


class ProcEffect(enum.StrEnum):
    """What the pool does about it."""

    JOIN_LANE = "join_lane"
    ANSWER = "answer"
    STAND_IN = "stand_in"
    TAKE_STACK = "take_stack"
    KILL = "kill"
    LEAVE_LANE = "leave_lane"
    SAY_EXIT = "say_exit"
    WAIT_TO_LEAVE = "wait_to_leave"
    BURY = "bury"


_S, _E, _F = ProcState, ProcEvent, ProcEffect

TABLE: dict[tuple[ProcState, ProcEvent], tuple[ProcState, tuple[ProcEffect, ...]]] = {
    (_S.STARTING, _E.HELLO_CAME): (_S.IDLE, (_F.JOIN_LANE,)),
    (_S.STARTING, _E.START_OVERDUE): (_S.KILLED, (_F.KILL,)),
    (_S.STARTING, _E.KILL_ORDERED): (_S.KILLED, (_F.KILL,)),
    (_S.STARTING, _E.LEAVE_ORDERED): (_S.KILLED, (_F.KILL,)),
    (_S.STARTING, _E.CHANNEL_ENDED): (_S.LEAVING, (_F.WAIT_TO_LEAVE,)),
    (_S.STARTING, _E.EXITED): (_S.DEAD, (_F.BURY,)),
    (_S.IDLE, _E.ACTION_GIVEN): (_S.BUSY, ()),
    (_S.IDLE, _E.KILL_ORDERED): (_S.KILLED, (_F.LEAVE_LANE, _F.KILL)),
    (_S.IDLE, _E.LEAVE_ORDERED): (_S.LEAVING, (_F.LEAVE_LANE, _F.SAY_EXIT, _F.WAIT_TO_LEAVE)),
    (_S.IDLE, _E.CHANNEL_ENDED): (_S.LEAVING, (_F.LEAVE_LANE, _F.WAIT_TO_LEAVE)),
    (_S.IDLE, _E.EXITED): (_S.DEAD, (_F.LEAVE_LANE, _F.BURY)),
    (_S.BUSY, _E.ANSWER_CAME): (_S.IDLE, (_F.ANSWER,)),
    (_S.BUSY, _E.DEADLINE_PASSED): (_S.WITNESSING, (_F.STAND_IN, _F.TAKE_STACK)),
    (_S.BUSY, _E.KILL_ORDERED): (_S.KILLED, (_F.LEAVE_LANE, _F.KILL)),
    (_S.BUSY, _E.LEAVE_ORDERED): (_S.KILLED, (_F.LEAVE_LANE, _F.KILL)),
    (_S.BUSY, _E.CHANNEL_ENDED): (_S.LEAVING, (_F.LEAVE_LANE, _F.WAIT_TO_LEAVE)),
    (_S.BUSY, _E.EXITED): (_S.DEAD, (_F.LEAVE_LANE, _F.BURY)),
    # An answer that is there before the kill counts: the attempt did end by itself.
    (_S.WITNESSING, _E.ANSWER_CAME): (_S.IDLE, (_F.ANSWER,)),
    (_S.WITNESSING, _E.STACK_CAME): (_S.KILLED, (_F.LEAVE_LANE, _F.KILL)),
    # The stack is there, but Python code has not run since: it hangs in C.
    (_S.WITNESSING, _E.ECHO_OVERDUE): (_S.KILLED, (_F.LEAVE_LANE, _F.KILL)),
    (_S.WITNESSING, _E.STACK_OVERDUE): (_S.KILLED, (_F.LEAVE_LANE, _F.KILL)),
    (_S.WITNESSING, _E.KILL_ORDERED): (_S.KILLED, (_F.LEAVE_LANE, _F.KILL)),
    (_S.WITNESSING, _E.LEAVE_ORDERED): (_S.KILLED, (_F.LEAVE_LANE, _F.KILL)),
    (_S.WITNESSING, _E.CHANNEL_ENDED): (_S.LEAVING, (_F.LEAVE_LANE, _F.WAIT_TO_LEAVE)),
    (_S.WITNESSING, _E.EXITED): (_S.DEAD, (_F.LEAVE_LANE, _F.BURY)),
    (_S.LEAVING, _E.LEAVE_OVERDUE): (_S.KILLED, (_F.KILL,)),
    (_S.LEAVING, _E.KILL_ORDERED): (_S.KILLED, (_F.KILL,)),
    (_S.LEAVING, _E.EXITED): (_S.DEAD, (_F.BURY,)),
    (_S.KILLED, _E.EXITED): (_S.DEAD, (_F.BURY,)),
}

# Late timers, repeated orders, and what a dying proc still had in its pipe.
IGNORED: frozenset[tuple[ProcState, ProcEvent]] = frozenset(
    {(state, _E.DEADLINE_PASSED) for state in _S if state is not _S.BUSY}
    | {(state, _E.START_OVERDUE) for state in _S if state is not _S.STARTING}
    | {(state, _E.STACK_CAME) for state in _S if state is not _S.WITNESSING}
    | {(state, _E.ECHO_OVERDUE) for state in _S if state is not _S.WITNESSING}
    | {(state, _E.STACK_OVERDUE) for state in _S if state is not _S.WITNESSING}
    | {(state, _E.LEAVE_OVERDUE) for state in _S if state is not _S.LEAVING}
    | {
        (state, event)
        for state in (_S.LEAVING, _S.KILLED, _S.DEAD)
        for event in (_E.CHANNEL_ENDED, _E.LEAVE_ORDERED, _E.HELLO_CAME, _E.ANSWER_CAME)
    }
    | {(_S.KILLED, _E.KILL_ORDERED), (_S.DEAD, _E.KILL_ORDERED), (_S.DEAD, _E.EXITED)}
)

ALIVE = frozenset({_S.STARTING, _S.IDLE, _S.BUSY, _S.WITNESSING})


def step(state: ProcState, event: ProcEvent) -> tuple[ProcState, tuple[ProcEffect, ...]]:
    """The next state and what to do; raises `BugError` for a pair nobody thought of."""
    row = TABLE.get((state, event))
    if row is not None:
        return row
    if (state, event) in IGNORED:
        return state, ()
    raise BugError(f"a proc in state {state} cannot see {event}")


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> starting"]
    lines += [
        f"    {state} --> {target}: {event}" for (state, event), (target, _effects) in TABLE.items()
    ]
    return "\n".join([*lines, "    dead --> [*]"])
