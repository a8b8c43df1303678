"""`rca doctor`, and what `rca check` asks of the machine."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rca.cli import doctor
from rca.cli.main import main
from rca.core.errors import UserError
from rca.core.settings import load_params
from rca.models import probing
from rca.models.probing import probe_weights
from rca.models.weights import BackboneSettings, TorchvisionWeights
from rca.params.read import read_params

SHAPES = Path(__file__).parents[2] / "workflow/presets/shapes.yaml"
RESNET = BackboneSettings(name="resnet50", weights=TorchvisionWeights(source="torchvision", name="IMAGENET1K_V1"))

NO_CRF = {"refine_crf": {"enabled": False}, "evaluate": {"refined": []}, "train_seg": {"masks": "pseudo"}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write the params of the preset shapes, with changes to their top keys; no network, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(request: Any, timeout: float) -> None:
        raise OSError(f"no route to {request.host}")

    monkeypatch.setattr(probing, "urlopen", refuse)

    def write(**changes: Any) -> None:
        Path("params.yaml").write_text(yaml.safe_dump({**load_params(SHAPES), **changes}))

    return write


def set_backbone(section: str) -> dict[str, Any]:
    data = load_params(SHAPES)[section]
    data["backbone"] = {"name": "resnet50", "weights": {"source": "torchvision", "name": "IMAGENET1K_V1"}}
    return {section: data}


def test_a_sound_project_has_all_it_needs(project: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    project()
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for what in ("system", "torch", "dvc", "snakemake", "pydensecrf2", "git", "C++ compiler", "memory", "disk"):
        assert any(line.startswith(f"{what} ") for line in lines), what
    assert any(line.startswith("GPU") for line in lines)
    assert "weights of the classifier  ok       small (from scratch)" in lines
    assert not any("MISSING" in line for line in lines)


def test_an_author_that_git_does_not_know_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    found = doctor.find_author()
    assert found.found == "unknown"
    assert "`dvc exp run`" in found.problem
    assert not found.stops
    (tmp_path / "gitconfig").write_text("[user]\n\temail = a@b.c\n")
    assert doctor.find_author() == doctor.Finding("git's author", "a@b.c")


@pytest.mark.parametrize("section", ["train_cam", "train_seg"])
def test_weights_that_cannot_be_fetched_stop_the_check(
    project: Callable[..., None], capsys: pytest.CaptureFixture[str], section: str
) -> None:
    project(**set_backbone(section))
    assert main(["check"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: The weights IMAGENET1K_V1 of resnet50 are not here, and https://download.pytorch.org"
    )
    assert "no route to download.pytorch.org" in error
    assert "rca init --weights FILE" in error
    assert main(["doctor"]) == 1
    name = {"train_cam": "classifier", "train_seg": "segmenter"}[section]
    assert f"weights of the {name}" in next(x for x in capsys.readouterr().out.splitlines() if "MISSING" in x)


def test_weights_of_a_network_that_no_run_has_are_not_missed(project: Callable[..., None]) -> None:
    evaluate = {**load_params(SHAPES)["evaluate"], "segmentation": []}
    project(**{"train_seg": {**set_backbone("train_seg")["train_seg"], "enabled": False}, "evaluate": evaluate})
    assert main(["check"]) == 0


def test_weights_in_the_cache_or_fetched_before_are_found(project: Callable[..., None], tmp_path: Path) -> None:
    made = tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match="are not here"):
        probe_weights(RESNET, made)
    cached = tmp_path / "hub/checkpoints/resnet50-0676ba61.pth"  # torchvision's name of this file
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert probe_weights(RESNET, made) == f"resnet50 (torchvision IMAGENET1K_V1), in {cached}"
    made.touch()
    assert probe_weights(RESNET, made) == f"resnet50 (torchvision IMAGENET1K_V1), in {made}"


def test_weights_that_torchvision_does_not_have_are_told(tmp_path: Path) -> None:
    unknown = BackboneSettings(name="resnet50", weights=TorchvisionWeights(source="torchvision", name="IMAGENET22K"))
    with pytest.raises(
        UserError, match="torchvision has no weights IMAGENET22K for resnet50: choose one of IMAGENET1K_V1"
    ):
        probe_weights(unknown, tmp_path / "x")


def test_memory_that_the_machine_lacks_is_a_warning(
    project: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    project(resources={"train_seg": {"gpu": 1, "mem_mb": 1 << 26, "runtime": 1}})
    assert main(["check"]) == 0
    assert "warning: resources.train_seg.mem_mb is 67108864, but this machine has" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("snakemake", "snakemake is not installed: pip install snakemake."),
        (
            "pydensecrf",
            "pydensecrf2 is not installed: pip install 'rca[crf]' (it takes a C++ compiler), or set refine_crf.enabled"
            " to false.",
        ),
    ],
)
def test_a_package_that_is_missing_stops_the_check(
    project: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    sentence: str,
) -> None:
    find = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == package else find(name))
    project()
    assert main(["check"]) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_scikit_image_is_asked_for_only_where_superpixels_are(
    project: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "skimage" else find(name))
    project()
    assert main(["check"]) == 0
    project(refine_crf={"segments": {"kind": "slic"}})
    assert main(["check"]) == 2
    assert capsys.readouterr().err == (
        "error: scikit-image is not installed: pip install 'rca[segments]', or set refine_crf.segments to null.\n"
    )


@pytest.mark.parametrize(
    ("sections", "asked"),
    [
        (NO_CRF, []),
        ({"refine_crf": {"segments": {"kind": "stored"}}}, []),
        ({**NO_CRF, "walk_scores": {"enabled": True}}, ["train_affinity.labels.crf to null"]),
        ({**NO_CRF, "predict_seg": {"prediction": {"crf": {}}}}, ["predict_seg.prediction.crf to null"]),
        (
            {"predict_seg": {"prediction": {"crf": {}}}},
            ["refine_crf.enabled to false", "predict_seg.prediction.crf to null"],
        ),
        (
            {
                **NO_CRF,
                "predict_seg": {"prediction": {"crf": {}}},
                "train_seg": {"enabled": False},
                "evaluate": {"refined": [], "segmentation": []},
            },
            [],
        ),
        ({"runs": ["full"], "run": {"full": {"supervision": "masks"}}}, []),
        (
            {
                "runs": ["cam", "again"],
                "run": {"cam": {}, "again": {"masks_from": "cam", "train_seg": {"masks": "relabelled"}}},
                "relabel_masks": {"prediction": {"crf": {}}},
            },
            ["refine_crf.enabled to false", "relabel_masks.prediction.crf to null"],
        ),
    ],
)
def test_a_crf_is_needed_only_where_it_is_asked_for(
    project: Callable[..., None], sections: dict[str, object], asked: list[str]
) -> None:
    project(**sections)
    assert doctor.list_crfs(read_params()) == asked


def test_params_that_are_not_valid_are_told_among_the_rest(
    project: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    project(sedes=[0])
    assert main(["doctor"]) == 1
    assert "sedes is an unknown key" in capsys.readouterr().out


def test_without_a_compiler_there_is_a_note(
    project: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: which(name) if name == "git" else None)
    assert main(["doctor"]) == 0
    assert "C++ compiler  note" in capsys.readouterr().out
