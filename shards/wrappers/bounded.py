"""A store that is read by so many at once and no more."""

from __future__ import annotations

from collections.abc import Sequence

from shards.contract import Consistency, Overloaded, Row, Store
from shards.keys import Key
from shards.wrappers.passing import Passing


class BoundedStore(Passing):
    """Refuses reads beyond ``reads_max`` rows under way (a list counts as one) with ``Overloaded``, at once.

    A single read is never too large: it is let in whenever there is any room. Writes are bounded by their lanes.
    """

    def __init__(self, store: Store, *, reads_max: int) -> None:
        super().__init__(store)
        self._reads_max = reads_max
        self._reads = 0

    def __repr__(self) -> str:
        return f"BoundedStore({self._store!r}, reads={self._reads}/{self._reads_max})"

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """Returns the row of each key."""
        self._enter(len(keys))
        try:
            return await self._store.read(keys, consistency)
        finally:
            self._reads -= len(keys)

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """Returns the customer's rows, newest first."""
        self._enter(1)
        try:
            return await self._store.list_customer(customer, slot, gen, tag, before, rows_max)
        finally:
            self._reads -= 1

    def _enter(self, reads: int) -> None:
        if self._reads >= self._reads_max:
            raise Overloaded(f"{self._reads} reads are under way, the most allowed")
        self._reads += reads
