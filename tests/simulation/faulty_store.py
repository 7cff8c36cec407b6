"""A store that obeys the contract and is as unhelpful as the contract allows."""

import asyncio
import math
import random
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from shards.contract import (
    APPLIED,
    CommitLimits,
    Consistency,
    Full,
    Invalid,
    Outcome,
    OutcomeUnknown,
    Overloaded,
    Row,
    StoreError,
    Unavailable,
)
from shards.keys import Key
from shards.wrappers.passing import Passing
from tests.simulation.ledger import Ledger
from tests.support.memory_store import MemoryStore

POISON: Final = b"poison"
"""A row with this body can never be stored."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How often a call goes wrong (0-1), and how long calls take (seconds)."""

    refused: float
    lost: float
    read_fails: float
    delay_s: float
    late_s: float
    """A commit whose reply was lost may land up to so much later."""


class FaultyStore(MemoryStore):
    """Delays, refuses, loses replies, and lets writes land late, until a STRONG read or a seal settles them.

    Laws 1 to 6 hold: whatever it says is true, and what it does not say is anybody's guess.
    """

    def __init__(
        self,
        chance: random.Random,
        faults: Faults,
        ledger: Ledger,
        limits: CommitLimits,
        *,
        lanes: int,
        all_or_nothing: bool,
    ) -> None:
        super().__init__(limits, lanes=lanes, all_or_nothing=all_or_nothing)
        self._ledger = ledger
        self._chance = chance
        self._faults = faults
        self._late: list[Sequence[Row]] = []
        self.lowered_at = -math.inf
        """When its limits became smaller: what was taken in that very moment may exceed them."""

    def lower_limits(self) -> None:
        """Takes half as much at once from now on, as a store whose nodes have told what they take."""
        rows_max, bytes_max, in_flight_max = self._limits
        self._limits = CommitLimits(max(1, rows_max // 2), max(100, bytes_max // 2), in_flight_max)
        self.lowered_at = time.monotonic()

    def calm(self) -> None:
        """Does nothing wrong from now on; what is still to land lands."""
        self._faults = Faults(refused=0, lost=0, read_fails=0, delay_s=self._faults.delay_s, late_s=0)

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows, or not, and says so, or not."""
        await self._delay()
        if any(row.body == POISON for row in rows):
            raise Invalid("poison")
        if self._happens(self._faults.refused):
            raise self._chance.choice([Unavailable, Full, Overloaded, Invalid])("refused")
        if self._happens(self._faults.lost):
            match self._chance.randrange(3):
                case 0:
                    self.apply(rows)
                case 1:
                    self._late.append(rows)
                    land_in_s = self._chance.uniform(0, self._faults.late_s)
                    asyncio.get_running_loop().call_later(land_in_s, self._land, rows)
            raise self._chance.choice([StoreError, OutcomeUnknown, OSError])("lost")
        outcomes = self.apply(rows)
        await self._delay()
        return outcomes

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """The rows as they are at one moment during the call."""
        await self._delay()
        if self._happens(self._faults.read_fails):
            raise self._chance.choice([Unavailable, StoreError])("no answer")
        if consistency is Consistency.STRONG:
            self._settle([rows for rows in self._late if any(row.key in keys for row in rows)])
        found = [self.rows.get(key) for key in keys]
        await self._delay()
        return found

    async def list_customer(
        self, customer: str, slot: int, gen: int, tag: int, before: bytes | None, rows_max: int
    ) -> Sequence[Row]:
        """A customer's rows as they are at one moment during the call."""
        await self._delay()
        return await super().list_customer(customer, slot, gen, tag, before, rows_max)

    async def seal(self, key: Key) -> None:
        """Seals, having settled what was under way; the reply may be lost."""
        await self._delay()
        place = self.place(key)
        self._settle([rows for rows in self._late if any(self.place(row.key) == place for row in rows)])
        self.sealed.add(place)
        if self._happens(self._faults.lost):
            raise StoreError("lost")

    def apply(self, rows: Sequence[Row]) -> list[Outcome]:
        """Stores the rows by law 1, and enters them into the ledger."""
        outcomes = super().apply(rows)
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is APPLIED:
                self._ledger.stored(row)
        return outcomes

    def _land(self, rows: Sequence[Row]) -> None:
        if any(late is rows for late in self._late):
            self._forget(rows)
            self.apply(rows)

    def _settle(self, late: Sequence[Sequence[Row]]) -> None:
        for rows in late:
            if self._happens(0.5):
                self._land(rows)
            else:
                self._forget(rows)

    def _forget(self, rows: Sequence[Row]) -> None:
        self._late = [late for late in self._late if late is not rows]

    def _happens(self, probability: float) -> bool:
        return self._chance.random() < probability

    async def _delay(self) -> None:
        slow = 20 if self._happens(0.02) else 1
        seconds = self._chance.uniform(0, self._faults.delay_s) * slow
        await asyncio.sleep(seconds)  # sleep: simulated, this is the store's work


class Guard(Passing):
    """One worker's way to a store; notes when that worker asks what the contract forbids."""

    def __init__(self, store: FaultyStore, ledger: Ledger) -> None:
        super().__init__(store)
        self._memory = store
        self._ledger = ledger
        self._lanes: list[Hashable] = []

    async def commit(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Stores rows of one lane."""
        try:
            self._memory.check(rows)
        except AssertionError as error:
            if self._memory.lowered_at < time.monotonic():
                self._ledger.note(f"a commit that the contract forbids: {error}")
        lane = self.lane(rows[0].key)
        self._ledger.expect(lane not in self._lanes, "two commits of one lane at once")
        self._ledger.expect(len(self._lanes) < self.limits.in_flight_max, "too many commits at once")
        self._lanes.append(lane)
        try:
            return await super().commit(rows)
        finally:
            self._lanes.remove(lane)
