"""The commands of `rca`, by name; each imports what it needs, so that none waits for another's torch or DVC.

A command returns its exit code, or None for 0.
"""

from pathlib import Path
from typing import Any

from rca.core.errors import UserError


def init(folder: Path | None, upgrade: bool, **arguments: Any) -> int:
    """Make a project, or bring its generated files up to date.

    Returns:
        The exit code: 1 if an upgrade leaves a new version beside a file that was edited.
    """
    if not upgrade:
        from rca.cli.init import make_project

        if folder is None:
            raise UserError("Name the folder of the project: `rca init DIR`.")
        print(*make_project(folder, **arguments), sep="\n")
        return 0
    from contextlib import chdir

    from rca.cli import upgrade as upgrading

    with chdir(folder or Path()):
        lines, edited = upgrading.upgrade()
    print(*lines, sep="\n")
    if edited:
        new = ", ".join(f"{name}{upgrading.SUFFIX}" for name in edited)
        print(f"Your edits are kept. Take over what you want of {new}, then delete it.")
    return 1 if edited else 0


def run(**arguments: Any) -> None:
    """Run the pipeline, then print the table, unless Snakemake was asked for something else."""
    from rca.cli.run import run_pipeline

    run_pipeline(**arguments)
    if not arguments["engine"]:
        show()


def sweep(**arguments: Any) -> None:
    """Run a grid of settings beside a run, and print their table."""
    from rca.cli.sweep import sweep

    sweep(**arguments)


def doctor() -> int:
    """Print what this machine has of all that a run needs.

    Returns:
        The exit code: 1 if something is missing.
    """
    from rca.cli.doctor import diagnose

    return 0 if diagnose() else 1


def set_values(changes: list[str]) -> None:
    """Change values in params.yaml."""
    from rca.cli import edit

    print(*edit.set_values(changes), sep="\n")


def get_value(key: str) -> None:
    """Print a value of params.yaml, or its default."""
    from rca.cli import edit

    print(edit.get_value(key))


def preset(name: str, changes: list[str], force: bool) -> None:
    """Write params.yaml from a preset, and link its dataset."""
    from rca.cli.preset import apply_preset

    print(*apply_preset(name, changes, force), sep="\n")


def check(**arguments: Any) -> None:
    """Validate the params, and read their whole dataset."""
    from rca.cli import check

    check.check(**arguments)


def compare(**arguments: Any) -> None:
    """Print what differs between two runs, or since a commit."""
    from rca.cli import compare

    compare.compare(**arguments)


def figure(**arguments: Any) -> None:
    """Write a qualitative figure."""
    from rca.cli import figure

    figure.figure(**arguments)


def import_masks(what: str, **arguments: Any) -> None:
    """Bring corrected masks back; `what` is "masks"."""
    from rca.cli import corrections

    corrections.import_masks(**arguments)


def suspect(**arguments: Any) -> None:
    """Rank a run's masks by suspicion."""
    from rca.cli import suspect

    suspect.suspect(**arguments)


def inspect(**arguments: Any) -> None:
    """Describe a file of the pipeline."""
    from rca.cli import inspect

    inspect.inspect(**arguments)


def score(out: Path | None, **arguments: Any) -> None:
    """Score any masks with `rca.evaluation.scoring.score_folders`, and write the figures to `out` as JSON."""
    from rca.core.files import write_json
    from rca.evaluation.scoring import format_scores, list_figures, score_folders

    scores = score_folders(**arguments)
    print(format_scores(scores))
    if out:
        write_json(out, list_figures(scores))


def predict(**arguments: Any) -> None:
    """Segment photographs with a trained model."""
    from rca.prediction.folder import predict_folder

    predict_folder(**arguments)


def export(**arguments: Any) -> None:
    """Convert a model or masks to the formats of other tools."""
    from rca.cli import export

    export.export(**arguments)


def show() -> None:
    """Print the table and the path of the report.

    Raises:
        UserError: the pipeline has not run.
    """
    from rca.core.settings import load_params
    from rca.pipeline.plan import merge_pending
    from rca.stages.base.layout import Layout

    merge_pending(Path.cwd())
    dataset = load_params(Path("params.yaml")).get("dataset")  # the name alone: all settings would take seconds
    if not isinstance(dataset, dict) or not isinstance(dataset.get("name"), str):
        raise UserError("params.yaml names no dataset: `rca check` says what is wrong with it.")
    layout = Layout(dataset["name"])
    table = layout.results / "table.md"
    if not table.is_file():
        raise UserError(f"{table} does not exist: run the pipeline first, with `rca run`.")
    print(table.read_text(encoding="utf-8"))
    page = layout.report / "index.html"
    report = page if page.is_file() else "not made on this machine yet (run the pipeline)"
    print(f"All figures: {layout.results}/; the report: {report}")


def clean(delete: bool) -> None:
    """List, or delete, the files that no stage declares."""
    from rca.params.read import read_params
    from rca.pipeline.resolve import find_undeclared
    from rca.stages.base.layout import LOGS, Layout

    # Keep other datasets' results: params.yaml names only one dataset at a time.
    layout = Layout(read_params().dataset.name)
    files = find_undeclared(Path.cwd(), [folder.as_posix() for folder in (layout.runs, layout.results, LOGS)])
    for path in files:
        print(path)
        if delete:
            path.unlink()
    print(f"{len(files)} files that no stage declares" + (" deleted." if delete else "; delete them with --delete."))


def completion(shell: str) -> None:
    """Print a script that lets a shell complete commands, options and files."""
    from rca.cli.completion import write_completion

    print(write_completion(shell))


def print_latex(published: Path | None) -> None:
    """Print the table of all runs in LaTeX."""
    from rca.cli import latex

    latex.print_latex(published)


def run_by_hand(stage: str, **place: Any) -> int:
    """Run one instance of a stage with the current params.yaml; DVC does not record it.

    Args:
        stage: The stage's name.
        place: The other values of `rca.stages.base.pins.Instance`.

    Returns:
        The exit code, as in `rca.stages.__main__.run_instance`.
    """
    from rca.params.pin import pin
    from rca.stages.__main__ import run_instance
    from rca.stages.base.pins import Instance, read_pins

    pin()
    return run_instance(Instance(stage, **place), read_pins())
