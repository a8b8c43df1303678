"""The plain host: a 1x1 classifier on the features, trained on image-level tags.

The maps are the classifier at every position (Zhou et al., Learning Deep Features for Discriminative Localization, CVPR
2016), so their mean over positions is the score of the image.
"""

from rca.hosts.base import Host


class CamHost(Host):
    """The plain class activation map."""


HOST = CamHost
