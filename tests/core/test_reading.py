"""Regular files only, bounded in size and depth."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from specials import SPECIALS

from rca.core.errors import UserError, explain
from rca.core.files import hash_file, read_json, read_mask, read_photograph, write_directory, write_file
from rca.core.reading import check_file, check_target, parse_json, read_text
from rca.core.settings import load_params
from rca.models.storage import load_tensors


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    """End what hangs."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def enter(kind: type) -> object:
    def write(path: Path) -> None:
        with kind(path):
            pass

    return write


READERS = {
    "text": read_text,
    "JSON": read_json,
    "checksum": hash_file,
    "mask": read_mask,
    "photograph": read_photograph,
    "params": load_params,
    "tensors": lambda path: load_tensors(path, "train_cam"),
    "file to write": enter(write_file),
    "folder to write": enter(write_directory),
}


@pytest.mark.parametrize("kind", SPECIALS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_named(tmp_path: Path, reader: str, kind: str) -> None:
    make, sentence = SPECIALS[kind]
    make(tmp_path / "x")
    if (reader, kind) == ("folder to write", "folder"):
        READERS[reader](tmp_path / "x")
        return
    with pytest.raises((UserError, OSError)) as caught:
        READERS[reader](tmp_path / "x")
    error = caught.value
    text = str(error) if isinstance(error, UserError) else str(explain(error))
    assert str(tmp_path / "x") in text
    assert sentence.replace("not a file", "").rstrip(", ") in text
    assert "\n" not in text


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(1 << 40)  # of a terabyte, none of which is on the disk
    for read in (read_text, read_json, load_params):
        with pytest.raises(UserError, match=r"x\.json has more than \d+ MiB|x\.json is not valid JSON"):
            read(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["a\0b", "\0"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a file"):
        check_file(Path(name))


def test_a_free_path_and_a_file_may_be_written(tmp_path: Path) -> None:
    check_target(tmp_path / "free")
    (tmp_path / "file").touch()
    check_target(tmp_path / "file")
    check_target(tmp_path, "folder")
    with pytest.raises(UserError, match="is a file, not a folder"):
        check_target(tmp_path / "file", "folder")


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, "9" * 5000, "NaN", "[Infinity]", "-Infinity", "", "{"]
)
def test_json_that_python_would_choke_on_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text)


def test_json_is_read_as_python_reads_it() -> None:
    data = {"a": [1, 2.5, None, True, "ü"], "b": {"c": []}}
    assert parse_json(json.dumps(data)) == parse_json(json.dumps(data).encode()) == data
    assert parse_json("[" * 500 + "]" * 500)
