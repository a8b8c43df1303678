"""SBD, the masks that the field adds to VOC's own, read from their MATLAB files.

Source: Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011. Its archive's `dataset` folder holds
`cls/<id>.mat`, `train.txt` and `val.txt`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.data.formats.files import read_list


@dataclass(frozen=True)
class SbdMask:
    """Draws the mask in a file of SBD."""

    path: Path

    def __call__(self) -> UInt8Array:
        """The mask (H, W), uint8: 0 background, 1..20 VOC's classes; SBD has no ignored pixels.

        Raises:
            UserError: the file is missing, broken, or not one of SBD's.
        """
        if not self.path.is_file():
            raise UserError(f"The mask {self.path} does not exist: restore it, or take it off the lists.")
        try:
            content = loadmat(self.path, appendmat=False, variable_names=["GTcls"])
            mask = np.asarray(content["GTcls"]["Segmentation"][0, 0])
            if mask.ndim != 2 or mask.dtype != np.uint8:
                raise ValueError(f"its Segmentation is {mask.dtype} with {mask.ndim} axes")
        except Exception as error:  # scipy does not document what it raises on bytes that are no MATLAB file
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"The mask {self.path} is broken or not SBD's ({reason}): replace it.") from None
        return mask


def derive_trainaug(sbd: Path, train: Iterable[str], val: Iterable[str]) -> list[str]:
    """The list `trainaug`: VOC's training images and all of SBD's, without VOC's validation images.

    Args:
        sbd: SBD's folder.
        train: VOC's training list.
        val: VOC's validation list.

    Returns:
        Sorted ids; 10,582 with VOC 2012 and all of SBD.

    Raises:
        UserError: a list of SBD is missing.
    """
    added = {name for split in ("train", "val") for name in read_list(sbd / f"{split}.txt")}
    return sorted((added | set(train)) - set(val))
