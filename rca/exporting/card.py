"""The card of a segmentation network: what it is, what it learned from, how good it is, and who may use it.

It is Markdown below YAML, as Hugging Face's model cards are. What is not known is said to be unknown.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rca.core.files import read_json
from rca.evaluation.metrics import Figures
from rca.evaluation.protocol import EvaluationProtocol, describe_protocol
from rca.prediction.model import Model

KIND = "segmentation"
UNKNOWN = "unknown"
# The figures of a card: their names in our files, in Hugging Face's lists of metrics, and in words.
MEASURES = (
    ("miou", "mean_iou", "mIoU"),
    ("boundary_iou", "boundary_iou", "boundary IoU"),
    ("precision", "precision", "precision"),
    ("recall", "recall", "recall"),
)


@dataclass(frozen=True)
class Evaluation:
    """How a network was scored.

    Attributes:
        splits: The figures of each split, as fractions.
        classes: The IoU of each class by split, NaN for a class that occurs in neither mask.
        protocol: The protocol of these figures.
    """

    splits: Mapping[str, Figures]
    classes: Mapping[str, Mapping[str, float]]
    protocol: EvaluationProtocol


def read_evaluation(folder: Path, sha256: str) -> Evaluation | None:
    """Read what the stage evaluate wrote of a network.

    Args:
        folder: The folder of the results of the network's run and seed.
        sha256: The checksum of the network's file.

    Returns:
        The evaluation; None if there is none, or if it is of another network.
    """
    path = folder / "evaluation.json"
    if not path.is_file() or (written := read_json(path)).get("segmenter_sha256") != sha256:
        return None
    splits: dict[str, Figures] = written["metrics"].get(KIND, {})
    table = pd.read_csv(folder / "per_class.csv", keep_default_na=False, na_values={"iou": ""})
    table = table[(table["kind"] == KIND) & (table["class"] != "mean")]
    classes = {
        str(split): dict(zip(lines["class"], lines["iou"], strict=True)) for split, lines in table.groupby("split")
    }
    protocol: EvaluationProtocol = written["protocol"]
    lists = {split: protocol["lists"][split] for split in splits}
    starts = {name: origin for name, origin in protocol["initialisation"].items() if name == KIND}
    tags = {kind: source for kind, source in protocol["tags"].items() if kind == KIND}
    own: EvaluationProtocol = {**protocol, "lists": lists, "tags": tags, "initialisation": starts}
    return Evaluation(splits, classes, own) if splits else None


def name_model(model: Model) -> str:
    """The name of a model: its run, its dataset and its seed, or that of its file."""
    about = model.description.provenance
    return model.path.stem if about is None else f"{about.run}-{about.dataset}-{about.seed}"


def write_card(model: Model, evaluation: Evaluation | None, licence: str | None) -> str:
    """The whole card.

    Args:
        model: The model.
        evaluation: How it was scored; None if that is not known.
        licence: The licence of the model, e.g. `cc-by-4.0`; None if it is not known.
    """
    front = yaml.safe_dump(describe_front(model, evaluation, licence), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{write_body(model, evaluation, licence)}"


def describe_front(model: Model, evaluation: Evaluation | None, licence: str | None) -> dict[str, object]:
    """What programs read of a card, under Hugging Face's names."""
    front: dict[str, object] = {
        "license": licence or UNKNOWN,
        "library_name": "rca",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", model.description.backbone],
    }
    about = model.description.provenance
    if evaluation is not None and about is not None:
        results = [
            {
                "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
                "dataset": {"type": about.dataset, "name": about.dataset, "split": split},
                "metrics": [
                    {"type": kind, "value": round(value, 6), "name": words}
                    for name, kind, words in MEASURES
                    if (value := figures.get(name)) is not None
                ],
            }
            for split, figures in evaluation.splits.items()
        ]
        front["model-index"] = [dict(name=name_model(model), results=results)]
    return front


def write_body(model: Model, evaluation: Evaluation | None, licence: str | None) -> str:
    """What people read of a card; its arguments are those of `write_card`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, of names and numbers from our own files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = escape_cell
    environment.filters["percent"] = format_percent
    about = model.description
    return environment.get_template("card.md.jinja").render(
        name=name_model(model),
        about=about,
        origin=asdict(about.provenance) if about.provenance else None,
        labels=("background", *about.classes),
        weights=sum(weight.numel() for weight in model.network.parameters()) / 1e6,
        sha256=model.sha256,
        evaluation=evaluation,
        iou=evaluation.classes if evaluation else {},
        measures=MEASURES,
        protocol=describe_protocol(evaluation.protocol) if evaluation else [],
        licence=licence,
    )


def escape_cell(name: str) -> str:
    """A name as the cell of a Markdown table."""
    return name.replace("\\", "\\\\").replace("|", "\\|")


def format_percent(value: float | None) -> str:
    """A fraction in percent; a dash if it is not known, or NaN."""
    return "-" if value is None or pd.isna(value) else f"{100 * value:.1f}"
