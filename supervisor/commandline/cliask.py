"""What the commands have in common that ask a running supervisor.

Knows: where the address and the token come from, which exit code which answer gives.
Does not know: commands and their options, what is asked.
Invariants: those of `cli`, whose exit codes these are.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click
import msgspec

from fsmv2.supervisor.core.errors import SpecError, StartError

# Longer than the ops process waits for the root, so that its word on that is heard.
COMMAND_S_MAX, RELOAD_S_MAX = 10.0, 70.0


def refuse(error: Exception) -> NoReturn:
    """Say what is wrong on standard error and exit with the code of its class."""
    code = 3 if isinstance(error, StartError) else 2
    click.echo(f"fsmv2: {error}", err=True)
    sys.exit(code)


def command(
    listen: str | None,
    token_file: str | None,
    path: str,
    shape: Any,
    wait_s: float = COMMAND_S_MAX,
    **confirmed: object,
) -> dict[str, Any]:
    """Have a supervisor carry out the command at ``path``; its answer, of the type ``shape``, in
    which the keys ``confirmed`` say what was asked."""
    from fsmv2.supervisor.commandline import client
    from fsmv2.supervisor.config.access import read_token, token_of

    with answering():
        token = read_token(token_file) if token_file else token_of(None, os.environ)
        if token is None:
            raise SpecError(
                "cannot give a command: no token; set FSMV2_TOKEN or FSMV2_TOKEN_FILE, or name a "
                "file with --token-file"
            )
        found: dict[str, Any] = client.command(
            listen_or_default(listen), path, token, wait_s, shape, **confirmed
        )
        return found


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Ask a supervisor in here: what it, or nobody, answers becomes an exit code."""
    from fsmv2.supervisor.commandline.client import RefusedError

    try:
        yield
    except SpecError as error:
        refuse(error)
    except (RefusedError, OSError) as error:
        click.echo(f"fsmv2: {error}", err=True)
        sys.exit(6 if isinstance(error, RefusedError) else 5)


def listen_or_default(listen: str | None) -> str:
    """The address to ask; without any, that of a config that names none."""
    from fsmv2.supervisor.config.settings import HttpSettings

    return HttpSettings().listen if listen is None else listen


def fetch(listen: str | None, path: str, shape: Any) -> Any:
    """The document at ``path`` of a supervisor, of the type ``shape``."""
    from fsmv2.supervisor.commandline import client

    with answering():
        return client.fetch(listen_or_default(listen), path, shape)


def show(document: dict[str, Any], text_of: Callable[[Any], str], as_json: bool) -> None:
    """Print what a supervisor says of itself; one whose root is silent is none that answers."""
    from fsmv2.supervisor.commandline.shown import silence_of

    click.echo(msgspec.json.encode(document) if as_json else text_of(document))
    if silence := silence_of(document):
        click.echo(f"fsmv2: {silence}", err=True)
        sys.exit(5)
