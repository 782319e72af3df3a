"""Settings for all tests: these machines are shared and noisy, so no property test may fail on a deadline."""

import multiprocessing
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The same examples on every run of a commit; `--hypothesis-profile explore` draws new ones, and more of them.
settings.register_profile("shared", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("shared")

_ended = pytest.StashKey[int]()


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """A process that a test left behind would be waited for at the end."""
    yield
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
    assert left == []


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_ended] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once with the tests' status: Paddle, torch and ONNX Runtime in one process may hang in their destructors."""
    if _ended in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_ended])
