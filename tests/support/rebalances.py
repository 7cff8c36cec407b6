"""Rebalances as operators order them, and the movers that do them, for tests."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from shards.assembly import StorageSettings
from shards.rebalance.fleet import Fleet
from shards.rebalance.home import Book
from shards.rebalance.record import Kind, Options, RebalanceRecord, start
from shards.ring import assign
from shards.topology import ShardInfo, Topology
from shards.topology_store import TopologyStore
from tests.support.server_process import ROOT

MOVE_TIMEOUT_S: Final = 120.0


class Where(NamedTuple):
    """A storage, as a mover's process is told of it."""

    store: str
    path: Path
    """The data directory or the topology file."""

    @property
    def settings(self) -> StorageSettings:
        """The same as settings."""
        if self.store == "embedded":
            return StorageSettings(data_dir=self.path)
        return StorageSettings(store=self.store, data_dir=Path(), topology_file=str(self.path))


async def topology_of(fleet: Fleet) -> Topology:
    """The topology as it is now."""
    topology = await TopologyStore(fleet.home).load()
    assert topology is not None
    return topology


async def begin(
    fleet: Fleet,
    kind: Kind,
    *,
    shard: int | None = None,
    slots: Collection[int] | None = None,
    slots_max: int | None = None,
    options: Options | None = None,
) -> RebalanceRecord:
    """Writes down a rebalance: ADD a shard, DRAIN ``shard``, or REVERSE the last one.

    ``slots``: which go to the added shard, whatever its share; ``slots_max``: no more of them move.

    A shard that was drained and is still named is taken for the one to add.
    """
    book = Book(fleet.home)
    found = await book.read()
    revision, last = found or (0, None)
    topology = await topology_of(fleet)
    placed = topology.slot_shards
    if kind is Kind.REVERSE:
        assert last is not None
        targets = {move.slot: move.source for move in last.moved(topology)}
        shards = [ShardInfo(*info) for info in last.shards_before]
    else:
        shards = [info for info in topology.shards if info.id in placed]
        if kind is Kind.ADD:
            empty = [info for info in topology.shards if info.id not in placed]
            shards.append(empty[0] if empty else ShardInfo(topology.next_shard_id))
        else:
            shards = [info for info in shards if info.id != shard]
        wanted = assign(dict(shards), placed)
        targets = {slot: to for slot, to in enumerate(wanted) if to != placed[slot]}
        if slots is not None:
            targets = dict.fromkeys(slots, shards[-1].id)
    if slots_max is not None:
        targets = dict(sorted(targets.items())[:slots_max])
    record = start(topology, targets, shards, kind=kind, who="test", last=last, options=options)
    assert await book.replace(revision, record)
    return record


async def record_of(fleet: Fleet) -> RebalanceRecord:
    """The record as it is now."""
    found = await Book(fleet.home).read()
    assert found is not None
    return found[1]


async def run_mover(where: Where, *die_at: object, timeout_s: float = MOVE_TIMEOUT_S) -> int:
    """Runs a mover's process to its end, or to the point and number that it is to die at; returns its exit code."""
    command: Sequence[str] = [sys.executable, "-m", "tests.support.mover_process", where.store, str(where.path)]
    command = [*command, *map(str, die_at)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


DIED: Final = -int(signal.SIGKILL)
"""Exit code of a mover that came to its point."""
