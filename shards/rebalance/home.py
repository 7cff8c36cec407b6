"""What a mover changes where the topology is kept: the topology, and the record of the rebalance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from shards.contract import Corrupt, StoreError
from shards.facts import Fact, Facts
from shards.rebalance.fleet import At, Deposed
from shards.rebalance.record import (
    HISTORY,
    RECORD,
    SCOPE,
    Command,
    Finished,
    RebalanceRecord,
    RecordDamaged,
    history_from_bytes,
    history_to_bytes,
)
from shards.topology import Topology
from shards.topology_store import TopologyStore

_RETRY_S: Final = 0.1
_TURN_S: Final = 1.0  # a pause that lasts longer has met something that is frozen or away


class Book:
    """The record and the history. Raises ``StoreError``; ``Corrupt`` for what this release cannot read."""

    def __init__(self, facts: Facts) -> None:
        """``facts``: those where the topology is kept."""
        self._facts: Final = facts

    def __repr__(self) -> str:
        return f"Book({self._facts!r})"

    async def read(self) -> tuple[int, RebalanceRecord] | None:
        """Returns the present record and the revision of its fact, linearizable; None where none ever was."""
        fact = await self._facts.read(SCOPE, RECORD)
        return None if fact is None else (fact.revision, _record(fact))

    async def revision(self) -> int:
        """Returns the revision at little cost; 0 for none."""
        return await self._facts.revision(SCOPE, RECORD)

    async def replace(self, revision: int, record: RebalanceRecord) -> bool:
        """Puts a record in the place of the one of a revision (0: of none); False when another is there."""
        fact = Fact(revision + 1, record.to_bytes())
        if revision == 0:
            return await self._facts.create(SCOPE, RECORD, fact) == fact
        return await self._facts.replace(SCOPE, RECORD, revision, fact)

    async def history(self) -> tuple[Finished, ...]:
        """Returns the rebalances that are over, oldest first."""
        fact = await self._facts.read(SCOPE, HISTORY)
        return () if fact is None else _history(fact)

    async def remember(self, finished: Finished) -> None:
        """Adds to the history, in place of what it says of the same rebalance."""
        while True:
            fact = await self._facts.read(SCOPE, HISTORY)
            if fact is None:
                first = Fact(1, history_to_bytes((finished,)))
                if await self._facts.create(SCOPE, HISTORY, first) == first:
                    return
                continue
            kept = tuple(one for one in _history(fact) if one.id != finished.id)
            if await self._facts.replace(
                SCOPE, HISTORY, fact.revision, Fact(fact.revision + 1, history_to_bytes((*kept, finished)))
            ):
                return


class Home:
    """The topology and the record, in the hands of one attempt's mover.

    Every change is made again until one has certainly won, as in ``Gates``. Raises ``Deposed``.
    """

    def __init__(self, facts: Facts, attempt: int, at: At) -> None:
        self._book: Final = Book(facts)
        self._store: Final = TopologyStore(facts)
        self._attempt: Final = attempt
        self._at: Final = at
        self._one_at_a_time: Final = asyncio.Lock()
        self._made: Topology | None = None  # the present topology, if this attempt made it
        self._pausing: Final = asyncio.Lock()
        self.seen: RebalanceRecord | None = None
        """The record as this attempt saw it last."""

    def __repr__(self) -> str:
        return f"Home(attempt={self._attempt}, {self._book!r})"

    async def record(self) -> RebalanceRecord:
        """Returns the record. Raises ``StoreError``, and ``Deposed`` when it is another attempt's."""
        found = await self._book.read()
        if found is None or found[1].attempt != self._attempt:
            raise Deposed(f"attempt {self._attempt} is over")
        self.seen = found[1]
        return found[1]

    async def topology(self) -> Topology:
        """Returns the topology. Raises ``StoreError``."""
        topology = await self._store.load()
        if topology is None:
            raise Corrupt("there is no topology")
        return topology

    async def change(self, step: str, edit: Callable[[Topology], Topology | None], *, is_own: bool = False) -> Topology:
        """Changes the topology by ``edit``, which may be asked again; None: nothing is to be changed any more.

        The record is looked at between reading the topology and replacing it: whoever has taken over since has changed
        the topology too, before anything else, so that this change is refused. ``is_own``: no other attempt could make
        the same topology. The next change is then made of it with no look at anything: it is refused as well once
        somebody has changed the topology since, and callers wait less.
        """
        async with self._one_at_a_time:
            await self._at(f"before {step}")
            while True:
                made, self._made = self._made, None
                try:
                    topology = made or await self.topology()
                    changed = edit(topology)
                    if made is None:
                        await self.record()
                    elif changed is None:
                        continue  # to be told by the topology itself
                    if changed is None or await self._store.compare_and_set(topology.epoch, changed):
                        self._made = changed if is_own else None
                        await self._at(f"after {step}")
                        return changed or topology
                except StoreError:
                    await asyncio.sleep(_RETRY_S)

    @asynccontextmanager
    async def pausing(self) -> AsyncIterator[None]:
        """Lets the slots of one source be paused at a time: two pauses at once would make each other longer.

        Who has waited for long goes on: a source whose store is away does not hold up the others.
        """
        has_turn = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN_S):
                has_turn = await self._pausing.acquire()
        try:
            yield
        finally:
            if has_turn:
                self._pausing.release()

    async def note(self, step: str, edit: Callable[[RebalanceRecord], RebalanceRecord | None]) -> RebalanceRecord:
        """Changes the record by ``edit``, which may be asked again; None: nothing is to be changed any more."""
        async with self._one_at_a_time:
            await self._at(f"before {step}")
            while True:
                try:
                    found = await self._book.read()
                    if found is None or found[1].attempt != self._attempt:
                        raise Deposed(f"attempt {self._attempt} is over")
                    changed = edit(found[1])
                    if changed is None or await self._book.replace(found[0], changed):
                        self.seen = changed or found[1]
                        await self._at(f"after {step}")
                        return self.seen
                except StoreError:
                    await asyncio.sleep(_RETRY_S)

    async def remember(self, record: RebalanceRecord) -> None:
        """Adds a finished record to the history. Raises ``StoreError``."""
        await self._book.remember(record.finished(await self.topology()))


async def take_over(facts: Facts, who: str, at: At) -> RebalanceRecord | None:
    """Begins a new attempt at the open rebalance, and returns its record; None where nothing is open.

    From then on no mover of an earlier attempt flips a slot, once ``Home.change`` has won for this one. Raises
    ``StoreError``.
    """
    book = Book(facts)
    while True:
        found = await book.read()
        if found is None or not found[1].is_open:
            return None
        record = found[1].after(Command.TAKE_OVER, who)
        await at("before take over")
        if await book.replace(found[0], record):
            await at("after take over")
            return record


def _record(fact: Fact) -> RebalanceRecord:
    try:
        return RebalanceRecord.from_bytes(fact.value)
    except RecordDamaged as error:
        raise Corrupt(f"the record of the rebalance is damaged: {error}") from error


def _history(fact: Fact) -> tuple[Finished, ...]:
    try:
        return history_from_bytes(fact.value)
    except RecordDamaged as error:
        raise Corrupt(f"the history of rebalances is damaged: {error}") from error
