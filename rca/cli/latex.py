"""`rca tabulate --latex`: the table of all runs as a float of a paper, with published figures beside."""

from pathlib import Path

from rca.core.files import read_json
from rca.evaluation.latex import format_float, read_published
from rca.evaluation.tables import COLUMNS, choose_shown, format_protocols
from rca.params.read import read_params
from rca.stages.base.layout import Layout
from rca.stages.render_report import read_table


def print_latex(published: Path | None) -> None:
    """Print the table that the stage tabulate wrote last.

    Args:
        published: A file of published figures, from which `rca.evaluation.latex.read_published` reads; None for none.

    Raises:
        UserError: the pipeline has not run, or the file is not valid.
    """
    params = read_params()
    layout = Layout(params.dataset.name)
    table = read_table(layout.results / "table.csv", tuple(COLUMNS))
    protocols = {
        run: [read_json(layout.of(run, seed).evaluation / "evaluation.json")["protocol"] for seed in params.seeds]
        for run in params.runs
    }
    metrics = list(dict.fromkeys(choose_shown(table)["metric"]))
    figures = read_published(published, metrics) if published else []
    print(format_float(table, figures, format_protocols(protocols)), end="")
