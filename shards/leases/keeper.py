"""A worker's lease on one shard: granted, renewed, and brought under the latest states of the shard's slots.

**A renewal is a confirmation.** It says under which states the worker acts, so it is sent under new ones only when
everything they ask is done: the topology is known from the epoch they name on, and no operation that began on a slot
before it was paused will be answered. Where a mover waits for that, while slots are paused, the worker gives its
**word** first: that it acts under these states is true from then on, whatever becomes of the lease, so it needs no
condition and no round of Paxos. Only the lease lets it answer.

A store that is slow or refuses is asked again and again while the lease lasts; after that nothing of the shard is
answered until the lease is there again. Whatever fails, and however late an answer of the store comes, the worker
holds its lease no longer than the store's own row says.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from shards.contract import StoreError
from shards.facts import Facts, Guard
from shards.leases.hold import Hold, boottime_s
from shards.leases.states import LEASE_S, SCOPE, STATES, Lease, Leaving, SlotStates, Word
from shards.leases.watch import LeaseWatch, glance_states, read_states

T = TypeVar("T")

RENEW_S: Final = 1.0
"""Between two renewals: five of them may be lost in a row before the lease is."""

POLL_S: Final = 0.02
"""Between two looks at the states while a move is on: the pause of a slot begins and ends with such a look."""

OPEN_POLL_S: Final = 0.005
"""Between two looks for the word that opens slots elsewhere: callers wait."""

_OPEN_SOON_S: Final = 0.5
"""After so long the word is looked for as often as the states are: the mover is slow, or gone."""

_RENEWALS_MAX: Final = 6
"""Renewals under way at once: as many as begin before the first of them is given up by the driver."""

_PATIENCE_S: Final = 1.0
"""For so long an answer of the store is awaited before it is asked again; the answer counts all the same."""

_RETRY_S_MIN: Final = 0.02
_RETRY_S_MAX: Final = 0.5
"""Pause after a failure, doubled each time between these."""

_CHANCE: Final = random.Random()  # noqa: S311  jitter, no secret; of its own, so that nobody's seed is disturbed

_TIDY_S: Final = 30.0
"""About how often a look is taken for leases that their workers left behind."""

_LEAVE_S: Final = 2.0
"""Longest that leaving waits for the store; a lease that stays behind ends by itself."""

_log: Final = logging.getLogger("crest.leases")


class Slots(Protocol):
    """What serves the slots, and is told which of them are paused."""

    async def pause(self, shard: int, paused: frozenset[int]) -> None:
        """Lets nothing begin on these slots of a shard, and returns when nothing that had begun will be answered."""

    def serve(self, shard: int, paused: frozenset[int]) -> None:
        """Serves every slot of a shard but these."""

    def open(self, targets: Iterable[tuple[int, int]], gen: int) -> None:
        """Serves slots (slot, shard) under a gen from now on, before the topology says so."""


class Placement(Protocol):
    """Who knows the topology."""

    @property
    def epoch(self) -> int:
        """Epoch of the topology that is acted under."""

    async def reach(self, epoch: int) -> None:
        """Returns when a topology of this epoch, or a later one, is acted under. Raises ``StoreError``."""

    def hurry(self, shard: int, *, is_active: bool, is_paused: bool) -> None:
        """Tells whether a move is on at a shard, and whether slots of it are paused: then look often."""


class LeaseObserver(Protocol):
    """Told how the lease fares. Must be quick and never raise."""

    def lease_age(self, shard: int, seconds: float) -> None:
        """So long ago the last renewal that succeeded was sent; told about once a second, and 0 at the end."""

    def lease_lost(self, shard: int) -> None:
        """The lease has run out: nothing of the shard is answered until it is there again."""


class Keeper:
    """Keeps one worker's lease on one shard. For one event loop."""

    def __init__(
        self,
        shard: int,
        facts: Facts,
        hold: Hold,
        slots: Slots,
        placement: Placement,
        observer: LeaseObserver,
        *,
        worker: str,
        chance: Callable[[], float] = _CHANCE.random,
    ) -> None:
        """``worker`` names the process: never used again, and the same for all its keepers; ``chance``: [0, 1)."""
        self._shard = shard
        self._facts = facts
        self._hold = hold
        self._slots = slots
        self._placement = placement
        self._observer = observer
        self._worker = worker
        self._chance = chance
        self._name = Lease(worker, 0, 0).fact_name
        self._states: SlotStates | None = None  # those acted under: all that they ask is done
        self._unserved: SlotStates | None = None  # those whose renewal is to open the slots that they no longer pause
        self._revision = 0  # of the lease's fact: every grant and renewal takes the next
        self._was_granted = False
        self._told = 0  # revision of the word's fact
        self._is_held = False
        self._sent_s = boottime_s()  # when the last renewal that succeeded was sent
        self._renewals = 0
        self._look = asyncio.Event()  # set when the states, or the lease, are not what they were
        self._renew = asyncio.Event()  # set when a renewal should not wait for its time
        self._held = asyncio.Event()
        self._calls: set[asyncio.Task[Any]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        under = "none" if self._states is None else f"{self._states.revision}, paused={len(self._states.paused)}"
        return f"Keeper(shard={self._shard}, states={under}, {self._hold!r})"

    def start(self) -> None:
        """Begins to ask for the lease, and keeps it from then on."""
        self._look.set()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._follow(), name=f"lease {self._shard}: follow"),
            loop.create_task(self._renew_for_ever(), name=f"lease {self._shard}: renew"),
            loop.create_task(self._tidy(), name=f"lease {self._shard}: tidy"),
        ]

    async def wait_held(self) -> None:
        """Returns when the lease is held for the first time."""
        await self._held.wait()

    def epoch_changed(self) -> None:
        """Tells the new epoch where movers wait for it: where slots are paused. The next renewal tells it, too."""
        if self._states is not None and self._states.paused and self._tasks:
            self._spawn(self._tell(self._states))

    async def leave(self) -> None:
        """Gives the lease back: nothing of the shard is answered any more, and nobody waits for it. Idempotent."""
        self._hold.end()
        tasks, self._tasks = self._tasks, []
        ending = [*tasks, *([self._opening] if self._opening is not None else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if not tasks:
            return
        self._observer.lease_age(self._shard, 0)
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                if self._calls:
                    await asyncio.wait(self._calls)  # what is still under way would come after the removal
                for name in (Word(self._worker, 0, 0).fact_name, self._name):
                    revision = await self._call(self._facts.revision(SCOPE, name))
                    if revision:
                        await self._call(self._facts.delete(SCOPE, name, revision))
        if self._calls:  # drivers are not closed under their calls
            await asyncio.wait(self._calls)

    # ------------------------------------------------------------------------------------------------------- following

    async def _follow(self) -> None:
        """Adopts the states whenever they change."""
        failures = 0
        while True:
            try:
                states = await self._changed()
                if states is not None:
                    await self._adopt(states)
                failures = 0
            except StoreError as error:
                self._look.set()
                failures += 1
                if failures == 1:
                    _log.info("shard %d: its slots' states are asked for again: %s", self._shard, error)
                pause_s = min(_RETRY_S_MIN * 2 ** min(failures, 8), _RETRY_S_MAX)
                await asyncio.sleep(pause_s * (0.5 + self._chance() / 2))

    async def _changed(self) -> SlotStates | None:
        """Waits for a reason to look, and returns the states to be acted under; None: those that are."""
        states = self._states
        if states is not None and not self._look.is_set():
            # else a refused renewal tells, in time for whoever activates
            interval_s = _to_next_poll_s() if states.is_active else None
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._look.wait()
        was_asked = self._look.is_set()
        self._look.clear()
        if states is not None:
            # whether they still are the latest is told by the renewal under them, which callers wait for
            seen = await self._call(glance_states(self._facts))
            if seen is not None and seen.revision > states.revision:
                return seen
            if not was_asked:
                return None
        return await self._call(read_states(self._facts))

    async def _adopt(self, states: SlotStates) -> None:
        if states.epoch_min > self._placement.epoch:
            await self._placement.reach(states.epoch_min)
        self._placement.hurry(self._shard, is_active=states.is_active, is_paused=bool(states.paused))
        before = self._states
        is_known = before is not None and before.revision == states.revision
        if not is_known:
            # a renewal under those before may be answered while these pause slots, and opens nothing any more
            self._unserved = None
        await self._slots.pause(self._shard, states.paused)
        self._states = states
        if is_known:
            await self._confirm(states)  # the lease is not what it was
            return
        self._unserved = states
        if self._opening is not None:
            self._opening.cancel()
        if states.opens is not None:
            self._opening = asyncio.create_task(
                self._open_at_word(states.revision, states.opens), name=f"lease {self._shard}: open"
            )
        # not before here: this is what tells the mover that the pause has been taken note of
        if not self._was_granted:
            await self._confirm(states)
        elif states.paused:
            await self._call(self._tell(states))
            if before is None or before.paused - states.paused or boottime_s() - self._sent_s > RENEW_S:
                self._renew.set()
        else:
            self._renew.set()

    async def _open_at_word(self, revision: int, leaving: Leaving) -> None:
        """Looks for the mover's word as long as the states by which the slots were paused are acted under."""
        began_s = boottime_s()
        while self._states is not None and self._states.revision == revision:
            with suppress(StoreError):
                word = await self._call(self._facts.revision(SCOPE, leaving.word_name))
                # in this order: while the lease was held after the word had been seen, nobody can have settled that
                # it had not been given. A word that lands later than that is heeded by nobody
                if word == leaving.revision and self._acts_under(revision):
                    self._slots.open(leaving.targets, leaving.gen)
                    return
            await asyncio.sleep(OPEN_POLL_S if boottime_s() - began_s < _OPEN_SOON_S else POLL_S)

    def _acts_under(self, revision: int) -> bool:
        is_latest = self._states is not None and self._states.revision == revision
        return is_latest and self._hold.until_s > boottime_s()

    async def _tell(self, states: SlotStates) -> None:
        self._told += 1
        word = Word(self._worker, states.revision, self._placement.epoch)
        await self._facts.tell(SCOPE, word.fact_name, word.to_fact(self._told))

    async def _confirm(self, states: SlotStates) -> None:
        if self._was_granted and await self._send(states, self._facts.renew):
            return
        if self._was_granted and await self._call(self._facts.revision(SCOPE, self._name)) > 0:
            # refused by newer states, or overtaken by a renewal under these
            if await self._call(self._facts.revision(SCOPE, STATES)) != states.revision:
                self._look.set()
            return
        self._was_granted = True  # from here on it may be there, whatever is answered
        if not await self._send(states, self._facts.grant):
            self._look.set()

    # -------------------------------------------------------------------------------------------------------- renewing

    async def _renew_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._renew.wait()
            self._renew.clear()
            self._tell_age()
            states = self._states
            if states is None or not self._was_granted or self._renewals >= _RENEWALS_MAX:
                continue
            self._spawn(self._renew_once(states))

    async def _renew_once(self, states: SlotStates) -> None:
        try:
            if not await self._send(states, self._facts.renew):
                self._look.set()
        except StoreError as error:
            if self._unserved is not None:  # callers may wait for it
                self._look.set()
            _log.debug("shard %d: a renewal of the lease failed: %s", self._shard, error)

    async def _send(self, states: SlotStates, operation: Any) -> bool:  # noqa: ANN401  Facts.grant or Facts.renew
        self._revision += 1
        lease = Lease(self._worker, states.revision, self._placement.epoch, LEASE_S, self._hold.telemetry())
        self._renewals += 1
        sent_s = boottime_s()
        try:
            call = operation(SCOPE, self._name, lease.to_fact(self._revision), Guard(STATES, states.revision))
            is_done = await self._call(self._noted(call, states, sent_s))
        finally:
            self._renewals -= 1
        return is_done

    async def _noted(self, call: Coroutine[Any, Any, bool], states: SlotStates, sent_s: float) -> bool:
        """Takes note of a renewal as soon as it has succeeded, also when nobody waits for its answer any more."""
        is_done = await call
        if is_done and self._tasks:
            self._sent_s = max(self._sent_s, sent_s)
            self._hold.extend(sent_s + LEASE_S)
            self._is_held = self._hold.until_s > boottime_s()
            if self._is_held:
                self._held.set()
            if self._unserved is not None and self._unserved.revision == states.revision:
                self._unserved = None
                self._slots.serve(self._shard, states.paused)
        return is_done

    def _tell_age(self) -> None:
        now_s = boottime_s()
        self._observer.lease_age(self._shard, now_s - self._sent_s)
        if self._is_held and self._hold.until_s <= now_s:
            self._is_held = False
            self._observer.lease_lost(self._shard)
            _log.warning("shard %d: its lease could not be renewed; its orders are unavailable here", self._shard)

    # ---------------------------------------------------------------------------------------------------------- tidying

    async def _tidy(self) -> None:
        """Removes leases that ended long ago: of workers that died."""
        watch = LeaseWatch(self._facts)
        while True:
            await asyncio.sleep(_TIDY_S * (0.5 + self._chance()))
            with suppress(StoreError):
                ended = set(watch.leases) - set(watch.live())
                await self._call(watch.look())
                for worker in sorted(ended & set(watch.leases) - set(watch.live()) - {self._worker}):
                    await self._call(watch.forget(worker))

    # ---------------------------------------------------------------------------------------------------------- calling

    async def _call(self, call: Coroutine[Any, Any, T]) -> T:
        """Awaits an answer of the store for a while; who asked is free then, and the call goes on."""
        task = self._spawn(call)
        await asyncio.wait((task,), timeout=_PATIENCE_S)
        if not task.done():
            raise StoreError(f"no answer within {_PATIENCE_S} s")
        return task.result()

    def _spawn(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: whoever asked may have left


def _to_next_poll_s() -> float:
    """Workers look at the same moments: who has closed a slot waits for whoever closes it last."""
    left_s = POLL_S - time.time() % POLL_S
    return left_s if left_s > POLL_S / 8 else left_s + POLL_S  # else this very moment would come twice
