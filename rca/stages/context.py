"""What a stage is given: its place in the matrix, its settings, its paths."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.settings import Settings, SettingsType, build_settings, load_params, merge, read_key
from rca.stages.layout import CHECKPOINTS, Layout, RunLayout

PARAMS = Path("params.yaml")
# What a run's networks learn from: the tags of its images, or their true masks, for the fully supervised upper bound.
Supervision = Literal["tags", "masks"]


@dataclass(frozen=True)
class Context:
    """One instance of a stage.

    Attributes:
        stage: The stage's name.
        run: The run, for the stages that are of one.
        seed: Likewise.
        shard: The shard, for the stages that work on one.
        item: What else tells instances apart (the dataset to generate, the weights' role).
        params_file: Where the settings stand.
    """

    stage: str
    run: str | None = None
    seed: int | None = None
    shard: int | None = None
    item: str | None = None
    params_file: Path = PARAMS

    @property
    def name(self) -> str:
        """The instance's name as DVC spells it, with "." for "@", e.g. `make_cam.rca-0-3`."""
        parts = [str(part) for part in (self.item, self.run, self.seed, self.shard) if part is not None]
        return f"{self.stage}.{'-'.join(parts)}" if parts else self.stage

    @cached_property
    def params(self) -> dict[str, Any]:
        """The params file, as plain data."""
        return load_params(self.params_file)

    def read(self, key: str) -> Any:
        """The plain value at a dotted key."""
        return read_key(self.params, key, self.params_file)

    def settings(self, kind: type[SettingsType], section: str | None = None) -> SettingsType:
        """The settings of a section (by default the stage's own), with what the run overrides."""
        section = section or self.stage
        return build_settings(kind, self.merge_section(section), section, self.params_file)

    def merge_section(self, section: str) -> Any:
        """The plain data of a section, with what the run overrides."""
        data = self.read(section)
        if self.run is None or not isinstance(data, dict):
            return data
        overrides = self.read(f"run.{self.run}")
        if not isinstance(overrides, dict) or not isinstance(overrides.get(section, {}), dict):
            raise UserError(f"{self.params_file}: run.{self.run} and its {section} must be sections.")
        return merge(data, overrides.get(section, {}))

    @cached_property
    def layout(self) -> Layout:
        """The dataset's paths."""
        return Layout(str(self.read("dataset.name")))

    @property
    def paths(self) -> RunLayout:
        """The paths of this run and seed.

        Raises:
            UserError: no run or seed was named, or params list none of that name.
        """
        if self.run is None or self.seed is None:
            raise UserError(f"{self.stage} works on one run and seed: name them with --run and --seed.")
        if self.run not in self.read("runs"):
            raise UserError(f"There is no run {self.run}: {self.params_file} lists {', '.join(self.read('runs'))}.")
        return self.layout.of(self.run, self.seed)

    @property
    def supervision(self) -> Supervision:
        """What the run's networks learn from.

        Raises:
            UserError: no run and seed were named, or params say something else.
        """
        key = f"run.{self.paths.run}.supervision"
        value = self.read(key)
        if value not in get_args(Supervision):
            raise UserError(f"{self.params_file}: {key} is {value!r}: set it to {' or '.join(get_args(Supervision))}.")
        return value

    @property
    def chosen_shard(self) -> int:
        """The shard that this instance works on.

        Raises:
            UserError: none was named, or there are fewer.
        """
        shards = self.read("shards")
        if self.shard is None or self.shard not in shards:
            raise UserError(f"{self.stage} works on one shard: name one with --shard, 0 to {len(shards) - 1}.")
        return self.shard

    @property
    def curves(self) -> Path | None:
        """Where the curves of a training go, below the folder that RCA_TENSORBOARD names; None where it names none.

        A variable and not a setting: to look on must not train anew.
        """
        folder, paths = os.environ.get("RCA_TENSORBOARD"), self.paths
        return Path(folder, self.layout.dataset, paths.run, str(paths.seed), self.stage) if folder else None

    def checkpoint(self, settings: Settings, inputs: Iterable[Path]) -> Path:
        """Where a stage keeps its state, outside the declared outputs, which engines delete before a stage runs.

        The name is a fingerprint of the settings, the code and the inputs: a checkpoint of other ones is never taken.
        What a stage keeps beside it has the same name with another suffix.
        """
        digest = hashlib.sha256(repr((self.name, settings)).encode())
        package = Path(__file__).parent.parent
        for path in (*sorted(package.rglob("*.py")), *inputs):
            digest.update(hash_file(path).encode())
        checkpoint = CHECKPOINTS / f"{self.name}-{digest.hexdigest()[:16]}.pt"
        for other in CHECKPOINTS.glob(f"{self.name}-{'[0-9a-f]' * 16}.*"):
            if other.stem == checkpoint.stem:
                continue
            if other.is_dir():  # of settings, code or inputs that are no more
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)
        return checkpoint
