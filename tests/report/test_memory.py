"""The report's section of the memory bank: its map, its regions and its figures."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reports import EVIL, IDS, RUNS, WRITTEN, build_project, remember, render

from rca.core.errors import UserError
from rca.evaluation.memory_statistics import describe_memory
from rca.report.memory import arrange_rows, choose_marks, cut_region
from rca.report.pictures import DIMMED
from rca.report.specs import MAP, draw_memory


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    build_project(tmp_path)
    return tmp_path


def test_the_map_has_a_mark_for_each_entry(project: Path) -> None:
    snapshot = remember(WRITTEN)
    page = render(project)
    entries = page.charts["memory-0"]["datasets"]["map"]
    assert [(entry["class"], entry["image"], entry["epoch"]) for entry in entries] == [
        (name, IDS[snapshot.image[row, slot]], snapshot.epoch[row, slot] + 1)
        for row, name in enumerate((EVIL, "cat"))
        for slot in range(WRITTEN[row])
    ]
    places = pd.read_csv(project / f"runs/toy/evaluation/{RUNS[-1]}-0/memory/map.csv")
    np.testing.assert_allclose([(entry["x"], entry["y"]) for entry in entries], places[["x", "y"]], atol=1e-4)
    assert f"{EVIL} {WRITTEN[0]}" in " ".join(page.words.split())


def test_an_entry_of_an_unknown_image_says_so(project: Path) -> None:
    path = project / f"runs/toy/evaluation/{RUNS[-1]}-0/memory/map.csv"
    table = pd.read_csv(path)
    table.loc[0, "image"] = ""
    table.to_csv(path, index=False)
    assert render(project).charts["memory-0"]["datasets"]["map"][0]["image"] == "unknown image"


def test_the_memory_names_are_escaped(project: Path) -> None:
    page = render(project)
    assert EVIL not in page.text
    assert "a<b&c" not in page.text
    assert any(EVIL in str(image["alt"]) for image in page.images)


def test_centres_show_their_regions_with_pictures(project: Path) -> None:
    page = render(project)
    lines = pd.read_csv(f"runs/toy/evaluation/{RUNS[-1]}-0/memory/regions.csv")
    crops = [image for image in page.images if "/memory/" in str(image["data-src"])]
    assert len(crops) == len(lines)
    for image, line in zip(crops, lines.to_dict("records"), strict=True):
        assert image["alt"] == (
            f"region of {line['class']} in {line['image']}, epoch {line['epoch'] + 1}, cosine {line['cosine']:.2f}"
        )
    assert "Regions nearest to each prototype" in page.words
    assert "centroid, 3 regions" in page.words  # the class of three regions has no prototype
    remember((4, 3))
    assert "The method makes no prototypes." in render(project).words


def test_the_memory_table_agrees_with_the_statistics(project: Path) -> None:
    table = describe_memory(remember(WRITTEN))
    page = render(project)
    cells = page.list_rows()
    head = next(number for number, row in enumerate(cells) if row[-1:] == ["nearest other"])
    assert cells[head] == [
        *("class", "regions", "images", "age, epochs", "confidence", "spread", "purity", "cosine", "nearest other")
    ]
    for row, line in zip(cells[head + 1 :], table.to_dict("records"), strict=False):
        figures = [f"{line[key]:.2f}" for key in ("confidence", "spread")]
        counts = [str(line["fill"]), str(line["images"]), f"{line['age']:.1f}"]
        assert row == [line["class"], *counts, *figures, "", f"{line['cosine']:.2f}", line["nearest"]]
    assert cells[head + 3][:2] == ["mean", "7.5"]


def test_an_empty_memory_and_a_run_without_one(project: Path) -> None:
    remember((0, 0))
    page = render(project)
    assert "The memory holds no region yet." in page.words
    assert 'data-chart="memory' not in page.text
    page = render(project, memory_runs=())
    assert "Memory bank" not in page.words
    assert "#memory" not in page.links


def test_a_bad_memory_is_named(project: Path) -> None:
    folder = project / f"runs/toy/evaluation/{RUNS[-1]}-0/memory"
    Image.new("L", (16, 16)).save(folder / "regions.png")
    with pytest.raises(UserError, match=r"regions.png does not fit regions.csv: run evaluate again"):
        render(project)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"memory/regions.csv does not exist: run the stage that writes it"):
        render(project)


def test_a_region_outside_the_manifest_is_named(project: Path) -> None:
    path = project / f"runs/toy/evaluation/{RUNS[-1]}-0/memory/regions.csv"
    path.write_text(path.read_text().replace(",one,", ",stranger,"))
    with pytest.raises(UserError, match="a region of stranger, which is not in the manifest"):
        render(project)


def test_up_to_36_classes_have_different_marks() -> None:
    places = pd.DataFrame({"x": [], "y": [], "class": [], "image": [], "epoch": []})
    marks = [(one.colour, one.shape) for one in choose_marks(places, [str(number) for number in range(36)])]
    assert len(set(marks)) == 36
    assert all(first[0] != second[0] and first[1] != second[1] for first, second in pairwise(marks))


def test_the_map_keeps_proportions() -> None:
    places = pd.DataFrame({"x": [0.0, 3, 0], "y": [0.0, 0, 4], "class": "cat", "image": "one", "epoch": 0})
    (layer,) = draw_memory(places, {"cat": ("#000000", "circle")}, "")["layer"]
    (left, right), (bottom, top) = (layer["encoding"][name]["scale"]["domain"] for name in "xy")
    assert (right - left) / (top - bottom) == pytest.approx(MAP[0] / MAP[1], abs=0.001)
    assert left < 0 < 3 < right
    assert bottom < 0 < 4 < top < 4.3


def test_a_region_is_bright_and_the_rest_of_its_box_dim() -> None:
    photograph = np.zeros((40, 60, 3), np.uint8)
    photograph[10:30, 20:50] = (200, 100, 0)
    coverage = np.zeros((16, 16), np.uint8)
    coverage[:, :8] = 255
    picture = np.asarray(cut_region(photograph, (20, 10, 50, 30), coverage)).astype(int)
    assert picture.shape == (85, 128, 3)  # 30 x 20 pixels, enlarged
    assert (picture[:, :50] == (200, 100, 0)).all()
    grey = round(DIMMED * (0.299 * 200 + 0.587 * 100) / 100)
    assert abs(picture[:, -50:] - grey).max() <= 1
    # What reaches over the edge, or is thinner than a pixel, is cut to what there is.
    assert cut_region(photograph, (-5, -5, 5, 3), coverage).size == (128, 77)
    assert cut_region(photograph, (59.7, 39.7, 59.9, 39.9), coverage).size == (128, 128)


def test_a_figure_that_rounds_to_zero_has_no_sign() -> None:
    figures = {"fill": 3, "images": 2, "age": -0.04, "confidence": 1, "spread": -0.004, "purity": 0.5, "cosine": -0.001}
    line = {"class": "cat", "nearest": "", **figures}
    _, cells, _ = arrange_rows(pd.DataFrame([line, line]))[0]
    assert [cells[key] for key in ("age", "spread", "cosine")] == ["0.0", "0.00", "0.00"]
