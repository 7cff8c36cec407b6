"""A keyspace as movers see it: whole slots, read and placed beside the workers that serve it.

A slot's orders lie in one partition a bucket, each shared with the other slots of its lane. Which buckets to look into
is known as a list of a customer's orders knows it: those that the index names, and those that it need not know yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, cast

from shards.contract import BUCKET_S, PLACED_MAX, Copies, Invalid, Row, SlotSize, StoreError
from shards.keys import Key, bucket_of, wall_clock_ms
from shards.settings import CassandraSettings
from shards.stores.cassandra.connection import Connection, Link
from shards.stores.cassandra.indexer import Indexer
from shards.stores.cassandra.keyspace_facts import CassandraFacts
from shards.stores.cassandra.looking import BUCKETS, Looking, each, named
from shards.stores.cassandra.reads import Place, read_many
from shards.stores.cassandra.session import Kind, Prepared, Session, Step

_BUCKET_MS: Final = BUCKET_S * 1_000
_PLACE_TRIES_MAX: Final = 8
"""Batches of the same rows: each refusal says what is there, and workers do not write to copies; so the second fits,
unless others place at the same time. Those can be ahead once for each version of an order, and it has five at most."""
_INDEX_BATCH: Final = 100
_PAGE: Final = 1_000
_SAMPLE_PARTITIONS: Final = 8
_SAMPLE_ROWS: Final = 50
_DROP_TRIES_MAX: Final = 3
_LOWEST_TOKEN: Final = -(2**63)

_TEXTS: Final = {
    "sealed": "SELECT bucket, sealed FROM ks.orders WHERE lane = ? AND bucket IN (buckets) PER PARTITION LIMIT 1",
    "partitions": """
        SELECT DISTINCT lane, bucket, sealed, token(lane, bucket) FROM ks.orders
        WHERE token(lane, bucket) > ? LIMIT ?""",
    "slots": "SELECT slot, gen, count(*) FROM ks.orders WHERE lane = ? AND bucket = ? GROUP BY slot, gen",
    "sample": "SELECT marks, body FROM ks.orders WHERE lane = ? AND bucket = ? LIMIT ?",
    "drop": "DELETE FROM ks.orders WHERE lane = ? AND bucket = ? AND slot = ? AND gen = ?",
    "drop_index": "DELETE FROM ks.customer_buckets WHERE slot = ? AND gen = ?",
}


@dataclass(frozen=True, slots=True)
class _Statements:
    """Prepared statements that only movers use; what is bound is in ``_TEXTS``, in order."""

    sealed: Prepared
    partitions: Prepared
    slots: Prepared
    sample: Prepared
    drop: Prepared
    drop_index: Prepared


class CassandraCopies(Copies):
    """The slots of one keyspace. Open it with ``open``."""

    def __init__(
        self, settings: CassandraSettings, connection: Connection, clock_ms: Callable[[], int] = wall_clock_ms
    ) -> None:
        """Takes over a connection; ``open`` is the way to get here."""
        self._settings = settings
        self._lanes = settings.lanes
        self._connection = connection
        self._indexer = Indexer(connection, settings.lanes, clock_ms)  # read, never started
        self._clock_ms = clock_ms
        self._prepared: tuple[Session, _Statements] | None = None
        self._looking = Looking(settings.keyspace, self._indexer, clock_ms)

    @classmethod
    async def open(
        cls,
        settings: CassandraSettings,
        *,
        name: str = "shard",
        wait_s: float = 5.0,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> CassandraCopies:
        """Connects, as ``CassandraStore.open`` does. Raises ``ShardMismatch``."""
        connection = await Connection.opened(settings, name, wait_s)
        return cls(settings, connection, clock_ms)

    def __repr__(self) -> str:
        return f"<CassandraCopies {self._connection!r}>"

    @property
    def facts(self) -> CassandraFacts:
        """The facts beside the orders, over the same connection; closed with it."""
        return CassandraFacts(self._connection)

    async def versions(self, gens: Mapping[int, int]) -> Mapping[int, Mapping[bytes, int]]:
        """See ``Copies.versions``."""
        link, _ = await self._link()
        lanes: dict[int, dict[int, int]] = {}
        for slot, gen in gens.items():
            lanes.setdefault(slot % self._lanes, {})[slot] = gen
        told = await asyncio.gather(*(self._looking.versions(link, lane, group) for lane, group in lanes.items()))
        return {slot: versions for found in told for slot, versions in found.items()}

    async def rows(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """See ``Copies.rows``."""
        link, _ = await self._link()
        return await read_many(link.session, link.statements, [self._place_of(key) for key in keys], keys, Kind.READ)

    async def place(self, rows: Sequence[Row], known: Mapping[bytes, int]) -> None:
        """See ``Copies.place``. The index first, then one conditional batch after another in each partition."""
        if len(rows) > PLACED_MAX:
            raise Invalid(f"{len(rows)} rows placed at once; at most {PLACED_MAX}")
        link, _ = await self._link()
        await self._index(link, [row for row in rows if not known.get(row.key.order_id)])
        wanted: dict[Place, list[Row]] = {}
        for row in rows:
            wanted.setdefault(self._place_of(row.key), []).append(row)
        batches = [(place, batch) for place, group in wanted.items() for batch in self._batches(link, group)]

        async def one(batch: tuple[Place, list[Row]]) -> None:
            await _place(link, *batch, {row.key.order_id: known.get(row.key.order_id, 0) for row in batch[1]})

        await each(batches, one)

    def seals_together(self, slot: int) -> Hashable:
        """See ``Copies.seals_together``: slots of one lane."""
        return slot % self._lanes

    async def sealed(self, slot: int, first_bucket: int) -> AbstractSet[int]:
        """See ``Copies.sealed``. From 0 on it is a look at every partition of the keyspace."""
        link, own = await self._link()
        lane = slot % self._lanes
        if first_bucket <= 0:
            return {bucket for found, bucket, is_sealed in await _partitions(link, own) if found == lane and is_sealed}

        async def one(buckets: Sequence[int]) -> Sequence[tuple[object, ...]]:
            return await link.session.execute(own.sealed, (lane, *buckets), Kind.READ)

        found = await each(named(range(first_bucket, self._now_bucket() + 2)), one)
        return {cast("int", bucket) for rows in found for bucket, is_sealed in rows if is_sealed}

    async def seal(self, slot: int, buckets: AbstractSet[int]) -> None:
        """See ``Copies.seal``. What the watermark says to be sealed is passed over."""
        link, _ = await self._link()
        lane = slot % self._lanes
        watermark = await self._indexer.refresh(lane)
        todo = [bucket for bucket in sorted(buckets) if not link.facts.first_bucket <= bucket <= watermark]

        async def one(bucket: int) -> None:
            await link.session.batch((Step(link.statements.seal, (lane, bucket)),))  # refused: it is sealed already

        await each(todo, one)

    async def drop(self, slot: int, gen: int) -> None:
        """See ``Copies.drop``. The index goes last, so that a drop which was broken off finds the rest."""
        link, own = await self._link()
        for _ in range(_DROP_TRIES_MAX):
            buckets = await self._buckets(link, slot, gen)

            async def one(bucket: int) -> None:
                await link.session.execute(own.drop, (slot % self._lanes, bucket, slot, gen), Kind.WRITE)

            await each(buckets, one)
            # rows placed a moment ago may bear a later time than the deletion, where the clocks of the nodes differ
            if not (await self.versions({slot: gen}))[slot]:
                await link.session.execute(own.drop_index, (slot, gen), Kind.WRITE)
                return
        raise StoreError(f"slot {slot} gen {gen} holds orders after it was dropped; try again")

    async def present(self) -> AbstractSet[tuple[int, int]]:
        """See ``Copies.present``."""
        return {(slot, gen) for slot, gen, _ in await self._counts()}

    async def sizes(self, gens: Mapping[int, int]) -> Mapping[int, SlotSize]:
        """See ``Copies.sizes``. Rows are counted; of their bytes a sample is added up."""
        link, own = await self._link()
        rows = dict.fromkeys(gens, 0)
        for slot, gen, count in await self._counts():
            if gens.get(slot) == gen:
                rows[slot] += count
        places = [(lane, bucket) for lane, bucket, _ in await _partitions(link, own)]
        places = places[:: max(1, len(places) // _SAMPLE_PARTITIONS)]

        async def one(place: Place) -> list[int]:
            found = await link.session.execute(own.sample, (*place, _SAMPLE_ROWS), Kind.READ)
            return [len(cast("bytes", marks)) + len(cast("bytes", body)) for marks, body in found if body is not None]

        sample = [size for sizes in await each(places, one) for size in sizes]
        mean = sum(sample) / len(sample) if sample else 0
        return {slot: SlotSize(count, round(count * mean)) for slot, count in rows.items()}

    async def close(self) -> None:
        """See ``Copies.close``."""
        await self._connection.close()

    async def _link(self) -> tuple[Link, _Statements]:
        link = self._connection.link()
        if self._prepared is None or self._prepared[0] is not link.session:
            keyspace = self._settings.keyspace
            texts = [text.replace(" ks.", f" {keyspace}.").replace("(buckets)", BUCKETS) for text in _TEXTS.values()]
            prepared = await asyncio.gather(*(link.session.prepare(" ".join(text.split())) for text in texts))
            self._prepared = (link.session, _Statements(**dict(zip(_TEXTS, prepared, strict=True))))
        return link, self._prepared[1]

    def _place_of(self, key: Key) -> Place:
        return key.slot % self._lanes, bucket_of(key.order_id, BUCKET_S)

    def _now_bucket(self) -> int:
        return self._clock_ms() // _BUCKET_MS

    async def _buckets(self, link: Link, slot: int, gen: int) -> list[int]:
        """Returns every bucket that may hold orders of the slot, ascending."""
        window = await self._looking.window(link, slot % self._lanes)  # first: the index is complete up to it then
        return sorted((await self._looking.indexed(link, {slot: gen}))[slot].union(window))

    async def _index(self, link: Link, rows: Iterable[Row]) -> None:
        entries: dict[tuple[int, int], set[tuple[int, int, int, int]]] = {}
        for row in rows:
            slot, gen, tag, order_id = row.key
            entries.setdefault((slot, gen), set()).add((slot, gen, tag, bucket_of(order_id, BUCKET_S)))
        steps = [[Step(link.statements.index, entry) for entry in sorted(group)] for group in entries.values()]
        batches = [
            group[start : start + _INDEX_BATCH] for group in steps for start in range(0, len(group), _INDEX_BATCH)
        ]
        await each(batches, link.session.write)

    def _batches(self, link: Link, rows: Sequence[Row]) -> Iterable[list[Row]]:
        bytes_max = min(self._settings.batch_bytes_max, link.findings.batch_bytes_max)
        batch: list[Row] = []
        size = 0
        for row in rows:
            adds = len(row.body) + len(row.marks)
            if batch and (len(batch) == self._settings.batch_rows_max or size + adds > bytes_max):
                yield batch
                batch, size = [], 0
            batch.append(row)
            size += adds
        if batch:
            yield batch

    async def _counts(self) -> list[tuple[int, int, int]]:
        link, own = await self._link()

        async def one(place: Place) -> Sequence[tuple[object, ...]]:
            return await link.session.execute(own.slots, place, Kind.READ)

        found = await each([(lane, bucket) for lane, bucket, _ in await _partitions(link, own)], one)
        return [cast("tuple[int, int, int]", line) for lines in found for line in lines if line[0] is not None]


async def _place(link: Link, place: Place, rows: Sequence[Row], there: dict[bytes, int]) -> None:
    """Places rows of one partition, as many as fit into one batch. ``there`` are the versions believed to be there."""
    for _ in range(_PLACE_TRIES_MAX):
        todo = [row for row in rows if row.version > there[row.key.order_id]]
        if not todo:
            return
        steps = []
        for row in todo:
            key, customer, marks, body = row
            if before := there[key.order_id]:
                steps.append(Step(link.statements.replace, (row.version, marks, body, *place, *key, before)))
            else:
                values = (*place, *key, customer, row.version, marks, body)
                steps.append(Step(link.statements.create, values))
        refusal = await link.session.batch(steps)
        if refusal is None:
            return
        found = {line["order_id"]: line["version"] for line in refusal if line.get("order_id") is not None}
        for row in todo:
            there[row.key.order_id] = cast("int", found.get(row.key.order_id) or 0)
    raise StoreError(f"{len(rows)} copies in bucket {place[1]} were refused {_PLACE_TRIES_MAX} times")


async def _partitions(link: Link, own: _Statements) -> list[tuple[int, int, bool]]:
    """Returns lane, bucket and whether it is sealed of every partition, by a walk over the ring."""
    partitions: list[tuple[int, int, bool]] = []
    token = _LOWEST_TOKEN
    while True:
        found = await link.session.execute(own.partitions, (token, _PAGE), Kind.READ)
        partitions += [
            (cast("int", lane), cast("int", bucket), bool(is_sealed)) for lane, bucket, is_sealed, _ in found
        ]
        if len(found) < _PAGE:
            return partitions
        token = cast("int", found[-1][3])
