"""A worker's lease: granted, renewed, lost, and brought under new states of the slots."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import pytest

from shards.contract import StoreError
from shards.facts import Fact
from shards.leases import LEASE_S, SCOPE, Lease, LeaseWatch, SlotStates, SlotStatesWriter
from shards.leases.hold import Hold
from shards.leases.keeper import Keeper
from shards.leases.states import LEASE_PREFIX, STATES
from tests.simulation import virtual_time
from tests.support.memory_facts import FactsLost, MemoryFacts
from tests.support.observers import Notes

SHARD = 3
NAME = LEASE_PREFIX + "w"


class Worker:
    """All that a keeper deals with, and what it was told."""

    def __init__(self, facts: MemoryFacts) -> None:
        self.facts = facts
        self.notes = Notes()
        self.hold = Hold()
        self.epoch = 1
        self.reachable = 9
        self.steps: list[str] = []
        self.finished = asyncio.Event()
        self.finished.set()
        self.keeper = Keeper(SHARD, facts, self.hold, self, self, self.notes, worker="w")

    async def pause(self, shard: int, paused: frozenset[int]) -> None:
        """Takes as long as ``finished`` says."""
        assert shard == SHARD
        await self.finished.wait()
        self.steps.append(f"paused {sorted(paused)}")

    def serve(self, shard: int, paused: frozenset[int]) -> None:
        """Notes it."""
        assert shard == SHARD
        self.steps.append(f"serving but {sorted(paused)}")

    def open(self, targets: Iterable[tuple[int, int]], gen: int) -> None:
        """Notes it."""
        self.steps.append(f"opened {sorted(targets)} under {gen}")

    async def reach(self, epoch: int) -> None:
        """Knows a topology as far as there is one."""
        if epoch > self.reachable:
            raise StoreError("no such topology yet")
        self.steps.append(f"reached {epoch}")
        self.epoch = epoch

    def hurry(self, shard: int, *, is_active: bool, is_paused: bool) -> None:
        """Nothing."""

    def lease(self) -> Lease | None:
        """The lease as it is kept."""
        fact = self.facts.kept.get((SCOPE, NAME))
        return None if fact is None else Lease.from_fact(NAME, fact)

    @property
    def left_s(self) -> float:
        """For how long answers may be given yet."""
        return self.hold.until_s - time.clock_gettime(time.CLOCK_BOOTTIME)


async def pass_time(seconds: float) -> None:
    """Lets simulated seconds pass."""
    await asyncio.sleep(seconds)  # sleep: simulated


def simulated(scene: Callable[[Worker], Awaitable[None]]) -> Callable[[], None]:
    """A test in simulated time, with a worker whose keeper has begun."""

    def test() -> None:
        async def play() -> None:
            worker = Worker(MemoryFacts())
            worker.keeper.start()
            await worker.keeper.wait_held()
            worker.steps.clear()
            await scene(worker)
            await worker.keeper.leave()

        virtual_time.run(play())

    test.__doc__ = scene.__doc__
    return test


@simulated
async def test_a_lease_is_renewed_and_given_back(worker: Worker) -> None:
    """The lease is granted, renewed as long as the worker is there, and removed when it leaves."""
    first = worker.facts.kept[SCOPE, NAME].revision
    for _ in range(10):
        await pass_time(1)
        assert LEASE_S - 2 < worker.left_s <= LEASE_S
    assert worker.facts.kept[SCOPE, NAME].revision >= first + 8
    assert worker.notes.lease_ages[SHARD] < 2
    await worker.keeper.leave()
    assert worker.left_s < 0
    assert worker.lease() is None
    await pass_time(10)
    assert worker.lease() is None


@simulated
async def test_a_pause_is_confirmed_when_it_is_done(worker: Worker) -> None:
    """The worker says that it is under new states only when all that they ask is done; under old ones none renews."""
    writer, watch = SlotStatesWriter(worker.facts), LeaseWatch(worker.facts)
    before = await writer.read()
    worker.finished.clear()
    paused = before.next(is_active=True, pause=frozenset({5}), epoch_min=4)
    assert await writer.replace(before, paused)
    written_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    await pass_time(3)
    await watch.look()
    assert set(watch.pending(paused.revision, written_s)) == {"w"}
    worker.finished.set()
    await pass_time(0.1)
    await watch.look()
    assert not watch.pending(paused.revision, written_s)
    assert watch.leases["w"].epoch == 4
    lease = worker.lease()
    assert lease is not None
    assert lease.epoch == 4
    assert worker.steps[:3] == ["reached 4", "paused [5]", "serving but [5]"]
    worker.steps.clear()
    served = paused.next(unpause=frozenset({5}))
    assert await writer.replace(paused, served)
    await pass_time(0.1)  # while a move is on a change is seen at once
    assert worker.steps == ["paused []", "serving but []"]


@simulated
async def test_a_late_renewal_opens_nothing_that_is_being_paused(worker: Worker) -> None:
    """What a renewal under earlier states would have opened stays as it is while later ones pause slots."""
    writer = SlotStatesWriter(worker.facts)
    before = await writer.read()
    paused = before.next(is_active=True, pause=frozenset({5}))
    assert await writer.replace(before, paused)
    await pass_time(2)
    late = asyncio.Event()

    async def between(operation: str, is_done: bool) -> None:
        if operation == "renew" and is_done:
            await late.wait()

    worker.facts.between = between
    worker.steps.clear()
    served = paused.next(unpause=frozenset({5}))
    assert await writer.replace(paused, served)
    await pass_time(0.1)
    lease = worker.lease()
    assert lease is not None
    assert lease.states_revision == served.revision  # renewed, and not answered
    worker.finished.clear()
    again = served.next(pause=frozenset({6}))
    assert await writer.replace(served, again)
    await pass_time(0.1)
    late.set()
    await pass_time(0.1)
    assert worker.steps == ["paused []"]
    worker.finished.set()
    await pass_time(0.1)
    assert worker.steps[1] == "paused [6]"
    assert worker.steps[-1] == "serving but [6]"
    assert "serving but []" not in worker.steps


@simulated
async def test_a_word_confirms_a_pause_before_the_lease_does(worker: Worker) -> None:
    """While no renewal is answered the worker's word tells its states and its epoch, and lends it no time."""
    writer, watch = SlotStatesWriter(worker.facts), LeaseWatch(worker.facts)
    before = await writer.read()
    active = before.next(is_active=True)
    assert await writer.replace(before, active)
    await pass_time(2)

    async def between(operation: str, _is_done: bool) -> None:
        if operation == "renew":
            await asyncio.Event().wait()

    worker.facts.between = between
    paused = active.next(pause=frozenset({5}))
    assert await writer.replace(active, paused)
    written_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    await pass_time(0.1)
    await watch.look()
    assert not watch.pending(paused.revision, written_s)
    worker.epoch = 2
    worker.keeper.epoch_changed()
    await pass_time(0.01)
    await watch.look()
    assert not watch.behind(2)
    lease = worker.lease()
    assert lease is not None
    assert (lease.states_revision, lease.epoch) == (active.revision, 1)
    await pass_time(LEASE_S)
    assert worker.left_s < 0
    for task in list(worker.keeper._calls):
        task.cancel()
    worker.facts.between = None
    await worker.keeper.leave()
    assert set(worker.facts.kept) == {(SCOPE, STATES)}


@simulated
async def test_a_worker_that_cannot_know_the_topology_loses_its_lease(worker: Worker) -> None:
    """Where the states ask for an epoch that is out of reach, nothing is answered after the lease has run out."""
    writer = SlotStatesWriter(worker.facts)
    states = await writer.read()
    assert await writer.replace(states, states.next(epoch_min=100))
    await pass_time(LEASE_S + 2)
    assert worker.left_s < 0
    assert worker.notes.leases_lost == {SHARD: 1}
    assert worker.steps == []
    worker.reachable = 100
    await pass_time(2)
    assert worker.left_s > 0
    assert worker.steps == ["reached 100", "paused []", "serving but []"]


@simulated
async def test_renewals_that_fail_or_hang_are_outlived(worker: Worker) -> None:
    """A store that takes a second and a half for every call, and loses two of five, does not cost the lease."""
    calls = 0

    async def between(_operation: str, is_done: bool) -> None:
        nonlocal calls
        calls += not is_done
        is_lost = calls % 5 in {1, 3}
        await pass_time(1.0 if is_done else 0.5)
        if is_lost:
            raise FactsLost

    worker.facts.between = between
    for _ in range(60):
        await pass_time(1)
        assert worker.left_s > 0
    worker.facts.between = None


@simulated
async def test_an_unknown_renewal_counts_from_its_sending(worker: Worker) -> None:
    """A renewal whose answer comes late, or never, lets the worker answer no longer than its row says."""
    sent: list[float] = []

    async def between(operation: str, is_done: bool) -> None:
        if operation == "renew" and not is_done:
            sent.append(time.clock_gettime(time.CLOCK_BOOTTIME))
        if is_done:
            await pass_time(3)

    worker.facts.between = between
    await pass_time(8)
    assert sent
    assert worker.hold.until_s <= sent[-1] - 2 + LEASE_S
    worker.facts.between = None


@simulated
async def test_a_lease_that_others_removed_is_asked_for_again(worker: Worker) -> None:
    """A worker whose lease ended and was removed takes a new one."""
    worker.facts.kept.pop((SCOPE, NAME))
    await pass_time(3)
    assert worker.lease() is not None
    assert worker.left_s > 3


@simulated
async def test_leases_of_the_dead_are_removed(worker: Worker) -> None:
    """A lease that nobody renews is removed after a while, and no other."""
    worker.facts.kept[SCOPE, "lease/dead"] = Lease("dead", 1, 1).to_fact(7)
    await pass_time(120)
    assert set(await worker.facts.list(SCOPE)) == {NAME, STATES}


@simulated
async def test_damaged_states_stop_the_shard(worker: Worker) -> None:
    """States that this release cannot read are not acted under; when they can be read the lease is back."""
    good = SlotStates.from_fact(worker.facts.kept[SCOPE, STATES])
    worker.facts.kept[SCOPE, STATES] = Fact(good.revision + 1, b"newer than we know")
    await pass_time(LEASE_S + 2)
    assert worker.left_s < 0
    worker.facts.kept[SCOPE, STATES] = good.next().next().to_fact()
    await pass_time(2)
    assert worker.left_s > 0


@pytest.mark.parametrize("answered", [0, 1, 100])
def test_measures_are_told(answered: int) -> None:
    """99 of 100 operations took no longer than said; errors and rate are those of the last seconds, then forgotten."""

    async def play() -> None:
        hold = Hold()
        for number in range(answered):
            hold.took(0.004 if number else 0.09)
        hold.failed()
        await pass_time(2)
        told = hold.telemetry()
        assert told.rate == (answered + 1) / 2
        assert told.error_rate == 1 / (answered + 1)
        assert told.p99_ms == {0: 0, 1: 91, 100: 5}[answered]
        for _ in range(3):
            await pass_time(1)
            told = hold.telemetry()
        assert (told.rate, told.p99_ms) == (0, 0)

    virtual_time.run(play())


@simulated
async def test_a_word_opens_slots_where_they_go_while_the_lease_is_held(worker: Worker) -> None:
    """The mover's word about the very states that paused a slot opens it; a lease that has ended heeds none."""
    writer = SlotStatesWriter(worker.facts)
    states = await writer.read()
    told = (SCOPE, "open/7")

    async def pause(slot: int) -> SlotStates:
        before = await writer.read()
        paused = before.next(attempt=7, is_active=True, pause=frozenset({slot}), targets={slot: 9})
        assert await writer.replace(before, paused)
        await pass_time(2)
        return paused

    paused = await pause(5)
    worker.facts.kept[told] = Fact(states.revision, b"")  # about other states
    await pass_time(1)
    assert not [step for step in worker.steps if step.startswith("opened")]

    async def between(operation: str, _is_done: bool) -> None:
        if operation == "renew":
            raise FactsLost

    worker.facts.between = between
    await pass_time(2 * LEASE_S)
    worker.facts.kept[told] = Fact(paused.revision, b"")
    await pass_time(1)
    assert not [step for step in worker.steps if step.startswith("opened")]
    worker.facts.between = None
    await pass_time(2)  # until its lease is there again, under the same states
    assert [step for step in worker.steps if step.startswith("opened")] == ["opened [(5, 9)] under 7"]


@simulated
async def test_a_word_about_earlier_states_opens_nothing(worker: Worker) -> None:
    """Who acts under the states of the mover that has taken over does not heed the word of the one before."""
    writer = SlotStatesWriter(worker.facts)
    before = await writer.read()
    paused = before.next(attempt=7, is_active=True, pause=frozenset({5}), targets={5: 9})
    assert await writer.replace(before, paused)
    await pass_time(2)
    fenced = paused.next(attempt=8)
    assert fenced.leaving == paused.leaving
    assert await writer.replace(paused, fenced)
    await pass_time(2)
    worker.facts.kept[SCOPE, "open/7"] = Fact(paused.revision, b"")
    await pass_time(2)
    assert not [step for step in worker.steps if step.startswith("opened")]
