"""One shard in one Cassandra keyspace, behind the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from shards.contract import (
    APPLIED,
    BUCKET_S,
    CommitLimits,
    Consistency,
    Invalid,
    Outcome,
    Row,
    Store,
    StoreError,
    Unavailable,
    Verdict,
)
from shards.keys import Key, bucket_of, wall_clock_ms
from shards.settings import CassandraSettings
from shards.stores.cassandra import refusals
from shards.stores.cassandra.connection import Connection, Link
from shards.stores.cassandra.indexer import Indexer
from shards.stores.cassandra.keyspace_facts import CassandraFacts
from shards.stores.cassandra.listing import Customer, Listing, Window
from shards.stores.cassandra.reads import Place, read_many, row_of
from shards.stores.cassandra.session import Kind, Session, Step

_KIND_OF: Final = {Consistency.CACHED: Kind.READ, Consistency.STRONG: Kind.SERIAL_READ}
_BUCKET_MS: Final = BUCKET_S * 1_000
_SEAL_TRIES_MAX: Final = 3

_IndexEntry: TypeAlias = tuple[int, int, int, int]


class CassandraStore(Store):
    """A shard in a keyspace that several workers share. Open it with ``open``.

    Rows of one lane are those of one partition; a commit is one conditional batch, all or nothing.
    """

    def __init__(
        self,
        settings: CassandraSettings,
        connection: Connection,
        indexer: Indexer,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """Takes over a connection; ``open`` is the way to get here."""
        self._settings = settings
        self._lanes = settings.lanes
        self._connection = connection
        self._indexer = indexer
        self._clock_ms = clock_ms

    @classmethod
    async def open(
        cls,
        settings: CassandraSettings,
        *,
        name: str = "shard",
        wait_s: float = 5.0,
        is_indexing: bool = True,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> CassandraStore:
        """Connects, for at most ``wait_s`` seconds; after that goes on in the background, and calls fail meanwhile.

        ``name`` is how the log calls the shard. Raises ``ShardMismatch`` when the cluster is not as the settings say.
        """
        connection = await Connection.opened(settings, name, wait_s)
        indexer = Indexer(connection, settings.lanes, clock_ms)
        if is_indexing:
            indexer.start()
        return cls(settings, connection, indexer, clock_ms)

    def __repr__(self) -> str:
        return f"<CassandraStore {self._connection!r} {self._indexer!r}>"

    @property
    def indexer(self) -> Indexer:
        """What writes the index of customers behind the orders."""
        return self._indexer

    @property
    def facts(self) -> CassandraFacts:
        """Facts of this shard, over the same connection; the store closes it."""
        return CassandraFacts(self._connection)

    @property
    def limits(self) -> CommitLimits:
        """What one commit may hold; fewer bytes than the settings say where a connected node takes no more."""
        settings = self._settings
        bytes_max = settings.batch_bytes_max
        with suppress(Unavailable):
            bytes_max = self._connection.link().findings.batch_bytes_max
        return CommitLimits(settings.batch_rows_max, bytes_max, settings.batches_in_flight_max)

    def lane(self, key: Key) -> Place:
        """Returns the partition of a key."""
        return key.slot % self._lanes, bucket_of(key.order_id, BUCKET_S)

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """See ``Store.commit``. When one row is refused, those that were not are DEFERRED: nothing was written."""
        if not rows:
            return ()
        link = self._connection.link()
        place = self.lane(rows[0].key)
        self._check(rows, place)
        statements = link.statements
        steps: list[Step] = []
        has_creates = False
        for row in rows:
            key, customer, marks, body = row
            version = row.version
            if version == 1:
                steps.append(Step(statements.create, (*place, *key, customer, 1, marks, body)))
                has_creates = True
            else:
                steps.append(Step(statements.replace, (version, marks, body, *place, *key, version - 1)))
        if has_creates:
            steps.append(Step(statements.unless_sealed, place))
            if self._is_listed_by_index(link, place[1]):
                await self._index_first(link, rows, place[1])
        try:
            refusal = await link.session.batch(steps)
        except Unavailable as error:
            if link.findings.is_unavailable_certain:
                raise
            raise StoreError(str(error)) from error
        if refusal is None:
            return [APPLIED] * len(rows)
        outcomes = refusals.judge(rows, refusal)
        unread = [row.key for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
        present = iter(await self.read(unread, Consistency.STRONG) if unread else ())
        return [Outcome(Verdict.CLASH, next(present)) if outcome is None else outcome for outcome in outcomes]

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """See ``Store.read``. CACHED is read at quorum, STRONG in a round of Paxos a partition."""
        link = self._connection.link()
        kind = _KIND_OF[consistency]
        if len(keys) == 1:
            (key,) = keys
            found = await link.session.execute(link.statements.read[0], (*self.lane(key), *key), kind)
            return [row_of(found[0]) if found else None]
        places = [self.lane(key) for key in keys]
        return await read_many(link.session, link.statements, places, keys, kind)

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """See ``Store.list_customer``."""
        link = self._connection.link()
        lane = slot % self._lanes
        # first: what the index is asked for below is then complete up to here
        watermark = await self._indexer.watermark(lane)
        window = Window(max(watermark + 1, link.facts.first_bucket), self._now_bucket() + 1)
        listing = Listing(link.session, link.statements, lane)
        return await listing.newest(Customer(customer, slot, gen, tag), window, before, rows_max)

    async def seal(self, key: Key) -> None:
        """See ``Store.seal``. Seals the bucket in all lanes."""
        link = self._connection.link()
        bucket = bucket_of(key.order_id, BUCKET_S)
        step = link.statements.seal
        await asyncio.gather(*(_seal(link.session, Step(step, (lane, bucket))) for lane in range(self._lanes)))

    async def close(self) -> None:
        """See ``Store.close``."""
        await self._indexer.close()
        await self._connection.close()

    def _check(self, rows: Sequence[Row], place: Place) -> None:
        rows_max, bytes_max, _ = self.limits
        if len(rows) > rows_max:
            raise Invalid(f"{len(rows)} rows in one commit; at most {rows_max}")
        size = sum([len(row.body) + len(row.marks) for row in rows])
        if size > bytes_max and len(rows) > 1:
            raise Invalid(f"{size} bytes in one commit; at most {bytes_max}")
        if len({row.key.order_id for row in rows}) < len(rows):
            # both would see the old row, both apply, and one would be lost
            raise Invalid("two rows of one order in one commit")
        if any(self.lane(row.key) != place for row in rows):
            raise Invalid("rows of several lanes in one commit")

    def _is_listed_by_index(self, link: Link, bucket: int) -> bool:
        """Tells whether lists find orders of a bucket by the index alone, so that it must know them beforehand."""
        return bucket < link.facts.first_bucket or bucket > self._now_bucket() + 1

    async def _index_first(self, link: Link, rows: Sequence[Row], bucket: int) -> None:
        entries: set[_IndexEntry] = {(*row.key[:3], bucket) for row in rows if row.version == 1}
        try:
            await asyncio.gather(*(link.session.execute(link.statements.index, entry, Kind.WRITE) for entry in entries))
        except StoreError as error:
            raise Unavailable("the index could not be written; no order was") from error

    def _now_bucket(self) -> int:
        return self._clock_ms() // _BUCKET_MS


async def _seal(session: Session, step: Step) -> None:
    tries = 1
    while True:
        try:
            await session.batch((step,))  # refused: it is sealed already
        except Unavailable:
            raise
        except StoreError:
            if tries == _SEAL_TRIES_MAX:
                raise
            tries += 1
        else:
            return
