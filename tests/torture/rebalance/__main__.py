"""`python -m tests.torture.rebalance run`: kill everything at every point of a rebalance. Exit 1: a broken promise."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from deploy.cluster import Cluster
from deploy.cluster.leaflets import SERVER_SETTINGS, TOPOLOGY_FILE
from tests.support.crest import Crest
from tests.support.rebalances import Where
from tests.support.server_process import ROOT
from tests.torture.history.stores import cluster_spec
from tests.torture.rebalance import page
from tests.torture.rebalance.cases import GROWTH, THERE_AND_BACK, Case, Place, cases_of, names_of
from tests.torture.rebalance.trial import Result, there_and_back
from tests.torture.rebalance.trial import run as run_case

WORKERS: Final = 2
SHARDS: Final = 3
PAGE: Final = ROOT / "docs" / "rebalancing-kills.md"
KEPT: Final = ROOT / "docs" / "rebalancing-kills.json"

app = typer.Typer(add_completion=False)


@app.command()
def run(
    *,
    store: Annotated[str, typer.Option(help="embedded or cassandra.")] = "embedded",
    only: Annotated[
        list[str] | None, typer.Option(help="Only cases whose name holds this; may be given again.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the calls.")] = None,
    host: Annotated[str, typer.Option(help="Loopback address to serve on.")] = "127.0.0.48",
    port: Annotated[int, typer.Option(min=1025, max=32000, help="First of the ports to use.")] = 20_700,
    keep: Annotated[Path | None, typer.Option(help="File whose results of these cases are replaced.")] = None,
) -> None:
    """Prove that a rebalance loses nothing, whatever dies."""
    chosen = random.SystemRandom().getrandbits(30) if seed is None else seed
    wanted = only or [""]
    cases = [case for case in cases_of(store) if any(words in case.name for words in wanted)]
    print(f"{len(cases)} cases on {store}, seed {chosen}", flush=True)
    with ExitStack() as closing:
        scratch = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="crest-torture-")))
        cluster: Cluster | None = None
        # nothing is refused for lack of time: what is asked here is what becomes of orders
        common = ["--workers", str(WORKERS), "--cache-ttl-s", "1", "--no-admission"]
        flags = [*common, "--shards", str(SHARDS)]
        where = Where("embedded", scratch / "data")
        if store == "cassandra":
            spec = cluster_spec(host, shards=SHARDS, replicas=1, redis=False)
            cluster = closing.enter_context(Cluster(spec, scratch / "cluster", dies_with_parent=True))
            where = Where("cassandra", cluster.state.path / TOPOLOGY_FILE)
            _apply_schema(where.path)
            flags = ["--config", str(cluster.state.path / SERVER_SETTINGS), "--cache", "local", *common]
        crest = closing.enter_context(Crest(host, port, scratch / "data", *flags))
        crest.wait_serving(WORKERS)
        if cluster is not None:
            _name_another(cluster, where.path)  # not before there is a topology: it would begin with all that are named
            _apply_schema(where.path)
        is_grown = any(words in THERE_AND_BACK for words in wanted)
        results = asyncio.run(_all(cases, Place(where, crest, cluster, 0, 0), chosen, keep, is_grown=is_grown))
    broken = [row.case for row in results if not row.passed or (row.case in GROWTH and row.refused_or_late)]
    print(f"{len(results)} cases, {len(broken)} with broken promises {broken or ''}")
    raise typer.Exit(1 if broken else 0)


@app.command(name="page")
def render() -> None:
    """Make the page of docs anew, of the results that are kept."""
    PAGE.write_text(page.page(page.read(KEPT.read_bytes())), encoding="utf-8")


def _name_another(cluster: Cluster, file: Path) -> None:
    """Names one more shard, in a keyspace of its own beside the first, which no slot is on yet."""
    points = json.dumps(list(cluster.spec.contact_points(0)))
    shard = f'\n[[shards]]\nid = {SHARDS}\nkeyspace = "crest_another"\ncontact_points = {points}\n'
    file.write_text(file.read_text(encoding="utf-8") + shard, encoding="utf-8")


def _apply_schema(file: Path) -> None:
    command = [sys.executable, "-m", "shards.schema", "apply", "--topology-file", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300, stdout=subprocess.DEVNULL)


def _keep(file: Path, result: Result) -> None:
    """Puts a result in the place of the last one of its case; results stand in the order of the cases."""
    kept = {(row.store, row.case): row for row in page.read(file.read_bytes())} if file.exists() else {}
    kept[result.store, result.case] = result
    order = [(store, name) for store in ("embedded", "cassandra") for name in names_of(store)]
    file.write_bytes(page.write(kept[key] for key in order if key in kept))


async def _all(cases: Sequence[Case], place: Place, seed: int, keep: Path | None, *, is_grown: bool) -> list[Result]:
    endpoints = [f"{place.crest.host}:{place.crest.port + 1 + worker}" for worker in range(WORKERS)]
    results = []

    def note(result: Result) -> None:
        results.append(result)
        if keep is not None:
            _keep(keep, result)
        print(
            f"{result.case:60} {result.operations:7,} operations, {result.slots} slots, {result.verified} verified, "
            f"{result.resume_s:5.1f} s, cut short {result.refused_or_late}, lost {result.lost}, "
            f"doubled {result.doubled}, stale {result.stale}",
            flush=True,
        )

    for number, case in enumerate(cases):
        note(await run_case(case, place, endpoints, seed + number))
    if is_grown:
        for result in await there_and_back(place.where, endpoints, seed + len(cases)):
            note(result)
    return results


if __name__ == "__main__":
    app()
