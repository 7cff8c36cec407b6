"""Where the topology is kept: one fact, whose revision is the epoch."""

from __future__ import annotations

from typing import Final

from shards.contract import Corrupt
from shards.facts import Fact, Facts
from shards.topology import Topology, TopologyDamaged

SCOPE: Final = "topology"
"""Scope of the topology and of everything that changes it."""

NAME: Final = "current"
"""Name of the topology's fact in it."""


class TopologyStore:
    """Keeps the topology, for all workers and all movers at once. All methods raise ``StoreError``."""

    def __init__(self, facts: Facts) -> None:
        """``facts`` of the topology's home; closing them stays with whoever opened them."""
        self._facts = facts

    def __repr__(self) -> str:
        return f"TopologyStore({self._facts!r})"

    async def load(self) -> Topology | None:
        """Returns the present topology, linearizable with changes; None where none was ever created."""
        fact = await self._facts.read(SCOPE, NAME)
        return None if fact is None else _topology(fact)

    async def glance(self) -> Topology | None:
        """Returns the same at less cost: every acknowledged change included, and perhaps one that is not yet."""
        fact = await self._facts.glance(SCOPE, NAME)
        return None if fact is None else _topology(fact)

    async def epoch(self) -> int:
        """Returns the epoch of the topology at little cost, every acknowledged change included; 0 for none."""
        return await self._facts.revision(SCOPE, NAME)

    async def create(self, topology: Topology) -> Topology:
        """Stores the first topology unless there is one, and returns the one that is there then. Idempotent."""
        return _topology(await self._facts.create(SCOPE, NAME, _fact(topology)))

    async def compare_and_set(self, epoch: int, topology: Topology) -> bool:
        """Replaces the topology of ``epoch`` by ``topology`` (of ``epoch + 1``); False when another is there."""
        if topology.epoch != epoch + 1:
            raise ValueError(f"epoch {topology.epoch} does not follow {epoch}")
        return await self._facts.replace(SCOPE, NAME, epoch, _fact(topology))


def _fact(topology: Topology) -> Fact:
    return Fact(topology.epoch, topology.to_bytes())


def _topology(fact: Fact) -> Topology:
    try:
        topology = Topology.from_bytes(fact.value)
    except TopologyDamaged as error:
        raise Corrupt(f"the topology that is kept is damaged: {error}") from error
    if topology.epoch != fact.revision:
        raise Corrupt(f"the topology kept under epoch {fact.revision} says that it is of epoch {topology.epoch}")
    return topology
