"""Cut a dataset in VOC layout into a smaller one and two pools of extra images, to see what extra images bring.

    python benchmarks/cut_pools.py data/msrc data/msrc_pools

Half the images of `train` stay. Of the others, those with a single tag make the pool `single_label`; the pool `web` has
the same photographs, but for a share of them the tag of another class. So what sets the two apart is the tags alone.
`val` and the masks are those of the source, as links.
"""

import argparse
import csv
import os
import random
from pathlib import Path

from rca.data.formats.dataset import read_dataset
from rca.data.formats.voc import LISTS, VocSettings

FOLDERS = ("JPEGImages", "SegmentationClass")


def cut(source: Path, target: Path, wrong: float, seed: int) -> dict[str, int]:
    """Write the smaller dataset with its pools, and return how many images each part has."""
    settings = VocSettings(name=target.name, format="voc", splits=("train", "val"))
    manifest = read_dataset(source, settings)
    classes, order = manifest.classes, random.Random(seed)
    listed = (source / LISTS / "train.txt").read_text().split()
    records = list(manifest.find(listed))
    order.shuffle(records)
    kept, others = (
        sorted(part, key=lambda one: one.id) for part in (records[: len(records) // 2], records[len(records) // 2 :])
    )
    (target / LISTS).mkdir(parents=True)
    for folder in FOLDERS:
        (target / folder).symlink_to((source / folder).resolve())
    (target / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    for split, images in (("train", kept), ("val", manifest.select("val"))):
        (target / LISTS / f"{split}.txt").write_text("".join(f"{one.id}\n" for one in images))
    pool = {one.id: classes[one.tags[0]] for one in others if len(one.tags) == 1}
    mistaken = set(order.sample(sorted(pool), round(wrong * len(pool))))
    web = {
        one: order.choice([name for name in classes if name != tag]) if one in mistaken else tag
        for one, tag in pool.items()
    }
    photographs = {one.id: manifest.photograph(one) for one in others}
    for name, tags in (("single_label", pool), ("web", web)):
        (target / name / "images").mkdir(parents=True)
        for one in tags:
            os.symlink(photographs[one].resolve(), target / name / "images" / photographs[one].name)
        with open(target / name / "tags.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([("id", "tags"), *tags.items()])
    return {"train": len(kept), "single_label": len(pool), "web": len(web), "of it wrong": len(mistaken)}


def main() -> None:
    """Cut, and say how many images each part has."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, help="a folder that does not exist")
    parser.add_argument("--wrong", type=float, default=0.3, help="share of the web pool with a wrong tag")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for part, images in cut(given.source, given.target, given.wrong, given.seed).items():
        print(f"{part}: {images}")


if __name__ == "__main__":
    main()
