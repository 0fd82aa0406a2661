"""Property tests in here give the same examples in every run, and have no wall-clock deadline."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fsmv2",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fsmv2")
