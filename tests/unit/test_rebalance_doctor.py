"""Whom the doctor names: workers that are given the time they need first."""

import asyncio

from shards.leases import SCOPE, Lease, LeaseWatch
from shards.leases.states import Word
from shards.rebalance.doctor import laggards
from tests.simulation.virtual_time import run
from tests.support.memory_facts import MemoryFacts


async def renewing(facts: MemoryFacts, worker: str, epoch: int, learns: int | None = None) -> None:
    """Renews a worker's lease each second; from its third renewal on it knows the epoch ``learns``."""
    for revision in range(1, 30):
        knows = learns if learns is not None and revision > 2 else epoch
        told = Lease(worker, 1, knows)
        facts.kept[SCOPE, told.fact_name] = told.to_fact(revision)
        await asyncio.sleep(1)  # sleep: simulated


async def telling(facts: MemoryFacts, worker: str) -> None:
    """Tells a worker's word each second, which renews nothing."""
    for revision in range(1, 30):
        word = Word(worker, 1, 2)
        facts.kept[SCOPE, word.fact_name] = word.to_fact(revision)
        await asyncio.sleep(1)  # sleep: simulated


def test_who_is_slow_to_learn_of_an_epoch_is_not_named() -> None:
    """Workers that learn of a topology a little later are in order, and nobody is waited for once all know it."""

    async def main() -> tuple[tuple[set[str], set[str]], float]:
        facts = MemoryFacts()
        workers = [asyncio.ensure_future(renewing(facts, f"worker-{n}", 1, learns=2)) for n in range(2)]
        await asyncio.sleep(0.5)  # sleep: simulated
        clock = asyncio.get_running_loop().time
        began = clock()
        named = await laggards(LeaseWatch(facts, clock), 2)
        for worker in workers:
            worker.cancel()
        return named, clock() - began

    named, took_s = run(main())
    assert named == (set(), set())
    assert took_s < 3


def test_who_never_learns_and_who_does_not_renew_are_named_apart() -> None:
    """After a lease's time a worker that still acts under an old topology is named, and apart from it a silent one."""

    async def main() -> tuple[set[str], set[str]]:
        facts = MemoryFacts()
        worker = asyncio.ensure_future(renewing(facts, "blind", 1))
        silent = Lease("silent", 1, 2)
        facts.kept[SCOPE, silent.fact_name] = silent.to_fact(7)
        talking = asyncio.ensure_future(telling(facts, "silent"))
        await asyncio.sleep(0.5)  # sleep: simulated
        named = await laggards(LeaseWatch(facts, asyncio.get_running_loop().time), 2)
        worker.cancel()
        talking.cancel()
        return named

    assert run(main()) == ({"silent"}, {"blind"})
