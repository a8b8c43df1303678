"""OAA+: accumulate the attention to each object over the training, then train a head to predict all of it at once.

Source: Jiang, Hou, Cao, Cheng, Wei and Xiong, Integral Object Mining via Online Attention Accumulation, ICCV 2019. The
loss is L_cls + L_integral. docs/methods.md lists the differences from the released code.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rca.core.errors import UserError
from rca.core.normalisation import normalise_maps
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.data.manifest import ImageRecord
from rca.hosts.attention_store import AttentionStore
from rca.hosts.base import Host, Levels
from rca.models.output import Output
from rca.models.pooling import pool_mean

ATTENDED = 0.001
"""A position belongs to its class if its accumulated attention exceeds this."""


class OaaOptions(Settings):
    """The options of OAA; the defaults are those of the released code.

    Attributes:
        start_epoch: The first epoch with accumulation, counted from 0: the attention of an untrained classifier is
            noise, and what is accumulated stays.
        gate: A map is accumulated only if the classifier's probability of its class is at least this.
        stride: Pixels of the photograph per value of an accumulated map.
        integral_weight: Weight of the loss on the integral attention.
    """

    start_epoch: int = Field(default=1, ge=0)
    gate: float = Field(default=0.1, ge=0, lt=1)
    stride: int = Field(default=8, ge=1)
    integral_weight: float = Field(default=1.0, gt=0)


class OaaHost(Host):
    """The classifier of the plain CAM, and a second one that learns its accumulated attention and replaces it."""

    Options = OaaOptions
    needs_one_process = True

    def __init__(
        self, channels: int, classes: int, options: OaaOptions | None = None, level_channels: tuple[int, ...] = ()
    ) -> None:
        super().__init__(channels, classes, options, level_channels)
        self.options = options or OaaOptions()
        self.integral = nn.Conv2d(channels, classes, 1)
        self.store: AttentionStore | None = None

    def begin(self, records: Sequence[ImageRecord], folder: Path, epochs: int) -> None:
        """Prepare to accumulate the attention to each image, in files in a folder."""
        first = self.options.start_epoch
        if epochs <= first:
            raise UserError(
                f"The host oaa accumulates attention from host_options.start_epoch {first} on, counted from 0, but"
                f" train_cam.optimisation.epochs is {epochs}: set it to {first + 1} at least."
            )
        self.store = AttentionStore(records, folder, self.options.stride, first)

    def refine(self, output: Output, levels: Levels | None, tags: Tensor | None) -> Output:
        """Add the integral attention (B, C, h, w), at least 0."""
        return output._replace(refined=self.integral(output.features).relu() * (output.valid > 0))

    @torch.no_grad()
    def observe(self, output: Output, batch: Sample, epoch: int) -> None:
        """Accumulate the maps of the tagged classes, relative to their peaks, if the classifier sees the class."""
        if epoch < self.options.start_epoch:
            return
        store = self._open(epoch)
        maps, valid = output.maps.detach(), output.valid
        sure = (pool_mean(maps, valid).sigmoid() >= self.options.gate).cpu()
        attention, (height, width) = normalise_maps(maps.relu(), valid).cpu(), batch.valid.shape[2:]
        shown = torch.stack([batch.valid.amax((1, 3)).sum(1), batch.valid.amax((1, 2)).sum(1)], 1).tolist()
        for image, (position, frame) in enumerate(zip(batch.position.tolist(), batch.frame.cpu(), strict=True)):
            tags = store.records[position].tags
            chosen = [number for number, tag in enumerate(tags) if sure[image, tag]]
            if chosen:
                seen = attention[image, [tags[number] for number in chosen]]
                store.accumulate(position, chosen, seen, frame, (height, width), shown[image])

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """Classification and, once attention is accumulated, the integral attention, averaged over the views."""
        losses = super().compute_losses(output, batch, epoch)
        if epoch >= self.options.start_epoch:
            views = (output,) if output.second is None else (output, output.second)
            terms = [self._learn_attention(view, batch, self._open(epoch)) for view in views]
            losses["integral"] = self.options.integral_weight * torch.stack(terms).mean()
        return losses

    def _open(self, epoch: int) -> AttentionStore:
        if self.store is None:
            raise RuntimeError("The host oaa has no store of attention: call `begin` before a training.")
        self.store.open(epoch)
        return self.store

    def _learn_attention(self, output: Output, batch: Sample, store: AttentionStore) -> Tensor:
        """The loss on the integral attention of a view; a tagged class without any attention so far is left out."""
        logits = self.integral(output.features)
        targets, size = torch.zeros(logits.shape), (batch.valid.shape[2], batch.valid.shape[3])
        known = torch.ones(logits.shape[:2])
        for image, (position, frame) in enumerate(zip(batch.position.tolist(), batch.frame.cpu(), strict=True)):
            tags = list(store.records[position].tags)
            targets[image, tags] = store.look_up(position, frame, size, logits.shape[2:])
            attended = store.read(position).any((1, 2))
            known[image, tags] = torch.from_numpy(attended).float()
        weight = batch.weight.view(-1, 1, 1, 1) * known[..., None, None].to(logits.device) * (output.valid > 0)
        return compare_attention(logits, targets.to(logits.device), weight)


def compare_attention(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """The loss on the integral attention (OAA, section 3.3, as released).

    At attended positions the probability of the class should be high, in proportion to the attention; elsewhere it
    should be low. Each of the two terms is a mean over its positions of all images and classes, so that a few positions
    count as much as many.

    Args:
        logits: (B, C, h, w).
        targets: (B, C, h, w), the accumulated attention, 0..1.
        weight: (B, C, h, w), the weight of each position; 0 leaves it out.

    Returns:
        ().
    """
    attended = targets > ATTENDED
    total = logits.new_zeros(())
    for chosen, losses in (
        (attended, -targets * functional.logsigmoid(logits)),
        (~attended, functional.softplus(logits)),
    ):
        count = (chosen & (weight > 0)).sum().clamp(min=1)
        total = total + (losses * weight * chosen).sum() / count
    return total


HOST = OaaHost
