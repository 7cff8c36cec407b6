"""Moves some slots of one source: copy, pause, copy the rest, compare, flip, open.

No slot is flipped whose copies were not read back, in full, and found equal to what the source holds after every
worker had confirmed the pause.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Final, NamedTuple

from shards.contract import StoreError, Unavailable
from shards.keys import format_uuid
from shards.leases import Leaving
from shards.rebalance import manifest
from shards.rebalance.copying import Copying, all_of
from shards.rebalance.fleet import At, Part
from shards.rebalance.gates import Gates
from shards.rebalance.home import Home
from shards.rebalance.pausing import Pause
from shards.rebalance.record import Move, Stuck
from shards.rebalance.sealing import Sealing
from shards.rebalance.throttle import Throttle, Unwanted
from shards.topology import Topology

SMALL_ROWS: Final = 32
"""A round that copied no more was the last before the pause: the next one takes a few milliseconds."""

_ROUNDS_MAX: Final = 12
_LARGE_ROWS: Final = 2_000  # when rounds do not get smaller than this, the slots are not paused: it would last
_TRIES_MAX: Final = 5
_RETRY_S: Final = 0.5

_AWAY_TRIES_MAX: Final = 24
"""So often a shard that is away is tried again, half a second later each time: for two and a half minutes, in which a
node is started again. Nothing is paused meanwhile."""

_LOOK_S: Final = 0.5  # between two looks, while waiting so, whether the slots are still to be moved

_FELT_LOOKS_MAX: Final = 12
"""So often callers are looked at before a pause, half a second later each time, while they feel more than the throttle
keeps; then it begins all the same."""

_CALM_TRIES_MAX: Final = 8
"""So often a calm moment is looked for before a pause; then it begins all the same."""

_CALM_S: Final = 0.02


class Outcome(NamedTuple):
    """What became of a batch."""

    moved: tuple[Move, ...]
    stuck: tuple[Stuck, ...]


class Batch:
    """Slots of one source, copied together and moved some at a time. ``state`` tells what is being done."""

    def __init__(
        self,
        moves: Sequence[Move],
        gen: int,
        parts: dict[int, Part],
        gates: Gates,
        home: Home,
        sealing: Sealing,
        throttle: Throttle,
        at: At,
    ) -> None:
        """``gates`` are the source's; ``parts`` the shards by id."""
        self.moves: Final = tuple(moves)
        self.state = "waiting"
        self._gen: Final = gen
        self._parts: Final = parts
        self._gates: Final = gates
        self._home: Final = home
        self._sealing: Final = sealing
        self._throttle: Final = throttle
        self._at: Final = at
        self._moved: Final[list[Move]] = []
        self._stuck: Final[list[Stuck]] = []
        self._copyings: list[Copying] = []
        self._rows_before = (0, 0)

    def __repr__(self) -> str:
        return f"Batch({[move.slot for move in self.moves]}, {self.state})"

    @property
    def rows(self) -> tuple[int, int]:
        """Rows placed and rows read back so far."""
        placed, verified = self._rows_before
        return (
            placed + sum(copying.rows_placed for copying in self._copyings),
            verified + sum(copying.rows_verified for copying in self._copyings),
        )

    @property
    def moved(self) -> int:
        """Slots that are on their targets, or open there for good, while the topology is about to say so."""
        return len(self._moved)

    async def run(self, is_wanted: Callable[[], bool]) -> Outcome:
        """Moves the slots; ``is_wanted`` is asked before they are paused, False leaves them where they are.

        It is asked while they wait for anything, too, by the throttle and here.
        A store that fails is tried again a few times, one that is away more often; then its slots are stuck. Raises
        ``Deposed``.
        """
        failed = away = 0
        while True:
            try:
                with suppress(Unwanted):
                    await self._once(is_wanted)
            except StoreError as error:
                # whatever was paused is open again: see _under_pause
                is_away = isinstance(error, Unavailable)
                failed, away = failed + (not is_away), away + is_away
                if failed < _TRIES_MAX and away < _AWAY_TRIES_MAX:
                    self.state = f"waiting after an error: {error}"
                    if await self._waited(_RETRY_S * (failed + away + 1), is_wanted):
                        continue
                else:
                    reason = f"{type(error).__name__}: {error}"
                    self._stuck.extend([Stuck(move.slot, reason) for move in self._left()])
            return Outcome(tuple(self._moved), tuple(self._stuck))

    async def _waited(self, seconds: float, is_wanted: Callable[[], bool]) -> bool:
        """Waits; False as soon as the slots are not to be moved any more."""
        until_s = time.monotonic() + seconds
        while is_wanted():
            if (left_s := until_s - time.monotonic()) <= 0:
                return True
            await asyncio.sleep(min(_LOOK_S, left_s))
        return False

    async def _once(self, is_wanted: Callable[[], bool]) -> None:
        self._rows_before = self.rows
        self._copyings = self._begin(self._left())
        await self._copy(self._slots(self._left()))
        self.state = "verifying"
        await self._each(lambda copying: copying.verify())
        await self._sealing.repeat(self._left())
        await self._each(lambda copying: copying.look())
        self._set_aside(self._left())
        while left := self._left():
            if not is_wanted():
                return
            self.state = "waiting for workers"
            await self._gates.steady(is_wanted)
            await self._little_felt()
            some = left[: self._gates.together.slots]
            await self._copy(self._slots(some))
            await self._each(lambda copying: copying.verify(is_hurried=True))
            await self._gates.finished()
            await self._calm()
            async with self._home.pausing():
                if not is_wanted():
                    return
                await self._under_pause(some)

    async def _little_felt(self) -> None:
        """Waits while callers feel more than they are to, but not for long: a pause lasts longest on busy stores."""
        for _ in range(_FELT_LOOKS_MAX):
            if not self._throttle.is_felt:
                return
            await asyncio.sleep(_LOOK_S)

    async def _calm(self) -> None:
        """Waits for a moment in which the stores answer as soon as they mostly do, but not for long.

        What operators said until then is known to ``is_wanted``.
        """
        for _ in range(_CALM_TRIES_MAX):
            began_s = time.monotonic()
            await self._home.record()
            if self._gates.calm.is_usual(time.monotonic() - began_s):
                return
            await asyncio.sleep(_CALM_S)

    def _begin(self, moves: Sequence[Move]) -> list[Copying]:
        by_target: dict[int, list[Move]] = {}
        for move in moves:
            by_target.setdefault(move.target, []).append(move)
        return [
            Copying(self._parts[group[0].source].copies, self._parts[target].copies, group, self._gen, self._throttle)
            for target, group in by_target.items()
        ]

    async def _copy(self, slots: frozenset[int]) -> None:
        """Copies until a round is small. Raises ``StoreError`` when they do not get smaller."""
        self.state = "copying"
        await self._at("before index and place")
        placed = 0
        for _ in range(_ROUNDS_MAX):
            placed = await self._each(lambda copying: copying.round(slots))
            if placed <= SMALL_ROWS:
                break
        await self._at("after index and place")
        if placed > _LARGE_ROWS:
            raise StoreError(f"the slots are written to faster than they are copied: {placed} rows in a round")

    async def _under_pause(self, moves: Sequence[Move]) -> None:
        """Moves slots whose copies are nearly complete. Callers wait: what can be done before or after is not here."""
        paused = self._slots(moves)
        times = [time.monotonic()]
        self.state = "pausing"
        written = await self._gates.pause({move.slot: move.target for move in moves})
        times.append(time.monotonic())
        try:
            await self._gates.confirmed(written)
            times.append(time.monotonic())
            self.state = "paused"
            await self._at("before final place")
            # once: what could still arrive at the source was never answered, and never will be
            await asyncio.gather(self._copy_rest(paused), self._sealing.repeat(moves))
            await self._at("after final place")
            self._set_aside(moves)
        except StoreError:
            await self._gates.unpause(paused)
            raise
        going = [move for move in moves if move in self._left()]
        times.append(time.monotonic())
        if not going:
            await self._gates.unpause(paused)
            return
        is_open = False
        if len(going) == len(moves):  # the word opens all that were paused, or is not given
            self.state = "opening"
            is_open = await self._gates.open(written)
        times.append(time.monotonic())
        self._moved.extend(going)
        rest = self._finish(moves, going, times)
        if is_open:
            self._gates.finish(rest)  # other slots are copied, and those of other sources paused, meanwhile
        else:
            await rest

    async def _finish(self, moves: Sequence[Move], going: Sequence[Move], times: list[float]) -> None:
        """Tells where slots have gone, and opens the source to what follows. ``times`` are those of the pause."""
        copyings = self._copyings
        self.state = "flipping"
        topology = await self._home.change("flip", lambda topology: flipped(topology, going, self._gen), is_own=True)
        times.append(time.monotonic())
        await self._gates.known(topology.epoch)
        times.append(time.monotonic())
        pause = Pause(len(moves), *(after - before for before, after in pairwise(times)))
        self._gates.pauses.append(pause)
        self._gates.together.took(pause)
        await self._gates.unpause(self._slots(moves), epoch_min=topology.epoch)
        facts = self._parts[moves[0].source].facts
        with suppress(StoreError):  # for ``verify``; where no manifest is kept it says less
            await asyncio.gather(*(manifest.keep(facts, one.read_of(going), self._gen) for one in copyings))
        self.state = "moved"

    async def _copy_rest(self, slots: frozenset[int]) -> None:
        await self._each(lambda copying: copying.round(slots, is_hurried=True))
        await self._each(lambda copying: copying.verify(is_hurried=True))

    def _set_aside(self, moves: Iterable[Move]) -> None:
        """Names the slots whose copies differ; they are not moved."""
        slots = self._slots(moves)
        for copying in self._copyings:
            for slot, order_ids in copying.differing(slots).items():
                named = tuple(format_uuid(order_id) for order_id in order_ids)
                self._stuck.append(Stuck(slot, f"the copy differs in order {named[0]}", named))

    def _left(self) -> tuple[Move, ...]:
        done = self._slots(self._moved) | {stuck.slot for stuck in self._stuck}
        return tuple(move for move in self.moves if move.slot not in done)

    def _slots(self, moves: Iterable[Move]) -> frozenset[int]:
        return frozenset(move.slot for move in moves)

    async def _each(self, call: Callable[[Copying], Coroutine[object, object, int | None]]) -> int:
        """Does something for each target, side by side; returns how many rows that were. One that fails ends all."""
        return sum(count or 0 for count in await all_of(call(copying) for copying in self._copyings))


def flipped(topology: Topology, moves: Sequence[Move], gen: int) -> Topology | None:
    """Returns the next topology, in which these slots are on their targets under ``gen``; None: they are already."""
    shards = list(topology.slot_shards)
    gens = list(topology.slot_gens)
    for move in moves:
        if (shards[move.slot], gens[move.slot]) == (move.target, gen):
            continue
        assert (shards[move.slot], gens[move.slot]) == (move.source, move.old_gen), "a slot has moved by itself"
        shards[move.slot], gens[move.slot] = move.target, gen
    if tuple(gens) == topology.slot_gens:
        return None
    return replace(topology, epoch=topology.epoch + 1, slot_shards=tuple(shards), slot_gens=tuple(gens))


def as_opened(topology: Topology, leaving: Leaving) -> Topology | None:
    """Returns the next topology, in which the slots are where workers have opened them; None: they are already."""
    shards = list(topology.slot_shards)
    gens = list(topology.slot_gens)
    for slot, target in leaving.targets:
        if gens[slot] < leaving.gen:
            shards[slot], gens[slot] = target, leaving.gen
    if tuple(gens) == topology.slot_gens:
        return None
    return replace(topology, epoch=topology.epoch + 1, slot_shards=tuple(shards), slot_gens=tuple(gens))
