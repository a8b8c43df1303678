"""The report in a real browser: what a reader sees, presses and drags. Needs Chromium; skips where there is none."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from reports import EVIL, IDS, KINDS, RUNS, SEEDS, build_project, draw_mask, find_ious, render
from sklearn.metrics import confusion_matrix

from rca.core.files import IGNORE, write_json
from rca.data.manifest import read_manifest, write_manifest

playwright = pytest.importorskip("playwright.sync_api", reason="the report is tried in a browser by playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")

QUIET = ("background-networking", "component-update", "sync", "gpu")  # what a browser does beside showing a page
ARGUMENTS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
SIZES = {"wide": (1280, 800), "phone": (390, 844)}
IMAGES, A_PAGE = 30, 12


@dataclass
class Opened:
    """A page, and what it did."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def pictures(self) -> list[str]:
        return [url for url in self.requests if re.search(r"\.(jpg|png|svg)$", url)]

    def read(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    @property
    def names(self) -> list[str]:
        return self.read("#gallery article h3 button")

    def enlarge(self, article: int = 0) -> None:
        """Open the viewer with the keyboard, which does not miss while the page still moves."""
        self.page.locator("#gallery article h3 button").nth(article).press("Enter")
        self.page.locator("#viewer[open]").wait_for()


Open = Callable[..., Opened]


def add_images(count: int) -> None:
    """Bring the project to so many images: the first three again and again, under other names."""
    manifest = read_manifest(Path("runs/toy/data"))
    names = {f"image{number:04}": IDS[number % 3] for number in range(count - len(IDS))}
    by_id = {record.id: record for record in manifest.images}
    added = [replace(by_id[source], id=name) for name, source in names.items()]
    write_manifest(Path("runs/toy/data"), replace(manifest, images=(*manifest.images, *added)))
    for folder in Path("runs/toy/evaluation").iterdir():
        for name, source in names.items():
            (folder / "examples" / name).mkdir()
            for file in (folder / "examples" / source).iterdir():
                os.link(file, folder / "examples" / name / file.name)
        table = pd.read_csv(folder / "examples.csv")
        copies = [table[table["image"] == source].assign(image=name) for name, source in names.items()]
        pd.concat([table, *copies]).to_csv(folder / "examples.csv", index=False)


def build_page(folder: Path, images: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build_project(folder)
        add_images(images)
        one = {"dataset": "toy", "stage": "train_cam", "run": "cam", "seed": 0, "shard": None}
        one |= {"ended": "2026-11-28T14:05:00+00:00", "host": "node7", "device": "<b>x</b>"}
        write_json(Path("logs/train_cam.cam-0.json"), {**one, "seconds": 90, "memory_mb": 2048, "gpu_memory_mb": None})
        render(folder)
    return folder / "runs/toy/report/index.html"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_page(tmp_path_factory.mktemp("project"), IMAGES)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any, page_file: Path) -> Iterator[Open]:
    """Open the page; whatever a test does with it, it complains of nothing and asks for nothing from elsewhere."""
    found: list[Opened] = []

    def open_(size: str = "wide", scheme: str = "light", file: Path = page_file) -> Opened:
        width, height = SIZES[size]
        opened = Opened(browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme))
        found.append(opened)
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("console", lambda message: opened.complaints.append(message.text))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("dialog", lambda dialog: opened.complaints.append(dialog.message) or dialog.dismiss())
        opened.page.goto(file.as_uri())
        opened.page.wait_for_load_state("networkidle")
        return opened

    yield open_
    for opened in found:
        opened.page.wait_for_load_state("networkidle")
        assert opened.complaints == []
        for url in opened.requests:
            path = Path(unquote(urlsplit(url).path))
            assert urlsplit(url).scheme == "file"
            assert path.is_file()
            assert path.is_relative_to(Path(unquote(urlsplit(opened.page.url).path)).parent)
        opened.page.close()


def count_visible(opened: Opened) -> int:
    """How many pictures have a pixel in the window."""
    return opened.page.evaluate(
        """[...document.images].filter(image => {
            const box = image.getBoundingClientRect();
            return box.width && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
        }).length"""
    )


@pytest.mark.parametrize("size", SIZES)
def test_pictures_load_when_they_come_into_view(open_page: Open, size: str) -> None:
    opened = open_page(size)
    assert len(opened.pictures) <= count_visible(opened)
    assert not any("examples" in url for url in opened.pictures)
    card = opened.page.locator("#gallery article").first
    card.scroll_into_view_if_needed()
    opened.page.wait_for_function("document.querySelector('#gallery img').naturalWidth > 0")
    assert 0 < len([url for url in opened.pictures if "examples" in url]) < A_PAGE * (2 + len(RUNS) * (1 + len(KINDS)))


def test_names_show_as_text(open_page: Open) -> None:
    opened = open_page()
    assert EVIL in opened.read("#gallery-class option")
    assert opened.read("#gallery article .legend li")[0].strip() == EVIL
    assert opened.read("#gallery article h4")[2].strip() == RUNS[1]
    opened.enlarge()
    assert EVIL in opened.read("#viewer th")
    assert EVIL in opened.read(".bars th")


def test_a_link_shows_what_its_sender_chose(open_page: Open) -> None:
    sent = open_page()
    start = sent.page.url
    assert "#" not in start
    for control, label in (("result-choice", "fixed"), ("errors-run", RUNS[0]), ("gallery-class", EVIL)):
        sent.page.select_option(f"#{control}", label=label)
    sent.page.fill("#gallery-name", "im")
    sent.page.locator("#scatter-chart").scroll_into_view_if_needed()
    sent.page.select_option("#scatter-across", label=f"{RUNS[0]}: seed, train")
    sent.enlarge(1)
    heading = sent.page.inner_text("#viewer-heading")
    names = sent.names

    got = open_page()
    got.page.goto(sent.page.url)  # as pasted into the address of a page that is open
    got.page.locator("#viewer[open]").wait_for()
    assert got.page.inner_text("#viewer-heading") == heading
    assert got.names == names
    read = "id => document.getElementById(id).selectedOptions[0].text"
    assert got.page.evaluate(read, "errors-run") == RUNS[0]
    assert got.page.evaluate(read, "result-choice") == "fixed"
    got.page.keyboard.press("Escape")
    got.page.wait_for_function("!location.hash.includes('image')")
    got.page.locator("#scatter-chart").scroll_into_view_if_needed()
    got.page.wait_for_function("document.querySelector('#scatter-controls:not([hidden])')")
    assert got.page.evaluate(read, "scatter-across") == f"{RUNS[0]}: seed, train"

    # What another report's link asks for, and this one lacks, stays as it is; a section's name is no choice.
    got.page.goto(f"{start}#gallery-class=77&image=nowhere&result-name=cam")
    got.page.wait_for_function("document.getElementById('result-name').value === 'cam'")
    assert got.page.input_value("#gallery-class") == "-1"
    assert got.page.locator("#viewer[open]").count() == 0
    got.page.fill("#result-name", "")
    got.page.goto(f"{start}#classes")
    assert got.page.input_value("#result-name") == ""


def test_the_gallery_is_ordered_by_iou(open_page: Open) -> None:
    opened = open_page()
    mean = {IDS[number]: np.mean(list(find_ious(number).values())) for number in range(3)}
    assert mean["one"] > mean["two"] > mean["three.x"]
    kinds = [IDS.index(name) if name in IDS else int(name[-4:]) % 3 for name in opened.names]
    assert kinds == [2] * 10 + [1] * 2  # the worst first
    shown = [float(text.split()[-1]) for text in opened.read("#gallery article h3 small")]
    assert shown == pytest.approx([100 * mean["three.x"]] * 10 + [100 * mean["two"]] * 2, abs=0.06)
    opened.page.select_option("#gallery-order", "highest")
    assert opened.names[0].endswith(("one", "0", "3", "6", "9"))
    opened.page.select_option("#gallery-class", label=EVIL)
    assert float(opened.read("#gallery article h3 small")[0].split()[-1]) == 100  # the mask that is not moved
    opened.page.select_option("#gallery-order", "lowest")
    moved = float(opened.read("#gallery article h3 small")[0].split()[-1])
    assert moved == pytest.approx(100 * find_ious(2)[1], abs=0.06)


def test_filters_work_by_mouse(open_page: Open) -> None:
    opened = open_page()
    page = opened.page
    assert opened.read("#gallery-count") == [f"{IMAGES} of {IMAGES} images"]
    assert page.locator("#gallery article").first.locator("figure").count() == 2 + len(RUNS) * (1 + len(KINDS))
    page.select_option("#gallery-run", label=RUNS[1])
    page.select_option("#gallery-kind", label="refined")
    captions = [
        text.split("\n")[-1] for text in page.locator("#gallery article").first.locator("figure").all_inner_texts()
    ]
    assert [caption.split()[0] for caption in captions] == ["photograph", "truth", "refined"]
    page.click("#gallery-next")
    page.click("#gallery-next")
    assert opened.read("#gallery-page") == ["page 3 of 3"]
    assert len(opened.names) == IMAGES - 2 * A_PAGE
    assert page.is_disabled("#gallery-next")
    page.click("#gallery-previous")
    assert opened.read("#gallery-page") == ["page 2 of 3"]
    page.fill("#gallery-name", "three")
    assert opened.names == ["three.x"]
    page.fill("#gallery-name", "nowhere")
    assert opened.read("#gallery-count") == [f"0 of {IMAGES} images"]


def test_filters_work_by_keyboard(open_page: Open) -> None:
    opened = open_page()
    page = opened.page
    page.focus("#gallery-run")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.locator("#gallery article").first.locator("figure").count() == 3
    page.keyboard.press("Tab")
    page.keyboard.type("cat")
    assert page.evaluate("document.activeElement.selectedOptions[0].text") == "cat"
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert opened.names == sorted(opened.names)
    page.keyboard.press("Tab")
    page.keyboard.type("image000")
    assert opened.names == [f"image{number:04}" for number in range(10)]
    page.focus("#gallery article h3 button")
    page.keyboard.press("Enter")
    assert opened.read("#viewer-heading")[0].startswith("image0000")
    page.keyboard.press("ArrowRight")
    assert opened.read("#viewer-heading")[0].startswith("image0001")
    page.wait_for_function("document.querySelector('#viewer img').naturalWidth > 0")
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")
    assert page.evaluate("document.activeElement.textContent") == "image0000"


def test_the_slider_fades_masks_by_mouse_and_by_keyboard(open_page: Open) -> None:
    page = open_page().page
    slider = page.locator("#gallery-controls input[type=range]")
    slider.scroll_into_view_if_needed()

    def read() -> tuple[float, str]:
        style = "(image) => [Number(getComputedStyle(image).opacity), getComputedStyle(image).filter]"
        mask, photograph = (page.locator(f"#gallery .masked img:{which}-child").first for which in ("last", "first"))
        return mask.evaluate(style)[0], photograph.evaluate(style)[1]

    page.locator("#gallery article").first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#gallery .mask').naturalWidth > 0")
    assert read()[0] == 0.65
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    by_mouse = read()[0]
    assert 0.15 <= by_mouse <= 0.35
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert read()[0] == pytest.approx(by_mouse + 0.05)
    page.keyboard.press("Home")
    assert read() == (0, "grayscale(0) brightness(1)")
    assert page.locator("#gallery-controls output").inner_text() == "0%"
    page.keyboard.press("End")
    assert read()[0] == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_can_be_read(open_page: Open, size: str, scheme: str) -> None:
    opened = open_page(size, scheme)
    page = opened.page
    for enlarged in (False, True):
        if enlarged:
            opened.enlarge()
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        texts = page.evaluate(
            """[...document.querySelectorAll('body *')].filter(element => element.checkVisibility() &&
                !element.closest('svg, .bar-track, [aria-hidden]') &&
                [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())).map(element => {
                let ground = element;
                while (ground.parentElement && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')
                    ground = ground.parentElement;
                const style = getComputedStyle(element);
                return [element.outerHTML.slice(0, 80), parseFloat(style.fontSize), style.color,
                    getComputedStyle(ground).backgroundColor, element.closest(':disabled') !== null];
            })"""
        )
        assert len(texts) > 100
        for name, pixels, ink, ground, disabled in texts:
            assert pixels >= 12, name
            assert disabled or find_contrast(ink, ground) >= 4.5, (name, ink, ground)


def find_contrast(*colours: str) -> float:
    """The contrast of two colours as WCAG 2 defines it, 1..21."""
    luminance = []
    for colour in colours:
        whole = 1 if colour.startswith("color(") else 255  # what a mix of colours is computed to
        channels = np.array([float(value) for value in re.findall(r"[\d.]+", colour)][:3]) / whole
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        luminance.append(float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05)
    return max(luminance) / min(luminance)


def test_colours_follow_the_system_or_the_button(open_page: Open) -> None:
    read = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page(scheme=scheme).page.evaluate(read) for scheme in ("light", "dark"))
    assert light != dark
    page = open_page().page
    for wanted in (light, dark, light):  # light, dark, as the system
        page.click("#scheme")
        assert page.evaluate(read) == wanted
    assert page.inner_text("#scheme") == "Colours: as the system"


def test_classes_are_ordered_and_stages_measured(open_page: Open) -> None:
    opened = open_page()
    page = opened.page
    rows = ".class-table:not([hidden]) tbody th"
    assert opened.read(rows) == ["background", EVIL, "cat", "mean"]
    page.select_option("#class-order", "1")
    values = page.locator(".class-table:not([hidden]) tbody tr td:nth-child(3)").all_inner_texts()[:-1]
    known = [float(text.split()[0]) for text in values if text != "–"]
    assert known == sorted(known)
    assert values[-1] == "–"
    page.select_option("#class-table", label="seed, train")
    assert page.is_visible("text=seed (tags given)")
    row = page.locator("[data-stage=train_cam]")
    assert row.locator("[data-figure=seconds]").inner_text() == "1.5 min"
    assert row.locator("[data-figure=memory]").inner_text() == "2.0 GB"
    assert not page.is_visible("#unmeasured")
    assert opened.read("#hours-table tr >> nth=0") == ["stage\tcam\tall"]
    assert opened.read("#hours-table tbody tr") == ["train_cam\t1.5 min\t1.5 min", "sum\t1.5 min\t1.5 min"]
    facts = dict(zip(opened.read("#facts dt"), opened.read("#facts dd"), strict=True))
    assert facts["made"] == "2026-11-28 14:05 UTC, on node7 (<b>x</b>)"


def test_a_page_that_came_from_elsewhere_does_without_measurements(browser: Any, page_file: Path) -> None:
    file = page_file.parent / "measurements.js"
    hidden = file.rename(file.with_suffix(".away"))
    try:
        page = browser.new_page()
        page.goto(page_file.as_uri())
        assert page.is_visible("#unmeasured")
        assert page.locator("#gallery article").count() == A_PAGE
        page.close()
    finally:
        hidden.rename(file)


@pytest.mark.slow
def test_two_thousand_images(tmp_path: Path, open_page: Open) -> None:
    file = build_page(tmp_path, 2000)
    assert file.stat().st_size < 200_000  # the images are in files that are read after the first paint
    opened = open_page(file=file)
    assert len(opened.pictures) <= count_visible(opened)
    assert opened.read("#gallery-count") == ["2,000 of 2,000 images"]
    opened.page.select_option("#gallery-order", "name")
    opened.page.fill("#gallery-name", "image1234")
    assert opened.names == ["image1234"]
    print(f"index.html: {file.stat().st_size:,} bytes; pictures asked for at opening: {len(opened.pictures)}")


def test_the_table_shows_one_threshold_or_both(open_page: Open) -> None:
    page = open_page().page

    def read(selector: str) -> list[str]:
        return [text.split("\n")[0].strip() for text in page.locator(f".headline {selector}:visible").all_inner_texts()]

    for choice, columns in (("best", ["train"]), ("fixed", ["train"]), ("", ["train, best", "train, fixed"])):
        if choice != "best":
            page.select_option("#result-choice", choice)
        assert read("thead tr:last-child th") == [*columns, "val", "val"]
        spans = page.locator(".headline .group:visible").evaluate_all("cells => cells.map(cell => cell.colSpan)")
        assert spans == [len(columns), 1, 1]
        for row in range(1, len(RUNS) + 1):
            assert len(read(f"tbody tr:nth-child({row}) td")) == len(columns) + 2


def test_tables_sort_filter_copy_and_save(open_page: Open, tmp_path: Path) -> None:
    opened = open_page()
    page = opened.page
    runs = ".headline tbody tr:visible th"
    assert [text.strip() for text in opened.read(runs)] == list(RUNS)
    column = page.locator(".headline thead tr:last-child th").first
    values = []
    for order in ("descending", "ascending"):
        column.locator("button").click()
        assert column.get_attribute("aria-sort") == order
        values.append([float(text.split()[0]) for text in opened.read(".headline tbody td:nth-child(2)")])
    assert values == [sorted(values[0], reverse=True), sorted(values[0])]
    page.fill("#result-name", "cam")
    assert [text.strip() for text in opened.read(runs)] == ["cam"]

    # What is copied is what is shown: one run, and the columns of the best threshold.
    page.evaluate("navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }")
    copied = {}
    for form in ("Markdown", "LaTeX", "CSV"):
        page.locator("#results .copy button", has_text=re.compile(f"^{form}$")).click()
        page.wait_for_function("globalThis.copied")
        copied[form] = page.evaluate("globalThis.copied")
        page.evaluate("globalThis.copied = undefined")
    table = pd.read_csv(page_results(page)).set_index(["run", "metric"])
    row = table.loc[("cam", "seed.train.best.miou")]
    figure = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
    header, rule, line = copied["Markdown"].splitlines()
    assert header.startswith("| run | seed (tags given) train mIoU |")
    assert rule.count("---:") == 3
    assert figure in line.replace("**", "")
    assert figure.replace("±", r"$\pm$") in copied["LaTeX"].replace(r"\textbf{", "").replace("}", "")
    assert copied["LaTeX"].startswith(r"\begin{tabular}{lrrr}")
    with page.expect_download() as download:
        page.locator("#results .copy button", has_text="Save as CSV").click()
    assert download.value.suggested_filename == "results.csv"
    download.value.save_as(tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_text() == copied["CSV"]
    assert pd.read_csv(tmp_path / "results.csv")["run"].tolist() == ["cam"]


def page_results(page: Any) -> Path:
    """The table of the project whose page this is."""
    return Path(unquote(urlsplit(page.url).path)).parents[3] / "results/toy/table.csv"


def test_errors_and_confusion_are_those_of_the_masks(open_page: Open) -> None:
    opened = open_page()
    page = opened.page
    truth = np.concatenate([draw_mask(0).ravel()] * len(IDS))
    mask = np.concatenate([draw_mask(number).ravel() for number in range(len(IDS))])
    truth, mask = truth[truth != IGNORE], mask[truth != IGNORE]
    pixels = len(SEEDS) * confusion_matrix(truth, mask, labels=[0, 1, 2])
    assert opened.read("#errors-masks option") == ["segmentation, val", "seed, train"]
    rows = page.locator("#errors-tables table").first.locator("tbody tr")
    assert [text.split("\t")[0] for text in rows.all_inner_texts()] == [EVIL, "cat", "all"]
    shares = [float(text) for text in rows.first.locator("td.number").all_inner_texts()]
    union = pixels[1].sum() + pixels[:, 1].sum() - pixels[1, 1]
    assert shares[0] == pytest.approx(100 * pixels[1, 1] / union, abs=0.051)
    assert shares[1] == pytest.approx(100 * pixels[1, 1] / pixels[:, 1].sum(), abs=0.051)  # precision
    assert shares[2] == pytest.approx(100 * pixels[1, 1] / pixels[1].sum(), abs=0.051)  # recall
    assert shares[0] + sum(shares[3:]) == pytest.approx(100, abs=0.3)
    parts = rows.first.locator(".stack span")
    assert parts.first.get_attribute("title").startswith(f"right: {pixels[1, 1]:,} pixels")
    assert parts.count() == len([share for share in (shares[0], *shares[3:]) if share])

    def read_matrix() -> list[list[float]]:
        lines = page.locator("#errors-matrix tbody tr")
        return [
            [float(text.replace(",", "") or 0) for text in lines.nth(number).locator("td").all_inner_texts()]
            for number in range(lines.count())
        ]

    np.testing.assert_allclose(read_matrix(), 100 * pixels / pixels.sum(1, keepdims=True), atol=0.051)
    page.select_option("#errors-numbers", "pixels")
    np.testing.assert_array_equal(read_matrix(), pixels)
    page.select_option("#errors-run", label=RUNS[0])
    page.select_option("#errors-masks", "seed, train")
    assert page.locator("#errors-masks").input_value() == "seed, train"
    np.testing.assert_array_equal(read_matrix(), pixels)


def test_all_needs_can_be_read(open_page: Open) -> None:
    page = open_page().page
    cells = page.locator("#pipeline-table td.needs")
    for number in range(cells.count()):
        width, room, height = cells.nth(number).evaluate(
            "cell => [cell.scrollWidth, cell.clientWidth, cell.offsetHeight]"
        )
        assert width <= room
        assert height <= 41  # a row is as high as the rail's picture says
    region, table = page.locator("#pipeline .scroll").first, page.locator("#pipeline-table")
    assert table.evaluate("table => table.offsetWidth") <= region.evaluate("region => region.clientWidth")


def test_a_phone_gets_a_short_page(open_page: Open) -> None:
    heights = {size: open_page(size).page.evaluate("document.documentElement.scrollHeight") for size in SIZES}
    page = open_page("phone").page
    assert heights["phone"] < 9000
    assert page.locator("#gallery article").count() == 3
    assert page.locator("#gallery article").first.locator(".of-run").count() == 1
    summary = page.locator("#pipeline summary >> nth=0")
    assert not page.is_visible("#pipeline-table")
    summary.click()
    assert page.is_visible("#pipeline-table")


def test_the_gallery_is_ordered_by_what_a_run_gains(
    tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build_project(tmp_path)
    gains = {"one": -0.25, "two": 0.125, "three.x": 0.5}
    for folder in tmp_path.glob("runs/toy/evaluation/*"):
        table = pd.read_csv(folder / "examples.csv")
        second = not folder.name.startswith(RUNS[0])
        table["iou"] = 0.375 + (table["image"].map(gains) if second else 0)
        table.to_csv(folder / "examples.csv", index=False)
    render(tmp_path)
    opened = open_page(file=tmp_path / "runs/toy/report/index.html")
    opened.page.select_option("#gallery-order", "gain")
    assert opened.names == ["three.x", "two", "one"]
    assert opened.read("#gallery article h3 small")[0].strip() == "IoU 62.5, +50.0 over cam"
    opened.page.select_option("#gallery-order", "loss")
    assert opened.names == ["one", "two", "three.x"]
    assert opened.read("#gallery article h3 small")[0].strip() == "IoU 25.0, −25.0 over cam"


# --- charts


def draw_chart(page: Any, name: str) -> Any:
    """Scroll to a chart, and wait until it is drawn."""
    figure = page.locator(f"[data-chart='{name}']")
    figure.scroll_into_view_if_needed()
    figure.locator(".plot svg, .plot canvas").first.wait_for()
    return figure


def find_dot(page: Any, name: str, x: float, y: float) -> tuple[float, float]:
    """Where values stand in the window."""
    left, top = page.evaluate(
        """async ([name, x, y]) => {
            const { view } = await drawnCharts.get(name);
            const box = document.querySelector(`[data-chart='${name}'] :is(svg, canvas)`).getBoundingClientRect();
            const [origin, padding] = [view.origin(), view.padding()];
            const across = padding.left + origin[0] + view.scale("x")(x);
            return [box.left + across, box.top + padding.top + origin[1] + view.scale("y")(y)];
        }""",
        [name, x, y],
    )
    return left, top


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_charts_are_drawn_when_they_are_seen(open_page: Open, size: str, scheme: str) -> None:
    opened = open_page(size, scheme)
    page = opened.page
    assert not any(url.endswith("images.js") for url in opened.requests)
    page.evaluate("document.querySelectorAll('details').forEach(part => (part.open = true))")
    for name in ("class", "curve-threshold", "curve-reliability", "curve-train_cam-1", "scatter", "memory-0"):
        figure = draw_chart(page, name)
        assert figure.locator(".plot").bounding_box()["width"] <= SIZES[size][0]
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    letters = page.locator("[data-chart=class] svg text").evaluate_all(
        "texts => texts.map(text => [text.getAttribute('fill'), parseFloat(getComputedStyle(text).fontSize)])"
    )
    ground = page.locator("[data-chart=class]").evaluate("figure => getComputedStyle(figure).backgroundColor")
    assert len(letters) > 5
    for ink, pixels in letters:
        assert pixels >= 12
        assert find_contrast(ink, ground) >= 4.5


def test_a_chart_shows_values_zooms_and_goes_back(open_page: Open) -> None:
    page = open_page().page
    figure = draw_chart(page, "curve-threshold")
    box = figure.locator(".plot svg").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def read() -> list[str]:
        return figure.locator(".plot svg .role-axis-label text").all_inner_texts()

    page.mouse.move(*middle)
    line = next(line for line in page.evaluate("charts['curve-threshold'].datasets.curves") if line["run"] == RUNS[1])
    page.mouse.move(*find_dot(page, "curve-threshold", line["threshold"], line["mean"]))
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for()
    words = dict(row.split("\t") for row in re.sub(r"\t\n", "\t", tip.inner_text()).split("\n") if row)
    assert words["run"] == RUNS[1]
    assert [float(words[name]) for name in ("threshold", "mean", "low", "high")] == pytest.approx(
        [line[name] for name in ("threshold", "mean", "low", "high")], rel=1e-3
    )
    page.mouse.move(*middle)
    before = read()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_timeout(300)
    assert read() != before
    page.mouse.dblclick(*middle)
    page.wait_for_timeout(300)
    assert read() == before
    page.mouse.wheel(0, 300)  # without Ctrl the wheel moves the page
    page.wait_for_timeout(300)
    assert read() == before


def test_a_loss_can_be_read_on_a_logarithmic_axis(open_page: Open) -> None:
    page = open_page().page
    figure = draw_chart(page, "curve-train_cam-1")
    scale = "JSON.stringify(globalThis.charts['curve-train_cam-1'].layer.map(layer => layer.encoding.y.scale.type))"
    before = figure.locator(".plot svg").inner_html()
    figure.locator("input[type=checkbox]").check()
    assert set(page.evaluate(f"JSON.parse({scale})")) == {"log"}
    page.wait_for_function(
        "before => document.querySelector(\"[data-chart='curve-train_cam-1'] svg\")?.innerHTML !== before", arg=before
    )
    assert draw_chart(page, "curve-threshold").locator("input[type=checkbox]").count() == 0


def test_one_seed_has_a_chart_of_differences_without_their_intervals(
    tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build_project(tmp_path)
    render(tmp_path, seeds=SEEDS[:1])
    page = open_page(file=tmp_path / "runs/toy/report/index.html").page  # which complains of nothing
    rows = page.evaluate("globalThis.charts.class.datasets.differences")
    assert {row["low_seeds"] for row in rows} == {None}
    assert draw_chart(page, "class").locator(".plot svg .mark-symbol path").count() == len(
        {row["class"] for row in rows}
    )


def test_charts_are_saved_as_pictures_and_as_a_table(open_page: Open, tmp_path: Path) -> None:
    page = open_page().page
    figure = draw_chart(page, "class")
    for form, start in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("CSV", b"run,masks,class,")):
        with page.expect_download() as download:
            figure.locator(".copy button", has_text=form).click()
        assert download.value.suggested_filename == f"class.{form.lower()}"
        download.value.save_as(tmp_path / form)
        assert (tmp_path / form).read_bytes().startswith(start)
    text = (tmp_path / "SVG").read_text()
    assert RUNS[1].replace("&", "&amp;").replace("<", "&lt;") in text  # the legend, which the page has beside the chart
    table = pd.read_csv(tmp_path / "CSV")
    assert set(table["class"]) == {"background", EVIL, "mean of all"}
    assert figure.locator(".aside").count() == 0


def test_a_click_on_a_dot_opens_its_photograph(open_page: Open) -> None:
    page = open_page().page
    figure = draw_chart(page, "scatter")
    assert (
        page.locator("#scatter-up").evaluate("control => control.selectedOptions[0].text")
        == f"{RUNS[1]}: segmentation, val"
    )
    assert page.inner_text("#scatter-said") == f"{len(IDS)} images: 0 gain, 0 lose, {len(IDS)} stay."
    page.select_option("#scatter-across", label=f"{RUNS[0]}: seed, train")
    options = page.locator("#scatter-up option").all_inner_texts()
    assert options == [f"{run}: seed, train" for run in RUNS]  # masks of the same images
    figure.locator("canvas").wait_for()
    page.wait_for_timeout(300)
    ious = {name: 100 * np.mean(list(find_ious(number).values())) for number, name in enumerate(IDS)}
    place = find_dot(page, "scatter", ious["two"], ious["two"])
    page.mouse.move(*place)
    page.wait_for_function("document.querySelector('#vg-tooltip-element')?.innerText.includes('two')")
    page.mouse.click(*place)
    page.locator("#viewer-heading").wait_for()
    assert page.inner_text("#viewer-heading").startswith("two")


def test_the_viewer_says_what_each_step_gained(
    tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build_project(tmp_path)
    ious = {"seed": 0.5, "seed_predicted_tags": 0.25, "pseudo": 0.5, "refined": 0.625, "segmentation": 0.375}
    for folder in tmp_path.glob("runs/toy/evaluation/*"):
        table = pd.read_csv(folder / "examples.csv")
        table["iou"] = table["kind"].map(ious)
        table.to_csv(folder / "examples.csv", index=False)
    render(tmp_path)
    opened = open_page(file=tmp_path / "runs/toy/report/index.html")
    opened.enlarge()
    captions = opened.page.locator("#viewer .of-run").first.locator("figcaption").all_inner_texts()
    assert captions == [
        *("score map", "seed 50.0", "seed, tags predicted 25.0", "pseudo label 50.0 +0.0", "refined 62.5 +12.5"),
        "segmentation 37.5 −25.0",
    ]
