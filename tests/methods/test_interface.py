"""The library knows hosts and methods by their interface alone: it names none of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from rca.classifier.registry import list_declared
from rca.core.imports import PACKAGE
from rca.hosts.base import Host
from rca.methods.base import Method

HOSTS, METHODS = list_declared(PACKAGE / "hosts", "HOST"), list_declared(PACKAGE / "methods", "METHOD")
# "rca" is also the name of the package, whose version is asked for.
PACKAGE_NAME = {"version('rca')"}
OUTSIDE = [
    path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in {"hosts", "methods"}
]
ROOMS = {"classifier", "data", "evaluation", "labels", "models", "segmentation", "stages", "training"}


def relate(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def list_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", OUTSIDE, ids=relate)
def test_only_the_bases_of_hosts_and_methods_are_imported(path: Path) -> None:
    of_parts = {name for name in list_imports(path) if name.startswith(("rca.hosts", "rca.methods"))}
    assert all(name.startswith(("rca.hosts.base.", "rca.methods.base.")) for name in of_parts), of_parts


@pytest.mark.parametrize("path", [path for path in OUTSIDE if relate(path).split("/")[0] in ROOMS], ids=relate)
def test_no_string_names_a_host_or_a_method(path: Path) -> None:
    tree = ast.parse(path.read_text())
    allowed = {id(part) for node in ast.walk(tree) if ast.unparse(node) in PACKAGE_NAME for part in ast.walk(node)}
    names = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in {*HOSTS, *METHODS} and id(node) not in allowed
    }
    assert not names


@pytest.mark.parametrize("path", OUTSIDE, ids=relate)
def test_networks_are_used_through_the_interface(path: Path) -> None:
    """What is taken from `network.host` and `network.method` is there for every host and every method."""
    kinds = {"host": Host, "method": Method}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr in kinds:
            owner = ast.unparse(node.value.value)
            if owner.endswith("network") or owner == "self":
                kind = kinds[node.value.attr]
                assert hasattr(kind, node.attr) or node.attr == "host", ast.unparse(node)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_knows_no_other_method_and_no_special_host(name: str) -> None:
    allowed = ("rca.core.", "rca.data.", "rca.hosts.base.", "rca.methods.base.", "rca.methods.parts.", "rca.models.")
    names = {one for one in list_imports(PACKAGE / f"methods/{name}.py") if one.startswith("rca.")}
    assert all(one.startswith(allowed) for one in names), names


@pytest.mark.parametrize("path", sorted((PACKAGE / "hosts").rglob("*.py")), ids=relate)
def test_a_host_knows_no_method(path: Path) -> None:
    assert not [name for name in list_imports(path) if name.startswith(("rca.methods", "rca.classifier"))]
