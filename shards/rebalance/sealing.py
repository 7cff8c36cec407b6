"""Repeats on targets what was sealed on sources, so that no request id that had expired creates again after a move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Final, TypeAlias

from shards.contract import BUCKET_S
from shards.rebalance.fleet import At, Part
from shards.rebalance.record import Move

_OVERLAP: Final = 12
"""Buckets (two hours) before the last look that are looked at again. Older ones that were sealed since are sealed on
the target, too, before any id of them creates there, unless the clock of the worker it comes to is two hours late."""

_Pair: TypeAlias = tuple[int, Hashable, int, Hashable]


class Sealing:
    """The seals of all pairs of source and target that slots move between. Raises ``StoreError``."""

    def __init__(self, parts: dict[int, Part], at: At, clock_s: Callable[[], float] = time.time) -> None:
        """``parts`` are the shards by id."""
        self._parts: Final = parts
        self._at: Final = at
        self._clock_s: Final = clock_s
        self._repeated: Final[dict[_Pair, set[int]]] = {}
        self._looked_at: Final[dict[_Pair, int]] = {}
        self._locks: Final[dict[_Pair, asyncio.Lock]] = {}

    def __repr__(self) -> str:
        return f"Sealing(pairs={len(self._repeated)})"

    async def repeat(self, moves: Iterable[Move]) -> None:
        """Seals on each slot's target what is sealed on its source; the first time this may take long."""
        pairs: dict[_Pair, Move] = {}
        for move in moves:
            source, target = self._parts[move.source].copies, self._parts[move.target].copies
            pair = (move.source, source.seals_together(move.slot), move.target, target.seals_together(move.slot))
            pairs.setdefault(pair, move)
        await asyncio.gather(*(self._one(pair, move) for pair, move in pairs.items()))

    async def _one(self, pair: _Pair, move: Move) -> None:
        async with self._locks.setdefault(pair, asyncio.Lock()):
            await self._repeat(pair, move)

    async def _repeat(self, pair: _Pair, move: Move) -> None:
        now = int(self._clock_s()) // BUCKET_S
        first = max(0, self._looked_at[pair] - _OVERLAP) if pair in self._looked_at else 0
        sealed = await self._parts[move.source].copies.sealed(move.slot, first)
        repeated = self._repeated.setdefault(pair, set())
        if new := set(sealed) - repeated:
            await self._at("before seal")
            await self._parts[move.target].copies.seal(move.slot, new)
            await self._at("after seal")
            repeated |= new
        self._looked_at[pair] = now
