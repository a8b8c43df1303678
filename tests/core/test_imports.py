import subprocess
import sys
from pathlib import Path

import pytest

import rca.core.imports
from rca.core.imports import PACKAGE, Closures, find_closure, find_imports


def closure(*names: str) -> set[str]:
    return {path.relative_to(PACKAGE).as_posix() for path in find_closure([PACKAGE / name for name in names])}


def test_a_method_brings_its_parts_and_no_other_method_or_host() -> None:
    found = closure("methods/rca.py")
    assert {name for name in found if name.startswith("hosts/")} == {"hosts/base.py"}
    parts = {f"methods/{name}.py" for name in ("base", "parts/contrast", "parts/memory", "parts/prototypes", "rca")}
    assert parts | {"models/pooling.py", "core/settings.py", "core/errors.py"} <= found
    assert not any(name.startswith("stages/") or name == "methods/cam.py" for name in found)


def test_the_plain_method_does_not_depend_on_rca() -> None:
    assert {name for name in closure("methods/cam.py") if name.startswith("methods/")} == {
        "methods/cam.py",
        "methods/base.py",
    }


def test_a_closure_holds_itself_and_is_sorted() -> None:
    found = find_closure([PACKAGE / "methods/parts/memory.py"])
    assert PACKAGE / "methods/parts/memory.py" in found
    assert found == sorted(set(found))


def test_imports_of_other_packages_are_left_out(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "import torch, rca.core.errors\nfrom rcab import x\ndef f():\n    from rca.methods.parts import memory\n"
    )
    found = {path.relative_to(PACKAGE).as_posix() for path in find_imports(module) if path.stat().st_size}
    assert found == {"__init__.py", "core/errors.py", "methods/parts/memory.py"}


def test_imports_for_type_checkers_alone_do_not_run(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rca.evaluation.metrics\nelse:\n"
        "    import rca.evaluation.tables\n"
        "if True:\n    import rca.core.errors\n"
    )
    found = {path.relative_to(PACKAGE).as_posix() for path in find_imports(module) if path.stat().st_size}
    assert found == {"__init__.py", "core/errors.py", "evaluation/tables.py"}


def test_the_checksum_of_a_closure_tells_its_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rca.core.imports, "PACKAGE", tmp_path / "rca")
    (tmp_path / "rca").mkdir()
    module, other, apart = (tmp_path / f"rca/{name}.py" for name in ("module", "other", "apart"))
    module.write_text("import rca.other")
    other.write_text("a = 1")
    apart.write_text("b = 1")

    def compute_hash() -> str:
        closures = Closures()
        return closures.hash(closures.find([module]))

    before = compute_hash()
    apart.write_text("b = 2")
    assert compute_hash() == before
    other.write_text("a = 2")
    assert compute_hash() != before


@pytest.mark.parametrize("stage", ["make_pseudo", "tabulate", "prepare_data"])
def test_a_closure_holds_every_module_that_python_loads(stage: str) -> None:
    code = (
        f"import sys, rca.stages.{stage}\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.split('.')[0] == 'rca'))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {Path(name).relative_to(PACKAGE).as_posix() for name in output.split() if Path(name).stat().st_size}
    assert loaded <= closure(f"stages/{stage}.py")
