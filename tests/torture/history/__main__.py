"""`python -m tests.torture.history run`: disturb a server, record what it says, judge it. Exit 1: a broken promise."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from deploy.cluster import Cluster
from tests.support.crest import Crest
from tests.support.history import History, Rules, check
from tests.torture.history.nemesis import Fault, KillWorker, PauseWorker
from tests.torture.history.run import Plan, Result, torture
from tests.torture.history.stores import EMBEDDED, SHARDS, Storage, cassandra, cluster_spec

SHOWN_MAX: Final = 5
"""Violations printed; the history file has the rest."""

_WIDTH: Final = 120
_out = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
app = typer.Typer(add_completion=False)


@app.command()
def run(
    *,
    seconds: Annotated[float, typer.Option(min=1, help="So long callers call, at least.")] = 60,
    seed: Annotated[int | None, typer.Option(help="Draws the calls and the faults.")] = None,
    operations: Annotated[int, typer.Option(min=1, help="At most so many calls.")] = 1_000_000,
    at_least: Annotated[int, typer.Option(min=0, help="So many calls, however long they take.")] = 20_000,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Worker processes.")] = 4,
    callers: Annotated[int, typer.Option(min=1, max=1_000, help="Callers, one call at a time each.")] = 32,
    cache_ttl_s: Annotated[float, typer.Option(min=0, help="Lifetime of cached orders.")] = 2.0,
    host: Annotated[str, typer.Option(help="Loopback address to serve on.")] = "127.0.0.29",
    port: Annotated[int, typer.Option(min=1025, max=32000, help="First of the ports to use.")] = 20_700,
    store: Annotated[str, typer.Option(help="embedded or cassandra.")] = "embedded",
    shards: Annotated[int | None, typer.Option(min=1, max=8, help="Cassandra shards. [3; 1 with replicas]")] = None,
    replicas: Annotated[int, typer.Option(help="Nodes of each: 1, behind a proxy, or 3.")] = 1,
    redis: Annotated[bool, typer.Option(help="cassandra: remember orders in a Redis Cluster.")] = True,
    keep: Annotated[Path, typer.Option(help="Where the history is kept when a promise was broken.")] = Path(
        "torture-history.jsonl"
    ),
) -> None:
    """Prove that every order is linearizable, whatever dies meanwhile."""
    chosen = random.SystemRandom().getrandbits(32) if seed is None else seed
    _out.print(f"{callers} callers for {seconds:g} s, seed {chosen}", highlight=False)
    with ExitStack() as closing:
        scratch = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="crest-torture-")))
        cluster: Cluster | None = None
        if store == "cassandra":
            count = shards or (SHARDS if replicas == 1 else 1)
            spec = cluster_spec(host, shards=count, replicas=replicas, redis=redis)
            report = partial(_out.print, highlight=False)
            cluster = closing.enter_context(Cluster(spec, scratch / "cluster", dies_with_parent=True, report=report))
        flags = ("--workers", str(workers), "--cache-ttl-s", str(cache_ttl_s), "--stall-timeout-s", "3")

        async def on(storage: Storage) -> Result:
            rules = Rules(cache_ttl_s, storage.exact_replays)
            plan = Plan(chosen, seconds, operations, rules, callers, storage.rest_s, operations_min=at_least)
            crest = Crest(host, port, scratch / "data", *flags, *storage.flags)
            closing.enter_context(crest)
            await asyncio.to_thread(crest.wait_serving, workers)
            endpoints = [f"{host}:{port + 1 + worker}" for worker in range(workers)]
            faults: list[Fault] = [KillWorker(crest), PauseWorker(crest), *storage.faults]
            return await torture(endpoints, plan, faults, keep)

        async def main() -> Result:
            if cluster is None:
                return await on(EMBEDDED)
            async with cassandra(cluster, host, scratch) as storage:
                return await on(storage)

        result = asyncio.run(main())
    show(result)
    if not result.passed:
        _out.print(f"the history is in {keep}; repeat with --seed {chosen}", markup=False, style="red")
        raise typer.Exit(1)


@app.command()
def judge(file: Path, cache_ttl_s: float = 2.0) -> None:
    """Judge a history that was kept."""
    report = check(History.load(file), Rules(cache_ttl_s))
    for violation in report.violations[:SHOWN_MAX]:
        _out.print(str(violation), markup=False, highlight=False)
    _out.print(f"{report.operations:,} operations, {report.violations_count:,} violations", highlight=False)
    raise typer.Exit(1 if report.violations_count else 0)


def show(result: Result) -> None:
    """Prints a summary, and the first violations."""
    report, stale = result.report, result.staleness
    table = Table(title="every order linearizable", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows = [
        ("operations", f"{report.operations:,}"),
        *((f"  {name}", f"{count:,}") for name, count in sorted(report.outcomes.items())),
        ("orders", f"{report.orders:,}"),
        *((fault, f"{count:,}") for fault, count in sorted(result.faults.items())),
        ("calling", f"{result.calling_s:,.1f} s, {report.operations / result.calling_s:,.0f} operations/s"),
        ("settling and auditing", f"{result.settling_s:,.1f} s"),
        ("checking", f"{result.checking_s:,.1f} s"),
        ("cached reads", f"{stale.reads:,}"),
        *((f"  {age}", f"{count:,}") for age, count in stale.lines()),
        ("  oldest", f"{stale.oldest_s:.3f} s"),
        ("  older than the lifetime", f"{stale.beyond_ttl:,}"),
        ("  older than min_version", f"{stale.below_min_version:,}"),
        ("acknowledged orders missing", f"{report.missing:,}"),
        ("doubled", f"{report.doubled:,}"),
        ("in doubt", f"{report.unsettled:,}"),
        ("violations", f"{report.violations_count:,}"),
    ]
    for row in rows:
        table.add_row(*row)
    _out.print(table)
    for violation in report.violations[:SHOWN_MAX]:
        _out.print(str(violation), markup=False, highlight=False, style="red")


if __name__ == "__main__":
    app()
