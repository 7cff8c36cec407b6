"""Copies slots from one shard to another while they are used, round by round, and compares the two.

A round asks the source for the versions of all orders and reads those that are new to it. So each round copies what
changed during the one before, and the last one, when nothing changes any more, little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from shards.contract import BUCKET_S, Copies, Row, StoreError
from shards.keys import Key, bucket_of, key_of
from shards.rebalance.digest import SlotDigest
from shards.rebalance.record import Move
from shards.rebalance.throttle import Throttle

T = TypeVar("T")
R = TypeVar("R")

CHUNK_ROWS: Final = 256
"""Rows read and placed at once."""

CHUNKS_AT_ONCE: Final = 3
"""Chunks under way at once, between one source and one target."""

DIFFERING_MAX: Final = 8
"""Orders of a slot that are named when copies differ."""


class Copying:
    """Slots on their way from one source to one target, under one gen. Raises ``StoreError``; may then go on."""

    def __init__(self, source: Copies, target: Copies, moves: Sequence[Move], gen: int, throttle: Throttle) -> None:
        self._source: Final = source
        self._target: Final = target
        self._moves: Final = {move.slot: move for move in moves}
        self._gen: Final = gen
        self._throttle: Final = throttle
        self._read: Final = {move.slot: SlotDigest() for move in moves}
        self._copied: Final = {move.slot: SlotDigest() for move in moves}
        self._unverified: dict[bytes, int] = {}  # placed and not yet read back: order id to slot
        self.rows_placed = 0
        self.rows_verified = 0

    def __repr__(self) -> str:
        return f"Copying(slots={list(self._moves)}, gen={self._gen}, placed={self.rows_placed})"

    @property
    def rows(self) -> int:
        """Orders known on the source."""
        return sum(len(digest) for digest in self._read.values())

    async def round(self, slots: Container[int], *, is_hurried: bool = False) -> int:
        """Copies what the source has of these slots and the target has not; returns how many rows.

        Hurried: without the throttle.
        """
        chunks = list(_chunks(await self._changed(slots), CHUNK_ROWS))

        async def one(keys: list[Key]) -> None:
            if not is_hurried:
                await self._throttle.take(len(keys))
            rows = [_there(key, row) for key, row in zip(keys, await self._source.rows(keys), strict=True)]
            known = {key.order_id: self._copied[key.slot].version(key.order_id) for key in keys}
            copies = [row._replace(key=row.key._replace(gen=self._gen)) for row in rows]
            await self._target.place(copies, known)
            for row in rows:
                self._read[row.key.slot].put(row)
                self._unverified[row.key.order_id] = row.key.slot
            self.rows_placed += len(rows)

        await _side_by_side(chunks, one)
        return sum(map(len, chunks))

    async def verify(self, *, is_hurried: bool = False) -> None:
        """Reads back, in full, every copy that was placed and not read since."""

        async def one(order_ids: list[bytes]) -> None:
            if not is_hurried:
                await self._throttle.take(len(order_ids))
            await self._read_back(order_ids)

        await _side_by_side(_chunks(self._unverified, CHUNK_ROWS), one)

    async def look(self) -> None:
        """Asks the target what it has, so that copies that are missing, or should not be there, differ from then on."""
        told = await self._target.versions(dict.fromkeys(self._copied, self._gen))
        for slot, copied in self._copied.items():
            for order_ids in _chunks(copied.stale(told[slot]), CHUNK_ROWS):
                await self._read_back(order_ids)

    def differing(self, slots: Container[int]) -> dict[int, list[bytes]]:
        """Returns those slots whose copies, as read back, differ from the source as it was read; names some orders."""
        return {
            slot: differing[:DIFFERING_MAX]
            for slot, copied in self._copied.items()
            if slot in slots and (differing := self._read[slot].differing(copied))
        }

    def read_of(self, moves: Iterable[Move]) -> dict[Move, SlotDigest]:
        """Returns what was read of those of the slots that are copied here."""
        return {move: self._read[move.slot] for move in moves if move.slot in self._read}

    async def _changed(self, slots: Container[int]) -> list[Key]:
        """Returns the keys of the orders that the source has in another version than was read, bucket by bucket."""
        changed: list[Key] = []
        moves = {slot: move for slot, move in self._moves.items() if slot in slots}
        told = await self._source.versions({slot: move.old_gen for slot, move in moves.items()})
        for slot, move in moves.items():
            versions = told[slot]
            stale = self._read[slot].stale(versions)
            if missing := [order_id for order_id in stale if order_id not in versions]:
                raise StoreError(f"slot {slot}: {len(missing)} orders that were on the source are gone from it")
            changed += [key_of(order_id, move.old_gen) for order_id in stale]
        # orders of one bucket are placed together, whatever slot they are of: on a Cassandra shard it is one partition
        changed.sort(key=lambda key: (bucket_of(key.order_id, BUCKET_S), key.slot, key.tag, key.order_id))
        return changed

    async def _read_back(self, order_ids: Iterable[bytes]) -> None:
        keys = [key_of(order_id, self._gen) for order_id in order_ids]
        for key, row in zip(keys, await self._target.rows(keys), strict=True):
            if row is None:
                self._copied[key.slot].remove(key.order_id)
            else:
                self._copied[key.slot].put(row)
            self._unverified.pop(key.order_id, None)
        self.rows_verified += len(keys)


def _there(key: Key, row: Row | None) -> Row:
    if row is None:
        raise StoreError(f"slot {key.slot}: order {key.order_id.hex()} has a version on the source, and no row")
    return row


async def _side_by_side(chunks: Iterable[list[T]], call: Callable[[list[T]], Awaitable[None]]) -> None:
    """Calls for each chunk, so that one shard reads while the other writes; when one fails the rest is given up."""
    todo = iter(list(chunks))

    async def work() -> None:
        for chunk in todo:
            await call(chunk)

    await all_of(work() for _ in range(CHUNKS_AT_ONCE))


async def all_of(works: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """Returns what each of these returns, in order; when one fails the others have ended before its error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    todo = list(items)
    for start in range(0, len(todo), size):
        yield todo[start : start + size]
