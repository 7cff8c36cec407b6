"""What a benchmark prints and keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.campaign import Result
from bench.summary import Range, Round, Summary, ratio, summarise

CAVEAT = (
    "Server and generator share these cores, so orders/s is a figure of the machine as a whole: a server that cost "
    "nothing would still stop where ghz does. Read the ratios, and the server's own processor time."
)


def summaries(rounds: Sequence[Round]) -> list[Summary]:
    """Returns one summary for each transport, loop and subject, in order of appearance."""
    groups: dict[tuple[str, str, str], list[Round]] = {}
    for one in rounds:
        groups.setdefault((one.transport, one.loop, one.subject), []).append(one)
    return [summarise(group) for group in groups.values()]


def of_empty(rounds: Sequence[Round], summary: Summary) -> Range | None:
    """Returns the ratio of a subject's rate to that of the empty peer, round by round; None for the peer itself."""
    if summary.subject == "empty" or summary.loop != "closed":
        return None
    of = [one for one in rounds if (one.transport, one.loop) == (summary.transport, summary.loop)]
    return ratio([one for one in of if one.subject == summary.subject], [one for one in of if one.subject == "empty"])


def show(results: Sequence[Result], facts: Mapping[str, object], console: Console) -> None:
    """Prints the table, and whether every acknowledged order was found in the store."""
    rounds = [one for result in results for one in result.rounds]
    table = Table(title=f"CreateOrder through ghz, commit {facts['commit']}, {facts['cores']} cores")
    for heading in ("subject", "loop"):
        table.add_column(heading)
    for heading in ("orders/s", "of empty", "p50 ms", "p99 ms", "errors", "server", "ghz", "others"):
        table.add_column(heading, justify="right")
    transport = ""
    for summary in summaries(rounds):
        if transport and transport != summary.transport:
            table.add_section()
        transport = summary.transport
        share = of_empty(rounds, summary)
        table.add_row(
            f"{summary.subject} ({summary.transport})",
            summary.loop,
            _range(summary.orders_per_s, ",.0f"),
            _range(share, ".0%") if share else "",
            _range(summary.p50_ms, ".1f"),
            _range(summary.p99_ms, ".1f"),
            _errors(summary),
            _range(summary.server_cpu_s_per_1000, ".2f"),
            _range(summary.ghz_cpu_s_per_1000, ".2f"),
            _range(summary.others_cores, ".1f"),
        )
    console.print(table)
    console.print("median, and least-most, of the rounds", style="dim")
    console.print(
        "server, ghz: processor seconds for 1,000 orders; ghz includes reading its messages and writing its report",
        style="dim",
    )
    console.print("others: cores busy with anything else meanwhile; above 0.2 the round says little", style="dim")
    console.print("closed: callers wait for their answer; open: a fixed rate, so waiting shows", style="dim")
    console.print(f"{facts['cpu']}; fsync {facts['fsync_us']} us; load average {facts['load_average_1m']}", style="dim")
    console.print(CAVEAT, style="dim")
    for result in results:
        lost = result.acknowledged - result.stored
        console.print(
            f"{result.transport}: {result.acknowledged:,} orders acknowledged, {result.stored:,} in the store"
            + (f": {lost:,} ARE LOST" if lost > 0 else ""),
            style="red" if lost > 0 else "",
        )


def keep(results: Sequence[Result], facts: Mapping[str, object], settings: Mapping[str, object], path: Path) -> None:
    """Writes facts, settings, summaries and every round as JSON, whole or not at all."""
    rounds = [one for result in results for one in result.rounds]
    content = {
        "facts": facts,
        "settings": settings,
        "summaries": [
            {name: _plain(value) for name, value in summary._asdict().items()}
            | {"of_empty": _plain(of_empty(rounds, summary))}
            for summary in summaries(rounds)
        ],
        "orders": {
            result.transport: {"acknowledged": result.acknowledged, "stored": result.stored} for result in results
        },
        "rounds": [one._asdict() for one in rounds],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def _plain(value: object) -> object:
    return value._asdict() if isinstance(value, Range) else value


def _range(value: Range, form: str) -> str:
    return f"{value.median:{form}}\n[dim]{value.least:{form}}-{value.most:{form}}[/dim]"


def _errors(summary: Summary) -> str:
    found = [f"{count:,} {code}" for code, count in sorted(summary.errors.items())]
    if summary.repeated:
        found.append(f"{summary.repeated:,} replays: void")
    return ", ".join(found) or "0"
