"""Fills shards with orders of the past day, by plain batches: as fast as the database takes rows.

`python -m bench.peers.prefill --topology-file FILE --orders 5000000` in an empty keyspace. The rows are those that the
service would have written: the same keys, columns and partitions, on the shards of the first topology. They are older
than any bucket that it still creates in, so no conditional write meets them, and they are not in the index by customer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import acsylla
import typer
import uvloop

from bench.peers.raw.__main__ import BODY_BYTES, CUSTOMERS
from shards.contract import BUCKET_S, Row
from shards.keys import key_of, mint_uuid7, order_id_of, slot_and_tag
from shards.settings import CassandraSettings, load
from shards.stores.cassandra import CassandraStore
from shards.topology import Topology

BATCH_ROWS: Final = 100
IN_FLIGHT: Final = 8
"""Batches under way at each shard: enough that the next ones share its syncs of the commit log."""

FIRST_BUCKET_AGO: Final = 150
LAST_BUCKET_AGO: Final = 6
"""An hour ago: closed for good in any keyspace that was made since."""

_BODIES: Final = 64
_INSERT: Final = (
    "INSERT INTO {keyspace}.orders (lane, bucket, slot, gen, tag, order_id, customer, version, marks, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def customers_of(shard: int, shards: int) -> list[str]:
    """Returns the customers whose slot is on this shard."""
    slot_shards = Topology.initial(shards).slot_shards
    names = (f"customer-{number:05d}" for number in range(CUSTOMERS))
    return [name for name in names if slot_shards[slot_and_tag(name)[0]] == shard]


def past_rows(chance: random.Random, customers: Sequence[str], bodies: Sequence[bytes], bucket: int) -> list[Row]:
    """Returns one batch of orders of a bucket, at random moments in it."""
    made = []
    for _ in range(BATCH_ROWS):
        customer = chance.choice(customers)
        request_id = mint_uuid7((bucket * BUCKET_S + chance.randrange(BUCKET_S)) * 1_000)
        order_id = order_id_of(customer, request_id)
        made.append(Row(key_of(order_id, 0), customer, request_id + bytes(16), chance.choice(bodies)))
    return made


async def fill(settings: CassandraSettings, shard: int, shards: int, orders: int) -> int:
    """Writes so many orders (rounded up to whole batches) into one shard; returns how many."""
    store = await CassandraStore.open(settings, is_indexing=False)
    session: acsylla.Session = store._connection.link().session._session  # type: ignore[attr-defined]  # noqa: SLF001  the store's session
    insert = await session.create_prepared(_INSERT.format(keyspace=settings.keyspace))
    chance = random.Random()
    customers, bodies = customers_of(shard, shards), [os.urandom(BODY_BYTES) for _ in range(_BODIES)]
    now_bucket = int(time.time()) // BUCKET_S
    batches = iter(range(-(-orders // BATCH_ROWS)))

    async def write() -> int:
        count = 0
        for number in batches:
            bucket = now_bucket - LAST_BUCKET_AGO - number % (FIRST_BUCKET_AGO - LAST_BUCKET_AGO)
            batch = acsylla.create_batch_unlogged()
            rows = past_rows(chance, customers, bodies, bucket)
            by_lane = [row for row in rows if store.lane(row.key) == store.lane(rows[0].key)]
            for key, customer, marks, body in by_lane:
                batch.add_statement(insert.bind([*store.lane(key), *key, customer, 1, marks, body]))
            await session.execute_batch(batch)
            count += len(by_lane)
        return count

    try:
        return sum(await asyncio.gather(*(write() for _ in range(IN_FLIGHT))))
    finally:
        await store.close()


async def fill_all(shards: Sequence[CassandraSettings], orders: int) -> int:
    """Writes so many orders, the same number into each shard; returns how many it were."""
    each = -(-orders // len(shards))
    return sum(await asyncio.gather(*(fill(one, number, len(shards), each) for number, one in enumerate(shards))))


def main(
    topology_file: Annotated[Path, typer.Option(help="The shards; the keyspaces are there, and empty.")],
    orders: Annotated[int, typer.Option(help="How many.")],
) -> None:
    """Fill, and say how many it were."""
    file = load(topology_file, os.environ)
    print(uvloop.run(fill_all([file.shards[number] for number in sorted(file.shards)], orders)))


if __name__ == "__main__":
    typer.run(main)
