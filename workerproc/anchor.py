"""The address at which an outside reader begins to look for this process's stacks.

Knows: where the interpreter keeps the list of its threads.
Does not know: who reads, or when.
Invariants: the address does not move while the process lives, whatever its threads do, and is the
same in all its forks: from CPython 3.11 on the main interpreter's state is a static variable.
Costs no import of a module beyond ctypes and takes no lock.
"""

from __future__ import annotations

import ctypes


def anchor() -> int:
    """The address of this process's main interpreter state, 0 if this is no CPython.

    To be asked in the template once, or in a proc that was not forked from it. Source of the
    call: "Python/C API Reference Manual", ``PyInterpreterState_Main``.
    """
    try:
        # A prototype of our own: the functions of `ctypes.pythonapi` are shared by everybody.
        main = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyInterpreterState_Main", ctypes.pythonapi))
    except AttributeError:
        return 0
    return int(main() or 0)
