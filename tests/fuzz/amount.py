"""How many examples a property is tried with."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

__all__ = ["amount"]


def amount(number: int) -> settings:
    """``number`` examples, the same in every run; a hundred times as many in the profile "fuzz"."""
    return settings(
        max_examples=max(1, number * settings.default.max_examples // 100),
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
        derandomize=settings.default.max_examples == 100,
    )
