"""Following the home of the topology to where it has moved."""

from collections.abc import Sequence

from shards.facts import Facts
from shards.homes import CLAIM, Claim, FollowedHome, Passing, Step
from shards.topology import Topology
from shards.topology_store import NAME, SCOPE, TopologyStore
from tests.support.memory_facts import FactsLost, MemoryFacts


async def test_the_new_home_is_enough() -> None:
    """The topology is found where it has moved to, though another place that the settings name is away."""
    old, new, away = MemoryFacts(), MemoryFacts(), MemoryFacts()
    topology = Topology.initial(1)
    await old.create(SCOPE, NAME, Passing(Step.MOVED, "new", "there", topology.to_bytes()).to_fact(7))
    await new.create(SCOPE, CLAIM, Claim("new", "operator", 0).to_fact())

    async def lost(_what: str, _is_answer: bool) -> None:
        raise FactsLost("away")

    async def find() -> Sequence[Facts]:
        return (new, away)

    away.between = lost
    found = await TopologyStore(FollowedHome(old, find)).load()
    assert found is not None
    assert (found.epoch, found.slot_shards) == (7, topology.slot_shards)
