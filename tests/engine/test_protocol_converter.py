"""The protocol converter end to end through the engine: steps 1 to 12 of the spec's section 7."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Attempt, Bench, child

from fsmv2.examples import converter, flows
from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.core.variables import VariableBundle

FLAT = ["pc/connection", "pc/source_flow", "pc/sink_flow"]
NESTED = ["pc/connection", "pc/connection/source_flow", "pc/sink_flow"]
HERE = Location(line="Line-A", cell="Cell-5")


def bridge(
    name: str = "pc", *, ip: str = "192.168.1.100", port: int | None = 502, **config: Any
) -> ChildSpec:
    user: dict[str, Any] = {"IP": ip} | ({} if port is None else {"PORT": port})
    settings = {"name": "Factory-PLC", "folder": "spool", **config}
    bundle = VariableBundle(user=user)
    return child(name, "protocol_converter", config=settings, variables=bundle, location=HERE)


class World:
    """The device, the spool, the output: answers for every action of the tree."""

    def __init__(self, *children: ChildSpec, **fields: Any) -> None:
        self.reachable = True
        self.crash = ""
        fields.setdefault("location", Location("ACME", "Factory-1"))
        self.bench = Bench(*children, workers=converter.WORKERS, **fields)
        self.bench.pool.answers |= {
            converter.ProbeAddress: lambda _: converter.Reachability(self.reachable, why="refused"),
            flows.CountRecords: lambda _: flows.FlowStatus(5, 5, 100),
            flows.FetchRecords: lambda _: self._moved("fetch"),
            flows.DeliverRecords: lambda _: self._moved("deliver"),
        }

    def _moved(self, what: str) -> Any:
        return RuntimeError("killed") if self.crash == what else flows.Moved(0, 5)

    def config(self, path: str) -> Any:
        desired = self.bench.node(path).desired
        assert desired is not None
        return desired.config

    def desired(self) -> dict[str, str]:
        """Each child's desired word."""
        return {
            node.path.rpartition("/")[2]: node.desired_word
            for node in self.bench.engine.nodes()
            if node.path.startswith("root/pc/")
        }

    def acting(self) -> list[Attempt]:
        return [one for one in self.bench.pool.open.values() if one.lane == "actions"]


SHAPES = pytest.mark.parametrize(
    ("nested", "paths"), [(False, FLAT), (True, NESTED)], ids=["two levels", "three levels"]
)


@SHAPES
def test_one_tick_makes_the_three_children_and_a_second_makes_no_more(
    nested: bool, paths: list[str]
) -> None:
    """Step 1: identities, inherited variables, names of their own."""
    world = World(bridge(nested=nested))
    world.bench.tick()
    assert sorted(world.bench.tree()) == sorted(["pc", *paths])
    for path in paths:
        node = world.bench.node(path)
        assert (node.identity.path, node.generation) == (f"root/{path}", 1)
        assert (node.variables.user["IP"], node.variables.user["PORT"]) == ("192.168.1.100", 502)
    assert world.bench.node(paths[1]).variables.user["name"] == "Factory-PLC_read"
    assert world.bench.node("pc/sink_flow").variables.user["name"] == "Factory-PLC_write"
    world.bench.tick(full=True)
    assert len(world.bench.heard(events.WorkerAdded)) == len(paths) + 1


@SHAPES
def test_an_idle_converter_keeps_its_children_stopped(nested: bool, paths: list[str]) -> None:
    """Step 2: the mapped words arrive in the first tick, and nothing acts."""
    world = World(bridge(nested=nested, state="idle"))
    world.bench.tick()
    assert world.desired()["connection"] == world.desired()["sink_flow"] == "stopped"
    world.bench.settle()
    assert set(world.bench.tree().values()) == {"stopped"}
    assert sorted(world.bench.tree()) == sorted(["pc", *paths])
    assert world.bench.attempts(flows.FetchRecords) == []


@SHAPES
def test_address_and_topic_are_rendered_from_what_is_inherited(
    nested: bool, paths: list[str]
) -> None:
    """Step 3: no marker is left; the topic has the whole location."""
    world = World(bridge(nested=nested))
    world.bench.tick()
    assert world.config(paths[1]) == flows.SourceConfig(
        "192.168.1.100:502", "umh.v1.ACME.Factory-1.Line-A.Cell-5.Factory-PLC_read", "spool"
    )


@SHAPES
def test_an_active_converter_comes_up_connection_first(nested: bool, paths: list[str]) -> None:
    """Step 4: start actions are only offered; the parent runs when its children do."""
    world = World(bridge(nested=nested))
    world.bench.settle()
    assert set(world.bench.tree().values()) == {"running"}
    assert world.desired() == {"connection": "up", "source_flow": "running", "sink_flow": "running"}
    order = world.bench.order_of(events.StateChanged, phase="running")
    assert order.index("pc/connection") < order.index("pc/sink_flow") < order.index("pc")
    assert world.bench.pool.overlaps == []


@SHAPES
def test_back_to_idle_the_flows_stop_and_nothing_is_left_over(
    nested: bool, paths: list[str]
) -> None:
    """Step 5, and up again after it."""
    world = World(bridge(nested=nested))
    world.bench.settle()
    world.bench.redeclare(bridge(nested=nested, state="idle"))
    world.bench.settle()
    assert set(world.bench.tree().values()) == {"stopped"}
    assert world.acting() == []
    assert world.bench.heard(events.WorkerRemoved) == []
    world.bench.redeclare(bridge(nested=nested))
    world.bench.settle()
    assert set(world.bench.tree().values()) == {"running"}


@SHAPES
def test_a_new_address_reaches_all_children_in_place_at_the_next_tick(
    nested: bool, paths: list[str]
) -> None:
    """Step 6: the same workers, one tick, whatever their level."""
    world = World(bridge(nested=nested))
    world.bench.settle()
    nodes = list(world.bench.engine.nodes())
    world.bench.redeclare(bridge(nested=nested, ip="10.0.0.9"))
    world.bench.tick()
    assert world.config("pc/connection").address == "10.0.0.9:502"
    assert world.config(paths[1]).address == "10.0.0.9:502"
    assert world.bench.node("pc/sink_flow").variables.user["IP"] == "10.0.0.9"
    assert world.bench.node("pc/sink_flow").variables.user["name"] == "Factory-PLC_write"
    world.bench.settle()
    assert list(world.bench.engine.nodes()) == nodes
    assert set(world.bench.tree().values()) == {"running"}


@SHAPES
def test_a_flow_whose_actions_die_degrades_alone_and_heals(nested: bool, paths: list[str]) -> None:
    """Step 7, as far as the tree goes: observations go on, the others run, no worker is lost."""
    world = World(bridge(nested=nested))
    world.bench.settle()
    nodes = list(world.bench.engine.nodes())
    world.crash = "fetch"
    world.bench.run(30)
    before = len(world.bench.attempts(flows.CountRecords, paths[1]))
    world.bench.run(10)
    assert world.bench.node(paths[1]).phase is Phase.DEGRADED
    assert world.bench.node("pc/sink_flow").phase is Phase.RUNNING
    assert len(world.bench.attempts(flows.CountRecords, paths[1])) >= before + 9
    world.crash = ""
    world.bench.run(10)
    assert set(world.bench.tree().values()) == {"running"}
    assert list(world.bench.engine.nodes()) == nodes


def test_an_unreachable_device_degrades_the_whole_and_heals() -> None:
    """The flows go on trying; what runs is not stopped for it."""
    world = World(bridge())
    world.bench.settle()
    world.reachable = False
    world.bench.run(5)
    assert world.bench.tree()["pc"] == world.bench.tree()["pc/connection"] == "degraded"
    world.reachable = True
    world.bench.run(5)
    assert set(world.bench.tree().values()) == {"running"}


@SHAPES
def test_without_its_port_a_converter_goes_on_with_the_last_good_config(
    nested: bool, paths: list[str]
) -> None:
    """Step 8: one event per child that needs it, and the fix heals at the next tick."""
    world = World(bridge(nested=nested))
    world.bench.settle()
    world.bench.redeclare(bridge(nested=nested, port=None))
    world.bench.run(100)
    assert world.config(paths[1]).address == "192.168.1.100:502"
    faults = world.bench.heard(events.WorkerFaulted)
    assert {fault.path for fault in faults} <= {"root/pc/connection", f"root/{paths[1]}"}
    assert len(faults) == len({fault.path for fault in faults})
    assert all("'PORT' is undefined" in fault.error for fault in faults)
    assert world.bench.tree()["pc/sink_flow"] == "running"
    world.bench.redeclare(bridge(nested=nested, port=503))
    world.bench.tick()
    assert world.config(paths[1]).address == "192.168.1.100:503"
    world.bench.settle()
    assert set(world.bench.tree().values()) == {"running"}
    assert world.bench.heard(events.WorkerRemoved) == []


def test_a_condition_in_the_config_adds_and_removes_a_child() -> None:
    """Step 9: the sink comes and goes; the others do not notice."""
    world = World(bridge(deliver=False))
    world.bench.settle()
    others = [world.bench.node(path) for path in FLAT[:2]]
    world.bench.redeclare(bridge())
    world.bench.settle()
    assert world.bench.tree()["pc/sink_flow"] == "running"
    world.bench.redeclare(bridge(deliver=False))
    world.bench.settle()
    assert "pc/sink_flow" not in world.bench.tree()
    assert [world.bench.node(path) for path in FLAT[:2]] == others


def test_a_source_can_move_below_the_connection_and_back() -> None:
    """Step 9 too: in the end there is one source, and it runs."""
    world = World(bridge())
    world.bench.settle()
    for nested, paths in ((True, NESTED), (False, FLAT)):
        world.bench.redeclare(bridge(nested=nested))
        world.bench.settle(30)
        assert world.bench.tree() == dict.fromkeys(["pc", *paths], "running")


def test_a_list_that_shrinks_and_grows_leaves_the_survivors_alone() -> None:
    """Step 10: three bridges, two, five."""
    world = World(*(bridge(f"b{n}") for n in range(3)))
    world.bench.settle()
    first = list(world.bench.node("b0").children.values())
    for count in (2, 5):
        world.bench.redeclare(*(bridge(f"b{n}") for n in range(count)))
        world.bench.settle(20)
        assert len(world.bench.engine.root.children) == count
        assert set(world.bench.tree().values()) == {"running"}
    assert list(world.bench.node("b0").children.values()) == first


@SHAPES
def test_a_stop_takes_flows_and_connection_before_the_converter(
    nested: bool, paths: list[str]
) -> None:
    """Step 11: a clean end, nothing in flight after it."""
    world = World(bridge(nested=nested))
    world.bench.settle()
    world.bench.engine.stop("test")
    world.bench.run(30, until=lambda: world.bench.engine.stopped)
    gone = [event.path for event in world.bench.heard(events.WorkerRemoved)]
    assert gone[-2:] == ["root/pc", "root"]
    assert gone.index("root/pc/sink_flow") < gone.index("root/pc/connection")
    assert gone.index(f"root/{paths[1]}") < gone.index("root/pc/connection")
    assert not any(event.forced for event in world.bench.heard(events.WorkerRemoved))
    assert world.bench.pool.open == {}


def test_paths_and_variables_are_right_below_sites_and_areas() -> None:
    """Step 12: an enterprise of 2 sites of 3 areas, a bridge in each."""

    def area(site: int, number: int) -> ChildSpec:
        config = {"children": (bridge("pc"),)}
        return child(f"area{number}", "parent", config=config,
                     location=Location(site=f"S{site}", area=f"A{number}"),
                     variables=VariableBundle(user={"rack": number}))  # fmt: skip

    sites = [
        child(f"site{site}", "parent", config={"children": tuple(area(site, n) for n in range(3))})
        for site in range(2)
    ]
    world = World(*sites, location=Location("ACME"))
    world.bench.settle()
    assert set(world.bench.tree().values()) == {"running"}
    for site in range(2):
        for number in range(3):
            path = f"site{site}/area{number}/pc/source_flow"
            topic = f"umh.v1.ACME.S{site}.A{number}.Line-A.Cell-5.Factory-PLC_read"
            assert world.config(path).topic == topic
            assert world.bench.node(path).variables.user["rack"] == number
