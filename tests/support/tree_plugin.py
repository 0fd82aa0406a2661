"""Workers for tests with a real supervisor."""

import os
import signal
import time

import msgspec
import prometheus_client

from fsmv2.supervisor import (
    Act,
    Action,
    ActionContext,
    ChildSpec,
    DesiredState,
    Go,
    Phase,
    Secret,
    Snapshot,
    State,
    Stay,
    UserSpec,
    Worker,
)


class BeatConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str


class Beat(Action, frozen=True):
    """Appends a line, so that a test sees that this worker goes on."""

    path: str
    timeout_s = 20.0

    def execute(self, ctx: ActionContext) -> None:
        with open(self.path, "ab", buffering=0) as file:
            file.write(f"{os.getpid()}\n".encode())
        time.sleep(0.02)


class Stopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Beating, reason="asked to run")


class Beating(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act:
        return Act(Beat(snap.config.path), reason=f"beat for {snap.time_in_state_s:.0f} s")


class Beater(Worker):
    type_name, config_type = "beater", BeatConfig
    initial = stopping = Stopped


# Created at import, like any library's metric: in the root before it has a folder, in the
# template, and (by fork) in every proc.
LABELS = prometheus_client.Counter("test_labels", "One series a label.", ["label"])


class MakeLabels(Action, frozen=True):
    """Makes the proc's metric file grow, then beats."""

    path: str

    def execute(self, ctx: ActionContext) -> None:
        for number in range(100):
            LABELS.labels(f"{ctx.attempt_id}-{number}").inc()
        with open(self.path, "ab", buffering=0) as file:
            file.write(f"{os.getpid()}\n".encode())


class LabellerStopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Labelling, reason="asked to run")


class Labelling(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act:
        return Act(MakeLabels(snap.config.path), reason="label")


class Labeller(Worker):
    type_name, config_type = "labeller", BeatConfig
    initial = stopping = LabellerStopped


class Hang(Action, frozen=True):
    timeout_s = 300.0

    def execute(self, ctx: ActionContext) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
        while True:
            sum(range(10_000_000))


class HangStopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Hanging, reason="asked to run")


class Hanging(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act:
        return Act(Hang(), reason="hang for ever")


class Hanger(Worker):
    type_name = "hanger"
    initial = stopping = HangStopped


class Abort(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        os.abort()


class AbortStopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Aborting, reason="asked to run")


class Aborting(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act:
        return Act(Abort(), reason="abort for ever")


class Aborter(Worker):
    type_name = "aborter"
    initial = stopping = AbortStopped


class NeverStopping(State):
    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Stay:
        return Stay(reason="does not want to stop")


class Stubborn(Worker):
    type_name = "stubborn"
    initial = HangStopped
    stopping = NeverStopping


class ParentState(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(ParentRunning, reason="asked to run")


class ParentRunning(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Stay:
        return Stay(reason=f"{len(snap.children)} children")


class Parent(Worker):
    """Three beaters in a chain of dependencies."""

    type_name, config_type = "parent", BeatConfig
    initial = stopping = ParentState

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        config = spec.decode(BeatConfig)
        return DesiredState(
            "running",
            config,
            tuple(
                ChildSpec(
                    name,
                    "beater",
                    UserSpec({"path": f"{config.path}.{name}"}),
                    depends_on=needs,
                )
                for name, needs in (("c", ("b",)), ("b", ("a",)), ("a", ()))
            ),
        )


class SecretConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: Secret


class UseToken(Action, frozen=True):
    token: Secret

    def execute(self, ctx: ActionContext) -> Secret:
        print("token is", self.token.reveal())
        ctx.log("using", token=self.token, text=self.token.reveal())
        ctx.progress(self.token.reveal())
        raise ValueError(f"cannot log in with {self.token.reveal()}")


class SecretStopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(SecretRunning, reason="asked to run")


class SecretRunning(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act:
        return Act(UseToken(snap.config.token), reason=f"with {snap.config.token}")


class Keeper(Worker):
    type_name, config_type = "keeper", SecretConfig
    initial = stopping = SecretStopped


WORKERS = [Beater, Labeller, Hanger, Aborter, Stubborn, Parent, Keeper]
