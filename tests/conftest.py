"""Settings for all tests: these machines are shared and noisy, so no property test may fail on a deadline."""

from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
