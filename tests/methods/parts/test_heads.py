import pytest
import torch
from torch import nn

from rca.methods.parts.heads import build_head, build_projection


def list_convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("convolutions", [1, 3])
def test_branches_are_heads_of_single_classes_side_by_side(convolutions: int) -> None:
    torch.manual_seed(0)
    classes, channels = 4, 3
    head, features = build_head(5, classes, convolutions, channels, branches=classes), torch.randn(2, 5, 6, 7)
    maps = head(features)
    for label in range(classes):
        alone = build_head(5, 1, convolutions, channels)
        for own, every in zip(list_convolutions(alone), list_convolutions(head), strict=True):
            place = slice(label * own.out_channels, (label + 1) * own.out_channels)
            own.weight.data, own.bias.data = every.weight.data[place], every.bias.data[place]
        torch.testing.assert_close(alone(features), maps[:, label : label + 1])


def test_a_branch_learns_from_its_class_alone() -> None:
    torch.manual_seed(0)
    head = build_head(5, 4, 2, 3, branches=4)
    head(torch.randn(2, 5, 6, 7))[:, 1].sum().backward()
    for layer in list_convolutions(head):
        trained = layer.weight.grad.unflatten(0, (4, -1)).flatten(1).abs().sum(1) > 0
        assert trained.tolist() == [False, True, False, False]


def test_the_published_heads_have_their_published_size() -> None:
    """Each branch has three 3x3 convolutions of 512 channels and a 1x1 one: 7.1 million parameters."""
    with torch.device("meta"):
        branches, shared = build_head(512, 20, 3, 512, branches=20), build_head(512, 20, 3, 512)
    one = 3 * (512 * 512 * 9 + 512)
    assert sum(parameter.numel() for parameter in branches.parameters()) == 20 * (one + 512 + 1)
    assert sum(parameter.numel() for parameter in shared.parameters()) == one + 20 * (512 + 1)


@pytest.mark.parametrize("branches", [1, 4])
def test_a_head_without_convolutions_is_linear(branches: int) -> None:
    head, features = build_head(5, 4, 0, 9, branches), torch.randn(2, 5, 3, 3)
    (layer,) = list_convolutions(head)
    expected = torch.einsum("cd,bdhw->bchw", layer.weight[..., 0, 0], features) + layer.bias[:, None, None]
    torch.testing.assert_close(head(features), expected)


def test_a_projection_keeps_the_channels() -> None:
    projection = build_projection(6, 3)
    assert [layer.kernel_size for layer in list_convolutions(projection)] == [(3, 3), (3, 3)]
    assert projection(torch.randn(2, 6, 4, 5)).shape == (2, 6, 4, 5)
