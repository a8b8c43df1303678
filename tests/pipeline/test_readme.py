"""The commands of the user's pages, run in their order: those for a folder and for VOC on generated miniatures."""

import re
import shutil
from pathlib import Path

import pytest
from projects import ROOT, SMALL, SMALL_NETS, RealProject, build_real, make_folder

from rca.data.shapes.dataset import generate_shapes

# What sets up or tests this very environment, needs a cluster, or only says where Python is.
PAGES = ("photographs", "published_datasets", "running", "results")
ELSEWHERE = ("make run", "make test", "make setup", "source ", "snakemake --profile profiles/slurm")


def list_commands(*files: str) -> list[str]:
    """The command lines of the shell blocks of pages, without comments; blocks of `sh` need data of one's own."""
    text = "\n".join((ROOT / file).read_text() for file in files)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(ELSEWHERE)]


def make_voc(root: Path) -> None:
    """A miniature of VOC 2012 with SBD's masks: trainaug holds train, and masks of its own for the rest."""
    generate_shapes(root, train=24, val=12, size=48, seed=0, objects=(1, 2))
    (root / "classes.txt").unlink()
    lists, masks = root / "ImageSets" / "Segmentation", root / "SegmentationClass"
    augmented = root / "SegmentationClassAug"
    augmented.mkdir()
    names = (lists / "train.txt").read_text().split()
    (lists / "trainaug.txt").write_text("\n".join(names) + "\n")
    (lists / "train.txt").write_text("\n".join(names[::2]) + "\n")
    for name in names[1::2]:
        shutil.move(masks / f"{name}.png", augmented)


def shrink_preset(project: RealProject, name: str, values: dict[str, str]) -> None:
    """Make a preset so small that its commands take seconds; its keys stay."""
    project.rca(
        "preset", name, *(part for key, value in values.items() for part in ("--set", f"{key}={value}")), "--force"
    )
    shutil.copy(project.path / "params.yaml", project.path / "workflow" / "presets" / f"{name}.yaml")


def list_all() -> list[str]:
    return list_commands(*(f"docs/{page}.md" for page in PAGES))


def test_every_command_is_found() -> None:
    commands = set(list_all())
    assert commands >= {"rca preset folder", "rca preset voc2012", "dvc repro", "dvc metrics diff", "rca clean"}
    assert commands >= set(list_commands("README.md"))


@pytest.mark.slow
def test_commands_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = build_real(tmp_path)
    make_voc(tmp_path / "VOCdevkit" / "VOC2012")
    make_folder(tmp_path / "photographs", range(30))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VOC_ROOT", str(tmp_path / "VOCdevkit"))
    monkeypatch.setenv("PHOTOS", str(tmp_path / "photographs"))
    shrink_preset(project, "voc2012", SMALL_NETS)
    shrink_preset(project, "folder", SMALL_NETS)
    shrink_preset(project, "shapes", SMALL)
    project.snakemake()
    project.commit("shapes, before anything is changed")
    script = "\n".join(["set -ex", *list_all()])
    printed = project.run("bash", "-c", script, timeout=1200)
    for line in ("data/mine: val: ", "data/voc2012: trainaug: 24 images"):  # rca check has read the miniatures
        assert line in printed
    assert len(list(project.path.glob("runs/mine/rca/0/masks/refined/*/best/trip--*.png"))) == 20
    for path in (
        "runs/mine/report/index.html",
        "results/voc2012/table.md",
        "runs/voc2012/report/index.html",
        "dvc_plots/index.html",
        "predictions/overlays/val_00003.jpg",
        "masks.json",
        "to_correct/SegmentationClass/train_00003.png",
        "model.onnx",
    ):
        assert (project.path / path).is_file(), path
    difference = printed.split("+ dvc metrics diff")[1].split("+ dvc plots show")[0]
    assert "refined." in difference  # the CRF's iterations changed the refined masks ...
    assert "seed." not in difference  # ... and not what comes before them
