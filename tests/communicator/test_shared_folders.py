"""Who may read what is spooled: we, and those who may write to the folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fsmv2.communicator import spool
from fsmv2.communicator.spool import disk as disk_module
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.spool.journal import Journal


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o000], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_folders_of_ours_are_private_and_so_is_all_in_them(tmp_path: Path) -> None:
    outbox, inbox = tmp_path / "plant" / "outbox", tmp_path / "plant" / "inbox"
    spool.post(outbox, email="a", message_type="t", payload="s3cret")
    with spool.pulling(inbox), spool.claim(inbox):
        spool.unpack(spool.place_for(inbox).save(b'{"UMHMessages":[{"email":"0"}]}', lambda: False))
    Journal(inbox).add(["key"])
    for folder in (outbox.parent, outbox, inbox):
        assert mode(folder) == 0o700
    files = [*outbox.iterdir(), *inbox.iterdir()]
    assert len(files) == 7
    assert {mode(path) for path in files} == {0o600}


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(
    ("folder", "file"),
    [
        (0o700, 0o600),
        (0o750, 0o600),
        (0o755, 0o600),
        (0o770, 0o660),
        (0o775, 0o660),
        (0o2770, 0o660),
        (0o777, 0o666),
    ],
    ids="{:o}".format,
)
def test_who_may_write_to_a_folder_shares_what_is_in_it(
    tmp_path: Path, folder: int, file: int
) -> None:
    """Of an app and a communicator of two users either reads, notes and removes what the other has
    made there. Who may only look does not see what is in it, and the folder stays as it is."""
    tmp_path.chmod(folder)
    spool.post(tmp_path, email="a", message_type="t", payload="s3cret")
    with spool.pulling(tmp_path):
        pass
    DISK.jot(tmp_path / ".answers", b"x")
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
        path.name: file for path in tmp_path.iterdir()
    }
    (tmp_path / ".acked").unlink()
    spool.check_forgettable(spool.outgoing(tmp_path, 1, 1)[0])
    assert mode(tmp_path / ".acked") == file
    assert mode(tmp_path) == folder


@pytest.fixture
def owned_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, int], None]:
    """Have the folder be another's, as far as can be seen."""

    def other(uid: int, gid: int, mode: int) -> None:
        found = SimpleNamespace(st_mode=stat.S_IFDIR | mode, st_uid=uid, st_gid=gid)
        monkeypatch.setattr(Path, "stat", lambda path: found)

    return other


@pytest.mark.parametrize(("member", "bits"), [(True, 0o660), (False, 0o600)])
def test_a_file_becomes_the_group_s_of_its_folder_or_no_group_reads_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owned_by: Callable[[int, int, int], None],
    member: bool,
    bits: int,
) -> None:
    given: list[tuple[int, int]] = []

    def fchown(handle: int, uid: int, gid: int) -> None:
        if not member:
            raise PermissionError
        given.append((uid, gid))

    monkeypatch.setattr(os, "fchown", fchown)
    owned_by(os.geteuid(), os.getegid() + 1, 0o770)
    handle = disk_module._make_file(tmp_path / "x", os.O_WRONLY)
    assert stat.S_IMODE(os.fstat(handle).st_mode) == bits
    os.close(handle)
    assert given == [(-1, os.getegid() + 1)] * member


@pytest.mark.parametrize("euid", [0, 54_321])
def test_what_root_makes_is_the_folder_s_owner_s(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owned_by: Callable[[int, int, int], None],
    euid: int,
) -> None:
    """An app's own inbox, with a communicator that runs as root: the app reads what has come."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda handle, uid, gid: given.append((uid, gid)))
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    owned_by(1_234_567, os.getegid(), 0o755)
    handle = disk_module._make_file(tmp_path / "x", os.O_WRONLY)
    assert stat.S_IMODE(os.fstat(handle).st_mode) == 0o600
    os.close(handle)
    assert given == [(1_234_567, -1)] * (euid == 0)
