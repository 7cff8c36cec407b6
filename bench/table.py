"""The table at the terminal, and its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.campaign import Kept
from bench.parts import GROUPS, Row, Side
from bench.rounds import work_s
from bench.summary import Range

_HEADINGS: Final = ("work", "rate", "against", "ratio", "target", "CPU an order, ms", "CPU ratio", "p50 / p99 ms")
"""Those without anything below them are left out."""

CAVEAT: Final = (
    "Server, database and generator share these cores, so a rate is a figure of the machine as a whole. Read the "
    "ratios, and the processor time of an order, in which the generator (about 0.1-0.2 ms a call) is left out."
)


def show(results: Sequence[Kept], facts: Mapping[str, object], console: Console) -> None:
    """Prints one table of all parts, then what they found, then what failed."""
    console.print(_table(results, facts))
    for text in _legend(results, facts):
        console.print(text, style="dim")
    for result in results:
        for finding in result.outcome.findings:
            console.print(f"{result.name}: {finding}", style="yellow", markup=False)
        if result.failure:
            console.print(f"{result.name} failed: {result.failure}", style="red", markup=False)
    if reached := _judged(results):
        console.print(f"{sum(reached)} of {len(reached)} targets reached")


def _table(results: Sequence[Kept], facts: Mapping[str, object]) -> Table:
    table = Table(title=f"commit {facts['commit']}, {facts['cores']} cores, {facts['time']}", show_lines=True)
    lines: list[list[str]] = []
    for result in results:
        lines += [_cells(row) for row in result.outcome.rows]
        if result.failure:
            lines.append([f"{result.title} ({result.name})", "[red]FAILED[/red]", *[""] * (len(_HEADINGS) - 2)])
    shown = [number for number in range(len(_HEADINGS)) if any(line[number] for line in lines)]
    for number in shown:
        table.add_column(_HEADINGS[number], justify="right" if number else "left")
    for line in lines:
        table.add_row(*(line[number] for number in shown))
    return table


def _judged(results: Sequence[Kept]) -> list[bool]:
    rows = [row for result in results for row in result.outcome.rows]
    return [row.reached for row in rows if row.reached is not None]


def _legend(results: Sequence[Kept], facts: Mapping[str, object]) -> list[str]:
    said = [f"{facts['cpu']}; fsync {facts['fsync_us']} us; load average {facts['load_average_1m']}"]
    if any(row.theirs for result in results for row in result.outcome.rows):
        said.append(CAVEAT)
    if _judged(results):
        said.append(
            "median, and least-most, of the rounds; a ratio is of neighbouring rounds. CPU an order: server + "
            "cassandra + redis, then (generator). CPU ratio: theirs over ours, without the generator"
        )
    return said


def markdown(results: Sequence[Kept], facts: Mapping[str, object]) -> str:
    """Returns the rows as a table for a document, with the machine below."""
    lines = [
        "| work | rate | against | ratio | target | CPU an order, ms | CPU ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result.outcome.rows:
            against = f"{row.theirs.name}: {row.theirs.rate.median:,.0f}" if row.theirs else ""
            costs = " / ".join(
                f"{work_s(side.cpu_s_per_1000):.3f}" for side in (row.ours, row.theirs) if side and side.cpu_s_per_1000
            )
            ratio = f"{row.ratio.median:.2f} ({row.ratio.least:.2f}-{row.ratio.most:.2f})" if row.ratio else ""
            cpu_ratio = f"{row.cpu_ratio:.2f}" if row.cpu_ratio else ""
            rate = f"{row.ours.rate.median:,.0f} {row.unit}" if row.unit else ""
            lines.append("| " + " | ".join((row.work, rate, against, ratio, target(row), costs, cpu_ratio)) + " |")
        if result.failure:
            lines.append(f"| {result.title} | not measured | | | | | |")
    machine = f"{facts['cores']} cores ({facts['cpu']}, fsync {facts['fsync_us']} us)"
    return "\n".join([*lines, "", f"Commit {facts['commit']}, {facts['time']}, {machine}."])


def _cells(row: Row) -> list[str]:
    theirs = row.theirs
    return [
        row.work + (f"\n[dim]{row.note}[/dim]" if row.note else ""),
        ("" if row.ours.name == "crest" else f"{row.ours.name}\n") + _range(row.ours.rate, ",.0f") if row.unit else "",
        f"{theirs.name}\n{_range(theirs.rate, ',.0f')}" if theirs else "",
        _range(row.ratio, ratio_form(row)) + (f"\n{row.ratio_of}" if is_named(row) else "") if row.ratio else "",
        target(row, markup=True),
        "\n".join(cpu(side) for side in (row.ours, theirs) if side),
        f"{row.cpu_ratio:.2f}" if row.cpu_ratio else "",
        "\n".join(_latency(side) for side in (row.ours, theirs) if side and side.p50_ms and side.p99_ms),
    ]


def ratio_form(row: Row) -> str:
    """Returns the format of a row's ratio: two decimals, or as many as tell a ratio that just misses its target."""
    for digits in (2, 3, 4):
        if row.ratio is None or row.target is None or round(row.ratio.median, digits) != row.target:
            return f".{digits}f"
    return ".2f"


def is_named(row: Row) -> bool:
    """Tells whether it has to be said what the ratio is of: of rates by default, and a share is named by the work."""
    return row.ratio_of not in {"rate", "share"}


def target(row: Row, *, markup: bool = False) -> str:
    """Returns the target and whether it is reached; empty where there is none."""
    if row.target is None:
        return ""
    text = f"{'<=' if row.at_most else '>='} {row.target:g}"
    said = {True: "reached", False: "MISSED", None: "not measured"}[row.reached]
    colour = {True: "green", False: "red", None: "yellow"}[row.reached]
    return f"{text}\n[{colour}]{said}[/{colour}]" if markup else f"{text} {said}"


def cpu(side: Side) -> str:
    """Returns the processor milliseconds of an order: of all that serve it, then in brackets the generator's."""
    spent = side.cpu_s_per_1000
    if not spent:
        return ""
    known = [group for group in GROUPS if group in spent]
    parts = [f"{spent[group]:.3f}" for group in (*known, *spent.keys() - GROUPS) if group != GROUPS[-1]]
    total = f"{work_s(spent):.3f} = " if len(parts) > 1 else ""
    generator = f" ({spent[GROUPS[-1]]:.3f})" if GROUPS[-1] in spent else ""
    return f"{total}{' + '.join(parts)}{generator}"


def _latency(side: Side) -> str:
    return f"{side.p50_ms.median:.1f} / {side.p99_ms.median:.1f}" if side.p50_ms and side.p99_ms else ""


def _range(value: Range, form: str) -> str:
    return f"{value.median:{form}}\n[dim]{value.least:{form}}-{value.most:{form}}[/dim]"
