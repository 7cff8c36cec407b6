"""One shard's slot states and leases, in the hands of one attempt's mover."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from shards.contract import StoreError
from shards.facts import Fact, Facts
from shards.leases import SCOPE, LeaseWatch, Leaving, SeenLease, SlotStates, SlotStatesWriter, Telemetry
from shards.leases.hold import boottime_s
from shards.leases.states import OPEN_PREFIX
from shards.rebalance.fleet import At, Deposed
from shards.rebalance.pausing import TOGETHER_MAX, Calm, Pause, Together

RETRY_S: Final = 0.1
"""Pause before a fact is changed again whose store failed."""

_LOOK_S: Final = 0.005  # between two looks while callers wait
_IDLE_LOOK_S: Final = 0.5
_LATELY_S: Final = 2.0  # a worker that has not renewed for so long may be frozen: nothing is paused meanwhile


class Written(NamedTuple):
    """Slot states that were written."""

    revision: int
    at_s: float
    """When the write had returned, by the watch's clock."""


class Gates:
    """Pauses and opens slots of one shard, and waits for the workers to have taken note.

    Changes are made again until one has certainly won, since only that keeps an earlier one, whose answer was lost,
    from landing later. Raises ``Deposed``.
    """

    def __init__(
        self, shard: int, facts: Facts, attempt: int, at: At, clock_s: Callable[[], float] = boottime_s
    ) -> None:
        self._shard: Final = shard
        self._attempt: Final = attempt
        self._at: Final = at
        self._clock_s: Final = clock_s
        self._facts: Final = facts
        self._writer: Final = SlotStatesWriter(facts)
        self._watch: Final = LeaseWatch(facts, clock_s)
        self._one_at_a_time: Final = asyncio.Lock()
        self._made: SlotStates | None = None  # the present states, if they were made here
        self._watched_since: float | None = None
        self._rest: asyncio.Future[None] | None = None  # of the last pause
        self.together: Final = Together(TOGETHER_MAX)
        """How many slots of the shard are paused at once."""
        self.pauses: Final[list[Pause]] = []
        """Those that ended with slots on their targets."""
        self.calm: Final = Calm()
        """Whether a pause is a good idea at the moment."""

    def __repr__(self) -> str:
        return f"Gates(shard={self._shard}, attempt={self._attempt}, {self._watch!r})"

    @property
    def shard(self) -> int:
        """The shard's id."""
        return self._shard

    async def fence(self, *, is_active: bool) -> SlotStates:
        """Marks the states with this attempt, so that no mover before it can change them; returns them."""
        return await self._change(
            "fence states", lambda states: states.next(attempt=self._attempt, is_active=is_active)
        )

    async def pause(self, targets: Mapping[int, int]) -> Written:
        """Pauses slots (slot to the shard that it goes to); from then on no worker begins to act under earlier states.

        They may be opened by ``open``, where a word is kept as well as a change is.
        """
        wanted = frozenset(targets)
        leaving = targets if self._facts.tells_for_good else None
        states = await self._change(
            "pause", lambda states: states.next(attempt=self._attempt, pause=wanted, targets=leaving)
        )
        return Written(states.revision, self._clock_s())

    async def open(self, written: Written) -> bool:
        """Gives the word: workers open the slots of a pause where they go, all of them. There is no way back from it.

        It may be heard whatever becomes of it here, so nothing is raised: the topology is to be changed next, and tells
        the same. Returns whether it was given for sure, so that nobody waits for the topology.
        """
        states = self._made
        if states is None or states.revision != written.revision or (leaving := states.opens) is None:
            return False
        is_given = False
        await self._at("before open")
        with suppress(StoreError):
            await self._facts.tell(SCOPE, leaving.word_name, Fact(leaving.revision, b""))
            is_given = True
        await self._at("after open")
        return is_given

    def finish(self, rest: Coroutine[object, object, None]) -> None:
        """Does the rest of a pause that nobody waits for any more, while other slots are copied; ``finished`` waits."""
        assert self._rest is None, "the pause before was not finished"
        self._rest = asyncio.ensure_future(rest)

    async def finished(self) -> None:
        """Returns when the last pause is finished, so that the next may begin. Raises what became of it."""
        if self._rest is not None:
            await self._rest
            self._rest = None

    async def abandon(self) -> None:
        """Leaves what is not finished to whoever takes over. Idempotent."""
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.cancel()
            await asyncio.gather(rest, return_exceptions=True)

    async def settle(self, states: SlotStates) -> Leaving | None:
        """Returns those slots of fenced states that the word of an earlier attempt has opened elsewhere, or may have.

        First waits until no worker acts under the states by which they were paused: none can open any of them after
        that. So a word that is not there then is heeded by nobody, even if it is yet to land.
        """
        leaving = states.leaving
        if leaving is None:
            return None
        await self.confirmed(Written(states.revision, self._clock_s()))
        while True:
            with suppress(StoreError):
                return leaving if await self._facts.revision(SCOPE, leaving.word_name) == leaving.revision else None
            await asyncio.sleep(RETRY_S)

    async def unpause(self, slots: Iterable[int], *, epoch_min: int = 0) -> None:
        """Opens slots again, to workers that know the topology of ``epoch_min``. Does nothing where none is paused."""
        wanted = frozenset(slots)
        await self._change(
            "unpause",
            lambda states: states.next(unpause=wanted, epoch_min=epoch_min or None) if states.paused & wanted else None,
        )

    async def rest(self) -> None:
        """Tells the workers that nothing is on any more."""
        await self._change(
            "rest states",
            lambda states: states.next(is_active=False, unpause=states.paused) if states.is_active else None,
        )
        with suppress(StoreError):  # what stays is seen by whoever rests next
            for name, fact in (await self._facts.list(SCOPE)).items():
                # words that are settled; who has taken over may have given others meanwhile
                if name.startswith(OPEN_PREFIX) and int(name.removeprefix(OPEN_PREFIX)) <= self._attempt:
                    await self._facts.delete(SCOPE, name, fact.revision)

    async def read(self) -> SlotStates:
        """Returns the present states. Raises ``StoreError``."""
        return await self._writer.read()

    async def watch(self) -> None:
        """Looks at the leases again and again, and clears away those that have ended. Never returns."""
        while True:
            try:
                await self._look()
                for worker in list(self._watch.leases):
                    # looked up anew each time: others look at the leases meanwhile
                    seen = self._watch.leases.get(worker)
                    if seen is not None and self._clock_s() >= seen.ends_s:
                        await self._watch.forget(worker)
            except StoreError:
                pass  # the store is away: nothing can be paused, and who waits goes on waiting
            await asyncio.sleep(_IDLE_LOOK_S)

    async def steady(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Returns when every worker has renewed its lease lately, so that a pause will soon be confirmed.

        Also as soon as ``is_wanted`` is False: then nothing is to be paused.
        """
        while is_wanted():
            now_s = self._clock_s()
            if self._watched_since is not None:
                leases = self._watch.leases.values()
                is_told = now_s - self._watched_since >= _LATELY_S or not leases
                if is_told and all(now_s - seen.seen_s < _LATELY_S for seen in leases):
                    return
            await asyncio.sleep(_IDLE_LOOK_S / 4)

    async def confirmed(self, written: Written) -> None:
        """Returns when no worker answers any more under states before those that were written."""
        await self._until(lambda: not self._watch.pending(written.revision, written.at_s))

    async def known(self, epoch: int) -> None:
        """Returns when no worker acts any more under a topology before ``epoch``."""
        await self._until(lambda: self.is_known(epoch))

    def is_known(self, epoch: int) -> bool:
        """Tells whether that was so at the last look."""
        return not self._watch.behind(epoch)

    async def workers(self) -> frozenset[str]:
        """Returns the workers whose leases have not ended. Raises ``StoreError``."""
        await self._look()
        return frozenset(self._watch.live())

    def told(self) -> list[Telemetry]:
        """Returns what each worker told lately of operations on this shard."""
        return [seen.lease.telemetry for seen in self._watch.live().values()]

    def rate(self) -> float:
        """Returns the operations a second that workers tell."""
        return sum(one.rate for one in self.told())

    def waiting_for(self) -> list[SeenLease]:
        """Returns the leases that have not been renewed lately: whom a pause would wait for."""
        now_s = self._clock_s()
        return [seen for seen in self._watch.leases.values() if now_s - seen.seen_s >= _LATELY_S]

    async def _look(self) -> None:
        await self._watch.look()
        if self._watched_since is None:
            self._watched_since = self._clock_s()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while True:
            try:
                await self._look()
                if is_so():
                    return
            except StoreError:
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(_LOOK_S)

    async def _change(self, step: str, change: Callable[[SlotStates], SlotStates | None]) -> SlotStates:
        async with self._one_at_a_time:
            await self._at(f"before {step}")
            while True:
                made, self._made = self._made, None
                try:
                    states = made or await self._writer.read()
                    if states.attempt > self._attempt:
                        raise Deposed(f"shard {self._shard} is in the hands of attempt {states.attempt}")
                    changed = change(states)
                    if changed is None and made is not None:
                        continue  # to be told by the states themselves
                    if changed is None or await self._writer.replace(states, changed):
                        self._made = changed or states
                        await self._at(f"after {step}")
                        return self._made
                except StoreError:
                    await asyncio.sleep(RETRY_S)
