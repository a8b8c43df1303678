"""A model as a folder for Hugging Face's hub, whose card their own library reads, and back."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from segmenters import PROVENANCE, build, write_model

import rca
from rca.cli.main import main
from rca.core.errors import UserError
from rca.core.files import hash_file, write_json
from rca.exporting.hub import export_hub
from rca.prediction.model import load_model

RUN = Path("runs/pets/rca/3")
SCORED = Path("runs/pets/evaluation/rca-3")
FIGURES = {"images": 4, "miou": 0.375, "boundary_iou": 0.25, "precision": 0.5, "recall": None}
PROTOCOL = {
    "lists": {name: {"images": 4, "sha256": "0123456789abcdef"} for name in ("train", "val")},
    "tags": {"seed": "given", "segmentation": "none"},
    "tag_threshold": None,
    "predicted_ignore": "count_as_error",
    "best_on": "train",
    "boundary_distance": 0.02,
    "supervision": "tags",
    "initialisation": {"classification": "theirs", "segmentation": "small (from scratch)"},
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model where the pipeline puts it, with names of classes to look out for."""
    monkeypatch.chdir(tmp_path)
    RUN.mkdir(parents=True)
    return write_model(RUN / "segmenter.safetensors", build(classes=("a", "b|c", "NA"), provenance=PROVENANCE))


def evaluate(model: Path) -> None:
    """Put down what the stage evaluate writes."""
    SCORED.mkdir(parents=True)
    metrics = {"seed": {"train": {"best": {"miou": 0.1}}}, "segmentation": {"val": FIGURES}}
    about = {"metrics": metrics, "protocol": PROTOCOL, "segmenter_sha256": hash_file(model)}
    write_json(SCORED / "evaluation.json", about)
    lines = [("seed", "train", "a", 0.9), *(("segmentation", "val", *each) for each in zip(
        ("background", "a", "b|c", "NA", "mean"), (0.5, 0.125, None, 0.75, 0.375), strict=True))]  # fmt: skip
    table = pd.DataFrame(lines, columns=["kind", "split", "class", "iou"])
    table.to_csv(SCORED / "per_class.csv", index=False)


def test_the_folder_predicts_what_the_file_predicts(model: Path) -> None:
    assert main(["export", "hub", str(model), "shared"]) == 0
    shutil.rmtree("runs")  # the folder is all that it takes
    assert sorted(path.name for path in Path("shared").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    image = np.random.default_rng(0).integers(0, 256, (45, 58, 3)).astype(np.uint8)
    write_model(Path("again.safetensors"), build(classes=("a", "b|c", "NA"), provenance=PROVENANCE))
    expected, found = (rca.load(path, "cpu").predict(image) for path in ("again.safetensors", "shared"))
    assert (found.mask == expected.mask).all()
    assert (found.confidence == expected.confidence).all()
    config = json.loads(Path("shared/config.json").read_text())
    assert config["id2label"] == {"0": "background", "1": "a", "2": "b|c", "3": "NA"}
    assert config["sha256"] == hash_file(Path("again.safetensors"))


def test_their_library_reads_the_metrics_of_the_card(model: Path) -> None:
    evaluate(model)
    assert main(["export", "hub", str(model), "shared", "--licence", "cc-by-4.0"]) == 0
    card = ModelCard.load("shared/README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("cc-by-4.0", "image-segmentation")
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {kind: result.metric_value for kind, result in results.items()} == {
        "mean_iou": 0.375,
        "boundary_iou": 0.25,
        "precision": 0.5,
    }
    assert {(result.dataset_name, result.dataset_split) for result in results.values()} == {("pets", "val")}
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in card.text.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row[0] in {"0", "1", "2", "3"}] == [
        ["0", "background", "50.0"],
        ["1", "a", "12.5"],
        ["2", "b\\|c", "-"],
        ["3", "NA", "75.0"],
    ]
    assert ["val", "4", "37.5", "25.0", "50.0", "-"] in rows
    assert "Scored on val (4 images, list 01234567)." in card.text
    assert "theirs" not in card.text
    assert "unknown to the pipeline" in card.text  # the licence of the photographs


@pytest.mark.parametrize("changed", ["file", "gone", "elsewhere"])
def test_what_is_not_known_is_unknown(model: Path, changed: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(model)
    if changed == "file":  # trained again, and not scored since
        write_model(model, build("deeplab_v1", classes=("a", "b|c", "NA"), provenance=PROVENANCE))
    elif changed == "gone":
        shutil.rmtree(SCORED)
    else:
        model = model.rename("segmenter.safetensors")
    assert main(["export", "hub", str(model), "shared"]) == 0
    assert capsys.readouterr().out.endswith("; its card says that metrics and licence are unknown\n")
    card = ModelCard.load("shared/README.md")
    assert card.data.license == "unknown"
    assert not card.data.eval_results
    assert "Unknown: there is no evaluation of this very file beside it." in card.text
    assert "Of the model: unknown." in card.text


def test_a_model_of_no_pipeline_has_a_card_too(tmp_path: Path) -> None:
    path = write_model(tmp_path / "mine.safetensors", build())
    export_hub(load_model(path), tmp_path / "shared", None, None)
    text = (tmp_path / "shared/README.md").read_text()
    assert "# mine\n" in text
    assert "Unknown: the file does not say what it was trained on." in text
    assert "| run, seed, version, code | unknown |" in text


def test_the_card_is_printed_without_a_folder(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(model)
    assert main(["inspect", "model", str(model)]) == 0
    printed = capsys.readouterr().out
    assert main(["export", "hub", str(model), "shared"]) == 0
    assert ModelCard.load("shared/README.md").text.strip() == printed.strip()


def test_a_folder_that_is_not_whole_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "hub", str(model), "shared"]) == 0
    assert main(["export", "hub", str(model), "shared"]) == 2
    assert "shared exists: name another folder, or replace it with --force." in capsys.readouterr().err
    assert main(["export", "hub", str(model), "shared", "--force"]) == 0
    write_model(Path("shared/model.safetensors"), build("deeplab_v1"))
    with pytest.raises(UserError, match=r"shared/config\.json is of other weights than model\.safetensors beside it"):
        rca.load("shared")
    Path("shared/config.json").write_text("[1]")
    with pytest.raises(UserError, match="is of other weights"):
        rca.load("shared")
    Path("shared/config.json").unlink()
    with pytest.raises(UserError, match=r"The folder shared holds no config\.json"):
        rca.load("shared")
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        rca.load("runs")
