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
        relay = Relay(
            host=host,
            port=int(port),
            prefix=options.prefix,
            token=options.token,
            token_life_s=options.token_life,
            chatter_s=options.chatter,
            outage_every_s=options.outage_every,
            outage_for_s=options.outage_for,
            tls=_tls(options.tls),
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
        _wait(woken, options.parent_pid, options.seconds)
    return 0


def _wait(woken: int, parent_pid: int | None, seconds: float | None) -> None:
    """Return on a signal, when the parent is gone, or after ``seconds``."""
    watched = [woken]
    if parent_pid is not None:
        # A pidfd, not the parent-death signal: that one fires when the thread that started us
        # ends, which in a threaded parent is long before its process does.
        try:
            watched.append(os.pidfd_open(parent_pid))
        except ProcessLookupError:
            return
    select.select(watched, [], [], seconds)


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
    if endpoint not in ENDPOINTS or name not in PRESETS or not (times or "1").isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, want ENDPOINT=PRESET or ENDPOINT=PRESET:N")
    return endpoint, PRESETS[name](), int(times) if times else None


def _chance(text: str) -> tuple[int, float]:
    seed, _, rate = text.partition(":")
    if not seed.isdecimal() or not 0 <= float(rate) <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want SEED:RATE with a rate of 0 to 1")
    return int(seed), float(rate)


def _tls(path: str | None) -> ssl.SSLContext | None:
    if path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"got {text}, want more than 0 seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
