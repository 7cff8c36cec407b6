"""The home of the topology moves, killed at every step and beside whoever changes what is kept there."""

import asyncio
import dataclasses
import random
from collections.abc import Iterator
from typing import cast

import pytest

from shards import homes
from shards.contract import Copies
from shards.facts import Fact, Facts
from shards.homes import BESIDE, CLAIM, FollowedHome, HomeUnknown, passing_of
from shards.leases import Lease
from shards.leases.states import SCOPE as LEASES
from shards.rebalance import home_move
from shards.rebalance.fleet import Fleet
from shards.rebalance.home_move import NewHome
from shards.rebalance.record import IllegalStep
from shards.topology import Topology
from shards.topology_store import NAME, SCOPE, TopologyStore
from tests.simulation.virtual_time import run
from tests.support.memory_facts import MemoryFacts

OTHER = "history"


class Killed(BaseException):
    """The process has ended here."""


class World:
    """Two homes, a shard, and a worker on it that follows, if it can."""

    def __init__(self, *, worker_follows: bool = True) -> None:
        self.old, self.new, self.shard = MemoryFacts(), MemoryFacts(), MemoryFacts()
        self.old.kept[SCOPE, NAME] = Fact(1, Topology.initial(1).to_bytes())
        self.old.kept[BESIDE, OTHER] = Fact(1, b"")
        self._worker = self.follower(knows_new=worker_follows)
        self._epoch = 1
        self._renewals = 0
        self.shard.between = self._renew

    def face(self, of: MemoryFacts, between: object = None) -> MemoryFacts:
        """A home as one process has it."""
        face = MemoryFacts(between)  # type: ignore[arg-type]  # a hook
        face.kept = of.kept
        return face

    def follower(self, between: object = None, *, knows_new: bool = True) -> FollowedHome:
        """The home as a process has it that was started with the old one."""

        async def find() -> list[Facts]:
            return [self.face(self.new, between)] if knows_new else []

        return FollowedHome(self.face(self.old, between), find)

    async def _renew(self, operation: str, is_done: bool) -> None:
        """The worker looks at the topology, and renews its lease, whenever somebody looks at the leases."""
        if operation != "list" or is_done:
            return
        try:
            topology = await TopologyStore(self._worker).load()
        except HomeUnknown:
            topology = None
        self._epoch = self._epoch if topology is None else topology.epoch
        self._renewals += 1
        lease = Lease(worker="host/1/a", states_revision=1, epoch=self._epoch)
        self.shard.kept[LEASES, lease.fact_name] = lease.to_fact(self._renewals)

    async def move(self, between: object = None, wait_s: float = 20) -> home_move.HomePlan:
        """One run of the command."""
        fleet = OneShard(self.follower(between), self.shard)
        return await home_move.move(fleet, NewHome(self.face(self.new, between), "there"), "ann", wait_s=wait_s)

    @property
    def believed(self) -> list[str]:
        """The homes that a process would believe that reads no other one."""
        old = self.old.kept[SCOPE, NAME]
        passing = passing_of(old)
        is_old = passing is None or passing.step is homes.Step.OFFERED
        return ["old"] * is_old + ["new"] * ((SCOPE, NAME) in self.new.kept)


class OneShard(Fleet):
    """What the command works on."""

    def __init__(self, home: Facts, shard: Facts) -> None:
        self._home, self._shard = home, shard

    @property
    def home(self) -> Facts:
        """The home."""
        return self._home

    async def part(self, shard: int) -> tuple[Facts, Copies]:
        """The one shard, of which nobody asks for orders."""
        assert shard == 0
        return self._shard, cast("Copies", None)

    async def prepare(self, shard: int) -> None:
        """Not asked."""

    async def close(self) -> None:
        """Nothing to do."""


def killed_at(point: int) -> Iterator[object]:
    """A hook that ends the process at the so-manieth point, before or after an effect, and tells whether it did."""
    passed = 0

    async def between(_operation: str, _is_done: bool) -> None:
        nonlocal passed
        passed += 1
        if passed == point + 1:
            raise Killed

    yield between
    yield passed > point


async def flip(home: Facts, slot: int) -> bool:
    """A mover raises the gen of a slot; False when another change came first."""
    store = TopologyStore(home)
    topology = await store.load()
    assert topology is not None
    gens = list(topology.slot_gens)
    gens[slot] += 1
    changed = dataclasses.replace(topology, epoch=topology.epoch + 1, slot_gens=tuple(gens))
    return await store.compare_and_set(topology.epoch, changed)


async def killed_and_begun_again(point: int, *, is_used_between: bool) -> bool:
    """Kills the command at a point, begins it again, and judges; False where it was done before that point."""
    world = World()
    hook = killed_at(point)
    try:
        await world.move(next(hook))
    except Killed:
        assert len(world.believed) <= 1
    was_killed = bool(next(hook))
    flips = 0
    if is_used_between:  # by somebody who was started before all this
        home = world.follower()
        flips = await flip(home, 7)
        before = await home.read(BESIDE, OTHER)
        assert before is not None
        assert await home.replace(BESIDE, OTHER, before.revision, Fact(before.revision + 1, b"changed"))
    assert (await world.move()).is_moved
    assert world.believed == ["new"]
    homes_now: list[Facts] = [world.follower(), world.face(world.new)]
    for now in homes_now:
        topology = await TopologyStore(now).load()
        assert topology is not None
        assert topology.slot_gens[7] == flips
        other = await now.read(BESIDE, OTHER)
        assert other is not None
        assert other.value == (b"changed" if is_used_between else b"")
    return was_killed


@pytest.mark.parametrize("is_used_between", [False, True])
def test_killed_at_any_step_it_is_begun_again_and_one_home_is_believed(is_used_between: bool) -> None:
    """At every point at most one home is believed, what is kept can be read and changed, and a second run completes."""
    points = 0
    while run(killed_and_begun_again(points, is_used_between=is_used_between)):
        points += 1
    assert points > 20


def test_a_worker_that_cannot_follow_keeps_the_home_where_it_is() -> None:
    """The offer is taken back, the worker is named, and nothing has moved."""

    async def trial() -> None:
        world = World(worker_follows=False)
        with pytest.raises(IllegalStep, match="host/1/a does not follow"):
            await world.move()
        assert world.believed == ["old"]
        assert passing_of(world.old.kept[SCOPE, NAME]) is None
        assert await flip(world.follower(knows_new=False), 3)

    run(trial())


def test_a_home_that_holds_a_topology_is_refused() -> None:
    """Neither another installation's home nor one that the topology has left becomes the home."""

    async def trial() -> None:
        world = World()
        world.new.kept[SCOPE, NAME] = Fact(1, Topology.initial(2).to_bytes())
        with pytest.raises(IllegalStep, match="holds a topology already"):
            await world.move()
        assert (SCOPE, CLAIM) not in world.new.kept

    run(trial())


async def busy(seed: int) -> None:
    """Movers flip and operators write while the home moves, with random pauses; whatever was acknowledged is kept."""
    chance = random.Random(seed)
    world = World()

    async def between(_operation: str, _is_done: bool) -> None:
        await asyncio.sleep(chance.choice((0, 0.01, 0.1, 0.5)))  # sleep: simulated seconds

    flipped: set[int] = set()
    written: set[int] = set()

    async def flips(home: Facts, slots: range) -> None:
        for slot in slots:
            while not await flip(home, slot):
                pass
            flipped.add(slot)

    async def writes(home: Facts, tokens: range) -> None:
        for token in tokens:
            fact = await home.read(BESIDE, OTHER)
            assert fact is not None
            if await home.replace(BESIDE, OTHER, fact.revision, Fact(fact.revision + 1, fact.value + bytes([token]))):
                written.add(token)

    work = [flips(world.follower(between), range(n * 6, n * 6 + 6)) for n in range(2)]
    work += [writes(world.follower(between), range(n * 20, n * 20 + 20)) for n in range(3)]
    twice = [asyncio.ensure_future(world.move(between, wait_s=60)) for _ in range(2)]  # by two operators
    await asyncio.gather(*work)
    for moved in await asyncio.gather(*twice, return_exceptions=True):
        assert isinstance(moved, IllegalStep) or (isinstance(moved, home_move.HomePlan) and moved.is_moved), moved
    assert (await world.move()).is_moved
    assert world.believed == ["new"]
    assert passing_of(world.new.kept[SCOPE, NAME]) is None
    topology = await TopologyStore(world.face(world.new)).load()
    assert topology is not None
    assert all(topology.slot_gens[slot] == 1 for slot in flipped)
    kept = world.new.kept[BESIDE, OTHER].value
    assert written <= set(kept)
    assert len(kept) == len(set(kept))


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_was_acknowledged_is_lost_while_the_home_moves(seed: int) -> None:
    """Flips and commands that were told to be done are there in the new home, each once."""
    run(busy(seed))


async def _never(_self: FollowedHome, _home: Facts) -> bool:
    return False


async def _topology_first(old: Facts, new: Facts, epoch: int, passing: homes.Passing) -> None:
    if await new.revision(SCOPE, NAME):
        return
    topology = dataclasses.replace(Topology.from_bytes(passing.topology), epoch=epoch)
    await new.create(SCOPE, NAME, Fact(epoch, topology.to_bytes()))
    for name, fact in (await old.list(BESIDE)).items():
        await new.create(BESIDE, name, fact)


@pytest.mark.parametrize(
    ("target", "name", "planted"),
    [(FollowedHome, "_has_left", _never), (homes, "_complete", _topology_first)],
    ids=["nobody looks back", "the topology goes first"],
)
def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, target: object, name: str, planted: object) -> None:
    """Whoever does not look whether the home has moved loses a command; so does a home believed too early."""
    monkeypatch.setattr(target, name, planted)

    async def judge() -> None:
        for number in SEEDS:
            await busy(number)
            await killed_and_begun_again(number, is_used_between=False)

    with pytest.raises(AssertionError):
        run(judge())
