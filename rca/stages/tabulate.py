"""Make the table over all runs: mean ± standard deviation over seeds, and each run's difference to the first.

It is written as CSV, Markdown and LaTeX, with the protocol of the figures; stars mark differences in LaTeX.
"""

from rca.core.files import keep_only, read_json, write_text
from rca.core.settings import Settings
from rca.evaluation.latex import format_latex
from rca.evaluation.tables import (
    add_weak_over_full,
    build_table,
    describe_repeats,
    format_differences,
    format_markdown,
    format_protocols,
)
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class TabulateTask(Settings):
    """All settings of the stage.

    Attributes:
        runs: The runs, in the order of the tables.
        seeds: The seeds of each run.
        upper_bounds: For each run that learns from tags, the run that trains the same segmentation network on true
            masks, if there is one.
    """

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    upper_bounds: dict[str, str]


def run(context: Context, task: TabulateTask) -> None:
    """Write the table, and remove the metrics of runs and seeds that params no longer list."""
    layout = context.layout
    runs, seeds = task.runs, task.seeds
    outputs = [layout.of(run, seed) for run in runs for seed in seeds]
    keep_only(layout.evaluation, [each.evaluation.name for each in outputs])
    tables = [f"table.{suffix}" for suffix in ("csv", "md", "tex")]
    keep_only(layout.results, [*tables, *(file.name for each in outputs for file in (each.metrics, each.per_class))])
    results = {run: [read_json(layout.of(run, seed).evaluation / "evaluation.json") for seed in seeds] for run in runs}
    metrics = {run: [each["metrics"] for each in of_seeds] for run, of_seeds in results.items()}
    table = build_table(add_weak_over_full(metrics, task.upper_bounds))
    protocols = format_protocols({run: [each["protocol"] for each in of_seeds] for run, of_seeds in results.items()})
    write_text(layout.results / "table.csv", table.to_csv(index=False, float_format="%.6f"))
    repeats = describe_repeats(table)
    text = "\n".join(part for part in (format_markdown(table), repeats, format_differences(table), protocols) if part)
    write_text(layout.results / "table.md", text)
    comments = "".join(f"% {line}\n" for line in f"{repeats}{protocols}".splitlines() if line)
    write_text(layout.results / "table.tex", comments + format_latex(table))
    print(text)


STAGE = Stage(
    task=TabulateTask,
    run=run,
    shared={"runs": "runs", "seeds": "seeds", "upper_bounds": "upper_bounds"},
)
