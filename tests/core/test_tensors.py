from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from rca.core.tensors import TensorFile, merge_files

METADATA = {"about": '{"name": "Kühe \\"und\\" Schafe"}'}


def draw_tensors(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        f"ü{seed}/labels": random.integers(0, 9, 3).astype(np.uint8),
        f"b{seed}/scores": random.random((2, 5, 7)).astype(np.float16),
        f"c{seed}/logits": random.random(11).astype(np.float32),
        f"a{seed}/logits": random.random((1, 3)).astype(np.float32),
        f"d{seed}/none": np.zeros((0, 4), np.uint8),
    }


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    paths = []
    for number in (2, 0, 1):
        paths.append(tmp_path / f"{number}.safetensors")
        paths[-1].write_bytes(save(draw_tensors(number), {"part": str(number)}))
    return paths


def test_tensors_are_read_as_the_library_reads_them(sources: list[Path]) -> None:
    for path in sources:
        file, expected = TensorFile(path), load_file(path)
        assert file.metadata == {"part": path.stem}
        assert file.entries.keys() == expected.keys()
        for name, tensor in expected.items():
            found = file.read(name)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            np.testing.assert_array_equal(found, tensor)
        with pytest.raises(KeyError):
            file.read("nowhere")
        file.close()


def test_merged_files_are_what_the_library_writes_at_once(tmp_path: Path, sources: list[Path]) -> None:
    files = [TensorFile(path) for path in sources]
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    merge_files(tmp_path / "merged", files, METADATA, {"table": table, "a1/logits": table[:1]})
    together = {name: tensor for number in range(3) for name, tensor in draw_tensors(number).items()}
    together |= {"table": table, "a1/logits": table[:1]}  # what is given beside them takes the place of theirs
    assert (tmp_path / "merged").read_bytes() == save(together, METADATA)
    for file in files:
        file.close()


def test_merging_nothing_gives_a_file_without_tensors(tmp_path: Path) -> None:
    merge_files(tmp_path / "merged", [], METADATA, {})
    assert load_file(tmp_path / "merged") == {}
    assert TensorFile(tmp_path / "merged").metadata == METADATA


def test_a_file_that_is_cut_short_is_refused(sources: list[Path]) -> None:
    sources[0].write_bytes(sources[0].read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        TensorFile(sources[0])
    sources[1].unlink()
    with pytest.raises(FileNotFoundError):
        TensorFile(sources[1])


def test_a_file_that_shrinks_while_it_is_read_is_reported(sources: list[Path]) -> None:
    file = TensorFile(sources[0])
    sources[0].write_bytes(sources[0].read_bytes()[:-1])
    last = max(file.entries, key=lambda name: file.entries[name].start + file.entries[name].length)
    with pytest.raises(OSError, match="cut short"):
        file.read(last)
    file.close()
