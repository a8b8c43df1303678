"""The commands of `rca` that are not stages."""

from pathlib import Path
from typing import Any

from rca.cli.check import check
from rca.cli.compare import compare
from rca.cli.export import export
from rca.cli.inspect import inspect
from rca.cli.preset import apply_preset
from rca.core.errors import UserError
from rca.core.files import write_json
from rca.evaluation.scoring import format_scores, list_figures, score_folders
from rca.params.pin import pin
from rca.params.read import read_params
from rca.pipeline.plan import merge_pending
from rca.prediction.folder import predict_folder as predict
from rca.stages.__main__ import run_instance
from rca.stages.base.layout import LOGS, Layout
from rca.stages.base.pins import Instance, read_pins

__all__ = ["check", "clean", "compare", "export", "inspect", "predict", "preset", "run_by_hand", "score", "show"]


def preset(name: str, changes: list[str], force: bool) -> None:
    """Write params.yaml from a preset, and link its dataset."""
    for line in apply_preset(name, changes, force):
        print(line)


def score(out: Path | None, **arguments: Any) -> None:
    """Score any masks with `rca.evaluation.scoring.score_folders`, and write the figures to `out` as JSON."""
    scores = score_folders(**arguments)
    print(format_scores(scores))
    if out:
        write_json(out, list_figures(scores))


def show() -> None:
    """Print the table and the path of the report.

    Raises:
        UserError: the pipeline has not run.
    """
    merge_pending(Path.cwd())
    layout = Layout(read_params().dataset.name)
    table = layout.results / "table.md"
    if not table.is_file():
        raise UserError(f"{table} does not exist: run the pipeline first, with `dvc repro` or `snakemake --cores 2`.")
    print(table.read_text(encoding="utf-8"))
    page = layout.report / "index.html"
    report = page if page.is_file() else "not made on this machine yet (run the pipeline)"
    print(f"All figures: {layout.results}/; the report: {report}")


def clean(delete: bool) -> None:
    """List, or delete, the files that no stage declares."""
    from rca.pipeline.resolve import find_undeclared

    # Keep other datasets' results: params.yaml names only one dataset at a time.
    layout = Layout(read_params().dataset.name)
    files = find_undeclared(Path.cwd(), [folder.as_posix() for folder in (layout.runs, layout.results, LOGS)])
    for path in files:
        print(path)
        if delete:
            path.unlink()
    print(f"{len(files)} files that no stage declares" + (" deleted." if delete else "; delete them with --delete."))


def run_by_hand(instance: Instance) -> int:
    """Run one instance of a stage with the current params.yaml; DVC does not record it.

    Returns:
        The exit code, as in `rca.stages.__main__.run_instance`.
    """
    pin()
    return run_instance(instance, read_pins())
