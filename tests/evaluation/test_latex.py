"""The LaTeX table: what is bold, what is starred, published figures and the caption."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rca.core.errors import UserError
from rca.evaluation.latex import escape, format_float, format_latex, read_published
from rca.evaluation.tables import build_table

RUNS = {"cam": [0.50, 0.52, 0.51], "better": [0.601, 0.622, 0.611], "noisy_b": [0.52, 0.49, 0.55]}
HEADER = "method,metric,percent,source\n"


@pytest.fixture
def table() -> pd.DataFrame:
    return build_table(
        {run: [{"segmentation": {"val": {"miou": one}}} for one in values] for run, values in RUNS.items()}
    )


def read_rows(text: str) -> dict[str, str]:
    rows = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
    return {row[0]: row[-1] for row in rows}


def test_the_best_is_bold_and_what_is_significant_has_a_star(table: pd.DataFrame) -> None:
    rows = read_rows(format_latex(table))
    for run, values in RUNS.items():
        mean, spread = f"{100 * np.mean(values):.1f}", f"{100 * np.std(values, ddof=1):.1f}"
        best = np.mean(values) == max(map(np.mean, RUNS.values()))
        star = run != "cam" and stats.ttest_rel(values, RUNS["cam"]).pvalue < 0.05
        wanted = (rf"\textbf{{{mean}}}" if best else mean) + ("$^{*}$" if star else "") + rf" $\pm$ {spread}"
        assert rows[run.replace("_", r"\_")] == wanted
    assert sum("$^{*}$" in cell for cell in rows.values()) == 1


def test_published_figures_stand_below_with_their_sources(table: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "published.csv"
    file.write_text(HEADER + "PSA,segmentation.val.miou,61.7,Ahn & Kwak; CVPR 2018\n")
    published = read_published(file, ["segmentation.val.miou"])
    text = format_latex(table, published)
    assert text.index("noisy") < text.index(r"\midrule", text.index("noisy")) < text.index("PSA")
    assert read_rows(text)[r"PSA (Ahn \& Kwak; CVPR 2018)"] == "61.7"
    caption = format_float(table, published, "Scored on val (7 images, 50%).")
    assert r"Scored on val (7 images, 50\%)." in caption
    assert "over 3 seeds" in caption
    assert r"A star marks a difference to cam whose 95\% interval" in caption


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method,percent\n", "has no column metric"),
        (HEADER + "PSA,segmentation.val.miou,0.617x,a\n", "line 2: '0.617x' is no percentage"),
        (HEADER + "PSA,segmentation.val.miou,617,a\n", "line 2: '617' is no percentage"),
        (HEADER + "PSA,segmentation.val.miou,61.7,\n", "needs a method and the source"),
        (HEADER + "PSA,seed.val.miou,61.7,a\n", "the table has no 'seed.val.miou': choose from segmentation.val.miou"),
    ],
)
def test_published_figures_are_checked(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "published.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_published(file, ["segmentation.val.miou"])


def test_signs_of_latex_are_escaped() -> None:
    assert escape("a_b & 5% \\ {x} ~") == r"a\_b \& 5\% \textbackslash{} \{x\} \textasciitilde{}"
