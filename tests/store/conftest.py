"""Property tests give the same examples each time; the engine's bench and ours can be imported."""

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path[:0] = [str(Path(__file__).parent.parent / "engine"), str(Path(__file__).parent)]

settings.register_profile(
    "fsmv2",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fsmv2")
