"""An operator at a running root: a hung action is killed by hand, a quarantined type released."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from running import Running, fsmv2, until

from fsmv2.ipc.linux import is_alive

TOKEN = "operators-t0ken-0123456789"


def write(tmp_path: Path, workers: str, more: str = "") -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(
        "name: site\nplugins: [tree_plugin]\n"
        "pool: {procs: 2, quarantine: {after: 2, base_s: 3600, max_s: 3600}}\n"
        f"{more}workers:\n{workers}"
    )
    return path


def post(root: Running, path: str, token: str | None, body: bytes = b"") -> tuple[int, Any]:
    host, _, port = root.address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def hung(root: Running) -> dict[str, Any]:
    """The attempt in flight that hangs, once a proc runs it."""

    def look() -> dict[str, Any] | None:
        flying = (root.get("/api/v1/actions") or {"in_flight": []})["in_flight"]
        return next((one for one in flying if one["type"] == "Hang" and not one["queued"]), None)

    found: dict[str, Any] = until(look, "the hanger hangs")
    return found


HANGER = "  - {name: hang, type: hanger, shutdown_timeout_s: 2}\n"
ABORTER = "  - {name: abort, type: aborter, shutdown_timeout_s: 2}\n"


def test_operator_kills_a_hung_action_and_the_tree_goes_on(tmp_path: Path) -> None:
    """Over HTTP, with the token: exactly that attempt dies, its certificate says who wanted it,
    the worker decides anew; a second kill of it finds nothing. The token shows nowhere."""
    config = write(tmp_path, HANGER, "log: {level: debug}\n")
    with Running(config, env={"FSMV2_TOKEN": TOKEN}) as root:
        root.wait_ready()
        first = hung(root)
        path = f"/api/v1/actions/{first['attempt_id']}/kill"
        for token in (None, "", TOKEN + "x"):
            assert post(root, path, token)[0] == 401
        pid = next(p["pid"] for p in root.procs() if p["attempt_id"] == first["attempt_id"])
        assert is_alive(pid)
        status, answer = post(root, path, TOKEN, b"ignored" * 1_000)
        assert (status, answer) == (
            202,
            {
                "outcome": "done",
                "attempt_id": first["attempt_id"],
                "action_type": "Hang",
                "path": "site/hang",
            },
        )
        (ended,) = until(lambda: root.records("action_ended"), "its end is told")
        assert ended["attempt_id"] == first["attempt_id"]
        assert (ended["status"], ended["verdict"]) == ("cancelled", "cancelled")
        assert ended["signal"] == "SIGKILL"
        assert "operator" in ended["sent_by"]
        assert not is_alive(pid)
        (told,) = root.records("operator_commanded")
        assert told["command"] == "kill"
        assert told["target"] == f"#{first['attempt_id']}"
        assert told["outcome"] == "done"
        assert told["path"] == "site/hang"
        assert told["client"].startswith("127.0.0.1:")
        again = until(
            lambda: (now := hung(root))["attempt_id"] != first["attempt_id"] and now, "a new one"
        )
        assert again["path"] == "site/hang"
        status, answer = post(root, path, TOKEN)
        assert (status, answer["outcome"]) == (404, "no_such_attempt")
        until(
            lambda: (
                'fsmv2_operator_commands_total{command="kill",outcome="done"} 1.0'
                in (root.get("/metrics") or "")
            ),
            "the command is counted",
        )
        pages = [root.get(page) for page in ("/api/v1/tree", "/api/v1/status", "/metrics")]
        assert root.end() == 0
        assert not any(TOKEN in str(said) for said in (root.log_text(), *pages))


def test_operator_releases_a_quarantined_type(tmp_path: Path) -> None:
    """It waits an hour in quarantine; released, it runs (and dies) at once again."""
    with Running(write(tmp_path, ABORTER, f"http: {{token: {TOKEN}}}\n")) as root:
        root.wait_ready()
        path = "/api/v1/action-types/Abort/release"
        (kept,) = until(
            lambda: (root.get("/api/v1/actions") or {}).get("quarantined"), "it is kept apart"
        )
        assert kept["name"] == "Abort"
        assert kept["verdict"] == "crashed:SIGABRT"
        assert kept["retry_in_s"] > 60
        deaths = len(root.records("action_ended"))
        assert post(root, path, None)[0] == 401
        assert post(root, "/api/v1/action-types/Hang/release", TOKEN)[0] == 409
        assert root.records("action_type_released") == []
        listen = root.address.removeprefix("http://")
        shown = fsmv2("status", "--http", listen).stdout
        assert "Abort: 2 times crashed:SIGABRT" in shown
        released = fsmv2("release", "Abort", "--http", listen, env={"FSMV2_TOKEN": TOKEN})
        assert (released.returncode, released.stdout) == (0, "released Abort\n")
        (told,) = until(lambda: root.records("action_type_released"), "it is released")
        assert (told["action_type"], told["reason"]) == ("Abort", "an operator released it")
        until(lambda: len(root.records("action_ended")) > deaths, "it runs again")
        assert root.end() == 0


def test_operator_on_the_command_line(tmp_path: Path) -> None:
    """`fsmv2 kill` with the token from a file; wrong token, wrong number, no token: told, with
    exit codes of their own."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("another-0123456789abcdef")
    with Running(write(tmp_path, HANGER), env={"FSMV2_TOKEN_FILE": str(file)}) as root:
        root.wait_ready()
        number = str(hung(root)["attempt_id"])
        at = ("--http", root.address.removeprefix("http://"))
        assert f"[#{number} Hang" in fsmv2("tree", *at).stdout
        by_file = ("--token-file", str(file))
        for arguments, code, says in (
            ((number,), 2, "FSMV2_TOKEN"),
            ((number, "--token-file", str(tmp_path / "none")), 2, "cannot read the token"),
            ((number, "--token-file", str(wrong)), 6, "Authorization"),
            (("999999", *by_file), 6, "none of that number"),
            (("x", *by_file), 2, "'x' is not a valid integer"),
        ):
            ended = fsmv2("kill", *arguments, *at)
            assert ended.returncode == code, ended.stderr
            assert says in ended.stderr
            assert ended.stdout == ""
            assert "Traceback" not in ended.stderr
            assert "another-0123456789abcdef" not in ended.stderr
        assert root.records("action_ended") == []
        killed = fsmv2("kill", number, *at, *by_file, "--json")
        assert killed.returncode == 0, killed.stderr
        assert json.loads(killed.stdout)["path"] == "site/hang"
        until(lambda: root.records("action_ended"), "it is killed")
        assert root.end() == 0


def test_commands_are_refused_where_no_token_is_set(tmp_path: Path) -> None:
    with Running(write(tmp_path, HANGER)) as root:
        root.wait_ready()
        number = hung(root)["attempt_id"]
        status, answer = post(root, f"/api/v1/actions/{number}/kill", TOKEN)
        assert status == 403
        assert "FSMV2_TOKEN" in answer["error"]
        assert hung(root)["attempt_id"] == number
        assert root.end() == 0


def test_unusable_token_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = str(write(tmp_path, HANGER))
    ended = fsmv2("run", config, "--http", "off", env={"FSMV2_TOKEN": "s3cret"})
    assert ended.returncode == 2
    assert "cannot use the token of FSMV2_TOKEN" in ended.stderr
    assert "s3cret" not in ended.stderr


def test_actions_do_not_find_the_token_in_their_environment(tmp_path: Path) -> None:
    """What the root starts inherits its environment, but not this."""
    with Running(write(tmp_path, HANGER), env={"FSMV2_TOKEN": TOKEN}) as root:
        root.wait_ready()
        hung(root)
        # One that is only ordered has no process yet.
        pids = [proc["pid"] for proc in root.procs() if proc["pid"]]
        pids += [root.records("ops_started")[0]["pid"]]
        pids += [root.get("/api/v1/status")["pool"]["template_pid"]]
        for pid in pids:
            assert TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
            assert TOKEN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert root.end() == 0


@pytest.mark.parametrize("command", ["kill", "release"])
def test_nobody_to_command_is_exit_code_5(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ended = fsmv2(command, "7", "--http", f"127.0.0.1:{port}", env={"FSMV2_TOKEN": TOKEN})
    assert ended.returncode == 5
    assert "is it running" in ended.stderr
    assert TOKEN not in ended.stderr


def test_stopped_root_is_told_and_obeys_when_it_goes_on(tmp_path: Path) -> None:
    """The ops process answers in bounded time though the root does not (SIGSTOP), and says that
    the command may still be carried out. It is."""
    import signal

    with Running(write(tmp_path, HANGER), env={"FSMV2_TOKEN": TOKEN}) as root:
        root.wait_ready()
        number = hung(root)["attempt_id"]
        os.kill(root.pid, signal.SIGSTOP)
        try:
            status, answer = post(root, f"/api/v1/actions/{number}/kill", TOKEN)
        finally:
            os.kill(root.pid, signal.SIGCONT)
        assert status == 504
        assert "may carry it out later" in answer["error"]
        (ended,) = until(lambda: root.records("action_ended"), "it is carried out")
        assert ended["attempt_id"] == number
        assert root.end() == 0
