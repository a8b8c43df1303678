"""A sound dataset, and each kind of fault to plant in it."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pictures import encode, write_png
from PIL import Image

from rca.core.files import IGNORE, PALETTE
from rca.data.checking.examination import Examination, examine
from rca.data.formats.colours import ColourMask
from rca.data.listing import Entry, Listing

CLASSES = ("cat", "dog", "cow")
IMAGES = {  # splits and labels
    "a1": ("train", (1,)),
    "b2": ("train", (1, 3)),
    "c3": ("train", (2,)),
    "d4": ("train", (1, 2)),
    "e5": ("val", (1, 2)),
    "f6": ("val", (3,)),
}
HEIGHT, WIDTH = 37, 53


def draw(seed: int, *labels: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and a mask of background and labels."""
    random = np.random.default_rng(seed)
    mask = random.choice(np.array([0, *labels], np.uint8), (HEIGHT, WIDTH))
    return random.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), mask


PHOTOGRAPH, MASK = draw(99, 1)


@dataclass
class Dataset:
    """A sound dataset, to be spoiled."""

    root: Path
    entries: dict[str, Entry]
    classes: tuple[str, ...] = CLASSES
    published: dict[str, int] | None = None
    victim: str = "a1"
    splits: tuple[str, ...] = ("train", "val")
    derived: bool = False

    def examine(self, workers: int = 1) -> Examination:
        """Find everything that is wrong."""
        lists = {split: self.root / f"{split}.txt" for split in self.splits}
        entries = tuple(self.entries[name] for name in sorted(self.entries))
        listing = Listing(
            self.classes, entries, lists=lists, class_list=self.root / "classes.txt", derived=self.derived
        )
        return examine(self.root, listing, tuple(lists), self.published or {}, workers)

    def change(self, name: str, **values: object) -> None:
        """Change what is listed of an image."""
        self.entries[name] = replace(self.entries[name], **values)

    def write(self, file: str, content: bytes) -> str:
        """Put other bytes in a file's place."""
        (self.root / file).write_bytes(content)
        return file

    def find(self, folder: str) -> str:
        """The victim's file."""
        return f"{folder}/{self.victim}.{'jpg' if folder == 'images' else 'png'}"

    def replace_by_png(self, content: bytes) -> str:
        """Give the victim a photograph of another suffix."""
        (self.root / self.find("images")).unlink()
        file = f"images/{self.victim}.png"
        self.change(self.victim, image=file)
        return self.write(file, content)

    def add_image(self, name: str, split: str, *labels: int) -> None:
        """Add a sound image."""
        photograph, mask = draw(len(self.entries), *labels)
        paths = {"image": f"images/{name}.jpg", "mask": f"masks/{name}.png", "saliency": f"saliency/{name}.png"}
        Image.fromarray(photograph).save(self.root / paths["image"])
        Image.fromarray(mask).save(self.root / paths["mask"])
        Image.fromarray(photograph[:, :, 0].copy()).save(self.root / paths["saliency"])
        tags = tuple(CLASSES[label - 1] for label in labels)
        self.entries[name] = Entry(name, **paths, tags=tags, splits=(split,))

    def write_lists(self) -> None:
        """Write down what is listed, in the format `folder`."""
        rows = [
            f"{Path(entry.image).stem},{';'.join(entry.tags or ())},{';'.join(entry.splits)}"
            for entry in self.entries.values()
        ]
        (self.root / "tags.csv").write_text("\n".join(["id,tags,split", *rows]) + "\n")
        (self.root / "classes.txt").write_text("\n".join(self.classes) + "\n")


def make_dataset(root: Path) -> Dataset:
    """Write a sound dataset."""
    for folder in ("images", "masks", "saliency"):
        (root / folder).mkdir(parents=True)
    dataset = Dataset(root, {})
    for name, (split, labels) in IMAGES.items():
        dataset.add_image(name, split, *labels)
    return dataset


def orient(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def encode_mode(mode: str, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).convert(mode).save(buffer, form)
    return buffer.getvalue()


GREY_16 = (PHOTOGRAPH[:, :, 0].astype(np.uint16) + 1) * 200


def spoil_picture(kind: str) -> bytes:
    """The bytes of a picture with a fault that keeps it from being read."""
    return {
        "empty": b"",
        "truncated": encode("PNG", PHOTOGRAPH)[:-300],
        "undecodable": b"no picture at all",
        "zero-size": write_png(0, HEIGHT, 8, 0, b""),
        "oversized": write_png(20_000, 20_000, 8, 0, b""),
        "16-bit": encode("PNG", GREY_16),
        "wrong-mode": encode("PNG", PHOTOGRAPH),
    }[kind]


def remove(dataset: Dataset, file: str) -> str:
    (dataset.root / file).unlink()
    return file


def blame_classes(dataset: Dataset, *classes: str) -> str:
    dataset.classes = classes
    return "classes.txt"


def duplicate(dataset: Dataset, source: str, target: str) -> str:
    return dataset.write(f"images/{target}.jpg", (dataset.root / f"images/{source}.jpg").read_bytes())


def rename(dataset: Dataset, name: str, new: str) -> str:
    """Give an image another id, and its files that name where they can have it."""
    entry = dataset.entries.pop(name)
    paths = {"image": entry.image, "mask": entry.mask, "saliency": entry.saliency}
    if "/" not in new and 0 < len(new) < 200:
        for part, path in paths.items():
            paths[part] = path.replace(f"/{name}.", f"/{new}.")
            (dataset.root / path).rename(dataset.root / paths[part])
    dataset.entries[new] = replace(entry, id=new, **paths)
    return paths["image"]


def retag(dataset: Dataset, name: str, *tags: str) -> str:
    dataset.change(name, tags=tags)
    return dataset.entries[name].image


def untag_split(dataset: Dataset, *names: str) -> str:
    for name in names:
        dataset.change(name, tags=None, mask=None)
    return "val.txt"


def empty_split(dataset: Dataset) -> str:
    for name in ("e5", "f6"):
        dataset.change(name, splits=("train",))
    return "val.txt"


def rename_split(dataset: Dataset, split: str) -> str:
    for name in ("e5", "f6"):
        dataset.change(name, splits=(split,))
    dataset.splits = ("train", split)
    return f"{split}.txt"


def exhaust_split(dataset: Dataset) -> str:
    for name in ("e5", "f6"):
        remove(dataset, f"masks/{name}.png")
    return "val.txt"


def overlap_splits(dataset: Dataset) -> str:
    dataset.change("a1", splits=("train", "val"))
    return "val.txt"


def leave_out(dataset: Dataset, what: str) -> str:
    dataset.change("b2", **{what: None})
    return "train.txt"


def publish(dataset: Dataset) -> str:
    dataset.published = {"train": 4, "val": 1449}
    return "val.txt"


def repeat_id(dataset: Dataset) -> str:
    dataset.entries["a1 again"] = replace(dataset.entries["b2"], id="a1")
    return "images/a1.jpg"


def animate() -> bytes:
    frames = [Image.fromarray(PHOTOGRAPH), Image.fromarray(PHOTOGRAPH[::-1].copy())]
    return encode("PNG", PHOTOGRAPH, save_all=True, append_images=frames[1:])


def break_exif() -> bytes:
    """A JPEG whose EXIF data end too soon, which Pillow reads with a remark."""
    whole = encode("JPEG", PHOTOGRAPH, exif=orient(1))
    entries = whole.index(b"Exif\0\0") + 6 + 8  # after the header of a TIFF
    return whole[:entries] + b"\0\x60" + whole[entries + 2 :]


def swap_suffix(dataset: Dataset) -> str:
    path = dataset.root / dataset.find("images")
    path.rename(path.with_suffix(".gif"))
    return dataset.find("images")


def shuffle_palette() -> bytes:
    """A mask whose label 1 is stored at the value 0, and the background at 1, as quantisation leaves them."""
    image = Image.fromarray(np.where(MASK == 1, 0, 1).astype(np.uint8))
    image.putpalette([*PALETTE[3:6], *PALETTE[:3]])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def add_unknown_colour(dataset: Dataset) -> str:
    file = dataset.write(dataset.find("masks"), encode("PNG", PHOTOGRAPH))
    dataset.change(dataset.victim, draw=ColourMask(dataset.root / file, {(0, 0, 0): 0, (128, 0, 0): 1}))
    return file


def disagree(dataset: Dataset) -> str:
    retag(dataset, dataset.victim, *{"cat", "dog", "cow"} - set(dataset.entries[dataset.victim].tags or ()))
    return dataset.find("masks")


def mistype(dataset: Dataset) -> str:
    for number in range(10):
        dataset.add_image(f"r{number}", "train", 1)
    retag(dataset, "r0", "cat", "catt")
    dataset.derived = True
    return blame_classes(dataset, *CLASSES, "catt")


def join(dataset: Dataset) -> str:
    dataset.derived = True
    return blame_classes(dataset, *CLASSES, "cat, dog")


PLANTS: dict[str, Callable[[Dataset], str]] = {
    "no class": lambda one: blame_classes(one),
    "joined classes": join,
    "rare class": mistype,
    "permuted labels": lambda one: blame_classes(one, "dog", "cat", "cow"),
    "photograph of another name": swap_suffix,
    "binary mask": lambda one: one.write(one.find("masks"), encode("PNG", MASK * np.uint8(255))),
    "shuffled palette": lambda one: one.write(one.find("masks"), shuffle_palette()),
    "unknown colour": add_unknown_colour,
    "mask against tags": disagree,
    "too many classes": lambda one: blame_classes(one, *CLASSES, *(f"class {n}" for n in range(252))),
    "unusable class name": lambda one: blame_classes(one, *CLASSES[:2], "cow", "a;b"),
    "repeated class": lambda one: blame_classes(one, *CLASSES, "cat"),
    "similar classes": lambda one: blame_classes(one, *CLASSES, "Cat"),
    "misleading class": lambda one: blame_classes(one, *CLASSES, "Background"),
    "class without image": lambda one: blame_classes(one, *CLASSES, "horse") and "train.txt",
    "empty split": empty_split,
    "unusable split": lambda one: rename_split(one, "held out"),
    "repeated id": repeat_id,
    "exhausted split": exhaust_split,
    "unusable id": lambda one: rename(one, "a1", "a 1"),
    "similar ids": lambda one: rename(one, "b2", "A1") and "images/a1.jpg",
    "tiny photograph": lambda one: one.write(one.find("images"), encode("JPEG", PHOTOGRAPH[:15])),
    "mask of another size": lambda one: one.write(one.find("masks"), encode("PNG", MASK.T)),
    "unknown label": lambda one: one.write(one.find("masks"), encode("PNG", np.where(MASK, 100, 0).astype(np.uint8))),
    "lossy mask": lambda one: one.write(one.find("masks"), encode("JPEG", np.zeros_like(MASK))),
    "saliency map of another size": lambda one: one.write(one.find("saliency"), encode("PNG", MASK.T)),
    "unknown tag": lambda one: retag(one, one.victim, "cat", "zebra"),
    "leaked photograph": lambda one: duplicate(one, "a1", "e5"),
    "duplicate photograph": lambda one: duplicate(one, "a1", "c3"),
    "overlapping splits": overlap_splits,
    "split without tags": lambda one: untag_split(one, "e5", "f6"),
    "masks for a part": lambda one: leave_out(one, "mask"),
    "saliency maps for a part": lambda one: leave_out(one, "saliency"),
    "unpublished count": publish,
    "image without tags": lambda one: retag(one, one.victim),
    "turned photograph": lambda one: one.write(one.find("images"), encode("JPEG", PHOTOGRAPH, exif=orient(6))),
    "CMYK photograph": lambda one: one.write(one.find("images"), encode_mode("CMYK", "JPEG")),
    "alpha channel": lambda one: one.replace_by_png(encode_mode("RGBA", "PNG")),
    "animation": lambda one: one.replace_by_png(animate()),
    "misnamed photograph": lambda one: one.write(one.find("images"), encode("PNG", PHOTOGRAPH)),
    "misnamed mask": lambda one: one.write(one.find("masks"), encode("BMP", MASK)),
    "blank photograph": lambda one: one.write(one.find("images"), encode("JPEG", np.full_like(PHOTOGRAPH, 200))),
    "odd photograph": lambda one: one.write(one.find("images"), break_exif()),
    "all-ignore mask": lambda one: one.write(one.find("masks"), encode("PNG", np.full_like(MASK, IGNORE))),
}
FOLDERS = {"photograph": "images", "mask": "masks", "saliency map": "saliency"}
# What comes with a fault by itself.
FOLLOWED = {
    "too many classes": {"class without image"},
    "unusable class name": {"class without image"},
    "repeated class": {"class without image"},
    "similar classes": {"class without image"},
    "misleading class": {"class without image"},
    "joined classes": {"class without image"},
    "rare class": {"class without image"},
    "repeated id": {"duplicate photograph"},
    "exhausted split": {"missing mask"},
    "tiny photograph": {"mask of another size", "saliency map of another size"},
}
BY_ID = {"repeated id", "similar ids", "leaked photograph", "duplicate photograph"}  # of the whole, but of one image
ON_LISTS = {
    *("listed twice", "broken annotation", "ambiguous name", "differing classes", "bad annotation", "mostly crowds"),
    *("stray annotation", "masks of no image"),
}  # which formats find; see their tests
ERRORS = {
    *("no class", "too many classes", "unusable class name", "repeated class", "similar classes", "empty split"),
    *("exhausted split", "unusable split"),
    *("repeated id", "unusable id", "tiny photograph", "mask of another size", "unknown label", "lossy mask"),
    *("saliency map of another size", "unknown tag", "misleading class", "joined classes", "permuted labels"),
    *("photograph of another name", "binary mask", "shuffled palette", "unknown colour", "mask against tags"),
}


def plant(dataset: Dataset, kind: str) -> str:
    """Spoil a dataset; gives the file that is to be named."""
    if kind in PLANTS:
        return PLANTS[kind](dataset)
    fault, _, what = kind.partition(" ")
    file = dataset.find(FOLDERS[what])
    return remove(dataset, file) if fault == "missing" else dataset.write(file, spoil_picture(fault))
