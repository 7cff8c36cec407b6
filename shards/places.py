"""Where each slot is served from, and whether it is: what an operation notes when it begins and looks at when it ends.

A slot's *place* is an object of its own, replaced whenever the slot moves or is paused. An operation may be answered
only if the place it began at is still its slot's, and the lease on its shard is still held. Otherwise it waits at the
slot's gate until the slot is served again, and runs once more where the slot is then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from shards.contract import DeadlineExceeded, Observer, Outcome, Overloaded, Row, Store, StoreError, Unavailable
from shards.judging import Asker, in_doubt
from shards.keys import SLOTS, Key
from shards.leases.hold import Hold, boottime_s
from shards.topology import Topology

FINISH_S: Final = 0.05
"""For so long operations that had begun may finish when their slot is paused; those that do not run again after it."""

SETTLE_S: Final = 0.25
"""For so long writes may, and those whose callers have left without an answer: what reaches the store later than the
slots are copied stays behind there. Nobody was told of it, but it is seen when copies are compared."""

_LOOK_S: Final = 0.004  # between two looks whether they have

LEASE_WAIT_S: Final = 0.5
"""For so long an operation waits for a lease that has run out; a worker that was frozen has it back by then."""

RUNS_MAX: Final = 16
"""Runs of one operation: each but the first because its slot moved, or was paused, meanwhile."""

WAITERS_MAX: Final = 8_192
"""Operations that wait at all gates of a worker together; more are refused."""


class LeaseLost(Unavailable):
    """This worker may not answer for the shard at present: its lease could not be renewed. Nothing was written."""


class Sealing(Protocol):
    """Knows when the bucket of an id is to be sealed, and does it (see ``shards.wrappers.seals``)."""

    def is_due(self, order_id: bytes) -> bool:
        """Tells whether the bucket of an order id is old enough to be sealed."""

    async def ensure(self, key: Key) -> None:
        """Returns when the bucket of a key is sealed. Raises ``StoreError``; no order was written."""


class Writing(Protocol):
    """What rows are written to: the lanes of a shard, or what stands before them."""

    def write(self, row: Row, deadline: float) -> asyncio.Future[Outcome]:
        """See ``shards.lanes.Lanes``."""

    def put(self, row: Row, deadline: float, outcome: Asker) -> None:
        """See ``shards.lanes.Lanes``."""

    async def close(self) -> None:
        """See ``shards.lanes.Lanes``."""


class Shard(NamedTuple):
    """What the router needs of one shard."""

    lanes: Writing
    """Where its writes go."""
    store: Store
    """Where its reads go."""
    seals: Sealing
    """What old ids must pass before they create."""


class Place:
    """One stay of one slot. Whoever holds it knows that the slot was served from here when it took it."""

    __slots__ = (
        "_doubted_s",
        "_is_past",
        "_passed",
        "gen",
        "hold",
        "is_paused",
        "shard",
        "shard_id",
        "under_way",
        "writing",
    )

    def __init__(self, shard_id: int, shard: Shard | None, hold: Hold, gen: int, *, is_paused: bool) -> None:
        """``shard`` None: it is not open in this worker."""
        self.shard_id = shard_id
        self.shard = shard
        self.hold = hold
        self.gen = gen
        self.is_paused = is_paused
        """Nothing begins here."""
        self.under_way = 0
        """Operations that began here and have not ended."""
        self.writing = 0
        """Of them, those that write."""
        self._doubted_s = float("-inf")
        self._is_past = False
        self._passed: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"Place(shard={self.shard_id}, gen={self.gen}, under_way={self.under_way}{', paused' * self.is_paused})"

    def end(self) -> None:
        """Notes that a read that began here has ended."""
        self.under_way -= 1

    def end_write(self, *, is_settled: bool) -> None:
        """Notes that a write that began here has ended; not settled: it may yet be stored."""
        self.under_way -= 1
        self.writing -= 1
        if not is_settled:
            self._doubted_s = time.monotonic()

    def is_busy(self, waited_s: float) -> bool:
        """Tells whether a pause that has waited so long is to go on waiting for what began here."""
        if self.under_way and waited_s < (SETTLE_S if self.writing else FINISH_S):
            return True
        return time.monotonic() < self._doubted_s + SETTLE_S

    async def passed(self) -> None:
        """Returns when this is no longer the slot's place."""
        if self._passed is None:
            self._passed = asyncio.Event()
        if not self._is_past:
            await self._passed.wait()

    def passes(self) -> None:
        """Notes that another place has taken over, and lets those go on who wait for that."""
        self._is_past = True
        if self._passed is not None:
            self._passed.set()


class Places:
    """The places of all slots. For one event loop; changed by the keepers of leases and by whoever knows the topology.

    ``slots`` holds the place of each slot. It is a list that stays the same one, so that the router may keep it.
    """

    def __init__(
        self,
        topology: Topology,
        shards: Mapping[int, Shard],
        observer: Observer,
        holds: Mapping[int, Hold] | None = None,
    ) -> None:
        """``holds``: of each shard; None for shards that nobody moves, so that there are no leases."""
        self._observer = observer
        self._shards = dict(shards)
        self._holds = {shard: Hold(float("inf")) for shard in shards} if holds is None else dict(holds)
        self._paused: dict[int, frozenset[int]] = {}
        self._paused_since: dict[int, float] = {}  # by slot
        self._opened: dict[int, tuple[int, int]] = {}  # by slot: shard and gen, where the topology does not say so yet
        self._waiters = 0
        self.topology = topology
        self.slots = [self._place(slot) for slot in range(SLOTS)]

    def __repr__(self) -> str:
        paused = sum(place.is_paused for place in self.slots)
        shards = ", ".join(f"{number}: {shard.lanes!r}" for number, shard in self._shards.items())
        return f"{self.topology!r}, paused={paused}, waiting={self._waiters}/{WAITERS_MAX}, {{{shards}}}"

    def hold(self, shard: int) -> Hold:
        """Returns what the lease on a shard allows, known from then on."""
        return self._holds.setdefault(shard, Hold())

    # --------------------------------------------------------------------------------------------------------- changing

    def opened(self, number: int, shard: Shard) -> None:
        """Takes a shard into use."""
        self._shards[number] = shard
        for slot, place in enumerate(self.slots):
            if place.shard_id == number:
                self._replace(slot)

    def forget(self, number: int) -> None:
        """Gives up a shard, which no slot of the topology is on."""
        assert number not in self.topology.slot_shards, "a shard with slots is in use"
        self._shards.pop(number, None)
        self._holds.pop(number, None)
        self._paused.pop(number, None)

    def adopt(self, topology: Topology) -> None:
        """Acts under a later topology from now on: slots that moved are served from where they are."""
        if topology.epoch <= self.topology.epoch:
            return
        self.topology = topology
        self._opened = {slot: there for slot, there in self._opened.items() if there[1] > topology.slot_gens[slot]}
        for slot, place in enumerate(self.slots):
            there = topology.slot_shards[slot], topology.slot_gens[slot]
            if (place.shard_id, place.gen) != self._opened.get(slot, there):
                self._replace(slot)

    async def pause(self, shard: int, paused: frozenset[int]) -> None:
        """See ``shards.leases.keeper.Slots``. Slots that are not on the shard wait for nobody there."""
        self._paused[shard] = self._paused.get(shard, frozenset()) | paused
        closing = [
            (slot, place) for slot in paused if (place := self.slots[slot]).shard_id == shard and not place.is_paused
        ]
        if not closing:
            return
        now_s = time.monotonic()
        for slot, place in closing:
            place.is_paused = True
            self._paused_since[slot] = now_s
        await _finish([place for _, place in closing])
        for slot, place in closing:
            if self.slots[slot] is place:  # else the topology has taken it elsewhere meanwhile
                self._replace(slot)
        self._observer.slots_paused(shard, len(self._paused[shard]))

    def serve(self, shard: int, paused: frozenset[int]) -> None:
        """See ``shards.leases.keeper.Slots``."""
        before, self._paused[shard] = self._paused.get(shard, frozenset()), paused
        for slot in before - paused:
            if self.slots[slot].shard_id == shard and self.slots[slot].is_paused:
                self._replace(slot)
        self._observer.slots_paused(shard, len(paused))

    def open(self, targets: Iterable[tuple[int, int]], gen: int) -> None:
        """See ``shards.leases.keeper.Slots``. A topology that names a later gen of a slot knows better."""
        for slot, shard in targets:
            if gen > self.slots[slot].gen:
                self._opened[slot] = shard, gen
                self._replace(slot)

    # ---------------------------------------------------------------------------------------------------------- waiting

    async def served(self, slot: int, deadline: float) -> tuple[Place, Shard]:
        """Returns the place of a slot, and its shard, as soon as it is served and the lease held.

        Raises ``DeadlineExceeded``, ``LeaseLost`` or ``Overloaded``.
        """
        waiting_since: float | None = None
        try:
            while True:
                place = self.slots[slot]
                if not place.is_paused and place.shard is not None and place.hold.until_s > boottime_s():
                    return place, place.shard
                if waiting_since is None:
                    self._enter()
                    waiting_since = time.monotonic()
                if place.is_paused:
                    await self._until(place, deadline)
                else:
                    await self.regain(place, deadline)
        finally:
            if waiting_since is not None:
                self._leave(waiting_since)

    async def regain(self, place: Place, deadline: float) -> None:
        """Returns when the lease on the place's shard is held, or the place is no longer its slot's.

        Raises ``DeadlineExceeded``, and ``LeaseLost`` when that takes too long.
        """
        until = min(deadline, time.monotonic() + LEASE_WAIT_S)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                while place.hold.until_s <= boottime_s():
                    await place.hold.extended()
                if place.shard is None:
                    await place.passed()
        except TimeoutError:
            if until == deadline:
                raise DeadlineExceeded(f"shard {place.shard_id}: no lease before the deadline") from None
            raise LeaseLost(f"shard {place.shard_id}: this worker's lease on it could not be renewed") from None

    async def is_still(self, place: Place, slot: int, deadline: float, *, is_unknown: bool = False) -> bool:
        """Tells whether what was found at a place may be answered; waits for a lease that has run out.

        ``is_unknown``: it is not to be said that nothing was written. Raises as ``regain``.
        """
        while self.slots[slot] is place:
            if place.hold.until_s > boottime_s():
                return True
            try:
                # whoever has it back knows of every pause and move there was meanwhile
                await self.regain(place, deadline)
            except StoreError as error:
                raise in_doubt(error) if is_unknown else error from None
        return False

    async def _until(self, place: Place, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await place.passed()
        except TimeoutError:
            raise DeadlineExceeded("the order's slot was being moved until the deadline") from None

    def _enter(self) -> None:
        if self._waiters >= WAITERS_MAX:
            raise Overloaded(f"{self._waiters} operations wait for slots that are being moved, the most allowed")
        self._waiters += 1
        self._observer.slot_waiters(self._waiters)

    def _leave(self, since: float) -> None:
        self._waiters -= 1
        self._observer.slot_waiters(self._waiters)
        self._observer.slot_waited(time.monotonic() - since)

    # ----------------------------------------------------------------------------------------------------------- places

    def _place(self, slot: int) -> Place:
        shard, gen = self._opened.get(slot) or (self.topology.slot_shards[slot], self.topology.slot_gens[slot])
        is_paused = slot in self._paused.get(shard, ())
        return Place(shard, self._shards.get(shard), self.hold(shard), gen, is_paused=is_paused)

    def _replace(self, slot: int) -> None:
        before = self.slots[slot]
        self.slots[slot] = place = self._place(slot)
        before.passes()
        if not place.is_paused and (since_s := self._paused_since.pop(slot, None)) is not None:
            self._observer.slot_paused(time.monotonic() - since_s)


async def _finish(places: list[Place]) -> None:
    """Waits for what is under way at paused places, as long as ``FINISH_S`` and ``SETTLE_S`` say."""
    began_s = time.monotonic()
    while any(place.is_busy(time.monotonic() - began_s) for place in places):  # noqa: ASYNC110  nobody tells of each end
        await asyncio.sleep(_LOOK_S)
