"""Workers and actions for tests of observation, policies and actions from outside."""

import json
import os
import signal
import time

import msgspec

from fsmv2.supervisor import (
    Act,
    Action,
    ActionContext,
    DesiredState,
    Go,
    Phase,
    Settings,
    Snapshot,
    State,
    Stay,
    Supervisor,
    Worker,
    WorkerFactory,
)


class LookOnce(Action, frozen=True):
    """Hangs, deaf to everything, the first time; after that it sees."""

    path: str
    timeout_s = 3600.0

    def execute(self, ctx: ActionContext) -> str:
        if not os.path.exists(self.path):
            with open(self.path, "w"):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        return "seen"


class Patient(Action, frozen=True):
    """Waits until it is told to end, then returns."""

    timeout_s = 3600.0

    def execute(self, ctx: ActionContext) -> str:
        while not ctx.cancelled:
            time.sleep(0.01)
        return "cleaned up"


class Ask(Action, frozen=True):
    n: int

    def execute(self, ctx: ActionContext) -> int:
        return self.n * self.n


class Stopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot):
        return Go(Seen if snap.identity.worker_type == "watched" else Idle, reason="asked to run")


class Seen(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot):
        return Stay(reason=f"saw {snap.status}")


class Idle(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot):
        if snap.identity.worker_type == "patient":
            return Act(Patient(), reason="wait")
        return Stay(reason="idle")


class Watched(Worker):
    type_name = "watched"
    initial = stopping = Stopped

    def observe(self, desired: DesiredState) -> Action:
        return LookOnce(desired.config["path"])


class PatientWorker(Worker):
    type_name = "patient"
    initial = stopping = Stopped


class Idler(Worker):
    type_name = "idler"
    initial = stopping = Stopped


WORKERS = [Watched, PatientWorker, Idler]


def main() -> None:
    """A root whose listener asks for actions from outside; prints what came of them."""
    import policy_actions  # under the name that procs import it by

    ended = []

    def end(ticket) -> None:
        ended.append([ticket.path, ticket.result.status, ticket.result.value])
        if len(ended) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    def listen(event) -> None:
        if event.name() == "state_changed" and event.to_state == "idle":
            for n in range(5):
                root.submit_outside("site/w", policy_actions.Ask(n), end)
            root.submit_outside("site/nobody", policy_actions.Ask(0), end)

    workers = [{"name": "w", "type": "idler"}]
    raw = {"name": "site", "workers": workers, "http": {"listen": "off"}, "pool": {"procs": 2}}
    settings = msgspec.convert(raw, Settings)
    root = Supervisor(settings, WorkerFactory(policy_actions.WORKERS), listeners=(listen,))
    root.run(30)
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
