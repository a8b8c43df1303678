"""A memory bank in pictures: its entries on a plane, and the regions nearest to each class's centres."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from rca.core.arrays import Float32Array, Float64Array, FloatArray, UInt8Array
from rca.evaluation.memory_statistics import Snapshot, find_centroids

# t-SNE is meaningless for fewer distinct entries, and takes minutes for many more.
FEWEST, MOST = 10, 1500
PERPLEXITY = 30
# The most prototypes of a class, and the most regions of a prototype.
PROTOTYPES, REGIONS = 4, 4
CENTROID = "centroid"


def place_entries(snapshot: Snapshot) -> pd.DataFrame:
    """Map the bank's entries to a plane, similar ones close together.

    The map is t-SNE's (van der Maaten & Hinton, 2008), or the two principal components of a few entries. At most `MOST`
    entries are placed, at equal steps over the bank. The result does not depend on the number of cores.

    Returns:
        A line for each entry: `x`, `y`, `class`, `image` (its id, "" if unknown) and `epoch` (counted from 0).
    """
    rows, slots = snapshot.filled.nonzero()
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).round().astype(np.int64))
    rows, slots = rows[chosen], slots[chosen]
    places = _reduce(snapshot.entries[rows, slots])
    return pd.DataFrame(
        {
            "x": places[:, 0],
            "y": places[:, 1],
            "class": [snapshot.classes[row] for row in rows],
            "image": [snapshot.name_image(row, slot) for row, slot in zip(rows.tolist(), slots.tolist(), strict=True)],
            "epoch": snapshot.epoch[rows, slots],
        }
    )


def _reduce(entries: Float32Array) -> FloatArray:
    """The places (M, 2) of entries (M, D) on the plane."""
    distinct = len(np.unique(entries, axis=0))
    if distinct >= FEWEST and entries.shape[1] > 1:
        from sklearn.manifold import TSNE  # takes a second to import

        perplexity = min(PERPLEXITY, (distinct - 1) / 3)
        # Several threads add up in another order, and t-SNE amplifies the last digits.
        with threadpool_limits(1):
            return np.asarray(
                TSNE(init="pca", random_state=0, perplexity=perplexity).fit_transform(entries), np.float32
            )
    plane = np.zeros((len(entries), 2))
    if len(entries):
        left, scale, _ = np.linalg.svd(entries - entries.mean(0), full_matrices=False)
        components = (left * scale)[:, :2]
        plane[:, : components.shape[1]] = components
    return plane


def choose_regions(snapshot: Snapshot) -> tuple[pd.DataFrame, UInt8Array]:
    """Choose the regions nearest to each class's prototypes, or to its centroid if it has no prototypes.

    The prototypes with the most entries are chosen, and for each at most one region of an image.

    Returns:
        A line for each region, the nearest first: `class`; `centre`, "centroid" or the prototype's number from 1;
        `entries`, the number of the class's entries nearest to that centre; `image`, its id; `epoch`, counted from 0;
        `cosine` to the centre; `left`, `top`, `right`, `bottom`, in pixels of the photograph. And the regions,
        (M, 16, 16), uint8.
    """
    lines, regions = [], []
    for row, name in enumerate(snapshot.classes):
        slots = snapshot.filled[row].nonzero()[0]
        for centre, members, likeness in _rank_centres(snapshot, row) if len(slots) else ():
            order = np.argsort(-likeness, kind="stable")
            order = order[snapshot.image[row, slots[order]] >= 0]  # the others have no photograph
            _, first = np.unique(snapshot.image[row, slots[order]], return_index=True)
            for place in order[np.sort(first)][:REGIONS]:
                slot = slots[place]
                box = dict(zip(("left", "top", "right", "bottom"), snapshot.box[row, slot].tolist(), strict=True))
                image, epoch = snapshot.name_image(row, slot), int(snapshot.epoch[row, slot])
                about = {"class": name, "centre": centre, "entries": members, "image": image, "epoch": epoch}
                lines.append({**about, "cosine": likeness[place], **box})
                regions.append(snapshot.region[row, slot])
    columns = ["class", "centre", "entries", "image", "epoch", "cosine", "left", "top", "right", "bottom"]
    return pd.DataFrame(lines, columns=columns), np.array(regions, np.uint8).reshape(-1, *snapshot.region.shape[2:])


def _rank_centres(snapshot: Snapshot, row: int) -> Iterator[tuple[str, int, Float64Array]]:
    """A class's centres: the name, the number of nearest entries, and each entry's cosine to it (fill,)."""
    entries = snapshot.read_row(row)
    usable = snapshot.usable[row].nonzero()[0] if row < len(snapshot.usable) else np.empty(0, np.int64)
    if not len(usable):
        yield CENTROID, len(entries), entries @ find_centroids(snapshot)[row]
        return
    prototypes = snapshot.prototypes[row, usable].astype(np.float64)
    prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-12)
    likeness = entries @ prototypes.T
    members = np.bincount(likeness.argmax(1), minlength=len(usable))
    for index in np.argsort(-members, kind="stable")[:PROTOTYPES]:
        yield str(usable[index] + 1), int(members[index]), likeness[:, index]
