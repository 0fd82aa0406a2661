"""Where CPython keeps what a stack is made of: offsets into its structures.

Knows: the structures of CPython 3.11, 3.12 and 3.13, measured on own objects where they can be.
Does not know: processes, how their memory is read, what a stack is.
Invariants: a layout that is not sure is no layout: another version, a build without the GIL, a
32-bit machine give `LayoutUnknown`. What is here is only supposed; `outsidereader` tries it on its
own process before it trusts it.

Sources: the headers that come with each version, ``cpython/pystate.h``, ``cpython/code.h``,
``cpython/unicodeobject.h`` (a public structure keeps its fields within a minor version),
``internal/pycore_interp.h`` and ``internal/pycore_frame.h``; from 3.13 on the table of offsets that
``internal/pycore_runtime.h`` puts at the start of ``_PyRuntime`` for readers like ours.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import sysconfig
import types
from typing import NamedTuple

_WORD = struct.Struct("<Q")
_INT = struct.Struct("<i")
_OBJECT_BYTES = 16  # ob_refcnt, ob_type
_CODE_UNIT_BYTES = 2
_PAGE_MASK = 4095


class LayoutUnknown(Exception):
    """Nothing is known of this interpreter's structures; the text says why."""


class Interior(NamedTuple):
    """Offsets that no Python object shows, in bytes: interpreter, thread state, frame.

    ``thread_frame`` leads to the topmost frame, through one more pointer at ``cframe_frame`` where
    that is not None. ``frame_owner`` is None where each frame belongs to Python code."""

    threads_head: int
    thread_next: int
    thread_interpreter: int
    thread_frame: int
    cframe_frame: int | None
    thread_ident: int
    frame_code: int
    frame_previous: int
    frame_instruction: int
    frame_owner: int | None


class CodeFields(NamedTuple):
    """Offsets in a code object, in bytes."""

    filename: int
    name: int
    linetable: int
    first_line: int
    start: int


class Layout(NamedTuple):
    """All offsets, in bytes, and the addresses that they were measured with.

    The addresses hold for this process. In another one of the same binary the main interpreter
    and the types lie as far from each other as here: one loader moves them together."""

    main_interpreter: int
    code_type: int
    str_type: int
    bytes_type: int
    inside: Interior
    code: CodeFields
    ascii_data: int
    wide_data: int
    bytes_data: int


# A number for a line that no pointer or other field happens to equal.
_LINE = 0x2B3C4D5E
# ``_PyInterpreterFrame.owner`` of a frame that only marks a call from C to Python.
OWNED_BY_C_STACK = 3

_INSIDE = {
    (3, 11): Interior(16, 8, 16, 56, 8, 152, 32, 48, 56, None),
    (3, 12): Interior(72, 8, 16, 56, 0, 136, 0, 8, 56, 70),
}


def supposed_layout() -> Layout:
    """The layout of this interpreter, as far as it can be told without a try.

    Raises `LayoutUnknown`.
    """
    version = sys.version_info[:2]
    if sys.implementation.name != "cpython" or sys.platform != "linux":
        raise LayoutUnknown(f"cannot read {sys.implementation.name} on {sys.platform}")
    if sys.maxsize != 2**63 - 1 or sys.byteorder != "little":
        raise LayoutUnknown("cannot read this machine's words, want 64 bits, little-endian")
    if sysconfig.get_config_var("Py_GIL_DISABLED") or object.__basicsize__ != _OBJECT_BYTES:
        raise LayoutUnknown("cannot read this build of CPython, want one with the GIL")
    if version == (3, 13):
        inside = _from_debug_offsets()
    elif version in _INSIDE:
        inside = _INSIDE[version]
    else:
        raise LayoutUnknown(f"cannot read CPython {version[0]}.{version[1]}, want 3.11 to 3.13")
    return Layout(
        main_interpreter=_main_interpreter(),
        code_type=id(types.CodeType),
        str_type=id(str),
        bytes_type=id(bytes),
        inside=inside,
        code=_code_fields(),
        # The size of an empty object is its head and a closing NUL.
        ascii_data=sys.getsizeof("") - 1,
        wide_data=sys.getsizeof("\N{CYRILLIC SMALL LETTER ZHE}" * 2) - 6,
        bytes_data=sys.getsizeof(b"") - 1,
    )


def _main_interpreter() -> int:
    try:
        main = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyInterpreterState_Main", ctypes.pythonapi))
    except AttributeError:
        raise LayoutUnknown("cannot find PyInterpreterState_Main in this interpreter") from None
    return int(main() or 0)


def _from_debug_offsets() -> Interior:
    """``_Py_DebugOffsets`` of 3.13, as words of eight bytes."""
    try:
        runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    except ValueError:
        raise LayoutUnknown("cannot find _PyRuntime in this interpreter") from None
    block = ctypes.string_at(runtime, 34 * _WORD.size)
    words = [word for (word,) in _WORD.iter_unpack(block)]
    if block[:8] != b"xdebugpy" or words[1] != sys.hexversion or words[2] != 0:
        raise LayoutUnknown(
            f"cannot use the debug offsets: got {block[:8]!r}, version {words[1]:#x}, "
            f"free-threaded {words[2]}, want b'xdebugpy', {sys.hexversion:#x}, 0"
        )
    if max(words[3:34]) > 1 << 24:
        raise LayoutUnknown(f"cannot use the debug offsets: got {max(words[3:34])} bytes for one")
    return Interior(
        threads_head=words[9],
        thread_next=words[21],
        thread_interpreter=words[22],
        thread_frame=words[23],
        cframe_frame=None,
        thread_ident=words[24],
        frame_code=words[30],
        frame_previous=words[29],
        frame_instruction=words[31],
        frame_owner=words[33],
    )


def _code_fields() -> CodeFields:
    """Find the fields of a code object by what is known to be in them."""

    def sample() -> None:
        """Nothing: only what stands about it in its code object is used."""

    code = sample.__code__.replace(
        co_name="a name", co_filename="a file", co_qualname="a longer name", co_firstlineno=_LINE
    )
    start = types.CodeType.__basicsize__
    if types.CodeType.__itemsize__ != _CODE_UNIT_BYTES:
        raise LayoutUnknown("cannot read code objects: their items are not code units")
    block = ctypes.string_at(id(code), start)
    return CodeFields(
        filename=_only_place(block, _WORD.pack(id(code.co_filename)), "co_filename"),
        name=_only_place(block, _WORD.pack(id(code.co_name)), "co_name"),
        linetable=_only_place(block, _WORD.pack(id(code.co_linetable)), "co_linetable"),
        first_line=_only_place(block, _INT.pack(_LINE), "co_firstlineno"),
        start=start,
    )


def _only_place(block: bytes, wanted: bytes, what: str) -> int:
    size = len(wanted)
    places = [at for at in range(0, len(block) - size + 1, size) if block[at : at + size] == wanted]
    if len(places) != 1:
        raise LayoutUnknown(f"cannot find {what} in a code object: got places {places}, want one")
    return places[0]
