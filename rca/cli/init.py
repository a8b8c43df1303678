"""`rca init`: make a project in a folder of one's own, with params.yaml, dvc.yaml, Snakefile, profiles, git and DVC."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path

from rca.cli.edit import PARAMS, Document, refer_to_schema
from rca.cli.packaged import GENERATED
from rca.cli.preset import find_links, make_links, read_preset
from rca.cli.upgrade import write_generated
from rca.core.errors import UserError
from rca.core.files import write_text
from rca.params.instances import write_instances
from rca.params.read import read_params

DVC_CONFIG = "[core]\n    analytics = false\n"
NETWORKS = ("train_cam", "train_seg")


def make_project(
    folder: Path, preset: str, data: Path | None = None, weights: Path | None = None, changes: Sequence[str] = ()
) -> list[str]:
    """Make a project.

    Args:
        folder: Where to make it; it may exist, but must hold no project.
        preset: The preset that params.yaml starts from.
        data: The folder of the dataset; None takes where the preset's link leads.
        weights: A file with the initial weights of both networks' backbones; None keeps the preset's.
        changes: Changes to the preset, each as `dotted.key=YAML`.

    Returns:
        Lines that report what was done.

    Raises:
        UserError: there is a project already, or preset, data, weights or changes cannot be used.
    """
    for name in (str(PARAMS), *GENERATED):
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} exists already: name a new folder, or bring a project up to date with"
                f" `cd {folder} && rca init --upgrade`."
            )
    text, links = compose_params(preset, data, weights, changes)
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder):
        fresh = start_engines()
        write_generated()
        write_text(PARAMS, refer_to_schema(text))
        write_instances(read_params())
        linked = make_links(links)
        if fresh:
            commit(f"A project of rca {version('rca')}, from the preset {preset}")
    return [f"{folder} is a project now, from the preset {preset}.", *linked, f"Next: cd {folder} && rca run"]


def compose_params(
    preset: str, data: Path | None = None, weights: Path | None = None, changes: Sequence[str] = ()
) -> tuple[str, dict[Path, Path]]:
    """The text of a new project's params.yaml, and the links that it asks for.

    Args:
        preset: As for `make_project`.
        data: As for `make_project`.
        weights: As for `make_project`.
        changes: As for `make_project`.

    Raises:
        UserError: as `make_project` does; nothing is made from params that are not valid.
    """
    document = read_preset(preset)
    for change in changes:
        document.set(change)
    if data is not None:
        name_data(document, preset, data)
    if weights is not None:
        name_weights(document, weights)
    text = drop_head(leave_out_runs(document.text, document))
    with tempfile.TemporaryDirectory() as trial:
        (Path(trial) / PARAMS).write_text(text, encoding="utf-8")
        read_params(Path(trial) / PARAMS, Path(f"preset {preset}"))
    return text, find_links(document)


def name_data(document: Document, preset: str, data: Path) -> None:
    """Let the link to the dataset lead to a folder.

    Raises:
        UserError: there is no such folder, or the preset needs none.
    """
    name = str(document.content["dataset"]["name"])
    target = (document.content.get("links") or {}).get(name)
    if target is None:
        raise UserError(f"The preset {preset} needs no --data: leave it out, or choose another preset.")
    if not data.is_dir():
        raise UserError(f"--data {data} is no folder: name the one that holds the dataset.")
    inner = data / str(target).partition("/")[2]  # of $VOC_ROOT/VOC2012
    document.put(f"links.{name}", str((inner if inner.is_dir() else data).absolute()))


def name_weights(document: Document, weights: Path) -> None:
    """Let both networks start from a file, which tells what backbone it belongs to.

    Raises:
        UserError: there is no such file, or it fits no backbone.
    """
    from rca.models.probing import find_backbone, find_normalisation  # imported late: torch takes seconds

    link = "weights"
    while link in (document.content.get("links") or {}):
        link = f"own_{link}"
    sha256 = ""
    for network in NETWORKS:
        backbone = (document.content.get(network) or {}).get("backbone") or {}
        named = str(backbone.get("name", "resnet50"))
        found, sha256 = find_backbone(weights, named, backbone.get("output_stride", 16))
        if found != named:
            document.put(f"{network}.backbone.name", found)
        path = f"data/{link}/{weights.name}"
        settings = {"source": "file", "path": path, "sha256": sha256, **find_normalisation(found)}
        document.put(f"{network}.backbone.weights", settings)
    document.put(f"links.{link}", str(weights.absolute().parent))


def leave_out_runs(text: str, document: Document) -> str:
    """Leave out the runs that are described but not made, and name them in a comment.

    Args:
        text: The text of a params file.
        document: Its content.
    """
    described = document.content["run"]
    kept = {str(name) for name in document.content["runs"]}
    while bases := {str((described.get(name) or {}).get("base") or name) for name in kept} - kept:
        kept |= bases
    left = [name for name in described if name not in kept]
    if not left:
        return text
    lines = text.splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if re.match(r"run:", line))
    end = next((n for n in range(start + 1, len(lines)) if re.match(r"\w", lines[n])), len(lines))
    kept_lines, waiting, keep = [], [], True
    for line in lines[start + 1 : end]:
        key = re.match(r"  (\S+?):", line)
        if key is None and re.match(r"\s*(#|$)", line):
            waiting.append(line)  # a comment belongs to what follows it
            continue
        keep = key[1] in kept if key else keep
        kept_lines += [*waiting, line] if keep else []
        waiting = []
    more = f"  # The preset describes more runs: {', '.join(left)} (`rca preset` writes all of it).\n"
    return "".join([*lines[: start + 1], *kept_lines, more, *waiting, *lines[end:]])


def drop_head(text: str) -> str:
    """Leave out the comment at the top of a preset, which says how to apply it."""
    lines = text.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    head = (
        "# Your settings; what is left out has its default: `rca get KEY` prints any, `rca set KEY=VALUE` changes it.\n"
    )
    return head + "".join(lines[first:])


def start_engines() -> bool:
    """Put the current folder under git and DVC where it is not.

    Returns:
        Whether it is a git repository of its own that this made.

    Raises:
        UserError: git or DVC refuses.
    """
    top = _run(["git", "rev-parse", "--show-toplevel"], check=False)
    if not top:
        _run(["git", "init", "--quiet"])
    if not Path(".dvc").exists():
        below = bool(top) and Path(top).resolve() != Path.cwd().resolve()
        _run([sys.executable, "-m", "dvc", "init", "--quiet", *(["--subdir"] if below else [])])
        write_text(Path(".dvc/config"), DVC_CONFIG)
    return not top


def commit(message: str) -> None:
    """Commit all files, in the user's name if git knows it."""
    known = _run(["git", "config", "user.email"], check=False)
    name = [] if known else ["-c", "user.name=rca", "-c", "user.email=rca@localhost"]
    _run(["git", "add", "--all"])
    _run(["git", *name, "commit", "--quiet", "--message", message])


def _run(command: list[str], check: bool = True) -> str:
    """Run a command, and return what it printed.

    Raises:
        UserError: it is not installed, or failed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is missing: install it (Debian: apt-get install {command[0]}).") from None
    if check and done.returncode:
        words = " ".join(command[:3] if command[0] != sys.executable else ["dvc", *command[3:4]])
        raise UserError(f"`{words}` failed: {' '.join(done.stderr.split())[:300]}.")
    return done.stdout.strip() if not done.returncode else ""
