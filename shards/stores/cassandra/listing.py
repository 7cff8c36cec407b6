"""A customer's orders, newest first: complete and read-your-writes, though the index is written behind.

Orders are looked for in every bucket that the index may not know yet (those after the watermark, up to one ahead of
now) and in those that the index names. The watermark is known before the index is read; so whatever bucket it passes
meanwhile is looked into all the same, and whatever it had passed before is in the index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, cast

from shards.contract import BUCKET_S, Row
from shards.keys import bucket_of
from shards.stores.cassandra.reads import row_of
from shards.stores.cassandra.session import Kind, Session
from shards.stores.cassandra.statements import Statements

_BUCKETS_AT_ONCE: Final = 8
_INDEX_PAGE: Final = 256
_BUCKET_MAX: Final = 2**31 - 1
_ABOVE_ALL: Final = b"\xff" * 17  # longer than any order id, so above all of them


class Customer(NamedTuple):
    """Whose orders, and where they are."""

    name: str
    slot: int
    gen: int
    tag: int


class Window(NamedTuple):
    """The buckets that the index need not know, both ends included."""

    first: int
    last: int


class Listing:
    """Lists customers' orders in one lane's partitions."""

    def __init__(self, session: Session, statements: Statements, lane: int) -> None:
        self._session = session
        self._statements = statements
        self._lane = lane

    async def newest(self, customer: Customer, window: Window, before: bytes | None, rows_max: int) -> list[Row]:
        """Returns the rows below ``before`` by descending id, at most ``rows_max``. Raises ``StoreError``."""
        top = _BUCKET_MAX if before is None else bucket_of(before, BUCKET_S)
        rows: list[Row] = []
        first, last = window.first, min(window.last, top)
        upper = top + 1
        while True:
            indexed = await self._indexed(customer, upper)
            # this page of the index speaks for the buckets from its last one up; at its end, for all
            lower = indexed[-1] if len(indexed) == _INDEX_PAGE else 0
            for group in _groups(_merge(indexed, first, min(last, upper - 1), lower)):
                slices = await asyncio.gather(
                    *(self._slice(customer, bucket, before, rows_max - len(rows)) for bucket in group)
                )
                for found in slices:
                    rows += found
                if len(rows) >= rows_max:
                    return rows[:rows_max]
            if lower == 0:
                return rows
            upper = lower

    async def _indexed(self, customer: Customer, below: int) -> list[int]:
        _, slot, gen, tag = customer
        bound = (slot, gen, tag, min(below, _BUCKET_MAX), _INDEX_PAGE)
        found = await self._session.execute(self._statements.buckets_below, bound, Kind.READ)
        return [cast("int", bucket) for (bucket,) in found]

    async def _slice(self, customer: Customer, bucket: int, before: bytes | None, rows_max: int) -> list[Row]:
        """Returns the customer's rows of one bucket, newest first. Another customer of the same tag is left out."""
        name, slot, gen, tag = customer
        below = _ABOVE_ALL if before is None else before
        rows: list[Row] = []
        while True:
            bound = (self._lane, bucket, slot, gen, tag, below, rows_max)
            found = await self._session.execute(self._statements.slice, bound, Kind.READ)
            for columns in found:
                row = row_of(columns)
                if row.customer == name:
                    rows.append(row)
            if len(found) < rows_max or len(rows) >= rows_max:
                return rows
            below = cast("bytes", found[-1][3])


def _merge(indexed: Sequence[int], first: int, last: int, lower: int) -> Iterator[int]:
    """Yields buckets, descending and each once: those indexed, and those of the window from ``lower`` up."""
    unindexed = range(last, max(first, lower) - 1, -1)
    named = iter(indexed)
    following = next(named, None)
    for bucket in unindexed:
        while following is not None and following > bucket:
            yield following
            following = next(named, None)
        if following == bucket:
            following = next(named, None)
        yield bucket
    if following is not None:
        yield following
        yield from named


def _groups(buckets: Iterator[int]) -> Iterator[list[int]]:
    """Yields buckets so many at a time as are looked into at once."""
    group: list[int] = []
    for bucket in buckets:
        group.append(bucket)
        if len(group) == _BUCKETS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
