"""The codec: values to msgpack and back; bad bytes give `FrameError`, whatever they are."""

from __future__ import annotations

import contextlib
import copy
import datetime
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.ipc import messages
from fsmv2.ipc.codec import HIDDEN_TYPE, decode, encode, to_builtins
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.redact import secrets_in
from fsmv2.supervisor.core.secret import Secret

TEXT = "correct horse battery staple"


class Reading(msgspec.Struct, frozen=True):
    name: str
    values: tuple[float, ...] = ()
    token: Secret | None = None


KINDS: list[Any] = [
    Any,
    messages.FromProc,
    messages.ToProc,
    messages.FromTemplate,
    messages.ToOps,
    messages.FromOps,
    messages.Save,
    messages.FromStore,
    Reading,
    Secret,
    datetime.datetime,
    dict[str, int],
    list[Reading],
    None,
]

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)

EXAMPLES: dict[Any, Any] = {
    int: 7,
    float: 0.5,
    str: "root/a",
    bool: True,
    bytes: b"{}",
    list[messages.Order]: [(7, "m:A", b"{}", 0.5)],
    dict[str, str]: {"mod": "why"},
    dict[str, Any]: {"n": 1},
    messages.Outcome: "done",
    messages.Held: "open",
    messages.Role: "desired",
    list[str]: ["why"],
}


def example(kind: type[messages.Message]) -> messages.Message:
    """One message of that type, every field set."""
    return kind(*(EXAMPLES[field.type] for field in msgspec.structs.fields(kind)))


EXAMPLES[list[messages.Write]] = [example(messages.Write)]
MESSAGES = [example(kind) for kind in messages.Message.__subclasses__()]


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_any_bytes_give_a_value_or_a_frame_error(data: bytes, kind: Any) -> None:
    """No other exception leaves the decoder, whatever the bytes and the type are."""
    with contextlib.suppress(FrameError):
        decode(data, kind)


@given(st.sampled_from(MESSAGES), st.integers(min_value=0, max_value=200), st.integers(0, 255))
def test_a_message_with_one_wrong_byte_gives_a_message_or_a_frame_error(
    message: messages.Message, at: int, byte: int
) -> None:
    """One flipped byte is the likeliest damage: it is refused or gives a message of the union."""
    data = bytearray(encode(message))
    data[at % len(data)] = byte
    try:
        got = decode(bytes(data), messages.FromProc)
    except FrameError:
        return
    assert isinstance(got, messages.FromProc)


@given(PLAIN)
def test_plain_values_come_back_equal(value: Any) -> None:
    """What is sent is what is received."""
    assert decode(encode(value), Any) == value


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_message_comes_back_as_itself(message: messages.Message) -> None:
    """Every message of the protocol survives the wire."""
    got = decode(encode(message), type(message))
    assert type(got) is type(message)
    assert encode(got) == encode(message)


def test_the_two_directions_do_not_understand_each_other() -> None:
    """A proc's message is not one of the root's, and the other way round."""
    with pytest.raises(FrameError, match="Invalid value 'hello'"):
        decode(encode(messages.Hello(1, 1, "a0")), messages.ToProc)
    with pytest.raises(FrameError, match="Invalid value 'exit'"):
        decode(encode(messages.Exit()), messages.FromProc)


def test_an_unknown_tag_is_refused() -> None:
    """The unions are closed."""
    with pytest.raises(FrameError, match="Invalid value 'shell'"):
        decode(encode(["shell", "true"]), messages.ToProc)


def test_an_unknown_field_is_refused() -> None:
    """A field nobody knows is a different protocol, not something to skip."""
    known = decode(encode(messages.Hello(1, 1, "a0")), Any)
    assert decode(encode(known), messages.FromProc) == messages.Hello(1, 1, "a0")
    with pytest.raises(FrameError, match="`array` of at most length"):
        decode(encode([*known, "extra"]), messages.FromProc)


def test_a_missing_field_is_refused() -> None:
    """No message is completed by guessing."""
    with pytest.raises(FrameError, match="`array` of at least length"):
        decode(encode(["hello", 1]), messages.FromProc)


@pytest.mark.parametrize(
    "bomb",
    [b"\x91" * 200_000 + b"\xc0", b"\x81\xa1k" * 200_000 + b"\xc0", b"\xdd\xff\xff\xff\xff",
     b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"],
    ids=["nested lists", "nested maps", "huge list", "huge map", "huge bytes", "huge text"],
)  # fmt: skip
def test_a_bomb_is_refused(bomb: bytes) -> None:
    """Endless nesting and lengths that are not there end in a `FrameError`."""
    with pytest.raises(FrameError):
        decode(bomb, Any)


@pytest.mark.parametrize("key", [b"\x80", b"\x91\x80"], ids=["map", "list of a map"])
def test_a_map_key_that_cannot_be_hashed_is_refused(key: bytes) -> None:
    """msgpack can say what a dict cannot hold."""
    with pytest.raises(FrameError, match="hashable"):
        decode(b"\x81" + key + b"\x01", Any)


def test_a_type_that_cannot_be_decoded_is_a_frame_error() -> None:
    """An annotation msgspec cannot use is the caller's mistake, told like any other fault."""
    with pytest.raises(FrameError, match="cannot decode as"):
        decode(b"\x01", list[int] | tuple[int, ...] | set[int])


def test_a_type_without_wire_form_is_not_encoded() -> None:
    """The error names the type and what would do."""
    with pytest.raises(TypeError, match=r"cannot encode a value of type builtins\.object"):
        encode(object())


@pytest.mark.parametrize(
    ("value", "error"), [(2**64, OverflowError), (-(2**63) - 1, OverflowError)]
)
def test_an_integer_beyond_64_bits_is_not_encoded(value: int, error: type[Exception]) -> None:
    """msgpack has no form for it."""
    with pytest.raises(error):
        encode(value)


def test_a_value_that_holds_itself_is_not_encoded() -> None:
    """A circle ends in an error, not in a crash."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(RecursionError):
        encode(circle)


def test_a_secret_crosses_the_wire() -> None:
    """Root and proc belong to one user: the text travels and arrives as a Secret."""
    data = encode(Reading("a", token=Secret(TEXT)))
    assert TEXT.encode() in data
    got = decode(data, Reading)
    assert isinstance(got.token, Secret)
    assert got.token.reveal() == TEXT


def test_a_secret_of_the_wrong_type_is_refused() -> None:
    """A number is no Secret."""
    with pytest.raises(FrameError, match="Expected `str`, got `int`"):
        decode(encode(5), Secret)


def test_a_secret_is_hidden_where_people_look() -> None:
    """The form for logs, pages and the API shows that there is one, not what it is."""
    value = Reading("a", (1.0,), Secret(TEXT))
    shown = to_builtins({"deep": [value, {"s": Secret(TEXT)}]})
    assert shown == {
        "deep": [{"name": "a", "values": (1.0,), "token": "Secret(…)"}, {"s": "Secret(…)"}]
    }
    assert TEXT not in str(shown)


def test_to_builtins_can_show_the_wire_form() -> None:
    """Only on request."""
    assert to_builtins(Secret(TEXT), hide=False) == TEXT


def test_the_error_of_a_refused_value_does_not_hold_the_secret() -> None:
    """A value that does not fit is not quoted in the error."""
    with pytest.raises(FrameError) as caught:
        decode(encode({"name": 5, "token": TEXT}), Reading)
    assert TEXT not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [Secret(TEXT), {"deep": [{"token": Secret(TEXT)}]}, Reading("r", (), Secret(TEXT))],
    ids=["bare", "nested", "struct"],
)
def test_what_hides_itself_is_hidden_where_no_type_is_declared(value: Any) -> None:
    """It used to arrive as plain text there."""
    arrived = decode(encode(value), Any)
    assert TEXT not in repr(arrived)
    assert TEXT not in repr(to_builtins(arrived))
    assert secrets_in(arrived) == (TEXT,)
    assert secrets_in(decode(encode(arrived), Any)) == (TEXT,)


def test_what_is_hidden_comes_back_as_what_is_declared() -> None:
    hidden = decode(encode({"name": "r", "token": Secret(TEXT)}), Any)
    assert decode(encode(hidden), Reading) == Reading("r", (), Secret(TEXT))
    assert decode(encode(hidden), dict[str, Any]) == hidden
    with pytest.raises(FrameError, match="got a Secret, which only its own type or Any takes"):
        decode(encode(hidden), dict[str, str])


def test_a_hidden_value_hides_itself_and_is_a_value() -> None:
    one, same = (decode(encode(Secret(TEXT)), Any) for _ in range(2))
    assert one.reveal() == TEXT
    assert (f"{one}", f"{one!r}", f"{one:>3}") == ("Secret(…)",) * 3
    assert (one == same, hash(one) == hash(same), one == TEXT) == (True, True, False)
    assert copy.deepcopy({"a": one})["a"] is copy.copy(one) is one
    assert [bool(one), bool(decode(encode(Secret("")), Any))] == [True, False]
    with pytest.raises(TypeError, match="cannot pickle a secret"):
        pickle.dumps(one)


def test_other_extension_types_come_through_as_they_are() -> None:
    arrived = decode(encode(msgspec.msgpack.Ext(HIDDEN_TYPE + 1, b"abc")), Any)
    assert (arrived.code, bytes(arrived.data)) == (HIDDEN_TYPE + 1, b"abc")


def test_a_mark_around_garbage_is_refused() -> None:
    with pytest.raises(FrameError):
        decode(encode(msgspec.msgpack.Ext(HIDDEN_TYPE, b"\xc1")), Any)
