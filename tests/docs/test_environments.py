"""Recipes of environments: no builder is here, so what they name is held against what is there."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE, APPTAINER = (ROOT / "Dockerfile").read_text(), (ROOT / "apptainer.def").read_text()
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
SECTIONS = {"files", "post", "environment", "runscript", "test"}


def list_instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions and what follows each."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        yield name, rest


def read_sections() -> dict[str, list[str]]:
    """The header and the sections of Apptainer's recipe, each with its lines."""
    header, *parts = re.split(r"^%(\w+)\n", APPTAINER, flags=re.MULTILINE)
    texts = {"header": header, **dict(zip(parts[::2], parts[1::2], strict=True))}
    return {
        name: [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        for name, text in texts.items()
    }


def list_tested() -> list[str]:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    pythons: list[str] = job["strategy"]["matrix"]["python"]
    return pythons


def list_programs() -> set[str]:
    """What `make setup` needs besides Python, under the names of Debian's packages."""
    text = (ROOT / "workflow/check_prerequisites.py").read_text()
    return {"make", *re.findall(r"apt-get install ([\w+-]+)\)", text)} - {"python3-venv", "python3-dev"}


def test_the_images_have_a_python_that_the_ci_tests() -> None:
    instructions = dict(list_instructions())
    image = instructions["FROM"]
    assert re.fullmatch(r"python:(\d+\.\d+)-slim-bookworm", image)[1] in list_tested()  # type: ignore[index]
    assert f"From: {image}" in read_sections()["header"]
    (python,) = [part for part in CONDA["dependencies"] if str(part).startswith("python=")]
    assert python.removeprefix("python=") in list_tested()


def test_the_images_are_set_up_as_a_clone_is() -> None:
    commands = " ".join(rest for name, rest in list_instructions() if name == "RUN")
    post = "\n".join(read_sections()["post"])
    for text in (commands, post):
        (installed,) = re.findall(r"apt-get install ((?:[\w+-]+ ?)+)", text)
        assert {word for word in installed.split() if not word.startswith("--")} == list_programs()
        assert "make --directory /opt/rca setup" in text
    assert [rest for name, rest in list_instructions() if name == "COPY"] == [". /opt/rca"]
    assert read_sections()["files"] == [". /opt/rca"]
    assert "PATH=/opt/rca/.venv/bin:$PATH" in dict(list_instructions())["ENV"]
    assert "export PATH=/opt/rca/.venv/bin:$PATH" in read_sections()["environment"]


def test_the_recipes_hold_known_parts_alone() -> None:
    assert {name for name, _ in list_instructions()} == {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "ENTRYPOINT"}
    assert next(list_instructions())[0] == "FROM"
    assert dict(list_instructions())["ENTRYPOINT"] == '["rca"]'
    assert set(read_sections()) == {"header", *SECTIONS}
    assert read_sections()["runscript"] == ['exec rca "$@"']
    for name in ("post", "test"):
        for line in read_sections()[name]:
            assert shlex.split(line)


def test_no_output_gets_into_an_image() -> None:
    """What git ignores at the top stays out, and nothing that git tracks."""
    left_out = {line.strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#"}
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line[0] != "#"}
    assert {name.replace("__pycache__", "**/__pycache__") for name in ignored} <= left_out


def test_conda_installs_the_lock_and_the_project() -> None:
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    *packages, last = CONDA["dependencies"]
    assert {"pip", "git", "make", "cxx-compiler"} <= set(packages)
    requirement, project = last["pip"]
    assert (ROOT / shlex.split(requirement)[1]).is_file()
    assert project == "."


def read_lock() -> dict[str, list[str]]:
    """The locked versions by name; one may differ between systems."""
    locked: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        locked.setdefault(requirement.name.lower().replace("_", "-").replace(".", "-"), []).append(specifier.version)
    return locked


def list_requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for listed in extras.values() for text in listed)]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != "rca"]


@pytest.mark.parametrize("requirement", list_requirements(), ids=str)
def test_the_lock_fits_what_the_project_asks_for(requirement: Requirement) -> None:
    versions = read_lock().get(requirement.name.lower().replace("_", "-").replace(".", "-"))
    assert versions, f"{requirement} is not locked: run `make lock`"
    assert all(requirement.specifier.contains(version) for version in versions)


def test_only_the_crf_takes_a_compiler() -> None:
    """What is compiled on installation is an extra, which the others do not ask for but for the developers' own."""
    extras = PROJECT["optional-dependencies"]
    assert [name for name, texts in extras.items() if any(text.startswith("pydensecrf") for text in texts)] == ["crf"]
    assert not any(text.startswith("pydensecrf") for text in PROJECT["dependencies"])
    assert extras["predict"] == []
    asking = {name for name, texts in extras.items() for text in texts if "crf" in Requirement(text).extras}
    assert asking == {"dev"}
