"""A whole run: send while processes die, kill everything, start again on what is on the disk, and audit that."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol

from tests.support.server_process import ServerProcess
from tests.torture.ledger import Ledger
from tests.torture.nodes import NodeDeaths
from tests.torture.replay import LOST_WITH_NODES, LOST_WITH_WORKERS, REFUSED_FOR_NOW, Replay
from tests.torture.service import Deaths, Setup, kill_all
from tests.torture.trials import Trials

KILL_EVERY_S: Final = (0.3, 3.0)
KILL_EVERY_S_WITH_NODES: Final = (3.0, 12.0)
"""While nodes die too, a worker needs longer to be back, and orders have to come through between the deaths."""


class Progress(Protocol):
    """Told how far a run is."""

    def stage(self, name: str, total: int) -> None:
        """A stage of so many orders begins."""

    def advance(self, orders: int, kills: int, ledger: Ledger) -> None:
        """So many more orders are done in this stage."""


class Silence:
    """Tells nobody."""

    def stage(self, name: str, total: int) -> None:
        """As ``Progress``."""

    def advance(self, orders: int, kills: int, ledger: Ledger) -> None:
        """As ``Progress``."""


class Result(NamedTuple):
    """What a run showed; it is passed when ``ledger.findings_count`` is 0."""

    ledger: Ledger
    sends: int
    kills: int
    node_kills: int
    send_s: float
    audit_s: float


async def torture(
    setup: Setup,
    count: int,
    seed: int,
    *,
    seconds: float,
    deadly: bool,
    nodes: NodeDeaths | None = None,
    progress: Progress | None = None,
) -> Result:
    """Sends ``count`` trials, begun within ``seconds``, and audits them after a restart.

    ``deadly`` kills a worker every now and then meanwhile, and ``nodes`` all nodes of the store at once; then the
    sending ends when these have died as often as they were to. The restart is always a kill -9 of all processes, the
    nodes too: what was acknowledged must be on the disk.
    """
    told = progress or Silence()
    ledger = Ledger()
    excused = LOST_WITH_NODES if nodes else LOST_WITH_WORKERS if deadly else REFUSED_FOR_NOW
    every_s = KILL_EVERY_S_WITH_NODES if nodes else KILL_EVERY_S
    async with Replay(setup.endpoints, seed, ledger, excused=excused) as replay:
        with setup.start() as server:
            await asyncio.to_thread(setup.wait_ready, server)
            told.stage("sending", count)
            began_s = time.monotonic()
            async with _dying(server, seed, every_s, deadly=deadly) as deaths, _nodes_dying(nodes, ledger):
                await replay.run(
                    Trials(seed, count),
                    began_s + seconds,
                    lambda orders: told.advance(orders, deaths.count, ledger),
                    is_over=lambda: nodes is not None and nodes.is_over,
                )
            send_s = time.monotonic() - began_s
            await asyncio.to_thread(kill_all, server)
            if nodes is not None:
                await nodes.strike()
    # everything has just been killed: a worker may serve a moment before it has reached every shard
    async with Replay(setup.endpoints, seed, ledger, excused=LOST_WITH_WORKERS) as audit:
        with setup.start() as server:
            await asyncio.to_thread(setup.wait_ready, server)
            told.stage("auditing", ledger.orders)
            began_s = time.monotonic()
            await audit.audit(lambda orders: told.advance(orders, deaths.count, ledger))
            audit_s = time.monotonic() - began_s
    return Result(ledger, replay.sends, deaths.count, nodes.count + 1 if nodes else 0, send_s, audit_s)


@contextlib.asynccontextmanager
async def _dying(
    server: ServerProcess, seed: int, every_s: tuple[float, float], *, deadly: bool
) -> AsyncIterator[Deaths]:
    """Lets workers die meanwhile, if ``deadly``."""
    deaths = Deaths(server, every_s, seed)
    task = asyncio.create_task(deaths.run()) if deadly else None
    try:
        yield deaths
    finally:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def _nodes_dying(nodes: NodeDeaths | None, ledger: Ledger) -> AsyncIterator[None]:
    """Lets the nodes die meanwhile, if there are any that are to; what goes wrong with that is raised."""
    task = asyncio.create_task(nodes.run(lambda: ledger.orders)) if nodes is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
