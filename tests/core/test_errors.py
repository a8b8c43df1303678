"""The sentences of errors that a user can cause and fix."""

import errno
import os

import pytest

from rca.core.errors import UserError, end_with_sentence, explain, quote, tell


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_an_error_of_the_system_names_path_cause_and_way_out(number: int) -> None:
    text = explain(OSError(number, os.strerror(number), "some/file"))
    assert text is not None
    assert text.startswith(f"some/file cannot be used ({os.strerror(number)}): ")
    assert text.endswith(".")
    assert "\n" not in text


def test_an_error_behind_others_is_found() -> None:
    error = RuntimeError("unexpected pos 2687232 vs 2687124")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device", "a/b")
    assert explain(error) == "a/b cannot be used (No space left on device): free some space, or name another place."
    assert "No space left" in str(explain(ValueError("I/O error: No space left on device (os error 28)")))


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("unexpected pos"), OSError("no number"), KeyError(1)])
def test_a_mistake_of_the_program_is_not_explained_away(error: Exception) -> None:
    assert explain(error) is None


def test_a_name_that_cannot_be_written_is_told() -> None:
    for name, encoding, message in (("K\xfche", "ascii", "LC_ALL=C.UTF-8"), ("a\udcff", "utf-8", "is not UTF-8")):
        with pytest.raises(UnicodeEncodeError) as caught:
            name.encode(encoding)
        assert message in str(explain(caught.value))


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\u202eb", "", "x" * 10_000, b"\xff"])
def test_a_name_in_a_message_is_one_short_line(name: object) -> None:
    text = quote(name)
    assert text.isprintable()
    assert 0 < len(text) <= 200


def test_what_a_user_reads_comes_from_one_place() -> None:
    assert tell(UserError("a: b.")) == "a: b."
    assert "some/file cannot be used" in str(tell(OSError(errno.ENOSPC, "No space left on device", "some/file")))
    assert tell(KeyError(1)) is None


def test_a_process_ends_with_the_sentence_or_with_the_error_of_the_program() -> None:
    for error in (UserError("a: b."), PermissionError(errno.EACCES, "Permission denied", "some/file")):
        with pytest.raises(SystemExit) as ended, end_with_sentence():
            raise error
        assert ended.value.code == f"error: {tell(error)}"
    with pytest.raises(KeyError), end_with_sentence():
        raise KeyError(1)
