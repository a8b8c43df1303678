import pytest
import torch

from rca.models.output import Output, require


def test_the_scores_are_the_refined_maps_if_there_are_any() -> None:
    maps, features, valid = torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), torch.ones(1, 1, 3, 3)
    output = Output(maps, features, valid)
    assert output.scores is maps
    refined = maps + 1
    assert output._replace(refined=refined).scores is refined
    assert not output.extras


def test_a_value_that_nobody_asked_for_raises_a_clear_error() -> None:
    value = torch.ones(1)
    assert require(value, "needs_second_view") is value
    with pytest.raises(RuntimeError, match="uses what needs_second_view provides: set needs_second_view on its class"):
        require(None, "needs_second_view")
