"""The mean of several score maps of an image."""

from collections.abc import Sequence

import numpy as np

from rca.core.errors import UserError
from rca.labels.score_maps import ScoreMaps


def average_maps(maps: Sequence[ScoreMaps]) -> ScoreMaps:
    """The mean of an image's maps and logits, computed in float32.

    Args:
        maps: The maps, at least one, of the same labels and size.

    Raises:
        UserError: their labels or sizes differ.
    """
    first, *others = maps
    for other in others:
        if not np.array_equal(other.labels, first.labels) or other.scores.shape != first.scores.shape:
            raise UserError(
                f"Score maps of {other.scores.shape} cannot be averaged with those of {first.scores.shape}: run"
                " make_cam again for all members of the ensemble."
            )
    scores = np.mean([one.scores.astype(np.float32) for one in maps], axis=0).astype(np.float16)
    return ScoreMaps(first.labels, scores, np.mean([one.logits for one in maps], axis=0, dtype=np.float32))
