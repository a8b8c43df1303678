"""Each key of params.yaml that a page names in its text is one of docs/params.md, which the settings classes write."""

import re
from pathlib import Path

import pytest

from rca.core.settings import Settings
from rca.params.schema import load_stages

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
LISTED = re.findall(r"^\| `([\w.<>]+)` \|", (ROOT / "docs/params.md").read_text(encoding="utf-8"), re.MULTILINE)
# A key stands for its sections too, and a page on one section or method leaves the first parts out.
PARTS = [key.split(".") for key in LISTED]
KNOWN = {
    ".".join(parts[start:end]) for parts in PARTS for start in range(len(parts)) for end in range(start, len(parts) + 1)
}
SECTIONS = {parts[0] for parts in PARTS} | {part for parts in PARTS for part in parts[1:-1]}
KEY = re.compile(r"([a-z]\w*(?:\.[a-z<]\w*>?)+)(?=$|=|: )")
CHOICES = {"kind", "source", "format"}  # what tells the form of a section, listed as "With `kind: ...`"
# A run as a whole, code, and files.
OTHERS = re.compile(r"run\.(<name>|host)|\w+\.(txt|csv|py|json)")


def find_keys(text: str) -> list[str]:
    """The keys in running text: `a.b`, `a.b=1` or `a.b: 1`, where a is a section."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = [KEY.match(" ".join(span.split())) for span in re.findall(r"`([^`]+)`", plain)]
    keys = [re.sub(r"^run\.(<\w+>|\w+)\.", "", match[1]) for match in found if match]
    return [re.sub(r"^(resources|sources)\.\w+\.", r"\1.<name>.", key) for key in keys]


@pytest.mark.parametrize("page", PAGES)
def test_the_keys_of_a_page_exist(page: str) -> None:
    keys = find_keys((ROOT / page).read_text(encoding="utf-8"))
    keys = [key.rpartition(".")[0] if key.split(".")[-1] in CHOICES else key for key in keys]
    ours = [key for key in keys if key.split(".")[0] in SECTIONS and not OTHERS.fullmatch(key)]
    assert [key for key in ours if key not in KNOWN] == []


def test_keys_are_found_and_a_wrong_one_is_unknown() -> None:
    text = "`train_cam.optimisation.epoch` `run.cam.train_seg.loss.mixture: {}`\n```sh\n`train_cam.x`\n```\n`tags.csv`"
    assert find_keys(text) == ["train_cam.optimisation.epoch", "train_seg.loss.mixture", "tags.csv"]
    assert [key in KNOWN for key in find_keys(text)] == [False, True, False]
    assert sum(len(find_keys((ROOT / page).read_text(encoding="utf-8"))) for page in PAGES) > 250


@pytest.mark.parametrize("stage", [name for name, stage in load_stages().items() if stage.section is not None])
def test_every_key_below_a_section_is_listed(stage: str) -> None:
    section = load_stages()[stage].section
    assert section is not None
    names, waiting, seen = set(), [section], set()
    while waiting:
        kind: type[Settings] = waiting.pop()
        if kind not in seen:
            seen.add(kind)
            names |= set(kind.model_fields)
            waiting += kind.list_inner()
    assert {part for parts in PARTS if parts[0] == stage for part in parts} >= names - CHOICES
