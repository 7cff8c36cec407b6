"""The page of a run: one file of HTML with its charts inside, for somebody who has not read the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench import charts
from bench.campaign import Kept
from bench.keeping import SUMMARY
from bench.parts import Chart, Row, Side
from bench.rounds import work_s
from bench.summary import Range
from bench.table import CAVEAT, cpu, is_named, ratio_form, target

TEMPLATE: Final = "page.html"
HEADING: Final = "Crest: what an order costs"
COMPARED: Final = (
    f"{CAVEAT} A figure is the median of its rounds, in brackets the least and the most; a ratio compares neighbouring "
    "rounds, which share what else the machine was doing."
)
ALONE: Final = (
    "The machine named here is the one that the load came from. Where the service runs on it too, the generator takes "
    "0.1-0.2 ms of its processor time a call."
)

OUTCOMES: Final[Mapping[str, str]] = {
    "UNSENT": "the deadline passed while the call still waited in the caller",
    "TIMEOUT": "no answer by the deadline, and cancelled then",
    "LATE": "answered OK, but after the deadline",
    "LOST": "the connection broke",
    "RESET": "the server broke the call off",
    "HELD": "the caller held it back, since most of its calls had been refused",
}
"""What our generator says of a call of which no server speaks (``bench/openloop/tally.go``)."""

_REACHED: Final = {True: "reached", False: "missed", None: "open"}


def write(
    results: Sequence[Kept], facts: Mapping[str, object], path: Path, heading: str = HEADING, figures: str = SUMMARY
) -> Path:
    """Writes the page, whole or not at all, and returns its path. ``figures``: the file beside it that has them all."""
    draft = path.with_suffix(".part")
    draft.write_text(render(results, facts, heading, figures), encoding="utf-8")
    draft.replace(path)
    return path


def render(results: Sequence[Kept], facts: Mapping[str, object], heading: str = HEADING, figures: str = SUMMARY) -> str:
    """Returns the page. Everything that was measured or named is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"span": _span, "cpu": cpu, "target": target}
    environment.filters |= {"verdict": lambda row: _REACHED[row.reached], "svg": _svg, "cost": _cost}
    environment.filters |= {"sides": _sides, "outcomes": _outcomes, "ratio_form": ratio_form}
    environment.tests["named"] = is_named
    rows = [row for result in results for row in result.outcome.rows]
    judged = [row for row in rows if row.reached is not None]
    return environment.get_template(TEMPLATE).render(
        heading=heading,
        results=results,
        facts=facts,
        rows=rows,
        reached=sum(bool(row.reached) for row in judged),
        judged=len(judged),
        failed=[result for result in results if result.failure],
        caveat=COMPARED if any(row.theirs for row in rows) else ALONE,
        figures=figures,
    )


def _svg(chart: Chart) -> Markup:
    return Markup(charts.draw(chart))  # noqa: S704  # drawn here: the library escapes the texts in it


def _sides(rows: Sequence[Row]) -> list[tuple[Row, Side]]:
    """Returns the lines of a part's table: the sides that have a rate, each once, with the row that it is of."""
    found: list[tuple[Row, Side]] = []
    for row in rows:
        for side in (row.ours, row.theirs):
            if side is not None and row.unit and all(side != known for _, known in found):
                found.append((row, side))
    return found


def _outcomes(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Returns name and meaning of the outcomes that only the generator speaks of, those that there were."""
    seen = {code for row in rows for side in (row.ours, row.theirs) if side is not None for code in side.errors}
    return [(code, meaning) for code, meaning in OUTCOMES.items() if code in seen]


def _span(value: Range | None, form: str) -> str:
    """Returns the median, and in brackets the range where there is one."""
    if value is None:
        return ""
    if value.least == value.most:
        return f"{value.median:{form}}"
    between = f"({value.least:{form}}\N{EN DASH}{value.most:{form}})"
    return Markup('{} <span class="range">{}</span>').format(f"{value.median:{form}}", between)


def _cost(row: Row) -> str:
    """Returns the processor milliseconds of an order of both sides, without the generators."""
    sides = [side for side in (row.ours, row.theirs) if side is not None and side.cpu_s_per_1000]
    return " against ".join(f"{work_s(side.cpu_s_per_1000):.3f}" for side in sides)
