"""Presets: whole params files in `workflow/presets`, applied together with a link to the dataset."""

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from rca.core.errors import UserError
from rca.core.files import write_file
from rca.params.instances import write_instances
from rca.params.read import PARAMS, read_params

PRESETS = Path("workflow/presets")
# Defaults of the environment variables in links.
DEFAULTS = {"RCA_SHARED": "../shared"}


def list_presets() -> list[str]:
    """The names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def apply_preset(name: str, changes: list[str], force: bool) -> list[str]:
    """Write params.yaml from a preset, and make its links under `data/`.

    Args:
        name: The preset.
        changes: Changes to the preset, each as `dotted.key=YAML`.
        force: Overwrite params.yaml even if it has uncommitted edits.

    Returns:
        Lines that report what was done.

    Raises:
        UserError: an unknown preset or key, an invalid value, uncommitted edits, or a link to a missing folder.
    """
    source = PRESETS / f"{name}.yaml"
    if not source.is_file():
        raise UserError(f"There is no preset {name}: choose one of {', '.join(list_presets())}.")
    if not force and _has_edits():
        raise UserError(f"{PARAMS} has edits that are not committed: commit them, or overwrite them with --force.")
    yaml = YAML()  # keeps comments and order; as safe as the safe loader, since it builds only plain data
    yaml.width = 10_000
    text = source.read_text(encoding="utf-8")
    document = yaml.load(text)
    for change in changes:
        _set(document, change, yaml)
    links = {Path("data") / key: _expand(str(target), key) for key, target in (document.get("links") or {}).items()}
    for link in links:
        if link.exists() and not link.is_symlink():
            raise UserError(f"{link} is a directory of its own, not a link: move it away.")
    with write_file(PARAMS) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            if changes:
                yaml.dump(document, file)
            else:
                file.write(text)
        params = read_params(temporary, source)  # before it replaces the old one
    write_instances(params)
    done = [f"{PARAMS} is now the preset {name}."]
    for link, target in links.items():
        _link(link, target)
        done.append(f"{link} -> {target}")
    return done


def _has_edits() -> bool:
    """Whether params.yaml has edits that are in neither git nor a preset."""
    if not PARAMS.exists():
        return False
    if PARAMS.read_bytes() in [path.read_bytes() for path in PRESETS.glob("*.yaml")]:
        return False
    command = ["git", "status", "--porcelain", "--", str(PARAMS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return bool(result.stdout.strip()) or result.returncode != 0


def _set(document: Any, change: str, yaml: YAML) -> None:
    dotted, equals, text = change.partition("=")
    if not equals:
        raise UserError(f"--set {change}: write dotted.key=value, e.g. --set seeds='[0, 1]'.")
    try:
        value = yaml.load(text)
    except YAMLError:
        raise UserError(f"--set {change}: {text} is not valid YAML.") from None
    if any(getattr(event, "anchor", None) for event in yaml.parse(text)):
        raise UserError(f"--set {change}: write values out: `dvc exp run -S` changes all places that share an anchor.")
    *parents, last = dotted.split(".")
    place = document
    for part in parents:
        if not hasattr(place, "keys"):
            break
        if part not in place:
            place[part] = CommentedMap()
        elif isinstance(place, CommentedMap) and part not in dict(place.non_merged_items()):
            # The value was merged by `<<` from another section, which must not change with this one.
            place[part] = copy.deepcopy(place[part])
        place = place[part]
    if not hasattr(place, "keys"):
        raise UserError(f"--set {change}: {'.'.join(parents)} is no section: name the key of a value.")
    place[last] = value  # an unknown key is found when the whole file is validated


def _expand(target: str, key: str) -> Path:
    """A link's target with its environment variable filled in."""
    if target.startswith("$"):
        variable, slash, rest = target[1:].partition("/")
        base = os.environ.get(variable) or DEFAULTS.get(variable)
        if base is None:
            raise UserError(f"links.{key} needs the environment variable {variable}: set it to where the data lies.")
        target = base + slash + rest
    path = Path(target).expanduser()
    if not path.exists():
        raise UserError(f"links.{key} leads to {path}, which does not exist: set it with --set links.{key}=/its/path.")
    return path.resolve()


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target, target_is_directory=True)
