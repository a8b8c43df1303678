"""The command `rca figure`: a qualitative figure for a paper in one line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rca.cli.run_masks import choose_run, list_seeds, open_masks
from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import read_mask, read_photograph, write_file
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.evaluation.masks import Masks
from rca.evaluation.protocol import KIND_NAMES, TAGS
from rca.params.read import read_params
from rca.report.figure import Box, Colours, FigureLook, FigureRow, draw_figure, save_figure
from rca.stages.base.layout import Layout

GIVEN = ("photo", "truth")
COLUMNS = (*GIVEN, *TAGS)
FORMATS = {".pdf": "pdf", ".svg": "svg", ".png": "png"}


class Column(NamedTuple):
    """A column of the figure: one of `COLUMNS`, and the run whose masks it shows; None for those of the dataset."""

    name: str
    run: str | None


def figure(
    ids: Sequence[str],
    runs: str | None,
    columns: str,
    seed: int | None,
    out: Path,
    alpha: float,
    names: bool,
    colours: Colours,
    zoom: Sequence[str],
) -> None:
    """Write a figure with a row for each image and a column for each kind of mask and run.

    Args:
        ids: The images.
        runs: The runs, separated by commas; by default the last one that learns from tags.
        columns: Names of `COLUMNS`, separated by commas; each kind of mask stands once for each run.
        seed: The random seed; by default each run's first that has masks.
        out: The file; its suffix is one of `FORMATS`.
        alpha: The opacity of the masks, 0..1.
        names: Whether classes are written on their regions.
        colours: The classes' colours.
        zoom: Parts to magnify, each as `ID=left,top,width,height` in pixels.

    Raises:
        UserError: an argument is not valid, or an image or one of its masks is missing.
    """
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"{out} has no suffix of a picture: end its name with {', '.join(FORMATS)}.")
    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha {alpha} is no opacity: choose from 0 (no mask) to 1 (only the mask).")
    params = read_params()
    manifest = read_manifest(Layout(params.dataset.name).manifest)
    chosen = {run.name: run for name in (runs.split(",") if runs else [None]) for run in [choose_run(params, name)]}
    wanted = list(list_columns(columns, list(chosen)))
    records = [find_record(manifest, image_id) for image_id in ids]
    zooms = dict(read_zoom(text, manifest) for text in zoom)
    with ExitStack() as stack:
        masks = {
            name: stack.enter_context(open_masks(params, run, list_seeds(params, name, seed)[0]))
            for name, run in chosen.items()
        }
        rows = [
            FigureRow(
                read_photograph(manifest.photograph(record)),
                [read_column(column, record, manifest, masks) for column in wanted],
                zooms.get(record.id),
            )
            for record in records
        ]
    headings = [name_column(column, several=len(chosen) > 1) for column in wanted]
    drawn = draw_figure(rows, headings, manifest.classes, FigureLook(alpha, names, colours))
    with write_file(out) as temporary:
        save_figure(drawn, temporary, FORMATS[out.suffix.lower()])
    print(f"{out}: {len(rows)} image{'s' if len(rows) != 1 else ''}, {len(wanted)} columns")


def list_columns(text: str, runs: Sequence[str]) -> Iterator[Column]:
    """Yield the columns that are named, separated by commas.

    Raises:
        UserError: a name is none of `COLUMNS`.
    """
    for name in text.split(","):
        if name not in COLUMNS:
            named = name or "an empty name"
            raise UserError(f"--columns {text}: {named} is no column: choose from {', '.join(COLUMNS)}.")
        yield from ([Column(name, None)] if name in GIVEN else [Column(name, run) for run in runs])


def name_column(column: Column, several: bool) -> str:
    """The heading of a column, with its run if there are several."""
    name = "photograph" if column.name == "photo" else KIND_NAMES.get(column.name, column.name)
    return f"{name}, {column.run}" if several and column.run else name


def find_record(manifest: Manifest, image_id: str) -> ImageRecord:
    """An image by its id.

    Raises:
        UserError: there is none.
    """
    if image_id not in manifest.index:
        raise UserError(f"The dataset has no image {image_id}: name ids as the report's gallery does.")
    return manifest.images[manifest.index[image_id]]


def read_zoom(text: str, manifest: Manifest) -> tuple[str, Box]:
    """An image's id and the part to magnify, from `ID=left,top,width,height`.

    Raises:
        UserError: it is not of this form, or not inside the image.
    """
    image_id, _, numbers = text.rpartition("=")
    record = find_record(manifest, image_id)
    parts = [int(part) if part.strip().isdecimal() else -1 for part in numbers.split(",")]
    inside = len(parts) == 4 and min(parts) >= 0 and min(parts[2:]) > 0
    if not inside or parts[0] + parts[2] > record.width or parts[1] + parts[3] > record.height:
        raise UserError(
            f"--zoom {text}: write {image_id}=left,top,width,height in pixels, inside {record.width}x{record.height}."
        )
    left, top, width, height = parts
    return image_id, (left, top, width, height)


def read_column(
    column: Column, record: ImageRecord, manifest: Manifest, masks: Mapping[str, Masks]
) -> UInt8Array | None:
    """An image's mask in a column, at the best threshold; None for the photograph.

    Raises:
        UserError: there is no such mask.
    """
    if column.name == "photo":
        return None
    if column.run is None:
        if record.mask is None:
            raise UserError(f"{record.id} has no true mask: leave truth out of --columns.")
        return read_mask(manifest.truth(record))
    of_run = masks[column.run]
    split = next((split for split in record.splits if of_run.has(column.name, record, split)), None)
    if split is None:
        kind = f"{KIND_NAMES[column.name]} mask"
        raise UserError(f"{column.run} has no {kind} of {record.id}: leave out {column.name}, or take another image.")
    return next(of_run.read(column.name, record, [split]))[1]
