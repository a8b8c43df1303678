"""The command `rca suspect`: rank a run's masks by how far they are to be doubted, with or without true masks."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from rca.cli.run_masks import choose_run, list_seeds, open_masks
from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, read_mask, write_directory, write_text
from rca.core.progress import track
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.evaluation.masks import Masks
from rca.evaluation.protocol import KIND_NAMES
from rca.evaluation.suspicion import (
    SUSPECTED,
    WORST,
    Judged,
    Opinions,
    Validation,
    agree,
    examine,
    rank,
    validate,
)
from rca.labels.score_maps import enlarge
from rca.params.read import read_params
from rca.report.suspects import write_suspects
from rca.stages.base.layout import Layout

# Steps of the pipeline whose masks are judged and compared, in order.
STEPS = ("seed", "refined", "segmentation")


@dataclass(frozen=True)
class Judges:
    """Whose masks are judged, and by what.

    Attributes:
        manifest: The dataset.
        split: The images.
        kind: One of `STEPS`.
        masks: The masks of the seed that is judged.
        others: Those of the other seeds.
    """

    manifest: Manifest
    split: str
    kind: str
    masks: Masks
    others: tuple[Masks, ...]

    def read(self, masks: Masks, kind: str, record: ImageRecord) -> UInt8Array:
        """The mask of an image at the best threshold."""
        return next(masks.read(kind, record, [self.split]))[1]

    def gather(self, record: ImageRecord) -> Opinions:
        """All guesses of an image's mask."""
        mask = self.read(self.masks, self.kind, record)
        steps = [kind for kind in STEPS if kind != self.kind and self.masks.has(kind, record, self.split)]
        seeds = [masks for masks in self.others if masks.has(self.kind, record, self.split)]
        maps = self.masks.find_shard(record).read(record.id)
        return Opinions(
            record.id,
            tuple(tag + 1 for tag in record.tags),
            mask,
            [self.read(self.masks, kind, record) for kind in steps],
            [self.read(masks, self.kind, record) for masks in seeds],
            enlarge(maps.scores, *mask.shape),
            maps.labels,
        )


def suspect(
    run: str | None,
    seed: int | None,
    kind: str | None,
    split: str | None,
    top: int,
    out: Path | None,
    page: Path | None,
    check: bool,
) -> None:
    """Rank the masks of a run, print the first, and write the table and a page of pictures.

    Args:
        run: The run; by default the last one that learns from tags.
        seed: The random seed; by default the first that has masks.
        kind: One of `STEPS`; by default the last that all images of the split have.
        split: The images; by default those that the segmentation network is trained on.
        top: How many to print and to show.
        out: The CSV file to write; None for none.
        page: The folder of the page to write; None for none.
        check: Whether to validate the suspicion where true masks are.

    Raises:
        UserError: the run, its masks or, for a validation, true masks are missing.
    """
    if page is not None and page.exists() and {path.name for path in page.iterdir()} - {"index.html", "pictures"}:
        raise UserError(f"{page} holds other files: name a new folder for the page, or that of an earlier one.")
    params = read_params()
    chosen = choose_run(params, run)
    manifest = read_manifest(Layout(params.dataset.name).manifest)
    split = split or params.segmenter.split
    with ExitStack() as stack:
        masks, *others = [
            stack.enter_context(open_masks(params, chosen, each)) for each in list_seeds(params, chosen.name, seed)
        ]
        records = manifest.select(split)
        kind = choose_kind(masks, records, split, kind)
        judges = Judges(manifest, split, kind, masks, tuple(others))
        judged: list[Judged] = []
        ious: dict[str, float] = {}
        for record in track(records, "judging", len(records)):
            opinions = judges.gather(record)
            judged.append(examine(opinions, manifest.classes))
            if check and record.mask is not None:
                ious[record.id] = measure(opinions.mask, read_mask(manifest.truth(record)))
        table = rank(judged, manifest.classes)
        title = f"{KIND_NAMES[kind]} masks of {chosen.name} on {split}, the most suspicious first"
        if page is not None:
            with write_directory(page) as directory:
                read = partial(read_by_id, judges)
                write_suspects(directory, (title, describe_guesses(judges)), table, read, manifest, top)
    print(f"{title}, {len(table)} images:\n")
    print(describe(table.head(top)))
    if check:
        print(f"\n{describe_validation(validate(table, ious), split)}")
    if out is not None:
        write_text(out, table.to_csv(index=False, float_format="%.4f"))
        print(f"\nAll {len(table)} images: {out}")
    if page is not None:
        print(f"\nThe page: {page / 'index.html'}")


def read_by_id(judges: Judges, image_id: str) -> UInt8Array:
    """The mask that is judged, of an image by its id."""
    (record,) = judges.manifest.find([image_id])
    return judges.read(judges.masks, judges.kind, record)


def describe_guesses(judges: Judges) -> str:
    """What the masks are held against, in a sentence."""
    others = len(judges.others)
    return (
        f"Each mask is held against the masks of other steps, {others} other seed{'s' if others != 1 else ''} and the "
        "score maps; no true mask is used. Mend the first ones, and bring them back with rca import masks."
    )


def choose_kind(masks: Masks, records: tuple[ImageRecord, ...], split: str, kind: str | None) -> str:
    """The named kind of masks, or the last one that all images have.

    Raises:
        UserError: an image has none.
    """
    complete = [step for step in STEPS if all(masks.has(step, record, split) for record in records)]
    if not complete or kind not in (None, *complete):
        known = ", ".join(complete) or "none"
        raise UserError(f"Not all images of {split} have {kind or 'masks'}: choose from {known}, or another --split.")
    return kind or complete[-1]


def measure(mask: UInt8Array, truth: UInt8Array) -> float:
    """The mean IoU of a mask's objects; undecided pixels count as errors."""
    decided = np.where(mask == IGNORE, 0, mask)
    return agree(decided, truth, sorted({*np.unique(decided[truth != IGNORE]), *np.unique(truth)} - {0, IGNORE}))


def describe(table: pd.DataFrame) -> str:
    """The lines of a table, aligned."""
    lines = [["image", "suspicion", "steps", "seeds", "scores", "reasons"]]
    for line in table.to_dict("records"):
        figures = ["-" if np.isnan(line[name]) else f"{line[name]:.2f}" for name in lines[0][1:-1]]
        lines.append([line["image"], *figures, line["reasons"]])
    width = max(len(line[0]) for line in lines)
    return "\n".join(
        f"{line[0]:{width}s}  {'  '.join(cell.rjust(9) for cell in line[1:-1])}  {line[-1]}".rstrip() for line in lines
    )


def describe_validation(found: Validation, split: str) -> str:
    """What a validation found, in a sentence.

    Raises:
        UserError: too few images have a true mask.
    """
    if np.isnan(found.rho):
        raise UserError(f"Too few images of {split} have a true mask to validate the suspicion: leave out --validate.")
    return (
        f"Against {found.images} true masks: Spearman's rho of suspicion and error {found.rho:.2f}; of the worst "
        f"{WORST:.0%} by IoU, {found.found:.0%} are among the {SUSPECTED:.0%} most suspicious."
    )
