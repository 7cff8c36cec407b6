"""Moves the home of the topology, beside workers that serve and movers that stand by: ``shards.homes`` says how.

Killed anywhere it is simply begun again: what was claimed is claimed, what was offered is offered anew, and what was
moved is completed by whoever reads the pointer.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple

from shards.contract import Corrupt, StoreError
from shards.facts import Facts
from shards.homes import CLAIM, Claim, Passing, Step, claim_from, claim_of
from shards.leases import LeaseWatch
from shards.rebalance.fleet import Fleet, part_of
from shards.rebalance.home import Book
from shards.rebalance.record import IllegalStep, State
from shards.topology import Topology
from shards.topology_store import NAME, SCOPE, TopologyStore

FOLLOW_WAIT_S: Final = 20.0
"""How long workers are waited for; they look for a new epoch each second, and renew their leases as often."""

_LOOK_S: Final = 0.2
_TRIES_MAX: Final = 10
"""How often the topology is offered anew because it has changed meanwhile."""


class NewHome(NamedTuple):
    """Where the topology is to be kept."""

    facts: Facts
    where: str
    """For people."""


class HomePlan(NamedTuple):
    """How a move of the home stands."""

    epoch: int
    new: str
    """The new home, for people."""
    is_moved: bool
    """The topology is there already."""
    workers: int
    """That hold a lease on a shard, and will have to follow."""


async def plan(fleet: Fleet, new: NewHome) -> HomePlan:
    """Returns how it stands, and changes nothing. Raises ``IllegalStep`` where it may not be, and ``StoreError``."""
    topology = await _topology(fleet)
    theirs = await claim_of(new.facts)
    ours = await claim_of(fleet.home)
    is_moved = theirs is not None and ours is not None and ours.id == theirs.id
    if not is_moved:
        await _refuse_taken(new)
        found = await Book(fleet.home).read()
        if found is not None and found[1].state in {State.RUNNING, State.CANCELLING}:
            raise found[1].refusal(f"is {found[1].state.value}, and the topology stays where it is meanwhile")
    watches = await _watches(fleet, topology)
    await asyncio.gather(*(watch.look() for watch in watches.values()))
    workers = frozenset[str]().union(*(watch.live() for watch in watches.values()))
    return HomePlan(topology.epoch, new.where, is_moved, len(workers))


async def move(
    fleet: Fleet,
    new: NewHome,
    who: str,
    *,
    tell: Callable[[str], None] = lambda _: None,
    wait_s: float = FOLLOW_WAIT_S,
) -> HomePlan:
    """Moves the home, and returns how it stands then. ``tell`` is told each step, for people.

    Where a worker cannot follow within ``wait_s`` seconds the offer is taken back and nothing has changed. Raises
    ``IllegalStep`` and ``StoreError``.
    """
    before = await plan(fleet, new)
    if before.is_moved:
        return before
    drawn = Claim(secrets.token_hex(8), who, time.time_ns() // 1_000_000)
    claim = claim_from(await new.facts.create(SCOPE, CLAIM, drawn.to_fact()))
    await _refuse_taken(new)  # nobody makes a first topology in a home that is claimed
    tell(f"claimed {new.where}")
    for _ in range(_TRIES_MAX):
        topology = await _topology(fleet)
        present = await claim_of(fleet.home)  # after the topology: what replaces that cannot be meant for another home
        if present is not None and present.id == claim.id:
            return await plan(fleet, new)  # somebody else has moved it meanwhile
        offered = replace(topology, epoch=topology.epoch + 1)
        if not await _pass(fleet, Step.OFFERED, claim, new, offered):
            continue
        tell(f"offered under epoch {offered.epoch}; waiting for {before.workers} workers")
        await _all_follow(fleet, offered, wait_s)
        moved = replace(topology, epoch=offered.epoch + 1)
        if await _pass(fleet, Step.MOVED, claim, new, moved):
            tell(f"moved under epoch {moved.epoch}")
            await _topology(fleet)  # follows the pointer, and completes
            return await plan(fleet, new)
    raise IllegalStep("the topology changes faster than its home can be moved; `pause` the rebalance", ("pause",))


async def _all_follow(fleet: Fleet, offered: Topology, wait_s: float) -> None:
    """Returns when every worker has taken up the offer; takes it back where that takes too long."""
    until_s = time.monotonic() + wait_s
    why = "no shard has answered"
    watches: Mapping[int, LeaseWatch] = {}
    while time.monotonic() < until_s:
        try:
            watches = watches or await _watches(fleet, offered)
            await asyncio.gather(*(watch.look() for watch in watches.values()))
            behind = sorted(frozenset[str]().union(*(watch.behind(offered.epoch) for watch in watches.values())))
            if not behind:
                return
            why = f"worker {', '.join(behind)} does not follow; name [topology.next] in the topology file it reads"
        except StoreError as error:
            why = str(error)
        await asyncio.sleep(_LOOK_S)
    back = replace(offered, epoch=offered.epoch + 1)
    with suppress(StoreError):
        await TopologyStore(fleet.home).compare_and_set(offered.epoch, back)
    raise IllegalStep(f"{why}. The topology stays where it was", ("home move",))


async def _pass(fleet: Fleet, step: Step, claim: Claim, new: NewHome, topology: Topology) -> bool:
    passing = Passing(step, claim.id, new.where, topology.to_bytes())
    return await fleet.home.replace(SCOPE, NAME, topology.epoch - 1, passing.to_fact(topology.epoch))


async def _refuse_taken(new: NewHome) -> None:
    if await new.facts.revision(SCOPE, NAME):
        raise IllegalStep(
            f"{new.where} holds a topology already, of another installation or from before it moved away: "
            "name a new keyspace as [topology.next]",
            ("home plan",),
        )


async def _watches(fleet: Fleet, topology: Topology) -> Mapping[int, LeaseWatch]:
    return {info.id: LeaseWatch((await part_of(fleet, info.id)).facts) for info in topology.shards}


async def _topology(fleet: Fleet) -> Topology:
    topology = await TopologyStore(fleet.home).load()
    if topology is None:
        raise Corrupt("there is no topology yet: start the server once, which makes the first one")
    return topology
