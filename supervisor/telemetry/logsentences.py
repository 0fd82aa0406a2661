"""Events as sentences, for people who watch a terminal.

Knows: for each event, whom it is about and how to say it in one line.
Does not know: time, colour, descriptors, how long a line may be.
Invariants: every event has a sentence; numbers carry their unit; nothing is escaped here.
"""

from __future__ import annotations

from typing import NamedTuple

from fsmv2.supervisor.core import breakerevents as brk
from fsmv2.supervisor.core import events as ev
from fsmv2.supervisor.core import infrastructureevents as infra
from fsmv2.supervisor.core import readingevents, reloadevents, restartevents, storeevents
from fsmv2.supervisor.core import workevents as work
from fsmv2.supervisor.core.action import DeathCertificate
from fsmv2.supervisor.core.counting import several
from fsmv2.supervisor.telemetry.loglines import pairs, plain


class Sentence(NamedTuple):
    """Whom an event is about, what is said, and the phase that colours it ("" for none)."""

    subject: str
    text: str
    phase: str = ""


def sentence_of(event: ev.Event) -> Sentence:
    """``event`` in words."""
    return (
        _node_sentence(event)
        or _work_sentence(event)
        or _breaker_sentence(event)
        or _action_sentence(event)
        or _process_sentence(event)
        or _store_sentence(event)
        or _infrastructure_sentence(event)
        or _reading_sentence(event)
        or Sentence("fsmv2", f"{event.name()}  {pairs(plain(event))}")
    )


def seconds(duration_s: float) -> str:
    """A duration with as many digits as one reads: 0.42 ms, 84 ms, 1.2 s, 3 min 20 s."""
    if duration_s < 0.001:
        return f"{duration_s * 1000:.2f} ms"
    if duration_s < 1:
        return f"{duration_s * 1000:.0f} ms"
    if duration_s < 120:
        return f"{duration_s:.1f} s"
    return f"{int(duration_s // 60)} min {int(duration_s % 60)} s"


def certificate_words(certificate: DeathCertificate) -> str:
    """What is known of a death, in one breath."""
    parts = []
    if certificate.signal:
        by = f" from {certificate.sent_by}" if certificate.sent_by else ""
        parts.append(f"{certificate.signal}{by}")
    if certificate.exit_code is not None:
        parts.append(f"exit code {certificate.exit_code}")
    if certificate.cpu_s is not None:
        parts.append(f"{seconds(certificate.cpu_s)} of CPU")
    if certificate.peak_memory_bytes is not None:
        parts.append(f"{certificate.peak_memory_bytes / (1 << 20):.0f} MiB at most")
    if certificate.wait_channel:
        parts.append(f"waited in {certificate.wait_channel}")
    if certificate.descendants_killed:
        parts.append(f"{certificate.descendants_killed} descendants killed")
    # Who sent the signal may have been told with the same words.
    if certificate.detail and certificate.detail not in (certificate.sent_by or ""):
        parts.append(certificate.detail)
    return ", ".join(parts)


def _death(certificate: DeathCertificate | None) -> str:
    return f"  {certificate_words(certificate)}" if certificate is not None else ""


def _number(attempt_id: int | None) -> str:
    return f" #{attempt_id}" if attempt_id is not None else ""


def _node_sentence(event: ev.Event) -> Sentence | None:
    match event:
        case ev.StateChanged(path=path, from_state=old, to_state=new, phase=phase, reason=reason):
            return Sentence(path, f"{old} -> {new}  {reason}", str(phase))
        case ev.WorkerAdded(path=path, worker_type=kind):
            return Sentence(path, f"added, type {kind}")
        case ev.WorkerUpdated(path=path, inherited=inherited):
            return Sentence(path, "inherits new variables" if inherited else "got a new spec")
        case ev.WorkerRemoved(path=path, reason=reason, forced=forced):
            return Sentence(path, f"removed{' by force' if forced else ''}  {reason}")
        case ev.WorkerFaulted(path=path, step=step, error=error, failures=failures):
            again = f"fault {failures}, again in {seconds(event.retry_in_s)}"
            return Sentence(path, f"fault in {step}: {error}  ({again})")
        case ev.WorkerRecovered(path=path, failures=failures, downtime_s=downtime_s):
            return Sentence(
                path, f"works again after {several(failures, 'fault')}, {seconds(downtime_s)}"
            )
        case ev.ChildrenRefused(path=path, error=error):
            return Sentence(path, f"children refused, the present ones stay: {error}")
        case restartevents.RestartBudgetExceeded(path=path, child=child, restarts=restarts):
            spent = f"{restarts} restarts in {seconds(event.window_s)} are spent"
            if event.outcome == "escalated":
                return Sentence(path, f"{spent}, {child} needs one more: ends itself")
            wait_s = event.retry_in_s
            until = "its spec changes" if wait_s is None else f"{seconds(wait_s)} have passed"
            return Sentence(path, f"{spent}, {child} is given up until {until}")
        case ev.ObservationFailed(path=path, action_type=kind, verdict=verdict, error=error):
            why = f": {error}" if error else ""
            again = f"again in {seconds(event.retry_in_s)}"
            what = f"observation {kind}{_number(event.attempt_id)} {verdict}"
            return Sentence(path, f"{what}{why}{_death(event.certificate)}  ({again})")
        case ev.ObservationStale(path=path, age_s=age_s):
            return Sentence(path, f"paused, the last observation is {seconds(age_s)} old")
        case ev.ObservationRecovered(path=path, failures=failures, restarts=restarts):
            what = f"{failures} failures, {restarts} restarts of its observation"
            return Sentence(path, f"observed again after {what}")
    return None


def _work_sentence(event: ev.Event) -> Sentence | None:
    match event:
        case work.ProbeRestarted(path=path, restart=restart, age_s=age_s):
            since = f"nothing seen for {seconds(age_s)}"
            return Sentence(path, f"observation begun anew (restart {restart}): {since}")
        case work.ObservationLost(path=path, restarts=restarts, age_s=age_s):
            tried = f"{restarts} restarts of its observation did not help"
            return Sentence(path, f"degraded, nothing seen for {seconds(age_s)}: {tried}")
        case work.ActionGivenUp(path=path, action_type=kind, failures=failures):
            until = "until its state or spec changes"
            return Sentence(path, f"{kind} given up after {failures} failures, {until}")
        case work.OutsideActionEnded(path=path, action_type=kind, status=status):
            verdict = "" if event.verdict in ("", status) else f" ({event.verdict})"
            error = f": {event.error}" if event.error else ""
            kind = f"{kind}{_number(event.attempt_id)} from outside"
            death = _death(event.certificate)
            after = f"after {seconds(event.ran_s)}, {seconds(event.waited_s)} in the queue"
            return Sentence(path, f"{kind} {status}{verdict} {after}{error}{death}")
        case work.WorkerSlow(path=path, step=step, took_s=took_s):
            limit = f"want {seconds(event.limit_s)} at most"
            again = f"again in {seconds(event.retry_in_s)}"
            return Sentence(
                path, f"{step} held the tick up for {seconds(took_s)}, {limit}, {again}"
            )
    return None


def _breaker_sentence(event: ev.Event) -> Sentence | None:
    match event:
        case brk.CircuitOpened(path=path, child_name=name, cause=cause, detail=detail):
            soon = event.next_retry_in_s
            again = event.unless if soon is None else f"restart in {seconds(soon)}"
            return Sentence(path, f"circuit open: {name} has failed ({cause}: {detail})  {again}")
        case brk.CircuitStillOpen(path=path, child_name=name, elapsed_downtime_s=down_s):
            tries = f"{event.retry_attempt} of {several(event.max_attempts, 'attempt')}"
            text = f"circuit still open: {name} has failed for {seconds(down_s)}"
            return Sentence(path, f"{text}  {tries}, {event.recovery_status}")
        case brk.ChildRestarted(path=path, child_name=name, attempt=attempt, max_attempts=most):
            why = f"{event.cause}: {event.detail}"
            return Sentence(path, f"restarts {name}, attempt {attempt} of {most}  {why}")
        case brk.EscalationNear(path=path, child_name=name, attempts_remaining=left):
            down = f"down for {seconds(event.total_downtime_s)}"
            return Sentence(
                path, f"{name} has {several(left, 'attempt')} left before escalation, {down}"
            )
        case brk.EscalationRequired(path=path, child_name=name, runbook_url=url):
            tried = f"{event.max_attempts} restarts did not help"
            down = f"down for {seconds(event.total_downtime_s)}"
            steps = "; ".join(event.manual_steps)
            text = f"ESCALATION REQUIRED: {name} does not recover, {tried}, {down}"
            return Sentence(path, f"{text}  runbook {url}  by hand: {steps}")
        case brk.ChildRecovered(path=path, child_name=name, outcome=outcome, attempts=attempts):
            down = f"after {seconds(event.total_downtime_s)}, {several(attempts, 'attempt')}"
            return Sentence(path, f"{name} has not failed any more: {outcome}  {down}")
        case brk.CircuitClosed(path=path, open_s=open_s):
            return Sentence(path, f"circuit closed after {seconds(open_s)}")
        case brk.PanicBreakerOpened(path=path, step=step, error=error, raises=raises):
            often = f"raised {several(raises, 'time')} in {seconds(event.window_s)}"
            return Sentence(
                path, f"panic breaker open: {step} {often} ({event.panic_type}): {error}"
            )
        case brk.PanicBreakerClosed(path=path, open_s=open_s):
            return Sentence(path, f"panic breaker closed after {seconds(open_s)}")
    return None


def _action_sentence(event: ev.Event) -> Sentence | None:
    match event:
        case ev.ActionStarted(path=path, action_type=kind, attempt_id=attempt, reason=reason):
            limit = f"{event.timeout_s:g} s at most"
            return Sentence(path, f"{kind} #{attempt} offered, {limit}  {reason}")
        case ev.ActionEnded(path=path, action_type=kind, attempt_id=attempt, status=status):
            verdict = "" if event.verdict in ("", status) else f" ({event.verdict})"
            error = f": {event.error}" if event.error else ""
            after = f"after {seconds(event.ran_s)}{error}{_death(event.certificate)}"
            return Sentence(path, f"{kind} #{attempt} {status}{verdict} {after}")
        case ev.ActionRefused(path=path, action_type=kind, reason=reason):
            return Sentence(path, f"{kind} not taken: {reason}")
        case ev.ActionProgressed(path=path, action_type=kind, attempt_id=attempt, text=text):
            return Sentence(path, f"{kind} #{attempt}: {text}")
        case ev.ActionLogged(path=path, action_type=kind, attempt_id=attempt, record=record):
            fields = f"  {pairs(event.fields)}" if event.fields else ""
            return Sentence(path, f"{kind} #{attempt}: {record}{fields}")
        case ev.ResultDropped(attempt_id=attempt, reason=reason):
            return Sentence("pool", f"result of #{attempt} dropped: {reason}")
    return None


def _process_sentence(event: ev.Event) -> Sentence | None:
    match event:
        case ev.SupervisorStarted(supervisor=name, pid=pid, workers=workers):
            procs = f"{event.procs} + {event.observers} procs"
            where = f", {event.http}" if event.http else ""
            return Sentence(
                name, f"started, pid {pid}: {several(workers, 'worker')}, {procs}{where}"
            )
        case reloadevents.ReloadApplied(cause=cause, changes=changes, settings=keys):
            counts = f"{event.added} added, {event.updated} updated, {event.replaced} replaced"
            counts += f", {event.removed} removed, {event.untouched} untouched"
            told = f"  {'; '.join(part for part in (keys, changes) if part)}".rstrip()
            return Sentence("config", f"reloaded by {cause}: {counts}{told}")
        case reloadevents.ReloadRefused(cause=cause, faults=faults):
            return Sentence("config", f"not reloaded, nothing changed ({cause}): {faults}")
        case ev.SupervisorStopping(reason=reason):
            return Sentence("supervisor", f"stopping  {reason}")
        case ev.SupervisorStopped(clean=clean, stop_s=stop_s):
            how = "stopped" if clean else "stopped, not clean,"
            return Sentence("supervisor", f"{how} in {seconds(stop_s)}")
        case ev.TickSlow(duration_s=duration_s, interval_s=interval_s):
            text = f"tick took {seconds(duration_s)}, its interval is {seconds(interval_s)}"
            return Sentence("supervisor", text)
        case ev.ProcStarted(slot=slot, pid=pid, startup_s=startup_s):
            return Sentence(slot, f"proc {pid} ready in {seconds(startup_s)}")
        case ev.ProcEnded(slot=slot, pid=0):
            return Sentence(slot, "was ordered and never came: its template ended first")
        case ev.ProcEnded(slot=slot, pid=pid, verdict=verdict, attempt_id=attempt):
            during = f" during #{attempt}" if attempt is not None else ""
            why = f" after {event.reason}" if event.reason else ""
            return Sentence(slot, f"proc {pid} ended{during}: {verdict}{why}")
        case ev.ProcOutput(slot=slot, line=line):
            return Sentence(slot, f"| {line}")
        case ev.TemplateStarted(pid=pid, startup_s=startup_s):
            return Sentence("template", f"process {pid} ready in {seconds(startup_s)}")
        case ev.TemplateEnded(pid=pid, verdict=verdict, retry_in_s=wait_s):
            return Sentence("template", f"process {pid} {verdict}, again in {seconds(wait_s)}")
        case ev.OpsStarted(pid=pid, address=address, startup_s=startup_s):
            return Sentence("ops", f"{address} served by {pid} after {seconds(startup_s)}")
        case ev.OpsEnded(pid=pid, verdict=verdict, retry_in_s=wait_s):
            return Sentence("ops", f"process {pid} {verdict}, again in {seconds(wait_s)}")
        case ev.PoolStuck(reason=reason):
            return Sentence("pool", f"stuck, no new actions are offered: {reason}")
        case ev.StartsThrottled(waiting=waiting, per_s=per_s):
            rate = f"{per_s:g} starts/s are allowed"
            return Sentence("pool", f"{several(waiting, 'proc')} waiting to be started, {rate}")
        case ev.PreloadExcluded(module=module, reason=reason):
            why = f"procs import it by themselves: {reason}"
            return Sentence("template", f"{module} is left out, {why}")
        case ev.StartMethodChanged(method=method, reason=reason):
            return Sentence("pool", f"procs are started by {method} from now on: {reason}")
        case ev.ActionTypeQuarantined(action_type=kind, verdict=verdict, deaths=deaths):
            how = f"{several(deaths, 'time')} {verdict} in a row, alone from now on"
            return Sentence(
                "pool", f"{kind} kept apart: {how}, again in {seconds(event.retry_in_s)}"
            )
        case ev.ActionTypeReleased(action_type=kind, reason=reason, quarantined_s=apart_s):
            return Sentence("pool", f"{kind} released after {seconds(apart_s)}: {reason}")
        case ev.OperatorCommanded(command=verb, target=target, outcome=outcome, client=client):
            about = " of ".join(part for part in (event.action_type, event.path) if part)
            whose = f" ({about})" if about not in ("", target) else ""
            return Sentence("operator", f"{verb} {target}{whose} by {client}: {outcome}")
        case ev.PoolRecovered(downtime_s=downtime_s):
            return Sentence("pool", f"procs start again after {seconds(downtime_s)}")
    return None


def _store_sentence(event: ev.Event) -> Sentence | None:
    match event:
        case storeevents.StoreOpened(pid=pid, file=file, recalled=recalled, startup_s=startup_s):
            known = several(recalled, "worker")
            text = f"{file} open in {pid} after {seconds(startup_s)}, {known} recalled"
            return Sentence("store", text)
        case storeevents.StoreEnded(pid=pid, verdict=verdict, retry_in_s=wait_s):
            return Sentence("store", f"process {pid} {verdict}, again in {seconds(wait_s)}")
        case storeevents.StoreDamaged(file=file, reason=reason, moved_to=moved_to):
            return Sentence("store", f"{file} is damaged, kept as {moved_to}: {reason}")
        case storeevents.StoreDegraded(file=file, error=error, waiting=waiting):
            return Sentence("store", f"{file} takes nothing, {waiting} documents wait: {error}")
        case storeevents.StoreRecovered(file=file, downtime_s=downtime_s):
            return Sentence("store", f"{file} takes documents again after {seconds(downtime_s)}")
        case storeevents.StoreRefused(error=error):
            return Sentence("store", f"one document refused: {error}")
    return None


def _infrastructure_sentence(event: ev.Event) -> Sentence | None:
    sentence = _breaker_words(event)
    if sentence is None:
        return None
    reports = getattr(event, "mode", "") == "report"
    return Sentence("machine", sentence + ("  (only reported)" if reports else ""))


def _breaker_words(event: ev.Event) -> str | None:
    match event:
        case infra.InfrastructureOpened(cause=cause):
            return f"in trouble, no new actions: {cause}"
        case infra.InfrastructureStillOpen(state=state, cause=cause):
            held = "held " if event.forced else ""
            down = f"{seconds(event.elapsed_downtime_s)} by now, attempt {event.retry_attempt}"
            return f"breaker {held}{state.replace('_', ' ')}, {down}: {cause}"
        case infra.InfrastructureHalfOpened(closes_in_s=closes_in_s):
            return f"well again, a few actions may start; all in {seconds(closes_in_s)}"
        case infra.InfrastructureReopened(cause=cause):
            return f"in trouble again: {cause}"
        case infra.InfrastructureRecovered(total_downtime_s=down_s):
            return f"all actions may start again after {seconds(down_s)}"
        case infra.InfrastructureForced(state="auto", client=client):
            return f"breaker goes by what it reads again, by {client}"
        case infra.InfrastructureForced(state=state, for_s=for_s, client=client):
            return f"breaker held {state} for {seconds(for_s)} by {client}"
        case infra.InfrastructureForceEnded(was=was, state=state):
            return f"breaker held {was} no more, it is {state.replace('_', ' ')}"
        case infra.ExcessForgotten(reading=reading, unseen_s=unseen_s, reason=reason):
            return f"{reading} was over its limit {seconds(unseen_s)} ago, not seen since: {reason}"
        case infra.ActionsRecalled(count=count):
            return f"{several(count, 'action')} taken back from the queue"
        case infra.MemoryRelieved(path=path, action_type=kind, attempt_id=attempt, cause=cause):
            return f"{kind} #{attempt} of {path} cancelled to give memory back: {cause}"
    return None


def _reading_sentence(event: ev.Event) -> Sentence | None:
    match event:
        case readingevents.ReadingsLost(readings=readings, reason=reason):
            return Sentence("readings", f"{readings} missing: {reason}")
        case readingevents.ReadingsBack(readings=readings):
            return Sentence("readings", f"{readings} back")
    return None
