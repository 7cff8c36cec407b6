"""The home of the topology, wherever it has gone: facts that follow the pointers that a move of the home leaves.

The home is where the topology is kept, and in the scope ``BESIDE`` all that operators and movers agree by. It moves in
three steps, each one change of the topology's own fact in the old home:

1. *claimed*: the new home, empty, gets an id of its own, by which it is known whatever its address is;
2. *offered*: the topology, under its next epoch, together with that id. It counts as ever, but whoever reads it must be
   able to reach the new home, so that a worker's lease under that epoch says: I can follow;
3. *moved*: the pointer. From then on the old home is not believed, and never will be again.

Whoever reads the pointer completes the move, if nobody has: takes along what is kept beside, and last of all creates
the topology in the new home, under the pointer's epoch. So there is one home that is believed at any moment: the old
one until the pointer is there, the new one from when the topology is in it, and between the two nobody needs one, for
leases are kept beside the orders.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from shards.contract import Corrupt, StoreError
from shards.facts import Fact, Facts, Guard
from shards.topology import Topology
from shards.topology_store import NAME, SCOPE

BESIDE: Final = "rebalance"
"""Scope of the facts that move with the topology."""

CLAIM: Final = "home"
"""Name of the fact, beside the topology, by which a home is known."""

HOMES_MAX: Final = 16
"""Pointers followed one after another."""

_MAGIC: Final = b"crest-home"
_TOPOLOGY: Final = (SCOPE, NAME)

_log: Final = logging.getLogger("crest.topology")

_T = TypeVar("_T")


class HomeUnknown(StoreError):
    """The topology has moved to where this process cannot follow. One line for the operator."""


class Step(enum.Enum):
    """How far a move of the home is."""

    OFFERED = "offered"
    MOVED = "moved"


class Passing(msgspec.Struct, frozen=True):
    """What the topology's fact in the old home says while the home moves, and ever after."""

    step: Step
    id: str
    """The new home's, as its ``Claim`` says."""
    where: str
    """The new home, for people."""
    topology: bytes
    """As of the fact's revision."""

    def to_fact(self, epoch: int) -> Fact:
        """Returns the fact that says so."""
        return Fact(epoch, _MAGIC + msgspec.msgpack.encode(self))


class Claim(msgspec.Struct, frozen=True):
    """By what a home is known, and who chose it."""

    id: str
    who: str
    at_unix_ms: int

    def to_fact(self) -> Fact:
        """Returns the fact that says so."""
        return Fact(1, msgspec.msgpack.encode(self))


async def claim_of(facts: Facts) -> Claim | None:
    """Returns the claim of a home; None for the first one of an installation. Raises ``StoreError``."""
    fact = await facts.read(SCOPE, CLAIM)
    return None if fact is None else claim_from(fact)


def claim_from(fact: Fact) -> Claim:
    """Returns what a claim's fact says. Raises ``Corrupt``."""
    try:
        return msgspec.msgpack.decode(fact.value, type=Claim)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"the id of the topology's home is not readable: {error}") from error


def passing_of(fact: Fact | None) -> Passing | None:
    """Returns what the topology's fact says of a move of the home; None where it is the topology alone, or none."""
    if fact is None or not fact.value.startswith(_MAGIC):
        return None
    try:
        return msgspec.msgpack.decode(fact.value[len(_MAGIC) :], type=Passing)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"where the topology has moved to is not readable: {error}") from error


class FollowedHome(Facts):
    """The facts of the home that is believed. Starts at one of its homes, and follows the pointers from there."""

    def __init__(self, first: Facts, find: Callable[[], Awaitable[Sequence[Facts]]]) -> None:
        """``first`` stays with whoever opened it; ``find`` opens what may be the next home, by the settings of now."""
        self._home = first
        self._find: Final = find
        self._reached: Final[dict[str, Facts]] = {}
        self._reaching: Final = asyncio.Lock()
        self._believed = 0  # the revision of the topology's fact that was last seen to be no pointer

    def __repr__(self) -> str:
        return f"FollowedHome({self._home!r})"

    async def read(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.read``."""
        if (scope, name) == _TOPOLOGY:
            return await self._topology(lambda home: home.read(SCOPE, NAME))
        return await self._beside(lambda home: home.read(scope, name))

    async def glance(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.glance``."""
        if (scope, name) == _TOPOLOGY:
            return await self._topology(lambda home: home.glance(SCOPE, NAME))
        return await self._beside(lambda home: home.glance(scope, name))

    async def revision(self, scope: str, name: str) -> int:
        """See ``Facts.revision``: the topology's rises when the home moves, and whoever reads it then follows."""
        if (scope, name) == _TOPOLOGY:
            return await self._home.revision(SCOPE, NAME)
        return await self._beside(lambda home: home.revision(scope, name))

    async def list(self, scope: str) -> Mapping[str, Fact]:
        """See ``Facts.list``."""
        return await self._beside(lambda home: home.list(scope))

    async def create(self, scope: str, name: str, fact: Fact) -> Fact:
        """See ``Facts.create``."""
        if (scope, name) == _TOPOLOGY:
            created = await self._topology(lambda home: home.create(SCOPE, NAME, fact))
            assert created is not None, "something is there after a create"
            return created
        return await self._beside(lambda home: home.create(scope, name, fact))

    async def replace(self, scope: str, name: str, revision: int, fact: Fact) -> bool:
        """See ``Facts.replace``."""
        home = self._home
        is_done = await home.replace(scope, name, revision, fact)
        if (scope, name) == _TOPOLOGY or not await self._has_left(home):
            return is_done
        # perhaps it was too late to be taken along: the new home tells
        return await self.read(scope, name) == fact

    async def delete(self, scope: str, name: str, revision: int) -> bool:
        """See ``Facts.delete``."""
        return await self._beside(lambda home: home.delete(scope, name, revision))

    async def grant(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.grant``."""
        return await self._beside(lambda home: home.grant(scope, name, fact, guard))

    async def renew(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.renew``."""
        return await self._beside(lambda home: home.renew(scope, name, fact, guard))

    async def tell(self, scope: str, name: str, fact: Fact) -> None:
        """See ``Facts.tell``."""
        await self._beside(lambda home: home.tell(scope, name, fact))

    async def close(self) -> None:
        """Closes the homes that were followed to; the first one is its opener's. Idempotent."""
        for facts in self._reached.values():
            await facts.close()

    async def _topology(self, ask: Callable[[Facts], Awaitable[Fact | None]]) -> Fact | None:
        """Returns what is asked of the topology's fact in the home that is believed."""
        for _ in range(HOMES_MAX):
            home = self._home
            fact = await ask(home)
            if passing_of(fact) is None:
                return fact
            fact = await home.read(SCOPE, NAME)  # whatever was asked: a home is left for what is certain
            passing = passing_of(fact)
            if fact is None or passing is None:
                return fact
            if passing.step is Step.OFFERED:
                await self._reach(passing)  # whoever cannot follow must not act under this epoch
                return Fact(fact.revision, passing.topology)
            await self._follow(home, fact, passing)
        raise Corrupt(f"the topology has moved more than {HOMES_MAX} times: the pointers go round in a circle")

    async def _beside(self, ask: Callable[[Facts], Awaitable[_T]]) -> _T:
        """Returns what is asked of the home that was still believed afterwards."""
        for _ in range(HOMES_MAX):
            home = self._home
            answer = await ask(home)
            if not await self._has_left(home):
                return answer
        raise Corrupt(f"the topology has moved more than {HOMES_MAX} times: the pointers go round in a circle")

    async def _has_left(self, home: Facts) -> bool:
        """Tells whether a home is no longer believed; follows then."""
        if home is not self._home:
            return True
        revision = await home.revision(SCOPE, NAME)
        if revision == self._believed:
            return False
        fact = await home.read(SCOPE, NAME)
        passing = passing_of(fact)
        if fact is not None and passing is not None and passing.step is Step.MOVED:
            await self._follow(home, fact, passing)
            return True
        self._believed = 0 if fact is None else fact.revision
        return False

    async def _follow(self, home: Facts, fact: Fact, passing: Passing) -> None:
        following = await self._reach(passing)
        await _complete(home, following, fact.revision, passing)
        if self._home is home:
            self._home, self._believed = following, 0
            _log.warning("the topology is kept in %s now: name it as [topology] in the topology file", passing.where)

    async def _reach(self, passing: Passing) -> Facts:
        """Returns the new home. Raises ``HomeUnknown`` where the settings do not name it, and ``StoreError``."""
        async with self._reaching:
            if passing.id not in self._reached:
                found: Facts | None = None
                candidates = await self._find()
                try:
                    for candidate in candidates:
                        claim = await claim_of(candidate)
                        if claim is not None and claim.id == passing.id:
                            found = candidate
                            break  # the others may be away, and nobody asks them
                finally:
                    await asyncio.gather(*(other.close() for other in candidates if other is not found))
                if found is None:
                    verb = "is about to move to" if passing.step is Step.OFFERED else "is kept in"
                    raise HomeUnknown(
                        f"the topology {verb} {passing.where}: name that in the topology file, as [topology.next] or, "
                        "once it has moved, as [topology]"
                    )
                self._reached[passing.id] = found
            return self._reached[passing.id]


async def _complete(old: Facts, new: Facts, epoch: int, passing: Passing) -> None:
    """Makes the new home one that is believed; nothing where it is. Any number may do it at once, and be killed."""
    if await new.revision(SCOPE, NAME):
        return
    for name in sorted(await old.list(BESIDE)):
        fact = await old.read(BESIDE, name)
        if fact is not None:
            await new.create(BESIDE, name, fact)
    topology = replace(Topology.from_bytes(passing.topology), epoch=epoch)
    await new.create(SCOPE, NAME, Fact(epoch, topology.to_bytes()))
