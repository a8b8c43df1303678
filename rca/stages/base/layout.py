"""The paths of all stages' files. Only this module and dvc.yaml know them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RUNS = Path("runs")
RESULTS = Path("results")
LOGS = Path("logs")
CHECKPOINTS = Path(".rca/checkpoints")
COMPILED = Path(".rca/torch")
PROGRESS = Path(".rca/progress")
"""How far each running instance of a stage is."""
CODE = Path("workflow/code")
"""In a project without the package's code, the link to where it is installed."""
MapKind = Literal["scores", "walked"]
MaskKind = Literal["pseudo", "refined", "relabelled"]
# Names of folders beside those of the runs: no run may have such a name.
RESERVED = ("data", "classifier", "segmenter", "evaluation", "report")


@dataclass(frozen=True)
class Layout:
    """The paths of one dataset's pipeline, relative to the project.

    Attributes:
        dataset: The dataset's name.
    """

    dataset: str

    @property
    def root(self) -> Path:
        """The folder of the dataset."""
        return Path("data") / self.dataset

    @property
    def runs(self) -> Path:
        """All outputs of this dataset's pipeline except metrics and tables."""
        return RUNS / self.dataset

    @property
    def manifest(self) -> Path:
        """The manifest, a directory."""
        return self.runs / "data"

    @property
    def drawn_masks(self) -> Path:
        """True masks drawn from annotations, for a format without mask pictures."""
        return self.manifest / "masks"

    def weights(self, network: str) -> Path:
        """The initial weights of the backbone of the "classifier" or the "segmenter"."""
        return self.runs / network / "train/weights.safetensors"

    @property
    def training_features(self) -> Path:
        """Features of the training images from a frozen backbone, a directory for each shard.

        Trainings depend on its parent folder, which also holds the weights. Features of other images lie elsewhere.
        """
        return self.runs / "classifier/train/features"

    @property
    def other_features(self) -> Path:
        """Features of all other images, a directory for each shard."""
        return self.runs / "classifier/other"

    def feature_shard(self, shard: int) -> tuple[Path, Path]:
        """The features of a shard: those of its training images, and those of its other images."""
        return self.training_features / str(shard), self.other_features / str(shard)

    @property
    def pinned_images(self) -> Path:
        """Checksums of the images that each stage and run uses, for DVC to depend on."""
        return self.runs / "images.json"

    @property
    def evaluation(self) -> Path:
        """The results of `evaluate`, a directory for each run and seed."""
        return self.runs / "evaluation"

    @property
    def report(self) -> Path:
        """The report, a directory."""
        return self.runs / "report"

    @property
    def results(self) -> Path:
        """Metrics and tables, in git."""
        return RESULTS / self.dataset

    def of(self, run: str, seed: int) -> "RunLayout":
        """The paths of one run with one seed."""
        return RunLayout(self, run, seed)


@dataclass(frozen=True)
class RunLayout:
    """The paths of one run with one seed."""

    dataset: Layout
    run: str
    seed: int

    @property
    def root(self) -> Path:
        """The directory of this run and seed."""
        return self.dataset.runs / self.run / str(self.seed)

    @property
    def model(self) -> Path:
        """The network and, for a method that keeps one, the memory: all that inference needs."""
        return self.root / "model"

    @property
    def network(self) -> Path:
        """The trained classification network."""
        return self.model / "network.safetensors"

    @property
    def memory(self) -> Path:
        """The snapshot of the memory."""
        return self.model / "memory.safetensors"

    @property
    def memory_history(self) -> Path:
        """Snapshots of the memory during training, a file for each epoch kept."""
        return self.root / "memory_history"

    @property
    def cam_history(self) -> Path:
        """The training history of the classification network, a line for each epoch."""
        return self.root / "train_cam.csv"

    @property
    def maps(self) -> Path:
        """The score maps, a folder for each shard."""
        return self.root / "maps"

    def maps_of(self, shard: int, kind: MapKind) -> Path:
        """The score maps of one shard: "scores" from the network, "walked" after the random walk."""
        return self.maps / str(shard) / f"{kind}.safetensors"

    def pinned_maps(self, shard: int) -> Path:
        """The checksums of the score maps that an ensemble averages, a file for each member."""
        return self.members / str(shard)

    @property
    def members(self) -> Path:
        """The pins of an ensemble's members, a folder for each shard."""
        return self.root / "members"

    @property
    def pinned_scores(self) -> Path:
        """The checksums of the score maps that the affinity network learns from, a file for each shard."""
        return self.root / "affinity_inputs"

    @property
    def affinity(self) -> Path:
        """The trained branches of the affinity network."""
        return self.root / "affinity.safetensors"

    @property
    def affinity_history(self) -> Path:
        """The training history of the affinity network, a line for each epoch."""
        return self.root / "train_affinity.csv"

    @property
    def threshold(self) -> Path:
        """The thresholds that masks are made with."""
        return self.root / "threshold.json"

    @property
    def threshold_curve(self) -> Path:
        """MIoU over thresholds."""
        return self.root / "threshold.csv"

    @property
    def masks(self) -> Path:
        """All masks that the run makes, a folder for each kind."""
        return self.root / "masks"

    def masks_of(self, kind: MaskKind) -> Path:
        """The masks of a kind, a directory for each shard."""
        return self.masks / kind

    @property
    def pinned_masks(self) -> Path:
        """The checksums of the masks that the segmentation network is trained on."""
        return self.root / "masks.json"

    @property
    def segmenter(self) -> Path:
        """The trained segmentation network."""
        return self.root / "segmenter.safetensors"

    @property
    def seg_history(self) -> Path:
        """The training history of the segmentation network, a line for each epoch."""
        return self.root / "train_seg.csv"

    @property
    def predictions(self) -> Path:
        """The segmentation network's masks, a directory for each split."""
        return self.root / "predictions"

    @property
    def evaluation(self) -> Path:
        """The results of `evaluate`: metrics, curves, examples and tables of the memory."""
        return self.dataset.evaluation / f"{self.run}-{self.seed}"

    @property
    def metrics(self) -> Path:
        """The metrics, for `dvc metrics`."""
        return self.dataset.results / f"{self.run}-{self.seed}.json"

    @property
    def per_class(self) -> Path:
        """The metrics of each class."""
        return self.dataset.results / f"{self.run}-{self.seed}.csv"
