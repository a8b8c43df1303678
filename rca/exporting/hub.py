"""A model as a folder in the layout of Hugging Face's hub: README.md (its card), config.json and model.safetensors.

`rca.load` and `rca predict` take the folder in place of the file. The weights are the model's own file, byte for byte.
"""

import shutil
from dataclasses import asdict
from pathlib import Path

from rca.core.files import write_directory, write_json, write_text
from rca.exporting.card import Evaluation, write_card
from rca.prediction.model import CONFIG, WEIGHTS, Model

CARD = "README.md"


def export_hub(model: Model, out: Path, evaluation: Evaluation | None, licence: str | None) -> None:
    """Write the folder, whole or not at all.

    Args:
        model: The model.
        out: The folder, which is replaced if it exists.
        evaluation: As for `rca.exporting.card.write_card`.
        licence: As for `rca.exporting.card.write_card`.
    """
    with write_directory(out) as folder:
        write_text(folder / CARD, write_card(model, evaluation, licence))
        write_json(folder / CONFIG, describe_config(model))
        shutil.copyfile(model.path, folder / WEIGHTS)


def describe_config(model: Model) -> dict[str, object]:
    """What programs ask of a model before they fetch its weights."""
    labels = ("background", *model.description.classes)
    return {
        "model_type": "rca_segmenter",
        "id2label": {str(label): name for label, name in enumerate(labels)},
        "label2id": {name: label for label, name in enumerate(labels)},
        "sha256": model.sha256,
        "description": asdict(model.description),
    }
