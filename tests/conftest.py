"""What all tests share."""

import os

from hypothesis import HealthCheck, settings

# The machine that runs the tests may be busy: an example is never too slow, only too many are.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile(
    "thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
