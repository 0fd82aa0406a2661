"""The commands that explain: why a worker is as it is, and what to do in trouble.

Knows: their options, how an explanation reads on a terminal.
Does not know: how anything is found out.
Invariants: those of `cli`, whose exit codes these have.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click
import msgspec

from fsmv2.supervisor.core.counting import several


@click.command()
@click.argument("path")
@click.option("--http", "listen", help="HOST:PORT of the supervisor.", envvar="FSMV2_HTTP")
@click.option("--json", "as_json", is_flag=True, help="Print the document as it is.")
def explain(path: str, listen: str | None, as_json: bool) -> None:
    """Say why the worker at PATH is as it is, who waits for what, and what comes next."""
    from fsmv2.supervisor.commandline import client
    from fsmv2.supervisor.commandline.cliask import COMMAND_S_MAX, answering, listen_or_default
    from fsmv2.supervisor.core.facts import Explanation

    listen = listen_or_default(listen)
    with answering():
        address = f"/api/v1/explain/{quote(path.strip('/'))}"
        document = client.question(listen, address, COMMAND_S_MAX, Explanation)
    click.echo(msgspec.json.encode(document) if as_json else explanation_text(document, listen))


def explanation_text(document: dict[str, Any], listen: str) -> str:
    """An explanation as facts, one a line; links without a host lead to ``listen``."""
    from fsmv2.supervisor.commandline.shown import duration, printable

    state = f"{document['state']} ({document['phase']})"
    if document["since_s"] is not None:
        state += f" for {duration(document['since_s'])}"
    wanted = f", should be {document['desired_state']}" if document["desired_state"] else ""
    kind = f", type {document['worker_type']}" if document["worker_type"] else ""
    restarted = several(document["restarts"], "time")
    facts = [
        ("worker", f"{document['path']}{kind}, restarted {restarted}"),
        ("state", f"{state}{wanted}"),
        ("reason", document["reason"]),
    ]
    for name, cause in (("why", document["why"]), *(("also", each) for each in document["also"])):
        facts += [(name, cause["text"]), *_details(cause, listen)]
    width = max(len(name) for name, _fact in facts)
    return "\n".join(f"{name:<{width}}  {printable(fact)}" for name, fact in facts)


def _details(cause: dict[str, Any], listen: str) -> list[tuple[str, str]]:
    from fsmv2.supervisor.commandline.address import address_of
    from fsmv2.supervisor.commandline.shown import duration
    from fsmv2.supervisor.core.runbooks import PAGES, page_of

    details = [("  rule", cause["rule"])]
    if cause["since_s"] is not None:
        details.append(("  since", duration(cause["since_s"])))
    if cause["waits_for"]:
        details.append(("  waits for", ", ".join(cause["waits_for"])))
    moment = "" if cause["next_in_s"] is None else f"in {duration(cause['next_in_s'])}: "
    details.append(("  next", f"{moment}{cause['next']}"))
    if cause["runbook"]:
        link = cause["runbook"]
        page = page_of(link)
        link = f"{address_of(listen).url}{link}" if link.startswith("/") else link
        command = f"fsmv2 runbook {page}, or " if page in PAGES else ""
        details.append(("  runbook", f"{command}{link}"))
    return details


@click.command()
@click.argument("name", required=False)
def runbook(name: str | None) -> None:
    """Print the runbook NAME, what to do in one kind of trouble; without NAME, the index."""
    from fsmv2.supervisor.commandline.cliask import refuse
    from fsmv2.supervisor.core.errors import SpecError
    from fsmv2.supervisor.core.runbooks import PAGES
    from fsmv2.supervisor.telemetry.runbookpages import INDEX, read_page

    text = read_page(name or INDEX)
    if text is None:
        refuse(SpecError(f"no runbook {name!r}: want one of {', '.join(PAGES)}"))
    click.echo(text, nl=False)
