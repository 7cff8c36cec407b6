"""A mover's hand on one shard's slots: what it waits for, and what it clears away."""

import asyncio

import pytest

from shards.contract import StoreError
from shards.leases import SCOPE, Lease, Leaving, SlotStates
from shards.leases.states import STATES
from shards.rebalance.fleet import Deposed, nowhere
from shards.rebalance.gates import Gates
from tests.simulation.virtual_time import run
from tests.support.memory_facts import MemoryFacts


async def lease(facts: MemoryFacts, worker: str, states_revision: int, revision: int = 1, epoch: int = 1) -> None:
    """Writes a worker's lease as its keeper would."""
    told = Lease(worker, states_revision, epoch)
    facts.kept[SCOPE, told.fact_name] = told.to_fact(revision)
    await asyncio.sleep(0)  # sleep: a turn of the loop


def gates_over(facts: MemoryFacts, attempt: int = 1) -> Gates:
    """Gates in the time of the loop."""
    return Gates(0, facts, attempt, nowhere, asyncio.get_running_loop().time)


def test_a_pause_waits_for_each_worker_or_for_the_end_of_its_lease() -> None:
    """A worker that renews under the new states confirms; one that is silent is waited for as long as its lease."""

    async def main() -> tuple[float, float]:
        facts = MemoryFacts()
        gates = gates_over(facts)
        clock = asyncio.get_running_loop().time
        await lease(facts, "quick", 1)
        await lease(facts, "dead", 1)
        written = await gates.pause({7: 1})
        assert SlotStates.from_fact(facts.kept[SCOPE, STATES]).paused == frozenset({7})
        began = clock()
        waiting = asyncio.ensure_future(gates.confirmed(written))
        await asyncio.sleep(0.1)  # sleep: simulated, the interval of a renewal
        await lease(facts, "quick", written.revision, 2)
        await waiting
        for_the_dead = clock() - began
        await lease(facts, "quick", written.revision, 3)
        del facts.kept[SCOPE, "lease/dead"]
        began = clock()
        await gates.confirmed(written)
        return for_the_dead, clock() - began

    for_the_dead, for_nobody = run(main())
    assert 5.0 < for_the_dead < 5.5
    assert for_nobody < 0.1


def test_whether_slots_were_opened_is_settled_when_nobody_can_open_them_any_more() -> None:
    """Who takes over waits for every worker, also one that is silent; then the word that is there decides."""

    async def main(*, is_late: bool) -> tuple[float, Leaving | None]:
        facts = MemoryFacts()
        before, clock = gates_over(facts, 1), asyncio.get_running_loop().time
        await lease(facts, "silent", 1)
        written = await before.pause({7: 1})
        after = gates_over(facts, 2)
        fenced = await after.fence(is_active=True)
        began = clock()
        settling = asyncio.ensure_future(after.settle(fenced))
        await asyncio.sleep(6 if is_late else 3)  # sleep: simulated, longer, or shorter, than a lease
        await before.open(written)
        return clock() - began if settling.done() else 0, await settling

    waited, opened = run(main(is_late=True))
    assert waited > 5
    assert opened is None
    _, opened = run(main(is_late=False))
    assert opened is not None
    assert (opened.gen, opened.targets) == (1, ((7, 1),))


def test_the_rest_of_a_pause_goes_on_beside_other_work_and_ends_before_the_next() -> None:
    """Whoever pauses again waits for what is left of the pause before, and is told what became of it."""

    async def main() -> list[str]:
        gates, told = gates_over(MemoryFacts()), []

        async def rest(error: Exception | None = None) -> None:
            await asyncio.sleep(1)  # sleep: simulated
            told.append("finished")
            if error is not None:
                raise error

        gates.finish(rest())
        told.append("others are copied")
        await gates.finished()
        await gates.finished()
        told.append("paused")
        gates.finish(rest(Deposed("another one leads")))
        with pytest.raises(Deposed):
            await gates.finished()
        await gates.abandon()
        gates.finish(rest())
        await gates.abandon()
        await gates.abandon()
        await gates.finished()
        return told

    assert run(main()) == ["others are copied", "finished", "paused", "finished"]


def test_who_gives_a_word_knows_whether_it_was_given() -> None:
    """A word that may not have been given is no reason to let callers wait for the topology any longer."""

    async def main() -> tuple[bool, bool, bool]:
        facts = MemoryFacts()
        gates = gates_over(facts)
        written = await gates.pause({7: 1})
        is_given = await gates.open(written)
        await gates.unpause({7})
        is_late = await gates.open(written)

        async def lost(operation: str, is_done: bool) -> None:
            if operation == "tell" and is_done:
                raise StoreError

        written = await gates.pause({8: 1})
        facts.between = lost
        return is_given, is_late, await gates.open(written)

    assert run(main()) == (True, False, False)


def test_ended_leases_are_cleared_away_whoever_looks_meanwhile() -> None:
    """Leases that have ended go; those renewed while others were cleared away stay, and the looking goes on."""

    async def main() -> set[str]:
        facts = MemoryFacts()
        gates = gates_over(facts)

        async def between(call: str, _is_after: bool) -> None:
            if call == "delete":
                if (SCOPE, "lease/dead-0") in facts.kept:
                    await lease(facts, "dead-3", 1, 2)
                await gates.workers()

        facts.between = between
        for number in range(4):
            await lease(facts, f"dead-{number}", 1)
        watching = asyncio.ensure_future(gates.watch())
        for revision in range(1, 9):
            await lease(facts, "alive", 1, revision)
            await asyncio.sleep(1)  # sleep: simulated, as above
        kept = {name for _, name in facts.kept if name.startswith("lease/")}
        await gates.steady()
        assert not watching.done()
        watching.cancel()
        return kept

    assert run(main()) == {"lease/alive", "lease/dead-3"}


def test_a_silent_worker_is_waited_for_before_anything_is_paused() -> None:
    """While a worker has not renewed lately, though its lease lasts, the shard is not steady; without workers it is."""

    async def main() -> tuple[float, float]:
        facts = MemoryFacts()
        gates = gates_over(facts)
        clock = asyncio.get_running_loop().time
        watching = asyncio.ensure_future(gates.watch())
        began = clock()
        await gates.steady()
        at_once = clock() - began
        await lease(facts, "frozen", 1)
        await asyncio.sleep(3)  # sleep: simulated, longer than between two renewals
        began = clock()
        await gates.steady()
        watching.cancel()
        return at_once, clock() - began

    at_once, waited = run(main())
    assert at_once < 1
    assert waited > 1


def test_nobody_waits_for_a_silent_worker_before_what_is_not_wanted() -> None:
    """When nothing is to be paused any more, whoever waits for the workers goes on, though none has renewed."""

    async def main() -> float:
        clock = asyncio.get_running_loop().time
        began = clock()
        await gates_over(MemoryFacts()).steady(lambda: clock() - began < 20)  # nobody looks at its leases
        return clock() - began

    assert 20 <= run(main()) < 21


def test_a_change_is_made_until_it_has_certainly_won() -> None:
    """Answers that are lost, and stores that fail, do not end a change; a higher attempt does."""

    async def main() -> None:
        failures = [StoreError("lost"), None, StoreError("lost"), None]
        facts = MemoryFacts()

        async def between(call: str, is_after: bool) -> None:
            if call == "replace" and is_after and failures and (failure := failures.pop()):
                raise failure

        gates = gates_over(facts)
        await gates.fence(is_active=True)
        facts.between = between
        await gates.pause({1: 1})
        await gates.pause({2: 1})
        assert SlotStates.from_fact(facts.kept[SCOPE, STATES]).paused == frozenset({1, 2})
        facts.between = None
        await gates_over(facts, attempt=2).fence(is_active=True)
        with pytest.raises(Deposed):
            await gates.unpause([1])

    run(main())
