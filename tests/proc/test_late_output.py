"""What an attempt prints comes late, and its secrets are kept all the same."""

from __future__ import annotations

from pathlib import Path

import pool_actions as acts
from driving import Driven, driven

from fsmv2.supervisor import Action, Secret
from fsmv2.supervisor.core.events import ProcOutput

TOKEN = "s3cr3t-t0ken"
TOLD = "token is Secret(…)"


def lines_of(made: Driven) -> list[str]:
    return [told.line for told in made.heard(ProcOutput)]


def test_what_c_code_prints_is_told_with_its_own_attempt() -> None:
    """It is written before the answer, while the root knows what must not be shown."""
    with driven({"actions": 1}, spares=0) as made:
        attempt = made.submit(acts.PrintInC(Secret(TOKEN)))
        assert made.result(attempt).succeeded
        (told,) = made.heard(ProcOutput)
        assert (told.line, told.attempt_id) == (TOLD, attempt)


def test_what_an_attempts_process_prints_later_hides_its_secrets(tmp_path: Path) -> None:
    """Also while another attempt is at work, that has secrets of its own, and while none is."""
    others: tuple[tuple[str, Action | None], ...] = (
        ("none", None),
        ("plain", acts.Sleep(3600.0)),
        ("hiding", acts.HoldSecret(Secret("another-t0ken"))),
    )
    for name, other in others:
        path = tmp_path / name
        with driven({"actions": 1}, spares=0) as made:
            assert made.run(acts.PrintWhen(Secret(TOKEN), str(path))).succeeded
            assert made.run(acts.Echo(1)).succeeded
            attempt = made.submit(other, timeout_s=3600.0) if other is not None else 0
            proc = next(iter(made.pool.lanes["actions"].members))
            made.until(lambda p=proc, a=attempt: not a or p.page.begun()[0] == a, "begun")  # type: ignore[misc]
            path.touch()
            made.until(lambda m=made: lines_of(m), "the line")  # type: ignore[misc]
            assert lines_of(made) == [TOLD]
            if attempt:
                made.pool.cancel(attempt, "operator")
                assert made.result(attempt).certificate is not None
                assert TOKEN not in repr(made.result(attempt))
