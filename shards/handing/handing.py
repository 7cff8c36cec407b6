"""What a worker needs to hand rows over and to take them: who commits what, the other workers, the own lanes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol

from shards.contract import (
    DeadlineExceeded,
    Observer,
    Outcome,
    OutcomeUnknown,
    Row,
    StoreError,
    Unavailable,
    Verdict,
)
from shards.handing.committers import committers
from shards.handing.link import Given
from shards.handing.network import Network
from shards.handing.peer import Peer
from shards.handing.taking import Taking
from shards.judging import Asker
from shards.lanes import Lanes
from shards.places import Places

_log: Final = logging.getLogger("crest.handing")


class Memory(Protocol):
    """What remembers rows of a shard in this worker, and is told of those that another one has stored."""

    async def stored(self, rows: Sequence[Row], commit_started: float) -> None:
        """Remembers rows that were stored by a commit that began at ``commit_started`` or later."""


class HandingLanes:
    """The lanes of one shard, each with its committer. In place of ``Lanes``, and over them.

    Rows of one order are committed in the order of their calls as long as the committer of their lane is the same.
    """

    def __init__(self, shard: int, own: Lanes, memory: Memory, observer: Observer) -> None:
        self._shard = shard
        self._own = own
        self._memory = memory
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._peers: Sequence[Peer | None] = (None,)
        self._under_way = 0
        self._closing = False
        self._drained = asyncio.Event()
        self._remembering: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"HandingLanes({self._own!r}, handed={self._under_way})"

    def commit_by(self, peers: Sequence[Peer | None]) -> None:
        """Takes who commits each lane from now on; None: this worker."""
        self._peers = peers

    def write(self, row: Row, deadline: float) -> asyncio.Future[Outcome]:
        """See ``Lanes.write``."""
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self.put(row, deadline, outcome)
        return outcome

    def put(self, row: Row, deadline: float, outcome: Asker) -> None:
        """See ``Lanes.put``."""
        peers = self._peers
        peer = peers[row.key.slot % len(peers)]
        if peer is not None:
            if self._closing:
                raise Unavailable(f"shard {self._shard} is closing")
            if peer.hand(self, self._shard, row, deadline, outcome):
                self._under_way += 1
                return
        self._own.put(row, deadline, outcome)

    async def close(self) -> None:
        """See ``Lanes.close``."""
        self._closing = True
        while self._under_way:
            self._drained.clear()
            await self._drained.wait()
        if self._remembering:
            await asyncio.wait(self._remembering)
        await self._own.close()

    def _ended(self, count: int) -> None:
        self._under_way -= count
        if not self._under_way:
            self._drained.set()

    # ---------------------------------------------------------------------------------------------------- link.Owner

    def answered(self, answers: Sequence[tuple[Given, Outcome]], began_s: float) -> None:
        """See ``link.Owner``. Callers are told when the rows are remembered, so that they can be read from there."""
        stored = [given.row for given, outcome in answers if outcome.verdict is Verdict.APPLIED]
        if not stored:
            self._tell(answers)
            return
        self._spawn(self._remember(stored, answers, began_s))

    def failed(self, given: Given, error: StoreError) -> None:
        """See ``link.Owner``."""
        if not given.outcome.done():
            given.outcome.set_exception(error)
        self._ended(1)

    def back(self, given: Given, *, is_unknown: bool) -> None:
        """See ``link.Owner``. A row whose caller has left is dropped, as one that waits in a lane is."""
        outcome = given.outcome
        if outcome.done():
            self._ended(1)
            return
        if given.deadline <= time.monotonic():  # the lanes would notice at their next look
            late = OutcomeUnknown if is_unknown else DeadlineExceeded
            self.failed(given, late("the deadline passed on the way to the committer of the lane"))
            return
        try:
            self._own.put(given.row, given.deadline, outcome, is_unknown=is_unknown)
        except StoreError as error:
            self.failed(given, error)
        else:
            self._ended(1)  # the own lanes answer for it

    async def _remember(self, rows: Sequence[Row], answers: Sequence[tuple[Given, Outcome]], began_s: float) -> None:
        try:
            await self._memory.stored(rows, began_s)
        finally:
            self._tell(answers)

    def _tell(self, answers: Sequence[tuple[Given, Outcome]]) -> None:
        for given, outcome in answers:
            if not given.outcome.done():
                given.outcome.set_result(outcome)
        self._ended(len(answers))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._remembering.add(task)
        task.add_done_callback(self._remembering.discard)


class Handing:
    """Who of the workers commits which lane, as this worker sees it. For one event loop."""

    def __init__(self, network: Network, observer: Observer, *, own: int, workers: int) -> None:
        """``own``: this worker's number, of ``workers`` from 0."""
        self._network = network
        self._observer = observer
        self._own = own
        self._workers = workers
        self._serving: frozenset[int] = frozenset()
        self._lagging: frozenset[int] = frozenset()
        self._is_leaving = False
        self._peers: dict[int, Peer] = {}
        self._lanes: dict[int, Lanes] = {}
        self._handing: dict[int, tuple[HandingLanes, int]] = {}
        self._taking: set[Taking] = set()

    def __repr__(self) -> str:
        who = f"serving={sorted(self._serving)}, lagging={sorted(self._lagging)}"
        return f"Handing(worker={self._own}, {who}, {list(self._peers.values())})"

    def know(self, serving: Iterable[int], lagging: Iterable[int] = ()) -> None:
        """Takes the numbers of the workers that serve now, this one's among them when it does.

        Those that lag far behind the others commit for nobody, and a worker that lags hands its own rows over as well.
        """
        self._serving = frozenset(serving)
        self._lagging = frozenset(lagging)
        self._assign()

    def around(self, shard: int, own: Lanes, memory: Memory, *, lanes: int) -> HandingLanes:
        """Returns what writes to a shard go to; ``own``: this worker's lanes of it. ``lanes``: how many it has."""
        handing = HandingLanes(shard, own, memory, self._observer)
        self._lanes[shard] = own
        self._handing[shard] = handing, lanes
        self._assign()
        return handing

    async def listen(self, places: Places) -> None:
        """Takes rows from other workers from now on. Where that is impossible they commit theirs by themselves."""

        def take() -> Taking:
            return Taking(places, self._lanes, self._observer, self._taking.add, self._taking.discard)

        try:
            await self._network.listen(self._own, take)
        except OSError as error:
            _log.warning("other workers cannot hand over their rows: %s", error)

    async def leave(self) -> None:
        """Asks that nothing more be handed over, and goes on with what was. Idempotent."""
        self._is_leaving = True
        await self._network.close()
        for taking in self._taking:
            taking.leave()
        self._assign()

    async def close(self) -> None:
        """Closes all connections. To be called when the lanes are closed, and all that was taken is answered."""
        await self._network.close()
        for taking in list(self._taking):
            taking.end()
        for peer in self._peers.values():
            peer.close()

    def _assign(self) -> None:
        for shard, (handing, lanes) in self._handing.items():
            numbers = committers(shard, lanes, self._serving, self._workers, self._lagging)
            handing.commit_by([self._peer(number) for number in numbers])

    def _peer(self, number: int | None) -> Peer | None:
        # whoever leaves is no committer: of its own number there is another one, or soon will be
        if number is None or (number == self._own and not self._is_leaving):
            return None
        if number not in self._peers:
            self._peers[number] = Peer(number, self._network, self._observer)
        return self._peers[number]
