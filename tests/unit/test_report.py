"""The report of a small made-up project: its figures, its links, its escaping and its pictures."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reports import EVIL, HEIGHT, IDS, KINDS, PARAMS, PROTOCOL, RUNS, WIDTH, build_project, draw_mask, render

from rca.artifacts import PALETTE
from rca.errors import UserError
from rca.protocol import describe_protocol
from rca.report.build import SeedResult, choose_compared, list_columns
from rca.report.charts import summarise_seeds
from rca.report.pictures import DIMMED, OPACITY, blend_mask, draw_comparison


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
    regions = len(pd.read_csv(f"runs/toy/evaluation/{RUNS[-1]}-0/memory/regions.csv"))
    # Three charts, one comparison, and the regions of a memory.
    assert len(names) == len(IDS) * (2 + len(RUNS) * len(KINDS)) + 3 + 1 + regions
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
        assert image["loading"] == "lazy"
        path = project / "runs/toy/report" / unquote(image["src"] or "")
        if path.suffix != ".svg":
            with Image.open(path) as picture:
                assert (str(picture.width), str(picture.height)) == (image["width"], image["height"])


def test_names_are_escaped(project: Path) -> None:
    page = render(project)
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert EVIL in page.words
    assert "a<b&c" in page.words
    assert "# <i>a comment</i>" in page.words


def test_overlays_on_the_page_are_the_blend(project: Path) -> None:
    render(project)
    photograph = np.array(Image.open("data/toy/two.png"))
    folder = project / "runs/toy/report/pictures/examples/two"
    assert np.array_equal(np.array(Image.open(folder / "0-seed.png")), blend_mask(photograph, draw_mask(1)))
    assert np.array_equal(np.array(Image.open(folder / "truth.png")), blend_mask(photograph, draw_mask(0)))


def test_blend_of_each_kind_of_pixel() -> None:
    photograph = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    blended = blend_mask(photograph, draw_mask(0))
    grey = photograph.astype(float) @ (0.299, 0.587, 0.114)
    for row, column, label in ((10, 10, 1), (35, 40, 2)):
        colour = np.array(PALETTE[3 * label : 3 * label + 3])
        wanted = (1 - OPACITY) * grey[row, column] + OPACITY * colour
        assert np.allclose(blended[row, column], wanted, atol=0.51)
    assert np.allclose(blended[0, 0], DIMMED * grey[0, 0], atol=0.51)
    assert (blended[4, 10] == 255).all()  # the edge of an object
    ignored = blended[26:44, 52:60]
    assert (ignored == 255).all(-1).any()
    assert (ignored < 255).all(-1).any()
    assert (ignored[..., 0] == ignored[..., 1]).all()


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
    page = render(project)
    assert page.words.count("no refined") == len(IDS)


def test_one_seed_has_no_spread(project: Path) -> None:
    (project / "params.yaml").write_text(PARAMS.replace("seeds: [0, 1]", "seeds: [0]"))
    unknown = dict.fromkeys(("std", "difference", "low", "high"), float("nan"))
    table = pd.read_csv("results/toy/table.csv").assign(seeds=1, **unknown)
    table.to_csv("results/toy/table.csv", index=False)
    page = render(project)
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
    (project / "params.yaml").write_text(PARAMS.replace("title: null", "title: Nine & more"))
    assert "<h1>Nine &amp; more</h1>" in render(project).text


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


def test_the_stage_imports_neither_torch_nor_dvc() -> None:
    code = "import sys, rca.stages.render_report; print([m for m in ('torch', 'dvc', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sheet_shows_a_run_that_has_masks_of_every_kind() -> None:
    def make(supervision: str) -> list[SeedResult]:
        return [SeedResult(Path(), {"supervision": supervision}, pd.DataFrame(), {})]

    assert choose_compared({"cam": make("tags"), "rca": make("tags"), "full": make("masks")}) == "rca"
    assert choose_compared({"one": make("masks"), "full": make("masks")}) == "full"
