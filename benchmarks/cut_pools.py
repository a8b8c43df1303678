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

import numpy as np

from rca.artifacts import read_mask

FOLDERS = ("JPEGImages", "SegmentationClass")


def cut(source: Path, target: Path, wrong: float, seed: int) -> dict[str, int]:
    """Write the smaller dataset with its pools, and return how many images each part has."""
    classes = (source / "classes.txt").read_text().split("\n")
    classes = [name for name in classes if name]
    lists = source / "ImageSets/Segmentation"
    ids = (lists / "train.txt").read_text().split()
    order = random.Random(seed)
    order.shuffle(ids)
    kept, others = sorted(ids[: len(ids) // 2]), sorted(ids[len(ids) // 2 :])
    (target / "ImageSets/Segmentation").mkdir(parents=True)
    for folder in FOLDERS:
        (target / folder).symlink_to((source / folder).resolve())
    (target / "classes.txt").write_text((source / "classes.txt").read_text())
    (target / "ImageSets/Segmentation/train.txt").write_text("".join(f"{one}\n" for one in kept))
    (target / "ImageSets/Segmentation/val.txt").write_text((lists / "val.txt").read_text())
    shown = {one: find_classes(source / f"SegmentationClass/{one}.png", classes) for one in others}
    pool = {one: found[0] for one, found in shown.items() if len(found) == 1}
    mistaken = set(order.sample(sorted(pool), round(wrong * len(pool))))
    web = {
        one: order.choice([name for name in classes if name != tag]) if one in mistaken else tag
        for one, tag in pool.items()
    }
    photographs = {path.stem: path for path in (source / "JPEGImages").iterdir()}
    for name, tags in (("single_label", pool), ("web", web)):
        (target / name / "images").mkdir(parents=True)
        for one in tags:
            os.symlink(photographs[one].resolve(), target / name / "images" / photographs[one].name)
        with open(target / name / "tags.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([("id", "tags"), *tags.items()])
    return {"train": len(kept), "single_label": len(pool), "web": len(web), "of it wrong": len(mistaken)}


def find_classes(mask: Path, classes: list[str]) -> list[str]:
    """The classes that a true mask shows."""
    return [classes[label - 1] for label in np.unique(read_mask(mask)) if 0 < label <= len(classes)]


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
