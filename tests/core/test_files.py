import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.core.files import (
    PALETTE,
    hash_file,
    keep_only,
    read_json,
    read_mask,
    read_photograph,
    work_in_folder,
    write_directory,
    write_file,
    write_json,
    write_mask,
)


def list_all(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_appears_whole_with_its_folder(tmp_path: Path) -> None:
    with write_file(tmp_path / "a/b/file.txt") as temporary:
        temporary.write_text("half")
        assert list((tmp_path / "a/b").glob("file*")) == []
        temporary.write_text("whole")
    assert (tmp_path / "a/b/file.txt").read_text() == "whole"
    assert list_all(tmp_path / "a/b") == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with write_file(path) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list_all(tmp_path) == ["file.txt"]


def test_a_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with write_directory(tmp_path / "out") as directory:
            (directory / name).write_text(name)
    assert list_all(tmp_path) == ["out", "two"]


def test_an_error_leaves_the_old_directory_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("old")

    def write() -> None:
        with write_directory(tmp_path / "out") as directory:
            (directory / "new").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert list_all(tmp_path) == ["old", "out"]


def test_masks_survive_with_all_their_labels(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)[:, ::-1]
    write_mask(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)


@pytest.mark.parametrize(
    ("label", "colour"),
    [
        (0, (0, 0, 0)),
        (1, (128, 0, 0)),
        (2, (0, 128, 0)),
        (8, (64, 0, 0)),
        (15, (192, 128, 128)),
        (20, (0, 64, 128)),
        (255, (224, 224, 192)),
    ],
)
def test_masks_show_the_colours_of_pascal_voc(tmp_path: Path, label: int, colour: tuple[int, int, int]) -> None:
    write_mask(tmp_path / "mask.png", np.full((3, 5), label, np.uint8))
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert image.convert("RGB").getpixel((4, 2)) == colour
    assert tuple(PALETTE[3 * label : 3 * label + 3]) == colour


def test_a_mask_may_be_grey(tmp_path: Path) -> None:
    mask = np.array([[0, 7], [255, 1]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "1", "LA"])
def test_a_mask_of_another_kind_is_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png is a .* picture, not one 8-bit channel: write its labels as"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGB"])
def test_photographs_of_any_kind_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    Image.new("RGB", (5, 3), (200, 200, 200)).convert(mode).save(path)
    found = read_photograph(path)
    assert (found.shape, found.dtype) == ((3, 5, 3), np.uint8)
    assert np.abs(found.astype(int) - 200).max() <= 4


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    for read, name in ((read_photograph, "photograph"), (read_mask, "mask")):
        with pytest.raises(UserError, match=rf"The {name} .*photo\.png is broken"):
            read(path)
        with pytest.raises(UserError, match=rf"The {name} .*gone\.png does not exist"):
            read(tmp_path / "gone.png")


def test_json_is_the_same_bytes_for_the_same_data(tmp_path: Path) -> None:
    write_json(tmp_path / "one", {"b": [1, 2.5], "a": "ä"})
    write_json(tmp_path / "two", {"a": "ä", "b": [1, 2.5]})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_text().endswith("}\n")
    assert read_json(tmp_path / "one") == json.loads((tmp_path / "one").read_text()) == {"a": "ä", "b": [1, 2.5]}


def test_json_that_others_cannot_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list_all(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"{", "not valid"), (b"\xff", "not valid")]
)
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.json .*{message}"):
        read_json(tmp_path / "x.json")


def test_a_checksum_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert hash_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_only_named_files_are_kept(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = tmp_path / "folder"
    (folder / "old/deep").mkdir(parents=True)
    (folder / "kept").mkdir()
    for name in ("0.txt", "1.txt", ".gitignore", "kept/file"):
        (folder / name).write_text("x")
    (folder / "link").symlink_to(outside, target_is_directory=True)
    keep_only(folder, ["0.txt", "kept", "absent"])
    assert list_all(folder) == [".gitignore", "0.txt", "file", "kept"]
    assert (outside / "precious").exists()
    keep_only(tmp_path / "nowhere", ["a"])
    assert not (tmp_path / "nowhere").exists()


# --- folders for temporary files


def test_a_folder_for_temporary_files_is_gone_after_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with work_in_folder() as folder, work_in_folder() as other:
        assert folder.parent == tmp_path
        assert folder != other
        (other / "x").touch()
    assert list_all(tmp_path) == []


HOLD = """
import os, signal
from rca.core.files import work_in_folder
with work_in_folder() as folder:
    (folder / "x").touch()
    print(folder, flush=True)
    {end}
"""


def test_a_folder_of_a_killed_process_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = subprocess.run(
        [sys.executable, "-c", HOLD.format(end="os.kill(os.getpid(), signal.SIGKILL)")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    left = Path(killed.stdout.strip())
    assert (left / "x").exists()
    command = [sys.executable, "-c", HOLD.format(end="input()")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        busy = Path(running.stdout.readline().strip())
        with work_in_folder():
            assert not left.exists()
            assert (busy / "x").exists()  # that of a process that runs stays
        running.communicate("\n")
    assert list_all(tmp_path) == []


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022, 0])
def test_the_umask_decides_who_may_read_a_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with write_file(tmp_path / "file") as temporary:
            assert temporary.stat().st_mode & 0o777 == 0o666 & ~mask
            temporary.write_text("x")
        with write_directory(tmp_path / "folder") as temporary:
            assert temporary.stat().st_mode & 0o777 == 0o777 & ~mask
            write_json(temporary / "x.json", {})
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder", "folder/x.json")}
    assert modes == {"file": 0o666 & ~mask, "folder": 0o777 & ~mask, "folder/x.json": 0o666 & ~mask}


def test_a_long_name_has_a_temporary_one(tmp_path: Path) -> None:
    write_json(tmp_path / ("ü" * 125 + ".json"), {})
    assert len(list_all(tmp_path)) == 1


WRITER = """
import pathlib, sys, time
from rca.core.files import write_directory, write_file
with write_file(pathlib.Path("out/file")) as file, write_directory(pathlib.Path("out/folder")) as folder:
    file.write_text("killed")
    (folder / "inner").write_text("killed")
    pathlib.Path("writing").touch()
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_is_gone_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", WRITER])
    while not Path("writing").exists():
        assert process.poll() is None
        time.sleep(0.02)

    def write(text: str) -> list[str]:
        with write_file(Path("out/file")) as file, write_directory(Path("out/folder")) as folder:
            file.write_text(text)
            (folder / "inner").write_text(text)
        assert Path("out/file").read_text() == Path("out/folder/inner").read_text() == text
        return sorted(path.name for path in Path("out").iterdir())

    beside = write("while another process writes")
    assert len(beside) == 4  # its own are left alone
    process.kill()
    process.wait()
    assert write("after it") == ["file", "folder"]
