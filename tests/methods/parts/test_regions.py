import pytest
import torch
from torch import Tensor

from rca.methods.parts.regions import GRID, Regions, locate_regions

HEIGHT, WIDTH = 30, 48  # of the batch's images, at stride 6
CELLS = (5, 8)


def draw_masks(number: int, seed: int) -> Tensor:
    masks = (torch.rand(number, *CELLS, generator=torch.Generator().manual_seed(seed)) < 0.2).float()
    masks[:, 2, 3] = 1  # none is empty
    return masks


def paint(mask: Tensor, frame: tuple[float, float, float, float]) -> set[tuple[int, int]]:
    """The pixels (x, y) of the photograph whose centre lies in the region, found pixel by pixel."""
    a, b, c, d = frame
    inside = set()
    for y in range(-100, 200):
        for x in range(-100, 200):
            column, row = ((x + 0.5 - b) / a) / WIDTH * CELLS[1], ((y + 0.5 - d) / c) / HEIGHT * CELLS[0]
            if 0 <= column < CELLS[1] and 0 <= row < CELLS[0] and mask[int(row), int(column)]:
                inside.add((x, y))
    return inside


@pytest.mark.parametrize("frame", [(1, 0, 1, 0), (-1, 48, 1, 0), (2, 10, 1.5, 20), (-2, 106, 1.5, 20)])
def test_a_region_lies_in_the_photograph_where_its_pixels_lie(frame: tuple[float, float, float, float]) -> None:
    masks = draw_masks(4, seed=0)
    boxes, regions = locate_regions(masks, torch.tensor([frame] * 4, dtype=torch.float32), (HEIGHT, WIDTH))
    assert regions.shape == (4, GRID, GRID)
    assert set(regions.unique().tolist()) <= {0, 255}
    for mask, box, region in zip(masks, boxes.tolist(), regions.numpy(), strict=True):
        pixels = paint(mask, frame)
        columns, rows = ([pixel[axis] for pixel in pixels] for axis in (0, 1))
        assert box == pytest.approx([min(columns), min(rows), max(columns) + 1, max(rows) + 1], abs=0.5)
        left, top, right, bottom = box
        agree = total = 0
        for y in range(round(top), round(bottom)):
            for x in range(round(left), round(right)):
                cell = region[
                    int((y + 0.5 - top) / (bottom - top) * GRID), int((x + 0.5 - left) / (right - left) * GRID)
                ]
                agree += ((x, y) in pixels) == (cell > 0)
                total += 1
        assert agree / total > 0.85  # a coarse grid over a jagged region


def test_a_single_cell_fills_its_box() -> None:
    masks = torch.zeros(1, *CELLS)
    masks[0, 4, 7] = 1
    boxes, regions = locate_regions(masks, torch.tensor([[1.0, 0, 1, 0]]), (HEIGHT, WIDTH))
    assert boxes.tolist() == [[42, 24, 48, 30]]
    assert (regions == 255).all()


def test_no_regions_are_located_nowhere() -> None:
    boxes, regions = locate_regions(torch.zeros(0, *CELLS), torch.zeros(0, 4), (HEIGHT, WIDTH))
    assert (boxes.shape, regions.shape) == ((0, 4), (0, GRID, GRID))


def test_regions_are_selected_part_by_part() -> None:
    parts = [torch.arange(5) * 10**power for power in range(6)]
    chosen = Regions(*parts).select(torch.tensor([True, False, False, True, True]))
    assert [part.tolist() for part in chosen] == [[0, 3 * 10**power, 4 * 10**power] for power in range(6)]
