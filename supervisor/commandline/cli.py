"""The command line.

Knows: commands, options, exit codes, what goes to which stream; those that explain, from
`cliexplain`.
Does not know: how anything is done.
Invariants: results go to standard output, everything else to standard error; exit codes are
those of `EXIT_CODES`; a user's mistake never shows a traceback.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from fsmv2.supervisor.commandline import answers
from fsmv2.supervisor.commandline.cliask import RELOAD_S_MAX, command, fetch, refuse, show
from fsmv2.supervisor.commandline.cliexplain import explain, runbook
from fsmv2.supervisor.commandline.output import StopCode
from fsmv2.supervisor.core.counting import several
from fsmv2.supervisor.core.errors import SpecError, StartError

EXIT_CODES = {
    0: "done; for run: a clean stop",
    1: "an error of fsmv2 itself (please report it with the traceback)",
    2: "refused: the config, a plug-in or the command line is wrong; nothing was started",
    3: "cannot start: port taken, folder not writable, disk full; nothing was left behind; or "
    "cannot write to standard output, what was to be done is done",
    4: "forced: a second signal ended the stop before all workers had stopped",
    5: "no supervisor answers at the address, or its root is silent: what is shown is old",
    6: "the supervisor refuses the command; its reason is told, nothing was changed",
}


class Seconds(click.FloatRange):
    """Seconds that come to an end, and are a number: no range holds NaN off."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; fails for one that is none or has no end."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"got {value}, want a number of seconds", param, ctx)
        return number


class Commands(click.Group):
    """The built-in commands, and those that installed packages add under `fsmv2.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of use."""
        return [*super().list_commands(ctx), *(point.name for point in _added())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command; added ones are loaded only when they are called."""
        known = super().get_command(ctx, name)
        if known is not None:
            return known
        for point in _added():
            if point.name == name:
                loaded = point.load()
                return loaded if isinstance(loaded, click.Command) else None
        return None


def _added() -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group="fsmv2.commands"))


def _exit_codes() -> str:
    return "\b\nExit codes:\n" + "\n".join(f"  {code}  {text}" for code, text in EXIT_CODES.items())


@click.group(cls=Commands, epilog=_exit_codes(), context_settings={"max_content_width": 100})
@click.version_option(package_name="fsmv2", message="fsmv2 %(version)s")
def cli() -> None:
    """Supervise a tree of state machines; run every effect in a process that can be killed."""


def cannot_start(text: str) -> NoReturn:
    """Say why nothing can be started and exit with code 3."""
    refuse(StartError(text))


def load(path: str) -> tuple[Any, Any]:
    """Settings and plug-ins of a config file to run, fully checked; exits if they are not fine."""
    try:
        os.getcwd()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        why = "the current folder is gone" if gone else f"the current folder: {error.strerror}"
        cannot_start(f"cannot run: {why}; want to be started in a folder that exists")
    try:
        return checked(path)
    except SpecError as error:
        refuse(error)


def checked(path: str, *, at_rest: bool = False) -> tuple[Any, Any]:
    """Settings and plug-ins of a config file. Raises `SpecError` with all that is wrong with them
    and, of a config that may not run yet (``at_rest``), with the place of its store."""
    from fsmv2.supervisor.config.config import read_config
    from fsmv2.supervisor.config.configcheck import check_settings
    from fsmv2.supervisor.config.configfault import ConfigError, in_order
    from fsmv2.supervisor.config.plugins import try_plugins
    from fsmv2.supervisor.store.storefile import refusal_of

    settings, places = read_config(path)
    # Plug-ins may lie beside the config.
    plugins, faults = try_plugins(settings.plugins, (str(Path(path).parent),), places)
    try:
        check_settings(settings, plugins.factory, places, missing=plugins.missing)
    except ConfigError as error:
        faults += error.faults
    refused = refusal_of(settings.store.path, path) if at_rest else ""
    if refused:
        faults.append(places.fault("store.path", refused))
    if faults:
        raise ConfigError(in_order(faults))
    return settings, plugins


HTTP_HELP = "HOST:PORT of the pages and the API; port 0 picks a free one; off for none."


@cli.command()
@click.argument("config", type=click.Path())
@click.option("--seconds", type=Seconds(min=0.1), help="Stop by itself after that long.")
@click.option("--http", "listen", help=HTTP_HELP)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    help="console for people, json for machines; auto: console on a terminal.",
)
def run(config: str, seconds: float | None, listen: str | None, log_format: str | None) -> None:
    """Run the tree of CONFIG until Ctrl-C or SIGTERM (a second one forces)."""
    from fsmv2.supervisor.config.filewatch import mark_of
    from fsmv2.supervisor.config.reload import ConfigFile

    mark = mark_of(config)
    settings, plugins = load(config)
    source = ConfigFile(os.path.abspath(config), settings, mark)
    settings = with_options(settings, listen, log_format)
    summary = run_supervisor(settings, plugins, seconds, source=source)
    end_run(summary.text(), summary.exit_code)


def end_run(text: str, exit_code: int) -> NoReturn:
    """Print how a run went, and end with its code, also when the text cannot be written."""
    click.echo(text)
    raise StopCode(exit_code)


def with_options(settings: Any, listen: str | None, log_format: str | None) -> Any:
    """The settings with the command line's options on top."""
    replace = msgspec.structs.replace
    if listen is not None:
        settings = replace(settings, http=replace(settings.http, listen=listen))
    if log_format is not None:
        settings = replace(settings, log=replace(settings.log, format=log_format))
    return settings


def run_supervisor(
    settings: Any,
    plugins: Any,
    seconds: float | None,
    listeners: tuple[Callable[[Any], None], ...] = (),
    source: Any = None,
) -> Any:
    """Configure the log and run; exits with a clear text when it cannot start. ``source`` is the
    config file that a reload reads anew."""
    from fsmv2.supervisor.config.access import take_token
    from fsmv2.supervisor.root import Supervisor
    from fsmv2.supervisor.telemetry import logs

    try:
        token = take_token(settings.http.token, os.environ)
    except SpecError as error:
        refuse(error)
    replace = msgspec.structs.replace
    settings = replace(settings, http=replace(settings.http, token=token))
    form = settings.log.format
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    logs.configure(form, settings.log.level, sys.stderr.fileno())
    logs.capture_stdlib()
    try:
        return Supervisor(settings, plugins, listeners=listeners, source=source).run(seconds)
    except (SpecError, StartError) as error:
        refuse(error)


@cli.command()
@click.argument("config", type=click.Path())
def check(config: str) -> None:
    """Check CONFIG, its plug-ins and every worker's config; start nothing."""
    try:
        settings, plugins = checked(config, at_rest=True)
    except SpecError as error:
        refuse(error)
    types = sorted({worker.type for worker in settings.workers})
    of = f" of type{'s' * (len(types) > 1)} {', '.join(types)}" if types else ""
    workers, modules = several(len(settings.workers), "worker"), len(plugins.modules)
    click.echo(f"{config}: fine: {workers}{of}, {several(modules, 'plug-in')}")


TOKEN_HELP = "File with the supervisor's token; else FSMV2_TOKEN or FSMV2_TOKEN_FILE tells it."


@cli.command()
@click.argument("config", type=click.Path())
@click.option("--against", type=click.Path(), help="The config that CONFIG is to replace.")
@click.option("--http", "listen", help="HOST:PORT of the supervisor that runs CONFIG.")
@click.option("--token-file", type=click.Path(), help=TOKEN_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    config: str, against: str | None, listen: str | None, token_file: str | None, as_json: bool
) -> None:
    """Show what a reload of CONFIG would do to each worker; change nothing."""
    if against is not None and listen is not None:
        refuse(SpecError("cannot plan against two things: want --against or --http, not both"))
    if listen is not None:
        answer = command(listen, token_file, "/api/v1/plan", answers.Planned, RELOAD_S_MAX)
        if os.path.realpath(config) != os.path.realpath(answer["config"]):
            text = f"the supervisor at {listen} runs {answer['config']}, not {config}"
            click.echo(f"fsmv2: cannot plan: {text}; want its own config, or --against", err=True)
            sys.exit(6)
        _show_plan(answer["plan"], as_json)
        return
    from fsmv2.supervisor.config.checkprocess import judge

    before, faults = None, []
    try:
        before = checked(against)[0] if against else None
    except SpecError as error:
        faults.append(str(error))
    verdict = judge(config, before, (str(Path(against).parent),) if against else ())
    faults += verdict.faults
    if faults:
        refuse(SpecError("\n".join(faults)))
    _show_plan(msgspec.to_builtins(verdict.plan), as_json)


@cli.command()
@click.option("--http", "listen", help="HOST:PORT of the supervisor.", envvar="FSMV2_HTTP")
@click.option("--token-file", type=click.Path(), help=TOKEN_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def reload(listen: str | None, token_file: str | None, as_json: bool) -> None:
    """Have a running supervisor read its config anew; show what that did."""
    answer = command(listen, token_file, "/api/v1/reload", answers.Planned, RELOAD_S_MAX)
    _show_plan(answer["plan"], as_json)


def _show_plan(document: dict[str, Any], as_json: bool) -> None:
    from fsmv2.supervisor.commandline.shown import printable
    from fsmv2.supervisor.config.plans import PlanDocument, plan_text

    if as_json:
        click.echo(msgspec.json.encode(document))
        return
    known = msgspec.to_builtins(msgspec.convert(document, answers.Plan))
    lines = plan_text(msgspec.convert(known, PlanDocument)).splitlines()
    click.echo("\n".join(printable(line) for line in lines))


@cli.command()
@click.option("--http", "listen", help="HOST:PORT of the supervisor.", envvar="FSMV2_HTTP")
@click.option("--json", "as_json", is_flag=True, help="Print the document as it is.")
def tree(listen: str | None, as_json: bool) -> None:
    """Show the tree of a running supervisor."""
    from fsmv2.supervisor.commandline.shown import tree_text

    show(fetch(listen, "/api/v1/tree", answers.Tree), tree_text, as_json)


@cli.command()
@click.option("--http", "listen", help="HOST:PORT of the supervisor.", envvar="FSMV2_HTTP")
@click.option("--json", "as_json", is_flag=True, help="Print the document as it is.")
def status(listen: str | None, as_json: bool) -> None:
    """Show how a running supervisor does."""
    from fsmv2.supervisor.commandline.shown import status_text

    show(fetch(listen, "/api/v1/status", answers.Status), status_text, as_json)


cli.add_command(explain)
cli.add_command(runbook)


@cli.command()
@click.argument("action_id", type=click.IntRange(min=1, max=2**63 - 1))
@click.option("--http", "listen", help="HOST:PORT of the supervisor.", envvar="FSMV2_HTTP")
@click.option("--token-file", type=click.Path(), help=TOKEN_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as it is.")
def kill(action_id: int, listen: str | None, token_file: str | None, as_json: bool) -> None:
    """Kill a running or waiting action of a running supervisor (see tree for its number)."""
    path = f"/api/v1/actions/{action_id}/kill"
    answer = command(listen, token_file, path, answers.Killed, attempt_id=action_id)
    if as_json:
        click.echo(msgspec.json.encode(answer))
    else:
        of = f" of {answer['path']}" if answer["path"] else ""
        click.echo(f"killing action {action_id}: {answer['action_type']}{of}")


@cli.command()
@click.argument("action_type")
@click.option("--http", "listen", help="HOST:PORT of the supervisor.", envvar="FSMV2_HTTP")
@click.option("--token-file", type=click.Path(), help=TOKEN_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as it is.")
def release(action_type: str, listen: str | None, token_file: str | None, as_json: bool) -> None:
    """Let a quarantined action type run like any other again (see status for its name)."""
    from urllib.parse import quote

    path = f"/api/v1/action-types/{quote(action_type, safe='')}/release"
    answer = command(listen, token_file, path, answers.Released, action_type=action_type)
    if as_json:
        click.echo(msgspec.json.encode(answer))
    else:
        click.echo(f"released {action_type}")


@cli.command()
@click.argument("state", type=click.Choice(["open", "closed", "auto"]))
@click.option(
    "--for", "for_s", type=Seconds(0, 86_400, min_open=True), default=600.0,
    show_default=True, help="Seconds until it goes by what it reads again.",
)  # fmt: skip
@click.option("--http", "listen", help="HOST:PORT of the supervisor.", envvar="FSMV2_HTTP")
@click.option("--token-file", type=click.Path(), help=TOKEN_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as it is.")
def breaker(
    state: str, for_s: float, listen: str | None, token_file: str | None, as_json: bool
) -> None:
    """Hold a running supervisor's breaker open or closed for a time, or (auto) let it go."""
    path = f"/api/v1/breaker/{state}?for_s={for_s:g}"
    answer = command(listen, token_file, path, answers.Held, state=state)
    if as_json:
        click.echo(msgspec.json.encode(answer))
    elif state == "auto":
        click.echo("the infrastructure breaker goes by what it reads")
    else:
        click.echo(f"the infrastructure breaker is held {state} for {for_s:g} s")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Try out what this machine lets a pool do, and read how it is; say what is missing."""
    from fsmv2.supervisor.capabilities import as_text, capabilities
    from fsmv2.supervisor.probe import report

    found, readings = capabilities(), report.look_twice()
    if as_json:
        click.echo(msgspec.json.encode({"capabilities": found, "readings": readings}))
    else:
        click.echo(f"{as_text(found)}\n\nreadings\n{report.as_text(readings)}")
