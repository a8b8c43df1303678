"""The files that a project has from the package: in `rca/project` of a wheel, at the top of the repository."""

import json
from pathlib import Path

from rca.core.errors import UserError
from rca.core.imports import PACKAGE
from rca.core.settings import name_nearest

FILES = PACKAGE / "project" if (PACKAGE / "project").is_dir() else PACKAGE.parent
# A project's own presets, which come before the package's.
PRESETS = Path("workflow/presets")
SCHEMA = Path("params.schema.json")
# The files that `rca init` writes and `rca init --upgrade` brings up to date, and where the package has them.
GENERATED = {
    "dvc.yaml": "dvc.yaml",
    "Snakefile": "workflow/project/Snakefile",
    "profiles/default/config.yaml": "profiles/default/config.yaml",
    "profiles/slurm/config.yaml": "profiles/slurm/config.yaml",
    ".gitignore": "workflow/project/gitignore",
    ".dvcignore": ".dvcignore",
    ".dvc/plots/per_class.json": ".dvc/plots/per_class.json",
}


def list_presets() -> dict[str, Path]:
    """The files of the presets, by name: the package's, and over them the project's own."""
    files = [path for folder in (FILES / PRESETS, PRESETS) for path in folder.rglob("*.yaml")]
    return {path.stem: path for path in sorted(files, key=lambda path: (path.is_relative_to(PRESETS), path.stem))}


def find_preset(name: str) -> Path:
    """The file of a preset.

    Raises:
        UserError: there is no such preset.
    """
    presets = list_presets()
    if name not in presets:
        raise UserError(
            f"There is no preset {name}{name_nearest(name, presets)}: choose one of {', '.join(sorted(presets))}."
        )
    return presets[name]


def read_generated() -> dict[str, str]:
    """The generated files of a project as this version writes them: their paths and texts."""
    from rca.params.json_schema import describe_params  # imported late: it loads the settings of all stages

    texts = {path: (FILES / source).read_text(encoding="utf-8") for path, source in GENERATED.items()}
    return {**texts, SCHEMA.as_posix(): json.dumps(describe_params(), indent=1) + "\n"}
