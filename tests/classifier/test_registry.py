import importlib
from pathlib import Path

import pytest

from rca.classifier.registry import check_pair, check_processes, list_declared, load_host, load_method, read_options
from rca.core.errors import UserError
from rca.core.imports import PACKAGE
from rca.hosts.base import Host
from rca.methods.base import Method

HOSTS = ["cam", "eps", "oaa", "seam", "seam_eps"]
METHODS = ["cam", "hsc", "mcis", "rca", "rca_extended"]


def test_the_declared_names_are_those_of_the_modules() -> None:
    assert list_declared(PACKAGE / "hosts", "HOST") == HOSTS
    assert list_declared(PACKAGE / "methods", "METHOD") == METHODS
    for folder, attribute, names in (("hosts", "HOST", HOSTS), ("methods", "METHOD", METHODS)):
        for path in (PACKAGE / folder).glob("*.py"):
            module = importlib.import_module(f"rca.{folder}.{path.stem}")
            assert hasattr(module, attribute) == (path.stem in names), path


def test_a_name_is_declared_by_an_assignment_at_the_top_level_alone(tmp_path: Path) -> None:
    for name, code in {
        "plain": "METHOD = 1",
        "annotated": "METHOD: int = 1",
        "unset": "METHOD: int",
        "text": '"""\nMETHOD = 1\n"""',
        "inner": "def f():\n    METHOD = 1",
        "broken": "METHOD = (",
        "other": "HOST = 1",
        "empty": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    assert list_declared(tmp_path, "METHOD") == ["annotated", "plain"]


def test_classes_are_loaded_by_name() -> None:
    for name in METHODS:
        assert issubclass(load_method(name), Method)
    for name in HOSTS:
        assert issubclass(load_host(name), Host)
    assert load_host("cam").__name__ == "CamHost"
    assert load_method("rca").__name__ == "Rca"


@pytest.mark.parametrize("name", ["hscc", "base", "parts", "__init__", "../errors", "parts.memory", "", "os"])
def test_an_unknown_name_raises_an_error_that_lists_the_declared_names(name: str) -> None:
    declared = ", ".join(METHODS)
    with pytest.raises(UserError, match=rf"^There is no method {name}: choose one of {declared}\.$"):
        load_method(name)
    with pytest.raises(UserError, match=rf"^There is no host {name}: choose one of cam, eps, oaa, seam, seam_eps\.$"):
        load_host(name)


def test_a_declaration_of_another_kind_is_no_method(monkeypatch: pytest.MonkeyPatch) -> None:
    for declared in (Host, Method.forward, None):
        monkeypatch.setattr("rca.methods.hsc.METHOD", declared)
        with pytest.raises(UserError, match="There is no method hsc"):
            load_method("hsc")


def test_only_rca_keeps_a_memory_and_only_mcis_pairs_images() -> None:
    assert [name for name in METHODS if load_method(name).keeps_memory] == ["rca", "rca_extended"]
    assert [name for name in METHODS if load_method(name).pairs_images] == ["mcis"]


def test_a_refused_pair_raises_an_error_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_method("rca"), "refuses", {"cam": "its classifier is too plain"})
    with pytest.raises(UserError, match="here: the method rca does not work with the host cam: its classifier is too"):
        check_pair("cam", "rca", "here")
    check_pair("cam", "cam", "here")


def test_a_method_that_needs_images_refuses_cached_features(monkeypatch: pytest.MonkeyPatch) -> None:
    check_pair("cam", "rca", "here", cached=True)
    monkeypatch.setattr(load_method("rca"), "needs_second_view", True)
    check_pair("cam", "rca", "here")
    with pytest.raises(UserError, match=r"here: the method rca needs the images themselves, but train_cam.backbone"):
        check_pair("cam", "rca", "here", cached=True)


@pytest.mark.parametrize("need", ["needs_second_view", "needs_levels", "needs_saliency"])
def test_a_host_that_needs_more_than_features_refuses_cached_ones(need: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_pair("oaa", "cam", "here", cached=True)
    monkeypatch.setattr(load_host("oaa"), need, True)
    check_pair("oaa", "cam", "here")
    with pytest.raises(
        UserError, match=r"here: the host oaa needs .*, but train_cam\.backbone\.trainable is none: set"
    ):
        check_pair("oaa", "cam", "here", cached=True)


def test_a_host_of_one_process_refuses_several() -> None:
    check_processes("oaa", 1, "here")
    check_processes("cam", 2, "here")
    with pytest.raises(UserError, match=r"here: the host oaa .* but train_cam\.optimisation\.processes is 2: set it"):
        check_processes("oaa", 2, "here")


def test_options_are_typed_and_named() -> None:
    assert read_options(load_method("rca"), {"memory": {"size": 3}}, "options", "here").memory.size == 3
    with pytest.raises(UserError, match=r"here: options\.memory\.sise is an unknown key"):
        read_options(load_method("rca"), {"memory": {"sise": 3}}, "options", "here")
    with pytest.raises(UserError, match=r"here: options\.anything is an unknown key"):
        read_options(load_method("cam"), {"anything": 1}, "options", "here")
