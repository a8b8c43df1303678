"""Presets: whole params files, the package's and the project's own, applied together with a link to the dataset."""

import os
import subprocess
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from rca.cli.edit import Document, refer_to_schema
from rca.cli.packaged import find_preset, list_presets
from rca.core.errors import UserError
from rca.core.files import write_file
from rca.core.settings import are_alike
from rca.params.instances import write_instances
from rca.params.read import PARAMS, read_params

# Defaults of the environment variables in links.
DEFAULTS = {"RCA_SHARED": "../shared"}
DEEPEST = 8  # presets upon presets


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
    source = find_preset(name)
    if not force and _has_edits():
        raise UserError(f"{PARAMS} has edits that are not committed: commit them, or overwrite them with --force.")
    document = read_preset(name)
    for change in changes:
        document.set(change)
    links = find_links(document)
    with write_file(PARAMS) as temporary:
        temporary.write_text(refer_to_schema(document.text), encoding="utf-8")
        params = read_params(temporary, source)  # before it replaces the old one
    write_instances(params)
    return [f"{PARAMS} is now the preset {name}.", *make_links(links)]


def read_preset(name: str) -> Document:
    """Read a preset; one with the key `preset` holds only what differs from that other preset.

    Raises:
        UserError: there is no such preset, or presets lead back to themselves.
    """
    layers = [_open_preset(name)]
    while (base := layers[-1].content.get("preset")) is not None:
        layers.append(_open_preset(str(base)))
        if len(layers) > DEEPEST:
            raise UserError(f"The preset {name} leads back to itself: correct its key preset.")
    document = layers.pop()
    heads = [_take_head(document.text)]
    for layer in reversed(layers):
        heads.append(_take_head(layer.original))
        del layer.content["preset"]
        _lay_over(document, layer.content)
    return document if not layers else Document(heads[-1] + document.text.removeprefix(heads[0]), find_preset(name))


def _open_preset(name: str) -> Document:
    path = find_preset(name)
    return Document(path.read_text(encoding="utf-8"), path)


def _take_head(text: str) -> str:
    """The comment at the top of a preset."""
    return "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))


def _lay_over(document: Document, values: Mapping[str, object], above: str = "") -> None:
    """Lay values over a document, as `rca.core.settings.merge` does, so that its comments stay."""
    for key, value in values.items():
        old = document.find(f"{above}{key}")
        if isinstance(value, Mapping) and isinstance(old, Mapping) and are_alike(old, value):
            _lay_over(document, value, f"{above}{key}.")
        else:
            document.put(f"{above}{key}", value)


def find_links(document: Document) -> dict[Path, Path]:
    """The links that a params file asks for, and where they lead.

    Raises:
        UserError: a link would lead nowhere, or replace a folder.
    """
    links = {
        Path("data") / key: _expand(str(target), key) for key, target in (document.content.get("links") or {}).items()
    }
    for link in links:
        if link.exists() and not link.is_symlink():
            raise UserError(f"{link} is a directory of its own, not a link: move it away.")
    return links


def make_links(links: Mapping[Path, Path]) -> list[str]:
    """Make links, and return a line for each."""
    for link, target in links.items():
        _link(link, target)
    return [f"{link} -> {target}" for link, target in links.items()]


def _has_edits() -> bool:
    """Whether params.yaml has edits that are in neither git nor a preset."""
    if not PARAMS.exists():
        return False
    command = ["git", "status", "--porcelain", "--", str(PARAMS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0 and not result.stdout.strip():
        return False
    written = PARAMS.read_bytes()
    return all(refer_to_schema(read_preset(name).text).encode() != written for name in list_presets())


def _expand(target: str, key: str) -> Path:
    """A link's target with its environment variable filled in."""
    if target.startswith("$"):
        variable, slash, rest = target[1:].partition("/")
        base = os.environ.get(variable) or DEFAULTS.get(variable)
        if base is None:
            raise UserError(
                f"links.{key} needs the environment variable {variable}: set it, or name the folder with --data of"
                f" `rca init` or with --set links.{key}=FOLDER."
            )
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
