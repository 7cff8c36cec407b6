"""A store that passes everything on: what a wrapper starts from."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from shards.contract import CommitLimits, Consistency, Outcome, Row, Store
from shards.keys import Key


class Passing:
    """Does what the store inside does. Obeys ``shards.contract.Store``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r})"

    @property
    def limits(self) -> CommitLimits:
        """What one commit may hold."""
        return self._store.limits

    def lane(self, key: Key) -> Hashable:
        """Returns the lane of a key."""
        return self._store.lane(key)

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane."""
        return await self._store.commit(rows)

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """Returns the row of each key."""
        return await self._store.read(keys, consistency)

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """Returns the customer's rows, newest first."""
        return await self._store.list_customer(customer, slot, gen, tag, before, rows_max)

    async def seal(self, key: Key) -> None:
        """Seals the bucket of a key."""
        await self._store.seal(key)

    async def close(self) -> None:
        """Closes the store inside."""
        await self._store.close()
