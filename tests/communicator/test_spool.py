"""The folders: files appear whole, and nothing half-done is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsmv2.communicator import spool
from fsmv2.communicator.transport.codec import CodecError


def test_spool_files_appear_whole_and_leave_no_draft(tmp_path: Path) -> None:
    """A producer that fails half-way leaves nothing behind that could be sent."""
    with pytest.raises(TypeError):
        spool.post(tmp_path / "out", email="a", message_type="t", payload=object())
    with spool.writing(tmp_path / "out") as draft:
        draft.file.write(b"half, and never published")
    assert list((tmp_path / "out").iterdir()) == []
    path = spool.post(tmp_path / "out", email="a", message_type="t", payload=1)
    assert [path] == list((tmp_path / "out").iterdir())
    assert path.stat().st_size > 0
    assert spool.inbox_files(tmp_path / "nowhere") == []
    reply = tmp_path / "x.reply"
    reply.write_bytes(b"[")
    with pytest.raises(CodecError):
        spool.unpack(reply)
    assert (tmp_path / "x.unreadable").exists()
