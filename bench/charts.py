"""Draws a chart of ``bench.parts`` as SVG that stands inside a page: text stays text, nothing is fetched."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.parts import GROUPS, Chart, Series

OURS: Final = "#1f6feb"
"""Of everything that is called crest."""

_COLOURS: Final = ("#e8590c", "#2f9e44", "#9c36b5", "#e0a800", "#0b7285", "#c2255c", "#5c940d")
_PLAIN: Final = "#868e96"
"""Of what is compared with, and of the load's own cost."""

_INK: Final = "#24292f"
_FAINT: Final = "#d0d7de"
_WIDTH_IN: Final = 7.6
_HEIGHT_IN: Final = 3.6
_LETTER_IN: Final = 0.075
_ENTRY_IN: Final = 0.6
"""Of a legend: its line, and the space to the next one."""

_ROW_IN: Final = 0.2
"""Of a legend."""

_HEADROOM: Final = 1.08
"""Of a line chart, so that a level line does not lie on its edge."""

_BAR_IN: Final = 0.42
"""Height of one bar; there are as many as there are groups times colours."""

_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "Segoe UI", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
}


def draw(chart: Chart) -> str:
    """Returns the chart as an ``<svg>`` element. The same chart gives the same text."""
    # identifiers inside an SVG are those of the whole page, so each chart has its own
    with mpl.rc_context(_STYLE | {"svg.hashsalt": chart.title}):
        bars = chart.kind in {"bar", "stack"}
        figure = Figure(figsize=(_WIDTH_IN, _height(chart)), layout="constrained")
        axes = figure.add_subplot()
        _draw_bars(axes, chart) if bars else _draw_lines(axes, chart)
        _finish(axes, chart, bars=bars)
        file = io.BytesIO()
        FigureCanvasSVG(figure)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="chart" role="img"', text, count=1)


def _height(chart: Chart) -> float:
    if chart.kind in {"line", "step"}:
        return _HEIGHT_IN + _ROW_IN * (-(-len(chart.series) // _columns(chart.series)) - 1)
    groups = len({name for one in chart.series for name in one.x})
    bars = groups * (len(chart.series) if chart.kind == "bar" else 1)
    return 1.0 + _BAR_IN * max(2, bars)


def _draw_lines(axes: Axes, chart: Chart) -> None:
    steps: Literal["post"] | None = "post" if chart.kind == "step" else None
    for series, colour in _coloured(chart.series):
        x = [float(value) for value in series.x]
        y = [float("nan") if value is None else value for value in series.y]
        marker = "" if chart.kind == "step" or len(x) > 60 else "o"
        axes.plot(
            x, y, label=series.name, color=colour, marker=marker, markersize=4, linewidth=1.8,
            drawstyle="steps-post" if steps else "default",
        )  # fmt: skip
        if series.least and series.most:
            axes.fill_between(x, series.least, series.most, color=colour, alpha=0.15, linewidth=0, step=steps)


def _draw_bars(axes: Axes, chart: Chart) -> None:
    """Bars lie: names of any length stand beside them, the first one on top."""
    groups = list(dict.fromkeys(str(name) for one in chart.series for name in one.x))
    stacked = chart.kind == "stack"
    count = 1 if stacked else len(chart.series)
    thickness = 0.8 / count
    bases = [0.0] * len(groups)
    single = len(chart.series) == 1
    for number, (series, colour) in enumerate(_coloured(chart.series)):
        values = dict(zip(map(str, series.x), series.y, strict=True))
        widths = [values.get(group) or 0.0 for group in groups]
        places = [row + (0 if stacked else (number - (count - 1) / 2) * thickness) for row in range(len(groups))]
        colours = [OURS if _is_ours(group) else _PLAIN for group in groups] if single else [colour] * len(groups)
        axes.barh(
            places, widths, thickness, left=bases if stacked else 0, color=colours, label=series.name,
            xerr=_whiskers(series, groups, widths), error_kw={"ecolor": _INK, "capsize": 2, "elinewidth": 0.9},
        )  # fmt: skip
        if stacked:
            bases = [base + width for base, width in zip(bases, widths, strict=True)]
        else:
            _tell_values(axes, places, series, groups, widths)
    if stacked:
        for row, total in enumerate(bases):
            axes.annotate(_number(total), (total, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()


def _tell_values(
    axes: Axes, places: Sequence[float], series: Series, groups: Sequence[str], widths: Sequence[float]
) -> None:
    most = dict(zip(map(str, series.x), series.most, strict=True)) if series.most else {}
    for place, group, width in zip(places, groups, widths, strict=True):
        at = max(width, most.get(group, 0.0))
        axes.annotate(_number(width), (at, place), (5, 0), textcoords="offset points", va="center", fontsize=9)


def _whiskers(series: Series, groups: Sequence[str], widths: Sequence[float]) -> list[list[float]] | None:
    if not series.least or not series.most:
        return None
    least = dict(zip(map(str, series.x), series.least, strict=True))
    most = dict(zip(map(str, series.x), series.most, strict=True))
    below = [max(0.0, width - least.get(group, width)) for group, width in zip(groups, widths, strict=True)]
    above = [max(0.0, most.get(group, width) - width) for group, width in zip(groups, widths, strict=True)]
    return [below, above]


def _finish(axes: Axes, chart: Chart, *, bars: bool) -> None:
    """Axes, grid, events, limit and legend. The values of bars are along the horizontal axis."""
    along = axes.xaxis if bars else axes.yaxis
    axes.set_xlabel(chart.y_label if bars else chart.x_label)
    axes.set_ylabel(chart.x_label if bars else chart.y_label)
    if chart.log_y:
        (axes.set_xscale if bars else axes.set_yscale)("log")
    elif bars:
        axes.set_xlim(left=0)
        axes.margins(x=0.12)
    else:
        known = [value for one in chart.series for value in (*one.y, *(one.most or ())) if value is not None]
        axes.set_ylim(0, max((*known, chart.limit or 0.0, 1e-9)) * _HEADROOM)
    if chart.log_x and not bars:
        axes.set_xscale("log")
    along.grid(visible=True)
    axes.set_axisbelow(True)
    along.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    if chart.log_y:
        along.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        along.set_minor_formatter(NullFormatter())
    if not bars:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    for event in chart.events:
        axes.axvline(event.x, color=_INK, linewidth=0.9, linestyle=":")
        axes.annotate(
            event.text, (event.x, 1.0), (3, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
            fontsize=8, va="top", rotation=90, zorder=5,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    if chart.limit is not None:
        (axes.axvline if bars else axes.axhline)(chart.limit, color="#cf222e", linewidth=1.0, linestyle="--")
        place = (
            ((chart.limit, 1.0), ("data", "axes fraction")) if bars else ((1.0, chart.limit), ("axes fraction", "data"))
        )
        axes.annotate(
            chart.limit_text, place[0], (-4, 3), xycoords=place[1], textcoords="offset points", color="#cf222e",
            fontsize=8, ha="right",
        )  # fmt: skip
    if len(chart.series) > 1:
        axes.legend(frameon=False, fontsize=9, ncols=_columns(chart.series), loc="lower left", bbox_to_anchor=(0, 1.0))


def _columns(series: Sequence[Series]) -> int:
    """Returns how many entries of the legend fit beside each other: a wider one would take the room of the chart."""
    widest_in = max(len(one.name) for one in series) * _LETTER_IN + _ENTRY_IN
    return max(1, min(4, len(series), int((_WIDTH_IN - 1.0) / widest_in)))


def _coloured(series: Sequence[Series]) -> Iterator[tuple[Series, str]]:
    """Ours have our colour, the first of them the plain one, as has a line alone; the others take the rest in turn."""
    ours = itertools.chain((OURS,), itertools.cycle(("#0a3069", "#54aeff")))
    others = itertools.cycle(_COLOURS)
    for one in series:
        if one.name == GROUPS[-1]:
            yield one, _PLAIN
        elif len(series) == 1:
            yield one, OURS
        else:
            yield one, next(ours) if _is_ours(one.name) else next(others)


def _is_ours(name: str) -> bool:
    return name.startswith("crest")


def _number(value: float) -> str:
    """Returns a number as people read it: three digits that matter, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
