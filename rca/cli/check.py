"""`rca check`: find everything that is wrong with the params and their dataset."""

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout
from itertools import groupby
from json import dumps
from pathlib import Path

from rca.cli.doctor import check_machine
from rca.cli.estimate import estimate
from rca.cli.understood import describe, format_splits, write_picture
from rca.core.errors import UserError, flatten
from rca.core.files import write_json
from rca.core.plain_yaml import list_shared
from rca.core.reading import read_text
from rca.data.checking.examination import Examination
from rca.data.faults import KINDS, Broken, Fault, count, write_faults
from rca.data.formats.dataset import examine_dataset
from rca.data.manifest import Manifest
from rca.data.segments import check_segments
from rca.evaluation.protocol import SEGMENTED, TAGS
from rca.labels.segments import StoredSettings
from rca.models.backbones import build_backbone
from rca.params.instances import write_instances
from rca.params.read import PARAMS, read_params
from rca.params.schema import Params
from rca.params.validate import list_used_splits
from rca.pipeline.plan import merge_pending
from rca.pipeline.resolve import INSTANCES
from rca.stages.base.layout import Layout
from rca.stages.choose_threshold import ChooseThresholdSettings
from rca.stages.evaluate import EvaluateSettings
from rca.stages.generate_data import GenerateDataSettings
from rca.stages.make_cam import MakeCamSettings
from rca.stages.refine_crf import RefineCrfSettings
from rca.stages.train_cam import TrainCamSettings

LINES_A_KIND = 8


def check(params: Path, out: Path | None = None, json: str | None = None, picture: Path | None = None) -> None:
    """Validate a params file and its whole dataset.

    Args:
        params: The file.
        out: CSV file for all faults of the data; the terminal shows some of each kind.
        json: JSON file for what was understood and all faults; "-" prints it alone, and the text to standard error.
        picture: File for a picture of some masks and the classes' colours.

    Raises:
        UserError: the params are invalid, the data have errors that stop the pipeline, or the disk is too small.
    """
    stdout = sys.stdout

    def report(examination: Examination) -> None:
        if json == "-":
            print(dumps(describe(examination), indent=2, ensure_ascii=False), file=stdout)
        elif json is not None:
            write_json(Path(json), describe(examination))
        if picture is not None:
            write_picture(picture, examination)
            print(f"{picture}: {count(len(examination.samples), 'mask')} over their photographs.")

    with redirect_stdout(sys.stderr) if json == "-" else nullcontext():
        _check(read_params(params), params, out, report)


def _check(settings: Params, params: Path, out: Path | None, report: Callable[[Examination], None]) -> None:
    """Check settings, and give what was understood of their data to `report` before it is judged."""
    merge_pending(Path.cwd())
    if params == PARAMS and write_instances(settings):
        print(f"{INSTANCES}: updated.")
    print(f"{params}: {len(settings.runs)} runs, {len(settings.seeds)} seeds, {len(settings.shards)} shards.")
    for anchor in list_shared(read_text(params)):
        print(f"warning: {params}: `dvc exp run -S` changes all that share &{anchor}: let a run name a base.")
    for network in (settings.classifier, settings.segmenter):
        if network.backbone.name.startswith("timm/"):
            # Building the model is the only way to check its output stride.
            build_backbone(network.backbone.name, network.backbone.output_stride)
    layout = Layout(settings.dataset.name)
    if settings.section(GenerateDataSettings).train and not layout.root.exists():
        print(f"{layout.root}: will be generated.")
        check_machine(settings)
        return
    examination = examine_dataset(layout.root, settings.dataset, os.cpu_count() or 1, drawn=layout.drawn_masks)
    for note in examination.notes:
        print(f"{layout.root}: {flatten(note, len(str(layout.root)))}")
    if out is not None:
        write_faults(out, examination.faults)
        print(f"{out}: {count(len(examination.faults), 'fault')}.")
    report(examination)
    manifest = examination.manifest
    _judge(layout.root, examination, settings.dataset.broken)
    _check_splits(settings, manifest)
    _check_saliency(settings, manifest)
    _check_segments(settings, manifest)
    split = settings.section(ChooseThresholdSettings).split
    if all(record.mask is None for record in manifest.select(split)):
        print(f"warning: no image of {split} has a true mask: masks use the threshold of choose_threshold.background.")
    masked = [one for one in settings.dataset.splits if all(record.mask for record in manifest.select(one))]
    if masked and not settings.section(EvaluateSettings).masks:
        keys = " ".join(f"evaluate.{kind}='[{masked[-1]}]'" for kind in ("seed", "refined", "segmentation"))
        print(f"warning: {masked[-1]} has true masks, but nothing is scored on them: rca set {keys}.")
    for line in estimate(settings, manifest):
        print(line)
    check_machine(settings)


def _judge(root: Path, examination: Examination, broken: Broken) -> None:
    """Print the faults of the data.

    Raises:
        UserError: the faults stop the pipeline.
    """
    warnings, errors = examination.warnings, examination.errors
    for title, faults in (("Warnings", warnings), ("Errors", errors)):  # errors last, where the terminal ends
        if faults:
            print(f"\n{title}")
            _print_faults(faults)
    if not examination.faults:
        print(f"{root}: no faults.")
    else:
        print()
    print(f"{root}: understood as follows.", *format_splits(examination.splits), sep="\n")
    left_out = count(len({fault.id for fault in examination.quarantine}), "image")
    where = f" in {left_out}" if examination.quarantine else ""
    counts = f"{count(len(errors), 'error')}{where} and {count(len(warnings), 'warning')}"
    if examination.find_stopping(broken):
        choice = ", or leave out images with errors: set dataset.broken to quarantine"
        can_choose = broken == "stop" and examination.quarantine
        raise UserError(f"{root} has {counts}: fix the errors{choice if can_choose else ''}.")
    if errors:
        print(f"{root}: {left_out} with errors will be left out, as dataset.broken says.")


def _print_faults(faults: Iterable[Fault]) -> None:
    """Print the first faults of each kind; they must be sorted by kind."""
    for kind, group in groupby(faults, key=lambda fault: fault.kind):
        same = list(group)
        print(f"  {kind} ({len(same)}): {KINDS[kind].remedy}")
        for fault in same[:LINES_A_KIND]:
            print(f"    {flatten(fault.statement, len(fault.file))}")
        if len(same) > LINES_A_KIND:
            print(f"    and {len(same) - LINES_A_KIND} more (all of them: --out FILE)")


def _check_splits(settings: Params, manifest: Manifest) -> None:
    """Check that splits exist, their images get the score maps they need, and scored images have true masks."""
    scoring = settings.section(MakeCamSettings)
    scored = {record.id for record in manifest.select_any(scoring.splits)}
    need_maps = {"choose_threshold.split", "train_seg.split"}
    need_maps |= {"train_cam.split"} if any(run.maps == "walked" for run in settings.weak_runs) else set()
    need_truth = {f"evaluate.{kind}" for kind in TAGS}
    need_maps |= {*need_truth, "evaluate.classification"} - {f"evaluate.{kind}" for kind in SEGMENTED}
    trained_on = {record.id for record in manifest.select(settings.segmenter.split)}
    if settings.full_runs:
        need_truth.add("train_seg.split")
    for key, splits in list_used_splits(settings).items():
        for split in splits:
            records = manifest.select(split)
            without = [record.id for record in records if record.id not in scored]
            if without and key in need_maps:
                raise UserError(
                    f"{key} names {split}, but {len(without)} of its images ({without[0]}, ...) get no score maps: "
                    "add the split to make_cam.splits."
                )
            held_out = [record.id for record in records if record.id not in trained_on]
            if held_out and key == "evaluate.relabelled":
                raise UserError(
                    f"{key} names {split}, but {len(held_out)} of its images ({held_out[0]}, ...) are not in"
                    f" {settings.segmenter.split}, whose images are relabelled: take {split} out."
                )
            blank = [record.id for record in records if record.mask is None]
            if blank and key in need_truth:
                raise UserError(
                    f"{key} names {split}, but {len(blank)} of its images ({blank[0]}, ...) have no true mask: add the "
                    f"masks, or take {split} out of {key}."
                )


def _check_saliency(settings: Params, manifest: Manifest) -> None:
    """Check that images have saliency maps if their pseudo labels or the host of their training use them."""
    for run in settings.weak_runs:
        if run.section(ChooseThresholdSettings).background.kind == "saliency":
            for record in manifest.select_any(run.section(MakeCamSettings).splits):
                manifest.saliency(record)
        if run.needs_saliency:
            training = run.section(TrainCamSettings)
            records = (*manifest.select(training.split), *manifest.select_sources(training.sources))
            manifest.check_saliency(records, f"run {run.name}: the host {run.host}")


def _check_segments(settings: Params, manifest: Manifest) -> None:
    """Check that images have segments if their masks are refined by stored ones."""
    for run in settings.weak_runs:
        refining = run.section(RefineCrfSettings)
        if refining.enabled and isinstance(refining.segments, StoredSettings):
            records = manifest.select_any(run.section(MakeCamSettings).splits)
            check_segments(manifest.root, settings.dataset.segments, records, f"run {run.name}: refine_crf")
