"""Stores without a disk: one that obeys the contract, and one whose every call waits for the test."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from shards.contract import (
    APPLIED,
    BUCKET_S,
    DEFERRED,
    SEALED,
    CommitLimits,
    Consistency,
    Outcome,
    Row,
    Store,
    Verdict,
)
from shards.keys import Key, bucket_of


class MemoryStore(Store):
    """Obeys the contract in memory, and asserts that its caller does.

    ``lanes``: rows are spread over so many by their slot. ``all_or_nothing``: when a row of a commit is refused, no row
    of it is stored and the others are DEFERRED, as a conditional batch does.
    """

    def __init__(
        self, limits: CommitLimits = CommitLimits(128, 1 << 20, 1), *, lanes: int = 1, all_or_nothing: bool = False
    ) -> None:
        self._limits = limits
        self._lanes = lanes
        self._all_or_nothing = all_or_nothing
        self.rows: dict[Key, Row] = {}
        self.history: set[Row] = set()
        """Every row that was ever stored."""
        self.sealed: set[tuple[Hashable, int]] = set()
        self.closed = 0

    @property
    def limits(self) -> CommitLimits:
        return self._limits

    def lane(self, key: Key) -> Hashable:
        return key.slot % self._lanes

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        self.check(rows)
        return self.apply(rows)

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        return [self.rows.get(key) for key in keys]

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        found = [row for row in self.rows.values() if (row.customer, row.key[:3]) == (customer, (slot, gen, tag))]
        found.sort(key=lambda row: row.key.order_id, reverse=True)
        return [row for row in found if before is None or row.key.order_id < before][:rows_max]

    async def seal(self, key: Key) -> None:
        self.sealed.add(self.place(key))

    async def close(self) -> None:
        self.closed += 1

    def place(self, key: Key) -> tuple[Hashable, int]:
        """What a seal of this key closes."""
        return self.lane(key), bucket_of(key.order_id, BUCKET_S)

    def check(self, rows: Sequence[Row]) -> None:
        """Asserts what the contract asks of who commits."""
        assert 1 <= len(rows) <= self.limits.rows_max
        assert len(rows) == 1 or sum(len(row.body) + len(row.marks) for row in rows) <= self.limits.bytes_max
        assert len({row.key.order_id for row in rows}) == len(rows), "two operations of one order in a commit"
        assert len({self.lane(row.key) for row in rows}) == 1, "rows of several lanes in a commit"

    def apply(self, rows: Sequence[Row]) -> list[Outcome]:
        """Stores the rows by law 1."""
        outcomes = [self._judge(row) for row in rows]
        if self._all_or_nothing and any(outcome is not APPLIED for outcome in outcomes):
            return [DEFERRED if outcome is APPLIED else outcome for outcome in outcomes]
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is APPLIED:
                self.rows[row.key] = row
                self.history.add(row)
        return outcomes

    def _judge(self, row: Row) -> Outcome:
        present = self.rows.get(row.key)
        if (0 if present is None else present.version) != row.version - 1:
            return Outcome(Verdict.CLASH, present)
        return SEALED if row.version == 1 and self.place(row.key) in self.sealed else APPLIED


class Call:
    """One call of a ``HeldStore``; what it answers is the test's to say."""

    def __init__(self, name: str, items: Sequence[Any], answer: Callable[[], Any]) -> None:
        self.name = name
        self.items = items
        self._answer = answer
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: Exception | None = None
        self._takes_effect = True

    def go(self) -> None:
        """Lets the call do what it does."""
        self.done.set_result(None)

    def fail(self, error: Exception, *, takes_effect: bool = False) -> None:
        """Makes the call raise; it has done what it does all the same when ``takes_effect``."""
        self._error, self._takes_effect = error, takes_effect
        self.done.set_result(None)

    async def finish(self) -> Any:
        """What the store awaits."""
        await self.done
        result = self._answer() if self._takes_effect else None
        if self._error is not None:
            raise self._error
        return result


class HeldStore(MemoryStore):
    """Every commit, read and seal waits until the test takes it with ``next_call`` and answers it."""

    def __init__(
        self, limits: CommitLimits = CommitLimits(128, 1 << 20, 1), *, lanes: int = 1, all_or_nothing: bool = False
    ) -> None:
        super().__init__(limits, lanes=lanes, all_or_nothing=all_or_nothing)
        self.calls: asyncio.Queue[Call] = asyncio.Queue()

    async def next_call(self, name: str) -> Call:
        """The oldest call not yet taken, which must be a commit, read or seal as named."""
        call = await asyncio.wait_for(self.calls.get(), timeout=10)
        assert call.name == name
        return call

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        self.check(rows)
        return await self._hold("commit", rows, lambda: self.apply(rows))

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        return await self._hold("read", keys, lambda: [self.rows.get(key) for key in keys])

    async def seal(self, key: Key) -> None:
        await self._hold("seal", [key], lambda: self.sealed.add(self.place(key)))

    async def _hold(self, name: str, items: Sequence[Any], answer: Callable[[], Any]) -> Any:
        call = Call(name, items, answer)
        self.calls.put_nowait(call)
        return await call.finish()
