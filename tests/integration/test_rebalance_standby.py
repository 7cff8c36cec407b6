"""Several movers: one leads, another stands by, and nobody has to start it when the first is gone."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from shards.assembly import StorageSettings, open_fleet
from shards.rebalance.fleet import Fleet, part_of
from shards.rebalance.leader import leading
from shards.rebalance.mover import Mover
from shards.rebalance.record import Command, Kind, RebalanceRecord, State
from shards.stores.embedded import prepare
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.rebalances import DIED, Where, begin, record_of, run_mover, topology_of
from tests.support.rows import new_row
from tests.support.waiting import until

STAND_BY = "stand-by"
SLOTS = 48


@pytest_asyncio.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A data directory of one shard with a few orders."""
    os.close(prepare(tmp_path / "data", 1))
    fleet = await open_fleet(StorageSettings(data_dir=tmp_path / "data"))
    await TopologyStore(fleet.home).create(Topology.initial(1))
    await (await part_of(fleet, 0)).copies.place([new_row(f"customer {n}") for n in range(500)], {})
    yield fleet
    await fleet.close()


def leaders(record: RebalanceRecord) -> list[str]:
    """Who worked at a rebalance, in turn."""
    return [entry.who for entry in record.entries if entry.command is Command.TAKE_OVER]


async def test_who_stands_by_goes_on_when_the_leader_is_killed(fleet: Fleet, tmp_path: Path) -> None:
    """A mover that stands by leaves the work to the one that leads, finishes it after its death, and stays for more."""

    async def is_led() -> bool:
        return await leading(fleet.home) is not None

    async def state() -> State:
        return (await record_of(fleet)).state

    await begin(fleet, Kind.ADD, slots_max=SLOTS)
    first = asyncio.ensure_future(run_mover(Where("embedded", tmp_path / "data"), "before flip", 1))
    await until(is_led, lambda led: led)
    stand_by = Mover(fleet, name=STAND_BY)
    staying = asyncio.ensure_future(stand_by.run(stays=True))
    assert await first == DIED
    await until(state, lambda now: now is State.DONE)
    done = await record_of(fleet)
    assert done.remaining(await topology_of(fleet)) == ()
    assert leaders(done)[0] != STAND_BY
    assert leaders(done)[-1] == STAND_BY

    await begin(fleet, Kind.REVERSE)
    await until(state, lambda now: now is State.DONE)
    back = await record_of(fleet)
    assert (back.kind, set(leaders(back))) == (Kind.REVERSE, {STAND_BY})
    assert len(back.moved(await topology_of(fleet))) == SLOTS
    stand_by.stop()
    await staying
    assert await leading(fleet.home) is None
