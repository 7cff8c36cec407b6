"""`python -m tests.torture`: a million requests, each sent one to five times, while workers die. Exit 1: a finding.

With ``--store cassandra`` all nodes die at once, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table

from deploy.cluster import Cluster, CommitLogSync
from tests.support.cassandra_node import revive, small_cluster
from tests.support.storage import SHARDS, STORAGES, storage_on
from tests.torture.ledger import Ledger
from tests.torture.nodes import NodeDeaths
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
    store: Annotated[str, typer.Option(help="embedded, or cassandra: three shards and a Redis Cluster.")] = "embedded",
    node_kills: Annotated[int, typer.Option(min=1, help="cassandra: deaths of all nodes at once; ends the run.")] = 10,
    commit_log_sync: Annotated[
        CommitLogSync, typer.Option(help="cassandra: when a node answers.")
    ] = CommitLogSync.GROUP,
    host: Annotated[str, typer.Option(help="Loopback address to serve on.")] = "127.0.0.26",
    port: Annotated[int, typer.Option(min=1025, max=32000, help="First of the ports to use.")] = 20_400,
) -> None:
    """Prove that there is exactly one order for each request."""
    chosen = random.SystemRandom().getrandbits(32) if seed is None else seed
    _out.print(f"{count:,} requests, seed {chosen}", highlight=False)
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Remaining())
    if store not in STORAGES:
        raise typer.BadParameter(f"{store}: must be one of {', '.join(STORAGES)}", param_hint="--store")
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="crest-torture-") as scratch,
        Progress(*columns, TextColumn("{task.fields[seen]}"), console=_out) as progress,
    ):
        setup = Setup(host, port, workers, transport, Path(scratch) / "data")
        nodes = None
        if store != "embedded":
            cluster = stack.enter_context(_cluster(Path(scratch) / "cluster", commit_log_sync))
            setup = setup._replace(flags=storage_on(cluster).flags)
            nodes = NodeDeaths(cluster, node_kills, chosen)
        run = torture(setup, count, chosen, seconds=seconds, deadly=kill, nodes=nodes, progress=_Bar(progress))
        result = asyncio.run(run)
    _show(result, chosen)
    raise typer.Exit(1 if result.ledger.findings_count else 0)


@contextlib.contextmanager
def _cluster(folder: Path, commit_log_sync: CommitLogSync) -> Iterator[Cluster]:
    """A cluster of the run's own; its nodes are started by one thread, and end with it."""
    cluster = small_cluster(
        folder,
        "127.0.0.47",
        20_961,
        shards=SHARDS,
        redis=True,
        redis_first_port=20_970,
        commit_log_sync=commit_log_sync,
    )
    try:
        revive(cluster)
        yield cluster
    finally:
        cluster.down(grace_s=0, wipe=True)


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
        ("times all nodes were killed at once", f"{result.node_kills:,}"),
        ("customers audited after kill -9 of all", f"{len(ledger.customers):,}"),
        ("sending", f"{result.send_s:,.1f} s, {result.sends / max(result.send_s, 0.001):,.0f} sends/s"),
        ("auditing", f"{result.audit_s:,.1f} s"),
        ("acknowledged orders missing", f"{ledger.missing:,}"),
        ("orders doubled", f"{ledger.surplus:,}"),
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
