"""Token rules with the vectors of the wire description, and the message codec."""

from __future__ import annotations

import base64
import hashlib
import json
import tracemalloc

import pytest

from fsmv2.communicator.transport.codec import (
    ZERO_UUID,
    CodecError,
    Message,
    decode_batch,
    decode_content,
    encode_batch,
    encode_content,
    read_texts,
)
from fsmv2.communicator.transport.compression import zstd
from fsmv2.communicator.transport.token import (
    ASSUMED_LIFE_S,
    LIFE_S_MAX,
    double_hash,
    is_cookie_safe,
    life_s,
    refresh_margin_s,
)

NOW = 1_800_000_000.0


def jwt(claims: object) -> str:
    """A token with these claims; nobody looks at its signature."""
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJIUzI1NiJ9.{part}.c2ln"


def test_double_hash_is_sha3_over_the_hex_text() -> None:
    """The vectors of the wire description."""
    inner = "7fb50120d9d1bc7504b4b7f1888d42ed98c0b47ab60a20bd4a2da7b2c1360efa"
    assert hashlib.sha3_256(b"ABC").hexdigest() == inner
    assert double_hash("ABC") == hashlib.sha3_256(inner.encode()).hexdigest()
    want = "f1783bd576f4821d6f925e44ad7f341a09557be3841ef1f20886da7472d4274c"
    assert double_hash("demo-token-1") == want


@pytest.mark.parametrize(
    ("token", "life"),
    [
        (jwt({"exp": NOW + 500}), 500.0),
        (jwt({"exp": NOW + 500, "iat": NOW - 100}), 500.0),
        (jwt({"exp": NOW + 9000, "iat": NOW + 8000}), 1000.0),  # our clock is behind
        (jwt({"exp": NOW - 5000, "iat": NOW - 6000}), 1000.0),  # our clock is ahead
        (jwt({"exp": NOW - 5000}), ASSUMED_LIFE_S),
        (jwt({"exp": 0}), ASSUMED_LIFE_S),
        (jwt({"exp": 1e300}), LIFE_S_MAX),
        (jwt({"exp": 10**400}), ASSUMED_LIFE_S),
        (jwt({"exp": -(10**400)}), ASSUMED_LIFE_S),
        (jwt({"exp": NOW + 500, "iat": 10**400}), 500.0),
        (jwt({"exp": True}), ASSUMED_LIFE_S),
        (jwt({"exp": "tomorrow"}), ASSUMED_LIFE_S),
        (jwt([1]), ASSUMED_LIFE_S),
        ("opaque", ASSUMED_LIFE_S),
        ("a.b.c", ASSUMED_LIFE_S),
        ("a.é.c", ASSUMED_LIFE_S),
        ("..", ASSUMED_LIFE_S),
    ],
)
def test_life_is_the_tokens_own_where_it_says_so(token: str, life: float) -> None:
    """`exp` where it can be read and believed, 23 h where not; never zero, so never a loop."""
    assert life_s(token, NOW) == pytest.approx(life)


def test_refresh_margin_is_ten_minutes_or_half_a_short_life() -> None:
    """A token of 5 min is renewed after 2.5 min: 24 logins an hour, not one a tick."""
    assert refresh_margin_s(ASSUMED_LIFE_S) == 600
    assert refresh_margin_s(300) == 150


def test_a_cookie_that_could_break_a_header_is_refused() -> None:
    """A token is sent back as it came, so it may hold no separator and no line break."""
    assert is_cookie_safe("eyJ.a-b_.c")
    for bad in ("", "a b", "a;b", "a\r\nX: y", "a,b", 'a"b', "é", "x" * 20_000):
        assert not is_cookie_safe(bad)


def test_batch_is_emitted_with_the_exact_keys() -> None:
    """`UMHMessages` and `umhInstance`, the login's instance in every message, no zero trace."""
    body = encode_batch(
        [
            Message(umh_instance="other", email="a@x", content="Yw==", trace_id=ZERO_UUID),
            Message(email="b@x", content="Yg==", trace_id="9b1d"),
        ],
        "3f0c",
    )
    assert json.loads(body) == {
        "UMHMessages": [
            {"umhInstance": "3f0c", "content": "Yw==", "email": "a@x"},
            {"umhInstance": "3f0c", "content": "Yg==", "email": "b@x", "traceId": "9b1d"},
        ]
    }
    kept = json.loads(encode_batch([Message(umh_instance="own")]))
    assert kept["UMHMessages"][0]["umhInstance"] == "own"


@pytest.mark.parametrize("body", [b"", b" \n", b"null", b"{}", b'{"UMHMessages":null}'])
def test_nothing_is_a_legal_pull_reply(body: bytes) -> None:
    """Idle relays say it in many ways."""
    assert decode_batch(body).messages == ()


@pytest.mark.parametrize("count", [63, 64, 65, 1 << 20])
@pytest.mark.parametrize("blank", [b" ", b"\t", b"\r\n"])
def test_any_number_of_blanks_may_be_before_a_reply(count: int, blank: bytes) -> None:
    """The relay has deleted what stands behind them."""
    before = blank * count
    body = before + b'{"UMHMessages":' + before + b'[{"email":' + before + b'"a"}]}'
    batch = decode_batch(body)
    assert [message.email for message in batch.messages] == ["a"]
    assert batch.unreadable == 0
    assert decode_batch(before + b"null").messages == ()
    assert decode_batch(before).messages == ()
    assert read_texts(before + b'{"uuid":"u"}', "login reply", ["uuid"]) == ["u"]
    with pytest.raises(CodecError, match="got list, want an object"):
        decode_batch(before + b"[]")


def test_keys_are_read_in_any_case_and_nulls_are_skipped() -> None:
    """Scenarios 23 and 26: as Go's decoder does it; a trace id may be flat or in metadata."""
    body = {
        "umhmessages": [
            None,
            {"UMHInstance": "i", "EMAIL": "a@x", "Content": "Yw==", "traceid": "flat"},
            {"email": "b@x", "metadata": {"TraceId": "nested"}, "new": [1]},
            {"traceId": ZERO_UUID, "METADATA": {"traceId": "nested"}},
            {"metadata": {"traceId": ZERO_UUID}},
            {"traceId": 7, "metadata": None},
        ]
    }
    batch = decode_batch(json.dumps(body).encode())
    traces = [message.trace_id for message in batch.messages]
    assert traces == ["flat", "nested", "nested", "", ""]
    assert batch.messages[0] == Message(
        umh_instance="i", email="a@x", content="Yw==", trace_id="flat"
    )
    assert batch.unreadable == 0


def test_one_unreadable_element_does_not_cost_the_others() -> None:
    """The relay has deleted all of them already."""
    batch = decode_batch(b'{"UMHMessages":[{"email":"a"},7,{"content":5},{"email":"b"}]}')
    assert [message.email for message in batch.messages] == ["a", "b"]
    assert batch.unreadable == 2


@pytest.mark.parametrize(
    "body",
    [b"[]", b'"x"', b'{"UMHMessages":{}}', b'{"UMHMessages":[', b"\xef\xbb\xbf{}", b"[" * 99_999],
)
def test_malformed_reply_is_one_typed_error_without_its_content(body: bytes) -> None:
    """Whatever the bytes are, `CodecError` and nothing else."""
    with pytest.raises(CodecError) as caught:
        decode_batch(body)
    assert len(str(caught.value)) < 100


def test_content_is_json_in_base64_with_capitalised_keys() -> None:
    """The example of the wire description."""
    content = encode_content("subscribe", {"resubscribed": False})
    want = "eyJQYXlsb2FkIjp7InJlc3Vic2NyaWJlZCI6ZmFsc2V9LCJNZXNzYWdlVHlwZSI6InN1YnNjcmliZSJ9"
    assert content == want
    assert decode_content(content) == ("subscribe", {"resubscribed": False})


def content_of(inner: bytes) -> str:
    return base64.b64encode(inner).decode()


def test_content_is_compressed_from_1024_bytes_on() -> None:
    """Scenario 60: 1023 bytes of JSON are plain, 1024 are zstd, and both are read by the magic."""
    bare = len(json.dumps({"Payload": "", "MessageType": "status"}, separators=(",", ":")))
    for size, starts in ((1023, "eyJ"), (1024, "KLUv/")):
        payload = "x" * (size - bare)
        content = encode_content("status", payload)
        assert content.startswith(starts)
        assert decode_content(content) == ("status", payload)
        plain = encode_content("status", payload, compress=False)
        assert plain.startswith("eyJ")
        assert decode_content(plain) == ("status", payload)


def test_content_of_other_senders_is_read() -> None:
    """A frame without a size in its head, and one of several frames."""
    text = b'{"payload":1,"messagetype":"action"}'
    packer = zstd.ZstdCompressor()
    streamed = packer.compress(text[:9]) + packer.flush(packer.FLUSH_BLOCK)
    streamed += packer.compress(text[9:]) + packer.flush()
    two = zstd.compress(text[:9]) + zstd.compress(text[9:])
    for frames in (streamed, two, zstd.compress(text, level=19)):
        assert decode_content(content_of(frames)) == ("action", 1)


def test_zip_bomb_is_refused_at_the_cap() -> None:
    """Scenario 61: 64 MiB in a few kB, unpacked to the cap and no further; so with the size
    honestly in the head, with none, and spread over frames."""
    block = bytes(1 << 20)
    packer = zstd.ZstdCompressor()
    honest = zstd.compress(bytes(1 << 26))
    hidden = b"".join(packer.compress(block) for _ in range(64)) + packer.flush()
    spread = zstd.compress(block) * 64
    for bomb in (honest, hidden, spread):
        assert len(bomb) < 1 << 14
        tracemalloc.start()
        try:
            with pytest.raises(CodecError, match="more than 1048576 bytes"):
                decode_content(content_of(bomb), 1 << 20)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def test_size_is_capped_before_and_after_base64() -> None:
    """The limit is on the JSON, plain or packed."""
    fits = encode_content("t", "x" * 900)
    size = len(base64.b64decode(fits))
    assert decode_content(fits, size)[0] == "t"
    with pytest.raises(CodecError, match="want at most"):
        decode_content(fits, size - 3)


@pytest.mark.parametrize(
    "inner",
    [
        b"\x28\xb5\x2f\xfdabc",
        zstd.compress(b"{}" * 600)[:-3],
        zstd.compress(b"{}") + b"more",
        zstd.compress(b"not json"),
        b"not json",
        b"[]",
        b"",
    ],
)
def test_content_that_cannot_be_read_says_so_without_showing_it(inner: bytes) -> None:
    """Scenario 64: bad base64, bad JSON, a broken, cut or padded frame: one typed error."""
    with pytest.raises(CodecError, match="cannot read") as caught:
        decode_content(content_of(inner))
    assert "not json" not in str(caught.value)
    with pytest.raises(CodecError, match="no base64"):
        decode_content("***")


def test_message_repr_hides_content() -> None:
    """A message may end up in a traceback."""
    assert "c2VjcmV0" not in repr(Message(email="ada@example.com", content="c2VjcmV0"))
    assert "ada" not in repr(Message(email="ada@example.com", content="c2VjcmV0"))
