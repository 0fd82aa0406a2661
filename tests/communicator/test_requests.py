"""What a relay gets to see of us, byte for byte where others rely on it: headers, and the frame of
a packed content."""

from __future__ import annotations

import base64
import random

import pytest

from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import http
from fsmv2.communicator.transport.codec import ZSTD_MAGIC, Message, encode_content
from fsmv2.communicator.transport.compression import compress, zstd
from fsmv2.communicator.transport.token import double_hash
from fsmv2.supervisor import Secret

OURS = {"accept-encoding": "identity", "user-agent": "fsmv2-communicator"}
MESSAGE = Message(email="ada@example.com", content=encode_content("status", 1))


def test_headers_of_each_request(relay: Relay) -> None:
    """Sections 1.1 to 1.3: these and no others. A pull asks for no long poll and says nothing of
    keeping alive, a push says how long it is and what."""
    client = http.transport_for(http.Relay(relay.url))
    jwt = client.authenticate(Secret(DEMO_TOKEN)).token
    client.push(jwt, [MESSAGE], DEMO_UUID)
    client.pull(jwt)
    login, push, pull = relay.requests()
    common = {**OURS, "host": relay.url.removeprefix("http://").removesuffix("/api")}
    cookie = f"token={jwt.reveal()}"
    assert login.headers == {
        **common,
        "authorization": f"Bearer {double_hash(DEMO_TOKEN)}",
        "content-type": "application/json",
        "content-length": "0",
    }
    assert push.headers == {
        **common,
        "cookie": cookie,
        "content-type": "application/json",
        "content-length": str(len(push.body)),
    }
    assert pull.headers == {**common, "cookie": cookie}
    assert [(one.method, one.path, one.body) for one in (login, pull)] == [
        ("POST", "/api/v2/instance/login", b""),
        ("GET", "/api/v2/instance/pull", b""),
    ]
    assert (push.method, push.path) == ("POST", "/api/v2/instance/push")
    assert push.body.startswith(b'{"UMHMessages":[{')


def window_of(frame: bytes) -> int:
    """How many bytes a decoder must keep for ``frame``, by its head (RFC 8878, 3.1.1.1)."""
    assert frame.startswith(ZSTD_MAGIC)
    said = frame[4]
    if said & 0x20:  # one segment: as large as the content, whose size follows
        width = {0: 1, 1: 2, 2: 4, 3: 8}[said >> 6]
        assert not said & 3
        return int.from_bytes(frame[5 : 5 + width], "little") + (256 if width == 2 else 0)
    base = 1 << (10 + (frame[5] >> 3))
    return base + base // 8 * (frame[5] & 7)


def words(size: int) -> str:
    """Text with repetitions near and far, so that levels and windows make a difference."""
    dice = random.Random(7)
    some = ["".join(dice.choices("abcdefgh", k=dice.randrange(2, 9))) for _ in range(3000)]
    return " ".join(dice.choices(some, k=size))[:size]


@pytest.mark.parametrize("size", [1024, 32 * 1024, 200 * 1024, 2 * 1024 * 1024])
def test_window_of_a_packed_content(size: int) -> None:
    """Section 2.2: at most 32 KiB, however large the content is."""
    frame = base64.b64decode(encode_content("status", words(size)))
    assert window_of(frame) <= 32 * 1024
    assert window_of(zstd.compress(bytes(200 * 1024))) > 32 * 1024


def test_level_of_a_packed_content() -> None:
    """Section 2.2: the fastest."""
    data = words(200 * 1024).encode()

    def packed(level: int) -> bytes:
        options = {
            int(zstd.CompressionParameter.compression_level): level,
            int(zstd.CompressionParameter.window_log): 15,
        }
        return bytes(zstd.compress(data, options=options))

    assert compress(data) == packed(1)
    assert packed(1) not in [packed(level) for level in (-1, 2, 3, 9)]
