"""Where every stage's files lie: the one place, beside dvc.yaml, that knows the pipeline's paths."""

from dataclasses import dataclass
from pathlib import Path

RUNS = Path("runs")
RESULTS = Path("results")
LOGS = Path("logs")
CHECKPOINTS = Path(".rca/checkpoints")
# Folders beside the runs' own, so no run may take these names.
RESERVED = ("data", "weights", "features", "methods", "evaluation", "report")


@dataclass(frozen=True)
class Layout:
    """The paths of one dataset's pipeline, relative to the project.

    Attributes:
        dataset: The dataset's name.
    """

    dataset: str

    @property
    def root(self) -> Path:
        """The dataset itself."""
        return Path("data") / self.dataset

    @property
    def runs(self) -> Path:
        """All outputs of this dataset's pipeline but metrics and tables."""
        return RUNS / self.dataset

    @property
    def manifest(self) -> Path:
        """The manifest, a directory."""
        return self.runs / "data"

    @property
    def drawn_masks(self) -> Path:
        """The true masks that a dataset's format does not have as pictures."""
        return self.manifest / "masks"

    def weights(self, role: str) -> Path:
        """The initial weights of the backbone of "train_cam" or "train_seg"."""
        return self.runs / "weights" / f"{role}.safetensors"

    @property
    def features(self) -> Path:
        """What a frozen backbone makes of the images; nothing where the backbone is trained."""
        return self.runs / "features"

    @property
    def training_features(self) -> Path:
        """Those of the images that are trained on, a directory for each shard: other images must not train anew."""
        return self.features / "train"

    def feature_shard(self, shard: int) -> tuple[Path, Path]:
        """The features of a shard: of the images that are trained on, and of the others."""
        return self.training_features / str(shard), self.features / "other" / str(shard)

    def method(self, run: str) -> Path:
        """Which host and method a run trains with, and checksums of their code, and of saliency maps if needed."""
        return self.runs / "methods" / f"{run}.json"

    @property
    def evaluation(self) -> Path:
        """What `evaluate` found, a directory for each run and seed."""
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
        """The run's own directory."""
        return self.dataset.runs / self.run / str(self.seed)

    @property
    def model(self) -> Path:
        """All that inference needs: the network and, for a method that keeps one, the memory."""
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
        """Snapshots of the memory over the training, a file for each epoch that was kept."""
        return self.root / "memory_history"

    @property
    def cam_history(self) -> Path:
        """The classification network's training, a line for each epoch."""
        return self.root / "train_cam.csv"

    @property
    def scores(self) -> Path:
        """The score maps, a file for each shard."""
        return self.root / "scores"

    def score_shard(self, shard: int) -> Path:
        """The score maps of one shard."""
        return self.scores / f"{shard}.safetensors"

    @property
    def pinned_scores(self) -> Path:
        """The checksums of the score maps that the affinity network is trained on; of none where they do not walk."""
        return self.root / "scores.json"

    @property
    def affinity(self) -> Path:
        """What was trained to find boundaries between objects; nothing where score maps do not walk."""
        return self.root / "affinity.safetensors"

    @property
    def affinity_history(self) -> Path:
        """That training, a line for each epoch."""
        return self.root / "train_affinity.csv"

    @property
    def walked(self) -> Path:
        """The score maps after a random walk, a file for each shard, which is empty where they do not walk."""
        return self.root / "walked"

    def walked_shard(self, shard: int) -> Path:
        """The score maps of one shard after a random walk."""
        return self.walked / f"{shard}.safetensors"

    def final_scores(self, shard: int) -> tuple[Path, Path]:
        """Where masks find the score maps of one shard: after the walk, and before it for where there is none."""
        return self.walked_shard(shard), self.score_shard(shard)

    @property
    def threshold(self) -> Path:
        """The thresholds that masks are made with."""
        return self.root / "threshold.json"

    @property
    def threshold_curve(self) -> Path:
        """MIoU over thresholds."""
        return self.root / "threshold.csv"

    @property
    def pseudo(self) -> Path:
        """Pseudo labels, a directory for each shard."""
        return self.root / "pseudo"

    @property
    def refined(self) -> Path:
        """Pseudo labels after the CRF, a directory for each shard."""
        return self.root / "refined"

    def masks(self, kind: str) -> Path:
        """The masks of the kind "pseudo" or "refined", a directory for each shard."""
        return {"pseudo": self.pseudo, "refined": self.refined}[kind]

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
        """The segmentation network's training, a line for each epoch."""
        return self.root / "train_seg.csv"

    @property
    def predictions(self) -> Path:
        """The segmentation network's masks, a directory for each split."""
        return self.root / "predictions"

    @property
    def evaluation(self) -> Path:
        """What `evaluate` found: confusions, curves, examples and what the memory holds."""
        return self.dataset.evaluation / f"{self.run}-{self.seed}"

    @property
    def metrics(self) -> Path:
        """The metrics, for `dvc metrics`."""
        return self.dataset.results / f"{self.run}-{self.seed}.json"

    @property
    def per_class(self) -> Path:
        """The metrics of each class."""
        return self.dataset.results / f"{self.run}-{self.seed}.csv"
