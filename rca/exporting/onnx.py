"""A segmentation network as an ONNX file, checked against PyTorch before it is kept.

Its input is `image` (batch, 3, height, width), normalised, its output `logits` (batch, labels, height, width), all of
any size. Its metadata hold, as JSON: `labels` (names in the order of the logits, the background first), `mean` and
`std` (of RGB pixels in 0..1) and `model` (the network's description, provenance and checksum).
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from rca.core.errors import UserError
from rca.core.files import write_file
from rca.prediction.model import Model
from rca.segmentation.network import Segmenter

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
AXES = {0: "batch", 2: "height", 3: "width"}
# Sizes to check: none is that of the export's example, and none a multiple of an output stride.
EXAMPLE = (2, 3, 104, 136)
CHECKED = ((1, 3, 97, 131), (3, 3, 75, 60), (1, 3, 210, 170))
# The most that logits may differ, as a share of the largest logit (or absolutely, if none is above 1).
MOST_DIFFERENCE = 1e-4
LEAST_AGREEMENT = 0.999


@dataclass(frozen=True)
class Agreement:
    """How well an export agrees with PyTorch.

    Attributes:
        difference: The largest difference of logits, as a share of the largest logit if that is above 1.
        pixels: The share of pixels with the same label, 0..1.
    """

    difference: float
    pixels: float


def export_onnx(model: Model, out: Path) -> Agreement:
    """Export a model, and check the export with onnxruntime.

    Args:
        model: The model, on the CPU.
        out: The file, which is written once the check has passed.

    Raises:
        UserError: a package is missing, or the export does not agree with PyTorch.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"The export needs {', '.join(missing)}: install it with `pip install {' '.join(missing)}`.")
    network, about = model.network, model.description
    example = (torch.zeros(EXAMPLE),)
    program = torch.onnx.export(
        network, example, dynamo=True, input_names=["image"], output_names=["logits"], dynamic_shapes=(AXES,),
        external_data=False, verbose=False,
    )  # fmt: skip
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program, as its older exporter does.")
    fields = {"labels": ("background", *about.classes), "mean": about.mean, "std": about.std, "model": model.describe()}
    program.model.metadata_props.update({key: json.dumps(value) for key, value in fields.items()})
    with write_file(out) as temporary:
        program.save(temporary, external_data=False)
        agreement = compare(network, temporary)
        if agreement.difference > MOST_DIFFERENCE or agreement.pixels < LEAST_AGREEMENT:
            raise UserError(
                f"The export of {model.path} does not agree with PyTorch (logits differ by {agreement.difference:.1e}, "
                f"{agreement.pixels:.3%} of pixels have the same label): {out} was not written."
            )
    return agreement


@torch.no_grad()
def compare(network: Segmenter, file: Path) -> Agreement:
    """Run an ONNX file and its network on the same pictures.

    Args:
        network: The network, on the CPU, in evaluation mode.
        file: The export.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    differences, agreeing, pixels = [], 0, 0
    for seed, size in enumerate(CHECKED):
        image = draw_noise(size, seed)
        expected = network(image).numpy()
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        differences.append(float(np.abs(logits - expected).max()) / max(1.0, float(np.abs(expected).max())))
        agreeing += int((logits.argmax(1) == expected.argmax(1)).sum())
        pixels += expected[:, 0].size
    return Agreement(max(differences), agreeing / pixels)


def draw_noise(size: tuple[int, ...], seed: int) -> torch.Tensor:
    """A batch (B, 3, H, W) of coarse and fine noise, as in photographs, with mean 0 and standard deviation 1."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(size)
    for cell in (1, 4, 16):
        side = (size[2] // cell + 1, size[3] // cell + 1)
        cells = torch.randn(*size[:2], *side, generator=random)
        total += functional.interpolate(cells, size[2:], mode="bilinear")
    return (total - total.mean()) / total.std()
