"""Each command line in the documentation is one that its program takes: options, stages, presets and keys exist.

`tests/pipeline/test_readme.py` runs the README's; here each line is parsed by the program's own parser, and presets
are written.
"""

import argparse
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from snakemake.cli import get_argument_parser

from rca.cli.main import build_parser
from rca.cli.preset import apply_preset
from rca.core.settings import load_params
from rca.params.read import read_params
from rca.stages.base.stage import list_stages

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
PROGRAMS = ("rca", "snakemake", "dvc", "make", "pytest", "python", "tensorboard", "source", "export", "git", "cd")
START = re.compile(rf"(?:\w+=\S+ )*(?:{'|'.join(PROGRAMS)}) ")

# What names a command or its option in running text, without the rest: `rca export coco`, `rca check --out`.
NAME = re.compile(r"(rca|dvc|make)( [a-z-]+)*|rca STAGE|.* --[a-z-]+|.*\.\.\..*")


def list_blocks(text: str, *kinds: str) -> list[str]:
    return [block for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if kind in kinds]


def list_spans(page: str) -> list[str]:
    """The commands in running text."""
    plain = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return [span for found in re.findall(r"`([^`]+)`", plain) if START.match(span := " ".join(found.split()))]


def list_lines(page: str) -> list[str]:
    """The command lines of the shell blocks, and those in running text that have an argument."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = "\n".join(list_blocks(text, "bash", "sh", "console")).replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in blocks.splitlines() if START.match(line.removeprefix("$ ") + " ")]
    return [*lines, *(span for span in list_spans(page) if not NAME.fullmatch(span))]


LINES = sorted({(page, line) for page in PAGES for line in list_lines(page)})
NAMES = sorted({(page, span) for page in PAGES for span in list_spans(page) if NAME.fullmatch(span)})


def split(line: str) -> list[str]:
    """The words of a command without variables before it; comments, redirections and pipes end it."""
    words = shlex.split(line, comments=True)
    while re.match(r"\w+=", words[0]):
        words = words[1:]
    ends = [place for place, word in enumerate(words) if word in {"|", ">", "&&", "||", ";", "2>&1", "&"}]
    return words[: min(ends, default=len(words))]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the presets, and folders to which their links lead."""
    shutil.copytree(ROOT / "workflow/presets", tmp_path / "workflow/presets")
    for name in ("PHOTOS", "VOC_ROOT", "COCO_ROOT", "RCA_SHARED"):
        monkeypatch.setenv(name, str(tmp_path / "shared"))
    for path in (ROOT / "workflow/presets").glob("*.yaml"):
        for target in (load_params(path).get("links") or {}).values():
            (tmp_path / "shared" / target.partition("/")[2]).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)


def check_rca(words: list[str]) -> None:
    if words[0] in list_stages():
        build_parser().parse_args(words)
        return
    if words[0] == "preset" and words[1:2] == ["NAME"]:
        words[1] = "shapes"
    for place, word in enumerate(words):
        if word == "KEY=YAML":
            words[place] = "seeds=[0]"
    if words == ["preset"]:
        return
    parsed = build_parser().parse_args(words)
    if parsed.command == "preset":
        apply_preset(parsed.name, parsed.changes, force=True)
        assert read_params(Path("params.yaml")).runs


def check_snakemake(words: list[str]) -> None:
    options = get_argument_parser().parse_args(words)
    stages = yaml.safe_load((ROOT / "workflow/instances.yaml").read_text())["stages"]
    for word in {*options.targets, *options.until, *options.forcerun, *options.omit_from}:
        assert word in stages, word
    assert options.profile is None or all((ROOT / profile).is_dir() for profile in options.profile)


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = {name for names in targets for name in names.split()}
    assert {word for word in words if "=" not in word} <= known


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        path = ROOT / words[1].replace(".", "/")
        assert words[1].partition(".")[0] != "rca" or path.with_suffix(".py").exists() or path.is_dir()
    elif words[0] != "-c":
        assert (ROOT / words[0]).is_file()


def check_pytest(words: list[str]) -> None:
    for word in words:
        assert not word.startswith("tests") or (ROOT / word).exists(), word


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:60]}" for page, line in LINES])
def test_a_documented_command_exists(page: str, line: str) -> None:
    program, *words = split(line)
    match program:
        case "rca":
            check_rca(words)
        case "snakemake":
            check_snakemake(words)
        case "dvc":
            get_main_parser().parse_args(words)
        case "make":
            check_make(words)
        case "python":
            check_python(words)
        case "pytest":
            check_pytest(words)


def check_name(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Follow the names of commands down a parser; what begins with a dash is an option there."""
    for word in words:
        commands = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if word.startswith("-"):
            assert word in parser._option_string_actions, word
        elif commands and not word.isupper():  # `rca STAGE` stands for many
            assert word in commands[0], word
            parser = commands[0][word]


@pytest.mark.parametrize(("page", "name"), NAMES, ids=[f"{page}: {name[:60]}" for page, name in NAMES])
def test_a_command_or_option_that_is_only_named_exists(page: str, name: str) -> None:
    program, *words = name.replace("...", "").split()
    match program:
        case "rca":
            check_name(build_parser(), words)
        case "dvc":
            check_name(get_main_parser(), words)
        case "snakemake":
            check_name(get_argument_parser(), words)
        case "make":
            check_make(words)
        case "git":
            pass  # not a program of this project's
        case _:
            pytest.fail(f"nothing checks {name}: write it as a whole command")


def test_a_name_that_does_not_exist_is_found() -> None:
    for words in (["chek"], ["check", "--outt"], ["export", "coc"]):
        with pytest.raises(AssertionError):
            check_name(build_parser(), words)


def test_the_lines_are_found() -> None:
    found = {line for _, line in LINES}
    assert ("docs/running.md", "make test-slurm") in NAMES
    assert any(line.startswith("rca score --predictions") for line in found)
    assert any(line.startswith("snakemake --profile profiles/slurm") for line in found)
    assert len(found) > 60
    assert sum(page == "README.md" for page, _ in LINES) > 15


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_yaml_and_python_are_valid(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in list_blocks(text, "yaml"):
        yaml.safe_load(block)
    for block in list_blocks(text, "python"):
        compile(block, page, "exec")


def test_the_names_of_coco_2017_are_set_as_the_page_says() -> None:
    text = (ROOT / "docs/published_datasets.md").read_text(encoding="utf-8")
    (changes,) = re.findall(r"For the names of 2017 add\s+`(.*?)`", text, re.DOTALL)
    parsed = build_parser().parse_args(shlex.split(f"preset coco2014 {' '.join(changes.split())}"))
    apply_preset(parsed.name, parsed.changes, force=True)
    dataset = read_params(Path("params.yaml")).dataset
    assert dataset.annotations == "annotations/instances_{split}2017.json"  # type: ignore[union-attr]
    assert dataset.images == "{split}2017"  # type: ignore[union-attr]
