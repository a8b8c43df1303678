"""The arguments of all commands of `rca`."""

import argparse
import os
from pathlib import Path

from rca.cli.arguments import Parser, ShowVersion, count, count_or_none, name_path
from rca.stages.base.names import add_arguments, list_stages

DESCRIPTION = """Weakly supervised semantic segmentation as a pipeline: image-level tags in, pixel masks out.

`rca init` makes a project and `rca run` runs it; `dvc repro` (one stage after another) and `snakemake --cores 8
--resources gpu=2` (in parallel) run the same stages. The other commands run one stage by hand, or help around it."""

CHECK = """Validate the params, read every photograph, mask and saliency map, and report every fault.

Errors stop the pipeline (exit code 2), warnings do not (exit code 0). With `dataset.broken: quarantine` in the params,
images with an error are left out and listed in quarantine.csv beside the manifest, and do not stop it."""
CHANGE = "change a value, e.g. --set seeds='[0, 1, 2]' or --set train_cam.optimisation.epochs=5"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = Parser(prog="rca", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action=ShowVersion, nargs=0, default=argparse.SUPPRESS, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_project(commands)
    preset = commands.add_parser("preset", help="write params.yaml from a preset and link its dataset")
    preset.add_argument("name", help="the preset: one of the package, or a file in workflow/presets without .yaml")
    preset.add_argument("--set", action="append", default=[], metavar="KEY=YAML", dest="changes", help=CHANGE)
    preset.add_argument("--force", action="store_true", help="overwrite params.yaml even with uncommitted edits")

    check = commands.add_parser(
        "check",
        help="validate the params and read their whole dataset; runs nothing",
        description=CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "--params", type=name_path, default=Path("params.yaml"), help="the params file (default: %(default)s)"
    )
    check.add_argument("--out", type=name_path, metavar="FILE", help="write all faults of the data as CSV")
    understood = "write what was understood and all faults as JSON (without FILE to stdout, and the text to stderr)"
    check.add_argument("--json", nargs="?", const="-", metavar="FILE", help=understood)
    shown = "write some masks over their photographs, and the classes' colours, as a picture"
    check.add_argument("--picture", type=name_path, metavar="FILE", help=shown)

    inspect = commands.add_parser("inspect", help="describe a file of the pipeline")
    inspect.add_argument("kind", choices=("data", "network", "memory", "scores", "model"), help="the kind")
    inspect.add_argument("path", type=name_path, help="e.g. runs/shapes/rca/0/model/memory.safetensors")
    masks = "for a memory: the manifest of its dataset, whose true masks give the purity (default: its run's)"
    inspect.add_argument("--manifest", type=name_path, metavar="DIR", help=masks)

    _add_score(commands.add_parser("score", help="score any masks against true masks"))
    _add_predict(commands.add_parser("predict", help="segment photographs with a trained model"))

    _add_export(
        commands.add_parser("export", help="convert a model or masks to the formats of other tools, or share a model")
    )

    _add_results(commands)
    commands.add_parser("doctor", help="print what this machine has of all that a run needs")
    commands.add_parser("show", help="print the table and the path of the report")
    clean = commands.add_parser("clean", help="list this dataset's files that no stage declares any more")
    clean.add_argument("--delete", action="store_true", help="delete them")

    completion = commands.add_parser("completion", help="print a script that lets a shell complete commands and files")
    completion.add_argument("shell", choices=("bash", "zsh"), help='e.g. eval "$(rca completion bash)"')

    for stage in list_stages():
        add_arguments(commands.add_parser(stage, help=f"run the stage {stage} by hand"))
    latex = "print the table as LaTeX instead, best bold, with its protocol as the caption"
    commands.choices["tabulate"].add_argument("--latex", action="store_true", help=latex)
    published = "with --latex: published figures to add, with the columns method, metric, percent and source"
    commands.choices["tabulate"].add_argument("--published", type=name_path, metavar="CSV", help=published)
    return parser


def _add_results(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the commands that compare, show and mend what runs have made."""
    _add_compare(commands.add_parser("compare", help="print what differs between two runs, or since a commit"))
    _add_figure(commands.add_parser("figure", help="draw photographs and masks for a paper, as PDF, SVG or PNG"))
    _add_suspect(commands.add_parser("suspect", help="rank a run's masks by how far they are to be doubted"))
    brought = commands.add_parser("import", help="bring back what was corrected by hand").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    corrected = brought.add_parser("masks", help="corrected masks, which then take the place of the pipeline's")
    source = 'a folder of PNG masks, CVAT\'s export "Segmentation mask" unpacked, or Label Studio\'s export "JSON"'
    corrected.add_argument("source", type=name_path, metavar="SOURCE", help=source)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rca compare`."""
    parser.add_argument("first", metavar="RUN", help="a run of params.yaml")
    parser.add_argument("second", nargs="?", metavar="RUN", help="the run to compare with it (default: the same)")
    revision = "the commit of the first run, e.g. HEAD~1; it must hold params.yaml and results/"
    parser.add_argument("--rev", dest="revision", metavar="COMMIT", help=revision)
    kind = "the masks whose classes are compared, e.g. seed (default: the last that both have)"
    parser.add_argument("--masks", dest="kind", metavar="KIND", help=kind)
    parser.add_argument("--split", help="the split of these masks (default: the last)")


def _add_figure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rca figure`."""
    parser.add_argument("ids", nargs="+", metavar="ID", help="images, a row for each")
    parser.add_argument("--runs", metavar="RUN,...", help="the runs (default: the last one on tags)")
    columns = "photo, truth, seed, pseudo, refined, segmentation, ... (default: %(default)s)"
    parser.add_argument("--columns", default="photo,truth,seed,refined", metavar="NAME,...", help=columns)
    parser.add_argument("--seed", type=int, help="the random seed (default: the first that has masks)")
    out = "the file, .pdf, .svg or .png (default: %(default)s)"
    parser.add_argument("--out", type=name_path, default=Path("figure.pdf"), metavar="FILE", help=out)
    alpha = "opacity of the masks, 0 to 1 (default: %(default)s)"
    parser.add_argument("--alpha", type=float, default=0.55, metavar="SHARE", help=alpha)
    parser.add_argument("--names", action="store_true", help="write classes on their regions")
    colours = "voc, or safe for colours that colour-blind people can tell apart (default: %(default)s)"
    parser.add_argument("--colours", choices=("voc", "safe"), default="voc", help=colours)
    zoom = "a part to magnify, in pixels; may be repeated"
    parser.add_argument("--zoom", action="append", default=[], metavar="ID=LEFT,TOP,WIDTH,HEIGHT", help=zoom)


def _add_suspect(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rca suspect`."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run of params.yaml (default: the last one on tags)")
    parser.add_argument("--seed", type=int, help="the random seed (default: the first that has masks)")
    kind = "the masks: seed, refined or segmentation (default: the last that all images have)"
    parser.add_argument("--masks", dest="kind", choices=("seed", "refined", "segmentation"), metavar="KIND", help=kind)
    parser.add_argument("--split", help="their split (default: train_seg.split)")
    parser.add_argument("--top", type=count, default=20, metavar="N", help="how many to show (default: %(default)s)")
    parser.add_argument("--out", type=name_path, metavar="CSV", help="write all images to this file")
    parser.add_argument("--page", type=name_path, metavar="DIR", help="write a page with pictures into this folder")
    check = "hold the suspicion against the true masks, where there are any"
    parser.add_argument("--validate", action="store_true", dest="check", help=check)


def _add_project(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the commands that make a project, and change and read its settings."""
    init = commands.add_parser("init", help="make a project in a folder, or bring it up to date")
    init.add_argument("folder", nargs="?", type=name_path, metavar="DIR", help="the folder of the project")
    init.add_argument("--preset", default="folder", metavar="NAME", help="what to start from (default: %(default)s)")
    init.add_argument("--data", type=name_path, metavar="FOLDER", help="the folder of the dataset, which is linked")
    weights = "initial weights of the backbones: a .pth or .safetensors file, whose model is found"
    init.add_argument("--weights", type=name_path, metavar="FILE", help=weights)
    init.add_argument("--set", action="append", default=[], metavar="KEY=YAML", dest="changes", help=CHANGE)
    upgrade = "bring the generated files up to date after an upgrade of rca; what you edited stays"
    init.add_argument("--upgrade", action="store_true", help=upgrade)
    run = commands.add_parser("run", help="check the project, run its stages side by side, and show what they do")
    _add_devices(run)
    run.add_argument("--verbose", action="store_true", help="show the output of the check and of Snakemake itself")
    run.add_argument("--no-check", action="store_false", dest="check", help="do not check params and data first")
    engine = "further arguments of Snakemake, after --, e.g. -- --profile profiles/slurm"
    run.add_argument("engine", nargs="*", metavar="ARGUMENT", help=engine)
    sweep = commands.add_parser("sweep", help="run a grid of settings beside a run, and print their paired differences")
    grid = "e.g. options.contrast.weight=0.1,1 or train_cam.optimisation.epochs=5,10; several keys make a grid"
    sweep.add_argument("changes", nargs="+", metavar="KEY=A,B,C", help=grid)
    sweep.add_argument("--run", metavar="NAME", help="the run to vary (default: the last of `runs`)")
    seeds = "seeds that each run has at least (default: those of params.yaml)"
    sweep.add_argument("--seeds", type=count, metavar="N", help=seeds)
    _add_devices(sweep)
    later = "only add the runs to params.yaml; the same command prints the table once they ran"
    sweep.add_argument("--no-run", action="store_false", dest="start", help=later)
    change = commands.add_parser("set", help="change values in params.yaml; its comments stay")
    example = "e.g. train_cam.optimisation.epochs=5 or seeds='[0, 1]'"
    change.add_argument("changes", nargs="+", metavar="KEY=YAML", help=example)
    get = commands.add_parser("get", help="print a value of params.yaml, or its default")
    get.add_argument("key", metavar="KEY", help="e.g. train_cam.optimisation.epochs or run.cam")


def _add_devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cores", type=count, metavar="N", help="cores to use (default: all)")
    parser.add_argument(
        "--gpus", type=count_or_none, metavar="N", help="GPUs to use; 0 computes on the CPU (default: all)"
    )


def _add_score(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rca score`."""
    folders = "folders of 8-bit PNG masks, <image>.png, searched in this order"
    parser.add_argument("--predictions", type=name_path, nargs="+", required=True, metavar="DIR", help=folders)
    parser.add_argument(
        "--truth", type=name_path, nargs="+", required=True, metavar="DIR", help="folders of true masks"
    )
    classes = "names of the object classes, one per line, label 1 first (default: all labels that occur)"
    parser.add_argument("--classes", type=name_path, metavar="FILE", help=classes)
    listed = "names of the images to score, one per line (default: all that have a true mask)"
    parser.add_argument("--list", type=name_path, metavar="FILE", dest="listed", help=listed)
    parser.add_argument(
        "--predicted-ignore",
        choices=("count_as_error", "exclude"),
        default="count_as_error",
        help="how the table counts pixels of 255 in a mask; the mIoU is printed both ways (default: %(default)s)",
    )
    distance = "width of the boundary IoU's band along contours, as a share of the diagonal (default: %(default)s)"
    parser.add_argument("--boundary-distance", type=float, default=0.02, metavar="SHARE", help=distance)
    parser.add_argument("--workers", type=count, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument(
        "--out", type=name_path, metavar="JSON", help="write all figures and their protocol to this file"
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rca predict`; omitted options use the defaults of the prediction settings."""
    parser.add_argument("model", type=name_path, metavar="MODEL", help="e.g. runs/shapes/rca/0/segmenter.safetensors")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders or patterns such as 'photos/**/*.jpg'"
    )
    out = "folder for masks, overlays and predictions.json (default: %(default)s)"
    parser.add_argument("--out", type=name_path, default=Path("predictions"), metavar="DIR", help=out)
    parser.add_argument("--force", action="store_true", help="overwrite earlier results")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    for name, text in (
        ("--tile", "longest side of a tile, in pixels, a multiple of 32 (default: 1024)"),
        ("--overlap", "overlap of neighbouring tiles, in pixels, a multiple of 32 (default: 256)"),
        ("--batch-size", "tiles of an image per batch (default: 1)"),
    ):
        parser.add_argument(name, type=int, default=argparse.SUPPRESS, metavar="N", help=text)
    scales = "factors by which tiles are resized; their probabilities are averaged (default: 1)"
    parser.add_argument("--scales", type=float, nargs="+", default=argparse.SUPPRESS, metavar="FACTOR", help=scales)
    flip = "do not average with the mirrored image; takes half the time"
    parser.add_argument("--no-flip", action="store_false", dest="flip", default=argparse.SUPPRESS, help=flip)


def _add_export(parser: argparse.ArgumentParser) -> None:
    """Add the targets of `rca export`."""
    targets = parser.add_subparsers(dest="target", required=True, metavar="TARGET")
    onnx = targets.add_parser("onnx", help="a model as ONNX, checked against PyTorch")
    onnx.add_argument("model", type=name_path, metavar="MODEL", help="e.g. runs/shapes/rca/0/segmenter.safetensors")
    onnx.add_argument("out", type=name_path, metavar="OUT.onnx", help="the file to write")
    hub = targets.add_parser("hub", help="a model as a folder in Hugging Face's layout: card, config.json and weights")
    hub.add_argument("model", type=name_path, metavar="MODEL", help="as for onnx")
    hub.add_argument("out", type=name_path, metavar="OUT", help="the folder to write")
    licence = "the model's licence for its card, e.g. cc-by-4.0 (default: the card says that it is unknown)"
    hub.add_argument("--licence", metavar="NAME", help=licence)

    coco = targets.add_parser("coco", help="masks as COCO annotations")
    voc = targets.add_parser("voc", help="masks and photographs in the layout of PASCAL VOC")
    label_studio = targets.add_parser("label-studio", help="masks as tasks of Label Studio, to be corrected there")
    for target, out in ((coco, "OUT.json"), (voc, "OUT"), (label_studio, "OUT.json")):
        source = "a folder of masks: from `rca predict`, a run's pseudo, refined or predictions, or any other"
        target.add_argument("masks", type=name_path, metavar="MASKS", help=source)
        target.add_argument("out", type=name_path, metavar=out, help="what to write")
        names = "names of the classes, one per line (default: those that belong to the masks)"
        target.add_argument("--classes", type=name_path, metavar="FILE", help=names)
        photographs = "folder of the photographs (default: those that belong to the masks)"
        target.add_argument("--photographs", type=name_path, metavar="DIR", help=photographs)
        threshold = "which of a run's pseudo or refined masks (default: %(default)s)"
        target.add_argument("--threshold", choices=("best", "fixed"), default="best", help=threshold)
        listed = "a table with the column image, e.g. of rca suspect: only these images, in this order"
        target.add_argument("--list", type=name_path, metavar="CSV", dest="listed", help=listed)
        target.add_argument("--first", type=count, metavar="N", help="only the first N of the list")
    prefix = "what stands before a photograph's name in a task (default: %(default)s)"
    label_studio.add_argument("--prefix", default="/data/local-files/?d=", help=prefix)
    server = targets.add_parser("voc-test", help="the archive that VOC's server takes for its test images")
    masks = "folder of the masks, e.g. runs/voc2012/rca_released/0/predictions/test"
    server.add_argument("masks", type=name_path, metavar="MASKS", help=masks)
    server.add_argument("out", type=name_path, metavar="OUT.tar.gz", help="the archive to write")
    server.add_argument("--split", default="test", help="the run's split of these images (default: %(default)s)")
    listed = "the list of the images (default: that of the split), in ImageSets/Segmentation beside JPEGImages"
    server.add_argument("--list", type=name_path, dest="listed", metavar="FILE", help=listed)
    competition = "comp5 for what was trained on VOC's data alone, without ImageNet (default: %(default)s)"
    server.add_argument("--competition", choices=("comp5", "comp6"), default="comp6", help=competition)
    results = targets.add_parser("coco-results", help="masks as COCO's results, with the ids of its annotations")
    results.add_argument("masks", type=name_path, metavar="MASKS", help="folder of the masks of a run, <id>.png")
    results.add_argument("out", type=name_path, metavar="OUT.json", help="the file to write")
    annotations = "COCO's file that lists the images and categories, e.g. image_info_test2014.json"
    results.add_argument("--annotations", type=name_path, required=True, metavar="FILE", help=annotations)
    results.add_argument("--classes", type=name_path, metavar="FILE", help=names)
    regions = "one annotation per connected region instead of one per class"
    for target in (coco, results):
        target.add_argument("--components", action="store_true", help=regions)
    voc.add_argument("--split", default="train", help="the name of the list of images (default: %(default)s)")
    for target in (onnx, hub, coco, label_studio, server, results):
        target.add_argument("--force", action="store_true", help="overwrite what is there")
