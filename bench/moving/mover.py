"""A mover as a process of its own, told what to do: ``python -m bench.moving.mover FILE add|drain PROGRESS``.

Writes one line of JSON a progress, and in the end its processor seconds and what ``verify`` found.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import msgspec

from shards import ring
from shards.assembly import StorageSettings, open_fleet
from shards.rebalance.home import Book
from shards.rebalance.mover import Mover
from shards.rebalance.progress import Progress
from shards.rebalance.record import Kind, Options, start
from shards.rebalance.verify import verify
from shards.topology import ShardInfo
from shards.topology_store import TopologyStore


async def main(file: str, what: str, told: str) -> None:
    """Adds a shard, or drains the one with the highest id, and verifies what has moved."""
    fleet = await open_fleet(StorageSettings(store="cassandra", data_dir=Path(), topology_file=file))
    with await asyncio.to_thread(Path(told).open, "w", encoding="utf-8") as lines:

        def tell(progress: Progress) -> None:
            lines.write(msgspec.json.encode(progress).decode() + "\n")
            lines.flush()

        try:
            topologies = TopologyStore(fleet.home)
            topology = await topologies.load()
            assert topology is not None
            shards = list(topology.shards)
            shards = [*shards, ShardInfo(topology.next_shard_id)] if what == "add" else shards[:-1]
            wanted = ring.assign(dict(shards), topology.slot_shards)
            targets = {slot: to for slot, to in enumerate(wanted) if to != topology.slot_shards[slot]}
            book = Book(fleet.home)
            revision, last = await book.read() or (0, None)
            kind = Kind.ADD if what == "add" else Kind.DRAIN
            options = Options(slots_at_once=48, keep_p99_ms=500)
            record = start(topology, targets, shards, kind=kind, who="bench", last=last, options=options)
            assert await book.replace(revision, record)
            finished = await Mover(fleet, tell=tell).run(stays=False)
            moving_cpu_s = time.process_time()
            after = await topologies.load()
            assert after is not None
            assert finished is not None
            report = await verify(fleet, after, finished.moves)
            sizes = [after.slot_shards.count(info.id) for info in after.shards]
            end = {"state": finished.state.value, "moves": len(record.moves), "sizes": sizes, "cpu_s": moving_cpu_s}
            end |= {"verified": report.rows, "wrong": report.wrong, "verified_per_s": report.rows_per_s}
            lines.write(json.dumps({"end": end}) + "\n")
        finally:
            await fleet.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
