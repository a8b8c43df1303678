"""The pages that people read: their links lead somewhere, and what they list is what is there."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern))
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def drop_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def list_anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    anchors: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", drop_code(text), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{anchor}-{anchors[anchor]}" if anchors[anchor] else anchor)
        anchors[anchor] += 1
    return found


def list_broken_links(page: Path, text: str) -> list[str]:
    """The links of a page to files that do not exist, or to headings that their page lacks."""
    broken = []
    for path, anchor in LINK.findall(drop_code(text)):
        target = page.parent / path if path else page
        missing_anchor = anchor and target.suffix == ".md" and anchor not in list_anchors(target.read_text())
        if not target.exists() or missing_anchor:
            broken.append(f"{path}#{anchor}" if anchor else path)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert list_broken_links(page, page.read_text()) == []


def test_broken_links_are_found() -> None:
    page = ROOT / "docs/glossary.md"
    text = "\n".join(
        [
            "[a](gone.md) [b](extending.md#gone) ![c](gone.png) [d](#gone)",
            "[e](extending.md#what-a-host-can-override) [f](https://gone.example) [g](../rca)",
            "```",
            "[h](in_code.md)",
            "```",
        ]
    )
    assert list_broken_links(page, text) == ["gone.md", "extending.md#gone", "gone.png", "#gone"]


def test_contributing_lists_every_room_of_the_package() -> None:
    listed = re.findall(r"^\| `rca/(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in (ROOT / "rca").glob("*/__init__.py"))


def test_the_glossary_explains_the_words_of_the_project() -> None:
    explained = re.findall(r"^\* \*\*(.+?)\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words = (
        *(
            "CAM",
            "Score map",
            "Pseudo label",
            "Refined mask",
            "Fixed and best threshold",
            "Undecided",
            "Weak over full",
        ),
        *("Host", "Method", "Region", "Memory bank", "Prototype", "Snapshot", "Output stride"),
        *("Run", "Shard", "Pin"),
    )
    assert set(words) <= set(explained)
    assert explained.count("Seed") == 2  # the mask and the random one


def test_every_page_is_on_the_site() -> None:
    tree = re.search(r"```\{toctree\}(.*?)```", (ROOT / "docs/index.md").read_text(), re.DOTALL)
    assert tree
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= set(tree[1].split())


def test_the_recording_is_short_and_names_no_machine() -> None:
    (printed,) = re.findall(r"```console\n\$ make run\n(.*?)```", (ROOT / "docs/recording.md").read_text(), re.DOTALL)
    assert len(printed.splitlines()) < 80
    assert not re.search(r"(^|[\s'\"(])/\w|file:|://|\x1b", printed)
    # The README shows some of its figures.
    readme = (ROOT / "README.md").read_text()
    for run in ("cam", "rca"):
        (shown,) = re.findall(rf"^\| {run} \| ([\d.]+ ± .*) \|$", readme, re.MULTILINE)
        (row,) = re.findall(rf"^\| {run} \| best \| (\d.*) \|$", printed, re.MULTILINE)
        assert set(shown.split(" | ")) <= set(row.split(" | "))


def test_the_notebook_is_stored_as_it_is_before_it_runs() -> None:
    cells = json.loads((ROOT / "docs/tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    text = "".join(line for cell in code for line in cell["source"])
    for name in ("rca.load(", ".predict(", ".plot()", "rca.cam(", "rca.results("):
        assert name in text
