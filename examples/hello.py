"""The smallest plug-in: one worker that says hello, once, from a process of its own."""

from fsmv2.supervisor import Act, Action, ActionContext, Go, Phase, Snapshot, State, Stay, Worker


class Greet(Action, frozen=True):
    name: str

    def execute(self, ctx: ActionContext) -> str:  # runs in a proc: may block, crash or hang
        ctx.log("hello", name=self.name)
        return f"hello, {self.name}"


class Stopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Running, reason="asked to run")


class Running(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act | Stay:  # runs in the root: no I/O, only a decision
        last = snap.result(Greet)
        if last is None or not last.succeeded:
            return Act(Greet(snap.config["name"]), reason="nobody was greeted yet")
        return Stay(reason=f"said {last.value!r}")


class Hello(Worker):
    type_name = "hello"
    initial = stopping = Stopped


WORKERS = [Hello]
