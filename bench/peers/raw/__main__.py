"""`python -m bench.peers.raw`: conditional batches of one partition by acsylla, with no RPC, lane or routing.

Prints one line when it is ready, then one JSON object for each line of its standard input, which holds the seconds to
run for: ``{"rows": 12345, "seconds": 5.0}``. It ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Final

import acsylla
import typer
import uvloop

from shards.contract import Row
from shards.keys import key_of, mint_uuid7, order_id_of
from shards.settings import CassandraSettings, load
from shards.stores.cassandra import CassandraStore

BODY_BYTES: Final = 300
CUSTOMERS: Final = 10_000
_BODIES: Final = 64


class Shard:
    """One shard's session, and rows for one of its partitions at a time."""

    def __init__(self, store: CassandraStore) -> None:
        link = store._connection.link()  # noqa: SLF001  the statement and session of the store, and nothing of its work
        self._store = store
        self._session: acsylla.Session = link.session._session  # type: ignore[attr-defined]  # noqa: SLF001  as above
        self._create = link.statements.create

    async def write(self, rows: list[Row]) -> None:
        """One conditional batch, applied or the measurement is void."""
        place = self._store.lane(rows[0].key)
        batch = acsylla.create_batch_unlogged()
        for key, customer, marks, body in rows:
            batch.add_statement(self._create.bind([*place, *key, customer, 1, marks, body]))
        result = await self._session.execute_batch(batch)
        assert result.first().column_value_by_index(0), "fresh ids are applied"


def rows_of(chance: random.Random, bodies: list[bytes], count: int) -> list[Row]:
    """Returns new orders of random customers, all of this moment, so of one bucket."""
    made = []
    for _ in range(count):
        customer = f"customer-{chance.randrange(CUSTOMERS):05d}"
        request_id = mint_uuid7()
        order_id = order_id_of(customer, request_id)
        made.append(Row(key_of(order_id, 0), customer, request_id + bytes(16), chance.choice(bodies)))
    return made


async def run_for(shards: list[Shard], seconds: float, in_flight: int, batch_rows: int) -> dict[str, float]:
    """Writes for so long, ``in_flight`` batches a shard under way, and returns rows written and seconds taken."""
    chance = random.Random()
    bodies = [os.urandom(BODY_BYTES) for _ in range(_BODIES)]
    began = time.perf_counter()
    ends = began + seconds

    async def write(shard: Shard) -> int:
        rows = 0
        while time.perf_counter() < ends:
            made = rows_of(chance, bodies, batch_rows)
            # at the turn of a bucket the batch is of two partitions: of the first one's rows only
            place = shard._store.lane(made[0].key)  # noqa: SLF001  as above
            made = [row for row in made if shard._store.lane(row.key) == place]  # noqa: SLF001  as above
            await shard.write(made)
            rows += len(made)
        return rows

    counts = await asyncio.gather(*(write(shard) for shard in shards for _ in range(in_flight)))
    return {"rows": sum(counts), "seconds": time.perf_counter() - began}


@contextlib.asynccontextmanager
async def _opened(settings: list[CassandraSettings]) -> AsyncIterator[list[Shard]]:
    async with contextlib.AsyncExitStack() as stack:
        shards = []
        for one in settings:
            store = await CassandraStore.open(one, is_indexing=False)
            stack.push_async_callback(store.close)
            shards.append(Shard(store))
        yield shards


async def _serve(
    settings: list[CassandraSettings], in_flight: int, batch_rows: int, say: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    async with _opened(settings) as shards:
        say("ready")
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            say(json.dumps(await run_for(shards, float(line), in_flight, batch_rows)))


def main(
    topology_file: Annotated[Path, typer.Option(help="The shards; the keyspaces are there.")],
    in_flight: Annotated[int, typer.Option(help="Batches under way at each shard.")] = 2,
    batch_rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 100,
) -> None:
    """Write as told by standard input."""
    file = load(topology_file, os.environ)
    uvloop.run(_serve(list(file.shards.values()), in_flight, batch_rows, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    typer.run(main)
