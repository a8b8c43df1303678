"""The running instance of a stage: its name, checksums and paths."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rca.core.files import hash_file
from rca.stages.base.layout import CHECKPOINTS, Layout, RunLayout

# Each names a folder or a server; the trackers themselves are in rca.training.curves, which no other stage runs.
TRACKERS = ("RCA_TENSORBOARD", "RCA_DVCLIVE", "RCA_MLFLOW")


@dataclass(frozen=True)
class Context:
    """One instance of a stage.

    Attributes:
        stage: The stage's name.
        dataset: The dataset's name.
        code: The checksum of the code that the instance runs.
        settings: The checksum of its settings.
        item: The dataset or network; None for a stage without the axis `item`.
        run: The run; None for a stage without this axis.
        seed: The run's random seed; None for a stage without this axis.
        shard: The part of the images, counted from 0; None for a stage without this axis.
    """

    stage: str
    dataset: str
    code: str = ""
    settings: str = ""
    item: str | None = None
    run: str | None = None
    seed: int | None = None
    shard: int | None = None

    @property
    def name(self) -> str:
        """The instance's name in DVC, with "." for "@", e.g. `make_cam.rca-0-3`."""
        parts = [str(part) for part in (self.item, self.run, self.seed, self.shard) if part is not None]
        return f"{self.stage}.{'-'.join(parts)}" if parts else self.stage

    @property
    def layout(self) -> Layout:
        """The dataset's paths."""
        return Layout(self.dataset)

    @property
    def paths(self) -> RunLayout:
        """The paths of this run and seed.

        Raises:
            ValueError: the stage declares no axes `run` and `seed`.
        """
        if self.run is None or self.seed is None:
            raise ValueError(f"{self.stage} has no run and seed: declare both as axes.")
        return self.layout.of(self.run, self.seed)

    @property
    def chosen_shard(self) -> int:
        """The shard that this instance works on.

        Raises:
            ValueError: the stage declares no axis `shard`.
        """
        if self.shard is None:
            raise ValueError(f"{self.stage} has no shard: declare it as an axis.")
        return self.shard

    @property
    def curves(self) -> dict[str, tuple[str, str]]:
        """The trackers that environment variables ask for, as `rca.training.curves.record_curves` takes them.

        They are variables and not settings, so that turning on monitoring does not trigger retraining.
        """
        place = f"{self.dataset}/{self.paths.run}/{self.paths.seed}/{self.stage}"
        return {name: (target, place) for name in TRACKERS if (target := os.environ.get(name))}

    def checkpoint(self, inputs: Iterable[Path], images: str = "") -> Path:
        """The path of the instance's checkpoint; checkpoints of other settings, code or inputs are deleted.

        It lies outside the declared outputs, since engines delete those before a stage runs. Its name is a fingerprint
        of the instance's pinned settings and code and of its inputs, so a stage never resumes from an outdated
        checkpoint. Files and folders that a stage keeps beside it have the same name with another suffix.

        Args:
            inputs: The input files.
            images: The checksum of the images, if pin_images has one for this instance.
        """
        digest = hashlib.sha256(f"{self.name} {self.code} {self.settings} {images}".encode())
        for path in inputs:
            digest.update(hash_file(path).encode())
        checkpoint = CHECKPOINTS / f"{self.name}-{digest.hexdigest()[:16]}.pt"
        for other in CHECKPOINTS.glob(f"{self.name}-{'[0-9a-f]' * 16}.*"):
            if other.stem == checkpoint.stem:
                continue
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)
        return checkpoint
