import numpy as np
import pytest
from PIL import Image

from rca.core.files import PALETTE
from rca.prediction import overlays
from rca.prediction.labels import LabelSummary


def find(*labels: int) -> list[LabelSummary]:
    return [LabelSummary(label, f"class {label}", 100 - label, 0.01, 0.5) for label in labels]


def colours_of(picture: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in picture.getcolors(1 << 24)}


def swatch(label: int) -> tuple[int, ...]:
    return tuple(PALETTE[3 * label : 3 * label + 3])


@pytest.mark.parametrize("count", [1, 2, 20, 80])
@pytest.mark.parametrize("width", [480, 1600])
def test_the_legend_has_a_colour_for_each_class_in_the_mask(count: int, width: int) -> None:
    labels = range(0, count + 1)
    legend = overlays.draw_legend(find(*labels), width)
    assert legend.width == width
    assert legend.height < 1200
    seen = colours_of(legend)
    assert {swatch(label) for label in labels[1:]} <= seen
    assert swatch(count + 1) not in seen


def test_entries_do_not_overlap_and_stay_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = []
    draw = overlays.ImageDraw.Draw

    def spy(image: Image.Image) -> object:
        canvas = draw(image)
        write = canvas.text

        def text(place: tuple[float, float], words: str, ink: object, font: object, anchor: str) -> None:
            boxes.append(canvas.textbbox(place, words, font=font, anchor=anchor))
            write(place, words, ink, font, anchor=anchor)

        canvas.text = text
        return canvas

    monkeypatch.setattr(overlays.ImageDraw, "Draw", spy)
    names = ["potted plant", "x", "a name that is so long that no legend can hold it " * 3, "корабль", "Größe"]
    found = [LabelSummary(label, names[label % 5], 9, 0.123, 0.5) for label in range(1, 41)]
    legend = overlays.draw_legend(found, 700)
    assert len(boxes) == 40
    canvas = np.zeros((legend.height, legend.width), int)
    for left, top, right, bottom in boxes:
        assert left >= 0
        assert right <= legend.width
        canvas[round(top) : round(bottom), round(left) : round(right)] += 1
    assert canvas.max() == 1


def test_a_long_name_is_cut_and_its_share_is_kept() -> None:
    font = overlays._load_font(14)
    text = overlays.shorten("a very long name indeed", "  3.0%", font, 100)
    assert text.endswith("…  3.0%")
    assert font.getlength(text) <= 100
    assert overlays.shorten("cat", "  3.0%", font, 100) == "cat  3.0%"


@pytest.mark.parametrize(("height", "width"), [(96, 96), (2000, 3000), (3000, 40), (3, 2000)])
def test_the_overlay_shows_the_whole_mask_at_a_viewable_size(height: int, width: int) -> None:
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    sheet = overlays.draw_overlay(np.full((height, width, 3), 100, np.uint8), mask, find(0, 1))
    size = overlays.fit_size(width, height)
    assert max(size) <= 1600
    assert size[0] / size[1] == pytest.approx(width / height, rel=0.5 / min(size) + 0.01)
    assert sheet.width == max(480, size[0])
    assert sheet.height > size[1]
    picture = np.asarray(sheet)[: size[1]]
    left = (sheet.width - size[0]) // 2
    middle = picture[size[1] // 2]
    assert (middle[left + size[0] // 4] == 45).all()  # background: dimmed grey
    assert middle[left + size[0] * 3 // 4].tolist() == [118, 35, 35]  # 35 % of 100, 65 % of (128, 0, 0)
    assert swatch(1) in colours_of(sheet.crop((0, size[1], sheet.width, sheet.height)))


def test_the_legend_of_a_mask_of_background_names_no_class() -> None:
    sheet = overlays.draw_overlay(np.zeros((50, 60, 3), np.uint8), np.zeros((50, 60), np.uint8), find(0))
    empty = overlays.draw_legend([], 480)
    assert (np.asarray(sheet)[-empty.height :] == np.asarray(empty)).all()
    assert len(colours_of(empty)) > 2  # there are words
