"""Settings of the property tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "trace",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("trace")
