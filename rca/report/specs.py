"""Charts as specifications of Vega-Lite, made with altair; the page's script draws them.

Values appear on pointing, a drag moves, Ctrl and the wheel zooms, and a double click goes back. Colours of axes and
letters are the page's. Each specification has its data by name, the first of which the page saves as CSV.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from rca.report.charts import Line

Spec = dict[str, Any]
HEIGHT = 260  # of a chart, in pixels
MAP = (720, 440)  # width on a wide page and height of a memory's map
DIGITS = 5  # the last ones of a float differ between processors
OVER_SEEDS, OVER_IMAGES = ("low_seeds", "high_seeds"), ("low_images", "high_images")
PATTERNS = {"solid": [1, 0], "dashed": [6, 3], "dotted": [2, 2]}


def draw_curves(
    curves: Mapping[str, pd.DataFrame], lines: Mapping[str, Line], x: str, y: str, about: str, *, log: bool = False
) -> Spec:
    """A chart with a line for each run and a band from the lowest to the highest seed.

    Args:
        curves: The summary of each run, from `summarise_seeds`.
        lines: The line of each run.
        x: The name of the horizontal axis.
        y: The name of the vertical axis.
        about: What the chart shows, in words.
        log: Whether the page offers a logarithmic vertical axis; all values must be above 0.
    """
    return _finish(alt.layer(*_draw_lines(curves, lines, x, y)), about, {"curves": _list_curves(curves, x)}, log=log)


def draw_thresholds(
    curves: Mapping[str, pd.DataFrame], chosen: pd.DataFrame, lines: Mapping[str, Line], about: str
) -> Spec:
    """The curves of mIoU in percent over thresholds, with the chosen ones.

    Args:
        curves: The summary of each run, from `summarise_seeds`.
        chosen: Columns run, seed, choice, threshold and miou in percent: a line for each seed's best threshold, and for
            each fixed one, whose miou and seed are missing.
        lines: The line of each run.
        about: What the chart shows, in words.
    """
    told = [alt.Tooltip("run:N"), alt.Tooltip("choice:N"), alt.Tooltip("threshold:Q", format=".3f")]
    colour = _colour(lines)
    marks = alt.Chart(alt.NamedData("chosen"))
    best = (
        marks.transform_filter("datum.choice == 'best'")
        .mark_point(filled=True, size=90, opacity=1, shape="diamond", clip=True)
        .encode(
            x="threshold:Q",
            y="miou:Q",
            color=colour,
            tooltip=[*told, alt.Tooltip("seed:N"), alt.Tooltip("miou:Q", format=".1f")],
        )
    )
    fixed = (
        marks.transform_filter("datum.choice == 'fixed'")
        .mark_rule(strokeDash=[4, 4], size=1.5, clip=True)
        .encode(x="threshold:Q", color=colour, tooltip=told)
    )
    data = {"curves": _list_curves(curves, "threshold"), "chosen": chosen}
    return _finish(alt.layer(*_draw_lines(curves, lines, "threshold", "mIoU, %"), fixed, best), about, data)


def draw_reliability(tables: Mapping[str, pd.DataFrame], lines: Mapping[str, Line], about: str) -> Spec:
    """How often a pixel's class is right, over its score; on the diagonal a score would be a probability.

    Args:
        tables: Of each run, from `measure_reliability`.
        lines: The line of each run.
        about: What the chart shows, in words.
    """
    joined = pd.concat([table.assign(run=run) for run, table in tables.items()])
    share = 100 * joined["pixels"] / joined.groupby("run")["pixels"].transform("sum")
    data = joined.assign(score=(joined["low"] + joined["high"]) / 2, right=100 * joined["right"], share=share)
    ends = alt.Chart(alt.InlineData([{"score": 0, "right": 0}, {"score": 1, "right": 100}]))
    diagonal = ends.mark_line(color="grey", strokeDash=[3, 3], size=1).encode(x="score:Q", y="right:Q")
    base = alt.Chart(alt.NamedData("reliability")).encode(
        x=alt.X("score:Q", title="highest score", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("right:Q", title="pixels of the right class, %", scale=alt.Scale(domain=[0, 100])),
        color=_colour(lines),
    )
    line = base.mark_line(clip=True).encode(strokeDash=_dash(lines))
    told = [
        alt.Tooltip("run:N"),
        alt.Tooltip("low:Q", title="score above", format=".2f"),
        alt.Tooltip("high:Q", title="up to", format=".2f"),
        alt.Tooltip("right:Q", title="right, %", format=".1f"),
        alt.Tooltip("pixels:Q", format=","),
        alt.Tooltip("share:Q", title="of all pixels, %", format=".1f"),
    ]
    size = alt.Size("share:Q", legend=None, scale=alt.Scale(range=[8, 200]))
    points = base.mark_circle(opacity=0.7, clip=True).encode(size=size, tooltip=told)
    columns = ["run", "low", "high", "score", "pixels", "share", "right"]
    return _finish(alt.layer(diagonal, line, points), about, {"reliability": data[columns]})


def draw_differences(table: pd.DataFrame, lines: Mapping[str, Line], first: str, about: str) -> Spec:
    """The difference of each class's IoU to the first run, with its intervals over seeds and over images.

    Args:
        table: From `rca.report.differences.compare_classes`.
        lines: The line of each run.
        first: The first run.
        about: What the chart shows, in words.
    """
    runs, masks = (list(dict.fromkeys(table[name])) for name in ("run", "masks"))
    run = alt.param(name="run", value=runs[-1], bind=alt.binding_select(options=runs, name="Run "))
    kind = alt.param(name="masks", value=masks[0], bind=alt.binding_select(options=masks, name="Masks "))
    base = (
        alt.Chart(alt.NamedData("differences"))
        .transform_filter("datum.run == run && datum.masks == masks")
        # An interval that is not known ends where it begins: Vega complains of an axis that all are missing on.
        .transform_calculate(
            **{end: f"isValid(datum.{end}) ? datum.{end} : datum.difference" for end in (*OVER_SEEDS, *OVER_IMAGES)}
        )
        .encode(y=alt.Y("class:N", sort=None, title=None, axis=alt.Axis(labelLimit=130)), color=_colour(lines))
    )
    told = [
        alt.Tooltip("class:N"),
        alt.Tooltip("first:Q", title=f"IoU of {first}, %", format=".1f"),
        alt.Tooltip("second:Q", title="IoU of the run, %", format=".1f"),
        alt.Tooltip("difference:Q", title="difference, points", format="+.1f"),
        alt.Tooltip("interval_seeds:N", title="95% over seeds"),
        alt.Tooltip("interval_images:N", title="95% over images"),
    ]
    title = f"IoU less that of {first}, points"
    images = base.mark_rule(size=9, opacity=0.35, clip=True).encode(
        x=alt.X(f"{OVER_IMAGES[0]}:Q", title=title), x2=f"{OVER_IMAGES[1]}:Q", tooltip=told
    )
    seeds = base.mark_rule(size=2, clip=True).encode(
        x=alt.X(f"{OVER_SEEDS[0]}:Q", title=title), x2=f"{OVER_SEEDS[1]}:Q", tooltip=told
    )
    points = base.mark_point(filled=True, size=60, opacity=1, clip=True).encode(
        x=alt.X("difference:Q", title=title), tooltip=told
    )
    zero = alt.Chart(alt.InlineData([{"zero": 0}])).mark_rule(color="grey").encode(x="zero:Q")
    chart = alt.layer(images, seeds, points, zero).add_params(run, kind)
    return _finish(chart, about, {"differences": table}, height=20 * table["class"].nunique(), across=True)


def draw_scatter(about: str) -> Spec:
    """The IoU of each image under two series of masks; the page's script fills in the images and the axes' names."""
    ends = alt.Chart(alt.InlineData([{"first": 0, "second": 0}, {"first": 100, "second": 100}]))
    diagonal = ends.mark_line(color="grey", strokeDash=[3, 3], size=1).encode(x="first:Q", y="second:Q")
    shown = alt.Color(
        "change:N",
        legend=None,
        scale=alt.Scale(domain=["gain", "loss", "same"], range=["#009e73", "#d55e00", "#999999"]),
    )
    points = (
        alt.Chart(alt.NamedData("images"))
        .mark_circle(size=45, cursor="pointer", clip=True)
        .encode(
            x=alt.X("first:Q", scale=alt.Scale(domain=[0, 100])),
            y=alt.Y("second:Q", scale=alt.Scale(domain=[0, 100])),
            color=shown,
            opacity=alt.condition("datum.pictured", alt.value(0.8), alt.value(0.3)),
            tooltip=[
                alt.Tooltip("image:N", title="photograph"),  # what is called an image, the page would load as one
                alt.Tooltip("first:Q", title="across, %", format=".1f"),
                alt.Tooltip("second:Q", title="up, %", format=".1f"),
                alt.Tooltip("gain:Q", title="difference, points", format="+.1f"),
            ],
        )
    )
    # Of ten thousand points each would be an element of the page.
    return _finish(alt.layer(diagonal, points), about, {"images": []}, height=460, renderer="canvas")


def draw_memory(places: pd.DataFrame, marks: Mapping[str, tuple[str, str]], about: str) -> Spec:
    """The map of a memory: similar regions lie close together. Pointing at one highlights its class.

    Both axes have the same scale on a wide page.

    Args:
        places: Columns `x`, `y`, `class`, `image` and `epoch`, counted from 1, of each entry.
        marks: The colour and the shape of each class.
        about: What the chart shows, in words.
    """
    names = list(marks)
    hover = alt.selection_point(name="hover", fields=["class"], on="pointerover", clear="pointerout")
    colour = alt.Scale(domain=names, range=[colour for colour, _ in marks.values()])
    shape = alt.Scale(domain=names, range=[shape for _, shape in marks.values()])
    axis = alt.Axis(labels=False, ticks=False, grid=False, domain=False)
    low, high = places[["x", "y"]].min(), places[["x", "y"]].max()
    middle, half = (low + high) / 2, max((high["x"] - low["x"]) / MAP[0], (high["y"] - low["y"]) / MAP[1], 1e-9) * 0.53
    across, up = (
        alt.Scale(domain=[round(middle[name] - half * size, DIGITS), round(middle[name] + half * size, DIGITS)])
        for name, size in zip("xy", MAP, strict=True)
    )
    points = (
        alt.Chart(alt.NamedData("map"))
        .mark_point(filled=True, size=45, clip=True)
        .encode(
            x=alt.X("x:Q", title=None, axis=axis, scale=across),
            y=alt.Y("y:Q", title=None, axis=axis, scale=up),
            color=alt.Color("class:N", scale=colour, legend=None),
            shape=alt.Shape("class:N", scale=shape, legend=None),
            opacity=alt.condition(hover, alt.value(0.85), alt.value(0.12)),
            tooltip=["class:N", alt.Tooltip("image:N", title="photograph"), "epoch:Q"],
        )
        .add_params(hover)
    )
    return _finish(alt.layer(points), about, {"map": places}, height=MAP[1])


def write_library(path: Path) -> None:
    """Write what draws the charts: Vega, Vega-Lite and vega-embed as one script."""
    path.write_text(vl_convert.javascript_bundle(), encoding="utf-8")  # type: ignore[call-arg]  # its stub is stricter


def _draw_lines(curves: Mapping[str, pd.DataFrame], lines: Mapping[str, Line], x: str, y: str) -> list[alt.Chart]:
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", empty=False)
    across = (
        alt.X(f"{x}:Q", title=x, axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(zero=False, nice=False))
        if x == "epoch"
        else alt.X(f"{x}:Q", title=x)
    )
    scale = alt.Scale(type="linear", zero=False)
    base = alt.Chart(alt.NamedData("curves")).encode(x=across, color=_colour(lines))
    band = base.mark_area(opacity=0.2, clip=True).encode(y=alt.Y("low:Q", title=y, scale=scale), y2="high:Q")
    line = base.mark_line(clip=True).encode(y=alt.Y("mean:Q", title=y, scale=scale), strokeDash=_dash(lines))
    told = [alt.Tooltip("run:N"), alt.Tooltip(f"{x}:Q")]
    told += [alt.Tooltip(f"{name}:Q", format=".4") for name in ("mean", "low", "high")]
    alone = any(len(curve) < 2 for curve in curves.values())  # a line through one point is invisible
    points = (
        base.mark_point(filled=True, size=150, clip=True)
        .encode(
            y=alt.Y("mean:Q", title=y, scale=scale),
            opacity=alt.condition(hover, alt.value(1), alt.value(1 if alone else 0)),
            tooltip=told,
        )
        .add_params(hover)
    )
    return [band, line, points]


def _list_curves(curves: Mapping[str, pd.DataFrame], x: str) -> pd.DataFrame:
    return pd.concat([curve.rename_axis(x).reset_index().assign(run=run) for run, curve in curves.items()])


def _colour(lines: Mapping[str, Line]) -> alt.Color:
    scale = alt.Scale(domain=list(lines), range=[line.colour for line in lines.values()])
    return alt.Color("run:N", scale=scale, title=None)


def _dash(lines: Mapping[str, Line]) -> alt.StrokeDash:
    scale = alt.Scale(domain=list(lines), range=[PATTERNS[line.dash] for line in lines.values()])
    return alt.StrokeDash("run:N", scale=scale, title=None)


def _finish(
    chart: Any,
    about: str,
    data: Mapping[str, pd.DataFrame | Sequence[object]],
    *,
    height: int = HEIGHT,
    log: bool = False,
    renderer: str = "svg",
    across: bool = False,
) -> Spec:
    """Make a chart as wide as its place on the page, let it zoom, and add its data and what the page's script asks."""
    zoom = alt.selection_interval(
        name="zoom", bind="scales", zoom="wheel![event.ctrlKey]", encodings=["x"] if across else ["x", "y"]
    )
    chart = chart.add_params(zoom).properties(width="container", height=height, description=about)
    spec: Spec = chart.to_dict(validate=False)  # a test validates them: a second for each page
    spec["usermeta"] = {"log": log, "renderer": renderer, "table": next(iter(data))}
    spec.setdefault("datasets", {}).update({name: _list_records(table) for name, table in data.items()})
    return spec


def _list_records(table: pd.DataFrame | Sequence[object]) -> list[Any]:
    if not isinstance(table, pd.DataFrame):
        return list(table)
    rounded = table.round(DIGITS).astype(object)
    records: list[Any] = rounded.where(rounded.notna(), None).to_dict("records")
    return records
