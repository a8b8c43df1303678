"""The report of a small made-up project: its figures, its links, its escaping and its pictures."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reports import (
    EVIL,
    HEIGHT,
    IDS,
    KINDS,
    PROTOCOL,
    ROOT,
    RUNS,
    SEEDS,
    WIDTH,
    build_project,
    draw_mask,
    find_ious,
    render,
)
from sklearn.metrics import confusion_matrix

from rca.core.errors import UserError
from rca.core.files import IGNORE, PALETTE, write_json
from rca.evaluation.protocol import describe_protocol
from rca.params.read import read_params
from rca.pipeline.resolve import resolve_jobs
from rca.report.build import choose_compared, list_columns
from rca.report.charts import summarise_seeds
from rca.report.errors import ErrorTables
from rca.report.gallery import RunExamples
from rca.report.pictures import DIMMED, OPACITY, blend_mask, draw_comparison
from rca.report.pipeline import draw_graph
from rca.report.source import SeedResult
from rca.stages.base.stage import list_stages
from rca.stages.render_report import read_pipeline


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    build_project(tmp_path)
    return tmp_path


def test_figures_agree_with_the_table(project: Path) -> None:
    page = render(project)
    table = pd.read_csv(project / "results/toy/table.csv").set_index(["run", "metric"])
    metrics = ["seed.train.best.miou", "seed.train.fixed.miou", "segmentation.val.miou", "classification.val.map"]
    for name in RUNS:
        wanted = [name]
        for metric in metrics:
            if (name, metric) in table.index:
                row = table.loc[(name, metric)]
                cell = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
                if name != RUNS[0]:
                    low, high = (f"{100 * row[end]:+.1f}" for end in ("low", "high"))
                    cell += f" {100 * row['difference']:+.1f} [{low}, {high}]"
                wanted.append(cell)
            else:
                wanted.append("–")
        assert page.find_row(name) == wanted
    assert page.find_row("run") == ["run", "seed (tags given)", "segmentation (no tags)", "classifier"]
    assert "over 2 seeds" in page.words
    for sentence in describe_protocol(PROTOCOL):
        assert sentence in page.words


def test_the_highest_of_a_column_is_bold(project: Path) -> None:
    text = render(project).text
    table = pd.read_csv("results/toy/table.csv")
    for _, rows in table.groupby("metric"):
        best = f"{100 * rows['mean'].max():.1f}"
        assert f'best"><span class="mean">{best}</span>' in text
    assert text.count('best"><span') == table["metric"].nunique()


def test_statistics(project: Path) -> None:
    page = render(project)
    assert page.find_row("train") == ["train", "3", "0", "2.00"]
    assert ["cat", "3", "3"] in page.list_rows()


def test_links_lead_to_files_beside_the_page(project: Path) -> None:
    page = render(project)
    folder = project / "runs/toy/report"
    names = {attribute for attribute in page.links if not attribute.startswith("#")}
    gallery = page.gallery
    for image in gallery["images"]:
        place = f"pictures/examples/{image['id']}"
        names |= {f"{place}/photograph.jpg", f"{place}/truth.png"}
        assert image["scores"] == [True] * len(RUNS)
        names |= {f"{place}/{number}-scores.png" for number in range(len(RUNS))}
        names |= {
            f"{place}/{number}-{kind}.png"
            for number, masks in enumerate(image["masks"])
            for (kind, _), mask in zip(gallery["kinds"], masks, strict=True)
            if mask
        }
    regions = len(pd.read_csv(f"runs/toy/evaluation/{RUNS[-1]}-0/memory/regions.csv"))
    names |= {"vega.js", "images.js"}  # which the page's script asks for
    # The pictures of each image, one comparison, the regions of a memory, and six scripts.
    assert len(names) == len(IDS) * (2 + len(RUNS) * (1 + len(KINDS))) + 1 + regions + 6
    for name in names:
        assert "://" not in name
        assert (folder / unquote(name)).is_file()
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {unquote(name) for name in names} | {"index.html"}
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert all(f'id="{anchor}"' in page.text for anchor in anchors)
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_images_state_what_they_show_and_their_size(project: Path) -> None:
    for image in render(project).images:
        assert image["alt"]
        assert "src" not in image  # the script asks for it once it is seen
        path = project / "runs/toy/report" / unquote(image["data-src"] or "")
        if path.suffix != ".svg":
            with Image.open(path) as picture:
                assert (str(picture.width), str(picture.height)) == (image["width"], image["height"])


def test_names_are_escaped(project: Path) -> None:
    page = render(project)
    assert page.tags.count("script") == 5  # four files of data, and the script itself
    assert "i" not in page.tags
    assert "alert(1)</script>" not in page.text
    assert page.gallery["classes"] == ["background", EVIL, "cat"]
    assert EVIL in page.words
    assert "a<b&c" in page.words
    assert "# <i>a comment</i>" in page.words


def test_the_gallery_knows_how_good_each_mask_is(project: Path) -> None:
    gallery = render(project).gallery
    assert gallery["run_names"] == list(RUNS)
    assert [kind for kind, _ in gallery["kinds"]] == list(KINDS)
    for image in gallery["images"]:
        number = IDS.index(image["id"])
        wanted = [value for label, iou in find_ious(number).items() for value in (label, round(1000 * iou))]
        assert image["masks"] == [[[*wanted, IGNORE, -1]] * len(KINDS)] * len(RUNS)
        assert image["truth"] == [1, 2, IGNORE]
        assert image["height"] == HEIGHT


def test_an_image_without_a_truth_has_no_iou(project: Path) -> None:
    for folder in project.glob("runs/toy/evaluation/*"):
        (folder / "examples/one/truth.png").unlink()
        table = pd.read_csv(folder / "examples.csv")
        table[table["image"] != "one"].to_csv(folder / "examples.csv", index=False)
    image = next(image for image in render(project).gallery["images"] if image["id"] == "one")
    assert image["truth"] is None
    assert image["masks"][0][0] == [1, -1, 2, -1, IGNORE, -1]


def test_overlays_on_the_page_are_the_masks(project: Path) -> None:
    render(project)
    folder = project / "runs/toy/report/pictures/examples/two"
    for file, mask in (("0-seed.png", draw_mask(1)), ("truth.png", draw_mask(0))):
        drawn = np.array(Image.open(folder / file).convert("RGBA"))
        assert (drawn[mask == 0, 3] == 0).all()
        for label in (1, 2):
            colours = {tuple(colour) for colour in drawn[mask == label]}
            assert colours == {(*PALETTE[3 * label : 3 * label + 3], 255), (255, 255, 255, 255)}  # inside, and edge
        stripes = drawn[mask == IGNORE]
        assert (stripes[stripes[:, 3] > 0] == 255).all()
        assert 0 < (stripes[:, 3] > 0).mean() < 1


def test_blend_of_each_kind_of_pixel() -> None:
    photograph = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    blended = blend_mask(photograph, draw_mask(0))
    grey = ((photograph.astype(int) * (19595, 38470, 7471)).sum(2) + (1 << 15)) >> 16  # ITU-R 601 in 65,536ths
    for row, column, label in ((10, 10, 1), (35, 40, 2)):
        colour = np.array(PALETTE[3 * label : 3 * label + 3])
        wanted = ((100 - OPACITY) * grey[row, column] + OPACITY * colour) / 100
        assert np.allclose(blended[row, column], wanted, rtol=0, atol=0.5)
    assert np.allclose(blended[0, 0], DIMMED * grey[0, 0] / 100, rtol=0, atol=0.5)
    assert (blended[4, 10] == 255).all()  # the edge of an object
    ignored = blended[26:44, 52:60]
    assert (ignored == 255).all(-1).any()
    assert (ignored < 255).all(-1).any()
    assert (ignored[..., 0] == ignored[..., 1]).all()


def test_errors_on_the_page_agree_with_sklearn(project: Path) -> None:
    page = render(project)
    data = page.read_script("errors")
    assert data["classes"] == ["background", EVIL, "cat"]
    truth = np.concatenate([draw_mask(0).ravel()] * len(IDS))
    mask = np.concatenate([draw_mask(number).ravel() for number in range(len(IDS))])
    truth, mask = truth[truth != IGNORE], mask[truth != IGNORE]
    wanted = len(SEEDS) * confusion_matrix(truth, mask, labels=[0, 1, 2, IGNORE])
    by_kind = {kind: at for at, kind in enumerate(data["kinds"])}
    assert [(each["run"], each["masks"]) for each in data["tables"]] == [
        (number, masks) for number in range(len(RUNS)) for masks in ("segmentation, val", "seed, train")
    ]
    for table in data["tables"]:
        pixels = np.zeros((4, 4), int)
        for true, predicted, count in table["confusion"]:
            pixels[true, 3 if predicted == IGNORE else predicted] = count
        np.testing.assert_array_equal(pixels, wanted)
        for label, line in enumerate(table["groups"][0], 1):
            assert line[by_kind["hit"]] == wanted[label, label]
            assert sum(line) == wanted[label].sum() + wanted[:, label].sum() - wanted[label, label]
        for group, (_, names) in zip(table["groups"], data["groups"], strict=True):
            assert len(group) == len(names)
            assert np.sum(group) == np.sum(table["groups"][0])


def test_bars_of_each_class(project: Path) -> None:
    page = render(project)
    ious = [pd.read_csv(f"runs/toy/evaluation/cam-{seed}/per_class.csv")["iou"][1] for seed in (0, 1)]
    row = page.find_row(EVIL)
    assert row[1] == f"{100 * np.mean(ious):.1f} ± {100 * np.std(ious, ddof=1):.1f}"
    assert page.list_rows().count(["cat", "–", "–"]) == 2  # no image has it
    assert "seed, train" in page.words
    assert page.text.count('class="class-table"') == 2  # of the best threshold and of the segmentation


def test_what_the_stages_took_is_beside_the_page_and_not_in_it(project: Path) -> None:
    before = render(project).text
    one = {"dataset": "toy", "run": "cam", "seed": 0, "shard": None, "gpu_memory_mb": None}
    logs = {
        "train_cam.cam-0": {**one, "stage": "train_cam", "seconds": 4.5, "memory_mb": 120},
        "train_cam.cam-1": {**one, "stage": "train_cam", "seed": 1, "seconds": 2.25, "memory_mb": 300},
        "train_cam.cam-7": {**one, "stage": "train_cam", "seed": 7, "seconds": 99, "memory_mb": 999},  # not listed
        "make_cam.cam-0-0": {**one, "stage": "make_cam", "dataset": "other", "seconds": 99, "memory_mb": 999},
        "tabulate": {**one, "stage": "tabulate", "run": None, "seed": None, "seconds": 1, "memory_mb": 80},
    }
    for name, content in logs.items():
        write_json(project / f"logs/{name}.json", content)
    page = render(project)
    assert page.text == before
    measured = page.read_script("measurements")
    assert set(measured["by_stage"]) == {"train_cam", "tabulate"}
    assert measured["by_stage"]["train_cam"] == {
        "instances": 2, "seconds": 6.75, "longest": 4.5, "memory_mb": 300, "gpu_memory_mb": None
    }  # fmt: skip
    assert measured["by_run"] == {"cam": {"train_cam": 6.75}, "": {"tabulate": 1}}
    # Logs of earlier versions do not say when and where; the folder is in no repository.
    assert (measured["ended"], measured["hosts"], measured["devices"], measured["commit"]) == ([], [], [], None)


def test_when_and_where_the_stages_ran_and_from_which_commit(project: Path) -> None:
    one = {"dataset": "toy", "run": "cam", "shard": None, "seconds": 1, "memory_mb": 1, "gpu_memory_mb": None}
    places = {
        "train_cam": {"ended": "2026-11-28T14:05:00+00:00", "host": "node7", "device": "NVIDIA H100"},
        "make_cam": {"ended": "2026-11-27T23:50:00+00:00", "host": "login", "device": "a processor"},
    }
    for stage, place in places.items():
        write_json(project / f"logs/{stage}.cam-0.json", {**one, "stage": stage, "seed": 0, **place})
    git("init", "--quiet")
    git("add", "params.yaml")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "first")
    measured = render(project).read_script("measurements")
    assert measured["ended"] == ["2026-11-27T23:50:00+00:00", "2026-11-28T14:05:00+00:00"]
    assert (measured["hosts"], measured["devices"]) == (["login", "node7"], ["NVIDIA H100", "a processor"])
    assert measured["commit"] == {"sha": git("rev-parse", "HEAD"), "changed": False}
    git("add", "results")  # what runs write is no change
    assert render(project).read_script("measurements")["commit"]["changed"] is False
    with open("params.yaml", "a") as params:
        params.write("# another\n")
    assert render(project).read_script("measurements")["commit"]["changed"] is True


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_the_pipeline_is_that_of_dvc_yaml(project: Path) -> None:
    graph = draw_graph(read_pipeline(Path("dvc.yaml"), Path("workflow/instances.yaml"), 2, 1))
    needs = {node.name: set(node.needs) for node in graph.nodes}
    assert set(needs) == {"pin_stages", *list_stages()}
    assert needs["prepare_data"] == {"generate_data"}
    assert needs["pin_truth"] == {"pin_images"}
    assert needs["train_seg"] == {"fetch_weights", "pin_images", "pin_masks", "pin_truth"}
    assert needs["tabulate"] == {"evaluate"}
    assert "relabel_masks" in needs["evaluate"]
    assert "train_seg" in needs["relabel_masks"]  # of an earlier round, so that the stages form a circle
    seen: set[str] = set()
    for node in graph.nodes:
        assert set(node.needs) <= seen
        seen.add(node.name)
    # What the arcs say is all that the needs say.
    reached: dict[str, set[str]] = {name: set() for name in needs}
    for node in graph.nodes:
        for _, first, last in graph.arcs:
            if last == node.name:
                reached[last] |= {first, *reached[first]}
        assert set(node.needs) <= reached[node.name]
        assert set(node.direct) == {first for _, first, last in graph.arcs if last == node.name}
    assert render(project).find_row("tabulate")[-1] == "evaluate"


def test_stages_have_as_many_instances_as_dvc_has_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    jobs = Counter(re.split("[@]", job.name)[0] for job in resolve_jobs(ROOT))
    params = read_params()
    stages = read_pipeline(Path("dvc.yaml"), Path("workflow/instances.yaml"), len(params.seeds), len(params.shards))
    assert {name: stage.instances for name, stage in stages.items() if stage.instances} == jobs


def test_the_page_knows_its_stages_without_measurements(project: Path) -> None:
    page = render(project)
    assert page.find_row("train_cam")[1:3] == ["4", "–"]
    assert page.find_row("render_report")[1:3] == ["1", "makes this page"]
    assert "train_affinity" not in page.words  # no run has it


def test_pseudo_labels_that_are_the_seeds_have_no_column(project: Path) -> None:
    table = pd.read_csv("results/toy/table.csv")
    copies = table[table["metric"].str.startswith("seed.")].copy()
    copies["metric"] = copies["metric"].str.replace("seed.", "pseudo.", n=1)
    pd.concat([table, copies]).to_csv("results/toy/table.csv", index=False)
    page = render(project)
    assert page.find_row("run") == ["run", "seed (tags given)", "segmentation (no tags)", "classifier"]
    assert "On train the pseudo labels are the seeds" in page.words
    copies.iloc[0, copies.columns.get_loc("mean")] += 0.01
    pd.concat([table, copies]).to_csv("results/toy/table.csv", index=False)
    assert "pseudo label (tags given)" in render(project).find_row("run")


def test_a_page_without_scored_masks_says_nothing_of_how_masks_are_scored(project: Path) -> None:
    for path in project.glob("runs/toy/evaluation/*/evaluation.json"):
        content = json.loads(path.read_text())
        content["protocol"]["tags"] = {}
        write_json(path, content)
    words = render(project).words
    assert "boundary IoU" not in words
    assert "undecided counts" not in words


def test_same_inputs_give_the_same_bytes(project: Path) -> None:
    def read() -> dict[str, bytes]:
        folder = project / "runs/toy/report"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    render(project)
    first = read()
    render(project)
    assert read() == first


def test_only_named_runs_and_seeds_are_opened(project: Path) -> None:
    before = render(project).text
    (project / "runs/toy/evaluation/removed-0").mkdir()
    (project / "runs/toy/evaluation/cam-7").mkdir()
    assert render(project).text == before


def test_a_missing_evaluation_is_named(project: Path) -> None:
    (project / "runs/toy/evaluation/cam-1").rename(project / "elsewhere")
    with pytest.raises(UserError, match=r"runs/toy/evaluation/cam-1 does not exist"):
        render(project)
    assert not (project / "runs/toy/report").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "does not exist"), ("", "is not valid CSV"), ("a,b\n1,2\n", "lacks the column threshold")],
)
def test_a_bad_file_is_named(project: Path, content: str | None, sentence: str) -> None:
    path = project / "runs/toy/evaluation/cam-0/threshold.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"cam-0/threshold.csv {sentence}"):
        render(project)


def test_an_image_outside_the_manifest_is_named(project: Path) -> None:
    folder = project / "runs/toy/evaluation/cam-0/examples"
    (folder / "one").rename(folder / "stranger")
    with pytest.raises(UserError, match="examples/stranger shows an image that is not in the manifest"):
        render(project)


def test_without_examples_there_is_a_hint(project: Path) -> None:
    for path in sorted(project.glob("runs/toy/evaluation/*/examples")):
        path.rename(project / f"{path.parent.name}-examples")
    page = render(project)
    assert "evaluate.examples" in page.words
    assert not (project / "runs/toy/report/pictures/comparison.png").exists()


def test_a_kind_that_one_run_lacks_leaves_a_gap(project: Path) -> None:
    for image_id in IDS:
        (project / f"runs/toy/evaluation/cam-0/examples/{image_id}/refined.png").unlink()
    gallery = render(project).gallery
    refined = [kind for kind, _ in gallery["kinds"]].index("refined")
    for image in gallery["images"]:
        assert image["masks"][RUNS.index("cam")][refined] is None
        assert image["masks"][1][refined]


def test_one_seed_has_no_spread(project: Path) -> None:
    unknown = dict.fromkeys(("std", "difference", "low", "high"), float("nan"))
    table = pd.read_csv("results/toy/table.csv").assign(seeds=1, **unknown)
    table.to_csv("results/toy/table.csv", index=False)
    page = render(project, seeds=(0,))
    assert "±" not in page.words
    assert "paired over seeds" not in page.words


def test_a_training_that_was_switched_off_has_no_chart(project: Path) -> None:
    assert "segmentation network: cross entropy loss" in render(project).words
    for path in (project / "runs/toy/evaluation").glob("*/train_seg.csv"):
        path.write_text("epoch,learning_rate,loss_cross_entropy\n")
    page = render(project)
    assert "classification network: classification loss" in page.words
    assert "segmentation network" not in page.words


def test_a_title_of_ones_own(project: Path) -> None:
    assert "<h1>Nine &amp; more</h1>" in render(project, title="Nine & more").text


def test_metrics_are_taken_apart() -> None:
    columns = list_columns(pd.DataFrame({"metric": ["seed.my.split.best.miou", "segmentation.my.split.miou"]}))
    assert [(one.kind, one.split, one.choice, one.measure) for one in columns.values()] == [
        ("seed (tags given)", "my.split", "best", "mIoU"),
        ("segmentation (no tags)", "my.split", "", "mIoU"),
    ]


def test_runs_with_other_protocols_are_told_apart(project: Path) -> None:
    path = project / "runs/toy/evaluation/cam-0/evaluation.json"
    path.write_text(path.read_text().replace("count_as_error", "exclude"))
    words = render(project).words
    assert "is left out" in words
    assert "counts as an error" in words


def test_curves_are_means_over_seeds() -> None:
    tables = [pd.DataFrame({"x": [1, 2], "y": [0.0, 2.0]}), pd.DataFrame({"x": [2, 3], "y": [4.0, 5.0]})]
    curve = summarise_seeds([*tables, pd.DataFrame({"x": [1]})], "x", "y")
    assert curve.index.tolist() == [1, 2, 3]
    assert curve.to_numpy().tolist() == [[0, 0, 0], [3, 2, 4], [5, 5, 5]]
    assert summarise_seeds([], "x", "y").empty


def test_comparison_places_pictures_in_a_grid() -> None:
    red, blue = Image.new("RGB", (100, 50), "red"), Image.new("RGB", (10, 10), "blue")
    sheet = draw_comparison([[red, None], [None, blue]], ["left", "right"], width=100, gap=10)
    assert sheet.width == 2 * 110 + 10
    head = sheet.height - (50 + 10) - (100 + 10)
    assert sheet.getpixel((60, head + 25)) == (255, 0, 0)
    assert sheet.getpixel((170, head + 25)) == (255, 255, 255)
    assert sheet.getpixel((170, head + 60 + 50)) == (0, 0, 255)
    assert np.asarray(sheet)[:head].min() < 128  # the captions
    with pytest.raises(ValueError, match="Each row must hold 2 pictures"):
        draw_comparison([[red]], ["left", "right"])


def test_the_stage_imports_nothing_slow() -> None:
    late = ("torch", "dvc", "sklearn", "altair", "vl_convert")
    code = f"import sys, rca.stages.render_report; print([m for m in {late} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sheet_shows_a_run_that_has_masks_of_every_kind() -> None:
    def make(supervision: str) -> list[SeedResult]:
        nothing = pd.DataFrame()
        examples, errors = RunExamples(Path(), nothing), ErrorTables(nothing, nothing)
        return [SeedResult(examples, nothing, nothing, errors, {"supervision": supervision}, nothing, {}, {})]

    assert choose_compared({"cam": make("tags"), "rca": make("tags"), "full": make("masks")}) == "rca"
    assert choose_compared({"one": make("masks"), "full": make("masks")}) == "full"


def test_a_run_that_takes_its_network_has_no_training_to_show(project: Path) -> None:
    for path in project.rglob("train_cam.csv"):
        path.unlink()
    with pytest.raises(UserError, match="train_cam"):
        render(project)
    assert render(project, trained_runs=()).find_row("run")
