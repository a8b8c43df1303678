"""SEAM and EPS in one network, the host on which HSC has its best published figures.

Source: Wu, Li, Dai, Li, Liu and Xie, Hierarchical Semantic Contrast for Weakly Supervised Semantic Segmentation, IJCAI
2023, as released. The loss is L_cls + L_sal + L_ER + L_ECR: SEAM's terms, and EPS's saliency loss on the maps of both
views, as they are and after the pixel correlation module. docs/methods.md lists the differences from the released code.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from rca.core.normalisation import Normalisation
from rca.data.loading.images import Sample
from rca.hosts.base import Levels
from rca.hosts.eps import EpsHost, EpsOptions
from rca.hosts.seam import SeamHost, SeamOptions, add_background
from rca.models.output import Output, require


class SeamEpsOptions(SeamOptions, EpsOptions):
    """The options of SEAM and of EPS; the defaults are those of HSC's released code.

    Attributes:
        overlap: As for EPS.
        normalisation: How inference brings the maps to 0..1.
        inference: "plain" takes the probability of each class against the others and the background; "spread" also
            lets the pixel correlation module spread these probabilities.
        refined_saliency: How the saliency loss reads the refined maps. They are shares that sum to 1 with the
            background. "softmax" takes a softmax of them, as released: it is nearly uniform, so with more than two
            classes none covers a position, and all count as background. "shares" takes them as they are.
    """

    overlap: float = Field(default=0.5, ge=0, lt=1)
    normalisation: Normalisation = "max"
    inference: Literal["plain", "spread"] = "plain"
    refined_saliency: Literal["softmax", "shares"] = "softmax"


class SeamEpsHost(SeamHost, EpsHost):
    """The pixel correlation module and the consistency of SEAM, the map of the background and the saliency of EPS."""

    Options = SeamEpsOptions
    options: SeamEpsOptions

    def __init__(
        self, channels: int, classes: int, options: SeamEpsOptions | None = None, level_channels: tuple[int, ...] = ()
    ) -> None:
        super().__init__(channels, classes, options or SeamEpsOptions(), level_channels)

    def refine(self, output: Output, levels: Levels | None, tags: Tensor | None) -> Output:
        """Add the refined maps of SEAM in training, and the probabilities of EPS at inference (B, C, h, w), 0..1.

        If the method's maps are shares already, inference takes these as its probabilities.
        """
        if self.training:
            return SeamHost.refine(self, output, levels, tags)
        if self.options.inference == "plain":
            return EpsHost.refine(self, output, levels, tags)
        shares = output
        if output.background is None:
            probabilities = self.compare(output)
            shares = output._replace(maps=probabilities[:, :-1], background=probabilities[:, -1:])
        return output._replace(refined=SeamHost.refine(self, shares, levels, tags).refined)

    def compare_saliency(self, output: Output, batch: Sample) -> Tensor:
        """The saliency loss of each image of a view (B,), on its maps and on its refined maps."""
        refined = add_background(require(output.refined, "needs_levels"))
        if self.options.refined_saliency == "softmax":
            refined = refined.softmax(1)
        return super().compare_saliency(output, batch) + self.saliency_loss(refined, output.valid, batch)


HOST = SeamEpsHost
