"""Predicting in several processes: those that start afresh get the masks of their parent, as the docstring says."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segmenters import write_model

import rca


def predict(model: Path, photograph: Path) -> np.ndarray:
    return rca.load(model, "cpu").predict(photograph).mask


@pytest.mark.slow
def test_a_process_that_starts_afresh_predicts_after_its_parent(tmp_path: Path) -> None:
    model, photograph = write_model(tmp_path / "m.safetensors"), tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(photograph)
    expected = predict(model, photograph)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(predict, (model, photograph)).get(timeout=300)
    np.testing.assert_array_equal(found, expected)


def test_who_loads_a_model_reads_how_to_start_processes() -> None:
    text = " ".join((rca.load.__doc__ or "").split())
    assert "A process that has predicted must not be forked" in text
    assert '`multiprocessing.get_context("spawn").Pool(...)`' in text
