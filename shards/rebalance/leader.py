"""Which of several movers works: one leads by a lease, the others stand by.

The lease only says when to take over. What keeps two leaders apart is the attempt (``record``): whoever begins to lead
begins an attempt of its own, and nothing of an earlier one counts any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from shards.contract import StoreError
from shards.facts import Fact, Facts
from shards.leases.hold import boottime_s
from shards.rebalance.record import SCOPE

MOVER: Final = "mover"
"""Name of the fact that says who leads, in the scope of the record."""

LEADS_S: Final = 3.0
"""How long after its last renewal a leader is left alone."""

_RENEW_S: Final = 0.5
_LOOK_S: Final = 0.25


class Leader(msgspec.Struct, frozen=True):
    """Who leads, as the fact holds it. The fact's revision rises with every renewal."""

    mover: str
    duration_s: float = LEADS_S

    def to_bytes(self) -> bytes:
        """Returns it as bytes."""
        return msgspec.json.encode(self)


class Leadership:
    """One mover's part in it."""

    def __init__(self, facts: Facts, mover: str, clock_s: Callable[[], float] = boottime_s) -> None:
        """``facts``: those where the topology is kept. ``mover`` is a name never used again."""
        self._facts: Final = facts
        self._mover: Final = mover
        self._clock_s: Final = clock_s
        self._revision = 0

    def __repr__(self) -> str:
        return f"Leadership({self._mover}, revision={self._revision})"

    async def win(self, *, wait: bool = True) -> bool:
        """Returns True when this mover leads; without ``wait``, False where another one does that may be alive."""
        seen, seen_s, duration_s = 0, self._clock_s(), LEADS_S
        while True:
            with suppress(StoreError):
                fact = await self._facts.read(SCOPE, MOVER)
                if fact is None:
                    mine = Fact(1, Leader(self._mover).to_bytes())
                    if await self._facts.create(SCOPE, MOVER, mine) == mine:
                        self._revision = 1
                        return True
                    continue
                if fact.revision != seen:
                    if seen and not wait:
                        return False  # it is renewed: somebody lives
                    seen, seen_s = fact.revision, self._clock_s()
                    duration_s = _leader(fact).duration_s
                has_ended = not _leader(fact).mover or self._clock_s() >= seen_s + duration_s
                if has_ended and await self._put(fact.revision):
                    return True
            await asyncio.sleep(_LOOK_S)

    async def hold(self) -> None:
        """Renews until another mover leads; then returns. A store that is away is asked again."""
        while True:
            await asyncio.sleep(_RENEW_S)
            with suppress(StoreError):
                if not await self._put(self._revision):
                    fact = await self._facts.read(SCOPE, MOVER)
                    if fact is None or _leader(fact).mover != self._mover:
                        return
                    self._revision = fact.revision

    async def leave(self) -> None:
        """Lets the next one lead at once. Raises ``StoreError``."""
        if self._revision:
            left = Fact(self._revision + 1, Leader("").to_bytes())
            await self._facts.replace(SCOPE, MOVER, self._revision, left)

    async def _put(self, revision: int) -> bool:
        if await self._facts.replace(SCOPE, MOVER, revision, Fact(revision + 1, Leader(self._mover).to_bytes())):
            self._revision = revision + 1
            return True
        return False


async def leading(facts: Facts) -> str | None:
    """Returns the mover that leads, or was the last to; None where none ever did or it has left."""
    fact = await facts.glance(SCOPE, MOVER)
    return None if fact is None else _leader(fact).mover or None


def _leader(fact: Fact) -> Leader:
    try:
        return msgspec.json.decode(fact.value, type=Leader)
    except msgspec.DecodeError:
        return Leader("")  # nobody can have written that: whoever comes leads
