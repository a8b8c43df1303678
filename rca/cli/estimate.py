"""What a project will take, before it runs: jobs, disk, memory and hours, which `rca check` prints.

Hours come from what jobs took on this machine, such as those of a run on a part of the images: a fixed time for a job,
and a time for each item that its loops work on, an image or a batch. The number of items follows from params and data.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from rca.classifier.network import CamNetwork, NetworkDescription
from rca.cli.jobs import format_time
from rca.core.errors import UserError
from rca.data.loading.images import EpochSampler
from rca.data.manifest import ImageRecord, Manifest
from rca.models.backbones import build_backbone
from rca.params.instances import list_instances
from rca.params.schema import Params, Run, load_stages
from rca.segmentation.network import Segmenter, SegmenterDescription
from rca.stages.base.layout import LOGS
from rca.stages.evaluate import EvaluateSettings
from rca.stages.make_cam import MakeCamSettings
from rca.stages.predict_seg import PredictSegSettings
from rca.stages.train_affinity import TrainAffinitySettings
from rca.stages.train_cam import TrainCamSettings
from rca.stages.train_seg import TrainSegSettings
from rca.training.optimisation import OptimisationSettings

GIGABYTE = 1e9
# Bytes per pixel of a PNG mask: 0.0215 measured on 200 masks of photographs.
MASK_BYTES = 0.02
BLOCK = 4096  # a file takes at least one


@dataclass(frozen=True)
class Job:
    """Jobs of a stage that are alike.

    Attributes:
        stage: The stage.
        run: The run; None for a stage without this axis.
        number: How many there are.
        runtime: The time limit of each, in minutes.
        mem_mb: The memory that each reserves, in MB.
    """

    stage: str
    run: str | None
    number: int
    runtime: int
    mem_mb: int


@dataclass
class Pace:
    """How fast jobs were.

    Attributes:
        jobs: How many.
        seconds: The time that they took beside these items, in all.
        items: The items of their loops, in all; but the first of each job, which takes longer.
        item_seconds: The time of these items, in all.
        memory_mb: The highest peak of their memory, in MB.
    """

    jobs: int = 0
    seconds: float = 0.0
    items: int = 0
    item_seconds: float = 0.0
    memory_mb: float = 0.0

    def estimate(self, items: float | None) -> float:
        """The seconds of a job with so many items; with None, of a job like those."""
        each = self.item_seconds / self.items if self.items else 0.0
        whole = self.items / self.jobs if items is None or not self.items else max(items - 1, 0)
        return self.seconds / self.jobs + each * whole


@dataclass(frozen=True)
class Hours:
    """How long jobs take, one after another.

    Attributes:
        known: The hours of the jobs of stages that ran before.
        limit: The limits of all others, in hours.
        unknown: The stages that never ran here.
    """

    known: float
    limit: float
    unknown: tuple[str, ...]


def list_jobs(settings: Params) -> Iterator[Job]:
    """The jobs of each stage and run, as `dvc.yaml` makes them, without the one that pins the params."""
    instances = list_instances(settings)
    for name, stage in load_stages().items():
        about = instances[name]
        limits = (about["runtime"], about["mem_mb"])
        if "each" in about:
            places = [place["run"] for place in about["each"].values()]
            yield from (Job(name, run, places.count(run), *limits) for run in dict.fromkeys(places))
        elif "run" in stage.axes:
            number = len(settings.seeds) * (len(settings.shards) if "shard" in stage.axes else 1)
            yield from (Job(name, run, number, *limits) for run in about["runs"])
        else:
            number = 1 if not stage.axes else len(about["items" if "item" in stage.axes else "shards"])
            yield from [Job(name, None, number, *limits)] if number else []


def read_paces() -> dict[tuple[str, str | None], Pace]:
    """How fast the jobs were that ran here: of each stage and run, and with None of each stage."""
    paces: dict[tuple[str, str | None], Pace] = defaultdict(Pace)
    for path in LOGS.glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # a file of an earlier version, or of something else
            told = json.loads(path.read_text(encoding="utf-8"))
            looped = float(told["item_seconds"])
            for key in {(told["stage"], told["run"]), (told["stage"], None)}:
                pace = paces[key]
                pace.jobs += 1
                pace.seconds += max(float(told["seconds"]) - looped, 0.0)
                pace.items += max(int(told["items"]) - 1, 0)
                pace.item_seconds += looped
                pace.memory_mb = max(pace.memory_mb, float(told["memory_mb"]))
    return dict(paces)


def estimate_hours(settings: Params, manifest: Manifest, paces: Mapping[tuple[str, str | None], Pace]) -> Hours:
    """Estimate how long all jobs take, one after another, from what `read_paces` found."""
    known, limit, unknown = 0.0, 0.0, []
    for job in list_jobs(settings):
        pace = paces.get((job.stage, job.run)) or paces.get((job.stage, None))
        if pace is None:
            limit += job.number * job.runtime / 60
            unknown.append(job.stage)
        else:
            items = count_items(job.stage, settings.described.get(str(job.run)), settings, manifest)
            known += job.number * pace.estimate(items) / 3600
    return Hours(known, limit, tuple(dict.fromkeys(unknown)))


def count_items(stage: str, run: Run | None, settings: Params, manifest: Manifest) -> float | None:
    """The items that the loops of a job work on, on average; None for a stage without such loops."""

    def count(*splits: str) -> int:
        return len(manifest.select_any(splits))

    if stage == "prepare_data":
        return len(manifest.images)
    if run is None:
        return None
    if stage == "train_cam":
        training = run.section(TrainCamSettings)
        return count_steps(
            training.optimisation, count(training.split) + len(manifest.select_sources(training.sources))
        )
    if stage == "train_affinity":
        images = count(run.section(TrainCamSettings).split)
        return images + count_steps(run.section(TrainAffinitySettings).optimisation, images)
    if stage == "train_seg":
        segmenter = run.section(TrainSegSettings)
        return count_steps(segmenter.optimisation, count(segmenter.split))
    if stage == "predict_seg":
        return sum(count(split) for split in run.section(PredictSegSettings).splits)
    if stage == "relabel_masks":
        return count(run.section(TrainSegSettings).split) / len(settings.shards)
    if stage in ("make_cam", "average_maps", "walk_scores", "make_pseudo", "refine_crf"):
        return count(*run.section(MakeCamSettings).splits) / len(settings.shards)
    if stage == "evaluate":
        return count(*{split for splits in run.section(EvaluateSettings).masks.values() for split in splits})
    return None


def count_steps(optimisation: OptimisationSettings, images: int) -> int:
    """The steps of the loader in a training."""
    return optimisation.epochs * len(EpochSampler(images, optimisation.batch_size, seed=0))


def estimate_disk(settings: Params, manifest: Manifest) -> float:
    """Estimate the bytes of the outputs and of DVC's copy of them."""
    each_seed = sum(estimate_run(run, settings, manifest) for run in settings.described.values())
    return 2 * (len(settings.seeds) * each_seed + _estimate_features(settings, manifest))


def estimate_run(run: Run, settings: Params, manifest: Manifest) -> float:
    """Estimate the bytes of the outputs of a run and seed."""
    scoring, total = run.section(MakeCamSettings), 0.0
    if run.weak:
        records = manifest.select_any(scoring.splits)
        cells = sum(record.width * record.height * len(record.tags) for record in records)
        predicted = manifest.select_any(scoring.predicted_tags.splits) if run.train != "average" else ()
        # Maps of classes that the image does not show: about one more per image.
        cells += sum(record.width * record.height for record in predicted)
        total += 2 * cells / scoring.stride**2 * (2 if run.maps == "walked" else 1)
        total += 2 * sum(map(_estimate_mask, _list_sizes(records))) * len(run.made_masks)
        total += 2 * sum(map(_estimate_mask, _list_sizes(predicted))) * ("refined" in run.made_masks)
        if run.train != "average":
            network = build_classifier(run, manifest)
            total += count_bytes(network.state_dict())
            total += count_bytes(network.method.memory_state()) if run.keeps_memory else 0
    elif run.made_masks:
        total += sum(map(_estimate_mask, _list_sizes(manifest.select(run.section(TrainSegSettings).split))))
    if settings.segmenter_needed:
        total += count_bytes(build_segmenter(run, manifest).state_dict())
        for split in run.section(PredictSegSettings).splits:
            total += sum(map(_estimate_mask, _list_sizes(manifest.select(split))))
    return total


def _list_sizes(records: Iterable[ImageRecord]) -> Iterator[int]:
    """The pixels of each image."""
    return (record.width * record.height for record in records)


def _estimate_mask(pixels: int) -> float:
    return max(MASK_BYTES * pixels, BLOCK)


def build_classifier(run: Run, manifest: Manifest) -> CamNetwork:
    """A run's classification network without memory for its weights."""
    training = run.section(TrainCamSettings)
    with torch.device("meta"):
        return CamNetwork(
            NetworkDescription(
                backbone=training.backbone.name,
                output_stride=training.backbone.output_stride,
                neck=training.neck,
                host=run.host,
                method=run.method,
                options=run.options,
                classes=manifest.classes,
                mean=(0.0,) * 3,
                std=(1.0,) * 3,
                initialisation="",
                host_options=run.host_options,
            )
        )


def build_segmenter(run: Run, manifest: Manifest) -> Segmenter:
    """A run's segmentation network without memory for its weights."""
    training = run.section(TrainSegSettings)
    about = (training.backbone.name, training.backbone.output_stride, training.head, manifest.classes)
    with torch.device("meta"):
        return Segmenter(SegmenterDescription(*about, mean=(0.0,) * 3, std=(1.0,) * 3, initialisation=""))


def count_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _estimate_features(settings: Params, manifest: Manifest) -> float:
    """Estimate the bytes of the features of a frozen backbone."""
    backbone, scoring = settings.classifier.backbone, settings.section(MakeCamSettings)
    if backbone.trainable != "none":
        return 0
    with torch.device("meta"):  # only the number of channels is needed
        channels = build_backbone(backbone.name, backbone.output_stride).channels
    pixels = sum(_list_sizes(manifest.select_any(scoring.splits)))
    positions = pixels / backbone.output_stride**2 * sum(view.scale**2 for view in scoring.inference.views)
    return 2 * channels * positions


def estimate(settings: Params, manifest: Manifest) -> Iterator[str]:
    """What the project will take, a line each.

    Raises:
        UserError: the disk is too small; after all lines.
    """
    jobs, paces = list(list_jobs(settings)), read_paces()
    hours = estimate_hours(settings, manifest, paces)
    largest = max(jobs, key=lambda job: job.mem_mb)
    number = 1 + sum(job.number for job in jobs)  # and the one that pins the params
    yield f"Jobs: {number} of {1 + len({job.stage for job in jobs})} stages."
    used = _find_peak(paces)
    measured = f"; the largest of those that ran here took {used[1]:,.0f} MB ({used[0]})" if used else ""
    yield f"Memory: the largest job reserves {largest.mem_mb:,} MB ({largest.stage}){measured}."
    if not paces:
        yield "Time: not known, since nothing ran here yet; a run on a part of the images lets it be told."
    else:
        limits = f"at most {format_time(3600 * hours.limit)} by the limits in resources"
        rest = f"; beside them {limits}: {', '.join(hours.unknown)}, which never ran here" if hours.unknown else ""
        known = format_time(3600 * hours.known)
        yield f"Time: about {known}, one job after another, at the pace of those that ran here{rest}."
    need, free = estimate_disk(settings, manifest), shutil.disk_usage(".").free
    yield f"Disk: outputs and DVC's cache will take about {need / GIGABYTE:.1f} GB; {free / GIGABYTE:.1f} GB are free."
    if need > free:
        raise UserError("The disk is too small for this pipeline: free space, or list fewer runs, seeds or splits.")


def _find_peak(paces: Mapping[tuple[str, str | None], Pace]) -> tuple[str, float] | None:
    """The stage that took most memory, and how much in MB; None if none ran."""
    peaks = [(pace.memory_mb, stage) for (stage, _), pace in paces.items()]
    if not peaks:
        return None
    memory, stage = max(peaks)
    return stage, memory
