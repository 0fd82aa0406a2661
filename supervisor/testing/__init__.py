"""Test doubles for users: your workers in the real engine, without a process and without waiting.

>>> from fsmv2.supervisor import (
...     Act, Action, ChildSpec, DesiredState, Go, Phase, State, Stay, UserSpec, Worker)
>>> from fsmv2.supervisor.testing import FaultPlan, Simulation

A worker as in production. Nothing of what its actions do is run here:

>>> class Light(Action, frozen=True):
...     timeout_s = 5.0
...     def execute(self, ctx) -> None: ...
>>> class Look(Action, frozen=True):
...     def execute(self, ctx) -> bool: ...
>>> class Off(State):
...     phase = Phase.STOPPED
...     def next(self, snap): return Go(Lighting, reason="asked to run")
>>> class Lighting(State):
...     phase = Phase.STARTING
...     def next(self, snap):
...         return Go(Lit, reason="seen lit") if snap.status else Act(Light(), reason="dark")
>>> class Lit(State):
...     phase = Phase.RUNNING
...     def next(self, snap):
...         return Stay(reason="lit") if snap.status else Go(Lighting, reason="went dark")
>>> class Lamp(Worker):
...     type_name, initial, stopping = "lamp", Off, Off
...     def observe(self, desired): return Look()

A world for it to act upon. Each action type needs an answer: a value, an exception (as if
`execute` had raised it), a `timedelta` (it takes so long), or a callable that is given the action:

>>> world = {"lit": False}
>>> def light(action): world["lit"] = True
>>> sim = Simulation([Lamp], [ChildSpec("lamp", "lamp")],
...                  answers={Light: light, Look: lambda action: world["lit"]})

Time passes when you say so, and at once:

>>> sim.run(5.0)
>>> sim.tree()
{'root': 'running', 'root/lamp': 'running'}
>>> world["lit"] = False
>>> sim.until(lambda: sim.node("root/lamp").state_name == "lighting", seconds=5.0)
>>> sim.until(lambda: world["lit"], seconds=5.0)

The same with trouble, drawn from the seed; after each step the promises of the framework are
checked, and what fails says how to see it again:

>>> sim = Simulation([Lamp], [ChildSpec("lamp", "lamp")], seed=7,
...                  faults=FaultPlan(dies_during=0.3, hangs=0.1, at=((4.0, "spike"),)),
...                  answers={Light: light, Look: lambda action: world["lit"]})
>>> sim.run(60.0)
>>> sim.heal()
>>> sim.until(sim.is_settled, seconds=120.0)
>>> sim.stop()
>>> sim.until(lambda: sim.stopped, seconds=20.0)
"""

from fsmv2.supervisor.testing.clock import ManualClock
from fsmv2.supervisor.testing.faultplan import FaultPlan
from fsmv2.supervisor.testing.probe import FakeProbe
from fsmv2.supervisor.testing.simpool import SimPool
from fsmv2.supervisor.testing.simulation import Simulation

__all__ = ["FakeProbe", "FaultPlan", "ManualClock", "SimPool", "Simulation"]
