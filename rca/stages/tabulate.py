"""Make the table over all runs: mean ± standard deviation over seeds, and each run's difference to the first.

As CSV, Markdown and LaTeX, with the protocol of the figures; the LaTeX holds the means alone.
"""

from dataclasses import replace

from rca.core.files import keep_only, read_json, write_text
from rca.evaluation.tables import (
    add_weak_over_full,
    build_table,
    format_differences,
    format_latex,
    format_markdown,
    format_protocols,
)
from rca.stages.context import Context

# Settings of train_seg that belong to a run's own masks, not to the network.
OF_MASKS = ("masks", "threshold", "loss")


def run(context: Context) -> None:
    """Write the table, and remove the metrics of runs and seeds that params no longer list."""
    layout = context.layout
    runs, seeds = context.read("runs"), context.read("seeds")
    found = [layout.of(run, seed) for run in runs for seed in seeds]
    keep_only(layout.evaluation, [one.evaluation.name for one in found])
    tables = [f"table.{suffix}" for suffix in ("csv", "md", "tex")]
    keep_only(layout.results, [*tables, *(path.name for one in found for path in (one.metrics, one.per_class))])
    results = {run: [read_json(layout.of(run, seed).evaluation / "evaluation.json") for seed in seeds] for run in runs}
    metrics = {run: [one["metrics"] for one in of_seeds] for run, of_seeds in results.items()}
    table = build_table(add_weak_over_full(metrics, find_upper_bounds(context)))
    protocols = format_protocols({run: [one["protocol"] for one in of_seeds] for run, of_seeds in results.items()})
    write_text(layout.results / "table.csv", table.to_csv(index=False, float_format="%.6f"))
    text = "\n".join(part for part in (format_markdown(table), format_differences(table), protocols) if part)
    write_text(layout.results / "table.md", text)
    comments = "".join(f"% {line}\n" for line in protocols.splitlines() if line)
    write_text(layout.results / "table.tex", comments + format_latex(table))
    print(text)


def find_upper_bounds(context: Context) -> dict[str, str]:
    """For each run on tags the first run whose same segmentation network is trained on true masks, where there is one.

    The same is one with the same settings in train_seg and predict_seg, but for which of a run's own masks it is
    trained on, and how it makes up for their faults.
    """

    def describe(run: str) -> tuple[dict, dict]:
        of_run = replace(context, run=run)
        network, prediction = (of_run.merge_section(section) for section in ("train_seg", "predict_seg"))
        return {key: value for key, value in network.items() if key not in OF_MASKS}, prediction

    runs = context.read("runs")
    full = [run for run in runs if context.read(f"run.{run}.supervision") == "masks"]
    return {
        run: same[0]
        for run in runs
        if run not in full and (same := [bound for bound in full if describe(bound) == describe(run)])
    }
