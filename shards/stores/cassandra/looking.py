"""What slots hold: which orders, in which version. Many slots are looked into by one statement.

A slot's orders lie in one partition a bucket, each shared with the other slots of its lane. So slots that are copied
together are looked for together: what a statement costs is mostly its way there and back, and the partitions.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from shards.contract import BUCKET_S
from shards.stores.cassandra.connection import Link
from shards.stores.cassandra.indexer import Indexer
from shards.stores.cassandra.session import Kind, Prepared, Session

T = TypeVar("T")
R = TypeVar("R")

_BUCKET_MS: Final = BUCKET_S * 1_000
_AT_ONCE_MAX: Final = 32
"""Statements that one call has under way at once: a mover is a guest."""
_REMEMBERED_MAX: Final = 128
"""Slots whose buckets are remembered: more than are moved at once."""
_WATERMARK_S: Final = 60.0
"""For so long a watermark is believed to be where it was: an older one means a few more buckets to look into."""
_NAMED_MAX: Final = 16
"""Buckets, and slots, that one statement names; always as many, the last one again where there are fewer."""
BUCKETS: Final = f"({', '.join('?' * _NAMED_MAX)})"
"""How a statement names the buckets, or slots, of ``named``."""
_ITEMS: Final = f"({', '.join(['(?, ?)'] * _NAMED_MAX)})"

_TEXTS: Final = {
    "versions": """
        SELECT slot, gen, order_id, version FROM ks.orders
        WHERE lane = ? AND bucket IN (buckets) AND (slot, gen) IN (items)""",
    "indexed": "SELECT slot, bucket FROM ks.customer_buckets WHERE slot IN (buckets) AND gen = ?",
}


@dataclass(frozen=True, slots=True)
class _Statements:
    """What is bound is in ``_TEXTS``, in order."""

    versions: Prepared
    indexed: Prepared


class Looking:
    """Looks into the slots of one keyspace. All methods raise ``StoreError``."""

    def __init__(self, keyspace: str, indexer: Indexer, clock_ms: Callable[[], int]) -> None:
        self._keyspace = keyspace
        self._indexer = indexer
        self._clock_ms = clock_ms
        self._prepared: tuple[Session, _Statements] | None = None
        self._buckets_of: OrderedDict[tuple[int, int], frozenset[int]] = OrderedDict()
        self._refreshed_s: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"Looking({self._keyspace}, slots={len(self._buckets_of)})"

    async def versions(self, link: Link, lane: int, gens: Mapping[int, int]) -> dict[int, dict[bytes, int]]:
        """Returns the version of every order of each slot of a lane (slot to gen), by order id.

        Buckets known from the last time are not waited for to be named.
        """
        own = await self._statements(link)
        window = await self.window(link, lane)  # first: the index, asked below, is complete up to here
        known = {slot: self._buckets_of.get(item, frozenset()).union(window) for slot, item in _items(gens)}
        indexed, told = await asyncio.gather(self.indexed(link, gens), self._told(link, own, lane, gens, known))
        new = {slot: indexed[slot] - known[slot] for slot in gens}
        told += await self._told(link, own, lane, gens, new)
        for slot, item in _items(gens):
            self._buckets_of[item] = indexed[slot]
            self._buckets_of.move_to_end(item)
        while len(self._buckets_of) > max(_REMEMBERED_MAX, len(gens)):
            self._buckets_of.popitem(last=False)
        versions: dict[int, dict[bytes, int]] = {slot: {} for slot in gens}
        for found, _, order_id, version in told:
            if order_id is not None:  # of a partition that only has its seal
                versions[cast("int", found)][cast("bytes", order_id)] = cast("int", version)
        return versions

    async def window(self, link: Link, lane: int) -> range:
        """Returns the buckets whose orders need not be indexed yet; some that are may be among them."""
        now_s = time.monotonic()
        if now_s - self._refreshed_s.get(lane, -_WATERMARK_S) >= _WATERMARK_S:
            await self._indexer.refresh(lane)
            self._refreshed_s[lane] = now_s
        watermark = await self._indexer.watermark(lane)
        return range(max(watermark + 1, link.facts.first_bucket), self._clock_ms() // _BUCKET_MS + 2)

    async def indexed(self, link: Link, gens: Mapping[int, int]) -> dict[int, frozenset[int]]:
        """Returns the buckets that the index names of each slot (slot to gen)."""
        own = await self._statements(link)
        by_gen: dict[int, list[int]] = {}
        for slot, gen in gens.items():
            by_gen.setdefault(gen, []).append(slot)

        async def one(asked: tuple[list[int], int]) -> Sequence[tuple[object, ...]]:
            slots, gen = asked
            return await link.session.execute(own.indexed, (*slots, gen), Kind.READ)

        found = await each([(slots, gen) for gen, group in by_gen.items() for slots in named(group)], one)
        buckets: dict[int, set[int]] = {slot: set() for slot in gens}
        for row in (row for rows in found for row in rows):
            buckets[cast("int", row[0])].add(cast("int", row[1]))
        return {slot: frozenset(named) for slot, named in buckets.items()}

    async def _told(
        self, link: Link, own: _Statements, lane: int, gens: Mapping[int, int], wanted: Mapping[int, Iterable[int]]
    ) -> list[tuple[object, ...]]:
        """Returns slot, gen, order id and version of the orders in the wanted buckets of each slot."""

        async def one(asked: tuple[list[int], list[int]]) -> Sequence[tuple[object, ...]]:
            buckets, slots = asked
            items = [number for slot in slots for number in (slot, gens[slot])]
            return await link.session.execute(own.versions, (lane, *buckets, *items), Kind.READ)

        groups = [(b, s) for buckets, slots in together(wanted) for b in named(buckets) for s in named(slots)]
        found = await each(groups, one)
        return [row for rows in found for row in rows]

    async def _statements(self, link: Link) -> _Statements:
        if self._prepared is None or self._prepared[0] is not link.session:
            texts = [text.replace(" ks.", f" {self._keyspace}.") for text in _TEXTS.values()]
            texts = [text.replace("(buckets)", BUCKETS).replace("(items)", _ITEMS) for text in texts]
            prepared = await asyncio.gather(*(link.session.prepare(" ".join(text.split())) for text in texts))
            self._prepared = (link.session, _Statements(**dict(zip(_TEXTS, prepared, strict=True))))
        return self._prepared[1]


def together(wanted: Mapping[int, Iterable[int]]) -> list[tuple[list[int], list[int]]]:
    """Returns which buckets are looked into for which slots at once: together they are all that are wanted. Pure.

    Buckets that more than half of the slots want are looked into for all of them; looking for orders where none are
    costs less than a statement. The others, for each slot by itself.
    """
    counted = Counter(bucket for buckets in wanted.values() for bucket in set(buckets))
    shared = {bucket for bucket, slots in counted.items() if slots > len(wanted) / 2}
    groups = [(sorted(shared), sorted(wanted))] if shared else []
    groups += [(sorted(own), [slot]) for slot, buckets in wanted.items() if (own := set(buckets) - shared)]
    return groups


def named(numbers: Iterable[int]) -> list[list[int]]:
    """Returns numbers as statements name them: ``_NAMED_MAX`` each."""
    todo = sorted(numbers)
    groups = [todo[start : start + _NAMED_MAX] for start in range(0, len(todo), _NAMED_MAX)]
    return [group + group[-1:] * (_NAMED_MAX - len(group)) for group in groups]


def _items(gens: Mapping[int, int]) -> list[tuple[int, tuple[int, int]]]:
    return [(slot, (slot, gen)) for slot, gen in gens.items()]


async def each(items: Iterable[T], call: Callable[[T], Awaitable[R]]) -> list[R]:
    """Returns what a call answers for each item, ``_AT_ONCE_MAX`` at a time; when one fails the rest is given up."""
    todo = list(items)
    answers: dict[int, R] = {}
    numbers = iter(range(len(todo)))

    async def work() -> None:
        for number in numbers:
            answers[number] = await call(todo[number])

    workers = [asyncio.ensure_future(work()) for _ in range(min(_AT_ONCE_MAX, len(todo)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers)
    return [answers[number] for number in range(len(todo))]
