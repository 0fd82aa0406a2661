"""The plug-in: what it exports, what it imports, which configs it takes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fsmv2.communicator as package
from fsmv2.communicator import WORKERS, Communicator, CommunicatorConfig
from fsmv2.supervisor import Secret, UserSpec, WorkerFactory
from fsmv2.supervisor.core.errors import SpecError

FOLDER = Path(package.__file__).parent
URL = "https://relay.example.com/api"


def test_importing_the_worker_loads_no_http_client() -> None:
    """The root decides and never speaks HTTP, so it does not pay for a client, nor for zstd."""
    code = (
        "import sys, fsmv2.supervisor, fsmv2.communicator, fsmv2.communicator.worker\n"
        "import fsmv2.communicator.actions.sync, fsmv2.communicator.actions.authenticate\n"
        "import fsmv2.communicator.actions.reset, fsmv2.communicator.spool\n"
        "clients = ('urllib3', 'ssl', 'http', 'urllib.request', 'backports', 'compression')\n"
        "clients += ('prometheus_client',)\n"
        "print([name for name in clients if name in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.strip() == "[]"


TICKED = """
import sys, fsmv2.communicator
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.outcomes import LoginOutcome, Session, SyncOutcome
from fsmv2.supervisor import ChildSpec, Secret, UserSpec
from fsmv2.supervisor.testing import Simulation

session = Session(Secret("jwt"), 4e9, 4e9)
answers = {
    AuthenticateAction: lambda action: LoginOutcome(action.credentials, session),
    SyncAction: lambda action: SyncOutcome(action.access.credentials, action.access.login_id),
}
child = ChildSpec("up", "communicator", UserSpec({"outbox": "out", "inbox": "in"}))
sim = Simulation(fsmv2.communicator.WORKERS, [child], interval_s=0.5, answers=answers)
sim.run(30)
clients = ("urllib3", "requests", "httpx", "aiohttp", "h11", "backports.zstd", "compression.zstd")
print(sim.node("root/up").state_name, [name for name in clients if name in sys.modules])
"""


def test_ticking_the_worker_loads_no_http_client() -> None:
    """Neither does the root while it decides, on outcomes of actions that ran elsewhere."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", TICKED], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.strip() == "syncing []"


def test_package_uses_public_names_only_and_urllib3_in_the_transport() -> None:
    """A plug-in like any user's: nothing below `fsmv2.supervisor`, the client in two files."""
    clients = []
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert not name.startswith("fsmv2.supervisor."), f"{path.name} imports {name}"
                assert not name.startswith(("fsmv2.ipc", "fsmv2.workerproc")), path.name
                if name.startswith("urllib3"):
                    clients.append(path.relative_to(FOLDER).as_posix())
    assert set(clients) == {"transport/http.py", "transport/connections.py"}


def test_only_the_transport_and_the_login_reveal_a_secret() -> None:
    """Everywhere else a token is a `Secret`."""
    users = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*.py")
        if ".reveal()" in path.read_text()
    }
    assert users == {"transport/http.py", "actions/authenticate.py"}


def test_worker_registers() -> None:
    """`WORKERS` is all a config's plugin list needs."""
    assert WorkerFactory(WORKERS).type_names == {"communicator"}


def test_config_decodes_with_defaults_and_a_hidden_token() -> None:
    """The token is a Secret from the first moment."""
    spec = UserSpec(config={"relay_url": URL, "auth_token": "hunter2-token"})
    desired = Communicator().derive_desired_state(spec)
    assert desired.state == "running"
    assert desired.config == CommunicatorConfig(URL, auth_token=Secret("hunter2-token"))
    assert "hunter2" not in repr(desired)
    assert desired.config.timeout_s == 10
    assert desired.config.poll_interval_s == 1
    assert Communicator().observe(desired) is None
    assert Communicator().derive_desired_state(UserSpec()).config == CommunicatorConfig()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"relay_url": 5}, "relay_url"),
        ({"allow_insecure_tls": "yes"}, "allow_insecure_tls"),
        ({"relay_url": "ftp://relay"}, "want http"),
        ({"relay_url": "relay.example.com"}, "want http"),
        ({"relay_url": "http://"}, "no host"),
        ({"relay_url": "http://relay:99999"}, "no URL"),
        ({"relay_url": "http://host/a b"}, "blank"),
        ({"relay_url": "http://host/a\u00a0"}, "blank"),
        ({"relay_url": "http://host/a\u2028b"}, "blank"),
        ({"relay_url": "http://host/a\x85"}, "blank"),
        ({"relay_url": "http://host/a\u200b"}, "blank"),
        ({"relay_url": "http://host/a?x=1"}, "query"),
        ({"relay_url": URL, "timeout_s": 16}, "timeout_s"),
        ({"relay_url": URL, "timeout_s": 0}, "timeout_s"),
        ({"relay_url": URL, "poll_interval_s": 0}, "poll_interval_s"),
        ({"relay_url": URL, "outbox": ""}, "outbox"),
        ({"relay_url": URL, "outbox": "x", "inbox": "x"}, "two folders"),
        ({"relay_url": URL, "relayURL": "x"}, "relayURL"),
        ({"instanceUUID": "x"}, "instanceUUID"),
        ({"auth_token_file": "token"}, "want a path"),
    ],
)
def test_unusable_config_is_refused_with_its_field(config: dict[str, object], told: str) -> None:
    """Refused when it is derived, not when it is first used."""
    with pytest.raises(SpecError, match=told):
        Communicator().derive_desired_state(UserSpec(config=dict(config)))


def test_all_faults_of_a_config_are_told_at_once() -> None:
    """Each with its field, none with what it must not show; with unusable folders it is not said
    too that they are one."""
    config = {
        "relay_url": "https://user:hunter2@relay.example.com/api",
        "auth_token_file": "hunter2",
        "outbox": "/plant/box",
        "inbox": "/plant//box",
    }
    with pytest.raises(SpecError) as caught:
        Communicator().derive_desired_state(UserSpec(config=dict(config)))
    told = str(caught.value).removeprefix("config: ").split("; ")
    assert [fault.split()[0] for fault in told] == ["relay_url", "auth_token_file", "outbox"]
    assert "two folders" in told[2]
    assert "hunter2" not in repr(caught.value)
    config |= {"outbox": "/plant/box\0", "inbox": "/plant/box\0"}
    with pytest.raises(SpecError) as caught:
        Communicator().derive_desired_state(UserSpec(config=dict(config)))
    told = str(caught.value).split("; ")
    assert [fault.split()[0] for fault in told[1:]] == ["auth_token_file", "outbox", "inbox"]


@pytest.mark.parametrize("name", ["relay_url", "auth_token_file"])
@pytest.mark.parametrize("text", ["t0ken-in-the-wrong-place", "t0ken://place", "t0ken/a=="])
def test_what_is_no_url_and_no_path_is_not_shown(name: str, text: str) -> None:
    """It may be the token."""
    with pytest.raises(SpecError, match=f"{name} begins with") as caught:
        Communicator().derive_desired_state(UserSpec(config={name: text}))
    assert "t0ken" not in repr(caught.value)


@pytest.mark.parametrize("name", ["outbox", "inbox"])
@pytest.mark.parametrize("text", ["/t0ken\0", "/t0ken\nb", "/t0ken\n", "\r/t0ken", "/t0ken\u2028"])
def test_a_folder_that_is_no_path_on_one_line_is_refused_and_not_shown(
    name: str, text: str
) -> None:
    """No folder has such a name; a key of several lines that was put there would be shown."""
    with pytest.raises(SpecError, match=f"{name} has a NUL or a line break") as caught:
        Communicator().derive_desired_state(UserSpec(config={name: text}))
    assert "t0ken" not in repr(caught.value)


@pytest.mark.parametrize(
    "inbox",
    [
        "/plant/box/",
        "/plant//box",
        "/plant/./box",
        "/plant/a/../box",
        "//plant/box",
        "/../plant/box",
    ],
)
def test_one_folder_written_in_two_ways_is_refused(inbox: str) -> None:
    """What came in would be sent out again."""
    with pytest.raises(ValueError, match="two folders"):
        CommunicatorConfig(outbox="/plant/box", inbox=inbox)


def test_relative_folders_are_compared_as_the_procs_will_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the root's own folder, also where that is gone."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    for inbox in ("box/", "./box", "a/../box", str(gone / "box")):
        with pytest.raises(ValueError, match="two folders"):
            CommunicatorConfig(outbox="box", inbox=inbox)
    assert CommunicatorConfig(outbox="box", inbox="../box").inbox == "../box"
    gone.rmdir()
    with pytest.raises(ValueError, match="two folders"):
        CommunicatorConfig(outbox="box", inbox="./box")
    assert CommunicatorConfig(outbox="out", inbox="in").inbox == "in"


def test_password_in_the_url_is_refused_without_showing_it() -> None:
    """A URL is shown in logs; a password in it would be too."""
    spec = UserSpec(config={"relay_url": "https://user:hunter2@relay.example.com/api"})
    with pytest.raises(SpecError) as caught:
        Communicator().derive_desired_state(spec)
    assert "hunter2" not in str(caught.value)
