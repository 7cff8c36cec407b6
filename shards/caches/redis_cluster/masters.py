"""Which node of a Redis Cluster has which slot, found out again whenever the cluster seems to have changed.

One task asks for the map, connects to the masters and revives those that were lost, so no look-up ever waits for any
of that. It begins with the seeds; from then on every master that is known may be asked.
"""

from __future__ import annotations

import asyncio
import random
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final, cast

from shards.caches.redis_cluster.node import Connection, Node, refused
from shards.caches.redis_cluster.wire import Address, Lost, connect
from shards.keys import SLOTS

REFRESH_S: Final = 30.0
"""How often the map is asked for when nothing seems to have changed."""

RETRY_S: Final = 0.25
"""How soon it is asked for again when something has changed, a master is away, or nobody answered."""

ASKED_MAX: Final = 6
"""Nodes asked in one try: with one of them hung or lost in each of three masters with a replica, the others answer."""

_REDIS_SLOTS: Final = 16_384
_REDIS_SLOT_OF: Final = tuple(crc_hqx(b"%d" % slot, 0) % _REDIS_SLOTS for slot in range(SLOTS))
"""For each slot of ours that of Redis: the hash of what stands in braces in its keys (Redis Cluster specification)."""


def script_name(script: bytes) -> bytes:
    """Returns the name under which Redis keeps a script."""
    return sha1(script, usedforsecurity=False).hexdigest().encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a Redis Cluster is reached."""

    seeds: Sequence[Address]
    """Nodes to ask first for all the others; at least one."""
    username: str | None = None
    password: str | None = None
    connect_timeout_s: float = 0.5
    answer_timeout_s: float = 0.2
    """Within this every command is answered, or its node is taken for lost. Redis needs less than 5 ms for any of ours;
    the rest is for pauses of the node and the network."""
    open_timeout_s: float = 1.0
    """How long a worker that starts waits for the cluster to be found; afterwards it is looked for beside the calls."""


class Masters:
    """The masters of one cluster, by slot. For one event loop. ``open`` before anything else."""

    def __init__(self, access: Access, *, script: bytes, chance: Callable[[], float] = random.random) -> None:
        self._access = access
        self._script = script
        self._chance = chance  # [0, 1)
        self._nodes: dict[Address, Node] = {}
        self._by_slot: Sequence[Node | None] = [None] * SLOTS
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Masters({list(self._nodes.values())!r})"

    async def open(self) -> None:
        """Looks for the cluster, from now until ``close``; returns when it was found, or after ``open_timeout_s``."""
        looked = asyncio.Event()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(looked))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._access.open_timeout_s):
                await looked.wait()

    def of(self, slot: int) -> Node | None:
        """Returns the node that has a slot (0-4095) of ours; None when that is not known."""
        return self._by_slot[slot]

    def suspect(self) -> None:
        """Says that the map may be wrong."""
        self._wake.set()

    async def close(self) -> None:
        """Lets go of all connections; what is under way fails. Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        nodes, self._nodes, self._by_slot = self._nodes, {}, [None] * SLOTS
        await asyncio.gather(*(node.close() for node in nodes.values()))

    async def _keep(self, looked: asyncio.Event) -> None:
        while True:
            self._wake.clear()
            complete = await self._look()
            looked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S if complete else 0):
                    await self._wake.wait()
            await asyncio.sleep(RETRY_S * (0.5 + 0.5 * self._chance()))  # sleep: the pace of trying, with jitter

    async def _look(self) -> bool:
        """Asks for the map and connects to its masters; returns whether all of that succeeded."""
        found = await self._ask_around()
        if found is not None:
            await self._take(found)
        revived = await asyncio.gather(*(node.revive() for node in self._nodes.values()))
        return found is not None and all(revived)

    async def _ask_around(self) -> Sequence[tuple[int, int, Address]] | None:
        """Returns the map as the first one has it that answers; None when nobody does."""
        known = [node for node in self._nodes.values() if node.connected]
        random.shuffle(known)
        for node in known[:ASKED_MAX]:
            if (found := await _map_of(node)) is not None:
                return found
        seeds = list(self._access.seeds)
        random.shuffle(seeds)
        for seed in seeds[: max(0, ASKED_MAX - len(known))]:
            passing = self._node(seed)
            try:
                if await passing.revive() and (found := await _map_of(passing)) is not None:
                    return found
            finally:
                await passing.close()
        return None

    async def _take(self, ranges: Sequence[tuple[int, int, Address]]) -> None:
        """Makes this the map; lets go of nodes that have no slot any more."""
        before = self._nodes
        self._nodes = {address: before.get(address) or self._node(address) for _, _, address in ranges}
        by_redis_slot: list[Node | None] = [None] * _REDIS_SLOTS
        for first, last, address in ranges:
            by_redis_slot[first : last + 1] = [self._nodes[address]] * (last + 1 - first)
        self._by_slot = [by_redis_slot[redis_slot] for redis_slot in _REDIS_SLOT_OF]
        await asyncio.gather(*(node.close() for address, node in before.items() if address not in self._nodes))

    def _node(self, address: Address) -> Node:
        return Node(
            address,
            self._connect,
            script=self._script,
            answer_timeout_s=self._access.answer_timeout_s,
            on_loss=self._wake.set,
        )

    async def _connect(self, address: Address) -> Connection:
        """Opens a connection; raises ``Lost``."""
        access = self._access
        return await connect(
            address, username=access.username, password=access.password, timeout_s=access.connect_timeout_s
        )


async def _map_of(node: Node) -> Sequence[tuple[int, int, Address]] | None:
    """Returns first slot, last slot and master of each range as a node knows them; None when it does not say."""
    try:
        reply = await node.ask(b"CLUSTER", b"SLOTS")
    except Lost:
        return None
    if refused(reply):
        return None
    # A node that does not know its own host, or was told not to say, leaves it out: then it is the one that was asked.
    return [
        (first, last, (host.decode() if host else node.address[0], port))
        for first, last, (host, port, *_), *_ in cast("list[Any]", reply)
    ]
