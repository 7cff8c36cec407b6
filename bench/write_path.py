"""Measures what routing, lanes and cache add to a row, over a store that takes no time.

Run ``python -m bench.write_path``. Figures are CPU time of this process, so other load on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Hashable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from shards.assembly import StorageSettings, shard_over
from shards.caches.local import LocalCache
from shards.contract import APPLIED, MARK_BYTES, CommitLimits, Consistency, Outcome, Row, Unobserved
from shards.keys import Key, mint_uuid7, order_id_of
from shards.routing import Router
from shards.topology import Topology

SHARDS = 4
BODY = b"x" * 300


class InstantStore:
    """Applies everything at once and keeps nothing."""

    limits = CommitLimits(rows_max=128, bytes_max=1 << 22, in_flight_max=1)

    def lane(self, key: Key) -> Hashable:
        """All rows are in one lane."""
        return key.gen

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Every row is applied."""
        return [APPLIED] * len(rows)

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:  # noqa: ARG002  as below
        """No row is there."""
        return [None] * len(keys)

    async def list_customer(
        self,
        customer: str,  # noqa: ARG002  the signature is the contract's
        slot: int,  # noqa: ARG002  as customer
        gen: int,  # noqa: ARG002  as customer
        tag: int,  # noqa: ARG002  as customer
        before: bytes | None,  # noqa: ARG002  as customer
        rows_max: int,  # noqa: ARG002  as customer
    ) -> Sequence[Row]:
        """No customer has rows."""
        return []

    async def seal(self, key: Key) -> None:
        """There is nothing to seal."""

    async def close(self) -> None:
        """There is nothing to close."""


async def us_per_row(rows: int, callers: int, cache_rows_max: int) -> float:
    """Returns microseconds of CPU a row, of so many callers that each write one row after the other."""
    settings = StorageSettings(data_dir=Path())
    observer = Unobserved()
    cache = LocalCache(rows_max=cache_rows_max, bytes_max=1 << 30, ttl_s=5.0)
    shards = {shard: shard_over(InstantStore(), shard, cache, settings, observer) for shard in range(SHARDS)}
    router = Router.over(Topology.initial(SHARDS), shards, observer, AsyncExitStack())
    requests = [(f"customer {number % 1000}", mint_uuid7()) for number in range(rows)]
    orders = [(order_id_of(*request), *request) for request in requests]
    remaining = iter(orders)

    async def call() -> None:
        for order_id, customer, request_id in remaining:
            marks = request_id + bytes(MARK_BYTES - len(request_id))
            await router.write(order_id, customer, marks, BODY, time.monotonic() + 5)

    started = time.process_time()
    await asyncio.gather(*(call() for _ in range(callers)))
    return (time.process_time() - started) / rows * 1e6


def main() -> None:
    """Prints a line a case."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=100_000)
    chosen = options.parse_args()
    for callers in (1, 32, 256):
        for cache_rows_max in (0, 50_000):
            measured = uvloop.run(us_per_row(chosen.rows, callers, cache_rows_max))
            cached = "with cache" if cache_rows_max else "no cache"
            print(f"{callers:>4} callers, {cached:<10}  {measured:6.2f} us a row")


if __name__ == "__main__":
    main()
