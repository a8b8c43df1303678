"""Each term of MCIS against the equations of the paper and its released code, position by position."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from slow_maps import list_places, mean, pool, soft_margin, softmax

from rca.data.loading.images import Sample
from rca.hosts.cam import CamHost
from rca.methods.mcis import Mcis, McisOptions
from rca.models.output import Output

CHANNELS, CLASSES, PAIRS = 6, 4, 3
SIZE, COPIES = (3, 5), ((3, 5), (2, 4), (6, 10))
# Images 0 and 3 are a pair, 1 and 4, 2 and 5: both of the first have other classes, none of the second, 5 of the third.
TAGS = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]).double()
ALL = {"classification", "co_attention", "contrastive", "self_pairs"}


def build(**options: Any) -> Mcis:
    torch.manual_seed(0)
    settings = McisOptions.model_validate({"affinity": {"form": "scaled"}, **options})
    method = Mcis(settings, CHANNELS, CLASSES, CamHost)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter)
    return method.double()


def draw_output(method: Mcis, number: int, size: tuple[int, int], seed: int, padded: bool) -> Output:
    features = torch.randn(number, CHANNELS, *size, generator=torch.Generator().manual_seed(seed)).relu().double()
    valid = torch.ones(number, 1, *size).double()
    if padded:
        valid[1, :, :, size[1] - 1 :], valid[2, :, 1:] = 0, 0
    return method(features, valid)


def make_batch(tags: torch.Tensor, weight: torch.Tensor) -> Sample:
    blank, frame = torch.zeros(len(tags), 1, 40, 56), torch.tensor([1.0, 0, 1, 0]).repeat(len(tags), 1)
    return Sample(blank, blank, tags, blank[:, 0].long(), torch.arange(len(tags)), frame, weight)


class Image:
    """The features (D, h, w) of an image, and where they lie on it (h, w)."""

    def __init__(self, output: Output, number: int) -> None:
        self.features = output.features[number].detach().numpy()
        self.inside = output.valid[number, 0].numpy()
        self.places = list(list_places(self.inside))


def classify(weight: np.ndarray, image: Image, features: np.ndarray, tags: list[float]) -> float:
    """CE(GAP(phi(F)), y)."""
    return soft_margin(pool(np.einsum("cd,dyx->cyx", weight, features), image.inside), tags)


def attend(affinity: Callable[[np.ndarray, np.ndarray], float], image: Image, other: Image) -> np.ndarray:
    """F_other A: at each position of an image the mean of another's features, weighted by a softmax of the affinity."""
    found = np.zeros_like(image.features)
    for y, x in image.places:
        logits = [affinity(image.features[:, y, x], other.features[(slice(None), *place)]) for place in other.places]
        for share, place in zip(softmax(logits), other.places, strict=True):
            found[:, y, x] += share * other.features[(slice(None), *place)]
    return found


class Reference:
    """The terms of the loss, without their weights."""

    def __init__(self, method: Mcis, output: Output, tags: torch.Tensor, weight: torch.Tensor) -> None:
        self.options = method.options
        self.images = [Image(output, number) for number in range(2 * PAIRS)]
        self.copies = [[Image(copy, number) for number in range(PAIRS)] for copy in output.copies or ()]
        self.tags, self.weight = tags.tolist(), weight.tolist()
        self.phi = method.host.classifier.weight.detach().numpy()[:, :, 0, 0]
        self.gate = getattr(method, "own_host", method.host).classifier.weight.detach().numpy()[:, :, 0, 0]
        self.merge = method.shared.weight.detach().numpy()[0, :, 0, 0] if hasattr(method, "shared") else None
        self.projection = method.affinity.weight.detach().numpy()

    def forwards(self, first: np.ndarray, second: np.ndarray) -> float:
        """F_m^T W F_n of a position of the first image and one of the second, over the root of D if scaled."""
        scale = CHANNELS**0.5 if self.options.affinity.form == "scaled" else 1.0
        return float(first @ self.projection @ second) / scale

    def backwards(self, second: np.ndarray, first: np.ndarray) -> float:
        return self.forwards(first, second)

    def partner(self, number: int) -> int:
        return (number + PAIRS) % (2 * PAIRS)

    def shared_tags(self, number: int) -> list[float]:
        return [one * two for one, two in zip(self.tags[number], self.tags[self.partner(number)], strict=True)]

    def other_tags(self, number: int) -> list[float]:
        return [one * (1 - two) for one, two in zip(self.tags[number], self.tags[self.partner(number)], strict=True)]

    def pair_weight(self, number: int) -> float:
        return min(self.weight[number], self.weight[self.partner(number)])

    def co_attention(self, number: int) -> np.ndarray:
        affinity = self.forwards if number < PAIRS else self.backwards
        return attend(affinity, self.images[number], self.images[self.partner(number)])

    def find_classification(self) -> float:
        """L_basic: one mean over the images and their partners."""
        return mean(
            [
                self.weight[number] * classify(self.phi, image, image.features, self.tags[number])
                for number, image in enumerate(self.images)
            ]
        )

    def find_co_attention(self) -> float:
        """L_co-att: the classes of both images, one mean over the images and their partners."""
        return mean(
            [
                self.pair_weight(number)
                * classify(self.gate, image, self.co_attention(number), self.shared_tags(number))
                for number, image in enumerate(self.images)
            ]
        )

    def find_contrastive(self) -> float:
        """L_contrast: CE(GAP(phi(F (1 - B))), y_m without y_n), a mean over the images + a mean over the partners."""
        total = 0.0
        for half in (range(PAIRS), range(PAIRS, 2 * PAIRS)):
            counted = [number for number in half if any(self.other_tags(number))]
            if self.options.contrastive.rows == "all" and counted:
                counted = list(half)
            terms = []
            for number in counted:
                image, mask = self.images[number], self.find_mask(number)
                loss = classify(self.gate, image, image.features * (1 - mask), self.other_tags(number))
                terms.append(self.pair_weight(number) * loss)
            total += mean(terms) if terms else 0.0
        return total

    def find_mask(self, number: int) -> np.ndarray:
        """B: the sigmoid of a 1x1 convolution of the co-attention, or the shared classes' maps as shares of peaks."""
        found, image = self.co_attention(number), self.images[number]
        if self.merge is not None:
            return 1 / (1 + np.exp(-np.einsum("d,dyx->yx", self.merge, found)))
        mask = np.zeros(image.inside.shape)
        for label, tag in enumerate(self.shared_tags(number)):
            if tag:
                one = np.einsum("d,dyx->yx", self.gate[label], found)
                peak = max(float(one[place]) for place in image.places)
                mask = np.maximum(mask, one / max(peak, 1e-5))
        return np.clip(mask, 0, 1)

    def find_self_pairs(self) -> float:
        """For each kind of copy, basic and co-attention loss of the pair, each one mean over images and copies."""
        if self.options.self_pairs == "itself":
            return mean(
                [
                    self.weight[number]
                    * classify(self.gate, image, attend(self.forwards, image, image), self.tags[number])
                    for number, image in enumerate(self.images)
                ]
            )
        total = 0.0
        for copies in self.copies:
            basic, attended = [], []
            for number, copy in enumerate(copies):
                image, tags, weight = self.images[number], self.tags[number], self.weight[number]
                basic += [weight * classify(self.phi, one, one.features, tags) for one in (image, copy)]
                for one, other, affinity in ((image, copy, self.forwards), (copy, image, self.backwards)):
                    attended.append(weight * classify(self.gate, one, attend(affinity, one, other), tags))
            total += mean(basic) + mean(attended)
        return total


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"affinity": {"form": "dot"}},
        {"classifier": "own", "self_pairs": "itself"},
        {"contrastive": {"mask": "maps"}},
        {"classifier": "own", "contrastive": {"mask": "maps", "rows": "all"}},
        {"contrastive": {"rows": "all"}, "self_pairs": "itself"},
    ],
)
@torch.no_grad()
def test_every_term_is_the_published_formula(options: dict[str, Any], padded: bool) -> None:
    method = build(**options)
    for seed, weight in enumerate((torch.ones(6), torch.tensor([1, 0.5, 1, 0.25, 1, 1]))):
        output = draw_output(method, 2 * PAIRS, SIZE, seed, padded)
        if method.views:
            copies = [draw_output(method, PAIRS, size, 10 + seed, padded) for size in COPIES]
            output = output._replace(copies=tuple(copies))
        losses = method.compute_losses(output, make_batch(TAGS, weight.double()), 2)
        reference = Reference(method, output, TAGS, weight)
        assert losses.keys() == ALL
        for name, loss in losses.items():
            assert float(loss) == pytest.approx(getattr(reference, f"find_{name}")(), abs=1e-9), name


@torch.no_grad()
def test_a_half_in_which_no_image_has_other_classes_adds_nothing() -> None:
    tags = TAGS.clone()
    tags[0] = torch.tensor([1.0, 0, 0, 0])  # the images now have no other classes, two partners still do
    for rows in ("others", "all"):
        method = build(contrastive={"rows": rows}, self_pairs="itself")
        output = draw_output(method, 2 * PAIRS, SIZE, 0, False)
        losses = method.compute_losses(output, make_batch(tags, torch.ones(6)), 2)
        reference = Reference(method, output, tags, torch.ones(6))
        assert not any(any(reference.other_tags(number)) for number in range(PAIRS))
        assert float(losses["contrastive"]) == pytest.approx(reference.find_contrastive(), abs=1e-9)
        assert losses["contrastive"] > 0
