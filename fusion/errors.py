"""Every error that a user can cause or must hear about: what happened, to which input, and the way out.

A failure of one reader on one line is not an error but data (`page.Failure`).
"""

import errno

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors of writing that the next file meets too."""


class FusionError(Exception):
    """Base of all errors with a message for people.

    Attributes:
        exit_code: process exit status of the command line when this error ends it.
        subject: the input, key or component that the error is about (a file name, `vlm.endpoints` …).
        problem: what is wrong with it.
        way_out: what the reader of the message can do next.
    """

    exit_code = 1

    def __init__(self, subject: object, problem: str, way_out: str) -> None:
        """Compose the message `subject: problem. way out`."""
        self.subject = str(subject)
        self.problem = problem
        self.way_out = way_out
        super().__init__(f"{self.subject}: {problem}{'' if problem.endswith('?') else '.'} {way_out}")


class ConfigError(FusionError):
    """The configuration or an argument can't be used; the run ends."""

    exit_code = 2


class InputError(FusionError):
    """One input can't be read: missing, empty, truncated, not an image, too large. Other inputs go on."""

    exit_code = 3


class DependencyError(FusionError):
    """A package, model or weight file that the configuration asks for is not installed; the run ends."""

    exit_code = 4


class ReaderError(FusionError):
    """A reader can't be started or asked at all (an endpoint is down at start, a checkpoint does not load)."""

    exit_code = 5
