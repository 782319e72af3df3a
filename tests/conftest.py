"""Settings for all tests: these machines are shared and noisy, so no property test may fail on a deadline."""

import multiprocessing
import os
import sys

import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

_ended = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_ended] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once with the tests' status: Paddle, torch and ONNX Runtime in one process may hang in their destructors.

    A process that a test left behind would have been waited for, so it fails the run here.
    """
    if _ended not in config.stash:
        return
    left = multiprocessing.active_children()
    for process in left:
        print(f"left running by a test: {process}", file=sys.stderr)
        process.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash[_ended] or bool(left))
