"""Pixel counts of each image and label, from which the IoU of single images and intervals over images follow."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rca.core.arrays import Int64Array
from rca.evaluation.masks import Key
from rca.evaluation.metrics import Confusion

COUNTS = ("hit", "truth", "predicted", "undecided")
# The names of a key's parts in tables.
NAMES = {"kind": "kind", "split": "split", "threshold": "choice"}
COLUMNS = (*NAMES, "image", "label", *COUNTS)


def count_labels(confusion: Confusion) -> Int64Array:
    """The pixels of each label that an image's truth or mask has.

    Args:
        confusion: The confusion matrix of the image alone.

    Returns:
        (N, 5), int64: the label, and its pixels in both; in the truth; in the mask; and in the truth where the mask is
        undecided.
    """
    pixels = confusion.counts
    truth, predicted = pixels.sum(1), pixels[:, :-1].sum(0)
    labels = np.flatnonzero(truth + predicted)
    columns = (labels, np.diagonal(pixels)[labels], truth[labels], predicted[labels], pixels[labels, -1])
    return np.stack(columns, 1)


def list_images(images: Mapping[Key, Sequence[tuple[str, Int64Array]]]) -> pd.DataFrame:
    """A table with a line for each kind of mask, split, threshold, image and label, in `COLUMNS`.

    Args:
        images: For each kind of masks the images, each with its pixels from `count_labels`.
    """
    found = [(key, name, pixels) for key, lines in images.items() for name, pixels in lines]
    repeats = [len(pixels) for _, _, pixels in found]
    names = {
        **{name: [getattr(key, field) for key, _, _ in found] for name, field in NAMES.items()},
        "image": [image for _, image, _ in found],
    }
    columns = {name: np.repeat(np.array(values, object), repeats) for name, values in names.items()}
    pixels = np.concatenate([pixels for _, _, pixels in found]) if found else np.empty((0, 5), np.int64)
    numbers = dict(zip(("label", *COUNTS), pixels.T, strict=True))
    return pd.DataFrame({**columns, **numbers}, columns=list(COLUMNS))
