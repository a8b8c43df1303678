"""A dataset that grows: what new photographs make run again, under both engines."""

import shutil
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import (
    ROOT,
    SMALL_NETS,
    RealProject,
    build_once,
    build_real,
    copy_project,
    make_folder,
    name_photograph,
    write_tags,
)

from rca.core.files import write_mask
from rca.data.partition import assign_shard
from rca.data.shapes.dataset import CLASS_NAMES, draw_image

SHARDS, TRAINED, HELD_OUT, NEW = 3, 18, 8, 20
TOUCHED = {0, 2}  # the shards that the new ones fall into
PER_SHARD = ("make_cam", "walk_scores", "make_pseudo", "refine_crf")
TRAINING = ("train_cam", "snapshot_memory", "train_affinity", "train_seg")
SETTINGS = {
    "runs": "[rca]",
    "run.rca": "{method: rca}",
    **SMALL_NETS,
    "shards": str(list(range(SHARDS))),
    "make_cam.inference.scales": "[1.0]",
    "train_affinity": "{optimisation: {epochs: 1}, augmentation: {crop: 48}}",
    "walk_scores": "{enabled: true, walk: {steps: 16}}",
    "evaluate.seed": "[train]",
}


def write_photographs(root: Path, new: int = 0) -> list[str]:
    """A folder with masks and saliency maps for what is trained on, and held-out photographs, of which some are new.

    Returns:
        The ids of the new ones.
    """
    shutil.rmtree(root, ignore_errors=True)
    further = (one for one in count(TRAINED + HELD_OUT) if assign_shard(name_image(one), SHARDS) in TOUCHED)
    rows = make_folder(root, [*range(TRAINED + HELD_OUT), *islice(further, new)])
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))  # in the order of the masks' labels
    splits = ["train"] * TRAINED + ["val"] * (len(rows) - TRAINED)
    write_tags(root, ("id", "tags", "split"), [(*row, split) for row, split in zip(rows, splits, strict=True)])
    for number, (name, _) in enumerate(rows[:TRAINED]):
        mask = draw_image(1, "train", number, 48, (1, 2))[1]
        for folder, content in (("masks", mask), ("saliency", np.where(mask > 0, 255, 0).astype(np.uint8))):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)
    return [name_image(int(Path(name).name)) for name, _ in rows[TRAINED + HELD_OUT :]]


def name_image(number: int) -> str:
    return name_photograph(number).replace("/", "--")


@pytest.fixture(scope="module")
def template(dvc_caches: None, tmp_path_factory: pytest.TempPathFactory) -> RealProject:
    def build(folder: Path) -> None:
        project = build_real(folder)
        root = project.path / "data/mine"
        write_photographs(root)
        text = (ROOT / "workflow/presets/folder.yaml").read_text()
        (project.path / "workflow/presets/folder.yaml").write_text(text.replace("links:\n  mine: $PHOTOS\n", ""))
        arguments = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        project.rca("preset", "folder", *arguments, "--force")
        project.repro()
        project.commit("finished")
        project.list_ran()

    folder = build_once(tmp_path_factory, "growth", build)
    return RealProject(folder / "project", folder / "outside")


def read_masks(project: RealProject) -> dict[str, bytes]:
    root = project.path / "runs/mine/rca/0"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("masks/refined/*/*/*.png")}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["repro", "snakemake"])
def test_new_photographs_are_labelled_and_nothing_else(template: RealProject, tmp_path: Path, engine: str) -> None:
    project = copy_project(template, tmp_path)
    before = read_masks(project)
    new = write_photographs(project.path / "data/mine", new=NEW)
    assert {assign_shard(image_id, SHARDS) for image_id in new} == TOUCHED
    getattr(project, engine)()
    ran = project.list_ran()
    for stage in PER_SHARD:
        assert {name for name in ran if name.startswith(f"{stage}@")} == {f"{stage}@rca-0-{one}" for one in TOUCHED}
    assert {name for name in ran if name.startswith("pin_scores@")} == {f"pin_scores@rca-0-{one}" for one in TOUCHED}
    assert {"choose_threshold@rca-0", "pin_masks@rca-0"} <= set(ran)
    assert not [name for name in ran if name.startswith(TRAINING)]
    after = read_masks(project)
    assert {name: after[name] for name in before} == before
    assert {Path(name).stem for name in after} - {Path(name).stem for name in before} == set(new)
    project.list_ran()
    getattr(project, engine)()
    assert project.list_ran() == []


@pytest.mark.slow
def test_new_masks_and_saliency_maps_relabel_and_rescore_but_train_nothing(
    template: RealProject, tmp_path: Path
) -> None:
    project = copy_project(template, tmp_path)
    root = project.path / "data/mine"
    path = next((root / "masks").glob("*.png"))
    mask = draw_image(1, "train", int(path.stem), 48, (1, 2))[1]
    mask[16:32] = 255
    write_mask(path, mask)
    map_file = next((root / "saliency").glob("*.png"))
    Image.fromarray(np.full((48, 48), 128, np.uint8)).save(map_file)
    project.repro()
    ran = project.list_ran()
    shard = assign_shard(name_image(int(map_file.stem)), SHARDS)
    expected = {"prepare_data", "choose_threshold@rca-0", f"make_pseudo@rca-0-{shard}", "evaluate@rca-0"}
    assert expected <= set(ran)
    untouched = ("cache_features", "train_cam", "snapshot_memory", "make_cam", "pin_scores", "train_affinity", "walk")
    assert not [name for name in ran if name.startswith(untouched)]
