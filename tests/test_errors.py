"""Errors: distinct exit codes, and messages that name the subject and the way out."""

from __future__ import annotations

import pytest

from fusion.errors import ConfigError, DependencyError, FusionError, InputError, ReaderError

KINDS = [ConfigError, InputError, DependencyError, ReaderError]


def test_exit_codes_are_distinct_and_never_success() -> None:
    codes = [kind.exit_code for kind in (FusionError, *KINDS)]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 126 for code in codes)  # from 126 on a shell means something else


@pytest.mark.parametrize("kind", [FusionError, *KINDS])
def test_message_says_what_to_which_input_and_what_next(kind: type[FusionError]) -> None:
    error = kind("note.jpg", "is empty", "Send the file again.")
    assert str(error) == "note.jpg: is empty. Send the file again."
    assert (error.subject, error.problem, error.way_out) == ("note.jpg", "is empty", "Send the file again.")


def test_every_error_is_caught_by_its_base_and_nothing_else_is() -> None:
    for kind in KINDS:
        assert issubclass(kind, FusionError)
        assert not any(issubclass(kind, other) for other in KINDS if other is not kind)


def test_subject_may_be_anything_with_a_name(tmp_path: object) -> None:
    assert InputError(tmp_path, "is a folder", "Name a file.").subject == str(tmp_path)
