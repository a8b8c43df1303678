"""Which charts the page has, and what they show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rca.report.charts import Line, measure_reliability, summarise_seeds
from rca.report.differences import compare_classes
from rca.report.memory import MemorySection
from rca.report.source import TRAININGS, SeedResult
from rca.report.specs import (
    Spec,
    draw_curves,
    draw_differences,
    draw_memory,
    draw_reliability,
    draw_scatter,
    draw_thresholds,
)


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        name: Its name, by which the page's script finds its specification.
        caption: Its heading.
        note: What to know of it.
        lines: The runs that it shows, for its legend.
        spec: Its specification.
    """

    name: str
    caption: str
    note: str
    lines: list[Line]
    spec: Spec

    @property
    def section(self) -> str:
        """The section of the page that shows it."""
        return self.name.partition("-")[0]


def draw_charts(
    results: Mapping[str, Sequence[SeedResult]],
    lines: Mapping[str, Line],
    memories: Sequence[MemorySection],
    ignored: bool,
) -> list[Chart]:
    """Draw all charts of the page.

    Args:
        results: The results of each run's seeds.
        lines: The line of each run.
        memories: The memories of the runs that keep one.
        ignored: Whether undecided pixels are left out.
    """
    charts = [*draw_class_chart(results, lines, ignored), *draw_threshold_charts(results, lines)]
    for stage in TRAININGS:
        charts += draw_training_charts(stage, results, lines)
    about = "IoU of each image under two series of masks."
    charts.append(Chart("scatter", "Image by image", "", [], draw_scatter(about)))
    for number, memory in enumerate(memories):
        if memory.map.empty:
            continue
        about = f"Map of the memory of {memory.run}: {len(memory.map)} regions."
        marks = {mark.name: (mark.colour, mark.shape) for mark in memory.marks}
        spec = draw_memory(memory.map, marks, about)
        charts.append(Chart(f"memory-{number}", f"Memory of {memory.run}", "", [], spec))
    return charts


def draw_class_chart(
    results: Mapping[str, Sequence[SeedResult]], lines: Mapping[str, Line], ignored: bool
) -> Iterator[Chart]:
    """Yield the chart of each class's difference to the first run; none for a single run."""
    per_class, images = (
        {run: [getattr(seed, name) for seed in seeds] for run, seeds in results.items()}
        for name in ("per_class", "images")
    )
    table = compare_classes(per_class, images, ignored)
    if len(table):
        first = next(iter(results))
        note = (
            "Thin lines: 95% interval over seeds, paired (Student’s t; none for one seed). Broad bands: 95% interval "
            "over images (bootstrap)."
        )
        about = f"Difference of each class's IoU to {first}, with intervals over seeds and images."
        spec = draw_differences(table, lines, first, about)
        yield Chart("class", f"Difference to {first}, class by class", note, [], spec)


def draw_threshold_charts(results: Mapping[str, Sequence[SeedResult]], lines: Mapping[str, Line]) -> Iterator[Chart]:
    """Yield the charts of mIoU and of right pixels over the score; none if no threshold was tried."""
    tables = {run: [seed.threshold for seed in seeds if len(seed.threshold)] for run, seeds in results.items()}
    tables = {run: seeds for run, seeds in tables.items() if seeds}
    if not tables:
        return
    curves = {run: 100 * summarise_seeds(seeds, "threshold", "miou") for run, seeds in tables.items()}
    best = (
        f"{run}: highest {curve['mean'].max():.1f} at {curve['mean'].idxmax():.2f}" for run, curve in curves.items()
    )
    about = f"mIoU in percent over thresholds. {'; '.join(best)}."
    chosen = pd.concat([list_chosen(run, results[run]) for run in tables], ignore_index=True)
    shown = [lines[run] for run in tables]
    note = "Diamonds: the best threshold of each seed. Broken lines: the fixed one."
    spec = draw_thresholds(curves, chosen, lines, about)
    yield Chart("curve-threshold", "mIoU of the seeds over the threshold", note, shown, spec)
    reliability = {run: measure_reliability(seeds) for run, seeds in tables.items()}
    about = "Share of pixels whose class is right, over the highest score of the pixel."
    note = "On the grey line a score would be the probability to be right. Larger dots: more pixels."
    spec = draw_reliability(reliability, lines, about)
    yield Chart("curve-reliability", "Reliability of the score maps", note, shown, spec)


def list_chosen(run: str, seeds: Sequence[SeedResult]) -> pd.DataFrame:
    """Each seed's best threshold with its mIoU in percent, and the fixed threshold, as `draw_thresholds` takes them."""
    found: list[tuple[str, int | None, str, float, float | None]] = []
    for number, seed in enumerate(seeds):
        if seed.chosen and len(seed.threshold):
            nearest = (seed.threshold["threshold"] - seed.chosen["best"]).abs().idxmin()
            found.append((run, number, "best", seed.chosen["best"], 100 * seed.threshold["miou"][nearest]))
    fixed = dict.fromkeys(seed.chosen["fixed"] for seed in seeds if seed.chosen)
    found += [(run, None, "fixed", threshold, None) for threshold in fixed]
    return pd.DataFrame(found, columns=["run", "seed", "choice", "threshold", "miou"])


def draw_training_charts(
    stage: str, results: Mapping[str, Sequence[SeedResult]], lines: Mapping[str, Line]
) -> Iterator[Chart]:
    """Yield a chart of each term of a training's loss over epochs."""
    tables = {run: [result.histories[stage] for result in seeds] for run, seeds in results.items()}
    terms = dict.fromkeys(
        str(name) for seeds in tables.values() for table in seeds for name in table if str(name).startswith("loss_")
    )
    for number, term in enumerate(terms, 1):
        curves = {run: summarise_seeds(seeds, "epoch", term) for run, seeds in tables.items()}
        curves = {run: curve for run, curve in curves.items() if len(curve)}
        if not curves:
            continue  # the training was switched off
        name = term.removeprefix("loss_").replace("_", " ")
        means = {run: curve["mean"] for run, curve in curves.items()}
        ends = (f"{run}: from {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}" for run, mean in means.items())
        about = f"Loss term {name} of the {TRAININGS[stage]} over epochs. {'; '.join(ends)}."
        log = all((curve["low"] > 0).all() for curve in curves.values())
        spec = draw_curves(curves, lines, "epoch", "loss", about, log=log)
        shown = [lines[run] for run in curves]
        yield Chart(f"curve-{stage}-{number}", f"{TRAININGS[stage]}: {name} loss", "", shown, spec)
