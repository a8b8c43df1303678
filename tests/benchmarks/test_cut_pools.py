"""The pools that benchmarks/cut_pools.py cuts, read as the pipeline reads them."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from rca.core.files import read_mask
from rca.data.base import SourceSettings
from rca.data.formats.dataset import examine_dataset
from rca.data.formats.voc import VocSettings
from rca.data.shapes.dataset import generate_shapes

SCRIPT = Path(__file__).parents[2] / "benchmarks/cut_pools.py"


def test_the_pools_differ_in_their_tags_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    generate_shapes(source, train=30, val=4, size=32, seed=0, objects=(1, 2))
    arguments = [sys.executable, str(SCRIPT), str(source), str(target), "--wrong", "0.5"]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout

    sources = {name: SourceSettings() for name in ("single_label", "web")}
    settings = VocSettings(name="cut", format="voc", splits=("train", "val"), sources=sources)
    manifest = examine_dataset(target, settings, workers=1).accept("stop")
    train, (clean, web) = manifest.select("train"), (manifest.select_sources((name,)) for name in sources)
    assert (len(train), len(manifest.select("val"))) == (15, 4)

    tags = {name: {one.id.partition(".")[2]: one.tags for one in part} for name, part in (("c", clean), ("w", web))}
    assert tags["c"].keys() == tags["w"].keys()
    assert not tags["c"].keys() & {one.id for one in train}
    for image_id, shown in tags["c"].items():
        mask = read_mask(source / f"SegmentationClass/{image_id}.png")
        assert [tag + 1 for tag in shown] == [label for label in np.unique(mask) if 0 < label < 255]
    wrong = [image_id for image_id, shown in tags["w"].items() if shown != tags["c"][image_id]]
    assert len(wrong) == round(0.5 * len(clean)) > 0
    assert all(len(shown) == 1 for shown in tags["w"].values())
    assert f"of it wrong: {len(wrong)}" in printed
