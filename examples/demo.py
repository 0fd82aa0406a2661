"""`fsmv2 demo`: a small site that is under attack from its own actions.

Knows: the demo's workers, the two helper processes it needs (a device and a relay), what to
say at the start and at the end.
Does not know: how anything is supervised.
Invariants: everything it makes is below one temporary folder and loopback; the helpers die
with it; nothing is left behind. It runs a config file through the command line's own functions,
as `fsmv2 run` does, which is why it may import more than a plug-in may.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fsmv2.communicator.spool import post
from fsmv2.examples.recordfile import read_after
from fsmv2.supervisor.commandline import cli

RECORDS_MAX = 10_000_000
DEMO_TOKEN = "demo-token-1"
CONFIG = """\
name: demo
plugins: [fsmv2.examples.converter, fsmv2.examples.faulty, fsmv2.communicator]
location: {{enterprise: ACME, site: Factory-1}}
pool: {{procs: 4}}
workers:
  - name: bridge
    type: protocol_converter
    variables: {{IP: "{host}", PORT: {port}}}
    location: {{line: Line-A, cell: Cell-5}}
    config: {{name: Factory-PLC, folder: "{folder}/bridge"}}
    shutdown_timeout_s: 5.0
  - name: uplink
    type: communicator
    config:
      relay_url: "{relay}"
      auth_token: {token}
      outbox: "{folder}/outbox"
      inbox: "{folder}/inbox"
    shutdown_timeout_s: 5.0
  - {{name: hangs, type: hangs, config: {{every_s: 2.0}}, shutdown_timeout_s: 5.0}}
  - {{name: hangs-in-c, type: hangs_in_c, config: {{every_s: 3.0}}, shutdown_timeout_s: 5.0}}
  - {{name: segfaults, type: segfaults, config: {{every_s: 4.0}}, shutdown_timeout_s: 5.0}}
  - {{name: exits, type: exits, config: {{every_s: 5.0}}, shutdown_timeout_s: 5.0}}
  - {{name: fails, type: fails, config: {{every_s: 6.0}}, shutdown_timeout_s: 5.0}}
"""


@click.command()
@click.option("--seconds", type=cli.Seconds(min=0.1), help="Stop by itself after that long.")
@click.option("--http", "listen", default="127.0.0.1:0", show_default=True, help=cli.HTTP_HELP)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), default="console")
def demo(seconds: float | None, listen: str, log_format: str) -> None:
    """Run a demo site: a converter, an uplink, and five workers whose actions misbehave."""
    with contextlib.ExitStack() as end:
        try:
            folder = Path(end.enter_context(tempfile.TemporaryDirectory(prefix="fsmv2-demo-")))
            _say("starting a simulated device and a relay on loopback")
            config = _write_config(folder, end)
        except OSError as error:
            cli.cannot_start(f"cannot prepare the demo: {error}")
        _say("starting the supervisor: one root, a template, procs, and the ops process")
        settings, plugins = cli.load(str(config))
        settings = cli.with_options(settings, listen, log_format)
        summary = cli.run_supervisor(settings, plugins, seconds, listeners=(_announce,))
        records = _records_text(folder / "bridge" / "records.jsonl")
    cli.end_run(f"{summary.text()}\n{records}", summary.exit_code)


def _say(text: str) -> None:
    click.echo(f"demo: {text}", err=True)


def _announce(event: Any) -> None:
    if event.name() == "ops_started":
        _say(f"dashboard: {event.address} (Ctrl-C ends the demo)")


def _write_config(folder: Path, end: contextlib.ExitStack) -> Path:
    device = end.enter_context(_helper("fsmv2.examples.device", "--rate", "50", "--backlog", "200"))
    relay = end.enter_context(
        _helper(
            "fsmv2.communicator.testing.relay",
            *("--token", DEMO_TOKEN, "--chatter", "2"),
            *("--outage-every", "40", "--outage-for", "10"),
        )
    )
    for name in ("outbox", "inbox"):
        (folder / name).mkdir()
    for number in range(1, 6):
        # What a program beside the supervisor would do to have something sent.
        post(folder / "outbox", email="ada@example.com", message_type="status", payload=number)
    host, _, port = device.rpartition(":")
    path = folder / "demo.yaml"
    path.write_text(
        CONFIG.format(host=host, port=port, relay=relay, folder=folder, token=DEMO_TOKEN)
    )
    return path


@contextlib.contextmanager
def _helper(module: str, *arguments: str) -> Iterator[str]:
    """Run a helper module; gives the address its first line names. Raises OSError."""
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
            raise OSError(f"{module} said {line!r}, want an address")
        _say(line)
        yield line.rpartition(" on ")[2]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _records_text(path: Path) -> str:
    """Whether the converter lost or doubled a record while actions died around it."""
    numbers = [record.seq for record in read_after(path, 0, RECORDS_MAX)] if path.exists() else []
    if not numbers:
        return "records: none were delivered"
    lost = set(range(1, max(numbers) + 1)) - set(numbers)
    twice = len(numbers) - len(set(numbers))
    return (
        f"records: {len(numbers)} moved from the device to the file, "
        f"{len(lost)} lost, {twice} twice"
    )
