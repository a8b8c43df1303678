"""`rca sweep`: a grid of settings as further runs of the project, and their table beside the run that they vary.

The runs are those of one DAG: what they share is computed once, they train side by side, and a sweep that was stopped
goes on. They stay in params.yaml until they are taken out again.
"""

import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rca.classifier.registry import load_host, load_method, read_options
from rca.cli.edit import Document, format_value, set_values
from rca.cli.run import run_pipeline
from rca.core.errors import UserError
from rca.core.files import read_json
from rca.core.names import LONGEST
from rca.core.reading import read_text
from rca.core.settings import Plain, load_params, merge
from rca.evaluation.tables import build_table, format_differences, format_markdown
from rca.params.read import PARAMS, read_params
from rca.params.schema import Params, Run
from rca.stages.base.layout import Layout

Point = tuple[tuple[str, object], ...]
"""A place in the grid: the keys, below a run, and their values."""


def sweep(
    changes: Sequence[str], run: str | None, seeds: int | None, cores: int | None, gpus: int | None, start: bool
) -> None:
    """Add the runs of a grid to params.yaml, run the pipeline and print their table.

    Args:
        changes: The keys and their values, each as `dotted.key=a,b,c`.
        run: The run to vary; None takes the last of `runs`.
        seeds: How many seeds each run has at least; None keeps those of params.yaml.
        cores: As for `rca run`.
        gpus: As for `rca run`.
        start: Whether to run the pipeline; if not, only params.yaml is written.

    Raises:
        UserError: a key or value is not valid, the run is unknown, or the pipeline stops.
    """
    before = load_params(PARAMS)
    params = read_params()
    base, points = read_grid(changes, run or params.runs[-1], run is not None)
    if base not in params.project.run:
        raise UserError(f"There is no section run.{base}: choose from {', '.join(params.project.run)}.")
    check_trained(params.described.get(base), points[0])
    variants = name_variants(base, points, params.project.run)
    further = [seed for seed in range(seeds or 0) if seed not in params.seeds]
    all_seeds = [*params.seeds, *further][: max(seeds or 0, len(params.seeds))]
    names = drop_doubles(base, variants, params.runs)
    runs = list(dict.fromkeys([*params.runs, base, *names]))
    added = [f"run.{name}={format_value(variants[name])}" for name in names if name not in params.project.run]
    lists = {"runs": (list(params.runs), runs), "seeds": (list(params.seeds), all_seeds)}
    changed = {key: new for key, (old, new) in lists.items() if old != new}
    lines = [*reversed(added), *(f"{key}={format_value(new)}" for key, new in changed.items())]
    if lines:
        print(*set_values(lines), sep="\n")
        back = " ".join(f"{key}='{format_value(before[key])}'" for key in changed)
        print(f"params.yaml has these runs now. To take them out again: rca set {back}\n")
    if start:
        run_pipeline(cores, gpus, verbose=False, check=True, engine=())
        print(f"\n{describe_sweep(params.dataset.name, [base, *names], all_seeds)}")


def read_grid(changes: Sequence[str], run: str, named: bool) -> tuple[str, list[Point]]:
    """The run to vary and all places of the grid.

    Args:
        changes: As for `sweep`; a key may begin with `run.<name>.`, which then is the run.
        run: The run otherwise.
        named: Whether the run was named, so that no key may name another.

    Raises:
        UserError: a change has no values, or two name different runs.
    """
    axes: dict[str, list[object]] = {}
    runs: dict[str, None] = {run: None} if named else {}
    for change in changes:
        key, values = read_axis(change)
        if match := re.fullmatch(r"run\.([^.]+)\.(.+)", key):
            runs[match[1]], key = None, match[2]
        if key in axes:
            raise UserError(f"rca sweep {change}: {key} is named twice: give all its values at once.")
        axes[key] = values
    if len(runs) > 1:
        raise UserError(f"A sweep varies one run, but {' and '.join(runs)} are named: sweep one after the other.")
    grid = itertools.product(*([(key, value) for value in values] for key, values in axes.items()))
    return next(iter(runs), run), list(grid)


def read_axis(change: str) -> tuple[str, list[object]]:
    """A key and its values.

    Raises:
        UserError: there are none, or they are not valid YAML.
    """
    key, _, text = change.partition("=")
    try:
        values = YAML(typ="safe").load(f"[{text}]")
    except YAMLError:
        raise UserError(f"rca sweep {change}: {text} is no list of YAML values: write e.g. {key}=1,2,3.") from None
    if not key or not values:
        raise UserError(f"rca sweep {change}: write dotted.key=a,b,c, e.g. train_cam.optimisation.epochs=5,10.")
    return key, list(values)


def check_trained(run: Run | None, point: Point) -> None:
    """Check that a run trains what a sweep varies.

    Raises:
        UserError: it takes its network from another run.
    """
    for key, _ in point:
        if run is not None and run.taken_from and key.partition(".")[0] == "train_cam":
            raise UserError(
                f"rca sweep {key}: {run.name} takes the network of {run.taken_from}, which it cannot train in another"
                f" way: add --run {run.taken_from}."
            )


def name_variants(base: str, points: Sequence[Point], described: Mapping[str, Plain]) -> dict[str, Plain]:
    """The sections of the runs, by names that tell their settings.

    Args:
        base: The run that they vary.
        points: The places of the grid.
        described: The sections that there are. One that says the same is taken for that place.
    """
    # A run that takes a network inherits all but that from its base, so its section is written out.
    copied = described[base].get("train") == "none"
    taken, variants = dict(described), {}
    for point in points:
        section: Plain = json.loads(json.dumps(described[base])) if copied else {"base": base}
        for key, value in point:
            nested: object = value
            for part in reversed(key.split(".")):
                nested = {part: nested}
            section = merge(section, nested)  # type: ignore[arg-type]  # a key has at least one part
        words = "_".join([base, *(f"{key.rpartition('.')[2]}_{spell(value)}" for key, value in point)])
        name = next(name for name in list_names(words) if taken.get(name, section) == section)
        taken[name] = variants[name] = section
    return variants


def spell(value: object) -> str:
    """A value in the letters of a run's name."""
    text = format_value(value).lower()
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"^-", "minus ", text)).strip("_")


def list_names(words: str) -> Iterator[str]:
    """Names for a run, the shortest first."""
    stem = words[: LONGEST - 5].strip("_")
    yield stem
    for number in itertools.count(2):
        yield f"{stem}_{number}"


def drop_doubles(base: str, variants: Mapping[str, Plain], runs: Sequence[str]) -> list[str]:
    """The names of the runs whose settings differ from those of `base` and of all before them.

    Args:
        base: The run that they vary.
        variants: Their sections.
        runs: The runs that there are already, which may lend a network.

    Raises:
        UserError: a run is not valid.
    """
    document = Document(read_text(PARAMS), PARAMS, "rca sweep")
    for name, section in variants.items():
        document.set(f"run.{name}={format_value(section)}")
    document.set(f"runs={format_value(list(dict.fromkeys([*runs, base, *variants])))}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PARAMS).write_text(document.text, encoding="utf-8")
        trial = read_params(Path(folder) / PARAMS, Path("rca sweep"))
    settings = {name: gather_settings(trial.described[name], trial) for name in (base, *variants)}
    known = list(settings.values())
    names = list(settings)
    return [name for place, name in enumerate(names) if place and settings[name] not in known[:place]]


def gather_settings(run: Run, params: Params) -> tuple[object, ...]:
    """All that two runs must share to be the same, with defaults filled in."""
    options = (
        read_options(load_host(run.host), run.host_options, run.name, PARAMS),
        read_options(load_method(run.method), run.options, run.name, PARAMS),
    )
    return run.host, run.method, options, run.supervision, run.taken_from, run.sections


def describe_sweep(dataset: str, runs: Sequence[str], seeds: Sequence[int]) -> str:
    """The table of a sweep's runs, and their paired differences to the first."""
    layout = Layout(dataset)
    table = build_table({run: [read_json(layout.of(run, seed).metrics) for seed in seeds] for run in runs})
    return "\n".join(part for part in (format_markdown(table), format_differences(table)) if part)
