"""The folders: files appear whole, order is kept, bounds hold, nothing half-done is left."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsmv2.communicator import spool
from fsmv2.communicator.spool import AsideFull, Bounds, Policy, SpoolFull, TooLarge, Usage, segments
from fsmv2.communicator.spool import outbox as outbox_module
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.transport.codec import CodecError, Message, decode_content

ALL = 10_000, 1 << 30


def lines(*texts: str) -> list[bytes]:
    return [spool.encode(Message(email=text)) for text in texts]


def names(folder: Path) -> list[str]:
    """Those that are not the spool's own notes."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def waiting(folder: Path) -> list[str]:
    return [one.message.email for one in spool.outgoing(folder, *ALL)[0]]


def test_spool_files_appear_whole_and_leave_no_draft(tmp_path: Path) -> None:
    """A producer that fails half-way leaves nothing behind that could be sent."""
    with pytest.raises(TypeError):
        spool.post(tmp_path / "out", email="a", message_type="t", payload=object())
    place = spool.place_for(tmp_path / "out")
    place.discard()
    assert names(tmp_path / "out") == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".reserve"]
    path = spool.post(tmp_path / "out", email="a", message_type="t", payload=1)
    assert [path.name] == names(tmp_path / "out")
    assert path.stat().st_size > 0
    assert spool.inbox_files(tmp_path / "nowhere") == []
    reply = tmp_path / "x.reply"
    reply.write_bytes(b"[")
    with pytest.raises(CodecError):
        spool.unpack(reply)
    assert (tmp_path / "x.unreadable").exists()


@given(
    groups=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    takes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
@settings(max_examples=40, deadline=None)
def test_groups_come_out_in_order_however_they_are_taken(
    groups: list[int], takes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A segment may be used up in parts; what was acknowledged never comes again."""
    folder = tmp_path_factory.mktemp("out")
    sent: list[str] = []
    for size in groups:
        group = [str(len(sent) + number) for number in range(size)]
        spool.append(folder, lines(*group))
        sent += group
    got: list[str] = []
    for most in takes:
        taken, left, refused = spool.outgoing(folder, most, 1 << 30)
        assert (left, refused) == (len(sent) - len(got), 0)
        assert len(taken) == min(most, left)
        spool.acknowledge(taken)
        got += [one.message.email for one in taken]
    assert got + waiting(folder) == sent


def test_bytes_bound_a_batch_but_one_message_always_goes(tmp_path: Path) -> None:
    """Scenario 58, this side: a huge message travels alone and holds nobody up for ever."""
    spool.append(tmp_path, lines("a" * 900, "b" * 10, "c" * 10))
    taken, *_ = spool.outgoing(tmp_path, 100, 500)
    assert [one.message.email[0] for one in taken] == ["a"]
    spool.acknowledge(taken)
    assert [one.message.email[0] for one in spool.outgoing(tmp_path, 100, 500)[0]] == ["b", "c"]
    with pytest.raises(TooLarge, match="want at most 67108864"):
        spool.encode(Message(content="x" * (spool.bounds.MESSAGE_BYTES_MAX + 1)))


def test_a_clock_set_back_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names sort by publishing: a newer one is above all that is there."""
    spool.append(tmp_path, lines("first"))
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    monkeypatch.setattr(segments, "_writer", segments._Writer())  # another process, as it were
    spool.append(tmp_path, lines("second"))
    assert waiting(tmp_path) == ["first", "second"]


def test_a_late_writer_does_not_break_into_a_segment_that_is_begun(tmp_path: Path) -> None:
    """One with an older stamp appears after the reader has begun: no message comes twice."""
    spool.append(tmp_path, lines("b1", "b2"))
    spool.acknowledge(spool.outgoing(tmp_path, 1, 1 << 30)[0])
    segments.publish(tmp_path, f"{1:020d}-7-abc", lines("a1", "a2"))
    taken, left, _ = spool.outgoing(tmp_path, 2, 1 << 30)
    assert ([one.message.email for one in taken], left) == (["b2", "a1"], 3)
    spool.acknowledge(taken)
    assert waiting(tmp_path) == ["a2"]


def test_full_spool_refuses_with_numbers_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Scenarios 35 and 36, this side: the newest is refused to its sender, nothing is dropped."""
    bounds = Bounds(messages_max=5, bytes_max=1 << 20, policy=Policy.REFUSE)
    for number in range(5):
        spool.append(tmp_path, lines(str(number)), bounds=bounds, replaceable=True)
    with pytest.raises(SpoolFull, match=r"5 messages with \d+ bytes wait, want at most 5") as full:
        spool.append(tmp_path, lines("one too many"), bounds=bounds)
    assert full.value.usage.messages == 5
    assert waiting(tmp_path) == ["0", "1", "2", "3", "4"]
    with pytest.raises(SpoolFull):
        spool.append(tmp_path, lines("x"), bounds=Bounds(bytes_max=100))
    spool.acknowledge(spool.outgoing(tmp_path, 5, 1 << 30)[0])
    spool.append(tmp_path, lines("y" * 200), bounds=Bounds(bytes_max=100))


def test_statuses_leave_half_of_the_spool_to_replies(tmp_path: Path) -> None:
    """Policy replies_first: heartbeats of an outage cannot push out a reply."""
    bounds = Bounds(messages_max=4)
    for kind, told in (("status", "2 and .* for statuses"), ("action-reply", "at most 4 and")):
        for _ in range(2):
            spool.post(tmp_path, email="a", message_type=kind, payload=1, bounds=bounds)
        with pytest.raises(SpoolFull, match=told):
            spool.post(tmp_path, email="a", message_type=kind, payload=1, bounds=bounds)
    assert len(waiting(tmp_path)) == 4


@pytest.mark.parametrize("field", ["messages_max", "bytes_max"])
def test_bounds_that_cannot_be_are_refused(field: str) -> None:
    """With the numbers given."""
    with pytest.raises(ValueError, match=f"{field} 0"):
        Bounds(**{field: 0})
    with pytest.raises(ValueError, match="want 1 to 100"):
        spool.append("nowhere", [])


@pytest.mark.parametrize(("policy", "taken"), [("replies_first", 5), ("refuse", 10)])
def test_a_policy_may_be_a_text_and_no_other(tmp_path: Path, policy: str, taken: int) -> None:
    """The README's own form is the one that it says it is."""
    bounds = Bounds(messages_max=10, policy=policy)
    for number in range(taken):
        spool.append(tmp_path, lines(str(number)), bounds=bounds, replaceable=True)
    with pytest.raises(SpoolFull):
        spool.append(tmp_path, lines("more"), bounds=bounds, replaceable=True)
    with pytest.raises(ValueError, match="got policy 'drop', want 'refuse' or 'replies_first'"):
        Bounds(policy="drop")


def test_many_writers_lose_nothing_and_keep_each_ones_order(tmp_path: Path) -> None:
    """Threads here as processes elsewhere: names never clash."""

    def write(name: str) -> None:
        for number in range(8):
            spool.append(tmp_path, lines(f"{name}{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = waiting(tmp_path)
    assert len(got) == 24
    for name in "abc":
        assert [each for each in got if each[0] == name] == [f"{name}{n}" for n in range(8)]


def test_unreadable_messages_are_kept_aside_in_their_turn(tmp_path: Path) -> None:
    """Also in the middle of a segment; the ones around it are sent, in order."""
    good = lines("1", "2", "3")
    segments.publish(tmp_path, f"{1:020d}-7-abc", [good[0], b"{", good[1], b"7", good[2]])
    (tmp_path / "00.json").write_text("[")
    seen: list[list[str]] = []
    aside = 0
    while True:
        taken, _, refused = spool.outgoing(tmp_path, *ALL)
        aside += refused
        if not taken:
            break
        seen.append([one.message.email for one in taken])
        spool.acknowledge(taken)
    assert (seen, aside) == ([["1"], ["2"], ["3"]], 3)
    assert [name for name in names(tmp_path) if not name.endswith(".refused")] == []
    assert (tmp_path / "00.json.refused").read_text() == "["


def test_what_is_kept_for_people_is_bounded_and_never_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By files and by bytes; beyond it nothing is set aside, and the error says what is there."""
    monkeypatch.setattr(segments, "KEPT_FILES_MAX", 3)
    spool.append(tmp_path, lines(*"abcdefgh"))

    def set_aside() -> None:
        spool.set_aside(spool.outgoing(tmp_path, 1, 1 << 30)[0][0])

    for _ in range(3):
        set_aside()
    with pytest.raises(AsideFull, match=r"3 files with \d+ bytes are kept there, want at most 3"):
        set_aside()
    kept = [name for name in names(tmp_path) if name.endswith(".refused")]
    assert (len(kept), waiting(tmp_path)) == (3, list("defgh"))
    (tmp_path / kept[0]).unlink()
    set_aside()
    assert waiting(tmp_path) == list("efgh")
    monkeypatch.setattr(segments, "KEPT_FILES_MAX", 9)
    monkeypatch.setattr(segments, "KEPT_BYTES_MAX", 100)
    with pytest.raises(AsideFull, match="and 100; look at them"):
        set_aside()
    (tmp_path / "bad.json").write_text("[")  # what is no message is not deleted either
    spool.acknowledge(spool.outgoing(tmp_path, *ALL)[0])
    with pytest.raises(AsideFull):
        spool.outgoing(tmp_path, *ALL)
    assert "bad.json" in names(tmp_path)


def test_an_inbox_is_counted_by_its_names(tmp_path: Path) -> None:
    """No file is read for it; drafts of killed writers go after ten minutes."""
    old, new = tmp_path / ".x.draft", tmp_path / ".y.draft"
    for draft in (old, new):
        draft.touch()
    os.utime(old, (1, 1))
    reply = tmp_path / f"{5:020d}-1-a.reply"
    reply.write_bytes(b'{"UMHMessages":[{"email":"a"},null,{"email":"b"},7]}')
    assert spool.usage(tmp_path) == Usage(0, 52, 0)
    assert spool.unpack(reply) == (2, 1)
    (path,) = spool.inbox_files(tmp_path)
    assert [message.email for message in spool.read_messages(path)] == ["a", "b"]
    assert spool.usage(tmp_path) == Usage(2, path.stat().st_size, 1)
    assert (old.exists(), new.exists()) == (False, True)
    assert names(tmp_path)[1].endswith(".unreadable")
    spool.finish([path])
    spool.finish([path])
    assert spool.usage(tmp_path) == Usage(0, 0, 0)


def test_full_disk_is_a_clear_error_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC: none of the group is there, what was there still is, and it can be delivered."""
    spool.append(tmp_path, lines("1", "2"))

    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(type(DISK), "sync", no_space)
        with pytest.raises(OSError, match="cannot spool 2 messages: No space left") as error:
            spool.append(tmp_path, lines("3", "4"))
        assert error.value.errno == errno.ENOSPC
        assert sorted(path.name[0] for path in tmp_path.iterdir()) == [".", "0"]
    with monkeypatch.context() as full:
        full.setattr(type(DISK), "create", no_space)  # what needs space; the note does not
        spool.acknowledge(spool.outgoing(tmp_path, 1, 1 << 30)[0])
    assert waiting(tmp_path) == ["2"]


def test_no_content_shows_in_errors_and_reprs(tmp_path: Path) -> None:
    """What a message says is between its ends."""
    path = spool.post(tmp_path, email="ada@x", message_type="t", payload="s3cret")
    (one,), *_ = spool.outgoing(tmp_path, *ALL)
    assert decode_content(one.message.content) == ("t", "s3cret")
    assert "ada" not in repr(one)
    assert one.message.content not in repr(one)
    assert path.name in repr(one)
    file = spool.append(tmp_path / "bad", [b"s3cret"])
    assert "s3cret" not in repr(list(outbox_module._read(file, 0, DISK)))


def test_what_is_no_file_blocks_neither_push_nor_post(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, links, a pipe and a file of another user's, all called like messages."""
    (tmp_path / "0.json").mkdir()
    os.mkfifo(tmp_path / "1.json")
    (tmp_path / "2.json").symlink_to("nowhere")
    (tmp_path / "3.jsonl").symlink_to(tmp_path / "0.json")
    for name in ("4.reply", ".5.draft"):
        (tmp_path / name).mkdir()
    spool.post(tmp_path, email="a", message_type="t", payload=1)
    (tmp_path / "6.json").write_text("{}")
    real = DISK.read

    def read(disk: Any, path: Path, bytes_max: int = -1) -> bytes:
        if path.name == "6.json":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, bytes_max)

    monkeypatch.setattr(type(DISK), "read", read)
    assert waiting(tmp_path) == ["a"]
    monkeypatch.setattr(type(DISK), "read", lambda disk, *rest: real(*rest))
    assert spool.usage(tmp_path).messages == 2
    spool.post(tmp_path, email="b", message_type="t", payload=1)
    assert waiting(tmp_path) == ["a", "b", ""]
    assert spool.strangers(tmp_path) == ["0.json", "1.json", "2.json", "3.jsonl"]
    assert spool.saved_replies(tmp_path) == []
    assert DISK.read(tmp_path / "1.json") == b""  # as if it had just taken a file's place
    with pytest.raises(OSError, match="symbolic"):
        DISK.read(tmp_path / "2.json")


@pytest.mark.parametrize("name", [f"{1:020d}-1-a.1.3.jsonl", "0.jsonl", "0.json"])
def test_a_file_that_may_not_be_read_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A segment as little as a file of one message: a writer of another user, whose files only it
    may read. It is sent once it may be read."""
    (tmp_path / name).write_text("{}\n")
    spool.post(tmp_path, email="a", message_type="t", payload=1)
    real = DISK.read

    def read(disk: Any, path: Path, bytes_max: int = -1) -> bytes:
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, bytes_max)

    with monkeypatch.context() as patch:
        patch.setattr(type(DISK), "read", read)
        taken, *_ = spool.outgoing(tmp_path, *ALL)
        spool.acknowledge(taken)
        assert [one.message.email for one in taken] == ["a"]
        assert spool.usage(tmp_path).messages == 1  # nor does it keep anybody from posting
    assert waiting(tmp_path) == [""]
