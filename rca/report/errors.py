"""The report's section on errors: what each kind of error costs a class, and which classes are taken for others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd

from rca.evaluation.errors import KINDS, MEANINGS, NUMBERS, PARTS, SIZES
from rca.evaluation.protocol import KIND_NAMES

# Heads of the groups of lines on the page.
GROUPS = {"class": "class", "size": "size of the object", "classes_shown": "classes in the image"}
SIZE_NAMES = {
    "absent": "not in the image",
    "small": f"small, under {SIZES['medium']:.0%} of the image",
    "medium": "medium",
    "large": f"large, from {SIZES['large']:.0%} of the image",
}


# What the page tells apart, each with its kinds of pixels. The wrong class is both ways round: an object taken for
# another class, and the class where an object of another one is.
SHOWN = {
    "right": ("hit",),
    "missed": ("missed",),
    "too small": ("too_small",),
    "undecided": ("undecided",),
    "wrong class": ("confused", "taken"),
    "too large": ("too_large",),
    "leaked": ("leaked",),
}


@dataclass(frozen=True)
class ErrorTables:
    """What `evaluate` wrote on the errors of one run and seed.

    Attributes:
        errors: From `rca.evaluation.errors.list_errors`.
        confusion: From `rca.evaluation.figures.list_confusion`.
    """

    errors: pd.DataFrame
    confusion: pd.DataFrame


class MaskErrors(TypedDict):
    """The errors of one run's masks of a kind, on one split, of all seeds together.

    Attributes:
        run: The run's number.
        masks: The kind and the split, e.g. "segmentation, val".
        groups: For each of `GROUPS`, the pixels of each of its lines by `rca.evaluation.errors.KINDS`.
        confusion: True label, predicted label (255: undecided) and pixels of each entry that is not 0.
    """

    run: int
    masks: str
    groups: list[list[list[int]]]
    confusion: list[list[int]]


class Errors(TypedDict):
    """The data from which the page's script builds the section.

    Attributes:
        kinds: `rca.evaluation.errors.KINDS`.
        shown: The names of `SHOWN`, each with its kinds and its meaning.
        classes: Names of the classes by label, the background first.
        run_names: Names of the runs.
        groups: The groups of lines, each with its head and the names of its lines.
        ignored: Whether undecided pixels are left out.
        tables: The masks, later kinds first.
    """

    kinds: list[str]
    shown: list[tuple[str, list[str], str]]
    classes: list[str]
    run_names: list[str]
    groups: list[tuple[str, list[str]]]
    ignored: bool
    tables: list[MaskErrors]


def arrange_errors(results: Mapping[str, Sequence[ErrorTables]], classes: Sequence[str], ignored: bool) -> Errors:
    """Collect the pixels of all masks at the best threshold, or without one.

    Args:
        results: The tables of each run's seeds.
        classes: The C object classes.
        ignored: Whether undecided pixels are left out.
    """
    lines = {"class": list(classes), "size": list(SIZES), "classes_shown": list(NUMBERS)}
    names = {"class": list(classes), "size": list(SIZE_NAMES.values()), "classes_shown": list(NUMBERS)}
    order = {kind: -number for number, kind in enumerate(KIND_NAMES)}
    tables: list[MaskErrors] = []
    for number, seeds in enumerate(results.values()):
        errors = choose_best(pd.concat([each.errors for each in seeds]))
        confusion = choose_best(pd.concat([each.confusion for each in seeds]))
        scored = dict.fromkeys(zip(confusion["kind"], confusion["split"], strict=True))
        for kind, split in sorted(scored, key=lambda masks: order[masks[0]]):
            wrong, entries = (choose_masks(table, kind, split) for table in (errors, confusion))
            groups = [sum_lines(wrong, part, lines[part]) for part in PARTS]
            pixels = entries.groupby(["truth", "predicted"])["pixels"].sum().reset_index()
            masks = f"{KIND_NAMES[kind]}, {split}"
            tables.append({"run": number, "masks": masks, "groups": groups, "confusion": pixels.to_numpy().tolist()})
    return {
        "kinds": list(KINDS),
        "shown": [(name, list(kinds), "; or ".join(MEANINGS[kind] for kind in kinds)) for name, kinds in SHOWN.items()],
        "classes": ["background", *classes],
        "run_names": list(results),
        "groups": [(GROUPS[part], names[part]) for part in PARTS],
        "ignored": ignored,
        "tables": tables,
    }


def choose_best(table: pd.DataFrame) -> pd.DataFrame:
    """The lines that are not of the fixed threshold."""
    return table[table["threshold"].fillna("") != "fixed"]


def choose_masks(table: pd.DataFrame, kind: str, split: str) -> pd.DataFrame:
    """The lines of a kind of masks on a split."""
    return table[(table["kind"] == kind) & (table["split"] == split)]


def sum_lines(wrong: pd.DataFrame, part: str, names: Sequence[str]) -> list[list[int]]:
    """The pixels of each named line of a part, by `KINDS`."""
    sums = wrong.groupby(wrong[part].astype(str))[list(KINDS)].sum()
    lines: list[list[int]] = np.asarray(sums.reindex(names, fill_value=0), np.int64).tolist()
    return lines
