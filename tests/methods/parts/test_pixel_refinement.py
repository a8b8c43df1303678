import numpy as np
import pytest
import torch
from torch import Tensor

from rca.methods.parts.pixel_refinement import refine_by_pixels

AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def softmax(logits: list[float]) -> np.ndarray:
    powers = np.exp(np.array(logits) - max(logits))
    return powers / powers.sum()


def refine_slowly(scores: Tensor, images: Tensor, valid: Tensor, dilations: tuple[int, ...], iterations: int) -> Tensor:
    """One position and one neighbour after another."""
    height, width = scores.shape[2:]
    for _ in range(iterations):
        before, scores = scores, torch.zeros_like(scores)
        for image in range(len(scores)):
            for y in range(height):
                for x in range(width):
                    places, reach = [], []
                    for dilation in dilations:
                        for down, right in AROUND:
                            v = min(max(y + down * dilation, 0), height - 1)
                            u = min(max(x + right * dilation, 0), width - 1)
                            places.append((v, u))
                            reach.append(dilation * (down**2 + right**2) ** 0.5)
                    colours = np.array([images[image, :, v, u].numpy() for v, u in places])
                    spread = colours.std(0, ddof=1) + 1e-8
                    unlike = np.abs(colours - images[image, :, y, x].numpy()) / spread / 0.3
                    far = np.array(reach) / (np.std(reach, ddof=1) + 1e-8) / 0.3
                    outside = [valid[image, 0, v, u] == 0 for v, u in places]
                    alike = softmax(np.where(outside, -1e4, -(unlike**2).mean(1)))
                    near = softmax(np.where(outside, -1e4, -(far**2)))
                    weights = (alike + 0.01 * near) / 1.01
                    scores[image, :, y, x] = sum(
                        weight * before[image, :, v, u] for weight, (v, u) in zip(weights, places, strict=True)
                    )
    return scores


def draw() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    images = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    valid = torch.ones(2, 1, 5, 7, dtype=torch.float64)
    valid[1, :, :, 5:] = 0
    return scores, images, valid


@pytest.mark.parametrize("dilations", [(1,), (1, 2), (3,)])
def test_scores_move_as_position_by_position(dilations: tuple[int, ...]) -> None:
    parts = draw()
    found = refine_by_pixels(*parts, dilations, 2)
    torch.testing.assert_close(found, refine_slowly(*parts, dilations, 2))


def test_scores_stop_at_an_edge_in_colour() -> None:
    images = torch.zeros(1, 3, 6, 8)
    images[..., 4:] = 1
    scores = torch.zeros(1, 2, 6, 8)
    scores[:, 0, :, :4], scores[:, 1, :, 4:] = 1, 1
    scores[:, :, 2, 1] = torch.tensor([0.0, 1.0])  # a speck
    scores[:, :, 3, 4] = torch.tensor([1.0, 0.0])  # beside the edge
    found = refine_by_pixels(scores, images, torch.ones(1, 1, 6, 8), (1, 2), 5).argmax(1)[0]
    assert (found[:, :4] == 0).all()
    assert (found[:, 4:] == 1).all()


def test_what_lies_on_padding_is_never_taken() -> None:
    scores, images, valid = draw()
    spoilt, elsewhere = scores.clone(), images.clone()
    spoilt[1, :, :, 5:] = 99
    elsewhere[1, :, :, 5:] = images[1, :, :, 4:5]  # where the image stands for a neighbour's spread
    images = elsewhere
    inside = (valid > 0).expand_as(scores)
    one, two = (refine_by_pixels(values, images, valid, (1,), 3) for values in (scores, spoilt))
    torch.testing.assert_close(one[inside], two[inside])
    assert one.max() <= scores.max()


def test_without_iterations_scores_stay() -> None:
    scores, images, valid = draw()
    assert torch.equal(refine_by_pixels(scores, images, valid, (1, 2), 0), scores)
