"""The command `rca compare`: two runs, or one run at two commits, figure by figure."""

import io
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from rca.core.errors import UserError
from rca.core.files import work_in_folder
from rca.evaluation.comparison import (
    Difference,
    compare_figures,
    format_comparison,
    resample_images,
    score_images,
)
from rca.evaluation.tables import SHOWN
from rca.params.read import PARAMS, read_params
from rca.params.schema import Params
from rca.stages.base.layout import RESULTS
from rca.stages.base.results import Results, read_results

FIGURE = ("kind", "split", "threshold", "figure")
CHANGED = 10  # images that gain or lose most
OF_CLASS = ("kind", "split", "threshold", "class")


class State:
    """The results and params of the project, now or at a commit.

    Args:
        folder: The folder of results/ and params.yaml.
        name: The commit; "" for now.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.params: Params = read_params(folder / PARAMS, PARAMS)
        self.results: Results = read_results(folder)
        self.name = name

    def label(self, run: str) -> str:
        """The run's name, with its commit."""
        return f"{run}@{self.name}" if self.name else run

    def choose(self, table: pd.DataFrame, run: str) -> pd.DataFrame:
        """The lines of a run on the dataset of the params.

        Raises:
            UserError: it has no results.
        """
        dataset = self.params.dataset.name
        lines = table[(table["dataset"] == dataset) & (table["run"] == run)]
        if lines.empty:
            known = ", ".join(dict.fromkeys(table.loc[table["dataset"] == dataset, "run"].astype(str)))
            raise UserError(
                f"{RESULTS / dataset} holds no results of {self.label(run)}: choose from {known or 'none'}."
            )
        return lines

    def find_images(self, run: str, masks: tuple[str, ...]) -> pd.DataFrame:
        """The pixels of each image of a run's masks (kind, split, threshold); empty if they are not here."""
        images = self.results.images
        if images.empty:
            return images
        chosen = images[(images["dataset"] == self.params.dataset.name) & (images["run"] == run)]
        for column, value in zip(FIGURE, masks[:3], strict=False):
            chosen = chosen[chosen[column] == value]
        return chosen

    def settings(self, run: str) -> dict[str, object]:
        """All settings of a run, by dotted key; empty if the params do not describe it."""
        if run not in self.params.described:
            return {}
        about = self.params.described[run]
        sections = {name: section.model_dump(mode="json") for name, section in about.sections.items()}
        own = {name: getattr(about, name) for name in ("host", "host_options", "method", "options", "masks_from")}
        return dict(flatten({**own, **sections}))


def compare(first: str, second: str | None, revision: str | None, kind: str | None, split: str | None) -> None:
    """Print what differs between two runs, or between a run at a commit and now.

    Args:
        first: A run.
        second: The run to compare with it; by default the same run.
        revision: The commit of the first run; by default the present state.
        kind: The masks whose classes are compared; by default the last that both runs have.
        split: The split of these masks; by default the last one.

    Raises:
        UserError: a run, the commit, or its results are missing, or both sides are the same.
    """
    second = second or first
    if first == second and revision is None:
        raise UserError(f"{first} is compared with itself: name another run, or a commit with --rev.")
    now = State(Path(), "")
    if revision is None:
        before = now
    else:
        with check_out(revision) as folder:
            before = State(folder, revision)
    names = before.label(first), now.label(second)
    metrics = before.choose(before.results.metrics, first), now.choose(now.results.metrics, second)
    headlines = [lines[lines["figure"].isin(SHOWN)] for lines in metrics]
    figures = compare_figures(headlines[0], headlines[1], FIGURE, "value")
    print(format_comparison(figures, ("figure", *names)))
    classes = before.choose(before.results.classes, first), now.choose(now.results.classes, second)
    ious = choose_masks(compare_figures(classes[0], classes[1], OF_CLASS, "iou"), kind, split)
    if ious:
        what = " ".join(filter(None, ious[0].name[:-1]))
        print(f"IoU of {what} by class, the largest difference first:\n")
        ious.sort(key=lambda each: -abs(each.difference))
        lines = [each._replace(name=each.name[-1:]) for each in ious if each.name[-1] != "mean"]
        print(format_comparison(lines, ("class", *names)))
        if revision is None:  # the pixels of single images are in no commit
            print_images(before.find_images(first, ious[0].name), now.find_images(second, ious[0].name), names)
    print_settings(before.settings(first), now.settings(second), names)


def print_images(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str]) -> None:
    """Print the difference with its interval over images, and the images that gain and lose most."""
    if first.empty or second.empty:
        return
    seeds = set(first["seed"]) & set(second["seed"])
    lines = [table[table["seed"].isin(seeds)] for table in (first, second)]
    difference, low, high = (f"{100 * value:+z.1f}" for value in resample_images(*lines))
    print(f"Over images (bootstrap), mean of {len(seeds)} seeds: mIoU {difference} [{low}, {high}].\n")
    before, after = map(score_images, lines)
    changes = compare_figures(before, after, ("image",), "iou")
    changes.sort(key=lambda each: -each.difference)
    for title, chosen in (("gain", changes[:CHANGED]), ("lose", changes[::-1][:CHANGED])):
        wanted = [each for each in chosen if each.difference and (each.difference > 0) == (title == "gain")]
        if wanted:
            print(f"Images that {title} most, mean IoU over the labels of each:\n")
            print(format_comparison(wanted, ("image", *names)))


def choose_masks(differences: list[Difference], kind: str | None, split: str | None) -> list[Difference]:
    """The differences of one kind of masks, one split and one threshold: the last that fit and the first of these.

    Raises:
        UserError: none fits.
    """
    fit = [each for each in differences if kind in (None, each.name[0]) and split in (None, each.name[1])]
    if differences and not fit:
        known = ", ".join(dict.fromkeys(" ".join(each.name[:2]) for each in differences))
        raise UserError(f"Both runs have no {kind or 'masks'} of {split or 'any split'}: choose from {known}.")
    chosen = [each for each in fit if each.name[:2] == fit[-1].name[:2]]
    return [each for each in chosen if each.name[2] == chosen[0].name[2]]


def print_settings(first: Mapping[str, object], second: Mapping[str, object], names: tuple[str, str]) -> None:
    """Print the settings that differ."""
    if not first or not second:
        return
    keys = [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]
    print("The settings are the same." if not keys else "Settings that differ:")
    for key in keys:
        print(f"  {key}: {names[0]} {first.get(key, 'none')}, {names[1]} {second.get(key, 'none')}")


def flatten(data: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of nested mappings by dotted key; an empty mapping has none."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@contextmanager
def check_out(revision: str) -> Iterator[Path]:
    """Yield a folder with results/ and params.yaml as they were at a commit.

    Raises:
        UserError: there is no such commit, or it lacks them.
    """
    if revision.startswith("-"):
        raise UserError(f"--rev {revision}: a commit's name does not begin with a dash.")
    done = subprocess.run(["git", "archive", revision, "--", str(PARAMS), str(RESULTS)], capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().removeprefix("fatal: ").partition("\n")[0]
        raise UserError(
            f"--rev {revision}: git finds no {PARAMS} and {RESULTS}/ there ({reason}): name a commit with both."
        )
    with work_in_folder() as folder, tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
        yield folder
