"""Which modules of this package a module imports, by reading the code and without running it."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


class Closures:
    """Import closures of modules of the package; each file is read once."""

    def __init__(self) -> None:
        self._imports: dict[Path, tuple[Path, ...]] = {}
        self._checksums: dict[Path, str] = {}

    def find(self, modules: Iterable[Path]) -> list[Path]:
        """All files of the package that some modules import, directly or not, themselves included.

        Imports inside functions count; those for type checkers alone do not. The `__init__.py` of a package counts
        when it is not empty. So do files of other kinds beside a module, such as its templates. Modules that are
        imported by a computed name are not seen.

        Args:
            modules: Files of the package.

        Returns:
            Sorted paths.
        """
        found: set[Path] = set()
        waiting = list(modules)
        while waiting:
            path = waiting.pop()
            if path not in found and path.stat().st_size:
                found.add(path)
                waiting += self._find_imports(path)
        return sorted(found)

    def hash(self, files: Iterable[Path]) -> str:
        """The SHA-256 of the names and contents of files of the package, in hexadecimal."""
        digest = hashlib.sha256()
        for path in files:
            if path not in self._checksums:
                self._checksums[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(PACKAGE).as_posix()} {self._checksums[path]}\n".encode())
        return digest.hexdigest()

    def _find_imports(self, path: Path) -> tuple[Path, ...]:
        if path not in self._imports:
            beside = (file for file in path.parent.iterdir() if file.is_file() and file.suffix not in {".py", ".typed"})
            self._imports[path] = (*find_imports(path), *beside) if path.suffix == ".py" else ()
        return self._imports[path]


def find_closure(modules: Iterable[Path]) -> list[Path]:
    """As `Closures.find`."""
    return Closures().find(modules)


def find_imports(module: Path) -> list[Path]:
    """The files of the package that one module imports."""
    return [path for name in _list_names(module.read_text(encoding="utf-8")) for path in _find_files(name)]


@cache
def _list_names(code: str) -> tuple[str, ...]:
    """The names that a module's code imports."""
    names: list[str] = []
    for node in _walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from rca.models import x` names a module or something inside one; the file decides which.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements but those that never run, and the parts of statements that hold others; no expression does."""
    yield tree
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        tree = ast.Module(tree.orelse, [])
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _walk(node)


def _find_files(name: str) -> list[Path]:
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return []
    packages = [PACKAGE.joinpath(*parts[1:end], "__init__.py") for end in range(1, len(parts) + 1)]
    module = PACKAGE.joinpath(*parts[1:]).with_suffix(".py")
    return [path for path in (*packages, module) if path.is_file() and path != PACKAGE.with_suffix(".py")]
