"""A saved pull reply that can never be unpacked holds up the messages behind it for some tries,
not for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from decoding import before_decoding

from fsmv2.communicator import spool
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.pull import PullAction
from fsmv2.communicator.outcomes import Credentials
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.spool.unpacking import UNPACKS_MAX
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.relay import Relay
from fsmv2.supervisor import Secret

BAD = b'{"UMHMessages":[{"email":"s3cret"}]}'


class Killed(BaseException):
    """As if the kernel had ended the process for its memory, here."""


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[BaseException]], None]:
    """Has the decoder itself raise for `BAD`, and for nothing else."""

    def fails_with(error: type[BaseException]) -> None:
        def look(body: Any) -> None:
            if body == BAD:
                raise error("s3cret")

        before_decoding(monkeypatch, look)

    return fails_with


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, Killed])
def test_a_reply_that_is_never_unpacked_is_set_aside_and_those_behind_it_flow(
    relay: Relay, context: Any, tmp_path: Path, decoder: Any, error: type[BaseException]
) -> None:
    """Each try is counted by the reply's name before it is made, so that a kill counts; after the
    last it is kept for people, told in the log and counted."""
    decoder(error)
    made_for = Credentials(relay.url, Secret(DEMO_TOKEN))
    login = AuthenticateAction(made_for).execute(context)
    assert login.session is not None
    pull = PullAction(Access(made_for, login.session, 7, login.instance_uuid), str(tmp_path))
    bad = tmp_path / f"{5:020d}-1-a.reply"
    bad.write_bytes(BAD)
    relay.send("ada@example.com", "action", "behind")
    for number in range(UNPACKS_MAX):
        if error is MemoryError:
            problem = pull.execute(context).problem
            assert problem is not None
            assert "needs more memory than there is" in problem.text
        else:
            with pytest.raises(error):
                pull.execute(context)
        assert [path.name for path in spool.saved_replies(tmp_path)] == [
            f"{5:020d}-1-a.begun{number + 1}.reply"
        ]
    assert relay.requests("pull") == []  # in their turn: nothing overtakes it before
    outcome = pull.execute(context)
    assert (outcome.moved, outcome.refused, outcome.problem) == (1, 1, None)
    kept = bad.with_suffix(".unreadable")
    assert kept.read_bytes() == BAD
    assert ("pull reply kept as unreadable", "warning", {"file": kept.name}) in context.logged
    assert "s3cret" not in str(context.logged)
    samples = prometheus_client.generate_latest().decode()
    assert 'fsmv2_communicator_set_aside_total{direction="pull"' in samples
    (path,) = spool.inbox_files(tmp_path)
    assert [message.email for message in spool.read_messages(path)] == ["ada@example.com"]


def test_a_disk_that_fails_does_not_count_against_the_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a day must not have messages set aside that are sound."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    reply = tmp_path / f"{5:020d}-1-a.reply"
    reply.write_bytes(b'{"UMHMessages":[{"email":"ada"}]}')
    with monkeypatch.context() as patch:
        patch.setattr(type(DISK), "create", full)
        for _ in range(2 * UNPACKS_MAX):
            with pytest.raises(OSError, match="No space"):
                spool.unpack(*spool.saved_replies(tmp_path))
    assert spool.saved_replies(tmp_path) == [reply]
    assert spool.unpack(reply) == (1, 0)


def test_a_reply_that_was_begun_makes_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it was: a kill between the file and the reply's end repeats nothing."""
    reply = tmp_path / f"{5:020d}-1-a.reply"
    reply.write_bytes(b'{"UMHMessages":[{"email":"ada"}]}')

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(DISK), "unlink", killed)
        for _ in range(UNPACKS_MAX):
            with pytest.raises(Killed):
                spool.unpack(*spool.saved_replies(tmp_path))
    assert len(spool.inbox_files(tmp_path)) == 1
