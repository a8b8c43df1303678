"""The plain host: a 1x1 classifier on the features, trained on image-level tags.

The maps are the classifier applied at every position (Zhou et al., Learning Deep Features for Discriminative
Localization, CVPR 2016), so a mean over positions gives the image's scores.
"""

from rca.hosts.base import Host


class CamHost(Host):
    """The class activation map and nothing else."""


HOST = CamHost
