"""Measures the Cassandra store by itself, lanes included and no RPC, against the bare driver in the same run.

Run ``python -m bench.store_cassandra --topology-file FILE`` on a machine with nothing else to do. It writes into the
first shard of the file. The subjects take turns, so that a node that warms up or a neighbour that works hits all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import acsylla
import uvloop

from shards.contract import Consistency, Row, Unobserved, Verdict
from shards.keys import key_of, mint_uuid7, order_id_of
from shards.lanes import Lanes
from shards.settings import CassandraSettings, load
from shards.stores.cassandra import CassandraStore

BODY_BYTES = 300
BATCH_ROWS = 50
CALLERS = 256
READERS = 64
CUSTOMERS = 1_000_000
DEADLINE_S = 30.0
SHARE_LEAST = 0.7
WARM_TURNS = 3
"""Turns that each subject has before it counts: a node that has just started takes three times the CPU."""


class Rate(NamedTuple):
    """One turn of one subject."""

    per_s: float
    cpu_us: float
    """CPU time of this process, all its threads, for each row."""


def new_row(body: bytes) -> Row:
    """Returns version 1 of an order of a random customer."""
    customer = f"customer-{random.randrange(CUSTOMERS)}"
    request_id = mint_uuid7()
    return Row(key_of(order_id_of(customer, request_id), 0), customer, request_id + bytes(16), body)


class Subjects:
    """What is compared, over one connected store."""

    def __init__(self, store: CassandraStore) -> None:
        self._store = store
        link = store._connection.link()  # noqa: SLF001  the raw subjects share its session
        self._session: acsylla.Session = link.session._session  # type: ignore[attr-defined]  # noqa: SLF001  as above
        self._statements = link.statements
        self._body = os.urandom(BODY_BYTES)
        self._written: list[Row] = []

    async def raw_batches(self, ends: float) -> int:
        """Conditional batches of inserts and nothing else, sent and answered by the driver, one after the other."""
        return await self._raw_batches(ends)

    async def raw_batches_two(self, ends: float) -> int:
        """The same by two senders."""
        return sum(await asyncio.gather(self._raw_batches(ends), self._raw_batches(ends)))

    async def _raw_batches(self, ends: float) -> int:
        count = 0
        while time.perf_counter() < ends:
            rows = [new_row(self._body) for _ in range(BATCH_ROWS)]
            place = self._store.lane(rows[0].key)
            batch = acsylla.create_batch_unlogged()
            for key, customer, marks, body in rows:
                batch.add_statement(self._statements.create.bind([*place, *key, customer, 1, marks, body]))
            result = await self._session.execute_batch(batch)
            assert result.first().column_value_by_index(0)
            count += len(rows)
        return count

    async def store_writes(self, ends: float) -> int:
        """Callers who each write an order after the other, through the lanes."""
        lanes = Lanes(self._store, shard=0, queue_rows_max=4 * CALLERS, observer=Unobserved())

        async def write() -> int:
            count = 0
            while time.perf_counter() < ends:
                row = new_row(self._body)
                outcome = await lanes.write(row, time.monotonic() + DEADLINE_S)
                assert outcome.verdict is Verdict.APPLIED
                count += 1
                if len(self._written) < CALLERS:
                    self._written.append(row)
            return count

        count = sum(await asyncio.gather(*(write() for _ in range(CALLERS))))
        await lanes.close()
        return count

    async def raw_reads(self, ends: float) -> int:
        """Reads by key, bound, sent and answered by the driver."""

        async def read(key_number: int) -> int:
            count = 0
            while time.perf_counter() < ends:
                row = self._written[(key_number + count) % len(self._written)]
                statement = self._statements.read[0].bind([*self._store.lane(row.key), *row.key])
                assert (await self._session.execute(statement)).first().as_tuple()
                count += 1
            return count

        return sum(await asyncio.gather(*(read(number) for number in range(READERS))))

    async def store_reads(self, ends: float) -> int:
        """The same through the store."""

        async def read(key_number: int) -> int:
            count = 0
            while time.perf_counter() < ends:
                row = self._written[(key_number + count) % len(self._written)]
                assert (await self._store.read((row.key,), Consistency.CACHED))[0]
                count += 1
            return count

        return sum(await asyncio.gather(*(read(number) for number in range(READERS))))


async def turn(subject: Callable[[float], Awaitable[int]], seconds: float) -> Rate:
    """Runs a subject once."""
    began, cpu_s = time.perf_counter(), time.process_time()
    count = await subject(began + seconds)
    return Rate(count / (time.perf_counter() - began), (time.process_time() - cpu_s) / count * 1e6)


class Figures(NamedTuple):
    """What a measurement showed: of each subject the median turn, of each share the median round.

    Raw batches are those of whoever was faster, one sender or two: two keep the node busy and meet in one partition.
    """

    raw_writes: Rate
    writes: Rate
    raw_reads: Rate
    reads: Rate
    write_share: float
    """The store's rate of writes, the bare driver's being 1."""
    read_share: float
    """The same of reads."""


def median(rates: Sequence[Rate]) -> Rate:
    """Returns the median rate and the median CPU time of a subject's turns."""
    return Rate(statistics.median(rate.per_s for rate in rates), statistics.median(rate.cpu_us for rate in rates))


async def measure(settings: CassandraSettings, seconds: float, turns: int) -> Figures:
    """Measures a shard of its own, whose schema is there: so many rounds after one to warm up, each subject a turn."""
    store = await CassandraStore.open(settings, is_indexing=False)
    try:
        subjects = Subjects(store)
        order = (
            subjects.raw_batches,
            subjects.store_writes,
            subjects.raw_batches_two,
            subjects.raw_reads,
            subjects.store_reads,
        )
        for subject in order:
            await turn(subject, seconds * WARM_TURNS)
        rounds = [[await turn(subject, seconds) for subject in order] for _ in range(turns)]
    finally:
        await store.close()
    one, writes, two, raw_reads, reads = (median(rates) for rates in zip(*rounds, strict=True))
    fastest = 0 if one.per_s >= two.per_s else 2
    return Figures(
        raw_writes=(one, writes, two)[fastest],
        writes=writes,
        raw_reads=raw_reads,
        reads=reads,
        write_share=statistics.median(rates[1].per_s / rates[fastest].per_s for rates in rounds),
        read_share=statistics.median(rates[4].per_s / rates[3].per_s for rates in rounds),
    )


def show(figures: Figures) -> None:
    """Prints a line for each subject, and the shares."""
    names = ("raw conditional batches of 50", "the store's writes", "raw reads", "the store's reads")
    for name, (per_s, cpu_us) in zip(names, figures[:4], strict=True):
        print(f"{name:30} {per_s:>9,.0f} rows/s   {cpu_us:6.1f} us of CPU a row in this process")
    print(f"store against driver: writes {figures.write_share:.0%}, reads {figures.read_share:.0%}")


def main() -> int:
    """Returns 1 when the store keeps less than its share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology-file", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=7, help="of each subject, after the warm-up")
    options = parser.parse_args()
    file = load(options.topology_file, os.environ)
    figures = uvloop.run(measure(file.shards[min(file.shards)], options.seconds, options.turns))
    show(figures)
    return 0 if min(figures.write_share, figures.read_share) >= SHARE_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
