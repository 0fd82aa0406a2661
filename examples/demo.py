"""`fsmv2 demo`: a small site that is under attack from its own actions.

Knows: the demo's workers, the two helper processes it needs (a device and a relay), what to
say at the start and at the end.
Does not know: how anything is supervised.
Invariants: everything it makes is below one temporary folder and loopback; the helpers die
with it; nothing is left behind. It uses the command line's own way to start a supervisor,
which is why it may import more than a plug-in may.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from fsmv2.communicator.spool import post
from fsmv2.examples.recordfile import read_after
from fsmv2.supervisor.cli import HTTP_HELP, load_plugins_for, refuse, run_supervisor
from fsmv2.supervisor.core.errors import StartError
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.settings import (
    HttpSettings,
    LogSettings,
    PoolSettings,
    Settings,
    WorkerSettings,
)

PLUGINS = ("fsmv2.examples.converter", "fsmv2.examples.faulty", "fsmv2.communicator")
RECORDS_MAX = 10_000_000
DEMO_TOKEN = "demo-token-1"


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Stop by itself after that long.")
@click.option("--http", "listen", default="127.0.0.1:0", show_default=True, help=HTTP_HELP)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), default="console")
def demo(seconds: float | None, listen: str, log_format: str) -> None:
    """Run a demo site: a converter, an uplink, and five workers whose actions misbehave."""
    with tempfile.TemporaryDirectory(prefix="fsmv2-demo-") as folder, contextlib.ExitStack() as end:
        _say("starting a simulated device and a relay on loopback")
        try:
            device = end.enter_context(
                _helper("fsmv2.examples.device", "--rate", "50", "--backlog", "200")
            )
            relay = end.enter_context(
                _helper(
                    "fsmv2.communicator.testing.relay",
                    *("--token", DEMO_TOKEN, "--chatter", "2"),
                    *("--outage-every", "40", "--outage-for", "10"),
                )
            )
        except (OSError, StartError) as error:
            refuse(StartError(f"cannot start the demo's helpers: {error}"))
        settings = _settings(folder, device, relay, listen, log_format)
        _say("starting the supervisor: one root, a template, procs, and the ops process")
        plugins = load_plugins_for(settings)
        summary = run_supervisor(settings, plugins, seconds)
        click.echo(summary.text())
        click.echo(_records_text(Path(folder) / "bridge"))
    sys.exit(summary.exit_code)


def _say(text: str) -> None:
    click.echo(f"demo: {text}", err=True)


@contextlib.contextmanager
def _helper(module: str, *arguments: str) -> Iterator[str]:
    """Run a helper module; gives the address its first line names."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments, "--parent-pid", str(os.getpid())],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        if " on " not in line:
            raise StartError(f"{module} said {line!r}, want an address")
        _say(line)
        yield line.rpartition(" on ")[2]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _settings(folder: str, device: str, relay: str, listen: str, log_format: str) -> Settings:
    host, _, port = device.rpartition(":")
    outbox, inbox = Path(folder) / "outbox", Path(folder) / "inbox"
    for made in (outbox, inbox):
        made.mkdir()
    for number in range(1, 6):
        post(outbox, email="ada@example.com", message_type="status", payload={"number": number})
    misbehaving = [
        WorkerSettings(name=name, type=kind, config={"every_s": every_s}, shutdown_timeout_s=5.0)
        for name, kind, every_s in (
            ("hangs", "hangs", 2.0),
            ("hangs-in-c", "hangs_in_c", 3.0),
            ("segfaults", "segfaults", 4.0),
            ("exits", "exits", 5.0),
            ("fails", "fails", 6.0),
        )
    ]
    return Settings(
        name="demo",
        plugins=PLUGINS,
        location=Location(enterprise="ACME", site="Factory-1"),
        http=HttpSettings(listen),
        log=LogSettings(format=log_format),  # type: ignore[arg-type]
        pool=PoolSettings(procs=4),
        workers=(
            WorkerSettings(
                name="bridge",
                type="protocol_converter",
                variables={"IP": host, "PORT": int(port)},
                location=Location(line="Line-A", cell="Cell-5"),
                config={"name": "Factory-PLC", "folder": f"{folder}/bridge"},
                shutdown_timeout_s=5.0,
            ),
            WorkerSettings(
                name="uplink",
                type="communicator",
                config={
                    "relay_url": relay,
                    "auth_token": DEMO_TOKEN,
                    "outbox": str(outbox),
                    "inbox": str(inbox),
                },
                shutdown_timeout_s=5.0,
            ),
            *misbehaving,
        ),
    )


def _records_text(folder: Path) -> str:
    """Whether the converter lost or doubled a record while actions died around it."""
    path = folder / "records.jsonl"
    numbers = [record.seq for record in read_after(path, 0, RECORDS_MAX)] if path.exists() else []
    if not numbers:
        return "records: none were delivered"
    lost = set(range(1, max(numbers) + 1)) - set(numbers)
    twice = len(numbers) - len(set(numbers))
    return (
        f"records: {len(numbers)} moved from the device to the file, "
        f"{len(lost)} lost, {twice} twice"
    )
