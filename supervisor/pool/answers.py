"""What procs say: hello, progress, log records, answers, lines of output.

Knows: messages from procs, what each means for its attempt, how much a proc may say.
Does not know: lanes' policy, deaths, where results go.
Invariants: an answer counts once and for the attempt it was asked of; what a proc says in
excess is left in its pipe for a while, so that only the proc itself waits.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from fsmv2.ipc.codec import fault_of, plain_decoder
from fsmv2.ipc.frames import PROTOCOL, FrameError
from fsmv2.ipc.messages import (
    Answer,
    Done,
    FromProc,
    Hello,
    Logged,
    Progress,
    Raised,
    Skipped,
    Spilled,
)
from fsmv2.supervisor.core.action import ActionError, ActionResult, Status
from fsmv2.supervisor.core.events import ActionLogged, ActionProgressed, ProcOutput, ResultDropped
from fsmv2.supervisor.core.procfsm import ALIVE, ProcEvent, ProcState
from fsmv2.supervisor.core.quarantine import CLEAN
from fsmv2.supervisor.pool import spill

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.attempts import Attempt
    from fsmv2.supervisor.pool.kinds import ActionKind
    from fsmv2.supervisor.pool.pool import Pool
    from fsmv2.supervisor.pool.procs import ProcHandle

# As it is: a function around it would cost as much again.
_decode = plain_decoder(FromProc)
_ANSWERS = (Done, Raised, Spilled)

LAST_READS = 16
_monotonic = time.monotonic
_time = time.time
# Of 32 KiB, in one step: as much as a pipe holds. What is more waits until others had their turn.
READS_AT_ONCE = 2
# How long a proc that says too much is not listened to.
NOT_LISTENING_S = 0.05


class Answers:
    """Reads procs' channels and turns what they say into results and events."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def readable(self, proc: ProcHandle, _mask: int, reads_max: int = READS_AT_ONCE) -> None:
        """The channel of ``proc`` has something, or has ended. Of a living one `READS_AT_ONCE` are
        read, the rest shows as readable again; of a dead one all that its pipe may hold."""
        channel = proc.channel
        frames = channel.receive_frames(reads_max)
        # What was printed by what is answered here has been written by now. Before a single answer
        # that the poller has just seen, it would have seen that too: this saves a system call.
        is_told = self._pool.poller.saw_alone(channel.read_fd, proc.output_fd)
        if not (is_told and len(frames) == 1) and proc.has_output():
            self._hear_output(proc)
        has_room = False
        begun = 0
        while begun < len(frames):
            simple = self._done(proc, frames, begun)
            if simple:
                has_room = True
                begun += simple
                continue
            body = frames[begun]
            begun += 1
            try:
                message: FromProc = _decode(body)
            except Exception as error:
                return self._lost(proc, f"garbled frame: {fault_of(body, error)}")
            if isinstance(message, _ANSWERS):
                if proc.output.partial:
                    # Only now: the two halves of a secret may be printed around a message.
                    self._hear_output(proc, flush=True)
                has_room |= self._answer(proc, message)
            elif isinstance(message, Skipped):
                has_room |= self._pool.dispatcher.skipped(proc, message.attempt_id, message.place)
            else:
                self._say(proc, message)
        # One that ends in the middle of a frame has nothing wrong about it: its proc is dead or
        # dying, and how it died is for the kernel to say.
        if channel.is_over and channel.fault is not None and not channel.is_cut:
            return self._lost(proc, str(channel.fault))
        # Once for all of them: it must not be noted as idle twice.
        if has_room and not (channel.is_over or proc.is_dying):
            self._pool.has_room(proc)
        if channel.is_over:
            self._pool.poller.unwatch(channel.read_fd)
            self._pool.happen(proc, ProcEvent.CHANNEL_ENDED)
        return None

    def _lost(self, proc: ProcHandle, why: str) -> None:
        self._pool.poller.unwatch(proc.channel.read_fd)
        proc.detail = why
        if proc.state is not ProcState.KILLED:
            proc.cause = "channel"
        self._pool.happen(proc, ProcEvent.KILL_ORDERED)

    # --- output -----------------------------------------------------------------------------

    def output(self, proc: ProcHandle, mask: int) -> None:
        """The proc wrote to standard output or error."""
        if not self._hear_output(proc) and mask & ~1:  # hung up, and nothing left
            self._pool.poller.unwatch(proc.output_fd)

    def last_output(self, proc: ProcHandle) -> None:
        """The proc is dead: read what is left of what it wrote. Bounded, for something it
        started may live on and write to the same pipe."""
        for _ in range(LAST_READS):
            if not self._hear_output(proc):
                break
        self._hear_output(proc, flush=True)

    def _hear_output(self, proc: ProcHandle, flush: bool = False) -> bool:
        """Tell the lines that came. False: there was nothing."""
        data = proc.read_output()
        if not data and (not flush or proc.output.is_between_lines):
            return False
        attempt = proc.attempt
        secrets: tuple[str, ...] = ()
        if attempt is not None:
            secrets = attempt.secrets()
            attempt.kind.spoke()
        if proc.hid is not None and proc.hid is not attempt:
            secrets += proc.hid.secrets()
        now = time.monotonic()
        for line in proc.output.feed(data, secrets, now, flush=flush):
            self._pool.on_event(
                ProcOutput(slot=proc.slot, line=line, attempt_id=attempt.id if attempt else None)
            )
        return bool(data)

    # --- messages ---------------------------------------------------------------------------

    def _say(self, proc: ProcHandle, message: Hello | Progress | Logged) -> None:
        if isinstance(message, Hello):
            if message.protocol != PROTOCOL:
                return self._lost(
                    proc, f"got protocol {message.protocol}, want protocol {PROTOCOL}"
                )
            self._pool.nursery.learn_pid(proc, message.pid)
            proc.revokes = message.revokes
            proc.anchor = message.anchor
            if proc.state is not ProcState.STARTING:
                return self._lost(proc, "said hello twice")
            return self._pool.happen(proc, ProcEvent.HELLO_CAME)
        if not proc.chatter.spend(time.monotonic()) and proc.state in ALIVE:
            self._stop_listening(proc)
        return self._hear(proc, message)

    def _stop_listening(self, proc: ProcHandle) -> None:
        """It says too much: leave it in the pipe. The proc waits for room there, the deadline
        goes on, and everybody else's messages are read meanwhile."""
        fd = proc.channel.read_fd
        if self._pool.poller.is_watched(fd):
            self._pool.poller.unwatch(fd)
            moment = time.monotonic() + NOT_LISTENING_S
            self._pool.deadlines.call(moment, partial(self._listen_again, proc))

    def _listen_again(self, proc: ProcHandle) -> None:
        if proc.channel.read_fd >= 0 and proc.state in ALIVE:
            self._pool.poller.watch(proc.channel.read_fd, partial(self.readable, proc))

    def _hear(self, proc: ProcHandle, message: Progress | Logged) -> None:
        attempt = proc.attempt
        if attempt is None or attempt.id != message.attempt_id:
            return  # a thread that its action left behind
        if isinstance(message, Progress):
            attempt.progress = message.text
            self._pool.on_event(
                ActionProgressed(
                    path=attempt.key,
                    action_type=attempt.name,
                    attempt_id=attempt.id,
                    text=message.text,
                )
            )
            return
        self._pool.on_event(
            ActionLogged(
                path=attempt.key,
                action_type=attempt.name,
                attempt_id=attempt.id,
                record_level=message.level,
                record=message.event,
                fields=message.fields,
            )
        )

    # --- answers ----------------------------------------------------------------------------

    def _done(self, proc: ProcHandle, frames: list[bytes], first: int) -> int:
        """`_answer` for what most answers are, a row of them: each attempt has returned, and there
        is nothing else to do. Returns how many frames from ``first`` on were that simple."""
        attempt, output = proc.attempt, proc.output
        if attempt is None or proc.state is not ProcState.BUSY or output.tail or output.partial:
            return 0
        kind, behind = attempt.kind, proc.behind
        if not kind.is_simple or kind.record is not CLEAN:
            return 0
        decode, action_type = kind.decode_bare, kind.name
        pool, ended_at = self._pool, _time()
        tell, open_attempts = pool.tell, pool.ledger.open
        lane, ran_s = attempt.lane, []
        for body in islice(frames, first, None):
            try:
                message = _decode(body)
                if type(message) is not Done or message.attempt_id != attempt.id:
                    break
                value = decode(message.value)
            except Exception:  # the usual way says what it is
                break
            ran_s.append(message.ran_s)
            if attempt.key:
                lane.queue.release(attempt.key)
            attempt_id = attempt.id
            result = ActionResult(
                status="succeeded",
                action_type=action_type,
                attempt_id=attempt_id,
                value=value,
                queued_s=message.began_at - attempt.submitted_at,
                ran_s=message.ran_s,
                ended_at=ended_at,
            )
            if open_attempts.pop(attempt_id, None) is not None:
                tell(attempt_id, result)
            if not behind:
                attempt = None
                break
            attempt = behind.popleft()
            if attempt.kind is not kind:
                break
        if ran_s:
            # Those that wait in one pipe are all of one lane.
            lane.waiting_in_pipes -= len(ran_s) - (attempt is None)
            self._row_ended(proc, kind, attempt, ran_s)
        return len(ran_s)

    def _row_ended(
        self, proc: ProcHandle, kind: ActionKind, following: Attempt | None, ran_s: list[float]
    ) -> None:
        """Attempts of ``kind`` have been answered, after so many seconds each; ``following`` has
        its turn."""
        count = len(ran_s)
        kind.ran(*ran_s)
        kind.running -= count
        proc.actions += count
        proc.stalled_on = None
        self._pool.ledger.finished["succeeded"] += count
        if following is None:
            proc.attempt = None
            proc.state = ProcState.IDLE  # the table's row (busy, answer_came)
        else:
            self._pool.dispatcher.turn_of(proc, following, _monotonic())

    def _answer(self, proc: ProcHandle, message: Answer) -> bool:
        """Give the attempt its result. False: there is nothing more to do about it now."""
        attempt, pool = proc.attempt, self._pool
        is_witnessing = proc.state is ProcState.WITNESSING
        if (
            attempt is None
            or attempt.id != message.attempt_id
            or (proc.state is not ProcState.BUSY and not is_witnessing)
        ):
            self._unexpected(proc, message)
            return False
        kind = attempt.kind
        kind.ran(message.ran_s)
        if not kind.is_proven:
            pool.dispatcher.proven(kind)
        if kind.may_hide:
            proc.hid = attempt
        proc.actions += 1
        if kind.is_limited and proc.page.is_worn_out():
            proc.worn = f"a limit of {kind.name} could not be lifted"
        proc.cause = proc.detail = proc.overdue_at = None
        if proc.output.tail:  # a certificate shows the attempt's own last lines
            proc.output.forget()
        result = self.result_of(proc, attempt, message)
        if kind.record is not CLEAN:
            pool.endings.survived(attempt, result)
        if is_witnessing:
            proc.forget_stack()
            proc.lower_again()
        # The table's rows (busy or witnessing, answer_came) and (idle, action_given).
        proc.state = ProcState.BUSY if proc.behind else ProcState.IDLE
        pool.finish(proc, attempt, result)
        return True

    def _unexpected(self, proc: ProcHandle, message: Answer) -> None:
        """An answer of a proc that is being ended counts once it is known to be dead; any other
        is nobody's."""
        on_proc = (proc.attempt, *proc.behind)
        is_ending = proc.state not in (ProcState.BUSY, ProcState.WITNESSING)
        if is_ending and any(one and one.id == message.attempt_id for one in on_proc):
            proc.late_answers[message.attempt_id] = message
            return
        self._pool.ledger.dropped += 1
        self._pool.on_event(
            ResultDropped(attempt_id=message.attempt_id, reason="not in flight on this proc")
        )

    def result_of(self, proc: ProcHandle, attempt: Attempt, message: Answer) -> ActionResult:
        """The result that ``message`` makes."""
        kind = attempt.kind
        error: ActionError | None = None
        value = None
        if isinstance(message, Raised):
            error = ActionError(message.kind, message.message, message.traceback)
        else:
            try:
                if isinstance(message, Done):
                    value = kind.decode(message.value)
                else:
                    value = spill.open_spilled(self._pool, proc, attempt, message.size)
            except FrameError as fault:
                raw = message.value if isinstance(message, Done) else b""
                text = spill.wrong_type(kind, fault, raw, attempt.secrets())
                error = ActionError("ResultTypeError", text)
            except OSError as fault:
                error = ActionError("ResultLost", f"cannot read the result's file: {fault}")
        status: Status = "succeeded"
        if error is not None:
            ended = isinstance(message, Raised) and message.cancelled and attempt.cancel_cause
            status = "cancelled" if ended else "failed"
        return ActionResult(
            status=status,
            action_type=kind.name,
            attempt_id=attempt.id,
            value=value,
            error=error,
            queued_s=message.began_at - attempt.submitted_at,
            ran_s=message.ran_s,
            ended_at=time.time(),
        )
