"""The relay's stand-in as a program, and under the name that everybody imports it by.

``with Relay() as relay:`` serves `relay.url`; ``python -m fsmv2.communicator.testing.relay``
does the same as a program: a backend on loopback, for the demo and to try a config against.

Knows: the command line.
Does not know: what is answered (`standin`, `backend`), what goes wrong (`faults`).
Invariants: one line on standard output says the URL once connections are taken; the program ends
on SIGTERM, on SIGINT, after its seconds and with its parent.
"""

from __future__ import annotations

import argparse
import math
import os
import select
import signal
import ssl
import sys

from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.faults import ENDPOINTS, PRESETS, Fault
from fsmv2.communicator.testing.observed import Request
from fsmv2.communicator.testing.standin import Relay

__all__ = ["Relay", "Request", "main"]


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT, ``--seconds``, or the end of ``--parent-pid``."""
    options = _parser().parse_args(arguments)
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdecimal():
        print(f"cannot listen: got {options.listen!r}, want HOST:PORT", file=sys.stderr)
        return 2
    try:
        tls, parent = _tls(options.tls), _parent(options.parent_pid)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 3
    try:
        relay = Relay(
            host=host,
            port=int(port),
            prefix=options.prefix,
            token=options.token,
            token_life_s=options.token_life,
            chatter_s=options.chatter,
            outage_every_s=options.outage_every,
            outage_for_s=options.outage_for,
            tls=tls,
        )
    except (OSError, OverflowError) as error:
        print(f"cannot listen on {options.listen}: {error}", file=sys.stderr)
        return 3
    for endpoint, fault, times in options.fault:
        relay.fault(endpoint, fault, times)
    if options.chance is not None:
        seed, rate = options.chance
        relay.chance(seed, rate, [make() for make in PRESETS.values()])
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with relay:
        print(f"relay listening on {relay.url}", flush=True)
        select.select([woken, *parent], [], [], options.seconds)
    return 0


def _parent(pid: int | None) -> list[int]:
    """What can be read from when process ``pid`` has ended; raises `ValueError` if there is none.

    A pidfd, not the parent-death signal: that one fires when the thread that started us ends, which
    in a threaded parent is long before its process does.
    """
    if pid is None:
        return []
    try:
        return [os.pidfd_open(pid)]
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "out of range"
        raise ValueError(
            f"cannot end with --parent-pid {pid}: {why}, want a process that runs"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fsmv2.communicator.testing.relay",
        description="A stand-in for the relay, on loopback.",
    )
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument(
        "--prefix",
        type=_prefix,
        default="/api",
        metavar="PATH",
        help="where the paths begin (/api); '' for none",
    )
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="end after N seconds")
    parser.add_argument("--token", default=DEMO_TOKEN, help="the instance's auth token")
    parser.add_argument(
        "--token-life", type=_seconds, default=82_800.0, metavar="N", help="seconds a JWT lives"
    )
    parser.add_argument(
        "--chatter", type=_seconds, metavar="N", help="a message for the instance every N seconds"
    )
    parser.add_argument(
        "--outage-every",
        type=_seconds,
        metavar="S",
        help="answer 502 at the end of every S seconds",
    )
    parser.add_argument(
        "--outage-for", type=_seconds, default=5.0, metavar="T", help="for T seconds (5)"
    )
    parser.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="ENDPOINT=PRESET[:N]",
        help=f"of {', '.join(ENDPOINTS)}: the next N requests, or all, get one of {_names()}",
    )
    parser.add_argument(
        "--chance", type=_chance, metavar="SEED:RATE", help="any preset at this rate, 0 to 1"
    )
    parser.add_argument("--tls", metavar="PEM", help="serve https; key and certificates in a file")
    parser.add_argument("--parent-pid", type=int, metavar="PID", help="end when PID has ended")
    return parser


def _names() -> str:
    return ", ".join(PRESETS)


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    wrong = "//" in prefix or any(c in "?#" or not "!" <= c <= "~" for c in prefix)
    if wrong or not (prefix.startswith("/") or not prefix):
        raise argparse.ArgumentTypeError(f"got {text!r}, want a path that begins with /, or ''")
    return prefix


def _fault(text: str) -> tuple[str, Fault, int | None]:
    endpoint, _, rest = text.partition("=")
    name, _, times = rest.partition(":")
    if "=" not in text or not (times or "1").isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, want ENDPOINT=PRESET or ENDPOINT=PRESET:N")
    if endpoint not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        raise argparse.ArgumentTypeError(f"{endpoint!r} is no endpoint, want one of {known}")
    if name not in PRESETS:
        raise argparse.ArgumentTypeError(f"{name!r} is no preset, want one of {_names()}")
    return endpoint, PRESETS[name](), int(times) if times else None


def _chance(text: str) -> tuple[int, float]:
    seed, _, rate = text.partition(":")
    if not seed.isdecimal() or not 0 <= _number(rate) <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want SEED:RATE with a rate of 0 to 1")
    return int(seed), float(rate)


def _tls(path: str | None) -> ssl.SSLContext | None:
    """Raises `ValueError` that names the file."""
    if path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Not asked for at the terminal, where nobody may be: a key with a pass phrase is refused.
        context.load_cert_chain(path, password="")
    except ssl.SSLError as error:
        raise _unusable(path, f"it has none that fit ({error.reason})") from None
    except OSError as error:
        raise _unusable(path, error.strerror) from None
    except ValueError:  # a NUL in it
        raise _unusable(path, "no file has such a name") from None
    return context


def _unusable(path: str, why: str | None) -> ValueError:
    want = "want a PEM file with a key, without a pass phrase, and its certificates"
    return ValueError(f"cannot serve https with {path!r}: {why}, {want}")


def _number(text: str) -> float:
    """NaN, which is in no range, for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"got {text!r}, want more than 0 seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
