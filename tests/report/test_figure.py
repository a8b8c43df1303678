"""Figures for papers: what masks do to a photograph, names, legend, crops and formats."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from rca.core.files import IGNORE, PALETTE
from rca.report.figure import SAFE, FigureLook, FigureRow, choose_colours, draw_figure, save_figure, tint

CLASSES = ("cat", "dog", "cow")


def draw(width: int = 60, height: int = 40) -> tuple[np.ndarray, np.ndarray]:
    photograph = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[5:30, 8:50] = 2
    mask[33:38, 50:58] = IGNORE
    return photograph, mask


def test_a_mask_keeps_the_light_of_the_photograph() -> None:
    photograph, mask = draw()
    colours = choose_colours([2], "voc")
    assert colours[2] == tuple(value / 255 for value in PALETTE[6:9])
    picture = tint(photograph, mask, colours, 0.4)
    np.testing.assert_allclose(picture[mask == 0], photograph[mask == 0] / 255)
    inside = np.zeros(mask.shape, bool)
    inside[6:29, 9:49] = True
    wanted = 0.6 * photograph[inside] / 255 + 0.4 * np.array(colours[2])
    np.testing.assert_allclose(picture[inside], wanted)
    assert (picture[5, 8:50] == 1).all()  # the edge
    stripes = (picture[mask == IGNORE] == 1).all(1)
    assert 0 < stripes.mean() < 1


def test_safe_colours_differ() -> None:
    colours = choose_colours(list(range(1, 2 * len(SAFE) + 1)), "safe")
    assert colours[1] == to_rgb(SAFE[0])
    assert len(set(colours.values())) == 2 * len(SAFE)


@pytest.mark.parametrize("form", ["pdf", "svg", "png"])
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, form: str) -> None:
    photograph, mask = draw()
    contents = []
    for name in ("one", "two"):
        rows = [FigureRow(photograph, [None, mask], (10, 8, 12, 9)), FigureRow(photograph[:, :30], [None, None])]
        figure = draw_figure(rows, ["photograph", "seed"], CLASSES, FigureLook(names=True))
        save_figure(figure, tmp_path / name, form)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    text = contents[0].decode(errors="replace")
    if form == "png":
        with Image.open(tmp_path / "one") as picture:
            assert picture.width == pytest.approx(2 * 1.5 * 300, abs=2)
    if form == "svg":
        assert text.count(">dog<") == 2  # on its region, and in the legend
        assert ">seed<" in text
        assert ">cat<" not in text  # no mask shows it
    if form == "pdf":
        assert text.startswith("%PDF")
        assert "CreationDate" not in text


def test_a_crop_is_magnified() -> None:
    photograph, mask = draw()
    figure = draw_figure([FigureRow(photograph, [mask], (10, 8, 12, 9))], ["seed"], CLASSES)
    panel = figure.axes[0]
    inset = panel.child_axes[0]
    shown = inset.get_images()[0].get_array()
    np.testing.assert_allclose(shown, panel.get_images()[0].get_array()[8:17, 10:22])
    rectangle = panel.patches[0]
    assert (rectangle.get_x(), rectangle.get_y(), rectangle.get_width(), rectangle.get_height()) == (9.5, 7.5, 12, 9)


def test_rows_must_fit_the_headings() -> None:
    photograph, _ = draw()
    with pytest.raises(ValueError, match="Each row needs 2 masks"):
        draw_figure([FigureRow(photograph, [None])], ["a", "b"], CLASSES)
