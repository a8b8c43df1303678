from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.core.files import PALETTE
from rca.data.shapes.dataset import CLASS_NAMES, CLASSES, draw_image, generate_shapes
from rca.data.shapes.saliency import ShapesSaliencySettings, draw_saliency

SIZE = 64
SEED = 7


@pytest.fixture(scope="module")
def pictures() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One object a picture, twenty pictures a class."""
    return [draw_image(SEED, "train", index, SIZE, objects=(1, 1)) for index in range(20 * len(CLASSES))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(root, train=12, val=9, size=SIZE, seed=SEED)
    return root


def read_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read_masks(root: Path, split: str) -> Iterator[Image.Image]:
    for name in (root / f"ImageSets/Segmentation/{split}.txt").read_text().split():
        yield Image.open(root / f"SegmentationClass/{name}.png")


def test_same_arguments_give_the_same_files(dataset: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path / "again", train=12, val=9, size=SIZE, seed=SEED)
    assert read_files(tmp_path / "again") == read_files(dataset)


def test_more_pictures_leave_the_earlier_ones_untouched(dataset: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path / "fewer", train=5, val=3, size=SIZE, seed=SEED)
    whole = read_files(dataset)
    fewer = {path: data for path, data in read_files(tmp_path / "fewer").items() if path.endswith(".png")}
    assert len(fewer) == 16
    assert all(whole[path] == data for path, data in fewer.items())


def test_saliency_maps_change_no_other_file(dataset: Path, tmp_path: Path) -> None:
    for name, saliency in (("maps", ShapesSaliencySettings()), ("again", ShapesSaliencySettings(missed=1))):
        generate_shapes(tmp_path / name, train=12, val=9, size=SIZE, seed=SEED, saliency=saliency)
    found, again = read_files(tmp_path / "maps"), read_files(tmp_path / "again")
    maps = {path: data for path, data in found.items() if path.startswith("Saliency/")}
    assert {path: data for path, data in found.items() if path not in maps} == read_files(dataset)
    assert sorted(Path(path).stem for path in maps) == sorted(
        Path(path).stem for path in found if path.startswith("JPEGImages/")
    )
    assert any(again[path] != data for path, data in maps.items())


def test_saliency_is_as_wrong_as_the_settings_say(pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    def draw(**settings: float) -> list[np.ndarray]:
        rng, wrong = np.random.default_rng(0), ShapesSaliencySettings(**settings)
        return [draw_saliency(mask, wrong, rng) for _, mask, _ in pictures]

    masks = [mask for _, mask, _ in pictures]
    for mask, perfect in zip(masks, draw(missed=0, false=0, blur=0), strict=True):
        assert len(np.unique(perfect[(mask > 0) & (mask < 255)])) == 1
        assert perfect[(mask > 0) & (mask < 255)].min() >= 0.6 * 255 - 1
        assert not perfect[mask == 0].any()
    missed = [not saliency.any() for saliency in draw(missed=0.3, false=0, blur=0)]
    assert np.mean(missed) == pytest.approx(0.3, abs=0.1)  # four standard deviations of 180 draws
    false = [saliency[mask == 0].any() for mask, saliency in zip(masks, draw(missed=0, false=2, blur=0), strict=True)]
    assert np.mean(false) > 0.8  # 1 - exp(-2), less those that an object hides
    blurred = [len(np.unique(saliency)) for saliency in draw(missed=0, false=0, blur=0.03)]
    assert min(blurred) > 20


def test_seed_split_and_index_each_give_another_picture() -> None:
    keys = [(0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 9)]
    photographs = {draw_image(seed, split, index, 32)[0].tobytes() for seed, split, index in keys}
    assert len(photographs) == len(keys)


def test_layout_is_that_of_voc(dataset: Path) -> None:
    ids = {s: (dataset / f"ImageSets/Segmentation/{s}.txt").read_text().split() for s in ("train", "val")}
    assert (len(ids["train"]), len(ids["val"])) == (12, 9)
    every = sorted(ids["train"] + ids["val"])
    for folder in ("JPEGImages", "SegmentationClass"):
        assert sorted(path.stem for path in (dataset / folder).iterdir()) == every
    assert (dataset / "classes.txt").read_text().splitlines() == list(CLASS_NAMES)
    assert [path.name for path in dataset.parent.iterdir()] == ["shapes"]


def test_files_are_rgb_photographs_and_palette_masks(dataset: Path) -> None:
    for path in (dataset / "JPEGImages").iterdir():
        photograph = Image.open(path)
        assert (photograph.mode, photograph.size) == ("RGB", (SIZE, SIZE))
    for mask in [*read_masks(dataset, "train"), *read_masks(dataset, "val")]:
        assert (mask.mode, mask.size) == ("P", (SIZE, SIZE))
        assert mask.getpalette() == PALETTE
        assert set(np.unique(np.asarray(mask))) <= {0, *range(1, len(CLASSES) + 1), 255}


@pytest.mark.parametrize("split", ["train", "val"])
def test_nine_pictures_hold_every_class(dataset: Path, split: str) -> None:
    labels = {int(label) for mask in read_masks(dataset, split) for label in np.unique(np.asarray(mask))}
    assert labels == {0, *range(1, len(CLASSES) + 1), 255}


def test_pictures_hold_one_to_three_objects() -> None:
    counts = [len(set(np.unique(draw_image(SEED, "train", i, SIZE)[1])) - {0, 255}) for i in range(40)]
    assert set(counts) == {1, 2, 3}


def test_telling_part_is_a_small_piece_of_the_object(pictures) -> None:
    shares = {label: [] for label in range(1, len(CLASSES) + 1)}
    for index, (_, mask, part) in enumerate(pictures):
        label = index % len(CLASSES) + 1
        assert set(np.unique(mask[part])) == {label}
        shares[label].append(part.sum() / (mask == label).sum())
    for values in shares.values():
        assert 0.05 < np.mean(values) < 0.3


def test_objects_vary_in_size(pictures) -> None:
    areas = [((mask != 0) & (mask != 255)).mean() for _, mask, _ in pictures]
    assert np.percentile(areas, 95) > 2 * np.percentile(areas, 5)


def test_bodies_of_a_kind_look_alike(pictures) -> None:
    """Colour and contrast of the body, which a class shares with its kind, must not tell its class."""
    looks: dict[str, list[np.ndarray]] = {}
    for index, (photograph, mask, part) in enumerate(pictures):
        kind = CLASSES[index % len(CLASSES)]
        pixels = photograph[(mask == index % len(CLASSES) + 1) & ~part] / 255
        looks.setdefault(kind.name, []).append(np.concatenate([pixels.mean(0), pixels.std(0)]))
    for one in CLASSES:
        for other in CLASSES:
            if one.name < other.name and one.body == other.body:
                a, b = np.array(looks[one.name]), np.array(looks[other.name])
                error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
                assert (np.abs(a.mean(0) - b.mean(0)) < 4 * error).all()


def test_each_kind_of_body_serves_several_classes_with_parts_of_their_own() -> None:
    kinds = [kind.body for kind in CLASSES]
    assert min(kinds.count(body) for body in kinds) >= 2
    assert len({kind.part for kind in CLASSES}) == len(CLASSES)


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    generate_shapes(tmp_path / "a" / "shapes", train=1, val=1, size=32, seed=0)
    (tmp_path / "empty").mkdir()
    generate_shapes(tmp_path / "empty", train=1, val=1, size=32, seed=0)
    assert read_files(tmp_path / "empty") == read_files(tmp_path / "a" / "shapes")


def test_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="is not empty"):
        generate_shapes(tmp_path, train=1, val=1, size=32, seed=0)
    assert read_files(tmp_path) == {"mine.txt": b"keep"}


@pytest.mark.parametrize(
    "wrong", [{"train": 0}, {"val": 0}, {"size": 31}, {"seed": -1}, {"objects": (0, 2)}, {"objects": (3, 2)}]
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, wrong: dict) -> None:
    arguments = {"train": 1, "val": 1, "size": 32, "seed": 0} | wrong
    with pytest.raises(UserError, match=next(iter(wrong))):
        generate_shapes(tmp_path / "shapes", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("rca.data.shapes.dataset.write_mask", fail)
    with pytest.raises(OSError, match="disk full"):
        generate_shapes(tmp_path / "shapes", train=1, val=1, size=32, seed=0)
    assert list(tmp_path.iterdir()) == []
