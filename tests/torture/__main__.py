"""`python -m tests.torture`: a million requests, each sent one to five times, while workers die. Exit 1: a finding."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table

from tests.torture.ledger import Ledger
from tests.torture.run import Result, torture
from tests.torture.service import Setup

_WIDTH: Final = 120
"""Of the report in a pipe or a log."""

_out = Console() if sys.stdout.isatty() else Console(width=_WIDTH)


class _Bar:
    """Shows a run on the terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def stage(self, name: str, total: int) -> None:
        self._task = self._progress.add_task(name, total=total, seen="")

    def advance(self, orders: int, kills: int, ledger: Ledger) -> None:
        assert self._task is not None, "a stage has begun"
        seen = f"{kills} kills, {ledger.lost} answers lost, {ledger.findings_count} findings"
        self._progress.update(self._task, advance=orders, seen=seen)


def main(
    *,
    count: Annotated[int, typer.Option(min=1, max=100_000_000, help="Requests.")] = 1_000_000,
    seed: Annotated[int | None, typer.Option(help="Repeats the requests and the kills of a run.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="No request is begun after so many seconds.")] = 3600,
    kill: Annotated[bool, typer.Option(help="Kill workers with -9 meanwhile.")] = True,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Worker processes.")] = 2,
    transport: Annotated[str, typer.Option(help="native or grpcio.")] = "native",
    host: Annotated[str, typer.Option(help="Loopback address to serve on.")] = "127.0.0.26",
    port: Annotated[int, typer.Option(min=1025, max=32000, help="First of the ports to use.")] = 20_400,
) -> None:
    """Prove that there is exactly one order for each request."""
    chosen = random.SystemRandom().getrandbits(32) if seed is None else seed
    _out.print(f"{count:,} requests, seed {chosen}", highlight=False)
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Remaining())
    with (
        tempfile.TemporaryDirectory(prefix="crest-torture-") as scratch,
        Progress(*columns, TextColumn("{task.fields[seen]}"), console=_out) as progress,
    ):
        setup = Setup(host, port, workers, transport, Path(scratch) / "data")
        result = asyncio.run(torture(setup, count, chosen, seconds=seconds, deadly=kill, progress=_Bar(progress)))
    _show(result, chosen)
    raise typer.Exit(1 if result.ledger.findings_count else 0)


def _show(result: Result, seed: int) -> None:
    ledger = result.ledger
    table = Table(title="one order for each request", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in (
        ("requests", f"{ledger.orders:,}"),
        ("sent, repetitions counted", f"{result.sends:,}"),
        ("answers", f"{ledger.answers:,}"),
        ("of them replays", f"{ledger.replays:,}"),
        ("answers lost, asked for again", f"{ledger.lost:,}"),
        ("workers killed", f"{result.kills:,}"),
        ("customers audited after kill -9 of all", f"{len(ledger.customers):,}"),
        ("sending", f"{result.send_s:,.1f} s, {result.sends / max(result.send_s, 0.001):,.0f} sends/s"),
        ("auditing", f"{result.audit_s:,.1f} s"),
        ("findings", f"{ledger.findings_count:,}"),
    ):
        table.add_row(name, value)
    _out.print(table)
    for finding in ledger.findings:
        _out.print(f"- {finding}", markup=False, style="red")
    if ledger.findings_count:
        _out.print(f"repeat with --seed {seed}", markup=False, style="red")


if __name__ == "__main__":
    typer.run(main)
