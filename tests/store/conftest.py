"""Property tests in here give the same examples in every run."""

from hypothesis import HealthCheck, settings

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
