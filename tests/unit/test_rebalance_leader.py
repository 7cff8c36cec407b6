"""Which of several movers leads: by a lease that only says when to take over."""

import asyncio

from shards.rebalance.leader import LEADS_S, Leadership, leading
from tests.support.memory_facts import MemoryFacts


class Clock:
    """A clock that stands until it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Returns the time, in seconds."""
        return self.now_s


async def test_one_leads_while_it_renews_and_the_next_when_it_falls_silent() -> None:
    """Another mover stands by for the time of the lease since the last renewal it saw, and deposes who comes back."""
    facts, clock = MemoryFacts(), Clock()
    first, second = Leadership(facts, "first", clock), Leadership(facts, "second", clock)
    assert await first.win()
    renewing = asyncio.ensure_future(first.hold())
    assert not await second.win(wait=False)  # sees a renewal
    renewing.cancel()
    await asyncio.wait((renewing,))

    waiting = asyncio.ensure_future(second.win())
    await asyncio.wait((waiting,), timeout=0.6)
    assert not waiting.done()
    assert await leading(facts) == "first"
    clock.now_s += LEADS_S
    assert await waiting
    assert await leading(facts) == "second"
    await first.hold()  # returns: it has been deposed


async def test_who_leaves_lets_the_next_one_lead_at_once() -> None:
    """A mover that leaves says so, and the next one waits for no lease to run out."""
    facts, clock = MemoryFacts(), Clock()
    first, second = Leadership(facts, "first", clock), Leadership(facts, "second", clock)
    assert await first.win()
    await first.leave()
    assert await leading(facts) is None
    assert await second.win(wait=False)
    assert await leading(facts) == "second"
