"""Follows the topology while orders flow: opens and closes shards, and keeps this worker's leases on them.

A shard is opened as soon as the topology names it, before it has slots, so that the first move to it waits for nobody.
One that cannot be opened makes its own slots unavailable and nothing else; it is tried again and again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from shards.contract import Observer, StoreError, Unavailable
from shards.facts import Facts
from shards.leases.keeper import Keeper
from shards.places import Places, Shard
from shards.topology import Topology
from shards.topology_store import TopologyStore

_CHANCE: Final = random.Random()  # noqa: S311  jitter, no secret; of its own, so that nobody's seed is disturbed

POLL_IDLE_S: Final = 1.0
"""Between two looks at the epoch while no move is on: callers learn of a new one within that time."""

POLL_ACTIVE_S: Final = 0.2
"""The same while a move is on at any shard."""

POLL_PAUSED_S: Final = 0.02
"""The same while slots are paused here: movers wait until all know the flip, and callers where no word opens slots."""

_REOPEN_S: Final = 1.0
"""Between two tries to open a shard."""

_log: Final = logging.getLogger("crest.topology")


class OpenShard(NamedTuple):
    """A shard as it was opened."""

    shard: Shard
    facts: Facts
    """Those beside its orders."""
    close: Callable[[], Awaitable[None]]
    """Closes its store and its facts."""


class Opener(Protocol):
    """Opens shards by their ids."""

    async def open(self, shard: int) -> OpenShard:
        """Opens a shard, which need not be reachable yet. Raises ``StoreError`` for one that cannot be opened so."""


class _Member(NamedTuple):
    """A shard that is open here."""

    open: OpenShard
    keeper: Keeper


class Follower:
    """Keeps a worker's places, shards and leases as the topology says. For one event loop."""

    def __init__(
        self,
        topologies: TopologyStore,
        places: Places,
        opener: Opener,
        observer: Observer,
        *,
        worker: str = "",
        chance: Callable[[], float] = _CHANCE.random,
    ) -> None:
        """``places``: of a topology that was loaded, with no shard open.

        ``worker`` names the process, and is never used again; drawn where it is left out. ``chance``: [0, 1).
        """
        self._topologies = topologies
        self._places = places
        self._opener = opener
        self._observer = observer
        self._worker = worker or f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(8)}"
        self._chance = chance
        self._members: dict[int, _Member] = {}
        self._changing: dict[int, asyncio.Task[None]] = {}  # shards being opened or closed
        self._active: set[int] = set()
        self._paused: set[int] = set()
        self._is_closing = False
        self._hurry = asyncio.Event()
        self._loading = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Follower(epoch={self.epoch}, worker={self._worker}, shards={sorted(self._members)})"

    # ------------------------------------------------------------------------------------------- what keepers ask for

    @property
    def epoch(self) -> int:
        """See ``shards.leases.keeper.Placement``."""
        return self._places.topology.epoch

    async def reach(self, epoch: int) -> None:
        """See ``shards.leases.keeper.Placement``."""
        async with self._loading:
            if self.epoch >= epoch:
                return
            topology = await self._topologies.glance()  # callers wait: what was seen to be there is enough
            if topology is None or topology.epoch < epoch:
                raise Unavailable(f"a topology of epoch {epoch} is asked for, and was not found")
            self._take(topology)

    def hurry(self, shard: int, *, is_active: bool, is_paused: bool) -> None:
        """See ``shards.leases.keeper.Placement``."""
        before = self._interval_s()
        (self._active.add if is_active else self._active.discard)(shard)
        (self._paused.add if is_paused else self._paused.discard)(shard)
        if self._interval_s() < before:
            self._hurry.set()

    # ------------------------------------------------------------------------------------------------------- running

    async def start(self, *, lease_wait_s: float) -> None:
        """Opens every shard, and returns when all leases are held, or after ``lease_wait_s`` seconds.

        Raises ``StoreError`` for a shard that cannot be opened; one that is merely away can.
        """
        numbers = [info.id for info in self._places.topology.shards]
        opened = await asyncio.gather(*(self._open(number) for number in numbers), return_exceptions=True)
        for failure in opened:  # looked at when all are done, so that whatever was opened is closed
            if failure is not None:
                raise failure
        self._polling = asyncio.get_running_loop().create_task(self._poll(), name="topology")
        held = [asyncio.ensure_future(member.keeper.wait_held()) for member in self._members.values()]
        _, missing = await asyncio.wait(held, timeout=lease_wait_s)
        for task in missing:
            task.cancel()

    async def close(self) -> None:
        """Lets the lanes finish, gives the leases back, and closes every shard. Idempotent."""
        self._is_closing = True
        tasks = [*self._changing.values(), *([self._polling] if self._polling else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        members = list(self._members.items())
        # with the leases: what they finish is acknowledged
        await asyncio.gather(*(member.open.shard.lanes.close() for _, member in members))
        await asyncio.gather(*(self._close(number, member) for number, member in members))

    async def _poll(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s() * (0.8 + self._chance() / 5)):
                    await self._hurry.wait()
            self._hurry.clear()
            try:
                epoch = await self._topologies.epoch()
                if epoch > self.epoch:
                    await self.reach(epoch)
            except StoreError as error:
                _log.debug("the epoch could not be looked at: %s", error)
                await asyncio.sleep(POLL_ACTIVE_S)

    def _interval_s(self) -> float:
        if self._paused:
            return POLL_PAUSED_S
        return POLL_ACTIVE_S if self._active else POLL_IDLE_S

    # ---------------------------------------------------------------------------------------------- opening and closing

    def _take(self, topology: Topology) -> None:
        self._places.adopt(topology)
        self._open_and_close()
        for member in self._members.values():
            member.keeper.epoch_changed()
        _log.debug("topology", extra={"epoch": topology.epoch})  # a rebalance makes hundreds

    def _open_and_close(self) -> None:
        """Begins to open the shards that the topology names, and to close those that it does not."""
        wanted = {info.id for info in self._places.topology.shards}
        for number in wanted - set(self._members) - set(self._changing):
            self._change(number, self._reopen(number))
        for number in set(self._members) - wanted - set(self._changing):
            self._change(number, self._dismiss(number))

    def _change(self, number: int, change: Awaitable[None]) -> None:
        task = asyncio.ensure_future(change)
        self._changing[number] = task

        def changed(_: asyncio.Task[None]) -> None:
            self._changing.pop(number, None)
            if task.cancelled():
                return
            if (error := task.exception()) is not None:
                _log.error("shard %d: %r", number, error)
            elif not self._is_closing:
                self._open_and_close()  # the topology may have changed its mind meanwhile

        task.add_done_callback(changed)

    async def _open(self, number: int) -> None:
        opened = await self._opener.open(number)
        hold = self._places.hold(number)
        keeper = Keeper(
            number,
            opened.facts,
            hold,
            self._places,
            self,
            self._observer,
            worker=self._worker,
            chance=self._chance,
        )
        self._members[number] = _Member(opened, keeper)
        self._places.opened(number, opened.shard)
        keeper.start()

    async def _reopen(self, number: int) -> None:
        is_first = True
        while any(info.id == number for info in self._places.topology.shards):
            try:
                await self._open(number)
            except StoreError as error:
                if is_first:
                    _log.error("shard %d of the topology cannot be opened: %s", number, error)  # one line is enough
                is_first = False
                await asyncio.sleep(_REOPEN_S)
            else:
                _log.info("shard %d: opened", number)
                return

    async def _dismiss(self, number: int) -> None:
        """Closes a shard that the topology has left out."""
        member = self._members[number]
        await member.open.shard.lanes.close()
        await self._close(number, member)
        self._places.forget(number)
        _log.info("shard %d: closed", number)

    async def _close(self, number: int, member: _Member) -> None:
        await member.keeper.leave()
        await member.open.close()
        self._members.pop(number, None)
        self.hurry(number, is_active=False, is_paused=False)
