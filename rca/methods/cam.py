"""The plain CAM: the host alone, without a cross-image method."""

from rca.methods.base import Method

METHOD = Method
