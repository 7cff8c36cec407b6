"""Stores without a disk: one that obeys the contract, and one whose every call waits for the test."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, TypeVar

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

_T = TypeVar("_T")

LIMITS: Final = CommitLimits(rows_max=128, bytes_max=1 << 20, in_flight_max=1)


class MemoryStore(Store):
    """Obeys the contract in memory, and asserts that its caller does.

    ``lanes``: rows are spread over so many by their slot. ``all_or_nothing``: when a row of a commit is refused, no row
    of it is stored and the others are DEFERRED, as a conditional batch does.
    """

    def __init__(self, limits: CommitLimits = LIMITS, *, lanes: int = 1, all_or_nothing: bool = False) -> None:
        self._limits = limits
        self._lanes = self.lanes = lanes
        self._all_or_nothing = all_or_nothing
        self.rows: dict[Key, Row] = {}
        self.history: set[Row] = set()
        """Every row that was ever stored."""
        self.sealed: set[tuple[Hashable, int]] = set()
        self.closed = 0

    @property
    def limits(self) -> CommitLimits:
        """What one commit may hold."""
        return self._limits

    def lane(self, key: Key) -> Hashable:
        """The lane of a key."""
        return key.slot % self._lanes

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane."""
        self.check(rows)
        return self.apply(rows)

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """The row of each key; memory is always current."""
        assert isinstance(consistency, Consistency)
        return [self.rows.get(key) for key in keys]

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """A customer's rows, newest first."""
        found = [row for row in self.rows.values() if (row.customer, row.key[:3]) == (customer, (slot, gen, tag))]
        found.sort(key=lambda row: row.key.order_id, reverse=True)
        return [row for row in found if before is None or row.key.order_id < before][:rows_max]

    async def seal(self, key: Key) -> None:
        """Seals the bucket of a key."""
        self.sealed.add(self.place(key))

    async def close(self) -> None:
        """Counts how often it was called."""
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

    def __init__(self, name: str, items: Sequence[Any]) -> None:
        self.name = name
        self.items = items
        self.error: Exception | None = None
        self.takes_effect = True
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def go(self) -> None:
        """Lets the call do what it does."""
        self.answered.set_result(None)

    def fail(self, error: Exception, *, takes_effect: bool = False) -> None:
        """Makes the call raise; it has done what it does all the same when ``takes_effect``."""
        self.error, self.takes_effect = error, takes_effect
        self.answered.set_result(None)


class HeldStore(MemoryStore):
    """Every commit, read and seal waits until the test takes it with ``next_call`` and answers it."""

    def __init__(self, limits: CommitLimits = LIMITS, *, lanes: int = 1, all_or_nothing: bool = False) -> None:
        super().__init__(limits, lanes=lanes, all_or_nothing=all_or_nothing)
        self.calls: asyncio.Queue[Call] = asyncio.Queue()

    async def next_call(self, name: str) -> Call:
        """The oldest call not yet taken, which must be a commit, read or seal as named."""
        call = await asyncio.wait_for(self.calls.get(), timeout=60)
        assert call.name == name
        return call

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane."""
        self.check(rows)
        return await self._hold("commit", rows, lambda: self.apply(rows))

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """The row of each key; memory is always current."""
        assert isinstance(consistency, Consistency)
        return await self._hold("read", keys, lambda: [self.rows.get(key) for key in keys])

    async def seal(self, key: Key) -> None:
        """Seals the bucket of a key."""
        await self._hold("seal", [key], lambda: self.sealed.add(self.place(key)))

    async def _hold(self, name: str, items: Sequence[Any], act: Callable[[], _T]) -> _T:
        call = Call(name, items)
        self.calls.put_nowait(call)
        await call.answered
        if call.error is None:
            return act()
        if call.takes_effect:
            act()
        raise call.error
