"""What reading a config promises: three formats alike, every fault at once, no surprise."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsmv2.supervisor import (
    Action,
    ActionContext,
    ChildSpec,
    DesiredState,
    Go,
    Phase,
    Secret,
    Settings,
    Snapshot,
    State,
    UserSpec,
    Worker,
    WorkerFactory,
)
from fsmv2.supervisor.config.config import load_settings, load_text, read_config
from fsmv2.supervisor.config.configcheck import check_settings
from fsmv2.supervisor.config.configfault import ConfigError, Fault, Places, at_key, shown
from fsmv2.supervisor.config.configwalk import decode_wire_type, describe, misfits
from fsmv2.supervisor.config.plugins import load_plugins
from fsmv2.supervisor.core.errors import SpecError

FULL: dict[str, Any] = {
    "name": "site",
    "workers": [
        {
            "name": "lamp",
            "type": "lamp",
            "config": {"host": "{{ HOST }}", "port": 1},
            "variables": {"HOST": "h", "nested": {"a": [1, 2.5, True, "x"]}},
            "location": {"enterprise": "E", "site": "S", "area": "a", "line": "l", "cell": "c"},
            "enabled": False,
            "state_mapping": {"running": "up"},
            "depends_on": ["fan"],
            "restart": "transient",
            "shutdown_timeout_s": 1.5,
        },
        {"name": "fan", "type": "fan", "config": "speed: 3\n"},
    ],
    "strategy": "rest_for_one",
    "restart_budget": {"restarts": 3, "window_s": 60.0},
    "strict_circuit": True,
    "restart_failed": False,
    "plugins": ["one", "two"],
    "location": {"enterprise": "e", "site": "s", "area": "a", "line": "l", "cell": "c"},
    "location_gaps": "unknown_all",
    "global": {"broker": "b:1", "ports": [1, 2]},
    "tick_interval_s": 0.25,
    "slow_worker_s": 0.25,
    "outside_queue": 9,
    "observation": {
        "stale_s": 5.0,
        "dead_s": 9.5,
        "spread": 0.25,
        "backoff_s": 60.0,
        "intervals": {"lamp": 2.0},
    },
    "actions": {"SwitchOn": {"timeout_s": 1.5, "retry": {"max_s": 5.0, "attempts": 3}}},
    "pool": {
        "procs": 3,
        "observers": 2,
        "lanes": {"uploads": 1},
        "spares": 0,
        "queue": 7,
        "pipeline": 1,
        "result_bytes_max": 1 << 20,
        "starts_per_s": 5.0,
        "start_method": "template",
        "recycling": {"actions": 10, "seconds": 60.0, "memory_bytes": 1 << 30, "spread": 0.1},
        "quarantine": {"after": 3, "window_s": 60.0, "base_s": 0.5, "max_s": 30.0},
    },
    "http": {"listen": "off", "token": "0123456789abcdef"},
    "store": {"kind": "sqlite", "path": "s.db", "keep_changes": 5, "keep_s": 60.0},
    "log": {"format": "json", "level": "debug"},
    "breaker": {
        "mode": "report",
        "limits": {"cpu": {"open": 0.9, "close": 0.8, "for_s": 60.0}, "memory": "off"},
        "disks": ["/data"],
        "interval_s": 2.0,
        "probe_s": 10.0,
        "heartbeat_s": 0.0,
    },
    "metrics": {"folder": "m"},
    "reload": {"watch": True},
    "runbooks": "https://wiki.example/fsmv2/",
}

YAML = """
name: site
workers:
  - name: lamp
    type: lamp
    config: &config {host: "{{ HOST }}", port: 1}
    variables:
      HOST: h
      nested: {a: [1, 2.5, true, x]}
    location: {enterprise: E, site: S, area: a, line: l, cell: c}
    enabled: false
    state_mapping: {running: up}
    depends_on: [fan]
    restart: transient
    shutdown_timeout_s: 1.5
  - name: fan
    type: fan
    config: |
      speed: 3
strategy: rest_for_one
restart_budget: {restarts: 3, window_s: 60}
strict_circuit: true
restart_failed: false
plugins: [one, two]
location: {enterprise: e, site: s, area: a, line: l, cell: c}
location_gaps: unknown_all
global: {broker: "b:1", ports: [1, 2]}
tick_interval_s: 0.25
slow_worker_s: 0.25
outside_queue: 9
observation: {stale_s: 5, dead_s: 9.5, spread: 0.25, backoff_s: 60, intervals: {lamp: 2}}
actions:
  SwitchOn: {timeout_s: 1.5, retry: {max_s: 5, attempts: 3}}
pool:
  {procs: 3, observers: 2, lanes: {uploads: 1}, spares: 0, queue: 7, pipeline: 1,
   result_bytes_max: 1048576, starts_per_s: 5, start_method: template,
   recycling: {actions: 10, seconds: 60, memory_bytes: 1073741824, spread: 0.1},
   quarantine: {after: 3, window_s: 60, base_s: 0.5, max_s: 30}}
http: {listen: off, token: 0123456789abcdef}
store: {kind: sqlite, path: s.db, keep_changes: 5, keep_s: 60}
log: {format: json, level: debug}
breaker:
  {mode: report, disks: [/data], interval_s: 2, probe_s: 10, heartbeat_s: 0,
   limits: {cpu: {open: 0.9, close: 0.8, for_s: 60}, memory: off}}
metrics: {folder: m}
reload: {watch: true}
runbooks: https://wiki.example/fsmv2/
"""

TOML = """
name = "site"
plugins = ["one", "two"]
location_gaps = "unknown_all"
tick_interval_s = 0.25
slow_worker_s = 0.25
outside_queue = 9
observation = {stale_s = 5, dead_s = 9.5, spread = 0.25, backoff_s = 60, intervals = {lamp = 2}}
actions = {SwitchOn = {timeout_s = 1.5, retry = {max_s = 5, attempts = 3}}}
strategy = "rest_for_one"
restart_budget = {restarts = 3, window_s = 60}
strict_circuit = true
restart_failed = false
location = {enterprise = "e", site = "s", area = "a", line = "l", cell = "c"}
global = {broker = "b:1", ports = [1, 2]}
pool.procs = 3
pool.observers = 2
pool.lanes = {uploads = 1}
pool.spares = 0
pool.queue = 7
pool.pipeline = 1
pool.result_bytes_max = 1048576
pool.starts_per_s = 5
pool.start_method = "template"
pool.recycling = {actions = 10, seconds = 60, memory_bytes = 1073741824, spread = 0.1}
pool.quarantine = {after = 3, window_s = 60, base_s = 0.5, max_s = 30}
http = {listen = "off", token = "0123456789abcdef"}
store = {kind = "sqlite", path = "s.db", keep_changes = 5, keep_s = 60}
log = {format = "json", level = "debug"}
breaker.mode = "report"
breaker.limits = {cpu = {open = 0.9, close = 0.8, for_s = 60}, memory = "off"}
breaker.disks = ["/data"]
breaker.interval_s = 2
breaker.probe_s = 10
breaker.heartbeat_s = 0
metrics = {folder = "m"}
reload = {watch = true}
runbooks = "https://wiki.example/fsmv2/"
[[workers]]
name = "lamp"
type = "lamp"
config = {host = "{{ HOST }}", port = 1}
variables = {HOST = "h", nested = {a = [1, 2.5, true, "x"]}}
location = {enterprise = "E", site = "S", area = "a", line = "l", cell = "c"}
enabled = false
state_mapping = {running = "up"}
depends_on = ["fan"]
restart = "transient"
shutdown_timeout_s = 1.5
[[workers]]
name = "fan"
type = "fan"
config = "speed: 3\\n"
"""


def faults_of(text: str, kind: Any = "yaml") -> list[str]:
    """The faults of a text, one line each."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, kind, "c")
    assert str(caught.value).splitlines() == [str(fault) for fault in caught.value.faults]
    return [str(fault) for fault in caught.value.faults]


# --- reading --------------------------------------------------------------------------------


def test_three_formats_give_equal_settings(tmp_path: Path) -> None:
    """The same data in YAML, JSON and TOML is the same Settings."""
    texts = {"c.yaml": YAML, "c.yml": YAML, "c.json": json.dumps(FULL), "c.toml": TOML}
    read = []
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        read.append(load_settings(tmp_path / name))
    full = msgspec.convert(FULL, Settings, dec_hook=decode_wire_type)
    assert all(one == full for one in read)


def test_full_example_gives_every_key() -> None:
    """A key that is added to the settings must be added to the example, and is then accepted."""

    def keys_missing(kind: msgspec.inspect.Type, value: Any, path: str) -> Iterator[str]:
        if isinstance(kind, msgspec.inspect.StructType):
            for field in kind.fields:
                if field.encode_name not in value:
                    yield f"{path}.{field.encode_name}"
                    continue
                inner = value[field.encode_name]
                yield from keys_missing(field.type, inner, f"{path}.{field.encode_name}")
        elif isinstance(kind, msgspec.inspect.VarTupleType):
            yield from keys_missing(kind.item_type, value[0], f"{path}[0]")

    assert list(keys_missing(describe(Settings), FULL, "")) == []


def test_yaml_faults_come_all_at_once_with_place_and_hint() -> None:
    """Each wrong field is told with line, column, path, what was got and what is allowed."""
    text = """name: x
pool:
    procs: two
    spars: 1
    queue: 0
workers:
  - name: a
    tipe: lamp
    location: {site: "a b"}
    enabled: 3
    shutdown_timeout_s: 99999
    depends_on: x
  - 5
  - {name: b, type: c, config: 7}
tick_interval_s: .nan
log: {format: jsn, level: 1}
log: {}
plugins: [1, b]
global: {5: x, y: 99999999999999999999999}
metrics: {folder: 3}
zzz: 1
"""
    no_space = "want no '.' and no white space"
    keys = [field.encode_name for field in msgspec.structs.fields(Settings)]
    assert faults_of(text) == [
        "c:3:5: pool.procs: got 'two', want an integer from 1 to 256",
        "c:4:5: pool.spars: unknown key 'spars', did you mean 'spares'?",
        "c:5:5: pool.queue: got 0, want an integer from 1 to 1000000",
        "c:7:5: workers[0].type: missing, want a string",
        "c:8:5: workers[0].tipe: unknown key 'tipe', did you mean 'type'?",
        f"c:9:5: workers[0].location: cannot use location site 'a b': {no_space}",
        "c:10:5: workers[0].enabled: got 3, want true or false",
        "c:11:5: workers[0].shutdown_timeout_s: got 99999, want a number above 0 and at most 3600",
        "c:12:5: workers[0].depends_on: got 'x', want a list",
        "c:13:5: workers[1]: got 5, want a mapping",
        "c:14:24: workers[2].config: got 7, want a mapping or a string",
        "c:15:1: tick_interval_s: got nan, want a finite number",
        "c:16:7: log.format: got 'jsn', did you mean 'json'?",
        "c:16:20: log.level: got 1, want one of 'debug', 'error', 'info', 'warning'",
        "c:17:1: log: key 'log' is given twice, first at line 16",
        "c:18:11: plugins[0]: got 1, want a string",
        "c:19:10: global: got key '5', want text (put it in quotes)",
        "c:19:16: global.y: got an integer that does not fit 64 bits",
        "c:20:11: metrics.folder: got 3, want a string or null",
        f"c:21:1: zzz: unknown key 'zzz', want one of {', '.join(keys)}",
    ]


@pytest.mark.parametrize("value", ["off", "NO", "22:30", "1_000", "0x", "2026-01-01", "=", "1e"])
def test_yaml_text_stays_text(value: str) -> None:
    """What YAML 1.1 would turn into a boolean, a number or a date is text here."""
    assert load_text(f"name: a\nglobal: {{v: {value}}}", "yaml").global_ == {"v": value}


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("~", None), ("-7", -7), ("0x1F", 31), ("0o17", 15), ("1e3", 1000.0),
     ('"7"', "7"), ("!!str 7", "7"), ("! 7", "7"), ("''", ""), (".5", 0.5), ("+1", 1)],
)  # fmt: skip
def test_yaml_core_scalars(text: str, value: Any) -> None:
    """Scalars are read as the YAML 1.2 core schema says."""
    got = load_text(f"name: a\nglobal: {{v: {text}}}", "yaml").global_["v"]
    assert (got, type(got)) == (value, type(value))


def test_yaml_aliases_and_merge_keys() -> None:
    """An alias stands for its anchor; keys of one's own win over merged ones."""
    text = "name: a\nglobal:\n  base: &b {x: 1, y: 2}\n  same: *b\n  own: {<<: *b, y: 3}\n"
    text += "  two: {<<: [*b, {x: 9, z: 9}]}\n"
    got = load_text(text, "yaml").global_
    assert got["same"] == {"x": 1, "y": 2}
    assert got["own"] == {"x": 1, "y": 3}
    assert got["two"] == {"x": 1, "y": 2, "z": 9}


def test_alias_bomb_is_refused() -> None:
    """A small file cannot grow large in memory."""
    text = "name: x\nglobal:\n  a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    for level in range(1, 9):
        text += f"  a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n"
    assert "over 100000 values, aliases written out" in faults_of(text)[0]


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("yaml", "", "c: cannot read config: it is empty, want a mapping with at least 'name'"),
        ("yaml", "# only a remark", "c: cannot read config: got nothing, want a mapping"),
        ("yaml", "- 1", "c: cannot read config: got a list, want a mapping"),
        ("json", "3", "c: cannot read config: got int, want a mapping"),
        ("yaml", "{}", "c:1:1: name: missing, want a string"),
        ("yaml", "a: [", "cannot read config: "),
        ("yaml", "a: *b", "c:1:4: cannot read config: alias *b has no anchor"),
        ("yaml", "a: &a [*a]", "c:1:8: cannot read config: alias *a is inside itself"),
        ("yaml", "[" * 100, "c:1:65: cannot read config: nested too deep, want at most 64 levels"),
        ("yaml", "a: 1\n---\nb: 2", "c:2:1: cannot read config: a second document begins"),
        ("yaml", "name: !!python/object/apply:os.system [x]", "is not supported, want none"),
        ("yaml", "name: !!int x", "does not fit or is not supported"),
        ("yaml", "name: a\nglobal: !!set {x}", "c:2:1: global: tag tag:yaml.org,2002:set is not"),
        ("yaml", "name: a\n? [1]\n: 2", "c:2:3: got key a list or mapping, want text"),
        ("yaml", "name: a\nglobal: {<<: 3}", "got no mapping to merge"),
        ("yaml", "name: \x00", "c: cannot read config: "),
        ("yaml", "name: a\nglobal: {x: &a [1], y: [" + "*a," * 1001 + "]}", "over 1000 aliases"),
        ("json", "{", "c:1:2: cannot read config: Expecting property name"),
        ("json", '{"name": "a", "name": "b"}', "c: name: key 'name' is given twice"),
        ("json", "[" * 100_000, "nested too deep, want at most 64 levels"),
        ("json", '{"name": ' + "1" * 5000 + "}", "c: cannot read config: Exceeds the limit"),
        ("json", '{"name": "a", "tick_interval_s": 1e999}', "got inf, want a finite number"),
        ("json", '{"name": "\\ud800"}', "c: name: got text with half a surrogate pair"),
        ("toml", "a = 1\na = 2", "cannot read config: Cannot overwrite a value"),
        ("toml", "a = \nb = 1", "c:1:5: cannot read config: Invalid value, want TOML"),
        ("ini", "a", "got format 'ini', want one of yaml, json, toml"),
        ("yaml", "name: " + "x" * 2**20, "over 1048576 bytes, want at most that"),
    ],
    ids=str,
)  # fmt: skip
def test_unreadable_text_is_a_clear_error(kind: str, text: str, told: str) -> None:
    """Whatever cannot be read is a ConfigError that says why and, if known, where."""
    assert any(told in line for line in faults_of(text, kind)), faults_of(text, kind)


def test_unreadable_files_are_clear_errors(tmp_path: Path) -> None:
    """A missing file, a folder, a wrong name and wrong bytes are told with the file's name."""

    def told(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load_settings(path)
        (fault,) = caught.value.faults
        assert fault.file == str(path)
        return fault.message

    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(b"name: a\nglobal: {x: \xff}")
    assert told(tmp_path / "none.yaml") == "cannot read config: No such file or directory"
    assert told(tmp_path / "folder.yaml") == "cannot read config: it is not a regular file"
    assert told(tmp_path / "c.ini").endswith("want a name in .yaml, .yml, .json, .toml")
    assert told(tmp_path / "bytes.yaml") == "cannot read config: byte 20 is not UTF-8"
    assert told(tmp_path / "nul\0.yaml").startswith("cannot read config: ")


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    """A file written on another system loads."""
    (tmp_path / "c.json").write_bytes(b'\xef\xbb\xbf{"name": "a"}')
    assert load_settings(tmp_path / "c.json").name == "a"


def test_toml_dates_become_text() -> None:
    """A date in TOML is the text the other formats would give."""
    got = load_text('name = "a"\nglobal = {day = 2026-01-02}', "toml").global_
    assert got == {"day": "2026-01-02"}


@pytest.mark.parametrize("key", ["token", "apiKey", "PASSWORD", "client_secret"])
def test_possible_secrets_are_not_echoed(key: str) -> None:
    """A value whose path looks like a credential's is named by its sort only."""
    assert shown("hunter2", f"workers[0].config.{key}") == "a text"
    text = f"name: a\nworkers: [{{name: w, type: t, state_mapping: {{{key}: [hunter2]}}}}]"
    assert "hunter2" not in "\n".join(faults_of(text))


_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["name", "a", "off", "{{ x }}", "1", ".inf"])
)  # fmt: skip
_keys = st.sampled_from([*FULL, *FULL["workers"][0], *FULL["pool"], "host"]) | st.text(max_size=5)
_trees = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=6),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(_trees)
def test_any_data_is_settings_or_a_config_error(tree: Any) -> None:
    """Whatever JSON-like data is given, nothing but ConfigError is raised, and a text that is
    accepted by one format gives the same settings in the other."""
    text = json.dumps(tree)
    outcomes = []
    for kind in ("json", "yaml"):
        try:
            outcomes.append(load_text(text, kind, "c"))  # type: ignore[arg-type]
        except ConfigError:
            outcomes.append(None)
    if outcomes[0] is not None and outcomes[1] is not None:
        assert outcomes[0] == outcomes[1]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>?'\"#%@`,~<=1. \n\t\x00é\ud800", max_size=60))
def test_any_text_is_settings_or_a_config_error(text: str) -> None:
    """Whatever text is given, nothing but ConfigError is raised."""
    for kind in ("yaml", "json", "toml"):
        with pytest.raises(ConfigError):
            load_text(text, kind, "c")  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(list(FULL)), _trees | st.sampled_from(list(FULL.values()))))
def test_walk_agrees_with_msgspec(tree: dict[str, Any]) -> None:
    """The walk finds a fault exactly where msgspec would refuse."""
    found = misfits(describe(Settings), tree, "")
    try:
        msgspec.convert(tree, Settings)
    except (msgspec.ValidationError, SpecError):
        assert found
    else:
        # An integral float, and only that, is refused here where msgspec takes it.
        assert all(" want an integer" in message for _, message in found)


def test_place_of_unknown_path_is_the_nearest_around_it() -> None:
    """What has no mark of its own (a child a worker derives) is told at what contains it."""
    places = Places("c.yaml", {"": (1, 1), "workers[0]": (4, 3), "workers[0].config": (6, 5)})
    assert places.mark("workers[0].config.a.b[3]") == (6, 5)
    assert places.mark("workers[0].children[x].config") == (4, 3)
    assert places.mark("global.x") == (1, 1)
    assert places.mark(at_key("workers[0].config", "a.b [c]")) is not None
    assert str(Fault(None, None, None, "a", "b")) == "a: b"


# --- checking -------------------------------------------------------------------------------


class LampConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A config with every sort of trouble in reach."""

    host: str
    port: int = 1
    token: Secret | None = None

    def __post_init__(self) -> None:
        if self.host == "forbidden":
            raise ValueError("host is forbidden")


class Off(State):
    """Stopped."""

    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        """Stay here, in effect."""
        return Go(Off, reason="off")


class Look(Action, frozen=True):
    """Never executed."""

    def execute(self, ctx: ActionContext) -> None:
        """Nothing."""


class Lamp(Worker):
    """An ordinary worker."""

    type_name = "lamp"
    config_type = LampConfig
    initial = stopping = Off

    def observe(self, desired: DesiredState) -> Action:
        """Look."""
        return Look()


class Shelf(Worker):
    """Its config says which child it declares and how it misbehaves."""

    type_name = "shelf"
    initial = stopping = Off

    def derive_desired_state(self, spec: UserSpec) -> Any:
        """Do what the config asks for."""
        config = spec.decode(dict)
        match config.get("trouble"):
            case "raise":
                raise ValueError(f"cannot use {config}")
            case "exit":
                sys.exit(3)
            case "abort":
                raise GeneratorExit("half-way")
            case "form":
                return {"state": "running"}
            case "child":
                return DesiredState("running", config, children=("x",))  # type: ignore[arg-type]
            case "spec":
                child = ChildSpec("a", "lamp", user_spec=None)  # type: ignore[arg-type]
                return DesiredState("running", config, children=(child,))
        kind = config.get("child", "lamp")
        names = config.get("names", ["inner"])
        user = UserSpec(config=config.get("inner", {}))
        children = tuple(ChildSpec(name, kind, user_spec=user) for name in names)
        return DesiredState("running", config=config, children=children)

    def observe(self, desired: DesiredState) -> Any:
        """Misbehave on demand."""
        if desired.config.get("observe") == "raise":
            raise RuntimeError("observe is broken")
        return desired.config.get("observe")


class Nest(Worker):
    """Declares itself again, ``width`` times; one level deeper each time, unless in a circle."""

    type_name = "nest"
    initial = stopping = Off

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        """For ever."""
        config = spec.decode(dict)
        user = UserSpec(config={**config, "level": config.get("level", 0) + 1})
        children = (ChildSpec(f"n{i}", "nest", user_spec=user) for i in range(config["width"]))
        return DesiredState("running", children=tuple(children))


class Ring(Worker):
    """Declares a worker of the type that declares it; of the next type, with more types."""

    initial = stopping = Off
    below: ClassVar[str]

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        """Whatever the spec says."""
        below = ChildSpec(f"its-{self.below}", self.below)
        return DesiredState("running", children=(below,))


class Hen(Ring):
    """Declares an egg."""

    type_name = "hen"
    below = "egg"


class Egg(Ring):
    """Declares a hen."""

    type_name = "egg"
    below = "hen"


class Unborn(Worker):
    """Its constructor raises."""

    type_name = "unborn"
    initial = stopping = Off

    def __init__(self) -> None:
        raise OSError("no such device")


FACTORY = WorkerFactory([Lamp, Shelf, Nest, Hen, Egg, Unborn])


def checked(text: str, tmp_path: Path) -> list[str]:
    """The faults `check_settings` finds, as lines without the folder."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    loaded, places = read_config(path)
    try:
        check_settings(loaded, FACTORY, places)
    except ConfigError as error:
        return [str(fault).replace(str(path), "c") for fault in error.faults]
    return []


def worker(line: str) -> str:
    """A config with one worker."""
    return f"name: site\nworkers:\n  - {{name: w, {line}}}\n"


def test_good_config_passes_the_check(tmp_path: Path) -> None:
    """Templates see user, global and internal variables and the location."""
    text = """name: site
location: {enterprise: ACME}
global: {broker: b}
workers:
  - name: w
    type: lamp
    location: {site: S}
    variables: {A: 7}
    config:
      host: "{{ A }}{{ global.broker }}{{ internal.id }}{{ internal.parent_id }}{{ location_path }}"
      port: "{{ A }}"
  - name: s
    type: shelf
    variables: {HOST: h}
    config: {inner: {host: "{{ internal.bridged_by }}{{ internal.location.enterprise }}"}}
    depends_on: [w]
  - {name: text, type: lamp, config: "host: {{ x | default('y') }}"}
"""
    assert checked(text, tmp_path) == []


def test_names_types_and_dependencies_are_told_together(tmp_path: Path) -> None:
    """Every name, type and dependency fault comes with its line; a double names both places."""
    text = """name: my site
workers:
  - {name: a/b, type: lamp, config: {host: h}}
  - {name: c, type: lmp}
  - {name: d, type: lamp, config: {host: h}, depends_on: [x, e]}
  - {name: e, type: lamp, config: {host: h}, depends_on: [d]}
  - {name: c, type: lamp, config: {host: h}}
http: {listen: nowhere}
"""
    want = "want 1 to 63 of letters, digits, '_', '-' or '.', beginning with a letter or digit"
    twice = "name 'c' is used twice, first at workers[1].name (line 4), want a name of its own"
    assert checked(text, tmp_path) == [
        f"c:1:1: name: cannot use name 'my site': {want}",
        "c:2:1: workers: depends_on is circular: d -> e -> d",
        f"c:3:6: workers[0].name: cannot use name 'a/b': {want}",
        "c:4:15: workers[1].type: unknown worker type 'lmp', did you mean 'lamp'?",
        "c:5:46: workers[2].depends_on: depends_on names 'x', want a sibling: a/b, c, d, e",
        f"c:7:6: workers[4].name: {twice}",
        "c:8:8: http.listen: got 'nowhere', want HOST:PORT with port 0 to 65535, or \"off\"",
    ]


def test_variable_names_are_checked(tmp_path: Path) -> None:
    """A reserved or unusable variable name is refused at its key."""
    text = worker('type: lamp, config: {host: h}, variables: {global: 1, "a b": 2}')
    found = checked(text, tmp_path)
    assert len(found) == 2
    assert "workers[0].variables.global: cannot use user variable 'global'" in found[0]
    assert "workers[0].variables['a b']: cannot use user variable 'a b'" in found[1]
    found = checked('name: a\nglobal: {"1x": 1}\n', tmp_path)
    assert ["cannot use global variable '1x'" in fault for fault in found] == [True]


def test_templates_are_checked_where_they_stand(tmp_path: Path) -> None:
    """A syntax error and each missing variable are told with the place inside the config."""
    text = worker(
        'type: lamp, variables: {PORT: 1}, config: {host: ["{{ PROT }} {{ IP }}", "{{ x "]}'
    )
    told = [fault.partition("workers[0].")[2] for fault in checked(text, tmp_path)]
    assert told[0].startswith("config.host[0]: template needs 'IP', which is no variable")
    assert told[1] == (
        "config.host[0]: template needs 'PROT', which is no variable, did you mean 'PORT'?"
    )
    assert told[2].startswith("config.host[1]: cannot parse template, line 1")


def test_every_wrong_field_of_a_worker_config_is_told(tmp_path: Path) -> None:
    """A config that does not decode is compared with the worker's config type, field by field."""
    text = worker('type: lamp, config: {hots: h, port: x, token: [hunter2], more: "{{ 1 }}"}')
    told = [fault.partition("workers[0].")[2] for fault in checked(text, tmp_path)]
    assert sorted(told) == [
        "config.host: missing, want a string",
        "config.hots: unknown key 'hots', did you mean 'host'?",
        "config.more: unknown key 'more', want one of host, port, token",
        "config.port: got 'x', want an integer",
        "config.token: got a list of 1, want a text or null",
    ]
    text = worker("type: lamp, config: {host: forbidden}")
    assert checked(text, tmp_path) == ["c:3:27: workers[0].config: host is forbidden"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("type: unborn", "worker 'unborn', constructor: raised OSError: no such device (test_co"),
        ("type: shelf, config: {trouble: raise}", "derive_desired_state: raised ValueError: cann"),
        ("type: shelf, config: {trouble: exit}", "derive_desired_state: raised SystemExit: 3"),
        ("type: shelf, config: {trouble: abort}", "raised GeneratorExit: half-way (test_config"),
        ("type: shelf, config: {trouble: form}", "returned dict, want DesiredState"),
        ("type: shelf, config: {trouble: child}", "children[0]: got str, want ChildSpec"),
        ("type: shelf, config: {trouble: spec}", "children[0]: user_spec is NoneType, want UserSp"),
        ("type: shelf, config: {observe: raise}", "observe: raised RuntimeError: observe is bro"),
        ("type: shelf, config: {observe: 3}", "observe: returned int, want Action or None"),
        ("type: shelf, config: {child: lmp}", "worker type 'lmp', want one of egg, hen, l"),
        ("type: shelf, config: {names: [a, a]}", "name 'a' is used twice, first at children[0]"),
        ("type: shelf, config: {inner: {hots: 1}}", "workers[0].children[inner].config.hots: unk"),
        ("type: shelf, config: {names: [7]}", "children[0]: name is int, want str"),
        ("type: nest, config: {width: 1}", "got children below depth 16, want less: root -> nest"),
        ("type: hen", "[0]: declared in a circle: w (hen) -> its-egg (egg) -> its-hen (hen)"),
        ("type: hen, config: {a: 1}", "circle: its-egg (egg) -> its-hen (hen) -> its-egg (egg), w"),
        ("type: nest, config: {width: 3}", "got over 10000 workers, want at most that"),
    ],
)  # fmt: skip
def test_worker_code_that_misbehaves_is_a_fault(line: str, told: str, tmp_path: Path) -> None:
    """What a worker raises or returns wrongly is told with worker and step, no traceback."""
    found = checked(worker(line), tmp_path)
    assert any(told in fault for fault in found), found[:3]
    assert all(fault.startswith("c:3:") and "Traceback" not in fault for fault in found)


def test_secret_is_not_in_what_worker_code_raises(tmp_path: Path) -> None:
    """A worker that puts its config into its error does not publish the token."""
    found = checked(worker("type: shelf, config: {trouble: raise, token: hunter2}"), tmp_path)
    assert len(found) == 1
    assert "hunter2" not in found[0]


# --- plug-ins -------------------------------------------------------------------------------

GOOD = """
from fsmv2.supervisor import Go, Phase, State, Worker
class Off(State):
    phase = Phase.STOPPED
class {name}(Worker):
    type_name = "{type}"
    initial = stopping = Off
WORKERS = [{name}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for plug-ins; the import path and the modules are put back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_plugin_beside_the_config_is_found(folder: Path) -> None:
    """A module in a search folder loads; its folder comes last on the import path."""
    (folder / "plug_a.py").write_text(GOOD.format(name="A", type="a"))
    (folder / "json.py").write_text("raise RuntimeError")
    plugins = load_plugins(["plug_a"], search=[folder])
    assert plugins.modules[0] == "plug_a"
    assert "a" in plugins.factory
    assert plugins.search[0] == str(folder)
    assert sys.path.index(str(folder)) >= len(sys.path) - 2


def test_example_plugins_load() -> None:
    """The examples are plug-ins like any other."""
    names = ["hello", "converter", "faulty"]
    plugins = load_plugins([f"fsmv2.examples.{name}" for name in names])
    assert {"hello", "protocol_converter", "segfaults"} <= plugins.factory.type_names


def test_every_plugin_failure_is_told_at_once(folder: Path) -> None:
    """Each failing plug-in is a fault at plugins[i] with the last line of its traceback and the
    plug-in's file and line."""
    files = {
        "plug_syntax": "x = (",
        "plug_import": "\nimport no_such_module_at_all",
        "plug_raise": "import json\ndef f():\n    json.loads('{')\nf()\n",
        "plug_exit": "import sys\nsys.exit(4)",
        "plug_none": "x = 1",
        "plug_form": "WORKERS = 3",
        "plug_item": "class X: pass\nWORKERS = [X, 3]",
        "plug_good": GOOD.format(name="A", type="a"),
        "plug_twin": GOOD.format(name="B", type="a"),
        "plug_bare": "from fsmv2.supervisor import Worker\nclass C(Worker): pass\nWORKERS = [C]",
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    names = [*files, "plug_god", "plug_good.py", "plug_good", "..", ""]
    with pytest.raises(ConfigError) as caught:
        load_plugins(names, search=[folder], places=Places("c.yaml", {"plugins[0]": (3, 5)}))
    told = [str(fault) for fault in caught.value.faults]
    expected = [
        ("plugins[0]: cannot import 'plug_syntax': SyntaxError: ", "plug_syntax.py:1)"),
        ("plugins[1]: ", "No module named 'no_such_module_at_all' ("),
        ("plugins[2]: cannot import 'plug_raise': json.decoder.JSONDecodeError", "raise.py:3)"),
        ("plugins[3]: cannot import 'plug_exit': SystemExit: 4 (", "plug_exit.py:2)"),
        ("plugins[4]: module 'plug_none' has no usable WORKERS: got none", "Worker classes"),
        ("plugins[5]: module 'plug_form' has no usable WORKERS: got int", "Worker classes"),
        ("plugins[6].WORKERS[0]: module 'plug_item': got X, want a subclass of Worker", ""),
        ("plugins[6].WORKERS[1]: module 'plug_item': got int, want a subclass of Worker", ""),
        ("plugins[8].WORKERS[0]: cannot register worker type 'a'", "has that name already"),
        ("plugins[9].WORKERS[0]: cannot register worker plug_bare.C: it has no type_name", ""),
        ("plugins[10]: cannot import 'plug_god': No module", ""),
        ("plugins[11]: cannot import 'plug_good.py'", "such as 'plug_good', not a file's"),
        ("plugins[12]: 'plug_good' is listed twice, first at plugins[7]", ""),
        ("plugins[13]: cannot import '..', want a module's name", ""),
        ("plugins[14]: cannot import '', want a module's name", ""),
    ]
    assert len(told) == len(expected)
    for line, (begin, end) in zip(told, expected, strict=True):
        assert begin in line
        assert end in line
    assert told[0].startswith("c.yaml:3:5: plugins[0]")
    assert not any("Traceback" in line for line in told)
