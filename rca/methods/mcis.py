"""MCIS: mining cross-image semantics, by co-attention between two images that share a class.

Source: Sun, Wang, Dai and Van Gool, Mining Cross-Image Semantics for Weakly Supervised Semantic Segmentation, ECCV
2020. The loss is L_basic + L_co-att + L_contrastive, each a classification loss of both images of a pair.
docs/methods.md lists the differences from the released code.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rca.core.distributed import count_rows, sum_over_ranks
from rca.core.settings import Settings
from rca.data.loading.features import View
from rca.data.loading.images import Sample
from rca.hosts.base import MakeHost
from rca.methods.base import Method
from rca.methods.parts.attention import Affinity, AffinityOptions, summarise
from rca.models.output import Output, require
from rca.models.pooling import share_of_peak
from rca.models.resizing import size_of

COPIES = (View(1.0, True), View(0.75, False), View(2.0, False))
"""The copies of an image in the released code."""


class ContrastiveOptions(Settings):
    """The contrastive co-attention: classify what remains of an image without the objects it shares with its partner.

    Attributes:
        weight: Weight of the term in the loss; 0 leaves it out.
        start_epoch: The first epoch with the term, counted from 0.
        mask: How the shared objects are found in the co-attention: "learned" by a 1x1 convolution (the paper), or by
            the "maps" of the shared classes.
        rows: The images that count: those with "others", classes that the partner does not show, or "all" as soon as
            one has others (the released code), where nothing should remain of the rest.
    """

    weight: float = Field(default=1.0, ge=0)
    start_epoch: int = Field(default=2, ge=0)
    mask: Literal["learned", "maps"] = "learned"
    rows: Literal["others", "all"] = "others"


class McisOptions(Settings):
    """The options of MCIS; the defaults are the published ones.

    Attributes:
        affinity: How the positions of two images are compared.
        co_attention_weight: Weight of the loss on the co-attention of a pair, with the classes of both images; 0 leaves
            it out.
        self_pair_weight: Weight of the loss on the pairs of an image with itself; 0 leaves it out.
        self_pairs: "copies" pairs each image, though not its partner, with a mirrored copy, one at 0.75 of its size and
            one at twice its size, and classifies image, copy and their co-attention by all of the image's classes.
            "itself" has one cheap pair, the attention of each image and partner to itself, without any copy.
        contrastive: The contrastive co-attention.
        classifier: "shared" classifies the co-attention with the host's classifier (the paper), "own" with a second
            one (the released code).
    """

    affinity: AffinityOptions = AffinityOptions()
    co_attention_weight: float = Field(default=1.0, ge=0)
    self_pair_weight: float = Field(default=1.0, ge=0)
    self_pairs: Literal["copies", "itself"] = "copies"
    contrastive: ContrastiveOptions = ContrastiveOptions()
    classifier: Literal["shared", "own"] = "shared"


class Mcis(Method):
    """Mining cross-image semantics."""

    Options = McisOptions
    pairs_images = True

    def __init__(self, options: McisOptions, channels: int, classes: int, make_host: MakeHost) -> None:
        super().__init__(options, channels, classes, make_host)
        self.options = options
        self.affinity = Affinity(options.affinity, channels)
        if options.classifier == "own":
            self.own_host = make_host(channels, classes)
        if options.contrastive.weight and options.contrastive.mask == "learned":
            self.shared = nn.Conv2d(channels, 1, 1, bias=False)

    @classmethod
    def list_views(cls, options: Settings) -> tuple[View, ...]:
        """The copies of the self-pairs."""
        is_copied = isinstance(options, McisOptions) and options.self_pair_weight and options.self_pairs == "copies"
        return COPIES if is_copied else ()

    def _classify(self, features: Tensor) -> Tensor:
        return self.own_host(features) if self.options.classifier == "own" else self.host(features)

    def score_beside(self, features: Tensor, others: Tensor, valid: Tensor) -> Tensor:
        """The maps of each image's co-attention to another image, see `Method.score_beside`."""
        return self._classify(summarise(self.affinity(features, others), others, valid, size_of(features)))

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """Classify the images, the objects that they share with their partners, and the objects that they do not share.

        The second half of the batch holds the partners of the first half.
        """
        options, contrastive = self.options, self.options.contrastive
        losses = super().compute_losses(output, batch, epoch)
        contrast = contrastive.weight if epoch >= contrastive.start_epoch else 0.0
        if options.co_attention_weight or contrast:
            losses.update(self._compare_pairs(output, batch, contrast))
        if options.self_pair_weight and options.self_pairs == "itself":
            maps = self.score_beside(output.features, output.features, output.valid)
            loss = self.host.classification_loss(maps, output.valid, batch.tags, batch.weight)
            losses["self_pairs"] = options.self_pair_weight * loss
        elif options.self_pair_weight:
            losses["self_pairs"] = options.self_pair_weight * self._compare_copies(output, batch)
        return losses

    def _compare_copies(self, output: Output, batch: Sample) -> Tensor:
        """The loss of the pairs of each image with its copies: the images, the copies and the co-attention of both."""
        number = len(batch.tags) // 2
        features, maps, valid, tags = (one[:number] for one in (output.features, output.maps, output.valid, batch.tags))
        weight, total = batch.weight.expand(len(batch.tags))[:number], output.maps.new_zeros(())
        for copy in require(output.copies, "list_views"):
            affinity = self.affinity(features, copy.features)
            in_copy = summarise(affinity, copy.features, copy.valid, size_of(features))
            in_image = summarise(affinity.transpose(1, 2), features, valid, size_of(copy.features))
            for of_image, of_copy in ((maps, copy.maps), (self._classify(in_copy), self._classify(in_image))):
                for found, inside in ((of_image, valid), (of_copy, copy.valid)):
                    total = total + self.host.classification_loss(found, inside, tags, weight) / 2
        return total

    def _compare_pairs(self, output: Output, batch: Sample, contrast: float) -> dict[str, Tensor]:
        """The terms on an image and its partner; `contrast` is the weight of the contrastive term."""
        losses = {}
        features, valid, tags = output.features, output.valid, batch.tags
        others, weight = _exchange(tags), batch.weight.expand(len(tags))
        weight = torch.minimum(weight, _exchange(weight))  # a pair weighs as much as its lighter image
        co_attention = self._co_attend(features, valid)
        maps = self._classify(co_attention)
        if self.options.co_attention_weight:
            loss = self.host.classification_loss(maps, valid, tags * others, weight)
            losses["co_attention"] = self.options.co_attention_weight * loss
        if contrast:
            shared = self._find_shared(co_attention, maps, valid, tags * others)
            unshared = tags * (1 - others)
            remaining = self._classify(features * (1 - shared))
            halves = zip(*(one.chunk(2) for one in (remaining, valid, unshared, weight)), strict=True)
            losses["contrastive"] = contrast * sum((self._classify_rest(*half) for half in halves), maps.new_zeros(()))
        return losses

    def _classify_rest(self, maps: Tensor, valid: Tensor, tags: Tensor, weight: Tensor) -> Tensor:
        """The contrastive loss of the images or of their partners: a mean over those that count, on all ranks.

        Args:
            maps: (B, C, h, w), the class activation maps of what remains.
            valid: (B, 1, h, w).
            tags: (B, C), the classes that the other image does not show.
            weight: (B,), the factor of each image's loss.
        """
        has_others = tags.amax(1)
        number, counted = count_rows(tags), sum_over_ranks(has_others.sum())
        if self.options.contrastive.rows == "all":
            return self.host.classification_loss(maps, valid, tags, weight) * (counted > 0)
        return self.host.classification_loss(maps, valid, tags, weight * has_others) * number / counted.clamp(min=1)

    def _co_attend(self, features: Tensor, valid: Tensor) -> Tensor:
        """The co-attention of each image to its partner (2B, D, h, w), from one affinity matrix per pair."""
        (first, second), (valid_first, valid_second) = features.chunk(2), valid.chunk(2)
        affinity, size = self.affinity(first, second), size_of(features)
        in_second = summarise(affinity, second, valid_second, size)
        return torch.cat([in_second, summarise(affinity.transpose(1, 2), first, valid_first, size)])

    def _find_shared(self, co_attention: Tensor, maps: Tensor, valid: Tensor, tags: Tensor) -> Tensor:
        """The mask of the objects that both images of a pair show, 0..1 (2B, 1, h, w).

        Args:
            co_attention: (2B, D, h, w), the co-attention of each image to its partner.
            maps: (2B, C, h, w), the class activation maps of the co-attention.
            valid: (2B, 1, h, w).
            tags: (2B, C), the classes that both images show.
        """
        if self.options.contrastive.mask == "learned":
            logits: Tensor = self.shared(co_attention)
            return logits.sigmoid()
        return share_of_peak(maps, valid, tags).amax(1, keepdim=True).clamp(0, 1)


def _exchange(rows: Tensor) -> Tensor:
    """The rows (2B, ...) of each image's partner, given the rows of the images and then those of the partners."""
    return rows.roll(len(rows) // 2, 0)


METHOD = Mcis
