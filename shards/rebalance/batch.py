"""Moves some slots of one source: copy, pause, copy the rest, compare, flip, open.

No slot is flipped whose copies were not read back, in full, and found equal to what the source holds after every
worker had confirmed the pause.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from shards.contract import StoreError
from shards.keys import format_uuid
from shards.rebalance.copying import Copying
from shards.rebalance.fleet import At, Part
from shards.rebalance.gates import Gates
from shards.rebalance.home import Home
from shards.rebalance.record import Move, Stuck
from shards.rebalance.sealing import Sealing
from shards.rebalance.throttle import Throttle
from shards.topology import Topology

SMALL_ROWS: Final = 32
"""A round that copied no more was the last before the pause: the next one takes a few milliseconds."""

_ROUNDS_MAX: Final = 12
_LARGE_ROWS: Final = 2_000  # when rounds do not get smaller than this, the slots are not paused: it would last
_FINAL_ROUNDS_MAX: Final = 4  # under the pause only stragglers of workers that were given up can still arrive
_TRIES_MAX: Final = 5
_RETRY_S: Final = 0.5


class Outcome(NamedTuple):
    """What became of a batch."""

    moved: tuple[Move, ...]
    stuck: tuple[Stuck, ...]
    pause_s: float = 0.0
    """How long its slots were paused, as the mover saw it."""


class Batch:
    """Slots of one source, moved together. ``state`` tells what is being done to them."""

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

    async def run(self, is_wanted: Callable[[], bool]) -> Outcome:
        """Moves the slots; ``is_wanted`` is asked before they are paused, False leaves them where they are.

        A store that fails is tried again a few times; then its slots are stuck. Raises ``Deposed``.
        """
        tries = 1
        while True:
            try:
                return await self._once(is_wanted)
            except StoreError as error:
                # whatever was paused is open again: see _under_pause
                if tries == _TRIES_MAX:
                    reason = f"{type(error).__name__}: {error}"
                    self._stuck.extend([Stuck(move.slot, reason) for move in self._left()])
                    return Outcome((), tuple(self._stuck))
                tries += 1
                self.state = f"waiting after an error: {error}"
                await asyncio.sleep(_RETRY_S * tries)

    async def _once(self, is_wanted: Callable[[], bool]) -> Outcome:
        self._rows_before = self.rows
        self._copyings = self._begin(self._left())
        await self._copy()
        self.state = "verifying"
        await self._each(lambda copying: copying.verify())
        await self._sealing.repeat(self._left())
        await self._set_aside()
        if not self._left() or not is_wanted():
            return Outcome((), tuple(self._stuck))
        self.state = "waiting for workers"
        await self._gates.steady()
        await self._copy()
        await self._each(lambda copying: copying.verify(is_hurried=True))
        if not is_wanted():
            return Outcome((), tuple(self._stuck))
        began = time.monotonic()
        moved = await self._under_pause()
        return Outcome(moved, tuple(self._stuck), time.monotonic() - began)

    def _begin(self, moves: Sequence[Move]) -> list[Copying]:
        by_target: dict[int, list[Move]] = {}
        for move in moves:
            by_target.setdefault(move.target, []).append(move)
        return [
            Copying(self._parts[group[0].source].copies, self._parts[target].copies, group, self._gen, self._throttle)
            for target, group in by_target.items()
        ]

    async def _copy(self) -> None:
        """Copies until a round is small. Raises ``StoreError`` when they do not get smaller."""
        self.state = "copying"
        await self._at("before index and place")
        placed = 0
        for _ in range(_ROUNDS_MAX):
            placed = await self._each(lambda copying: copying.round())
            if placed <= SMALL_ROWS:
                break
        await self._at("after index and place")
        if placed > _LARGE_ROWS:
            raise StoreError(f"the slots are written to faster than they are copied: {placed} rows in a round")

    async def _under_pause(self) -> tuple[Move, ...]:
        slots = [move.slot for move in self._left()]
        self.state = "pausing"
        written = await self._gates.pause(slots)
        try:
            await self._gates.confirmed(written)
            self.state = "paused"
            await self._at("before final place")
            for _ in range(_FINAL_ROUNDS_MAX):
                placed = await self._each(lambda copying: copying.round(is_hurried=True))
                await self._each(lambda copying: copying.verify(is_hurried=True))
                if not placed:
                    break
            await self._at("after final place")
            await self._sealing.repeat(self._left())
            await self._set_aside()
        except StoreError:
            await self._gates.unpause(slots)
            raise
        moves = self._left()
        if not moves:
            await self._gates.unpause(slots)
            return ()
        self.state = "flipping"
        topology = await self._home.change("flip", lambda topology: flipped(topology, moves, self._gen))
        self.state = "opening"
        await self._gates.known(topology.epoch)
        await self._gates.unpause(slots, epoch_min=topology.epoch)
        self.state = "moved"
        return moves

    async def _set_aside(self) -> None:
        """Names the slots whose copies differ; they are not moved."""
        for copying in self._copyings:
            for slot, order_ids in (await copying.differing()).items():
                named = tuple(format_uuid(order_id) for order_id in order_ids)
                self._stuck.append(Stuck(slot, f"the copy differs in order {named[0]}", named))

    def _left(self) -> tuple[Move, ...]:
        aside = {stuck.slot for stuck in self._stuck}
        return tuple(move for move in self.moves if move.slot not in aside)

    async def _each(self, call: Callable[[Copying], object]) -> int:
        total = 0
        for copying in self._copyings:
            result = call(copying)
            assert asyncio.iscoroutine(result)
            total += await result or 0
        return total


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
