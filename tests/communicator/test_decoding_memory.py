"""What comes in is decoded in bounded memory: a small text may stand for very many objects."""

from __future__ import annotations

import base64
import hashlib
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from decoding import before_decoding
from hypothesis import given, settings
from hypothesis import strategies as st

from fsmv2.communicator.transport import codec, jsonsize
from fsmv2.communicator.transport.codec import (
    CodecError,
    Message,
    decode_batch,
    decode_content,
    decode_message,
    encode_batch,
    encode_content,
)
from fsmv2.communicator.transport.compression import compress
from fsmv2.communicator.transport.jsonsize import DEPTH_MAX, VALUES_MAX, too_much

MIB = 1 << 20


@contextmanager
def within(bytes_max: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bytes_max


def content_of(inner: bytes) -> str:
    return base64.b64encode(compress(inner)).decode()


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'{"a":0},', b"[[]],", b'"",', b"0,"])
def test_a_small_content_does_not_become_a_gigabyte(piece: bytes) -> None:
    """Scenario 61: kilobytes of zstd with millions of objects in them are refused before the first
    is made, with the number."""
    size = 17 * MIB // 4
    inner = b'{"MessageType":"action","Payload":[' + piece * (size // len(piece)) + b"0]}"
    content = content_of(inner)
    assert len(content) < 64 * 1024
    with within(4 * size), pytest.raises(CodecError, match=f"more than {VALUES_MAX} values"):
        decode_content(content)


@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_nesting_is_bounded_on_both_ways(bracket: str) -> None:
    """What is too deep to decode is too deep to encode, and the other way round."""

    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value] if bracket == "[]" else {"a": value}
        return value

    fits = nested(DEPTH_MAX - 1)  # and one is the content's own
    assert decode_content(encode_content("t", fits)) == ("t", fits)
    inner = json.dumps({"Payload": nested(DEPTH_MAX), "MessageType": "t"}).encode()
    with pytest.raises(CodecError, match=f"more than {DEPTH_MAX} levels"):
        decode_content(content_of(inner))
    with pytest.raises(CodecError, match=f"cannot write content: got more than {DEPTH_MAX}"):
        encode_content("t", nested(DEPTH_MAX))


def test_only_values_count_not_what_is_in_strings() -> None:
    """A long text with more commas and brackets than there may be values is one value."""
    text = ',[{"\\' * (VALUES_MAX // 2)
    assert decode_content(encode_content("t", text)) == ("t", text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('a,[]{}"\\\n', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text('a,[]{}"\\', max_size=4), inner, max_size=4)
    ),
    max_leaves=30,
)


def values(document: Any) -> int:
    """As many as there are; an empty list or object counts as two."""
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        return 1 + sum(map(values, document)) + (not document)
    return 1


def depth(document: Any) -> int:
    if isinstance(document, dict):
        document = list(document.values())
    return 1 + max(map(depth, document), default=0) if isinstance(document, list) else 0


@given(document=JSON, chunk=st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_counts_are_those_of_the_document(document: Any, chunk: int) -> None:
    """However strings, escapes and chunks fall: refused exactly beyond a limit."""
    data = msgspec.json.encode(document)
    before = (jsonsize.VALUES_MAX, jsonsize.DEPTH_MAX, jsonsize._CHUNK_BYTES)
    jsonsize._CHUNK_BYTES = chunk
    try:
        for limit in range(max(1, values(document) - 2), values(document) + 2):
            jsonsize.VALUES_MAX, jsonsize.DEPTH_MAX = limit, 0
            assert ("values" in too_much(data)) is (values(document) > limit)
        jsonsize.VALUES_MAX = before[0]
        for limit in range(depth(document) + 2):
            jsonsize.DEPTH_MAX = limit
            assert bool(too_much(data)) is (depth(document) > limit)
    finally:
        jsonsize.VALUES_MAX, jsonsize.DEPTH_MAX, jsonsize._CHUNK_BYTES = before


def test_encoder_refuses_what_the_decoder_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limit on the JSON, and the error has both numbers; also where zstd makes more of it
    than it was."""
    monkeypatch.setattr(codec, "CONTENT_BYTES_MAX", 4096)
    bare = len(b'{"Payload":"","MessageType":"t"}')
    noise = msgspec.json.encode(base64.b64encode(hash_chain(4096)).decode())[1 : 4097 - bare]
    for payload in (noise.decode(), "x" * (4096 - bare)):
        for packed in (True, False):
            content = encode_content("t", payload, compress=packed)
            assert decode_content(content) == ("t", payload)
    with pytest.raises(CodecError, match="got 4097 bytes of JSON, want at most 4096"):
        encode_content("t", "x" * (4097 - bare))
    large = base64.b64encode(b'{"Payload":"' + b"x" * 4096 + b'","MessageType":"t"}').decode()
    with pytest.raises(CodecError, match="want at most 4096"):
        decode_content(large)
    monkeypatch.undo()
    with pytest.raises(CodecError, match=f"more than {VALUES_MAX} values"):
        encode_content("t", [0] * VALUES_MAX)


def hash_chain(size: int) -> bytes:
    return b"".join(hashlib.sha256(bytes([n])).digest() for n in range(size // 32))


def test_a_pull_reply_is_decoded_in_memory_of_its_own_size() -> None:
    """Scenario 63: 3 MiB of small objects are refused; what a message has beside its four texts is
    never made, and costs no message."""
    size = 7 * MIB // 2
    for piece in (b"{},", b'{"a":{}},', b"[],"):
        body = b'{"UMHMessages":[' + piece * (size // len(piece)) + b"null]}"
        with within(3 * size), pytest.raises(CodecError, match="more than"):
            decode_batch(body)
    rest = b'"more":[' + b"[]," * 60_000 + b"0]"
    body = b'{"x":{' + rest + b'},"UMHMessages":[{"email":"a",' + rest + b"}]}"
    with within(2 * len(body)):
        assert decode_batch(body).messages == (Message(email="a"),)
    many = [Message(email="a@x", content="x" * 4000)] * 800
    body = encode_batch(many)
    del many
    with within(2 * len(body)):
        batch = decode_batch(body)
    assert len(batch.messages) == 800


def test_two_megabytes_of_garbage_are_one_error() -> None:
    """Scenario 63: of any kind."""
    noise = hash_chain(8192) * 256
    texts = (noise, b"[" * (2 * MIB), b'"' * (2 * MIB), b"{" + noise, b"\\" * (2 * MIB))
    for body in (*texts, b'{"UMHMessages":[' + b'{"a":' * (MIB // 3), b"9" * (2 * MIB)):
        with within(20 * MIB), pytest.raises(CodecError):
            decode_batch(body)
    for body in texts[:2]:
        with within(40 * MIB), pytest.raises(CodecError):
            decode_message(body)
        with within(40 * MIB), pytest.raises(CodecError):
            decode_content(content_of(body))


@pytest.mark.parametrize(
    "call",
    [
        lambda: decode_batch(b'{"UMHMessages":[]}'),
        lambda: decode_message(b"{}"),
        lambda: decode_content(encode_content("t", 1)),
    ],
)
def test_no_memory_left_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]
) -> None:
    """It may pass, and says nothing of what was read: no reason to set a sound message aside."""

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    before_decoding(monkeypatch, full)
    with pytest.raises(MemoryError):
        call()
    monkeypatch.undo()
    monkeypatch.setattr(base64, "b64decode", full)
    with pytest.raises(MemoryError):
        decode_content("e30=")
