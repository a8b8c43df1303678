"""Make the table over all runs: mean ± standard deviation over seeds, and each run's difference to the first.

As CSV, Markdown and LaTeX; the LaTeX holds the means alone.
"""

from rca.artifacts import keep_only, read_json, write_text
from rca.stages.context import Context
from rca.tables import build_table, format_differences, format_latex, format_markdown


def run(context: Context) -> None:
    """Write the table, and remove the metrics of runs and seeds that params no longer list."""
    layout = context.layout
    runs, seeds = context.read("runs"), context.read("seeds")
    found = [layout.of(run, seed) for run in runs for seed in seeds]
    keep_only(layout.evaluation, [one.evaluation.name for one in found])
    tables = [f"table.{suffix}" for suffix in ("csv", "md", "tex")]
    keep_only(layout.results, [*tables, *(path.name for one in found for path in (one.metrics, one.per_class))])
    metrics = {
        run: [read_json(layout.of(run, seed).evaluation / "evaluation.json")["metrics"] for seed in seeds]
        for run in runs
    }
    table = build_table(metrics)
    write_text(layout.results / "table.csv", table.to_csv(index=False, float_format="%.6f"))
    text = "\n".join(part for part in (format_markdown(table), format_differences(table)) if part)
    write_text(layout.results / "table.md", text)
    write_text(layout.results / "table.tex", format_latex(table))
    print(text)
