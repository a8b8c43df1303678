"""The registry of hosts and methods: each is a module that declares `HOST` or `METHOD`, found by the module's name."""

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from rca.core.errors import UserError
from rca.core.settings import Settings, build_settings
from rca.hosts.base import Host
from rca.methods.base import Method

PACKAGE = Path(__file__).parent.parent
Part = TypeVar("Part", Host, Method)


def load_host(name: str) -> type[Host]:
    """The class that the module `rca/hosts/<name>.py` declares as `HOST`.

    Raises:
        UserError: there is no such host.
    """
    return _load(Host, name)


def load_method(name: str) -> type[Method]:
    """The class that the module `rca/methods/<name>.py` declares as `METHOD`.

    Raises:
        UserError: there is no such method.
    """
    return _load(Method, name)


def _load(kind: type[Part], name: str) -> type[Part]:
    word = kind.__name__.lower()
    folder, attribute = PACKAGE / f"{word}s", word.upper()
    exists = name in {path.stem for path in folder.glob("*.py")}
    module = importlib.import_module(f"rca.{folder.name}.{name}") if exists else None
    declared = getattr(module, attribute, None)
    if not (isinstance(declared, type) and issubclass(declared, kind)):
        raise UserError(f"There is no {word} {name}: choose one of {', '.join(list_declared(folder, attribute))}.")
    return declared


def list_declared(folder: Path, name: str) -> list[str]:
    """The modules of a folder that assign a name at their top level, sorted; no module is imported."""
    return sorted(path.stem for path in folder.glob("*.py") if name in _list_assigned(path))


def _list_assigned(path: Path) -> set[str]:
    """The names that a module assigns at its top level; none if the module does not parse."""
    try:
        body = ast.parse(path.read_bytes()).body
    except SyntaxError:
        return set()
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign) and node.value is not None]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def read_options(
    kind: type[Host] | type[Method], options: Mapping[str, object], key: str, source: Path | str
) -> Settings:
    """The options of a host or a method as typed settings.

    Args:
        kind: The host or the method.
        options: The options as plain data.
        key: The dotted key of the options, for messages.
        source: The file or the part that holds them, for messages.

    Raises:
        UserError: an option is unknown or out of range.
    """
    return build_settings(kind.Options, options, key, source)


def check_pair(
    host: str, method: str, source: Path | str, cached: bool = False, options: Settings | None = None
) -> None:
    """Check that a host and a method work together.

    Args:
        host: The host's name.
        method: The method's name.
        source: The beginning of messages.
        cached: Whether they are trained on cached features, without the images.
        options: The method's options; None checks what all options need.

    Raises:
        UserError: they do not work together, or they need images and get cached features.
    """
    kind, method_kind = load_host(host), load_method(method)
    if host in method_kind.refuses:
        reason = method_kind.refuses[host]
        raise UserError(f"{source}: the method {method} does not work with the host {host}: {reason}.")
    if not cached:
        return
    needs = {
        f"the host {host} needs the images themselves": kind.needs_second_view or kind.needs_levels,
        f"the method {method} needs the images themselves": method_kind.needs_second_view,
        f"the options of the method {method} need further views of the images": bool(
            options and method_kind.list_views(options)
        ),
        f"the host {host} needs saliency maps, which are not cached with the features": kind.needs_saliency,
    }
    for need, is_so in needs.items():
        if is_so:
            raise UserError(f"{source}: {need}, but train_cam.backbone.trainable is none: set it to last_stage or all.")


def check_processes(host: str, processes: int, source: Path | str) -> None:
    """Check that a host can be trained by so many processes.

    Args:
        host: The host's name.
        processes: Number of processes.
        source: The beginning of messages.

    Raises:
        UserError: the host needs one process.
    """
    if processes > 1 and load_host(host).needs_one_process:
        raise UserError(
            f"{source}: the host {host} keeps a map of each image in files of one process, but"
            f" train_cam.optimisation.processes is {processes}: set it to 1."
        )
