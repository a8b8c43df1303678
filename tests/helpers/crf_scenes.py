"""A scene for tests of the CRF, and the CRF as its library's own examples call it."""

import numpy as np
from pydensecrf import densecrf

from rca.labels.crf import CrfSettings

HEIGHT, WIDTH = 41, 53
LABELS = np.array([0, 3, 7], np.uint8)
CRF = CrfSettings(gaussian_sxy=2, bilateral_sxy=30, bilateral_weight=5)


def draw_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of three colours with noise, and noisy probabilities of its labels."""
    random = np.random.default_rng(seed)
    true = np.zeros((HEIGHT, WIDTH), int)
    true[5:30, 8:25], true[18:38, 20:45] = 1, 2
    colours = np.array([[40, 90, 60], [200, 60, 50], [60, 70, 190]])
    photograph = np.clip(colours[true] + random.normal(0, 12, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    probabilities = random.random((3, HEIGHT, WIDTH)) + 0.6 * (true == np.arange(3)[:, None, None])
    return photograph, probabilities.astype(np.float32)


def refine_directly(
    photograph: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, count: int, absent: float, crf: CrfSettings
) -> np.ndarray:
    """The CRF over all labels 0..count-1, as its library's own examples call it; absent ones cost `absent`."""
    unary = np.full((count, HEIGHT * WIDTH), absent, np.float32)
    unary[labels] = -np.log(probabilities / probabilities.sum(0)).reshape(len(labels), -1)
    field = densecrf.DenseCRF2D(WIDTH, HEIGHT, count)
    field.setUnaryEnergy(unary)
    field.addPairwiseGaussian(sxy=crf.gaussian_sxy, compat=crf.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=crf.bilateral_sxy, srgb=crf.bilateral_srgb, rgbim=photograph.copy(), compat=crf.bilateral_weight
    )
    return np.array(field.inference(crf.iterations)).argmax(0).reshape(HEIGHT, WIDTH)
