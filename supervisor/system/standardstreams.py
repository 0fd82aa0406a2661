"""Standard input, output and error are there, whatever the command was started with.

Knows: descriptors 0 to 2, Python's three streams on them.
Does not know: what is read or written.
Invariants: what is open stays as it is; after `ensure` no later descriptor is one of the three,
and what is started inherits all of them. Cheap to import: it is asked first of all.

A descriptor that is closed (``2>&-``) is given to whatever is opened next, a socket or a pipe, and
a stray line of anybody's is written there; and Python's stream of it is None, which has no
`fileno`.
"""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))


def ensure() -> None:
    """Open the null device as each of the three that is closed."""
    for number, (name, flags, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number, flags)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _open_null(number: int, flags: int) -> None:
    fd = os.open(os.devnull, flags)
    if fd != number:
        os.dup2(fd, number)
        os.close(fd)
    os.set_inheritable(number, True)
