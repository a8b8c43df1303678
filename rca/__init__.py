"""Weakly supervised semantic segmentation: image-level tags in, pixel masks and a segmentation model out."""
