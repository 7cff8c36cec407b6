"""Rebalances one after another, as operators order them: what each counts with, and which shards are left."""

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import cast

import pytest

from shards.contract import Copies
from shards.facts import Facts
from shards.keys import SLOTS
from shards.rebalance import commands, doctor
from shards.rebalance.cleanup import clean_up
from shards.rebalance.commands import Wanted
from shards.rebalance.fleet import Fleet
from shards.rebalance.home import Book
from shards.rebalance.plan import Plan, PlanRefused
from shards.rebalance.record import Command, IllegalStep, Kind, Options
from shards.topology import ShardInfo, Topology
from shards.topology_store import TopologyStore
from tests.support.memory_facts import MemoryFacts
from tests.support.rebalances import record_of, topology_of


class NoCopies:
    """A shard without orders."""

    async def present(self) -> AbstractSet[tuple[int, int]]:
        """Nothing is there."""
        return frozenset()


class Shards(Fleet):
    """Three shards without orders, and what was made of others."""

    def __init__(self) -> None:
        self._home = MemoryFacts()
        self._of_shard: dict[int, MemoryFacts] = {}
        self.prepared: list[int] = []

    @property
    def home(self) -> Facts:
        """In memory."""
        return self._home

    async def part(self, shard: int) -> tuple[Facts, Copies]:
        """A shard, which is made when it is first asked for."""
        return self._of_shard.setdefault(shard, MemoryFacts()), cast("Copies", NoCopies())

    async def prepare(self, shard: int) -> None:
        """Notes it."""
        self.prepared.append(shard)

    async def close(self) -> None:
        """Nothing to do."""


async def three_shards() -> Shards:
    """Three equal shards and no rebalance yet."""
    fleet = Shards()
    await TopologyStore(fleet.home).create(Topology.initial(3))
    return fleet


async def planned(fleet: Fleet, wanted: Wanted) -> tuple[Topology, Plan]:
    """The plan for it, with no look at orders."""
    return await commands.survey(fleet, wanted, Options(), {})


async def done(fleet: Fleet, wanted: Wanted, *, moves: int = SLOTS, ends: Command = Command.FINISH) -> None:
    """Starts it and does what a mover does, in one step; cancelled, ``moves`` of its slots have moved."""
    topology, made = await planned(fleet, wanted)
    record = await commands.begin(fleet, topology, made, Options(soak_s=0), "ann")
    placed, shards = list(topology.slot_shards), dict(topology.shards) | dict(record.shards_after)
    for move in record.moves[:moves]:
        placed[move.slot] = move.target
    changed = replace(
        topology,
        epoch=topology.epoch + 1,
        shards=tuple(ShardInfo(*pair) for pair in sorted(shards.items())),
        slot_shards=tuple(placed),
        next_shard_id=max(topology.next_shard_id, *(shard + 1 for shard in shards)),
    )
    assert await TopologyStore(fleet.home).compare_and_set(topology.epoch, changed)
    if ends is Command.CANCEL:
        record = record.after(Command.CANCEL, "ann")
    found = await Book(fleet.home).read()
    assert found is not None
    assert await Book(fleet.home).replace(found[0], record.after(Command.FINISH, "mover"))


async def ids(fleet: Fleet) -> list[int]:
    """The shards that the topology names."""
    return [info.id for info in (await topology_of(fleet)).shards]


DRAIN = Wanted(Kind.DRAIN, shard=1)
ADD = Wanted(Kind.ADD)
REVERSE = Wanted(Kind.REVERSE)


async def test_no_plan_fills_a_shard_that_was_emptied() -> None:
    """Until its clean-up a drained shard gets no slots, whatever is planned, and the doctor asks for none."""
    fleet = await three_shards()
    await done(fleet, DRAIN)
    assert await doctor.examine(fleet, rows=False) == []
    _, made = await planned(fleet, ADD)
    assert set(made.targets.values()) == {3}
    assert len(made.targets) == made.minimum == SLOTS // 3
    _, made = await planned(fleet, Wanted(Kind.DRAIN, shard=0))
    assert Counter(made.targets.values()) == {2: SLOTS // 2}
    with pytest.raises(PlanRefused, match="nothing would move"):
        await planned(fleet, Wanted(Kind.REWEIGHT))
    _, made = await planned(fleet, Wanted(Kind.REWEIGHT, weights={0: 3}))
    assert {load.shard: load.slots for load in made.after} == {0: SLOTS * 3 // 4, 2: SLOTS // 4}
    _, made = await planned(fleet, Wanted(Kind.SPLIT, slots=(7,), to_new_shard=True))
    assert dict(made.targets) == {7: 3}


@pytest.mark.parametrize(
    "wanted", [DRAIN, Wanted(Kind.REWEIGHT, weights={1: 2}), Wanted(Kind.SPLIT, shard=1, slots=(7,))]
)
async def test_a_shard_that_was_emptied_is_not_to_be_named(wanted: Wanted) -> None:
    """Who names a drained shard is told that its clean-up lets it go; once that is done there is no such shard."""
    fleet = await three_shards()
    await done(fleet, DRAIN)
    with pytest.raises(PlanRefused, match="shard 1 is emptied, and `cleanup` lets it go"):
        await planned(fleet, wanted)
    await clean_up(fleet, "ann")
    with pytest.raises(PlanRefused, match="there is no shard 1; there are 0, 2"):
        await planned(fleet, wanted)


async def test_what_comes_after_a_drain_lets_the_emptied_shard_go_as_well() -> None:
    """A shard that was drained goes with the clean-up of whatever was done, taken back, cancelled or mended since."""
    for later, left in (
        ([], [0, 2]),
        ([ADD], [0, 2, 3]),
        ([ADD, REVERSE], [0, 2]),
        ([ADD, REVERSE, REVERSE], [0, 2, 3]),
        ([Wanted(Kind.DRAIN, shard=0)], [2]),
        ([REVERSE], [0, 1, 2]),
        ([REVERSE, REVERSE], [0, 2]),
    ):
        fleet = await three_shards()
        for wanted in (DRAIN, *later):
            await done(fleet, wanted)
        await clean_up(fleet, "ann")
        assert await ids(fleet) == left, later
        assert await doctor.examine(fleet, rows=False) == []


async def test_a_cancel_or_a_mend_after_a_drain_keeps_no_emptied_shard() -> None:
    """What a cancel leaves behind holds slots or is meant to; a shard that was drained before it is neither."""
    fleet = await three_shards()
    await done(fleet, DRAIN)
    await done(fleet, ADD, moves=9, ends=Command.CANCEL)
    _, made = await planned(fleet, Wanted(Kind.REWEIGHT))
    assert set(made.targets.values()) == {3}
    await clean_up(fleet, "ann")
    assert await ids(fleet) == [0, 2, 3]

    fleet = await three_shards()
    await done(fleet, DRAIN)
    mended = await commands.mend(fleet, "ann")
    assert mended.shards_before == mended.shards_after == ((0, 1), (2, 1))


async def test_a_drain_that_was_cancelled_empties_nothing() -> None:
    """A shard whose drain was called off counts as before, also where its last slot had left."""
    fleet = await three_shards()
    await done(fleet, DRAIN, ends=Command.CANCEL)
    _, made = await planned(fleet, Wanted(Kind.REWEIGHT))
    assert set(made.targets.values()) == {1}
    await clean_up(fleet, "ann")
    assert await ids(fleet) == [0, 1, 2]


async def test_a_drain_is_taken_back_until_it_is_cleaned_up() -> None:
    """Reversing a drain fills the emptied shard with what it had."""
    fleet = await three_shards()
    first = await topology_of(fleet)
    await done(fleet, DRAIN)
    await done(fleet, REVERSE)
    assert (await topology_of(fleet)).slot_shards == first.slot_shards
    assert (await record_of(fleet)).shards_after == first.shards
    assert fleet.prepared == []  # it is there already
    assert await doctor.examine(fleet, rows=False) == []


async def test_a_plan_that_a_clean_up_has_overtaken_is_refused() -> None:
    """A shard that was let go while a plan was made does not come back by it: its id is never used again."""
    fleet = await three_shards()
    await done(fleet, DRAIN)
    topology, made = await planned(fleet, REVERSE)
    cleaned = await clean_up(fleet, "ann")
    with pytest.raises(IllegalStep, match="plan again"):
        await commands.begin(fleet, topology, made, Options(), "ann")
    assert await record_of(fleet) == cleaned
    with pytest.raises(PlanRefused, match="shard 1 is gone since cleanup"):
        await planned(fleet, REVERSE)
