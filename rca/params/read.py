"""Read a params file: defaults, overridden by the file's sections, overridden by each run."""

from collections.abc import Mapping
from pathlib import Path

from rca.classifier.registry import check_pair, load_host, load_method, read_options
from rca.core.errors import UserError, flatten
from rca.core.files import hash_file
from rca.core.settings import Plain, Settings, build_settings, load_params, merge, name_nearest
from rca.params.project import ProjectSettings, RunSettings
from rca.params.schema import Params, Run, load_stages
from rca.params.validate import check_params

PARAMS = Path("params.yaml")


def read_params(path: Path = PARAMS, source: Path | None = None) -> Params:
    """Read and validate a params file, with the overrides of every run.

    Args:
        path: The file.
        source: The file's name in messages; by default its path.

    Raises:
        UserError: the file is missing or broken, a key is unknown, a value is out of range, or parts are inconsistent.
    """
    try:
        return _read(path, source or path)
    except UserError as error:
        folder = f"{(source or path).parent}/"
        # Names and values in it may be anything.
        raise UserError(flatten(str(error), spare=len(folder) if folder in str(error) else 0)) from None


def _read(path: Path, source: Path) -> Params:
    data = load_params(path)
    kinds = {name: stage.section for name, stage in load_stages().items() if stage.section is not None}
    known = {*ProjectSettings.model_fields, *kinds}
    for key in data.keys() - known:
        raise UserError(f"{source}: {key} is an unknown key: remove it or fix its spelling{name_nearest(key, known)}.")
    project_data = {key: value for key, value in data.items() if key in ProjectSettings.model_fields}
    project = build_settings(ProjectSettings, project_data, "", source)
    filled = {name: fill_in(kind, data.get(name), name, source) for name, kind in kinds.items()}
    sections = {name: build_settings(kinds[name], filled[name], name, source) for name in kinds}
    described = {name: read_run(name, project.run, filled, kinds, source) for name in project.runs}
    params = Params(project, sections, described, hash_file(path))
    check_params(params, source)
    return params


def fill_in(kind: type[Settings], data: object, name: str, source: Path) -> Plain:
    """Fill in the defaults of a section's plain data.

    Raises:
        UserError: the data is not a mapping.
    """
    if not isinstance(data, Mapping | None):
        raise UserError(f"{source}: {name} must be a section of keys, not {data!r}.")
    return merge(kind().model_dump(mode="json"), data or {})


def read_run(
    name: str,
    described: Mapping[str, Plain],
    sections: Mapping[str, Plain],
    kinds: Mapping[str, type[Settings]],
    source: Path,
) -> Run:
    """Read and validate a run.

    Args:
        name: The run.
        described: The plain data of all runs.
        sections: The plain data of each section, with defaults.
        kinds: The class of each section.
        source: The params file, for messages.

    Raises:
        UserError: a key is unknown, a value is out of range, or host and method cannot be combined.
    """
    place = f"run.{name}"
    stages = load_stages()
    data = inherit(name, described, source)
    run_data = {key: value for key, value in data.items() if key not in kinds}
    settings = build_settings(RunSettings, run_data, place, source)
    overrides = {key: value for key, value in data.items() if key in kinds}
    for key, value in overrides.items():
        if "run" not in stages[key].axes or not stages[key].overridable:
            raise UserError(f"{source}: {place}.{key} cannot differ between runs: set it in {key}.")
        if not isinstance(value, Mapping):
            raise UserError(f"{source}: {place}.{key} must be a section of keys, not {value!r}.")
    try:
        host, method = load_host(settings.host), load_method(settings.method)
    except UserError as error:
        raise UserError(f"{source}: {place}: {error}") from None
    read_options(host, settings.host_options, f"{place}.host_options", source)
    options = read_options(method, settings.options, f"{place}.options", source)
    frozen = sections["train_cam"]["backbone"].get("trainable") == "none"
    check_pair(settings.host, settings.method, f"{source}: {place}", frozen, options)
    return Run(
        name=name,
        host=settings.host,
        host_options=settings.host_options,
        method=settings.method,
        options=settings.options,
        supervision=settings.supervision if settings.masks_from is None else "run",
        masks_from=settings.masks_from,
        taken_from=settings.base if settings.train == "none" else None,
        averages=settings.averages,
        keeps_memory=method.keeps_memory and settings.averages is None,
        needs_saliency=host.needs_saliency and settings.averages is None,
        sections={
            key: build_settings(kind, merge(sections[key], overrides.get(key, {})), f"{place}.{key}", source)
            for key, kind in kinds.items()
        },
    )


def inherit(name: str, described: Mapping[str, Plain], source: Path) -> Plain:
    """Merge the plain data of a run over that of its chain of bases.

    If a run has another host or method than its base, it does not inherit the base's options for it.

    Raises:
        UserError: a base is unknown, or the chain of bases is a cycle.
    """
    chain = [name]
    while (base := described[chain[-1]].get("base")) is not None:
        if not isinstance(base, str) or base not in described:
            raise UserError(f"{source}: run.{chain[-1]}.base names {base}, but there is no section run.{base}: add it.")
        if base in chain:
            raise UserError(f"{source}: run.{base}.base leads back to {base}: remove it there.")
        chain.append(base)
    data: Plain = {}
    for link in reversed(chain):
        data.pop("train", None)  # a run that takes a network may be the base of one that trains
        link_data = described[link]
        for kind, options in (("host", "host_options"), ("method", "options")):
            inherited = data.get(kind, RunSettings.model_fields[kind].default)
            if link_data.get(kind, inherited) != inherited:
                data.pop(options, None)
        data = merge(data, link_data)
    return data
